"""Export of generated hardware: files, simulators, lint, and the command."""

import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("amaranth")
pytest.importorskip("pyosys")

from cost_specs import REGISTER, SCALED, SPECS, aligned, instruction
from simple_gates import GATES

from codesign.__main__ import run
from codesign.evidence.cost import records
from codesign.evidence.cost.cell_library import Library
from codesign.evidence.cost.export import export
from codesign.evidence.cost.netlist import Netlist
from codesign.evidence.cost.rtl.unit import unit
from codesign.evidence.cost.unit_vectors import adversarial, shipped
from codesign.evidence.cost.verify import compare
from isa_model import InputError


def _simulate(folder, files, *options):
    """Return the output of a test bench, run by Icarus Verilog or by the Verilator of the extra `test`."""
    if shutil.which("iverilog"):
        subprocess.run(["iverilog", "-g2005", "-o", "run", *options, "-c", files], cwd=folder, check=True)
        return subprocess.run(["vvp", "run"], cwd=folder, capture_output=True, text=True).stdout
    verilator = Path(sys.executable).with_name("verilator-cli")
    if not (verilator.exists() and shutil.which("g++") and shutil.which("make")):
        pytest.skip("neither Icarus Verilog nor Verilator with a C++ compiler is installed")
    command = [verilator, "--binary", "--timing", "-Wno-fatal", "-Wno-lint", "-Wno-style", "-CFLAGS", "-O0"]
    command += ["--output-split", "0"]  # one file, since the wheel's makefile does not find its precompiled header
    made = Path(files).stem
    command += ["--top-module", "testbench", "--Mdir", made, "-o", "run", *options, "-f", files]
    if not (folder / made).exists():  # a test bench reads its vectors when it runs
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return subprocess.run([f"{made}/run"], cwd=folder, capture_output=True, text=True).stdout


def test_exported_files_run_under_an_open_simulator(tmp_path):
    """The test bench passes with the design and the mapped netlist, and fails with a wrong vector."""
    spec = SPECS["scales added to exponents"]
    export(spec, tmp_path / "rtl", Library.own())
    files = {p.name for p in (tmp_path / "rtl").iterdir()}
    assert files == {
        "unit.v",
        "unit_mapped.v",
        "unit_pipelined.v",
        "pipeline.v",
        "cells.v",
        "testbench.v",
        "testbench_stalls.v",
        "unit.f",
        "mapped.f",
        "pipelined.f",
        "stalls.f",
        "vectors.hex",
        "README.md",
        "SHA256SUMS",
    }
    assert records.design_sha256(spec) in (tmp_path / "rtl/unit.v").read_text()[:400]
    count = sum(map(len, shipped(spec)))
    assert f"are noticed by the {count} vectors" in (tmp_path / "rtl/README.md").read_text()
    simulate = partial(_simulate, tmp_path / "rtl")
    assert f"PASS: {count} vectors" in simulate("unit.f")
    stalled = simulate("stalls.f", "-DASSERT")
    assert f"PASS: {count} vectors" in stalled
    assert "ASSERT" not in stalled
    vectors = (tmp_path / "rtl/vectors.hex").read_text()
    flipped = ("1" if vectors[0] != "1" else "2") + vectors[1:]
    (tmp_path / "rtl/vectors.hex").write_text(flipped)
    assert f"FAIL: 1 of {count} vectors" in simulate("unit.f")


@pytest.mark.sweep
def test_mapped_and_pipelined_files_run_under_an_open_simulator(tmp_path):
    """The test bench passes with the mapped netlist and with the pipeline of gates."""
    spec = SPECS["scales added to exponents"]
    export(spec, tmp_path / "rtl", Library.own())
    count = sum(map(len, shipped(spec)))
    assert f"PASS: {count} vectors" in _simulate(tmp_path / "rtl", "mapped.f")
    assert f"PASS: {count} vectors" in _simulate(tmp_path / "rtl", "pipelined.f", "-DPIPELINED")


def test_area_and_path_are_given_over_those_of_the_base(tmp_path):
    """Areas per product, as in reports: the ratios are those of the figures that each unit has alone."""
    spec, base = (instruction({"s": aligned(terms, 12, accumulator=True, **REGISTER)}) for terms in (8, 4))
    alone, _ = export(base, tmp_path / "rtl", Library.own())
    both, _ = export(spec, tmp_path / "rtl", Library.own(), base=base)
    assert "base" not in f"{alone}"
    (area, over_area), (delay, over_delay) = (
        re.match(r"(\d+) \w+(?:, per product)?,? ([\d.]+) times the base's", both[name]).groups()
        for name in ("area", "longest path")
    )
    base_area, base_delay = (int(alone[name].split()[0]) for name in ("area", "longest path"))
    assert float(over_area) == pytest.approx(int(area) / 8 / (base_area / 4), rel=0.01)
    assert float(over_delay) == pytest.approx(int(delay) / base_delay, rel=0.03)


def test_exported_verilog_is_clean_under_lint(tmp_path):
    """Verilator accepts the design and its pipeline with all warnings; ports have the order of their names."""
    from codesign.evidence.cost.export import header
    from codesign.evidence.cost.rtl.stalled import wrapper
    from codesign.evidence.cost.synth import readable

    verilator = Path(sys.executable).with_name("verilator-cli")
    if not verilator.exists():
        pytest.skip("Verilator is not installed")
    rtlil = unit(SCALED)
    (tmp_path / "unit.v").write_text(header(SCALED, rtlil) + readable(rtlil))
    (tmp_path / "unit_pipeline.v").write_text(wrapper(SCALED, 3))
    command = [verilator, "--lint-only", "-Wall", "--top-module", "unit_pipeline", "unit_pipeline.v", "unit.v"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:2000]
    assert "module unit(a, b, c, scale_a, scale_b, d_out);" in (tmp_path / "unit.v").read_text()


def test_a_register_that_cannot_overflow_has_no_comparison(tmp_path):
    """A format whose largest number is all ones is compared with nothing, which a linter would find constant."""
    from codesign.evidence.cost.synth import readable

    fixed = {"name": "fixed8", "exponent_bits": 1, "mantissa_bits": 6, "bias": -1, "overflow": "saturate"}
    spec = instruction({"s": {"terms": 2, "accumulator": True, "result": {"format": fixed, "rounding": "nearest-even"}}},
                       "e2m1", "e2m1", accumulator=fixed)  # fmt: skip
    rtlil = unit(spec)
    assert re.search(r"connect \\B \d+'1{7}\n", rtlil)
    assert "> 7'h7f" not in readable(rtlil)


def test_exported_verilog_reads_back_as_the_same_unit(tmp_path):
    """The exported Verilog, read by Yosys, equals the model."""
    from codesign.evidence.cost.synth import readable
    from codesign.evidence.cost.synth import run as yosys

    spec = SPECS["4 terms"]
    (tmp_path / "unit.v").write_text(readable(unit(spec)))
    yosys(
        "read_verilog unit.v; hierarchy -top unit; proc; flatten -noscopeinfo; opt; alumacc; techmap; opt; "
        "write_json out.json",
        str(tmp_path),
    )
    data = json.loads((tmp_path / "out.json").read_text())["modules"]["unit"]
    netlist = Netlist.of_json(data, GATES)
    assert compare(netlist, adversarial(spec, 1, 12)).mismatches == 0


def test_the_command_writes_and_refuses(tmp_path, capsys):
    """`codesign rtl` prints the figures; an unsupported spec and a missing library give exit code 2."""
    (tmp_path / "s.yaml").write_text("""shape: {m: 4, n: 4, k: 2}
a: e2m1
b: e2m1
accumulator: fp16
stages: {s: {terms: 2, accumulator: true, fraction_bits: 4, rounding: down, result: {format: fp16, rounding: down}}}
""")
    assert run(["rtl", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "rtl")]) == 0
    assert "0 mismatches" in capsys.readouterr().out
    assert run(["rtl", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "r"), "--liberty", "nowhere.lib"]) == 2
    assert "cannot read nowhere.lib" in capsys.readouterr().err
    text = (tmp_path / "s.yaml").read_text().replace("fraction_bits: 4, rounding: down, ", "").replace("e2m1", "fp32")
    (tmp_path / "i.yaml").write_text(text)
    assert run(["rtl", str(tmp_path / "i.yaml"), "--out", str(tmp_path / "r")]) == 2
    assert "not supported in hardware" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_an_export_leaves_foreign_folders_alone(tmp_path):
    """An export does not write to a folder with other files."""
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="not from codesign"):
        export(SPECS["4 terms"], tmp_path, Library.own())
