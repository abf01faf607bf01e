"""Errors of one rounding: their largest size, their mean and their spread, by rounding mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, expm1, floor, inf, ldexp, log1p

from isa_model.rounding import Rounding
from isa_model.stage import Register


@dataclass(frozen=True)
class Errors:
    """Errors of a rounding, or of several that follow each other, relative to what is rounded."""

    worst: float = 0.0
    """Largest error."""
    mean: float = 0.0
    """Largest mean error where discarded parts are uniformly distributed."""
    variance: float = 0.0
    """Square of the largest deviation from the mean."""
    inward: bool = True
    """True if results are never larger in magnitude than what is rounded."""
    taken: float = 0.0
    """Part of `worst` that only takes away, though the rest does not (registers that follow each other)."""

    @property
    def taking(self) -> float:
        """Part of `worst` that never makes a result larger."""
        return self.worst if self.inward else self.taken

    def then(self, other: Errors) -> Errors:
        """Return the errors of this rounding followed by another."""
        worst = compounded((self, other))[0] if self.worst and other.worst else self.worst + other.worst
        mean, variance = self.mean + other.mean, self.variance + other.variance
        return Errors(worst, mean, variance, self.inward and other.inward, self.taking + other.taking)

    def times(self, unit: float, count: float = 1) -> Errors:
        """Return the sum of `count` independent errors, each of them `unit` times as large."""
        if not count or not unit or not self.worst:
            return Errors()
        return Errors(
            self.worst * unit * count,
            self.mean * unit * count,
            self.variance * unit * unit * count,
            self.inward,
            self.taken * unit * count,
        )

    def beside(self, other: Errors) -> Errors:
        """Return the errors of two sums of errors taken together."""
        return Errors(
            self.worst + other.worst,
            self.mean + other.mean,
            self.variance + other.variance,
            self.inward and other.inward,
            self.taking + other.taking,
        )

    def or_else(self, other: Errors) -> Errors:
        """Return errors that bound these and the others."""
        return Errors(
            max(self.worst, other.worst),
            max(self.mean, other.mean),
            max(self.variance, other.variance),
            self.inward and other.inward,
        )


NOTHING = Errors()
"""No error."""


def of_mode(mode: Rounding, random_bits: int | None = None, depth: float = inf) -> Errors:
    """Return the errors of rounding a number to a multiple of 1, relative to that 1.

    The number has at most `depth` bits below 1, so that no part of a whole 1 is cut off.
    """
    part = 1 - 2.0**-depth if depth <= 4 else 1.0
    match mode:
        case Rounding.NEAREST_EVEN | Rounding.NEAREST_AWAY:
            return Errors(0.5, 0.0, 0.25, False)
        case Rounding.TOWARD_ZERO:
            return Errors(part, part / 2, part * part / 4, True)
        case Rounding.UP | Rounding.DOWN:
            return Errors(part, part / 2, part * part / 4, False)
        case Rounding.TO_ODD:
            return Errors(part, 0.0, part * part, False)
        case Rounding.STOCHASTIC:  # bits beyond the random ones are cut off
            return Errors(part, 2.0 ** -(random_bits or 32), 1.0, False)


def of_registers(
    registers: Sequence[Register], lowest: int, highest: float, significant: int | None
) -> tuple[Errors, float]:
    """Return the errors of rounding a sum to registers, relative to the sum, and a further absolute error near zero.

    The sum is a multiple of 2**`lowest` and at most 2**`highest`; it has at most `significant` significant bits if given.
    No rounding error arises where the format holds all of these bits.
    """
    errors, absolute = Errors(), 0.0
    for register in registers:
        fmt = register.format
        if fmt.kind == "integer":
            continue
        mode = of_mode(register.rounding, register.random_bits)
        if register.subnormals == "flush":
            absolute += power_of_two(fmt.min_exponent)
        if lowest < fmt.min_lsb_exponent:
            absolute += mode.worst * power_of_two(fmt.min_lsb_exponent)
            errors = errors.then(Errors(inward=mode.inward))
        fits = significant is not None and significant <= fmt.mantissa_bits + 1
        if not (fits or highest <= lowest + fmt.mantissa_bits + 1):
            depth = max(ceil(highest) - 1 - fmt.mantissa_bits - lowest, 1) if highest < inf else inf
            own = of_mode(register.rounding, register.random_bits, depth)
            errors = errors.then(own.times(2.0**-fmt.mantissa_bits))
            significant = fmt.mantissa_bits + 1
    return errors, absolute


def compounded(once: Sequence[Errors], every: Sequence[tuple[Errors, int]] = ()) -> tuple[float, float]:
    """Return the largest relative error after some steps, and the factor by which sums can grow.

    Errors of `once` are relative to the terms. Those of `every`, each with a count, are relative to two to the exponent of
    a running value. Steps that only take away leave a share Q, a product of (1 - x)**n. Others let sums grow by G: (1 + x) for
    each of `once`, `grown` for the rest. What is taken away is part of what has grown, so that the error is at most
    G (1 - Q) + G - 1. A step with a part of each kind is two steps.
    """
    steps = [*((e, 1) for e in once), *every]
    gone = any(e.taking >= 1 and n for e, n in steps)
    taken = 1.0 if gone else abs(expm1(sum(n * log1p(-e.taking) for e, n in steps)))
    more = grown(sum(n * (e.worst - e.taking) for e, n in every))
    for e in once:
        more += (e.worst - e.taking) * (1 + more)
    return ((1 + more) * taken + more if more < inf else inf), 1 + more


def times(x: float, y: float) -> float:
    """Return the product of two numbers from 0 to infinity; 0 times infinity is 0."""
    return x * y if x and y else 0.0


def power_of_two(exponent: int) -> float:
    """Return two to a whole power, infinity beyond float64."""
    return ldexp(1.0, exponent) if exponent < 1024 else inf


def grown(added: float) -> float:
    """Return L(added) - 1, by which a magnitude of 1 can grow under roundings that add up to `added`.

    A rounding adds at most x 2**e to a magnitude from 2**e on. The logarithm that is straight within each binade, e + y for
    2**e (1 + y), then grows by at most x. L, its inverse, gives 1 + `added` up to 1 (as Jeannerod and Rump 2013 for sums
    rounded to nearest), and never more than the usual (1 + x)**n.
    """
    whole = floor(added) if added < 1000 else 1000
    return added if whole == 0 else inf if whole == 1000 else ldexp(1 + added - whole, whole) - 1
