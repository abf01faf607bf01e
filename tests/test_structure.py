"""The house: imports go downhill only, and nothing of one machine is in the project."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {"isa_model": set(), "kernels": {"isa_model"}, "codesign": {"isa_model", "kernels"}}
SOURCES = sorted(p for floor in FLOORS for p in (ROOT / floor).rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path):
    """isa_model imports neither kernels nor codesign; kernels not codesign."""
    floor = path.relative_to(ROOT).parts[0]
    assert set(imported(path)) & set(FLOORS) - {floor} <= FLOORS[floor]


def test_no_files_import_each_other_in_a_circle():
    """Neither at their top nor within a function nor for types alone; a package's `__init__`, which hands names on, is none."""
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in SOURCES if p.name != "__init__.py"}

    def of(path):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield from {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)} & set(names)

    below = {name: set(of(path)) for name, path in names.items()}
    assert sum(map(len, below.values())) > 300
    while free := {name for name, found in below.items() if not found}:
        below = {name: found - free for name, found in below.items() if name not in free}
    assert not below, "these import each other in a circle, or lie above such"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_needs_much_scrolling(path):
    """No module is longer than 450 lines, and each says what it is."""
    text = path.read_text()
    assert text.count("\n") <= 450
    assert ast.get_docstring(ast.parse(text))
