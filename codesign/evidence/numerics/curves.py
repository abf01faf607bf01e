"""The data of the numerics plots: error against K, how errors spread, error against fraction bits."""

from __future__ import annotations

from collections.abc import Mapping

from codesign.evidence.numerics.errors import bf16_ulp, errors_of, estimates
from codesign.evidence.numerics.trial import Outcome, Trial
from codesign.evidence.sampling import Sampling
from codesign.figures.figure import Plot, Series
from codesign.figures.intervals import finite
from codesign.figures.words import listed
from codesign.proposal.proposal import Proposal
from codesign.proposal.variants import labels, variants
from codesign.workloads.gemms import Gemm, Inputs
from codesign.workloads.tensors import CAPTURED
from isa_model.formats import FORMATS
from isa_model.instruction import Instruction

GROWTH = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Lengths of K at which error growth is shown."""
SEEDS = 8
"""Seeds that plots are drawn from."""
FRACTION_BITS = (8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 25)


def plots(proposal: Proposal, sampling: Sampling) -> tuple[Plot, ...]:
    """Return the plots of accumulation; none for a proposal whose sums are today's."""
    if proposal.multiplies_as_today:
        return ()
    # Captured tensors have the length they have; the plots vary it.
    drawn = [tensors for tensors in proposal.tensors if tensors != CAPTURED] or ["normal"]
    plots = [_growth(proposal, sampling, tensors) for tensors in drawn[:2]]
    plots += [_histogram(proposal, sampling, drawn[0])]
    bits = _fraction_bits(proposal, sampling, drawn[0])
    plots += [bits] if bits else []
    seeds = ", ".join(map(str, sampling.seeds[:SEEDS]))
    made = f" By the bit-exact model, seed{'s' if len(sampling.seeds) > 1 else ''} {seeds}."
    return tuple(plot.model_copy(update={"caption": plot.caption + made}) for plot in plots)


def _trial(name: str, k: int, proposal: Proposal, sampling: Sampling, tensors: str) -> Trial:
    """Return a trial of a GEMM of length k on the first SEEDS seeds; plots have no intervals."""
    seeds = sampling.seeds[:SEEDS]
    return Trial(_square(name, k, proposal.inputs), tensors, seeds, sampling.rows, sampling.columns, proposal.rule)


def _error(outcome: Outcome, metric: str = "numerics.relative_frobenius") -> float | None:
    return finite(estimates(errors_of(outcome), (metric,))[metric].value)


def _square(name: str, k: int, inputs: Inputs) -> Gemm:
    """Return a GEMM of length k for the plots, with the operands of fprop."""
    return Gemm(name, 4096, 4096, k, "activation", "weight", False, "", inputs=inputs)


def _in_total(k: int, shown: Mapping[str, str], outcomes: Mapping[str, Outcome]) -> str:
    """Return a sentence on the total errors of D, beside which accumulation errors are to be seen."""
    named: dict[str, list[str]] = {}
    for variant, outcome in outcomes.items():
        value = _error(outcome, "numerics.total_error")
        named.setdefault("not finite" if value is None else f"{value:.2g}", []).append(shown[variant])
    said = listed([f"{value} ({', '.join(names)})" for value, names in named.items()])
    return f" Total error, quantisation included, at K = {k}: {said}."


def _growth(proposal: Proposal, sampling: Sampling, tensors: str) -> Plot:
    shown = labels(proposal)
    lines: dict[str, list[float | None]] = {key: [] for key in shown}
    outcomes: dict[str, Outcome] = {}
    for k in GROWTH:
        trial = _trial(f"growth-{k}", k, proposal, sampling, tensors)
        for compared in variants(proposal):
            if compared.at is None and compared.variant in shown:
                outcome = outcomes[compared.variant] = trial.result(compared)
                lines[compared.variant].append(_error(outcome))
    return Plot(
        name=f"growth-{tensors}",
        title=f"Accumulation error against K, {tensors} operands",
        caption="Relative Frobenius error of D against the exact product of the same quantised operands."
        + _in_total(GROWTH[-1], shown, outcomes),
        x_label="K (products summed)",
        y_label="relative Frobenius error",
        x_scale="log2",
        series=tuple(Series(label=shown[key], variant=key, x=GROWTH, y=tuple(y)) for key, y in lines.items()),
    )


def _histogram(proposal: Proposal, sampling: Sampling, tensors: str) -> Plot:
    import numpy as np

    edges = np.arange(-24.0, 8.5, 1.0)
    fmt = proposal.inputs.upper()
    finer = FORMATS[proposal.inputs].mantissa_bits - FORMATS["bf16"].mantissa_bits
    trial = _trial("histogram", 7168, proposal, sampling, tensors)
    series, shown, without = [], labels(proposal), []
    for compared in variants(proposal):
        if compared.at is not None or compared.variant not in shown:
            continue
        outcome = trial.result(compared)
        with np.errstate(divide="ignore"):
            ulps = np.log2(np.abs(outcome.d - outcome.exact) / bf16_ulp(outcome.exact)) + finer
        weights = outcome.rows[:, :, None] * outcome.columns[:, None, :] / ulps.size
        seen = np.isfinite(ulps)
        counts, _ = np.histogram(np.clip(ulps[seen], edges[0], edges[-1]), edges, weights=weights[seen])
        shares = tuple(map(float, counts))
        if np.isneginf(ulps).any():
            without.append(f"{100 * weights[np.isneginf(ulps)].sum():.3g} % with {shown[compared.variant]}")
        about = compared.variant
        series.append(Series(label=shown[about], variant=about, x=tuple(edges[:-1].tolist()), y=shares))
    return Plot(
        name="histogram",
        title=f"How large the errors are, K = 7168, {tensors} operands",
        caption=f"Share of outputs by |error| in units of the last place of {fmt}, the output format of fprop and dgrad; "
        f"right of 0 an error is visible in {fmt}."
        + (f" Outputs without any error are left out: {', '.join(without)}." if without else ""),
        x_label=f"log2 of |error| / {fmt} ulp",
        y_label="share of outputs",
        y_scale="linear",
        steps=True,
        series=tuple(series),
    )


def _fraction_bits(proposal: Proposal, sampling: Sampling, tensors: str) -> Plot | None:
    """Return the proposal's error against the fraction bits of its alignment; other variants are horizontal lines."""
    aligned = [name for name, stage in proposal.proposed().stages.items() if stage.aligned]
    if not aligned:
        return None
    trial = _trial("fraction-bits", 4096, proposal, sampling, tensors)
    proposed = proposal.proposed()
    outcomes = {}
    series = [
        Series(
            label="proposal, other fraction bits",
            variant="proposal",
            x=FRACTION_BITS,
            y=tuple(_error(trial.outcome(with_bits(proposed, aligned[0], bits))) for bits in FRACTION_BITS),
        )
    ]
    shown = labels(proposal)
    for compared in variants(proposal):
        if compared.at is None and compared.variant != "proposal" and compared.variant in shown:
            outcome = outcomes[compared.variant] = trial.result(compared)
            level = _error(outcome)
            ends = (float(FRACTION_BITS[0]), float(FRACTION_BITS[-1]))
            about = compared.variant
            series.append(Series(label=shown[about], variant=about, x=ends, y=(level, level)))
    kept = proposed.stages[aligned[0]].fraction_bits
    outcomes["proposal"] = trial.outcome(proposed)
    return Plot(
        name="fraction-bits",
        title=f"Accumulation error against fraction bits, K = 4096, {tensors} operands",
        caption=f"The proposal with stage {aligned[0]} keeping more or fewer fraction bits than its {kept}, "
        "everything else as proposed; the other variants are horizontal lines." + _in_total(4096, shown, outcomes),
        x_label="fraction bits kept in alignment",
        y_label="relative Frobenius error",
        series=tuple(series),
    )


def with_bits(instruction: Instruction, stage: str, bits: int) -> Instruction:
    """Return the instruction with another number of fraction bits in one stage."""
    changed = instruction.stages[stage].model_copy(update={"fraction_bits": bits})
    return instruction.model_copy(update={"stages": {**instruction.stages, stage: changed}})
