"""Records of fits: the model's constants of a GPU, their sources, and the errors on held-out rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from math import exp, fsum, log
from pathlib import Path
from typing import Literal

from codesign.evidence.timing import machine_constants
from codesign.evidence.timing.fit import Sample, fit, held_out, is_large, samples, speedups
from codesign.evidence.timing.model import LARGE, Constants, Product
from isa_model.diagnostics import InputError
from isa_model.stage import Spec
from kernels.bench import records
from kernels.bench.records import BenchRecord

FOLDER = Path(__file__).parent / "records"
RULE = (
    "Linears in order of their sizes (of casts: matrices in order of their columns), every other one in the other half; each "
    "half is predicted by the fit to the other, the shipped constants are the fit to both"
)


class Error(Spec):
    """Errors of the model on rows not used in its fit, relative to the measured time."""

    kernel: str
    """Kernel or group of kernels."""
    rows: int
    mean: float
    """Mean magnitude of the errors."""
    bias: float
    """Mean error; positive if the model is too slow."""
    worst: float
    """Error of the largest magnitude."""
    worst_at: str
    """Implementation and shape of the worst error."""


class ErrorFactors(Spec):
    """Factors, up or down, that contain the errors of 95 % of the held-out rows."""

    product: float
    """Factor for GEMMs of 1024 rows and more."""
    small: float
    """Factor for GEMMs of fewer rows."""
    stream: float
    """Factor for casts and transposes."""
    speedup: float
    """Factor for the ratio of a large GEMM's time to that of its twin."""


class Fit(Spec):
    """The model fitted to one GPU."""

    schema_version: Literal[1] = 1
    gpu: str
    bench: str
    """Name, commit and date of the bench's record."""
    machine: str
    """Name, commit and date of the record of the machine's constants."""
    commit: str
    command: str
    rule: str
    rows: int
    constants: Constants
    reach: ErrorFactors
    errors: tuple[Error, ...]


def make(record: BenchRecord, commit: str, command: str) -> Fit:
    """Fit the model to a record of the bench. Raises InputError if there are no constants of its GPU."""
    about = machine_constants.shipped().get(record.gpu)
    if about is None:
        raise InputError.of(f"no constants of {record.gpu}", "python -m kernels.bench.machine")
    gpu, seen = machine_constants.machine(about), samples(record)
    ratios = held_out(seen, gpu)
    gained = speedups(ratios)
    return Fit(
        gpu=record.gpu,
        bench=f"{record.name}, commit {record.commit}, {record.date}",
        machine=f"{about['name']}, commit {about['commit']}, {about['date']}",
        commit=commit,
        command=command,
        rule=RULE,
        rows=len(seen),
        constants=fit(seen, gpu),
        reach=ErrorFactors(
            product=_reach(r for s, r in ratios.items() if is_large(s)),
            small=_reach(r for s, r in ratios.items() if isinstance(s.operation, Product) and not is_large(s)),
            stream=_reach(r for s, r in ratios.items() if not isinstance(s.operation, Product)),
            speedup=_reach(gained.values()),
        ),
        errors=tuple(errors(ratios, gained)),
    )


def errors(ratios: Mapping[Sample, float], gained: Mapping[Sample, float]) -> list[Error]:
    """Return the errors of each kernel and twin, of all GEMMs, of all casts, and of speedups."""
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
    groups["GEMM over its twin"] = dict(gained)
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


def _reach(ratios: Iterable[float]) -> float:
    """Return the factor that contains 95 % of ratios; 1 if there are none."""
    off = sorted(abs(log(r)) for r in ratios)
    return round(exp(off[min(int(0.95 * len(off)), len(off) - 1)]), 4) if off else 1.0


@cache
def shipped() -> Mapping[str, Fit]:
    """Return the shipped fits by GPU."""
    fits = [Fit.model_validate_json(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
    return {f.gpu: f for f in fits}


def save(found: Fit, path: Path) -> None:
    """Write the record, whole or not at all. Raises InputError if the file cannot be written."""
    records.save(found, path)
