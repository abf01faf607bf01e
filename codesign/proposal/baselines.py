"""Today's software by name: how each library or recipe scales operands and sums products, as data (baselines.yaml)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from codesign.proposal.quantisation import Quantisation
from isa_model.diagnostics import read_yaml
from isa_model.formats import FORMATS
from isa_model.instruction import Instruction, ScaleOperand, Scaling
from isa_model.promotion import promoted
from isa_model.stage import FormatRef, Spec


class Baseline(Spec):
    """One way in which software of today multiplies on an instruction."""

    name: str
    title: str
    """Name as reports show it."""
    about: str
    """What it does, in a clause."""
    source: str
    """Where that is written."""
    operands: tuple[str, ...]
    """Formats of the operands it is for."""
    accumulators: tuple[str, ...] = ()
    """Formats of the accumulators it is for; empty: all."""
    scales: str | None = None
    """Format of the scales that the instruction takes itself; null: it takes none."""
    promote_every: PositiveInt | None = None
    """Products summed by the instruction before they are promoted to FP32; null: all of K."""
    fast_forward: bool = False
    """Whether fprop sums all of K in the instruction nevertheless."""
    group: PositiveInt | None = None
    """Elements of K that share an FP32 scale, multiplied in at promotion; null: no scale within K."""
    kept: bool = False
    """Whether wgrad's activations are quantised from the codes that fprop took; false: from BF16."""
    dispatch: FormatRef | None = None
    """Format in which tensors are sent to experts, with power-of-two scales; null: BF16."""
    quantisation: Quantisation = Quantisation()
    """How operands are quantised; what stands in no field here has the default there."""

    def fits(self, base: Instruction) -> bool:
        """Whether this baseline fits a base: its operands, accumulator and scales."""
        own = base.scale.a or base.scale.b if base.scale else None
        return (
            {base.a.name, base.b.name} <= set(self.operands)
            and (not self.accumulators or base.accumulator.name in self.accumulators)
            and (own.format.name if own else None) == self.scales
            and (self.promote_every is None or self.promote_every % base.span == 0)
        )

    def around(self, base: Instruction) -> Instruction:
        """Return the base with the software step around it.

        Raises InputError where promotion does not fit the base.
        """
        if self.promote_every is None:
            return base
        scale = None
        if self.group:
            fp32 = FORMATS["fp32"]
            scale = Scaling(
                a=ScaleOperand(group=(1, self.group), format=fp32), b=ScaleOperand(group=(self.group, 1), format=fp32)
            )
        return promoted(base, self.promote_every, scale)


FALLBACK = "tensor-wise"
"""The baseline of a base that no other fits."""


@cache
def baselines() -> dict[str, Baseline]:
    """Return every baseline by name, in the order in which defaults are chosen."""
    listed: dict[str, Any] = read_yaml(Path(__file__).with_name("baselines.yaml")).data["baselines"]
    return {name: Baseline.model_validate({"name": name, **fields}) for name, fields in listed.items()}


def fitting(base: Instruction) -> list[Baseline]:
    """Return the baselines that fit a base, its default first; never empty."""
    return [b for b in baselines().values() if b.fits(base)] or [baselines()[FALLBACK]]
