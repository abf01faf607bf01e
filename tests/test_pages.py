"""Pages as a browser shows them: quiet, alone, and readable on a phone. Skipped where no Chromium is installed."""

import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from codesign.evidence.sampling import Sampling
from codesign.proposal.load import load_proposal
from codesign.report import comparison
from codesign.report import write as report
from codesign.verdicts.compare import compare
from codesign.verdicts.evaluate import evaluate

ROOT = Path(__file__).parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE = 390

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
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"]["value"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.process.kill()
    browser.process.wait()


def evaluated(name):
    """The result of a shipped proposal on few samples."""
    few = Sampling(rows=4, columns=4, seeds=tuple(range(8)))
    return evaluate(load_proposal(ROOT / f"proposals/{name}.yaml"), few)


@pytest.fixture(scope="module", params=["group-scaled-mma", "fused-tma-cast", "blackwell-nvf4", "compare"])
def page(request, tmp_path_factory):
    """The page of a shipped proposal, or of two compared."""
    folder = tmp_path_factory.mktemp(request.param) / "page"
    if request.param == "compare":
        names = ("higher-precision-accumulation", "group-scaled-mma-ue8m0")
        return comparison.write(compare([evaluated(name) for name in names]), folder)
    return report.write(evaluated(request.param), folder)


def test_a_page_says_nothing_to_the_console_and_asks_nobody(browser, page):
    """No error, warning or exception while it loads, and no request but for the page itself."""
    events = browser.open(page, 1280)
    told = [
        e
        for e in events
        if e.get("method") in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    ]
    assert told == []
    asked = [e["params"]["request"]["url"] for e in events if e.get("method") == "Network.requestWillBeSent"]
    assert asked == [page.as_uri()]


def test_a_page_fits_a_phone(browser, page):
    """Nothing reaches beyond the screen's width but what scrolls by itself, and no letter of a plot is under 6 px."""
    browser.open(page, PHONE)
    assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE
    sizes = browser.evaluate(
        "[...document.querySelectorAll('svg text')].map(t => { const s = t.ownerSVGElement;"
        " return parseFloat(getComputedStyle(t).fontSize) * s.getBoundingClientRect().width / s.viewBox.baseVal.width })"
    )
    assert sizes
    assert min(sizes) > 6


def test_names_in_a_comparison_do_not_lie_on_one_another(browser, tmp_path):
    """Nine proposals of nearly the same error and cost: their names are all there, apart, and within the picture."""
    from codesign.verdicts.compare import ComparedProposal, Comparison

    def entry(i):
        values = {"numerics.total_error": 0.04 + 1e-4 * (i % 3), "cost.area_ratio": 1.5 + 0.01 * (i // 3)}
        return ComparedProposal(
            proposal=f"a-rather-long-name-{i}",
            title="t",
            headline="h",
            values=values,
            low={},
            high={},
            kinds=dict.fromkeys(values, "computed"),
        )

    far = entry(0).model_copy(
        update={"proposal": "far", "values": {"numerics.total_error": 0.06, "cost.area_ratio": 3.0}}
    )
    axes = ("numerics.total_error", "cost.area_ratio")
    made = Comparison(entries=(*map(entry, range(9)), far), axes=axes, judged=axes, covered=())
    browser.open(comparison.write(made, tmp_path / "page"), 1280)
    boxes = browser.evaluate(
        "[...document.querySelectorAll('svg text')].map(t => { const r = t.getBoundingClientRect();"
        " return [t.textContent, r.left, r.right, r.top, r.bottom] })"
    )
    frame = browser.evaluate("(r => [r.left, r.right])(document.querySelector('svg').getBoundingClientRect())")
    names = [b for b in boxes if b[0].startswith(("a-rather", "far"))]
    assert len(names) == 10
    for _, left, right, _, _ in names:
        assert frame[0] <= left < right <= frame[1]
    for (a, l1, r1, t1, b1), (b, l2, r2, t2, b2) in itertools.combinations(names, 2):
        # A line's box is higher than its letters: a fifth of it may overlap.
        apart = r1 <= l2 or r2 <= l1 or min(b1, b2) - max(t1, t2) < 0.2 * (b1 - t1)
        assert apart, (a, b)
