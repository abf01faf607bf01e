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
from math import ceil, fsum
from typing import Literal

from codesign.proposal.baselines import Baseline
from codesign.proposal.flows import usual
from codesign.proposal.proposal import Proposal
from codesign.proposal.quantisation import Quantisation
from codesign.workloads.gemms import Experts, Linear, Model, Role
from isa_model.instruction import Instruction, ScaleOperand
from isa_model.path import Step
from isa_model.stage import Spec

BF16, FP32 = 16.0, 32.0
Level = Literal["hbm", "l2", "smem", "network"]
LEVELS: tuple[Level, ...] = ("hbm", "l2", "smem", "network")


@dataclass(frozen=True)
class Machine:
    """What is assumed of kernels and caches; evidence varies every field."""

    tile_m: int = 128
    tile_n: int = 128
    multicast: int = 2
    """CTAs that one read of B from L2 serves (TMA multicast)."""
    hbm_reads: float = 1.0
    """How often a GEMM reads an operand from HBM; beyond once, L2 has lost it."""
    own_node: bool = False
    """Whether one of a token's nodes is its own, so that one copy less leaves the node."""


class Move(Spec):
    """One operation of a layer's step and the bytes it moves on each level."""

    model: str
    step: str
    """fprop, dgrad, wgrad; or dispatch and combine of a pass."""
    linear: str
    what: str
    """write, cast, turn, operands, output, dispatch or combine."""
    tensor: Role | Literal[""] = ""
    """Tensor that is written, cast or turned."""
    rows: int = 0
    """Tokens of that tensor, counted as often as they are sent."""
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
    both: bool = False
    """Whether a kernel casts an activation in both layouts from one read of BF16, so that wgrad has nothing to turn."""
    dispatch: float = 8 + 8 / 128
    dispatches_codes: bool = True
    """Whether dispatch sends the numbers that GEMMs take, in whatever scales, and not LogFMT's."""
    combine: float = BF16

    @property
    def dispatched(self) -> Flow:
        """As an expert's GPU gets it: codes, where codes are sent, so that nothing is left to cast."""
        if self.dispatches_codes and int(self.dispatch) == int(self.bits):
            return replace(self, at="dispatch", bits=self.dispatch)
        return self

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
            start = replace(start, dispatch=bits, dispatches_codes=step.logfmt is None)
        elif step.at == "combine":
            start = replace(start, combine=bits)
        else:
            start = replace(start, at=step.at, bits=bits)
    return start


def schemes(proposal: Proposal) -> dict[str, Scheme]:
    """Return the schemes of today's software and of the proposal, for its Linears, and `plain` for all others."""
    software = proposal.software_instruction
    # A path alone leaves multiplication, and so the scales, to today's software.
    proposed = software if proposal.multiplies_as_today else proposal.proposed()
    practice, made = proposal.practice, {}
    for variant, spec, steps, rule in (
        ("software", software, proposal.software.path, practice.quantisation),
        ("proposal", proposed, proposal.path.steps if proposal.path else (), proposal.rule),
    ):
        plain = _usual(practice, spec, rule)
        start = replace(plain, both=False)
        if proposal.path and variant == "software":
            # What a path sends or keeps in a narrow format is BF16 today unless `software.path` says otherwise.
            places = {s.at for s in proposal.path.steps} - {s.at for s in steps}
            start = replace(
                start,
                dispatch=BF16 if "dispatch" in places else start.dispatch,
                cached=BF16 if "cache" in places else None,
            )
        touched = proposal.path.operands if proposal.path else ()
        carried = flow(start, steps)
        made[variant] = Scheme(
            activation=carried if "activation" in touched else plain,
            gradient=carried if "gradient" in touched else plain,
            weight=replace(plain, bits=element_bits(spec, "b", rule.weight_columns or 1)),
        )
    today = _usual(practice, software, practice.quantisation)
    return {**made, "plain": Scheme(today, today, made["software"].weight)}


def _usual(practice: Baseline, spec: Instruction, rule: Quantisation) -> Flow:
    """How an operand comes to a GEMM where no path says otherwise, as numerics have it (codesign/proposal/flows.py)."""
    flows = usual(practice, spec, rule)
    grouped = spec.scale is not None
    return Flow(
        bits=element_bits(spec, "a"),
        both=grouped and not flows.activation,
        dispatch=flows.send.bits_per_element if flows.send else BF16,
    )


def element_bits(spec: Instruction, operand: str, columns: int = 1) -> float:
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


@dataclass(frozen=True)
class Part:
    """Tokens of a Linear that come to it alike: so many GEMMs of so many tokens each in every pass, and how operands come."""

    gemms: int
    tokens: int
    scheme: Scheme

    @property
    def rows(self) -> int:
        return self.gemms * self.tokens

    @property
    def operands(self) -> dict[str, tuple[Flow, Flow]]:
        """How A and B of each pass's GEMMs come to it."""
        x, g, w = self.scheme.activation, self.scheme.gradient, self.scheme.weight
        turned_x, turned_g = replace(x, at="kernel"), replace(g, at="kernel")
        if x.turned_on_read:
            turned_x = replace(x, bits=x.kept, at="kernel") if x.cached is not None else x
        if g.turned_on_read:
            turned_g = g
        return {"fprop": (x, w), "dgrad": (g, w), "wgrad": (turned_g, turned_x)}


def parts(model: Model, linear: Linear, scheme: Scheme) -> list[Part]:
    """The tokens of a Linear: routed experts get equal parts of all tokens' choices, shared ones every token.

    What is sent to experts is what the layer hands them, input or output gradient, and it is cast before, once for all of
    them (DeepSeek-V3 3.3.3).
    """
    if not (linear.expert and model.experts):
        return [Part(1, model.tokens, scheme)]
    here = model.experts.experts // model.experts.parallel
    sent = replace(
        scheme,
        activation=scheme.activation.dispatched if linear.k == model.hidden else scheme.activation,
        gradient=scheme.gradient.dispatched if linear.n == model.hidden else scheme.gradient,
    )
    routed = Part(here, model.tokens_of_expert, sent)
    return [routed, Part(model.experts.shared, model.tokens, scheme)] if model.experts.shared else [routed]


def _linear(model: Model, linear: Linear, scheme: Scheme, machine: Machine) -> Iterator[Move]:
    def move(step: str, what: str, tensor: Role, rows: int, hbm: float, smem: float = 0.0) -> Move:
        """An operation that streams: what crosses HBM crosses L2, too. Bits an element in, bytes out."""
        elements = rows * (linear.n if tensor == "gradient" else linear.k)
        sizes = {"hbm": elements * hbm / 8, "l2": elements * hbm / 8, "smem": elements * smem / 8}
        return Move(model=model.name, step=step, linear=linear.name, what=what, tensor=tensor, rows=rows, **sizes)

    found = parts(model, linear, scheme)
    # What is sent is made from the tokens: the codes that a shared expert takes, too, where there is one.
    passes: tuple[tuple[str, Role], ...] = (("fprop", "activation"), ("dgrad", "gradient"))
    for step, tensor in passes:
        own: Flow = getattr(scheme, tensor)
        if getattr(found[0].scheme, tensor).at == "dispatch":
            shared = len(found) > 1
            if not shared:
                yield move(step, "write", tensor, model.tokens, own.bits if own.at == "register" else BF16)
            if own.at != "register" and not (shared and own.at == "kernel"):
                yield move(step, "cast", tensor, model.tokens, BF16 + own.dispatch)

    for part in found:
        x, g, rows = part.scheme.activation, part.scheme.gradient, part.rows
        # fprop
        yield move("fprop", "write", "activation", rows, x.bits if x.at in ("register", "dispatch") else BF16)
        if x.at == "kernel":
            yield move("fprop", "cast", "activation", rows, BF16 + (2 if x.both else 1) * x.bits)
        if x.cached is not None and x.cached not in (x.stored, BF16):  # BF16 is there already
            yield move("fprop", "cast", "activation", rows, x.cached)
        # dgrad: a gradient that is cast by a kernel or in registers is written in both layouts, unless it is turned on reading
        layouts = 1 if g.turned_on_read else 2
        made = {"register": layouts * g.bits, "dispatch": g.bits}.get(g.at, BF16)
        yield move("dgrad", "write", "gradient", rows, made)
        if g.at == "kernel":
            yield move("dgrad", "cast", "gradient", rows, BF16 + layouts * g.bits)
        # wgrad: the input comes from what was kept; both are turned in memory unless on reading, or made in both layouts
        if not x.turned_on_read and not (x.both and x.at == "kernel"):
            yield move("wgrad", "turn", "activation", rows, x.kept + x.bits, 2 * x.bits)
        if not g.turned_on_read and g.at in ("copy-engine", "near-memory", "dispatch"):
            yield move("wgrad", "turn", "gradient", rows, g.stored + g.bits, 2 * g.bits)
        shapes = {"fprop": (linear.n, linear.k), "dgrad": (linear.k, linear.n)}
        for step, (a, b) in part.operands.items():
            shape = (part.tokens, *shapes[step]) if step in shapes else (linear.n, linear.k, part.tokens)
            out = 2 * FP32 if step == "wgrad" else BF16
            yield from _gemm(model, linear, step, part.gemms, shape, a, b, out, machine)


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


def copies(experts: Experts, machine: Machine) -> tuple[int, int]:
    """How often a token's vector is sent between nodes, over InfiniBand, and within one, over NVLink: once per node and once
    per expert."""
    nodes = experts.nodes if experts.nodes > 1 else 0
    return max(nodes - (1 if machine.own_node else 0), 0), experts.active


def _network(model: Model, scheme: Scheme, machine: Machine) -> Iterator[Move]:
    """Tokens to their experts and back, in both passes."""
    assert model.experts
    elements = model.tokens * model.hidden * sum(copies(model.experts, machine))
    for step, carried in (("fprop", scheme.activation), ("dgrad", scheme.gradient)):
        for what, bits in (("dispatch", carried.dispatch), ("combine", carried.combine)):
            size = elements * bits / 8
            yield Move(model=model.name, step=step, linear="", what=what, network=size)


def cache_bytes(model: Model, scheme: Scheme, about: frozenset[str], plain: Scheme) -> dict[str, float]:
    """Bytes of each Linear's input kept from forward to backward."""
    return {
        linear.name: fsum(
            part.rows * linear.k * part.scheme.activation.kept / 8
            for part in parts(model, linear, scheme if linear.name in about else plain)
        )
        for linear in model.linears
    }
