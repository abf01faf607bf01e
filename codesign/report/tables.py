"""Numbers as text, and the tables every kind of report shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from codesign.evidence.numerics.metrics import METRICS as NUMERICS
from codesign.evidence.timing.plots import VARIANTS
from codesign.figures.figure import Figure
from codesign.figures.metric import metric_named, metrics
from codesign.verdicts.claims import Verdict
from codesign.verdicts.evaluate import Result
from codesign.verdicts.finding import worst_by_pass

MARKS = {"supported": "✓", "refuted": "✗", "undetermined": "?"}


@dataclass(frozen=True)
class Row:
    """One GEMM and tensor source (or swept value): cells by variant, in the order of the table's columns."""

    name: str
    tensors: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """One metric over all GEMMs, variants side by side."""

    metric: str
    description: str
    unit: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def number(value: float | None, unit: str = "1") -> str:
    """A figure as text: three significant digits, dB with one decimal, bytes and joules with a prefix."""
    if value is None:
        return "not finite"
    if unit in ("B", "J") and value:
        prefixes = {1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k", 1.0: "", 1e-3: "m"}
        size = next((p for p in prefixes if abs(value) >= p), 1e-3)
        return f"{value / size:.3g} {prefixes[size]}{unit}"
    if unit == "dB":
        return f"{value:.1f} dB"
    if value == 0:
        return "0"
    if 1e3 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e3 else f"{value:.2e}"


def interval(figure: Figure) -> str:
    """The figure's value with its interval; a ratio has no unit."""
    unit = "1" if "; ratio to " in figure.source else metric_named(figure.metric).unit
    if figure.value is None:
        return "not finite"
    if figure.low is None and figure.high is None:
        return f"{number(figure.value, unit)} (no interval)"
    low = "-∞" if figure.low is None else number(figure.low, unit)
    high = "∞" if figure.high is None else number(figure.high, unit)
    return f"{number(figure.value, unit)} [{low}, {high}]"


def deciding(verdict: Verdict) -> str:
    """The figure that decided, in words."""
    if verdict.deciding is None:
        return "—"
    figure = verdict.deciding
    return (
        interval(figure)
        + (f" on {figure.workload}" if figure.workload else f": {figure.source}")
        + (f", {figure.tensors}" if figure.tensors else "")
    )


def margin(verdict: Verdict) -> str:
    """How far from the bound, in words; empty where there is no number."""
    if verdict.margin is None:
        return ""
    zero = not any((verdict.claim.at_most, verdict.claim.at_least))
    share = abs(verdict.margin)
    amount = number(share) if zero else f"{share:.0%} of the bound" if share < 2 else f"{share:.3g} times the bound"
    return f"{'inside' if verdict.margin >= 0 else 'beyond'} by {amount}"


def cost_rows(result: Result) -> list[tuple[str, ...]]:
    """A row per design and cost: what, of which design, the figure with its interval, its kind and what it stands on."""
    own = result.proposal.proposal
    units = {f.metric: metric_named(f.metric).unit for f in result.costs}
    return [
        (
            f.metric + ("" if units[f.metric] in ("1", "B") else f", {units[f.metric]}"),
            own if f.at is None else f"{own} at {f.at}",
            interval(f),
            f.kind,
            f.source,
        )
        for f in result.costs
    ]


def worst_casts(result: Result) -> list[tuple[str, tuple[str, ...]]]:
    """A row per tensor source and variant of the path: its worst figure of each metric over all GEMMs; variants whose figures
    are all alike in one row."""
    rows: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for tensors, variant in dict.fromkeys((f.tensors, f.variant) for f in result.casts):
        cells = []
        for metric in [m for m in metrics() if m.startswith("cast.")]:
            found = [f for f in result.casts if (f.tensors, f.variant, f.metric) == (tensors, variant, metric)]
            sign = -1.0 if metric_named(metric).better == "higher" else 1.0
            worst = max(found, key=lambda f: float("inf") if f.value is None else sign * f.value)
            cells.append(number(worst.value, metric_named(metric).unit))
        rows.setdefault((tensors, tuple(cells)), []).append(CAST_VARIANTS[variant])
    return [(f"{tensors}: {' = '.join(alike)}", cells) for (tensors, cells), alike in rows.items()]


def errors_by_pass(result: Result) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the passes, and a row per variant with its worst total error of D in each; for proposals with a path."""
    worst = {label: worst_by_pass(result.figures, variant) for variant, label in result.labels.items()}
    steps = list(dict.fromkeys(step for found in worst.values() for step in found))
    return steps, [(label, [interval(found[step]) for step in steps]) for label, found in worst.items()]


CAST_VARIANTS = {"software": "today's software", "proposal": "proposal", "exact": "one cast straight from BF16"}


def moves_alike(result: Result) -> bool:
    """Whether the proposal moves the very bytes that today's software moves."""
    by_key = {(f.metric, f.workload): f.value for f in result.traffic if f.variant == "software"}
    return all(by_key.get((f.metric, f.workload)) == f.value for f in result.traffic if f.variant == "proposal")


def cast_table(result: Result) -> tuple[tuple[str, ...], list[Row]]:
    """Headings, and a row per GEMM and tensor source: each metric of each variant of the path."""
    names = [m for m in metrics() if m.startswith("cast.")]
    variants = list(dict.fromkeys(f.variant for f in result.casts))
    by_key = {(f.workload, f.tensors, f.metric, f.variant): f for f in result.casts}
    columns = tuple(f"{SHORT[m]}: {CAST_VARIANTS[v]}" for m in names for v in variants)
    rows = [
        Row(w, t, tuple(number(by_key[w, t, m, v].value, metric_named(m).unit) for m in names for v in variants))
        for w, t in dict.fromkeys((f.workload, f.tensors) for f in result.casts)
    ]
    return columns, rows


def traffic_rows(result: Result) -> list[tuple[str, ...]]:
    """A row per model, or pass of it, and metric: software, proposal, their ratio, the kind of figure."""
    by_key = {(f.metric, f.variant, f.workload): f for f in result.traffic}
    rows: list[tuple[str, ...]] = []
    scopes = list(dict.fromkeys(f.workload for f in result.traffic))
    for f in sorted(result.traffic, key=lambda f: scopes.index(f.workload)):
        other = by_key.get((f.metric, "software", f.workload))
        if f.variant != "proposal" or f.workload.count(".") > 1 or other is None:
            continue
        ratio = number(f.value / other.value) if f.value is not None and other.value else "—"
        rows.append((f.workload, SHORT[f.metric], interval(other), interval(f), ratio, f.kind))
    return rows


def timing_rows(result: Result) -> list[tuple[str, ...]]:
    """A row per GEMM: microseconds of each variant with the kind of figure, then the speedup with its interval."""
    by_key = {(f.workload, f.variant): f for f in result.timing if f.metric == "timing.microseconds"}
    rows = []
    for f in result.timing:
        if f.metric == "timing.speedup_over_software" and f.at is None:
            times = [by_key[f.workload, variant] for variant in VARIANTS]
            rows.append((f.workload, *(f"{number(t.value)} {t.kind}" for t in times), interval(f), f.kind))
    return rows


def step_rows(result: Result) -> list[tuple[str, ...]]:
    """A row per model, or pass of it: the speedup of its Linears' step with its interval, and what it stands on."""
    found = [f for f in result.timing if f.metric == "timing.step_speedup"]
    return [(f.workload, interval(f), f.kind, f.source) for f in found]


def layer_rows(result: Result) -> list[tuple[str, ...]]:
    """A row per model: the speedup of a whole layer's step, what it could be at most, and what they stand on."""
    most = {f.workload: interval(f) for f in result.timing if f.metric == "timing.layer_ceiling"}
    found = [f for f in result.timing if f.metric == "timing.layer_speedup"]
    return [(f.workload, interval(f), most[f.workload], f.kind, f.source) for f in found]


def training_rows(result: Result) -> list[tuple[str, ...]]:
    """A row per training figure: whose, on what, what, with its interval, the record."""
    return [
        (
            result.labels.get(f.variant, f.variant) + ("" if f.at is None else f" at {f.at}"),
            f.workload,
            SHORT[f.metric],
            interval(f),
            f.kind,
            f.source,
        )
        for f in sorted(result.training, key=lambda f: f.metric)
    ]


SHORT = {
    "training.loss_gap": "loss gap to BF16",
    "training.validation_gap": "gap of the validation loss",
    "training.gradient_drift": "first gradient's distance from BF16's",
    "training.gradient_bias": "of that along BF16's",
    "numerics.relative_frobenius": "accumulation error",
    "numerics.output_error": "error of the rounded D",
    "numerics.changed_share": "outputs changed",
    "numerics.median_row_error": "total error of the median row",
    "numerics.p95_error": "error of 95 % of outputs",
    "numerics.bias": "bias",
    "numerics.share_over_1_bf16_ulp": "outputs off by over 1 BF16 ulp",
    "numerics.quantisation_error": "quantisation error",
    "numerics.total_error": "total error",
    "numerics.sqnr_db": "SQNR",
    "numerics.underflow_share": "underflow",
    "numerics.overflow_share": "overflow",
    "cast.relative_error": "error of the tensor",
    "cast.sqnr_db": "SQNR",
    "cast.underflow_share": "underflow",
    "cast.requantised_share": "elements unlike one cast",
    "cost.area_ratio": "area over the base",
    "cost.energy_ratio": "energy of the unit over the base",
    "traffic.hbm_bytes": "HBM bytes",
    "traffic.l2_bytes": "L2 bytes",
    "traffic.smem_bytes": "shared memory bytes",
    "traffic.network_bytes": "network bytes",
    "traffic.cache_bytes": "bytes kept for backward",
    "traffic.sm_share": "SMs for communication",
    "energy.joules": "energy",
    "timing.speedup_over_software": "speedup of a GEMM",
    "timing.step_speedup": "speedup of a layer's Linears",
    "timing.layer_speedup": "speedup of a whole layer",
    "timing.layer_ceiling": "its ceiling",
}


def worst_table(result: Result) -> tuple[tuple[str, ...], list[tuple[str, tuple[str, ...]]]]:
    """Headings, and a row per variant: its worst figure of each metric."""
    metrics = list(dict.fromkeys(f.metric for f in result.worst))
    by_key = {(f.variant, f.metric): f for f in result.worst}
    variants = [v for v in result.labels if any(f.variant == v for f in result.worst)]
    rows = [
        (result.labels[v], tuple(number(by_key[v, m].value, metric_named(m).unit) for m in metrics)) for v in variants
    ]
    return tuple(SHORT.get(m, m) for m in metrics), rows


def figure_tables(result: Result) -> Iterator[Table]:
    """A table per metric: one row per GEMM and tensor source, a column per variant."""
    if not result.figures:
        return
    keys = [(v, at) for v, at in dict.fromkeys((f.variant, f.at) for f in result.figures) if v in result.labels]
    columns = tuple(result.labels[v] if at is None else f"{v} at {at}" for v, at in keys)
    by_key = {(f.metric, f.workload, f.tensors, f.variant, f.at): f for f in result.figures}
    rows = list(dict.fromkeys((f.workload, f.tensors) for f in result.figures))
    for metric in (m.name for m in NUMERICS):
        about = metric_named(metric)
        yield Table(
            metric=metric,
            description=about.description,
            unit=about.unit,
            columns=columns,
            rows=tuple(
                Row(
                    workload,
                    tensors,
                    tuple(
                        number(by_key[metric, workload, tensors, variant, at].value, about.unit) for variant, at in keys
                    ),
                )
                for workload, tensors in rows
            ),
        )
