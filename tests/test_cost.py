"""Hardware cost: units equal to the model in every part of the language, injected faults, synthesis and export."""

import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("amaranth")
pytest.importorskip("pyosys")

from amaranth.hdl import Const
from simple_gates import GATES, elaborate

from codesign.__main__ import run
from codesign.evidence.cost import records
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.energy import switched, workload_vectors
from codesign.evidence.cost.export import export
from codesign.evidence.cost.measured_unit import in_mode
from codesign.evidence.cost.netlist import Netlist, pack, unpack
from codesign.evidence.cost.pipeline import pipeline
from codesign.evidence.cost.rtl.block import UnitDesign
from codesign.evidence.cost.rtl.ports import shared_uses
from codesign.evidence.cost.rtl.shared import shared_unit
from codesign.evidence.cost.rtl.unit import scale_product, unit
from codesign.evidence.cost.synth import block_areas, synthesise
from codesign.evidence.cost.unit_vectors import UnitVectors, adversarial, of_matrices, shipped, specials
from codesign.evidence.cost.verify import against_golden, compare, faults_caught, outputs, prove
from codesign.evidence.numerics.trial import Trial
from codesign.proposal.proposal import Quantisation
from codesign.workloads.gemms import gemms
from isa_model import InputError, load
from isa_model.codec import decode
from isa_model.instruction import Instruction

ROOT = Path(__file__).parent.parent
FP32 = {"format": "fp32", "rounding": "nearest-even"}
INT32 = {"format": "int32", "rounding": "nearest-even"}
TRUNCATED = {"format": "fp32", "rounding": "toward-zero", "overflow": "infinity"}


def instruction(stages, a="e4m3", b="e4m3", k=None, accumulator="fp32", **fields):
    body = {"name": "test", "a": a, "b": b, "accumulator": accumulator, "stages": stages, **fields}
    span = 1
    for stage in stages.values():
        span *= stage["terms"] * stage.get("chain", 1)
    return Instruction.model_validate({**body, "shape": {"m": 8, "n": 8, "k": k or span}})


def aligned(terms, bits, rounding="toward-zero", **fields):
    return {"terms": terms, "fraction_bits": bits, "rounding": rounding, **fields}


OWN = {"name": "my own", "exponent_bits": 5, "mantissa_bits": 4, "bias": 17, "infinity": True, "nan": "ieee"}
FUSED = {"accumulator": True, "result": FP32}
MODES = ["toward-zero", "nearest-even", "nearest-away", "up", "down", "to-odd"]
SPECS = {
    **{f"aligned {mode}": instruction({"s": aligned(8, 12, mode, **FUSED)}) for mode in MODES},
    **{
        f"register {mode}": instruction(
            {"s": aligned(4, 20, accumulator=True, result={"format": "fp16", "rounding": mode})}, accumulator="fp16"
        )
        for mode in MODES
    },
    "zeros that count": instruction({"s": aligned(4, 9, zero_exponent=2, **FUSED)}),
    "no more bits than a product": instruction({"s": aligned(4, 2, "nearest-even", **FUSED)}, a="e5m2", b="e5m2"),
    "a wider accumulator": instruction(
        {"s": aligned(4, 10, accumulator={"fraction_bits": 14, "drop_beyond": 12}, result=FP32, zero="ieee")}
    ),
    "infinities in operands": instruction({"s": aligned(4, 13, **FUSED)}, a="e5m2", b="bf16"),
    "subnormals flushed": instruction(
        {"s": aligned(4, 13, accumulator=True, result={**FP32, "subnormals": "flush"})}, flush_inputs=True
    ),
    "registers that saturate": instruction(
        {
            "s": {"terms": 2, "result": {"format": "bf16", "rounding": "up", "overflow": "saturate"}},
            "t": aligned(2, 20, accumulator=True, result=[{"format": "e6m11", "rounding": "down"}, FP32]),
        },
        a="bf16",
        b="bf16",
    ),
    "an exact sum": instruction({"s": {"terms": 8, **FUSED}}),
    "a float tree": instruction(
        {
            "p": {"terms": 1, "result": FP32},
            "s": {"terms": 2, "result": FP32, "zero": "ieee"},
            "c": {"terms": 1, **FUSED},
        },
        a="bf16",
        b="bf16",
    ),
    "a fused multiply-add": instruction({"s": {"terms": 1, "zero": "ieee", **FUSED}}, a="fp32", b="fp32"),
    "two interleaved steps": load("hopper.mma.m16n8k16.f32.e4m3.e4m3.f32").model_copy(update={"widen": None}),
    "fp16 accumulation": load("hopper.mma.m16n8k16.f16.e5m2.e5m2.f16"),
    "scales added to exponents": instruction(
        {"s": aligned(8, 14, accumulator=True, result=TRUNCATED)},
        scale={"a": {"group": [1, 4], "format": "ue8m0"}, "b": {"group": [4, 1], "format": "ue8m0"}},
    ),
    "scales multiplied onto exact sums": instruction(
        {
            "dot": {"terms": 4, "exponent": 0},
            "fuse": aligned(2, 35, accumulator=True, zero_exponent=-139, result=TRUNCATED),
        },
        a="e2m1",
        b="e2m1",
        scale={
            "a": {"group": [1, 4], "format": "ue4m3"},
            "b": {"group": [4, 1], "format": "ue4m3"},
            "onto": "dot",
        },
    ),
    "a rounded scaled sum": instruction(
        {"s": aligned(4, 13), "c": {"terms": 1, "zero": "ieee", **FUSED}},
        scale={
            "a": {"group": [1, 4], "format": "fp32"},
            "b": {"group": [4, 1], "format": "fp32"},
            "onto": "s",
            "product": FP32,
            "result": {"format": "bf16", "rounding": "nearest-even"},
        },
    ),
    "scales that are infinite or zero on sums that cancel": instruction(
        {"s": aligned(4, 13, zero_exponent=-30), "c": {"terms": 1, "zero": "ieee", **FUSED}},
        a="e5m2",
        b="e5m2",
        scale={"a": {"group": [1, 4], "format": "fp16"}, "b": {"group": [4, 1], "format": "fp16"}, "onto": "s"},
    ),
    "names and formats of one's own": instruction(
        {
            "my_stage": aligned(2, 13, result={"format": {**OWN, "bias": 30}, "rounding": "to-odd"}),
            "my-stage": aligned(1, 20, **FUSED),
        },
        a=OWN,
    ),
    "widened operands": load("hopper.mma.m16n8k32.f32.e4m3.e5m2.f32"),
    "widened by fewer places than a mantissa has": instruction(
        {"s": aligned(4, 13, **FUSED)}, b="e3m2", widen={**OWN, "exponent_bits": 6, "mantissa_bits": 9, "bias": 8}
    ),
    "products beyond a power of two": instruction({"s": aligned(4, 13, **FUSED)}, infinite_from=5),
    "C in a format of its own": load("volta.mma.m8n8k4.f32.f16.f16.f16"),
    **{
        f"integers, {a} by {b}, {overflow}": instruction(
            {"s": {"terms": 4, "accumulator": True, "result": {**INT32, "overflow": overflow}}},
            a,
            b,
            accumulator="int32",
        )
        for a, b, overflow in (("int8", "uint8", "wrap"), ("int8", "int8", "saturate"), ("uint4", "int4", "saturate"))
    },
    "a constant scale": instruction(
        {"s": aligned(4, 13), "c": {"terms": 1, "zero": "ieee", **FUSED}}, scale={"power": -7, "onto": "s"}
    ),
    "two chains in turn": instruction(
        {
            "s": {"terms": 1, "accumulator": True, "chain": 2, "interleave": {"run": 1, "parts": 2, "to": "chains"}}
            | {"result": {"format": "e4m3", "rounding": "nearest-even"}},
            "t": aligned(2, 12, **FUSED),
        },
        a="e2m1",
        b="e2m1",
        k=4,
    ),
    "scaled groups of integers": instruction(
        {"s": {"terms": 2, "accumulator": True, "chain": 2, "result": INT32}, "t": {"terms": 1, "result": FP32}}
        | {"c": {"terms": 1, "zero": "ieee", **FUSED}},
        a="int8",
        b="int8",
        scale={"a": {"group": [1, 4], "format": "fp32"}, "b": {"group": [4, 1], "format": "fp32"}, "onto": "t"}
        | {"product": FP32},
    ),
    "clamped integers of both kinds, scaled by powers of two": instruction(
        {
            "s": {"terms": 8, "accumulator": True, "chain": 1, "result": {"format": "int8", "rounding": "up"}},
            "c": aligned(2, 16, **FUSED),
        },
        a="uint4",
        b="int4",
        scale={"b": {"group": [8, 1], "format": "ue8m0"}, "onto": "s"},
    ),
    "integers by floating point": instruction({"s": aligned(4, 13, **FUSED)}, a="int4", b="e4m3"),
    "integers that are aligned": instruction(
        {"s": {"terms": 4, "zero": "ieee", "accumulator": True, "result": FP32}}, a="int4", b="int8", c="bf16"
    ),
    "4 terms": instruction({"s": aligned(4, 13, **FUSED)}),
    "128 terms": instruction({"s": aligned(128, 13, **FUSED)}, a="e2m1", b="e2m1"),
}


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


SCALED = instruction(
    {"s": aligned(4, 13), "c": {"terms": 1, "zero": "ieee", **FUSED}},
    scale={
        "a": {"group": [1, 4], "format": "fp32"},
        "b": {"group": [4, 1], "format": "fp32"},
        "onto": "s",
        "product": FP32,
    },
)
"""A small unit with everything that special values can meet: sums that cancel, scales whose product overflows, C."""


def test_special_vectors_hold_every_case_of_zero_times_infinity():
    """Zero, cancelled and tiny sums meet infinite, NaN, zero and overflowing pairs of scales, and every special C."""
    met = set()
    for batch in specials(SCALED):
        for a, x, y, c in zip(
            *(batch.operands[name].tolist() for name in ("a", "scale_a", "scale_b", "c")), strict=True
        ):
            numbers = [decode(SCALED.a, code) for code in a]
            if not any(n.special for n in numbers):
                terms = [n.exact() for n in numbers]
                kind = "zero" if not any(terms) else "other" if sum(terms) else "cancelled"
                met.add((kind, *x, *y, *c))
    special = [0, 0x7F800000, 0x7FC00000, 0x7F7FFFFF]
    signed = [0, 1 << 31, 0x7F800000, 0xFF800000]
    for kind in ("zero", "cancelled", "other"):
        for x in special:
            for y in special:
                assert all((kind, x, y, c) in met for c in signed), (kind, x, y)


PLANTED = {
    "a cancelled sum is no zero": ("decode", "_is_zero", lambda block, term: term.none),
    "an infinite scale of a zero is infinite": ("decode", "_is_zero", lambda block, term: Const(0, 1)),
    "a product of scales never overflows": ("registers", "_magnitude", lambda *x, real: (*real(*x)[:2], Const(0, 1))),
    "infinities of both signs add to one": (
        "term_sums",
        "with_specials",
        lambda block, total, terms, real: replace(real(block, total, terms), nan=total.nan),
    ),
    "C's specials are ignored": (
        "term_sums",
        "with_specials",
        lambda block, total, terms, real: real(block, total, terms[:1]),
    ),
}
"""Faults of the generator: module, function, and what replaces it; `real` is the function itself."""


@pytest.mark.parametrize("fault", PLANTED)
def test_shipped_vectors_notice_planted_faults_of_special_values(fault, monkeypatch):
    """The vectors that an export ships show every fault planted in how the generator treats special values."""
    module, name, wrong = PLANTED[fault]
    module = importlib.import_module(f"codesign.evidence.cost.rtl.{module}")
    real = getattr(module, name)
    assert compare(elaborate(unit(SCALED)), shipped(SCALED)).mismatches == 0
    monkeypatch.setattr(module, name, partial(wrong, real=real) if "real" in wrong.__code__.co_varnames else wrong)
    assert compare(elaborate(unit(SCALED)), shipped(SCALED)).mismatches > 0


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


def _together():
    """Return small instructions of one datapath: FP8, FP16, BF16 and integers."""
    window = {"accumulator": True, "zero_exponent": -133, "result": TRUNCATED}
    narrow = {**window, "result": {**TRUNCATED, "format": "e8m13"}}
    whole = {"s": {"terms": 2, "accumulator": True, "result": {**INT32, "overflow": "saturate"}}}
    return (
        instruction({"s": aligned(2, 13, **narrow)}),
        instruction({"s": aligned(1, 25, **window)}, a="fp16", b="fp16"),
        instruction({"s": aligned(1, 25, **window)}, a="bf16", b="bf16"),
        instruction(whole, a="int8", b="int8", accumulator="int32"),
    )


def test_one_datapath_equals_each_of_its_instructions():
    """A datapath of FP8, FP16, BF16 and INT8 gives the model's bits in each mode, special values included."""
    specs = _together()
    netlist = elaborate(shared_unit(specs))
    for i, spec in enumerate(specs):
        batches = [in_mode(batch, 1 << i) for batch in (*adversarial(spec, 0, 24), *specials(spec))]
        result = compare(netlist, batches)
        assert result.mismatches == 0, (spec.a.name, result.first)


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
        (instruction({"s": aligned(4, 13, exponent=0), "t": aligned(1, 20, **FUSED)}), "fixed `exponent` 0"),
        (instruction({"s": {"terms": 3, **FUSED}}, "fp32", "fp32"), "not supported in hardware"),
        (instruction({"s": aligned(4, 13, **FUSED)}, "e5m2", "e5m2",
                     widen={**OWN, "exponent_bits": 6, "mantissa_bits": 30, "bias": 10}), "of fewer exponents"),
        (instruction({"s": aligned(4, 13, interleave={"run": 1, "parts": 2}, **FUSED)}, k=8), "interleaves more"),
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


# -- records and files -----------------------------------------------------------------------------------------------


def _simulate(folder, files, *options):
    """Return the output of a test bench, run by Icarus Verilog or by the Verilator of the extra `test`."""
    if shutil.which("iverilog"):
        subprocess.run(["iverilog", "-g2005", "-o", "run", *options, "-c", files], cwd=folder, check=True)
        return subprocess.run(["vvp", "run"], cwd=folder, capture_output=True, text=True).stdout
    verilator = Path(sys.executable).with_name("verilator-cli")
    if not (verilator.exists() and shutil.which("g++") and shutil.which("make")):
        pytest.skip("neither Icarus Verilog nor Verilator with a C++ compiler is installed")
    command = [verilator, "--binary", "--timing", "-Wno-fatal", "-Wno-lint", "-Wno-style", "-CFLAGS", "-O0"]
    command += ["--output-split", "0"]  # one file, since the wheel's makefile does not find its precompiled header
    command += ["--top-module", "testbench", "-o", "run", *options, "-f", files]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return subprocess.run(["obj_dir/run"], cwd=folder, capture_output=True, text=True).stdout


def test_exported_files_run_under_an_open_simulator(tmp_path):
    """The test bench passes with the design and the mapped netlist, and fails with a wrong vector."""
    spec = SPECS["scales added to exponents"]
    export(spec, tmp_path / "rtl", Library.own())
    files = {p.name for p in (tmp_path / "rtl").iterdir()}
    assert files == {
        "unit.v",
        "unit_mapped.v",
        "unit_pipelined.v",
        "pipeline.v",
        "cells.v",
        "testbench.v",
        "testbench_stalls.v",
        "unit.f",
        "mapped.f",
        "pipelined.f",
        "stalls.f",
        "vectors.hex",
        "README.md",
        "SHA256SUMS",
    }
    assert records.design_sha256(spec) in (tmp_path / "rtl/unit.v").read_text()[:400]
    count = sum(map(len, shipped(spec)))
    assert f"are noticed by the {count} vectors" in (tmp_path / "rtl/README.md").read_text()
    simulate = partial(_simulate, tmp_path / "rtl")
    assert f"PASS: {count} vectors" in simulate("unit.f")
    assert f"PASS: {count} vectors" in simulate("mapped.f")
    assert f"PASS: {count} vectors" in simulate("pipelined.f", "-DPIPELINED")
    stalled = simulate("stalls.f", "-DASSERT")
    assert f"PASS: {count} vectors" in stalled
    assert "ASSERT" not in stalled
    vectors = (tmp_path / "rtl/vectors.hex").read_text()
    flipped = ("1" if vectors[0] != "1" else "2") + vectors[1:]
    (tmp_path / "rtl/vectors.hex").write_text(flipped)
    assert f"FAIL: 1 of {count} vectors" in simulate("unit.f")


def test_exported_verilog_is_clean_under_lint(tmp_path):
    """Verilator accepts the design and its pipeline with all warnings; ports have the order of their names."""
    from codesign.evidence.cost.export import header
    from codesign.evidence.cost.stalled import wrapper
    from codesign.evidence.cost.synth import readable

    verilator = Path(sys.executable).with_name("verilator-cli")
    if not verilator.exists():
        pytest.skip("Verilator is not installed")
    rtlil = unit(SCALED)
    (tmp_path / "unit.v").write_text(header(SCALED, rtlil) + readable(rtlil))
    (tmp_path / "unit_pipeline.v").write_text(wrapper(SCALED, 3))
    command = [verilator, "--lint-only", "-Wall", "--top-module", "unit_pipeline", "unit_pipeline.v", "unit.v"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:2000]
    assert "module unit(a, b, c, scale_a, scale_b, d_out);" in (tmp_path / "unit.v").read_text()


def test_exported_verilog_reads_back_as_the_same_unit(tmp_path):
    """The exported Verilog, read by Yosys, equals the model."""
    from codesign.evidence.cost.synth import readable
    from codesign.evidence.cost.synth import run as yosys

    spec = SPECS["4 terms"]
    (tmp_path / "unit.v").write_text(readable(unit(spec)))
    yosys(
        "read_verilog unit.v; hierarchy -top unit; proc; flatten -noscopeinfo; opt; alumacc; techmap; opt; "
        "write_json out.json",
        str(tmp_path),
    )
    data = json.loads((tmp_path / "out.json").read_text())["modules"]["unit"]
    netlist = Netlist.of_json(data, GATES)
    assert compare(netlist, adversarial(spec, 1, 12)).mismatches == 0


def test_the_command_writes_and_refuses(tmp_path, capsys):
    """`codesign rtl` prints the figures; an unsupported spec and a missing library give exit code 2."""
    (tmp_path / "s.yaml").write_text("""shape: {m: 4, n: 4, k: 2}
a: e2m1
b: e2m1
accumulator: fp16
stages: {s: {terms: 2, accumulator: true, fraction_bits: 4, rounding: down, result: {format: fp16, rounding: down}}}
""")
    assert run(["rtl", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "rtl")]) == 0
    assert "0 mismatches" in capsys.readouterr().out
    assert run(["rtl", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "r"), "--liberty", "nowhere.lib"]) == 2
    assert "cannot read nowhere.lib" in capsys.readouterr().err
    text = (tmp_path / "s.yaml").read_text().replace("fraction_bits: 4, rounding: down, ", "").replace("e2m1", "fp32")
    (tmp_path / "i.yaml").write_text(text)
    assert run(["rtl", str(tmp_path / "i.yaml"), "--out", str(tmp_path / "r")]) == 2
    assert "not supported in hardware" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_an_export_leaves_foreign_folders_alone(tmp_path):
    """An export does not write to a folder with other files."""
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="not from codesign"):
        export(SPECS["4 terms"], tmp_path, Library.own())
