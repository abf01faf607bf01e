"""Measurement of a folded unit: a front per element of D, and its share of a tail that several fronts use in turn."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codesign.evidence.cost import record_cache
from codesign.evidence.cost.records import DEPTH, CostRecord, Energy, Equivalence, Pipelined, folded_sha256, toolchain
from codesign.evidence.cost.unit_vectors import UnitVectors, widths
from isa_model.instruction import Instruction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from codesign.evidence.cost.cell_library import Library
    from codesign.evidence.cost.netlist import Netlist


@dataclass(frozen=True)
class Folded:
    """The netlists of a folded unit."""

    front: Netlist
    tail: Netlist
    steps: int
    """Steps of a front before the tail is used, and fronts that share the tail."""

    def outputs(self, vectors: UnitVectors) -> NDArray[np.uint64]:
        """Return D (vectors,): the steps of the front one after the other, then the tail."""
        return self.traced(vectors)[-1].d

    def traced(self, vectors: UnitVectors) -> list[UnitVectors]:
        """Return what the front takes and gives in each step, and the tail last, for whole vectors of the instruction.

        At the start of a chain `running` holds random bits; the partial sums of other fronts are those of earlier vectors.
        """
        import numpy as np

        rng, found = np.random.default_rng(4), []
        bits, count = len(self.front.outputs["d_out"]), len(vectors)
        code = rng.integers(0, 1 << bits, count, dtype="u8")
        for step in range(self.steps):
            taken = {name: np.split(vectors.operands[name], self.steps, axis=1)[step] for name in "ab"}
            taken |= {"first": np.full((count, 1), step == 0, "u8"), "running": code[:, None]}
            code = _run(self.front, taken)
            found.append(UnitVectors(taken, code))
        turn, at = np.arange(count) % self.steps, np.arange(count)
        partial = [code[np.maximum(at - (turn - slot) % self.steps, 0)] for slot in range(self.steps)]
        given = {name: codes for name, codes in vectors.operands.items() if name not in ("a", "b")}
        given |= {"partial": np.stack(partial, axis=1), "select": np.eye(self.steps, dtype="u8")[turn]}
        return [*found, UnitVectors(given, _run(self.tail, given))]


def _run(netlist: Netlist, operands: dict[str, Any]) -> NDArray[np.uint64]:
    from codesign.evidence.cost.netlist import unpack

    return unpack(netlist.run(netlist.packed(operands))["d_out"], len(next(iter(operands.values()))))


def measure_folded(
    spec: Instruction, library: Library, workload: UnitVectors, operands: str, commit: str = ""
) -> CostRecord:
    """Return the record of an instruction's folded unit, per step of a front, from the user's cache or measured.

    Arguments and exceptions are those of `measure`. InputError is raised for an instruction that cannot be folded, too. The
    loop is that from partial sum to partial sum, or the tail's from C to D over the steps between, whichever is longer.
    """
    from codesign.evidence.cost import synth, verify
    from codesign.evidence.cost.energy import switched
    from codesign.evidence.cost.pipeline import pipeline
    from codesign.evidence.cost.rtl import folded

    stage = folded.chain_of(spec)
    sources = [folded.front(spec), folded.tail(spec)]
    key = record_cache.key(spec, sources, library, workload, operands)
    kept = record_cache.read(key)
    if kept is not None:
        return kept.model_copy(update={"commit": commit})
    front, tail = (synth.synthesise(source, library).netlist for source in sources)
    unit = Folded(front, tail, stage.chain or 1)
    results = [
        verify.compared(unit.outputs, verify.batches_of(spec, 100_000)),
        verify.compared(unit.outputs, [workload]),
        verify.against_golden(spec, 200),
    ]
    for result in results:
        if result.mismatches:
            raise RuntimeError(f"{spec.name}, folded: the netlists differ from the model: {result.first}")
    cuts = pipeline(front, DEPTH, widths(spec)), pipeline(tail, DEPTH, widths(spec))
    share = 1 / unit.steps
    *steps, last = unit.traced(workload)
    energy = [f + share * t for f, t in zip(switched(cuts[0], _in_turn(steps)), switched(cuts[1], last), strict=True)]
    register = len({net for net in front.outputs["d_out"] if net > 1})
    nand2, fo4 = library.nand2.area, library.fo4
    loops = -(-front.levels_from("running") // DEPTH), -(-tail.levels_from("c") // DEPTH)
    record = CostRecord(
        name=f"{spec.name}, its tail shared by {unit.steps} units",
        design_sha256=folded_sha256(spec),
        products=stage.terms,
        **toolchain(library, ""),
        rtlil_sha256=hashlib.sha256("".join(sources).encode()).hexdigest(),
        area=round((front.area + register * library.flip_flop.area + share * tail.area) / nand2, 1),
        blocks={
            "front": round(front.area / nand2, 1),
            "partial-sum register": round(register * library.flip_flop.area / nand2, 1),
            f"tail, 1 of {unit.steps}": round(share * tail.area / nand2, 1),
        },
        gates=len(front.gates) + len(tail.gates),
        levels=max(front.levels) + max(tail.levels),
        delay_fo4=round(max(front.delay, tail.delay) / fo4, 2),
        pipelined=Pipelined(
            levels=DEPTH,
            cycles=sum(cut.latency for cut in cuts),
            loop=max(loops[0], -(-loops[1] // unit.steps)),
            register_bits=round(cuts[0].register_bits + share * cuts[1].register_bits),
            area=round((cuts[0].area + share * cuts[1].area) / nand2, 1),
            period_fo4=round(max(cut.period for cut in cuts) / fo4, 2),
        ),
        energy=Energy(low=round(energy[0]), high=round(energy[1]), operands=operands, steps=len(workload) - 1),
        equivalence=Equivalence(
            vectors=results[0].vectors + results[1].vectors,
            mismatches=0,
            golden_vectors=results[2].vectors,
            faults=0,
            faults_caught=0,
        ),
    )
    record_cache.write(key, record)
    return record.model_copy(update={"commit": commit})


def _in_turn(steps: list[UnitVectors]) -> UnitVectors:
    """Return the steps of a front in the order in which it takes them."""
    import numpy as np

    operands = {
        name: np.stack([step.operands[name] for step in steps], axis=1).reshape(-1, own.shape[1])
        for name, own in steps[0].operands.items()
    }
    return UnitVectors(operands, np.stack([step.d for step in steps], axis=1).ravel())
