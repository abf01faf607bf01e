"""Error bounds derived from stages: never violated, and those of the literature as special cases."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import product
from math import frexp, inf, prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import KINDS, codes, instructions, integer_instructions

from codesign.__main__ import run
from codesign.commands.bound import remarks
from codesign.evidence.bounds.curves import growth
from codesign.evidence.bounds.derive import bound
from codesign.evidence.bounds.formula import formulas
from codesign.evidence.bounds.rounding_errors import grown
from codesign.evidence.bounds.source import SOURCE
from codesign.evidence.bounds.witness import Bench, Witness, search
from codesign.evidence.numerics.curves import with_bits
from codesign.evidence.sampling import Sampling
from codesign.evidence.source import Subject
from codesign.proposal.load import parse_proposal
from codesign.proposal.target import instruction_of
from codesign.verdicts.claims import judge
from codesign.verdicts.questions import asker
from codesign.verdicts.sensitivity import refine
from isa_model import golden, load, matmul
from isa_model.array_codec import code_dtype, decode_array, encode_array
from isa_model.codec import decode
from isa_model.conformance import find
from isa_model.diagnostics import parse_yaml
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.library import changed, raw

ROOT = Path(__file__).parent.parent


def value(fmt, code, flush=False):
    """The exact number that a code means as it is read; None for an infinity or NaN."""
    number = decode(fmt, code)
    if number.special:
        return None
    tiny = fmt.kind == "float" and number.significand < 1 << fmt.mantissa_bits
    return Fraction(0) if flush and tiny else number.exact()


def scale_of(spec, k, levels_a, levels_b):
    """The exact scale of product k; None if bounds do not hold for it: not finite, or not normal."""
    factor, two = Fraction(1), Fraction(2)
    for side, axis, own in ((spec.scale.a, 1, levels_a), (spec.scale.b, 0, levels_b)):
        if side:
            for level, line in zip(side.levels, own if side.coarser else [own], strict=True):
                number = value(level.format, line[k // level.along(axis)])
                if number is None or (
                    level.format.kind == "float" and 0 < abs(number) < two**level.format.min_exponent
                ):
                    return None
                factor *= number
    register = spec.scale.product
    if register and factor:
        low, high = (two**e for e in (register.format.min_exponent, register.format.max_exponent))
        if not low <= abs(factor) <= high:
            return None
    return factor * two**spec.scale.power


def random_bits(block, register):
    """Random bits that differ by block and register."""
    return (block * 2654435761 + register * 40503 + 12345) * 2246822519 % (1 << 32)


def check(spec, a, b, c, scale_a=(), scale_b=(), bounds=None):
    """Check one element of D against its bound; return whether the bound covers it."""
    limits = bounds or bound(spec, len(a), c=True)
    start = value(spec.c_format, c, spec.flush_c)
    x, y = ([value(f, i, spec.flush_operands) for i in codes] for f, codes in ((spec.a, a), (spec.b, b)))
    scales = [scale_of(spec, k, scale_a, scale_b) if spec.scale else Fraction(1) for k in range(len(a))]
    if None in (start, *x, *y, *scales):
        return False
    bare = [i * j for i, j in zip(x, y, strict=True)]
    terms = [p * s for p, s in zip(bare, scales, strict=True)]
    mass = abs(start) + sum(map(abs, terms))
    largest = max(mass, abs(start) + sum(map(abs, bare)))
    if limits.overflow < inf and largest > Fraction(limits.overflow):
        return False
    d = value(spec.accumulator, golden.dot(spec, a, b, c, scale_a, scale_b, draw=random_bits))
    assert d is not None, "an overflow where the bound says that there is none"
    if limits.worst == inf or limits.absolute == inf:
        return False
    room = Fraction(limits.worst) * mass + Fraction(limits.absolute) * max(1, *map(abs, scales))
    assert abs(d - start - sum(terms)) <= room, (float(d), float(start + sum(terms)), float(mass), limits)
    return True


def lines(side, axis, k, rng, kind):
    """Codes of one line's scales along K."""
    if side is None:
        return ()
    own = [codes(level.format, rng, (-(-k // level.along(axis)),), kind).tolist() for level in side.levels]
    return own if side.coarser else own[0]


def random_case(spec, rng, kind, steps, with_c):
    """Codes of a row, a column, C and scales."""
    k = spec.shape.k * steps
    a, b = (codes(fmt, rng, (k,), kind).tolist() for fmt in (spec.a, spec.b))
    c = int(codes(spec.c_format, rng, (1,), kind)[0]) if with_c else 0
    sides = (spec.scale.a, spec.scale.b) if spec.scale else (None, None)
    like = kind if rng.random() < 0.5 else "like"
    return a, b, c, lines(sides[0], 1, k, rng, like), lines(sides[1], 0, k, rng, like)


@settings(max_examples=60)
@given(st.one_of(instructions(), instructions(), integer_instructions()), st.integers(0, 1 << 32), st.booleans())
def test_no_instruction_of_the_language_breaks_its_bound(spec, seed, with_c):
    """Bounds hold for random instructions of every kind on operands of every kind, with C and without."""
    rng = np.random.default_rng(seed)
    stages = spec.stages.values()
    assume(not any(s.opposing == "complement" or s.offset > 0 for s in stages))
    for kind in KINDS:
        case = random_case(spec, rng, kind, int(rng.integers(1, 4)), with_c)
        limits = bound(spec, len(case[0]), c=with_c)
        check(spec, *case, bounds=limits)
        assert all(line.startswith("R(") for line in formulas(limits))


# -- whole matrices --------------------------------------------------------------------------------------------------


def shares(limits, d, exact, mass):
    """Errors over their bounds where the bounds hold; float64 sums are off by a few last places."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        room = limits.worst * mass + limits.absolute + 2.0**-50 * mass
        found = np.where(d == exact, 0.0, np.abs(d - exact) / room)
    inside = np.isfinite(exact) & np.isfinite(mass) & (mass <= limits.overflow)
    assert not np.isnan(found[inside]).any(), "an overflow where the bound says that there is none"
    return found[inside]


def chain(terms, **stage):
    """An instruction of one stage on a tiny format that sums `terms` products a step."""
    return Instruction.model_validate(
        {
            "name": "tiny",
            "shape": {"m": 1, "n": 1, "k": terms},
            "a": "e2m1",
            "b": "e2m1",
            "accumulator": "fp32",
            "stages": {"sum": {"terms": terms, "accumulator": True, **stage}},
        }
    )


TINY = [
    chain(terms, **cut, result={"format": register, "rounding": rounding})
    for terms, cut, (register, rounding) in product(
        (1, 3),
        [
            {},
            *(
                {"fraction_bits": f, "rounding": r}
                for f in (0, 2)
                for r in ("toward-zero", "nearest-even", "to-odd", "up")
            ),
        ],
        [("e5m2", "toward-zero"), ("e4m1ieee", "nearest-even"), ("fp32", "down")],
    )
]


def largest_shares(specs):
    """Return the largest share of its bound that each spec reaches, over all sums of three FP4 products by 27 columns."""
    rows = np.array(list(product(range(8), range(16), range(16))), np.uint8)
    columns = np.array(list(product((1, 7, 12), repeat=3)), np.uint8)
    found = []
    for spec in specs:
        a, b = decode_array(spec.a, rows), decode_array(spec.b, columns)
        k = -(-3 // spec.shape.k) * spec.shape.k
        x, y = (np.pad(own, ((0, 0), (0, k - 3))) for own in (rows, columns))
        d = matmul(spec, x, y.T.copy(), engine="portable").astype(np.float64)
        found.append(shares(bound(spec, k), d, a @ b.T, np.abs(a) @ np.abs(b).T).max(initial=0))
        assert found[-1] <= 1, spec
    return found


def test_bounds_hold_for_all_operands_of_tiny_formats():
    """No error is over its bound, and many come near it."""
    near = largest_shares(TINY)
    assert max(near) > 0.99
    assert np.mean(near) > 0.3


# -- the literature --------------------------------------------------------------------------------------------------


FP32_NEAREST = {"format": "fp32", "rounding": "nearest-even"}


def gamma(n, u):
    """The constant of classical error analysis (Higham, Accuracy and Stability of Numerical Algorithms, 3.1)."""
    return n * u / (1 - n * u)


def sums(stages, a="fp16", accumulator="fp32", k=4):
    return Instruction.model_validate(
        {"name": "x", "shape": {"m": 1, "n": 1, "k": k}, "a": a, "b": a, "accumulator": accumulator, "stages": stages}
    )


FP32 = {"format": "fp32", "rounding": "nearest-even"}
FP16 = {"format": "fp16", "rounding": "nearest-even"}


@pytest.mark.parametrize("k", [1, 100, 4096, 100_000])
def test_a_chain_of_fused_multiply_adds_has_the_classical_bound(k):
    """n roundings: n u (Jeannerod and Rump 2013); lambda sqrt(n) u with the probability of Higham and Mary (2019)."""
    limits = bound(sums({"fma": {"terms": 1, "accumulator": True, "result": FP32}}, a="fp32", k=1), k)
    u = 2.0**-24
    assert limits.worst == pytest.approx(k * u, rel=1e-9)
    assert limits.worst <= gamma(k, u) * (1 + 1e-9)
    assert limits.mean == 0
    assert limits.deviation == pytest.approx(k**0.5 * u, rel=0.01)


@pytest.mark.parametrize(("low", "u_low"), [(FP16, 2.0**-11), (FP32, 2.0**-24)])
@pytest.mark.parametrize("k", [64, 1024, 4096])
def test_block_fused_multiply_adds_have_the_published_bound(low, u_low, k):
    """Blocks of 4 summed in FP32, and C added in the lower precision: (n / 4) u_low + n u_high to first order.

    Source: Blanchard, Higham, Lopez, Mary, Pranesh, SIAM J. Sci. Comput. 42(3), 2020, section 3, without the conversion of A
    and B, whose errors are not those of sums.
    """
    inner = {"terms": 1, "chain": 4, "accumulator": True, "result": FP32}
    spec = sums({"inner": inner, "add": {"terms": 1, "accumulator": True, "result": low}}, accumulator=low["format"])
    first_order = k / 4 * u_low + 4 * 2.0**-24
    limits = bound(spec, k)
    assert first_order * 0.75 <= limits.worst <= gamma(k // 4, u_low) * (1 + gamma(4, 2.0**-24)) + gamma(4, 2.0**-24)


def test_an_exact_block_rounds_once():
    """Products and C added exactly and rounded once: n / 4 roundings (CDNA1)."""
    spec = load("cdna1.mfma.f32_32x32x8f16")
    assert bound(spec, 4096).worst == pytest.approx(1024 * 2.0**-24, rel=1e-4)


def test_34_bits_keep_all_of_32_products_in_e4m3():
    """From 34 fraction bits on no product is cut (DeepSeek-V3, first version, asks for at least 34 bits)."""
    spec = load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3")

    def cut(bits):
        stage = spec.stages["fuse"].model_copy(update={"fraction_bits": bits, "zero_exponent": None})
        (step,) = bound(spec.model_copy(update={"stages": {"fuse": stage}}), 32).steps
        return step.block.worst

    assert cut(33) > 0
    assert cut(34) == 0


def test_scales_that_a_group_shares_do_not_make_it_lose():
    """HiF4's 64 products under the same base scales are exact; under two base scales some are cut."""
    spec = instruction_of("hif4")
    assert bound(spec, 4096).steps[0].block.worst == 0
    data = spec.model_dump(mode="json")
    data["scale"]["a"]["coarser"][1]["group"] = [1, 32]
    assert bound(Instruction.model_validate(data), 4096).steps[0].block.worst > 0


def test_a_running_value_that_aligns_below_its_exponent_cuts_less():
    """Beside RDNA4's running value, which aligns two binades lower, terms lose a quarter."""
    spec = load("rdna4.wmma.f32_16x16x16_bf16.w64")
    plain = changed(raw(spec.name), {"stages": {"dot": {"accumulator": {"offset": 0}}}})
    (_, lower), (_, equal) = (bound(x, 4096).steps for x in (spec, Instruction.model_validate(plain)))
    assert lower.running.worst == equal.running.worst / 4 == 2 * 2.0**-26


def test_a_register_rounded_twice_grows_by_the_first_rounding_alone():
    """RDNA4 rounds to FP32 to nearest, and then truncates to BF16: sums cannot grow by the steps of BF16."""
    limits = bound(load("rdna4.wmma.bf16_16x16x16_bf16.w64"), 4096)
    assert 0.99 < limits.worst < 1


def test_a_register_without_small_numbers_has_a_large_absolute_error():
    """A register whose least normal number is 2^1024 can be off by about that, and raises no error of Python."""
    far = {"name": "far", "exponent_bits": 1, "mantissa_bits": 1, "bias": -1023, "infinity": True, "nan": "ieee"}
    inner = {"terms": 4, "result": {"format": far, "rounding": "nearest-even"}}
    limits = bound(sums({"s": inner, "t": {"terms": 1, "accumulator": True, "result": FP32}}), 4)
    assert limits.absolute > 2.0**1000


def test_integer_sums_are_exact():
    """No rounding: the bound is zero up to the largest INT32."""
    limits = bound(load("hopper.wgmma.m64n256k32.s32.s8.s8"), 4096)
    assert (limits.worst, limits.absolute, limits.overflow) == (0, 0, 2**31 - 1)


# -- the chip --------------------------------------------------------------------------------------------------------


def recorded(path):
    """Yield name, steps and arrays A, B, C, D of each case of a file of recorded vectors."""
    with np.load(path) as file:
        for key in sorted({name.rsplit("/", 1)[0] for name in file.files}):
            yield key, [file[f"{key}/{x}"] for x in "ABCD"]


@pytest.mark.parametrize("file", ["h200_mma.npz", "h200_mma_sync.npz"])
def test_no_output_of_the_chip_breaks_its_bound(file):
    """Outputs recorded on an H200, not those of the model, for all its instructions and distributions."""
    checked = 0
    for key, (a, b, c, d) in recorded(ROOT / "tests/fixtures" / file):
        spec = load(find("hopper", key.split("/")[0]))
        if spec.sparsity or spec.is_integer or d.dtype.kind != "f":
            continue
        x, y = (
            decode_array(fmt, np.ascontiguousarray(z).view(code_dtype(fmt))) for fmt, z in ((spec.a, a), (spec.b, b))
        )
        with np.errstate(all="ignore"):
            start = c.astype(np.float64)
            exact, mass = start + x @ y.transpose(0, 2, 1), np.abs(start) + np.abs(x) @ np.abs(y).transpose(0, 2, 1)
        found = shares(bound(spec, x.shape[-1], c=True), d.astype(np.float64), exact, mass)
        assert found.size == 0 or found.max() <= 1, key
        checked += found.size
    assert checked > 10_000


@pytest.mark.parametrize("name", ["hopper.wgmma.m64n8k32.f32.e4m3.e4m3", "cdna2.mfma.f32_32x32x8f16"])
def test_samples_are_within_bias_and_probability(name):
    """Of positive uniform operands the mean error is within the bias, and of one sign if all roundings are towards zero."""
    spec, rng = load(name), np.random.default_rng(0)
    a, b = (encode_array(fmt, rng.random(shape)) for fmt, shape in ((spec.a, (64, 1024)), (spec.b, (1024, 64))))
    d = matmul(spec, a, b).astype(np.float64)
    exact = decode_array(spec.a, a) @ decode_array(spec.b, b)
    limits, errors = bound(spec, 1024), (d - exact) / exact
    assert abs(errors.mean()) <= limits.mean + 3 * errors.std() / 64
    assert not limits.inward or errors.max() <= 0
    assert np.abs(errors).max() <= limits.probable() < limits.worst


# -- inputs that come near -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["hopper.wgmma.m64n8k32.f32.e4m3.e4m3", "cdna2.mfma.f32_32x32x4bf16", "blackwell-nvf4"]
)
def test_an_input_attains_half_of_the_bound(name, capsys):
    """The input that `codesign bound --json` prints makes the error that it says, by the definition itself."""
    assert run(["bound", name, "--k", "256", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    spec, given = instruction_of(name), found["input"]
    worst = found["bounds"][0]["any"]

    def codes_of(runs):
        return [code for count, code in runs or () for _ in range(count)]

    a, b, scale_a, scale_b = (codes_of(given[x]) for x in ("a", "b", "scale_a", "scale_b"))
    scales = [scale_of(spec, k, scale_a, scale_b) if spec.scale else 1 for k in range(len(a))]
    terms = [value(spec.a, x) * value(spec.b, y) * s for x, y, s in zip(a, b, scales, strict=True)]
    d = value(spec.accumulator, golden.dot(spec, a, b, 0, scale_a, scale_b))
    relative = float(abs(d - sum(terms)) / sum(map(abs, terms)))
    assert relative == pytest.approx(given["relative_error"], rel=1e-12)
    assert 0.5 * worst <= relative <= worst


def test_inputs_of_the_record_attain_half_of_every_bound():
    """pages/bounds.json has an input for each arithmetic that rounds, and bounds are those that it was searched for."""
    rows = json.loads((ROOT / "pages/bounds.json").read_text())["rows"]
    rounding = [r for r in rows if r["worst"]]
    assert min(r["attained"] for r in rounding) >= 0.5  # four digits; Arm's FDOT into FP16 can have no more
    assert len(rounding) > 100
    for r in rounding[::10]:
        assert bound(instruction_of(r["instruction"]), 4096).worst == pytest.approx(r["worst"], rel=1e-9)
    for r in [*rounding[5::60], *(r for r in rounding if r["instruction"] == "stochastic-accumulator")]:
        given = Witness(r["level"], r["heads"], r["boost"], tuple(map(tuple, r["pairs"])))
        assert Bench(instruction_of(r["instruction"]), 4096).run(given).relative == r["found"]


# -- in proposals ----------------------------------------------------------------------------------------------------

PROPOSAL = """proposal: toy
title: Toy
source: the tests
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change: {stages: {fuse: {fraction_bits: 20, result: {format: fp32}}}}
workloads: [deepseek-v3.fprop.kv-b]
tensors: [normal]
claims:
  - {metric: bounds.worst_relative, at_most: 0.001}
  - {metric: bounds.worst_relative, relative_to: today, at_most: 0.001}
"""


def test_a_claim_on_a_bound_is_judged_without_samples():
    """Its figure has no interval, is compared with other variants, and says how many fraction bits would keep the claim."""
    proposal = parse_proposal(parse_yaml(PROPOSAL, "toy.yaml"))
    with ThreadPoolExecutor(1) as executor:
        figures = SOURCE.gather(Subject(proposal)).figures
        ask = asker(Sampling(), executor, executor)
        first, second = refine(proposal, judge(proposal, figures, ask), figures, ask)
    assert (first.judgement, second.judgement) == ("supported", "refuted")
    (bits,) = first.break_even
    (k,) = {g.k for g, _ in proposal.trials}

    def worst(n):
        return bound(with_bits(proposal.proposed(), "fuse", n), k).worst

    assert worst(bits.limit) <= 0.001 < worst(bits.limit - 1)
    assert {bar.assumption for bar in first.bars} == {"length of the sums"}


def test_exact_sums_are_said_to_be_exact(capsys):
    """For whole numbers there is neither a formula nor an input."""
    assert run(["bound", "hopper.wgmma.m64n256k32.s32.s8.s8"]) == 0
    assert "Sums are exact as long as nothing overflows." in capsys.readouterr().out


def test_sums_too_long_for_a_bound_are_said_to_have_none():
    """Where roundings can add up beyond doubles, there is neither a bound nor an input."""
    stages = {"s": {"terms": 1, "accumulator": True, "result": {"format": "e8m1", "rounding": "nearest-even"}}}
    long = sums(stages, a="e8m1", accumulator="e8m1", k=1)
    limits, found = search(long, 4096)
    assert (limits.worst, found) == (inf, None)
    assert remarks(limits, found, long)[0].startswith("R is beyond float64")


def test_a_bound_needs_a_number_of_products(capsys):
    """K = 0 is refused by the command and by the function."""
    assert run(["bound", "hopper.wgmma.m64n256k32.f32.e4m3.e4m3", "--k", "0"]) == 2
    with pytest.raises(ValueError, match="k = 0: expected at least 1"):
        bound(load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3"), 0)


def test_promotion_that_no_shape_can_hold_is_refused(capsys):
    """Promotion over more products than a shape can have is a user's error, said in a sentence."""
    name = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
    assert run(["bound", name, "--promote", "65536"]) == 0
    assert run(["bound", name, "--promote", "131072"]) == 2
    assert "at most 65536" in capsys.readouterr().err


def test_the_rounding_of_scales_is_in_the_formula(capsys):
    """Sums under scales whose product is rounded have that rounding as a factor of their own, also after a rounded stage."""
    assert run(["bound", "int8-group-scaled", "--k", "256"]) == 0
    assert "R(add) = (1 + 2^-24) (1 + 2^-24 n) - 1, n = K/128" in capsys.readouterr().out
    said = list(formulas(bound(instruction_of("group-scaled-mma"), 4096)))
    assert said == ["R(fuse) = 127 2^-13", "R(add) = (1 + R(fuse)) (1 + 2^-24) (1 + 2^-24 n) - 1, n = K/128"]


def worth(formula, k):
    """The number that the last line of a formula gives."""
    found = {}
    for line in formula:
        name, text = re.fullmatch(r"R\((.*?)\) = (.*)", line).groups()
        text, _, n = text.partition(", n = ")
        text = re.sub(r"R\((\w+)\)", lambda m: repr(found[m[1]]), text)
        text = re.sub(r"2\^(-?\d+)", r"2.0**\1", text).replace("^", "**")
        text = re.sub(r"(?<=[\dn)]) (?=[\dn(L])", " * ", text)
        found[name] = eval(text, {"n": eval(n or "1", {"K": k}), "L": lambda x: 1 + grown(x)})
    return found[name]


def test_bounds_of_exponents_a_thousand_places_apart_are_infinite_or_hold():
    """What float64 cannot hold of a bound is infinite, and never a traceback."""
    far = {"name": "far", "exponent_bits": 3, "mantissa_bits": 1, "bias": 1073, "infinity": True, "nan": "ieee"}
    inner = {"terms": 1, "exponent": 0}
    stages = {"s": inner, "t": {"terms": 4, "accumulator": True, "result": FP32_NEAREST}}
    limits = bound(sums(stages).model_copy(update={"b": Format.model_validate(far)}), 4)
    assert limits.worst == inf or limits.worst < 1
    top = {"name": "top", "exponent_bits": 1, "mantissa_bits": 4, "bias": -1021, "infinity": True, "nan": "ieee"}
    flushed = {"format": top, "rounding": "nearest-even", "subnormals": "flush"}
    limits = bound(sums({"s": {"terms": 4, "accumulator": True, "result": flushed}}, accumulator=top), 64)
    assert limits.absolute > 2.0**1000
    assert limits.overflow == 0


def test_formulas_give_the_bounds():
    """The formula shown for an arithmetic is the bound: every formula of the table, at two lengths."""
    for row in json.loads((ROOT / "pages/bounds.json").read_text())["rows"][::3]:
        spec = instruction_of(row["instruction"])
        for k in (4096, 256):
            limits = bound(spec, k)
            if limits.worst:
                assert worth(formulas(limits), k) == pytest.approx(limits.worst, rel=1e-3), row["instruction"]


@given(st.floats(0, 8), st.lists(st.floats(0.001, 1), min_size=1, max_size=20))
def test_growth_is_the_most_that_roundings_add(start, roundings):
    """Roundings that each add x times two to the exponent let a magnitude grow by L of their sum at most, and that is less
    than (1 + x)**n.
    """
    first = value = 2.0**start
    for x in roundings:
        value += x * 2.0 ** (frexp(value)[1] - 1)
    assert value / first <= (1 + grown(sum(roundings))) * (1 + 1e-9)
    assert 1 + grown(sum(roundings)) <= prod(1 + x for x in roundings) * (1 + 1e-9)


@pytest.mark.parametrize("formats", [("e2m1", "e2m1"), ("e1m6", "e1m6"), ("ue4m3", "ue4m3"), ("e1m2", "e4m3")])
def test_narrow_and_unsigned_operands_have_a_plot_of_their_bounds(formats):
    """Their input may need more products than the shortest K has; normal operands that do not fit give no sample."""
    changed = dict(zip("ab", formats, strict=True))
    plot = growth(
        Instruction.model_validate(load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3").model_dump(mode="json") | changed), 0
    )
    assert {"bound", "worst input found"} <= {line.label for line in plot.series}
    sampled = "99 % of sums of normal operands" in {line.label for line in plot.series}
    assert sampled == (formats == ("e2m1", "e2m1"))
