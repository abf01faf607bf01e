"""Tables and sections on Pydantic models, as Markdown, from their JSON Schema: fields, values, defaults, meaning."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from codesign.figures.markdown import table

Node = dict[str, Any]


class Reference:
    """The models that a schema names, and how a page refers to them."""

    def __init__(self, root: type[BaseModel], elsewhere: Mapping[str, str] | None = None) -> None:
        """`elsewhere` names the page of each model that this page does not describe."""
        self.elsewhere = elsewhere or {}
        schema = root.model_json_schema()
        self.models: dict[str, Node] = schema.pop("$defs", {})
        self.root = root.__name__
        self.models[self.root] = schema

    def described(self) -> list[str]:
        """Return the models that the page describes, each after the first that refers to it."""
        found = [self.root]
        for model in found:
            named = re.findall(r"'#/\$defs/(\w+)'", str(self.models[model]))
            found += [name for name in dict.fromkeys(named) if name not in found and self._has_fields(name)]
        return found

    def _has_fields(self, name: str) -> bool:
        return name not in self.elsewhere and "properties" in self.models[name]

    def fields(self, model: str) -> dict[str, Node]:
        """Return the schema of each field of a model."""
        properties: dict[str, Node] = self.models[model]["properties"]
        return properties

    def about(self, model: str) -> str:
        """Return the model's description."""
        return paragraphs(self.models[model].get("description", ""))

    def values(self, node: Node) -> str:
        """Return the values that a field takes, in words."""
        if "$ref" in node:
            name = node["$ref"].rsplit("/", 1)[1]
            target = self.models[name]
            if "enum" in target:
                return self.values(target)
            return f"[{words(name)}]({self.elsewhere.get(name, '')}#{anchor(name)})"
        if "anyOf" in node:
            found = [self.values(choice) for choice in node["anyOf"] if choice.get("type") != "null"]
            words_only = all(x[0] == "`" for x in found)
            return " or ".join(", ".join(found).rsplit(", ", 1) if words_only else dict.fromkeys(found))
        if "enum" in node:
            return ", ".join(f"`{value}`" for value in node["enum"])
        if "const" in node:
            return f"`{node['const']}`"
        return self._plain(node)

    def _plain(self, node: Node) -> str:
        kind = node.get("type")
        if kind == "array":
            if "prefixItems" in node:
                return f"[{', '.join(self.values(item) for item in node['prefixItems'])}]"
            return f"list of {self.values(node['items'])}"
        if kind == "object":
            inner = node.get("additionalProperties")
            return f"mapping of names to {self.values(inner)}" if isinstance(inner, dict) and inner else "mapping"
        plain = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "string": "text"}
        return plain.get(str(kind), "anything") + _bounds(node)

    def default(self, model: str, field: str) -> str:
        """Return the default of a field: `required`, nothing for one that may be left out, or the value as YAML."""
        if field in self.models[model].get("required", ()):
            return "required"
        return as_yaml(self.fields(model)[field].get("default"))

    def table(self, model: str) -> str:
        """Return the table of a model's fields."""
        rows = (
            (f"`{field}`", self.values(node), self.default(model, field), one_line(node.get("description", "")))
            for field, node in self.fields(model).items()
        )
        return table("field | values | default | meaning", rows)


def as_yaml(value: Any) -> str:
    """Return a default as inline code; nothing for what is empty."""
    if value in (None, "", [], {}):
        return ""
    if isinstance(value, dict) and "name" in value:
        value = value["name"]
    if isinstance(value, dict):
        value = {key: x for key, x in value.items() if x not in (None, "", [], {})}
    return f"`{flow(value)}`"


def flow(value: Any) -> str:
    """Return plain data as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip()
    return text.removesuffix("...").strip()


def block(value: dict[str, Any], indent: int = 0) -> Iterator[str]:
    """Yield plain data as lines of YAML, each mapping on one line where that is short."""
    for key, inner in value.items():
        line = f"{' ' * indent}{key}: {flow(inner)}"
        if len(line) <= 90 or not isinstance(inner, dict):
            yield line
        else:
            yield f"{' ' * indent}{key}:"
            yield from block(inner, indent + 2)


def words(name: str) -> str:
    """Return a model's name as words: `ScaleOperand` is `scale operand`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def anchor(name: str) -> str:
    """Return the anchor of a model's heading."""
    return f"{words(name).replace(' ', '-')}-fields"


def heading(name: str) -> str:
    """Return a model's heading."""
    return f"## {words(name).capitalize()} fields"


def one_line(text: str) -> str:
    """Return a description on one line."""
    return " ".join(text.split())


def paragraphs(text: str) -> str:
    """Return a description with one line a paragraph."""
    return "\n\n".join(one_line(part) for part in text.split("\n\n"))


def _bounds(node: Node) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None and high is not None:
        return f", {low:g} to {high:g}" if isinstance(low, float) else f", {low} to {high}"
    above = node.get("exclusiveMinimum")
    if above is not None:
        return f", above {above:g}"
    return f", at least {low}" if low is not None else ""
