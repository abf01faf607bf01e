"""The catalogue of real instructions: a YAML file per architecture, each with families of instructions.

`catalogue()` lists the names, `families()` the patterns behind them. `load` returns an Instruction; `raw` returns its spec
as plain data, for a proposal to change.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from isa_model.diagnostics import Document, InputError, read_yaml, suggest
from isa_model.explain import explain
from isa_model.instruction import Instruction

_FOLDER = Path(__file__).parent / "catalogue"


def catalogue() -> list[str]:
    """Return the names of all instructions, architecture by architecture, in the order of its file."""
    return [name for architecture in architectures() for name in _entries(architecture)]


def families() -> list[tuple[str, str]]:
    """Return each family's name with placeholders, and its description with the placeholders' values."""
    found = []
    for architecture in architectures():
        for family in _families(architecture):
            each = {key: choices for key, choices in family.get("each", {}).items() if choices != [""]}
            unit = each.pop("unit", [""])[0]
            values = "; ".join(f"{key}: {_listed(choices)}" for key, choices in each.items())
            about = family["description"] + (f" ({values})" if values else "")
            about += "; also sparse, as .sp with twice the k" if "sparse" in family else ""
            found.append((f"{architecture}.{_fill_text(family['name'], {'unit': unit})}", about))
    return found


def _listed(choices: Any) -> str:
    """Return the values of a placeholder as they appear in names."""
    if _is_range(choices):
        return f"{choices['from']} to {choices['to']} by {choices['step']}"
    return ", ".join(str(choice) or "nothing" for choice in choices)


def _is_range(choices: Any) -> bool:
    return isinstance(choices, dict) and choices.keys() == {"from", "to", "step"}


def architectures() -> list[str]:
    """Return the architectures of the catalogue, the first parts of the names."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def check_architecture(name: str) -> None:
    """Raise InputError unless the catalogue has an architecture of this name."""
    if name not in architectures():
        hint = suggest(name, architectures()) or f"one of: {', '.join(architectures())}"
        raise InputError.of(f"no architecture is called `{name}`", hint)


def load(name_or_path: str | Path) -> Instruction:
    """Return an instruction of the catalogue by its name, or one described in a YAML file by the path.

    A string with a separator or a YAML suffix is a path. Raises InputError for an unknown name, and for a file that cannot
    be read or is wrong, with every place where it is wrong.
    """
    name = str(name_or_path)
    if is_path(name):
        return validated(read_yaml(name))
    try:
        return Instruction.model_validate(raw(name))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise InputError.of(f"{name}: its spec in the catalogue is wrong at {place}: {fault['msg']}") from None


def is_known(name: str) -> bool:
    """Return whether the catalogue has an instruction of this name."""
    return name in _entries(name.split(".")[0])


def is_path(name: str) -> bool:
    """Return whether a user's text means a file: it has a separator or a YAML suffix."""
    return "/" in name or "\\" in name or name.endswith((".yaml", ".yml"))


def validated(document: Document) -> Instruction:
    """Return the instruction that a document describes. Raises InputError with every fault, and for a proposal."""
    mark = next((key for key in ("proposal", "base", "change", "claims") if key in document.data), None)
    if mark is not None and "stages" not in document.data:
        message = f"this is a proposal, not an instruction: it has `{mark}`"
        raise InputError([document.problem((mark,), message, "codesign.load reads it", key=True)])
    data = {"name": Path(document.name).stem, **document.data}
    try:
        return Instruction.model_validate(data)
    except ValidationError as error:
        raise InputError(explain(document, error, Instruction, data)) from None


def raw(name: str) -> dict[str, Any]:
    """Return the spec of a catalogue instruction as plain data, as in its file. Raises InputError for an unknown name."""
    architecture = name.split(".")[0]
    if not is_known(name):
        near = _entries(architecture) or [f"{other}.{name.partition('.')[2]}" for other in architectures()]
        raise InputError.of(
            f"no instruction is called `{name}`",
            suggest(name, filter(is_known, near)) or "`codesign list` shows the catalogue",
        )
    family, values, about = _entries(architecture)[name]
    spec: dict[str, Any] = _fill(family["spec"], values)
    if "sparsity" in about:
        spec["shape"] = {**spec["shape"], "k": 2 * spec["shape"]["k"]}
    return {"name": name, "description": family["description"], **spec, **about}


def merge(spec: Any, change: Any) -> Any:
    """Return `spec` with `change` merged in (RFC 7396): mappings merge, null removes, anything else replaces."""
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    merged = dict(spec) if isinstance(spec, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def changed(spec: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of an instruction with `change` merged in (see `merge`).

    If the accumulator's format changes, the code of the old format's NaN is dropped, unless `change` gives one.
    """
    merged: dict[str, Any] = merge(spec, change)
    if "nan" not in change and merged.get("accumulator") != spec.get("accumulator"):
        merged.pop("nan", None)
    return merged


@cache
def _read(architecture: str) -> dict[str, Any]:
    """Return the data of an architecture's file."""
    return read_yaml(_FOLDER / f"{architecture}.yaml").data


@cache
def _families(architecture: str) -> list[dict[str, Any]]:
    """Return an architecture's families, each followed by its variants (`also`), whose fields go before its own."""
    found = []
    for family in _read(architecture)["families"]:
        for variant in ({}, *family.get("also", ())):
            each = {**family.get("each", {}), **variant.get("each", {})}
            description = family.get("description", "") + variant.get("adds", "")
            found.append({**family, **variant, "each": each, "description": description})
    return found


@cache
def _entries(architecture: str) -> dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str]]]:
    """Return an architecture's instructions by name: family, values of its placeholders, sources of the rules."""
    if architecture not in architectures():
        return {}
    entries = {}
    data = _read(architecture)
    for family in _families(architecture):
        for key in ("name", "description", "spec", "source", "checked", "known"):
            if key not in family and not (key in _ABOUT and key in data):
                message = f"{architecture}.yaml: family `{family.get('name', '?')}` has no `{key}`"
                raise InputError.of(message, "hopper.yaml says how a file of families reads")
        about: dict[str, Any] = {key: family.get(key, data.get(key)) for key in _ABOUT}
        sparse = about | family["sparse"] if "sparse" in family else None
        for qualifiers, values in _combinations(family.get("each", {})):
            name = f"{architecture}.{_fill_text(family['name'], qualifiers)}"
            found = {name: about} if sparse is None else {name: about, _sparse_name(name): sparse}
            for full, own in found.items():
                if full in entries:
                    raise ValueError(f"two instructions are called {full}")
                entries[full] = (family, values, own)
    return entries


_ABOUT = ("source", "checked", "known")
"""Fields that a family may take from the top of its file."""


def _sparse_name(name: str) -> str:
    """Return the name of the sparse instruction that stores as many products as a dense one: `.sp` and twice the k."""
    shape = re.compile(r"\.((?:cta_group::2\.)?m\d+n\d+)k(\d+)\.")
    return shape.sub(lambda x: f".sp.{x[1]}k{2 * int(x[2])}.", name, count=1)


def _combinations(each: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield every choice of one entry per placeholder: its qualifiers in the name, and its values in the spec."""
    options = []
    for choices in each.values():
        if _is_range(choices):
            choices = range(choices["from"], choices["to"] + 1, choices["step"])
        options.append(list(choices.items()) if isinstance(choices, dict) else [(c, c) for c in choices])
    for chosen in product(*options):
        qualifiers, values = ([entry[i] for entry in chosen] for i in (0, 1))
        yield dict(zip(each, qualifiers, strict=True)), dict(zip(each, values, strict=True))


def _fill(node: Any, values: dict[str, Any]) -> Any:
    """Return a copy of plain data with each placeholder, such as "{n}" or "{d.nan}", replaced by its value."""
    if isinstance(node, dict):
        return {key: _fill(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(value, values) for value in node]
    if isinstance(node, str) and node.startswith("{") and node.endswith("}"):
        value: Any = values
        for step in node[1:-1].split("."):
            value = value[step]
        return value
    return node


def _fill_text(text: str, values: dict[str, Any]) -> str:
    for key, value in values.items():
        text = text.replace(f"{{{key}}}", str(value))
    return text
