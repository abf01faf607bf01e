"""Break-even: the cheapest value of an axis that keeps a bound, by GEMM and by the values of another axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from codesign.explore.points import Point
from codesign.explore.space import Space
from codesign.proposal.parts import Value
from codesign.verdicts.break_even import cheapest
from codesign.verdicts.readings import keeps
from codesign.workloads.gemms import select
from isa_model.diagnostics import InputError

MOST_COLUMNS = 8
"""Most values of the other axis."""


@dataclass(frozen=True)
class Surface:
    """The break-even of one axis for one objective."""

    objective: str
    axis: str
    other: str
    """Axis of the columns; empty: none."""
    columns: tuple[Value, ...]
    least: bool
    """True if larger values meet the bound, so that the least one is shown; false for the largest."""
    settings: str
    """At which settings of the other axes the bound is kept, as a part of a sentence; empty: there are none."""
    rows: tuple[tuple[str, str, int | None, tuple[Value | None, ...]], ...]
    """GEMM, tensor source, K if known, and for each column the break-even at all values of the remaining axes."""

    @property
    def headings(self) -> list[str]:
        """Headings of the columns of a table of `rows`."""
        return ["GEMM, tensors", "K", *(f"{self.other} = {c}" if self.other else self.axis for c in self.columns)]

    @property
    def sentences(self) -> Iterator[str]:
        """The break-even over K for each tensor source, such as `17 up to K = 4096, 19 at K = 8192 and above`.

        There is none unless every column has one.
        """
        for tensors in dict.fromkeys(row[1] for row in self.rows):
            found = {
                (k, None if None in c else (max if self.least else min)(_filled(c), default=None))
                for _, t, k, c in self.rows
                if k and t == tensors
            }
            by_k = sorted((k, value) for k, value in found if value is not None)
            if not by_k or len(by_k) < len(found) or len({k for k, _ in by_k}) < len(by_k):
                continue
            runs = [(value, [k for k, _ in run]) for value, run in groupby(by_k, key=lambda found: found[1])]
            parts = [f"{value:g} up to K = {ks[-1]}" for value, ks in runs[:-1]]
            value, ks = runs[-1]
            parts.append(
                f"{value:g} at K = {ks[0]}" + (" and above" if parts else f" to {ks[-1]}" if len(ks) > 1 else "")
            )
            word = "least" if self.least else "largest"
            where = f" on {tensors} data" if tensors else ""
            yield f"The {word} {self.axis} that keeps {self.objective} in bounds{where}{self.settings}: {', '.join(parts)}."


def _filled(cells: Sequence[Value | None]) -> list[float]:
    return [c for c in cells if c is not None and not isinstance(c, str)]


def surfaces(space: Space, points: Sequence[Point]) -> Iterator[Surface]:
    """Yield the break-even of each axis of numbers for each objective with a bound that some values keep and some do not."""
    numbers = [name for name, axis in space.axes.items() if axis.ordered and len(axis.choices) > 1]
    for objective, about in space.objectives.items():
        if about.at_most is None and about.at_least is None:
            continue
        for axis in numbers:
            others = sorted((n for n in space.axes if n != axis), key=lambda n: len(space.axes[n].choices))
            other = next((n for n in reversed(others) if 1 < len(space.axes[n].choices) <= MOST_COLUMNS), "")
            found = _surface(space, points, objective, axis, other)
            if found and any(cell is not None for *_, cells in found.rows for cell in cells):
                yield found


def _surface(space: Space, points: Sequence[Point], objective: str, axis: str, other: str) -> Surface | None:
    about, columns = space.objectives[objective], space.axes[other].choices if other else ("",)
    values = sorted(space.axes[axis].choices, key=lambda v: float(v))
    kept: dict[tuple[tuple[str, str], Value, Value], list[bool]] = {}
    """Whether each setting of the remaining axes meets the bound, by row, column and value."""
    for point in points:
        column = point.settings[other] if other else ""
        for figure in point.figures.get(objective, ()):
            holds = keeps(about, figure.reading(about.about))
            kept.setdefault(((figure.gemm, figure.tensors), column, point.settings[axis]), []).append(holds)
    all_kept = {key for key, found in kept.items() if all(found)}
    if not all_kept or len(all_kept) == len(kept):
        return None
    where = list(dict.fromkeys(key[0] for key in kept))
    holding, failing = ([float(k[2]) for k in kept if (k in all_kept) == good] for good in (True, False))
    least = sum(holding) / len(holding) >= sum(failing) / len(failing)
    order = values if least else values[::-1]
    found = []
    for place in where:
        cells = tuple(
            cheapest(tried, [v for v in tried if (place, c, v) in all_kept])
            for c in columns
            for tried in [[v for v in order if (place, c, v) in kept]]
        )
        found.append((*place, _k_of(place[0]), cells))
    found.sort(key=lambda row: (row[1], row[2] or 0, row[0]))
    settings = " at every setting of the other axes" if len(space.axes) > 1 else ""
    return Surface(objective, axis, other, columns, least, settings, tuple(found))


def _k_of(name: str) -> int | None:
    """Return the K of a GEMM by its name; None for one of a file of tensors, or for no GEMM."""
    try:
        (gemm,) = select(name)
    except (InputError, ValueError):
        return None
    return gemm.k
