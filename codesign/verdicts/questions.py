"""Questions: figures that judging needs and that were not computed at first, and who answers them.

An enquiry is a generator: it yields questions, is sent their answers, and returns what it found. `pursue` runs many of them
side by side, so that the questions of all are answered at once, on all cores.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from codesign.evidence.casts.source import figures_of_path
from codesign.evidence.numerics.source import Job, figures_of, run
from codesign.evidence.numerics.trial import Sampling
from codesign.figures.figure import Figure
from codesign.proposal.proposal import Proposal, Variant
from codesign.proposal.variants import Compared
from codesign.workloads.gemms import Gemm

Found = TypeVar("Found")


@dataclass(frozen=True)
class Question:
    """What are the figures of one GEMM on one tensor source, under a proposal that may differ from the one judged?"""

    proposal: Proposal
    gemm: Gemm
    tensors: str
    compared: tuple[Compared, ...]
    """Variants to multiply with; empty: the question is about the operand that the path delivers."""
    base: Variant | None = None
    """Variant to which ratios are wanted."""
    fresh: bool = False
    """Whether to use fresh seeds, twice as many, on which no other figure was computed."""
    levels: tuple[float, ...] = (0.95,)
    """Levels of the intervals wanted."""


Answer = Sequence[Sequence[Figure]]
"""Figures for each requested level."""
Ask = Callable[[Sequence[Question]], Sequence[Answer]]
Enquiry = Generator[Sequence[Question], Sequence[Answer], Found]


def answer(sampling: Sampling, question: Question) -> Answer:
    """Compute the figures that a question asks for."""
    if question.fresh:
        first = sampling.fresh()
        sampling = first.model_copy(update={"seeds": (*first.seeds, *first.fresh().seeds)})
    about, gemm, tensors = question.proposal, question.gemm, question.tensors
    if not question.compared:
        return [figures_of_path(about, gemm, tensors, sampling.seeds, level) for level in question.levels]
    results = run(Job(gemm, tensors, sampling, about, question.compared))
    bases = (question.base,) if question.base else ()
    return [
        list(figures_of(gemm.name, tensors, question.compared, results, bases, level=level))
        for level in question.levels
    ]


def asker(sampling: Sampling, executor: Executor) -> Ask:
    """Return a function that answers questions on all cores; a question asked twice is computed once."""
    import pickle

    def ask(questions: Sequence[Question]) -> Sequence[Answer]:
        once = {pickle.dumps(q): q for q in questions}
        found = list(executor.map(partial(answer, sampling), once.values()))
        order = {key: i for i, key in enumerate(once)}
        return [found[order[pickle.dumps(q)]] for q in questions]

    return ask


def pursue(enquiries: Sequence[Enquiry[Found]], ask: Ask | None) -> list[Found]:
    """Run enquiries to their ends and return what each found. Without `ask`, every answer is empty."""
    found: dict[int, Found] = {}
    waiting: dict[int, Sequence[Question]] = {}
    answers: dict[int, Sequence[Answer]] = {}
    moving = list(range(len(enquiries)))
    while moving:
        for i in moving:
            try:
                waiting[i] = enquiries[i].send(answers[i]) if i in answers else next(enquiries[i])
            except StopIteration as end:
                found[i] = end.value
        moving = list(waiting)
        asked = [q for i in moving for q in waiting[i]]
        given = iter(ask(asked) if ask and asked else ())
        answers = {i: [next(given) for _ in waiting[i]] if ask else () for i in moving}
        waiting = {}
    return [found[i] for i in range(len(enquiries))]
