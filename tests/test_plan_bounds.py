"""What plans and routes claim of every catalogue instruction, derived again in whole numbers from the codes of its formats."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

from isa_model import load, matmul
from isa_model.array_codec import code_dtype, encode_array
from isa_model.codec import decode
from isa_model.engines import cpu, portable
from isa_model.engines.plan import Plan, Unsupported
from isa_model.engines.routes import digit_count, pieces, route
from isa_model.instruction import Instruction
from isa_model.library import catalogue
from isa_model.rounding import Rounding

FP64 = 53
"""Bits of an FP64 significand: sums of multiples of a unit below 2**53 units are exact in any order."""


@cache
def largest(fmt):
    """Return the largest magnitude of a format in units of its smallest number, and the exponent of that unit."""
    ends = {
        "table": range(1 << fmt.bits),
        "integer": (fmt.lowest & ((1 << fmt.mantissa_bits) - 1), fmt.max_finite_magnitude),
    }
    codes = ends.get(fmt.kind, (fmt.max_finite_magnitude,))
    numbers = [decode(fmt, code << fmt.low_padding) for code in codes]
    units = [abs(n.exact()) / Fraction(2) ** fmt.min_lsb_exponent for n in numbers if not n.special]
    assert all(x.denominator == 1 for x in units)
    return int(max(units)), fmt.min_lsb_exponent


@cache
def plans():
    """Return a plan of each distinct arithmetic of the catalogue that the engines take, under a name of it."""
    found = {}
    for name in catalogue():
        spec = load(name).dense
        key = spec.model_dump_json(exclude={"name", "description", "source", "checked", "known", "shape"})
        if key not in found:
            try:
                found[key] = name, Plan(spec)
            except Unsupported:
                found[key] = name, None
    return {name: plan for name, plan in found.values() if plan}


@dataclass(frozen=True)
class Terms:
    """What all terms of a stage have in common, in whole numbers from the codes of formats."""

    bits: int
    """Most significant bits."""
    unit: int
    """All are multiples of 2**unit ..."""
    most: Fraction
    """... and at most this in magnitude ..."""
    reach: Fraction
    """... and at most this times two to their alignment exponent ..."""
    high: int
    """... which is at most this."""

    def times(self, other):
        return Terms(
            self.bits + other.bits,
            self.unit + other.unit,
            self.most * other.most,
            self.reach * other.reach,
            self.high + other.high,
        )


@cache
def of_format(fmt):
    """Return what all numbers of a format have in common."""
    units, low = largest(fmt)
    most = units * Fraction(2) ** low
    if fmt.kind == "integer":
        return Terms(units.bit_length(), low, most, most, 0)
    return Terms(fmt.mantissa_bits + 1, low, most, 2 - Fraction(1, 1 << fmt.mantissa_bits), fmt.max_exponent)


def scales_of(spec):
    """Return what the factors that scale a term have in common."""
    made = Terms(0, 0, Fraction(1), Fraction(1), 0)
    for side in spec.scales:
        for level in side.levels:
            made = made.times(of_format(level.format))
    if spec.scale.product:
        made = of_format(spec.scale.product.format)
    power = Fraction(2) ** spec.scale.power
    return Terms(made.bits, made.unit + spec.scale.power, made.most * power, made.reach, made.high + spec.scale.power)


def steps(reach, bits):
    """Return a magnitude of `reach` times two to an exponent, in units `bits` below that exponent, rounded up."""
    return -int(-reach * (1 << bits) // 1)


def stages_of(plan):
    """Yield for each stage its number, its terms, its running value (None without), and the largest sum of a block.

    The sum is in units of its last place: the last one kept for an aligned sum, 2**unit for an exact one.
    """
    spec = plan.spec
    terms = of_format(spec.a).times(of_format(spec.b))
    for index, stage in enumerate(plan.stages):
        if spec.scaled_stage == index - 1:
            terms = of_format(spec.scale.result.format) if spec.scale.result else terms.times(scales_of(spec))
        running = None
        if stage.accumulator:
            last = index == len(plan.stages) - 1
            formats = [r.format for r in stage.result[-1:]] + ([spec.c_format, spec.accumulator] if last else [])
            each = [of_format(f) for f in formats]
            running = Terms(
                max(t.bits for t in each),
                min(t.unit for t in each),
                max(t.most for t in each),
                max(t.reach for t in each) / Fraction(2) ** stage.offset,
                max(t.high for t in each) + stage.offset,
            )
        both = [terms, *([running] if running else [])]
        unit, high = min(t.unit for t in both), max(t.high for t in both)
        high = high if stage.zero_exponent is None else max(high, stage.zero_exponent)
        if stage.aligned:
            own = stage.accumulator_fraction_bits if running else stage.fraction_bits
            kept = max(stage.fraction_bits, own)
            total = stage.terms * steps(terms.reach, stage.fraction_bits) << (kept - stage.fraction_bits)
            total += steps(running.reach, own) << (kept - own) if running else 0
            reach = Fraction(total, 1 << kept)
            most = reach * Fraction(2) ** high
        else:
            most = stage.terms * terms.most + (running.most if running else 0)
            total = most / Fraction(2) ** unit
            assert total.denominator == 1
            reach = stage.terms * terms.reach + (running.reach if running else 0)
        yield index, terms, running, int(total)
        if stage.result:
            terms = of_format(stage.result[-1].format)
        elif stage.exponent is not None:
            terms = Terms(int(total).bit_length(), unit, most, most / Fraction(2) ** stage.exponent, stage.exponent)
        else:
            terms = Terms(int(total).bit_length(), unit, most, reach, high)


def test_terms_of_every_stage_lie_within_their_levels():
    """Terms and running values of all stages, scaled ones too, have the bits, the unit and the size that the plan says."""
    scaled = later = 0
    for name, plan in plans().items():
        for index, *both, _ in stages_of(plan):
            for terms, level in zip([t for t in both if t], plan.addends[index], strict=True):
                assert level.lsb <= terms.unit, (name, index)
                assert terms.most <= Fraction(2) ** level.top, (name, index)
                assert terms.reach <= Fraction(2) ** level.growth, (name, index)
                assert terms.high <= level.highest, (name, index)
                assert terms.bits <= level.bits or level.parts > 1, (name, index)
            scaled, later = scaled + (plan.spec.scaled_stage == index - 1), later + (index > 0)
    assert scaled > 20
    assert later > 20


def test_sums_in_one_lane_are_exact_in_fp64():
    """Where a plan takes the sum of a stage in one FP64 lane, the largest one is below 2**53 units of its last place."""
    checked = 0
    for name, plan in plans().items():
        for index, _, _, total in stages_of(plan):
            if plan.levels[index].plain:
                assert total < 1 << FP64, (name, index)
                checked += 1
    assert checked > 100


def test_sums_in_single_precision_are_exact():
    """Where the first stage runs on FP32 lanes, a block of products (with C, if it is added there) stays below 2**24 units."""
    checked = 0
    for name, plan in plans().items():
        _, terms, _, total = next(stages_of(plan))
        if plan.lane == "float32":
            assert terms.bits <= 24, name
            assert plan.first.terms * steps(terms.reach, plan.first.fraction_bits) < 1 << 24, name
            assert not plan.narrow or total < 1 << 24, name
            checked += 1
    assert checked > 10


def test_sums_that_are_rounded_to_a_double_first_are_rounded_once():
    """Two addends no wider than the register, at less than half of a double's precision (Figueroa 1995); and terms that a
    register holds are not rounded at all.
    """
    two = held = 0
    for name, plan in plans().items():
        for index, *both, _ in stages_of(plan):
            both, registers = [t for t in both if t], plan.stages[index].result
            if plan.adds_in_one(index, 2):
                fmt = registers[0].format
                assert 2 * (fmt.mantissa_bits + 1) + 2 <= FP64
                assert all(t.bits <= fmt.mantissa_bits + 1 and t.unit >= fmt.min_lsb_exponent for t in both), (
                    name,
                    index,
                )
                two += 1
            if plan.holds_terms(index):
                (term,), kept = both, of_format(registers[0].format)
                assert term.bits <= kept.bits, (name, index)
                assert term.unit >= kept.unit, (name, index)
                assert term.most <= kept.most, (name, index)
                held += 1
    assert two > 5
    assert held


def test_scales_that_are_multiplied_into_operands_leave_products_exact():
    """A product with all its scales has at most 53 significant bits, so that the order of multiplications does not matter."""
    checked = 0
    for name, plan in plans().items():
        if plan.scales_fold:
            assert of_format(plan.spec.a).times(of_format(plan.spec.b)).times(scales_of(plan.spec)).bits <= FP64, name
            checked += 1
    assert checked > 5


@pytest.mark.parametrize("cut", ["half", "double", "exact"])
def test_routes_lose_what_the_spec_loses(cut):
    """The window of each route through Tensor Cores holds the largest sum of a block, and loses no bit that the spec keeps."""
    checked = 0
    for name, plan in plans().items():
        way = route(plan)
        if way is None or way.cut != cut:
            continue
        spec, stage = plan.spec, plan.first
        (a, low_a), (b, low_b) = largest(spec.a), largest(spec.b)
        products = stage.terms * a * b
        if cut == "exact":
            assert products < 1 << FP64, name
            highest = sum(0 if f.kind == "integer" else f.max_exponent for f in (spec.a, spec.b))
            assert stage.fraction_bits is None or highest - stage.fraction_bits <= low_a + low_b, name
        else:
            assert stage.rounding is Rounding.TOWARD_ZERO
            # Hopper's FP16 window holds 24 bits above its last place; the FP64 one loses a bit to its magic number.
            steps = (1 << spec.a.mantissa_bits + 1) - 1, (1 << spec.b.mantissa_bits + 1) - 1
            of_products = stage.terms * (steps[0] * steps[1] << stage.fraction_bits)
            of_products >>= spec.a.mantissa_bits + spec.b.mantissa_bits
            assert of_products < 1 << (24 if cut == "half" else FP64 - 1), name
        checked += 1
    assert checked, f"no catalogue instruction takes the route {cut}"


def digits_of(x, count):
    """Return balanced base-256 digits, from -128 to 127, of a whole number, the lowest first."""
    found = []
    for _ in range(count - 1):
        digit = (x + 128) % 256 - 128
        found.append(digit)
        x = (x - digit) // 256
    return [*found, x]


def test_int8_digits_lose_nothing():
    """Digits hold both ends of an operand's format, and the sums of their products fit the 32-bit pieces that gather them."""
    checked = 0
    for name, plan in plans().items():
        formats = plan.spec.a, plan.spec.b
        if "table" in {f.kind for f in formats} or max(map(digit_count, formats)) > 6 or not pieces(plan):
            continue
        for fmt in formats:
            for x in (largest(fmt)[0], -largest(fmt)[0]):
                if fmt.kind == "float" or fmt.lowest <= x <= fmt.max_finite_magnitude:
                    assert all(-128 <= digit <= 127 for digit in digits_of(x, digit_count(fmt))), (name, fmt.name, x)
        reach = [[128] * digit_count(f) for f in formats]
        for f, digits in zip(formats, reach, strict=True):  # the top digit grows with the number
            digits[-1] = max(abs(digits_of(s * largest(f)[0], len(digits))[-1]) for s in (1, -1))
        covered = 0
        for first, count in pieces(plan):
            sums = [
                plan.first.terms
                * sum(x * y for i, x in enumerate(reach[0]) for j, y in enumerate(reach[1]) if i + j == n)
                for n in range(first, first + count)
            ]
            assert sum(s << 8 * n for n, s in enumerate(sums)) < 1 << 31, name
            assert first == covered
            covered += count
        assert covered == sum(map(len, reach)) - 1, name
        checked += 1
    assert checked > 10


FP8, FP32 = {"a": "e4m3", "b": "e4m3"}, {"format": "fp32", "rounding": "up", "overflow": "infinity"}
WHOLE = {"format": "int16", "rounding": "nearest-even", "overflow": "wrap"}
E4M3 = {"exponent_bits": 4, "mantissa_bits": 3, "overflow": "saturate"}
CUT_UP = {"terms": 2, "fraction_bits": 4, "rounding": "up"}
FAR = {
    # A zero with exponent 100 makes a unit, 2**96, of the product 1.
    "a unit above every product": (
        FP8,
        {**CUT_UP, "zero_exponent": 100, "exponent": 0},
        {"fraction_bits": 30, "rounding": "toward-zero", "result": FP32},
        ([1, 0], [1, 1], 1.5),
    ),
    # FP32 does not hold the product rounded up, 2**128; its sum with C it does.
    "a product rounded up to a power of two": (
        {
            "a": "bf16",
            "b": {"name": "x", "exponent_bits": 2, "mantissa_bits": 3, "bias": 4, "overflow": "saturate"},
        },
        {"terms": 1, "fraction_bits": 0, "rounding": "nearest-even"},
        {"result": FP32 | {"rounding": "nearest-even"}},
        ([255 * 2.0**120], [0.9375], -(2.0**127)),
    ),
    # The sum, aligned with exponent 860, has 860 + 2 * 127 once it is scaled.
    "an exponent above those of doubles": (
        FP8
        | {"scale": {"a": {"group": [1, 2], "format": "fp32"}, "b": {"group": [2, 1], "format": "fp32"}, "onto": "p"}},
        {**CUT_UP, "rounding": "toward-zero", "zero_exponent": 860},
        {"fraction_bits": 9, "rounding": "toward-zero", "result": FP32},
        ([1, 0], [1, 1], 1.5),
    ),
    # The lowest bits of a sum count in an integer register that wraps around.
    "a unit above an integer register": (
        {"a": "int4", "b": "int8"},
        {**CUT_UP, "accumulator": True, "chain": 1, "zero_exponent": 500, "result": WHOLE},
        {"result": FP32},
        ([1, 0], [1, 1], 0),
    ),
    # Their products, near 1, and the sum are FP32 numbers.
    "operands beyond FP32": (
        {"a": {"name": "x", "bias": -133, **E4M3}, "b": {"name": "y", "bias": 147, **E4M3}},
        {"terms": 2, "fraction_bits": 13, "rounding": "toward-zero"},
        {"result": FP32},
        ([2.0**140, 2.0**141], [2.0**-140, 2.0**-142], 0.25),
    ),
    # The product 2**-700 becomes a unit, 2**480, and in units it is no double.
    "a product far below the unit that it becomes": (
        {"a": {"name": "x", "bias": 706, **E4M3}, "b": "e4m3"},
        {**CUT_UP, "fraction_bits": 20, "zero_exponent": 500},
        {"result": FP32},
        ([2.0**-700, 0], [1, 1], 1.5),
    ),
}
REFUSED = {
    "an exponent above those of doubles",
    "a unit above an integer register",
    "a product far below the unit that it becomes",
}


@pytest.mark.parametrize("engine", ["portable", "compiled"])
@pytest.mark.parametrize("name", FAR)
def test_bounds_hold_far_from_the_size_of_products(name, engine, tmp_path, monkeypatch):
    """Operands, exponents and units of any size give the golden model's code, or are refused."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fields, first, last, (a, b, c) = FAR[name]
    stages = {"p": first, "s": {"terms": 1, "accumulator": True, **last}}
    spec = {"accumulator": "fp32", "shape": {"m": 1, "n": 1, "k": len(a)}, "stages": stages, **fields}
    spec = Instruction.model_validate(spec)
    numbers = ((spec.a, [a]), (spec.b, [[x] for x in b]), (spec.c_format, [[c]]))
    codes = [encode_array(fmt, np.array(x, float)).astype(code_dtype(fmt)) for fmt, x in numbers]
    scales = [np.array([[2.0**127]], np.float32).view(np.uint32)] * 2 if spec.scale else []
    compute = portable.matmul if engine == "portable" else cpu.matmul
    if name in REFUSED:
        with pytest.raises(Unsupported, match=r"alignment exponent|wider than a lane|vanishes before it is rounded"):
            compute(spec, *codes, *scales)
        return
    try:
        assert compute(spec, *codes, *scales) == matmul(spec, *codes, *scales, engine="golden").view(np.uint32)
    except cpu.NoCompiler as missing:
        pytest.skip(str(missing))
