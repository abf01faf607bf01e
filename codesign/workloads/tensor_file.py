"""Files of tensors, `.safetensors` and `.npz`. Names and shapes are read without numpy, values as float32.

Files are not trusted: everything a file says about itself is checked against its size before memory is allocated.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from isa_model import npz
from isa_model.diagnostics import InputError, suggest
from isa_model.input_files import MIB, open_file, parse_json, reason
from isa_model.npz import MAX_ELEMENTS
from isa_model.printable import visible

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

READABLE = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
"""Element types that can be read, with their bytes. Types other than BF16 are rounded to BF16 when drawn."""
_NUMPY = {"<f2": "F16", "<f4": "F32", "<f8": "F64"}
_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8} | {
    f"{kind}{bits}": bits for kind in "UIF" for bits in (16, 32, 64)
}
_BITS |= {"BF16": 16, "C64": 64}
"""Bits per element of every type of safetensors 0.6."""
_LONGEST_HEADER = 16 * MIB


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a file: its type as named by safetensors, its shape, and its range of bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    stop: int = 0


def entries(path: Path) -> dict[str, TensorEntry]:
    """Return the tensors of a file by name. Raises InputError if it is missing, damaged, or of another type."""
    if path.suffix == ".npz":
        with npz.opened(path) as file:
            return {name: TensorEntry(_NUMPY.get(x.dtype, x.dtype), x.shape) for name, x in file.arrays.items()}
    if path.suffix != ".safetensors":
        raise InputError.of(f"{path} is not a file of tensors", "a .safetensors or .npz file")
    with _opened(path) as raw:
        return _safetensors(path, raw)[0]


def entry(path: Path, name: str) -> TensorEntry:
    """Return a tensor of a file. Raises InputError unless it is a matrix of a readable type and size."""
    found = entries(path)
    if name not in found:
        hint = suggest(name, found) or f"it has: {', '.join(list(found)[:8])}" + (", ..." if len(found) > 8 else "")
        raise InputError.of(f"{path} has no tensor `{name}`", hint)
    tensor = found[name]
    if tensor.dtype not in READABLE:
        raise InputError.of(
            f"tensor `{name}` of {path} has element type {tensor.dtype}",
            f"one of {', '.join(READABLE)}; .npz has no name for bfloat16: save float32, or .safetensors",
        )
    if len(tensor.shape) != 2 or 0 in tensor.shape:
        raise InputError.of(
            f"tensor `{name}` of {path} has shape {tensor.shape}", "a matrix: two dimensions, none empty"
        )
    if prod(tensor.shape) > MAX_ELEMENTS:
        raise InputError.of(
            f"tensor `{name}` of {path} has {prod(tensor.shape)} elements", f"at most {MAX_ELEMENTS}: a part of it"
        )
    return tensor


def check(path: Path, name: str) -> None:
    """Verify the checksum of a tensor if its file has checksums. Raises InputError if it is wrong."""
    if path.suffix == ".npz":
        with npz.opened(path) as file:
            file.check(name)


def read(path: Path, name: str) -> NDArray[np.float32]:
    """Return a matrix as float32. Raises InputError as `entry` does, and if an element is not finite."""
    import numpy as np

    tensor = entry(path, name)
    if path.suffix == ".npz":
        with npz.opened(path) as file:
            stored = file.read(name)
    else:
        types = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
        with _opened(path) as raw:
            base = _safetensors(path, raw)[1]
            raw.seek(base + tensor.start)
            content = raw.read(tensor.stop - tensor.start)
        stored = np.frombuffer(content, types[tensor.dtype]).reshape(tensor.shape)
        if tensor.dtype == "BF16":  # the upper half of an FP32
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        values: NDArray[np.float32] = stored.astype(np.float32)
    if not (finite := np.isfinite(values)).all():
        row, column = (int(x[0]) for x in np.nonzero(~finite))
        message = f"tensor `{name}` of {path} is not finite everywhere: [{row}, {column}] is {stored[row, column]}"
        raise InputError.of(message, "operands are numbers that are finite in FP32")
    return values


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a .safetensors file without control characters. Raises InputError as `entries` does."""
    with _opened(path) as raw:
        about = _header(path, raw)[0].get("__metadata__", {})
    return {visible(key): visible(text) for key, text in about.items()}


# -- safetensors -----------------------------------------------------------------------------------------------------


def _opened(path: Path) -> BinaryIO:
    try:
        return open_file(path)
    except OSError as error:
        raise InputError.of(f"{path} cannot be read: {reason(error)}") from None


def _header(path: Path, raw: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return the header of an open file as JSON data, and the position of the tensors' bytes."""
    size = raw.seek(0, 2)
    raw.seek(0)
    start = raw.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if length > min(size - 8, _LONGEST_HEADER):
        raise _damaged(path, f"its header would take {length} bytes of {size}, at most {_LONGEST_HEADER // MIB} MiB")
    try:
        header = parse_json(raw.read(length))
    except ValueError as error:
        raise _damaged(path, f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    about = header.get("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values()):
        raise _damaged(path, "`__metadata__` is not an object of texts")
    return header, 8 + length


def _safetensors(path: Path, raw: BinaryIO) -> tuple[dict[str, TensorEntry], int]:
    """Return the tensors of an open file, which must cover the rest of it exactly, and the position of their bytes."""
    header, base = _header(path, raw)
    found = {name: _entry(path, name, about) for name, about in header.items() if name != "__metadata__"}
    end = 0
    for name, tensor in sorted(found.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start != end:
            raise _damaged(path, f"`data_offsets` of `{name}` begin at {tensor.start}, the tensor before ends at {end}")
        end = tensor.stop
    if end != raw.seek(0, 2) - base:
        raise _damaged(path, f"its tensors take {end} bytes, and {raw.seek(0, 2) - base} follow the header")
    return found, base


def _entry(path: Path, name: str, about: Any) -> TensorEntry:
    """Return a tensor of a header. Raises InputError if its description is not valid."""
    if not isinstance(about, dict) or about.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"`{name}` does not have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    if not isinstance(dtype, str) or len(dtype) > 20:
        raise _damaged(path, f"`dtype` of `{name}` is not the name of a type")
    if not _whole(shape) or len(shape) > 32:
        raise _damaged(path, f"`shape` of `{name}` is not a list of whole numbers from 0 to 2^48")
    if not _whole(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _damaged(path, f"`data_offsets` of `{name}` are not two whole numbers in order")
    start, stop = offsets
    if dtype in _BITS and (stop - start) * 8 != prod(shape) * _BITS[dtype]:
        raise _damaged(path, f"`{name}` takes {stop - start} bytes, which {dtype} of shape {tuple(shape)} does not")
    return TensorEntry(dtype, tuple(shape), start, stop)


def _whole(numbers: Any) -> bool:
    """Return whether a value is a list of integers from 0 to 2^48."""
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n <= 1 << 48 for n in numbers)


def _damaged(path: Path, what: str) -> InputError:
    return InputError.of(f"{path} is not a valid .safetensors file: {what}")
