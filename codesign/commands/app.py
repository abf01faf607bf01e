"""The frame of the command line: the application, and the arguments that commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isa_model.diagnostics import InputError

if TYPE_CHECKING:
    from isa_model.instruction import Instruction

app = typer.Typer(
    name="codesign",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def complete_proposals(incomplete: str) -> list[str]:
    """Return the shipped proposals and YAML files that the shell can complete."""
    from glob import escape, glob

    from codesign.proposal.shipped import names

    return [*(name for name in names() if name.startswith(incomplete)), *sorted(glob(f"{escape(incomplete)}*.y*ml"))]


def complete_targets(incomplete: str) -> list[str]:
    """Return the proposals and instructions that the shell can complete; architectures only, until a dot is typed."""
    from isa_model.library import architectures, catalogue

    known = catalogue() if "." in incomplete else [f"{architecture}." for architecture in architectures()]
    return [*complete_proposals(incomplete), *(name for name in known if name.startswith(incomplete))]


Target = Annotated[
    str,
    typer.Argument(
        metavar="INSTRUCTION|PROPOSAL",
        help="A file (a report's result.json, too), or the name of an instruction or of a shipped proposal.",
        autocompletion=complete_targets,
    ),
]
ProposalName = Annotated[
    str,
    typer.Argument(
        metavar="PROPOSAL",
        help="A proposal file (YAML), or the name of a shipped one.",
        autocompletion=complete_proposals,
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"codesign {version('codesign')}")
        except PackageNotFoundError:
            print("codesign, not installed")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Judge proposals for better matrix instructions: accuracy, cost, speed, and which of their claims hold."""


def folder_of(kind: str, instruction: Instruction) -> Path:
    """Return the default folder for a command's files on an instruction."""
    return Path(f"codesign-{kind}") / instruction.name.replace(":", "-").replace(" ", "-")


_SEEDS = re.compile(r"\s*([0-9]{1,18})(?:-([0-9]{1,18}))?\s*")


def seeds_of(text: str) -> tuple[int, ...]:
    """Return the seeds of a list such as `0-15` or `3,5,8`. Raises InputError for other text or too many seeds."""
    from codesign.evidence.sampling import MOST_SEEDS

    parts = [_SEEDS.fullmatch(part) for part in text.split(",")]
    ends = [(int(part[1]), int(part[2] or part[1])) for part in parts if part]
    if len(ends) < len(parts):
        raise InputError.of(
            f"--seeds {text} is not a list of whole numbers of at most 18 digits", "for instance --seeds 0,1,2"
        )
    if sum(last - first + 1 for first, last in ends) > MOST_SEEDS:
        raise InputError.of(f"--seeds {text} are more than {MOST_SEEDS} seeds", "for instance --seeds 0-15")
    seeds = tuple(seed for first, last in ends for seed in range(first, last + 1))
    if any(first > last for first, last in ends) or len(set(seeds)) < len(seeds):
        raise InputError.of(f"--seeds {text}: seeds are different numbers from 0 up", "for instance --seeds 0,1,2")
    return seeds
