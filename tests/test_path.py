"""Paths: what casts, transposed reads and the network do to a tensor, and the bytes a layer moves."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.evidence.source import Subject
from codesign.evidence.traffic.count import Flow, Scheme, TrafficAssumptions, flow, moves
from codesign.evidence.traffic.source import ENERGIES, SOURCE
from codesign.proposal.load import load_proposal, parse_proposal
from codesign.proposal.manual import path_page
from codesign.workloads.gemms import models
from isa_model import InputError
from isa_model.cast import Cast, quantise
from isa_model.diagnostics import parse_yaml
from isa_model.path import Step, casts_of, exactly_once, walk

ROOT = Path(__file__).parent.parent
FP8 = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"


def steps(*given):
    return tuple(Step.model_validate(s) for s in given)


def tensor(seed=0, shape=(256, 384), spread=1.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * np.exp(spread * rng.standard_normal((shape[0], 1)))
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def error(given, x):
    return np.linalg.norm(walk(given, x).values - x) / np.linalg.norm(x)


# -- numerics --------------------------------------------------------------------------------------------------------


def test_a_path_without_steps_delivers_the_tensor():
    """A path without steps changes nothing."""
    x = tensor()
    assert np.array_equal(walk((), x).values, x)


def test_one_step_is_one_cast():
    """A path of one step gives what `quantise` gives, wherever it happens: the place costs bytes, not bits."""
    x = tensor()
    once = quantise(Cast(), x).values()
    for place in ("kernel", "register", "copy-engine", "near-memory"):
        assert np.array_equal(walk(steps({"at": place}), x).values, once)


def test_power_of_two_scales_survive_the_second_layout_and_fp32_scales_do_not():
    """Requantised from 1x128 to 128x1, powers of two lose nothing but underflow; FP32 scales add an error of their own."""
    x = tensor()
    for scale, exact in (("ue8m0", True), ("fp32", False)):
        twice = steps({"at": "kernel", "scale": scale}, {"at": "operand-read", "group": [128, 1], "scale": scale})
        first, both = walk(twice[:1], x).values, walk(twice, x).values
        normal = np.abs(first) > np.abs(first).max(axis=0, keepdims=True) * 2.0**-13  # far from where E4M3 underflows
        assert np.array_equal(first[normal], both[normal]) == exact
    assert error(twice, x) > 1.2 * error(exactly_once(twice), x)


def test_the_largest_old_scale_as_the_new_one_moves_no_normal_element():
    """Under the largest of the old scales only elements that become subnormal can change."""
    x = tensor(spread=2.0)
    given = steps(
        {"at": "kernel", "scale": "ue8m0"},
        {"at": "operand-read", "group": [128, 1], "scale": "ue8m0", "scale_from": "scales"},
    )
    before, after = quantise(given[0], x), walk(given, x)
    largest = np.repeat(
        before.scale_values().reshape(2, 128, 3).max(axis=1).repeat(128, axis=0), 128, axis=1
    )  # per block of 128 tokens and 128 features
    normal = np.abs(before.values()) >= largest * 2.0**-6
    assert np.array_equal(before.values()[normal], after.values[normal])
    assert walk(given, x).underflow >= walk(given[:1], x).underflow


def test_a_second_quantisation_from_bf16_is_one_cast():
    """A step that reads the original does not depend on the steps before."""
    x = tensor()
    given = steps({"at": "copy-engine"}, {"at": "operand-read", "reads": "original", "group": [128, 1]})
    assert np.array_equal(walk(given, x).values, walk(exactly_once(given), x).values)


def test_paths_of_the_same_casts_are_told_by_casts_alone():
    """Places do not tell paths apart, nor whether the first step reads the original; formats and later reads do."""
    first, again = {"at": "combine", "on_sms": False, "logfmt": 8}, {"at": "operand-read", "group": [128, 1]}
    path, elsewhere = (
        steps(first, again),
        steps({**first, "at": "dispatch", "reads": "original"}, {**again, "at": "kernel"}),
    )
    assert casts_of(path) == casts_of(elsewhere) != path
    assert np.array_equal(walk(casts_of(path), tensor()).values, walk(path, tensor()).values)
    for other in (steps({**first, "logfmt": 9}, again), steps(first, {**again, "reads": "original"}), steps(first), ()):
        assert casts_of(other) != casts_of(path)


def test_logfmt_of_8_bits_beats_e4m3_on_normal_data_and_10_bits_beat_8():
    """Relative errors are ordered as in the report of LogFMT."""
    x = tensor(spread=0.0)
    log8, log10 = (steps({"at": "dispatch", "logfmt": bits}) for bits in (8, 10))
    assert error(log10, x) < error(log8, x) < error(steps({"at": "dispatch", "scale": "ue8m0"}), x)


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.integers(1, 300), st.integers(1, 300), st.sampled_from(["logfmt", "turn", "e5m6"]))
def test_ragged_tensors_arrive_whole(seed, rows, columns, kind):
    """Shapes that are not multiples of a group keep their shape, stay finite, and keep every sign."""
    x = tensor(seed, (rows, columns))
    given = {
        "logfmt": steps({"at": "combine", "logfmt": 8}),
        "turn": steps({"at": "kernel", "scale": "ue8m0"}, {"at": "operand-read", "group": [128, 1], "scale": "ue8m0"}),
        "e5m6": steps({"at": "cache", "to": "e5m6", "scale": "ue8m0"}),
    }[kind]
    values = walk(given, x).values
    assert values.shape == x.shape
    assert np.isfinite(values).all()
    assert (values * x >= 0).all()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{at: network}", "is not allowed here"),
        ("{at: dispatch, logfmt: 8, group: [128, 1]}", "a LogFMT tile is within one token"),
        ("{at: operand-read, scale_from: scales, scale: fp32}", "only if scales are powers of two"),
        ("{at: operand-read, scale_from: scales, scale: ue8m0, reads: original}", "the original has no scales"),
        ("{at: operand-read, scale_from: scales, scale: ue8m0}", "the step before leaves no scales of this format"),
        ("{at: kernel, on_sms: false}", "is not communication"),
        ("{at: copy-engine, group: null}", "needs the whole group to know its largest element"),
        ("{at: dispatch, logfmt: 8, flush_inputs: true}", "LogFMT takes logarithms of all elements"),
        ("{at: kernel, to: e4m4x}", "unknown number format"),
    ],
)
def test_steps_that_make_no_sense_are_told_where_they_stand(step, message):
    """A wrong step is an error at its line that names the rule."""
    text = f"""proposal: p
title: t
source: s
base: {FP8}
path:
  operands: [activation]
  steps:
    - {step}
claims: [{{metric: cast.relative_error, at_most: 1}}]
"""
    with pytest.raises(InputError) as told:
        parse_proposal(parse_yaml(text, "p.yaml"))
    assert message in str(told.value)
    assert "p.yaml:8:" in str(told.value)


def test_a_path_has_a_manual_page():
    """Each step says where it happens, what it reads, its groups, its scale's rule, and what an engine must hold."""
    given = steps({"at": "copy-engine", "flush_inputs": True}, {"at": "dispatch", "logfmt": 8, "on_sms": False})
    text = " ".join(path_page(given, ("activation",)).lines)
    for words in (
        "1 token by 128 features",
        "256 B of BF16",
        "at least 1e-30",
        "LogFMT-8",
        "/ 126",
        "outside the SMs",
        "2^-126",
    ):
        assert words in text


def test_logfmt_is_proposed_where_its_source_proposes_it():
    """LogFMT is of ISCA 3.2, tried in a simulated combine stage; no shipped proposal puts it into dispatch or cites 4.3."""
    found = 0
    for path in (ROOT / "proposals").glob("*.yaml"):
        made = load_proposal(path)
        logarithmic = [s for s in (made.path.steps if made.path else ()) if s.logfmt]
        if logarithmic:
            found += 1
            assert {s.at for s in logarithmic} == {"combine"}
            sources = [made.source, *(c.source for c in made.claims)]
            assert "3.2" in made.source
            assert not any("4.3" in source for source in sources)
    assert found == 2


# -- traffic ---------------------------------------------------------------------------------------------------------


def total(scheme, level, model="llama-3-8b", step=None, what=None):
    found = moves(
        models()[model], scheme, frozenset(x.name for x in models()[model].linears), scheme, TrafficAssumptions()
    )
    return sum(getattr(m, level) for m in found if step in (None, m.step) and what in (None, m.what))


def test_todays_path_reads_2_writes_1_and_reads_1_byte_again():
    """facts.md, section 2: an activation is read in BF16 and written in FP8 by the cast, and read in FP8 by the GEMM."""
    eight = Scheme(Flow(bits=8), Flow(bits=8), Flow(bits=8))
    inputs = sum(4096 * x.k for x in models()["llama-3-8b"].linears)
    weights = sum(x.n * x.k for x in models()["llama-3-8b"].linears)
    assert total(eight, "hbm", step="fprop", what="cast") == 3 * inputs
    assert total(eight, "hbm", step="fprop", what="operands") == inputs + weights
    fused = Scheme(Flow(bits=8, at="copy-engine"), Flow(bits=8), Flow(bits=8))
    assert total(fused, "hbm", step="fprop", what="cast") == 0
    assert total(fused, "hbm", step="fprop", what="operands") == 2 * inputs + weights
    near = Scheme(Flow(bits=8, at="near-memory"), Flow(bits=8), Flow(bits=8))
    assert total(near, "hbm", step="fprop", what="operands") == inputs + weights


def test_l2_traffic_is_that_of_a_loop_over_tiles():
    """Operand bytes from L2 equal a count tile by tile, multicast serving two CTAs."""
    eight = Scheme(Flow(bits=8), Flow(bits=8), Flow(bits=8))
    counted = 0
    for x in models()["llama-3-8b"].linears:
        for m, n, k in ((4096, x.n, x.k), (4096, x.k, x.n), (x.n, x.k, 4096)):
            counted += sum(128 * k + 128 * k / 2 for _ in range(-(-m // 128)) for _ in range(-(-n // 128)))
    assert total(eight, "l2", what="operands") == counted


def test_a_transposed_read_spares_what_is_turned_in_memory():
    """Without turned copies wgrad reads what fprop read; one layout of the gradient is written instead of two."""
    plain, read = Flow(bits=8), Flow(bits=8, turned_on_read=True)
    before, after = Scheme(plain, plain, plain), Scheme(read, read, plain)
    assert total(before, "hbm", what="turn") > 0 == total(after, "hbm", what="turn")
    gradients = sum(4096 * x.n for x in models()["llama-3-8b"].linears)
    assert (
        total(before, "hbm", "llama-3-8b", "dgrad", "cast") - total(after, "hbm", "llama-3-8b", "dgrad", "cast")
        == gradients
    )


def test_experts_see_the_tokens_that_are_sent_to_them():
    """DeepSeek-V3: 8 routed and 1 shared expert per token, 4 + 1 experts on a GPU; 8 + 4 copies of a token on the network."""
    eight = Scheme(Flow(bits=8), Flow(bits=8), Flow(bits=8))
    found = [
        m for m in moves(models()["deepseek-v3"], eight, frozenset(), eight, TrafficAssumptions()) if m.step == "fprop"
    ]
    operands = [m.hbm for m in found if (m.linear, m.what) == ("down", "operands")]
    assert operands == [8 * 4096 * 2048 + 4 * 7168 * 2048, 4096 * 2048 + 7168 * 2048]  # routed, shared
    (combine,) = [m for m in found if m.what == "combine"]
    assert combine.network == 4096 * 7168 * 12 * 2


def streams(scheme, linear, model="deepseek-v3"):
    """What a Linear writes, casts and turns: bytes through HBM by pass, operation, tensor and rows."""
    found = moves(
        models()[model], scheme, frozenset(x.name for x in models()[model].linears), scheme, TrafficAssumptions()
    )
    return {(m.step, m.what, m.tensor, m.rows): m.hbm for m in found if m.linear == linear and m.tensor}


def test_what_is_sent_to_experts_is_cast_once_before_it_is_sent():
    """Of DeepSeek-V3's experts the input is cast for 4096 tokens and arrives as codes for 32768; so does the gradient of what
    they give back, which is then turned; what lies between an expert's Linears is cast where it is made."""
    x = Flow(bits=8, dispatch=8)
    up, down = (streams(Scheme(x, x, x), linear) for linear in ("gate-up", "down"))
    tokens, sent = 4096, 8 * 4096
    casts = {(step, tensor, rows) for step, what, tensor, rows in up if what == "cast"}
    assert casts == {("fprop", "activation", tokens), ("dgrad", "gradient", sent), ("dgrad", "gradient", tokens)}
    assert up["fprop", "cast", "activation", tokens] == 3 * tokens * 7168
    assert up["fprop", "write", "activation", sent] == sent * 7168
    assert up["fprop", "write", "activation", tokens] == 2 * tokens * 7168
    casts = {(step, tensor, rows) for step, what, tensor, rows in down if what == "cast"}
    assert casts == {("fprop", "activation", sent), ("fprop", "activation", tokens), ("dgrad", "gradient", tokens)}
    assert down["dgrad", "cast", "gradient", tokens] == 4 * tokens * 7168  # in both layouts, for the shared expert
    assert down["wgrad", "turn", "gradient", sent] == 2 * sent * 7168


@pytest.mark.parametrize("unlike", [{"dispatch": 16}, {"dispatch": 8.5, "dispatches_codes": False}, {"bits": 4}])
def test_what_arrives_otherwise_than_gemms_take_it_is_cast_there(unlike):
    """BF16, LogFMT, or codes of another format: every expert casts its input."""
    x = Flow(**{"bits": 8, "dispatch": 8, **unlike})
    found = streams(Scheme(x, x, x), "gate-up")
    assert found["fprop", "cast", "activation", 8 * 4096] == 8 * 4096 * 7168 * (16 + x.bits) / 8


def test_where_no_expert_is_shared_what_is_sent_is_made_for_that():
    """Mixtral: tokens are written in BF16 and cast once, or written as codes by a kernel that casts in registers."""
    model = models()["mixtral-8x7b"]
    size = model.tokens * model.hidden
    for at, written, cast in (
        ("kernel", 2 * size, 3 * size),
        ("copy-engine", 2 * size, 3 * size),
        ("register", size, None),
    ):
        x = Flow(bits=8, dispatch=8, at=at)
        found = streams(Scheme(x, x, x), "gate-up", "mixtral-8x7b")
        assert found["fprop", "write", "activation", model.tokens] == written
        assert found.get(("fprop", "cast", "activation", model.tokens)) == cast


def test_a_path_turns_into_a_flow():
    """Each place changes its own part; scales count with their share of a group."""
    made = flow(
        Flow(),
        steps(
            {"at": "register", "scale": "ue8m0"},
            {"at": "cache", "to": "e5m6", "scale": "ue8m0"},
            {"at": "operand-read", "group": [128, 1], "scale": "ue8m0"},
            {"at": "dispatch", "logfmt": 8},
        ),
    )
    assert (made.at, made.bits, made.cached, made.turned_on_read) == ("register", 8 + 8 / 128, 12 + 8 / 128, True)
    assert (made.dispatch, made.combine) == (8 + 64 / 128, 16)


def test_figures_say_unit_kind_and_source_and_energy_follows_from_bytes():
    """Every traffic figure is modelled and every energy assumed; a layer's joules are its bytes times the table's energies."""
    proposal = load_proposal(ROOT / "proposals/fp8-dispatch.yaml")
    figures = SOURCE.gather(Subject(proposal)).figures
    of = {(f.metric, f.variant, f.workload): f for f in figures}
    assert {f.kind for f in figures if f.metric.startswith("traffic") and f.metric != "traffic.sm_share"} == {
        "modelled"
    }
    joules = of["energy.joules", "software", "deepseek-v3"]
    assert joules.kind == "assumed"
    model = models()["deepseek-v3"]
    multiplies = sum(3 * 4096 * (9 if x.expert else 1) * x.n * x.k for x in model.linears)
    expected = multiplies * ENERGIES["multiply"][1]
    for level in ("hbm", "l2", "smem", "network"):
        expected += of[f"traffic.{level}_bytes", "software", "deepseek-v3"].value * ENERGIES[level][1]
    assert joules.value == pytest.approx(expected * 1e-12, rel=1e-5)
    assert joules.low < joules.value < joules.high
    assert all(f.source for f in figures)


def test_passes_and_linears_add_up_to_the_layer():
    """The three passes sum to the layer; within a pass, Linears and communication do."""
    figures = SOURCE.gather(Subject(load_proposal(ROOT / "proposals/warp-level-cast.yaml"))).figures
    of = {(f.metric, f.variant, f.workload): f.value for f in figures}
    for metric in ("traffic.hbm_bytes", "traffic.l2_bytes", "traffic.smem_bytes", "energy.joules"):
        for variant in ("software", "proposal"):
            passes = sum(of[metric, variant, f"deepseek-v3.{p}"] for p in ("fprop", "dgrad", "wgrad"))
            assert passes == pytest.approx(of[metric, variant, "deepseek-v3"], rel=1e-5)
