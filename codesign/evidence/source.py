"""The interface of evidence: the input of a source, its output, and the questions that verdicts can ask it afterwards.

A kind of evidence is a folder here with its metrics in `metrics.py` and a `SOURCE` in `source.py`, and an entry in
`codesign.figures.metric.KINDS`. Its figures are judged by themselves; a report also shows those that a table of its sections
selects. A figure that depends on no GEMM or no tensors has an empty `workload` or `tensors`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import cast

from codesign.evidence.sampling import Sampling
from codesign.figures import metric
from codesign.figures.evidence import Evidence
from codesign.figures.figure import Figure
from codesign.proposal.proposal import Claim, Proposal, Value, Variant
from codesign.workloads.gemms import Gemm
from codesign.workloads.tensors import CAPTURED, SOURCES


@dataclass(frozen=True)
class Subject:
    """A proposal to gather evidence on, with sampling and earlier evidence."""

    proposal: Proposal
    sampling: Sampling = field(default_factory=Sampling)
    executor: Executor | None = None
    """Pool of processes; `evaluate` always gives one."""
    train: bool = False
    """True if training runs of a minute or two may be made."""
    model: bool = False
    """True if a language model may be run, which takes a minute or two."""
    evidence: tuple[Evidence, ...] = ()
    """Evidence of the sources before this one; that of sources that work in the pool may not be there yet."""
    synthesis: bool = False
    """True if `figures` may synthesise a unit without a cost record, which takes minutes."""

    @property
    def figures(self) -> Iterable[Figure]:
        """Figures of `evidence`."""
        return (f for evidence in self.evidence for f in evidence.figures)


Answer = Sequence[Sequence[Figure]]
"""Figures for each requested level of the intervals."""


@dataclass(frozen=True)
class Question:
    """A request for the figures of one GEMM on one tensor source, under a proposal that may differ from the one judged."""

    proposal: Proposal
    gemm: Gemm
    tensors: str
    base: Variant | None = None
    """Variant to which ratios are wanted; None: no ratios."""
    fresh: bool = False
    """True for fresh seeds, twice as many, on which no other figure was computed."""
    aside: bool = False
    """True for half of the seeds: a case that is shown beside a figure, and that no claim is judged on."""
    levels: tuple[float, ...] = (0.95,)
    """Levels of the intervals wanted."""

    @classmethod
    def answers(cls, questions: Sequence[Question], sampling: Sampling) -> list[Answer]:
        """Compute the figures of questions on the same `data`."""
        raise NotImplementedError

    @property
    def data(self) -> Hashable:
        """Value that is equal for questions on the same tensors, which are drawn once for all of them."""
        return type(self), self.gemm, self.tensors, self.fresh, self.aside

    @property
    def in_process(self) -> bool:
        """True if the question must be answered in this process, since it leaves something in memory for another one."""
        return False

    def sampled(self, sampling: Sampling) -> Sampling:
        """Return the sampling of this question, given that of the evaluation."""
        if self.aside:
            return sampling.half()
        if not self.fresh:
            return sampling
        first = sampling.fresh()
        return first.model_copy(update={"seeds": (*first.seeds, *first.fresh().seeds)})


@dataclass(frozen=True)
class OtherCase:
    """A question about a figure with one assumption changed."""

    assumption: str
    other: str
    question: Question


@dataclass(frozen=True)
class Search:
    """A parameter of the proposal, and the values to try for the cheapest one that keeps a claim."""

    parameter: str
    own: Value
    condition: str
    """Data on which the search runs, in words."""
    values: Sequence[int]
    """Values in the order in which they are tried; for bisection in rising order."""
    question: Callable[[int], Question]
    bisected: bool = False
    """True for bisection, which assumes that all values above one that keeps the claim keep it, too."""
    rising: bool = True
    """True if larger values are better for the claim."""


class Source:
    """One kind of evidence."""

    doing: str
    """Name of the phase that a user sees while the source gathers."""
    in_pool: bool = False
    """True if the source works in the pool of processes and needs no earlier evidence: it gathers beside the others."""

    def gather(self, subject: Subject) -> Evidence:
        """Return all evidence on a subject; without figures if there is none."""
        raise NotImplementedError

    def begin(self, subject: Subject) -> Callable[[], Evidence]:
        """Begin to gather, in the pool if the source works there, and return the function that ends it as `gather` does."""
        return partial(self.gather, subject)

    def figures(self, subject: Subject) -> Sequence[Figure]:
        """Return the figures alone, without what a report shows beside them."""
        return self.gather(subject).figures

    def again(self, proposal: Proposal, claim: Claim, figure: Figure) -> Question | None:
        """Return the question that computes a claim's figure again; None if that would only give the same figure."""
        return None

    def cases(self, proposal: Proposal, claim: Claim, figure: Figure) -> Sequence[OtherCase]:
        """Return further cases of a claim's figure to compute, besides its alternatives."""
        return ()

    def search(self, proposal: Proposal, claim: Claim, figure: Figure) -> Search | None:
        """Return the search for the break-even of a claim, at `figure`, its worst on some tensors; None for no search."""
        return None


def sources() -> dict[str, Source]:
    """Return the source of each kind of evidence, in the order of reports."""
    return {kind: _source(kind) for kind in metric.KINDS}


def source_of(name: str) -> Source:
    """Return the source of a metric's figures."""
    return _source(metric.kind_of(name))


def _source(kind: str) -> Source:
    return cast(Source, import_module(f"codesign.evidence.{kind}.source").SOURCE)


# -- of sources that sample ------------------------------------------------------------------------------------------


def trial_of(proposal: Proposal, figure: Figure) -> Gemm | None:
    """Return the GEMM of a sampled figure; None if no trial of the proposal has it."""
    return next((g for g, t in proposal.trials if (g.name, t) == (figure.workload, figure.tensors)), None)


def other_tensors(gemm: Gemm, tensors: str) -> Iterator[tuple[str, str]]:
    """Yield (assumption, tensor source) for each other tensor source of a GEMM."""
    for source in SOURCES:
        if source == tensors or (source == CAPTURED and gemm.recorded is None):
            continue
        # The size of outliers is an assumption of its own.
        outliers = tensors.startswith("outliers") and source.startswith("outliers")
        if outliers or not source.startswith("outliers-"):
            yield "size of outliers" if outliers else "tensor source", source
