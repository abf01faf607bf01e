"""The record of a fit: the model's constants of one GPU, where they came from, and their errors on rows held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from math import fsum, log
from pathlib import Path
from typing import Literal

from codesign.evidence.timing import machine
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
    """How far the model was off on rows that its fit had not seen, as shares of the measured time."""

    kernel: str
    rows: int
    mean: float
    """Mean magnitude of the errors."""
    bias: float
    """Mean of the signed errors: positive where the model is too slow."""
    worst: float
    worst_at: str
    """Implementation and shape there."""


class Reach(Spec):
    """The factor, up or down, within which 95 % of the held-out rows lie."""

    product: float
    """Factor of GEMMs of 1024 rows and more."""
    small: float
    """Factor of GEMMs of fewer rows."""
    stream: float
    speedup: float
    """Factor of the time of a large GEMM over that of its twin."""


class Fit(Spec):
    """Constants of one GPU."""

    schema_version: Literal[1] = 1
    gpu: str
    bench: str
    """Name of the bench's record, with its commit and date."""
    machine: str
    """Name of the record of the machine's constants, with its commit and date."""
    commit: str
    command: str
    rule: str
    rows: int
    constants: Constants
    reach: Reach
    errors: tuple[Error, ...]


def make(record: BenchRecord, commit: str, command: str) -> Fit:
    """Fit the model to a record of the bench. Raises InputError without constants of its GPU."""
    about = machine.shipped().get(record.gpu)
    if about is None:
        raise InputError.of(f"no constants of {record.gpu}", "python -m kernels.bench.machine")
    gpu, seen = machine.machine(about), samples(record)
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
        reach=Reach(
            product=_reach(r for s, r in ratios.items() if is_large(s)),
            small=_reach(r for s, r in ratios.items() if isinstance(s.operation, Product) and not is_large(s)),
            stream=_reach(r for s, r in ratios.items() if not isinstance(s.operation, Product)),
            speedup=_reach(gained.values()),
        ),
        errors=tuple(errors(ratios, gained)),
    )


def errors(ratios: Mapping[Sample, float], gained: Mapping[Sample, float]) -> list[Error]:
    """A line for each kernel and its twin, for all GEMMs, all casts, and for speedups."""
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
    """1 for none."""
    off = sorted(abs(log(r)) for r in ratios)
    return round(2.718281828459045 ** off[min(int(0.95 * len(off)), len(off) - 1)], 4) if off else 1.0


@cache
def shipped(folder: Path = FOLDER) -> Mapping[str, Fit]:
    """Fits by their GPU."""
    fits = [Fit.model_validate_json(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {f.gpu: f for f in fits}


def save(found: Fit, path: Path) -> None:
    """Write the record, whole or not at all. Raises InputError when the file cannot be written."""
    records.save(found, path)
