"""The step of one layer: everything that a Transformer's layer does forward and backward on one GPU, and what each part takes.

The Linears' GEMMs, casts and turns are the timing model's, measured where a record has them. What no record measures is
counted and assumed: attention by its FLOPs at a share of the measured BF16 ceiling; element-wise kernels by their bytes at the
bandwidth that casts get; dispatch and combine by their bytes over effective bandwidths that DeepSeek reports; how much of that
computation hides. Left out, as being no layer's own: embedding and output head, pipeline bubbles and transfers, gradients'
reduction over data-parallel GPUs; and recomputation in the backward pass, which is a choice of memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import fsum

from codesign.evidence.timing.model import Product, Stream
from codesign.evidence.timing.sums import Part
from codesign.evidence.timing.times import Timer
from codesign.evidence.traffic.count import Machine as Counted
from codesign.evidence.traffic.count import Scheme, copies
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
"""Kinds of operations, in the order of a chart."""

ISCA = "Insights into DeepSeek-V3 (arXiv 2505.09343), 4.3"
DSV3 = "DeepSeek-V3 technical report (arXiv 2412.19437)"


@dataclass(frozen=True)
class Assumptions:
    """What the step stands on beyond the timing model."""

    attention_forward: float = 0.75
    """Share of the measured BF16 ceiling. Between FlashAttention-3's best, 740 TFLOP/s (arXiv 2407.08608), which is 0.95 of it
    on an H100, and short causal sequences: ours."""
    attention_backward: float = 0.6
    """The same of the backward pass: ours."""
    element_wise: float = 1.0
    """Bytes of element-wise kernels, over those of kernels that are fused as far as a pass over their rows allows."""
    hidden: bool = True
    """Whether communication runs under computation, as DualPipe has it (DSV3 3.2.1), or each waits for the other."""
    held: int = COMMUNICATION_SMS
    """SMs that communication holds while it runs (DSV3 3.2.2), where it is not done beside them."""
    infiniband: float = 40e3
    """Bytes a microsecond that a GPU sends to other nodes: 40 GB/s of a 400 Gbit/s card's 50 (ISCA)."""
    nvlink: float = 160e3
    """Bytes a microsecond within a node: 160 GB/s of an H800's 200 (ISCA)."""
    micro_batches: int = 120
    """Between two steps of the optimizer: 15,360 sequences over 128 data-parallel ranks (DSV3 4.2 and 3.2)."""


OTHERS: Mapping[str, Mapping[str, Assumptions]] = {
    "rate of attention, of the BF16 ceiling": {
        "0.95 forward, 0.75 backward": Assumptions(attention_forward=0.95, attention_backward=0.75),
        "0.55 forward, 0.45 backward": Assumptions(attention_forward=0.55, attention_backward=0.45),
    },
    "bytes of element-wise kernels": {"1.5 times": Assumptions(element_wise=1.5)},
    "communication behind computation": {"not hidden": Assumptions(hidden=False)},
    "SMs that communication holds": {
        "none": Assumptions(held=0),
        "6 (DeepEP V2)": Assumptions(held=6),
    },
    "InfiniBand": {"50 GB/s, its rate": Assumptions(infiniband=50e3)},
    "NVLink": {"400 GB/s (an H100's 450)": Assumptions(nvlink=400e3)},
    "micro-batches to a step of the optimizer": {"8": Assumptions(micro_batches=8)},
}
"""Other cases, one thing changed at a time."""


METHOD = (
    "A whole layer's step adds to its Linears what no record measures, all of it assumed. Attention: causal, "
    f"{Assumptions.attention_forward:g} (forward) and {Assumptions.attention_backward:g} (backward) of the measured BF16 "
    "ceiling; FlashAttention-3 (arXiv 2407.08608) reports 740 TFLOP/s at its best. Norms, residuals, RoPE, router and SwiGLU: "
    "bytes of fused kernels at the bandwidth of casts. Dispatch and combine: bytes as traffic counts them, at "
    f"{Assumptions.infiniband / 1e3:g} GB/s over InfiniBand while {Assumptions.nvlink / 1e3:g} GB/s go over NVLink ({ISCA}), "
    f"under computation as DualPipe has it ({DSV3}, 3.2.1), holding {Assumptions.held} SMs that GEMMs and attention then lack; "
    "the interval reaches to none of it hidden. Optimizer and casts of weights: bytes for every weight on the GPU, once in "
    f"{Assumptions.micro_batches} micro-batches. Left out: embedding and output head, pipeline bubbles, reduction of "
    "gradients, recomputation.",
    "The ceiling of a layer's speedup is Amdahl's: all that the proposal makes faster by over 2 % in no time, the rest as it "
    "is; where the network then takes longer than computation, the step waits for it.",
)


@dataclass(frozen=True)
class Work:
    """An operation of computation and its time in microseconds."""

    kind: str
    name: str
    of: str
    """Pass, or pass and Linear, as `pass.linear`."""
    us: float
    """With all SMs."""
    held_us: float
    """While communication holds its own."""
    certain: Kind

    @property
    def linear(self) -> bool:
        """Whether it belongs to a Linear, so that the timing model knows how it changes."""
        return "." in self.of


@dataclass(frozen=True)
class Transfer:
    """A dispatch or combine: its microseconds on the wire, and whether SMs carry it out."""

    name: str
    of: str
    us: float
    on_sms: bool


@dataclass(frozen=True)
class Layer:
    """The operations of a layer's step. Communication runs under computation or after it."""

    work: tuple[Work, ...]
    network: tuple[Transfer, ...]
    hidden: bool

    def total(self, linears: float = 1.0) -> float:
        """Microseconds of the step, with the Linears' part taking so many times as long.

        Computation of C microseconds would take C' if communication held its SMs throughout; it holds them for H of the N
        microseconds that it runs. Hidden, the step is the longer of N and C + H (1 - C / C'); else C + N.
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
        """Microseconds by which communication makes the step longer: what is not hidden, and the SMs it holds."""
        return self.total() - fsum(w.us for w in self.work)

    @property
    def waits(self) -> bool:
        """Whether communication is hidden behind computation and still the longer of the two."""
        return self.hidden and 0 < self.total() <= fsum(t.us for t in self.network)

    def by_kind(self) -> dict[str, float]:
        """Microseconds of the step by kind of operation; they add up to `total()`."""
        found = dict.fromkeys(KINDS, 0.0)
        for w in self.work:
            found[w.kind] += w.us
        found["network"] += self.network_adds
        return found

    def times(self) -> dict[tuple[str, str], tuple[float, float]]:
        """What each operation takes, by name and pass or Linear: alone, and what it adds while SMs are held (or holds)."""
        found: dict[tuple[str, str], tuple[float, float]] = {}
        rows = [((w.name, w.of), w.us, w.held_us) for w in self.work]
        rows += [((t.name, t.of), t.us, t.us * t.on_sms) for t in self.network]
        for key, us, held in rows:
            a, b = found.get(key, (0.0, 0.0))
            found[key] = a + us, b + held
        return found


def faster(old: Layer, new: Layer) -> frozenset[tuple[str, str]]:
    """The operations, by name and pass or Linear, that take less time on the new side, or hold fewer SMs; less by over 2 %, so
    that bytes of scales do not count."""
    there = new.times()
    return frozenset(
        key
        for key, ends in old.times().items()
        if any(b < a * 0.98 for a, b in zip(ends, there.get(key, (0.0, 0.0)), strict=True))
    )


def limit(old: Layer, new: Layer) -> Layer:
    """The old layer with what is faster on the new side in no time, and all else in the shorter of both times."""
    gone, before, after = faster(old, new), old.times(), new.times()

    def share(key: tuple[str, str], end: int) -> float:
        return min(1.0, after[key][end] / before[key][end]) if before[key][end] else 1.0

    return Layer(
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
    linears: Iterable[Part],
    scheme: Scheme,
    beside: Collection[str],
    assumed: Assumptions,
) -> Layer:
    """A model's layer with its Linears' operations as they were timed. `scheme` says what is sent in which format, and
    `beside` which of dispatch and combine are not carried out by SMs. Raises LookupError without a measured BF16 ceiling."""
    work = [
        *(_of_linear(timer, part, assumed.held) for part in linears),
        *_attention(timer, model, assumed),
        *(_streamed(timer, "element-wise", *about) for about in _element_wise(model, assumed.element_wise)),
        _optimizer(timer, model, assumed.micro_batches),
    ]
    return Layer(tuple(work), tuple(_network(model, scheme, beside, assumed)), assumed.hidden)


WHAT = {
    "write": ("element-wise", "writing the Linears' operands"),
    "cast": ("casts", "casts"),
    "turn": ("transposes", "transposes"),
}


def _of_linear(timer: Timer, part: Part, held: int) -> Work:
    step, x = part.step, part.step.operation
    us = step.times * part.us
    kind, name = WHAT.get(step.what, (f"GEMMs, {step.step}",) * 2)
    slower = 1.0
    if isinstance(x, Product):
        alone, beside = (replace(x, tile=None, taken=taken) for taken in (0, held))
        slower = max(1.0, timer.modelled(beside) / timer.modelled(alone))
    certain: Kind = part.on.kind if part.reach == 1 else "modelled"
    return Work(kind, name, f"{step.step}.{step.linear}", us, us * slower, certain)


def _attention(timer: Timer, model: Model, assumed: Assumptions) -> Iterator[Work]:
    """Forward two products, backward five, of which one makes the scores again; half of each is masked."""
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
    """FLOPs a microsecond of the fastest BF16 GEMM of the record. Raises LookupError where it has none."""
    rates = [row.flops / row.timing.us for row in timer.bench.find("ceiling.bf16") if row.timing]
    if not rates:
        raise LookupError(f"{timer.bench.name} has no BF16 ceiling, which attention is timed by")
    return max(rates)


def _element_wise(model: Model, factor: float) -> Iterator[tuple[str, str, int, float]]:
    """Name, pass, rows and bytes a row of what is read and written besides the Linears' operands, which are counted with
    those. BF16 throughout; a norm takes the residual sum before it along."""
    a, hidden, tokens = model.attention, model.hidden, model.tokens
    assert a
    rotated = a.rotary * (a.heads + (1 if a.latent else a.kv_heads))
    up = next(linear for linear in model.linears if linear.name == "gate-up")
    rows = model.tokens
    if model.experts:
        rows *= model.experts.active + model.experts.shared
    router = model.experts.experts if model.experts else 0
    # Two norms: branch and residual read, their sum written; and what latent attention normalises.
    yield "norms and residuals", "fprop", tokens, factor * (2 * 6 * hidden + 2 * a.latent)
    yield "RoPE", "fprop", tokens, factor * 4 * rotated
    yield "SwiGLU", "fprop", rows, factor * 2 * up.n
    # Backward: input and both gradients read; the sum of gradients is an operand, but for experts, who get their own.
    more = 2 * hidden if router else 0
    yield "norms and residuals", "dgrad", tokens, factor * (2 * 6 * hidden + more + 4 * a.latent)
    yield "RoPE", "dgrad", tokens, factor * 4 * rotated
    yield "SwiGLU", "dgrad", rows, factor * 3 * up.n  # both halves, and the gradient of their product
    if router:
        # Its two small GEMMs and their gradients are bound by memory, too; FP32 logits.
        yield "router", "fprop", tokens, factor * (2 * hidden + 4 * router)
        yield "router", "dgrad", tokens, factor * (6 * hidden + 8 * router)


def _streamed(timer: Timer, kind: str, name: str, of: str, rows: int, size: float) -> Work:
    us = timer.time(Stream(rows, 1, 8 * size)).us
    return Work(kind, name, of, us, us, "assumed")


PARAMETER_BYTES = 4 + 4 + 2 * 4 + 2 * 2 * 2 + 2
"""Bytes of the optimizer's step for each parameter: gradient read and cleared, master weight read and written, both moments in
BF16 read and written (DSV3 3.3.1, 3.3.3), FP8 weight written in both layouts."""


def _optimizer(timer: Timer, model: Model, micro_batches: int) -> Work:
    """A micro-batch's share; every GPU updates all weights that it holds."""
    here = model.experts.experts // model.experts.parallel + model.experts.shared if model.experts else 1
    parameters = sum(linear.n * linear.k * (here if linear.expert else 1) for linear in model.linears)
    whole = _streamed(timer, "optimizer", "optimizer and weight casts", "step", parameters, PARAMETER_BYTES)
    return replace(whole, us=whole.us / micro_batches, held_us=whole.us / micro_batches)


def _network(model: Model, scheme: Scheme, beside: Collection[str], assumed: Assumptions) -> Iterator[Transfer]:
    """Dispatch and combine of both passes: what comes over InfiniBand is handed on over NVLink meanwhile."""
    if model.experts is None:
        return
    between, within = copies(model.experts, Counted())
    for step, carried in (("fprop", scheme.activation), ("dgrad", scheme.gradient)):
        for what, bits in (("dispatch", carried.dispatch), ("combine", carried.combine)):
            size = model.tokens * model.hidden * bits / 8
            us = max(between * size / assumed.infiniband, within * size / assumed.nvlink)
            yield Transfer(what, step, us, what not in beside)
