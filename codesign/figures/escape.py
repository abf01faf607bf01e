"""Escape the text of authors and files for Markdown. Jinja escapes HTML (report/write.py), and a canvas its own text."""

from __future__ import annotations

import re

from isa_model.printable import visible

_SPECIAL = re.compile(r"[\\`*<>\[\]|#~&]|(?<![^\W_])_|_(?![^\W_])")
_HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_LEADING = re.compile(r"^(\s*)(?:([-+=])|(\d+)([.)]))")
_PIPE = re.compile(r"(\\*)\|")
_BLOCK = re.compile(r"^(\s*)(?=```|~~~|\[.*\]:)")
"""Begins a block of code, or defines the target of links."""


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def literal(text: str) -> Markdown:
    """Return Markdown that shows `text` as it is, in one line: no markup, link or HTML of it survives."""
    line = visible(" ".join(text.split()))
    escaped = _SPECIAL.sub(lambda match: _HTML.get(match[0], f"\\{match[0]}"), line)
    return Markdown(_LEADING.sub(lambda m: f"{m[1]}\\{m[2]}" if m[2] else f"{m[1]}{m[3]}\\{m[4]}", escaped))


def sentence(value: object) -> object:
    """Return a value made safe in a sentence or cell: code and emphasis stay, but no HTML, link, image or column begins."""
    if not isinstance(value, str) or isinstance(value, Markdown):
        return value
    text = visible(" ".join(value.split())) if value.strip() else value
    text = _BLOCK.sub(r"\1\\", text.replace("<", "&lt;").replace("](", "]\\(").replace("][", "]\\["))
    return _PIPE.sub(r"\1\1\|", text)


def fenced(text: str, language: str) -> Markdown:
    """Return a block of code, its fence longer than any in `text`."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return Markdown(f"{fence}{language}\n{text}{fence}")
