"""Rules of thumb: what the evidence says to do next, each with the figure that says it.

A rule is a function here and an entry of `RULES`. It reads the result alone, and yields nothing where its figure is missing or
does not speak.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from statistics import median

from codesign.evidence.sampling import MOST_SEEDS
from codesign.figures.figure import Figure, Plot
from codesign.figures.metric import metric_named
from codesign.figures.words import figures_of, listed, percent, worst
from codesign.report.summary import by_parameter, conditions, needed, reach
from codesign.report.tables import interval, number
from codesign.verdicts.evaluate import Result
from codesign.verdicts.readings import counterpart, read
from codesign.verdicts.verdict import BreakEven
from codesign.workloads.tensors import CAPTURED
from isa_model.instruction import Instruction


@dataclass(frozen=True)
class Advice:
    """What to do next, and the figure that says it."""

    title: str
    text: str


def advice(result: Result) -> list[Advice]:
    """Return what every rule says, in the order of `RULES`."""
    return [said for rule in RULES for said in rule(result)]


# -- claims ----------------------------------------------------------------------------------------------------------


def within_reach(result: Result) -> Iterator[Advice]:
    """Name the value of a parameter that would keep a claim that does not hold."""
    for i, verdict in enumerate(result.verdicts, 1):
        if verdict.judgement == "supported":
            continue
        for parameter, (need, own, where) in reach(verdict.break_even).items():
            more = f" ({abs(need - own):g} {'more' if need > own else 'fewer'})" if "bits" in parameter else ""
            text = f"Claim {i} would hold with {parameter} {need:g}{more} instead of {own:g}{where}."
            yield Advice("A claim within reach", text)


def register_limits(result: Result) -> Iterator[Advice]:
    """Name the register that a stage's sum is rounded to, where more fraction bits do not keep a claim."""
    for i, verdict in enumerate(result.verdicts, 1):
        parameters = [
            p for p, found in by_parameter(verdict.break_even).items() if any(one.limit is None for one in found)
        ]
        if verdict.judgement == "supported" or not any(p.endswith(".fraction_bits") for p in parameters):
            continue
        narrow = [
            f"{name} rounds to {rounding.format.name}"
            for name, stage in result.proposed.stages.items()
            for rounding in stage.result or ()
            if rounding.format.mantissa_bits < FP32_BITS
        ]
        if narrow:
            yield Advice(
                "A register limits",
                f"More fraction bits alone do not make claim {i} hold on all data, because stage {listed(narrow)}. Widen its "
                "`result` first.",
            )


def unused_precision(result: Result) -> Iterator[Advice]:
    """Name the cheapest value of a parameter that keeps all claims with a break-even in it, if the proposal's is dearer."""
    all_found: dict[str, list[BreakEven]] = {}
    claims: dict[str, list[str]] = {}
    for i, verdict in enumerate(result.verdicts, 1):
        for parameter, found in by_parameter(verdict.break_even).items():
            claims.setdefault(parameter, []).append(str(i))
            all_found.setdefault(parameter, []).extend(found)
            if verdict.judgement != "supported":
                all_found[parameter].append(found[0].model_copy(update={"limit": None}))
    for parameter, found in all_found.items():
        need, own = needed(found), found[0].own
        if need is None or isinstance(own, str) or need == own or (need < own) != found[0].rising:
            continue
        areas = {f.at: f.value for f in result.figures if (f.metric, f.variant) == ("cost.area_ratio", "proposal")}
        cheaper = (
            f", with ×{number(areas[need])} of today's unit area instead of ×{number(areas[None])}"
            if areas.get(need) and areas.get(None)
            else ""
        )
        yield Advice(
            "More than the claims need",
            f"{parameter} {need} instead of {own} is enough for claim{'s' * (len(claims[parameter]) > 1)} "
            f"{listed(claims[parameter])}{cheaper}{conditions(found)}.",
        )


def more_samples(result: Result) -> Iterator[Advice]:
    """Say how many more seeds would decide an open claim, or that none would."""
    bare = []
    for i, verdict in enumerate(result.verdicts, 1):
        figure, claim = verdict.deciding, verdict.claim
        value = figure.value if figure else None
        bounds = [b for b in (claim.at_most, claim.at_least) if b is not None]
        sampled = metric_named(claim.metric).sampled
        if verdict.judgement != "undetermined" or figure is None or value is None or not sampled:
            continue
        found = read(figure)
        if found.ends is None:
            bare.append(str(i))
            continue
        distance, bound = min((abs(b - found.value), b) for b in bounds)
        low, high = found.ends
        width = high - found.value if bound > found.value else found.value - low
        times = ceil((width / distance) ** 2) if distance else 0
        if not low <= bound <= high:
            yield Advice(
                "Too many figures for these samples",
                f"Claim {i} is undetermined: {interval(figure)} lies on one side of the bound {bound:g}, but among "
                f"{verdict.covered} figures one may by chance. More samples, or a claim on fewer GEMMs, would decide it.",
            )
        elif figure.tensors == CAPTURED:
            yield Advice(
                "A captured tensor decides",
                f"Claim {i} is undetermined: {interval(figure)} on {figure.workload} contains the bound {bound:g}. More "
                "seeds do not help with a captured tensor; more of its rows, or other models, would.",
            )
        elif 1 <= times <= MOST_TIMES:
            many = max(times, 2) * len(result.sampling.seeds)
            command = f": `codesign evaluate --seeds 0-{many - 1}`" if many <= MOST_SEEDS else ""
            yield Advice(
                "Sample more",
                f"Claim {i} is undetermined: {interval(figure)} contains the bound {bound:g}. About {max(times, 2)} times as "
                f"many seeds would decide it if the value stays{command}.",
            )
        elif distance == 0 or times > MOST_TIMES:
            yield Advice(
                "At the bound",
                f"Claim {i} is undetermined: {interval(figure)} lies at the bound {bound:g}, and no number of seeds will "
                "decide it. Change the design, or claim a bound that leaves room.",
            )
    if bare:
        claims = f"claim{'s' * (len(bare) > 1)} {listed(bare)}"
        yield Advice("Too few samples", f"No interval decides {claims}: evaluate with more seeds, rows or columns.")


def fragile(result: Result) -> Iterator[Advice]:
    """Name an assumption that turns a verdict: it should be measured first."""
    for i, verdict in enumerate(result.verdicts, 1):
        for bar in verdict.bars:
            if bar.reversed_by and verdict.deciding and not metric_named(verdict.claim.metric).sampled:
                yield Advice(
                    "Measure this first",
                    f"Claim {i} is {verdict.judgement} at {interval(verdict.deciding)}, and would be reversed by "
                    f"{bar.assumption}: {listed(bar.reversed_by)}.",
                )


def assumed(result: Result) -> Iterator[Advice]:
    """Name the claims that an assumed figure decides."""
    rests: dict[str, list[str]] = {}
    for i, verdict in enumerate(result.verdicts, 1):
        if verdict.deciding and verdict.deciding.kind == "assumed":
            rests.setdefault(verdict.deciding.source, []).append(f"claim {i} at {interval(verdict.deciding)}")
    for source, claims in rests.items():
        decide, rest = (
            ("An assumed figure decides", "It rests") if len(claims) == 1 else ("Assumed figures decide", "They rest")
        )
        text = f"{decide} {listed(claims)}: measure before you build. {rest} on: {source}."
        yield Advice("An assumption decides", text)


# -- errors ----------------------------------------------------------------------------------------------------------


def quantisation_dominates(result: Result) -> Iterator[Advice]:
    """Say that quantisation hides better sums."""
    total, sums = (worst_of(result, f"numerics.{name}") for name in ("total_error", "relative_frobenius"))
    quantised = total and counterpart("proposal", total, result.figures, "numerics.quantisation_error")
    before = sums and counterpart("software", sums, result.figures)
    if not (total and quantised and before and sums and total.value and quantised.value and before.value):
        return
    share = quantised.value / total.value
    if sums.value is not None and sums.value < before.value / 2 and share >= 0.9:
        example = see(result, "group-scaled-mma-ue4m3")
        if result.proposal.in_slices:
            better = "more slices or products of them would improve D"
        elif _groups_do_not_matter(result.proposed):
            better = (
                "finer groups would not improve D, because power-of-two scales only shift exponents; more mantissa bits, in "
                f"elements or scales, would{example}"
            )
        else:
            better = f"finer groups would improve D{example}"
        yield Advice(
            "Quantisation dominates",
            f"Quantisation alone causes an error of {number(quantised.value)}, out of {number(total.value)} in total "
            f"({total.workload}, {total.tensors}). That the error of sums is {number(sums.value)} instead of "
            f"{number(before.value)} ({sums.workload}, {sums.tensors}) is not visible in D; {better}.",
        )


def worst_place(result: Result) -> Iterator[Advice]:
    """Name a GEMM whose total error is far above the others'."""
    own = figures_of(result.figures, "numerics.total_error")
    values = [f.value for f in own if f.value is not None]
    found = worst(own)
    if len(values) < FEWEST_PLACES or found is None or found.value is None:
        return
    middle = median(values)
    if middle and found.value >= 2 * middle:
        what = "more slices" if result.proposal.in_slices else "finer groups"
        yield Advice(
            "One GEMM stands out",
            f"{found.workload} on {found.tensors} tensors has a total error of {number(found.value)}, "
            f"{found.value / middle:.2g} times the median {number(middle)}: give it {what}, or keep it in "
            f"{result.proposal.inputs.upper()}.",
        )


def underflow(result: Result) -> Iterator[Advice]:
    """Say that the proposal's scales lose more small elements than today's."""
    own = worst_of(result, "numerics.underflow_share")
    before = own and counterpart("software", own, result.figures)
    if own and before and own.value and before.value is not None and own.value >= max(1.5 * before.value, 0.01):
        yield Advice(
            "Small elements are lost",
            f"On {own.workload}, {own.tensors}, {100 * own.value:.1f} % of nonzero elements become zero, instead of "
            f"{100 * before.value:.1f} % with today's software. Scales with more exponent bits, or smaller groups, keep them.",
        )


# -- time and cost ---------------------------------------------------------------------------------------------------


def casts_dominate(result: Result) -> Iterator[Advice]:
    """Say that casts take a large part of today's step, and of the proposal's."""
    yield from _part_of_step(result, ("casts", "transposes"), 0.08, "Casts dominate", "fused-tma-cast")


def network_dominates(result: Result) -> Iterator[Advice]:
    """Say that communication takes a large part of today's step, and of the proposal's."""
    yield from _part_of_step(result, ("network",), 0.05, "Communication matters", "communication-offload")


def small_part(result: Result) -> Iterator[Advice]:
    """Give the upper bound of a layer's speedup by Amdahl's law if it is small, and the largest part that stays as it is."""
    for own in result.figures:
        if (
            own.metric == "timing.layer_ceiling"
            and own.at is None
            and own.value is not None
            and 1.005 <= own.value < 1.25
        ):
            rest = _largest_rest(result, own.workload)
            yield Advice(
                "Amdahl's law",
                f"A whole layer of {own.workload} becomes at most {interval(own)} times as fast, even if everything that the "
                f"proposal accelerates took no time.{rest}",
            )


def slower(result: Result) -> Iterator[Advice]:
    """Say that the Linears become slower."""
    for own in result.figures:
        if (
            (own.metric, own.at) == ("timing.step_speedup", None)
            and "." not in own.workload
            and own.high
            and own.high < 1
        ):
            most = worst(
                f
                for f in figures_of(result.figures, "timing.speedup_over_software")
                if f.workload.startswith(f"{own.workload}.")
            )
            first = f" Hide it first in {most.workload}, which runs at {interval(most)}." if most else ""
            yield Advice(
                "Slower than today",
                f"The Linears of {own.workload} run at {interval(own)} times today's speed: the time that the proposal adds to "
                f"a GEMM is not hidden.{first}",
            )


def cheaper_scales(result: Result) -> Iterator[Advice]:
    """Say how much less area power-of-two scales take."""
    plot = next((p for e in result.evidence for p in e.plots if p.name == "cost-scales"), None)
    own = next((s for s in plot.series if s.variant == "proposal"), None) if plot else None
    power_of_two = next((s for s in plot.series if s.label == "UE8M0 scales"), None) if plot else None
    if not own or not power_of_two or own.y[0] is None:
        return
    at = dict(zip(power_of_two.x, power_of_two.y, strict=True)).get(own.x[0])
    if at and at < 0.9 * own.y[0]:
        yield Advice(
            "Cheaper scales",
            f"UE8M0 scales, added to exponents, take {number(at)} times today's area with groups of {own.x[0]:g}, instead of "
            f"{number(own.y[0])}{see(result, 'group-scaled-mma-ue8m0')}.",
        )


RULES: tuple[Callable[[Result], Iterator[Advice]], ...] = (
    within_reach,
    register_limits,
    more_samples,
    fragile,
    assumed,
    quantisation_dominates,
    unused_precision,
    worst_place,
    underflow,
    slower,
    casts_dominate,
    network_dominates,
    small_part,
    cheaper_scales,
)
"""All rules, in the order of the report."""
MOST_TIMES = 64
"""Largest factor of seeds that is worth proposing."""
FP32_BITS = 23
"""Mantissa bits of FP32; a register with fewer may limit the sums."""
WIDE_RANGE = 4
"""Exponent bits of elements, from which few elements of a group underflow (E4M3, E5M2)."""
FEWEST_PLACES = 6
"""Fewest pairs of GEMM and tensors of which one can stand out."""


# -- what rules read -------------------------------------------------------------------------------------------------


def see(result: Result, name: str) -> str:
    """Return a pointer to a shipped proposal; empty if the result is of that one."""
    return "" if result.proposal.proposal == name else f": see `{name}`"


def worst_of(result: Result, metric: str, variant: str = "proposal") -> Figure | None:
    """Return the worst figure of a metric and a variant; None if there is none."""
    return worst(figures_of(result.figures, metric, variant))


def _groups_do_not_matter(proposed: Instruction) -> bool:
    """Return whether finer groups leave the quantisation error as it is.

    A power-of-two scale moves an element's exponent and leaves its relative rounding error, unless the element underflows.
    """
    scale = proposed.scale
    sides = [(proposed.a, scale.a), (proposed.b, scale.b)] if scale else []
    return bool(sides) and all(
        side is not None
        and fmt.exponent_bits >= WIDE_RANGE
        and not any(level.format.mantissa_bits for level in side.levels)
        for fmt, side in sides
    )


def _part_of_step(result: Result, kinds: tuple[str, ...], least: float, title: str, name: str) -> Iterator[Advice]:
    """Yield the share of kinds of operations in a layer's step, today and with the proposal, if it is large in both."""
    for plot in (p for e in result.evidence for p in e.plots if p.stacked and p.name.startswith("layer-")):
        before, after = (_share(plot, kinds, side) for side in (0, 1))
        if before >= least and after >= least:
            one = len(kinds) == 1
            what = f"The {kinds[0]} takes" if one else f"{listed(list(kinds)).capitalize()} take"
            yield Advice(
                title,
                f"{what} {percent(before)} of the step of a layer of {plot.name.removeprefix('layer-')} today, and "
                f"{percent(after)} with the proposal{see(result, name)}.",
            )


def _largest_rest(result: Result, layer: str) -> str:
    """Return a sentence on the largest part of a layer's step that the proposal leaves as it is; empty if it leaves none."""
    plot = next((p for e in result.evidence for p in e.plots if p.stacked and p.name == f"layer-{layer}"), None)
    rest = {s.label: _share(plot, (s.label,), 0) for s in plot.series if s.y[0] and s.y[0] == s.y[1]} if plot else {}
    if not rest:
        return ""
    name, share = max(rest.items(), key=lambda part: part[1])
    return f" Look at {name} next: it takes {percent(share)} of today's step and stays as it is."


def _share(plot: Plot, kinds: tuple[str, ...], side: int) -> float:
    sums = [(s.label in kinds, s.y[side] or 0.0) for s in plot.series]
    whole = sum(y for _, y in sums)
    return sum(y for own, y in sums if own) / whole if whole else 0.0
