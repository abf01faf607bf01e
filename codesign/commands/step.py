"""`codesign step`: the operations of a layer's step today, and the time that each proposal saves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import fsum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codesign.commands.app import app, complete_proposals
from codesign.commands.tabular import Form, emit, tabular
from codesign.commands.terminal import console, table, wrapped
from codesign.figures.rows import Row

if TYPE_CHECKING:
    from codesign.evidence.timing.amdahl import Gain
    from codesign.evidence.timing.layer_step import LayerStep
    from codesign.proposal.proposal import Proposal
    from codesign.workloads.gemms import Model


@app.command()
@tabular
def step(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A large model by name, for instance deepseek-v3.")],
    proposals: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROPOSAL",
            help="Proposal files or names; default: all shipped proposals that can be timed.",
            autocompletion=complete_proposals,
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens per GPU and step; default: those of the model.")
    ] = None,
    gpu: Annotated[
        str, typer.Option(help="GPU whose records give the times, by name; default: that of the newest record.")
    ] = "",
    form: Form = "table",
) -> int:
    """Show the time of a layer's step and what proposals save.

    Times are broken down by operation. The ceiling of a proposal is Amdahl's bound on its speedup.
    """
    from codesign.evidence.timing import amdahl
    from codesign.evidence.timing.measured import benches
    from codesign.evidence.timing.times import timer
    from codesign.proposal.load import load_proposal
    from codesign.proposal.shipped import proposal_file
    from codesign.workloads.gemms import layer_of
    from isa_model.diagnostics import InputError, Unavailable

    about = layer_of(model, tokens)
    if gpu and gpu not in benches():
        raise InputError.of(f"no record of a GPU called `{gpu}`", f"one of: {', '.join(benches())}")
    asked = [load_proposal(proposal_file(p)) for p in proposals] if proposals else shipped()
    try:
        clock = timer(gpu)
        today = amdahl.today(clock, about)
        found = [amdahl.gain(proposal, about, clock) for proposal in asked]
    except LookupError as reason:
        raise Unavailable(str(reason)) from None
    if form != "table":
        emit(form, data_rows(today, found))
        return 0
    terminal = console()
    print(wrapped(summary(today, about, clock.bench.gpu), ""))
    terminal.print(operations(today))
    if found:
        terminal.print(gains(found))
    return 0


def shipped() -> list[Proposal]:
    """Return the shipped proposals that the timing model can time."""
    from codesign.evidence.timing.operations import supported
    from codesign.proposal.load import load_proposal
    from codesign.proposal.shipped import names

    found = [load_proposal(path) for path in names().values()]
    return [p for p in found if supported(p)]


def summary(layer: LayerStep, model: Model, gpu: str) -> str:
    """Return a sentence or two on the model, the GPU and the network behind the table of operations."""
    from codesign.evidence.timing.plots import network

    said = f"{model.name}: one layer's step, forward and backward, of {model.tokens} tokens on one {gpu}, today's FP8 software."
    return f"{said} {network(layer)}".rstrip()


def operations(layer: LayerStep) -> Any:
    """Return a rich table of each operation's time in the step, its hidden time and its certainty; the last row is the sum."""
    whole = layer.total()
    made = table(
        "operation | us: | share: | hidden, us: | kind",
        (
            (name, f"{us:,.0f}", f"{us / whole:.1%}", f"{hidden:,.0f}" if hidden else "", kind)
            for name, us, hidden, kind in rows(layer)
        ),
    )
    made.add_section()
    made.add_row("the step", f"{whole:,.0f}", "100%", "", "")
    return made


def rows(layer: LayerStep) -> Iterator[tuple[str, float, float, str]]:
    """Yield for each operation its name, the time it adds to the step (us), its hidden time (us) and its certainty."""
    from codesign.evidence.timing.layer_step import KINDS

    names = dict.fromkeys((w.kind, w.name) for w in layer.work)
    for kind in KINDS:
        for name in (name for of, name in names if of == kind):
            parts = [w for w in layer.work if w.name == name]
            us = fsum(w.us for w in parts)
            shares = {
                tag: fsum(w.us for w in parts if w.certain == tag) / us for tag in ("measured", "modelled", "assumed")
            }
            tags = [tag for tag, share in shares.items() if share]
            yield name, us, 0.0, tags[0] if len(tags) == 1 else ", ".join(f"{shares[t]:.0%} {t}" for t in tags)
        if kind == "network":
            whole = fsum(t.us for t in layer.network)
            for name in dict.fromkeys(t.name for t in layer.network):
                sent = fsum(t.us for t in layer.network if t.name == name)
                adds = layer.network_adds * sent / whole
                yield f"{name}, both passes", adds, sent - adds, "assumed"


def data_rows(layer: LayerStep, found: Sequence[Gain]) -> list[Row]:
    """Return a row per operation of the layer's step today, then a row per proposal with its speedup of the step."""
    about = {"speedup": None, "low": None, "high": None, "ceiling": None}
    operations = [
        {"what": "operation", "name": name, "us": us, "hidden_us": hidden, "kind": kind, **about}
        for name, us, hidden, kind in rows(layer)
    ]
    proposals = [
        {
            "what": "proposal",
            "name": gain.proposal.proposal,
            "us": gain.layers[1].total(),
            "hidden_us": None,
            "kind": "modelled",
            **dict(zip(("speedup", "low", "high"), gain.speedup, strict=True)),
            "ceiling": gain.ceiling[0],
        }
        for gain in found
    ]
    return [*operations, *proposals]


def gains(found: Sequence[Gain]) -> Any:
    """Return a rich table of proposals: the step of today's software, changes by kind of operation, speedup and ceiling."""
    made = table("proposal | today, us: | change, us | speedup [interval]: | ceiling:")
    for gain in found:
        changes: dict[str, float] = {}
        for kind, us in gain.removed.items():
            group = kind.split(",")[0]  # the GEMMs of all passes
            changes[group] = changes.get(group, 0.0) - us
        said = "; ".join(f"{group} {us:+,.0f}" for group, us in changes.items() if abs(us) >= 0.5)
        value, low, high = gain.speedup
        made.add_row(
            gain.proposal.proposal,
            f"{gain.layers[0].total():,.0f}",
            said or "nothing",
            f"{value:.3f} [{low:.3f}, {high:.3f}]",
            f"{gain.ceiling[0]:.3f}",
        )
    return made
