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
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from codesign.probe.box import Signature
from isa_model.diagnostics import InputError
from isa_model.formats import FORMATS, Format, named
from isa_model.instruction import Instruction
from isa_model.limits import Range
from isa_model.operand_fields import Scaling
from isa_model.rounding import Rounding
from isa_model.stage import Accumulator, Register, Stage

Data = dict[str, Any]
Path = tuple[str | int, ...]

MODES = [str(mode) for mode in Rounding if mode is not Rounding.STOCHASTIC]
STRUCTURAL = {"terms", "interleave", "chain", "stages"}
"""Fields that `structures` enumerates."""
GIVEN = {"name", "description", "shape", "a", "b", "c", "accumulator", "sparsity", "source", "checked", "known"}
"""Fields that the signature determines, or that compute nothing."""


class Space:
    """Hypotheses about a box of one signature."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.specs: dict[str, Instruction | None] = {}
        self.known_stages: dict[str, Stage] = {}
        spec = signature.spec
        floats = [f for f in FORMATS.values() if f.kind == "float" and f.mantissa_bits and f.zero and f.signed]
        self.widths = [f for f in floats if f.holds(spec.a) and f.holds(spec.b)] if self.is_float else []
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
        return _named({**d.model_dump(mode="json", exclude_defaults=True), "low_padding": 0})

    @property
    def is_float(self) -> bool:
        """True if operands are floating-point numbers."""
        return self.signature.spec.a.kind == self.signature.spec.b.kind == "float"

    def spec(self, hypothesis: Data) -> Instruction | None:
        """Return the instruction of a hypothesis, or None if the language refuses it."""
        key = json.dumps(hypothesis, sort_keys=True)
        if key not in self.specs:
            try:
                self.specs[key] = Instruction.model_validate(self.data(hypothesis))
            except ValidationError:
                self.specs[key] = None
        return self.specs[key]

    def stage(self, stage: Data) -> Stage:
        """Return a stage of a hypothesis; each is checked once."""
        key = json.dumps(stage, sort_keys=True)
        if key not in self.known_stages:
            self.known_stages[key] = Stage.model_validate(stage)
        return self.known_stages[key]

    def data(self, hypothesis: Data) -> Data:
        """Return a hypothesis with the fields of the signature, as the data of an instruction; stages get names."""
        stages = hypothesis["stages"]
        names = stage_names(stages)
        rest = {k: v for k, v in hypothesis.items() if k not in ("stages", "scale")}
        checked = [self.stage(stage) for stage in stages]
        data = {**self.given, **rest, "stages": dict(zip(names, checked, strict=True))}
        scale = {**self.scale, **hypothesis.get("scale", {})}
        if "onto" in scale:  # an index of a stage, -1 for the products
            onto = scale["onto"]
            scale["onto"] = "products" if onto < 0 else names[min(onto, len(names) - 1)]
        return data | ({"scale": scale} if scale else {})

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
        for i, stage in enumerate(hypothesis["stages"]):
            yield from self._of(hypothesis, ("stages", i), Stage, stage, near)
            registers = stage.get("result", [])
            for j, register in enumerate(registers):
                yield from self._of(hypothesis, ("stages", i, "result", j), Register, register, near)
                yield self._set(hypothesis, ("stages", i, "result"), registers[:j] + registers[j + 1 :])
                doubled = [*registers[:j], register, *registers[j:]]
                yield self._set(hypothesis, ("stages", i, "result"), doubled)
            if not registers:
                for fmt in self.formats()[:3]:
                    for mode in ("nearest-even", "toward-zero"):
                        register = {"format": fmt, "rounding": mode}
                        yield self._set(hypothesis, ("stages", i, "result"), [register])
            elif i < len(hypothesis["stages"]) - 1 and stage.get("chain", 1) == 1:
                other = {**stage, "accumulator": True, "chain": 1}
                if "chain" in stage:
                    other = {k: v for k, v in stage.items() if k not in ("accumulator", "chain")}
                yield self._set(hypothesis, ("stages", i), other)

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
            for flush in (None, True, "keep-sign") if name == "zero" and self.is_float else ():
                yield (), {k: v for k, v in {**copy, "flush_inputs": flush}.items() if v}

    def _pairs(self, hypothesis: Data) -> Iterator[tuple[Path, Data]]:
        """Yield every hypothesis with another format and rounding of one register, with one register more, or with other
        fraction bits and rounding of one stage; the path is that of the stage."""
        for i, stage in enumerate(hypothesis["stages"]):
            path: Path = ("stages", i)
            registers = stage.get("result", [])
            for fmt in self.formats():
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

    def _of(self, hypothesis: Data, path: Path, kind: type[BaseModel], value: Data, near: bool) -> Iterator[Any]:
        """Yield a hypothesis for each other value of each field of one part of it."""
        for name, info in kind.model_fields.items():
            if name in STRUCTURAL or (kind is Instruction and name in GIVEN | {"scale"}):
                continue
            if kind is Scaling and name in ("a", "b"):
                continue
            default = info.get_default(call_default_factory=True)
            now = value.get(name, default)
            for other in self._values(kind, name, info, now, near):
                if other != now and not (other is None and now == default):
                    one = self._set(hypothesis, (*path, name), None if other == default else other)
                    yield one
                    if name == "fraction_bits" and kind is Stage and not near:  # a cut needs its rounding
                        modes = ("down", "nearest-even", "to-odd") if now is None else ()
                        yield from (self._set(one[1], (*path, "rounding"), mode) for mode in modes)
                    if (
                        name == "fraction_bits"
                        and kind is Stage
                        and value.get("accumulator") is True
                        and now is not None
                    ):
                        own = self._set(one[1], (*path, "accumulator"), {"fraction_bits": now})[1]
                        yield path, own

    def _values(self, kind: type[BaseModel], name: str, info: Any, now: Any, near: bool) -> Iterator[Any]:
        """Yield values of a field by its type."""
        if name == "onto":
            yield from range(-1, 4)
        elif name == "format":
            yield from self.formats_near(now, near)
        elif name == "widen":
            yield from [None, *(f.name for f in self.widths)]
        elif kind is Scaling and name in ("product", "result"):
            yield None
            for fmt in ("fp32", "bf16", "fp16"):
                yield {"format": fmt, "rounding": "nearest-even"}
        elif name == "nan":
            yield None
        elif name == "accumulator" and now:
            now = now if isinstance(now, dict) else {}
            yield True
            for part, other in Accumulator.model_fields.items():
                for x in self._values(Accumulator, part, other, now.get(part), near):
                    yield {k: v for k, v in (now | {part: x}).items() if v is not None} or True
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

    @cache  # noqa: B019 - a space lives as long as its probe
    def formats(self) -> list[Any]:
        """Return formats of registers: integers, or floats by the exponents of D, FP32, FP16 and of nine bits."""
        d = self.signature.spec.accumulator
        if d.kind == "integer":
            return list(dict.fromkeys(["int32", "int64", "int16", d.name]))
        own = d.model_dump(mode="json", exclude_defaults=True)
        every = [self.own, "fp32", *(_named({**own, "mantissa_bits": m, "low_padding": 0}) for m in range(1, 31))]
        for bits, bias in ((8, 127), (5, 15), (9, 127)):
            fields = {"exponent_bits": bits, "bias": bias, "infinity": True, "nan": "ieee"}
            every += [
                _named({**fields, "mantissa_bits": m}) for m in range(1 if bits < 9 else 20, 45 if bits > 8 else 33)
            ]
        return list({meaning(fmt): fmt for fmt in reversed(every)}.values())[::-1]

    def formats_near(self, fmt: Any, near: bool) -> list[Any]:
        """Return formats with other bits of the mantissa, two more or fewer if `near`, and with another exponent."""
        this = _format(fmt)
        reach = 2 if near else 64
        return [
            x
            for x, other in ((x, _format(x)) for x in self.formats())
            if (_range(other) == _range(this) and abs(other.mantissa_bits - this.mantissa_bits) <= reach)
            or other.mantissa_bits == this.mantissa_bits
        ]

    def _set(self, hypothesis: Data, path: Path, value: Any) -> tuple[Path, Data]:
        """Return a hypothesis with one field changed; a default is left out. What the change makes meaningless goes too."""
        return path, changed(hypothesis, path, value)


def _format(fmt: Any) -> Format:
    return _known(json.dumps(fmt, sort_keys=True))


def _range(fmt: Format) -> tuple[Any, ...]:
    return fmt.kind, fmt.exponent_bits, fmt.bias, fmt.infinity, fmt.nan


@cache
def _meaning(text: str) -> str:
    return json.dumps(_format(json.loads(text)).model_dump(mode="json", exclude={"name"}), sort_keys=True)


def meaning(fmt: Any) -> str:
    """Return the fields of a format without its name, as text: formats of two names may be one."""
    return _meaning(json.dumps(fmt if not isinstance(fmt, Format) else fmt.model_dump(mode="json"), sort_keys=True))


@cache
def _known(text: str) -> Format:
    fmt = json.loads(text)
    return named(fmt) if isinstance(fmt, str) else Format.model_validate(fmt)


def _named(fields: Data) -> Any:
    """Return a format by its inline name if that means the same, otherwise its fields."""
    name = f"e{fields.get('exponent_bits', 0)}m{fields['mantissa_bits']}"
    for known in (f for f in FORMATS.values()):
        if known.model_dump(mode="json", exclude_defaults=True) == {**fields, "name": known.name}:
            return known.name
    fields = {k: v for k, v in {**fields, "name": "register"}.items() if v != 0 or k in ("bias", "mantissa_bits")}
    try:
        inline = named(name).model_dump(mode="json", exclude_defaults=True)
    except InputError:  # no inline format has these fields
        return fields
    return name if inline == {**fields, "name": name} else fields


def moved(hypothesis: Data, path: Path, other: Data) -> Data | None:
    """Return a hypothesis with what another one has at a path; None if it lacks the part that the path leads to."""
    if not path:
        return other
    return changed(hypothesis, path, at(other, path)) if fits(hypothesis, path) else None


def at(data: Any, path: Path) -> Any:
    """Return the value of plain data at a path; None if there is none."""
    known: Any = data
    for key in path:
        step: Any = key
        inside = step < len(known) if isinstance(known, list) else step in (known or {})
        known = known[step] if inside else None
    return known


def fits(hypothesis: Data, path: Path) -> bool:
    """Return whether a hypothesis has the part that a path leads to."""
    return len(path) < 2 or path[0] == "scale" or at(hypothesis, path[:-1]) is not None


def changed(hypothesis: Data, path: Path, value: Any) -> Data:
    """Return a hypothesis with the value at a path; None leaves the field out. Fields that depend on it follow."""
    copy: Data = json.loads(json.dumps(hypothesis))
    part: Any = copy
    for key in path[:-1]:
        part = part[key] if isinstance(key, int) else part.setdefault(key, {})
    if value is None or value == []:
        part.pop(path[-1], None)
    else:
        part[path[-1]] = value
    for stage in copy["stages"]:
        if stage.get("fraction_bits") is None:
            for name in ("rounding", "zero_exponent"):
                stage.pop(name, None)
            if isinstance(stage.get("accumulator"), dict):
                stage["accumulator"] = True
        else:
            stage.setdefault("rounding", "toward-zero")
        if stage.get("result"):
            stage.pop("exponent", None)
    return copy


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


def canonical(spec: Instruction) -> Data:
    """Return what a spec computes as plain data: stages by number, formats by their fields, defaults resolved."""
    data = spec.model_dump(mode="json", exclude={"name", "description", "source", "checked", "known", "sparsity"})
    names = list(data["stages"])
    if data["scale"]:
        onto = data["scale"]["onto"]
        data["scale"]["onto"] = -1 if onto == "products" else names.index(onto)
    data["nan"] = spec.nan_code
    data["c"] = meaning(spec.c_format)
    data["shape"] = {"k": spec.shape.k}
    data["stages"] = list(data["stages"].values())
    for stage, own in zip(data["stages"], spec.stages.values(), strict=True):
        for register, kept in zip(stage["result"], own.result, strict=True):
            register["overflow"] = kept.overflow or kept.format.overflow
            register["format"] = meaning(register["format"])
    return data


def size(hypothesis: Data) -> tuple[float, ...]:
    """Return how simple a hypothesis is: numbers of stages and of fields, then blocks, then how usual the values are."""
    leaves = list(_leaves(hypothesis, ""))
    usual = [str(r) for r in Rounding]
    unusual = sum(usual.index(x) for name, x in leaves if name == "rounding")
    wide = sum(FORMATS[x].storage_bits for name, x in leaves if name == "widen")
    whole = sum(abs(x) for name, x in leaves if isinstance(x, int) and name not in ("terms", "nan"))
    return len(hypothesis["stages"]), len(leaves), -hypothesis["stages"][0]["terms"], unusual + wide, whole


def _leaves(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each field of plain data that is no part with fields of its own."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else ((name, x) for x in node):
            yield from _leaves(value, key)
    else:
        yield name, node


def stage_names(stages: list[Data]) -> list[str]:
    """Return names of stages: what the last does with C, numbers below."""
    if len(stages) == 1:
        return ["fuse"]
    below = ["sum"] if len(stages) == 2 else [f"sum{i + 1}" for i in range(len(stages) - 1)]
    return [*below, "add" if stages[-1]["terms"] == 1 else "fuse"]
