"""Cost records: area, delay and energy of a design in a cell library, with the proof that it equals the model.

A design is identified by a hash of everything that affects its hardware; names, prose and the shape beyond one step do not.
If the spec rounds the product of two scales, one multiplier outside the unit forms it for all steps that share it
(`ports.shared_uses`). The unit is charged its share of the multiplier and a register for the product.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from codesign.evidence.cost.rtl.ports import shared_uses
from isa_model.instruction import Instruction
from isa_model.output_files import write_file
from isa_model.stage import Spec

if TYPE_CHECKING:
    from codesign.evidence.cost.cell_library import Library

FOLDER = Path(__file__).parent / "records"
SCHEMA_VERSION: Literal[2] = 2
DEPTH = 24
"""Largest number of gates between registers of the pipelined unit."""


class Toolchain(Spec):
    """Library, synthesis script, packages and commit behind measured figures."""

    library: str
    library_sha256: str
    recipe_sha256: str
    versions: dict[str, str]
    commit: str


def toolchain(library: Library, commit: str) -> dict[str, Any]:
    """Return the fields of a `Toolchain` of this machine."""
    versions = {name: version(name) for name in ("amaranth", "pyosys", "numpy")}
    return {
        "library": library.name,
        "library_sha256": library.sha256,
        "recipe_sha256": recipe_sha256(),
        "versions": versions,
        "commit": commit,
    }


class Pipelined(Spec):
    """The unit with pipeline registers."""

    levels: int
    """Largest number of gates between registers."""
    cycles: int
    """Latency from operands to D, in cycles."""
    loop: int
    """Fewest cycles from C to D, the latency of an accumulator's loop."""
    register_bits: int
    """Bits of the pipeline's registers. C and scales enter where they are read."""
    area: float
    """Area of gates and registers, in NAND2 equivalents."""
    period_fo4: float
    """Shortest cycle time, in FO4 inverter delays."""


class Sized(Spec):
    """The unit sized for a clock that all designs have in common (`sized.py`)."""

    clock_fo4: float
    """Period that it is sized for, in FO4 inverter delays."""
    levels: int
    """Largest number of gates between registers with which the clock is met."""
    cycles: int
    register_bits: int
    area: float
    """Area of gates, buffers and registers, in NAND2 equivalents of the library."""
    period_fo4: float
    """Period that the sized unit has, in FO4 inverter delays."""


class Energy(Spec):
    """Capacitance switched per step of the pipelined unit, in input capacitances of the smallest inverter."""

    low: float
    """Capacitance without glitches."""
    high: float
    """Capacitance with all glitches, if all gates have equal delay."""
    operands: str
    """Workload that the unit computed."""
    steps: int


class SharedProduct(Spec):
    """The multiplier that forms scale_a * scale_b for several steps of dot-product units."""

    uses: int
    """Steps of dot-product units that share one product."""
    area: float
    """Area of the whole multiplier without registers, in NAND2 equivalents."""
    delay_fo4: float
    """Longest path, in FO4 inverter delays."""
    register_bits: int
    """Bits of the register that holds a product in each dot-product unit."""
    rtlil_sha256: str


class Equivalence(Spec):
    """Comparison of the mapped netlist with the model."""

    vectors: int
    """Random, adversarial and workload steps that were compared."""
    mismatches: int
    golden_vectors: int
    """Steps also computed by the scalar golden model, to check the engine that computes the others."""
    faults: int
    """Injected faults: nets held at 0 or 1, one at a time."""
    faults_caught: int
    """Faults that the vectors of an exported test bench show. The others are in redundant logic, or need other operands."""


class CostRecord(Spec):
    """Cost of one design in one cell library."""

    schema_version: Literal[2] = SCHEMA_VERSION
    name: str
    design_sha256: str
    products: int
    """Products summed by one step."""
    library: str
    library_sha256: str
    recipe_sha256: str
    """SHA-256 of the synthesis script; only records of the same script are compared."""
    rtlil_sha256: str
    versions: dict[str, str]
    commit: str
    area: float
    """Area of the unsized combinational unit with its share of shared parts, in the library's NAND2."""
    shared: SharedProduct | None = None
    """Multiplier of scales outside the unit; None if there is none."""
    blocks: dict[str, float]
    """Area by module, mapped with the hierarchy kept, in the library's NAND2; empty but for the neutral library."""
    gates: int
    levels: int
    """Number of gates on the longest path."""
    delay_fo4: float
    """Longest path of the combinational unit, in FO4 inverter delays."""
    pipelined: Pipelined
    sized: Sized | None = None
    """The unit sized for a common clock; None: not measured, or the library has one size of each gate."""
    energy: Energy
    equivalence: Equivalence


def design_sha256(spec: Instruction) -> str:
    """Return the SHA-256 of everything that affects an instruction's unit, which names, prose, m and n do not."""
    data = spec.canonical({"name", "description", "source", "checked", "shape"})
    for side in ("a", "b"):
        operand = (data["scale"] or {}).get(side)
        if operand:
            operand["group"] = min(operand["group"][side == "a"], spec.span)
    for optional in ("c", "widen"):
        if data[optional] is None:
            del data[optional]
    data["stages"] = list(data["stages"].values())
    if spec.scale:
        data["scale"]["onto"] = spec.scaled_stage
        if shared_uses(spec) > 1:
            data["scale"]["uses"] = shared_uses(spec)
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def shared_sha256(specs: Sequence[Instruction]) -> str:
    """Return the SHA-256 of a datapath that several instructions share."""
    return hashlib.sha256(" ".join(map(design_sha256, specs)).encode()).hexdigest()


def folded_sha256(spec: Instruction) -> str:
    """Return the SHA-256 of an instruction's folded unit (`folded.py`)."""
    return hashlib.sha256(f"{design_sha256(spec)} folded".encode()).hexdigest()


def recipe_sha256() -> str:
    """Return the SHA-256 of the synthesis script."""
    from codesign.evidence.cost.synth import ABC, FINISH, PREPARE

    return hashlib.sha256("\n".join((PREPARE, ABC, FINISH)).encode()).hexdigest()


@cache
def shipped() -> tuple[CostRecord, ...]:
    """Return the shipped records in the order of their file names."""
    return tuple(CostRecord.model_validate_json(path.read_text()) for path in sorted(FOLDER.glob("*.json")))


def find(spec: Instruction | Sequence[Instruction], library: str, folded: bool = False) -> CostRecord | None:
    """Return the shipped record of a design in a library, made with the present synthesis script, or None.

    Several instructions are those of a shared datapath; `folded` asks for an instruction's folded unit.
    """
    own = folded_sha256 if folded else design_sha256
    design = own(spec) if isinstance(spec, Instruction) else shared_sha256(spec)
    wanted = (design, library, recipe_sha256())
    return next((r for r in shipped() if (r.design_sha256, r.library, r.recipe_sha256) == wanted), None)


def write(record: CostRecord, folder: Path = FOLDER) -> Path:
    """Write a record to a file named after its design and library, and return the path. An older record is replaced."""
    name = record.name.replace(",", "").replace(" ", "-").replace("::", "-")  # no colon: Windows has none in file names
    path = folder / f"{name}.{record.library}.json"
    write_file(path, record.model_dump_json(indent=1) + "\n")
    return path
