"""Vectors that check a unit: directed, random and adversarial operands, with D from the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from codesign.evidence.cost.rtl.ports import ScalePort, draw_bits, draws, ports, registers, scale_inputs
from isa_model.array_codec import code_dtype, to_codes
from isa_model.codec import Number, encode
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.matmul import matmul
from isa_model.philox import philox

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Codes = NDArray[np.uint64]

KINDS = ("bits", "like", "sparse", "cancel", "ends")
"""Kinds of operands: random bits, numbers of similar size, many zeros, pairs that cancel, both ends of the range."""
SEED = 2**40 + 1
"""Seed of the random bits of registers that round stochastically."""
SAMPLED = 200
"""Vectors of a test bench from each random batch."""


@dataclass(frozen=True)
class UnitVectors:
    """Operands and results of many steps."""

    operands: dict[str, Codes]
    """Codes (vectors, elements) by port."""
    d: Codes
    """Codes of D (vectors,); where the running value has two registers, of all outputs (vectors, outputs)."""

    def __len__(self) -> int:
        return len(self.d)


def one_step(spec: Instruction) -> Instruction:
    """Return the instruction with K reduced to one step, which is what a unit computes."""
    return spec.model_copy(update={"shape": spec.shape.model_copy(update={"k": spec.span})})


def adversarial(spec: Instruction, seed: int, side: int = 96) -> Iterator[UnitVectors]:
    """Yield batches of `side` rows times `side` columns for every kind of operand, with C of the same kind and C near -A B."""
    import numpy as np

    rng = np.random.default_rng(seed)
    step = one_step(spec)
    for kind in KINDS:
        a = codes(spec.a, rng, (side, spec.span), kind)
        b = codes(spec.b, rng, (spec.span, side), "like" if kind == "cancel" else kind)
        if kind == "cancel":
            b[spec.span // 2 : spec.span // 2 * 2] = b[: spec.span // 2]
        scales = {
            port.name: codes(port.level.format, rng, scale_shape(port, side), kind if kind != "cancel" else "like")
            for port in scale_inputs(spec)
        }
        c = codes(spec.c_format, rng, (side, side), kind)
        yield of_matrices(spec, a, b, c, scales, kept=kept(spec, rng, (side, side), kind))
        if spec.remainder:
            alone = of_matrices(spec, a, b, np.zeros_like(c), scales).d
            state, fmt = kept(spec, rng, (side, side), kind), registers(spec)["running"]
            near = negated(fmt, alone[:, 1].reshape(side, side)) + (rng.integers(-2, 3, c.shape) << fmt.low_padding)
            state |= {"running": (near & (1 << fmt.bits) - 1).astype(code_dtype(fmt)), "first": np.zeros_like(c)}
            yield of_matrices(spec, a, b, c, scales, kept=state)
        elif spec.c_format == spec.accumulator:
            sum_alone = to_codes(spec.accumulator, matmul(step, a, b, np.zeros_like(c), **arguments(step, scales)))
            nearby = rng.integers(-2, 3, c.shape) * rng.integers(0, 2, c.shape) << spec.accumulator.low_padding
            c = negated(spec.accumulator, sum_alone) + nearby
            mask = np.uint64((1 << spec.accumulator.bits) - 1)
            yield of_matrices(spec, a, b, (c.astype("i8").view("u8") & mask).astype(sum_alone.dtype), scales)


def shipped(spec: Instruction) -> list[UnitVectors]:
    """Return the vectors of an exported test bench: all special ones, and a sample of each batch of the others."""
    import numpy as np

    rng = np.random.default_rng(0)
    batches = []
    for batch in adversarial(spec, 3, 24):
        chosen = rng.choice(len(batch), min(SAMPLED, len(batch)), replace=False)
        batches.append(UnitVectors({name: codes[chosen] for name, codes in batch.operands.items()}, batch.d[chosen]))
    return [*batches, *specials(spec)]


def specials(spec: Instruction) -> Iterator[UnitVectors]:
    """Yield batches that cross special sums, special pairs of scales and every special code of C; none for integers.

    Sums are zero, cancelled, of one tiny product, one, infinite and NaN. Pairs of scales are of zero, one, infinity, NaN and
    both ends of the range, so that finite ones overflow and underflow together. The other scales of a step are ones.
    """
    import numpy as np

    from isa_model.vectors.vector import Specials

    if spec.a.kind == "integer":
        return
    one = one_step(spec).per_line()
    rows = np.array(list(_special_rows(spec.a, spec.span)), code_dtype(spec.a))
    columns = np.full((spec.span, 1), code_of_one(spec.b), code_dtype(spec.b))
    inputs = scale_inputs(one)
    finest = {port.is_a: _special_scales(port) for port in reversed(inputs)}
    if True in finest:
        rows, finest[True] = np.repeat(rows, len(finest[True]), axis=0), np.tile(finest[True], (len(rows), 1))
    if False in finest:
        columns, finest[False] = np.repeat(columns, len(finest[False]), axis=1), finest[False].T
    scales = {}
    for port in inputs:  # coarser scales are ones
        shape = scale_shape(port, len(rows) if port.is_a else columns.shape[1])
        ones = np.full(shape, code_of_one(port.level.format), code_dtype(port.level.format))
        scales[port.name] = finest[port.is_a] if port.name in ("scale_a", "scale_b") else ones
    for code in dict.fromkeys((*Specials(spec.c_format).codes.values(), code_of_one(spec.c_format))):
        c = np.full((len(rows), columns.shape[1]), code, code_dtype(spec.c_format))
        yield of_matrices(one, rows, columns, c, scales)


def _special_rows(fmt: Format, span: int) -> Iterator[list[int]]:
    """Yield rows of A whose sums with ones are special."""
    from isa_model.vectors.vector import Specials

    one, named = code_of_one(fmt), Specials(fmt).codes
    zero = named.get("+0", one)
    for name in ("+0", "-0"):
        if name in named:
            yield [named[name]] * span
    if fmt.signed and span > 1 and fmt.kind == "float":
        minus = one ^ 1 << (fmt.bits - 1 - fmt.high_padding)
        yield [one, minus, *[zero] * (span - 2)]
        yield [*[one, minus] * (span // 2), *[zero] * (span % 2)]
    for code in (
        one,
        *(named[x] for x in ("+smallest subnormal", "+smallest normal", "+Inf", "-Inf", "NaN") if x in named),
    ):
        yield [code, *[zero] * (span - 1)]


def _special_scales(port: ScalePort) -> Any:
    """Return rows of the scales of a step, whose first takes every special code."""
    import numpy as np

    from isa_model.vectors.vector import Specials

    fmt, count = port.level.format, port.per_step
    one, named = code_of_one(fmt), Specials(fmt).codes
    wanted = ("+0", "+smallest subnormal", "+smallest normal", "+largest normal", "+Inf", "NaN")
    codes = dict.fromkeys((one, *(named[name] for name in wanted if name in named)))
    return np.array([[code, *[one] * (count - 1)] for code in codes], code_dtype(fmt))


def code_of_one(fmt: Format) -> int:
    """Return the code of one, or of the largest number if the format does not have one."""
    from isa_model.vectors.vector import exactly

    code = exactly(fmt, Number(False, 1, 0))
    return fmt.max_finite_magnitude << fmt.low_padding if code is None else code


def negated(fmt: Format, codes: Any) -> Any:
    """Return the codes of the negated numbers, as signed integers."""
    wide = codes.astype("i8")
    return -wide if fmt.kind == "integer" else wide ^ 1 << (fmt.bits - 1 - fmt.high_padding)


def scale_shape(port: ScalePort, lines: int) -> tuple[int, int]:
    """Return the shape of the scales of an operand with this number of rows (of A) or columns (of B), for one step."""
    across = -(-lines // port.level.along(0 if port.is_a else 1))
    return (across, port.per_step) if port.is_a else (port.per_step, across)


def arguments(spec: Instruction, scales: Mapping[str, Any], seed: bool = True) -> dict[str, Any]:
    """Return scales by port, and the seed of random bits if asked for, as arguments of `matmul` or `golden.dot`."""
    given: dict[str, Any] = {"seed": SEED} if seed and spec.is_stochastic else {}
    for name in ("scale_a", "scale_b"):
        levels = [scales[port.name] for port in scale_inputs(spec) if port.name.startswith(name)]
        if levels:
            given[name] = levels if len(levels) > 1 else levels[0]
    return given


def of_matrices(
    spec: Instruction,
    a: Any,
    b: Any,
    c: Any,
    scales: Mapping[str, Any] = MappingProxyType({}),
    seed: int = SEED,
    kept: Mapping[str, Any] = MappingProxyType({}),
) -> UnitVectors:
    """Return one vector per element of D, from codes of A (M, span), B (span, N), C (M, N) and of scales by port.

    `seed` is that of a stochastic instruction, `kept` the codes (M, N) of both registers and `first`; without it, steps start
    from C.
    """
    import numpy as np

    step = one_step(spec)
    rows, columns = (x.ravel() for x in np.indices(c.shape))
    operands = {"a": a[rows], "b": b.T[columns], "c": c.reshape(-1, 1)}
    if step.is_stochastic:
        words = [
            philox(
                seed,
                rows.astype("u8"),
                columns.astype("u8"),
                place.block,
                spec.register_number(place.stage) + place.register,
            )
            for place in draws(step)
        ]
        operands["random"] = np.stack(words, axis=1) >> np.uint64(32 - draw_bits(step))
    for port in scale_inputs(step):
        lines = scales[port.name] if port.is_a else scales[port.name].T
        operands[port.name] = lines[(rows if port.is_a else columns) // port.level.along(0 if port.is_a else 1)]
    if step.remainder:
        none = {name: np.zeros_like(rows) for name in registers(step)} | {"first": np.ones_like(rows)}
        operands |= {name: np.reshape(kept.get(name, own), (-1, 1)) for name, own in none.items()}
        by_vector = [{name: own[i].tolist() for name, own in operands.items()} for i in range(len(rows))]
        results = np.array([in_two(step.per_line(), vector) for vector in by_vector], "u8")
        return UnitVectors({k: v.astype("u8") for k, v in operands.items()}, results)
    given = arguments(step, scales) | ({"seed": seed} if step.is_stochastic else {})
    d = to_codes(step.accumulator, matmul(step, a, b, c, **given))
    mask = (1 << step.accumulator.bits) - 1
    return UnitVectors({k: v.astype("u8") for k, v in operands.items()}, d.ravel().astype("u8") & np.uint64(mask))


def in_two(step: Instruction, operands: Mapping[str, list[int]]) -> list[int]:
    """Return the codes of D and of both registers after one step, by the golden model, from the codes of a vector by port."""
    from isa_model import golden

    formats = registers(step)
    if operands["first"][0]:
        running = golden.read(step, step.c_format, operands["c"][0], step.flush_c)
    else:
        rest = golden.term(formats["rest"], operands["rest"][0])
        running = golden.term(formats["running"], operands["running"][0])
        running = replace(running, rest=None if rest.number.is_zero else rest)
    places = {(d.block, step.register_number(d.stage) + d.register): i for i, d in enumerate(draws(step))}
    words = [bits << (32 - draw_bits(step)) for bits in operands.get("random", [])]
    given = arguments(step, operands, seed=False)
    a, b, of_a, of_b = operands["a"], operands["b"], given.get("scale_a", ()), given.get("scale_b", ())
    value = golden.instruction(step, a, b, running, of_a, of_b, 0, lambda *place: words[places[place]])
    after = [value.number, value.rest.number if value.rest else Number(False, 0, 0)]
    codes = [encode(f, x, overflow=f.kept_infinity) for f, x in zip(formats.values(), after, strict=True)]
    return [golden.written(step, golden.joined(step, value)), *codes]


def kept(spec: Instruction, rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> dict[str, Any]:
    """Return random codes of both registers, finite in the second, and `first`; nothing without a second register."""
    import numpy as np

    formats = registers(spec)
    found: dict[str, Any] = {name: codes(fmt, rng, shape, kind) for name, fmt in formats.items()}
    if found:
        fmt = formats["rest"]
        magnitude = found["rest"] >> fmt.low_padding & ((1 << fmt.magnitude_bits) - 1)
        special = (magnitude > fmt.max_finite_magnitude) | (found["rest"] == (fmt.nan_code or 0))
        found["rest"] = np.where(special, 0, found["rest"])
        found["first"] = (rng.random(shape) < 0.25).astype("u8")
    return found


def widths(spec: Instruction) -> dict[str, int]:
    """Return the bits of one element, by port."""
    result = {"a": spec.a.bits, "b": spec.b.bits, "c": spec.c_format.bits}
    if spec.remainder:
        result |= {name: fmt.bits for name, fmt in registers(spec).items()} | {"first": 1}
    if spec.is_stochastic:
        result["random"] = draw_bits(spec)
    result |= {port.name: port.level.format.bits for port in scale_inputs(spec)}
    assert result.keys() == ports(spec).keys()
    return result


def codes(fmt: Format, rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    """Return random codes of a format, of one of the `KINDS`."""
    import numpy as np

    dtype = code_dtype(fmt)
    bits = rng.integers(0, 1 << fmt.bits, shape, dtype="u8")
    if kind == "bits" or fmt.kind == "table":
        return bits.astype(dtype)
    if fmt.kind == "integer":
        return _integer_codes(fmt, rng, shape, kind).astype(dtype)
    top = (1 << fmt.exponent_bits) - 1
    middle = fmt.bias if fmt.exponent_bits > 5 and 0 <= fmt.bias <= top else top // 2
    draw = {
        "like": rng.integers(max(middle - 2, 0), min(middle + 3, top + 1), shape),
        "sparse": rng.integers(max(middle - 2, 0), min(middle + 3, top + 1), shape),
        "cancel": np.full(shape, middle),
        "ends": rng.choice([0, 1, max(top - 1, 0), top], shape, p=[0.45, 0.3, 0.2, 0.05]),
    }[kind].astype("u8")
    low = fmt.mantissa_bits + fmt.low_padding
    sign = bits >> np.uint64(fmt.bits - fmt.high_padding - 1) & np.uint64(1) if fmt.signed else np.uint64(0)
    result = sign << np.uint64(low + fmt.exponent_bits) | draw << np.uint64(low) | bits & np.uint64((1 << low) - 1)
    if kind == "sparse" and fmt.zero:
        result[rng.random(shape) < 0.6] = 0
    if kind == "cancel" and fmt.signed and shape[-1] > 1:
        half = shape[-1] // 2
        flip = np.uint64(1 << (low + fmt.exponent_bits))
        result[..., half : 2 * half] = result[..., :half] ^ flip
    return result.astype(dtype)


def _integer_codes(fmt: Format, rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    """Return random codes of integers, of one of the `KINDS` except `bits`."""
    mask, top = (1 << fmt.bits) - 1, fmt.max_finite_magnitude
    low = -top - 1 if fmt.signed else 0
    near = rng.integers(-2 if fmt.signed else 0, 3, shape)
    values = {
        "like": near << max(fmt.bits // 2 - 2, 0),
        "sparse": near * (rng.random(shape) < 0.4),
        "cancel": rng.integers(low, top + 1, shape),
        "ends": rng.choice([low, low + 1, -1 if fmt.signed else top - 1, 0, top], shape, p=[0.3, 0.1, 0.1, 0.2, 0.3]),
    }[kind]
    if kind == "cancel" and shape[-1] > 1:
        half = shape[-1] // 2
        values[..., half : 2 * half] = -values[..., :half]
    codes: NDArray[Any] = values & mask
    return codes
