"""The pages: generated parts are current, commands give what is shown, examples hold, links lead somewhere."""

import html
import json
import os
import re
import subprocess
import sys
import tomllib
from functools import partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml

from codesign.evidence.timing.network import measured
from codesign.workloads.tensor_file import metadata
from isa_model.diagnostics import parse_yaml
from isa_model.instruction import Instruction
from isa_model.library import load
from kernels.bench.records import FOLDER

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "pages"))

import console  # noqa: E402
import language  # noqa: E402
import reference  # noqa: E402

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")))


def name(page):
    return str(page.relative_to(ROOT))


# -- generated parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "part"), reference.GENERATED, ids=map("-".join, reference.GENERATED))
def test_generated_parts_are_current(page, part):
    """Each generated part of a page is what `python pages/reference.py` writes today."""
    text = (DOCS / f"{page}.md").read_text()
    assert f"<!-- {part}: begin -->\n{reference.GENERATED[page, part]()}\n<!-- {part}: end -->" in text


# -- the spec language -------------------------------------------------------------------------------------------------


def test_every_field_of_the_language_has_an_example():
    """A new field needs an example in pages/language.yaml, and no example shows a field that is gone."""
    known = language.Reference(Instruction)
    fields = {f"{model}.{field}" for model in language.PLACES for field in known.fields(model)}
    assert set(known.described()) == set(language.PLACES)
    assert {field for example in language.examples() for field in example["shows"]} == fields


def test_every_field_of_the_language_is_drawn_at_random_and_put_into_words():
    """A field that tests/strategies.py does not draw could be ignored by an engine; one that the manual page does not read is
    not shown."""
    drawn, told = ((ROOT / path).read_text() for path in ("tests/strategies.py", "codesign/proposal/manual.py"))
    known = language.Reference(Instruction)
    for model in set(language.PLACES) - {"Format"}:
        for field in known.fields(model):
            assert f'"{field}"' in drawn or field in ("description", "source", "checked", "known"), field
            assert f".{field}" in told or field == "onto", field  # the manual reads `scaled_stage`


@pytest.mark.parametrize("example", language.examples(), ids=lambda e: e["shows"][0])
def test_the_golden_model_gives_what_an_example_says(example):
    """D was worked out by hand, with the change and without it; the golden model gives the same codes."""
    changed = language.instruction(example.get("with", {}), example["change"])
    assert language.computed(example) == language.expected(changed.accumulator, example["d"])
    if "before" in example:
        before = language.instruction(example.get("with", {}))
        assert language.computed(example, with_change=False) == language.expected(before.accumulator, example["before"])


def snippets(page):
    """Yield the YAML blocks of a page that stand alone."""
    text = (DOCS / page).read_text().split("## Reference")[0]
    yield from (yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def test_the_instructions_of_the_language_page_are_the_catalogue_s():
    """Its two instructions of Hopper have the catalogue's shape and stages; the third is valid."""
    wgmma, mma, scaled = (Instruction.model_validate(spec) for spec in snippets("language.md"))
    for shown, real in (
        (wgmma, "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"),
        (mma, "hopper.mma.m16n8k32.f32.e4m3.e4m3.f32"),
    ):
        assert (shown.shape, shown.widen, list(shown.stages.values())) == (
            load(real).shape,
            load(real).widen,
            list(load(real).stages.values()),
        )
    assert scaled.scale


def test_the_first_proposal_of_its_page_is_valid(tmp_path):
    """The proposal that docs/proposals.md starts with can be evaluated as it stands."""
    from codesign import load as load_proposal

    (tmp_path / "p.yaml").write_text(yaml.safe_dump(next(snippets("proposals.md"))))
    assert load_proposal(tmp_path / "p.yaml").proposal == "more-bits"


# -- commands with output ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", console.PAGES)
def test_commands_give_what_their_page_shows(page, tmp_path):
    """Commands run in the order of the page. Evaluations take few samples, so that only their exit code is compared."""
    sampled = False
    for block in console.blocks((ROOT / page).read_text()):
        if block.file:
            (tmp_path / block.file).write_text(block.text)
            continue
        evaluates = "codesign evaluate" in block.command
        few = " --rows 4 --columns 4 --seeds 0" if evaluates else ""
        output, code = console.run(block.command + few, tmp_path)
        sampled |= evaluates
        if evaluates or (sampled and "codesign compare" in block.command):
            assert code in (0, 1), output
        else:
            assert output == block.output, "python pages/console.py writes it"
            assert code in (0, 1) or "codesign validate" in block.command


# -- figures in sentences ----------------------------------------------------------------------------------------------


def reported(proposal):
    """Return the text of a shipped report."""
    page = (ROOT / "reports" / f"{proposal}.html").read_text()
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def of_report(proposal, words):
    """Return the figure behind `words` on the first screen of a shipped report."""
    return re.search(rf"{words} ×([\d.]+)", reported(proposal))[1]


def sparse_rate(n):
    """Return elements of K per clock of wgmma.sp over wgmma's, from the record: twice the k in the time measured."""
    record = json.loads((FOLDER / "sparse_rates_h200.json").read_text())
    rates = record["rate: us of 16384 wgmmas in turn on every SM, zeros, dense and sparse"]
    name = f"wgmma.m64n{n}k32.f32.e4m3.e4m3"
    return f"{2 * rates[name][name] / rates[name][f'wgmma.sp.m64n{n}k64.f32.e4m3.e4m3']:.2f}"


def peak(model, tile):
    """Return the largest element over the root mean square of the tensor that a captured tile is from, by the file's header."""
    header = metadata(ROOT / "codesign" / "workloads" / "captured" / f"{model}.safetensors")
    return f"{json.loads(header['tiles'])[tile]['activation max/rms']:.0f}"


def link(quantity):
    """Return the start, the rate or the largest error (%) of the line through the measured exchanges between GPUs."""
    found = measured()
    values = {"start": found.start_us, "rate": found.rate / 1e3, "error": 100 * found.worst}
    return f"{values[quantity]:.0f}"


LINEARS, LAYER, AREA = "speedup of a layer's Linears", "speedup of a whole layer", "unit area over today's"
SENTENCES = (
    (
        "README.md",
        r"Linears of a DeepSeek-V3 layer get (\S+) times as fast",
        partial(of_report, "group-scaled-mma", LINEARS),
    ),
    ("README.md", r"the whole layer (\S+) times", partial(of_report, "group-scaled-mma", LAYER)),
    ("README.md", r"The unit has (\S+) times the area", partial(of_report, "group-scaled-mma", AREA)),
    ("README.md", r"`group-scaled-mma-ue8m0`\) it has (\S+) times", partial(of_report, "group-scaled-mma-ue8m0", AREA)),
    ("docs/timing.md", r"multiplies (\S+) times as many elements of K per clock", partial(sparse_rate, 256)),
    ("docs/timing.md", r"at n = 256, (\S+) times at n = 128", partial(sparse_rate, 128)),
    ("docs/timing.md", r"within one, (\S+) us and", partial(link, "start")),
    ("docs/timing.md", r"us and (\S+) GB/s, the line", partial(link, "rate")),
    ("docs/timing.md", r"on four H200s \((\S+) % off at worst", partial(link, "error")),
    ("proposals/sparse-2-4-fp8.yaml", r"rate: (\S+)", partial(sparse_rate, 256)),
    ("docs/tensors.md", r"has an element (\S+) times its root mean square", partial(peak, "mpnet-base", "down")),
    (
        "docs/tensors.md",
        r"(\S+) times the root mean square at the first weights",
        partial(peak, "proxy-10m", "down-start"),
    ),
    ("docs/tensors.md", r"(\S+) times after 2000 steps at 10M", partial(peak, "proxy-10m", "down-end")),
    ("docs/tensors.md", r"(\S+) times after 1550 steps at 118M", partial(peak, "proxy-100m", "down-end")),
)
"""Figures in sentences: the file, the sentence with the figure in a group, and its source."""


@pytest.mark.parametrize(("page", "sentence", "source"), SENTENCES)
def test_a_figure_in_a_sentence_is_its_source_s(page, sentence, source):
    """What a sentence says is what the shipped report or the record says, to the digits of the sentence."""
    text = re.sub(r"\s+", " ", (ROOT / page).read_text())
    assert re.search(sentence, text)[1] == source()


def test_the_readme_shows_the_verdicts_of_the_shipped_report():
    """Every interval, and the count of claims, of the README's evaluation are in the shipped report."""
    block = re.search(
        r"\$ codesign evaluate group-scaled-mma\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.DOTALL
    )
    shown = re.findall(r"[\d.e-]+ \[[\d.e-]+, [\d.e-]+\]|\d of \d claims hold", block[1])
    text = reported("group-scaled-mma")
    assert len(shown) >= 5
    assert [figure for figure in shown if figure not in text] == []


# -- links and the site ------------------------------------------------------------------------------------------------


def anchors(page):
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    """Every relative link and picture of a page is a file of the repository; every anchor is a heading there."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert found.is_relative_to(ROOT.resolve()), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_scripts_that_a_page_names_exist(page):
    """Every `python FOLDER/SCRIPT.py` and `python -m MODULE` of a page is a file of the repository."""
    named = re.findall(r"(?<![\w/])((?:benchmarks|checks|pages|tests)/[\w./-]+\.py)", page.read_text())
    assert [script for script in named if not (ROOT / script).exists()] == []
    modules = re.findall(r"python -m ((?:codesign|isa_model|kernels)[\w.]*\w)", page.read_text())
    assert [module for module in modules if not find_spec(module)] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_starts_with_what_it_is_for(page):
    """The first lines of a page say what its reader can do afterwards."""
    if page.name not in ("README.md", "reproduction.md"):
        assert re.search(r"^After th(is page|ese fifteen minutes),? ", page.read_text()[:400], re.MULTILINE)


def test_every_page_is_in_the_navigation():
    """zensical.toml names every page of docs/ once, README and CONTRIBUTING besides, and nothing else."""

    def named(node):
        if isinstance(node, str):
            return [node]
        return [page for inner in (node.values() if isinstance(node, dict) else node) for page in named(inner)]

    pages = named(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    notebooks = (f"{path.stem}.md" for path in DOCS.glob("*.ipynb"))
    assert sorted(pages) == sorted(
        ["index.md", "contributing.md", *notebooks, *(page.name for page in DOCS.glob("*.md"))]
    )


def test_the_readme_is_short_and_has_the_test_command_of_the_ci():
    """At most 150 lines; its test command is the first that .ci/run runs."""
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= 150
    command = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest -n 2"
    assert f"```sh\n{command}\n```" in text
    assert f"\n{command}\n" in (ROOT / ".ci" / "run").read_text()


def test_the_readme_shows_a_shipped_proposal():
    """The base and the change that the README shows are those of proposals/group-scaled-mma.yaml."""
    block = re.search(r"^```yaml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    shipped = yaml.safe_load((ROOT / "proposals" / "group-scaled-mma.yaml").read_text())
    assert yaml.safe_load(block[1]) == {key: shipped[key] for key in ("base", "change")}


def test_every_command_is_in_the_readme():
    """The README's table has a row for every command of the application."""
    from codesign.commands.app import app
    from codesign.commands.cli import register

    register()
    text = (ROOT / "README.md").read_text()
    for command in app.registered_commands:
        assert f"| `codesign {command.name or command.callback.__name__}" in text


@pytest.mark.skipif(not (find_spec("zensical") and find_spec("mkdocstrings")), reason="needs the extra `docs`")
def test_the_site_builds_strictly():
    """`python pages/site.py` finds no dead link, and the API page has the public names."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "pages" / "site.py")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    api = (ROOT / "build" / "site" / "api" / "index.html").read_text()
    for name in ("isa_model.matmul.matmul", "isa_model.quantise", "codesign.load", "kernels.gemm.gemm"):
        assert f'id="{name}"' in api


def test_links_fit_the_site():
    """Links to pages lead to them in the site, links to other files become paths, dead links stay to be found."""
    spec = spec_from_file_location("pages_site", ROOT / "pages" / "site.py")  # `site` is Python's own
    site = module_from_spec(spec)
    spec.loader.exec_module(site)
    assert site.fitted("[t](docs/tutorial.md#x)", "") == "[t](tutorial.md#x)"
    assert site.fitted("[how](../CONTRIBUTING.md)", "docs") == "[how](contributing.md)"
    assert site.fitted("[golden.py](../isa_model/golden.py)", "docs") == "`isa_model/golden.py`"
    assert site.fitted("[it](../isa_model/golden.py)", "docs", "https://x.org/r") == (
        "[it](https://x.org/r/blob/main/isa_model/golden.py)"
    )
    assert site.fitted("[n](docs/notebook.ipynb)", "") == "[n](notebook.md)"
    assert site.fitted("[it](gone.md) and `[a](b)`", "docs") == "[it](gone.md) and `[a](b)`"


def test_examples_of_the_language_can_be_pasted_into_a_file():
    """A file is read more strictly than Python data: every example passes, such as a table with a NaN."""
    for block in re.findall(r"```yaml\n(.*?)```", (DOCS / "language.md").read_text(), re.DOTALL):
        parse_yaml(block, "x.yaml")
