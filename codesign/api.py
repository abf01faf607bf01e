"""What scripts and notebooks call: load, validate, evaluate, read, compare and diff."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from os import PathLike, fspath
from typing import Any

from codesign.evaluation import Changes, Evaluation, SideBySide
from codesign.evidence.progress import Phase
from codesign.evidence.sampling import COLUMNS, MOST_SEEDS, ROWS, Sampling
from codesign.proposal.load import parse_proposal
from codesign.proposal.proposal import Proposal
from codesign.proposal.shipped import proposal_file
from codesign.verdicts.evaluate import Result
from isa_model.diagnostics import Document, InputError, Problem, parse_yaml, read_yaml, suggest
from isa_model.library import changed

Source = str | PathLike[str] | Mapping[str, Any]
"""A file, the name of a shipped proposal, or a proposal's fields."""


def load(source: Source, **changes: Any) -> Proposal:
    """Return the proposal in a YAML file, the shipped one of a name, or the one with these fields.

    `changes` are fields of the proposal that differ: mappings merge, other values replace, None removes. So
    `load("group-scaled-mma", tensors=["normal"])` is judged on normal data alone.
    Raises InputError with every fault.
    """
    return parse_proposal(_document(source, changes))


def validate(source: Source, **changes: Any) -> tuple[Problem, ...]:
    """Return every fault of a proposal, recipe or instruction, with its place and a remedy; none if it is valid.

    `source` and `changes` are those of `load`.
    """
    from codesign.proposal.target import parse

    try:
        parse(_document(source, changes))
    except InputError as error:
        return error.problems
    return ()


def evaluate(
    proposal: Proposal | Source,
    *,
    rows: int | None = None,
    columns: int | None = None,
    seeds: Sequence[int] | None = None,
    train: bool = False,
    model: bool = False,
    progress: bool | None = None,
) -> Evaluation:
    """Gather all evidence on a proposal, or on what `load` takes, and judge its claims. Nothing is written.

    Of each GEMM, `rows` rows of A and `columns` columns of B are computed for each of `seeds`; the defaults are those of
    `codesign evaluate`. With `train`, a small model is also trained on the proposal, which takes a minute or two;
    with `model`, a small language model runs on it, which takes minutes.
    Work is spread over all cores; a script needs no main guard.
    `progress` shows the phases; by default on a terminal and in a notebook.
    Raises InputError for a faulty proposal or sampling, Unavailable if this machine lacks something.
    """
    from codesign.verdicts.evaluate import evaluate as gather_and_judge

    loaded = proposal if isinstance(proposal, Proposal) else load(proposal)
    sampling = _sampling({"rows": rows, "columns": columns, "seeds": seeds})
    with _shown(f"evaluating {loaded.proposal}", progress) as phase:
        return Evaluation.of(gather_and_judge(loaded, sampling, phase, train, model))


def read(target: str | PathLike[str]) -> Evaluation:
    """Return the result in a report's folder or result.json, or that of a proposal with a report here.

    Raises InputError for anything else, for a damaged file, and for a proposal that changed since its report.
    """
    from codesign.report.lookup import result_of

    return Evaluation.of(result_of(_path(target))[1])


def compare(results: Sequence[Result | str | PathLike[str]], objectives: str | Sequence[str] = ()) -> SideBySide:
    """Return the comparison of the results of two or more proposals, or of what `read` takes.

    `objectives`, one or several, are the metrics of the Pareto front, besides the total error; by default the usual ones.
    Raises InputError for fewer than two results, for a proposal given twice, and for an unknown objective.
    """
    from codesign.verdicts.compare import compare as side_by_side

    if isinstance(results, str | PathLike | Result):
        results = [results]
    if isinstance(objectives, str):
        objectives = [objectives]
    return SideBySide.of(side_by_side([r if isinstance(r, Result) else read(r) for r in results], objectives))


def diff(old: Result | str | PathLike[str], new: Result | str | PathLike[str]) -> Changes:
    """Return what changed from one result to another, or between what `read` takes: spec, verdicts and figures.

    `print` shows it as text, a notebook as tables.
    """
    from codesign.verdicts.diff import diff as difference

    return Changes.of(difference(*(r if isinstance(r, Result) else read(r) for r in (old, new))))


# -- arguments ---------------------------------------------------------------------------------------------------------


def _document(source: Source, changes: Mapping[str, Any]) -> Document:
    """Return a source with its changes as a document; given fields are shown in faults as JSON."""
    if isinstance(source, Proposal):
        raise InputError.of(
            "expected a file or a name, not a loaded proposal", "changes go into the `load` that made it"
        )
    if isinstance(source, Mapping):
        name, data = "<proposal>", dict(source)
    else:
        document = read_yaml(proposal_file(_path(source)))
        if not changes:
            return document
        name, data = f"{document.name} (changed)", document.data
    _check_names(changes, data)
    import json

    try:
        text = json.dumps(changed(data, dict(changes)), indent=1, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError.of(f"{name}: its fields are not plain data: {error}") from None
    return parse_yaml(text, name)


def _check_names(changes: Iterable[str], data: Mapping[str, Any]) -> None:
    """Raise InputError if a changed field does not exist."""
    from codesign.proposal.target import field_names

    known = field_names(data)
    faults = [
        Problem("", 0, 0, f"unknown field `{name}`", suggest(name, known) or f"fields: {', '.join(known)}")
        for name in changes
        if name not in known
    ]
    if faults:
        raise InputError(faults)


def _path(target: Any) -> str:
    """Return a path or name as text. Raises InputError for anything else."""
    if isinstance(target, str | PathLike):
        return str(fspath(target))
    raise InputError.of(f"expected a file or a name, not a value of type {type(target).__name__}")


def _sampling(given: Mapping[str, Any]) -> Sampling:
    """Return the sampling with the values that are not None. Raises InputError for values that no evaluation takes."""
    from isa_model.arguments import whole_number

    values = {name: value for name, value in given.items() if value is not None}
    try:
        for name, (least, most) in (("rows", ROWS), ("columns", COLUMNS)):
            if name in values and not least <= whole_number(name, values[name]) <= most:
                raise ValueError(f"{name} is {values[name]}; from {least} to {most}")
        if "seeds" in values:
            if isinstance(values["seeds"], int):
                raise ValueError(f"seeds is {values['seeds']}; expected a sequence of numbers")
            first = islice(values["seeds"], MOST_SEEDS + 1)  # of a range of any length
            seeds = values["seeds"] = tuple(whole_number("a seed", seed) for seed in first)
            kept = 0 < len(seeds) <= MOST_SEEDS and len(set(seeds)) == len(seeds)
            if not (kept and min(seeds) >= 0 and max(seeds) < 10**18):
                raise ValueError(f"seeds are 1 to {MOST_SEEDS} different numbers from 0 up, of at most 18 digits")
    except (TypeError, ValueError) as error:
        raise InputError.of(str(error), "for instance rows=16, columns=16, seeds=range(16)") from None
    return Sampling(**values)


# -- progress ----------------------------------------------------------------------------------------------------------


@contextmanager
def _shown(label: str, wanted: bool | None) -> Iterator[Phase]:
    """Yield what shows the phases: a bar on a terminal, a line that is replaced in a notebook, otherwise nothing."""
    kernel = _notebook()
    if wanted is False or (wanted is None and not kernel and not sys.stderr.isatty()):
        yield lambda name, done, total: None
    elif kernel:
        yield from _in_notebook(label)
    else:
        from codesign.commands.progress import Progress

        with Progress(label) as bar:
            yield bar.phase


def _notebook() -> bool:
    """Return whether this runs in the kernel of a notebook."""
    shell: Callable[[], Any] | None = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return shell is not None and hasattr(shell(), "kernel")


def _in_notebook(label: str) -> Iterator[Phase]:
    """Yield what shows a phase in one line of a notebook, at most four times a second; the line is empty at the end."""
    import time

    from IPython.display import display

    line: Any = display({"text/plain": label}, raw=True, display_id=True)
    last = 0.0

    def phase(name: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.25:
            last = time.monotonic()
            part = f", {done} of {total}" if total else ""
            line.update({"text/plain": f"{label}: {name}{part}"}, raw=True)

    try:
        yield phase
    finally:
        line.update({"text/plain": ""}, raw=True)
