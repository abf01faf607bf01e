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

from isa_model.diagnostics import Unavailable
from isa_model.float64 import Codes
from isa_model.instruction import Instruction
from isa_model.library import is_known, load
from kernels.nvrtc import cubin

WIDTHS = {
    "f64": 64,
    "tf32": 32,
    "f16": 16,
    "bf16": 16,
    "e4m3": 8,
    "e5m2": 8,
    "s8": 8,
    "u8": 8,
    "s4": 4,
    "u4": 4,
    "b1": 1,
}
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
    suffix: str
    """Rest of the name: `.satfinite` if integer sums saturate, `.and.popc` for single bits."""
    sparse: bool = False
    """True if A is stored without half of its elements."""

    @property
    def b_bytes(self) -> int:
        """Bytes of B along K of one instruction."""
        return self.k * WIDTHS[self.b] // 8

    @property
    def a_bytes(self) -> int:
        """Bytes of A along K of one instruction, as it is stored."""
        return self.b_bytes // (2 if self.sparse else 1)

    @property
    def nibbles(self) -> int:
        """Number of 4-bit fields of metadata per row of A: one per group of 4 elements (2 of TF32, 8 of 4 bits)."""
        return self.k // {32: 2, 16: 4, 8: 4, 4: 8}[WIDTHS[self.a]]

    @property
    def c_bytes(self) -> int:
        """Bytes per element of C and D."""
        return {"f16": 2, "f32": 4, "s32": 4, "f64": 8}[self.d]


def check_gpu() -> None:
    """Raise Unavailable unless this machine has a Hopper GPU."""
    import cuda.core  # noqa: F401
    import torch

    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        raise Unavailable("no Hopper GPU (compute capability 9.0) is visible here")


def parse(name: str) -> Mnemonic:
    """Parse a name of the catalogue. Raises ValueError unless it is a Hopper instruction."""
    pattern = (
        r"hopper\.(mma|wgmma)(\.sp)?\.m(\d+)n(\d+)k(\d+)\.(\w+)\.(\w+)\.(\w+)(?:\.(?!satfinite|and)\w+)?"
        r"(\.satfinite|\.and\.popc)?"
    )
    match = re.fullmatch(pattern, name)
    if match is None:
        raise ValueError(f"{name} is not a Hopper instruction")
    kind, sparse, m, n, k, d, a, b, suffix = match.groups()
    return Mnemonic(kind, int(m), int(n), int(k), d, a, b, suffix or "", bool(sparse))


def engine(
    spec: Instruction,
    a: Codes,
    b: Codes,
    c: Codes,
    scale_a: Codes | None = None,
    scale_b: Codes | None = None,
    positions: Codes | None = None,
) -> Codes:
    """Compute an instruction on the current GPU: the engine `native` of isa_model.matmul, from codes to codes.

    M and N are padded with zeros to whole tiles, and rows of `positions` with the last one. Raises ValueError unless the
    spec is a Hopper instruction exactly as in the catalogue, and without a Hopper GPU.
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
    places = None if positions is None else np.pad(positions, ((0, rows), (0, 0)), mode="edge")
    return matmul(spec.name, a, b, np.pad(c, ((0, rows), (0, columns))), places)[:m, :n]


def matmul(
    name: str, a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], positions: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Return the codes of D = A B + C, computed by a Hopper instruction of the catalogue.

    `a` (M, K), `b` (K, N) and `c` (M, N) are codes in unsigned dtypes; an element of fewer than 8 bits takes a byte. A sparse
    instruction takes half as many columns of `a`, and `positions` (M, K / 2) of them in their groups; of 4-bit elements, of
    each pair.
    Raises ValueError for a name that is not a Hopper instruction, for sizes that are not whole tiles of it, and for other
    dtypes.
    """
    check(name, a, b, c, positions)
    import torch
    from cuda.core import Device, LaunchConfig, Stream, launch

    instruction = parse(name)
    m, (k, n) = len(a), b.shape

    def upload(x: NDArray[Any]) -> Any:
        return torch.from_numpy(np.require(x, requirements=["C", "W"]).view(np.uint8)).cuda()

    arrays = [upload(_packed(x, instruction)) for x in (a, b.T)] + [upload(c)]
    metadata = upload(_metadata(instruction, positions)) if positions is not None else None
    d = torch.empty_like(arrays[2])
    Device(torch.cuda.current_device()).set_current()
    stream = Stream.from_handle(torch.cuda.current_stream().cuda_stream)
    threads = 32 if instruction.kind == "mma" else 128
    config = LaunchConfig(grid=(m // instruction.m, n // instruction.n), block=threads)
    k_bytes = k * WIDTHS[instruction.b] // 8
    pointers = [x.data_ptr() for x in (*arrays, d)] + [0 if metadata is None else metadata.data_ptr()]
    launch(stream, config, _kernel(name), np.int32(n), np.int32(k_bytes), *pointers)
    result: NDArray[Any] = d.cpu().numpy().view(c.dtype).reshape(m, n)
    return result


def check(name: str, a: Any, b: Any, c: Any, positions: Any = None) -> None:
    """Raise ValueError for operands that the kernel of an instruction would misread."""
    instruction = parse(name)
    sizes = {"a": WIDTHS[instruction.a], "b": WIDTHS[instruction.b], "c": 8 * instruction.c_bytes}
    for operand, x in (("a", a), ("b", b), ("c", c)):
        dtype = np.dtype(f"u{max(sizes[operand], 8) // 8}")
        if not isinstance(x, np.ndarray) or x.ndim != 2 or x.dtype != dtype:
            found = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else f"of type {type(x).__name__}"
            raise ValueError(f"{operand} is {found}; {name} takes a matrix of {dtype} codes")
    m, (k, n) = len(a), b.shape
    if a.shape[1] * (2 if instruction.sparse else 1) != k or c.shape != (m, n):
        stored = "K / 2" if instruction.sparse else "K"
        raise ValueError(
            f"a, b and c must be (M, {stored}), (K, N) and (M, N); they are a {a.shape}, b {b.shape}, c {c.shape}"
        )
    if instruction.sparse:
        each = 2 if WIDTHS[instruction.a] == 4 else 1
        most = 2 if WIDTHS[instruction.a] == 32 else 4
        expected = (m, k // 2 // each)
        if not isinstance(positions, np.ndarray) or positions.shape != expected or positions.dtype != np.uint8:
            raise ValueError(f"{name} takes positions in bytes, of shape {expected}")
        if positions.size and positions.max() >= most:
            raise ValueError(f"positions of {name} are below {most}")
    elif positions is not None:
        raise ValueError(f"{name} is not sparse: it takes no positions")
    if not (m and n and k) or m % instruction.m or n % instruction.n or k % instruction.k:
        raise ValueError(f"{m} x {n} x {k} is not a whole number of tiles of {name}")


def _packed(x: NDArray[Any], instruction: Mnemonic) -> NDArray[Any]:
    """Return rows along K as the chip reads them: elements of 4 bits and of 1 share bytes, the first in the low bits."""
    if WIDTHS[instruction.a] == 1:
        return np.packbits(x, axis=1, bitorder="little")
    return x[:, ::2] & 15 | x[:, 1::2] << 4 if WIDTHS[instruction.a] == 4 else x


def _metadata(i: Mnemonic, positions: NDArray[Any]) -> NDArray[Any]:
    """Return the metadata word of each thread, (M / rows, K / k, threads), for the sparsity selector 0.

    A group of 4 elements has a nibble, with the position of its first element in the low half. TF32, with groups of 2, is
    described as pairs of 16 bits. Words hold 8 nibbles of a row (16 and 32 bits: 4 of each of two rows, 8 rows apart), and go
    to the first threads of the four that share a row.
    """
    pairs = positions.repeat(2, axis=1) * 2 + np.tile([0, 1], positions.shape) if WIDTHS[i.a] == 32 else positions
    nibbles = (pairs[:, ::2] | pairs[:, 1::2] << 2).astype(np.uint32)
    warps = 1 if i.kind == "mma" else 4
    run = 8 if WIDTHS[i.a] <= 8 else 4
    split = nibbles.reshape(len(nibbles) // (16 * warps), warps, 2, 8, -1, i.nibbles // run, run)
    fields = split.transpose(0, 4, 1, 3, 5, 2, 6)
    words = (fields.reshape(*fields.shape[:4], -1, 8) << np.arange(0, 32, 4).astype(np.uint32)).sum(
        axis=-1, dtype=np.uint32
    )
    full = np.zeros((*words.shape[:4], 4), np.uint32)
    full[..., : words.shape[4]] = words
    return full


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
    na, nb = i.a_bytes * groups // (4 * unit), i.b_bytes // (4 * unit)
    pair = 2 * i.c_bytes // unit  # registers per two neighbours of C
    nc = groups * pair
    register = {8: "double", 4: "float" if i.d == "f32" else "unsigned"}[unit]
    bind = {"double": "d", "float": "f", "unsigned": "r"}[register]
    numbers = iter(range(nc + na + nb + i.sparse))
    d, a, b = (", ".join(f"%{next(numbers)}" for _ in range(count)) for count in (nc, na, nb))
    operand = "double" if unit == 8 else "unsigned"
    letter = "d" if unit == 8 else "r"
    outs = ", ".join(f'"+{bind}"(x[{j}])' for j in range(nc))
    ins = ", ".join([f'"{letter}"(p[{j}])' for j in range(na)] + [f'"{letter}"(q[{j}])' for j in range(nb)])
    types = f"{i.d}.{i.a}.{i.b}.{i.d}"
    saturate, popc = (i.suffix, "") if i.suffix == ".satfinite" else ("", i.suffix)
    sparse = ".sp::ordered_metadata" if i.sparse else ""
    opcode = f"mma{sparse}.sync.aligned.m{i.m}n{i.n}k{i.k}.row.col{saturate}.{types}{popc}"
    metadata = f", %{next(numbers)}, 0" if i.sparse else ""
    if i.sparse:
        ins += f', "r"(e[((long)blockIdx.x * (k_bytes / {i.b_bytes}) + k / {i.b_bytes}) * 32 + l])'
    return f"""extern "C" __global__ void
run(int n, int k_bytes, const char *a, const char *b, const char *c, char *d, const unsigned *e) {{
  const int l = threadIdx.x, row = blockIdx.x * {i.m} + l / 4, column = blockIdx.y * 8;
  {register} x[{nc}];
#define AT(r) (((long)(row + (r) / {pair} * 8) * n + column + l % 4 * 2) * {i.c_bytes} + (r) % {pair} * {unit})
  for (int r = 0; r < {nc}; ++r) x[r] = *(const {register} *)(c + AT(r));
  const int a_bytes = k_bytes / {i.b_bytes // i.a_bytes};
  for (int k = 0; k < k_bytes; k += {i.b_bytes}) {{
    {operand} p[{na}], q[{nb}];
    const char *pa = a + (long)row * a_bytes + k / {i.b_bytes // i.a_bytes} + l % 4 * {unit};
    const char *pb = b + (long)(column + l / 4) * k_bytes + k + l % 4 * {unit};
    for (int r = 0; r < {na}; ++r) p[r] = *(const {operand} *)(pa + r % {groups} * 8l * a_bytes + r / {groups} * {4 * unit});
    for (int r = 0; r < {nb}; ++r) q[r] = *(const {operand} *)(pb + r * {4 * unit});
    asm volatile("{opcode} {{{d}}}, {{{a}}}, {{{b}}}, {{{d}}}{metadata};" : {outs} : {ins});
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
    opcode = f"wgmma.mma_async{'.sp' if i.sparse else ''}.sync.aligned.m64n{i.n}k{i.k}.{i.d}.{i.a}.{i.b}{i.suffix}"
    metadata = f", %{nc + 2}, 0" if i.sparse else ""
    instruction = f"{opcode} {{{d}}}, %{nc}, %{nc + 1}{metadata}, 1{immediates.get(i.a, '')};"
    ins = '"l"(pa), "l"(pb)' + (', "r"(word)' if i.sparse else "")
    steps = f"(k_bytes / {i.b_bytes})"
    word = f"e[((long)blockIdx.x * {steps} + k / {i.b_bytes}) * 128 + threadIdx.x]" if i.sparse else "0"
    return f"""
__device__ unsigned long long descriptor(const void *p, int k_stride) {{
  const unsigned long long address = __cvta_generic_to_shared(p);
  return (address & 0x3FFFF) >> 4 | (unsigned long long)(k_stride >> 4) << 16 | (unsigned long long)(128 >> 4) << 32;
}}
/* Rows of 16 * pieces bytes into core matrices: row r, piece h at ((h * rows / 8 + r / 8) * 8 + r % 8) * 16. */
__device__ void stage(char *to, const char *from, int rows, int pieces, int pitch) {{
  for (int t = threadIdx.x; t < rows * pieces; t += 128) {{
    const int r = t / pieces, h = t % pieces;
    *(int4 *)(to + ((h * (rows / 8) + r / 8) * 8 + r % 8) * 16) = *(const int4 *)(from + (long)r * pitch + h * 16);
  }}
}}
extern "C" __global__ void __launch_bounds__(128)
run(int n, int k_bytes, const char *a, const char *b, const char *c, char *d, const unsigned *e) {{
  __shared__ alignas(128) char sa[64 * 32], sb[{i.n} * {i.b_bytes}];
  const int l = threadIdx.x % 32, row = blockIdx.x * 64 + threadIdx.x / 32 * 16 + l / 4, column = blockIdx.y * {i.n};
  const int a_bytes = k_bytes / {i.b_bytes // i.a_bytes};
  a += (long)blockIdx.x * 64 * a_bytes; b += (long)column * k_bytes;
  {register} x[{nc}];
  const long at = (long)row * n + column + l % 4 * 2;
#define AT(r) ((at + (r) / {pair} % 2 * 8l * n + (r) / {2 * pair} * 8) * {i.c_bytes} + (r) % {pair} * 4)
#pragma unroll
  for (int r = 0; r < {nc}; ++r) x[r] = *(const {register} *)(c + AT(r));
  for (int k = 0; k < k_bytes; k += {i.b_bytes}) {{
    __syncthreads();
    stage(sa, a + k / {i.b_bytes // i.a_bytes}, 64, 2, a_bytes); stage(sb, b + k, {i.n}, {i.b_bytes // 16}, k_bytes);
    asm volatile("fence.proxy.async;" ::: "memory");
    __syncthreads();
    const unsigned long long pa = descriptor(sa, 64 * 16), pb = descriptor(sb, {i.n} * 16);
    const unsigned word = {word};
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile("{instruction}" : {outs} : {ins});
    asm volatile("wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;" ::: "memory");
  }}
#pragma unroll
  for (int r = 0; r < {nc}; ++r) *({register} *)(d + AT(r)) = x[r];
}}
"""
