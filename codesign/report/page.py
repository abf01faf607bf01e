"""A report as a list of parts, which HTML and Markdown both show completely and in this order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from codesign.figures.evidence import Evidence, Section
from codesign.figures.figure import Kind, Plot
from codesign.figures.words import listed, percent
from codesign.report.pictures import FARTHEST, ROOM, in_words
from codesign.report.summary import by_parameter, compared
from codesign.report.tables import DrawnTable, draw, interval, number
from codesign.verdicts.break_even import sentences
from codesign.verdicts.evaluate import Result
from codesign.verdicts.verdict import BreakEven, Verdict

MARKS = {"supported": "✓", "refuted": "✗", "undetermined": "?"}
KINDS = (
    "Every figure has a kind. Computed: by the bit-exact model or a training run, on the data stated. "
    "Measured: on hardware, with its record. Modelled: by counting, by synthesis or by a fitted model. Assumed: "
    "from numbers in the literature or a guess, which its source names."
)
VERDICTS = (
    "A claim is supported if every figure it covers meets the bound with its whole interval. Figures that do not "
    "are measured again on fresh seeds, and the claim is refuted if one of them violates the bound there, at a level "
    "corrected for their number. Otherwise it is undetermined."
)


@dataclass(frozen=True)
class Picture:
    """A plot's place in the report."""

    name: str
    """Name of its SVG file, without the suffix."""
    title: str
    caption: str
    kinds: tuple[str, ...]
    """Kinds of its figures."""


@dataclass(frozen=True)
class Listing:
    """Lines of text under a title."""

    title: str
    lines: tuple[str, ...]
    numbered: bool = False


@dataclass(frozen=True)
class Part:
    """A part of the report below the verdicts."""

    title: str
    sentences: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[DrawnTable, ...] = ()
    listings: tuple[Listing, ...] = ()
    code: str = ""
    notes: tuple[str, ...] = ()
    folded: bool = False
    """True if HTML shows its tables closed."""

    @property
    def anchor(self) -> str:
        """Name of the part in addresses."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class VerdictText:
    """A verdict in words."""

    judgement: str
    mark: str
    claim: str
    kind: Kind | None
    """Kind of the deciding figure; None: no figure decided."""
    decided: str
    """Deciding figure, or the reason for having none."""
    details: tuple[str, ...]
    """Sentences on the reason, the margin and the break-even."""


def verdict_texts(result: Result) -> list[VerdictText]:
    """Return the verdicts in words."""
    return [
        VerdictText(
            judgement=v.judgement,
            mark=MARKS[v.judgement],
            claim=f"{in_words(v)} ({v.claim.metric})",
            kind=v.deciding.kind if v.deciding else None,
            decided=deciding(v),
            details=tuple(_details(v)),
        )
        for v in result.verdicts
    ]


def deciding(verdict: Verdict) -> str:
    """Return the figure that decided, in words; the reason if none did."""
    figure = verdict.deciding
    if figure is None:
        return verdict.reason
    return (
        interval(figure)
        + (f" on {figure.workload}" if figure.workload else f": {figure.source}")
        + (f", {figure.tensors}" if figure.tensors else "")
    )


def margin(verdict: Verdict) -> str:
    """Return the distance to the bound in words; empty if there is none."""
    if verdict.margin is None:
        return ""
    claim, share = verdict.claim, abs(verdict.margin)
    if share < 0.005:
        return "the value is at the bound" if verdict.margin >= 0 else "the value just misses the bound"
    if claim.at_most is not None and claim.at_least is not None:
        return f"the value is {percent(share)} {'inside' if verdict.margin >= 0 else 'outside'} its bounds"
    above = (verdict.margin >= 0) == (claim.at_least is not None)
    side = f"{'above' if above else 'below'} the bound"
    if not (claim.at_most or claim.at_least):
        return f"the value is {number(share)} {side}"
    if above and share >= 2:
        return f"the value is {1 + share:.3g} times the bound"
    return f"the value is {'over 99 %' if 0.99 < share < 1 else percent(share)} {side}"


def _details(verdict: Verdict) -> Iterator[str]:
    if verdict.deciding:
        covered = f"{verdict.covered} figure{'s' if verdict.covered != 1 else ''} judged"
        yield "; ".join(filter(None, [covered, verdict.reason, margin(verdict)]))
    if verdict.claim.source:
        yield f"Claimed by: {verdict.claim.source}"
    yield from _break_even(verdict.break_even)


def _break_even(found: Sequence[BreakEven]) -> Iterator[str]:
    """Yield a sentence for each parameter; conditions with a cheapest value share one."""
    for parameter, own in by_parameter(found).items():
        if len(own) > 1 and all(one.limit is not None and _plain(one) for one in own):
            limits = [f"{one.limit} on {one.condition}" for one in own]
            least = "least" if own[0].rising else "greatest"
            best = f"the {least} value that meets the bound is {listed(limits)}"
            yield f"Break-even of {parameter}: {best}; the proposal has {own[0].own}"
        else:
            yield from (f"Break-even: {sentence}" for sentence in sentences(own))


def _plain(found: BreakEven) -> bool:
    """Return whether every value tried on the better side of the limit meets the bound, and none on the worse side."""
    return (
        len(
            [
                sentence
                for sentence in sentences([found])
                if "meet it too" not in sentence and "meets it too" not in sentence
            ]
        )
        == 1
    )


def parts(result: Result) -> Iterator[Part]:
    """Yield the parts in order: evidence, sensitivity of the verdicts, the instruction, every figure, the method."""
    sections = [(evidence, section) for evidence in result.evidence for section in _opened(evidence)]
    yield from (_part(e, s) for e, s in sections if not s.folded)
    if pictures := tuple(_depending(result)):
        note = (
            "The figure that decided a claim, with one assumption changed. Orange: a case reverses the verdict, as its whole "
            "interval lies on the other side of the bound, which is shaded."
        )
        yield Part(title="What the verdicts depend on", sentences=(note,), pictures=pictures)
    yield _instruction(result)
    yield from (_part(e, s) for e, s in sections if s.folded)
    yield _method(result)


def _opened(evidence: Evidence) -> tuple[Section, ...]:
    """Return the sections of one kind of evidence, its finding at the head of the first."""
    if not evidence.sections or not evidence.finding:
        return evidence.sections
    first, *rest = evidence.sections
    return (first.model_copy(update={"sentences": (" ".join(evidence.finding), *first.sentences)}), *rest)


def plots(result: Result) -> list[Plot]:
    """Return the plots of all evidence."""
    return [plot for evidence in result.evidence for plot in evidence.plots]


def gains(result: Result) -> Picture | None:
    """Return the picture of gain against cost; None if nothing can be compared with today."""
    kinds = dict.fromkeys(c.own.kind for c in compared(result) if c.ratio)
    about = (
        f"Each quantity over today's software, where the proposal's is worst, with its interval. Arrows: more than "
        f"{FARTHEST:g} times better or worse."
    )
    return Picture("gain-and-cost", "Gain against cost", about, tuple(kinds)) if kinds else None


def bounds(result: Result) -> Picture | None:
    """Return the picture of all claims against their bounds; None if no figure decided."""
    kinds = dict.fromkeys(v.deciding.kind for v in result.verdicts if v.deciding)
    about = (
        f"The figure that decided each claim, with its interval, as a ratio to the claim's bound. Arrows: more than {ROOM:g} "
        "times from it."
    )
    return Picture("claims", "Claims against their bounds", about, tuple(kinds)) if kinds else None


def _part(evidence: Evidence, section: Section) -> Part:
    return Part(
        title=section.title,
        sentences=section.sentences,
        pictures=tuple(Picture(p.name, p.title, p.full_caption, (p.kind,)) for p in section.plots),
        tables=tuple(draw(table, evidence.figures) for table in section.tables),
        notes=section.notes,
        folded=section.folded,
    )


def _depending(result: Result) -> Iterator[Picture]:
    for i, v in enumerate(result.verdicts, 1):
        if v.deciding is None or not v.bars:
            continue
        where = ", ".join(filter(None, (v.deciding.workload, v.deciding.tensors)))
        turning = [f"{bar.assumption}: {', '.join(bar.reversed_by)}" for bar in v.bars if bar.reversed_by]
        caption = f"On {where}. " if where else ""
        caption += f"Reversed by {'; '.join(turning)}." if turning else "No case reverses it."
        yield Picture(f"claim-{i}", f"{i} {MARKS[v.judgement]} {in_words(v)}", caption, (v.deciding.kind,))


def _instruction(result: Result) -> Part:
    import yaml

    spec = result.proposed.model_dump(mode="json", exclude_defaults=True, exclude={"source", "checked", "description"})
    listings = [Listing(s.title, tuple(s.lines), s.steps) for s in result.page]
    if result.proposal.open_questions:
        listings.append(Listing("Open questions", result.proposal.open_questions))
    return Part(
        title="What the instruction computes",
        sentences=(f"Written from the spec that the model executes; base instruction `{result.proposal.base}`.",),
        listings=tuple(listings),
        code=yaml.safe_dump(spec, sort_keys=False, width=100, default_flow_style=None),
    )


def _method(result: Result) -> Part:
    about = result.provenance
    provenance = (
        f"GPU: {about.gpu}",
        f"spec SHA-256: {about.spec_sha256}",
        f"commit: {about.commit or 'not a git checkout'}",
        f"versions: {', '.join(f'{name} {v}' for name, v in about.versions.items())}",
        f"machine: {about.machine}",
        f"seeds: {', '.join(map(str, result.sampling.seeds))}",
        f"schema: result.json, version {result.schema_version}",
    )
    method = (*(line for evidence in result.evidence for line in evidence.method), *result.method)
    return Part(
        title="Method",
        listings=(Listing("", method), Listing("Provenance", provenance)),
        notes=(KINDS, VERDICTS),
    )
