"""Formats, casts and products for notebooks: names in place of specs, and results in the caller's kind of array.

Each function takes lists, numpy arrays (with the dtypes of ml_dtypes, too) and torch tensors on any device. Given a tensor, it
returns tensors on the same device; otherwise numpy arrays. isa_model has the same functions for specs and numpy.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from isa_model.arguments import require
from isa_model.cast import Cast, Quantised
from isa_model.formats import Format, Overflow, named
from isa_model.rounding import Rounding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from codesign.proposal.proposal import Proposal
    from isa_model.instruction import Instruction
    from isa_model.matmul import Engine


def encode(
    fmt: str | Format,
    x: ArrayLike,
    rounding: str = "nearest-even",
    overflow: Overflow | None = None,
    rng: np.random.Generator | None = None,
) -> Any:
    """Return the codes of an array of real numbers in a format, as unsigned integers of the same shape.

    `overflow` defaults to the format's own rule. `stochastic` rounding draws from `rng`.
    Raises InputError for an unknown format, ValueError for what is no array of real numbers, and for a rounding mode or an
    overflow rule that does not exist or that the format cannot follow.
    """
    from isa_model.array_codec import encode_array

    if rounding not in list(Rounding):
        raise ValueError(f"rounding is {rounding!r}; one of: {', '.join(Rounding)}")
    return _like(x, encode_array(_format(fmt), x, Rounding(rounding), overflow, rng))


def decode(fmt: str | Format, codes: ArrayLike) -> Any:
    """Return the values of an array of a format's codes, or of its own dtype, as float64 in the same shape.

    They are exact, except that integers of over 53 bits are rounded.
    Raises InputError for an unknown format, ValueError for an array of another dtype.
    """
    from isa_model.array_codec import decode_array

    return _like(codes, decode_array(_format(fmt), codes))


def quantise(
    cast: str | Format | Cast, x: ArrayLike, scales: ArrayLike | None = None, seed: int = 0, **fields: Any
) -> Quantised:
    """Return a matrix after a cast to a format, with a scale for each group: `quantise("e4m3", x, group=(1, 128))`.

    `fields` are those of `isa_model.Cast`, or change those of a given cast. `scales`, one per group, replace the computed
    ones. `seed` is that of a cast that rounds at random. The result holds `codes`, `scales` (of a cast with `coarser` levels
    a list, the finest first) and the shares lost to underflow and overflow; `dequantise` gives its values.
    Raises InputError for an unknown format, ValueError for an impossible cast, and as `isa_model.quantise` does.
    """
    from isa_model.cast import quantise as cast_to

    found = cast_to(_cast(cast, fields), x, scales, seed)
    own = [_like(x, level) for level in found.scales] if found.cast.coarser else _like(x, found.scales)
    return replace(found, made=replace(found.made, codes=_like(x, found.codes)), scales=own)


def dequantise(
    cast: str | Format | Cast | Quantised,
    codes: ArrayLike | None = None,
    scales: ArrayLike | None = None,
    **fields: Any,
) -> Any:
    """Return elements times their scales as float64: those of `quantise`, or `codes` and `scales` of a cast.

    `dequantise("e4m3", weight, scales, group=(128, 128))` reads the weights of a checkpoint: codes, or a tensor of the format's
    own dtype, with one scale per group; of a cast with `coarser` levels, a list of scales, the finest first.
    Raises InputError for an unknown format, ValueError for an impossible cast and for arrays that do not fit it.
    """
    import numpy as np

    from isa_model.array_codec import decode_array, to_codes
    from isa_model.cast import FP32
    from isa_model.groups import count, spread

    if isinstance(cast, Quantised):
        if codes is not None or scales is not None or fields:
            raise ValueError("a quantised tensor has its codes, scales and cast already")
        made, codes, scales = cast.cast, cast.codes, cast.scales
    else:
        made = _cast(cast, fields)
    if codes is None or (scales is None and made.scale is not None):
        raise ValueError(f"{'codes are' if codes is None else 'scales are'} missing")
    elements = to_codes(made.to, codes, "codes")
    if elements.ndim != 2:
        raise ValueError(f"codes is {elements.shape}, of {elements.ndim} dimensions; expected a matrix")
    levels = [(made.scale or FP32, made.group), *((level.format, level.group) for level in made.coarser)]
    given = [encode(FP32, [[1.0]])] if scales is None else scales if made.coarser else [scales]
    if not (isinstance(given, list | tuple) and len(given) == len(levels)):
        raise ValueError(f"scales has {len(levels)} levels: expected a list of as many arrays, the finest first")
    factors: Any = 1.0
    for i, ((fmt, group), own) in enumerate(zip(levels, given, strict=True)):
        name = f"scales[{i}]" if made.coarser else "scales"
        of_groups = to_codes(fmt, own, name)
        if of_groups.shape != (expected := count(group, elements.shape)):
            raise ValueError(f"{name} is {of_groups.shape}; groups of {group or elements.shape} make it {expected}")
        with np.errstate(invalid="ignore"):  # of a level's zero and another's infinity
            factors = factors * spread(decode_array(fmt, of_groups), group, elements.shape)
    with np.errstate(invalid="ignore"):  # an infinite scale makes a zero NaN
        return _like(codes, decode_array(made.to, elements) * factors)


def matmul(
    instruction: str | PathLike[str] | Instruction | Proposal,
    a: ArrayLike,
    b: ArrayLike,
    c: ArrayLike | None = None,
    scale_a: ArrayLike | None = None,
    scale_b: ArrayLike | None = None,
    engine: Engine = "auto",
    positions: ArrayLike | None = None,
    seed: int | None = None,
    tables_a: ArrayLike | None = None,
    tables_b: ArrayLike | None = None,
) -> Any:
    """Return D = A B + C as an instruction computes it, bit for bit; of a proposal, its changed instruction.

    `instruction` may be the name of one of the catalogue or of a shipped proposal, or a file. All else is as in
    `isa_model.matmul`: operands hold values in the dtype of their format, or codes; a sparse one needs `positions`, one that is
    looked up `tables_a` or `tables_b`, and an instruction that rounds at random a `seed`.
    Raises InputError for an unknown name, ValueError for operands that do not fit.
    """
    from codesign.proposal.proposal import Proposal
    from codesign.proposal.target import instruction_of
    from isa_model.instruction import Instruction
    from isa_model.matmul import matmul as multiply

    if isinstance(instruction, str | PathLike):
        instruction = instruction_of(fspath(instruction))
    elif isinstance(instruction, Proposal):
        instruction = instruction.proposed()
    require("the instruction", instruction, Instruction, "it comes first, as a name, a Proposal or an Instruction")
    for name, x in (("a", a), ("b", b)):
        if isinstance(x, Quantised):
            raise ValueError(f"{name} is a Quantised; pass its `codes` as {name}, and its `scales` as scale_{name}")
    given = next((x for x in (a, b, c) if _is_tensor(x)), a)
    return _like(given, multiply(instruction, a, b, c, scale_a, scale_b, engine, positions, seed, tables_a, tables_b))


def _format(fmt: str | Format) -> Format:
    if isinstance(fmt, Format):
        return fmt
    require("the format", fmt, str, "it comes first, as a name such as 'e4m3' or a Format")
    return named(fmt)


def _cast(cast: str | Format | Cast, fields: dict[str, Any]) -> Cast:
    """Return a cast with some fields changed. Raises ValueError with the fault of an impossible one."""
    from pydantic import ValidationError

    from isa_model.diagnostics import Document
    from isa_model.explain import explain

    if isinstance(cast, Cast):
        fields = {name: getattr(cast, name) for name in Cast.model_fields} | fields
    else:
        fields = {"to": _format(cast), **fields}
    if fields.get("scale", "") is None:
        fields = {"group": None, **fields}  # without scales there are no groups
    try:
        return Cast.model_validate(fields)
    except ValidationError as error:
        fault = explain(Document("", {}, []), error, Cast, fields)[0]
        place = ".".join(map(str, fault.path))
        raise ValueError(
            f"{f'{place}: ' if place else ''}{fault.message}" + f"; {fault.hint}" * bool(fault.hint)
        ) from None


def _is_tensor(x: Any) -> bool:
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return isinstance(tensor, type) and isinstance(x, tensor)


def _like(given: Any, array: NDArray[Any]) -> Any:
    """Return an array as a tensor on the device of `given` if that is a tensor; codes stand for a dtype that torch lacks."""
    if not _is_tensor(given):
        return array
    torch = sys.modules["torch"]
    if array.dtype.kind in "biuf" and array.dtype.isbuiltin == 1:
        return torch.from_numpy(array.copy()).to(given.device)
    codes = torch.from_numpy(array.view(f"u{array.itemsize}").copy())
    own = None if "int" in array.dtype.name else getattr(torch, array.dtype.name, None)
    return (codes.view(own) if own else codes).to(given.device)
