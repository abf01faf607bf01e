"""Hypotheses as plain data: formats of registers, paths to fields, changes, and how simple a hypothesis is.

A hypothesis has the fields of an instruction that a signature leaves open; its stages are a list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from isa_model.diagnostics import InputError
from isa_model.formats import FORMATS, Format, named
from isa_model.instruction import Instruction
from isa_model.rounding import Rounding

Data = dict[str, Any]
Path = tuple[str | int, ...]


def key_of(hypothesis: Data) -> str:
    """Return text that two hypotheses share only if they are equal."""
    return json.dumps(hypothesis, sort_keys=True)


def format_of(fmt: Any) -> Format:
    """Return the format that a hypothesis means by a name or by fields."""
    return _known(key_of(fmt))


def mantissa_bits(fmt: Any) -> int:
    """Return the bits of the mantissa of a format of a hypothesis."""
    return format_of(fmt).mantissa_bits


def range_of(fmt: Format) -> tuple[Any, ...]:
    """Return what two formats with the same exponents and specials have in common."""
    return fmt.kind, fmt.exponent_bits, fmt.bias, fmt.infinity, fmt.nan


def meaning(fmt: Any) -> str:
    """Return the fields of a format without its name, as text: formats of two names may be one."""
    known = fmt if isinstance(fmt, Format) else format_of(fmt)
    return key_of(known.model_dump(mode="json", exclude={"name"}))


@cache
def _known(text: str) -> Format:
    fmt = json.loads(text)
    return named(fmt) if isinstance(fmt, str) else Format.model_validate(fmt)


def named_or_fields(fields: Data) -> Any:
    """Return a format by its inline name if that means the same, otherwise its fields."""
    name = f"e{fields.get('exponent_bits', 0)}m{fields['mantissa_bits']}"
    for known in FORMATS.values():
        if known.model_dump(mode="json", exclude_defaults=True) == {**fields, "name": known.name}:
            return known.name
    fields = {k: v for k, v in {**fields, "name": "register"}.items() if v != 0 or k in ("bias", "mantissa_bits")}
    try:
        inline = named(name).model_dump(mode="json", exclude_defaults=True)
    except InputError:  # no inline format has these fields
        return fields
    return name if inline == {**fields, "name": name} else fields


def hypothesis_of(spec: Instruction) -> Data:
    """Return a spec as a hypothesis: all of it that its signature does not determine."""
    data = spec.model_dump(mode="json", exclude_defaults=True)
    own: Data = {name: data[name] for name in ("widen", "nan", "infinite_from", "flush_inputs") if name in data}
    if spec.scale:
        scale = {k: v for k, v in data["scale"].items() if k not in ("a", "b")}
        own["scale"] = scale | {"onto": spec.scaled_stage}
    return own | {"stages": list(data["stages"].values())}


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
        inside = step < len(known) if isinstance(known, list) else isinstance(known, dict) and step in known
        known = known[step] if inside else None
    return known


def optional(hypothesis: Data) -> list[Path]:
    """Return the paths of fields that a hypothesis could do without: those of numbers before those of registers."""
    found: list[Path] = [(name,) for name in hypothesis if name not in ("stages", "nan", "scale")]
    for i, stage in enumerate(hypothesis["stages"]):
        found += [
            ("stages", i, name) for name in ("zero_exponent", "fraction_bits", "exponent", "zero") if name in stage
        ]
        if isinstance(stage.get("accumulator"), dict):
            found += [("stages", i, "accumulator", name) for name in stage["accumulator"]]
        for j, register in enumerate(stage.get("result", [])):
            found += [("stages", i, "result", j, name) for name in ("overflow", "subnormals") if name in register]
    return found


def fits(hypothesis: Data, path: Path) -> bool:
    """Return whether a hypothesis has the part that a path leads to."""
    part = at(hypothesis, path[:-1])
    if isinstance(path[-1], int):
        return isinstance(part, list) and path[-1] < len(part)
    return len(path) < 2 or path[0] == "scale" or part is not None


def changed(hypothesis: Data, path: Path, value: Any) -> Data:
    """Return a hypothesis with the value at a path; None leaves the field out. Fields that depend on it follow."""
    copy: Data = {**hypothesis, "stages": [dict(stage) for stage in hypothesis["stages"]]}
    part: Any = copy
    for key in path[:-1]:  # hypotheses share parts: only what leads to the value is copied
        part[key] = (part[key] if isinstance(key, int) else part.get(key, {})).copy()
        part = part[key]
    if value is None or value == []:
        part.pop(path[-1], None)
    else:
        part[path[-1]] = value
        if path[-1] == "exponent":  # of an unrounded sum
            part.pop("result", None)
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
