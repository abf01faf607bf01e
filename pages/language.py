"""The generated part of docs/language.md: every field of the spec language, with an example computed by the golden model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from models import Reference, block, flow, heading, one_line

from codesign.figures.markdown import table
from isa_model.array_codec import decode_array, encode_array
from isa_model.codec import largest_finite
from isa_model.formats import FORMATS, Format
from isa_model.instruction import Instruction
from isa_model.library import changed
from isa_model.matmul import matmul

PLACES = {
    "Instruction": "",
    "Shape": "shape.",
    "Sparsity": "sparsity.",
    "Codebooks": "codebook.",
    "Codebook": "codebook.b.",
    "Scaling": "scale.",
    "ScaleOperand": "scale.a.",
    "ScaleLevel": "scale.a.coarser.",
    "Stage": "stages.NAME.",
    "Interleave": "stages.NAME.interleave.",
    "Accumulator": "stages.NAME.accumulator.",
    "Register": "stages.NAME.result.",
    "Remainder": "stages.NAME.remainder.",
    "Format": "FORMAT.",
}
"""Models of the language in the order of the page, each with the path of its fields in a file."""

LABELS = {
    "a": "A",
    "b": "B",
    "c": "C",
    "scale_a": "scale of A",
    "scale_b": "scale of B",
    "positions": "positions",
    "tables_a": "table of A",
    "tables_b": "table of B",
    "seed": "seed",
}
"""Operands as the page calls them."""


@cache
def data() -> dict[str, Any]:
    """Return base, default operands and examples of language.yaml."""
    read: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("language.yaml").read_text(encoding="utf-8"))
    return read


def examples() -> list[dict[str, Any]]:
    """Return the examples in the order of the file."""
    found: list[dict[str, Any]] = data()["examples"]
    return found


def instruction(*changes: dict[str, Any]) -> Instruction:
    """Return the base instruction with changes merged into it, one after the other."""
    spec = data()["base"]
    for change in changes:
        spec = changed(spec, change)
    return Instruction.model_validate(spec)


def computed(example: dict[str, Any], with_change: bool = True) -> int:
    """Return the code of D that the golden model computes for an example, with or without its change."""
    made = instruction(example.get("with", {}), *([example["change"]] if with_change else []))
    books = {name: getattr(made.codebook, name) if made.codebook else None for name in "ab"}
    a, b, c = (
        np.array(example[name], np.uint8) if books.get(name) else codes(fmt, example.get(name, data()[name]))
        for name, fmt in zip("abc", (made.a, made.b, made.c_format), strict=True)
    )
    scales = {}
    for side in ("a", "b"):
        operand = getattr(made.scale, side) if made.scale else None
        if operand:
            given = example[f"scale_{side}"] if operand.coarser else [example[f"scale_{side}"]]
            shape = (1, -1) if side == "a" else (-1, 1)
            levels = zip(operand.levels, given, strict=False)  # without the change there may be fewer levels
            every = [codes(level.format, own).reshape(shape) for level, own in levels]
            scales[f"scale_{side}"] = every if operand.coarser else every[0]
    for side, fmt in (("a", made.a), ("b", made.b)):
        if books[side]:
            scales[f"tables_{side}"] = codes(fmt, example[f"tables_{side}"]).reshape(1, 1, -1)
    positions = None
    if made.sparsity:
        positions = np.array(example["positions"], np.uint8).reshape(
            (1, -1) if made.sparsity.operand == "a" else (-1, 1)
        )
    seed = example.get("seed") if made.is_stochastic else None
    operands = a.reshape(1, -1), b.reshape(-1, 1), c.reshape(1, 1)
    d = matmul(made, *operands, **scales, positions=positions, seed=seed, engine="golden")
    return int(np.asarray(d).view(f"u{made.accumulator.storage_bits // 8}")[0, 0])


def codes(fmt: Format, numbers: Any) -> Any:
    """Return the codes of numbers in a format; texts such as "0x18" are codes."""
    given = numbers if isinstance(numbers, list) else [numbers]
    plain = encode_array(fmt, np.array([0.0 if isinstance(x, str) else float(x) for x in given]))
    return np.array(
        [int(x, 16) if isinstance(x, str) else code for x, code in zip(given, plain, strict=True)], plain.dtype
    )


def number(fmt: Format, code: int) -> str:
    """Return a code as a number, for a NaN with the code."""
    value = float(decode_array(fmt, np.array([code], f"u{fmt.storage_bits // 8}"))[0])
    return f"NaN ({code:#x})" if value != value else f"{value:.12g}"


def expected(fmt: Format, value: Any) -> int:
    """Return the code of what an example says D is."""
    return int(codes(fmt, value)[0])


def pages_text() -> str:
    """Return the reference of the spec language."""
    reference = Reference(Instruction)
    lines = [*_base()]
    for model, place in PLACES.items():
        lines += ["", heading(model), "", reference.about(model)]
        for field, node in reference.fields(model).items():
            lines += ["", f"### {place}{field}", "", _signature(reference, model, field)]
            if meaning := one_line(node.get("description", "")):
                lines += ["", meaning]
            for example in examples():
                if f"{model}.{field}" == example["shows"][0]:
                    lines += ["", *_shown(example)]
                elif f"{model}.{field}" in example["shows"]:
                    lines += ["", f"Example: [{_place(example['shows'][0])}](#{_anchor(example['shows'][0])})."]
    return "\n".join(lines)


def formats_table() -> str:
    """Return the table of the formats that have a name."""
    rows: list[tuple[object, ...]] = []
    for fmt in FORMATS.values():
        if fmt.kind == "table":
            ends = f"{2.0**fmt.min_exponent:.4g}, {largest_finite(fmt):.4g}"
            special = ["yes" if name in fmt.values else "no" for name in ("infinity", "nan")]
            rows.append((f"`{fmt.name}`", fmt.bits, "table", "", ends, *special))
            continue
        if fmt.kind == "integer":
            top = fmt.max_finite_magnitude
            low = -(1 << fmt.mantissa_bits - 1) if fmt.signed else 0
            sign = "two’s complement" if fmt.signed else "unsigned"
            rows.append((f"`{fmt.name}`", fmt.bits, sign, "", f"{low}, {top}", "", ""))
            continue
        smallest = 2.0**fmt.min_lsb_exponent
        significand = fmt.max_finite_magnitude & ((1 << fmt.mantissa_bits) - 1)
        largest = (1 + significand / 2**fmt.mantissa_bits) * 2.0**fmt.max_exponent
        parts = f"{int(fmt.signed)}, {fmt.exponent_bits}, {fmt.mantissa_bits}"
        infinity, nan = "yes" if fmt.infinity else "no", "no" if fmt.nan == "none" else fmt.nan
        ends = f"{smallest:.4g}, {largest:.4g}"
        rows.append((f"`{fmt.name}`", fmt.bits, parts, fmt.bias, ends, infinity, nan))
    return table("format | bits: | sign, exponent, mantissa | bias: | smallest, largest | infinity | NaN", rows)


def _base() -> Iterator[str]:
    d = number(FORMATS["fp32"], computed({"change": {}}))
    yield f"Each example below changes this instruction, which computes D = {d} for {_operands({}, ('a', 'b', 'c'))}."
    yield "Operands are these unless an example gives others."
    yield ""
    yield "```yaml"
    yield from block(data()["base"])
    yield "```"


def _signature(reference: Reference, model: str, field: str) -> str:
    default = reference.default(model, field)
    values = reference.values(reference.fields(model)[field])
    return f"*{values}*" + (f"; {default}." if default == "required" else f"; default: {default}." if default else ".")


def _shown(example: dict[str, Any]) -> Iterator[str]:
    """Yield the snippet of an example, its operands, what D is, and why."""
    merged = changed(example.get("with", {}), example["change"]) if "with" in example else example["change"]
    yield "```yaml"
    yield from block(merged)
    yield "```"
    yield ""
    made = instruction(example.get("with", {}), example["change"])
    own = [name for name in LABELS if name in example]
    told = f"{_operands(example, own)}: " if own else ""
    text = f"{told}D = {number(made.accumulator, computed(example))}"
    if "before" in example:
        before = instruction(example.get("with", {}))
        was = number(before.accumulator, computed(example, with_change=False))
        text += f"; without the change {was}"
    yield f"{text}. {one_line(example['why'])}"


def _operands(example: dict[str, Any], names: Sequence[str]) -> str:
    shown = []
    for name in names:
        value = example.get(name, data().get(name))
        shown.append(f"{LABELS[name]} = {flow(value)}")
    return ", ".join(shown)


def _place(field: str) -> str:
    model, name = field.split(".")
    return f"{PLACES[model]}{name}"


def _anchor(field: str) -> str:
    """Return the anchor of a field's heading, as GitHub and the site make it."""
    return _place(field).lower().replace(".", "")
