"""The commands. Thin: each reads its input, calls one function, prints. Data on stdout, progress on stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from codesign.commands.app import (
    ProposalName,
    Target,
    app,
    complete_proposals,
    folder_of,
    instruction_of,
    is_instruction,
    meant,
    seeds_of,
)
from codesign.commands.app import run_app as run_app
from codesign.commands.terminal import Progress, console, wrapped
from isa_model.diagnostics import InputError, Problem


@app.command()
def evaluate(
    proposal: ProposalName,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report; default: codesign-reports/<proposal>.")
    ] = None,
    rows: Annotated[int, typer.Option(min=2, max=4096, help="Rows of A computed of each GEMM, per seed.")] = 16,
    columns: Annotated[int, typer.Option(min=1, max=128, help="Columns of B computed of each GEMM, per seed.")] = 16,
    seeds: Annotated[
        str,
        typer.Option(
            help="Seeds, as 0-15 or 3,5,8; intervals need 8 of them, and 256 outputs (rows x columns x seeds)."
        ),
    ] = "0-15",
    train: Annotated[
        bool,
        typer.Option("--train", help="Train a small model on the proposal here, too: a minute or two, needs torch."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json instead of the table.")] = False,
) -> int:
    """Gather evidence on a proposal, judge its claims, write a report. Exit code 1 if a claim is refuted."""
    from codesign.evidence.numerics.trial import Sampling
    from codesign.proposal.proposal import load_proposal
    from codesign.proposal.shipped import proposal_file

    sampling = Sampling(rows=rows, columns=columns, seeds=seeds_of(seeds))
    loaded = load_proposal(proposal_file(proposal))

    from codesign.commands.figures_table import show as show_result
    from codesign.report.lookup import FOLDER
    from codesign.report.write import check, write
    from codesign.verdicts.evaluate import evaluate as gather_and_judge

    folder = out or FOLDER / loaded.proposal
    check(folder)
    with Progress(f"evaluating {loaded.proposal}") as progress:
        result = gather_and_judge(loaded, sampling, progress.phase, train)
        progress.phase("writing the report")
        page = write(result, folder)
        progress.phase("writing the report", 1, 1)
    if as_json:
        print(result.model_dump_json(indent=1))
    else:
        show_result(result, console())
    print(f"report: {page}", file=sys.stderr)
    return int(any(v.judgement == "refuted" for v in result.verdicts))


@app.command()
def report(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[RESULT|PROPOSAL]", help="A report's folder, its result.json, or its proposal."),
    ] = None,
    replay: Annotated[
        str | None, typer.Option(metavar="RESULT", help="Rebuild every file of this report from its result.json.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --replay, folder of the report; default: where the result lies.")
    ] = None,
) -> int:
    """Print a report in the terminal; with --replay, rebuild its files byte for byte. Nothing is computed."""
    from codesign.report.lookup import result_of

    if (target is None) == (replay is None):
        raise InputError.of("which report?", "codesign report RESULT to read one, or --replay RESULT to rebuild one")
    if out is not None and replay is None:
        raise InputError.of("--out is where --replay writes; nothing is written here", f"--replay {target} --out {out}")
    source, result = result_of(replay or target or "")
    page = source.parent / "report.html"
    if replay:
        from codesign.report.write import replayed

        page = replayed(source, out or source.parent)
    else:
        from codesign.commands.figures_table import show as show_result

        show_result(result, console())
    print(f"report: {page if page.exists() else source}", file=sys.stderr)
    return 0


@app.command()
def compare(
    results: Annotated[
        list[str],
        typer.Argument(
            metavar="PROPOSAL|RESULT...",
            help="Proposals with a report, or reports' folders.",
            autocompletion=complete_proposals,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("codesign-reports/compare"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON instead of the table.")] = False,
) -> int:
    """Put proposals side by side, from their results: accuracy, cost, traffic, and which ones nothing else here beats."""
    from codesign.report.comparison import show, write
    from codesign.report.lookup import result_of
    from codesign.verdicts.compare import compare as put_together

    comparison = put_together([result_of(target)[1] for target in results])
    page = write(comparison, out)
    if as_json:
        print(comparison.model_dump_json(indent=1))
    else:
        show(comparison, console())
    print(f"page: {page}", file=sys.stderr)
    return 0


@app.command()
def validate(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Proposals, recipes or instruction specs (YAML), or names of shipped proposals.",
            autocompletion=complete_proposals,
        ),
    ],
) -> int:
    """Check proposal, recipe or instruction files and show everything that is wrong with them."""
    from codesign.proposal.proposal import parse_proposal
    from codesign.proposal.recipe import parse_recipe
    from codesign.proposal.shipped import proposal_file
    from isa_model.diagnostics import read_yaml
    from isa_model.library import validated

    problems: list[Problem] = []
    for file in files:
        try:
            document = read_yaml(proposal_file(file))
            if is_instruction(document.data):
                validated(document)
            elif "recipe" in document.data:
                parse_recipe(document)
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
        Literal["proposal", "instruction", "recipe", "result"], typer.Argument(help="Which file's schema.")
    ] = "proposal",
) -> int:
    """Print the JSON Schema of proposal, instruction or recipe files, or of result.json, for editors and readers."""
    from codesign.commands.schemas import json_schema

    print(json.dumps(json_schema(kind), indent=1))
    return 0


@app.command("list")
def list_names(
    what: Annotated[
        Literal[
            "all",
            "proposals",
            "families",
            "instructions",
            "formats",
            "workloads",
            "tensors",
            "metrics",
            "recipes",
            "experiments",
        ],
        typer.Argument(help="What to list."),
    ] = "all",
) -> int:
    """List the shipped proposals, and what one can name: instructions (all together: families), formats, workloads, ..."""
    from codesign.commands.listing import listings

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
    from codesign.proposal.manual import page, proposal_page
    from codesign.proposal.proposal import Proposal

    found = meant(target)
    sections = proposal_page(found) if isinstance(found, Proposal) else page(found)
    name = found.proposal if isinstance(found, Proposal) else found.name
    print(name)
    for section in sections:
        print(f"\n{section.title.upper()}")
        for number, line in enumerate(section.lines, 1):
            print(wrapped(line, f"{number:>4}. " if section.steps else "    "))
    return 0


@app.command()
def rtl(
    target: Target,
    out: Annotated[Path | None, typer.Option(help="Folder for the files; default: codesign-rtl/<name>.")] = None,
    liberty: Annotated[Path | None, typer.Option(help="Cell library; default: technology-neutral.")] = None,
) -> int:
    """Write an instruction's dot-product unit as Verilog, proven equal to the model, with testbench and mapped netlist."""
    from codesign.evidence.cost.export import export
    from codesign.evidence.cost.library import Library

    instruction = instruction_of(target)
    library = Library.read(liberty) if liberty else Library.own()
    out = out or folder_of("rtl", instruction)
    with Progress(f"hardware of {instruction.name}: synthesis and proof"):
        figures = export(instruction, out, library)
    for name, figure in figures.items():
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
        from codesign.commands import conform as chip

        if architecture is None:
            raise InputError.of("whose instructions does the chip have?", "codesign conform hopper --live")
        if record:
            chip.check(record, architecture)
        comparisons = chip.compare(architecture, outputs)
    else:
        assert vectors is not None
        comparisons = recorded(architecture, vectors)
    table = Table("instruction", "outputs", "mismatches", "first mismatch", header_style="bold", pad_edge=False)
    done = []
    with Progress("comparing") as progress:
        for c in comparisons:
            table.add_row(c.instruction, f"{c.outputs}", f"{c.mismatches}", c.first or "none")
            done.append(c)
            progress.update(len(done), 0)
    bad = sum(c.mismatches for c in done)
    if live and record and architecture:
        chip.save(record, architecture, outputs, done)
    terminal = console()
    terminal.print(table)
    terminal.print(f"{sum(c.outputs for c in done)} outputs compared, {bad} mismatches", highlight=False)
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
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the operands.")] = 0,
    keep: Annotated[
        Path | None,
        typer.Option(help="An earlier record of such a GPU: shapes not measured again stay, marked by their run."),
    ] = None,
) -> int:
    """Check and time the kernels beside their peers and ceilings on the GPU at hand. Exit code 1 if one is wrong."""
    from isa_model.output_files import check_file, of_command
    from kernels.bench.bench import bench as run_bench
    from kernels.bench.records import read, together
    from kernels.bench.shapes import parse
    from kernels.bench.table import table

    check_file(out, *of_command("codesign bench"))
    earlier = read(keep) if keep else None
    patterns = kernel or ["*"]
    command = " ".join(
        ["codesign bench", *(f"--kernel '{k}'" for k in kernel or []), f"--shapes {shapes} --seed {seed}"]
        + [f"--keep {keep}"] * (keep is not None)
    )
    with Progress("timing") as progress:
        record = run_bench(parse(shapes), patterns, name=out.stem, command=command, seed=seed, progress=progress.update)
    (together(record, earlier) if earlier else record).save(out)
    console().print(table(record))
    print(f"record: {out}", file=sys.stderr)
    return int(any(row.wrong for row in record.cases))


@app.command()
def step(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A large model by name, for instance deepseek-v3.")],
    proposals: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROPOSAL...",
            help="Files or names; default: all shipped that can be timed.",
            autocompletion=complete_proposals,
        ),
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of the GPU's step; default: the model's.")] = None,
) -> int:
    """Where the time of one layer's step goes today, and what each proposal takes off it, with Amdahl's ceiling."""
    from codesign.commands import step as table
    from codesign.evidence.timing import amdahl
    from codesign.evidence.timing.times import timer
    from codesign.proposal.proposal import load_proposal
    from codesign.proposal.shipped import proposal_file
    from codesign.workloads.gemms import layer_of
    from isa_model.diagnostics import Unavailable

    about = layer_of(model, tokens)
    asked = [load_proposal(proposal_file(p)) for p in proposals] if proposals else table.shipped()
    try:
        clock = timer()
        today = amdahl.today(clock, about)
        gains = [amdahl.gain(proposal, about, clock) for proposal in asked]
    except LookupError as reason:
        raise Unavailable(str(reason)) from None
    terminal = console()
    print(wrapped(table.summary(today, about, clock.bench.gpu), ""))
    terminal.print(table.operations(today))
    if gains:
        terminal.print(table.gains(gains))
    return 0


@app.command()
def vectors(
    target: Target,
    out: Annotated[Path | None, typer.Option(help="Folder of the vectors; default: codesign-vectors/<name>.")] = None,
    count: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="How many; the directed ones, and random ones to fill up.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the random ones.")] = 0,
) -> int:
    """Write known-answer vectors for RTL test benches, as JSON lines and for $readmemh, and show what they cover."""
    from codesign.commands.coverage_table import show as show_coverage
    from isa_model.vectors import vector_files as files
    from isa_model.vectors.coverage import measure
    from isa_model.vectors.make import make

    instruction = instruction_of(target)
    out = out or folder_of("vectors", instruction)
    files.check(out)
    with Progress("answers") as progress:
        made = make(instruction, count, seed, progress.update)
    with Progress("coverage") as progress:
        coverage = measure(made, progress.update)
    files.write(made, coverage, out)
    show_coverage(coverage, console())
    print(f"{len(made.vectors)} vectors of {instruction.name}: {out}", file=sys.stderr)
    return 0


@app.command()
def train(
    experiment: Annotated[
        list[str], typer.Argument(metavar="EXPERIMENT...", help="Which; `codesign list experiments` shows all.")
    ],
    size: Annotated[str, typer.Option(help="Model by name: tiny, 1m, 10m, 30m, 100m, 300m.")] = "tiny",
    out: Annotated[Path | None, typer.Option(help="Record to add to; default: records/training.<size>.json.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    arms: Annotated[str | None, typer.Option(help="Only these of their arms, separated by commas.")] = None,
    steps: Annotated[int | None, typer.Option(min=4, help="Training steps; default: the size's.")] = None,
    tokens: Annotated[int | None, typer.Option(min=128, help="Tokens per step; default: the size's.")] = None,
    micro_batches: Annotated[int | None, typer.Option(min=1, help="Parts of a step, shared by the processes.")] = None,
    engine: Annotated[Literal["auto", "model", "native", "fp32"], typer.Option(help="What multiplies.")] = "auto",
    work: Annotated[Path, typer.Option(help="Checkpoints, from which a killed run goes on.")] = Path(".training"),
    budget: Annotated[float | None, typer.Option(min=0, help="Seconds after which no run is begun.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw the gaps along training (SVG).")] = None,
) -> int:
    """Train the arms of experiments and show their loss gaps to BF16. Runs in the record are not made again.

    On several GPUs: torchrun --nproc-per-node 8 -m codesign train EXPERIMENT --micro-batches 8 ...
    """
    from codesign.commands import train as live

    changes = {"steps": steps, "tokens": tokens, "micro_batches": micro_batches}
    return live.train(experiment, size, changes, out, seeds_of(seeds), arms, engine, work, budget, plot)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("proposal.yaml"),
    base: Annotated[str, typer.Option(help="Instruction to start from.")] = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3",
) -> int:
    """Write a commented proposal to start from, and its schema beside it."""
    from codesign.commands.schemas import SCHEMA, json_schema, starter
    from isa_model.output_files import write_file

    text = starter(path, base)
    schema_path = path.parent / "proposal.schema.json"
    if path.exists():
        raise InputError.of(f"{path} exists", "another name, or move it away")
    write_file(schema_path, json.dumps(json_schema("proposal"), indent=1) + "\n", *SCHEMA)
    write_file(path, text)
    print(f"wrote {path} and {schema_path}; next: codesign validate {path}")
    return 0
