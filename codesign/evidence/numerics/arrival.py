"""Operands at the end of a path: the lines of a trial after the steps of a proposal or of today's software."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from codesign.evidence.numerics.lines import DrawnLines, Lines, filled
from codesign.evidence.numerics.operands import (
    Operand,
    Scaled,
    is_narrow,
    lost_elements,
    quantised,
    tensor_factor,
)
from isa_model.array_codec import encode_array
from isa_model.cast import Cast, Quantised, quantise
from isa_model.groups import spread
from isa_model.logfmt import round_log
from isa_model.path import Step, logarithmic, scales_of_step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Passed:
    """Lines after the steps of a path, before they are multiplied or cast again."""

    start: Any
    """Elements before the first step (seeds, lines, width)."""
    outside: Float64
    """Factor of the whole tensor, by which lines were divided (seeds, lines)."""
    cut: Float64
    """Elements of each line beyond the largest number of a step, which they became (seeds, lines)."""
    last: Quantised | NDArray[np.float32]
    """Result of the last step; after LogFMT, its numbers."""
    reach: tuple[int, int]
    """Lines and elements of K that share a scale of the last step."""

    @cached_property
    def values(self) -> Any:
        """Elements after the steps (seeds, lines, width), float32."""
        numbers = self.last.passed_on() if isinstance(self.last, Quantised) else self.last
        return numbers.reshape(self.start.shape)


Arrivals = dict[Hashable, Passed]
"""Lines after the steps of paths, by all that determines them besides the lines; casts of one path share them."""


def arrived(
    steps: tuple[Step, ...],
    cast: Cast,
    scaled: Scaled | None,
    lines: Lines,
    width: int,
    tensor_floor: float | None,
    tokens_along_k: bool,
    known: Arrivals | None = None,
) -> Operand:
    """Return lines of a tensor after the steps of a path, in an instruction's formats; otherwise as `quantised`.

    The result of the last step is multiplied as it is if the instruction takes its format and scales. Otherwise it is cast
    once more, as any other operand. `known` keeps what the steps made of the same lines.
    """
    factored = None
    narrow = any(s.scale and is_narrow(s.scale) for s in steps)
    if narrow and tensor_floor is not None and scaled and is_narrow(scaled.format):
        # A narrow scale format on the path needs the tensor's scale, too.
        factored, tensor_floor = (cast, scaled, tensor_floor), None
    known = {} if known is None else known
    key = steps, lines.total, width, tokens_along_k, factored
    if key not in known:
        known[key] = _passed(steps, lines, width, tokens_along_k, factored)
    passed = known[key]
    last, (reach, along), made = steps[-1], passed.reach, passed.last
    suits = (
        scaled is not None
        and last.to == cast.to
        and last.scale is not None
        and (last.scale == scaled.format or scaled.format.name == "fp32")
        and reach % scaled.lines == 0
        and along % scaled.elements == 0
    )
    if suits and isinstance(made, Quantised) and scaled is not None:
        shape = passed.start.shape
        rows, columns = made.cast.group or shape[1:]
        numbers = spread(
            made.scale_values(), (rows, columns // scaled.elements), (len(made.codes), width // scaled.elements)
        ).reshape(*shape[:2], -1)
        elements = made.made.numbers.reshape(shape)
        nonzero, lost = lost_elements(passed.start, elements)
        scales = encode_array(scaled.format, numbers)
        return Operand(made.codes.reshape(shape), scales, elements, numbers, passed.outside, nonzero, lost, passed.cut)
    again = replace(lines, x=passed.values[:, :, : lines.x.shape[2]])
    operand = quantised(cast, scaled, again, width, tensor_floor)
    nonzero, lost = lost_elements(passed.start, operand.elements)
    return replace(
        operand, factor=operand.factor * passed.outside, nonzero=nonzero, lost=lost, cut=operand.cut + passed.cut
    )


def _passed(
    steps: tuple[Step, ...],
    lines: Lines,
    width: int,
    tokens_along_k: bool,
    factored: tuple[Cast, Scaled, float] | None,
) -> Passed:
    """Return lines after the steps of a path; with `factored`, divided by the scale of the whole tensor before.

    If groups of the path include lines that are not computed, the largest element of those lines at each k passes through the
    steps, too; with LogFMT, whose tiles have a range, so does the smallest.
    """
    import numpy as np

    x = filled(lines.x, width)
    factor = np.ones((*x.shape[:2], 1), np.float32)
    if factored:
        cast, scaled, floor = factored
        factor = tensor_factor(cast, scaled, x, lines, floor)
        x = x / factor
    shape = x.shape

    def group(step: Step) -> tuple[int, int]:
        return group_of(step, lines.total, width, tokens_along_k)

    across = 1 if lines.whole else min(max(group(s)[0] for s in steps), lines.total)
    each = 1  # rows of a line: itself, and what stands for the lines that share its groups
    if across > 1:
        assert isinstance(lines, DrawnLines)
        ends = lines.ends(across - 1, smallest=any(s.logfmt is not None for s in steps))
        x = np.concatenate([x[:, :, None], filled(ends, width) / factor[..., None]], axis=2)
        each = x.shape[2]

    def regrouped(step: Step) -> Step:
        reach, along = group(step)
        rows = reach if lines.whole else each if reach > 1 else 1
        return step.model_copy(update={"group": (rows, along)}) if step.scale else step

    original = passed = x.reshape(-1, width)
    before: Quantised | None = None
    overflow = 0.0
    for step in steps[:-1]:
        if step.reads == "original":
            passed, overflow = original, 0.0
        if step.logfmt is not None:
            passed, before = _logarithmic(step, passed, lines, each, tokens_along_k).astype(np.float32), None
            continue
        own = regrouped(step)
        before = quantise(own, passed, scales_of_step(own, passed, before))
        passed, overflow = before.passed_on(), overflow + before.overflow
    last = steps[-1]
    if last.reads == "original":
        passed, overflow = original, 0.0
    cut: Any = np.full(shape[:2], overflow * width)
    start, outside = original[::each].reshape(shape), factor[..., 0].astype(np.float64)
    if last.logfmt is not None:
        numbers = _logarithmic(last, passed, lines, each, tokens_along_k, alone=True).astype(np.float32)
        return Passed(start, outside, cut, numbers, group(last))
    made = _alone(regrouped(last), passed, before, each)
    return Passed(start, outside, cut + made.made.beyond.reshape(shape[:2]), made, group(last))


def group_of(step: Step, lines: int, width: int, tokens_along_k: bool) -> tuple[int, int]:
    """Return the lines and elements of K that share a scale or a tile of a step, on a tensor of these sizes."""
    if step.scale is None and step.logfmt is None:
        return 1, width
    if step.group is None:
        return lines, width
    return step.group[::-1] if tokens_along_k else step.group


def _alone(step: Step, x: Any, before: Quantised | None, each: int) -> Quantised:
    """Return the first of each `each` rows after a step whose scales may depend on all of them."""
    scales = scales_of_step(step, x, before)
    if each == 1:
        return quantise(step, x, scales)
    if scales is not None and step.group is not None:
        scales = scales if step.group[0] > 1 else scales[::each]
        step = step.model_copy(update={"group": (1, step.group[1])})
    return quantise(step, x[::each], scales)


def _logarithmic(step: Step, x: Any, lines: Lines, each: int, tokens_along_k: bool, alone: bool = False) -> Float64:
    """Return rows rounded to LogFMT; with `alone`, only the first of each `each` rows."""
    import numpy as np

    if not tokens_along_k:
        return logarithmic(step, x[::each] if alone else x)
    if lines.whole:
        return logarithmic(step, x.T).T
    magnitudes = np.abs(x.reshape(-1, each, x.shape[1]))
    largest, smallest = magnitudes.max(axis=1), np.where(magnitudes > 0, magnitudes, np.inf).min(axis=1)
    ends = [np.repeat(end, 1 if alone else each, axis=0).astype(np.float64).reshape(-1) for end in (largest, smallest)]
    rows = x[::each] if alone else x
    assert step.logfmt is not None
    return round_log(step.logfmt, rows.astype(np.float64).reshape(-1, 1), ends).reshape(rows.shape)
