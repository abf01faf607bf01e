"""Static evidence: reading the disassembly, and what the machine code of the registered kernels contains."""

import json

import machine_code
import pytest

from isa_model.diagnostics import Unavailable
from kernels import native, nvrtc
from kernels.bench import microbenchmarks as source
from kernels.bench import records, static

SASS = """
	code for sm_90a
		Function : promoted
        /*0000*/                   LDC R1, c[0x0][0x28] ;                         /* 0x00000a00ff017b82 */
        /*0010*/                   S2R R0, SR_TID.X ;
        /*0020*/              @!P0 BRA 0x20 ;
        /*0030*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R3 ;
        /*0040*/                   WARPGROUP.ARRIVE ;
        /*0050*/                   QGMMA.64x16x32.F32.E4M3.E4M3 R24, gdesc[UR8], !UPT ;
        /*0060*/                   QGMMA.64x16x32.F32.E4M3.E4M3 R24, gdesc[UR12], R24, gsb0 ;
        /*0070*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0080*/                   FFMA R8, R24, R4, R8 ;
        /*0090*/                   FFMA.FTZ R9, R25, R4, R9 ;
        /*00a0*/              @!P0 BRA 0x30 ;
        /*00b0*/                   LDL R8, [R1] ;
        /*00c0*/              @UP1 BRA 0x20 ;
        /*00d0*/                   EXIT ;
        /*00e0*/                   BRA 0xe0;
        /*00f0*/                   NOP;
		Function : copy
        /*0000*/                   EXIT ;
"""


def test_the_main_loop_is_the_inner_one_with_matrix_instructions():
    """Only the inner loop's instructions are counted, by opcode without modifiers, and scaled to 128 of K."""
    ops = static.functions(SASS)
    assert [len(v) for v in ops.values()] == [15, 1]
    loop = static.main_loop(ops["promoted"])
    assert loop.instructions == 8
    assert loop.mmas == 2
    assert loop.mix == {"QGMMA": 2, "FFMA": 2, "SYNCS": 1, "WARPGROUP": 2, "other": 1}
    assert loop.per_128_of_k["FFMA"] == 4
    assert loop.ffma_per_output == 0.5
    assert static.main_loop(ops["copy"]) is None
    assert static.mix(ops["promoted"])["LDL"] == 1


def test_resources_of_each_function():
    """Registers, stack and shared memory are parsed by function."""
    text = " Function f:\n  REG:168 STACK:8 SHARED:1024 LOCAL:0 CONSTANT[0]:568\n Function g:\n  REG:8 STACK:0 SHARED:0"
    assert static.usage(text)["f"] | {"x": 0} == {"REG": 168, "STACK": 8, "SHARED": 1024, "LOCAL": 0, "x": 0}
    assert static.usage(text)["g"]["REG"] == 8


@pytest.fixture(scope="module")
def tools():
    """Skip the test without NVRTC or the disassembler."""
    pytest.importorskip("cuda.bindings", exc_type=ImportError)
    pytest.importorskip("cuda.core", exc_type=ImportError)
    try:
        static.cuobjdump()
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_evidence_of_a_real_kernel_with_and_without_spills(tools):
    """The native wgmma kernel has one QGMMA in its loop and no spills; with too few registers, its spills are found."""
    plain_text = native.source(native.parse("hopper.wgmma.m64n128k32.f32.e4m3.e4m3"))
    assert "__launch_bounds__(128)" in plain_text
    plain, spilling = static.evidence(
        static.Cubin(name, nvrtc.cubin(text), 100)
        for name, text in (("plain", plain_text), ("spilling", plain_text.replace("bounds__(128)", "bounds__(128, 5)")))
    )
    assert (plain.spill_loads, plain.spill_stores, plain.stack_bytes) == (0, 0, 0)
    assert plain.loop
    assert plain.loop.mmas == 1
    assert plain.loop.mma.startswith("QGMMA.64x128x32")
    assert plain.registers > 64
    assert plain.shared_bytes > 100
    assert spilling.spill_loads > 0
    assert spilling.spill_stores > 0
    assert spilling.stack_bytes > 0


def test_promotion_costs_one_ffma_per_output(tools):
    """The microbenchmark with promotion every 128 has one FFMA per output and 128 of K; the one without has none."""
    native, promoted = (
        static.evidence([static.Cubin("x", nvrtc.cubin(source.wgmma("e4m3", 64, 2, every=every)))])[0].loop
        for every in (0, 4)
    )
    assert native.ffma_per_output == 0
    assert native.per_128_of_k["QGMMA"] == 4
    assert promoted.ffma_per_output == 1


def test_every_registered_kernel_compiles_and_does_not_spill(tools):
    """No registered kernel uses the stack, where spilled registers would go."""
    for cubin in static.registered():
        machine_code.assert_no_stack(cubin.code, cubin.name)


def test_static_record_is_read_back(tmp_path, monkeypatch):
    """A saved record loads unchanged, and so does the shipped one."""
    ops = static.functions(SASS)["promoted"]
    kernel = static.CompiledKernel(
        **{"name": "k", "function": "promoted", "registers": 9, "stack_bytes": 0, "shared_bytes": 0},
        **{"spill_loads": 1, "spill_stores": 0, "instructions": len(ops), "mix": static.mix(ops)},
        loop=static.main_loop(ops),
    )
    made = static.StaticRecord(
        date="2026-01-01", commit="", command="c", target="sm_90a", versions={}, kernels=(kernel,)
    )
    records.save(made, tmp_path / "static.json")
    assert json.loads((tmp_path / "static.json").read_text())["schema_version"] == 1
    assert static.StaticRecord.model_validate_json((tmp_path / "static.json").read_text()) == made
    assert static.StaticRecord.model_validate_json((records.FOLDER / "static.json").read_text()).kernels
