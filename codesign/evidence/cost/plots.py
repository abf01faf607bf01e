"""Plots of cost: curves of the shipped sweep, with marks for today's unit and the proposals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from codesign.evidence.cost import sweep
from codesign.evidence.cost.designs import TODAY, unit, window
from codesign.evidence.cost.records import CostRecord as Record
from codesign.evidence.cost.records import design_sha256, find
from codesign.evidence.cost.sweep import CostSweep as Sweep
from codesign.evidence.cost.sweep import Point
from codesign.figures.figure import Plot, Series
from codesign.proposal.proposal import Proposal
from codesign.proposal.variants import LABELS

SCALES = {"scale-ue8m0": "UE8M0", "scale-ue5m3": "UE5M3", "scale-bf16": "BF16", "scale-fp32": "FP32"}
MADE = "One unit of the neutral library, mapped and compared with the model, over today's: 32 E4M3 products, 13 bits, e8m13."


def plots(proposal: Proposal) -> tuple[Plot, ...]:
    """Return plots of cost against fraction bits, terms and scales, and of error against area; none for another base unit."""
    shipped = sweep.shipped()
    today, own = find(proposal.today, "neutral"), find(proposal.proposed(), "neutral")
    # The NaN code that a unit writes does not affect its cost.
    base, curves_base = proposal.today.model_copy(update={"nan": None}), unit(window(13, result=TODAY))
    if shipped is None or today is None or design_sha256(base) != design_sha256(curves_base):
        return ()
    return (
        _fraction_bits(shipped, proposal, today, own),
        _terms(shipped, proposal, today, own),
        _scales(shipped, proposal, today, own),
        _pareto(shipped, proposal, today, own, "normal", total=False),
        _pareto(shipped, proposal, today, own, "normal", total=True),
    )


def _area(design: Record | Point, today: Record) -> float:
    return round(design.area / design.products / (today.area / today.products), 4)


def _mark(variant: str, x: float, y: float) -> Series:
    return Series(label=LABELS[variant], variant=variant, x=(x,), y=(y,))


def _fraction_bits(shipped: Sweep, proposal: Proposal, today: Record, own: Record | None) -> Plot:
    points = shipped.curve("fraction-bits")
    x = tuple(p.x for p in points)
    series = [
        Series(label="area", variant="area", x=x, y=tuple(_area(p, today) for p in points)),
        Series(
            label="longest path", variant="delay", x=x, y=tuple(round(p.delay_fo4 / today.delay_fo4, 4) for p in points)
        ),
        Series(
            label="energy, no glitches",
            variant="energy",
            x=x,
            y=tuple(round(p.energy_low / today.energy.low, 4) for p in points),
        ),
        _mark("today", 13, 1.0),
    ]
    kept = [s.fraction_bits for s in proposal.proposed().stages.values() if s.fraction_bits is not None]
    if own and kept:
        series.append(_mark("proposal", kept[0], _area(own, today)))
    return Plot(
        kind="modelled",
        name="cost-fraction-bits",
        title="Cost against fraction bits",
        caption=f"{MADE} The curve has C in the window and an FP32 register; the proposal's mark is its area with all its "
        "other changes.",
        x_label="fraction bits kept in alignment",
        y_label="over today's unit",
        y_scale="linear",
        series=tuple(series),
    )


def _terms(shipped: Sweep, proposal: Proposal, today: Record, own: Record | None) -> Plot:
    series = [
        Series(
            label=label,
            variant=variant,
            x=tuple(p.x for p in shipped.curve(name)),
            y=tuple(_area(p, today) for p in shipped.curve(name)),
        )
        for name, label, variant in (
            ("terms-13", "13 bits, e8m13", "area"),
            ("terms-25", "25 bits, FP32", "energy"),
        )
    ]
    series.append(_mark("today", 32, 1.0))
    if own:
        series.append(_mark("proposal", own.products, _area(own, today)))
    return Plot(
        kind="modelled",
        name="cost-terms",
        title="Area per product against how many products one sum takes",
        caption=MADE,
        x_label="products in one sum",
        y_label="area per product, over today's",
        x_scale="log2",
        y_scale="linear",
        series=tuple(series),
    )


def _scales(shipped: Sweep, proposal: Proposal, today: Record, own: Record | None) -> Plot:
    series = [
        Series(
            label=f"{label} scales",
            variant=variant,
            x=tuple(p.x for p in shipped.curve(name)),
            y=tuple(_area(p, today) for p in shipped.curve(name)),
        )
        for (name, label), variant in zip(SCALES.items(), ("area", "delay", "energy", "curve"), strict=True)
    ]
    plain = next(_area(p, today) for p in shipped.curve("fraction-bits") if p.x == 25)
    ends = series[0].x[0], series[0].x[-1]
    series.append(Series(label="no scales", variant="exact", x=ends, y=(plain, plain)))
    scale = proposal.proposed().scale
    if own and scale:
        groups = [side.group[axis] for side, axis in ((scale.a, 1), (scale.b, 0)) if side]
        series.append(_mark("proposal", min(groups), _area(own, today)))
    return Plot(
        kind="modelled",
        name="cost-scales",
        title="Area against group size, by format of the scales",
        caption=f"{MADE} All with 25 fraction bits and an FP32 register; UE8M0 is added to the exponents, the others are "
        "multiplied onto each group's sum, sA * sB in the unit at every step.",
        x_label="group of K with one scale",
        y_label="area over today's unit",
        x_scale="log2",
        y_scale="linear",
        series=tuple(series),
    )


def _pareto(shipped: Sweep, proposal: Proposal, today: Record, own: Record | None, tensors: str, total: bool) -> Plot:
    """Return the plot of error against area: all designs of the sweep, their Pareto front, and the marks."""

    def error(point: Point) -> float:
        return (point.total if total else point.accumulation)[tensors]

    def of(points: Iterable[Point], label: str, variant: str, named: bool = False) -> Series:
        taken = list(points)
        return Series(
            label=label,
            variant=variant,
            x=tuple(_area(p, today) for p in taken),
            y=tuple(error(p) for p in taken),
            labels=tuple(p.label for p in taken) if named else (),
        )

    bits = shipped.curve("fraction-bits")
    scaled = [p for name in SCALES for p in shipped.curve(name)]
    others = [p for p in shipped.curve("proposals") if p.label != proposal.proposal]
    terms = [*shipped.curve("terms-13"), *shipped.curve("terms-25")]
    everything = [*bits, *scaled, *terms, *shipped.curve("proposals")]
    series = [
        of(_front(everything, error, today), "front", "front"),
        of(bits, "8 to 42 fraction bits", "area"),
        of(terms, "4 to 128 products", "energy_points"),
        of(scaled, "scales in the unit", "curve_points"),
        of(others, "other proposals", "shipped", named=True),
    ]
    pick = 1 if total else 0
    rule = proposal.rule
    series += [
        _mark("today", 1.0, sweep.errors(proposal.today, rule, tensors)[pick]),
        _mark("software", 1.0, sweep.errors(proposal.software_instruction, rule, tensors)[pick]),
    ]
    if own:
        series.append(_mark("proposal", _area(own, today), sweep.errors(proposal.proposed(), rule, tensors)[pick]))
    what = "Total error, quantisation included," if total else "Accumulation error"
    return Plot(
        kind="modelled",
        name=f"cost-{'total' if total else 'accumulation'}",
        title=f"{what} against area, {tensors} operands",
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
