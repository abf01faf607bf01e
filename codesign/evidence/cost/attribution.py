"""Attribution of a unit's area: the designs between the base and the proposal, one idea at a time.

First the base with the proposal's fraction bits and width of the register, then its formats of operands, then its order and
rounding of sums without its scales, then the proposal. A datapath that several instructions share has the fraction bits of the
widest; what order and scales add to the unit of one instruction is added to it unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from codesign.evidence.cost.chip import ChipFigure
from codesign.evidence.cost.records import CostRecord, design_sha256, find
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.library import load

SHARED = (
    "hopper.wgmma.m64n256k32.f32.e4m3.e4m3",
    "hopper.wgmma.m64n256k16.f32.f16.f16",
    "hopper.wgmma.m64n256k16.f32.bf16.bf16",
    "hopper.wgmma.m64n256k32.s32.s8.s8",
)
"""Instructions of a datapath that a GPU has; the first is the one that proposals change."""
SHARED_NAME = "FP8, FP16, BF16 and INT8 in one datapath"
IDEAS = {
    "bits": "fraction bits and register",
    "operands": "formats of operands",
    "order": "order and rounding of sums",
    "scaling": "scaling",
    "registers": "pipeline registers",
}
"""Ideas whose cost is told apart, in the order in which they are added."""
TIE = 0.01
"""Relative difference below which two areas count as equal: the noise of the mapper."""


def steps(today: Instruction, proposed: Instruction) -> dict[str, Instruction]:
    """Return the designs after each idea of a proposal, by the idea, in the order of `IDEAS`.

    Ideas that a proposal does not have are left out. A proposal that changes operands alone, or scales alone, has one step. The
    result is empty for other changes to a base of several stages or with scales.
    """
    for idea, fields in {"operands": ("a", "b"), "scaling": ("scale",)}.items():
        if list(proposed.stages) == list(today.stages) and _same(
            proposed.model_copy(update={field: getattr(today, field) for field in fields}), today
        ):
            return {} if _same(today, proposed) else {idea: proposed}
    *_, last = proposed.stages.values()
    if len(today.stages) > 1 or today.scale is not None or not last.result:
        return {}
    plain = named(proposed, f"{proposed.name} without scales", {"scale": None})
    found: dict[str, Instruction] = {}
    wide = max((s.fraction_bits for s in proposed.stages.values() if s.fraction_bits is not None), default=None)
    if wide is not None:
        found["bits"] = widened(today, wide, last.result[-1].format)
        operands = {"a": proposed.a, "b": proposed.b}
        found["operands"] = named(
            found["bits"], f"{found['bits'].name} on {proposed.a.name} {proposed.b.name}", operands
        )
    elif len(proposed.stages) == 1:
        found["bits"] = plain
    found |= {"order": plain, "scaling": proposed}
    result, before = {}, today
    for idea, spec in found.items():
        if not _same(spec, before):
            result[idea], before = spec, spec
    return result


def _same(x: Instruction, y: Instruction) -> bool:
    """Return whether two instructions have the same unit."""
    return design_sha256(x) == design_sha256(y)


def widened(spec: Instruction, fraction_bits: int, register: Format) -> Instruction:
    """Return an instruction of one stage with other fraction bits and another format of its register."""
    ((name, stage),) = spec.stages.items()
    result = (*stage.result[:-1], stage.result[-1].model_copy(update={"format": register}))
    window = stage.model_copy(update={"fraction_bits": fraction_bits, "result": result})
    changed = f" into {register.name}" if register != stage.result[-1].format else ""
    return named(spec, f"{spec.name} with {fraction_bits} fraction bits{changed}", {"stages": {name: window}})


def named(spec: Instruction, name: str, change: Mapping[str, object]) -> Instruction:
    """Return a changed instruction under a name of its own."""
    return spec.model_copy(update={"name": name, **change})


def shared(today: Instruction) -> tuple[Sequence[Instruction], Sequence[Instruction]] | None:
    """Return the instructions of the shared datapath, today's and with the first at all fraction bits of the others.

    The result is None for a base that is not the first of them.
    """
    first, *others = map(load, SHARED)
    if design_sha256(today) != design_sha256(first):
        return None
    return (first, *others), (widest(first), *others)


def widest(first: Instruction) -> Instruction:
    """Return the first instruction of the shared datapath with the fraction bits and the register of the second."""
    ((_, stage),) = load(SHARED[1]).stages.items()
    return widened(first, stage.fraction_bits or 0, stage.result[-1].format)


# -- figures ---------------------------------------------------------------------------------------------------------


def parts_of(today: Instruction, proposed: Instruction, library: str) -> dict[str, float]:
    """Return what each idea adds to the area ratio, and registers last; empty if a design has no record."""
    base, before, parts = find(today, library), 1.0, {}
    new = base
    for idea, spec in steps(today, proposed).items():
        new = find(spec, library)
        if base is None or new is None:
            return {}
        after = _per_product(new.area, new) / _per_product(base.area, base)
        parts[idea], before = after - before, after
    if base is None or new is None or not parts:
        return {}
    staged = _per_product(new.pipelined.area, new) / _per_product(base.pipelined.area, base)
    return {**parts, "registers": staged - before}


def attributed(today: Instruction, proposed: Instruction, libraries: Sequence[str]) -> Iterator[ChipFigure]:
    """Yield what each idea adds to the area, in parts of the base's; the interval covers the libraries."""
    found = [parts for library in libraries if (parts := parts_of(today, proposed, library))]
    for idea in found[0] if found else ():
        values = [parts[idea] for parts in found if idea in parts]
        source = f"records of the designs between the base and the proposal ({', '.join(libraries[: len(found)])})"
        yield ChipFigure(f"cost.area_of_{idea}", values[0], min(values) - TIE, max(values) + TIE, "modelled", source)


def on_shared(today: Instruction, proposed: Instruction, library: str) -> float | None:
    """Return the ratio of areas of the shared datapath with the proposal and today's; None without records."""
    designs, ideas = shared(today), steps(today, proposed)
    if designs is None:
        return None
    reference, datapath = today, designs[0]
    if "bits" in ideas and next(iter(ideas["bits"].stages.values())).fraction_bits is not None:
        own, most = widest(today), ideas["bits"]
        reference = min(own, most, key=lambda spec: next(iter(spec.stages.values())).fraction_bits or 0)
        datapath = designs[1]
    found = [find(design, library) for design in (designs[0], datapath, reference, proposed)]
    if any(record is None for record in found):
        return None
    base, wide, alone, new = (record for record in found if record is not None)
    extra = (_per_product(new.area, new) - _per_product(alone.area, alone)) * base.products
    return (wide.area + extra) / base.area


def _per_product(area: float, record: CostRecord) -> float:
    return area / record.products
