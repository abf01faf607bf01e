"""The search: structures and rules that explain the answers, then questions on which what is left disagrees.

1. `Fit.start` runs every structure under a few sets of rules on all answers, and keeps the best.
2. `Fit.descend` changes one field after the other as long as more answers are explained.
3. `Fit.challenge` looks for questions on which the spec and its neighbours differ, and asks them, until none is left.

A spec that leaves one answer unexplained is no result: `Refusal` carries the nearest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from time import process_time

import numpy as np
from numpy.typing import NDArray

from codesign.probe.box import Lines, Refusal, Session, answers, is_fast
from codesign.probe.questions import adversarial, experiments, mutated
from codesign.probe.space import Data, Path, Space, at, changed, fits, size
from codesign.probe.structures import interleaved, profiles, structures
from isa_model.codec import decode
from isa_model.float64 import Codes
from isa_model.instruction import Instruction

BEAM = 6
"""Structures that are refined."""
REACHES = (0, 1, 2)
"""How far a change of a field goes: to the nearest values, to all values, and with a register more."""
STRUCTURAL = ("masked", "ladder", "halfway", "normal", "wide", "cancellation", "disagreement")
"""Experiments on which structures are compared first."""


@dataclass(frozen=True)
class Scored:
    """A hypothesis with the answers it does not explain."""

    hypothesis: Data
    spec: Instruction
    wrong: NDArray[np.bool_]
    """True for each question of the pool whose answer differs."""
    loss: float
    """Sum over experiments of the share of wrong answers."""

    @property
    def size(self) -> tuple[float, ...]:
        """Measure of how simple a spec is (space.size): of two that explain the same, the simpler is kept."""
        return size(self.hypothesis)


@dataclass
class Fit:
    """The state of a probe: the box's answers, and the hypotheses run on them."""

    session: Session
    budget_s: float = 60.0
    """Seconds of processor time after which the best spec so far counts as the nearest."""
    seed: int = 0
    tried: int = 0
    """Number of hypotheses run."""
    best: Scored | None = None
    alike: dict[str, tuple[Path, Data]] = field(default_factory=dict)
    """Neighbours of the result that no question told from it, by their data."""
    searched: int = 0
    """Questions searched for one on which they differ."""

    def __post_init__(self) -> None:
        self.signature = self.session.box.signature
        self.space = Space(self.signature)
        self.rng = np.random.default_rng(self.seed)
        self.misses: NDArray[np.float64] = np.zeros(0)
        """How often each question was among the few that a hypothesis did not explain."""
        self.deadline = process_time() + self.budget_s
        plain = {"stages": [{"terms": 1, "accumulator": True, "result": [self.space.register]}]}
        spec = self.space.spec(plain)
        self.effort = 1.0 if spec is not None and is_fast(spec) else 0.12

    @property
    def is_over(self) -> bool:
        """True if the time is spent."""
        return process_time() > self.deadline

    @property
    def unexplained(self) -> str:
        """Reason for a refusal of a box that no spec explains."""
        reason = "no spec that was tried gives the box's answers"
        return f"{reason}, and the time of {self.budget_s:g} s was spent" if self.is_over else reason

    # -- scoring -----------------------------------------------------------------------------------------------------

    def run(self, spec: Instruction, lines: Lines) -> Codes:
        """Return the answers of a spec."""
        self.tried += 1
        return answers(spec, lines)

    def weights(self) -> NDArray[np.float64]:
        """Return the weight of each question: every experiment counts the same."""
        names, which = np.unique(self.session.experiments, return_inverse=True)
        counts = np.bincount(which, minlength=len(names))
        weights: NDArray[np.float64] = 1.0 / counts[which]
        return weights

    def score(self, hypothesis: Data, which: NDArray[np.int64] | None = None) -> Scored | None:
        """Return a hypothesis with what it leaves unexplained, of all questions or of some; None if it is no spec."""
        spec = self.space.spec(hypothesis)
        pool, d = self.session.pool, self.session.d
        if spec is None or pool is None or d is None:
            return None
        lines, expected = (pool, d) if which is None else (pool.pick(which), d[which])
        wrong = self.run(spec, lines) != expected
        weights = self._weights if which is None else self._weights[which]
        if which is None:
            self.misses = np.pad(self.misses, (0, len(wrong) - len(self.misses))) + wrong / max(int(wrong.sum()), 1)
        return Scored(hypothesis, spec, wrong, float(weights[wrong].sum()))

    # -- 1. structures -----------------------------------------------------------------------------------------------

    def ask_all(self) -> None:
        """Put all directed experiments to the box in one round, some questions twice."""
        named = [(name, self.asked(lines)) for name, lines in experiments(self.signature, self.rng, self.effort)]
        names = [name for name, lines in named for _ in lines.c]
        self.session.add(names, Lines.join([lines for _, lines in named]), again=64)

    def asked(self, lines: Lines) -> Lines:
        """Return questions as the box takes them: with C = 0 if it takes none."""
        return lines if self.signature.takes_c else lines._replace(c=np.zeros_like(lines.c))

    def start(self) -> list[Scored]:
        """Return the best structures, each under its best rules."""
        k = self.signature.spec.shape.k
        self._weights = self.weights()
        which = np.flatnonzero(np.isin(self.session.experiments, STRUCTURAL))
        if not which.size:
            which = np.arange(len(self.session.experiments))
        which = self.rng.permutation(which)[: round(256 * max(self.effort, 0.2))]
        base = self.base()
        every = list(structures(k))
        rules = list(profiles(self.space))
        first = [h for s in every for inner, last in rules for h in self._with(base, s, inner, last)]
        best = self._best(first, which[:96], 4 * BEAM)
        more = []
        for scored in best:
            for dealt in interleaved(scored.hypothesis["stages"], k):
                more.append({**scored.hypothesis, "stages": dealt})
        best = self._best([*more, *(x.hypothesis for x in best)], which[:128], 6 * BEAM)
        best = self._best([x.hypothesis for x in best], which, 3 * BEAM)
        whole = [x for x in (self.score(s.hypothesis) for s in best) if x]
        return _distinct(sorted(whole, key=lambda x: (x.loss, x.size)))[:BEAM]

    def base(self) -> Data:
        """Return what answers say at once: the code of NaN."""
        base: Data = {"stages": []}
        d, fmt = self.session.d, self.signature.spec.accumulator
        if d is not None and fmt.nan_code is not None:
            codes, counts = np.unique(d, return_counts=True)
            nans = [(n, int(c)) for c, n in zip(codes, counts, strict=True) if decode(fmt, int(c)).special == "nan"]
            if nans and max(nans)[1] != fmt.nan_code:
                base["nan"] = max(nans)[1]
        return base

    def _with(self, base: Data, structure: list[Data], inner: Data, last: Data) -> Iterator[Data]:
        """Yield hypotheses of a structure, its inner stages under one rule, its last under another; scales apply anywhere."""
        *below, end = structure
        stages = []
        for stage in below:
            rule = dict(inner)
            if stage.get("chain") and "result" not in rule:
                rule["result"] = last["result"]
            stages.append({**stage, **rule})
        stages.append({**end, **last})
        for onto in range(-1, len(stages) - 1 if self.space.scale else 0):
            yield {**base, "stages": stages} | ({"scale": {"onto": onto}} if self.space.scale else {})

    def _best(self, hypotheses: Iterable[Data], which: NDArray[np.int64], count: int) -> list[Scored]:
        """Return the hypotheses that explain most of some answers, one a structure."""
        scored = []
        for hypothesis in {json.dumps(h, sort_keys=True): h for h in hypotheses}.values():
            if self.is_over:
                break
            if (x := self.score(hypothesis, which)) is not None:
                scored.append(x)
        return _distinct(sorted(scored, key=lambda x: (x.loss, x.size)))[:count]

    # -- 2. fields ---------------------------------------------------------------------------------------------------

    def descend(self, current: Scored) -> Scored:
        """Return a hypothesis after changes of single fields, each of which explains more answers."""
        while True:
            self._note(current)
            if not current.wrong.any() or self.is_over:
                break
            better = next((x for reach in REACHES if (x := self._step(current, reach)) is not None), None)
            if better is None:
                break
            current = better
        return current

    def _step(self, current: Scored, reach: int) -> Scored | None:
        """Return a hypothesis after as many changes within a reach as help; None if none does."""
        focus, start = self.focus(current), current
        here = float(self._weights[focus][current.wrong[focus]].sum())
        found = []
        for path, hypothesis in self.space.neighbours(current.hypothesis, reach):
            x = self.score(hypothesis, focus)
            if x is not None and x.loss < here - 1e-12:
                found.append((x.loss, x.size, path, hypothesis))
            if self.is_over:
                break
        found.sort(key=lambda x: x[:2])
        for _, _, path, hypothesis in found[:12]:
            change = changed(current.hypothesis, path, at(hypothesis, path)) if fits(current.hypothesis, path) else None
            y = self.score(change) if change else None
            if y is not None and y.loss < current.loss - 1e-12:
                current = y
        return None if current is start else current

    def focus(self, current: Scored, count: int = 32) -> NDArray[np.int64]:
        """Return some questions that a hypothesis does not explain, and more that it does: random ones, and hard ones."""
        wrong, right = np.flatnonzero(current.wrong), np.flatnonzero(~current.wrong)
        count = count if self.effort == 1 else count // 3
        hard = right[np.argsort(-self.misses[right], kind="stable")[:count]]
        some = [self.rng.permutation(x)[:count] for x in (wrong, right)]
        return np.unique(np.concatenate([*some, hard]))

    def _note(self, x: Scored) -> None:
        if (
            self.best is None
            or len(self.best.wrong) < len(x.wrong)
            or (x.loss, x.size) < (self.best.loss, self.best.size)
        ):
            self.best = x

    def search(self, starts: list[Scored]) -> Scored:
        """Return a hypothesis that explains every answer. Raises Refusal with the nearest in `best`."""
        ends: list[Scored] = []
        # A recording is one experiment: a wrong structure can leave a small share of its answers unexplained.
        several = len(set(self.session.experiments)) > 1
        for start in starts:
            ends.append(self.descend(start))
            if not ends[-1].wrong.any():
                return ends[-1]
            if several and ends[-1].loss < 0.2:
                break
        # Two fields may have to change at once: one that explains an answer but loses others, then one that regains them.
        for end in sorted(ends, key=lambda x: (x.loss, x.size))[:2]:
            better: Scored | None = end
            while better is not None and better.wrong.any() and not self.is_over:
                end, better = better, None
                for first in self._sideways(end, self.focus(end)):
                    x = self.score(first)
                    seconds = [self._step(x, reach) for reach in reversed(REACHES)] if x else []
                    third = [self.descend(y) for y in seconds if y and y.loss < 1.5 * end.loss + 0.05][:1]
                    better = next((y for y in third if y.loss < end.loss - 1e-12), None)
                    if better or self.is_over:
                        break
            if better is not None and not better.wrong.any():
                return better
        raise Refusal(self.unexplained)

    def _sideways(self, current: Scored, focus: NDArray[np.int64]) -> list[Data]:
        """Return neighbours that explain an answer which a hypothesis does not, though not more in all."""
        scored = []
        for _, hypothesis in self.space.neighbours(current.hypothesis, REACHES[1]):
            x = self.score(hypothesis, focus)
            if x is not None and (current.wrong[focus] & ~x.wrong).any():
                scored.append(x)
        scored.sort(key=lambda x: (x.loss, x.size))
        return [x.hypothesis for x in scored[:8]]

    # -- 3. disagreements --------------------------------------------------------------------------------------------

    def solve(self, rounds: int = 6, questions: int = 3000) -> Scored:
        """Return the shortest hypothesis that no answer contradicts, once no neighbour is left to tell it from."""
        self._weights = self.weights()
        current = self.search(self.start())
        for _ in range(rounds):
            current = self.shorten(current)
            current, settled = self.challenge(current, round(questions * self.effort))
            if settled:
                break
        if current.wrong.any():
            self.best = current
            raise Refusal(self.unexplained)
        return current

    def settle(self) -> Scored:
        """Return the simplest hypothesis for answers that no more can be added to, and note its rivals."""
        self._weights = self.weights()
        current = self.shorten(self.search(self.start()))
        self.alike = self.rivals(current)
        self.searched = len(self.session.experiments)
        return current

    def check(self, current: Scored, outputs: int) -> int:
        """Compare a spec with the box on about as many further questions as asked for; return their number.

        Raises Refusal at the first difference, which then is in the pool.
        """
        assert self.session.pool is not None
        if not outputs:
            return 0
        outputs = round(outputs * self.effort)
        fresh = adversarial(self.signature, self.rng, outputs // 4)
        more = mutated(self.signature, self.rng, self.session.pool, outputs - outputs // 4)
        lines = self.asked(Lines.join([fresh, more]))
        d = self.session.ask(lines)
        differs = np.flatnonzero(self.run(current.spec, lines) != d)[:8]
        if differs.size:
            self.session.keep(["last check"] * len(differs), lines.pick(differs), d[differs])
            self._weights = self.weights()
            self.best = self.score(current.hypothesis)
            raise Refusal("the last check found an answer that the spec does not give")
        return len(lines.c)

    def shorten(self, current: Scored) -> Scored:
        """Return the shortest hypothesis among those that explain every answer as well, field by field."""
        shorter = True
        while shorter and not self.is_over:
            shorter = False
            for _, hypothesis in [*self._smaller(current.hypothesis), *self.space.neighbours(current.hypothesis, 0)]:
                if size(hypothesis) >= current.size:
                    continue
                x = self.score(hypothesis)
                if x is not None and not x.wrong.any():
                    current, shorter = x, True
                    break
        return current

    def _smaller(self, hypothesis: Data) -> list[tuple[Path, Data]]:
        """Return a hypothesis without one of its stages, whose terms the next one takes, or without an interleave."""
        found: list[tuple[Path, Data]] = []
        stages = hypothesis["stages"]
        for i in range(len(stages) - 1):
            if "chain" in stages[i] or "interleave" in stages[i]:
                continue
            joined = {**stages[i + 1], "terms": stages[i]["terms"] * stages[i + 1]["terms"]}
            found.append((("stages",), {**hypothesis, "stages": [*stages[:i], joined, *stages[i + 2 :]]}))
        for i, stage in enumerate(stages):
            if "interleave" in stage:
                found.append((("stages", i, "interleave"), changed(hypothesis, ("stages", i, "interleave"), None)))
        return found

    def rivals(self, current: Scored) -> dict[str, tuple[Path, Data]]:
        """Return every neighbour and every other structure that explains all answers so far, by its data."""
        k = self.signature.spec.shape.k
        found: dict[str, tuple[Path, Data]] = {}
        near = [*self.space.neighbours(current.hypothesis, 0), *self._smaller(current.hypothesis)]
        near += [(("stages",), h) for h in self._restructured(current.hypothesis, k)]
        spec = self.space.spec(current.hypothesis)
        some = self.rng.permutation(len(self.session.experiments))[: round(400 * max(self.effort, 0.1))]
        for path, hypothesis in near:
            key = json.dumps(hypothesis, sort_keys=True)
            if key in found or self.space.spec(hypothesis) in (None, spec):
                continue
            x = self.score(hypothesis, some)
            if x is None or x.wrong.any():
                continue
            x = self.score(hypothesis)
            if x is not None and not x.wrong.any():
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

    def challenge(self, current: Scored, questions: int) -> tuple[Scored, bool]:
        """Ask questions on which rivals disagree with a hypothesis; return what is left, and whether that settles it."""
        rivals = self.rivals(current)
        assert self.session.pool is not None
        fresh = adversarial(self.signature, self.rng, questions // 3)
        lines = self.asked(Lines.join([fresh, mutated(self.signature, self.rng, self.session.pool, questions)]))
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
            if self.is_over:
                break
        self.alike, self.searched = undecided, len(lines.c)
        # With them, questions at random: what no neighbour explains shows here.
        chosen += [int(x) for x in self.rng.permutation(len(lines.c))[: questions // 2]]
        which = np.unique(chosen)
        asked = lines.pick(which)
        self.session.add(["disagreement"] * len(asked.c), asked)
        self._weights = self.weights()
        x = self.score(current.hypothesis)
        assert x is not None
        if not x.wrong.any():
            shorter = any(size(hypothesis) < x.size for _, hypothesis in undecided.values())
            return x, not shorter
        self.best = x
        again = [y for y in (self.score(h) for _, h in rivals.values()) if y is not None]
        starts = sorted([x, *again], key=lambda s: (s.loss, s.size))[:3]
        for y in starts:
            end = self.descend(y)
            if not end.wrong.any():
                return end, False
        return self.search([*starts, *self.start()]), False


def _distinct(scored: list[Scored]) -> list[Scored]:
    """Return the first of the hypotheses of each structure, and of those that give the same answers."""
    found: dict[bytes, Scored] = {}
    shapes = set()
    for x in scored:
        shape = json.dumps([[s.get(n) for n in ("terms", "chain", "interleave")] for s in x.hypothesis["stages"]])
        if shape not in shapes and x.wrong.tobytes() not in found:
            found[x.wrong.tobytes()] = x
        shapes.add(shape)
    return list(found.values())
