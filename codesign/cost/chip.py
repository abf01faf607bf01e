"""From a unit to the chip: what its extra gates are in an SM, with what is modelled and what is assumed kept apart."""

from __future__ import annotations

from dataclasses import dataclass

from codesign.cost.records import Record
from codesign.evidence import Alternative, Kind
from isa_model.instruction import Instruction

FP8_PRODUCTS_PER_CYCLE = 4096
"""Of one Hopper SM, dense; half of that for each doubling of operand bits. NVIDIA H100 data sheet: 1979 TFLOP/s of FP8 over
132 SMs at 1.83 GHz."""
TRANSISTORS_PER_SM = 80e9 / 144
"""Of the full GH100 die, everything beside the SMs counted with them: 80 billion transistors, 144 SMs (NVIDIA H100 Tensor
Core GPU Architecture, 2022)."""
SM_SHARE = (0.4, 0.55, 0.7)
"""Share of the die's transistors that are in SMs: least, taken, most. Assumed; the rest is L2, memory controllers, links."""
TRANSISTORS_PER_NAND2 = 4


@dataclass(frozen=True)
class ChipFigure:
    """A figure beyond the unit: its metric, value and range, what kind it is, and what it stands on."""

    metric: str
    value: float
    low: float
    high: float
    kind: Kind
    source: str
    alternatives: tuple[Alternative, ...] = ()


def sm_area(new: Record, old: Record, spec: Instruction) -> ChipFigure:
    """Area of an SM with the new units over that with the old ones, in transistors of logic; no wires, no extra registers."""
    products = FP8_PRODUCTS_PER_CYCLE * 8 / spec.a.bits

    def extra(area: float, base: float) -> float:
        return (area / new.products - base / old.products) * products * TRANSISTORS_PER_NAND2

    plain, staged = extra(new.area, old.area), extra(new.pipelined.area, old.pipelined.area)
    corners = [1 + e / (TRANSISTORS_PER_SM * share) for e in (plain, staged) for share in SM_SHARE]
    return ChipFigure(
        "cost.sm_area_ratio",
        1 + staged / (TRANSISTORS_PER_SM * SM_SHARE[1]),
        min(corners),
        max(corners),
        "assumed",
        f"{products / new.products:.0f} units of {new.products} products per SM (data sheet); "
        f"{SM_SHARE[0]:.0%} to {SM_SHARE[2]:.0%} of 80 billion transistors in 144 SMs (assumed)",
        (
            *(
                Alternative(
                    assumption="SMs' share of the die",
                    other=f"{share:.0%}",
                    value=round(1 + staged / (TRANSISTORS_PER_SM * share), 4),
                )
                for share in (SM_SHARE[0], SM_SHARE[2])
            ),
            Alternative(
                assumption="registers",
                other="none",
                value=round(1 + plain / (TRANSISTORS_PER_SM * SM_SHARE[1]), 4),
            ),
        ),
    )


def extra_cycles(new: Record, old: Record) -> ChipFigure:
    """Further cycles from operands to D when both units have registers every so many gates."""
    cycles = float(new.pipelined.cycles - old.pipelined.cycles)
    return ChipFigure(
        "cost.extra_cycles",
        cycles,
        cycles,
        cycles,
        "modelled",
        f"{new.pipelined.cycles} cycles of {new.pipelined.period_fo4:.0f} FO4 against {old.pipelined.cycles} of "
        f"{old.pipelined.period_fo4:.0f}, registers every {new.pipelined.levels} gates",
    )


def scale_traffic(spec: Instruction) -> ChipFigure:
    """Bits of scales over bits of operands, as both are stored: a scale of a block of rows or columns counts once for it."""
    bits = 0.0
    sides = (spec.scale.a, spec.scale.b) if spec.scale else (None, None)
    for side in sides:
        bits += side.format.bits / (side.group[0] * side.group[1]) if side else 0.0
    share = bits / (spec.a.bits + spec.b.bits)
    return ChipFigure("cost.scale_traffic", share, share, share, "modelled", "the spec's formats and groups")
