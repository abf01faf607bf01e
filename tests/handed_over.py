"""Hypothesis strategies: one array in every layout that callers have, and arguments that are no such array."""

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from isa_model.array_codec import dtype_of

try:
    import torch
except ImportError:
    torch = None


def swapped(x):
    return x.astype(x.dtype.newbyteorder()) if x.dtype.kind in "fiu" else x


def stepped(x):
    wide = np.zeros(tuple(3 * size for size in x.shape), x.dtype)
    part = wide[(..., *(slice(None, None, 3) for _ in x.shape))]
    part[...] = x
    return part


def backwards(x):
    every = tuple(slice(None, None, -1) for _ in x.shape)
    return np.ascontiguousarray(x[every]).reshape(x.shape)[every]


def misaligned(x):
    packed = np.zeros(x.shape, np.dtype([("pad", "u1"), ("x", x.dtype)]))
    packed["x"] = x
    return packed["x"]


def read_only(x):
    x = np.array(x)
    x.flags.writeable = False
    return x


def as_tensor(x):
    """Return the same bits as a torch tensor, if torch has the dtype."""
    name = x.dtype.name
    if torch is None or not hasattr(torch, name) or name.startswith(("int4", "uint4")):
        return x
    carrier = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}[x.itemsize]
    return torch.from_numpy(np.array(x, order="C").view(carrier)).view(getattr(torch, name))


LAYOUTS = [
    lambda x: np.array(x, order="F"),
    swapped,
    stepped,
    backwards,
    misaligned,
    read_only,
    as_tensor,
    np.ma.array,
    lambda x: swapped(backwards(x)),
    lambda x: swapped(misaligned(x)),
]


def layouts():
    """Draw a function that gives an array another layout, byte order or owner, and keeps its values."""
    return st.sampled_from(LAYOUTS)


def own(fmt, codes):
    """Return codes as an array of the format's own dtype."""
    return codes.view(dtype_of(fmt))


def no_arrays(shape=(2, 2)):
    """Draw arguments that are neither codes nor numbers of any format."""
    return st.sampled_from(
        [
            None,
            "text",
            b"text",
            object(),
            [[1.0], [1.0, 2.0]],
            np.full(shape, None),
            np.full(shape, "x"),
            np.ones(shape, bool),
            np.ones(shape, complex),
            np.ones(shape, "M8[s]"),
            np.zeros(shape, "i4,i4"),
            np.zeros(shape, "V3"),
            np.ma.array(np.ones(shape), mask=np.eye(*shape, dtype=bool)),
            [[10**400]],
            {},
            *([] if torch is None else [torch.ones(shape).to_sparse(), torch.ones(shape, device="meta")]),
        ]
    )


def wrong_codes(shape=(2, 2)):
    """Draw arguments that are no codes or values of E4M3: numbers, other formats, other widths, and no arrays."""
    dtypes = ["i1", "i4", "i8", "u2", "u4", "f2", "f4", "f8", ml_dtypes.bfloat16, ml_dtypes.float8_e5m2]
    return st.one_of(no_arrays(shape), st.sampled_from([np.ones(shape, dtype) for dtype in dtypes]), st.just(1))
