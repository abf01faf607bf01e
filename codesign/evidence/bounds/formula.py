"""Bounds as formulas in K."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from codesign.evidence.bounds.derive import Bound, Step


def formulas(limits: Bound) -> Iterator[str]:
    """Yield for each stage that rounds the formula of its relative error, and how it is made up."""
    before = ""
    for number, step in enumerate(limits.steps):
        last = number == len(limits.steps) - 1
        count = f"K/{step.products}" if last and step.products > 1 else "K" if last else str(step.steps)
        shown = "n" if step.steps > 1 or last else ""
        made = _formula(step, before, shown)
        if made == before:
            continue
        name = f"R({step.stage})"
        blocks = f", n = {count}" if shown and "n" in made else ""
        yield f"{name} = {made or '0'}{blocks}"
        before = name if made else ""


def _formula(step: Step, before: str, n: str) -> str:
    """Return the formula of one stage; `before` is the name of the error of the stage below, empty for none."""
    further, rounded = (_count(n, step.steps - count) for count in (step.further, step.rounded))
    if not before:  # no stage below rounds: this is the rounding of the scales' product
        before = binary(step.terms.worst)
    terms, block = (step.terms, before, ""), (step.block, binary(step.block.worst), "")
    parts = [
        terms,
        block,
        (step.running, binary(step.running.worst), further),
        (step.register, binary(step.register.worst), rounded),
    ]
    if step.terms.inward and step.block.inward and step.terms.worst and step.block.worst:
        parts[:2] = [(step.terms.beside(step.block), f"{before} - {block[1]}", "")]
    used = [part for part in parts if part[0].worst and (part[0] is not step.running or step.further)]
    if len(used) == 1 and not used[0][2]:
        return used[0][1]
    taken, grown = (
        " ".join(
            f"(1 {sign} {x})" + (f"^{power}" if power else "") for errors, x, power in used if errors.inward is inward
        )
        for sign, inward in (("-", True), ("+", False))
    )
    if not grown:
        return f"1 - {taken}" if taken else ""
    single = [x for errors, x, power in used if errors.inward]
    rest = f" (1 + {single[0]})" if len(single) == 1 and taken.endswith(")") else f" (2 - {taken})" if taken else ""
    return f"{grown}{rest} - 1"


def _count(n: str, idle: int) -> str:
    """Return the number of blocks in which something can be lost; empty for a single one."""
    return f"({n} - {idle})" if n and idle else n


def binary(x: float) -> str:
    """Return a number as a small odd number times a power of two, or with three digits."""
    if not x:
        return "0"
    value = Fraction(x)
    exponent = 1 - value.denominator.bit_length()
    odd = value.numerator
    while odd % 2 == 0:
        odd, exponent = odd // 2, exponent + 1
    if odd > 4096:
        return f"{x:.3g}"
    return f"2^{exponent}" if odd == 1 else f"{odd} 2^{exponent}"
