"""Numerics evidence: what the instruction, today's software, the proposal and an exact accumulator make of one workload.

`gather` runs jobs (one GEMM on one tensor source each) on all cores and turns their errors into figures with
intervals, and into the data of the plots.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from codesign.curves import plots
from codesign.errors import FEWEST_OUTPUTS, Errors, errors_of, estimates, joined
from codesign.evidence import Evidence, Figure
from codesign.intervals import FEWEST_CLUSTERS, Estimate, figures
from codesign.metrics import NUMERICS
from codesign.proposal import Proposal, Value
from codesign.trial import Sampling, Trial
from codesign.variants import Compared, variants
from codesign.workloads.gemms import Gemm
from codesign.workloads.tensor_file import metadata
from codesign.workloads.tensors import CAPTURED

Results = Sequence[Errors]
"""Errors of a job's variants, in their order."""
BATCH = 1 << 21
"""Elements of operands drawn together: small enough for a cache, large enough for numpy."""
Progress = Callable[[int, int], None]
"""Called with the trials done and the trials in all."""


@dataclass(frozen=True)
class Job:
    """One GEMM on one tensor source, with all the instructions that share its operands."""

    gemm: Gemm
    tensors: str
    sampling: Sampling
    proposal: Proposal
    variants: tuple[Compared, ...]


def gather(proposal: Proposal, sampling: Sampling, progress: Progress, executor: Executor) -> Evidence:
    """Run every trial of the proposal and return its numerics figures and plots."""
    trials = proposal.trials
    compared = tuple(variants(proposal))
    jobs = [
        Job(gemm, tensors, sampling, proposal, compared)
        for gemm, tensors in sorted(trials, key=lambda t: -t[0].k)  # long ones first, so that no core waits at the end
    ]
    results: dict[tuple[str, str], Results] = {}
    total = len(jobs) + 1
    curves = executor.submit(plots, proposal, sampling)
    for done, (job, errors) in enumerate(zip(jobs, executor.map(run, jobs), strict=True)):
        results[job.gemm.name, job.tensors] = errors
        progress(done + 1, total)
    drawn = curves.result()
    progress(total, total)
    bases = tuple(dict.fromkeys(c.relative_to for c in proposal.claims if c.relative_to))
    found = [
        figure
        for gemm, tensors in trials
        for figure in figures_of(gemm.name, tensors, compared, results[gemm.name, tensors], bases)
    ]
    return Evidence(figures=tuple(found), plots=drawn, method=_method(proposal, sampling))


@contextmanager
def pool(processes: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """Yield an executor of one process per core, or of as many as asked for.

    Each has a single-threaded BLAS: more threads than cores slow all of them down.
    """
    import multiprocessing

    before = {name: os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    context = multiprocessing.get_context("spawn")
    # Ctrl-C reaches every process of a terminal; only the first one has something to say about it.
    ignored = (signal.SIGINT, signal.SIG_IGN)
    executor = ProcessPoolExecutor(
        processes or os.cpu_count() or 1, context, initializer=signal.signal, initargs=ignored
    )
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def run(job: Job) -> Results:
    """Return the errors of each variant of a job, in their order, all seeds as clusters."""
    proposal, sampling = job.proposal, job.sampling
    carried = proposal.path.operands if proposal.path else ()
    lines = min(sampling.rows, job.gemm.m) + min(sampling.columns, job.gemm.n)
    batch = 1 if job.tensors == CAPTURED else max(BATCH // (lines * job.gemm.k), 1)
    seeds = sampling.seeds[:1] if job.tensors == CAPTURED else sampling.seeds  # what was captured is there once
    found: list[list[Errors]] = [[] for _ in job.variants]
    for first in range(0, len(seeds), batch):
        some = seeds[first : first + batch]
        trial = Trial(job.gemm, job.tensors, some, sampling.rows, sampling.columns, proposal.quantisation, carried)
        for errors, compared in zip(found, job.variants, strict=True):
            errors.append(errors_of(trial.result(compared)))
    return [joined(errors) for errors in found]


def figures_of(
    gemm: str,
    tensors: str,
    compared: Sequence[Compared],
    results: Results,
    bases: Sequence[str],
    metrics: Sequence[str] = tuple(NUMERICS),
    level: float = 0.95,
) -> Iterator[Figure]:
    """Yield the figures of every variant on one GEMM and source from what `run` returned, with intervals of `level`.

    They have none with fewer than 8 seeds (rows of a captured tile) or 256 outputs in all.
    """
    found: dict[tuple[str, Value | None], dict[str, Estimate]] = {}
    for each, errors in zip(compared, results, strict=True):
        estimated = estimates(errors)
        found[each.variant, each.at] = {name: estimated[name] for name in metrics}
    enough = bool(results) and results[0].outputs.sum() >= FEWEST_OUTPUTS
    return figures(gemm, tensors, found, bases, level, enough)


def _captures(proposal: Proposal) -> list[str]:
    """Where captured tensors come from, and how they are sampled."""
    files = dict.fromkeys(g.recorded.file for g, tensors in proposal.trials if tensors == CAPTURED and g.recorded)
    if not files:
        return []
    said = []
    for file in files:
        about = metadata(file) if file.suffix == ".safetensors" else {}
        said.append(
            f"{about['model']} ({about['package']}), {about['loss']}, on {about['text']}"
            if {"model", "package", "loss", "text"} <= set(about)
            else file.name
        )
    return [
        "Captured tensors are tiles of one step of a real model, both operands of a GEMM from the same Linear, chosen where "
        "their outliers are; all rows and columns are computed, and intervals are over rows (in fprop and dgrad tokens, in "
        f"wgrad output features), neighbours together: {'; '.join(said)}."
    ]


def _method(proposal: Proposal, sampling: Sampling) -> tuple[str, ...]:
    seeds = sampling.seeds
    listed = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 2 else ", ".join(map(str, seeds))
    return (
        f"Each GEMM is sampled: for each of {len(seeds)} seeds ({listed}) tensors of the true shape, of which "
        f"{sampling.rows} rows of A and {sampling.columns} columns of B are computed over the full K. Rare tokens and channels "
        "are sampled more often than they are frequent, and weighted accordingly; what scales take from elements that are not "
        "computed (the largest of a block of a weight, or of a whole tensor) is drawn from its exact distribution.",
        "Operands are drawn as BF16 and quantised as each instruction takes them: in the groups of its scales, or with one "
        "scale for the whole tensor where it has none; that scale multiplies D outside the sum, unrounded.",
        f"Today's instruction alone is {proposal.base} over all of K; today's software " + _software(proposal),
        *([ON_THE_WAY] if proposal.path else []),
        *_captures(proposal),
        "The exact accumulator sums the proposal's own quantised operands without error and rounds once to FP32.",
        "D is computed by the bit-exact model, K filled up with zeros to whole instructions. It leaves the GEMM rounded to "
        "BF16 in fprop and dgrad and to FP32 in wgrad. The reference is an exact integer sum, rounded once to float64.",
        "Figures are pooled values over all tensors of the source, each tensor counted alike. Intervals hold that value 95 "
        "times in 100; seeds are their clusters, and every variant takes the same ones, so that the interval of a ratio is the "
        f"ratio's own. With fewer than {FEWEST_CLUSTERS} seeds or {FEWEST_OUTPUTS} outputs in all there is no interval, and "
        "nothing is decided.",
    )


ON_THE_WAY = (
    "The tensors that the path names arrive along it, and with today's software along its path, at every GEMM that takes "
    "them: in fprop and dgrad before they are kept or turned, in wgrad turned, at the end. Where no step turns them, a kernel "
    "casts them along tokens: from BF16 where memory holds that, and gradients that a kernel casts, which it leaves in both "
    "layouts; else from what was cast before. What arrives in the instruction's format, with scales that it takes, is "
    "multiplied as it is; all else is cast once more. A captured tile is 64 features wide in wgrad."
)


def _software(proposal: Proposal) -> str:
    if proposal.today.scale:
        return "runs it as it is, for it multiplies by group scales itself."
    promotes = f"promotes it to FP32 every {proposal.software.promote_every} products"
    if proposal.software.group is None:
        return f"{promotes} with one scale per tensor."
    return f"{promotes} and multiplies FP32 scales of groups of {proposal.software.group} in there."
