"""A proposal: a small change to a real instruction, the workloads it is judged on, and what it claims."""

from __future__ import annotations

import pathlib
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from codesign.proposal.baselines import Baseline, baselines, fitting
from codesign.proposal.parts import MOST, OWN_VARIANTS, BaseName, Few, Once, SourceName, WorkloadName
from codesign.proposal.parts import Claim as Claim
from codesign.proposal.parts import Layer as Layer
from codesign.proposal.parts import Path as Path
from codesign.proposal.parts import Software as Software
from codesign.proposal.parts import Sweep as Sweep
from codesign.proposal.parts import Training as Training
from codesign.proposal.parts import Value as Value
from codesign.proposal.parts import Variant as Variant
from codesign.proposal.quantisation import Quantisation as Quantisation
from codesign.workloads import tensor_file
from codesign.workloads.gemms import Gemm, own, select
from codesign.workloads.tensors import CAPTURED
from isa_model.diagnostics import SLUG, Document, InputError, Loc, Problem, at, closest, read_yaml, suggest, together
from isa_model.explain import explain
from isa_model.instruction import Instruction
from isa_model.library import changed, is_known, raw
from isa_model.rounding import Rounding
from isa_model.stage import Spec

if TYPE_CHECKING:
    from codesign.proposal.recipe import Recipe


class Proposal(Spec):
    """One proposal file."""

    proposal: str = Field(pattern=SLUG)
    """Short name; reports are filed under it."""
    title: str
    """What the hardware would do, in one line."""
    motivation: str = ""
    """Which pain it answers."""
    source: str
    """Who asks for it, and where."""
    base: BaseName
    """The real instruction it starts from."""
    change: dict[str, Any] = Field(default_factory=dict)
    """Fields of the instruction that differ, as a merge: mappings merge, other values replace, null removes."""
    sweep: Sweep | None = None
    """The swept field, if the proposal is a family."""
    path: Path | None = None
    """What becomes of its operands before they are multiplied: casts, transposed reads, communication."""
    open_questions: tuple[str, ...] = ()
    """What the proposal leaves open and the hardware team would have to settle."""
    quantisation: Quantisation = Quantisation()
    """How the operands are quantised."""
    software: Software = Software()
    """The software baseline."""
    layers: dict[Annotated[str, Field(pattern=SLUG)], Layer] = Field(default_factory=dict)
    """Layers of the author's own, each a workload under its name, with `captured` tensors from its file."""
    training: Training = Training()
    """How a model is trained on it, for `training.loss_gap`."""
    workloads: Annotated[tuple[WorkloadName, ...], Few, Once] = Field(
        default=("deepseek-v3",), min_length=1, max_length=MOST
    )
    """GEMMs it is judged on."""
    tensors: Annotated[tuple[SourceName, ...], Few, Once] = Field(
        default=("normal", "uniform", "outliers"), min_length=1, max_length=MOST
    )
    """What fills their operands."""
    claims: Annotated[tuple[Claim, ...], Few] = Field(min_length=1, max_length=MOST)
    """What it promises, in numbers."""

    def select(self, workload: str) -> list[Gemm]:
        """The GEMMs of a workload, the author's own layers included. Raises InputError for one that cannot be had."""
        layer = self.layers.get(workload.split(".")[0])
        if layer is None:
            return select(workload)
        keys = {"activation": layer.activation, "weight": layer.weight, "gradient": layer.gradient}
        return select(workload, own(workload.split(".")[0], pathlib.Path(layer.file), keys))

    @property
    def trials(self) -> list[tuple[Gemm, str]]:
        """Every GEMM with every tensor source that has operands for it."""
        gemms = dict.fromkeys(g for workload in self.workloads for g in self.select(workload))
        return [(g, tensors) for g in gemms for tensors in self.tensors if tensors != CAPTURED or g.recorded]

    @model_validator(mode="after")
    def _consistent(self) -> Proposal:
        faults = list(uncovered(dict(enumerate(self.claims)), self.workloads, self.tensors, self.sweep))
        if faults:
            raise together(faults)
        return self

    @property
    def multiplies_as_today(self) -> bool:
        """Whether it leaves the instruction as it is and changes only what becomes of the operands before."""
        return self.path is not None and not self.change and self.sweep is None

    # -- the instructions behind it ----------------------------------------------------------------------------------

    @cached_property
    def today(self) -> Instruction:
        """The base, as it is."""
        return Instruction.model_validate(raw(self.base))

    @property
    def practice(self) -> Baseline:
        """The software baseline: the one that is named, or the default of the base, with what `software` changes."""
        chosen = baselines()[self.software.baseline] if self.software.baseline else fitting(self.today)[0]
        changed: dict[str, Any] = {
            name: value for name in ("promote_every", "group") if (value := getattr(self.software, name)) != "baseline"
        }
        if self.software.quantisation:
            changed["quantisation"] = self.software.quantisation.over(chosen.quantisation)
        return chosen.model_copy(update=changed)

    @property
    def others(self) -> list[Baseline]:
        """The other baselines that fit the base, computed beside it."""
        return [b for b in fitting(self.today) if b.name != self.practice.name]

    @property
    def rule(self) -> Quantisation:
        """How the proposal's operands are quantised: as in the baseline where the proposal does not say.

        Headroom is software's way around a narrow accumulator: only a proposal that multiplies as software does has it, too.
        """
        software = self.practice.quantisation
        return self.quantisation.over(
            software if self.multiplies_as_today else software.model_copy(update={"headroom": None})
        )

    def quantised(self, rule: Quantisation) -> Proposal:
        """The same proposal where its operands and those of today's software are quantised by another rule."""
        own = rule.model_copy(update={"headroom": self.practice.quantisation.headroom})
        software = self.software.model_copy(update={"quantisation": own})
        return self.model_copy(update={"quantisation": rule, "software": software})

    @cached_property
    def software_instruction(self) -> Instruction:
        """The base with today's software step around it."""
        return self.practice.around(self.today)

    def proposed(self, value: Value | None = None) -> Instruction:
        """The changed instruction; for a family, with `value` in the swept field.

        Raises ValidationError when the change makes no sense.
        """
        return Instruction.model_validate(self.merged(value))

    def multiplying(self, value: Value | None = None) -> Instruction:
        """What multiplies the proposal's operands: the changed instruction; where only their path changes, today's software."""
        return self.software_instruction if self.multiplies_as_today else self.proposed(value)

    def training_recipe(self, variant: Variant = "proposal", value: Value | None = None) -> Recipe:
        """The recipe with all GEMMs on the proposed instruction, on today's alone or promoted, or summed exactly.

        Raises InputError for a recipe that is unknown or wrong, ValidationError where it does not fit the instruction.
        """
        from codesign.proposal.recipe import load_recipe

        rules = load_recipe(self.training.recipe, self.training.change)
        rounding, columns = self.rule.scale_rounding or Rounding.UP, self.rule.weight_columns
        if variant == "today":
            return rules.on(self.today, None, rounding, columns)
        if variant == "software":
            if self.practice.group and self.practice.name != "deepseek-v3":
                raise InputError.of(f"no recipe trains as the baseline {self.practice.name} does")
            # With group scales, promotion is the recipe's own way; with one scale per tensor nothing else is left of it.
            return (
                rules if self.practice.group else rules.on(self.today, self.practice.promote_every, rounding, columns)
            )
        recipe = rules.on(self.proposed(value), None, rounding, columns)
        return recipe.summed_exactly() if variant == "exact" else recipe

    def merged(self, value: Value | None = None) -> dict[str, Any]:
        """The spec of the changed instruction as plain data, right or wrong."""
        spec = raw(self.base)
        about = {
            "name": self.proposal if value is None else f"{self.proposal} at {value}",
            "description": self.title,
            "source": self.source,
        }
        if self.change or value is not None:
            about["checked"] = "proposed: no hardware computes this"
        merged = changed({**spec, **about}, self.change)
        if self.sweep and value is not None:
            change: Any = value
            for step in reversed(self.sweep.field.split(".")):
                change = {step: change}
            merged = changed(merged, change)
        return merged


def load_proposal(path: str | pathlib.Path) -> Proposal:
    """Read a proposal file. Raises InputError with every place where it is wrong."""
    return parse_proposal(read_yaml(path))


def parse_proposal(document: Document) -> Proposal:
    """The proposal a document describes. Raises InputError with every place where it is wrong."""
    layers = document.data.get("layers")
    try:
        context = {"layers": tuple(layers) if isinstance(layers, dict) else ()}
        proposal = Proposal.model_validate(document.data, context=context)
    except ValidationError as error:
        problems = explain(document, error, Proposal, document.data)
        problems += [*_change_problems(document), *_claim_problems(document, {p.path[0] for p in problems if p.path})]
        raise InputError(dict.fromkeys(problems)) from None
    here = pathlib.Path(document.name).parent
    layers = {n: layer.model_copy(update={"file": str(here / layer.file)}) for n, layer in proposal.layers.items()}
    claims = tuple(_on_software(claim, proposal.practice.name) for claim in proposal.claims)
    proposal = proposal.model_copy(update={"layers": layers, "claims": claims})
    problems = [*_instruction_problems(document, proposal), *_workload_problems(document, proposal)]
    if problems:
        raise InputError(dict.fromkeys(problems))
    return proposal


def uncovered(
    claims: Mapping[int, Claim], workloads: Sequence[str] | None, tensors: Sequence[str] | None, sweep: Sweep | None
) -> Iterator[PydanticCustomError]:
    """Claims that are there twice, or on something that the proposal is not judged on; None: what that is cannot be read."""
    bare = {i: claim.model_copy(update={"source": ""}) for i, claim in claims.items()}
    for i, claim in claims.items():
        same = next((j for j in bare if j < i and bare[j] == bare[i]), None)
        if same is not None:
            yield at("claims", i, message=f"the same claim as number {same + 1}", hint="leave one out")
        if workloads and claim.workload and not any(_overlap(claim.workload, w) for w in workloads):
            message = f"`{claim.workload}` is not among the proposal's workloads"
            hint = suggest(claim.workload, workloads) or f"one of: {', '.join(workloads)}"
            yield at("claims", i, "workload", message=message, hint=hint)
        if tensors and claim.tensors and claim.tensors not in tensors:
            message = f"`{claim.tensors}` is not among the proposal's tensors"
            hint = suggest(claim.tensors, tensors) or f"one of: {', '.join(tensors)}"
            yield at("claims", i, "tensors", message=message, hint=hint)
        if claim.at is not None and (sweep is None or claim.at not in sweep.values):
            hint = (
                f"one of: {', '.join(map(str, sweep.values))}"
                if sweep
                else "leave `at` out: the proposal has no `sweep`"
            )
            yield at("claims", i, "at", message=f"{claim.at} is not a swept value", hint=hint)


def _overlap(one: str, other: str) -> bool:
    """Whether one of two names of workloads is the other or a part of it."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _claim_problems(document: Document, faulty: Container[Any]) -> list[Problem]:
    """Claims on what is not covered, while `faulty` fields have their own faults; of those nothing is concluded."""
    data = document.data

    def readable(model: type[Any], value: Any) -> Any:
        try:
            return model.model_validate(value)
        except ValidationError:
            return None

    given = data["claims"][:MOST] if isinstance(data.get("claims"), list) else []
    claims = {i: claim for i, value in enumerate(given) if (claim := readable(Claim, value))}
    workloads, tensors = (
        None if field in faulty else data.get(field, Proposal.model_fields[field].default)
        for field in ("workloads", "tensors")
    )
    sweep = readable(Sweep, data["sweep"]) if data.get("sweep") is not None else None
    if "sweep" in faulty:
        claims = {i: claim.model_copy(update={"at": None}) for i, claim in claims.items()}
    faults = [fault.context or {} for fault in uncovered(claims, workloads, tensors, sweep)]
    return [document.problem(f["at"], f["text"], f["hint"], key=isinstance(f["at"][-1], str)) for f in faults]


def _on_software(claim: Claim, name: str) -> Claim:
    """The claim with `software` in place of the name of the baseline that software is."""
    named = {field: "software" for field in ("of", "relative_to") if getattr(claim, field) == name}
    return claim.model_copy(update=named)


def _workload_problems(document: Document, proposal: Proposal) -> list[Problem]:
    """Layers whose file, tensors or shapes are wrong; sources and claims that no GEMM has operands for."""

    def told(error: InputError, loc: Loc) -> list[Problem]:
        return [document.problem(loc, p.message, p.hint) for p in error.problems]

    problems = []
    for name, layer in proposal.layers.items():
        try:
            proposal.select(name)
            for key in filter(None, (layer.activation, layer.weight, layer.gradient)):
                tensor_file.check(pathlib.Path(layer.file), key)
        except InputError as error:
            problems += told(error, ("layers", name, _blamed(error, proposal.layers[name])))
    if problems:
        return problems
    for i, workload in enumerate(proposal.workloads):
        try:
            proposal.select(workload)
        except InputError as error:
            problems += told(error, ("workloads", i))
    if problems:
        return problems
    there = [*OWN_VARIANTS, *(b.name for b in proposal.others)]
    for i, claim in enumerate(proposal.claims):
        for field in ("of", "relative_to"):
            if (name := getattr(claim, field)) and name not in there:
                hint = f"here there are: {', '.join(there)}"
                problems.append(
                    document.problem(("claims", i, field), f"the baseline `{name}` does not fit the base", hint)
                )
    trials = proposal.trials
    for i, tensors in enumerate(proposal.tensors):
        if not any(t == tensors for _, t in trials):
            hint = "workloads such as smollm2-135m or mpnet-base, or `layers` of your own; `codesign list tensors`"
            problems.append(document.problem(("tensors", i), f"no workload has {tensors} tensors", hint))
    for i, claim in enumerate(proposal.claims):
        covered = [(g, t) for g, t in trials if claim.tensors in (None, t)]
        if claim.workload:
            try:
                names = {g.name for g in proposal.select(claim.workload)}
            except InputError as error:
                problems += told(error, ("claims", i, "workload"))
                continue
            covered = [(g, t) for g, t in covered if g.name in names]
        if not covered and not problems:
            message = f"nothing is computed with {claim.tensors} tensors on `{claim.workload or 'the workloads'}`"
            problems.append(document.problem(("claims", i, "tensors"), message, "a GEMM that has them"))
    return problems


def _blamed(error: InputError, layer: Layer) -> str:
    """The field of a layer that an error is about: the tensor it names, else the file."""
    text = error.problems[0].message
    roles = ("activation", "weight", "gradient")
    return next((r for r in roles if (key := getattr(layer, r)) and f"`{key}`" in text), "file")


def _change_problems(document: Document) -> list[Problem]:
    """Faults of the instruction even while the rest of the proposal has its own, if the base is known."""
    base, change = document.data.get("base"), document.data.get("change", {})
    if not isinstance(base, str) or not is_known(base) or not isinstance(change, dict):
        return []
    return _faults_of_change(document, raw(base), changed(raw(base), change))


def _faults_of_change(document: Document, base: dict[str, Any], merged: dict[str, Any]) -> list[Problem]:
    """What is wrong with a changed instruction; a misspelt stage of the base is said to be one, and nothing else of it."""
    problems = []
    stages = merged.get("stages")
    for name, stage in list(stages.items()) if isinstance(stages, dict) else ():
        if name not in base["stages"] and isinstance(stage, dict) and "terms" not in stage:
            close = suggest(name, base["stages"])
            hint = f"{close} A stage of your own needs `terms`".strip()
            where = ("change", "stages", name)
            problems.append(document.problem(where, f"the base has no stage `{name}`", hint, key=True))
            merged = {**merged, "stages": {n: s for n, s in merged["stages"].items() if n != name}}
    try:
        Instruction.model_validate(merged)
    except ValidationError as error:
        problems += explain(document, error, Instruction, merged, ("change",))
    return problems


def _instruction_problems(document: Document, proposal: Proposal) -> list[Problem]:
    base, problems = raw(proposal.base), list[Problem]()
    own = _faults_of_change(document, base, proposal.merged())
    if proposal.sweep and (fault := _sweep_problem(document, proposal, proposal.sweep)):
        problems.append(fault)
    elif proposal.sweep and not own:
        for i, value in enumerate(proposal.sweep.values):
            for p in _faults_of_change(document, base, proposal.merged(value)):
                problems.append(document.problem(("sweep", "values", i), p.message, p.hint))
    problems = [*own, *problems]
    if fault := _software_problem(document, proposal):
        problems.append(fault)
    if problems:
        return problems
    if "training" in document.data and (problem := _training_problem(document, proposal)):
        problems.append(problem)
    try:
        _ = proposal.software_instruction
    except InputError as error:
        problems += [document.problem(("base",), p.message, p.hint) for p in error.problems]
    return problems


def _software_problem(document: Document, proposal: Proposal) -> Problem | None:
    """The baseline must fit the base, and its promotion the base's sums and the groups."""
    software, base, practice = proposal.software, proposal.today, proposal.practice
    named = "baseline" if isinstance(document.data.get("software"), dict) else None
    there = [b.name for b in fitting(base)]
    if software.baseline and software.baseline not in there:
        hint = f"baselines of this base: {', '.join(there)}"
        loc = ("software", named) if named else ("software",)
        return document.problem(loc, f"`{software.baseline}` is for other operands, accumulators or scales", hint)
    if base.scale and {software.promote_every, software.group} - {"baseline", None}:
        return document.problem(
            ("software",),
            "the base multiplies by its group scales itself; a software step would scale twice",
            "leave `promote_every` and `group` out",
        )
    every, group = practice.promote_every, practice.group
    if group and (every is None or group % every):
        step = f"a promotion every {every}" if every else "sums that are not promoted"
        hint = (
            f"a multiple of promote_every, for instance `group: {every}`" if every else "promote_every: a divisor of it"
        )
        return document.problem(("software", "group"), f"groups of {group} cannot be scaled by {step}", hint)
    if every and every % base.span:
        message = f"the base sums {base.span} products at a time; {every} is not a multiple of that"
        hint = f"a multiple of {base.span}, for instance `promote_every: {-(-every // base.span) * base.span}`"
        return document.problem(("software", "promote_every"), message, hint)
    return None


def _training_problem(document: Document, proposal: Proposal) -> Problem | None:
    """The recipe must be there, and fit the instruction."""
    try:
        proposal.training_recipe()
    except InputError as error:
        return document.problem(("training",), error.problems[0].message, error.problems[0].hint)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, (*fault["loc"], *fault.get("ctx", {}).get("at", ()))))
        return document.problem(("training",), f"the recipe does not fit: {where}: {fault['msg']}")
    return None


def _sweep_problem(document: Document, proposal: Proposal, sweep: Sweep) -> Problem | None:
    """A swept field must exist in the changed instruction, and be of what it computes."""
    about = ("name", "description", "source", "checked")
    node: Any = {name: value for name, value in proposal.merged().items() if name not in about}
    steps = sweep.field.split(".")
    for i, step in enumerate(steps):
        if not isinstance(node, dict) or step not in node:
            known = list(node) if isinstance(node, dict) else []
            where = ".".join(steps[:i]) or "the instruction"
            close = closest(step, known)
            hint = f"did you mean `{'.'.join([*steps[:i], close, *steps[i + 1 :]])}`?" if close else ""
            hint = hint or f"fields there: {', '.join(known) or 'none'}"
            return document.problem(("sweep", "field"), f"no field `{step}` in {where}", hint)
        node = node[step]
    return None
