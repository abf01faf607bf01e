"""Compare the catalogue with recordings of real GPUs by others, or fit specs to them: `python checks/recordings.py FOLDER`.

FOLDER is `model_validation` of github.com/north-numerical-computing/MATLAB-tensor-core (BSD-2), which is not part of this
project. It holds dot products computed by eight GPUs, 5,000 per format. Each line of `<GPU>/<format>/a_*.txt` and `b_*.txt` has
the operands of one dot product along K, each line of `c_*.txt` and `d_*.txt` its C and D, as FP32. They are compared with the
catalogue's `mma.sync` of the GPU: K is padded with zeros, and C is rounded to nearest even where D is FP16. For Hopper's FP8 to
FP32, the recorded D are sums of products without C by the rules of `wgmma`, and are compared with that instruction.

Prints outputs and mismatches per file; exits with 1 if an output differs. `--record FILE --revision COMMIT` saves the counts
with the revision of the recordings. With `--probe`, a spec is fitted to each file, given only formats and sizes, as `codesign
probe vectors:` does, and then compared with the catalogue's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.probe.box import Lines, Recorded, Signature
from codesign.probe.certificate import probe
from isa_model import FORMATS, catalogue, load, matmul
from isa_model.array_codec import code_dtype, encode_array, to_codes
from isa_model.checkout import commit_of
from isa_model.output_files import head, json_lines, write_file

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
UNSEEN = 20_000
"""Outputs on which a fitted spec is compared with the catalogue's."""
SIDE = 50
"""Dot products per matrix product, on its diagonal."""


def instruction(gpu: str, operand: str, accumulator: str, k: int) -> str:
    """Return the name of the GPU's `mma.sync` with the smallest K of at least `k`, or of the instruction recorded instead."""
    if starts_from_zero(gpu, operand, accumulator):
        return f"hopper.wgmma.m64n8k32.f32.{OPERANDS[operand]}.{OPERANDS[operand]}"
    tail = ".".join([ACCUMULATORS[accumulator], *[OPERANDS[operand]] * 2, ACCUMULATORS[accumulator]])
    names = [n for n in catalogue() if n.startswith(f"{ARCHITECTURES[gpu]}.mma.m") and n.endswith(f".{tail}")]
    return min((n for n in names if load(n).shape.k >= k), key=lambda n: load(n).shape.k)


def starts_from_zero(gpu: str, operand: str, accumulator: str) -> bool:
    """Return whether the recorded D are sums of products without C."""
    return ARCHITECTURES[gpu] == "hopper" and operand.startswith("E") and accumulator == "fp32"


def numbers(path: Path) -> NDArray[np.float32]:
    """Return the FP32 values of a file, a row per line, from hexadecimal digits or 32 binary digits."""
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    base = 2 if len(rows[0][0]) == 32 else 16
    return np.array([[int(x, base) for x in row] for row in rows], np.uint32).view(np.float32)


def recorded(folder: Path, operand: str, accumulator: str) -> tuple[dict[str, Any], list[Any]]:
    """Return the file, instruction and number of outputs of one GPU and format, and the codes of A, B, C and D."""
    (gpu, file), (a, b, c, d) = (
        (folder.parent.name, next(folder.glob(f"d_*_{accumulator}.txt"))),
        (numbers(next(folder.glob(pattern))) for pattern in ("a_*", "b_*", "c_*", f"d_*_{accumulator}.txt")),
    )
    name = instruction(gpu, operand, accumulator, a.shape[1])
    spec = load(name)
    fill = ((0, 0), (0, -a.shape[1] % spec.shape.k))
    codes = [np.pad(encode_array(f, x.astype(np.float64)), fill) for f, x in ((spec.a, a), (spec.b, b))]
    c = np.zeros_like(c) if starts_from_zero(gpu, operand, accumulator) else c
    codes += [encode_array(f, x[:, 0].astype(np.float64)) for f, x in ((spec.c_format, c), (FORMATS[accumulator], d))]
    return {"file": f"{gpu}/{folder.name}/{file.name}", "instruction": name, "outputs": len(a)}, codes


def compare(folder: Path, operand: str, accumulator: str) -> dict[str, Any]:
    """Compare the recorded D of one GPU and format with the catalogue's."""
    row, (a, b, c, expected) = recorded(folder, operand, accumulator)
    spec, got = load(row["instruction"]), []
    for first in range(0, len(a), SIDE):
        some = slice(first, first + SIDE)
        own = np.zeros((len(a[some]),) * 2, code_dtype(spec.c_format))
        np.fill_diagonal(own, c[some])
        got.append(to_codes(spec.accumulator, matmul(spec, a[some], b[some].T, own)).diagonal())
    return row | {"mismatches": int((np.concatenate(got) != expected).sum())}


def probed(folder: Path, operand: str, accumulator: str) -> dict[str, Any]:
    """Fit a spec to the recorded D of one GPU and format, and compare it with the catalogue's on other questions.

    Outputs that differ count as mismatches unless fields that the certificate lists as open explain them.
    """
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    from probe import judge

    row, (a, b, c, d) = recorded(folder, operand, accumulator)
    spec = load(row["instruction"])
    found = probe(Recorded(Signature(spec), Lines(a, b, c), d))
    judged = judge(spec, found, UNSEEN)
    row |= {"verdict": found.verdict, "outcome": judged["outcome"], "unlike": judged["unlike"]}
    row |= {"open_fields": [x.field for x in found.fields if x.alike], "unlisted": judged.get("unlisted", [])}
    return row | {"spec": found.hypothesis, "mismatches": judged["unlike"] if row["unlisted"] else 0}


def main() -> int:
    """Run the comparison; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="model_validation of a clone of MATLAB-tensor-core")
    parser.add_argument("--record", type=Path, help="save the counts to this file (JSON)")
    parser.add_argument("--probe", action="store_true", help="fit a spec to each file")
    parser.add_argument("--revision", default="", help="the commit of the clone, for the record")
    options = parser.parse_args()
    rows = []
    for gpu in ARCHITECTURES:
        for operand in OPERANDS:
            folder = options.folder / gpu / operand
            for accumulator in ACCUMULATORS:
                if folder.is_dir() and any(folder.glob(f"d_*_{accumulator}.txt")):
                    rows.append((probed if options.probe else compare)(folder, operand, accumulator))
                    print(
                        f"{rows[-1]['mismatches']:>10} of {rows[-1]['outputs']} {rows[-1]['file']}: {rows[-1]['instruction']}"
                    )
    if not rows:
        print(f"{options.folder} holds no recordings such as H100/fp16/d_H100_fp32.txt", file=sys.stderr)
        return 2
    total = {key: sum(row[key] for row in rows) for key in ("outputs", "mismatches")}
    print(f"{total['mismatches']} of {total['outputs']} outputs differ")
    if options.record:
        command = f"python checks/recordings.py FOLDER {'--probe ' * options.probe}--record FILE --revision COMMIT"
        how = "with specs fitted to them" if options.probe else "compared with the catalogue's rules code for code"
        about = {
            "what": f"outputs recorded on GPUs by others, {how}",
            "source": "github.com/north-numerical-computing/MATLAB-tensor-core, model_validation (BSD-2)",
            "revision": options.revision,
            **head(command, commit_of("isa_model", "codesign/probe", "checks/recordings.py")),
            **total,
        }
        write_file(options.record, json_lines(about | {"rows": rows}))
    return int(total["mismatches"] > 0)


if __name__ == "__main__":
    sys.exit(main())
