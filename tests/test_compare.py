"""Break-even and sensitivity of verdicts by the model; reports rebuilt from their result; proposals side by side."""

import json
import re

import pytest

from codesign.__main__ import run
from codesign.evidence.numerics.curves import with_bits
from codesign.evidence.numerics.source import SOURCE, multiplying
from codesign.evidence.sampling import Sampling
from codesign.figures.figure import Figure
from codesign.proposal.load import parse_proposal
from codesign.report import write as report
from codesign.report.lookup import result_of
from codesign.verdicts.claims import claimed
from codesign.verdicts.compare import compare
from codesign.verdicts.evaluate import evaluate
from codesign.verdicts.questions import answer
from codesign.verdicts.read_result import read_result
from isa_model import InputError
from isa_model.diagnostics import parse_yaml

SAMPLING = Sampling(rows=8, columns=8, seeds=tuple(range(8)))
BITS = """proposal: bits
title: More bits
source: the tests
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change:
  stages:
    fuse: {fraction_bits: 20, result: {format: fp32, rounding: toward-zero}}
software: {group: null}
workloads: [deepseek-v3.fprop.kv-b]
tensors: [normal]
claims:
  - {metric: numerics.relative_frobenius, relative_to: software, at_most: 1.0}
"""
LOG = """proposal: log
title: LogFMT
source: the tests
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
path:
  operands: [activation]
  steps: [{at: dispatch, logfmt: 8}]
software: {path: [{at: dispatch, to: e4m3, scale: ue8m0}]}
workloads: [deepseek-v3.fprop.kv-b, deepseek-v3.fprop.q-b]
tensors: [normal]
claims:
  - {metric: cast.relative_error, relative_to: software, at_most: 1.0}
  - {metric: traffic.network_bytes, relative_to: software, at_most: 1.1}
  - {metric: traffic.sm_share, at_most: 0}
"""


@pytest.fixture(scope="module")
def results():
    return [evaluate(parse_proposal(parse_yaml(text, "p.yaml")), SAMPLING) for text in (BITS, LOG)]


def figure(value, low=None, high=None, variant="proposal", workload="deepseek-v3.fprop.o", **more):
    about = {"metric": "numerics.relative_frobenius", "tensors": "normal", "kind": "computed", "source": "test"}
    ends = {"low": value if low is None else low, "high": value if high is None else high}
    return Figure(variant=variant, workload=workload, value=value, **about, **ends, **more)


# -- verdicts --------------------------------------------------------------------------------------------------------


def test_break_even_is_the_least_number_of_bits_that_keeps_the_claim(results):
    """At the value found the claim holds where it was decided, at one bit less it does not."""
    bits, _ = results
    (found,) = bits.verdicts[0].break_even
    assert found.parameter == "stages.fuse.fraction_bits"
    assert (found.own, bits.verdicts[0].judgement) == (20, "supported")
    assert 13 < found.limit < 20
    proposal, claim = bits.proposal, bits.proposal.claims[0]
    for value, kept in ((found.limit, True), (found.limit - 1, False)):
        instruction = with_bits(proposal.proposed(), "fuse", value)
        question = SOURCE.again(proposal, claim, figure(1.0, workload="deepseek-v3.fprop.kv-b"))
        ((figures,),) = answer(SAMPLING, multiplying(question, instruction))
        assert (claimed(claim, figures).figure.high <= 1.0) == kept


def test_verdicts_on_numerics_and_casts_have_bars(results):
    """Other tensors and other lengths are tried for the figure that decided; LogFMT is tried with other bits."""
    bits, log = (r.verdicts[0] for r in results)
    assert {b.assumption for b in bits.bars} == {"tensor source", "length of the sums"}
    assert {b.assumption for b in log.bars} == {"tensor source"}
    (found,) = log.break_even
    assert 5 <= found.limit <= 8
    assert list(found.tried) == [str(b) for b in range(3, 17)]


def test_traffic_claims_are_of_a_layer_or_the_part_they_name(results):
    """Without a workload the model's layer is judged; network bytes of LogFMT-8 are a few scales above E4M3's."""
    _, log = results
    assert [v.judgement for v in log.verdicts] == ["supported"] * 2 + ["refuted"]
    assert log.verdicts[1].deciding.workload == "deepseek-v3"
    numerics = next(e for e in log.evidence if e.source == "numerics")
    assert {f.metric.split(".")[0] for f in numerics.figures} == {"numerics"}


# -- replay ----------------------------------------------------------------------------------------------------------


def test_a_report_is_rebuilt_from_its_result_byte_for_byte(results, tmp_path):
    """`report --replay` gives every file of the report again, from result.json alone."""
    for result in results:
        folder = tmp_path / result.proposal.proposal
        report.write(result, folder)
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        (tmp_path / "alone").mkdir()
        (tmp_path / "alone" / "result.json").write_bytes(before["result.json"])
        assert (
            run(["report", "--replay", str(tmp_path / "alone" / "result.json"), "--out", str(tmp_path / "again")]) == 0
        )
        assert {p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()} == before
        assert run(["report", "--replay", str(folder)]) == 0
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
        for left in (tmp_path / "alone" / "result.json",):
            left.unlink()
        (tmp_path / "alone").rmdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "{", "is no result.json"),
        (lambda text: json.dumps({"a": 1}), "is no result.json"),
        (lambda text: f"\ufeff{text}", "is no result.json"),
        (lambda text: text.replace('"schema_version": 5', '"schema_version": 1'), "has version 1 of the schema"),
        (lambda text: text.replace('"headline"', '"headlines"'), "is damaged at headline"),
    ],
)
def test_a_result_that_cannot_be_read_is_refused(results, tmp_path, change, message):
    """No JSON, no result, another version, a missing field: each is told in a line."""
    path = tmp_path / "result.json"
    path.write_text(change(results[0].model_dump_json(indent=1)))
    with pytest.raises(InputError, match=message):
        read_result(path)


# -- compare ---------------------------------------------------------------------------------------------------------


def test_speedups_of_layers_that_all_have_are_compared(results):
    """The step of DeepSeek-V3's Linears and of its whole layer, as each report has them; more is better; a model that only
    one is about is no place to compare."""
    made = compare(results)
    for entry, result in zip(made.entries[:2], results, strict=True):
        for axis in ("timing.step_speedup", "timing.layer_speedup"):
            (own,) = [f for f in result.figures if (f.metric, f.workload) == (axis, "deepseek-v3")]
            assert (entry.values[axis], entry.low[axis], entry.kinds[axis]) == (own.value, own.low, own.kind)
    evidence = tuple(
        e.model_copy(update={"figures": tuple(f.model_copy(update={"workload": "llama-3-8b"}) for f in e.figures)})
        if e.source == "timing"
        else e
        for e in results[1].evidence
    )
    apart = compare([results[0], results[1].model_copy(update={"evidence": evidence})])
    assert not any(axis.startswith("timing.") for axis in apart.axes)


def test_a_comparison_is_a_table_and_a_page(results, tmp_path, capsys):
    """The command reads reports' folders, prints a column per proposal, and writes a page that needs no network."""
    for result in results:
        report.write(result, tmp_path / result.proposal.proposal)
    folders = [str(tmp_path / r.proposal.proposal) for r in results]
    assert run(["compare", *folders, "--out", str(tmp_path / "c")]) == 0
    out = capsys.readouterr().out
    assert "bits" in out
    assert "log" in out
    page = (tmp_path / "c" / "comparison.html").read_text()
    assert page.count("<script") == 1
    assert "| worst in common |" in (tmp_path / "c" / "comparison.md").read_text()
    assert all(address.startswith("#") for address in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert not re.findall(r"url\((?!#)|@import", page)
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["entries"][0]["proposal"] == "bits"


def test_what_cannot_be_compared_is_told(results, tmp_path, monkeypatch):
    """A proposal without a report of what it says now."""
    monkeypatch.setattr("codesign.report.lookup.FOLDER", tmp_path)
    (tmp_path / "p.yaml").write_text(LOG)
    with pytest.raises(InputError, match="has no report here"):
        result_of(str(tmp_path / "p.yaml"))
    report.write(results[1], tmp_path / "log")
    assert result_of(str(tmp_path / "p.yaml"))[1].proposal == results[1].proposal
    (tmp_path / "p.yaml").write_text(LOG.replace("at_most: 1.1", "at_most: 1.2"))
    with pytest.raises(InputError, match="changed since its report"):
        result_of(str(tmp_path / "p.yaml"))
