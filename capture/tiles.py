"""Tiles of a Linear's tensors, cut by one of two rules and written to a file.

A Linear has an input X (tokens, inputs), a weight W (outputs, inputs) and the gradient G (tokens, outputs) of its output. Each
pass has tiles of both operands with all of K and, if the tensors are large enough, at least 128 rows.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from isa_model.output_files import fresh_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK = 128
"""Tokens, outputs or inputs of a tile, which are whole quantisation groups in either direction."""
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
    """Columns of wgrad's tiles."""
    along: int = 2048
    """Largest number of tokens that wgrad sums over."""


def cut(
    name: str, rule: Rule, x: Any, w: Any, g: Any, rng: np.random.Generator, how: Cut = Cut()
) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Return tiles by their names in `gemms.Recorded`, and the ranges that they were cut from.

    x is (tokens, inputs), w (outputs, inputs) and g (tokens, outputs), as NumPy arrays.
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
    """Write tiles rounded to BF16, to nearest even, with metadata."""
    import ml_dtypes
    import numpy as np

    contiguous = {k: np.ascontiguousarray(v).astype(ml_dtypes.bfloat16) for k, v in tiles.items()}
    write_safetensors(path, contiguous, about)


def write_safetensors(path: Path, tensors: dict[str, NDArray[Any]], about: dict[str, str]) -> None:
    """Write BF16 matrices (ml_dtypes.bfloat16) with metadata, as safetensors 0.4 does."""
    header: dict[str, Any] = {"__metadata__": about}
    start = 0
    for name, values in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [start, start + values.nbytes]}
        start += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with fresh_file(path, '{"__metadata__": ', "a file of tensors") as fresh, open(fresh, "wb") as raw:
        raw.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            raw.write(values.tobytes())


def _largest(x: Any, axis: int) -> int:
    """Return the row (axis 0) or column (axis 1) of the largest magnitude."""
    import numpy as np

    return int(np.unravel_index(np.abs(x).argmax(), x.shape)[axis])


def _aligned(index: int, size: int, length: int) -> slice:
    """Return the aligned block around `index`, shorter at a ragged end, so that a weight's blocks stay whole."""
    start = index // size * size
    return slice(start, min(start + size, length))


def _whole(index: int, size: int, length: int) -> slice:
    """Return the aligned block around `index`, or the last `size` elements at a ragged end."""
    start = max(min(index // size * size, length - size), 0)
    return slice(start, min(start + size, length))
