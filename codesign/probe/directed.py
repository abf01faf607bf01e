"""A directed search for questions on which two specs differ, without the box.

Most questions on which inner sums differ do not show it: a later stage or register rounds the difference away. The search runs
both specs without their last roundings first (`lenses`), where a difference shows, and varies the questions that show it until
it passes one rounding after the other, down to D.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.probe.box import Lines, Signature, sign_bit
from codesign.probe.hypotheses import Data, mantissa_bits
from codesign.probe.powers import powers
from codesign.probe.questions import Rng, mutated
from codesign.probe.space import Space
from isa_model.array_codec import code_dtype, encode_array, values_of
from isa_model.engines.lines import Batch
from isa_model.float64 import Codes, Float64
from isa_model.formats import FORMATS, Format
from isa_model.instruction import Instruction

WIDE: Data = {"format": "fp64", "rounding": "to-odd"}
"""Register that shows nearly every difference between two sums."""
CHILDREN = 800
"""Variations of questions in each generation."""
PARENTS = 200
"""Questions that one generation varies, at most."""
NARROWED = (8, 4, 2, 1)
"""Divisors of the bits that a cut keeps: exponents that terms are aligned to show first where few bits are kept."""

Level = tuple[int, int, int]
"""What a lens changes: stages above, registers of the stage left out, divisor of the bits kept."""
WHOLE: Level = (0, 0, 1)
"""The lens that changes nothing."""


def lenses(hypothesis: Data) -> Iterator[tuple[Level, Data]]:
    """Yield a hypothesis with fewer and fewer of its last roundings taken away; the last is the hypothesis itself.

    Stages above some stage sum exactly, and of that stage the last registers are left out; D is FP64.
    """
    stages = hypothesis["stages"]
    rest = {name: value for name, value in hypothesis.items() if name != "nan"}
    for i, stage in enumerate(stages):
        registers = stage.get("result", [])
        above = [_exact(other, j == len(stages) - 1) for j, other in enumerate(stages) if j > i]
        for kept in range(len(registers) + 1):
            missing = len(registers) - kept
            if not above and not missing:
                yield WHOLE, hypothesis
                return
            for divisor in NARROWED if not kept and "fraction_bits" in stage else NARROWED[-1:]:
                own = _narrowed(stage, divisor)
                ends = [WIDE] if not above or ("chain" in stage and not kept) else []
                if result := [*registers[:kept], *ends]:
                    own["result"] = result
                yield (len(above), missing, divisor), {**rest, "stages": [*stages[:i], own, *above]}


def _narrowed(stage: Data, divisor: int) -> Data:
    """Return a stage without registers that keeps a part of the bits."""
    own = {name: value for name, value in stage.items() if name != "result"}
    if divisor > 1:
        own["fraction_bits"] //= divisor
        if isinstance(stage.get("accumulator"), dict):
            some = ("fraction_bits", "drop_beyond")
            own["accumulator"] = {n: x // divisor if n in some else x for n, x in stage["accumulator"].items()}
    return own


def _exact(stage: Data, last: bool) -> Data:
    """Return a stage that sums the same terms exactly."""
    own: Data = {name: value for name, value in stage.items() if name in ("terms", "chain", "interleave", "zero")}
    if stage.get("accumulator"):
        own["accumulator"] = True
    return own | ({"result": [WIDE]} if last or "chain" in stage else {})


@dataclass
class Directed:
    """Searches for questions on which two hypotheses differ, all from the same questions."""

    space: Space
    rng: Rng
    start: Lines
    """Questions that every search begins with."""
    known: dict[int, Codes] = field(default_factory=dict)
    """Answers of specs to these questions, by the id of the spec."""

    def __post_init__(self) -> None:
        self.signature = self.space.signature
        self.batch = Batch(*self.start)
        spec = self.signature.spec
        self.wide = copy(self.space)
        self.wide.given = {**self.space.given, "accumulator": FORMATS["fp64"], "c": spec.c_format}
        self.wide.specs = {}

    def levels(self, one: Data, other: Data) -> list[tuple[Instruction, Instruction]]:
        """Return the specs of two hypotheses through each lens that both have, if it leaves a difference.

        The hypotheses themselves come last.
        """
        through = dict(lenses(other)) if self.signature.spec.accumulator.kind == "float" else {WHOLE: other}
        found = []
        for level, x in lenses(one):
            if (y := through.get(level)) is None or x == y:
                continue
            space = self.space if level == WHOLE else self.wide
            if (of_x := space.spec(x)) is not None and (of_y := space.spec(y)) is not None:
                found.append((of_x, of_y))
        return found

    def find(self, one: Data, other: Data, generations: int) -> Lines | None:
        """Return questions that two hypotheses answer differently; None if none was found.

        The search ends after `generations` in a row in which no difference passes another rounding. With 0, only `start` is
        tried.
        """
        levels = self.levels(one, other)
        for at in reversed(range(len(levels)) if generations else range(len(levels))[-1:]):
            differs = np.not_equal(*map(self.first, levels[at]))
            if differs.any():
                parents = self.start.pick(np.flatnonzero(differs))
                return parents if at == len(levels) - 1 else self._climb(one, levels, at, parents, generations)
        return None

    def first(self, spec: Instruction) -> Codes:
        """Return the answers of a spec to `start`. It is one that the space keeps, so that no other gets its id."""
        if id(spec) not in self.known:
            self.known[id(spec)] = self.batch.dots(spec)
        return self.known[id(spec)]

    def _climb(self, one: Data, levels: list[Any], at: int, parents: Lines, generations: int) -> Lines | None:
        """Vary questions that show a difference at a level until they show it at the last one."""
        sums = next(x for (above, *_), x in lenses(one) if not above)
        aims = Aims(self.signature, self.rng, one, self.wide.spec(sums))
        waited = 0
        while waited < generations:
            waited += 1
            children = aims.near(varied(self.signature, self.rng, parents.pick(self._some(parents)), CHILDREN))
            batch = Batch(*children)
            for level in range(len(levels) - 1, at - 1, -1):
                differs = np.flatnonzero(np.not_equal(*map(batch.dots, levels[level])))
                if not differs.size:
                    continue
                shown = children.pick(differs)
                if level == len(levels) - 1:
                    return shown
                if level > at:
                    parents, waited = shown, 0
                else:
                    kept = self.rng.permutation(len(parents.c))[: 4 * PARENTS]
                    parents = Lines.join([shown, parents.pick(kept)])
                at = level
                break
        return None

    def _some(self, parents: Lines) -> NDArray[np.int64]:
        """Return which questions to vary: random ones, or half of them those with the fewest terms."""
        spec, count = self.signature.spec, len(parents.c)
        any_of = self.rng.permutation(count)[:PARENTS]
        if count <= PARENTS or self.rng.random() < 0.5:
            return any_of
        terms = ((parents.a != spec.a.zero_code) & (parents.b != spec.b.zero_code)).sum(axis=1)
        simple = np.argsort(terms + self.rng.random(count), kind="stable")[: PARENTS // 2]
        return np.concatenate([simple, any_of[: PARENTS // 2]])


# -- variations ------------------------------------------------------------------------------------------------------


def varied(signature: Signature, rng: Rng, pool: Lines, count: int) -> Lines:
    """Return `count` variations of questions: with fewer terms or bits, terms that cancel, other exponents, bits flipped."""
    spec = signature.spec
    lines = mutated(signature, rng, pool, count)
    a, b, c = (x.copy() for x in lines[:3])
    k = a.shape[1]

    def some(share: float) -> NDArray[np.int64]:
        return np.flatnonzero(rng.random(count) < share)

    def few(rows: NDArray[np.int64], shares: tuple[float, ...]) -> NDArray[np.bool_]:
        return rng.random((len(rows), k)) < rng.choice(shares, (len(rows), 1))

    rows = some(0.3)  # terms left out
    gone = few(rows, (1.5 / k, 0.3, 0.7))
    a[rows] = np.where(gone, a.dtype.type(spec.a.zero_code), a[rows])
    for x, fmt in ((a, spec.a), (b, spec.b)):  # fewer bits, other exponents
        rows = some(0.25)
        x[rows] = np.where(few(rows, (1.5 / k, 1.0)), plain(rng, fmt, x[rows]), x[rows])
        rows = some(0.2)
        x[rows] = np.where(few(rows, (1.5 / k, 1.0)), shifted(rng, fmt, x[rows], (len(rows), 1)), x[rows])
    rows = some(0.3)  # a term opposite to another, or its copy
    source, target = rng.integers(0, k, (2, len(rows)))
    turn = sign_bit(spec.a) or sign_bit(spec.b)
    a[rows, target], b[rows, target] = a[rows, source], b[rows, source]
    if turn:
        which = rng.random(len(rows)) < 0.8
        x = a if sign_bit(spec.a) else b
        x[rows[which], target[which]] ^= x.dtype.type(turn)
    if signature.takes_c:
        fmt = spec.c_format
        c[some(0.1)] = 0
        rows = some(0.15)
        c[rows] = plain(rng, fmt, c[rows])
        rows = some(0.15)
        c[rows] = shifted(rng, fmt, c[rows], rows.shape)
    else:
        c[...] = 0
    return lines._replace(a=a, b=b, c=c)


def plain(rng: Rng, fmt: Format, codes: Codes) -> Codes:
    """Return codes with all bits of the mantissa but one cleared, or all but the first ones; integers as they are."""
    if fmt.kind != "float" or not fmt.mantissa_bits:
        return codes
    bits = fmt.mantissa_bits
    place = rng.integers(0, bits + 1, codes.shape).astype(np.uint64)
    mask = np.uint64((1 << bits) - 1) << np.uint64(fmt.low_padding)
    wide = codes.astype(np.uint64)
    first = wide & ~((np.uint64(1) << (place + np.uint64(fmt.low_padding))) - np.uint64(1))
    one = (wide & ~mask) | ((np.uint64(1) << place) & np.uint64((1 << bits) - 1)) << np.uint64(fmt.low_padding)
    return np.where(rng.random(codes.shape) < 0.3, first, one).astype(codes.dtype)


def shifted(rng: Rng, fmt: Format, codes: Codes, shape: tuple[int, ...]) -> Codes:
    """Return codes of numbers multiplied by powers of two, drawn once for each element of `shape`.

    What the format does not have stays as it is, and so do integers.
    """
    if fmt.kind != "float" or not fmt.exponent_bits:
        return codes
    unit = 1 << (fmt.mantissa_bits + fmt.low_padding)
    magnitude = (codes & codes.dtype.type((1 << (fmt.magnitude_bits + fmt.low_padding)) - 1)).astype(np.int64)
    step = rng.choice([-8, -4, -2, -1, -1, 1, 1, 2, 4, 8], shape) * unit
    moved = magnitude + step
    possible = (magnitude > 0) & (moved > 0) & (moved >> fmt.low_padding <= fmt.max_finite_magnitude)
    return np.where(possible, codes + step.astype(codes.dtype), codes)


class Aims:
    """Changes of one term that bring a sum near where it is rounded: a number that a register holds, or the middle of two."""

    def __init__(self, signature: Signature, rng: Rng, hypothesis: Data, sums: Instruction | None) -> None:
        """`sums` is the spec of a hypothesis with its last registers left out; without it, nothing is changed."""
        self.signature, self.rng, self.sums = signature, rng, sums
        bits = {signature.spec.accumulator.mantissa_bits}
        for stage in hypothesis["stages"]:
            bits |= {mantissa_bits(register["format"]) for register in stage.get("result", [])}
            bits |= {stage["fraction_bits"]} if "fraction_bits" in stage else set()
        self.bits = np.array(sorted({n + more for n in bits for more in (-1, 0, 1)}))
        self.tables = [_table(fmt) for fmt in (signature.spec.a, signature.spec.b)]

    def near(self, lines: Lines) -> Lines:
        """Return questions; in some, C or one product is replaced so that the sum comes near such a place."""
        if self.sums is None or not self.signature.is_float:
            return lines
        a, b, c = (x.copy() for x in lines[:3])
        count = len(c)
        share = self.rng.random(count)
        rows = np.flatnonzero(share < 0.3)
        if self.signature.takes_c and rows.size:
            c[rows] = self.closing(lines.pick(rows))
        rows = np.flatnonzero(share > 0.6)
        if rows.size:
            places = self.rng.integers(0, a.shape[1], len(rows))
            a[rows, places] = self.signature.spec.a.zero_code
            wanted = self.wanted(lines._replace(a=a).pick(rows))
            a[rows, places], b[rows, places] = self.product(wanted)
        return lines._replace(a=a, b=b, c=c)

    def wanted(self, lines: Lines) -> Float64:
        """Return a number (L,) to add to the sum of each line: up to a place of rounding, to zero, or any power of two."""
        assert self.sums is not None
        rng, now = self.rng, values_of(FORMATS["fp64"], Batch(*lines).dots(self.sums))
        now = np.where(np.isfinite(now), now, 0.0)
        about = np.frexp(now)[1] - 1
        how = rng.random(now.shape)
        with np.errstate(all="ignore"):
            any_power = rng.choice([-1.0, 1.0], now.shape) * np.ldexp(1.0, about + rng.integers(-40, 12, now.shape))
            unit = np.ldexp(1.0, about - rng.choice(self.bits, now.shape))
            lacks = (np.rint(now / unit) + rng.integers(-1, 2, now.shape)) * unit - now
        wanted = np.where(how < 0.2, any_power, np.where(how < 0.8, lacks, -now))
        return np.where(np.isfinite(wanted), wanted, -now)

    def closing(self, lines: Lines) -> Codes:
        """Return codes of C (L,) that bring the sums there, half of them with other last bits."""
        fmt, rng = self.signature.spec.c_format, self.rng
        old = values_of(fmt, lines.c)
        change = self.wanted(lines)
        with np.errstate(all="ignore"):
            wanted = np.where(np.isfinite(old), old, 0.0) + change
        codes = encode_array(fmt, np.where(np.isfinite(wanted), wanted, 0.0)).astype(lines.c.dtype)
        last = rng.integers(0, 4, codes.shape) * (rng.random(codes.shape) < 0.5)
        return codes ^ (last.astype(np.uint64) << np.uint64(fmt.low_padding)).astype(codes.dtype)

    def product(self, wanted: Float64) -> tuple[Codes, Codes]:
        """Return codes of A and B (L,) whose products are the largest powers of two within some numbers; zeros where the
        formats have none."""
        (low_a, codes_a), (low_b, codes_b) = self.tables
        spec = self.signature.spec
        e = np.where(wanted == 0, low_a + low_b - 1, np.frexp(wanted)[1] - 1)
        least = np.maximum(0, e - low_b - len(codes_b) + 1 - low_a)
        most = np.minimum(len(codes_a) - 1, e - low_b - low_a)
        at = least + (self.rng.random(e.shape) * (most - least + 1)).astype(np.int64)
        fits = least <= most
        x = np.where(fits, codes_a[np.clip(at, 0, len(codes_a) - 1)], np.uint64(spec.a.zero_code))
        y = np.where(fits, codes_b[np.clip(e - low_a - at - low_b, 0, len(codes_b) - 1)], np.uint64(spec.b.zero_code))
        negative = fits & (wanted < 0)
        if sign_bit(spec.a):
            x = np.where(negative, x | np.uint64(sign_bit(spec.a)), x)
        elif sign_bit(spec.b):
            y = np.where(negative, y | np.uint64(sign_bit(spec.b)), y)
        return x.astype(code_dtype(spec.a)), y.astype(code_dtype(spec.b))


def _table(fmt: Format) -> tuple[int, NDArray[np.uint64]]:
    """Return the least exponent of a format's powers of two, and the codes of all, in order."""
    if fmt.kind != "float":
        return 0, np.zeros(1, np.uint64)
    known = powers(fmt)
    return min(known), np.array([known.get(e, fmt.zero_code) for e in range(min(known), max(known) + 1)], np.uint64)
