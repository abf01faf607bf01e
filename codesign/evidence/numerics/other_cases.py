"""Other cases of a numerics figure, and searches for the break-even of an instruction's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pydantic import ValidationError

from codesign.evidence.numerics.curves import with_bits
from codesign.evidence.source import Question, Search, other_tensors
from codesign.figures.metric import metric_named
from codesign.proposal.proposal import Proposal
from codesign.proposal.quantisation import Quantisation
from codesign.workloads.gemms import MOST_SIZE, Gemm
from codesign.workloads.tensors import CAPTURED
from isa_model.instruction import Instruction

LENGTHS = (0.25, 4.0)
"""Other lengths of K, as factors of the true one."""
BITS = range(1, 41)
"""Fraction bits searched."""
GROUPS = (512, 256, 128, 64, 32, 16)
"""Lengths of scale groups searched, the coarsest and cheapest first."""

Ask = Callable[[Instruction], Question]
"""Function that returns the question for a claim's figure with another instruction."""


@dataclass(frozen=True)
class OtherTrial:
    """A trial with one assumption changed."""

    assumption: str
    other: str
    gemm: Gemm
    tensors: str
    rule: Quantisation


def other_cases(metric: str, gemm: Gemm, tensors: str, rule: Quantisation) -> Iterator[OtherTrial]:
    """Yield trials with other tensors, other lengths of K, and, if quantisation matters, other casts."""
    for assumption, source in other_tensors(gemm, tensors):
        yield OtherTrial(assumption, source, gemm, source, rule)
    if tensors != CAPTURED:
        for other in other_lengths(gemm):
            yield OtherTrial("length of the sums", f"K = {other.k}", other, tensors, rule)
    if metric_named(metric).of_sums or rule.slices:
        return
    floors = {1e-30: "1e-30", 1e-4: "1e-4 (DeepSeek-V3's inference code)"}
    for floor, words in floors.items():
        if floor != rule.floor:
            changed = rule.model_copy(update={"floor": floor})
            yield OtherTrial("least max-abs of a group", words, gemm, tensors, changed)
    if gemm.b == "weight":
        columns = 1 if (rule.weight_columns or 1) > 1 else 128
        changed = rule.model_copy(update={"weight_columns": columns})
        yield OtherTrial("outputs that share a weight's scale", str(columns), gemm, tensors, changed)


def other_lengths(gemm: Gemm) -> list[Gemm]:
    """Return the GEMM with the other lengths of K that a GEMM may have: a K below 4 is not shortened, one above 2**18 not
    lengthened."""
    return [replace(gemm, k=int(gemm.k * factor)) for factor in LENGTHS if 1 <= gemm.k * factor <= MOST_SIZE]


def of_bits(proposal: Proposal, condition: str, ask: Ask) -> Search | None:
    """Return the search for the fewest fraction bits; None if no stage aligns."""
    instruction = proposal.proposed()
    aligned = next((name for name, stage in instruction.stages.items() if stage.aligned), None)
    if aligned is None:
        return None
    own = instruction.stages[aligned].fraction_bits
    assert own is not None
    parameter = f"stages.{aligned}.fraction_bits"
    return Search(parameter, own, condition, BITS, lambda n: ask(with_bits(instruction, aligned, n)), bisected=True)


def of_groups(proposal: Proposal, condition: str, ask: Ask) -> Search | None:
    """Return the search for the coarsest scale groups; None if the instruction does not scale both operands."""
    instruction = proposal.proposed()
    scale = instruction.scale
    if scale is None or scale.a is None or scale.b is None:
        return None
    known = {n: made for n in GROUPS if (made := with_groups(instruction, n))}
    own = scale.a.group[1]
    return Search(
        "elements of K that share a scale", own, condition, tuple(known), lambda n: ask(known[n]), rising=False
    )


def with_groups(instruction: Instruction, length: int) -> Instruction | None:
    """Return the instruction with scale groups of another length along K on both sides; None if its stages forbid it."""
    spec = instruction.model_dump(mode="json")
    spec["scale"]["a"]["group"][1] = spec["scale"]["b"]["group"][0] = length
    try:
        return Instruction.model_validate(spec)
    except ValidationError:
        return None
