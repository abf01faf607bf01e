"""The door to evidence: what a source is given, what it returns, and what verdicts can ask of it afterwards.

A kind of evidence is a folder here with its metrics in `metrics.py` and a `SOURCE` in `source.py`, and an entry in
`codesign.figures.metric.KINDS`. Its figures are judged by themselves; a report also shows those that a table of its sections
selects. A figure that depends on no GEMM or no tensors has an empty `workload` or `tensors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from importlib import import_module
from typing import cast

from codesign.evidence.numerics.trial import Sampling
from codesign.figures import metric
from codesign.figures.evidence import Evidence
from codesign.figures.figure import Figure
from codesign.proposal.proposal import Claim, Proposal, Value, Variant
from codesign.workloads.gemms import Gemm
from codesign.workloads.tensors import CAPTURED, SOURCES


@dataclass(frozen=True)
class Subject:
    """What a source gathers evidence about."""

    proposal: Proposal
    sampling: Sampling = field(default_factory=Sampling)
    executor: Executor | None = None
    """Cores to compute on; evaluate always gives one."""
    train: bool = False
    """Whether training runs of a minute or two are made."""
    evidence: tuple[Evidence, ...] = ()
    """What the sources before this one have found."""

    @property
    def figures(self) -> Iterable[Figure]:
        """Figures that the sources before this one have found."""
        return (f for evidence in self.evidence for f in evidence.figures)


Answer = Sequence[Sequence[Figure]]
"""Figures for each requested level."""


@dataclass(frozen=True)
class Question:
    """What are the figures of one GEMM on one tensor source, under a proposal that may differ from the one judged?"""

    proposal: Proposal
    gemm: Gemm
    tensors: str
    base: Variant | None = None
    """Variant to which ratios are wanted."""
    fresh: bool = False
    """Whether to use fresh seeds, twice as many, on which no other figure was computed."""
    levels: tuple[float, ...] = (0.95,)
    """Levels of the intervals wanted."""

    def answer(self, sampling: Sampling) -> Answer:
        """Compute the figures, in a process of its own."""
        raise NotImplementedError

    def sampled(self, sampling: Sampling) -> Sampling:
        """Return what to sample where the figures of the evaluation were sampled as `sampling` says."""
        if not self.fresh:
            return sampling
        first = sampling.fresh()
        return first.model_copy(update={"seeds": (*first.seeds, *first.fresh().seeds)})


@dataclass(frozen=True)
class OtherCase:
    """A figure's question with one assumption changed."""

    assumption: str
    other: str
    question: Question


@dataclass(frozen=True)
class Search:
    """A parameter of the proposal, and which of its values to try for the cheapest one that keeps a claim."""

    parameter: str
    own: Value
    condition: str
    """Data on which it is searched."""
    values: Sequence[int]
    """Values in the order in which they are tried; in rising order where they are bisected."""
    question: Callable[[int], Question]
    bisected: bool = False
    """Whether a value that keeps the claim is taken to mean that all larger ones do, so that few need be tried."""
    rising: bool = True
    """Whether larger values are better for the claim."""


class Source:
    """One kind of evidence."""

    doing: str
    """What a user is told while it gathers."""

    def gather(self, subject: Subject) -> Evidence:
        """Return everything that is found about a subject; without figures where nothing is."""
        raise NotImplementedError

    def again(self, proposal: Proposal, claim: Claim, figure: Figure) -> Question | None:
        """Return the question that computes a claim's figure anew; None where it would only give the same figure."""
        return None

    def cases(self, proposal: Proposal, claim: Claim, figure: Figure) -> Sequence[OtherCase]:
        """Return cases of a claim's figure to compute, beside the alternatives that it has."""
        return ()

    def search(self, proposal: Proposal, claim: Claim, figure: Figure) -> Search | None:
        """Return the search for the break-even of a claim whose worst figure on some tensors is `figure`."""
        return None


def sources() -> dict[str, Source]:
    """Return the source of each kind of evidence, in the order in which they gather."""
    return {kind: _source(kind) for kind in metric.KINDS}


def source_of(name: str) -> Source:
    """Return the source of a metric's figures."""
    return _source(metric.kind_of(name))


def _source(kind: str) -> Source:
    return cast(Source, import_module(f"codesign.evidence.{kind}.source").SOURCE)


# -- of sources that sample ------------------------------------------------------------------------------------------


def trial_of(proposal: Proposal, figure: Figure) -> Gemm | None:
    """Return the GEMM of a sampled figure; None where no trial of the proposal has it."""
    return next((g for g, t in proposal.trials if (g.name, t) == (figure.workload, figure.tensors)), None)


def other_tensors(gemm: Gemm, tensors: str) -> Iterator[tuple[str, str]]:
    """Yield other tensor sources for a GEMM, each after the name of the assumption that it changes."""
    for source in SOURCES:
        if source == tensors or (source == CAPTURED and gemm.recorded is None):
            continue
        # The size of outliers is an assumption of its own.
        outliers = tensors.startswith("outliers") and source.startswith("outliers")
        if outliers or not source.startswith("outliers-"):
            yield "size of outliers" if outliers else "tensor source", source
