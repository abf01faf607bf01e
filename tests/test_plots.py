"""Plots without a browser: nothing leaves the axes, all text has one size and stands upright, colours have contrast."""

import re
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.evidence.numerics.curves import plots
from codesign.evidence.sampling import Sampling
from codesign.figures.axis import spanning
from codesign.figures.canvas import WIDTH, text_width, wrapped
from codesign.figures.drawing import svg
from codesign.figures.figure import Plot, Series
from codesign.figures.palette import HEAT, MARKS, standalone
from codesign.figures.strips import Mark, Strip, StripPlot, strips
from codesign.proposal.load import load_proposal
from codesign.proposal.shipped import proposal_file
from codesign.report.write import style

VALUES = st.one_of(st.none(), st.just(0.0), st.floats(1e-12, 1e12), st.floats(-1e6, 1e6))
ABOUT = {"name": "p", "title": "t", "caption": "c", "x_label": "x", "y_label": "y"}


def places(drawn):
    """Every x and y of paths, rectangles, circles and texts, and the height of the plot."""
    height = float(re.search(r'viewBox="0 0 \S+ (\S+)"', drawn)[1])
    pairs = [pair for path in re.findall(r' d="([^"]*)"', drawn) for pair in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]
    pairs += re.findall(r'<(?:text|rect)[^>]* x="([^"]+)" y="([^"]+)"', drawn)
    pairs += re.findall(r'cx="([^"]+)" cy="([^"]+)"', drawn)
    return [(float(x), float(y)) for x, y in pairs], height


def lies_within(drawn):
    found, height = places(drawn)
    assert found
    assert all(-0.1 <= x <= WIDTH + 0.1 and -0.1 <= y <= height + 0.1 for x, y in found)


@given(
    st.lists(st.lists(VALUES, min_size=1, max_size=6), min_size=1, max_size=3),
    st.sampled_from(["linear", "log10"]),
    st.sampled_from(["linear", "log2", "log10"]),
    st.booleans(),
)
def test_nothing_that_is_drawn_leaves_the_plot(lines, y_scale, x_scale, steps):
    """Whatever the values: lines, marks, ticks and names lie within the picture."""
    series = tuple(
        Series(
            label=f"s{i}",
            variant="proposal",
            x=tuple(2.0**n for n in range(len(y))),
            y=tuple(y),
            labels=("name",) * len(y),
        )
        for i, y in enumerate(lines)
    )
    lies_within(svg(Plot(series=series, y_scale=y_scale, x_scale=x_scale, steps=steps, **ABOUT)))


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_no_interval_leaves_its_axis(pairs, log, joined):
    """Values beyond the axis, infinite ones among them, are arrows at its end."""
    marks = [
        Mark("proposal", inf if a is None else a, *(sorted((a, b)) if None not in (a, b) else (None, None)))
        for a, b in pairs
    ]
    rows = tuple(Strip("a name " * 20, "1 [0, 2]", (mark,), bar=(0.5, 2.0)) for mark in marks)
    lies_within(
        strips(
            StripPlot(
                "t", rows, "axis", log=log, lines=((1.0, "bound", ""),), wrong=(1.0, None), most=8.0, joined=joined
            )
        )
    )


@pytest.mark.parametrize(
    ("parts", "shown"), [((60.0, 65.352), "125"), ((60.0, 39.433), "99.4"), ((20000.0, 414.4), "20,414")]
)
def test_a_stacked_bar_shows_three_digits_and_whole_units(parts, shown):
    """More digits of a percentage say nothing; of thousands of microseconds the last one is kept."""
    series = [Series(label=str(x), variant="blue", x=(0.0,), y=(x,)) for x in parts]
    drawn = svg(Plot(series=tuple(series), categories=("a",), stacked=True, **ABOUT))
    assert f">{shown}</text>" in drawn


@pytest.mark.parametrize("stacked", [True, False])
def test_bars_lie_within_the_plot(stacked):
    """Long names are broken, parts are as long as their values, and sums stand at the end."""
    series = tuple(
        Series(label=f"part {i}", variant="blue", x=(0, 1), y=(30.0, 10.0 * i), labels=("30%", "x")) for i in range(3)
    )
    drawn = svg(Plot(series=series, categories=("today's software " * 6, "b"), stacked=stacked, **ABOUT))
    lies_within(drawn)
    assert (">90</text>" in drawn) == stacked
    widths = [float(w) for w in re.findall(r'<rect class="part"[^>]* width="([^"]+)" height="16"', drawn)]
    assert widths[0] == pytest.approx(widths[2 if not stacked else 1], rel=0.01)


def test_text_has_one_size_and_stands_upright():
    """No element of a plot sets a size or turns anything; the one size is that of the style sheet."""
    row = Strip("name", "value", (Mark("good", 1.0, 0.5, 2.0),))
    plots = [strips(StripPlot("t", (row,), "axis", log=True))]
    plots.append(
        svg(Plot(series=(Series(label="s", variant="today", x=(1, 2), y=(1e-3, 1e3), labels=("a", "b")),), **ABOUT))
    )
    for drawn in plots:
        assert "font" not in drawn
        assert "transform" not in drawn
        assert "rotate" not in drawn
        assert standalone(drawn).count("font:12px") == 1


def test_names_of_points_do_not_lie_on_one_another():
    """Twenty points in a corner: the names that are written are apart; the others are under the pointer."""
    series = Series(
        label="",
        variant="proposal_points",
        x=tuple(1 + i / 100 for i in range(20)),
        y=(1.0,) * 20,
        labels=tuple(f"a-name-{i}" for i in range(20)),
    )
    far = Series(label="far", variant="today", x=(9.0,), y=(9.0,))
    drawn = svg(Plot(series=(series, far), y_scale="linear", **ABOUT))
    found = [(float(x), float(y), t) for x, y, t in re.findall(r'<text x="([^"]+)" y="([^"]+)">(a-name-\d+)<', drawn)]
    assert len(found) > 4
    for i, (x, y, name) in enumerate(found):
        for other_x, other_y, other in found[i + 1 :]:
            assert x + text_width(name) <= other_x or other_x + text_width(other) <= x or abs(y - other_y) >= 12
    assert all(f"<title>a-name-{i}: " in drawn for i in range(20))


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=5), st.booleans())
def test_an_axis_writes_values_that_lie_on_it(values, log):
    """Ticks are round, within the axis, at most a dozen, and rise."""
    axis = spanning(values, 0.0, 100.0, log)
    ticks = [value for value, _ in axis.ticks()]
    assert 1 <= len(ticks) <= 12
    assert ticks == sorted(ticks)
    assert all(axis.low * (1 - 1e-6) <= t <= axis.high * (1 + 1e-6) for t in ticks)
    assert all(0.0 <= axis.place(v) <= 100.0 for v in values)


def test_long_texts_are_broken_and_long_words_cut():
    """No line is wider than asked."""
    lines = wrapped("a sentence of several words and an" + "extremely" * 20 + "long one", 120)
    assert len(lines) > 2
    assert all(text_width(line) <= 120 for line in lines)
    assert "…" in "".join(lines)


# -- colours ---------------------------------------------------------------------------------------------------------


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def themes():
    """The colours of the page's style sheet, light and dark."""
    blocks = re.findall(r"color-scheme:(light|dark);([^}]*)", style())
    return {name: dict(re.findall(r"--([\w-]+):(#[0-9a-f]{6})", text)) for name, text in blocks}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_keep_wcag_aa(theme):
    """Text has a contrast of 4.5 to everything it stands on, marks of plots 3 to the paper (WCAG 2.2, 1.4.3, 1.4.11)."""
    colours = themes()[theme]
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    for text in ("ink", "soft", "good", "bad", "open", "link"):
        assert min(contrast(colours[text], colours[ground]) for ground in ("paper", "band")) >= 4.5, text
    for ground in HEAT:
        assert contrast(colours["ink"], colours[ground]) >= 4.5, ground
    for mark in (*MARKS, "good", "bad", "open"):
        assert min(contrast(colours[mark], colours[ground]) for ground in ("paper", "band")) >= 3, mark


def test_both_ways_to_a_dark_page_give_the_same_colours():
    """The screen's own theme and the button's; print is always light."""
    dark = [text for name, text in re.findall(r"color-scheme:(light|dark);([^}]*)", style()) if name == "dark"]
    assert len(dark) == 2
    assert dark[0] == dark[1]
    assert all("screen" in rule for rule in re.findall(r"@media ([^{]*)\{:root[^{]*\{color-scheme:dark", style()))


def test_total_errors_stand_beside_accumulation_errors():
    """Plots of accumulation errors name the total errors that hide them, and the share of outputs without any error."""
    few = Sampling(rows=4, columns=4, seeds=(0, 1))
    found = {p.name: p.caption for p in plots(load_proposal(proposal_file("batch-invariant-split-k")), few)}
    for name in ("growth-normal", "growth-outliers"):
        assert re.search(
            r"Total error, quantisation included, at K = 16384: 0\.\d+ \(today's instruction alone\)", found[name]
        )
    assert "left out: 100 % with proposal, 100 % with exact accumulator." in found["histogram"]
    bits = next(p for p in plots(load_proposal(proposal_file("group-scaled-mma")), few) if p.name == "fraction-bits")
    assert "Total error, quantisation included, at K = 4096: " in bits.caption
    assert "proposal" in bits.caption.split("at K = 4096: ")[1]
