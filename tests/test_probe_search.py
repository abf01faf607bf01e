"""Probe: the hypotheses that a search tries, and the questions that tell them apart."""

import os
import subprocess
import sys

import numpy as np
import pytest
from toy_boxes import INTEGERS, MX, REGISTER, VOLTA, hidden

from codesign.probe.box import Session, Signature, answers
from codesign.probe.boxes import SpecBox
from codesign.probe.fit import Fit
from codesign.probe.hypotheses import hypothesis_of, meaning
from codesign.probe.orders import Orders
from codesign.probe.questions import adversarial
from codesign.probe.scoring import Scored
from codesign.probe.space import GIVEN, STRUCTURAL, UNREAD, Space
from codesign.probe.stand_ins import absorbed, divided, regrouped, split
from codesign.probe.structures import profiles
from isa_model.instruction import Instruction
from isa_model.library import load
from isa_model.operand_fields import Scaling
from isa_model.stage import Register, Stage


def test_every_field_of_the_language_is_an_axis():
    """A field that the language gains is varied without a change here, unless it is a structure or given."""
    spec = load("rtx_blackwell.mma.m16n8k32.kind::mxf8f6f4.block32.f32.e4m3.e4m3.f32.ue8m0")
    register = {"format": "fp32", "rounding": "nearest-even"}
    stages = [{"terms": 32}, {"terms": 1, "accumulator": {"fraction_bits": 3}, "fraction_bits": 24, "rounding": "down"}]
    stages[1]["result"] = [register]
    space = Space(Signature(spec))
    hypothesis = {"stages": stages, "nan": 0x7FFFFFFF, "scale": {"onto": -1}}
    varied = {path[-1] for path, _ in space.neighbours(hypothesis, 1) if path}
    every = {f for kind in (Instruction, Scaling, Stage, Register) for f in kind.model_fields}
    assert every - STRUCTURAL - GIVEN - UNREAD - {"scale", "random_bits"} <= varied


def test_rivals_that_differ_in_two_fields_are_known():
    """A window one bit narrower with another rounding gives nearly the same answers: neither change alone does."""
    stage = {"terms": 1, "accumulator": True, "result": [{"format": "e5m5", "rounding": "down"}]}
    near, far = (
        {**stage, "fraction_bits": n, "rounding": mode} for n, mode in ((31, "nearest-away"), (32, "toward-zero"))
    )
    fields = {"shape": {"m": 4, "n": 4, "k": 1}, "a": "fp16", "b": "fp16", "accumulator": "fp16"}
    spec = Instruction.model_validate(fields | {"stages": {"fuse": near}})
    fit = Fit(Session(SpecBox(Signature(spec), spec)))
    fit.ask_all()
    found = fit.paired(fit.score({"stages": [near]}), {})
    assert {"stages": [far]} in [hypothesis for _, hypothesis in found.values()]
    assert not any(len(paths) > 2 for paths, _ in found.values())


def test_a_search_starts_from_all_rules_that_few_questions_do_not_tell_apart():
    """The first questions do not tell the rule of CDNA3's FP16 from a simpler one; it is among the starts, nearly right."""
    spec = load("cdna3.mfma.f32_32x32x8_f16").dense
    fit = Fit(Session(SpecBox(Signature(spec), spec)))
    fit.ask_all()
    assert min(x.loss for x in fit.start()) < 0.01


def test_a_search_starts_from_sums_cut_before_c_is_added_to_nearest():
    """Of B200's recorded E5M2 sums one in 5,000 shows that the products' sum is cut: too few to lead a search there."""
    space = Space(Signature(load("blackwell.mma.m16n8k32.f32.e5m2.e5m2.f32")))
    last = {"result": [{"format": "fp32", "rounding": "nearest-even"}]}
    assert ({"result": [{"format": "fp32", "rounding": "toward-zero"}]}, last) in list(profiles(space, last))


def test_two_stages_stand_for_one():
    """A sum cut to its largest term with C beside is next to a sum cut before C is added."""
    cut = {"fraction_bits": 16, "rounding": "nearest-even"}
    register = {"result": [{"format": "fp16", "rounding": "nearest-even"}]}
    one = {"stages": [{"terms": 16, "accumulator": {"fraction_bits": 40}, **cut, **register}]}
    assert {"stages": [{"terms": 16, **cut}, {"terms": 1, "accumulator": True, **register}]} in list(split(one))


def test_a_stage_that_only_rounds_is_absorbed():
    """A register of its own above a chain is next to the chain that rounds to it."""
    narrow, last = {"format": "e8m13", "rounding": "toward-zero"}, {"terms": 1, "accumulator": True, "result": ["fp32"]}
    chain = {"terms": 32, "accumulator": True, "chain": 4}
    found = list(absorbed({"stages": [{**chain, "result": ["wide"]}, {"terms": 1, "result": [narrow]}, last]}))
    assert found == [{"stages": [{**chain, "result": kept}, last]} for kept in ([narrow], ["wide", narrow])]


def test_a_register_is_next_to_one_that_keeps_infinities_but_overflows_to_none():
    """Rounded as if exponents had no upper end, then cut to the largest number: Arm's FP8 into FP16 with OSM = 1."""
    own = hypothesis_of(load("arm.fmmla.f16.e4m3.e4m3.lscale0.osm1"))["stages"][-1]["result"]
    near = list(regrouped([{"format": "fp16", "rounding": "nearest-even", "overflow": "saturate"}]))
    meanings = [
        [(meaning(x["format"]), x["rounding"], x.get("overflow")) for x in registers] for registers in [own, *near]
    ]
    assert meanings[0] in meanings[1:]


def test_a_sum_is_next_to_its_two_steps():
    """Sixteen terms cut together are next to exact sums of two of which eight are cut, and to a chain of rounded sums."""
    cut, last = {"fraction_bits": 17, "rounding": "nearest-even"}, {"terms": 8, "accumulator": True, "result": ["fp32"]}
    found = list(divided({"stages": [{"terms": 16, **cut}, last]}))
    assert {"stages": [{"terms": 2}, {"terms": 8, **cut}, last]} in found
    assert {"stages": [{"terms": 2, **cut}, {"terms": 8}, last]} in found
    chain = {"terms": 2, "accumulator": True, "chain": 4, "result": ["bf16"]}
    assert {"stages": [chain, last]} in list(divided({"stages": [{"terms": 8, "result": ["bf16"]}, last]}))


@pytest.mark.parametrize(
    "order",
    [
        [{"terms": 2, "interleave": {"run": 1, "parts": 2}, "chain": 3}, {"terms": 2}],
        [{"terms": 2, "chain": 4}, {"terms": 4}],
        [{"terms": 2}, {"terms": 8}, {"terms": 4}],
    ],
)
def test_exchanges_show_the_order_of_sums(order):
    """Of the trees that exchanges allow, the hidden one is among the first: chains of sums that were dealt out, too."""
    k = 2 * np.prod([x["terms"] * x.get("chain", 1) for x in order])
    narrow = {"result": {"format": "e8m11", "rounding": "toward-zero"}}
    order = [x | ({"accumulator": True} if "chain" in x or x is order[-1] else {}) for x in order]
    stages = [{**x, **narrow} for x in order]
    fields = {"shape": {"m": 4, "n": 4, "k": int(k)}, "a": "fp16", "b": "fp16", "accumulator": "fp32"}
    spec = Instruction.model_validate({**fields, "stages": {f"s{i}": stage for i, stage in enumerate(stages)}})
    found = Orders(Session(SpecBox(Signature(spec), spec)), np.random.default_rng(0)).structures()
    assert order in found[:4]


def test_hypotheses_come_in_the_same_order_in_every_process():
    """Python orders sets of text anew in every process; a folder of rounds needs the same questions in all of them."""
    text = """
from codesign.probe.space import MODES
from codesign.probe.stand_ins import stand_ins
register = {"format": "fp32", "rounding": "up"}
stages = [{"terms": 1, "accumulator": True, "result": [register], "fraction_bits": 8, "rounding": x} for x in MODES]
print(list(stand_ins({"stages": stages})))
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", text], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "012"
    ]
    assert said[0] == said[1] == said[2] != b""


def test_some_hypothesis_is_tried_however_little_time_is_left():
    """A slow machine ends a search, but does not leave it without a start, which would read as a refusal."""
    fit = Fit(Session(hidden(INTEGERS)), budget_s=0.0)
    fit.ask_all()
    assert len(fit.start()) == 1


def test_hypotheses_that_explain_the_same_are_not_all_given_up(monkeypatch):
    """Of four that explain the same answers, some are changed in the widest steps."""
    fit = Fit(Session(hidden(VOLTA)), budget_s=1000.0)
    fit.ask_all()
    spec = fit.space.spec(plain := {"stages": [{"terms": 4, "accumulator": True, "result": [REGISTER]}]})
    wrong = fit.score(plain).wrong
    alike = [Scored(plain | {"nan": code}, spec, wrong, 1.0) for code in range(4)]
    found = Scored(plain, spec, np.zeros_like(wrong), 0.0)
    monkeypatch.setattr(fit, "_amplify", lambda x: False)
    monkeypatch.setattr(fit, "_reordered", lambda *_: None)
    monkeypatch.setattr(fit, "_step", lambda x, reach: found if reach == 2 else None)
    assert fit.search(alike) is found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("zero_exponent", [-134, -132])
def test_scaled_questions_reach_the_bottom_of_d(seed, zero_exponent):
    """Scales bring terms to where the exponent of zeros cuts them, one more or less of which then changes D."""
    spec = load(MX)
    (name, stage), *rest = spec.stages.items()
    assert stage.zero_exponent == -133
    other = spec.model_copy(
        update={"stages": {name: stage.model_copy(update={"zero_exponent": zero_exponent}), **dict(rest)}}
    )
    lines = adversarial(Signature(spec), np.random.default_rng(seed), 2200)
    assert (answers(spec, lines) != answers(other, lines)).any()


def test_pairs_of_products_show_how_many_bits_inner_sums_keep():
    """Two products of one inner sum lead to no more bits than its register has: a narrow inner register is tried at once."""
    data = load(VOLTA).model_dump(mode="json", exclude_none=True)
    inner = {"terms": 4, "result": {"format": "e8m8", "rounding": "nearest-away"}}
    last = {"terms": 2, "accumulator": True, "result": {"format": "e8m18", "rounding": "down"}}
    data |= {"shape": {"m": 8, "n": 8, "k": 8}, "stages": {"inner": inner, "last": last}}
    spec = Instruction.model_validate(data)
    fit = Fit(Session(SpecBox(Signature(spec), spec)))
    fit.ask_all()
    assert 8 in fit.widths()
    assert not fit.search(fit.start()).wrong.any()


def test_nans_of_c_are_asked():
    """The code of NaN is read off answers to a C that is one, even where no product can be."""
    data = load(VOLTA).model_dump(mode="json", exclude_none=True)
    spec = Instruction.model_validate(data | {"a": "e3m2", "b": "e3m2", "nan": 0x7FFFFFFF})
    fit = Fit(Session(SpecBox(Signature(spec), spec)))
    fit.ask_all()
    assert fit.registers()["nan"] == 0x7FFFFFFF
