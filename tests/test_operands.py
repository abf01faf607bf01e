"""What arrives along a path is what a GEMM multiplies: operands by pass, and the errors of D that follow."""

import numpy as np
import pytest

from codesign.evidence.numerics.trial import Trial
from codesign.evidence.sampling import Sampling
from codesign.proposal.flows import Flows, behind, on_the_way
from codesign.proposal.load import parse_proposal
from codesign.proposal.variants import variants
from codesign.verdicts.evaluate import evaluate
from codesign.workloads.gemms import gemms
from codesign.workloads.tensors import draw
from isa_model import load
from isa_model.array_codec import decode_array
from isa_model.cast import Cast, quantise
from isa_model.diagnostics import parse_yaml
from isa_model.formats import FORMATS
from isa_model.path import Step, walk

FP8 = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
BOTH = ("activation", "gradient")
KERNEL = {"at": "kernel"}
TMA = {"at": "copy-engine"}
TURN = {"at": "operand-read", "group": [128, 1], "scale": "ue8m0"}
E5M6 = {"at": "cache", "to": "e5m6", "scale": "ue8m0"}
DISPATCH = {"at": "dispatch", "scale": "ue8m0"}


def steps(*given):
    return tuple(Step.model_validate(s) for s in given)


def proposal(
    path, software=(), operands=BOTH, claims="{metric: numerics.total_error, relative_to: software, at_most: 1}"
):
    def listed(given):
        return [s.model_dump(mode="json", exclude_defaults=True) for s in given]

    text = f"""proposal: p
title: t
source: s
base: {FP8}
path: {{operands: {list(operands)}, steps: {listed(path)}}}
software: {{path: {listed(software)}}}
workloads: [deepseek-v3.fprop.kv-b, deepseek-v3.dgrad.kv-b, deepseek-v3.wgrad.kv-b]
tensors: [outliers]
claims: [{claims}]
"""
    return parse_proposal(parse_yaml(text, "p.yaml"))


def trial(step, tensors="outliers", name="llama-3-8b.{}.o"):
    made = proposal(steps(KERNEL))
    return made, Trial(gemms()[name.format(step)], tensors, (0, 1), 8, 9, made.rule)


def both(*given):
    """The same steps behind activations and gradients."""
    return Flows(steps(*given), steps(*given))


@pytest.mark.parametrize(
    ("path", "role", "wgrad", "behind"),
    [
        ((KERNEL,), "activation", False, (KERNEL,)),
        ((KERNEL, TURN), "activation", False, (KERNEL,)),
        ((KERNEL, TURN), "gradient", True, (KERNEL, TURN)),
        ((E5M6, TURN), "activation", False, ()),
        ((E5M6, TURN), "activation", True, (E5M6, TURN)),
        ((KERNEL,), "activation", True, (KERNEL,)),
        ((KERNEL,), "gradient", True, ()),
        ((TMA,), "activation", True, ()),
        ((DISPATCH, KERNEL), "gradient", True, (DISPATCH,)),
        ((DISPATCH,), "gradient", True, (DISPATCH,)),
    ],
)
def test_a_gemm_takes_a_tensor_where_its_pass_finds_it(path, role, wgrad, behind):
    """Fprop and dgrad take it before it is kept or turned; wgrad at the end, or cast anew from what memory holds."""
    assert on_the_way(steps(*path), role, wgrad) == steps(*behind)


@pytest.mark.parametrize("step", ["fprop", "dgrad"])
def test_one_cast_in_the_instructions_groups_is_the_cast_it_would_have_had(step):
    """Where a path does what the instruction's own quantisation does, operands and D are the same bits."""
    made, drawn = trial(step)
    spec = made.software_instruction
    plain, arrived = drawn.outcome(spec), drawn.outcome(spec, both(KERNEL))
    assert drawn.operands(spec, both(KERNEL))[0] is not drawn.operands(spec)[0]
    assert np.array_equal(plain.d, arrived.d)
    assert np.array_equal(plain.operands[0].lost, arrived.operands[0].lost)


@pytest.mark.parametrize(
    ("step", "side", "given"),
    [("fprop", 0, (DISPATCH,)), ("wgrad", 0, (DISPATCH, TURN)), ("wgrad", 1, (DISPATCH, TURN))],
)
def test_codes_and_scales_that_the_instruction_takes_arrive_as_they_are(step, side, given):
    """The operand's numbers are those of the tensor at the end of its path, and its codes times its scales are the same."""
    made, drawn = trial(step)
    spec = made.software_instruction
    operand = drawn.operands(spec, both(*given))[side]
    scale = (spec.scale.a, spec.scale.b)[side]
    numbers = np.repeat(decode_array(scale.format, operand.scales), 128, axis=2)
    assert np.array_equal(decode_array(FORMATS["e4m3"], operand.codes) * numbers, operand.values)
    lines = (drawn.a, drawn.b)[side].x
    error = np.linalg.norm(operand.values - lines) / np.linalg.norm(lines)
    assert 0.01 < error < 0.04
    assert np.isin(decode_array(scale.format, operand.scales), 2.0 ** np.arange(-60, 60)).all()  # as the path left them


@pytest.mark.parametrize(
    ("given", "again"),
    [
        ((DISPATCH, TURN), False),
        ((DISPATCH, KERNEL), True),
        (({"at": "dispatch", "logfmt": 8},), True),
        (({**E5M6, "group": [128, 128]},), True),
    ],
)
def test_groups_across_lines_meet_what_is_not_computed_as_in_a_whole_tensor(given, again):
    """A path on sampled features, whose groups take in features that are not computed, errs as it does on a whole tensor."""
    path, gemm = steps(*given), gemms()["deepseek-v3.wgrad.gate-up"]
    few = Trial(gemm, "swiglu", tuple(range(12)), 8, 8, proposal(path).rule)
    arrived = few.operands(proposal(path).software_instruction, both(*given))[1]
    x = draw("swiglu", np.random.default_rng(5), (4096, 256), "activation")
    whole = walk(behind(gemm, "activation", both(*given)), x).values
    whole = quantise(Cast(group=(128, 1)), whole).values() if again else whole
    errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in ((arrived.values, few.b.x), (whole, x))]
    assert errors[0] == pytest.approx(errors[1], rel=0.03)


@pytest.mark.parametrize(
    ("step", "given"),
    [("fprop", {"at": "dispatch", "logfmt": 8}), ("fprop", {"at": "dispatch", "group": [1, 64]}), ("wgrad", DISPATCH)],
)
def test_what_the_instruction_cannot_take_is_cast_once_more(step, given):
    """LogFMT, other groups, and groups that run across the sums: the operand is E4M3 in the instruction's groups, and its
    error is that of both casts together."""
    made, drawn = trial(step)
    spec = made.software_instruction
    once, twice = drawn.operands(spec)[0], drawn.operands(spec, both(given))[0]
    original = drawn.a.x.astype(np.float64)
    assert twice.scales.shape == once.scales.shape
    assert np.linalg.norm(twice.values - original) > 1.02 * np.linalg.norm(once.values - original)
    assert not np.array_equal(twice.values, once.values)


NARROW = {"at": "kernel", "to": "e2m1", "group": [1, 16], "scale": "ue4m3"}


@pytest.mark.parametrize("step", ["fprop", "wgrad"])
def test_operands_do_not_depend_on_what_was_computed_before(step):
    """A trial that has taken other instructions, rules and paths gives the operands that a fresh one gives."""
    made, used = trial(step)
    block = load("blackwell.tcgen05.m128n128k64.kind::mxf4nvf4.block16.f32.e2m1.e2m1.ue4m3")
    factors = (False, 1e3), (True, 1e3), (True, 1e4)
    rules = [made.rule.model_copy(update={"tensor_scale": scaled, "floor": floor}) for scaled, floor in factors]
    paths = (KERNEL,), (KERNEL, TURN), (DISPATCH, {**TURN, "reads": "original"}), (NARROW,), ({**E5M6, "group": None},)
    cases = [(spec, rule, path) for rule in rules for spec in (made.software_instruction, block) for path in paths]
    for spec, rule, path in cases:
        _, fresh = trial(step)
        pairs = zip(*(x.under(rule).operands(spec, both(*path)) for x in (used, fresh)), strict=True)
        for kept, alone in pairs:
            for name in ("codes", "scales", "elements", "multipliers", "factor", "nonzero", "lost", "cut"):
                assert np.array_equal(getattr(kept, name), getattr(alone, name)), (spec.name, path, name)


def test_lines_after_a_path_are_forgotten_with_the_operands_made_of_them():
    """A trial beside one that has forgotten does not hold the memory of its paths."""
    made, drawn = trial("fprop")
    drawn.operands(made.software_instruction, both(KERNEL))
    assert drawn._arrivals
    drawn.forget_whole()
    assert not drawn._arrivals


def test_a_path_alone_leaves_multiplication_to_todays_software():
    """Software and proposal differ by what is behind their operands only; today's instruction alone knows no path."""
    compared = {c.variant: c for c in variants(proposal(steps(TMA), steps(KERNEL)))}
    assert compared["proposal"].instruction == compared["software"].instruction != load(FP8)
    assert (compared["today"].flows.activation, compared["software"].flows.activation) == ((), steps(KERNEL))
    assert compared["proposal"].flows == compared["exact"].flows
    assert compared["proposal"].flows[:2] == both(TMA)[:2]


def test_a_second_quantisation_shows_in_wgrad_and_only_there():
    """An activation kept in FP8 with FP32 scales is cast twice before wgrad; one that is kept in BF16, once. The claim on
    D is judged, with what it hangs on."""
    result = evaluate(proposal(steps(TMA), steps(KERNEL)), Sampling(rows=8, columns=8, seeds=tuple(range(8))))
    of = {(f.workload.split(".")[1], f.variant): f.value for f in result.figures if f.metric == "numerics.total_error"}
    assert of["fprop", "proposal"] == of["fprop", "software"]
    assert of["dgrad", "proposal"] == of["dgrad", "software"]
    assert of["wgrad", "proposal"] < 0.95 * of["wgrad", "software"]
    (verdict,) = result.verdicts
    assert verdict.judgement != "refuted"
    assert {bar.assumption for bar in verdict.bars} >= {"tensor source", "length of the sums"}
    assert "wgrad" in result.finding
