"""The table of all points, as rows, CSV and Parquet, and a point as a proposal file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from codesign.explore.answer import Point
from codesign.explore.space import Base, Settings, Space, patched, proposal_data
from isa_model.diagnostics import InputError, suggest
from isa_model.input_files import MIB, parse_json, read_text, reason

MOST_BYTES = 1024 * MIB
"""Bytes of a space.json that are read."""
Row = dict[str, Any]


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
            for part in ("value", "low", "high", "kind", "where", "source"):
                column = name if part == "value" else f"{name}_{part}"
                row[column] = None if value is None else getattr(value, part)
        row["seeds"] = point.seeds
        found.append(row)
    return found


def as_csv(table: Sequence[Row]) -> str:
    """Return rows as CSV. An empty field is a number that is not finite, or none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, table[0] if table else ["point"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def as_parquet(table: Sequence[Row]) -> bytes | None:
    """Return rows as Parquet; None without pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return None
    columns = {}
    for name in table[0] if table else ():
        values = [row[name] for row in table]
        mixed = len({type(v) for v in values if v is not None} - {int, float}) > 0
        mixed = mixed or any(isinstance(v, int) and abs(v) >= 1 << 63 for v in values)
        columns[name] = pyarrow.array(
            [None if v is None else str(v) if mixed and not isinstance(v, bool) else v for v in values]
        )
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink, compression="zstd", use_dictionary=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def proposal_text(space: Space, base: Base, point: Settings, name: str, about: str) -> str:
    """Return the proposal file of a point."""
    data = proposal_data(patched(space, base, point), space, name, f"{space.title}: {about}")
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
            said = reason(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}".splitlines()[0]
            hint = "codesign explore SPACE writes it again"
            raise InputError.of(f"{file} is no space that this version explored ({said[:200]})", hint) from None
    hint = suggest(name, known) or "the column `point` of table.csv has the names"
    raise InputError.of(f"{folder} has no point `{name}`", hint if known else "codesign explore SPACE first")
