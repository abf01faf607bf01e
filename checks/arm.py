"""Compare Arm's instructions with QEMU, code for code: `python checks/arm.py`.

For each instruction of Arm in the catalogue, a program of that one instruction is assembled and run in QEMU's user mode, on
operands of every kind in isa_model/stimulus.py. Prints a line per instruction; exits with 1 if an output differs. `--record`
saves the counts, `--fixture` a small part of QEMU's results for the tests, which run without QEMU. Needs qemu-aarch64 (11.1 has
FP8) and LLVM's llvm-mc and llvm-objcopy.
"""

from __future__ import annotations

import argparse
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa_model import catalogue, load, matmul
from isa_model.array_codec import to_codes
from isa_model.checkout import commit_of
from isa_model.instruction import Instruction
from isa_model.output_files import fresh_file, head, json_lines, write_file
from isa_model.stimulus import KINDS, StressOperands, draw

VECTORS = {
    "fdot.f32": ".inst 0x4e02fc20  // fdot v0.4s, v1.16b, v2.16b",
    "fdot.f16": ".inst 0x4e42fc20  // fdot v0.8h, v1.16b, v2.16b",
    "fmmla.f32": ".inst 0x6e82ec20  // fmmla v0.4s, v1.16b, v2.16b",
    "fmmla.f16": ".inst 0x6e02ec20  // fmmla v0.8h, v1.16b, v2.16b",
    "bfmmla": "bfmmla v0.4s, v1.8h, v2.8h",
    "mmla.s32.s8.s8": "smmla v0.4s, v1.16b, v2.16b",
    "mmla.s32.u8.u8": "ummla v0.4s, v1.16b, v2.16b",
    "mmla.s32.u8.s8": "usmmla v0.4s, v1.16b, v2.16b",
}
"""Advanced SIMD: D in v0, rows of A in v1, columns of B in v2. Numbers encode what LLVM 14 does not know."""
TILES = {
    "fmopa.f32.e": ".inst 0x80a20020  // fmopa za0.s, p0/m, p0/m, z1.b, z2.b",
    "fmopa.f16.e": ".inst 0x80a20028  // fmopa za0.h, p0/m, p0/m, z1.b, z2.b",
    "bfmopa": "bfmopa za0.s, p0/m, p0/m, z1.h, z2.h",
    "fmopa.f32.f16.f16": "fmopa za0.s, p0/m, p0/m, z1.h, z2.h",
    "fmopa.f32.f32.f32": "fmopa za0.s, p0/m, p0/m, z1.s, z2.s",
    "fmopa.f64.f64.f64": "fmopa za0.d, p0/m, p0/m, z1.d, z2.d",
    "mopa.s32.s8.s8": "smopa za0.s, p0/m, p0/m, z1.b, z2.b",
    "mopa.s32.u8.u8": "umopa za0.s, p0/m, p0/m, z1.b, z2.b",
    "mopa.s32.u8.s8": "usmopa za0.s, p0/m, p0/m, z1.b, z2.b",
}
"""SME, with streaming vectors of 512 bits: D in tile za0, rows of A in z1, columns of B in z2.

A system call ends streaming, and the start of streaming clears FPMR.
"""

PROGRAM = """
    mov x0, #{fpcr}
    msr fpcr, x0
    ldr x21, ={fpmr}
    adr x20, end
next:
    mov x0, #0
    mov x1, x20
    mov x2, #{read}
    mov x8, #63
    svc #0
    cmp x0, #{read}
    b.ne done
    {body}
    mov x0, #1
    add x1, x20, #{c_at}
    mov x2, #{written}
    mov x8, #64
    svc #0
    b next
done:
    mov x0, #0
    mov x8, #93
    svc #0
    .balign 64
end:
"""
"""A loop that reads A, B and C from standard input until it ends, and writes D over C and to standard output."""
QUANTITY = {2: "h", 4: "s", 8: "d", 16: "q"}
"""Names of a vector register by the bytes that are loaded."""

ROWS = """
    mov w12, #0
    add x1, x20, #{c_at}
{name}:
    {move}
    add x1, x1, #64
    add w12, w12, #1
    cmp w12, #{m}
    b.ne {name}
"""
"""A loop over the rows of tile za0, 64 bytes each."""


def program(spec: Instruction, sizes: list[int]) -> bytes:
    """Return an executable that computes an instruction over and over. `sizes` are the bytes of A, B and C."""
    c_at = sizes[0] + sizes[1]
    instruction = next(x for name, x in (VECTORS | TILES).items() if spec.name.startswith(f"arm.{name}"))
    if instruction in VECTORS.values():
        loads = [
            f"ldr {QUANTITY[size]}{i}, [x20, #{at}]"
            for i, at, size in zip((1, 2, 0), (0, sizes[0], c_at), sizes, strict=True)
        ]
        body = "\n".join(["msr s3_3_c4_c4_2, x21", *loads, instruction, f"str {QUANTITY[sizes[2]]}0, [x20, #{c_at}]"])
    else:
        letter, size = {16: ("h", "h"), 32: ("s", "w"), 64: ("d", "d")}[spec.accumulator.bits]
        load_row, store_row = (
            f"{op}1{size} {{za0h.{letter}[w12, 0]}}, p0{zeroing}, [x1]" for op, zeroing in (("ld", "/z"), ("st", ""))
        )
        body = "smstart\nmsr s3_3_c4_c4_2, x21\nptrue p0.b\nldr z1, [x20]\nldr z2, [x20, #1, mul vl]\n"
        body += ROWS.format(name="in", move=load_row, c_at=c_at, m=spec.shape.m) + instruction
        body += ROWS.format(name="out", move=store_row, c_at=c_at, m=spec.shape.m)
    source = PROGRAM.format(**modes(spec), body=body, read=sum(sizes), c_at=c_at, written=sizes[2])
    with tempfile.TemporaryDirectory() as folder:
        objects, code = Path(folder, "a.o"), Path(folder, "a.bin")
        features = "-mattr=+sme,+sme-f64,+sme-i64,+bf16,+i8mm"
        subprocess.run(
            ["llvm-mc", "-triple=aarch64", features, "-filetype=obj", "-o", objects],
            input=source,
            text=True,
            check=True,
        )
        subprocess.run(["llvm-objcopy", "-O", "binary", "-j", ".text", objects, code], check=True)
        return executable(code.read_bytes())


def modes(spec: Instruction) -> dict[str, int]:
    """Return the control registers of an instruction: FPCR with EBF, and FPMR with LSCALE, OSM and the formats of B and A."""
    lscale = -spec.scale_power
    e4m3 = (spec.a.name == "e4m3") | (spec.b.name == "e4m3") << 3
    return {"fpcr": (".ebf1." in spec.name) << 13, "fpmr": lscale << 16 | spec.name.endswith("osm1") << 14 | e4m3}


def executable(code: bytes) -> bytes:
    """Return a static ELF file of AArch64 that starts at the first byte of `code`, with 64 KiB of memory behind it."""
    base, at = 0x400000, 0x78
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    elf = identity + struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, base + at, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = at + len(code)
    return elf + struct.pack("<IIQQQQQQ", 1, 7, 0, base, base, size, size + 65536, 4096) + code


def qemu(spec: Instruction, x: StressOperands) -> NDArray[Any]:
    """Return the codes of D that QEMU computes, one instruction for each block of D."""
    m, n = spec.shape.m, spec.shape.n
    a, b = x.a.reshape(-1, m * spec.shape.k), x.b.T.reshape(-1, n * spec.shape.k)
    c = x.c.reshape(len(a), m, len(b), n).swapaxes(1, 2).reshape(len(a), len(b), m * n)
    operands = [np.broadcast_to(y, (*c.shape[:2], y.shape[-1])) for y in (a[:, None], b[None], c)]
    data = np.concatenate([np.ascontiguousarray(y).view(np.uint8) for y in operands], axis=2)
    with tempfile.TemporaryDirectory() as folder:
        binary, file = Path(folder, "a.elf"), Path(folder, "operands")
        binary.write_bytes(program(spec, [y.shape[-1] * y.itemsize for y in operands]))
        binary.chmod(0o700)
        file.write_bytes(data.tobytes())
        command = ["qemu-aarch64", "-cpu", "max,sme512=on,sme-default-vector-length=64", str(binary)]
        with file.open("rb") as standard_input:
            done = subprocess.run(command, stdin=standard_input, capture_output=True, check=True)
    d = np.frombuffer(done.stdout, x.c.dtype).reshape(len(a), len(b), m, n)
    return d.swapaxes(1, 2).reshape(x.c.shape)


def cases(spec: Instruction, outputs: int) -> Iterator[StressOperands]:
    """Yield operands of each kind, with at least `outputs` outputs together; the seed depends only on the name."""
    rng, side = np.random.default_rng(zlib.crc32(spec.name.encode())), sqrt(outputs / len(KINDS))
    m, n = (ceil(side / size) * size for size in (spec.shape.m, spec.shape.n))
    for kind in KINDS:
        yield draw(spec, kind, rng, m, n, spec.shape.k)


def compare(name: str, outputs: int) -> dict[str, Any]:
    """Compare at least `outputs` outputs of an instruction, over all kinds of operands."""
    spec, compared, mismatches = load(name), 0, 0
    for x in cases(spec, outputs):
        got = to_codes(spec.accumulator, matmul(spec, x.a, x.b, x.c))
        compared, mismatches = compared + got.size, mismatches + int((got != qemu(spec, x)).sum())
    return {"instruction": name, "outputs": compared, "mismatches": mismatches}


def fixture(names: list[str], path: Path) -> None:
    """Save 4 x 4 outputs of each kind for each instruction, as `codesign conform` reads them."""
    saved: dict[str, NDArray[Any]] = {}
    for spec in map(load, names):
        blocks = [(x.a[:4], x.b.T[:4], x.c[:4, :4], qemu(spec, x)[:4, :4]) for x in cases(spec, 16 * len(KINDS))]
        saved |= {
            f"{spec.name}/all/1/{key}": np.stack(parts)
            for key, parts in zip("ABCD", zip(*blocks, strict=True), strict=True)
        }
    with fresh_file(path) as fresh, open(fresh, "wb") as file:
        np.savez_compressed(file, **saved)  # type: ignore[arg-type]


def main() -> int:
    """Run the comparison; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--outputs", type=int, default=100_000, help="outputs of each instruction (default: 100000)")
    parser.add_argument("--record", type=Path, help="save the counts to this file (JSON)")
    parser.add_argument("--fixture", type=Path, help="save a few outputs of each instruction to this file (.npz)")
    options = parser.parse_args()
    names = [name for name in catalogue() if name.startswith("arm.")]
    if options.fixture:
        fixture(names, options.fixture)
        return 0
    rows, commit = [], commit_of("isa_model", "checks")
    for name in names:
        rows.append(compare(name, options.outputs))
        print(f"{rows[-1]['mismatches']:>10} of {rows[-1]['outputs']} {name}", flush=True)
    wrong = sum(row["mismatches"] for row in rows)
    if options.record:
        version = subprocess.run(["qemu-aarch64", "--version"], capture_output=True, text=True, check=True).stdout
        about = {
            "what": "outputs of QEMU's user mode compared with the catalogue's rules code for code",
            "source": version.splitlines()[0],
            **head(f"python checks/arm.py --outputs {options.outputs} --record FILE", commit),
            "outputs": sum(row["outputs"] for row in rows),
            "mismatches": wrong,
        }
        write_file(options.record, json_lines(about | {"rows": rows}))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
