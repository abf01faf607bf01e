"""The base of all models: docstrings of fields, read from the source when they are asked for (at import they would take a
quarter of it), and copies without what was computed from the original."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any, Self

from pydantic import BaseModel, GetJsonSchemaHandler


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


class Described(BaseModel):
    """A model whose JSON Schema has the docstrings of its fields, and whose copies compute their cached properties anew."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in field_docs(cls).items():
            if name in properties:
                properties[name].setdefault("description", text)
        return schema

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some fields changed; what was computed from the fields is computed anew."""
        copy = super().model_copy(update=update, deep=deep)
        for name in vars(copy).keys() - type(self).model_fields.keys():
            del vars(copy)[name]
        return copy
