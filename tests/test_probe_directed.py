"""Probe: directed searches tell specs apart that random questions do not; a spec whose rivals were not all tried is open."""

from time import process_time

import numpy as np
import pytest
from toy_boxes import INTEGERS, VOLTA, hidden

from codesign.probe import fit
from codesign.probe.box import Refusal, Session, Signature, answers
from codesign.probe.boxes import SpecBox
from codesign.probe.certificate import probe
from codesign.probe.directed import WIDE, Aims, Directed, lenses
from codesign.probe.fit import Fit
from codesign.probe.hypotheses import changed
from codesign.probe.questions import adversarial, mutated
from codesign.probe.space import Space
from codesign.probe.stand_ins import shared
from isa_model.instruction import Instruction
from isa_model.library import load

E4M3 = {"a": "e4m3fnuz", "b": "e4m3fnuz", "accumulator": "fp32"}
HIDDEN_BY_A_REGISTER = [
    {"terms": 2, "accumulator": True, "chain": 3, "result": [{"format": "e8m21", "rounding": "up"}]},
    {
        "terms": 2,
        "accumulator": {"fraction_bits": 32, "drop_beyond": 10},
        "fraction_bits": 27,
        "rounding": "toward-zero",
        "result": [{"format": "fp16", "rounding": "to-odd", "subnormals": "flush"}],
    },
]
HIDDEN_BY_A_LATER_CUT = [
    {"terms": 2, "fraction_bits": 27, "rounding": "nearest-even"},
    {
        "terms": 1,
        "chain": 2,
        "accumulator": {"fraction_bits": 36},
        "fraction_bits": 20,
        "rounding": "nearest-even",
        "result": [{"format": "e8m12", "rounding": "nearest-even", "subnormals": "flush"}],
    },
    {"terms": 1, "accumulator": True, "result": [{"format": "e8m6", "rounding": "up"}]},
]
HIDDEN_BY_ALIGNMENT = [
    {
        "terms": 2,
        "chain": 4,
        "accumulator": {"fraction_bits": 20, "drop_beyond": 18},
        "fraction_bits": 28,
        "rounding": "toward-zero",
        "result": [{"format": "e8m27", "rounding": "nearest-away"}],
    },
    {"terms": 2, "accumulator": True, "result": [{"format": "e5m9", "rounding": "toward-zero"}]},
]


@pytest.mark.parametrize(
    ("k", "formats", "stages", "path", "value"),
    [
        (24, E4M3, HIDDEN_BY_A_REGISTER, ("stages", 1, "accumulator"), {"fraction_bits": 36, "drop_beyond": 10}),
        (
            4,
            {"a": "fp32", "b": "e5m2", "accumulator": "bf16"},
            HIDDEN_BY_A_LATER_CUT,
            ("stages", 0, "fraction_bits"),
            30,
        ),
        (16, {"a": "e4m3", "b": "e4m3", "accumulator": "fp16"}, HIDDEN_BY_ALIGNMENT, ("widen",), "fp32"),
    ],
    ids=["register", "later cut", "alignment"],
)
def test_a_difference_that_random_questions_miss_is_found(k, formats, stages, path, value):
    """Specs that differ on fewer than one in 100,000 random questions are told apart: their inner sums show the way."""
    fields = {"shape": {"m": 1, "n": 1, "k": k}, **formats, "stages": {f"s{i}": x for i, x in enumerate(stages)}}
    space, rng = Space(Signature(Instruction.model_validate(fields))), np.random.default_rng(2)
    one = {"stages": stages}
    other = changed(one, path, value)
    start = adversarial(space.signature, rng, 3000)
    some = mutated(space.signature, rng, start, 20_000)
    assert (answers(space.spec(one), some) == answers(space.spec(other), some)).all()
    lines = Directed(space, rng, start).find(one, other, 60)
    assert (answers(space.spec(one), lines) != answers(space.spec(other), lines)).all()


def test_a_lens_leaves_out_the_last_roundings():
    """Through lenses a spec loses its registers and the cuts above a stage; the last lens shows the spec itself."""
    register = {"format": "fp32", "rounding": "up"}
    stages = [
        {"terms": 2, "fraction_bits": 8, "rounding": "down"},
        {"terms": 1, "accumulator": True, "result": [register]},
    ]
    exact = {"terms": 1, "accumulator": True, "result": [WIDE]}
    seen = dict(lenses({"stages": stages}))
    assert seen[1, 0, 1] == {"stages": [stages[0], exact]}
    assert seen[1, 0, 8] == {"stages": [{**stages[0], "fraction_bits": 1}, exact]}
    assert seen[0, 1, 1] == {"stages": [stages[0], exact]}
    assert list(seen)[-1] == (0, 0, 1)
    assert seen[0, 0, 1] == {"stages": stages}


def test_a_spec_whose_rivals_were_not_all_tried_is_open(monkeypatch):
    """Without time for directed searches a spec that explains every answer is not certified."""
    monkeypatch.setattr(fit, "DIRECTED", 0)
    found = probe(hidden(INTEGERS), outputs=300)
    assert found.verdict == "open"
    assert found.witness is None
    assert "before all rivals were asked" in found.reason


def test_the_boxs_own_time_is_not_that_of_the_search():
    """A slow box leaves the search as much time as a fast one."""

    class Slow(SpecBox):
        def ask(self, lines):
            end = process_time() + 0.3
            while process_time() < end:
                pass
            return super().ask(lines)

    state = Fit(Session(Slow(Signature(load(INTEGERS)), load(INTEGERS))))
    before = state.now
    state.session.ask(state.signature.empty(1))
    assert state.now - before < 0.2


def test_a_search_that_leads_nowhere_starts_again_from_more_structures(monkeypatch):
    """A box is refused only after every start was tried: a spec that the first few miss is still found."""
    state, tried = Fit(Session(hidden(VOLTA))), []

    def search(starts):
        tried.append(len(starts))
        if len(tried) == 1:
            raise Refusal("nowhere")
        return starts[-1]

    monkeypatch.setattr(state, "start", lambda each=1: list(range(each)))
    monkeypatch.setattr(state, "search", search)
    assert state.begin() == 2
    assert tried == [1, 3]


def test_terms_move_from_one_stage_to_the_next():
    """Sums of four that are added in turn are next to sums of two, of which each block adds two in the same order."""
    cut = {"accumulator": True, "fraction_bits": 24, "rounding": "down", "result": ["fp16"]}
    one = {"stages": [{"terms": 4}, {"terms": 1, "interleave": {"run": 1, "parts": 2, "hand": 2}, **cut}]}
    two = {"stages": [{"terms": 2}, {"terms": 2, "interleave": {"run": 2, "parts": 2, "hand": 4}, **cut}]}
    assert two in list(shared(one))
    back = {"stages": [{"terms": 2}, {"terms": 2, **cut}]}
    assert {"stages": [{"terms": 4}, {"terms": 1, **cut}]} in list(shared(back))


def test_fraction_bits_change_with_the_place_of_the_running_value_and_of_zeros():
    """A sum with two fraction bits more, an offset of two and zeros two exponents higher cuts C at the same place."""
    last = {"terms": 4, "accumulator": {"offset": 2}, "fraction_bits": 13, "rounding": "down", "zero_exponent": -19}
    wanted = {**last, "accumulator": True, "fraction_bits": 11, "zero_exponent": -21}
    result = {"result": [{"format": "fp32", "rounding": "nearest-even"}]}
    space = Space(Signature(load(VOLTA)))
    near = [hypothesis for _, hypothesis in space.neighbours({"stages": [last | result]}, 0)]
    assert {"stages": [wanted | result]} in near


def test_sums_at_the_end_of_fp64_are_searched():
    """Powers of two beyond FP64 are left out: a box of FP64 is searched without a warning."""
    space, rng = Space(Signature(load("ampere.mma.m8n8k4.f64.f64.f64.f64"))), np.random.default_rng(1)
    last = {"terms": 1, "accumulator": True, "result": [{"format": "fp64", "rounding": "nearest-even"}]}
    sums = space.spec({"stages": [last]})
    lines, aims = adversarial(space.signature, rng, 600), Aims(space.signature, rng, {"stages": [last]}, sums)
    assert np.isfinite(aims.wanted(lines)).all()
    assert aims.near(lines).c.shape == lines.c.shape
