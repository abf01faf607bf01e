"""Reading proposals: every fault of a file is found at once and reported at its line."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from codesign.proposal.baselines import fitting
from codesign.proposal.parts import MOST, OWN_VARIANTS, Claim, Layer, Sweep, by_name
from codesign.proposal.proposal import Proposal, claim_faults
from codesign.proposal.slice_faults import slice_faults
from codesign.workloads import tensor_file
from isa_model.diagnostics import Document, InputError, Loc, Problem, closest, read_yaml, suggest
from isa_model.explain import explain
from isa_model.instruction import Instruction
from isa_model.library import changed, is_known, raw
from isa_model.operand_fields import Scaling


def load_proposal(path: str | Path) -> Proposal:
    """Return the proposal in a YAML file. Raises InputError with every fault of the file."""
    return parse_proposal(read_yaml(path))


def parse_proposal(document: Document) -> Proposal:
    """Return the proposal in a document. Raises InputError with every fault of the document, one if it is of another kind."""
    other = "an instruction" if is_instruction(document.data) else "a recipe" if "recipe" in document.data else ""
    if other and "proposal" not in document.data:
        raise InputError(
            [document.problem((), f"this is {other}, not a proposal", "`codesign init` writes a proposal")]
        )
    layers = document.data.get("layers")
    try:
        context = {"layers": tuple(layers) if isinstance(layers, dict) else ()}
        proposal = Proposal.model_validate(document.data, context=context)
    except ValidationError as error:
        problems = explain(document, error, Proposal, document.data)
        problems += [*_change_problems(document), *_claim_problems(document, {p.path[0] for p in problems if p.path})]
        raise InputError(dict.fromkeys(problems)) from None
    here = Path(document.name).parent
    layers = {n: layer.model_copy(update={"file": str(here / layer.file)}) for n, layer in proposal.layers.items()}
    claims = tuple(_on_software(claim, proposal.practice.name) for claim in proposal.claims)
    proposal = proposal.model_copy(update={"layers": layers, "claims": claims})
    problems = [*_instruction_problems(document, proposal), *_workload_problems(document, proposal)]
    if problems:
        raise InputError(dict.fromkeys(problems))
    return proposal


def is_instruction(data: Mapping[str, Any]) -> bool:
    """Return whether the data of a file describe an instruction: it has stages and no base."""
    return "stages" in data and "base" not in data


def _claim_problems(document: Document, faulty: Container[Any]) -> list[Problem]:
    """Return the faults of the claims that can be read, although the document has other faults.

    Nothing is concluded from fields in `faulty`.
    """
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
    if isinstance(workloads, list):
        workloads = [by_name(workload) for workload in workloads]
    sweep = readable(Sweep, data["sweep"]) if data.get("sweep") is not None else None
    if "sweep" in faulty:
        claims = {i: claim.model_copy(update={"at": None}) for i, claim in claims.items()}
    faults = [fault.context or {} for fault in claim_faults(claims, workloads, tensors, sweep)]
    return [document.problem(f["at"], f["text"], f["hint"], key=isinstance(f["at"][-1], str)) for f in faults]


def _on_software(claim: Claim, name: str) -> Claim:
    """Return the claim with `software` in place of the software baseline's own name."""
    named = {field: "software" for field in ("of", "relative_to") if getattr(claim, field) == name}
    return claim.model_copy(update=named)


def _workload_problems(document: Document, proposal: Proposal) -> list[Problem]:
    """Return the faults of layers, workloads and tensor sources, and the claims that no GEMM has operands for."""

    def told(error: InputError, loc: Loc) -> list[Problem]:
        return [document.problem(loc, p.message, p.hint) for p in error.problems]

    problems = []
    for name, layer in proposal.layers.items():
        try:
            proposal.select(name)
            for key in filter(None, (layer.activation, layer.weight, layer.gradient)):
                tensor_file.check(Path(layer.file), key)
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
                hint = f"available here: {', '.join(there)}"
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


def _within_lines(scale: Scaling | None) -> Iterator[bool]:
    """Yield, for each operand with several levels of scales, whether all of its groups are within one row or column."""
    for side, across in ((scale.a, 0), (scale.b, 1)) if scale else ():
        if side and side.coarser:
            yield all(level.group is not None and level.group[across] == 1 for level in side.levels)


def _blamed(error: InputError, layer: Layer) -> str:
    """Return the field of a layer that an error is about: the tensor it names, else the file."""
    text = error.problems[0].message
    roles = ("activation", "weight", "gradient")
    return next((r for r in roles if (key := getattr(layer, r)) and f"`{key}`" in text), "file")


def _change_problems(document: Document) -> list[Problem]:
    """Return the faults of the changed instruction although the document has other faults; none if the base is unknown."""
    base, change = document.data.get("base"), document.data.get("change", {})
    if not isinstance(base, str) or not is_known(base) or not isinstance(change, dict):
        return []
    return _faults_of_change(document, raw(base), changed(raw(base), change))


def _faults_of_change(document: Document, base: dict[str, Any], merged: dict[str, Any]) -> list[Problem]:
    """Return the faults of a changed instruction; for a misspelt stage, the name is the only fault."""
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
    """Return the faults of the change, the sweep, the software baseline and the training recipe."""
    base, problems = raw(proposal.base), list[Problem]()
    own = _faults_of_change(document, base, proposal.merged())
    if proposal.sweep and (fault := _sweep_problem(document, proposal, proposal.sweep)):
        problems.append(fault)
    elif proposal.sweep and not own:
        for i, value in enumerate(proposal.swept):
            where: Loc = ("sweep",) if proposal.sweep.across else ("sweep", "values", i)
            if proposal.sweep.changes and not proposal.sweep.across:
                where = ("sweep", "changes", str(value))
            for p in _faults_of_change(document, base, proposal.merged(value)):
                name = f"at {value}: " if len(where) == 1 else ""
                problems.append(document.problem(where, name + p.message, p.hint))
    problems = [*own, *problems]
    if fault := _software_problem(document, proposal):
        problems.append(fault)
    if not problems and proposal.proposed().codebook:
        message = "evidence has no cast that fits tables, so that no claim could be judged"
        hint = "a table of fixed numbers, such as `b: {kind: table, ...}`, or a study with isa_model.matmul"
        problems.append(document.problem(("change",), message, hint))
    if not problems and not all(_within_lines(proposal.proposed().scale)):
        message = "evidence casts to several levels of scales within one row of A and one column of B alone"
        hint = "groups of one row and column; for a whole operand, `quantisation: {tensor_scale: true}`"
        problems.append(document.problem(("change",), message, hint))
    if problems:
        return problems
    for rule, place, specs in (
        (proposal.rule, ("quantisation",), [proposal.multiplying(value) for value in (None, *proposal.swept)]),
        (proposal.practice.quantisation, ("software", "quantisation"), [proposal.software_instruction]),
    ):
        for spec in specs:
            for field, text, hint in slice_faults(rule, spec, proposal.inputs, proposal.path is not None):
                problems.append(document.problem((*place, *field), text, hint, key=field == ("slices",)))
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
    """Return a fault if the baseline does not fit the base, or its promotion the base's sums or the groups."""
    software, base, practice = proposal.software, proposal.today, proposal.practice
    named = "baseline" if isinstance(document.data.get("software"), dict) else None
    there = [b.name for b in fitting(base, proposal.inputs)]
    if software.baseline and software.baseline not in there:
        hint = f"baselines of this base: {', '.join(there)}"
        loc = ("software", named) if named else ("software",)
        return document.problem(
            loc, f"`{software.baseline}` does not fit the operands, accumulator or scales of the base", hint
        )
    if base.scale and {software.promote_every, software.group} - {"baseline", None}:
        return document.problem(
            ("software",),
            "the base applies its group scales itself; promotion in software would apply them twice",
            "leave `promote_every` and `group` out",
        )
    if practice.quantisation.slices and {software.promote_every, software.group} - {"baseline"}:
        message = f"`{practice.name}` multiplies slices, which have a promotion of their own"
        hint = "`quantisation: {slices: {products: ..., promote_every: ...}}` under `software`"
        return document.problem(("software",), message, hint)
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
    """Return a fault if the training recipe is missing or does not fit the instruction, or if casts are random."""
    if not proposal.is_trained and proposal.path is None:
        message = "no training run has FP32 tensors or operands in slices"
        return document.problem(("training",), message, "no `training`")
    if proposal.quantisation.random:
        message = "training rounds operands the same for every seed; only `numerics` casts at random"
        return document.problem(("training",), message, "no `training`, or no `quantisation: {random: ...}`")
    try:
        proposal.training_recipe()
    except InputError as error:
        return document.problem(("training",), error.problems[0].message, error.problems[0].hint)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, (*fault["loc"], *fault.get("ctx", {}).get("at", ()))))
        return document.problem(("training",), f"the recipe does not fit: {where}: {fault['msg']}")
    return None


def _sweep_problem(document: Document, proposal: Proposal, sweep: Sweep, place: Loc = ("sweep",)) -> Problem | None:
    """Return a fault if a swept field is not a field of the instruction that affects what it computes."""
    if sweep.across and (found := _sweep_problem(document, proposal, sweep.across, (*place, "across"))):
        return found
    if sweep.field is None:
        return None
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
            return document.problem((*place, "field"), f"no field `{step}` in {where}", hint)
        node = node[step]
    return None
