"""Lines of an operand: the rows of A or columns of B that a trial computes, each over the full K.

A synthetic source draws a few weighted lines for each seed. Scales that span more than one line need the largest magnitude
of the other lines, too, which is drawn from its order statistics. A captured tensor has all of its lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from codesign.workloads.distributions import Scales
from codesign.workloads.gemms import Inputs
from codesign.workloads.tensors import Tensor, round_to, rounded_to
from isa_model.cast import Cast, quantise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]
    Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Lines:
    """All lines of a captured tile, as one cluster."""

    x: Float32
    """Elements (seeds, lines, K), numbers of the format of tensors."""
    total: int
    """Lines of the whole tensor."""

    @property
    def whole(self) -> bool:
        """True if these are all lines of the tensor."""
        return True

    @property
    def weights(self) -> Float64:
        """Sampling weight of each line, with mean 1 (seeds, lines)."""
        import numpy as np

        return np.ones(self.x.shape[:2])

    @property
    def scales(self) -> Float64:
        """Scales of each seed's tensor along K, (seeds, K)."""
        import numpy as np

        return np.ones((len(self.x), self.x.shape[2]))

    def after(self, cast: Cast) -> Lines:
        """Return the lines after a cast whose groups, (1, elements of K), are within one line."""
        return replace(self, x=_after(cast, self.x))

    def without_numbers(self) -> Lines:
        """Return all that is known of the lines but their elements, if it takes much less memory."""
        return self


@dataclass(frozen=True)
class DrawnLines(Lines):
    """Lines of a synthetic source, some for each seed."""

    tensor: Tensor
    across: Scales
    along: Float64
    """Scales along K (seeds, K)."""
    weight: Float64
    streams: Sequence[Sequence[int]]
    """Random seed of each tensor, for magnitudes of the lines that are not computed."""
    inputs: Inputs = "bf16"
    """Format of the tensor."""
    cast: Cast | None = None
    """Cast that all lines of the tensor have gone through."""
    _hidden: dict[Any, Any] = field(default_factory=dict)
    """Magnitudes drawn for lines that are not computed."""

    @property
    def whole(self) -> bool:
        """True if these are all lines of the tensor."""
        return False

    @property
    def weights(self) -> Float64:
        """Sampling weight of each line, with mean 1 (seeds, lines)."""
        return self.weight

    @property
    def scales(self) -> Float64:
        """Scales of each seed's tensor along K, (seeds, K)."""
        return self.along

    def after(self, cast: Cast) -> Lines:
        """Return the lines after a cast whose groups, (1, elements of K), are within one line."""
        return replace(self, x=_after(cast, self.x), cast=cast)

    def without_numbers(self) -> Lines:
        """Return all that is known of the lines but their elements, if it takes much less memory."""
        import numpy as np

        return replace(self, x=np.empty((0, 0, 0), np.float32), along=self.along[:, :0].copy(), _hidden={})

    def hidden(self, count: int, group: int) -> Float32:
        """Draw the largest magnitude that `count` other lines have in each group of K (seeds, lines, groups).

        Each line gets its own draw of other lines, so that rare lines, which are oversampled, do not inflate a common scale.
        """
        import numpy as np

        key = count, group
        if key not in self._hidden:
            parts = []
            for stream, along in zip(self.streams, self.along, strict=True):
                rng = np.random.default_rng([*stream, count, group])
                parts.append(self._largest(rng, along, count, group))
            found = rounded_to(self.inputs, self.tensor.unit * np.stack(parts))
            if self.cast:  # the largest number of a group has the group's scale
                found = _after(self.cast.model_copy(update={"group": (1, 1)}), found)
            self._hidden[key] = found
        largest: Float32 = self._hidden[key]
        return largest

    def _largest(self, rng: np.random.Generator, along: Float64, count: int, group: int) -> Float64:
        import numpy as np

        scales, counts = self.across.others(rng, self.x.shape[1], count)
        groups = filled(along, -(-len(along) // group) * group).reshape(-1, group)
        distinct = np.unique([along.min(), along.max()])
        if ((along == distinct[0]) | (along == distinct[-1])).all():  # draw once for all elements of one scale
            sizes = np.stack([(groups == each).sum(axis=1) for each in distinct]).astype(np.float64)
            values = distinct[:, None]
        else:
            sizes, values = (groups.T > 0).astype(np.float64), groups.T
        found = self.tensor.element.largest(rng, counts[:, :, None, None] * sizes)
        largest: Float64 = (found * scales[:, :, None, None] * values).max(axis=(1, 2))
        return largest

    def ends(self, count: int, smallest: bool = True) -> Float32:
        """Draw the largest and, if asked for, the smallest magnitude that `count` other lines have at each k.

        The result is (seeds, lines, 2 or 1, K); the largest one does not depend on `smallest`.
        """
        found = self._hidden.get(("ends", count))
        if found is None or (smallest and found.shape[2] == 1):
            found = self._hidden["ends", count] = self._drawn_ends(count, smallest)
        ends: Float32 = found if smallest else found[:, :, :1]
        return ends

    def _drawn_ends(self, count: int, smallest: bool) -> Float32:
        import numpy as np

        parts = []
        for stream, along in zip(self.streams, self.along, strict=True):
            rng = np.random.default_rng([*stream, count])
            scales, counts = self.across.others(rng, self.x.shape[1], count)
            if (counts == 1).all():  # a line at a time takes the same random numbers, and less memory
                found = [
                    self._ends(rng, s[None], c[None], len(along), smallest) for s, c in zip(scales, counts, strict=True)
                ]
                parts.append(np.concatenate(found) * along)
            else:
                parts.append(self._ends(rng, scales, counts, len(along), smallest) * along)
        return rounded_to(self.inputs, self.tensor.unit * np.stack(parts))

    def _ends(self, rng: np.random.Generator, scales: Float64, counts: Float64, k: int, smallest: bool) -> Float64:
        import numpy as np

        at_each, scales = np.broadcast_to(counts[:, :, None], (*counts.shape, k)), scales[:, :, None]
        if not smallest:
            return np.asarray((self.tensor.element.largest(rng, at_each) * scales).max(axis=1, keepdims=True))
        largest, least = self.tensor.element.ends(rng, at_each)
        return np.stack([(largest * scales).max(axis=1), (least * scales).min(axis=1)], axis=1)


def filled(x: Any, width: int) -> Any:
    """Return lines padded with zeros, as TMA pads a tensor."""
    import numpy as np

    if x.shape[-1] == width:
        return x
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])


def _after(cast: Cast, x: Float32) -> Float32:
    """Return lines (seeds, lines, K) after a cast whose groups are within one line, rounded to FP32."""
    import numpy as np

    made = quantise(cast, x.reshape(-1, x.shape[-1])).values()
    return np.asarray(made.reshape(x.shape), np.float32)


def drawn(
    tensor: Tensor,
    streams: Sequence[Sequence[int]],
    count: int,
    total: int,
    k: int,
    tokens_along_k: bool,
    inputs: Inputs = "bf16",
) -> DrawnLines:
    """Draw `count` lines of a synthetic tensor with `total` lines of `k` elements, for each stream of random numbers."""
    import numpy as np

    across, down = tensor.axes(tokens_along_k)
    count = min(count, total)
    x = np.empty((len(streams), count, k), np.float32)
    along, weights = np.empty((len(streams), k)), np.empty((len(streams), count))
    for i, stream in enumerate(streams):
        rng = np.random.default_rng(stream)
        along[i] = down.along(rng, k)
        scales, weights[i] = across.some(rng, count)
        tensor.element.fill(rng, x[i])
        if down != Scales():
            x[i] *= along[i].astype(np.float32)
        if across != Scales() or tensor.unit != 1:
            x[i] *= (tensor.unit * scales[:, None]).astype(np.float32)
        round_to(inputs, x[i])  # while they are in a cache
    return DrawnLines(x, total, tensor, across, along, weights, streams, inputs)
