"""From a proposal to a result: gather evidence, judge the claims, stamp where it all came from."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from codesign import casts, manual
from codesign.claims import Verdict, judge
from codesign.cost import evidence as cost
from codesign.cost.plots import plots as cost_plots
from codesign.evidence import Figure, Plot
from codesign.metrics import METRICS
from codesign.numerics import Progress, gather, pool
from codesign.proposal import Proposal
from codesign.provenance import commit
from codesign.questions import asker
from codesign.sensitivity import refine
from codesign.timing import evidence as timing
from codesign.traffic import evidence as traffic
from codesign.traffic.count import Move
from codesign.training import evidence as training
from codesign.trial import Sampling
from codesign.variants import LABELS, labels
from codesign.workloads.gemms import model_source
from codesign.workloads.tensors import SOURCES
from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction
from isa_model.stage import Spec

SCHEMA_VERSION = 3
"""Of result.json; a reader refuses another one."""


class Provenance(Spec):
    """What the result was made from and with."""

    spec_sha256: str
    """Of the proposal and both instructions, as canonical JSON."""
    commit: str
    """Of the evaluator's source; empty outside a git checkout, `+` where it had changes."""
    versions: dict[str, str]
    machine: str
    gpu: str = "none: the bit-exact model ran on the CPU"


class Result(Spec):
    """Everything an evaluation found; every report is drawn from this alone."""

    schema_version: int = SCHEMA_VERSION
    proposal: Proposal
    headline: str
    """The verdict in a sentence."""
    finding: str
    """What the numerics show, in a sentence."""
    verdicts: tuple[Verdict, ...]
    worst: tuple[Figure, ...]
    """Of each variant and metric the worst figure over all GEMMs and tensor sources."""
    labels: dict[str, str]
    figures: tuple[Figure, ...]
    costs: tuple[Figure, ...] = ()
    """Of the hardware, over the base's; empty without a record."""
    cost_plots: tuple[Plot, ...] = ()
    """Curves of cost and error against area, the proposal marked; empty without costs or for a base that is not the curves'."""
    casts: tuple[Figure, ...] = ()
    """Of what the proposal's path does to its operands; empty without a path."""
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
    """Of those runs."""
    plots: tuple[Plot, ...]
    tensors: dict[str, str]
    """What each tensor source is."""
    method: tuple[str, ...]
    sampling: Sampling
    today: Instruction
    proposed: Instruction
    page: tuple[manual.Section, ...]
    """Manual page of the proposed instruction."""
    provenance: Provenance


def read_result(path: Path) -> Result:
    """A result.json. Raises InputError when it cannot be read, is none, or is of another version of the schema."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError.of(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise InputError.of(f"{path} is no result.json", "one that `codesign evaluate` wrote") from None
    try:
        found = json.loads(text)
        version = found["schema_version"]
    except (ValueError, TypeError, KeyError):
        raise InputError.of(f"{path} is no result.json", "one that `codesign evaluate` wrote") from None
    if version != SCHEMA_VERSION:
        raise InputError.of(
            f"{path} has version {version} of the schema; this codesign reads version {SCHEMA_VERSION}",
            "evaluate the proposal again",
        )
    try:
        return Result.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError.of(
            f"{path} is damaged at {where}: {first['msg'].lower()}", "evaluate the proposal again"
        ) from None


def evaluate(
    proposal: Proposal, sampling: Sampling, progress: Progress = lambda done, total: None, train: bool = False
) -> Result:
    """Gather all evidence on a proposal and judge its claims; `train`: with a training run of a minute or two."""
    with pool() as executor:
        evidence = gather(proposal, sampling, progress, executor)
        arrived = casts.gather(proposal, sampling.seeds, executor)
        costs = () if proposal.multiplies_as_today else cost.gather(proposal)
        moved, moves = traffic.gather(proposal)
        times = timing.gather(proposal, costs)
        runs = training.gather(proposal, train)
        everything = (*evidence.figures, *costs, *arrived, *moved, *times.figures, *runs.figures)
        ask = asker(sampling, executor)
        verdicts = judge(proposal, everything, ask)
        verdicts = refine(proposal, verdicts, everything, ask)
    proposed, shown = proposal.proposed(), labels(proposal)
    shapes = sorted({model_source(w) for w in proposal.workloads})
    return Result(
        proposal=proposal,
        headline=_headline(verdicts),
        finding=_arrival(arrived, evidence.figures, moved, shown)
        if proposal.multiplies_as_today
        else _finding(evidence.figures, shown),
        verdicts=verdicts,
        worst=tuple(_worst(evidence.figures)),
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
            f"Shapes: {'; '.join(shapes)}.",
        ),
        sampling=sampling,
        today=proposal.today,
        proposed=proposed,
        page=manual.proposal_page(proposal),
        provenance=_provenance(proposal, proposed),
    )


def _headline(verdicts: tuple[Verdict, ...]) -> str:
    counts = {j: sum(v.judgement == j for v in verdicts) for j in ("supported", "refuted", "undetermined")}
    total = len(verdicts)
    words = [f"{counts['supported']} of {total} claims {'holds' if counts['supported'] == 1 else 'hold'}"]
    words.append(f"{counts['refuted'] or 'none'} {'is' if counts['refuted'] == 1 else 'are'} refuted")
    if counts["undetermined"]:
        words.append(f"{counts['undetermined']} {'is' if counts['undetermined'] == 1 else 'are'} undetermined")
    return ", ".join(words) + "."


def _worst(figures: tuple[Figure, ...]) -> Iterator[Figure]:
    for variant in LABELS:
        for name, metric in METRICS.items():
            covered = [f for f in figures if (f.variant, f.metric, f.at) == (variant, name, None)]
            if covered:
                yield max(covered, key=lambda f: _badness(f.value, metric.better))


def worst_by_pass(figures: tuple[Figure, ...], variant: str) -> dict[str, Figure]:
    """The worst total error of D in each pass."""
    own = [f for f in figures if (f.metric, f.variant, f.at) == ("numerics.total_error", variant, None)]
    steps = dict.fromkeys(f.workload.split(".")[1] for f in own)
    return {
        step: max((f for f in own if f.workload.split(".")[1] == step), key=lambda f: _badness(f.value, "lower"))
        for step in steps
    }


def _badness(value: float | None, better: str) -> float:
    if value is None:
        return float("inf")
    return {"lower": value, "higher": -value, "zero": abs(value)}[better]


def _finding(figures: tuple[Figure, ...], shown: dict[str, str]) -> str:
    """What the proposal does to today's accumulation error, at its worst."""
    worst = {f.variant: f for f in _worst(figures) if f.metric == "numerics.relative_frobenius"}
    found = [
        f"{_digits(worst[variant])} with {about}"
        for variant, about in (
            ("proposal", "the proposal"),
            ("software", "today's software"),
            ("today", "today's instruction alone"),
        )
        if variant in shown
    ]
    alike = "" if len(found) > 1 else "; today's software and today's instruction are the same by construction"
    return f"At its worst over all GEMMs and tensors, the relative error of accumulation is {_listed(found)}{alike}."


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _digits(figure: Figure) -> str:
    return "not finite" if figure.value is None else f"{figure.value:.2g}"


def _arrival(
    arrived: tuple[Figure, ...], products: tuple[Figure, ...], moved: tuple[Figure, ...], shown: dict[str, str]
) -> str:
    """What a path costs in accuracy at its worst, in the tensor and in each pass's D, and what it saves in traffic."""
    said = []
    errors = {f.variant: _digits(f) for f in _worst(arrived) if f.metric == "cast.relative_error"}
    if errors:
        ways: dict[str, list[str]] = {}
        for variant, about in (
            ("proposal", "along the proposed path"),
            ("software", "with today's software"),
            ("exact", "after one cast straight from BF16"),
        ):
            if variant in errors:
                ways.setdefault(errors[variant], []).append(about)
        words = ", ".join(f"{digits} {_listed(about)}" for digits, about in ways.items())
        said.append(f"At its worst the relative error of a tensor that arrives is {words}.")
    in_d = {
        variant: _listed([f"{_digits(f)} in {step}" for step, f in worst_by_pass(products, variant).items()])
        for variant in ("proposal", "software")
    }
    software = (
        f"{in_d['software']} with today's software" if "software" in shown else "today's software is no different"
    )
    said.append(f"The total error of D is at worst {in_d['proposal']}; {software}.")
    model = moved[0].workload if moved else ""
    total = {(f.metric, f.variant): f.value for f in moved if f.workload == model}
    changes = []
    for level, name in (("hbm", "through HBM"), ("l2", "from L2 to the SMs"), ("network", "over the network")):
        new, old = (total.get((f"traffic.{level}_bytes", variant)) for variant in ("proposal", "software"))
        if new is not None and old and abs(new / old - 1) >= 0.005:
            changes.append(f"{abs(new / old - 1):.0%} {'more' if new > old else 'fewer'} bytes {name}")
    if changes:
        said.append(f"A layer's step of {model} moves {_listed(changes)}.")
    return " ".join(said)


def _provenance(proposal: Proposal, proposed: Instruction) -> Provenance:
    spec: Any = [m.model_dump(mode="json") for m in (proposal, proposal.today, proposed)]
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    return Provenance(
        spec_sha256=digest,
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
