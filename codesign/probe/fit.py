"""The fit: a spec that explains the answers, then questions on which it and its neighbours disagree.

1. `SpecSearch.search` finds a spec that explains every answer.
2. `Fit.challenge` looks for questions on which the spec and its neighbours differ, and asks them, until none is left.
3. `Fit.check` asks many questions more; those that the spec does not answer as the box does lead back to 1.

A spec that leaves one answer unexplained is no result: `Refusal` carries the nearest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from time import process_time

import numpy as np

from codesign.probe.box import Lines, Refusal
from codesign.probe.hypotheses import Data, Path, size
from codesign.probe.questions import adversarial, mutated
from codesign.probe.scoring import Scored
from codesign.probe.search import SpecSearch
from codesign.probe.structures import interleaved, structures
from isa_model.float64 import Codes

QUESTIONS = 3000
"""Questions searched at a time for one on which specs differ."""


@dataclass
class Fit(SpecSearch):
    """The state of a probe: a search, and what no question told from its result."""

    alike: dict[str, tuple[Path, Data]] = field(default_factory=dict)
    """Neighbours of the result that no question told from it, by their data."""
    searched: int = 0
    """Questions searched for one on which they differ."""

    def solve(self, outputs: int) -> tuple[Scored, int]:
        """Return the shortest hypothesis that no answer contradicts and no neighbour is left to tell from, and the number
        of outputs that it was compared with in the end. Rivals have as much time as the search before. Raises Refusal if there
        is none."""
        current = self.search(self.start())
        self.deadline = process_time() + self.budget_s
        while not self.is_over:
            current = self.shorten(current)
            if not self.challenge(current):
                current = self.again(current)
            elif shorter := self._shortest(current):
                current = shorter
            elif compared := self.check(current, outputs):
                return current, compared
            else:
                current = self.again(current)
        self.best = self.score(current.hypothesis)
        raise Refusal(self.unexplained)

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
        except Refusal:
            return self.search(self.start())

    def settle(self) -> Scored:
        """Return the simplest hypothesis for answers that no more can be added to, and note its rivals."""
        self.weigh()
        current = self.shorten(self.search(self.start()))
        self.alike = self.rivals(current)
        self.searched = len(self.session.experiments)
        return current

    def challenge(self, current: Scored) -> bool:
        """Ask questions on which rivals disagree with a hypothesis; return whether it explains the answers."""
        rivals = self.rivals(current)
        lines = self.fresh(QUESTIONS)
        expected = self.run(current.spec, lines)
        chosen: list[int] = []
        undecided: dict[str, tuple[Path, Data]] = {}
        for key, (path, hypothesis) in rivals.items():
            spec = self.space.spec(hypothesis)
            assert spec is not None
            differs = self.run(spec, lines) != expected
            if not differs.any():
                undecided[key] = (path, hypothesis)
            elif not differs[chosen].any():
                chosen += [int(x) for x in self.rng.permutation(np.flatnonzero(differs))[:3]]
        self.searched = len(lines.c)
        # With them, questions at random: what no neighbour explains shows here.
        chosen += [int(x) for x in self.rng.permutation(len(lines.c))[: QUESTIONS // 4]]
        which = np.unique(chosen)
        asked = lines.pick(which)
        d = self.session.ask(asked)
        self.keep(["disagreement"] * len(d), asked, d)
        holds = bool((d == expected[which]).all())
        self.alike = undecided if holds else rivals
        return holds

    def fresh(self, count: int) -> Lines:
        """Return about `count` questions that were not asked: of every experiment, sums of a few terms, and variations of these
        and of those asked."""
        assert self.session.pool is not None
        parts = [adversarial(self.signature, self.rng, min(count // 3, 4000)), self.orders.few(count // 3)]
        either = Lines.join([self.session.pool, *parts])
        parts.append(mutated(self.signature, self.rng, either, max(count - sum(len(x.c) for x in parts), count // 3)))
        return self.asked(Lines.join(parts))

    def check(self, current: Scored, outputs: int) -> int:
        """Compare a spec with the box on about as many further questions as asked for; return their number, or 0 if one
        differs, which then is in the pool. Its time is not that of the search."""
        compared, began = 0, process_time()
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
                self.deadline += process_time() - began
                return 0
            some = slice(0, len(d) if compared < 100_000 else 1000)  # rivals cost as much as the spec, each
            self._exclude(lines.pick(some), d[some])
            compared += len(d)
            self.searched += len(d[some])
        return max(compared, 1)

    def _exclude(self, lines: Lines, d: Codes) -> None:
        """Take away the rivals that answers contradict, and keep for each a question that does."""
        for key, (_, hypothesis) in list(self.alike.items()):
            spec = self.space.spec(hypothesis)
            differs = np.flatnonzero(self.run(spec, lines) != d)[:1] if spec else np.zeros(0, int)
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

    def rivals(self, current: Scored) -> dict[str, tuple[Path, Data]]:
        """Return every neighbour and every other structure that explains all answers so far, by its data."""
        k = self.signature.spec.shape.k
        found: dict[str, tuple[Path, Data]] = {}
        near = list(self.space.neighbours(current.hypothesis, 0))
        near += [(("stages",), h) for h in self._restructured(current.hypothesis, k)]
        for path, hypothesis in near:
            key = json.dumps(hypothesis, sort_keys=True)
            if key in found or self.is_over:
                continue
            if self.explains(hypothesis) is not None:
                found[key] = (path, hypothesis)
        return found

    def _restructured(self, hypothesis: Data, k: int) -> list[Data]:
        """Return other structures of as many stages, with the rules of this one."""
        stages = hypothesis["stages"]
        others = []
        for structure in structures(k):
            if len(structure) == len(stages):
                rules = [{n: v for n, v in s.items() if n not in ("terms", "chain", "interleave")} for s in stages]
                merged = [{**rule, **shape} for rule, shape in zip(rules, structure, strict=True)]
                for shape, rule in zip(merged, rules, strict=True):
                    if isinstance(rule.get("accumulator"), dict):
                        shape["accumulator"] = rule["accumulator"]
                others += [{**hypothesis, "stages": merged}]
        if "interleave" not in stages[0]:
            others += [{**hypothesis, "stages": dealt} for dealt in interleaved(stages, k)]
        return others
