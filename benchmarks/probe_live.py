"""Probe the Hopper GPU at hand: `python benchmarks/probe_live.py --record kernels/records/probe_h200.json`, some minutes.

Every kind of instruction that kernels/native.py issues, of sparse ones those of floating point, and `torch._scaled_mm` as a
whole GEMM with fast accumulation on and off. Nothing but formats and sizes is told to the probe. Instructions are compared with
the catalogue afterwards.
"""

from __future__ import annotations

import argparse
import json
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from probe import unseen  # noqa: E402

from codesign.commands.conform import check_gpu, machine  # noqa: E402
from codesign.commit import commit  # noqa: E402
from codesign.probe.box import Lines, Signature, answers  # noqa: E402
from codesign.probe.boxes import MatrixBox, open_box  # noqa: E402
from codesign.probe.certificate import probe  # noqa: E402
from codesign.probe.hypotheses import canonical  # noqa: E402
from isa_model.float64 import Codes  # noqa: E402
from isa_model.instruction import Instruction  # noqa: E402
from isa_model.library import catalogue, load  # noqa: E402
from isa_model.output_files import head, json_lines, of_command, typed, write_file  # noqa: E402

COMMAND = "python benchmarks/probe_live.py"
SECONDS = 60.0
"""Processor seconds for each part of a search."""


def kinds() -> list[str]:
    """Return a Hopper instruction of each kind of sums and formats, that with the fewest columns; of integers a dense one."""
    found: dict[str, str] = {}
    for name in catalogue():
        spec = load(name) if name.startswith("hopper.") else None
        if spec and not (spec.sparsity and spec.is_integer):
            sums = [canonical(spec.dense), bool(spec.sparsity), name.split(".")[1]]
            found.setdefault(json.dumps(sums, sort_keys=True), name)
    return list(found.values())


def scaled_mm(fast: bool) -> MatrixBox:
    """Return a whole GEMM of the library, FP8 into FP32 without C, 256 products a sum."""
    import torch

    one = {"format": "fp32", "rounding": "nearest-even"}
    stages = {"fuse": {"terms": 1, "accumulator": True, "result": one}}
    shape = {"m": 16, "n": 16, "k": 256}
    data = {"shape": shape, "a": "e4m3", "b": "e4m3", "accumulator": "fp32", "stages": stages}
    scale = torch.ones((), device="cuda")

    def multiply(a: Codes, b: Codes, c: Codes) -> Codes:
        x, y = (torch.from_numpy(np.ascontiguousarray(z)).cuda().view(torch.float8_e4m3fn) for z in (a, b.T))
        d = torch._scaled_mm(x, y.t(), scale, scale, out_dtype=torch.float32, use_fast_accum=fast)
        result: Codes = d.cpu().numpy().view(np.uint32)
        return result

    return MatrixBox(Signature(Instruction.model_validate(data), takes_c=False), multiply)


def one(name: str) -> dict[str, Any]:
    """Probe one instruction or library call."""
    library = name.startswith("torch._scaled_mm")
    box = scaled_mm("fast" in name) if library else open_box(f"gpu:{name}", None)
    certificate = probe(box, SECONDS, 100_000)
    row: dict[str, Any] = {"name": name, "verdict": certificate.verdict, **certificate.counts}
    row["several_nans"] = certificate.several_nans
    row |= {"reason": certificate.reason, "witness": certificate.witness, "spec": certificate.hypothesis}
    if not library and certificate.verdict not in ("open", "refused") and certificate.spec:
        lines = Lines.join(list(unseen(box.signature, 20_000)))
        known = load(name).dense
        row["same_spec_as_catalogue"] = canonical(certificate.spec) == canonical(known)
        row["unlike_catalogue"] = int((answers(certificate.spec, lines) != answers(known, lines)).sum())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, required=True, help="file for the record")
    parser.add_argument("--processes", type=int, default=14)
    options = parser.parse_args()
    check_gpu("hopper")
    names = ["torch._scaled_mm, fast accumulation", "torch._scaled_mm", *kinds()]
    rows = []
    with get_context("spawn").Pool(options.processes) as pool:
        for row in pool.imap_unordered(one, names):
            print(row["name"], row["verdict"], row["processor_s"], flush=True)
            rows.append(row)
            record = {
                "schema_version": 1,
                **head(typed(COMMAND, *sys.argv[1:]), commit()),
                **machine(),
                "rows": sorted(rows, key=lambda r: str(r["name"])),
            }
            write_file(options.record, json_lines(record) + "\n", *of_command(COMMAND))


if __name__ == "__main__":
    main()
