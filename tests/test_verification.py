"""The package for verification teams: coverage and blame in C, benches under simulators, and planted mutants."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from cost_specs import SPECS
from golden_in_c import compiled

from codesign.__main__ import run as main
from codesign.evidence.cost.rtl.ports import ports, results
from codesign.evidence.cost.unit_vectors import in_two, one_step, widths
from codesign.proposal.target import instruction_of
from codesign.verification.package import VECTORS, contents, write
from codesign.verification.variations import variations
from isa_model import InputError, load
from isa_model.engines.c_library import NoCompiler, compiler
from isa_model.instruction import Instruction
from isa_model.vectors.coverage import measure
from isa_model.vectors.make import make

sys.path.insert(0, str(Path(__file__).parent.parent / "checks"))

from blame import DESIGNS, is_right, run, verilator

try:
    compiler()
except NoCompiler as missing:
    pytest.skip(f"{missing}", allow_module_level=True)

SLOW = pytest.mark.sweep
COVERED = [
    *("zeros that count", "integers, int8 by int8, saturate"),
    *(
        pytest.param(name, marks=SLOW)
        for name in (
            "a wider accumulator",
            "a rounded scaled sum",
            "registers that saturate",
            "subnormals flushed",
            "scaled groups of integers",
        )
    ),
]


def library(spec, folder, count):
    """The scoreboard of a package as a library, and its vectors as words."""
    files = contents(one_step(spec), count)
    for name, text in files.items():
        (folder / name).write_text(text)
    made = [*compiler(), "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    done = subprocess.run([*made, "-o", "libgolden.so", "scoreboard.c"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:3000]
    board = ctypes.CDLL(str(folder / "libgolden.so"))
    board.golden_bin.restype = ctypes.c_int64
    return board, [int(line, 16) for line in files[VECTORS].split()]


def check(board, word, bits, d=None):
    operands = word & ((1 << bits) - 1)
    code = word >> bits if d is None else d
    return board.golden_check(operands.to_bytes(bits // 8 + 8, "little"), code.to_bytes(32, "little"))


def bins_of(board):
    name, reachable, found = ctypes.c_char_p(), ctypes.c_int(), {}
    for i in range(10_000):
        hits = board.golden_bin(i, ctypes.byref(name), ctypes.byref(reachable))
        if hits < 0:
            return found
        found[name.value.decode()] = hits if reachable.value else None
    raise AssertionError("the list of bins has no end")


def input_bits(spec):
    return sum(ports(one_step(spec)).values())


@pytest.mark.parametrize("name", COVERED)
def test_coverage_in_c_is_that_of_codesign_vectors(name, tmp_path):
    """The same vectors fall into the same bins, counted one by one, as in isa_model.vectors; every D is right."""
    spec = SPECS[name]
    board, words = library(spec, tmp_path, 10)
    assert all(check(board, word, input_bits(spec)) for word in words)
    expected = {}
    for row in measure(make(one_step(spec), len(words))):
        expected |= {f"{row.category}\t{row.point}\t{what}": hits for what, hits in row.wanted.items()}
        expected |= {f"{row.category}\t{row.point}\t{what}": None for what in row.unreachable}
    assert bins_of(board) == expected


WINDOW = DESIGNS["one window, FP16 register"]


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    """The scoreboard of a small unit, and its vectors."""
    return library(WINDOW, tmp_path_factory.mktemp("window"), 10)


def outputs_of(variation, words):
    """D of vectors of the window by another spec."""
    codes = [[[word >> at + 8 * i & 0xFF for i in range(4)] for word in words] for at in (0, 32)]
    return compiled(variation)(0, *map(np.array, codes), np.array([word >> 64 & 0xFFFF for word in words])).tolist()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("fraction_bits", 8, "stage 0 `fuse`, fraction_bits: 8 where the spec has 9"),
        ("rounding", "nearest-even", "stage 0 `fuse`, rounding: nearest-even where the spec has toward-zero"),
        ("zero_exponent", None, "stage 0 `fuse`, zero_exponent: none where the spec has -10"),
    ],
)
def test_a_changed_field_is_blamed_by_name_and_values(field, value, expected, window, capfd):
    """D of a spec with one field changed is explained by that field, and the first difference by term and place."""
    board, words = window
    board.golden_reset()
    variation = WINDOW.model_dump(mode="json")
    variation["stages"]["fuse"][field] = value
    for word, d in zip(words, outputs_of(Instruction.model_validate(variation), words), strict=True):
        check(board, word, 80, d)
    assert board.golden_report() > 0
    report = capfd.readouterr().out
    explained = r"^(?:blame|   or): (.*) \(explains (\d+) of \2 mismatches, keeps (\d+) of \3 matches\)"
    assert expected in [line for line, _, _ in re.findall(explained, report, re.M)], report
    if field == "fraction_bits":
        cut = r"(running value|term \d .*) entered the sum as .*, with 8 fraction bits, expected 9 \(differs by -1 x"
        assert re.search(cut, report), report


def test_a_value_inside_the_unit_is_compared_term_by_term(window, capfd):
    """A bench that sees the adder's inputs learns which term differs, and by how much."""
    board, _ = window
    ones = 0x3838
    assert check(board, ones | ones << 32, 80, 0x4000)  # 1 * 1 + 1 * 1 + 0
    assert board.golden_check_inside(0, 0, 1, 0, ctypes.c_uint64(1))
    assert board.golden_check_inside(0, 0, -1, 1, ctypes.c_uint64(1))
    assert not board.golden_check_inside(0, 0, 1, -9, ctypes.c_uint64(511))
    assert not board.golden_check_inside(0, 3, 1, 0, ctypes.c_uint64(1))
    board.golden_report()
    said = capfd.readouterr().out
    assert "block 0: term 1 (a[1] * b[1]) is 511 x 2^-9, expected 512 x 2^-9 (differs by -1 x 2^-9)" in said
    assert "stage 0 has no block 3 with a term 1" in said


TWO_REGISTERS = ["two BF16 registers", "errors summed to the end", "Kahan's sum"]


@pytest.mark.parametrize("name", TWO_REGISTERS)
def test_both_registers_of_a_running_value_are_compared(name, tmp_path, capfd):
    """Every shipped vector is right; a wrong bit in any one output is a mismatch, named by its output."""
    spec = SPECS[name]
    board, words = library(spec, tmp_path, 10)
    size = input_bits(spec)
    assert all(check(board, word, size) for word in words)
    at, word = size, words[len(words) // 2]
    for output, bits in results(spec).items():
        board.golden_reset()
        assert not check(board, word ^ 1 << at, size)
        assert board.golden_report() == 1
        assert f" {output} = " in capfd.readouterr().out
        at += bits


@pytest.mark.parametrize(
    ("name", "faulty", "expected"),
    [
        ("two BF16 registers", "rest", "stage 0 `s`, the second register: left out"),
        ("Kahan's sum", "rest", "stage 0 `s`, the second register: left out"),
        ("errors summed to the end", "running", "stage 0 `s`, the running value: left out"),
        ("Kahan's sum", "joins", "stage 0 `s`, the sum with the second register: left out"),
    ],
)
def test_a_fault_beside_a_second_register_is_blamed(name, faulty, expected, tmp_path, capfd):
    """A register that a sum ignores is named, and so is Kahan's sum of the block and what was lost."""
    spec = SPECS[name]
    board, words = library(spec, tmp_path, 10)
    board.golden_reset()
    sizes, bits = ports(one_step(spec)), widths(one_step(spec))
    for word in words[::7]:
        operands, at = {}, 0
        for port, size in sizes.items():
            step = bits[port]
            operands[port] = [word >> (at + i) & ((1 << step) - 1) for i in range(0, size, step)]
            at += size
        if operands["first"][0]:
            continue
        wrong = operands | ({"rest": [0], "a": [0] * len(operands["a"])} if faulty == "joins" else {faulty: [0]})
        d = 0
        for code, size in reversed([*zip(in_two(one_step(spec), wrong), results(spec).values(), strict=True)]):
            d = d << size | code
        check(board, word, at, d)
    assert board.golden_report() > 0
    report = capfd.readouterr().out
    assert re.search(rf"^(blame[^:]*|   or): {re.escape(expected)}", report, re.M), report


@pytest.mark.parametrize("name", ["hopper.wgmma.m64n256k32.f32.e4m3.e4m3", "higher-precision-accumulation"])
def test_a_variation_names_the_field_in_which_it_differs(name):
    """Specs that differ in several fields at once, which a probe tries as well, are no variations."""
    assert all(x.text.partition(":")[0] for x in variations(one_step(instruction_of(name))))


def test_variations_differ_in_one_field():
    """Each hypothesis is another instruction and names its field; fields of every stage are among them."""
    spec = one_step(load("cdna3.mfma.f32_16x16x32_fp8_fp8"))
    found = variations(spec)
    assert {x.stage for x in found} == {-1, 0, 1, 2}
    fields = {x.text.split(":")[0] for x in found}
    assert {"fraction_bits", "rounding", "zero_exponent", "accumulator", "result.1.format", "infinite_from"} <= fields
    assert not [x for x in found if x.spec == spec]


needs_hardware = pytest.mark.skipif(
    not (find_spec("amaranth") and find_spec("pyosys")), reason="the generator of RTL needs the extra `cost`"
)


@needs_hardware
@pytest.mark.skipif(verilator() is None, reason="Verilator, g++ or make is missing")
def test_planted_mutants_are_blamed_on_their_stage(tmp_path):
    """Under Verilator and DPI-C the unit passes; each edit of its Verilog is blamed on the right stage, term or field."""
    rows = run(WINDOW, tmp_path / "package", 10, most=6)
    assert len(rows) == 7
    assert "bins" in rows[0][2]
    for name, blamed_on, report in rows:
        assert is_right(blamed_on, report), f"{name}: {report}"


@needs_hardware
@pytest.mark.skipif(
    not (shutil.which("iverilog") and find_spec("cocotb")), reason="Icarus Verilog or cocotb is missing"
)
def test_the_cocotb_bench_passes_and_fails_with_the_unit(tmp_path):
    """The same scoreboard under cocotb: the unit passes, a changed one fails, though its file is older than what was built."""
    write(WINDOW, tmp_path / "package", 10)
    made = ["make", "cocotb", f"PYTHON={sys.executable}"]
    good = subprocess.run(made, cwd=tmp_path / "package", capture_output=True, text=True)
    assert good.returncode == 0, good.stdout[-3000:]
    unit, wrong = tmp_path / "package/unit.v", tmp_path / "package/wrong.v"
    wrong.write_text(re.sub(r"\.magnitude2\([^)]*\)", ".magnitude2(0)", unit.read_text()))
    os.utime(wrong, (0, 0))
    bad = subprocess.run([*made, "RTL=wrong.v"], cwd=tmp_path / "package", capture_output=True, text=True)
    assert bad.returncode != 0
    assert "term 2 of a block: left out" in bad.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")
def test_make_fails_where_the_unit_fails_and_builds_another_rtl_again(tmp_path):
    """A stand-in for Verilator builds a run that prints PASS for right.v alone; wrong.v is older than what was built."""
    write(WINDOW, tmp_path / "package", 10)
    folder = tmp_path / "package"
    (folder / "right.v").write_text("PASS: 10 vectors\n")
    (folder / "wrong.v").write_text("FAIL: 10 of 10 vectors\n")
    os.utime(folder / "wrong.v", (0, 0))
    tool = folder / "tool"
    tool.write_text("#!/bin/sh\nmkdir -p obj_dir; echo cat *$RTL > obj_dir/run; chmod +x obj_dir/run\n")
    tool.chmod(0o755)
    for name in ("right", "wrong", "right"):
        made = ["make", "VERILATOR=RTL=$(RTL) ./tool", f"RTL={name}.v"]
        done = subprocess.run(made, cwd=folder, capture_output=True, text=True)
        assert (done.returncode == 0) == (name == "right"), done.stdout + done.stderr


def test_the_command_writes_a_package_and_refuses_what_does_not_go_together(tmp_path, capsys):
    """`codesign rtl --package` needs no synthesis; an instruction without a hardware generator still has model and benches."""
    assert main(["rtl", "amx.tdpbf16ps", "--package", str(tmp_path / "p"), "--out", str(tmp_path / "o")]) == 2
    assert "--package writes others" in capsys.readouterr().err
    spec = SPECS["tables of numbers"].model_copy(update={"sparsity": None})
    said = write(spec, tmp_path / "tables", 10)
    assert "no coverage bins" in (tmp_path / "tables/README.md").read_text()
    assert "unit.v" in said
    (tmp_path / "tables/mine.txt").write_text("x")
    with pytest.raises(InputError, match="not from codesign"):
        write(spec, tmp_path / "tables", 10)
