"""Bounds as formulas in K."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import isinf

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
    named = [(step.terms, before), (step.scales, binary(step.scales.worst))]
    terms = [x for errors, x in named if errors.worst]
    made: list[str] = []  # factors by which sums grow
    lost: list[str] = []  # factors of what roundings towards zero leave
    whole = ""  # what the only factor of `lost` takes from 1
    if step.terms.inward and step.scales.inward and step.block.inward:
        *first, last = [*terms, binary(step.block.worst)] if step.block.worst else [*terms, ""]
        if len(first) > 1 and last:
            lost.append(f"({' '.join(f'(1 - {x})' for x in first)} - {last})")
        else:
            lost += [f"(1 - {x})" for x in ([" - ".join([*first, last])] if last else first)]
            whole = " + ".join([*first, *([last] if last else [])]) if len(lost) == 1 else ""
    else:
        inward = step.terms.inward and step.scales.inward
        (lost if inward else made).extend(f"(1 {'-' if inward else '+'} {x})" for x in terms)
        if step.block.worst:
            (lost if step.block.inward else made).append(
                f"(1 {'-' if step.block.inward else '+'} {binary(step.block.worst)})"
            )
        whole = lost[0][5:-1] if len(lost) == 1 else ""
    added, total = [], 0.0
    for errors, count in ((step.running, step.further), (step.register, step.rounded)):
        times, rest = _count(n, step.steps - count), errors.worst - errors.taking
        if errors.taking and count:
            x = binary(errors.taking)
            lost.append(f"(1 - {x})" + (f"^{times}" if times else ""))
            whole = x if len(lost) == 1 and not times else ""
        if rest and count:
            added.append(f"{binary(rest)} {times}".rstrip())
            total += rest * count
    if step.joined.worst:  # of all before it, if that only takes away
        inward = step.joined.inward and not (made or added)
        (lost if inward else made).append(f"(1 {'-' if inward else '+'} {binary(step.joined.worst)})")
        whole = whole if not inward else binary(step.joined.worst) if len(lost) == 1 else ""
    if added:
        made.append(f"(1 + {' + '.join(added)})" if total <= 1 else f"L({' + '.join(added)})")
    if not made:
        return whole or (f"1 - {' '.join(lost)}" if lost else "")
    if len(made) == 1 and not lost and made[0][0] == "(":
        return made[0][5:-1]
    taken = f" (1 + {whole})" if whole else f" (2 - {' '.join(lost)})" if lost else ""
    return f"{' '.join(made)}{taken} - 1"


def _count(n: str, idle: int) -> str:
    """Return the number of blocks in which something can be lost; empty for a single one."""
    return f"({n} - {idle})" if n and idle else n


def binary(x: float) -> str:
    """Return a number as a small odd number times a power of two, or with three digits."""
    if not x or isinf(x):
        return "infinity" if x else "0"
    value = Fraction(x)
    exponent = 1 - value.denominator.bit_length()
    odd = value.numerator
    while odd % 2 == 0:
        odd, exponent = odd // 2, exponent + 1
    if odd > 4096:
        return f"{x:.3g}"
    return f"2^{exponent}" if odd == 1 else f"{odd} 2^{exponent}"
