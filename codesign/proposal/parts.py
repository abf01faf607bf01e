"""The parts of a proposal: claims, the software baseline, paths, sweeps, layers, and names that must exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from codesign.figures.metric import metric_named, metrics
from codesign.proposal.baselines import baselines
from codesign.proposal.quantisation import Quantisation
from codesign.workloads.gemms import select
from codesign.workloads.tensors import SOURCES
from isa_model.diagnostics import InputError, at, suggest
from isa_model.library import raw
from isa_model.path import Steps
from isa_model.stage import Spec

MOST = 256
"""Entries that a list of a proposal can have."""


def _few(value: Any) -> Any:
    """Refuse a long list before its entries are looked at."""
    if isinstance(value, list) and len(value) > MOST:
        raise at(message=f"needs at most {MOST} entries, got {len(value)}")
    return value


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise at(message=f"`{str(value).lower()}` is no number", hint="a number, such as 0.01")
    return value


Few = BeforeValidator(_few)
"""Validator of a list: at most `MOST` entries."""
Number = Annotated[float, BeforeValidator(_no_boolean), Field(allow_inf_nan=False)]
"""A finite number; `true` and `false` are none."""
Value = Annotated[int | float | str, BeforeValidator(_no_boolean)]
"""A value that a sweep can give to a field."""


def _once(values: Sequence[Any]) -> Sequence[Any]:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise at(i, message=f"`{value}` is there twice", hint="leave one out")
    return values


Once = AfterValidator(_once)
"""Validator of a list: no entry appears twice."""


def _known(kind: str, names: Any) -> Any:
    def check(name: str) -> str:
        known = names()
        if name not in known:
            hint = suggest(name, known) or f"one of: {', '.join(known)}"
            raise PydanticCustomError("unknown", "{text}", {"text": f"unknown {kind} `{name}`", "hint": hint})
        return name

    return AfterValidator(check)


def _found(look_up: Callable[[str], Any]) -> Any:
    """A validator of names by what finds them and raises InputError for an unknown one."""

    def check(name: str) -> str:
        try:
            look_up(name)
        except InputError as error:
            problem = error.problems[0]
            raise PydanticCustomError("unknown", "{text}", {"text": problem.message, "hint": problem.hint}) from None
        return name

    return AfterValidator(check)


def _workload(name: str, info: ValidationInfo) -> str:
    """A workload of a model, or one of the proposal's own layers: the context's `layers`, else those validated before."""
    layers = (info.context or {}).get("layers") or info.data.get("layers") or ()
    if name.split(".")[0] not in layers:
        _found(select).func(name)
    return name


WorkloadName = Annotated[str, AfterValidator(_workload)]
SourceName = Annotated[str, _known("tensor source", lambda: list(SOURCES))]
MetricName = Annotated[str, _known("metric", lambda: list(metrics()))]
BaseName = Annotated[str, _found(raw)]
OWN_VARIANTS = ("today", "software", "proposal", "exact")
Variant = Annotated[str, _known("variant", lambda: [*OWN_VARIANTS, *baselines()])]
"""today, software, proposal, exact, or another baseline of the base by name."""
AsBaseline = Literal["baseline"]
"""As the baseline has it."""


class Claim(Spec):
    """A bound on a metric, judged at the worst GEMM and tensor source it covers."""

    metric: MetricName
    """What is bounded; `codesign list metrics` explains each."""
    at_most: Number | None = None
    """Upper bound; of the magnitude, where the metric has a sign."""
    at_least: Number | None = None
    """Lower bound."""
    workload: str | None = None
    """Only these GEMMs; default: all of the proposal's workloads."""
    tensors: SourceName | None = None
    """Only this tensor source; default: all of the proposal's."""
    of: Variant = "proposal"
    """Whose figure: today's instruction alone, today's software, the proposal, an exact accumulator, or a baseline by name."""
    relative_to: Variant | None = None
    """Bound the ratio to this variant's figure instead of the figure itself; of dB and loss gaps, the difference."""
    at: Value | None = None
    """Only this value of the swept field; default: the proposal's own."""
    source: str = ""
    """Who says so and where; empty: the proposal's author."""

    @model_validator(mode="after")
    def _bounded(self) -> Claim:
        metric = metric_named(self.metric)
        if self.at_most is None and self.at_least is None:
            raise at(message="a claim needs a bound", hint="`at_most: 0.1` or `at_least: 0.1`, with a number of yours")
        if self.at_most is not None and self.at_least is not None and self.at_least > self.at_most:
            raise at("at_least", message=f"at_least {self.at_least:g} is above at_most {self.at_most:g}")
        by_size = metric.signed or (self.relative_to is not None and metric.comparison == "ratio")
        mirrored = metric.signed and self.relative_to is None and self.at_least == -(self.at_most or 0.0)
        for name, bound in (("at_most", self.at_most), ("at_least", self.at_least)):
            if by_size and bound is not None and bound < 0 and not (name == "at_least" and mirrored):
                what = "a ratio of magnitudes" if self.relative_to else "its magnitude"
                raise at(
                    name,
                    message=f"`{self.metric}` is judged by {what}, which is never below zero",
                    hint=f"at_most: {abs(bound):g} bounds it on both sides",
                )
        return self

    @model_validator(mode="after")
    def _sensible(self) -> Claim:
        """What the metric has no figure of cannot be claimed."""
        metric = metric_named(self.metric)
        if self.relative_to == self.of:
            raise at("relative_to", message=f"`{self.of}` relative to itself is always 1")
        known = f"variants that have one: {', '.join(metric.variants)}"
        has = (*metric.variants, *(baselines() if metric.baselines else ()))
        if self.of not in has:
            raise at("of", message=f"`{self.metric}` has no figure of `{self.of}`", hint=known)
        if self.relative_to and metric.comparison == "none":
            raise at(
                "relative_to",
                message=f"`{self.metric}` compares with today already, or with nothing",
                hint="leave `relative_to` out and bound the figure itself",
            )
        if self.relative_to and self.relative_to not in has:
            raise at("relative_to", message=f"`{self.metric}` has no figure of `{self.relative_to}`", hint=known)
        if self.tensors and not metric.by_tensors:
            raise at("tensors", message=f"`{self.metric}` does not depend on tensors", hint="leave `tensors` out")
        if self.workload and not metric.by_gemm:
            raise at("workload", message=f"`{self.metric}` is not of a workload", hint="leave `workload` out")
        if self.at is not None and (self.of != "proposal" or metric.of_layer or not metric.swept):
            what = f"`{self.metric}`" if self.of == "proposal" else f"`{self.of}`"
            raise at("at", message=f"{what} has no figure for each swept value", hint="leave `at` out")
        return self


class Software(Spec):
    """Today's way around the missing hardware: a baseline by name, with what differs from it.

    A name alone, as in `software: transformer-engine`, is that baseline as it is.
    """

    baseline: Annotated[str, _known("baseline", lambda: list(baselines()))] | None = None
    """Which library or recipe (`docs/baselines.md`); default: the first that fits the base."""
    promote_every: PositiveInt | AsBaseline | None = "baseline"
    """Products summed by the instruction before they are promoted to FP32 on CUDA cores; null: all of K."""
    group: PositiveInt | AsBaseline | None = "baseline"
    """Elements of K that share an FP32 scale, multiplied in at promotion; null: one scale for a whole tensor."""
    quantisation: Quantisation | None = None
    """How its operands are quantised, where other than in the baseline."""
    path: Steps = ()
    """What today's software does with the tensors of the proposal's `path`; none: they stay BF16."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"baseline": value} if isinstance(value, str) else value


class Path(Spec):
    """What becomes of tensors on their way to the Tensor Core, or to another GPU."""

    operands: Annotated[tuple[Literal["activation", "gradient"], ...], Once] = Field(min_length=1)
    """Which tensors: activations, gradients. Weights are cast once per optimizer step, and not on the way."""
    steps: Steps = Field(min_length=1)
    """The casts on the way, in order."""


class Training(Spec):
    """How a model is trained on the proposed instruction: a recipe with all its GEMMs on it."""

    recipe: str = "deepseek-v3"
    """Whose rules: a recipe's name (`codesign list recipes`) or file."""
    change: dict[str, Any] = Field(default_factory=dict)
    """Rules that differ, as a merge."""


class Sweep(Spec):
    """A family of proposals: one field of the instruction that takes several values."""

    field: str
    """Path of the field in the instruction, such as stages.fuse.fraction_bits."""
    values: Annotated[tuple[Value, ...], Few, Once] = Field(min_length=2, max_length=MOST)
    """Values it takes, in the order of the plots."""


def _tensor_file(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    if suffix in ("npz", "safetensors") and stem:
        return name
    what = f".{suffix} files are not read" if dot else f"`{name}` has no suffix"
    how = "numpy.savez makes it" if suffix == "npy" else "with the tensors in BF16, FP16 or FP32"
    hint = f"write `{stem or suffix}.{'npz' if suffix == 'npy' else 'safetensors'}`: {how}"
    raise at(message=f"{what}: a layer's tensors lie in a .npz or .safetensors file", hint=hint)


class Layer(Spec):
    """A Linear whose tensors the author has: matrices in one file, a pass of training for each two that are given."""

    file: Annotated[str, AfterValidator(_tensor_file)]
    """A .npz or .safetensors file; a relative path starts at the proposal."""
    activation: str | None = None
    """Name of the input in the file: (tokens, input features)."""
    weight: str | None = None
    """Name of the weight: (output features, input features)."""
    gradient: str | None = None
    """Name of the gradient of the output: (tokens, output features)."""

    @model_validator(mode="after")
    def _enough(self) -> Layer:
        if sum(key is not None for key in (self.activation, self.weight, self.gradient)) < 2:
            raise at(
                message="a GEMM takes two tensors",
                hint="activation and weight (fprop), gradient and weight (dgrad), gradient and activation (wgrad)",
            )
        return self
