"""The table of dot-product units in docs/cost.md, from the shipped records of both cell libraries."""

from __future__ import annotations

from typing import Any

from codesign.evidence.cost.records import shipped

UNITS = {
    "hopper.wgmma.m64n256k32.f32.e4m3.e4m3": "today, Hopper: 13 fraction bits, e8m13 register",
    "configurable-accumulation": "17 fraction bits, FP32 register",
    "configurable-accumulation at 25": "25 fraction bits, FP32 register",
    "higher-precision-accumulation": "32 fraction bits, FP32 register, rounded to nearest",
    "group-scaled-mma-ue8m0": "25 fraction bits, UE8M0 scales added to exponents",
    "group-scaled-mma": "25 fraction bits, FP32 scales multiplied, C joined by an FP32 addition",
}
"""Records in the order of the table, and what they are; ratios are to the first."""


def units_text() -> str:
    """Return the table."""
    base = [_record(next(iter(UNITS)), library) for library in ("neutral", "osu018")]
    lines = [
        "| unit | area | ratio | with registers every 24 gates | energy, no glitches |",
        "|---|---:|---:|---|---:|",
    ]
    for name, what in UNITS.items():
        found = [_record(name, library) for library in ("neutral", "osu018")]
        area = " / ".join(f"{mine.area / its.area:.2f}" for mine, its in zip(found, base, strict=True))
        energy = " / ".join(f"{mine.energy.low / its.energy.low:.2f}" for mine, its in zip(found, base, strict=True))
        p = found[0].pipelined
        registers = f"{p.cycles} cycles of {p.period_fo4:.0f} FO4, {p.register_bits:,} bits"
        lines.append(f"| {what} | {found[0].area:,.0f} | {area} | {registers} | {energy} |")
    return "\n".join(lines)


def _record(name: str, library: str) -> Any:
    return next(record for record in shipped() if (record.name, record.library) == (name, library))
