"""Software baselines by name: one fits every kind of base; and the flows of experts' operands."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.evidence.numerics.errors import errors_of, estimates
from codesign.evidence.numerics.source import _method
from codesign.evidence.numerics.trial import Trial
from codesign.evidence.sampling import Sampling
from codesign.evidence.timing.operations import software
from codesign.evidence.traffic.count import TrafficAssumptions, moves, schemes
from codesign.proposal.baselines import baselines
from codesign.proposal.flows import Flows, behind, dispatched, usual
from codesign.proposal.load import parse_proposal
from codesign.proposal.quantisation import Quantisation, cast_of, largest_safe_element
from codesign.proposal.variants import variants
from codesign.report.page import parts
from codesign.verdicts.evaluate import evaluate
from codesign.workloads.gemms import gemms, models, sent
from isa_model import InputError, load
from isa_model.diagnostics import parse_yaml
from isa_model.engines import cpu
from isa_model.formats import FORMATS
from isa_model.library import catalogue, raw
from isa_model.path import Step

W = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
NV = "blackwell.tcgen05.m128n128k64.kind::mxf4nvf4.block16.f32.e2m1.e2m1.ue4m3"
MX = "blackwell.tcgen05.m128n128k32.kind::mxf8f6f4.block32.f32.e4m3.e4m3.ue8m0"
FP16_SUMS = "hopper.wgmma.m64n256k32.f16.e4m3.e4m3"


def proposal(base=W, more="", workloads="[deepseek-v3.wgrad.gate-up]", claim="numerics.total_error, at_most: 1"):
    return parse_proposal(
        parse_yaml(
            f"""proposal: p
title: t
source: s
base: "{base}"
workloads: {workloads}
tensors: [normal]
{more}
claims: [{{metric: {claim}}}]
""",
            "p.yaml",
        )
    )


def kinds():
    """Return one base for each combination of operand, accumulator and scale formats in the catalogue.

    Bases with E4M3 and with equal operands represent the others of FP8, FP6 and FP4. Left out are bits, sums in BF16 (RDNA),
    which lose most of a long K, and integers of 16 bits, whose sums overflow 32 bits after a cast to all 16.
    """
    no_practice = ("uint1", "int16", "uint16")
    found = {}
    for name in catalogue():
        spec = raw(name)
        a, b = spec["a"], spec["b"]
        if (
            a not in no_practice
            and spec["accumulator"] != "bf16"
            and (a == b or "e4m3" in (a, b) or not str(a).startswith("e"))
        ):
            found.setdefault(str((a, b, spec["accumulator"], spec.get("scale"))), name)
    return list(found.values())


def not_compiled(*_, **__):
    raise cpu.NoCompiler("not in this test")


def errors(made, gemm, tensors, rows=4, columns=4, seed=0):
    """Return the metrics of every variant on one GEMM."""
    compared = [c for c in variants(made) if c.at is None]
    trial = Trial(gemm, tensors, seed, rows, columns, made.rule)
    outcomes = {c.variant: trial.result(c) for c in compared}
    return {v: {n: e.total for n, e in estimates(errors_of(o)).items()} for v, o in outcomes.items()}, outcomes


def test_every_kind_of_base_has_a_finite_and_sensible_baseline(monkeypatch):
    """Today's software is finite for every combination of formats.

    Its total error on normal data is that of its formats' precision. (Compiling each would take longer than numpy.)
    """
    monkeypatch.setattr(cpu, "prepared", not_compiled)
    digits = {"fp64": 0, "fp32": 1e-6, "tf32": 2e-5, "fp16": 5e-3, "bf16": 2e-5, "int8": 0.02, "uint8": 0.02}
    of_output = 2.5e-3  # D leaves fprop in BF16
    for base in kinds():
        made = proposal(base, workloads="[mpnet-base.fprop.down]")
        gemm = gemms()["mpnet-base.fprop.down"]
        found, outcomes = errors(made, gemm, "normal")
        for variant in ("software", *(b.name for b in made.others)):
            assert np.isfinite(outcomes[variant].d).all(), (base, variant)
            most = max(digits.get(f, 0.3) for f in (made.today.a.name, made.today.b.name))
            assert found[variant]["numerics.total_error"] <= most + of_output, (base, variant)
            assert found[variant]["numerics.relative_frobenius"] <= 5e-3, (base, variant)
        assert made.practice.title in " ".join(_method(made, Sampling()))


@pytest.mark.parametrize(
    ("base", "first", "others"),
    [
        (W, "deepseek-v3", {"transformer-engine", "torchao-tensorwise", "torchao-rowwise"}),
        ("hopper.wgmma.m64n256k32.f32.e4m3.e5m2", "torchao-tensorwise", set()),
        (FP16_SUMS, "fp16-accumulation", set()),
        ("hopper.wgmma.m64n256k16.f32.bf16.bf16", "plain", {"plain-promoted"}),
        ("hopper.wgmma.m64n256k16.f16.f16.f16", "fp16-headroom", {"plain"}),
        (MX, "transformer-engine-mxfp8", {"ocp-mx"}),
        (NV, "transformer-engine-nvfp4", set()),
        ("ampere.mma.m16n8k32.s32.s8.s8.s32", "w8a8", {"int8-group-scaled"}),
        (
            "cdna3.mfma.f32_16x16x32_fp8_fp8",
            "deepseek-v3",
            {"transformer-engine", "torchao-tensorwise", "torchao-rowwise"},
        ),
    ],
)
def test_defaults_follow_the_formats_of_the_base(base, first, others):
    """The default is today's practice for a base; the others that fit are compared under their names."""
    made = proposal(base)
    assert made.practice.name == first
    assert {c.variant for c in variants(made)} == {"today", "software", "proposal", "exact", *others}


def test_every_baseline_says_what_it_does_and_where_that_is_written():
    """Every baseline has a summary and a source, which reports show."""
    for baseline in baselines().values():
        assert len(baseline.about) > 20
        assert len(baseline.source) > 10


def test_wide_formats_are_not_scaled():
    """BF16, TF32 and FP16 operands are not scaled, and software is the instruction alone."""
    for base in ("hopper.wgmma.m64n256k16.f32.bf16.bf16", "ampere.mma.m16n8k8.f32.bf16.bf16.f32"):
        made = proposal(base)
        gemm = gemms()["deepseek-v3.fprop.kv-b"]
        found, outcomes = errors(made, gemm, "outliers")
        assert np.array_equal(outcomes["software"].exact, outcomes["software"].original)
        assert found["software"]["numerics.relative_frobenius"] < 1e-4
        assert made.software_instruction == made.today


def test_a_proposed_format_of_a_wide_exponent_does_not_overflow():
    """E8M3 and E7M4 operands are not scaled to their largest number, 3e38 or 2e19, whose products overflow FP32.

    With group scales, which the instruction applies, each group's largest element becomes 1.
    """
    gemm = gemms()["deepseek-v3.fprop.kv-b"]
    for base, change in (
        (W, "a: e8m3, b: e8m3"),
        (W, "a: e7m4, b: e4m3"),
        (MX, "a: e8m3, b: e4m3"),
        (MX, "a: bf16, b: bf16"),
    ):
        found, _ = errors(proposal(base, f"change: {{{change}}}"), gemm, "normal")
        assert found["proposal"]["numerics.total_error"] < 0.06, change
        assert found["proposal"]["numerics.overflow_share"] == 0


def test_bf16_sums_are_not_promoted_unless_the_baseline_says_so():
    """Over K = 7168 Hopper's BF16 sums are off by 8e-6 as cuBLAS leaves them, and by 1.7e-7 promoted every 128."""
    gemm = gemms()["deepseek-v3.fprop.qkv-a"]
    plain = proposal("hopper.wgmma.m64n256k16.f32.bf16.bf16")
    promoted = proposal("hopper.wgmma.m64n256k16.f32.bf16.bf16", "software: plain-promoted")
    found = [
        errors(made, gemm, "normal", 8, 8)[0]["software"]["numerics.relative_frobenius"] for made in (plain, promoted)
    ]
    assert found == [pytest.approx(8e-6, rel=0.2), pytest.approx(1.7e-7, rel=0.2)]


def test_narrow_accumulators_get_headroom_and_the_report_says_so():
    """Software scales FP8 into FP16 accumulators to a largest element of 16, so that 64 products stay below 65504.

    Today's instruction alone overflows, and so does a proposal without headroom.
    """
    made = proposal(FP16_SUMS)
    found, outcomes = errors(made, gemms()["llama-3-8b.fprop.o"], "normal")
    assert largest_safe_element(made.software_instruction, 4096) == 16
    assert largest_safe_element(made.today, 4096) == 2  # 4096 products of 4 are 16384
    assert np.isfinite(outcomes["software"].d).all()
    assert found["software"]["numerics.total_error"] < 0.05
    assert found["today"]["numerics.overflow_share"] > 0.9
    assert found["proposal"]["numerics.overflow_share"] > 0.9
    assert "mapped to 16 " in " ".join(_method(made, Sampling()))
    asked = proposal(FP16_SUMS, "quantisation: {headroom: true}")
    found, _ = errors(asked, gemms()["llama-3-8b.fprop.o"], "normal")
    assert found["proposal"]["numerics.overflow_share"] < 0.1


@given(k=st.integers(1, 1 << 17), base=st.sampled_from([FP16_SUMS, "hopper.wgmma.m64n256k16.f16.f16.f16", W]))
def test_no_sum_of_elements_within_the_room_exceeds_a_register(k, base):
    """No sum of products of the largest safe element overflows a register."""
    spec = load(base)
    limit = largest_safe_element(spec, k)
    if base == W:
        assert limit is None
    elif limit is not None:
        assert k * limit * limit <= 65504 < k * (2 * limit) ** 2 * 4


def test_integers_hold_signed_numbers_in_unsigned_formats():
    """uint8 operands give the results of int8, since the sums of their offsets are subtracted exactly."""
    gemm = gemms()["mpnet-base.fprop.down"]
    values = []
    for a, b in (("s8", "s8"), ("u8", "s8"), ("s8", "u8"), ("u8", "u8")):
        _, outcomes = errors(proposal(f"ampere.mma.m16n8k32.s32.{a}.{b}.s32"), gemm, "outliers")
        assert np.array_equal(outcomes["software"].d, outcomes["software"].exact)
        values.append(outcomes["software"].d)
    assert all(np.array_equal(values[0], v) for v in values)


def test_weights_follow_the_groups_of_an_instruction_that_has_them():
    """By default, a base that applies scales has weights in its own groups. FP8 without scales has DeepSeek-V3's blocks."""

    def group(made):
        spec = made.proposed()
        return cast_of(made.rule, spec.b, "weight", spec.scale and spec.scale.b, 0).group

    assert group(proposal(MX)) == (32, 1)
    assert group(proposal(NV)) == (16, 16)
    assert group(proposal(NV, "quantisation: {weight_columns: 1}")) == (16, 1)
    scaled = "change: {scale: {a: {group: [1, 32], format: ue8m0}, b: {group: [32, 1], format: ue8m0}, onto: products}}"
    assert group(proposal(W, scaled)) == (32, 128)
    assert Quantisation().weight_columns is None


def test_a_proposal_names_its_baseline():
    """A baseline is named alone or in a mapping, whose other fields override it; one that does not fit is refused."""
    assert proposal(more="software: transformer-engine").practice.name == "transformer-engine"
    named = proposal(more="software: {baseline: torchao-rowwise, promote_every: 256}")
    assert (named.practice.promote_every, named.practice.quantisation.scales) == (256, "row")
    assert proposal(more="software: {group: null}").practice.group is None
    for more, words in (
        ("software: ocp-mx", "baselines of this base: deepseek-v3, transformer-engine"),
        ("software: transformer-engin", "did you mean `transformer-engine`"),
        ("software: {group: 96}", "groups of 96 cannot be scaled by a promotion every 128"),
        ("software: {promote_every: null}", "groups of 128 cannot be scaled by sums that are not promoted"),
    ):
        with pytest.raises(InputError) as told:
            proposal(more=more)
        assert words in str(told.value)
        assert "p.yaml:7:" in str(told.value)


def test_a_claim_names_a_baseline():
    """`relative_to` accepts a baseline that fits the base, whose figures are computed."""
    made = proposal(
        more="path: {operands: [gradient], steps: [{at: kernel}]}",
        workloads="[mpnet-base.wgrad.down]",
        claim="numerics.total_error, relative_to: transformer-engine, at_most: 1.5",
    )
    result = evaluate(made, Sampling(rows=24, columns=24, seeds=(0,)))
    (verdict,) = result.verdicts
    assert verdict.deciding.value == pytest.approx(1.2, abs=0.1)  # the recipe quantises activations twice
    assert {f.variant for f in result.figures} >= {"transformer-engine", "torchao-rowwise"}
    (table,) = [t for t in next(parts(result)).tables if "by baseline" in t.title]
    titles = ["DeepSeek-V3's recipe (today's software)", *(b.title for b in made.others)]
    assert [row.names for row in table.rows] == [(title,) for title in titles]
    assert table.headings == ("baseline", "wgrad")


def test_the_chosen_baseline_is_todays_software_under_either_name():
    """A claim on the chosen baseline is one on software; a claim on a baseline of other bases is refused."""
    made = proposal(claim="numerics.total_error, relative_to: deepseek-v3, at_most: 1")
    assert made.claims[0].relative_to == "software"
    with pytest.raises(InputError) as told:
        proposal(claim="numerics.total_error, relative_to: ocp-mx, at_most: 1")
    assert "p.yaml:8:" in str(told.value)
    assert "transformer-engine, torchao-tensorwise" in str(told.value)


def test_the_recipes_second_layout_costs_and_transformer_engines_does_not():
    """Wgrad's total error is near 0.0446 with DeepSeek-V3's recipe, which quantises activations twice.

    It is 0.0376 with both layouts cast from BF16; in fprop only the scales differ.
    """
    found, _ = errors(proposal(), gemms()["deepseek-v3.wgrad.o"], "normal", 32, 32, range(12))
    assert found["software"]["numerics.total_error"] == pytest.approx(0.0446, abs=0.001)
    assert found["transformer-engine"]["numerics.total_error"] == pytest.approx(0.0378, abs=0.001)


# -- experts ---------------------------------------------------------------------------------------------------------


KERNEL, TMA = Step(at="kernel"), Step(at="copy-engine")
TURN = Step(at="operand-read", reads="original", group=(128, 1))


@pytest.mark.parametrize(
    ("gemm", "roles"),
    [
        ("deepseek-v3.fprop.gate-up", {"activation"}),
        ("deepseek-v3.dgrad.down", {"gradient"}),
        ("deepseek-v3.wgrad.o", set()),
        ("llama-3-8b.fprop.o", None),
    ],
)
def test_what_is_sent_to_experts(gemm, roles):
    """The input of an expert's first Linear and the gradient of its last one's output are sent; dense models send nothing."""
    assert sent(gemms()[gemm]) == roles


def test_experts_take_codes_whatever_casts_at_home():
    """Tensors sent to experts are cast by dispatch alone.

    Kernels and copy engines have nothing left to cast, and transposed reads get codes; other tensors follow the path.
    """
    send = dispatched(FORMATS["e4m3"])
    there, here = gemms()["deepseek-v3.wgrad.gate-up"], gemms()["deepseek-v3.wgrad.o"]
    for path in ((KERNEL,), (TMA,)):
        assert behind(there, "activation", Flows(path, path, send)) == (send,)
    assert behind(here, "activation", Flows((KERNEL,), (), send)) == (KERNEL,)
    assert behind(here, "activation", Flows((TMA,), (), send)) == ()
    read = behind(there, "activation", Flows((TMA, TURN), (), send))
    assert read == (send, TURN.model_copy(update={"reads": "previous"}))
    assert behind(gemms()["llama-3-8b.wgrad.o"], "activation", Flows((), (), send)) == ()


def test_a_fused_cast_gains_nothing_where_codes_arrive():
    """A copy engine that casts changes nothing in wgrad of an expert's gate-up, whose operands arrive as codes.

    It saves the second cast if the activation is computed on the same GPU.
    """
    more = "path: {operands: [activation, gradient], steps: [{at: copy-engine}]}\nsoftware: {path: [{at: kernel}]}"
    made = proposal(more=more)
    found, outcomes = errors(made, gemms()["deepseek-v3.wgrad.gate-up"], "normal", 32, 32, range(6))
    assert np.array_equal(outcomes["software"].d, outcomes["proposal"].d)
    assert found["proposal"]["numerics.total_error"] == pytest.approx(0.0465, abs=0.0015)
    found, _ = errors(made, gemms()["deepseek-v3.wgrad.o"], "normal", 16, 16)
    assert found["proposal"]["numerics.total_error"] < 0.9 * found["software"]["numerics.total_error"]


def test_traffic_and_timing_follow_the_baseline():
    """Traffic and timing follow the baseline.

    Dispatch is FP8 with DeepSeek-V3's recipe, else BF16; row-wise scales need no scaled promotion; Transformer Engine
    writes both layouts and transposes nothing.
    """
    here, there = (schemes(proposal(more=m))["software"].activation for m in ("", "software: transformer-engine"))
    assert (here.dispatch, there.dispatch) == (8 + 8 / 128, 16)
    assert (here.both, there.both) == (False, True)
    about = [
        software(proposal(more=f"software: {n}")) for n in ("deepseek-v3", "torchao-rowwise", "transformer-engine")
    ]
    assert [m.scales for m in about] == [True, False, True]
    assert [m.fast_forward for m in about] == [False, True, False]
    scheme = schemes(proposal(more="software: transformer-engine"))["software"]
    llama = models()["llama-3-8b"]
    moved = list(moves(llama, scheme, frozenset(x.name for x in llama.linears), scheme, TrafficAssumptions()))
    assert moved
    assert not [m for m in moved if (m.what, m.tensor) == ("turn", "activation")]


def test_experts_sums_are_as_long_in_numerics_as_in_traffic():
    """K of an expert's wgrad is the number of tokens it gets."""
    for name, model in models().items():
        if model.experts:
            assert gemms()[f"{name}.wgrad.gate-up"].k == model.tokens_of_expert
    assert models()["deepseek-v3"].tokens_of_expert == 8192


def test_usual_flows_keep_codes_under_the_recipe_alone():
    """DeepSeek-V3's recipe keeps activations in FP8 for wgrad, in the instruction's groups; others keep BF16 or both."""
    made = proposal()
    recipe = usual(made.practice, made.software_instruction, made.practice.quantisation)
    assert [s.at for s in recipe.activation] == ["cache"]
    assert recipe.activation[0].group == (1, 128)
    other = baselines()["transformer-engine"]
    assert usual(other, other.around(made.today), other.quantisation) == Flows()
