"""The fit: a spec that explains the answers, then questions on which it and its neighbours disagree.

1. `SpecSearch.search` finds a spec that explains every answer.
2. `Fit.challenge` looks for questions on which the spec and its neighbours differ, at random and by directed searches
   (directed.py), and asks them, until none is left.
3. `Fit.check` asks many questions more; those that the spec does not answer as the box does lead back to 1.

A spec that leaves one answer unexplained is no result: `Refusal` carries the nearest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, combinations

import numpy as np

from codesign.probe.box import Ended, Lines, Refusal
from codesign.probe.directed import Directed
from codesign.probe.hypotheses import Data, Path, key_of, moved, size
from codesign.probe.questions import adversarial, mutated
from codesign.probe.scoring import ALL, Scored
from codesign.probe.search import SpecSearch
from codesign.probe.structures import arranged, interleaved, rules_of, structures

Rivals = dict[str, tuple[tuple[Path, ...], Data]]
QUESTIONS = 3000
"""Questions searched at a time for one on which specs differ."""
MOST_LISTED = 60
"""Rivals that differ in two fields and that a certificate lists, at most."""
GENERATIONS = (0, 3, 20)
"""Generations of a directed search without a step forward: for all rivals, then for those left, last for those of one field."""
DIRECTED = 4
"""Time of all directed searches, as a multiple of that of a search."""
FEW = 30
"""Answers at most that one change may contradict, so that another might make up for it."""


@dataclass
class Fit(SpecSearch):
    """The state of a probe: a search, and what no question told from its result."""

    alike: Rivals = field(default_factory=dict)
    """Neighbours of the result that no question told from it, by their data: the fields that differ, and the hypothesis."""
    ended: str = ""
    """Reason why rivals were not asked; empty if they were."""
    searched: int = 0
    """Questions searched for one on which they differ."""
    untold: set[tuple[str, str, int]] = field(default_factory=set)
    """Directed searches that found nothing: the hypothesis, the rival, and how long they went on without a step forward."""
    directed_s: float = 0.0
    """Seconds of processor time that directed searches took."""
    complete: bool = True
    """False if the last directed search had no time for every rival."""

    def solve(self, outputs: int) -> tuple[Scored, int]:
        """Return the shortest hypothesis that no answer contradicts and no neighbour is left to tell from, and the number
        of outputs that it was compared with in the end: 0 if the time ended before all rivals were tried. Rivals of one field
        have as much time as the search before, and those of two as much again. Raises Refusal if there is none."""
        later = self.budget_s
        current = self.begin()
        self.deadline = self.now + self.budget_s
        while not self.is_over:
            current = self.shorten(current)
            if not self.challenge(current):
                current = self.again(current)
            elif shorter := self._shortest(current):
                current = shorter
            else:
                self.deadline, later = max(self.deadline, self.now + later), 0.0
                if not self.challenge(current, pairs=True):
                    current = self.again(current)
                elif self.is_over or not self.complete:  # not all rivals were tried
                    break
                elif compared := self.check(current, outputs):
                    return current, compared
                else:
                    current = self.again(current)
        self.best = self.score(current.hypothesis)
        if self.best is None or self.best.wrong.any():
            raise self.unexplained
        time = f"the time of {self.budget_s:g} s"
        self.ended = f"{time} ended before all rivals were asked: values listed as alike are open"
        return self.best, 0

    def _shortest(self, current: Scored) -> Scored | None:
        """Return the shortest of the rivals that no question told from a hypothesis, if it is shorter than that."""
        shorter = [hypothesis for _, hypothesis in self.alike.values() if size(hypothesis) < current.size]
        return self.explains(min(shorter, key=size)) if shorter else None

    def again(self, current: Scored) -> Scored:
        """Return a hypothesis that explains the new answers as well."""
        near = [current.hypothesis, *(hypothesis for _, hypothesis in self.alike.values())]
        starts = [x for x in map(self.explains, near) if x is not None]
        starts = starts or [x for x in map(self.score, near[:MOST_LISTED]) if x is not None]
        self.best = None
        try:
            return self.search(sorted(starts, key=lambda x: x.rank)[:4])
        except Ended:
            self.best = self.best or min(starts, key=lambda x: x.rank, default=None)
            raise
        except Refusal:
            if self.session.conflict:
                raise
            return self.begin()

    def settle(self) -> Scored:
        """Return the simplest hypothesis for answers that no more can be added to, and note its rivals."""
        self.weigh()
        current = self.shorten(self.begin())
        self.alike = self.rivals(current)
        self.searched = len(self.session.experiments)
        return current

    def challenge(self, current: Scored, pairs: bool = False) -> bool:
        """Ask questions on which rivals differ from a hypothesis; return whether it explains the answers.

        `pairs`: rivals that differ in two fields are asked about as well. Directed searches take no time from others: all
        together have DIRECTED times as much as a search. `complete` tells whether that was enough.
        """
        singles = self.rivals(current)
        both = self.paired(current, singles) if pairs else {}
        self.alike, self.complete, began = singles | both, True, self.now
        end = began + DIRECTED * self.budget_s - self.directed_s
        search = Directed(self.space, self.rng, self.fresh(QUESTIONS))
        self.searched = len(search.start.c)
        # With them, questions at random: what no neighbour explains shows here.
        asked = [search.start.pick(self.rng.permutation(self.searched)[: QUESTIONS // 4])]
        brief = Directed(self.space, self.rng, asked[0])
        holds = True
        for generations in GENERATIONS:
            told: set[str] = set()
            for key, (_, rival) in self.alike.items():
                if generations == GENERATIONS[-1] and key in both:
                    continue
                self.complete = self.now < end
                known = (str(current.hypothesis), key, generations)
                if not self.complete or known in self.untold:
                    continue
                self.tried += 1
                which = brief if generations and key in both else search
                if (lines := which.find(current.hypothesis, rival, generations)) is not None:
                    asked.append(lines.pick(slice(0, 3)))
                    told.add(key)
                elif generations:
                    self.untold.add(known)
            if asked:
                lines = self.asked(Lines.join(asked))
                d = self.session.ask(lines)
                self.keep(["directed" if generations else "disagreement"] * len(d), lines, d)
                holds = bool((d == self.run(current.spec, lines)).all())
            if not holds:
                break
            self.alike, asked = {key: rival for key, rival in self.alike.items() if key not in told}, []
        if holds:
            listed = {*singles, *[key for key in both if key in self.alike][:MOST_LISTED]}
            self.alike = {key: rival for key, rival in self.alike.items() if key in listed}
        self.deadline += self.now - began
        self.directed_s += self.now - began
        return holds

    def fresh(self, count: int) -> Lines:
        """Return about `count` questions that were not asked: of every experiment, sums of a few terms, and variations of these
        and of those asked."""
        parts = [adversarial(self.signature, self.rng, min(count // 3, 4000)), self.orders.few(count // 6)]
        either = Lines.join([self.session.pool, *parts])
        parts.append(mutated(self.signature, self.rng, either, max(count - sum(len(x.c) for x in parts), count // 3)))
        return self.asked(Lines.join(parts))

    def check(self, current: Scored, outputs: int) -> int:
        """Compare a spec with the box on about as many further questions as asked for; return their number, or 0 if one
        differs, which then is in the pool. Its time is not that of the search."""
        compared, began = 0, self.now
        stock: list[Lines] = []
        while compared < outputs:
            if len(stock) < 3:
                stock.append(lines := self.fresh(min(20_000, outputs)))
                everything = Lines.join(stock)
            else:  # variations of those: directed questions take most of the time
                lines = self.asked(mutated(self.signature, self.rng, everything, 20_000))
            d = self.session.ask(lines)
            differs = np.flatnonzero(self.run(current.spec, lines) != d)[:32]
            if differs.size:
                self.keep(["last check"] * len(differs), lines.pick(differs), d[differs])
                self.deadline += self.now - began
                return 0
            compared += len(d)
        return max(compared, 1)

    def shorten(self, current: Scored) -> Scored:
        """Return the shortest hypothesis among those that explain every answer as well, field by field."""
        shorter = True
        while shorter and not self.is_over:
            shorter = False
            for _, hypothesis in self.space.neighbours(current.hypothesis, 0):
                if size(hypothesis) < current.size and (x := self.explains(hypothesis)) is not None:
                    current, shorter = x, True
                    break
        return current

    def rivals(self, current: Scored) -> Rivals:
        """Return every neighbour and every other structure that explains all answers so far, by its data."""
        near = list(self.space.neighbours(current.hypothesis, 0))
        near += [(("stages",), h) for h in self._restructured(current.hypothesis)]
        return self._explaining(((path,), hypothesis) for path, hypothesis in near)

    def paired(self, current: Scored, singles: Rivals) -> Rivals:
        """Return hypotheses that explain all answers and differ in two fields, of which one alone does not.

        These are pairs of fields that act together, and pairs of changes that contradict few answers, one of them the same.
        """
        few: list[tuple[Path, Data, frozenset[int]]] = []
        every, d, own = self.batch(ALL, weighed=False), self.session.d, current.hypothesis
        near = chain(self.space.neighbours(own, 0), self.space.inserted(own))
        for path, hypothesis in {key_of(h): (p, h) for p, h in near}.values():
            spec = None if self.is_over else self.space.spec(hypothesis)
            if spec is not None:
                self.tried += 1
                got = every.dots(spec, FEW)
                if len(got) == len(d):
                    few.append((path, hypothesis, frozenset(np.flatnonzero(got != d).tolist())))
        combined = [
            ((p, q), both)
            for (p, x, of_x), (q, y, of_y) in combinations(few, 2)
            if p != q and (of_x or of_y) and (not of_x or not of_y or of_x & of_y)
            for both in (moved(x, q, y), moved(y, p, x))
            if both is not None
        ]

        def registers(hypothesis: Data) -> list[int]:
            return [len(stage.get("result", [])) for stage in hypothesis["stages"]]

        acting = [((p,), h) for p, h in self.space.neighbours(own, 2) if registers(h) == registers(own)]
        found = self._explaining([*acting, *combined])
        return {key: rival for key, rival in found.items() if key not in singles}

    def _explaining(self, hypotheses: Iterable[tuple[tuple[Path, ...], Data]]) -> Rivals:
        """Return the hypotheses that explain all answers so far, by their data, as long as there is time."""
        found: Rivals = {}
        seen: set[str] = set()
        for paths, hypothesis in hypotheses:
            key = key_of(hypothesis)
            if key not in seen and not self.is_over and self.explains(hypothesis) is not None:
                found[key] = (paths, hypothesis)
            seen.add(key)
        return found

    def _restructured(self, hypothesis: Data) -> list[Data]:
        """Return other structures of as many stages, with the rules of this one."""
        k, stages = self.signature.spec.shape.k, hypothesis["stages"]
        *inner, last = (rules_of(stage) for stage in stages)
        others = [arranged(structure, inner, last) for structure in structures(k) if len(structure) == len(stages)]
        if "interleave" not in stages[0]:
            others += interleaved(stages, k)
        return [{**hypothesis, "stages": other} for other in others]
