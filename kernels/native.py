"""The chip's matrix instructions over whole matrices: D = A B + C, with a chain of instructions along K.

`matmul` issues the PTX instruction of a Hopper name in the catalogue. For `mma.sync`, one warp computes a tile and loads its
fragments from memory. For `wgmma`, one warpgroup computes a tile with A and B in shared memory, without swizzle. Nothing is
tuned: this is the chip's side of `codesign conform hopper --live`, not a GEMM. Needs the extra `kernels` and a Hopper GPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa_model.float64 import Codes
from isa_model.instruction import Instruction
from isa_model.library import is_known, load
from kernels.nvrtc import cubin

WIDTHS = {"f64": 64, "tf32": 32, "f16": 16, "bf16": 16, "e4m3": 8, "e5m2": 8, "s8": 8, "u8": 8, "s4": 4, "u4": 4}
"""Bits per operand element in memory."""


@dataclass(frozen=True)
class Mnemonic:
    """The parts of a Hopper instruction's name."""

    kind: str
    """`mma` or `wgmma`."""
    m: int
    n: int
    k: int
    d: str
    """PTX type of C and D."""
    a: str
    """PTX type of A."""
    b: str
    """PTX type of B."""
    satfinite: bool
    """True if integer sums saturate."""

    @property
    def k_bytes(self) -> int:
        """Bytes along K of one instruction."""
        return self.k * WIDTHS[self.a] // 8

    @property
    def c_bytes(self) -> int:
        """Bytes per element of C and D."""
        return {"f16": 2, "f32": 4, "s32": 4, "f64": 8}[self.d]


def parse(name: str) -> Mnemonic:
    """Parse a name of the catalogue. Raises ValueError unless it is a Hopper instruction."""
    pattern = r"hopper\.(mma|wgmma)\.m(\d+)n(\d+)k(\d+)\.(\w+)\.(\w+)\.(\w+)(?:\.(?!satfinite)\w+)?(\.satfinite)?"
    match = re.fullmatch(pattern, name)
    if match is None:
        raise ValueError(f"{name} is not a Hopper instruction")
    kind, m, n, k, d, a, b, satfinite = match.groups()
    return Mnemonic(kind, int(m), int(n), int(k), d, a, b, bool(satfinite))


def engine(spec: Instruction, a: Codes, b: Codes, c: Codes, *scales: Codes | None) -> Codes:
    """Compute an instruction on the current GPU: the engine `native` of isa_model.matmul, from codes to codes.

    M and N are padded with zeros to whole tiles. Raises ValueError unless the spec is a Hopper instruction exactly as in the
    catalogue, and without a Hopper GPU.
    """
    tile = parse(spec.name)
    if not is_known(spec.name) or spec != load(spec.name):
        raise ValueError(f"this spec differs from {spec.name} in the catalogue; the chip computes that one only")
    try:
        import cuda.core  # noqa: F401
        import torch
    except ImportError as error:
        raise ValueError("the native engine needs the extra `kernels` (torch, cuda-core)") from error
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        raise ValueError("the native engine needs a Hopper GPU (compute capability 9.0); none is visible")
    (m, n), rows, columns = c.shape, -len(c) % tile.m, -c.shape[1] % tile.n
    a, b = np.pad(a, ((0, rows), (0, 0))), np.pad(b, ((0, 0), (0, columns)))
    return matmul(spec.name, a, b, np.pad(c, ((0, rows), (0, columns))))[:m, :n]


def matmul(name: str, a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[Any]:
    """Return the codes of D = A B + C, computed by a Hopper instruction of the catalogue.

    `a` (M, K), `b` (K, N) and `c` (M, N) are codes in unsigned dtypes; 4-bit elements take a byte each. Raises ValueError
    for a name that is not a Hopper instruction, for sizes that are not whole tiles of it, and for other dtypes.
    """
    check(name, a, b, c)
    import torch
    from cuda.core import Device, LaunchConfig, Stream, launch

    instruction = parse(name)
    (m, k), n = a.shape, b.shape[1]

    def upload(x: NDArray[Any]) -> Any:
        return torch.from_numpy(np.require(x, requirements=["C", "W"]).view(np.uint8)).cuda()

    arrays = [upload(_packed(x, instruction)) for x in (a, b.T)] + [upload(c)]
    d = torch.empty_like(arrays[2])
    Device(torch.cuda.current_device()).set_current()
    stream = Stream.from_handle(torch.cuda.current_stream().cuda_stream)
    threads = 32 if instruction.kind == "mma" else 128
    config = LaunchConfig(grid=(m // instruction.m, n // instruction.n), block=threads)
    k_bytes = k * WIDTHS[instruction.a] // 8
    pointers = [x.data_ptr() for x in (*arrays, d)]
    launch(stream, config, _kernel(name), np.int32(n), np.int32(k_bytes), *pointers)
    result: NDArray[Any] = d.cpu().numpy().view(c.dtype).reshape(m, n)
    return result


def check(name: str, a: Any, b: Any, c: Any) -> None:
    """Raise ValueError for operands that the kernel of an instruction would misread."""
    instruction = parse(name)
    sizes = {"a": WIDTHS[instruction.a], "b": WIDTHS[instruction.b], "c": 8 * instruction.c_bytes}
    for operand, x in (("a", a), ("b", b), ("c", c)):
        dtype = np.dtype(f"u{max(sizes[operand], 8) // 8}")
        if not isinstance(x, np.ndarray) or x.ndim != 2 or x.dtype != dtype:
            found = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else f"of type {type(x).__name__}"
            raise ValueError(f"{operand} is {found}; {name} takes a matrix of {dtype} codes")
    (m, k), n = a.shape, b.shape[1]
    if b.shape[0] != k or c.shape != (m, n):
        raise ValueError(
            f"a, b and c must be (M, K), (K, N) and (M, N); they are a {a.shape}, b {b.shape}, c {c.shape}"
        )
    if not (m and n and k) or m % instruction.m or n % instruction.n or k % instruction.k:
        raise ValueError(f"{m} x {n} x {k} is not a whole number of tiles of {name}")


def _packed(x: NDArray[Any], instruction: Mnemonic) -> NDArray[Any]:
    """Return rows along K as the chip reads them: 4-bit elements in pairs, the first in the low half of a byte."""
    return x[:, ::2] & 15 | x[:, 1::2] << 4 if WIDTHS[instruction.a] == 4 else x


def compiled(name: str) -> bytes:
    """Return the machine code of an instruction's kernel; works without a GPU."""
    return cubin(source(parse(name)))


@cache
def _kernel(name: str) -> Any:
    from cuda.core import ObjectCode

    return ObjectCode.from_cubin(machine_code.pop(name, None) or compiled(name)).get_kernel("run")


machine_code: dict[str, bytes] = {}
"""Kernels compiled in advance, for instance in other processes, by name; `matmul` uses them."""


def source(instruction: Mnemonic) -> str:
    """Return the CUDA C++ of an instruction's kernel."""
    return _mma(instruction) if instruction.kind == "mma" else _wgmma(instruction)


# -- mma.sync --------------------------------------------------------------------------------------------------------


def _mma(i: Mnemonic) -> str:
    """Return the kernel of an mma.sync, with the fragments of the PTX ISA.

    With registers of U bytes and R groups of 8 rows, register r of A holds row lane / 4 + 8 (r % R), bytes U (lane % 4) +
    4 U (r / R) and on along K. B has one group of 8 columns. C has pairs of neighbours.
    """
    unit = 8 if i.d == "f64" else 4
    groups = i.m // 8
    na, nb = i.k_bytes * groups // (4 * unit), i.k_bytes // (4 * unit)
    pair = 2 * i.c_bytes // unit  # registers per two neighbours of C
    nc = groups * pair
    register = {8: "double", 4: "float" if i.d == "f32" else "unsigned"}[unit]
    bind = {"double": "d", "float": "f", "unsigned": "r"}[register]
    numbers = iter(range(nc + na + nb))
    d, a, b = (", ".join(f"%{next(numbers)}" for _ in range(count)) for count in (nc, na, nb))
    operand = "double" if unit == 8 else "unsigned"
    letter = "d" if unit == 8 else "r"
    outs = ", ".join(f'"+{bind}"(x[{j}])' for j in range(nc))
    ins = ", ".join([f'"{letter}"(p[{j}])' for j in range(na)] + [f'"{letter}"(q[{j}])' for j in range(nb)])
    types = f"{i.d}.{i.a}.{i.b}.{i.d}"
    saturate = ".satfinite" if i.satfinite else ""
    opcode = f"mma.sync.aligned.m{i.m}n{i.n}k{i.k}.row.col{saturate}.{types}"
    return f"""extern "C" __global__ void run(int n, int k_bytes, const char *a, const char *b, const char *c, char *d) {{
  const int l = threadIdx.x, row = blockIdx.x * {i.m} + l / 4, column = blockIdx.y * 8;
  {register} x[{nc}];
#define AT(r) (((long)(row + (r) / {pair} * 8) * n + column + l % 4 * 2) * {i.c_bytes} + (r) % {pair} * {unit})
  for (int r = 0; r < {nc}; ++r) x[r] = *(const {register} *)(c + AT(r));
  for (int k = 0; k < k_bytes; k += {i.k_bytes}) {{
    {operand} p[{na}], q[{nb}];
    const char *pa = a + (long)row * k_bytes + k + l % 4 * {unit};
    const char *pb = b + (long)(column + l / 4) * k_bytes + k + l % 4 * {unit};
    for (int r = 0; r < {na}; ++r) p[r] = *(const {operand} *)(pa + r % {groups} * 8l * k_bytes + r / {groups} * {4 * unit});
    for (int r = 0; r < {nb}; ++r) q[r] = *(const {operand} *)(pb + r * {4 * unit});
    asm volatile("{opcode} {{{d}}}, {{{a}}}, {{{b}}}, {{{d}}};" : {outs} : {ins});
  }}
  for (int r = 0; r < {nc}; ++r) *({register} *)(d + AT(r)) = x[r];
}}
"""


# -- wgmma -----------------------------------------------------------------------------------------------------------


def _wgmma(i: Mnemonic) -> str:
    """Return the kernel of a wgmma. Core matrices are 8 rows by 16 bytes; those of the first half of K come first."""
    register = {"f32": "float", "f16": "unsigned", "s32": "unsigned"}[i.d]
    bind = "f" if i.d == "f32" else "r"
    nc = i.n // 2 if i.c_bytes == 4 else i.n // 4
    pair = 2 * i.c_bytes // 4
    d = ", ".join(f"%{j}" for j in range(nc))
    outs = ", ".join(f'"+{bind}"(x[{j}])' for j in range(nc))
    # Operands after the descriptors and scale-d: signs of A and B for floating point, transposition for 16-bit types.
    immediates = {"e4m3": ", 1, 1", "e5m2": ", 1, 1", "tf32": ", 1, 1", "f16": ", 1, 1, 0, 0", "bf16": ", 1, 1, 0, 0"}
    saturate = ".satfinite" if i.satfinite else ""
    opcode = f"wgmma.mma_async.sync.aligned.m64n{i.n}k{i.k}.{i.d}.{i.a}.{i.b}{saturate}"
    instruction = f"{opcode} {{{d}}}, %{nc}, %{nc + 1}, 1{immediates.get(i.a, '')};"
    return f"""
__device__ unsigned long long descriptor(const void *p, int k_stride) {{
  const unsigned long long address = __cvta_generic_to_shared(p);
  return (address & 0x3FFFF) >> 4 | (unsigned long long)(k_stride >> 4) << 16 | (unsigned long long)(128 >> 4) << 32;
}}
/* Rows of 32 bytes into core matrices: row r, half h at ((h * rows / 8 + r / 8) * 8 + r % 8) * 16. */
__device__ void stage(char *to, const char *from, int rows, int pitch) {{
  for (int t = threadIdx.x; t < rows * 2; t += 128) {{
    const int r = t / 2, h = t % 2;
    *(int4 *)(to + ((h * (rows / 8) + r / 8) * 8 + r % 8) * 16) = *(const int4 *)(from + (long)r * pitch + h * 16);
  }}
}}
extern "C" __global__ void __launch_bounds__(128)
run(int n, int k_bytes, const char *a, const char *b, const char *c, char *d) {{
  __shared__ alignas(128) char sa[64 * 32], sb[{i.n} * 32];
  const int l = threadIdx.x % 32, row = blockIdx.x * 64 + threadIdx.x / 32 * 16 + l / 4, column = blockIdx.y * {i.n};
  a += (long)blockIdx.x * 64 * k_bytes; b += (long)column * k_bytes;
  {register} x[{nc}];
  const long at = (long)row * n + column + l % 4 * 2;
#define AT(r) ((at + (r) / {pair} % 2 * 8l * n + (r) / {2 * pair} * 8) * {i.c_bytes} + (r) % {pair} * 4)
#pragma unroll
  for (int r = 0; r < {nc}; ++r) x[r] = *(const {register} *)(c + AT(r));
  for (int k = 0; k < k_bytes; k += 32) {{
    __syncthreads();
    stage(sa, a + k, 64, k_bytes); stage(sb, b + k, {i.n}, k_bytes);
    asm volatile("fence.proxy.async;" ::: "memory");
    __syncthreads();
    const unsigned long long pa = descriptor(sa, 64 * 16), pb = descriptor(sb, {i.n} * 16);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile("{instruction}" : {outs} : "l"(pa), "l"(pb));
    asm volatile("wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;" ::: "memory");
  }}
#pragma unroll
  for (int r = 0; r < {nc}; ++r) *({register} *)(d + AT(r)) = x[r];
}}
"""
