"""The speed of light: what software, twin, proposal and the native instruction make of each GEMM, as data of a bar chart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from codesign.evidence import Figure, Plot, Series
from codesign.workloads.gemms import Gemm, models

VARIANTS = {
    "software": "today's software",
    "twin": "its timing twin",
    "proposal": "proposal",
    "today": "native instruction, no promotion",
}
"""Of `timing.microseconds`, in the order of the bars."""


def plots(gemms: Iterable[Gemm], figures: Iterable[Figure], gpu: str) -> tuple[Plot, ...]:
    """A chart for each pass of each model among the GEMMs, but for models that are too small to fill a GPU."""
    times = {(f.workload, f.variant): f for f in figures if f.metric == "timing.microseconds"}
    groups: dict[str, list[Gemm]] = {}
    for gemm in gemms:
        model = models().get(gemm.name.split(".")[0])
        if model is None or not model.small:
            groups.setdefault(".".join(gemm.name.split(".")[:2]), []).append(gemm)
    return tuple(_chart(name, of, times, gpu) for name, of in groups.items())


def _chart(name: str, gemms: list[Gemm], times: dict[tuple[str, str], Figure], gpu: str) -> Plot:
    def rates(variant: str) -> Iterator[float | None]:
        for gemm in gemms:
            us = times[gemm.name, variant].value
            yield float(f"{2 * gemm.m * gemm.n * gemm.k / us / 1e6:.5g}") if us else None

    kinds = {v: sorted({times[g.name, v].kind for g in gemms}) for v in VARIANTS}
    return Plot(
        name=f"speed-{name}",
        title=f"Speed of light: {name}",
        caption=f"Rate of each GEMM on one {gpu}, higher is better: products and sums over its time, which with a path is "
        "that of writing, casting and multiplying. "
        + "; ".join(f"{words}: {' and '.join(kinds[v])}" for v, words in VARIANTS.items())
        + ".",
        x_label="GEMM (m x n x k)",
        y_label="TFLOP/s",
        y_scale="linear",
        kind="modelled",
        categories=tuple(f"{g.name.split('.')[-1]}\n{g.m}x{g.n}\nx{g.k}" for g in gemms),
        series=tuple(
            Series(label=words, variant=v, x=tuple(range(len(gemms))), y=tuple(rates(v)))
            for v, words in VARIANTS.items()
        ),
    )
