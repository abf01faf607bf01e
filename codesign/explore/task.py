"""Tasks: the pieces of evidence that points need, each under a key made of everything that its result depends on.

A task is one proposal, one kind of evidence, and, as far as the kind depends on them, one workload, one tensor source and
one sampling. Its result holds a reading of every metric of the kind, so that another objective on the same evidence is free.
Figures and their intervals are those of `codesign evaluate` with the same sampling.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.evidence.sampling import Sampling
from codesign.evidence.source import Subject, sources
from codesign.explore.space import PROSE, Base, Objective, Settings, Space, patched, specification
from codesign.figures.figure import Figure
from codesign.figures.metric import Metric, kind_of
from codesign.proposal.load import parse_proposal
from codesign.proposal.proposal import Claim, Proposal
from codesign.proposal.variants import variants
from codesign.workloads.tensors import CAPTURED
from isa_model.diagnostics import Document, InputError

if TYPE_CHECKING:
    from codesign.evidence.numerics.errors import Errors
    from codesign.evidence.numerics.trial import Trial

CHEAP = ("cost", "bounds")
"""Kinds of evidence that need no samples; they are gathered first."""
SYNTHESIS = ("amaranth", "pyosys")
"""Packages that synthesise a unit, those of the extra `cost`."""
MORE_FOLDERS = {"timing": ("evidence/traffic", "../kernels"), "model": ("torch",), "training": ("torch",)}
"""Folders behind one kind of evidence, besides its own and those behind every kind."""


@dataclass(frozen=True)
class Task:
    """One piece of evidence on one proposal."""

    key: str
    data: dict[str, Any]
    """The proposal, as plain data without claims."""
    file: str
    """File of the base, beside which files of tensors are looked for."""
    kind: str
    of: str
    relative_to: str | None
    workload: str | None
    """Workload; None: those of the proposal together."""
    tensors: str | None
    """Tensor source; None: the kind depends on none."""
    sampling: Sampling | None
    """Sampling; None: the kind takes no samples."""
    evaluator: str
    """Version of what computes the kind (`evaluator`)."""
    synthesis: bool = False
    """True if a unit without a cost record is synthesised; otherwise its cost is predicted."""


Result = dict[str, Any]
"""A task's `key` with `readings`: metric -> list of [GEMM, tensors, value, low, high, kind, source]; or with `invalid`: the
reason why the point gives no proposal; or with `failed`, a fault of the program, which is not kept. Numbers that are not
finite are null."""


def tasks(
    space: Space,
    base: Base,
    settings: Settings,
    sampling: Sampling,
    kinds: Iterable[str] = (),
    synthesis: bool = False,
) -> list[Task]:
    """Return the tasks of a point in the order of the objectives; of some kinds only, if there are any."""
    data = patched(space, base, settings)
    found = {}
    for objective in space.objectives.values():
        for task in of_objective(objective, data, base.name, sampling, synthesis):
            if not kinds or task.kind in kinds:
                found[task.key] = task
    return list(found.values())


def of_objective(
    objective: Objective, data: dict[str, Any], file: str, sampling: Sampling, synthesis: bool = False
) -> list[Task]:
    """Return the tasks behind one objective on a proposal."""
    metric, kind = objective.about, kind_of(objective.metric)
    own_workloads = data.get("workloads", Proposal.model_fields["workloads"].default)
    own_tensors = data.get("tensors", Proposal.model_fields["tensors"].default)
    by_gemm = metric.by_gemm and not metric.of_layer
    workloads = ([objective.workload] if objective.workload else list(own_workloads)) if by_gemm else [None]
    tensors = ([objective.tensors] if objective.tensors else list(own_tensors)) if metric.by_tensors else [None]
    kept = {name: value for name, value in data.items() if name not in ("claims", "sweep")}
    found = []
    synthesis = synthesis and kind == "cost"
    version = evaluator(kind, synthesis)
    for workload in workloads:
        for source in tensors:
            about = (kind, objective.of, objective.relative_to, workload, source, sampling if metric.sampled else None)
            found.append(Task(_key(kept, file, version, *about), kept, file, *about, version, synthesis))
    return found


def _key(data: dict[str, Any], file: str, version: str, kind: str, of: str, base: str | None, *about: Any) -> str:
    """Return the SHA-256 of everything that a task's result depends on, as canonical JSON."""
    workload, tensors, sampling = about
    try:
        spec = specification(data)
    except InputError:  # no proposal, as `compute` finds
        spec = {"base": data.get("base"), "change": data.get("change")}
    depends = {
        "evaluator": version,
        "instruction": {
            name: value for name, value in spec.items() if name not in ("description", "source", "checked")
        },
        "proposal": {name: value for name, value in data.items() if name not in (*PROSE, "change")},
        "files": {name: _sha256_of(Path(file).parent / name) for name in _files(data.get("layers"))},
        "kind": [kind, of, base],
        "workloads": workload or (None if kind == "cost" else data.get("workloads")),
        "tensors": tensors,
        "sampling": sampling and sampling.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def _files(layers: Any) -> list[str]:
    """Return the files that layers name; none for what is not a mapping of layers."""
    every = layers.values() if isinstance(layers, dict) else ()
    return [layer["file"] for layer in every if isinstance(layer, dict) and isinstance(layer.get("file"), str)]


@cache
def evaluator(kind: str, synthesis: bool = False) -> str:
    """Return the version of what computes a kind of evidence: the SHA-256 of its code and data, and versions of packages.

    Random streams may differ between versions of numpy (NEP 19), and netlists between those of the generator and of Yosys.
    """
    digest = hashlib.sha256(metadata.version("numpy").encode())
    for path in files_behind(kind):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    for package in SYNTHESIS if synthesis else ():
        with suppress(metadata.PackageNotFoundError):
            digest.update(f"{package} {metadata.version(package)}".encode())
    return digest.hexdigest()


def files_behind(kind: str) -> list[Path]:
    """Return the files with the code and data that compute a kind of evidence."""
    home = Path(__file__).parent.parent
    common = ("../isa_model", "workloads", "figures", "proposal", "verdicts", "evidence/numerics")
    folders = [home / name for name in (*common, f"evidence/{kind}", *MORE_FOLDERS.get(kind, ()))]
    every = {path for folder in folders for path in folder.rglob("*")} | {*(home / "evidence").glob("*.py")}
    return [*sorted(p for p in every if p.suffix != ".pyc" and p.is_file()), Path(__file__)]


@cache
def _sha256_of(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return ""  # the proposal's own check says what is wrong with it


# -- computing -------------------------------------------------------------------------------------------------------


def compute(batch: Sequence[Task]) -> list[Result]:
    """Return the result of each task. Tasks on the same tensors share their operands as long as they follow each other."""
    found: list[Result] = []
    for task in batch:
        try:
            found.append(_result(task))
        except Exception as error:  # one point must not end the others
            found.append({"key": task.key, "failed": f"{type(error).__name__}: {error}"})
    return found


def _result(task: Task) -> Result:
    if task.evaluator != evaluator(task.kind, task.synthesis):
        raise RuntimeError("this process runs another version of codesign or numpy than the one that asks")
    claims = [{"metric": "numerics.total_error", "at_most": 1.0}]
    data = {**task.data, "proposal": "point", "title": "a point", "source": "a space", "claims": claims}
    data |= {"workloads": [task.workload]} if task.workload else {}
    data |= {"tensors": [task.tensors]} if task.tensors else {}
    try:
        proposal = parse_proposal(Document(task.file, data, []))
    except InputError as error:
        return {"key": task.key, "invalid": " ".join(p.message for p in error.problems)}
    figures = _numerics(proposal, task) if task.kind == "numerics" else _gathered(proposal, task)
    return {"key": task.key, "readings": dict(_readings(proposal, task, figures))}


def _readings(proposal: Proposal, task: Task, figures: Sequence[Figure]) -> Iterable[tuple[str, list[Any]]]:
    """Yield each metric of the kind with a reading of every figure, relative to the other variant if there is one."""
    from codesign.verdicts.claims import covered_by

    declared: tuple[Metric, ...] = import_module(f"codesign.evidence.{task.kind}.metrics").METRICS
    for metric in declared:
        if task.relative_to and metric.comparison == "none":
            continue
        claim = Claim.model_construct(
            metric=metric.name, of=task.of, relative_to=task.relative_to, workload=None, tensors=None, at=None
        )
        found = covered_by(proposal, claim, figures)
        rows = []
        for m in found:
            low, high = m.reading.ends or (None, None)
            ends = [_finite(x) for x in (m.reading.value, low, high)]
            rows.append([m.figure.workload, m.figure.tensors, *ends, m.figure.kind, m.figure.source])
        if rows:
            yield metric.name, rows


def _finite(x: float | None) -> float | None:
    return None if x is None or x != x or x in (float("inf"), float("-inf")) else float(f"{x:.6g}")


def _gathered(proposal: Proposal, task: Task) -> list[Figure]:
    """Return the figures of a source, as an evaluation gathers them."""
    with ThreadPoolExecutor(1) as executor:
        subject = Subject(proposal, task.sampling or Sampling(), executor, synthesis=task.synthesis)
        return list(sources()[task.kind].figures(subject))


def _numerics(proposal: Proposal, task: Task) -> list[Figure]:
    """Return the figures of the two variants alone, from operands drawn once for all tasks on the same tensors."""
    from codesign.evidence.numerics.source import figures_of

    assert task.sampling
    compared = [c for c in variants(proposal) if c.at is None and c.variant in (task.of, task.relative_to)]
    bases = [task.relative_to] if task.relative_to else []
    found: list[Figure] = []
    for gemm, tensors in proposal.trials:
        operands = _operands(gemm, tensors, task.sampling)
        results = [operands.errors(c._replace(rule=c.rule or proposal.rule)) for c in compared]
        found += figures_of(gemm.name, tensors, compared, results, bases)
    return found


MOST_OPERANDS = 24
"""Most casts of one tensor that are kept at a time."""


class Operands:
    """The tensors of one GEMM and source, drawn once for many instructions."""

    def __init__(self, gemm: Any, tensors: str, sampling: Sampling) -> None:
        from codesign.evidence.numerics.jobs import BATCH
        from codesign.evidence.numerics.trial import Trial
        from codesign.proposal.quantisation import Quantisation

        sampling = sampling.at(gemm.k)
        lines = min(sampling.rows, gemm.m) + min(sampling.columns, gemm.n)
        size = 1 if tensors == CAPTURED else max(BATCH // (lines * gemm.k), 1)
        seeds = sampling.seeds[:1] if tensors == CAPTURED else sampling.seeds
        some = (seeds[first : first + size] for first in range(0, len(seeds), size))
        self.trials: list[Trial] = [
            Trial(gemm, tensors, part, sampling.rows, sampling.columns, Quantisation(), compiled=False) for part in some
        ]
        self._shared: dict[Any, Errors] = {}

    def errors(self, compared: Any) -> Errors:
        """Return the errors of a variant, all seeds as clusters. Those of variants other than the proposal are kept."""
        from codesign.evidence.numerics.errors import errors_of, joined

        spec = compared.instruction.model_dump_json(exclude={"name", "description", "source", "checked"})
        key = spec, repr(compared.flows), repr(compared.rule), compared.forward is None, compared.variant == "exact"
        if key in self._shared:
            return self._shared[key]
        parts = []
        for trial in self.trials:
            trial.forget(MOST_OPERANDS)
            parts.append(trial.result(compared))
        found = errors_of(joined(parts))
        if compared.variant not in ("proposal", "exact"):
            self._shared[key] = found
        return found


_drawn: dict[Any, Operands] = {}


def _operands(gemm: Any, tensors: str, sampling: Sampling) -> Operands:
    """Return the operands of a GEMM and source; those used last are kept."""
    key = gemm, tensors, sampling.model_dump_json()
    found = _drawn.pop(key, None) or Operands(gemm, tensors, sampling)
    _drawn[key] = found
    while len(_drawn) > MOST_DRAWN:
        _drawn.pop(next(iter(_drawn)))
    return found


MOST_DRAWN = 4
"""Most GEMMs whose operands a process keeps."""
