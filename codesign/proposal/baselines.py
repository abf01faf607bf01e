"""Software baselines: the scaling and summation of each library or recipe, as data in baselines.yaml."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from codesign.proposal.quantisation import Quantisation
from codesign.workloads.gemms import Inputs
from isa_model.diagnostics import read_yaml
from isa_model.formats import FORMATS
from isa_model.instruction import Instruction
from isa_model.library import load
from isa_model.operand_fields import ScaleOperand, Scaling
from isa_model.promotion import promoted
from isa_model.stage import FormatRef, Spec


class Baseline(Spec):
    """The way one library or recipe multiplies on an instruction."""

    name: str
    """Name in baselines.yaml and in proposals."""
    title: str
    """Name shown in reports."""
    about: str
    """Summary, as a clause."""
    source: str
    """Public source of the rules."""
    operands: tuple[str, ...]
    """Operand formats it applies to."""
    accumulators: tuple[str, ...] = ()
    """Accumulator formats it applies to; empty: all."""
    scales: str | None = None
    """Format of the scales that the instruction applies itself; null: no such scales."""
    promote_every: PositiveInt | None = None
    """Products along K that the instruction sums before promotion to FP32; null: all of K."""
    fast_forward: bool = False
    """True if fprop is not promoted: the instruction sums all of K there."""
    group: PositiveInt | None = None
    """Elements along K that share an FP32 scale, applied at promotion; null: no scale within K."""
    kept: bool = False
    """True if wgrad quantises activations from fprop's codes, false if from BF16."""
    dispatch: FormatRef | None = None
    """Format of tensors sent to experts, with power-of-two scales; null: BF16."""
    quantisation: Quantisation = Quantisation()
    """Quantisation rules of the operands."""
    inputs: Inputs = "bf16"
    """Format of tensors that it is for; those for BF16 tensors take FP32 tensors, too."""
    instruction: str | dict[str, Any] | None = None
    """Instruction that it uses in place of the base: a name of the catalogue, or a spec; null: the base."""

    def fits(self, base: Instruction, inputs: Inputs) -> bool:
        """Return whether the baseline fits the operands, accumulator and scales of a base, and the tensors' format."""
        own = base.scale.a or base.scale.b if base.scale else None
        return (
            self.inputs in ("bf16", inputs)
            and {base.a.name, base.b.name} <= set(self.operands)
            and (not self.accumulators or base.accumulator.name in self.accumulators)
            and (own.format.name if own else None) == self.scales
            and (self.promote_every is None or (base.scale is None and self.promote_every % base.span == 0))
        )

    def around(self, base: Instruction) -> Instruction:
        """Return the base with the baseline's promotion around it. Raises InputError if promotion does not fit."""
        if self.instruction is not None:
            spec = self.instruction
            return load(spec) if isinstance(spec, str) else Instruction.model_validate({"name": self.name, **spec})
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
"""Name of the baseline that is used if no other fits."""


@cache
def baselines() -> dict[str, Baseline]:
    """Return the baselines by name; the first that fits a base is its default."""
    listed: dict[str, Any] = read_yaml(Path(__file__).with_name("baselines.yaml")).data["baselines"]
    return {name: Baseline.model_validate({"name": name, **fields}) for name, fields in listed.items()}


def fitting(base: Instruction, inputs: Inputs = "bf16") -> list[Baseline]:
    """Return the baselines that fit a base and tensors, the default first. The list is never empty."""
    return [b for b in baselines().values() if b.fits(base, inputs)] or [baselines()[FALLBACK]]
