"""`emulate`: a model of torch whose Linears, and attention if asked, compute as an instruction does.

A Linear keeps its parameters, hooks and name; its class is replaced by a subclass whose `forward` is the emulated one. So
state dicts, DistributedDataParallel, FSDP, torch.compile and automatic mixed precision see the same model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn

from codesign.proposal.proposal import Value, Variant
from codesign.proposal.recipe import COMPONENTS, Component
from codesign.torch.arithmetic import Arithmetic
from codesign.torch.attention import EmulatedAttention
from codesign.torch.engines import ENGINES, Engine, engine_of
from codesign.torch.linear import TAKEN, Rules, check, linear, product
from codesign.torch.rules import On, recipe_on
from codesign.torch.shared_input import SharedInput
from isa_model.diagnostics import InputError, suggest

HEADS = {"lm_head", "head", "heads", "output_head", "classifier", "score", "embed_out", "output_projection"}
"""Last parts of the names of output heads."""
GATES = {"gate", "router", "gating", "wg"}
"""Last parts of the names of mixture-of-experts gates."""


@dataclass(frozen=True)
class Row:
    """A module in the report of an emulation."""

    name: str
    kind: str
    """Name of its class."""
    what: str
    """Instruction and engine if it was replaced; otherwise the reason why not."""


@dataclass
class Emulation:
    """An emulated model: what was replaced and what was left. A `with` block restores the model at its end."""

    model: nn.Module
    replaced: tuple[Row, ...] = ()
    left: tuple[Row, ...] = ()
    attention: EmulatedAttention | None = None
    """Mode that counts the calls of attention it replaced; None: attention was left."""
    _restore: list[Callable[[], None]] = field(default_factory=list)

    def restore(self) -> None:
        """Give every module its own arithmetic back."""
        while self._restore:
            self._restore.pop()()

    def __enter__(self) -> Emulation:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def emulate(
    model: nn.Module,
    on: On | Mapping[str, On | None],
    *,
    variant: Variant = "proposal",
    at: Value | None = None,
    engine: Engine = "auto",
    only: str | Sequence[str] = "*",
    keep: Component | Sequence[Component] | None = None,
    attention: bool = False,
    frozen: bool = False,
) -> Emulation:
    """Let the Linears of a model compute as an instruction does, in place, and return what was replaced and what was left.

    - `on`: a proposal, an instruction, a recipe, or the name or file of one; or a mapping from patterns of module names to
      these, of which the first that matches counts, and None leaves a module as it is. Operands are quantised as a proposal
      says; an instruction alone takes DeepSeek-V3's rules.
    - `variant`, `at`: the variant of a proposal, and the value of its swept field.
    - `engine`: `cpu` or `gpu` (the bit-exact model), `native` (the chip's own instruction), `fp32` (FP32 sums of the quantised
      operands), or `auto`: native where a Hopper GPU has it, else the model.
    - `only`: patterns of the names of modules to replace, such as `*.mlp.*`.
    - `keep`: components in high precision; default: the recipe's, which are DeepSeek-V3's (embedding, head, gating,
      normalisation, attention). Embeddings and norms are always kept.
    - `attention`: True to compute both products of torch's scaled_dot_product_attention on the instruction, too.
    - `frozen`: True if weights will not change: without gradients, they are quantised once.

    Raises InputError for names, patterns and engines that fit nothing; the model is then as before.
    """
    if engine not in ENGINES:
        raise InputError.of(
            f"no engine is called `{engine}`", suggest(engine, ENGINES) or f"one of: {', '.join(ENGINES)}"
        )
    if not isinstance(model, nn.Module):
        raise InputError.of(f"the model is of type {type(model).__name__}", "a torch.nn.Module comes first")
    keep = (keep,) if isinstance(keep, str) else keep
    for wrong in (x for x in keep or () if x not in COMPONENTS):
        raise InputError.of(f"no component is called `{wrong}`", f"`keep` has some of: {', '.join(COMPONENTS)}")
    patterns = [only] if isinstance(only, str) else list(only)
    rules = _Choice(on, variant, at, engine, keep)
    found = Emulation(model)
    replaced: list[Row] = []
    left: list[Row] = []
    seen = _Seen(model)
    planned: list[tuple[str, nn.Module, Rules]] = []
    for name, module in model.named_modules():
        reason = _reason(module, name, seen)
        if reason is None:
            continue  # neither a Linear nor a holder of matrices
        own = rules.of(name)
        if not reason and not any(fnmatchcase(name, p) for p in patterns):
            reason = f"matches none of {', '.join(patterns)}"
        if not reason and own is None:
            reason = "no pattern of `on` matches it"
        if not reason and own is not None and (kept := _component(name, module, seen)) in rules.kept(own):
            reason = f"{kept}, kept in high precision"
        kind = type(module).__name__
        if reason or own is None:
            left.append(Row(name, kind, reason))
            continue
        device = next(module.parameters()).device
        fprop = own.arithmetic.recipe.fprop
        used = engine_of(fprop, engine, device)
        sums = fprop.spec.name if fprop.spec is not None else "FP32 sums"
        replaced.append(Row(name, kind, f"{sums}, engine {used}"))
        planned.append((name, module, own))
    if not planned and not attention:
        raise InputError.of(
            "nothing of the model would be emulated: " + _why(left), "other patterns, or another `keep`"
        )
    shared: dict[str, SharedInput] = {}
    for name, module, own in planned:
        above = name.rpartition(".")[0]
        if above not in shared:
            shared[above] = SharedInput()
            if frozen and name:
                found._restore.append(shared[above].watch(model.get_submodule(above)))
        found._restore.append(_replace(module, own, frozen, shared[above]))
        seen.slow_path(module, found._restore)
    if attention:
        first = rules.of("") or next((own for *_, own in planned), None)
        if first is None:
            raise InputError.of("attention needs an instruction for the pattern `*`")
        found.attention = EmulatedAttention(first.arithmetic)
        found._restore.append(_enter(model, found.attention))
    found.replaced, found.left = tuple(replaced), tuple(left)
    return found


class _Choice:
    """The rules of each module: one for all, or by pattern."""

    def __init__(
        self, on: Any, variant: Variant, at: Value | None, engine: Engine, keep: Sequence[Component] | None
    ) -> None:
        by_pattern = isinstance(on, Mapping) and "base" not in on
        pairs = on.items() if by_pattern else [("*", on)]
        self.keep = keep
        self.rules = [
            (p, None if x is None else Rules(Arithmetic(recipe_on(x, variant, at), engine))) for p, x in pairs
        ]

    def of(self, name: str) -> Rules | None:
        """Return the rules of a module; None to leave it."""
        return next((rules for pattern, rules in self.rules if fnmatchcase(name, pattern)), None)

    def kept(self, own: Rules) -> Sequence[Component]:
        """Return the components in high precision."""
        return own.arithmetic.recipe.high_precision if self.keep is None else self.keep


class _Seen:
    """Facts on a whole model that say what a module is for."""

    def __init__(self, model: nn.Module) -> None:
        head = getattr(model, "get_output_embeddings", lambda: None)()
        tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        self.heads = {id(m) for m in model.modules() if m is head or id(getattr(m, "weight", None)) in tables}
        self.inside: set[int] = set()
        """Modules whose parameters a module above reads itself."""
        self.fast: dict[int, list[nn.Module]] = {}
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                self.inside |= {id(m) for m in module.children()}
            if isinstance(module, nn.TransformerEncoderLayer):
                for m in module.modules():
                    self.fast.setdefault(id(m), []).append(module)

    def slow_path(self, module: nn.Module, restore: list[Callable[[], None]]) -> None:
        """Keep torch's fused encoder layers, which read their parameters past `forward`, from skipping a module."""
        name = "activation_relu_or_gelu"
        for layer in self.fast.get(id(module), []):
            was: Any = getattr(layer, name)
            setattr(layer, name, 0)
            restore.append(lambda layer=layer, was=was: setattr(layer, name, was))  # type: ignore[misc]


def _reason(module: nn.Module, name: str, seen: _Seen) -> str | None:
    """Return why a module cannot be replaced; empty if it can be, None if the report need not name it."""
    own = [p for p in module.parameters(recurse=False) if p.dim() > 1]
    if id(module) in seen.inside or not own:
        return None
    if isinstance(module, nn.Embedding):
        return "embedding, kept in high precision"
    if not isinstance(module, nn.Linear | nn.MultiheadAttention) and type(module).__name__ != "Conv1D":
        return f"not a Linear: {type(module).__name__} has a product of its own"
    if "forward" in module.__dict__:
        return "its forward was replaced on the object, as hooks of accelerate do; emulate the model before"
    if isinstance(module, nn.Linear) and type(module).forward is not nn.Linear.forward:
        return "already emulated" if isinstance(module, _Emulated) else "a Linear with a forward of its own"
    if wrong := [p.dtype for p in own if p.dtype not in TAKEN]:
        wide = wrong[0].is_complex or wrong[0] == torch.float64
        return f"its weight is {wrong[0]}" if wide else "its weight is quantised already"
    if isinstance(module, nn.MultiheadAttention) and (module.bias_k is not None or module.add_zero_attn):
        return "attention with bias_k or add_zero_attn"
    return "already emulated" if isinstance(module, _Emulated) else ""


def _component(name: str, module: nn.Module, seen: _Seen) -> Component | None:
    """Return the component of the kept list that a Linear is; None for other Linears."""
    last = name.rsplit(".", 1)[-1]
    return "head" if id(module) in seen.heads or last in HEADS else "gating" if last in GATES else None


# -- replacement -----------------------------------------------------------------------------------------------------


class _Emulated:
    """Base of the classes of emulated modules."""

    _rules: Rules
    _key: str
    _frozen: Any
    _shared: SharedInput

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the emulated Linear, in the dtype that automatic mixed precision asks for, if it is on."""
        kind = x.device.type
        out = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        if self._frozen is None or torch.is_grad_enabled() or not x.numel():
            return linear(x, weight, bias, self._key, out)
        check(x, weight)
        base = weight if weight._base is None else weight._base
        key = id(base), weight.storage_offset()
        if key not in self._frozen:  # the weight is kept, so that none put in its place has its id
            self._frozen[key] = base, self._rules.arithmetic.weight(weight).reusable()
        (_, kept), flat = self._frozen[key], x.reshape(-1, x.shape[-1])
        y = product(self._shared.cast(self._rules.arithmetic, flat), kept, bias, self._rules, out)
        return y.reshape(*x.shape[:-1], -1)


class _Linear(_Emulated):
    def forward(self, input: Tensor) -> Tensor:
        return self._linear(input, self.weight, self.bias)  # type: ignore[attr-defined]


class _Conv1D(_Emulated):
    """Hugging Face's Conv1D, a Linear whose weight is stored transposed."""

    def forward(self, x: Tensor) -> Tensor:
        return self._linear(x, self.weight.T, self.bias)  # type: ignore[attr-defined]


class _MultiheadAttention(_Emulated):
    """torch's nn.MultiheadAttention, whose own forward reads the weights of its four Linears past any module."""

    def forward(
        self: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        batched = query.dim() == 3
        if batched and not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        if not batched:
            query, key, value = (x[None] for x in (query, key, value))
        weights = (
            self.in_proj_weight.chunk(3)
            if self._qkv_same_embed_dim
            else (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        )
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            self._linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        mask = self._mask(q, k, key_padding_mask, attn_mask, is_causal)
        dropout = self.dropout if self.training else 0.0
        seen = None
        if need_weights:
            scores = q.float() @ k.float().mT * q.shape[-1] ** -0.5
            seen = (scores if mask is None else scores + mask).softmax(-1)
            seen = nn.functional.dropout(seen, dropout)
            o = (seen @ v.float()).to(v.dtype)
            seen = seen.mean(1) if average_attn_weights else seen
        else:
            o = nn.functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        y = self._linear(o.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if not batched:
            return y[0], None if seen is None else seen[0]
        return (y if self.batch_first else y.transpose(0, 1)), seen

    def _mask(
        self: Any, q: Tensor, k: Tensor, padding: Tensor | None, mask: Tensor | None, is_causal: bool
    ) -> Tensor | None:
        """Return both masks as numbers to add to the scores (batch, heads, queries, keys); None without any."""
        total: Tensor | None = None
        if mask is None and is_causal:
            mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).triu(1)
        if mask is not None and mask.dim() == 3:
            mask = mask.view(-1, self.num_heads, *mask.shape[1:])
        if padding is not None:
            padding = padding.view(-1, 1, 1, k.shape[-2])
        for one in (mask, padding):
            if one is not None:
                added = (
                    torch.zeros_like(one, dtype=q.dtype).masked_fill(one, float("-inf"))
                    if (one.dtype == torch.bool)
                    else one.to(q.dtype)
                )
                total = added if total is None else total + added
        return total


@cache
def _class(mixin: type, own: type) -> type:
    """Return the class of emulated modules of a class."""
    return type(f"Emulated{own.__name__}", (mixin, own), {"__module__": __name__})


def _replace(module: nn.Module, rules: Rules, frozen: bool, shared: SharedInput) -> Callable[[], None]:
    """Give a module the emulated forward, and return what undoes it."""
    own: Any = type(module)
    is_attention = isinstance(module, nn.MultiheadAttention)
    mixin = _Linear if isinstance(module, nn.Linear) else _MultiheadAttention if is_attention else _Conv1D
    module.__class__ = _class(mixin, own)
    emulated: Any = module
    emulated._rules, emulated._key, emulated._frozen, emulated._shared = (
        rules,
        rules.key,
        {} if frozen else None,
        shared,
    )

    def undo() -> None:
        module.__class__ = own
        del emulated._rules, emulated._key, emulated._frozen, emulated._shared

    return undo


def _enter(model: nn.Module, mode: EmulatedAttention) -> Callable[[], None]:
    """Let a whole model run in a mode, and return what undoes it."""
    own: Any = type(model)

    @wraps(own.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with mode:
            return own.forward(self, *args, **kwargs)

    model.__class__ = type(own.__name__, (own,), {"forward": forward, "__module__": own.__module__})

    def undo() -> None:
        model.__class__ = own

    return undo


# -- report ----------------------------------------------------------------------------------------------------------


def _why(left: Sequence[Row]) -> str:
    """Return the commonest reason in a clause."""
    reasons = [row.what for row in left]
    return max(set(reasons), key=reasons.count) if reasons else "it has no Linear"


def _lines(found: Emulation) -> Iterator[str]:
    """Yield the report: modules that differ only in their numbers share a line."""
    for title, rows in (("replaced", found.replaced), ("left", found.left)):
        groups: dict[tuple[str, str, str], int] = {}
        for row in rows:
            name = ".".join("*" if part.isdigit() else part for part in row.name.split("."))
            groups[name, row.kind, row.what] = groups.get((name, row.kind, row.what), 0) + 1
        yield f"{title}: {len(rows)} modules"
        yield from (f"  {count:>4} x {name} ({kind}): {what}" for (name, kind, what), count in groups.items())
    if found.attention is not None:
        calls = found.attention.calls
        yield f"attention: both products replaced in {calls} calls of scaled_dot_product_attention" + (
            "" if calls else "; none was seen yet (Hugging Face models need attn_implementation='sdpa')"
        )
