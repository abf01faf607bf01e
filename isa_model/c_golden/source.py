"""C text of an instruction: golden.h and golden.c with the sizes and tables of one spec, and of variations of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from isa_model import golden
from isa_model.codec import Number, number_of
from isa_model.diagnostics import InputError
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.operand_fields import ScaleLevel
from isa_model.printable import visible
from isa_model.rounding import Rounding
from isa_model.stage import Register, Stage
from isa_model.tables import SPECIALS

FOLDER = Path(__file__).parent
MOST_BYTES = 1 << 26
"""Largest trace of one instruction in bytes."""
_FLUSH = {False: "READ_ALL", True: "FLUSH", "keep-sign": "FLUSH_KEEP_SIGN"}
SLACK = 48
"""Bits above the widest sum, for carries and for terms that a hypothetical fault keeps longer."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the arrays in golden.h."""

    limbs: int
    products: int
    stages: int
    scales: int
    draws: int
    sums: int
    entries: int
    scaled: int

    @property
    def trace_bytes(self) -> int:
        """Approximate size of a trace in bytes."""
        number = 4 * self.limbs + 16
        return number * (5 * self.sums + 2 * self.entries + 5 * self.scaled + 2 * self.products)


def levels(spec: Instruction) -> list[tuple[ScaleLevel, int]]:
    """Return the levels of the scales of A, then of B, the finest first, each with the elements of K that share a scale."""
    scale = spec.scale
    sides = ((scale.a, 1), (scale.b, 0)) if scale else ()
    return [(x, min(x.along(axis), spec.shape.k)) for side, axis in sides if side for x in side.levels]


def blocks(spec: Instruction) -> list[int]:
    """Return the number of blocks of each stage in one instruction."""
    return [
        spec.shape.k // spec.products_per_result(i) * (stage.chain or 1) for i, stage in enumerate(spec.stages.values())
    ]


def sizes(specs: Sequence[Instruction]) -> Sizes:
    """Return sizes that hold every one of some instructions."""
    each = []
    for spec in specs:
        counts = list(zip(spec.stages.values(), blocks(spec), strict=True))
        scaled = spec.scaled_stage
        each.append(
            Sizes(
                limbs=-(-(_width(spec) + SLACK) // 32),
                products=spec.shape.k,
                stages=len(spec.stages),
                scales=sum(-(-spec.shape.k // group) for _, group in levels(spec)),
                draws=sum(n * sum(bool(r.random_bits) for r in stage.result) for stage, n in counts),
                sums=sum(n * (1 + bool(stage.remainder)) for stage, n in counts),
                entries=sum(
                    n * (stage.terms + bool(stage.accumulator) + 2 * bool(stage.remainder)) for stage, n in counts
                ),
                scaled=0 if scaled is None else spec.shape.k // spec.products_per_result(scaled),
            )
        )
    return Sizes(*(max(1, *column) for column in zip(*(astuple(x) for x in each), strict=True)))


@dataclass(frozen=True)
class _Reach:
    """Bounds of a term: a multiple of 2**low below 2**high, with an alignment exponent from `near` to `far`."""

    low: int
    high: int
    near: int
    far: int

    def times(self, other: _Reach) -> _Reach:
        return _Reach(self.low + other.low, self.high + other.high, self.near + other.near, self.far + other.far)

    def joined(self, other: _Reach) -> _Reach:
        return _Reach(
            min(self.low, other.low),
            max(self.high, other.high),
            min(self.near, other.near),
            max(self.far, other.far),
        )


def _of(fmt: Format) -> _Reach:
    return _Reach(fmt.min_lsb_exponent, fmt.max_exponent + 1, min(0, fmt.min_lsb_exponent), fmt.max_exponent)


def _operand(spec: Instruction, fmt: Format) -> _Reach:
    """Return the bounds of an element of A or B; widened, it may align above its own exponents."""
    reach = _of(fmt)
    return replace(reach, far=max(reach.far, spec.widen.min_exponent)) if spec.widen else reach


def _width(spec: Instruction) -> int:
    """Return how many bits hold every number between the operands and D."""
    widest = 64
    term = _operand(spec, spec.a).times(_operand(spec, spec.b))
    factors = reduce(_Reach.times, (_of(level.format) for level, _ in levels(spec)), _Reach(0, 1, 0, 0))
    if spec.scale:
        power = spec.scale.power
        if spec.scale.product:  # its register may lie far from the product that is rounded to it
            widest = max(widest, factors.high - factors.low)
            factors = _of(spec.scale.product.format)
        factors = factors.times(_Reach(power, power + 1, power, power))

    def scaled(x: _Reach) -> _Reach:
        nonlocal widest
        x = x.times(factors)
        widest = max(widest, x.high - x.low)
        return _of(spec.scale.result.format) if spec.scale and spec.scale.result else x

    if spec.scaled_stage == -1:
        term = scaled(term)
    for i, stage in enumerate(spec.stages.values()):
        registers = [_of(r.format) for r in stage.result]
        start = _of(spec.c_format).joined(_of(spec.accumulator))
        every = term.joined(registers[-1] if registers else start).joined(start) if stage.accumulator else term
        if stage.remainder:
            every = every.joined(_of(stage.remainder.format))
        if stage.zero_exponent is not None:
            zero = stage.zero_exponent
            every = replace(every, near=min(every.near, zero), far=max(every.far, zero))
        if stage.fraction_bits is not None:
            every = replace(every, near=every.near + min(0, stage.offset), far=every.far + max(0, stage.offset))
            bits = (stage.fraction_bits, stage.accumulator_fraction_bits or 0)
            low = min(every.low, every.near - max(bits))
            every = replace(every, low=low, high=max(every.high, every.far - min(bits) + 1))
        high = every.high + (stage.terms + 1).bit_length() + 1
        widest = max(widest, high - every.low)
        term = registers[-1] if registers else replace(every, high=high)
        if stage.exponent is not None:
            term = replace(term, near=min(stage.exponent, 0), far=stage.exponent)
        if spec.scaled_stage == i:
            term = scaled(term)
    return widest


def check(spec: Instruction) -> None:
    """Raise InputError for an instruction whose trace is too large for a C model."""
    size = sizes([spec.dense])
    if size.trace_bytes > MOST_BYTES:
        raise InputError.of(
            f"{spec.name}: the values on the way of one instruction take {size.trace_bytes >> 20} MiB of memory in C",
            f"at most {MOST_BYTES >> 20} MiB: a smaller k, or narrower exponents",
        )


# -- text ------------------------------------------------------------------------------------------------------------


def header(spec: Instruction, variations: Sequence[Instruction] = ()) -> str:
    """Return golden.h of an instruction; its sizes hold its variations, too."""
    size = sizes([spec.dense, *variations])
    text = ", ".join(f"{name.upper()} = {value}" for name, value in asdict(size).items())
    return f"#ifndef GOLDEN_H\n#define GOLDEN_H\n\nenum {{ {text} }};\n\n{(FOLDER / 'golden.h').read_text()}\n#endif\n"


def source(spec: Instruction) -> str:
    """Return golden.c of an instruction: its tables, then the model that reads them. Raises InputError as `check` does.

    Of a sparse instruction it is the model of the dot product behind the selection of elements (`Instruction.dense`).
    """
    check(spec)
    about = [f"Golden model of {spec.name or 'an instruction'}.", *([spec.description] if spec.description else [])]
    if spec.sparsity:
        about.append("Operands are the elements stored, and those of the other side that their positions pick.")
    head = "".join(f"/* {visible(line).replace('*/', '* /')} */\n" for line in about)
    table, before = spec_table(spec.dense, "golden")
    return (
        f'{head}#include "golden.h"\n\n{before}const Spec golden_spec = {table};\n\n{(FOLDER / "golden.c").read_text()}'
    )


def spec_table(spec: Instruction, prefix: str) -> tuple[str, str]:
    """Return the C initialiser of an instruction, and the tables that it points to, whose names start with `prefix`."""
    tables: dict[str, str] = {}

    def table(fmt: Format) -> str:
        if fmt.kind != "table":
            return "0"
        rows = [number_of(SPECIALS[x] if isinstance(x, str) else float(x)) for x in fmt.values]
        return _shared(tables, "Entry", prefix, ", ".join(_entry(row) for row in rows))

    def form(fmt: Format) -> str:
        return _format(fmt, table(fmt))

    names = list(spec.stages)
    stages = []
    count = spec.shape.k
    for index, (name, stage) in enumerate(spec.stages.items()):
        order = [i for block in golden.deal(stage, range(count)) for i in block]  # type: ignore[arg-type]
        deal = _shared(tables, "uint16_t", prefix, ", ".join(map(str, order)))
        stages.append(_stage(name, stage, blocks(spec)[index], deal, spec.scaled_stage == index, form))
        count = blocks(spec)[index] // (stage.chain or 1)
    scale = spec.scale
    fields = {
        "a": form(spec.a),
        "b": form(spec.b),
        "c": form(spec.c_format),
        "d": form(spec.accumulator),
        "k": spec.shape.k,
        "stages": len(names),
        "flush_operands": _FLUSH[spec.flush_operands],
        "flush_c": _FLUSH[spec.flush_c],
        "infinite_from": _optional(spec.infinite_from),
        "widen": _optional(spec.widen.min_exponent if spec.widen else None),
        "has_nan": int(spec.nan_code is not None),
        "nan_code": _code(spec.nan_code or 0),
        "scaled_products": int(spec.scaled_stage == -1),
        "levels": len(levels(spec)),
        "power": spec.scale_power,
        "scale_product": int(bool(scale and scale.product)),
        "scale_result": int(bool(scale and scale.result)),
        **({"level": braces(f"{{{form(x.format)}, {group}}}" for x, group in levels(spec))} if levels(spec) else {}),
        **({"product": _register(scale.product, form)} if scale and scale.product else {}),
        **({"result": _register(scale.result, form)} if scale and scale.result else {}),
        **({"joining": _register(spec.joining, form)} if spec.remainder else {}),
        "stage": braces(stages),
    }
    return _struct(fields, "\n  "), "".join(text % name for text, name in tables.items())


def _shared(tables: dict[str, str], kind: str, prefix: str, rows: str) -> str:
    """Return the name of a table, which is written once."""
    return tables.setdefault(f"static const {kind} %s[] = {{{rows}}};\n", f"{prefix}_{len(tables)}")


def _entry(x: Number) -> str:
    special = {"": "FINITE", "infinity": "INFINITE", "nan": "NOT_A_NUMBER"}[x.special]
    return f"{{{int(x.negative)}, {special}, {x.exponent}, {_code(x.significand)}}}"


def _format(fmt: Format, values: str) -> str:
    return _struct(
        {
            "kind": fmt.kind.upper(),
            "is_signed": int(fmt.signed),
            "has_zero": int(fmt.zero),
            "has_infinity": int(fmt.infinity),
            "nan_for_minus_zero": int(fmt.nan == "negative-zero"),
            "has_nan": int(fmt.nan_code is not None),
            "mantissa_bits": fmt.mantissa_bits,
            "magnitude_bits": fmt.magnitude_bits,
            "bias": fmt.bias,
            "low_padding": fmt.low_padding,
            "min_exponent": fmt.min_exponent,
            "overflow": _overflow(fmt.overflow),
            "largest": _code(fmt.max_finite_magnitude),
            "nan_code": _code(fmt.nan_code or 0),
            "values": values,
            "bits": fmt.bits,
        }
    )


def _stage(name: str, s: Stage, count: int, deal: str, scaled: bool, form: Callable[[Format], str]) -> str:
    fields = {
        "name": c_string(name),
        "terms": s.terms,
        "chain": s.chain or 1,
        "blocks": count,
        "accumulator": int(bool(s.accumulator)),
        "fraction_bits": _optional(s.fraction_bits),
        "accumulator_fraction_bits": _optional(s.accumulator_fraction_bits),
        "drop_beyond": _optional(s.drop_beyond),
        "offset": s.offset,
        "rounding": _mode(s.rounding or Rounding.TOWARD_ZERO),
        "zero_exponent": _optional(s.zero_exponent),
        "exponent": _optional(s.exponent),
        "ieee_zero": int(s.zero == "ieee"),
        "complement": int(s.opposing == "complement"),
        "registers": len(s.result),
        "scaled": int(scaled),
        "joins": f"JOINS_{s.remainder.joins.upper()}" if s.remainder else "NO_REMAINDER",
        **({"result": braces(_register(r, form) for r in s.result)} if s.result else {}),
        **({"remainder": _register(s.remainder.register, form)} if s.remainder else {}),
        "deal": deal,
    }
    return _struct(fields, "\n    ")


def _register(r: Register, form: Callable[[Format], str]) -> str:
    overflow = _overflow(r.overflow or r.format.overflow)
    return (
        f"{{{form(r.format)}, {_mode(r.rounding)}, {overflow}, {int(r.subnormals == 'flush')}, {r.random_bits or 0}}}"
    )


def _struct(fields: dict[str, Any], gap: str = " ") -> str:
    return braces((f".{name} = {value}" for name, value in fields.items()), gap)


def braces(parts: Iterable[str], gap: str = " ") -> str:
    """Return a C initialiser of several parts."""
    return "{" + gap.lstrip(" ") + f",{gap}".join(parts) + "}"


def _optional(value: int | None) -> str:
    return "NONE" if value is None else str(value)


def _code(value: int) -> str:
    return f"{value:#x}u" + ("ll" if value >> 32 else "")


def _mode(rounding: Rounding) -> str:
    return rounding.name


def _overflow(rule: str) -> str:
    return f"OVER_{rule.upper()}"


def c_string(text: str) -> str:
    """Return a C string literal, in which a line end, a tab and other control characters are escaped."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("?", "\\?").replace("\t", "\\t")
    return f'"{visible(escaped)}"'


def variations_table(variations: Sequence[Instruction]) -> str:
    """Return C text that defines `golden_variations`, an array of instructions."""
    written = [spec_table(spec, f"variation{i}") for i, spec in enumerate(variations)]
    before = "".join(tables for _, tables in written)
    rows = braces([table for table, _ in written] or ["{0}"], "\n")
    return f"{before}static const Spec golden_variations[] = {rows};\n"
