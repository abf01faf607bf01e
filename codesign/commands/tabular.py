"""Tables of commands as data: --json, --csv and --parquet, the same options of every command that prints a table."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from math import isfinite
from typing import Annotated, Any, Literal, get_type_hints

import typer

from codesign.figures.rows import Row, as_csv, as_parquet
from isa_model.diagnostics import InputError, Unavailable

Form = Literal["table", "json", "csv", "parquet"]
"""Form of a command's output: a table for people, or data on stdout."""
_OPTIONS: dict[str, Any] = {
    "json": Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")],
    "csv": Annotated[bool, typer.Option("--csv", help="Print CSV instead of the table, a row per entry.")],
    "parquet": Annotated[
        bool, typer.Option("--parquet", help="Write the same rows as Parquet to stdout; needs pyarrow.")
    ],
}


def tabular(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options --json, --csv and --parquet in place of its parameter `form`.

    The command is refused with more than one of them, and with --parquet on a terminal or without pyarrow.
    """
    hints = get_type_hints(command, include_extras=True)
    signature = inspect.signature(command)
    own = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values() if p.name != "form"]
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(f"as_{f}", kind, default=False, annotation=o) for f, o in _OPTIONS.items()]

    @wraps(command)
    def with_options(**given: Any) -> int:
        wanted = [form for form in _OPTIONS if given.pop(f"as_{form}", False)]
        if len(wanted) > 1:
            raise InputError.of(f"--{wanted[0]} and --{wanted[1]} exclude each other", "one of them")
        if wanted == ["parquet"]:
            _check_parquet()
        return command(**given, form=wanted[0] if wanted else "table")

    with_options.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in (*own, *added)} | {"return": int}
    return with_options


def _check_parquet() -> None:
    """Raise InputError if Parquet would go to a terminal, Unavailable without pyarrow."""
    if sys.stdout.isatty():
        raise InputError.of(
            "Parquet is binary, and stdout is a terminal", "send it to a file: --parquet > rows.parquet"
        )
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise Unavailable("--parquet needs pyarrow; `pip install 'codesign[data]'` brings it") from None


def emit(form: Form, rows: Sequence[Row], document: str = "") -> None:
    """Print rows as data. JSON is the `document` if there is one, otherwise a list of the rows."""
    if form == "json":
        print(document or json.dumps([{k: _finite(v) for k, v in row.items()} for row in rows], indent=1))
    elif form == "csv":
        print(as_csv(rows), end="")
    elif form == "parquet":
        sys.stdout.flush()
        sys.stdout.buffer.write(as_parquet(rows))


def _finite(value: Any) -> Any:
    """Return a value as JSON has it: without infinities and NaNs."""
    return None if isinstance(value, float) and not isfinite(value) else value
