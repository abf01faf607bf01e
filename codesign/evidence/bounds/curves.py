"""The plot of bounds: what cannot be exceeded, the worst input found, and samples, against K."""

from __future__ import annotations

from codesign.evidence.bounds.derive import bound
from codesign.evidence.bounds.witness import Bench, search
from codesign.figures.figure import Plot, Series
from isa_model.instruction import Instruction

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Lengths of K shown."""
SIDE = 16
"""Rows and columns of each sample."""


def growth(instruction: Instruction, seed: int) -> Plot | None:
    """Return the plot for an instruction; None if its sums are exact, or if only a slow engine computes it."""
    limits = [bound(instruction, k) for k in LENGTHS]
    if not limits[-1].worst:
        return None
    benches = [Bench(instruction, k) for k in LENGTHS]
    if not benches[0].engine.compiled:
        return None
    _, found = search(instruction, LENGTHS[3], thorough=False)
    lines: dict[str, tuple[str, list[float | None]]] = {
        "bound": ("navy", [b.worst for b in limits]),
        "bound, but for one output in 100,000": ("sky", [b.probable() for b in limits]),
    }
    if found:
        # Some layouts need a longer K.
        runs = [bench.run(found) if found.layout in bench.layouts else None for bench in benches]
        lines["worst input found"] = ("vermilion", [r.relative if r else None for r in runs])
    lines["99 % of sums of normal operands"] = ("green", [sampled(bench, seed) for bench in benches])
    return Plot(
        name="bounds",
        title="Error bounds against K",
        caption="|D - exact| over the sum of the products' magnitudes. Bounds are derived from the stages; the input found is "
        f"made for K = {LENGTHS[3]} and continued; samples are {SIDE * SIDE} sums of normally distributed operands each, seed "
        f"{seed}, by the bit-exact model.",
        x_label="K (products summed)",
        y_label="error over sum of magnitudes",
        x_scale="log2",
        series=tuple(
            Series(label=label, variant=colour, x=LENGTHS, y=tuple(y and float(f"{y:.4g}") for y in line))
            for label, (colour, line) in lines.items()
            if any(y is not None for y in line)
        ),
    )


def sampled(bench: Bench, seed: int) -> float | None:
    """Return the 99 % quantile of the error over the sum of magnitudes, for normally distributed operands.

    None if an operand does not fit its format or a sum overflows, and for scales of several levels.
    """
    import numpy as np

    from isa_model.array_codec import code_dtype, decode_array
    from isa_model.exact import dot
    from isa_model.groups import spread
    from isa_model.stimulus import draw

    spec = bench.spec
    if any(side.coarser for side in spec.scales):
        return None
    x = draw(spec, "normal", np.random.default_rng(seed), SIDE, SIDE, bench.filled)
    d = bench.engine.multiply(x.a, x.b, np.zeros((SIDE, SIDE), code_dtype(spec.c_format)), x.scale_a, x.scale_b)
    a, b = decode_array(spec.a, x.a), decode_array(spec.b, x.b)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    if spec.scale:
        if spec.scale.a and x.scale_a is not None:
            a = a * spread(decode_array(spec.scale.a.format, x.scale_a), spec.scale.a.group, a.shape)
        if spec.scale.b and x.scale_b is not None:
            b = b * spread(decode_array(spec.scale.b.format, x.scale_b), spec.scale.b.group, b.shape)
        a = a * 2.0**spec.scale.power
    errors = np.abs(decode_array(spec.accumulator, d) - dot(a, b)) / (np.abs(a) @ np.abs(b))
    return float(np.quantile(errors, 0.99)) if np.isfinite(errors).all() else None
