"""The base of all models.

Docstrings of fields are read from the source when they are asked for: reading them at import would take a quarter of its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core.core_schema import CoreSchema, no_info_before_validator_function

from isa_model.diagnostics import at, together


@cache
def field_docs(model: type) -> dict[str, str]:
    """Return the docstring under each field of a class and its bases; none where the source is not at hand."""
    import ast
    import inspect
    from textwrap import dedent

    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if each.__module__.split(".")[0] in ("builtins", "pydantic"):
            continue
        try:
            (definition,) = ast.parse(dedent(inspect.getsource(each))).body
        except (OSError, TypeError, SyntaxError):
            continue
        assert isinstance(definition, ast.ClassDef)
        for field, text in pairwise(definition.body):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if (
                isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                found[field.target.id] = inspect.cleandoc(text.value.value)
    return found


_SCALARS = frozenset((str, int, float, type(None)))
"""Types of most values, none of them a boolean's."""


@cache
def _numeric(model: type[BaseModel]) -> frozenset[str]:
    """Return the fields that hold numbers and no booleans."""
    types = {name: set(_types(field.annotation)) for name, field in model.model_fields.items()}
    return frozenset(name for name, each in types.items() if each & {int, float} and not each & {bool, Any, object})


def _types(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation is made of, without the values of literals."""
    if get_origin(annotation) is Literal:
        return
    parts = get_args(annotation)
    if not parts:
        yield annotation
    for part in parts[:1] if get_origin(annotation) is Annotated else parts:
        yield from _types(part)


def _booleans(value: Any, *path: str | int) -> Iterator[tuple[bool, tuple[str | int, ...]]]:
    """Yield every boolean in a value, also in its lists and mappings, and the path to it."""
    if isinstance(value, bool):
        yield value, path
    elif isinstance(value, list | tuple):
        for i, one in enumerate(value):
            yield from _booleans(one, *path, i)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _booleans(one, *path, key)


def _holds_booleans(value: Any) -> bool:
    """Return whether `_booleans` finds any; this takes a fraction of the time."""
    if type(value) in _SCALARS:
        return False
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, bool) or (not _SCALARS.issuperset(map(type, inside)) and any(map(_holds_booleans, inside)))


def _without_booleans(value: Any) -> Any:
    """Refuse booleans, which Python counts as integers, where numbers are wanted."""
    if _holds_booleans(value):
        raise together(
            at(*path, message=f"`{str(each).lower()}` is not a number", hint="a number")
            for each, path in _booleans(value)
        )
    return value


class Described(BaseModel):
    """A model whose JSON Schema has the docstrings of its fields, which refuses booleans where numbers are wanted, and whose
    copies compute their cached properties again."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in field_docs(cls).items():
            if name in properties:
                properties[name].setdefault("description", text)
        return schema

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema, whose numeric fields refuse booleans; a validator of all fields would be slow to start."""
        schema = handler(source)
        fields: Any = handler.resolve_ref_schema(schema)
        while fields["type"] != "model-fields":
            fields = fields["schema"]
        for name in _numeric(cls):
            holder = fields["fields"][name]
            if holder["schema"]["type"] == "default":
                holder = holder["schema"]
            holder["schema"] = no_info_before_validator_function(_without_booleans, holder["schema"])
        return schema

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some fields changed; what was computed from the fields is computed anew."""
        copy = super().model_copy(update=update, deep=deep)
        for name in vars(copy).keys() - type(self).model_fields.keys():
            del vars(copy)[name]
        return copy
