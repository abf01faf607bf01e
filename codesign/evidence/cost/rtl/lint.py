"""Verilog that linters accept: operands as wide as their results, and unread bits said to be unused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_COMPARISONS = ("eq", "ne", "gt", "ge", "lt", "le")
_CELL = re.compile(
    rf"  cell \$(?P<kind>add|sub|and|or|xor|{'|'.join(_COMPARISONS)}) .*?\n  end\n",
    re.S,
)
_CHUNK = re.compile(r"(?P<bits>\d+'[01x]+)|(?P<wire>[\\$]\S+) \[(?P<high>\d+)(?::(?P<low>\d+))?\]|(?P<whole>[\\$]\S+)")


_COPY = re.compile(r"^  assign ([^=\n]+?) = [^-+!~&|^?<>()\n]+;$", re.M)
"""Part of a net that is another name of a net."""


def widened(rtlil: str) -> str:
    """Return RTLIL whose operators have operands of one width: their result's, or the wider operand's in a comparison.

    A comparison that holds for no operand is replaced by 0.
    """
    return _CELL.sub(_with_equal_widths, rtlil)


def _with_equal_widths(match: re.Match[str]) -> str:
    text = match[0]
    sizes = {side: int(_parameter(text, f"{side}_WIDTH")) for side in "ABY"}
    if match["kind"] == "gt" and f"connect \\B {sizes['A']}'{'1' * sizes['A']}\n" in text:  # nothing exceeds all ones
        y = re.search(r"    connect \\Y (.*)\n", text)
        assert y
        return f"  connect {y[1]} 1'0\n"
    width = max(sizes["A"], sizes["B"]) if match["kind"] in _COMPARISONS else sizes["Y"]
    signed = _parameter(text, "A_SIGNED") == "1"
    for side in "AB":
        if sizes[side] == width:
            continue
        connected = re.search(rf"    connect \\{side} (.*)\n", text)
        assert connected
        operand = _resized(connected[1], sizes[side], width, signed)
        text = text.replace(connected[0], f"    connect \\{side} {operand}\n")
        text = text.replace(f"\\{side}_WIDTH {sizes[side]}\n", f"\\{side}_WIDTH {width}\n")
    return text


def _parameter(text: str, name: str) -> str:
    found = re.search(rf"parameter \\{name} (\S+)", text)
    assert found
    return found[1]


def _resized(operand: str, size: int, width: int, signed: bool) -> str:
    """Return an operand of `size` bits, extended by its sign or zeros or cut to `width` bits."""
    bits = list(_bits(operand, size))
    top = bits[0] if signed else "1'0"
    kept = bits[max(size - width, 0) :]
    return f"{{ {' '.join([*[top] * (width - size), *kept])} }}"


def _bits(operand: str, size: int) -> Iterator[str]:
    """Yield the bits of an operand, the highest first."""
    for chunk in _CHUNK.finditer(operand):
        if chunk["bits"]:
            yield from (f"1'{bit}" for bit in chunk["bits"].split("'")[1])
        elif chunk["wire"]:
            high = int(chunk["high"])
            low = high if chunk["low"] is None else int(chunk["low"])
            yield from (f"{chunk['wire']} [{i}]" for i in range(high, low - 1, -1))
        elif size == 1:
            yield chunk["whole"]
        else:
            yield from (f"{chunk['whole']} [{i}]" for i in range(size - 1, -1, -1))


def with_unused(verilog: str, modules: Mapping[str, Any]) -> str:
    """Return Verilog, the module `unit` first, with a wire `unused` in each that reads the bits that nothing else does.

    Ports are in the order of their names, inputs first.

    `modules` is the same design as Yosys writes it to JSON.
    """
    for name, module in modules.items():
        head = re.search(rf"^module {re.escape(name)}\(.*?^endmodule$", verilog, re.S | re.M)
        assert head
        outputs = {port for port, p in module["ports"].items() if p["direction"] == "output"}
        copies = [copy for copy in _COPY.findall(head[0]) if copy.split("[")[0].strip() not in outputs]
        order = ", ".join(sorted(module["ports"], key=lambda port: (port in outputs, port)))
        body = f"module {name}({order}{head[0][head[0].index(')') :].removesuffix('endmodule')}"
        if listed := ", ".join([*_unread(module, modules), *copies]):
            body += f"  wire unused = &{{ 1'b0, {listed} }};\n"
        verilog = f"{verilog[: head.start()]}{body}endmodule{verilog[head.end() :]}"
    top = re.search(r"^module unit\(.*?^endmodule\n", verilog, re.S | re.M)
    assert top
    return (top[0] + verilog.replace(top[0], "")).replace(" = ! ", " = ~| ")


def _unread(module: Mapping[str, Any], modules: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts of nets that no cell and no output reads, in Verilog."""
    read = {bit for port in module["ports"].values() if port["direction"] == "output" for bit in port["bits"]}
    for cell in module["cells"].values():
        inner = modules.get(cell["type"])
        for port, bits in cell["connections"].items():
            if (inner["ports"][port]["direction"] if inner else cell["port_directions"][port]) == "input":
                read.update(bits)
    for name, net in module["netnames"].items():
        places = [i for i, bit in enumerate(net["bits"]) if not isinstance(bit, str) and bit not in read]
        plain = name if re.fullmatch(r"[A-Za-z_]\w*", name) else f"\\{name} "
        if len(places) == len(net["bits"]):
            yield plain
        else:
            yield from (f"{plain}[{a}]" if a == b else f"{plain}[{b}:{a}]" for a, b in _runs(places))


def _runs(places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and last place of each run of neighbours."""
    start = 0
    for i in range(1, len(places) + 1):
        if i == len(places) or places[i] != places[i - 1] + 1:
            yield places[start], places[i - 1]
            start = i
