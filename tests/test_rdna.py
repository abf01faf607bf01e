"""RDNA3's and RDNA4's rules against outputs that AMD recorded on two cards (tests/fixtures/rdna.txt)."""

from pathlib import Path

import pytest

from isa_model import golden, load
from isa_model.codec import encode, number_of
from isa_model.instruction import Instruction

FIXTURE = Path(__file__).parent / "fixtures" / "rdna.txt"


def recorded(*wanted):
    """The rows of one section of the fixture, as whole numbers."""
    rows, inside = [], False
    for line in FIXTURE.read_text().splitlines():
        words = line.split()
        if words[0] in ("dot2", "wmma", "integers"):
            inside = tuple(words) == wanted
        elif inside:
            rows.append([int(word, 16) for word in words])
    return rows


def one_step(name):
    """An instruction of the catalogue for two products and C, which the chip has as v_dot2."""
    data = load(name).model_dump()
    data["shape"]["k"] = 2
    data["stages"]["dot"]["terms"] = 2 if "pair" not in data["stages"] else 1
    return Instruction.model_validate(data)


@pytest.mark.parametrize("a", ["f16", "bf16"])
@pytest.mark.parametrize(
    ("card", "name", "count"),
    [("gfx1100", "rdna3", {"f16": 31, "bf16": 36}), ("gfx1201", "rdna4", {"f16": 19, "bf16": 29})],
)
def test_one_step_has_the_cards_bits(card, name, count, a):
    """Zeros, subnormals, cancellation, overflow: RDNA3 inverts opposing terms without adding 1, RDNA4 rounds each down."""
    spec = one_step(f"{name}.wmma.f32_16x16x16_{a}" + (".w64" if name == "rdna4" else ""))
    rows = recorded("dot2", card, a)
    assert len(rows) == count[a]
    for x, y, c, d in rows:
        found = golden.dot(spec, (x & 0xFFFF, x >> 16), (y & 0xFFFF, y >> 16), c)
        assert found == d, f"{x:08x} {y:08x} {c:08x}: {found:08x}, the card {d:08x}"


@pytest.mark.parametrize("a", ["f16", "bf16"])
def test_rdna4_takes_k_in_an_order_of_its_wave_size(a):
    """Wave64 takes fours of k as they come, wave32 those of the first and of the second half in turn."""
    rows = recorded("wmma", "gfx1201", a)
    assert len(rows) in (5, 7)
    for *codes, c, of_32, of_64 in rows:
        for wave, d in (("w32", of_32), ("w64", of_64)):
            spec = load(f"rdna4.wmma.f32_16x16x16_{a}.{wave}")
            assert golden.dot(spec, codes[:16], codes[16:], c) == d
    assert any(row[-1] != row[-2] for row in rows)


@pytest.mark.parametrize("a", ["f16", "bf16"])
def test_rdna3_gets_small_integers_wrong(a):
    """A matrix of small integers, whose sums FP32 holds: the card's 112 recorded rows and columns, few of which are exact."""
    spec = load(f"rdna3.wmma.f32_16x16x16_{a}")
    exact = 0
    rows = recorded("integers", "gfx1100")
    for i, row in enumerate(rows):
        for j, d in enumerate(row):
            x = [(i * 16 + k) * 7 % 17 - 8 for k in range(16)]
            y = [(k * 16 + j) * 11 % 17 - 8 for k in range(16)]
            c = (i * 16 + j) * 13 % 129 - 64
            codes = ([encode(spec.a, number_of(n)) for n in values] for values in (x, y))
            assert golden.dot(spec, *codes, encode(spec.c_format, number_of(c))) == d
            exact += d == encode(spec.accumulator, number_of(c + sum(p * q for p, q in zip(x, y, strict=True))))
    assert exact < sum(map(len, rows))
