"""One GEMM under every variant: operands drawn and quantised, D from the bit-exact model, and exact sums to compare with.

A trial takes some rows of A and some columns of B of the true shape, and all of K, for each of its seeds. It takes captured
tensors as a whole.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import lcm
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from codesign.evidence.numerics.arrival import Arrivals, arrived, group_of
from codesign.evidence.numerics.lines import DrawnLines, Lines, drawn
from codesign.evidence.numerics.operands import Operand, Scaled, is_narrow, pruned, quantised
from codesign.evidence.numerics.products import exact, multiplier, of_seed, together
from codesign.evidence.numerics.slices import Sliced, in_slices, issued, run_length
from codesign.proposal.flows import NOTHING, Flows, behind
from codesign.proposal.quantisation import Quantisation, operand_cast
from codesign.proposal.variants import Compared
from codesign.workloads.gemms import Gemm, Role
from codesign.workloads.tensors import CAPTURED, recorded, synthetic
from isa_model.array_codec import decode_array
from isa_model.cast import Cast
from isa_model.codec import largest_finite
from isa_model.formats import FORMATS, Format
from isa_model.instruction import Instruction
from isa_model.operand_fields import Sparsity
from isa_model.path import Step, casts_of
from isa_model.rounding import Rounding
from isa_model.stage import Register

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]

Side = Literal["a", "b"]
T = TypeVar("T")


class Key(NamedTuple):
    """All that determines an operand."""

    side: Side
    cast: Cast
    scaled: Scaled | None
    steps: tuple[Step, ...]
    """Casts before the multiplication's own."""
    turned: bool
    """True if these steps have tokens along K."""
    floor: float | None
    """Floor of the scale of the whole tensor."""
    width: int
    """K, filled up to whole instructions."""
    sparsity: Sparsity | None
    slices: tuple[Sliced, int] | None
    """Slices of the operand, and the elements of K after which the next product follows."""
    drawn: Hashable
    """Name of the lines."""
    lines: int
    """Lines of the tensor on which the scales of one of them may depend."""
    whole: bool
    """True if these are all of its lines."""


@dataclass(frozen=True)
class Outcome:
    """D of one variant as numbers (seeds, rows, columns), and the exact products that it is compared with."""

    d: Float64
    exact: Float64
    """Exact product of the quantised operands."""
    original: Float64
    """Exact product of the operands before quantisation."""
    output: Format
    """Format in which D leaves the GEMM."""
    rows: Float64
    """Weights of rows (seeds, rows)."""
    columns: Float64
    """Weights of columns (seeds, columns)."""
    power: Float64
    """Mean square of the scales of a seed's products along K; errors are divided by it before they are compared."""
    operands: tuple[Operand, Operand]
    """Operands, of which the counts and the length are needed."""
    expected: Float64 | None = None
    """Expectation of the mean square of a seed's original products, given its scales along K."""
    filled: float = 1.0
    """Largest output over the largest number of any register behind it, or of D; 1 if unknown."""
    saturated: NDArray[np.bool_] | None = None
    """True where a sum stands at the largest number of the last register and that register saturates; None if it does not."""
    captured: bool = False
    """True for a whole captured tile, whose rows are the clusters; false for sampled lines of each seed's tensors."""


def _filled(instruction: Instruction, output: Format, sums: Float64, d: Float64) -> float:
    """Return the largest magnitude of sums over the largest number of any register, or of D over its format's, if larger."""
    import numpy as np

    power, scaled = instruction.scale_power, instruction.scaled_stage or 0
    registers = [  # with the power of two by which a constant scale has multiplied what they hold
        (instruction.accumulator, power),
        *((r.format, power * (i > scaled)) for i, x in enumerate(instruction.stages.values()) for r in x.result),
    ]
    room = min(fmt.max_exponent - held for fmt, held in registers), output.max_exponent
    return max(float(np.ldexp(np.abs(x).max(initial=0.0), -most)) for x, most in zip((sums, d), room, strict=True))


def _saturated(instruction: Instruction, sums: Float64) -> NDArray[np.bool_] | None:
    """Return where sums stand at the largest number of the last register; None unless it saturates."""
    last = list(instruction.stages.values())[-1].result[-1]
    if (last.overflow or last.format.overflow) != "saturate":
        return None
    found: NDArray[np.bool_] = abs(sums) >= largest_finite(last.format)
    return found


class Trial:
    """The operands of one GEMM, drawn once; `outcome` computes D with any instruction."""

    def __init__(
        self,
        gemm: Gemm,
        tensors: str,
        seeds: int | Sequence[int],
        rows: int,
        columns: int,
        quantisation: Quantisation,
        derived: dict[Any, tuple[Any, Any]] | None = None,
        compiled: bool = True,
        beside: Trial | None = None,
    ) -> None:
        """`derived`, shared by trials of the same GEMM with the same variants, keeps the keys of operands and the multipliers
        that one of them has derived from an instruction.

        `compiled` is false where an instruction is used so little that compiling it would take longer than it saves. `beside`
        is a trial of the same source, length of K, seeds, rows and columns; what both have in common is computed once.
        """
        self.compiled = compiled
        self.gemm, self.quantisation = gemm, quantisation
        self._derived = {} if derived is None else derived
        self.seeds = (seeds,) if isinstance(seeds, int) else tuple(seeds)
        self._lines: dict[Hashable, Lines] = beside._lines if beside else {}
        self._operands: dict[Key, Operand] = beside._operands if beside else {}
        self._arrivals: dict[Hashable, Arrivals] = beside._arrivals if beside else {}
        self._exact: dict[Any, Float64] = beside._exact if beside else {}
        self.kept: dict[Hashable, tuple[Any, Compared]] = beside.kept if beside else {}
        """What a caller found for each outcome of this trial and those beside it, by `about`, with the variant."""
        self.drawn_a: Hashable
        self.drawn_b: Hashable
        self.a: Lines
        self.b: Lines
        if tensors == CAPTURED:
            assert gemm.recorded is not None
            a, b = recorded(gemm.recorded)
            a, b = (a.T, b.T) if gemm.tokens_along_k else (a, b.T if gemm.a == "gradient" else b)
            self.drawn_a, self.drawn_b = gemm.recorded.a, gemm.recorded.b
            self.a, self.b = Lines(a[None], len(a)), Lines(b[None], len(b))
            if gemm.weights is not None and gemm.b == "weight":
                self.b = self.b.after(gemm.weights)
        else:
            self.drawn_a, self.a = self._draw(tensors, 0, gemm.a, rows, gemm.m)
            self.drawn_b, self.b = self._draw(tensors, 1, gemm.b, columns, gemm.n)
        self.power, self.expected = _moments(self.a, self.b)

    def _draw(self, tensors: str, which: int, role: Role, count: int, total: int) -> tuple[Hashable, Lines]:
        """Return the name of some lines of a synthetic tensor, which says all that determines them, and the lines."""
        gemm, tensor = self.gemm, synthetic(tensors, role)
        across, along = tensor.axes(gemm.tokens_along_k)
        weights = gemm.weights if role == "weight" else None
        name = which, tensor.element, tensor.unit, across, along, min(count, total), gemm.k, gemm.inputs, weights
        if name not in self._lines:
            # Every source and length has a stream of its own, the same in every run.
            stream = zlib.crc32(f"{tensors}/{gemm.k}".encode())
            streams = [[seed, stream, which] for seed in self.seeds]
            lines: Lines = drawn(tensor, streams, count, total, gemm.k, gemm.tokens_along_k, gemm.inputs)
            self._lines[name] = lines.after(weights) if weights else lines
        return name, replace(self._lines[name], total=total)

    @property
    def original(self) -> Float64:
        """Exact product of the operands before quantisation (seeds, rows, columns)."""
        key = self.drawn_a, self.drawn_b
        found = self._exact.get(key)
        if found is None:
            found = self._exact[key] = exact(self.a.x, self.b.x)
        return found

    def result(self, compared: Compared) -> Outcome:
        """Return the outcome of one of the `variants`."""
        trial = self.under(compared.rule) if compared.rule else self
        compute = trial.exact_outcome if compared.variant == "exact" else trial.outcome
        return compute(compared.multiplying(self.gemm), compared.flows)

    def operand_keys(self, compared: Compared) -> tuple[Key, Key]:
        """Return all that determines the operands of a variant."""
        trial, instruction = self.under(compared.rule) if compared.rule else self, compared.multiplying(self.gemm)
        return trial._key("a", instruction, compared.flows), trial._key("b", instruction, compared.flows)

    def about(self, compared: Compared) -> Hashable:
        """Return all that determines the outcome of a variant among trials beside each other, as long as the variant exists."""
        multiplies = compared.variant == "exact", id(compared.multiplying(self.gemm))
        return self.operand_keys(compared), multiplies, self.gemm.tokens_along_k

    def has(self, compared: Compared) -> bool:
        """Return whether the operands of a variant are there without drawing or casting anything."""
        keys = self.operand_keys(compared)
        return keys in self._exact and all(key in self._operands for key in keys)

    def forget_whole(self) -> None:
        """Forget operands with scales that depend on all lines of a tensor, which trials of other shapes seldom share,
        and lines after the steps of paths, whose operands are made."""
        for key in [key for key in self._operands if key.whole]:
            del self._operands[key]
        self._arrivals.clear()

    def codes_alone(self) -> Trial:
        """Return the trial without all numbers but codes and exact products, which later results of its operands need."""
        import numpy as np

        if any(operand.zero for operand in self._operands.values()):
            return self
        nothing, alone = np.empty((0, 0, 0), np.float32), copy(self)
        alone._operands = {key: replace(operand, elements=nothing) for key, operand in self._operands.items()}
        alone._exact, alone.kept, alone._lines, alone._arrivals = dict(self._exact), dict(self.kept), {}, {}
        alone.a, alone.b = self.a.without_numbers(), self.b.without_numbers()
        return alone

    def forget(self, most: int) -> None:
        """Forget all instructions, and all operands and products if there are more than `most` operands."""
        self._derived.clear()
        if len(self._operands) > most:
            self._operands.clear()
            self._arrivals.clear()
            self._exact.clear()

    def under(self, rule: Quantisation) -> Trial:
        """Return the same tensors, quantised by another rule."""
        other = copy(self)
        other.quantisation = rule
        return other

    def outcome(self, instruction: Instruction, flows: Flows = NOTHING) -> Outcome:
        """Return the instruction's D for the trial's operands, each after its steps in `flows`."""
        import numpy as np

        a, b = self.operands(instruction, flows)
        own = self._issued(instruction)
        d = None if self.compiled else together(own, a, b)
        if d is None:
            d = np.empty((len(a.codes), a.codes.shape[1], b.codes.shape[1]))
            multiply = self._multiplier(instruction)
            for i, seed in zip(
                range(len(d)), self.seeds, strict=False
            ):  # a captured tile is one matrix, under the first seed
                scale_a = of_seed(a.scales, i)
                scale_b = of_seed(b.scales, i, turned=True)
                places = next((x.positions[i] for x in (a, b) if x.positions is not None), None)
                codes = multiply(a.codes[i], b.codes[i].T, scale_a, scale_b, seed, places)
                d[i] = decode_array(own.accumulator, codes)
        saturated = _saturated(own, d)
        if own.scale_power:  # software takes a constant scale back, together with the factors of whole tensors
            d = np.ldexp(d, -own.scale_power)
        if a.zero or b.zero:  # software subtracts the contribution of the codes of zero
            of_a, of_b = (x.elements.sum(axis=2, dtype=np.float64) + x.zero * x.elements.shape[2] for x in (a, b))
            d -= a.zero * of_b[:, None, :] + b.zero * of_a[:, :, None] - a.zero * b.zero * a.elements.shape[2]
        return self._outcome(instruction, flows, d, saturated)

    def exact_outcome(self, instruction: Instruction, flows: Flows = NOTHING) -> Outcome:
        """Return exact sums of the operands, rounded once to nearest even FP32 (integers and FP64: to their accumulator)."""
        from isa_model.float64 import round_to

        fmt, fp32 = self._issued(instruction).accumulator, FORMATS["fp32"]
        wide = fmt.kind == "integer" or fmt.mantissa_bits > fp32.mantissa_bits
        register = Register(format=fmt if wide else fp32, rounding=Rounding.NEAREST_EVEN)
        return self._outcome(instruction, flows, round_to(self.exact(instruction, flows), register))

    def _outcome(
        self, instruction: Instruction, flows: Flows, d: Float64, saturated: NDArray[np.bool_] | None = None
    ) -> Outcome:
        a, b = self.operands(instruction, flows)
        factor = a.factor[:, :, None] * b.factor[:, None, :]
        output = FORMATS[self.gemm.output]
        return Outcome(
            d=d * factor,
            exact=self.exact(instruction, flows) * factor,
            original=self.original,
            output=output,
            filled=_filled(self._issued(instruction), output, d, d * factor),
            rows=self.a.weights,
            columns=self.b.weights,
            power=self.power,
            operands=(a.counts(), b.counts()),
            expected=self.expected,
            saturated=saturated,
            captured=self.a.whole,
        )

    def exact(self, instruction: Instruction, flows: Flows = NOTHING) -> Float64:
        """Return the exact product of the quantised operands, without the factors of whole tensors."""
        key = self._key("a", instruction, flows), self._key("b", instruction, flows)
        found = self._exact.get(key)
        if found is None:
            a, b = self.operands(instruction, flows)
            found = self._exact[key] = exact(a.elements, b.elements, a.multipliers, b.multipliers)
        return found

    def operands(self, instruction: Instruction, flows: Flows = NOTHING) -> tuple[Operand, Operand]:
        """Return both operands as the instruction takes them."""
        return self._operand("a", instruction, flows), self._operand("b", instruction, flows)

    def _operand(self, which: Side, instruction: Instruction, flows: Flows) -> Operand:
        key = self._key(which, instruction, flows)
        found = self._operands.get(key)
        if found is None:
            lines = replace(self.a if which == "a" else self.b, total=key.lines)
            if key.slices:
                sliced, run = key.slices
                made = in_slices(key.cast, *sliced, lines, key.width, run, int(which == "b"))
            elif key.steps:
                known = self._arrivals.setdefault(key.drawn, {})
                made = arrived(key.steps, key.cast, key.scaled, lines, key.width, key.floor, key.turned, known)
            else:
                made = quantised(key.cast, key.scaled, lines, key.width, key.floor, seed=int(which == "b"))
            found = self._operands[key] = pruned(made, key.sparsity) if key.sparsity else made
        return found

    def _multiplier(self, instruction: Instruction) -> Callable[..., Any]:
        """Return `multiplier` of an instruction as it multiplies lines."""
        objects = instruction, self.quantisation
        return self._once("multiplier", objects, lambda: multiplier(self._issued(instruction).per_line()))

    def _key(self, which: Side, instruction: Instruction, flows: Flows) -> Key:
        """Return all that determines an operand."""
        objects = instruction, flows, self.quantisation
        return self._once(which, objects, lambda: self._derived_key(which, instruction, flows))

    def _once(self, what: str, objects: tuple[Any, ...], derive: Callable[[], T]) -> T:
        """Return what `derive` makes of some objects, made once."""
        about = what, *map(id, objects)
        if about not in self._derived:
            self._derived[about] = derive(), objects  # kept, so that no other object gets their ids
        found: T = self._derived[about][0]
        return found

    def _derived_key(self, which: Side, instruction: Instruction, flows: Flows) -> Key:
        scale, role, k_axis = instruction.scale, self.gemm.a if which == "a" else self.gemm.b, int(which == "a")
        cast, side = operand_cast(self.quantisation, instruction, self.gemm, which)
        steps = casts_of(behind(self.gemm, role, flows))
        floor = self.quantisation.floor if self.quantisation.tensor_scale else None
        if cast.group is not None and k_axis == 0:
            turned = tuple(x.model_copy(update={"group": x.group and x.group[::-1]}) for x in cast.coarser)
            cast = cast.model_copy(update={"group": cast.group[::-1], "coarser": turned})
        scaled = Scaled(side.format, side.group[1 - k_axis], side.group[k_axis]) if side else None
        sides = ((scale.a, 1), (scale.b, 0)) if scale else ()
        groups = [x.group[axis] for s, axis in sides if s for x in s.levels if x.group]
        sliced = self._sliced(instruction)
        every = (sliced[0].promote_every if sliced else None) or 1
        whole = lcm(instruction.shape.k, every, *groups)
        sparsity = instruction.sparsity if instruction.sparsity and instruction.sparsity.operand == which else None
        width = -(-self.gemm.k // whole) * whole
        lines, drawn = (self.a, self.drawn_a) if which == "a" else (self.b, self.drawn_b)
        reach = _reach(cast, scaled, steps, floor, lines.total, self.gemm.tokens_along_k)
        reach = lines.total if lines.whole else min(reach, lines.total)
        along_tokens = bool(steps) and self.gemm.tokens_along_k
        slices = (sliced, run_length(instruction, *sliced)) if sliced else None
        return Key(
            which, cast, scaled, steps, along_tokens, floor, width, sparsity, slices, drawn, reach, reach == lines.total
        )

    def _sliced(self, instruction: Instruction) -> Sliced | None:
        """Return how operands are in slices; None if they are whole."""
        slices = self.quantisation.slices
        if slices is None:
            return None
        sides: tuple[Side, Side] = ("a", "b")
        casts = (operand_cast(self.quantisation, instruction, self.gemm, which)[0] for which in sides)
        return slices, any(cast.scale is not None for cast in casts)

    def _issued(self, instruction: Instruction) -> Instruction:
        """Return an instruction as it multiplies the operands: with the promotion of products of slices around it."""
        sliced = self._sliced(instruction)
        return issued(instruction, *sliced) if sliced else instruction


def _moments(a: Lines, b: Lines) -> tuple[Float64, Float64 | None]:
    """Return the mean square of the scales of products along K, and the expectation of the mean square of the original products
    given these scales, each (seeds,).

    The latter is None for captured tensors, and for weights that had been cast.
    """
    along = a.scales * b.scales
    alone = (along**2).sum(axis=1)
    power: Float64 = alone / along.shape[1]
    if not (isinstance(a, DrawnLines) and isinstance(b, DrawnLines)) or b.cast is not None:
        return power, None
    crossed = along.sum(axis=1) ** 2 - alone  # where neither mean is zero
    each = [x.tensor.element for x in (a, b)]
    unit = a.tensor.unit * b.tensor.unit
    lines = a.across.mean_square * b.across.mean_square * unit**2
    mean, square = each[0].mean * each[1].mean, each[0].mean_square * each[1].mean_square
    return power, lines * (square * alone + mean**2 * crossed)


def _reach(
    cast: Cast, scaled: Scaled | None, steps: Sequence[Step], floor: float | None, total: int, tokens_along_k: bool
) -> int:
    """Return the most lines of a tensor with `total` that share a scale or a tile in any of its casts."""
    if floor is not None and scaled is not None and is_narrow(scaled.format):
        return total
    own = 1 if cast.scale is None or cast.coarser else cast.group[0] if cast.group else total
    return max(own, *(group_of(step, total, 1, tokens_along_k)[0] for step in steps), 1)
