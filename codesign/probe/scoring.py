"""Hypotheses run on a box's answers: what each leaves unexplained, weighed by experiment."""

from __future__ import annotations

from dataclasses import dataclass
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.probe.box import Lines, Session, answers
from codesign.probe.hypotheses import Data, size
from codesign.probe.space import Space
from isa_model.codec import decode
from isa_model.float64 import Codes
from isa_model.formats import Format
from isa_model.instruction import Instruction


@dataclass(frozen=True)
class Scored:
    """A hypothesis with the answers it does not explain."""

    hypothesis: Data
    spec: Instruction
    wrong: NDArray[np.bool_]
    """True for each question whose answer differs."""
    loss: float
    """Sum over experiments of how wrong the answers are on average."""

    @property
    def size(self) -> tuple[float, ...]:
        """Measure of how simple a spec is (space.size): of two that explain the same, the simpler is kept."""
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
        self._picked: tuple[Any, Lines] = (None, self.signature.empty(0))
        """The last choice of questions, with the questions."""
        self.deadline = process_time() + self.budget_s

    @property
    def is_over(self) -> bool:
        """True if the time is spent."""
        return process_time() > self.deadline

    @property
    def unexplained(self) -> str:
        """Reason for a refusal of a box that no spec explains."""
        reason = "no spec that was tried gives the box's answers"
        return f"{reason}, and the time of {self.budget_s:g} s was spent" if self.is_over else reason

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
        names, which = np.unique(self.session.experiments, return_inverse=True)
        self.weights = 1.0 / np.bincount(which, minlength=len(names))[which]
        self.misses = np.pad(self.misses, (0, len(which) - len(self.misses)))
        assert self.session.d is not None
        fmt, d = self.signature.spec.accumulator, self.session.d
        self.places = _ordered(fmt, d)
        if fmt.nan_code is not None:
            codes, counts = np.unique(d, return_counts=True)
            order = np.argsort(-counts, kind="stable")
            self.space.nans = [int(x) for x in codes[order] if decode(fmt, int(x)).special == "nan"]

    def score(self, hypothesis: Data, which: NDArray[np.int64] | None = None) -> Scored | None:
        """Return a hypothesis with what it leaves unexplained, of all questions or of some; None if it is no spec."""
        spec = self.space.spec(hypothesis)
        pool, d = self.session.pool, self.session.d
        if spec is None or pool is None or d is None:
            return None
        some = slice(None) if which is None else which
        if which is None:
            got = self.run(spec, pool)
        else:
            if self._picked[0] is not which:
                self._picked = which, Lines(*(None if x is None else x.astype(np.uint64) for x in pool.pick(which)))  # type: ignore[arg-type]
            got = self.run(spec, self._picked[1])
        wrong = got != d[some]
        fmt = self.signature.spec.accumulator
        # An answer that is off by a few of its last places is less wrong than another: this shows the way to the right bits.
        steps = np.abs(_ordered(fmt, got[wrong]) - self.places[some][wrong])
        amount = 0.5 + np.log2(1.0 + steps) / (2 * fmt.storage_bits)
        if which is None:
            self.misses += wrong / max(int(wrong.sum()), 1)
        return Scored(hypothesis, spec, wrong, float(self.weights[some][wrong] @ amount))

    def explains(self, hypothesis: Data) -> Scored | None:
        """Return a hypothesis if it explains every answer; the questions that most hypotheses miss are tried first."""
        hard = np.argsort(-self.misses, kind="stable")[:150]
        first = self.score(hypothesis, hard)
        if first is None or first.wrong.any():
            return None
        x = self.score(hypothesis)
        return x if x is not None and not x.wrong.any() else None


def _ordered(fmt: Format, codes: Codes) -> NDArray[np.float64]:
    """Return codes as numbers in the order of what they mean."""
    if fmt.kind == "integer":
        whole = codes.astype(np.float64)
        return np.where(whole >= 2.0 ** (fmt.bits - 1), whole - 2.0**fmt.bits, whole) if fmt.signed else whole
    sign = codes.dtype.type(1 << (fmt.bits - 1))
    magnitude = (codes & ~sign).astype(np.float64) / (1 << fmt.low_padding)
    return np.where(codes & sign, -magnitude, magnitude)
