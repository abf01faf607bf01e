"""Metrics of traffic: bytes and energy of a layer's step."""

from __future__ import annotations

from functools import partial

from codesign.figures.metric import Axis, Metric

_metric = partial(
    Metric,
    variants=("software", "proposal"),
    by_gemm=True,
    dearer=True,
    of_layer=True,
    absent="counted for layers of the large models with 8-bit operands, and on the network for mixtures of experts",
)
_of_slices = partial(
    Metric,
    variants=("today", "software", "proposal"),
    baselines=True,
    dearer=True,
    absent="counted where an operand is a sum of slices",
)
METRICS = (
    _metric(
        "traffic.hbm_bytes",
        "HBM bytes",
        "bytes read from and written to HBM in a layer's step",
        unit="B",
        axis=Axis(judged=True, over_software=True, one_for=("software",)),
        topic="bytes",
    ),
    _metric(
        "traffic.l2_bytes",
        "L2 bytes",
        "bytes between L2 and the SMs in a layer's step",
        unit="B",
        axis=Axis(over_software=True, one_for=("software",)),
    ),
    _metric(
        "traffic.smem_bytes", "shared memory bytes", "bytes into and out of shared memory in a layer's step", unit="B"
    ),
    _metric(
        "traffic.network_bytes",
        "network bytes",
        "bytes a GPU sends to other GPUs in a layer's step",
        unit="B",
        axis=Axis(judged=True, over_software=True, one_for=("software",)),
        topic="bytes",
    ),
    _metric(
        "traffic.cache_bytes",
        "bytes kept for backward",
        "bytes of activations kept from a layer's forward to its backward pass",
        unit="B",
        axis=Axis(judged=True, over_software=True, one_for=("software",)),
        topic="bytes",
    ),
    _of_slices(
        "traffic.passes",
        "instruction passes",
        "products of slices that instructions multiply for each product of the GEMM; over the rate of the instruction, the "
        "Tensor Core's time",
    ),
    _of_slices(
        "traffic.slice_bytes",
        "bytes of slices",
        "bytes of all slices of an element, mean of A and B; scales of rows and columns left out",
        unit="B",
    ),
    _metric("traffic.sm_share", "SMs for communication", "share of the GPU's SMs that communication takes", share=True),
    _metric(
        "energy.joules",
        "energy",
        "energy of moving and multiplying in a layer's step",
        unit="J",
        axis=Axis(over_software=True, one_for=("software",)),
        topic="energy",
    ),
)
