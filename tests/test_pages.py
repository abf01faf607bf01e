"""Pages as a browser shows them: quiet, alone, readable on a phone, a desk and paper. Skipped where there is no Chromium."""

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from toy_space import TEXT, points_of

from codesign.evidence.sampling import Sampling
from codesign.explore import page as exploration
from codesign.explore import picture
from codesign.proposal.load import load_proposal
from codesign.report import comparison
from codesign.report import write as report
from codesign.verdicts.compare import compare
from codesign.verdicts.evaluate import evaluate

ROOT = Path(__file__).parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE = 360
CUT = "[...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth).map(s => s.textContent)"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")


class Browser:
    """A headless Chromium at the other end of two pipes, and what it told without being asked."""

    def __init__(self, profile):
        (theirs, self.to), (self.back, ours) = os.pipe(), os.pipe()
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        # Chromium reads from descriptor 3 and writes to 4.
        plumbing = f'exec {CHROMIUM} "$@" 3<&{theirs} 4>&{ours}'
        command = ["bash", "-c", plumbing, "chromium", *options, "about:blank"]
        self.process = subprocess.Popen(command, pass_fds=(theirs, ours), **quiet)
        os.close(theirs)
        os.close(ours)
        self.numbers, self.buffer, self.events, self.session = itertools.count(1), b"", [], None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **params):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while (answer := self.read()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def read(self):
        while b"\0" not in self.buffer:
            part = os.read(self.back, 1 << 16)
            assert part, "Chromium went away"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def open(self, page, width):
        """Show a page, and return the events until it had loaded."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=2, mobile=True)
        self.events = []
        self.ask("Page.navigate", url=page.as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self.read())
        return self.events

    def evaluate(self, script):
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.process.kill()
    browser.process.wait()


def result_of(name):
    """The result of a shipped proposal on few samples."""
    few = Sampling(rows=4, columns=4, seeds=tuple(range(8)))
    return evaluate(load_proposal(ROOT / f"proposals/{name}.yaml"), few)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of a changed instruction (the longest report) and of a changed path, and the two compared."""
    results = [result_of(name) for name in ("group-scaled-mma-ue8m0", "fused-tma-cast")]
    folder = tmp_path_factory.mktemp("pages")
    made = [report.write(result, folder / result.proposal.proposal) for result in results]
    return [*made, comparison.write(compare(results), folder / "compared")]


def test_a_page_says_nothing_to_the_console_and_asks_nobody(browser, pages):
    """No error, warning or exception while it loads, and no request but for the page itself."""
    for page in pages:
        events = browser.open(page, 1400)
        quiet = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        assert [e for e in events if e.get("method") in quiet] == []
        asked = [e["params"]["request"]["url"] for e in events if e.get("method") == "Network.requestWillBeSent"]
        assert asked == [page.as_uri()]


def test_every_table_and_picture_of_a_report_has_a_caption(pages):
    """More than the kinds of its figures."""
    for page in pages[:2]:
        markdown = (page.parent / "report.md").read_text()
        assert "computed" in markdown
        assert re.findall(r"^\([a-z, ]+\) ?$", markdown, re.M) == []


def test_a_page_fits_a_phone(browser, pages):
    """Nothing reaches beyond the screen's width, tables included, and no letter of a plot is under 8 px."""
    for page in pages:
        browser.open(page, PHONE)
        browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE
        assert browser.evaluate(CUT) == []
        sizes = browser.evaluate(
            "[...document.querySelectorAll('svg text')].map(t => { const s = t.ownerSVGElement;"
            " return parseFloat(getComputedStyle(t).fontSize) * s.getBoundingClientRect().width / s.viewBox.baseVal.width })"
        )
        assert sizes
        assert min(sizes) > 8


@pytest.mark.parametrize("width", [1100, 1400])
def test_no_table_is_cut_on_a_desk(browser, pages, width):
    """Every table, those of long lists opened, is as wide as its place or narrower."""
    for page in pages:
        browser.open(page, width)
        browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert browser.evaluate(CUT) == []


def test_a_page_of_a_space_fits_a_phone(browser, tmp_path, monkeypatch):
    """Its tables, those of break-even included, are cards there: neither the page nor a table scrolls sideways."""
    monkeypatch.setattr(picture, "script", lambda: None)
    bound = "relative_frobenius, at_most: 2.0e-5}"
    made, base, points = points_of(tmp_path, TEXT.replace("relative_frobenius}", bound).replace("[13, 24]", "[13, 30]"))
    drawn = tmp_path / "page.html"
    drawn.write_text(exploration.page(made, base, points))
    browser.open(drawn, PHONE)
    assert browser.evaluate("document.querySelectorAll('#break-even ~ .scroll table').length") > 1
    assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE
    assert browser.evaluate(CUT) == []


def test_each_cell_of_a_phones_table_names_its_column(browser, pages):
    """A row is a card there, and the heading of the table is hidden: each cell begins with its own."""
    browser.open(pages[0], PHONE)
    found = browser.evaluate("""[...document.querySelectorAll('table')].map(t => {
      const cell = t.tBodies[0].rows[0].cells[1];
      return [t.tHead.rows[0].cells[1].textContent, getComputedStyle(cell, '::before').content] })""")
    assert len(found) > 3
    for heading, shown in found:
        assert json.loads(shown) == heading


def test_texts_of_a_plot_do_not_lie_on_one_another(browser, pages):
    """Legends, ticks and names of points are apart; a line's box is higher than its letters, so a fifth may overlap."""
    script = """[...document.querySelectorAll('svg')].flatMap(s => {
      const texts = [...s.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
      return texts.flatMap(([a, p], i) => texts.slice(i + 1).filter(([b, q]) =>
        p.right > q.left + 1 && q.right > p.left + 1 &&
        Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 0.2 * p.height
      ).map(([b]) => [s.getAttribute('aria-label'), a, b]));
    })"""
    for page in pages:
        browser.open(page, 1400)
        assert browser.evaluate(script) == []


def test_plots_of_all_sections_are_equally_wide(browser, pages):
    """One that is alone in its section, too, so that letters have one size."""
    for page in pages:
        browser.open(page, 1400)
        widths = "[...document.querySelectorAll('.plots svg')].map(s => Math.round(s.getBoundingClientRect().width))"
        assert len(set(browser.evaluate(widths))) == 1


def test_a_number_of_a_comparison_is_not_broken(browser, pages):
    """A narrow cell breaks at spaces, and not after the e of an exponent."""
    script = r"""[...document.querySelectorAll('td.interval')].flatMap(cell => {
      const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), broken = [];
      for (let node; (node = walk.nextNode());) for (const found of node.data.matchAll(/\S+/g)) {
        const range = document.createRange();
        range.setStart(node, found.index);
        range.setEnd(node, found.index + found[0].length);
        if (range.getClientRects().length > 1) broken.push(found[0]);
      }
      return broken })"""
    browser.open(pages[2], 1400)
    assert "e-" in browser.evaluate("[...document.querySelectorAll('td.interval')].map(c => c.textContent).join()")
    browser.evaluate(
        "document.querySelectorAll('table').forEach(t => { t.style.width = '22rem'; t.style.minWidth = 0 })"
    )
    assert browser.evaluate(script) == []


@pytest.mark.parametrize("sheet", [(8.27, 11.69), (8.5, 11)], ids=["A4", "Letter"])
def test_a_page_prints_on_eight_sheets(browser, pages, sheet):
    """With what is folded left out."""
    for page in pages:
        browser.open(page, 1400)
        printed = base64.b64decode(browser.ask("Page.printToPDF", paperWidth=sheet[0], paperHeight=sheet[1])["data"])
        assert 1 <= len(re.findall(rb"/Type\s*/Page[^s]", printed)) <= 8


def test_a_table_is_sorted_by_the_heading_that_is_pressed(browser, pages):
    """Numbers by size, and the other way at the next press; names of joined rows stay with their rows."""
    browser.open(pages[0], 1400)
    column = """[...[...document.querySelectorAll('table')].find(t => t.textContent.includes('total error, normal'))
      .querySelectorAll('tbody tr')].map(r => Number(r.cells[1].textContent))"""
    press = """[...document.querySelectorAll('th button')].find(b => b.textContent == 'total error, normal').click()"""
    browser.evaluate(press)
    found = [x for x in browser.evaluate(column) if x]
    assert found == sorted(found)
    browser.evaluate(press)
    assert [x for x in browser.evaluate(column) if x] == found[::-1]


def test_the_button_turns_a_page_dark_and_light(browser, pages):
    """Ink and paper change places, and back."""
    browser.open(pages[0], 1400)
    paper = "getComputedStyle(document.body).backgroundColor"
    press = "[...document.querySelectorAll('nav button')].find(b => b.textContent == 'dark / light').click()"
    before = browser.evaluate(paper)
    browser.evaluate(press)
    assert browser.evaluate(paper) != before
    browser.evaluate(press)
    assert browser.evaluate(paper) == before


def test_the_button_of_a_listing_copies_or_selects_it(browser, pages):
    """Where the clipboard is closed to the page, the listing is selected, without the button's own text."""
    browser.open(pages[0], 1400)
    text = browser.evaluate("document.querySelector('pre').lastChild.textContent")
    assert text.startswith("name: ")
    browser.evaluate("navigator.clipboard.writeText = () => Promise.reject()")
    browser.evaluate("document.querySelector('pre button').click()")
    script = "new Promise(r => setTimeout(() => r(getSelection().toString()), 100))"
    found = browser.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)["result"]["value"]
    assert found.strip() == text.strip()
    assert browser.evaluate("document.querySelector('pre button').textContent") == "selected"
    browser.evaluate("navigator.clipboard.writeText = text => { window.copied = text; return Promise.resolve() }")
    browser.evaluate("document.querySelector('pre button').click()")
    assert browser.evaluate("window.copied") == text


def test_a_page_needs_no_script(browser, pages):
    """Without JavaScript the text is the same; only the buttons are missing."""
    text = "[...document.querySelectorAll('h2, td, li, figcaption')].map(e => e.textContent).join()"
    browser.open(pages[0], 1400)
    assert browser.evaluate("document.querySelectorAll('button').length") > 10
    with_script = browser.evaluate(text)
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages[0], 1400)
        assert browser.evaluate("document.querySelectorAll('button').length") == 0
        assert browser.evaluate(text) == with_script
    finally:
        browser.ask("Emulation.setScriptExecutionDisabled", value=False)
