"""The table of all points, their names as JSON, and a point as a proposal file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from codesign.explore.points import Point
from codesign.explore.space import PARTS, Base, Settings, Space, patched, proposal_data
from codesign.figures.rows import Row
from isa_model.diagnostics import InputError, suggest
from isa_model.input_files import MIB, parse_json, read_text, reason

MOST_BYTES = 1024 * MIB
"""Bytes of a space.json that are read."""


def rows(space: Space, points: Sequence[Point]) -> list[Row]:
    """Return a row for each point: its axes, the value of each objective with interval and source, and its status."""
    found = []
    for point in points:
        row: Row = {
            "point": point.name,
            **point.settings,
            "status": point.status,
            "sure": point.sure,
            "note": point.note,
        }
        for name in space.objectives:
            value = point.values.get(name)
            for part in ("value", *PARTS):
                column = name if part == "value" else f"{name}_{part}"
                row[column] = None if value is None else getattr(value, part)
        row["seeds"] = point.seeds
        found.append(row)
    return found


def proposal_of(space: Space, base: Base, point: Settings, name: str, about: str) -> dict[str, Any]:
    """Return the proposal of a point as data."""
    return proposal_data(patched(space, base, point), space, name, f"{space.title}: {about}")


def proposal_text(space: Space, base: Base, point: Settings, name: str, about: str) -> str:
    """Return the proposal file of a point."""
    data = proposal_of(space, base, point, name, about)
    head = " ".join(
        f"# Point {name} of the space {space.space}: {about}".split()
    )  # text of an axis may hold line breaks
    return f"{head}\n" + yaml.safe_dump(data, sort_keys=False, width=120)


def as_json(space: Space, base: Base, points: Sequence[Point]) -> str:
    """Return the space and the names of its points as JSON, from which `codesign explore export` writes proposals."""
    names = ",\n".join(f"  {json.dumps(p.name)}: {json.dumps(list(p.settings.values()))}" for p in points)
    head = {"space": space.model_dump(mode="json"), "base": base.model_dump(mode="json")}
    text = json.dumps(head, indent=1)[:-2]
    return f'{text},\n "points": {{\n{names}\n }}\n}}\n'


def exported(folder: Path, name: str) -> str:
    """Return the proposal file of a point, by its name, from the spaces explored in a folder. Raises InputError for none."""
    known: list[str] = []
    faults: list[InputError] = []
    for file in sorted(folder.glob("*/space.json")) + sorted(folder.glob("space.json")):
        try:
            data = parse_json(read_text(file, MOST_BYTES))
            space, base, points = (
                Space.model_validate(data["space"]),
                Base.model_validate(data["base"]),
                dict(data["points"]),
            )
            known += points
            if name in points:
                settings = dict(zip(space.axes, points[name], strict=True))
                about = ", ".join(f"{axis} = {value}" for axis, value in settings.items())
                return proposal_text(space, base, settings, name, about)
        except (OSError, ValueError, LookupError, TypeError) as error:
            hint = "codesign explore SPACE writes it again"
            faults.append(InputError.of(f"{file} is no space that this version explored ({reason(error)})", hint))
    if faults:
        raise faults[0]
    hint = suggest(name, known) or "the column `point` of table.csv has the names"
    raise InputError.of(f"{folder} has no point `{name}`", hint if known else "codesign explore SPACE first")
