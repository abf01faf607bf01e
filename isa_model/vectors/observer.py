"""The bins of coverage that a vector falls into, from its codes alone.

`Observer.trace` repeats golden.dot and records every sum and every rounding; `Observer.hits` names the bins of a trace.
Neither depends on how a vector was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from isa_model import golden
from isa_model.codec import Number, decode
from isa_model.formats import Format
from isa_model.golden import Term
from isa_model.instruction import Instruction
from isa_model.stage import Register, Stage
from isa_model.vectors.vector import Specials, Vector

NEAR, HAIR = 2, 6
"""A near tie is within 2**-NEAR of the last place from halfway; a hair is within 2**-HAIR."""
APART = 4
"""Binary places from which on a term counts as much larger than another."""


class Bin(NamedTuple):
    """One thing that vectors should do."""

    category: str
    point: str
    """Place in the instruction, such as a stage and its register."""
    what: str


@dataclass(frozen=True, slots=True)
class Sum:
    """The sum of one block of a stage."""

    name: str
    """Name of the stage."""
    stage: Stage
    terms: Sequence[Term]
    running: Term | None
    """Running value; None if it takes no part."""
    largest: int | None
    """Exponent that terms were aligned to; None if all are zeros without an exponent."""
    total: Number

    @property
    def everything(self) -> list[Term]:
        """All terms, the running value last."""
        return [*self.terms, self.running] if self.running else [*self.terms]

    def kept(self) -> list[Number]:
        """Return the values of `everything` as they enter the adder, for a sum without infinities and NaNs."""
        stage, result = self.stage, []
        for t in self.everything:
            if t is self.running and golden.is_dropped(stage, t, self.largest):
                result.append(Number(False, 0, 0))
            elif not stage.aligned or self.largest is None:
                result.append(t.number)
            else:
                assert stage.rounding is not None
                unit = self.largest - fraction_bits(stage, t is self.running)
                result.append(golden.cut(t.number, unit, stage.rounding))
        return result


class Rounded(NamedTuple):
    """One rounding to a register."""

    point: str
    register: Register
    before: Number
    after: Number


class ScaledTerm(NamedTuple):
    """One term, and the codes of the scales that multiply it; -1 for an operand without scales."""

    a: int
    b: int
    term: Number


@dataclass
class Trace:
    """All sums, roundings and scaled terms of one dot product, and the code of D."""

    sums: list[Sum] = field(default_factory=list)
    roundings: list[Rounded] = field(default_factory=list)
    scaled: list[ScaledTerm] = field(default_factory=list)
    d: int = 0


def fraction_bits(stage: Stage, accumulator: bool) -> int:
    """Return the fraction bits that the running value, or another term, keeps in an aligned stage."""
    bits = stage.accumulator_fraction_bits if accumulator else stage.fraction_bits
    assert bits is not None
    return bits


def window(stage: Stage, accumulator: bool) -> int:
    """Return the largest alignment distance that has a bin of its own: all beyond affect a sum in the same way."""
    dropped = stage.drop_beyond if accumulator else None
    return max(fraction_bits(stage, accumulator) + 3, -1 if dropped is None else dropped + 1)


def distance(stage: Stage, accumulator: bool, d: int) -> str:
    """Return the name of the bin of an alignment distance."""
    limit = window(stage, accumulator)
    return f"distance {d}" if d <= limit else f"distance over {limit}"


def register_point(name: str, stage: Stage, index: int) -> str:
    """Return the name of a stage's register number `index` as a point of the instruction."""
    fmt = stage.result[index].format.name
    return f"{name}: {fmt}" if len(stage.result) == 1 else f"{name}: {fmt}, rounding {index + 1}"


def integer_edges(fmt: Format) -> dict[str, int]:
    """Return the numbers around the ends of an integer format's range, by the names of their bins."""
    largest, smallest = fmt.max_finite_magnitude, fmt.lowest
    edges = {"largest": largest, "one over the largest": largest + 1, "far over": largest + 2}
    return {**edges, "smallest": smallest, "one under the smallest": smallest - 1, "far under": smallest - 2}


def sign_of(number: Number) -> str:
    return "-" if number.negative else "+"


def rounding_classes(significand: int, lost_bits: int) -> Iterator[str]:
    """Yield the names of a magnitude's position between its neighbours without the low bits; none far from halfway."""
    if lost_bits < 1:
        return
    lost, half = significand & ((1 << lost_bits) - 1), 1 << lost_bits >> 1
    if lost == 0:
        return
    if lost == half:
        yield "tie, odd below" if significand >> lost_bits & 1 else "tie, even below"
        return
    side = "below" if lost < half else "above"
    for name, bits in (("near tie", NEAR), ("hair", HAIR)):
        if abs(lost - half) << bits <= 1 << lost_bits:
            yield f"{name}, {side}"


class Observer:
    """Find the bins that vectors of one instruction fall into."""

    def __init__(self, spec: Instruction) -> None:
        self.spec = spec
        self.a, self.b, self.c = (Specials(fmt) for fmt in (spec.a, spec.b, spec.c_format))
        scale = spec.scale
        self.scale_a = Specials(scale.a.format) if scale and scale.a else None
        self.scale_b = Specials(scale.b.format) if scale and scale.b else None

    # -- the trace ---------------------------------------------------------------------------------------------------

    def trace(self, vector: Vector) -> Trace:
        """Return the sums, roundings and scaled terms of golden.dot on a vector, and D."""
        spec, trace = self.spec, Trace()
        terms = golden.products(spec, vector.a, vector.b)
        running = golden.read(spec, spec.c_format, vector.c, spec.flush_c)
        if spec.scaled_stage == -1:
            terms = self._scaled(trace, terms, 1, vector)
        (*inner, (last_name, last)) = spec.stages.items()
        for index, (name, stage) in enumerate(inner):
            blocks, chain = golden.deal(stage, terms), stage.chain or 1
            start = golden.term(spec.accumulator, 0)
            terms = [self._run(trace, name, stage, blocks[i : i + chain], start) for i in range(0, len(blocks), chain)]
            if spec.scaled_stage == index:
                terms = self._scaled(trace, terms, len(vector.a) // len(terms), vector)
        trace.d = golden.written(spec, self._run(trace, last_name, last, golden.deal(last, terms), running))
        return trace

    def _run(self, trace: Trace, name: str, stage: Stage, blocks: Sequence[Sequence[Term]], running: Term) -> Term:
        for block in blocks:
            taking_part = running if stage.accumulator else None
            total, largest = golden.add(stage, block, taking_part)
            trace.sums.append(Sum(name, stage, block, taking_part, largest, total))
            value = Term(total, largest)
            for index, register in enumerate(stage.result):
                value = _rounded(trace, register_point(name, stage, index), register, value)
            running = golden.put(stage, total, largest)
        return running

    def _scaled(self, trace: Trace, terms: Sequence[Term], span: int, vector: Vector) -> list[Term]:
        scale = self.spec.scale
        assert scale is not None
        for i, term in enumerate(terms):
            a = vector.scale_a[i * span // scale.a.group[1]] if scale.a else -1
            b = vector.scale_b[i * span // scale.b.group[0]] if scale.b else -1
            trace.scaled.append(ScaledTerm(a, b, term.number))
            if not (scale.product or scale.result):
                continue
            factors = [golden.term(s.format, code) for s, code in ((scale.a, a), (scale.b, b)) if s]
            if scale.product:
                factors = [_rounded(trace, "scales: product", scale.product, golden.times(*factors))]
            value = term
            for factor in factors:
                value = golden.times(value, factor)
            if scale.result:
                _rounded(trace, "scales: result", scale.result, value)
        return golden.scaled(self.spec, terms, span, vector.scale_a, vector.scale_b)

    # -- the bins ----------------------------------------------------------------------------------------------------

    def hits(self, vector: Vector) -> set[Bin]:
        """Return the bins that a vector falls into. Raises AssertionError if its D is not that of the trace."""
        trace = self.trace(vector)
        assert vector.d in (trace.d, -1), f"{self.spec.name}: trace {trace.d:#x}, golden {vector.d:#x} of {vector}"
        bins = set(self._specials(vector))
        for s in trace.sums:
            if not s.total.special:
                bins.update(_alignment(s))
                bins.update(_cancellation(s))
                bins.update(_places(s))
        for r in trace.roundings:
            bins.update(_integer_edges(r) if r.register.format.kind == "integer" else _register(r))
        for scaled in trace.scaled:
            bins.update(self._scales(scaled))
        return bins

    def _specials(self, vector: Vector) -> Iterator[Bin]:
        c = self.c.name(vector.c)
        for x, y in zip(vector.a, vector.b, strict=True):
            a, b = self.a.name(x), self.b.name(y)
            if a and b:
                yield Bin("special values", "A x B", f"{a} x {b}")
            if a and c and _ordinary(self.spec.b, y):
                yield Bin("special values", "A x C", f"{a} x {c}")
            if b and c and _ordinary(self.spec.a, x):
                yield Bin("special values", "B x C", f"{b} x {c}")

    def _scales(self, scaled: ScaledTerm) -> Iterator[Bin]:
        term = scaled.term.special or ("zero" if scaled.term.is_zero else "finite")
        a = self.scale_a.name(scaled.a) if self.scale_a else ""
        b = self.scale_b.name(scaled.b) if self.scale_b else ""
        if a:
            yield Bin("scale extremes", "scale of A x term", f"{a} x {term}")
        if b:
            yield Bin("scale extremes", "scale of B x term", f"{b} x {term}")
        if a and b and term == "finite":
            yield Bin("scale extremes", "scale of A x scale of B", f"{a} x {b}")


def _ordinary(fmt: Format, code: int) -> bool:
    number = decode(fmt, code)
    return not number.special and not number.is_zero


def _rounded(trace: Trace, point: str, register: Register, value: Term) -> Term:
    result = golden.rounded(value, register)
    trace.roundings.append(Rounded(point, register, value.number, result.number))
    return result


def _alignment(s: Sum) -> Iterator[Bin]:
    """Yield the bins of the distances of nonzero terms from the largest exponent, and of the roundings to kept places."""
    if not s.stage.aligned or s.largest is None:
        return
    for t in s.everything:
        if t.exponent is None:
            continue
        accumulator = t is s.running
        point = f"{s.name}: {'accumulator' if accumulator else 'terms'}"
        yield Bin("alignment distance", point, distance(s.stage, accumulator, s.largest - t.exponent))
        if accumulator and golden.is_dropped(s.stage, t, s.largest):
            continue
        unit = s.largest - fraction_bits(s.stage, accumulator)
        for name in rounding_classes(t.number.significand, unit - t.number.exponent):
            yield Bin("rounding", f"{point} aligned", sign_of(t.number) + name)
    known = [t for t in s.everything if t.exponent is not None and not t.number.is_zero]
    if known and max(t.exponent for t in known if t.exponent is not None) < s.largest:
        yield Bin("alignment distance", f"{s.name}: zeros", "a zero above every number")
        for t in known:
            below = s.largest - fraction_bits(s.stage, t is s.running) - _lowest_bit(t.number)
            if below in (0, 1):
                what = "first place lost" if below else "last place kept"
                yield Bin("alignment distance", f"{s.name}: zeros", what)


def _places(s: Sum) -> Iterator[Bin]:
    """Yield the bins of terms that lose bits to the term half a block away or, in an exact sum, are much smaller."""
    half = len(s.terms) // 2
    for place, small in enumerate(s.terms if half else ()):
        large = s.terms[(place + half) % len(s.terms)]
        if small.number.is_zero or large.number.is_zero:
            continue
        if s.stage.aligned:
            assert s.largest is not None
            cut = _lowest_bit(small.number) < s.largest - (s.stage.fraction_bits or 0)
            lost = cut and large.exponent == s.largest
        else:
            lost = large.number.leading_exponent - small.number.leading_exponent >= APART
        if lost:
            yield Bin("places", s.name, f"{place} below {(place + half) % len(s.terms)}")


def _cancellation(s: Sum) -> Iterator[Bin]:
    kept = s.kept()
    running = kept[-1] if s.running else None
    alive = [n for n in kept if n.significand]
    if not alive:
        if all(t.number.negative for t in s.everything):
            yield Bin("cancellation", s.name, "nothing but negative zeros")
        return
    if len(alive) < 2:
        return
    with_running = running is not None and running.significand > 0
    if s.total.is_zero:
        yield Bin("cancellation", s.name, f"to zero, {'with the accumulator' if with_running else 'terms alone'}")
        return
    if s.stage.aligned and s.largest is not None:
        last = s.largest - max(s.stage.fraction_bits or 0, s.stage.accumulator_fraction_bits or 0)
    else:
        last = min(_lowest_bit(n) for n in alive)
    # Much larger terms cancel except for one unit of the last place.
    one_bit = s.total.leading_exponent == _lowest_bit(s.total) == last
    if one_bit and max(n.leading_exponent for n in alive) >= last + APART:
        yield Bin("cancellation", s.name, f"{sign_of(s.total)}the last bit")


def _lowest_bit(n: Number) -> int:
    return n.exponent + (n.significand & -n.significand).bit_length() - 1


def _register(r: Rounded) -> Iterator[Bin]:
    """Yield the bins of a rounding to a floating-point register."""
    fmt, n = r.register.format, r.before
    if n.special or n.is_zero:
        return
    sign, top_bit, m = sign_of(n), n.leading_exponent, fmt.mantissa_bits
    last = max(top_bit, fmt.min_exponent) - m
    over = Fraction(-1)
    if top_bit >= fmt.max_exponent:
        over = abs(n.exact()) - decode(fmt, fmt.max_finite_magnitude << fmt.low_padding).exact()
    if over >= 0:
        yield Bin("overflow", r.point, sign + _over(over / Fraction(2) ** (fmt.max_exponent - m)))
    if top_bit >= fmt.min_exponent and over <= 0:
        for name in rounding_classes(n.significand, last - n.exponent):
            yield Bin("rounding", r.point, sign + name)
    if top_bit < fmt.min_exponent:
        yield from (Bin("subnormal result", r.point, sign + what) for what in _below_normal(r, fmt))


def _below_normal(r: Rounded, fmt: Format) -> Iterator[str]:
    if r.register.subnormals == "flush":
        yield "flushed"
        return
    if r.after.is_zero:
        yield "to zero"
        return
    magnitude = r.after.significand << (r.after.exponent - fmt.min_lsb_exponent)
    normal = 1 << fmt.mantissa_bits
    names = {normal: "up to the smallest normal", normal - 1: "largest", 1: "smallest"}
    yield names.get(magnitude, "between")


def _over(places: Fraction) -> str:
    """Return the name of an excess over the largest number, given in last places of that number."""
    if places == 0:
        return "largest finite"
    if places >= 1:
        return "over by a last place or more"
    if 2 * places == 1:
        return "over by half a last place"
    return f"over by {'less' if 2 * places < 1 else 'more'} than half a last place"


def _integer_edges(r: Rounded) -> Iterator[Bin]:
    edges = integer_edges(r.register.format)
    value = min(max(int(r.before.exact()), edges["far under"]), edges["far over"])
    yield from (Bin("overflow", r.point, name) for name, edge in edges.items() if edge == value)
