"""JSON Schemas of files, and the proposal that `codesign init` writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from codesign.proposal.baselines import fitting
from isa_model.diagnostics import InputError, parse_yaml
from isa_model.instruction import Instruction
from isa_model.library import raw

SCHEMA = ('"title": "Proposal"', "the schema of proposals")
"""Text that identifies the schema file of `codesign init`, and its kind."""


def json_schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of a kind of file: proposal, instruction, recipe, result or space."""
    if kind == "recipe":
        from codesign.proposal.recipe import Recipe

        return _formats_by_name(Recipe.model_json_schema())
    if kind == "instruction":
        return _formats_by_name(Instruction.model_json_schema())
    if kind == "result":
        from codesign.verdicts.evaluate import Result

        return Result.model_json_schema(mode="serialization")
    if kind == "space":
        from codesign.explore.space import Space

        return Space.model_json_schema()
    from codesign.proposal.baselines import baselines
    from codesign.proposal.proposal import Proposal

    schema = Proposal.model_json_schema()
    software = schema["properties"]["software"]
    mapping = software.pop("allOf", None) or [{"$ref": software.pop("$ref")}]  # pydantic before 2.9 wraps it
    software["anyOf"] = [{"type": "string", "enum": list(baselines())}, *mapping]
    return schema


def _formats_by_name(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with names allowed for formats and instructions."""

    # An instruction is given by name, as base and change, or in full.
    in_full = {"#/$defs/Format": {"$ref": "#/$defs/Format"}, "#/$defs/Instruction": {"type": "object"}}

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(x) for x in node]
        if not isinstance(node, dict):
            return node
        if full := in_full.get(node.get("$ref", "")):
            return {"anyOf": [{"type": "string"}, full], **{k: v for k, v in node.items() if k != "$ref"}}
        return {k: walk(v) for k, v in node.items()}

    walked: dict[str, Any] = walk(schema)
    return walked


def starter(path: Path, base: str) -> str:
    """Return the text of a commented proposal on a base. Raises InputError if the base or the path's folder is unknown."""
    if not path.parent.is_dir():
        raise InputError.of(f"cannot write {path}: there is no folder {path.parent}", "make it first")
    instruction = Instruction.model_validate(raw(base))
    name = re.sub("[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "my-proposal"
    if parse_yaml(f"proposal: {name}", "").data["proposal"] != name:
        name = f'"{name}"'  # 0, null or 1e3 would not be read as a name
    names = ", ".join(b.name for b in fitting(instruction))
    *_, last = instruction.stages
    aligned = next((name for name, stage in instruction.stages.items() if stage.aligned), None)
    rounding = instruction.stages[last].result[-1].rounding
    wanted = "toward-zero" if rounding == "nearest-even" else "nearest-even"
    result = f"result: {{format: {instruction.accumulator.name}, rounding: {wanted}}}        # the base: {rounding}"
    if aligned is None:
        change = f"    {last}:\n      {result}"
        field, values = f"{last}.result.rounding", "[nearest-even, toward-zero]"
    else:
        bits = instruction.stages[aligned].fraction_bits or 0
        change = f"    {aligned}:\n      fraction_bits: {bits + 4}        # the base keeps {bits}"
        change += f"\n      {result}" if aligned == last else ""
        field, values = f"{aligned}.fraction_bits", f"[{bits}, {bits + 4}, {bits + 8}]"
    return f"""\
# yaml-language-server: $schema=proposal.schema.json
# A proposal: one change to a real instruction, and the claims about it. `codesign validate {path}` checks this file,
# `codesign show {path}` prints the resulting instruction, and `codesign evaluate {path}` judges the claims.
proposal: {name}
title: One line on what the hardware would do
source: Who asks for it, and where (document, section)
# motivation: The problem of today's software that it would solve.

# The instruction that is changed; `codesign list instructions` names all.
base: {base}

# Fields that differ from the base: mappings merge, other values replace, null removes.
# `codesign show {base}` prints the base.
change:
  stages:
{change}

# A family of proposals: one field that takes several values.
# sweep:
#   field: stages.{field}
#   values: {values}

# Casts, transposed reads and communication of operands before they are multiplied. Groups are (tokens, features).
# path:
#   operands: [activation, gradient]
#   steps:
#     - {{at: register, to: e4m3, group: [1, 128], scale: ue8m0}}

# The software baseline (docs/baselines.md), one of: {names}. The first is the default.
# software: {names.split(", ")[0]}

# Tensors of your own, for `workloads: [mine]` and `tensors: [captured]`.
# layers:
#   mine: {{file: mine.safetensors, activation: x, weight: w, gradient: dy}}

# The GEMMs and operands it is judged on; `codesign list workloads` and `codesign list tensors` name all.
workloads: [deepseek-v3.fprop]
tensors: [normal, outliers]

# Claims, in numbers; `codesign list metrics` explains the metrics. Bounds: at_most, at_least.
claims:
  - metric: numerics.relative_frobenius
    at_most: 1.0e-3
  - metric: numerics.relative_frobenius
    relative_to: today          # today, software or exact: bounds the ratio
    at_most: 0.5
"""
