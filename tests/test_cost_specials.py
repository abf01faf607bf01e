"""Hardware of special values: zero sums times infinite scales, planted faults, and datapaths that instructions share."""

import numpy as np
import pytest

pytest.importorskip("amaranth")
pytest.importorskip("pyosys")

from cost_specs import SCALED, together
from planted import PLANTED, plant
from simple_gates import elaborate

from codesign.evidence.cost.measured_unit import in_mode
from codesign.evidence.cost.rtl.shared import shared_unit
from codesign.evidence.cost.rtl.unit import unit
from codesign.evidence.cost.unit_vectors import UnitVectors, adversarial, one_step, shipped, specials
from codesign.evidence.cost.verify import compare, outputs
from isa_model import golden
from isa_model.codec import decode


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


@pytest.fixture(scope="module")
def netlist():
    """The scaled unit."""
    return elaborate(unit(SCALED))


@pytest.fixture(scope="module")
def vectors(netlist):
    """The vectors that an export of the scaled unit ships, which the unit itself passes."""
    made = shipped(SCALED)
    assert compare(netlist, made).mismatches == 0
    return made


def test_a_tiny_c_does_not_carry_into_a_wide_partial_sum(netlist):
    """The scaled sum of 41 bits lies just below a tie of FP32, and C far below it: D is rounded down.

    A proof found these operands: the bit that stands for C once was the sum's own last bit, and made it the tie.
    """
    operands = {
        "a": [[0x3F, 0x3F, 0x3F, 0x21]],
        "b": [[0x3F, 0x3F, 0x3F, 0x19]],
        "c": [[0x0D800000]],
        "scale_a": [[0x3FC258CF]],
        "scale_b": [[0x3F800000]],
    }
    codes = {name: np.array(rows, "u8") for name, rows in operands.items()}
    one = one_step(SCALED).per_line()
    given = (operands[name][0] for name in "ab")
    scales = {name: operands[name][0] for name in ("scale_a", "scale_b")}
    d = golden.dot(one, *given, operands["c"][0][0], **scales)
    assert d == 0x41803AC9
    assert outputs(netlist, UnitVectors(codes, np.array([d], "u8"))) == d


@pytest.mark.parametrize("fault", PLANTED)
def test_shipped_vectors_notice_planted_faults_of_special_values(fault, vectors, monkeypatch):
    """The vectors that an export ships show every fault planted in how the generator treats special values."""
    plant(monkeypatch, PLANTED[fault])
    assert compare(elaborate(unit(SCALED)), vectors).mismatches > 0


def test_one_datapath_equals_each_of_its_instructions():
    """A datapath of FP8, FP16, BF16 and INT8 gives the model's bits in each mode, special values included."""
    specs = together()
    netlist = elaborate(shared_unit(specs))
    for i, spec in enumerate(specs):
        batches = [in_mode(batch, 1 << i) for batch in (*adversarial(spec, 0, 24), *specials(spec))]
        result = compare(netlist, batches)
        assert result.mismatches == 0, (spec.a.name, result.first)
