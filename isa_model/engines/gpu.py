"""The GPU engine: a spec's step as a CUDA kernel (cuda.py, tensor.py), built at run time by NVRTC.

Needs the extra `kernels` (torch holds the arrays, cuda-core compiles and launches) and an NVIDIA GPU; else `NoGpu`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache
from math import inf, isfinite
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from isa_model.array_codec import code_dtype, values_of_all_codes
from isa_model.engines import fma, routes, tensor
from isa_model.engines.cuda import CudaCores, CudaTarget
from isa_model.engines.fragments import fragments
from isa_model.engines.operands import NestedScales, Scales, decode, decode_scales, flushed, joined, of_side, read
from isa_model.engines.plan import Plan, Unsupported
from isa_model.float64 import NO_EXPONENT, Codes, Float64, exponent_of
from isa_model.formats import Format
from isa_model.ieee import in_ieee_mode
from isa_model.instruction import Instruction


class NoGpu(ValueError):
    """This machine cannot run the GPU engine."""


def matmul(
    spec: Instruction,
    a: Codes,
    b: Codes,
    c: Codes,
    scale_a: Any = None,
    scale_b: Any = None,
    seed: int = 0,
) -> Codes:
    """Return D as raw codes, from raw codes: `a` (M, K), `b` (K, N), `c` (M, N), scales one per group; arrays are numpy's.

    Raises plan.Unsupported for a spec whose values doubles cannot carry exactly, NoGpu without an NVIDIA GPU.
    """
    torch = _torch()

    def upload(x: Scales) -> Any:
        if x is None:
            return None
        if isinstance(x, NestedScales):
            return NestedScales(*(torch.from_numpy(np.ascontiguousarray(y)).cuda() for y in (x.values, x.exponents)))
        x = np.require(x, requirements=["C", "W"])  # torch warns about read-only arrays
        return torch.from_numpy(x.view(f"i{x.itemsize}")).cuda()

    arrays = [upload(x) for x in (a, b, c, *joined(spec, scale_a, scale_b))]
    d = matmul_on_device(spec, *arrays, seed=seed).cpu().numpy()
    codes: Codes = d.view(f"u{d.itemsize}").astype(code_dtype(spec.accumulator))
    return codes


@in_ieee_mode
def matmul_on_device(
    spec: Instruction, a: Any, b: Any, c: Any = None, scale_a: Any = None, scale_b: Any = None, *, seed: int = 0
) -> Any:
    """Return D as `matmul` does, for torch tensors of codes on the GPU (int8 to int64): int32 codes, int64 for FP64.

    Raises plan.Unsupported and NoGpu as `matmul` does, and ValueError for tensors of another shape, dtype or device. Bits of
    a code above the format's are ignored.
    """
    torch = _torch()
    if spec.sparsity:
        raise Unsupported("a sparse operand: `isa_model.matmul` multiplies it line by line")
    if spec.codebook:
        raise Unsupported("an operand of indices: `isa_model.matmul` looks its elements up")
    check_tensors(spec, a, b, c, scale_a, scale_b)
    if spec.remainder:
        raise Unsupported("the kernels keep one register of a running value, not two")
    chain = fma.is_chain(spec)
    if spec.accumulator.storage_bits > 32 and not chain:
        raise Unsupported(f"the kernels leave codes of 32 bits; {spec.accumulator.name} has {spec.accumulator.bits}")
    here = torch.empty(0, device="cuda").device
    if a.device != here:
        raise ValueError(f"a is on {a.device}, the current GPU is {here}")
    if 0 in (a.shape[0], b.shape[1]):
        kind = torch.int64 if spec.accumulator.storage_bits == 64 else torch.int32
        return torch.empty((a.shape[0], b.shape[1]), dtype=kind, device=a.device)
    if chain:
        return _chained(spec, a, b, c)
    plan, way = _planned(spec)
    if way is not None and _is_hopper():
        d = _on_tensor_cores(plan, way, a, b, c, scale_a, scale_b, seed)
        if d is not None:
            return d
    return _on_cuda_cores(plan, a, b, c, scale_a, scale_b, seed)


def check_tensors(spec: Instruction, a: Any, b: Any, c: Any, scale_a: Any, scale_b: Any) -> None:
    """Raise ValueError, with the argument's name and shape, for tensors that the engine would misread."""
    import torch

    sides = (spec.scale.a, spec.scale.b) if spec.scale else (None, None)
    given: dict[str, tuple[Any, Format | None]] = {
        "a": (a, spec.a),
        "b": (b, spec.b),
        "c": (c, spec.c_format),
        "scale_a": (scale_a, sides[0].format if sides[0] else None),
        "scale_b": (scale_b, sides[1].format if sides[1] else None),
    }
    for name, (x, fmt) in given.items():
        if (x is None and (name == "c" or fmt is None)) or isinstance(x, NestedScales):
            continue
        if fmt is None:
            raise ValueError(f"{name} is given, but the instruction takes none")
        if not isinstance(x, torch.Tensor):
            raise ValueError(f"{name} is of type {type(x).__name__}; it must be a torch tensor of codes")
        about = f"{name} is {x.dtype} {tuple(x.shape)} on {x.device}"
        if x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == torch.bool:
            raise ValueError(f"{about}; it must hold codes, in integers of {fmt.storage_bits} bits (tensor.view)")
        if x.element_size() * 8 != fmt.storage_bits:
            raise ValueError(f"{about}; {fmt.name} has codes of {fmt.storage_bits} bits")
        if x.dim() != 2 or x.device != a.device:
            raise ValueError(f"{about}; it must be a matrix on the device of a, {a.device}")
    (m, k), (of_b, n) = a.shape, b.shape
    if of_b != k or k % spec.shape.k or not k:
        raise ValueError(f"a is {(m, k)} and b is {(of_b, n)}: they must have one K, a multiple of {spec.shape.k}")
    if c is not None and c.shape != (m, n):
        raise ValueError(f"c is {tuple(c.shape)}; a {(m, k)} and b {(k, n)} make it {(m, n)}")
    for name, x, side, shape in (("scale_a", scale_a, sides[0], (m, k)), ("scale_b", scale_b, sides[1], (k, n))):
        if side is not None:
            expected = tuple(-(-size // group) for size, group in zip(shape, side.group, strict=True))
            if not isinstance(x, NestedScales) and tuple(x.shape) != expected:
                raise ValueError(f"{name} is {tuple(x.shape)}; groups of {side.group} over {shape} make it {expected}")


def _chained(spec: Instruction, a: Any, b: Any, c: Any) -> Any:
    """Return D of FP64 fused multiply-adds, which are native to the GPU, with the spec's NaN code."""
    torch = _torch()
    x, y = (v.contiguous().view(torch.float64) for v in (a.T, b))
    (k, m), n = x.shape, y.shape[1]
    d = (
        torch.zeros((m, n), dtype=torch.float64, device="cuda")
        if c is None
        else c.contiguous().view(torch.float64).clone()
    )
    _launch(_kernel(fma.SOURCE), (-(-m // 64), -(-n // 64)), 256, (m, n, k), [x, y, d])
    return torch.where(d.isnan(), spec.nan_code, d.view(torch.int64))


def _planned(spec: Instruction) -> tuple[Plan, routes.Route | None]:
    """Return the plan and the route of a spec; recent ones are kept."""
    known = _plans.get(id(spec))
    if known is None or known[0] is not spec:
        if len(_plans) >= 64:
            _plans.clear()
        plan = Plan(spec)
        known = _plans[id(spec)] = (spec, plan, routes.route(plan))
    return known[1:]


_plans: dict[int, tuple[Instruction, Plan, routes.Route | None]] = {}


# -- on the Tensor Cores ---------------------------------------------------------------------------------------------


def _on_tensor_cores(
    plan: Plan, way: routes.Route, a: Any, b: Any, c: Any, scale_a: Any, scale_b: Any, seed: int
) -> Any:
    """Return D computed on the Tensor Cores; None if only digits would do and operands are not finite."""
    torch, spec = _torch(), plan.spec
    (m, k), n = a.shape, b.shape[1]
    start = None if c is None else read(spec.c_format, c, spec.flush_c)
    unit, largest = (inf, 0.0) if start is None else _extent(start)
    if way.cut == "half" and len(spec.stages) == 1 and not routes.suits(plan, way, k, unit, largest):
        way = replace(way, whole=False)
    operands = [(True, a), (False, b.T)]
    cut = []
    if routes.with_digits(plan, way, 0.0, inf):
        most = torch.zeros(2, dtype=torch.int32, device="cuda")
        digits = replace(way, cut="digits")
        cut = [_packed(plan, digits, *operand, "cut", most[i:]) for i, operand in enumerate(operands)]
        products = float(most.view(torch.float32).prod()) * k
        bound = 2 * (products + largest)  # twice, since a register may round sums up
        found = routes.with_digits(plan, way, bound if isfinite(bound) else inf, unit)
        if found is None and way.cut == "digits":
            return None
        way = found or way
    if way.cut != "digits":
        cut = [_packed(plan, way, *operand, "cut") for operand in operands]
    powers = [_packed(plan, way, *operand, "powers") if way.step else None for operand in operands]
    target = tensor.TensorCores(plan, way)
    scales: list[Any] = []
    for is_a, codes, columns in zip((True, False), (scale_a, scale_b), target.filled(m, n), strict=True):
        _, scale, _, group = of_side(spec, is_a)
        scales += [None, None] if scale is None else decode_scales(scale, codes.T if is_a else codes, columns, group)
    c_values = None if start is None else _start(target, start)
    arrays = [cut[0], powers[0], cut[1], powers[1], *scales, c_values]
    return _run(target, m, n, (k, k // plan.first.terms, *_seeds(target, seed)), arrays)


def _extent(start: Any) -> tuple[float, float]:
    """Return a power of two that divides all numbers of C (of at most 24 bits), and the largest magnitude or infinity."""
    torch = _torch()
    largest = float(start.abs().max())
    if not isfinite(largest):
        return 0.0, inf
    significand, exponent = torch.frexp(start)
    whole = (significand * 2.0**24).to(torch.int64)
    unit = exponent - 24 + torch.log2((whole & -whole).to(torch.float64)).to(torch.int32)
    return 2.0 ** int(torch.where(whole == 0, 999, unit).min()), largest


def _packed(
    plan: Plan, way: routes.Route, is_a: bool, codes: Any, what: Literal["cut", "powers"], most: Any = None
) -> Any:
    """Return A (M, K), or B as (N, K), in the layout of `Fragments`; `most` takes the largest magnitude as FP32."""
    torch, spec, f = _torch(), plan.spec, fragments(plan, way, is_a, what)
    fmt, (size, k) = spec.a if is_a else spec.b, codes.shape
    blocks, tile = k // f.terms, tensor.TensorCores(plan, way).block[0 if is_a else 1]
    words = -(-size // tile) * tile // (8 * f.halves) * blocks * 32 * f.registers
    out = torch.empty(words, dtype=torch.int32, device="cuda")
    step, shift = (way.step, routes.power_shifts(plan, way.step)[0 if is_a else 1]) if what == "powers" else (0, 0)
    table = _words(fmt, spec.widen or fmt, spec.flush_operands, f.elements, step, shift)
    places = words // f.digits
    sizes = (np.int64(places), blocks, size, *(np.int64(stride) for stride in codes.stride()))
    kernel = _kernel(f.pack(codes.element_size(), fmt.storage_bits), "pack")
    _launch(kernel, (-(-places // 256), 1), 256, sizes, [table, codes, out, most])
    return out


@cache
def _words(fmt: Format, aligned_as: Format, flush: bool | str, elements: int, step: int, shift: int) -> Any:
    """Return the table that `pack` reads: a word for each code and digit, then each code's magnitude in FP32.

    With a step the word is 2**(step * exponent + shift) in BF16. Otherwise it is the number. Four elements to a register:
    digits, the lowest first; two: BF16; one: the upper half of FP64.
    """
    values = flushed(fmt, values_of_all_codes(fmt), flush)
    magnitudes = np.abs(values).astype(np.float32).view(np.uint32)
    if step:
        exponents = exponent_of(values, aligned_as)
        words = [np.where(exponents == NO_EXPONENT, 0, (step * exponents + shift + 127) << 7)]
    elif elements == 2:
        words = [values.astype(np.float32).view(np.int32) >> 16 & 0xFFFF]
    elif elements == 1:
        words = [values.view(np.int64) >> 32]
    else:
        words = digits_of(fmt, np.where(np.isfinite(values), values, 0.0))
    return (
        _torch()
        .from_numpy(np.concatenate([*words, magnitudes]).astype(np.int64).astype(np.uint32).view(np.int32))
        .cuda()
    )


def digits_of(fmt: Format, values: Float64) -> list[NDArray[np.int64]]:
    """Return finite numbers of a format as base-256 digits, each from -128 to 127, the lowest first (routes.digit_count)."""
    left = (values * 2.0**-fmt.min_lsb_exponent).astype(np.int64)
    digits = []
    for _ in range(routes.digit_count(fmt)):
        digits.append((left + 128 & 255) - 128)
        left = left - digits[-1] >> 8
    return digits


@cache
def _is_hopper() -> bool:
    return bool(_torch().cuda.get_device_capability() == (9, 0))


# -- on CUDA cores ---------------------------------------------------------------------------------------------------


def _on_cuda_cores(plan: Plan, a: Any, b: Any, c: Any, scale_a: Any, scale_b: Any, seed: int) -> Any:
    torch, spec, target = _torch(), plan.spec, CudaCores(plan)
    (m, k), n = a.shape, b.shape[1]
    lda, ldb = target.filled(m, n)
    dtype = "float32" if target.lane == "float" else "float64"
    x = decode(plan, True, _padded(a.T, k, lda), None if scale_a is None else scale_a.T, dtype)
    y = decode(plan, False, _padded(b, k, ldb), scale_b, dtype)
    pairs = x.exponents.to(torch.int32)  # a word holds an exponent of A twice, to meet two of B
    pairs = (pairs & 0xFFFF) | (pairs << 16)
    values, signs = [x.values, y.values], [None] * 6
    if target.lane == "float":
        (values[0], *of_a), (values[1], *of_b) = (_signs(v, spec.shape.k) for v in values)
        signs = [array for pair in zip(of_a, of_b, strict=True) for array in pair]
    scales = [x.scales, x.scale_exponents, y.scales, y.scale_exponents]
    c = torch.zeros((m, n), device="cuda") if c is None else read(spec.c_format, c, spec.flush_c)
    arrays = [values[0], pairs, values[1], y.exponents, *scales, *signs, _start(target, c)]
    return _run(target, m, n, (k, *_seeds(target, seed)), arrays)


def _signs(values: Any, step: int) -> tuple[Any, Any, Any, Any]:
    """Return the inputs of the loop on float lanes: magnitudes, sign masks, sign words, and flags of steps with specials."""
    torch = _torch()
    k, columns = values.shape
    negative = torch.signbit(values)
    words = torch.zeros((-(-k // 32) * 32, columns), dtype=torch.int64, device="cuda")
    words[:k] = negative
    words = words.view(-1, 32, columns) << torch.arange(32, device="cuda")[None, :, None]
    flags = (~torch.isfinite(values)).view(-1, step, columns).any(dim=1).to(torch.uint8)
    return values.abs(), -negative.to(torch.int32), words.sum(dim=1).to(torch.int32), flags


# -- on either -------------------------------------------------------------------------------------------------------


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise NoGpu("the GPU engine needs the extra `kernels` (torch, cuda-core)") from error
    if not torch.cuda.is_available():
        raise NoGpu("no NVIDIA GPU is visible here")
    return torch


def _padded(x: Any, rows: int, columns: int) -> Any:
    """Return a matrix filled up with zeros."""
    return _torch().nn.functional.pad(x, (0, columns - x.shape[1], 0, rows - x.shape[0])).contiguous()


def _start(target: CudaTarget, c: Any) -> Any:
    """Return the numbers of C as a kernel reads them."""
    torch = _torch()
    return _padded(c.to(torch.float32 if target.state == "float" else torch.float64), *target.filled(*c.shape))


def _seeds(target: CudaTarget, seed: int) -> tuple[Any, ...]:
    """Return the seed as a kernel that draws random bits takes it."""
    return (np.array(seed, np.uint64).astype(np.int64)[()],) if target.seed else ()


def _run(target: CudaTarget, m: int, n: int, sizes: tuple[Any, ...], arrays: list[Any]) -> Any:
    """Return D (m, n) of a target's kernel, in int32."""
    torch = _torch()
    lda, ldb = target.filled(m, n)
    d = torch.empty((lda, ldb), dtype=torch.int32, device="cuda")
    grid = (lda // target.block[0], ldb // target.block[1])
    _launch(_kernel(_source(target)), grid, target.threads, (lda, ldb, *sizes), [*arrays, d])
    return d[:m, :n]


@lru_cache(maxsize=64)
def _source(target: CudaTarget) -> str:
    return target.source()


@cache
def _kernel(text: str, name: str = "run") -> Any:
    return compiled(text).get_kernel(name)


def compiled(text: str) -> Any:
    """Return the machine code (a cubin) of a CUDA file, by NVRTC; needs no GPU."""
    try:
        from cuda.core import Program, ProgramOptions
    except ImportError as error:
        raise NoGpu("the GPU engine needs the extra `kernels` (torch, cuda-core)") from error
    return Program(text, "c++", ProgramOptions(arch="sm_90a", std="c++17", fma=False)).compile("cubin")


def _launch(kernel: Any, grid: tuple[int, int], threads: int, sizes: tuple[Any, ...], arrays: list[Any]) -> None:
    """Launch a kernel on torch's stream. Sizes have 32 bits unless they are np.int64; a missing array is a null pointer."""
    from cuda.core import Device, LaunchConfig, Stream, launch

    torch = _torch()
    Device(torch.cuda.current_device()).set_current()
    stream = Stream.from_handle(torch.cuda.current_stream().cuda_stream)
    pointers = [0 if x is None else x.data_ptr() for x in arrays]
    numbers = [size if isinstance(size, np.int64) else np.int32(size) for size in sizes]
    launch(stream, LaunchConfig(grid=grid, block=threads), kernel, *numbers, *pointers)
