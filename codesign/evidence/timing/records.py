"""Records of fits: the model's constants of a GPU, their sources, and the errors on held-out rows (ratios: ratio_errors.py)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from codesign.evidence.timing.model import Constants
from isa_model.stage import Spec

FOLDER = Path(__file__).parent / "records"


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
    held: tuple[int, int]
    """Held-out rows inside the factors that the rows of other Linears give, and rows in all."""


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


@cache
def shipped() -> Mapping[str, Fit]:
    """Return the shipped fits by GPU."""
    fits = [Fit.model_validate_json(path.read_text()) for path in sorted(FOLDER.glob("nvidia-*.json"))]
    return {f.gpu: f for f in fits}
