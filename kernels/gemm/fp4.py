"""Scales of FP4 weights as the GEMM takes them: one power of two for 128x128, and what each group of 32 has over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

RANGE = 14
"""Largest difference of exponents within a block that E4M3 holds (docs/asks.md, "FP4 as FP8, exactly")."""
LARGEST = 6
"""Exponent of the factor of the group with the largest scale: 6 times 2^6 is 384, and E4M3 reaches 448."""


def fp4_scales(scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scales of blocks and the shifts that `fp4_weights` takes, for UE8M0 scales (N, K / 32) of groups of 32.

    `scales` is uint8, each the exponent of a power of two, plus 127. Raises ValueError for NaN, code 255, and where scales in a
    block of 128x128 differ by more than 2^14, so that E4M3 does not hold the weights under one power of two.
    """
    import torch

    if scales.dtype != torch.uint8 or scales.dim() != 2 or not scales.numel():
        raise ValueError(f"scales must be uint8 (N, K / 32); they are {scales.dtype} {tuple(scales.shape)}")
    if bool((scales == 255).any()):
        raise ValueError("scales must be numbers; UE8M0 code 255 is NaN")
    n, groups = scales.shape
    blocks = (-(-n // 128), -(-groups // 4))
    # Groups beyond the edges count as the smallest scale, which changes no largest one.
    whole = torch.nn.functional.pad(scales.short(), (0, 4 * blocks[1] - groups, 0, 128 * blocks[0] - n))
    largest = whole.view(blocks[0], 128, blocks[1], 4).amax(dim=(1, 3))
    shifts = whole - largest.repeat_interleave(128, 0).repeat_interleave(4, 1) + RANGE
    if bool((shifts[:n, :groups] < 0).any()):
        raise ValueError(f"scales in a block of 128x128 differ by more than 2^{RANGE}: E4M3 does not hold the weights")
    packed = shifts[:n].clamp(min=0).to(torch.uint8).contiguous().view(torch.int32)
    return torch.exp2(largest.double() - 127 - LARGEST).float(), packed.T.contiguous()
