"""Hardware of special values: zero sums times infinite scales, planted faults, and datapaths that instructions share."""

import importlib
from dataclasses import replace
from functools import partial

import pytest

pytest.importorskip("amaranth")
pytest.importorskip("pyosys")

from amaranth.hdl import Const
from cost_specs import SCALED, together
from simple_gates import elaborate

from codesign.evidence.cost.measured_unit import in_mode
from codesign.evidence.cost.rtl.shared import shared_unit
from codesign.evidence.cost.rtl.unit import unit
from codesign.evidence.cost.unit_vectors import adversarial, shipped, specials
from codesign.evidence.cost.verify import compare
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


@pytest.fixture(scope="module")
def vectors():
    """The vectors that an export of the scaled unit ships, which the unit itself passes."""
    made = shipped(SCALED)
    assert compare(elaborate(unit(SCALED)), made).mismatches == 0
    return made


@pytest.mark.parametrize("fault", PLANTED)
def test_shipped_vectors_notice_planted_faults_of_special_values(fault, vectors, monkeypatch):
    """The vectors that an export ships show every fault planted in how the generator treats special values."""
    module, name, wrong = PLANTED[fault]
    module = importlib.import_module(f"codesign.evidence.cost.rtl.{module}")
    real = getattr(module, name)
    monkeypatch.setattr(module, name, partial(wrong, real=real) if "real" in wrong.__code__.co_varnames else wrong)
    assert compare(elaborate(unit(SCALED)), vectors).mismatches > 0


def test_one_datapath_equals_each_of_its_instructions():
    """A datapath of FP8, FP16, BF16 and INT8 gives the model's bits in each mode, special values included."""
    specs = together()
    netlist = elaborate(shared_unit(specs))
    for i, spec in enumerate(specs):
        batches = [in_mode(batch, 1 << i) for batch in (*adversarial(spec, 0, 24), *specials(spec))]
        result = compare(netlist, batches)
        assert result.mismatches == 0, (spec.a.name, result.first)
