"""Plots of cost: curves of the shipped sweep, with marks for today's unit and the proposals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from codesign.evidence.cost import family, sweep
from codesign.evidence.cost.attribution import IDEAS, parts_of
from codesign.evidence.cost.records import CostRecord as Record
from codesign.evidence.cost.records import design_sha256, find
from codesign.evidence.cost.sweep import CostSweep as Sweep
from codesign.evidence.cost.sweep import Point
from codesign.figures.figure import Plot, Series
from codesign.proposal.proposal import Proposal
from codesign.proposal.variants import LABELS
from isa_model.library import load

BASE = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
"""Instruction whose unit the designs of the curves change."""
TENSORS = "normal"
"""Operands of the error figures."""
SCALES = {"scale-ue8m0": "UE8M0", "scale-ue5m3": "UE5M3", "scale-bf16": "BF16", "scale-fp32": "FP32"}
MADE = "One unit of the neutral library, mapped and compared with the model, over today's: 32 E4M3 products, 13 bits, e8m13."


def plots(proposal: Proposal) -> tuple[Plot, ...]:
    """Return plots of cost against fraction bits, terms and scales, and of error against area; none for another base unit."""
    shipped = sweep.shipped()
    today, own = find(proposal.today, "neutral"), find(proposal.proposed(), "neutral")
    # The NaN code that a unit writes does not affect its cost.
    base, curves_base = (spec.model_copy(update={"nan": None}) for spec in (proposal.today, load(BASE)))
    if shipped is None or today is None or design_sha256(base) != design_sha256(curves_base):
        return ()
    return (
        _fraction_bits(shipped, proposal, today, own),
        _terms(shipped, today, own),
        _scales(shipped, proposal, today, own),
        _pareto(shipped, proposal, today, own, total=False),
        _pareto(shipped, proposal, today, own, total=True),
    )


def waterfall(proposal: Proposal) -> tuple[Plot, ...]:
    """Return the plot of how the area grows with each idea of the proposal; none without records of all designs."""
    parts = parts_of(proposal.today, proposal.proposed(), "neutral")
    if not parts:
        return ()
    heights = [1.0]
    for part in parts.values():
        heights.append(heights[-1] + part)
    names = ("today", *(f"+ {IDEAS[idea]}" for idea in parts))
    series = Series(
        label="area",
        variant="area",
        x=tuple(map(float, range(len(names)))),
        y=tuple(round(100 * height, 2) for height in heights),
    )
    plot = Plot(
        kind="modelled",
        name="cost-attribution",
        title="Area added by each change",
        caption="Area per product over today's unit after each idea, in the neutral library. Each bar is a design that was "
        "mapped and compared with the model; the last is with pipeline registers, over today's with its own.",
        x_label="",
        y_label="% of today's unit",
        y_scale="linear",
        categories=names,
        series=(series,),
    )
    return (plot,)


def _area(design: Record | Point, today: Record) -> float:
    return round(design.area / design.products / (today.area / today.products), 4)


def _mark(variant: str, x: float, y: float) -> Series:
    return Series(label=LABELS[variant], variant=variant, x=(x,), y=(y,))


def _areas(points: Sequence[Point], today: Record, label: str, variant: str) -> Series:
    """Return the areas of a curve over today's."""
    return Series(label=label, variant=variant, x=tuple(p.x for p in points), y=tuple(_area(p, today) for p in points))


_plot = partial(Plot, kind="modelled", y_scale="linear")


def _fraction_bits(shipped: Sweep, proposal: Proposal, today: Record, own: Record | None) -> Plot:
    points = shipped.curve("fraction-bits")
    x = tuple(p.x for p in points)
    delays = tuple(round(p.delay_fo4 / today.delay_fo4, 4) for p in points)
    energies = tuple(round(p.energy_low / today.energy.low, 4) for p in points)
    series = [
        _areas(points, today, "area", "area"),
        Series(label="longest path", variant="delay", x=x, y=delays),
        Series(label="energy, no glitches", variant="energy", x=x, y=energies),
        _mark("today", 13, 1.0),
    ]
    kept = [s.fraction_bits for s in proposal.proposed().stages.values() if s.fraction_bits is not None]
    if own and kept:
        series.append(_mark("proposal", kept[0], _area(own, today)))
    return _plot(
        name="cost-fraction-bits",
        title="Cost against fraction bits",
        caption=f"{MADE} The curve has C in the window and an FP32 register; the proposal's mark is its area with all its "
        "other changes.",
        x_label="fraction bits kept in alignment",
        y_label="over today's unit",
        series=tuple(series),
    )


def _terms(shipped: Sweep, today: Record, own: Record | None) -> Plot:
    series = [
        _areas(shipped.curve("terms-13"), today, "13 bits, e8m13", "area"),
        _areas(shipped.curve("terms-25"), today, "25 bits, FP32", "energy"),
        _mark("today", 32, 1.0),
    ]
    if own:
        series.append(_mark("proposal", own.products, _area(own, today)))
    return _plot(
        name="cost-terms",
        title="Area per product against how many products one sum takes",
        caption=MADE,
        x_label="products in one sum",
        y_label="area per product, over today's",
        x_scale="log2",
        series=tuple(series),
    )


def _scales(shipped: Sweep, proposal: Proposal, today: Record, own: Record | None) -> Plot:
    series = [
        _areas(shipped.curve(name), today, f"{label} scales", variant)
        for (name, label), variant in zip(SCALES.items(), ("area", "delay", "energy", "curve"), strict=True)
    ]
    plain = next(_area(p, today) for p in shipped.curve("fraction-bits") if p.x == 25)
    ends = series[0].x[0], series[0].x[-1]
    series.append(Series(label="no scales", variant="exact", x=ends, y=(plain, plain)))
    scale = proposal.proposed().scale
    if own and scale:
        groups = [side.group[axis] for side, axis in ((scale.a, 1), (scale.b, 0)) if side]
        series.append(_mark("proposal", min(groups), _area(own, today)))
    return _plot(
        name="cost-scales",
        title="Area against group size, by format of the scales",
        caption=f"{MADE} All with 25 fraction bits and an FP32 register; UE8M0 is added to the exponents, the others are "
        "multiplied onto each group's sum, sA * sB in the unit at every step.",
        x_label="group of K with one scale",
        y_label="area over today's unit",
        x_scale="log2",
        series=tuple(series),
    )


def _pareto(shipped: Sweep, proposal: Proposal, today: Record, own: Record | None, total: bool) -> Plot:
    """Return the plot of error against area: all designs of the sweep, their Pareto front, and the marks."""

    def error(point: Point) -> float:
        return (point.total if total else point.accumulation)[TENSORS]

    def of(points: Sequence[Point], label: str, variant: str, named: bool = False) -> Series:
        x, y = tuple(_area(p, today) for p in points), tuple(map(error, points))
        return Series(label=label, variant=variant, x=x, y=y, labels=tuple(p.label for p in points) if named else ())

    bits = shipped.curve("fraction-bits")
    scaled = [p for name in SCALES for p in shipped.curve(name)]
    others = [p for p in shipped.curve("proposals") if p.label != proposal.proposal]
    kin = family.members(proposal)
    terms = [*shipped.curve("terms-13"), *shipped.curve("terms-25")]
    everything = [*bits, *scaled, *terms, *kin, *shipped.curve("proposals")]
    series = [
        of(_front(everything, error, today), "front", "front"),
        of(bits, "8 to 42 fraction bits", "area"),
        of(terms, "4 to 128 products", "energy_points"),
        of(scaled, "scales in the unit", "curve_points"),
        of(kin, "FP32 scales per 128: the family", "family_points", named=True),
        of(others, "other proposals", "shipped", named=True),
    ]
    pick = 1 if total else 0
    rule = proposal.rule
    series += [
        _mark("today", 1.0, sweep.errors(proposal.today, rule, TENSORS)[pick]),
        _mark("software", 1.0, sweep.errors(proposal.software_instruction, rule, TENSORS)[pick]),
    ]
    if own:
        series.append(_mark("proposal", _area(own, today), sweep.errors(proposal.proposed(), rule, TENSORS)[pick]))
    what = "Total error, quantisation included," if total else "Accumulation error"
    return Plot(
        kind="modelled",
        name=f"cost-{'total' if total else 'accumulation'}",
        title=f"{what} against area, {TENSORS} operands",
        caption=f"{MADE} Errors are relative Frobenius norms at K = {sweep.SUMMED}, computed by the bit-exact model; "
        "today's software has today's unit, and also works on CUDA cores.",
        x_label="area per product, over today's",
        y_label="relative Frobenius error",
        series=tuple(s for s in series if s.x),
    )


def _front(points: Sequence[Point], error: Callable[[Point], float], today: Record) -> list[Point]:
    """Return the points that no other point beats in both area and error."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (_area(p, today), error(p))):
        if not front or error(point) < error(front[-1]):
            front.append(point)
    return front
