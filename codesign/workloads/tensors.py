"""Tensor sources: synthetic operands of stated distributions, and tensors captured from real models.

A synthetic source says of each role what a tensor of tokens by features is (a weight: outputs by inputs): elements, and
their scales along both axes, rounded to BF16 as a framework would hold it; what each is meant to provoke stands beside it.
The source `captured` is what a model computed: it has operands only for the GEMMs they were taken from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log
from typing import TYPE_CHECKING, Any

from codesign.workloads.distributions import (
    GATED,
    NORMAL,
    OFFSET_NORMAL,
    PRODUCT,
    SIZE,
    STUDENT_4,
    UNIFORM,
    Element,
    Scales,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from codesign.workloads.gemms import Inputs, Recorded, Role


@dataclass(frozen=True)
class Tensor:
    """A synthetic tensor: independent elements in units of `unit`, times a scale of their token and one of their channel."""

    element: Element
    unit: float = 1.0
    tokens: Scales = field(default_factory=Scales)
    channels: Scales = field(default_factory=Scales)

    def axes(self, tokens_along_k: bool) -> tuple[Scales, Scales]:
        """Return the scales of lines and those along K, for a GEMM that sums over tokens or over channels."""
        return (self.channels, self.tokens) if tokens_along_k else (self.tokens, self.channels)


@dataclass(frozen=True)
class TensorSource:
    """A way to draw tensors, by role; without `tensors`, they are read from a file."""

    description: str
    tensors: Mapping[Role, Tensor] | None = None


def _alike(element: Element) -> dict[Role, Tensor]:
    return {"activation": Tensor(element), "weight": Tensor(element), "gradient": Tensor(element)}


_WEIGHT = Tensor(NORMAL, 0.02)


def _outliers(size: float) -> dict[Role, Tensor]:
    """Student t with 4 degrees of freedom; in activations 1 % of channels are `size` times, 1 % of tokens half of that
    larger; in gradients each token has a scale of its own, log-normal, at `size` 20 over about two decades."""
    return {
        "activation": Tensor(STUDENT_4, 1.0, Scales(share=0.01, size=size / 2), Scales(share=0.01, size=size)),
        "weight": _WEIGHT,
        "gradient": Tensor(STUDENT_4, 1e-3, Scales(sigma=1.5 * log(size) / log(20.0))),
    }


CAPTURED = "captured"

SOURCES: dict[str, TensorSource] = {
    "normal": TensorSource("N(0, 1) in both operands: sums grow like the root of K", _alike(NORMAL)),
    "uniform": TensorSource("U[0, 1) in both operands: sums grow like K, truncation is pure bias", _alike(UNIFORM)),
    "offset-normal": TensorSource("N(0.5, 1) in both operands: a drift under the noise", _alike(OFFSET_NORMAL)),
    "outliers": TensorSource(
        "heavy-tailed activations with outlier channels (20 times) and tokens (10 times), gradients with a scale per token, "
        "N(0, 0.02) weights",
        _outliers(20.0),
    ),
    "outliers-small": TensorSource("as outliers, channels 5 times and tokens 2.5 times larger", _outliers(5.0)),
    "outliers-huge": TensorSource("as outliers, channels 400 times and tokens 200 times larger", _outliers(400.0)),
    "swiglu": TensorSource(
        "products of a gate and an up-projection, as after SwiGLU; N(0, 0.02) weights",
        {"activation": Tensor(GATED), "weight": _WEIGHT, "gradient": Tensor(PRODUCT, 1e-3)},
    ),
    CAPTURED: TensorSource(
        "activations, weights and gradients of a real model on real text, both operands of one GEMM from the same step: of "
        "smollm2-135m, mpnet-base and, along their training, proxy-10m and proxy-100m, shipped, or of a layer of your own",
    ),
}


def draw(source: str, rng: np.random.Generator, shape: tuple[int, int], role: Role) -> NDArray[np.float32]:
    """Draw a whole matrix of the source (tokens or outputs first), rounded to BF16."""
    import numpy as np

    tensor = synthetic(source, role)
    tokens, channels = tensor.tokens.along(rng, shape[0]), tensor.channels.along(rng, shape[1])
    x = tensor.element.draw(rng, shape)
    for factor in (tensor.unit, tokens[:, None], channels):
        x *= np.float32(factor)
    return to_bf16(x)


def synthetic(source: str, role: Role) -> Tensor:
    """Return what a source draws for a role. Raises ValueError for captured tensors."""
    tensors = SOURCES[source].tensors
    if tensors is None:
        raise ValueError(f"{source} tensors are read, not drawn")
    return tensors[role]


def rounded_to(inputs: Inputs, x: Any) -> NDArray[np.float32]:
    """Return numbers rounded to the format of tensors, to nearest even, as float32."""
    import numpy as np

    return to_bf16(x) if inputs == "bf16" else np.asarray(x, np.float32)


def round_to(inputs: Inputs, x: NDArray[np.float32]) -> None:
    """Round the numbers of a contiguous array to the format of tensors, to nearest even, in place."""
    import numpy as np

    if inputs != "bf16":
        return
    every = x.reshape(-1).view(np.uint32)
    step = np.empty(min(SIZE, len(every)), np.uint32)
    for first in range(0, len(every), SIZE):  # few enough for a cache
        bits = every[first : first + SIZE]
        odd = np.right_shift(bits, 16, out=step[: len(bits)])
        odd &= 1
        odd += 0x7FFF
        bits += odd
        bits &= 0xFFFF0000


def to_bf16(x: Any) -> NDArray[np.float32]:
    """Return numbers rounded to the nearest BF16, ties to even, as float32."""
    import numpy as np

    rounded = np.array(x, np.float32, order="C")
    round_to("bf16", rounded)
    return rounded


def recorded(where: Recorded) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both captured matrices of a GEMM as they were taken (activations and gradients tokens first, weights outputs first),
    rounded to BF16. Raises InputError as `tensor_file.read`."""
    from codesign.workloads.tensor_file import read

    return to_bf16(read(where.file, where.a)), to_bf16(read(where.file, where.b))
