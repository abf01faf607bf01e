"""The house: imports go downhill only, and nothing of one machine is in the project."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {"isa_model": set(), "kernels": {"isa_model"}, "codesign": {"isa_model", "kernels"}}
ROOMS = {
    "workloads": set(),
    "figures": set(),
    "proposal": {"workloads", "figures"},
    "torch": {"workloads", "figures", "proposal"},
    "probe": set(),
    "evidence": {"workloads", "figures", "proposal", "torch"},
    "verification": {"figures", "proposal", "evidence", "probe"},
    "verdicts": {"workloads", "figures", "proposal", "evidence"},
    "report": {"workloads", "figures", "proposal", "evidence", "verdicts"},
    "commands": {
        "workloads",
        "figures",
        "proposal",
        "torch",
        "evidence",
        "verdicts",
        "report",
        "probe",
        "verification",
    },
}
"""Rooms of codesign, each with those that it may import."""
SOURCES = sorted(p for floor in FLOORS for p in (ROOT / floor).rglob("*.py"))
FOLDERS = sorted({p.parent for p in SOURCES if p.relative_to(ROOT).parts[0] == "codesign"})


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


def rooms_of(path):
    """Yield the rooms of codesign that a file imports, at its top or within a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("codesign."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "codesign":
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_of_codesign_import_downward_only(room):
    """Every import of another room is allowed, so that there is no circle between rooms."""
    assert not any(room in ROOMS[other] for other in ROOMS[room])
    for path in (ROOT / "codesign" / room).rglob("*.py"):
        above = set(rooms_of(path)) & set(ROOMS) - ROOMS[room] - {room}
        assert not above, f"{path} imports {above}"


def test_every_folder_of_codesign_is_a_known_room():
    """A new room is added to ROOMS with what it may import."""
    assert {p.name for p in (ROOT / "codesign").iterdir() if (p / "__init__.py").exists()} == set(ROOMS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_folder_has_too_many_files_to_look_through(folder):
    """Fewer than 25 modules lie side by side."""
    assert sum(p.suffix == ".py" for p in folder.iterdir()) < 25


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
