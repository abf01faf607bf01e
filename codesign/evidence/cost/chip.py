"""Chip-level figures of a unit: its extra area, cycles, and traffic and storage of scales in an SM."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum

from codesign.evidence.cost.records import CostRecord
from codesign.evidence.cost.rtl.ports import registers
from codesign.figures.figure import Alternative, Kind
from isa_model.formats import Format
from isa_model.instruction import Instruction

FP8_PRODUCTS_PER_CYCLE = 4096
"""Dense FP8 products of one Hopper SM per clock; each doubling of operand bits halves it. NVIDIA H100 data sheet: 1979 TFLOP/s
of FP8 over 132 SMs at 1.83 GHz."""
TRANSISTORS_PER_SM = 80e9 / 144
"""Transistors of the whole GH100 die per SM: 80 billion transistors, 144 SMs (NVIDIA H100 Tensor Core GPU Architecture,
2022)."""
SM_SHARE = (0.4, 0.55, 0.7)
"""Assumed share of the die's transistors in SMs: low, central, high. The rest is L2, memory controllers and links."""
TRANSISTORS_PER_NAND2 = 4
TILE = (128, 256, 128)
"""Assumed rows of A, columns of B and K of a tile in shared memory, as in CUTLASS and DeepGEMM."""
STAGES = (2, 4, 6)
"""Assumed number of tiles in flight: low, central, high."""
SHARED_MEMORY_BYTES_PER_CYCLE = 128
"""Bytes per clock of one SM's shared memory: 32 banks of 4 bytes (CUDA C++ Programming Guide, compute capability 9.0)."""


@dataclass(frozen=True)
class ChipFigure:
    """A chip-level figure with its range and source."""

    metric: str
    value: float
    low: float
    high: float
    kind: Kind
    source: str
    alternatives: tuple[Alternative, ...] = ()


def sm_area(new: CostRecord, old: CostRecord, spec: Instruction) -> ChipFigure:
    """Return the area of an SM with the new units over that with the old ones, in transistors of logic, without wires."""
    products = FP8_PRODUCTS_PER_CYCLE * 8 / spec.a.bits

    def extra(area: float, base: float) -> float:
        return (area / new.products - base / old.products) * products * TRANSISTORS_PER_NAND2

    plain, staged = extra(new.area, old.area), extra(new.pipelined.area, old.pipelined.area)
    low, central, high = SM_SHARE

    def ratio(extra: float, share: float) -> float:
        return 1 + extra / (TRANSISTORS_PER_SM * share)

    corners = [ratio(e, share) for e in (plain, staged) for share in SM_SHARE]
    others = [("SMs' share of the die", f"{share:.0%}", ratio(staged, share)) for share in (low, high)]
    others.append(("registers", "none", ratio(plain, central)))
    source = (
        f"{products / new.products:.0f} units of {new.products} products per SM (data sheet); "
        f"{low:.0%} to {high:.0%} of 80 billion transistors in 144 SMs (assumed)"
    )
    alternatives = tuple(Alternative(assumption=a, other=other, value=round(v, 4)) for a, other, v in others)
    value = ratio(staged, central)
    return ChipFigure("cost.sm_area_ratio", value, min(corners), max(corners), "assumed", source, alternatives)


def extra_cycles(new: CostRecord, old: CostRecord) -> ChipFigure:
    """Return the additional latency in cycles, with registers after the same number of gates in both units."""
    cycles = float(new.pipelined.cycles - old.pipelined.cycles)
    source = (
        f"{new.pipelined.cycles} cycles of {new.pipelined.period_fo4:.0f} FO4 against {old.pipelined.cycles} of "
        f"{old.pipelined.period_fo4:.0f}, registers every {new.pipelined.levels} gates"
    )
    return ChipFigure("cost.extra_cycles", cycles, cycles, cycles, "modelled", source)


def scale_traffic(spec: Instruction) -> ChipFigure:
    """Return the bits of scales over the bits of operands as stored, where a block of rows or columns has one scale."""
    share = _scale_bits(spec) / (spec.a.bits + spec.b.bits)
    return ChipFigure("cost.scale_traffic", share, share, share, "modelled", "the spec's formats and groups")


def operand_bits(spec: Instruction) -> ChipFigure:
    """Return the bits of an element with its share of scales of all levels, the mean of A and B."""
    bits = (spec.a.bits + spec.b.bits + _scale_bits(spec)) / 2
    return ChipFigure("cost.operand_bits", bits, bits, bits, "modelled", "the spec's formats and groups")


def _scale_bits(spec: Instruction) -> float:
    """Return the bits of scales for an element of A and one of B."""
    return fsum(fmt.bits / (group[0] * group[1]) for _, fmt, group, _ in _levels(spec, 0, 0))


def cycle_ratio(new: CostRecord, old: CostRecord) -> ChipFigure:
    """Return the ratio of shortest cycle times, with registers after the same number of gates in both units."""
    ratio = new.pipelined.period_fo4 / old.pipelined.period_fo4
    # Freely placed registers keep the clock and add stages instead; the ratio is 1 then.
    periods = f"{new.pipelined.period_fo4:.0f} FO4 over {old.pipelined.period_fo4:.0f}"
    source = f"{periods}, unsized; to 1 with registers balanced"
    return ChipFigure("cost.cycle_ratio", ratio, min(1.0, ratio), max(1.0, ratio), "modelled", source)


def extra_register_bits(new: CostRecord, old: CostRecord) -> ChipFigure:
    """Return the additional pipeline register bits for as many products as the base's unit sums."""
    bits = new.pipelined.register_bits * old.products / new.products - old.pipelined.register_bits
    units = FP8_PRODUCTS_PER_CYCLE // old.products
    stages = f"registers every {new.pipelined.levels} gates, to none if the unit stays one stage"
    source = f"{stages}; per {old.products} products, {units} of which an SM sums at once (data sheet)"
    return ChipFigure("cost.extra_register_bits", bits, min(bits, 0.0), max(bits, 0.0), "modelled", source)


def extra_loop_cycles(new: CostRecord, old: CostRecord) -> ChipFigure:
    """Return the additional cycles from C to D, which independent elements of D have to fill."""
    cycles = float(new.pipelined.loop - old.pipelined.loop)
    source = f"{new.pipelined.loop} cycles from C to D against {old.pipelined.loop}, of {new.pipelined.levels} gates"
    return ChipFigure("cost.extra_loop_cycles", cycles, cycles, cycles, "modelled", source)


def accumulator_traffic(today: Instruction, spec: Instruction) -> ChipFigure:
    """Return the bits of C read and of D written per product, or of both registers if there are two, over today's."""

    def bits(of: Instruction) -> float:
        both = sum(fmt.bits for fmt in registers(of).values())
        return (2 * both or of.c_format.bits + of.accumulator.bits) / of.span

    ratio = bits(spec) / bits(today)
    moved = "both registers" if spec.remainder else "C and D"
    source = f"{moved} every {spec.span} products against every {today.span}"
    return ChipFigure("cost.accumulator_traffic", ratio, ratio, ratio, "modelled", source)


def scale_bandwidth(spec: Instruction) -> ChipFigure:
    """Return the bytes of scales that an SM reads per cycle at full rate: once per group, or at most at every instruction."""
    shape = spec.shape
    cycles = shape.m * shape.n * shape.k / (FP8_PRODUCTS_PER_CYCLE * 8 / spec.a.bits)
    once, every = 0.0, 0.0
    for size, fmt, group, axis in _levels(spec, shape.m, shape.n):
        per_group = size / group[1 - axis] * fmt.bits / 8
        once += per_group * shape.k / group[axis]
        every += per_group * max(1.0, shape.k / group[axis])
    low, high = once / cycles, every / cycles
    source = (
        f"{shape.m} x {shape.n} x {shape.k} in {cycles:.0f} cycles (data sheet), of {SHARED_MEMORY_BYTES_PER_CYCLE} B per "
        "cycle of shared memory; a scale read once per group, up to once per instruction"
    )
    return ChipFigure("cost.scale_bandwidth", low, low, high, "modelled", source)


def scale_storage(spec: Instruction) -> ChipFigure:
    """Return the bytes of shared memory for the scales of the tiles in flight on an SM."""
    m, n, k = TILE
    stage = fsum(
        size / group[1 - axis] * max(1.0, k / group[axis]) * fmt.bits / 8
        for size, fmt, group, axis in _levels(spec, m, n)
    )
    low, taken, high = (stage * count for count in STAGES)
    source = f"tiles of {m} x {n} x {k}, {STAGES[0]} to {STAGES[2]} stages (assumed); 228 KiB of shared memory per SM"
    return ChipFigure("cost.scale_storage", taken, low, high, "assumed", source)


def _levels(spec: Instruction, m: int, n: int) -> list[tuple[int, Format, tuple[int, int], int]]:
    """Return the rows or columns, the format, the group and the axis of K of each level of scales in groups."""
    scale = spec.scale
    sides = ((m, scale.a, 1), (n, scale.b, 0)) if scale else ()
    return [(size, x.format, x.group, axis) for size, side, axis in sides if side for x in side.levels if x.group]
