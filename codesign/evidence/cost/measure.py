"""Measuring a design: its unit is generated, synthesised and proven; area, delay and energy go into a record. Needs the extra
`cost`; a design measured before comes from the user's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING

from codesign.evidence.cost import cache
from codesign.evidence.cost.records import (
    DEPTH,
    Energy,
    Equivalence,
    Pipelined,
    Record,
    SharedProduct,
    design_sha256,
    recipe_sha256,
)
from codesign.evidence.cost.rtl.ports import check, shared_uses
from isa_model.instruction import Instruction

if TYPE_CHECKING:
    from codesign.evidence.cost.library import Library
    from codesign.evidence.cost.netlist import Netlist
    from codesign.evidence.cost.vectors import Vectors


def measure(
    spec: Instruction, library: Library, workload: Vectors, operands: str, commit: str = "", share: bool = True
) -> Record:
    """Generate, synthesise, prove and measure one unit, or take it from the cache. Needs the extra `cost`.

    Takes half a minute. `workload` are the steps whose energy counts, `operands` says in words what they are.
    `share`: False puts the product of the scales into the unit, to be formed at every step. Raises InputError for a spec
    the generator cannot say, RuntimeError if the netlist is not the model.
    """
    check(spec)
    from codesign.evidence.cost.rtl.unit import scale_product, unit

    shared = share and shared_uses(spec) > 1
    sources = [unit(spec, shared), *([scale_product(spec)] if shared else [])]
    key = cache.key(spec, sources, library, workload, operands)
    record = cache.read(key)
    if record is None:
        record = _measure(spec, library, workload, operands, sources)
        cache.write(key, record)
    return record.model_copy(update={"name": spec.name, "commit": commit})


def _measure(spec: Instruction, library: Library, workload: Vectors, operands: str, sources: Sequence[str]) -> Record:
    from codesign.evidence.cost import synth, verify
    from codesign.evidence.cost.energy import switched
    from codesign.evidence.cost.pipeline import pipeline

    rtlil = sources[0]
    netlist = whole = synth.synthesise(rtlil, library).netlist
    nand2, fo4 = library.nand2.area, library.fo4
    share, on_unit = None, workload
    if len(sources) > 1:
        share = _share(spec, library, workload, sources[1])
        whole = share.netlist.feeding(netlist, "scale")
        scales = verify.outputs(share.netlist, workload)
        on_unit = replace(workload, operands={**workload.operands, "scale": scales[:, None]})
    proof = verify.prove(whole, spec)
    on_workload = verify.compare(whole, [workload])
    golden = verify.against_golden(spec, 200)
    for comparison in (proof, on_workload, golden):
        if comparison.mismatches:
            raise RuntimeError(f"{spec.name}: the netlist is not the model: {comparison.first}")
    faults, caught = verify.faults_caught(whole, spec, 40)
    staged = pipeline(netlist, DEPTH)
    low, high = switched(staged, on_unit)
    blocks = synth.block_areas(rtlil, library) | (share.blocks if share else {})
    return Record(
        name=spec.name,
        design_sha256=design_sha256(spec),
        products=spec.span,
        library=library.name,
        library_sha256=library.sha256,
        recipe_sha256=recipe_sha256(),
        rtlil_sha256=hashlib.sha256(rtlil.encode()).hexdigest(),
        versions={name: version(name) for name in ("amaranth", "pyosys", "numpy")},
        commit="",
        area=round((netlist.area + (share.area if share else 0)) / nand2, 1),
        shared=share and share.record,
        blocks={k: round(v / nand2, 1) for k, v in sorted(blocks.items())},
        gates=len(netlist.gates),
        levels=max(netlist.levels),
        delay_fo4=round(netlist.delay / fo4, 2),
        pipelined=Pipelined(
            levels=DEPTH,
            cycles=staged.latency,
            register_bits=staged.register_bits + (share.record.register_bits if share else 0),
            area=round((staged.area + (share.staged_area if share else 0)) / nand2, 1),
            period_fo4=round(staged.period / fo4, 2),
        ),
        energy=Energy(
            low=round(low + (share.energy[0] if share else 0)),
            high=round(high + (share.energy[1] if share else 0)),
            operands=operands,
            steps=len(workload) - 1,
        ),
        equivalence=Equivalence(
            vectors=proof.vectors + on_workload.vectors,
            mismatches=0,
            golden_vectors=golden.vectors,
            faults=faults,
            faults_caught=caught,
        ),
    )


@dataclass(frozen=True)
class _Share:
    """A unit's share of the multiplier of scales, in the library's units, with the register that holds a product."""

    netlist: Netlist
    """Netlist of the whole multiplier."""
    area: float
    staged_area: float
    energy: tuple[float, float]
    blocks: dict[str, float]
    record: SharedProduct


def _share(spec: Instruction, library: Library, workload: Vectors, source: str) -> _Share:
    from codesign.evidence.cost.energy import held, switched
    from codesign.evidence.cost.pipeline import pipeline
    from codesign.evidence.cost.synth import synthesise

    uses = shared_uses(spec)
    netlist = synthesise(source, library).netlist
    bits = len(netlist.outputs["d_out"])
    register = bits * library.flip_flop.area
    staged = pipeline(netlist, DEPTH)
    assert spec.scale
    assert spec.scale.a
    # Serving many units, the multiplier takes the scales of another one every cycle.
    every = spec.scale.a.group[1] // spec.span
    taken = replace(workload, operands={n: x[::every] for n, x in workload.operands.items()}, d=workload.d[::every])
    low, high = switched(staged, taken)
    return _Share(
        netlist,
        netlist.area / uses + register,
        staged.area / uses + register,
        (low / uses + held(library, bits), high / uses + held(library, bits)),
        {f"scale product, 1 of {uses}": netlist.area / uses, "scale register": register},
        SharedProduct(
            uses=uses,
            area=round(netlist.area / library.nand2.area, 1),
            delay_fo4=round(netlist.delay / library.fo4, 2),
            register_bits=bits,
            rtlil_sha256=hashlib.sha256(source.encode()).hexdigest(),
        ),
    )
