"""The report's sentences and sections on numerics: worst figures side by side, baselines, plots, and every figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from codesign.evidence.numerics.metrics import METRICS
from codesign.figures.evidence import Column, Section, Table, by_gemm, heat_map
from codesign.figures.figure import Figure, Plot
from codesign.figures.metric import metric_named
from codesign.figures.words import BOTH, compared, with_interval
from codesign.proposal.proposal import Proposal
from codesign.proposal.variants import labels

WITH = {**BOTH, "today": "with today's instruction alone"}
OUTPUTS = {("fprop", "dgrad"): "BF16", ("wgrad",): "FP32"}
"""Format in which D leaves the GEMMs of each pass."""
TOTAL = "numerics.total_error"


def alarms(figures: Sequence[Figure]) -> Iterator[str]:
    """Yield a sentence for each variant with outputs that are infinite or NaN."""
    for variant, words in WITH.items():
        places = {(f.workload, f.tensors): f.value for f in figures if _own(f, TOTAL) and f.variant == variant}
        lost = sum(value is None for value in places.values())
        if lost:
            where = "everywhere" if lost == len(places) else f"on {lost} of {len(places)} pairs of GEMM and tensors"
            yield f"Outputs {words} overflow {where}: infinite or NaN."


def finding(proposal: Proposal, figures: Sequence[Figure]) -> Iterator[str]:
    """Yield sentences on the error of D: its total error first, then the part of the sums.

    A proposal that keeps today's instruction has no sums of its own; its total error is given by pass.
    """
    if proposal.multiplies_as_today:
        by_pass = [
            f"{compared(TOTAL, _of_passes(figures, [step]), BOTH, with_interval)} in {step}"
            for step in _passes(figures)
        ]
        if by_pass:
            yield f"Total error of D (worst GEMM): {'; '.join(by_pass)}."
        return
    if total := compared(TOTAL, figures, BOTH, with_interval):
        yield f"Total error of D (worst GEMM): {total}."
    errors, changes = [], []
    outputs = OUTPUTS if proposal.inputs == "bf16" else {tuple(_passes(figures)): "FP32"}
    for steps, output in outputs.items():
        there = _of_passes(figures, steps)
        if error := compared("numerics.output_error", there):
            errors.append(f"{error} where D is {output}")
        if output == "BF16":
            changes.append(compared("numerics.changed_share", there, BOTH, _percent))
    if errors:
        yield f"Error of the sums and of rounding D, without quantisation: {'; '.join(errors)}."
    if any(changes):
        yield f"BF16 outputs that differ from exact sums: {changes[0]}."
    if accumulation := compared("numerics.relative_frobenius", figures, WITH):
        yield f"Error of the sums alone, before D is rounded: {accumulation}."


def sections(proposal: Proposal, figures: Sequence[Figure], plots: tuple[Plot, ...]) -> Iterator[Section]:
    """Yield the sections in the order of the report."""
    shown = labels(proposal)
    joined = " “=” joins variants that are the same by construction." if any(" = " in v for v in shown.values()) else ""
    tables = [
        Table(
            title="Worst over all GEMMs and tensors",
            rows=("metric",),
            headings=("quantity",),
            columns=tuple(Column(heading=label, variant=variant) for variant, label in shown.items()),
            note="By the bit-exact model. Errors are relative (Frobenius norms); a negative bias shrinks results. The "
            f"claim names the figure that decides it; the worst figure here may be another, less certain one.{joined}",
        )
    ]
    if proposal.path:
        note = (
            "D against the exact product of the BF16 tensors; errors of quantised weights and of the sums are "
            "included. Method says which casts precede an operand in each pass."
        )
        tables.append(_total_by_pass("Total error of D by pass", "variant", shown, figures, note))
    if others := {b.name: b.title for b in proposal.others}:
        titles = {"software": f"{proposal.practice.title} (today's software)", **others}
        note = "Method describes each baseline and names its source."
        tables.append(_total_by_pass("Total error of D by baseline", "baseline", titles, figures, note))
    heat = (TOTAL,) if proposal.multiplies_as_today else (TOTAL, "numerics.relative_frobenius")
    about = [metric_named(name) for name in heat]
    where = list(dict.fromkeys(f.tensors for f in figures if _own(f, TOTAL)))
    note = "Errors of the proposal on each GEMM, by the source of its tensors."
    tables.append(heat_map("Heat map: GEMM by tensor source", about, where, note))
    yield Section(title="Accuracy", tables=tuple(tables))
    if plots:
        yield Section(title="Accuracy at a glance", plots=plots)
    claimed = {claim.metric for claim in proposal.claims}
    told = [m for m in METRICS if m.topic or m.name in claimed]
    designs = dict.fromkeys((f.variant, f.at) for f in figures if f.variant in shown)
    yield Section(
        title="Accuracy, every GEMM",
        sentences=(
            "By the bit-exact model on the tensors named. Their 95 % intervals and the other metrics are in result.json.",
        ),
        tables=by_gemm(told, [(shown[v] if at is None else f"{v} at {at}", v, at) for v, at in designs]),
        folded=True,
    )


def _total_by_pass(title: str, heading: str, shown: dict[str, str], figures: Sequence[Figure], note: str) -> Table:
    """Return a table of the worst total error of D in each pass."""
    return Table(
        title=f"{title}, worst over GEMMs and tensors [95 % interval]",
        rows=("variant",),
        headings=(heading,),
        columns=tuple(Column(heading=s, form="interval", metric=TOTAL, step=s) for s in _passes(figures)),
        labels=shown,
        note=note,
    )


def _passes(figures: Sequence[Figure]) -> list[str]:
    return list(dict.fromkeys(f.workload.split(".")[1] for f in figures if _own(f, TOTAL)))


def _of_passes(figures: Sequence[Figure], steps: Sequence[str]) -> list[Figure]:
    return [f for f in figures if f.workload.split(".")[1] in steps]


def _own(figure: Figure, metric: str) -> bool:
    return (figure.metric, figure.at) == (metric, None)


def _percent(figure: Figure) -> str:
    return f"{100 * (figure.value or 0.0):.3g} %"
