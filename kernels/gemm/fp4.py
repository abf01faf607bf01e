"""FP4 weights as the GEMM takes them: one power of two for 128x128, what each group of 32 has over it, and signs in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

RANGE = 14
"""Largest difference of exponents within a block that E4M3 holds (docs/asks.md, "FP4 as FP8, exactly")."""
LARGEST = 6
"""Exponent of the factor of the group with the largest scale: 6 times 2^6 is 384, and E4M3 reaches 448."""


class Fp4Weights(NamedTuple):
    """Weights that `prepare_fp4` made for `fp4_weights`."""

    codes: torch.Tensor
    """uint8 (ceil(K / 128), N rounded up to 16, 64): stored step by step of K, so that a tile's part of a step is contiguous.
    In each 32 bits the magnitudes of eight codes are in order; the signs of the first four are the highest bits of bytes, those
    of the others 4 bits below, where unpacking needs them."""
    scales: torch.Tensor
    """FP32 (ceil(N / 128), ceil(K / 128)): powers of two."""
    shifts: torch.Tensor
    """int32 (ceil(K / 128), N): a byte for each of four groups of 32, its factor 2^(byte - 8) over the block's scale."""


def prepare_fp4(packed: torch.Tensor, scales: torch.Tensor) -> Fp4Weights:
    """Return weights for `fp4_weights`, without loss, from E2M1 (N, K / 2) and UE8M0 scales (N, K / 32) of groups of 32.

    Both are uint8. A byte of `packed` has two codes, the first in its lower half; a scale is the exponent of a power of two,
    plus 127. Raises ValueError for NaN, code 255, and where scales in a block of 128x128 differ by more than 2^14, so that E4M3
    does not hold the weights under one power of two.
    """
    import torch

    for name, t in (("packed", packed), ("scales", scales)):
        if t.dtype != torch.uint8 or t.dim() != 2 or not t.numel():
            raise ValueError(f"{name} must be uint8 with two dimensions; they are {t.dtype} {tuple(t.shape)}")
    n, groups = scales.shape
    if tuple(packed.shape) != (n, 16 * groups):
        raise ValueError(f"packed must be ({n}, {16 * groups}), 16 bytes for each scale; it is {tuple(packed.shape)}")
    if bool((scales == 255).any()):
        raise ValueError("scales must be numbers; UE8M0 code 255 is NaN")
    blocks = (-(-n // 128), -(-groups // 4))
    # Groups beyond the edges count as the smallest scale, which changes no largest one.
    whole = torch.nn.functional.pad(scales.short(), (0, 4 * blocks[1] - groups, 0, 128 * blocks[0] - n))
    largest = whole.view(blocks[0], 128, blocks[1], 4).amax(dim=(1, 3))
    shifts = whole - largest.repeat_interleave(128, 0).repeat_interleave(4, 1) + RANGE
    if bool((shifts[:n, :groups] < 0).any()):
        raise ValueError(f"scales in a block of 128x128 differ by more than 2^{RANGE}: E4M3 does not hold the weights")
    of_groups = shifts[:n].clamp(min=0).to(torch.uint8).contiguous().view(torch.int32)
    words = packed.clone(memory_format=torch.contiguous_format).view(torch.int32)  # at any offset of its storage
    codes = words & 0x77777777
    for i in range(8):
        sign = words >> (4 * i + 3) & 1
        codes |= sign << (8 * i + 7 if i < 4 else 8 * i - 29)
    powers = torch.exp2(largest.double() - 127 - LARGEST).float()
    steps = torch.nn.functional.pad(codes, (0, 16 * blocks[1] - codes.shape[1], 0, -n % 16))
    steps = steps.view(-1, blocks[1], 16).transpose(0, 1).contiguous()
    return Fp4Weights(steps.view(torch.uint8), powers, of_groups.T.contiguous())
