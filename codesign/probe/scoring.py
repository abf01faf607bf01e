"""Hypotheses run on a box's answers: what each leaves unexplained, weighed by experiment."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.probe.box import Ended, Lines, Refusal, Session, answers
from codesign.probe.hypotheses import Data, size
from codesign.probe.space import Space
from isa_model.codec import decode
from isa_model.engines.lines import Batch
from isa_model.float64 import Codes
from isa_model.formats import Format
from isa_model.instruction import Instruction

ALL = slice(None)
"""Every question."""


@dataclass(frozen=True)
class Scored:
    """A hypothesis with the answers it does not explain."""

    hypothesis: Data
    spec: Instruction
    wrong: NDArray[np.bool_]
    """True for each question whose answer differs."""
    loss: float
    """Sum over experiments of how wrong the answers are on average."""

    @cached_property
    def size(self) -> tuple[float, ...]:
        """Measure of how simple a spec is (hypotheses.size): of two that explain the same, the simpler is kept."""
        return size(self.hypothesis)

    @property
    def rank(self) -> tuple[float, tuple[float, ...]]:
        """What is explained, then how simple it is: less is better."""
        return self.loss, self.size


@dataclass
class Scoring:
    """The box's answers, and the hypotheses run on them."""

    session: Session
    budget_s: float = 60.0
    """Seconds of processor time after which the best spec so far counts as the nearest."""
    seed: int = 0
    tried: int = 0
    """Number of hypotheses run."""
    best: Scored | None = None

    def __post_init__(self) -> None:
        self.signature = self.session.box.signature
        self.space = Space(self.signature)
        self.rng = np.random.default_rng(self.seed)
        self.misses: NDArray[np.float64] = np.zeros(0)
        """How often each question was among the few that a hypothesis did not explain."""
        self.weights: NDArray[np.float64] = np.zeros(0)
        """What each question counts: every experiment as much as any other."""
        self.places: NDArray[np.float64] = np.zeros(0)
        """Place of each answer in the order of D's numbers."""
        self._picked: tuple[Any, Batch] | None = None
        """The last choice of questions, with the questions."""
        self._whole: Batch | None = None
        """All questions."""
        self._hard: tuple[int, NDArray[np.int64], Batch] | None = None
        """All questions, those that most hypotheses missed first, and how often they may be used in this order."""
        self.deadline = self.now + self.budget_s

    @property
    def now(self) -> float:
        """Seconds of processor time so far, without the box's own: a slow box leaves a search as much time as a fast one."""
        return process_time() - self.session.box_s

    @property
    def is_over(self) -> bool:
        """True if the time is spent."""
        return self.now > self.deadline

    @property
    def unexplained(self) -> Refusal:
        """Refusal of a box that no spec explains, or of going on with a search whose time ended."""
        if self.is_over:
            return Ended(f"the time of {self.budget_s:g} s ended before a spec gave all of the box's answers")
        return Refusal("no spec that the search reaches gives the box's answers")

    def run(self, spec: Instruction, lines: Lines) -> Codes:
        """Return the answers of a spec."""
        self.tried += 1
        return answers(spec, lines)

    def keep(self, experiments: list[str], lines: Lines, d: Codes) -> None:
        """Add answered questions to those that hypotheses are scored on."""
        self.session.keep(experiments, lines, d)
        self.weigh()

    def weigh(self) -> None:
        """Weigh the questions: every experiment counts the same."""
        self._picked = self._whole = self._hard = None
        names, which = np.unique(self.session.experiments, return_inverse=True)
        self.weights = 1.0 / np.bincount(which, minlength=len(names))[which]
        self.misses = np.pad(self.misses, (0, len(which) - len(self.misses)))
        fmt, d = self.signature.spec.accumulator, self.session.d
        self.places = ordered(fmt, d)
        if fmt.nan_code is not None:
            codes, counts = np.unique(d, return_counts=True)
            order = np.argsort(-counts, kind="stable")
            self.space.nans = [int(x) for x in codes[order] if decode(fmt, int(x)).special == "nan"]

    def score(self, hypothesis: Data, which: Any = ALL, bound: float = np.inf) -> Scored | None:
        """Return a hypothesis with what it leaves unexplained, of all questions or of some; None if it is no spec, or if its
        loss exceeds `bound`."""
        spec, d = self.space.spec(hypothesis), self.session.d[which]
        if spec is None:
            return None
        self.tried += 1
        # An answer that differs counts half of its weight at least.
        got = self._known(which).dots(spec, bound * 2 + 1e-9)
        if len(got) < len(d):
            return None
        wrong = got != d
        fmt = self.signature.spec.accumulator
        # An answer that is off by a few of its last places is less wrong than another: this shows the way to the right bits.
        steps = np.abs(ordered(fmt, got[wrong]) - self.places[which][wrong])
        amount = 0.5 + np.log2(1.0 + steps) / (2 * fmt.storage_bits)
        if which is ALL:
            self.misses += wrong / max(int(wrong.sum()), 1)
        return Scored(hypothesis, spec, wrong, float(self.weights[which][wrong] @ amount))

    def _known(self, which: Any) -> Batch:
        """Return `batch` of all questions, or of some; that of the last choice is kept."""
        if which is ALL:
            self._whole = self._whole or self.batch(ALL)
            return self._whole
        if self._picked is None or self._picked[0] is not which:
            self._picked = which, self.batch(which)
        return self._picked[1]

    def batch(self, which: Any, weighed: bool = True) -> Batch:
        """Return some of the questions, to run hypotheses on."""
        pool, d = self.session.pool, self.session.d
        return Batch(*pool.pick(which), expected=d[which], weights=self.weights[which] if weighed else None)

    def explains(self, hypothesis: Data) -> Scored | None:
        """Return a hypothesis if it explains every answer; the questions that most hypotheses miss are tried first."""
        spec, d = self.space.spec(hypothesis), self.session.d
        if spec is None:
            return None
        if self._hard is None or not self._hard[0]:
            order = np.argsort(-self.misses, kind="stable")
            self._hard = 400, order, self.batch(order, weighed=False)
        left, order, batch = self._hard
        self._hard = left - 1, order, batch
        self.tried += 1
        got = batch.dots(spec, 0.0)
        wrong = order[: len(got)][got != d[order[: len(got)]]]
        if wrong.size:
            self.misses[wrong[0]] += 1.0
            return None
        return Scored(hypothesis, spec, np.zeros(len(d), bool), 0.0)


def ordered(fmt: Format, codes: Codes) -> NDArray[np.float64]:
    """Return codes as numbers in the order of what they mean."""
    if fmt.kind == "integer":
        whole = codes.astype(np.float64)
        return np.where(whole >= 2.0 ** (fmt.bits - 1), whole - 2.0**fmt.bits, whole) if fmt.signed else whole
    sign = codes.dtype.type(1 << (fmt.bits - 1))
    magnitude = (codes & ~sign).astype(np.float64) / (1 << fmt.low_padding)
    return np.where(codes & sign, -magnitude, magnitude)
