"""Arguments of public functions: arrays as callers have them (lists, numpy arrays of any layout, torch tensors), and scalars.

`array_of` accepts any array; `array_codec.to_codes` turns it into codes, `numbers_of` into numbers.
One rule tells codes from numbers: an array of an unsigned dtype holds codes, any other holds numbers.
Every refusal is a ValueError that names the caller's argument.
"""

from __future__ import annotations

import sys
from numbers import Integral
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


def array_of(name: str, x: ArrayLike) -> NDArray[Any]:
    """Return an array-like as a numpy array that is aligned and in the machine's byte order.

    A torch tensor may be on any device; it gets the numpy or ml_dtypes dtype with the same bits.
    Raises ValueError if `x` is no array, has masked elements, or is a tensor that numpy cannot hold.
    """
    import numpy as np

    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    if isinstance(tensor, type) and isinstance(x, tensor):
        x = _from_torch(name, x)
    if np.ma.is_masked(x):
        raise ValueError(f"{name} has masked elements; fill them first")
    try:
        array = np.asarray(x)
    except MemoryError:
        raise
    except Exception as error:  # whatever an object's own conversion raises
        raise ValueError(f"{name} is not an array: {error}") from None
    number = array.dtype.names is None and (array.dtype.kind in "fiu" or array.dtype.type is not np.void)
    if number and not array.dtype.isnative and array.itemsize in (1, 2, 4, 8):
        native = array.dtype.newbyteorder("=")
        array = array.view(f"u{array.itemsize}").byteswap().view(native)
    return array if array.flags.aligned else array.copy()


def _from_torch(name: str, x: Any) -> NDArray[Any]:
    """Return a torch tensor as a numpy array of the same bits."""
    import ml_dtypes
    import numpy as np

    torch = sys.modules["torch"]
    kind = str(x.dtype).removeprefix("torch.")
    if kind == "float4_e2m1fn_x2":
        raise ValueError(f"{name} packs two codes into a byte; unpack it first (isa_model.unpack)")
    try:
        plain = x.detach().cpu().resolve_conj().resolve_neg()
        own = getattr(ml_dtypes, kind, None)
        if own is None:
            return np.asarray(plain.numpy())
        carrier = torch.uint8 if plain.element_size() == 1 else torch.int16
        return np.asarray(plain.contiguous().view(carrier).numpy().view(own))
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name} is a torch tensor that numpy cannot hold ({x.dtype}): {reason}") from None


def numbers_of(name: str, x: ArrayLike, unsigned: np.dtype[Any] | None = None) -> NDArray[np.floating[Any]]:
    """Return an array-like of real numbers as float64; a float32 array stays float32.

    Raises ValueError for other elements (booleans, complex numbers, text, objects), for a number that float64 cannot hold,
    and for an unsigned dtype, which means codes, unless it is `unsigned`.
    """
    import numpy as np

    array = array_of(name, x)
    dtype = array.dtype
    if dtype.kind == "u" and dtype != unsigned:
        raise ValueError(f"{name} has dtype {dtype}, which means codes; expected numbers (isa_model.decode_array)")
    if dtype.names is not None or dtype.kind not in "fiuV" or dtype.type is np.void:
        raise ValueError(f"{name} has dtype {dtype}; expected real numbers")
    if dtype == np.float32:
        return array
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            numbers: NDArray[np.float64] = array.astype(np.float64, copy=False)
            exact = dtype.itemsize < 8 or dtype == np.float64 or _same(numbers, array)
    except (TypeError, ValueError):
        raise ValueError(f"{name} has dtype {dtype}; expected real numbers") from None
    if not exact:
        raise ValueError(f"{name} holds {dtype} numbers that float64 cannot hold; round them first")
    return numbers


def fp32_of(name: str, x: ArrayLike) -> NDArray[np.float32]:
    """Return an array-like of real numbers rounded to FP32, nearest even. Raises ValueError as `numbers_of`."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        return numbers_of(name, x).astype(np.float32, copy=False)


def _same(numbers: NDArray[np.float64], array: NDArray[Any]) -> bool:
    """Return whether the conversion of wide integers or extended floats to float64 was exact."""
    import numpy as np

    if array.dtype.kind in "iu":  # 2**63 and 2**64 would wrap around when converted back
        limit = float(np.iinfo(array.dtype).max)
        return bool(((numbers < limit) & (np.where(numbers < limit, numbers, 0).astype(array.dtype) == array)).all())
    back = numbers.astype(array.dtype)
    return bool(((back == array) | np.isnan(array)).all())


def require(name: str, x: Any, kind: type, hint: str) -> None:
    """Raise ValueError unless `x` is of the class `kind`; `hint` says how to get one."""
    if not isinstance(x, kind):
        raise ValueError(f"{name} is of type {type(x).__name__}; {hint}")


def whole_number(name: str, x: Any) -> int:
    """Return a whole number of Python or numpy as an int. Raises ValueError for anything else."""
    if isinstance(x, bool) or not isinstance(x, Integral):
        raise ValueError(f"{name} is {x!r}; expected a whole number")
    return int(x)


def seed_of(x: Any) -> int:
    """Return a seed as an int. Raises ValueError unless it is a whole number of 64 bits."""
    seed = whole_number("seed", x)
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed = {seed}: expected a whole number from 0 to 2**64 - 1")
    return seed
