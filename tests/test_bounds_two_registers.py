"""Error bounds of running values in two registers: never violated, and those of compensated summation as special cases."""

from itertools import cycle, product
from math import inf

import numpy as np
import pytest
from strategies import KINDS, codes
from test_bounds import FP32_NEAREST, chain, gamma, largest_shares, sums, worth

from codesign.evidence.bounds.derive import bound
from codesign.evidence.bounds.formula import formulas
from isa_model import matmul
from isa_model.array_codec import decode_array
from isa_model.formats import named

TWO = [
    (
        chain(
            terms,
            **cut,
            zero_exponent=zero,
            result={"format": register, "rounding": rounding, "subnormals": subnormals},
            remainder={"format": rest, "rounding": of_rest, "joins": joins},
        )
    )
    for (terms, cut, joins), (register, rest), (rounding, of_rest), (zero, subnormals) in zip(
        [
            *product((1, 3), [{}], ("sum", "block", "end")),
            *product((1, 3), [{"fraction_bits": 4, "rounding": "toward-zero"}], ("sum", "end")),
            *product((2,), [{"fraction_bits": 3, "rounding": "nearest-even"}], ("sum", "end")),
        ]
        * 2,
        cycle([("e5m2", "e5m2"), ("e6m3", "e5m1ieee"), ("e4m2f", "e3m3f")]),
        cycle(
            [
                ("nearest-even", "nearest-even"),
                ("toward-zero", "toward-zero"),
                ("down", "to-odd"),
                ("up", "up"),
                ("nearest-away", "down"),
            ]
        ),
        cycle([(None, "keep"), (None, "keep"), (None, "flush")]),
        strict=False,
    )
]
"""Running values in two registers, each field in turn."""


def test_bounds_of_two_registers_hold_near_the_worst_operands():
    """Sums of 24 products of E3M2, changed one product at a time towards a larger share of the bound, never reach it."""
    near = []
    for number, tiny in enumerate(TWO):
        spec = tiny.model_copy(update={"a": named("e3m2"), "b": named("e3m2")})
        rng, ones = np.random.default_rng(number), np.full((24, 1), 0b001100, np.uint8)
        limits = bound(spec, 24)
        if limits.worst == inf:  # what a register of one bit loses may double every time
            continue
        rows = np.concatenate([codes(spec.a, rng, (40, 24), kind) for kind in KINDS])
        best = np.full(len(rows), -1.0)
        kept = rows
        for _ in range(60):
            x = decode_array(spec.a, rows)
            d = matmul(spec, rows, ones, engine="portable").astype(np.float64)[:, 0]
            mass = np.abs(x).sum(axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):
                share = np.where(
                    d == x.sum(axis=1), 0, np.abs(d - x.sum(axis=1)) / (limits.worst * mass + limits.absolute)
                )
            share = np.where(mass <= limits.overflow, share, 0.0)
            assert share.max() <= 1, (share.max(), spec.stages, limits)
            kept, best = np.where((share > best)[:, None], rows, kept), np.maximum(share, best)
            rows = kept.copy()
            rows[np.arange(len(rows)), rng.integers(0, 24, len(rows))] = rng.integers(0, 64, len(rows))
        near.append(best.max())
    assert max(near) > 0.3


def test_bounds_of_two_registers_hold_for_all_operands_of_tiny_formats():
    """In registers as narrow, no error is over its bound."""
    assert max(largest_shares(TWO)) > 0.5


def two_registers(joins):
    """A chain of products of FP32, summed in two FP32 registers, rounded to nearest."""
    stage = {"terms": 1, "accumulator": True, "result": FP32_NEAREST, "remainder": {**FP32_NEAREST, "joins": joins}}
    return sums({"sum": stage}, a="fp32", k=1)


def test_compensated_sums_have_the_bounds_of_the_literature():
    """Kahan's sum has 2 u + O(n u^2) (Higham 2002, 4.3), the cascaded sum u + n^2 u^2 (Ogita, Rump and Oishi 2005, 4.1)."""
    u = 2.0**-24
    for k in (64, 4096):
        kahan, cascaded = (bound(two_registers(joins), k).worst for joins in ("block", "end"))
        assert 2 * u < kahan < 2 * u + 3 * k * u**2
        assert u + gamma(k - 1, u) ** 2 * (1 - 1e-2) < cascaded < u + 1.1 * (k * u) ** 2 + 4 * k * u**2
        plain = bound(sums({"sum": {"terms": 1, "accumulator": True, "result": FP32_NEAREST}}, a="fp32", k=1), k)
        assert plain.worst > k / 4 * kahan


def test_formulas_of_two_registers_give_their_bounds():
    """The formula with the factor of D is the bound, of sums of every kind."""
    for spec in [*TWO, *map(two_registers, ("sum", "block", "end"))]:
        limits = bound(spec, 24)
        if 0 < limits.worst < 1:
            assert worth(formulas(limits), 24) == pytest.approx(limits.worst, rel=1e-2), spec
