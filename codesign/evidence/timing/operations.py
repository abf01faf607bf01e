"""What a GPU does for a Linear's pass under a proposal and under today's software, as operations of the timing model.

Casts, turns and the bytes of operands are those that `evidence/traffic/count.py` counts; here they become kernels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from codesign.evidence.timing.model import Operation, Product, Stream
from codesign.evidence.traffic.count import (
    Flow,
    Machine,
    Move,
    Scheme,
    element_bits,
    moves,
    parts,
    schemes,
)
from codesign.proposal.proposal import Proposal
from codesign.workloads.gemms import Gemm, Linear, Model, models
from isa_model.instruction import Instruction
from kernels.gemm.tile import GemmProblem, OutputType, ScaleLayout

PASSES = ("fprop", "dgrad", "wgrad")
BASES = "hopper.wgmma."
"""Names of the instructions that the kernels and the model are of; E4M3 or E5M2 operands."""
NO_MODEL = "the timing model is of the kernels that Hopper's FP8 wgmma runs in, and of no other base"


@dataclass(frozen=True)
class Multiply:
    """How the GEMMs multiply."""

    scales: bool = False
    """Whether group scales come with the operands."""
    promote: int = 0
    """Wgmmas between promotions on CUDA cores; 0 for none."""
    fast_forward: bool = False
    """Whether fprop runs without promotion nevertheless."""
    clocks: float = 1.0
    """Clocks of a wgmma over today's."""
    taken: int = 0
    """SMs that communication holds."""
    powers_of_2: bool = False
    """Whether scales are powers of two."""


@dataclass(frozen=True)
class Step:
    """One operation of a pass: what traffic calls it, and how often it is done."""

    step: str
    what: str
    """write (of the kernel that makes the tensor: that part of it alone), cast, turn, or product."""
    operation: Operation
    times: int = 1
    linear: str = ""


def supported(proposal: Proposal) -> bool:
    """Whether there is a model of the kernels that its base would run in: FP8 by Hopper's wgmma into FP32."""
    base = proposal.today
    fp8 = all(operand.kind == "float" and operand.bits == 8 for operand in (base.a, base.b))
    return proposal.base.startswith(BASES) and fp8 and base.accumulator.bits != 16


def software(proposal: Proposal, taken: int = 0) -> Multiply:
    """Today's software: promotion, with group scales if it has them."""
    practice = proposal.practice
    return Multiply(
        practice.group is not None,
        (practice.promote_every or 0) // 32,
        fast_forward=practice.fast_forward,
        taken=taken,
        powers_of_2=bool(practice.quantisation.powers_of_two),
    )


def proposed(proposal: Proposal, taken: int = 0) -> Multiply:
    """The proposal: today's software where it leaves multiplication alone; else no promotion and no scales in software."""
    if proposal.multiplies_as_today:
        return software(proposal, taken)
    spec = proposal.proposed()
    side = (spec.scale.a or spec.scale.b) if spec.scale else None
    powers = side is not None and not side.format.mantissa_bits
    return Multiply(side is not None, clocks=clocks(proposal.today, spec), taken=taken, powers_of_2=powers)


def clocks(today: Instruction, spec: Instruction) -> float:
    """Return the clocks of a proposed wgmma over today's.

    One that sums fewer products in a step takes more steps; one with operands of more than 8 bits reads twice the bytes. More
    products in a step and narrower operands are not credited: there are as many multipliers as today.
    """
    return max(1.0, today.span / spec.span) * _operand_clocks(max(spec.a.bits, spec.b.bits))


def _operand_clocks(bits: float) -> float:
    """Operands of 9 to 16 bits are read and multiplied at BF16's rate."""
    return 1.0 if bits <= 8 else 2.0 if bits <= 16 else 4.0


def schemes_of(proposal: Proposal) -> tuple[Scheme, Scheme, Scheme]:
    """How operands come to the GEMMs: today's software, the proposal, and Linears that a path is not about.

    Today's kernels have weights in 128x128 blocks, whatever groups the proposal wants for its own.
    """
    found = schemes(proposal)
    blocks = Flow(
        bits=element_bits(proposal.software_instruction, "b", proposal.practice.quantisation.weight_columns or 1)
    )
    today, plain = (replace(found[name], weight=blocks) for name in ("software", "plain"))
    new = replace(found["proposal"], weight=blocks) if proposal.multiplies_as_today else found["proposal"]
    return today, new, plain


def of_gemm(gemm: Gemm, scheme: Scheme, multiply: Multiply) -> list[Step]:
    """The operations of one GEMM of a workload, on its own: what its tensors are written and cast by, and the product."""
    step = gemm.name.split(".")[1]  # model.pass.gemm, or layer.pass of a layer of the author's own
    tokens, n, k = {
        "fprop": (gemm.m, gemm.n, gemm.k),
        "dgrad": (gemm.m, gemm.k, gemm.n),
        "wgrad": (gemm.k, gemm.m, gemm.n),
    }[step]
    model = Model(gemm.name, "", tokens, 1, k, (Linear("it", n, k, False),), None, False)
    way = (scheme, multiply)
    return [s for s in of_layer(model, way, way, ()) if s.step == step]


def meant(proposal: Proposal, model: Model) -> frozenset[str]:
    """The passes of a model's Linears that a proposal is about, as `pass.linear`: those among its workloads; of a model that
    they do not name, those that are called alike in the models they do."""
    own = [w for w in proposal.workloads if w.split(".")[0] == model.name]
    linears = {linear.name for linear in model.linears}
    found = set()
    for workload in own or [w for w in proposal.workloads if w.split(".")[0] in models()]:
        step, linear = (*workload.split(".")[1:], "", "")[:2]
        # A path is a Linear's in all passes; an instruction is a GEMM's.
        steps = (step,) if step and proposal.path is None else PASSES
        found |= {f"{s}.{name}" for s in steps for name in ({linear} & linears if linear else linears)}
    return frozenset(found)


Way = tuple[Scheme, Multiply]
"""How operands come to a GEMM, and how it multiplies."""


def of_layer(model: Model, way: Way, others: Way, about: Collection[str]) -> Iterator[Step]:
    """The operations of a layer's Linears in all three passes, one `way` for those that are meant (`pass.linear`), another for
    the others."""
    for linear in model.linears:
        ways = {step: way if f"{step}.{linear.name}" in about else others for step in PASSES}
        alone = replace(model, linears=(linear,))
        for step, (scheme, multiply) in ways.items():
            for move in moves(alone, scheme, frozenset({linear.name}), scheme, Machine()):
                if move.step == step and move.what in ("write", "cast", "turn"):
                    yield _stream(move, linear, multiply)
            for part in parts(model, linear, scheme):
                yield _product(step, linear, part.gemms, part.tokens, *part.operands[step], multiply)


def _stream(move: Move, linear: Linear, how: Multiply) -> Step:
    """The kernel that moves so many bytes; by name, if it is one of kernels/quantise."""
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
    return Step(move.step, move.what, stream, linear=linear.name)


def _product(step: str, linear: Linear, count: int, tokens: int, a: Flow, b: Flow, how: Multiply) -> Step:
    m, n, k = {
        "fprop": (tokens, linear.n, linear.k),
        "dgrad": (tokens, linear.k, linear.n),
        "wgrad": (linear.n, linear.k, tokens),
    }[step]
    wgrad = step == "wgrad"
    grouped = ScaleLayout.GROUP if wgrad else ScaleLayout.BLOCK
    scales = grouped if how.scales else ScaleLayout.TENSOR
    # Experts share a launch, but for wgrad, whose sums are as many matrices.
    groups = count if count > 1 and not wgrad else 0
    promote = 0 if how.fast_forward and step == "fprop" else how.promote
    out = OutputType.FP32 if wgrad else OutputType.BF16
    rows = m * max(groups, 1)
    problem = GemmProblem(rows, n, k, groups=groups, scales=scales, promote=promote, out=out, add=wgrad)
    widest = max(int(a.bits), int(b.bits))
    x = Product(problem, (a.read / 8, b.read / 8), how.clocks * _operand_clocks(widest), taken=how.taken)
    return Step(step, "product", x, 1 if groups else count, linear.name)
