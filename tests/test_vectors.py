"""Known-answer vectors: what they cover, their two file forms, and that conform finds one wrong bit."""

import json
from random import Random

import pytest

from codesign.__main__ import run
from isa_model import golden, load
from isa_model.instruction import Instruction
from isa_model.vectors.coverage import measure
from isa_model.vectors.make import _random, make
from isa_model.vectors.vector import answer

SPECS = [
    "hopper.wgmma.m64n8k32.f32.e4m3.e4m3",
    "volta.mma.m8n8k4.f32.f16.f16.f16",
    "hopper.mma.m16n8k16.s32.s8.u8.s32.satfinite",
    "blackwell.tcgen05.m128n8k32.kind::mxf8f6f4.block32.f32.e5m2.e3m2.ue8m0",
    *(
        pytest.param(name, marks=pytest.mark.sweep)
        for name in (
            "hopper.mma.m16n8k16.f16.e5m2.e4m3.f16",
            "hopper.wgmma.m64n8k8.f32.tf32.tf32",
            "ada.mma.m16n8k32.s32.u8.u8.s32",
            "blackwell.tcgen05.m64n8k32.kind::f8f6f4.f16.e3m2.e2m1",
        )
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    assert run(["vectors", SPECS[0], "--out", str(folder / "one"), "--count", "1200", "--seed", "3"]) == 0
    return folder / "one"


@pytest.mark.parametrize("name", SPECS)
def test_every_wanted_bin_is_hit(name, tmp_path, capsys):
    """The coverage, measured on the finished vectors, misses nothing that the instruction can reach."""
    assert run(["vectors", name, "--out", str(tmp_path / "v"), "--count", "2000"]) == 0
    assert " 0 missed" in capsys.readouterr().out
    assert run(["conform", "--vectors", str(tmp_path / "v")]) == 0


def test_vectors_are_golden_results(folder):
    """Each line's D is the golden model's for its operands, and the header carries the instruction."""
    header, *lines = (json.loads(line) for line in (folder / "vectors.jsonl").read_text().splitlines())
    spec = load(SPECS[0])
    assert header["instruction"] == spec.name
    assert len(lines) == 1200
    for line in lines[::29]:
        a, b = ([int(code, 16) for code in line[side]] for side in "ab")
        c, d = (int(line[side][0] if isinstance(line[side], list) else line[side], 16) for side in "cd")
        assert golden.dot(spec, a, b, c) == d


def test_the_same_seed_gives_the_same_files(folder, tmp_path):
    """Two runs with one seed write the same bytes; another seed writes others."""
    for seed, same in (("3", True), ("4", False)):
        out = tmp_path / seed
        assert run(["vectors", SPECS[0], "--out", str(out), "--count", "1200", "--seed", seed]) == 0
        assert ((out / "a.hex").read_bytes() == (folder / "a.hex").read_bytes()) == same


@pytest.mark.parametrize("name", ["vectors.jsonl", "d.hex"])
def test_conform_finds_one_flipped_bit(folder, tmp_path, capsys, name):
    """One bit of one D in either form is one mismatch and exit code 1."""
    import shutil

    copy = tmp_path / "v"
    shutil.copytree(folder, copy)
    if name == "d.hex":
        lines = (copy / name).read_text().splitlines()
        last = max(i for i, line in enumerate(lines) if line and not line.startswith("//"))
        lines[last] = f"{int(lines[last], 16) ^ 0x400:0{len(lines[last])}x}"
    else:
        lines = (copy / name).read_text().splitlines()
        vector = json.loads(lines[-1])
        old = vector["d"][0] if isinstance(vector["d"], list) else vector["d"]
        new = f"{int(old, 16) ^ 0x400:0{len(old)}x}"
        vector["d"] = [new] if isinstance(vector["d"], list) else new
        lines[-1] = json.dumps(vector)
    (copy / name).write_text("\n".join(lines) + "\n")
    assert run(["conform", "--vectors", str(copy)]) == 1
    assert "1 mismatches" in capsys.readouterr().out


def test_too_few_vectors_for_the_coverage_are_refused(tmp_path, capsys):
    """A count below what the coverage needs gives exit code 2 and the count needed, and writes nothing."""
    assert run(["vectors", SPECS[0], "--out", str(tmp_path / "v"), "--count", "10"]) == 2
    assert "--count" in capsys.readouterr().err
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("bias", [500, -500])
def test_operands_may_have_exponents_far_from_those_of_c(bias):
    """Random codes of C stay codes where products lie far below or above its range."""
    stage = {"terms": 2, "accumulator": True, "result": {"format": "fp32", "rounding": "toward-zero"}}
    data = {
        "shape": {"m": 1, "n": 1, "k": 2},
        "a": {"exponent_bits": 4, "mantissa_bits": 3, "bias": bias, "infinity": False, "nan": "none"},
        "b": "e4m3",
        "accumulator": "fp32",
        "stages": {"sum": stage},
    }
    data["a"] |= {"name": "far", "overflow": "saturate"}
    spec = Instruction.model_validate(data)
    rng = Random(0)
    for _ in range(300):
        vector = _random(spec, rng)
        assert 0 <= vector.c < 1 << 32
        assert answer(spec, vector) == golden.dot(spec, vector.a, vector.b, vector.c)


def test_numbers_of_two_names_are_wanted_once():
    """The largest number of one bit is 1: no bin is wanted that another one takes."""
    result = {"format": "uint1", "rounding": "nearest-even", "overflow": "wrap"}
    data = {"shape": {"m": 1, "n": 1, "k": 1}, "a": "uint8", "b": "uint1", "accumulator": "uint1"}
    stages = {"sum": {"terms": 1, "accumulator": True, "result": result}}
    made = make(Instruction.model_validate({**data, "name": "one bit", "stages": stages}), 200, 0)
    assert not [name for row in measure(made) for name in row.missed]
