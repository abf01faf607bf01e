"""Counts of the bytes that a model's Linears move in fprop, dgrad and wgrad.

The step is that of DeepSeek-V3's FP8 training: a kernel writes a tensor in BF16, a cast quantises it in groups, and the GEMM
reads the codes. Both operands of wgrad are transposed, since Hopper's FP8 WGMMA reads K-major operands only. The input is kept
from the forward to the backward pass. A proposal's path moves some of these operations elsewhere. Nothing is measured: bytes
follow from shapes, and from an assumed tile size and cache behaviour, which evidence varies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import ceil, fsum, log2
from typing import Literal

from codesign.proposal.baselines import Baseline
from codesign.proposal.flows import usual
from codesign.proposal.proposal import Proposal
from codesign.proposal.quantisation import Quantisation
from codesign.workloads.gemms import ExpertCounts, Linear, Model, Role, shape_of
from isa_model.instruction import Instruction
from isa_model.operand_fields import ScaleOperand
from isa_model.path import Step
from isa_model.stage import Spec

BF16, FP32 = 16.0, 32.0
Level = Literal["hbm", "l2", "smem", "network"]
LEVELS: tuple[Level, ...] = ("hbm", "l2", "smem", "network")


@dataclass(frozen=True)
class TrafficAssumptions:
    """Assumptions on kernels and caches; evidence varies each of them."""

    tile_m: int = 128
    tile_n: int = 128
    multicast: int = 2
    """CTAs that share one read of B from L2 (TMA multicast)."""
    hbm_reads: float = 1.0
    """Number of times a GEMM reads an operand from HBM; more than once if L2 does not keep it."""
    own_node: bool = False
    """True if one of a token's nodes is its own, which saves one copy between nodes."""


class Move(Spec):
    """One operation of a layer's step, with the bytes it moves on each level."""

    model: str
    step: str
    """Pass: fprop, dgrad or wgrad."""
    linear: str
    """Name of the Linear; empty for dispatch and combine."""
    what: str
    """Kind of operation: write, cast, turn, operands, output, dispatch or combine."""
    tensor: Role | Literal[""] = ""
    """Tensor that is written, cast or transposed."""
    rows: int = 0
    """Tokens of the tensor; a token sent to several experts counts for each."""
    hbm: float = 0.0
    l2: float = 0.0
    smem: float = 0.0
    network: float = 0.0


@dataclass(frozen=True)
class Flow:
    """The way of one operand from BF16 to its GEMM. Bits are per element, with scales."""

    at: str = "kernel"
    """Place of the cast."""
    bits: float = 8 + 32 / 128
    """Bits of the codes that the GEMM multiplies."""
    turned_on_read: bool = False
    """True if the Tensor Core reads the operand transposed, which saves transposes in memory."""
    cached: float | None = None
    """Bits of the copy kept for the backward pass; None: the codes, or BF16 if no codes are written."""
    both: bool = False
    """True if one kernel casts an activation in both layouts, which saves wgrad the transpose."""
    dispatch: float = 8 + 8 / 128
    """Bits sent to experts."""
    dispatches_codes: bool = True
    """True if dispatch sends numbers that GEMMs multiply, false if it sends LogFMT."""
    combine: float = BF16
    """Bits sent back from experts."""

    @property
    def dispatched(self) -> Flow:
        """The flow at an expert's GPU, which has nothing to cast if it receives codes."""
        if self.dispatches_codes and int(self.dispatch) == int(self.bits):
            return replace(self, at="dispatch", bits=self.dispatch)
        return self

    @property
    def stored(self) -> float:
        """Bits of the copy in HBM."""
        return BF16 if self.at in ("copy-engine", "near-memory") else self.bits

    @property
    def read(self) -> float:
        """Bits transferred from HBM when a GEMM reads an element."""
        return BF16 if self.at == "copy-engine" else self.bits

    @property
    def kept(self) -> float:
        """Bits of the copy kept for the backward pass."""
        return self.stored if self.cached is None else self.cached


@dataclass(frozen=True)
class Scheme:
    """Flows of a layer's operands in one variant."""

    activation: Flow
    gradient: Flow
    weight: Flow


def flow(start: Flow, steps: Iterable[Step]) -> Flow:
    """Return the flow changed by the steps of a path."""
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
    """Return the schemes `software` and `proposal` of the proposal's Linears, and `plain` of all others."""
    software = proposal.software_instruction
    # A proposal that changes only the path multiplies, and so scales, as today's software does.
    proposed = software if proposal.multiplies_as_today else proposal.proposed()
    practice, made = proposal.practice, {}
    for variant, spec, steps, rule in (
        ("software", software, proposal.software.path, practice.quantisation),
        ("proposal", proposed, proposal.path.steps if proposal.path else (), proposal.rule),
    ):
        plain = _usual(practice, spec, rule)
        start = replace(plain, both=False)
        if proposal.path and variant == "software":
            # Tensors that the path sends or keeps in a narrow format are BF16 today, unless `software.path` casts them.
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
            weight=replace(plain, bits=weight_bits(proposal, spec, rule)),
        )
    today = _usual(practice, software, practice.quantisation)
    return {**made, "plain": Scheme(today, today, made["software"].weight)}


def _usual(practice: Baseline, spec: Instruction, rule: Quantisation) -> Flow:
    """Return the flow of an operand without a path, as in codesign/proposal/flows.py."""
    flows = usual(practice, spec, rule)
    grouped = spec.scale is not None
    return Flow(
        bits=element_bits(spec, "a"),
        both=grouped and not flows.activation,
        dispatch=flows.send.bits_per_element if flows.send else BF16,
    )


def element_bits(spec: Instruction, operand: str, columns: int = 1) -> float:
    """Return the bits of an operand's element with its share of the scale, which `columns` of a weight share."""
    side: ScaleOperand | None = getattr(spec.scale, operand) if spec.scale else None
    bits = float(getattr(spec, operand).bits)
    if spec.sparsity and spec.sparsity.operand == operand:  # stored elements, each run of them with its position
        place = ceil(log2(spec.sparsity.of)) / spec.sparsity.run
        bits = (bits + place) * spec.sparsity.kept / spec.sparsity.of
    if side is None:
        return bits
    across = side.group[1] if operand == "b" else side.group[0]
    shared = columns // across if columns % across == 0 else 1
    levels = (level for level in side.levels if level.group)  # one scale of the whole operand is nothing
    return bits + sum(x.format.bits / (x.group[0] * x.group[1] * shared) for x in levels if x.group)


def weight_bits(proposal: Proposal, spec: Instruction, rule: Quantisation) -> float:
    """Return the bits of a weight in memory with its share of the scale.

    A kernel reads narrow `weights` as they are and widens them on its way to an instruction that takes them wider.
    """
    bits, narrow = element_bits(spec, "b", rule.weight_columns or 1), proposal.weights
    if narrow is None:
        return bits
    assert narrow.scale
    assert narrow.group
    return min(bits, narrow.to.bits + narrow.scale.bits / narrow.group[1])


# -- counting --------------------------------------------------------------------------------------------------------


def moves(
    model: Model, scheme: Scheme, about: frozenset[str], plain: Scheme, assumed: TrafficAssumptions
) -> Iterator[Move]:
    """Yield the operations of one layer's step on one GPU. Linears not in `about` have the scheme `plain`."""
    for linear in model.linears:
        yield from _linear(model, linear, scheme if linear.name in about else plain, assumed)
    if model.experts:
        yield from _network(model, scheme, assumed)


@dataclass(frozen=True)
class TrafficPart:
    """Tokens of a Linear with the same flows: in each pass `gemms` GEMMs of `tokens` tokens each."""

    gemms: int
    tokens: int
    scheme: Scheme

    @property
    def rows(self) -> int:
        """Tokens of all GEMMs of a pass."""
        return self.gemms * self.tokens

    @property
    def operands(self) -> dict[str, tuple[Flow, Flow]]:
        """Flows of A and B, by pass."""
        x, g, w = self.scheme.activation, self.scheme.gradient, self.scheme.weight
        turned_x, turned_g = replace(x, at="kernel"), replace(g, at="kernel")
        if x.turned_on_read:
            turned_x = replace(x, bits=x.kept, at="kernel") if x.cached is not None else x
        if g.turned_on_read:
            turned_g = g
        return {"fprop": (x, w), "dgrad": (g, w), "wgrad": (turned_g, turned_x)}


def parts(model: Model, linear: Linear, scheme: Scheme) -> list[TrafficPart]:
    """Return the tokens of a Linear. Each routed expert gets an equal part of all tokens' choices, a shared one every token.

    The layer's input and the gradient of its output are sent to experts; they are cast once for all experts before
    (DeepSeek-V3 3.3.3).
    """
    if not (linear.expert and model.experts):
        return [TrafficPart(1, model.tokens, scheme)]
    here = model.experts.experts // model.experts.parallel
    sent = replace(
        scheme,
        activation=scheme.activation.dispatched if linear.k == model.hidden else scheme.activation,
        gradient=scheme.gradient.dispatched if linear.n == model.hidden else scheme.gradient,
    )
    routed = TrafficPart(here, model.tokens_of_expert, sent)
    return [routed, TrafficPart(model.experts.shared, model.tokens, scheme)] if model.experts.shared else [routed]


def _linear(model: Model, linear: Linear, scheme: Scheme, assumed: TrafficAssumptions) -> Iterator[Move]:
    """Yield the operations of one Linear in all passes."""

    def move(step: str, what: str, tensor: Role, rows: int, hbm: float, smem: float = 0.0) -> Move:
        """Return a streaming operation from bits per element. Bytes that cross HBM cross L2, too."""
        elements = rows * (linear.n if tensor == "gradient" else linear.k)
        sizes = {"hbm": elements * hbm / 8, "l2": elements * hbm / 8, "smem": elements * smem / 8}
        return Move(model=model.name, step=step, linear=linear.name, what=what, tensor=tensor, rows=rows, **sizes)

    found = parts(model, linear, scheme)
    # Sent codes are made from the tokens; a shared expert multiplies the same codes.
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
        if x.cached is not None and x.cached not in (x.stored, BF16):  # a BF16 copy exists already
            yield move("fprop", "cast", "activation", rows, x.cached)
        # dgrad: a gradient cast by a kernel or in registers is written in both layouts, unless it can be read transposed
        layouts = 1 if g.turned_on_read else 2
        made = {"register": layouts * g.bits, "dispatch": g.bits}.get(g.at, BF16)
        yield move("dgrad", "write", "gradient", rows, made)
        if g.at == "kernel":
            yield move("dgrad", "cast", "gradient", rows, BF16 + layouts * g.bits)
        # wgrad: reads the kept input; both operands are transposed, unless they are read transposed or have both layouts
        if not x.turned_on_read and not (x.both and x.at == "kernel"):
            yield move("wgrad", "turn", "activation", rows, x.kept + x.bits, 2 * x.bits)
        if not g.turned_on_read and g.at in ("copy-engine", "near-memory", "dispatch"):
            yield move("wgrad", "turn", "gradient", rows, g.stored + g.bits, 2 * g.bits)
        for step, (a, b) in part.operands.items():
            shape = shape_of(step, part.tokens, linear.n, linear.k)
            out = 2 * FP32 if step == "wgrad" else BF16
            yield from _gemm(model, linear, step, part.gemms, shape, a, b, out, assumed)


def _gemm(
    model: Model,
    linear: Linear,
    step: str,
    count: int,
    shape: tuple[int, int, int],
    a: Flow,
    b: Flow,
    out: float,
    assumed: TrafficAssumptions,
) -> Iterator[Move]:
    """Yield operand reads and output writes of `count` GEMMs of `shape` (m, n, k). `out` is the output's bits at HBM."""
    m, n, k = shape
    size_a, size_b, size_d = (count * s / 8 for s in (m * k, k * n, m * n))
    across, down = ceil(n / assumed.tile_n), ceil(m / assumed.tile_m)
    # A copy engine that casts reads BF16 from L2 and writes codes to shared memory.
    l2 = size_a * a.read * across + size_b * b.read * down / assumed.multicast
    smem = size_a * a.bits * across * 2 + size_b * b.bits * (down + ceil(m / 64))
    yield Move(
        model=model.name,
        step=step,
        linear=linear.name,
        what="operands",
        hbm=(size_a * a.read + size_b * b.read) * assumed.hbm_reads,
        l2=l2,
        smem=smem,
    )
    # Only writes pass through shared memory; half of wgrad's traffic at HBM is reads.
    through = size_d * min(out, FP32) * 2
    yield Move(
        model=model.name, step=step, linear=linear.name, what="output", hbm=size_d * out, l2=size_d * out, smem=through
    )


def copies(experts: ExpertCounts, assumed: TrafficAssumptions) -> tuple[int, int]:
    """Return the copies of a token's vector sent over InfiniBand, one per node, and over NVLink, one per expert."""
    nodes = experts.nodes if experts.nodes > 1 else 0
    return max(nodes - (1 if assumed.own_node else 0), 0), experts.active


def _network(model: Model, scheme: Scheme, assumed: TrafficAssumptions) -> Iterator[Move]:
    """Yield dispatch and combine of both passes."""
    assert model.experts
    elements = model.tokens * model.hidden * sum(copies(model.experts, assumed))
    for step, carried in (("fprop", scheme.activation), ("dgrad", scheme.gradient)):
        for what, bits in (("dispatch", carried.dispatch), ("combine", carried.combine)):
            size = elements * bits / 8
            yield Move(model=model.name, step=step, linear="", what=what, network=size)


def cache_bytes(model: Model, scheme: Scheme, about: frozenset[str], plain: Scheme) -> dict[str, float]:
    """Return the bytes of each Linear's input kept for the backward pass."""
    return {
        linear.name: fsum(
            part.rows * linear.k * part.scheme.activation.kept / 8
            for part in parts(model, linear, scheme if linear.name in about else plain)
        )
        for linear in model.linears
    }
