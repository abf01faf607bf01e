"""One GEMM computed in every way: operands drawn and quantised, D from the bit-exact model, errors against exact sums.

A trial takes some rows of A and some columns of B of the true shape, and all of K.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from codesign.operands import Carried, Operand, on_the_way, quantised
from codesign.proposal import Quantisation
from codesign.quantising import cast_of
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

    def fresh(self) -> Sampling:
        """Return the same design on as many seeds that this one does not use."""
        first = max(self.seeds, default=-1) + 1
        return self.model_copy(update={"seeds": tuple(range(first, first + len(self.seeds)))})


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
        compute = self.exact_outcome if compared.variant == "exact" else self.outcome
        return compute(compared.instruction, compared.steps)

    def outcome(self, instruction: Instruction, steps: tuple[Step, ...] = ()) -> Outcome:
        """What the instruction makes of the trial's operands, those that are carried with these steps behind them."""
        from isa_model.product import matmul

        a, b = self.operands(instruction, steps)
        d = matmul(instruction, a.codes, b.codes, scale_a=a.scales, scale_b=b.scales)
        values = decode_array(instruction.accumulator, to_codes(instruction.accumulator, d))
        return self._outcome(instruction, steps, values)

    def exact_outcome(self, instruction: Instruction, steps: tuple[Step, ...] = ()) -> Outcome:
        """The same operands summed exactly and rounded once, to nearest even FP32."""
        from isa_model.lanes import round_to

        fp32 = Register(format=FORMATS["fp32"], rounding=Rounding.NEAREST_EVEN)
        return self._outcome(instruction, steps, round_to(self.exact(instruction, steps), fp32))

    def _outcome(self, instruction: Instruction, steps: tuple[Step, ...], d: Float64) -> Outcome:
        a, b = self.operands(instruction, steps)
        factor = a.factor * b.factor
        size_a, size_b = a.values.size, b.values.size
        both = size_a + size_b
        return Outcome(
            d=d * factor,
            exact=self.exact(instruction, steps) * factor,
            original=self.original,
            underflow=(a.underflow * size_a + b.underflow * size_b) / both,
            overflow=(a.overflow * size_a + b.overflow * size_b) / both,
        )

    def exact(self, instruction: Instruction, steps: tuple[Step, ...] = ()) -> Float64:
        """The exact product of the quantised operands, without the factors of whole tensors."""
        from isa_model import exact

        key = self._key("a", instruction, steps), self._key("b", instruction, steps)
        if key not in self._exact:
            a, b = self.operands(instruction, steps)
            self._exact[key] = exact.dot(a.values, b.values)
        return self._exact[key]

    def operands(self, instruction: Instruction, steps: tuple[Step, ...] = ()) -> tuple[Operand, Operand]:
        """Both operands as the instruction takes them."""
        return self._operand("a", instruction, steps), self._operand("b", instruction, steps)

    def _operand(self, which: Side, instruction: Instruction, steps: tuple[Step, ...]) -> Operand:
        key = self._key(which, instruction, steps)
        if key not in self._operands:
            _, cast, side, behind = key
            floor = self.quantisation.floor if self.quantisation.tensor_scale else None
            if behind:
                self._operands[key] = self._carried[which].arrived(behind, cast, side, floor)
            else:
                x, columns = (self.a, self.a.shape[1]) if which == "a" else (self.b, self.columns)
                self._operands[key] = quantised(cast, side, x, columns, floor)
        return self._operands[key]

    def _key(
        self, which: Side, instruction: Instruction, steps: tuple[Step, ...]
    ) -> tuple[Side, Cast, ScaleOperand | None, tuple[Step, ...]]:
        scale = instruction.scale
        role, fmt, k_axis = (self.gemm.a, instruction.a, 1) if which == "a" else (self.gemm.b, instruction.b, 0)
        side = getattr(scale, which) if scale else None
        behind = on_the_way(steps, role, self.gemm.tokens_along_k) if which in self._carried else ()
        return which, cast_of(self.quantisation, fmt, role, side, k_axis), side, behind


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
