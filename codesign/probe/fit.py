"""The fit: a spec that explains the answers, then questions on which it and its neighbours disagree.

1. `SpecSearch.search` finds a spec that explains every answer.
2. `Fit.challenge` looks for questions on which the spec and its neighbours differ, and asks them, until none is left.
3. `Fit.check` asks many questions more; those that the spec does not answer as the box does lead back to 1.

A spec that leaves one answer unexplained is no result: `Refusal` carries the nearest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations, islice

import numpy as np

from codesign.probe.box import Ended, Lines, Refusal
from codesign.probe.hypotheses import Data, Path, moved, size
from codesign.probe.questions import adversarial, mutated
from codesign.probe.scoring import Scored
from codesign.probe.search import SpecSearch
from codesign.probe.structures import arranged, interleaved, rules_of, structures
from isa_model.engines.lines import Batch
from isa_model.float64 import Codes

Rivals = dict[str, tuple[tuple[Path, ...], Data]]
QUESTIONS = 3000
"""Questions searched at a time for one on which specs differ."""
MOST_PAIRS = 60
"""Rivals that differ in two fields and are kept, at most."""
SOME = (20_000, 1000)
"""Questions of the last check that rivals are run on: the first, and some of each 20,000 further."""
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

    def solve(self, outputs: int) -> tuple[Scored, int]:
        """Return the shortest hypothesis that no answer contradicts and no neighbour is left to tell from, and the number
        of outputs that it was compared with in the end: 0 if the time ended before all rivals were asked. Rivals of one field
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
                elif self.now > self.deadline:  # not all rivals were tried
                    break
                elif compared := self.check(current, outputs):
                    return current, compared
                else:
                    current = self.again(current)
        self.best = self.score(current.hypothesis)
        if self.best is None or self.best.wrong.any():
            raise self.unexplained
        self.ended = (
            f"the time of {self.budget_s:g} s ended before all rivals were asked: values listed as alike are open"
        )
        return self.best, 0

    def _shortest(self, current: Scored) -> Scored | None:
        """Return the shortest of the rivals that no question told from a hypothesis, if it is shorter than that."""
        shorter = [hypothesis for _, hypothesis in self.alike.values() if size(hypothesis) < current.size]
        return self.explains(min(shorter, key=size)) if shorter else None

    def again(self, current: Scored) -> Scored:
        """Return a hypothesis that explains the new answers as well."""
        near = [current.hypothesis, *(hypothesis for _, hypothesis in self.alike.values())]
        starts = [x for x in (self.score(h) for h in near) if x is not None]
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
        """Ask questions on which rivals disagree with a hypothesis; return whether it explains the answers.

        `pairs`: rivals that differ in two fields are asked about as well."""
        rivals = self.rivals(current)
        if pairs:
            rivals |= self.paired(current, rivals)
        lines = self.fresh(QUESTIONS)
        expected = self.run(current.spec, lines)
        batch = Batch(*lines, expected=expected)
        chosen: set[int] = set()
        undecided: Rivals = {}
        for key, rival in rivals.items():
            spec = self.space.spec(rival[1])
            assert spec is not None
            self.tried += 1
            got = batch.dots(spec, 2.0)
            differs = np.flatnonzero(got != expected[: len(got)])[:3]
            if not differs.size:
                undecided[key] = rival
            chosen |= {int(x) for x in differs}
        self.searched = len(lines.c)
        # With them, questions at random: what no neighbour explains shows here.
        chosen |= {int(x) for x in self.rng.permutation(len(lines.c))[: QUESTIONS // 4]}
        which = np.array(sorted(chosen))
        asked = lines.pick(which)
        d = self.session.ask(asked)
        self.keep(["disagreement"] * len(d), asked, d)
        holds = bool((d == expected[which]).all())
        self.alike = undecided if holds else rivals
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
            some = slice(0, len(d) if compared < SOME[0] else SOME[1])
            self._exclude(lines.pick(some), d[some])
            compared += len(d)
            self.searched += len(d[some])
        return max(compared, 1)

    def _exclude(self, lines: Lines, d: Codes) -> None:
        """Take away the rivals that answers contradict, and keep for each a question that does."""
        batch = Batch(*lines, expected=d)
        for key, (_, hypothesis) in list(self.alike.items()):
            spec = self.space.spec(hypothesis)
            got = d if spec is None else batch.dots(spec, 0.0)
            differs = np.flatnonzero(got != d[: len(got)])[:1]
            if differs.size:
                del self.alike[key]
                self.keep(["last check"], lines.pick(differs), d[differs])

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
        every = self.batch(slice(None), weighed=False)
        d = self.session.d
        near = {json.dumps(h, sort_keys=True): (p, h) for p, h in self.space.neighbours(current.hypothesis, 0)}
        near |= {json.dumps(h, sort_keys=True): (p, h) for p, h in self.space.inserted(current.hypothesis)}
        for path, hypothesis in near.values():
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
        registers = [len(stage.get("result", [])) for stage in current.hypothesis["stages"]]
        acting = [
            ((path,), h)
            for path, h in self.space.neighbours(current.hypothesis, 2)
            if [len(stage.get("result", [])) for stage in h["stages"]] == registers
        ]
        found = self._explaining([*acting, *combined])
        return dict(islice(((key, rival) for key, rival in found.items() if key not in singles), MOST_PAIRS))

    def _explaining(self, hypotheses: Iterable[tuple[tuple[Path, ...], Data]]) -> Rivals:
        """Return the hypotheses that explain all answers so far, by their data, as long as there is time."""
        found: Rivals = {}
        seen: set[str] = set()
        for paths, hypothesis in hypotheses:
            key = json.dumps(hypothesis, sort_keys=True)
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
