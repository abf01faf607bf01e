"""`python -m codesign.evidence.cost.sweep`: measure cost and accuracy of the designs of the curves and of shipped proposals.

Writes `records/curves/neutral.json`, which the report's plots show. Measured designs are kept in the user's cache.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import cache
from pathlib import Path

from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.designs import Design, designs
from codesign.evidence.cost.measured_unit import measure
from codesign.evidence.cost.records import DOCS, FOLDER, Toolchain, recipe_sha256, toolchain
from codesign.proposal.load import load_proposal
from codesign.proposal.proposal import Quantisation, Variant
from codesign.workloads.gemms import Gemm
from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction
from isa_model.output_files import put, write_file
from isa_model.processes import pool
from isa_model.stage import Spec

PATH = FOLDER / "curves" / "neutral.json"
TENSORS = ("normal", "outliers")
SUMMED = 4096
"""Length of K in the error figures."""
PROPOSALS = Path(__file__).parents[3] / "proposals"


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


class CostSweep(Toolchain):
    """The points of all curves."""

    operands: str
    """Workload of the energy figures."""
    points: tuple[Point, ...]

    def curve(self, name: str) -> list[Point]:
        """Return the points of one curve, ordered by x."""
        return sorted((p for p in self.points if p.curve == name), key=lambda p: p.x)


@cache
def shipped() -> CostSweep | None:
    """Return the shipped curves; None if they were made with another synthesis script."""
    if not PATH.exists():
        return None
    sweep = CostSweep.model_validate_json(PATH.read_text(encoding="utf-8"))
    return sweep if sweep.recipe_sha256 == recipe_sha256() else None


def errors(
    spec: Instruction, quantisation: Quantisation, tensors: str, variant: Variant = "proposal"
) -> tuple[float, float]:
    """Return the accumulation and total error of an instruction on a GEMM with K = 4096."""
    from codesign.evidence.numerics.errors import errors_of, estimates
    from codesign.evidence.numerics.trial import Sampling, Trial
    from codesign.proposal.variants import Compared

    gemm = Gemm(f"curves-{SUMMED}", SUMMED, SUMMED, SUMMED, "activation", "weight", False, "")
    trial = Trial(gemm, tensors, Sampling().seeds, Sampling().rows, Sampling().columns, quantisation)
    found = estimates(errors_of(trial.result(Compared(variant, None, spec))))
    return found["numerics.relative_frobenius"].value, found["numerics.total_error"].value


def _all(folder: Path) -> list[tuple[Design, Quantisation]]:
    """Return the designs of the curves and of a folder's proposals, each with its quantisation."""
    jobs = [(design, Quantisation(weight_columns=128)) for design in designs()]
    for i, path in enumerate(sorted(folder.glob("*.yaml"))):
        proposal = load_proposal(path)
        if not proposal.multiplies_as_today:
            jobs.append((Design("proposals", proposal.proposal, i, proposal.proposed()), proposal.rule))
    return jobs


def _point(job: tuple[Design, Quantisation]) -> Point | None:
    """Measure one design; None if the generator does not support it."""
    from codesign.evidence.cost.energy_vectors import energy_vectors

    design, quantisation = job
    try:
        record = measure(design.spec, Library.own(), *energy_vectors(design.spec), share=design.share)
    except InputError as reason:
        print(f"{design.label}: {reason}", file=sys.stderr)
        return None
    # No accuracy is claimed for the steps, some of which leave out parts of what they compute.
    found = {t: errors(design.spec, quantisation, t) for t in TENSORS} if design.curve != "steps" else {}
    return Point(
        curve=design.curve,
        label=design.label,
        x=design.x,
        area=record.area,
        products=record.products,
        delay_fo4=record.delay_fo4,
        cycles=record.pipelined.cycles,
        register_bits=record.pipelined.register_bits,
        staged_area=record.pipelined.area,
        energy_low=record.energy.low,
        energy_high=record.energy.high,
        vectors=record.equivalence.vectors,
        accumulation={t: float(f"{e[0]:.4g}") for t, e in found.items()},
        total={t: float(f"{e[1]:.4g}") for t, e in found.items()},
    )


def steps_table(sweep: CostSweep) -> str:
    """Return the cost of FP32 scales, one change at a time, as a Markdown table."""
    steps = sweep.curve("steps")
    base = steps[0]
    lines = [
        "| | area | over today's | longest path | with registers | energy, quiet |",
        "|---|---:|---:|---:|---|---:|",
    ]
    for step in steps:
        staged = f"{step.cycles} cycles, {step.register_bits:,} bits, {step.staged_area / base.staged_area:.2f}"
        path, energy = f"{step.delay_fo4:.0f} FO4", step.energy_low / base.energy_low
        ratio = step.area / base.area
        lines.append(f"| {step.label} | {step.area:,.0f} | {ratio:.2f} | {path} | {staged} | {energy:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all points, and write the record and the table of docs/cost.md."""

    from codesign.commit import commit
    from codesign.evidence.cost.energy_vectors import energy_vectors

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--proposals", type=Path, default=PROPOSALS, help="folder of proposals to mark on the curves")
    arguments = parser.parse_args()
    jobs = _all(arguments.proposals)
    points = []
    with pool(arguments.jobs) as workers:
        for (design, _), point in zip(jobs, workers.map(_point, jobs), strict=True):
            if point is not None:
                points.append(point)
                print(f"{design.curve}, {design.label}: {point.area:.0f} NAND2", file=sys.stderr, flush=True)
    sweep = CostSweep(
        **toolchain(Library.own(), commit()),
        operands=energy_vectors(jobs[0][0].spec)[1],
        points=tuple(points),
    )
    write_file(PATH, sweep.model_dump_json(indent=1) + "\n")
    put(DOCS, "steps", steps_table(sweep))
    print(f"{PATH}: {len(points)} points", file=sys.stderr)


if __name__ == "__main__":
    main()
