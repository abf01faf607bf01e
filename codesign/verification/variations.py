"""Specs one field away from an instruction: the hypotheses that a scoreboard tries on a wrong D."""

from __future__ import annotations

from typing import Any, NamedTuple

from codesign.probe.box import Signature
from codesign.probe.hypotheses import Path, at, fits, hypothesis_of
from codesign.probe.space import Space
from isa_model.instruction import Instruction


class SpecVariation(NamedTuple):
    """A spec that differs from an instruction in one field."""

    spec: Instruction
    stage: int
    """Index of the field's stage; -1 for a field of no stage."""
    text: str
    """Field, its value here and in the instruction."""


def variations(spec: Instruction) -> list[SpecVariation]:
    """Return the specs one field away from a dense instruction: by field, first without it, then with other values."""
    space, own = Space(Signature(spec)), hypothesis_of(spec)
    known, found = {_arithmetic(spec)}, []
    for path, hypothesis in space.neighbours(own, 0):
        if not _field(path):  # several fields at once, of a stage or of all stages
            continue
        other = space.spec(hypothesis) if fits(hypothesis, path) else None
        if other is None or _arithmetic(other) in known:
            continue
        known.add(_arithmetic(other))
        here, there = (_shown(at(x, path), path) for x in (hypothesis, own))
        if here != there:
            found.append(SpecVariation(other, _stage(path), f"{_field(path)}: {here} where the spec has {there}"))
    fields = list(dict.fromkeys((x.stage, x.text.split(":")[0]) for x in found))
    return sorted(found, key=lambda x: (fields.index((x.stage, x.text.split(":")[0])), ": none where" not in x.text))


def _arithmetic(spec: Instruction) -> str:
    body = spec.model_copy(update={"stages": {str(i): s for i, s in enumerate(spec.stages.values())}})
    index = spec.scaled_stage
    data = body.model_dump(mode="json", exclude={"name", "description", "source", "checked", "known"})
    if spec.scale:
        data["scale"]["onto"] = index
    return str(data)


def _stage(path: Path) -> int:
    return int(path[1]) if path[0] == "stages" else -1


def _field(path: Path) -> str:
    rest = path[2:] if path[:1] == ("stages",) else path
    return ".".join(map(str, rest))


def _shown(value: Any, path: Path) -> str:
    if isinstance(value, dict):
        return str(value.get("name") or ", ".join(f"{k} {_shown(v, path)}" for k, v in value.items()))
    if isinstance(value, list):
        return " then ".join(_shown(x, path) for x in value) or "none"
    words: dict[Any, str] = {None: "none", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
