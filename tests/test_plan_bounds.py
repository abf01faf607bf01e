"""What plans and routes claim of every catalogue instruction, derived again in whole numbers from the codes of its formats."""

from fractions import Fraction
from functools import cache

import pytest

from isa_model import load
from isa_model.codec import decode
from isa_model.engines.plan import Plan, Unsupported
from isa_model.engines.routes import digit_count, pieces, route
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


def aligned_units(plan):
    """Return the largest sum of a block of aligned products and the running value, in units of the last place kept."""
    spec, stage = plan.spec, plan.first
    kept = max(stage.fraction_bits, stage.accumulator_fraction_bits if stage.accumulator else 0)

    def steps(significand, fraction, bits):
        return -(-(significand << bits) >> fraction) << (kept - bits)  # rounded up, if at all

    a, b = ((1 << f.mantissa_bits + 1) - 1 for f in (spec.a, spec.b))
    total = stage.terms * steps(a * b, spec.a.mantissa_bits + spec.b.mantissa_bits, stage.fraction_bits)
    if stage.accumulator:
        fmts = [register.format for register in stage.result[-1:]] + [spec.c_format, spec.accumulator]
        m = max(f.mantissa_bits for f in fmts)
        total += steps((1 << m + 1) - 1, m, stage.accumulator_fraction_bits)
    return total


def test_sums_in_one_lane_are_exact_in_fp64():
    """Where a plan takes the first sum in one FP64 lane, the largest such sum is below 2**53 units of its last place."""
    checked = 0
    for name, plan in plans().items():
        spec, stage, level = plan.spec, plan.first, plan.levels[0]
        if not level.plain or spec.scaled_stage == -1 or {spec.a.kind, spec.b.kind} != {"float"}:
            continue
        if stage.aligned:
            assert aligned_units(plan) < 1 << FP64, name
        else:
            (a, low_a), (b, low_b) = largest(spec.a), largest(spec.b)
            total, low = Fraction(stage.terms * a * b), low_a + low_b
            if stage.accumulator:
                c, low_c = max((largest(f) for f in (spec.c_format, spec.accumulator)), key=lambda x: x[0])
                assert level.lsb <= low_c
                total += Fraction(c) * Fraction(2) ** (low_c - low)
            assert level.lsb <= low, name
            assert total * Fraction(2) ** (low - level.lsb) < 1 << FP64, name
        checked += 1
    assert checked > 20


def test_sums_of_whole_numbers_are_exact_in_fp64():
    """The largest sum of a block of integer products is below 2**53."""
    checked = 0
    for name, plan in plans().items():
        if plan.whole_products and plan.spec.scaled_stage != -1:
            assert plan.first.terms * largest(plan.spec.a)[0] * largest(plan.spec.b)[0] < 1 << FP64, name
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
