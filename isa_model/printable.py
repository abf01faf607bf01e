"""Control characters, which a terminal, an editor or a page obeys instead of showing: find and replace them."""

from __future__ import annotations

import re
import unicodedata

_LAID_OUT = "\n\t"
# Controls; marks, embeddings, overrides and isolates of the bidirectional algorithm; line and paragraph separators; halves of
# surrogate pairs; characters for "interlinear annotation", tags, and the byte order mark.
_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def unprintable(text: str) -> str:
    """Return the name and kind of the first control character in a text, line ends and tabs excepted; empty if none."""
    if text.isascii() and text.isprintable():
        return ""
    for match in _OBEYED.finditer(text):
        if match[0] not in _LAID_OUT:
            kind = {"Cc": "a control character", "Cs": "half of a surrogate pair"}.get(unicodedata.category(match[0]))
            return f"U+{ord(match[0]):04X}, {kind or 'which changes how text around it is shown'}"
    return ""


def visible(text: str) -> str:
    """Return `text` with every control character, line ends included, replaced by a visible one, of the same length."""
    return _OBEYED.sub(lambda match: _symbol(ord(match[0])), text)


def visible_lines(text: str) -> str:
    """Return `text` as `visible` does, but keep line ends and tabs."""
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in text.split("\n"))


def _symbol(code: int) -> str:
    """Return the symbol of an ASCII control character, and the replacement character for any other."""
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"
