"""One GEMM computed in every way: operands drawn and quantised, D from the bit-exact model, errors against exact sums.

A trial takes some rows of A and some columns of B of the true shape, and all of K.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from codesign.arriving import NOTHING, Flows, behind
from codesign.operands import Carried, Operand, quantised
from codesign.quantising import Quantisation, operand_cast
from codesign.variants import Compared
from codesign.workloads.gemms import Gemm, Role
from codesign.workloads.tensors import CAPTURED, draw, recorded
from isa_model.array_codec import decode_array, to_codes
from isa_model.cast import Cast
from isa_model.formats import FORMATS
from isa_model.instruction import Instruction, ScaleOperand
from isa_model.path import Step
from isa_model.rounding import Rounding
from isa_model.stage import Register, Spec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]

BLOCK = 128
"""Output features that are drawn together, so that the blocks of a weight are whole; K is filled up to a multiple."""
Side = Literal["a", "b"]


class Sampling(Spec):
    """How much of each GEMM is computed: rows of A and columns of B, the full K, for each seed."""

    rows: int = 32
    columns: int = 32
    seeds: tuple[int, ...] = (0, 1)


@dataclass(frozen=True)
class Outcome:
    """D of one variant (R, C) as numbers, and the exact products it is held against."""

    d: Float64
    exact: Float64
    """Of the quantised operands."""
    original: Float64
    """Of the operands before quantisation."""
    underflow: float
    overflow: float


class Trial:
    """The operands of one GEMM, drawn once; `outcome` computes D on any instruction.

    Operands of the roles that are `carried` may arrive along a path; more of them is drawn than computed, so that a path's
    groups are whole.
    """

    def __init__(
        self,
        gemm: Gemm,
        tensors: str,
        seed: int,
        rows: int,
        columns: int,
        quantisation: Quantisation,
        carried: Collection[Role] = (),
    ) -> None:
        import numpy as np

        # Every GEMM and source has a stream of its own, the same in every run.
        stream = zlib.crc32(f"{gemm.name}/{tensors}".encode())
        rng = np.random.default_rng([seed, stream])
        self.gemm, self.quantisation = gemm, quantisation
        rows, columns = min(rows, gemm.m), min(columns, gemm.n)
        if tensors == CAPTURED:
            a, kept_a, b, kept_b = _pick(gemm, rng, rows, columns)
        else:
            a, b = _draw(gemm, tensors, rng, rows, columns, carried)
            kept_a, kept_b = np.arange(rows), np.arange(columns)
        # Ragged ends of K are filled with zeros, as TMA fills what lies outside a tensor.
        ragged = -gemm.k % BLOCK
        a, b = np.pad(a, ((0, 0), (0, ragged))), np.pad(b, ((0, ragged), (0, 0)))
        self.rows, self.columns = len(kept_a), len(kept_b)
        self.a = a[kept_a]
        self.b = b if gemm.b == "weight" else b[:, kept_b]  # a weight's block is whole, for its scale
        self._carried: dict[Side, Carried] = {}
        if gemm.a in carried:
            tokens_first = a.T if gemm.tokens_along_k else a
            self._carried["a"] = Carried(tokens_first, kept_a, int(gemm.tokens_along_k), gemm.tokens_along_k)
        if gemm.b in carried:  # in wgrad alone: a path carries no weight
            self._carried["b"] = Carried(b, kept_b, 1, turned=False)
        self._operands: dict[Any, Operand] = {}
        self._exact: dict[Any, Float64] = {}

    @cached_property
    def original(self) -> Float64:
        """The exact product of the operands before quantisation."""
        from isa_model import exact

        return exact.dot(self.a.astype("f8"), self.b[:, : self.columns].astype("f8"))

    def result(self, compared: Compared) -> Outcome:
        """The outcome of one of the `variants`."""
        trial = self.under(compared.rule) if compared.rule else self
        compute = trial.exact_outcome if compared.variant == "exact" else trial.outcome
        return compute(compared.multiplying(self.gemm), compared.flows)

    def under(self, rule: Quantisation) -> Trial:
        """The same tensors, quantised by another rule."""
        other = copy(self)
        other.quantisation = rule
        return other

    def outcome(self, instruction: Instruction, flows: Flows = NOTHING) -> Outcome:
        """What the instruction makes of the trial's operands, those that are carried with these steps behind them."""
        from isa_model.product import matmul

        a, b = self.operands(instruction, flows)
        d = matmul(instruction, a.codes, b.codes, scale_a=a.scales, scale_b=b.scales)
        values = decode_array(instruction.accumulator, to_codes(instruction.accumulator, d))
        if a.zero or b.zero:  # what the codes of zero add, software takes off again
            of_a, of_b = a.values + a.zero, b.values + b.zero
            values -= a.zero * of_b.sum(axis=0) + b.zero * of_a.sum(axis=1, keepdims=True) - a.zero * b.zero * len(of_b)
        return self._outcome(instruction, flows, values)

    def exact_outcome(self, instruction: Instruction, flows: Flows = NOTHING) -> Outcome:
        """The same operands summed exactly and rounded once, to nearest even FP32; integers and FP64 in their accumulator."""
        from isa_model.lanes import round_to

        fmt, fp32 = instruction.accumulator, FORMATS["fp32"]
        wide = fmt.kind == "integer" or fmt.mantissa_bits > fp32.mantissa_bits
        register = Register(format=fmt if wide else fp32, rounding=Rounding.NEAREST_EVEN)
        return self._outcome(instruction, flows, round_to(self.exact(instruction, flows), register))

    def _outcome(self, instruction: Instruction, flows: Flows, d: Float64) -> Outcome:
        a, b = self.operands(instruction, flows)
        factor = a.factor * b.factor
        size_a, size_b = a.values.size, b.values.size
        both = size_a + size_b
        return Outcome(
            d=d * factor,
            exact=self.exact(instruction, flows) * factor,
            original=self.original,
            underflow=(a.underflow * size_a + b.underflow * size_b) / both,
            overflow=(a.overflow * size_a + b.overflow * size_b) / both,
        )

    def exact(self, instruction: Instruction, flows: Flows = NOTHING) -> Float64:
        """The exact product of the quantised operands, without the factors of whole tensors."""
        from isa_model import exact

        key = self._key("a", instruction, flows), self._key("b", instruction, flows)
        if key not in self._exact:
            a, b = self.operands(instruction, flows)
            self._exact[key] = exact.dot(a.values, b.values)
        return self._exact[key]

    def operands(self, instruction: Instruction, flows: Flows = NOTHING) -> tuple[Operand, Operand]:
        """Both operands as the instruction takes them."""
        return self._operand("a", instruction, flows), self._operand("b", instruction, flows)

    def _operand(self, which: Side, instruction: Instruction, flows: Flows) -> Operand:
        key = self._key(which, instruction, flows)
        if key not in self._operands:
            _, cast, side, steps, floor = key
            if steps:
                self._operands[key] = self._carried[which].arrived(steps, cast, side, floor)
            else:
                x, columns = (self.a, self.a.shape[1]) if which == "a" else (self.b, self.columns)
                self._operands[key] = quantised(cast, side, x, columns, floor)
        return self._operands[key]

    def _key(
        self, which: Side, instruction: Instruction, flows: Flows
    ) -> tuple[Side, Cast, ScaleOperand | None, tuple[Step, ...], float | None]:
        """All that an operand follows from: cast, the instruction's scales, the steps behind it, the tensor scale's floor."""
        cast, side = operand_cast(self.quantisation, instruction, self.gemm, which)
        role = self.gemm.a if which == "a" else self.gemm.b
        steps = behind(self.gemm, role, flows) if which in self._carried else ()
        return which, cast, side, steps, self.quantisation.floor if self.quantisation.tensor_scale else None


def _draw(
    gemm: Gemm, tensors: str, rng: np.random.Generator, rows: int, columns: int, carried: Collection[Role]
) -> tuple[Any, Any]:
    """Rows of A and columns of B of a synthetic source; whole blocks of what a path carries."""
    if gemm.a in carried:
        rows = max(rows, min(BLOCK, gemm.m))
    if gemm.b in carried or gemm.b == "weight":
        columns = max(columns, min(BLOCK, gemm.n))
    # A is drawn as tokens by features; in wgrad its rows are features and the sums run over tokens.
    if gemm.tokens_along_k:
        return draw(tensors, rng, (gemm.k, rows), gemm.a).T, draw(tensors, rng, (gemm.k, columns), gemm.b)
    return draw(tensors, rng, (rows, gemm.k), gemm.a), draw(tensors, rng, (columns, gemm.k), gemm.b).T


def _pick(gemm: Gemm, rng: np.random.Generator, rows: int, columns: int) -> tuple[Any, Any, Any, Any]:
    """A and B of captured tensors, and after each which of its rows or columns are computed.

    The row of A with the largest element, in wgrad the column of B, too, is always among them, the others at random.
    Columns of a weight are one block of 128, so that its scales are whole.
    """
    import numpy as np

    assert gemm.recorded is not None
    a, b = recorded(gemm.recorded)
    a = a.T if gemm.tokens_along_k else a
    b = b.T if gemm.a == "activation" else b

    def some(matrix: Any, count: int) -> Any:
        order = rng.permutation(len(matrix))
        first = int(np.abs(matrix).max(axis=1).argmax())
        return np.sort(np.concatenate([[first], order[order != first]])[:count])

    kept_a = some(a, rows)
    if gemm.b != "weight":
        return a, kept_a, b, some(b.T, columns)
    start = BLOCK * int(rng.integers(-(-b.shape[1] // BLOCK)))
    b = b[:, start : start + BLOCK]
    return a, kept_a, b, np.arange(min(columns, b.shape[1]))
