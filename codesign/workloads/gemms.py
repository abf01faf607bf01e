"""GEMM shapes of models by name, and what their operands are in each pass of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any, Literal

from codesign.workloads import tensor_file
from isa_model.diagnostics import InputError, read_yaml, suggest

Role = Literal["activation", "weight", "gradient"]

PASSES: dict[str, tuple[Role, Role]] = {
    "fprop": ("activation", "weight"),
    "dgrad": ("gradient", "weight"),
    "wgrad": ("gradient", "activation"),
}


@dataclass(frozen=True)
class Recorded:
    """Where the tensors of a GEMM lie that were taken from a real model: a file and the names of both matrices in it.

    Activations and gradients are (tokens, features), weights (outputs, inputs).
    """

    file: Path
    a: str
    b: str


@dataclass(frozen=True)
class Gemm:
    """D (m, n) = A (m, k) B (k, n): one GEMM of a model, with what its operands are."""

    name: str
    m: int
    n: int
    k: int
    a: Role
    b: Role
    tokens_along_k: bool
    """In wgrad the sums run over tokens, elsewhere over features."""
    description: str
    recorded: Recorded | None = None
    """Its tensors as captured from the model, if there are any."""


@dataclass(frozen=True)
class Linear:
    """A Linear of a model: n output and k input features; an expert's is one of many of its shape."""

    name: str
    n: int
    k: int
    expert: bool


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: a token goes to `active` of `experts` and to all `shared` ones; they lie on `parallel` GPUs in
    equal parts, and the experts of one token on at most `nodes` nodes."""

    experts: int
    active: int
    parallel: int
    nodes: int
    shared: int = 0


@dataclass(frozen=True)
class Attention:
    """Causal attention: sizes of heads in elements, `rotary` of them rotated, over sequences of so many tokens. With `latent`
    normalised elements a token it is multi-head latent attention, whose keys share one rotary part."""

    heads: int
    kv_heads: int
    qk: int
    v: int
    rotary: int
    sequence: int
    latent: int = 0


@dataclass(frozen=True)
class Model:
    """What a model's layer is made of; `tokens` is how many of them a GPU works on in a step."""

    name: str
    source: str
    tokens: int
    layers: int
    hidden: int
    linears: tuple[Linear, ...]
    experts: Experts | None
    small: bool
    """Whether it is here for the tensors captured from it: too small to fill a GPU."""
    attention: Attention | None = None
    """None for models that are too small to time."""

    @property
    def tokens_of_expert(self) -> int:
        """Tokens that a routed expert gets in a step: an equal part of the choices of as many GPUs as the experts lie on."""
        assert self.experts
        return ceil(self.tokens * self.experts.active * self.experts.parallel / self.experts.experts)


@cache
def _raw() -> dict[str, Any]:
    models: dict[str, Any] = read_yaml(Path(__file__).with_name("models.yaml")).data["models"]
    return models


@cache
def models() -> dict[str, Model]:
    """Every model by name."""
    made = {}
    for name, about in _raw().items():
        linears = tuple(Linear(g, s["n"], s["k"], s.get("expert", False)) for g, s in about["gemms"].items())
        experts = Experts(**about["moe"]) if "moe" in about else None
        attention = Attention(**about["attention"]) if "attention" in about else None
        small = "captured" in about
        made[name] = Model(
            name, about["source"], about["tokens"], about["layers"], linears[0].k, linears, experts, small, attention
        )
    return made


def layer_of(name: str, tokens: int | None = None) -> Model:
    """A model whose layer can be timed, with so many tokens. Raises InputError for a name that is unknown or of none."""
    known = {n: model for n, model in models().items() if not model.small}
    if name not in known:
        what = (
            f"{name} is here for its tensors, and too small to time" if name in models() else f"unknown model `{name}`"
        )
        raise InputError.of(what, suggest(name, known) or f"models: {', '.join(known)}")
    return replace(known[name], tokens=tokens or known[name].tokens)


@cache
def gemms() -> dict[str, Gemm]:
    """Every GEMM by name, `model.pass.gemm`."""
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
                # The sums of an expert's wgrad run over the tokens it gets; how many rows fprop and dgrad have changes none.
                routed = gemm.get("expert") and step == "wgrad"
                tokens = models()[model].tokens_of_expert if routed else about["tokens"]
                result[full] = _gemm(full, step, tokens, gemm["n"], gemm["k"], gemm["is"], recorded)
    return result


def sent(gemm: Gemm) -> frozenset[Role] | None:
    """Return the roles of a GEMM's tensors that are sent to its GPU: the input of a routed expert's first Linear, the
    gradient of its last one's output. None for a model without experts, and for a layer of the author's own."""
    model, _, linear = (*gemm.name.split("."), "", "")[:3]
    about = models().get(model)
    if about is None or about.experts is None:
        return None
    found = next(x for x in about.linears if x.name == linear)
    roles: tuple[tuple[Role, int], ...] = (("activation", found.k), ("gradient", found.n))
    return frozenset(role for role, size in roles if found.expert and size == about.hidden)


def _gemm(name: str, step: str, tokens: int, out: int, inner: int, about: str, recorded: Recorded | None) -> Gemm:
    m, n, k = {"fprop": (tokens, out, inner), "dgrad": (tokens, inner, out), "wgrad": (out, inner, tokens)}[step]
    return Gemm(name, m, n, k, *PASSES[step], step == "wgrad", about, recorded)


def own(name: str, file: Path, keys: Mapping[str, str | None]) -> dict[str, Gemm]:
    """The GEMMs of a Linear whose tensors lie in a user's file: `keys` names them by role; a pass needs both of its own.

    Raises InputError when the file, a tensor, or the agreement of their shapes is missing.
    """
    shapes = {role: tensor_file.entry(file, key).shape for role, key in keys.items() if key}
    tokens = _same(file, keys, [(shapes[r][0], r) for r in ("activation", "gradient") if r in shapes], "tokens (rows)")
    out = _same(
        file,
        keys,
        [(shapes[r][axis], r) for r, axis in (("weight", 0), ("gradient", 1)) if r in shapes],
        "output features (rows of the weight, columns of the gradient)",
    )
    inner = _same(
        file,
        keys,
        [(shapes[r][1], r) for r in ("weight", "activation") if r in shapes],
        "input features (columns)",
    )
    made = {}
    for step, (a, b) in PASSES.items():
        if (key_a := keys.get(a)) and (key_b := keys.get(b)):
            recorded = Recorded(file, key_a, key_b)
            made[f"{name}.{step}"] = _gemm(f"{name}.{step}", step, tokens, out, inner, "a layer of your own", recorded)
    return made


def _same(file: Path, keys: Mapping[str, str | None], sizes: list[tuple[int, str]], what: str) -> int:
    if len({size for size, _ in sizes}) > 1:
        words = " and ".join(f"{size} in the {role} `{keys[role]}`" for size, role in sizes)
        raise InputError.of(f"the tensors of {file} do not belong together: {words}", f"the same number of {what}")
    return sizes[0][0] if sizes else 0


def workloads() -> list[str]:
    """Names a proposal can use: a model, a pass of it, or one GEMM of that."""
    return _names(gemms())


def _names(known: Iterable[str]) -> list[str]:
    names: dict[str, None] = {}
    for name in known:
        parts = name.split(".")
        names |= dict.fromkeys(".".join(parts[:i]) for i in range(1, len(parts) + 1))
    return list(names)


def select(workload: str, more: Mapping[str, Gemm] | None = None) -> list[Gemm]:
    """The GEMMs a workload name stands for, among those of models and `more`. Raises InputError for an unknown one."""
    known = {**gemms(), **(more or {})}
    chosen = [g for name, g in known.items() if name == workload or name.startswith(f"{workload}.")]
    if not chosen:
        raise InputError.of(
            f"unknown workload `{workload}`", suggest(workload, _names(known)) or "`codesign list workloads` shows all"
        )
    return chosen


def model_source(workload: str) -> str:
    """Where the shapes of a workload's model come from."""
    about = models().get(workload.split(".")[0])
    return about.source if about else f"{workload.split('.')[0]}: the user's own tensors"
