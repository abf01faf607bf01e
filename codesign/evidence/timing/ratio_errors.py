"""Errors of speedups from one GEMM kernel to another: modelled against measured ones, and measured ones between chips.

Both are found on the rows of every chip's bench (pages/timing_fit.py), where two kernels that differ in promotion or scales
were measured at one shape. Rows of one Linear are not independent, so that degrees of freedom count Linears.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from math import exp, fsum, log, sqrt
from pathlib import Path
from typing import Literal

from codesign.evidence.timing.model import LARGE, Product
from codesign.figures.quantiles import Ends, student_t
from isa_model.stage import Spec
from kernels.gemm.tile import ScaleLayout

FILE = Path(__file__).parent / "records" / "ratios.json"
FEWEST = 3
"""Linears below which a pair of kernels has no interval of its own."""
SCALES = {
    ScaleLayout.TENSOR: "a scale per tensor",
    ScaleLayout.BLOCK: "scales per block",
    ScaleLayout.GROUP: "wgrad's scales",
}


def pair(old: Product, new: Product) -> str:
    """Return the name of a pair of kernels: what the old one does, and what the new one leaves out."""
    p, q = old.problem, new.problem
    kernel = SCALES[p.scales] + (" and groups of experts" if p.groups else "")
    left_out = [
        *(["scales"] if p.scales and not q.scales else []),
        *(["promotion"] if p.promote and not q.promote else []),
    ]
    return f"{kernel}{'' if p.m >= LARGE else f', under {LARGE} rows'}: without {' and '.join(left_out) or 'change'}"


class Ratio(Spec):
    """Speedup from one kernel to another at one shape of one Linear."""

    pair: str
    gpu: str
    linear: tuple[int, int]
    """Sizes of the Linear's weight."""
    shape: tuple[int, ...]
    measured: float
    modelled: float
    """Speedup by the fit to Linears other than this one."""


class RatioErrors(Spec):
    """Every ratio that was measured, on all chips, with its prediction."""

    schema_version: Literal[1] = 1
    commit: str
    command: str
    benches: tuple[str, ...]
    """Name, commit and date of each bench's record."""
    rows: tuple[Ratio, ...]

    def of_model(self, name: str) -> Ends:
        """Return the factors on a modelled ratio that hold the true one in 95 % of cases; 1 always lies between them."""
        return ends_of_model(self._rows(name))

    def of_chips(self, name: str) -> Ends:
        """Return the factors on a ratio measured on one chip that hold another chip's in 95 % of cases."""
        return ends_of_chips(self._rows(name))

    def on_others(self, gpu: str) -> RatioErrors:
        """Return the errors without those on one GPU."""
        return self.model_copy(update={"rows": tuple(r for r in self.rows if r.gpu != gpu)})

    def _rows(self, name: str) -> list[Ratio]:
        """Return the rows of a pair; with too few Linears those of all pairs of its size, else all."""
        small = f"under {LARGE} rows"
        same_size = [r for r in self.rows if (small in r.pair) == (small in name)]
        for found in ([r for r in same_size if r.pair == name], same_size):
            if len({r.linear for r in found}) >= FEWEST:
                return found
        return list(self.rows)


def ends_of_model(rows: Sequence[Ratio]) -> Ends:
    """Return the prediction interval of the true over the modelled ratio, widened to hold 1."""
    errors = [log(r.measured / r.modelled) for r in rows]
    linears = len({r.linear for r in rows})
    mean = fsum(errors) / len(errors)
    deviation = sqrt(fsum((e - mean) ** 2 for e in errors) / (len(errors) - 1))
    half = student_t(0.975, linears - 1) * deviation * sqrt(1 + 1 / linears)
    return exp(min(mean - half, 0.0)), exp(max(mean + half, 0.0))


def ends_of_chips(rows: Iterable[Ratio]) -> Ends:
    """Return the interval of a ratio on another chip over the measured one, from differences between chips."""
    found: dict[tuple[object, ...], dict[str, float]] = {}
    for r in rows:
        found.setdefault((r.linear, r.pair, r.shape), {})[r.gpu] = log(r.measured)
    apart = [(key[0], max(x.values()) - min(x.values())) for key, x in found.items() if len(x) > 1]
    if not apart:
        return 1.0, 1.0
    squares = fsum(x**2 for _, x in apart) / len(apart)
    half = student_t(0.975, len({linear for linear, _ in apart})) * sqrt(squares)
    return exp(-half), exp(half)


def held(rows: Sequence[Ratio], ends: Callable[[Sequence[Ratio]], Ends] = ends_of_model) -> list[bool]:
    """Return for each row of a pair whether the interval found on the other Linears' rows holds its measured ratio."""
    found = []
    for r in rows:
        low, high = ends([other for other in rows if other.linear != r.linear])
        found.append(low <= r.measured / r.modelled <= high)
    return found


@cache
def shipped() -> RatioErrors:
    """Return the shipped errors of ratios."""
    return RatioErrors.model_validate_json(FILE.read_text())
