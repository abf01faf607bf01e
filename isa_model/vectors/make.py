"""Vectors of an instruction: those built for its coverage, then random ones, all with results of the golden model."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from isa_model.diagnostics import InputError
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.vectors.directed import directed
from isa_model.vectors.goals import Goals, without
from isa_model.vectors.observer import Observer
from isa_model.vectors.vector import Vector, Vectors, answer, draws, scale_levels

KINDS = ("like sizes", "like sizes", "wide exponents", "wide exponents", "cancelling pairs", "any bits")
"""Kinds of random operands; each vector draws one."""
NEAR, WIDE = 2, 40
"""Largest distance of exponents from the middle, for like sizes and for wide exponents."""


def make(
    spec: Instruction, count: int, seed: int = 0, progress: Callable[[int, int], None] = lambda done, total: None
) -> Vectors:
    """Return `count` vectors of an instruction: those built for the goals of its coverage, the rest random.

    The same spec, count and seed give the same vectors. `progress` is called with the number of vectors done and their
    total. Of a sparse instruction, or one with a codebook, they are those of its dot-product unit, behind the selection of
    elements (`dense`). All are random for an instruction without goals (`goals.without`).
    Raises InputError if the vectors built for the coverage alone are more than `count`.
    """
    spec = spec.dense
    built = _built(spec)
    if count < len(built):
        raise InputError.of(
            f"{count} vectors are too few: the coverage of {spec.name} needs {len(built)}",
            f"--count {len(built)} or more",
        )
    rng = Random(seed)
    done = []
    for n in range(count):
        v = built[n] if n < len(built) else _random(spec, rng)
        done.append(v._replace(d=answer(spec, v)))
        if n % 64 == 0:
            progress(n, count)
    return Vectors(spec, seed, tuple(done))


def covering(spec: Instruction, count: int) -> Vectors:
    """Return at least `count` vectors: as many more as the coverage needs."""
    return make(spec, max(count, len(_built(spec.dense))))


def _built(spec: Instruction) -> list[Vector]:
    return [] if without(spec) else directed(spec, Goals(spec), Observer(spec))


def _random(spec: Instruction, rng: Random) -> Vector:
    kind = rng.choice(KINDS)
    spread = {"like sizes": NEAR, "wide exponents": WIDE, "cancelling pairs": NEAR, "any bits": None}[kind]
    middle_a, middle_b = _middle(spec.a), _middle(spec.b)
    a = [_code(spec.a, rng, middle_a, spread) for _ in range(spec.shape.k)]
    b = [_code(spec.b, rng, middle_b, spread) for _ in range(spec.shape.k)]
    if kind == "cancelling pairs":
        half = spec.shape.k // 2
        a[half : 2 * half] = [_negated(spec.a, code) for code in a[:half]]
        b[half : 2 * half] = b[:half]
    scales = {
        name: tuple(_code(fmt, rng, _middle(fmt), spread) for fmt, count in levels for _ in range(count))
        for name, levels in scale_levels(spec).items()
    }
    words = tuple(rng.getrandbits(32) for _ in range(draws(spec)))
    c = _code(spec.c_format, rng, middle_a + middle_b, None if spread is None else 2 * spread)
    return Vector(
        tuple(a),
        tuple(b),
        scales.get("scale_a", ()),
        scales.get("scale_b", ()),
        c,
        random=words,
        case=f"random: {kind}",
    )


def _middle(fmt: Format) -> int:
    """Return the exponent of one, or the nearest that a format has."""
    return _within(fmt, 0) if fmt.kind == "float" else 0


def _within(fmt: Format, exponent: int) -> int:
    return min(max(exponent, fmt.min_exponent), fmt.max_exponent)


def _code(fmt: Format, rng: Random, middle: int, spread: int | None) -> int:
    """Return a random code; with a `spread`, that of a finite number whose exponent is at most `spread` from `middle`.

    Where the format has no exponent there, the middle is the nearest that it has.
    """
    if spread is None or fmt.kind != "float":
        return rng.getrandbits(fmt.bits)
    middle = _within(fmt, middle)
    lowest = (
        0 if fmt.zero and fmt.min_exponent >= middle - spread else max(middle - spread, fmt.min_exponent) + fmt.bias
    )
    highest = min(middle + spread, fmt.max_exponent) + fmt.bias
    exponent = rng.randint(lowest, highest)
    magnitude = min(exponent << fmt.mantissa_bits | rng.getrandbits(fmt.mantissa_bits), fmt.max_finite_magnitude)
    sign = rng.getrandbits(1) if fmt.signed else 0
    if magnitude == 0 and fmt.nan == "negative-zero":
        sign = 0
    return (sign << fmt.magnitude_bits | magnitude) << fmt.low_padding


def _negated(fmt: Format, code: int) -> int:
    if fmt.kind == "integer":
        return -code & ((1 << fmt.bits) - 1) if fmt.signed else code
    if fmt.kind == "table":
        return code
    no_negative_zero = fmt.nan == "negative-zero" and code == 0
    return code ^ (1 << (fmt.magnitude_bits + fmt.low_padding)) if fmt.signed and not no_negative_zero else code
