"""Operands for the bench: random normal numbers in E4M3 with scales by tile, and what their product is."""

from __future__ import annotations

from typing import Any, NamedTuple

LARGEST = 448.0
"""Largest number of E4M3."""
FLOOR = 1e-4
"""Least max-abs of a tile, as in DeepSeek's public inference code."""


class Quantised(NamedTuple):
    """x = codes * scales, each scale over one tile."""

    codes: Any
    """E4M3 (rows, columns)."""
    scales: Any
    """FP32, one a tile: (ceil(rows / tile rows), ceil(columns / tile columns)), row-major."""
    tile: tuple[int, int]

    def values(self) -> Any:
        """The numbers the pair stands for, exactly, in float64 (rows, columns)."""
        rows, columns = self.codes.shape
        wide = self.scales.double().repeat_interleave(self.tile[0], 0).repeat_interleave(self.tile[1], 1)
        return self.codes.double() * wide[:rows, :columns]


def normal(generator: Any, rows: int, columns: int) -> Any:
    """BF16 (rows, columns) of N(0, 1) on the generator's GPU."""
    import torch

    return torch.randn(rows, columns, generator=generator, device=generator.device, dtype=torch.bfloat16)


def quantise(x: Any, rows: int, columns: int) -> Quantised:
    """Quantise (m, k) to E4M3, one scale for each tile of rows x columns: max-abs / 448. Tiles at the edges are smaller."""
    import torch

    m, k = x.shape
    full = torch.nn.functional.pad(x.float(), (0, -k % columns, 0, -m % rows))
    tiles = full.view(full.shape[0] // rows, rows, full.shape[1] // columns, columns)
    scales = tiles.abs().amax(dim=(1, 3)).clamp(min=FLOOR) / LARGEST
    codes = (tiles / scales[:, None, :, None]).view_as(full)[:m, :k].contiguous().to(torch.float8_e4m3fn)
    return Quantised(codes, scales, (rows, columns))


def product(a: Quantised, b: Quantised) -> Any:
    """A (m, k) B (n, k)^T in float64, from what the codes and scales stand for."""
    return a.values() @ b.values().T
