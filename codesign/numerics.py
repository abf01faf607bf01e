"""Numerics evidence: what the instruction, today's software, the proposal and an exact accumulator make of one workload.

`gather` runs trials (one GEMM, one tensor source, one seed each) on all cores and turns their errors into figures with
bootstrap intervals, and into the data of the plots.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from codesign.evidence import Evidence, Figure, Plot, Series
from codesign.metrics import NUMERICS
from codesign.proposal import Proposal, Value
from codesign.trial import Outcome, Trial
from codesign.workloads.gemms import Gemm, select
from isa_model.instruction import Instruction, Spec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

RESAMPLES = 400
GROWTH = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Lengths of K at which error growth is shown."""
FRACTION_BITS = (8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 25)
LABELS = {
    "today": "today's instruction alone",
    "software": "today's software promotion",
    "proposal": "proposal",
    "exact": "exact accumulator",
}

Progress = Callable[[int, int], None]
"""Called with the trials done and the trials in all."""


class Sampling(Spec):
    """How much of each GEMM is computed: rows of A and columns of B, the full K, for each seed."""

    rows: int = 32
    columns: int = 32
    seeds: tuple[int, ...] = (0, 1)


@dataclass(frozen=True)
class Errors:
    """Sums over columns that every metric follows from, one entry per row of a trial (seeds stacked)."""

    error2: Array
    exact2: Array
    signed: Array
    magnitude: Array
    largest_error: Array
    largest: Array
    over_ulp: Array
    quantisation2: Array
    total2: Array
    original2: Array
    not_finite: Array
    count: Array
    underflow: float
    overflow: float


@dataclass(frozen=True)
class Job:
    """One trial with all the instructions that share its operands."""

    gemm: Gemm
    tensors: str
    seed: int
    sampling: Sampling
    proposal: Proposal
    variants: tuple[tuple[str, Value | None, Instruction], ...]


def variants(proposal: Proposal) -> Iterator[tuple[str, Value | None, Instruction]]:
    """Every instruction to compare: (variant, swept value, instruction). The exact one shares the proposal's operands."""
    yield "today", None, proposal.today
    yield "software", None, proposal.software_instruction
    yield "proposal", None, proposal.proposed()
    if proposal.sweep:
        for value in proposal.sweep.values:
            yield "proposal", value, proposal.proposed(value)
    yield "exact", None, proposal.proposed()


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
        curves = pool.submit(_plots, proposal, sampling)
        for done, (job, errors) in enumerate(zip(jobs, pool.map(_run, jobs), strict=True)):
            results.setdefault((job.gemm.name, job.tensors), []).append(errors)
            progress(done + 1, total)
        plots = curves.result()
    progress(total, total)
    rng = np.random.default_rng(0)
    figures = [
        figure
        for gemm in gemms
        for tensors in proposal.tensors
        for index, (variant, value, _) in enumerate(compared)
        for figure in _figures(gemm.name, tensors, variant, value, [e[index] for e in results[gemm.name, tensors]], rng)
    ]
    return Evidence(figures=tuple(figures), plots=plots, method=_method(proposal, sampling))


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
    return [
        errors_of(trial.exact_outcome(instruction) if variant == "exact" else trial.outcome(instruction))
        for variant, _, instruction in job.variants
    ]


# -- errors and metrics -------------------------------------------------------------------------------------------------


def bf16_ulp(x: Array) -> Array:
    """Distance between neighbouring BF16 numbers at the magnitude of x."""
    import numpy as np

    from isa_model.lanes import leading_exponent

    return np.ldexp(1.0, np.maximum(leading_exponent(x), -126) - 7)


def errors_of(outcome: Outcome) -> Errors:
    """Reduce an outcome to what the metrics need, row by row. Outputs that are not finite count as overflow alone."""
    import numpy as np

    finite = np.isfinite(outcome.d)
    d = np.where(finite, outcome.d, outcome.exact)
    error, total = d - outcome.exact, d - outcome.original
    quantisation = outcome.exact - outcome.original

    def rows(x: Any) -> Array:
        return np.sum(x, axis=1, dtype=np.float64)

    return Errors(
        error2=rows(error**2),
        exact2=rows(outcome.exact**2),
        signed=rows(error * np.sign(outcome.exact)),
        magnitude=rows(np.abs(outcome.exact)),
        largest_error=np.abs(error).max(axis=1),
        largest=np.abs(outcome.exact).max(axis=1),
        over_ulp=rows(np.abs(error) > bf16_ulp(outcome.exact)),
        quantisation2=rows(quantisation**2),
        total2=rows(total**2),
        original2=rows(outcome.original**2),
        not_finite=rows(~finite),
        count=rows(np.ones_like(d)),
        underflow=outcome.underflow,
        overflow=outcome.overflow,
    )


def metrics_of(parts: Iterable[Errors], weights: Array | None = None) -> dict[str, Array]:
    """Every metric from the rows of all seeds; with `weights` (B, rows), B resampled values of each."""
    import numpy as np

    stacked = list(parts)

    def joined(name: str) -> Array:
        return np.concatenate([getattr(e, name) for e in stacked])

    picked = np.ones((1, len(joined("count")))) if weights is None else weights

    def total(name: str) -> Array:
        return picked @ joined(name)

    def largest(name: str) -> Array:
        return np.where(picked > 0, joined(name), 0.0).max(axis=1)

    with np.errstate(divide="ignore", invalid="ignore"):
        accumulation = np.sqrt(total("error2") / total("exact2"))
        whole = np.sqrt(total("total2") / total("original2"))
        constant = np.ones(len(picked))
        return {
            "numerics.relative_frobenius": accumulation,
            "numerics.max_relative": largest("largest_error") / largest("largest"),
            "numerics.bias": total("signed") / total("magnitude"),
            "numerics.share_over_1_bf16_ulp": total("over_ulp") / total("count"),
            "numerics.quantisation_error": np.sqrt(total("quantisation2") / total("original2")),
            "numerics.total_error": whole,
            "numerics.sqnr_db": -20 * np.log10(whole),
            "numerics.underflow_share": constant * np.mean([e.underflow for e in stacked]),
            "numerics.overflow_share": constant * np.mean([e.overflow for e in stacked])
            + total("not_finite") / total("count"),
        }


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
            high = max(high, 3.0 / sum(e.count.sum() for e in parts))  # none seen in n is no proof of none: rule of three
        yield Figure(
            metric=metric, variant=variant, at=at, workload=gemm, tensors=tensors, value=_finite(value),
            low=_finite(float(low)), high=_finite(float(high)), kind="computed", source="bit-exact model",
        )


def _finite(x: float) -> float | None:
    return float(f"{x:.6g}") if isfinite(x) else None


# -- plots --------------------------------------------------------------------------------------------------------------


def _plots(proposal: Proposal, sampling: Sampling) -> tuple[Plot, ...]:
    plots = [_growth(proposal, sampling, tensors) for tensors in proposal.tensors[:2]]
    plots += [_histogram(proposal, sampling, proposal.tensors[0])]
    bits = _fraction_bits(proposal, sampling, proposal.tensors[0])
    return tuple(plots + ([bits] if bits else []))


def _square(name: str, k: int) -> Gemm:
    """A GEMM of length k for the plots, in the roles of fprop."""
    return Gemm(name, 4096, 4096, k, "activation", "weight", False, "")


def _growth(proposal: Proposal, sampling: Sampling, tensors: str) -> Plot:
    lines: dict[str, list[float | None]] = {key: [] for key in LABELS}
    for k in GROWTH:
        trial = Trial(_square(f"growth-{k}", k), tensors, sampling.seeds[0], sampling.rows, sampling.columns,
                      proposal.quantisation)
        for variant, at, instruction in variants(proposal):
            if at is None:
                outcome = trial.exact_outcome(instruction) if variant == "exact" else trial.outcome(instruction)
                error = metrics_of([errors_of(outcome)])["numerics.relative_frobenius"][0]
                lines[variant].append(_finite(float(error)))
    return Plot(
        name=f"growth-{tensors}",
        title=f"Accumulation error against K, {tensors} operands",
        caption="Relative Frobenius error of D against the exact product of the same quantised operands.",
        x_label="K (products summed)", y_label="relative Frobenius error", x_scale="log2",
        series=tuple(Series(label=LABELS[key], variant=key, x=GROWTH, y=tuple(y)) for key, y in lines.items()),
    )


def _histogram(proposal: Proposal, sampling: Sampling, tensors: str) -> Plot:
    import numpy as np

    edges = np.arange(-24.0, 8.5, 1.0)
    trial = Trial(_square("histogram", 7168), tensors, sampling.seeds[0], sampling.rows, sampling.columns,
                  proposal.quantisation)
    series = []
    for variant, at, instruction in variants(proposal):
        if at is not None:
            continue
        outcome = trial.exact_outcome(instruction) if variant == "exact" else trial.outcome(instruction)
        with np.errstate(divide="ignore"):
            ulps = np.log2(np.abs(outcome.d - outcome.exact) / bf16_ulp(outcome.exact))
        counts, _ = np.histogram(np.clip(ulps[np.isfinite(ulps)], edges[0], edges[-1]), edges)
        shares = tuple(float(c) / ulps.size for c in counts)
        series.append(Series(label=LABELS[variant], variant=variant, x=tuple(edges[:-1].tolist()), y=shares))
    return Plot(
        name="histogram",
        title=f"How large the errors are, K = 7168, {tensors} operands",
        caption="Share of outputs by |error| in units of the last place of BF16, the output format of fprop and dgrad; "
        "right of 0 an error is visible in BF16.",
        x_label="log2 of |error| / BF16 ulp", y_label="share of outputs", y_scale="linear", steps=True,
        series=tuple(series),
    )


def _fraction_bits(proposal: Proposal, sampling: Sampling, tensors: str) -> Plot | None:
    """Error of the proposal as its alignment keeps more fraction bits, with the others as levels."""
    aligned = [name for name, stage in proposal.proposed().stages.items() if stage.aligned]
    if not aligned:
        return None
    trial = Trial(_square("fraction-bits", 4096), tensors, sampling.seeds[0], sampling.rows, sampling.columns,
                  proposal.quantisation)

    def error(outcome: Outcome) -> float | None:
        return _finite(float(metrics_of([errors_of(outcome)])["numerics.relative_frobenius"][0]))

    proposed = proposal.proposed()
    series = [Series(label="proposal, other fraction bits", variant="proposal", x=FRACTION_BITS, y=tuple(
        error(trial.outcome(_with_bits(proposed, aligned[0], bits))) for bits in FRACTION_BITS))]
    for variant, at, instruction in variants(proposal):
        if at is None and variant != "proposal":
            level = error(trial.exact_outcome(instruction) if variant == "exact" else trial.outcome(instruction))
            ends = (float(FRACTION_BITS[0]), float(FRACTION_BITS[-1]))
            series.append(Series(label=LABELS[variant], variant=variant, x=ends, y=(level, level)))
    kept = proposed.stages[aligned[0]].fraction_bits
    return Plot(
        name="fraction-bits",
        title=f"Accumulation error against fraction bits, K = 4096, {tensors} operands",
        caption=f"The proposal with stage {aligned[0]} keeping more or fewer fraction bits than its {kept}, all else as "
        "proposed; the others as levels.",
        x_label="fraction bits kept in alignment", y_label="relative Frobenius error", series=tuple(series),
    )


def _with_bits(instruction: Instruction, stage: str, bits: int) -> Instruction:
    changed = instruction.stages[stage].model_copy(update={"fraction_bits": bits})
    return instruction.model_copy(update={"stages": {**instruction.stages, stage: changed}})


def _method(proposal: Proposal, sampling: Sampling) -> tuple[str, ...]:
    seeds = ", ".join(map(str, sampling.seeds))
    return (
        f"Each GEMM is sampled: {sampling.rows} rows of A and {sampling.columns} columns of B (of one block of 128 "
        f"outputs) out of the true shape, the full K, for each of the seeds {seeds}. Nothing depends on m and n otherwise.",
        "Operands are drawn as BF16 and quantised as each instruction takes them: in the groups of its scales, or with one "
        "scale for the whole (sampled) tensor where it has none; that scale multiplies D outside the sum, unrounded.",
        f"Today's instruction alone is {proposal.base} over all of K; today's software promotes it to FP32 every "
        f"{proposal.software.promote_every} products"
        + (f" and multiplies FP32 scales of groups of {proposal.software.group} in there." if proposal.software.group
           else " with one scale per tensor."),
        "The exact accumulator sums the proposal's own quantised operands without error and rounds once to FP32.",
        "D is computed by the bit-exact model. The reference is an exact integer sum, rounded once to float64.",
        f"Intervals are 95 % bootstrap intervals over rows ({RESAMPLES} resamples of all seeds' rows, each with all its "
        "columns); a share of outputs that was not seen at all is taken to be at most 3 / outputs.",
    )
