"""Timing evidence: times of a proposal's GEMMs and of a layer's step, and the speedups over today's software."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

from codesign.evidence.source import Source, Subject
from codesign.evidence.timing import layer_step
from codesign.evidence.timing.amdahl import Gain, gain
from codesign.evidence.timing.machine_constants import Machine
from codesign.evidence.timing.model import Constants, Product
from codesign.evidence.timing.operations import (
    NO_MODEL,
    PASSES,
    Multiply,
    meant,
    of_gemm,
    of_layer,
    proposed,
    schemes_of,
    software,
    supported,
)
from codesign.evidence.timing.plots import VARIANTS, certainty, layer_chart, plots
from codesign.evidence.timing.ratio_errors import pair
from codesign.evidence.timing.time_comparison import TimeComparison, TimedPart, compare, modelled
from codesign.evidence.timing.times import Time, Timer, timer
from codesign.evidence.traffic.source import COMMUNICATION_SMS, ENERGIES
from codesign.figures.evidence import KIND_AND_SOURCE, Column, Evidence, Section, Table
from codesign.figures.figure import Alternative, Figure, Kind, Plot
from codesign.proposal.proposal import Proposal
from codesign.workloads.gemms import Gemm, Model, models
from kernels.gemm.choose import candidates, estimate_us, gpu_of
from kernels.gemm.tile import ScaleLayout

CERTAIN: tuple[Kind, ...] = ("computed", "measured", "modelled", "assumed")
"""Kinds of figures, the most certain first; a sum is as certain as its least certain part."""


class Timing(Source):
    """Times and speedups of GEMMs and of a layer's step, measured and modelled."""

    doing = "timing"

    def gather(self, subject: Subject) -> Evidence:
        """Return times and speedups of every GEMM, and of the step of every large model among the workloads.

        For a base that the model does not cover, or without records, there are none, and the method says why. The energy
        of the proposed unit, if earlier evidence has it, enters as an assumption.
        """
        proposal = subject.proposal
        if not supported(proposal):
            return Evidence(source="timing", figures=(), method=(f"No timing: {NO_MODEL}.",))
        try:
            clock = timer(proposal.gpu or "")
        except LookupError as reason:
            return Evidence(source="timing", figures=(), method=(f"No timing: {reason}.",))
        hungry = (f.value for f in subject.figures if (f.metric, f.at) == ("cost.energy_ratio", None) and f.value)
        about = Timed(proposal, clock, next(hungry, None))
        gemms = dict.fromkeys(g for workload in proposal.workloads for g in proposal.select(workload))
        figures = [f for gemm in gemms for f in _of_gemm(about, gemm)]
        figures += _of_layers(about)
        method = _method(about)
        try:
            gains = [gain(proposal, model, clock) for model in _models(proposal)]
            figures += [f for found in gains for f in _of_whole(about, found)]
            method += layer_step.method() if gains else ()
        except LookupError as reason:
            gains, method = [], (*method, f"No whole layer: {reason}.")
        shown = _sections(figures, plots(gemms, figures, clock.machine), tuple(map(layer_chart, gains)))
        return Evidence(source="timing", figures=tuple(figures), sections=tuple(shown), method=method)


SOURCE = Timing()


def _sections(figures: Sequence[Figure], rates: tuple[Plot, ...], layers: tuple[Plot, ...]) -> Iterator[Section]:
    """Yield the section of GEMMs and of whole layers, and that of every GEMM's time."""

    def interval(heading: str, metric: str) -> Column:
        return Column(heading=f"{heading} [interval]", form="interval", metric=f"timing.{metric}")

    def ends(metric: str) -> list[Column]:
        return [c.model_copy(update={"metric": f"timing.{metric}"}) for c in KIND_AND_SOURCE]

    there = {f.metric for f in figures}
    linears = Table(
        title="All Linears of a layer",
        rows=("workload",),
        headings=("Linears of a layer",),
        columns=(interval("speedup over software", "step_speedup"), *ends("step_speedup")),
        note="Linears with their casts, in all passes or in one. Intervals cover other assumptions, one changed at a time; see "
        "Method.",
    )
    whole = Table(
        title="A whole layer's step",
        rows=("workload",),
        headings=("layer of",),
        columns=(
            interval("speedup over software", "layer_speedup"),
            interval("ceiling", "layer_ceiling"),
            *ends("layer_speedup"),
        ),
        note="The ceiling is Amdahl's law: everything that the proposal makes faster takes no time, the rest does not change. "
        "Intervals cover other assumptions, one changed at a time; see Method.",
    )
    tables = {"timing.step_speedup": linears, "timing.layer_speedup": whole}
    yield Section(
        title="Time", plots=(*rates, *layers), tables=tuple(t for metric, t in tables.items() if metric in there)
    )
    times = Table(
        rows=("workload",),
        headings=("GEMM",),
        columns=(
            *(
                Column(heading=f"{label}, us", form="number, kind", metric="timing.microseconds", variant=variant)
                for variant, label in VARIANTS.items()
            ),
            interval("speedup over software", "speedup_over_software"),
            ends("speedup_over_software")[0],
        ),
        note="Measured on the GPU that the captions name; modelled as Method says. The twin is the software's "
        "kernel without its emulation work; with a path, it is the GEMM with nothing before it.",
    )
    yield Section(title="Time, every GEMM", tables=(times,), folded=True)


@dataclass(frozen=True)
class Timed:
    """A proposal, the timer of its operations, and the other inputs of its times."""

    proposal: Proposal
    timer: Timer
    energy: float | None
    """Energy of the proposed unit over the base's; None without a cost record."""

    @property
    def taken(self) -> tuple[int, int]:
        """SMs that communication holds, today and with the proposal; 0 for proposals that do not communicate."""
        steps = [s for s in (self.proposal.path.steps if self.proposal.path else ()) if s.at in ("dispatch", "combine")]
        if not steps:
            return 0, 0
        return COMMUNICATION_SMS, COMMUNICATION_SMS if any(s.on_sms for s in steps) else 0

    @property
    def ways(self) -> tuple[Multiply, Multiply]:
        """Multiplication today and with the proposal."""
        return software(self.proposal, self.taken[0]), proposed(self.proposal, self.taken[1])


# -- figures ---------------------------------------------------------------------------------------------------------


def _of_gemm(about: Timed, gemm: Gemm) -> Iterator[Figure]:
    today, scheme, _ = schemes_of(about.proposal)
    multiply, new_multiply = about.ways
    old, new = of_gemm(gemm, today, multiply), of_gemm(gemm, scheme, new_multiply)
    if about.proposal.path is None:
        # The tensors arrive the same way on both sides: only the products differ.
        old, new = ([s for s in steps if s.what == "product"] for steps in (old, new))
    root = next(replace(s.operation, taken=0) for s in old if isinstance(s.operation, Product))
    # If only the steps before the GEMM change, the bound is the GEMM with nothing before it.
    promote = root.problem.promote if about.proposal.multiplies_as_today else 0
    twin = replace(root, split_k=new_multiply.split_k, problem=replace(root.problem, promote=promote))
    native = replace(twin, problem=replace(root.problem, promote=0, scales=ScaleLayout.TENSOR), widths=(1.0, 1.0))
    compared = compare(about.timer, old, new)
    value, low, high = _speedup(about, compared)
    ceiling = _native(about.timer, root, native)
    times = {
        "software": _sum(compared.old, compared, 0),
        "twin": about.timer.time(twin, root),
        "proposal": _sum(compared.new, compared, 1),
        "today": ceiling,
    }
    bound = ""
    measured = [t for t in (times["twin"], ceiling) if t.kind == "measured"]
    faster = any(isinstance(x := p.step.operation, Product) and x.clocks < 1 for p in compared.new)
    if measured and not about.proposal.path and not faster:
        # No faster than the fastest measured kernel without promotion; perhaps as fast, if its work is the twin's.
        fastest = min(measured, key=lambda t: t.us)
        t, best = times["proposal"], times["software"].us / fastest.us
        as_twin = not compared.new[0].changed and times["twin"].kind == "measured"
        _, off = about.timer.ratios.of_chips(pair(root, native))
        most = best * off  # that ratio, too, was measured on this chip alone
        value, low, high = min(value, best), min(low, best), most if as_twin else min(high, most)
        floor = fastest.us / off
        ends = max(t.us, fastest.us), floor if as_twin else max(t.low, floor), max(t.high, fastest.us)
        times["proposal"] = Time(*ends, max(t.kind, "modelled", key=CERTAIN.index), t.source)
        bound = f"; at most {best:.3g}, by {fastest.source}"
    for variant, t in times.items():
        yield _figure("timing.microseconds", variant, gemm.name, (t.us, t.low, t.high), t.kind, t.source)
    source = times["proposal"].source + bound
    kind = max(times["software"].kind, times["proposal"].kind, key=CERTAIN.index)
    others = _alternatives(about, compared, value)
    for at in dict.fromkeys((None, *(c.at for c in about.proposal.claims if c.metric.startswith("timing.")))):
        figure = _figure("timing.speedup_over_software", "proposal", gemm.name, (value, low, high), kind, source)
        yield figure.model_copy(update={"at": at, "alternatives": others})


def _models(proposal: Proposal) -> list[Model]:
    """Return the large models among the workloads."""
    named = dict.fromkeys(w.split(".")[0] for w in proposal.workloads)
    return [model for name in named if (model := models().get(name)) and not model.small]


def _of_whole(about: Timed, found: Gain) -> Iterator[Figure]:
    """Yield a whole layer's speedup and its ceiling."""
    name, whole = found.model.name, found.compared.sums()
    old, new = (side.total() for side in found.layers)
    source = f"{old:,.0f} us over {new:,.0f} us; of today's step {certainty(found.layers[0])}"
    of_linears = _alternatives(about, found.compared, whole[0] / whole[1])
    others = tuple(
        o.model_copy(update={"value": _rounded(o.value)})
        for o in found.alternatives(of_linears)
        if o.value and abs(o.value / found.speedup[0] - 1) > 1e-4
    )
    speedup = _figure("timing.layer_speedup", "proposal", name, found.speedup, "assumed", source)
    yield speedup.model_copy(update={"alternatives": others})
    yield _figure("timing.layer_ceiling", "proposal", name, found.ceiling, "assumed", source)


def _of_layers(about: Timed) -> Iterator[Figure]:
    """Yield the figures of the step, and of each pass, for every large model among the workloads."""
    proposal, (multiply, new_multiply) = about.proposal, about.ways
    today, scheme, plain = schemes_of(proposal)
    for model in _models(proposal):
        name, about_it = model.name, meant(proposal, model)
        old = list(of_layer(model, (today, multiply), (plain, multiply), about_it))
        new = list(of_layer(model, (scheme, new_multiply), (plain, replace(multiply, taken=about.taken[1])), about_it))
        for scope in (name, *(f"{name}.{step}" for step in PASSES)):
            step = scope.removeprefix(name).removeprefix(".")
            before, after = ([s for s in steps if step in ("", s.step)] for steps in (old, new))
            compared = compare(about.timer, before, after)
            value, low, high = _speedup(about, compared)
            us_old, us_new = compared.sums()
            source = f"{us_old:,.0f} us over {us_new:,.0f} us; {_sources(compared.old + compared.new)}"
            kind: Kind = "assumed" if about.taken[0] else "modelled"
            figure = _figure("timing.step_speedup", "proposal", scope, (value, low, high), kind, source)
            yield figure.model_copy(update={"alternatives": _alternatives(about, compared, value)})


def _speedup(about: Timed, compared: TimeComparison) -> tuple[float, float, float]:
    """Return the speedup over today's software and the ends of its interval.

    The interval covers both extremes: communication holds SMs all of the time, or never.
    """
    value, low, high = compared.interval(lambda sums: sums[0] / sums[1])
    if about.taken[0] != about.taken[1]:
        free = modelled(about.timer, compared, about.timer.fit.constants, lambda x: replace(x, taken=0))
        low, high = min(low, free), max(high, free)
    return value, low, high


def _native(timer: Timer, root: Product, native: Product) -> Time:
    """Return the time of the fastest native GEMM measured, ours or torch's; the modelled time if none was."""
    times = [timer.time(native, root)]
    if not root.problem.add:  # torch's does not add to FP32
        shape = {"m": root.problem.m, "n": root.problem.n, "k": root.problem.k}
        rows = timer.bench.find("gemm.native", "peer", "torch-tensor-wise", shape)
        times += [timer.measured(row, row.timing) for row in rows if row.timing]
    found = [t for t in times if t.kind == "measured"]
    return min(found or times, key=lambda t: t.us)


def _sum(parts: Sequence[TimedPart], compared: TimeComparison, side: int) -> Time:
    """Return the time of all operations of one side."""
    us, low, high = compared.interval(lambda sums: sums[side])
    kind: Kind = "measured"
    if any(p.changed or p.on.kind != "measured" for p in parts):
        kind = "modelled"
    if any(isinstance(x := p.step.operation, Product) and (x.taken or x.clocks != 1) for p in parts):
        kind = "assumed"
    return Time(us, low, high, kind, _sources(parts))


def _sources(parts: Iterable[TimedPart]) -> str:
    """Return the basis of times in words."""
    measured = [p for p in parts if p.on.kind == "measured"]
    others = [p for p in parts if p.on.kind != "measured"]
    changed = any(p.changed for p in parts)
    said = list(dict.fromkeys(p.on.source for p in measured))
    if len(said) > 3:
        said = [f"{len(said)} rows of {said[0].split(':')[0]}"]
    said += list(dict.fromkeys(p.on.source for p in others))
    return "; ".join(said) + (", scaled by a modelled ratio" if changed else "")


def _alternatives(about: Timed, compared: TimeComparison, value: float) -> tuple[Alternative, ...]:
    """Return the speedup under other assumptions of the model, scaled by the change of the modelled speedup."""
    timer = about.timer
    base = modelled(timer, compared, timer.fit.constants)
    found = []
    for assumption, other, constants in _constants(about):
        found.append((assumption, other, modelled(timer, compared, constants)))
    tiled = modelled(timer, compared, timer.fit.constants, lambda x: _second_tile(x, timer.machine))
    found.append(("tile of the GEMM", "the second best", tiled))
    if about.energy and not about.proposal.multiplies_as_today:
        for share in _shares(about):
            hungry = 1 + share * (about.energy - 1)
            changed = modelled(timer, compared, timer.fit.constants, lambda x: replace(x, energy=hungry), old=False)  # noqa: B023
            case = f"x{about.energy:.3g} of {share:.0%}"
            found.append(("energy of the unit, of the chip's", case, changed))
    if about.taken[0]:
        free = modelled(timer, compared, timer.fit.constants, lambda x: replace(x, taken=0))
        found.append(("SMs that communication holds while GEMMs run", "none", free))
    if any(isinstance(x := p.step.operation, Product) and x.clocks != 1 for p in compared.new):
        fast = modelled(timer, compared, timer.fit.constants, lambda x: replace(x, clocks=1.0), old=False)
        found.append(("rate of the Tensor Core", "today's", fast))
    return tuple(
        Alternative(assumption=a, other=o, value=_rounded(value * v / base))
        for a, o, v in found
        if abs(v / base - 1) > 1e-4
    )


def _constants(about: Timed) -> Iterator[tuple[str, str, Constants]]:
    c = about.timer.fit.constants
    yield "clock under power", "highest", c.model_copy(update={"full_clock": inf})
    yield "clock under power", "sustained", c.model_copy(update={"full_clock": c.sustained_clock})
    yield "promotion", "in turns of the warpgroups", c.model_copy(update={"out_of_turn": 0.0})
    yield "promotion", "never in turns", c.model_copy(update={"out_of_turn": 1.0})
    yield "bandwidth of casts", "the copy's", c.model_copy(update={"stream_share": 1.0})
    yield "bandwidth of casts", "4/5 of it", c.model_copy(update={"stream_share": 0.8})


def _shares(about: Timed) -> tuple[float, ...]:
    """Return the Tensor Cores' share of the chip's energy: assumed energies of a multiplication over the measured total."""
    whole = about.timer.machine.mac_picojoules
    return tuple(min(float(end) / whole, 1.0) for end in ENERGIES["multiply"][:3])


def _second_tile(x: Product, machine: Machine) -> Product:
    """Return the GEMM on the tile that kernels/gemm would choose second."""
    possible = (tile for tile in candidates(x.problem) if x.split_k or tile.split == 1)
    gpu = gpu_of(machine.gpu, machine.sms - x.taken)
    ranked = sorted(possible, key=lambda tile: estimate_us(x.problem, tile, gpu))
    return replace(x, tile=ranked[min(1, len(ranked) - 1)])


def _figure(
    metric: str, variant: str, workload: str, ends: tuple[float, float, float], kind: Kind, source: str
) -> Figure:
    value, low, high = map(_rounded, ends)
    return Figure(
        metric=metric,
        variant=variant,
        workload=workload,
        tensors="",
        value=value,
        low=low,
        high=high,
        kind=kind,
        source=source,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _rate(about: Timed) -> str:
    """Return the basis of the rate in a sentence."""
    stated, multiply = about.proposal.rate, about.ways[1]
    if about.proposal.multiplies_as_today or (stated is None and multiply.clocks == 1):
        return (
            "The rate is inferred to be the base's: fewer products in a step, or operands over 8 bits, lower it in "
            "proportion; more products do not raise it."
        )
    if stated is not None:
        return f"The proposal states a rate of {stated:g} times the base's, which is taken as given."
    return (
        f"The rate is inferred to be {1 / multiply.clocks:.3g} times the base's: fewer products in a step lower it in "
        "proportion, and products that sparsity leaves out take no time. Operands over 8 bits lower it, too."
    )


def _method(about: Timed) -> tuple[str, ...]:
    fit, path = about.timer.fit, about.proposal.path
    chosen = "named by the proposal" if about.proposal.gpu else "the newest record"
    chips = ", ".join(b.split(",")[0] for b in about.timer.ratios.benches)
    said = [
        f"Times are of one {fit.gpu} ({chosen}), in bursts with cold L2 (docs/timing.md). Measured: medians of {fit.bench}, "
        "intervals their 10th and 90th percentiles. Modelled: an analytic model of the kernels with the machine's "
        f"constants ({fit.machine}) and {len(Constants.model_fields)} that are fitted; held-out rows "
        f"lie within a factor of {fit.reach.product:.3g} (GEMMs) and {fit.reach.stream:.3g} (casts) for 95 %. The "
        "time of a changed GEMM is today's, measured or modelled, times the ratio of two kernels, measured or modelled. The "
        "interval of a modelled ratio comes from its errors on held-out Linears, for each pair of kernels; that of a "
        f"measured one from how much it differs between chips ({chips}).",
        "The speedup of a GEMM is that of "
        + (
            "writing its operands in the kernel that makes them, casting them, and the GEMM together."
            if path
            else "the GEMM alone; its casts are the same on both sides. Where the twin (scales loaded, nothing promoted) was "
            "measured, the proposal's time is the twin's times the modelled ratio. Its interval reaches to the fastest "
            "measured kernel without promotion, twin or native; no speedup beyond that is credited."
        )
        + " The speedup of a step is that of all Linears of a layer in all passes, casts included.",
        "The proposed instruction is assumed to issue as today's does. Chains along K hide more latency. "
        + _rate(about),
    ]
    if about.energy and not about.proposal.multiplies_as_today:
        said.append(
            f"The proposed unit takes {about.energy:.3g} times the energy of today's by its cost record, which may lower the "
            "clock. The figure leaves this out; the plot of what the verdict depends on shows it. Multiplications are "
            f"assumed to take, of the chip's energy, {', '.join(f'{share:.0%}' for share in _shares(about))} (energies "
            f"as for traffic, over {about.timer.machine.mac_picojoules:.2g} pJ that the chip took for each)."
        )
    if not about.proposal.software.split_k:
        said.append(
            "Today's kernels do not split K. Where every tile was measured (kernels/records, tiles), their time is that of the "
            "fastest tile that sums all of K."
        )
    if about.proposal.weights:
        said.append(
            "Today's kernel reads weights from memory in the proposal's narrow format and widens them on the way, which is "
            "assumed to take no time; that favours today's software."
        )
    if about.taken[0]:
        said.append(
            f"Communication holds {COMMUNICATION_SMS} SMs whenever a GEMM runs (assumed: it overlaps all of them, as "
            "in DeepSeek-V3 3.2); the other SMs then have all bandwidth and power."
        )
    return tuple(said)
