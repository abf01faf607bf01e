"""Faults of the hardware generator, planted to see that vectors and proofs notice them.

A proof reads the generator's own notes, so that its faults are planted there, and hit every place of a unit;
checks/blame.py edits Verilog, because a blame is for a single place in RTL that is not ours.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import partial

from amaranth.hdl import Cat, Const
from cost_specs import aligned, instruction

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

TWO_REGISTERS = {
    "a sum rounded up loses what was below": ("two_registers", "_away", lambda last, value: Const(0, 1)),
    "an infinite sum leaves something": ("two_registers", "any_of", lambda block, name, flags: Const(0, 1)),
    "a start keeps what was lost before": ("two_registers", "gate", lambda value, enable: value),
}
"""Faults in what a second register keeps."""


def plant(monkeypatch, fault):
    """Put a fault into the generator until the test ends."""
    module, name, wrong = fault
    module = importlib.import_module(f"codesign.evidence.cost.rtl.{module}")
    real = getattr(module, name)
    monkeypatch.setattr(module, name, partial(wrong, real=real) if "real" in wrong.__code__.co_varnames else wrong)


_REGISTER = {"format": "e5m4", "rounding": "nearest-even"}
SMALL = instruction(
    {"s": aligned(2, 5, "nearest-even", accumulator=True, result=_REGISTER)}, a="e5m2", b="e3m2", accumulator="e5m4"
)
"""A unit with infinities, NaN and subnormals that is proved in seconds."""
SMALL_SCALED = instruction(
    {"s": aligned(2, 5), "c": {"terms": 1, "zero": "ieee", "accumulator": True, "result": _REGISTER}},
    a="e2m1",
    b="e3m2",
    accumulator="e5m4",
    scale={
        "a": {"group": [1, 2], "format": "e5m2"},
        "b": {"group": [2, 1], "format": "e5m2"},
        "onto": "s",
        "product": _REGISTER,
    },
)
"""The same for scales whose product overflows, on sums that cancel."""
SMALL_IN_TWO = instruction(
    {
        "s": aligned(
            2,
            5,
            "nearest-even",
            accumulator=True,
            result=_REGISTER,
            remainder={"format": "e5m2", "rounding": "nearest-even"},
        )
    },
    a="e5m2",
    b="e3m2",
    accumulator="e5m8",
)
"""The same for a running value in two registers."""
