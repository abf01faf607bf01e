"""What computes the GEMMs of training: the same bits from the model and from the chip.

A `recipe.GemmRecipe` says which bits; an engine says how they are made:

    torch    BF16 operands, or a recipe without an instruction: torch's own matrix product, FP32 sums
    fp32     the same in place of an instruction, on its operands: where the accumulation is not the question
    model    isa_model, any instruction: compiled C on the CPU, compiled CUDA on a GPU
    native   today's Hopper instructions on a Hopper GPU
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from codesign.evidence.training.quantise import Operand, codes_of
from codesign.proposal.recipe import GemmRecipe
from isa_model.array_codec import code_dtype, decode_array
from isa_model.diagnostics import InputError
from isa_model.formats import FORMATS, Format
from isa_model.instruction import Instruction, ScaleOperand

Engine = Literal["auto", "model", "native", "fp32"]
SIDE_STREAMS = 8
"""On which the GEMMs of experts run side by side."""
BF16, FP32 = FORMATS["bf16"], FORMATS["fp32"]


def engine_of(gemm: GemmRecipe, wanted: Engine, device: torch.device) -> str:
    """The engine that computes a GEMM on a device: torch, fp32, model or native.

    Raises InputError where `native` is asked for and cannot.
    """
    if gemm.spec is None or wanted == "fp32":
        return "torch" if gemm.spec is None else "fp32"
    can = device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0) and gemm.on_hopper
    if wanted == "native" and not can:
        raise InputError.of(
            f"engine native cannot compute {gemm.spec.name} here",
            "it has Hopper's FP8 wgmma, alone with one scale per tensor or promoted every 128, on a Hopper GPU",
        )
    return "native" if can and wanted != "model" else "model"


def multiply(gemm: GemmRecipe, a: Operand, b: Operand, engine: str) -> Tensor:
    """D = A B in FP32: `a` (..., M, K), `b` (..., K, N), with their scales, sums as `gemm` says."""
    if engine in ("torch", "fp32"):
        return _sums(a, b)
    if a.elements.dim() > 2:
        return _batched(gemm, a, b, engine)
    assert gemm.spec is not None
    d = _native(gemm, a, b) if engine == "native" else _model(gemm.spec, a, b)
    factors = [x.scales for x in (a, b) if x.scales is not None and x.group is None]
    if factors:
        # One scale of a whole tensor each: multiplied with the other in FP32, then onto D (as torch._scaled_mm does).
        d = d * (factors[0] * factors[1] if len(factors) == 2 else factors[0])
    return d


def _batched(gemm: GemmRecipe, a: Operand, b: Operand, engine: str) -> Tensor:
    """One product after another; on a GPU side by side, since few tiles of one do not fill it.

    What a side stream allocates it alone uses again, and whatever it does next waits for this stream first.
    """
    pairs = zip(_each(a), _each(b), strict=True)
    if not a.elements.is_cuda:
        return torch.stack([multiply(gemm, x, y, engine) for x, y in pairs])
    here, side = torch.cuda.current_stream(), _streams(a.elements.device.index)
    products = []
    for i, (x, y) in enumerate(pairs):
        stream = side[i % len(side)]
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            products.append(multiply(gemm, x, y, engine))
    for stream in side[: len(products)]:
        here.wait_stream(stream)
    return torch.stack(products)


@cache
def _streams(device: int) -> list[torch.cuda.Stream]:
    return [torch.cuda.Stream(device) for _ in range(SIDE_STREAMS)]


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

        codes = gpu.matmul_on_device(spec, a_codes, b_codes, None, *scales)
        return codes.view(torch.float32) if spec.accumulator == FP32 else _numbers(spec.accumulator, codes)
    formats = [spec.a, spec.b, *(side.format if side else FP32 for side in sides)]
    arrays = [
        None if x is None else x.contiguous().numpy().view(code_dtype(fmt))
        for x, fmt in zip((a_codes, b_codes, *scales), formats, strict=True)
    ]
    d = _on_cpu(spec, np.zeros((m, n), code_dtype(spec.c_format)), *arrays)
    if spec.accumulator == FP32:
        return torch.from_numpy(d.view(np.float32))
    return _numbers(spec.accumulator, torch.from_numpy(d))


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
    """The numbers of codes of an accumulator, FP32."""
    raw_codes = codes.cpu().numpy().astype(code_dtype(fmt))
    return torch.from_numpy(decode_array(fmt, raw_codes)).float().to(codes.device)


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


def _native(gemm: GemmRecipe, a: Operand, b: Operand) -> Tensor:
    """D by the chip, FP32: kernels.gemm, its sums along K unsplit, in ascending order, as the spec has them.

    They take E4M3. E5M2, with one scale per tensor, goes to torch._scaled_mm, whose bits on Hopper are those of wgmma with
    fast accumulation and of promotion every 128 without (tests/test_whole.py), for shapes that cuBLAS does not split along
    K. It may split long ones, which then lose less than the instruction would.
    """
    x, y = a.elements.contiguous(), b.elements.mT.contiguous()
    if x.dtype == y.dtype == torch.float8_e4m3fn:
        return _fused(gemm, a, b, x, y)
    one = torch.ones((), device=x.device)
    return torch._scaled_mm(x, y.mT, one, one, out_dtype=torch.float32, use_fast_accum=gemm.promote_every is None)


def _fused(gemm: GemmRecipe, a: Operand, b: Operand, x: Tensor, y: Tensor) -> Tensor:
    """The kernels' own entry, told which tile. `x` (M, K), `y` (N, K)."""
    run = import_module("kernels.gemm.run")
    (m, k), n = x.shape, y.shape[0]
    d = torch.empty((m, n), device=x.device)
    scales, of_a, of_b = 0, torch.ones(1, device=x.device), torch.ones(1, device=x.device)
    if gemm.spec is not None and gemm.spec.scale is not None:
        of_a, blocks = _rows_of_scales(a), b.group == (128, 128)
        assert b.scales is not None
        scales, of_b = (1, _laid_out(b.scales.mT)) if blocks else (2, _rows_of_scales(b.T))
    promote = (gemm.promote_every or 0) // 32
    tile = _tile(m, n, k, scales, promote)
    return cast(Tensor, run.issue(run.Operands(x, y, of_a, of_b, d), scales=scales, promote=promote, tile=tile))


@cache
def _tile(m: int, n: int, k: int, scales: int, promote: int) -> Any:
    """A tile that does not split K, about 128 by 128 whatever the shape: a model has so many shapes that compiling the best
    tile of each would take longer than the GEMMs of a short run."""
    choose = import_module("kernels.gemm.choose")
    whole = [t for t in choose.candidates(choose.Problem(m, n, k, 0, scales, promote, 4, False)) if t.split == 1]
    return min(whole, key=lambda t: (t.share, abs(t.bm - 128) + abs(t.bn - 128)))


def _rows_of_scales(x: Operand) -> Tensor:
    """Scales of rows (M, groups of K), stored group by group: (groups of K, M)."""
    assert x.scales is not None
    assert x.group is not None
    scales = x.scales.repeat_interleave(x.group[0], dim=0) if x.group[0] > 1 else x.scales
    return _laid_out(scales[: x.elements.shape[0]].mT)


def _laid_out(scales: Tensor) -> Tensor:
    """A copy with the strides and the alignment that the kernels ask for. `contiguous` would not do: it gives a view of one
    row or column back, whose strides are any, and which may start anywhere in the scales of all experts."""
    return scales.clone(memory_format=torch.contiguous_format)
