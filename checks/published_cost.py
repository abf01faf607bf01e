"""`python checks/published_cost.py`: compare our figures of known circuits with published ones.

Writes `checks/published_cost.json` and the table between the marks in docs/cost.md. Every netlist is first compared with an
independent reference: numpy for integers and IEEE arithmetic, the model for instructions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache, partial
from math import fsum
from pathlib import Path
from typing import Any

from circuits import (
    CircuitBench,
    add_ripple,
    elements,
    float_unit,
    ieee,
    multiply_by_bits,
    multiply_integers,
    scaled_integers,
    signed,
)

sys.path.append(str(Path(__file__).resolve().parent.parent / "pages"))

from cost_curves import NEAREST, scales, unit

from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.records import Toolchain, toolchain
from codesign.figures import markdown
from isa_model.formats import FORMATS
from isa_model.instruction import Instruction
from isa_model.output_files import put, write_file
from isa_model.stage import Spec

PATH = Path(__file__).with_suffix(".json")
NAND2_45NM = 0.798
"""Area of NAND2_X1 in the NanGate 45 nm Open Cell Library, whose area ratios ours has, in um2."""

HOROWITZ = "Horowitz, ISSCC 2014, energies; areas of the same units in Sze et al., Proc. IEEE 105(12), 2017, 45 nm"
FORMATSCOPE = "FormatScope (github.com/SiHeonOh/FormatScope, results/), sky130, Yosys 0.68"
MXDOTP = "Islamoglu et al., MXDOTP (arXiv 2505.13159), 12 nm"
VSQUANT = "Dai et al., VS-Quant (arXiv 2102.04503); the MLSys 2021 abstract says 36 %"
DESRENTES = "Desrentes et al., DSD 2023 (hal-04240816), TSMC 16FFC"


class PublishedFigure(Spec):
    """A published figure, and ours of the same quantity."""

    source: str
    quantity: str
    theirs: float | None
    """Published figure; None if we could not read it."""
    ours: float
    ours_high: float | None = None
    """Upper end of our figure if it is a range."""
    unit: str = ""
    reason: str = ""
    """Reason for the difference."""


class PublishedFigures(Toolchain):
    """Published figures and ours."""

    vectors: int
    """Vectors on which netlists were compared with their references, without a mismatch."""
    rows: tuple[PublishedFigure, ...]


# -- comparisons -----------------------------------------------------------------------------------------------------


def rows(bench: CircuitBench) -> Iterator[PublishedFigure]:
    """Yield every comparison."""
    yield from horowitz(bench)
    yield from formatscope(bench)
    yield from mxdotp(bench)
    yield from vsquant(bench)
    yield from desrentes(bench)


def horowitz(bench: CircuitBench) -> Iterator[PublishedFigure]:
    """Compare adders and multipliers: area in um2 at 45 nm, energy relative to an 8-bit addition."""
    full_adder = "a full adder per bit in both; its carry is one cell there, gates here"
    compressors = (
        "ours has no compressor cells, gives all 64 bits and is not tuned in layout; theirs is 12 "
        "times their 8-bit one, where bits alone ask for 16"
    )
    slow = "ours is unsized and as slow as it likes, theirs sized for a clock; ours has subnormals, theirs does not say"
    circuits: list[tuple[Any, ...]] = []
    for n, area, energy, reason in ((8, 36, 0.03, ""), (16, 67, 0.05, ""), (32, 137, 0.1, full_adder)):
        add = partial(_sum, n)
        circuits.append((f"{n}-bit integer addition", add_ripple, n, add, area, energy, reason))
    for n, area, energy, reason in ((8, 282, 0.2, ""), (32, 3495, 3.1, compressors)):
        circuits.append((f"{n}-bit integer multiplication", multiply_integers, n, _product(n), area, energy, reason))
    for name, bits, product, area, energy in (
        ("fp16", 16, False, 1360, 0.4),
        ("fp16", 16, True, 1640, 1.1),
        ("fp32", 32, False, 4184, 0.9),
        ("fp32", 32, True, 7700, 3.7),
    ):
        what = f"{name.upper()} {'multiplication' if product else 'addition'}"
        circuits.append((what, float_unit(FORMATS[name], product), bits, ieee(name, product), area, energy, slow))
    base: tuple[float, float] | None = None
    for what, body, bits, reference, area, energy, reason in circuits:
        netlist = bench.circuit(body, {"x": bits, "y": bits}, reference)
        ours = round(netlist.area / bench.library.nand2.area * NAND2_45NM, 1)
        about = {"source": HOROWITZ, "unit": "um2", "reason": reason}
        yield PublishedFigure(quantity=f"area, {what}", theirs=float(area), ours=ours, **about)
        switched = bench.energy(netlist)
        base = base or switched
        if switched is not base:
            low, high = sorted((switched[0] / base[0], switched[1] / base[1]))
            yield PublishedFigure(
                source=HOROWITZ,
                quantity=f"energy over 8-bit addition, {what}",
                theirs=round(energy / 0.03, 2),
                ours=round(low, 2),
                ours_high=round(high, 2),
                reason="without and with all glitches, random operands; no wires, no clock tree, and theirs rounds 0.03",
            )


def _sum(bits: int, x: Any, y: Any) -> Any:
    return (x + y) & ((1 << bits) - 1)


def _product(bits: int) -> Any:
    return lambda x, y: (signed(x, bits) * signed(y, bits)).astype("u8") & ((1 << 2 * bits) - 1)


def formatscope(bench: CircuitBench) -> Iterator[PublishedFigure]:
    """Compare fused dot products of 32 lanes: wider windows, FP8 over INT8, the share of alignment, 4-bit formats."""

    def fp8(bits: int) -> Instruction:
        fuse = {"terms": 32, "fraction_bits": bits, "rounding": "to-odd", "accumulator": True, "result": NEAREST}
        return unit({"fuse": fuse})

    def integers(name: str) -> Instruction:
        result = {"format": "int32", "rounding": "nearest-even", "overflow": "wrap"}
        return unit({"sum": {"terms": 32, "accumulator": True, "result": result}}, None, name, "int32")

    fuse = {"terms": 1, "fraction_bits": 24, "rounding": "to-odd", "accumulator": True, "result": NEAREST}
    mxfp4 = unit({"dot": {"terms": 32}, "fuse": fuse}, scales("ue8m0", 32, "dot"), "e2m1")
    (narrow, blocks), (wide, _) = bench.instruction(fp8(24)), bench.instruction(fp8(32))
    (int8, int8_blocks), (int4, _), (mx, _) = (
        bench.instruction(s) for s in (integers("int8"), integers("int4"), mxfp4)
    )
    rows_of_bits, recoded = (
        bench.circuit(body, {"x": 8, "y": 8}, _product(8)).area / bench.library.nand2.area
        for body in (multiply_by_bits, multiply_integers)
    )
    plain = int8 + 32 * (rows_of_bits - recoded)
    total = fsum(blocks.values())
    align = fsum(v for k, v in blocks.items() if k.startswith(("align", "maximum")))
    sums = "their adder tree adds pairs with carries, 29 k of 111 k um2; ours keeps carries apart to the end"
    eight = "their 8-bit multiplier is Yosys's own, 638 NAND2 of their library; ours is recoded, 358"
    for quantity, theirs, ours, high, reason in (
        ("FP8 (E4M3), window of 24 to 32 bits", 129825 / 111272, wide / narrow, None, sums),
        ("FP8 with 24 bits over INT8", 111272 / 98811, narrow / int8, None, f"{eight}: against it FP8 is dearer"),
        ("the same, INT8's multipliers with a row per bit", 111272 / 98811, narrow / plain, None, "like theirs"),
        (
            "share of alignment in the FP8 unit",
            0.54,
            align / total,
            (align + blocks.get("unit", 0)) / total,
            "shifters and maxima, and with exponent sums and differences, which here are in the top module; their "
            "shifters are twice the window wide, for the sticky bit",
        ),
        ("share of multipliers in the INT8 unit", 76637 / 94469, _share(int8_blocks, "multiply"), None, eight),
        ("INT4 over INT8", 27906 / 100177, int4 / int8, None, eight),
        ("MXFP4 over INT4", 35967 / 27906, mx / int4, None, "theirs has accumulator registers in both arms, ours none"),
    ):
        yield PublishedFigure(
            source=FORMATSCOPE,
            quantity=quantity,
            theirs=round(theirs, 3),
            ours=round(ours, 3),
            ours_high=round(high, 3) if high else None,
            reason=reason,
        )


def _share(blocks: dict[str, float], prefix: str) -> float:
    return fsum(v for k, v in blocks.items() if k.startswith(prefix)) / fsum(blocks.values())


def mxdotp(bench: CircuitBench) -> Iterator[PublishedFigure]:
    """Compare a dot product of eight MXFP8 products: the size of a cluster of which eight of our units are 5.1 %."""
    add = {"add": {"terms": 1, "accumulator": True, "result": NEAREST}}
    spec = unit({"dot": {"terms": 8}, **add}, scales("ue8m0", 8, "dot"))
    area, _ = bench.instruction(spec)
    yield PublishedFigure(
        source=MXDOTP,
        quantity="cluster of eight cores, if eight of our units are the published 5.1 % of it",
        theirs=None,
        ours=round(8 * area / 0.051 / 1e6, 2),
        unit="million NAND2",
        reason="E4M3 alone, gates alone: their unit also takes E5M2, and has three stages of registers, so their cluster "
        "is larger; its absolute size was not open to us",
    )


def vsquant(bench: CircuitBench) -> Iterator[PublishedFigure]:
    """Compare 16 lanes of 4 bits with 4-bit scales per vector to 8 bits with one scale per tensor."""
    import numpy as np

    def plain(a: Any, b: Any, c: Any) -> Any:
        return (((elements(a, 8, 16) * elements(b, 8, 16)).sum(axis=1) + c.astype("i8")) & 0xFFFFFF).astype("u8")

    def scaled(a: Any, b: Any, c: Any, scale_a: Any, scale_b: Any) -> Any:
        dot = (elements(a, 4, 16) * elements(b, 4, 16)).sum(axis=1)
        return ((dot * (scale_a * scale_b).astype(np.int64) + c.astype("i8")) & 0xFFFFFF).astype("u8")

    wide = bench.circuit(scaled_integers(8, 0), {"a": 128, "b": 128, "c": 24}, plain)
    ports = {"a": 64, "b": 64, "c": 24, "scale_a": 4, "scale_b": 4}
    narrow = bench.circuit(scaled_integers(4, 4), ports, scaled)
    yield PublishedFigure(
        source=VSQUANT,
        quantity="area saved by 4 bits with a scale per vector of 16, over 8 bits",
        theirs=0.37,
        ours=round(1 - narrow.area / wide.area, 3),
        reason="theirs is a whole processing element, with buffers that only halve; ours is the dot product and its scale",
    )


def desrentes(bench: CircuitBench) -> Iterator[PublishedFigure]:
    """Compare exact dot products of 16 terms, rounded to FP32, with that of INT8."""
    result = {"format": "int32", "rounding": "nearest-even", "overflow": "wrap"}
    base, _ = bench.instruction(
        unit({"sum": {"terms": 16, "accumulator": True, "result": result}}, None, "int8", "int32")
    )
    for name in ("e4m3", "e5m2", "fp16"):
        add = {"add": {"terms": 1, "accumulator": True, "result": NEAREST}}
        area, _ = bench.instruction(unit({"dot": {"terms": 16}, **add}, None, name))
        yield PublishedFigure(
            source=DESRENTES,
            quantity=f"exact dot product of 16 {name.upper()} products over INT8's",
            theirs=None,
            ours=round(area / base, 3),
            reason="the paper's tables were not open to us, its abstract has no figure; it keeps a fixed-point "
            "accumulator, ours rounds into FP32 and adds C there",
        )


# -- files -----------------------------------------------------------------------------------------------------------


@cache
def shipped() -> PublishedFigures:
    """Return the shipped record."""
    return PublishedFigures.model_validate_json(PATH.read_text(encoding="utf-8"))


def table(record: PublishedFigures) -> str:
    """Return the figures in Markdown, one table per source."""
    lines: list[str] = []
    for source in dict.fromkeys(row.source for row in record.rows):
        rows = []
        for row in (r for r in record.rows if r.source == source):
            high = f" to {row.ours_high:g}" if row.ours_high is not None else ""
            theirs = f"{row.theirs:g}" if row.theirs is not None else "-"
            ratio = f"{row.ours / row.theirs:.2f}" if row.theirs else "-"
            if row.theirs and row.ours_high is not None:
                ratio += f" to {row.ours_high / row.theirs:.2f}"
            kind = f" ({row.unit})" if row.unit else ""
            rows.append((f"{row.quantity}{kind}", theirs, f"{row.ours:g}{high}", ratio, row.reason))
        lines += ["", f"**{source}**", "", markdown.table(" | theirs: | ours: | ours / theirs: | why", rows)]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure all circuits, and write the record and the table of docs/cost.md."""
    from codesign.commit import commit

    library = Library.own()
    bench = CircuitBench(library)
    found = []
    for row in rows(bench):
        print(f"{row.quantity}: {row.theirs} theirs, {row.ours} ours", file=sys.stderr, flush=True)
        found.append(row)
    record = PublishedFigures(
        **toolchain(library, commit()),
        vectors=bench.vectors,
        rows=tuple(found),
    )
    write_file(PATH, record.model_dump_json(indent=1) + "\n")
    put(Path(__file__).resolve().parent.parent / "docs" / "cost.md", "outside", table(record))


if __name__ == "__main__":
    main()
