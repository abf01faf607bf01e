"""The golden model: what an instruction computes, to the bit, in Python's exact integers.

This file is the definition; every fast engine must return the same codes. Read it from top to bottom. `dot` computes one
element of D. Along K, each instruction reads as C what the one before wrote as D. A sparse instruction is a dense one on the
elements that are stored: `gathered` picks the elements of the other operand that they are multiplied by. With a codebook,
elements are indices, and `looked_up` is what they stand for.
An instruction has three steps:

1. `products` multiplies a row of A by a column of B: one exact term per k.
2. Each stage of the spec turns its terms into fewer: `deal` forms the blocks, `add` sums a block, `put` rounds the sum
   to the stage's register, and `scaled` applies group scales where the spec has them.
3. The last stage starts from C, adds one block after the other, and leaves D.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

from isa_model.codec import NAN, Number, decode, encode, infinity
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.operand_fields import Codebook, ScaleLevel, Sparsity
from isa_model.rounding import Rounding, shift_right
from isa_model.stage import Register, Remainder, Stage

Draw = Callable[[int, int], int]
"""Random bits by the number of a block and of a register."""


Scales = Sequence[int] | Sequence[Sequence[int]]
"""Codes of scales along K, of one level or of each."""


def no_draw(block: int, register: int) -> int:
    """Return no random bits, for instructions that need none."""
    return 0


@dataclass(frozen=True, slots=True)
class Term:
    """A number and its alignment exponent, which is None for an infinity, a NaN and a zero without one.

    The alignment exponent is not always that of the leading bit: a product has the sum of its operands' exponents, and
    a sum without a register has the exponent its terms were aligned to.
    """

    number: Number
    exponent: int | None
    rest: Term | None = None
    """Second register of a running value; None for none, or a zero."""


def dot(
    spec: Instruction,
    a: Sequence[int],
    b: Sequence[int],
    c: int = 0,
    scale_a: Scales = (),
    scale_b: Scales = (),
    positions: Sequence[int] = (),
    draw: Draw = no_draw,
    tables_a: Sequence[Sequence[int]] = (),
    tables_b: Sequence[Sequence[int]] = (),
) -> int:
    """Return the code of one element of D, computed by as many instructions as K holds.

    `a` and `b` are the codes of a row of A and a column of B, K of each, a multiple of the instruction's k. `c` is the
    code of C. `scale_a` and `scale_b` are the codes of that row's and column's scales along K, one per group; with `coarser`
    levels, one such sequence for each level, the finest first.
    `draw(block, register)` gives 32 random bits (philox.py) to a stochastic register of a block. Blocks are counted along K,
    for each stage from 0; registers from the first stage up.
    Every instruction but the first reads C in the accumulator's format, or has both registers of a `remainder`.
    With sparsity, one operand holds the stored elements alone, and `positions` is where in its group each of them (each run of
    them) belongs. With a codebook, `tables_a` and `tables_b` are the tables of that row and that column along K, one per group.
    """
    if spec.codebook:
        a, b = looked_up(spec.codebook.a, a, tables_a, 1), looked_up(spec.codebook.b, b, tables_b, 0)
        spec = spec.dense
    if spec.sparsity:
        a, b = gathered(spec.sparsity, a, b, positions)
        spec = spec.dense
    running = read(spec, spec.c_format, c, spec.flush_c)
    d = written(spec, running)
    for first in range(0, len(a), spec.shape.k):
        part = slice(first, first + spec.shape.k)
        value = instruction(spec, a[part], b[part], running, scale_a, scale_b, first, draw)
        d = written(spec, joined(spec, value))
        running = value if spec.remainder else read(spec, spec.accumulator, d, spec.flush_c)
    return d


def instruction(
    spec: Instruction,
    a: Sequence[int],
    b: Sequence[int],
    c: Term,
    scale_a: Scales,
    scale_b: Scales,
    first: int,
    draw: Draw = no_draw,
) -> Term:
    """Return what one instruction leaves in the last stage's register; `first` is the index of its first k along K."""
    terms = products(spec, a, b)
    if spec.scaled_stage == -1:
        terms = scaled(spec, terms, 1, scale_a, scale_b, first)
    *inner, last = spec.stages.values()
    for index, stage in enumerate(inner):
        blocks = deal(stage, terms)
        chain = stage.chain or 1
        start = term(spec.accumulator, 0)
        bits = draws(spec, index, first * len(blocks) // len(a), draw)
        terms = [run(stage, blocks[i : i + chain], start, bits, i) for i in range(0, len(blocks), chain)]
        if spec.scaled_stage == index:
            terms = scaled(spec, terms, len(a) // len(terms), scale_a, scale_b, first)
    blocks = deal(last, terms)
    return run(last, blocks, c, draws(spec, len(inner), first * len(blocks) // len(a), draw))


def draws(spec: Instruction, index: int, before: int, draw: Draw) -> Draw:
    """Return `draw` for one stage and instruction: blocks are counted from `before`, registers from the stage's first."""
    own = spec.register_number(index)
    return lambda block, register: draw(before + block, own + register)


def written(spec: Instruction, value: Term) -> int:
    """Return the code of D for the value of the last register.

    The accumulator holds every number of that register, so nothing is rounded. An infinity stays one if the accumulator
    has infinities, whatever its overflow rule.
    """
    if value.number.special == "nan" and spec.nan_code is not None:
        return spec.nan_code
    return encode(spec.accumulator, value.number, overflow=spec.accumulator.kept_infinity)


def joined(spec: Instruction, value: Term) -> Term:
    """Return the last running value with its remainder, rounded to D's format as to the last register."""
    *_, last = spec.stages.values()
    if value.rest is None:
        return value
    total = exact_sum([value.number, value.rest.number], last)
    return put(last.model_copy(update={"result": (spec.joining,)}), total, None)


def run(stage: Stage, blocks: Sequence[Sequence[Term]], running: Term, draw: Draw = no_draw, number: int = 0) -> Term:
    """Return the running value after adding block after block; without an accumulator, the sum of the last block.

    `number` is the number of the first block.
    """
    for i, block in enumerate(blocks, number):
        bits = partial(draw, i)
        if stage.remainder:
            running = run_in_two(stage, stage.remainder, block, running)
        else:
            running = put(stage, *add(stage, block, running if stage.accumulator else None), bits)
    return running


def run_in_two(stage: Stage, remainder: Remainder, block: Sequence[Term], running: Term) -> Term:
    """Return the running value after adding a block, with what its register lost as `rest`. A zero rest is no term."""
    rest = [] if running.rest is None else [running.rest]
    if remainder.joins == "block":
        block = [rounded(Term(*add(stage, [*block, *rest], None)), remainder.register)]
    total, aligned_to = add(stage, [*block, *rest] if remainder.joins == "sum" else block, running)
    value = put(stage, total, aligned_to)
    if total.special or value.number.special:
        return value
    lost = [total, replace(value.number, negative=not value.number.negative)]
    lost += [x.number for x in rest if remainder.joins == "end"]
    kept = rounded(Term(exact_sum(lost, stage), None), remainder.register)
    return value if kept.number.is_zero else replace(value, rest=kept)


def deal(stage: Stage, terms: Sequence[Term]) -> list[Sequence[Term]]:
    """Return the blocks of a stage: neighbouring terms, or runs of terms dealt out to several blocks or chains in turn."""
    if stage.interleave is None:
        return [terms[i : i + stage.terms] for i in range(0, len(terms), stage.terms)]
    run_length, parts = stage.interleave.run, stage.interleave.parts
    hands = [
        [terms[start + j] for j in range(stage.dealt) if (j // run_length) % parts == part]
        for start in range(0, len(terms), stage.dealt)
        for part in range(parts)
    ]
    return [hand[i : i + stage.terms] for hand in hands for i in range(0, len(hand), stage.terms)]


def looked_up(
    codebook: Codebook | None, indices: Sequence[int], tables: Sequence[Sequence[int]], k_axis: int
) -> Sequence[int]:
    """Return the codes that the indices of a row or column stand for; the codes themselves without a codebook."""
    if codebook is None:
        return indices
    along = codebook.group[k_axis] if codebook.group else len(indices)
    return [tables[k // along][index] for k, index in enumerate(indices)]


def gathered(
    sparsity: Sparsity, a: Sequence[int], b: Sequence[int], positions: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    """Return the operands without the elements that sparsity leaves out; one of them is stored that way."""
    kept, of, run = sparsity.kept, sparsity.of, sparsity.run
    ks = [(i // kept * of + p) * run + j for i, p in enumerate(positions) for j in range(run)]
    return (a, [b[k] for k in ks]) if sparsity.operand == "a" else ([a[k] for k in ks], b)


# -- terms -----------------------------------------------------------------------------------------------------------


def term(fmt: Format, code: int) -> Term:
    """Return a number of a format as a term.

    It aligns with its exponent field: a subnormal as the smallest normal number, an integer with that of its last bit, 0, a
    number of a table with that of its leading bit.
    """
    number = decode(fmt, code)
    if number.special or number.is_zero:
        return Term(number, None)
    if fmt.kind == "table":
        return Term(number, number.leading_exponent)
    return Term(number, number.exponent + (fmt.mantissa_bits if fmt.kind == "float" else 0))


def read(spec: Instruction, fmt: Format, code: int, flush: bool | str) -> Term:
    """Return an element of A, B or C as a term; `flush` is the rule for subnormals (`flush_operands`, `flush_c`)."""
    value = term(fmt, code)
    tiny = fmt.kind == "float" and not value.number.special and value.number.significand < 1 << fmt.mantissa_bits
    negative = flush == "keep-sign" and value.number.negative
    return Term(Number(negative, 0, 0), None) if flush and tiny else value


def operand(spec: Instruction, fmt: Format, code: int) -> Term:
    """Return an element of A or B as a term. Widened to a format with more exponents, a subnormal aligns by leading bit."""
    value = read(spec, fmt, code, spec.flush_operands)
    if spec.widen is None or value.exponent is None:
        return value
    return Term(value.number, max(value.number.leading_exponent, spec.widen.min_exponent))


def products(spec: Instruction, a: Sequence[int], b: Sequence[int]) -> list[Term]:
    """Return the exact products a[k] * b[k]; those of at least 2**`infinite_from` are infinities.

    A zero product has the sign of its operands' product, that of two integers plus.
    """
    result = [times(operand(spec, spec.a, x), operand(spec, spec.b, y)) for x, y in zip(a, b, strict=True)]
    if spec.a.kind == spec.b.kind == "integer":
        result = [Term(Number(False, 0, 0), None) if t.number.is_zero else t for t in result]
    limit = spec.infinite_from
    if limit is None:
        return result

    def is_infinite(number: Number) -> bool:
        return not number.special and not number.is_zero and number.leading_exponent >= limit

    return [Term(infinity(t.number.negative), None) if is_infinite(t.number) else t for t in result]


def times(x: Term, y: Term) -> Term:
    """Return the product of two terms, exact and not normalised; their alignment exponents are added."""
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
    spec: Instruction, terms: Sequence[Term], span: int, scale_a: Scales, scale_b: Scales, first: int = 0
) -> list[Term]:
    """Return each term multiplied by the scales of its groups; term number i sums the `span` products from first + i * span."""
    scale = spec.scale
    assert scale is not None
    levels: list[tuple[ScaleLevel, int, Any]] = []
    for side, axis, codes in ((scale.a, 1, scale_a), (scale.b, 0, scale_b)):
        if side:
            of_levels = codes if side.coarser else [codes]
            levels += [(level, axis, own) for level, own in zip(side.levels, of_levels, strict=True)]
    result = []
    for i, value in enumerate(terms):
        k = first + i * span
        factors = [term(level.format, own[k // level.along(axis)]) for level, axis, own in levels]
        if scale.product:
            factors = [rounded(reduce(times, factors), scale.product)]
        for factor in [*factors, Term(Number(False, 1, scale.power), scale.power)]:
            value = times(value, factor)
        result.append(rounded(value, scale.result) if scale.result else value)
    return result


# -- sums ------------------------------------------------------------------------------------------------------------


def add(stage: Stage, block: Sequence[Term], running: Term | None) -> tuple[Number, int | None]:
    """Return the sum of a block and of the running value, if given, and the exponent it was aligned to.

    A NaN, or infinities of both signs, give NaN; infinities of one sign give that infinity.
    """
    terms = [*block] if running is None else [*block, running]
    specials = {(t.number.special, t.number.negative and t.number.special == "infinity") for t in terms}
    if ("nan", False) in specials or {("infinity", False), ("infinity", True)} <= specials:
        return NAN, None
    for negative in (False, True):
        if ("infinity", negative) in specials:
            return infinity(negative), None

    own = [t.exponent if t.exponent is None or t is not running else t.exponent + stage.offset for t in terms]
    exponents = [stage.zero_exponent if e is None else e for e in own]
    largest = max((e for e in exponents if e is not None), default=None)
    kept = []
    for t in terms:
        fraction_bits = stage.fraction_bits
        if t is running:
            fraction_bits = stage.accumulator_fraction_bits
            if is_dropped(stage, t, largest):
                continue
        if fraction_bits is None or largest is None:
            kept.append(t.number)  # an exact sum, or zeros alone
        else:
            assert stage.rounding is not None
            kept.append(cut(t.number, largest - fraction_bits, stage.rounding))
    if stage.opposing == "complement" and running and not all(t.number.is_zero for t in terms):
        assert largest is not None
        assert stage.fraction_bits is not None
        against = [t for t in block if t.number.negative != running.number.negative]
        kept.append(Number(not running.number.negative, len(against), largest - stage.fraction_bits))
    return exact_sum(kept, stage), largest


def is_dropped(stage: Stage, running: Term, largest: int | None) -> bool:
    """Return whether the running value is too far below the largest exponent to take part in the sum."""
    if stage.drop_beyond is None or running.exponent is None or largest is None:
        return False
    return running.exponent < largest - stage.drop_beyond


def cut(number: Number, unit: int, rounding: Rounding) -> Number:
    """Return a number rounded to a multiple of 2**unit."""
    steps = shift_right(number.significand, unit - number.exponent, rounding, number.negative)
    return Number(number.negative, steps, unit)


def exact_sum(numbers: Sequence[Number], stage: Stage) -> Number:
    """Return the sum without rounding. A zero sum is positive, or (`ieee`) negative if every term is."""
    unit = min(n.exponent for n in numbers)
    total = sum((-1) ** n.negative * (n.significand << (n.exponent - unit)) for n in numbers)
    negative = total < 0
    if total == 0 and stage.zero == "ieee":
        negative = all(n.negative for n in numbers)
    return Number(negative, abs(total), unit)


# -- registers -------------------------------------------------------------------------------------------------------


def put(stage: Stage, total: Number, aligned_to: int | None, draw: Callable[[int], int] = lambda _: 0) -> Term:
    """Return a sum rounded to the stage's registers; without a register, as it is, with the exponent it was aligned to.

    `draw` gives 32 random bits to the register of a number.
    """
    if not stage.result:
        fixed = stage.exponent is not None and aligned_to is not None
        return Term(total, stage.exponent if fixed else aligned_to)
    value = Term(total, aligned_to)
    for i, register in enumerate(stage.result):
        value = rounded(value, register, draw(i) if register.random_bits else 0)
    if value.number.is_zero and stage.zero == "positive":
        return Term(Number(False, 0, value.number.exponent), None)
    return value


def rounded(value: Term, register: Register, word: int = 0) -> Term:
    """Return a term rounded to a register; it then aligns as a number of the register's format.

    A stochastic register adds the upper `random_bits` of a random word, 32 bits, to the bits below its last place.
    """
    if value.number.special == "nan" and register.format.nan_code is None and register.format.kind == "float":
        return value
    bits = register.random_bits or 0
    draw = word >> (32 - bits)
    code = encode(register.format, value.number, register.rounding, register.overflow, draw, bits)
    result = term(register.format, code)
    is_subnormal = not result.number.special and result.number.significand < 1 << register.format.mantissa_bits
    if register.subnormals == "flush" and is_subnormal:
        return term(register.format, encode(register.format, Number(value.number.negative, 0, 0)))
    return result
