"""Distributions of synthetic tensors: independent elements, times a scale of their token and one of their channel.

The largest of millions of elements is drawn from its own distribution, without drawing the elements. Scales are sampled with
weights, so that rare large ones are always in the sample and still count as rare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from math import erf, erfc, exp
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]
    Float64 = NDArray[np.float64]
    Float = TypeVar("Float", np.float32, np.float64)

SIZE = 1 << 14
"""Elements drawn together, few enough for a cache."""


@dataclass(frozen=True)
class Element:
    """A distribution of independent elements.

    `within` and `beyond` give the probabilities that a magnitude is at most u and that it is larger.
    """

    some: Callable[[np.random.Generator, int], Float32]
    """Function that draws a number of elements."""
    within: Callable[[Float64], Float64]
    beyond: Callable[[Float64], Float64]
    mean: float
    mean_square: float

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Float32:
        """Draw an array of elements."""
        import numpy as np

        drawn = np.empty(shape, np.float32)
        self.fill(rng, drawn)
        return drawn

    def fill(self, rng: np.random.Generator, out: Float32) -> None:
        """Draw as many elements as a contiguous array has, into it."""
        flat = out.reshape(-1)
        for first in range(0, len(flat), SIZE):
            flat[first : first + SIZE] = self.some(rng, min(SIZE, len(flat) - first))

    def largest(self, rng: np.random.Generator, count: Any) -> Float64:
        """Draw the largest magnitude of `count` elements for each entry of an array of counts; 0 where `count` is 0."""
        import numpy as np

        counts = np.ascontiguousarray(count, np.float64)
        # The largest of n is where the distribution function is U**(1/n); E = -log U is exponential.
        found = np.empty(counts.shape)
        for part, n in _parts(found, counts):
            part[:] = self._magnitude(_logit(_exponential(rng, part, n)))
        return _where(counts > 0, found, 0.0)

    def ends(self, rng: np.random.Generator, count: Any) -> tuple[Float64, Float64]:
        """Draw the largest and smallest magnitude of `count` elements for each entry; 0 and infinity where `count` is 0."""
        import numpy as np

        counts = np.ascontiguousarray(count, np.float64)
        if (counts <= 1).all():  # one element is both
            largest = self.largest(rng, counts)
            return largest, _where(counts > 0, largest, np.inf)
        depth, rest = np.empty(counts.shape), np.empty(counts.shape)
        for top, n in _parts(depth, counts):
            _exponential(rng, top, n)
        # Below the largest, at probability exp(-depth), the others are independent and uniform in probability.
        for top, low, n in _parts(depth, rest, counts):
            below = _where(n > 1, _exponential(rng, low, n - 1.0), np.inf)
            least = -np.expm1(-below) * np.exp(-top)
            top[:] = self._magnitude(_logit(top))
            low[:] = self._magnitude(np.log(least) - np.log1p(-np.minimum(least, 1 - 1e-16)))
            np.minimum(low, top, out=low)
        return _where(counts > 0, depth, 0.0), _where(counts > 0, rest, np.inf)

    def _magnitude(self, logit: Float64) -> Float64:
        """Return the magnitudes at which log(within / beyond) equals `logit`."""
        import numpy as np

        magnitudes, steps = _table(self)
        at = np.clip(logit, LEAST, MOST)
        at -= LEAST
        at *= PER_UNIT
        index = at.astype(np.intp)
        at -= index
        at *= steps.take(index)
        at += magnitudes.take(index)
        return at


def _exponential(rng: np.random.Generator, out: Float64, rates: Float64) -> Float64:
    """Draw exponential numbers with rates, or with rate 1 where that is larger, into `out`; return it."""
    import numpy as np

    rng.standard_exponential(out=out)
    out /= np.maximum(rates, 1.0)
    return out


def _parts(*arrays: Float64) -> Iterator[tuple[Float64, ...]]:
    """Yield runs of elements of arrays of one size, few enough for a cache."""
    flat = [array.reshape(-1) for array in arrays]
    for first in range(0, len(flat[0]), SIZE):
        yield tuple(array[first : first + SIZE] for array in flat)


def _where(there: NDArray[np.bool_], x: Float64, other: float) -> Float64:
    """Return `x`, with `other` where nothing is there."""
    import numpy as np

    return x if there.all() else np.where(there, x, other)


def _logit(depth: Float64) -> Float64:
    """Return log(p / (1 - p)) of the probability p = exp(-depth)."""
    import numpy as np

    rest = np.negative(depth)
    np.log(np.negative(np.expm1(rest, out=rest), out=rest), out=rest)
    return np.subtract(np.negative(depth), rest, out=rest)


LEAST, MOST, PER_UNIT = -45.0, 45.0, 256
"""Logits of probabilities that are tabulated: their ends, and entries for each unit."""


@cache
def _table(element: Element) -> tuple[Float64, Float64]:
    """Return magnitudes at evenly spaced logits, and the steps between them.

    Linear interpolation is within 1e-5 of the magnitude.
    """
    import numpy as np

    u = np.exp(np.concatenate([np.linspace(-46.0, -7.0, 200), np.linspace(-7.0, 12.0, 8000)[1:]]))
    u = np.sort(np.concatenate([u, 1 - np.exp(-np.linspace(1.0, 36.0, 400))]))  # dense below 1, where some end
    within, beyond = element.within(u), element.beyond(u)
    kept = (within > 0) & (beyond > 0)
    logits = np.log(within[kept]) - np.log(beyond[kept])
    rising = np.concatenate([[True], np.diff(np.maximum.accumulate(logits)) > 0])
    even = np.linspace(LEAST, MOST, int(MOST - LEAST) * PER_UNIT + 1)
    magnitudes = np.exp(np.interp(even, logits[rising], np.log(u[kept][rising])))
    return magnitudes, np.append(np.diff(magnitudes), 0.0)


def _array(function: Callable[[float], float]) -> Callable[[Float64], Float64]:
    def of(x: Float64) -> Float64:
        import numpy as np

        return np.asarray(np.frompyfunc(function, 1, 1)(x), np.float64)

    return of


_erf, _erfc = _array(erf), _array(erfc)
_ROOT = 2.0**0.5


def _mixed(part: Callable[[Float64], Float64], scale: Callable[[Float64], Float64]) -> Callable[[Float64], Float64]:
    """Return the function u -> E[part(u / (sqrt(2) |scale(g)|))] for g normal."""

    def of(u: Float64) -> Float64:
        import numpy as np

        # Midpoints in g, dense around zero, where the scale vanishes.
        edges = np.sinh(np.linspace(-16.0, 16.0, 601)) * (12.0 / np.sinh(16.0))
        g, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
        weights = width * np.exp(-(g**2) / 2)
        # Coarse in u and interpolated: the integral is smooth in log u.
        coarse = np.exp(np.linspace(np.log(u[0]), np.log(u[-1]), 700))
        values = (part(coarse[:, None] / (_ROOT * np.abs(scale(g)))) * weights).sum(axis=1) / weights.sum()
        with np.errstate(divide="ignore"):
            return np.asarray(np.exp(np.interp(np.log(u), np.log(coarse), np.log(values))))

    return of


def normal(mean: float = 0.0) -> Element:
    """Return N(mean, 1)."""

    def within(u: Float64) -> Float64:
        return (_erf((u - mean) / _ROOT) + _erf((u + mean) / _ROOT)) / 2

    def beyond(u: Float64) -> Float64:
        return (_erfc((u - mean) / _ROOT) + _erfc((u + mean) / _ROOT)) / 2

    def some(rng: np.random.Generator, count: int) -> Float32:
        import numpy as np

        x = _normal(rng, count)
        if mean:
            x += np.float32(mean)
        return x

    return Element(some, within, beyond, mean, 1 + mean**2)


def _uniform(rng: np.random.Generator, count: int) -> Float32:
    """Draw numbers between 0 and 1, multiples of 2**-33 that are never 0."""
    import numpy as np

    words = rng.integers(0, 1 << 64, -(-count // 2), np.uint64)
    x: Float32 = words.view(np.uint32)[:count].astype(np.float32)
    x += np.float32(0.5)
    x *= np.float32(2.0**-32)
    return x


def _normal(rng: np.random.Generator, count: int) -> Float32:
    """Draw normal numbers, in pairs from a radius and an angle (Box & Muller, 1958); vector code makes this the fastest way."""
    import numpy as np

    half = -(-count // 2)
    x = _uniform(rng, 2 * half)
    radius, angle = x[:half], x[half:]
    np.log(radius, out=radius)
    radius *= np.float32(-2)
    np.sqrt(radius, out=radius)
    angle *= np.float32(2 * np.pi)
    sine = np.sin(angle)
    np.cos(angle, out=angle)
    angle *= radius
    radius *= sine
    return x[:count]


def _uniform_within(u: Float64) -> Float64:
    import numpy as np

    return np.minimum(u, 1.0)


def _student(rng: np.random.Generator, count: int) -> Float32:
    """Draw numbers with Student's t and 4 degrees of freedom: a radius and an angle (Bailey, Math. Comp. 62, 1994)."""
    import numpy as np

    x = _uniform(rng, 2 * count)
    radius, angle = x[:count], x[count:]
    np.sqrt(radius, out=radius)
    np.divide(np.float32(1), radius, out=radius)
    radius -= 1
    radius *= 4
    np.sqrt(radius, out=radius)
    angle *= np.float32(2 * np.pi)
    np.cos(angle, out=angle)
    radius *= angle
    return radius


def _student_within(u: Float64) -> Float64:
    import numpy as np

    s = u / np.sqrt(4 + u * u)
    return s * (3 - s * s) / 2


def _student_beyond(u: Float64) -> Float64:
    import numpy as np

    s = u / np.sqrt(4 + u * u)
    left = 4 / (4 + u * u) / (1 + s)  # 1 - s
    return left * left * (2 + s) / 2


def _silu(g: NDArray[Float]) -> NDArray[Float]:
    import numpy as np

    return np.asarray(g / (1 + np.exp(-g)))


def _same(g: Float64) -> Float64:
    return g


NORMAL, OFFSET_NORMAL = normal(), normal(0.5)
UNIFORM = Element(_uniform, _uniform_within, lambda u: 1.0 - _uniform_within(u), 1 / 2, 1 / 3)
STUDENT_4 = Element(_student, _student_within, _student_beyond, 0.0, 2.0)
"""Student's t with 4 degrees of freedom: tails that fall with the fourth power."""
GATED = Element(
    lambda rng, count: _silu(_normal(rng, count)) * abs(_normal(rng, count)),
    _mixed(_erf, _silu),
    _mixed(_erfc, _silu),
    0.1648596772,
    0.3557755198,
)
"""SiLU of a normal number times the magnitude of another."""
PRODUCT = Element(
    lambda rng, count: _normal(rng, count) * _normal(rng, count),
    _mixed(_erf, _same),
    _mixed(_erfc, _same),
    0.0,
    1.0,
)
"""The product of two normal numbers."""


@dataclass(frozen=True)
class Scales:
    """Scales along one axis of a tensor, independent of one another: 1 for most lines and `size` for a rare `share`, times
    a log-normal one with standard deviation `sigma` of its logarithm."""

    share: float = 0.0
    size: float = 1.0
    sigma: float = 0.0

    @property
    def mean_square(self) -> float:
        """Expectation of the square of a scale."""
        return exp(2 * self.sigma**2) * (1 + self.share * (self.size**2 - 1))

    def along(self, rng: np.random.Generator, count: int) -> Float64:
        """Draw the scales of all lines of an axis. The number of rare ones is their share, rounded up or down at random."""
        import numpy as np

        scales = np.exp(self.sigma * rng.standard_normal(count)) if self.sigma else np.ones(count)
        if self.share:
            rare = int(self.share * count + rng.random())
            scales[rng.permutation(count)[:rare]] *= self.size
        return scales

    def some(self, rng: np.random.Generator, count: int) -> tuple[Float64, Float64]:
        """Draw the scales and weights of a sample of lines: a quarter of them rare ones, half of them of a log-normal scale
        drawn where its square's expectation lies. Weighted means are those of the axis."""
        import numpy as np

        scales, weights = np.ones(count), np.ones(count)
        if self.share and count > 1:
            rare = max(count // 4, 1)
            scales[:rare], weights[:rare] = self.size, self.share * count / rare
            weights[rare:] = (1 - self.share) * count / (count - rare)
        elif self.share:
            scales = np.where(rng.random(count) < self.share, self.size, 1.0)
        if self.sigma:
            # exp(2 sigma z) weighs a normal z towards 2 sigma; both halves count as drawn from their mixture.
            tilted = count // 2
            z = rng.standard_normal(count)
            z[:tilted] += 2 * self.sigma
            part = tilted / count
            weights = weights / (1 - part + part * np.exp(2 * self.sigma * z - 2 * self.sigma**2))
            scales = scales * np.exp(self.sigma * z)
        return scales, weights

    def others(self, rng: np.random.Generator, lines: int, count: int) -> tuple[Float64, Float64]:
        """Draw the scales of `count` other lines for each of `lines`: distinct scales (lines, n) and their counts."""
        import numpy as np

        if self.sigma:
            scales = np.exp(self.sigma * rng.standard_normal((lines, count)))
            if self.share:
                scales *= np.where(rng.random((lines, count)) < self.share, self.size, 1.0)
            return scales, np.ones((lines, count))
        if not self.share:
            return np.ones((lines, 1)), np.full((lines, 1), float(count))
        rare = rng.binomial(count, self.share, lines)
        return np.tile([1.0, self.size], (lines, 1)), np.stack([count - rare, rare], axis=1).astype(np.float64)
