"""Hardware of running values in two registers: known sums, faults, test benches, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("amaranth")
pytest.importorskip("pyosys")

from cost_specs import BF16, FP32, SPECS, aligned, instruction
from simple_gates import elaborate
from test_cost_export import _simulate

from codesign.evidence.cost import export
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.chip import accumulator_traffic
from codesign.evidence.cost.energy import workload_vectors
from codesign.evidence.cost.pipeline import pipeline
from codesign.evidence.cost.predict import predict
from codesign.evidence.cost.rtl import stalled, two_registers
from codesign.evidence.cost.rtl.block_sizes import sizes
from codesign.evidence.cost.rtl.ports import ports
from codesign.evidence.cost.rtl.unit import unit
from codesign.evidence.cost.synth import readable, synthesise
from codesign.evidence.cost.unit_vectors import UnitVectors, adversarial, shipped
from codesign.evidence.cost.verify import compare, outputs
from codesign.evidence.numerics.trial import Trial
from codesign.proposal.proposal import Quantisation
from codesign.workloads.gemms import gemms
from isa_model import InputError

BF16X2, KAHAN = SPECS["two BF16 registers"], SPECS["Kahan's sum"]


def codes_of(x):
    """The codes of FP32 numbers."""
    return np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)


def steps(netlist, a, b):
    """The outputs (lanes, 3) of a unit after the steps (steps, lanes, span) of codes, from C = 0."""
    kept = np.zeros((len(a[0]), 3), np.uint64)
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        operands = {"a": x, "b": y, "c": np.zeros((len(x), 1), np.uint64)}
        operands |= {"running": kept[:, 1:2], "rest": kept[:, 2:], "first": np.full((len(x), 1), i == 0, np.uint64)}
        kept = outputs(netlist, UnitVectors(operands, kept))
    return kept


def test_hardware_sums_as_kahan_does():
    """A unit in FP32 leaves the sum and the error of Kahan's algorithm with Knuth's TwoSum in FP32, and D is both together."""
    rng = np.random.default_rng(1)
    numbers = (rng.uniform(-1, 1, (40, 64)) * 2.0 ** rng.integers(-12, 12, (40, 64))).astype(np.float32)
    s, e = np.zeros(64, np.float32), np.zeros(64, np.float32)
    for x in numbers:
        y = x + e
        t = s + y
        of_y = t - s
        s, e = t, (s - (t - of_y)) + (y - of_y)
    ones = np.ones_like(numbers)
    kept = steps(elaborate(unit(KAHAN)), codes_of(numbers)[..., None], codes_of(ones)[..., None])
    assert np.array_equal(kept[:, 1], codes_of(s))
    assert np.array_equal(kept[:, 2], codes_of(e))
    assert np.array_equal(kept[:, 0], codes_of(s + e))
    assert (e != 0).mean() > 0.9


def test_two_bf16_registers_in_hardware_hold_sixteen_bits():
    """1 + 2^-9 is held, and 2^-9 more is one unit of the first register; one BF16 register would stay at 1."""
    netlist, one, half = elaborate(unit(BF16X2)), 0x38, 0x20  # of E4M3: 1 and 2^-3
    small = [[half, 0, 0, 0]] * 3  # times 2^-6, the smallest normal number
    a = np.array([[[one, 0, 0, 0]], *([row] for row in small)], np.uint64)
    b = np.array([[[one, 0, 0, 0]], *[[[0x08, 0, 0, 0]]] * 3], np.uint64)
    seen = [steps(netlist, a[:n], b[:n])[0].tolist() for n in (1, 2, 3)]
    bf16 = {"1": 0x3F80, "2^-9": 0x3B00, "1 + 2^-7": 0x3F81, "2^-8": 0x3B80}
    assert seen[0][1:] == [bf16["1"], 0]
    assert seen[1] == [codes_of([1 + 2.0**-9])[0], bf16["1"], bf16["2^-9"]]
    assert seen[2] == [codes_of([1 + 2.0**-8])[0], bf16["1"], bf16["2^-8"]]


@pytest.mark.parametrize(
    "fault", ["the increment is not lost", "what is lost has the sum's sign", "the far number is lost"]
)
def test_a_wrong_remainder_is_noticed(monkeypatch, fault):
    """The vectors that ship show what a designer would get wrong first."""
    real, real_sum, spec = two_registers.what_is_lost, two_registers._two_sum, BF16X2

    def lost(block, total, value, register):
        found = real(block, total, value, register)
        if fault == "the increment is not lost":
            return replace(found, significand=total.significand, sign=total.sign)
        return replace(found, sign=total.sign)

    def two_sum(*given):
        total, below = real_sum(*given)
        return total, replace(below, significand=below.significand & 0)

    if fault == "the far number is lost":
        spec = KAHAN
        monkeypatch.setattr(two_registers, "_two_sum", two_sum)
    else:
        monkeypatch.setattr(two_registers, "what_is_lost", lost)
    netlist = elaborate(unit(spec))
    assert any((outputs(netlist, batch) != batch.d).any() for batch in shipped(spec))


def test_the_test_benches_compare_both_registers(tmp_path):
    """Exported benches pass, and fail with a wrong digit in the second register alone."""
    rtlil, batch = unit(BF16X2), next(adversarial(BF16X2, 3, 8))
    text = export.lines(BF16X2, batch)
    files = {
        "unit.v": export.header(BF16X2, rtlil) + readable(rtlil),
        "testbench.v": export.testbench(BF16X2, len(text), dict.fromkeys(ports(BF16X2), 0), 0),
        "pipeline.v": stalled.wrapper(BF16X2, 2),
        "testbench_stalls.v": stalled.testbench(BF16X2, len(text), 2, export.VECTORS),
        "unit.f": "unit.v\ntestbench.v\n",
        "stalls.f": "unit.v\npipeline.v\ntestbench_stalls.v\n",
        export.VECTORS: "".join(text),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert f"PASS: {len(text)} vectors" in _simulate(tmp_path, "unit.f")
    said = _simulate(tmp_path, "stalls.f", "-DASSERT")
    assert f"PASS: {len(text)} vectors" in said
    assert "ASSERT" not in said
    top = text[0][0]
    (tmp_path / export.VECTORS).write_text("".join([("1" if top != "1" else "2") + text[0][1:], *text[1:]]))
    assert f"FAIL: 1 of {len(text)} vectors" in _simulate(tmp_path, "unit.f")


def test_the_loop_goes_through_both_registers():
    """The mapped unit waits from register to register, not for D, and its area is near the predicted one."""
    library = Library.own()
    netlist = synthesise(unit(BF16X2), library).netlist
    assert compare(netlist, adversarial(BF16X2, 1, 8)).mismatches == 0
    cut = pipeline(netlist, 24)
    assert -(-netlist.levels_from("c") // 24) >= cut.loop > 1
    assert cut.loop < cut.latency
    area = predict(BF16X2).area
    assert area.low <= netlist.area / library.nand2.area <= area.high


def test_a_workload_goes_on_from_both_registers():
    """The steps whose energy is measured start from C once, then from what the step before left."""
    trial = Trial(gemms()["deepseek-v3.fprop.qkv-a"], "normal", 0, 2, 2, Quantisation(weight_columns=128))
    vectors = workload_vectors(BF16X2, trial)
    first = vectors.operands["first"].ravel()
    assert first[0] == 1
    assert first.sum() == 4
    after = np.flatnonzero(first == 0)
    for name, column in (("running", 1), ("rest", 2)):
        assert np.array_equal(vectors.operands[name][after, 0], vectors.d[after - 1, column])
    assert (vectors.operands["rest"] != 0).mean() > 0.5


WIDE = {"terms": 2, "accumulator": True, "result": FP32}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({**WIDE, "remainder": FP32}, "an exact sum over 277 bits has no remainder in hardware"),
        ({**WIDE, "result": [FP32, BF16], "remainder": BF16}, "rounds to 2 registers and has a `remainder`"),
        ({**WIDE, "result": {**BF16, "rounding": "down"}, "remainder": BF16}, "can stop at its largest number"),
        ({**WIDE, "result": {**BF16, "overflow": "saturate"}, "remainder": BF16}, "can stop at its largest number"),
        ({**WIDE, "result": {**BF16, "format": "e4m3f"}, "remainder": BF16}, "cannot hand a NaN"),
    ],
)
def test_what_no_adder_gives_back_is_refused(stage, message):
    """Sums that are not exact and registers that stop at their largest number are refused, in sizes as in hardware."""
    spec = instruction({"s": stage})
    for refuse in (unit, sizes):
        with pytest.raises(InputError, match=message):
            refuse(spec)


def test_traffic_is_of_both_registers():
    """Two BF16 registers are read and written in the place of C and D in FP32: as many bits."""
    plain = instruction({"s": aligned(4, 14, accumulator=True, result=BF16)})
    figure = accumulator_traffic(plain, BF16X2)
    assert figure.value == 1
    assert figure.source == "both registers every 4 products against every 4"
    wide = instruction({"s": aligned(4, 14, accumulator=True, result=FP32, remainder=FP32)})
    assert accumulator_traffic(plain, wide).value == 2
