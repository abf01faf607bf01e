"""C text of exact arithmetic on doubles, statement by statement: the counterpart of isa_model/float64.py."""

from __future__ import annotations

from collections.abc import Sequence

from isa_model.float64 import LANE_BITS, bins


class CText:
    """Statements of C written one after the other, each result under a name of its own."""

    def __init__(self, adds_directed: bool) -> None:
        self.lines: list[str] = []
        self.names = 0
        self.adds_directed = adds_directed
        """True if sums of two and three are rounded to odd by directed additions (`sum_to_odd` of cuda.h)."""

    def name(self, stem: str) -> str:
        """Return a new name."""
        self.names += 1
        return f"{stem}{self.names}"

    def write(self, text: str) -> None:
        self.lines.append(text)

    def let(self, kind: str, expression: str, stem: str = "v") -> str:
        """Write a constant of C type `kind` and return its name."""
        name = self.name(stem)
        self.write(f"const {kind} {name} = {expression};")
        return name

    def array(self, kind: str, stem: str) -> str:
        """Write an array over lanes of C type `kind` and return its name."""
        name = self.name(stem)
        self.write(f"{kind} {name}[W];")
        return name

    def binned(self, parts: Sequence[str], bottom: str, bits: int, keep_sign: bool) -> list[str]:
        """Return the exact sum of many parts as a few: split each part at fixed places and add the pieces of each place."""
        width = LANE_BITS - 1 - len(parts).bit_length()
        count = bins(len(parts), bits)
        bottom = self.let("int", bottom, "unit")
        magics = [self.let("double", f"1.5 * pow2(52 + {bottom} + {i * width})", "magic") for i in range(1, count)]
        totals = ["" for _ in range(count)]
        for part in parts:
            left = part
            for i in range(count - 1, 0, -1):
                piece = self.let("double", f"bin({left}, {magics[i - 1]})", "h")
                left = self.let("double", f"rest({left}, {piece})", "h")
                totals[i] = self.let("double", f"{totals[i]} + {piece}", "t") if totals[i] else piece
            totals[0] = self.let("double", f"{totals[0]} + {left}", "t") if totals[0] else left
        totals = [t for t in reversed(totals) if t]
        if keep_sign:  # a bin of a negative zero is a positive one
            nothing = self.let("int", " & ".join(f"({p} == 0)" for p in parts), "z")
            plain = self.let("double", " + ".join(parts), "z")
            totals = [self.let("double", f"{nothing} ? {plain} : {t}", "t") for t in totals]
        return totals

    def to_odd(self, parts: Sequence[str]) -> str:
        """Return the sum of all parts as one double: exact if it fits, else rounded to odd (float64.to_odd)."""
        if len(parts) == 1:
            return parts[0]
        if self.adds_directed and len(parts) <= 3:
            return self.let("double", f"sum_to_odd({', '.join(parts)})", "odd")
        expansion: list[str] = []
        for part in parts:
            carry = part
            for i, held in enumerate(expansion):
                carry, expansion[i] = self.two_sum(held, carry)
            expansion.append(carry)
        high, leftovers = expansion[-1], []
        for held in reversed(expansion[:-1]):
            high, low = self.two_sum(high, held)
            leftovers.append(low)
        low = leftovers[-1]
        for held in reversed(leftovers[:-1]):
            total, error = self.two_sum(held, low)
            low = self.let("double", f"jam({total}, {error})")
        if len(parts) > 2:
            high, low = self.two_sum(high, low)
        plain = self.let("double", " + ".join(parts), "plain")
        nothing = " & ".join(f"({p} == 0)" for p in parts)
        total = self.let("double", f"{high} != 0 ? jam({high}, {low}) : {nothing} ? {plain} : 0.0", "odd")
        return self.let("double", f"is_finite({plain}) ? {total} : {plain}", "odd")

    def two_sum(self, x: str, y: str) -> tuple[str, str]:
        """Return the rounded sum of two numbers and its error."""
        total = self.let("double", f"{x} + {y}", "s")
        return total, self.let("double", f"sum_error({x}, {y}, {total})", "r")
