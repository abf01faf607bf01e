"""Running values of two registers, inverted opposing terms, offset exponents: known sums, and what is refused."""

import shutil
from fractions import Fraction

import numpy as np
import pytest
from golden_in_c import compiled
from pydantic import ValidationError
from strategies import KINDS
from test_engine import operands

from codesign.evidence.bounds.derive import bound
from isa_model import matmul
from isa_model.diagnostics import InputError
from isa_model.engines import cpu, portable
from isa_model.engines.plan import Plan, Unsupported
from isa_model.instruction import Instruction

FP32 = {"format": "fp32", "rounding": "nearest-even"}
BF16 = {"format": "bf16", "rounding": "nearest-even"}


def chain(result, remainder=None, **fields):
    """One product after the other, added to a running value in a register, with or without a second one."""
    stage = {"terms": 1, "accumulator": True, "result": result}
    stages = {"sum": stage | ({"remainder": remainder} if remainder else {})}
    return Instruction.model_validate(
        {"a": "fp32", "b": "fp32", "accumulator": "fp32", "shape": {"m": 1, "n": 1, "k": 4}, "stages": stages} | fields
    )


def two_registers(joins):
    """Sums of two products of E4M3 in BF16 with a remainder, in a window unless the remainder joins the block."""
    window = {} if joins == "block" else {"fraction_bits": 12, "rounding": "toward-zero"}
    stage = {"terms": 2, "accumulator": True, "result": BF16, "remainder": {**BF16, "joins": joins}}
    return chain(FP32, a="e4m3", b="e4m3", stages={"sum": stage | window})


def summed(spec, x, c=0.0):
    """D of a row of numbers times ones."""
    ones = np.ones((len(x), 1), np.float32)
    return matmul(spec, np.array([x], np.float32), ones, np.array([[c]], np.float32))[0, 0]


def numbers(seed, count=256):
    """FP32 numbers of one sign whose plain FP32 sum is far off."""
    return np.random.default_rng(seed).uniform(0, 1, count).astype(np.float32)


def test_kahans_sum_is_kahans():
    """With `joins: block` each step is y = x - e, t = s + y, e = (t - s) - y in FP32."""
    for seed in range(4):
        x = numbers(seed)
        s, e = np.float32(0), np.float32(0)
        for value in x:
            y = np.float32(value - e)
            t = np.float32(s + y)
            s, e = t, np.float32(np.float32(t - s) - y)
        assert summed(chain(FP32, {**FP32, "joins": "block"}), x) == np.float32(s)


def test_a_cascaded_sum_adds_up_its_errors():
    """With `joins: end` the errors of all additions are summed in FP32, and added once, at the end."""
    for seed in range(4):
        x = numbers(seed)
        s, e = np.float32(0), np.float32(0)
        for value in x:
            t = np.float32(s + value)
            e = np.float32(e + np.float32(float(s) + float(value) - float(t)))
            s = t
        assert summed(chain(FP32, {**FP32, "joins": "end"}), x) == np.float32(s + e)


@pytest.mark.parametrize("joins", ["sum", "block", "end"])
def test_a_remainder_makes_a_sum_as_good_as_its_two_registers(joins):
    """Two BF16 registers keep 16 bits where one keeps 8; two of FP32 give the exact sum, rounded."""
    for seed in range(4):
        x = numbers(seed)
        exact = float(sum(map(Fraction, x.tolist())))
        assert abs(summed(chain(FP32, {**FP32, "joins": joins}), x) - exact) <= 2.0**-17
        one, two = (abs(summed(chain(BF16, rest), x) - exact) for rest in (None, {**BF16, "joins": joins}))
        assert two < one / 8


def test_both_registers_go_from_one_instruction_to_the_next():
    """K = 64 in instructions of 4 loses nothing that one of 64 keeps."""
    x = numbers(9, 64)
    for joins in ("sum", "block", "end"):
        short = chain(BF16, {**BF16, "joins": joins})
        whole = short.model_copy(update={"shape": short.shape.model_copy(update={"k": 64})})
        assert summed(short, x) == summed(whole, x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"remainder": BF16, "accumulator": False}, "is what rounding the running value to `result` loses"),
        ({"remainder": {**BF16, "format": "int32"}}, "int32 cannot hold what a floating-point register loses"),
        ({"remainder": {**BF16, "format": "ue4m3"}}, "a remainder needs a sign, a zero and a mantissa"),
        (
            {"remainder": BF16, "result": {**BF16, "rounding": "stochastic", "random_bits": 4}},
            "no random bits are drawn",
        ),
        (
            {"remainder": {**BF16, "joins": "block"}, "fraction_bits": 9, "rounding": "down"},
            "cannot be rounded with the remainder first",
        ),
        ({"opposing": "complement"}, "inverted bits need a last place"),
        ({"opposing": "complement", "fraction_bits": 9, "rounding": "down", "zero": "ieee"}, "no negative zero"),
    ],
)
def test_contradictions_are_refused(change, message):
    """A remainder needs a register that loses something; inverted bits need a last place and no signed zero."""
    stage = {"terms": 1, "accumulator": True, "result": FP32} | change
    with pytest.raises(ValidationError, match=message):
        chain(FP32, stages={"sum": stage})


def test_a_remainder_belongs_to_the_last_stage():
    """Registers of a stage below start anew for each result."""
    inner = {"terms": 1, "chain": 4, "accumulator": True, "result": FP32, "remainder": BF16}
    with pytest.raises(ValidationError, match="only the running value that starts from C has a remainder"):
        chain(FP32, stages={"inner": inner, "last": {"terms": 1, "accumulator": True, "result": FP32}})


def test_what_cannot_compute_them_says_so():
    """Bounds refuse inverted terms and exponents with an offset above 0."""
    inverted = chain(FP32, stages={"sum": {**_window(), "opposing": "complement"}})
    offset = chain(FP32, stages={"sum": {**_window(), "accumulator": {"offset": 1}}})
    for other in (inverted, offset):
        with pytest.raises(InputError):
            bound(other, 64)


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")
def test_the_model_in_c_hands_both_registers_on():
    """Instructions of 4, each going on from the trace of the one before, give Kahan's sum of 256 numbers and golden's codes."""
    specs = [two_registers(joins) for joins in ("sum", "block", "end")]
    run = compiled(chain(FP32, {**FP32, "joins": "block"}), *specs)
    x = np.stack([numbers(seed) for seed in range(4)])
    s, e = np.zeros(4, np.float32), np.zeros(4, np.float32)
    for value in x.T:
        y = value + e
        t = s + y
        s, e = t, y - (t - s)
    got = run(0, x.view(np.uint32), np.ones_like(x).view(np.uint32), np.zeros(4, np.uint64))
    assert np.array_equal(got, (s + e).view(np.uint32))
    for which, spec in enumerate(specs, 1):
        for kind in KINDS:
            a, b, c, _ = operands(spec, 5, kind, m=3, n=4, steps=3)
            wanted = matmul(spec, a, b, c, engine="golden").view(np.uint32)
            rows, columns = np.indices(c.shape).reshape(2, -1)
            assert np.array_equal(run(which, a[rows], b.T[columns], c.ravel()), wanted.ravel()), (spec, kind)


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")
@pytest.mark.parametrize("joins", ["sum", "block", "end"])
def test_compiled_code_keeps_two_registers(monkeypatch, tmp_path, joins):
    """The CPU engine, over several tiles and chunks of K, leaves the portable engine's codes, and those of golden.py."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = two_registers(joins)
    for kind in KINDS:
        a, b, c, _ = operands(spec, 3, kind, m=2, n=3, steps=3)
        wanted = matmul(spec, a, b, c, engine="golden").view(np.uint32)
        assert np.array_equal(cpu.matmul(spec, a, b, c), wanted), kind
    a, b, c, _ = operands(spec, 4, "like", m=131, n=67, steps=80)
    assert np.array_equal(cpu.matmul(spec, a, b, c), portable.matmul(spec, a, b, c))


@pytest.mark.parametrize("offset", [-10000, -2, 3, 700, 800, 10000])
def test_an_offset_beyond_the_exponents_of_doubles_is_left_to_the_golden_model(offset):
    """No engine returns other bits than golden, however far an offset moves the running value's exponent."""
    spec = chain(FP32, stages={"sum": {**_window(), "accumulator": {"offset": offset}}})
    operands = np.array([[1.0, 0.75, -0.25, 0.5]], "f4"), np.ones((4, 1), "f4"), np.array([[1.25]], "f4")
    assert matmul(spec, *operands) == matmul(spec, *operands, engine="golden")
    if abs(offset) > 799:
        with pytest.raises(Unsupported):
            Plan(spec)


def _window():
    return {"terms": 1, "accumulator": True, "fraction_bits": 9, "rounding": "toward-zero", "result": FP32}
