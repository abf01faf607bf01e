"""Flows: the casts between a BF16 tensor and the operand of a GEMM.

They come from a proposal's path, from codes kept for the backward pass, and from what is sent to experts. Numerics, traffic
and timing all use them, so that they agree.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import takewhile
from typing import NamedTuple

from codesign.proposal.baselines import Baseline
from codesign.proposal.quantisation import Quantisation, cast_of
from codesign.workloads.gemms import Gemm, Role, sent
from isa_model.formats import FORMATS, Format
from isa_model.instruction import Instruction
from isa_model.path import Step

TILE = 128
"""Features of a token that share a scale where tensors are sent to experts (DeepSeek-V3, 3.3.3)."""


class Flows(NamedTuple):
    """The steps behind activations and behind gradients, (tokens, features)."""

    activation: tuple[Step, ...] = ()
    gradient: tuple[Step, ...] = ()
    send: Step | None = None
    """Cast of tensors sent to experts, where the steps have none; None: BF16."""

    def of(self, role: Role) -> tuple[Step, ...]:
        """Return the steps behind tensors of a role; none behind weights, which are cast once per optimizer step."""
        return () if role == "weight" else self.activation if role == "activation" else self.gradient


NOTHING = Flows()


def dispatched(fmt: Format) -> Step:
    """Return the cast before dispatch: tiles of 1x128 under power-of-two scales (DeepSeek-V3, 3.3.3)."""
    return Step(at="dispatch", to=fmt, group=(1, TILE), scale=FORMATS["ue8m0"])


def usual(baseline: Baseline, instruction: Instruction, rule: Quantisation) -> Flows:
    """Return the flows without a path: the baseline's dispatch, and the codes it keeps for the backward pass."""
    send = dispatched(baseline.dispatch) if baseline.dispatch else None
    side = instruction.scale.a if instruction.scale else None
    if not baseline.kept or side is None:
        return Flows(send=send)  # under one scale per tensor nothing is lost when a tensor is turned
    cast = cast_of(rule, instruction.a, "activation", side, k_axis=1)
    keep = Step(at="cache", **{name: getattr(cast, name) for name in type(cast).model_fields})
    return Flows((keep,), send=send)


def along(path: tuple[Step, ...], operands: Collection[Role], usually: Flows, sends: bool) -> Flows:
    """Return a path's flows: its steps behind the `operands` it names, the usual ones behind the other.

    With `sends`, the path or the one it is compared with says how tensors are sent; without, they are sent as usual.
    """
    activation, gradient = (path if role in operands else usually.of(role) for role in ("activation", "gradient"))
    return Flows(activation, gradient, None if sends else usually.send)


def behind(gemm: Gemm, role: Role, flows: Flows) -> tuple[Step, ...]:
    """Return the steps behind an operand of a GEMM.

    In a mixture of experts dispatch lies behind what is sent to routed experts alone; tensors of a model without experts
    stand in for such. An expert's GPU gets codes: what would cast BF16 to their format has nothing left to cast, and the
    codes themselves are kept.
    """
    steps, to_experts = flows.of(role), sent(gemm)
    if to_experts is not None and role in to_experts:
        steps = _from_codes((*([flows.send] if flows.send else []), *steps))
    elif to_experts is not None:
        steps = tuple(s for s in steps if s.at != "dispatch")
    return on_the_way(steps, role, gemm.tokens_along_k)


def _from_codes(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the steps behind a tensor that was sent, as its receiver sees them."""
    send = next((s for s in steps if s.at == "dispatch"), None)
    if send is None:
        return steps
    before = tuple(s for s in steps if s.at == "combine")
    after = [s for s in steps if s.at not in ("dispatch", "combine")]
    if send.logfmt is None:
        after = [s for s in after if s.at == "operand-read" or s.to.bits != send.to.bits]
    return (*before, send, *(s.model_copy(update={"reads": "previous"}) for s in after))


def carried(gemm: Gemm, flows: Iterable[Flows]) -> tuple[Role, ...]:
    """Return the roles of a GEMM's operands that have steps behind them in any of the flows."""
    listed = list(flows)
    return tuple(role for role in (gemm.a, gemm.b) if any(behind(gemm, role, f) for f in listed))


def on_the_way(steps: tuple[Step, ...], role: Role, tokens_along_k: bool) -> tuple[Step, ...]:
    """Return the steps behind a tensor when a GEMM takes it.

    Fprop and dgrad, whose sums run over features, take it before it is kept for the backward pass or turned. Wgrad, whose
    sums run over tokens, takes it at the end. Where no step turns it, a kernel does, from what memory holds: BF16, where an
    engine casts on reading; and of a gradient BF16, too, where a kernel casts, since it writes both layouts from one read.
    Traffic is counted by the same rule.
    """
    if not tokens_along_k:
        return tuple(takewhile(lambda s: s.at != "cache" and not _turns(s), steps))
    if any(map(_turns, steps)):
        return steps
    apart = {"copy-engine", "near-memory"} | ({"kernel", "register"} if role == "gradient" else set())
    kept = steps
    while kept and kept[-1].at in apart:
        kept = kept[:-1]
    return kept


def _turns(step: Step) -> bool:
    """Return whether a step leaves scales along tokens, or is the transposed read."""
    return step.at == "operand-read" or (step.group is not None and step.group[0] > step.group[1])
