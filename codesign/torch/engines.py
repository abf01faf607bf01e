"""Engines that compute the GEMMs of a model. The bit-exact model and the chip give the same bits.

A `GemmRecipe` defines the result; an engine computes it:

    torch    torch's matrix product with FP32 sums, for recipes without an instruction
    fp32     the same instead of an instruction's sums, if accumulation is not the question
    model    isa_model, for any instruction: compiled C on the CPU, compiled CUDA on a GPU
    cpu      the compiled C, also for tensors on a GPU
    gpu      the compiled CUDA; tensors must be on an NVIDIA GPU
    native   today's Hopper instructions, on a Hopper GPU
"""

from __future__ import annotations

from functools import cache, partial
from importlib import import_module
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from codesign.proposal.quantisation import WHOLE
from codesign.proposal.recipe import GemmRecipe
from codesign.torch.quantise import QuantisedOperand, codes_of
from isa_model.array_codec import code_dtype, decode_array
from isa_model.diagnostics import InputError
from isa_model.formats import FORMATS, Format
from isa_model.instruction import Instruction
from isa_model.operand_fields import ScaleOperand

Engine = Literal["auto", "model", "cpu", "gpu", "native", "fp32"]
ENGINES = get_args(Engine)
SIDE_STREAMS = 8
"""Number of CUDA streams on which the GEMMs of experts run concurrently."""
BF16, FP32 = FORMATS["bf16"], FORMATS["fp32"]


def engine_of(gemm: GemmRecipe, wanted: Engine, device: torch.device) -> str:
    """Return the engine of a GEMM on a device: torch, fp32, model, cpu or native.

    Raises InputError if `native` or `gpu` is wanted and cannot compute the GEMM.
    """
    if gemm.spec is None or wanted == "fp32":
        return "torch" if gemm.spec is None else "fp32"
    if wanted == "gpu" and device.type != "cuda":
        raise InputError.of(f"engine gpu cannot compute on {device.type}", "move the model to the GPU, or engine cpu")
    if wanted in ("model", "cpu", "gpu"):
        return "cpu" if wanted == "cpu" else "model"
    can = device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0) and gemm.on_hopper
    if wanted == "native" and not can:
        raise InputError.of(
            f"engine native cannot compute {gemm.spec.name} here",
            "it has Hopper's FP8 wgmma, alone with one scale per tensor or promoted every 128, on a Hopper GPU",
        )
    return "native" if can else "model"


def multiply(
    gemm: GemmRecipe, a: QuantisedOperand, b: QuantisedOperand, engine: str, out: torch.dtype = torch.float32
) -> Tensor:
    """Return D = A B, for `a` (..., M, K) and `b` (..., K, N) with their scales, summed as `gemm` defines.

    D is FP32, without the constant scale of an instruction, rounded once to the dtype `out`. Raises ValueError if K differs.
    """
    if a.elements.shape[-1] != b.elements.shape[-2]:
        raise ValueError(f"A is {tuple(a.elements.shape)} and B is {tuple(b.elements.shape)}: K differs")
    if engine in ("torch", "fp32"):
        return _sums(a, b).to(out)
    if a.elements.dim() > 2:
        return _batched(gemm, a, b, engine, out)
    levels = [[x.scales for x, axis in ((a, 1), (b, 0)) if x.scales is not None and _constant(x.group, axis)]]
    levels.append([x.factor for x in (a, b) if x.factor is not None])
    if gemm.spec is not None and gemm.spec.scale_power:
        levels.append([torch.tensor(2.0**-gemm.spec.scale_power, device=a.elements.device)])
    levels = [factors for factors in levels if factors]
    compute = _native if engine == "native" else partial(_model, on_cpu=engine == "cpu")
    if len(levels) < 2 and all(x.numel() == 1 for factors in levels for x in factors):
        return compute(gemm, a, b, levels[0] if levels else [], out)
    d = compute(gemm, a, b, [], torch.float32)
    for factors in levels:
        d = d * _joined(factors)
    return d.to(out)


def _joined(factors: list[Tensor]) -> Tensor:
    """Return the product of the scales of both operands in FP32, which then meets D, as in torch._scaled_mm."""
    return factors[0] * factors[1] if len(factors) == 2 else factors[0]


def _finished(d: Tensor, factors: list[Tensor], out: torch.dtype) -> Tensor:
    """Return D in FP32 times its factors, rounded to the dtype `out`."""
    return (d * _joined(factors) if factors else d).to(out)


def _constant(group: tuple[int, int] | None, axis: int) -> bool:
    """Return whether scales do not change along K, which is `axis`: the instruction does not apply them then."""
    return group is None or group[axis] >= WHOLE


def _batched(gemm: GemmRecipe, a: QuantisedOperand, b: QuantisedOperand, engine: str, out: torch.dtype) -> Tensor:
    """Return the products of a batch. On a GPU they run concurrently, since one has too few tiles to fill it.

    Memory allocated on a side stream is reused by that stream only, and its next work waits for the current stream.
    """
    pairs = zip(_each(a), _each(b), strict=True)
    if not a.elements.is_cuda:
        return torch.stack([multiply(gemm, x, y, engine, out) for x, y in pairs])
    here, side = torch.cuda.current_stream(), _streams(a.elements.device.index)
    products = []
    for i, (x, y) in enumerate(pairs):
        stream = side[i % len(side)]
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            products.append(multiply(gemm, x, y, engine, out))
    for stream in side[: len(products)]:
        here.wait_stream(stream)
    return torch.stack(products)


@cache
def _streams(device: int) -> list[torch.cuda.Stream]:
    """Return the side streams of a device."""
    return [torch.cuda.Stream(device) for _ in range(SIDE_STREAMS)]


def _each(x: QuantisedOperand) -> list[QuantisedOperand]:
    """Return the matrices of a batch."""
    return [QuantisedOperand(e, _at(x.scales, i), x.group, x.cast, _at(x.factor, i)) for i, e in enumerate(x.elements)]


def _at(x: Tensor | None, i: int) -> Tensor | None:
    return None if x is None else x[i]


# -- torch -----------------------------------------------------------------------------------------------------------


def _sums(a: QuantisedOperand, b: QuantisedOperand) -> Tensor:
    """Return the product with FP32 sums in the library's order, on Tensor Cores if operands are BF16 on a GPU."""
    if a.cast is None and b.cast is None and a.elements.is_cuda:
        x, y = a.elements, b.elements
        product = torch.bmm if x.dim() == 3 else torch.mm
        return product(x, y, out_dtype=torch.float32)
    return a.values() @ b.values()


# -- isa_model -------------------------------------------------------------------------------------------------------


def _model(
    gemm: GemmRecipe,
    a: QuantisedOperand,
    b: QuantisedOperand,
    factors: list[Tensor],
    out: torch.dtype,
    on_cpu: bool = False,
) -> Tensor:
    """Return D of the bit-exact model times factors of one number, in the dtype `out`. K is padded to whole instructions."""
    assert gemm.spec is not None
    spec = gemm.spec
    fill = -a.elements.shape[1] % spec.shape.k
    on_gpu = a.elements.is_cuda and not on_cpu
    a_codes, b_codes = (_codes(spec, x, is_a, fill, on_gpu) for is_a, x in ((True, a), (False, b)))
    (m, k), n = a_codes.shape, b_codes.shape[1]
    sides = (spec.scale.a, spec.scale.b) if spec.scale else (None, None)
    scale_a, scale_b = [
        _instruction_scales(x, side, shape) for x, side, shape in zip((a, b), sides, ((m, k), (k, n)), strict=True)
    ]
    if on_gpu:
        from isa_model.engines import gpu

        if factors and out == torch.bfloat16 and spec.accumulator.name == "fp32":
            d: Tensor = gpu.matmul_on_device(spec, a_codes, b_codes, None, scale_a, scale_b, factor=_joined(factors))
            return d
        codes = gpu.matmul_on_device(spec, a_codes, b_codes, None, scale_a, scale_b)
        numbers = codes.view(torch.float32) if spec.accumulator.name == "fp32" else _numbers(spec.accumulator, codes)
        return _finished(numbers, factors, out)
    formats = [spec.a, spec.b, *(side.format if side else FP32 for side in sides)]
    arrays = [
        None if x is None else x.contiguous().cpu().numpy().view(code_dtype(fmt))
        for x, fmt in zip((a_codes, b_codes, scale_a, scale_b), formats, strict=True)
    ]
    found = _on_cpu(spec, np.zeros((m, n), code_dtype(spec.c_format)), *arrays)
    is_fp32 = spec.accumulator.name == "fp32"
    numbers = (
        torch.from_numpy(found.view(np.float32)) if is_fp32 else _numbers(spec.accumulator, torch.from_numpy(found))
    )
    return _finished(numbers.to(a.elements.device), factors, out)


def _codes(spec: Instruction, x: QuantisedOperand, is_a: bool, fill: int, on_gpu: bool) -> Any:
    """Return the codes of A (M, K) or B (K, N) with K filled up by zeros; on a GPU, packed once if the engine can keep that."""

    def codes() -> Any:
        made = _unsigned(x.codes())
        return torch.nn.functional.pad(made, (0, fill) if is_a else (0, 0, 0, fill)) if fill else made

    if not on_gpu:
        return codes()
    from isa_model.engines import gpu

    # With the specification beside them, so that its id stays its own.
    return x.kept((id(spec), is_a), lambda: (gpu.pack(spec, codes(), is_a), spec))[0]


def _on_cpu(spec: Instruction, c: Any, a: Any, b: Any, *scales: Any) -> Any:
    """Return the raw codes of D. Training uses an instruction so often that compiling it always pays."""
    from isa_model.engines import cpu, portable

    try:
        return cpu.matmul(spec, a, b, c, *scales)
    except cpu.NoCompiler:
        return portable.matmul(spec, a, b, c, *scales)


def _unsigned(codes: Tensor) -> Tensor:
    return codes.view(torch.uint8) if codes.itemsize == 1 else codes


def _numbers(fmt: Format, codes: Tensor) -> Tensor:
    """Return the numbers of an accumulator's codes in FP32."""
    if fmt.name == "int32":
        return codes.view(torch.int32).float()
    raw_codes = codes.cpu().numpy().astype(code_dtype(fmt))
    return torch.from_numpy(decode_array(fmt, raw_codes)).float().to(codes.device)


def _instruction_scales(x: QuantisedOperand, side: ScaleOperand | None, shape: tuple[int, int]) -> Tensor | None:
    """Return the codes of the scales, repeated to the instruction's groups on a matrix of this shape."""
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


def _native(
    gemm: GemmRecipe, a: QuantisedOperand, b: QuantisedOperand, factors: list[Tensor], out: torch.dtype
) -> Tensor:
    """Return D of the chip times factors of one number, with sums along K in ascending order and not split, as in the spec.

    kernels.gemm computes E4M3. torch._scaled_mm computes E5M2 with one scale per tensor. Its bits on Hopper are those of wgmma
    with fast accumulation, and of promotion every 128 without (tests/test_whole.py), unless cuBLAS splits K. It may split a
    long K, whose error is then smaller than the instruction's.
    """
    x, y = a.elements.contiguous(), b.elements.mT.contiguous()
    if x.dtype == y.dtype == torch.float8_e4m3fn:
        return _fused(gemm, a, b, x, y, factors, out)
    one = torch.ones((), device=x.device)
    d = torch._scaled_mm(x, y.mT, one, one, out_dtype=torch.float32, use_fast_accum=gemm.promote_every is None)
    return _finished(d, factors, out)


def _fused(
    gemm: GemmRecipe,
    a: QuantisedOperand,
    b: QuantisedOperand,
    x: Tensor,
    y: Tensor,
    factors: list[Tensor],
    out: torch.dtype,
) -> Tensor:
    """Return the product of `x` (M, K) and `y` (N, K) by kernels.gemm, on a fixed tile."""
    issue, kinds = import_module("kernels.gemm.launches"), import_module("kernels.gemm.tile")
    layout = kinds.ScaleLayout
    (m, k), n = x.shape, y.shape[0]
    if gemm.spec is not None and gemm.spec.scale is not None:
        of_a, blocks = _rows_of_scales(a), b.group == (128, 128)
        assert b.scales is not None
        scales, of_b = (layout.BLOCK, _laid_out(b.scales.mT)) if blocks else (layout.GROUP, _rows_of_scales(b.T))
    else:
        one = torch.ones(1, device=x.device)
        scales = layout.TENSOR
        of_a, of_b = [f.reshape(1) for f in factors] if len(factors) == 2 else [one, one]
    kind = torch.bfloat16 if out == torch.bfloat16 and (len(factors) == 2 or not factors) else torch.float32
    d = torch.empty((m, n), dtype=kind, device=x.device)
    promote = (gemm.promote_every or 0) // 32
    tile = _tile(m, n, k, scales, promote, kinds.OutputType(d.element_size()))
    operands = issue.GemmOperands(x, y, of_a, of_b, d)
    made = cast(Tensor, issue.issue(operands, scales=scales, promote=promote, tile=tile))
    return made if len(factors) == 2 and scales == layout.TENSOR else _finished(made, factors, out)


@cache
def _tile(m: int, n: int, k: int, scales: Any, promote: int, out: Any) -> Any:
    """Return a tile near 128 by 128 that does not split K.

    A model has so many shapes that compiling the best tile of each would take longer than the GEMMs of a short run.
    """
    choose, kinds = import_module("kernels.gemm.choose"), import_module("kernels.gemm.tile")
    problem = kinds.GemmProblem(m, n, k, scales=scales, promote=promote, out=out)
    whole = [t for t in choose.candidates(problem) if t.split == 1]
    return min(whole, key=lambda t: (t.share, abs(t.bm - 128) + abs(t.bn - 128)))


def _rows_of_scales(x: QuantisedOperand) -> Tensor:
    """Return the scales of rows as (groups of K, M)."""
    assert x.scales is not None
    assert x.group is not None
    scales = x.scales.repeat_interleave(x.group[0], dim=0) if x.group[0] > 1 else x.scales
    return _laid_out(scales[: x.elements.shape[0]].mT)


def _laid_out(scales: Tensor) -> Tensor:
    """Return a copy with the strides and alignment that the kernels require.

    `contiguous` may return a view of one row or column, with other strides, at any address in the scales of all experts.
    """
    return scales.clone(memory_format=torch.contiguous_format)
