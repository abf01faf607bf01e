"""Ports of a unit and limits of the generator, derived from the spec without Amaranth."""

from __future__ import annotations

from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction


def scale_counts(spec: Instruction) -> tuple[int, int]:
    """Return the numbers of scales of A and of B that one step uses."""
    if spec.scale is None:
        return 0, 0
    a, b = spec.scale.a, spec.scale.b
    return -(-spec.span // a.group[1]) if a else 0, -(-spec.span // b.group[0]) if b else 0


def shared_uses(spec: Instruction) -> int:
    """Return the number of steps of units that share one product of scales; 1 if none is shared.

    A product that the spec rounds is formed once per group of K, and for all rows and columns that share both scales, by a
    multiplier outside the dot-product units.
    """
    scale = spec.scale
    if scale is None or scale.product is None or scale.product.format.nan_code is None:
        return 1
    assert scale.a
    assert scale.b
    steps = min(scale.a.group[1], scale.b.group[0]) // spec.span
    return max(steps, 1) * scale.a.group[0] * scale.b.group[1] if scale_counts(spec) == (1, 1) else 1


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


def ports(spec: Instruction, shared: bool = False) -> dict[str, int]:
    """Return the bits of the unit's inputs. Element i of a vector starts at bit i times the element's bits.

    If `shared`, the unit has one input `scale` for the product of its scales.
    """
    widths = {"a": spec.span * spec.a.bits, "b": spec.span * spec.b.bits, "c": spec.c_format.bits}
    if shared:
        assert spec.scale
        assert spec.scale.product
        return {**widths, "scale": spec.scale.product.format.bits}
    return widths | scale_ports(spec)


def scale_ports(spec: Instruction) -> dict[str, int]:
    """Return the bits of the inputs for scales."""
    widths = {}
    if spec.scale and spec.scale.a:
        widths["scale_a"] = scale_counts(spec)[0] * spec.scale.a.format.bits
    if spec.scale and spec.scale.b:
        widths["scale_b"] = scale_counts(spec)[1] * spec.scale.b.format.bits
    return widths


def check(spec: Instruction) -> None:
    """Raise InputError if the generator does not support an instruction."""
    if spec.is_integer and (len(spec.stages) > 1 or len(next(iter(spec.stages.values())).result) > 1):
        raise InputError.of(
            f"{spec.name}: an integer instruction of several stages or registers is not supported in hardware"
        )
    if spec.is_stochastic:
        raise InputError.of(
            f"{spec.name}: a register that rounds stochastically is not supported in hardware",
            "the same instruction with another rounding, which has all but the generator and the adder of random bits",
        )
    if any(side.coarser for side in spec.scales):
        raise InputError.of(
            f"{spec.name}: several levels of scales are not supported in hardware",
            "the same instruction without `coarser`, whose scales are the products of all levels",
        )
    for fmt in (spec.a, spec.b, *(side.format for side in spec.scales)):
        if fmt.kind == "table":
            raise InputError.of(
                f"{spec.name}: {fmt.name} is a table of numbers, whose decoder is not supported in hardware",
                "the floating-point format whose numbers the table selects from: the unit behind the decoder",
            )
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
    for name, stage in spec.stages.items():
        if stage.aligned and stage.exponent is not None:
            raise InputError.of(
                f"{spec.name}: stage `{name}` aligns to its largest term and goes up with the fixed `exponent` "
                f"{stage.exponent}: no adder has the places for both, so it is not supported in hardware",
                "an exact sum may have a fixed exponent; an aligned one goes up with its own",
            )
        if stage.interleave and spec.span % stage.dealt:
            raise InputError.of(
                f"{spec.name}: stage `{name}` interleaves more terms than the {spec.span} products of one step",
                "interleave within one step, or leave the order to the wiring outside the unit",
            )
