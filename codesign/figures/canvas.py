"""The elements of a plot as SVG: text, lines and marks, in units of CSS pixels.

Colours are CSS variables (palette.py), so that one plot serves light and dark screens. Text has one size, stands upright, and
says more under the pointer (`<title>`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import hypot

from codesign.figures.palette import colour_of
from isa_model.printable import visible

WIDTH = 460.0
"""Width of every plot. On a phone its text is 9 px high, in two columns of a page 14 px."""
EM = 12.0
"""Size of all text."""
LINE = 15.0
"""Height of a line of text."""
DASHES = {
    "software": "6 3",
    "exact": "1.5 3",
    "twin": "7 2 1.5 2",
    "delay": "6 3",
    "energy": "7 2 1.5 2",
    "curve": "1.5 3",
}
"""Dashes of lines by variant; others are solid."""
SHAPES = {
    "today": "circle",
    "software": "square",
    "proposal": "diamond",
    "twin": "triangle",
    "shipped": "diamond",
    "energy_points": "triangle",
    "curve_points": "wedge",
    "good": "circle",
    "bad": "wedge",
    "open": "square",
}
"""Shapes of marks by variant; others are small circles."""
UNMARKED = {"exact", "front"}
"""Variants whose lines have no marks."""
NARROW, WIDE = set("fijlrtI.,:;|!'()[] /-"), set("mwMW@%—")

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


def text_width(text: str) -> float:
    """Return the width of a text, an estimate on the wide side."""
    return EM * sum(0.36 if c in NARROW else 0.95 if c in WIDE else 0.62 for c in text)


def wrapped(text: str, width: float) -> list[str]:
    """Return the lines of a text broken at spaces to fit a width; a word that is too long is cut."""
    lines = [""]
    for word in text.split():
        while text_width(word) > width and len(word) > 1:
            kept = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or text_width(word[:n] + "…") <= width)
            word = word[:kept] + "…"
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _n(x: float) -> str:
    return f"{x:.1f}".removesuffix(".0").replace("-0", "-0") if abs(x) >= 0.05 else "0"


class Canvas:
    """An SVG element under construction."""

    def __init__(self, height: float, title: str) -> None:
        self.height = height
        self.title = title
        self.parts: list[str] = []

    def text(self, x: float, y: float, text: str, anchor: str = "start", soft: bool = False) -> Box:
        """Write a line of text with its baseline at y. Returns the place that it takes."""
        about = f' text-anchor="{anchor}"' if anchor != "start" else ""
        about += ' class="soft"' if soft else ""
        self.parts.append(f'<text x="{_n(x)}" y="{_n(y)}"{about}>{_safe(text)}</text>')
        width = text_width(text)
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        return (left, y - EM * 0.8, left + width, y + EM * 0.25)

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """Draw a straight line in a style of plot.css."""
        self.parts.append(f'<path class="{style}" d="M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}"/>')

    def box(self, x1: float, y1: float, x2: float, y2: float, style: str, about: str = "") -> None:
        """Fill a rectangle in a style of plot.css; `about` is shown under the pointer."""
        size = f'width="{_n(max(x2 - x1, 0.0))}" height="{_n(y2 - y1)}"'
        self._element("rect", f'class="{style}" x="{_n(x1)}" y="{_n(y1)}" {size}', about)

    def curve(self, points: Sequence[tuple[float, float]], variant: str) -> None:
        """Draw a line through points."""
        if len(points) > 1:
            dash = f' stroke-dasharray="{DASHES[variant]}"' if variant in DASHES else ""
            path = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
            self.parts.append(f'<path class="line"{dash} d="M{path}"/>')

    def mark(self, x: float, y: float, variant: str, about: str = "", size: float = 4.5, hollow: bool = False) -> None:
        """Draw a variant's mark; `about` is shown under the pointer."""
        style = f'class="{"hollow" if hollow or variant == "shipped" else "mark"}"'
        shape = SHAPES.get(variant) or SHAPES.get(variant.removesuffix("_points"), "dot")
        if shape in ("circle", "dot"):
            radius = size if shape == "circle" else size * 0.65
            self._element("circle", f'{style} cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"', about)
            return
        a = size * 0.9
        corners = {
            "square": [(-a, -a), (a, -a), (a, a), (-a, a)],
            "diamond": [(0, -size * 1.25), (size * 1.25, 0), (0, size * 1.25), (-size * 1.25, 0)],
            "triangle": [(0, -size), (size, a), (-size, a)],
            "wedge": [(0, size), (size, -a), (-size, -a)],
        }[shape]
        path = "L".join(f"{_n(x + dx)} {_n(y + dy)}" for dx, dy in corners)
        self._element("path", f'{style} d="M{path}Z"', about)

    def arrow(self, x: float, y: float, right: bool) -> None:
        """Draw the head of an arrow that says: the value lies beyond this end of the axis."""
        step = 6.0 if right else -6.0
        self.parts.append(
            f'<path class="mark" d="M{_n(x - step)} {_n(y - 5)}L{_n(x)} {_n(y)}L{_n(x - step)} {_n(y + 5)}Z"/>'
        )

    def begin(self, variant: str) -> None:
        """Begin a group of elements in a variant's colour."""
        self.parts.append(f'<g style="--c:var(--{colour_of(variant)})">')

    def end(self) -> None:
        """End a group."""
        self.parts.append("</g>")

    def legend(self, entries: Iterable[tuple[str, str, str]], right: float = WIDTH) -> float:
        """Write (label, variant, kind) from the top left, in as many lines as needed. Returns the height taken.

        The kind is `line`, `mark`, or `part` of a bar.
        """
        x, y = 2.0, 12.0
        for label, variant, kind in entries:
            width = 26 + text_width(label) + 12
            if x > 2 and x + width > right:
                x, y = 2.0, y + LINE + 2
            self.begin(variant)
            if kind == "part":
                self.box(x + 4, y - 9, x + 18, y + 1, "part")
            else:
                if kind == "line":
                    self.curve([(x, y - 4), (x + 22, y - 4)], variant)
                if kind == "mark" or variant not in UNMARKED:
                    self.mark(x + 11, y - 4, variant, size=3.6)
            self.end()
            self.text(x + 26, y, label)
            x += width
        return y + 8

    def svg(self) -> str:
        """Return the SVG element."""
        about = f'viewBox="0 0 {_n(WIDTH)} {_n(self.height)}" role="img" aria-label="{_safe(self.title)}"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" {about}>{"".join(self.parts)}</svg>\n'

    def _element(self, tag: str, attributes: str, about: str) -> None:
        end = f"><title>{_safe(about)}</title></{tag}>" if about else "/>"
        self.parts.append(f"<{tag} {attributes}{end}")


def _safe(text: str) -> str:
    return escape(visible(" ".join(text.split())))


# -- names of points -------------------------------------------------------------------------------------------------

RINGS = (8.0, 15.0, 24.0, 36.0, 50.0, 66.0, 84.0)
"""Distances of a name from its point that are tried."""
DIRECTIONS = ((1, 0), (-1, 0), (1, -1), (-1, -1), (1, 1), (-1, 1), (0, -1), (0, 1))


def place_names(
    canvas: Canvas, names: Sequence[tuple[float, float, str]], frame: Box, taken: Sequence[Box] = ()
) -> None:
    """Write each name beside its point (x, y, name), within the frame and off the boxes taken.

    Names of the same point are written as one. A moved name is joined to its point by a thin line. A name without a free
    place is left out: the pointer shows it.
    """
    grouped: dict[tuple[float, float], list[str]] = {}
    for x, y, name in names:
        grouped.setdefault((x, y), []).append(name)
    full = [*taken, *((x - 5, y - 5, x + 5, y + 5) for x, y in grouped)]
    for (x, y), own in grouped.items():
        text = ", ".join(own)
        width = text_width(text)
        for distance, (right, down) in ((d, way) for d in RINGS for way in DIRECTIONS):
            step = distance / hypot(right, down)
            left = x + right * step - {1: 0.0, 0: width / 2, -1: width}[right]
            middle = y + down * step
            box = (left, middle - EM * 0.5, left + width, middle + EM * 0.5)
            if _inside(box, frame) and not any(_overlap(box, other) for other in full):
                if distance > RINGS[0]:
                    end = left if right == 1 else left + width if right == -1 else left + width / 2
                    canvas.line(x, y, end, middle, "lead")
                canvas.text(left, middle + EM * 0.35, text)
                full.append(box)
                break


def _inside(box: Box, frame: Box) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
