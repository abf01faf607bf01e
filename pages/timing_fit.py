"""Fits the timing model to measured rows, and predicts held-out rows; timing_tables.py and unseen.py import it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import ceil, exp, fsum, log

import numpy as np
from numpy.typing import NDArray

from codesign.evidence.timing import machine_constants
from codesign.evidence.timing.machine_constants import Machine
from codesign.evidence.timing.measured import rows
from codesign.evidence.timing.model import LARGE, Constants, Operation, Product, time
from codesign.evidence.timing.ratio_errors import Ratio, pair
from codesign.evidence.timing.records import Error, ErrorFactors, Fit
from isa_model.diagnostics import InputError
from kernels.bench.records import BenchRecord
from kernels.gemm.tile import ScaleLayout

Vector = NDArray[np.float64]
RULE = (
    "Linears in order of their sizes (of casts: matrices in order of their columns), every other one in the other half; each "
    "half is predicted by the fit to the other, the shipped constants are the fit to both"
)
START = Constants(
    start_us=1.0,
    cluster_us=0.3,
    split_us=1.0,
    out_of_turn=0.5,
    copy_clocks=20.0,
    l2_again=0.5,
    memory_share=0.9,
    store_passes=1.0,
    overlap=0.1,
    full_clock=0.5,
    promotion_energy=0.2,
    sustained_clock=0.5,
    stream_start_us=1.5,
    stream_share=0.9,
    element_rate=1e4,
)
"""Start values of the fit, which constants keep if the rows do not determine them."""
HOLD = 0.1
"""Relative error of a row that weighs as much as a constant off its start value by a factor of e."""


@dataclass(frozen=True)
class Sample:
    """A measured row and its operation."""

    kernel: str
    implementation: str
    shape: tuple[int, ...]
    linear: tuple[int, int]
    """Sizes of the Linear's weight; 0 and the columns for a matrix that is cast."""
    operation: Operation
    us: float
    """Measured time in us."""
    sustained_us: float | None = None
    """Measured time in us without pauses between launches."""


def samples(record: BenchRecord) -> list[Sample]:
    """Return the samples of all our kernels and their twins in a record of the bench."""
    found = []
    for row, operation, us in rows(record):
        sides = [row.shape.get(s, 0) for s in (("m", "n") if row.kernel == "gemm.wgrad" else ("n", "k"))]
        linear = (min(sides), max(sides))
        sustained = row.sustained.us if row.sustained else None
        found.append(
            Sample(row.kernel, row.implementation, tuple(row.shape.values()), linear, operation, us, sustained)
        )
    return found


def fold(linear: tuple[int, int], linears: Iterable[tuple[int, int]]) -> int:
    """Return the half of the data, 0 or 1, that a Linear belongs to: every other one in order of size.

    All passes of a Linear are in the same half, so that none is predicted by a fit to another.
    """
    return sorted(set(linears)).index(linear) % 2


def fit(seen: Sequence[Sample], machine: Machine) -> Constants:
    """Return the constants with the least squared relative errors, by the Levenberg-Marquardt method on their logarithms."""

    def fitted(start: Constants, names: Sequence[str], times: Sequence[tuple[Operation, float]]) -> Constants:
        first = np.log([getattr(start, name) for name in names])

        def constants(v: Vector) -> Constants:
            return start.model_copy(update=dict(zip(names, np.exp(v).tolist(), strict=True)))

        def errors(v: Vector) -> Vector:
            found = [log(time(x, machine, constants(v)).total / us) for x, us in times]
            return np.array([*found, *(HOLD * (v - first))])

        best = constants(least_squares(errors, first))
        return Constants(**{name: float(f"{value:.4g}") for name, value in best.model_dump().items()})

    names = [name for name in Constants.model_fields if name != "sustained_clock"]
    found = fitted(START, names, [(s.operation, s.us) for s in seen])
    # Without pauses only the clock differs; it is fitted to GEMMs.
    found = found.model_copy(update={"sustained_clock": found.full_clock})
    steady = [(s.operation, s.sustained_us) for s in seen if s.sustained_us and isinstance(s.operation, Product)]
    limit = fitted(found.model_copy(update={"full_clock": found.sustained_clock}), ["full_clock"], steady)
    return found.model_copy(update={"sustained_clock": limit.full_clock})


def least_squares(errors: Callable[[Vector], Vector], start: Vector) -> Vector:
    """Return a local minimum of the sum of squared errors, near `start`."""
    at: Vector = start.copy()
    damping, found = 1e-2, errors(start)
    for _ in range(200):
        slopes = np.stack([(errors(at + 1e-4 * axis) - found) / 1e-4 for axis in np.eye(len(at))], axis=1)
        normal, gradient = slopes.T @ slopes, slopes.T @ found
        while damping < 1e8:
            step = np.clip(np.linalg.solve(normal + damping * np.eye(len(at)), -gradient), -0.5, 0.5)
            moved = errors(at + step)
            if moved @ moved < found @ found:
                break
            damping *= 4
        else:
            return at
        gain = found @ found - moved @ moved
        at, found, damping = at + step, moved, damping / 3
        if gain < 1e-10:
            return at
    return at


def held_out(all_samples: Sequence[Sample], machine: Machine) -> dict[Sample, float]:
    """Return modelled over measured time of every sample, predicted by the fit to the other half."""
    linears: dict[type, set[tuple[int, int]]] = {}
    for s in all_samples:
        linears.setdefault(type(s.operation), set()).add(s.linear)
    halves: tuple[list[Sample], list[Sample]] = ([], [])
    for s in all_samples:
        halves[fold(s.linear, linears[type(s.operation)])].append(s)
    found: dict[Sample, float] = {}
    for half, other in (halves, halves[::-1]):
        constants = fit(other, machine)
        found |= {s: time(s.operation, machine, constants).total / s.us for s in half}
    return found


def speedups(predicted: Mapping[Sample, float], gpu: str) -> list[Ratio]:
    """Return every pair of kernels that were measured at one shape, the one without what the other does for scales."""
    by_shape: dict[tuple[object, ...], list[Sample]] = {}
    for s in predicted:
        if isinstance(s.operation, Product):
            p = s.operation.problem
            by_shape.setdefault((p.m, p.n, p.k, p.add, s.kernel if p.groups else ""), []).append(s)
    return [
        Ratio(
            pair=pair(old.operation, new.operation),
            gpu=gpu,
            linear=old.linear,
            shape=old.shape,
            measured=float(f"{old.us / new.us:.5g}"),
            modelled=float(f"{old.us * predicted[old] / new.us / predicted[new]:.5g}"),
        )
        for there in by_shape.values()
        for old, new in permutations(there, 2)
        if isinstance(old.operation, Product) and isinstance(new.operation, Product)
        if old.operation.problem.promote and not new.operation.problem.promote
        if new.operation.problem.scales in (old.operation.problem.scales, ScaleLayout.TENSOR)
    ]


def is_large(s: Sample) -> bool:
    """Return whether a sample is a GEMM of at least LARGE rows."""
    return isinstance(s.operation, Product) and s.operation.problem.m >= LARGE


def make(record: BenchRecord, commit: str, command: str) -> tuple[Fit, list[Ratio]]:
    """Fit the model to a record of the bench; return the fit and the ratios of kernels by its predictions of held-out rows.

    Raises InputError if there are no constants of its GPU.
    """
    about = machine_constants.shipped().get(record.gpu)
    if about is None:
        raise InputError.of(f"no constants of {record.gpu}", "python -m kernels.bench.machine")
    gpu, seen = machine_constants.machine(about), samples(record)
    ratios = held_out(seen, gpu)
    found = Fit(
        gpu=record.gpu,
        bench=f"{record.name}, commit {record.commit}, {record.date}",
        machine=f"{about['name']}, commit {about['commit']}, {about['date']}",
        commit=commit,
        command=command,
        rule=RULE,
        rows=len(seen),
        constants=fit(seen, gpu),
        reach=ErrorFactors(held=_held(ratios), **{name: _reach(x.values()) for name, x in sizes(ratios).items()}),
        errors=tuple(errors(ratios)),
    )
    return found, speedups(ratios, record.gpu)


def errors(ratios: Mapping[Sample, float]) -> list[Error]:
    """Return the errors of each kernel and twin, of all GEMMs, and of all casts."""
    groups: dict[str, dict[Sample, float]] = {}
    for s, ratio in ratios.items():
        twin = ", twin" if s.implementation in ("no-promotion", "move") else ""
        groups.setdefault(s.kernel + twin, {})[s] = ratio
    products = {s: r for s, r in ratios.items() if isinstance(s.operation, Product)}
    groups[f"all GEMMs of {LARGE} rows and more"] = {s: r for s, r in products.items() if is_large(s)}
    groups["all GEMMs of fewer rows"] = {s: r for s, r in products.items() if not is_large(s)}
    groups["all GEMMs"] = products
    groups["all casts"] = {s: r for s, r in ratios.items() if s not in products}
    groups["all"] = dict(ratios)
    return [_error(name, group) for name, group in groups.items() if group]


def _error(name: str, ratios: Mapping[Sample, float]) -> Error:
    off = [r - 1 for r in ratios.values()]
    at, worst = max(ratios.items(), key=lambda item: abs(item[1] - 1))
    return Error(
        kernel=name,
        rows=len(off),
        mean=round(fsum(map(abs, off)) / len(off), 4),
        bias=round(fsum(off) / len(off), 4),
        worst=round(worst - 1, 4),
        worst_at=f"{at.implementation} {'x'.join(map(str, at.shape))}",
    )


def sizes(ratios: Mapping[Sample, float]) -> dict[str, dict[Sample, float]]:
    """Return the ratios of large GEMMs, of small ones and of casts, by their names in ErrorFactors."""
    found: dict[str, dict[Sample, float]] = {"product": {}, "small": {}, "stream": {}}
    for s, ratio in ratios.items():
        name = "stream" if not isinstance(s.operation, Product) else "product" if is_large(s) else "small"
        found[name][s] = ratio
    return found


def _held(ratios: Mapping[Sample, float]) -> tuple[int, int]:
    """Return how many rows lie within the factor of their size that the rows of other Linears give, and how many there are."""
    inside = [
        abs(log(ratio)) <= log(_reach(r for other, r in found.items() if other.linear != s.linear))
        for found in sizes(ratios).values()
        for s, ratio in found.items()
    ]
    return sum(inside), len(inside)


def _reach(ratios: Iterable[float]) -> float:
    """Return the factor that contains another ratio with a probability of 95 %: a conformal bound; 1 if there are none."""
    off = sorted(abs(log(r)) for r in ratios)
    return round(exp(off[min(ceil(0.95 * (len(off) + 1)), len(off)) - 1]), 4) if off else 1.0
