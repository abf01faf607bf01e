"""Tensors in files: `.safetensors` and `.npz`, their names and shapes read without numpy, their values as float32."""

from __future__ import annotations

import ast
import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isa_model.diagnostics import InputError, suggest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

READABLE = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
"""Element types that can be read, with their bytes. BF16 is taken as it is; the others are rounded to BF16 when drawn."""
_NUMPY = {"<f2": "F16", "<f4": "F32", "<f8": "F64"}
_LONGEST_HEADER = 100 << 20


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its element type as safetensors names it, shape, and the bytes it takes in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    stop: int = 0


def entries(path: Path) -> dict[str, Entry]:
    """Every tensor of a file by name. Raises InputError when the file is missing or is neither .safetensors nor .npz."""
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)[0]
        if path.suffix == ".npz":
            return _npz(path)
    except OSError as error:
        raise InputError.of(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, KeyError, TypeError, SyntaxError, struct.error, zipfile.BadZipFile):
        raise InputError.of(f"{path} is no {path.suffix} file, or a damaged one") from None
    raise InputError.of(f"{path} holds no tensors that can be read", "a .safetensors or .npz file")


def entry(path: Path, name: str) -> Entry:
    """One tensor of a file: a finite-shape matrix of a readable type. Raises InputError saying which of these fails."""
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
    return tensor


def read(path: Path, name: str) -> NDArray[np.float32]:
    """A matrix as float32. Raises InputError as `entry`, and where it is not finite."""
    import numpy as np

    tensor = entry(path, name)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            values: NDArray[np.float32] = file[name].astype(np.float32)
    else:
        import ml_dtypes

        types: dict[str, Any] = {"BF16": ml_dtypes.bfloat16, "F16": "<f2", "F32": "<f4", "F64": "<f8"}
        base = _safetensors(path)[1]
        with open(path, "rb") as raw:
            raw.seek(base + tensor.start)
            content = raw.read(tensor.stop - tensor.start)
        if len(content) != READABLE[tensor.dtype] * tensor.shape[0] * tensor.shape[1]:
            raise InputError.of(f"{path} is no .safetensors file, or a damaged one")
        values = np.frombuffer(content, types[tensor.dtype]).reshape(tensor.shape).astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError.of(f"tensor `{name}` of {path} is not finite everywhere", "operands are finite numbers")
    return values


def metadata(path: Path) -> dict[str, str]:
    """What a .safetensors file says about itself."""
    with open(path, "rb") as raw:
        length = struct.unpack("<Q", raw.read(8))[0]
        return dict(json.loads(raw.read(min(length, _LONGEST_HEADER))).get("__metadata__", {}))


def write_safetensors(path: Path, tensors: dict[str, NDArray[Any]], about: dict[str, str]) -> None:
    """Write BF16 matrices (ml_dtypes.bfloat16) with metadata, in the layout of safetensors 0.4."""
    header: dict[str, Any] = {"__metadata__": about}
    start = 0
    for name, values in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [start, start + values.nbytes]}
        start += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as raw:
        raw.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            raw.write(values.tobytes())
    temporary.replace(path)


def _safetensors(path: Path) -> tuple[dict[str, Entry], int]:
    """Its tensors, and where their bytes begin."""
    with open(path, "rb") as raw:
        length = struct.unpack("<Q", raw.read(8))[0]
        if length > _LONGEST_HEADER:
            raise ValueError
        header = json.loads(raw.read(length))
    found = {
        name: Entry(about["dtype"], tuple(about["shape"]), *about["data_offsets"])
        for name, about in header.items()
        if name != "__metadata__"
    }
    return found, 8 + length


def _npz(path: Path) -> dict[str, Entry]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                head = member.read(12)
                if head[:6] != b"\x93NUMPY":
                    continue
                short = head[6] == 1
                length = struct.unpack("<H", head[8:10])[0] if short else struct.unpack("<I", head[8:12])[0]
                text = (head[10:] if short else b"") + member.read(length - (2 if short else 0))
                about = ast.literal_eval(text.decode("latin1"))
            kind = str(about["descr"])
            found[name.removesuffix(".npy")] = Entry(_NUMPY.get(kind, kind), tuple(about["shape"]))
    return found
