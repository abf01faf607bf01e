"""The model of a proposal: a change to a real instruction, the workloads it is judged on, and its claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from codesign.figures.words import listed
from codesign.proposal.baselines import Baseline, baselines, fitting
from codesign.proposal.parts import MOST, OWN_VARIANTS, BaseName, Few, GpuName, Once, Rate, SourceName, WorkloadName
from codesign.proposal.parts import Claim as Claim
from codesign.proposal.parts import Layer as Layer
from codesign.proposal.parts import OperandPath as OperandPath
from codesign.proposal.parts import Software as Software
from codesign.proposal.parts import Sweep as Sweep
from codesign.proposal.parts import Training as Training
from codesign.proposal.parts import Value as Value
from codesign.proposal.parts import Variant as Variant
from codesign.proposal.quantisation import Quantisation as Quantisation
from codesign.workloads.gemms import Gemm, Inputs, own, select
from codesign.workloads.tensors import CAPTURED
from isa_model.cast import Cast
from isa_model.diagnostics import SLUG, InputError, at, suggest, together
from isa_model.formats import later
from isa_model.instruction import Instruction
from isa_model.library import changed, raw
from isa_model.stage import Spec

if TYPE_CHECKING:
    from codesign.proposal.recipe import Recipe


class Proposal(Spec):
    """A change to a real instruction, the workloads it is judged on, and its claims."""

    proposal: str = Field(pattern=SLUG)
    """Short name in lower case; the report is filed under it."""
    title: str
    """One line on what the hardware would do."""
    motivation: str = ""
    """Problem of today's software that the change would solve."""
    source: str
    """Author of the request, with the document and section."""
    base: BaseName
    """Catalogue name of the real instruction that is changed."""
    change: dict[str, Any] = Field(default_factory=dict)
    """Fields of the instruction that differ from the base. Mappings merge, other values replace, null removes."""
    rate: Rate | None = None
    """Products of K per SM and clock, relative to the base's; with sparsity, products left out count, too. Default: inferred
    from operand widths, products per step and sparsity (docs/timing.md)."""
    sweep: Sweep | None = None
    """Variants of the instruction, if the proposal is a family."""
    path: OperandPath | None = None
    """Casts, transposed reads and communication that operands pass through before they are multiplied."""
    open_questions: tuple[str, ...] = ()
    """Questions that the hardware team would have to settle."""
    weights: Cast | None = later(None)
    """Cast that the model's weights have gone through before any variant takes them, as those of a model trained in a narrow
    format; default: none. Groups are (output features, input features). Errors are against the product of these weights."""
    inputs: Inputs = later("bf16")
    """Format of tensors before they are quantised, and of D in fprop and dgrad; paths, times, training
    and models have BF16 alone. Synthetic tensors are drawn in FP32 and rounded to it; captured ones are BF16."""
    quantisation: Quantisation = Quantisation()
    """Rules by which operands are quantised."""
    software: Software = Software()
    """Software baseline that the proposal is compared with."""
    layers: dict[Annotated[str, Field(pattern=SLUG)], Layer] = Field(default_factory=dict)
    """Layers with tensors of your own. Each is a workload under its name; the tensor source `captured` reads its file."""
    training: Training = Training()
    """Training recipe behind the metric `training.loss_gap`."""
    workloads: Annotated[tuple[WorkloadName, ...], Few, Once] = Field(
        default=("deepseek-v3",), min_length=1, max_length=MOST
    )
    """Models, passes or single GEMMs on which the claims are judged."""
    tensors: Annotated[tuple[SourceName, ...], Few, Once] = Field(
        default=("normal", "uniform", "outliers"), min_length=1, max_length=MOST
    )
    """Sources of the operands' values: distributions, or captured tensors."""
    gpu: GpuName | None = None
    """GPU whose records give times, such as `NVIDIA H200`; left out: the GPU of the newest record."""
    claims: Annotated[tuple[Claim, ...], Few] = Field(min_length=1, max_length=MOST)
    """Bounds on metrics that the proposal promises to keep."""

    @property
    def swept(self) -> tuple[Value, ...]:
        """Names of the variants of the sweep; none without a sweep."""
        return tuple(self.sweep.points) if self.sweep else ()

    def select(self, workload: str) -> list[Gemm]:
        """Return the GEMMs of a workload, which may be one of `layers`. Raises InputError if it is unknown or unreadable."""
        layer = self.layers.get(workload.split(".")[0])
        if layer is None:
            return select(workload)
        keys = {"activation": layer.activation, "weight": layer.weight, "gradient": layer.gradient}
        return select(workload, own(workload.split(".")[0], Path(layer.file), keys))

    @property
    def trials(self) -> list[tuple[Gemm, str]]:
        """Pairs of a GEMM and a tensor source that has operands for it."""
        gemms = dict.fromkeys(
            replace(g, weights=self.weights, inputs=self.inputs, recorded=g.recorded if self.inputs == "bf16" else None)
            for workload in self.workloads
            for g in self.select(workload)
        )
        return [(g, tensors) for g in gemms for tensors in self.tensors if tensors != CAPTURED or g.recorded]

    @model_validator(mode="after")
    def _consistent(self) -> Proposal:
        faults = list(claim_faults(dict(enumerate(self.claims)), self.workloads, self.tensors, self.sweep))
        if self.rate is not None and self.multiplies_as_today:
            faults.append(
                at("rate", message="only the path changes: the instruction has today's rate", hint="drop `rate`")
            )
        faults += self._weight_faults()
        if self.inputs == "fp32" and CAPTURED in self.tensors:
            message = "captured tensors are BF16"
            hint = "synthetic sources, or `inputs: bf16`"
            faults.append(at("tensors", self.tensors.index(CAPTURED), message=message, hint=hint))
        if self.inputs == "fp32" and self.path:
            faults.append(at("path", message="casts on a path start from BF16", hint="`inputs: bf16`, or no `path`"))
        if self.inputs == "fp32":
            message = "D leaves in FP32, where the last bit of every sum shows"
            about = (i for i, claim in enumerate(self.claims) if claim.metric == "numerics.changed_share")
            faults += [at("claims", i, "metric", message=message, hint="numerics.output_error") for i in about]
        if faults:
            raise together(faults)
        return self

    def _weight_faults(self) -> Iterator[PydanticCustomError]:
        """Yield an error for each use of `weights` that evidence cannot follow."""
        if self.weights is None:
            return
        if self.weights.coarser or self.weights.group is None or self.weights.group[0] != 1:
            message = "weights in a narrow format have one level of scales, in groups within an output feature"
            yield at("weights", "group", message=message, hint="group: [1, 32]")
        for i, workload in enumerate(self.workloads):
            if any(g.a != "activation" for g in self.select(workload)):
                message = "groups of `weights` run along K in fprop alone"
                hint = f"{workload.split('.')[0]}.fprop, or `weights` left out"
                yield at("workloads", i, message=message, hint=hint)

    @property
    def multiplies_as_today(self) -> bool:
        """True if only the operands' path changes, and the instruction stays as it is."""
        return self.path is not None and not self.change and self.sweep is None

    @property
    def in_slices(self) -> bool:
        """True if operands of the proposal or of today's software are sums of slices."""
        return any(rule.slices for rule in (self.rule, self.practice.quantisation))

    @property
    def is_trained(self) -> bool:
        """True if recipes have the proposal's numerics: BF16 tensors, whole operands, and no path."""
        return self.path is None and not self.in_slices and self.inputs == "bf16"

    # -- instructions ------------------------------------------------------------------------------------------------

    @cached_property
    def today(self) -> Instruction:
        """The base instruction, unchanged."""
        return Instruction.model_validate(raw(self.base))

    @property
    def _baseline(self) -> Baseline:
        named = self.software.baseline
        return baselines()[named] if named else fitting(self.today, self.inputs)[0]

    @property
    def practice(self) -> Baseline:
        """The software baseline: the named one or the default of the base, with the changes in `software`."""
        chosen = self._baseline
        changed: dict[str, Any] = {
            name: value for name in ("promote_every", "group") if (value := getattr(self.software, name)) != "baseline"
        }
        if self.software.quantisation:
            changed["quantisation"] = self.software.quantisation.over(chosen.quantisation)
        return chosen.model_copy(update=changed)

    @property
    def practice_changes(self) -> list[str]:
        """What `software` changes in the baseline, in words; empty: nothing."""
        own, now, chosen = self.software, self.practice, self._baseline
        said = []
        if now.promote_every != chosen.promote_every:
            every = now.promote_every
            said.append(f"sums promoted to FP32 every {every} products" if every else "sums never promoted to FP32")
        if now.group != chosen.group:
            said.append(f"an FP32 scale for every {now.group} of K" if now.group else "no scale for each group of K")
        if own.quantisation:
            said.append(f"its own {listed([f'`{f}`' for f in own.quantisation.model_dump(exclude_unset=True)])}")
        return said if own.split_k else [*said, "K never split"]

    @property
    def others(self) -> list[Baseline]:
        """The other baselines that fit the base."""
        return [b for b in fitting(self.today, self.inputs) if b.name != self.practice.name]

    @property
    def rule(self) -> Quantisation:
        """Quantisation of the proposal's operands; fields left out are those of the baseline.

        Headroom protects a narrow accumulator, so it is taken over only if the proposal multiplies as software does.
        """
        software = self.practice.quantisation
        return self.quantisation.over(
            software if self.multiplies_as_today else software.model_copy(update={"headroom": None})
        )

    def quantised(self, rule: Quantisation) -> Proposal:
        """Return the proposal with `rule` for its own operands and for those of its software baseline."""
        own = rule.model_copy(update={"headroom": self.practice.quantisation.headroom})
        software = self.software.model_copy(update={"quantisation": own})
        return self.model_copy(update={"quantisation": rule, "software": software})

    @cached_property
    def software_instruction(self) -> Instruction:
        """The base with the baseline's software promotion around it."""
        return self.practice.around(self.today)

    def proposed(self, value: Value | None = None) -> Instruction:
        """Return the changed instruction, with `value` in the swept field unless it is None.

        Raises ValidationError if the change does not give a valid instruction.
        """
        return Instruction.model_validate(self.merged(value))

    def multiplying(self, value: Value | None = None) -> Instruction:
        """Return the instruction that multiplies the proposal's operands: today's software if only their path changes."""
        return self.software_instruction if self.multiplies_as_today else self.proposed(value)

    def training_recipe(self, variant: Variant = "proposal", value: Value | None = None) -> Recipe:
        """Return the training recipe with all GEMMs on a variant's instruction.

        Raises InputError for another variant or value and if the recipe is unknown or wrong, ValidationError if it does not fit
        the instruction.
        """
        from codesign.proposal.recipe import load_recipe

        if variant not in OWN_VARIANTS:
            raise InputError.of(f"models run on no variant `{variant}`", f"one of: {', '.join(OWN_VARIANTS)}")
        if value is not None and (self.sweep is None or value not in self.sweep.points):
            hint = f"one of: {', '.join(map(str, self.swept))}" if self.sweep else "the proposal has no `sweep`"
            raise InputError.of(f"the sweep has no value {value!r}", hint)
        if self.in_slices or self.inputs != "bf16":
            raise InputError.of(
                "recipes have BF16 tensors, and operands in one slice", "a proposal without `inputs` and `slices`"
            )
        rules = load_recipe(self.training.recipe, self.training.change)
        bare = self.practice.quantisation.model_copy(update={"headroom": None})
        if variant == "today":
            return rules.on(self.today, None, bare)
        if variant == "software":
            # A recipe with group scales promotes by itself; with one scale per tensor, promotion must be added.
            if self.practice.group:
                same = self.practice.name == "deepseek-v3"
                return rules if same else rules.on(self.software_instruction, None, bare)
            return rules.on(self.today, self.practice.promote_every, bare)
        recipe = rules.on(self.proposed(value), None, self.rule)
        return recipe.summed_exactly() if variant == "exact" else recipe

    def merged(self, value: Value | None = None) -> dict[str, Any]:
        """Return the changed instruction as plain data, which need not be valid."""
        spec = raw(self.base)
        about = {
            "name": self.proposal if value is None else f"{self.proposal} at {value}",
            "description": self.title,
            "source": self.source,
        }
        if self.change or value is not None:
            about["checked"] = "proposed: no hardware computes this"
            spec.pop("known", None)
        merged = changed({**spec, **about}, self.change)
        for change in self.sweep.points[value] if self.sweep and value is not None else ():
            merged = changed(merged, change)
        return merged


def claim_faults(
    claims: Mapping[int, Claim], workloads: Sequence[str] | None, tensors: Sequence[str] | None, sweep: Sweep | None
) -> Iterator[PydanticCustomError]:
    """Yield an error for each claim that is repeated, or that covers nothing the proposal is judged on.

    `workloads` and `tensors` are None if they cannot be read; claims are not checked against them then.
    """
    bare = {i: claim.model_copy(update={"source": ""}) for i, claim in claims.items()}
    for i, claim in claims.items():
        same = next((j for j in bare if j < i and bare[j] == bare[i]), None)
        if same is not None:
            yield at("claims", i, message=f"the same as claim {same + 1}", hint="remove one of them")
        if workloads and claim.workload and not any(_overlap(claim.workload, w) for w in workloads):
            message = f"`{claim.workload}` is not among the proposal's workloads"
            hint = suggest(claim.workload, workloads) or f"one of: {', '.join(workloads)}"
            yield at("claims", i, "workload", message=message, hint=hint)
        if tensors and claim.tensors and claim.tensors not in tensors:
            message = f"`{claim.tensors}` is not among the proposal's tensors"
            hint = suggest(claim.tensors, tensors) or f"one of: {', '.join(tensors)}"
            yield at("claims", i, "tensors", message=message, hint=hint)
        if claim.at is not None and (sweep is None or claim.at not in sweep.points):
            hint = (
                f"one of: {', '.join(map(str, sweep.points))}"
                if sweep
                else "leave `at` out: the proposal has no `sweep`"
            )
            yield at("claims", i, "at", message=f"{claim.at} is not a swept value", hint=hint)


def _overlap(one: str, other: str) -> bool:
    """Return whether one workload contains the other."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")
