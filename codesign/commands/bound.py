"""`codesign bound`: error bounds of an instruction, their formulas, and an input that comes near them."""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codesign.commands.app import Target, app
from codesign.commands.tabular import Form, emit, tabular
from codesign.commands.terminal import console, table, wrapped
from codesign.figures.rows import Row

if TYPE_CHECKING:
    from codesign.evidence.bounds.derive import Bound
    from codesign.evidence.bounds.witness import Witness
    from isa_model.instruction import Instruction

QUANTITIES = {
    "worst_relative": "largest relative error R",
    "probable_relative": "exceeded by one output in 100,000",
    "bias": "mean relative error, products of one sign",
    "absolute": "additional absolute error A",
    "largest": "R S + A at the largest S",
    "overflow": "no overflow for S up to",
}
"""Quantities by their name in data."""


@app.command()
@tabular
def bound(
    target: Target,
    k: Annotated[int, typer.Option("--k", min=1, max=1 << 20, help="Number of products summed, C = 0.")] = 4096,
    promote: Annotated[
        int | None, typer.Option(min=1, help="Also bound software promotion to FP32, every so many products.")
    ] = None,
    form: Form = "table",
) -> int:
    """Show how far sums of an instruction can be from exact.

    |D - exact| is at most R S + A, where S is the sum of the products' magnitudes. R is derived from the stages, and an input
    is searched for that comes near it.
    """
    from codesign.evidence.bounds.derive import bound as derive
    from codesign.evidence.bounds.formula import formulas
    from codesign.evidence.bounds.witness import search
    from codesign.report.lookup import instruction_of
    from isa_model.promotion import promoted

    instruction = instruction_of(target)
    if promote is not None:
        instruction = promoted(instruction, promote)
    limits, found = search(instruction, k)
    columns = {"any": limits, "normal": derive(instruction, k, normal=True)}
    rows = data_rows(columns, instruction)
    said = list(formulas(limits))
    if form != "table":
        about = {
            "instruction": instruction.name,
            "k": k,
            "bounds": rows,
            "formulas": said,
            "input": _input(limits, found, instruction),
        }
        emit(form, rows, json.dumps(about, indent=1))
        return 0
    print(wrapped(f"{instruction.name}: |D - exact| <= R S + A, S = sum of |products|, K = {k}", ""))
    for line in said:
        print(wrapped(line, "  "))
    console().print(_table(rows))
    for line in remarks(limits, found, instruction):
        print(wrapped(line, ""))
    return 0


def data_rows(columns: dict[str, Bound], instruction: Instruction) -> list[Row]:
    """Return a row per quantity, for any operands and for normal ones; None for no bound."""
    found: list[Row] = []
    for name in QUANTITIES:
        row: Row = {"quantity": name}
        for column, limits in columns.items():
            value = {
                "worst_relative": limits.worst,
                "probable_relative": limits.probable(),
                "bias": -limits.mean + 0.0,
                "absolute": limits.absolute,
                "largest": limits.worst * min(limits.mass, limits.overflow) + limits.absolute,
                "overflow": limits.overflow,
            }[name]
            row[column] = value if isfinite(value) else None
        found.append(row)
    return found


def _table(rows: list[Row]) -> Any:
    """Return a rich table of the quantities."""

    def cells(row: Row) -> list[str]:
        return ["none" if row[x] is None else f"{row[x]:.4g}" for x in ("any", "normal")]

    head = "bound | any operands: | normal operands:"
    return table(head, ([QUANTITIES[row["quantity"]], *cells(row)] for row in rows))


def remarks(limits: Bound, found: Witness | None, instruction: Instruction) -> list[str]:
    """Return sentences on the input found, and on where the bounds hold."""
    if not limits.worst:
        said = ["Sums are exact as long as nothing overflows."]
    elif not isfinite(limits.worst):
        said = ["R is beyond float64: the roundings of so many products have no useful bound."]
    elif found is None:
        said = ["No input was found: none fits the formats."]
    else:
        said = [
            f"The worst input found has a relative error of {found.relative:.4g}, {found.attained(limits):.0%} of R."
        ]
    if found and instruction.is_stochastic:
        said[0] += " All its random bits are set."
    if limits.worst and limits.inward:
        said[0] += " Every rounding is towards zero: a sum of products of one sign is never larger than exact."
    if instruction.scale is not None:
        said.append("S includes the products' scales. A is for scales up to 1, and is proportional to them.")
    return said


def _input(limits: Bound, found: Witness | None, instruction: Instruction) -> dict[str, Any] | None:
    """Return the input found as data: its error, and the codes of A, B and scales along K as runs of [count, code]."""
    from itertools import groupby

    from codesign.evidence.bounds.witness import Bench

    def runs(codes: Any) -> Any:
        if isinstance(codes, list):
            return [runs(level) for level in codes]
        return None if codes is None else [[len(list(same)), code] for code, same in groupby(codes.ravel().tolist())]

    if found is None:
        return None
    a, b, (scale_a, scale_b) = Bench(instruction, limits.k).operands(found)
    codes = {"a": runs(a), "b": runs(b), "scale_a": runs(scale_a), "scale_b": runs(scale_b)}
    return {"relative_error": found.relative, "attained": found.attained(limits), **codes}
