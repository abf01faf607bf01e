"""Experiments: questions, the arms that answer them, and tables of the results. Only `run` needs torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt

from codesign.evidence.training.gaps import REFERENCE, Spread, gap
from codesign.evidence.training.records import Drift, TrainingRecord, TrainingRun, add, read
from codesign.evidence.training.size import Size
from codesign.proposal.quantisation import Quantisation
from codesign.proposal.recipe import InstructionRef, Recipe, load_recipe, parse_recipe
from isa_model.cast import Cast
from isa_model.diagnostics import Document, InputError, Unavailable, read_yaml, suggest
from isa_model.library import merge
from isa_model.stage import Spec

if TYPE_CHECKING:
    from codesign.evidence.training.loop import TrainingJob


class Arm(Spec):
    """Numerics of an experiment."""

    recipe: str
    """Name of the recipe."""
    change: dict[str, Any] = Field(default_factory=dict)
    """Fields of the recipe that differ."""
    casts: dict[str, Any] = Field(default_factory=dict)
    """Fields of all casts of the GEMMs and of their cached inputs."""
    on: InstructionRef | None = None
    """Instruction of all three GEMMs, which determines their casts; None: those of the recipe."""
    promote: PositiveInt | None = None
    """Products along K that `on` sums before promotion to FP32; None: all of K."""
    weight_columns: PositiveInt = 128
    """Outputs of a weight that share a scale of `on`."""
    exact: bool = False
    """True for FP32 sums instead of the instruction's."""
    nudge: bool = False
    """True if initial weights are changed slightly, which shows the noise between equally good runs."""

    def resolved(self) -> Recipe:
        """Return the recipe of the arm. Raises InputError if the fields do not fit together."""
        recipe = load_recipe(self.recipe, self.change)
        if self.on is not None:
            recipe = recipe.on(self.on, self.promote, Quantisation(weight_columns=self.weight_columns))
        if self.exact:
            recipe = recipe.summed_exactly()
        if not self.casts:
            return recipe
        change = {
            part: {name: self.casts for name, value in getattr(recipe, part) if isinstance(value, Cast)}
            for part in ("fprop", "dgrad", "wgrad", "cache")
        }
        change["cache"].pop("attention_output", None)
        return parse_recipe(Document(f"recipe {self.recipe}", merge(recipe.model_dump(mode="json"), change), []))


class Experiment(Spec):
    """A question, and the arms that answer it."""

    question: str
    arms: tuple[str, ...]


@cache
def _file() -> dict[str, Any]:
    """Return the data of experiments.yaml."""
    return read_yaml(Path(__file__).with_name("experiments.yaml")).data


@cache
def arms() -> dict[str, Arm]:
    """Return all arms by name."""
    return {name: Arm.model_validate(data) for name, data in _file()["arms"].items()}


@cache
def experiments() -> dict[str, Experiment]:
    """Return all experiments by name."""
    return {name: Experiment.model_validate(data) for name, data in _file()["experiments"].items()}


def find(name: str) -> Experiment:
    """Return an experiment by name. Raises InputError if it is unknown."""
    if name not in experiments():
        hint = suggest(name, experiments()) or f"one of: {', '.join(experiments())}"
        raise InputError.of(f"no experiment is called `{name}`", hint)
    return experiments()[name]


Watch = Callable[["TrainingJob", int, float], None]
"""Callback for a run, its steps done and its smoothed loss."""


def run(
    names: Sequence[str],
    size_name: str,
    size: Size,
    seeds: Sequence[int],
    path: Path,
    work: Path | None = None,
    engine: str = "auto",
    watch: Watch = lambda job, step, loss: None,
    budget: float | None = None,
    graphs: bool = True,
) -> TrainingRecord:
    """Train the arms that the record at `path` lacks, add each run when it ends, and return the record.

    Every arm is trained with the first seed before any with the second. `work` is a folder for checkpoints, from which killed
    runs resume. No run starts after `budget` seconds. `graphs` permits CUDA graphs. Raises InputError if the record was made
    under other conditions, Unavailable without torch.
    """
    import time

    try:
        from codesign.evidence.training.loop import TrainingJob, agreed, processes, train
    except ModuleNotFoundError as error:
        raise Unavailable(f"training needs the package `{error.name}`: pip install 'codesign[kernels]'") from None

    begun = time.monotonic()
    with processes() as (rank, world):
        record = empty_record(size_name, size, world)
        if path.exists():
            old = read(path)
            if not old.same_conditions(record):
                raise InputError.of(
                    f"{path} was made under other conditions: {_differences(old, record)}", "another --out"
                )
            record = old
        for seed in seeds:
            for name in names:
                if any((r.arm, r.seed) == (name, seed) for r in record.runs):
                    continue
                if budget is not None and agreed(time.monotonic() - begun > budget):
                    return record
                arm = arms()[name]
                job = TrainingJob(name, arm.resolved(), size, seed, arm.nudge, engine, graphs)  # type: ignore[arg-type]
                checkpoint = None if work is None else work / f"{size_name}.{name}.{seed}.pt"
                done = train(job, checkpoint, lambda step, loss, job=job: watch(job, step, loss))  # type: ignore[misc]
                assert done is not None
                if rank == 0:
                    add(done, record, path)
                record = record.with_run(done)
    return record


def empty_record(size_name: str, size: Size, world: int) -> TrainingRecord:
    """Return a record of this machine without runs. Needs torch."""
    import platform

    import torch

    from codesign.commit import commit
    from codesign.evidence.training.text import text

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    source = text()
    return TrainingRecord(
        schema_version=1,
        size=size_name,
        model=size,
        text_sha256=source.sha256,
        text_bytes=len(source.train) + len(source.validation),
        commit=commit(),
        machine=f"{gpu}, {platform.machine()}" + (f", {world} processes" if world > 1 else ""),
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            **({"cuda": str(torch.version.cuda)} if torch.cuda.is_available() else {}),
        },
    )


def _differences(old: TrainingRecord, new: TrainingRecord) -> str:
    """Return the conditions in which two records differ, as text."""
    keys = [k for k in type(old).model_fields if k != "runs" and getattr(old, k) != getattr(new, k)]
    return ", ".join(f"{k} {getattr(old, k)} is now {getattr(new, k)}" if k != "model" else "model" for k in keys)


def summary(record: TrainingRecord, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield a row per arm with the columns of HEAD."""
    for name in names:
        runs = record.find(name)
        if not runs:
            continue
        g = gap(record, name)
        speed, reference = (_speed(record.find(arm)) for arm in (name, REFERENCE))
        yield (
            name,
            str(len(runs)),
            _mean([r.tail for r in runs]),
            "" if name == REFERENCE or g is None else gap_words(g.training),
            "" if name == REFERENCE or g is None or g.largest is None else f"{g.largest:.2%}",
            _mean([r.validation for r in runs]),
            "" if name == REFERENCE or g is None else gap_words(g.validation),
            _drift([r.drift_at_start for r in runs]),
            _drift([r.drift for r in runs]),
            f"{1000 * record.model.tokens / speed:.3g}" if speed else "",
            "" if not speed else f"{speed:.3g}" + (f" ({speed / reference:.2f})" if reference else ""),
            "/".join(dict.fromkeys(runs[0].engines)),
        )


HEAD = (
    "arm | seeds | loss | gap to BF16 | largest | validation | its gap | gradient at start | at end | ms/step | "
    "tokens/s (of BF16's) | engine"
)


def gap_words(gap: Spread | None) -> str:
    """Return a gap as text; None means that a run diverged."""
    if gap is None:
        return "diverged"
    interval = "" if gap.low is None or gap.high is None else f" [{gap.low:+.2%}, {gap.high:+.2%}]"
    return f"{gap.mean:+.2%}{interval}"


def _speed(runs: Sequence[TrainingRun]) -> float:
    """Return the tokens per second of the fastest run; 0 if there is none, or in a record that says so."""
    return max((r.tokens_per_second for r in runs), default=0.0)


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{fsum(known) / len(known):.4f}" if len(known) == len(values) else "diverged"


def _drift(drifts: Sequence[Drift | None]) -> str:
    """Return the mean error of the gradient over runs as text, with its component along BF16's gradient in brackets."""
    known = [d for d in drifts if d is not None]
    if not known:
        return ""
    error, along = (fsum(getattr(d, field) for d in known) / len(known) for field in ("error", "along"))
    return f"{error:.2%} ({along:+.2%})"
