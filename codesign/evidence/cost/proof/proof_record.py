"""Records of proofs: what was proved of a unit, by which solver, in which time."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from codesign.evidence.cost.records import design_sha256
from isa_model.instruction import Instruction
from isa_model.output_files import write_file
from isa_model.stage import Spec

FOLDER = Path(__file__).parent / "records"
Status = Literal["proved", "refuted", "unknown"]


class BlockProof(Spec):
    """The theorems of one kind of block."""

    block: str
    status: Status
    """`proved` if all theorems are; `unknown` if the solver did not answer in time."""
    theorems: int
    """Distinct theorems. Equal blocks share one."""
    places: int
    """Places of the unit that the theorems were asked for."""
    seconds: float
    sha256: tuple[str, ...]
    """SHA-256 of each theorem as SMT-LIB 2 text."""


class MappedProof(Spec):
    """The comparison of the mapped netlist with the RTL by abc's `cec`."""

    status: Status
    seconds: float


class Counterexample(Spec):
    """Operands of one step for which the unit's D is not golden's; codes in hexadecimal."""

    operands: dict[str, tuple[str, ...]]
    unit: str
    golden: str


class ProofRecord(Spec):
    """What is proved of one design's RTL."""

    schema_version: int = 1
    name: str
    design_sha256: str
    netlist_sha256: str
    """SHA-256 of the graph of word-level cells from the inputs to D."""
    blocks: tuple[BlockProof, ...]
    open: tuple[str, ...]
    """Blocks without a theorem, or the place at which the composition ends."""
    mapped: MappedProof | None = None
    """None: the mapped netlist was not compared."""
    counterexample: Counterexample | None = None
    seconds: float
    versions: dict[str, str]
    commit: str

    @property
    def status(self) -> Status:
        """`refuted` if a block is; `proved` if every block and the composition is."""
        states = {b.status for b in self.blocks} | ({"unknown"} if self.open else set())
        states |= {self.mapped.status} if self.mapped else set()
        return "refuted" if "refuted" in states else "unknown" if "unknown" in states else "proved"

    @property
    def words(self) -> str:
        """What is proved, as a report says it."""
        states = [(b.block, b.status) for b in self.blocks] + [(block, "unknown") for block in self.open]
        states += [("mapped netlist", self.mapped.status)] if self.mapped else []
        refuted, missing = ([block for block, s in states if s == x] for x in ("refuted", "unknown"))
        if refuted:
            return f"refuted: {', '.join(refuted)}"
        return f"proved but for {', '.join(missing)}" if missing else "proved"


@cache
def shipped() -> tuple[ProofRecord, ...]:
    """Return the shipped records in the order of their file names."""
    return tuple(ProofRecord.model_validate_json(path.read_text()) for path in sorted(FOLDER.glob("*.json")))


def find(spec: Instruction) -> ProofRecord | None:
    """Return the shipped record of a design, or None."""
    wanted = design_sha256(spec)
    return next((r for r in shipped() if r.design_sha256 == wanted), None)


def write(record: ProofRecord, folder: Path = FOLDER) -> Path:
    """Write a record to a file named after its design, and return the path."""
    name = record.name.replace(",", "").replace(" ", "-").replace("::", "-")  # no colon: Windows has none in file names
    path = folder / f"{name}.json"
    write_file(path, record.model_dump_json(indent=1) + "\n")
    return path


def sentence(spec: Instruction, vectors: int) -> str:
    """Return what a report says of a unit: what is proved of it, and how many vectors its mapped netlist was compared on."""
    record = find(spec)
    compared = f"its mapped netlist is tested on {vectors:,} vectors"
    if record is None:
        return f"The proposed unit's RTL is not proved; {compared}."
    if record.mapped and record.mapped.status == "proved":
        compared = "its mapped netlist is proved equal to it"
    words = record.model_copy(update={"mapped": None}).words
    return f"The proposed unit's RTL is {words} (docs/proofs.md); {compared}."
