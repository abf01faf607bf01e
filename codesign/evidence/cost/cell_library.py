"""Cell libraries: a technology-neutral one, and Liberty files.

Areas of the neutral library are in NAND2 equivalents, with the ratios of the X1 cells of the NanGate 45 nm Open Cell Library
(widths in poly pitches: inverter 2, NAND2 3, XOR2 6, flip-flop 17). Delays follow logical effort (Sutherland, Sproull, Harris:
Logical Effort, 1999, tables 4.1 and 4.2): a gate of unit drive has the delay `parasitic + load` in units of tau, an input
loads its driver with the gate's logical effort, and FO4, the delay of an inverter that drives four, is 5 tau.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from isa_model.diagnostics import InputError
from isa_model.input_files import MIB, read_bytes, reason

LARGEST = 256 * MIB
"""Size limit of a Liberty file, in bytes."""
_NAME = re.compile(r"[A-Za-z_]\w{0,99}")
_FUNCTION = re.compile(r"[\w\s!'()*&+|^]{1,10000}")
_MOST_INPUTS = 16


@dataclass(frozen=True)
class Pin:
    """An input of a cell."""

    name: str
    capacitance: float
    """Input capacitance, in the library's unit."""


@dataclass(frozen=True)
class Cell:
    """A cell with one output, whose delay from every input is `intrinsic + resistance * load`."""

    name: str
    area: float
    inputs: tuple[Pin, ...]
    output: str
    function: str
    """Liberty expression of the output; empty for a flip-flop."""
    intrinsic: float
    resistance: float

    @cached_property
    def python(self) -> str:
        """Python expression of the function, with inputs `p["pin"]`, which may be integers or arrays.

        The expression is evaluated, so it may contain nothing but inputs and operators. Raises InputError for other names.
        """
        tokens = re.findall(r"\w+|[!'()*&+|^]", self.function.replace('"', ""))
        pins = {pin.name for pin in self.inputs}
        result, previous = "", ""
        for token in tokens:
            if (token in pins or token in ("(", "!")) and (previous in pins or previous in (")", "'")):
                result += "&"  # a space is AND in Liberty
            if token == "'":
                result = _negate_last(result)
            elif token in pins:
                result += f'p["{token}"]'
            elif re.fullmatch(r"\w+", token) and token not in ("0", "1"):
                raise InputError.of(
                    f"the function of cell `{self.name}` names `{token}`, which is not one of its inputs"
                )
            else:
                result += {"!": "~", "*": "&", "+": "|"}.get(token, token)
            previous = token
        return result

    @cached_property
    def truth_table(self) -> int:
        """Truth table: bit i is the output if input j is bit j of i."""
        try:
            code = compile(self.python, self.name, "eval")
        except (SyntaxError, RecursionError, MemoryError):
            raise InputError.of(
                f"the function of cell `{self.name}` is not a Liberty expression: {self.function}"
            ) from None
        rows = range(1 << len(self.inputs))
        values = [{pin.name: -(row >> i & 1) for i, pin in enumerate(self.inputs)} for row in rows]
        return sum((eval(code, {"p": p}) & 1) << row for row, p in zip(rows, values, strict=True))


# name, area in poly pitches of NanGate 45 X1, function, logical effort of each input, parasitic delay
_CELLS = (
    ("INV", 2, "!A", (1.0,), 1.0),
    ("NAND2", 3, "!(A*B)", (4 / 3,) * 2, 2.0),
    ("NAND3", 4, "!(A*B*C)", (5 / 3,) * 3, 3.0),
    ("NAND4", 5, "!(A*B*C*D)", (2.0,) * 4, 4.0),
    ("NOR2", 3, "!(A+B)", (5 / 3,) * 2, 2.0),
    ("NOR3", 4, "!(A+B+C)", (7 / 3,) * 3, 3.0),
    ("NOR4", 5, "!(A+B+C+D)", (3.0,) * 4, 4.0),
    ("AOI21", 4, "!((A*B)+C)", (2.0, 2.0, 5 / 3), 7 / 3),
    ("OAI21", 4, "!((A+B)*C)", (2.0, 2.0, 4 / 3), 7 / 3),
    ("AOI22", 5, "!((A*B)+(C*D))", (2.0,) * 4, 4.0),
    ("OAI22", 5, "!((A+B)*(C+D))", (2.0,) * 4, 4.0),
    ("BUF", 3, "A", (1.0,), 3.0),
    # Cells of two gates: the second one loads the first one with 1.
    ("AND2", 4, "A*B", (4 / 3,) * 2, 4.0),
    ("OR2", 4, "A+B", (5 / 3,) * 2, 4.0),
    ("XOR2", 6, "A^B", (4.0,) * 2, 4.0),
    ("XNOR2", 6, "!(A^B)", (4.0,) * 2, 4.0),
    # A multiplexer of tristate inverters (effort 2, parasitic 4, select in both polarities), followed by an inverter.
    ("MUX2", 7, "(A*!S)+(B*S)", (2.0, 2.0, 3.0), 6.0),
)
_FLIP_FLOP = ("DFF", 17, 2.0, 6.0)
_PITCHES_OF_NAND2 = 3


def neutral() -> str:
    """Return the neutral library as Liberty text: areas in NAND2, tau as 1 ps, the input of a unit inverter as 1 fF."""
    lines = [
        "library (neutral) {",
        '  time_unit : "1ps"; capacitive_load_unit (1, ff); voltage_unit : "1V"; current_unit : "1mA";',
        '  leakage_power_unit : "1nW"; pulling_resistance_unit : "1kohm"; nom_voltage : 1.0; nom_temperature : 25.0;',
        "  nom_process : 1.0; default_max_transition : 1000.0; delay_model : table_lookup;",
        "  lu_table_template (delay) { variable_1 : input_net_transition; variable_2 : total_output_net_capacitance;",
        '    index_1 ("1, 100"); index_2 ("1, 64"); }',
    ]
    for name, pitches, function, efforts, parasitic in _CELLS:
        lines.append(f"  cell ({name}) {{ area : {pitches / _PITCHES_OF_NAND2:.4f};")
        pins = [p for p in "ABCDS" if p in function]
        for pin, effort in zip(pins, efforts, strict=True):
            lines.append(f"    pin ({pin}) {{ direction : input; capacitance : {effort:.4f}; }}")
        lines.append(f'    pin (Y) {{ direction : output; max_capacitance : 1000; function : "{function}";')
        row = f"{parasitic + 1:.4f}, {parasitic + 64:.4f}"
        tables = " ".join(
            f'{table} (delay) {{ index_1 ("1, 100"); index_2 ("1, 64"); values ("{row}", "{row}"); }}'
            for table in ("cell_rise", "cell_fall", "rise_transition", "fall_transition")
        )
        sense = "non_unate" if "^" in function or "S" in function else _sense(function)
        lines += [f'      timing () {{ related_pin : "{pin}"; timing_sense : {sense}; {tables} }}' for pin in pins]
        lines.append("    } }")
    name, pitches, effort, parasitic = _FLIP_FLOP
    row = f"{parasitic + 1:.4f}, {parasitic + 64:.4f}"
    lines += [
        f'  cell ({name}) {{ area : {pitches / _PITCHES_OF_NAND2:.4f}; ff (IQ, IQN) {{ clocked_on : "C"; next_state : "D"; }}',
        f"    pin (D) {{ direction : input; capacitance : {effort:.4f}; }}",
        f"    pin (C) {{ direction : input; clock : true; capacitance : {effort:.4f}; }}",
        '    pin (Q) { direction : output; function : "IQ"; timing () { related_pin : "C"; timing_type : rising_edge;',
        f'      cell_rise (delay) {{ index_1 ("1, 100"); index_2 ("1, 64"); values ("{row}", "{row}"); }} }} }} }}',
        "}",
    ]
    return "\n".join(lines) + "\n"


def _sense(function: str) -> str:
    return "negative_unate" if function.startswith("!") else "positive_unate"


@dataclass(frozen=True)
class Library:
    """A Liberty file and the cells read from it."""

    name: str
    text: str

    @classmethod
    def own(cls) -> Library:
        """Return the technology-neutral library."""
        return cls("neutral", neutral())

    @classmethod
    def read(cls, path: Path) -> Library:
        """Read a Liberty file. Raises InputError if it cannot be read, or lacks an inverter or a two-input NAND."""
        try:
            library = cls(re.sub(r"[^\w.-]", "_", path.stem), read_bytes(path, LARGEST).decode("utf-8", "replace"))
        except OSError as error:
            raise InputError.of(f"cannot read {path}: {reason(error)}") from None
        try:
            if not library.cells:
                raise InputError.of(f"{path} has no cell with a function: it is not a Liberty file of standard cells")
            _ = library.nand2, library.inverter, [cell.truth_table for cell in library.cells.values() if cell.function]
        except (ValueError, TypeError, AssertionError, ArithmeticError, LookupError):
            raise InputError.of(
                f"{path} has a cell that cannot be read: it is not a Liberty file, or a damaged one"
            ) from None
        return library

    @property
    def sha256(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """Combinational cells with one output, and flip-flops, by name."""
        return {cell.name: cell for cell in map(_cell, _groups(_plain(self.text), "cell")) if cell}

    @cached_property
    def nand2(self) -> Cell:
        """The smallest two-input NAND."""
        return self._smallest(2, 0b0111)

    @cached_property
    def inverter(self) -> Cell:
        """The smallest inverter."""
        return self._smallest(1, 0b01)

    @cached_property
    def flip_flop(self) -> Cell:
        """The smallest flip-flop. Raises InputError if there is none."""
        flops = [c for c in self.cells.values() if not c.function]
        if not flops:
            raise InputError.of(f"library {self.name} has no flip-flop")
        return min(flops, key=lambda c: c.area)

    @property
    def fo4(self) -> float:
        """Delay of an inverter that drives four inverters, in the library's unit."""
        cell = self.inverter
        return cell.intrinsic + cell.resistance * 4 * cell.inputs[0].capacitance

    def _smallest(self, inputs: int, table: int) -> Cell:
        found = [c for c in self.cells.values() if c.function and len(c.inputs) == inputs and c.truth_table == table]
        if not found:
            raise InputError.of(f"library {self.name} has no {'inverter' if inputs == 1 else 'NAND2'}")
        return min(found, key=lambda c: c.area)


def _negate_last(text: str) -> str:
    """Return `text` with its last operand negated, which is an input or a parenthesis."""
    if text.endswith(")"):
        depth = 0
        for i in reversed(range(len(text))):
            depth += (text[i] == ")") - (text[i] == "(")
            if depth == 0:
                return f"{text[:i]}(~{text[i:]})"
    match = re.search(r'p\["\w+"\]$', text)
    assert match
    return f"{text[: match.start()]}(~{match[0]})"


# -- reading Liberty -------------------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """Return the text without comments and continued lines."""
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.S).replace("\\\n", " ").replace("\\\r\n", " ")


def _groups(text: str, kind: str) -> list[tuple[str, str]]:
    """Return the name and body of every group of a kind."""
    found = []
    for match in re.finditer(rf"\b{kind}\s*\(\s*\"?([^)\"]*?)\"?\s*\)\s*\{{", text):
        depth, position = 1, match.end()
        for brace in re.compile(r"[{}]").finditer(text, match.end()):
            depth += 1 if brace[0] == "{" else -1
            position = brace.end()
            if depth == 0:
                break
        found.append((match[1], text[match.end() : position - 1]))
    return found


def _attribute(body: str, name: str) -> str:
    match = re.search(rf"\b{name}\s*:\s*\"?([^;\"]*)\"?\s*;?", body)
    return match[1].strip() if match else ""


def _numbers(body: str, name: str) -> list[float]:
    match = re.search(rf"\b{name}\s*\((.*?)\)", body, flags=re.S)
    return [float(x) for x in re.findall(r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?", match[1])] if match else []


def _cell(group: tuple[str, str]) -> Cell | None:
    """Return the cell of a group; None for a cell that cannot be used."""
    name, body = group
    pins = _groups(body, "pin")
    inputs = tuple(
        Pin(pin, float(_attribute(text, "capacitance") or 0))
        for pin, text in pins
        if _attribute(text, "direction") == "input"
    )
    outputs = [(pin, text) for pin, text in pins if _attribute(text, "direction") == "output"]
    is_flop = bool(re.search(r"\bff\s*\(", body))
    if not inputs or not outputs or (len(outputs) > 1 and not is_flop) or re.search(r"\blatch\s*\(", body):
        return None
    output, text = outputs[0]
    function = "" if is_flop else _attribute(text, "function")
    if not is_flop and (not function or _attribute(text, "three_state")):
        return None
    if not all(_NAME.fullmatch(n) for n in (name, output, *(pin.name for pin in inputs))) or len(inputs) > _MOST_INPUTS:
        return None  # such names are not valid in Verilog either
    if function and not _FUNCTION.fullmatch(function):
        return None
    intrinsic, resistance = _linear(text)
    return Cell(name, float(_attribute(body, "area") or 0), inputs, output, function, intrinsic, resistance)


def _linear(text: str) -> tuple[float, float]:
    """Return intercept and slope over load of the slowest table, at its middle slew."""
    lines = [(0.0, 0.0)]
    for kind in ("cell_rise", "cell_fall"):
        for _, table in _groups(text, kind):
            axes = [_numbers(table, "index_1"), _numbers(table, "index_2")]
            values = _numbers(table, "values")
            if not axes[1] or len(values) != len(axes[0]) * len(axes[1]):
                continue
            # Tables are slew by load or load by slew; a template says which. Loads change delay more: take the steeper.
            rows, columns = len(axes[0]), len(axes[1])
            middle = values[(rows // 2) * columns : (rows // 2 + 1) * columns]
            slope = (middle[-1] - middle[0]) / (axes[1][-1] - axes[1][0])
            lines.append((middle[0] - slope * axes[1][0], slope))
    return max(lines, key=lambda line: line[0] + 4 * line[1])
