"""Error bounds of an instruction, derived from its stages. docs/bounds.md gives the argument and the formulas.

A `Sums` describes all possible results of a stage: how far they can be from the exact sums of their products, relative to
the sum of the products' magnitudes (here called mass), and which exponents they align with. `bound` starts from the
products and goes from stage to stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, floor, inf, ldexp, log2, sqrt

from codesign.evidence.bounds.remainders import Kept, both_registers, limit
from codesign.evidence.bounds.rounding_errors import (
    NOTHING,
    Errors,
    compounded,
    of_mode,
    of_registers,
    power_of_two,
    times,
)
from codesign.evidence.bounds.terms import Factor, Sums, bits_of, exp2, held, products, scaled
from isa_model.codec import largest_finite
from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction
from isa_model.rounding import Rounding
from isa_model.stage import Register, Stage

SLACK = 1 + 2.0**-40
"""Factor by which bounds are rounded up: more than float64 arithmetic loses on the way."""


@dataclass(frozen=True)
class Step:
    """Errors that one stage adds."""

    stage: str
    steps: int
    """Blocks that are added one after the other."""
    products: int
    """Products along K that one block sums, with those that sparsity leaves out."""
    terms: Errors
    """Errors of the terms before they are scaled, relative to their mass."""
    scales: Errors
    """Errors of rounding the product of scales and the scaled term, relative to the term."""
    block: Errors
    """Errors of cutting terms to a block's largest term, relative to that term's mass."""
    running: Errors
    """Errors of cutting terms to the running value, relative to it, for each block but the first."""
    register: Errors
    """Errors of rounding a block's sum to the register, relative to that sum."""
    further: int
    """Blocks in which anything can be lost against the running value."""
    rounded: int
    """Blocks in which the register can round."""
    kept: Kept | None = None
    """Errors of a running value in two registers, which are those of `register` and part of those of `block`."""
    joined: Errors = NOTHING
    """Errors of rounding both registers of a running value to D, relative to their sum."""


@dataclass(frozen=True)
class Bound:
    """Bounds of D - exact for K products; exact is C plus the sum of the products of operands and scales as they are read.

    With S = |C| + the sum of the products' magnitudes, |D - exact| <= worst * S + absolute, as long as no sum or product
    overflows, and scales are normal numbers, their product too where it is rounded.
    """

    k: int
    worst: float
    """Largest relative error."""
    mean: float
    """Largest relative error of the mean over the parts that roundings discard, if these are uniformly distributed."""
    deviation: float
    """Square root of the sum of squares of the roundings' largest deviations from their means, relative."""
    absolute: float
    """Absolute error beside it, for scales of at most 1 in all; it grows in proportion to them."""
    mass: float
    """Largest sum of magnitudes that the formats of A and B allow without scales."""
    inward: bool
    """True if every rounding is towards zero: a sum of products of one sign is then never larger than exact."""
    overflow: float
    """Sum of magnitudes up to which no register overflows."""
    steps: tuple[Step, ...]

    def probable(self, factor: float = 5.0) -> float:
        """Return the relative error that is exceeded with a probability of at most 2 exp(-factor**2 / 2).

        Roundings must have independent errors, and discard uniformly distributed parts (Hoeffding; Higham and Mary 2019).
        """
        return min(self.worst, self.mean + factor * self.deviation)


def bound(instruction: Instruction, k: int, c: bool = False, normal: bool = False) -> Bound:
    """Return the bounds for sums over `k` products, filled up with zeros to whole instructions.

    `c` allows any C that its format holds; without it sums start from zero. `normal` excludes subnormal operands.
    Raises ValueError unless `k` is positive. Raises InputError for inverted terms and offsets above 0, for which no bound is
    derived.
    """
    if k < 1:
        raise ValueError(f"k = {k}: expected at least 1")
    check(instruction)
    whole = -(-k // instruction.shape.k)
    spec = instruction.dense
    every = whole * spec.shape.k
    sums = products(spec, normal)
    mass = k * exp2(sums.highest)
    steps, spanned = [], 1
    overflow = inf if spec.infinite_from is None else power_of_two(spec.infinite_from) * (1 - 2.0**-50)
    for index, (name, stage) in enumerate(spec.stages.items()):
        terms, scales = sums.errors, NOTHING
        if spec.scaled_stage == index - 1:
            scales = scaled(spec, replace(sums, errors=NOTHING), spanned).errors
            sums = scaled(spec, sums, spanned)
            overflow = min(overflow, *(_limit(r, sums, spec) for r in (spec.scale and spec.scale.result,) if r), inf)
        last = index == len(spec.stages) - 1
        blocks = every // (spanned * stage.terms) if last else stage.chain or 1
        step = _step(spec, stage, sums, blocks, c and last)
        lowest = _lowest(spec, sums, c and last)
        sums = _after(spec, stage, sums, step, c and last)
        steps.append(
            replace(
                step,
                stage=name,
                products=spanned * stage.terms * instruction.shape.k // spec.shape.k,
                terms=terms,
                scales=scales,
            )
        )
        overflow = min(overflow, *(_limit(r, sums, spec) for r in stage.result), inf)
        if stage.remainder and step.kept:
            overflow = min(overflow, limit(stage.remainder.register, step.kept, sums.errors.worst, sums.absolute))
            joined, underflow = of_registers((spec.joining,), lowest, inf, None)
            absolute = sums.absolute * (1 + joined.worst) + underflow
            sums = replace(sums, errors=sums.errors.then(joined), absolute=absolute)
            steps[-1] = replace(steps[-1], joined=joined)
            overflow = min(overflow, _limit(spec.joining, sums, spec))
        spanned *= stage.inputs
    errors = sums.errors
    return Bound(
        k=k,
        worst=errors.worst * SLACK,
        mean=min(errors.mean, errors.worst) * SLACK,
        deviation=sqrt(errors.variance) * SLACK,
        absolute=sums.absolute * SLACK,
        mass=mass,
        inward=errors.inward,
        overflow=overflow,
        steps=tuple(steps),
    )


def check(spec: Instruction) -> None:
    """Raise InputError for an instruction whose sums have no bound here."""
    for name, stage in spec.stages.items():
        fields = {"opposing": stage.opposing != "negate", "offset": stage.offset > 0}
        field = next((field for field, there in fields.items() if there), "")
        if field:
            message = f"{spec.name}: no error bound is derived for `{field}` of stage `{name}`"
            raise InputError.of(message, "the bound of the same instruction without it; `numerics` measures its errors")


def is_bounded(spec: Instruction) -> bool:
    """Return whether the sums of an instruction have a bound here."""
    try:
        check(spec)
    except InputError:
        return False
    return True


def _limit(register: Register, sums: Sums, spec: Instruction) -> float:
    """Return the mass up to which a register does not overflow."""
    fmt = register.format
    if not fmt.signed and (spec.a.signed or spec.b.signed or spec.c_format.signed):
        return 0.0
    largest = float(fmt.max_finite_magnitude) if fmt.kind == "integer" else largest_finite(fmt)
    room = largest if sums.errors.inward else (largest - sums.absolute) / (1 + sums.errors.worst)
    return room if room > 0 else 0.0


# -- sums ------------------------------------------------------------------------------------------------------------


def _step(spec: Instruction, stage: Stage, sums: Sums, blocks: int, c: bool) -> Step:
    """Return the errors that a stage adds, relative to the values that its terms are aligned to."""
    n, block, running = stage.terms + _further_term(stage), NOTHING, NOTHING
    highest = inf if c else sums.highest + log2(n * blocks) + _growth(stage, sums, blocks)
    lowest = _lowest(spec, sums, c)
    if stage.fraction_bits is not None:
        assert stage.rounding is not None
        mode, kept, own = stage.rounding, stage.fraction_bits, stage.accumulator_fraction_bits or 0
        top = float(_largest_exponent(stage, sums))
        if stage.accumulator and (blocks > 1 or c):
            reached = inf if highest == inf else floor(highest)
            top = max(top, reached if c else min(reached, stage.result[-1].format.max_exponent))
        term = _cut(mode, kept, top - sums.lowest)
        least_kept = min(
            bits for bits in (kept, own if stage.accumulator else kept, stage.drop_beyond) if bits is not None
        )
        weight = sums.weight_where(-inf if c else sums.lowest + least_kept + 1)
        largest_too = sums.bits is None or sums.bits > kept
        done, block = 1, NOTHING
        for alike, part in _alike(
            stage, sums
        ):  # beside terms with its scales, a term weighs what it weighs without them
            cut = _cut(mode, kept, part.top - part.lowest)
            block = block.beside(cut.times(part.weight_where(part.lowest + least_kept + 1), alike - done))
            done = alike
        block = block.beside(term.times(weight, stage.terms - done + largest_too))
        if stage.accumulator:
            held = max(bits_of(stage.result[-1].format), bits_of(spec.c_format) if c else 0)
            value = _cut(mode, own, top - lowest)
            running = term.times(1.0, n).beside(value if held > own - stage.offset else NOTHING)
            running = running.times(ldexp(1.0, stage.offset))  # it aligns that much below its own exponent
            if blocks > 1 or c:
                block = block.beside(value.or_else(_left_out(stage)).times(weight))
                block = block.beside(term.times(weight, _further_term(stage)))
    register, _ = of_registers(stage.result, lowest, highest, _significant(stage, sums))
    further, rounded = (blocks, blocks) if c else _lossy(stage, sums, blocks, lowest)
    two = both_registers(stage, register, blocks, lowest) if stage.remainder else None
    if two:
        register, inward = two.register, two.register.inward
        block, running = (replace(e, inward=e.inward and inward) for e in (block, running))
        block, running = block.beside(two.block), running.times(two.larger)
    return Step("", blocks, 0, NOTHING, NOTHING, block, running, register, further, rounded, two)


def _further_term(stage: Stage) -> int:
    """Return 1 if the second register of the running value is a term of the sum, else 0."""
    return int(stage.remainder is not None and stage.remainder.joins == "sum")


def _cut(mode: Rounding, kept: int, bits: float) -> Errors:
    """Return the error of cutting a number with `bits` bits below the largest exponent to `kept` of them."""
    return of_mode(mode, depth=bits - kept).times(ldexp(1.0, -kept)) if bits > kept else NOTHING


def _lossy(stage: Stage, sums: Sums, blocks: int, lowest: int) -> tuple[int, int]:
    """Return how often the running value is cut to, and the register rounds: not while sums are small multiples of a unit."""
    mass = 2.0 ** min(max(sums.highest + log2(stage.terms) + _growth(stage, sums, blocks) - lowest, -900), 1000)
    kept = [stage.fraction_bits, stage.accumulator_fraction_bits, stage.drop_beyond]
    bits = min((x for x in kept if x is not None), default=0)
    registers = [r.format.mantissa_bits for r in stage.result if r.format.kind == "float"]
    cut_from = max(ceil(2.0 ** (bits + 1) / mass), 1)
    rounded_from = floor(2.0 ** (min(registers, default=0) + 1) / mass)
    return max(blocks - cut_from, 0), max(blocks - rounded_from, 0)


def _alike(stage: Stage, sums: Sums) -> Iterator[tuple[int, Sums]]:
    """Yield how many terms of a block surely share scales with its largest term, itself included, and those without them."""
    n = stage.terms
    for run, own in sums.within:
        if not stage.interleave and (n % run == 0 or run % n == 0 or run > 1 << 40):
            yield min(n, run), own
            if run >= n:
                return


def _lowest(spec: Instruction, sums: Sums, c: bool) -> int:
    """Return the power of two of which every term and the running value are multiples."""
    return min(sums.lowest, spec.c_format.min_lsb_exponent) if c else sums.lowest


def _left_out(stage: Stage) -> Errors:
    """Return the error of leaving out a running value far below the largest exponent."""
    if stage.drop_beyond is None:
        return NOTHING
    share = ldexp(1.0, -stage.drop_beyond)
    return Errors(share, share, 0.0, True)


def _largest_exponent(stage: Stage, sums: Sums) -> int:
    """Return the largest exponent that a block's own terms can align to."""
    return sums.top if stage.zero_exponent is None else max(sums.top, stage.zero_exponent)


def _significant(stage: Stage, sums: Sums) -> int | None:
    """Return the significant bits of a stage's sums, if there is a limit: those of a single term."""
    return sums.significant if stage.terms == 1 and not stage.accumulator else None


def _every(stage: Stage) -> float:
    """Return the error of a block all of whose terms are cut, relative to two to the exponent that they are aligned to."""
    if stage.fraction_bits is None or stage.rounding is None:
        return 0.0
    unit = ldexp(stage.terms + _further_term(stage), -stage.fraction_bits)
    unit += ldexp(1.0, -(stage.accumulator_fraction_bits or 0)) if stage.accumulator else 0.0
    return of_mode(stage.rounding).worst * unit + _left_out(stage).worst


def _growth(stage: Stage, sums: Sums, blocks: int) -> float:
    """Return the binary logarithm of the factor by which a stage's sums can exceed their mass; infinity for no bound."""
    registers = [of_mode(r.rounding) for r in stage.result if r.format.kind == "float"]
    cut = stage.rounding is None or of_mode(stage.rounding).inward
    if sums.errors.inward and cut and all(mode.inward for mode in registers):
        return 0.0
    if sums.absolute or sums.floor or stage.zero_exponent is not None:
        return inf
    grown = (
        log2(1 + sums.errors.worst)
        + log2(1 + times(_every(stage), sums.weight_where(-inf)))
        + blocks * log2(1 + _every(stage))
    )
    return grown + blocks * sum(log2(1 + 2.0**-r.format.mantissa_bits) for r in stage.result)


def _after(spec: Instruction, stage: Stage, sums: Sums, step: Step, c: bool) -> Sums:
    """Return what is known of a stage's results."""
    n, blocks, further, rounded = stage.terms, step.steps, step.further, step.rounded
    block, running, register = step.block, step.running, step.register
    inward = all(e.inward for e in (sums.errors, block, running, register))
    # A block's terms lose parts of their own mass; the running value loses, or makes others lose, in every further block.
    own = [sums.errors.beside(block)] if sums.errors.inward and block.inward else [sums.errors, block]
    worst, grown = compounded(own, [(running, further), (register, rounded)])
    mean = (sums.errors.mean + block.mean + running.mean * further + register.mean * rounded) * grown
    variance = sums.errors.variance + block.variance + running.variance * further + register.variance * rounded

    least = [r.format.min_exponent for r in stage.result if r.format.kind == "float"]
    least += [spec.c_format.min_exponent] if c and spec.c_format.kind == "float" else []
    least += [stage.remainder.format.min_exponent] if stage.remainder else []
    lost = times(_every(stage), sums.floor) + times(running.worst, power_of_two(max(least, default=-2000)))
    if stage.zero_exponent is not None and (block.worst or running.worst):
        lost += times(_every(stage), power_of_two(stage.zero_exponent))
    _, underflow = of_registers(stage.result, _lowest(spec, sums, c), inf, None)
    if step.kept:
        underflow = step.kept.underflow
    elif spec.flush_c and list(spec.stages.values())[-1] is stage:  # the next instruction reads a subnormal D as zero
        underflow += power_of_two(spec.accumulator.min_exponent)
    absolute = times((n * sums.absolute + lost + underflow) * blocks, grown)
    errors = Errors(worst, mean, variance * grown * grown, inward)
    made = replace(sums, errors=errors, absolute=absolute, highest=sums.highest + log2(n * blocks))
    if stage.result:
        return held(stage.result[-1].format, made)
    zero = 0.0 if stage.zero_exponent is None else power_of_two(stage.zero_exponent)
    made = replace(made, significant=_significant(stage, sums), top=_largest_exponent(stage, sums))
    if stage.exponent is not None:
        return replace(
            made,
            factors=(Factor(stage.exponent, stage.exponent),),
            weight=power_of_two(stage.exponent - sums.least),
            floor=power_of_two(stage.exponent) if zero or sums.floor else 0.0,
            bits=max(stage.exponent - sums.lowest, 0),
            top=stage.exponent,
        )
    bits = stage.fraction_bits if stage.aligned else sums.bits if n == 1 else None
    return replace(made, floor=max(sums.floor, zero), bits=bits)
