"""`codesign model`: run a language model on a proposal's numerics, and say what changes against BF16."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from codesign.commands.app import app
from codesign.commands.progress import Progress
from codesign.commands.tabular import Form, emit, tabular
from codesign.commands.terminal import console, table
from codesign.figures.rows import Row

if TYPE_CHECKING:
    from codesign.evidence.model.records import ModelRecord, ModelRun
    from codesign.proposal.recipe import Recipe

HEAD = "numerics | perplexity | over BF16's | divergence, nats | changed predictions | worst kind of Linear"


@app.command()
@tabular
def model(
    on: Annotated[
        str,
        typer.Argument(
            metavar="PROPOSAL|INSTRUCTION|RECIPE", help="A proposal with all its variants, an instruction, or a recipe."
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--model", metavar="DIR", help="Hugging Face folder of a causal language model; default: SmolLM2-135M."
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text to read; default: the language reference of Python.")
    ] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Windows of the text; intervals need at least 8.")] = 8,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a window.")] = 64,
    attention: Annotated[
        bool, typer.Option("--attention", help="Also compute attention's two products on the instruction.")
    ] = False,
    engine: Annotated[
        Literal["auto", "cpu", "gpu", "native", "fp32"],
        typer.Option(help="Implementation of the products (docs/models.md)."),
    ] = "auto",
    left_out: Annotated[
        bool, typer.Option("--leave-out", help="Also leave out the sums, the cast of activations and that of weights.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Record to write, or to extend.")] = None,
    form: Form = "table",
) -> int:
    """Run a language model on a proposal's numerics.

    Shows perplexity, divergence and changed predictions against BF16. Takes minutes on a CPU; needs the extra `model`.
    """
    from codesign.evidence.model.language_model import load_model, load_text, unavailable
    from codesign.evidence.model.records import FILE, LEFT_OUT, numerics_of, read, without, write
    from isa_model.output_files import check_file

    with unavailable():
        from codesign.evidence.model.measure import Arm, measure
    wanted = _numerics(on)
    load_text(text)
    if out is not None:
        check_file(out, *FILE)
    old = read(out) if out is not None and out.exists() else None
    arms = [Arm(name, recipe, attention, layers=True) for name, recipe in wanted.items()]
    if left_out:
        last = "proposal" if "proposal" in wanted else next(iter(wanted))
        arms += [Arm(f"{last}, without {part}", without(wanted[last], part), attention) for part in LEFT_OUT]
    with Progress("running a language model") as progress:
        progress.phase("loading the model", 0, 0)
        found = load_model(folder)
        record = measure(
            found,
            arms,
            text,
            sequences,
            length,
            engine,
            1,
            lambda name, done, total: progress.phase(name, done, total),
            old,
        )
    if out is not None:
        write(record, out)
        print(f"record: {out}", file=sys.stderr)
    names = {arm.name: numerics_of(arm.recipe, attention) for arm in arms}
    if form == "table":
        _show(record, names)
    else:
        emit(form, data_rows(record, names), record.model_dump_json(indent=1))
    return 0


def data_rows(record: ModelRecord, names: dict[str, str]) -> list[Row]:
    """Return a row per numerics and metric, BF16 first, with 95 % intervals over sequences."""
    from codesign.evidence.model.estimates import estimates

    rows: list[Row] = []
    for name, run in (("BF16", record.reference), *((name, record.find(key)) for name, key in names.items())):
        for metric, found in estimates(record, run).items() if run else ():
            low, high = found.interval(0.95) or (None, None)
            rows.append({"numerics": name, "metric": metric, "value": found.value, "low": low, "high": high})
    return rows


def _numerics(on: str) -> dict[str, Recipe]:
    """Return the numerics to run, by name: the variants of a proposal, or one recipe."""
    from codesign.evidence.model.questions import numerics
    from codesign.proposal.proposal import Proposal
    from codesign.torch.rules import meant, recipe_on

    found = meant(on)
    if not isinstance(found, Proposal):
        return {on: recipe_on(found)}
    made = numerics(found)
    if ("proposal", None) not in made:
        recipe_on(found)  # raises the reason
    return {v if at is None else f"{v} at {at}": recipe for (v, at), recipe in made.items()}


def _show(record: ModelRecord, names: dict[str, str]) -> None:
    """Print a table with a row for each numerics."""
    rows = [_row(record, record.reference, "BF16")]
    rows += [_row(record, run, name) for name, key in names.items() if (run := record.find(key))]
    terminal = console()
    terminal.print(table(HEAD, rows))
    tokens = record.sequences * (record.length - 1)
    terminal.print(
        f"{record.model} ({record.about}) on {tokens} tokens of {record.text}, {record.machine}; intervals of 95 % over "
        f"{record.sequences} sequences",
        highlight=False,
    )


def _row(record: ModelRecord, run: ModelRun, name: str) -> tuple[str, ...]:
    from codesign.evidence.model.estimates import estimates, kinds

    made: dict[str, Any] = estimates(record, run)
    cells = []
    for metric in ("perplexity", "perplexity_ratio", "kl", "flip_rate"):
        mine = made[f"model.{metric}"]
        ends = mine.interval(0.95)
        between = "" if ends is None else f" [{ends[0]:.4g}, {ends[1]:.4g}]"
        cells.append(f"{mine.value:.4g}{between}")
    errors = {kind: error for kind, error in kinds(run).items() if error is not None}
    worst = max(errors, key=errors.__getitem__, default="")
    return (name, *cells, f"{worst} {errors[worst]:.2g}" if worst else "")
