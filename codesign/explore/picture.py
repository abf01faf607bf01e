"""The picture of a space: interactive by Vega, whose code the page holds, and a static one that needs no script."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any

from codesign.explore.points import Point
from codesign.explore.space import Objective, Space
from codesign.figures.drawing import svg
from codesign.figures.figure import Plot, Series

GRID = 90
"""Cells of a side within which the static picture shows one point of the cloud."""
COLOURS = {"front": "#008a65", "dominated": "#0072b2", "screened out": "#7d8894", "breaks a bound": "#d55e00"}
"""Colours of the states of points, those of reports."""


def shown(space: Space, points: Sequence[Point]) -> list[Point]:
    """Return the points that have a finite value for every objective."""
    return [p for p in points if all((v := p.values.get(name)) and v.value is not None for name in space.objectives)]


def heading(name: str, objective: Objective) -> str:
    """Return an objective's name with its metric, and an arrow in the better direction."""
    metric = objective.about
    over = f" over {objective.relative_to}'s" if objective.relative_to else ""
    unit = f" ({metric.unit})" if metric.unit != "1" and not over else ""
    return f"{name}: {metric.short}{over}{unit} {'↑' if metric.better == 'higher' else '↓'}"


def pairs(space: Space) -> list[tuple[str, str]]:
    """Return the objectives of each plot, (horizontal, vertical): the first against each other one."""
    first, *rest = space.objectives
    return [(other, first) for other in rest] or [(next(iter(space.axes)), first)]


def _number(point: Point, name: str) -> float:
    found = point.values[name].value if name in point.values else point.settings[name]
    assert found is not None
    return float(found)


def _wide(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > 5 * min(values)


# -- static ----------------------------------------------------------------------------------------------------------


def static(space: Space, points: Sequence[Point]) -> list[str]:
    """Return a picture for each pair of objectives as SVG: the front, and the cloud thinned to what the eye can tell apart."""
    found, some = [], shown(space, points)
    for x, y in pairs(space):
        if x in space.axes and not space.axes[x].ordered:
            continue
        states: dict[str, list[tuple[float, float]]] = {}
        for p in some:
            states.setdefault("front" if p.status == "front" else "cloud", []).append((_number(p, x), _number(p, y)))
        logs = [_wide([q[i] for found in states.values() for q in found]) for i in (0, 1)]
        series = [
            Series(label="" if i else "dominated or out of bounds", variant="curve_points", x=(a,), y=(b,))
            for i, (a, b) in enumerate(_thinned(states.get("cloud", []), logs))
        ]
        on = sorted(states.get("front", []))
        series += [
            Series(label="" if i else "on the front", variant="proposal_points", x=(a,), y=(b,))
            for i, (a, b) in enumerate(on)
        ]
        if not series:
            continue
        names = [heading(n, space.objectives[n]) if n in space.objectives else n for n in (x, y)]
        about = {
            "name": f"{x}-{y}",
            "title": f"{y} against {x}",
            "caption": "",
            "x_label": names[0],
            "y_label": names[1],
        }
        scales: Any = {"x_scale": "log10" if logs[0] else "linear", "y_scale": "log10" if logs[1] else "linear"}
        found.append(svg(Plot(**about, **scales, series=tuple(series))))
    return found


def _thinned(points: Sequence[tuple[float, float]], logs: Sequence[bool]) -> list[tuple[float, float]]:
    """Return one point of each cell of a grid over all of them."""
    import numpy as np

    if not points:
        return []
    x = np.array(points)
    for i in (0, 1):
        x[:, i] = np.log(x[:, i]) if logs[i] else x[:, i]
    spread = np.where(np.ptp(x, axis=0) > 0, np.ptp(x, axis=0), 1.0)
    cells = np.floor((x - x.min(axis=0)) / spread * GRID).astype(int)
    _, first = np.unique(cells, axis=0, return_index=True)
    return [(float(f"{points[i][0]:.4g}"), float(f"{points[i][1]:.4g}")) for i in sorted(first)]


# -- interactive -----------------------------------------------------------------------------------------------------


def interactive(space: Space, points: Sequence[Point]) -> dict[str, Any]:
    """Return the Vega-Lite spec of all points: hover for values, drag to mark, menus to filter, click for the proposal."""
    some = shown(space, points)
    rows = [
        {
            "point": p.name,
            **p.settings,
            **{n: p.values[n].value for n in space.objectives},
            "state": p.status,
            "origin": ", ".join(f"{n} {p.values[n].origin}" for n in space.objectives),
        }
        for p in some
    ]
    menus: list[dict[str, Any]] = [
        {
            "name": f"only_{name}",
            "value": None,
            "bind": {
                "input": "select",
                "name": f"{name} ",
                "options": [None, *axis.choices],
                "labels": ["all", *map(str, axis.choices)],
            },
        }
        for name, axis in space.axes.items()
        if len(axis.choices) <= 40
    ]
    kept = (
        " && ".join(f"(only_{m} == null || datum.{m} == only_{m})" for m in (menu["name"][5:] for menu in menus))
        or "true"
    )

    def axis(name: str) -> dict[str, Any]:
        title = heading(name, space.objectives[name]) if name in space.objectives else name
        if name in space.axes and not space.axes[name].ordered:
            return {"field": name, "type": "nominal", "title": title}
        values = [_number(p, name) for p in some]
        low, high = (min(values), max(values)) if values else (0, 1)  # menus leave the axes as they are
        beside = 0 if low < high else abs(low) / 10 or 1  # without it the only tick of equal values is a rounded one
        scale = {"type": "log" if _wide(values) else "linear", "domain": [low - beside, high + beside], "nice": True}
        return {"field": name, "type": "quantitative", "title": title, "scale": scale}

    states = [s for s in COLOURS if any(p.status == s for p in some)]
    tooltip = [
        {"field": f, "type": "nominal" if f in ("point", "state", "origin") or f in space.axes else "quantitative"}
        for f in (rows[0] if rows else ())
    ]
    brushes = [f"brush_{i}" for i in range(len(pairs(space)))]
    marked = {"test": {"and": [{"param": name} for name in brushes]}, "value": 0.85}
    plots = [
        {
            "width": 430,
            "height": 340,
            "transform": [{"filter": kept}],
            "params": [{"name": brush, "select": "interval"}],
            "mark": {"type": "point", "filled": True, "cursor": "pointer"},
            "encoding": {
                "x": axis(x),
                "y": axis(y),
                "color": {
                    "field": "state",
                    "type": "nominal",
                    "scale": {"domain": states, "range": [COLOURS[s] for s in states]},
                },
                "size": {"condition": {"test": "datum.state == 'front'", "value": 70}, "value": 18},
                "opacity": {"condition": marked, "value": 0.1},
                "tooltip": tooltip,
            },
        }
        for brush, (x, y) in zip(brushes, pairs(space), strict=True)
    ]
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "data": {"values": rows},
        "params": menus,
        "hconcat": plots,
        "config": {"background": "white", "font": "system-ui, sans-serif", "legend": {"orient": "top", "title": None}},
    }


def script() -> str | None:
    """Return Vega, Vega-Lite and Vega-Embed for a page to unpack: gzip in base64; None without the extra `explore`."""
    try:
        import vl_convert
    except ImportError:
        return None
    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    return base64.b64encode(gzip.compress(bundle.encode(), 9, mtime=0)).decode()


def embedded(data: Any) -> str:
    """Return data as JSON that a script element can hold."""
    return json.dumps(data, separators=(",", ":"), sort_keys=False).replace("<", "\\u003c")
