"""Tasks of an exploration: their keys, and their figures, which are those of an evaluation."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from strategies import KINDS, codes, instructions
from toy_space import TEXT, space

from codesign.evidence.numerics.source import Multiplied
from codesign.evidence.numerics.trial import Trial
from codesign.evidence.sampling import Sampling
from codesign.evidence.source import sources
from codesign.explore import task
from codesign.explore.points import known
from codesign.explore.space import written
from codesign.explore.task import compute, tasks
from codesign.proposal.load import load_proposal, parse_proposal
from codesign.proposal.shipped import proposal_file
from codesign.proposal.variants import variants
from codesign.verdicts.claims import covered_by
from codesign.workloads.gemms import select
from isa_model import matmul
from isa_model.array_codec import code_dtype
from isa_model.diagnostics import Document
from isa_model.engines.batch import batch
from isa_model.engines.plan import Unsupported


def keys(text, **point):
    made, base = space(text)
    return {t.kind: t.key for t in tasks(made, base, point, made.sampling)}


def test_keys_depend_on_what_figures_depend_on():
    """Names and prose of a space change no key; workloads, sampling, the specification and the evaluator do."""
    point = {"bits": 15, "terms": 8, "register": "wide"}
    own = keys(TEXT, **point)
    assert keys(TEXT.replace("space: toy", "space: other").replace("A toy", "Another"), **point) == own
    assert keys(TEXT.replace("range: [13, 24]", "values: [15]"), **point) == own
    other = keys(TEXT.replace("wgrad.o", "wgrad.down"), **point)
    assert other["cost"] == own["cost"]
    assert other["numerics"] != own["numerics"]
    assert keys(TEXT + "seeds: 8\n", **point)["numerics"] != own["numerics"]
    assert keys(TEXT, **{**point, "bits": 16})["cost"] != own["cost"]


@pytest.mark.parametrize("kind", sources())
def test_every_file_behind_a_figure_is_in_its_key(kind):
    """All that a kind of evidence imports, the records of kernels and the captured tensors: a changed one is a new key."""
    home = Path(task.__file__).parent.parent
    start = home / "evidence" / kind / "source.py"
    behind, found, todo = {path.resolve() for path in task.files_behind(kind)}, set(), [start]
    while todo:
        if (path := todo.pop()) not in found:
            found.add(path)
            todo += imported_files(path)
    assert start in found
    bench = home.parent / "kernels" / "bench"
    # These say what ran, and which GPU a proposal may name.
    aside = {home / "commit.py", bench / "records.py", bench / "__init__.py"}
    assert found - aside <= behind
    assert {*(home / "workloads" / "captured").iterdir()} <= behind
    assert kind != "timing" or {*(home.parent / "kernels" / "records").glob("*.json")} <= behind


def imported_files(path):
    """Return the files of this project that a file imports, at its top or within a function."""
    root = Path(task.__file__).parent.parent.parent
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = [root.joinpath(*name.split(".")) for name in names]
    return [f for file in files for f in (file.with_suffix(".py"), file / "__init__.py") if f.exists()]


def test_keys_depend_on_the_code_that_computes(monkeypatch):
    """A changed evaluator gives new keys, and a process with another version refuses to compute."""
    made, base = space()
    (one, *_) = tasks(made, base, next(made.points()), made.sampling)
    monkeypatch.setattr(task, "evaluator", lambda kind, synthesis: "changed")
    (other, *_) = tasks(made, base, next(made.points()), made.sampling)
    assert one.key != other.key
    assert "another version" in compute([one])[0]["failed"]


@settings(max_examples=40, phases=[Phase.generate])
@given(instructions(), st.integers(0, 2**32 - 1), st.sampled_from(KINDS))
def test_products_computed_together_equal_each_alone(spec, seed, kind):
    """For any instruction, `batch` returns the codes that `matmul` does for each product; or refuses the instruction."""
    rng, k = np.random.default_rng(seed), 2 * spec.shape.k
    a, b = codes(spec.a, rng, (2, 3, k), kind), codes(spec.b, rng, (2, k, 2), kind)
    scales = []
    for side, axis, shape in ((spec.scale and spec.scale.a, 1, (2, 3)), (spec.scale and spec.scale.b, 0, (2, 2))):
        groups = -(-k // side.group[axis]) if side else 0
        made = codes(side.format, rng, (*shape, groups), kind) if side else None
        scales.append(made if made is None or axis else made.swapaxes(1, 2))
    try:
        together = batch(spec, a, b, *scales)
    except Unsupported:
        return
    for i in range(2):
        own = [None if s is None else s[i] for s in scales]
        alone = matmul(spec.per_line(), a[i], b[i], scale_a=own[0], scale_b=own[1], engine="portable")
        assert (together[i] == alone.view(code_dtype(spec.accumulator))).all()


def test_nested_scales_need_no_compiler(monkeypatch):
    """A few outputs of an instruction with several levels of scales are those of its compiled engine, without compiling it."""
    proposal = load_proposal(proposal_file("hif4"))
    (gemm,) = select("deepseek-v3.fprop.kv-b")
    spec, drawn = proposal.proposed(), (gemm, "outliers", (0, 1), 3, 2, proposal.rule)
    compiled = Trial(*drawn).outcome(spec).d
    monkeypatch.setattr("codesign.evidence.numerics.trial.multiplier", None)
    assert (Trial(*drawn, compiled=False).outcome(spec).d == compiled).all()


def test_figures_are_those_of_an_evaluation():
    """A task's readings equal those of the question that an evaluation asks about the same claim, intervals included."""
    text = TEXT.replace("relative_frobenius}", "relative_frobenius, relative_to: software, at_most: 1}")
    made, base = space(text.replace("wgrad.o]", "fprop.kv-b]") + "rows: 8\ncolumns: 8\nseeds: 8\n")
    point = {"bits": 15, "terms": 32, "register": "wide"}
    (own,) = (t for t in tasks(made, base, point, made.sampling) if t.kind == "numerics")
    data = {
        **own.data,
        "proposal": "p",
        "title": "t",
        "claims": [{"metric": "numerics.relative_frobenius", "at_most": 1}],
    }
    proposal = parse_proposal(Document(own.file, data, []))
    compared = tuple(c for c in variants(proposal) if c.variant in ("proposal", "software"))
    ((gemm, tensors),) = proposal.trials
    question = Multiplied(proposal, gemm, tensors, "software", compared=compared)
    ((figures,),) = Multiplied.answers([question], Sampling(rows=8, columns=8, seeds=tuple(range(8))))
    (measured,) = covered_by(proposal, made.objectives["error"], figures)
    ((name, source, value, low, high, kind, _),) = compute([own])[0]["readings"]["numerics.relative_frobenius"]
    assert (name, source, kind) == (gemm.name, "normal", "computed")
    assert (value, low, high) == pytest.approx((measured.reading.value, *measured.reading.ends), rel=1e-5)


def test_a_point_that_is_no_proposal_says_why():
    """The reason is a result, which is kept; it ends nothing."""
    made, base = space()
    (own, *_) = tasks(made, base, {"bits": 15, "terms": 8, "register": "wide"}, made.sampling)
    broken = replace(own, data=written(own.data, {"change": {"stages": {"fuse": {"terms": 7}}}}))
    (found,) = compute([broken])
    assert "invalid" in found
    results = {
        t.key: {"key": t.key, "invalid": "no"}
        for t in tasks(made, base, {"bits": 13, "terms": 8, "register": "wide"}, made.sampling)
    }
    assert (
        known(made, base, {"bits": 13, "terms": 8, "register": "wide"}, made.sampling, results, {}).status
        == "no proposal"
    )
