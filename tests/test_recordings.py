"""Recordings: every layout and byte order is compared correctly, and an array that does not fit is refused by name."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from handed_over import swapped
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.__main__ import run
from isa_model import InputError, conformance, load, matmul
from isa_model.array_codec import decode_array, to_codes
from isa_model.conformance import conform
from isa_model.stimulus import draw

F32 = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
F16 = "hopper.wgmma.m64n256k16.f16.f16.f16"
SCALED = "rtx_blackwell.mma.m16n8k32.kind::mxf8f6f4.block32.f32.e4m3.e5m2.f32.ue8m0"
M, N = 3, 5


def recording(name, steps=2, blocks=2):
    """Return arrays A, B, C, D (SA, SB) of codes, with the model's own D."""
    spec = load(name)
    made = []
    for seed in range(blocks):
        x = draw(spec, "normal", np.random.default_rng(seed), M, N, steps * spec.shape.k)
        d = to_codes(spec.accumulator, matmul(spec, x.a, x.b, x.c, x.scale_a, x.scale_b))
        of_scales = {"SA": x.scale_a, "SB": x.scale_b.T} if spec.scale else {}
        made.append({"A": x.a, "B": x.b.T, "C": x.c, "D": d, **of_scales})
    return {key: np.stack([block[key] for block in made]) for key in made[0]}


RECORDED = {name: recording(name) for name in (F32, F16, SCALED)}


def save(folder, arrays, name=F32, case="normal/2"):
    file = folder / "recording.npz"
    np.savez(file, **{f"{name}/{case}/{key}": x for key, x in arrays.items()})
    return file


def compare(file, name=F32):
    (result,) = conform(name.split(".")[0], file)
    return result.outputs, result.mismatches


def as_bytes(x):
    return np.ascontiguousarray(x.astype(x.dtype.newbyteorder("<"))).view(np.uint8)


@settings(max_examples=60)
@given(st.data())
def test_recordings_are_compared_in_every_dtype_and_byte_order(tmp_path_factory, data):
    """Codes, values, raw bytes and float32, big-endian and in any order of axes, hold the same outputs."""
    name = data.draw(st.sampled_from(list(RECORDED)))
    spec, arrays = load(name), dict(RECORDED[name])
    for key, x in arrays.items():
        ways = [lambda x: x, swapped, lambda x: np.array(x, order="F")]
        if key in "AB":
            ways.append(as_bytes)
        if key in "CD":
            fmt = spec.c_format if key == "C" else spec.accumulator
            wide = decode_array(fmt, x).astype(np.float32)
            ways += [lambda x, wide=wide: wide, lambda x, wide=wide: swapped(wide)]
            if fmt.name == "fp16":
                ways.append(lambda x: swapped(x.view(np.float16)))
        arrays[key] = data.draw(st.sampled_from(ways))(x)
    file = save(tmp_path_factory.mktemp("recording"), arrays, name)
    assert compare(file, name) == (2 * M * N, 0)


@pytest.mark.parametrize("name", [F32, F16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_changed_bit_is_one_mismatch_in_every_byte_order(tmp_path, name, order):
    """The comparison counts the outputs that differ, and no other."""
    d = RECORDED[name]["D"].copy()
    d[1, 2, 3] ^= 1
    file = save(tmp_path, {**RECORDED[name], "D": d.astype(d.dtype.newbyteorder(order))}, name)
    assert compare(file, name) == compare(str(file), name) == (2 * M * N, 1)


def without(key, change):
    return lambda arrays: {**arrays, key: change(arrays[key])}


MALFORMED = {
    "D as float64": ("D", without("D", lambda x: x.view(np.float32).astype(np.float64))),
    "D as float16": ("D", without("D", lambda x: x.view(np.float32).astype(np.float16))),
    "D as bool": ("D", without("D", lambda x: x.astype(bool))),
    "D as int32": ("D", without("D", lambda x: x.view(np.int32))),
    "D as uint64": ("D", without("D", lambda x: x.astype(np.uint64))),
    "D complex": ("D", without("D", lambda x: x.astype(complex))),
    "D as text": ("D", without("D", lambda x: x.astype(str))),
    "C as float64": ("C", without("C", lambda x: x.astype(np.float64))),
    "A as float32": ("A", without("A", lambda x: x.astype(np.float32))),
    "A as uint16": ("A", without("A", lambda x: x.astype(np.uint16))),
    "B as int8": ("B", without("B", lambda x: x.view(np.int8))),
    "2-D A": ("A", without("A", lambda x: x[0])),
    "0-D D": ("D", without("D", lambda x: x[0, 0, 0])),
    "4-D B": ("B", without("B", lambda x: x[None])),
    "K of A and B different": ("B", without("B", lambda x: x[:, :, :32])),
    "K 33": ("A", lambda x: {**x, "A": x["A"][:, :, :33], "B": x["B"][:, :, :33]}),
    "transposed B": ("B", without("B", lambda x: x.transpose(0, 2, 1))),
    "transposed D": ("D", without("D", lambda x: x.transpose(0, 2, 1))),
    "transposed C": ("C", without("C", lambda x: x.transpose(0, 2, 1))),
    "fewer blocks of B": ("B", without("B", lambda x: x[:1])),
    "fewer blocks of C": ("C", without("C", lambda x: x[:1])),
    "fewer blocks of D": ("D", without("D", lambda x: x[:1])),
    "more blocks of D": ("D", without("D", lambda x: np.concatenate([x, x]))),
    "no blocks": ("A", lambda arrays: {key: x[:0] for key, x in arrays.items()}),
    "no rows": ("A", lambda x: {**x, "A": x["A"][:, :0], "C": x["C"][:, :0], "D": x["D"][:, :0]}),
    "no columns": ("B", lambda x: {**x, "B": x["B"][:, :0], "C": x["C"][:, :, :0], "D": x["D"][:, :, :0]}),
    "C missing": ("C", lambda arrays: {key: x for key, x in arrays.items() if key != "C"}),
    "objects": ("A", without("A", lambda x: np.full(x.shape, None))),
    "structured": ("A", without("A", lambda x: np.zeros(x.shape, "u1,u1"))),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_recordings_are_refused_by_the_array(tmp_path, fault, capsys):
    """The command ends with 2 and one message that names the array; nothing is compared."""
    array, change = MALFORMED[fault]
    file = save(tmp_path, change(RECORDED[F32]))
    with pytest.raises(InputError, match=f"{F32}/normal/2/{array}[: ]"):
        list(conform("hopper", file))
    assert run(["conform", "hopper", "--vectors", str(file)]) == 2
    assert f"{F32}/normal/2/{array}" in capsys.readouterr().err


def test_malformed_16_bit_and_scaled_recordings_are_refused(tmp_path):
    """Odd bytes of K, outputs between two numbers of the accumulator, and scales of other shapes are named."""
    arrays = RECORDED[F16]
    for key, change, says in (
        ("A", lambda x: as_bytes(x)[:, :, :63], "A is .*fp16 has 2 bytes"),
        ("D", lambda x: np.full(x.shape, 1 + 2.0**-20, np.float32), "D holds 1.00000.*not a number of fp16"),
    ):
        with pytest.raises(InputError, match=says):
            compare(save(tmp_path, {**arrays, key: change(arrays[key])}, F16), F16)
    arrays = RECORDED[SCALED]
    for key, change in (("SA", lambda x: x[:1]), ("SB", lambda x: x[:, :2]), ("SA", lambda x: x.astype("f4"))):
        with pytest.raises(InputError, match=f"{key}|scale_b"):
            compare(save(tmp_path, {**arrays, key: change(arrays[key])}, SCALED), SCALED)


@pytest.mark.parametrize("name", ["foo", "_", "wgmma_f32", "wgmma", "", "hopper", "hopper.wgmma.foo", "a_b_c_d_e", "é"])
def test_unknown_names_of_cases_are_refused(tmp_path, name):
    """A name that no instruction has is an InputError, whatever its parts."""
    file = save(tmp_path, RECORDED[F32], name)
    with pytest.raises(InputError, match=r"has no instruction called|holds no results|holds `"):
        list(conform("hopper", file))
    with pytest.raises(InputError, match="holds `"):
        list(conform("hopper", save(tmp_path, RECORDED[F32], case="normal/two")))


def damaged(kind, whole):
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    first = next(iter(members))
    if kind == "bad CRC":
        at = whole.index(members[first][-64:])
        return whole[:at] + b"\xff" * 8 + whole[at + 8 :]
    if kind == "truncated":
        return whole[: len(whole) // 2]
    if kind == "empty":
        return b""
    if kind == "header":
        members[first] = members[first].replace(b"'shape': (2", b"'shape': (9")
    elif kind == "no array":
        members[first] = b"hello"
    elif kind == "short":
        members[first] = members[first][:-10]
    elif kind == "huge claim":
        members[first] = members[first].replace(b"(2, 3, 64), }   ", b"(99999999999999,)}")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["bad CRC", "truncated", "empty", "header", "no array", "short", "huge claim"])
def test_damaged_archives_are_refused(tmp_path, kind):
    """A damaged archive is an InputError, whatever part is damaged."""
    file = save(tmp_path, RECORDED[F32])
    file.write_bytes(damaged(kind, file.read_bytes()))
    with pytest.raises(InputError, match=r"cannot be read|is not an .npz file|normal/2/A"):
        list(conform("hopper", file))


def test_large_arrays_are_refused_before_they_are_read(tmp_path, monkeypatch):
    """The size that the archive says counts, not the size of the file."""
    file = save(tmp_path, RECORDED[F32])
    monkeypatch.setattr(conformance, "MOST_BYTES", 100)
    with pytest.raises(InputError, match=r"A has \d+ bytes\n.*at most 100"):
        list(conform("hopper", file))


def test_what_is_no_file_is_refused(tmp_path):
    """A folder called .npz, and a member that is not an array, are refused."""
    (tmp_path / "folder.npz").mkdir()
    with open(tmp_path / "array.npz", "wb") as file:
        np.save(file, np.zeros(3))
    for name in ("folder.npz", "array.npz"):
        with pytest.raises(InputError, match=r"it is a folder|is not an .npz file"):
            list(conform("hopper", Path(tmp_path / name)))
