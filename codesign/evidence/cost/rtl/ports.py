"""Ports of a unit and limits of the generator, derived from the spec without Amaranth."""

from __future__ import annotations

from typing import NamedTuple

from isa_model.diagnostics import InputError
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.operand_fields import ScaleLevel
from isa_model.rounding import Rounding
from isa_model.stage import Stage


class ScalePort(NamedTuple):
    """An input for the scales of one level of an operand."""

    name: str
    is_a: bool
    level: ScaleLevel
    k_group: int
    """Products along K that share a scale."""
    per_step: int
    """Number of scales that one step uses."""


def scale_inputs(spec: Instruction) -> list[ScalePort]:
    """Return the inputs for scales: those of A, then those of B, the finest level first."""
    scale, found = spec.scale, []
    for name, side, axis in (("scale_a", scale and scale.a, 1), ("scale_b", scale and scale.b, 0)):
        for i, level in enumerate(side.levels if side else ()):
            group = level.along(axis)
            found.append(ScalePort(f"{name}_{i}" if i else name, axis == 1, level, group, -(-spec.span // group)))
    return found


class Draw(NamedTuple):
    """A place of a step where random bits are drawn, by numbers counted from 0."""

    stage: int
    block: int
    register: int
    """Register of the stage."""


def draws(spec: Instruction) -> list[Draw]:
    """Return the draws of one step, in the order of the elements of the input `random`."""
    found = []
    for index, stage in enumerate(spec.stages.values()):
        blocks = spec.span // spec.products_per_result(index) * (stage.chain or 1)
        places = [i for i, register in enumerate(stage.result) if register.random_bits]
        found += [Draw(index, block, i) for block in range(blocks) for i in places]
    return found


def draw_bits(spec: Instruction) -> int:
    """Return the bits of an element of the input `random`, of which a register takes the upper ones."""
    return max((r.random_bits or 0 for stage in spec.stages.values() for r in stage.result), default=0)


def registers(spec: Instruction) -> dict[str, Format]:
    """Return the formats of the registers that a step hands to the next, by input and output; none where D does."""
    if spec.remainder is None:
        return {}
    *_, last = spec.stages.values()
    return {"running": last.result[-1].format, "rest": spec.remainder.format}


def results(spec: Instruction) -> dict[str, int]:
    """Return the bits of the unit's outputs: D and, of a running value in two registers, both of them."""
    return {"d": spec.accumulator.bits} | {name: fmt.bits for name, fmt in registers(spec).items()}


def sums_two(spec: Instruction) -> bool:
    """Return whether C, both registers and their sums are of one format, rounded to nearest: Kahan's summation."""
    *_, last = spec.stages.values()
    nearest = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY)
    formats = [last.result[-1].format, spec.c_format] if last.result else []
    return (
        spec.remainder is not None
        and spec.remainder.joins == "block"
        and not spec.flush_c
        and last.result[-1].rounding in nearest
        and all(fmt == spec.remainder.format for fmt in formats)
    )


def shared_uses(spec: Instruction) -> int:
    """Return the number of steps of units that share one product of scales; 1 if none is shared.

    A product that the spec rounds is formed once per group of K, and for all rows and columns that share both scales, by a
    multiplier outside the dot-product units.
    """
    scale = spec.scale
    if scale is None or scale.product is None or scale.product.format.nan_code is None:
        return 1
    if scale.a is None or scale.b is None:  # levels of one operand
        return 1
    steps = min(scale.a.group[1], scale.b.group[0]) // spec.span
    alone = all(port.per_step == 1 for port in scale_inputs(spec))
    return max(steps, 1) * scale.a.group[0] * scale.b.group[1] if alone else 1


def sums_integers(spec: Instruction) -> bool:
    """Return whether the first of several stages sums integer products exactly, in one integer register."""
    first = next(iter(spec.stages.values()))
    return (
        len(spec.stages) > 1
        and not spec.is_integer
        and not first.aligned
        and len(first.result) == 1
        and first.result[0].format.kind == "integer"
    )


def chained_stage(spec: Instruction) -> Stage | None:
    """Return the first stage of an instruction that can be folded (`rtl.folded`): one chain of sums through a register.

    Stages and scales after it are what several units can share. The result is None for another instruction.
    """
    first, *others = spec.stages.values()
    one_chain = first.chain is not None and first.chain * first.terms == spec.span and first.interleave is None
    plain = not (spec.is_stochastic or sums_integers(spec) or spec.scaled_stage == -1 or spec.remainder)
    kept = first.accumulator is True and first.result and first.result[-1].format.nan_code is not None
    return first if others and one_chain and plain and kept and first.chain != 1 else None


def ports(spec: Instruction, shared: bool = False) -> dict[str, int]:
    """Return the bits of the unit's inputs. Element i of a vector starts at bit i times the element's bits.

    A unit whose running value has two registers starts from C if `first` is set, else from `running` and `rest`.
    If `shared`, the unit has one input `scale` for the product of its scales.
    """
    widths = {"a": spec.span * spec.a.bits, "b": spec.span * spec.b.bits, "c": spec.c_format.bits}
    if spec.remainder:
        widths |= {name: fmt.bits for name, fmt in registers(spec).items()} | {"first": 1}
    if spec.is_stochastic:
        widths["random"] = len(draws(spec)) * draw_bits(spec)
    if shared:
        assert spec.scale
        assert spec.scale.product
        return {**widths, "scale": spec.scale.product.format.bits}
    return widths | scale_ports(spec)


def scale_ports(spec: Instruction) -> dict[str, int]:
    """Return the bits of the inputs for scales."""
    return {port.name: port.per_step * port.level.format.bits for port in scale_inputs(spec)}


def check(spec: Instruction) -> None:
    """Raise InputError if the generator does not support an instruction."""
    if spec.is_integer and (len(spec.stages) > 1 or len(next(iter(spec.stages.values())).result) > 1):
        raise InputError.of(
            f"{spec.name}: an integer instruction of several stages or registers is not supported in hardware"
        )
    for fmt in (spec.a, spec.b) if spec.is_integer or sums_integers(spec) else ():
        if fmt.kind != "integer":
            message = f"{spec.name}: integer sums of products of {fmt.name} are not supported in hardware"
            raise InputError.of(message, "operands in two's complement, such as int12")
    for index, (name, stage) in enumerate(spec.stages.items()):
        whole = any(register.format.kind == "integer" for register in stage.result)
        if whole and not spec.is_integer and not (index == 0 and sums_integers(spec)):
            raise InputError.of(
                f"{spec.name}: stage `{name}` has an integer register for more than an exact sum of integer products, "
                "which is not supported in hardware",
                "give the first stage a single integer register, and no `fraction_bits`",
            )
    if spec.widen is not None and any(spec.widen.min_exponent > x.min_exponent for x in (spec.a, spec.b)):
        raise InputError.of(f"{spec.name}: widening into a format of fewer exponents is not supported in hardware")
    if spec.sparsity is not None:
        raise InputError.of(
            f"{spec.name}: the multiplexers that pick elements by their positions are not generated in hardware",
            "the dot-product unit behind them is that of the dense instruction: `sparsity: null`, with k as it is stored",
        )
    if spec.codebook is not None:
        raise InputError.of(
            f"{spec.name}: the tables that operands are looked up in are not generated in hardware",
            "the dot-product unit behind them is that of `codebook: null`; a table of fixed numbers may be a format",
        )
    for name, stage in spec.stages.items():
        if stage.remainder:
            _check_remainder(spec, name, stage)
        if stage.opposing == "complement" and stage.rounding is not Rounding.TOWARD_ZERO:
            raise InputError.of(
                f"{spec.name}: stage `{name}` inverts opposing terms that are rounded {stage.rounding}, which is not "
                "supported in hardware",
                "`rounding: toward-zero`, as shipped adders cut them",
            )
        if stage.aligned and stage.exponent is not None:
            raise InputError.of(
                f"{spec.name}: stage `{name}` aligns to its largest term and is passed on with the fixed `exponent` "
                f"{stage.exponent}: one adder cannot do both, so it is not supported in hardware",
                "an exact sum may have a fixed exponent; an aligned one is passed on with its own",
            )
        if stage.interleave and spec.span % stage.dealt:
            raise InputError.of(
                f"{spec.name}: stage `{name}` interleaves more terms than the {spec.span} products of one step",
                "interleave within one step, or leave the order to the wiring outside the unit",
            )


def _check_remainder(spec: Instruction, name: str, stage: Stage) -> None:
    """Raise InputError for a running value of two registers whose sums lose what no adder here gives back."""
    register, *others = stage.result
    fmt = register.format
    if others:
        raise InputError.of(
            f"{spec.name}: stage `{name}` rounds to {len(stage.result)} registers and has a `remainder`, which is not "
            "supported in hardware",
            "a single `result`",
        )
    if fmt.nan_code is None or not (fmt.signed and fmt.zero):
        raise InputError.of(
            f"{spec.name}: stage `{name}` has a `remainder` beside a register of {fmt.name}, which cannot hand a NaN, a sign "
            "or a zero to the next step",
            "a `result` with all three",
        )
    rule, nearest = register.overflow or fmt.overflow, (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY)
    if rule == "saturate" or (rule == "ieee" and register.rounding not in nearest):
        raise InputError.of(
            f"{spec.name}: stage `{name}` has a `remainder` beside a register that can stop at its largest number: what it "
            "then loses is not supported in hardware",
            "`overflow: infinity`" if fmt.infinity else "`overflow: nan`",
        )
