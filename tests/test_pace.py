"""Promotion's pace: only hints and delays of the machine code change, and no delay gets shorter."""

import re
import struct

import machine_code
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.bench.shapes import BenchGemm
from kernels.gemm.cases import problem_of
from kernels.gemm.choose import choose, gpu_of
from kernels.gemm.pace import paced
from kernels.nvrtc import cached_cubin

SCALE, ACC = 202, 16
HINTS = 15 << 41 | 1 << 45 | 1 << 59


@pytest.fixture(scope="module")
def compiled():
    """Machine code of the tile for 4096 tokens, or a skipped test without NVRTC."""
    pytest.importorskip("cuda.core", exc_type=ImportError)
    problem = problem_of("fprop", BenchGemm(4096, 4096, 7168))
    return cached_cubin(choose(problem, gpu_of("NVIDIA H200")).source)


def lines(code):
    """Instructions as a disassembler prints them."""
    return re.findall(r"/\*[0-9a-f]{4,}\*/\s+(.*?;)", machine_code.dump("-sass", code))


def test_promotion_reads_its_scale_from_the_operand_cache(compiled):
    """All FFMAs but the last of each part's two rows keep their scale cached; without pacing half of them do."""
    before, after = ([line for line in lines(code) if line.startswith("FFMA")] for code in (compiled, paced(compiled)))
    promotion = len([line for line in after if ".reuse" in line])
    assert promotion >= 4 * 31
    assert promotion > 1.5 * len([line for line in before if ".reuse" in line])


def test_no_instruction_changes(compiled):
    """A disassembler prints the same instructions, in the same order, but for what is kept in the operand cache."""
    assert paced(compiled) != compiled
    kept = [[line.replace(".reuse", "") for line in lines(code)] for code in (compiled, paced(compiled))]
    assert kept[0] == kept[1]


def elf(instructions):
    """The smallest file of one section of machine code that has what `paced` reads."""
    names = b"\0.text.run\0.strings\0"
    text = b"".join(struct.pack("<QQ", *words) for words in instructions)
    head = 64 + 3 * 64
    sections = [(0, 0, 0, 0), (1, 1, head, len(text)), (11, 3, head + len(text), len(names))]
    table = b"".join(struct.pack("<IIQQQQ24x", name, kind, 0, 0, at, size) for name, kind, at, size in sections)
    header = struct.pack("<16x24xQ10xHHH", 64, 64, 3, 2)
    return header + table + text + names


def ffma(target, second=SCALE, delay=1, opcode=0x7223):
    """Return the words of FFMA target, target + 1, second, target."""
    return second << 32 | target + 1 << 24 | target << 16 | opcode, delay << 41 | target


def words(code):
    """Return the words of the instructions of `elf`."""
    (at, size) = struct.unpack_from("<QQ", code, 64 + 64 + 24)
    return list(struct.iter_unpack("<QQ", code[at : at + size]))


instruction = st.builds(
    ffma,
    st.sampled_from([ACC, ACC + 1, SCALE]),
    st.sampled_from([SCALE, SCALE, SCALE, 7]),
    st.sampled_from([1, 1, 1, 2, 5]),
    st.sampled_from([0x7223, 0x7223, 0x7223, 0x0223, 0x7221]),
)


@given(st.lists(instruction, min_size=1, max_size=40))
def test_only_hints_change_and_no_delay_gets_shorter(found):
    """Opcodes, registers and barriers stay, delays grow by one clock at most, and a scale that is overwritten is read again."""
    before, after = words(elf(found)), words(paced(elf(found)))
    assert len(before) == len(after) == len(found)
    for i, ((low, high), (same, changed)) in enumerate(zip(before, after, strict=True)):
        assert low == same
        assert high & ~HINTS == changed & ~HINTS
        assert 0 <= (changed >> 41 & 15) - (high >> 41 & 15) <= 1
        if changed != high:
            following = before[i + 1][0]
            assert low & 0xFFFF == following & 0xFFFF == 0x7223
            assert low >> 32 == following >> 32 == SCALE or low >> 32 == following >> 32 == 7
            assert low >> 16 & 255 != low >> 32


def test_one_ffma_in_four_comes_a_clock_later():
    """In a run of 32 FFMAs on one scale, 31 keep it cached and each fourth has a delay of two clocks."""
    after = words(paced(elf([ffma(ACC + 2 * i) for i in range(32)])))
    assert [high >> 41 & 15 for _, high in after] == [1, 1, 1, 2] * 7 + [1, 1, 1, 1]
    assert [high >> 59 & 1 for _, high in after] == [1] * 31 + [0]
