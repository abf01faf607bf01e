"""Bit-vector terms as SMT-LIB 2 text, and the solver that decides them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Script:
    """Inputs and definitions of one theorem, in order. Equal definitions are made once: equal theorems are equal texts."""

    lines: list[str] = field(default_factory=list)
    known: dict[tuple[str, int], str] = field(default_factory=dict)
    inputs: int = 0

    def input(self, width: int) -> Bits:
        """Return a new free variable."""
        name = f"x{self.inputs}"
        self.inputs += 1
        self.lines.append(f"(declare-const {name} (_ BitVec {width}))")
        return Bits(self, name, width)

    def const(self, value: int, width: int) -> Bits:
        """Return a constant, modulo `2**width`."""
        return Bits(self, f"(_ bv{value % (1 << width)} {width})", width, value % (1 << width))

    def define(self, text: str, width: int) -> Bits:
        """Return the name of a term."""
        name = self.known.get((text, width))
        if name is None:
            name = self.known[text, width] = f"n{len(self.known)}"
            self.lines.append(f"(define-fun {name} () (_ BitVec {width}) {text})")
        return Bits(self, name, width)

    def text(self, assumptions: Iterable[Bits], claims: Iterable[Bits]) -> str:
        """Return the query that is unsatisfiable if the assumptions imply all claims."""
        given = "".join(f"(assert (= {x.text} #b1))\n" for x in assumptions if x.value != 1)
        wanted = " ".join(f"(= {x.text} #b1)" for x in claims)
        lines = "\n".join(self.lines)
        return f"(set-logic QF_BV)\n{lines}\n{given}(assert (not (and true {wanted})))\n(check-sat)\n"


@dataclass(frozen=True, eq=False)
class Bits:
    """A bit vector. Operators take an operand of the same width or an integer, and keep the width; comparisons give one bit."""

    script: Script
    text: str
    width: int
    value: int | None = None
    """Value of a constant."""

    def _both(self, operator: str, other: Bits | int, width: int = 0) -> Bits:
        other = self.script.const(other, self.width) if isinstance(other, int) else other
        assert other.width == self.width, (operator, self.width, other.width)
        return self.script.define(f"({operator} {self.text} {other.text})", width or self.width)

    def __add__(self, other: Bits | int) -> Bits:
        return self if other == 0 else self._both("bvadd", other)

    def __sub__(self, other: Bits | int) -> Bits:
        return self._both("bvsub", other)

    def __mul__(self, other: Bits | int) -> Bits:
        return self._both("bvmul", other)

    def __and__(self, other: Bits | int) -> Bits:
        return self._both("bvand", other)

    def __or__(self, other: Bits | int) -> Bits:
        return self._both("bvor", other)

    def __xor__(self, other: Bits | int) -> Bits:
        return self._both("bvxor", other)

    def __lshift__(self, other: Bits | int) -> Bits:
        return self._both("bvshl", other)

    def __rshift__(self, other: Bits | int) -> Bits:
        return self._both("bvlshr", other)

    def __invert__(self) -> Bits:
        return self.script.define(f"(bvnot {self.text})", self.width)

    def __neg__(self) -> Bits:
        return self.script.define(f"(bvneg {self.text})", self.width)

    def __getitem__(self, part: slice | int) -> Bits:
        """Return bits, the lowest first, as Python's slices do."""
        low, high, _ = (
            part.indices(self.width) if isinstance(part, slice) else (part % self.width, part % self.width + 1, 1)
        )
        if (low, high) == (0, self.width):
            return self
        if self.value is not None:
            return self.script.const(self.value >> low, high - low)
        return self.script.define(f"((_ extract {high - 1} {low}) {self.text})", high - low)

    def _compare(self, operator: str, other: Bits | int) -> Bits:
        other = self.script.const(other, self.width) if isinstance(other, int) else other
        assert other.width == self.width, (operator, self.width, other.width)
        return self.script.define(f"(ite ({operator} {self.text} {other.text}) #b1 #b0)", 1)

    def eq(self, other: Bits | int) -> Bits:
        return self._compare("=", other)

    def below(self, other: Bits | int) -> Bits:
        """Return whether an unsigned number is less than another."""
        return self._compare("bvult", other)

    def less(self, other: Bits | int) -> Bits:
        """Return whether a signed number is less than another."""
        return self._compare("bvslt", other)

    def extended(self, width: int, signed: bool = False) -> Bits:
        """Return the number with zeros or copies of its sign above it, or cut to `width` bits."""
        if width <= self.width:
            return self[:width]
        if self.value is not None and not signed:
            return self.script.const(self.value, width)
        return self.script.define(
            f"((_ {'sign' if signed else 'zero'}_extend {width - self.width}) {self.text})", width
        )

    def any(self) -> Bits:
        return ~self.eq(0)


def join(parts: Sequence[Bits]) -> Bits:
    """Return a concatenation, the lowest part first."""
    script = parts[0].script
    if len(parts) == 1:
        return parts[0]
    width = sum(p.width for p in parts)
    if all(p.value is not None for p in parts):
        value, at = 0, 0
        for p in parts:
            value, at = value | (p.value or 0) << at, at + p.width
        return script.const(value, width)
    return script.define(f"(concat {' '.join(p.text for p in reversed(parts))})", width)


def choose(condition: Bits, then: Bits, other: Bits | int) -> Bits:
    """Return `then` if the bit `condition` is set, else `other`."""
    script = then.script
    other = script.const(other, then.width) if isinstance(other, int) else other
    assert then.width == other.width, (then.width, other.width)
    return script.define(f"(ite (= {condition.text} #b1) {then.text} {other.text})", then.width)


def either(flags: Sequence[Bits], script: Script) -> Bits:
    """Return whether a flag is set."""
    result = script.const(0, 1)
    for flag in flags:
        result = flag if result.value == 0 else result | flag
    return result


@dataclass(frozen=True)
class Answer:
    """What the solver said of a theorem."""

    status: str
    """`proved`, `refuted` or `unknown`."""
    seconds: float
    model: dict[str, int]
    """Values of the inputs that refute the theorem."""


def digest(text: str) -> str:
    """Return the SHA-256 of a query."""
    return hashlib.sha256(text.encode()).hexdigest()


def solve(text: str, seconds: float) -> Answer:
    """Ask Bitwuzla. Raises ModuleNotFoundError without the package `bitwuzla`."""
    import bitwuzla as bw

    start = time.perf_counter()
    options = bw.Options()
    options.set(bw.Option.PRODUCE_MODELS, True)
    options.set(bw.Option.TIME_LIMIT_PER, int(seconds * 1000))
    manager = bw.TermManager()
    parser = bw.Parser(manager, options)
    parser.parse(text.replace("(check-sat)\n", ""), parse_file=False)
    solver: Any = parser.bitwuzla()
    answer = solver.check_sat()
    spent = time.perf_counter() - start
    if answer == bw.Result.UNSAT:
        return Answer("proved", spent, {})
    if answer != bw.Result.SAT:
        return Answer("unknown", spent, {})
    model = {
        f.symbol(): int(solver.get_value(f).value(10)) for f in parser.get_declared_funs() if f.symbol().startswith("x")
    }
    return Answer("refuted", spent, model)
