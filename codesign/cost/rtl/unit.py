"""The whole unit: one step of an instruction for one element of D, as `golden.dot` computes it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from codesign.cost.rtl.block import Block, Design, Term, Wire
from codesign.cost.rtl.decode import decode, times
from codesign.cost.rtl.ports import check, ports, scale_counts
from codesign.cost.rtl.registers import encode, rounded
from codesign.cost.rtl.sums import add
from isa_model.instruction import Instruction
from isa_model.stage import Stage

TOP = "unit"
"""Name of the module."""


def unit(spec: Instruction) -> str:
    """RTLIL of the combinational unit: module `unit` with inputs a, b, c, scale_a, scale_b and output d_out.

    It takes `span` products and C, and gives D. Raises InputError for a spec the generator cannot say.
    """
    check(spec)
    design = Design()

    def body(block: Block, a: Wire, b: Wire, c: Wire, scale_a: Wire = None, scale_b: Wire = None) -> dict[str, Wire]:
        terms = [
            times(block, decode(block, spec.a, x, spec.flush_inputs), decode(block, spec.b, y, spec.flush_inputs))
            for x, y in zip(_split(a, spec.span), _split(b, spec.span), strict=True)
        ]
        running = decode(block, spec.accumulator, c, spec.flush_inputs)
        a_scales, b_scales = scale_counts(spec)
        scales = Scales(block, spec, _split(scale_a, a_scales), _split(scale_b, b_scales))
        if spec.scaled_stage == -1:
            terms = scales.onto(terms)
        names = _labels(list(spec.stages))
        *inner, last = spec.stages.values()
        for index, stage in enumerate(inner):
            name = names[index]
            blocks, chain = deal(stage, terms), stage.chain or 1
            zero = decode(block, spec.accumulator, _constant(0, spec.accumulator.bits))
            terms = [_run(block, name, stage, blocks[i : i + chain], zero) for i in range(0, len(blocks), chain)]
            if spec.scaled_stage == index:
                terms = scales.onto(terms)
        result = _run(block, names[-1], last, deal(last, terms), running)
        return {"d": encode(block, spec.accumulator, result, last.result[-1].format, spec.nan_code)}

    design.define(TOP, body, ports(spec))
    return design.rtlil()


def _labels(names: list[str]) -> list[str]:
    """Stage names as parts of module names: letters, digits and underscores, each its own."""
    plain = [re.sub(r"\W", "_", name, flags=re.ASCII) for name in names]
    return plain if len(set(plain)) == len(plain) else [f"{i}_{name}" for i, name in enumerate(plain)]


class Scales:
    """The group scales of a step, and their products, each formed once."""

    def __init__(self, block: Block, spec: Instruction, a: Sequence[Wire], b: Sequence[Wire]) -> None:
        self.block, self.spec = block, spec
        scale = spec.scale
        self.a = [decode(block, scale.a.format, code) for code in a] if scale and scale.a else []
        self.b = [decode(block, scale.b.format, code) for code in b] if scale and scale.b else []
        self.factors: dict[tuple[int, int], Term] = {}

    def onto(self, terms: Sequence[Term]) -> list[Term]:
        """Each term times the scales of its group, rounded where the spec says so."""
        scale = self.spec.scale
        assert scale is not None
        span = self.spec.span // len(terms)
        result = []
        for i, term in enumerate(terms):
            scaled = times(self.block, term, self._factor(i * span))
            result.append(rounded(self.block, scaled, scale.result, positive_zero=False) if scale.result else scaled)
        return result

    def _factor(self, k: int) -> Term:
        scale = self.spec.scale
        assert scale is not None
        key = (k // scale.a.group[1] if scale.a else 0, k // scale.b.group[0] if scale.b else 0)
        if key not in self.factors:
            present = [side[i] for side, i in zip((self.a, self.b), key, strict=True) if side]
            factor = present[0] if len(present) == 1 else times(self.block, *present)
            if scale.product:
                factor = rounded(self.block, factor, scale.product, positive_zero=False)
            self.factors[key] = factor
        return self.factors[key]


def deal(stage: Stage, terms: Sequence[Term]) -> list[Sequence[Term]]:
    """The blocks of a stage, as `golden.deal` forms them."""
    from isa_model import golden

    return golden.deal(stage, terms)  # type: ignore[arg-type, return-value]  # it moves terms and does not look inside


def _run(block: Block, name: str, stage: Stage, blocks: Sequence[Sequence[Term]], running: Term) -> Term:
    """Sum block after block, each together with the running value if the stage has one."""
    for i, terms in enumerate(blocks):
        first = "_first" if len(blocks) > 1 and i == 0 else ""
        running = _put(
            block, stage, add(block, f"sum_{name}{first}", stage, terms, running if stage.accumulator else None)
        )
    return running


def _put(block: Block, stage: Stage, total: Term) -> Term:
    for i, register in enumerate(stage.result):
        last = i == len(stage.result) - 1
        total = rounded(block, total, register, positive_zero=last and stage.zero == "positive")
    return total


def _split(vector: Wire, count: int) -> list[Wire]:
    if not count:
        return []
    size = len(vector) // count
    return [vector[i * size : (i + 1) * size] for i in range(count)]


def _constant(value: int, bits: int) -> Wire:
    from amaranth.hdl import Const

    return Const(value, bits)
