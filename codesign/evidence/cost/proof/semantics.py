"""The definition, `isa_model.golden`, written out on bit vectors: what each step of it returns for every input.

A function here has the name of the one it stands for, in golden.py or codec.py. tests/test_proof.py compares each with golden.
Exponents are signed numbers of `EXPONENT` bits, which no sum of a spec's exponents leaves (limits.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from codesign.evidence.cost.proof.smt import Bits, Script, choose, either, join
from isa_model import golden
from isa_model.formats import Format
from isa_model.rounding import Rounding
from isa_model.stage import Register

EXPONENT = 16


@dataclass(frozen=True)
class Term:
    """A term: NaN, an infinity, or `(-1)**negative * significand * 2**position` with its alignment exponent, or none."""

    nan: Bits
    infinite: Bits
    negative: Bits
    significand: Bits
    position: Bits
    none: Bits
    """Set if the term has no alignment exponent."""
    exponent: Bits

    @property
    def finite(self) -> Bits:
        return ~(self.nan | self.infinite)

    @property
    def zero(self) -> Bits:
        """Set for a finite zero."""
        return self.finite & self.significand.eq(0)


def decode(script: Script, fmt: Format, code: Bits, flush: bool | str = False, widen: Format | None = None) -> Term:
    """Return `golden.operand`: a code as a term, its subnormals flushed or aligned as in the wider format."""
    one, off = script.const(1, 1), script.const(0, 1)
    if fmt.kind == "table":
        return _entry(script, fmt, code)
    if fmt.kind == "integer":
        whole, at = code[fmt.low_padding :][: fmt.mantissa_bits], script.const(0, EXPONENT)
        below = whole[-1] if fmt.signed else off
        return Term(off, off, below, choose(below, -whole, whole), at, whole.eq(0), at)
    m, top = fmt.mantissa_bits, fmt.magnitude_bits
    code = code[fmt.low_padding :]
    magnitude = code[:top]
    negative = code[top] if fmt.signed else off
    fraction = magnitude[:m] if m else None
    biased = magnitude[m:].extended(EXPONENT)
    beyond = script.const(fmt.max_finite_magnitude, top).below(magnitude)
    fraction_zero = fraction.eq(0) if fraction else one
    infinite = beyond & fraction_zero if fmt.infinity else off
    nan = beyond & ~infinite
    if fmt.nan == "negative-zero":
        nan = nan | (negative & magnitude.eq(0))
    subnormal = biased.eq(0) if fmt.zero else off
    significand = join([*([fraction] if fraction else []), ~subnormal])
    position = choose(subnormal, script.const(fmt.min_lsb_exponent, EXPONENT), biased - (fmt.bias + m))
    zero = significand.eq(0)
    exponent = position + m
    if flush:
        significand = choose(subnormal, script.const(0, m + 1), significand)
        negative = negative if flush == "keep-sign" else negative & ~subnormal
        zero = zero | subnormal
    elif widen is not None:
        leading = position + leading_bit(significand)
        lowest = script.const(widen.min_exponent, EXPONENT)
        exponent = choose(leading.less(lowest), lowest, leading)
    return Term(nan, infinite, negative, significand, position, zero, exponent)


def _entry(script: Script, fmt: Format, code: Bits) -> Term:
    """Return a number of a table: what golden says of each code."""
    terms = [golden.term(fmt, i) for i in range(1 << fmt.bits)]
    lowest = min((t.number.exponent for t in terms if t.exponent is not None), default=0)
    values = [t.number.significand << max(t.number.exponent - lowest, 0) for t in terms]
    rows = {
        "nan": [int(t.number.special == "nan") for t in terms],
        "infinite": [int(t.number.special == "infinity") for t in terms],
        "negative": [int(t.number.negative) for t in terms],
        "significand": values,
        "none": [int(t.exponent is None) for t in terms],
        "exponent": [t.exponent or 0 for t in terms],
    }
    sizes = {"significand": max(values).bit_length(), "exponent": EXPONENT}
    found = {}
    for name, row in rows.items():
        size = sizes.get(name, 1)
        value = script.const(row[0], size)
        for i, entry in enumerate(row):
            value = choose(code.eq(i), script.const(entry, size), value)
        found[name] = value
    return Term(**found, position=script.const(lowest, EXPONENT))


def leading_bit(value: Bits) -> Bits:
    """Return the place of the highest set bit; 0 for zero."""
    place = value.script.const(0, EXPONENT)
    for i in range(1, value.width):
        place = choose(value[i], value.script.const(i, EXPONENT), place)
    return place


def times(x: Term, y: Term, product: Bits | None = None) -> Term:
    """Return `golden.times`. `product` is that of the significands, if it is known already."""
    width = x.significand.width + y.significand.width
    if product is None:
        product = x.significand.extended(width) * y.significand.extended(width)
    nan = x.nan | y.nan | (x.infinite & y.zero) | (y.infinite & x.zero)
    return Term(
        nan,
        (x.infinite | y.infinite) & ~nan,
        x.negative ^ y.negative,
        product,
        x.position + y.position,
        x.none | y.none,
        x.exponent + y.exponent,
    )


def infinite_from(product: Term, power: int) -> Term:
    """Return a product as `golden.products` leaves it: an infinity if its magnitude is at least 2**power."""
    leading = product.position + leading_bit(product.significand)
    beyond = product.finite & ~product.significand.eq(0) & ~leading.less(power)
    return replace(product, infinite=product.infinite | beyond)


def shift_right(value: Bits, places: Bits, rounding: Rounding, negative: Bits, random: Bits | None = None) -> Bits:
    """Return `rounding.shift_right`: `value / 2**places` rounded; `places`, of `EXPONENT` bits, may be negative.

    The result has as many bits as `value`, which must be enough for it. `random` are the bits of a stochastic rounding.
    """
    script, width = value.script, value.width
    size = max(width, EXPONENT)
    draw = random.width if random is not None else 0
    most = width + 1 + draw  # from here on, everything is lost
    assert most < 1 << (EXPONENT - 1)
    far = script.const(most, EXPONENT).less(places)
    right = choose(far, script.const(most, EXPONENT), places).extended(size, signed=True)
    left = (-places).extended(size, signed=True)
    wide = value.extended(size)
    is_left = places.less(1)
    quotient = wide >> right
    below = (script.const(1, size) << (right - 1)) - 1
    half = (wide >> (right - 1))[0]
    rest = (wide & below).any()
    lost = half | rest
    match rounding:
        case Rounding.NEAREST_EVEN:
            up = half & (rest | quotient[0])
        case Rounding.NEAREST_AWAY:
            up = half
        case Rounding.UP:
            up = lost & ~negative
        case Rounding.DOWN:
            up = lost & negative
        case _:
            up = script.const(0, 1)
    result = quotient + up.extended(size)
    if rounding is Rounding.TO_ODD:
        result = quotient | lost.extended(size)
    if random is not None:
        # In units of 2**-draw of the result's, what is lost beyond the random bits never counts.
        fraction = join([script.const(0, draw), value.extended(size + 1)])
        result = ((fraction >> right.extended(fraction.width)) + random.extended(fraction.width))[draw : draw + size]
    return choose(is_left, wide << left, result)[:width]


def cut(term: Term, unit: Bits, rounding: Rounding, width: int) -> Bits:
    """Return `golden.cut`: the magnitude of a term in steps of 2**unit, which must need no more than `width` bits."""
    value = term.significand.extended(max(width, term.significand.width))
    return shift_right(value, unit - term.position, rounding, term.negative)


def add_specials(terms: Sequence[Term], total: Term) -> Term:
    """Return a finite sum, or the NaN or infinity that the terms make of it."""
    script = total.none.script
    nan = either([t.nan for t in terms], script)
    plus = either([t.infinite & ~t.nan & ~t.negative for t in terms], script)
    minus = either([t.infinite & ~t.nan & t.negative for t in terms], script)
    nan = nan | (plus & minus)
    infinite = (plus | minus) & ~nan
    return replace(total, nan=nan, infinite=infinite, negative=choose(infinite, minus, total.negative))


def rounded(value: Term, register: Register, positive_zero: bool, random: Bits | None = None) -> Term:
    """Return `golden.rounded`, and then the sign that `golden.put` gives a zero."""
    fmt = register.format
    script = value.none.script
    code, keeps_nan = encode(fmt, value, register, random), fmt.nan_code is None
    result = decode(script, fmt, code)
    if register.subnormals == "flush":
        tiny = result.finite & ~result.significand[fmt.mantissa_bits]
        zero = replace(value, significand=script.const(0, 1), nan=script.const(0, 1), infinite=script.const(0, 1))
        flushed = decode(script, fmt, encode(fmt, zero, register, random))
        result = pick(tiny, flushed, result)
    if positive_zero:
        result = replace(result, negative=result.negative & ~result.zero)
    return replace(result, nan=result.nan | value.nan) if keeps_nan else result


def pick(condition: Bits, then: Term, other: Term) -> Term:
    """Return one of two terms of a format."""
    return Term(**{name: choose(condition, getattr(then, name), getattr(other, name)) for name in Term.__annotations__})


def encode(fmt: Format, value: Term, register: Register, random: Bits | None = None) -> Bits:
    """Return `codec.encode`: the code of a number rounded as a register says."""
    script, m = value.none.script, fmt.mantissa_bits
    rule = register.overflow or fmt.overflow
    largest, bits = fmt.max_finite_magnitude, fmt.magnitude_bits
    width = value.significand.width + m + 2
    leading = leading_bit(value.significand)
    biased = value.position + leading + fmt.bias
    first = script.const(1, EXPONENT)
    biased = choose(biased.less(first), first, biased)
    unit = biased - (fmt.bias + m)
    steps = shift_right(
        value.significand.extended(width), unit - value.position, register.rounding, value.negative, random
    )
    size = max(width, EXPONENT + m) + 1
    magnitude = ((biased - 1).extended(size) << m) + steps.extended(size)
    magnitude = choose(value.significand.eq(0), script.const(0, size), magnitude)
    over = script.const(largest, size).below(magnitude) | value.infinite
    to_infinity = script.const(int(rule == "infinity"), 1)
    if rule == "ieee":
        by_rounding = {
            Rounding.NEAREST_EVEN: script.const(1, 1),
            Rounding.NEAREST_AWAY: script.const(1, 1),
            Rounding.STOCHASTIC: script.const(1, 1),
            Rounding.UP: ~value.negative,
            Rounding.DOWN: value.negative,
        }
        to_infinity = value.infinite | by_rounding.get(register.rounding, script.const(0, 1))
    ends = script.const(largest, bits) + to_infinity.extended(bits)
    magnitude = choose(over, ends, magnitude[:bits])
    negative = value.negative
    if fmt.nan == "negative-zero":
        negative = negative & magnitude.any()
    sign = [negative] if fmt.signed else []
    code = join([*([script.const(0, fmt.low_padding)] if fmt.low_padding else []), magnitude, *sign])
    code = code.extended(fmt.bits)
    nan = value.nan | (over if rule == "nan" else script.const(0, 1))
    if fmt.nan_code is not None:
        code = choose(nan, script.const(fmt.nan_code, fmt.bits), code)
    return code


def written(fmt: Format, value: Term, nan_code: int | None) -> Bits:
    """Return `golden.written`: the code of D."""
    register = Register.model_construct(
        format=fmt, rounding=Rounding.NEAREST_EVEN, overflow=fmt.kept_infinity, subnormals="keep", random_bits=None
    )
    code = encode(fmt, value, register)
    if nan_code is not None:
        return choose(value.nan, value.none.script.const(nan_code, fmt.bits), code)
    return choose(value.nan, value.none.script.const(fmt.max_finite_magnitude << fmt.low_padding, fmt.bits), code)


def same(x: Term, y: Term, align: bool = True) -> list[Bits]:
    """Return the claims that two terms are equal: of one kind, sign and value, and (with `align`) of one exponent."""
    finite = ~(x.nan | x.infinite)
    width = max(x.significand.width, y.significand.width)
    size = max(2 * width, EXPONENT)
    a, b = x.significand.extended(size), y.significand.extended(size)
    distance, back = x.position - y.position, y.position - x.position
    shifted = choose(
        distance.less(0),
        back.less(width) & (b << back.extended(size)).eq(a),
        distance.less(width) & (a << distance.extended(size)).eq(b),
    )
    equal = (a.eq(0) & b.eq(0)) | (~a.eq(0) & ~b.eq(0) & shifted)
    claims = [
        x.nan.eq(y.nan),
        x.nan | x.infinite.eq(y.infinite),
        x.nan | x.negative.eq(y.negative),
        ~finite | equal,
    ]
    if align:
        claims += [~finite | x.none.eq(y.none), ~finite | x.none | x.exponent.eq(y.exponent)]
    return claims
