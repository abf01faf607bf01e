"""Ways to damage a file, as somebody's editor, script or malice would; each returns the damaged content."""

from __future__ import annotations

import json
import random
import re
from typing import Any

ODD = (
    *("", "~", "true", "0", "-1", "1e999", ".nan", "1" * 40, "1e-400", "0x7fffffffffffffff", "999999999999", "1e12"),
    *("[]", "{}", "[[[[[[1]]]]]]", "{a: {a: {a: 1}}}", "&a [*a]", "*nobody", "!!python/object:os.system {}", "<<: {}"),
    *(
        '"\\x1b[31m"',
        '"\\u202e"',
        '"a\\nb"',
        "../../etc/passwd",
        "/dev/zero",
        "'",
        '"',
        "|",
        ">",
        "- -",
        "? a",
        "%",
        "@",
    ),
    *("e4m3", "ue8m0", "fp32", "int8", "e99m99", "software", "today", "normal", "deepseek-v3", "captured", "products"),
    *("x" * 5000, "é漢🙂", "\ud800".encode("utf-8", "surrogatepass").decode("latin1"), "[1000000000, 128]", "5e-324"),
)
"""Values that a field may not expect."""


def text(rng: random.Random, source: str) -> bytes:
    """A YAML file after one to three changes of words, lines, indentation or bytes."""
    damaged = source.encode()
    for _ in range(rng.randint(1, 3)):
        damaged = rng.choice((_word, _word, _word, _line, _line, _indent, _bytes, _key))(rng, damaged)
    return damaged


def _word(rng: random.Random, source: bytes) -> bytes:
    """Another value in the place of one."""
    found = list(re.finditer(rb"[^\s,\[\]{}:#]+", source))
    if not found:
        return source
    place = rng.choice(found)
    return source[: place.start()] + rng.choice(ODD).encode() + source[place.end() :]


def _key(rng: random.Random, source: bytes) -> bytes:
    """A key that is misspelt, repeated a thousand times, or moved elsewhere."""
    found = list(re.finditer(rb"(\w+):", source))
    if not found:
        return source
    place = rng.choice(found)
    name = bytearray(place[1])
    name[rng.randrange(len(name))] = rng.choice(b"abcxyz_0")
    if rng.random() < 0.05:
        more = b"".join(b"%s%d: 1\n" % (name, i) for i in range(9000))
        return source + b"\n" + more
    return source[: place.start(1)] + bytes(name) + source[place.end(1) :]


def _line(rng: random.Random, source: bytes) -> bytes:
    """A line lost, doubled, moved or cut."""
    lines = source.split(b"\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    what = rng.randrange(4)
    line = lines[at] if what == 1 else lines.pop(at)
    if what == 3:
        line = line[: rng.randrange(len(line) + 1)]
    if what:
        lines.insert(to, line)
    return b"\n".join(lines)


def _indent(rng: random.Random, source: bytes) -> bytes:
    lines = source.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = rng.choice((b"  ", b"\t", b"    - ", b"- ", b" ")) + lines[at].lstrip()
    return b"\n".join(lines)


def _bytes(rng: random.Random, source: bytes) -> bytes:
    """Bytes changed, lost, repeated, or all that follows."""
    if not source:
        return source
    at, count = rng.randrange(len(source)), rng.choice((1, 1, 2, 8, 100, len(source)))
    new = rng.choice((b"", rng.randbytes(min(count, 16)), source[at : at + count] * 2, b"\x00", b"\xff", b"[" * 5000))
    return source[:at] + new + source[at + count :]


def binary(rng: random.Random, source: bytes) -> bytes:
    """A file of bytes after one to four changes, most of them near its ends, where headers and directories are."""
    damaged = source
    for _ in range(rng.randint(1, 4)):
        size = max(len(damaged), 1)
        near = min(rng.choice((40, 400, size)), size)
        at = rng.randrange(near) if rng.random() < 0.5 else size - 1 - rng.randrange(near)
        width = rng.choice((1, 1, 1, 2, 4, 8))
        new = rng.choice(
            (
                rng.randbytes(width),
                b"\xff" * width,
                bytes(width),
                b"",
                damaged[at : at + 50],
                bytes([rng.randrange(256)]),
            )
        )
        damaged = damaged[:at] + new + damaged[at + (len(new) if rng.random() < 0.7 else width) :]
    return damaged if rng.random() < 0.9 else damaged[: rng.randrange(len(damaged) + 1)]


VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1 << 70,
        1.5,
        -1e308,
        1e-320,
        "",
        "x",
        "../../x",
        "/dev/zero",
        "\x1b[2J",
        "\u202e",
        "NaN",
    ),
    *([], {}, [[]], [1, 2], {"a": 1}, "é" * 1000, "proposal", "software", "numerics.bias", [1.0] * 50, "<script>"),
)


def of_json(rng: random.Random, source: str) -> bytes:
    """A JSON file with one to three values, keys or parts changed; now and then only its bytes."""
    if rng.random() < 0.1:
        return binary(rng, source.encode())
    data = json.loads(source)
    for _ in range(rng.randint(1, 3)):
        node, steps = data, rng.randint(1, 7)
        while True:
            keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key, steps = rng.choice(keys), steps - 1
            inner = node[key]
            if steps and isinstance(inner, dict | list) and inner:
                node = inner
                continue
            _changed(rng, node, key)
            break
    return json.dumps(data).encode()


def _changed(rng: random.Random, node: Any, key: Any) -> None:
    what = rng.randrange(6)
    if what == 0:
        del node[key]
    elif what == 1 and isinstance(node, list):
        node.append(node[key])
    elif what == 2 and isinstance(node, list):
        rng.shuffle(node)
    elif what == 3 and isinstance(node, dict):
        node[f"{key}x"] = node.pop(key)
    elif what == 4 and isinstance(node[key], int | float) and not isinstance(node[key], bool):
        node[key] = rng.choice((-1, 2, 1000, 1e6, 0, 1e300)) * node[key]
    else:
        node[key] = rng.choice(VALUES)
