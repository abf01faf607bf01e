"""Numerics evidence: errors of GEMMs with the instruction, today's software, the proposal and an exact accumulator.

The source runs one job per GEMM and tensor source, on all cores, and turns errors into figures with intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from codesign.evidence.numerics.curves import plots
from codesign.evidence.numerics.errors import FEWEST_OUTPUTS, estimates
from codesign.evidence.numerics.jobs import Held, Job, Results, drawn_together, run_together
from codesign.evidence.numerics.other_cases import of_bits, of_groups, other_cases
from codesign.evidence.numerics.sections import alarms, finding, sections
from codesign.evidence.sampling import FEWEST, LONGEST, Sampling
from codesign.evidence.source import Answer, OtherCase, Question, Search, Source, Subject, trial_of
from codesign.figures.evidence import Evidence
from codesign.figures.figure import Figure
from codesign.figures.intervals import FEWEST_CLUSTERS, Estimate, figures
from codesign.figures.metric import metric_named
from codesign.figures.words import listed
from codesign.proposal.proposal import Claim, Proposal, Value
from codesign.proposal.quantisation import largest_safe_element
from codesign.proposal.variants import LABELS, Compared, variants
from codesign.workloads.gemms import Gemm, model_source
from codesign.workloads.tensor_file import metadata
from codesign.workloads.tensors import CAPTURED, SOURCES
from codesign.workloads.weight_grid import grid_warnings
from isa_model.instruction import Instruction

BESIDE = (
    "numerics.output_error",
    "numerics.total_error",
    "numerics.quantisation_error",
    "numerics.relative_frobenius",
    "numerics.overflow_share",
)
"""Metrics reported for baselines other than today's software; a baseline that a claim names has all."""
CHANGED = "numerics.changed_share"
"""Metric of BF16 outputs; in FP32 the last bit of every sum shows."""


@dataclass(frozen=True)
class Multiplied(Question):
    """A question about the errors of a GEMM."""

    compared: tuple[Compared, ...] = ()
    """Variants to multiply with."""
    held: Held | None = None
    """Operands of an earlier question of the same search."""
    metric: str | None = None
    """Metric of the figures wanted; None: all."""

    @classmethod
    def answers(cls, questions: Sequence[Question], sampling: Sampling) -> list[Answer]:
        """Compute the figures of each question's variants, for each level, on operands drawn once."""
        asked = [q for q in questions if isinstance(q, Multiplied)]
        wanted = {q.gemm: unique(c for p in asked if p.gemm == q.gemm for c in p.ruled()) for q in asked}
        jobs = [
            Job(gemm, asked[0].tensors, asked[0].sampled(sampling), asked[0].proposal.rule, tuple(compared))
            for gemm, compared in wanted.items()
        ]
        helds = [[q.held for q in asked if q.gemm == gemm and q.held is not None] for gemm in wanted]
        results = dict(zip(wanted, run_together(jobs, helds), strict=True))
        return [q.figures([results[q.gemm][wanted[q.gemm].index(c)] for c in q.ruled()]) for q in asked]

    @property
    def data(self) -> Hashable:
        """Value that is equal for questions on tensors of one source and length of K."""
        return type(self), drawn_together(self.gemm, self.tensors), self.fresh, self.aside

    @property
    def in_process(self) -> bool:
        """True if the question keeps its operands in memory for the next one of a search."""
        return self.held is not None

    def ruled(self) -> list[Compared]:
        """Return the variants to compute, each with its rule of quantisation; with exact sums if the metric needs no others."""
        exact = self.metric is not None and metric_named(self.metric).of_operands
        return [
            c._replace(rule=c.rule or self.proposal.rule, variant="exact" if exact else c.variant)
            for c in self.compared
        ]

    def figures(self, results: Results) -> Answer:
        """Return the figures of the variants for each level."""
        bases = (self.base,) if self.base else ()
        found = estimated(self.compared, results, bases, self.metric)
        enough = enough_outputs(results)
        about = (self.gemm.name, self.tensors, found, bases)
        return [list(figures(*about, level=level, enough=enough)) for level in self.levels]


class Numerics(Source):
    """Errors of GEMMs by the bit-exact model, on sampled operands."""

    doing = "sampling"
    in_pool = True

    def gather(self, subject: Subject) -> Evidence:
        """Run every trial of the proposal and return its figures and plots."""
        return self.begin(subject)()

    def begin(self, subject: Subject) -> Callable[[], Evidence]:
        """Give all trials to the pool and return the function that waits for them and returns the evidence."""
        proposal, sampling, executor = subject.proposal, subject.sampling, subject.executor
        assert executor
        trials = proposal.trials
        compared = tuple(variants(proposal))
        together: dict[Hashable, list[Job]] = {}
        for gemm, tensors in trials:
            job = Job(gemm, tensors, sampling, proposal.rule, compared)
            together.setdefault(job.data, []).append(job)
        longest_first = sorted(together.values(), key=lambda jobs: -jobs[0].gemm.k)  # so that no core waits at the end
        curves = executor.submit(plots, proposal, sampling)
        named = (v for c in proposal.claims for v in (c.relative_to, c.of) if v)
        bases = tuple(dict.fromkeys(("software", *named)))  # every report compares with today's software
        results = executor.map(partial(_figures_of_jobs, bases), longest_first)

        def end() -> Evidence:
            made: dict[tuple[Gemm, str], list[Figure]] = {}
            for jobs, several in zip(longest_first, results, strict=True):
                made.update({(job.gemm, job.tensors): figures for job, figures in zip(jobs, several, strict=True)})
            found = [
                figure
                for trial in trials
                for figure in made[trial]
                if proposal.inputs == "bf16" or figure.metric != CHANGED
            ]
            return Evidence(
                source="numerics",
                figures=tuple(found),
                alarms=tuple(alarms(found)),
                finding=tuple(finding(proposal, found)),
                sections=tuple(sections(proposal, found, curves.result())),
                method=_method(proposal, sampling),
            )

        return end

    def again(self, proposal: Proposal, claim: Claim, figure: Figure) -> Question | None:
        """Return the question for a claim's figure on fresh seeds; on a captured tensor, which has none, on the same data."""
        gemm = trial_of(proposal, figure)
        return self._ask(proposal, claim, gemm, figure.tensors) if gemm else None

    def cases(self, proposal: Proposal, claim: Claim, figure: Figure) -> Sequence[OtherCase]:
        """Return the figure's cases on other tensors, with other lengths of K and other casts."""
        gemm = trial_of(proposal, figure)
        found = other_cases(claim.metric, gemm, figure.tensors, proposal.rule) if gemm else ()
        return [
            OtherCase(
                case.assumption,
                case.other,
                replace(
                    self._ask(
                        proposal if case.rule == proposal.rule else proposal.quantised(case.rule),
                        claim,
                        case.gemm,
                        case.tensors,
                    ),
                    aside=True,
                ),
            )
            for case in found
        ]

    def search(self, proposal: Proposal, claim: Claim, figure: Figure) -> Search | None:
        """Return the search for the fewest fraction bits or the coarsest scale groups that keep a claim."""
        gemm = trial_of(proposal, figure)
        if (
            gemm is None or proposal.multiplies_as_today
        ):  # only the path changes, so the instruction has no parameter to try
            return None
        of_sums = metric_named(claim.metric).of_sums
        search = of_bits if of_sums else of_groups
        # A search of groups asks everything at once, so that there is no next question.
        question = replace(self._ask(proposal, claim, gemm, figure.tensors), held=Held() if of_sums else None)
        return search(proposal, f"{figure.tensors} data at K = {gemm.k}", lambda spec: multiplying(question, spec))

    def _ask(self, proposal: Proposal, claim: Claim, gemm: Gemm, tensors: str) -> Multiplied:
        """Return the question for a claim's figure: its variant and the one that it is relative to."""
        known = list(variants(proposal))
        own = next(c for c in known if (c.variant, c.at) == (claim.of, claim.at))
        base = [c for c in known if (c.variant, c.at) == (claim.relative_to, None)]
        return Multiplied(proposal, gemm, tensors, claim.relative_to, compared=(own, *base), metric=claim.metric)


SOURCE = Numerics()


def multiplying(question: Multiplied, instruction: Instruction) -> Multiplied:
    """Return a question with another instruction in the proposal's place."""
    changed = (
        c._replace(instruction=instruction) if c.variant in ("proposal", "exact") else c for c in question.compared
    )
    return replace(question, compared=tuple(changed))


def _figures_of_jobs(bases: Sequence[str], jobs: Sequence[Job]) -> list[list[Figure]]:
    """Return the figures of each of several jobs with the same `data`."""
    found: list[list[Figure]] = []
    known: dict[tuple[int, ...], list[Figure]] = {}
    for job, results in zip(jobs, run_together(jobs), strict=True):
        key = tuple(map(id, results))
        if key not in known:
            known[key] = list(figures_of(job.gemm.name, job.tensors, job.variants, results, bases))
            found.append(known[key])
        else:
            found.append([f.model_copy(update={"workload": job.gemm.name}) for f in known[key]])
    return found


def figures_of(
    gemm: str,
    tensors: str,
    compared: Sequence[Compared],
    results: Results,
    bases: Sequence[str],
    level: float = 0.95,
) -> Iterator[Figure]:
    """Yield the figures of every variant on one GEMM and source from the result of `run`, with intervals of `level`.

    With fewer than 8 clusters or 256 outputs in all there are no intervals.
    """
    return figures(gemm, tensors, estimated(compared, results, bases), bases, level, enough_outputs(results))


def estimated(
    compared: Sequence[Compared], results: Results, bases: Sequence[str], metric: str | None = None
) -> dict[tuple[str, Value | None], dict[str, Estimate]]:
    """Return the estimates of each variant that are shown, or that of one metric. Variants of the same errors share them."""
    found: dict[tuple[str, Value | None], dict[str, Estimate]] = {}
    known: dict[tuple[int, bool], dict[str, Estimate]] = {}
    for each, errors in zip(compared, results, strict=True):
        shown = each.variant in LABELS or each.variant in bases
        about = id(errors), shown
        if about not in known:
            known[about] = estimates(errors, (metric,) if metric else None if shown else BESIDE)
        found[each.variant, each.at] = known[about]
    return found


def unique(variants: Iterable[Compared]) -> list[Compared]:
    """Return the distinct variants, in order."""
    found: list[Compared] = []
    for each in variants:
        if each not in found:
            found.append(each)
    return found


def enough_outputs(results: Results) -> bool:
    """Return whether there are enough outputs for intervals."""
    return bool(results) and bool(results[0].outputs.sum() >= FEWEST_OUTPUTS)


def _captures(proposal: Proposal) -> list[str]:
    """Return sentences on the origin and sampling of captured tensors."""
    files = dict.fromkeys(g.recorded.file for g, tensors in proposal.trials if tensors == CAPTURED and g.recorded)
    if not files:
        return []
    said = []
    for file in files:
        about = metadata(file) if file.suffix == ".safetensors" else {}
        said.append(
            f"{about['model']} ({about['package']}), {about['loss']}, on {about['text']}"
            if {"model", "package", "loss", "text"} <= set(about)
            else file.name
        )
    return [
        *grid_warnings(g for g, tensors in proposal.trials if tensors == CAPTURED),
        "Captured tensors are tiles of one step of a real model, both operands of a GEMM from the same Linear. A tile "
        "is chosen where the outliers are, or, if its name says so, at random. All its rows and columns are computed. "
        "Intervals are over runs of neighbouring rows (tokens in fprop and dgrad, output features in wgrad). "
        f"Sources: {'; '.join(said)}.",
    ]


def _method(proposal: Proposal, sampling: Sampling) -> tuple[str, ...]:
    output = "FP32" if proposal.inputs == "fp32" else "BF16 in fprop and dgrad and to FP32 in wgrad"
    seeds = sampling.seeds
    numbers = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 2 else ", ".join(map(str, seeds))
    return (
        f"Each GEMM is sampled: each of {len(seeds)} seeds ({numbers}) draws tensors of the true shape, of which "
        f"{sampling.rows} rows of A and {sampling.columns} columns of B are computed over the full K (beyond {LONGEST} "
        f"fewer, at least {FEWEST}, with as many elements). GEMMs whose operands are distributed alike share them. Rare tokens "
        "and channels are oversampled and weighted accordingly. Scales may depend on elements that are not computed "
        "(the largest of a block of a weight, or of a whole tensor); these are drawn from their exact distribution.",
        f"Operands are drawn as {proposal.inputs.upper()} and quantised as each instruction needs: in the groups of its "
        "scales, or, for an instruction without scales, with one scale for the whole tensor or row, which multiplies D after "
        "the sum, unrounded. Formats of 16 bits and more are scaled only if the baseline says so.",
        *_given(proposal),
        *([IN_SLICES] if proposal.in_slices else []),
        f"Today's instruction alone is {proposal.base} over all of K.{_knowledge(proposal)}",
        *_baselines(proposal),
        *([ON_THE_WAY] if proposal.path else []),
        *_captures(proposal),
        "The exact accumulator sums the proposal's own quantised operands without error and rounds once to FP32.",
        "D is computed by the bit-exact model, K filled up with zeros to whole instructions. It leaves the GEMM rounded to "
        f"{output}. The reference is an exact integer sum, rounded once to float64.",
        "Figures are pooled over all tensors of the source, each with the same weight. Intervals are 95 % confidence "
        "intervals of the pooled value with seeds as clusters. All variants share the seeds, so intervals of ratios "
        f"are paired. With fewer than {FEWEST_CLUSTERS} seeds or {FEWEST_OUTPUTS} "
        "outputs in all there is no interval, and nothing is decided. Other cases of a deciding figure are computed on the "
        f"first {len(sampling.half().seeds)} seeds.",
        f"Shapes: {'; '.join(sorted({model_source(w) for w in proposal.workloads}))}.",
        *(f"Tensors `{name}`: {SOURCES[name].description}" for name in proposal.tensors),
    )


def _given(proposal: Proposal) -> list[str]:
    """Return a sentence on the format that weights are given in, if it is not BF16."""
    cast = proposal.weights
    if cast is None:
        return []
    assert cast.scale
    assert cast.group
    return [
        f"Weights are numbers of {cast.to.name} times {cast.scale.name} scales, one for {cast.group[1]} input features, before "
        "any variant quantises them; errors are against the product of these numbers."
    ]


IN_SLICES = (
    "An operand in slices is their sum; the instruction multiplies products of slices one after the other. Quantised operands "
    "then stand for these products: the product of operands is their sum, and what other products would add is an error of "
    "quantisation."
)


def _knowledge(proposal: Proposal) -> str:
    """Return a warning in words if the rules of the base were compared with no chip."""
    return {
        "documented": " Its rules are the vendor's; no output of the chip was compared.",
        "assumed": " Its rules are assumed: no source gives them. What follows holds only as far as they do.",
    }.get(proposal.today.known or "", "")


ON_THE_WAY = (
    "The path's tensors pass through its steps before every GEMM that takes them; with today's software, through the steps of "
    "its path. Fprop and dgrad take a tensor before it is kept or transposed, wgrad takes it transposed, at the end. If no "
    "step transposes it, a kernel casts it along tokens: from BF16 if memory holds that, or if the tensor is a gradient that "
    "a kernel casts (in both layouts); otherwise from the result of the cast before. A tensor that arrives in a format and "
    "with scales that the instruction takes is multiplied as it is; any other is cast once more. A captured tile is 64 "
    "features wide in wgrad."
)


def _baselines(proposal: Proposal) -> list[str]:
    """Return sentences on today's software and the other baselines."""
    practice = proposal.practice
    said = [f"Today's software is {practice.title}: {practice.about} ({practice.source})."]
    if proposal.practice_changes:
        said[0] = (
            f"Today's software is {practice.title} ({practice.source}), changed: {listed(proposal.practice_changes)}."
        )
    limit = largest_safe_element(proposal.software_instruction, max(g.k for g, _ in proposal.trials))
    if practice.quantisation.headroom and limit:
        said.append(
            f"Its largest element is mapped to {limit:g} at the longest K, so that no sum can exceed the accumulator. Operands "
            "of the proposal and of today's instruction alone use the whole format unless `quantisation` asks for headroom."
        )
    said += [f"Another baseline, {other.title}: {other.about} ({other.source})." for other in proposal.others]
    return said
