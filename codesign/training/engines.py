"""What computes the GEMMs of training: the same bits from the model and from the chip.

A `recipe.Gemm` says which bits; an engine says how they are made:

    torch    BF16 operands, or a recipe without an instruction: torch's own matrix product, FP32 sums
    fp32     the same in place of an instruction, on its operands: where the accumulation is not the question
    model    isa_model, any instruction: compiled C on the CPU, compiled CUDA on a GPU
    native   today's Hopper instructions on a Hopper GPU
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from codesign.training.quantise import Operand, codes_of
from codesign.training.recipe import Gemm, numerics
from isa_model.diagnostics import InputError
from isa_model.formats import FORMATS, Format
from isa_model.instruction import Instruction, ScaleOperand

Engine = Literal["auto", "model", "native", "fp32"]
NATIVE_BASE = "hopper.wgmma.m64n256k32.f32.{a}.{b}"
BF16, FP32 = FORMATS["bf16"], FORMATS["fp32"]


def engine_of(gemm: Gemm, wanted: Engine, device: torch.device) -> str:
    """The engine that computes a GEMM on a device: torch, fp32, model or native.

    Raises InputError where `native` is asked for and cannot.
    """
    if gemm.spec is None or wanted == "fp32":
        return "torch" if gemm.spec is None else "fp32"
    can = device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0) and _is_native(gemm)
    if wanted == "native" and not can:
        raise InputError.of(
            f"engine native cannot compute {gemm.spec.name} here",
            "it has Hopper's FP8 wgmma, alone with one scale per tensor or promoted every 128, on a Hopper GPU",
        )
    return "native" if can and wanted != "model" else "model"


def multiply(gemm: Gemm, a: Operand, b: Operand, engine: str) -> Tensor:
    """D = A B in FP32: `a` (..., M, K), `b` (..., K, N), with their scales, sums as `gemm` says."""
    if engine in ("torch", "fp32"):
        return _sums(a, b)
    if a.elements.dim() > 2:
        pairs = zip(_each(a), _each(b), strict=True)
        return torch.stack([multiply(gemm, x, y, engine) for x, y in pairs])
    assert gemm.spec is not None
    d = _native(gemm, a, b) if engine == "native" else _model(gemm.spec, a, b)
    factors = [x.scales for x in (a, b) if x.scales is not None and x.group is None]
    if factors:
        # One scale of a whole tensor each: multiplied with the other in FP32, then onto D (as torch._scaled_mm does).
        d = d * (factors[0] * factors[1] if len(factors) == 2 else factors[0])
    return d


def _each(x: Operand) -> list[Operand]:
    return [Operand(e, None if x.scales is None else x.scales[i], x.group, x.cast) for i, e in enumerate(x.elements)]


# -- torch -----------------------------------------------------------------------------------------------------------


def _sums(a: Operand, b: Operand) -> Tensor:
    """FP32 sums in whatever order the library takes; of BF16 operands on Tensor Cores where there are some."""
    if a.cast is None and b.cast is None and a.elements.is_cuda:
        x, y = a.elements, b.elements
        product = torch.bmm if x.dim() == 3 else torch.mm
        return product(x, y, out_dtype=torch.float32)
    return a.values() @ b.values()


# -- isa_model -------------------------------------------------------------------------------------------------------


def _model(spec: Instruction, a: Operand, b: Operand) -> Tensor:
    """D by the bit-exact model, FP32. K is filled up with zeros to whole instructions."""
    fill = -a.elements.shape[1] % spec.shape.k
    a_codes = torch.nn.functional.pad(_unsigned(a.codes()), (0, fill))
    b_codes = torch.nn.functional.pad(_unsigned(b.codes()), (0, 0, 0, fill))
    (m, k), n = a_codes.shape, b_codes.shape[1]
    sides = (spec.scale.a, spec.scale.b) if spec.scale else (None, None)
    scales = [
        _instruction_scales(x, side, shape) for x, side, shape in zip((a, b), sides, ((m, k), (k, n)), strict=True)
    ]
    if a.elements.is_cuda:
        from isa_model.engines import gpu

        return _numbers(spec.accumulator, gpu.matmul_on_device(spec, a_codes, b_codes, None, *scales))
    from isa_model.array_codec import code_dtype, decode_array

    formats = [spec.a, spec.b, *(side.format if side else FP32 for side in sides)]
    arrays = [
        None if x is None else x.contiguous().numpy().view(code_dtype(fmt))
        for x, fmt in zip((a_codes, b_codes, *scales), formats, strict=True)
    ]
    d = _on_cpu(spec, np.zeros((m, n), code_dtype(spec.c_format)), *arrays)
    if spec.accumulator == FP32:
        return torch.from_numpy(d.view(np.float32))
    return torch.from_numpy(decode_array(spec.accumulator, d)).float()


def _on_cpu(spec: Instruction, c: Any, a: Any, b: Any, *scales: Any) -> Any:
    """Raw codes of D. A training step calls the same instruction so often that compiling it always pays."""
    from isa_model.engines import cpu, portable

    try:
        return cpu.matmul(spec, a, b, c, *scales)
    except cpu.NoCompiler:
        return portable.matmul(spec, a, b, c, *scales)


def _unsigned(codes: Tensor) -> Tensor:
    return codes.view(torch.uint8) if codes.itemsize == 1 else codes


def _numbers(fmt: Format, codes: Tensor) -> Tensor:
    """The numbers of int32 codes of an accumulator, on the GPU."""
    if fmt == FP32:
        return codes.view(torch.float32)
    from isa_model.engines.gpu import _numbers as decoded

    return cast(Tensor, decoded(fmt, codes, False)).float()


def _instruction_scales(x: Operand, side: ScaleOperand | None, shape: tuple[int, int]) -> Tensor | None:
    """Codes of the scales, repeated to the groups that the instruction takes over a matrix of this shape."""
    if side is None:
        return None
    assert x.scales is not None
    assert x.group is not None
    scales = x.scales
    for axis in (0, 1):
        times = max(x.group[axis] // side.group[axis], 1)
        scales = scales.repeat_interleave(times, dim=axis) if times > 1 else scales
    rows, columns = (-(-size // g) for size, g in zip(shape, side.group, strict=True))
    scales = scales[:rows, :columns]
    missing = (0, columns - scales.shape[1], 0, rows - scales.shape[0])
    scales = torch.nn.functional.pad(scales, missing, value=1.0) if any(missing) else scales
    return codes_of(side.format, scales.contiguous())


# -- Hopper ----------------------------------------------------------------------------------------------------------


@cache
def _is_native(gemm: Gemm) -> bool:
    """Whether today's chip computes this: FP8 wgmma alone, or promoted every 128 with FP32 scales outside."""
    if gemm.instruction is None or gemm.promote_every not in (None, 128):
        return False
    pair = gemm.instruction.a.name, gemm.instruction.b.name
    if not set(pair) <= {"e4m3", "e5m2"}:
        return False
    chip = Gemm(instruction=NATIVE_BASE.format(a=pair[0], b=pair[1])).instruction
    assert chip is not None
    return numerics(gemm.instruction) == numerics(chip)


def _native(gemm: Gemm, a: Operand, b: Operand) -> Tensor:
    """D by the chip, FP32.

    Until kernels.gemm lands, this is torch._scaled_mm, whose bits on Hopper are those of wgmma with fast accumulation and
    of promotion every 128 without (kernels/records, tests/test_whole.py). Group scales are then multiplied in by torch,
    one stretch of 128 of K at a time: the right bits, but not the speed of a fused kernel.
    """
    x = a.elements.contiguous()
    y = b.elements.mT.contiguous().mT  # K next to each other: Hopper's FP8 wgmma takes nothing else
    if a.group is None and b.group is None:
        return _scaled_mm(x, y, fast=gemm.promote_every is None)
    d: Tensor | None = None
    for block, start in enumerate(range(0, x.shape[1], 128)):
        part = _scaled_mm(x[:, start : start + 128].contiguous(), y[start : start + 128].mT.contiguous().mT, fast=True)
        scale = _along_k(a, block, 1) * _along_k(b.T, block, 1).mT
        # addcmul is one fused multiply-add on CUDA, as the promotion is.
        d = part * scale if d is None else torch.addcmul(d, part, scale)
    assert d is not None
    return d


def _along_k(x: Operand, block: int, axis: int) -> Tensor:
    """Scales of the rows in one stretch of 128 of K, (rows, 1)."""
    rows = x.elements.shape[0]
    if x.scales is None:
        return x.elements.new_ones((1, 1), dtype=torch.float32)
    if x.group is None:
        return torch.ones_like(x.scales)  # it multiplies D in the end
    column = x.scales[:, block * 128 // x.group[axis], None]
    return column.repeat_interleave(x.group[0], dim=0)[:rows]


def _scaled_mm(a: Tensor, b: Tensor, fast: bool) -> Tensor:
    one = torch.ones((), device=a.device)
    return torch._scaled_mm(a, b, one, one, out_dtype=torch.float32, use_fast_accum=fast)
