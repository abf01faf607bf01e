"""Data of the plots of time: a roofline of the GEMMs, and the parts of a whole layer's step."""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum

from codesign.evidence.timing.amdahl import Gain
from codesign.evidence.timing.layer_step import KINDS, LayerStep, limit
from codesign.evidence.timing.machine_constants import Machine
from codesign.figures.figure import Figure, Plot, Series
from codesign.workloads.gemms import Gemm, models

VARIANTS = {
    "software": "today's software",
    "twin": "its timing twin",
    "proposal": "proposal",
    "today": "native instruction, no promotion",
}
"""Variants of `timing.microseconds`, in the order of the plots."""


COLOURS = dict(
    zip(KINDS, ("blue", "sky", "navy", "vermilion", "orange", "green", "grey", "pink", "black"), strict=True)
)
"""Colours of the parts of a layer's step."""


def plots(gemms: Iterable[Gemm], figures: Iterable[Figure], machine: Machine) -> tuple[Plot, ...]:
    """Return a roofline for each model among the GEMMs, but none for models too small to fill a GPU."""
    times = {(f.workload, f.variant): f for f in figures if f.metric == "timing.microseconds" and f.at is None}
    groups: dict[str, list[Gemm]] = {}
    for gemm in gemms:
        model = models().get(gemm.name.split(".")[0])
        if model is None or not model.small:
            groups.setdefault(gemm.name.split(".")[0], []).append(gemm)
    return tuple(_roofline(name, of, times, machine) for name, of in groups.items())


def _roofline(name: str, gemms: list[Gemm], times: dict[tuple[str, str], Figure], machine: Machine) -> Plot:
    """Return the rate of each GEMM against its operations per byte of HBM, under the two roofs of the GPU."""
    peak = machine.sms * machine.mhz * 64 * 256 * 32 * 2 / machine.wgmma(256) / 1e6
    slope = machine.read_rate / 1e6  # TB/s

    def points(variant: str) -> Series:
        found = [(g, us) for g in gemms if (us := times[g.name, variant].value)]
        return Series(
            label=VARIANTS[variant],
            variant=f"{variant}_points",
            x=tuple(float(f"{_operations(g) / _bytes(g):.4g}") for g, _ in found),
            y=tuple(float(f"{_operations(g) / us / 1e6:.4g}") for g, us in found),
            labels=tuple(".".join(g.name.split(".")[1:]) for g, _ in found) if variant == "proposal" else (),
        )

    kinds = {v: sorted({times[g.name, v].kind for g in gemms}) for v in VARIANTS}
    intensities = [_operations(g) / _bytes(g) for g in gemms]
    ends = sorted(
        {
            min(intensities) / 2,
            min(max(peak / slope, min(intensities) / 2), max(intensities) * 1.5),
            max(intensities) * 1.5,
        }
    )
    roof = Series(
        label="roof: HBM, then FP8 peak",
        variant="exact",
        x=tuple(float(f"{i:.4g}") for i in ends),
        y=tuple(float(f"{min(peak, slope * i):.4g}") for i in ends),
    )
    return Plot(
        name=f"roofline-{name}",
        title=f"Roofline of a layer's GEMMs: {name}",
        caption=f"Rate of each GEMM on one {machine.gpu} against its operations per byte of HBM, each operand and D once. "
        "With a path, the time includes writing and casting. "
        f"Roofs: {peak:,.0f} TFLOP/s at {machine.mhz:.0f} MHz, {slope:.2f} TB/s. "
        + "; ".join(f"{words}: {' and '.join(kinds[v])}" for v, words in VARIANTS.items())
        + ".",
        x_label="operations per byte",
        y_label="TFLOP/s",
        x_scale="log10",
        kind="modelled",
        series=(roof, *map(points, VARIANTS)),
    )


def _operations(gemm: Gemm) -> float:
    return 2.0 * gemm.m * gemm.n * gemm.k


def _bytes(gemm: Gemm) -> float:
    """Return the bytes of FP8 operands and of D: BF16, or in wgrad FP32 that is read and written."""
    return float(gemm.k * (gemm.m + gemm.n) + gemm.m * gemm.n * (8 if gemm.tokens_along_k else 2))


def layer_chart(gain: Gain) -> Plot:
    """Return a layer's step today and with the proposal, by kind of operation; the caption states Amdahl's law."""
    sides = gain.layers
    by_kind = [side.by_kind() for side in sides]
    kinds = [kind for kind in KINDS if any(found[kind] for found in by_kind)]
    return Plot(
        name=f"layer-{gain.model.name}",
        title=f"A whole layer: {gain.model.name}",
        caption=f"Microseconds of one layer's step, forward and backward, {gain.model.tokens} tokens on one "
        f"{gain.timer.machine.gpu}; the bars name shares of the step in percent. Of today's "
        f"step {certainty(sides[0])}. {network(sides[0])}"
        f"{sentence(gain)}",
        x_label="us of a layer's step",
        y_label="",
        y_scale="linear",
        kind="assumed",
        categories=("today's software", "proposal"),
        stacked=True,
        series=tuple(
            Series(
                label=kind,
                variant=COLOURS[kind],
                x=(0, 1),
                y=tuple(float(f"{found[kind]:.6g}") for found in by_kind),
                labels=tuple(f"{found[kind] / side.total():.0%}" for found, side in zip(by_kind, sides, strict=True)),
            )
            for kind in kinds
        ),
    )


def certainty(layer: LayerStep) -> str:
    """Return the shares of the step that are measured, modelled and assumed, in words."""
    found: dict[str, float] = {"measured": 0.0, "modelled": 0.0, "assumed": layer.network_adds}
    for w in layer.work:
        found[w.certain] += w.us
    said = [f"{us / layer.total():.0%} {kind}" for kind, us in found.items() if us]
    return ", ".join(said)


def network(layer: LayerStep) -> str:
    """Return a sentence on the time of communication and its share in the step; empty if there is no communication."""
    whole = fsum(t.us for t in layer.network)
    if not whole:
        return ""
    return (
        f"Dispatch and combine take {whole:,.0f} us, taken to run under computation; shown is the {layer.network_adds:,.0f} us "
        "by which they make the step longer, by holding SMs or by being longer than it. "
    )


def sentence(gain: Gain) -> str:
    """Return Amdahl's law for the proposal in words."""
    whole, touched = gain.layers[0].total(), gain.touched
    value, low, high = gain.speedup
    if not touched:
        return (
            f"The proposal makes no part of it faster; the step is {value:.3g} [{low:.3g}, {high:.3g}] times as fast."
        )
    most, waits = gain.ceiling[0], limit(*gain.layers).waits
    return (
        f"The proposal makes {fsum(touched.values()) / whole:.0%} of the step faster ({'; '.join(touched)}): the whole step is "
        f"{value:.3g} [{low:.3g}, {high:.3g}] times as fast, and would be {most:.3g} times as fast if that part took no time"
        f"{' (the step then waits for communication)' if waits else ''}."
    )
