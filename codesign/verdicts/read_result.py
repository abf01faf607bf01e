"""Reading of result.json files, which may come from anybody: they are checked before anything is drawn from them."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from codesign.figures.evidence import Evidence
from codesign.figures.figure import Alternative, Figure
from codesign.figures.metric import metrics
from codesign.verdicts.evaluate import SCHEMA_VERSION, Result, spec_sha256
from isa_model.diagnostics import InputError
from isa_model.input_files import MIB, parse_json, read_bytes, reason
from isa_model.printable import unprintable

LARGEST = 16 * MIB
"""Size of the largest result.json that is read, bytes; shipped ones have less than 2 MiB."""
MOST = {
    "figures for the columns of its tables": 10_000_000,
    "tables": 1_000,
    "plots": 200,
    "points in its plots": 50_000,
    "names of points in its plots": 1_000,
}
"""What is drawn at most, so that drawing takes seconds; shipped results have less than a tenth of each."""
_AGAIN = "evaluate the proposal again"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CLAIM = re.compile(r"claim-[0-9]+|claims|gain-and-cost", re.IGNORECASE)
_FAULTS = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, AssertionError)
"""Errors that drawing raises for figures that do not fit together."""


@contextmanager
def drawing(*sources: Path) -> Iterator[None]:
    """Raise InputError, naming the files drawn from, in place of the errors of figures that do not fit together."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of numbers near a double's limits
            yield
    except UnicodeEncodeError:  # of the terminal
        raise
    except _FAULTS as error:
        fault = f"{type(error).__name__}: {error}"
        if len(sources) > 1:
            message = f"{', '.join(map(str, sources))} cannot be drawn together ({fault})"
        else:
            message = f"{sources[0]} contradicts itself: it cannot be drawn ({fault})"
        raise InputError.of(message, "evaluate it again" if len(sources) == 1 else "evaluate them again") from None


def read_result(path: Path) -> Result:
    """Read a result.json.

    Raises InputError if it cannot be read, is not a result, has another version of the schema, or contradicts itself.
    """
    try:
        text = read_bytes(path, LARGEST)
    except OSError as error:
        raise InputError.of(f"{path} cannot be read: {reason(error)}") from None
    try:
        found = parse_json(text.decode())
        version = found["schema_version"]
    except (ValueError, TypeError, KeyError):
        raise InputError.of(f"{path} is no result.json", "one that `codesign evaluate` wrote") from None
    if version != SCHEMA_VERSION:
        raise InputError.of(
            f"{path} has version {version} of the schema; this codesign reads version {SCHEMA_VERSION}", _AGAIN
        )
    for place, said in _texts(found, ""):
        if character := unprintable(said):
            raise InputError.of(f"{path} is damaged at {place}: the text holds {character}", _AGAIN)
    try:
        result = Result.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError.of(f"{path} is damaged at {where}: {first['msg'].lower()}", _AGAIN) from None
    try:
        wrong = next(_contradictions(result), "")
    except (ValidationError, InputError):
        wrong = "its proposal makes no instruction"
    if wrong:
        raise InputError.of(f"{path} contradicts itself: {wrong}", _AGAIN)
    return result


def _texts(node: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield every text in JSON data, keys included, with its place."""
    if isinstance(node, str):
        yield place, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield place, key
            yield from _texts(value, f"{place}.{key}".lstrip("."))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _texts(value, f"{place}.{i}")


def _contradictions(result: Result) -> Iterator[str]:
    proposal = result.proposal
    if result.today != proposal.today or result.proposed != proposal.proposed():
        yield "its instructions are not those of its proposal"
    if result.provenance.spec_sha256 != spec_sha256(proposal, result.proposed):
        yield "its proposal does not have the hash in `provenance`"
    if tuple(v.claim for v in result.verdicts) != proposal.claims:
        yield "its verdicts are not on its proposal's claims"
    if any(v.deciding is None for v in result.verdicts if v.judgement != "undetermined"):
        yield "a verdict has no figure that decided"
    if not result.sampling.seeds:
        yield "it has no seed"
    for evidence in result.evidence:
        yield from _of_evidence(evidence)
    names = [plot.name.lower() for evidence in result.evidence for plot in evidence.plots]
    if twice := next((name for name, times in Counter(names).items() if times > 1), ""):
        yield f"two plots have the name `{twice}`"
    yield from _too_much(result)


def _too_much(result: Result) -> Iterator[str]:
    tables = [(t, len(e.figures)) for e in result.evidence for section in e.sections for t in section.tables]
    plots = [plot for e in result.evidence for plot in e.plots]
    series = [s for plot in plots for s in plot.series]
    sizes = {
        "figures for the columns of its tables": sum((1 + len(t.columns)) * (1 + count) for t, count in tables),
        "tables": len(tables),
        "plots": len(plots),
        "points in its plots": sum(len(s.x) for s in series),
        "names of points in its plots": sum(len(s.labels) for s in series),
    }
    for what, size in sizes.items():
        if size > MOST[what]:
            yield f"it has {size:,} {what}, more than {MOST[what]:,}"


def _of_evidence(evidence: Evidence) -> Iterator[str]:
    tables = [table for section in evidence.sections for table in section.tables]
    named = [f.metric for f in evidence.figures] + [c.metric for t in tables for c in t.columns if c.metric]
    if unknown := [name for name in named if name not in metrics()]:
        yield f"`{unknown[0]}` in `{evidence.source}` is no metric"
    for figure in evidence.figures:
        cases: tuple[Figure | Alternative, ...] = (figure, *figure.alternatives)
        if any(f.low is not None and f.high is not None and f.low > f.high for f in cases):
            yield f"an interval of `{figure.metric}` in `{evidence.source}` ends before it starts"
    if any(len(table.headings) != len(table.rows) for table in tables):
        yield f"a table of `{evidence.source}` has more headings than names in a row, or fewer"
    for plot in evidence.plots:
        if not _NAME.fullmatch(plot.name):
            yield f"`{plot.name}` in `{evidence.source}` is no name for a file"
        if _CLAIM.fullmatch(plot.name):
            yield f"`{plot.name}` in `{evidence.source}` is the name of a plot of the report"
        if any(len(s.x) != len(s.y) or len(s.labels) not in (0, len(s.x)) for s in plot.series):
            yield f"a series of plot `{plot.name}` has more values on one axis than on the other"
