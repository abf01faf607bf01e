"""Numerics evidence: what the instruction, today's software, the proposal and an exact accumulator make of one workload.

`gather` runs trials (one GEMM, one tensor source, one seed each) on all cores and turns their errors into figures with
bootstrap intervals, and into the data of the plots.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codesign.arriving import carried
from codesign.curves import plots
from codesign.errors import Errors, errors_of, metrics_of
from codesign.evidence import Evidence, Figure
from codesign.metrics import NUMERICS
from codesign.proposal import Proposal, Value
from codesign.quantising import room
from codesign.resampling import RESAMPLES, figures, weights
from codesign.trial import Sampling, Trial
from codesign.variants import LABELS, Compared, variants
from codesign.workloads.gemms import Gemm
from codesign.workloads.tensor_file import metadata
from codesign.workloads.tensors import CAPTURED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

BESIDE = (
    "numerics.relative_frobenius",
    "numerics.quantisation_error",
    "numerics.total_error",
    "numerics.overflow_share",
)
"""What is reported of the baselines beside today's software; of one that a claim names, everything."""
Progress = Callable[[int, int], None]
"""Called with the trials done and the trials in all."""


@dataclass(frozen=True)
class Job:
    """One trial with all the instructions that share its operands."""

    gemm: Gemm
    tensors: str
    seed: int
    sampling: Sampling
    proposal: Proposal
    variants: tuple[Compared, ...]


def gather(proposal: Proposal, sampling: Sampling, progress: Progress, executor: Executor) -> Evidence:
    """Run every trial of the proposal and return its numerics figures and plots."""
    trials = proposal.trials
    compared = tuple(variants(proposal))
    jobs = [
        Job(gemm, tensors, seed, sampling, proposal, compared)
        for gemm, tensors in sorted(trials, key=lambda t: -t[0].k)  # long ones first, so that no core waits at the end
        for seed in sampling.seeds
    ]
    results: dict[tuple[str, str], list[list[Errors]]] = {}
    total = len(jobs) + 1
    curves = executor.submit(plots, proposal, sampling)
    for done, (job, errors) in enumerate(zip(jobs, executor.map(run, jobs), strict=True)):
        results.setdefault((job.gemm.name, job.tensors), []).append(errors)
        progress(done + 1, total)
    drawn = curves.result()
    progress(total, total)
    bases = tuple(dict.fromkeys(v for c in proposal.claims for v in (c.relative_to, c.of) if v))
    found = [
        figure
        for gemm, tensors in trials
        for figure in figures_of(gemm.name, tensors, compared, results[gemm.name, tensors], bases)
    ]
    return Evidence(figures=tuple(found), plots=drawn, method=_method(proposal, sampling))


@contextmanager
def pool() -> Iterator[ProcessPoolExecutor]:
    """One process per core, each with a single-threaded BLAS: more threads than cores slow all of them down."""
    import multiprocessing

    before = {name: os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    context = multiprocessing.get_context("spawn")
    # Ctrl-C reaches every process of a terminal; only the first one has something to say about it.
    ignored = (signal.SIGINT, signal.SIG_IGN)
    executor = ProcessPoolExecutor(os.cpu_count() or 1, context, initializer=signal.signal, initargs=ignored)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def run(job: Job) -> list[Errors]:
    """The errors of each variant of a job, in their order."""
    roles = carried(job.gemm, [compared.flows for compared in job.variants])
    sampling = job.sampling
    trial = Trial(job.gemm, job.tensors, job.seed, sampling.rows, sampling.columns, job.proposal.rule, roles)
    return [errors_of(trial.result(compared)) for compared in job.variants]


def figures_of(
    gemm: str,
    tensors: str,
    compared: Sequence[Compared],
    results: Sequence[Sequence[Errors]],
    bases: Sequence[str],
    metrics: Sequence[str] = tuple(NUMERICS),
) -> Iterator[Figure]:
    """The figures of every variant on one GEMM and source from its errors, a list of the variants' for each seed."""
    rows = sum(len(errors[0].count) for errors in results)
    outputs = sum(int(errors[0].count.sum()) for errors in results)
    picked = weights(gemm, tensors, rows)
    values: dict[tuple[str, Value | None], dict[str, Array]] = {}
    for index, each in enumerate(compared):
        found = metrics_of([errors[index] for errors in results], picked)
        shown = (
            metrics if each.variant in LABELS else [name for name in metrics if name in BESIDE or each.variant in bases]
        )
        values[each.variant, each.at] = {name: found[name] for name in shown}
    return figures(gemm, tensors, values, bases, outputs)


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
        "their outliers are; of them the row with the largest element and others at random are taken for each seed: "
        f"{'; '.join(said)}."
    ]


def _method(proposal: Proposal, sampling: Sampling) -> tuple[str, ...]:
    seeds = ", ".join(map(str, sampling.seeds))
    return (
        f"Each GEMM is sampled: {sampling.rows} rows of A and {sampling.columns} columns of B (of one block of 128 "
        f"outputs) out of the true shape, the full K, for each of the seeds {seeds}. Nothing depends on m and n otherwise.",
        "Operands are drawn as BF16 and quantised as each instruction takes them: in the groups of its scales, or with one "
        "scale for the whole (sampled) tensor, or row, where it has none; that scale multiplies D outside the sum, unrounded. "
        "Formats of 16 bits and more are not scaled unless the baseline says so.",
        f"Today's instruction alone is {proposal.base} over all of K.",
        *_baselines(proposal),
        *([ON_THE_WAY] if proposal.path else []),
        *_captures(proposal),
        "The exact accumulator sums the proposal's own quantised operands without error and rounds once to FP32.",
        "D is computed by the bit-exact model. The reference is an exact integer sum, rounded once to float64.",
        f"Intervals are 95 % bootstrap intervals over rows ({RESAMPLES} resamples of all seeds' rows, each with all its "
        "columns); every variant takes the same rows, so that the interval of a ratio is the ratio's own. A share of outputs "
        "that was not seen at all is taken to be at most 3 / outputs.",
    )


ON_THE_WAY = (
    "The tensors that the path names arrive along it, and with today's software along its path, at every GEMM that takes "
    "them: in fprop and dgrad before they are kept or turned, in wgrad turned, at the end. Where no step turns them, a kernel "
    "casts them along tokens: from BF16 where memory holds that, and gradients that a kernel casts, which it leaves in both "
    "layouts; else from what was cast before. What arrives in the instruction's format, with scales that it takes, is "
    "multiplied as it is; all else is cast once more. A captured tile is 64 features wide in wgrad."
)


def _baselines(proposal: Proposal) -> list[str]:
    """What today's software is, and the baselines beside it."""
    practice = proposal.practice
    said = [f"Today's software is {practice.title}: {practice.about} ({practice.source})."]
    if {proposal.software.promote_every, proposal.software.group} != {"baseline"}:
        promotes = f"promoted every {practice.promote_every} products" if practice.promote_every else "not promoted"
        scales = f"FP32 scales of groups of {practice.group}" if practice.group else "no scale within K"
        said[0] = f"Today's software is {practice.title} changed: {promotes}, {scales}."
    limit = room(proposal.software_instruction, max(g.k for g, _ in proposal.trials))
    if practice.quantisation.headroom and limit:
        said.append(
            f"Its largest element is mapped to {limit:g} at the longest K, so that no sum can exceed the accumulator; the "
            "proposal's and today's operands alone fill their format unless `quantisation` asks for headroom."
        )
    said += [f"Beside it, {other.title}: {other.about} ({other.source})." for other in proposal.others]
    return said
