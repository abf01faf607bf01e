"""The spec language: a matrix multiply-accumulate instruction as operand formats plus a list of stages.

Each product A[m, k] * B[k, n] is a *term*: an exact value and the exponent it aligns with. A *stage* takes its terms in
blocks, sums each block by its own rule (exact, or aligned to the largest exponent with so many fraction bits), rounds
the sum into a register or hands it up as it is, and so makes the terms of the next stage. The last stage adds C.
`golden.py` is the definition of what each field does; here they are declared and contradictions refused.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from isa_model.codec import decode
from isa_model.diagnostics import InputError, at
from isa_model.formats import FORMATS, Format, Overflow, named
from isa_model.rounding import Rounding


def _format(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return named(value)
    except InputError as error:
        problem = error.problems[0]
        raise PydanticCustomError("format", "{text}", {"text": problem.message, "hint": problem.hint}) from None


def _format_name(fmt: Format) -> Any:
    return fmt.name if is_named(fmt) else fmt.model_dump(exclude_defaults=True)


def is_named(fmt: Format) -> bool:
    """Whether the format's name alone says everything about it."""
    try:
        return named(fmt.name) == fmt
    except InputError:
        return False


FormatRef = Annotated[Format, BeforeValidator(_format), PlainSerializer(_format_name)]
"""A format by name (`e4m3`, `fp32`), inline (`e8m13`), or spelled out field by field."""


def _deterministic(rounding: Rounding) -> Rounding:
    if rounding is Rounding.STOCHASTIC:
        raise at(message="an instruction has no random operand: `stochastic` belongs to a cast")
    return rounding


class Spec(BaseModel):
    """Base of every part of a spec: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Register(Spec):
    """A rounding of a value into a format."""

    format: FormatRef
    """The format the value is rounded to."""
    rounding: Rounding
    """Which neighbour it becomes."""
    overflow: Overflow | None = None
    """What a value beyond the largest finite number becomes; default: the format's own rule."""
    subnormals: Literal["keep", "flush"] = "keep"
    """flush: a rounded value below the smallest normal number becomes a zero of its sign."""

    @model_validator(mode="after")
    def _possible(self) -> Register:
        _deterministic(self.rounding)
        if self.overflow == "wrap" and self.format.kind != "integer":
            raise at("overflow", message="only integers wrap around")
        if self.overflow in ("infinity", "ieee") and not self.format.infinity:
            raise at("overflow", message=f"{self.format.name} has no infinity to overflow to")
        if self.overflow == "nan" and self.format.nan_code is None:
            raise at("overflow", message=f"{self.format.name} has no NaN to overflow to")
        if self.format.kind == "float" and not (self.format.zero and self.format.signed and self.format.mantissa_bits):
            raise at("format", message=f"a register needs a sign, a zero and a mantissa; {self.format.name} lacks one")
        return self


class Interleave(Spec):
    """Terms dealt out to several blocks in turn instead of block after block.

    Within each span of `parts` blocks, part `i` takes the terms whose index `j` has `(j // run) % parts == i`.
    """

    run: PositiveInt
    """How many neighbouring terms stay together."""
    parts: int = Field(ge=2)
    """How many blocks the span is dealt to."""


class Accumulator(Spec):
    """How the running value takes part in a stage's sum, where it differs from the other terms."""

    fraction_bits: int | None = Field(default=None, ge=0, le=128)
    """Fraction bits kept of the running value; default: those of the stage."""
    drop_beyond: int | None = Field(default=None, ge=0)
    """The running value is left out when its exponent is more than this far below the largest one."""


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, dict | Register) else value


class Stage(Spec):
    """One sum: which terms, how they are aligned, and what the result is rounded to."""

    terms: PositiveInt
    """Results of the stage below (products, for the first stage) that are summed at a time."""
    interleave: Interleave | None = None
    """How terms are dealt to blocks; default: neighbours together."""
    accumulator: bool | Accumulator = False
    """Whether the running value is a term of the sum: C in the last stage, in others a value that starts at zero."""
    chain: PositiveInt | None = None
    """Blocks that a stage below the last adds to its running value before that goes up. The last stage has no end."""
    fraction_bits: int | None = Field(default=None, ge=0, le=128)
    """Fraction bits each term keeps below the largest exponent; default: the sum is exact."""
    rounding: Rounding | None = None
    """How a term loses the bits below that; `to-odd` keeps a sticky bit."""
    zero_exponent: int | None = None
    """The exponent with which a zero term counts when the largest is sought; default: it does not count."""
    result: Annotated[tuple[Register, ...], BeforeValidator(_one_or_many)] = ()
    """The roundings of the sum, one after the other; default: it goes up exact, with the exponent it was aligned to."""
    exponent: int | None = None
    """The exponent with which an unrounded sum goes up, as out of a fixed-point adder; default: the largest among its
    terms. A sum of nothing but zeros goes up as a zero either way."""
    zero: Literal["positive", "ieee"] = "positive"
    """Sign of a zero sum: always plus, or that of its terms where they agree, else plus (IEEE 754 6.3)."""

    @property
    def aligned(self) -> bool:
        return self.fraction_bits is not None

    @property
    def accumulator_fraction_bits(self) -> int | None:
        own = self.accumulator.fraction_bits if isinstance(self.accumulator, Accumulator) else None
        return self.fraction_bits if own is None else own

    @property
    def drop_beyond(self) -> int | None:
        return self.accumulator.drop_beyond if isinstance(self.accumulator, Accumulator) else None

    @property
    def inputs(self) -> int:
        """Results of the stage below that make one result (the last stage: one step)."""
        return self.terms * (self.chain or 1)

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if self.aligned and self.rounding is None:
            raise at("fraction_bits", message="`fraction_bits` cuts terms off, so `rounding` must say how",
                     hint="for instance rounding: toward-zero")
        if not self.aligned:
            for field in ("rounding", "zero_exponent"):
                if getattr(self, field) is not None:
                    raise at(field, message=f"`{field}` has no meaning in an exact sum",
                             hint=f"give fraction_bits, or take {field} away")
            if isinstance(self.accumulator, Accumulator):
                raise at("accumulator", message="an exact sum takes the accumulator whole",
                         hint="accumulator: true")
        if self.rounding is not None:
            _deterministic(self.rounding)
        if self.exponent is not None and self.result:
            raise at("exponent", message="a rounded result has the exponent of its format, not a fixed one",
                     hint="drop `exponent` or `result`")
        if self.chain and not self.accumulator:
            raise at("chain", message="a chain of blocks needs a running value", hint="accumulator: true")
        if self.chain and not self.result:
            raise at("chain", message="a running value needs a `result` to be kept in")
        return self


class ScaleOperand(Spec):
    """Where one operand's scales come from."""

    group: tuple[PositiveInt, PositiveInt]
    """Rows and columns that share a scale, in the operand's own orientation: A is (M, K), B is (K, N)."""
    format: FormatRef
    """Number format of the scales."""


class Scaling(Spec):
    """Group scales inside the instruction: every term is multiplied by the scales of its row, column and group of K.

    Multiplying a term multiplies its value by the scale's significand and adds the scale's exponent to the term's.
    With a power-of-two format that is all: the scales are added to the exponents.
    """

    a: ScaleOperand | None = None
    b: ScaleOperand | None = None
    onto: str = "products"
    """What is multiplied: `products`, or the results of the stage of this name."""
    product: Register | None = None
    """Rounding of scale_a * scale_b before they are applied; default: exact."""
    result: Register | None = None
    """Rounding of the scaled term; default: it goes up exact."""

    @model_validator(mode="after")
    def _needed(self) -> Scaling:
        if self.a is None and self.b is None:
            raise at(message="`scale` needs the scales of `a`, of `b`, or of both")
        if self.product and not (self.a and self.b):
            raise at("product", message="there is no product of scales: only one operand has them")
        return self


class Shape(Spec):
    """Rows, columns and depth of one instruction: D (m, n) = A (m, k) B (k, n) + C (m, n)."""

    m: PositiveInt
    n: PositiveInt
    k: PositiveInt


class Instruction(Spec):
    """A matrix multiply-accumulate instruction, real or proposed: D = A B + C."""

    name: str = ""
    """The catalogue's or the proposal's name."""
    description: str = ""
    shape: Shape
    a: FormatRef
    b: FormatRef
    accumulator: FormatRef
    """Format of C and D as they are stored."""
    scale: Scaling | None = None
    stages: dict[str, Stage] = Field(min_length=1)
    """The sums, from the products up, each under a name of the author's choice."""
    nan: int | None = Field(default=None, ge=0)
    """The code written for a NaN; default: the accumulator format's."""
    infinite_from: int | None = None
    """A product of at least 2 to this power is an infinity; default: products are exact however large."""
    flush_inputs: bool = False
    """Whether subnormals of A, B and C, and negative zeros, are read as +0."""
    source: str = ""
    """Where the rules come from."""
    checked: str = ""
    """What the rules were checked against."""

    @property
    def nan_code(self) -> int | None:
        return self.accumulator.nan_code if self.nan is None else self.nan

    @cached_property
    def span(self) -> int:
        """Products in one step of the last stage; the running accumulator is a register value between steps."""
        return self.products_per_result(len(self.stages) - 1)

    def products_per_result(self, index: int) -> int:
        """How many products one result of stage number `index` sums (-1: one product itself)."""
        count = 1
        for stage in list(self.stages.values())[: index + 1]:
            count *= stage.inputs
        return count

    @property
    def scaled_stage(self) -> int | None:
        """Number of the stage whose results are scaled, -1 for the products, None without scales."""
        if self.scale is None:
            return None
        return -1 if self.scale.onto == "products" else list(self.stages).index(self.scale.onto)

    # -- contradictions --------------------------------------------------------------------------------------------

    @model_validator(mode="after")
    def _consistent(self) -> Instruction:
        self._check_operands()
        self._check_stages()
        self._check_scale()
        return self

    def _check_operands(self) -> None:
        if {self.a.kind, self.b.kind} == {"float", "integer"}:
            raise at("b", message=f"operands {self.a.name} and {self.b.name} mix floating point with integers")
        if not (self.a.zero and self.b.zero):
            offender = "b" if self.a.zero else "a"
            raise at(offender, message="an operand format needs a zero: ue8m0 is for scales")
        if self.a.kind == "integer" and self.accumulator.kind == "float":
            raise at("accumulator", message=f"integer products accumulate in an integer, not {self.accumulator.name}",
                     hint="accumulator: int32")
        if self.a.kind == "float" and self.accumulator.kind == "integer":
            raise at("accumulator", message=f"{self.accumulator.name} cannot hold floating-point products")
        if self.accumulator.kind == "float" and not (self.accumulator.signed and self.accumulator.zero):
            raise at("accumulator", message=f"an accumulator needs a sign and a zero; {self.accumulator.name} lacks one")
        if self.nan is not None:
            fits = self.nan < 1 << self.accumulator.storage_bits
            if not fits or decode(self.accumulator, self.nan).special != "nan":
                raise at("nan", message=f"{self.nan:#x} is not a NaN of {self.accumulator.name}")

    def _check_stages(self) -> None:
        *inner, last = self.stages
        for name in inner:
            stage = self.stages[name]
            if stage.accumulator and not stage.chain:
                raise at("stages", name, "accumulator", message=f"stage `{name}` is not the last, so its running value "
                         "starts at zero and must end somewhere", hint="chain: how many blocks it adds; or C belongs in "
                         f"`{last}`")
        final = self.stages[last]
        if not final.accumulator:
            raise at("stages", last, message=f"the last stage, `{last}`, does not add C", hint="accumulator: true")
        if final.chain:
            raise at("stages", last, "chain", message="the last stage runs on to the end of K", hint="drop `chain`")
        if not final.result:
            raise at("stages", last, message=f"the last stage, `{last}`, needs a `result`: D has a format")
        kept = final.result[-1].format
        if not self.accumulator.holds(kept):
            raise at("stages", last, "result", message=f"the register {kept.name} does not fit the accumulator "
                     f"{self.accumulator.name}")
        if self.a.kind == "integer":
            for name, stage in self.stages.items():
                if stage.aligned:
                    raise at("stages", name, "fraction_bits", message="integers are summed exactly")
                if any(r.format.kind == "float" for r in stage.result):
                    raise at("stages", name, "result", message="integer sums go into integer registers")
        if self.shape.k % self.span:
            raise at("shape", "k", message=f"k = {self.shape.k} is not a multiple of the {self.span} products that the "
                     "stages sum in one step", hint=f"k: {-(-self.shape.k // self.span) * self.span}, or other `terms`")
        below = self.shape.k
        for name, stage in self.stages.items():
            parts = stage.interleave.parts if stage.interleave else 1
            if below % (stage.terms * parts):
                raise at("stages", name, "interleave", message=f"{parts} parts of {stage.terms} terms do not divide the "
                         f"{below} terms of one instruction")
            if stage.interleave and stage.terms % stage.interleave.run:
                raise at("stages", name, "interleave", message=f"runs of {stage.interleave.run} do not fill a block of "
                         f"{stage.terms} terms")
            below //= stage.inputs

    def _check_scale(self) -> None:
        scale = self.scale
        if scale is None:
            return
        if self.a.kind == "integer":
            raise at("scale", message="integer instructions have no group scales")
        inner = list(self.stages)[:-1]
        if scale.onto != "products" and scale.onto not in inner:
            if scale.onto in self.stages:
                raise at("scale", "onto", message=f"`{scale.onto}` is the last stage: C would be scaled with the sum",
                         hint="scale an earlier stage and add C in one of its own")
            raise at("scale", "onto", message=f"no stage is called `{scale.onto}`",
                     hint=f"one of: {', '.join(['products', *inner])}")
        index = self.scaled_stage
        assert index is not None
        for operand, k_axis in (("a", 1), ("b", 0)):
            side: ScaleOperand | None = getattr(scale, operand)
            if side is None:
                continue
            # Blocks of interleaved stages reach over the whole span that is dealt out.
            reach = self._reach(index)
            if side.group[k_axis] % reach:
                raise at("scale", operand, "group", message=f"a scale of {operand.upper()} covers "
                         f"{side.group[k_axis]} of K, but each result of `{scale.onto}` sums over {reach}: they would "
                         "not share one scale", hint=f"a multiple of {reach}, or scale the products")

    def _reach(self, index: int) -> int:
        """Length of the stretch of K from which one result of stage `index` takes its products."""
        reach = 1
        for stage in list(self.stages.values())[: index + 1]:
            reach *= stage.inputs if not stage.interleave else max(stage.inputs, stage.terms * stage.interleave.parts)
        return reach


def promoted(instruction: Instruction, every: int, scale: Scaling | None = None) -> Instruction:
    """The software step on CUDA cores around an instruction, in the same language.

    The instruction starts from zero, runs over `every` products, and its result (times the group scales, if given)
    is added to an FP32 accumulator by one fused multiply-add, rounded to nearest even.
    Source: DeepSeek-V3 3.3.2 and 3.5.2; DeepGEMM's FP8 kernels do the same.
    Raises InputError when `every` is not a multiple of the instruction's span, or scales are already inside.
    """
    if every % instruction.span or every < instruction.span:
        raise InputError.of(f"promotion every {every} products does not fit {instruction.name}",
                            f"a multiple of {instruction.span}")
    if instruction.scale is not None:
        raise InputError.of(f"{instruction.name} scales its terms itself; promotion would scale them twice")
    fp32 = Register(format=FORMATS["fp32"], rounding=Rounding.NEAREST_EVEN)
    *_, last = instruction.stages
    chained = instruction.stages[last].model_copy(update={"chain": every // instruction.span})
    if scale is not None:
        scale = scale.model_copy(update={"onto": last, "product": fp32 if scale.a and scale.b else None})
    return Instruction(
        name=f"{instruction.name} promoted every {every}",
        description=f"{instruction.name}, promoted to FP32 on CUDA cores every {every} of K",
        shape=Shape(m=instruction.shape.m, n=instruction.shape.n, k=max(every, instruction.shape.k)),
        a=instruction.a,
        b=instruction.b,
        accumulator=FORMATS["fp32"],
        scale=scale,
        stages={**instruction.stages, last: chained,
                "promote": Stage(terms=1, accumulator=True, result=(fp32,), zero="ieee")},
        infinite_from=instruction.infinite_from,
        source="DeepSeek-V3 technical report 3.3.2; instruction: " + instruction.source,
    )
