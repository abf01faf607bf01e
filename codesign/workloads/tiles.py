"""Tiles of a Linear's tensors: where they are cut, by one of two rules, and the file they are written to.

A Linear has an input X (tokens, inputs), a weight W (outputs, inputs) and the gradient G (tokens, outputs) of its output.
Each pass gets whole tiles of both of its operands: all of K, at least 128 rows of either where the tensors have them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from codesign.workloads.tensor_file import write_safetensors

if TYPE_CHECKING:
    import numpy as np

BLOCK = 128
"""Tokens, outputs or inputs of a tile: whole groups of quantisation in either direction."""
Rule = Literal["outliers", "random"]
RULES: dict[Rule, str] = {
    "outliers": "whole blocks with the largest elements: of tokens and inputs of the activation, of outputs of the weight, "
    "of tokens and outputs of the gradient",
    "random": "whole blocks drawn at random, seed 0",
}


@dataclass(frozen=True)
class Cut:
    """Sizes of tiles."""

    channels: int = 64
    """Columns of the tiles of Wgrad, whose sums run over tokens."""
    along: int = 2048
    """Tokens that Wgrad sums over, at most."""


def cut(
    name: str, rule: Rule, x: Any, w: Any, g: Any, rng: np.random.Generator, how: Cut = Cut()
) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Return tiles by the names that `gemms.Recorded` gives them, and the ranges that each was cut from.

    x: (tokens, inputs), w: (outputs, inputs), g: (tokens, outputs), as NumPy arrays.
    """
    index: Callable[[Any, int], int] = (
        _largest if rule == "outliers" else lambda a, axis: int(rng.integers(a.shape[axis]))
    )
    token, inner, out = index(x, 0), index(x, 1), index(w, 0)
    gradient_token, gradient_channel = index(g, 0), index(g, 1)
    tokens = len(x)
    places = {
        "tokens of fprop": _whole(token, BLOCK, tokens),
        "outputs of fprop": _aligned(out, BLOCK, len(w)),
        "tokens of dgrad": _whole(gradient_token, BLOCK, tokens),
        "inputs of dgrad": _aligned(inner, BLOCK, w.shape[1]),
        "tokens of wgrad": _whole(token, how.along, tokens),
        "outputs of wgrad": _aligned(gradient_channel, how.channels, g.shape[1]),
        "inputs of wgrad": _aligned(inner, how.channels, x.shape[1]),
    }
    stretch = places["tokens of wgrad"]
    tiles = {
        f"{name}/fprop/activation": x[places["tokens of fprop"]],
        f"{name}/fprop/weight": w[places["outputs of fprop"]],
        f"{name}/dgrad/gradient": g[places["tokens of dgrad"]],
        f"{name}/dgrad/weight": w[:, places["inputs of dgrad"]],
        f"{name}/wgrad/gradient": g[stretch, places["outputs of wgrad"]],
        f"{name}/wgrad/activation": x[stretch, places["inputs of wgrad"]],
    }
    return tiles, {what: [place.start, place.stop] for what, place in places.items()}


def write_tiles(path: Path, tiles: dict[str, Any], about: dict[str, str]) -> None:
    """Write tiles rounded to BF16, nearest even, with what is said about them."""
    import ml_dtypes
    import numpy as np

    contiguous = {k: np.ascontiguousarray(v).astype(ml_dtypes.bfloat16) for k, v in tiles.items()}
    write_safetensors(path, contiguous, about)


def _largest(x: Any, axis: int) -> int:
    """The row (0) or column (1) of the largest element."""
    import numpy as np

    return int(np.unravel_index(np.abs(x).argmax(), x.shape)[axis])


def _aligned(index: int, size: int, length: int) -> slice:
    """The aligned block that holds `index`, so that the scales of a weight's block are whole; shorter at a ragged end."""
    start = index // size * size
    return slice(start, min(start + size, length))


def _whole(index: int, size: int, length: int) -> slice:
    """The aligned block that holds `index`; at a ragged end the last `size`, which overlap the block before."""
    start = max(min(index // size * size, length - size), 0)
    return slice(start, min(start + size, length))
