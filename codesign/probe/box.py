"""Black boxes: what one takes and returns, the questions put to it, and the log of what it answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations, islice
from time import process_time
from typing import Any, NamedTuple, Protocol

import numpy as np

from isa_model.array_codec import code_dtype, values_of
from isa_model.codec import encode, number_of
from isa_model.diagnostics import InputError
from isa_model.engines.lines import dots
from isa_model.float64 import Codes
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.operand_fields import ScaleOperand
from isa_model.sparse import elements


class Lines(NamedTuple):
    """Questions as codes: each line is one dot product, a row of A and a column of B, with its element of C."""

    a: Codes
    """Row of A for each line (L, K)."""
    b: Codes
    """Column of B for each line (L, K)."""
    c: Codes
    """Element of C for each line (L,)."""
    scale_a: Codes | None = None
    """Scales of A along K (L, groups), if the box takes them."""
    scale_b: Codes | None = None
    """Scales of B along K (L, groups), if the box takes them."""

    def pick(self, which: Any) -> Lines:
        """Return some of the lines, by index or mask."""
        return Lines(*(None if x is None else x[which] for x in self))  # type: ignore[arg-type]

    @staticmethod
    def join(parts: list[Lines]) -> Lines:
        """Return the lines of several arrays of them, one after the other."""
        return Lines(*(None if x[0] is None else np.concatenate(x) for x in zip(*parts, strict=True)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Signature:
    """What a box is known to take: shape, formats, groups of scales. It says nothing of how the box computes."""

    spec: Instruction
    """An instruction of this shape and these formats, without sparsity. Its other fields are not read."""
    takes_c: bool = True
    """False for a box without C, which is asked with C = 0 alone."""
    sparse: Instruction | None = None
    """The sparse instruction that the box takes, of which `spec` is the dense part; None for a dense box."""

    @property
    def is_float(self) -> bool:
        """True if operands are floating-point numbers."""
        return self.spec.a.kind == self.spec.b.kind == "float"

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of a spec that the signature determines."""
        return self.spec.model_dump(mode="json", include={"shape", "a", "b", "c", "accumulator"})

    @property
    def sides(self) -> tuple[ScaleOperand | None, ScaleOperand | None]:
        """Group scales of A and B."""
        scale = self.spec.scale
        return (scale.a, scale.b) if scale else (None, None)

    @property
    def scale_formats(self) -> tuple[tuple[Format, int] | None, ...]:
        """Format and number of the scales along K of A and B; None for an operand without scales."""
        k = self.spec.shape.k
        return tuple(
            (side.format, -(-k // side.group[axis])) if side else None
            for side, axis in zip(self.sides, (1, 0), strict=True)
        )

    def given(self, lines: Lines) -> list[Codes]:
        """Return questions as the box takes them: A, B, C and scales, as far as there are any.

        A sparse box gets one operand with the stored elements alone, the other whole, with any codes where nothing is stored,
        and last the positions (L, runs) of what is stored, drawn at random: none of the two changes D.
        """
        if self.sparse is None or self.sparse.sparsity is None:
            return [x for x in lines if x is not None]
        sparsity, rng = self.sparse.sparsity, np.random.default_rng(len(lines.c))
        ways = np.array(list(islice(combinations(range(sparsity.of), sparsity.kept), 4096)), np.uint8)
        groups = self.spec.shape.k // (sparsity.kept * sparsity.run)
        positions = ways[rng.integers(0, len(ways), (len(lines.c), groups))].reshape(len(lines.c), -1)
        name = "b" if sparsity.operand == "a" else "a"
        fmt, stored = getattr(self.spec, name), getattr(lines, name)
        whole = rng.integers(0, 1 << fmt.bits, (len(stored), self.sparse.shape.k), np.uint64).astype(stored.dtype)
        np.put_along_axis(whole, elements(sparsity, positions), stored, axis=1)
        return [*(x for x in lines._replace(**{name: whole}) if x is not None), positions]

    def empty(self, count: int) -> Lines:
        """Return `count` lines of zeros, with scales of one where there are any."""
        spec, k = self.spec, self.spec.shape.k

        def full(fmt: Format, shape: tuple[int, ...], code: int) -> Codes:
            return np.full(shape, code, code_dtype(fmt))

        scales = [None if s is None else full(s[0], (count, s[1]), one_of(s[0])) for s in self.scale_formats]
        a, b = (full(f, (count, k), f.zero_code) for f in (spec.a, spec.b))
        return Lines(a, b, full(spec.c_format, (count,), 0), *scales)


def one_of(fmt: Format) -> int:
    """Return the code of 1, or of the number nearest to it."""
    return encode(fmt, number_of(1))


def sign_bit(fmt: Format) -> int:
    """Return the bit of the sign in a code; 0 for integers and floats without a sign."""
    return 1 << (fmt.magnitude_bits + fmt.low_padding) if fmt.signed and fmt.kind == "float" else 0


class Box(Protocol):
    """A function from operands to D, of which nothing else is known."""

    signature: Signature

    def ask(self, lines: Lines) -> Codes:
        """Return the codes of D (L,), one for each line."""
        ...


@dataclass
class Recorded:
    """Recorded answers as a box: only what is in them can be asked, so the fit takes them all at once."""

    signature: Signature
    recorded: Lines
    d: Codes
    nans: tuple[int, ...] = ()
    """Codes of NaNs that count as one in `d`, as the log of a probe says."""

    def ask(self, lines: Lines) -> Codes:
        """Refuse: a recording answers nothing else."""
        raise InputError.of("a recording has no answers to other questions")


class Refusal(Exception):
    """The box cannot be described: its answers vary, or no spec that was tried gives them. The certificate says which."""


class Ended(Refusal):
    """The time ended before the search did: nothing is refused, and nothing is certified."""


VARIES = "the box answers the same question differently: it is no function of its operands"
NO_PRODUCTS = "the box answers differently when operands A and B of a product change places or signs, as in no spec"


def answers(spec: Instruction, lines: Lines) -> Codes:
    """Return the codes of D that a spec gives to questions."""
    return dots(spec, *lines)


def rewritten(signature: Signature, rng: np.random.Generator, pool: Lines) -> Lines:
    """Return the questions of a pool with the same products of other operands: A and B change places, or their signs.

    No spec of the language gives them other answers. Signs of normal numbers alone: other operands may be read as +0.
    """
    spec, a, b = signature.spec, pool.a, pool.b
    if spec.a == spec.b:
        change = rng.random(a.shape) < 0.5
        a, b = np.where(change, b, a), np.where(change, a, b)
    if sign_bit(spec.a) and sign_bit(spec.b):
        turn = rng.random(a.shape) < 0.5
        for x, fmt in ((a, spec.a), (b, spec.b)):
            turn &= x % x.dtype.type(sign_bit(fmt)) >= x.dtype.type(1 << (fmt.mantissa_bits + fmt.low_padding))
        a, b = (np.where(turn, x ^ x.dtype.type(sign_bit(fmt)), x) for x, fmt in ((a, spec.a), (b, spec.b)))
    return pool._replace(a=a, b=b)


@dataclass
class Session:
    """A box with all that was asked of it: the questions, the answers, and the experiment that each belongs to."""

    box: Box
    pool: Lines = field(init=False)
    """Every question that was kept."""
    d: Codes = field(init=False)
    """The box's answers to them."""
    experiments: list[str] = field(default_factory=list)
    """Experiment of each question of the pool."""
    asked: int = 0
    """Number of questions put to the box, those asked twice and those of the last check included."""
    rounds: int = 0
    """Number of times that the box was called."""
    box_s: float = 0.0
    """Seconds of processor time that the box took in this process."""
    conflict: tuple[Lines, Lines, list[int]] | None = None
    """Two questions that every spec answers alike, mostly one asked twice, and the box's two answers."""

    nans: list[int] = field(default_factory=list)
    """Codes of the box's NaNs, at most two. The language has one: if a box passes on payloads, all count as the usual one."""

    def __post_init__(self) -> None:
        signature = self.box.signature
        self.pool, self.d = signature.empty(0), np.empty(0, code_dtype(signature.spec.accumulator))

    def ask(self, lines: Lines) -> Codes:
        """Return the box's answers, without keeping them."""
        self.asked += len(lines.c)
        self.rounds += 1
        began = process_time()
        d = self.box.ask(lines)
        self.box_s += process_time() - began
        if d.shape != lines.c.shape:
            raise Refusal(f"the box returned {d.shape} for {len(lines.c)} questions")
        return self._with_one_nan(d)

    def _with_one_nan(self, d: Codes) -> Codes:
        """Return answers with the usual NaN for every NaN, once the box has given NaNs of two codes."""
        fmt = self.box.signature.spec.accumulator
        nan = np.isnan(values_of(fmt, d))
        before, self.nans = self.nans, list(dict.fromkeys([*self.nans, *d[nan].tolist()]))[:2]
        if len(self.nans) < 2:
            return d
        usual = d.dtype.type(fmt.nan_code or 0)
        if before == self.nans[:1]:
            self.d = np.where(self.d == before[0], usual, self.d)
        return np.where(nan, usual, d)

    def compare(self, lines: Lines, d: Codes, rng: np.random.Generator) -> None:
        """Ask questions of known answers again, and others of the same products. Raises Refusal if an answer is another one."""
        others = rewritten(self.box.signature, rng, lines)
        again, of_others = np.split(self.ask(Lines.join([lines, others])), 2)
        d = self._with_one_nan(d)  # these answers may show a second NaN
        for other, got, reason in ((lines, again, VARIES), (others, of_others, NO_PRODUCTS)):
            for i in np.flatnonzero(got != d)[:1]:
                one, two = lines.pick(slice(i, i + 1)), other.pick(slice(i, i + 1))
                told = [int(d[i]), int(got[i])]
                if other is others:  # rather a box that varies now and then?
                    many = self.ask(Lines.join([one] * 32))
                    if (many != d[i]).any():
                        two, reason, told = one, VARIES, [int(d[i]), int(many[many != d[i]][0])]
                self.conflict = one, two, told
                raise Refusal(reason)

    def keep(self, experiments: list[str], lines: Lines, d: Codes) -> None:
        """Keep questions with their answers."""
        self.experiments += experiments
        self.pool, self.d = Lines.join([self.pool, lines]), np.concatenate([self.d, self._with_one_nan(d)])
