"""The proof of a unit: its blocks, its mapped netlist, and operands that show what is wrong with it."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np

from codesign.evidence.cost.proof.compose import prove_unit
from codesign.evidence.cost.proof.netlist_terms import NotProvable
from codesign.evidence.cost.proof.observed import Lifted, Observed, observe_unit
from codesign.evidence.cost.proof.proof_record import BlockProof, Counterexample, MappedProof, ProofRecord
from codesign.evidence.cost.proof.smt import Script, solve
from codesign.evidence.cost.records import design_sha256
from codesign.evidence.cost.rtl.ports import draw_bits, draws, results
from codesign.evidence.cost.synth import abc, run
from codesign.evidence.cost.unit_vectors import arguments, in_two, one_step, widths
from isa_model import golden
from isa_model.instruction import Instruction
from isa_model.output_files import scratch

SECONDS = 300
"""Time that a theorem may take before it counts as open."""
TRIES = 24
"""Operands tried to make a block's fault reach D."""


@contextlib.contextmanager
def _deep_recursion() -> Iterator[None]:
    """Allow 100,000 levels of calls: terms are as deep as the unit is long. Afterwards the limit is what it was."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


@_deep_recursion()
def prove(spec: Instruction, seconds: float = SECONDS, commit: str = "") -> ProofRecord:
    """Prove that the RTL of an instruction's unit computes golden's D, block by block and composed. Needs the extra `cost`.

    Raises InputError if the generator does not support the instruction.
    """
    start = time.perf_counter()
    unit, shipped = observe_unit(spec, seconds)
    try:
        prove_unit(spec, unit)
    except NotProvable as error:
        unit.leave_open(str(error))
    outputs = [f"{name}_out" for name in results(spec)]
    observed, own = (n.digest([bit for name in outputs for bit in n.ports[name]]) for n in (unit.netlist, shipped))
    if observed != own:
        unit.leave_open("the unit with observed wires is not the unit that ships")
    return ProofRecord(
        name=spec.name,
        design_sha256=design_sha256(spec),
        netlist_sha256=own,
        blocks=tuple(_table(unit)),
        open=tuple(unit.open),
        counterexample=_counterexample(spec, unit, seconds) if unit.refuted else None,
        seconds=round(time.perf_counter() - start, 1),
        versions={name: version(name) for name in ("amaranth", "pyosys", "bitwuzla")},
        commit=commit,
    )


def _table(unit: Observed) -> list[BlockProof]:
    found: dict[str, list[BlockProof]] = {}
    for theorem in unit.theorems.values():
        one = BlockProof(
            block=theorem.block,
            status=theorem.answer.status,
            theorems=1,
            places=theorem.places,
            seconds=theorem.answer.seconds,
            sha256=(theorem.sha256,),
        )
        found.setdefault(theorem.block, []).append(one)
    return [
        BlockProof(
            block=name,
            status=max((x.status for x in own), key=("proved", "unknown", "refuted").index),
            theorems=len(own),
            places=sum(x.places for x in own),
            seconds=round(sum(x.seconds for x in own), 2),
            sha256=tuple(x.sha256[0] for x in own),
        )
        for name, own in found.items()
    ]


# -- counterexamples -------------------------------------------------------------------------------------------------


def _counterexample(spec: Instruction, unit: Observed, seconds: float) -> Counterexample | None:
    """Return operands for which the unit and golden differ, found from the refuted theorems; None if none was found."""
    for number in list(unit.refuted):
        unit.lifted, unit.asked, unit.operands = number, 0, {}
        with contextlib.suppress(Lifted, NotProvable):
            prove_unit(spec, unit)
        for operands in _filled(spec, unit):
            d, meant = outputs_of_unit(unit, operands), outputs_of_golden(spec, operands)
            if d != meant:
                codes = {name: tuple(hex(code) for code in own) for name, own in operands.items()}
                return Counterexample(operands=codes, unit=hex(d), golden=hex(meant))
    return None


def _filled(spec: Instruction, unit: Observed) -> list[dict[str, list[int]]]:
    """Return operands that have the bits that break a theorem, and zeros or random bits elsewhere."""
    rng, found = np.random.default_rng(0), []
    for k in range(TRIES):
        operands = {}
        for name, bits in widths(spec).items():
            wires = unit.netlist.ports[name]
            free = rng.integers(0, 2, len(wires)) if k else np.zeros(len(wires), int)
            values = [unit.operands.get(wire, int(free[i])) for i, wire in enumerate(wires)]
            operands[name] = [
                sum(v << i for i, v in enumerate(values[at : at + bits])) for at in range(0, len(values), bits)
            ]
        if not spec.remainder or not golden.term(spec.remainder.format, operands["rest"][0]).number.special:
            found.append(operands)
    return found


def outputs_of_golden(spec: Instruction, operands: dict[str, list[int]]) -> int:
    """Return the outputs that the definition gives one step's operands, by port, as one number with D in the lowest bits."""
    step = one_step(spec).per_line()
    if spec.remainder:
        packed = 0
        for code, bits in reversed([*zip(in_two(step, operands), results(spec).values(), strict=True)]):
            packed = packed << bits | code
        return packed
    places = {(d.block, step.register_number(d.stage) + d.register): i for i, d in enumerate(draws(step))}
    words = [bits << (32 - draw_bits(step)) for bits in operands.get("random", [])]
    scales = arguments(step, operands, seed=False)
    mask = (1 << spec.accumulator.bits) - 1
    given = (operands["a"], operands["b"], operands["c"][0])
    return golden.dot(step, *given, **scales, draw=lambda *place: words[places[place]]) & mask


def outputs_of_unit(unit: Observed, operands: dict[str, list[int]]) -> int:
    """Return the outputs that a unit's netlist gives operands, by port, as one number with D in the lowest bits."""
    unit.lifted = None
    reader = unit.reader()
    script: Script = reader.script
    for name, codes in operands.items():
        wires = unit.netlist.ports[name]
        size = len(wires) // len(codes)
        value = script.const(sum(code << i * size for i, code in enumerate(codes)), len(wires))
        reader.bound |= {wire: (value, i) for i, wire in enumerate(wires)}
    outputs = [f"{name}_out" for name in ("d", "running", "rest") if f"{name}_out" in unit.netlist.ports]
    d = reader.word([bit for name in outputs for bit in unit.netlist.ports[name]])
    shown = script.input(d.width)
    return solve(script.text([shown.eq(d)], [shown.eq(d) ^ 1]), 60).model[shown.text]


# -- the mapped netlist ----------------------------------------------------------------------------------------------


def prove_mapped(rtlil: str, verilog: str, seconds: float = 1800) -> MappedProof:
    """Prove by abc's `cec` that a mapped netlist, with models of its cells, equals the design it was mapped from."""
    with scratch() as folder:
        (folder / "unit.il").write_text(rtlil)
        (folder / "mapped.v").write_text(verilog)
        gates = "techmap; opt -fast; aigmap; write_aiger"
        run(f"read_rtlil unit.il; hierarchy -top unit; proc; flatten -noscopeinfo; opt_clean; {gates} rtl.aig", folder)
        run(f"read_verilog mapped.v; hierarchy -top unit; flatten -noscopeinfo; opt_clean; {gates} mapped.aig", folder)
        start = time.perf_counter()
        done = abc("cec rtl.aig mapped.aig", folder, seconds)
        spent = round(time.perf_counter() - start, 1)
    if "Networks are equivalent" in done:
        return MappedProof(status="proved", seconds=spent)
    refuted = re.search(r"Networks are NOT EQUIVALENT", done)
    return MappedProof(status="refuted" if refuted else "unknown", seconds=spent)
