"""Parts of the spec language about how operands are given: group scales, structured sparsity, tables to look elements up in.

`golden.py` defines what each field does. Here fields are declared, and contradictions between them are refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import model_validator

from isa_model.diagnostics import at
from isa_model.formats import later
from isa_model.limits import MOST_LEVELS, Count, Exponent, Group, Range
from isa_model.stage import FormatRef, Register, Spec


class ScaleLevel(Spec):
    """Scales above those of an operand's groups, each for a larger group."""

    group: tuple[Group, Group] | None
    """Numbers of rows and columns that share a scale, multiples of those of the level below; null: the whole operand."""
    format: FormatRef
    """Number format of the scales."""

    def along(self, axis: int) -> int:
        """Return the rows (0) or columns (1) of a group, more than any operand has for the whole of it."""
        return self.group[axis] if self.group else 1 << 62


class ScaleOperand(Spec):
    """Group scales of one operand."""

    group: tuple[Group, Group]
    """Numbers of rows and columns that share a scale, in the operand's own orientation: A is (M, K), B is (K, N)."""
    format: FormatRef
    """Number format of the scales."""
    coarser: tuple[ScaleLevel, ...] = later((), max_length=MOST_LEVELS)
    """Further levels, from the finer to the coarser groups: an element's scale is the exact product of those of all levels. The
    operand then comes with scales of every level, this one's first."""

    @property
    def levels(self) -> tuple[ScaleLevel, ...]:
        """All levels of scales, the finest first."""
        return (ScaleLevel(group=self.group, format=self.format), *self.coarser)

    def stored(self, sparsity: Sparsity, k_axis: int) -> ScaleOperand:
        """Return the scales of an operand without the elements that sparsity leaves out along axis `k_axis`."""
        groups = [
            x.group and tuple(sparsity.stored(g) if i == k_axis else g for i, g in enumerate(x.group))
            for x in self.levels
        ]
        coarser = tuple(x.model_copy(update={"group": g}) for x, g in zip(self.coarser, groups[1:], strict=True))
        return self.model_copy(update={"group": groups[0], "coarser": coarser})

    @model_validator(mode="after")
    def _nested(self) -> ScaleOperand:
        below = self.group
        for i, level in enumerate(self.coarser):
            if level.group is None and i < len(self.coarser) - 1:
                raise at(
                    "coarser", i, "group", message="no group is coarser than the whole operand", hint="the last level"
                )
            if level.group is not None:
                if level.group == below or any(g % b for g, b in zip(level.group, below, strict=True)):
                    message = f"groups of {level.group} are not made of whole groups of {below}, the level below"
                    raise at("coarser", i, "group", message=message, hint="a larger multiple of them")
                below = level.group
        return self


class Scaling(Spec):
    """Group scales inside the instruction: each term is multiplied by the scales of its row, column and group of K.

    The term's value is multiplied by the scale, and the scale's exponent is added to the term's alignment exponent.
    """

    a: ScaleOperand | None = None
    b: ScaleOperand | None = None
    power: Exponent = later(0)
    """Exponent of a constant scale 2**power, with which every scaled term is multiplied, too (Arm FP8: -LSCALE). D keeps it.
    Errors, trained and emulated models are of D times 2**-power, since software takes it back."""
    onto: str = "products"
    """Terms that are scaled: `products`, or the name of a stage, for its results."""
    product: Register | None = None
    """Register that scale_a * scale_b is rounded to before it is applied; default: the product is exact."""
    result: Register | None = None
    """Register that the scaled term is rounded to; default: the term stays exact."""

    @model_validator(mode="after")
    def _needed(self) -> Scaling:
        if self.a is None and self.b is None and not self.power:
            raise at(message="`scale` needs `a`, `b` or both, or a `power`")
        count = sum(len(side.levels) for side in (self.a, self.b) if side)
        if self.product and count < 2:
            raise at("product", message="there is no product of scales: only one operand has them")
        return self


class Sparsity(Spec):
    """Structured sparsity of one operand: of each group along K only some elements are stored, with their positions.

    Elements that are not stored count as absent: their products are no terms. Positions in a group ascend.
    """

    operand: Literal["a", "b"] = "a"
    """Operand that is stored without the elements left out."""
    kept: Count
    """Number of elements, or runs of elements, that each group keeps."""
    of: Annotated[int, Range(2, 256)]
    """Number of elements, or runs of elements, in each group."""
    run: Count = 1
    """Number of neighbouring elements that are kept or left out together, at one position."""

    @model_validator(mode="after")
    def _sparse(self) -> Sparsity:
        if self.kept >= self.of:
            raise at(
                "kept", message=f"{self.kept} of {self.of} leaves nothing out", hint="fewer `kept`, such as 2 of 4"
            )
        return self

    @property
    def group(self) -> int:
        """Number of elements of K in a group."""
        return self.of * self.run

    def stored(self, k: int) -> int:
        """Return how many of `k` elements of K, whole groups, are stored."""
        return k // self.of * self.kept


class Codebook(Spec):
    """Tables that an operand's elements are looked up in. The tables are data: each comes with the operand, as codes of its
    format.
    """

    bits: Annotated[int, Range(1, 10)]
    """Bits of an element, the index of an entry. A table has two to this power entries."""
    group: tuple[Group, Group] | None = None
    """Numbers of rows and columns that share a table, in the operand's own orientation; default: the whole operand."""

    def tables(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the numbers of tables over the rows and columns of an operand."""
        rows, columns = self.group or shape
        return -(-shape[0] // max(rows, 1)), -(-shape[1] // max(columns, 1))


class Codebooks(Spec):
    """Operands whose elements are indices into tables."""

    a: Codebook | None = None
    b: Codebook | None = None

    @model_validator(mode="after")
    def _needed(self) -> Codebooks:
        if self.a is None and self.b is None:
            raise at(message="`codebook` needs `a`, `b` or both", hint="drop `codebook`")
        return self
