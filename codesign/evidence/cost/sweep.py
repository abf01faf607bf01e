"""Curves of cost and accuracy over designs and the shipped proposals, which the report's plots show.

`python pages/cost_curves.py` measures them and writes `records/curves/neutral.json`; with `--family`, `family.json`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field

from codesign.evidence.cost.records import FOLDER, Toolchain, recipe_sha256
from codesign.proposal.proposal import Quantisation
from codesign.workloads.gemms import Gemm
from isa_model.instruction import Instruction
from isa_model.stage import Spec

PATH = FOLDER / "curves" / "neutral.json"
FAMILY = FOLDER / "curves" / "family.json"
SUMMED = 4096
"""Length of K in the error figures."""


class Point(Spec):
    """Cost and accuracy of one design."""

    curve: str
    label: str
    x: float
    area: float
    """Area without registers, with the share of a shared multiplier of scales, in NAND2 equivalents."""
    products: int
    delay_fo4: float
    cycles: int
    """Latency of the pipelined unit, in cycles."""
    register_bits: int
    staged_area: float
    energy_low: float
    energy_high: float
    vectors: int
    """Vectors on which the mapped netlist was compared with the model, without a mismatch."""
    accumulation: dict[str, float]
    """Relative Frobenius error of D to the exact product of the quantised operands, by tensor source, at K = 4096."""
    total: dict[str, float]
    """Relative Frobenius error of D to the exact product of the unquantised operands, by tensor source, at K = 4096."""
    over_1_bf16_ulp: dict[str, float] = Field(default_factory=dict)
    """Share of outputs off by over one unit in the last place of BF16, by tensor source, at K = 4096; of families alone."""


class CostSweep(Toolchain):
    """The points of all curves."""

    operands: str
    """Workload of the energy figures."""
    points: tuple[Point, ...]

    def curve(self, name: str) -> list[Point]:
        """Return the points of one curve, ordered by x."""
        return sorted((p for p in self.points if p.curve == name), key=lambda p: p.x)


@cache
def shipped(path: Path = PATH) -> CostSweep | None:
    """Return shipped curves; None if there are none, or if they were made with another synthesis script."""
    if not path.exists():
        return None
    sweep = CostSweep.model_validate_json(path.read_text(encoding="utf-8"))
    return sweep if sweep.recipe_sha256 == recipe_sha256() else None


def errors(spec: Instruction, quantisation: Quantisation, tensors: str) -> tuple[float, float, float]:
    """Return the accumulation and total error of an instruction on a GEMM with K = 4096, and the share over 1 BF16 ulp."""
    from codesign.evidence.numerics.errors import errors_of, estimates
    from codesign.evidence.numerics.trial import Trial
    from codesign.evidence.sampling import Sampling
    from codesign.proposal.variants import Compared

    gemm = Gemm(f"curves-{SUMMED}", SUMMED, SUMMED, SUMMED, "activation", "weight", False, "")
    trial = Trial(gemm, tensors, Sampling().seeds, Sampling().rows, Sampling().columns, quantisation)
    found = estimates(errors_of(trial.result(Compared("proposal", None, spec))))
    wanted = ("relative_frobenius", "total_error", "share_over_1_bf16_ulp")
    first, total, share = (found[f"numerics.{name}"].value for name in wanted)
    return first, total, share
