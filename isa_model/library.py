"""Real instructions as spec files: one YAML file per architecture, families of instructions inside.

`catalogue()` lists the names, `load` returns an Instruction, `raw` its spec as plain data for a proposal to change.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from isa_model.diagnostics import Document, InputError, explain, read_yaml, suggest
from isa_model.instruction import Instruction

_FOLDER = Path(__file__).parent / "catalogue"


def catalogue() -> list[str]:
    """Names of all instructions, by architecture in the order of its file."""
    return list(_entries())


def load(name_or_path: str | Path) -> Instruction:
    """Return an instruction of the catalogue by name, or one described in a YAML file by path.

    Raises InputError when there is no such name, and for a file with every place where it is wrong.
    """
    name = str(name_or_path)
    if name in _entries():
        return Instruction.model_validate(raw(name))
    if not is_path(name):
        raise InputError.of(
            f"no instruction is called `{name}`",
            suggest(name, _entries()) or "`codesign list` shows the catalogue",
        )
    document = read_yaml(Path(name))
    return validated(document)


def is_path(name: str) -> bool:
    """Whether the user means a file: it has a separator or a YAML suffix."""
    return "/" in name or "\\" in name or name.endswith((".yaml", ".yml"))


def validated(document: Document) -> Instruction:
    """The instruction a document describes. Raises InputError with every place where it is wrong."""
    data = {"name": Path(document.name).stem, **document.data}
    try:
        return Instruction.model_validate(data)
    except ValidationError as error:
        raise InputError(explain(document, error, Instruction, data)) from None


def raw(name: str) -> dict[str, Any]:
    """The spec of a catalogue instruction as plain data, as its file has it. Raises InputError for an unknown name."""
    if name not in _entries():
        raise InputError.of(
            f"no instruction is called `{name}`",
            suggest(name, _entries()) or "`codesign list` shows the catalogue",
        )
    family, values, about = _entries()[name]
    spec: dict[str, Any] = _fill(family["spec"], values)
    return {"name": name, "description": family["description"], **spec, **about}


@cache
def _entries() -> dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str]]]:
    """Every instruction: its family, the values of the family's placeholders, where the rules come from."""
    entries = {}
    for path in sorted(_FOLDER.glob("*.yaml")):
        data = read_yaml(path).data
        for family in data["families"]:
            about = {key: family.get(key, data[key]) for key in ("source", "checked")}
            for qualifiers, values in _combinations(family.get("each", {})):
                name = f"{data['architecture']}.{_fill_text(family['name'], qualifiers)}"
                if name in entries:
                    raise ValueError(f"{path}: two instructions are called {name}")
                entries[name] = (family, values, about)
    return entries


def _combinations(each: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every choice of one entry per placeholder, as qualifiers for the name and as values for the spec."""
    options = []
    for choices in each.values():
        if isinstance(choices, dict) and choices.keys() == {"from", "to", "step"}:
            choices = range(choices["from"], choices["to"] + 1, choices["step"])
        options.append(list(choices.items()) if isinstance(choices, dict) else [(c, c) for c in choices])
    for chosen in product(*options):
        yield (
            {key: qualifier for key, (qualifier, _) in zip(each, chosen, strict=True)},
            {key: value for key, (_, value) in zip(each, chosen, strict=True)},
        )


def _fill(node: Any, values: dict[str, Any]) -> Any:
    """A copy of plain data with each placeholder text such as "{n}" replaced by its value."""
    if isinstance(node, dict):
        return {key: _fill(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(value, values) for value in node]
    if isinstance(node, str) and node.startswith("{") and node.endswith("}"):
        return values[node[1:-1]]
    return node


def _fill_text(text: str, values: dict[str, Any]) -> str:
    for key, value in values.items():
        text = text.replace(f"{{{key}}}", str(value))
    return text
