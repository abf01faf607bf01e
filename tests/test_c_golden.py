"""The golden model in C against that in Python, code for code."""

import json
import re
import subprocess
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from golden_in_c import compiled
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from strategies import KINDS, codes, instructions, integer_instructions, sparse_instructions

from isa_model import InputError, conformance, golden, load
from isa_model.c_golden import source
from isa_model.c_golden.source import levels
from isa_model.engines.c_library import NoCompiler, compiler
from isa_model.formats import Format
from isa_model.instruction import Instruction
from isa_model.library import catalogue

try:
    compiler()
except NoCompiler as missing:
    pytest.skip(f"{missing}", allow_module_level=True)


def operands(spec, rng, kind, count):
    """Codes of `count` vectors: A, B, C, scales level by level, random words."""
    k = spec.shape.k
    a, b = (codes(fmt, rng, (count, k), kind) for fmt in (spec.a, spec.b))
    if kind == "cancel":
        b[:, k // 2 : 2 * (k // 2)] = b[:, : k // 2]
    scales = [codes(x.format, rng, (count, -(-k // group)), kind) for x, group in levels(spec)]
    draws = source.sizes([spec]).draws if spec.is_stochastic else 0
    words = rng.integers(0, 1 << 32, (count, draws), dtype=np.uint32)
    return a, b, codes(spec.c_format, rng, (count,), kind), scales, words


def by_definition(spec, a, b, c, scales, words):
    """D of one vector by golden.dot; random words are taken in the order of stages, blocks and registers."""
    left, split, given = words.tolist(), len(spec.scale.a.levels) if spec.scale and spec.scale.a else 0, {}
    for name, side, own in (
        ("a", spec.scale and spec.scale.a, scales[:split]),
        ("b", spec.scale and spec.scale.b, scales[split:]),
    ):
        if side:
            given[f"scale_{name}"] = [x.tolist() for x in own] if side.coarser else own[0].tolist()
    return golden.dot(spec, a.tolist(), b.tolist(), int(c), **given, draw=lambda *_: left.pop(0))


def assert_equal(specs, run, seed, kind, count):
    rng = np.random.default_rng(seed)
    for which, spec in enumerate(specs):
        a, b, c, scales, words = operands(spec, rng, kind, count)
        joined = np.concatenate(scales, axis=1) if scales else None
        got = run(which, a, b, c, joined, words if words.size else None)
        for i in range(count):
            expected = by_definition(spec, a[i], b[i], c[i], [x[i] for x in scales], words[i])
            assert int(got[i]) == expected, f"vector {i} of {spec}: C {int(got[i]):#x}, Python {expected:#x}"


@settings(
    max_examples=max(1, settings.default.max_examples // 100), phases=[Phase.generate]
)  # one example compiles many
@given(
    st.lists(st.one_of(instructions(), integer_instructions(), sparse_instructions()), min_size=16, max_size=16),
    st.integers(0, 1 << 30),
    st.sampled_from(KINDS),
)
def test_random_instructions_give_golden_bits(specs, seed, kind):
    """On random instructions of every kind, C on integers returns the codes of golden.dot."""
    dense = [spec.dense for spec in specs]
    assert_equal(dense, compiled(*dense), seed, kind, 2)


def arithmetic(spec):
    """What an instruction computes, without its name, its tile and its sources, as text."""
    return json.dumps(
        spec.model_dump(mode="json", exclude={"name", "description", "source", "checked", "known"}), sort_keys=True
    )


@pytest.fixture(scope="module")
def catalogued():
    """Each arithmetic of the catalogue once, and the C model of them all."""
    distinct = {}
    for name in catalogue():
        spec = load(name).dense
        shape = spec.shape.model_copy(update={"m": 1, "n": 1})
        distinct.setdefault(arithmetic(spec.model_copy(update={"shape": shape})), spec)
    return list(distinct.values()), compiled(*distinct.values())


@pytest.mark.parametrize("kind", ["bits", "cancel", "ends"])
def test_every_instruction_of_the_catalogue_gives_golden_bits(catalogued, kind):
    """Each arithmetic of the catalogue returns the codes of golden.dot."""
    assert_equal(*catalogued, 5, kind, 1)


def test_recorded_outputs_of_a_chip_are_reproduced(monkeypatch, tmp_path):
    """All outputs of single instructions that were recorded on an H200 are those of the C model."""
    file, specs = tmp_path / "single.npz", []
    with np.load(Path(__file__).parent / "fixtures/h200_mma.npz") as recorded:
        np.savez(file, **{key: recorded[key] for key in recorded if "/1/" in key})

    def noted(spec, a, b, c, scale_a, scale_b, engine):
        specs.extend([spec] if spec not in specs else [])
        return c

    monkeypatch.setattr(conformance, "matmul", noted)
    assert len(list(conformance.conform("hopper", file))) == len(specs) == 14
    run = compiled(*specs)

    def in_c(spec, a, b, c, scale_a, scale_b, engine):
        rows, columns = np.indices(c.shape).reshape(2, -1)
        d = run(specs.index(spec), a[rows], b.T[columns], c.ravel())
        return d.reshape(c.shape).astype(c.dtype)

    monkeypatch.setattr(conformance, "matmul", in_c)
    results = list(conformance.conform("hopper", file))
    assert sum(r.outputs for r in results) == 50_176
    assert not [r for r in results if r.mismatches]


@pytest.mark.parametrize("bias", [1061, -900])
@pytest.mark.parametrize("onto", ["products", "pair"])
def test_the_register_of_scales_may_lie_far_from_every_scale(bias, onto):
    """Scales near 1 that are rounded to a register near 2^-1060 or 2^900, which saturates, give golden bits."""
    register = Format(name="far", exponent_bits=3, mantissa_bits=13, bias=bias, overflow="saturate")
    fp32 = {"format": "fp32", "rounding": "nearest-even"}
    stages = {"pair": {"terms": 2}, "sum": {"terms": 2, "accumulator": True, "result": fp32}}
    scale = {
        "a": {"group": [1, 4], "format": "e4m3"},
        "b": {"group": [4, 1], "format": "e4m3"},
        "product": {"format": register, "rounding": "toward-zero"},
        "onto": onto,
    }
    body = {"a": "e4m3", "b": "e4m3", "accumulator": "fp32", "shape": {"m": 1, "n": 1, "k": 4}, "scale": scale}
    spec = Instruction.model_validate({**body, "stages": stages})
    assert_equal([spec], compiled(spec), 1, "like", 8)


def test_the_text_is_strict_c99(tmp_path):
    """A compiler accepts it as C99 with all warnings as errors, and it needs no header but stdint.h."""
    spec = load("cdna3.mfma.f32_16x16x32_fp8_fp8")
    (tmp_path / "golden.h").write_text(source.header(spec))
    (tmp_path / "golden.c").write_text(source.source(spec))
    flags = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-c", "golden.c"]
    done = subprocess.run([*compiler(), *flags], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:2000]
    text = "".join(path.read_text() for path in tmp_path.glob("golden.[ch]"))
    assert set(re.findall(r"#include .*", text)) == {'#include "golden.h"', "#include <stdint.h>"}
    assert not re.search(r"\b(float|double|malloc)\b", re.sub(r"/\*.*?\*/", "", text, flags=re.S))


@pytest.mark.parametrize("k", [1 << 12, 1 << 15])
def test_a_trace_too_large_for_memory_is_refused(k):
    """An instruction whose values on the way would take over 64 MiB is refused, and what would be less is said."""
    stage = {"terms": k, "accumulator": True, "result": {"format": "fp64", "rounding": "nearest-even"}}
    body = {"a": "fp64", "b": "fp64", "accumulator": "fp64", "shape": {"m": 1, "n": 1, "k": k}, "stages": {"s": stage}}
    with pytest.raises(InputError, match="69 MiB") if k > 1 << 12 else nullcontext():
        source.check(Instruction.model_validate(body))
