"""Cost records: figures, plots and claims from them, and comparisons with published figures."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("amaranth")
pytest.importorskip("pyosys")

from codesign.evidence.cost import family, records, sweep
from codesign.evidence.cost.attribution import parts_of, shared, steps
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.plots import plots, waterfall
from codesign.evidence.cost.rtl.ports import check, shared_uses
from codesign.evidence.cost.rtl.unit import unit
from codesign.evidence.cost.source import SOURCE
from codesign.evidence.cost.synth import synthesise
from codesign.evidence.cost.unit_vectors import adversarial
from codesign.evidence.source import Subject
from codesign.proposal.load import load_proposal
from codesign.verdicts.claims import judge
from isa_model import InputError, load

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "checks"), str(ROOT / "pages")]

import cost_curves  # noqa: E402
import published_cost  # noqa: E402
import unit_rtl  # noqa: E402
from circuits import CircuitBench, add_ripple, multiply_integers  # noqa: E402
from cost_curves import designs  # noqa: E402


def test_a_design_is_known_by_its_hardware():
    """m, n and prose do not change a design's hash; a fraction bit does."""
    base = load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3")
    assert records.design_sha256(base) == records.design_sha256(load("hopper.wgmma.m64n8k32.f32.e4m3.e4m3"))
    proposal = load_proposal(ROOT / "proposals/configurable-accumulation.yaml")
    assert len({records.design_sha256(proposal.proposed(v)) for v in (None, 13, 17, 25)}) == 3


def has_hardware(path):
    """Return whether a proposal changes the instruction to one that the generator can build."""
    proposal = load_proposal(path)
    try:
        check(proposal.proposed())
    except InputError:
        return False
    return not proposal.multiplies_as_today


def generated_sha256(spec):
    """Return the hash of the unit that the generator writes today; a base that proposals share is generated once."""
    design = records.design_sha256(spec)
    if design not in _generated:
        _generated[design] = hashlib.sha256(unit(spec, shared_uses(spec) > 1).encode()).hexdigest()
    return _generated[design]


_generated = {}
NEW_INSTRUCTIONS = [p for p in sorted((ROOT / "proposals").glob("*.yaml")) if has_hardware(p)]


@pytest.mark.parametrize("path", NEW_INSTRUCTIONS, ids=lambda p: p.stem)
def test_every_shipped_proposal_has_records_and_figures(path):
    """Base and proposal have records of the present generator and script, proven on 100,000 vectors, and cost figures."""
    proposal = load_proposal(path)
    for spec in (proposal.today, proposal.proposed()):
        record = records.find(spec, "neutral")
        assert record is not None, spec.name
        assert record.equivalence.vectors >= 100_000
        assert record.equivalence.mismatches == 0
        assert not record.commit.endswith("+")
        assert generated_sha256(spec) == record.rtlil_sha256, "the generator writes another unit today"
    figures = {f.metric: f for f in SOURCE.gather(Subject(proposal)).figures if f.at is None}
    ratios = {"cost.area_ratio", "cost.delay_ratio", "cost.energy_ratio"}
    per_unit = {"cost.extra_cycles", "cost.cycle_ratio", "cost.extra_register_bits", "cost.accumulator_traffic"}
    per_unit |= {"cost.extra_loop_cycles"}
    per_unit |= {f"cost.area_of_{idea}" for idea in parts_of(proposal.today, proposal.proposed(), "neutral")}
    per_sm = {"cost.scale_traffic", "cost.scale_bandwidth", "cost.scale_storage"}
    if not proposal.in_slices:
        per_sm.add("cost.operand_bits")
    if proposal.base.startswith("hopper."):  # the only chip whose SM's area has a source
        per_sm.add("cost.sm_area_ratio")
    assert figures.keys() == ratios | per_unit | per_sm
    for name, figure in figures.items():
        assert figure.low <= figure.value <= figure.high
        assert name not in ratios or proposal.base in figure.source
    verdicts = [
        v for v in judge(proposal, SOURCE.gather(Subject(proposal)).figures) if v.claim.metric.startswith("cost.")
    ]
    assert verdicts or not proposal.change  # what already shipped need claim nothing of its cost
    assert all(v.deciding is not None for v in verdicts)


def test_an_area_is_split_into_the_ideas_of_the_proposal():
    """The parts add up to the ratio; bits are charged to bits, and scales in exponents to scaling alone."""
    proposal = load_proposal(ROOT / "proposals/group-scaled-mma-ue8m0.yaml")
    ideas = steps(proposal.today, proposal.proposed())
    assert list(ideas) == ["bits", "scaling"]
    assert records.design_sha256(ideas["bits"]) == records.design_sha256(
        load_proposal(ROOT / "proposals/configurable-accumulation.yaml").proposed(25)
    )
    parts = parts_of(proposal.today, proposal.proposed(), "neutral")
    figures = {f.metric: f for f in SOURCE.gather(Subject(proposal)).figures}
    gates = 1 + parts["bits"] + parts["scaling"]
    assert gates == pytest.approx(figures["cost.area_ratio"].value, abs=1e-3)
    assert parts["scaling"] < 0.06 < parts["bits"]
    assert figures["cost.area_of_scaling"].value == pytest.approx(parts["scaling"], abs=1e-3)
    (plot,) = (p for p in waterfall(proposal))
    assert plot.series[0].y[0] == 100
    assert len(plot.categories) == len(parts) + 1


def test_steps_lead_from_the_base_to_the_proposal():
    """Bits come first, then operands, order without scales, and scales; a base with scales has a step if one idea changes."""
    proposal = load_proposal(ROOT / "proposals/group-scaled-mma.yaml")
    ideas = steps(proposal.today, proposal.proposed())
    assert list(ideas) == ["bits", "order", "scaling"]
    assert ideas["bits"].scale is None
    assert ideas["order"].scale is None
    assert ideas["order"].span == 128
    assert ideas["scaling"] == proposal.proposed()
    blackwell = load_proposal(ROOT / "proposals/blackwell-mxf8f6f4.yaml")
    assert steps(blackwell.today, blackwell.proposed()) == {}
    for name, ideas in {
        "fp4-weights": ["bits", "operands", "scaling"],
        "lut-weights": ["operands"],
        "ue5m3-scales": ["scaling"],
        "batch-invariant-split-k": ["bits"],
        "int8-group-scaled": ["order", "scaling"],
    }.items():
        proposal = load_proposal(ROOT / f"proposals/{name}.yaml")
        assert list(steps(proposal.today, proposal.proposed())) == ideas, name
    assert shared(blackwell.today) is None


def test_a_family_names_its_cheapest_member_for_each_claim(monkeypatch):
    """The report names the cheapest member for each claim, whether one keeps all, and what software's accuracy costs."""
    proposal = load_proposal(ROOT / "proposals/group-scaled-mma.yaml")
    today = records.find(proposal.today, "neutral")
    some = sweep.shipped().points[0]

    def member(label, area, error, over):
        errors = {"accumulation": {"normal": error}, "over_1_bf16_ulp": {"normal": over}}
        return some.model_copy(update={"label": label, "area": area * today.area, **errors})

    family_of = [member("small", 1.1, 1e-3, 0.1), member("medium", 1.2, 1e-4, 0.1), member("large", 1.4, 1e-7, 0)]
    monkeypatch.setattr(family, "members", lambda _: family_of)
    monkeypatch.setattr(sweep, "errors", lambda *_: (1.3e-4, 0.0, 0.0))
    *of_claims, together = family.sentences(proposal, today)
    cheapest = [s.split(" (")[0].split(": ")[1] for s in of_claims]
    assert cheapest == ["medium", "large", "small"]  # the first keeps two claims
    assert together.startswith("No design of the family meets all 4 claims")
    assert together.endswith("as accurate as software (medium) costs 20 % over today's unit.")


def test_the_shipped_family_is_measured_and_spans_software_accuracy():
    """Members are compared with the model, hold the folded tail, and the report of group-scaled-mma sums them up."""
    found = sweep.shipped(sweep.FAMILY)
    assert not found.commit.endswith("+")
    assert [p.label for p in found.points] == [d.label for d in cost_curves.family()]
    assert all(p.vectors >= 10_000 for p in found.points)
    assert {p.products for p in found.points} == {32, 128}
    proposal = load_proposal(ROOT / "proposals/group-scaled-mma.yaml")
    *_, together = family.sentences(proposal, records.find(proposal.today, "neutral"))
    assert "claims" in together
    assert "the cheapest one as accurate as software" in together


def test_shipped_units_passed_the_gate():
    """checks/unit_rtl.json has units as they are generated today, without a mismatch, a warning or a missed fault."""
    found = json.loads(unit_rtl.RECORD.read_text())["units"]
    wanted = {records.design_sha256(spec): spec for _, spec, _ in unit_rtl.designs()}
    assert found.keys() == wanted.keys()
    for design, entry in found.items():
        assert not unit_rtl.wrong(entry)
        if "refused" not in entry:
            assert entry["vectors"] >= unit_rtl.VECTORS_EACH
            assert entry["verilator_warnings"] == 0
            assert not entry["commit"].endswith("+")
            record = records.find(wanted[design], "neutral")
            if (
                record and shared_uses(wanted[design]) == 1
            ):  # otherwise the record's unit takes the product of its scales
                assert entry["rtlil_sha256"] == record.rtlil_sha256
    states = [state for entry in found.values() for state in entry.get("planted", {}).values()]
    assert states.count("noticed") >= 8


def test_units_sized_for_a_clock_are_compared_at_like_periods():
    """The ratio of sized areas is per product; a unit much faster than the clock is not compared."""
    from codesign.evidence.cost import source

    proposal = load_proposal(ROOT / "proposals/configurable-accumulation.yaml")
    new, old = (records.find(s, "Nangate45_typ") for s in (proposal.proposed(), proposal.today))
    assert source.sized_ratio(new, old) == pytest.approx(new.sized.area / old.sized.area)
    faster = new.sized.model_copy(update={"period_fo4": 0.8 * old.sized.period_fo4})
    assert source.sized_ratio(new.model_copy(update={"sized": faster}), old) is None
    assert source.sized_ratio(records.find(proposal.proposed(), "neutral"), old) is None


def test_a_design_without_record_is_synthesised_where_a_claim_needs_it(monkeypatch):
    """Claimed designs without a record are measured, the base once; what cannot be measured is predicted, and says so."""
    from codesign.evidence.cost import source as evidence

    proposal = load_proposal(ROOT / "proposals/configurable-accumulation.yaml")
    made = []

    def measured(spec, library, vectors, words):
        made.append(spec.name)
        if "at 17" in spec.name:
            raise InputError.of("no hardware")
        return records.find(spec, "neutral")

    monkeypatch.setattr(evidence, "find", lambda *_, **__: None)
    monkeypatch.setattr(evidence, "measure", measured)
    figures = SOURCE.gather(Subject(proposal)).figures
    ratios = [f for f in figures if f.metric == "cost.area_ratio"]
    assert all(f.source.startswith("predicted") and f.low < f.value < f.high for f in ratios)
    assert len(ratios) == len((None, *proposal.swept))
    assert sorted(made) == sorted(["configurable-accumulation at 17", proposal.base])


def test_a_figure_names_the_commit_of_its_record_or_says_that_it_was_made_now(monkeypatch):
    """A unit synthesised for the report has no commit."""
    from codesign.evidence.cost import source as evidence

    proposal = load_proposal(ROOT / "proposals/higher-precision-accumulation.yaml")
    own = records.find(proposal.proposed(), "neutral")
    sources = {}
    for commit in ("", "0123456789ab"):
        record = own.model_copy(update={"commit": commit})
        found = evidence._of_records([(record, own)], None, proposal, proposal.proposed())
        sources[commit] = next(f for f in found if f.metric == "cost.area_ratio").source
    assert "synthesised for this report)" in sources[""]
    assert "commit 0123456789ab)" in sources["0123456789ab"]


def test_a_folded_unit_is_an_alternative_of_the_area(monkeypatch):
    """Where a unit's tail can be shared, the verdict names that structure, and the interval covers it."""
    from codesign.evidence.cost import source as evidence

    proposal = load_proposal(ROOT / "proposals/higher-precision-accumulation.yaml")
    own = records.find(proposal.proposed(), "neutral")
    fold = own.model_copy(update={"name": "it, its tail shared by 4 units", "area": 0.5 * own.area})

    def find(spec, library, folded=False):
        return fold if folded else records.find(spec, library)

    monkeypatch.setattr(evidence, "find", find)
    ratio = next(f for f in SOURCE.gather(Subject(proposal)).figures if f.metric == "cost.area_ratio")
    other = next(a for a in ratio.alternatives if a.assumption == "structure")
    assert (other.other, other.value) == ("its tail shared by 4 units", pytest.approx(ratio.value / 2, abs=1e-4))
    assert ratio.low <= other.value


def test_measured_designs_are_kept_by_everything_they_depend_on(tmp_path, monkeypatch):
    """A cached record is found by its key, which changes with the library, workload or source."""
    from codesign.evidence.cost import record_cache

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = load("hopper.wgmma.m64n8k32.f32.e4m3.e4m3")
    vectors = next(iter(adversarial(spec, 0, 4)))
    keys = {
        record_cache.key(spec, sources, library, batch, words)
        for sources in (["x"], ["y"])
        for library in (Library.own(), Library("mine", ""))
        for batch in (vectors, next(iter(adversarial(spec, 1, 4))))
        for words in ("a", "b")
    }
    assert len(keys) == 16
    key = keys.pop()
    assert record_cache.read(key) is None
    record = records.find(load("hopper.wgmma.m64n8k32.f32.e4m3.e4m3"), "neutral")
    record_cache.write(key, record)
    assert record_cache.read(key) == record


def test_chip_figures_follow_from_the_records():
    """Chip figures equal those by hand; scales of FP32 per 128 and of UE8M0 per 32 are 1/32 of the operands."""
    from codesign.evidence.cost.chip import scale_bandwidth, scale_storage, scale_traffic, sm_area

    for name in ("group-scaled-mma", "group-scaled-mma-ue8m0"):
        spec = load_proposal(ROOT / f"proposals/{name}.yaml").proposed()
        assert scale_traffic(spec).value == 1 / 32
        assert (
            scale_bandwidth(spec).value == (64 + 256) / 128
        )  # one byte per row and column in the 128 cycles of m64n256k32
        assert scale_storage(spec).value == 4 * (128 + 256) * 4  # four stages of four bytes per row and column
    proposal = load_proposal(ROOT / "proposals/higher-precision-accumulation.yaml")
    new, old = (records.find(s, "neutral") for s in (proposal.proposed(), proposal.today))
    extra = (new.pipelined.area - old.pipelined.area) * 4 * 128
    assert sm_area(new, old, proposal.proposed()).value == pytest.approx(1 + extra / (80e9 / 144 * 0.55))


def test_published_figures_stand_beside_ours_in_the_docs():
    """The table in docs/cost.md is the record's, its adder and multiplier are reproduced, and most figures are near."""
    record = published_cost.shipped()
    assert published_cost.table(record) in (ROOT / "docs/cost.md").read_text()
    rows = {row.quantity: row for row in record.rows}
    bench = CircuitBench(Library.own())
    for circuit, what in ((add_ripple, "addition"), (multiply_integers, "multiplication")):
        reference = {"addition": lambda x, y: x + y & 0xFF, "multiplication": published_cost._product(8)}[what]
        row = rows[f"area, 8-bit integer {what}"]
        area = bench.circuit(circuit, {"x": 8, "y": 8}, reference).area * published_cost.NAND2_45NM
        assert row.ours == pytest.approx(area, rel=0.01)
    near = [*(f"area, {n}-bit integer addition" for n in (8, 16, 32)), "area, 8-bit integer multiplication"]
    near += ["FP8 (E4M3), window of 24 to 32 bits", "the same, INT8's multipliers with a row per bit"]
    assert all(rows[name].ours == pytest.approx(rows[name].theirs, rel=0.15) for name in near)


def test_a_circuit_that_is_not_its_reference_has_no_figure():
    """The bench refuses to measure a circuit that differs from numpy."""
    with pytest.raises(RuntimeError, match="differs from its reference"):
        CircuitBench(Library.own()).circuit(add_ripple, {"x": 4, "y": 4}, lambda x, y: x)


def test_the_curves_are_of_proven_designs_of_today():
    """Points are proven on 100,000 vectors; more fraction bits cost no less; a repeated point has its area."""
    curves = sweep.shipped()
    assert all(point.vectors >= 100_000 for point in curves.points)
    assert not curves.commit.endswith("+")
    wanted = [(d.curve, d.label) for d in designs()]
    assert [(p.curve, p.label) for p in curves.points if p.curve != "proposals"] == wanted
    bits = [point.area for point in curves.curve("fraction-bits")]
    assert bits == sorted(bits)
    design = next(d for d in designs() if d.label == "4 terms, 13 bits")
    point = next(p for p in curves.points if p.label == design.label)
    assert synthesise(unit(design.spec), Library.own()).netlist.area == pytest.approx(point.area, rel=0.01)


def test_the_report_marks_the_proposal_on_the_curves(tmp_path):
    """Each plot has the proposal's area, no design beats the front in both axes, and another base has no plots."""
    proposal = load_proposal(ROOT / "proposals/group-scaled-mma-ue8m0.yaml")
    pictures = {plot.name: plot for plot in plots(proposal)}
    assert len(pictures) == 5
    ratio = next(f for f in SOURCE.gather(Subject(proposal)).figures if f.metric == "cost.area_ratio").value
    for plot in pictures.values():
        marks = {s.variant: s for s in plot.series if len(s.x) == 1 and not s.labels}
        assert ratio in (*marks["proposal"].x, *marks["proposal"].y)
    for name in ("cost-accumulation", "cost-total"):
        series = {s.variant: s for s in pictures[name].series}
        front = list(zip(series["front"].x, series["front"].y, strict=True))
        for s in (series["area"], series["energy_points"], series["curve_points"], series["shipped"]):
            for x, y in zip(s.x, s.y, strict=True):
                assert not any(x < fx and y < fy for fx, fy in front), s.label
    text = (ROOT / "proposals/group-scaled-mma-ue8m0.yaml").read_text()
    (tmp_path / "p.yaml").write_text(text.replace("m64n256k32.f32.e4m3.e4m3", "m64n256k32.f32.e5m2.e5m2"))
    assert plots(load_proposal(tmp_path / "p.yaml")) == ()
