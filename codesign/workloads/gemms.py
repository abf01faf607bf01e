"""GEMM shapes of models by name, with the roles of their operands in each training pass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any, Literal

from isa_model.cast import Cast
from isa_model.diagnostics import InputError, read_yaml, suggest

Role = Literal["activation", "weight", "gradient"]
"""Role of an operand in training."""

Inputs = Literal["bf16", "fp32"]
"""Format of tensors before they are quantised."""

PASSES: dict[str, tuple[Role, Role]] = {
    "fprop": ("activation", "weight"),
    "dgrad": ("gradient", "weight"),
    "wgrad": ("gradient", "activation"),
}
"""Roles of A and B, by pass."""


@dataclass(frozen=True)
class Recorded:
    """Tensors of a GEMM that were captured from a model: a file and the names of A and B in it.

    Activations and gradients are (tokens, features), weights (outputs, inputs).
    """

    file: Path
    a: str
    b: str


@dataclass(frozen=True)
class Gemm:
    """A GEMM of a model, D (m, n) = A (m, k) B (k, n), with the roles of its operands."""

    name: str
    m: int
    n: int
    k: int
    a: Role
    b: Role
    tokens_along_k: bool
    """True if K is the tokens, as in wgrad, false if it is features."""
    description: str
    recorded: Recorded | None = None
    """Captured tensors; None if there are none."""
    batch: int = 1
    """Number of GEMMs of this shape in one launch."""
    weights: Cast | None = None
    """Cast that the weights went through before any GEMM takes them, with groups (lines of B, elements of K); None: none."""
    inputs: Inputs = "bf16"
    """Format of both tensors before any cast. D leaves in it, too, in wgrad always in FP32."""

    @property
    def output(self) -> Inputs:
        """Format in which D leaves the GEMM."""
        return "fp32" if self.tokens_along_k else self.inputs


@dataclass(frozen=True)
class Linear:
    """A Linear of a model with n output and k input features, or that of each expert."""

    name: str
    n: int
    k: int
    expert: bool


@dataclass(frozen=True)
class ExpertCounts:
    """Numbers of a mixture of experts."""

    experts: int
    """Routed experts."""
    active: int
    """Routed experts per token."""
    parallel: int
    """GPUs that share the routed experts equally."""
    nodes: int
    """Largest number of nodes with experts of one token."""
    shared: int = 0
    """Shared experts, which process every token."""


@dataclass(frozen=True)
class Attention:
    """Sizes of causal attention."""

    heads: int
    kv_heads: int
    qk: int
    """Elements of a query or key."""
    v: int
    """Elements of a value."""
    rotary: int
    """Elements of a query or key that are rotated."""
    sequence: int
    """Tokens of a sequence."""
    latent: int = 0
    """Normalised latent elements per token of multi-head latent attention, whose keys share one rotary part; else 0."""


@dataclass(frozen=True)
class Model:
    """A model, described by one layer."""

    name: str
    source: str
    """Public source of the sizes."""
    tokens: int
    """Tokens per GPU and step."""
    layers: int
    hidden: int
    linears: tuple[Linear, ...]
    experts: ExpertCounts | None
    small: bool
    """True if the model only provides captured tensors, and is too small to fill a GPU."""
    attention: Attention | None = None
    """Attention; None for small models."""

    @property
    def tokens_of_expert(self) -> int:
        """Tokens of a routed expert per step, if the choices of all GPUs are balanced."""
        assert self.experts
        return ceil(self.tokens * self.experts.active * self.experts.parallel / self.experts.experts)


@cache
def _raw() -> dict[str, Any]:
    """Return the data of models.yaml."""
    models: dict[str, Any] = read_yaml(Path(__file__).with_name("models.yaml")).data["models"]
    return models


@cache
def models() -> dict[str, Model]:
    """Return all models by name."""
    made = {}
    for name, about in _raw().items():
        linears = tuple(Linear(g, s["n"], s["k"], s.get("expert", False)) for g, s in about["gemms"].items())
        experts = ExpertCounts(**about["moe"]) if "moe" in about else None
        attention = Attention(**about["attention"]) if "attention" in about else None
        small = "captured" in about
        made[name] = Model(
            name, about["source"], about["tokens"], about["layers"], linears[0].k, linears, experts, small, attention
        )
    return made


def layer_of(name: str, tokens: int | None = None) -> Model:
    """Return a model whose layer can be timed, with `tokens` tokens unless None. Raises InputError for any other name."""
    known = {n: model for n, model in models().items() if not model.small}
    if name not in known:
        what = (
            f"{name} only provides tensors, and is too small to time" if name in models() else f"unknown model `{name}`"
        )
        raise InputError.of(what, suggest(name, known) or f"models: {', '.join(known)}")
    return replace(known[name], tokens=tokens or known[name].tokens)


@cache
def gemms() -> dict[str, Gemm]:
    """Return all GEMMs by name, `model.pass.gemm`."""
    result = {}
    for model, about in _raw().items():
        captured = about.get("captured", {"gemms": []})
        for step, roles in PASSES.items():
            for name, gemm in about["gemms"].items():
                recorded = None
                if name in captured["gemms"]:
                    a, b = (f"{name}/{step}/{role}" for role in roles)
                    recorded = Recorded(Path(__file__).parent / captured["file"], a, b)
                full = f"{model}.{step}.{name}"
                # K of an expert's wgrad is the tokens it gets. In fprop and dgrad, their number does not affect sums.
                routed = gemm.get("expert") and step == "wgrad"
                tokens = models()[model].tokens_of_expert if routed else about["tokens"]
                result[full] = _gemm(full, step, tokens, gemm["n"], gemm["k"], gemm["is"], recorded)
    return result


def sent(gemm: Gemm) -> frozenset[Role] | None:
    """Return the roles of a GEMM's tensors that are sent to a routed expert: the layer's input, the gradient of its output.

    None for a model without experts, and for a layer of a proposal.
    """
    model, _, linear = (*gemm.name.split("."), "", "")[:3]
    about = models().get(model)
    if about is None or about.experts is None:
        return None
    found = next(x for x in about.linears if x.name == linear)
    roles: tuple[tuple[Role, int], ...] = (("activation", found.k), ("gradient", found.n))
    return frozenset(role for role, size in roles if found.expert and size == about.hidden)


def shape_of(step: str, tokens: int, out: int, inner: int) -> tuple[int, int, int]:
    """Return (m, n, k) of a pass's GEMM, for a Linear with `out` output and `inner` input features."""
    return {"fprop": (tokens, out, inner), "dgrad": (tokens, inner, out), "wgrad": (out, inner, tokens)}[step]


def _gemm(name: str, step: str, tokens: int, out: int, inner: int, about: str, recorded: Recorded | None) -> Gemm:
    return Gemm(name, *shape_of(step, tokens, out, inner), *PASSES[step], step == "wgrad", about, recorded)


def own(name: str, file: Path, keys: Mapping[str, str | None]) -> dict[str, Gemm]:
    """Return the GEMMs of a Linear with tensors in a user's file, named `keys` by role; a pass needs both of its operands.

    Raises InputError if the file or a tensor is missing, or if shapes do not agree.
    """
    from codesign.workloads import tensor_file

    shapes = {role: tensor_file.entry(file, key).shape for role, key in keys.items() if key}

    def same(axes: Mapping[str, int], what: str) -> int:
        """Return the size that the given axes of several tensors have. Raises InputError if it is not the same."""
        sizes = {role: shapes[role][axis] for role, axis in axes.items() if role in shapes}
        if len(set(sizes.values())) > 1:
            words = " and ".join(f"{size} in the {role} `{keys[role]}`" for role, size in sizes.items())
            raise InputError.of(f"the tensors of {file} do not agree: {words}", f"the same number of {what}")
        return next(iter(sizes.values()), 0)

    tokens = same({"activation": 0, "gradient": 0}, "tokens (rows)")
    out = same({"weight": 0, "gradient": 1}, "output features (rows of the weight, columns of the gradient)")
    inner = same({"weight": 1, "activation": 1}, "input features (columns)")
    made = {}
    for step, (a, b) in PASSES.items():
        if (key_a := keys.get(a)) and (key_b := keys.get(b)):
            recorded = Recorded(file, key_a, key_b)
            made[f"{name}.{step}"] = _gemm(f"{name}.{step}", step, tokens, out, inner, "a layer of your own", recorded)
    return made


MOST_SIZE = 1 << 20
"""Largest m, n, k or batch of a GEMM by its shape."""
_SHAPE = re.compile(r"gemm\.(fprop|dgrad|wgrad)\.(?:([1-9]\d{0,6})x)?([1-9]\d{0,6})x([1-9]\d{0,6})x([1-9]\d{0,6})")


def shaped(m: int, n: int, k: int, step: str = "fprop", batch: int = 1) -> str:
    """Return the name of a GEMM by its shape, with the operands of a training pass."""
    return f"gemm.{step}.{f'{batch}x' if batch > 1 else ''}{m}x{n}x{k}"


def _of_shape(name: str) -> Gemm | None:
    """Return the GEMM that a name of `shaped` means; None for another name."""
    match = _SHAPE.fullmatch(name)
    if match is None:
        return None
    step, *sizes = match.groups(default="1")
    batch, m, n, k = map(int, sizes)
    if max(batch, m, n, k) > MOST_SIZE:
        raise InputError.of(f"`{name}` is too large", f"sizes up to {MOST_SIZE}")
    return Gemm(name, m, n, k, *PASSES[step], step == "wgrad", "a shape of your own", batch=batch)


def workloads() -> list[str]:
    """Return the names of workloads: models, their passes, and single GEMMs."""
    return _names(gemms())


def _names(known: Iterable[str]) -> list[str]:
    names: dict[str, None] = {}
    for name in known:
        parts = name.split(".")
        names |= dict.fromkeys(".".join(parts[:i]) for i in range(1, len(parts) + 1))
    return list(names)


def select(workload: str, more: Mapping[str, Gemm] | None = None) -> list[Gemm]:
    """Return the GEMMs of a workload, among those of models and `more`. Raises InputError for an unknown name."""
    if own := _of_shape(workload):
        return [own]
    known = {**gemms(), **(more or {})}
    chosen = [g for name, g in known.items() if name == workload or name.startswith(f"{workload}.")]
    if not chosen:
        raise InputError.of(
            f"unknown workload `{workload}`", suggest(workload, _names(known)) or "`codesign list workloads` shows all"
        )
    return chosen


def model_source(workload: str) -> str:
    """Return the source of the shapes of a workload's model."""
    about = models().get(workload.split(".")[0])
    if about is None and _of_shape(workload):
        return "the proposal's own"
    return about.source if about else f"{workload.split('.')[0]}: the user's own tensors"
