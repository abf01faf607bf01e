"""A model of the cost of an instruction's unit, fitted to synthesised designs: milliseconds instead of minutes.

Each quantity is a sum of the sizes of blocks (`rtl.block_sizes`) with coefficients that are not negative.
`python pages/cost_model.py` fits them, and measures the error on designs that were held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache

from codesign.evidence.cost.chip import ChipFigure
from codesign.evidence.cost.records import FOLDER, CostRecord, Toolchain, find
from codesign.evidence.cost.rtl.block_sizes import sizes
from isa_model.instruction import Instruction
from isa_model.stage import Spec

POINTS = FOLDER / "model" / "points.json"
MODEL = FOLDER / "model" / "neutral.json"
_GATES = (
    *("unit", "decode", "table", "array", "array sum", "recoded", "exponent", "maximum", "gated", "difference"),
    *("shift", "sticky", "flip", "compress", "carry", "zeros", "normalise", "round", "encode", "flags"),
)
_HELD = ("held array", "held products", "held shifted", "held sum", "held normal", "held chain", "held factor")
_PATH = (
    *("unit", "path multiply", "path maximum", "path shift", "path compress", "path carry", "path normalise"),
    *("path round", "path exponent", "path scale", "path fanout", "path deep"),
)
KINDS: Mapping[str, tuple[str, ...]] = {
    "area": (*_GATES, "held factor"),
    "delay_fo4": _PATH,
    "cycles": _PATH,
    "register_bits": (*_HELD, "unit", "round"),
    "energy_low": (*_GATES, *_HELD),
    "energy_high": (*_GATES, *_HELD),
}
"""Sizes that each quantity is a sum of."""


class MeasuredPoint(Spec):
    """Cost of one synthesised design, whose netlist equals the model on all vectors compared."""

    family: str
    design_sha256: str
    area: float
    """Area without registers, with the share of a shared multiplier of scales, in NAND2 equivalents."""
    delay_fo4: float
    cycles: int
    loop: int
    register_bits: int
    staged_area: float
    energy_low: float
    energy_high: float
    vectors: int


class MeasuredPoints(Toolchain):
    """Synthesised designs that span the parameters of instructions."""

    operands: str
    """Workload of the energy figures."""
    points: tuple[MeasuredPoint, ...]


class HeldOut(Spec):
    """Relative error of a quantity on designs that the fit did not see."""

    designs: int
    mean: float
    """Mean of the absolute error."""
    most: float
    """95 % quantile of the absolute error."""
    worst: float


class Law(Spec):
    """A quantity as a sum of sizes, and its errors."""

    coefficients: dict[str, float]
    """Coefficient of each size; those that are zero are left out."""
    random: HeldOut
    """Errors with a tenth of the designs held out at a time."""
    families: HeldOut
    """Errors with all designs of a family held out at a time."""
    by_family: dict[str, HeldOut]
    """Errors on each family, held out."""


class CostModel(Toolchain):
    """The fitted model."""

    laws: dict[str, Law]


class CostEstimate(Spec):
    """A figure with its interval, which holds 95 % of designs held out at random, and 95 % of its family held out together."""

    value: float
    low: float
    high: float


class UnitCost(Spec):
    """Cost of the unit of an instruction, and where it comes from."""

    products: int
    """Products summed by one step, which all figures are for."""
    area: CostEstimate
    """Area without registers, in NAND2 equivalents."""
    delay_fo4: CostEstimate
    """Longest path without registers, in FO4 inverter delays."""
    cycles: CostEstimate
    """Latency with registers every 24 gates."""
    register_bits: CostEstimate
    """Bits of these registers."""
    energy_low: CostEstimate
    """Capacitance switched per step without glitches, in inputs of the smallest inverter, on a GEMM of DeepSeek-V3."""
    energy_high: CostEstimate
    """The same with all glitches of gates of equal delay."""
    origin: str
    """`record NAME`, or that the figures are predicted, and with what error."""


IN_TWO = "running values in two registers"
IN_TWO_MOST = 0.6
"""Largest relative error of area and delay on eight such units that were synthesised: those of tests/cost_specs.py, of an exact
sum in FP16, with a zero's sign, with `joins: end`, and with 16 products and 24 fraction bits."""


@cache
def model() -> CostModel:
    """Return the shipped model."""
    return CostModel.model_validate_json(MODEL.read_text(encoding="utf-8"))


def family(spec: Instruction) -> str:
    """Return the kind of structure of an instruction, which is held out as a whole when the model's error is measured."""
    scale, stages = spec.scale, list(spec.stages.values())
    if spec.a.kind == "integer" or spec.b.kind == "integer":
        return "integers"
    if "table" in (spec.a.kind, spec.b.kind):
        return "tables of numbers"
    if spec.is_stochastic:
        return "stochastic registers"
    if scale and any(side.coarser for side in spec.scales):
        return "nested scales"
    if spec.scales:
        powers = all(not (x.format.mantissa_bits or x.format.zero) for side in spec.scales for x in side.levels)
        return "scales that are powers of two" if powers else "scales that are multiplied"
    if spec.remainder:
        return IN_TWO
    if any(stage.chain for stage in stages):
        return "chains through a register"
    if not all(stage.aligned for stage in stages):
        return "exact sums"
    return "one window" if len(stages) == 1 else "several windows"


def predict(spec: Instruction) -> UnitCost:
    """Return the cost of an instruction's unit as the model has it, in milliseconds.

    Raises InputError if the generator does not support the instruction.
    """
    found, kind = sizes(spec), family(spec)
    estimates = {}
    for quantity, law in model().laws.items():
        value = sum(coefficient * found[size] for size, coefficient in law.coefficients.items())
        most = max(law.random.most, law.by_family.get(kind, law.families).most, IN_TWO_MOST * (kind == IN_TWO))
        estimates[quantity] = CostEstimate(value=value, low=value / (1 + most), high=value * (1 + most))
    return UnitCost(products=spec.span, **estimates, origin=f"predicted, {_error('area', kind)}")


def _error(quantity: str, kind: str) -> str:
    """Return the errors of a quantity on held-out designs, in words."""
    law = model().laws[quantity]
    alone = law.by_family.get(kind, law.families)
    if kind == IN_TWO:
        return f"error on {kind}, none of which the fit saw, up to {100 * IN_TWO_MOST:.0f} %"
    return (
        f"mean error on held-out designs {100 * law.random.mean:.1f} %, "
        f"on {kind}, held out together, {100 * alone.mean:.1f} %"
    )


def predicted(new: Instruction, old: Instruction) -> Iterator[ChipFigure]:
    """Yield the figures of a unit over another, per product, as the model has both.

    Intervals are those of the new unit's estimates, over the old one's value. Raises InputError as `predict` does.
    """
    x, y = predict(new), predict(old)
    per = y.products / x.products

    def figure(metric: str, quantity: str, of: Callable[[float, float], float]) -> ChipFigure:
        its, base = getattr(x, quantity), getattr(y, quantity).value
        source = f"predicted, {_error(quantity, family(new))}, commit {model().commit}"
        value, low, high = (of(end, base) for end in (its.value, its.low, its.high))
        return ChipFigure(metric, value, low, high, "modelled", source)

    yield figure("cost.area_ratio", "area", lambda a, b: a / b * per)
    yield figure("cost.delay_ratio", "delay_fo4", lambda a, b: a / b)
    yield figure("cost.energy_ratio", "energy_low", lambda a, b: a / b * per)
    yield figure("cost.extra_cycles", "cycles", lambda a, b: a - b)
    yield figure("cost.extra_register_bits", "register_bits", lambda a, b: a * per - b)


def cost(spec: Instruction) -> UnitCost:
    """Return the cost of an instruction's unit from its record, if one ships, and otherwise as predicted.

    Raises InputError if the generator does not support the instruction.
    """
    record = find(spec, "neutral")
    return predict(spec) if record is None else _recorded(record)


def _recorded(record: CostRecord) -> UnitCost:
    estimates = {name: CostEstimate(value=value, low=value, high=value) for name, value in quantities(record).items()}
    return UnitCost(products=record.products, **estimates, origin=f"record {record.name}, commit {record.commit}")


def quantities(record: CostRecord) -> dict[str, float]:
    """Return the measured value of each quantity of `KINDS`."""
    return {
        "area": record.area,
        "delay_fo4": record.delay_fo4,
        "cycles": record.pipelined.cycles,
        "register_bits": record.pipelined.register_bits,
        "energy_low": record.energy.low,
        "energy_high": record.energy.high,
    }
