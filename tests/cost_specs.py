"""Small instructions for the tests of generated hardware: one for each part of the language."""

from __future__ import annotations

from isa_model import load
from isa_model.instruction import Instruction

FP32 = {"format": "fp32", "rounding": "nearest-even"}
BF16 = {"format": "bf16", "rounding": "nearest-even"}
INT32 = {"format": "int32", "rounding": "nearest-even"}
TRUNCATED = {"format": "fp32", "rounding": "toward-zero", "overflow": "infinity"}


def instruction(stages, a="e4m3", b="e4m3", k=None, accumulator="fp32", **fields):
    body = {"name": "test", "a": a, "b": b, "accumulator": accumulator, "stages": stages, **fields}
    span = 1
    for stage in stages.values():
        span *= stage["terms"] * stage.get("chain", 1)
    return Instruction.model_validate({**body, "shape": {"m": 8, "n": 8, "k": k or span}})


def aligned(terms, bits, rounding="toward-zero", **fields):
    return {"terms": terms, "fraction_bits": bits, "rounding": rounding, **fields}


ODD = {
    "name": "odd",
    "exponent_bits": 4,
    "mantissa_bits": 3,
    "bias": 5,
    "infinity": True,
    "nan": "ieee",
    "overflow": "nan",
}
OWN = {"name": "my own", "exponent_bits": 5, "mantissa_bits": 4, "bias": 17, "infinity": True, "nan": "ieee"}
PADDED = {"name": "padded", "kind": "integer", "mantissa_bits": 5, "low_padding": 3, "overflow": "saturate"}
REGISTER = {"result": FP32}
FUSED = {"accumulator": True, **REGISTER}
MODES = ["toward-zero", "nearest-even", "nearest-away", "up", "down", "to-odd"]
SPECS = {
    **{f"aligned {mode}": instruction({"s": aligned(8, 12, mode, **FUSED)}) for mode in MODES},
    **{
        f"register {mode}": instruction(
            {"s": aligned(4, 20, accumulator=True, result={"format": "fp16", "rounding": mode})}, accumulator="fp16"
        )
        for mode in MODES
    },
    "zeros that count": instruction({"s": aligned(4, 9, zero_exponent=2, **FUSED)}),
    "no more bits than a product": instruction({"s": aligned(4, 2, "nearest-even", **FUSED)}, a="e5m2", b="e5m2"),
    "a wider accumulator": instruction(
        {"s": aligned(4, 10, accumulator={"fraction_bits": 14, "drop_beyond": 12}, result=FP32, zero="ieee")}
    ),
    "infinities in operands": instruction({"s": aligned(4, 13, **FUSED)}, a="e5m2", b="bf16"),
    "subnormals flushed": instruction(
        {"s": aligned(4, 13, accumulator=True, result={**FP32, "subnormals": "flush"})}, flush_inputs=True
    ),
    "registers that saturate": instruction(
        {
            "s": {"terms": 2, "result": {"format": "bf16", "rounding": "up", "overflow": "saturate"}},
            "t": aligned(2, 20, accumulator=True, result=[{"format": "e6m11", "rounding": "down"}, FP32]),
        },
        a="bf16",
        b="bf16",
    ),
    "C aligned lower": instruction({"s": aligned(4, 10, accumulator={"offset": -2, "drop_beyond": 8}, **REGISTER)}),
    "C aligned higher": instruction({"s": aligned(4, 10, accumulator={"offset": 3, "fraction_bits": 14}, **REGISTER)}),
    "opposing terms inverted": instruction({"s": aligned(4, 9, opposing="complement", **FUSED)}),
    "terms inverted beside a wider C": instruction(
        {
            "s": aligned(
                4,
                9,
                opposing="complement",
                zero_exponent=-4,
                accumulator={"fraction_bits": 12, "offset": -2, "drop_beyond": 10},
                **REGISTER,
            )
        },
        a="e5m2",
        b="bf16",
    ),
    "C's subnormals flushed": instruction(
        {"s": aligned(4, 13, accumulator=True, result={"format": "fp16", "rounding": "up"})},
        accumulator="fp16",
        flush_inputs="c",
    ),
    "an infinity in a format that overflows to NaN": instruction(
        {"s": aligned(2, 9, accumulator=True, result={"format": ODD, "rounding": "down", "overflow": "infinity"})},
        a="e5m2",
        accumulator=ODD,
    ),
    "two BF16 registers": instruction({"s": aligned(4, 14, accumulator=True, result=BF16, remainder=BF16)}),
    "errors summed to the end": instruction(
        {
            "s": aligned(
                2,
                9,
                "nearest-even",
                zero="ieee",
                zero_exponent=3,
                accumulator={"fraction_bits": 12, "drop_beyond": 9},
                result={"format": "e5m4", "rounding": "down", "overflow": "infinity", "subnormals": "flush"},
                remainder={"format": "e4m3", "rounding": "to-odd", "joins": "end"},
            )
        },
        accumulator="e5m4",
        c="fp16",
    ),
    "a remainder among inverted terms": instruction(
        {"s": aligned(2, 9, opposing="complement", accumulator=True, result=BF16, remainder=BF16)}, flush_inputs="c"
    ),
    "Kahan's sum": instruction(
        {"s": {"terms": 1, "accumulator": True, "result": FP32, "remainder": {**FP32, "joins": "block"}}},
        "fp32",
        "fp32",
    ),
    "hands of terms": instruction(
        {
            "s": aligned(2, 8, accumulator=True, chain=1, interleave={"run": 1, "parts": 2, "hand": 4}, result=FP32),
            "t": aligned(4, 20, **FUSED),
        },
        k=8,
    ),
    "an exact sum": instruction({"s": {"terms": 8, **FUSED}}),
    "a float tree": instruction(
        {
            "p": {"terms": 1, "result": FP32},
            "s": {"terms": 2, "result": FP32, "zero": "ieee"},
            "c": {"terms": 1, **FUSED},
        },
        a="bf16",
        b="bf16",
    ),
    "a fused multiply-add": instruction({"s": {"terms": 1, "zero": "ieee", **FUSED}}, a="fp32", b="fp32"),
    "two interleaved steps": load("hopper.mma.m16n8k16.f32.e4m3.e4m3.f32").model_copy(update={"widen": None}),
    "fp16 accumulation": load("hopper.mma.m16n8k16.f16.e5m2.e5m2.f16"),
    "scales added to exponents": instruction(
        {"s": aligned(8, 14, accumulator=True, result=TRUNCATED)},
        scale={"a": {"group": [1, 4], "format": "ue8m0"}, "b": {"group": [4, 1], "format": "ue8m0"}},
    ),
    "scales multiplied onto exact sums": instruction(
        {
            "dot": {"terms": 4, "exponent": 0},
            "fuse": aligned(2, 35, accumulator=True, zero_exponent=-139, result=TRUNCATED),
        },
        a="e2m1",
        b="e2m1",
        scale={
            "a": {"group": [1, 4], "format": "ue4m3"},
            "b": {"group": [4, 1], "format": "ue4m3"},
            "onto": "dot",
        },
    ),
    "a rounded scaled sum": instruction(
        {"s": aligned(4, 13), "c": {"terms": 1, "zero": "ieee", **FUSED}},
        scale={
            "a": {"group": [1, 4], "format": "fp32"},
            "b": {"group": [4, 1], "format": "fp32"},
            "onto": "s",
            "product": FP32,
            "result": {"format": "bf16", "rounding": "nearest-even"},
        },
    ),
    "scales that are infinite or zero on sums that cancel": instruction(
        {"s": aligned(4, 13, zero_exponent=-30), "c": {"terms": 1, "zero": "ieee", **FUSED}},
        a="e5m2",
        b="e5m2",
        scale={"a": {"group": [1, 4], "format": "fp16"}, "b": {"group": [4, 1], "format": "fp16"}, "onto": "s"},
    ),
    "names and formats of one's own": instruction(
        {
            "my_stage": aligned(2, 13, result={"format": {**OWN, "bias": 30}, "rounding": "to-odd"}),
            "my-stage": aligned(1, 20, **FUSED),
        },
        a=OWN,
    ),
    "widened operands": load("hopper.mma.m16n8k32.f32.e4m3.e5m2.f32"),
    "widened by fewer places than a mantissa has": instruction(
        {"s": aligned(4, 13, **FUSED)}, b="e3m2", widen={**OWN, "exponent_bits": 6, "mantissa_bits": 9, "bias": 8}
    ),
    "products beyond a power of two": instruction({"s": aligned(4, 13, **FUSED)}, infinite_from=5),
    "C in a format of its own": load("volta.mma.m8n8k4.f32.f16.f16.f16"),
    **{
        f"integers, {a} by {b}, {overflow}": instruction(
            {"s": {"terms": 4, "accumulator": True, "result": {**INT32, "overflow": overflow}}},
            a,
            b,
            accumulator="int32",
        )
        for a, b, overflow in (("int8", "uint8", "wrap"), ("int8", "int8", "saturate"), ("uint4", "int4", "saturate"))
    },
    "integers with ignored bits": instruction(
        {
            "s": {
                "terms": 2,
                "accumulator": True,
                "result": {"format": {**PADDED, "mantissa_bits": 9}, "rounding": "up"},
            }
        },
        a=PADDED,
        b="uint4",
        accumulator={**PADDED, "mantissa_bits": 11},
    ),
    "subnormals alone": instruction(
        {
            "s": {
                "terms": 1,
                "accumulator": True,
                "result": {"format": "e1m3ieee", "rounding": "up", "overflow": "saturate"},
            }
        },
        accumulator="e1m3ieee",
    ),
    "a constant scale": instruction(
        {"s": aligned(4, 13), "c": {"terms": 1, "zero": "ieee", **FUSED}}, scale={"power": -7, "onto": "s"}
    ),
    "two chains in turn": instruction(
        {
            "s": {"terms": 1, "accumulator": True, "chain": 2, "interleave": {"run": 1, "parts": 2, "to": "chains"}}
            | {"result": {"format": "e4m3", "rounding": "nearest-even"}},
            "t": aligned(2, 12, **FUSED),
        },
        a="e2m1",
        b="e2m1",
        k=4,
    ),
    "scaled groups of integers": instruction(
        {"s": {"terms": 2, "accumulator": True, "chain": 2, "result": INT32}, "t": {"terms": 1, "result": FP32}}
        | {"c": {"terms": 1, "zero": "ieee", **FUSED}},
        a="int8",
        b="int8",
        scale={"a": {"group": [1, 4], "format": "fp32"}, "b": {"group": [4, 1], "format": "fp32"}, "onto": "t"}
        | {"product": FP32},
    ),
    "clamped integers of both kinds, scaled by powers of two": instruction(
        {
            "s": {"terms": 8, "accumulator": True, "chain": 1, "result": {"format": "int8", "rounding": "up"}},
            "c": aligned(2, 16, **FUSED),
        },
        a="uint4",
        b="int4",
        scale={"b": {"group": [8, 1], "format": "ue8m0"}, "onto": "s"},
    ),
    "tables of numbers": instruction(
        {"s": aligned(4, 13, zero="ieee"), "c": {"terms": 1, "zero": "ieee", **FUSED}},
        a="posit8",
        b={"name": "lut", "kind": "table", "values": [0, 0.5, -1, 1.75, "infinity", "nan", -3, "-infinity"]},
        scale={"a": {"group": [1, 4], "format": {"name": "twos", "kind": "table", "values": [1, 4]}}, "onto": "s"},
    ),
    "scales of several levels": instruction(
        {"s": aligned(2, 13), "c": {"terms": 2, "accumulator": True, "result": FP32}},
        a="e2m1",
        b="e2m1",
        scale={
            "a": {"group": [1, 2], "format": "e3m2", "coarser": [{"group": [1, 4], "format": "ue8m0"}]},
            "b": {"group": [4, 1], "format": "ue4m3", "coarser": [{"group": None, "format": "fp16"}]},
            "onto": "s",
        },
    ),
    "random bits": instruction(
        {
            "s": aligned(2, 13, result={"format": "e4m3", "rounding": "stochastic", "random_bits": 2}),
            "c": {"terms": 2, "accumulator": True, "zero": "ieee"}
            | {"result": [{**FP32, "rounding": "stochastic", "random_bits": 9, "overflow": "ieee"}]},
        },
        a="e5m2",
    ),
    "random bits for subnormals": instruction(
        {"s": aligned(4, 20, accumulator=True, result={"format": "e5m2", "rounding": "stochastic", "random_bits": 7})},
        accumulator="e5m2",
    ),
    "integers by floating point": instruction({"s": aligned(4, 13, **FUSED)}, a="int4", b="e4m3"),
    "integers that are aligned": instruction(
        {"s": {"terms": 4, "zero": "ieee", "accumulator": True, "result": FP32}}, a="int4", b="int8", c="bf16"
    ),
    "4 terms": instruction({"s": aligned(4, 13, **FUSED)}),
    "128 terms": instruction({"s": aligned(128, 13, **FUSED)}, a="e2m1", b="e2m1"),
}

SCALED = instruction(
    {"s": aligned(4, 13), "c": {"terms": 1, "zero": "ieee", **FUSED}},
    scale={
        "a": {"group": [1, 4], "format": "fp32"},
        "b": {"group": [4, 1], "format": "fp32"},
        "onto": "s",
        "product": FP32,
    },
)
"""A small unit with everything that special values can meet: sums that cancel, scales whose product overflows, C."""


def together():
    """Return small instructions of one datapath: FP8, FP16, BF16 and integers."""
    window = {"accumulator": True, "zero_exponent": -133, "result": TRUNCATED}
    narrow = {**window, "result": {**TRUNCATED, "format": "e8m13"}}
    whole = {"s": {"terms": 2, "accumulator": True, "result": {**INT32, "overflow": "saturate"}}}
    return (
        instruction({"s": aligned(2, 13, **narrow)}),
        instruction({"s": aligned(1, 25, **window)}, a="fp16", b="fp16"),
        instruction({"s": aligned(1, 25, **window)}, a="bf16", b="bf16"),
        instruction(whole, a="int8", b="int8", accumulator="int32"),
    )
