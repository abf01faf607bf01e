"""Parts of a proposal: claims, the software baseline, operand paths, sweeps, layers, and the names they refer to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from codesign.figures.metric import metric_named, metrics
from codesign.proposal.baselines import baselines
from codesign.proposal.quantisation import Quantisation
from codesign.workloads.gemms import MOST_SIZE, PASSES, select, shaped
from codesign.workloads.tensors import SOURCES
from isa_model.diagnostics import InputError, at, suggest, together
from isa_model.formats import later
from isa_model.library import raw
from isa_model.path import Steps
from isa_model.printable import visible
from isa_model.stage import Spec

MOST = 256
"""Largest number of entries in a list of a proposal."""


def _few(value: Any) -> Any:
    """Refuse a long list before its entries are validated."""
    if isinstance(value, list) and len(value) > MOST:
        raise at(message=f"needs at most {MOST} entries, got {len(value)}")
    return value


Few = BeforeValidator(_few)
"""Validator of a list of at most `MOST` entries."""
Number = Annotated[float, Field(allow_inf_nan=False)]
"""A finite number."""
Rate = Annotated[float, Field(gt=0, le=64, allow_inf_nan=False)]
"""A rate relative to another."""
Value = int | float | str
"""A value of a swept field."""


def _once(values: Sequence[Any]) -> Sequence[Any]:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise at(i, message=f"`{value}` appears twice", hint="remove one of them")
    return values


Once = AfterValidator(_once)
"""Validator of a list without repeated entries."""


def _known(kind: str, names: Callable[[], Sequence[str]]) -> Any:
    """Return a validator of names from a list."""

    def check(name: str) -> str:
        known = names()
        if name not in known:
            hint = suggest(name, known) or f"one of: {', '.join(known)}"
            raise PydanticCustomError("unknown", "{text}", {"text": f"unknown {kind} `{name}`", "hint": hint})
        return name

    return AfterValidator(check)


def _found(look_up: Callable[[str], Any]) -> Any:
    """Return a validator of names that `look_up` accepts; it raises InputError for an unknown name."""

    def check(name: str) -> str:
        try:
            look_up(name)
        except InputError as error:
            problem = error.problems[0]
            raise PydanticCustomError("unknown", "{text}", {"text": problem.message, "hint": problem.hint}) from None
        return name

    return AfterValidator(check)


def _workload(name: str, info: ValidationInfo) -> str:
    """Accept a workload of a model or of one of the proposal's layers, which are in the context or validated before."""
    layers = (info.context or {}).get("layers") or info.data.get("layers") or ()
    if name.split(".")[0] not in layers:
        _found(select).func(name)
    return name


def by_name(value: Any) -> Any:
    """Return the name of a GEMM that is given by its shape; other values as they are."""
    if not isinstance(value, dict):
        return value
    faults = [
        at(key, message=f"a GEMM has no `{key}`", hint=suggest(str(key), _SHAPE) or f"fields: {', '.join(_SHAPE)}")
        for key in value
        if key not in _SHAPE
    ]
    for key in ("m", "n", "k", "batch"):
        size = value.get(key, 1 if key == "batch" else None)
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MOST_SIZE:
            path = (key,) if key in value else ()
            faults.append(at(*path, message=f"a GEMM needs `{key}`, a whole number of 1 to {MOST_SIZE}"))
    if value.get("pass", "fprop") not in PASSES:
        faults.append(at("pass", message=f"unknown pass `{value['pass']}`", hint=f"one of: {', '.join(PASSES)}"))
    if faults:
        raise together(faults)
    return shaped(value["m"], value["n"], value["k"], value.get("pass", "fprop"), value.get("batch", 1))


_SHAPE = ("m", "n", "k", "batch", "pass")
"""Fields of a GEMM by its shape."""


def _base(name: str) -> None:
    """Raise InputError unless a name is of an instruction that tensors can be quantised for."""
    spec = raw(name)
    if "uint1" in (spec["a"], spec["b"]):
        raise InputError.of(
            f"`{name}` multiplies single bits, to which no tensor is quantised", "a base of 4 bits or more"
        )


def _gpus() -> list[str]:
    """Return the GPUs with a record of the bench. The kernels import numpy, which a proposal without `gpu` does not need."""
    from kernels.bench.records import load

    return list(dict.fromkeys(record.gpu for record in load()))


WorkloadName = Annotated[
    str,
    BeforeValidator(by_name),
    AfterValidator(_workload),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {
                        **{
                            key: {"type": "integer", "minimum": 1, "maximum": MOST_SIZE}
                            for key in ("m", "n", "k", "batch")
                        },
                        "pass": {"enum": list(PASSES)},
                    },
                    "required": ["m", "n", "k"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
"""A workload by name, or a GEMM by its shape, which becomes its name."""
SourceName = Annotated[str, _known("tensor source", lambda: list(SOURCES))]
MetricName = Annotated[str, _known("metric", lambda: list(metrics()))]
BaseName = Annotated[str, _found(_base)]
GpuName = Annotated[str, _known("GPU", _gpus)]
"""Name of a GPU with a record of the bench."""
OWN_VARIANTS = ("today", "software", "proposal", "exact")
Variant = Annotated[str, _known("variant", lambda: [*OWN_VARIANTS, *baselines()])]
"""Name of a compared variant: today, software, proposal, exact, or another baseline of the base."""
AsBaseline = Literal["baseline"]
"""Marks a field whose value is that of the baseline."""


class Claim(Spec):
    """A bound on a metric, judged at the worst case among the GEMMs and tensor sources it covers."""

    metric: MetricName
    """Metric that is bounded; `codesign list metrics` explains each."""
    at_most: Number | None = None
    """Upper bound, in the metric's unit. It bounds the magnitude of a metric that has a sign."""
    at_least: Number | None = None
    """Lower bound, in the metric's unit."""
    workload: Annotated[str, BeforeValidator(by_name)] | None = None
    """Workload to which the claim is limited; default: all workloads of the proposal."""
    tensors: SourceName | None = None
    """Tensor source to which the claim is limited; default: all tensor sources of the proposal."""
    of: Variant = "proposal"
    """Variant that is measured: `today` (the base alone), `software`, `proposal`, `exact` (exact sums), or a baseline."""
    relative_to: Variant | None = None
    """Variant to compare with: the bound is on the ratio to its figure, or on the difference for dB and loss gaps."""
    at: Value | None = None
    """Value of the swept field at which the claim holds; default: the value in `change` or the base."""
    source: str = ""
    """Author and place of the claim; empty: the proposal's author."""

    @model_validator(mode="after")
    def _bounded(self) -> Claim:
        metric = metric_named(self.metric)
        self._has_bound()
        if self.at_most is not None and self.at_least is not None and self.at_least > self.at_most:
            raise at("at_least", message=f"at_least {self.at_least:g} is above at_most {self.at_most:g}")
        sized = metric.comparison != "difference"  # decibels and loss gaps may be below zero
        mirrored = metric.signed and self.relative_to is None and self.at_least == -(self.at_most or 0.0)
        for name, bound in (("at_most", self.at_most), ("at_least", self.at_least)):
            if sized and bound is not None and bound < 0 and not (name == "at_least" and mirrored):
                what, hint = "is never below zero", f"a bound above zero, such as {abs(bound):g}"
                if self.relative_to or metric.signed:
                    judged = "a ratio of magnitudes" if self.relative_to else "its magnitude"
                    what, hint = (
                        f"is judged by {judged}, which {what}",
                        f"at_most: {abs(bound):g} bounds it on both sides",
                    )
                raise at(name, message=f"`{self.metric}` {what}", hint=hint)
            if metric.share and bound is not None and bound > 1 and self.relative_to is None:
                percent = f"{name}: {bound / 100:g} is {bound:g} %" if bound <= 100 else "a bound from 0 to 1"
                raise at(name, message=f"`{self.metric}` is a share, which is never above 1", hint=percent)
        return self

    def _has_bound(self) -> None:
        """Refuse a claim without a bound."""
        if self.at_most is None and self.at_least is None:
            raise at(message="a claim needs a bound", hint="`at_most: 0.1` or `at_least: 0.1`, for instance")

    @model_validator(mode="after")
    def _sensible(self) -> Claim:
        """Refuse claims for which the metric has no figure."""
        metric = metric_named(self.metric)
        if self.relative_to == self.of:
            raise at("relative_to", message=f"`{self.of}` relative to itself is always 1")
        known = f"variants with a figure: {', '.join(metric.variants)}"
        has = (*metric.variants, *(baselines() if metric.baselines else ()))
        if self.of not in has:
            raise at("of", message=f"`{self.metric}` has no figure of `{self.of}`", hint=known)
        if self.relative_to and metric.comparison == "none":
            raise at(
                "relative_to",
                message=f"`{self.metric}` is already relative to today, or cannot be compared",
                hint="leave `relative_to` out and bound the figure itself",
            )
        if self.relative_to and self.relative_to not in has:
            raise at("relative_to", message=f"`{self.metric}` has no figure of `{self.relative_to}`", hint=known)
        if self.tensors and not metric.by_tensors:
            raise at("tensors", message=f"`{self.metric}` does not depend on tensors", hint="leave `tensors` out")
        if self.workload and not metric.by_gemm:
            raise at(
                "workload", message=f"`{self.metric}` does not depend on the workload", hint="leave `workload` out"
            )
        if self.at is not None and (self.of != "proposal" or metric.of_layer or not metric.swept):
            what = f"`{self.metric}`" if self.of == "proposal" else f"`{self.of}`"
            raise at("at", message=f"{what} has no figure for each swept value", hint="leave `at` out")
        return self


class Software(Spec):
    """Today's software solution, which the proposal would replace: a baseline and the fields that differ from it.

    A name alone selects a baseline unchanged: `software: transformer-engine`.
    """

    baseline: Annotated[str, _known("baseline", lambda: list(baselines()))] | None = None
    """Library or recipe by name (`docs/baselines.md`); default: the first one that fits the base."""
    promote_every: PositiveInt | AsBaseline | None = "baseline"
    """Products along K that the instruction sums before promotion to FP32 on CUDA cores; null: all of K."""
    group: PositiveInt | AsBaseline | None = "baseline"
    """Elements along K that share an FP32 scale, applied at promotion; null: one scale for the whole tensor."""
    split_k: bool = later(True)
    """False if no kernel splits K over CTAs, so that the bits of a row do not depend on the rows beside it. It affects times
    alone."""
    quantisation: Quantisation | None = None
    """Quantisation rules that differ from the baseline's."""
    path: Steps = ()
    """Casts that today's software applies to the tensors of the proposal's `path`; empty: they stay BF16."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"baseline": value} if isinstance(value, str) else value


class OperandPath(Spec):
    """Casts that tensors pass through on their way to the Tensor Core or to another GPU."""

    operands: Annotated[tuple[Literal["activation", "gradient"], ...], Once] = Field(min_length=1)
    """Tensors on the path. Weights are not allowed: they are cast once per optimizer step."""
    steps: Steps = Field(min_length=1)
    """Casts on the path, in order."""


class Training(Spec):
    """Training of a model whose GEMMs all run on the proposed instruction."""

    recipe: str = "deepseek-v3"
    """Training recipe: a name (`codesign list recipes`) or a file."""
    change: dict[str, Any] = Field(default_factory=dict)
    """Fields of the recipe that differ; mappings merge, other values replace, null removes."""


class Sweep(Spec):
    """Variants of the instruction, which make the proposal a family: one field's values, or named changes of any fields."""

    field: str | None = None
    """Dotted path of one field in the instruction, such as `stages.fuse.fraction_bits`; it takes `values`."""
    values: Annotated[tuple[Value, ...], Few, Once] = ()
    """Values of the field, in the order of plots."""
    changes: dict[Value, dict[str, Any]] = Field(default_factory=dict, max_length=MOST)
    """Changes by name, in the order of plots, each merged into the instruction as `change` is: fields that move together, lists
    and mappings. In place of `field` and `values`."""
    across: Sweep | None = None
    """Second sweep: every variant of this one is combined with every variant of it, under both names, such as `17, e5m2`."""

    @property
    def points(self) -> dict[Value, tuple[dict[str, Any], ...]]:
        """Changes of the instruction, made in order, by the name of the variant: the value of the field if there is one."""
        own: dict[Value, tuple[dict[str, Any], ...]] = {name: (change,) for name, change in self.changes.items()}
        for value in self.values:
            change: Any = value
            for step in reversed((self.field or "").split(".")):
                change = {step: change}
            own[value] = (change,)
        if self.across is None:
            return own
        return {f"{x}, {y}": (*a, *b) for x, a in own.items() for y, b in self.across.points.items()}

    @property
    def about(self) -> str:
        """What is swept, in words."""
        return " and ".join(dict.fromkeys([self.field or "change", *([self.across.about] if self.across else [])]))

    @model_validator(mode="after")
    def _one_kind(self) -> Sweep:
        if self.field is None and self.values:
            raise at(
                "values", message="`values` of which field?", hint="`field: stages.fuse.fraction_bits`, for instance"
            )
        if self.field is not None and self.changes:
            raise at(
                "changes",
                message="a sweep has a `field` with `values`, or `changes`",
                hint="a second sweep is `across`",
            )
        if len(self.values) + len(self.changes) < 2:
            where = "values" if self.field is not None else "changes"
            raise at(where, message="a sweep needs two variants at least", hint="with one, write it into `change`")
        for name in self.changes:
            if not str(name).strip() or "," in str(name) or not str(name).isprintable():
                message = f"`{visible(str(name))}` cannot name a variant"
                raise at("changes", str(name), message=message, hint="a name without commas, as plots and `at` show it")
        if self.across and self.field is not None and self.field == self.across.field:
            message = f"`{self.field}` is swept twice, and the second value would replace the first"
            raise at("across", "field", message=message, hint="one sweep with all values, or another field")
        if self.across and (self.across.across or len(self.points) > MOST):
            what = (
                "two sweeps can be combined"
                if self.across.across
                else f"{len(self.points)} combinations; at most {MOST}"
            )
            raise at("across", message=what, hint="more fields that move together are `changes`")
        return self


def _tensor_file(name: str) -> str:
    """Accept the name of a file whose suffix can be read."""
    stem, dot, suffix = name.rpartition(".")
    if suffix in ("npz", "safetensors") and stem:
        return name
    what = f".{suffix} files cannot be read" if dot else f"`{name}` has no suffix"
    how = "numpy.savez makes it" if suffix == "npy" else "with the tensors in BF16, FP16 or FP32"
    hint = f"write `{stem or suffix}.{'npz' if suffix == 'npy' else 'safetensors'}`: {how}"
    raise at(message=f"{what}: the tensors of a layer must be in a .npz or .safetensors file", hint=hint)


class Layer(Spec):
    """A Linear whose tensors you have as matrices in one file. Each two of them give the GEMM of one training pass."""

    file: Annotated[str, AfterValidator(_tensor_file)]
    """Path of a .npz or .safetensors file, relative to the proposal file."""
    activation: str | None = None
    """Name of the layer's input in the file; shape (tokens, input features)."""
    weight: str | None = None
    """Name of the weight in the file; shape (output features, input features)."""
    gradient: str | None = None
    """Name of the gradient of the output in the file; shape (tokens, output features)."""

    @model_validator(mode="after")
    def _enough(self) -> Layer:
        if sum(key is not None for key in (self.activation, self.weight, self.gradient)) < 2:
            raise at(
                message="a GEMM takes two tensors",
                hint="activation and weight (fprop), gradient and weight (dgrad), gradient and activation (wgrad)",
            )
        return self
