"""Evaluation of a proposal: gather evidence, judge the claims, and record the provenance."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import current_process
from threading import Lock
from typing import Any

from codesign.commit import commit
from codesign.evidence.progress import CountingExecutor, Phase
from codesign.evidence.sampling import Sampling
from codesign.evidence.source import Source, Subject, sources
from codesign.figures.evidence import Evidence
from codesign.figures.figure import Figure
from codesign.proposal import manual
from codesign.proposal.proposal import Proposal
from codesign.verdicts.claims import judge
from codesign.verdicts.questions import asker
from codesign.verdicts.sensitivity import refine
from codesign.verdicts.verdict import Verdict
from isa_model.instruction import Instruction
from isa_model.processes import pool, threads
from isa_model.stage import Spec

SCHEMA_VERSION = 5
"""Version of result.json; readers refuse any other. Version 5 has `evidence` by source instead of a field for each kind."""


class Provenance(Spec):
    """Inputs and versions that the result was made with."""

    spec_sha256: str
    """SHA-256 of the proposal and both instructions, as canonical JSON."""
    commit: str
    """Commit of the evaluator's source; empty outside a git checkout; ends in `+` for local changes."""
    versions: dict[str, str]
    machine: str
    gpu: str = "none: the bit-exact model ran on the CPU"


class Result(Spec):
    """Everything an evaluation found; every report is drawn from this alone."""

    schema_version: int = SCHEMA_VERSION
    proposal: Proposal
    headline: str
    """The verdicts in a sentence, then faults that make figures worthless, such as outputs that overflow."""
    verdicts: tuple[Verdict, ...]
    evidence: tuple[Evidence, ...]
    """Evidence of each source, in the order of reports."""
    method: tuple[str, ...]
    """Sentences on the judgement of claims; empty if no figure was measured again."""
    sampling: Sampling
    today: Instruction
    proposed: Instruction
    page: tuple[manual.ManualSection, ...]
    """Manual page of the proposed instruction."""
    provenance: Provenance

    @property
    def finding(self) -> str:
        """Findings of the evidence, in sentences."""
        return " ".join(sentence for evidence in self.evidence for sentence in evidence.finding)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Figures of all sources."""
        return tuple(figure for evidence in self.evidence for figure in evidence.figures)


def evaluate(
    proposal: Proposal,
    sampling: Sampling,
    phase: Phase = lambda name, done, total: None,
    train: bool = False,
    model: bool = False,
) -> Result:
    """Gather all evidence on a proposal and judge its claims.

    `train` adds a training run of a minute or two, `model` a language model's. `phase` is called with the progress.
    """
    gathered: dict[Source, Evidence] = {}
    telling = Lock()

    def tell(doing: str, done: int, total: int) -> None:
        with telling:  # workers' results come in another thread
            phase(doing, done, total)

    # A daemon may have no children.
    with threads() as local, nullcontext(local) if current_process().daemon else pool() as executor:
        # A run of minutes waits for the pool, which would share its cores, and whose errors would wait for it.
        beside = executor is not local and not (train or model)

        def counting(doing: str) -> CountingExecutor:
            return CountingExecutor(executor, partial(tell, doing))

        def subject(source: Source) -> Subject:
            if source.in_pool or not beside:  # the others take a second, beside those in the pool
                tell(source.doing, 0, 0)
            known = tuple(gathered.values())
            return Subject(proposal, sampling, counting(source.doing), train, model, known)

        pooled = [source for source in sources().values() if source.in_pool and beside]
        begun = {source: source.begin(subject(source)) for source in pooled}
        for source in sources().values():
            if source not in begun:
                gathered[source] = source.gather(subject(source))
        evidence = tuple(begun[source]() if source in begun else gathered[source] for source in sources().values())
        figures = tuple(figure for found in evidence for figure in found.figures)
        again = "measuring again what decides"
        tell(again, 0, 0)
        ask = asker(sampling, counting(again), local)
        verdicts = refine(proposal, judge(proposal, figures, ask), figures, ask)
    proposed = proposal.proposed()
    return Result(
        proposal=proposal,
        headline=" ".join([headline(verdicts), *(alarm for found in evidence for alarm in found.alarms)]),
        verdicts=verdicts,
        evidence=evidence,
        method=tuple(_method(verdicts, sampling)),
        sampling=sampling,
        today=proposal.today,
        proposed=proposed,
        page=manual.proposal_page(proposal),
        provenance=_provenance(proposal, proposed),
    )


def headline(verdicts: Sequence[Verdict]) -> str:
    """Return the numbers of verdicts in a sentence."""
    counts = {j: sum(v.judgement == j for v in verdicts) for j in ("supported", "refuted", "undetermined")}
    words = [f"{counts['supported']} of {len(verdicts)} claims {'holds' if counts['supported'] == 1 else 'hold'}"]
    words.append(f"{counts['refuted'] or 'none'} {'is' if counts['refuted'] == 1 else 'are'} refuted")
    if counts["undetermined"]:
        words.append(f"{counts['undetermined']} {'is' if counts['undetermined'] == 1 else 'are'} undetermined")
    return ", ".join(words) + "."


def _method(verdicts: Sequence[Verdict], sampling: Sampling) -> Iterator[str]:
    """Yield a sentence on the figures measured again, if there are any."""
    if any(v.again for v in verdicts):
        first = sampling.fresh()
        last = max(first.fresh().seeds)
        yield (
            f"Figures that did not meet a claim's bound were measured again on seeds {min(first.seeds)} to {last}, on which "
            "nothing else was computed. A claim is refuted where one of R such figures violates the bound at level 1 - 5 %/R."
        )


def spec_sha256(proposal: Proposal, proposed: Instruction) -> str:
    """Return the SHA-256 of the proposal and both instructions, as canonical JSON."""
    own = proposal.model_dump(mode="json")
    if proposal.rate is None:  # fields younger than the reports
        del own["rate"]
    if proposal.sweep and proposal.sweep.field and not proposal.sweep.across:
        own["sweep"] = {name: own["sweep"][name] for name in ("field", "values")}
    spec: Any = [own, proposal.today.canonical(), proposed.canonical()]
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def _provenance(proposal: Proposal, proposed: Instruction) -> Provenance:
    return Provenance(
        spec_sha256=spec_sha256(proposal, proposed),
        commit=commit(),
        versions={
            "python": platform.python_version(),
            **{n: _version(n) for n in ("codesign", "numpy", "ml_dtypes")},
        },
        machine=f"{platform.system()} {platform.machine()}",
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
