"""Colours of pages and plots, for light and dark screens, as CSS variables.

Variants have the colours of Okabe and Ito, which colour-blind readers can tell apart, darkened until they stand out from
white; marks and dashes tell them apart in grey. A test computes every contrast (WCAG 2.2, AA).
"""

from __future__ import annotations

from pathlib import Path

PAGE = {
    "paper": ("#ffffff", "#12161c"),
    "band": ("#f6f8fa", "#1b2129"),
    "ink": ("#1b1f24", "#e6e9ee"),
    "soft": ("#57606a", "#a7b0ba"),
    "rule": ("#d0d7de", "#39424c"),
    "good": ("#1a7f37", "#56c877"),
    "bad": ("#b42318", "#ff8f80"),
    "open": ("#7a5c00", "#e3b341"),
    "link": ("#0550ae", "#79b8ff"),
}
"""Colours of text and lines: on white paper, on a dark screen."""
HEAT = {
    "better-1": ("#e6f2fb", "#16304a"),
    "better-2": ("#c3e0f5", "#1a4468"),
    "better-3": ("#97cbef", "#1f5a8a"),
    "worse-1": ("#fdefdd", "#3f2a12"),
    "worse-2": ("#fbd8ac", "#5c3d17"),
    "worse-3": ("#f5b871", "#7d521b"),
}
"""Backgrounds of cells, by how much better or worse than today's software they are."""
MARKS = {
    "today": ("#d55e00", "#f2853f"),
    "software": ("#0072b2", "#5cb3ee"),
    "proposal": ("#008a65", "#2cc99a"),
    "twin": ("#c05f97", "#e59ac6"),
    "exact": ("#5f5f5f", "#a3abb5"),
    "area": ("#332288", "#a99cf0"),
    "delay": ("#882255", "#e07fb0"),
    "energy": ("#8a6d00", "#d9b84a"),
    "curve": ("#6f6f6f", "#9aa3ad"),
    "family": ("#11748a", "#6fcbdc"),
    "shipped": ("#000000", "#ffffff"),
    "front": ("#8b8b8b", "#7d8894"),
    "blue": ("#0072b2", "#5cb3ee"),
    "sky": ("#2f8fc9", "#8fd0ff"),
    "navy": ("#003a66", "#4f86c2"),
    "vermilion": ("#d55e00", "#f2853f"),
    "orange": ("#b47a00", "#f0b64a"),
    "green": ("#008a65", "#2cc99a"),
    "pink": ("#c05f97", "#e59ac6"),
    "grey": ("#7d7d7d", "#9aa3ad"),
    "black": ("#222222", "#dddddd"),
}
"""Colours of lines, marks and bars, by variant or by name."""
RULES = Path(__file__).with_name("plot.css")


def colour_of(variant: str) -> str:
    """Return the name of a variant's colour; `..._points` have that of their line. Raises KeyError for an unknown one."""
    name = variant.removesuffix("_points")
    if name not in MARKS and name not in PAGE:
        raise KeyError(name)
    return name


def variables(dark: bool) -> str:
    """Return the declarations of all colours for light paper or a dark screen."""
    return "".join(f"--{name}:{pair[dark]};" for name, pair in {**PAGE, **HEAT, **MARKS}.items())


def themes() -> str:
    """Return the CSS of both themes: the screen's own unless `data-theme` of the page names one; paper is always light."""
    light, dark = variables(dark=False), variables(dark=True)
    return (
        f":root{{color-scheme:light;{light}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}"
        f"@media screen{{:root[data-theme=dark]{{color-scheme:dark;{dark}}}}}"
    )


def plot_rules() -> str:
    """Return the CSS rules of plots."""
    return RULES.read_text(encoding="utf-8")


def standalone(svg: str) -> str:
    """Return a plot of a page as a file of its own, with its colours."""
    used = {name: pair for name, pair in {**PAGE, **MARKS}.items() if name in PAGE or f"var(--{name})" in svg}
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in used.items()) for i in (0, 1))
    style = (
        f"<style>svg{{{light}background:var(--paper)}}"
        f"@media (prefers-color-scheme:dark){{svg{{{dark}}}}}{plot_rules()}</style>"
    )
    head, _, body = svg.partition(">")
    return f"{head}>{style}{body}"
