"""`python -m codesign.evidence.cost.sweep`: cost and accuracy of the designs of the curves, and of every shipped proposal.

One file for all, `records/curves/neutral.json`; the report draws from it. Measured designs are kept in the user's cache.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import cache
from pathlib import Path

from codesign.evidence.cost.designs import Design, designs
from codesign.evidence.cost.library import Library
from codesign.evidence.cost.measure import measure
from codesign.evidence.cost.records import DOCS, FOLDER, recipe_sha256
from codesign.proposal.proposal import Quantisation, Variant, load_proposal
from codesign.workloads.gemms import Gemm
from isa_model.diagnostics import InputError
from isa_model.instruction import Instruction
from isa_model.output_files import put, write_file
from isa_model.processes import pool
from isa_model.stage import Spec

PATH = FOLDER / "curves" / "neutral.json"
TENSORS = ("normal", "outliers")
SUMMED = 4096
"""K of the error figures."""
PROPOSALS = Path(__file__).parents[3] / "proposals"


class Point(Spec):
    """One design: what it costs, how it was proven, and how accurate it is."""

    curve: str
    label: str
    x: float
    area: float
    """In NAND2 equivalents, without registers; with its share of a multiplier of scales where one is shared."""
    products: int
    delay_fo4: float
    cycles: int
    """From operands to D, registers every so many gates as in every record."""
    register_bits: int
    staged_area: float
    energy_low: float
    energy_high: float
    vectors: int
    """Compared with the model after mapping; none differed."""
    accumulation: dict[str, float]
    """By tensors: relative Frobenius error of D against the exact product of the quantised operands, K = 4096."""
    total: dict[str, float]
    """By tensors: the same against the exact product of the operands before quantisation."""


class Sweep(Spec):
    """All points, measured with one library and recipe."""

    library: str
    library_sha256: str
    recipe_sha256: str
    versions: dict[str, str]
    commit: str
    operands: str
    """Whose energy it is."""
    points: tuple[Point, ...]

    def curve(self, name: str) -> list[Point]:
        """The points of one curve, by their place on it."""
        return sorted((p for p in self.points if p.curve == name), key=lambda p: p.x)


@cache
def shipped() -> Sweep | None:
    """The curves that come with the package; None where they are of another recipe."""
    if not PATH.exists():
        return None
    sweep = Sweep.model_validate_json(PATH.read_text(encoding="utf-8"))
    return sweep if sweep.recipe_sha256 == recipe_sha256() else None


def errors(
    spec: Instruction, quantisation: Quantisation, tensors: str, variant: Variant = "proposal"
) -> tuple[float, float]:
    """Accumulation and total error of an instruction on a GEMM with K = 4096."""
    from codesign.evidence.numerics.errors import errors_of, estimates
    from codesign.evidence.numerics.trial import Sampling, Trial
    from codesign.proposal.variants import Compared

    gemm = Gemm(f"curves-{SUMMED}", SUMMED, SUMMED, SUMMED, "activation", "weight", False, "")
    trial = Trial(gemm, tensors, Sampling().seeds, Sampling().rows, Sampling().columns, quantisation)
    found = estimates(errors_of(trial.result(Compared(variant, None, spec))))
    return found["numerics.relative_frobenius"].value, found["numerics.total_error"].value


def _all(folder: Path) -> list[tuple[Design, Quantisation]]:
    jobs = [(design, Quantisation(weight_columns=128)) for design in designs()]
    for i, path in enumerate(sorted(folder.glob("*.yaml"))):
        proposal = load_proposal(path)
        if not proposal.multiplies_as_today:
            jobs.append((Design("proposals", proposal.proposal, i, proposal.proposed()), proposal.rule))
    return jobs


def _point(job: tuple[Design, Quantisation]) -> Point | None:
    from codesign.evidence.cost.energy_vectors import energy_vectors

    design, quantisation = job
    try:
        record = measure(design.spec, Library.own(), *energy_vectors(design.spec), share=design.share)
    except InputError as reason:
        print(f"{design.label}: {reason}", file=sys.stderr)
        return None
    # The steps differ in hardware, some in what they compute only by what is left out: no accuracy is claimed for them.
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


def steps_table(sweep: Sweep) -> str:
    """What FP32 scales cost, a change at a time, as Markdown."""
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
    from importlib.metadata import version

    from codesign.evidence.cost.energy_vectors import energy_vectors
    from codesign.provenance import commit

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
    library = Library.own()
    sweep = Sweep(
        library=library.name,
        library_sha256=library.sha256,
        recipe_sha256=recipe_sha256(),
        versions={name: version(name) for name in ("amaranth", "pyosys", "numpy")},
        commit=commit(),
        operands=energy_vectors(jobs[0][0].spec)[1],
        points=tuple(points),
    )
    write_file(PATH, sweep.model_dump_json(indent=1) + "\n")
    put(DOCS, "steps", steps_table(sweep))
    print(f"{PATH}: {len(points)} points", file=sys.stderr)


if __name__ == "__main__":
    main()
