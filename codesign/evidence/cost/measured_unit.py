"""Measurement of a unit: it is generated, synthesised and proven, and its area, delay and energy are recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from codesign.evidence.cost import record_cache
from codesign.evidence.cost.records import (
    DEPTH,
    CostRecord,
    Energy,
    Equivalence,
    Pipelined,
    SharedProduct,
    design_sha256,
    shared_sha256,
    toolchain,
)
from codesign.evidence.cost.rtl.ports import check, shared_uses
from codesign.evidence.cost.unit_vectors import UnitVectors, adversarial, shipped, specials, widths
from isa_model.instruction import Instruction

if TYPE_CHECKING:
    from codesign.evidence.cost.cell_library import Library
    from codesign.evidence.cost.netlist import Netlist


def measure(
    spec: Instruction,
    library: Library,
    workload: UnitVectors,
    operands: str,
    commit: str = "",
    share: bool = True,
    thorough: bool = True,
) -> CostRecord:
    """Return the record of an instruction's unit, from the user's cache or measured in half a minute.

    `workload` holds the steps whose energy is measured, and `operands` describes them. Without `share`, a product of scales
    is formed in the unit at every step. Without `thorough`, a tenth of the random vectors are compared, no faults are
    injected, and areas of blocks are left out. Needs the extra `cost`. Raises InputError if the generator does not support
    the instruction, RuntimeError if the netlist differs from the model.
    """
    check(spec)
    from codesign.evidence.cost.rtl.unit import scale_product, unit

    shared = share and shared_uses(spec) > 1
    sources = [unit(spec, shared), *([scale_product(spec)] if shared else [])]
    key = record_cache.key(spec, sources, library, workload, operands if thorough else f"{operands}, quickly")
    record = record_cache.read(key)
    if record is None:
        record = _measure(spec, library, workload, operands, sources, thorough)
        record_cache.write(key, record)
    return record.model_copy(update={"name": spec.name, "commit": commit})


def _measure(
    spec: Instruction, library: Library, workload: UnitVectors, operands: str, sources: Sequence[str], thorough: bool
) -> CostRecord:
    from codesign.evidence.cost import synth, verify

    rtlil = sources[0]
    netlist = whole = synth.synthesise(rtlil, library).netlist
    share, on_unit = _Share(), workload
    if len(sources) > 1:
        multiplier = synth.synthesise(sources[1], library).netlist
        share = _share(spec, library, workload, multiplier, sources[1])
        whole = multiplier.feeding(netlist, "scale")
        scales = verify.outputs(multiplier, workload)
        on_unit = replace(workload, operands={**workload.operands, "scale": scales[:, None]})
    proof = verify.prove(whole, spec, 100_000 if thorough else 10_000)
    on_workload = verify.compare(whole, [workload])
    golden = verify.against_golden(spec, 200 if thorough else 50)
    for comparison in (proof, on_workload, golden):
        if comparison.mismatches:
            raise RuntimeError(f"{spec.name}: the netlist differs from the model: {comparison.first}")
    faults, caught = verify.faults_caught(whole, spec, 40) if thorough else (0, 0)
    equivalence = Equivalence(
        vectors=proof.vectors + on_workload.vectors,
        mismatches=0,
        golden_vectors=golden.vectors,
        faults=faults,
        faults_caught=caught,
    )
    return _record(spec, library, rtlil, netlist, on_unit, operands, equivalence, share, blocks=thorough)


def measure_shared(
    specs: Sequence[Instruction], library: Library, workload: UnitVectors, operands: str, name: str, commit: str = ""
) -> CostRecord:
    """Return the record of a datapath that several instructions share, measured on a workload of the first.

    Raises RuntimeError if the netlist differs from the model of an instruction.
    """
    from codesign.evidence.cost import synth, verify
    from codesign.evidence.cost.rtl.shared import shared_unit

    rtlil = shared_unit(specs)
    key = record_cache.key(specs[0], [rtlil, *map(design_sha256, specs)], library, workload, operands)
    kept = record_cache.read(key)
    if kept is not None:
        return kept.model_copy(update={"commit": commit})
    netlist = synth.synthesise(rtlil, library).netlist
    modes = [partial(in_mode, mode=1 << i) for i in range(len(specs))]
    compared = [
        verify.compare(netlist, map(mode, (*adversarial(spec, 0, 60), *specials(spec))))
        for spec, mode in zip(specs, modes, strict=True)
    ]
    on_workload = verify.compare(netlist, [modes[0](workload)])
    golden = [verify.against_golden(spec, 100) for spec in specs]
    for comparison in (*compared, on_workload, *golden):
        if comparison.mismatches:
            raise RuntimeError(f"{name}: the netlist differs from the model: {comparison.first}")
    batches = [mode(batch) for spec, mode in zip(specs, modes, strict=True) for batch in shipped(spec)]
    faults, caught = verify.faults_shown(netlist, batches, 40)
    equivalence = Equivalence(
        vectors=sum(c.vectors for c in compared) + on_workload.vectors,
        mismatches=0,
        golden_vectors=sum(c.vectors for c in golden),
        faults=faults,
        faults_caught=caught,
    )
    record = _record(specs[0], library, rtlil, netlist, modes[0](workload), operands, equivalence, _Share())
    record = record.model_copy(update={"name": name, "design_sha256": shared_sha256(specs)})
    record_cache.write(key, record)
    return record.model_copy(update={"commit": commit})


def in_mode(vectors: UnitVectors, mode: int) -> UnitVectors:
    """Return vectors for one instruction of a shared datapath."""
    import numpy as np

    return replace(vectors, operands={**vectors.operands, "mode": np.full((len(vectors), 1), mode, "u8")})


def _record(
    spec: Instruction,
    library: Library,
    rtlil: str,
    netlist: Netlist,
    workload: UnitVectors,
    operands: str,
    equivalence: Equivalence,
    share: _Share,
    blocks: bool = True,
) -> CostRecord:
    """Measure a proven netlist, and return its record."""
    from codesign.evidence.cost import synth
    from codesign.evidence.cost.cell_library import Library
    from codesign.evidence.cost.energy import switched
    from codesign.evidence.cost.pipeline import pipeline
    from codesign.evidence.cost.sized import has_sizes, sized

    nand2, fo4 = library.nand2.area, library.fo4
    staged = pipeline(netlist, DEPTH, widths(spec))
    low, high = switched(staged, workload)
    at_clock = sized(netlist, widths(spec)) if has_sizes(library) else None
    if at_clock is not None and share.record is not None:
        shared = {
            "area": round(at_clock.area + share.staged_area / nand2, 1),
            "register_bits": at_clock.register_bits + share.register_bits,
        }
        at_clock = at_clock.model_copy(update=shared)
    told = blocks and library.name == Library.own().name
    areas = synth.block_areas(rtlil, library) | share.blocks if told else {}
    return CostRecord(
        name=spec.name,
        design_sha256=design_sha256(spec),
        products=spec.span,
        **toolchain(library, ""),
        rtlil_sha256=hashlib.sha256(rtlil.encode()).hexdigest(),
        area=round((netlist.area + share.area) / nand2, 1),
        shared=share.record,
        blocks={k: round(v / nand2, 1) for k, v in sorted(areas.items())},
        gates=len(netlist.gates),
        levels=max(netlist.levels),
        delay_fo4=round(netlist.delay / fo4, 2),
        pipelined=Pipelined(
            levels=DEPTH,
            cycles=staged.latency,
            loop=staged.loop,
            register_bits=staged.register_bits + share.register_bits,
            area=round((staged.area + share.staged_area) / nand2, 1),
            period_fo4=round(staged.period / fo4, 2),
        ),
        sized=at_clock,
        energy=Energy(
            low=round(low + share.energy[0]),
            high=round(high + share.energy[1]),
            operands=operands,
            steps=len(workload) - 1,
        ),
        equivalence=equivalence,
    )


@dataclass(frozen=True)
class _Share:
    """A unit's share of the multiplier of scales and of the product's register, in the library's units; by default none."""

    area: float = 0.0
    staged_area: float = 0.0
    energy: tuple[float, float] = (0.0, 0.0)
    register_bits: int = 0
    blocks: dict[str, float] = field(default_factory=dict)
    record: SharedProduct | None = None


def _share(spec: Instruction, library: Library, workload: UnitVectors, multiplier: Netlist, source: str) -> _Share:
    """Measure the multiplier of scales, whose RTLIL is `source`."""
    from codesign.evidence.cost.energy import held, switched
    from codesign.evidence.cost.pipeline import pipeline

    uses = shared_uses(spec)
    bits = len(multiplier.outputs["d_out"])
    register = bits * library.flip_flop.area
    staged = pipeline(multiplier, DEPTH)
    assert spec.scale
    assert spec.scale.a
    # The multiplier serves many units, and takes the scales of another one every cycle.
    every = spec.scale.a.group[1] // spec.span
    taken = replace(workload, operands={n: x[::every] for n, x in workload.operands.items()}, d=workload.d[::every])
    low, high = (energy / uses + held(library, bits) for energy in switched(staged, taken))
    record = SharedProduct(
        uses=uses,
        area=round(multiplier.area / library.nand2.area, 1),
        delay_fo4=round(multiplier.delay / library.fo4, 2),
        register_bits=bits,
        rtlil_sha256=hashlib.sha256(source.encode()).hexdigest(),
    )
    blocks = {f"scale product, 1 of {uses}": multiplier.area / uses, "scale register": register}
    areas = multiplier.area / uses + register, staged.area / uses + register
    return _Share(*areas, (low, high), bits, blocks, record)
