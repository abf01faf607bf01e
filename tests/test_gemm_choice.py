"""Around the GEMM kernels: what they refuse, which tile a problem gets, and what the compiler makes of it."""

import re
from types import SimpleNamespace

import machine_code
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from kernels import gemm  # noqa: E402
from kernels.bench import static  # noqa: E402
from kernels.gemm import run  # noqa: E402
from kernels.gemm.choose import candidates, choose  # noqa: E402
from kernels.gemm.driver import compiled  # noqa: E402
from kernels.gemm.run import Operands, check, check_device  # noqa: E402
from kernels.gemm.tile import MAX_GROUPS, SHARED_BYTES, Problem, Tile  # noqa: E402
from kernels.launch import stream  # noqa: E402

# -- refusals --------------------------------------------------------------------------------------------------------


def e4m3(*shape):
    return torch.zeros(shape, dtype=torch.uint8).view(torch.float8_e4m3fn)


def whole(groups=()):
    """Operands that are right: M = 64, N = 136, K = 272, with scales 1x128 and 128x128."""
    places = [torch.zeros(*groups, dtype=torch.int32) if groups else None] * 2
    out = torch.zeros(64, 136, dtype=torch.bfloat16)
    return Operands(
        e4m3(64, 272), e4m3(*groups, 136, 272), torch.zeros(3, 64), torch.zeros(*groups, 2, 3), out, *places
    )


def wgrad_operands():
    return whole()._replace(scale_b=torch.zeros(3, 136), out=torch.zeros(64, 136))


def native_operands():
    return whole()._replace(scale_a=torch.ones(1), scale_b=torch.ones(()))


def test_operands_that_are_right_pass():
    """Nothing is refused that the kernels can take: padded rows of A and of scales, every interval, groups."""
    for promote in (0, 1, 2, 4):
        check(whole(), 1, promote, False)
    check(whole((3,)), 1, 4, False)
    check(whole()._replace(a=e4m3(64, 320)[:, :272], scale_a=torch.zeros(3, 68)[:, :64]), 1, 4, False)
    check(wgrad_operands(), 2, 4, True)
    for promote in (0, 1, 2, 4, 8, 16):
        check(native_operands(), 0, promote, False)


REFUSED = [
    ({"a": e4m3(64 * 272 + 1)[1:].view(64, 272)}, "a starts at an address that is no multiple of 16 bytes"),
    ({"a": e4m3(64)}, "a has 1 dimensions: (M, K) is right"),
    ({"b": e4m3(272)}, "b has 1 dimensions: (N, K), or (G, N, K) for groups"),
    ({"b": e4m3(2, 136, 272)}, "b has 3 dimensions: (N, K), or (G, N, K) for groups"),
    ({"a": torch.zeros(64, 272)}, "a is torch.float32: E4M3 (torch.float8_e4m3fn) is what the kernels read"),
    ({"b": e4m3(136, 272).view(torch.float8_e5m2)}, "b is torch.float8_e5m2: E4M3 (torch.float8_e4m3fn) is what"),
    ({"a": e4m3(272, 64).T}, "a is not contiguous along K: Hopper's FP8 wgmma reads K-major operands only"),
    ({"b": e4m3(272, 136).T}, "b is not contiguous along K: Hopper's FP8 wgmma reads K-major operands only"),
    ({"b": e4m3(136, 288)[:, :272]}, "b is not contiguous"),
    ({"b": e4m3(136, 256)}, "a has K = 272, b K = 256"),
    ({"a": e4m3(0, 272)}, "an empty GEMM: 0 x 136 x 272"),
    ({"a": e4m3(64, 264), "b": e4m3(136, 264)}, "K = 264: bulk copies want rows of a multiple of 16 bytes"),
    ({"a": e4m3(64, 280)[:, :272]}, "rows of a lie 280 bytes apart: a multiple of 16, at least K, is right"),
    ({"a": e4m3(1, 272).expand(64, 272)}, "rows of a lie 0 bytes apart: a multiple of 16, at least K, is right"),
    ({"b": e4m3(132, 272)}, "N = 132: a multiple of 8 is right"),
    ({"out": torch.zeros(64, 128)}, "out is (64, 128): (64, 136) is right"),
    ({"out": torch.zeros(136, 64).T}, "out is not contiguous"),
    ({"out": torch.zeros(64, 136, dtype=torch.float16)}, "out is torch.float16: BF16 or FP32 is right"),
    ({"scale_a": torch.zeros(3, 64, dtype=torch.float64)}, "scale_a is torch.float64: FP32 is right"),
    ({"scale_b": torch.zeros(2, 3, dtype=torch.bfloat16)}, "scale_b is torch.bfloat16: FP32 is right"),
    ({"scale_a": torch.zeros(64, 3)}, "scale_a is (64, 3): (3, 64) is right"),
    ({"scale_a": torch.zeros(64, 3).T}, "scale_a has strides (1, 3): rows contiguous, pitch a multiple of 4, is right"),
    (
        {"scale_a": torch.zeros(3, 65)[:, :64]},
        "scale_a has strides (65, 1): rows contiguous, pitch a multiple of 4, is right",
    ),
    ({"scale_b": torch.zeros(3, 2)}, "scale_b is (3, 2): (2, 3) is right"),
    ({"scale_b": torch.zeros(3, 2).T}, "scale_b is not contiguous"),
]


@pytest.mark.parametrize(("changed", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_operands_that_are_wrong_are_refused(changed, message):
    """Each with what is wrong and what would be right."""
    with pytest.raises(ValueError, match=re.escape(message)):
        check(whole()._replace(**changed), 1, 4, False)


GROUPS_REFUSED = [
    ({"b": e4m3(136, 272)}, "b has 2 dimensions: (N, K), or (G, N, K) for groups"),
    ({"starts": torch.zeros(3, dtype=torch.int64)}, "starts: int32 (3,), contiguous, is right"),
    ({"counts": torch.zeros(4, dtype=torch.int32)}, "counts: int32 (3,), contiguous, is right"),
    ({"counts": torch.zeros(6, dtype=torch.int32)[::2]}, "counts: int32 (3,), contiguous, is right"),
    ({"scale_b": torch.zeros(2, 3)}, "scale_b is (2, 3): (3, 2, 3) is right"),
    ({"b": e4m3(0, 136, 272)}, "no groups: b is (0, N, K)"),
]


@pytest.mark.parametrize(("changed", "message"), GROUPS_REFUSED, ids=[message for _, message in GROUPS_REFUSED])
def test_groups_that_are_wrong_are_refused(changed, message):
    """And so are wrong groups."""
    with pytest.raises(ValueError, match=re.escape(message)):
        check(whole((3,))._replace(**changed), 1, 4, False)


def test_more_groups_than_the_table_holds_are_refused():
    """The groups' table lies in shared memory: it has an end."""
    few = Operands(e4m3(8, 16), e4m3(MAX_GROUPS + 1, 8, 16), torch.zeros(1, 8), torch.zeros(MAX_GROUPS + 1, 1, 1), None)
    place = torch.zeros(MAX_GROUPS + 1, dtype=torch.int32)
    with pytest.raises(ValueError, match="1025 groups: at most 1024"):
        check(few._replace(out=torch.zeros(8, 8), starts=place, counts=place), 1, 4, False)


@pytest.mark.parametrize(
    ("x", "scales", "promote", "add", "message"),
    [
        (whole(), 1, 8, False, "promote = 256: one of [32, 64, 128] is right"),
        (wgrad_operands(), 2, 1, True, "promote = 32: one of [128] is right"),
        (native_operands(), 0, 3, False, "promote = 96: one of [32, 64, 128, 256, 512] is right"),
        (whole(), 0, 0, False, "native takes one scale for A and one for B"),
        (wgrad_operands()._replace(out=whole().out), 2, 4, True, "accumulation is in FP32: out must be float32"),
        (wgrad_operands()._replace(scale_b=torch.zeros(2, 3)), 2, 4, True, "scale_b is (2, 3): (3, 136) is right"),
    ],
)
def test_kinds_that_are_wrong_are_refused(x, scales, promote, add, message):
    """What one kind of GEMM takes another may not."""
    with pytest.raises(ValueError, match=re.escape(message)):
        check(x, scales, promote, add)


def test_a_promotion_between_wgmmas_is_refused():
    """An interval that is no multiple of 32 is not quietly another one, and 0 is not quietly the timing twin."""
    x = whole()
    for promote in (40, 0, -32):
        with pytest.raises(ValueError, match=f"promote = {promote}: a multiple of 32 is right"):
            gemm.gemm(*x[:5], promote=promote)
        with pytest.raises(ValueError, match=f"promote = {promote}: a multiple of 32 is right"):
            gemm.native(*x[:5], promote=promote)


def test_other_devices_are_refused(monkeypatch):
    """CPU tensors, tensors of two GPUs, and GPUs that are not Hopper's, before anything is read; through each function."""
    x, place = whole(), torch.zeros(3, dtype=torch.int32)
    for call in (
        lambda: gemm.gemm(*x[:5]),
        lambda: gemm.gemm(x.a, e4m3(272), *x[2:4]),
        lambda: gemm.native(*x[:4]),
        lambda: gemm.wgrad(*x[:5], accumulate=False),
        lambda: gemm.grouped(*x[:4], place, place),
    ):
        with pytest.raises(ValueError, match="a is on cpu: all operands belong on one NVIDIA GPU"):
            call()
    with pytest.raises(ValueError, match="accumulate adds to `out`: give it"):
        gemm.wgrad(*x[:4])
    here, there = (SimpleNamespace(is_cuda=True, device=torch.device("cuda", i)) for i in range(2))
    with pytest.raises(ValueError, match="scale_b is on cuda:1, a on cuda:0"):
        check_device(Operands(here, here, here, there, here))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with pytest.raises(ValueError, match="a is on cuda:1, the current GPU is cuda:0: "):
        check_device(Operands(there, there, there, there, there))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (10, 0))
    with pytest.raises(ValueError, match=re.escape("run on Hopper (compute capability 9.0) only")):
        check_device(Operands(here, here, here, here, here))


# -- the choice of a tile ----------------------------------------------------------------------------------------------

KINDS = [
    *[(0, 1, p, 2, False) for p in (0, 1, 2, 4)],
    *[(0, 0, p, 2, False) for p in (0, 1, 2, 4, 8, 16)],
    *[(0, 2, p, 4, add) for p in (0, 4) for add in (False, True)],
    *[(0, 2, 4, 2, False), (0, 2, 0, 2, False), (0, 1, 4, 4, False), (0, 1, 0, 4, False), (0, 0, 0, 4, False)],
    *[(8, 1, p, out, False) for p in (0, 4) for out in (2, 4)],
]
"""Groups, scales, promotion, bytes of an output, adding: all that the public functions ask for."""


@settings(max_examples=50)
@given(st.integers(1, 9000), st.integers(1, 4096), st.integers(1, 1024), st.sampled_from(KINDS))
def test_every_problem_gets_a_tile_that_fits(m, n, k, kind):
    """The choice is a candidate; each candidate fits shared memory, with two stages at least, and its grid whole clusters."""
    groups, *rest = kind
    p = Problem(m, 8 * n, 16 * k, groups, *rest)
    tiles = list(candidates(p))
    assert choose(p, 132) in tiles
    for tile in tiles:
        of_one = tile.shared_bytes(MAX_GROUPS if groups else 0) + 1024  # which the system takes
        assert of_one <= SHARED_BYTES + 1024
        assert tile.sized.stages >= 2
        assert tile.split <= p.steps
        ctas = tile.ctas(p, 132)
        assert ctas > 0
        assert ctas % tile.cluster == 0
        assert tile.scale_box <= 256
        assert (tile.scales, tile.promote, tile.out, bool(tile.add), bool(tile.grouped)) == (*rest, groups > 0)


def test_launches_are_those_of_the_operands(monkeypatch):
    """The same tensors find their launch again; other strides or another tile do not."""
    made = []
    monkeypatch.setattr(run, "_launches", {})
    monkeypatch.setattr(run, "stream", lambda device: 0)
    monkeypatch.setattr(run, "prepare", lambda *key: made.append(key) or (lambda stream: None))
    x = whole()
    large = e4m3(64, 288)
    x = x._replace(a=large.as_strided((64, 272), (272, 1)))
    for changed, tile, launches in (
        ({}, None, 1),
        ({}, None, 1),
        ({}, Tile(64, 64), 2),
        ({"a": large[:, :272]}, None, 3),
        ({"a": x.a.view(torch.float8_e5m2)}, None, 4),
        ({"scale_a": x.scale_a[:, :60]}, None, 5),
        ({"scale_b": x.scale_b.T}, None, 6),
        ({"out": x.out.T}, None, 7),
    ):
        run.issue(x._replace(**changed), scales=1, promote=4, tile=tile)
        assert len(made) == launches


# -- machine code ------------------------------------------------------------------------------------------------------

SAMPLE = {
    "promoted": Tile(256, 128, share=1),
    "promoted-sharing-b": Tile(128, 192, share=2),
    "split": Tile(128, 128, split=2, depth=2),
    "wgrad": Tile(256, 128, share=1, scales=2, out=4, add=1),
    "native": Tile(128, 256, share=2, scales=0, promote=0),
    "grouped": Tile(128, 128, share=1, grouped=1),
    "odd-width": Tile(256, 136, share=1),
}


def highest_register(code, opcode, columns):
    """Highest register that can be reached from this instruction on; an accumulator has `columns` / 2."""
    lines = re.findall(
        r"/\*([0-9a-f]{4,})\*/\s+(@!?\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", machine_code.dump("-sass", code)
    )
    ops = [(int(address, 16), guard, name, rest) for address, guard, name, rest in lines]
    at = {address: i for i, (address, *_) in enumerate(ops)}
    (start,) = (i for i, op in enumerate(ops) if op[2].startswith(opcode))
    seen, ahead, highest = set(), [start], 0
    while ahead:
        i = ahead.pop()
        if i in seen or i >= len(ops):
            continue
        seen.add(i)
        _, guard, name, rest = ops[i]
        for j, register in enumerate(re.findall(r"(?<!U)\bR(\d+)", rest)):
            width = columns // 2 if "GMMA" in name and j == 0 else 4 if ".128" in name else 2 if ".64" in name else 1
            highest = max(highest, int(register) + width - 1)
        target = re.search(r"0x([0-9a-f]+)$", rest)
        if name.split(".")[0] in ("BRA", "BSSY", "CALL", "WARPSYNC") and target:
            ahead.append(at[int(target[1], 16)])
        if guard or (name.split(".")[0] not in ("EXIT", "RET") and name != "BRA"):
            ahead.append(i + 1)
    return highest


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_no_candidate_spills(kind):
    """Every kernel that may be chosen, for every kind of problem, keeps all its registers."""
    pytest.importorskip("cuda.core")
    groups, *rest = kind
    for tile in candidates(Problem(4096, 4096, 4096, groups, *rest)):
        machine_code.assert_no_stack(compiled(tile.source), tile.name)


@pytest.mark.parametrize("name", SAMPLE)
def test_no_kernel_spills(name):
    """No registers on the stack; the producer keeps to the 40 that it leaves itself, the math to its 232."""
    pytest.importorskip("cuda.core")
    tile = SAMPLE[name]
    code = compiled(tile.source)
    (used,) = static.usage(machine_code.dump("-res-usage", code)).values()
    assert used["STACK"] == used["LOCAL"] == 0
    assert used["REG"] * tile.threads <= 65536
    if tile.warpgroups == 2:
        assert highest_register(code, "USETMAXREG.DEALLOC", tile.bn) < 40
        assert 100 < highest_register(code, "USETMAXREG.TRY_ALLOC", tile.bn) < 232


@pytest.mark.parametrize("name", SAMPLE)
def test_nothing_is_loaded_as_constant(name):
    """What a grid before may still write is not loaded as constant, which ptxas may lift over the wait for that grid."""
    pytest.importorskip("cuda.core")
    opcodes = [op.opcode for op in machine_code.instructions(compiled(SAMPLE[name].source))]
    assert opcodes.index("PREEXIT") < opcodes.index("ACQBULK")
    assert not [opcode for opcode in opcodes if opcode.startswith("LDG") and "CONSTANT" in opcode]


def test_a_launch_of_another_gpu_is_refused(monkeypatch):
    """A launch that was made before and is issued while another GPU is current does not go to that one."""
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 1, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 7, raising=False)
    assert stream(1) == 7
    with pytest.raises(ValueError, match="the operands are on cuda:0, the current GPU is cuda:1"):
        stream(0)
