"""Explanation of pydantic's errors in plain words: one problem for each cause, with its place in the document."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from isa_model.diagnostics import MAX_SHOWN, SLUG, Document, Loc, Problem, closest, suggest
from isa_model.field_docs import field_docs

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


def explain(
    document: Document, error: ValidationError, model: type[BaseModel], data: Any, prefix: Loc = ()
) -> list[Problem]:
    """Return every fault that pydantic found, in plain words and with its place in the document.

    `data` is what was validated. `prefix` is the path in the document at which `data`, or the document's part of it,
    begins. Faults that only follow from another one are left out. Faults beyond `MAX_SHOWN` have no hints.
    """
    by_place: dict[Loc, list[tuple[dict[str, Any], bool]]] = {}
    for fault in _each(error):
        loc, in_branch = _data_path(data, fault["loc"], missing=fault["type"] == "missing")
        loc += tuple(fault.get("ctx", {}).get("at", ()))
        by_place.setdefault(loc, []).append((fault, in_branch))
    # If one branch of a union complains about something inside the value, that branch was meant.
    meant = {
        loc[:i]
        for loc, faults in by_place.items()
        if any(in_branch for _, in_branch in faults)
        for i in range(len(loc))
    }
    kept = {
        loc: [fault for fault, _ in faults if not _counts_the_rest(fault)]
        for loc, faults in by_place.items()
        if not (loc in meant and all(in_branch for _, in_branch in faults))
    }
    teller = _Teller(document, model, prefix)
    problems: list[Problem] = []
    for loc in sorted(kept, key=lambda loc: teller.order(loc)):
        problems += teller.tell(loc, kept[loc], hints=len(problems) < MAX_SHOWN)
    told = [p for p in dict.fromkeys(problems) if p.path not in teller.misspelt]
    return sorted(told, key=lambda p: (p.line, p.column))


def _each(error: ValidationError) -> Iterator[dict[str, Any]]:
    """Yield the faults of an error; those raised `together` one by one."""
    for fault in error.errors(include_url=False):
        for context in fault["ctx"]["every"] if fault["type"] == "rules" else ():
            yield {**fault, "type": "rule", "msg": context["text"], "ctx": context}
        if fault["type"] != "rules":
            yield dict(fault)


def _counts_the_rest(fault: dict[str, Any]) -> bool:
    """Return whether a list counts as too short only because some of its entries were refused."""
    return bool(fault["type"] == "too_short" and len(fault["input"]) >= fault["ctx"]["min_length"])


def _data_path(data: Any, steps: Loc, missing: bool) -> tuple[Loc, bool]:
    """Return a fault's path in the data, and whether pydantic's path also names the branch of a union."""
    path: list[str | int] = []
    node, in_branch = data, False
    for i, step in enumerate(steps):
        if step == "[key]":  # the fault is in the key itself
            continue
        if isinstance(node, dict) and step in node:
            node = node[step]
        elif isinstance(node, list) and isinstance(step, int):
            node = node[step] if step < len(node) else None
        elif not (missing and i == len(steps) - 1):
            in_branch = True
            continue
        path.append(step)
    return tuple(path), in_branch


_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _describe(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text '{value}'"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"{value}"


_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "less_than_equal": ("at most", "le"),
    "greater_than": ("more than", "gt"),
    "less_than": ("less than", "lt"),
}


class _Teller:
    """Describe the faults of one document in words."""

    def __init__(self, document: Document, model: Any, prefix: Loc) -> None:
        self.document, self.model, self.prefix = document, model, prefix
        self.misspelt: set[Loc] = set()
        """Paths of fields that misspelt ones were meant to be; they are not reported as missing."""
        self._fields: dict[Loc, dict[str, str]] = {}

    def order(self, loc: Loc) -> tuple[int, int]:
        place = self.document.place((*self.prefix, *loc))
        return place.line, place.column

    def tell(self, loc: Loc, faults: list[dict[str, Any]], hints: bool) -> list[Problem]:
        """Return the problems at one place; wrong types for the branches of a union are one problem."""
        expected = list(dict.fromkeys(_EXPECTED[f["type"]] for f in faults if f["type"] in _EXPECTED))
        rest = [f for f in faults if f["type"] not in _EXPECTED]
        if expected and not rest:
            return [self.problem(loc, f"expected {' or '.join(expected)}, got {_describe(faults[0]['input'])}")]
        # Where a field takes names or a number, a number is told what is wrong with it as one.
        of_numbers = [f for f in rest if f["type"] != "literal_error"]
        return [self.one(loc, {**fault, "also": expected}, hints) for fault in of_numbers or rest]

    def problem(self, loc: Loc, message: str, hint: str = "", key: bool = False) -> Problem:
        return self.document.problem((*self.prefix, *loc), message, hint, key)

    def fields(self, loc: Loc) -> dict[str, str]:
        if loc not in self._fields:
            self._fields[loc] = fields_at(self.model, loc)
        return self._fields[loc]

    def one(self, loc: Loc, fault: dict[str, Any], hints: bool) -> Problem:
        kind, context, name = fault["type"], fault.get("ctx", {}), str(loc[-1]) if loc else ""
        if kind == "extra_forbidden":
            return self.problem(loc, f"unknown field `{name}`", self.unknown(loc) if hints else "", key=True)
        if kind == "missing":
            return self.problem(loc, f"missing field `{name}`", self.fields(loc[:-1]).get(name, ""), key=True)
        if kind in ("enum", "literal_error"):
            allowed = re.findall(r"'([^']*)'", context["expected"])
            hint = suggest(str(fault["input"]), allowed) or f"one of: {', '.join([*allowed, *fault['also']])}"
            return self.problem(loc, f"`{fault['input']}` is not allowed here", hint)
        if kind in _BOUNDS:
            words, key = _BOUNDS[kind]
            return self.problem(loc, f"must be {words} {context[key]:g}, got {_describe(fault['input'])}")
        if kind in ("too_short", "too_long"):
            words, key = ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
            count = context[key]
            entries = "entry" if count == 1 else "entries"
            return self.problem(
                loc, f"needs {words} {count} {entries}, got {context['actual_length'] or len(fault['input'])}"
            )
        if kind == "string_too_long":
            return self.problem(loc, f"at most {context['max_length']} characters, got {len(fault['input'])}")
        if kind == "int_parsing_size":
            return self.problem(loc, "is too large a number")
        if kind == "string_pattern_mismatch" and context["pattern"] == SLUG:
            slug = re.sub("[^a-z0-9]+", "-", str(fault["input"]).lower()).strip("-") or "my-proposal"
            message = f"`{fault['input']}` is not a short name of lower-case letters, digits and hyphens"
            return self.problem(loc, message, f"did you mean `{slug}`?", key=fault["loc"][-1:] == ("[key]",))
        message = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        where = context.get("at", ())
        return self.problem(loc, message, context.get("hint", ""), key=bool(where) and isinstance(where[-1], str))

    def unknown(self, loc: Loc) -> str:
        """Return a hint on an unknown field: the closest name among the fields that are not yet given."""
        fields = self.fields(loc[:-1])
        close = closest(str(loc[-1]), fields)
        meant = (*self.prefix, *loc[:-1], close)
        if close and meant not in self.document.keys:
            self.misspelt.add(meant)
            return f"did you mean `{close}`?"
        if close:
            return f"leave `{loc[-1]}` out: `{close}` is already given"
        return f"fields here: {', '.join(fields)}" if fields else ""


def fields_at(model: Any, loc: Loc) -> dict[str, str]:
    """Return the field names of the model at a path, each with its description."""
    models = _models(model)
    for step in loc:
        models = [inner for m in models for inner in _step(m, step)]
    fields: dict[str, str] = {}
    for m in models:
        if hasattr(m, "model_fields"):
            fields |= {name: field_docs(m).get(name, "").split("\n")[0] for name in m.model_fields}
    return fields


def _models(annotation: Any) -> list[Any]:
    """Return the classes and containers an annotation can mean, through Annotated, Optional and unions."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _models(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [m for arg in get_args(annotation) for m in _models(arg)]
    return [annotation]


def _step(annotation: Any, step: str | int) -> list[Any]:
    if hasattr(annotation, "model_fields"):
        info = annotation.model_fields.get(step)
        return _models(info.annotation) if info else []
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is dict and isinstance(step, str):
        return _models(args[1])
    if origin in (tuple, list) and args:
        if isinstance(step, int):
            return _models(args[0])
        return [m for m in _models(args[0]) for m in _step(m, step)]  # a single entry, given without a list
    return []
