"""The parts of the spec language that describe one sum: references to formats, registers, stages.

`golden.py` defines what each field does. Here fields are declared, and contradictions between them are refused.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from isa_model.diagnostics import InputError, at, suggest, together
from isa_model.field_docs import Described
from isa_model.formats import Format, Overflow, later, named
from isa_model.limits import MOST_ROUNDINGS, Count, Distance, Exponent, FractionBits, Range
from isa_model.rounding import Rounding


def _format(value: Any, spelt_out: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, Format):
        return value
    if not isinstance(value, str):
        return spelt_out(value)
    try:
        return named(value)
    except InputError as error:
        problem = error.problems[0]
        raise PydanticCustomError("format", "{text}", {"text": problem.message, "hint": problem.hint}) from None


def _format_name(fmt: Format) -> Any:
    return fmt.name if is_named(fmt) else fmt.model_dump(exclude_defaults=True)


def is_named(fmt: Format) -> bool:
    """Return whether the format's name alone determines it."""
    try:
        return named(fmt.name) == fmt
    except InputError:
        return False


FormatRef = Annotated[Format, WrapValidator(_format), PlainSerializer(_format_name)]
"""A format by name (`e4m3`, `fp32`), inline (`e8m13`), or spelled out field by field."""


def _deterministic(rounding: Any) -> Any:
    """Refuse `stochastic`: random bits are drawn for the registers of stages alone."""
    if rounding in _ROUNDINGS:
        return rounding
    hint = suggest(str(rounding), _ROUNDINGS) or f"one of: {', '.join(_ROUNDINGS)}"
    if rounding == Rounding.STOCHASTIC:
        raise at(message="nothing here draws random numbers: `stochastic` is for the `result` of a stage", hint=hint)
    raise at(message=f"`{rounding}` is not allowed here", hint=hint)


_ROUNDINGS = [str(rounding) for rounding in Rounding if rounding is not Rounding.STOCHASTIC]
Deterministic = Annotated[
    Rounding, BeforeValidator(_deterministic), WithJsonSchema({"enum": _ROUNDINGS, "type": "string"})
]
"""A rounding mode that needs no random numbers."""


def _known(rounding: Any) -> Any:
    return rounding if rounding == Rounding.STOCHASTIC else _deterministic(rounding)


class Spec(Described):
    """Base of every part of a spec: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Register(Spec):
    """A format that a value is rounded to, and how."""

    format: FormatRef
    """Format the value is rounded to."""
    rounding: Annotated[Rounding, BeforeValidator(_known)]
    """Rounding mode."""
    random_bits: Annotated[int, Range(1, 32)] | None = later(None)
    """Random bits of a `stochastic` rounding: as many of the first bits below the last place count, and a random number of
    that many bits is added to them. It is the upper bits of Philox4x32-10's first word; the key is the seed, an operand; the
    counter is the element's row and column, the number of the stage's block along K, and the number of the register."""
    overflow: Overflow | None = None
    """Result for a value beyond the largest finite number; default: the format's own rule. `saturate` and `nan` replace
    infinities, too."""
    subnormals: Literal["keep", "flush"] = "keep"
    """Result for a rounded value below the smallest normal number: itself (keep), or a zero of its sign (flush)."""

    @model_validator(mode="after")
    def _possible(self) -> Register:
        if (self.rounding is Rounding.STOCHASTIC) != (self.random_bits is not None):
            known = self.random_bits is not None
            message = f"`random_bits` has no meaning with rounding `{self.rounding}`"
            raise at(
                "random_bits" if known else "rounding",
                message=message if known else "`stochastic` draws random bits: `random_bits` must say how many",
                hint="rounding: stochastic" if known else "for instance `random_bits: 16`",
            )
        if self.random_bits is not None and self.format.kind == "integer":
            raise at("rounding", message="integer sums are whole: nothing is rounded", hint="rounding: nearest-even")
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
        if self.format.kind == "table":
            message = f"{self.format.name} is a table of numbers, which are for operands and scales"
            raise at("format", message=message, hint="a floating-point or integer format")
        if self.format.kind == "float" and not (self.format.zero and self.format.signed and self.format.mantissa_bits):
            message = f"a register needs a sign, a zero and a mantissa; {self.format.name} lacks one"
            raise at("format", message=message)
        return self


class Interleave(Spec):
    """Terms dealt out to several blocks in turn, instead of filling one block after the other.

    Within each span of `parts` blocks (or chains of blocks), number `i` takes the terms whose index `j` has
    `(j // run) % parts == i`.
    """

    run: Count
    """Number of neighbouring terms that stay together."""
    parts: Annotated[int, Range(2, 1 << 16)]
    """Number of blocks (or chains) that take turns."""
    to: Literal["blocks", "chains"] = later("blocks")
    """What takes turns: `blocks`, or whole `chains` of blocks. The blocks of a chain share out its terms in order."""
    hand: Count | None = later(None)
    """Number of terms gathered in one turn: several blocks, or chains, one after the other; default: those of one."""


class Accumulator(Spec):
    """Rules for the running value in a stage's sum, where they differ from those for the other terms."""

    fraction_bits: FractionBits | None = None
    """Fraction bits kept of the running value; default: those of the stage."""
    drop_beyond: Distance | None = None
    """Distance below the largest exponent beyond which the running value is left out; default: it never is."""
    offset: Exponent = later(0)
    """Number added to the running value's exponent where the largest is looked for. RDNA's is -2: products have
    two integer bits, so that the same place holds a running value whose exponent is two larger."""


class Remainder(Spec):
    """A second register beside the running value, for what rounding to `result` lost. It starts from zero.

    Both registers go from one instruction along K to the next. At the end of K their sum is rounded to D's format, in the mode
    of the last register.
    """

    format: FormatRef
    """Format of the remainder."""
    rounding: Deterministic
    """Rounding mode of the remainder."""
    joins: Literal["sum", "block", "end"] = "sum"
    """Place where the remainder is added. sum: it is one more term of the next sum (two BF16 registers as one number). block:
    it is added to the next block, their sum is rounded to the remainder's format, and that is added to the running value
    (Kahan). end: what later sums lose is added to it, and it joins the running value at the end of K (cascaded two-sum)."""

    @model_validator(mode="after")
    def _possible(self) -> Remainder:
        fmt = self.format
        if fmt.kind != "float":
            message = f"{fmt.name} cannot hold what a floating-point register loses"
            raise at("format", message=message, hint="a floating-point format")
        if not (fmt.zero and fmt.signed and fmt.mantissa_bits):
            raise at("format", message=f"a remainder needs a sign, a zero and a mantissa; {fmt.name} lacks one")
        return self

    @cached_property
    def register(self) -> Register:
        """The remainder's register; beyond its range it keeps the largest number."""
        return Register(format=self.format, rounding=self.rounding, overflow="saturate")


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, dict | Register) else value


class Stage(Spec):
    """One sum: which terms it adds, how they are aligned, and what the result is rounded to."""

    terms: Count
    """Number of results of the stage below (of products, for the first stage) in one sum."""
    interleave: Interleave | None = None
    """Distribution of the terms over blocks; default: neighbours form a block."""
    accumulator: bool | Accumulator = False
    """True if the running value is a term of the sum. It is C in the last stage; in others it starts at zero."""
    chain: Count | None = None
    """Number of blocks that a stage below the last adds to its running value before the result is passed on. The last
    stage adds blocks to the end of K."""
    fraction_bits: FractionBits | None = None
    """Fraction bits each term keeps below the largest exponent; default: the sum is exact."""
    rounding: Deterministic | None = None
    """Rounding mode of a term to those fraction bits; `to-odd` keeps a sticky bit."""
    zero_exponent: Exponent | None = None
    """Exponent that a zero term contributes to the largest exponent; default: none."""
    result: Annotated[tuple[Register, ...], BeforeValidator(_one_or_many)] = Field(
        default=(), max_length=MOST_ROUNDINGS
    )
    """Registers the sum is rounded to, one after the other; default: it is passed on exact, with the exponent it was
    aligned to."""
    exponent: Exponent | None = None
    """Exponent with which an unrounded sum is passed on, as from a fixed-point adder; default: the largest among its
    terms. A sum of zeros alone is passed on as a zero in either case."""
    zero: Literal["positive", "ieee"] = "positive"
    """Sign of a zero sum. positive: always plus. ieee: that of its terms if they agree, else plus (IEEE 754 6.3)."""
    opposing: Literal["negate", "complement"] = later("negate")
    """Terms whose sign is not the running value's. negate: they are subtracted. complement: their kept bits are inverted, not
    negated (RDNA3): each takes away one more unit of the last place kept. Zeros do, too, unless every term is a zero."""
    remainder: Remainder | None = later(None)
    """Register beside the running value for what rounding to `result` lost; default: it is lost."""

    @property
    def aligned(self) -> bool:
        """True if terms are aligned to the largest exponent; if not, the sum is exact."""
        return self.fraction_bits is not None

    @property
    def accumulator_fraction_bits(self) -> int | None:
        """Fraction bits kept of the running value; None in an exact sum."""
        own = self.accumulator.fraction_bits if isinstance(self.accumulator, Accumulator) else None
        return self.fraction_bits if own is None else own

    @property
    def drop_beyond(self) -> int | None:
        """Distance below the largest exponent beyond which the running value is left out; None if it never is."""
        return self.accumulator.drop_beyond if isinstance(self.accumulator, Accumulator) else None

    @property
    def offset(self) -> int:
        """Number added to the running value's exponent where the largest is looked for."""
        return self.accumulator.offset if isinstance(self.accumulator, Accumulator) else 0

    @property
    def hand(self) -> int:
        """Number of terms that one turn gathers: those of a block or, `to: chains`, of a chain, unless `interleave` says."""
        return (self.interleave.hand if self.interleave else None) or self._least_hand

    @property
    def _least_hand(self) -> int:
        return self.inputs if self.interleave and self.interleave.to == "chains" else self.terms

    @property
    def dealt(self) -> int:
        """Number of terms that are dealt out together: those of one block without `interleave`."""
        return self.hand * (self.interleave.parts if self.interleave else 1)

    @property
    def inputs(self) -> int:
        """Number of results of the stage below that one result of this stage sums (for the last stage: one step)."""
        return self.terms * (self.chain or 1)

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if self.aligned and self.rounding is None:
            message = "`fraction_bits` shortens terms, so `rounding` must say how"
            raise at("fraction_bits", message=message, hint="for instance `rounding: toward-zero`")
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
                message, hint = "an exact sum shortens or drops no accumulator", "accumulator: true"
                raise at("accumulator", message=message, hint=hint)
        if self.opposing == "complement":
            self._check_complement()
        if self.remainder:
            self._check_remainder(self.remainder)
        if self.interleave and self.interleave.to == "chains" and (self.chain or 1) < 2:
            raise at(
                "interleave", "to", message="there are no chains of several blocks", hint="`to: blocks`, or a `chain`"
            )
        if self.interleave and max(self.terms, self.interleave.run) % min(self.terms, self.interleave.run):
            message = f"runs of {self.interleave.run} and blocks of {self.terms} terms do not divide one another"
            raise at("interleave", "run", message=message, hint="a divisor or a multiple of `terms`")
        if self.interleave and self.hand % self._least_hand:
            message = f"a hand of {self.hand} terms is not made of whole {self.interleave.to} of {self._least_hand}"
            raise at("interleave", "hand", message=message, hint=f"a multiple of {self._least_hand}")
        if self.interleave and self.interleave.run == self.hand:
            what = "chains" if self.hand > self.terms else "blocks"
            message = f"runs of {self.interleave.run} fill whole {what} of {self.hand}: nothing is interleaved"
            raise at("interleave", message=message, hint="drop `interleave`, or use shorter runs")
        if self.exponent is not None and self.result:
            message = "a rounded result has the exponent of its format, not a fixed one"
            raise at("exponent", message=message, hint="drop `exponent` or `result`")
        if self.chain and not self.accumulator:
            raise at("chain", message="a chain of blocks needs a running value", hint="accumulator: true")
        if self.chain and not self.result:
            raise at("chain", message="a chain needs a `result`: the register that keeps the running value")
        return self

    def _check_complement(self) -> None:
        if not self.aligned:
            message = "inverted bits need a last place, which an exact sum does not have"
            raise at("opposing", message=message, hint="give `fraction_bits`, or `opposing: negate`")
        if not self.accumulator:
            message = "terms oppose the sign of the running value, and there is none"
            raise at("opposing", message=message, hint="accumulator: true")
        if self.zero != "positive":
            raise at("opposing", message="inverted bits leave no negative zero", hint="zero: positive")

    def _check_remainder(self, remainder: Remainder) -> None:
        if not self.accumulator or not self.result:
            message = "a remainder is what rounding the running value to `result` loses"
            raise at("remainder", message=message, hint="`accumulator: true` and a `result`")
        for register in self.result:
            if register.format.kind == "integer":
                raise at("remainder", message="integer sums are whole: nothing is lost", hint="drop `remainder`")
            if register.random_bits:
                message = (
                    "a stochastic `result` has no remainder: at the end of K no random bits are drawn for their sum"
                )
                raise at("remainder", message=message, hint="another rounding of `result`")
        if remainder.joins == "block" and self.aligned:
            message = "a block that is aligned to the running value cannot be rounded with the remainder first"
            raise at("remainder", "joins", message=message, hint="`joins: sum`, or no `fraction_bits`")
