"""The compiled GPU engine: a spec's step as a CUDA kernel (cuda.py), built at run time by NVRTC.

Needs the extra `kernels` (torch holds the arrays, cuda-core compiles and launches) and an NVIDIA GPU; else `NoGpu`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import inf, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa_model.array_codec import code_dtype, values_of, values_of_all_codes
from isa_model.engines import fma, routes, tensor
from isa_model.engines.cuda import CudaCores
from isa_model.engines.fragments import fragments
from isa_model.engines.operands import OPERAND_NO_EXPONENT, Operand, of_side
from isa_model.engines.plan import Plan, Unsupported
from isa_model.float64 import NO_EXPONENT, Codes, Float64, exponent_of
from isa_model.formats import Format
from isa_model.ieee import in_ieee_mode
from isa_model.instruction import Instruction


class NoGpu(ValueError):
    """This machine cannot run the GPU engine."""


def matmul(
    spec: Instruction, a: Codes, b: Codes, c: Codes, scale_a: Codes | None = None, scale_b: Codes | None = None
) -> Codes:
    """D as raw codes, from raw codes: `a` (M, K), `b` (K, N), `c` (M, N), scales one per group; numpy in and out.

    Raises plan.Unsupported for a spec whose values doubles cannot carry exactly, NoGpu without an NVIDIA GPU.
    """
    torch = _torch()
    signed = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}

    def upload(x: Codes | None) -> Any:
        if x is None:
            return None
        x = np.require(x, requirements=["C", "W"])  # torch warns of arrays that cannot be written
        return torch.from_numpy(x.view(signed[x.itemsize])).cuda()

    d = matmul_on_device(spec, *(upload(x) for x in (a, b, c, scale_a, scale_b))).cpu().numpy()
    codes: Codes = d.view(f"u{d.itemsize}").astype(code_dtype(spec.accumulator))
    return codes


@in_ieee_mode
def matmul_on_device(spec: Instruction, a: Any, b: Any, c: Any = None, scale_a: Any = None, scale_b: Any = None) -> Any:
    """The same on the GPU: torch tensors of codes (uint8 to int64) in, int32 codes (M, N) out, int64 of FP64.

    Raises plan.Unsupported and NoGpu as `matmul` does, and ValueError for tensors of another shape, dtype or device. Bits of
    a code above the format's are ignored.
    """
    torch = _torch()
    check_tensors(spec, a, b, c, scale_a, scale_b)
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
        d = _on_tensor_cores(plan, way, a, b, c, scale_a, scale_b)
        if d is not None:
            return d
    target = CudaCores(plan)
    kernel = _kernel(target.source())
    (m, k), n = a.shape, b.shape[1]
    rows, columns = target.block
    x: Any = _side(plan, True, a.T, None if scale_a is None else scale_a.T, rows)
    y: Any = _side(plan, False, b, scale_b, columns)
    lda, ldb = x.values.shape[1], y.values.shape[1]
    # An exponent of A meets two of B at once.
    pairs = x.exponents.to(torch.int32)
    pairs = (pairs & 0xFFFF) | (pairs << 16)
    kind = torch.float32 if target.state == "float" else torch.float64
    start = torch.zeros((lda, ldb), dtype=kind, device="cuda")
    if c is not None:
        start[:m, :n] = _numbers(spec.c_format, c, spec.flush_inputs)
    d = torch.empty((lda, ldb), dtype=torch.int32, device="cuda")
    scales = [x.scales, x.scale_exponents, y.scales, y.scale_exponents]
    arrays = [x.values, pairs, y.values, y.exponents, *scales, *([None] * 6), start, d]
    if target.lane == "float":
        (arrays[0], *of_a), (arrays[2], *of_b) = (_signs(v.values, plan.spec.shape.k) for v in (x, y))
        arrays[8:14] = [array for pair in zip(of_a, of_b, strict=True) for array in pair]
    _launch(kernel, (lda // rows, ldb // columns), target.threads, (lda, ldb, k), arrays)
    return d[:m, :n]


def check_tensors(spec: Instruction, a: Any, b: Any, c: Any, scale_a: Any, scale_b: Any) -> None:
    """Raise ValueError, with the argument's name and shape, for tensors that the engine would read amiss."""
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
        if x is None and (name == "c" or fmt is None):
            continue
        if fmt is None:
            raise ValueError(f"{name} is given, but the instruction takes none")
        if not isinstance(x, torch.Tensor):
            raise ValueError(f"{name} is of type {type(x).__name__}; a torch tensor of codes is asked")
        about = f"{name} is {x.dtype} {tuple(x.shape)} on {x.device}"
        if x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == torch.bool:
            raise ValueError(f"{about}; codes are asked, in integers of {fmt.storage_bits} bits (tensor.view)")
        if x.element_size() * 8 != fmt.storage_bits:
            raise ValueError(f"{about}; {fmt.name} has codes of {fmt.storage_bits} bits")
        if x.dim() != 2 or x.device != a.device:
            raise ValueError(f"{about}; matrices on one device are asked, and a is on {a.device}")
    (m, k), (of_b, n) = a.shape, b.shape
    if of_b != k or k % spec.shape.k or not k:
        raise ValueError(f"a is {(m, k)} and b is {(of_b, n)}: one K is asked, a multiple of {spec.shape.k}")
    if c is not None and c.shape != (m, n):
        raise ValueError(f"c is {tuple(c.shape)}; a {(m, k)} and b {(k, n)} make it {(m, n)}")
    for name, x, side, shape in (("scale_a", scale_a, sides[0], (m, k)), ("scale_b", scale_b, sides[1], (k, n))):
        if side is not None:
            expected = tuple(-(-size // group) for size, group in zip(shape, side.group, strict=True))
            if tuple(x.shape) != expected:
                raise ValueError(f"{name} is {tuple(x.shape)}; groups of {side.group} over {shape} make it {expected}")


def _chained(spec: Instruction, a: Any, b: Any, c: Any) -> Any:
    """FP64 as fused multiply-adds, which the chip has; every NaN is the spec's."""
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
    """The plan of a spec and its way; of specs seen lately, from memory."""
    known = _plans.get(id(spec))
    if known is None or known[0] is not spec:
        if len(_plans) >= 64:
            _plans.clear()
        plan = Plan(spec)
        known = _plans[id(spec)] = (spec, plan, routes.route(plan))
    return known[1:]


_plans: dict[int, tuple[Instruction, Plan, routes.Route | None]] = {}


# -- on the Tensor Cores ---------------------------------------------------------------------------------------------


def _on_tensor_cores(plan: Plan, way: routes.Route, a: Any, b: Any, c: Any, scale_a: Any, scale_b: Any) -> Any:
    """D by way of the Tensor Cores, or None where there is no other way than digits and operands are not finite."""
    torch = _torch()
    spec = plan.spec
    (m, k), n = a.shape, b.shape[1]
    start = None if c is None else _numbers(spec.c_format, c, spec.flush_inputs)
    unit, largest = (inf, 0.0) if start is None else _extent(start)
    if way.cut == "half" and len(spec.stages) == 1 and not routes.suits(plan, way, k, unit, largest):
        way = replace(way, whole=False)
    operands = [(True, a, m), (False, b.T, n)]
    cut = []
    if routes.with_limbs(plan, way, 0.0, inf):
        most = torch.zeros(2, dtype=torch.int32, device="cuda")
        digits = replace(way, cut="limbs")
        cut = [_packed(plan, digits, *operand, "cut", most[i:]) for i, operand in enumerate(operands)]
        products = float(most.view(torch.float32).prod()) * k
        bound = 2 * (products + largest)  # twice: a register may round sums up a little
        found = routes.with_limbs(plan, way, bound if isfinite(bound) else inf, unit)
        if found is None and way.cut == "limbs":
            return None
        way = found or way
    if way.cut != "limbs":
        cut = [_packed(plan, way, *operand, "cut") for operand in operands]
    powers = [_packed(plan, way, *operand, "powers") if way.step else None for operand in operands]
    target = tensor.TensorCores(plan, way)
    rows, columns = target.block
    lda, ldb = m + -m % rows, n + -n % columns
    scales_a = _scales(plan, True, None if scale_a is None else scale_a.T, m, lda)
    scales_b = _scales(plan, False, scale_b, n, ldb)
    if start is not None:
        kind = torch.float32 if target.state == "float" else torch.float64
        start = torch.nn.functional.pad(start.to(kind), (0, ldb - n, 0, lda - m)).contiguous()
    d = torch.empty((lda, ldb), dtype=torch.int32, device="cuda")
    blocks = k // plan.first.terms
    arrays = [cut[0], powers[0], cut[1], powers[1], *scales_a, *scales_b, start, d]
    grid = (lda // rows, ldb // columns)
    _launch(_kernel(tensor.source(plan, way)), grid, target.threads, (lda, ldb, k, blocks), arrays)
    return d[:m, :n]


def _extent(start: Any) -> tuple[float, float]:
    """A power of two that all numbers of C (of at most 24 bits) are multiples of, and the largest magnitude, or infinity."""
    torch = _torch()
    largest = float(start.abs().max())
    if not isfinite(largest):
        return 0.0, inf
    significand, exponent = torch.frexp(start)
    whole = (significand * 2.0**24).to(torch.int64)
    unit = exponent - 24 + torch.log2((whole & -whole).to(torch.float64)).to(torch.int32)
    return 2.0 ** int(torch.where(whole == 0, 999, unit).min()), largest


def _packed(plan: Plan, way: routes.Route, is_a: bool, codes: Any, size: int, what: Any, most: Any = None) -> Any:
    """A (M, K), or B as (N, K), in the layout of tensor.Fragments; `most` takes the largest magnitude as FP32."""
    torch = _torch()
    spec, f = plan.spec, fragments(plan, way, is_a, what)
    fmt = spec.a if is_a else spec.b
    blocks = codes.shape[1] // f.terms
    tile = tensor.TensorCores(plan, way).block[0 if is_a else 1]
    words = -(-size // tile) * tile // (8 * f.halves) * blocks * 32 * f.registers
    out = torch.empty(words, dtype=torch.int32, device="cuda")
    step, shift = (way.step, routes.power_shifts(plan, way.step)[0 if is_a else 1]) if what == "powers" else (0, 0)
    table = _words(fmt, spec.widen or fmt, spec.flush_inputs, f.elements, step, shift)
    text = f.pack(codes.element_size(), fmt.storage_bits)
    places = words // f.limbs
    sizes = (np.int64(places), blocks, size, *(np.int64(stride) for stride in codes.stride()))
    _launch(_kernel(text, "pack"), (-(-places // 256), 1), 256, sizes, [table, codes, out, most])
    return out


@cache
def _words(fmt: Format, aligned_as: Format, flush: bool, elements: int, step: int, shift: int) -> Any:
    """What stands for each code, then its magnitude in FP32: 2**(step * exponent + shift) if there is a step, else the
    number; in digits, the lowest first, where four elements share a word, in BF16 where two do, else as the upper half
    of FP64."""
    values = values_of_all_codes(fmt)
    if flush:
        values = np.where(np.abs(values) < 2.0**fmt.min_exponent, 0.0, values)
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
    """Finite numbers of a format as digits to the base 256, each from -128 to 127, the lowest first (routes.limbs)."""
    left = (values * 2.0**-fmt.min_lsb_exponent).astype(np.int64)
    digits = []
    for _ in range(routes.limbs(fmt)):
        digits.append((left + 128 & 255) - 128)
        left = left - digits[-1] >> 8
    return digits


def _scales(plan: Plan, is_a: bool, codes: Any, columns: int, size: int) -> tuple[Any, Any]:
    """Group scales of an operand's columns and their exponents, filled up with zeros; None where there are none."""
    torch = _torch()
    _, scale, _, group = of_side(plan.spec, is_a)
    if scale is None:
        return None, None
    scales = _numbers(scale.format, codes, False)[:, torch.arange(columns, device="cuda") // group]
    scales = torch.nn.functional.pad(scales, (0, size - columns)).contiguous()
    return scales, _exponents(scale.format, scales)


@cache
def _is_hopper() -> bool:
    return bool(_torch().cuda.get_device_capability() == (9, 0))


# -- on CUDA cores ---------------------------------------------------------------------------------------------------


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise NoGpu("the GPU engine needs the extra `kernels` (torch, cuda-core)") from error
    if not torch.cuda.is_available():
        raise NoGpu("no NVIDIA GPU is visible here")
    return torch


def _side(plan: Plan, is_a: bool, codes: Any, scale_codes: Any, tile: int) -> Operand:
    """operands.side on the GPU, columns filled up with zeros to a whole number of tiles."""
    torch = _torch()
    fmt, scale, k_group, _ = of_side(plan.spec, is_a)
    columns = codes.shape[1]
    fill = -columns % tile
    if fill:
        codes = torch.nn.functional.pad(codes, (0, fill))
    values = _numbers(fmt, codes, plan.spec.flush_inputs)
    exponents = _exponents(plan.spec.widen or fmt, values)
    scales = scale_exponents = None
    if scale is not None:
        scales, scale_exponents = _scales(plan, is_a, scale_codes, columns, columns + fill)
        if plan.scales_fold:
            of_k = torch.arange(values.shape[0], device="cuda") // k_group
            values = values * scales[of_k]
            both = (exponents == NO_EXPONENT) | (scale_exponents[of_k] == NO_EXPONENT)
            exponents = torch.where(both, NO_EXPONENT, exponents + scale_exponents[of_k])
            scales = scale_exponents = None
    kind = torch.float32 if CudaCores(plan).lane == "float" else torch.float64
    short = exponents.clamp(min=OPERAND_NO_EXPONENT).to(torch.int16)
    return Operand(values.to(kind).contiguous(), short.contiguous(), scales, scale_exponents)


def _signs(values: Any, step: int) -> tuple[Any, Any, Any, Any]:
    """What the loop on float lanes reads: magnitudes, sign masks, sign words, and flags of steps with specials."""
    torch = _torch()
    k, columns = values.shape
    negative = torch.signbit(values)
    words = torch.zeros((-(-k // 32) * 32, columns), dtype=torch.int64, device="cuda")
    words[:k] = negative
    words = words.view(-1, 32, columns) << torch.arange(32, device="cuda")[None, :, None]
    flags = (~torch.isfinite(values)).view(-1, step, columns).any(dim=1).to(torch.uint8)
    return values.abs(), -negative.to(torch.int32), words.sum(dim=1).to(torch.int32), flags


def _numbers(fmt: Format, codes: Any, flush: bool) -> Any:
    """The numbers of codes, as float64 on the GPU."""
    torch = _torch()
    if fmt.storage_bits <= 16:
        index = codes.to(torch.int32) & ((1 << fmt.storage_bits) - 1)
        values = _table(fmt)[index]
    elif fmt.name in ("fp32", "tf32"):
        values = (codes & ~((1 << fmt.low_padding) - 1)).contiguous().view(torch.float32).to(torch.float64)
    else:
        values = torch.from_numpy(values_of(fmt, codes.cpu().numpy().view(code_dtype(fmt)))).cuda()
    return torch.where(values.abs() < 2.0**fmt.min_exponent, 0.0, values) if flush else values


@cache
def _table(fmt: Format) -> Any:
    return _torch().tensor(values_of_all_codes(fmt)).cuda()


def _exponents(fmt: Format, values: Any) -> Any:
    """lanes.exponent_of on the GPU, int32."""
    torch = _torch()
    if fmt.kind == "integer":
        return torch.where(values == 0, NO_EXPONENT, 0).to(torch.int32)
    field = (values.view(torch.int64) >> 52 & 0x7FF) - 1023
    nothing = (values == 0) | ~torch.isfinite(values)
    return torch.where(nothing, NO_EXPONENT, field.clamp(min=fmt.min_exponent)).to(torch.int32)


@cache
def _kernel(text: str, name: str = "run") -> Any:
    return compiled(text, "cubin").get_kernel(name)


def compiled(text: str, kind: str) -> Any:
    """Machine code (`cubin`) or assembly (`ptx`) of a CUDA file, by NVRTC; works without a GPU."""
    try:
        from cuda.core import Program, ProgramOptions
    except ImportError as error:
        raise NoGpu("the GPU engine needs the extra `kernels` (torch, cuda-core)") from error
    return Program(text, "c++", ProgramOptions(arch="sm_90a", std="c++17", fma=False)).compile(kind)


def _launch(kernel: Any, grid: tuple[int, int], threads: int, sizes: tuple[Any, ...], arrays: list[Any]) -> None:
    """Launch on torch's stream; sizes are 32-bit unless numpy says else, a missing array is a null pointer."""
    from cuda.core import Device, LaunchConfig, Stream, launch

    torch = _torch()
    Device(torch.cuda.current_device()).set_current()
    stream = Stream.from_handle(torch.cuda.current_stream().cuda_stream)
    pointers = [0 if x is None else x.data_ptr() for x in arrays]
    numbers = [size if isinstance(size, np.int64) else np.int32(size) for size in sizes]
    launch(stream, LaunchConfig(grid=grid, block=threads), kernel, *numbers, *pointers)
