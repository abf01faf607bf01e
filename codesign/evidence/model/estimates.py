"""Estimates of a model's metrics from its sequences, paired with those of the reference."""

from __future__ import annotations

from math import exp, inf
from typing import TYPE_CHECKING

from codesign.evidence.model.records import ModelRecord, ModelRun
from codesign.figures.intervals import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def estimates(record: ModelRecord, run: ModelRun) -> dict[str, Estimate]:
    """Return the estimate of each metric but the layers' of a run; its clusters are the sequences."""
    loss, kl = _array(run.loss), _array(run.kl)
    return {
        "model.perplexity": _exponential(loss),
        "model.perplexity_ratio": _exponential(loss - _array(record.reference.loss)),
        "model.kl": _mean(kl),
        "model.flip_rate": _mean(_array(run.flips), units=record.sequences * (record.length - 1)),
    }


def kinds(run: ModelRun) -> dict[str, float | None]:
    """Return the error of each kind of Linear over all layers (the root of the mean square); None: not finite."""
    found: dict[str, list[float | None]] = {}
    for name, error in run.layers.items():
        found.setdefault(name.rsplit(".", 1)[-1], []).append(error)
    return {kind: _root_mean_square(errors) for kind, errors in found.items()}


def blocks(run: ModelRun) -> dict[str, float | None]:
    """Return the error of each layer's Linears (the root of the mean square), by the layer's number."""
    found: dict[str, list[float | None]] = {}
    for name, error in run.layers.items():
        number = next((part for part in name.split(".") if part.isdigit()), name)
        found.setdefault(number, []).append(error)
    return {number: _root_mean_square(errors) for number, errors in found.items()}


def _root_mean_square(values: Iterable[float | None]) -> float | None:
    known = list(values)
    if any(x is None for x in known):
        return None
    return float((sum(x * x for x in known if x is not None) / len(known)) ** 0.5)


def _array(values: Sequence[float | None]) -> Array:
    """Return values with infinity for those that are not finite."""
    import numpy as np

    return np.array([inf if x is None else x for x in values], np.float64)


def _left_out(x: Array) -> Array:
    """Return the mean without each cluster."""
    without: Array = (x.sum() - x) / max(len(x) - 1, 1)
    return without


def _exponential(x: Array) -> Estimate:
    """Estimate the exponential of the mean of a value per sequence."""
    import numpy as np

    mean = float(x.mean())
    if not np.isfinite(x).all() or mean > 700:
        return Estimate(inf, np.zeros(len(x)))
    return Estimate(exp(mean), mean - _left_out(x))


def _mean(x: Array, units: float = 0.0) -> Estimate:
    """Estimate the mean of a value per sequence; with `units`, a share counted over so many tokens."""
    import numpy as np

    if not np.isfinite(x).all():
        return Estimate(inf, np.zeros(len(x)))
    mean, without = float(x.mean()), _left_out(x)
    if units:
        return Estimate(mean, mean - without, "share", units)
    if mean <= 0 or (without <= 0).any():
        return Estimate(mean, mean - without, "plain")
    return Estimate(mean, np.log(mean) - np.log(without))
