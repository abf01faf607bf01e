"""Proposals: reading, merging into an instruction, and judging claims."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import codesign
from codesign.evidence.numerics.jobs import Job, run
from codesign.evidence.numerics.source import _method
from codesign.evidence.numerics.trial import Trial
from codesign.evidence.sampling import Sampling
from codesign.figures.figure import Figure
from codesign.proposal.load import load_proposal, parse_proposal
from codesign.proposal.proposal import Claim
from codesign.proposal.variants import variants
from codesign.verdicts.claims import judge, statement
from codesign.workloads.gemms import gemms, select, sent
from isa_model import InputError, load
from isa_model.diagnostics import parse_yaml
from isa_model.library import merge

ROOT = Path(__file__).parent.parent

SHIPPED = sorted((Path(__file__).parent.parent / "proposals").glob("*.yaml"))
BASE = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
MINIMAL = f"""proposal: mine
title: More bits
source: me
base: {BASE}
change:
  stages:
    fuse: {{fraction_bits: 20, result: {{format: fp32, rounding: toward-zero}}}}
claims:
  - {{metric: numerics.relative_frobenius, at_most: 1.0e-3}}
"""


def proposal(text=MINIMAL):
    return parse_proposal(parse_yaml(text, "mine.yaml"))


def refused(text):
    with pytest.raises(InputError) as error:
        proposal(text)
    return str(error.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_proposals_are_valid_and_cite_a_source(path):
    """Shipped proposals load, are named like their files, cite a source and differ from the base."""
    loaded = load_proposal(path)
    assert loaded.proposal == path.stem
    assert "arXiv" in loaded.source
    made, base = loaded.proposed(), load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3")
    assert loaded.path or (made.stages, made.sparsity) != (base.stages, base.sparsity)


@pytest.mark.parametrize("name", ["fp8-dispatch", "logfmt8-combine", "logfmt10-combine"])
def test_number_formats_of_the_network_are_cited_where_their_source_has_them(name):
    """ "Insights into DeepSeek-V3" has FP8 dispatch and LogFMT in 3.2; LogFMT it tries for combine alone."""
    loaded = load_proposal(ROOT / "proposals" / f"{name}.yaml")
    cited = " ".join([loaded.source, *(claim.source for claim in loaded.claims if claim.source)])
    assert re.search(r"2505\.09343\), 3\.2\b", cited)
    assert "4.3" not in cited
    assert all(step.at == "combine" for step in loaded.path.steps if step.logfmt)


def test_only_a_changed_instruction_is_called_unbuilt():
    """A proposal that leaves the instruction unchanged keeps the base's `checked`; a change says no hardware computes it."""
    shipped = load_proposal(next(p for p in SHIPPED if p.stem == "blackwell-nvf4"))
    assert shipped.proposed().checked == shipped.today.checked
    assert proposal().proposed().checked.startswith("proposed")


def test_a_change_is_merged_into_the_base_and_the_base_stays():
    """Only the changed fields differ from the base, and the base itself is not modified."""
    mine = proposal()
    assert mine.today.stages["fuse"].fraction_bits == 13
    changed = mine.proposed()
    assert changed.stages["fuse"].fraction_bits == 20
    assert changed.stages["fuse"].terms == 32
    assert changed.name == "mine"


def test_no_change_at_all_is_the_chip():
    """A proposal without changes has the stages of the base, and so its bits."""
    mine = proposal(
        MINIMAL.replace(
            """change:
  stages:
    fuse: {fraction_bits: 20, result: {format: fp32, rounding: toward-zero}}
""",
            "",
        )
    )
    assert mine.proposed().stages == mine.today.stages


def test_merging_follows_rfc_7396():
    """Mappings merge, null removes, anything else replaces; neither argument is changed."""
    spec = {"a": {"b": 1, "c": 2}, "d": [1, 2]}
    assert merge(spec, {"a": {"b": None, "e": 3}, "d": [9]}) == {"a": {"c": 2, "e": 3}, "d": [9]}
    assert spec == {"a": {"b": 1, "c": 2}, "d": [1, 2]}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fraction_bits: 20", "fraction_bit: 20", "mine.yaml:7:12: unknown field `fraction_bit`"),
        ("fraction_bits: 20", "fraction_bits: -1", "mine.yaml:7:27: must be from 0 to 128, got -1"),
        (BASE, BASE + "x", "did you mean `hopper.wgmma.m64n256k32.f32.e4m3.e4m3`"),
        (
            "numerics.relative_frobenius",
            "numerics.relative_frobenus",
            "did you mean `numerics.relative_frobenius`",
        ),
        (", at_most: 1.0e-3", "", "a claim needs a bound"),
        ("at_most: 1.0e-3", "at_most: 1.0e-3, at_least: 2", "at_least 2 is above at_most 0.001"),
        ("at_most: 1.0e-3", "at_most: 1.0e-3, relative_to: proposal", "relative to itself"),
        ("at_most: 1.0e-3", "at_most: 1.0e-3, at: 17", "the proposal has no `sweep`"),
        ("claims:", "workloads: [deepseek-v2]\nclaims:", "did you mean `deepseek-v3`"),
        ("claims:", "tensors: [norml]\nclaims:", "did you mean `normal`"),
        ("claims:", "sweep: {field: description, values: [a, b]}\nclaims:", "fields there: shape, a, b, "),
        (
            "claims:",
            "sweep: {field: stages.fuse.fraction_bit, values: [1, 2]}\nclaims:",
            "did you mean `stages.fuse.fraction_bits`",
        ),
        (
            "claims:",
            "sweep: {field: stages.fuse.fraction_bits, values: [14, -3]}\nclaims:",
            "must be from 0 to 128, got -3",
        ),
        (
            "claims:",
            "software: {promote_every: 96}\nclaims:",
            "groups of 128 cannot be scaled by a promotion every 96",
        ),
        ("claims:", "software: {promote_every: 48, group: 96}\nclaims:", "48 is not a multiple of that"),
        (
            "format: fp32, rounding: toward-zero",
            "format: fp33, rounding: toward-zero",
            "unknown number format `fp33`",
        ),
        (
            "format: fp32, rounding: toward-zero",
            "format: null, rounding: toward-zero",
            "missing field `format`",
        ),
        ("proposal: mine", "proposal: My Proposal", "proposal"),
    ],
)
def test_mistakes_are_told_with_place_and_remedy(old, new, message):
    """Every mistake in a file, also in the instruction's part, is reported at its place with a remedy."""
    assert message in refused(MINIMAL.replace(old, new)).replace("\n     = ", " ")


def test_faults_of_the_proposal_and_of_its_change_come_together():
    """A wrong claim and a wrong stage in one file are reported together."""
    text = refused(
        MINIMAL.replace("fraction_bits: 20", "fraction_bit: 20").replace("at_most: 1.0e-3", "at_mos: 1.0e-3")
    )
    assert "fraction_bit" in text
    assert "at_mos" in text


def test_a_family_takes_each_swept_value():
    """proposed(value) has the value in the swept field; proposed() has the proposal's own."""
    mine = proposal(MINIMAL.replace("claims:", "sweep: {field: stages.fuse.fraction_bits, values: [14, 30]}\nclaims:"))
    assert [mine.proposed(v).stages["fuse"].fraction_bits for v in (None, 14, 30)] == [20, 14, 30]


def test_workload_names_select_passes_and_gemms():
    """The name of a model selects all its GEMMs, that of a pass its six; K of wgrad is the tokens."""
    assert len(select("deepseek-v3")) == 18
    assert {(g.n, g.k) for g in select("deepseek-v3.fprop")} == {
        (2112, 7168),
        (24576, 1536),
        (32768, 512),
        (7168, 16384),
        (4096, 7168),
        (7168, 2048),
    }
    assert {g.name.split(".")[2]: g.k for g in select("deepseek-v3.wgrad")} == {
        **dict.fromkeys(("qkv-a", "q-b", "kv-b", "o"), 4096),
        **dict.fromkeys(("gate-up", "down"), 8 * 4096 // 4),  # 8 experts a token, 4 experts on a GPU
    }
    assert gemms()["deepseek-v3.dgrad.o"].k == 7168


# -- claims ----------------------------------------------------------------------------------------------------------


def figure(value, low, high, workload="deepseek-v3.fprop.o", variant="proposal", tensors="normal", at=None):
    return Figure(
        metric="numerics.relative_frobenius",
        variant=variant,
        at=at,
        workload=workload,
        tensors=tensors,
        value=value,
        low=low,
        high=high,
        kind="computed",
        source="test",
    )


def verdict(claim, *figures):
    mine = proposal().model_copy(update={"claims": (Claim(metric="numerics.relative_frobenius", **claim),)})
    return judge(mine, figures)[0]


@pytest.mark.parametrize(
    ("interval", "judgement"),
    [
        ((1.0, 0.9, 1.1), "supported"),
        ((2.5, 2.4, 2.6), "refuted"),
        ((2.0, 1.9, 2.1), "undetermined"),
        ((None, None, None), "refuted"),
    ],
)
def test_a_claim_holds_breaks_or_straddles(interval, judgement):
    """An interval under the bound supports a claim, one above it or not finite refutes it, any other leaves it undetermined."""
    assert verdict({"at_most": 2.0}, figure(*interval)).judgement == judgement


def test_the_worst_gemm_decides():
    """One GEMM beyond the bound refutes a claim and is shown; a claim on another GEMM alone holds."""
    good, bad = figure(1.0, 0.9, 1.1), figure(3.0, 2.9, 3.1, workload="deepseek-v3.fprop.down")
    result = verdict({"at_most": 2.0}, good, bad)
    assert result.judgement == "refuted"
    assert result.deciding == bad
    assert result.covered == 2
    assert verdict({"at_most": 2.0, "workload": "deepseek-v3.fprop.o"}, good, bad).judgement == "supported"


def test_lower_bounds_look_at_the_smallest():
    """at_least is judged at the smallest figure, and two bounds at the figure farther out."""
    low, high = figure(1.0, 0.9, 1.1), figure(3.0, 2.9, 3.1, workload="deepseek-v3.fprop.down")
    assert verdict({"at_least": 2.0}, low, high).deciding == low
    assert verdict({"at_least": 0.5}, low, high).judgement == "supported"
    assert verdict({"at_least": 0.5, "at_most": 2.0}, low, high).deciding == high


def test_relative_claims_bound_the_ratio_per_gemm():
    """relative_to divides each figure by its counterpart, with the widest interval that both allow."""
    result = verdict(
        {"relative_to": "software", "at_most": 0.6},
        figure(1.0, 0.9, 1.1),
        figure(2.0, 1.8, 2.2, variant="software"),
    )
    assert result.judgement == "undetermined"
    assert result.deciding.value == 0.5
    assert result.deciding.low == pytest.approx(0.9 / 2.2, rel=1e-5)
    assert result.deciding.high == pytest.approx(1.1 / 1.8, rel=1e-5)


def test_without_evidence_nothing_is_decided():
    """A claim on a metric without figures is undetermined, with the reason."""
    mine = proposal().model_copy(update={"claims": (Claim(metric="timing.speedup_over_software", at_least=1.1),)})
    (result,) = judge(mine, [figure(1, 1, 1)])
    assert (result.judgement, result.deciding) == ("undetermined", None)
    assert result.reason == "no kernel of it is timed; Method says why"


def test_claims_read_as_sentences():
    """The statement of a claim names metric, variant, bounds and scope."""
    claim = Claim(metric="numerics.sqnr_db", at_least=30, workload="deepseek-v3.fprop", tensors="normal", of="today")
    assert statement(claim) == "numerics.sqnr_db of today at least 30 dB on deepseek-v3.fprop with normal tensors"


BLACKWELL = "blackwell.tcgen05.m128n8k32.kind::"
BLOCK_SCALED = {
    "mxf8f6f4": f"{BLACKWELL}mxf8f6f4.block32.f32.e4m3.e4m3.ue8m0",
    "nvf4": "blackwell.tcgen05.m128n8k64.kind::mxf4nvf4.block16.f32.e2m1.e2m1.ue4m3",
}


@pytest.mark.parametrize("base", BLOCK_SCALED.values(), ids=BLOCK_SCALED)
def test_todays_software_of_a_block_scaled_base_is_the_base(base):
    """Today's software of a base that applies scales itself is the base, since promotion would scale twice."""
    text = MINIMAL.replace(BASE, f'"{base}"').replace("fraction_bits: 20", "fraction_bits: 5")
    mine = proposal(text)
    assert mine.software_instruction == mine.today
    assert mine.proposed().scale == mine.today.scale
    assert "leave `promote_every` and `group` out" in refused(text + "software: {promote_every: 128}\n")
    assert f"Today's software is {mine.practice.title}" in " ".join(_method(mine, Sampling()))
    trial = Trial(next(iter(select("deepseek-v3.fprop"))), "normal", 0, 2, 2, mine.rule)
    errors = [trial.outcome(i).d - trial.outcome(i).exact for i in (mine.software_instruction, mine.proposed())]
    assert abs(errors[0]).max() < 1e-3 < abs(errors[1]).max()


def test_what_blackwell_shipped_can_be_said_as_a_change():
    """FP8 without scales, changed to have scales of groups of 32, equals Blackwell's mxf8f6f4."""
    side = "{group: %s, format: ue8m0}"
    scale = f"scale: {{a: {side % [1, 32]}, b: {side % [32, 1]}}}"
    text = f"""proposal: mx
title: Scales of groups of 32
source: me
base: "{BLACKWELL}f8f6f4.f32.e4m3.e4m3"
change: {{{scale}}}
claims:
  - {{metric: numerics.relative_frobenius, at_most: 1.0e-3}}
"""
    shipped, mine = load(BLOCK_SCALED["mxf8f6f4"]), proposal(text)
    assert (mine.proposed().stages, mine.proposed().scale) == (shipped.stages, shipped.scale)
    assert mine.software_instruction.scale.a.format.name == "fp32"


@pytest.mark.parametrize("path", sorted((ROOT / "proposals").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_kind_of_gemm_of_a_shipped_proposal_computes(path):
    """Every variant computes D for each pass, for routed experts and others, with synthetic and captured tensors."""
    made = load_proposal(path)
    compared = tuple(variants(made))
    kinds = {}
    for gemm, tensors in sorted(made.trials, key=lambda trial: trial[0].k):
        kinds.setdefault((gemm.tokens_along_k, gemm.a, sent(gemm), tensors == "captured"), (gemm, tensors))
    for gemm, tensors in kinds.values():
        job = Job(gemm, tensors, Sampling(rows=2, columns=2, seeds=(0,)), made, compared)
        assert all(errors.count.sum() > 0 for errors in run(job))


def test_the_package_loads_evaluates_and_compares(tmp_path):
    """The public functions take a file or a shipped name, give a result, and refuse a comparison of one."""
    (tmp_path / "mine.yaml").write_text(MINIMAL + "workloads: [deepseek-v3.fprop.o]\ntensors: [normal]\n")
    result = codesign.evaluate(codesign.load(tmp_path / "mine.yaml"), rows=2, columns=2, seeds=[0])
    assert result.verdicts[0].claim.metric == "numerics.relative_frobenius"
    assert codesign.load(SHIPPED[0].stem) == load_proposal(SHIPPED[0])
    with pytest.raises(InputError, match="two proposals"):
        codesign.compare([result])


def test_importing_the_package_imports_nothing_else():
    """The package imports what a function needs on its first call."""
    code = "import codesign, sys; print(*(m for m in ('numpy', 'pydantic') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout.split()
    assert {"__version__", "compare", "evaluate", "load"} <= set(codesign.__all__)
    assert codesign.__version__
    with pytest.raises(AttributeError, match="no attribute"):
        _ = codesign.judge
