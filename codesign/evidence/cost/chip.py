"""From a unit to the chip: what its extra gates are in an SM, with what is modelled and what is assumed kept apart."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum

from codesign.evidence.cost.records import Record
from codesign.figures.figure import Alternative, Kind
from isa_model.instruction import Instruction, ScaleOperand

FP8_PRODUCTS_PER_CYCLE = 4096
"""FP8 products of one Hopper SM per clock, dense; half of that for each doubling of operand bits. NVIDIA H100 data sheet: 1979
TFLOP/s of FP8 over 132 SMs at 1.83 GHz."""
TRANSISTORS_PER_SM = 80e9 / 144
"""Transistors of the full GH100 die per SM, everything beside the SMs counted with them: 80 billion transistors,
144 SMs (NVIDIA H100 Tensor Core GPU Architecture, 2022)."""
SM_SHARE = (0.4, 0.55, 0.7)
"""Share of the die's transistors that are in SMs: least, taken, most. Assumed; the rest is L2, memory controllers, links."""
TRANSISTORS_PER_NAND2 = 4
TILE = (128, 256, 128)
"""Rows of A, columns of B and K that a thread block holds in shared memory per stage. Assumed, as CUTLASS's and DeepGEMM's."""
STAGES = (2, 4, 6)
"""Such stages in flight: least, taken, most. Assumed."""
SHARED_MEMORY_BYTES_PER_CYCLE = 128
"""Bytes per clock of one SM's shared memory: 32 banks of 4 bytes (CUDA C++ Programming Guide, compute capability 9.0)."""


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


def cycle_ratio(new: Record, old: Record) -> ChipFigure:
    """Least cycle time of the new unit over the old one's, registers after as many gates in both."""
    ratio = new.pipelined.period_fo4 / old.pipelined.period_fo4
    # With registers freely placed, the same clock costs stages instead: then the ratio is 1.
    return ChipFigure(
        "cost.cycle_ratio",
        ratio,
        min(1.0, ratio),
        max(1.0, ratio),
        "modelled",
        f"{new.pipelined.period_fo4:.0f} FO4 over {old.pipelined.period_fo4:.0f}, unsized; to 1 with registers balanced",
    )


def extra_register_bits(new: Record, old: Record) -> ChipFigure:
    """Further pipeline register bits of a unit."""
    bits = float(new.pipelined.register_bits - old.pipelined.register_bits)
    units = FP8_PRODUCTS_PER_CYCLE // new.products
    return ChipFigure(
        "cost.extra_register_bits",
        bits,
        min(bits, 0.0),
        max(bits, 0.0),
        "modelled",
        f"registers every {new.pipelined.levels} gates, to none if the unit stays one stage; {units} units per SM (data sheet)",
    )


def scale_bandwidth(spec: Instruction) -> ChipFigure:
    """Bytes of scales an SM reads per cycle at full rate: once per group, up to at every instruction."""
    shape = spec.shape
    cycles = shape.m * shape.n * shape.k / (FP8_PRODUCTS_PER_CYCLE * 8 / spec.a.bits)
    once, every = 0.0, 0.0
    for size, side, axis in _sides(spec, shape.m, shape.n):
        per_group = size / side.group[1 - axis] * side.format.bits / 8
        once += per_group * shape.k / side.group[axis]
        every += per_group * max(1.0, shape.k / side.group[axis])
    return ChipFigure(
        "cost.scale_bandwidth",
        once / cycles,
        once / cycles,
        every / cycles,
        "modelled",
        f"{shape.m} x {shape.n} x {shape.k} in {cycles:.0f} cycles (data sheet), of {SHARED_MEMORY_BYTES_PER_CYCLE} B per "
        "cycle of shared memory; a scale read once per group, up to once per instruction",
    )


def scale_storage(spec: Instruction) -> ChipFigure:
    """Bytes of shared memory that hold the scales of the tiles in flight on an SM."""
    m, n, k = TILE
    stage = fsum(
        size / side.group[1 - axis] * max(1.0, k / side.group[axis]) * side.format.bits / 8
        for size, side, axis in _sides(spec, m, n)
    )
    low, taken, high = (stage * count for count in STAGES)
    return ChipFigure(
        "cost.scale_storage",
        taken,
        low,
        high,
        "assumed",
        f"tiles of {m} x {n} x {k}, {STAGES[0]} to {STAGES[2]} stages (assumed); 228 KiB of shared memory per SM",
    )


def _sides(spec: Instruction, m: int, n: int) -> list[tuple[int, ScaleOperand, int]]:
    """Rows or columns, scales and the axis of K, of each operand that has scales."""
    scale = spec.scale
    sides = ((m, scale.a, 1), (n, scale.b, 0)) if scale else ()
    return [(size, side, axis) for size, side, axis in sides if side is not None]
