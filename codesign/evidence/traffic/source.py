"""Traffic and energy as evidence: what is counted, under each assumption, as figures of a layer, its passes and Linears."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import fsum

from codesign.evidence.traffic.count import LEVELS, Level, Move, cache_bytes, moves, schemes
from codesign.evidence.traffic.count import TrafficAssumptions as Machine
from codesign.figures.figure import Alternative, Figure, Kind
from codesign.proposal.proposal import Proposal
from codesign.workloads.gemms import Model, models

SMS, COMMUNICATION_SMS = 132, 20
"""SMs of an H800, and those of them that communication takes (DeepSeek-V3 technical report, 3.2.2)."""

OTHERS: dict[str, dict[str, Machine]] = {
    "tile of the GEMM": {"256x128": Machine(tile_m=256), "64x128": Machine(tile_m=64)},
    "TMA multicast": {"none": Machine(multicast=1)},
    "reads of an operand from HBM": {"twice": Machine(hbm_reads=2.0)},
    "nodes a token goes to": {"its own is one of them": Machine(own_node=True)},
}

ENERGIES: dict[str, tuple[float, float, float, str]] = {  # by level of traffic
    "hbm": (
        20.0,
        31.0,
        160.0,
        "pJ/B; 3.9 pJ/bit of HBM2 (O'Connor et al., MICRO 2017); up to DRAM at 640 pJ/32 bit (Horowitz, ISSCC 2014)",
    ),
    "l2": (
        2.0,
        6.0,
        12.5,
        "pJ/B; at most a 1 MB cache at 45 nm, 100 pJ/64 bit (Horowitz, ISSCC 2014); less at 4 nm: assumed",
    ),
    "smem": (
        0.5,
        1.2,
        2.5,
        "pJ/B; at most a 32 KB cache at 45 nm, 20 pJ/64 bit (Horowitz, ISSCC 2014); less at 4 nm: assumed",
    ),
    "network": (
        80.0,
        250.0,
        1000.0,
        "pJ/B; NVLink and InfiniBand with optics together: assumed, no source separates them",
    ),
    "multiply": (
        0.1,
        0.3,
        0.71,
        "pJ per FP8 multiply-accumulate; at most an H100's 700 W over its 989e12 a second, all else "
        "included (data sheet)",
    ),
}
"""Least, taken, most, and where from."""

METHOD = (
    "Traffic is counted, not measured: each Linear of a layer on one GPU, all three passes; attention, norms, optimizer and "
    "the once-per-step cast of weights are left out, being the same on both sides. Assumed: GEMM tiles of 128x128, B "
    "multicast to 2 CTAs, operands read from HBM once, experts evenly loaded, a token sent to the most nodes allowed. "
    "What goes to experts in FP8 is cast before, once for all of them, and arrives as codes. One kernel casts a gradient in "
    "both layouts. Wgrad adds to FP32. Near-memory casting narrows what crosses to the GPU; the DRAM's array still reads "
    "BF16, so its energy is understated.",
    "Energy is bytes times assumed energies: "
    + "; ".join(f"{name} {taken:g} [{low:g}, {high:g}] {about}" for name, (low, taken, high, about) in ENERGIES.items())
    + ".",
)


def gather(proposal: Proposal) -> tuple[tuple[Figure, ...], dict[str, tuple[Move, ...]]]:
    """Figures of every model among the workloads, and the moves behind them by variant.

    None for bases whose operands are not cast, for a user's own layers (a layer is more than one Linear), and for models
    that are here for their tensors and fill no GPU.
    """
    if proposal.today.a.bits > 8:
        return (), {}
    of_variant = schemes(proposal)
    plain = of_variant.pop("plain")
    figures: list[Figure] = []
    ledger: dict[str, list[Move]] = {variant: [] for variant in of_variant}
    for name in dict.fromkeys(w.split(".")[0] for w in proposal.workloads):
        model = models().get(name)
        if model is None or model.small:
            continue
        about = frozenset(
            g.name.split(".")[2] for w in proposal.workloads if w.startswith(name) for g in proposal.select(w)
        )
        for variant, scheme in of_variant.items():
            rest = plain if proposal.path else scheme
            counted = {case: tuple(moves(model, scheme, about, rest, machine)) for case, machine in _machines()}
            kept = cache_bytes(model, scheme, about, rest)
            ledger[variant] += counted["", ""]
            figures += _figures(model, variant, counted, kept)
        figures += _sms(proposal, model)
    return tuple(figures), {variant: tuple(found) for variant, found in ledger.items()}


def _machines() -> Iterator[tuple[tuple[str, str], Machine]]:
    yield ("", ""), Machine()
    for assumption, others in OTHERS.items():
        for other, machine in others.items():
            yield (assumption, other), machine


def _figures(
    model: Model, variant: str, counted: dict[tuple[str, str], tuple[Move, ...]], kept: dict[str, float]
) -> Iterator[Figure]:
    """A figure per level and energy: of the whole layer, of each pass, and of each Linear in each pass."""
    scopes = {model.name: ("", "")}
    scopes |= {f"{model.name}.{step}": (step, "") for step in ("fprop", "dgrad", "wgrad")}
    scopes |= {
        f"{model.name}.{step}.{linear.name}": (step, linear.name)
        for step in ("fprop", "dgrad", "wgrad")
        for linear in model.linears
    }
    for scope, (step, linear) in scopes.items():
        sums = {
            case: {level: _total(found, level, step, linear) for level in LEVELS} for case, found in counted.items()
        }
        for level in LEVELS:
            if not sums["", ""][level]:
                continue
            others = tuple(
                Alternative(assumption=case[0], other=case[1], value=_rounded(values[level]))
                for case, values in sums.items()
                if case[0] and values[level] != sums["", ""][level]
            )
            yield _figure(
                f"traffic.{level}_bytes", variant, scope, sums["", ""][level], others, "modelled", model.source
            )
        yield _energy(model, variant, scope, sums, _multiplies(model, step, linear))
    for scope, size in {
        model.name: fsum(kept.values()),
        **{f"{model.name}.fprop.{name}": n for name, n in kept.items()},
    }.items():
        yield _figure("traffic.cache_bytes", variant, scope, size, (), "modelled", model.source)


def _total(found: Iterable[Move], level: Level, step: str, linear: str) -> float:
    return fsum(getattr(m, level) for m in found if step in ("", m.step) and linear in ("", m.linear))


def _multiplies(model: Model, step: str, linear: str) -> float:
    """Multiply-accumulates of the passes and Linears in scope."""
    total = 0.0
    for each in model.linears:
        if linear in ("", each.name):
            active = model.experts.active + model.experts.shared if each.expert and model.experts else 1
            total += model.tokens * active * each.n * each.k * (1 if step else 3)
    return total


def _energy(
    model: Model, variant: str, scope: str, sums: dict[tuple[str, str], dict[Level, float]], multiplies: float
) -> Figure:
    def joules(values: dict[Level, float], changed: str = "", end: int = 1) -> float:
        amounts: dict[str, float] = {**{str(level): n for level, n in values.items()}, "multiply": multiplies}
        return fsum(n * float(ENERGIES[name][end if name == changed else 1]) * 1e-12 for name, n in amounts.items())

    base = sums["", ""]
    others = [
        Alternative(assumption=case[0], other=case[1], value=_rounded(joules(values)))
        for case, values in sums.items()
        if case[0] and values != base
    ]
    for name, (low, _, high, _) in ENERGIES.items():
        if name == "multiply" or base.get(name):  # type: ignore[call-overload]
            unit = "pJ each" if name == "multiply" else "pJ/B"
            label = "energy of a multiply-accumulate" if name == "multiply" else f"energy of {name}"
            others += [
                Alternative(assumption=label, other=f"{end:g} {unit}", value=_rounded(joules(base, name, i)))
                for i, end in ((0, low), (2, high))
            ]
    return _figure(
        "energy.joules", variant, scope, joules(base), tuple(others), "assumed", "energies per byte: see Method"
    )


def _figure(
    metric: str, variant: str, scope: str, value: float, others: tuple[Alternative, ...], kind: Kind, source: str
) -> Figure:
    """A figure whose interval reaches over all single changes of what is assumed."""
    reach = [value, *(o.value for o in others if o.value is not None)]
    return Figure(
        metric=metric,
        variant=variant,
        workload=scope,
        tensors="",
        value=_rounded(value),
        low=_rounded(min(reach)),
        high=_rounded(max(reach)),
        kind=kind,
        source=f"counted for {scope}; shapes: {source}" if kind == "modelled" else f"counted for {scope}; {source}",
        alternatives=others,
    )


def _sms(proposal: Proposal, model: Model) -> Iterator[Figure]:
    """SMs that communication takes, where the path communicates."""
    sent = [s for s in (proposal.path.steps if proposal.path else ()) if s.at in ("dispatch", "combine")]
    if not sent or model.experts is None:
        return
    share = COMMUNICATION_SMS / SMS
    for variant, value in (("software", share), ("proposal", share if any(s.on_sms for s in sent) else 0.0)):
        yield _figure(
            "traffic.sm_share",
            variant,
            model.name,
            value,
            (),
            "assumed",
            f"{COMMUNICATION_SMS} of {SMS} SMs today (DeepSeek-V3 technical report, 3.2.2); none where an engine does it",
        )


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
