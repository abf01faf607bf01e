"""The commands on results: `codesign evaluate`, which makes one, `codesign report` and `codesign compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codesign.commands.app import ProposalName, app, complete_proposals, seeds_of
from codesign.commands.progress import Progress
from codesign.commands.tabular import Form, emit, tabular
from codesign.commands.terminal import console
from isa_model.diagnostics import InputError

if TYPE_CHECKING:
    from codesign.verdicts.evaluate import Result


@app.command()
@tabular
def evaluate(
    proposal: ProposalName,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report; default: codesign-reports/<proposal>.")
    ] = None,
    rows: Annotated[int, typer.Option(min=2, max=4096, help="Rows of each GEMM's A that are computed, per seed.")] = 16,
    columns: Annotated[
        int, typer.Option(min=1, max=128, help="Columns of each GEMM's B that are computed, per seed.")
    ] = 16,
    seeds: Annotated[
        str,
        typer.Option(
            help="Seeds, as 0-15 or 3,5,8. Intervals need at least 8 seeds and 256 outputs (rows x columns x seeds)."
        ),
    ] = "0-15",
    train: Annotated[
        bool,
        typer.Option(
            "--train", help="Also train a small model on the proposal; takes a minute or two, and needs torch."
        ),
    ] = False,
    run_model: Annotated[
        bool,
        typer.Option(
            "--model",
            help="Also run a small language model on the proposal; takes minutes, and needs the extra `model`.",
        ),
    ] = False,
    form: Form = "table",
) -> int:
    """Evaluate a proposal and write its report.

    Gathers evidence on the proposal and judges its claims. Exit code 1 if a claim is refuted. --json prints result.json, --csv
    and --parquet a row per figure.
    """
    from codesign.evidence.sampling import Sampling
    from codesign.proposal.load import load_proposal
    from codesign.proposal.shipped import proposal_file

    sampling = Sampling(rows=rows, columns=columns, seeds=seeds_of(seeds))
    loaded = load_proposal(proposal_file(proposal))

    from codesign.report.lookup import FOLDER
    from codesign.report.write import check, write
    from codesign.verdicts.evaluate import evaluate as gather_and_judge
    from isa_model.output_files import untracked

    folder = out or FOLDER / loaded.proposal
    check(folder)
    with Progress(f"evaluating {loaded.proposal}") as progress:
        result = gather_and_judge(loaded, sampling, progress.phase, train, run_model)
        progress.phase("writing the report")
        page = write(result, folder)
        progress.phase("writing the report", 1, 1)
    if out is None:
        untracked(FOLDER)
    _print_result(result, form)
    print(f"report: {page}", file=sys.stderr)
    return int(any(v.judgement == "refuted" for v in result.verdicts))


def _print_result(result: Result, form: Form, tables: bool = False) -> None:
    """Print a result: its verdicts, with `tables` also its tables, or its figures as data."""
    if form == "table":
        from codesign.commands.result_text import show as show_result

        show_result(result, console(), tables)
    else:
        from codesign.report.rows import figure_rows

        emit(form, figure_rows(result), result.model_dump_json(indent=1))


@app.command()
@tabular
def report(
    target: Annotated[
        str | None,
        typer.Argument(metavar="RESULT|PROPOSAL", help="Folder of a report, its result.json, or its proposal."),
    ] = None,
    replay: Annotated[
        str | None, typer.Option(metavar="RESULT", help="Rebuild every file of this report from its result.json.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --replay, folder for the files; default: the folder of the result.")
    ] = None,
    form: Form = "table",
) -> int:
    """Print a report, or rebuild its files with --replay.

    Nothing is evaluated again. Rebuilt files are equal byte for byte. --json prints result.json, --csv and --parquet a row per
    figure.
    """
    from codesign.report.lookup import result_of

    if (target is None) == (replay is None) or not (target or replay):
        raise InputError.of(
            "no report is named", "codesign report RESULT to read one, or --replay RESULT to rebuild one"
        )
    if out is not None and replay is None:
        raise InputError.of("--out is for --replay, which writes files", f"--replay {target} --out {out}")
    if replay and form != "table":
        raise InputError.of(
            f"--replay writes files and prints nothing; --{form} is for reading", f"report {replay} --{form}"
        )
    source, result = result_of(replay or target or "")
    page = source.parent / "report.html"
    if replay:
        from codesign.report.write import replayed

        page = replayed(source, out or source.parent)
    else:
        from codesign.verdicts.read_result import drawing

        with drawing(source):
            _print_result(result, form, tables=True)
    print(f"report: {page if page.exists() else source}", file=sys.stderr)
    return 0


@app.command()
@tabular
def compare(
    results: Annotated[
        list[str],
        typer.Argument(
            metavar="PROPOSAL|RESULT",
            help="Proposals that have a report, or folders of reports.",
            autocompletion=complete_proposals,
        ),
    ],
    objective: Annotated[
        list[str] | None,
        typer.Option(
            help="A metric that the Pareto front is on, besides the total error; repeat for more.", metavar="METRIC"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the page; default: codesign-reports/compare.")] = None,
    form: Form = "table",
) -> int:
    """Compare the results of proposals.

    Shows accuracy, cost, traffic and speed side by side, and marks the proposals on the Pareto front of the objectives.
    """
    from codesign.report.comparison import show, write
    from codesign.report.lookup import FOLDER, result_of
    from codesign.report.rows import comparison_rows
    from codesign.verdicts.compare import compare as put_together
    from codesign.verdicts.read_result import drawing
    from isa_model.output_files import untracked

    files, found = zip(*map(result_of, results), strict=True)
    with drawing(*files):
        comparison = put_together(found, objective or ())
        page = write(comparison, out or FOLDER / "compare")
    if out is None:
        untracked(FOLDER)
    if form == "table":
        show(comparison, console())
    else:
        emit(form, comparison_rows(comparison), comparison.model_dump_json(indent=1))
    print(f"page: {page}", file=sys.stderr)
    return 0
