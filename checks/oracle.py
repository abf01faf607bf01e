"""The package mmasim as an oracle: its instructions by the catalogue's names, computing on our raw codes.

mmasim 2.1.1 (MIT) models ten architectures in torch; its authors compared it with the chips (arXiv 2511.10909). It is installed
by `pip install -e '.[oracle]'` and needs a C++ compiler for its fused multiply-add.
"""

from __future__ import annotations

from typing import Any

import mmasim.amd
import mmasim.nv_ptx
import numpy as np
import torch
from mmasim.amd.isa_mfma import arch_mfma_suffix
from mmasim.nv_ptx import isa_mma, isa_tcgen05mma, isa_wgmma

from isa_model.array_codec import code_dtype, decode_array
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.stimulus import StressOperands

ARCHITECTURES = {"Ada Lovelace": "ada", "RTX Blackwell": "rtx_blackwell"}
UNITS = {
    "mma": (
        (mmasim.nv_ptx.MMA, isa_mma.mma_shape_and_type),
        (mmasim.nv_ptx.MMABlockScale, isa_mma.mma_block_scale_shape_and_type),
    ),
    "wgmma": ((mmasim.nv_ptx.WGMMA, isa_wgmma.wgmma_shape_and_type),),
    "tcgen05": (
        (mmasim.nv_ptx.TCGen05MMA, isa_tcgen05mma.tcgen05mma_shape_and_type),
        (mmasim.nv_ptx.TCGen05MMABlockScale, isa_tcgen05mma.tcgen05mma_block_scale_shape_and_type),
    ),
    "mfma": ((mmasim.amd.MFMA, arch_mfma_suffix),),
}
SIGNED = {8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}
HOST_NAN = ("MMA_FMA", "MMA_E_FDPA", "MMA_FTZ_MUL_ADD")
"""Algorithms of mmasim whose NaN codes are those of the host's processor."""


def instructions() -> dict[str, tuple[Any, str, str]]:
    """Return every instruction of mmasim by our name: its class and the class's arguments."""
    return {
        f"{ARCHITECTURES.get(architecture, architecture.lower())}.{unit}.{name}": (kind, architecture, name)
        for unit, kinds in UNITS.items()
        for kind, table in kinds
        for architecture, names in table.items()
        for name in names
    }


class Oracle:
    """One instruction of mmasim, computing on our codes."""

    def __init__(self, spec: Instruction) -> None:
        kind, architecture, name = instructions()[spec.name]
        self.spec, self.operation = spec, kind(architecture, name)
        self.nan_is_the_hosts = type(self.operation.arithmetic_op).__name__ in HOST_NAN
        self.packed = getattr(self.operation, "packing", 1) == 2

    def __call__(self, x: StressOperands) -> np.ndarray[Any, Any]:
        """Return the codes of D (M, N). K is that of the instruction; M and N are free."""
        op, spec = self.operation, self.spec
        a = self._tensor(spec.a, x.a, op.a_type)
        b = self._tensor(spec.b, np.ascontiguousarray(x.b.T), op.b_type).T
        arguments = [a, b, self._tensor(spec.c_format, x.c, op.c_type)]
        if x.scale_a is not None and x.scale_b is not None:
            arguments += [_view(x.scale_a, op.s_type), _view(np.ascontiguousarray(x.scale_b.T), op.s_type).T]
        d = op(*arguments).contiguous()
        return d.view(SIGNED[8 * d.itemsize]).numpy().view(code_dtype(spec.accumulator))

    def set_aside(self, x: StressOperands) -> np.ndarray[Any, Any]:
        """Return the outputs (M, N) where mmasim is wrong: BF8 by BF8 on CDNA3 with an infinity or NaN among the terms.

        There the running value is dropped if its exponent is more than 25 below that of the largest product. mmasim takes
        exponents from frexp, which returns 0 for infinities and NaNs, so products from 2**25 on make it drop them. In a
        register they have the largest exponent of all, and no other instruction of mmasim drops them.
        """
        if not self.spec.name.startswith("cdna3") or not self.spec.name.endswith("bf8_bf8"):
            return np.zeros(x.c.shape, bool)
        a, b, c = (
            ~np.isfinite(decode_array(fmt, codes))
            for fmt, codes in ((self.spec.a, x.a), (self.spec.b, x.b), (self.spec.accumulator, x.c))
        )
        return a.any(axis=1)[:, None] | b.any(axis=0) | c

    def _tensor(self, fmt: Format, codes: np.ndarray[Any, Any], dtype: torch.dtype) -> torch.Tensor:
        """Return codes as mmasim takes them, K last; FP4 codes two per byte, the first in the high half, or in bits 5 to 2."""
        if fmt.name == "e2m1":
            codes = codes & 15
            codes = codes[:, ::2] << 4 | codes[:, 1::2] if self.packed else codes << 2
        return _view(np.ascontiguousarray(codes), dtype)


def _view(codes: np.ndarray[Any, Any], dtype: torch.dtype) -> torch.Tensor:
    signed = codes if codes.itemsize == 1 else codes.view(f"i{codes.itemsize}")
    return torch.from_numpy(signed).view(dtype)
