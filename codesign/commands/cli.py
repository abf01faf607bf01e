"""The commands in the order of `codesign --help`, and the module of each: only that of the command asked for is imported."""

from __future__ import annotations

import sys
from importlib import import_module

from codesign.commands.app import app

MODULES = [
    "evaluate",
    "diff",
    "explore",
    "specs",
    "rtl",
    "conform",
    "probe",
    "bench",
    "step",
    "vectors",
    "disclose",
    "bound",
    "train",
    "doctor",
    "model",
]
"""Modules of codesign.commands, each with the command of its name."""
SHARED = {
    **dict.fromkeys(("report", "compare"), "evaluate"),
    **dict.fromkeys(("validate", "schema", "list", "show", "init"), "specs"),
}
"""Module of each command that shares one."""
INTERRUPTED = 130
"""Exit code of typer after Ctrl-C."""


def register(command: str = "") -> None:
    """Add a command to the application by importing its module; all commands without a known name."""
    module = SHARED.get(command, command)
    for each in [module] if module in MODULES else MODULES:
        import_module(f"codesign.commands.{each}")
    app.registered_commands.sort(key=lambda known: MODULES.index(known.callback.__module__.rpartition(".")[2]))


def run_app(arguments: list[str]) -> int:
    """Run a command and return its exit code. Raises KeyboardInterrupt on Ctrl-C."""
    register(*arguments[:1])
    try:
        result = app(arguments, standalone_mode=False, prog_name="codesign")
    except Exception as error:
        # A usage error of the command-line library, whose class depends on the version of typer.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show(file=sys.stderr)
            return 2
        if type(error).__name__ == "Abort":
            raise KeyboardInterrupt from None
        raise
    if result == INTERRUPTED:
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0
