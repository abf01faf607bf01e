"""Intervals by resampling: what is measured on rows, drawn again and again, all variants alike."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from codesign.evidence import Figure
from codesign.proposal import Value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Values = Mapping[tuple[str, Value | None], Mapping[str, Array]]

RESAMPLES = 400


def weights(workload: str, tensors: str, rows: int) -> Array:
    """How often each row is taken: once each in the first line, at random in the others; the same for every variant."""
    import numpy as np

    rng = np.random.default_rng(zlib.crc32(f"{workload}/{tensors}".encode()))
    drawn = rng.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES)
    return np.vstack([np.ones(rows), drawn]).astype(np.float64)


def figures(
    workload: str, tensors: str, values: Values, bases: Sequence[str], outputs: int = 0, level: float = 0.95
) -> Iterator[Figure]:
    """A figure per variant and metric from its values on the lines of `weights`.

    `bases` are the variants whose ratios are wanted, too: as every line takes the same rows of both, the ratio's interval
    is that of the difference between them and not of the rows. `outputs` is how many a share was counted over.
    """
    import numpy as np

    for (variant, at), metrics in values.items():
        for metric, value in metrics.items():
            low, high = _interval(value, level)
            if metric == "numerics.share_over_1_bf16_ulp":
                high = max(high, 3.0 / outputs)  # none seen in n is no proof of none: rule of three
            ratios = {}
            for base in bases:
                if base != variant and (base, None) in values:
                    with np.errstate(divide="ignore", invalid="ignore"):
                        ends = _interval(value / values[base, None][metric], level)
                    ratios[base] = (finite(ends[0]), finite(ends[1]))
            yield Figure(
                metric=metric,
                variant=variant,
                at=at,
                workload=workload,
                tensors=tensors,
                value=finite(float(value[0])),
                low=finite(low),
                high=finite(high),
                ratios=ratios,
                kind="computed",
                source="bit-exact model",
            )


def _interval(value: Array, level: float) -> tuple[float, float]:
    """The middle `level` of the resampled values, those that are not finite left out; NaN where none is."""
    import numpy as np

    spread = value[1:][np.isfinite(value[1:])]
    if not len(spread):
        return float("nan"), float("nan")
    low, high = np.percentile(spread, [50 - 50 * level, 50 + 50 * level])
    return float(low), float(high)


def finite(x: float) -> float | None:
    """Six significant digits, which is more than any figure deserves; None for infinities and NaNs."""
    from math import isfinite

    return float(f"{x:.6g}") if isfinite(x) else None
