"""The search for a spec that explains the answers: orders of sums first, then one change after the other.

`SpecSearch.start` finds the orders of sums from symmetries, and the last registers from C alone; it keeps the best of both.
`SpecSearch.search` changes one field after the other, then two, as long as more answers are explained.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.probe.box import Ended, Lines, Recorded, Refusal
from codesign.probe.hypotheses import Data, Path, at, changed, key_of, mantissa_bits, moved, optional
from codesign.probe.orders import Orders
from codesign.probe.questions import experiments, mutated
from codesign.probe.scoring import Scored, Scoring, ordered
from codesign.probe.space import MODES
from codesign.probe.structures import arranged, interleaved, profiles, rules_of, structures
from isa_model.diagnostics import InputError

Which = NDArray[np.int64]
"""Numbers of the questions that are looked at."""
Allowed = Callable[[Data], bool]
"""Tells whether a search may go on from a hypothesis."""
ANY: Allowed = lambda hypothesis: True  # noqa: E731

PATIENCE = 200_000
"""Hypotheses after which a search ends, if none of them came a tenth nearer to the answers."""
MOST_PRODUCTS = 1024
"""Products of a question, at most: exchanging them takes memory with the square of their number, 7 GB at this limit."""
VERIFIED = 800
"""Questions of the first round that are asked again, with others of the same products."""
BEAM = 8
"""Structures that are refined."""
ALONE = 0.1
"""Share of the time for what C alone shows: each of two searches, of registers alone and of all fields."""
CHANGES = 12
"""Changes of one step that are scored on every question."""
REACHES = (0, 1, 2)
"""How far a change goes: to the nearest values of one field, to all of them, and to those of two fields of one part."""


RULES: list[Data] = [
    *({"result": [{"format": f"e8m{m}", "rounding": mode}]} for m in (5, 8, 11, 15, 20, 26) for mode in MODES[:3:2]),
    *({"fraction_bits": bits, "rounding": mode} for bits in (8, 14, 20, 26) for mode in MODES[:3:2]),
    {"exponent": 0},
]
"""Rules to try for a stage below the last when those found so far do not do."""


@dataclass
class SpecSearch(Scoring):
    """A search among the hypotheses about a box."""

    amplified: int = 0
    """Rounds of questions like those that the best spec so far did not explain."""

    # -- 1. structures -----------------------------------------------------------------------------------------------

    def ask_all(self) -> None:
        """Put all directed experiments to the box in one round, some questions twice.

        Raises InputError if a sum has more than MOST_PRODUCTS products.
        """
        if (k := self.signature.spec.shape.k) > MOST_PRODUCTS:
            message = f"K is {k}; a probe asks about sums of at most {MOST_PRODUCTS} products"
            raise InputError.of(message, "the same kernel with a smaller K")
        named = [(name, self.asked(lines)) for name, lines in experiments(self.signature, self.rng, 1.0)]
        named.insert(0, ("zeros", self.signature.empty(1)))
        names = [name for name, lines in named for _ in lines.c]
        asked = Lines.join([lines for _, lines in named])
        self.session.keep(names, asked, self.session.ask(asked))
        self.verify(self.rng.permutation(len(asked.c))[:VERIFIED])
        if ordered(self.signature.spec.accumulator, self.session.d[:1])[0]:
            told = f"{int(self.session.d[0]):#x} for zeros alone, of which every spec of the language makes a zero"
            raise Refusal(f"the box returned {told}")
        self.orders = Orders(self.session, self.rng)
        self.structures = self.orders.structures()
        for name, lines, d in self.orders.told(800):
            self.session.keep([name] * len(d), lines, d)
        self.weigh()

    def verify(self, which: Which) -> None:
        """Ask some questions again, and others of the same products. Raises Refusal if an answer is another one."""
        if not isinstance(self.session.box, Recorded):
            self.session.compare(self.session.pool.pick(which), self.session.d[which], self.rng)

    def asked(self, lines: Lines) -> Lines:
        """Return questions as the box takes them: with C = 0 if it takes none."""
        return lines if self.signature.takes_c else lines._replace(c=np.zeros_like(lines.c))

    def start(self, each: int = 1, alike: bool = False) -> list[Scored]:
        """Return the best structures, each under its best rules: `each` that give different answers.

        With `alike`, those that give the same answers as another structure, too, and first what explains more than `best`.
        """
        k, recorded = self.signature.spec.shape.k, isinstance(self.session.box, Recorded)
        if recorded:
            self.structures = list(structures(k))
        widths = self.widths()
        rules = [(base, *rule) for base in self.bases() for rule in profiles(self.space, base["stages"][0], widths)]
        first = (h for s in self.structures for base, inner, last in rules for h in self._with(base, s, inner, last))
        which = self.rng.permutation(len(self.session.experiments))[:400]
        if (
            alike
            and self.best is not None
            and (wrong := self.rng.permutation(np.flatnonzero(self.best.wrong))[:200]).size
        ):
            which = np.concatenate([wrong[:20], which[:20], wrong[20:], which[20:]])
        best = self._best(first, which[:40], 24 * BEAM, 0.3)
        best = self._best((x.hypothesis for x in best), which[:128], 8 * BEAM)
        if recorded:
            dealt = (
                {**x.hypothesis, "stages": s} for x in best[: 4 * BEAM] for s in interleaved(x.hypothesis["stages"], k)
            )
            best = self._best([*dealt, *(x.hypothesis for x in best)], which[:128], 6 * BEAM)
        best = self._best((x.hypothesis for x in best), which, 3 * BEAM * (each if alike else 1))
        whole = [x for x in (self.score(s.hypothesis) for s in best) if x]
        whole.sort(key=lambda x: x.rank)
        if not alike:
            whole = list({x.wrong.tobytes(): x for x in whole[::-1]}.values())[::-1]
        return _distinct(whole, each)[: each * BEAM]

    def widths(self) -> list[int]:
        """Return the most bits of D's mantissa that pairs of products at each distance led to, where fewer than it has."""
        pool, d, fmt = self.session.pool, self.session.d, self.signature.spec.accumulator
        which = np.flatnonzero(np.array(self.session.experiments) == "pairs")
        if not which.size:
            return []
        spec, bits = self.signature.spec, fmt.mantissa_bits
        terms = (pool.a[which] != spec.a.zero_code) & (pool.b[which] != spec.b.zero_code)
        distances = terms.shape[1] - 1 - np.argmax(terms[:, ::-1], axis=1) - np.argmax(terms, axis=1)
        codes = d[which].astype(np.uint64) >> np.uint64(fmt.low_padding)
        normal = (codes >> np.uint64(bits)) % np.uint64(1 << fmt.exponent_bits) > 0
        kept = [next((bits - i for i in range(bits) if int(code) >> i & 1), 0) for code in codes]
        most = {int(at): max(np.array(kept)[normal & (distances == at)], default=0) for at in set(distances)}
        return sorted({int(width) for width in most.values() if 0 < width < bits})

    def registers(self) -> Data:
        """Return a hypothesis of one stage that explains C alone, as far as one does: the last registers, flushed inputs."""
        plain: Data = {"stages": [{"terms": 1, "accumulator": True, "result": [self.space.register]}]}
        if self.space.nans and self.space.nans[0] != self.signature.spec.accumulator.nan_code:
            plain["nan"] = self.space.nans[0]
        first = self.score(plain)
        assert first is not None
        self._note(first)
        alone = np.flatnonzero(np.array(self.session.experiments) == "alone")
        # A register explains C alone as fraction bits do, and is what hardware always has.
        deadline, current = self.deadline, first
        for allowed in (lambda h: "fraction_bits" not in h["stages"][0], ANY):
            self.deadline = min(deadline, self.now + ALONE * self.budget_s)
            current = self.descend(current, REACHES, alone, allowed)
        self.deadline = deadline
        return current.hypothesis

    def bases(self) -> list[Data]:
        """Return hypotheses that explain C alone: by registers, and by fraction bits, which cut C just as a narrow one does."""
        base = self.registers()
        stage = {n: v for n, v in base["stages"][0].items() if n not in ("terms", "accumulator")}
        found = [{**base, "stages": [stage]}]
        bits, wide = mantissa_bits(stage["result"][-1]["format"]), self.signature.spec.accumulator.mantissa_bits
        if "fraction_bits" not in stage and bits < wide and self.signature.spec.accumulator.kind == "float":
            cut = {"fraction_bits": bits, "rounding": stage["result"][-1]["rounding"]}
            found.append({**base, "stages": [{**stage, **cut, "result": [self.space.register]}]})
        a, b, d = (getattr(self.signature.spec, name) for name in ("a", "b", "accumulator"))
        if self.signature.is_float and a.max_exponent + b.max_exponent >= d.max_exponent:
            found = [{**base, "infinite_from": d.max_exponent + 1} for base in found]
        return found

    def _with(self, base: Data, structure: list[Data], inner: Data, last: Data) -> Iterator[Data]:
        """Yield hypotheses of a structure, its inner stages under one rule, its last under another; scales apply anywhere."""
        stages = arranged(structure, [inner] * (len(structure) - 1), last)
        for onto in range(-1, len(stages) - 1 if self.space.scale else 0):
            yield {**base, "stages": stages} | ({"scale": {"onto": onto}} if self.space.scale else {})

    def _best(self, hypotheses: Iterable[Data], which: Which, count: int, share: float = 1.0) -> list[Scored]:
        """Return the hypotheses that explain most of some answers, a few of each structure, in a share of the time left."""
        scored: list[Scored] = []
        seen: set[str] = set()
        left = self.deadline - self.now
        for hypothesis in hypotheses:
            if scored and self.deadline - self.now < left * (1.0 - share):
                break
            key = key_of(hypothesis)
            if key not in seen and (x := self.score(hypothesis, which)) is not None:
                scored.append(x)
            seen.add(key)
        ranked = sorted(scored, key=lambda x: x.rank)
        return _distinct(ranked, 3, alike=True)[:count]  # more questions tell those alike apart

    # -- 2. fields ---------------------------------------------------------------------------------------------------

    def descend(
        self, current: Scored, reaches: Sequence[int], which: Which | None = None, allowed: Allowed = ANY
    ) -> Scored:
        """Return a hypothesis after allowed changes, each of which explains more answers, of all questions or of some."""
        if which is not None:
            current = self.score(current.hypothesis, which) or current
        while current.wrong.any() and not self.is_over:
            steps = (self._step(current, reach, which, allowed) for reach in reaches)
            better = next((x for x in steps if x is not None), None)
            if better is None:
                break
            current = better
        if which is None:
            self._note(current)
        return current

    def _step(self, current: Scored, reach: int, which: Which | None = None, allowed: Allowed = ANY) -> Scored | None:
        """Return a hypothesis after as many changes within a reach as help; None if none does."""
        focus, start = self.focus(current) if which is None else which, current
        at_focus = self.score(current.hypothesis, focus)
        assert at_focus is not None
        found = []
        for path, hypothesis in self.space.neighbours(current.hypothesis, reach):
            x = self.score(hypothesis, focus, at_focus.loss) if allowed(hypothesis) else None
            if x is not None and x.rank < at_focus.rank:
                found.append((x.rank, path, hypothesis))
            if self.is_over:
                break
        found.sort(key=lambda x: x[0])
        if which is None and len(found) > CHANGES:  # few questions favour chance: more of them choose among the best
            more = self.focus(current, 100)
            again = [(self.score(hypothesis, more), path, hypothesis) for _, path, hypothesis in found[: 5 * CHANGES]]
            found = sorted([(x.rank, path, own) for x, path, own in again if x is not None], key=lambda x: x[0])
        for _, path, hypothesis in found[:CHANGES]:
            change = moved(current.hypothesis, path, hypothesis)
            x = self.score(change, focus, at_focus.loss) if change else None
            if x is None or x.rank >= at_focus.rank:
                continue
            y = x if which is not None else self.score(x.hypothesis, bound=current.loss)
            if y is not None and y.rank < current.rank:
                current, at_focus = y, x
        return None if current is start else current

    def focus(self, current: Scored, count: int = 24) -> Which:
        """Return some questions that a hypothesis does not explain, and more that it does: random ones, and hard ones."""
        wrong, right = np.flatnonzero(current.wrong), np.flatnonzero(~current.wrong)
        hard = right[np.argsort(-self.misses[right], kind="stable")[:count]]
        # Of each experiment a few wrong answers, so that a field that few questions show is not crowded out.
        names = np.array(self.session.experiments)[wrong]
        order = self.rng.permutation(len(wrong))
        ranks = np.zeros(len(wrong), int)
        for name in np.unique(names):
            own = order[names[order] == name]
            ranks[own] = np.arange(len(own))
        some = wrong[np.argsort(ranks, kind="stable")[: 2 * count]]
        return np.unique(np.concatenate([some, self.rng.permutation(right)[:count], hard]))

    def _note(self, x: Scored) -> None:
        if self.best is None or len(self.best.wrong) < len(x.wrong) or x.rank < self.best.rank:
            self.best = x

    def begin(self) -> Scored:
        """Return a hypothesis that explains every answer: search from the best structures, then from more until none is left.

        Raises Refusal with the nearest in `best`: after PATIENCE, or if every start leads nowhere.
        """
        each, tried, whole, starts = 1, self.tried, False, self.start()
        while True:
            try:
                return self.search(starts)
            except Ended:
                raise
            except Refusal:
                each, before = 3 * each, len(starts)
                if self.session.conflict or self.tried - tried > PATIENCE:
                    raise
                starts = self.start(each)
                if len(starts) <= before:
                    if whole:
                        raise
                    # Exchanges show no order that only infinite scales or overflow do.
                    self.structures, whole = [*self.structures, *structures(self.signature.spec.shape.k)], True
                    starts = self.start(each, alike=True)

    def search(self, starts: list[Scored]) -> Scored:
        """Return a hypothesis that explains every answer: the most promising one is changed, in ever wider steps as long as
        none helps. Raises Refusal with the nearest in `best`."""
        steps: list[Callable[[Scored], Scored | None]] = [
            lambda x: self._step(x, 0),
            lambda x: self._step(x, 1),
            self._reordered,
            lambda x: self._step(x, 2),
            self._without,
            lambda x: self._reordered(x, RULES),
            lambda x: self._around(x, REACHES[:2]),
            lambda x: self._around(x, REACHES),
        ]
        queue = [(x, 0) for x in starts]
        seen: set[str] = set()
        stuck: Counter[bytes] = Counter()
        nearest, tried = np.inf, self.tried
        while queue and not self.is_over:
            # A wider step costs more: another hypothesis that explains somewhat less comes first.
            queue.sort(key=lambda item: (item[0].loss * 1.4 ** item[1], item[1], item[0].size))
            current, width = queue.pop(0)
            self._note(current)
            if not current.wrong.any():
                return current
            if current.loss < 0.9 * nearest:
                nearest, tried = current.loss, self.tried
            elif self.tried > tried + PATIENCE:
                far = f"none of {PATIENCE:,} hypotheses came a tenth nearer"
                raise Refusal(f"no spec that the search tried gives the box's answers, and {far}")
            if width == 1:
                stuck[current.wrong.tobytes()] += 1
                if stuck[current.wrong.tobytes()] > 3:  # others that explain the same are changed already
                    continue
            better = steps[width](current)
            if better is None and width == 2 and self._amplify(current):
                queue = [(x, w) for x, w in ((self.score(x.hypothesis), w) for x, w in [*queue, (current, 0)]) if x]
                self.best, nearest = None, np.inf
            elif better is not None and (key := key_of(better.hypothesis)) not in seen:
                seen.add(key)
                queue.append((better, 0))
            elif width + 1 < len(steps):
                queue.append((current, width + 1))
        if self.best is not None and not self.best.wrong.any():
            return self.best
        raise self.unexplained

    def _amplify(self, current: Scored) -> bool:
        """Ask variations of questions that a hypothesis does not explain, where they are too few to show the way.

        Returns whether questions were added.
        """
        wrong = np.flatnonzero(current.wrong)
        if isinstance(self.session.box, Recorded) or wrong.size > 40 or self.amplified > 5:
            return False
        self.verify(wrong)
        self.amplified += 1
        lines = self.asked(mutated(self.signature, self.rng, self.session.pool.pick(wrong), 300))
        d = self.session.ask(lines)
        self.keep([f"variations {self.amplified}"] * len(d), lines, d)
        return True

    def _reordered(self, current: Scored, more: Sequence[Data] = ()) -> Scored | None:
        """Return a better hypothesis of another order of sums under the rules of this one, and under `more` for the stages
        below the last; None if there is none."""
        orders = self._orders(current.hypothesis, more)
        return next((x for x in self._promising(current, orders, 10) if x.loss < current.loss - 1e-12), None)

    def _orders(self, hypothesis: Data, more: Sequence[Data]) -> Iterator[Data]:
        """Yield a hypothesis with each order of sums, under its own rules or `more`."""
        *inner, last = (rules_of(stage) for stage in hypothesis["stages"])
        exact: Data = {n: v for n, v in last.items() if n == "zero"}
        choices = [{**exact, **rule} for rule in more] or [*inner, {**exact, "result": last["result"]}, exact]
        for order in self.structures:
            depth = len(order) - 1
            options = [[rule] * depth for rule in choices]
            if len(inner) == depth - 1:
                options += [[*inner[:i], rule, *inner[i:]] for i in range(depth) for rule in choices]
            elif len(inner) == depth and not more:
                options.append(inner)
            elif len(inner) == depth + 1 and not more:
                options += [inner[:i] + inner[i + 1 :] for i in range(len(inner))]
            yield from ({**hypothesis, "stages": arranged(order, option, last)} for option in options)

    def _promising(self, end: Scored, hypotheses: Iterable[Data], count: int) -> Iterator[Scored]:
        """Yield the best hypotheses that explain answers which `end` does not, scored on all questions."""
        focus, found = self.focus(end), []
        for hypothesis in hypotheses:
            x = self.score(hypothesis, focus)
            if x is not None and (end.wrong[focus] & ~x.wrong).any():
                found.append(x)
            if self.is_over:
                break
        best = sorted(found, key=lambda x: x.rank)[:count]
        yield from (y for y in (self.score(x.hypothesis) for x in best) if y is not None)

    def _without(self, end: Scored) -> Scored | None:
        """Return a better hypothesis without a field or a stage of this one, which stood for another; None if there is none."""
        fewer = [(path, changed(end.hypothesis, path, None)) for path in optional(end.hypothesis)]
        for path, hypothesis in [*fewer, *self.space.smaller(end.hypothesis)]:

            def allowed(other: Data, path: Path = path) -> bool:
                return path == ("stages",) or at(other, path) is None

            x = self.score(hypothesis)
            found = self.descend(x, REACHES[:2], allowed=allowed) if x else None
            if found is not None and found.loss < end.loss - 1e-12:
                return found
        return None

    def _around(self, end: Scored, reaches: tuple[int, ...]) -> Scored | None:
        """Return a better hypothesis beyond a change that explains no more answers by itself; None if there is none."""
        near = (hypothesis for _, hypothesis in self.space.neighbours(end.hypothesis, reaches[-1]))
        found = (self.descend(x, reaches) for x in self._promising(end, near, 8))
        return next((x for x in found if x.loss < end.loss - 1e-12), None)


def _distinct(scored: list[Scored], each: int, alike: bool = False) -> list[Scored]:
    """Return the first hypotheses of each structure with different answers, at most `each` of them.

    With `alike`, also the hypotheses that give the same answers as one of these.
    """
    found: list[Scored] = []
    answers: dict[str, set[bytes]] = {}
    for x in scored:
        shape = json.dumps([[s.get(n) for n in ("terms", "chain", "interleave")] for s in x.hypothesis["stages"]])
        own, wrong = answers.setdefault(shape, set()), x.wrong.tobytes()
        wanted = alike if wrong in own else len(own) < each
        if wanted:
            found.append(x)
            own.add(wrong)
    return found
