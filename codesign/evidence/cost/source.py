"""Cost evidence: area, delay and energy of the proposed unit over those of the base, from records."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from codesign.evidence.cost.attribution import IDEAS, SHARED_NAME, TIE, attributed, on_shared, parts_of
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.chip import (
    ChipFigure,
    accumulator_traffic,
    cycle_ratio,
    extra_cycles,
    extra_loop_cycles,
    extra_register_bits,
    operand_bits,
    scale_bandwidth,
    scale_storage,
    scale_traffic,
    sm_area,
)
from codesign.evidence.cost.energy import energy_vectors
from codesign.evidence.cost.family import sentences
from codesign.evidence.cost.folded import measure_folded
from codesign.evidence.cost.measured_unit import measure
from codesign.evidence.cost.plots import plots, waterfall
from codesign.evidence.cost.predict import predict, predicted
from codesign.evidence.cost.proof.proof_record import sentence
from codesign.evidence.cost.records import CostRecord, design_sha256, find, folded_sha256, shipped
from codesign.evidence.cost.rtl.ports import chained_stage
from codesign.evidence.source import Source, Subject
from codesign.figures.evidence import KIND_AND_SOURCE, Column, Evidence, Section, Table
from codesign.figures.figure import Alternative, Figure
from codesign.proposal.proposal import Proposal, Value
from isa_model.diagnostics import InputError

if TYPE_CHECKING:
    from isa_model.instruction import Instruction

MOST_AREA = 100_000
"""Largest predicted area of a unit that an exploration synthesises, in NAND2 equivalents; 60,000 take two minutes of a core."""


class Cost(Source):
    """Area, delay and energy of the proposed dot-product unit, from records."""

    doing = "hardware cost"

    def gather(self, subject: Subject) -> Evidence:
        """Return the cost figures of the proposal and of its swept values, from records.

        A design that a claim needs and no record has is synthesised, if the extra `cost` is installed and the generator
        supports the spec. Other designs without a record have predicted figures, which say so.
        """
        proposal = subject.proposal
        if proposal.multiplies_as_today:
            return Evidence(source="cost", figures=())
        values: tuple[Value | None, ...] = (None, *proposal.swept)
        claimed = {claim.at for claim in proposal.claims if claim.metric.startswith("cost.")}
        made: dict[str, CostRecord | None] = {}
        figures = tuple(
            figure for value in values for figure in _figures(proposal, value, value in claimed, made, _say)
        )
        if not figures:
            return Evidence(source="cost", figures=())
        today = find(proposal.today, "neutral")
        kin = tuple(sentences(proposal, today)) if today else ()
        return Evidence(
            source="cost",
            figures=figures,
            finding=_finding(proposal, kin),
            sections=(_section(proposal, kin),),
            method=(
                "Cost is that of one dot-product unit (one element of D, one step), generated from the same spec, mapped "
                "with one recipe, and compared bit for bit with the model after mapping. Ratios are per product "
                "summed. The value is that of the technology-neutral library without registers, over the base's own unit. "
                "The interval covers the pipelined unit, every other library with records, units sized for a common clock "
                "there, and, for FP8 of Hopper, a "
                f"datapath with {SHARED_NAME}; it is 1 % wider for the mapper's noise. What order and scales add to the "
                "unit of FP8 alone is added to that datapath unchanged. "
                "Energy is the capacitance that gates and pipeline registers switch on the workload's operands: the value "
                "without glitches, the interval with and without them; that of register file, operand delivery and clock tree "
                "is withheld. Units without a record have figures of a model fitted to synthesised designs; the "
                "interval holds 95 % of designs that the fit had not seen. A rounded product of two scales is "
                "computed outside the unit, once for all steps that share it; the unit is charged its share and a register.",
            ),
        )

    def figures(self, subject: Subject) -> Sequence[Figure]:
        """Return the figures alone. With `subject.synthesis`, units of no more than `MOST_AREA` are synthesised."""
        proposal = subject.proposal
        values = () if proposal.multiplies_as_today else (None, *proposal.swept)
        made: dict[str, CostRecord | None] = {}
        return [
            figure
            for value in values
            for figure in _figures(proposal, value, subject.synthesis and _is_small(proposal.proposed(value)), made)
        ]


SOURCE = Cost()


def _finding(proposal: Proposal, kin: tuple[str, ...]) -> tuple[str, ...]:
    """Return a sentence on what each idea of the proposal costs, and the last of those on its family."""
    parts = parts_of(proposal.today, proposal.proposed(), "neutral")
    split = ", ".join(f"{IDEAS[idea]} {part:+.2f}" for idea, part in parts.items())
    words = (f"Area that each change adds, relative to today's unit: {split}.",) if len(parts) > 1 else ()
    return (*words, *kin[-1:])


def _section(proposal: Proposal, kin: tuple[str, ...]) -> Section:
    new = find(proposal.proposed(), "neutral")
    proved = (sentence(proposal.proposed(), new.equivalence.vectors),) if new else ()
    return Section(
        title="Hardware cost",
        sentences=(*filter(None, (_moved(proposal),)), *kin[:-1], *proved),
        plots=(*waterfall(proposal), *plots(proposal)),
        tables=(
            Table(
                rows=("metric", "design"),
                headings=("metric", "design"),
                columns=(
                    Column(heading="figure [interval]", form="interval"),
                    *KIND_AND_SOURCE,
                ),
                labels={"proposal": proposal.proposal},
                note="One dot-product unit, generated from the spec and mapped; no wires, no placement. Method says how.",
            ),
        ),
    )


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _is_small(spec: Instruction) -> bool:
    """Return whether synthesising a unit takes minutes at most; False for one that the generator does not support."""
    try:
        return predict(spec).area.value <= MOST_AREA
    except InputError:
        return False


def _figures(
    proposal: Proposal,
    value: Value | None,
    needed: bool,
    made: dict[str, CostRecord | None],
    tell: Callable[[str], None] = lambda message: None,
) -> Iterator[Figure]:
    """Yield the figures of the proposal at a swept value; if they are `needed`, from a unit synthesised now."""
    spec = proposal.proposed(value)
    both = _pairs(spec, proposal.today)
    if needed and (not both or both[0][0].library != "neutral"):
        new, old = (find(x, "neutral") or _synthesised(x, made, tell) for x in (spec, proposal.today))
        both = [(new, old), *both] if new and old else both
    fold = find(spec, "neutral", folded=True) or (_synthesised(spec, made, tell, folded=True) if needed else None)
    found = list(_of_records(both, fold, proposal, spec) if both else _of_model(proposal.today, spec))
    if found:
        found.append(accumulator_traffic(proposal.today, spec))
        found += [scale_traffic(spec), scale_bandwidth(spec), scale_storage(spec)]
        found += [] if proposal.in_slices else [operand_bits(spec)]  # an element in slices has several of the unit's
    for f in found:
        numbers = {"value": round(f.value, 4), "low": round(f.low, 4), "high": round(f.high, 4)}
        about = {"variant": "proposal", "at": value, "workload": "", "tensors": ""}
        yield Figure(metric=f.metric, kind=f.kind, source=f.source, alternatives=f.alternatives, **about, **numbers)


def _of_model(today: Instruction, spec: Instruction) -> list[ChipFigure]:
    """Return the figures of units that were not synthesised, as predicted; none of what has no hardware."""
    try:
        return list(predicted(spec, today))
    except InputError:
        return []


def _of_records(
    both: list[tuple[CostRecord, CostRecord]], fold: CostRecord | None, proposal: Proposal, spec: Instruction
) -> Iterator[ChipFigure]:
    """Yield the figures of records, of each library a pair, the neutral library first; `fold` is the folded unit."""
    new, old = both[0]
    for metric, rule, cases in (
        ("cost.area_ratio", _areas, ("registers: none", "registers: pipelined")),
        ("cost.delay_ratio", _delays, ("",)),
        ("cost.energy_ratio", _energies, ("switching: no glitches", "switching: all glitches")),
    ):
        ratios = [r for records in both for r in rule(*records)]
        source = (
            f"records {new.name} over {old.name} ({', '.join(r.library for r, _ in both)}; "
            f"pyosys {new.versions['pyosys']}, {f'commit {new.commit}' if new.commit else 'synthesised for this report'})"
        )
        others = tuple(_alternatives(both, rule, cases))
        if metric == "cost.area_ratio":
            at_clock = [(r.library, x) for r, o in both if (x := sized_ratio(r, o)) is not None]
            ratios += [ratio for _, ratio in at_clock]
            others += tuple(
                Alternative(assumption="recipe", other=f"sized for a clock, {library}", value=round(ratio, 4))
                for library, ratio in at_clock
            )
            if fold is not None:
                ratios.append(_areas(fold, old)[0])
                structure = fold.name.split(", ", 1)[1]
                others += (Alternative(assumption="structure", other=structure, value=round(ratios[-1], 4)),)
            shared = [on_shared(proposal.today, spec, r.library) for r, _ in both]
            ratios += [ratio for ratio in shared if ratio is not None]
            source += "; base: its unit alone"
            if shared[0] is not None:
                others += (Alternative(assumption="base unit", other=SHARED_NAME, value=round(shared[0], 4)),)
                source += f", or {SHARED_NAME}"
        low, high = min(ratios) * (1 - TIE), max(ratios) * (1 + TIE)
        yield ChipFigure(metric, ratios[0], low, high, "modelled", source, others)
    yield from attributed(proposal.today, spec, [r.library for r, _ in both])
    yield from (extra_cycles(new, old), cycle_ratio(new, old), extra_register_bits(new, old))
    yield extra_loop_cycles(new, old)
    if proposal.base.startswith("hopper."):
        yield sm_area(new, old, spec)


def _pairs(spec: Instruction, today: Instruction) -> list[tuple[CostRecord, CostRecord]]:
    """Return the records of both units in each library that has them, the neutral one first."""
    libraries = sorted({r.library for r in shipped()}, key=lambda name: (name != "neutral", name))
    pairs = [(find(spec, name), find(today, name)) for name in libraries]
    return [(new, old) for new, old in pairs if new is not None and old is not None]


def _moved(proposal: Proposal) -> str:
    """Return a sentence on how far libraries and recipes move the ratio of areas; empty without records."""
    both = _pairs(proposal.proposed(), proposal.today)
    if not both:
        return ""
    plain = ", ".join(f"{_areas(new, old)[0]:.2f} ({new.library})" for new, old in both)
    staged = ", ".join(f"{_areas(new, old)[1]:.2f}" for new, old in both)
    at_clock = ", ".join(f"{r:.2f} ({new.library})" for new, old in both if (r := sized_ratio(new, old)) is not None)
    sized = f"; sized for a common clock {at_clock}" if at_clock else ""
    alone = " No other library has records of both units." if len(both) == 1 else ""
    return f"Ratio of areas by library and recipe: gates alone {plain}; with registers every 24 gates {staged}{sized}.{alone}"


def _alternatives(
    both: list[tuple[CostRecord, CostRecord]],
    rule: Callable[[CostRecord, CostRecord], list[float]],
    cases: tuple[str, ...],
) -> Iterator[Alternative]:
    """Yield a ratio in every other library, and in every other case of the first library."""
    for new, old in both[1:]:
        for ratio in rule(new, old)[:1]:
            yield Alternative(assumption="cell library", other=new.library, value=round(ratio, 4))
    for case, ratio in list(zip(cases, rule(*both[0]), strict=False))[1:]:
        assumption, other = case.split(": ")
        yield Alternative(assumption=assumption, other=other, value=round(ratio, 4))


def _synthesised(
    spec: Instruction, made: dict[str, CostRecord | None], tell: Callable[[str], None], folded: bool = False
) -> CostRecord | None:
    """Return a record made now in the neutral library; None without the extra or for an unsupported spec."""
    if folded and chained_stage(spec) is None:
        return None
    key, how = (folded_sha256(spec), measure_folded) if folded else (design_sha256(spec), measure)
    if key not in made:
        made[key] = None
        if all(find_spec(package) for package in ("amaranth", "pyosys")):
            tell(f"no cost record of {spec.name}: synthesising it, some minutes for a large unit")
            try:
                made[key] = how(spec, Library.own(), *energy_vectors(spec))
            except InputError as reason:
                tell(f"no cost: {reason}")
    return made[key]


def _areas(new: CostRecord, old: CostRecord) -> list[float]:
    per = old.products / new.products
    return [new.area / old.area * per, new.pipelined.area / old.pipelined.area * per]


def sized_ratio(new: CostRecord, old: CostRecord) -> float | None:
    """Return the ratio of areas with registers, of units sized for the same clock.

    It is None if one was not sized, or if their periods differ by over 5 %: depths are tried in steps, and a unit that just
    misses the clock has more registers than it needs. (At 8 %, a unit of SG13G2 came out smaller with scales than without.)
    """
    if new.sized is None or old.sized is None or abs(new.sized.period_fo4 / old.sized.period_fo4 - 1) > 0.05:
        return None
    return new.sized.area / old.sized.area * old.products / new.products


def _delays(new: CostRecord, old: CostRecord) -> list[float]:
    return [new.delay_fo4 / old.delay_fo4]


def _energies(new: CostRecord, old: CostRecord) -> list[float]:
    per = old.products / new.products
    return [new.energy.low / old.energy.low * per, new.energy.high / old.energy.high * per]
