"""Arrays in .npz files from untrusted sources: what a file claims is checked before memory is taken for it.

An .npz is a zip archive of .npy files (NumPy enhancement proposal 1). Only what numpy.savez writes is read: stored or
deflated members, each an array of booleans, integers or floating-point numbers.
"""

from __future__ import annotations

import ast
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from isa_model.diagnostics import InputError
from isa_model.input_files import MIB, open_file, reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_ELEMENTS = 1 << 28
"""Most elements of one array: 1 GiB as float32."""
MAX_ARRAYS = 10_000
MAX_RATIO = 64
"""Highest compression ratio of an array of more than SMALL bytes. Tensors of real models compress less than tenfold; a
large array of one value must be stored uncompressed."""
SMALL = 64 * MIB
_DIRECTORY = 4 * MIB
_HEADER = 10_000
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, struct.error, RuntimeError, MemoryError)
"""Exceptions of zipfile for a damaged archive; RuntimeError includes NotImplementedError and RecursionError."""


@dataclass(frozen=True)
class Array:
    """One array of a file: element type and shape, and the position of its elements in the archive member."""

    member: str
    dtype: str
    """numpy's name of the element type."""
    shape: tuple[int, ...]
    fortran: bool
    """True if elements are in column-major order."""
    start: int
    """Offset of the elements in the member, in bytes."""
    size: int
    """Size of the elements, in bytes."""


class Archive:
    """An open .npz file whose directory and headers have been checked."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self._archive = path, archive
        self.arrays = {info.filename[:-4]: _header(path, archive, info) for info in archive.infolist()}
        """Arrays by name."""

    def check(self, name: str) -> None:
        """Read an array without keeping it. Raises InputError if its checksum is wrong."""
        with _told(self.path), self._archive.open(self.arrays[name].member) as member:
            while member.read(MIB):
                pass

    def read(self, name: str) -> NDArray[Any]:
        """Return the elements of an array. Raises InputError if its checksum is wrong."""
        import numpy as np

        array = self.arrays[name]
        with _told(self.path), self._archive.open(array.member) as member:
            member.read(array.start)
            content = member.read(array.size + 1)
        if len(content) != array.size:
            raise _damaged(self.path, array.member, "it is shorter than its header says")
        values = np.frombuffer(content, array.dtype)
        return values.reshape(array.shape, order="F" if array.fortran else "C")


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open an .npz file for reading. Raises InputError with what is wrong with the file, and where."""
    with ExitStack() as stack:
        with _told(path):
            file = stack.enter_context(open_file(path))
            archive = stack.enter_context(zipfile.ZipFile(bounded := _Bounded(file)))
            bounded.directory = False
            _check_directory(path, archive.infolist(), file.seek(0, 2))
            opened = Archive(path, archive)
        yield opened


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Raise InputError in place of what zipfile raises for a damaged archive."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError.of(f"{path} cannot be read: {reason(error)}") from None
    except _DAMAGED as error:
        raise InputError.of(f"{path} is not an .npz file, or is damaged: {error}") from None


class _Bounded:
    """A file that gives only a few MiB at a time while the archive's directory is read, whatever size that claims."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell, self.seekable = file, file.seek, file.tell, file.seekable
        self.directory = True

    def read(self, count: int = -1) -> bytes:
        if not self.directory:
            return self.file.read(count)
        content = self.file.read(_DIRECTORY + 1 if count < 0 else min(count, _DIRECTORY + 1))
        if len(content) > _DIRECTORY:
            raise ValueError(f"its directory takes more than {_DIRECTORY // MIB} MiB")
        return content


def _check_directory(path: Path, members: list[zipfile.ZipInfo], size: int) -> None:
    if len(members) > MAX_ARRAYS:
        raise InputError.of(f"{path} holds {len(members)} arrays", f"at most {MAX_ARRAYS}")
    end = 0
    for info in sorted(members, key=lambda i: i.header_offset):
        name = info.filename
        if not name.endswith(".npy"):
            raise _damaged(path, name, "its name does not end in .npy")
        if info.flag_bits & 1:
            raise _damaged(path, name, "it is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _damaged(path, name, f"it is compressed by method {info.compress_type}, not stored or deflated")
        if info.header_offset < end or info.header_offset + info.compress_size > size:
            raise _damaged(path, name, "it is outside the file or within another member")
        end = info.header_offset + info.compress_size
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            raise _damaged(path, name, "it is stored, and its size is not the one it claims")
        if info.file_size > max(SMALL, MAX_RATIO * info.compress_size):
            raise _damaged(
                path,
                name,
                f"it claims to be {info.file_size / MIB:.0f} MiB, over {MAX_RATIO} times what is there; such an array must "
                "be stored uncompressed",
            )
    if len({info.filename for info in members}) < len(members):
        raise InputError.of(f"{path} is a damaged .npz file: two members have the same name")


def _header(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    name = info.filename
    with archive.open(info) as member:
        magic = member.read(8)
        if magic[:6] != b"\x93NUMPY" or magic[6:] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
            raise _damaged(path, name, "it is not an .npy file of version 1, 2 or 3")
        width, code = (2, "<H") if magic[6] == 1 else (4, "<I")
        length = struct.unpack(code, member.read(width))[0]
        if length > _HEADER:
            raise _damaged(path, name, f"its header takes {length} bytes, more than {_HEADER}")
        text = member.read(length)
    try:
        about = ast.literal_eval(text.decode("latin1"))
        descr, fortran, shape = about["descr"], about["fortran_order"], about["shape"]
        extra = about.keys() - {"descr", "fortran_order", "shape"}
    except (SyntaxError, ValueError, TypeError, KeyError, AttributeError, RecursionError, MemoryError):
        raise _damaged(path, name, "its header is not what numpy writes") from None
    if extra or type(fortran) is not bool or not isinstance(shape, tuple) or len(shape) > 32:
        raise _damaged(path, name, "its header is not what numpy writes")
    if not all(type(n) is int and n >= 0 for n in shape) or prod(shape) > MAX_ELEMENTS:
        raise _damaged(path, name, f"its shape {_short(shape)} has negative sizes, or over {MAX_ELEMENTS} elements")
    start = 8 + width + length
    size = info.file_size - start
    if width_of(descr) and size != prod(shape) * width_of(descr):
        raise _damaged(path, name, f"its {size} bytes of elements do not fit its shape {_short(shape)}")
    return Array(name, descr if isinstance(descr, str) else "a structure", shape, fortran, start, size)


def width_of(dtype: Any) -> int:
    """Return the size in bytes of an element of a plain numerical type, by numpy's name of it; 0 for any other type."""
    if not isinstance(dtype, str) or len(dtype) != 3 or dtype[0] not in "<>|" or dtype[1] not in "biufc":
        return 0
    return {"1": 1, "2": 2, "4": 4, "8": 8}.get(dtype[2], 0)


def _short(shape: tuple[Any, ...]) -> str:
    text = str(shape)
    return text if len(text) < 80 else text[:76] + "...)"


def _damaged(path: Path, member: str, what: str) -> InputError:
    return InputError.of(f"`{member[:100]}` of {path} cannot be read: {what}", "an .npz file as numpy.savez writes it")
