"""One vector: the codes of one dot product of an instruction, and the fields that hold them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from isa_model import golden
from isa_model.array_codec import code_dtype
from isa_model.codec import Number, decode, encode
from isa_model.float64 import Codes
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.matmul import matmul
from isa_model.rounding import Rounding
from isa_model.tables import finite


class Vector(NamedTuple):
    """The codes of one dot product of length k."""

    a: tuple[int, ...]
    """Codes of a row of A."""
    b: tuple[int, ...]
    """Codes of a column of B."""
    scale_a: tuple[int, ...]
    """Codes of the scales of A along K, level after level, the finest first; empty if A has none."""
    scale_b: tuple[int, ...]
    """Codes of the scales of B along K, level after level, the finest first; empty if B has none."""
    c: int
    d: int = -1
    """Code of D; -1 until it is computed."""
    random: tuple[int, ...] = ()
    """Random words of 32 bits in the order of stages, blocks and registers, of which a register takes the upper bits."""
    case: str = ""
    """Purpose of the vector, for people: the bin it was built for, or its kind of random operands."""


class Field(NamedTuple):
    """One field of a vector."""

    codes: int
    """Number of codes."""
    bits: int
    """Width of a code in bits."""
    format: str
    """Name of the number format."""


class Vectors(NamedTuple):
    """Vectors of one instruction, and the seed of the random ones."""

    spec: Instruction
    seed: int
    vectors: tuple[Vector, ...]

    @property
    def fields(self) -> dict[str, Field]:
        """Fields of each vector, by name."""
        return fields(self.spec)


def fields(spec: Instruction) -> dict[str, Field]:
    """Return the fields of an instruction's vectors by name, in the order of the files.

    Scales and random words are there only if it takes them. Codes of several levels of scales have the bits of the widest.
    """
    k = spec.shape.k
    result = {"a": Field(k, spec.a.bits, spec.a.name), "b": Field(k, spec.b.bits, spec.b.name)}
    for name, levels in scale_levels(spec).items():
        formats = [fmt for fmt, _ in levels]
        names = ", then ".join(fmt.name for fmt in formats)
        result[name] = Field(sum(count for _, count in levels), max(fmt.bits for fmt in formats), names)
    if words := draws(spec):
        result["random"] = Field(words, 32, "random words")
    result["c"] = Field(1, spec.c_format.bits, spec.c_format.name)
    result["d"] = Field(1, max(spec.accumulator.bits, (spec.nan_code or 0).bit_length()), spec.accumulator.name)
    return result


def scale_levels(spec: Instruction) -> dict[str, list[tuple[Format, int]]]:
    """Return the scales of one dot product by field: the format of each level, the finest first, and its number of codes."""
    sides = (("scale_a", spec.scale.a, 1), ("scale_b", spec.scale.b, 0)) if spec.scale else ()
    return {
        name: [(level.format, -(-spec.shape.k // level.along(axis))) for level in side.levels]
        for name, side, axis in sides
        if side
    }


def draws(spec: Instruction) -> int:
    """Return the number of random words that one dot product takes."""
    each = 0
    for i, stage in enumerate(spec.stages.values()):
        blocks = spec.shape.k // spec.products_per_result(i) * (stage.chain or 1)
        each += blocks * sum(bool(register.random_bits) for register in stage.result)
    return each


def answer(spec: Instruction, v: Vector) -> int:
    """Return the code of D of one vector by the golden model."""
    scales: dict[str, Any] = {}
    for name, levels in scale_levels(spec).items():
        ends = np.cumsum([count for _, count in levels])[:-1]
        own = [part.tolist() for part in np.split(np.array(getattr(v, name), np.uint64), ends)]
        scales[name] = own if len(levels) > 1 else own[0]
    words = iter(v.random)
    return golden.dot(spec, v.a, v.b, v.c, **scales, draw=lambda block, register: next(words))


def outputs(spec: Instruction, vectors: list[Vector] | tuple[Vector, ...], engine: Any = "auto") -> list[int]:
    """Return the code of D for every vector, computed by an engine of `matmul`; their own `d` is ignored.

    Up to 64 vectors are computed as one matrix product, of which the diagonal holds their results.
    """
    if not vectors:
        return []
    if engine == "auto":
        try:
            return outputs(spec, vectors, "cpu")
        except ValueError:  # the engine cannot compute this spec
            return outputs(spec, vectors, "golden")
    if engine == "golden" or spec.is_stochastic or any(side.coarser for side in spec.scales):
        return [answer(spec, v) for v in vectors]  # random words have no seed; levels of scales, no lines of their own
    apart = spec.per_line()
    results: list[int] = []
    for start in range(0, len(vectors), 64):
        some = vectors[start : start + 64]
        c = np.zeros((len(some), len(some)), code_dtype(spec.c_format))
        np.fill_diagonal(c, [v.c for v in some])

        def side(name: str, fmt: Format, some: Any = some) -> Codes:
            return np.array([getattr(v, name) for v in some], code_dtype(fmt))

        scale = spec.scale
        d = matmul(
            apart,
            side("a", spec.a),
            side("b", spec.b).T,
            c,
            side("scale_a", scale.a.format) if scale and scale.a else None,
            side("scale_b", scale.b.format).T if scale and scale.b else None,
            engine=engine,
        )
        results += np.diagonal(d).copy().view(code_dtype(spec.accumulator)).tolist()
    return results


def exactly(fmt: Format, number: Number) -> int | None:
    """Return the code of a finite number, or None if the format does not have that number."""
    code = encode(fmt, number, Rounding.TOWARD_ZERO, "saturate")
    got = decode(fmt, code)
    return code if not got.special and got.exact() == number.exact() else None


class Specials:
    """The special codes of a format: those at the ends of its ranges, infinities and NaN, each with a name."""

    def __init__(self, fmt: Format) -> None:
        self.format = fmt
        self.codes: dict[str, int] = {}
        if fmt.kind == "integer":
            bits = fmt.mantissa_bits
            named = {"0": 0, "1": 1, "largest": fmt.max_finite_magnitude}
            if fmt.signed:
                named |= {"-1": (1 << bits) - 1, "smallest": 1 << (bits - 1)}
            for name, code in named.items():
                if code not in self.codes.values():  # the largest of one bit is 1
                    self.codes[name] = code
        elif fmt.kind == "table":
            ends = [(x, code) for x, code in finite(fmt.values) if x]
            order = sorted(ends, key=lambda entry: abs(entry[0]))
            for sign, own in (("+", [e for e in order if e[0] > 0]), ("-", [e for e in order if e[0] < 0])):
                if own:
                    self.codes |= {f"{sign}smallest normal": own[0][1], f"{sign}largest normal": own[-1][1]}
            words = {"+0": 0.0, "NaN": "nan", "+Inf": "infinity", "-Inf": "-infinity"}
            self.codes |= {name: fmt.values.index(word) for name, word in words.items() if word in fmt.values}
        else:
            if fmt.nan_code is not None:
                self.codes["NaN"] = fmt.nan_code
            one, top = 1 << fmt.mantissa_bits, fmt.max_finite_magnitude
            magnitudes = {"Inf": top + 1} if fmt.infinity else {}
            if fmt.zero:
                magnitudes |= {"0": 0} | ({"smallest subnormal": 1, "largest subnormal": one - 1} if one > 1 else {})
            magnitudes |= {"smallest normal": one if fmt.zero else 0, "largest normal": top}
            for sign in "+-" if fmt.signed else "+":
                for name, magnitude in magnitudes.items():
                    code = (magnitude | (sign == "-") << fmt.magnitude_bits) << fmt.low_padding
                    is_nan = decode(fmt, code).special == "nan"
                    if not is_nan and code not in self.codes.values():
                        self.codes[sign + name] = code
        self._names = {code: name for name, code in self.codes.items()}
        self._mask = ((1 << (fmt.bits - fmt.high_padding)) - 1) >> fmt.low_padding << fmt.low_padding

    def name(self, code: int) -> str:
        """Return the name of a code; empty for an ordinary number."""
        found = self._names.get(code & self._mask)
        if found is None and decode(self.format, code).special == "nan":
            return "NaN"
        return found or ""
