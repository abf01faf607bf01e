"""Faults of the hardware generator, planted to see that vectors and proofs notice them."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import partial

from amaranth.hdl import Cat, Const

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
"""Faults in special values: module, function, and what replaces it; `real` is the function itself."""
ARITHMETIC = {
    "the first exponent is the largest": ("align", "_maximum", lambda block, x, y: x),
    "a tie is rounded up": ("registers", "rounding_step", lambda rounding, sign, last, half, rest: half),
    "bits shifted out never count": (
        "registers",
        "shift_right",
        lambda block, value, amount, sticky, real: (real(block, value, amount, sticky)[0], Const(0, 1)),
    ),
    "a rounded term loses its increment": (
        "align",
        "_cut",
        lambda *x, real: (*real(*x)[:2], Const(0, 1)),
    ),
    "a product loses its last bit": (
        "decode",
        "multiply",
        lambda *x, real: Cat(Const(0, 1), real(*x)[1:]),
    ),
    "a row of the tree is dropped": (
        "carry_save",
        "add_rows",
        lambda block, rows, carries, width, real: real(block, [Const(0, width), *rows[1:]], carries, width),
    ),
    "subnormals have the exponent of zero": (
        "decode",
        "from_fields",
        lambda fmt, real, **fields: real(fmt, **{**fields, "exponent": fields["exponent"] & fields["significand"][-1]}),
    ),
}
"""Faults in arithmetic."""


def plant(monkeypatch, fault):
    """Put a fault into the generator until the test ends."""
    module, name, wrong = fault
    module = importlib.import_module(f"codesign.evidence.cost.rtl.{module}")
    real = getattr(module, name)
    monkeypatch.setattr(module, name, partial(wrong, real=real) if "real" in wrong.__code__.co_varnames else wrong)
