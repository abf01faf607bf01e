"""Enquiries: judgements that may need further figures.

An enquiry is a generator: it yields questions, is sent their answers, and returns its result. `pursue` runs many of them
side by side, so that the questions of all are answered at once, on all cores.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from codesign.evidence.sampling import Sampling
from codesign.evidence.source import Answer, Question

Found = TypeVar("Found")
Ask = Callable[[Sequence[Question]], Sequence[Answer]]
Enquiry = Generator[Sequence[Question], Sequence[Answer], Found]


def answer(sampling: Sampling, *questions: Question) -> Sequence[Answer]:
    """Compute the figures that questions on the same data ask for."""
    return questions[0].answers(questions, sampling)


def asker(sampling: Sampling, executor: Executor, threads: Executor) -> Ask:
    """Return a function that answers questions on all cores; those on the same data are answered together.

    `threads` are those of this process, for questions that leave something in its memory.
    """

    def ask(questions: Sequence[Question]) -> Sequence[Answer]:
        together: dict[Hashable, list[int]] = {}
        for i, question in enumerate(questions):
            together.setdefault(question.data, []).append(i)
        order = sorted(together.values(), key=lambda found: -questions[found[0]].gemm.k)  # the longest first
        answers = []
        for found in order:
            asked = [questions[i] for i in found]
            where = threads if any(question.in_process for question in asked) else executor
            answers.append(where.submit(answer, sampling, *asked))
        given = {
            i: one
            for found, several in zip(order, answers, strict=True)
            for i, one in zip(found, several.result(), strict=True)
        }
        return [given[i] for i in range(len(questions))]

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
