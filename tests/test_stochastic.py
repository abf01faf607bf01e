"""Stochastic rounding: the generator, registers that draw from it, and what they refuse."""

import numpy as np
import pytest
from golden_in_c import compiled

from isa_model import InputError, Instruction, gemm, matmul
from isa_model.diagnostics import parse_yaml
from isa_model.engines import portable
from isa_model.formats import FORMATS
from isa_model.library import validated
from isa_model.philox import philox
from isa_model.vectors import vector_files
from isa_model.vectors.coverage import measure
from isa_model.vectors.make import make

TEXT = """
a: bf16
b: bf16
accumulator: fp32
shape: {m: 4, n: 4, k: 4}
stages:
  sum: {terms: 4, accumulator: true, result: {format: bf16, rounding: stochastic, random_bits: 8}}
"""
SPEC = validated(parse_yaml(TEXT, "x.yaml"))


@pytest.mark.parametrize(
    ("counter", "key", "word"),
    [
        ((0, 0, 0, 0), 0, 0x6627E8D5),
        ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, 0x408F276D),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), 0x299F31D0A4093822, 0xD16CFE09),
    ],
)
def test_the_generator_has_its_published_answers(counter, key, word):
    """Philox4x32-10 gives the first words of Random123's known answers, for one element and for arrays."""
    assert philox(key, *counter) == word
    row, column = (np.array([[x]], np.uint64) for x in counter[:2])
    assert philox(key, row, column, *counter[2:])[0, 0] == word


def test_a_rounding_takes_the_upper_neighbour_as_often_as_its_fraction_says():
    """Over a whole 8-bit draw the mean of 1 + 3/8 of a last place is itself; what eight bits do not resolve is cut off."""
    a, b = np.zeros((256, 4), np.uint16), np.zeros((4, 256), np.uint16)
    a[:, :2], b[:2] = 0x3F80, [[0x3F80], [0x3B40]]  # 1 and 3/8 of BF16's last place above 1
    d = matmul(SPEC, a, b, seed=7).view(np.float32).astype(np.float64)
    assert set(np.unique(d)) == {1.0, 1 + 2.0**-7}
    assert abs((d.mean() - 1) * 128 - 0.375) < 4 * (0.375 * 0.625 / d.size) ** 0.5
    b[1] = 0x3780  # 2**-16: 1/512 of a last place
    assert (matmul(SPEC, a, b, seed=7).view(np.float32) == 1).all()


def test_a_run_is_reproduced_by_its_seed_in_any_tiles(monkeypatch):
    """The same seed gives the same D whatever the tile; another seed, row or column another one."""
    rng = np.random.default_rng(2)
    a, b = (rng.integers(0x3F00, 0x4000, shape).astype(np.uint16) for shape in ((6, 32), (32, 5)))
    first = matmul(SPEC, a, b, seed=1, engine="portable").view(np.uint32)
    monkeypatch.setattr(portable, "TILE_M", 2)
    monkeypatch.setattr(portable, "TILE_N", 3)
    assert np.array_equal(first, matmul(SPEC, a, b, seed=1, engine="portable").view(np.uint32))
    assert np.array_equal(first, matmul(SPEC, a, b, seed=1, engine="golden").view(np.uint32))
    assert (first != matmul(SPEC, a, b, seed=2).view(np.uint32)).any()
    same = matmul(SPEC, a[[0] * 6], b[:, [0] * 5], seed=1).view(np.uint32)
    assert len(np.unique(same)) > 1


def test_parts_of_k_have_seeds_of_their_own():
    """Split K draws from the next seed for each further part."""
    a = np.full((3, 8), 0x3F81, np.uint16)
    parts = [matmul(SPEC, a[:, :4], a.T[:4], seed=seed) for seed in (5, 6)]
    assert np.array_equal(gemm(SPEC, a, a.T, split_k=2, seed=5), parts[0] + parts[1])


def test_a_seed_is_asked_for_and_taken_only_where_it_is_used():
    """A missing, unused or impossible seed is refused by name."""
    a = np.zeros((1, 4), np.uint16)
    with pytest.raises(ValueError, match="needs a seed"):
        matmul(SPEC, a, a.T)
    with pytest.raises(ValueError, match="from 0 to"):
        matmul(SPEC, a, a.T, seed=1 << 64)
    plain = validated(parse_yaml(TEXT.replace("stochastic, random_bits: 8", "up"), "x.yaml"))
    with pytest.raises(ValueError, match="draws no random bits"):
        matmul(plain, a, a.T, seed=1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (", random_bits: 8", "", "draws random bits: `random_bits` must say how many"),
        ("stochastic", "up", "has no meaning with rounding `up`"),
        ("random_bits: 8", "random_bits: 33", "must be from 1 to 32"),
        ("terms: 4,", "terms: 4, fraction_bits: 9, rounding: stochastic,", "nothing here draws random numbers"),
    ],
)
def test_random_bits_belong_to_stochastic_registers(old, new, message):
    """`stochastic` needs `random_bits`, which no other rounding has; terms are not cut stochastically."""
    with pytest.raises(InputError, match=message):
        validated(parse_yaml(TEXT.replace(old, new), "x.yaml"))


def test_an_integer_register_and_scales_draw_nothing():
    """Sums of integers are whole, and the registers of scales belong to no block."""
    register = {"format": "fp32", "rounding": "stochastic", "random_bits": 3}
    spec = SPEC.model_dump(mode="json")
    spec["scale"] = {"a": {"group": [1, 4], "format": "fp32"}, "result": register}
    with pytest.raises(ValueError, match="only the `result` of a stage"):
        Instruction.model_validate(spec)
    with pytest.raises(ValueError, match="integer sums are whole"):
        type(SPEC.stages["sum"].result[0])(**register | {"format": FORMATS["int32"]})


def test_vectors_hold_the_random_words_that_registers_take(tmp_path):
    """Words stand in the order of stages, blocks and registers; the model in C, which takes them so, gives the same D."""
    made = make(SPEC, 40, 1)
    assert made.fields["random"] == (1, 32, "random words")
    columns = [np.array([np.atleast_1d(getattr(v, name)) for v in made.vectors]) for name in ("a", "b", "c", "random")]
    run = compiled(SPEC)
    got = run(0, *columns[:2], columns[2][:, 0], None, columns[3].astype(np.uint32))
    assert got.tolist() == [v.d for v in made.vectors]
    vector_files.write(made, measure(made), tmp_path / "v")
    for _, read in vector_files.read(tmp_path / "v"):
        assert [v._replace(case="") for v in read.vectors] == [v._replace(case="") for v in made.vectors]
