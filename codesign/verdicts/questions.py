"""Enquiries: judgements that may need further figures.

An enquiry is a generator: it yields questions, is sent their answers, and returns its result. `pursue` runs many of them
side by side, so that the questions of all are answered at once, on all cores.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

from codesign.evidence.sampling import Sampling
from codesign.evidence.source import Answer, Question

Found = TypeVar("Found")
Ask = Callable[[Sequence[Question]], Sequence[Answer]]
Enquiry = Generator[Sequence[Question], Sequence[Answer], Found]


def answer(sampling: Sampling, question: Question) -> Answer:
    """Compute the figures that a question asks for."""
    return question.answer(sampling)


def asker(sampling: Sampling, executor: Executor) -> Ask:
    """Return a function that answers questions on all cores; a question asked twice is computed once."""

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
