"""Static evidence, without a GPU: the instructions of the kernels' machine code, in total and per iteration of the mainloop.

    python -m kernels.bench.static --out kernels/records/static.json

The instruction mix of the mainloop per 128 of K shows what emulation costs in instructions. Beside four FP8 MMAs of K = 32,
every thread of a kernel with promotion issues at least one FFMA per accumulator.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from isa_model.checkout import commit_of
from isa_model.diagnostics import Unavailable
from isa_model.stage import Spec
from kernels.bench import REGISTERED
from kernels.bench.records import save, versions

MMA = ("QGMMA", "HGMMA", "IGMMA")
WATCHED = (
    *MMA,
    *("FFMA", "FMUL", "FADD", "HFMA2", "MUFU", "F2F", "F2FP", "I2F", "F2I"),
    *("LDS", "LDSM", "STS", "STSM", "LDG", "STG", "LDGSTS", "LDL", "STL", "SHFL"),
    *("UTMALDG", "UTMASTG", "UTMAREDG", "UBLKCP", "BAR", "SYNCS", "WARPGROUP"),
)
"""Opcodes counted by name; all others are counted as `other`."""


class Cubin(NamedTuple):
    """Machine code of one kernel, as a user gets it."""

    name: str
    """Name, the same as in `Case.static`."""
    code: bytes
    dynamic_shared_bytes: int = 0
    """Dynamic shared memory of the launch, bytes; the code does not contain it."""


class Op(NamedTuple):
    """One instruction of a disassembly."""

    address: int
    opcode: str
    operands: str

    @property
    def base(self) -> str:
        """Opcode without modifiers."""
        return self.opcode.split(".")[0]


class Loop(Spec):
    """One iteration of the innermost loop with matrix instructions, per thread."""

    instructions: int
    mma: str
    """Matrix instruction, for instance QGMMA.64x128x32.F32.E4M3.E4M3."""
    mmas: int
    mix: dict[str, int]
    per_128_of_k: dict[str, float]
    """Instruction mix for 128 of K of one accumulator tile."""
    ffma_per_output: float
    """FFMAs per output and 128 of K; promotion needs at least 1."""


class CompiledKernel(Spec):
    """One function of a kernel's machine code."""

    name: str
    function: str
    registers: int
    stack_bytes: int
    """Stack frame per thread, bytes: spilled registers and indexed arrays."""
    shared_bytes: int
    """Static and dynamic shared memory per CTA, bytes."""
    spill_loads: int
    """LDL instructions in the code."""
    spill_stores: int
    """STL instructions in the code."""
    instructions: int
    mix: dict[str, int]
    loop: Loop | None = None
    """Mainloop; None where no loop has matrix instructions."""


class StaticRecord(Spec):
    """Static evidence of every registered kernel."""

    schema_version: Literal[1] = 1
    date: str
    commit: str
    command: str
    target: str
    versions: dict[str, str]
    kernels: tuple[CompiledKernel, ...]


def evidence(cubins: Iterable[Cubin]) -> list[CompiledKernel]:
    """Return the static evidence of machine code. Raises Unavailable without cuobjdump."""
    return [kernel for cubin in cubins for kernel in _kernels(cubin)]


def registered() -> Iterator[Cubin]:
    """Yield the machine code of every registered kernel. Compiling needs the extra `kernels` but no GPU."""
    for name in REGISTERED:
        yield from getattr(import_module(name), "cubins", lambda: ())()


@cache
def cuobjdump() -> str:
    """Return the disassembler on the PATH, in triton's package or in the CUDA toolkit. Raises Unavailable without one."""
    triton = find_spec("triton")
    folders = [
        *([Path(triton.origin).parent / "backends/nvidia/bin"] if triton and triton.origin else []),
        Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin",
    ]
    found = shutil.which("cuobjdump") or shutil.which("cuobjdump", path=os.pathsep.join(map(str, folders)))
    if found is None:
        raise Unavailable("cuobjdump was not found; it comes with triton (extra `kernels`) and with the CUDA toolkit")
    return found


def dump(option: str, code: bytes) -> str:
    """Return the output of cuobjdump with `option` for machine code. Raises Unavailable without cuobjdump."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [cuobjdump(), option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def _kernels(cubin: Cubin) -> Iterator[CompiledKernel]:
    resources = usage(dump("-res-usage", cubin.code))
    for function, ops in functions(dump("-sass", cubin.code)).items():
        counts, used = Counter(op.base for op in ops), resources[function]
        yield CompiledKernel(
            name=cubin.name,
            function=function,
            registers=used["REG"],
            stack_bytes=used["STACK"],
            shared_bytes=used["SHARED"] + cubin.dynamic_shared_bytes,
            spill_loads=counts["LDL"],
            spill_stores=counts["STL"],
            instructions=len(ops),
            mix=mix(ops),
            loop=main_loop(ops),
        )


def usage(text: str) -> dict[str, dict[str, int]]:
    """Parse `cuobjdump -res-usage`: REG, STACK, SHARED, LOCAL and others, by function."""
    parts = re.findall(r"Function (\S+):\n\s*(\S.*)", text)
    return {name: {k: int(v) for k, v in re.findall(r"(\w+):(\d+)", line)} for name, line in parts}


def functions(text: str) -> dict[str, list[Op]]:
    """Parse `cuobjdump -sass`: instructions by function, without the NOPs that pad the end."""
    result: dict[str, list[Op]] = {}
    for line in text.splitlines():
        if match := re.search(r"Function : (\S+)", line):
            ops = result[match[1]] = []
        elif match := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", line):
            ops.append(Op(int(match[1], 16), match[2], match[3]))
    return {name: [op for op in ops if op.base != "NOP"] for name, ops in result.items()}


def mix(ops: Sequence[Op]) -> dict[str, int]:
    """Count each watched opcode, and all others together."""
    counts = Counter(op.base if op.base in WATCHED else "other" for op in ops)
    return {name: counts[name] for name in (*WATCHED, "other") if counts[name]}


def main_loop(ops: Sequence[Op]) -> Loop | None:
    """Return the innermost loop with matrix instructions; of several, the one with most of them, then the shortest."""
    loops = []
    for op in ops:
        target = re.search(r"0x([0-9a-f]+)$", op.operands)
        if op.base == "BRA" and target and int(target[1], 16) < op.address:
            loops.append([o for o in ops if int(target[1], 16) <= o.address <= op.address])
    with_mma = [loop for loop in loops if any(o.base in MMA for o in loop)]
    inner = [
        loop
        for loop in with_mma
        if not any(other is not loop and loop[0] <= other[0] and other[-1] < loop[-1] for other in with_mma)
    ]
    if not inner:
        return None
    body = max(inner, key=lambda loop: (sum(o.base in MMA for o in loop), -len(loop)))
    mmas = [o.opcode for o in body if o.base in MMA]
    shape = re.search(r"\.(\d+)x(\d+)x(\d+)", mmas[0])
    assert shape is not None, mmas[0]
    _, n, k = map(int, shape.groups())
    counts = mix(body)
    turns = 128 / k / len(mmas)
    per_128 = {name: round(count * turns, 2) for name, count in counts.items()}
    return Loop(
        instructions=len(body),
        mma=mmas[0],
        mmas=len(mmas),
        mix=counts,
        per_128_of_k=per_128,
        ffma_per_output=round(counts.get("FFMA", 0) * turns / (n / 2), 3),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile every registered kernel and record the contents of its machine code."""
    parser = argparse.ArgumentParser(prog="python -m kernels.bench.static", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the record (JSON)")
    out = parser.parse_args(arguments).out
    tool = subprocess.run([cuobjdump(), "--version"], capture_output=True, text=True, check=True).stdout
    record = StaticRecord(
        date=datetime.now(UTC).date().isoformat(),
        commit=commit_of("isa_model", "kernels", ":!kernels/records"),
        command="python -m kernels.bench.static",
        target="sm_90a",
        versions={
            **versions(("cuda-core", "nvidia-cuda-nvrtc", "triton")),
            "cuobjdump": (re.findall(r"V(\d[\d.]*)", tool) or ["unknown"])[-1],
        },
        kernels=tuple(evidence(registered())),
    )
    save(record, out)
    print(f"{len(record.kernels)} kernels: {out}")


if __name__ == "__main__":
    try:
        main()
    except Unavailable as error:
        print(error, file=sys.stderr)
        sys.exit(3)
