"""A layer's step in the terminal: its operations today, and what each proposal takes off it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import fsum
from typing import Any

from codesign.evidence.timing.amdahl import Gain
from codesign.evidence.timing.operations import supported
from codesign.evidence.timing.plots import network
from codesign.evidence.timing.step import KINDS, Layer
from codesign.proposal.proposal import Proposal, load_proposal
from codesign.proposal.shipped import names
from codesign.workloads.gemms import Model


def shipped() -> list[Proposal]:
    """The shipped proposals that the timing model can time."""
    found = [load_proposal(path) for path in names().values()]
    return [p for p in found if supported(p)]


def summary(layer: Layer, model: Model, gpu: str) -> str:
    """What the table of operations is of, in a sentence or two."""
    said = f"{model.name}: one layer's step, forward and backward, of {model.tokens} tokens on one {gpu}, today's FP8 software."
    return f"{said} {network(layer)}".rstrip()


def operations(layer: Layer) -> Any:
    """A rich table: what each operation adds to the step in microseconds and percent, what of it is hidden, and how certain
    that is; the rows add up to the last."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("operation", no_wrap=True)
    for title in ("us", "share", "hidden, us"):
        table.add_column(title, justify="right")
    table.add_column("kind")
    whole = layer.total()
    for name, us, hidden, kind in rows(layer):
        table.add_row(name, f"{us:,.0f}", f"{us / whole:.1%}", f"{hidden:,.0f}" if hidden else "", kind)
    table.add_section()
    table.add_row("the step", f"{whole:,.0f}", "100%", "", "")
    return table


def rows(layer: Layer) -> Iterator[tuple[str, float, float, str]]:
    """Yield a row per operation: name, what it adds to the step (us), what of it is hidden (us), the kind of its time."""
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


def gains(found: Sequence[Gain]) -> Any:
    """A rich table: of each proposal its own software's step, what it changes by kind of operation, the step's speedup with its
    interval, and Amdahl's ceiling."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("proposal", no_wrap=True)
    table.add_column("today, us", justify="right")
    table.add_column("change, us")
    table.add_column("speedup [interval]", justify="right", no_wrap=True)
    table.add_column("ceiling", justify="right")
    for gain in found:
        changes: dict[str, float] = {}
        for kind, us in gain.removed.items():
            group = kind.split(",")[0]  # the GEMMs of all passes
            changes[group] = changes.get(group, 0.0) - us
        said = "; ".join(f"{group} {us:+,.0f}" for group, us in changes.items() if abs(us) >= 0.5)
        value, low, high = gain.speedup
        table.add_row(
            gain.proposal.proposal,
            f"{gain.layers[0].total():,.0f}",
            said or "nothing",
            f"{value:.3f} [{low:.3f}, {high:.3f}]",
            f"{gain.ceiling[0]:.3f}",
        )
    return table
