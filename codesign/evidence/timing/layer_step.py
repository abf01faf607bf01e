"""The step of one layer: the operations of a Transformer layer's forward and backward pass on one GPU, and their times.

GEMMs, casts and transposes of Linears are timed by the timing model, or measured if a record has them. The rest is assumed:
attention runs at a share of the measured BF16 ceiling, element-wise kernels at the bandwidth of casts, dispatch and combine
over InfiniBand at the bandwidth that DeepSeek reports and over NVLink as measured, and computation hides communication.
Embedding and output head, pipeline bubbles and transfers, and the reduction of gradients over data-parallel GPUs are left out,
since they belong to no layer; so is recomputation in the backward pass, which depends on the memory available.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from math import fsum

from codesign.evidence.timing.model import Product, Stream
from codesign.evidence.timing.network import Link, measured
from codesign.evidence.timing.time_comparison import TimedPart
from codesign.evidence.timing.times import Timer
from codesign.evidence.traffic.count import Scheme, TrafficAssumptions, copies
from codesign.evidence.traffic.source import COMMUNICATION_SMS
from codesign.figures.figure import Kind
from codesign.workloads.gemms import Model

KINDS = (
    "GEMMs, fprop",
    "GEMMs, dgrad",
    "GEMMs, wgrad",
    "casts",
    "transposes",
    "attention",
    "element-wise",
    "network",
    "optimizer",
)
"""Kinds of operations, in the order of charts."""

ISCA = "Insights into DeepSeek-V3 (arXiv 2505.09343), 4.3"
DSV3 = "DeepSeek-V3 technical report (arXiv 2412.19437)"


@dataclass(frozen=True)
class Assumptions:
    """Assumptions of the step beyond the timing model."""

    attention_forward: float = 0.75
    """Rate of forward attention, as a share of the measured BF16 ceiling. Our choice between FlashAttention-3's best, 740
    TFLOP/s or 0.94 of the ceiling on an H100 (arXiv 2407.08608), and short causal sequences."""
    attention_backward: float = 0.6
    """Rate of backward attention, as a share of the measured BF16 ceiling. Our choice."""
    element_wise: float = 1.0
    """Bytes of element-wise kernels, relative to kernels fused as far as possible."""
    hidden: bool = True
    """True if communication overlaps computation, as in DualPipe (DSV3 3.2.1)."""
    held: int = COMMUNICATION_SMS
    """SMs occupied by communication while it runs (DSV3 3.2.2), unless an engine does it."""
    infiniband: float = 40e3
    """Bandwidth of a GPU to other nodes, in bytes per us: 40 GB/s of the 50 of a 400 Gbit/s card (ISCA)."""
    nvlink: Link = field(default_factory=measured)
    """Exchange within a node: as measured (kernels/records/exchange-*.json)."""
    micro_batches: int = 120
    """Micro-batches per step of the optimizer: 15,360 sequences over 128 data-parallel ranks (DSV3 4.2 and 3.2)."""


H800 = Link(start_us=0.0, rate=160e3)
"""NVLink of an H800: 160 GB/s of its 200 (ISCA)."""


@cache
def others() -> Mapping[str, Mapping[str, Assumptions]]:
    """Return the alternative assumptions, changed one at a time."""
    return {
        "rate of attention, of the BF16 ceiling": {
            "0.95 forward, 0.75 backward": Assumptions(attention_forward=0.95, attention_backward=0.75),
            "0.55 forward, 0.45 backward": Assumptions(attention_forward=0.55, attention_backward=0.45),
        },
        "bytes of element-wise kernels": {"1.5 times": Assumptions(element_wise=1.5)},
        "communication behind computation": {"not hidden": Assumptions(hidden=False)},
        "SMs that communication holds": {
            "none": Assumptions(held=0),
            "6 (DeepEP V2)": Assumptions(held=6),
            f"{measured().sms} (NCCL, measured)": Assumptions(held=measured().sms),
        },
        "InfiniBand": {"50 GB/s, its rate": Assumptions(infiniband=50e3)},
        "NVLink": {"160 GB/s (an H800's 200)": Assumptions(nvlink=H800)},
        "micro-batches to a step of the optimizer": {"8": Assumptions(micro_batches=8)},
    }


def method() -> tuple[str, str]:
    """Return what the step assumes, and what its ceiling is."""
    link = measured()
    return (
        "A whole layer's step adds to its Linears what no record measures, all of it assumed. Attention: causal, "
        f"{Assumptions.attention_forward:g} (forward) and {Assumptions.attention_backward:g} (backward) of the measured "
        "BF16 ceiling; FlashAttention-3 (arXiv 2407.08608) reports 740 TFLOP/s at its best. Norms, residuals, RoPE, router "
        "and SwiGLU: bytes of fused kernels at the bandwidth of casts. Dispatch and combine: bytes as traffic counts them, "
        f"at {Assumptions.infiniband / 1e3:g} GB/s over InfiniBand ({ISCA}) and after {link.start_us:.0f} us at "
        f"{link.rate / 1e3:.0f} GB/s over NVLink (measured: {link.source}; within {link.worst:.0%} of every row), under "
        f"computation as DualPipe has it ({DSV3}, 3.2.1), holding {Assumptions.held} SMs that GEMMs and attention then "
        "lack; the interval reaches to none of it hidden. Optimizer and casts of weights: bytes for every weight on the "
        f"GPU, once in {Assumptions.micro_batches} micro-batches. Left out: embedding and output head, pipeline bubbles, "
        "reduction of gradients, recomputation.",
        "The ceiling of a layer's speedup is Amdahl's: all that the proposal makes faster by over 2 % in no time, the rest "
        "as it is; where the network then takes longer than computation, the step waits for it.",
    )


@dataclass(frozen=True)
class Work:
    """A computing operation and its time."""

    kind: str
    name: str
    of: str
    """Pass, or `pass.linear` for an operation of a Linear."""
    us: float
    """Time on all SMs, in us."""
    held_us: float
    """Time while communication occupies its SMs, in us."""
    certain: Kind
    """Certainty of the time."""

    @property
    def linear(self) -> bool:
        """True if the operation belongs to a Linear."""
        return "." in self.of


@dataclass(frozen=True)
class Transfer:
    """A dispatch or combine."""

    name: str
    of: str
    us: float
    """Time on the network, in us."""
    on_sms: bool
    """True if SMs carry it out."""


@dataclass(frozen=True)
class LayerStep:
    """The operations of a layer's step."""

    work: tuple[Work, ...]
    network: tuple[Transfer, ...]
    hidden: bool
    """True if communication overlaps computation, false if it follows it."""

    def total(self, linears: float = 1.0) -> float:
        """Return the time of the step in us, with the Linears' operations `linears` times as long.

        Computation takes C on all SMs and C' if communication occupies its SMs throughout. Communication takes N, of which it
        occupies SMs for H. The step takes C + N if they do not overlap, else the longer of N and C + H (1 - C / C').
        """
        computing = fsum(w.us * (linears if w.linear else 1.0) for w in self.work)
        slowed = fsum(w.held_us * (linears if w.linear else 1.0) for w in self.work)
        sending = fsum(t.us for t in self.network)
        if not self.hidden or not computing:
            return computing + sending
        held = min(fsum(t.us for t in self.network if t.on_sms), slowed)
        return max(sending, computing + held * (1 - computing / slowed))

    @property
    def network_adds(self) -> float:
        """Time that communication adds to the step, in us, by being exposed or by occupying SMs."""
        return self.total() - fsum(w.us for w in self.work)

    @property
    def waits(self) -> bool:
        """True if communication overlaps computation and is the longer of the two."""
        return self.hidden and 0 < self.total() <= fsum(t.us for t in self.network)

    def by_kind(self) -> dict[str, float]:
        """Return the times in us by kind of operation, which add up to `total()`."""
        found = dict.fromkeys(KINDS, 0.0)
        for w in self.work:
            found[w.kind] += w.us
        found["network"] += self.network_adds
        return found

    def times(self) -> dict[tuple[str, str], tuple[float, float]]:
        """Return two times in us of each operation, by name and pass or Linear.

        They are the time on all SMs, and the time while SMs are occupied or, of a transfer, for which it occupies them.
        """
        found: dict[tuple[str, str], tuple[float, float]] = {}
        rows = [((w.name, w.of), w.us, w.held_us) for w in self.work]
        rows += [((t.name, t.of), t.us, t.us * t.on_sms) for t in self.network]
        for key, us, held in rows:
            a, b = found.get(key, (0.0, 0.0))
            found[key] = a + us, b + held
        return found


def faster(old: LayerStep, new: LayerStep) -> frozenset[tuple[str, str]]:
    """Return the operations, by name and pass or Linear, with a time more than 2 % shorter on the new side.

    The threshold excludes operations that differ only by bytes of scales.
    """
    there = new.times()
    return frozenset(
        key
        for key, ends in old.times().items()
        if any(b < a * 0.98 for a, b in zip(ends, there.get(key, (0.0, 0.0)), strict=True))
    )


def limit(old: LayerStep, new: LayerStep) -> LayerStep:
    """Return the old layer without the operations that are faster on the new side, and all others in the shorter time."""
    gone, before, after = faster(old, new), old.times(), new.times()

    def share(key: tuple[str, str], end: int) -> float:
        return min(1.0, after[key][end] / before[key][end]) if before[key][end] else 1.0

    return LayerStep(
        tuple(
            replace(w, us=w.us * share(key, 0), held_us=w.held_us * share(key, 1))
            for w in old.work
            if (key := (w.name, w.of)) not in gone
        ),
        tuple(replace(t, us=t.us * share(key, 0)) for t in old.network if (key := (t.name, t.of)) not in gone),
        old.hidden,
    )


def layer(
    timer: Timer,
    model: Model,
    linears: Iterable[TimedPart],
    scheme: Scheme,
    beside: Collection[str],
    assumed: Assumptions,
) -> LayerStep:
    """Return the step of a model's layer with timed Linears.

    `scheme` gives the formats of sent tensors. `beside` names those of dispatch and combine that SMs do not carry out. Raises
    LookupError if no BF16 ceiling was measured.
    """
    work = [
        *(_of_linear(timer, part, assumed.held) for part in linears),
        *_attention(timer, model, assumed),
        *(_streamed(timer, "element-wise", *about) for about in _element_wise(model, assumed.element_wise)),
        _optimizer(timer, model, assumed.micro_batches),
    ]
    return LayerStep(tuple(work), tuple(_network(model, scheme, beside, assumed)), assumed.hidden)


_NAMES = {
    "write": ("element-wise", "writing the Linears' operands"),
    "cast": ("casts", "casts"),
    "turn": ("transposes", "transposes"),
}


def _of_linear(timer: Timer, part: TimedPart, held: int) -> Work:
    """Return the operation of a Linear, slowed as modelled while `held` SMs are occupied."""
    step, x = part.step, part.step.operation
    us = step.times * part.us
    kind, name = _NAMES.get(step.what, (f"GEMMs, {step.step}",) * 2)
    slower = 1.0
    if isinstance(x, Product):
        alone, beside = (replace(x, tile=None, taken=taken) for taken in (0, held))
        slower = max(1.0, timer.modelled(beside) / timer.modelled(alone))
    certain: Kind = "modelled" if part.changed else part.on.kind
    return Work(kind, name, f"{step.step}.{step.linear}", us, us * slower, certain)


def _attention(timer: Timer, model: Model, assumed: Assumptions) -> Iterator[Work]:
    """Yield forward attention with two products and backward attention with five, half of which are masked."""
    a = model.attention
    assert a
    pairs = model.tokens * a.sequence / 2 * a.heads
    for step, name, flops, share in (
        ("fprop", "attention, forward", 2 * pairs * (a.qk + a.v), assumed.attention_forward),
        ("dgrad", "attention, backward", 2 * pairs * (3 * a.qk + 2 * a.v), assumed.attention_backward),
    ):
        us = flops / (bf16_ceiling(timer) * share)
        yield Work("attention", name, step, us, us * timer.machine.sms / (timer.machine.sms - assumed.held), "assumed")


def bf16_ceiling(timer: Timer) -> float:
    """Return the FLOPs per us of the record's fastest BF16 GEMM. Raises LookupError if it has none."""
    rates = [row.flops / row.timing.us for row in timer.bench.find("ceiling.bf16") if row.timing]
    if not rates:
        raise LookupError(f"{timer.bench.name} has no BF16 ceiling, which attention is timed by")
    return max(rates)


def _element_wise(model: Model, factor: float) -> Iterator[tuple[str, str, int, float]]:
    """Yield name, pass, rows and bytes per row of element-wise kernels, without the Linears' operands.

    Tensors are BF16, and a norm includes the residual sum before it.
    """
    a, hidden, tokens = model.attention, model.hidden, model.tokens
    assert a
    rotated = a.rotary * (a.heads + (1 if a.latent else a.kv_heads))
    up = next(linear for linear in model.linears if linear.name == "gate-up")
    rows = model.tokens
    if model.experts:
        rows *= model.experts.active + model.experts.shared
    router = model.experts.experts if model.experts else 0
    # Two norms, which read branch and residual and write their sum, and the norms of latent attention.
    yield "norms and residuals", "fprop", tokens, factor * (2 * 6 * hidden + 2 * a.latent)
    yield "RoPE", "fprop", tokens, factor * 4 * rotated
    yield "SwiGLU", "fprop", rows, factor * 2 * up.n
    # The backward pass reads input and both gradients. Without experts, the sum of gradients is an operand of a Linear.
    more = 2 * hidden if router else 0
    yield "norms and residuals", "dgrad", tokens, factor * (2 * 6 * hidden + more + 4 * a.latent)
    yield "RoPE", "dgrad", tokens, factor * 4 * rotated
    yield "SwiGLU", "dgrad", rows, factor * 3 * up.n  # both halves and the gradient of their product
    if router:
        # Small GEMMs, limited by memory, with FP32 logits.
        yield "router", "fprop", tokens, factor * (2 * hidden + 4 * router)
        yield "router", "dgrad", tokens, factor * (6 * hidden + 8 * router)


def _streamed(timer: Timer, kind: str, name: str, of: str, rows: int, size: float) -> Work:
    us = timer.time(Stream(rows, 1, 8 * size)).us
    return Work(kind, name, of, us, us, "assumed")


PARAMETER_BYTES = 4 + 4 + 2 * 4 + 2 * 2 * 2 + 2
"""Bytes of the optimizer's step per parameter: gradient read and cleared, master weight and both BF16 moments read and written
(DSV3 3.3.1, 3.3.3), FP8 weight written in both layouts."""


def _optimizer(timer: Timer, model: Model, micro_batches: int) -> Work:
    """Return one micro-batch's share of the update of all weights on a GPU."""
    here = model.experts.experts // model.experts.parallel + model.experts.shared if model.experts else 1
    parameters = sum(linear.n * linear.k * (here if linear.expert else 1) for linear in model.linears)
    whole = _streamed(timer, "optimizer", "optimizer and weight casts", "step", parameters, PARAMETER_BYTES)
    return replace(whole, us=whole.us / micro_batches, held_us=whole.us / micro_batches)


def _network(model: Model, scheme: Scheme, beside: Collection[str], assumed: Assumptions) -> Iterator[Transfer]:
    """Yield dispatch and combine of both passes, in which InfiniBand and NVLink work at the same time."""
    if model.experts is None:
        return
    between, within = copies(model.experts, TrafficAssumptions())
    for step, carried in (("fprop", scheme.activation), ("dgrad", scheme.gradient)):
        for what, bits in (("dispatch", carried.dispatch), ("combine", carried.combine)):
            size = model.tokens * model.hidden * bits / 8
            us = max(between * size / assumed.infiniband, assumed.nvlink.us(within * size))
            yield Transfer(what, step, us, what not in beside)
