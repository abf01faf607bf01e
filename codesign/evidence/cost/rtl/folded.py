"""A unit folded over the steps of a chain: a front sums one step into a register, and several fronts share what comes after.

A chain of N sums that goes on to scales and to C needs them once in N steps. Folded, the hardware after the chain, the tail,
serves N fronts in turn. A front has the register of its partial sum; the tail selects one of N registers.
"""

from __future__ import annotations

from functools import reduce

from codesign.evidence.cost.rtl.block import Block, UnitDesign, Wire, gate
from codesign.evidence.cost.rtl.decode import decode
from codesign.evidence.cost.rtl.ports import chained_stage, check, ports, scale_ports
from codesign.evidence.cost.rtl.registers import encode
from codesign.evidence.cost.rtl.term_sums import add
from codesign.evidence.cost.rtl.unit import TOP, StepScales, products, put, split, stages_from
from isa_model.diagnostics import InputError
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.stage import Stage


def chain_of(spec: Instruction) -> Stage:
    """Return the stage whose chain is folded. Raises InputError for an instruction that cannot be folded."""
    check(spec)
    stage = chained_stage(spec)
    if stage is None:
        raise InputError.of(
            f"{spec.name}: only one `chain` of floating-point sums through a register, with a stage after it and scales "
            "behind it, can be folded",
            "`chain: 4`, `accumulator: true` and a result in the first stage",
        )
    return stage


def register_of(stage: Stage) -> Format:
    """Return the format of a stage's register."""
    return stage.result[-1].format


def front(spec: Instruction) -> str:
    """Return the RTLIL of one step of the chain, with inputs a, b, `first` and `running`, and output d_out.

    `running` and d_out are codes of the register; `first` starts a chain from zero.
    """
    stage, design = chain_of(spec), UnitDesign()
    fmt = register_of(stage)

    def body(block: Block, a: Wire, b: Wire, first: Wire, running: Wire) -> dict[str, Wire]:
        terms = products(block, spec, split(a, stage.terms), split(b, stage.terms))
        before = decode(block, fmt, block.let("running", gate(running, ~first)))
        total = put(block, stage, add(block, "sum_front", stage, terms, before), {})
        return {"d": encode(block, fmt, total, fmt, fmt.nan_code)}

    widths = {"a": stage.terms * spec.a.bits, "b": stage.terms * spec.b.bits, "first": 1, "running": fmt.bits}
    design.define(TOP, body, widths)
    return design.rtlil()


def tail(spec: Instruction) -> str:
    """Return the RTLIL of what follows the chain: inputs `partial` and `select` of each front, c and scales; output d_out."""
    stage, design = chain_of(spec), UnitDesign()
    fmt, fronts = register_of(stage), stage.chain or 1

    def body(block: Block, partial: Wire, select: Wire, c: Wire, **scale_codes: Wire) -> dict[str, Wire]:
        chosen = [gate(code, on) for code, on in zip(split(partial, fronts), select, strict=True)]
        term = decode(block, fmt, block.let("partial_sum", reduce(lambda x, y: x | y, chosen)))
        running = decode(block, spec.c_format, c, spec.flush_c)
        scales = StepScales(block, spec, scale_codes)
        terms = scales.onto([term]) if spec.scaled_stage == 0 else [term]
        return stages_from(block, spec, 1, terms, running, scales, {})

    widths = {"partial": fronts * fmt.bits, "select": fronts, "c": ports(spec)["c"], **scale_ports(spec)}
    design.define(TOP, body, widths)
    return design.rtlil()
