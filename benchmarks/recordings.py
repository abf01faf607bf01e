"""Others' recordings of real GPUs against the catalogue: `python benchmarks/recordings.py FOLDER`.

FOLDER is `model_validation` of github.com/north-numerical-computing/MATLAB-tensor-core (BSD-2), which is not part of this
project: dot products that eight GPUs computed, 5,000 a format, drawn by its authors. Each line of `<GPU>/<format>/a_*.txt`
and `b_*.txt` holds the operands of one along K, of `c_*.txt` and `d_*.txt` its C and D, as FP32. They are computed with
the rule that the catalogue has for the GPU's `mma.sync`, K filled up with zeros, C rounded to nearest even where D is
FP16. Of Hopper's FP8 into FP32 the recorded D are not those of `mma.sync`: they are sums of products without C, by the
rule of `wgmma`, and compared with that. Prints outputs and mismatches a file; ends with 1 if any output differs.
`--record FILE --revision COMMIT` saves the counts and which revision was read.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa_model import FORMATS, catalogue, load, matmul
from isa_model.array_codec import code_dtype, encode_array, to_codes
from isa_model.checkout import commit_of

ARCHITECTURES = {
    "V100": "volta",
    "A100": "ampere",
    "A2": "ampere",
    "Ada": "ada",
    "L40S": "ada",
    "H100": "hopper",
    "H200": "hopper",
    "B200": "blackwell",
}
OPERANDS = {"fp16": "f16", "bf16": "bf16", "tf32": "tf32", "E4M3": "e4m3", "E5M2": "e5m2"}
ACCUMULATORS = {"fp16": "f16", "fp32": "f32"}
SIDE = 50
"""Dot products that one matrix product holds on its diagonal."""


def instruction(gpu: str, operand: str, accumulator: str, k: int) -> str:
    """The catalogue's name of the GPU's `mma.sync` with the least K of at least `k`, or of what was recorded in its place."""
    if starts_from_zero(gpu, operand, accumulator):
        return f"hopper.wgmma.m64n8k32.f32.{OPERANDS[operand]}.{OPERANDS[operand]}"
    tail = ".".join([ACCUMULATORS[accumulator], *[OPERANDS[operand]] * 2, ACCUMULATORS[accumulator]])
    names = [n for n in catalogue() if n.startswith(f"{ARCHITECTURES[gpu]}.mma.") and n.endswith(f".{tail}")]
    return min((n for n in names if load(n).shape.k >= k), key=lambda n: load(n).shape.k)


def starts_from_zero(gpu: str, operand: str, accumulator: str) -> bool:
    """Whether the recorded D are sums of products alone."""
    return ARCHITECTURES[gpu] == "hopper" and operand.startswith("E") and accumulator == "fp32"


def numbers(path: Path) -> NDArray[np.float32]:
    """FP32 numbers of a file, a row a line: hexadecimal digits, or 32 binary ones."""
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    base = 2 if len(rows[0][0]) == 32 else 16
    return np.array([[int(x, base) for x in row] for row in rows], np.uint32).view(np.float32)


def compare(folder: Path, operand: str, accumulator: str) -> dict[str, Any]:
    """The recorded D of one GPU and format against the catalogue's."""
    (gpu, file), (a, b, c, d) = (
        (folder.parent.name, next(folder.glob(f"d_*_{accumulator}.txt"))),
        (numbers(next(folder.glob(pattern))) for pattern in ("a_*", "b_*", "c_*", f"d_*_{accumulator}.txt")),
    )
    name = instruction(gpu, operand, accumulator, a.shape[1])
    spec = load(name)
    fill = ((0, 0), (0, -a.shape[1] % spec.shape.k))
    codes = [np.pad(encode_array(f, x.astype(np.float64)), fill) for f, x in ((spec.a, a), (spec.b, b))]
    c = np.zeros_like(c) if starts_from_zero(gpu, operand, accumulator) else c
    start = encode_array(spec.c_format, c[:, 0].astype(np.float64))
    expected = encode_array(FORMATS[accumulator], d[:, 0].astype(np.float64))
    got = []
    for first in range(0, len(a), SIDE):
        some = slice(first, first + SIDE)
        own = np.zeros((len(a[some]),) * 2, code_dtype(spec.c_format))
        np.fill_diagonal(own, start[some])
        got.append(to_codes(spec.accumulator, matmul(spec, codes[0][some], codes[1][some].T, own)).diagonal())
    mismatches = int((np.concatenate(got) != expected).sum())
    return {
        "file": f"{gpu}/{folder.name}/{file.name}",
        "instruction": name,
        "outputs": len(a),
        "mismatches": mismatches,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="model_validation of a clone of MATLAB-tensor-core")
    parser.add_argument("--record", type=Path, help="save the counts to this file (JSON)")
    parser.add_argument("--revision", default="", help="the commit of the clone, for the record")
    options = parser.parse_args()
    rows = []
    for gpu in ARCHITECTURES:
        for operand in OPERANDS:
            folder = options.folder / gpu / operand
            for accumulator in ACCUMULATORS:
                if folder.is_dir() and any(folder.glob(f"d_*_{accumulator}.txt")):
                    rows.append(compare(folder, operand, accumulator))
                    print(
                        f"{rows[-1]['mismatches']:>10} of {rows[-1]['outputs']} {rows[-1]['file']}: {rows[-1]['instruction']}"
                    )
    if not rows:
        print(f"{options.folder} holds no recordings such as H100/fp16/d_H100_fp32.txt", file=sys.stderr)
        return 2
    total = {key: sum(row[key] for row in rows) for key in ("outputs", "mismatches")}
    print(f"{total['mismatches']} of {total['outputs']} outputs differ")
    if options.record:
        head = {
            "what": "outputs recorded on GPUs by others, compared with the catalogue's rules code for code",
            "source": "github.com/north-numerical-computing/MATLAB-tensor-core, model_validation (BSD-2)",
            "revision": options.revision,
            "command": "python benchmarks/recordings.py FOLDER --record FILE --revision COMMIT",
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "commit": commit_of("isa_model", "benchmarks/recordings.py"),
            **total,
        }
        body = ",\n".join("  " + json.dumps(row) for row in rows)
        options.record.write_text(json.dumps(head, indent=1).rstrip("\n}") + f',\n "rows": [\n{body}\n ]\n}}\n')
    return int(total["mismatches"] > 0)


if __name__ == "__main__":
    sys.exit(main())
