"""Shipped proposals by name."""

from __future__ import annotations

from functools import cache
from os.path import exists, isfile  # as those of Path, but False for names that no file can have
from pathlib import Path

from isa_model.diagnostics import InputError, suggest
from isa_model.library import is_path

HOME = Path(__file__).resolve().parent.parent


@cache
def names() -> dict[str, Path]:
    """Return the files of the shipped proposals by name, from the installed package or the clone around it."""
    folders = (HOME / "proposals", HOME.parent / "proposals")
    folder = next((f for f in folders if f.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def proposal_file(target: str) -> Path:
    """Return the file of a proposal given by its path or shipped name. Raises InputError for anything else."""
    path = Path(target)
    if target in names() and not isfile(path):
        return names()[target]
    if path.name == "result.json":
        raise InputError.of(
            f"{target} is a result, not a proposal", "`codesign report`, `compare` and `diff` read results"
        )
    if is_path(target) or exists(path):
        return path
    hint = suggest(target, names()) or f"a file, or one of: {', '.join(names())}"
    raise InputError.of(f"no proposal is called `{target}`", hint)
