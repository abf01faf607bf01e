"""What an evaluation found, in sentences: what becomes of the user's D first, then why, then what it costs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from codesign.break_even import listed
from codesign.claims import Verdict
from codesign.evidence import Figure
from codesign.metrics import METRICS
from codesign.readings import read
from codesign.variants import LABELS

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
"""Least change of bytes that is told."""
OUTPUTS = {("fprop", "dgrad"): "BF16", ("wgrad",): "FP32"}
"""Format in which D leaves the GEMMs of each pass."""


def headline(verdicts: Sequence[Verdict], figures: Sequence[Figure]) -> str:
    """Return the verdicts in a sentence, and one more where outputs are not finite."""
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
        for name in METRICS:
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
    """Return what a proposal of an instruction does: to D as it leaves the GEMM, to the part of its sums, to these alone.

    `shown` are the variants that differ.
    """
    said = []
    total = alike("numerics.total_error", figures, shown, BOTH)
    if total:
        said.append(f"The total error of D, as it leaves the GEMM, is at worst {total}.")
    parts = []
    for steps, output in OUTPUTS.items():
        there = [f for f in figures if f.workload.split(".")[1] in steps]
        error = alike("numerics.output_error", there, shown, BOTH)
        changed = alike("numerics.changed_share", there, shown, BOTH, lambda x: f"{100 * x:.3g} %")
        if error and output == "BF16":
            parts.append(f"where D is rounded to BF16 {error}, {changed} of the outputs differing from exact sums")
        elif error:
            parts.append(f"where it is FP32 {error}")
    if parts:
        said.append(f"Sums and the rounding of D make of that: {'; '.join(parts)}.")
    accumulation = alike("numerics.relative_frobenius", figures, shown, WITH)
    if accumulation:
        same = "" if len(set(shown) & set(WITH)) > 1 else ", today's software and instruction being the same"
        said.append(f"Before D is rounded, the error of accumulation is at worst {accumulation}{same}.")
    return " ".join(said)


def arrival(
    arrived: Sequence[Figure], products: Sequence[Figure], moved: Sequence[Figure], shown: Collection[str]
) -> str:
    """Return what a path does: to each pass's D, to the tensor that arrives, to traffic."""
    said = []
    steps = worst_by_pass(products, "proposal")
    changes = []
    for step in steps:
        there = [f for f in products if f.workload.split(".")[1] == step]
        changes.append(f"{alike('numerics.total_error', there, shown, BOTH)} in {step}")
    if changes:
        same = "" if "software" in shown else "; today's software is no different"
        said.append(f"The total error of D is at worst {', '.join(changes)}{same}.")
    tensor = alike("cast.relative_error", arrived, ARRIVES, ARRIVES)
    if tensor:
        said.append(f"At its worst the relative error of a tensor that arrives is {tensor}.")
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
    digits: Callable[[float], str] = lambda x: f"{x:.2g}",
) -> str:
    """Return the worst figure of each variant in words, variants of the same two digits together."""
    groups: dict[str, list[str]] = {}
    for variant, about in words.items():
        found = _worst(_own(figures, metric, variant)) if variant in shown else None
        if found:
            groups.setdefault("not finite" if found.value is None else digits(found.value), []).append(about)
    return listed([f"{value} {listed(about)}" for value, about in groups.items()])


def _own(figures: Sequence[Figure], metric: str, variant: str) -> list[Figure]:
    return [f for f in figures if (f.metric, f.variant, f.at) == (metric, variant, None)]


def _worst(figures: Sequence[Figure]) -> Figure | None:
    def badness(figure: Figure) -> float:
        value = read(figure).value
        return -value if METRICS[figure.metric].better == "higher" else value

    return max(figures, key=badness, default=None)
