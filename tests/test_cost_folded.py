"""Folded units: a front that sums one step of a chain, and a tail that several fronts share."""

import pytest

pytest.importorskip("amaranth")
pytest.importorskip("pyosys")

from cost_specs import FP32, FUSED, SPECS, aligned, instruction
from planted import PLANTED, plant
from simple_gates import elaborate

from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.energy import energy_vectors
from codesign.evidence.cost.folded import Folded, measure_folded
from codesign.evidence.cost.measured_unit import measure
from codesign.evidence.cost.rtl import folded
from codesign.evidence.cost.verify import batches_of, compared
from isa_model import InputError

CHAINED = instruction(
    {"s": aligned(2, 13, accumulator=True, chain=4, result=FP32), "c": {"terms": 1, "zero": "ieee", **FUSED}},
    scale={"a": {"group": [1, 8], "format": "fp32"}, "b": {"group": [8, 1], "format": "fp32"}, "onto": "s"}
    | {"product": FP32},
)
"""Four steps of two products through a register, then scaled and added to C."""


def gates():
    """The folded unit in simple gates."""
    return Folded(elaborate(folded.front(CHAINED)), elaborate(folded.tail(CHAINED)), 4)


def test_a_folded_unit_computes_what_the_model_does():
    """Steps through the register and the shared tail give the model's D, whichever front is selected."""
    result = compared(gates().outputs, batches_of(CHAINED, 4000))
    assert result.vectors > 4000
    assert result.mismatches == 0, result.first


@pytest.mark.parametrize("fault", ["an infinite scale of a zero is infinite", "a product of scales never overflows"])
def test_a_fault_in_the_tail_is_noticed(fault, monkeypatch):
    """Faults of special values in what follows the chain are mismatches of the folded unit, too."""
    plant(monkeypatch, PLANTED[fault])
    assert compared(gates().outputs, batches_of(CHAINED, 1000)).mismatches > 0


def test_what_is_no_chain_through_a_register_is_not_folded():
    """A unit whose sums go on unrounded, or that has nothing behind its sum, is refused with what would be right."""
    for name in ("4 terms", "a rounded scaled sum"):
        with pytest.raises(InputError, match="can be folded"):
            folded.front(SPECS[name])


def test_folding_counts_the_tail_once_per_chain():
    """The record counts a front, the register of the partial sum and a share of the tail, per step of a front."""
    workload = energy_vectors(CHAINED)
    record = measure_folded(CHAINED, Library.own(), *workload)
    unrolled = measure(CHAINED, Library.own(), *workload, thorough=False)
    assert record.products * 4 == unrolled.products == 8
    assert record.area == pytest.approx(sum(record.blocks.values()), abs=0.5)
    register = record.blocks["partial-sum register"]
    assert 20 < register / Library.own().flip_flop.area <= 32  # the lowest bits of FP32 are always zero here
    assert record.area - register < unrolled.area / 4 * 1.3
    assert record.pipelined.loop <= unrolled.pipelined.loop
