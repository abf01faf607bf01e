"""The model against recorded outputs of a real H200.

tests/fixtures/h200_mma.npz: a part of vectors recorded on an NVIDIA H200 (sm_90a, wgmma at n = 8 and mma.sync): the first
block of every instruction and distribution, and every chained case of three distributions.
tests/fixtures/h200_mma_sync.npz: a part of what `python checks/record_mma.py` wrote on an NVIDIA H200 (driver 580.159.04,
CUDA 13.0): two blocks of all 24 mma.sync instructions.
"""

from pathlib import Path

import numpy as np
import pytest

from codesign.commands import conform as live
from isa_model import InputError, golden, load, matmul
from isa_model.array_codec import code_dtype, decode_array, encode_array
from isa_model.conformance import conform, find
from isa_model.stimulus import KINDS, draw
from kernels import native

FIXTURES = Path(__file__).parent / "fixtures"
WGMMA_AND_MMA = FIXTURES / "h200_mma.npz"


@pytest.mark.parametrize(("file", "instructions"), [("h200_mma.npz", 14), ("h200_mma_sync.npz", 24)])
def test_every_recorded_output_is_reproduced(file, instructions):
    """The CPU engine returns the chip's bits for every instruction of a vector file."""
    results = list(conform("hopper", FIXTURES / file))
    assert len(results) == instructions
    for result in results:
        assert result.outputs > 0
        assert result.mismatches == 0, f"{result.instruction}: {result.first}"


def test_golden_reproduces_a_sample_of_every_instruction():
    """The golden model returns the chip's bits too, on two elements of every block of every case."""
    file = np.load(WGMMA_AND_MMA)
    for key in sorted({name.rsplit("/", 1)[0] for name in file.files}):
        spec = load(find("hopper", key.split("/")[0]))
        a, b, c, d = (file[f"{key}/{x}"] for x in "ABCD")
        dtype = code_dtype(spec.a)
        for block in range(len(a)):
            for i, j in ((3 * block % 64, block % 8), (61, 5)):
                c_code = int(encode_array(spec.accumulator, c[block, i, j : j + 1].astype(np.float64))[0])
                code = golden.dot(spec, a[block, i].view(dtype).tolist(), b[block, j].view(dtype).tolist(), c_code)
                got = decode_array(spec.accumulator, np.array([code], code_dtype(spec.accumulator)))[0]
                assert got == d[block, i, j] or (np.isnan(got) and np.isnan(d[block, i, j])), key


def test_a_wrong_model_is_caught(tmp_path):
    """One changed bit in a recording is counted, and its place is given."""
    file = np.load(WGMMA_AND_MMA)
    arrays = {name: file[name] for name in file.files if name.startswith("wgmma_e4m3_f32/normal/1/")}
    arrays["wgmma_e4m3_f32/normal/1/D"] = arrays["wgmma_e4m3_f32/normal/1/D"].copy()
    arrays["wgmma_e4m3_f32/normal/1/D"].view(np.uint32)[0, 7, 3] ^= 1 << 10
    np.savez(tmp_path / "bad.npz", **arrays)
    (result,) = conform("hopper", tmp_path / "bad.npz")
    assert result.mismatches == 1
    assert "block 0 [7, 3]" in result.first


@pytest.mark.parametrize(
    ("prefix", "more", "message"),
    [
        ("wgmma_e4m3_f32/normal/2", {}, "K = 32 makes 1 steps of hopper.wgmma"),
        ("wgmma_e4m3_f32/normal/0", {}, "arrays are called"),
        ("wgmma_e4m3_f32/\x1b[31m/1", {}, "arrays are called"),
        ("wgmma_e4m3_f32/two\nlines/1", {}, "arrays are called"),
        ("wgmma_e4m3_f32/normal/1", {"SA": np.zeros((1, 64, 1), np.uint8)}, "SA is given, but .* takes none"),
    ],
)
def test_what_a_recording_says_twice_has_to_agree(tmp_path, prefix, more, message):
    """A number of steps other than K's, scales that the instruction does not take, and control characters are refused."""
    a, d = np.zeros((1, 64, 32), np.uint8), np.zeros((1, 64, 8), np.float32)
    arrays = {"A": a, "B": np.zeros((1, 8, 32), np.uint8), "C": d, "D": d, **more}
    np.savez(tmp_path / "x.npz", **{f"{prefix}/{name}": array for name, array in arrays.items()})
    with pytest.raises(InputError, match=message):
        [list(c) for c in conform("hopper", tmp_path / "x.npz")]


def test_vectors_may_hold_raw_codes_scales_and_other_architectures(tmp_path):
    """Codes are compared bit for bit, NaNs included; scales are read; other architectures are left out."""
    spec = load("rtx_blackwell.mma.m16n8k32.kind::mxf8f6f4.block32.f32.e4m3.e5m2.f32.ue8m0")
    x = draw(spec, "bits", np.random.default_rng(1), 16, 8, 32)
    d = matmul(spec, x.a, x.b, x.c, x.scale_a, x.scale_b).view(np.uint32)
    assert (d == spec.nan_code).any()
    arrays = {"A": x.a, "B": x.b.T, "C": x.c, "D": d, "SA": x.scale_a, "SB": x.scale_b.T}
    vectors = {f"{spec.name}/bits/1/{key}": array[None] for key, array in arrays.items()}
    file = tmp_path / "scaled.npz"
    np.savez(file, **vectors)
    (result,) = conform("rtx_blackwell", file)
    assert (result.instruction, result.outputs, result.mismatches) == (spec.name, 128, 0)
    with pytest.raises(InputError, match="holds no results of hopper"):
        list(conform("hopper", file))
    np.savez(file, **{**vectors, f"{spec.name}/bits/1/D": np.where(d == spec.nan_code, 0x7FC00000, d)[None]})
    (result,) = conform("rtx_blackwell", file)
    assert result.mismatches == (d == spec.nan_code).sum()
    del vectors[f"{spec.name}/bits/1/SB"]
    np.savez(file, **vectors)
    with pytest.raises(InputError, match="SB"):
        list(conform("rtx_blackwell", file))


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("wgmma_e4m3_f32", "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"),
        ("wgmma_e4m3_e5m2_f32", "hopper.wgmma.m64n256k32.f32.e4m3.e5m2"),
        ("mma_bf16_f32", "hopper.mma.m16n8k16.f32.bf16.bf16.f32"),
        ("mma_e4m3_f16", "hopper.mma.m16n8k32.f16.e4m3.e4m3.f16"),
        ("hopper.mma.m16n8k8.f32.bf16.bf16.f32", "hopper.mma.m16n8k8.f32.bf16.bf16.f32"),
    ],
)
def test_short_names_mean_the_longest_instruction_of_their_kind(short, full):
    """A vector file's short name finds its instruction."""
    assert find("hopper", short) == full


def test_files_that_are_no_vectors_are_refused(tmp_path):
    """A missing file, a file of another kind and unknown names are InputErrors."""
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "unknown.npz", **{f"wgmma_int9_f32/bits/1/{x}": np.zeros((1, 1, 1)) for x in "ABCD"})
    for name, message in (
        ("none.npz", "no such file"),
        ("text.npz", "is not an .npz file"),
        ("other.npz", "holds `x`"),
        ("unknown.npz", "has no instruction called"),
    ):
        with pytest.raises(InputError, match=message):
            list(conform("hopper", tmp_path / name))
    with pytest.raises(InputError, match="no architecture is called `hoper`"):
        list(conform("hoper", WGMMA_AND_MMA))


# Rows of A, columns of B, C and D of an NVIDIA H200 (`codesign conform hopper --live`, 2026-11-24), where the largest
# product has a subnormal E4M3 factor and others reach below the window. Codes; k along the text.
WIDENED = [
    (
        "m16n8k16.f32.e4m3.e5m2.f32",
        "804a9f04d383b6a9cb8b987a700a35f9",
        "b2aa22f6c405d74096d20d278a02050d",
        0xBC8646F2,
        0xC2248BE6,
    ),
    (
        "m16n8k16.f32.e5m2.e4m3.f32",
        "1933fb1135b0261554ed3d1c12ba340c",
        "db2f037a02b7c122240fbb58e7ac605c",
        0x2ABAFAB0,
        0xC3E98D31,
    ),
    (
        "m16n8k16.f16.e4m3.e5m2.f16",
        "80018039b800abfebb3381272f803c01c1ac00367e81ac32fefe3c37b3803280",
        "bc7bb638bd3e37b38038bc3a813c3abd3381b00000003c00352bb5bc003cbab9",
        0x3366,
        0x51C8,
    ),
    (
        "m16n8k16.f16.e5m2.e4m3.f16",
        "b83abc003b38bf00fb8180b800803a3db6803928b6003c3b813b32398000013a",
        "3680a8000033bcb901b7febb7eb0b58027fe2300004000c2bb36b5bcb52f35be",
        0x2661,
        0xD70F,
    ),
    (
        "m16n8k32.f32.e4m3.e5m2.f32",
        "0085808651838e86018226288182f24c14fcfc81d71b7706032e668337820203",
        "9cedd8a9cfc9fb060ddb3a8132fb0134cd8102f81801a884970132e402797870",
        0x40B42EA2,
        0x44D2C81C,
    ),
]


@pytest.mark.parametrize(("name", "a", "b", "c", "d"), WIDENED)
def test_fp8_mma_sync_widens_its_operands_to_fp16(name, a, b, c, d):
    """On the chip a subnormal E4M3 operand of mma.sync aligns as the normal FP16 number it is widened to."""
    spec = load(f"hopper.mma.{name}")
    row, column = list(bytes.fromhex(a)), list(bytes.fromhex(b))
    assert golden.dot(spec, row, column, c) == d
    assert golden.dot(spec.model_copy(update={"widen": None}), row, column, c) != d


def test_a_live_comparison_covers_every_instruction_and_finds_one_flipped_bit(monkeypatch):
    """With the model in the chip's place, dense, sparse, one-bit and FP64 instructions agree; one flipped bit is found."""
    names = [
        "hopper.wgmma.m64n8k32.f32.e4m3.e4m3",
        "hopper.mma.sp.m16n8k16.f32.tf32.tf32.f32",
        "hopper.wgmma.m64n8k256.s32.b1.b1.and.popc",
        "hopper.mma.m8n8k4.f64.f64.f64.f64",
    ]

    def chip(name, a, b, c, positions=None):
        assert name in native.machine_code
        native.check(name, a, b, c, positions)
        spec = load(name)
        engine = "golden" if name.endswith("f64") else "portable"
        d = matmul(spec, a, b, c, engine=engine, positions=positions).view(code_dtype(spec.accumulator)).copy()
        if "b1" in name and len(asked) == 20:
            d[3, 5] ^= 4
        asked.append(name)
        return d

    asked = []
    monkeypatch.setattr("isa_model.library.catalogue", lambda: (*names, "ada.mma.m16n8k8.f32.tf32.tf32.f32"))
    monkeypatch.setattr(live, "check_gpu", lambda architecture: None)
    monkeypatch.setattr(native, "machine_code", {})
    monkeypatch.setattr(native, "compiled", len)  # needs the extra `kernels`
    monkeypatch.setattr(native, "matmul", chip)
    rows = list(live.compare("hopper", 20_000))
    assert [row.instruction for row in rows] == names
    assert [row.outputs >= 4096 for row in rows] == [True] * 4
    assert [row.mismatches for row in rows] == [0, 0, 1, 0]
    assert rows[2].first.startswith(f"{list(KINDS)[4]} [3, 5]: chip ")
