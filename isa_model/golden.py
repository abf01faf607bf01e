"""The golden model: what an instruction computes, to the bit, on Python's exact integers.

This file is the definition; every fast engine has to return the same codes. Read it from top to bottom. One element of
D is computed at a time. Along K, one instruction after the other reads as C what the one before wrote as D; in each:

1. `products`: a row of A times a column of B, one exact term per k.
2. Stage after stage of the spec turns its terms into fewer: `deal` forms the blocks, `add` sums a block, `put` rounds
   the sum into the stage's register, `scaled` applies group scales where the spec has them.
3. The last stage starts from C, adds one block after the other, and leaves D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isa_model.codec import NAN, Number, decode, encode, infinity
from isa_model.formats import Format
from isa_model.instruction import Instruction, ScaleOperand
from isa_model.rounding import Rounding, shift_right
from isa_model.stage import Register, Stage


@dataclass(frozen=True, slots=True)
class Term:
    """A number, and the exponent it aligns with; None for a zero that has none, an infinity and a NaN.

    The alignment exponent is not always that of the leading bit: a product has the sum of its operands' exponents, and
    a sum without a register has the exponent its terms were aligned to.
    """

    number: Number
    exponent: int | None


def dot(
    spec: Instruction,
    a: Sequence[int],
    b: Sequence[int],
    c: int = 0,
    scale_a: Sequence[int] = (),
    scale_b: Sequence[int] = (),
) -> int:
    """Return the code of one element of D, after as many instructions as K holds.

    `a` and `b` are the codes of a row of A and a column of B, K of each (a multiple of the instruction's k); `c` is the
    code of C; `scale_a` and `scale_b` are the codes of the scales along K of that row and column, one per group.
    Every instruction but the first reads C in the accumulator's format.
    """
    running = read(spec, spec.c_format, c)
    d = written(spec, running)
    for first in range(0, len(a), spec.shape.k):
        part = slice(first, first + spec.shape.k)
        d = written(spec, instruction(spec, a[part], b[part], running, scale_a, scale_b, first))
        running = read(spec, spec.accumulator, d)
    return d


def instruction(
    spec: Instruction,
    a: Sequence[int],
    b: Sequence[int],
    c: Term,
    scale_a: Sequence[int],
    scale_b: Sequence[int],
    first: int,
) -> Term:
    """What one instruction leaves in the last stage's register; `first` is where its operands start along K."""
    terms = products(spec, a, b)
    if spec.scaled_stage == -1:
        terms = scaled(spec, terms, 1, scale_a, scale_b, first)
    *inner, last = spec.stages.values()
    for index, stage in enumerate(inner):
        blocks = deal(stage, terms)
        chain = stage.chain or 1
        start = term(spec.accumulator, 0)
        terms = [run(stage, blocks[i : i + chain], start) for i in range(0, len(blocks), chain)]
        if spec.scaled_stage == index:
            terms = scaled(spec, terms, len(a) // len(terms), scale_a, scale_b, first)
    return run(last, deal(last, terms), c)


def written(spec: Instruction, value: Term) -> int:
    """The code of D for a register's value. The register fits the accumulator, so that nothing is left to round, and an
    infinity stays one where the accumulator has it, whatever its rule for overflow."""
    if value.number.special == "nan" and spec.nan_code is not None:
        return spec.nan_code
    return encode(spec.accumulator, value.number, overflow=spec.accumulator.kept_infinity)


def run(stage: Stage, blocks: Sequence[Sequence[Term]], running: Term) -> Term:
    """Sum block after block, each together with the running value if the stage has one."""
    for block in blocks:
        running = put(stage, *add(stage, block, running if stage.accumulator else None))
    return running


def deal(stage: Stage, terms: Sequence[Term]) -> list[Sequence[Term]]:
    """Form the blocks of a stage: neighbours together, or dealt out in runs to several blocks at a time."""
    if stage.interleave is None:
        return [terms[i : i + stage.terms] for i in range(0, len(terms), stage.terms)]
    run_length, parts = stage.interleave.run, stage.interleave.parts
    span = stage.terms * parts
    return [
        [terms[start + j] for j in range(span) if (j // run_length) % parts == part]
        for start in range(0, len(terms), span)
        for part in range(parts)
    ]


# -- terms -----------------------------------------------------------------------------------------------------------


def term(fmt: Format, code: int) -> Term:
    """A number of a format. It aligns with its exponent field, so a subnormal with the smallest normal number."""
    number = decode(fmt, code)
    if number.special or number.is_zero:
        return Term(number, None)
    return Term(number, number.exponent + (fmt.mantissa_bits if fmt.kind == "float" else 0))


def read(spec: Instruction, fmt: Format, code: int) -> Term:
    """An element of A, B or C."""
    value = term(fmt, code)
    tiny = not value.number.special and value.number.significand < 1 << fmt.mantissa_bits
    return Term(Number(False, 0, 0), None) if spec.flush_inputs and tiny else value


def operand(spec: Instruction, fmt: Format, code: int) -> Term:
    """An element of A or B. Widened to a format of more exponents, a subnormal aligns with its own leading bit."""
    value = read(spec, fmt, code)
    if spec.widen is None or value.exponent is None:
        return value
    leading = value.number.exponent + value.number.significand.bit_length() - 1
    return Term(value.number, max(leading, spec.widen.min_exponent))


def products(spec: Instruction, a: Sequence[int], b: Sequence[int]) -> list[Term]:
    """The exact products a[k] * b[k]."""
    result = [times(operand(spec, spec.a, x), operand(spec, spec.b, y)) for x, y in zip(a, b, strict=True)]
    if spec.infinite_from is None:
        return result
    return [
        Term(infinity(t.number.negative), None) if magnitude_at_least(t.number, spec.infinite_from) else t
        for t in result
    ]


def magnitude_at_least(number: Number, power: int) -> bool:
    """Whether |number| >= 2**power, for a finite number."""
    finite = not number.special and not number.is_zero
    return finite and number.significand.bit_length() - 1 + number.exponent >= power


def times(x: Term, y: Term) -> Term:
    """Multiply values and add alignment exponents, without rounding or normalising."""
    negative = x.number.negative != y.number.negative
    specials = {x.number.special, y.number.special}
    if "nan" in specials:
        return Term(NAN, None)
    if "infinity" in specials:
        zero = x.number.is_zero or y.number.is_zero
        return Term(NAN if zero else infinity(negative), None)
    number = Number(negative, x.number.significand * y.number.significand, x.number.exponent + y.number.exponent)
    if x.exponent is None or y.exponent is None:
        return Term(number, None)
    return Term(number, x.exponent + y.exponent)


def scaled(
    spec: Instruction, terms: Sequence[Term], span: int, scale_a: Sequence[int], scale_b: Sequence[int], first: int = 0
) -> list[Term]:
    """Multiply each term, the sum of `span` products from number `first` along K on, by the scales of its group."""
    scale = spec.scale
    assert scale is not None

    def of(operand: ScaleOperand | None, k_axis: int, codes: Sequence[int], k: int) -> Term | None:
        return None if operand is None else term(operand.format, codes[k // operand.group[k_axis]])

    result = []
    for i, unscaled in enumerate(terms):
        k = first + i * span
        factors = [of(scale.a, 1, scale_a, k), of(scale.b, 0, scale_b, k)]
        present = [f for f in factors if f is not None]
        if scale.product:
            present = [rounded(times(*present), scale.product)]
        value = unscaled
        for factor in present:
            value = times(value, factor)
        result.append(rounded(value, scale.result) if scale.result else value)
    return result


# -- sums ------------------------------------------------------------------------------------------------------------


def add(stage: Stage, block: Sequence[Term], running: Term | None) -> tuple[Number, int | None]:
    """Sum a block, and the running value if given. Return the sum and the exponent it was aligned to.

    A NaN, or infinities of both signs, give NaN; else an infinity gives itself.
    """
    terms = [*block] if running is None else [*block, running]
    specials = {(t.number.special, t.number.negative and t.number.special == "infinity") for t in terms}
    if ("nan", False) in specials or {("infinity", False), ("infinity", True)} <= specials:
        return NAN, None
    for negative in (False, True):
        if ("infinity", negative) in specials:
            return infinity(negative), None

    exponents = [stage.zero_exponent if t.exponent is None else t.exponent for t in terms]
    largest = max((e for e in exponents if e is not None), default=None)
    kept = []
    for t in terms:
        fraction_bits = stage.fraction_bits
        if t is running:
            fraction_bits = stage.accumulator_fraction_bits
            if is_dropped(stage, t, largest):
                continue
        if fraction_bits is None or largest is None:
            kept.append(t.number)  # an exact sum, or nothing but zeros
        else:
            assert stage.rounding is not None
            kept.append(cut(t.number, largest - fraction_bits, stage.rounding))
    return exact_sum(kept, stage), largest


def is_dropped(stage: Stage, running: Term, largest: int | None) -> bool:
    if stage.drop_beyond is None or running.exponent is None or largest is None:
        return False
    return running.exponent < largest - stage.drop_beyond


def cut(number: Number, unit: int, rounding: Rounding) -> Number:
    """Round a number to a multiple of 2**unit."""
    steps = shift_right(number.significand, unit - number.exponent, rounding, number.negative)
    return Number(number.negative, steps, unit)


def exact_sum(numbers: Sequence[Number], stage: Stage) -> Number:
    """Add without rounding. A zero sum is positive, or (`ieee`) has the sign its terms share, else plus."""
    unit = min(n.exponent for n in numbers)
    total = sum((-1) ** n.negative * (n.significand << (n.exponent - unit)) for n in numbers)
    negative = total < 0
    if total == 0 and stage.zero == "ieee":
        negative = all(n.negative for n in numbers)
    return Number(negative, abs(total), unit)


# -- registers -------------------------------------------------------------------------------------------------------


def put(stage: Stage, total: Number, aligned_to: int | None) -> Term:
    """Round a sum into the stage's register, or hand it up as it is with the exponent it was aligned to."""
    if not stage.result:
        fixed = stage.exponent is not None and aligned_to is not None
        return Term(total, stage.exponent if fixed else aligned_to)
    value = Term(total, aligned_to)
    for register in stage.result:
        value = rounded(value, register)
    if value.number.is_zero and stage.zero == "positive":
        return Term(Number(False, 0, value.number.exponent), None)
    return value


def rounded(value: Term, register: Register) -> Term:
    """A term rounded to a register's format, from then on with that format's exponent."""
    if value.number.special == "nan" and register.format.nan_code is None and register.format.kind == "float":
        return value
    result = term(register.format, encode(register.format, value.number, register.rounding, register.overflow))
    is_subnormal = not result.number.special and result.number.significand < 1 << register.format.mantissa_bits
    if register.subnormals == "flush" and is_subnormal:
        return term(register.format, encode(register.format, Number(value.number.negative, 0, 0)))
    return result
