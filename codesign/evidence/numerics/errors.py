"""Errors of an outcome reduced to sums over clusters, and every numerics metric estimated from them.

A cluster is a seed of a synthetic source, or some neighbouring rows of a captured tile. Sums are weighted by the number of
rows and columns of the tensor that each computed one represents.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Any

from codesign.figures.estimates import added, decibel, largest, norm, quantile, quotient, share
from codesign.figures.intervals import Estimate
from isa_model.rounding import Rounding
from isa_model.stage import Register

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from codesign.evidence.numerics.operands import Operand
    from codesign.evidence.numerics.trial import Outcome

    Array = NDArray[np.float64]

CLUSTERS = 32
"""Most clusters made of the rows of a captured tile."""
PROBABILITY = 0.95
"""Quantile of the error's magnitude that is reported."""
ROOM = 2.0**-20
"""Share of the largest number up to which outputs are taken not to overflow: another sample would have to be a million times
larger."""
FEWEST_OUTPUTS = 256
"""Outputs below which no interval is given."""


@dataclass(frozen=True)
class Errors:
    """Weighted sums over the outputs of every cluster (clusters,), and the values from which quantiles are taken."""

    error2: Array
    exact2: Array
    signed: Array
    magnitude: Array
    over_ulp: Array
    output2: Array
    changed: Array
    quantisation2: Array
    quantisation_along: Array
    """Errors of quantisation times the original products."""
    total2: Array
    original2: Array
    not_finite: Array
    overflowed: Array
    """Outputs that are not finite, or stand at the largest number of a register that saturates."""
    filled: Array
    """Largest output over the largest number that its registers hold."""
    count: Array
    outputs: Array
    """Effective number of outputs, given their weights (Kish)."""
    nonzero_a: Array
    lost_a: Array
    cut_a: Array
    size_a: Array
    elements_a: Array
    """Effective number of elements of A."""
    nonzero_b: Array
    lost_b: Array
    cut_b: Array
    size_b: Array
    elements_b: Array
    """Effective number of elements of B."""
    excess: Array
    """Relative excess of the mean square of the original products over its known expectation; NaN in a tile."""
    error_most: Array
    """Largest term of `error2`: that of one output."""
    output_most: Array
    """Largest term of `output2`."""
    quantisation_most: Array
    """Largest term of `quantisation2`."""
    total_most: Array
    """Largest term of `total2`."""
    sizes: Array
    """Magnitudes of errors (clusters, outputs of a cluster)."""
    weights: Array
    """Weights of the magnitudes of errors."""
    row_errors: Array
    """Relative total errors of rows (clusters, rows of a cluster)."""
    row_weights: Array
    """Weights of the errors of rows."""


def bf16_ulp(x: Array) -> Array:
    """Return the distance between neighbouring BF16 numbers at the magnitude of x."""
    import numpy as np

    from isa_model.float64 import leading_exponent

    ulp: Array = np.ldexp(1.0, np.maximum(leading_exponent(x), -126) - 7)
    return ulp


def errors_of(outcome: Outcome) -> Errors:
    """Reduce an outcome to the sums that metrics need. An output that is infinite or NaN has an infinite error."""
    import numpy as np

    from isa_model.float64 import round_to

    register = Register(format=outcome.output, rounding=Rounding.NEAREST_EVEN)
    d, exact, original = (_clustered(outcome, x) for x in (outcome.d, outcome.exact, outcome.original))
    rows, columns, power = _weights(outcome, len(d))
    weights = rows[:, :, None] * columns[:, None, :]
    out, out_exact = round_to(d, register), round_to(exact, register)
    finite = np.isfinite(out)
    d, out = np.where(finite, d, np.inf), np.where(finite, out, np.inf)
    over = np.abs(d - exact) > bf16_ulp(exact)
    changed = out != out_exact
    # Tensors count alike, whatever their size.
    unit = np.sqrt(np.where(power > 0, power, 1.0))[:, None, None]
    d, out, exact, original = d / unit, out / unit, exact / unit, original / unit
    error, total, counted = d - exact, out - original, weights > 0
    every = counted.all()

    def summed(x: Any, of: Callable[..., Any] = np.sum) -> Array:
        with np.errstate(invalid="ignore"):  # infinite errors of both signs
            return np.asarray(of(weights * x if every else np.where(counted, weights * x, 0.0), axis=(1, 2)))

    error2, output2, quantisation2, total2 = (x**2 for x in (error, out - exact, exact - original, total))
    row_total2, row_original2 = ((columns[:, None, :] * x**2).sum(axis=2) for x in (total, original))
    with np.errstate(divide="ignore", invalid="ignore"):  # errors of nothing, and infinite ones
        row_errors = np.where(row_total2 == 0, 0.0, np.sqrt(row_total2 / row_original2))
        signed = error * np.sign(exact)
    original2, size = summed(original**2), d[0].size
    known = None if outcome.expected is None else outcome.expected / np.where(power > 0, power, 1.0)
    a, b = outcome.operands
    return Errors(
        error2=summed(error2),
        exact2=summed(exact**2),
        signed=summed(signed),
        magnitude=summed(np.abs(exact)),
        over_ulp=summed(over),
        output2=summed(output2),
        changed=summed(changed),
        quantisation2=summed(quantisation2),
        quantisation_along=summed((exact - original) * original),
        total2=summed(total2),
        original2=original2,
        not_finite=summed(~finite),
        overflowed=summed(~finite if outcome.saturated is None else ~finite | _clustered(outcome, outcome.saturated)),
        filled=np.full(len(d), outcome.filled),
        count=summed(np.ones_like(d)),
        outputs=_effective(weights.reshape(len(d), -1)),
        excess=np.full(len(d), np.nan) if known is None else original2 / (size * known) - 1,
        error_most=summed(error2, np.max),
        output_most=summed(output2, np.max),
        quantisation_most=summed(quantisation2, np.max),
        total_most=summed(total2, np.max),
        sizes=np.abs(error).reshape(len(d), -1),
        weights=weights.reshape(len(d), -1),
        row_errors=row_errors,
        row_weights=rows,
        **_counts("a", a, [_clustered(outcome, x) for x in (a.nonzero, a.lost, a.cut)], rows),
        **_counts("b", b, [_repeated(x, len(d)) for x in (b.nonzero, b.lost, b.cut)], columns),
    )


def _counts(which: str, operand: Operand, counts: list[Any], weights: Any) -> dict[str, Array]:
    """Return weighted counts of an operand's elements; `counts` has those of each line: nonzero, lost and cut ones."""
    length = operand.codes.shape[2] // operand.products
    sums = {**dict(zip(("nonzero", "lost", "cut"), counts, strict=True)), "size": length}
    found = {f"{name}_{which}": (weights * x).sum(axis=1) for name, x in sums.items()}
    return found | {f"elements_{which}": length * _effective(weights)}


def _effective(weights: Any) -> Array:
    """Return Kish's effective number of weighted observations of each cluster."""
    effective: Array = weights.sum(axis=1) ** 2 / (weights**2).sum(axis=1)
    return effective


def _clustered(outcome: Outcome, x: Any) -> Any:
    """Return an array by cluster: seeds, or runs of neighbouring rows of a captured tile, the last one padded with zeros."""
    import numpy as np

    if not outcome.captured:
        return x
    run = -(-x.shape[1] // CLUSTERS)
    padded = np.pad(x[0], ((0, -x.shape[1] % run), *[(0, 0)] * (x.ndim - 2)))
    return padded.reshape(-1, run, *x.shape[2:])


def _repeated(x: Any, count: int) -> Any:
    """Return an array by cluster, repeated if all clusters share it."""
    import numpy as np

    return x if len(x) == count else np.repeat(x, count, axis=0)


def _weights(outcome: Outcome, clusters: int) -> tuple[Any, Any, Any]:
    """Return the weights of rows and columns and the power of each cluster."""
    rows = _clustered(outcome, outcome.rows)
    return rows, _repeated(outcome.columns, clusters), _repeated(outcome.power, clusters)


def joined(parts: Sequence[Outcome]) -> Outcome:
    """Return the outcomes of several trials of one GEMM as one, seed after seed."""
    import numpy as np

    first = parts[0]
    if len(parts) == 1:
        return first

    def seeds_of(values: list[Any]) -> Any:
        return None if values[0] is None else np.concatenate(values)

    names = ("d", "exact", "original", "rows", "columns", "power", "expected", "saturated")
    made: dict[str, Any] = {name: seeds_of([getattr(part, name) for part in parts]) for name in names}
    a, b = (
        replace(side, **{n: seeds_of([getattr(p.operands[i], n) for p in parts]) for n in ("nonzero", "lost", "cut")})
        for i, side in enumerate(first.operands)
    )
    return replace(first, **made, operands=(a, b), filled=max(part.filled for part in parts))


def part(errors: Errors, clusters: Any) -> Errors:
    """Return the errors of some clusters: a slice or an array of indices."""
    return Errors(**{f.name: getattr(errors, f.name)[clusters] for f in fields(Errors)})


def estimates(errors: Errors, names: Collection[str] | None = None) -> dict[str, Estimate]:
    """Return an estimate of every metric, or of those named. All but shares are infinite if an error is."""
    e = errors
    outputs = float(e.outputs.sum())
    units_a, units_b = float(e.elements_a.sum()), float(e.elements_b.sum())

    @cache
    def total() -> Estimate:
        return norm(e.total2, e.original2, e.excess, e.total_most)

    def finite(make: Callable[[], Estimate]) -> Estimate:
        return Estimate(inf, 0.0 * e.count) if e.not_finite.any() else make()

    def overflow() -> Estimate:
        cut = largest(share(e.cut_a, e.size_a, units_a), share(e.cut_b, e.size_b, units_b))
        if (e.filled <= ROOM).all() and not e.overflowed.any():
            return cut  # outputs so far below every register's largest number say that none overflows, however few they are
        return added(cut, share(e.overflowed, e.count, outputs))

    made: dict[str, Callable[[], Estimate]] = {
        "numerics.output_error": lambda: norm(e.output2, e.exact2, e.excess, e.output_most),
        "numerics.changed_share": lambda: share(e.changed, e.count, outputs),
        "numerics.total_error": total,
        "numerics.sqnr_db": lambda: decibel(total()),
        "numerics.median_row_error": lambda: finite(lambda: quantile(e.row_errors, e.row_weights, 0.5)),
        "numerics.quantisation_error": lambda: norm(e.quantisation2, e.original2, e.excess, e.quantisation_most),
        "numerics.quantisation_bias": lambda: quotient(e.quantisation_along, e.original2, e.excess),
        "numerics.relative_frobenius": lambda: norm(e.error2, e.exact2, e.excess, e.error_most),
        "numerics.p95_error": lambda: finite(
            lambda: quantile(e.sizes, e.weights, PROBABILITY, (e.exact2, e.count), e.excess)
        ),
        "numerics.bias": lambda: quotient(e.signed, e.magnitude, e.excess),
        "numerics.share_over_1_bf16_ulp": lambda: share(e.over_ulp, e.count, outputs),
        "numerics.underflow_share": lambda: largest(
            share(e.lost_a, e.nonzero_a, units_a), share(e.lost_b, e.nonzero_b, units_b)
        ),
        "numerics.overflow_share": overflow,
    }
    return {name: make() for name, make in made.items() if names is None or name in names}
