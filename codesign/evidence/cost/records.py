"""Records: what one design costs in one library, proven equal to the model, with everything it was made with.

Designs are known by the hash of what makes hardware: names, prose and the shape outside one step do not count.
Where the spec rounds the product of two scales, that product is formed outside the unit, once for all steps it serves
(`ports.shared_uses`), and the unit is charged its share and a register that holds it.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from codesign.evidence.cost.rtl.ports import shared_uses
from isa_model.instruction import Instruction
from isa_model.output_files import write_file
from isa_model.stage import Spec

if TYPE_CHECKING:
    pass

FOLDER = Path(__file__).parent / "records"
DOCS = Path(__file__).parents[3] / "docs" / "cost.md"
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


class SharedProduct(Spec):
    """The unit that forms scale_a * scale_b, of which a dot-product unit is charged its share."""

    uses: int
    """Steps of dot-product units that one product serves."""
    area: float
    """Area of the whole multiplier, in NAND2 equivalents, without registers."""
    delay_fo4: float
    register_bits: int
    """Bits each dot-product unit holds a product in."""
    rtlil_sha256: str


class Equivalence(Spec):
    """Mapped netlist against the model."""

    vectors: int
    """Random, adversarial and workload steps compared with the model."""
    mismatches: int
    golden_vectors: int
    """Steps of these computed by the scalar golden model itself; the rest by the engine held equal to it."""
    faults: int
    """Nets held at 0 or 1, one at a time."""
    faults_caught: int
    """Number of these that changed some D; the rest sit in redundant logic or need an operand that was not drawn."""


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
    """Hash of the synthesis script: only records of one recipe are compared."""
    rtlil_sha256: str
    versions: dict[str, str]
    commit: str
    area: float
    """Area of the combinational unit, in the library's NAND2, unsized, with its share of shared parts."""
    shared: SharedProduct | None = None
    """None where everything is in the unit."""
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
    for optional in ("c", "widen"):
        if data[optional] is None:
            del data[optional]
    data["stages"] = list(data["stages"].values())
    if spec.scale:
        data["scale"]["onto"] = spec.scaled_stage
        if shared_uses(spec) > 1:
            data["scale"]["uses"] = shared_uses(spec)
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def recipe_sha256() -> str:
    from codesign.evidence.cost.synth import ABC, FINISH, PREPARE

    return hashlib.sha256("\n".join((PREPARE, ABC, FINISH)).encode()).hexdigest()


@cache
def shipped() -> tuple[Record, ...]:
    """All records of the folder, by file name."""
    return tuple(Record.model_validate_json(path.read_text()) for path in sorted(FOLDER.glob("*.json")))


def find(spec: Instruction, library: str) -> Record | None:
    """The shipped record of a design in a library, made with today's recipe."""
    wanted = (design_sha256(spec), library, recipe_sha256())
    return next((r for r in shipped() if (r.design_sha256, r.library, r.recipe_sha256) == wanted), None)


def write(record: Record, folder: Path = FOLDER) -> Path:
    """Write a record under its design's and library's name, in place of an older one."""
    name = record.name.replace(" ", "-").replace("::", "-")  # no colon: Windows has none in file names
    path = folder / f"{name}.{record.library}.json"
    write_file(path, record.model_dump_json(indent=1) + "\n")
    return path
