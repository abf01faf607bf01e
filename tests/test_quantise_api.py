"""The functions of kernels.quantise, with launches on a CPU; their refusals; the bench's cases of them."""

from typing import NamedTuple

import machine_code
import on_cpu
import pytest

from kernels.bench.shapes import BenchGemm
from kernels.quantise.build import all_choices, cubin, read

torch = pytest.importorskip("torch")
import kernels.quantise as q  # noqa: E402
from kernels.bench.case import WrongOutput  # noqa: E402
from kernels.quantise import build, cases, layout  # noqa: E402

KERNELS = cases.cast_kernels()


@pytest.fixture
def cpu(monkeypatch):
    """Run launches on the CPU, on CPU tensors."""
    if on_cpu.COMPILER is None:
        pytest.skip("needs a C++ compiler")
    monkeypatch.setattr(layout, "DEVICE", "cpu")
    monkeypatch.setattr(layout, "is_current", lambda device: device < 0)
    monkeypatch.setattr(q, "stream", lambda device: 0)
    monkeypatch.setattr(build, "kernel", lambda choice: Kernel(choice.text, "tile"))
    monkeypatch.setattr(build, "unpack_kernel", lambda: Kernel(read("unpack.cu"), "unpack"))
    q._launches.clear()
    yield
    q._launches.clear()


class Kernel(NamedTuple):
    """Stands in for kernels.launch.Kernel on the CPU."""

    text: str
    function: str

    def launch(self, grid, arguments):
        return lambda stream: on_cpu.launch(self.text, self.function, grid, *arguments[0])


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: f"{kernel.name}-{kernel.implementation}")
def test_every_function_passes_the_bench_s_check_and_a_changed_bit_does_not(cpu, kernel):
    """Every function overwrites outputs full of NaN, and the check finds one wrong bit in the last row."""
    case = cases.cast_case(kernel, 132, 256)
    operands = case.prepare(torch.Generator().manual_seed(0))
    with pytest.raises(WrongOutput):
        case.check(operands)
    case.launch(operands)
    assert case.check(operands) == 0
    part = kernel.writes(operands.out)[0]
    last = part.tensor.select(part.axis, -1)[:1]
    last.view(torch.uint8)[:1] ^= 1
    with pytest.raises(WrongOutput, match="1 of"):
        case.check(operands)


def test_functions_allocate_what_they_return(cpu):
    """Without `out`, the result is the same in new tensors; halves of one matrix need no copy."""
    x = torch.randn(5, 256).to(torch.bfloat16)
    first = q.rows(x)
    again = q.rows(x, out=q.empty_rows(5, 256))
    assert torch.equal(first.codes.view(torch.uint8), again.codes.view(torch.uint8))
    assert torch.equal(first.scales, again.scales)
    assert first.scales.shape == (2, 5)
    assert first.scales.stride() == (8, 1)
    gate, up = x.chunk(2, dim=1)
    got, wanted = q.swiglu(gate, up), q.swiglu(gate.contiguous(), up.contiguous())
    assert torch.equal(got.codes.view(torch.uint8), wanted.codes.view(torch.uint8))
    sent = q.sent(q.dispatch(x, torch.tensor([4, 0, 7, -1], dtype=torch.int32)), 256)
    expected = q.rows(x, power_of_2=True)
    assert torch.equal(sent.codes[:2].view(torch.uint8), expected.codes[[4, 0]].view(torch.uint8))
    assert torch.equal(2.0 ** (sent.scales[:2].float() - 127), expected.scales[:, [4, 0]].T)
    assert not sent.codes[2:].view(torch.uint8).any()
    nothing = q.both(bf16(0, 128))
    assert [tuple(part.shape) for out in nothing for part in out] == [(0, 128), (1, 0), (128, 0), (0, 128)]
    unpacked = q.unpack_e5m6(*q.pack_e5m6(x))
    assert (unpacked.float() / x.float() - 1).abs().max() <= 2**-7


def bf16(*shape):
    return torch.zeros(shape, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: q.rows(torch.zeros(4, 128)), "x must be a matrix of bfloat16; got torch.float32"),
        (lambda: q.rows(bf16(128)), "x must be a matrix of bfloat16"),
        (lambda: q.rows(bf16(4, 12)), "x must have a multiple of 8 columns"),
        (lambda: q.rows(bf16(4, 0)), "x must have a multiple of 8 columns"),
        (lambda: q.pack_e5m6(bf16(4, 40)), "x must have a multiple of 32 columns"),
        (lambda: q.columns(bf16(128, 4).T), "contiguous rows that start at multiples of 16 bytes"),
        (lambda: q.both(bf16(4, 136)[:, 4:132]), "contiguous rows that start at multiples of 16 bytes"),
        (lambda: q.blocks(bf16(1, 8).expand(1 << 22, 8)), "at most 1000000 rows"),
        (lambda: q.swiglu(bf16(4, 128), bf16(4, 136)), "gate and up must have one shape"),
        (lambda: q.rows(bf16(4, 128), out=q.empty_rows(4, 136)), "out.codes must be float8_e4m3fn"),
        (lambda: q.rows(bf16(4, 128), out=q.empty_blocks(4, 128)), "out.scales must be float32"),
        (lambda: q.requantise(q.empty_rows(4, 128).codes, torch.zeros(1, 5)), "scales must be float32"),
        (lambda: q.unpack_e5m6(torch.zeros(4, 50, dtype=torch.uint8), torch.zeros(1, 4)), "multiple of 48 columns"),
        (
            lambda: q.dispatch(bf16(4, 128), torch.zeros(2, dtype=torch.int64)),
            "tokens must be a contiguous int32 vector on the device of x",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(cpu, call, says):
    """Errors of type, shape, alignment and size name the argument, what it must be, and what it is."""
    with pytest.raises(ValueError, match=says):
        call()


def test_without_a_gpu_it_says_so():
    """A CPU tensor is refused before anything runs."""
    with pytest.raises(ValueError, match=r"x must be on the current CUDA device; got torch.bfloat16 .* on cpu"):
        q.rows(bf16(4, 128))


def test_the_bench_gets_twins_and_peers_for_large_matrices_only():
    """Small matrices have only `rows`; the machine code of every case exists under the case's name for it."""
    pytest.importorskip("cuda.core")
    small, large = (list(cases.cases([BenchGemm(m, 4096, 7168)])) for m in (64, 4096))
    assert {case.kernel for case in small} == {"quantise.rows"}
    assert {case.variant for case in large} == {"ours", "twin", "peer"}
    names = {name for name, _, _ in cases.cubins()}
    assert {case.static for case in large if case.static} <= names


def test_instructions_that_matter_are_in_the_machine_code():
    """Kernels load 16 bytes at a time and use packed FP8 conversion and packed BF16 maxima; a twin converts nothing."""
    pytest.importorskip("cuda.core")
    one_twin = next(choice for choice in all_choices() if choice.twin)
    for choice in (*(choice for choice in all_choices() if not choice.twin), one_twin):
        found = [op.opcode for op in machine_code.instructions(cubin(choice.text))]
        loads = [op for op in found if op.startswith("LDG") and "128" in op]
        if choice.source != "E4M3":
            assert len(loads) == choice.pieces * (2 if choice.source == "SWIGLU" else 1)
        conversions = sum(op.startswith("F2FP.SATFINITE.E4M3") for op in found)
        layouts = choice.rows + choice.columns
        assert conversions == (0 if choice.twin or choice.target == "E5M6" else choice.pieces * 4 * layouts)
        assert not any(op.startswith(("LDL", "STL", "CALL")) for op in found)
        assert not any("RELU" in op for op in found)  # see tile.cu: a miscompiled maximum
        if choice.source == "BF16" and not choice.twin:
            assert any(op.startswith("HMNMX2") for op in found)
