"""The spec language: a matrix multiply-accumulate instruction as operand formats plus a list of stages.

Each product A[m, k] * B[k, n] is a *term*: an exact value and the exponent it aligns with. A *stage* (stage.py) takes its
terms in blocks. It sums each block exactly, or aligned to the largest exponent with a given number of fraction bits. It
rounds the sum or hands it up as it is: the results are the terms of the next stage. The last stage adds C.
`golden.py` defines what each field does. Here fields are declared, and contradictions between them are refused.
"""

from __future__ import annotations

import re
from functools import cached_property
from math import lcm
from typing import Any, Literal

from pydantic import Field, model_validator

from isa_model.codec import decode
from isa_model.diagnostics import at
from isa_model.formats import Format, later
from isa_model.limits import MOST_STAGES, Count, Exponent
from isa_model.operand_fields import Codebook, Codebooks, ScaleOperand, Scaling, Sparsity
from isa_model.stage import FormatRef, Register, Remainder, Spec, Stage


class Shape(Spec):
    """Size of one instruction: D (m, n) = A (m, k) B (k, n) + C (m, n). `k` counts the elements that sparsity leaves out."""

    m: Count
    n: Count
    k: Count


class Instruction(Spec):
    """A matrix multiply-accumulate instruction, real or proposed: D = A B + C."""

    name: str = ""
    """Name in the catalogue, or the proposal's name."""
    description: str = ""
    shape: Shape
    a: FormatRef
    b: FormatRef
    c: FormatRef | None = None
    """Format of C as it is stored; default: that of D."""
    accumulator: FormatRef
    """Format of D as it is stored, and of C unless `c` names another. An integer needs operands of whole numbers."""
    widen: FormatRef | None = None
    """Format that A and B are converted to before they are multiplied; default: none. The conversion is exact. It affects
    alignment alone: a subnormal of A or B that is normal in this format aligns with the exponent of its leading bit."""
    sparsity: Sparsity | None = later(None)
    """Elements of one operand that are left out; default: none. Stages sum the products of the elements stored."""
    codebook: Codebooks | None = later(None)
    """Operands that are looked up in tables given with them, before anything else; default: none. The formats of A and B are
    those of the entries."""
    scale: Scaling | None = None
    stages: dict[str, Stage] = Field(min_length=1, max_length=MOST_STAGES)
    """Sums from the products up, each under a name of the author's choice."""
    nan: int | None = Field(default=None, ge=0)
    """Code written for a NaN; default: the accumulator format's."""
    infinite_from: Exponent | None = None
    """Exponent from which products are infinite: a product of at least 2 to this power becomes an infinity; default:
    products are exact, however large."""
    flush_inputs: bool | Literal["keep-sign", "c"] = False
    """True: subnormals and negative zeros of A, B and C are read as +0. `keep-sign`: subnormals as zeros of their sign. `c`:
    those of C alone, as zeros of their sign."""
    source: str = ""
    """Source of the rules."""
    checked: str = ""
    """Evidence that the rules were checked against."""
    known: Literal["silicon", "model", "documented", "assumed"] | None = None
    """Best evidence for the rules of a real instruction: equal to silicon, to another model, documented, or assumed."""

    @classmethod
    def of_parts(cls, **fields: Any) -> Instruction:
        """Return an instruction of parts that are checked already: only contradictions between them are looked for.

        Raises PydanticCustomError for one. Data that anybody wrote belongs to `model_validate`, ten times slower.
        """
        parts: Any = cls.model_construct(**fields)
        checked: Instruction = parts._consistent()
        return checked

    @property
    def c_format(self) -> Format:
        """Format of C as it is stored. Between steps along K the running value is in a register of the last stage."""
        return self.c or self.accumulator

    @property
    def flush_operands(self) -> bool | Literal["keep-sign"]:
        """Rule of `flush_inputs` for A and B."""
        return False if self.flush_inputs == "c" else self.flush_inputs

    @property
    def flush_c(self) -> bool | Literal["keep-sign"]:
        """Rule of `flush_inputs` for C."""
        return "keep-sign" if self.flush_inputs == "c" else self.flush_inputs

    @property
    def remainder(self) -> Remainder | None:
        """Second register of the running value of the last stage; None if it has one alone."""
        return next(reversed(self.stages.values())).remainder

    @property
    def joining(self) -> Register:
        """Rounding of a running value and its remainder to D."""
        *_, last = self.stages.values()
        fmt = self.accumulator
        return Register(format=fmt, rounding=last.result[-1].rounding, overflow=fmt.kept_infinity)

    @property
    def is_integer(self) -> bool:
        """True if every value is a whole number and D an integer; whole operands alone may also sum up to floating point."""
        return self.accumulator.kind == "integer"

    @cached_property
    def is_stochastic(self) -> bool:
        """True if a register draws random bits, so that a seed is an operand."""
        return any(register.random_bits for stage in self.stages.values() for register in stage.result)

    def register_number(self, index: int) -> int:
        """Return the number of the first register of stage number `index`; registers are counted from the first stage up."""
        return sum(len(stage.result) for stage in list(self.stages.values())[:index])

    @property
    def nan_code(self) -> int | None:
        """Code written for a NaN; None if D has no NaN."""
        return self.accumulator.nan_code if self.nan is None else self.nan

    @cached_property
    def span(self) -> int:
        """Number of products in one step of the last stage."""
        return self.products_per_result(len(self.stages) - 1)

    @property
    def stored_k(self) -> int:
        """Number of products that one instruction sums: its k, without the elements that sparsity leaves out."""
        return self.sparsity.stored(self.shape.k) if self.sparsity else self.shape.k

    @property
    def dense(self) -> Instruction:
        """The same arithmetic on the elements that are multiplied, those looked up or, with sparsity, stored and picked."""
        sparsity, scale = self.sparsity, self.scale
        if self.codebook:
            return self.model_copy(update={"codebook": None})
        if sparsity is None:
            return self
        change: dict[str, Any] = {"sparsity": None, "shape": self.shape.model_copy(update={"k": self.stored_k})}
        if scale:
            sides = {"a": scale.a and scale.a.stored(sparsity, 1), "b": scale.b and scale.b.stored(sparsity, 0)}
            change["scale"] = scale.model_copy(update=sides)
        return self.model_copy(update=change)

    def products_per_result(self, index: int) -> int:
        """Return how many products one result of stage number `index` sums; 1 for index -1, a product itself."""
        count = 1
        for stage in list(self.stages.values())[: index + 1]:
            count *= stage.inputs
        return count

    @property
    def scaled_stage(self) -> int | None:
        """Index of the stage whose results are scaled; -1 for the products, None without scales."""
        if self.scale is None:
            return None
        return -1 if self.scale.onto == "products" else list(self.stages).index(self.scale.onto)

    def canonical(self, exclude: set[str] | None = None) -> dict[str, Any]:
        """Return the spec as plain data for a digest, which does not depend on how well the rules are known."""
        return self.model_dump(mode="json", exclude={"known", *(exclude or ())})

    @property
    def scales(self) -> tuple[ScaleOperand, ...]:
        """Scales of the operands that have them."""
        return tuple(side for side in (self.scale.a, self.scale.b) if side) if self.scale else ()

    @property
    def scale_power(self) -> int:
        """Exponent of the constant scale; 0 without one."""
        return self.scale.power if self.scale else 0

    def per_line(self) -> Instruction:
        """Return the same arithmetic with scales that rows of A or columns of B do not share."""
        if self.scale is None:
            return self
        a, b = self.scale.a, self.scale.b
        change = {
            "a": a and a.model_copy(update={"group": (1, a.group[1])}),
            "b": b and b.model_copy(update={"group": (b.group[0], 1)}),
        }
        return self.model_copy(update={"scale": self.scale.model_copy(update=change)})

    # -- contradictions --------------------------------------------------------------------------------------------

    @model_validator(mode="after")
    def _consistent(self) -> Instruction:
        self._check_operands()
        if self.sparsity and self.codebook:
            message = "a sparse instruction looks no elements up"
            raise at("codebook", message=message, hint="`sparsity: null`, or look the elements up before")
        for name in ("a", "b"):
            book: Codebook | None = getattr(self.codebook, name) if self.codebook else None
            if book and book.bits >= getattr(self, name).bits:
                fmt = getattr(self, name)
                message = f"indices of {book.bits} bits save nothing: {fmt.name} has {fmt.bits}"
                raise at("codebook", name, "bits", message=message, hint=f"at most {fmt.bits - 1}, or drop `{name}`")
        if self.sparsity and self.shape.k % self.sparsity.group:
            group = self.sparsity.group
            message = f"k = {self.shape.k} is not a multiple of the {group} elements of a sparse group"
            raise at("shape", "k", message=message, hint=f"`k: {-(-self.shape.k // group) * group}`")
        self._check_stages()
        self._check_scale()
        return self

    def _check_operands(self) -> None:
        if self.is_integer and self.flush_inputs:
            raise at("flush_inputs", message="integers have no subnormals", hint="drop `flush_inputs`")
        if self.infinite_from is not None and (self.is_integer or self.a.kind == self.b.kind == "integer"):
            raise at("infinite_from", message="products of integers are never infinite", hint="drop `infinite_from`")
        if not (self.a.zero and self.b.zero):
            offender = "b" if self.a.zero else "a"
            raise at(offender, message="an operand format needs a zero: ue8m0 is for scales")
        for field, fmt in (("accumulator", self.accumulator), ("c", self.c_format)):
            if fmt.kind == "table":
                raise at(field, message=f"{fmt.name} is a table of numbers, which are for operands and scales")
        for fmt in (self.a, self.b) if self.is_integer else ():
            if not fmt.is_whole:
                message = (
                    f"{self.accumulator.name} cannot hold products of {fmt.name}: not every code is a whole number"
                )
                raise at(
                    "accumulator", message=message, hint="a floating-point accumulator, or operands of whole numbers"
                )
        if self.widen is not None and self.is_integer:
            raise at("widen", message="integers are summed exactly, so that nothing is aligned", hint="drop `widen`")
        if self.widen is not None and self.widen.kind != "float":
            raise at("widen", message=f"operands are widened to a floating-point format, not to {self.widen.name}")
        for operand in (self.a, self.b):
            if self.widen is not None and operand.kind != "float":
                raise at("widen", message=f"{operand.name} has no subnormals to be widened", hint="drop `widen`")
            if self.widen is not None and not self.widen.holds(operand):
                raise at("widen", message=f"{self.widen.name} does not hold every number of {operand.name}")
        if self.widen is not None and self.a == self.b == self.widen:
            raise at("widen", message=f"A and B are {self.widen.name} already", hint="drop `widen`")
        if self.c_format.kind != self.accumulator.kind:
            raise at("c", message=f"C in {self.c_format.name} and D in {self.accumulator.name} are different kinds")
        for field, fmt in (("c", self.c_format), ("accumulator", self.accumulator)):
            if fmt.kind == "float" and not (fmt.signed and fmt.zero):
                raise at(field, message=f"an accumulator needs a sign and a zero; {fmt.name} lacks one")
        if self.nan is not None:
            fits = self.nan < 1 << self.accumulator.storage_bits
            if not fits or decode(self.accumulator, self.nan).special != "nan":
                message = f"{self.nan:#x} is not a NaN of {self.accumulator.name}"
                raise at("nan", message=message, hint="`nan: null` for the format's own")

    def _check_stages(self) -> None:
        for name in self.stages:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name):
                message = f"`{name[:64]}` cannot name a stage" if name.isprintable() else "this cannot name a stage"
                raise at("stages", name, message=message, hint="a letter, then letters, digits, `_` and `-`")
            if name == "products":
                message = "`products` means the terms of the first stage"
                raise at("stages", name, message=message, hint="choose another name")
        *inner, last = self.stages
        for name in inner:
            stage = self.stages[name]
            if stage.remainder:
                message = f"stage `{name}` is not the last: only the running value that starts from C has a remainder"
                raise at("stages", name, "remainder", message=message, hint=f"give it to `{last}`")
            if stage.accumulator and not stage.chain:
                message = f"stage `{name}` is not the last, so its running value starts at zero and needs an end"
                hint = f"give `chain`, the number of blocks it adds; C is added in `{last}`"
                raise at("stages", name, "accumulator", message=message, hint=hint)
        final = self.stages[last]
        if not final.accumulator:
            raise at("stages", last, message=f"the last stage, `{last}`, does not add C", hint="accumulator: true")
        if final.chain:
            raise at("stages", last, "chain", message="the last stage runs to the end of K", hint="drop `chain`")
        if not final.result:
            raise at("stages", last, message=f"the last stage, `{last}`, needs a `result`: D has a format")
        kept = final.result[-1].format
        if not self.accumulator.holds(kept):
            raise at(
                "stages",
                last,
                "result",
                message=f"the accumulator {self.accumulator.name} does not hold every number of the register {kept.name}",
                hint=f"`result: {{format: {self.accumulator.name}, rounding: {final.result[-1].rounding}}}`, or an "
                f"accumulator that holds {kept.name}",
            )
        self._check_kinds()
        if self.is_integer:
            for name, stage in self.stages.items():
                for field in ("fraction_bits", "exponent"):
                    if getattr(stage, field) is not None:
                        raise at("stages", name, field, message="integers are summed exactly", hint=f"drop `{field}`")
        if self.span > 1 << 16:
            message = "the stages sum more than 65536 products in one step, the most an instruction can have"
            raise at("stages", message=message, hint="fewer `terms`, or a shorter `chain`")
        if self.stored_k % self.span:
            stored = f" stores {self.stored_k} products, which" if self.sparsity else ""
            size = self._logical(self.span)
            raise at(
                "shape",
                "k",
                message=f"k = {self.shape.k}{stored} is not a multiple of the {self.span} products that the "
                "stages sum in one step",
                hint=f"`shape: {{k: {-(-self.shape.k // size) * size}}}`, or other `terms`",
            )
        below = self.stored_k
        for name, stage in self.stages.items():
            if below % stage.dealt:
                parts = stage.interleave.parts if stage.interleave else 1
                message = f"{parts} parts of {stage.hand} terms do not divide the {below} terms of one instruction"
                raise at("stages", name, "interleave", message=message)
            if stage.interleave and stage.hand % stage.interleave.run:
                what = "block" if stage.hand == stage.terms else "chain"
                message = f"runs of {stage.interleave.run} do not fill a {what} of {stage.hand} terms"
                raise at("stages", name, "interleave", message=message)
            below //= stage.inputs

    def _check_kinds(self) -> None:
        """Refuse an integer register for anything but a sum of integers."""
        whole = self.a.is_whole and self.b.is_whole and self.scaled_stage != -1
        for index, (name, stage) in enumerate(self.stages.items()):
            running = stage.result[-1].format.kind if stage.result and stage.accumulator else "integer"
            whole = whole and running == "integer"
            for register in stage.result:
                if register.format.kind == "integer" and not whole:
                    message = f"{register.format.name} cannot hold this sum: floating-point sums need floating-point registers"
                    raise at(
                        "stages",
                        name,
                        "result",
                        message=message,
                        hint="`result: {format: fp32, rounding: nearest-even}`",
                    )
                whole = register.format.kind == "integer"
            if self.is_integer and stage.result and not whole:
                message = f"integer sums need integer registers, as D is {self.accumulator.name}"
                raise at("stages", name, "result", message=message, hint=f"`format: {self.accumulator.name}`")
            whole = whole and self.scaled_stage != index

    def _check_scale(self) -> None:
        scale = self.scale
        if scale is None:
            return
        if self.is_integer:
            message = f"scaled sums need a floating-point D, not {self.accumulator.name}"
            hint = "`accumulator: fp32`, and a last stage that adds the scaled sums to an FP32 `result`"
            raise at("scale", message=message, hint=hint)
        for field in ("product", "result"):
            register: Register | None = getattr(scale, field)
            if register and register.format.kind == "integer":
                raise at("scale", field, message="scaled sums need floating-point registers")
            if register and register.random_bits:
                message = "only the `result` of a stage is rounded stochastically"
                raise at("scale", field, "rounding", message=message, hint="rounding: nearest-even")
        inner = list(self.stages)[:-1]
        if scale.onto != "products" and scale.onto not in inner:
            if scale.onto in self.stages:
                message = f"`{scale.onto}` is the last stage: C would be scaled with the sum"
                hint = "scale an earlier stage, and add C in a stage of its own"
                raise at("scale", "onto", message=message, hint=hint)
            message, hint = f"no stage is called `{scale.onto}`", f"one of: {', '.join(['products', *inner])}"
            raise at("scale", "onto", message=message, hint=hint)
        index = self.scaled_stage
        assert index is not None
        for operand, k_axis in (("a", 1), ("b", 0)):
            side: ScaleOperand | None = getattr(scale, operand)
            if side is None:
                continue
            stretch = self._logical(self._stretch(index))
            if side.group[k_axis] % stretch:
                raise at(
                    "scale",
                    operand,
                    "group",
                    message=f"a scale of {operand.upper()} covers {side.group[k_axis]} of K, but each result of "
                    f"`{scale.onto}` sums over {stretch}: its products would not share one scale",
                    hint=f"a multiple of {stretch}, or scale the products",
                )

    def _logical(self, stored: int) -> int:
        """Return the least number of elements of K, whole sparse groups, that stores a multiple of `stored` elements."""
        if self.sparsity is None:
            return stored
        each = self.sparsity.stored(self.sparsity.group)
        return lcm(stored, each) // each * self.sparsity.group

    def _stretch(self, index: int) -> int:
        """Return the length of the stretches that K divides into so that each result of stage `index` sums over one.

        A block of an interleaved stage spreads over the whole span that is dealt out.
        """
        stretch = count = 1
        for stage in list(self.stages.values())[: index + 1]:
            stretch = lcm(stretch, count * stage.dealt, count * stage.inputs)
            count *= stage.inputs
        return stretch
