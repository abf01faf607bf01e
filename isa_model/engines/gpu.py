"""The GPU engine: a spec's step as a CUDA kernel (cuda.py, tensor.py), built at run time by NVRTC.

Needs the extra `kernels` (torch holds the arrays, cuda-core compiles and launches) and an NVIDIA GPU; else `NoGpu`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache
from math import inf, isfinite
from typing import Any

import numpy as np

from isa_model.array_codec import code_dtype
from isa_model.engines import fma, routes, tensor
from isa_model.engines.cuda import CudaCores, CudaTarget
from isa_model.engines.launch import import_torch, kernel, launch
from isa_model.engines.operands import NestedScales, Scales, decode, decode_scales, joined, of_side, read
from isa_model.engines.packing import PackedOperand, halves, packed
from isa_model.engines.plan import Plan, Unsupported
from isa_model.float64 import Codes
from isa_model.formats import Format
from isa_model.ieee import in_ieee_mode
from isa_model.instruction import Instruction


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
    torch = import_torch()

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
    spec: Instruction,
    a: Any,
    b: Any,
    c: Any = None,
    scale_a: Any = None,
    scale_b: Any = None,
    *,
    seed: int = 0,
    factor: Any = None,
) -> Any:
    """Return D as `matmul` does, for torch tensors of codes on the GPU (int8 to int64): int32 codes, int64 for FP64.

    Raises plan.Unsupported and NoGpu as `matmul` does, and ValueError for tensors of another shape, dtype or device. Bits of
    a code above the format's are ignored. `a` and `b` may be `PackedOperand`s of the same spec. With a `factor` (FP32, one
    number) and an FP32 accumulator, D's numbers times it are returned, rounded to BF16.
    """
    torch = import_torch()
    given = a, b
    a, b = (x.codes if isinstance(x, PackedOperand) else x for x in given)
    if spec.sparsity:
        raise Unsupported("a sparse operand: `isa_model.matmul` multiplies it line by line")
    if spec.codebook:
        raise Unsupported("an operand of indices: `isa_model.matmul` looks its elements up")
    check_tensors(spec, a, b, c, scale_a, scale_b)
    if factor is not None:
        if spec.accumulator.name != "fp32":
            raise ValueError(f"factor is for FP32 accumulators; {spec.name} has {spec.accumulator.name}")
        d = _product(spec, *given, c, scale_a, scale_b, seed, factor)
        return d if d.dtype == torch.bfloat16 else (d.view(torch.float32) * factor).to(torch.bfloat16)
    return _product(spec, *given, c, scale_a, scale_b, seed, None)


def _product(spec: Instruction, a: Any, b: Any, c: Any, scale_a: Any, scale_b: Any, seed: int, factor: Any) -> Any:
    """Return the codes of D; D times `factor` in BF16 if a kernel does both."""
    torch = import_torch()
    given = a, b
    a, b = (x.codes if isinstance(x, PackedOperand) else x for x in given)
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
        d = _on_tensor_cores(plan, way, *given, c, scale_a, scale_b, seed, factor)
        if d is not None:
            return d
    return _on_cuda_cores(plan, a, b, c, scale_a, scale_b, seed)


def pack(spec: Instruction, codes: Any, is_a: bool) -> Any:
    """Return A (M, K) or B (K, N) as a `PackedOperand`, or the codes if no packing serves every product.

    Raises plan.Unsupported and NoGpu as `matmul` does.
    """
    here = import_torch().cuda.current_device()
    if spec.sparsity or fma.is_chain(spec) or codes.device.index != here:
        return codes
    plan, way = _planned(spec)
    if way is None or way.cut != "half" or not _is_hopper():
        return codes
    return PackedOperand(codes, way, *halves(plan, way, is_a, codes if is_a else codes.T))


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
    torch = import_torch()
    x, y = (v.contiguous().view(torch.float64) for v in (a.T, b))
    (k, m), n = x.shape, y.shape[1]
    d = (
        torch.zeros((m, n), dtype=torch.float64, device="cuda")
        if c is None
        else c.contiguous().view(torch.float64).clone()
    )
    launch(kernel(fma.SOURCE), (-(-m // 64), -(-n // 64)), 256, (m, n, k), [x, y, d])
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
    plan: Plan, way: routes.Route, a: Any, b: Any, c: Any, scale_a: Any, scale_b: Any, seed: int, factor: Any
) -> Any:
    """Return D as `_product` does, computed on the Tensor Cores; None if only digits would do and operands are not finite."""
    torch, spec = import_torch(), plan.spec
    (m, k), n = a.shape, b.shape[1]
    start = None if c is None else read(spec.c_format, c, spec.flush_c)
    unit, largest = (inf, 0.0) if start is None else _extent(start)
    if way.cut == "half" and len(spec.stages) == 1 and not routes.suits(plan, way, k, unit, largest):
        way = replace(way, whole=False)
    kept = [x if isinstance(x, PackedOperand) and x.way == way else None for x in (a, b)]
    a, b = (x.codes if isinstance(x, PackedOperand) else x for x in (a, b))
    operands = [(True, a), (False, b.T)]
    cut = []
    if routes.with_digits(plan, way, 0.0, inf):
        most = torch.zeros(2, dtype=torch.int32, device="cuda")
        digits = replace(way, cut="digits")
        cut = [packed(plan, digits, *operand, "cut", most[i:]) for i, operand in enumerate(operands)]
        products = float(most.view(torch.float32).prod()) * k
        bound = 2 * (products + largest)  # twice, since a register may round sums up
        found = routes.with_digits(plan, way, bound if isfinite(bound) else inf, unit)
        if found is None and way.cut == "digits":
            return None
        way = found or way
    if way.cut == "half":
        pairs = [
            (x.cut, x.powers) if x else halves(plan, way, *operand) for x, operand in zip(kept, operands, strict=True)
        ]
        cut, powers = [list(x) for x in zip(*pairs, strict=True)]
    else:
        if way.cut != "digits":
            cut = [packed(plan, way, *operand, "cut") for operand in operands]
        powers = [packed(plan, way, *operand, "powers") if way.step else None for operand in operands]
    target = tensor.TensorCores(plan, way)
    scales: list[Any] = []
    for is_a, codes, columns in zip((True, False), (scale_a, scale_b), target.filled(m, n), strict=True):
        _, scale, _, group = of_side(spec, is_a)
        scales += [None, None] if scale is None else decode_scales(scale, codes.T if is_a else codes, columns, group)
    c_values = None if start is None else _start(target, start)
    arrays = [cut[0], powers[0], cut[1], powers[1], *scales, c_values]
    if factor is not None and target.state == "float":
        target = replace(target, rounded=True)
        arrays.append(factor)
    return _run(target, m, n, (k, k // plan.first.terms, *_seeds(target, seed)), arrays)


def _extent(start: Any) -> tuple[float, float]:
    """Return a power of two that divides all numbers of C (of at most 24 bits), and the largest magnitude or infinity."""
    torch = import_torch()
    largest = float(start.abs().max())
    if not isfinite(largest):
        return 0.0, inf
    significand, exponent = torch.frexp(start)
    whole = (significand * 2.0**24).to(torch.int64)
    unit = exponent - 24 + torch.log2((whole & -whole).to(torch.float64)).to(torch.int32)
    return 2.0 ** int(torch.where(whole == 0, 999, unit).min()), largest


@cache
def _is_hopper() -> bool:
    return bool(import_torch().cuda.get_device_capability() == (9, 0))


# -- on CUDA cores ---------------------------------------------------------------------------------------------------


def _on_cuda_cores(plan: Plan, a: Any, b: Any, c: Any, scale_a: Any, scale_b: Any, seed: int) -> Any:
    torch, spec, target = import_torch(), plan.spec, CudaCores(plan)
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
    torch = import_torch()
    k, columns = values.shape
    negative = torch.signbit(values)
    words = torch.zeros((-(-k // 32) * 32, columns), dtype=torch.int64, device="cuda")
    words[:k] = negative
    words = words.view(-1, 32, columns) << torch.arange(32, device="cuda")[None, :, None]
    flags = (~torch.isfinite(values)).view(-1, step, columns).any(dim=1).to(torch.uint8)
    return values.abs(), -negative.to(torch.int32), words.sum(dim=1).to(torch.int32), flags


# -- on either -------------------------------------------------------------------------------------------------------


def _padded(x: Any, rows: int, columns: int) -> Any:
    """Return a matrix filled up with zeros."""
    return import_torch().nn.functional.pad(x, (0, columns - x.shape[1], 0, rows - x.shape[0])).contiguous()


def _start(target: CudaTarget, c: Any) -> Any:
    """Return the numbers of C as a kernel reads them."""
    torch = import_torch()
    return _padded(c.to(torch.float32 if target.state == "float" else torch.float64), *target.filled(*c.shape))


def _seeds(target: CudaTarget, seed: int) -> tuple[Any, ...]:
    """Return the seed as a kernel that draws random bits takes it."""
    return (np.array(seed, np.uint64).astype(np.int64)[()],) if target.seed else ()


def _run(target: CudaTarget, m: int, n: int, sizes: tuple[Any, ...], arrays: list[Any]) -> Any:
    """Return D (m, n) of a target's kernel, in int32 or BF16."""
    torch = import_torch()
    lda, ldb = target.filled(m, n)
    rounded = isinstance(target, tensor.TensorCores) and target.rounded
    d = torch.empty((lda, ldb), dtype=torch.bfloat16 if rounded else torch.int32, device="cuda")
    grid = (lda // target.block[0], ldb // target.block[1])
    launch(kernel(_source(target)), grid, target.threads, (lda, ldb, *sizes), [*arrays, d])
    return d[:m, :n]


@lru_cache(maxsize=64)
def _source(target: CudaTarget) -> str:
    return target.source()
