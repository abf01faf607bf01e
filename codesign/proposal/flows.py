"""Flows: the casts between a BF16 tensor and the operand of a GEMM.

They are due to a proposal's path, to codes kept for the backward pass, and to tensors sent to experts. Numerics, traffic and
timing all use them, so that they agree.
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
"""Features of a token that share a scale in tensors sent to experts (DeepSeek-V3, 3.3.3)."""


class Flows(NamedTuple):
    """Casts of activations and of gradients, both (tokens, features), in order."""

    activation: tuple[Step, ...] = ()
    gradient: tuple[Step, ...] = ()
    send: Step | None = None
    """Cast of tensors sent to experts if the steps have no dispatch; None: BF16."""

    def of(self, role: Role) -> tuple[Step, ...]:
        """Return the casts of a role's tensors. Weights have none: they are cast once per optimizer step."""
        return () if role == "weight" else self.activation if role == "activation" else self.gradient


NOTHING = Flows()


def dispatched(fmt: Format) -> Step:
    """Return the cast before dispatch: tiles of 1x128 under power-of-two scales (DeepSeek-V3, 3.3.3)."""
    return Step(at="dispatch", to=fmt, group=(1, TILE), scale=FORMATS["ue8m0"])


def usual(baseline: Baseline, instruction: Instruction, rule: Quantisation) -> Flows:
    """Return the flows of a proposal without a path: the baseline's dispatch and its codes kept for the backward pass."""
    send = dispatched(baseline.dispatch) if baseline.dispatch else None
    side = instruction.scale.a if instruction.scale else None
    if not baseline.kept or side is None:
        return Flows(send=send)  # with one scale per tensor, codes can be transposed without loss
    cast = cast_of(rule, instruction.a, "activation", side, k_axis=1)
    keep = Step(at="cache", **{name: getattr(cast, name) for name in type(cast).model_fields})
    return Flows((keep,), send=send)


def along(path: tuple[Step, ...], operands: Collection[Role], usually: Flows, sends: bool) -> Flows:
    """Return the flows of a path, whose steps replace the usual ones for `operands`.

    `sends` is True if the path, or the path it is compared with, has a dispatch; it replaces the usual one then.
    """
    activation, gradient = (path if role in operands else usually.of(role) for role in ("activation", "gradient"))
    return Flows(activation, gradient, None if sends else usually.send)


def behind(gemm: Gemm, role: Role, flows: Flows) -> tuple[Step, ...]:
    """Return the casts of an operand of a GEMM.

    Only tensors sent to routed experts are dispatched; a model without experts is treated as if its tensors were. The GPU of
    an expert receives codes, so later casts from BF16 to the same format drop out, and the codes themselves are kept.
    """
    steps, to_experts = flows.of(role), sent(gemm)
    if to_experts is not None and role in to_experts:
        steps = _from_codes((*([flows.send] if flows.send else []), *steps))
    elif to_experts is not None:
        steps = tuple(s for s in steps if s.at != "dispatch")
    return on_the_way(steps, role, gemm.tokens_along_k)


def _from_codes(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the casts of a tensor as the receiver of its codes applies them."""
    send = next((s for s in steps if s.at == "dispatch"), None)
    if send is None:
        return steps
    before = tuple(s for s in steps if s.at == "combine")
    after = [s for s in steps if s.at not in ("dispatch", "combine")]
    if send.logfmt is None:
        after = [s for s in after if s.at == "operand-read" or s.to.bits != send.to.bits]
    return (*before, send, *(s.model_copy(update={"reads": "previous"}) for s in after))


def carried(gemm: Gemm, flows: Iterable[Flows]) -> tuple[Role, ...]:
    """Return the roles of a GEMM's operands that are cast in any of the flows."""
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
