"""The spec language is bounded: a spec is refused in a sentence, or computed in little time and memory."""

import time
import tracemalloc
from copy import deepcopy

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_engine import operands

from isa_model import Format, InputError, Instruction, load, matmul, named
from isa_model.array_codec import code_dtype
from isa_model.diagnostics import parse_yaml
from isa_model.engines import cpu, portable
from isa_model.engines.plan import Plan
from isa_model.library import raw, validated
from isa_model.limits import MOST_STAGES

NEAREST = {"format": "fp32", "rounding": "nearest-even"}
EVERYTHING = {
    "a": "e4m3",
    "b": {"name": "own", "exponent_bits": 4, "mantissa_bits": 3, "bias": 7, "low_padding": 1, "overflow": "saturate"},
    "accumulator": "fp32",
    "shape": {"m": 4, "n": 4, "k": 32},
    "nan": 0x7FFFFFFF,
    "infinite_from": 128,
    "scale": {"onto": "near", "a": {"group": [1, 32], "format": "ue8m0"}, "b": {"group": [32, 2], "format": "fp32"}},
    "stages": {
        "near": {
            "terms": 4,
            "interleave": {"run": 2, "parts": 2},
            "fraction_bits": 9,
            "rounding": "to-odd",
            "zero_exponent": -40,
            "exponent": 0,
        },
        "chain": {
            "terms": 2,
            "accumulator": {"fraction_bits": 20, "drop_beyond": 40},
            "chain": 2,
            "fraction_bits": 24,
            "rounding": "down",
            "result": {"format": {"name": "wide", "exponent_bits": 9, "mantissa_bits": 31, "bias": 127,
                                  "infinity": True, "nan": "ieee"}, "rounding": "down"},
        },
        "top": {"terms": 2, "accumulator": True, "result": NEAREST},
    },
}  # fmt: skip
WHOLE = {
    "a": {"name": "small", "kind": "integer", "mantissa_bits": 6, "high_padding": 2, "overflow": "wrap"},
    "b": "int8",
    "accumulator": {"name": "sum", "kind": "integer", "mantissa_bits": 48, "overflow": "saturate"},
    "shape": {"m": 4, "n": 4, "k": 8},
    "stages": {"top": {"terms": 8, "accumulator": True, "result": {"format": "int40", "rounding": "down"}}},
}
TOP = WHOLE["stages"]["top"]
SPECS = [EVERYTHING, WHOLE, raw("hopper.mma.m16n8k32.f32.e5m2.e4m3.f32")]


def leaves(node, path=()):
    """Yield the paths of all whole numbers in plain data."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, (*path, key))
    elif isinstance(node, int) and not isinstance(node, bool):
        yield path


FIELDS = [(spec, path) for spec in SPECS for path in leaves(spec)]
NUMBERS = st.one_of(
    st.integers(-4, 80),
    st.integers(),
    st.builds(
        lambda e, off, sign: sign * ((1 << e) + off), st.integers(0, 70), st.integers(-1, 1), st.sampled_from([1, -1])
    ),
    st.sampled_from(
        [10**9, 10**12, 10**30, -(10**30), 10**1000, 1e9, 1e30, 65536, 1 << 20, 10_000, -10_000, 1075, -1023]
    ),
)


def changed(spec, path, value):
    """Return the data with another value at a path."""
    result = node = deepcopy(spec)
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return result


def read(spec):
    """Return the instruction described by this data as YAML text."""
    return validated(parse_yaml(yaml.dump(spec, sort_keys=False), "spec.yaml"))


def compute(spec, seconds=60, megabytes=400):
    """Check that golden and `auto` give the same D within limits of time and memory."""
    a, b, c, scales = operands(spec, 0, "bits", m=2, n=1, steps=1)
    start = time.process_time()
    expected = matmul(
        spec, a[:1], b, c[:1], engine="golden", **{n: s[:1] if n == "scale_a" else s for n, s in scales.items()}
    )
    tracemalloc.start()
    got = matmul(spec, a, b, c, **scales)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - start < seconds
    assert peak < megabytes << 20
    assert np.array_equal(got.view(code_dtype(spec.accumulator))[:1], expected.view(code_dtype(spec.accumulator)))


@settings(max_examples=settings().max_examples // 3)
@given(st.sampled_from(FIELDS), NUMBERS)
def test_any_whole_number_anywhere_is_computed_or_refused(field, value):
    """Every whole number of a spec may be anything: it is refused at its place, or the spec is computed in seconds."""
    spec, path = field
    try:
        compute(read(changed(spec, path, value)))
    except InputError as error:
        one_place = len(error.problems) <= 2 and all(len(p.message) < 200 and p.line for p in error.problems)
        if not one_place:
            raise


@pytest.mark.parametrize(("spec", "path"), FIELDS, ids=lambda x: ".".join(map(str, x)) if isinstance(x, tuple) else "")
def test_every_whole_number_has_a_range_and_says_it(spec, path):
    """10**30 is refused at its field, by one error that names the range."""
    with pytest.raises(InputError) as error:
        read(changed(spec, path, 10**30))
    (problem,) = error.value.problems
    is_code = path == ("nan",)
    assert ("is not a NaN" if is_code else "must be from") in problem.message
    assert len(problem.message) < 120


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("shape", "m"), 10**12, "must be from 1 to 65536, got 1000000000000"),
        (("stages", "near", "terms"), 1e9, "must be from 1 to 65536, got 1000000000"),
        (("stages", "near", "zero_exponent"), 10**30, "must be from -10000 to 10000, got a number of about 30 digits"),
        (("b", "bias"), 10**12, "must be from -1023 to 1075"),
        (("scale", "a", "group"), [10**9, 128], "must be from 1 to 1048576"),
        (("stages", "near", "terms"), True, "`true` is not a number"),
        (("stages", "near", "interleave", "parts"), 1, "must be from 2 to 65536"),
        (("stages", "chain", "accumulator", "drop_beyond"), -1, "must be from 0 to 10000"),
        (("stages", "near", "fraction_bits"), 129, "must be from 0 to 128"),
    ],
)
def test_numbers_out_of_range_are_refused_where_they_stand(path, value, message):
    """The error names the range, at the line of the number."""
    with pytest.raises(InputError) as error:
        read(changed(EVERYTHING, path, value))
    (problem,) = error.value.problems
    assert message in problem.message
    assert str(path[-1]) in problem.source or isinstance(value, list)


@pytest.mark.parametrize("name", ["products", "", "a.b", "a b", "a\nb", "sum\n", "1st", "ü", "a" * 65, "sums: x"])
def test_a_stage_has_a_plain_name(name):
    """A stage's name is a word other than `products`, which means the first stage's terms."""
    spec = {**WHOLE, "stages": {name: WHOLE["stages"]["top"]}}
    with pytest.raises(InputError, match=r"cannot name a stage|means the terms of the first stage"):
        read(spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": {"top": {**TOP, "terms": 4, "interleave": {"run": 4, "parts": 2}}}}, "nothing is interleaved"),
        ({"stages": {"top": {**TOP, "terms": 1, "interleave": {"run": 1, "parts": 2}}}}, "nothing is interleaved"),
        ({"flush_inputs": True}, "integers have no subnormals"),
        ({"infinite_from": 20}, "products of integers are never infinite"),
        ({"stages": {"top": {**TOP, "result": {**TOP["result"], "subnormals": "flush"}}}}, "an integer has no subnormals"),
        ({"stages": {"pair": {"terms": 8, "exponent": 3}, "top": {**TOP, "terms": 1}}}, "summed exactly"),
    ],
)  # fmt: skip
def test_what_does_nothing_is_said(change, message):
    """Fields without an effect are refused, such as interleaving whole blocks, or subnormals of integers."""
    with pytest.raises(InputError, match=message):
        read({**WHOLE, **change})


def test_widening_to_the_operands_own_format_is_said():
    """`widen` that converts nothing is refused; where one operand is narrower it stays."""
    spec = {**EVERYTHING, "b": "e4m3", "widen": "e4m3"}
    with pytest.raises(InputError, match="are e4m3 already"):
        read(spec)
    assert read({**spec, "widen": "fp16", "b": "fp16"}).widen == named("fp16")


def test_an_integer_register_takes_sums_of_integers_alone():
    """A sum that was scaled or rounded to floating point does not return to an integer; scaled integers need a float D."""
    exact = {"terms": 4, "result": {"format": "int32", "rounding": "nearest-even"}}
    last = {"terms": 1, "accumulator": True, "result": {"format": "fp32", "rounding": "nearest-even"}}
    scale = {"a": {"group": [1, 4], "format": "fp32"}, "onto": "sum"}
    spec = {"a": "int8", "b": "int8", "accumulator": "fp32", "shape": {"m": 1, "n": 1, "k": 4}, "scale": scale}
    spec["stages"] = {"sum": exact, "again": {"terms": 1}, "add": last}
    compute(read(spec))
    with pytest.raises(InputError, match="int32 cannot hold this sum"):
        read(changed(spec, ("stages", "again", "result"), exact["result"]))
    with pytest.raises(InputError, match="int32 cannot hold this sum"):
        read(changed(spec, ("scale", "onto"), "products"))
    with pytest.raises(InputError, match="int32 cannot hold this sum"):
        read({**spec, "accumulator": "int32", "stages": {"sum": exact, "add": {**last, "result": exact["result"]}}})


def test_floats_do_not_go_into_integer_registers():
    """A stage of a floating-point instruction rounds to floating point; scales may be integers."""
    register = {"format": "int32", "rounding": "nearest-even"}
    with pytest.raises(InputError, match="floating-point sums need floating-point registers"):
        read(changed(EVERYTHING, ("stages", "chain", "result"), register))
    with pytest.raises(InputError, match="scaled sums need"):
        read(changed(EVERYTHING, ("scale", "result"), register))
    compute(read(changed(EVERYTHING, ("scale", "a", "format"), "uint4")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "fp32", "exponent_bits": 5, "mantissa_bits": 4, "bias": 15, "overflow": "saturate"}, "another format's name"),
        ({"name": "e3m4", "exponent_bits": 3, "mantissa_bits": 4, "bias": 4, "overflow": "saturate"}, "another format's name"),
        ({"name": "int8", "kind": "integer", "mantissa_bits": 8, "overflow": "wrap"}, "another format's name"),
        ({"name": "x\ny", "exponent_bits": 5, "mantissa_bits": 4, "overflow": "saturate"}, "cannot be a name"),
        ({"name": "", "exponent_bits": 5, "mantissa_bits": 4, "overflow": "saturate"}, "cannot be a name"),
        ({"name": "x", "exponent_bits": 11, "mantissa_bits": 4, "bias": 900, "overflow": "saturate"},
         "a bias from 1024 to 1071"),
        ({"name": "x", "exponent_bits": 2, "mantissa_bits": 53, "overflow": "saturate"}, "at most 52"),
        ({"name": "x", "exponent_bits": 8, "mantissa_bits": 23, "bias": 127, "low_padding": 32, "high_padding": 2,
          "overflow": "saturate"}, "a code of 66 bits"),
        ({"name": "x", "exponent_bits": 1, "mantissa_bits": 0, "nan": "all-ones", "overflow": "saturate"}, "no code is left"),
    ],
)  # fmt: skip
def test_formats_that_engines_cannot_hold_are_refused(fields, message):
    """A format is refused if it has another's name, codes of over 64 bits, or numbers that FP64 lacks."""
    with pytest.raises(ValidationError) as error:
        Format(**fields)
    (fault,) = error.value.errors()
    assert message in f"{fault['msg']} ({fault['ctx']['hint']})"


@pytest.mark.parametrize("name", ["e11m20f", "e11m52fn", "int65", "uint0", "e1m0fn", "int1"])
def test_inline_formats_beyond_fp64_are_refused(name):
    """An inline name is refused if its format has numbers beyond FP64's, or no numbers."""
    with pytest.raises(InputError):
        named(name)


WIDE = {"terms": 1 << 16, "accumulator": True, "result": NEAREST}


@pytest.mark.parametrize(
    "stages",
    [{"sum": WIDE}, {"one": {"terms": 1, "result": NEAREST}, "sum": {**WIDE, "fraction_bits": 99, "rounding": "up"}}],
)
def test_the_largest_instruction_is_computed(stages):
    """65,536 products in one sum wider than a lane, rounded before or not, take seconds and little memory."""
    spec = {"a": "bf16", "b": "bf16", "accumulator": "fp32", "shape": {"m": 1, "n": 1, "k": 1 << 16}}
    spec = Instruction.model_validate(spec | {"stages": stages})
    a, b, c, _ = operands(spec, 0, "bits", m=1, n=1, steps=1)
    assert np.array_equal(matmul(spec, a, b, c).view("u4"), matmul(spec, a, b, c, engine="golden").view("u4"))


def test_steps_too_long_to_compile_are_left_to_numpy():
    """A step whose C text would take a compiler minutes is not compiled, and real instructions are."""
    spec = {"a": "e4m3", "b": "e4m3", "accumulator": "fp32", "shape": {"m": 1, "n": 1, "k": 4096}}
    long = Instruction.model_validate(spec | {"stages": {"sum": {**WIDE, "terms": 4096}}})
    with pytest.raises(cpu.NoCompiler, match="lines of C"):
        cpu.compiled(Plan(long))
    a, b = np.zeros((128, 4096), np.uint8), np.zeros((4096, 64), np.uint8)
    assert not matmul(long, a, b, engine="cpu").any()
    assert (
        cpu.source(Plan(load("blackwell.tcgen05.m128n8k64.kind::mxf4.block32.f32.e2m1.e2m1.ue8m0"))).count("\n") < 1000
    )


@settings(max_examples=20)
@given(st.integers(1, 300), st.booleans())
def test_tiles_shrink_where_many_terms_wait(terms, ieee):
    """Sums of many parts are taken in bins, in tiles small enough for all their terms."""
    stage = {"terms": terms, "zero": "ieee" if ieee else "positive", "accumulator": True, "result": NEAREST}
    spec = {"a": "bf16", "b": "bf16", "accumulator": "fp32", "shape": {"m": 1, "n": 1, "k": terms}}
    spec = Instruction.model_validate(spec | {"stages": {"sum": stage}})
    rows, columns = portable.tile_size(Plan(spec))
    assert rows * columns * terms <= portable.VALUES
    a, b, c, _ = operands(spec, terms, "ends", m=2, n=2, steps=1)
    assert np.array_equal(matmul(spec, a, b, c).view("u4"), matmul(spec, a, b, c, engine="golden").view("u4"))


def test_stages_and_roundings_are_few():
    """More than 16 stages, or a step of over 65,536 products, is refused."""
    one = {"terms": 1, "result": NEAREST}
    spec = {"a": "e4m3", "b": "e4m3", "accumulator": "fp32", "shape": {"m": 1, "n": 1, "k": 1}}
    last = {"sum": {**WIDE, "terms": 1}}
    with pytest.raises(InputError, match=f"at most {MOST_STAGES} entries"):
        read(spec | {"stages": {f"s{i}": one for i in range(MOST_STAGES)} | last})
    with pytest.raises(InputError, match="at most 4 entries"):
        read(spec | {"stages": {"sum": {**WIDE, "terms": 1, "result": [NEAREST] * 5}}})
    with pytest.raises(InputError, match="more than 65536 products in one step"):
        read(spec | {"stages": {f"s{i}": {**one, "terms": 4096} for i in range(9)} | last})
