"""Record what `torch._scaled_mm` returns on the current GPU: `python checks/record_scaled_mm.py OUT.npz`.

The cases are FP8 GEMMs with one scale per tensor, with and without fast accumulation, at shapes that cuBLAS does not split.
Arrays `<case>/{a,b,d}` are codes of A (M, K), B (K, N) and D; `<case>/about` describes the call as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from isa_model.output_files import fresh_file

CASES = [
    (64, 64, 256, "e4m3", "e4m3", "bf16", False),
    (32, 48, 144, "e4m3", "e4m3", "bf16", False),
    (16, 64, 1040, "e4m3", "e5m2", "bf16", True),
    (48, 32, 512, "e5m2", "e4m3", "fp16", False),
    (64, 32, 2048, "e4m3", "e4m3", "fp32", False),
]
"""M, N, K, formats of A, B and D, and whether there is a bias."""


def record() -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of every case, with fast accumulation on and off."""
    import torch

    dtypes = {
        "e4m3": torch.float8_e4m3fn,
        "e5m2": torch.float8_e5m2,
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
        "fp32": torch.float32,
    }
    generator = torch.Generator().manual_seed(0)
    arrays = {}
    for number, (m, n, k, fa, fb, fd, has_bias) in enumerate(CASES):
        a, b = (torch.randn(shape, generator=generator) for shape in ((m, k), (n, k)))
        a, b = a.to(dtypes[fa]).cuda(), b.to(dtypes[fb]).cuda()
        bias = torch.randn(n, generator=generator).to(torch.bfloat16) if has_bias else None
        scale_a, scale_b = 0.7310, 1.2970
        for fast in (True, False):
            d = torch._scaled_mm(
                a,
                b.t(),
                torch.tensor(scale_a, device="cuda"),
                torch.tensor(scale_b, device="cuda"),
                bias=None if bias is None else bias.cuda(),
                out_dtype=dtypes[fd],
                use_fast_accum=fast,
            )
            case = f"{number}-{'fast' if fast else 'promoted'}"
            about = {
                "call": "torch._scaled_mm",
                "use_fast_accum": fast,
                "a": fa,
                "b": fb,
                "d": fd,
                "scale_a": scale_a,
                "scale_b": scale_b,
                "bias": None if bias is None else bias.float().tolist(),
                "gpu": torch.cuda.get_device_name(),
                "torch": torch.__version__,
                "cuda": torch.version.cuda,
            }
            arrays[f"{case}/a"] = a.view(torch.uint8).cpu().numpy()
            arrays[f"{case}/b"] = np.ascontiguousarray(b.view(torch.uint8).cpu().numpy().T)
            arrays[f"{case}/d"] = (
                d.view(torch.int32 if fd == "fp32" else torch.int16).cpu().numpy().view(f"u{d.itemsize}")
            )
            arrays[f"{case}/about"] = np.array(json.dumps(about))
    return arrays


def main() -> None:
    """Write the record to the path on the command line."""
    with fresh_file(Path(sys.argv[1]), "PK", "an .npz file") as fresh, open(fresh, "wb") as file:
        np.savez_compressed(file, **record())  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
