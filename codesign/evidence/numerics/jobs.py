"""Jobs: GEMMs on tensor sources under all variants. Those of one source and length of K run together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from codesign.evidence.numerics.errors import Errors, errors_of, joined
from codesign.evidence.numerics.trial import Outcome, Trial
from codesign.evidence.sampling import Sampling
from codesign.proposal.quantisation import Quantisation
from codesign.proposal.variants import Compared
from codesign.workloads.gemms import Gemm
from codesign.workloads.tensors import CAPTURED

Results = Sequence[Errors]
"""Errors of a job's variants, in their order."""
BATCH = 1 << 20
"""Elements of operands drawn together: small enough for a cache, large enough for numpy."""
MOST_HELD = 1 << 27
"""Most elements of operands whose codes are kept for the next question of a search."""


class Held(dict[tuple[int, ...], Trial]):
    """Trials with their operands' codes, by seeds."""


@dataclass(frozen=True)
class Job:
    """One GEMM on one tensor source, with all variants that share its operands."""

    gemm: Gemm
    tensors: str
    sampling: Sampling
    rule: Quantisation
    """Quantisation of variants that have none of their own."""
    variants: tuple[Compared, ...]

    @property
    def data(self) -> Hashable:
        """Value that is equal for jobs whose operands may have much in common: of one source and length of K."""
        return drawn_together(self.gemm, self.tensors)


def drawn_together(gemm: Gemm, tensors: str) -> Hashable:
    """Return a value that is equal for GEMMs of one length of K on one source; each captured tensor has its own."""
    return tensors, gemm if tensors == CAPTURED else gemm.k


def run(job: Job) -> Results:
    """Return the errors of each variant of a job, in their order, all seeds as clusters."""
    return run_together([job])[0]


def run_together(jobs: Sequence[Job], helds: Sequence[Sequence[Held]] = ()) -> list[Results]:
    """Return the errors of several jobs with the same `data`, each as `run` does; what they have in common is computed once.

    Errors that are the same by construction are the same object. Operands of a job are taken from its `helds` if they are
    there, and kept in all of them if they are small.
    """
    first, alike = jobs[0], _Alike()
    sampling, captured = first.sampling.at(first.gemm.k), first.tensors == CAPTURED
    lines = max(min(sampling.rows, job.gemm.m) + min(sampling.columns, job.gemm.n) for job in jobs)
    batch = 1 if captured else max(BATCH // (lines * first.gemm.k), 1)
    seeds = sampling.seeds[:1] if captured else sampling.seeds  # captured tensors have no seed
    small = len(seeds) * lines * first.gemm.k <= MOST_HELD
    derived: list[dict[Any, tuple[Any, Any]]] = [{} for _ in jobs]
    parts: list[list[list[Outcome]]] = [[[] for _ in job.variants] for job in jobs]
    for some in (seeds[at : at + batch] for at in range(0, len(seeds), batch)):
        beside: Trial | None = None
        for job, own, found, kept in zip(jobs, derived, parts, helds or [()] * len(jobs), strict=True):
            trial = next((t for held in kept if (t := held.get(some)) and all(map(t.has, job.variants))), None)
            if trial is None:
                trial = Trial(
                    job.gemm, job.tensors, some, sampling.rows, sampling.columns, job.rule, own, beside=beside
                )
            # The proposal before software, whose path may need less of the lines that are not computed.
            for outcomes, compared in zip(reversed(found), reversed(job.variants), strict=True):
                about = trial.about(compared)
                known = trial.kept.get(about)
                if known is None:
                    known = trial.kept[about] = trial.result(compared), compared
                outcomes.append(known[0])
            if not kept:
                trial.forget_whole()
                beside = trial
            elif small:
                for held in kept:
                    held[some] = trial.codes_alone()
    return [[alike.errors(outcomes) for outcomes in found] for found in parts]


class _Alike:
    """Errors of the same outcomes, which are computed once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], Errors] = {}

    def errors(self, parts: Sequence[Outcome]) -> Errors:
        """Return the errors of several trials as those of one."""
        key = tuple(map(id, parts))
        if key not in self._known:
            self._known[key] = errors_of(joined(parts))
        return self._known[key]
