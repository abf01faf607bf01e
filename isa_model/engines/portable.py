"""The portable engine: golden.py's results on numpy arrays, tile by tile and generic in every field of the spec.

A `Value` is one term of golden.py for every element of a tile of D. Results come up the stages one block of K at a
time, so memory does not grow with K. Arithmetic is exact on float64 lanes (isa_model/float64.py), on float32 where products are
narrow enough. `Plan` proves from the formats alone that nothing is lost; the engine refuses a spec without this proof.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa_model import golden
from isa_model.array_codec import code_dtype, encode_array
from isa_model.engines.operands import OPERAND_NO_EXPONENT, DecodedOperand, decode, joined, read, times_exponents
from isa_model.engines.plan import RANGE, Handover, Plan
from isa_model.float64 import (
    LANE_BITS,
    NO_EXPONENT,
    Codes,
    Exponents,
    Float64,
    binned,
    exponent_of,
    power_of_two,
    round_to,
    to_odd,
    two_product,
)
from isa_model.instruction import Instruction
from isa_model.philox import philox
from isa_model.rounding import round_integer
from isa_model.sparse import elements
from isa_model.stage import Stage

TILE_M, TILE_N = 128, 256
CHUNK = 1 << 18
"""Products formed at a time; large enough that threads rarely wait for each other to enter numpy."""
VALUES = 1 << 22
"""Most terms of a tile held until they are summed."""


@dataclass(frozen=True, slots=True)
class Value:
    """One term for every element of a tile: parts whose exact sum is the value, and alignment exponents."""

    parts: list[Float64]
    exponent: Exponents


def matmul(
    spec: Instruction,
    a: Codes,
    b: Codes,
    c: Codes,
    scale_a: Any = None,
    scale_b: Any = None,
    seed: int = 0,
    positions: Codes | None = None,
) -> Codes:
    """Return D as raw codes, from raw codes: `a` (M, K), `b` (K, N), `c` (M, N), scales one per group.

    `positions` (lines, runs) are those of a sparse operand, as `sparse.checked` returns them.
    Raises plan.Unsupported for a spec whose values float64 lanes cannot carry exactly.
    """
    plan = Plan(spec)
    scale_a, scale_b = joined(spec, scale_a, scale_b)
    side_a = decode(plan, True, a.T, None if scale_a is None else scale_a.T, plan.lane)
    side_b = decode(plan, False, b, scale_b, plan.lane)
    c_values = read(spec.c_format, c, spec.flush_c)
    d: Any = np.empty(c.shape, code_dtype(spec.accumulator))

    picks = None if plan.sparsity is None or positions is None else elements(plan.sparsity, positions)
    tile_m, tile_n = tile_size(plan)

    def work(corner: tuple[int, int]) -> None:
        rows, columns = slice(corner[0], corner[0] + tile_m), slice(corner[1], corner[1] + tile_n)
        with np.errstate(all="ignore"):
            lines = rows if plan.sparsity and plan.sparsity.operand == "a" else columns
            own = None if picks is None else picks[lines]
            a_tile, b_tile = side_a.tile(rows).along(2), side_b.tile(columns).along(1)
            d[rows, columns] = OperandTile(plan, a_tile, b_tile, c_values[rows, columns], seed, corner, own).d()

    corners = [(i, j) for i in range(0, d.shape[0], tile_m) for j in range(0, d.shape[1], tile_n)]
    threads = min(len(corners), os.cpu_count() or 1)
    if threads <= 1:
        list(map(work, corners))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, corners))
    return np.asarray(d)


def tile_size(plan: Plan) -> tuple[int, int]:
    """Return the rows and columns of a tile; fewer if a stage holds many terms of every element."""
    stages = plan.stages[int(plan.fused_products) :]
    waiting = sum(stage.dealt for stage in stages)
    columns = max(1, min(TILE_N, VALUES // max(waiting, 1)))
    return max(1, min(TILE_M, VALUES // (max(waiting, 1) * columns))), columns


class OperandTile:
    """Rows of A and columns of B for one tile of D, with the computation of each stage.

    Operands are (K, M, 1) and (K, 1, N), or (K, S, M, 1) and (K, S, 1, N) for S products of one shape. `picks` (lines, K) are,
    for the lines of a sparse operand, the elements of the other one that theirs are multiplied by.
    """

    def __init__(
        self,
        plan: Plan,
        a: DecodedOperand,
        b: DecodedOperand,
        c: Float64,
        seed: int = 0,
        corner: tuple[int, int] = (0, 0),
        picks: NDArray[np.intp] | None = None,
    ) -> None:
        self.plan, self.spec, self.a, self.b = plan, plan.spec, a, b
        self.depth = len(a.values) if picks is None else picks.shape[1]
        by_rows = plan.sparsity is not None and plan.sparsity.operand == "a"
        self.picks_of_rows = picks if by_rows else None
        self.picks_of_columns = None if by_rows else picks
        self.stages = plan.stages
        self.shape, self.seed = c.shape, seed
        self.rows, self.columns = (
            np.arange(n, dtype=np.uint64) + np.uint64(i) for n, i in zip(c.shape[-2:], corner, strict=True)
        )
        self.c = Value([c], exponent_of(c, plan.spec.c_format))
        self.chunk = max(1, CHUNK // c.size)
        self.buffer = np.empty((self.chunk, *c.shape), plan.lane)
        self.exponent_buffer = np.empty((self.chunk, *c.shape), np.int16)

    def d(self) -> Codes:
        """Return the codes of the tile."""
        (result,) = self.results(len(self.stages) - 1)
        values, fmt = result.parts[0], self.spec.accumulator
        codes: Codes = encode_array(fmt, values, overflow=fmt.kept_infinity)
        if self.spec.nan_code is not None:
            codes[np.isnan(values)] = self.spec.nan_code
        return codes

    # -- the stages, as golden.dot has them --------------------------------------------------------------------------

    def words(self, block: int, register: int) -> NDArray[np.uint64]:
        """Return the random words of every element of the tile."""
        words: NDArray[np.uint64] = philox(self.seed, self.rows[:, None], self.columns[None, :], block, register)
        return words

    def results(self, index: int) -> Iterator[Value]:
        """Yield the results of stage number `index` along K (-1: the products)."""
        if index < 0:
            yield from self.products()
            return
        stage, last = self.stages[index], index == len(self.stages) - 1
        start = self.c if last else Value([np.zeros(self.shape)], np.full(self.shape, NO_EXPONENT, np.int32))
        running, steps, count, number = start, 0, 0, 0
        rest = np.zeros(self.shape)
        of_an_instruction = self.spec.shape.k // self.spec.span
        for block in self.blocks(index):
            if last and steps and steps % of_an_instruction == 0 and not stage.remainder:
                running = self.reread(running)
            if stage.remainder:
                value, rest = self.put_in_two(index, number, block, running, rest)
            else:
                value = self.put(index, number, *self.add(index, block, running if stage.accumulator else None))
            running, steps, number = value, steps + 1, number + 1
            if not last and steps == (stage.chain or 1):
                yield self.scaled(value, count * self.spec.products_per_result(index), index)
                running, steps, count = start, 0, count + 1
        if last:
            yield self.joined(running, rest) if stage.remainder else running

    def reread(self, d: Value) -> Value:
        """Return the running value that one instruction writes as D as the next reads it as C (plan.Handover)."""
        how, x = self.plan.handover, d.parts[0]
        if how != Handover():
            x = np.where(np.isinf(x), np.copysign(how.infinity, x), x)
            x = np.where(np.isnan(x), how.nan, x)
            x = x if how.has_minus_zero else x + 0.0
            x = np.where(np.abs(x) < how.smallest, np.copysign(0.0, x) if how.keeps_sign else 0.0, x)
        return Value([x], exponent_of(x, self.spec.accumulator))

    def blocks(self, index: int) -> Iterator[Any]:
        """Yield the blocks of a stage: lists of Values, or of indices k of products that are never formed one by one."""
        stage, fused = self.stages[index], index == 0 and self.plan.fused_products
        source: Iterator[Any] = iter(range(self.depth)) if fused else self.results(index - 1)
        while span := list(islice(source, stage.dealt)):
            yield from golden.deal(stage, span)

    def products(self) -> Iterator[Value]:
        for k in range(self.depth):
            x, y = self.of_a(self.a.values, [k])[0], self.of_b(self.b.values, [k])[0]
            parts = two_product(x, y) if self.plan.product_bits > LANE_BITS else [x * y]
            if self.plan.whole_products:
                parts = [part + 0.0 for part in parts]
            self._make_infinite(parts[0])
            exponent = self.of_a(self.a.exponents, [k])[0] + self.of_b(self.b.exponents, [k])[0].astype(np.int32)
            exponent[exponent <= OPERAND_NO_EXPONENT // 2] = NO_EXPONENT
            yield self.scaled(Value(parts, exponent), k, -1)

    def of_a(self, x: NDArray[Any], ks: Sequence[int]) -> NDArray[Any]:
        """Return what `x` (K, M, 1) has at some k, or, if columns pick, what each column picks of it: (k, M, N)."""
        picks = self.picks_of_columns
        return x[ks] if picks is None else x[picks[:, ks], :, 0].transpose(1, 2, 0)

    def of_b(self, x: NDArray[Any], ks: Sequence[int]) -> NDArray[Any]:
        """Return what `x` (K, 1, N) has at some k, or, if rows pick, what each row picks of it: (k, M, N)."""
        picks = self.picks_of_rows
        return x[ks] if picks is None else x[picks[:, ks], 0, :].transpose(1, 0, 2)

    def _make_infinite(self, product: NDArray[np.floating[Any]]) -> None:
        if self.plan.infinite_from is not None:
            large = np.abs(product) >= self.plan.infinite_from
            product[large] = np.copysign(np.inf, product[large])

    def scaled(self, value: Value, k: int, index: int) -> Value:
        """Return a value times the scales of its row, column and group of K (golden.scaled)."""
        scale = self.spec.scale
        if scale is None or index != self.spec.scaled_stage or (index == -1 and self.plan.scales_fold):
            return value
        factor, exponent = np.ones((1, 1)), np.zeros((1, 1), np.int32)
        for operand, scales, k_axis in ((self.a, scale.a, 1), (self.b, scale.b, 0)):
            if scales is not None:
                assert operand.scales is not None
                assert operand.scale_exponents is not None
                group = k // scales.group[k_axis]
                factor = factor * operand.scales[group]
                exponent = times_exponents(exponent, operand.scale_exponents[group])
        if scale.product:
            factor = round_to(factor, scale.product)
            exponent = exponent_of(factor, scale.product.format)
        if scale.power:
            factor = factor * 2.0**scale.power
            exponent = np.where(exponent == NO_EXPONENT, NO_EXPONENT, exponent + scale.power)
        factor = np.broadcast_to(factor, self.shape)
        parts = []
        for part in value.parts:
            parts += two_product(part, factor) if self.plan.scaled_bits > LANE_BITS else [part * factor]
        if len(value.parts) > 1:
            # An infinity, a NaN and a zero have the right sign only as the product of the whole sum: parts may differ in sign.
            whole = to_odd(value.parts)
            alone = ~(np.isfinite(whole) & np.isfinite(factor)) | (whole == 0) | (factor == 0)
            if alone.any():
                product = whole * factor
                parts = [np.where(alone, np.copysign(0.0, product), part) for part in parts]
                parts[0] = np.where(alone, product, parts[0])
        if scale.result:
            rounded = round_to(to_odd(parts), scale.result)
            return Value([rounded], exponent_of(rounded, scale.result.format))
        return Value(parts, times_exponents(value.exponent, exponent))

    # -- sums --------------------------------------------------------------------------------------------------------

    def add(
        self, index: int, block: list[Any], running: Value | None, rest: Float64 | None = None
    ) -> tuple[list[Float64], Exponents]:
        """Return the exact parts of the sum of a block, and the exponent it was aligned to (golden.add).

        `rest` is one more term; where it is a zero, it takes no part.
        """
        stage, fused = self.stages[index], index == 0 and self.plan.fused_products
        neutral = -0.0 if stage.zero == "ieee" else 0.0  # x + -0.0 is x, for a negative zero x too
        largest = np.full(self.shape, NO_EXPONENT, np.int32)
        if stage.aligned or not stage.result:
            largest = self.largest_product(stage, block) if fused else largest
            for value in [*([] if fused else block), *([running] if running else [])]:
                exponent = value.exponent
                if value is running and stage.offset:
                    exponent = np.where(exponent == NO_EXPONENT, NO_EXPONENT, exponent + stage.offset)
                if stage.zero_exponent is not None:
                    exponent = np.where(exponent == NO_EXPONENT, stage.zero_exponent, exponent)
                np.maximum(largest, exponent, out=largest)
            if rest is not None and stage.remainder:
                np.maximum(largest, exponent_of(rest, stage.remainder.format), out=largest)
        if stage.aligned:
            parts = self.aligned_parts(stage, block, running, largest, fused, neutral, rest)
        else:
            parts = [self.exact_products(block)] if fused else [p for v in block for p in v.parts]
            parts += running.parts if running else []
            parts += [] if rest is None else [np.where(rest == 0, neutral, rest)]
        level = self.plan.levels[index]
        if level.plain and len(parts) > 1:
            total = np.full(self.shape, neutral)
            for part in parts:
                total += part
            parts = [total]
        elif not level.plain:
            bottom = np.maximum(largest, -RANGE) - level.fraction_bits if stage.aligned else level.lsb
            parts = binned(parts, bottom, level.sum_bits, keep_sign=stage.zero == "ieee")
        return parts, largest

    def largest_product(self, stage: Stage, ks: Sequence[int]) -> Exponents:
        """Return the largest alignment exponent among the products of a block."""
        a, b = self.a.exponents, self.b.exponents
        best = np.full(self.shape, 2 * OPERAND_NO_EXPONENT, np.int16)
        has_zero = np.zeros(self.shape, bool)
        for some in self.chunks(ks):
            sums = np.add(self.of_a(a, some), self.of_b(b, some), out=self.exponent_buffer[: len(some)])
            np.maximum(best, np.maximum.reduce(sums, axis=0), out=best)
            if stage.zero_exponent is not None:  # a product is zero where either operand is
                for operand in (self.of_a(a, some), self.of_b(b, some)):
                    has_zero |= (operand == OPERAND_NO_EXPONENT).any(axis=0)
        largest = best.astype(np.int32)
        largest[best <= OPERAND_NO_EXPONENT // 2] = NO_EXPONENT
        if stage.zero_exponent is not None:
            largest = np.where(has_zero, np.maximum(largest, stage.zero_exponent), largest)
        return largest

    def aligned_parts(
        self,
        stage: Stage,
        block: list[Any],
        running: Value | None,
        largest: Exponents,
        fused: bool,
        neutral: float,
        rest: Float64 | None,
    ) -> list[Float64]:
        """Return every term cut to its fraction bits below the largest exponent."""
        assert stage.fraction_bits is not None
        assert stage.accumulator_fraction_bits is not None
        assert stage.rounding is not None
        # Below -RANGE there are only zeros, for which any unit will do.
        known = np.maximum(largest, -RANGE)
        unit = known - stage.fraction_bits
        parts: list[Float64] = []
        if fused:
            # Without a nonzero product any unit will do; clipping keeps it inside the lane's range.
            inverse = power_of_two(stage.fraction_bits - np.maximum(known, self.plan.min_product_exponent))
            steps = self.cut_products(block, stage, inverse.astype(self.plan.lane))
            parts.append(steps.astype(np.float64) * power_of_two(unit))
        else:
            for value in block:
                cut: Float64 = round_integer(to_odd(value.parts) * power_of_two(-unit), stage.rounding)
                parts.append(cut * power_of_two(unit))
        if rest is not None:
            cut = round_integer(rest * power_of_two(-unit), stage.rounding) * power_of_two(unit)
            parts.append(np.where(rest == 0, neutral, cut))
        if running is not None and stage.opposing == "complement":
            parts.append(self.inverted(block, running.parts[0], rest) * power_of_two(unit))
        if running is not None:
            unit = known - stage.accumulator_fraction_bits
            kept: Float64 = round_integer(running.parts[0] * power_of_two(-unit), stage.rounding) * power_of_two(unit)
            if stage.drop_beyond is not None:
                dropped = (running.exponent != NO_EXPONENT) & (running.exponent < largest - stage.drop_beyond)
                kept = np.where(dropped, neutral, kept)
            parts.append(kept)
        return parts

    def inverted(self, block: list[Value], running: Float64, rest: Float64 | None) -> Float64:
        """Return the units that inverting the terms which oppose the running value takes away beside negating them."""
        values = [to_odd(value.parts) for value in block]
        against = np.add.reduce([np.signbit(x) != np.signbit(running) for x in values], dtype=float)
        some = np.logical_or.reduce([x != 0 for x in (*values, running)])
        if rest is not None:
            against = against + ((rest != 0) & (np.signbit(rest) != np.signbit(running)))
            some |= rest != 0
        units: Float64 = np.where(some, np.where(np.signbit(running), against, -against), 0.0)
        return units

    def cut_products(
        self, ks: Sequence[int], stage: Stage, inverse: NDArray[np.floating[Any]]
    ) -> NDArray[np.floating[Any]]:
        """Return the sum of the cut products, in units of the last bit kept. This is the engine's inner loop."""
        assert stage.rounding is not None
        neutral = self.plan.neutral
        total = np.full(self.shape, neutral, self.plan.lane)
        for product in self.chunks_of_products(ks):
            np.multiply(product, inverse, out=product)
            round_integer(product, stage.rounding, out=product)
            np.add(total, np.add.reduce(product, axis=0, initial=neutral), out=total)
        return total

    def chunks(self, ks: Sequence[int]) -> Iterator[Sequence[int]]:
        for i in range(0, len(ks), self.chunk):
            yield ks[i : i + self.chunk]

    def chunks_of_products(self, ks: Sequence[int]) -> Iterator[NDArray[np.floating[Any]]]:
        """Yield the products of a block, some k at a time (k, M, N), in a buffer that the next ones overwrite."""
        for some in self.chunks(ks):
            a, b = self.of_a(self.a.values, some), self.of_b(self.b.values, some)
            product = np.multiply(a, b, out=self.buffer[: len(some)])
            self._make_infinite(product)
            yield product

    def exact_products(self, ks: Sequence[int]) -> Float64:
        """Return the exact sum of products, where all partial sums fit a float64."""
        neutral = self.plan.neutral
        total = np.full(self.shape, neutral)
        for product in self.chunks_of_products(ks):
            total += np.add.reduce(product, axis=0, initial=neutral)
        return total

    def put(self, index: int, number: int, parts: list[Float64], largest: Exponents) -> Value:
        """Return the sum of block `number` rounded into the stage's register, or handed up as it is (golden.put)."""
        stage = self.stages[index]
        if not stage.result:
            if stage.zero == "positive":
                parts = [parts[0] + 0.0, *parts[1:]]
            if stage.exponent is not None:
                largest = np.where(largest == NO_EXPONENT, NO_EXPONENT, stage.exponent).astype(np.int32)
            return Value(parts, largest)
        value = to_odd(parts)
        for i, register in enumerate(stage.result, self.spec.register_number(index)):
            value = round_to(value, register, self.words(number, i) if register.random_bits else None)
        if stage.zero == "positive":
            value = value + 0.0
        return Value([value], exponent_of(value, stage.result[-1].format))

    # -- running values of two registers -----------------------------------------------------------------------------

    def put_in_two(
        self, index: int, number: int, block: list[Any], running: Value, rest: Float64
    ) -> tuple[Value, Float64]:
        """Return the running value after block `number`, and what its register lost (golden.run_in_two)."""
        remainder = self.stages[index].remainder
        assert remainder is not None
        if remainder.joins == "block":
            parts, largest = self.add(index, block, None, rest)
            parts = [round_to(to_odd(parts), remainder.register), *running.parts]
        else:
            parts, largest = self.add(index, block, running, rest if remainder.joins == "sum" else None)
        value = self.put(index, number, parts, largest)
        lost = to_odd([*parts, -value.parts[0], *([rest] if remainder.joins == "end" else [])])
        known = np.isfinite(to_odd(parts)) & np.isfinite(value.parts[0])
        return value, round_to(np.where(known, lost, 0.0), remainder.register) + 0.0

    def joined(self, running: Value, rest: Float64) -> Value:
        """Return the last running value with its remainder, rounded to D (golden.joined)."""
        stage, x = self.stages[-1], running.parts[0]
        value = round_to(to_odd([x, rest]), self.spec.joining)
        value = np.where(rest == 0, x, value + 0.0 if stage.zero == "positive" else value)
        return Value([value], running.exponent)
