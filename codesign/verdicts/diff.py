"""Difference of two results: fields of the spec, verdicts that turned, and figures outside each other's intervals."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from math import inf, isclose
from typing import Any, Literal

from codesign.figures.figure import Figure
from codesign.figures.metric import metric_named
from codesign.proposal.proposal import Claim
from codesign.verdicts.evaluate import Result
from codesign.verdicts.readings import Reading, read
from codesign.verdicts.verdict import Verdict
from isa_model.stage import Spec

SAME = 1e-9
"""Relative difference up to which two numbers are the same; sums of floats may differ in their last bits."""
_PROSE = {"name", "description", "source", "checked"}
Change = Literal["better", "worse"]


class FieldChange(Spec):
    """A field of the proposal or of an instruction that differs."""

    field: str
    """Path of the field, such as `proposed.stages.fuse.fraction_bits`."""
    old: Any = None
    """Old value; None: there was none."""
    new: Any = None
    """New value; None: there is none."""


class VerdictChange(Spec):
    """A claim whose verdict turned, or that only one of the results has."""

    claim: str
    old: str = ""
    """Old verdict; empty: the claim is new."""
    new: str = ""
    """New verdict; empty: the claim is gone."""

    @property
    def change(self) -> Change | Literal[""]:
        """Direction of the change; empty if only one of the results has the claim."""
        order = ("refuted", "undetermined", "supported")
        if not (self.old and self.new):
            return ""
        return "better" if order.index(self.new) > order.index(self.old) else "worse"


class FigureChange(Spec):
    """A figure whose old and new intervals do not meet."""

    old: Figure
    new: Figure

    @property
    def change(self) -> Change:
        """Direction of the change, by what the metric counts as better."""
        badness = metric_named(self.new.metric).badness
        return "worse" if badness(self.new.value) > badness(self.old.value) else "better"

    @property
    def name(self) -> str:
        """Metric, variant and place of the figure."""
        variant = self.new.variant if self.new.at is None else f"{self.new.variant} at {self.new.at}"
        return ", ".join(filter(None, (self.new.metric, variant, self.new.workload, self.new.tensors)))

    @property
    def factor(self) -> float:
        """Ratio of the larger magnitude to the smaller; infinite if one is zero or not finite."""
        old, new = (abs(f.value) if f.value is not None else inf for f in (self.old, self.new))
        least, most = sorted((old, new))
        return most / least if least and most < inf else inf


class Difference(Spec):
    """What changed from one result to another."""

    spec: tuple[FieldChange, ...]
    """Fields of the proposal and of both instructions."""
    made: tuple[FieldChange, ...]
    """What the results were made with: commit, versions, machine, sampling."""
    verdicts: tuple[VerdictChange, ...]
    figures: tuple[FigureChange, ...]
    """Figures outside each other's intervals, the largest change first."""
    compared: int
    """Number of figures that both results have."""
    moved: int
    """Number of those that differ within their intervals."""
    undecided: int
    """Number of those that differ, but have no interval because too little was sampled."""
    added: int
    """Number of figures of the new result alone."""
    removed: int
    """Number of figures of the old result alone."""

    @property
    def changed(self) -> bool:
        """True if the spec, a verdict or a figure differs beyond chance."""
        return bool(self.spec or self.verdicts or self.figures or self.added or self.removed)


def diff(old: Result, new: Result) -> Difference:
    """Return what changed from one result to another.

    A figure changed if its old and new 95 % intervals do not meet; one that depends on no sample, if its value differs.
    """
    before, after = ({_place(f): f for f in result.figures} for result in (old, new))
    both = [(before[place], after[place]) for place in before if place in after]
    differing = [pair for pair in both if not _same(*map(read, pair))]
    decided = [pair for pair in differing if all(read(f).ends for f in pair)]
    changed = [FigureChange(old=a, new=b) for a, b in decided if _apart(read(a), read(b))]
    return Difference(
        spec=tuple(_fields(_spec(old), _spec(new))),
        made=tuple(_fields(_made(old), _made(new))),
        verdicts=tuple(_verdicts(old, new)),
        figures=tuple(sorted(changed, key=lambda c: -c.factor)),
        compared=len(both),
        moved=len(decided) - len(changed),
        undecided=len(differing) - len(decided),
        added=len(after) - len(both),
        removed=len(before) - len(both),
    )


def _place(figure: Figure) -> tuple[Any, ...]:
    return figure.metric, figure.variant, figure.at, figure.workload, figure.tensors


def _same(a: Reading, b: Reading) -> bool:
    return all(
        x == y or isclose(x, y, rel_tol=SAME)
        for x, y in zip((a.value, *(a.ends or ())), (b.value, *(b.ends or ())), strict=False)
    )


def _apart(a: Reading, b: Reading) -> bool:
    """Return whether two intervals do not meet."""
    assert a.ends
    assert b.ends
    return a.ends[1] < b.ends[0] or b.ends[1] < a.ends[0]


def _verdicts(old: Result, new: Result) -> Iterator[VerdictChange]:
    before, after = ({_bare(v.claim): v for v in result.verdicts} for result in (old, new))

    def judged(found: Verdict | None) -> str:
        return found.judgement if found else ""

    for key in dict.fromkeys(chain(before, after)):
        one, other = before.get(key), after.get(key)
        if judged(one) != judged(other):
            statement = next(v.statement for v in (one, other) if v)
            yield VerdictChange(claim=statement, old=judged(one), new=judged(other))


def _bare(claim: Claim) -> str:
    """Return a claim as text without its source, which does not change what is claimed."""
    return claim.model_dump_json(exclude={"source"})


def _spec(result: Result) -> dict[str, Any]:
    """Return the leaves of a proposal without its claims, and of its instructions without their prose, by path.

    What the proposal changes is left out, as the proposed instruction shows what comes of it.
    """
    data = result.proposal.model_dump(mode="json", exclude={"claims", "change"})
    for name, instruction in (("today", result.today), ("proposed", result.proposed)):
        data[name] = instruction.model_dump(mode="json", exclude=_PROSE, exclude_defaults=True)
    return dict(_leaves(data, ""))


def _made(result: Result) -> dict[str, Any]:
    about = result.provenance.model_dump(mode="json", exclude={"spec_sha256"})
    return dict(_leaves({**about, "sampling": result.sampling.model_dump(mode="json")}, ""))


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and value of every leaf of plain data; a list is a leaf."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}".lstrip("."))
    else:
        yield path, node


def _fields(old: dict[str, Any], new: dict[str, Any]) -> Iterator[FieldChange]:
    for path in dict.fromkeys(chain(old, new)):
        if old.get(path) != new.get(path):
            yield FieldChange(field=path, old=old.get(path), new=new.get(path))
