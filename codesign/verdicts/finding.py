"""The headline and the finding of a report: the verdicts, then the error of the user's D, then where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from codesign.figures.figure import Figure
from codesign.figures.metric import metric_named, metrics
from codesign.proposal.variants import LABELS
from codesign.verdicts.break_even import listed
from codesign.verdicts.claims import Verdict
from codesign.verdicts.readings import read

WITH = {
    "proposal": "with the proposal",
    "software": "with today's software",
    "today": "with today's instruction alone",
}
BOTH = {variant: WITH[variant] for variant in ("proposal", "software")}
ARRIVES = {
    "proposal": "along the proposed path",
    "software": "with today's software",
    "exact": "after one cast straight from BF16",
}
LEVELS = {
    "traffic.hbm_bytes": "through HBM",
    "traffic.l2_bytes": "from L2 to the SMs",
    "traffic.network_bytes": "over the network",
}
SEEN = 0.005
"""Smallest relative change of bytes that the finding mentions."""
OUTPUTS = {("fprop", "dgrad"): "BF16", ("wgrad",): "FP32"}
"""Format in which D leaves the GEMMs of each pass."""


def headline(verdicts: Sequence[Verdict], figures: Sequence[Figure]) -> str:
    """Return one sentence on the verdicts, and one for each variant whose outputs overflow."""
    counts = {j: sum(v.judgement == j for v in verdicts) for j in ("supported", "refuted", "undetermined")}
    words = [f"{counts['supported']} of {len(verdicts)} claims {'holds' if counts['supported'] == 1 else 'hold'}"]
    words.append(f"{counts['refuted'] or 'none'} {'is' if counts['refuted'] == 1 else 'are'} refuted")
    if counts["undetermined"]:
        words.append(f"{counts['undetermined']} {'is' if counts['undetermined'] == 1 else 'are'} undetermined")
    return ", ".join(words) + "." + "".join(f" {said}" for said in _overflows(figures))


def _overflows(figures: Sequence[Figure]) -> Iterator[str]:
    """Yield a sentence on each variant with outputs that are infinite or NaN: their errors are infinite."""
    for variant, words in WITH.items():
        places = {(f.workload, f.tensors): f.value for f in _own(figures, "numerics.total_error", variant)}
        lost = sum(value is None for value in places.values())
        if lost:
            where = "everywhere" if lost == len(places) else f"on {lost} of {len(places)} pairs of GEMM and tensors"
            yield f"Outputs {words} overflow {where}: infinite or NaN."


def worst(figures: Sequence[Figure]) -> Iterator[Figure]:
    """Yield the worst figure of each variant and metric."""
    for variant in LABELS:
        for name in metrics():
            found = _worst(_own(figures, name, variant))
            if found:
                yield found


def worst_by_pass(figures: Sequence[Figure], variant: str) -> dict[str, Figure]:
    """Return the worst total error of D in each pass."""
    own = _own(figures, "numerics.total_error", variant)
    steps = dict.fromkeys(f.workload.split(".")[1] for f in own)
    found = {step: _worst([f for f in own if f.workload.split(".")[1] == step]) for step in steps}
    return {step: f for step, f in found.items() if f}


def finding(figures: Sequence[Figure], shown: Collection[str]) -> str:
    """Return what a proposed instruction does to D: its total error first, then what the sums contribute to it.

    `shown` are the variants that differ.
    """
    said = []
    total = alike("numerics.total_error", figures, shown, BOTH, _with_interval)
    if total:
        said.append(f"Total error of D (worst GEMM): {total}.")
    errors, changes = [], []
    for steps, output in OUTPUTS.items():
        there = [f for f in figures if f.workload.split(".")[1] in steps]
        if error := alike("numerics.output_error", there, shown, BOTH):
            errors.append(f"{error} where D is {output}")
        if output == "BF16":
            changes.append(alike("numerics.changed_share", there, shown, BOTH, _percent))
    if errors:
        said.append(f"Error of the sums and of rounding D, without quantisation: {'; '.join(errors)}.")
    if any(changes):
        said.append(f"BF16 outputs that differ from exact sums: {changes[0]}.")
    accumulation = alike("numerics.relative_frobenius", figures, shown, WITH)
    if accumulation:
        same = "" if len(set(shown) & set(WITH)) > 1 else "; today's software and instruction are the same"
        said.append(f"Error of the sums alone, before D is rounded: {accumulation}{same}.")
    return " ".join(said)


def arrival(
    arrived: Sequence[Figure], products: Sequence[Figure], moved: Sequence[Figure], shown: Collection[str]
) -> str:
    """Return what a path does to D in each pass, to the tensor that reaches the GEMM, and to traffic."""
    said = []
    steps = worst_by_pass(products, "proposal")
    changes = []
    for step in steps:
        there = [f for f in products if f.workload.split(".")[1] == step]
        changes.append(f"{alike('numerics.total_error', there, shown, BOTH, _with_interval)} in {step}")
    if changes:
        same = "" if "software" in shown else "; today's software is the same"
        said.append(f"Total error of D (worst GEMM): {'; '.join(changes)}{same}.")
    tensor = alike("cast.relative_error", arrived, ARRIVES, ARRIVES)
    if tensor:
        said.append(f"Relative error of the tensor that reaches the GEMM (worst): {tensor}.")
    moves = []
    for f in moved:
        old = next(
            (o.value for o in moved if (o.metric, o.variant, o.workload) == (f.metric, "software", f.workload)), None
        )
        if (
            f.metric in LEVELS
            and f.variant == "proposal"
            and f.workload == moved[0].workload
            and f.value is not None
            and old
        ):
            change = f.value / old - 1
            if abs(change) >= SEEN:
                moves.append(f"{abs(change):.0%} {'more' if change > 0 else 'fewer'} bytes {LEVELS[f.metric]}")
    if moves:
        said.append(f"A layer's step of {moved[0].workload} moves {listed(moves)}.")
    return " ".join(said)


def alike(
    metric: str,
    figures: Sequence[Figure],
    shown: Collection[str],
    words: Mapping[str, str],
    text: Callable[[Figure], str] = lambda figure: f"{figure.value:.2g}",
) -> str:
    """Return the worst figure of each variant in words; variants whose `text` is the same share one."""
    groups: dict[str, list[str]] = {}
    for variant, about in words.items():
        found = _worst(_own(figures, metric, variant)) if variant in shown else None
        if found:
            groups.setdefault("not finite" if found.value is None else text(found), []).append(about)
    return listed([f"{value} {listed(about)}" for value, about in groups.items()])


def _with_interval(figure: Figure) -> str:
    if figure.low is None and figure.high is None:
        return f"{figure.value:.2g} (no interval)"
    low, high = ("∞" if end is None else f"{end:.2g}" for end in (figure.low, figure.high))
    return f"{figure.value:.2g} [{low}, {high}]"


def _percent(figure: Figure) -> str:
    return f"{100 * (figure.value or 0.0):.3g} %"


def _own(figures: Sequence[Figure], metric: str, variant: str) -> list[Figure]:
    return [f for f in figures if (f.metric, f.variant, f.at) == (metric, variant, None)]


def _worst(figures: Sequence[Figure]) -> Figure | None:
    def badness(figure: Figure) -> float:
        value = read(figure).value
        return -value if metric_named(figure.metric).better == "higher" else value

    return max(figures, key=badness, default=None)
