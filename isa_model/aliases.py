"""Names of number formats in other libraries, instruction sets and vendors' manuals, for suggestions."""

from __future__ import annotations

import re

NAMES = {
    "fp64": "double float64 f64 binary64",
    "fp32": "single float float32 f32 binary32",
    "tf32": "tensorfloat tensorfloat32 tfloat32 fp19",
    "bf16": "bfloat bfloat16 brainfloat16 nvbfloat16",
    "fp16": "half float16 f16 binary16",
    "e4m3": "fp8 float8 f8 mxfp8 mxf8 hf8",
    "e5m2": "bf8",
    "e2m3": "fp6 float6 f6 mxfp6 mxf6",
    "e3m2": "bf6",
    "e2m1": "fp4 float4 f4 mxfp4 mxf4 nvfp4 nvf4",
    "e4m3fnuz": "",
    "e5m2fnuz": "",
    "e4m3b11fnuz": "e4m3b11",
    "ue8m0": "e8m0 e8m0fnu",
    "ue4m3": "",
    "int32": "s32 i32 int signed32",
    "int8": "s8 i8 char signed8",
    "uint8": "u8 byte uchar unsigned8",
    "int4": "s4 i4 signed4",
    "uint4": "u4 unsigned4",
}
"""Other names of each format, in lower case, reduced to letters and digits."""

_FP8 = "8-bit floating point is `e4m3` or `e5m2`"
_FP6 = "6-bit floating point is `e2m3` or `e3m2`"
_MX = "its scales are `ue8m0`, one per 32 elements, and go under `scale`"
_NV = "its scales are `ue4m3`, one per 16 elements, and go under `scale`"
REMARKS = {
    **dict.fromkeys(("fp8", "float8", "f8"), _FP8),
    **dict.fromkeys(("fp6", "float6", "f6"), _FP6),
    **dict.fromkeys(("mxfp8", "mxf8"), f"{_FP8}; {_MX}"),
    **dict.fromkeys(("mxfp6", "mxf6"), f"{_FP6}; {_MX}"),
    **dict.fromkeys(("mxfp4", "mxf4"), _MX),
    **dict.fromkeys(("nvfp4", "nvf4"), _NV),
}
"""Remarks on names that mean several formats, or a format together with its scales."""

_OURS = {other: ours for ours, others in NAMES.items() for other in (ours, *others.split())}
_PREFIX = re.compile(r"(mx|nv)*(float|fp|f|bf|hf)[468]?(?=u?e\d)")
_SUFFIX = re.compile(r"x[248]$")


def our_name(name: str) -> tuple[str, str]:
    """Return our name for the format that others call `name`, and a remark; both are empty if there is no such format."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower().rpartition(".")[2])
    plain = _PREFIX.sub("", _SUFFIX.sub("", plain))
    for spelled in (plain, plain.removesuffix("fn")):
        if spelled in _OURS and _OURS[spelled] != name:
            return _OURS[spelled], REMARKS.get(spelled, "")
    return "", ""
