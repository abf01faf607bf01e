"""Probe: what no spec explains is refused with its smallest witness; without time it is open."""

import sys
from pathlib import Path

import numpy as np
import pytest
from toy_boxes import INTEGERS, SIGNATURE, VOLTA, hidden

from codesign.__main__ import run
from codesign.commands.cli import register
from codesign.probe import search
from codesign.probe.box import Lines, Signature, answers, rewritten
from codesign.probe.boxes import FunctionBox, SpecBox
from codesign.probe.certificate import probe
from codesign.probe.questions import adversarial
from isa_model.diagnostics import InputError
from isa_model.library import load

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from outside_boxes import BOXES
from random_specs import random_specs

register("probe")


class Noise(SpecBox):
    """A box that gives another code now and then."""

    share = 0.3

    def ask(self, lines):
        d = super().ask(lines)
        return d ^ (np.random.default_rng().random(d.shape) < self.share).astype(d.dtype)


@pytest.mark.parametrize("share", [0.3, 0.004])
def test_a_box_with_noise_is_refused_with_two_answers_to_one_question(share):
    """Answers that vary are not fitted, however rarely they do."""
    spec = load(INTEGERS)
    box = Noise(Signature(spec), spec)
    box.share = share
    found = probe(box, seconds=1.0)
    assert found.verdict == "refused"
    assert "same question differently" in found.reason
    assert len(set(found.witness["answers"])) == 2


@pytest.mark.parametrize("name", ["random order", "depends on history"])
def test_a_box_that_is_no_function_of_its_operands_is_refused_at_once(name):
    """Sums in another order each time, and a register that is not cleared, need no search."""
    found = probe(BOXES[name](), seconds=100.0)
    assert (found.verdict, found.counts["hypotheses"]) == ("refused", 0)
    assert len(set(found.witness["answers"])) == 2


@pytest.mark.parametrize("name", ["depends on position", "lookup error"])
def test_a_box_with_a_wrong_product_is_refused_at_once(name):
    """A product that is another one when A and B change places is in no spec: one product shows it."""
    found = probe(BOXES[name](), seconds=100.0)
    assert found.verdict == "refused"
    assert "change places or signs" in found.reason
    assert len(found.witness["terms"]) == len(found.witness["other terms"]) == 1
    assert len(set(found.witness["answers"])) == 2


def test_every_spec_answers_alike_when_operands_change_places_or_signs():
    """What a box is refused for at once is in no spec of the language."""
    rng = np.random.default_rng(4)
    for spec in random_specs(40):
        lines = adversarial(Signature(spec), rng, 400)
        others = rewritten(Signature(spec), rng, lines)
        assert (answers(spec, lines) == answers(spec, others)).all()


def test_a_box_outside_the_language_has_a_witness_of_few_operands(monkeypatch):
    """A box whose negative results are one too low is refused where more hypotheses come no nearer, with time left; the nearest
    spec and the smallest operands are shown."""
    monkeypatch.setattr(search, "PATIENCE", 1000)
    spec = load(VOLTA)

    def inverting(a, b, c):
        d = answers(spec, Lines(a, b, c))
        return d - ((d >> 31 == 1) & (d << 1 != 0) & (d & 0x7F800000 != 0x7F800000)).astype(d.dtype)

    found = probe(FunctionBox(Signature(spec), inverting), seconds=100.0)
    assert found.verdict == "refused"
    assert "none of 1,000 hypotheses came a tenth nearer" in found.reason
    assert found.witness["box"] != found.witness["nearest_spec"]
    assert len(found.witness["terms"]) <= 2
    assert found.verdict.upper() in found.text


def test_a_ones_complement_adder_is_refused_with_its_smallest_operands():
    """RDNA gfx1151's fault (ROCm/rocm-systems 12056), negation by inverting bits without the increment, is no spec's sum."""
    spec = load("arm.mopa.s32.s8.s8")

    def adder(a, b, c):
        terms = a.view(np.int8).astype(np.int64) * b.view(np.int8)
        total = np.where(terms < 0, terms - 1, terms).sum(axis=1) + c.view(np.int32)
        return total.astype(np.int32).view(np.uint32)

    found = probe(FunctionBox(Signature(spec), adder), seconds=20.0)
    assert found.verdict == "refused"
    assert len(found.witness["terms"]) == 1
    assert found.witness["c"] == "0x0"
    assert int(found.witness["nearest_spec"], 16) - int(found.witness["box"], 16) in (1, 1 - 2**32)


def test_a_box_that_makes_something_of_nothing_is_refused_at_once():
    """Zeros alone give a zero in every spec: another answer needs no search."""
    signature = Signature(load(VOLTA))
    found = probe(FunctionBox(signature, lambda a, b, c: np.full_like(c, 0x7F800000)), seconds=100.0)
    assert found.verdict == "refused"
    assert "0x7f800000 for zeros alone" in found.reason
    assert found.counts["hypotheses"] == 0


def test_the_smallest_question_has_no_codes_to_spare():
    """Codes that do not matter are zeros in the witness, those of B beside a zero of A too."""
    signature = Signature(load(VOLTA))
    found = probe(FunctionBox(signature, lambda a, b, c: np.zeros_like(c)), seconds=1.0)
    assert found.verdict in ("open", "refused")
    assert len(found.witness["terms"]) <= 1


def test_sums_of_too_many_products_are_refused_before_any_question():
    """Questions about the order of thousands of products would take all memory."""
    shape = SIGNATURE.spec.shape.model_copy(update={"k": 7168})
    signature = Signature(SIGNATURE.spec.model_copy(update={"shape": shape}))
    with pytest.raises(InputError, match="K is 7168"):
        probe(FunctionBox(signature, lambda *_: pytest.fail("asked")))


def test_a_search_without_time_is_no_result():
    """A budget that is spent leaves the box open: it is neither refused nor certified."""
    spec = load("hopper.mma.m16n8k32.f32.e4m3.e5m2.f32")
    found = probe(SpecBox(Signature(spec), spec), seconds=0.2)
    assert found.verdict == "open"
    assert "time of 0.2 s ended" in found.reason
    assert "OPEN" in found.text


def test_a_refusal_without_a_spec_says_that_the_time_was_spent(tmp_path, monkeypatch, capsys):
    """A search without time says so, and one that ends before its first spec writes no empty spec.yaml."""
    found = probe(hidden("hopper.wgmma.m64n8k32.f32.e4m3.e4m3"), seconds=0.001)
    assert "the time of 0.001 s ended" in found.reason
    found = probe(Noise(Signature(load(INTEGERS)), load(INTEGERS)))
    assert found.spec is None
    monkeypatch.setattr("codesign.probe.certificate.probe", lambda *_: found)
    assert run(["probe", f"spec:{VOLTA}", "--out", str(tmp_path / "found")]) == 1
    assert "smallest question" not in capsys.readouterr().out
    assert sorted(x.name for x in (tmp_path / "found").iterdir()) == ["SHA256SUMS", "certificate.json", "log.json"]
