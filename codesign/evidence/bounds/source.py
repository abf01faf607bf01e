"""Evidence of bounds: errors that the instruction, today's software and the proposal cannot exceed on any operands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite

from codesign.evidence.bounds.curves import growth
from codesign.evidence.bounds.derive import bound, is_bounded
from codesign.evidence.bounds.metrics import METRICS
from codesign.evidence.numerics.other_cases import of_bits, other_lengths
from codesign.evidence.sampling import Sampling
from codesign.evidence.source import Answer, OtherCase, Question, Search, Source, Subject
from codesign.figures.evidence import Column, Evidence, Section, Table
from codesign.figures.figure import Figure
from codesign.figures.words import compared
from codesign.proposal.proposal import Claim, Proposal
from codesign.proposal.variants import LABELS, Compared, variants
from codesign.workloads.gemms import Gemm
from isa_model.instruction import Instruction

VARIANTS = ("today", "software", "proposal")
WITH = {
    "proposal": "with the proposal",
    "software": "with today's software",
    "today": "with today's instruction alone",
}
METHOD = (
    "Bounds follow from the stages of the spec, by the formulas of docs/bounds.md. They hold for all operands, subnormals "
    "included, as long as no sum or product overflows and scales are normal numbers where their product is rounded. A small "
    "absolute error from the lower end of the registers' ranges comes on top; `codesign bound` prints it."
)


@dataclass(frozen=True)
class Bounded(Question):
    """A question about the bounds of a GEMM."""

    compared: tuple[Compared, ...] = ()
    """Variants to derive bounds for."""

    @classmethod
    def answers(cls, questions: Sequence[Question], sampling: Sampling) -> list[Answer]:
        """Return the bounds of each question's variants, the same for each level."""
        asked = [q for q in questions if isinstance(q, Bounded)]
        return [[[f for c in q.compared for f in figures_of(c, q.gemm)]] * len(q.levels) for q in asked]


class Bounds(Source):
    """Largest errors, derived from the stages."""

    doing = "bounding errors"

    def gather(self, subject: Subject) -> Evidence:
        """Return the bounds on every GEMM; none for a proposal whose sums are today's."""
        proposal = subject.proposal
        if proposal.in_slices:
            return Evidence(source="bounds", figures=(), method=("No bounds: they are of operands in one slice.",))
        if proposal.multiplies_as_today or not is_bounded(proposal.proposed()):
            return Evidence(source="bounds", figures=())
        figures = tuple(self.figures(subject))
        plot = growth(proposal.proposed(), subject.sampling.seeds[0])
        said = compared("bounds.worst_relative", figures, WITH)
        return Evidence(
            source="bounds",
            figures=figures,
            sections=(
                Section(
                    title="Error bounds",
                    sentences=(
                        f"Largest possible error of any sum, over the sum of its products' magnitudes: {said}.",
                    ),
                    plots=(plot,) if plot else (),
                    tables=(
                        Table(
                            title="Worst over all GEMMs",
                            rows=("design",),
                            headings=("sums",),
                            columns=tuple(Column(heading=m.short, metric=m.name) for m in METRICS),
                            labels={v: LABELS[v] for v in VARIANTS},
                            note="Derived from the spec, not sampled; relative to the sum of the products' magnitudes.",
                        ),
                    ),
                ),
            ),
            method=(METHOD,),
        )

    def figures(self, subject: Subject) -> Sequence[Figure]:
        """Return the figures alone."""
        proposal = subject.proposal
        compared = () if proposal.multiplies_as_today or proposal.in_slices else variants(proposal)
        gemms = list(dict.fromkeys(g for g, _ in proposal.trials))
        return [f for c in compared if c.variant in VARIANTS for g in gemms for f in figures_of(c, g)]

    def cases(self, proposal: Proposal, claim: Claim, figure: Figure) -> Sequence[OtherCase]:
        """Return the figure's cases with other lengths of K."""
        gemm = _gemm(proposal, figure)
        lengths = other_lengths(gemm) if gemm else []
        return [OtherCase("length of the sums", f"K = {g.k}", _ask(proposal, claim, g)) for g in lengths]

    def search(self, proposal: Proposal, claim: Claim, figure: Figure) -> Search | None:
        """Return the search for the fewest fraction bits whose bound keeps a claim."""
        gemm = _gemm(proposal, figure)
        if gemm is None or proposal.multiplies_as_today:
            return None
        question = _ask(proposal, claim, gemm)

        def changed(instruction: Instruction) -> Question:
            own = (c._replace(instruction=instruction) if c.variant == "proposal" else c for c in question.compared)
            return replace(question, compared=tuple(own))

        return of_bits(proposal, f"any data at K = {gemm.k}", changed)


SOURCE = Bounds()


def figures_of(compared: Compared, gemm: Gemm) -> Iterator[Figure]:
    """Yield the figures of a variant on one GEMM."""
    instruction = compared.multiplying(gemm)
    if not is_bounded(instruction):
        return
    limits = bound(instruction, gemm.k)
    for metric, value in zip(METRICS, (limits.worst, limits.probable(), -limits.mean), strict=True):
        shown = _up(value)
        yield Figure(
            metric=metric.name,
            variant=compared.variant,
            at=compared.at,
            workload=gemm.name,
            tensors="",
            value=shown,
            low=shown,
            high=shown,
            kind="computed",
            source=f"derived from the stages of {instruction.name}, K = {gemm.k}",
        )


def _up(x: float) -> float | None:
    """Return a bound to four significant digits, never smaller in magnitude; None for infinity."""
    if not isfinite(x):
        return None
    shown = float(f"{x:.3e}")
    return shown if abs(shown) >= abs(x) else float(f"{x * (1 + 1e-3):.3e}")


def _gemm(proposal: Proposal, figure: Figure) -> Gemm | None:
    """Return the GEMM of a figure; None if the proposal has no such GEMM."""
    return next((g for g, _ in proposal.trials if g.name == figure.workload), None)


def _ask(proposal: Proposal, claim: Claim, gemm: Gemm) -> Bounded:
    """Return the question for a claim's figure: its variant and the one that it is relative to."""
    known = list(variants(proposal))
    own = next(c for c in known if (c.variant, c.at) == (claim.of, claim.at))
    base = [c for c in known if (c.variant, c.at) == (claim.relative_to, None)]
    return Bounded(proposal, gemm, "", claim.relative_to, compared=(own, *base))
