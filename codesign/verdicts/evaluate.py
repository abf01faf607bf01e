"""From a proposal to a result: gather evidence, judge the claims, stamp where it all came from."""

from __future__ import annotations

import hashlib
import json
import platform
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import Field

from codesign.commit import commit
from codesign.evidence.casts import source as casts
from codesign.evidence.cost import source as cost
from codesign.evidence.cost.plots import plots as cost_plots
from codesign.evidence.numerics.source import gather
from codesign.evidence.numerics.trial import Sampling
from codesign.evidence.progress import CountingExecutor, Phase
from codesign.evidence.timing import source as timing
from codesign.evidence.traffic import source as traffic
from codesign.evidence.traffic.count import Move
from codesign.evidence.training import source as training
from codesign.figures.figure import Figure, Plot
from codesign.proposal import manual
from codesign.proposal.proposal import Proposal
from codesign.proposal.variants import labels
from codesign.verdicts.claims import Verdict, judge
from codesign.verdicts.finding import arrival, finding, headline, worst
from codesign.verdicts.questions import asker
from codesign.verdicts.sensitivity import refine
from codesign.workloads.gemms import model_source
from codesign.workloads.tensors import SOURCES
from isa_model.instruction import Instruction
from isa_model.processes import pool
from isa_model.stage import Spec

SCHEMA_VERSION = 4
"""Version of result.json; readers refuse any other."""


class Provenance(Spec):
    """What the result was made from and with."""

    spec_sha256: str
    """SHA-256 of the proposal and both instructions, as canonical JSON."""
    commit: str
    """Commit of the evaluator's source; empty outside a git checkout, `+` where it had changes."""
    versions: dict[str, str]
    machine: str
    gpu: str = "none: the bit-exact model ran on the CPU"


class Result(Spec):
    """Everything an evaluation found; every report is drawn from this alone."""

    schema_version: int = SCHEMA_VERSION
    proposal: Proposal
    headline: str
    """The verdicts in a sentence, and outputs that are not finite."""
    finding: str
    """Error of D and its causes, in sentences."""
    verdicts: tuple[Verdict, ...]
    worst: tuple[Figure, ...]
    """Worst figure of each variant and metric over all GEMMs and tensor sources."""
    labels: dict[str, str]
    figures: tuple[Figure, ...]
    costs: tuple[Figure, ...] = ()
    """Hardware costs as ratios to the base's; empty without a record."""
    cost_plots: tuple[Plot, ...] = ()
    """Curves of cost and error against area, the proposal marked; empty without costs or for a base that is not the curves'."""
    casts: tuple[Figure, ...] = ()
    """Errors of the operands that the proposal's path delivers; empty without a path."""
    traffic: tuple[Figure, ...] = ()
    """Bytes and energy of a layer's step, by variant."""
    moves: dict[str, tuple[Move, ...]] = Field(default_factory=dict)
    """The operations that traffic was counted from, by variant."""
    timing: tuple[Figure, ...] = ()
    """Times and speedups; empty for a base without a model or without records."""
    timing_plots: tuple[Plot, ...] = ()
    """Rates of the GEMMs under software, twin, proposal and native instruction."""
    training: tuple[Figure, ...] = ()
    """Loss gaps of training runs; empty without a record."""
    curves: tuple[Plot, ...] = ()
    """Loss curves of those runs."""
    plots: tuple[Plot, ...]
    tensors: dict[str, str]
    """What each tensor source is."""
    method: tuple[str, ...]
    sampling: Sampling
    today: Instruction
    proposed: Instruction
    page: tuple[manual.ManualSection, ...]
    """Manual page of the proposed instruction."""
    provenance: Provenance


def evaluate(
    proposal: Proposal, sampling: Sampling, phase: Phase = lambda name, done, total: None, train: bool = False
) -> Result:
    """Gather all evidence on a proposal and judge its claims; `train`: with a training run of a minute or two.

    `phase` is told what is being done, and how much of it is.
    """
    with pool() as executor:
        evidence = gather(proposal, sampling, partial(phase, "sampling"), executor)
        arrived = casts.gather(proposal, sampling.seeds, CountingExecutor(executor, partial(phase, "casting")))
        phase("hardware cost", 0, 0)
        costs = () if proposal.multiplies_as_today else cost.gather(proposal)
        phase("traffic and timing", 0, 0)
        moved, moves = traffic.gather(proposal)
        times = timing.gather(proposal, costs)
        phase("training", 0, 0)
        runs = training.gather(proposal, train)
        everything = (*evidence.figures, *costs, *arrived, *moved, *times.figures, *runs.figures)
        phase("re-measuring what decides", 0, 0)
        ask = asker(sampling, CountingExecutor(executor, partial(phase, "re-measuring what decides")))
        verdicts = judge(proposal, everything, ask)
        verdicts = refine(proposal, verdicts, everything, ask)
    proposed, shown = proposal.proposed(), labels(proposal)
    shapes = sorted({model_source(w) for w in proposal.workloads})
    return Result(
        proposal=proposal,
        headline=headline(verdicts, evidence.figures),
        finding=arrival(arrived, evidence.figures, moved, shown)
        if proposal.multiplies_as_today
        else finding(evidence.figures, shown),
        verdicts=verdicts,
        worst=tuple(worst(evidence.figures)),
        labels=shown,
        figures=evidence.figures,
        costs=costs,
        cost_plots=cost_plots(proposal) if costs else (),
        casts=arrived,
        traffic=moved,
        moves=moves,
        timing=times.figures,
        timing_plots=times.plots,
        training=runs.figures,
        curves=runs.plots,
        plots=evidence.plots,
        tensors={name: SOURCES[name].description for name in proposal.tensors},
        method=(
            *evidence.method,
            *(cost.METHOD if costs else ()),
            *(casts.METHOD if arrived else ()),
            *(traffic.METHOD if moved else ()),
            *times.method,
            *runs.method,
            *([again_words(sampling)] if any(v.again for v in verdicts) else []),
            f"Shapes: {'; '.join(shapes)}.",
        ),
        sampling=sampling,
        today=proposal.today,
        proposed=proposed,
        page=manual.proposal_page(proposal),
        provenance=_provenance(proposal, proposed),
    )


def again_words(sampling: Sampling) -> str:
    """Return how figures were measured again, for the method."""
    first = sampling.fresh()
    last = max(first.fresh().seeds)
    return (
        f"What did not keep a claim's bound was measured again on seeds {min(first.seeds)} to {last}, which nothing else was "
        "computed on; a claim is refuted where one of R such figures breaks the bound at level 1 - 5 %/R."
    )


def spec_sha256(proposal: Proposal, proposed: Instruction) -> str:
    """SHA-256 of the proposal and both instructions, as canonical JSON."""
    spec: Any = [m.model_dump(mode="json") for m in (proposal, proposal.today, proposed)]
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def _provenance(proposal: Proposal, proposed: Instruction) -> Provenance:
    return Provenance(
        spec_sha256=spec_sha256(proposal, proposed),
        commit=commit(),
        versions={
            "python": platform.python_version(),
            **{n: _version(n) for n in ("codesign", "numpy", "ml_dtypes")},
        },
        machine=f"{platform.system()} {platform.machine()}",
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
