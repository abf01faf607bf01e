"""A new kind of evidence is one folder and one entry in KINDS."""

import io
import re
import sys
from contextlib import contextmanager
from html import unescape

import pytest
from rich.console import Console

import codesign.evidence
from codesign.commands.result_text import show
from codesign.evidence.sampling import Sampling
from codesign.evidence.source import sources
from codesign.figures import metric
from codesign.proposal.load import parse_proposal
from codesign.report import page
from codesign.report.comparison import show as show_comparison
from codesign.report.write import contents
from codesign.verdicts.compare import compare
from codesign.verdicts.evaluate import Result, evaluate
from isa_model.diagnostics import parse_yaml

METRICS = """
from codesign.figures.metric import Axis, Metric

METRICS = (
    Metric("heat.kelvin", "warming", "kelvin by which a chip warms up", ("software", "proposal"), unit="K",
           absent="nobody held a thermometer", axis=Axis(judged=True)),
)
"""
SOURCE = """
from codesign.evidence.source import Source
from codesign.figures.evidence import Column, Evidence, Section, Table
from codesign.figures.figure import Figure


class Heat(Source):
    doing = "warming up"

    def gather(self, subject):
        def figure(variant, value):
            about = {"workload": "", "tensors": "", "kind": "assumed", "source": "a guess"}
            return Figure(metric="heat.kelvin", variant=variant, value=value, low=value, high=value, **about)

        columns = (Column(heading="kelvin of warming", metric="heat.kelvin"), Column(heading="kind", form="kind"))
        table = Table(rows=("variant",), headings=("whose heat",), columns=columns, note="By touch.")
        return Evidence(
            source="heat",
            figures=(figure("software", 30.0), figure("proposal", 12.0 + len(subject.proposal.proposal))),
            finding=("The chip stays cool.",),
            sections=(Section(title="How warm it gets", tables=(table,)),),
            method=("Somebody laid a hand on it.",),
        )


SOURCE = Heat()
"""
PROPOSAL = """proposal: NAME
title: Toy
source: the tests
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change:
  stages:
    fuse: {fraction_bits: 20}
workloads: [deepseek-v3.fprop.kv-b]
tensors: [normal]
claims:
  - {metric: heat.kelvin, at_most: 20}
  - {metric: heat.kelvin, relative_to: software, at_most: 0.1}
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two proposals evaluated with a source of a kind that is in no file of the project."""
    home = tmp_path_factory.mktemp("evidence")
    (home / "heat").mkdir()
    (home / "heat" / "__init__.py").write_text("")
    (home / "heat" / "metrics.py").write_text(METRICS)
    (home / "heat" / "source.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codesign.evidence, "__path__", [*codesign.evidence.__path__, str(home)])
        patch.setattr(metric, "KINDS", (*metric.KINDS, "heat"))
        made = [parse_proposal(parse_yaml(PROPOSAL.replace("NAME", name), "toy.yaml")) for name in ("toy", "other")]
        yield [evaluate(proposal, Sampling(rows=2, columns=2, seeds=(0,))) for proposal in made]
    for name in [name for name in sys.modules if name.startswith("codesign.evidence.heat")]:
        del sys.modules[name]


@contextmanager
def terminal():
    written = io.StringIO()
    yield Console(file=written, width=300), written


def test_a_new_kind_of_evidence_is_gathered_and_judged(results):
    """Its figures are evidence, and decide claims on its metric, alone and relative to another variant."""
    result = results[0]
    (heat,) = [e for e in result.evidence if e.source == "heat"]
    assert [f.value for f in heat.figures] == [30.0, 15.0]
    first, second = result.verdicts
    assert (first.judgement, first.deciding.value) == ("supported", 15.0)
    assert (second.judgement, second.deciding.value) == ("refuted", 0.5)
    assert "The chip stays cool." in result.finding
    assert list(sources())[-1] == "heat"


def test_a_new_kind_of_evidence_is_in_every_report(results):
    """Section, table, tag and method are in HTML and Markdown; the verdict and the finding are on the terminal, too."""
    files = contents(results[0])
    for name in ("report.html", "report.md"):
        for text in ("How warm it gets", "whose heat", "kelvin of warming", "By touch.", "Somebody laid a hand on it."):
            assert text in files[name], (name, text)
        assert "assumed" in files[name][files[name].index("How warm it gets") :][:600]
    with terminal() as (console, written):
        show(results[0], console, tables=True)
    assert "heat.kelvin at most 20" in written.getvalue()
    assert "The chip stays cool." in written.getvalue()
    assert "How warm it gets" in written.getvalue()
    assert contents(Result.model_validate_json(files["result.json"])) == files


def test_a_new_kind_of_evidence_is_compared(results):
    """Its axis has a column, and the front is judged on it."""
    made = compare(results)
    assert "heat.kelvin" in made.axes
    assert {e.proposal: e.values["heat.kelvin"] for e in made.entries[:2]} == {"toy": 15.0, "other": 17.0}
    with terminal() as (console, written):
        show_comparison(made, console)
    assert "warming" in written.getvalue()


def test_html_and_markdown_show_the_same_parts(results):
    """Every part, table, picture, listing and tag of the page is in both, in the same order."""
    result = results[0]
    files = contents(result)
    parts = list(page.parts(result))
    html = unescape(files["report.html"])
    titles = [p.title for p in parts]
    for found in (re.findall(r"<h2[^>]*>(.*?)</h2>", html), re.findall(r"^## (.*)$", files["report.md"], re.M)):
        assert [title for title in found if title in titles] == titles  # claims and advice come before
    tables = [t for p in parts for t in p.tables]
    assert files["report.html"].count("<table") == len(tables)
    assert len(re.findall(r"^\|[-:|]+\|$", files["report.md"], re.M)) == len(tables) + 1  # verdicts are a table there
    assert sum(len(t.rows) for t in tables) == files["report.html"].count("<tr") - len(tables)
    for table in tables:
        tags = "".join(f'<span class="tag">{kind}</span> ' for kind in table.kinds)
        assert tags
        assert f'<p class="note">{tags}' in files["report.html"]
        after = " " if table.note else "\n"
        assert f"\n({', '.join(table.kinds)}){after}" in files["report.md"]
    pictures = [x for p in parts for x in p.pictures]
    assert len(pictures) + 2 == files["report.html"].count("<figure>") > 5  # gain against cost, and claims
    for picture in pictures:
        assert f"]({picture.name}.svg)\n\n({', '.join(picture.kinds)}) " in files["report.md"]
    for listing in (x for p in parts for x in p.listings if x.title):
        assert f"<h3>{listing.title}</h3>" in html
        assert f"### {listing.title}\n" in files["report.md"]


def test_each_kind_of_evidence_has_metrics_of_its_own():
    """Every kind in KINDS has a source and metrics, and no two share a metric."""
    assert list(sources()) == list(metric.KINDS)
    named = [metric.kind_of(name) for name in metric.metrics()]
    assert list(dict.fromkeys(named)) == list(metric.KINDS)
    for source in sources().values():
        assert source.doing
