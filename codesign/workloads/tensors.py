"""Tensor sources: synthetic operands of stated distributions, and tensors captured from real models.

A synthetic source draws a matrix of tokens by features (a weight: outputs by inputs), for one of three roles, rounded to
BF16 as a framework would hold it; what each is meant to provoke stands beside it. The source `captured` is what a model
computed: it has operands only for the GEMMs they were taken from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from codesign.workloads.gemms import Recorded, Role

    Draw = Callable[[np.random.Generator, tuple[int, int], Role], NDArray[np.float64]]


@dataclass(frozen=True)
class Source:
    """A way to draw tensors; without `draw`, they are read from a file."""

    description: str
    draw: Draw | None


def _normal(rng: np.random.Generator, shape: tuple[int, int], role: Role) -> NDArray[np.float64]:
    return rng.standard_normal(shape)


def _uniform(rng: np.random.Generator, shape: tuple[int, int], role: Role) -> NDArray[np.float64]:
    return rng.random(shape)


def _offset_normal(rng: np.random.Generator, shape: tuple[int, int], role: Role) -> NDArray[np.float64]:
    return rng.standard_normal(shape) + 0.5


def _outliers(size: float) -> Draw:
    """Student t with 4 degrees of freedom; in activations 1 % of channels are `size` times, 1 % of tokens half of that
    larger; in gradients each token has a scale of its own, log-normal, at `size` 20 over about two decades."""

    def drawn(rng: np.random.Generator, shape: tuple[int, int], role: Role) -> NDArray[np.float64]:
        import numpy as np

        tokens, channels = shape
        if role == "weight":
            return 0.02 * rng.standard_normal(shape)
        x = rng.standard_t(4, shape)
        if role == "gradient":
            spread = 1.5 * np.log(size) / np.log(20.0)
            scaled: NDArray[np.float64] = 1e-3 * x * np.exp(spread * rng.standard_normal((tokens, 1)))
            return scaled
        x *= np.where(rng.random((1, channels)) < 0.01, size, 1.0)
        return x * np.where(rng.random((tokens, 1)) < 0.01, size / 2, 1.0)

    return drawn


def _swiglu(rng: np.random.Generator, shape: tuple[int, int], role: Role) -> NDArray[np.float64]:
    import numpy as np

    if role == "weight":
        return 0.02 * rng.standard_normal(shape)
    gate, up = rng.standard_normal(shape), rng.standard_normal(shape)
    if role == "gradient":
        return 1e-3 * gate * up
    return gate / (1.0 + np.exp(-gate)) * np.abs(up)


CAPTURED = "captured"

SOURCES: dict[str, Source] = {
    "normal": Source("N(0, 1) in both operands: sums grow like the root of K", _normal),
    "uniform": Source("U[0, 1) in both operands: sums grow like K, truncation is pure bias", _uniform),
    "offset-normal": Source("N(0.5, 1) in both operands: a drift under the noise", _offset_normal),
    "outliers": Source(
        "heavy-tailed activations with outlier channels (20 times) and tokens (10 times), gradients with a scale per token, "
        "N(0, 0.02) weights",
        _outliers(20.0),
    ),
    "outliers-small": Source("as outliers, channels 5 times and tokens 2.5 times larger", _outliers(5.0)),
    "outliers-huge": Source("as outliers, channels 400 times and tokens 200 times larger", _outliers(400.0)),
    "swiglu": Source("products of a gate and an up-projection, as after SwiGLU; N(0, 0.02) weights", _swiglu),
    CAPTURED: Source(
        "activations, weights and gradients of a real model on real text, both operands of one GEMM from the same step: of "
        "smollm2-135m, mpnet-base and, along their training, proxy-10m and proxy-100m, shipped, or of a layer of your own",
        None,
    ),
}


def draw(source: str, rng: np.random.Generator, shape: tuple[int, int], role: Role) -> NDArray[np.float32]:
    """A matrix of the source (tokens or outputs first), rounded to BF16."""
    import ml_dtypes
    import numpy as np

    drawn = SOURCES[source].draw
    if drawn is None:
        raise ValueError(f"{source} tensors are read, not drawn")
    return drawn(rng, shape, role).astype(ml_dtypes.bfloat16).astype(np.float32)


def recorded(where: Recorded) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both captured matrices of a GEMM as they were taken (activations and gradients tokens first, weights outputs first),
    rounded to BF16. Raises InputError as `tensor_file.read`."""
    import ml_dtypes
    import numpy as np

    from codesign.workloads.tensor_file import read

    a, b = (read(where.file, key).astype(ml_dtypes.bfloat16).astype(np.float32) for key in (where.a, where.b))
    return a, b
