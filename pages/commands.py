"""The generated part of docs/commands.md: every command with its arguments, options and defaults, from the application."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from models import one_line
from typer.models import ArgumentInfo

from codesign.commands.app import app
from codesign.commands.cli import register
from codesign.figures.markdown import table


def commands_text() -> str:
    """Return a section for each command."""
    register()
    lines: list[str] = []
    for command in app.registered_commands:
        assert command.callback
        name = command.name or command.callback.__name__
        lines += ["", f"## {name}", "", *_section(name, command.callback)]
    return "\n".join(lines[1:])


def _section(name: str, callback: Callable[..., Any]) -> Iterator[str]:
    parameters = list(_parameters(callback))
    usage = " ".join([name, *(usage for usage, *_ in parameters if not usage.startswith("-"))])
    yield f"    codesign {usage}{' [OPTIONS]' if any(u.startswith('-') for u, *_ in parameters) else ''}"
    yield ""
    yield "\n\n".join(one_line(part) for part in inspect.cleandoc(callback.__doc__ or "").split("\n\n"))
    if parameters:
        rows = ((f"`{usage.strip('[]').removesuffix('...')}`", *about) for usage, *about in parameters)
        yield from ("", table("argument or option | value | default | meaning", rows))


def _parameters(callback: Callable[..., Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield usage, values, default and meaning of each parameter of a command."""
    hints = get_type_hints(callback, include_extras=True)
    for name, parameter in inspect.signature(callback).parameters.items():
        kind, info = get_args(hints[name])[:2]
        default = parameter.default
        if isinstance(info, ArgumentInfo):
            repeated = list in (get_origin(kind), *map(get_origin, get_args(kind)))
            usage = (info.metavar or name.upper()) + "..." * repeated
            if default is not inspect.Parameter.empty:
                usage = f"[{usage}]"
        else:
            # In an Annotated type the first name that typer.Option is given arrives as its default.
            given = (info.default, *(info.param_decls or ()))
            declared = [text for text in given if isinstance(text, str) and text.startswith("--")]
            usage = declared[0] if declared else f"--{name.replace('_', '-')}"
        yield usage, _values(kind, info), _default(default), one_line(info.help or "")


def _values(kind: Any, info: Any) -> str:
    choices = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        return _values(next(choice for choice in choices if choice is not type(None)), info)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in choices)
    if get_origin(kind) is list:
        return f"{_values(choices[0], info)}, repeatable"
    if kind is bool:
        return "flag"
    return {Path: "path", int: "whole number", float: "number"}.get(kind, "text") + _range(info)


def _range(info: Any) -> str:
    low, high = getattr(info, "min", None), getattr(info, "max", None)
    if low is not None and high is not None:
        return f", {low} to {high}"
    return f", at least {low}" if low is not None else ""


def _default(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "required"
    return "" if default is None or default is False else f"`{default}`"
