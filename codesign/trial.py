"""One GEMM computed in every way: operands drawn and quantised, D from the bit-exact model, errors against exact sums.

A trial takes some rows of A and some columns of B of the true shape, and all of K.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from codesign.proposal import Proposal, Quantisation, Value
from codesign.workloads.gemms import Gemm, Role
from codesign.workloads.tensors import CAPTURED, draw, recorded
from isa_model.array_codec import decode_array, to_codes
from isa_model.cast import Cast, Quantised, quantise
from isa_model.formats import FORMATS
from isa_model.instruction import Instruction, ScaleOperand
from isa_model.lanes import largest_finite
from isa_model.rounding import Rounding
from isa_model.stage import Register, Spec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]

BLOCK = 128
"""Output features that are drawn together, so that the blocks of a weight are whole; K is filled up to a multiple."""


LABELS = {
    "today": "today's instruction alone",
    "software": "today's software promotion",
    "proposal": "proposal",
    "exact": "exact accumulator",
}


class Sampling(Spec):
    """How much of each GEMM is computed: rows of A and columns of B, the full K, for each seed."""

    rows: int = 32
    columns: int = 32
    seeds: tuple[int, ...] = (0, 1)


def variants(proposal: Proposal) -> Iterator[tuple[str, Value | None, Instruction]]:
    """Every instruction to compare: (variant, swept value, instruction). The exact one shares the proposal's operands."""
    yield "today", None, proposal.today
    yield "software", None, proposal.software_instruction
    yield "proposal", None, proposal.proposed()
    if proposal.sweep:
        for value in proposal.sweep.values:
            yield "proposal", value, proposal.proposed(value)
    yield "exact", None, proposal.proposed()


@dataclass(frozen=True)
class Operand:
    """One operand of a trial in an instruction's formats.

    `values` are the codes as numbers with their group scales, exact in float64; `factor`, a scale of the whole tensor,
    stands outside the sum and multiplies D afterwards.
    """

    codes: Any
    scales: Any | None
    values: Float64
    factor: float
    underflow: float
    overflow: float


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
    """The operands of one GEMM, drawn once; `outcome` computes D on any instruction."""

    def __init__(
        self, gemm: Gemm, tensors: str, seed: int, rows: int, columns: int, quantisation: Quantisation
    ) -> None:
        import numpy as np

        # Every GEMM and source has a stream of its own, the same in every run.
        stream = zlib.crc32(f"{gemm.name}/{tensors}".encode())
        rng = np.random.default_rng([seed, stream])
        self.gemm, self.quantisation = gemm, quantisation
        if tensors == CAPTURED:
            self.a, self.b, self.columns = _pick(gemm, rng, rows, columns)
        else:
            self.columns = min(columns, gemm.n)
            self.a, self.b = _draw(gemm, tensors, rng, min(rows, gemm.m), self.columns)
        self.rows = len(self.a)
        # Ragged ends of K are filled with zeros, as TMA fills what lies outside a tensor.
        ragged = -gemm.k % BLOCK
        self.a = np.pad(self.a, ((0, 0), (0, ragged)))
        self.b = np.pad(self.b, ((0, ragged), (0, 0)))
        self._operands: dict[Any, tuple[Operand, Operand]] = {}
        self._exact: dict[Any, Float64] = {}

    @cached_property
    def original(self) -> Float64:
        """The exact product of the operands before quantisation."""
        from isa_model import exact

        return exact.dot(self.a.astype("f8"), self.b[:, : self.columns].astype("f8"))

    def result(self, variant: str, instruction: Instruction) -> Outcome:
        """The outcome of one of the `variants`."""
        return self.exact_outcome(instruction) if variant == "exact" else self.outcome(instruction)

    def outcome(self, instruction: Instruction) -> Outcome:
        """What the instruction makes of the trial's operands."""
        from isa_model.product import matmul

        a, b = self.operands(instruction)
        d = matmul(instruction, a.codes, b.codes, scale_a=a.scales, scale_b=b.scales)
        values = decode_array(instruction.accumulator, to_codes(instruction.accumulator, d))
        return self._outcome(instruction, values)

    def exact_outcome(self, instruction: Instruction) -> Outcome:
        """The same operands summed exactly and rounded once, to nearest even FP32."""
        from isa_model.lanes import round_to

        fp32 = Register(format=FORMATS["fp32"], rounding=Rounding.NEAREST_EVEN)
        return self._outcome(instruction, round_to(self.exact(instruction), fp32))

    def _outcome(self, instruction: Instruction, d: Float64) -> Outcome:
        a, b = self.operands(instruction)
        factor = a.factor * b.factor
        size_a, size_b = a.values.size, b.values.size
        both = size_a + size_b
        return Outcome(
            d=d * factor,
            exact=self.exact(instruction) * factor,
            original=self.original,
            underflow=(a.underflow * size_a + b.underflow * size_b) / both,
            overflow=(a.overflow * size_a + b.overflow * size_b) / both,
        )

    def exact(self, instruction: Instruction) -> Float64:
        """The exact product of the quantised operands, without the factors of whole tensors."""
        from isa_model import exact

        key = self._key(instruction)
        if key not in self._exact:
            a, b = self.operands(instruction)
            self._exact[key] = exact.dot(a.values, b.values)
        return self._exact[key]

    def operands(self, instruction: Instruction) -> tuple[Operand, Operand]:
        """Both operands as the instruction takes them."""
        key = self._key(instruction)
        if key not in self._operands:
            cast_a, side_a, cast_b, side_b = key
            self._operands[key] = (
                self._quantised(cast_a, side_a, self.a, self.a.shape[1]),
                self._quantised(cast_b, side_b, self.b, self.columns),
            )
        return self._operands[key]

    def _quantised(self, cast: Cast, side: ScaleOperand | None, x: Any, columns: int) -> Operand:
        """An operand as an instruction takes it, its tensor scale set apart where the quantisation has one."""
        import numpy as np

        if side is None or not self.quantisation.tensor_scale or side.format.name == "fp32":
            return _operand(quantise(cast, x), side, columns)
        largest = np.float32(largest_finite(cast.to)) * np.float32(largest_finite(side.format))
        factor = np.maximum(np.abs(x).max(), np.float32(self.quantisation.floor)) / largest
        operand = _operand(quantise(cast, x / factor), side, columns)
        return replace(operand, factor=operand.factor * float(factor))

    def _key(self, instruction: Instruction) -> tuple[Cast, ScaleOperand | None, Cast, ScaleOperand | None]:
        scale = instruction.scale
        side_a, side_b = (scale.a, scale.b) if scale else (None, None)
        cast_a = self.cast(instruction.a, self.gemm.a, side_a, k_axis=1)
        cast_b = self.cast(instruction.b, self.gemm.b, side_b, k_axis=0)
        return cast_a, side_a, cast_b, side_b

    def cast(self, fmt: Any, role: Role, side: ScaleOperand | None, k_axis: int) -> Cast:
        """How an operand is quantised: in the groups of the instruction's scales; weights in blocks where they fit."""
        rule = self.quantisation
        group = None
        # 16-bit formats and wider ones have range enough; narrower ones need at least a scale for the tensor.
        scale = None if fmt.bits >= 16 else FORMATS["fp32"]
        if side is not None:
            along, across = side.group[k_axis], side.group[1 - k_axis]
            if role == "weight" and rule.weight_columns % across == 0:
                across = rule.weight_columns
            group = (across, along) if k_axis == 1 else (along, across)
            scale = side.format
        return Cast(
            to=fmt,
            group=group,
            scale=scale,
            scale_rounding=rule.scale_rounding,
            rounding=rule.rounding,
            floor=rule.floor,
        )


def _draw(gemm: Gemm, tensors: str, rng: np.random.Generator, rows: int, columns: int) -> tuple[Any, Any]:
    """Rows of A and columns of B of a synthetic source."""
    # A is drawn as tokens by features; in wgrad its rows are features and the sums run over tokens.
    if gemm.tokens_along_k:
        return draw(tensors, rng, (gemm.k, rows), gemm.a).T, draw(tensors, rng, (gemm.k, columns), gemm.b)
    return draw(tensors, rng, (rows, gemm.k), gemm.a), draw(tensors, rng, (min(BLOCK, gemm.n), gemm.k), gemm.b).T


def _pick(gemm: Gemm, rng: np.random.Generator, rows: int, columns: int) -> tuple[Any, Any, int]:
    """Rows of A and columns of B of captured tensors, and how many of these columns are computed.

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

    a = a[some(a, rows)]
    if gemm.b != "weight":
        b = b[:, some(b.T, columns)]
        return a, b, b.shape[1]
    start = BLOCK * int(rng.integers(-(-b.shape[1] // BLOCK)))
    b = b[:, start : start + BLOCK]
    return a, b, min(columns, b.shape[1])


def _operand(quantised: Quantised, side: ScaleOperand | None, columns: int) -> Operand:
    """Bring quantised codes into the shape an instruction takes: scales repeated to its groups, columns cut to size."""
    import numpy as np

    codes = quantised.codes[:, :columns]
    values, scales, factor = quantised.elements()[:, :columns], None, 1.0
    if side is None:
        factor = float(quantised.scale_values()[0, 0])
    else:
        assert quantised.cast.group is not None
        rows, across = (c // s for c, s in zip(quantised.cast.group, side.group, strict=True))
        scales = np.repeat(np.repeat(quantised.scales, rows, axis=0), across, axis=1)
        scales = scales[: -(-codes.shape[0] // side.group[0]), : -(-columns // side.group[1])]
        values = quantised.values()[:, :columns]
    return Operand(codes, scales, values, factor, quantised.underflow, quantised.overflow)
