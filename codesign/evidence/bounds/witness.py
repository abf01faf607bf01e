"""Inputs that come near an error bound: made of few different products, chosen by construction and search on the exact model.

A row of A times a column of B has a large product, the lead, at the start of a sum, and small ones after it, of which the
instruction loses as much as it can. Where stages below the last round, each of their sums has a lead of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import floor, inf, log2
from typing import TYPE_CHECKING, Any, NamedTuple

from codesign.evidence.bounds.derive import Bound, bound
from isa_model.codec import decode, encode, largest_finite, number_of
from isa_model.formats import Format
from isa_model.golden import deal
from isa_model.instruction import Instruction
from isa_model.operand_fields import ScaleLevel, ScaleOperand, Scaling
from isa_model.rounding import Rounding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAD, BESIDE, FIRST, ODD, FILL, NONE = range(6)
"""Places of products: the lead; those with its scales; the others of its block; one of every later block; the others there."""
REFINED = 4
"""Inputs found first whose small products are then chosen place by place."""
SEARCHED = 1 << 13
"""Most products of the sums that a search tries; the best inputs found are continued to longer ones."""

Layout = tuple[int, int]
"""`level` and `heads` of a Witness."""
WIDE = 32
"""Largest exponent of the first lead tried: formats of a wide range need no larger one."""

Pair = tuple[int, int]
"""Codes of an element of A and one of B."""


@dataclass(frozen=True)
class Witness:
    """An input of K products and the error that the instruction makes on it; C is zero."""

    level: int
    """Stage whose sums have a lead each; -1: D alone has one."""
    heads: int
    """Blocks at the start of D that are all leads; 0: the lead is one product."""
    boost: int
    """Binary logarithm of the scale of the lead's groups over that of all others."""
    pairs: tuple[Pair, ...]
    """Codes of the products at each place."""
    error: Fraction = Fraction(0)
    """D - exact."""
    mass: Fraction = Fraction(0)
    """Sum of the products' magnitudes."""

    @property
    def layout(self) -> Layout:
        """Level and heads, which determine the place of each product."""
        return self.level, self.heads

    @property
    def relative(self) -> float:
        """Error relative to the sum of magnitudes."""
        return float(abs(self.error) / self.mass) if self.mass else 0.0

    def attained(self, limits: Bound) -> float:
        """Return the relative error over its bound, without the absolute error that the bound allows beside it."""
        room = Fraction(limits.worst) * self.mass
        return float(abs(self.error) / room) if room else 0.0


class Engine(NamedTuple):
    """An exact engine for many small products."""

    multiply: Callable[..., Any]
    """Codes of D from codes of A, B and C, and the scales of A and B."""
    compiled: bool


class Bench:
    """An instruction's exact model on inputs of `k` products, one row by one column, filled up with zeros."""

    def __init__(self, instruction: Instruction, k: int) -> None:
        self.spec = instruction.dense
        sparsity = instruction.sparsity
        whole = -(-k // instruction.shape.k) * instruction.shape.k
        self.filled = sparsity.stored(whole) if sparsity else whole
        self.products = -(-k * self.spec.shape.k // instruction.shape.k)
        self.layouts = list(self._layouts())
        self._made: dict[Layout, NDArray[np.int8]] = {}
        self._products: dict[Pair, Fraction] = {}
        self._scaled: dict[tuple[Layout, int], tuple[list[Any], list[tuple[Fraction, list[int]]]]] = {}

    @cached_property
    def engine(self) -> Engine:
        """The engine of its products."""
        return _engine(self.spec)

    def places(self, layout: Layout) -> NDArray[np.int8]:
        """Return the place of each product in a layout, NONE for zeros that fill up."""
        if layout not in self._made:
            self._made[layout] = self._places(*layout)
        return self._made[layout]

    def _layouts(self) -> Iterator[Layout]:
        """Yield the layouts to try.

        In formats so narrow that nothing is lost beside one product, D starts with blocks of leads, up to a power of two.
        """
        spec, inner = self.spec, list(self.spec.stages.values())[:-1]
        yield -1, 0
        yield from ((i, 0) for i, stage in enumerate(inner) if stage.aligned or stage.result)
        if not spec.scales and _is_narrow(spec):
            block = spec.span * Fraction(largest_finite(spec.a)) * Fraction(largest_finite(spec.b))
            counts = dict.fromkeys(-(-(Fraction(2) ** e) // block) for e in range(-64, 64))
            counts |= dict.fromkeys(2**e for e in range(7))
            yield from ((-1, int(n)) for n in counts if n < self.filled // spec.span)

    def _places(self, level: int, heads: int) -> NDArray[np.int8]:
        """Return `places` of a layout by its `level` and `heads`, as in Witness."""
        import numpy as np

        spec, found = self.spec, np.full(self.filled, FILL, np.int8)
        terms: Any = [[i] for i in range(spec.shape.k)]  # dealt out like terms
        for index, stage in enumerate(spec.stages.values()):
            dealt: Any = deal(stage, terms)
            blocks = [[i for t in block for i in t] for block in dealt]
            chain = stage.chain or 1
            if index == level % len(spec.stages):
                for number, block in enumerate(np.array(blocks)):
                    every = block + np.arange(0, self.filled, spec.shape.k)[:, None]
                    every_first = every[:, 0]
                    if number % chain == 0 and level >= 0:
                        found[every], found[every_first] = FIRST, LEAD
                    elif len(block) > 1:
                        found[every_first] = ODD
                    if number == 0 and level < 0:
                        found[every[0]], found[every[0, 0]] = FIRST, LEAD
                break
            terms = [[i for b in blocks[j : j + chain] for i in b] for j in range(0, len(blocks), chain)]
        if spec.scale and spec.scales and level < 0:
            group = min(_wide(side, axis).along(axis) for side, axis in ((spec.scale.a, 1), (spec.scale.b, 0)) if side)
            found[1:group] = BESIDE
        found[: heads * spec.span] = LEAD
        found[self.products :] = NONE
        return found

    def small(self, witness: Witness) -> list[Pair]:
        """Return codes of products smaller than the lead: zero, powers of two, and the largest below each.

        They start where the first bit can be lost; without a compiled engine, they are a few powers of two about there.
        """
        spec, (a, b) = self.spec, witness.pairs[LEAD]
        largest = abs(_value(spec, spec.a, a) * _value(spec, spec.b, b)) * max(witness.heads * spec.span, 1)
        factors = (Fraction(1), 1 - Fraction(1, 1 << 60)) if self.engine.compiled else (Fraction(1),)
        leading = _leading(largest) + witness.boost
        targets = (
            factor * Fraction(2) ** (leading - t) for t in _binades(spec, self.engine.compiled) for factor in factors
        )
        found = dict.fromkeys(pair for target in targets if (pair := _pair(spec, target)))
        return [(spec.a.zero_code, spec.b.zero_code), *found]

    def operands(self, witness: Witness) -> tuple[NDArray[Any], NDArray[Any], list[Any]]:
        """Return the codes of A (1, K), of B (K, 1), and of their scales (None without)."""
        import numpy as np

        from isa_model.array_codec import code_dtype

        spec, places = self.spec, self.places(witness.layout)
        a = np.array([*(p[0] for p in witness.pairs), spec.a.zero_code], code_dtype(spec.a))[places][None, :]
        b = np.array([*(p[1] for p in witness.pairs), spec.b.zero_code], code_dtype(spec.b))[places][:, None]
        return a, b, self._scales(witness)[0]

    def run(self, witness: Witness) -> Witness | None:
        """Return the witness with its error; None if the result is not finite."""
        import numpy as np

        from isa_model.array_codec import code_dtype

        spec = self.spec
        a, b, scales = self.operands(witness)
        d = self.engine.multiply(a, b, np.zeros((1, 1), code_dtype(spec.c_format)), *scales)
        number = decode(spec.accumulator, int(d[0, 0]))
        if number.special:
            return None
        exact = mass = Fraction(0)
        for factor, counts in self._scales(witness)[1]:
            for (x, y), count in zip(witness.pairs, counts, strict=False):
                value = self._product(x, y) * factor * count
                exact, mass = exact + value, mass + abs(value)
        return replace(witness, error=number.exact() - exact, mass=mass)

    def _product(self, a: int, b: int) -> Fraction:
        """Return the product of two codes."""
        if (a, b) not in self._products:
            self._products[a, b] = _value(self.spec, self.spec.a, a) * _value(self.spec, self.spec.b, b)
        return self._products[a, b]

    def _scales(self, witness: Witness) -> tuple[list[Any], list[tuple[Fraction, list[int]]]]:
        """Return the codes of scales, and each value of a product's scale with the numbers of products at each place."""
        key = witness.layout, witness.boost
        if key not in self._scaled:
            self._scaled[key] = self._scales_of(*key)
        return self._scaled[key]

    def _scales_of(self, layout: Layout, boost: int) -> tuple[list[Any], list[tuple[Fraction, list[int]]]]:
        """Return `_scales` of the inputs with a layout and `boost`."""
        import numpy as np

        from isa_model.array_codec import code_dtype

        scale, places = self.spec.scale, self.places(layout)
        if scale is None:
            return [None, None], [(Fraction(1), np.bincount(places, minlength=NONE).tolist())]
        k, value = np.arange(self.filled), np.full(self.filled, scale.power)
        leads = k[places == LEAD]
        codes: list[Any] = []
        shares = _shares(scale, boost)
        for side, shape, (low, high) in ((scale.a, (1, -1), shares[0]), (scale.b, (-1, 1), shares[1])):
            if side is None:
                codes.append(None)
                continue
            axis = shape.index(-1)
            wide = _wide(side, axis)
            has_lead = np.isin(np.arange(-(-self.filled // wide.along(axis))), leads // wide.along(axis))
            value += np.where(has_lead, high, low)[k // wide.along(axis)]
            made = [
                (
                    np.where(has_lead, _power(x.format, high), _power(x.format, low))
                    if x == wide
                    else np.full(-(-self.filled // x.along(axis)), _power(x.format, 0))
                )
                .astype(code_dtype(x.format))
                .reshape(shape)
                for x in side.levels
            ]
            codes.append(made if side.coarser else made[0])
        counts = {e: np.bincount(places[value == e], minlength=NONE).tolist() for e in np.unique(value).tolist()}
        return codes, [(Fraction(2) ** e, found) for e, found in counts.items()]


def search(instruction: Instruction, k: int, thorough: bool = True) -> tuple[Bound, Witness | None]:
    """Return the bound for `k` products, and the input found that comes nearest to it; None if sums are exact or no input fits.

    A search that is not `thorough` tries two leads with the same small products at all places, and takes about a tenth of a
    second; so does that of an instruction that no engine compiles. Random bits are part of an input: all are set.
    """
    limits = bound(instruction, k)
    if not limits.worst:
        return limits, None
    bench = Bench(instruction, k)
    if k > SEARCHED:
        found = _found(Bench(instruction, SEARCHED), bound(instruction, SEARCHED), thorough)[:REFINED]
        made = [m for x in found if x.layout in bench.layouts and (m := bench.run(x)) and m.mass <= _most(limits)]
    else:
        made = _found(bench, limits, thorough)
    chosen = max((m for m in made if m.mass), key=lambda m: m.relative, default=None)
    return limits, chosen


def _most(limits: Bound) -> Fraction:
    """Return the largest mass of an input: no overflow is near."""
    return Fraction(min(limits.overflow, 1e300)) / 2


def _found(bench: Bench, limits: Bound, thorough: bool) -> list[Witness]:
    """Return the best input of each layout and lead, the nearest to the bound first."""
    spec, most = bench.spec, _most(limits)
    thorough = thorough and bench.engine.compiled
    zero = (spec.a.zero_code, spec.b.zero_code)

    def best(candidates: Iterable[Witness]) -> Witness:
        made = [m for c in candidates if (m := bench.run(c)) and m.mass <= most]
        return max(made, key=lambda m: m.relative, default=Witness(-1, 0, 0, ((0, 0),) * NONE))

    found = []
    for level, heads in (x for x in bench.layouts if thorough or x[1] in (0, 16)):
        for boost in _boosts(spec) if level < 0 else [0]:
            leads = _leads(spec, limits)
            tried = leads if thorough else [leads[0], leads[-1]]
            for lead in [leads[0], _largest(spec)] if heads else tried:
                start = Witness(level, heads, boost, (lead,) * NONE)
                small = bench.small(start)
                alone = [replace(start, pairs=(lead, zero, zero, x, zero)) for x in small] if heads else []
                found.append(
                    best([*alone, *(replace(start, pairs=(lead, zero if boost else x, x, x, x)) for x in small)])
                )
    found.sort(key=lambda m: -m.relative)
    for i in range(min(REFINED, len(found)) if thorough else 0):
        for place in (BESIDE, FIRST, ODD, FILL):
            if place in bench.places(found[i].layout):
                one = found[i]
                found[i] = best([one, *(replace(one, pairs=_with(one.pairs, place, x)) for x in bench.small(one))])
    return sorted(found, key=lambda m: -m.relative)


def _with(pairs: tuple[Pair, ...], place: int, pair: Pair) -> tuple[Pair, ...]:
    return tuple(pair if i == place else p for i, p in enumerate(pairs))


def _engine(spec: Instruction) -> Engine:
    """Return the fastest engine of an instruction; with random bits, one that sets them all."""
    import numpy as np

    from isa_model import golden
    from isa_model.array_codec import to_codes
    from isa_model.engines import cpu
    from isa_model.engines.plan import Unsupported
    from isa_model.matmul import matmul

    def slow(a: Any, b: Any, c: Any, scale_a: Any, scale_b: Any) -> Any:
        return to_codes(spec.accumulator, matmul(spec, a, b, c, scale_a, scale_b))

    def upward(a: Any, b: Any, c: Any, scale_a: Any, scale_b: Any) -> Any:
        """Return D with random bits that are all set: each stochastic rounding goes away from zero."""
        codes = line(a), line(b), int(c[0, 0])
        return np.array([[golden.dot(spec, *codes, line(scale_a), line(scale_b), draw=lambda *_: 0xFFFFFFFF)]])

    def line(x: Any) -> list[Any]:
        return [line(y) for y in x] if isinstance(x, list) else [] if x is None else x.ravel().tolist()

    if spec.is_stochastic:
        return Engine(upward, False)
    try:
        return Engine(cpu.prepared(spec, cpu.NARROW), True)
    except (cpu.NoCompiler, Unsupported):
        return Engine(slow, False)


# -- products --------------------------------------------------------------------------------------------------------


def _value(spec: Instruction, fmt: Format, code: int) -> Fraction:
    """Return the number that an operand's code is read as."""
    number = decode(fmt, code)
    tiny = fmt.kind == "float" and number.significand < 1 << fmt.mantissa_bits
    return Fraction(0) if spec.flush_operands and tiny else number.exact()


def _power(fmt: Format, exponent: int) -> int:
    """Return the code of a power of two, or of the nearest number towards zero."""
    return encode(fmt, number_of(Fraction(2) ** exponent), Rounding.TOWARD_ZERO, "saturate")


def _pair(spec: Instruction, target: Fraction) -> Pair | None:
    """Return codes whose product comes nearest to a positive number from below, one of them a power of two; None for zero."""
    exponent, found = _leading(target), []
    for one, other in ((spec.a, spec.b), (spec.b, spec.a)):
        half = min(max(exponent // 2, other.min_exponent), other.max_exponent)
        half = min(max(half, exponent - one.max_exponent), exponent - one.min_exponent)
        for power in dict.fromkeys((half, exponent - one.min_exponent)):
            y = _power(other, min(max(power, other.min_lsb_exponent), other.max_exponent))
            divisor = _value(spec, other, y)
            if divisor > 0:
                x = encode(one, number_of(_dyadic(target / divisor)), Rounding.TOWARD_ZERO, "saturate")
                found.append((_value(spec, one, x) * divisor, (x, y) if one is spec.a else (y, x)))
    made, pair = max((f for f in found if f[0] <= target), default=(0, None))
    return pair if made else None


def _leading(x: Fraction) -> int:
    """Return the exponent of the leading bit of a positive number."""
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if x >= Fraction(2) ** guess else guess - 1


def _dyadic(x: Fraction) -> Fraction:
    """Return a positive number cut to 80 significant bits."""
    shift = 80 - (x.numerator.bit_length() - x.denominator.bit_length())
    return Fraction(floor(x * Fraction(2) ** shift)) / Fraction(2) ** shift


def _leads(spec: Instruction, limits: Bound) -> list[Pair]:
    """Return codes of leads: large and moderate powers of two, and subnormals times the largest power of two or each other."""
    top = spec.a.max_exponent + spec.b.max_exponent
    room = floor(log2(limits.overflow)) - 6 if 0 < limits.overflow < inf else top
    exponents = dict.fromkeys(min(e, room) for e in (min(top - 1, WIDE), (top + 1) // 2, 0))
    found = [_pair(spec, Fraction(2) ** e) for e in exponents]
    for sub, other, swap in ((spec.a, spec.b, False), (spec.b, spec.a, True)):
        if sub.kind == "float" and sub.mantissa_bits and not spec.flush_operands:
            least, most = 1 << sub.low_padding, min(other.max_exponent, room - sub.min_lsb_exponent)
            power = _power(other, most)
            found.append((power, least) if swap else (least, power))
            found += [(least, 1 << other.low_padding)] if spec.scales and not swap else []
    return [pair for pair in dict.fromkeys(found) if pair is not None]


def _largest(spec: Instruction) -> Pair:
    """Return the codes of the largest product."""
    return spec.a.max_finite_magnitude << spec.a.low_padding, spec.b.max_finite_magnitude << spec.b.low_padding


def _is_narrow(spec: Instruction) -> bool:
    """Return whether the range of products is too small for a product to be lost beside another."""
    width = sum(fmt.max_exponent - fmt.min_lsb_exponent for fmt in (spec.a, spec.b))
    return width < _binades(spec, False).start + 4


def _binades(spec: Instruction, many: bool) -> range:
    """Return the binades below the lead in which a product, or the sum of many, can be lost."""
    kept = [x for s in spec.stages.values() for x in (s.fraction_bits, s.aligned and s.accumulator_fraction_bits) if x]
    kept += [r.format.mantissa_bits for s in spec.stages.values() for r in s.result if r.format.kind == "float"]
    if spec.is_stochastic:  # down to the last random bit, above which all set ones carry
        drawn = [
            r.format.mantissa_bits + r.random_bits for s in spec.stages.values() for r in s.result if r.random_bits
        ]
        return range(min(drawn) - 2, min(drawn) + 1)
    if not many:
        return range(max(kept), max(kept) + 3)
    subnormal = max(spec.a.mantissa_bits, spec.b.mantissa_bits)
    return range(min(kept) - subnormal - 2, max(kept) + spec.span.bit_length() + 3)


def _boosts(spec: Instruction) -> Sequence[int]:
    """Return binary logarithms of the lead's scale over the others' that formats of scales hold."""
    if not spec.scale or not spec.scales:
        return [0]
    formats = [_wide(side, axis).format for side, axis in ((spec.scale.a, 1), (spec.scale.b, 0)) if side]
    most = sum(fmt.max_exponent - fmt.min_exponent for fmt in formats)
    return [0, *(h for h in (8, 16, 24, 32) if h < most), min(most, 40)]


def _shares(scale: Scaling, boost: int) -> list[tuple[int, int]]:
    """Return for A and B the binary logarithms of the scales without and with a lead, whose ratio in all is the boost."""
    found = []
    sides = (scale.a, 1, boost // 2 if scale.b else boost), (scale.b, 0, -(-boost // 2) if scale.a else boost)
    for side, axis, own in sides:
        if side is None:
            found.append((0, 0))
            continue
        fmt = _wide(side, axis).format
        high = min(max((own + 1) // 2, own + fmt.min_exponent), fmt.max_exponent)
        found.append((high - own, high))
    return found


def _wide(side: ScaleOperand, axis: int) -> ScaleLevel:
    """Return the level of scales that tells the lead's group from others: of those with groups along K, the widest in range."""
    apart = [level for level in side.levels if level.along(axis) < 1 << 40]
    return max(apart, key=lambda level: level.format.max_exponent - level.format.min_exponent)
