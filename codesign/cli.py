"""The commands. Thin: each reads its input, calls one function, prints. Data on stdout, progress on stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from isa_model.diagnostics import InputError, Problem

if TYPE_CHECKING:
    from isa_model.instruction import Instruction

app = typer.Typer(
    name="codesign",
    help="Judge a proposal for a better matrix instruction: bits, accuracy, and which of its claims hold.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130
"""What typer returns after Ctrl-C."""

Target = Annotated[str, typer.Argument(metavar="INSTRUCTION|PROPOSAL", help="A name from the catalogue, or a file.")]
ProposalPath = Annotated[Path, typer.Argument(metavar="PROPOSAL", help="A proposal file (YAML).")]


def run_app(arguments: list[str]) -> int:
    """Run the command line; returns its exit code. Raises KeyboardInterrupt on Ctrl-C."""
    try:
        result = app(arguments, standalone_mode=False, prog_name="codesign")
    except Exception as error:
        # Usage errors of the command-line library, which typer brings under one name or another.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show(file=sys.stderr)
            return 2
        if type(error).__name__ == "Abort":
            raise KeyboardInterrupt from None
        raise
    if result == INTERRUPTED:
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


@app.command()
def evaluate(
    proposal: ProposalPath,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; default: reports/<proposal>.")] = None,
    rows: Annotated[int, typer.Option(min=2, help="Rows of A computed of each GEMM, per seed.")] = 32,
    columns: Annotated[int, typer.Option(min=1, max=128, help="Columns of B computed of each GEMM.")] = 32,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1",
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json instead of the table.")] = False,
) -> int:
    """Gather evidence on a proposal, judge its claims, write a report. Exit code 1 if a claim is refuted."""
    from codesign.proposal import load_proposal
    from codesign.trial import Sampling

    sampling = Sampling(rows=rows, columns=columns, seeds=_seeds(seeds))
    loaded = load_proposal(proposal)
    folder = out or Path("reports") / loaded.proposal

    from codesign.evaluate import evaluate as gather_and_judge
    from codesign.report.terminal import show as show_result
    from codesign.report.write import check, write

    check(folder)
    with _Progress(f"evaluating {loaded.proposal}") as progress:
        result = gather_and_judge(loaded, sampling, progress.update)
    page = write(result, folder)
    if as_json:
        print(result.model_dump_json(indent=1))
    else:
        show_result(result, _console())
    print(f"report: {page}", file=sys.stderr)
    return int(any(v.judgement == "refuted" for v in result.verdicts))


@app.command()
def report(
    replay: Annotated[Path, typer.Option(metavar="RESULT", help="A result.json, or a report's folder.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the report; default: where the result lies.")] = None,
) -> int:
    """Rebuild every file of a report from its result alone, byte for byte; nothing is computed."""
    from codesign.evaluate import read_result
    from codesign.report.write import write

    source = replay / "result.json" if replay.is_dir() else replay
    page = write(read_result(source), out or source.parent)
    print(f"report: {page}", file=sys.stderr)
    return 0


@app.command()
def compare(
    results: Annotated[
        list[str], typer.Argument(metavar="PROPOSAL|RESULT...", help="Proposals with a report, or reports' folders.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("reports/compare"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON instead of the table.")] = False,
) -> int:
    """Put proposals side by side, from their results: accuracy, cost, traffic, and which ones nothing else here beats."""
    from codesign.compare import compare as put_together
    from codesign.compare import results_of
    from codesign.report.comparison import show, write

    comparison = put_together(results_of(results))
    page = write(comparison, out)
    if as_json:
        print(comparison.model_dump_json(indent=1))
    else:
        show(comparison, _console())
    print(f"page: {page}", file=sys.stderr)
    return 0


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Proposals or instruction specs (YAML).")],
) -> int:
    """Check proposal or instruction files and show everything that is wrong with them."""
    from codesign.proposal import parse_proposal
    from isa_model.diagnostics import read_yaml
    from isa_model.library import validated

    problems: list[Problem] = []
    for file in files:
        try:
            document = read_yaml(file)
            if _is_instruction(document.data):
                validated(document)
            else:
                parse_proposal(document)
            print(f"{file}: valid")
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return 0


@app.command()
def schema(
    kind: Annotated[
        Literal["proposal", "instruction", "result"], typer.Argument(help="Which file's schema.")
    ] = "proposal",
) -> int:
    """Print the JSON Schema of proposal or instruction files, or of result.json, for editors and readers."""
    from codesign.schemas import json_schema

    print(json.dumps(json_schema(kind), indent=1))
    return 0


@app.command("list")
def list_names(
    what: Annotated[
        Literal["all", "families", "instructions", "formats", "workloads", "tensors", "metrics"],
        typer.Argument(help="What to list."),
    ] = "all",
) -> int:
    """List what a proposal can name: instructions (all together: their families), formats, workloads, tensors, metrics."""
    from codesign.listing import listings

    for title, lines in listings().items():
        if what == title or (what == "all" and title != "instructions"):
            if what == "all":
                print(f"{title}:")
            for name, about in lines:
                print(f"{'  ' if what == 'all' else ''}{name}" + (f"  {about}" if about else ""))
    return 0


@app.command()
def show(
    target: Target,
) -> int:
    """Print the ISA-manual page of an instruction, or of what a proposal proposes."""
    from codesign.manual import page, proposal_page
    from codesign.proposal import parse_proposal
    from isa_model.diagnostics import read_yaml
    from isa_model.library import is_path, load

    if is_path(target) and not _is_instruction((document := read_yaml(target)).data):
        proposal = parse_proposal(document)
        name, sections = proposal.proposal, proposal_page(proposal)
    else:
        instruction = load(target)
        name, sections = instruction.name, page(instruction)
    print(name)
    for section in sections:
        print(f"\n{section.title.upper()}")
        for number, line in enumerate(section.lines, 1):
            print(_wrapped(line, f"{number:>4}. " if section.steps else "    "))
    return 0


@app.command()
def rtl(
    target: Target,
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    liberty: Annotated[Path | None, typer.Option(help="Cell library; default: technology-neutral.")] = None,
) -> int:
    """Write an instruction's dot-product unit as Verilog, proven equal to the model, with testbench and mapped netlist."""
    from codesign.cost.export import export
    from codesign.cost.library import Library

    instruction = _instruction(target)
    library = Library.read(liberty) if liberty else Library.own()
    for name, figure in export(instruction, out, library).items():
        print(f"{name}: {figure}")
    print(f"files: {out}", file=sys.stderr)
    return 0


@app.command()
def conform(
    architecture: Annotated[
        str | None, typer.Argument(help="Whose instructions a recording or the chip has, for instance hopper.")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="A recording (.npz), or a folder or file of `codesign vectors`.")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Issue the instructions on the GPU at hand (Hopper).")] = False,
    outputs: Annotated[int, typer.Option(min=1, help="Outputs to compare in all, with --live.")] = 100_000_000,
    record: Annotated[Path | None, typer.Option(help="Where to save the run, with --live (JSON).")] = None,
) -> int:
    """Compare the model with hardware, recorded or live, or with vectors, bit for bit. Exit code 1 on any mismatch."""
    from rich.table import Table

    from isa_model.conformance import conform as recorded

    if live == (vectors is not None):
        raise InputError.of("conform needs results to compare with", "--vectors FILE, or --live on a Hopper GPU")
    if live:
        from codesign import live as chip

        if architecture is None:
            raise InputError.of("whose instructions does the chip have?", "codesign conform hopper --live")
        comparisons = chip.compare(architecture, outputs)
    else:
        assert vectors is not None
        comparisons = recorded(architecture, vectors)
    table = Table("instruction", "outputs", "mismatches", "first mismatch", header_style="bold", pad_edge=False)
    done = []
    with _Progress("comparing") as progress:
        for c in comparisons:
            table.add_row(c.instruction, f"{c.outputs}", f"{c.mismatches}", (c.first or "none").replace("[", "\\["))
            done.append(c)
            progress.update(len(done), 0)
    bad = sum(c.mismatches for c in done)
    if live and record and architecture:
        chip.save(record, architecture, outputs, done)
    console = _console()
    console.print(table)
    console.print(f"{sum(c.outputs for c in done)} outputs compared, {bad} mismatches", highlight=False)
    return int(bad > 0)


@app.command()
def bench(
    kernel: Annotated[
        list[str] | None, typer.Option(help="Kernels to time, with * and ?, for instance 'gemm.*'; default: all.")
    ] = None,
    shapes: Annotated[
        str, typer.Option(help="deepseek-v3, or forward GEMMs as MxNxK, separated by commas.")
    ] = "deepseek-v3",
    out: Annotated[Path, typer.Option(help="Where to save the record (JSON).")] = Path("bench.json"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the operands.")] = 0,
) -> int:
    """Check and time the kernels beside their peers and ceilings on the GPU at hand. Exit code 1 if one is wrong."""
    from kernels.bench.run import bench as run_bench
    from kernels.bench.shapes import parse
    from kernels.bench.table import table

    patterns = kernel or ["*"]
    command = " ".join(
        ["codesign bench", *(f"--kernel '{k}'" for k in kernel or []), f"--shapes {shapes} --seed {seed}"]
    )
    with _Progress("timing") as progress:
        record = run_bench(parse(shapes), patterns, name=out.stem, command=command, seed=seed, progress=progress.update)
    record.save(out)
    _console().print(table(record))
    print(f"record: {out}", file=sys.stderr)
    return int(any(row.wrong for row in record.cases))


@app.command()
def vectors(
    target: Target,
    out: Annotated[Path, typer.Option(help="Folder of the vectors.")],
    count: Annotated[
        int, typer.Option(min=1, help="How many; the directed ones, and random ones to fill up.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random ones.")] = 0,
) -> int:
    """Write known-answer vectors for RTL test benches, as JSON lines and for $readmemh, and show what they cover."""
    from codesign.coverage_table import show as show_coverage
    from isa_model.vectors import files
    from isa_model.vectors.coverage import measure
    from isa_model.vectors.make import make

    instruction = _instruction(target)
    files.check(out)
    with _Progress("answers") as progress:
        made = make(instruction, count, seed, progress.update)
    with _Progress("coverage") as progress:
        coverage = measure(made, progress.update)
    files.write(made, coverage, out)
    show_coverage(coverage, _console())
    print(f"{len(made.vectors)} vectors of {instruction.name}: {out}", file=sys.stderr)
    return 0


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("proposal.yaml"),
    base: Annotated[str, typer.Option(help="Instruction to start from.")] = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3",
) -> int:
    """Write a commented proposal to start from, and its schema beside it."""
    from codesign.schemas import json_schema, starter
    from isa_model.files import write_file

    text = starter(path, base)
    schema_path = path.parent / "proposal.schema.json"
    if path.exists():
        raise InputError.of(f"{path} exists", "another name, or move it away")
    write_file(schema_path, json.dumps(json_schema("proposal"), indent=1) + "\n")
    write_file(path, text)
    print(f"wrote {path} and {schema_path}; next: codesign validate {path}")
    return 0


# -- helpers ---------------------------------------------------------------------------------------------------------


def _instruction(target: str) -> Instruction:
    """An instruction of the catalogue, of a file, or what a proposal proposes."""
    from codesign.proposal import parse_proposal
    from isa_model.diagnostics import read_yaml
    from isa_model.library import is_path, load

    if is_path(target) and not _is_instruction((document := read_yaml(target)).data):
        return parse_proposal(document).proposed()
    return load(target)


def _is_instruction(data: dict[str, Any]) -> bool:
    """An instruction file describes stages itself; a proposal names a base."""
    return "stages" in data and "base" not in data


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError.of(f"--seeds {text} is not a list of whole numbers", "for instance --seeds 0,1,2") from None
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise InputError.of(f"--seeds {text}: seeds are different numbers from 0 up", "for instance --seeds 0,1,2")
    return seeds


def _wrapped(text: str, lead: str) -> str:
    import textwrap

    return textwrap.fill(
        text,
        100,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _console() -> Any:
    """stdout as a console; piped output is not cut to a terminal's width."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, soft_wrap=False)


class _Progress:
    """A progress bar on stderr, if that is a terminal."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(label, total=None)

    def __enter__(self) -> _Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, done: int, total: int) -> None:
        self.bar.update(self.task, completed=done, total=total or None)
