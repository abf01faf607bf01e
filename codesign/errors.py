"""Errors of an outcome reduced to rows, and every numerics metric computed from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from codesign.trial import Outcome

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """Sums over columns that every metric follows from, one entry per row of a trial (seeds stacked)."""

    error2: Array
    exact2: Array
    signed: Array
    magnitude: Array
    largest_error: Array
    largest: Array
    over_ulp: Array
    quantisation2: Array
    total2: Array
    original2: Array
    not_finite: Array
    count: Array
    underflow: float
    overflow: float


def bf16_ulp(x: Array) -> Array:
    """Distance between neighbouring BF16 numbers at the magnitude of x."""
    import numpy as np

    from isa_model.lanes import leading_exponent

    ulp: Array = np.ldexp(1.0, np.maximum(leading_exponent(x), -126) - 7)
    return ulp


def errors_of(outcome: Outcome) -> Errors:
    """Reduce an outcome to what the metrics need, row by row. Outputs that are not finite count as overflow alone."""
    import numpy as np

    finite = np.isfinite(outcome.d)
    d = np.where(finite, outcome.d, outcome.exact)
    error, total = d - outcome.exact, d - outcome.original
    quantisation = outcome.exact - outcome.original

    def rows(x: Any) -> Array:
        return np.asarray(np.sum(x, axis=1, dtype=np.float64))

    return Errors(
        error2=rows(error**2),
        exact2=rows(outcome.exact**2),
        signed=rows(error * np.sign(outcome.exact)),
        magnitude=rows(np.abs(outcome.exact)),
        largest_error=np.abs(error).max(axis=1),
        largest=np.abs(outcome.exact).max(axis=1),
        over_ulp=rows(np.abs(error) > bf16_ulp(outcome.exact)),
        quantisation2=rows(quantisation**2),
        total2=rows(total**2),
        original2=rows(outcome.original**2),
        not_finite=rows(~finite),
        count=rows(np.ones_like(d)),
        underflow=outcome.underflow,
        overflow=outcome.overflow,
    )


def metrics_of(parts: Iterable[Errors], weights: Array | None = None) -> dict[str, Array]:
    """Every metric from the rows of all seeds; with `weights` (B, rows), B resampled values of each."""
    import numpy as np

    stacked = list(parts)

    def joined(name: str) -> Array:
        return np.concatenate([getattr(e, name) for e in stacked])

    picked = np.ones((1, len(joined("count")))) if weights is None else weights

    def total(name: str) -> Array:
        return np.asarray(picked @ joined(name))

    def largest(name: str) -> Array:
        return np.asarray(np.where(picked > 0, joined(name), 0.0).max(axis=1))

    with np.errstate(divide="ignore", invalid="ignore"):
        accumulation = np.sqrt(total("error2") / total("exact2"))
        whole = np.sqrt(total("total2") / total("original2"))
        constant = np.ones(len(picked))
        return {
            "numerics.relative_frobenius": accumulation,
            "numerics.max_relative": largest("largest_error") / largest("largest"),
            "numerics.bias": total("signed") / total("magnitude"),
            "numerics.share_over_1_bf16_ulp": total("over_ulp") / total("count"),
            "numerics.quantisation_error": np.sqrt(total("quantisation2") / total("original2")),
            "numerics.total_error": whole,
            "numerics.sqnr_db": -20 * np.log10(whole),
            "numerics.underflow_share": constant * np.mean([e.underflow for e in stacked]),
            "numerics.overflow_share": constant * np.mean([e.overflow for e in stacked])
            + total("not_finite") / total("count"),
        }
