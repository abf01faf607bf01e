"""The notebook of docs/: `python pages/notebook.py` runs its cells and writes their outputs into docs/notebook.ipynb.

Cells are executed in order in one namespace and an empty folder, as a kernel does it; no Jupyter is needed.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isa_model.output_files import write_file

PAGE = Path(__file__).resolve().parent.parent / "docs" / "notebook.ipynb"
_SHOWN = {"text/html": "_repr_html_", "image/svg+xml": "_repr_svg_"}
"""Methods with which an object shows itself, by the type of what they return."""


def cells(notebook: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the cells of a kind: code or markdown."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def outputs(notebook: dict[str, Any], names: dict[str, Any] | None = None) -> Iterator[list[dict[str, Any]]]:
    """Run the code cells in order, and yield the outputs of each; `names` receives what they define."""
    names = {} if names is None else names
    names["__name__"] = "__main__"
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for number, cell in enumerate(cells(notebook, "code"), 1):
                yield list(_run("".join(cell["source"]), names, number))
        finally:
            os.chdir(before)


def _run(source: str, names: dict[str, Any], number: int) -> Iterator[dict[str, Any]]:
    """Run a cell; yield what it printed, then the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"<cell {number}>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"<cell {number}>", "eval"), names)
    if printed.getvalue():
        yield {"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())}
    if value is not None:
        data = {kind: _lines(getattr(value, method)()) for kind, method in _SHOWN.items() if hasattr(value, method)}
        data["text/plain"] = _lines(repr(value))
        yield {"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"}


def _lines(text: str) -> list[str]:
    """Return a text as notebooks store it: a list of lines with their ends."""
    return text.splitlines(keepends=True)


def renewed(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a notebook with the outputs of its cells as they are now."""
    found = outputs(notebook)
    changed = []
    for number, cell in enumerate(notebook["cells"]):
        about = {"cell_type": cell["cell_type"], "id": f"cell-{number}", "metadata": {}, "source": cell["source"]}
        if cell["cell_type"] == "code":
            own = next(found)
            about |= {"execution_count": sum(c["cell_type"] == "code" for c in changed) + 1, "outputs": own}
        changed.append(about)
    return {**notebook, "cells": changed}


def as_markdown(notebook: dict[str, Any]) -> str:
    """Return a notebook as a page of the site."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", [])})
            kind = next(kind for kind in (*_SHOWN, "text/plain") if kind in data)
            text = "".join(data[kind]).strip("\n")
            parts.append(f"```text\n{text}\n```" if kind == "text/plain" else f"<div>\n{text}\n</div>")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write the outputs of every cell."""
    notebook = json.loads(PAGE.read_text(encoding="utf-8"))
    write_file(PAGE, json.dumps(renewed(notebook), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
