"""Traffic and energy of a layer's step: every byte that a model's Linears move in fprop, dgrad and wgrad, counted by hand.

What is counted is DeepSeek-V3's FP8 training step: a kernel writes a tensor in BF16, it is cast in groups, the GEMM reads
the codes; for wgrad both operands are turned, since Hopper's FP8 WGMMA reads operands along K alone; the input is kept from
forward to backward. A proposal's path says which of that happens elsewhere. Nothing here is measured: bytes follow from
shapes, and from a tile size and cache behaviour that are assumed and varied; energies per byte are assumed from the
literature.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

from codesign.evidence import Alternative, Figure, Kind
from codesign.proposal import Proposal
from codesign.workloads.gemms import Linear, Model, Role, models
from isa_model.instruction import Instruction, ScaleOperand
from isa_model.path import Step
from isa_model.stage import Spec

BF16, FP32 = 16.0, 32.0
SMS, COMMUNICATION_SMS = 132, 20
"""Of an H800, and those of them that communication takes (DeepSeek-V3 technical report, 3.2.2)."""

Level = Literal["hbm", "l2", "smem", "network"]
LEVELS: tuple[Level, ...] = ("hbm", "l2", "smem", "network")


@dataclass(frozen=True)
class Machine:
    """What is assumed of kernels and caches; every field is varied to its other value in `OTHERS`."""

    tile_m: int = 128
    tile_n: int = 128
    multicast: int = 2
    """CTAs that one read of B from L2 serves (TMA multicast)."""
    hbm_reads: float = 1.0
    """How often a GEMM reads an operand from HBM; beyond once, L2 has lost it."""
    own_node: bool = False
    """Whether one of a token's nodes is its own, so that one copy less leaves the node."""


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
    "multicast to 2 CTAs, operands read from HBM once, experts evenly loaded, a token sent to the most nodes allowed. One "
    "kernel casts a gradient in both layouts. Wgrad adds to FP32.",
    "Energy is bytes times assumed energies: "
    + "; ".join(f"{name} {taken:g} [{low:g}, {high:g}] {about}" for name, (low, taken, high, about) in ENERGIES.items())
    + ".",
)


class Move(Spec):
    """One operation of a layer's step and the bytes it moves on each level."""

    model: str
    step: str
    """fprop, dgrad, wgrad; or dispatch and combine of a pass."""
    linear: str
    what: str
    """write, cast, turn, operands, output, dispatch or combine."""
    hbm: float = 0.0
    l2: float = 0.0
    smem: float = 0.0
    network: float = 0.0


@dataclass(frozen=True)
class Flow:
    """What becomes of one operand: where it is cast and to how many bits an element, scales included."""

    at: str = "kernel"
    bits: float = 8 + 32 / 128
    turned_on_read: bool = False
    """Whether the Tensor Core reads it transposed, so that nothing is turned in memory."""
    cached: float | None = None
    """Bits as kept for the backward pass; None: the copy that was cast, or BF16 where none was written."""
    dispatch: float = 8 + 32 / 128
    combine: float = BF16

    @property
    def stored(self) -> float:
        """Bits of the copy in memory that a GEMM reads."""
        return BF16 if self.at in ("copy-engine", "near-memory") else self.bits

    @property
    def read(self) -> float:
        """Bits that cross from HBM for each element a GEMM reads."""
        return BF16 if self.at == "copy-engine" else self.bits

    @property
    def kept(self) -> float:
        """Bits kept from forward to backward."""
        return self.stored if self.cached is None else self.cached


@dataclass(frozen=True)
class Scheme:
    """The flows of a layer's operands under one variant."""

    activation: Flow
    gradient: Flow
    weight: Flow


def flow(start: Flow, steps: Iterable[Step]) -> Flow:
    """The flow with the steps of a path in place of what it was."""
    for step in steps:
        bits = step.bits_per_element
        if step.at == "operand-read":
            start = replace(start, turned_on_read=True)
        elif step.at == "cache":
            start = replace(start, cached=bits)
        elif step.at == "dispatch":
            start = replace(start, dispatch=bits)
        elif step.at == "combine":
            start = replace(start, combine=bits)
        else:
            start = replace(start, at=step.at, bits=bits)
    return start


def schemes(proposal: Proposal) -> dict[str, Scheme]:
    """Of today's software and of the proposal, for the Linears the proposal is about; `plain`, for all others."""
    software = proposal.software_instruction
    # A path alone leaves multiplication, and so the scales, to today's software.
    proposed = software if proposal.multiplies_as_today else proposal.proposed()
    made = {}
    for variant, spec, steps in (
        ("software", software, proposal.software.path),
        ("proposal", proposed, proposal.path.steps if proposal.path else ()),
    ):
        start = Flow(bits=_bits(spec, "a"))
        if proposal.path and variant == "software":
            # What a path sends or keeps in a narrow format is BF16 today unless `software.path` says otherwise.
            places = {s.at for s in proposal.path.steps} - {s.at for s in steps}
            start = replace(
                start,
                dispatch=BF16 if "dispatch" in places else start.dispatch,
                cached=BF16 if "cache" in places else None,
            )
        touched: tuple[Role, ...] = proposal.path.operands if proposal.path else ()
        carried = flow(start, steps)
        plain = Flow(bits=_bits(spec, "a"))
        made[variant] = Scheme(
            activation=carried if "activation" in touched else plain,
            gradient=carried if "gradient" in touched else plain,
            weight=replace(plain, bits=_bits(spec, "b", proposal.quantisation.weight_columns)),
        )
    today = Flow(bits=_bits(software, "a"))
    return {**made, "plain": Scheme(today, today, made["software"].weight)}


def _bits(spec: Instruction, operand: str, columns: int = 1) -> float:
    """Bits of an operand's element with its share of the scale, which so many columns of a weight share."""
    side: ScaleOperand | None = getattr(spec.scale, operand) if spec.scale else None
    bits = float(getattr(spec, operand).bits)
    if side is None:
        return bits
    across = side.group[1] if operand == "b" else side.group[0]
    shared = columns // across if columns % across == 0 else 1
    return bits + side.format.bits / (side.group[0] * side.group[1] * shared)


# -- counting --------------------------------------------------------------------------------------------------------


def moves(model: Model, scheme: Scheme, about: frozenset[str], plain: Scheme, machine: Machine) -> Iterator[Move]:
    """Every operation of one layer's step on one GPU; `plain` is the scheme of Linears that the proposal is not about."""
    for linear in model.linears:
        yield from _linear(model, linear, scheme if linear.name in about else plain, machine)
    if model.experts:
        yield from _network(model, scheme, machine)


def _linear(model: Model, linear: Linear, scheme: Scheme, machine: Machine) -> Iterator[Move]:
    experts = model.experts
    shared = linear.expert and experts is not None
    count = experts.experts // experts.parallel + experts.shared if shared and experts else 1
    rows = model.tokens * ((experts.active + experts.shared) if shared and experts else 1)
    x, w, g = scheme.activation, scheme.weight, scheme.gradient
    elements_x, elements_g = rows * linear.k, rows * linear.n
    each = ceil(rows / count)

    def move(step: str, what: str, hbm: float, smem: float = 0.0) -> Move:
        """An operation that streams: what crosses HBM crosses L2, too. Bits in, bytes out."""
        return Move(model=model.name, step=step, linear=linear.name, what=what, hbm=hbm / 8, l2=hbm / 8, smem=smem / 8)

    # fprop
    yield move("fprop", "write", elements_x * (x.bits if x.at == "register" else BF16))
    if x.at == "kernel":
        yield move("fprop", "cast", elements_x * (BF16 + x.bits))
    if x.cached is not None and x.cached not in (x.stored, BF16):  # BF16 is there already
        yield move("fprop", "cast", elements_x * x.cached)
    yield from _gemm(model, linear, "fprop", count, (each, linear.n, linear.k), x, w, BF16, machine)
    # dgrad: a gradient that is cast by a kernel or in registers is written in both layouts, unless it is turned on reading
    layouts = 1 if g.turned_on_read else 2
    yield move("dgrad", "write", elements_g * (layouts * g.bits if g.at == "register" else BF16))
    if g.at == "kernel":
        yield move("dgrad", "cast", elements_g * (BF16 + layouts * g.bits))
    yield from _gemm(model, linear, "dgrad", count, (each, linear.k, linear.n), g, w, BF16, machine)
    # wgrad: the input comes from what was kept; turned in memory unless on reading
    turned_x, turned_g = replace(x, at="kernel"), replace(g, at="kernel")
    if x.turned_on_read:
        turned_x = replace(x, bits=x.kept, at="kernel") if x.cached is not None else x
    else:
        yield move("wgrad", "turn", elements_x * (x.kept + x.bits), 2 * elements_x * x.bits)
    if g.turned_on_read:
        turned_g = g
    elif g.at in ("copy-engine", "near-memory"):
        yield move("wgrad", "turn", elements_g * (BF16 + g.bits), 2 * elements_g * g.bits)
    yield from _gemm(model, linear, "wgrad", count, (linear.n, linear.k, each), turned_g, turned_x, 2 * FP32, machine)


def _gemm(
    model: Model,
    linear: Linear,
    step: str,
    count: int,
    shape: tuple[int, int, int],
    a: Flow,
    b: Flow,
    out: float,
    machine: Machine,
) -> Iterator[Move]:
    """Operands and output of `count` GEMMs (m, n, k); `out` is bits of an output element that cross HBM."""
    m, n, k = shape
    size_a, size_b, size_d = (count * s / 8 for s in (m * k, k * n, m * n))
    across, down = ceil(n / machine.tile_n), ceil(m / machine.tile_m)
    # A copy engine that casts takes BF16 from L2 and leaves codes in shared memory.
    l2 = size_a * a.read * across + size_b * b.read * down / machine.multicast
    smem = size_a * a.bits * across * 2 + size_b * b.bits * (down + ceil(m / 64))
    yield Move(
        model=model.name,
        step=step,
        linear=linear.name,
        what="operands",
        hbm=(size_a * a.read + size_b * b.read) * machine.hbm_reads,
        l2=l2,
        smem=smem,
    )
    # Through shared memory goes what is written: in wgrad half of what crosses HBM is read.
    through = size_d * min(out, FP32) * 2
    yield Move(
        model=model.name, step=step, linear=linear.name, what="output", hbm=size_d * out, l2=size_d * out, smem=through
    )


def _network(model: Model, scheme: Scheme, machine: Machine) -> Iterator[Move]:
    """Tokens to their experts and back, in both passes: once per node over InfiniBand, once per expert over NVLink."""
    assert model.experts
    nodes = model.experts.nodes if model.experts.nodes > 1 else 0
    copies = model.experts.active + max(nodes - (1 if machine.own_node else 0), 0)
    elements = model.tokens * model.hidden * copies
    for step, carried in (("fprop", scheme.activation), ("dgrad", scheme.gradient)):
        for what, bits in (("dispatch", carried.dispatch), ("combine", carried.combine)):
            size = elements * bits / 8
            yield Move(model=model.name, step=step, linear="", what=what, network=size)


def cache_bytes(model: Model, scheme: Scheme, about: frozenset[str], plain: Scheme) -> dict[str, float]:
    """Bytes of each Linear's input kept from forward to backward."""
    kept = {}
    for linear in model.linears:
        rows = model.tokens
        if linear.expert and model.experts:
            rows *= model.experts.active + model.experts.shared
        kept[linear.name] = rows * linear.k * (scheme if linear.name in about else plain).activation.kept / 8
    return kept


# -- evidence --------------------------------------------------------------------------------------------------------


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
        model.name: sum(kept.values()),
        **{f"{model.name}.fprop.{name}": n for name, n in kept.items()},
    }.items():
        yield _figure("traffic.cache_bytes", variant, scope, size, (), "modelled", model.source)


def _total(found: Iterable[Move], level: Level, step: str, linear: str) -> float:
    return float(sum(getattr(m, level) for m in found if step in ("", m.step) and linear in ("", m.linear)))


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
        return sum(n * float(ENERGIES[name][end if name == changed else 1]) * 1e-12 for name, n in amounts.items())

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
