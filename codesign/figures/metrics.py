"""Every metric a claim can name: its unit, its meaning, and how two of its figures are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Comparison = Literal["ratio", "difference", "none"]
"""How a figure is held against another variant's: over it, less it, or not at all (it compares two designs already)."""


@dataclass(frozen=True)
class Family:
    """What the metrics of one kind of evidence have in common."""

    variants: tuple[str, ...]
    """Variants that have figures."""
    baselines: bool = False
    """Whether baselines by name have figures, too."""
    by_gemm: bool = False
    """Whether there is a figure for each GEMM."""
    by_tensors: bool = False
    """Whether there is a figure for each tensor source."""
    swept: bool = False
    """Whether each swept value has figures."""
    sampled: bool = False
    """Whether the interval is that of a sample: without one, nothing is decided."""
    dearer: bool = False
    """Whether a larger parameter of the instruction (more bits) makes the figure worse, as it does of costs."""
    absent: str = "no figure covers it"
    """Why there may be no figure."""


_COUNTED = "counted for layers of the large models with 8-bit operands, and on the network for mixtures of experts"
_ALL = ("today", "software", "proposal", "exact")

FAMILIES = {
    "numerics": Family(_ALL, baselines=True, by_gemm=True, by_tensors=True, swept=True, sampled=True),
    "cast": Family(
        _ALL[1:], by_gemm=True, by_tensors=True, sampled=True, absent="the path does not carry that operand"
    ),
    "timing": Family(
        _ALL[:3], by_gemm=True, swept=True, dearer=True, absent="no kernel of it is timed; Method says why"
    ),
    "traffic": Family(_ALL[1:3], by_gemm=True, dearer=True, absent=_COUNTED),
    "energy": Family(_ALL[1:3], by_gemm=True, dearer=True, absent=_COUNTED),
    "cost": Family(
        _ALL[2:3],
        swept=True,
        dearer=True,
        absent="no hardware record covers it; the extra `cost` synthesises what the generator can say",
    ),
    "training": Family(
        _ALL,
        swept=True,
        sampled=True,
        absent="no training record covers it; `codesign train` makes one, `evaluate --train` a small one",
    ),
}


@dataclass(frozen=True)
class Metric:
    """A quantity of evidence."""

    name: str
    unit: str
    better: Literal["lower", "higher", "zero"]
    """Which way is better; of a signed quantity (zero) the magnitude is bounded and compared."""
    description: str
    of_layer: bool = False
    """Whether it is of a layer's step, or a part of it that a claim names, and not of each GEMM."""
    comparison: Comparison = "ratio"

    @property
    def family(self) -> Family:
        """What it shares with the others of its kind of evidence."""
        return FAMILIES[self.name.split(".")[0]]

    @property
    def variants(self) -> tuple[str, ...]:
        """Variants that have a figure of it."""
        return ("proposal",) if self.comparison == "none" else self.family.variants

    @property
    def signed(self) -> bool:
        """Whether its sign is no merit."""
        return self.better == "zero"


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric(
            "numerics.output_error",
            "1",
            "lower",
            "error of D as it leaves the GEMM (BF16 in fprop and dgrad, FP32 in wgrad) against the exact product "
            "of the quantised operands, relative Frobenius",
        ),
        Metric(
            "numerics.changed_share",
            "1",
            "lower",
            "share of outputs that differ, as they leave the GEMM, from the exact product of the quantised "
            "operands rounded to that format",
        ),
        Metric(
            "numerics.total_error",
            "1",
            "lower",
            "relative Frobenius error of D, as it leaves the GEMM, against the exact product of the original operands",
        ),
        Metric(
            "numerics.sqnr_db",
            "dB",
            "higher",
            "signal to quantisation noise ratio: 20 log10 of the inverse total error; 400 dB for no error at all",
            comparison="difference",
        ),
        Metric(
            "numerics.median_row_error",
            "1",
            "lower",
            "median over rows of D of the relative Frobenius error of a row, as in total_error: what a row sees "
            "where a few rows hold most of the norm",
        ),
        Metric(
            "numerics.quantisation_error",
            "1",
            "lower",
            "relative Frobenius error of the exact product of the quantised operands against that of the original ones",
        ),
        Metric(
            "numerics.relative_frobenius",
            "1",
            "lower",
            "accumulation error before D is rounded to its output format: Frobenius norm of D minus the exact "
            "product of the quantised operands, over its norm",
        ),
        Metric(
            "numerics.p95_error",
            "1",
            "lower",
            "accumulation error that 95 % of outputs stay under, over the root mean square of the exact product; "
            "unlike a largest error it does not grow with the outputs looked at",
        ),
        Metric(
            "numerics.bias",
            "1",
            "zero",
            "accumulation error along the sign of the exact result, summed, over the sum of magnitudes; negative "
            "shrinks results",
        ),
        Metric(
            "numerics.share_over_1_bf16_ulp",
            "1",
            "lower",
            "share of outputs whose accumulation error exceeds one unit in the last place of BF16",
        ),
        Metric(
            "numerics.underflow_share",
            "1",
            "lower",
            "share of nonzero elements that are quantised to zero, of the operand with the larger one",
        ),
        Metric(
            "numerics.overflow_share",
            "1",
            "lower",
            "share of elements cut to the largest number, of the operand with the larger one, plus the share of "
            "outputs that are infinite or NaN",
        ),
        Metric(
            "timing.speedup_over_software",
            "1",
            "higher",
            "time of the software baseline over time with the proposal, of a GEMM; with a path, of its operands' casts too",
            comparison="none",
        ),
        Metric(
            "timing.step_speedup",
            "1",
            "higher",
            "the same for all Linears of a layer in fprop, dgrad and wgrad, with their casts",
            of_layer=True,
            comparison="none",
        ),
        Metric(
            "timing.layer_speedup",
            "1",
            "higher",
            "the same for everything that a layer does in a step: attention, element-wise kernels, network and optimizer, too",
            of_layer=True,
            comparison="none",
        ),
        Metric(
            "timing.layer_ceiling",
            "1",
            "higher",
            "the same if all that the proposal makes faster took no time: what no implementation of it can exceed",
            of_layer=True,
            comparison="none",
        ),
        Metric("timing.microseconds", "us", "lower", "time of a GEMM; with a path, of its operands' casts too"),
        Metric(
            "cast.relative_error",
            "1",
            "lower",
            "relative Frobenius error of the tensor that a proposal's path delivers, against the BF16 one that set out",
        ),
        Metric(
            "cast.sqnr_db",
            "dB",
            "higher",
            "signal to quantisation noise ratio of the tensor that a path delivers",
            comparison="difference",
        ),
        Metric("cast.underflow_share", "1", "lower", "share of nonzero elements that a path delivers as zero"),
        Metric(
            "cast.requantised_share",
            "1",
            "lower",
            "share of elements that a path delivers otherwise than one cast straight from BF16 would",
        ),
        Metric(
            "traffic.hbm_bytes", "B", "lower", "bytes read from and written to HBM in a layer's step", of_layer=True
        ),
        Metric("traffic.l2_bytes", "B", "lower", "bytes between L2 and the SMs in a layer's step", of_layer=True),
        Metric(
            "traffic.smem_bytes", "B", "lower", "bytes into and out of shared memory in a layer's step", of_layer=True
        ),
        Metric(
            "traffic.network_bytes", "B", "lower", "bytes a GPU sends to other GPUs in a layer's step", of_layer=True
        ),
        Metric(
            "traffic.cache_bytes",
            "B",
            "lower",
            "bytes of activations kept from a layer's forward to its backward pass",
            of_layer=True,
        ),
        Metric("traffic.sm_share", "1", "lower", "share of the GPU's SMs that communication takes", of_layer=True),
        Metric("energy.joules", "J", "lower", "energy of moving and multiplying in a layer's step", of_layer=True),
        Metric(
            "cost.area_ratio",
            "1",
            "lower",
            "area of the proposed dot-product unit over that of the base, per product",
            comparison="none",
        ),
        Metric(
            "cost.delay_ratio",
            "1",
            "lower",
            "longest path of the proposed dot-product unit over that of the base, both without registers",
            comparison="none",
        ),
        Metric(
            "cost.energy_ratio",
            "1",
            "lower",
            "switched capacitance of the proposed dot-product unit over that of the base, per product",
            comparison="none",
        ),
        Metric(
            "cost.sm_area_ratio",
            "1",
            "lower",
            "transistors of a Hopper SM with the proposed units over today's, the SM's own number assumed",
            comparison="none",
        ),
        Metric(
            "cost.extra_cycles",
            "cycles",
            "lower",
            "further cycles of latency of the proposed dot-product unit, registers after as many gates as in the base",
            comparison="none",
        ),
        Metric(
            "cost.cycle_ratio",
            "1",
            "lower",
            "least cycle time of the proposed dot-product unit over the base's, registers after as many gates",
            comparison="none",
        ),
        Metric(
            "cost.extra_register_bits",
            "bit",
            "lower",
            "further pipeline register bits of the proposed dot-product unit, registers after as many gates as in the base",
            comparison="none",
        ),
        Metric(
            "cost.scale_bandwidth",
            "B/cycle",
            "lower",
            "bytes of scales that an SM reads per cycle at full rate",
            comparison="none",
        ),
        Metric(
            "cost.scale_storage",
            "B",
            "lower",
            "shared memory of an SM that holds the scales of the tiles in flight",
            comparison="none",
        ),
        Metric("cost.scale_traffic", "1", "lower", "bits of scales read over bits of operands read", comparison="none"),
        Metric(
            "training.loss_gap",
            "1",
            "lower",
            "mean training loss over the last quarter of a run, over that of BF16 with the same weights and data, less 1",
            comparison="difference",
        ),
        Metric(
            "training.validation_gap",
            "1",
            "lower",
            "mean loss on validation text after the last step, over that of BF16 with the same weights and data, less 1",
            comparison="difference",
        ),
        Metric(
            "training.gradient_drift",
            "1",
            "lower",
            "distance of a run's first gradient from BF16's at the same weights, text and experts, over the norm of BF16's",
        ),
        Metric(
            "training.gradient_bias",
            "1",
            "zero",
            "part of that distance along BF16's gradient, over its norm; negative where sums shrink gradients",
        ),
    )
}

NUMERICS = [name for name, metric in METRICS.items() if name.startswith("numerics.")]
