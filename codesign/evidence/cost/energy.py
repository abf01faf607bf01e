"""Energy of a unit: a band of the capacitance switched per step on a workload's operands.

At the low end, every net switches at most once per step: there are no glitches. At the high end, every gate of the pipelined
unit has the same delay and all transitions count; real gates filter some of them. Both ends include flip-flops and their
clock. Only ratios of the same end are meaningful.
"""

from __future__ import annotations

from math import fsum
from typing import TYPE_CHECKING, Any

from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.netlist import Netlist, pack
from codesign.evidence.cost.pipeline import Pipeline, last_reads
from codesign.evidence.cost.unit_vectors import UnitVectors, one_step
from isa_model.array_codec import code_dtype, to_codes
from isa_model.instruction import Instruction
from isa_model.matmul import matmul

if TYPE_CHECKING:
    from codesign.evidence.numerics.trial import Trial


STEPS = 64
"""Largest number of steps per element of D."""


def energy_vectors(spec: Instruction) -> tuple[UnitVectors, str]:
    """Return steps of the unit on one GEMM of DeepSeek-V3, the same for every design, and what they are in words."""
    from codesign.evidence.numerics.trial import Trial
    from codesign.proposal.proposal import Quantisation
    from codesign.workloads.gemms import gemms

    gemm, tensors = gemms()["deepseek-v3.fprop.qkv-a"], "normal"
    trial = Trial(gemm, tensors, 0, 8, 8, Quantisation(weight_columns=128))
    return workload_vectors(spec, trial), f"{gemm.name}, {tensors} tensors"


def workload_vectors(spec: Instruction, trial: Trial) -> UnitVectors:
    """Return the steps along K of each element of a trial's D, one element after the other, as a unit computes them."""
    import numpy as np

    a, b = trial.operands(spec)  # codes of the first seed; one scale per row and column
    a_scales, b_scales = (np.asarray(None) if x.scales is None else x.scales[0] for x in (a, b))
    step, k = one_step(spec).per_line(), spec.span
    a_codes, b_codes = a.codes[0], np.ascontiguousarray(b.codes[0].T)
    m, n = a_codes.shape[0], b_codes.shape[1]
    steps = min(STEPS, a_codes.shape[1] // k)
    c = np.zeros((m, n), code_dtype(spec.c_format))
    chains = spec.c_format == spec.accumulator  # otherwise D cannot be the next C, and every step starts from zero
    scale = spec.scale
    rows, columns = (x.ravel() for x in np.indices((m, n)))
    parts: list[dict[str, Any]] = []
    results = []
    for i in range(steps):
        window = slice(i * k, (i + 1) * k)
        part = {"a": a_codes[:, window][rows], "b": b_codes[window].T[columns], "c": c.reshape(-1, 1)}
        sides: list[Any] = [None, None]
        if scale and scale.a:
            groups = slice(i * k // scale.a.group[1], -(-(i + 1) * k // scale.a.group[1]))
            sides[0] = a_scales[:, groups]
            part["scale_a"] = sides[0][rows]
        if scale and scale.b:
            groups = slice(i * k // scale.b.group[0], -(-(i + 1) * k // scale.b.group[0]))
            sides[1] = np.ascontiguousarray(b_scales.T[groups])
            part["scale_b"] = sides[1].T[columns]
        d = to_codes(spec.accumulator, matmul(step, a_codes[:, window], b_codes[window], c, *sides))
        parts.append(part)
        results.append(d.ravel())
        c = d if chains else c
    in_turn = {name: np.stack([p[name] for p in parts], axis=1) for name in parts[0]}
    operands = {name: x.reshape(m * n * steps, -1).astype("u8") for name, x in in_turn.items()}
    return UnitVectors(operands, np.stack(results, axis=1).ravel().astype("u8"))


def switched(pipeline: Pipeline, vectors: UnitVectors) -> tuple[float, float]:
    """Return the capacitance switched per step without and with glitches, in input capacitances of the smallest inverter."""
    import numpy as np

    netlist, stage = pipeline.netlist, np.array(pipeline.stage)
    new = netlist.settle(netlist.start(netlist.packed(vectors.operands)))
    valid = pack(np.ones((len(vectors), 1), np.uint8), 1)[0]
    valid[0] &= ~np.uint64(1)  # the first vector has no predecessor
    old = new << np.uint64(1)
    old[:, 1:] |= new[:, :-1] >> np.uint64(63)
    steps = len(vectors) - 1

    def toggles(x: Any, y: Any) -> Any:
        return np.bitwise_count((x ^ y) & valid).sum(axis=1, dtype=np.int64)

    once = toggles(old, new)
    weights = _capacitances(netlist)
    registers = _register_energy(pipeline, once / steps)
    quiet = float((once * weights).sum()) / steps + registers
    # Gates have unit delay; nets of earlier stages come from registers, so they are settled at the start.
    state, total = old.copy(), np.zeros(netlist.nets, np.int64)
    driven = np.zeros(netlist.nets, bool)
    for _, _, outputs in netlist.batches:
        driven[outputs] = True
    state[~driven] = new[~driven]
    total[~driven] = once[~driven]
    while True:
        following = state.copy()
        for cell, inputs, outputs in netlist.batches:
            same = (stage[inputs] == stage[outputs]) & driven[inputs]
            following[outputs] = netlist.evaluate(cell, np.where(same[:, :, None], state[inputs], new[inputs]))
        changed = toggles(state, following)
        if not changed.any():
            break
        total += changed
        state = following
    glitchy = float((total * weights).sum()) / steps + registers
    unit = netlist.library.inverter.inputs[0].capacitance
    return quiet / unit, glitchy / unit


def held(library: Library, bits: int) -> float:
    """Return the capacitance switched per step by the clock of a register, in input capacitances of the smallest inverter."""
    clock = max(p.capacitance for p in library.flip_flop.inputs)
    return 2 * clock * bits / library.inverter.inputs[0].capacitance


def _capacitances(netlist: Netlist) -> Any:
    """Return the capacitance of each net: its load and the parasitic capacitance of its driver."""
    import numpy as np

    capacitance = np.array(netlist.loads)
    for gate in netlist.gates:
        cell = netlist.library.cells[gate.cell]
        # In logical effort, the parasitic delay is the gate's own capacitance times its own resistance.
        capacitance[gate.output] += cell.intrinsic / cell.resistance if cell.resistance else 0.0
    return capacitance


def _register_energy(pipeline: Pipeline, activity: Any) -> float:
    """Return the capacitance switched per step by flip-flops. `activity` holds toggles per step, by net."""
    netlist, stage = pipeline.netlist, pipeline.stage
    flop = netlist.library.flip_flop
    clock = max(p.capacitance for p in flop.inputs)
    own = fsum(p.capacitance for p in flop.inputs) + (flop.intrinsic / flop.resistance if flop.resistance else 0.0)
    until = last_reads(netlist, stage)
    data = fsum(float(activity[net]) * (until[net] - stage[net]) for net in range(2, netlist.nets))
    return data * own + 2 * clock * pipeline.register_bits
