"""Numerics evidence: what the instruction, today's software, the proposal and an exact accumulator make of one workload.

`gather` runs trials (one GEMM, one tensor source, one seed each) on all cores and turns their errors into figures with
bootstrap intervals, and into the data of the plots.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codesign.curves import plots
from codesign.errors import Errors, errors_of, finite, metrics_of
from codesign.evidence import Evidence, Figure
from codesign.metrics import NUMERICS
from codesign.proposal import Proposal, Value
from codesign.trial import Sampling, Trial, variants
from codesign.workloads.gemms import Gemm, select
from isa_model.instruction import Instruction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

RESAMPLES = 400

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
    variants: tuple[tuple[str, Value | None, Instruction], ...]


def gather(proposal: Proposal, sampling: Sampling, progress: Progress = lambda done, total: None) -> Evidence:
    """Run every trial of the proposal and return its numerics figures and plots."""
    import numpy as np

    gemms = list(dict.fromkeys(g for workload in proposal.workloads for g in select(workload)))
    compared = tuple(variants(proposal))
    jobs = [
        Job(gemm, tensors, seed, sampling, proposal, compared)
        for gemm in sorted(gemms, key=lambda g: -g.k)  # long ones first, so that no core waits at the end
        for tensors in proposal.tensors
        for seed in sampling.seeds
    ]
    results: dict[tuple[str, str], list[list[Errors]]] = {}
    total = len(jobs) + 1
    with _pool() as pool:
        curves = pool.submit(plots, proposal, sampling)
        for done, (job, errors) in enumerate(zip(jobs, pool.map(_run, jobs), strict=True)):
            results.setdefault((job.gemm.name, job.tensors), []).append(errors)
            progress(done + 1, total)
        drawn = curves.result()
    progress(total, total)
    rng = np.random.default_rng(0)
    figures = [
        figure
        for gemm in gemms
        for tensors in proposal.tensors
        for index, (variant, value, _) in enumerate(compared)
        for figure in _figures(gemm.name, tensors, variant, value, [e[index] for e in results[gemm.name, tensors]], rng)
    ]
    return Evidence(figures=tuple(figures), plots=drawn, method=_method(proposal, sampling))


@contextmanager
def _pool() -> Iterator[ProcessPoolExecutor]:
    """One process per core, each with a single-threaded BLAS: more threads than cores slow all of them down."""
    import multiprocessing

    before = {name: os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    context = multiprocessing.get_context("spawn")
    # Ctrl-C reaches every process of a terminal; only the first one has something to say about it.
    ignored = (signal.SIGINT, signal.SIG_IGN)
    pool = ProcessPoolExecutor(os.cpu_count() or 1, context, initializer=signal.signal, initargs=ignored)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _run(job: Job) -> list[Errors]:
    trial = Trial(job.gemm, job.tensors, job.seed, job.sampling.rows, job.sampling.columns, job.proposal.quantisation)
    return [errors_of(trial.result(variant, instruction)) for variant, _, instruction in job.variants]


def _figures(
    gemm: str, tensors: str, variant: str, at: Value | None, parts: list[Errors], rng: np.random.Generator
) -> Iterator[Figure]:
    """The figures of one variant on one GEMM and source, with intervals from resampling rows (all columns of a row)."""
    import numpy as np

    rows = sum(len(e.count) for e in parts)
    values = metrics_of(parts)
    resampled = metrics_of(parts, rng.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES).astype(np.float64))
    for metric in NUMERICS:
        value = float(values[metric][0])
        spread = resampled[metric][np.isfinite(resampled[metric])]
        low, high = np.percentile(spread, [2.5, 97.5]) if len(spread) else (float("nan"), float("nan"))
        if metric == "numerics.share_over_1_bf16_ulp":
            high = max(
                high, 3.0 / sum(e.count.sum() for e in parts)
            )  # none seen in n is no proof of none: rule of three
        yield Figure(
            metric=metric,
            variant=variant,
            at=at,
            workload=gemm,
            tensors=tensors,
            value=finite(value),
            low=finite(float(low)),
            high=finite(float(high)),
            kind="computed",
            source="bit-exact model",
        )


def _method(proposal: Proposal, sampling: Sampling) -> tuple[str, ...]:
    seeds = ", ".join(map(str, sampling.seeds))
    return (
        f"Each GEMM is sampled: {sampling.rows} rows of A and {sampling.columns} columns of B (of one block of 128 "
        f"outputs) out of the true shape, the full K, for each of the seeds {seeds}. Nothing depends on m and n otherwise.",
        "Operands are drawn as BF16 and quantised as each instruction takes them: in the groups of its scales, or with one "
        "scale for the whole (sampled) tensor where it has none; that scale multiplies D outside the sum, unrounded.",
        f"Today's instruction alone is {proposal.base} over all of K; today's software " + _software(proposal),
        "The exact accumulator sums the proposal's own quantised operands without error and rounds once to FP32.",
        "D is computed by the bit-exact model. The reference is an exact integer sum, rounded once to float64.",
        f"Intervals are 95 % bootstrap intervals over rows ({RESAMPLES} resamples of all seeds' rows, each with all its "
        "columns); a share of outputs that was not seen at all is taken to be at most 3 / outputs.",
    )


def _software(proposal: Proposal) -> str:
    if proposal.today.scale:
        return "runs it as it is, for it multiplies by group scales itself."
    promotes = f"promotes it to FP32 every {proposal.software.promote_every} products"
    if proposal.software.group is None:
        return f"{promotes} with one scale per tensor."
    return f"{promotes} and multiplies FP32 scales of groups of {proposal.software.group} in there."
