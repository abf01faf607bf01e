"""Equivalence checks: compare the D of netlists with the model's, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from codesign.evidence.cost.netlist import Netlist, unpack
from codesign.evidence.cost.rtl.ports import draw_bits, draws
from codesign.evidence.cost.unit_vectors import UnitVectors, adversarial, arguments, one_step, shipped, specials
from isa_model.instruction import Instruction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class EquivalenceResult:
    """Numbers of compared and of differing vectors."""

    vectors: int
    mismatches: int
    first: str = ""
    """Description of the first mismatch; empty if there is none."""


def outputs(netlist: Netlist, vectors: UnitVectors, stuck: dict[int, int] | None = None) -> NDArray[np.uint64]:
    """Return D of a netlist, or all outputs, as `vectors` have them. `stuck` maps nets to the value they are held at."""
    import numpy as np

    found = netlist.run(netlist.packed(vectors.operands), stuck)
    if vectors.d.ndim == 1:
        return unpack(found["d_out"], len(vectors))
    every: NDArray[np.uint64] = np.stack(
        [unpack(found[f"{name}_out"], len(vectors)) for name in ("d", "running", "rest")], axis=1
    )
    return every


def compare(netlist: Netlist, batches: Iterable[UnitVectors]) -> EquivalenceResult:
    """Compare a netlist with the model on batches of vectors."""
    return compared(partial(outputs, netlist), batches)


def compared(
    hardware: Callable[[UnitVectors], NDArray[np.uint64]], batches: Iterable[UnitVectors]
) -> EquivalenceResult:
    """Compare the D (vectors,) of any hardware with the model on batches of vectors."""
    import numpy as np

    total = wrong = 0
    first = ""
    for vectors in batches:
        d = hardware(vectors)
        different = np.flatnonzero((d != vectors.d).reshape(len(d), -1).any(axis=1))
        if len(different) and not first:
            i = different[0]
            operands = ", ".join(f"{k} = {[hex(x) for x in v[i].tolist()]}" for k, v in vectors.operands.items())
            got, wanted = (" ".join(map(hex, np.ravel(x[i]).tolist())) for x in (d, vectors.d))
            first = f"{operands}: netlist {got}, model {wanted}"
        total, wrong = total + len(d), wrong + len(different)
    return EquivalenceResult(total, wrong, first)


def against_golden(spec: Instruction, count: int) -> EquivalenceResult:
    """Compare the engine that computes D of vectors with the scalar golden model, on `count // 10` vectors per batch."""
    import numpy as np

    from isa_model import golden

    step, rng = one_step(spec).per_line(), np.random.default_rng(1)
    if step.remainder:  # its vectors are the golden model's own
        return EquivalenceResult(0, 0)
    places = {(d.block, step.register_number(d.stage) + d.register): i for i, d in enumerate(draws(step))}
    total = wrong = 0
    for vectors in (*adversarial(spec, 1, 32), *specials(spec)):
        for i in rng.choice(len(vectors), min(count // 10, len(vectors)), replace=False):
            operands = {name: codes[i].tolist() for name, codes in vectors.operands.items()}
            scales = arguments(step, operands, seed=False)
            words = [bits << (32 - draw_bits(step)) for bits in operands.get("random", [])]
            d = golden.dot(
                step, operands["a"], operands["b"], operands["c"][0], **scales, draw=lambda *p, w=words: w[places[p]]
            )
            total, wrong = total + 1, wrong + (d != int(vectors.d[i]))
    return EquivalenceResult(total, wrong, "the fast engine differs from the golden model" if wrong else "")


def faults_caught(netlist: Netlist, spec: Instruction, count: int) -> tuple[int, int]:
    """Return the numbers of injected faults, two per net, and of those that the shipped vectors show."""
    return faults_shown(netlist, shipped(spec), count)


def faults_shown(netlist: Netlist, batches: Sequence[UnitVectors], count: int) -> tuple[int, int]:
    """Hold `count` random gate outputs, or all of fewer, at 0, then at 1. Return the numbers of faults and of those shown."""
    import numpy as np

    rng = np.random.default_rng(2)
    caught = 0
    nets = [gate.output for gate in netlist.gates]
    chosen = rng.choice(nets, min(count, len(nets)), replace=False)
    for net in chosen.tolist():
        for value in (0, 1):
            caught += any((outputs(netlist, v, {net: value}) != v.d).any() for v in batches)
    return 2 * len(chosen), caught


def prove(netlist: Netlist, spec: Instruction, at_least: int = 100_000) -> EquivalenceResult:
    """Compare a netlist with the model on `at_least` adversarial and random vectors, and on all special ones."""
    return compare(netlist, batches_of(spec, at_least))


def batches_of(spec: Instruction, at_least: int) -> Iterator[UnitVectors]:
    """Yield the batches of a proof: at least `at_least` adversarial and random vectors, and all special ones."""
    side = int((at_least / (10 if spec.c_format == spec.accumulator else 5)) ** 0.5) + 1
    yield from adversarial(spec, 0, side)
    yield from specials(spec)
