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
from codesign.evidence.cost.rtl.ports import registers, scale_inputs
from codesign.evidence.cost.unit_vectors import UnitVectors, code_of_one, of_matrices, one_step, scale_shape
from isa_model.array_codec import code_dtype
from isa_model.instruction import Instruction

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
    step, k = one_step(spec).per_line(), spec.span
    a_codes, b_codes = a.codes[0], np.ascontiguousarray(b.codes[0].T)
    shape = a_codes.shape[0], b_codes.shape[1]
    steps = min(STEPS, a_codes.shape[1] // k)
    c = np.zeros(shape, code_dtype(spec.c_format))
    chains = spec.c_format == spec.accumulator  # otherwise D cannot be the next C, and every step starts from zero
    parts = []
    kept: dict[str, Any] = {}
    for i in range(steps):
        scales: dict[str, Any] = {}
        for operand in (a, b):
            ports = [port for port in scale_inputs(step) if port.is_a == (operand is a)]
            levels = operand.scales if isinstance(operand.scales, tuple) else (operand.scales,)
            for port, level in zip(ports, levels, strict=False):
                if level is not None:
                    own = level[0][:, i * k // port.k_group : -(-(i + 1) * k // port.k_group)]
                    scales[port.name] = own if port.is_a else np.ascontiguousarray(own.T)
        for port in scale_inputs(step):
            if port.name not in scales:  # levels that the cast does not have are ones
                scales[port.name] = np.full(
                    scale_shape(port, shape[not port.is_a]),
                    code_of_one(port.level.format),
                    code_dtype(port.level.format),
                )
        window = slice(i * k, (i + 1) * k)
        parts.append(of_matrices(step, a_codes[:, window], b_codes[window], c, scales, seed=i, kept=kept))
        if step.remainder:
            kept = {name: parts[-1].d[:, n] for n, name in enumerate(registers(step), 1)} | {"first": np.zeros_like(c)}
        elif chains:
            c = parts[-1].d.reshape(shape).astype(c.dtype)
    count = shape[0] * shape[1] * steps
    operands = {
        name: np.stack([p.operands[name] for p in parts], axis=1).reshape(count, -1) for name in parts[0].operands
    }
    d = np.stack([p.d for p in parts], axis=1)
    return UnitVectors(operands, d.reshape(count, *d.shape[2:]))


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
