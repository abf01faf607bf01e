"""The parts of the spec language that say one sum: formats by reference, registers, stages.

`golden.py` is the definition of what each field does; here they are declared and contradictions refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from isa_model.diagnostics import InputError, at, suggest, together
from isa_model.formats import Format, Overflow, named
from isa_model.limits import MOST_ROUNDINGS, Count, Distance, Exponent, FractionBits, Range
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


def _deterministic(rounding: Any) -> Any:
    """Refuse `stochastic`: neither an instruction nor a cast of a path has a random operand."""
    if rounding in _ROUNDINGS:
        return rounding
    hint = suggest(str(rounding), _ROUNDINGS) or f"one of: {', '.join(_ROUNDINGS)}"
    if rounding == Rounding.STOCHASTIC:
        raise at(message="nothing here draws random numbers: `stochastic` is for `encode_array` alone", hint=hint)
    raise at(message=f"`{rounding}` is not allowed here", hint=hint)


_ROUNDINGS = [str(rounding) for rounding in Rounding if rounding is not Rounding.STOCHASTIC]
Deterministic = Annotated[
    Rounding, BeforeValidator(_deterministic), WithJsonSchema({"enum": _ROUNDINGS, "type": "string"})
]
"""A rounding of the spec language: none that draws random numbers."""


class Spec(BaseModel):
    """Base of every part of a spec: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Register(Spec):
    """A rounding of a value into a format."""

    format: FormatRef
    """The format the value is rounded to."""
    rounding: Deterministic
    """Which neighbour it becomes."""
    overflow: Overflow | None = None
    """What a value beyond the largest finite number becomes; default: the format's own rule."""
    subnormals: Literal["keep", "flush"] = "keep"
    """flush: a rounded value below the smallest normal number becomes a zero of its sign."""

    @model_validator(mode="after")
    def _possible(self) -> Register:
        if self.subnormals == "flush" and self.format.kind == "integer":
            raise at("subnormals", message="an integer has no subnormals")
        if self.overflow == "wrap" and self.format.kind != "integer":
            raise at("overflow", message="only integers wrap around")
        if self.overflow in ("infinity", "ieee") and not self.format.infinity:
            raise at(
                "overflow", message=f"{self.format.name} has no infinity to overflow to", hint="`overflow: saturate`"
            )
        if self.overflow == "nan" and self.format.nan_code is None:
            raise at("overflow", message=f"{self.format.name} has no NaN to overflow to", hint="`overflow: saturate`")
        if self.format.kind == "float" and not (self.format.zero and self.format.signed and self.format.mantissa_bits):
            raise at(
                "format",
                message=f"a register needs a sign, a zero and a mantissa; {self.format.name} lacks one",
            )
        return self


class Interleave(Spec):
    """Terms dealt out to several blocks in turn instead of block after block.

    Within each span of `parts` blocks, part `i` takes the terms whose index `j` has `(j // run) % parts == i`.
    """

    run: Count
    """How many neighbouring terms stay together."""
    parts: Annotated[int, Range(2, 1 << 16)]
    """How many blocks the span is dealt to."""


class Accumulator(Spec):
    """How the running value takes part in a stage's sum, where it differs from the other terms."""

    fraction_bits: FractionBits | None = None
    """Fraction bits kept of the running value; default: those of the stage."""
    drop_beyond: Distance | None = None
    """The running value is left out when its exponent is more than this far below the largest one."""


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, dict | Register) else value


class Stage(Spec):
    """One sum: which terms, how they are aligned, and what the result is rounded to."""

    terms: Count
    """Results of the stage below (products, for the first stage) that are summed at a time."""
    interleave: Interleave | None = None
    """How terms are dealt to blocks; default: neighbours together."""
    accumulator: bool | Accumulator = False
    """Whether the running value is a term of the sum: C in the last stage, in others a value that starts at zero."""
    chain: Count | None = None
    """Blocks that a stage below the last adds to its running value before that goes up. The last stage has no end."""
    fraction_bits: FractionBits | None = None
    """Fraction bits each term keeps below the largest exponent; default: the sum is exact."""
    rounding: Deterministic | None = None
    """How a term loses the bits below that; `to-odd` keeps a sticky bit."""
    zero_exponent: Exponent | None = None
    """The exponent with which a zero term counts when the largest is sought; default: it does not count."""
    result: Annotated[tuple[Register, ...], BeforeValidator(_one_or_many)] = Field(
        default=(), max_length=MOST_ROUNDINGS
    )
    """The roundings of the sum, one after the other; default: it goes up exact, with the exponent it was aligned to."""
    exponent: Exponent | None = None
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
            raise at(
                "fraction_bits",
                message="`fraction_bits` cuts terms off, so `rounding` must say how",
                hint="for instance `rounding: toward-zero`",
            )
        if not self.aligned:
            faults = [
                at(
                    field,
                    message=f"`{field}` has no meaning in an exact sum",
                    hint=f"`{field}: null`, or give fraction_bits",
                )
                for field in ("rounding", "zero_exponent")
                if getattr(self, field) is not None
            ]
            if faults:
                raise together(faults)
            if isinstance(self.accumulator, Accumulator):
                raise at(
                    "accumulator",
                    message="an exact sum takes the accumulator whole",
                    hint="accumulator: true",
                )
        if self.interleave and self.interleave.run == self.terms:
            raise at(
                "interleave",
                message=f"runs of {self.interleave.run} are whole blocks of {self.terms}: nothing is dealt out",
                hint="drop `interleave`, or shorter runs",
            )
        if self.exponent is not None and self.result:
            raise at(
                "exponent",
                message="a rounded result has the exponent of its format, not a fixed one",
                hint="drop `exponent` or `result`",
            )
        if self.chain and not self.accumulator:
            raise at("chain", message="a chain of blocks needs a running value", hint="accumulator: true")
        if self.chain and not self.result:
            raise at("chain", message="a running value needs a `result` to be kept in")
        return self
