"""An operand of a trial: lines of a BF16 matrix quantised for an instruction, or arrived along a proposal's path.

Arrays are (seeds, lines, K) for both operands; a scale that an instruction shares between lines is repeated for each line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from codesign.evidence.numerics.lines import DrawnLines, Lines, filled
from codesign.proposal.quantisation import WIDE
from isa_model import sparse
from isa_model.array_codec import decode_array, encode_array
from isa_model.cast import Cast, quantise, scales_of
from isa_model.codec import largest_finite
from isa_model.formats import Format, named
from isa_model.largest import largest_magnitudes
from isa_model.operand_fields import Sparsity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Operand:
    """One operand of a trial in an instruction's formats.

    `elements` are the codes as numbers, `multipliers` the scales as numbers; `factor` (seeds, lines), a scale of the whole
    tensor or of each line, multiplies D after the sum. `nonzero`, `lost` and `cut` count elements of each line: nonzero ones,
    those of them that became zero, and those clipped to the largest number.
    """

    codes: Any
    scales: Any | None
    """Codes of the scales (seeds, lines, groups of K); of several levels, a tuple of such arrays, the finest first."""
    elements: Any
    multipliers: Float64 | None
    factor: Float64
    nonzero: Float64
    lost: Float64
    cut: Float64
    positions: Any | None = None
    """Positions of stored elements (seeds, lines, runs) of a sparse operand; `codes` then has these elements alone."""
    zero: int = 0
    """Code of zero: the middle of an unsigned integer format that holds signed numbers, as in oneDNN."""
    products: int = 1
    """Products of slices along K; each element is in as many of them."""

    @property
    def values(self) -> Float64:
        """Elements times their scales, exact in float64."""
        import numpy as np

        if self.multipliers is None:
            return np.asarray(self.elements, np.float64)
        by_group = self.elements.reshape(*self.multipliers.shape, -1) * self.multipliers[..., None]
        return np.asarray(by_group.reshape(self.elements.shape))

    def counts(self) -> Operand:
        """Return what is counted of the operand and its length, without its elements."""
        import numpy as np

        nothing = np.empty((0, 0, self.codes.shape[2]), self.codes.dtype)
        return replace(self, codes=nothing, scales=None, elements=nothing, multipliers=None, positions=None)


class Scaled(NamedTuple):
    """The scales that an instruction takes for an operand: their format, and the lines and elements of K that share one."""

    format: Format
    lines: int
    elements: int


def quantised(
    cast: Cast, scaled: Scaled | None, lines: Lines, width: int, tensor_floor: float | None, seed: int = 0
) -> Operand:
    """Return lines as an instruction takes them, filled up with zeros to `width` elements of K.

    The group of `cast` is (lines, elements of K). With `tensor_floor`, the tensor is first scaled as a whole so that its
    largest group takes the largest scale; its largest magnitude is taken to be at least the floor. Scales with a wide range
    do not need this (`is_narrow`). `seed` is that of a cast that rounds at random, whose rows are the lines of all seeds.
    """
    import numpy as np

    if cast.to.kind == "integer" and not cast.to.signed:
        return _unsigned(cast, lines, width)
    x = filled(lines.x, width)
    if cast.coarser:
        return _in_levels(cast, x)
    factor = np.ones((*x.shape[:2], 1), np.float32)
    if scaled is not None and tensor_floor is not None and is_narrow(scaled.format):
        factor = tensor_factor(cast, scaled, x, lines, tensor_floor)
        x = x / factor
    flat = x.reshape(-1, width)
    across, along = cast.group or (lines.total, width)
    across, along = min(across, lines.total), min(along, width)
    if cast.scale is None or lines.whole:
        made = quantise(cast.model_copy(update={"group": (across, along) if cast.group else None}), flat, seed=seed)
        scales = np.repeat(made.scales, across if cast.group else len(flat), axis=0)[: len(flat)]
    else:
        maxima = _largest(x, lines, across, along, factor).reshape(len(flat), -1)
        scales = scales_of(cast, maxima)
        made = quantise(cast.model_copy(update={"group": (1, along)}), flat, scales, seed)
        scales = made.scales
    numbers = decode_array(cast.scale, scales) if cast.scale else np.ones(scales.shape)
    elements = made.made.numbers
    nonzero, lost, cut = (
        found.reshape(x.shape[:2]).astype(np.float64) for found in (made.made.nonzero, made.made.lost, made.made.beyond)
    )
    outside = factor[..., 0].astype(np.float64)
    codes = made.codes.reshape(x.shape)
    if scaled is None:
        outside = outside * numbers[:, 0].reshape(outside.shape)
        return Operand(codes, None, elements.reshape(x.shape), None, outside, nonzero, lost, cut)
    if cast.scale is not None and cast.scale != scaled.format:  # powers of two where the instruction takes FP32
        scales = encode_array(scaled.format, numbers)
    each, multipliers = (
        np.repeat(of_groups, along // scaled.elements, axis=1)[:, : width // scaled.elements].reshape(*x.shape[:2], -1)
        for of_groups in (scales, numbers)
    )
    return Operand(codes, each, elements.reshape(x.shape), multipliers, outside, nonzero, lost, cut)


def _in_levels(cast: Cast, x: Any) -> Operand:
    """Return lines under several levels of scales, whose groups are within a line each."""
    import numpy as np

    seeds, lines, width = x.shape
    made = quantise(cast, x.reshape(-1, width))
    nonzero, lost, cut = (
        found.reshape(seeds, lines).astype(np.float64)
        for found in (made.made.nonzero, made.made.lost, made.made.beyond)
    )
    return Operand(
        made.codes.reshape(x.shape),
        tuple(level.reshape(seeds, lines, -1) for level in made.scales),
        made.made.numbers.reshape(x.shape),
        made.scale_values().reshape(seeds, lines, -1),
        np.ones((seeds, lines)),
        nonzero,
        lost,
        cut,
    )


def _unsigned(cast: Cast, lines: Lines, width: int) -> Operand:
    """Return signed numbers in an unsigned integer format: codes are moved up by half its range."""
    zero = 1 << (cast.to.bits - 1)
    signed = quantised(cast.model_copy(update={"to": named(f"int{cast.to.bits}")}), None, lines, width, None)
    return replace(signed, codes=(signed.values + zero).astype(signed.codes.dtype), zero=zero)


def is_narrow(fmt: Format) -> bool:
    """Return whether tensors can exceed the range of a scale format. With 7 exponent bits (2**64) or more they do not, and a
    tensor scaled up to the largest scale would overflow FP32 in its products."""
    return fmt.exponent_bits < WIDE


def tensor_factor(cast: Cast, scaled: Scaled, x: Any, lines: Lines, floor: float) -> Any:
    """Return the FP32 scale of each seed's tensor under which its largest group takes the largest scale, (seeds, lines, 1)."""
    import numpy as np

    most = largest_finite(cast.to) if isinstance(cast.range, str) else cast.range
    full = np.float32(most) * np.float32(largest_finite(scaled.format))
    ones = np.ones((*x.shape[:2], 1), np.float32)
    return np.maximum(_largest(x, lines, lines.total, x.shape[2], ones), np.float32(floor)) / full


def pruned(operand: Operand, sparsity: Sparsity) -> Operand:
    """Return an operand without the elements that sparsity leaves out, the smallest of each group along K."""
    import numpy as np

    seeds, lines, width = operand.values.shape
    _, positions = sparse.pruned(sparsity, operand.values.reshape(-1, width))
    ks, every = sparse.elements(sparsity, positions), operand.elements.reshape(-1, width)
    elements = np.zeros_like(every)
    np.put_along_axis(elements, ks, np.take_along_axis(every, ks, 1), 1)
    codes = np.take_along_axis(operand.codes.reshape(-1, width), ks, 1)
    return replace(
        operand,
        codes=codes.reshape(seeds, lines, -1),
        elements=elements.reshape(operand.elements.shape),
        positions=positions.reshape(seeds, lines, -1),
    )


def _largest(x: Any, lines: Lines, across: int, along: int, factor: Any) -> Any:
    """Return the largest magnitudes of groups of `across` lines by `along` elements of K: (seeds, lines, groups), float32."""
    import numpy as np

    own = _along(x, along)
    if lines.whole:  # here, for a whole tensor only
        return np.broadcast_to(own.max(axis=1, keepdims=True), own.shape)
    across = min(across, lines.total)
    if across == 1:
        return own
    assert isinstance(lines, DrawnLines)
    hidden = lines.hidden(across - 1, along) / factor
    own[:, :, : hidden.shape[2]] = np.maximum(own[:, :, : hidden.shape[2]], hidden)
    return own


def _along(x: Any, along: int) -> Any:
    """Return the largest magnitude of each group of `along` elements of each line: (seeds, lines, groups)."""
    return largest_magnitudes(x.reshape(-1, x.shape[2]), (1, along)).reshape(*x.shape[:2], -1)


def lost_elements(x: Any, values: Any) -> tuple[Float64, Float64]:
    """Return the counts of nonzero elements of each line, and of those whose value became zero."""
    import numpy as np

    there = x != 0
    return (
        there.sum(axis=2).astype(np.float64),
        (there & (values == 0)).sum(axis=2).astype(np.float64),
    )
