"""Disclosures: they read back as the same instruction, and the C reference gives the vectors' outputs."""

import json
import re

import numpy as np
import pytest
from cost_specs import SPECS
from golden_in_c import loaded

from codesign.__main__ import run
from codesign.proposal.target import instruction_of
from codesign.verification.disclosure import FILE, disclosed, ime, read, write
from codesign.verification.pseudocode import pseudocode
from isa_model import InputError, Instruction, load
from isa_model.c_golden.source import variations_table
from isa_model.engines.c_library import NoCompiler, compiler
from isa_model.library import catalogue
from isa_model.vectors import vector_files

HOPPER = "hopper.wgmma.m64n8k32.f32.e4m3.e4m3"


@pytest.mark.parametrize(
    "name", ["arm.bfmmla.ebf1.f32.bf16.bf16", pytest.param("blackwell-nvf4", marks=pytest.mark.sweep)]
)
def test_a_disclosure_reads_back_and_its_reference_gives_its_vectors(name, tmp_path):
    """disclosure.json holds the whole instruction; golden.c of the folder, compiled, computes D of every vector beside it."""
    try:
        compiler()
    except NoCompiler as missing:
        pytest.skip(f"{missing}")
    spec = instruction_of(name)
    write(spec, tmp_path / "d", 10)
    assert read(tmp_path / "d" / FILE) == spec
    ((_, vectors),) = vector_files.read(tmp_path / "d" / "vectors.jsonl")
    text = "".join((tmp_path / "d" / file).read_text() for file in ("golden.h", "golden.c"))
    function = loaded(text.replace('#include "golden.h"', ""), variations_table([]), [spec.shape.k])
    columns = [np.array([getattr(v, x) for v in vectors.vectors], "u8") for x in ("a", "b", "c")]
    scales = np.array([v.scale_a + v.scale_b for v in vectors.vectors], "u8")
    d = function(0, *columns, scales if scales.size else None)
    assert d.tolist() == [v.d for v in vectors.vectors]
    assert len(d) > 200


def test_a_disclosure_says_how_both_registers_are_handed_on(tmp_path):
    """With a remainder the operands name both registers, the reference gives the vectors, and IME's form is denied."""
    spec = SPECS["two BF16 registers"]
    document = write(spec, tmp_path / "d", 10)
    assert document["reference"]["operands"][-1].startswith("goes_on, running, rest: 1 and both registers")
    assert document["riscv_ime"]["not_of_this_form"].startswith("C is aligned and cut together")
    exact = ime(SPECS["Kahan's sum"])
    assert exact["not_of_this_form"] == "a second register keeps what rounding the sum with C loses; IME keeps one"
    assert "kept" in (tmp_path / "d/pseudocode.md").read_text()
    assert read(tmp_path / "d" / FILE) == spec


def test_every_arithmetic_of_the_catalogue_reads_back():
    """One instruction of each operand, shape and family is the same after a way through JSON."""
    seen = {}
    for name in catalogue():
        seen.setdefault(re.sub(r"m\d+n\d+", "", name), name)
    for name in list(seen.values())[::3]:
        spec = load(name)
        again = type(spec).model_validate(json.loads(json.dumps(disclosed(spec)["parameters"])))
        assert again == spec


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (HOPPER, {"SEW": 32, "W": 4, "lambda": 8, "G": 8, "psm": 1, "rnd": 0}),
        ("arm.bfmmla.ebf0.f32.bf16.bf16", {"SEW": 32, "W": 2, "lambda": 2, "G": 1, "psm": 1, "rnd": 1}),
        ("cdna1.mfma.f32_32x32x8f16", {"SEW": 32, "W": 2, "lambda": 4, "G": 2, "psm": 0, "rnd": 0}),
        ("amx.tdpbssd", {"SEW": 32, "W": 4, "lambda": 16}),
    ],
)
def test_the_parameters_of_risc_v_ime_are_derived_from_the_stages(name, expected):
    """G, psm and rnd are those of IME's definition: W products a sub-dot-product, G of these a sum, psm 0 if that is exact."""
    found = ime(load(name))
    assert {key: found.get(key) for key in expected} == expected
    assert ("not_of_this_form" in found) == (name == HOPPER)


def test_the_pseudocode_names_every_parameter():
    """Fraction bits, roundings, registers, zeros, scales and the order of dealt terms are in the text."""
    text = pseudocode(load(HOPPER))
    assert "cut(y, e - 13, toward-zero)" in text
    assert "largest(t, Some(-133))" in text
    assert "round(s, e8m13, toward-zero, overflow = infinity)" in text
    assert "let deal = [[0, 1, 4, 5" in pseudocode(load("hopper.mma.m16n8k32.f32.e4m3.e4m3.f32"))
    wide = pseudocode(load("cdna3.mfma.f32_16x16x32_fp8_fp8"))
    assert "if running.align < e - 25 then" in wide
    assert "cut(running, e - 24, down)" in wide
    assert "read_ue4m3(scale0[i * 16 / 16])" in pseudocode(instruction_of("blackwell-nvf4"))


def test_a_changed_or_foreign_file_is_refused(tmp_path):
    """Parameters that do not match their digest, another schema and text that is no JSON are named."""
    path = tmp_path / FILE
    document = disclosed(load(HOPPER))
    document["parameters"]["stages"]["fuse"]["fraction_bits"] = 12
    for text, message in (
        (json.dumps(document), "parameters_sha256"),
        ("{}", "codesign.disclosure/1"),
        ("no", "cannot be read as JSON"),
        (json.dumps({**document, "parameters": {"a": "e4m3"}}), "parameters.shape"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read(path)


def test_the_command_writes_all_files(tmp_path, capsys):
    """`codesign disclose` prints IME's parameters; an instruction with random bits has vectors, too."""
    assert run(["disclose", "cdna1.mfma.f32_32x32x4bf16", "--out", str(tmp_path / "d")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("parameters by RISC-V IME (https://github.com/")
    assert "  psm: 0\n" in said
    names = {path.name for path in (tmp_path / "d").iterdir()}
    assert names == {FILE, "golden.c", "golden.h", "pseudocode.md", "vectors.jsonl", "SHA256SUMS"}
    write(SPECS["random bits"], tmp_path / "random")
    assert (tmp_path / "random/vectors.jsonl").exists()


def test_the_pseudocode_rounds_both_registers_to_d_and_says_where_the_second_joins():
    """D is the running value and the remainder, rounded once; the remainder joins the sum, its block, or what is lost."""
    whole = "kept = if whole and s are finite then [round(sum([whole, minus(s)]"
    text = {joins: pseudocode(_two_registers(joins)) for joins in ("sum", "block", "end")}
    for one in text.values():
        assert (
            "if kept != [] then running = round(sum([running] @ kept), fp32, nearest-even, overflow = infinity);" in one
        )
    assert "foreach j in 0 .. 0] @ kept @ [running];" in text["sum"]
    assert "[round(sum([x[1 * n + j] foreach j in 0 .. 0] @ kept), bf16, nearest-even" in text["block"]
    assert "foreach j in 0 .. 0] @ [running];" in text["end"]
    assert [whole + " @ kept" in one for one in text.values()] == [False, False, True]
    assert "kept" not in pseudocode(load(HOPPER))


def _two_registers(joins):
    register = {"format": "bf16", "rounding": "nearest-even"}
    stage = {"terms": 1, "accumulator": True, "result": register, "remainder": register | {"joins": joins}}
    spec = {
        "shape": {"m": 1, "n": 1, "k": 4},
        "a": "e4m3",
        "b": "e4m3",
        "accumulator": "fp32",
        "stages": {"sum": stage},
    }
    return Instruction.model_validate(spec)
