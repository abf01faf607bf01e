"""Operations of the timing model for the passes of Linears, with a proposal and with today's software.

Casts, transposes and bytes of operands are those counted in `evidence/traffic/count.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from codesign.evidence.timing.model import Operation, Product, Stream
from codesign.evidence.traffic.count import (
    Flow,
    Move,
    Scheme,
    TrafficAssumptions,
    moves,
    parts,
    schemes,
    weight_bits,
)
from codesign.proposal.proposal import Proposal
from codesign.workloads.gemms import Gemm, Linear, Model, Role, models, sent, shape_of
from isa_model.instruction import Instruction
from kernels.gemm.tile import GemmProblem, OutputType, ScaleLayout

PASSES = ("fprop", "dgrad", "wgrad")
PASS_OF: dict[Role, str] = {"activation": "fprop", "gradient": "dgrad"}
"""Pass in which a tensor is written and cast."""
BASES = "hopper.wgmma."
"""Prefix of the instructions that the kernels and the model use."""
NO_MODEL = (
    "the timing model is of the kernels that Hopper's FP8 wgmma runs in, on operands in one slice, and of no other base"
)


@dataclass(frozen=True)
class Multiply:
    """The way GEMMs multiply."""

    scales: bool = False
    """True if operands have group scales."""
    promote: int = 0
    """Wgmmas between promotions on CUDA cores; 0: no promotion."""
    fast_forward: bool = False
    """True if fprop runs without promotion."""
    clocks: float = 1.0
    """Clocks of a wgmma on 8-bit operands, relative to today's; if `stated`, on the operands that it has."""
    stated: bool = False
    """True if the proposal states its rate."""
    energy: float = 1.0
    """Energy of a multiplication, relative to today's: less where sparsity leaves products out."""
    taken: int = 0
    """SMs occupied by communication."""
    powers_of_2: bool = False
    """True if scales are powers of two."""
    split_k: bool = True
    """True if CTAs may share out K."""


@dataclass(frozen=True)
class TimedStep:
    """One operation of a pass."""

    step: str
    """Pass: fprop, dgrad or wgrad."""
    what: str
    """Kind of operation: write (as part of the kernel that computes the tensor), cast, turn or product."""
    operation: Operation
    times: int = 1
    """Number of executions."""
    linear: str = ""


def supported(proposal: Proposal) -> bool:
    """Return whether there is a timing model: of Hopper's FP8 wgmma with FP32 accumulators, on BF16 tensors in one slice."""
    base = proposal.today
    fp8 = all(operand.kind == "float" and operand.bits == 8 for operand in (base.a, base.b))
    known = proposal.base.startswith(BASES) and fp8 and base.accumulator.bits != 16
    return known and not proposal.in_slices and proposal.inputs == "bf16"


def software(proposal: Proposal, taken: int = 0) -> Multiply:
    """Return the way today's software multiplies."""
    practice = proposal.practice
    return Multiply(
        practice.group is not None,
        (practice.promote_every or 0) // 32,
        fast_forward=practice.fast_forward,
        taken=taken,
        powers_of_2=bool(practice.quantisation.powers_of_two),
        split_k=proposal.software.split_k,
    )


def proposed(proposal: Proposal, taken: int = 0) -> Multiply:
    """Return the way the proposal multiplies: as today's software if only the path changes, else without promotion."""
    if proposal.multiplies_as_today:
        return software(proposal, taken)
    spec = proposal.proposed()
    side = (spec.scale.a or spec.scale.b) if spec.scale else None
    return Multiply(
        side is not None,
        clocks=1 / proposal.rate if proposal.rate else clocks(proposal.today, spec),
        stated=proposal.rate is not None,
        energy=density(spec) / density(proposal.today),
        taken=taken,
        powers_of_2=side is not None and not side.format.mantissa_bits,
    )


def clocks(today: Instruction, spec: Instruction) -> float:
    """Return the clocks of a proposed wgmma on 8-bit operands, relative to today's.

    Fewer products per step need more steps, and products that sparsity leaves out need none. More products per step and
    narrower operands are not credited, since the number of multipliers is today's.
    """
    return max(1.0, today.span / spec.span) * density(spec) / density(today)


def density(spec: Instruction) -> float:
    """Return the share of products along K that an instruction multiplies: 1 without sparsity."""
    return spec.stored_k / spec.shape.k


def _operand_clocks(bits: float) -> float:
    """Return the clocks for operands of a width, relative to 8 bits; 9 to 16 bits have BF16's rate."""
    return 1.0 if bits <= 8 else 2.0 if bits <= 16 else 4.0


def schemes_of(proposal: Proposal) -> tuple[Scheme, Scheme, Scheme]:
    """Return the schemes of today's software, of the proposal, and of Linears that the path does not affect.

    Today's kernels have weights in 128x128 blocks, whatever groups the proposal uses.
    """
    found = schemes(proposal)
    blocks = Flow(bits=weight_bits(proposal, proposal.software_instruction, proposal.practice.quantisation))
    today, plain = (replace(found[name], weight=blocks) for name in ("software", "plain"))
    new = replace(found["proposal"], weight=blocks) if proposal.multiplies_as_today else found["proposal"]
    return today, new, plain


def of_gemm(gemm: Gemm, scheme: Scheme, multiply: Multiply) -> list[TimedStep]:
    """Return the operations of a single GEMM: the writes and casts of its operands, and the product.

    A tensor that arrives at an expert as codes was written and cast before it was sent, once for all experts, as in `of_layer`.
    Its GEMM is timed with the scales of the kernel that records have.
    """
    flows: dict[Role, Flow] = {role: getattr(scheme, role) for role in sent(gemm) or ()}
    arriving = {role: replace(flow.dispatched, bits=flow.bits) for role, flow in flows.items()}
    scheme = replace(scheme, **arriving)
    codes = {PASS_OF[role] for role, flow in arriving.items() if flow.at == "dispatch"}
    step = gemm.name.split(".")[1]  # the name is model.pass.gemm, or layer.pass for a layer of the proposal
    tokens, n, k = {
        "fprop": (gemm.m, gemm.n, gemm.k),
        "dgrad": (gemm.m, gemm.k, gemm.n),
        "wgrad": (gemm.k, gemm.m, gemm.n),
    }[step]
    model = Model(gemm.name, "", tokens, 1, k, (Linear("it", n, k, False),), None, False)
    way = (scheme, multiply)
    made = () if step not in codes else ("write", "cast")
    return [_batched(s, gemm.batch) for s in of_layer(model, way, way, ()) if s.step == step and s.what not in made]


def _batched(step: TimedStep, batch: int) -> TimedStep:
    """Return one operation for a whole batch; products of wgrad, which add to matrices of their own, run one by one."""
    x = step.operation
    if batch == 1:
        return step
    if isinstance(x, Stream):
        return replace(step, operation=replace(x, rows=x.rows * batch))
    if step.step == "wgrad":
        return replace(step, times=batch)
    return replace(step, operation=replace(x, problem=replace(x.problem, m=x.problem.m * batch, groups=batch)))


def meant(proposal: Proposal, model: Model) -> frozenset[str]:
    """Return the passes of a model's Linears that a proposal affects, as `pass.linear`.

    They are those among its workloads. If the workloads name other models only, Linears of the same names are affected.
    """
    own = [w for w in proposal.workloads if w.split(".")[0] == model.name]
    linears = {linear.name for linear in model.linears}
    found = set()
    for workload in own or [w for w in proposal.workloads if w.split(".")[0] in models()]:
        step, linear = (*workload.split(".")[1:], "", "")[:2]
        # A path affects all passes of a Linear, an instruction single GEMMs.
        steps = (step,) if step and proposal.path is None else PASSES
        found |= {f"{s}.{name}" for s in steps for name in ({linear} & linears if linear else linears)}
    return frozenset(found)


Way = tuple[Scheme, Multiply]
"""Flows of a GEMM's operands, and the way it multiplies."""


def of_layer(model: Model, way: Way, others: Way, about: Collection[str]) -> Iterator[TimedStep]:
    """Yield the operations of a layer's Linears in all passes, in one `way` for `about` (`pass.linear`), in `others` else."""
    for linear in model.linears:
        ways = {step: way if f"{step}.{linear.name}" in about else others for step in PASSES}
        alone = replace(model, linears=(linear,))
        for step, (scheme, multiply) in ways.items():
            for move in moves(alone, scheme, frozenset({linear.name}), scheme, TrafficAssumptions()):
                if move.step == step and move.what in ("write", "cast", "turn"):
                    yield _stream(move, linear, multiply)
            for part in parts(model, linear, scheme):
                yield _product(step, linear, part.gemms, part.tokens, *part.operands[step], multiply)


def _stream(move: Move, linear: Linear, how: Multiply) -> TimedStep:
    """Return a move as a memory-bound kernel, with its name if it is one of kernels/quantise."""
    columns = linear.n if move.tensor == "gradient" else linear.k
    bits = 8 * move.hbm / (move.rows * columns)
    name = {
        ("fprop", "cast"): {24: "rows", 32: "both"},
        ("dgrad", "cast"): {24: "rows", 32: "both"},
        ("wgrad", "turn"): {16: "requantise", 24: "columns"},
    }.get((move.step, move.what), {})
    kernel = name.get(int(bits), "")
    fp32 = kernel == "requantise" and bits - 16 >= 2 * 32 / 128 and not how.powers_of_2
    stream = Stream(move.rows, columns, bits, kernel, fp32_requantised=fp32, inside=move.what == "write")
    return TimedStep(move.step, move.what, stream, linear=linear.name)


def _product(step: str, linear: Linear, count: int, tokens: int, a: Flow, b: Flow, how: Multiply) -> TimedStep:
    m, n, k = shape_of(step, tokens, linear.n, linear.k)
    wgrad = step == "wgrad"
    grouped = ScaleLayout.GROUP if wgrad else ScaleLayout.BLOCK
    scales = grouped if how.scales else ScaleLayout.TENSOR
    # Experts share a launch, except in wgrad, whose results are separate matrices.
    groups = count if count > 1 and not wgrad else 0
    promote = 0 if how.fast_forward and step == "fprop" else how.promote
    out = OutputType.FP32 if wgrad else OutputType.BF16
    rows = m * max(groups, 1)
    problem = GemmProblem(rows, n, k, groups=groups, scales=scales, promote=promote, out=out, add=wgrad)
    widest = max(int(a.bits), int(b.bits))
    clocks = how.clocks if how.stated else how.clocks * _operand_clocks(widest)
    widths = a.read / 8, b.read / 8
    x = Product(problem, widths, clocks, how.energy, taken=how.taken, split_k=how.split_k)
    return TimedStep(step, "product", x, 1 if groups else count, linear.name)
