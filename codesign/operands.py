"""An operand of a trial: a BF16 matrix quantised for an instruction, or arrived along a proposal's path.

A path says what becomes of a tensor; `on_the_way`, how much of that lies behind it when a GEMM of some pass takes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from codesign.workloads.gemms import Role
from isa_model.cast import Cast, Quantised, quantise, spread
from isa_model.formats import named
from isa_model.instruction import ScaleOperand
from isa_model.lanes import largest_finite
from isa_model.path import Step, walk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Operand:
    """One operand of a trial in an instruction's formats.

    `values` are the codes as numbers with their group scales, exact in float64; `factor`, a scale of the whole tensor or one
    for each row of A or column of B, stands outside the sum and multiplies D afterwards.
    """

    codes: Any
    scales: Any | None
    values: Float64
    factor: Any
    underflow: float
    overflow: float
    zero: int = 0
    """Code of zero: the middle of an unsigned integer format, as oneDNN holds signed numbers in it."""


def on_the_way(steps: tuple[Step, ...], role: Role, tokens_along_k: bool) -> tuple[Step, ...]:
    """The steps that lie behind a tensor when a GEMM takes it.

    Fprop and dgrad, whose sums run over features, take it before it is kept for the backward pass or turned. Wgrad, whose
    sums run over tokens, takes it at the end. Where no step turns it, a kernel does, from what memory holds: BF16, where an
    engine casts on reading; and of a gradient BF16, too, where a kernel casts, since it writes both layouts from one read.
    Traffic is counted by the same rule.
    """
    if not tokens_along_k:
        return tuple(takewhile(lambda s: s.at != "cache" and not _turns(s), steps))
    if any(map(_turns, steps)):
        return steps
    apart = {"copy-engine", "near-memory"} | ({"kernel", "register"} if role == "gradient" else set())
    kept = steps
    while kept and kept[-1].at in apart:
        kept = kept[:-1]
    return kept


def _turns(step: Step) -> bool:
    """Whether a step leaves scales along tokens, or is the transposed read."""
    return step.at == "operand-read" or (step.group is not None and step.group[0] > step.group[1])


def quantised(cast: Cast, side: ScaleOperand | None, x: Any, columns: int, tensor_floor: float | None) -> Operand:
    """A matrix as an instruction takes it, cut to so many columns after the cast.

    With `tensor_floor`, it is first scaled as a whole so that its largest group takes the largest scale; the floor is the
    least magnitude that its largest is taken for.
    """
    if cast.to.kind == "integer" and not cast.to.signed:
        return _unsigned(cast, x, columns)
    if side is None or tensor_floor is None or side.format.name == "fp32":
        return _operand(quantise(cast, x), side, columns)
    factor = tensor_factor(cast, side, x, tensor_floor)
    operand = _operand(quantise(cast, x / factor), side, columns)
    return replace(operand, factor=operand.factor * float(factor))


def _unsigned(cast: Cast, x: Any, columns: int) -> Operand:
    """Return signed numbers held in an unsigned integer format: codes are moved up by half its range."""
    zero = 1 << (cast.to.bits - 1)
    signed = _operand(quantise(cast.model_copy(update={"to": named(f"int{cast.to.bits}")}), x), None, columns)
    return replace(signed, codes=(signed.values + zero).astype(signed.codes.dtype), zero=zero)


def tensor_factor(cast: Cast, side: ScaleOperand, x: Any, floor: float) -> Any:
    """Return the FP32 scale of a whole tensor under which its largest group takes the largest scale."""
    import numpy as np

    largest = np.float32(largest_finite(cast.to)) * np.float32(largest_finite(side.format))
    return np.maximum(np.abs(x).max(), np.float32(floor)) / largest


@dataclass(frozen=True)
class Carried:
    """A tensor that a path carries, (tokens, features): whole, and what of it is the operand."""

    whole: Any
    """All of it that the groups of the path reach over."""
    kept: Any
    """Indices of the rows (tokens) or columns (features) that are computed."""
    axis: int
    """0: tokens are picked, and K runs over features; 1: features are picked, and K runs over tokens."""
    turned: bool
    """Whether the operand is its transpose."""

    def arrived(
        self, steps: tuple[Step, ...], cast: Cast, side: ScaleOperand | None, tensor_floor: float | None
    ) -> Operand:
        """The operand as it arrives. What the last step leaves is multiplied as it is where the instruction takes its
        format and its scales; else one more cast follows, as of any other operand."""
        import numpy as np

        def taken(x: Any) -> Any:
            picked = np.take(x, self.kept, axis=self.axis)
            return picked.T if self.turned else picked

        # A narrow scale format on the way needs the tensor's scale there, too.
        narrow = tensor_floor is not None and any(s.scale and s.scale.zero and s.scale.bits < 32 for s in steps)
        if narrow:
            assert side is not None
            assert tensor_floor is not None
            factor = tensor_factor(cast, side, self.whole, tensor_floor)
            whole = replace(self, whole=self.whole / factor)
            made = whole.arrived(steps, cast, side, None)
            return replace(made, factor=made.factor * float(factor))
        walked = walk(steps, self.whole)
        values = taken(walked.values)
        last = walked.last
        if last and side and self._suits(last.cast, cast, side):
            each = spread(last.scale_values(), last.cast.group, self.whole.shape)
            scales = self._codes_of(taken(each), side)
            return Operand(taken(last.codes), scales, values, 1.0, walked.underflow, walked.overflow)
        made = quantised(cast, side, values.astype(np.float32), values.shape[1], tensor_floor)
        original = taken(self.whole)
        lost = (made.values == 0) & (original != 0)
        return replace(
            made,
            underflow=float(lost.sum() / max(np.count_nonzero(original), 1)),
            overflow=made.overflow + walked.overflow,
        )

    def _suits(self, left: Cast, wanted: Cast, side: ScaleOperand) -> bool:
        """Whether the instruction takes codes and scales as a step leaves them: its scales' groups lie within the step's,
        and the format is the same or FP32, which has every scale's value."""
        group = left.group or self.whole.shape
        group = group[::-1] if self.turned else group
        return (
            left.to == wanted.to
            and left.scale is not None
            and (left.scale == side.format or side.format.name == "fp32")
            and all(mine % its == 0 for mine, its in zip(group, side.group, strict=True))
            and side.group[self.axis ^ self.turned] == 1  # what is picked here and there shares no scale
        )

    @staticmethod
    def _codes_of(each: Any, side: ScaleOperand) -> Any:
        """Codes of one scale per group of the instruction, from one value per element."""
        from isa_model.array_codec import encode_array

        rows, columns = side.group
        return encode_array(side.format, each[::rows, ::columns])


def _operand(quantised: Quantised, side: ScaleOperand | None, columns: int) -> Operand:
    """Bring quantised codes into the shape an instruction takes: scales repeated to its groups, columns cut to size."""
    import numpy as np

    from isa_model.array_codec import encode_array

    codes = quantised.codes[:, :columns]
    values, scales = quantised.elements()[:, :columns], None
    factor: Any = 1.0
    if side is None:
        factor = quantised.scale_values()[:, :columns]  # (1, 1), or one for each row or column
    else:
        assert quantised.cast.group is not None
        wanted = -(-codes.shape[0] // side.group[0]), -(-columns // side.group[1])
        rows, across = (min(c // s, n) for c, s, n in zip(quantised.cast.group, side.group, wanted, strict=True))
        each = quantised.scales
        if quantised.cast.scale != side.format:  # powers of two where the instruction takes FP32
            each = encode_array(side.format, quantised.scale_values())
        scales = np.repeat(np.repeat(each, rows, axis=0), across, axis=1)[: wanted[0], : wanted[1]]
        values = quantised.values()[:, :columns]
    return Operand(codes, scales, values, factor, quantised.underflow, quantised.overflow)
