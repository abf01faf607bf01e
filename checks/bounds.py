"""Error bounds against emulated outputs: `python checks/bounds.py --outputs 1e9`. No output may be over its bound.

Takes every arithmetic of pages/bounds.json in turn, with stressing operands of each kind (isa_model/stimulus.py) and C. The
reference is isa_model.exact.dot. Prints the largest share of a bound for each kind; exit code 1 if one is over 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import count
from pathlib import Path

import numpy as np

from codesign.evidence.bounds.derive import bound
from codesign.proposal.target import instruction_of
from isa_model.array_codec import decode_array, to_codes
from isa_model.exact import dot
from isa_model.float64 import Codes, Float64
from isa_model.formats import Format
from isa_model.groups import spread
from isa_model.instruction import Instruction
from isa_model.matmul import matmul
from isa_model.stimulus import draw

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("finite", "normal", "wide", "cancellation", "subnormal", "overflow")
SIDE, STEPS = 512, 4


def share(spec: Instruction, kind: str, rng: np.random.Generator) -> tuple[int, float]:
    """Return how many outputs a bound covers in one product of matrices, and the largest share of it."""
    k = spec.shape.k * STEPS
    x = draw(spec, kind, rng, SIDE, SIDE, k)
    made = matmul(spec, x.a, x.b, x.c, x.scale_a, x.scale_b)
    d = decode_array(spec.accumulator, to_codes(spec.accumulator, made))
    a, b, c = read(spec, spec.a, x.a), read(spec, spec.b, x.b), read(spec, spec.c_format, x.c)
    largest = 1.0
    for side, codes in ((spec.scale.a, x.scale_a), (spec.scale.b, x.scale_b)) if spec.scale else ():
        if side is None or codes is None:
            continue
        scales = decode_array(side.format, codes)
        if not np.isfinite(scales).all() or (np.abs(scales) < 2.0**side.format.min_exponent).any():
            return 0, 0.0  # bounds are for finite, normal scales
        largest *= max(float(np.abs(scales).max()), 1.0)
        if side is spec.scale.a:
            a = a * spread(scales, side.group, a.shape)
        else:
            b = b * spread(scales, side.group, b.shape)
    limits = bound(spec, k, c=True)
    with np.errstate(all="ignore"):
        exact, mass = dot(a, b) + c, np.abs(a) @ np.abs(b) + np.abs(c)
        room = limits.worst * mass + limits.absolute * largest + 2.0**-50 * mass  # float64 has its own errors
        found = np.where(d == exact, 0.0, np.abs(d - exact) / room)
    inside = mass * largest <= limits.overflow
    return int(inside.sum()), float(np.where(np.isnan(found), np.inf, found)[inside].max(initial=0.0))


def read(spec: Instruction, fmt: Format, codes: Codes) -> Float64:
    """Return the numbers that an instruction reads."""
    values = decode_array(fmt, codes)
    tiny = spec.flush_inputs and fmt.kind == "float"
    flushed: Float64 = np.where(np.abs(values) < 2.0**fmt.min_exponent, 0.0, values) if tiny else values
    return flushed


def main() -> int:
    """Check outputs until there are as many as asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", type=float, default=1e9)
    wanted = parser.parse_args().outputs
    rows = json.loads((ROOT / "pages/bounds.json").read_text(encoding="utf-8"))["rows"]
    specs = [instruction_of(row["instruction"]).dense for row in rows if row["worst"]]
    specs = [spec for spec in specs if spec.accumulator.name != "fp64" and not spec.is_stochastic]
    largest, checked = dict.fromkeys(KINDS, 0.0), 0
    for seed in count():
        for spec in specs:
            for kind in KINDS:
                outputs, found = share(spec, kind, np.random.default_rng(seed))
                checked, largest[kind] = checked + outputs, max(largest[kind], found)
                if found > 1:
                    print(f"{spec.name}: {kind}, seed {seed}: {found:.4g} of its bound")
                    return 1
                if checked >= wanted:
                    print(f"{checked:,} outputs; largest share of a bound: {largest}")
                    return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
