"""Records: what one design costs in one library, proven equal to the model, with everything it was made with.

Designs are known by the hash of what makes hardware: names, prose and the shape outside one step do not count.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from codesign.cost.rtl.ports import check
from isa_model.instruction import Instruction
from isa_model.stage import Spec

if TYPE_CHECKING:
    from codesign.cost.library import Library
    from codesign.cost.vectors import Vectors

FOLDER = Path(__file__).parent / "records"
SCHEMA_VERSION = 1
DEPTH = 24
"""Levels of gates between registers of the pipelined unit."""


class Pipelined(Spec):
    """The unit with registers."""

    levels: int
    """Gates between registers, at most."""
    cycles: int
    """From operands to D."""
    register_bits: int
    area: float
    """Gates and registers, in NAND2 equivalents."""
    period_fo4: float
    """Least cycle time in FO4 inverter delays."""


class Energy(Spec):
    """Switched capacitance per step of the pipelined unit, in input capacitances of the smallest inverter."""

    low: float
    """No glitches."""
    high: float
    """All gates of equal delay, all glitches counted."""
    operands: str
    """What the unit computed meanwhile."""
    steps: int


class Equivalence(Spec):
    """Mapped netlist against the model."""

    vectors: int
    """Random, adversarial and workload steps compared with the model."""
    mismatches: int
    golden_vectors: int
    """Of these, steps computed by the scalar golden model itself; the rest by the engine held equal to it."""
    faults: int
    """Nets held at 0 or 1, one at a time."""
    faults_caught: int
    """Of these, how many changed some D; the rest sit in redundant logic or need an operand that was not drawn."""


class Record(Spec):
    """One design in one library."""

    schema_version: int = SCHEMA_VERSION
    name: str
    design_sha256: str
    products: int
    """Products that one step sums."""
    library: str
    library_sha256: str
    recipe_sha256: str
    """Of the synthesis script: only records of one recipe are compared."""
    rtlil_sha256: str
    versions: dict[str, str]
    commit: str
    area: float
    """Of the combinational unit, in the library's NAND2, unsized."""
    blocks: dict[str, float]
    """Area by module, with the hierarchy kept while mapping."""
    gates: int
    levels: int
    """Gates on the longest path."""
    delay_fo4: float
    """Longest path of the combinational unit in FO4 inverter delays."""
    pipelined: Pipelined
    energy: Energy
    equivalence: Equivalence


def design_sha256(spec: Instruction) -> str:
    """Hash of what makes the unit of an instruction: its step, without names, prose, m and n."""
    data = spec.model_dump(mode="json", exclude={"name", "description", "source", "checked", "shape"})
    for side in ("a", "b"):
        operand = (data["scale"] or {}).get(side)
        if operand:
            operand["group"] = min(operand["group"][side == "a"], spec.span)
    # No hardware here has them (ports.check), so that the hash of every other design need not change.
    del data["c"], data["widen"]
    data["stages"] = list(data["stages"].values())
    if spec.scale:
        data["scale"]["onto"] = spec.scaled_stage
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def recipe_sha256() -> str:
    from codesign.cost.synth import ABC, FINISH, PREPARE

    return hashlib.sha256("\n".join((PREPARE, ABC, FINISH)).encode()).hexdigest()


@cache
def shipped() -> tuple[Record, ...]:
    """All records of the folder, by file name."""
    return tuple(Record.model_validate_json(path.read_text()) for path in sorted(FOLDER.glob("*.json")))


def find(spec: Instruction, library: str) -> Record | None:
    """The shipped record of a design in a library, made with today's recipe."""
    wanted = (design_sha256(spec), library, recipe_sha256())
    return next((r for r in shipped() if (r.design_sha256, r.library, r.recipe_sha256) == wanted), None)


def measure(spec: Instruction, library: Library, workload: Vectors, operands: str, commit: str = "") -> Record:
    """Generate, synthesise, prove and measure one unit. Needs the extra `cost`; takes half a minute.

    `workload` are the steps whose energy counts, `operands` says in words what they are. Raises InputError for a spec
    the generator cannot say, RuntimeError if the netlist is not the model.
    """
    check(spec)
    from codesign.cost import synth, verify
    from codesign.cost.energy import switched
    from codesign.cost.pipeline import pipeline
    from codesign.cost.rtl.unit import unit

    rtlil = unit(spec)
    netlist = synth.synthesise(rtlil, library).netlist
    proof = verify.prove(netlist, spec)
    on_workload = verify.compare(netlist, spec, [workload])
    golden = verify.against_golden(spec, 200)
    for comparison in (proof, on_workload, golden):
        if comparison.mismatches:
            raise RuntimeError(f"{spec.name}: the netlist is not the model: {comparison.first}")
    faults, caught = verify.faults_caught(netlist, spec, 40)
    staged = pipeline(netlist, DEPTH)
    low, high = switched(staged, spec, workload)
    nand2, fo4 = library.nand2.area, library.fo4
    return Record(
        name=spec.name,
        design_sha256=design_sha256(spec),
        products=spec.span,
        library=library.name,
        library_sha256=library.sha256,
        recipe_sha256=recipe_sha256(),
        rtlil_sha256=hashlib.sha256(rtlil.encode()).hexdigest(),
        versions={name: version(name) for name in ("amaranth", "pyosys", "numpy")},
        commit=commit,
        area=round(netlist.area / nand2, 1),
        blocks={k: round(v / nand2, 1) for k, v in sorted(synth.block_areas(rtlil, library).items())},
        gates=len(netlist.gates),
        levels=max(netlist.levels),
        delay_fo4=round(netlist.delay / fo4, 2),
        pipelined=Pipelined(
            levels=DEPTH,
            cycles=staged.latency,
            register_bits=staged.register_bits,
            area=round(staged.area / nand2, 1),
            period_fo4=round(staged.period / fo4, 2),
        ),
        energy=Energy(low=round(low), high=round(high), operands=operands, steps=len(workload) - 1),
        equivalence=Equivalence(
            vectors=proof.vectors + on_workload.vectors,
            mismatches=0,
            golden_vectors=golden.vectors,
            faults=faults,
            faults_caught=caught,
        ),
    )


def write(record: Record, folder: Path = FOLDER) -> Path:
    """Write a record under its design's and library's name, in place of an older one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.name.replace(' ', '-')}.{record.library}.json"
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return path
