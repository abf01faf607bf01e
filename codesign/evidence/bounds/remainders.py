"""Errors of a running value in two registers. docs/bounds.md gives the argument."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from codesign.evidence.bounds.rounding_errors import NOTHING, Errors, grown, of_mode, of_registers, times
from isa_model.codec import largest_finite
from isa_model.stage import Register, Remainder, Stage


@dataclass(frozen=True)
class Kept:
    """Errors of two registers in place of those of one."""

    register: Errors
    """Errors of what both registers hold after a block, relative to its sum."""
    block: Errors
    """Errors of rounding a block together with the second register, relative to the block (`joins: block`)."""
    underflow: float
    """Absolute error of a block, from the lower end of both ranges."""
    larger: float
    """Largest ratio of the first register, and of what it is aligned against, to the sum of both."""
    most: float
    """Largest magnitude that the second register has to hold, relative to the mass, ..."""
    least: float
    """... and what it has to hold beside it, from the lower end of the first one's range."""


def both_registers(stage: Stage, one: Errors, blocks: int, lowest: int) -> Kept:
    """Return the errors of a stage with a remainder; `one` are those of its first register.

    The first register loses at most `one` of a sum, and the second at most a share of what it is given to hold: that, with
    `block` what is added next, or with `end` what all sums up to here lost.
    """
    remainder = stage.remainder
    assert remainder
    share, own = second(remainder), 1 + second(remainder).worst
    _, lost = of_registers(stage.result, lowest, inf, None)
    _, cut = of_registers((remainder.register,), lowest, inf, None)
    inward = one.inward and share.inward
    larger = 1 + (0.0 if one.inward else one.worst)
    if remainder.joins == "sum":
        return Kept(_of(share, one, 1, inward), NOTHING, cut + share.worst * lost, larger, one.worst * own, lost * own)
    if remainder.joins == "block":
        again = _of(share, one, 1 + own, False)
        under = cut * (1 + own) + share.worst * lost * (1 + own)
        return Kept(again, replace(share, inward=False), under, larger, own * own * 2, 2 * lost * own * own)
    kept = blocks * (own**blocks if blocks * share.worst < 300 else inf)
    larger = 1 + grown(0.0 if one.inward else blocks * one.worst)
    every = times(kept, lost + cut)
    again = _of(share, one, kept * larger, False)
    return Kept(again, NOTHING, cut + share.worst * every, larger, times(one.worst, kept * larger), every)


def second(remainder: Remainder) -> Errors:
    """Return the errors of the second register, relative to what it is given to hold."""
    return of_mode(remainder.rounding).times(2.0**-remainder.format.mantissa_bits)


def limit(register: Register, kept: Kept, worst: float, absolute: float) -> float:
    """Return the mass up to which the second register does not overflow."""
    room = largest_finite(register.format) - absolute - kept.least
    room = room / (kept.most * (1 + worst)) if kept.most else inf if room > 0 else 0.0
    return room if room > 0 else 0.0


def _of(share: Errors, one: Errors, count: float, inward: bool) -> Errors:
    """Return the errors of rounding `count` times what one register loses of a sum."""
    unit = times(one.worst, count)
    return Errors(share.worst * unit, share.mean * unit, share.variance * unit * unit, inward)
