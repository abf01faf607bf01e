"""What a verdict on numerics hangs on: its figure under other tensors, lengths and casts, and the proposal's break-even.

Evidence of other kinds says itself what its figures would be under other assumptions (`Figure.alternatives`); that of
numerics must be computed, so it is done for the figures that decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

from codesign.casts import figures_of_path
from codesign.claims import Verdict, bars, excess_of, ratio_to
from codesign.curves import with_bits
from codesign.errors import estimates
from codesign.evidence import Alternative, BreakEven, Figure
from codesign.numerics import Job, figures_of, run
from codesign.proposal import Claim, Proposal, Value
from codesign.quantising import Quantisation
from codesign.trial import Sampling
from codesign.variants import Compared, variants
from codesign.workloads.gemms import Gemm
from codesign.workloads.tensors import CAPTURED, SOURCES
from isa_model.instruction import Instruction
from isa_model.path import Step

BITS = (1, 40)
"""Fraction bits among which the break-even is looked for."""
GROUPS = (512, 256, 128, 64, 32, 16)
"""Lengths of scale groups among which it is looked for, the coarsest and cheapest first."""
LOG_BITS = range(3, 17)
LENGTHS = (0.25, 4.0)
"""Other lengths of K, in parts of the true one."""
BY_ACCUMULATION = ("relative_frobenius", "p95_error", "bias", "share_over_1_bf16_ulp", "output_error", "changed_share")
"""Metrics on which fraction bits act; on the others it is the groups."""


@dataclass(frozen=True)
class Case:
    """One assumption changed: the trial it then is."""

    assumption: str
    other: str
    gemm: Gemm
    tensors: str
    quantisation: Quantisation


def refine(
    proposal: Proposal, verdicts: Sequence[Verdict], sampling: Sampling, executor: Executor
) -> tuple[Verdict, ...]:
    """The verdicts with bars and break-even values for those that a figure of numerics decided."""
    trials = {(g.name, t): g for g, t in proposal.trials}
    verdicts = tuple(
        executor.map(
            _refined_cast, *zip(*[(proposal, v, trials.get(_place(v)), sampling) for v in verdicts], strict=True)
        )
    )
    decided = [v for v in verdicts if v.claim.metric.startswith("numerics.") and _place(v) in trials]
    jobs: dict[Any, Job] = {}
    wanted: dict[int, list[tuple[Case, Any]]] = {}
    for verdict in decided:
        assert verdict.deciding
        gemm = trials[verdict.deciding.workload, verdict.deciding.tensors]
        for case in _cases(verdict.claim, gemm, verdict.deciding.tensors, proposal.rule):
            changed = proposal.quantised(case.quantisation)
            # One seed: a bar shows a tendency, and the figure it is held against has its interval.
            one = sampling.model_copy(update={"seeds": sampling.seeds[:1]})
            job = Job(case.gemm, case.tensors, one, changed, _compared(changed, verdict.claim))
            claim = verdict.claim
            key = (case.gemm, case.tensors, case.quantisation, claim.of, claim.at, claim.relative_to)
            wanted.setdefault(id(verdict), []).append((case, key))
            jobs[key] = job
    computed = dict(zip(jobs, executor.map(run, jobs.values()), strict=True))
    breaks = {
        id(v): executor.submit(
            break_even, proposal, v.claim, trials[v.deciding.workload, v.deciding.tensors], v, sampling
        )
        for v in decided
        # A sweep has told already; where the path alone changes there is no parameter of the instruction to try.
        if v.deciding and v.claim.of == "proposal" and not v.break_even and not proposal.multiplies_as_today
    }
    refined = []
    for verdict in verdicts:
        if id(verdict) not in wanted:
            refined.append(verdict)
            continue
        alternatives = []
        for case, key in wanted[id(verdict)]:
            mine, *others = (estimates(e)[verdict.claim.metric] for e in computed[key])
            value = mine.over(others[0], 0.95)[0] if others else mine.total
            alternatives.append(Alternative(assumption=case.assumption, other=case.other, value=_finite(value)))
        assert verdict.deciding
        deciding = verdict.deciding.model_copy(update={"alternatives": tuple(alternatives)})
        found = breaks[id(verdict)].result() if id(verdict) in breaks else ()
        refined.append(
            verdict.model_copy(
                update={
                    "deciding": deciding,
                    "bars": bars(verdict.claim, deciding),
                    "break_even": verdict.break_even or found,
                }
            )
        )
    return tuple(refined)


def _place(verdict: Verdict) -> tuple[str, str]:
    """GEMM and tensor source of the figure that decided."""
    return (verdict.deciding.workload, verdict.deciding.tensors) if verdict.deciding else ("", "")


def _refined_cast(proposal: Proposal, verdict: Verdict, gemm: Gemm | None, sampling: Sampling) -> Verdict:
    """A verdict on casts with its figure on other tensors, and the bits or groups that would do; others as they are."""
    claim, figure = verdict.claim, verdict.deciding
    if not claim.metric.startswith("cast.") or gemm is None or figure is None or proposal.path is None:
        return verdict

    def found(tensors: str, steps: tuple[Step, ...], seeds: tuple[int, ...]) -> Figure | None:
        changed = proposal.model_copy(update={"path": proposal.path.model_copy(update={"steps": steps})})  # type: ignore[union-attr]
        made = figures_of_path(changed, gemm, tensors, seeds)
        own = next((f for f in made if (f.metric, f.variant) == (claim.metric, claim.of)), None)
        return ratio_to(claim, own, made) if own and claim.relative_to else own

    steps, seeds = proposal.path.steps, sampling.seeds
    others = []
    for source in SOURCES:
        if source != figure.tensors and (source != CAPTURED or gemm.recorded):
            other = found(source, steps, seeds[:1])
            others.append(Alternative(assumption="tensor source", other=source, value=other.value if other else None))
    update: dict[str, Any] = {"deciding": figure.model_copy(update={"alternatives": tuple(others)})}
    update["bars"] = bars(claim, update["deciding"])
    last = steps[-1]
    if claim.of == "proposal" and last.logfmt is not None:
        tried = {
            b: found(figure.tensors, (*steps[:-1], last.model_copy(update={"logfmt": b})), seeds) for b in LOG_BITS
        }
        update["break_even"] = (_tried("bits of LogFMT", claim, last.logfmt, tried),)
    elif claim.of == "proposal" and last.group and 1 in last.group:
        groups = {n: (1, n) if last.group[0] == 1 else (n, 1) for n in GROUPS}
        tried = {
            n: found(figure.tensors, (*steps[:-1], last.model_copy(update={"group": g})), seeds)
            for n, g in groups.items()
        }
        update["break_even"] = (_tried("elements that share a scale", claim, max(last.group), tried),)
    return verdict.model_copy(update=update)


def _tried(parameter: str, claim: Claim, own: int, tried: dict[int, Figure | None]) -> BreakEven:
    """The first of the values, the cheapest first, whose whole interval keeps the bound."""
    limit = next((n for n, f in tried.items() if f and excess_of(claim, f.low, f.high) <= 0), None)
    return BreakEven(
        parameter=parameter, own=own, limit=limit, tried={str(n): f.value if f else None for n, f in tried.items()}
    )


def _finite(value: float) -> float | None:
    return float(f"{value:.4g}") if abs(value) < float("inf") else None


def _compared(proposal: Proposal, claim: Claim) -> tuple[Compared, ...]:
    """The claim's variant, and the one it is relative to."""
    known = list(variants(proposal))
    own = next(c for c in known if (c.variant, c.at) == (claim.of, claim.at if claim.of == "proposal" else None))
    return (own, *(c for c in known if (c.variant, c.at) == (claim.relative_to, None)))


def _cases(claim: Claim, gemm: Gemm, tensors: str, rule: Quantisation) -> Iterator[Case]:
    for source in SOURCES:
        if source == tensors or (source == CAPTURED and gemm.recorded is None):
            continue
        # How large outliers are is an assumption of its own.
        family = tensors.startswith("outliers") and source.startswith("outliers")
        if family or not source.startswith("outliers-"):
            yield Case("size of outliers" if family else "tensor source", source, gemm, source, rule)
    if tensors != CAPTURED:
        for factor in LENGTHS:
            k = int(gemm.k * factor)
            yield Case("length of the sums", f"K = {k}", replace(gemm, k=k), tensors, rule)
    if claim.metric.split(".")[1] in BY_ACCUMULATION:
        return
    floors = {1e-30: "1e-30", 1e-4: "1e-4 (DeepSeek-V3's inference code)"}
    for floor, words in floors.items():
        if floor != rule.floor:
            yield Case("least max-abs of a group", words, gemm, tensors, rule.model_copy(update={"floor": floor}))
    if gemm.b == "weight":
        columns = 1 if (rule.weight_columns or 1) > 1 else 128
        changed = rule.model_copy(update={"weight_columns": columns})
        yield Case("outputs that share a weight's scale", str(columns), gemm, tensors, changed)


# -- break-even ------------------------------------------------------------------------------------------------------


def break_even(
    proposal: Proposal, claim: Claim, gemm: Gemm, verdict: Verdict, sampling: Sampling
) -> tuple[BreakEven, ...]:
    """The least number of fraction bits, or the coarsest scale groups, that keep the claim where it was decided.

    Kept means, as for verdicts, that the whole interval keeps the bound. Fraction bits are found by bisection: more of
    them never make the sums worse by more than the interval says.
    """
    assert verdict.deciding
    tensors = verdict.deciding.tensors
    instruction = proposal.proposed(claim.at)
    if claim.metric.split(".")[1] in BY_ACCUMULATION:
        aligned = [name for name, stage in instruction.stages.items() if stage.aligned]
        if not aligned:
            return ()
        own: Value = instruction.stages[aligned[0]].fraction_bits or 0
        tried: dict[str, float | None] = {}

        def keeps(bits: int) -> bool:
            figure = figure_with(proposal, claim, gemm, tensors, sampling, with_bits(instruction, aligned[0], bits))
            tried[str(bits)] = figure.value
            return excess_of(claim, figure.low, figure.high) <= 0

        low, high = BITS
        limit: Value | None = None
        if keeps(high):
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if keeps(middle) else (middle + 1, high)
            limit = low
        ordered = {k: tried[k] for k in sorted(tried, key=int)}
        return (BreakEven(parameter=f"stages.{aligned[0]}.fraction_bits", own=own, limit=limit, tried=ordered),)
    scale = instruction.scale
    if scale is None or not (scale.a and scale.b):
        return ()
    tried, limit = {}, None
    for length in GROUPS:
        changed = with_groups(instruction, length)
        if changed is None:
            continue
        figure = figure_with(proposal, claim, gemm, tensors, sampling, changed)
        tried[str(length)] = figure.value
        if limit is None and excess_of(claim, figure.low, figure.high) <= 0:
            limit = length
    return (BreakEven(parameter="scale groups along K", own=scale.a.group[1], limit=limit, tried=tried),)


def with_groups(instruction: Instruction, length: int) -> Instruction | None:
    """The instruction with scale groups of another length along K on both sides; None where the stages forbid it."""
    from pydantic import ValidationError

    spec = instruction.model_dump(mode="json")
    spec["scale"]["a"]["group"][1] = spec["scale"]["b"]["group"][0] = length
    try:
        return Instruction.model_validate(spec)
    except ValidationError:
        return None


def figure_with(
    proposal: Proposal, claim: Claim, gemm: Gemm, tensors: str, sampling: Sampling, instruction: Instruction
) -> Figure:
    """The claim's figure, as a ratio where it is relative, with another instruction in the proposal's place."""
    compared = [
        c._replace(instruction=instruction) if c.variant in ("proposal", "exact") else c
        for c in _compared(proposal, claim)
    ]
    errors = run(Job(gemm, tensors, sampling, proposal, tuple(compared)))
    bases = (claim.relative_to,) if claim.relative_to else ()
    figures = list(figures_of(gemm.name, tensors, compared, errors, bases, (claim.metric,)))
    ratio = ratio_to(claim, figures[0], figures) if claim.relative_to else None
    return ratio or figures[0]
