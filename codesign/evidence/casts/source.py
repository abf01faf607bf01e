"""Cast evidence: errors of a tensor after a path, against the original tensor and against one cast straight from it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from codesign.evidence.casts.metrics import METRICS
from codesign.evidence.casts.path_errors import (
    BLOCKS,
    FEATURES,
    TOKENS,
    carried,
    figures_of_path,
    figures_of_sums,
    same_tensors,
    sums_of_paths,
)
from codesign.evidence.sampling import Sampling
from codesign.evidence.source import (
    Answer,
    OtherCase,
    Question,
    Search,
    Source,
    Subject,
    other_tensors,
    trial_of,
)
from codesign.figures.evidence import Column, Evidence, Section, Table, by_gemm
from codesign.figures.figure import Figure
from codesign.figures.words import compared
from codesign.proposal.proposal import Claim, Proposal
from codesign.workloads.gemms import Gemm

NAMES = {"software": "today's software", "proposal": "proposal", "exact": "one cast straight from BF16"}
"""Variants of a path, as tables name them."""
ARRIVES = {
    "proposal": "along the proposed path",
    "software": "with today's software",
    "exact": "after one cast straight from BF16",
}
LOG_BITS = tuple(range(3, 17))
"""Bits of LogFMT searched."""
GROUPS = (512, 256, 128, 64, 32, 16)
"""Numbers of elements that share a scale, in the order searched: the coarsest first."""


@dataclass(frozen=True)
class Delivered(Question):
    """A question about the tensor that a path delivers."""

    @classmethod
    def answers(cls, questions: Sequence[Question], sampling: Sampling) -> list[Answer]:
        """Compute the figures of each question's path, for each level."""
        first = questions[0]
        sums = sums_of_paths([q.proposal for q in questions], first.gemm, first.tensors, first.sampled(sampling).seeds)
        return [
            [figures_of_sums(q.proposal, q.gemm, q.tensors, own, level) for level in q.levels]
            for q, own in zip(questions, sums, strict=True)
        ]

    @property
    def data(self) -> Hashable:
        """Value that is equal for questions on the same tensors."""
        return type(self), self.tensors, same_tensors(self.gemm, self.tensors), self.fresh, self.aside


class Casts(Source):
    """Errors of the tensors that a path delivers, by the bit-exact model."""

    doing = "casting"
    in_pool = True

    def gather(self, subject: Subject) -> Evidence:
        """Return the figures of the proposal's path, today's, and one exact cast, on every operand that the path carries."""
        return self.begin(subject)()

    def begin(self, subject: Subject) -> Callable[[], Evidence]:
        """Give all casts to the pool and return the function that waits for them and returns the evidence."""
        proposal, path = subject.proposal, subject.proposal.path
        carrying = [(g, t) for g, t in proposal.trials if path and carried(g) in path.operands]
        if not carrying:
            return partial(Evidence, source="casts", figures=())
        assert subject.executor
        alike: dict[Hashable, tuple[Gemm, str]] = {}
        for gemm, tensors in carrying:
            alike.setdefault((tensors, same_tensors(gemm, tensors)), (gemm, tensors))
        of_trial = partial(_figures_of_trial, proposal, subject.sampling.seeds)
        results = subject.executor.map(of_trial, alike.values())

        def end() -> Evidence:
            made = dict(zip(alike, results, strict=True))
            figures = tuple(
                f.model_copy(update={"workload": gemm.name})
                for gemm, t in carrying
                for f in made[t, same_tensors(gemm, t)]
            )
            arrival = compared("cast.relative_error", figures, ARRIVES)
            return Evidence(
                source="casts",
                figures=figures,
                finding=(f"Relative error of the tensor that reaches the GEMM (worst): {arrival}.",),
                sections=tuple(_sections(figures)),
                method=(
                    f"Casts are of {BLOCKS} tensors of {TOKENS} tokens by {FEATURES} features for each seed, and of all of a "
                    "captured one, BF16. Intervals have these, and of a captured tensor neighbouring tokens, as "
                    "clusters. `exact` is one cast straight from the BF16 tensor to the path's last format and groups.",
                ),
            )

        return end

    def again(self, proposal: Proposal, claim: Claim, figure: Figure) -> Question | None:
        """Return the question for a claim's figure on fresh seeds; on a captured tensor, which has none, on the same data."""
        gemm = trial_of(proposal, figure)
        return Delivered(proposal, gemm, figure.tensors, claim.relative_to) if gemm else None

    def cases(self, proposal: Proposal, claim: Claim, figure: Figure) -> Sequence[OtherCase]:
        """Return the figure's cases on other tensors."""
        gemm = trial_of(proposal, figure)
        if gemm is None:
            return ()
        return [
            OtherCase(assumption, other, Delivered(proposal, gemm, other, claim.relative_to))
            for assumption, other in other_tensors(gemm, figure.tensors)
        ]

    def search(self, proposal: Proposal, claim: Claim, figure: Figure) -> Search | None:
        """Return the search for the fewest bits of LogFMT, or the coarsest groups, in the last cast of the path."""
        gemm = trial_of(proposal, figure)
        if gemm is None or proposal.path is None:
            return None
        path, last = proposal.path, proposal.path.steps[-1]

        def changed(**update: object) -> Question:
            steps = (*path.steps[:-1], last.model_copy(update=update))
            other = proposal.model_copy(update={"path": path.model_copy(update={"steps": steps})})
            return Delivered(other, gemm, figure.tensors, claim.relative_to)

        where = f"{figure.tensors} data at K = {gemm.k}"
        if last.logfmt is not None:
            return Search("bits of LogFMT", last.logfmt, where, LOG_BITS, lambda n: changed(logfmt=n))
        if last.group and 1 in last.group:
            along = last.group[0] == 1
            own, name = max(last.group), "elements that share a scale"
            return Search(name, own, where, GROUPS, lambda n: changed(group=(1, n) if along else (n, 1)), rising=False)
        return None


SOURCE = Casts()


def _sections(figures: Sequence[Figure]) -> Iterator[Section]:
    """Yield a section with the worst figures of each tensor source, and one with those of every GEMM."""
    yield Section(
        title="Error of the tensors that the path delivers",
        tables=(
            Table(
                title="Worst over all GEMMs",
                rows=("tensors", "variant"),
                headings=("tensors", "cast"),
                columns=tuple(Column(heading=m.short, metric=m.name) for m in METRICS),
                labels=NAMES,
                alike=True,
                note="By the bit-exact model: the tensor that a path delivers against the BF16 tensor at its start; "
                "errors are relative Frobenius norms. “One cast” goes straight from BF16 to the path's last format "
                "and groups; “=” joins rows with the same figures.",
            ),
        ),
    )
    variants = dict.fromkeys(f.variant for f in figures)
    yield Section(
        title="Error of the tensors that the path delivers, every GEMM",
        tables=by_gemm(METRICS, [(NAMES[v], v, None) for v in variants]),
        folded=True,
    )


def _figures_of_trial(proposal: Proposal, seeds: tuple[int, ...], trial: tuple[Gemm, str]) -> list[Figure]:
    return figures_of_path(proposal, *trial, seeds)
