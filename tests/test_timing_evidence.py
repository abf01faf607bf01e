"""Timing evidence of proposals, on times made by the model: comparisons, certainty, bounds and assumptions."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from codesign.evidence.sampling import Sampling
from codesign.evidence.source import Subject
from codesign.evidence.timing import machine_constants, measured, ratio_errors, records, times
from codesign.evidence.timing import source as evidence
from codesign.evidence.timing.measured import product
from codesign.evidence.timing.model import Product, Stream, time
from codesign.evidence.timing.operations import clocks, of_gemm, schemes_of, software, supported
from codesign.figures.evidence import Evidence
from codesign.proposal.load import load_proposal, parse_proposal
from codesign.proposal.proposal import Claim
from codesign.report.write import contents
from codesign.verdicts.claims import judge
from codesign.verdicts.evaluate import evaluate
from codesign.workloads.gemms import gemms
from isa_model.diagnostics import parse_yaml
from kernels.bench.records import BenchRecord, BenchRow, BenchTiming
from kernels.bench.shapes import deepseek_v3
from kernels.gemm.choose import choose, gpu_of

PROPOSALS = Path(__file__).parent.parent / "proposals"
sys.path.insert(0, str(PROPOSALS.parent / "pages"))

import timing_fit  # noqa: E402

GPU = "NVIDIA H200"
H200 = machine_constants.machine(machine_constants.shipped()[GPU])
TRUE = next(iter(records.shipped().values())).constants
"""Of kernels on another GPU, taken for this one's."""


def rows():
    """Yield rows of DeepSeek-V3 at 4096 tokens: every GEMM and its twin, the native one, and the casts."""

    def row(kernel, implementation, shape, operation, size=0):
        static = ""
        if isinstance(operation, Product):  # one row that splits K would be all that a fit knows of splitting
            tile = choose(operation.problem, gpu_of(GPU), split_k=False)
            operation, static = replace(operation, tile=tile), tile.name
        us = time(operation, H200, TRUE).total
        timing = BenchTiming(us=us, p10=us * 0.99, p90=us * 1.01, samples=9, launches=9, sets=3, host_us=5, sm_mhz=1980)
        variant = "ours" if implementation.startswith("ours") else "twin"
        about = {"kernel": kernel, "implementation": implementation, "variant": variant}
        return BenchRow(**about, shape=shape, flops=0, least_bytes=size, timing=timing, static=static)

    for gemm in deepseek_v3((4096,)):
        for kernel, shape, scales in (
            ("gemm.fprop", gemm, 1),
            ("gemm.dgrad", gemm.dgrad, 1),
            ("gemm.wgrad", gemm.wgrad, 2),
        ):
            sizes = dict(zip("mnk", shape, strict=True))
            for implementation, promote in (("ours", 4), ("no-promotion", 0)):
                yield row(kernel, implementation, sizes, product(*shape, scales, promote))
        yield row("gemm.native", "ours", dict(zip("mnk", gemm, strict=True)), product(*gemm, 0, 0))
    for k in (512, 1536, 2048, 7168, 16384):
        for kernel, bits in (("rows", 24), ("both", 32), ("requantise", 16)):
            stream = Stream(4096, k, bits, kernel, fp32_requantised=kernel == "requantise")
            yield row(f"quantise.{kernel}", "ours", {"m": 4096, "k": k}, stream, 4096 * k * bits // 8)


@pytest.fixture(scope="module")
def bench():
    shipped = measured.load()[0].model_dump()
    return BenchRecord.model_validate(
        {**shipped, "name": "bench-made", "gpu": GPU, "cases": [r.model_dump() for r in rows()]}
    )


@pytest.fixture(scope="module")
def fitted(bench):
    """Return the fit to that record, and its ratios of kernels."""
    return timing_fit.make(bench, "", "the tests")


@pytest.fixture(autouse=True)
def made(bench, fitted, monkeypatch):
    """Return a timer on that record, fitted to it."""
    fit, ratios = fitted
    about = ratio_errors.RatioErrors(commit="", command="the tests", benches=(bench.name,), rows=tuple(ratios))
    monkeypatch.setattr(measured, "bench", lambda gpu="": bench)
    monkeypatch.setattr(ratio_errors, "shipped", lambda: about)
    monkeypatch.setattr(times, "shipped", lambda: {GPU: fit})
    times.timer.cache_clear()
    yield times.timer()
    times.timer.cache_clear()


def gathered(name, **changes):
    proposal = load_proposal(PROPOSALS / f"{name}.yaml").model_copy(update=changes)
    return proposal, evidence.SOURCE.gather(Subject(proposal))


def by_key(found):
    return {(f.metric, f.workload, f.variant, f.at): f for f in found.figures}


def test_the_fit_is_as_good_as_its_rows(made):
    """Held-out times made by the model are predicted within 5 % on average, and speedups within 5 % at worst."""
    errors = {e.kernel: e for e in made.fit.errors}
    assert errors["all GEMMs"].mean < 0.05
    assert all(abs(r.modelled / r.measured - 1) < 0.05 for r in made.ratios.rows)
    assert errors["all"].rows == len(list(rows()))


def test_an_operation_is_measured_where_a_row_has_it(made):
    """A GEMM of the record has its median and percentiles; another shape is modelled, with the model's error factor."""
    there, elsewhere = made.time(product(4096, 4096, 7168, 1, 4)), made.time(product(4096, 4096, 8192, 1, 4))
    assert there.kind == "measured"
    assert (there.low, there.high) == (pytest.approx(there.us * 0.99), pytest.approx(there.us * 1.01))
    assert "bench-made (NVIDIA H200): gemm.fprop ours 4096x4096x7168" in there.source
    assert elsewhere.kind == "modelled"
    assert elsewhere.high / elsewhere.us == pytest.approx(made.fit.reach.product)


def test_figures_say_what_they_are():
    """Software and twin of a measured GEMM are measured, the proposal is modelled; a model without rows is modelled."""
    _, found = gathered("group-scaled-mma", workloads=("deepseek-v3.fprop", "llama-3-8b.fprop"))
    kinds = {(f.workload, f.variant): f.kind for f in found.figures if f.metric == "timing.microseconds"}
    assert kinds["deepseek-v3.fprop.o", "software"] == kinds["deepseek-v3.fprop.o", "twin"] == "measured"
    assert kinds["deepseek-v3.fprop.o", "proposal"] == "modelled"
    assert kinds["llama-3-8b.fprop.o", "software"] == "modelled"
    assert all(f.low <= f.value <= f.high and f.source for f in found.figures)


def test_a_speedup_is_bounded_by_the_measured_twin(made):
    """No GEMM of an instruction gains more than the fastest measured kernel without promotion."""
    _, found = gathered("group-scaled-mma", workloads=("deepseek-v3",))
    figures = by_key(found)
    for (metric, workload, _, _), f in figures.items():
        if metric == "timing.speedup_over_software":
            times = [figures["timing.microseconds", workload, v, None] for v in ("software", "twin", "today")]
            if times[1].kind != "measured":  # of an expert's wgrad, which the bench has at another length
                assert ".wgrad." in workload
                continue
            old, twin, native = (t.value for t in times)
            least = twin if ".wgrad." in workload else min(twin, native)
            assert f.high <= old / least * (1 + 2e-4)  # both are rounded


def test_a_twin_slower_than_its_kernel_takes_nothing_from_a_proposal(made, bench, monkeypatch):
    """A twin on another tile may be slower than its kernel; the gain then follows from the kernel and the model."""
    name = "deepseek-v3.fprop.o"

    def slowed(row):
        if (row.implementation, row.shape["k"], row.kernel) != ("no-promotion", 16384, "gemm.fprop"):
            return row
        slow = {key: getattr(row.timing, key) * 1.3 for key in ("us", "p10", "p90")}
        return row.model_copy(update={"timing": row.timing.model_copy(update=slow)})

    before = by_key(gathered("group-scaled-mma")[1])["timing.speedup_over_software", name, "proposal", None]
    slower = bench.model_copy(update={"cases": tuple(map(slowed, bench.cases))})
    monkeypatch.setattr(measured, "bench", lambda gpu="": slower)
    times.timer.cache_clear()
    after = by_key(gathered("group-scaled-mma")[1])
    twin, old = (after["timing.microseconds", name, v, None].value for v in ("twin", "software"))
    assert twin > old
    found = after["timing.speedup_over_software", name, "proposal", None]
    assert found.value == pytest.approx(before.value, rel=0.05)
    assert found.value > 1


def test_an_instruction_gains_what_promotion_took():
    """Every GEMM is faster, by under 1.5, if software promotes, the proposal does not, and the bytes are equal."""
    _, found = gathered("group-scaled-mma", workloads=("deepseek-v3",))
    gains = [f.value for f in found.figures if f.metric == "timing.speedup_over_software"]
    assert len(gains) == 18
    assert all(1.0 <= gain < 1.5 for gain in gains)


NARROW = """proposal: narrow
title: t
source: s
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change:
  stages:
    fuse: {terms: 8, fraction_bits: 25, result: {format: fp32, rounding: toward-zero, overflow: infinity}}
workloads: [deepseek-v3.fprop.o]
claims: [{metric: timing.speedup_over_software, at_least: 1.0}]
"""


def test_fewer_products_in_a_step_are_slower():
    """Sums of 8 instead of 32 products take four times the clocks, and a claim not to be slower is refuted."""
    proposal = parse_proposal(parse_yaml(NARROW, "narrow.yaml"))
    assert clocks(proposal.today, proposal.proposed()) == 4
    found = evidence.SOURCE.gather(Subject(proposal))
    (verdict,) = judge(proposal, found.figures)
    assert verdict.judgement == "refuted"
    assert verdict.deciding.value < 0.5
    assert any(bar.assumption == "rate of the Tensor Core" and bar.reversed_by for bar in verdict.bars)


def test_a_cast_in_the_copy_can_be_slower():
    """A cast in the copy engine saves a kernel but reads BF16 for every tile, which loses if no more than kernels show comes
    into an SM. Wgrad loses in any case, since both operands are turned from BF16."""
    proposal, found = gathered("fused-tma-cast", workloads=("deepseek-v3",))
    figures = by_key(found)
    fprop, wgrad = (
        figures["timing.speedup_over_software", f"deepseek-v3.{name}", "proposal", None]
        for name in ("fprop.o", "wgrad.kv-b")
    )
    assert fprop.low < 1 < fprop.value
    assert wgrad.high < 1
    today, new, _ = schemes_of(proposal)
    gemm = gemms()["deepseek-v3.fprop.o"]
    assert [s.what for s in of_gemm(gemm, today, software(proposal))] == ["write", "cast", "product"]
    assert [s.what for s in of_gemm(gemm, new, software(proposal))] == ["write", "product"]


def test_an_experts_gemm_has_no_cast_of_what_arrives_as_codes():
    """Dispatch sends FP8: neither a routed expert's gate-up nor its down's dgrad is written or cast there, in a layer or alone;
    the activation between them is made by the expert, and is."""
    today, _, _ = schemes_of(load_proposal(PROPOSALS / "warp-level-cast.yaml"))
    whats = {
        name: [
            s.what
            for s in of_gemm(
                gemms()[f"deepseek-v3.{name}"], today, software(load_proposal(PROPOSALS / "warp-level-cast.yaml"))
            )
        ]
        for name in ("fprop.gate-up", "dgrad.down", "fprop.down", "dgrad.gate-up")
    }
    assert whats["fprop.gate-up"] == ["product"]
    assert whats["fprop.down"] == whats["dgrad.gate-up"] == ["write", "cast", "product"]
    assert whats["dgrad.down"] == ["product"]


def test_a_cast_that_is_gone_saves_its_kernel(made):
    """With near-memory casting the GEMM is today's, and the difference is the measured cast."""
    _, found = gathered("near-memory-cast", workloads=("deepseek-v3.fprop",))
    figures = by_key(found)
    old, new = (figures["timing.microseconds", "deepseek-v3.fprop.qkv-a", v, None] for v in ("software", "proposal"))
    cast = made.time(Stream(4096, 7168, 24, "rows"))
    assert cast.kind == "measured"
    assert old.value - new.value == pytest.approx(cast.us, rel=1e-3)


def test_a_layer_is_the_sum_of_its_passes():
    """The step's speedup is between those of its passes, and Linears outside the workloads stay as today."""
    _, found = gathered("group-scaled-mma", workloads=("deepseek-v3.fprop",))
    steps = {f.workload: f.value for f in found.figures if f.metric == "timing.step_speedup"}
    assert steps["deepseek-v3.dgrad"] == steps["deepseek-v3.wgrad"] == 1
    assert 1 < steps["deepseek-v3"] < steps["deepseek-v3.fprop"]


def test_what_is_the_same_on_both_sides_is_not_uncertain():
    """A register cast does not change wgrad: its speedup is 1 without an interval."""
    _, found = gathered("warp-level-cast", workloads=("deepseek-v3.wgrad",))
    gains = [f for f in found.figures if f.metric == "timing.speedup_over_software"]
    assert {(f.low, f.value, f.high) for f in gains} == {(1.0, 1.0, 1.0)}


def test_freed_sms_are_assumed():
    """Communication beside the SMs frees 20 of them; the speedup is assumed, with an interval down to none occupied."""
    _, found = gathered("communication-offload", workloads=("deepseek-v3",))
    gains = [f for f in found.figures if f.metric == "timing.speedup_over_software"]
    assert {f.kind for f in gains} == {"assumed"}
    assert all(f.low <= 1.0001 and f.value > 0.95 for f in gains)  # where waves are no fewer, nothing is gained


def test_a_base_without_a_model_gets_no_time():
    """Blackwell's instructions and BF16 have no figures, and the method says why."""
    for name in ("blackwell-nvf4", "blackwell-mxf8f6f4"):
        proposal, found = gathered(name)
        assert not supported(proposal)
        assert not found.figures
        assert "no other base" in found.method[0]


def test_without_a_fit_there_is_no_time(monkeypatch):
    """On a GPU without a fit nothing is timed, and the method says what to do."""
    monkeypatch.setattr(times, "shipped", dict)
    times.timer.cache_clear()
    _, found = gathered("group-scaled-mma")
    assert not found.figures
    assert "python pages/timing_tables.py" in found.method[0]


def test_claims_on_a_step_are_of_the_layer():
    """timing.step_speedup is judged on the whole layer, or on the pass that the claim names."""
    claim = Claim(metric="timing.step_speedup", at_least=1.0)
    proposal, found = gathered(
        "group-scaled-mma", claims=(claim, claim.model_copy(update={"workload": "deepseek-v3.fprop"}))
    )
    whole, part = judge(proposal, found.figures)
    assert (whole.judgement, whole.deciding.workload) == ("supported", "deepseek-v3")
    assert (part.judgement, part.deciding.workload) == ("supported", "deepseek-v3.fprop")


def test_a_hungry_unit_lowers_the_clock():
    """With a cost record of twice the energy, a speedup has a lower alternative for each share of the chip's energy."""
    proposal = load_proposal(PROPOSALS / "group-scaled-mma.yaml").model_copy(
        update={"workloads": ("deepseek-v3.fprop.o",)}
    )
    bare = evidence.SOURCE.gather(Subject(proposal)).figures[-1]
    cost = bare.model_copy(update={"metric": "cost.energy_ratio", "value": 2.0, "at": None})
    before = (Evidence(source="cost", figures=(cost,)),)
    figures = evidence.SOURCE.gather(Subject(proposal, evidence=before)).figures
    (figure,) = [f for f in figures if f.metric == "timing.speedup_over_software"]
    cases = [o for o in figure.alternatives if o.assumption.startswith("energy of the unit")]
    assert len(cases) == 3
    assert all(o.value < figure.value for o in cases)


def test_the_report_draws_the_speed_of_light():
    """Both pages have a chart per pass with a bar per variant and GEMM, and a row per GEMM."""
    proposal = load_proposal(PROPOSALS / "near-memory-cast.yaml").model_copy(
        update={
            "workloads": ("deepseek-v3.fprop",),
            "tensors": ("normal",),
            "claims": (Claim(metric="timing.step_speedup", at_least=1.0),),
        }
    )
    result = evaluate(proposal, Sampling(rows=2, columns=2, seeds=(1, 2)))
    files = contents(result)
    chart = files["roofline-deepseek-v3.svg"].replace("&#x27;", "'")
    assert all(
        label in chart for label in ("TFLOP/s", "gate-up", "today's software", "native instruction, no promotion")
    )
    for page in (files["report.md"], files["report.html"]):
        assert "Roofline of a layer's GEMMs: deepseek-v3" in page.replace("&#39;", "'")
        assert "deepseek-v3.fprop.kv-b" in page
    (timing,) = [e for e in json.loads(files["result.json"])["evidence"] if e["source"] == "timing"]
    assert timing["figures"]
    assert contents(type(result).model_validate_json(files["result.json"])) == files
