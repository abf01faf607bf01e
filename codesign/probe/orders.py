"""The order of a box's sums, found from its symmetries: products that may change places are terms of one sum.

Terms of one sum are exchangeable, however it rounds; so are whole sums that are terms of a sum above. What is added one after
the other is not. An exchange that changes D is a proof; one that never did is evidence, so that several orders are returned,
the likeliest first. FPRev (arXiv 2411.00442) finds trees of ordinary additions by masks instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.probe.box import Lines, Session, sign_bit
from codesign.probe.hypotheses import Data
from isa_model.float64 import Codes
from isa_model.formats import Format

Items = list[list[int]]
"""Terms of one level, in order: the products that each sums."""
TRIES = (24, 160)
"""Questions for each exchange, and as many more while it changes nothing."""
PLACES = 10
"""Products of a question that are not zeros, at most: those that change places, and others."""
MOST = 120
"""Orders that are returned."""
SUMS = 4
"""Ways to share out items to sums that are followed."""
TREES = 400
"""Trees of sums of which the likeliest are returned."""
RANKED = 1000
"""Exchanges that trees are ranked by, at most."""


@cache
def by_exponent(fmt: Format) -> tuple[int, NDArray[np.uint64]]:
    """Return the lowest exponent of a float format, and codes of numbers of each exponent (E, 8): a power of two, then any."""
    rng = np.random.default_rng(3)
    low, high = fmt.min_exponent, fmt.max_exponent
    table = np.zeros((max(high - low + 1, 1), 8), np.uint64)
    for i in range(len(table)):
        biased = low + i + fmt.bias
        fractions = [0, *(int(x) for x in rng.integers(0, 1 << fmt.mantissa_bits, 7))]
        codes = [(biased << fmt.mantissa_bits) + x for x in fractions]
        table[i] = [min(code, fmt.max_finite_magnitude) << fmt.low_padding for code in codes]
    return low, table


@dataclass
class Orders:
    """Exchanges asked of one box."""

    session: Session
    rng: np.random.Generator
    known: dict[Any, bool] = field(default_factory=dict)
    """Whether two sets of products were exchangeable."""
    asked: list[tuple[Lines, Codes, NDArray[np.bool_]]] = field(default_factory=list)
    """Questions with their answers, and whether an exchange changed them."""

    def __post_init__(self) -> None:
        self.signature = self.session.box.signature

    # -- questions ---------------------------------------------------------------------------------------------------

    def operands(self, places: NDArray[np.int64]) -> Lines:
        """Return lines whose products lie at `places` (L, P) and are zeros elsewhere, near each other, some opposite."""
        signature, rng = self.signature, self.rng
        spec, (count, some) = signature.spec, places.shape
        lines = signature.empty(count)
        if signature.is_float:
            (low_a, table_a), (low_b, table_b) = by_exponent(spec.a), by_exponent(spec.b)
            lowest, highest = low_a + low_b, low_a + low_b + len(table_a) + len(table_b) - 2
            d = spec.accumulator
            top = highest - rng.integers(0, min(8, highest - lowest + 1), (count, 1))
            if d.kind == "float" and highest - 4 > d.max_exponent:
                top = np.minimum(top, d.max_exponent - 4 - rng.integers(0, 8, (count, 1)))
            spread = rng.choice([3, 10, 18, 24, 30, 40], (count, 1))
            e = np.clip(top - rng.integers(0, 64, (count, some)) * spread // 64, lowest, highest)
            least = np.maximum(low_a, e - low_b - len(table_b) + 1)
            most = np.minimum(low_a + len(table_a) - 1, e - low_b)
            e_a = least + (rng.random(e.shape) * (most - least + 1)).astype(np.int64)
            a = table_a[e_a - low_a, rng.integers(0, 8, e.shape)]
            b = table_b[e - e_a - low_b, rng.integers(0, 8, e.shape)]
            a = np.where(rng.random(e.shape) < 0.5, a | np.uint64(sign_bit(spec.a)), a)
            back = (rng.random(count) < 0.5) & (some > 2)  # the last is the opposite of the first
            a[back, -1], b[back, -1] = a[back, 0] ^ np.uint64(sign_bit(spec.a)), b[back, 0]
        else:
            a, b = (rng.integers(0, 1 << f.bits, places.shape, np.uint64) for f in (spec.a, spec.b))
            d = spec.accumulator
        rows = np.arange(count)[:, None]
        few = (rng.random(a.shape) < 0.3) & (np.arange(some) >= 4)
        a = np.where(few, spec.a.zero_code, a)
        lines.a[rows, places], lines.b[rows, places] = a.astype(lines.a.dtype), b.astype(lines.b.dtype)
        c_low, table_c = by_exponent(spec.c_format) if spec.c_format.kind == "float" else (0, None)
        if table_c is not None and self.signature.takes_c:
            beside = e[:, 0] if d.kind == "float" and spec.a.kind == "float" else 0
            near = np.clip(beside - c_low, 0, len(table_c) - 1)
            c = table_c[near, rng.integers(0, 8, count)]
            c = np.where(rng.random(count) < 0.5, c | np.uint64(sign_bit(spec.c_format)), c)
            lines.c[...] = np.where(rng.random(count) < 0.6, c, 0).astype(lines.c.dtype)
        elif self.signature.takes_c:
            lines.c[...] = rng.integers(0, 1 << spec.c_format.bits, count, np.uint64).astype(lines.c.dtype)
        return lines

    def scaled(self, lines: Lines, order: NDArray[np.int64]) -> Lines:
        """Return lines with scales that differ from group to group where an exchange leaves each product in its group."""
        found: list[Codes | None] = []
        for scales, given in zip(lines[3:], self.signature.scale_formats, strict=True):
            if scales is None or given is None:
                found.append(None)
                continue
            fmt, groups = given
            group = -(-order.shape[1] // groups)
            stays = (order // group == np.arange(order.shape[1]) // group).all(axis=1)
            low, table = by_exponent(fmt)
            which = np.clip(self.rng.integers(-24, 25, scales.shape) - low, 0, len(table) - 1)
            own = table[which, self.rng.integers(0, 8, scales.shape)]
            own = np.where(stays[:, None], own, own[:, :1])
            found.append(own.astype(scales.dtype))
        return lines._replace(scale_a=found[0], scale_b=found[1])

    def exchangeable(self, pairs: list[tuple[list[int], list[int]]]) -> list[bool]:
        """Return, for each pair of equally many products, whether D stayed the same whenever they changed places."""
        keys = [(tuple(x), tuple(y)) for x, y in pairs]
        new = [key for key in dict.fromkeys(keys) if key not in self.known]
        for tries in TRIES:
            if new:
                same = self._exchanged(new, tries)
                self.known.update(zip(new, same, strict=True))
                new = [key for key, holds in zip(new, same, strict=True) if holds]
        return [self.known[key] for key in keys]

    def _exchanged(self, pairs: list[Any], tries: int) -> list[bool]:
        """Return, for each pair, whether D stayed the same in some questions."""
        k = self.signature.spec.shape.k
        orders = np.tile(np.arange(k), (len(pairs), 1))
        places = np.empty((len(pairs), tries, PLACES), np.int64)
        for i, (x, y) in enumerate(pairs):
            orders[i, list(x)], orders[i, list(y)] = y, x
            for column, choice in enumerate((x, y, x, y)):
                places[i, :, column] = self.rng.choice(choice, tries)
            beside = [np.arange(max(0, p - 4), min(k, p + 5)) for p in (x[0], y[0], x[-1], y[-1])]
            places[i, :, 4:7] = self.rng.choice(np.concatenate(beside), (tries, 3))
            places[i, :, 7:] = self.rng.choice(k, (tries, PLACES - 7))
        order = np.repeat(orders, tries, axis=0)
        lines = self.scaled(self.operands(places.reshape(-1, PLACES)), order)
        moved = lines._replace(a=np.take_along_axis(lines.a, order, 1), b=np.take_along_axis(lines.b, order, 1))
        d = self.session.ask(Lines.join([lines, moved]))
        first = d[: len(lines.c)]
        same = first == d[len(lines.c) :]
        self.asked.append((lines, first, ~same))
        return [bool(x) for x in same.reshape(len(pairs), tries).all(axis=1)]

    def told(self, count: int) -> list[tuple[str, Lines, Codes]]:
        """Return some of the questions with their answers by experiment: those that an exchange changed, and others."""
        if not self.asked:
            return []
        lines, d = Lines.join([x[0] for x in self.asked]), np.concatenate([x[1] for x in self.asked])
        changed = np.concatenate([x[2] for x in self.asked])
        groups = {"orders": np.flatnonzero(changed), "sums": np.flatnonzero(~changed)}
        some = {name: self.rng.permutation(group)[: count // 2] for name, group in groups.items()}
        return [(name, lines.pick(which), d[which]) for name, which in some.items() if which.size]

    def few(self, count: int) -> Lines:
        """Return questions of a few products at places near each other and anywhere."""
        k = self.signature.spec.shape.k
        near = self.rng.integers(0, k, (count, 1)) + self.rng.integers(-1, 2, (count, PLACES)) * (
            2 ** self.rng.integers(0, max(1, k.bit_length()), (count, PLACES))
        )
        anywhere = self.rng.integers(0, k, (count, PLACES))
        places = np.where(self.rng.random((count, PLACES)) < 0.6, near % k, anywhere)
        return self.scaled(self.operands(places), np.tile(np.arange(k), (count, 1)))

    # -- levels ------------------------------------------------------------------------------------------------------

    def siblings(self, items: Items, *of: int) -> list[set[int]]:
        """Return, for some items by their numbers, the items that are exchangeable with each, in one round of questions."""
        pairs = [(i, x) for x in of for i in range(len(items)) if i != x]
        found = self.exchangeable([(items[min(pair)], items[max(pair)]) for pair in pairs])
        same = [pair for pair, holds in zip(pairs, found, strict=True) if holds]
        return [{x, *(i for i, other in same if other == x)} for x in of]

    def sums(self, items: Items) -> list[tuple[Data, Items]]:
        """Return how items may be shared out to sums, the largest sums first, then others of the same sizes: the fields of a
        stage, and its sums in order. Products keep the order of their items, so that exchanges keep what is summed below."""
        n = len(items)
        numbers = sorted({0, n - 1})
        ends = dict(zip(numbers, self.siblings(items, *numbers), strict=True))
        found: list[tuple[int, Data, Items]] = []
        for terms in (t for t in range(min(map(len, ends.values())), 0, -1) if n % t == 0):
            alike = 0
            for interleave in [None, *_interleaves(terms, n)] if terms > 1 else [None]:
                blocks = _blocks(terms, interleave, n)
                if all(set(b) <= ends[of] for of in ends for b in blocks if of in b):
                    stage = {"terms": terms} | ({"interleave": interleave} if interleave else {})
                    found.append((alike, stage, [[k for i in b for k in items[i]] for b in blocks]))
                    alike += 1
        return [(stage, sums) for _, stage, sums in sorted(found, key=lambda x: x[0])]

    def trees(self, items: Items, depth: int = 0) -> Iterator[list[Data]]:
        """Yield the levels of sums above some items: terms, interleave, and the sums that are added one after the other."""
        found = [(stage, sums) for stage, sums in self.sums(items)[:SUMS] if not depth or stage["terms"] > 1]
        chains = [list(self.chains(stage, sums, items)) if depth < 3 else [] for stage, sums in found]
        self.exchangeable([pair for each in chains for _, above in each for pair in _of_ends(above)])  # in one round
        for (stage, sums), levels in zip(found, chains, strict=True):
            n = len(sums)
            yield [stage]
            for level, above in levels:
                if level.get("chain", 1) > 1:
                    yield [level, {"terms": 1}]  # chains that are added to C one after the other
                    if len(above) > 2:  # or to each other, and C to their sum
                        yield [level, {"terms": 1, "chain": len(above)}, {"terms": 1}]
                if len(self.siblings(above, len(above) - 1)[0]) > 1:
                    yield from ([level, *rest] for rest in self.trees(above, depth + 1))
            if n > 1 and depth < 3:
                yield [stage | {"chain": n}, {"terms": 1}]

    def chains(self, stage: Data, sums: Items, items: Items) -> Iterator[tuple[Data, Items]]:
        """Yield a stage with chains of its sums, one after the other or dealt out in turn, and the products of each chain."""
        n, terms = len(sums), stage["terms"]
        for chain in (c for c in range(1, n) if n % c == 0):
            level = stage | ({"chain": chain} if chain > 1 else {})
            yield level, [[k for x in sums[i : i + chain] for k in x] for i in range(0, n, chain)]
            if chain > 1 and "interleave" not in stage:
                for dealt in _interleaves(chain * terms, len(items)):
                    if dealt["run"] % terms == 0:
                        hands = _blocks(chain * terms, dealt, len(items))
                        above = [[k for i in hand for k in items[i]] for hand in hands]
                        yield level | {"interleave": dealt | {"to": "chains"}}, above

    def structures(self) -> list[list[Data]]:
        """Return the likeliest orders as stages; where C is added, and whether products are rounded first, is left open."""
        k = self.signature.spec.shape.k
        trees = list(islice(self.trees([[i] for i in range(k)]), TREES))
        known = list(self.known.items())[:: 1 + len(self.known) // RANKED]
        places, held = np.tile(np.arange(k), (len(known) + 1, 1)), np.array([True, *(same for _, same in known)])
        for row, ((x, y), _) in zip(places[1:], known, strict=True):
            row[list(x)], row[list(y)] = y, x

        def unlikely(tree: list[Data]) -> tuple[int, int]:
            """Return how many exchanges changed D though not the tree, and how many the tree though not D."""
            sums = _labels(tree, places)
            same = sums == sums[0]
            return int((same & ~held).sum()), int((held & ~same).sum())

        likeliest = [*sorted(trees, key=unlikely)[: MOST // 3], *trees[: MOST // 6]]
        every = ([*first, *stages] for first in ([], [{"terms": 1}]) for tree in likeliest for stages in _with_c(tree))
        return list({str(stages): stages for stages in islice(every, 2 * MOST)}.values())[:MOST]


def _labels(tree: list[Data], places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a number for each arrangement of products (N, K): the same for two if the tree's sums are."""
    labels = np.random.default_rng(1).integers(1, 1 << 63, places.shape[1], np.uint64)[places]
    for i, level in enumerate(tree):
        terms, dealt, n = level["terms"], level.get("interleave"), labels.shape[1]
        chain = level.get("chain", 1 if i < len(tree) - 1 else n // terms)
        hand = terms * chain if dealt and "to" in dealt else terms
        order = np.concatenate(_blocks(hand, dealt, n))
        blocks = _mixed(labels[:, order].reshape(len(labels), -1, chain, terms)).sum(axis=3)
        labels = np.zeros(blocks.shape[:2], np.uint64)
        for j in range(chain):
            labels = _mixed(labels + blocks[:, :, j])
    first: NDArray[np.uint64] = labels[:, 0]
    return first


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ x >> np.uint64(29)) * np.uint64(0xBF58476D1CE4E5B9)
    return x ^ x >> np.uint64(32)


def _of_ends(items: Items) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the pairs of the first item and of the last with each other one."""
    for of in sorted({0, len(items) - 1}):
        yield from ((items[min(i, of)], items[max(i, of)]) for i in range(len(items)) if i != of)


def _interleaves(terms: int, n: int) -> Iterator[Data]:
    for parts in (p for p in range(2, n // terms + 1) if n % (p * terms) == 0):
        yield from ({"run": run, "parts": parts} for run in range(1, terms) if terms % run == 0)


def _blocks(terms: int, interleave: Data | None, n: int) -> Items:
    """Return the items of each sum (golden.deal)."""
    if interleave is None:
        return [list(range(i, i + terms)) for i in range(0, n, terms)]
    run, parts = interleave["run"], interleave["parts"]
    hand = terms * parts
    return [[s + j for j in range(hand) if j // run % parts == p] for s in range(0, n, hand) for p in range(parts)]


def _with_c(tree: list[Data]) -> Iterator[list[Data]]:
    """Yield a tree of sums as stages: C is a term of the last sums or added to them."""
    *below, last = [dict(level, accumulator=True) if "chain" in level else level for level in tree]
    if "chain" not in last:
        yield [*below, {**last, "accumulator": True}]
    if last["terms"] > 1 or below:
        yield [*below, last, {"terms": 1, "accumulator": True}]
