"""The dot-product unit: the hardware of `golden.dot`, for one element of D and one step of an instruction."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce

from amaranth.hdl import Cat, Const

from codesign.evidence.cost.rtl import integer, two_registers
from codesign.evidence.cost.rtl.block import Block, TermWires, UnitDesign, Wire
from codesign.evidence.cost.rtl.decode import decode, infinite_from, times
from codesign.evidence.cost.rtl.ports import Draw, check, draws, ports, scale_inputs, scale_ports, sums_integers
from codesign.evidence.cost.rtl.registers import encode, rounded
from codesign.evidence.cost.rtl.term_sums import add
from isa_model.instruction import Instruction
from isa_model.stage import Stage

TOP = "unit"
"""Name of the top module."""


def unit(spec: Instruction, shared: bool = False) -> str:
    """Return the RTLIL of the combinational module `unit`, with the inputs of `ports` and the outputs of `results`: d_out, ...

    It sums `span` products and C. If `shared`, an input `scale` replaces the scales; the unit of `scale_product` drives it.
    Raises InputError if the generator does not support the instruction.
    """
    return unit_design(spec, shared).rtlil()


def unit_design(
    spec: Instruction, shared: bool = False, observe: Callable[[UnitDesign], dict[str, Wire]] | None = None
) -> UnitDesign:
    """Return the modules of `unit`. `observe` names wires of the finished unit that become outputs, too."""
    check(spec)
    design = UnitDesign()

    def body(
        block: Block, a: Wire, b: Wire, c: Wire, random: Wire = None, scale: Wire = None, **others: Wire
    ) -> dict[str, Wire]:
        operands = split(a, spec.span), split(b, spec.span)
        if spec.is_integer:
            d = integer.dot(block, spec, *operands, c)
            return {"d": d, **(observe(design) if observe else {})}
        whole = sums_integers(spec)
        terms = [] if whole else products(block, spec, *operands)
        rest = None
        if spec.remainder:
            running, rest = two_registers.start(block, spec, c, *(others.pop(x) for x in ("running", "rest", "first")))
        else:
            running = decode(block, spec.c_format, c, spec.flush_c)
        scales = StepScales(block, spec, others, scale)
        drawn = dict(zip(draws(spec), split(random, len(draws(spec))), strict=True))
        if spec.scaled_stage == -1:
            terms = scales.onto(terms)
        first = 0
        if whole:
            stage = next(iter(spec.stages.values()))
            terms, first = _integer_sums(block, spec, stage, *operands), 1
            if spec.scaled_stage == 0:
                terms = scales.onto(terms)
        results = stages_from(block, spec, first, terms, running, scales, drawn, rest)
        return results | (observe(design) if observe else {})

    design.define(TOP, body, ports(spec, shared))
    return design


def stages_from(
    block: Block,
    spec: Instruction,
    first: int,
    terms: list[TermWires],
    running: TermWires,
    scales: StepScales,
    drawn: Mapping[Draw, Wire],
    rest: TermWires | None = None,
) -> dict[str, Wire]:
    """Return the unit's outputs from the terms of stage `first`, with the hardware of that stage and of all after it."""
    names = _labels(list(spec.stages))
    *inner, last = spec.stages.values()
    for index, stage in enumerate(inner):
        if index < first:
            continue
        blocks, chain = deal(stage, terms), stage.chain or 1
        zero = decode(block, spec.accumulator, Const(0, spec.accumulator.bits))
        own = _drawn(spec, drawn, index)
        terms = [
            _run(block, names[index], stage, blocks[i : i + chain], zero, own[i:]) for i in range(0, len(blocks), chain)
        ]
        if spec.scaled_stage == index:
            terms = scales.onto(terms)
    if rest is not None:
        (added,) = deal(last, terms)
        both = two_registers.run_in_two(block, f"sum_{names[-1]}", spec, added, running, rest)
        d = two_registers.joined(block, f"sum_{names[-1]}", spec, *both)
        kept = two_registers.codes(block, spec, *both)
        return {"d": encode(block, spec.accumulator, d, spec.accumulator, spec.nan_code), **kept}
    result = _run(block, names[-1], last, deal(last, terms), running, _drawn(spec, drawn, len(inner)))
    return {"d": encode(block, spec.accumulator, result, last.result[-1].format, spec.nan_code)}


def products(block: Block, spec: Instruction, a: Sequence[Wire], b: Sequence[Wire]) -> list[TermWires]:
    """Return the exact products; those of at least 2**`infinite_from` are infinities."""
    xs, ys = (
        [decode(block, fmt, x, spec.flush_operands, spec.widen) for x in codes]
        for fmt, codes in zip((spec.a, spec.b), (a, b), strict=True)
    )
    terms = [times(block, x, y) for x, y in zip(xs, ys, strict=True)]
    if spec.a.kind == spec.b.kind == "integer":
        terms = [replace(t, sign=block.let("sign", t.sign & ~t.none)) for t in terms]
    if spec.infinite_from is not None:
        terms = [infinite_from(block, term, spec.infinite_from) for term in terms]
    return terms


def _integer_sums(
    block: Block, spec: Instruction, stage: Stage, a: Sequence[Wire], b: Sequence[Wire]
) -> list[TermWires]:
    """Return the results of a first stage that sums integers in an integer register (`ports.sums_integers`)."""
    (register,) = stage.result
    blocks, chain = deal(stage, range(len(a))), stage.chain or 1  # type: ignore[arg-type]
    results = []
    for first in range(0, len(blocks), chain):
        code = None
        for ks in blocks[first : first + chain]:
            of_a, of_b = ([x[k] for k in ks] for x in (a, b))  # type: ignore[call-overload]
            running = (code, register.format) if stage.accumulator and code is not None else ()
            code = integer.summed(block, spec, of_a, of_b, register, *running)
        results.append(decode(block, register.format, Cat(Const(0, register.format.low_padding), code)))
    return results


def scale_product(spec: Instruction) -> str:
    """Return the RTLIL of the multiplier of scales that many steps share, with the inputs of `scale_ports` and output d_out."""
    design = UnitDesign()
    scale = spec.scale
    assert scale
    assert scale.product
    kept = scale.product.format

    def body(block: Block, **scale_codes: Wire) -> dict[str, Wire]:
        scales = StepScales(block, spec, scale_codes)
        return {"d": encode(block, kept, scales.factor(0), kept, kept.nan_code)}

    design.define(TOP, body, scale_ports(spec))
    return design.rtlil()


def _labels(names: list[str]) -> list[str]:
    """Return stage names as distinct parts of module names, of letters, digits and underscores."""
    plain = [re.sub(r"\W", "_", name, flags=re.ASCII) for name in names]
    return plain if len(set(plain)) == len(plain) else [f"{i}_{name}" for i, name in enumerate(plain)]


class StepScales:
    """The group scales of a step and their products, each formed once, or the product that the unit receives."""

    def __init__(self, block: Block, spec: Instruction, codes: Mapping[str, Wire], product: Wire = None) -> None:
        self.block, self.spec, self.inputs = block, spec, scale_inputs(spec)
        self.scales = {
            port.name: [decode(block, port.level.format, code) for code in split(codes.get(port.name), port.per_step)]
            for port in self.inputs
        }
        self.factors: dict[tuple[int, ...], TermWires] = {}
        if product is not None:
            assert spec.scale
            assert spec.scale.product
            self.factors[(0,) * len(self.inputs)] = decode(block, spec.scale.product.format, product)

    def onto(self, terms: Sequence[TermWires]) -> list[TermWires]:
        """Return each term times the scales of its group, rounded if the spec says so."""
        scale = self.spec.scale
        assert scale is not None
        span = self.spec.span // len(terms)
        result = []
        for i, term in enumerate(terms):
            scaled = times(self.block, term, self.factor(i * span)) if self.spec.scales else term
            scaled = replace(scaled, position=scaled.position.plus(scale.power), align=scaled.align.plus(scale.power))
            result.append(rounded(self.block, scaled, scale.result, positive_zero=False) if scale.result else scaled)
        return result

    def factor(self, k: int) -> TermWires:
        """Return the product of the scales of product `k` of a step."""
        scale = self.spec.scale
        assert scale is not None
        key = tuple(k // port.k_group for port in self.inputs)
        if key not in self.factors:
            present = [self.scales[port.name][i] for port, i in zip(self.inputs, key, strict=True)]
            factor = reduce(partial(times, self.block), present)
            if scale.product:
                factor = rounded(self.block, factor, scale.product, positive_zero=False)
            self.factors[key] = factor
        return self.factors[key]


def deal(stage: Stage, terms: Sequence[TermWires]) -> list[Sequence[TermWires]]:
    """Return the blocks of a stage, as `golden.deal` forms them."""
    from isa_model import golden

    return golden.deal(stage, terms)  # type: ignore[arg-type, return-value]  # it only moves terms


def _drawn(spec: Instruction, drawn: Mapping[Draw, Wire], index: int) -> list[dict[int, Wire]]:
    """Return the random bits of each block of a stage, by register."""
    own: list[dict[int, Wire]] = [{} for _ in range(spec.span)]
    for place, bits in drawn.items():
        if place.stage == index:
            own[place.block][place.register] = bits
    return own


def _run(
    block: Block,
    name: str,
    stage: Stage,
    blocks: Sequence[Sequence[TermWires]],
    running: TermWires,
    drawn: Sequence[Mapping[int, Wire]],
) -> TermWires:
    """Sum the blocks one after the other, each with the running value if the stage has one."""
    for i, terms in enumerate(blocks):
        first = "_first" if len(blocks) > 1 and i == 0 else ""
        total = add(block, f"sum_{name}{first}", stage, terms, running if stage.accumulator else None)
        running = put(block, stage, total, drawn[i])
    return running


def put(block: Block, stage: Stage, total: TermWires, drawn: Mapping[int, Wire]) -> TermWires:
    """Round a sum into the registers of a stage."""
    for i, register in enumerate(stage.result):
        last = i == len(stage.result) - 1
        total = rounded(block, total, register, last and stage.zero == "positive", drawn.get(i))
    return total


def split(vector: Wire, count: int) -> list[Wire]:
    """Return the elements of a packed vector."""
    if not count or vector is None:
        return []
    size = len(vector) // count
    return [vector[i * size : (i + 1) * size] for i in range(count)]
