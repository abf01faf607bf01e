"""Number formats as data: one class says what a code's bits mean, a list of values is the catalogue.

A code is an unsigned integer laid out, from the top, as

    [ignored high bits] [sign] [exponent field] [mantissa field] [ignored low bits]

`decode` and `encode` of `codec.py` read nothing but these fields.
"""

from __future__ import annotations

import re
from functools import cache, cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from isa_model.aliases import our_name
from isa_model.diagnostics import InputError, at, suggest
from isa_model.field_docs import Described
from isa_model.limits import HIGHEST_POWER, LOWEST_POWER, Range
from isa_model.tables import MOST_VALUES, TABLES, Entry, entry, extent, finite

Overflow = Literal["ieee", "infinity", "nan", "saturate", "wrap"]


def _printable(name: str) -> str:
    if not (name and name.isprintable() and name == name.strip() and len(name) <= 64):
        raise at(message=f"{name[:64]!r} cannot be a name", hint="1 to 64 characters on one line")
    return name


def later(default: Any, **fields: Any) -> Any:
    """Return a field that is written only if it is not the default: files of before, and their hashes, stay as they are."""
    return Field(default=default, exclude_if=lambda value: value == default, **fields)


class Format(Described):
    """One number format: binary floating point, two's complement integer, or a table of numbers.

    A floating-point code with exponent field `x > 0` and mantissa field `f` has the magnitude
    `(1 + f / 2**mantissa_bits) * 2**(x - bias)`. With `x == 0` it is the subnormal
    `(f / 2**mantissa_bits) * 2**(1 - bias)`, unless `zero` is false.
    Source of the rules: IEEE 754-2019 3.4; OCP 8-bit floating point 1.0 and microscaling (MX) 1.0; PTX ISA 9.7.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, AfterValidator(_printable)]
    kind: Literal["float", "integer", "table"] = "float"
    signed: bool = True
    """True if a float has a sign bit, or an integer is two's complement."""
    exponent_bits: Annotated[int, Range(0, 11)] = 0
    mantissa_bits: Annotated[int, Range(0, 64)]
    """Stored significand bits of a float, at most 52; all bits of an integer, its sign included; of a table, computed."""
    values: tuple[Annotated[Entry, BeforeValidator(entry)], ...] = later((), max_length=MOST_VALUES)
    """Numbers of a `table`, one for each code from 0 up, a power of two of them; `nan`, `infinity` and `-infinity` are allowed.
    Each is exact and aligns with the exponent of its leading bit. Such formats are for operands and scales. A number is
    rounded to a neighbour in the table; what lies beyond the largest or smallest becomes that one."""
    bias: Annotated[int, Range(-HIGHEST_POWER, 1 - LOWEST_POWER)] = 0
    """Exponent bias. All numbers must also be numbers of FP64: multiples of 2**-1074 below 2**1024."""
    infinity: bool = False
    """True if the all-ones exponent field with a zero mantissa field is an infinity."""
    nan: Literal["ieee", "all-ones", "negative-zero", "none"] = "none"
    """The codes that are NaN. ieee: an all-ones exponent, except the infinity. all-ones: only the all-ones code, of either
    sign. negative-zero: only the code of a negative zero. none: no code."""
    zero: bool = True
    """True if exponent field 0 holds zero and the subnormals; false if it holds ordinary numbers, as in UE8M0."""
    overflow: Overflow = "ieee"
    """Result of a conversion beyond the largest finite number, unless the conversion has a rule of its own.
    ieee: infinity or the largest number, depending on the rounding direction (IEEE 754 7.4)."""
    high_padding: Annotated[int, Range(0, 32)] = 0
    """Bits above the sign that are ignored on reading and written as 0 (the sign bit of UE4M3)."""
    low_padding: Annotated[int, Range(0, 32)] = 0
    """Bits below the mantissa that are ignored on reading and written as 0 (TF32 in a 32-bit register)."""

    @model_validator(mode="before")
    @classmethod
    def _measured(cls, data: Any) -> Any:
        """Complete a table by the fields that its numbers imply."""
        if not (isinstance(data, dict) and data.get("kind") == "table"):
            return data
        try:
            return {**_table_fields(tuple(map(entry, data.get("values", ())))), **data}
        except (TypeError, ValueError, OverflowError):  # the checks of `values` say what is wrong
            return {"mantissa_bits": 0, **data}

    @model_validator(mode="after")
    def _consistent(self) -> Format:
        self._check_name()
        if self.kind == "table" or self.values:
            self._check_table()
            return self
        if self.bits > 64:
            raise at("mantissa_bits", message=f"a code of {self.bits} bits", hint="at most 64, ignored bits included")
        if self.kind == "integer":
            if self.exponent_bits or self.bias or self.infinity or self.nan != "none":
                raise at("kind", message="an integer has no exponent, bias, infinity or NaN")
            if self.overflow not in ("saturate", "wrap"):
                raise at("overflow", message="an integer overflows by `saturate` or `wrap`")
            if self.mantissa_bits < 1 + self.signed:
                raise at("mantissa_bits", message="an integer needs at least one bit apart from its sign")
            return self
        if self.exponent_bits < 1:
            raise at("exponent_bits", message="a floating-point format needs at least 1 exponent bit")
        if self.overflow == "wrap":
            raise at("overflow", message="only integers wrap around")
        if self.overflow in ("ieee", "infinity") and not self.infinity:
            raise at("overflow", message=f"overflow `{self.overflow}` needs a format with infinities")
        if self.overflow == "nan" and self.nan == "none":
            raise at("overflow", message="overflow `nan` needs a format with a NaN")
        if self.infinity and self.nan in ("all-ones", "negative-zero"):
            raise at("infinity", message=f"NaN rule `{self.nan}` leaves no code for an infinity")
        if self.nan == "ieee" and self.mantissa_bits == 0 and self.infinity:
            raise at("nan", message="with no mantissa bits the all-ones exponent is the infinity, not a NaN")
        if self.nan == "negative-zero" and not (self.signed and self.zero):
            raise at("nan", message="NaN in place of the negative zero needs a sign and a zero")
        self._check_range()
        return self

    def _check_table(self) -> None:
        if self.kind != "table":
            raise at("values", message="`values` are the numbers of a table", hint="kind: table")
        count = len(self.values)
        if count < 2 or count & (count - 1):
            raise at("values", message=f"a table of {count} numbers", hint="2, 4, 8, ... numbers, one for each code")
        if not any(x > 0 for x, _ in finite(self.values)):
            raise at("values", message="a table needs a number above zero")
        expected = _table_fields(self.values)
        for field in type(self).model_fields:
            wanted = expected.get(field, type(self).model_fields[field].default)
            if field not in ("name", "kind", "values") and getattr(self, field) != wanted:
                raise at(field, message=f"the numbers of a table imply `{field}: {wanted}`", hint=f"drop `{field}`")
        low, high = self.min_lsb_exponent, self.max_exponent
        if low < LOWEST_POWER or high > HIGHEST_POWER or self.mantissa_bits > 52:
            raise at("values", message="a table's numbers must be numbers of FP64")

    def _check_name(self) -> None:
        """Refuse a known format's name for any other format."""
        meant = _fields_of(self.name)
        if meant is None:
            return
        fields = {name: info.default for name, info in type(self).model_fields.items()} | meant
        if any(getattr(self, name) != value for name, value in fields.items() if name != "name"):
            raise at("name", message=f"`{self.name}` is another format's name", hint="choose another name")

    def _check_range(self) -> None:
        if self.mantissa_bits > 52:
            raise at("mantissa_bits", message=f"a significand of {self.mantissa_bits} bits", hint="at most 52, as FP64")
        if self.max_finite_magnitude < 1:
            raise at("exponent_bits", message="no code is left for a number other than zero")
        if self.min_lsb_exponent < LOWEST_POWER or self.max_exponent > HIGHEST_POWER:
            least, most = (
                self.bias + self.max_exponent - HIGHEST_POWER,
                self.bias + self.min_lsb_exponent - LOWEST_POWER,
            )
            message = f"FP64 does not hold all numbers from 2**{self.min_lsb_exponent} to above 2**{self.max_exponent}"
            raise at("bias", message=message, hint=f"a bias from {least} to {most}" if least <= most else "fewer bits")

    # -- what the fields imply ------------------------------------------------------------------------------------

    @cached_property
    def magnitude_bits(self) -> int:
        """Width of the exponent and mantissa fields together, in bits."""
        return self.exponent_bits + self.mantissa_bits

    @cached_property
    def bits(self) -> int:
        """Width of a code in bits, ignored bits included."""
        if self.kind == "table":
            return len(self.values).bit_length() - 1
        sign = int(self.signed and self.kind == "float")
        return self.high_padding + sign + self.magnitude_bits + self.low_padding

    @cached_property
    def storage_bits(self) -> int:
        """Width of the unsigned integer that holds one code in memory: 8, 16, 32 or 64 bits."""
        return max(8, 1 << (self.bits - 1).bit_length())

    @cached_property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number; subnormals share it. In a table, that of the smallest number but zero."""
        if self.kind == "table":
            return extent(self.values)[0]
        return 1 - self.bias if self.zero else -self.bias

    @cached_property
    def max_finite_magnitude(self) -> int:
        """Exponent and mantissa fields of the largest finite number, as one integer; in a table, its code."""
        if self.kind == "table":
            return finite(self.values)[-1][1]
        everything = (1 << self.magnitude_bits) - 1
        if self.kind == "integer":
            return everything >> self.signed
        top_exponent = everything - ((1 << self.mantissa_bits) - 1)
        if self.infinity or self.nan == "ieee":
            return top_exponent - 1
        return everything - 1 if self.nan == "all-ones" else everything

    @property
    def lowest(self) -> int:
        """Lowest number of an integer format."""
        return -self.max_finite_magnitude - 1 if self.signed else 0

    @cached_property
    def max_exponent(self) -> int:
        """Largest exponent of a finite number; for an integer, that of its top bit's weight."""
        if self.kind == "table":
            return extent(self.values)[1]
        if self.kind == "integer":
            return self.mantissa_bits - 1
        return (self.max_finite_magnitude >> self.mantissa_bits) - self.bias

    @cached_property
    def min_lsb_exponent(self) -> int:
        """Exponent of the smallest unit: every finite number is a multiple of 2 to this power."""
        if self.kind == "table":
            return extent(self.values)[2]
        return 0 if self.kind == "integer" else self.min_exponent - self.mantissa_bits

    @cached_property
    def is_whole(self) -> bool:
        """True if every code is a whole number, as in integers, tables of them, and floats whose last place is at least 1."""
        if self.kind == "table":
            return all(not isinstance(x, str) and x.is_integer() for x in self.values)
        return self.min_lsb_exponent >= 0 and self.nan == "none" and not self.infinity

    @property
    def nan_code(self) -> int | None:
        """Code written for a NaN unless an instruction names another: positive, and in IEEE formats quiet, no payload."""
        if self.kind == "table":
            return self.values.index("nan") if "nan" in self.values else None
        magnitude = {
            "ieee": (1 << self.magnitude_bits) - (1 << self.mantissa_bits) + (1 << self.mantissa_bits >> 1),
            "all-ones": (1 << self.magnitude_bits) - 1,
            "negative-zero": 1 << self.magnitude_bits,
            "none": None,
        }[self.nan]
        return None if magnitude is None else magnitude << self.low_padding

    @property
    def zero_code(self) -> int:
        """Code of a zero, with which K is filled up."""
        return self.values.index(0.0) if self.kind == "table" else 0

    @property
    def kept_infinity(self) -> Overflow:
        """Overflow rule under which an infinity stays an infinity, if the format has one."""
        return "infinity" if self.infinity else self.overflow

    def holds(self, other: Format) -> bool:
        """Return whether every finite number of `other` is a number of this format too."""
        if self.kind == "table":
            return self == other
        if self.kind == "integer" or other.kind == "integer":
            same = self.kind == other.kind and self.signed == other.signed
            return same and self.mantissa_bits >= other.mantissa_bits
        return (
            self.signed >= other.signed
            and self.zero >= other.zero
            and self.min_lsb_exponent <= other.min_lsb_exponent
            and self.max_exponent >= other.max_exponent
            and self.mantissa_bits >= other.mantissa_bits
        )


def _float(exponent_bits: int, mantissa_bits: int, **fields: Any) -> dict[str, Any]:
    """Return the fields of a floating-point format with the IEEE bias and, by default, IEEE infinities and NaNs."""
    rule: dict[str, Any] = {"bias": (1 << (exponent_bits - 1)) - 1, "nan": "ieee", "infinity": True, **fields}
    rule.setdefault("overflow", "ieee" if rule["infinity"] else "saturate")
    return {"exponent_bits": exponent_bits, "mantissa_bits": mantissa_bits, **rule}


_FINITE: dict[str, Any] = {"infinity": False, "nan": "none"}
_FN: dict[str, Any] = {"infinity": False, "nan": "all-ones"}
_FNUZ: dict[str, Any] = {"infinity": False, "nan": "negative-zero"}

_FIELDS: dict[str, dict[str, Any]] = {
    "fp64": _float(11, 52),
    "fp32": _float(8, 23),
    "tf32": _float(8, 10, low_padding=13),
    "bf16": _float(8, 7),
    "fp16": _float(5, 10),
    # OCP names: E4M3 has no infinity and one NaN, E5M2 is IEEE-like, 6- and 4-bit formats are all finite.
    "e4m3": _float(4, 3, **_FN),
    "e5m2": _float(5, 2),
    "e3m2": _float(3, 2, **_FINITE),
    "e2m3": _float(2, 3, **_FINITE),
    "e2m1": _float(2, 1, **_FINITE),
    # AMD CDNA3: no negative zero, bias one higher.
    "e4m3fnuz": _float(4, 3, bias=8, **_FNUZ),
    "e5m2fnuz": _float(5, 2, bias=16, **_FNUZ),
    "e4m3b11fnuz": _float(4, 3, bias=11, **_FNUZ),
    # Scales: a bare power of two; an unsigned E4M3 whose top bit is ignored.
    "ue8m0": _float(8, 0, signed=False, zero=False, **_FN),
    "ue4m3": _float(4, 3, signed=False, high_padding=1, **_FN),
}
_INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "int4", "uint4")
_INLINE = re.compile(r"(?P<unsigned>u?)e(?P<exponent>[1-9]\d?)m(?P<mantissa>\d{1,2})(?P<rule>fnuz|fn|f|ieee|)")
_INLINE_INTEGER = re.compile(r"(?P<unsigned>u?)int(?P<bits>[1-9]\d?)")


def _table_fields(values: tuple[Entry, ...]) -> dict[str, Any]:
    """Return the fields that the numbers of a table imply. Raises ValueError for what is no number."""
    numbers = finite(values)
    return {
        "values": values,
        "mantissa_bits": extent(values)[3] - 1,
        "signed": numbers[0][0] < 0,
        "zero": any(x == 0 for x, _ in numbers),
        "overflow": "saturate",
    }


def _fields_of(name: str) -> dict[str, Any] | None:
    """Return the fields of the format that a name means, inline names included; None if it means none."""
    if name in _FIELDS:
        return _FIELDS[name]
    if name in TABLES:
        return {"kind": "table", **_table_fields(TABLES[name])}
    if match := _INLINE_INTEGER.fullmatch(name):
        signed, bits = not match["unsigned"], int(match["bits"])
        return {"kind": "integer", "mantissa_bits": bits, "signed": signed, "overflow": "saturate"}
    if match := _INLINE.fullmatch(name):
        exponent_bits, mantissa_bits = int(match["exponent"]), int(match["mantissa"])
        rule = {"fnuz": _FNUZ, "fn": _FN, "f": _FINITE, "ieee": {}, "": {}}[match["rule"]]
        bias = (1 << (exponent_bits - 1)) - 1 + (match["rule"] == "fnuz")
        return _float(exponent_bits, mantissa_bits, **{"signed": not match["unsigned"], "bias": bias, **rule})
    return None


FORMATS: dict[str, Format] = {
    name: Format(name=name, **(_fields_of(name) or {})) for name in (*_FIELDS, *_INTEGERS, *TABLES)
}


def named(name: str) -> Format:
    """Return the format called `name`: one of `FORMATS`, or an inline `eXmY`, `intX` or `uintX`.

    An inline format has the IEEE bias 2**(X-1) - 1. Its suffix gives its special values:
    none or `ieee`, infinities and NaNs as in IEEE 754; `fn`, no infinity, and the all-ones code is NaN;
    `fnuz`, no infinity, NaN in place of the negative zero, and a bias one higher; `f`, every code is finite.
    A leading `u` drops the sign. Integers saturate. OCP names come first: `e4m3` is the OCP format, `e4m3ieee` the
    IEEE-like one.
    Raises InputError for a name that means no format, and for more bits or larger numbers than a format can have;
    ValueError for a `name` that is no string.
    """
    if not isinstance(name, str):
        raise ValueError(f"name is of type {type(name).__name__}; expected a format's name, such as 'e4m3'")
    if name in FORMATS:
        return FORMATS[name]
    fields = _fields_of(name)
    if fields is None:
        hint = (
            _meant(name) or suggest(name, FORMATS) or f"formats: {', '.join(FORMATS)}; or inline such as e5m6 and int48"
        )
        raise InputError.of(f"unknown number format `{name}`", hint)
    if fields.get("exponent_bits", 0) > 11 or (fields["mantissa_bits"] > 52 and "exponent_bits" in fields):
        raise InputError.of(f"format `{name}` is too wide", "at most 11 exponent bits and 52 mantissa bits (fp64)")
    if fields.get("infinity") and fields["mantissa_bits"] == 0:
        hint = _meant(name) or f"with 0 mantissa bits write `{name}fn` or `{name}f`"
        raise InputError.of(f"format `{name}` has no code left for a NaN", hint)
    try:
        return _inline(name)
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError.of(f"format `{name}`: {fault['msg']}", fault.get("ctx", {}).get("hint", "")) from None


def is_name(name: str) -> bool:
    """Return whether a format has this name by itself, so that nobody else's may have it."""
    return name in FORMATS or _fields_of(name) is not None


@cache
def _inline(name: str) -> Format:
    return Format(name=name, **(_fields_of(name) or {}))


def _meant(name: str) -> str:
    """Return `did you mean ...?` for a name that others use, or one in capital letters; empty otherwise."""
    ours, remark = our_name(name)
    lower = name.lower()
    meant = ours or (lower if lower != name and _fields_of(lower) else "")
    return " ".join(filter(None, (f"did you mean `{meant}`?" if meant else "", remark)))
