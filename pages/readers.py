"""The table of what each reader makes of the language's fields, found by handing it the examples of language.yaml."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from language import PLACES, examples, instruction

from codesign.evidence.bounds.derive import bound
from codesign.evidence.cost.rtl.block_sizes import sizes
from codesign.figures.markdown import table
from codesign.probe.space import UNREAD
from codesign.torch.rules import recipe_on
from isa_model.c_golden import source
from isa_model.diagnostics import InputError
from isa_model.engines import cpu, cuda, lines
from isa_model.engines.plan import Plan, Unsupported
from isa_model.instruction import Instruction
from isa_model.vectors.goals import without


class Refused(Exception):
    """A reader does not take an instruction."""


def _compiled(spec: Instruction, field: str) -> str:
    cpu.source(Plan(spec))
    cuda.CudaCores(Plan(spec.dense)).source()
    return "yes"


def _interpreted(spec: Instruction, field: str) -> str:
    if spec.sparsity or spec.is_stochastic:
        raise Refused
    return "yes" if lines.program(spec.dense) else "by golden"


def _probed(spec: Instruction, field: str) -> str:
    if field in UNREAD or spec.is_stochastic or lines.program(spec.dense) is None:
        raise Refused
    return "yes"


def _vectors(spec: Instruction, field: str) -> str:
    return "random" if without(spec.dense) else "yes"


def _in_c(spec: Instruction, field: str) -> str:
    source.check(spec)
    return "yes"


def _hardware(spec: Instruction, field: str) -> str:
    sizes(spec)
    return "yes"


def _bounded(spec: Instruction, field: str) -> str:
    bound(spec, 64)
    return "yes"


def _on_models(spec: Instruction, field: str) -> str:
    recipe_on(spec)
    return "yes"


READERS: dict[str, Callable[[Instruction, str], str]] = {
    "`cpu`, `gpu`": _compiled,
    "`lines`": _interpreted,
    "`probe`": _probed,
    "`vectors`": _vectors,
    "C model, `disclose`": _in_c,
    "`rtl`": _hardware,
    "`bound`": _bounded,
    "`model`": _on_models,
}
"""Readers by their column. Each gets an instruction with a field, and the field's name; it returns its cell, or refuses."""


def cells(spec: Instruction, field: str) -> list[tuple[str, str]]:
    """Return what each reader makes of an instruction, and its words where it refuses with words."""
    spec, found = spec.model_copy(update={"name": "the instruction"}), []
    for read in READERS.values():
        try:
            found.append((read(spec, field), ""))
        except (Refused, Unsupported):
            found.append(("no", ""))
        except InputError as error:
            problem = error.problems[0]
            found.append(("no", f"{problem.message.removeprefix(f'{spec.name}: ')}. Instead: {problem.hint}"))
    return found


def rows() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield each field of the language whose example some reader does not read, as it is written, and the readers' cells."""
    plain = cells(instruction(), "")
    for example in examples():
        spec = instruction(example.get("with", {}), example["change"])
        without_it = cells(instruction(example.get("with", {})), "")
        model, field = example["shows"][0].split(".")
        own = cells(spec, field)
        if [cell for cell, _ in own] != [cell for cell, _ in plain] and own != without_it:
            yield _written(PLACES[model] + field, example["change"]), own


def _written(place: str, change: Any) -> str:
    """Return a field as it is written, with its value where that is one word."""
    parts = place.rstrip(".").replace("NAME.", "sum.").split(".")
    value: Any = change
    for part in parts:
        value = value.get(part) if isinstance(value, dict) else None
    return f"`{place}: {value}`" if isinstance(value, str) else f"`{place}`"


def readers_text() -> str:
    """Return the table of fields that some readers do not read, and what they say instead."""
    found = list(rows())
    shown = table(" | ".join(["field", *READERS]), ([written, *(cell for cell, _ in own)] for written, own in found))
    said = [
        f"- {name}, {written}: {words}"
        for i, name in enumerate(READERS)
        for written, own in found
        if (words := own[i][1])
    ]
    return "\n".join([shown, "", *said])
