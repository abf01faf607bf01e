"""One GEMM computed in every way: operands drawn and quantised, D from the bit-exact model, errors against exact sums.

A trial takes some rows of A and some columns of B of the true shape, and all of K, for each of its seeds; of captured
tensors it takes all there is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import lcm
from typing import TYPE_CHECKING, Any, Literal

from codesign.lines import Lines, drawn
from codesign.operands import Operand, Scaled, arrived, on_the_way, quantised
from codesign.proposal import Quantisation
from codesign.quantising import cast_of
from codesign.variants import Compared
from codesign.workloads.gemms import Gemm, Role
from codesign.workloads.tensors import CAPTURED, recorded, synthetic
from isa_model.array_codec import code_dtype, decode_array
from isa_model.cast import Cast
from isa_model.formats import FORMATS, Format
from isa_model.instruction import Instruction
from isa_model.path import Step
from isa_model.rounding import Rounding
from isa_model.stage import Register, Spec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]

Side = Literal["a", "b"]


class Sampling(Spec):
    """How much of each GEMM is computed: rows of A and columns of B, the full K, for each seed."""

    rows: int = 16
    """Rows of A for each seed."""
    columns: int = 16
    """Columns of B for each seed."""
    seeds: tuple[int, ...] = tuple(range(16))
    """Seeds; each draws tensors of its own, and figures vary from one to the next as from tensor to tensor."""

    def fresh(self) -> Sampling:
        """Return the same design on as many seeds that this one does not use."""
        first = max(self.seeds, default=-1) + 1
        return self.model_copy(update={"seeds": tuple(range(first, first + len(self.seeds)))})


@dataclass(frozen=True)
class Outcome:
    """D of one variant as numbers (seeds, rows, columns), and the exact products it is held against."""

    d: Float64
    exact: Float64
    """Of the quantised operands."""
    original: Float64
    """Of the operands before quantisation."""
    output: Format
    """Format in which D leaves the GEMM."""
    rows: Float64
    """Weights of rows (seeds, rows)."""
    columns: Float64
    """Weights of columns (seeds, columns)."""
    power: Float64
    """Mean square of what scales the products of a seed's tensors along K; errors are compared after division by it."""
    operands: tuple[Operand, Operand]
    captured: bool = False
    """Whether this is all of a captured tile, whose rows are the clusters, and not some lines of each seed's tensors."""


class Trial:
    """The operands of one GEMM, drawn once; `outcome` computes D on any instruction.

    Operands of the roles that are `carried` may arrive along a path.
    """

    def __init__(
        self,
        gemm: Gemm,
        tensors: str,
        seeds: int | Sequence[int],
        rows: int,
        columns: int,
        quantisation: Quantisation,
        carried: Collection[Role] = (),
    ) -> None:
        self.gemm, self.quantisation, self._carried = gemm, quantisation, carried
        self.a: Lines
        self.b: Lines
        if tensors == CAPTURED:
            assert gemm.recorded is not None
            a, b = recorded(gemm.recorded)
            a, b = (a.T, b.T) if gemm.tokens_along_k else (a, b.T if gemm.a == "gradient" else b)
            self.a, self.b = Lines(a[None], len(a)), Lines(b[None], len(b))
        else:
            # Every GEMM and source has a stream of its own, the same in every run.
            stream = zlib.crc32(f"{gemm.name}/{tensors}".encode())
            listed = [seeds] if isinstance(seeds, int) else list(seeds)
            keys = [[[seed, stream, which] for seed in listed] for which in (0, 1)]
            source_a, source_b = synthetic(tensors, gemm.a), synthetic(tensors, gemm.b)
            self.a = drawn(source_a, keys[0], rows, gemm.m, gemm.k, gemm.tokens_along_k)
            self.b = drawn(source_b, keys[1], columns, gemm.n, gemm.k, gemm.tokens_along_k)
        self._operands: dict[Any, Operand] = {}
        self._exact: dict[Any, Float64] = {}

    @cached_property
    def original(self) -> Float64:
        """The exact product of the operands before quantisation (seeds, rows, columns)."""
        return _exact(self.a.x, self.b.x)

    def result(self, compared: Compared) -> Outcome:
        """Return the outcome of one of the `variants`."""
        compute = self.exact_outcome if compared.variant == "exact" else self.outcome
        return compute(compared.instruction, compared.steps)

    def outcome(self, instruction: Instruction, steps: tuple[Step, ...] = ()) -> Outcome:
        """Return what the instruction makes of the trial's operands, those that are carried with these steps behind them."""
        import numpy as np

        a, b = self.operands(instruction, steps)
        d = np.empty((len(a.codes), a.codes.shape[1], b.codes.shape[1]))
        multiply = multiplier(per_line(instruction))
        for seed in range(len(d)):
            scale_a = None if a.scales is None else a.scales[seed]
            scale_b = None if b.scales is None else np.ascontiguousarray(b.scales[seed].T)
            codes = multiply(a.codes[seed], np.ascontiguousarray(b.codes[seed].T), scale_a, scale_b)
            d[seed] = decode_array(instruction.accumulator, codes)
        return self._outcome(instruction, steps, d)

    def exact_outcome(self, instruction: Instruction, steps: tuple[Step, ...] = ()) -> Outcome:
        """Return the same operands summed exactly and rounded once, to nearest even FP32."""
        from isa_model.lanes import round_to

        fp32 = Register(format=FORMATS["fp32"], rounding=Rounding.NEAREST_EVEN)
        return self._outcome(instruction, steps, round_to(self.exact(instruction, steps), fp32))

    def _outcome(self, instruction: Instruction, steps: tuple[Step, ...], d: Float64) -> Outcome:
        a, b = self.operands(instruction, steps)
        factor = a.factor[:, :, None] * b.factor[:, None, :]
        return Outcome(
            d=d * factor,
            exact=self.exact(instruction, steps) * factor,
            original=self.original,
            output=FORMATS["fp32" if self.gemm.tokens_along_k else "bf16"],
            rows=self.a.weights,
            columns=self.b.weights,
            power=((self.a.scales * self.b.scales) ** 2).mean(axis=1),
            operands=(a, b),
            captured=self.a.whole,
        )

    def exact(self, instruction: Instruction, steps: tuple[Step, ...] = ()) -> Float64:
        """Return the exact product of the quantised operands, without the factors of whole tensors."""
        key = self._key("a", instruction, steps), self._key("b", instruction, steps)
        if key not in self._exact:
            a, b = self.operands(instruction, steps)
            self._exact[key] = _exact(a.values, b.values)
        return self._exact[key]

    def operands(self, instruction: Instruction, steps: tuple[Step, ...] = ()) -> tuple[Operand, Operand]:
        """Return both operands as the instruction takes them."""
        return self._operand("a", instruction, steps), self._operand("b", instruction, steps)

    def _operand(self, which: Side, instruction: Instruction, steps: tuple[Step, ...]) -> Operand:
        key = self._key(which, instruction, steps)
        if key not in self._operands:
            _, cast, scaled, behind, width = key
            floor = self.quantisation.floor if self.quantisation.tensor_scale else None
            lines = self.a if which == "a" else self.b
            if behind:
                turned = self.gemm.tokens_along_k
                self._operands[key] = arrived(behind, cast, scaled, lines, width, floor, turned)
            else:
                self._operands[key] = quantised(cast, scaled, lines, width, floor)
        return self._operands[key]

    def _key(
        self, which: Side, instruction: Instruction, steps: tuple[Step, ...]
    ) -> tuple[Side, Cast, Scaled | None, tuple[Step, ...], int]:
        """All that an operand follows from; the last is its length, K filled up to whole instructions and groups."""
        scale = instruction.scale
        role, fmt, k_axis = (self.gemm.a, instruction.a, 1) if which == "a" else (self.gemm.b, instruction.b, 0)
        side = getattr(scale, which) if scale else None
        behind = on_the_way(steps, role, self.gemm.tokens_along_k) if role in self._carried else ()
        cast = cast_of(self.quantisation, fmt, role, side, k_axis)
        if cast.group is not None and k_axis == 0:
            cast = cast.model_copy(update={"group": cast.group[::-1]})
        scaled = Scaled(side.format, side.group[1 - k_axis], side.group[k_axis]) if side else None
        groups = [s.group[axis] for s, axis in ((scale.a, 1), (scale.b, 0)) if s] if scale else []
        whole = lcm(instruction.shape.k, *groups)
        return which, cast, scaled, behind, -(-self.gemm.k // whole) * whole


def per_line(instruction: Instruction) -> Instruction:
    """Return the instruction with a scale of its own for each row and column: those that share one have it repeated."""
    scale = instruction.scale
    if scale is None:
        return instruction
    update: dict[str, Any] = {}
    if scale.a:
        update["a"] = scale.a.model_copy(update={"group": (1, scale.a.group[1])})
    if scale.b:
        update["b"] = scale.b.model_copy(update={"group": (scale.b.group[0], 1)})
    return instruction.model_copy(update={"scale": scale.model_copy(update=update)})


def multiplier(instruction: Instruction) -> Callable[..., Any]:
    """Return a function of codes of A (M, K), B (K, N) and their scales that gives codes of D: compiled where there is a
    compiler, else by numpy or, for what doubles cannot carry, by the definition."""
    import numpy as np

    from isa_model.engines import cpu
    from isa_model.engines.plan import Unsupported
    from isa_model.product import matmul

    def portable(a: Any, b: Any, scale_a: Any, scale_b: Any) -> Any:
        d = matmul(instruction, a, b, scale_a=scale_a, scale_b=scale_b)
        return d.view(code_dtype(instruction.accumulator))

    try:
        compiled = cpu.prepared(instruction)
    except (cpu.NoCompiler, Unsupported):
        return portable
    dtype = code_dtype(instruction.c_format)
    return lambda a, b, scale_a, scale_b: compiled(a, b, np.zeros((len(a), b.shape[1]), dtype), scale_a, scale_b)


def _exact(a: Any, b: Any) -> Float64:
    """Exact products of lines (seeds, M, K) and (seeds, N, K)."""
    import numpy as np

    from isa_model import exact

    return exact.dot(a.astype(np.float64), np.swapaxes(b.astype(np.float64), 1, 2))
