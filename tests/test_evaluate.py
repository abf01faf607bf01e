"""Evidence, results and reports, on samples small enough to check by other means."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from codesign.evidence.numerics.metrics import METRICS as NUMERICS
from codesign.evidence.numerics.source import BESIDE
from codesign.evidence.numerics.trial import Trial
from codesign.evidence.sampling import Sampling
from codesign.evidence.source import sources
from codesign.figures.drawing import svg
from codesign.figures.escape import literal
from codesign.figures.estimates import norm
from codesign.figures.figure import Kind, Plot, Series
from codesign.proposal.load import load_proposal, parse_proposal
from codesign.proposal.proposal import Quantisation
from codesign.proposal.quantisation import cast_of
from codesign.proposal.variants import LABELS, labels
from codesign.report import page as report_page
from codesign.report import write as report
from codesign.report.pictures import in_words
from codesign.report.tables import number
from codesign.verdicts.evaluate import Result, evaluate, spec_sha256
from codesign.workloads.gemms import gemms
from codesign.workloads.tensors import SOURCES, draw
from isa_model import InputError, load, promoted
from isa_model.diagnostics import parse_yaml
from isa_model.output_files import write_folder

ROOT = Path(__file__).parent.parent
SMALL = """proposal: small
title: A small <evaluation> & its report
source: the tests
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change:
  stages:
    fuse: {fraction_bits: 25, result: {format: fp32, rounding: nearest-even}}
sweep: {field: stages.fuse.fraction_bits, values: [13, 25]}
software: {group: null}
workloads: [deepseek-v3.fprop.kv-b, deepseek-v3.dgrad.qkv-a]
tensors: [normal]
claims:
  - {metric: numerics.relative_frobenius, at_most: 1.0e-5}
  - {metric: numerics.relative_frobenius, at_most: 1.0e-9}
  - {metric: numerics.relative_frobenius, relative_to: today, at_most: 0.1, at: 25}
  - {metric: training.loss_gap, at_most: 0.1}
"""
SAMPLING = Sampling(rows=8, columns=5, seeds=tuple(range(3, 11)))


def numerics(result):
    return next(e for e in result.evidence if e.source == "numerics")


@pytest.fixture(scope="module")
def result():
    return evaluate(parse_proposal(parse_yaml(SMALL, "small.yaml")), SAMPLING)


def test_every_metric_of_every_variant_gemm_and_value_is_there(result):
    """Two GEMMs, one source, four variants and two swept values give a figure per metric, each with its interval; of the other
    baselines there are the errors."""
    figures = numerics(result).figures
    keys = {(f.metric, f.workload, f.variant, f.at) for f in figures}
    assert len(keys) == len(figures) == len(NUMERICS) * 2 * (4 + 2) + len(BESIDE) * 2 * 3
    for f in figures:
        assert f.kind == "computed"
        assert f.low <= f.value <= f.high


def test_verdicts_follow_the_figures(result):
    """The claim at 1e-5 holds, the one at 1e-9 is refuted, the relative one holds, one without a record stays undetermined."""
    assert [v.judgement for v in result.verdicts] == ["supported", "refuted", "supported", "undetermined"]
    assert result.headline == "2 of 4 claims hold, 1 is refuted, 1 is undetermined."


def test_figures_equal_a_direct_computation(result):
    """The relative Frobenius figure of today's instruction is what plain float64 arithmetic on the same trials gives, corrected
    by how far their products exceed the mean square of normal ones, K."""
    spec, errors, norms, excess = load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3"), [], [], []
    for seed in SAMPLING.seeds:
        trial = Trial(gemms()["deepseek-v3.fprop.kv-b"], "normal", seed, 8, 5, Quantisation())
        a, b = trial.operands(spec)
        (x,), (y,) = (of.values * of.factor[:, :, None] for of in (a, b))
        exact = x @ y.T  # 50 bits: exact in float64, but for the factors
        (d,) = trial.outcome(spec).d
        original = trial.a.x[0].astype("f8") @ trial.b.x[0].astype("f8").T
        errors.append(((d - exact) ** 2).sum())
        norms.append((exact**2).sum())
        excess.append((original**2).mean() / trial.gemm.k - 1)
    (figure,) = [
        f
        for f in result.figures
        if (f.metric, f.workload, f.variant) == ("numerics.relative_frobenius", "deepseek-v3.fprop.kv-b", "today")
    ]
    assert figure.value == pytest.approx(norm(np.array(errors), np.array(norms), np.array(excess)).value, rel=1e-5)


def test_the_same_seed_gives_the_same_result(result):
    """Evaluating twice gives the same figures and plots, whatever the processes did first."""
    again = evaluate(result.proposal, SAMPLING)
    assert again.evidence == result.evidence


def test_a_result_survives_its_json(result):
    """result.json read again is the result, and carries its schema version."""
    text = result.model_dump_json()
    assert json.loads(text)["schema_version"] == 5
    assert Result.model_validate_json(text) == result


def test_quantisation_follows_the_instruction_and_the_role():
    """Weights get 128x128 blocks where the hardware's groups allow, activations 1x128, both 1x128 in wgrad, else one scale."""
    spec = load_proposal(ROOT / "proposals/group-scaled-mma.yaml").proposed()
    fprop, wgrad = gemms()["deepseek-v3.fprop.kv-b"], gemms()["deepseek-v3.wgrad.kv-b"]
    blocks = Quantisation(weight_columns=128)

    def groups(gemm, instruction, rule=blocks):
        side = instruction.scale
        return (
            cast_of(rule, instruction.a, gemm.a, side and side.a, 1).group,
            cast_of(rule, instruction.b, gemm.b, side and side.b, 0).group,
        )

    assert groups(fprop, spec) == ((1, 128), (128, 128))
    assert groups(wgrad, spec) == ((1, 128), (128, 1))
    assert groups(fprop, spec, Quantisation()) == ((1, 128), (128, 1))
    assert groups(fprop, load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3")) == (None, None)


def test_a_tensor_scale_gives_a_narrow_scale_format_tensors_of_any_size():
    """UE4M3 scales end at 2^-9: without a tensor scale captured gradients fall among E4M3's subnormals, with it not."""
    spec = load_proposal(ROOT / "proposals/group-scaled-mma-ue4m3.yaml").proposed()

    def error(rule):
        trial = Trial(gemms()["smollm2-135m.dgrad.down"], "captured", 0, 16, 16, rule)
        outcome = trial.outcome(spec)
        return np.linalg.norm(outcome.exact - outcome.original) / np.linalg.norm(outcome.original)

    without, with_it = Quantisation(weight_columns=1), Quantisation(weight_columns=1, tensor_scale=True)
    assert error(with_it) < 0.05 < error(without)


@pytest.mark.parametrize("base", ["mxf8f6f4.block32.f32.e4m3.e4m3.ue8m0", "mxf8f6f4.block32.f32.e5m2.e2m3.ue8m0"])
def test_a_tensor_scale_changes_nothing_where_scales_have_the_range_of_fp32(base):
    """The largest group is not scaled up to 2^127 times the largest element, which would overflow."""
    spec = load(f"blackwell.tcgen05.m128n128k32.kind::{base}")
    gemm = gemms()["deepseek-v3.fprop.kv-b"]
    plain, scaled = (
        Trial(gemm, "outliers", 0, 2, 2, Quantisation(tensor_scale=on)).outcome(spec) for on in (False, True)
    )
    assert np.isfinite(scaled.d).all()
    assert np.array_equal(scaled.d, plain.d)


def test_a_wide_base_needs_no_scale():
    """BF16 operands are taken as they are: no quantisation error at all."""
    spec = load("hopper.wgmma.m64n256k16.f32.bf16.bf16")
    trial = Trial(gemms()["deepseek-v3.fprop.kv-b"], "outliers", 0, 3, 4, Quantisation())
    outcome = trial.outcome(promoted(spec, 128))
    assert np.array_equal(outcome.exact, outcome.original)


@pytest.mark.parametrize("source", [name for name, source in SOURCES.items() if source.tensors])
@pytest.mark.parametrize("role", ["activation", "weight", "gradient"])
def test_tensor_sources_draw_bf16_numbers_reproducibly(source, role):
    """Every source and role gives finite BF16 numbers of the shape asked, the same for the same seed."""
    x, y = (draw(source, np.random.default_rng(1), (20, 30), role) for _ in range(2))
    assert x.shape == (20, 30)
    assert np.array_equal(x, y)
    assert np.isfinite(x).all()
    assert (x.view(np.uint32) & 0xFFFF == 0).all()


# -- reports ---------------------------------------------------------------------------------------------------------


def test_a_report_has_all_its_files_and_needs_no_network(result, tmp_path):
    """HTML, Markdown, JSON and plots; the page is self-contained and escapes what authors write."""
    page = report.write(result, tmp_path / "r")
    names = {p.name for p in (tmp_path / "r").iterdir()}
    claims = [f"claim-{i}.svg" for i, v in enumerate(result.verdicts, 1) if v.bars]
    assert len(claims) == 3
    plots = [f"{p.name}.svg" for e in result.evidence for p in e.plots] + ["claims.svg", "gain-and-cost.svg"]
    assert names == {"result.json", "report.md", "report.html", "SHA256SUMS", *plots, *claims}
    html = page.read_text()
    assert html.count("<script") == 1
    for address in re.findall(r"(?:src|href)=\"([^\"]*)\"", html):
        assert address.startswith("#"), address
    assert not re.findall(r"url\((?!#)", html)
    assert "A small &lt;evaluation&gt; &amp; its report" in html
    assert html.count("<svg") == len(plots) + len(claims)  # it moves today's bytes: no plot of them
    markdown = (page.parent / "report.md").read_text()
    for verdict in result.verdicts:
        assert in_words(verdict) in html
        assert literal(in_words(verdict)) in markdown


def test_a_report_is_the_same_every_time(result):
    """The same result gives the same bytes."""
    assert report.contents(result) == report.contents(result)


def test_a_report_replaces_an_old_one_and_nothing_else(result, tmp_path):
    """An old report is replaced as a whole; a folder that is no report is left alone; nothing temporary stays."""
    folder = tmp_path / "r"
    write_folder(folder, {"result.json": "{}", "old.svg": "old"}, "a report")
    report.write(result, folder)
    assert not (folder / "old.svg").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="is not a report"):
        report.write(result, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "r"]


def test_a_failure_while_writing_leaves_the_old_report_whole(result, tmp_path, monkeypatch):
    """If a plot cannot be drawn, the old report is still there, every byte of it."""
    folder = tmp_path / "r"
    report.write(result, folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "svg", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report.write(result, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_progress_is_told_by_one_source_at_a_time():
    """Sources that gather at once do not call `phase` at once, which would break a bar on a terminal."""
    busy, clashes = threading.Lock(), []

    def phase(*_):
        if not busy.acquire(blocking=False):
            clashes.append(1)
            return
        time.sleep(0.1)
        busy.release()

    evaluate(parse_proposal(parse_yaml(SMALL, "small.yaml")), Sampling(rows=2, columns=2, seeds=(0,)), phase)
    assert clashes == []


@pytest.mark.parametrize("long_run", ["train", "model"])
def test_a_run_of_minutes_starts_after_the_samples(monkeypatch, long_run):
    """An error of the pool ends an evaluation before a training run or a language model starts."""
    ran = []

    def refuse(self, subject):
        time.sleep(0.5)
        raise InputError.of("a tensor is not finite", "finite numbers")

    monkeypatch.setattr(type(sources()["numerics"]), "gather", refuse)
    for kind in ("training", "model"):
        monkeypatch.setattr(type(sources()[kind]), "gather", lambda self, subject: ran.append(self))
    with pytest.raises(InputError, match="not finite"):
        evaluate(parse_proposal(parse_yaml(SMALL, "small.yaml")), SAMPLING, **{long_run: True})
    assert ran == []


def _children(process):
    """Return the number of processes that any thread of a process has started."""
    count = 0
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            count += len(path.read_text().split())
    return count


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child there")
@pytest.mark.parametrize("seconds", [0, 0.3, 2])
def test_ctrl_c_ends_an_evaluation_without_a_trace(tmp_path, seconds):
    """Ctrl-C, pressed three times while workers start or compute: one line, exit code 130, nothing written, no worker left."""
    command = [
        sys.executable,
        "-m",
        "codesign",
        "evaluate",
        str(ROOT / "proposals/group-scaled-mma.yaml"),
        "--out",
        str(tmp_path / "r"),
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group, as a terminal's, with its workers
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # ignored where tests run behind `&`
    )
    while process.poll() is None and Path("/proc").exists() and _children(process.pid) < 2:
        time.sleep(0.01)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=seconds or 0.01)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.03)
    out, err = process.communicate(timeout=60)  # to the end of the pipes, which workers hold, too
    assert (process.returncode, out, err) == (130, "", "codesign: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_what_is_the_same_by_construction_is_shown_as_one():
    """A proposal that changes nothing has two rows, its own and the exact accumulator's; one that changes has all; a place
    that costs bytes and no bits leaves software and proposal one, while claims can still name both."""

    def shown(name):
        return labels(load_proposal(ROOT / f"proposals/{name}.yaml"))

    assert list(shown("blackwell-nvf4")) == ["proposal", "exact"]
    assert shown("blackwell-nvf4")["proposal"] == "proposal = today's instruction alone = today's software"
    assert shown("group-scaled-mma") == LABELS
    assert shown("fused-tma-cast") == LABELS  # wgrad's activation is cast from BF16, in software from FP8
    assert shown("warp-level-cast") == {
        **{k: v for k, v in LABELS.items() if k != "software"},
        "proposal": "proposal = today's software",
    }
    text = SMALL.replace("change:", "").replace(
        "  stages:\n    fuse: {fraction_bits: 25, result: {format: fp32, rounding: nearest-even}}\n", ""
    )
    text = text.replace("sweep: {field: stages.fuse.fraction_bits, values: [13, 25]}\nsoftware: {group: null}\n", "")
    text = text.replace(
        "hopper.wgmma.m64n256k32.f32.e4m3.e4m3",
        "blackwell.tcgen05.m128n128k32.kind::mxf8f6f4.block32.f32.e4m3.e4m3.ue8m0",
    )
    found = evaluate(
        parse_proposal(parse_yaml(text.replace(", at: 25", ""), "p.yaml")), Sampling(rows=2, columns=2, seeds=(0,))
    )
    table = next(report_page.parts(found)).tables[0]
    assert table.headings == ("quantity", *labels(found.proposal).values())
    assert len(table.headings) == 3
    figures = numerics(found).figures
    assert {f.variant for f in figures} == {*LABELS, "ocp-mx"}
    assert all(len(p.series) == 2 for p in numerics(found).plots)
    own, software = ([f.value for f in figures if f.variant == v] for v in ("proposal", "software"))
    assert own == software


def test_exact_zeros_have_a_place_on_a_logarithmic_axis():
    """They are drawn on a marked line under everything else, and the caption says so; a plot of zeros alone says that."""
    about = {"name": "p", "title": "t", "caption": "Errors.", "x_label": "x", "y_label": "y"}

    def plot(*y):
        return Plot(series=(Series(label="proposal", variant="proposal", x=tuple(range(len(y))), y=y),), **about)

    assert plot(3e-5, 2e-7).floor is None
    assert plot(3e-5, 2e-7).full_caption == "Errors."
    some = plot(3e-5, 0.0, 2e-7)
    assert some.floor == 1e-8
    assert "exactly zero" in some.full_caption
    assert ">0</text>" in svg(some)
    assert plot(0.0, None).floor is None
    assert "All of them are exactly zero" in plot(0.0, None).full_caption
    assert ">0</text>" in svg(plot(0.0, 0.0))


def test_every_figure_of_a_report_is_tagged(result):
    """Each picture's caption, each verdict and each section of figures says computed, measured, modelled or assumed."""
    html = report.contents(result)["report.html"]
    html = html[html.index("<body>") :]
    kinds = "|".join(get_args(Kind))
    captions = re.findall(r"<figcaption>(.{60})", html)
    assert len(captions) == html.count("<figure>") > 5
    assert all(re.match(rf'<span class="tag">({kinds})</span>', c) for c in captions)
    decided = [v for v in result.verdicts if v.deciding]
    assert len(re.findall(rf'<small><span class="tag">({kinds})</span>', html)) == len(decided)
    for section in (
        "Claims",
        "Accuracy",
        "Accuracy at a glance",
        "What the verdicts depend on",
        "Accuracy, every GEMM",
    ):
        text = html[html.index(f">{section}</h2>") :]
        assert re.search(rf'class="tag">({kinds})<', text[: text.index("<h2", 4)]), section


def test_numbers_are_printed_with_three_digits():
    """Figures read the same everywhere."""
    assert [number(x) for x in (0.0, 1.23456, 0.000123456, None)] == ["0", "1.23", "1.23e-04", "not finite"]
    assert number(31.4159, "dB") == "31.4 dB"


def test_shipped_pages_are_of_the_shipped_proposals():
    """Each page in the repository is of exactly its proposal's present spec and has a line in the index; all under 6 MB."""
    folder = ROOT / "reports"
    index = (folder / "README.md").read_text()
    pages = [p for p in folder.glob("*.html") if p.stem != "index" and not p.stem.startswith("compare-")]
    assert len(pages) >= 4
    for page in pages:
        proposal = load_proposal(ROOT / "proposals" / f"{page.stem}.yaml")
        assert spec_sha256(proposal, proposal.proposed()) in page.read_text(), page.stem
        assert f"({page.name})" in index
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 6e6
