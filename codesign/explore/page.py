"""The report on a space: verdict first, then the picture, the front, break-even, what was left out, and the method."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from codesign.evidence.cost.source import MOST_AREA
from codesign.explore import picture, table
from codesign.explore.assumptions import assumptions
from codesign.explore.break_even import Surface, surfaces
from codesign.explore.points import JUDGED, ObjectiveFigure, Point, knee
from codesign.explore.reports import links
from codesign.explore.space import MOST_COUNTED, Base, Space, proposal_data
from codesign.explore.task import evaluator
from codesign.figures.metric import kind_of
from codesign.figures.rows import as_csv, as_parquet
from codesign.proposal.parts import Value
from codesign.report.write import environment
from isa_model.output_files import write_folder

KIND = "an exploration"


def write(space: Space, base: Base, points: Sequence[Point], out: Path) -> Path:
    """Write index.html, table.csv, space.json and, with pyarrow, table.parquet into the space's folder in `out`.

    The page links the reports of points that are there. Returns its path.

    Raises InputError if the folder cannot be written, or holds something else.
    """
    rows, folder = table.rows(space, points), out / space.space
    files: dict[str, str | bytes] = {
        "index.html": page(space, base, points, links(space, points, out)),
        "table.csv": as_csv(rows),
        "space.json": table.as_json(space, base, points),
    }
    with suppress(ImportError):
        files["table.parquet"] = as_parquet(rows)
    write_folder(folder, files, KIND)
    return folder / "index.html"


def page(space: Space, base: Base, points: Sequence[Point], reports: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the page as HTML; `reports` are the addresses of points' reports."""
    on = [p for p in points if p.status == "front"]
    on.sort(key=lambda p: [v.value or 0.0 for v in reversed(list(p.values.values()))])
    found = list(surfaces(space, points))
    script = picture.script()
    drawn: dict[str, Any] = {
        "space": space,
        "headline": headline(space, points),
        "findings": [*space.findings, *_findings(space, points, found)],
        "pictures": picture.static(space, points),
        "front": on,
        "knee": knee(space, points),
        "headings": [picture.heading(name, o) for name, o in space.objectives.items()],
        "interval": interval,
        "file": {p.name: _as_link(table.proposal_text(space, base, p.settings, p.name, p.label)) for p in on},
        "reports": reports,
        "surfaces": found,
        "assumptions": list(assumptions(space, points)),
        "counts": list(counts(space, points)),
        "method": list(_method(space, points)),
        "yaml": yaml.safe_dump(space.model_dump(mode="json", exclude_defaults=True), sort_keys=False, width=120),
        "script_code": script,
    }
    if script:
        drawn["spec"] = picture.embedded(picture.interactive(space, points))
        taken = {name: {p.settings[name] for p in points} for name in space.axes}
        patches = {n: {str(v): x.patches[v] for v in x.choices if v in taken[n]} for n, x in space.axes.items()}
        parts = {
            "base": proposal_data(base.data, space),
            "axes": patches,
            "name": space.space,
            "reports": dict(reports),
        }
        drawn["parts"] = picture.embedded(parts)
    template = (Path(__file__).with_name("page.html.j2")).read_text(encoding="utf-8")
    text: str = environment(html=True).from_string(template).render(drawn)
    return text


def headline(space: Space, points: Sequence[Point]) -> str:
    """Return what was found in a sentence."""
    on = [p for p in points if p.status == "front"]
    sure = sum(p.sure for p in on)
    judged = sum(p.status in JUDGED for p in points)
    visited = f"{len(points)} of {space.size}" if len(points) < space.size else f"{space.size}"
    if not on:
        return f"Of {visited} points none is on the front: {judged} could be judged, and none of them keeps all bounds."
    verb, stay = "is" if len(on) == 1 else "are", str(sure)
    if sure == len(on):
        stay = "it" if sure == 1 else "all"
    found = f"Of {visited} points, {len(on)} {verb} on the Pareto front"
    text = f"{found}; {stay} would stay there at any values within the sampled intervals."
    return text if judged == len(points) else f"{text} {len(points) - judged} could not be judged."


def _findings(space: Space, points: Sequence[Point], found: Sequence[Surface]) -> Iterator[str]:
    if best := knee(space, points):
        values = ", ".join(f"{name} {interval(v)}" for name, v in best.values.items())
        yield f"Knee of the front: {best.label} ({values})."
    on = [p for p in points if p.status == "front"]
    for name, axis in space.axes.items():
        taken = [v for v in axis.choices if any(p.settings[name] == v for p in on)]
        never = [v for v in axis.choices if v not in taken]
        if on and never and len(taken) <= max(len(never), 1):
            yield f"All points of the front have {name} = {_either(taken)}."
        elif on and never:
            yield f"No point of the front has {name} = {_either(never)}."
    for surface in found:
        yield from surface.sentences
    for name in space.objectives:
        if predicted := sum(p.values[name].predicted for p in on):
            yield f"On the front, {name} of {predicted} of {len(on)} points has no record and is predicted by a fitted model."


def _either(values: Sequence[Value]) -> str:
    """Return values as alternatives in a sentence, separated by semicolons if one contains a comma."""
    *words, last = map(str, values)
    comma, other = ("; ", "; or ") if any("," in word for word in (*words, last)) else (", ", " or ")
    return f"{comma.join(words)}{other}{last}" if words else last


def interval(value: ObjectiveFigure) -> str:
    """Return a value with its interval."""
    if value.value is None:
        return "not finite"
    text = f"{value.value:.3g}"
    if value.low is None or value.low == value.high:
        return text
    return f"{text} [{value.low:.3g}, {'∞' if value.high is None else f'{value.high:.3g}'}]"


def _as_link(text: str) -> str:
    """Return an address that holds a text."""
    return f"data:text/yaml;base64,{base64.b64encode(text.encode()).decode()}"


def counts(space: Space, points: Sequence[Point]) -> Iterator[tuple[str, int, str]]:
    """Yield each state with its number of points and an example of the reason."""
    for status in ("front", "dominated", "screened out", "breaks a bound", "not known", "no proposal", "failed"):
        some = [p for p in points if p.status == status]
        if some:
            yield status, len(some), f"{some[0].label}: {some[0].note}" if some[0].note else ""
    left = space.size - len(points)
    if left:
        kept = sum(1 for _ in space.points()) if space.size <= MOST_COUNTED else None
        if kept is None or kept > len(points):
            yield "not visited", (kept or space.size) - len(points), "the search spent its budget elsewhere"
        if kept is not None and kept < space.size:
            yield "excluded by where", space.size - kept, "; ".join(space.where)


def _method(space: Space, points: Sequence[Point]) -> Iterator[str]:
    """Yield sentences on how the points were evaluated."""
    yield (
        f"Sampled figures are computed by the bit-exact model on {space.rows} rows of A and {space.columns} columns of B for "
        f"each of {space.seeds} seeds over the full K, with the values and intervals that codesign evaluate gives for it. "
        "An objective has the worst figure of the GEMMs and tensor sources that it covers."
    )
    if space.screening:
        yield (
            f"All points were screened with {space.screen} seeds. Those that another point beats with its whole intervals, or "
            "that break a bound with their whole interval, got no more; the others got all seeds, the first ones included."
        )
    if space.size > space.budget.points and len(points) < space.size:
        yield (
            "Points were proposed by Gaussian processes and Optuna's multi-objective TPE, "
            f"{space.budget.generation} at a time, seed {space.budget.seed}, up to {space.budget.points} points: the front is "
            "that of the points visited."
        )
    if space.budget.synthesis:
        yield (
            f"Units of points on the front without a record were synthesised, {space.budget.synthesis} at most, and all points "
            f"judged again. Units that are predicted to be larger than {MOST_AREA} NAND2, and those off the front, were not."
        )
    sources: dict[str, list[str]] = {}
    for point in points:
        for name, value in point.values.items():
            origin = value.source.split(";")[0].split("(")[0].strip()
            origin = value.origin if origin.startswith("records ") else origin
            sources.setdefault(f"{name}: {value.kind}, {origin}", []).append(point.name)
    most = sorted(sources.items(), key=lambda found: -len(found[1]))[:12]
    yield "Origin of figures: " + "; ".join(f"{text} ({len(names)} points)" for text, names in most) + "."
    kinds = dict.fromkeys(kind_of(o.metric) for o in space.objectives.values())
    versions = ", ".join(f"{kind} {evaluator(kind)[:12]}" for kind in kinds)
    yield f"Evaluator, by the SHA-256 of its code and data: {versions}. table.csv names the source of every figure."
