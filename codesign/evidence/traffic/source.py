"""Traffic evidence: bytes and energy of a layer's step, its passes and Linears, counted under each assumption."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import fsum

from codesign.evidence.source import Source, Subject
from codesign.evidence.traffic.count import LEVELS, Level, Move, TrafficAssumptions, cache_bytes, moves, schemes
from codesign.evidence.traffic.slices import of_slices
from codesign.figures.evidence import Column, Evidence, Section, Table
from codesign.figures.figure import Alternative, Figure, Kind, Plot, Series
from codesign.figures.words import listed
from codesign.proposal.proposal import Proposal
from codesign.workloads.gemms import Model, models

SMS, COMMUNICATION_SMS = 132, 20
"""SMs of an H800, and those of them that communication takes (DeepSeek-V3 technical report, 3.2.2)."""

OTHERS: dict[str, dict[str, TrafficAssumptions]] = {
    "tile of the GEMM": {"256x128": TrafficAssumptions(tile_m=256), "64x128": TrafficAssumptions(tile_m=64)},
    "TMA multicast": {"none": TrafficAssumptions(multicast=1)},
    "reads of an operand from HBM": {"twice": TrafficAssumptions(hbm_reads=2.0)},
    "nodes a token goes to": {"its own is one of them": TrafficAssumptions(own_node=True)},
}

ENERGIES: dict[str, tuple[float, float, float, str]] = {  # by level of traffic
    "hbm": (
        20.0,
        31.0,
        160.0,
        "pJ/B; 3.9 pJ/bit of HBM2 (O'Connor et al., MICRO 2017); up to DRAM at 640 pJ/32 bit (Horowitz, ISSCC 2014)",
    ),
    "l2": (
        2.0,
        6.0,
        12.5,
        "pJ/B; at most a 1 MB cache at 45 nm, 100 pJ/64 bit (Horowitz, ISSCC 2014); less at 4 nm: assumed",
    ),
    "smem": (
        0.5,
        1.2,
        2.5,
        "pJ/B; at most a 32 KB cache at 45 nm, 20 pJ/64 bit (Horowitz, ISSCC 2014); less at 4 nm: assumed",
    ),
    "network": (
        80.0,
        250.0,
        1000.0,
        "pJ/B; NVLink and InfiniBand with optics together: assumed, no source separates them",
    ),
    "multiply": (
        0.1,
        0.3,
        0.71,
        "pJ per FP8 multiply-accumulate; at most an H100's 700 W over its 989e12 a second, all else included (data sheet)",
    ),
}
"""Least, assumed and most energy, and the source of the numbers."""

MOVES = {
    "write": ("written by their kernels", "sky"),
    "cast": ("cast in a kernel", "vermilion"),
    "turn": ("turned for wgrad", "orange"),
    "operands": ("operands of GEMMs", "blue"),
    "output": ("outputs of GEMMs", "grey"),
    "dispatch": ("dispatch", "pink"),
    "combine": ("combine", "green"),
}
"""Names and colours of operations in the plot, in its order."""
NAMES: dict[Level, str] = {"hbm": "HBM", "l2": "L2 to SMs", "smem": "shared memory", "network": "network"}
WORDS = {
    "traffic.hbm_bytes": "through HBM",
    "traffic.l2_bytes": "from L2 to the SMs",
    "traffic.network_bytes": "over the network",
}
SEEN = 0.005
"""Smallest relative change of bytes that the finding mentions."""


class Traffic(Source):
    """Bytes and energy of a layer's step, counted."""

    doing = "traffic"

    def gather(self, subject: Subject) -> Evidence:
        """Return the figures of every model among the workloads.

        There are none for bases whose operands are not cast, for a user's own Linears (a layer has more than one), and for
        small models, which are here for their tensors and do not fill a GPU. Of operands in slices, instruction passes and
        bytes of an element are counted.
        """
        proposal = subject.proposal
        if proposal.in_slices:
            return of_slices(proposal)
        if proposal.today.a.bits > 8 or proposal.inputs != "bf16":
            return Evidence(source="traffic", figures=())
        of_variant = schemes(proposal)
        plain = of_variant.pop("plain")
        figures: list[Figure] = []
        moved: dict[str, dict[str, tuple[Move, ...]]] = {}
        for name in dict.fromkeys(w.split(".")[0] for w in proposal.workloads):
            model = models().get(name)
            if model is None or model.small:
                continue
            about = frozenset(
                g.name.split(".")[2] for w in proposal.workloads if w.startswith(name) for g in proposal.select(w)
            )
            for variant, scheme in of_variant.items():
                rest = plain if proposal.path else scheme
                counted = {case: tuple(moves(model, scheme, about, rest, machine)) for case, machine in _machines()}
                kept = cache_bytes(model, scheme, about, rest)
                moved.setdefault(model.name, {})[variant] = counted["", ""]
                figures += _figures(model, variant, counted, kept)
            figures += _sms(proposal, model)
        if not figures:
            return Evidence(source="traffic", figures=())
        return Evidence(
            source="traffic",
            figures=tuple(figures),
            finding=tuple(_finding(figures)) if proposal.path else (),
            sections=(_section(figures, moved),),
            method=(
                "Traffic is counted, not measured: each Linear of a layer on one GPU, all three passes; attention, norms, "
                "optimizer and the once-per-step cast of weights are the same on both sides and left out. Assumed: GEMM "
                "tiles of 128x128, B multicast to 2 CTAs, operands read from HBM once, experts evenly loaded, a token sent "
                "to the most nodes allowed. Tokens for experts in FP8 are cast once, before sending, and arrive as codes. "
                "One kernel casts a gradient in both layouts. Wgrad adds to FP32. Near-memory casting reduces "
                "the bytes that cross to the GPU; the DRAM array still reads BF16, so its energy is understated.",
                "Energy is bytes times assumed energies: "
                + "; ".join(
                    f"{name} {taken:g} [{low:g}, {high:g}] {about}"
                    for name, (low, taken, high, about) in ENERGIES.items()
                )
                + ".",
            ),
        )


SOURCE = Traffic()


def _finding(figures: Sequence[Figure]) -> Iterator[str]:
    """Yield a sentence on the bytes of the first model's step; changes under half a percent do not count."""
    model = figures[0].workload
    old = {f.metric: f.value for f in figures if (f.variant, f.workload) == ("software", model)}
    changes = []
    for f in figures:
        base = old.get(f.metric)
        if (f.variant, f.workload) == ("proposal", model) and f.metric in WORDS and f.value is not None and base:
            change = f.value / base - 1
            if abs(change) >= SEEN:
                changes.append(f"{abs(change):.0%} {'more' if change > 0 else 'fewer'} bytes {WORDS[f.metric]}")
    if changes:
        yield f"A layer's step of {model} moves {listed(changes)}."


def _section(figures: Sequence[Figure], moved: dict[str, dict[str, tuple[Move, ...]]]) -> Section:
    title = "Traffic and energy of a layer's step"
    old, new = ({(f.metric, f.workload): f.value for f in figures if f.variant == v} for v in ("software", "proposal"))
    if new == {key: old.get(key) for key in new}:
        same = "The proposal moves exactly the bytes that today's software moves; the figures are in result.json."
        return Section(title=title, sentences=(same,))
    return Section(
        title=title,
        plots=tuple(_plot(name, found) for name, found in moved.items()),
        tables=(
            Table(
                rows=("workload", "metric"),
                headings=("step of", "quantity"),
                columns=(
                    Column(heading="today's software [interval]", form="interval", variant="software"),
                    Column(heading="proposal [interval]", form="interval", variant="proposal"),
                    Column(heading="ratio", form="over software", variant="proposal"),
                    Column(heading="kind", form="kind", variant="proposal"),
                ),
                workloads=tuple(dict.fromkeys(f.workload for f in figures if f.workload.count(".") <= 1)),
                note="Intervals cover other assumptions, one changed at a time. Both variants change "
                "together, so their ratio is more certain than the two intervals suggest.",
            ),
        ),
    )


def _plot(model: str, moved: dict[str, tuple[Move, ...]]) -> Plot:
    """Return the bytes on each level by operation, of software and of the proposal, relative to software's."""
    bars = [
        (level, variant)
        for level in LEVELS
        if any(getattr(m, level) for found in moved.values() for m in found)
        for variant in ("software", "proposal")
    ]
    sums = {(level, variant): fsum(getattr(m, level) for m in moved[variant]) for level, variant in bars}

    def share(level: Level, variant: str, what: str) -> float:
        size = fsum(getattr(m, level) for m in moved[variant] if m.what == what)
        return float(f"{100 * size / sums[level, 'software']:.6g}") if sums[level, "software"] else 0.0

    parts = {what: tuple(share(*bar, what) for bar in bars) for what in MOVES}
    return Plot(
        name=f"bytes-{model}",
        title=f"{model}: bytes of one layer's step, fprop, dgrad and wgrad, on one GPU",
        caption="Bytes in percent of today's software's on the same level. Counted from shapes; tiles and cache "
        "behaviour are assumed, see Method.",
        x_label="percent of today's software's bytes",
        y_label="",
        y_scale="linear",
        kind="modelled",
        categories=tuple(f"{NAMES[level]}, {variant}: {sums[level, variant] / 1e9:.3g} GB" for level, variant in bars),
        stacked=True,
        series=tuple(
            Series(label=label, variant=color, x=tuple(range(len(bars))), y=parts[what], labels=("",) * len(bars))
            for what, (label, color) in MOVES.items()
            if any(parts[what])
        ),
    )


def _machines() -> Iterator[tuple[tuple[str, str], TrafficAssumptions]]:
    yield ("", ""), TrafficAssumptions()
    for assumption, others in OTHERS.items():
        for other, machine in others.items():
            yield (assumption, other), machine


def _figures(
    model: Model, variant: str, counted: dict[tuple[str, str], tuple[Move, ...]], kept: dict[str, float]
) -> Iterator[Figure]:
    """Yield the bytes of each level and the energy of the whole layer, of each pass, and of each Linear in each pass."""
    scopes = {model.name: ("", "")}
    scopes |= {f"{model.name}.{step}": (step, "") for step in ("fprop", "dgrad", "wgrad")}
    scopes |= {
        f"{model.name}.{step}.{linear.name}": (step, linear.name)
        for step in ("fprop", "dgrad", "wgrad")
        for linear in model.linears
    }
    for scope, (step, linear) in scopes.items():
        sums = {
            case: {level: _total(found, level, step, linear) for level in LEVELS} for case, found in counted.items()
        }
        for level in LEVELS:
            if not sums["", ""][level]:
                continue
            others = tuple(
                Alternative(assumption=case[0], other=case[1], value=_rounded(values[level]))
                for case, values in sums.items()
                if case[0] and values[level] != sums["", ""][level]
            )
            yield _figure(
                f"traffic.{level}_bytes", variant, scope, sums["", ""][level], others, "modelled", model.source
            )
        yield _energy(model, variant, scope, sums, _multiplies(model, step, linear))
    for scope, size in {
        model.name: fsum(kept.values()),
        **{f"{model.name}.fprop.{name}": n for name, n in kept.items()},
    }.items():
        yield _figure("traffic.cache_bytes", variant, scope, size, (), "modelled", model.source)


def _total(found: Iterable[Move], level: Level, step: str, linear: str) -> float:
    return fsum(getattr(m, level) for m in found if step in ("", m.step) and linear in ("", m.linear))


def _multiplies(model: Model, step: str, linear: str) -> float:
    """Return the number of multiply-accumulates of the passes and Linears in scope."""
    total = 0.0
    for each in model.linears:
        if linear in ("", each.name):
            active = model.experts.active + model.experts.shared if each.expert and model.experts else 1
            total += model.tokens * active * each.n * each.k * (1 if step else 3)
    return total


def _energy(
    model: Model, variant: str, scope: str, sums: dict[tuple[str, str], dict[Level, float]], multiplies: float
) -> Figure:
    def joules(values: dict[Level, float], changed: str = "", end: int = 1) -> float:
        amounts: dict[str, float] = {**{str(level): n for level, n in values.items()}, "multiply": multiplies}
        return fsum(n * float(ENERGIES[name][end if name == changed else 1]) * 1e-12 for name, n in amounts.items())

    base = sums["", ""]
    others = [
        Alternative(assumption=case[0], other=case[1], value=_rounded(joules(values)))
        for case, values in sums.items()
        if case[0] and values != base
    ]
    for name, (low, _, high, _) in ENERGIES.items():
        if name == "multiply" or base.get(name):  # type: ignore[call-overload]
            unit = "pJ each" if name == "multiply" else "pJ/B"
            label = "energy of a multiply-accumulate" if name == "multiply" else f"energy of {name}"
            others += [
                Alternative(assumption=label, other=f"{end:g} {unit}", value=_rounded(joules(base, name, i)))
                for i, end in ((0, low), (2, high))
            ]
    return _figure(
        "energy.joules", variant, scope, joules(base), tuple(others), "assumed", "energies per byte: see Method"
    )


def _figure(
    metric: str, variant: str, scope: str, value: float, others: tuple[Alternative, ...], kind: Kind, source: str
) -> Figure:
    """Return a figure whose interval covers its value in every other case."""
    reach = [value, *(o.value for o in others if o.value is not None)]
    return Figure(
        metric=metric,
        variant=variant,
        workload=scope,
        tensors="",
        value=_rounded(value),
        low=_rounded(min(reach)),
        high=_rounded(max(reach)),
        kind=kind,
        source=f"counted for {scope}; shapes: {source}" if kind == "modelled" else f"counted for {scope}; {source}",
        alternatives=others,
    )


def _sms(proposal: Proposal, model: Model) -> Iterator[Figure]:
    """Yield the share of SMs that communication takes, where the path communicates."""
    sent = [s for s in (proposal.path.steps if proposal.path else ()) if s.at in ("dispatch", "combine")]
    if not sent or model.experts is None:
        return
    share = COMMUNICATION_SMS / SMS
    for variant, value in (("software", share), ("proposal", share if any(s.on_sms for s in sent) else 0.0)):
        yield _figure(
            "traffic.sm_share",
            variant,
            model.name,
            value,
            (),
            "assumed",
            f"{COMMUNICATION_SMS} of {SMS} SMs today (DeepSeek-V3 technical report, 3.2.2); none where an engine does it",
        )


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
