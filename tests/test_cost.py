"""Hardware cost: units equal to the model in every part of the language, injected faults, synthesis and energy."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("amaranth")
pytest.importorskip("pyosys")

from cost_specs import FUSED, INT32, OWN, SPECS, aligned, instruction
from simple_gates import elaborate

from codesign.evidence.cost import records
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.energy import switched, workload_vectors
from codesign.evidence.cost.netlist import Netlist, pack, unpack
from codesign.evidence.cost.pipeline import pipeline
from codesign.evidence.cost.rtl.block import UnitDesign
from codesign.evidence.cost.rtl.ports import shared_uses
from codesign.evidence.cost.rtl.unit import scale_product, unit
from codesign.evidence.cost.synth import block_areas, synthesise
from codesign.evidence.cost.unit_vectors import UnitVectors, adversarial, of_matrices, specials
from codesign.evidence.cost.verify import against_golden, compare, faults_caught, outputs, prove
from codesign.evidence.numerics.trial import Trial
from codesign.proposal.proposal import Quantisation
from codesign.workloads.gemms import gemms
from isa_model import InputError, load

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def small():
    """Return a small unit's spec and mapped netlist."""
    spec = SPECS["4 terms"]
    return spec, synthesise(unit(spec), Library.own()).netlist


# -- equivalence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_a_unit_computes_what_the_model_does(name):
    """Every kind of stage, rounding, register, scale and special value gives the model's bits."""
    spec = SPECS[name]
    result = compare(elaborate(unit(spec)), (*adversarial(spec, 0, 16), *specials(spec)))
    assert result.vectors >= 1280
    assert result.mismatches == 0, result.first


def test_a_small_unit_is_right_for_every_input():
    """A unit with two products of E2M1 and C of six bits is right for all 2**22 inputs of the mapped netlist."""
    register = {"format": "e3m2ieee", "rounding": "nearest-even"}
    spec = instruction({"s": aligned(2, 3, accumulator=True, result=register)}, "e2m1", "e2m1", accumulator="e3m2ieee")
    netlist = synthesise(unit(spec), Library.own()).netlist
    pairs = np.stack(np.divmod(np.arange(256, dtype=np.uint8), 16), axis=1).astype(np.uint8)
    for c in range(64):
        vectors = of_matrices(spec, pairs, pairs.T, np.full((256, 256), c, np.uint8))
        assert np.array_equal(outputs(netlist, vectors), vectors.d), c


def test_the_mapped_base_gives_what_the_h200_recorded():
    """The netlist of Hopper's FP8 wgmma equals the recorded hardware on every single step, and has its record's cost."""
    spec = load("hopper.wgmma.m64n8k32.f32.e4m3.e4m3")
    netlist = synthesise(unit(spec), Library.own()).netlist
    record = records.find(spec, "neutral")
    assert record.library_sha256 == Library.own().sha256
    assert record.area == pytest.approx(netlist.area, rel=0.01)
    assert record.delay_fo4 == pytest.approx(netlist.delay / 5, rel=0.05)
    checked = 0
    with np.load(ROOT / "tests/fixtures/h200_mma.npz") as recorded:
        keys = [k[:-2] for k in recorded.files if k.startswith("wgmma_e4m3_f32/") and k.endswith("/1/D")]
        for key in keys:
            a, b, c, d = (recorded[f"{key}/{x}"] for x in "ABCD")
            for block in range(len(a)):
                vectors = of_matrices(spec, a[block], b[block].T, c[block].view(np.uint32))
                got = outputs(netlist, vectors)
                assert np.array_equal(got, d[block].view(np.uint32).ravel().astype("u8")), key
                checked += len(got)
    assert checked > 1000


def test_a_shared_product_of_scales_feeds_the_unit_to_the_same_bits():
    """The shared multiplier of scales and the unit equal the model together, and the unit is smaller."""
    half = {"format": "fp16", "rounding": "nearest-even"}
    stages = {"s": aligned(2, 8), "c": {"terms": 1, "zero": "ieee", "accumulator": True, "result": half}}
    scale = {"a": {"group": [1, 8], "format": "fp16"}, "b": {"group": [8, 2], "format": "fp16"}, "onto": "s"}
    product = {"format": "e5m2", "rounding": "nearest-even"}
    spec = instruction(stages, k=8, accumulator="fp16", scale={**scale, "product": product})
    assert shared_uses(spec) == 4 * 2  # four steps of a group, two columns
    product, alone = elaborate(scale_product(spec)), elaborate(unit(spec, shared=True))
    result = compare(product.feeding(alone, "scale"), adversarial(spec, 0, 16))
    assert result.mismatches == 0, result.first
    assert alone.area < elaborate(unit(spec)).area
    assert shared_uses(SPECS["scales added to exponents"]) == 1


@pytest.mark.parametrize("recoded", [False, True])
def test_multipliers_are_right_for_every_operand_and_sign(recoded, monkeypatch):
    """Both kinds of multipliers are right for all operands, signed and unsigned, of unequal widths."""
    from codesign.evidence.cost.rtl import carry_save

    monkeypatch.setattr(carry_save, "WIDE", 2 if recoded else 99)
    for bits, signs in (((5, 4), (0, 0)), ((4, 4), (0, 1)), ((3, 5), (1, 1)), ((5, 5), (1, 0))):
        design = UnitDesign()
        both = dict(zip("xy", bits, strict=True))
        design.define("unit", lambda b, x, y, s=signs: {"d": carry_save.multiply(b, x, y, *map(bool, s))}, both)
        codes = [grid.ravel() for grid in np.meshgrid(*(np.arange(1 << n) for n in bits))]
        x, y = (c - (s * (c >> (n - 1)) << n) for c, n, s in zip(codes, bits, signs, strict=True))
        vectors = UnitVectors({"x": codes[0][:, None], "y": codes[1][:, None]}, x * y & ((1 << sum(bits)) - 1))
        assert np.array_equal(outputs(elaborate(design.rtlil()), vectors), vectors.d.astype("u8")), (bits, signs)


def test_the_engine_behind_the_vectors_is_the_golden_model():
    """D of the vectors equals that of the scalar golden model."""
    assert against_golden(SPECS["scales added to exponents"], 100).mismatches == 0


def test_faults_are_caught(small):
    """Nearly every net held at 0 or 1 changes some D, and the intact netlist changes none."""
    spec, netlist = small
    assert prove(netlist, spec, at_least=5000).mismatches == 0
    faults, caught = faults_caught(netlist, spec, 30)
    assert faults == 60
    assert caught >= 0.9 * faults


def test_all_nets_of_a_unit_with_fewer_are_held():
    """A unit of a few gates has as many faults as its nets allow, each of which is noticed."""
    one = {"format": "uint1", "rounding": "nearest-even", "overflow": "wrap"}
    spec = instruction(
        {"s": {"terms": 1, "accumulator": True, "result": one}}, a="uint1", b="uint1", accumulator="uint1", k=1
    )
    netlist = synthesise(unit(spec), Library.own()).netlist
    assert faults_caught(netlist, spec, 100) == (2 * len(netlist.gates), 2 * len(netlist.gates))


def test_a_wrong_gate_is_caught(small):
    """A gate of another kind is a mismatch, reported with the operands that show it."""
    spec, netlist = small
    victim = next(i for i, g in enumerate(netlist.gates) if g.cell == "XOR2")
    gates = [*netlist.gates]
    gates[victim] = type(gates[victim])("OR2", gates[victim].inputs, gates[victim].output)
    broken = Netlist(netlist.library, gates, netlist.inputs, netlist.outputs, netlist.nets)
    result = compare(broken, adversarial(spec, 0, 24))
    assert result.mismatches
    assert "model 0x" in result.first


def test_packing_is_reversible():
    """Codes packed to bits and unpacked are unchanged, for a number of vectors that does not fill a word."""
    codes = np.random.default_rng(0).integers(0, 1 << 13, (100, 1))
    assert np.array_equal(unpack(pack(codes, 13), 100), codes[:, 0])


# -- unsupported specs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (instruction({"s": {"terms": 4, "result": INT32}, "t": {"terms": 1, "accumulator": True, "result": INT32}},
                     "int8", "int8", accumulator="int32"), "of several stages"),
        (instruction({"s": {"terms": 4, "accumulator": True, "result": INT32}}, "int8",
                     {"name": "s11", "exponent_bits": 1, "mantissa_bits": 10, "bias": -9, "overflow": "saturate"},
                     accumulator="int32"), "integer sums of products of s11"),
        (instruction({"s": aligned(4, 13, exponent=0), "t": aligned(1, 20, **FUSED)}), "fixed `exponent` 0"),
        (instruction({"s": {"terms": 3, **FUSED}}, "fp32", "fp32"), "not supported in hardware"),
        (instruction({"s": aligned(4, 13, **FUSED)}, "e5m2", "e5m2",
                     widen={**OWN, "exponent_bits": 6, "mantissa_bits": 30, "bias": 10}), "of fewer exponents"),
        (instruction({"s": aligned(4, 13, interleave={"run": 1, "parts": 2}, **FUSED)}, k=8), "interleaves more"),
        (instruction({"s": aligned(4, 13, "up", opposing="complement", **FUSED)}), "opposing terms that are rounded up"),
    ],
)  # fmt: skip
def test_what_the_generator_cannot_say_is_refused(spec, reason):
    """Exact sums too wide for an adder, and unsupported rules, give one clear message."""
    with pytest.raises(InputError, match=reason):
        unit(spec)


# -- cost ------------------------------------------------------------------------------------------------------------


def test_the_neutral_library_is_what_its_sources_say():
    """In the neutral library a NAND2 has area 1, FO4 is 5 tau, and every function is that of its gate."""
    library = Library.own()
    assert (library.nand2.area, library.fo4) == (1.0, 5.0)
    assert library.cells["XOR2"].truth_table == 0b0110
    assert library.cells["AOI21"].truth_table == 0b00000111
    assert library.cells["MUX2"].truth_table == 0b11001010
    assert library.flip_flop.area == pytest.approx(17 / 3, abs=1e-4)


def test_liberty_functions_are_read_as_written_anywhere(tmp_path):
    """Postfix negation, a space for AND, and tables with two axes are read; a file without cells is refused."""
    text = """library (x) { cell (N) { area : 2; pin (A) { direction : input; capacitance : 2; }
      pin (B) { direction : input; capacitance : 2; } pin (Y) { direction : output; function : "(A B)'";
      timing () { cell_rise (t) { index_1 ("1, 2"); index_2 ("2, 4"); values ("5, 9", "6, 10"); } } } }
      cell (I) { area : 1; pin (A) { direction : input; capacitance : 1; } pin (Y) { direction : output;
      function : "A'"; } } }"""
    (tmp_path / "x.lib").write_text(text)
    library = Library.read(tmp_path / "x.lib")
    assert library.nand2.name == "N"
    assert (library.nand2.intrinsic, library.nand2.resistance) == (2.0, 2.0)
    (tmp_path / "y.lib").write_text("no library")
    with pytest.raises(InputError, match="no cell"):
        Library.read(tmp_path / "y.lib")


def test_our_timer_agrees_with_abc_where_no_buffer_is_assumed(small, monkeypatch):
    """Without the inverter chain on wide nets, the longest path is that of abc."""
    import codesign.evidence.cost.netlist as module

    spec, _ = small
    mapped = synthesise(unit(spec), Library.own())
    buffered = mapped.netlist.delay
    monkeypatch.setattr(module.math, "log", lambda *_: 1e9)
    mapped.netlist.__dict__.pop("arrivals")
    assert mapped.netlist.delay == pytest.approx(mapped.delay, rel=1e-3)
    assert buffered <= mapped.netlist.delay


def test_synthesis_is_deterministic_and_blocks_add_up(small):
    """The same design gives the same netlist, and the areas of blocks add up to about the flat design's."""
    spec, netlist = small
    rtlil = unit(spec)
    assert rtlil == unit(spec)
    again = synthesise(rtlil, Library.own()).netlist
    assert again.gates == netlist.gates
    blocks = block_areas(rtlil, Library.own())
    assert sum(blocks.values()) == pytest.approx(netlist.area, rel=0.15)


def test_a_pipeline_keeps_its_depth_and_counts_its_registers(small):
    """No stage is deeper than allowed or reads a later one; a single stage has registers at D alone."""
    _, netlist = small
    cut = pipeline(netlist, 16)
    depth = [0] * netlist.nets
    for i in netlist.order:
        gate = netlist.gates[i]
        here = cut.stage[gate.output]
        assert all(cut.stage[net] <= here for net in gate.inputs)
        depth[gate.output] = 1 + max((depth[n] for n in gate.inputs if cut.stage[n] == here), default=0)
    assert max(depth) <= 16
    assert cut.latency == max(cut.stage) + 1
    whole = pipeline(netlist, 10_000)
    assert (whole.latency, whole.register_bits) == (1, len({n for n in netlist.outputs["d_out"] if n > 1}))
    assert cut.area > whole.area > netlist.area
    assert cut.period < whole.period


def test_energy_is_a_band_and_zero_for_a_unit_at_rest(small):
    """Glitches add to the energy without them, and constant operands switch nothing but the clock."""
    spec, netlist = small
    trial = Trial(gemms()["deepseek-v3.fprop.kv-b"], "normal", 0, 4, 4, Quantisation())
    vectors = workload_vectors(spec, trial)
    assert compare(netlist, [vectors]).mismatches == 0
    cut = pipeline(netlist, 16)
    low, high = switched(cut, vectors)
    assert 0 < low < high
    same = type(vectors)({n: np.repeat(c[:1], 70, axis=0) for n, c in vectors.operands.items()}, vectors.d[:70])
    rest = switched(cut, same)
    assert rest[0] == rest[1] < low / 2
