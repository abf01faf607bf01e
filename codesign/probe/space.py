"""The hypotheses: specs of the language, as plain data, and the specs one field away from one.

Fields and their values are read off the language's own types (`isa_model/instruction.py`, `stage.py`): a bool, an enumeration
or a number that the language gains is an axis here without a change. Only how many terms stages take, and in which order, is
enumerated by hand, in `structures`.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from enum import Enum
from functools import cached_property
from itertools import pairwise, product
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from codesign.probe.box import Signature
from codesign.probe.hypotheses import (
    Data,
    Path,
    changed,
    format_of,
    key_of,
    mantissa_bits,
    meaning,
    named_or_fields,
    range_of,
    stage_names,
)
from codesign.probe.stand_ins import (
    absorbed,
    dealt,
    divided,
    regrouped,
    replaced,
    shared,
    split,
    stand_ins,
    wide_register,
)
from isa_model.formats import FORMATS, Format
from isa_model.instruction import Instruction
from isa_model.limits import Range
from isa_model.operand_fields import Scaling
from isa_model.rounding import Rounding
from isa_model.stage import Accumulator, Register, Stage

MODES = [str(mode) for mode in Rounding if mode is not Rounding.STOCHASTIC]
STRUCTURAL = {"terms", "interleave", "chain", "stages"}
"""Fields that `structures` enumerates."""
GIVEN = {"name", "description", "shape", "a", "b", "c", "accumulator", "sparsity", "source", "checked", "known"}
"""Fields that the signature determines, or that compute nothing."""
UNREAD = {"remainder", "codebook"}
"""Fields that the interpreter in C (isa_model/engines/lines.c) does not read: to search them would take golden.py hours."""


WINDOW = 40
"""Fraction bits that cut next to nothing."""


class Space:
    """Hypotheses about a box of one signature."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.specs: dict[str, Instruction | None] = {}
        self.known_parts: dict[str, BaseModel] = {}
        self.nans: list[int] = []
        """Codes of NaNs that the box answered, the most frequent first."""
        spec = signature.spec
        floats = [f for f in FORMATS.values() if f.kind == "float" and f.mantissa_bits and f.zero and f.signed]
        self.widths = [f for f in floats if f.holds(spec.a) and f.holds(spec.b)] if signature.is_float else []
        self.given = {name: getattr(spec, name) for name in signature.fields}
        sides = {name: side for name, side in zip("ab", signature.sides, strict=True) if side}
        self.scale = {name: side.model_dump(mode="json") for name, side in sides.items()}

    @property
    def register(self) -> Data:
        """The register that needs no other: D's format, rounded to nearest."""
        return {"format": self.own, "rounding": "nearest-even"}

    @property
    def own(self) -> Any:
        """D's format, by name or by its fields; without ignored bits."""
        d = self.signature.spec.accumulator
        if FORMATS.get(d.name) == d:
            return d.name
        return named_or_fields({**d.model_dump(mode="json", exclude_defaults=True), "low_padding": 0})

    def spec(self, hypothesis: Data) -> Instruction | None:
        """Return the instruction of a hypothesis, or None if the language refuses it."""
        key = key_of(hypothesis)
        if key not in self.specs:
            try:
                self.specs[key] = Instruction.of_parts(**self.parts(hypothesis))
            except (ValidationError, PydanticCustomError):
                self.specs[key] = None
        return self.specs[key]

    def part(self, kind: type[BaseModel], fields: Data) -> Any:
        """Return a part of a hypothesis, checked; each is checked once."""
        key = kind.__name__ + key_of(fields)
        if key not in self.known_parts:
            known = fields | ({"format": format_of(fields["format"])} if "format" in fields else {})
            if kind is Stage and "result" in fields:  # registers that other stages may have as well
                known["result"] = [self.part(Register, r) for r in fields["result"]]
            self.known_parts[key] = kind.model_validate(known)
        return self.known_parts[key]

    def parts(self, hypothesis: Data) -> Data:
        """Return the fields of an instruction: those of the signature and those of a hypothesis, whose stages get names."""
        stages, names = hypothesis["stages"], stage_names(hypothesis["stages"])
        parts = {**self.given, **{k: v for k, v in hypothesis.items() if k not in ("stages", "scale")}}
        parts["stages"] = {name: self.part(Stage, stage) for name, stage in zip(names, stages, strict=True)}
        if parts.get("widen"):
            parts["widen"] = format_of(parts["widen"])
        scale = {**self.scale, **hypothesis.get("scale", {})}
        if "onto" in scale:  # an index of a stage, -1 for the products
            onto = scale["onto"]
            scale["onto"] = "products" if onto < 0 else names[min(onto, len(names) - 1)]
        return parts | ({"scale": self.part(Scaling, scale)} if scale else {})

    # -- values of fields --------------------------------------------------------------------------------------------

    def neighbours(self, hypothesis: Data, reach: int) -> Iterator[tuple[Path, Data]]:
        """Yield every hypothesis that differs in the value of one field, with the path of that field.

        Reach 0: of numbers and formats, the nearest values and a coarse grid. 1: all values. 2: pairs of values that act
        together, and registers more.
        """
        near = reach == 0
        if reach == 2:
            yield from self._pairs(hypothesis)
            return
        yield from self._of(hypothesis, (), Instruction, hypothesis, near)
        if hypothesis.get("scale") or self.scale:
            yield from self._of(hypothesis, ("scale",), Scaling, hypothesis.get("scale", {}), near)
        yield from self._everywhere(hypothesis)
        yield from self.smaller(hypothesis)
        yield from dealt(hypothesis) if not near else ()
        others = (stand_ins,) if near else (stand_ins, split, shared, divided)
        yield from ((("stages",), other) for make in others for other in make(hypothesis))
        for i, stage in enumerate(hypothesis["stages"]):
            yield from self._of(hypothesis, ("stages", i), Stage, stage, near)
            registers = stage.get("result", [])
            for j, register in enumerate(registers):
                yield from self._of(hypothesis, ("stages", i, "result", j), Register, register, near)
                if not near:
                    for mode, overflow, subnormals in product(MODES, (None, "infinity", "saturate"), (None, "flush")):
                        fields = {"rounding": mode, "overflow": overflow, "subnormals": subnormals}
                        one = {k: v for k, v in {**register, **fields}.items() if v}
                        yield self._set(hypothesis, ("stages", i, "result", j), one)
            for fewer in regrouped(registers):
                yield self._set(hypothesis, ("stages", i, "result"), fewer)
            if not registers:
                for fmt in self.formats[:3]:
                    for mode in ("nearest-even", "toward-zero"):
                        register = {"format": fmt, "rounding": mode}
                        yield self._set(hypothesis, ("stages", i, "result"), [register])
            elif i < len(hypothesis["stages"]) - 1 and stage.get("chain", 1) == 1:
                other = {**stage, "accumulator": True, "chain": 1}
                if "chain" in stage:
                    other = {k: v for k, v in stage.items() if k not in ("accumulator", "chain")}
                yield self._set(hypothesis, ("stages", i), other)

    def smaller(self, hypothesis: Data) -> Iterator[tuple[Path, Data]]:
        """Yield a hypothesis without one of its stages, whose terms the next one takes, or without an interleave."""
        stages = hypothesis["stages"]
        for i, (lower, upper) in enumerate(pairwise(stages)):
            if "interleave" not in lower:
                joined = {**upper, "terms": lower["terms"] * lower.get("chain", 1) * upper["terms"]}
                yield ("stages",), replaced(hypothesis, i, 2, [joined])
        for one in absorbed(hypothesis):
            yield ("stages",), one
        for i, stage in enumerate(stages):
            if "interleave" in stage:
                yield self._set(hypothesis, ("stages", i, "interleave"), None)

    def _everywhere(self, hypothesis: Data) -> Iterator[tuple[Path, Data]]:
        """Yield a hypothesis with one rule for zeros, subnormals or overflow in all stages; with that for zeros, subnormal
        operands may be read otherwise."""
        for name, value in (("zero", "ieee"), ("zero", None), ("subnormals", "flush"), ("overflow", "infinity")):
            copy = json.loads(json.dumps(hypothesis))
            for stage in copy["stages"]:
                for part in [stage] if name == "zero" else stage.get("result", []):
                    part.pop(name, None)
                    if value:
                        part[name] = value
            yield ("stages",), copy
            for flush in (None, True, "keep-sign") if name == "zero" and self.signature.is_float else ():
                yield (), {k: v for k, v in {**copy, "flush_inputs": flush}.items() if v}

    def inserted(self, hypothesis: Data) -> Iterator[tuple[Path, Data]]:
        """Yield a hypothesis with one more register before those of a stage, somewhat wider: it shows in few answers."""
        for i, stage in enumerate(hypothesis["stages"]):
            registers = stage.get("result", [])
            if self.signature.spec.accumulator.kind == "float" and registers:
                least = mantissa_bits(registers[0]["format"])
                for bits in sorted({least + 1, least + 2, least + 4, 24, 26, 28, 30} - set(range(least + 1))):
                    for mode in ("nearest-even", "toward-zero"):
                        yield self._set(hypothesis, ("stages", i, "result"), [wide_register(bits, mode), *registers])

    def _pairs(self, hypothesis: Data) -> Iterator[tuple[Path, Data]]:
        """Yield every hypothesis with another format and rounding of one register, with one register more, or with other
        fraction bits and rounding of one stage, or its terms inverted where they are cut; the path is that of the stage."""
        for i, stage in enumerate(hypothesis["stages"]):
            path: Path = ("stages", i)
            registers = stage.get("result", [])
            for fmt in self.formats:
                for mode in MODES:
                    register = {"format": fmt, "rounding": mode}
                    for j, old in enumerate(registers):
                        other = [*registers[:j], {**old, **register}, *registers[j + 1 :]]
                        yield path, changed(hypothesis, (*path, "result"), other)
                    for j in range(len(registers) + 1):
                        more = [*registers[:j], register, *registers[j:]]
                        yield path, changed(hypothesis, (*path, "result"), more)
            for bits in range(48):
                for mode in MODES:
                    one = changed(hypothesis, (*path, "fraction_bits"), bits)
                    one["stages"][i]["rounding"] = mode
                    yield path, one
                for offset in range(-2, 3) if stage.get("accumulator") else ():
                    cut = {"fraction_bits": bits, "rounding": "toward-zero", "opposing": "complement"}
                    inverted = {**stage, **cut, "accumulator": {"offset": offset} if offset else True}
                    yield self._set(hypothesis, path, inverted)

    def _of(self, hypothesis: Data, path: Path, kind: type[BaseModel], value: Data, near: bool) -> Iterator[Any]:
        """Yield a hypothesis for each other value of each field of one part of it."""
        for name, info in kind.model_fields.items():
            if name in STRUCTURAL | UNREAD or (kind is Instruction and name in GIVEN | {"scale"}):
                continue
            if kind is Scaling and name in ("a", "b"):
                continue
            default = info.get_default(call_default_factory=True)
            now = value.get(name, default)
            for other in self._values(kind, name, info, now, near):
                if other != now and not (other is None and now == default):
                    one = changed(hypothesis, (*path, name), None if other == default else other)
                    yield (*path, name), one
                    if name == "fraction_bits" and kind is Stage and now is None and not near:
                        yield from self._with_a_cut(one, path, other, value.get("accumulator"))
                    elif name == "fraction_bits" and kind is Stage and None not in (now, other):
                        yield from ((path, cut) for cut in self._cut_alike(one, path, other - now, value))

    def _with_a_cut(self, hypothesis: Data, path: Path, bits: int, accumulator: Any) -> Iterator[tuple[Path, Data]]:
        """Yield a hypothesis whose stage now cuts terms with other roundings, and with fields that do nothing without a cut."""
        for mode in ("down", "nearest-even", "to-odd"):
            yield self._set(hypothesis, (*path, "rounding"), mode)
        if bits == WINDOW:
            low, high = self.exponents()
            for e in range(low, high + 1, 8):  # what is cut there is lost, or leaves its sign
                _, cut = self._set(hypothesis, (*path, "zero_exponent"), e)
                yield path, cut
                yield self._set(cut, (*path, "rounding"), "to-odd")
            drops = range(8, WINDOW if accumulator else 0, 2)
            yield from (self._set(hypothesis, (*path, "accumulator"), {"drop_beyond": n}) for n in drops)

    def _cut_alike(self, hypothesis: Data, path: Path, steps: int, before: Data) -> Iterator[Data]:
        """Yield a hypothesis whose stage has `steps` fraction bits more than `before`, and its running value, zeros or both
        cut where they were."""
        own, zero = before.get("accumulator"), before.get("zero_exponent")
        if own is True:
            yield changed(hypothesis, (*path, "accumulator"), {"fraction_bits": before["fraction_bits"]})
        fields = own if isinstance(own, dict) else {}
        zeros_alike = hypothesis if zero is None else changed(hypothesis, (*path, "zero_exponent"), zero + steps)
        if own and abs(steps) <= 3:
            kept = {n: x for n, x in fields.items() if n != "fraction_bits"}
            for offset in (-2, -1, 1, 2):
                yield changed(hypothesis, (*path, "accumulator"), kept | {"offset": offset})
            lifted = accumulator_of(fields | {"offset": fields.get("offset", 0) + steps})
            yield changed(zeros_alike, (*path, "accumulator"), lifted)
        if zero is not None:
            yield zeros_alike

    def _values(self, kind: type[BaseModel], name: str, info: Any, now: Any, near: bool) -> Iterator[Any]:
        """Yield values of a field by its type."""
        if name == "onto":
            yield from range(-1, 4)
        elif name == "offset":
            yield from range(-4, 5)
        elif name == "format":
            yield from self.formats_near(now, near)
        elif name == "widen":
            yield from [None, *(f.name for f in self.widths)]
        elif kind is Scaling and name in ("product", "result"):
            yield None
            for fmt in ("fp32", "bf16", "fp16"):
                yield {"format": fmt, "rounding": "nearest-even"}
        elif name == "nan":
            yield from (None, *self.nans)
        elif name == "accumulator" and now:
            own = now if isinstance(now, dict) else {}
            yield True
            for part, other in Accumulator.model_fields.items():
                for x in () if part in UNREAD else self._values(Accumulator, part, other, own.get(part), near):
                    yield accumulator_of(own | {part: x})
        elif name not in ("accumulator", "result", "random_bits"):
            yield from self._plain(info.annotation, info.metadata, now, near)

    def _plain(self, annotation: Any, metadata: Any, now: Any, near: bool) -> Iterator[Any]:
        """Yield the values of a bool, an enumeration or a number."""
        for part in _parts(annotation, tuple(metadata)):
            if part is type(None):
                yield None
            elif part is bool:
                yield from (False, True)
            elif isinstance(part, type) and issubclass(part, Enum):
                yield from (str(x.value) for x in part if x is not Rounding.STOCHASTIC)
            elif isinstance(part, tuple):
                yield from part
            elif isinstance(part, Range):
                yield from self._numbers(part, now, near)

    def _numbers(self, allowed: Range, now: int | None, near: bool) -> Iterator[int]:
        """Yield values of a number: neighbours of the value it has, then a grid over all that could matter."""
        if now is not None:
            yield from (now + step for step in (1, -1, 2, -2, 3, -3) if now + step >= allowed.lowest)
        if allowed.lowest < 0:
            low, high = self.exponents()
            step = 24 if near else 4
            yield from sorted({*range(low, high + 1, step), -133, -132, -131, -139, -126, -21, -20, -19, -999, 0, 128})
        else:
            yield from (range(0, 60, 10) if near else range(0, 56))

    def exponents(self) -> tuple[int, int]:
        """Return the range of exponents that fields can have so that an answer depends on them."""
        spec = self.signature.spec
        formats = (spec.a, spec.b, spec.accumulator)
        low = min(spec.a.min_lsb_exponent + spec.b.min_lsb_exponent, spec.accumulator.min_lsb_exponent)
        high = max(spec.a.max_exponent + spec.b.max_exponent, max(f.max_exponent for f in formats))
        return max(low - 8, -340), min(high + 8, 300)

    @cached_property
    def formats(self) -> list[Any]:
        """Formats of registers: integers, or floats by the exponents of D, FP32, FP16 and of nine bits."""
        d = self.signature.spec.accumulator
        if d.kind == "integer":
            return list(dict.fromkeys(["int32", "int64", "int16", d.name]))
        own = d.model_dump(mode="json", exclude_defaults=True)
        every = [self.own, "fp32"]
        every += [named_or_fields({**own, "mantissa_bits": m, "low_padding": 0}) for m in range(1, 31)]
        for bits, bias, widths in ((8, 127, range(1, 33)), (5, 15, range(1, 33)), (9, 127, range(20, 45))):
            fields = {"exponent_bits": bits, "bias": bias, "infinity": True, "nan": "ieee"}
            every += [named_or_fields({**fields, "mantissa_bits": m}) for m in widths]
        return list({meaning(fmt): fmt for fmt in reversed(every)}.values())[::-1]

    def formats_near(self, fmt: Any, near: bool) -> list[Any]:
        """Return formats with other bits of the mantissa, two more or fewer if `near`, and with another exponent."""
        this, reach = format_of(fmt), 2 if near else 64

        def is_near(other: Format) -> bool:
            steps = abs(other.mantissa_bits - this.mantissa_bits)
            return not steps or (steps <= reach and range_of(other) == range_of(this))

        return [x for x in self.formats if is_near(format_of(x))]

    def _set(self, hypothesis: Data, path: Path, value: Any) -> tuple[Path, Data]:
        """Return a hypothesis with one field changed; a default is left out. What the change makes meaningless goes too."""
        return path, changed(hypothesis, path, value)


def accumulator_of(fields: Data) -> Any:
    """Return how a stage aligns its running value, without defaults; True if it aligns it like any term."""
    return {n: x for n, x in fields.items() if x is not None and (n, x) != ("offset", 0)} or True


def _parts(annotation: Any, metadata: Any = ()) -> list[Any]:
    """Return the types that an annotation allows; the values of a literal as a tuple, a whole number by its range."""
    ranges = [x for x in metadata if isinstance(x, Range)]
    if ranges:
        return ranges
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _parts(arguments[0], arguments[1:])
    if origin in (typing.Union, types.UnionType):
        return [p for argument in arguments for p in _parts(argument)]
    return [arguments if origin is Literal else annotation]
