"""Errors in a user's input: YAML is read with positions, and each fault is shown at its place.

YAML is that of the 1.2 core schema: `2e-4` is a number and `on` is text. Refused is what a spec does not need: tags, merge
keys, several documents, infinite numbers, files of over 1 MiB, and aliases that expand to too many values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import PydanticCustomError

from isa_model.input_files import read_bytes, reason
from isa_model.printable import unprintable, visible, visible_lines

Loc = tuple[str | int, ...]

MAX_BYTES = 1 << 20
MAX_NODES = 10_000
MAX_DEPTH = 50
MAX_DIGITS = 4_000
MAX_SHOWN = 50
"""Most faults of one file that are shown; further ones are counted."""
MAX_COLUMNS = 240
"""Most characters of a line that are shown, around the fault."""
SLUG = r"^[a-z0-9][a-z0-9-]*$"
"""Pattern of a short name, which files and folders are named after."""


@dataclass(frozen=True)
class Problem:
    """One fault in the input: its place, what is wrong, and what would be right."""

    file: str
    line: int
    """Line from 1; 0 if the fault has no place."""
    column: int
    """Column from 1; 0 if the fault has no place."""
    message: str
    hint: str = ""
    source: str = ""
    """Text of the line."""
    width: int = 1
    """Characters to underline."""
    path: Loc = ()
    """Keys and indices that lead to the field at fault, which may be missing."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: " if self.file else ""
        lines = [visible_lines(f"{place}{self.message}")]
        if self.line:
            first = max(self.column - 1 - MAX_COLUMNS // 2, 0) if len(self.source) > MAX_COLUMNS else 0
            shown = self.source[first : first + MAX_COLUMNS]
            before = self.column - 1 - first
            lines += [
                f"{self.line:>4} | {visible(shown)}",
                f"     | {' ' * before}{'^' * max(min(self.width, len(shown) - before), 1)}",
            ]
        if self.hint:
            lines.append(visible_lines(f"     = {self.hint}"))
        return "\n".join(lines)


class Unavailable(Exception):
    """This machine lacks what was asked for, such as a GPU; the message says what. The command's exit code is 3."""


class InputError(Exception):
    """A file or value that a user gave cannot be used; `problems` holds every reason."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    @classmethod
    def of(cls, message: str, hint: str = "") -> InputError:
        """Return an error with one problem and without a file."""
        return cls([Problem("", 0, 0, message, hint)])

    def __str__(self) -> str:
        by_file: dict[str, list[Problem]] = {}
        for problem in self.problems:
            by_file.setdefault(problem.file, []).append(problem)
        lines = []
        for problems in by_file.values():
            lines += [str(problem) for problem in problems[:MAX_SHOWN]]
            if len(problems) > MAX_SHOWN:
                lines.append(f"... and {len(problems) - MAX_SHOWN} more")
        if len(self.problems) > 1:
            files = f"{len(by_file)} files" if len(by_file) > 1 else self.problems[0].file or "the input"
            lines.append(f"{len(self.problems)} errors in {files}")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Place:
    line: int
    column: int
    width: int


@dataclass
class Document:
    """A YAML file as plain data, with the place of every value and key."""

    name: str
    data: dict[str, Any]
    lines: list[str]
    values: dict[Loc, yaml.Node] = field(default_factory=dict)
    keys: dict[Loc, yaml.Node] = field(default_factory=dict)

    def problem(self, loc: Loc, message: str, hint: str = "", key: bool = False) -> Problem:
        """Return a Problem at a value, or at its key; for a path that is not there, at the nearest key above it."""
        return self.problem_at(self.place(loc, key), message, hint, loc)

    def problem_at(self, place: _Place, message: str, hint: str = "", loc: Loc = ()) -> Problem:
        """Return a Problem at a place of the text."""
        source = self.lines[place.line - 1] if place.line <= len(self.lines) else ""
        width = min(place.width, max(len(source) - place.column + 1, 1))
        return Problem(self.name, place.line, place.column, message, hint, source, width, loc)

    def place(self, loc: Loc, key: bool = False) -> _Place:
        """Return the place of a value, or of its key; for a path that is not there, of the nearest key above it."""
        node = (self.keys if key else self.values).get(loc)
        while node is None and loc:
            loc = loc[:-1]
            node = self.keys.get(loc) or self.values.get(loc)
        return _place(node) if node else _Place(1, 1, 1)


def _place(node: yaml.Node) -> _Place:
    """Return the place of a node, of one line."""
    start, end = node.start_mark, node.end_mark
    width = end.column - start.column if end.line == start.line else 1
    return _Place(start.line + 1, start.column + 1, max(width, 1))


def at(*path: str | int, message: str, hint: str = "") -> PydanticCustomError:
    """Return an error for a validator to raise; `path` leads from the model that raises it to the field at fault."""
    return PydanticCustomError("rule", "{text}", {"text": message, "hint": hint, "at": path})


def together(faults: Iterable[PydanticCustomError]) -> PydanticCustomError:
    """Return several errors of `at` as one, since a validator can raise only one."""
    every = list(faults)
    return PydanticCustomError("rules", "{text}", {"text": every[0].message(), "every": [e.context for e in every]})


def closest(word: str, candidates: Iterable[str]) -> str:
    """Return the candidate that `word` is probably a misspelling of; empty if there is none."""
    by_lower = {c.lower(): c for c in candidates}
    close = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else ""


def suggest(word: str, candidates: Iterable[str]) -> str:
    """Return `did you mean ...?` with the closest candidate; empty if none is close."""
    close = closest(word, candidates)
    return f"did you mean `{close}`?" if close else ""


# -- YAML ------------------------------------------------------------------------------------------------------------


def read_yaml(path: str | Path) -> Document:
    """Return the Document of a YAML file. Raises InputError if it cannot be read, or with everything wrong in it."""
    name = str(path)
    try:
        content = read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise _wrong_file(name, f"cannot be read: {reason(error)}") from None
    try:
        return parse_yaml(content.decode("utf-8"), name)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError([Problem(name, line, 1, "is not UTF-8 text", "save the file as UTF-8")]) from None


def parse_yaml(text: str, name: str) -> Document:
    """Return the Document of a YAML text. Raises InputError with everything wrong in it."""
    lines = text.splitlines()
    try:
        nodes = list(yaml.compose_all(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        source = lines[line - 1] if 0 < line <= len(lines) else ""
        message = " ".join(filter(None, (error.problem or "is not YAML", error.context)))
        raise InputError([Problem(name, line, column, f"not valid YAML: {message}", "", source)]) from None
    except yaml.YAMLError as error:
        raise _wrong_file(name, f"not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise _wrong_file(name, f"is nested deeper than {MAX_DEPTH} levels") from None
    if not nodes or nodes[0] is None:
        raise _wrong_file(name, "is empty", "a mapping such as `title: ...`")
    reader = _Reader(Document(name, {}, lines))
    data = reader.value(nodes[0], (), 0)
    if len(nodes) > 1:
        reader.fault(nodes[1], "a second document", "one document per file, without `---` in the middle")
    elif not isinstance(nodes[0], yaml.MappingNode):
        reader.fault(nodes[0], "the top level is not a mapping", "lines such as `title: ...`")
    if reader.problems:
        raise InputError(sorted(set(reader.problems), key=lambda p: (p.line, p.column)))
    reader.document.data = data
    return reader.document


def _wrong_file(name: str, message: str, hint: str = "") -> InputError:
    """Return an error about a file as a whole."""
    return InputError([Problem(name, 0, 0, message, hint)])


# The scalars of the YAML 1.2 core schema, 10.3.2.
_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_FIRST = "~nNtTfF+-.0123456789"
"""First characters of the scalars that are not text."""
_NOT_FINITE = re.compile(r"[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN")


class _Reader:
    """Convert composed nodes to plain data, and collect places and problems."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self.count = 0
        self.tagged = any("!" in line for line in document.lines)

    def fault(self, node: yaml.Node, message: str, hint: str = "") -> None:
        self.problems.append(self.document.problem_at(_place(node), message, hint))

    def value(self, node: yaml.Node, loc: Loc, depth: int) -> Any:
        self.count += 1
        if self.count > MAX_NODES or depth > MAX_DEPTH:
            if not any("too " in p.message for p in self.problems):
                limit = f"{MAX_NODES} values" if self.count > MAX_NODES else f"{MAX_DEPTH} levels"
                self.fault(
                    node, f"too much here: over {limit} once aliases are expanded", "use fewer aliases, or less data"
                )
            return None
        self.document.values[loc] = node
        if not node.tag.startswith("tag:yaml.org,2002:") or (self.tagged and self._has_tag(node)):
            self.fault(node, "YAML tags are not allowed here", "plain values only")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, loc, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*loc, i), depth + 1) for i, child in enumerate(node.value)]
        return self.scalar(node)

    def _has_tag(self, node: yaml.Node) -> bool:
        """Return whether the node begins with an explicit `!`."""
        start = node.start_mark
        line = self.document.lines[start.line] if start.line < len(self.document.lines) else ""
        return line[start.column : start.column + 1] == "!"

    def mapping(self, node: yaml.MappingNode, loc: Loc, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if key_node.value == "<<" and not key_node.style:
                self.fault(key_node, "merge keys (`<<`) are not allowed", "write the fields out")
            elif not isinstance(key, str):
                self.fault(key_node, "a key must be text", f'quote it: "{key}"' if key is not None else "")
            elif key in result:
                first = _place(self.document.keys[(*loc, key)]).line
                self.fault(key_node, f"`{key}` is given twice", f"it is already on line {first}")
            else:
                self.document.keys[(*loc, key)] = key_node
                result[key] = self.value(value_node, (*loc, key), depth + 1)
        return result

    def scalar(self, node: Any) -> Any:
        text = str(node.value)
        if character := unprintable(text):
            self.fault(node, f"this text holds {character}", "remove it")
            return None
        if node.style or text[:1] not in _FIRST:  # quoted or block text, or plain text
            return text
        if _NULL.fullmatch(text):
            return None
        if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
            return text.lower() == "true"
        if len(text) > MAX_DIGITS and _FLOAT.fullmatch(text):
            self.fault(node, f"this number has over {MAX_DIGITS} digits")
        elif _INTEGER.fullmatch(text):
            return int(text)
        elif _BASED.fullmatch(text):
            return int(text, 0)
        elif _FLOAT.fullmatch(text):
            number = float(text)
            if number in (float("inf"), float("-inf")):
                self.fault(node, f"{text} is beyond the range of a number", "a finite number")
            return number
        elif _NOT_FINITE.fullmatch(text):
            hint = "a finite number; among the values of a table `nan`, `infinity` or `-infinity`, without a dot"
            self.fault(node, f"{text} is not a finite number", hint)
        else:
            return text
        return None
