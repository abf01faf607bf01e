"""The GEMM kernels' operand checks, choice of tiles, and machine code."""

import re
from types import SimpleNamespace

import machine_code
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from kernels import gemm  # noqa: E402
from kernels.bench import static  # noqa: E402
from kernels.gemm import launches as kept  # noqa: E402
from kernels.gemm.choose import candidates, choose, gpu_of  # noqa: E402
from kernels.gemm.launches import GemmOperands, check, check_device  # noqa: E402
from kernels.gemm.tile import (  # noqa: E402
    MAX_GROUPS,
    SHARED_BYTES,
    Element,
    GemmProblem,
    OutputType,
    ScaleLayout,
    SharedOperand,
    Tile,
)
from kernels.launch import stream  # noqa: E402
from kernels.nvrtc import cached_cubin  # noqa: E402

A, B = SharedOperand.A, SharedOperand.B
TENSOR, BLOCK, GROUP = ScaleLayout
BF16, FP32 = OutputType

# -- refusals --------------------------------------------------------------------------------------------------------


def e4m3(*shape):
    return torch.zeros(shape, dtype=torch.uint8).view(torch.float8_e4m3fn)


def whole(groups=()):
    """Return valid operands with M = 64, N = 136, K = 272 and scales 1x128 by 128x128."""
    places = [torch.zeros(*groups, dtype=torch.int32) if groups else None] * 2
    out = torch.zeros(64, 136, dtype=torch.bfloat16)
    return GemmOperands(
        e4m3(64, 272), e4m3(*groups, 136, 272), torch.zeros(3, 64), torch.zeros(*groups, 2, 3), out, *places
    )


def int8_operands():
    return whole()._replace(a=torch.zeros(64, 272, dtype=torch.int8), b=torch.zeros(136, 272, dtype=torch.int8))


def fp4_operands():
    """Return valid operands with M = 64, N = 136, K = 288, packed weights and shifts."""
    packed, shifts = torch.zeros(3, 144, 64, dtype=torch.uint8), torch.zeros(3, 136, dtype=torch.int32)
    return whole()._replace(a=e4m3(64, 288), b=packed, shifts=shifts)


def wgrad_operands():
    return whole()._replace(scale_b=torch.zeros(3, 136), out=torch.zeros(64, 136))


def native_operands():
    return whole()._replace(scale_a=torch.ones(1), scale_b=torch.ones(()))


def test_valid_operands_pass():
    """Padded rows of A and of scales, every promotion interval, and groups are accepted."""
    for promote in (0, 1, 2, 4):
        check(whole(), scales=BLOCK, promote=promote, add=False)
    check(whole((3,)), scales=BLOCK, promote=4, add=False)
    check(
        whole()._replace(a=e4m3(64, 320)[:, :272], scale_a=torch.zeros(3, 68)[:, :64]),
        scales=BLOCK,
        promote=4,
        add=False,
    )
    for x in (int8_operands(), fp4_operands()):
        check(x, scales=BLOCK, promote=4, add=False)
    check(wgrad_operands(), scales=GROUP, promote=4, add=True)
    for promote in (0, 1, 2, 4, 8, 16):
        check(native_operands(), scales=TENSOR, promote=promote, add=False)


REFUSED = [
    ({"a": e4m3(64 * 272 + 1)[1:].view(64, 272)}, "a must start at a multiple of 16 bytes"),
    ({"a": e4m3(64)}, "a must be (M, K); it has 1 dimensions"),
    ({"b": e4m3(272)}, "b must be (N, K), or (G, N, K) with groups, or what prepare_fp4 makes; it has 1 dimensions"),
    (
        {"b": e4m3(2, 136, 272)},
        "b must be (N, K), or (G, N, K) with groups, or what prepare_fp4 makes; it has 3 dimensions",
    ),
    ({"a": torch.zeros(64, 272)}, "a must be E4M3 (torch.float8_e4m3fn); it is torch.float32"),
    ({"b": e4m3(136, 272).view(torch.float8_e5m2)}, "b must be E4M3 (torch.float8_e4m3fn); it is torch.float8_e5m2"),
    (
        {"a": e4m3(272, 64).T},
        "a must be contiguous along K, since Hopper's wgmma reads K-major operands of 8 bits only",
    ),
    (
        {"b": e4m3(272, 136).T},
        "b must be contiguous along K, since Hopper's wgmma reads K-major operands of 8 bits only",
    ),
    ({"b": e4m3(136, 288)[:, :272]}, "b must be contiguous"),
    ({"b": e4m3(136, 256)}, "a and b must have one K; a has 272, b 256"),
    ({"a": e4m3(0, 272)}, "M, N and K must be positive; the GEMM is 0 x 136 x 272"),
    (
        {"a": e4m3(64, 264), "b": e4m3(136, 264)},
        "K must be a multiple of 16, for bulk copies of whole 16 bytes; it is 264",
    ),
    ({"a": e4m3(64, 280)[:, :272]}, "rows of a must start a multiple of 16 bytes apart, at least K; got 280"),
    ({"a": e4m3(1, 272).expand(64, 272)}, "rows of a must start a multiple of 16 bytes apart, at least K; got 0"),
    ({"b": e4m3(132, 272)}, "N must be a multiple of 8; it is 132"),
    ({"out": torch.zeros(64, 128)}, "out must be (64, 136); it is (64, 128)"),
    ({"out": torch.zeros(136, 64).T}, "out must be contiguous"),
    ({"out": torch.zeros(64, 136, dtype=torch.float16)}, "out must be BF16 or FP32; it is torch.float16"),
    ({"scale_a": torch.zeros(3, 64, dtype=torch.float64)}, "scale_a must be FP32; it is torch.float64"),
    ({"scale_b": torch.zeros(2, 3, dtype=torch.bfloat16)}, "scale_b must be FP32; it is torch.bfloat16"),
    ({"scale_a": torch.zeros(64, 3)}, "scale_a must be (3, 64); it is (64, 3)"),
    (
        {"scale_a": torch.zeros(64, 3).T},
        "scale_a must have contiguous rows and a pitch that is a multiple of 4; its strides are (1, 3)",
    ),
    (
        {"scale_a": torch.zeros(3, 65)[:, :64]},
        "scale_a must have contiguous rows and a pitch that is a multiple of 4; its strides are (65, 1)",
    ),
    ({"scale_b": torch.zeros(3, 2)}, "scale_b must be (2, 3); it is (3, 2)"),
    ({"scale_b": torch.zeros(3, 2).T}, "scale_b must be contiguous"),
]


@pytest.mark.parametrize(("changed", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_wrong_operands_are_refused(changed, message):
    """The error of a wrong operand says what it must be."""
    with pytest.raises(ValueError, match=re.escape(message)):
        check(whole()._replace(**changed), scales=BLOCK, promote=4, add=False)


GROUPS_REFUSED = [
    (
        {"b": e4m3(136, 272)},
        "b must be (N, K), or (G, N, K) with groups, or what prepare_fp4 makes; it has 2 dimensions",
    ),
    ({"starts": torch.zeros(3, dtype=torch.int64)}, "starts must be a contiguous int32 vector of 3"),
    ({"counts": torch.zeros(4, dtype=torch.int32)}, "counts must be a contiguous int32 vector of 3"),
    ({"counts": torch.zeros(6, dtype=torch.int32)[::2]}, "counts must be a contiguous int32 vector of 3"),
    ({"scale_b": torch.zeros(2, 3)}, "scale_b must be (3, 2, 3); it is (2, 3)"),
    ({"b": e4m3(0, 136, 272)}, "b must have at least one group; it is (0, N, K)"),
]


@pytest.mark.parametrize(("changed", "message"), GROUPS_REFUSED, ids=[message for _, message in GROUPS_REFUSED])
def test_wrong_groups_are_refused(changed, message):
    """The error of a wrong operand of a grouped GEMM says what it must be."""
    with pytest.raises(ValueError, match=re.escape(message)):
        check(whole((3,))._replace(**changed), scales=BLOCK, promote=4, add=False)


def test_more_groups_than_the_table_holds_are_refused():
    """More groups than the table in shared memory holds are refused."""
    few = GemmOperands(
        e4m3(8, 16), e4m3(MAX_GROUPS + 1, 8, 16), torch.zeros(1, 8), torch.zeros(MAX_GROUPS + 1, 1, 1), None
    )
    place = torch.zeros(MAX_GROUPS + 1, dtype=torch.int32)
    with pytest.raises(ValueError, match="b has 1025 groups; at most 1024"):
        check(few._replace(out=torch.zeros(8, 8), starts=place, counts=place), scales=BLOCK, promote=4, add=False)


@pytest.mark.parametrize(
    ("x", "scales", "promote", "add", "message"),
    [
        (whole(), BLOCK, 8, False, "promote must be one of [32, 64, 128]; it is 256"),
        (wgrad_operands(), GROUP, 1, True, "promote must be one of [128]; it is 32"),
        (native_operands(), TENSOR, 3, False, "promote must be one of [32, 64, 128, 256, 512]; it is 96"),
        (whole(), TENSOR, 0, False, "native takes one scale for A and one for B"),
        (wgrad_operands()._replace(out=whole().out), GROUP, 4, True, "out must be FP32 where the sum is added to it"),
        (
            wgrad_operands()._replace(scale_b=torch.zeros(2, 3)),
            GROUP,
            4,
            True,
            "scale_b must be (3, 136); it is (2, 3)",
        ),
    ],
)
def test_each_scale_layout_has_its_own_limits(x, scales, promote, add, message):
    """An interval, a scale or an output that one scale layout accepts is refused by another."""
    with pytest.raises(ValueError, match=re.escape(message)):
        check(x, scales=scales, promote=promote, add=add)


@pytest.mark.parametrize(
    ("x", "scales", "message"),
    [
        (int8_operands()._replace(b=e4m3(136, 272)), BLOCK, "b must be INT8, as a; it is torch.float8_e4m3fn"),
        (int8_operands()._replace(a=e4m3(64, 272)), BLOCK, "b must be E4M3 (torch.float8_e4m3fn); it is torch.int8"),
        (int8_operands(), GROUP, "a must be E4M3 (torch.float8_e4m3fn); it is torch.int8"),
        (
            fp4_operands()._replace(b=e4m3(3, 144, 64)),
            BLOCK,
            "b must be uint8, two E2M1 codes a byte; it is torch.float8",
        ),
        (
            fp4_operands()._replace(b=torch.zeros(2, 144, 64, dtype=torch.uint8)),
            BLOCK,
            "b must be (3, 144, 64), as prepare_fp4 makes it; it is (2, 144, 64)",
        ),
        (
            fp4_operands()._replace(a=e4m3(64, 272)),
            BLOCK,
            "K must be a multiple of 32, the elements of a scale of FP4; it is 272",
        ),
        (
            fp4_operands()._replace(shifts=torch.zeros(4, 136, dtype=torch.int32)),
            BLOCK,
            "shifts must be a contiguous int32 tensor (3, 136), as prepare_fp4 makes it; it is torch.int32 (4, 136)",
        ),
    ],
)
def test_operands_of_each_element_type_are_checked(x, scales, message):
    """INT8 is taken for both operands with block scales, and packed E2M1 with shifts, whole groups and E4M3 activations."""
    with pytest.raises(ValueError, match=re.escape(message)):
        check(x, scales=scales, promote=4, add=False)


def test_a_promotion_between_wgmmas_is_refused():
    """Intervals that are not positive multiples of 32 are refused; 0 does not select the timing twin."""
    x = whole()
    for promote in (40, 0, -32):
        with pytest.raises(
            ValueError, match=f"promote must be a positive multiple of 32, the products of a wgmma; it is {promote}"
        ):
            gemm.gemm(*x[:5], promote=promote)
        with pytest.raises(
            ValueError, match=f"promote must be a positive multiple of 32, the products of a wgmma; it is {promote}"
        ):
            gemm.native(*x[:5], promote=promote)


def test_other_devices_are_refused(monkeypatch):
    """Every function refuses CPU tensors, tensors of two GPUs, and GPUs other than Hopper before reading anything."""
    x, place = whole(), torch.zeros(3, dtype=torch.int32)
    for call in (
        lambda: gemm.gemm(*x[:5]),
        lambda: gemm.gemm(x.a, e4m3(272), *x[2:4]),
        lambda: gemm.native(*x[:4]),
        lambda: gemm.wgrad(*x[:5], accumulate=False),
        lambda: gemm.grouped(*x[:4], place, place),
    ):
        with pytest.raises(ValueError, match="a is on cpu; all operands must be on one NVIDIA GPU"):
            call()
    with pytest.raises(ValueError, match="out must be given where accumulate adds to it"):
        gemm.wgrad(*x[:4])
    here, there = (SimpleNamespace(is_cuda=True, device=torch.device("cuda", i)) for i in range(2))
    with pytest.raises(ValueError, match="scale_b is on cuda:1, a on cuda:0"):
        check_device(GemmOperands(here, here, here, there, here))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with pytest.raises(ValueError, match="a is on cuda:1, but the current GPU is cuda:0; "):
        check_device(GemmOperands(there, there, there, there, there))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (10, 0))
    with pytest.raises(ValueError, match=re.escape("run on Hopper (compute capability 9.0) only")):
        check_device(GemmOperands(here, here, here, here, here))


# -- the choice of a tile ----------------------------------------------------------------------------------------------

KINDS = [
    *[{"promote": p} for p in (0, 1, 2, 4)],
    *[{"scales": TENSOR, "promote": p} for p in (0, 1, 2, 4, 8, 16)],
    *[{"scales": GROUP, "promote": p, "out": FP32, "add": add} for p in (0, 4) for add in (False, True)],
    *[{"scales": GROUP, "promote": p} for p in (0, 4)],
    *[{"promote": p, "out": FP32} for p in (0, 4)],
    {"scales": TENSOR, "promote": 0, "out": FP32},
    *[{"element": Element.INT8, "promote": p} for p in (0, 1, 2, 4)],
    *[{"element": Element.E2M1, "promote": p} for p in (0, 4)],
    *[{"groups": 8, "promote": p, "out": out} for p in (0, 4) for out in OutputType],
]
"""Every kind of problem that the public functions ask for."""


def kind_name(kind):
    return "-".join(f"{name}{int(value)}" for name, value in kind.items())


@settings(max_examples=50)
@given(st.integers(1, 9000), st.integers(1, 4096), st.integers(1, 1024), st.sampled_from(KINDS))
def test_every_problem_gets_a_tile_that_fits(m, n, k, kind):
    """The choice is a candidate. Each candidate fits shared memory with at least two stages, and its grid is whole clusters."""
    p = GemmProblem(m, 8 * n, 16 * k, **kind)
    tiles = list(candidates(p))
    assert choose(p, gpu_of("NVIDIA H200")) in tiles
    for tile in tiles:
        of_one = tile.shared_bytes(MAX_GROUPS if p.groups else 0) + 1024  # reserved by the system
        assert of_one <= SHARED_BYTES + 1024
        assert tile.sized.stages >= 2
        assert tile.split <= p.steps
        ctas = tile.ctas(p, 132)
        assert ctas > 0
        assert ctas % tile.cluster == 0
        assert tile.scale_box <= 256
        asked = (p.scales, p.promote, p.out, p.add, p.groups > 0, p.element)
        assert (tile.scales, tile.promote, tile.out, tile.add, tile.grouped, tile.element) == asked


def test_launches_are_those_of_the_operands(monkeypatch):
    """The same tensors reuse their launch; other strides, dtypes or tiles get a new one."""
    made = []
    monkeypatch.setattr(kept, "_launches", {})
    monkeypatch.setattr(kept, "stream", lambda device: 0)
    monkeypatch.setattr(kept, "prepare", lambda x, **kind: made.append(x) or (lambda stream: None))
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
        kept.issue(x._replace(**changed), scales=BLOCK, promote=4, tile=tile)
        assert len(made) == launches


# -- machine code ------------------------------------------------------------------------------------------------------

SAMPLE = {
    "promoted": Tile(256, 128, share=A),
    "promoted-sharing-b": Tile(128, 192, share=B),
    "split": Tile(128, 128, split=2, depth=2),
    "wgrad": Tile(128, 128, share=A, scales=GROUP, out=FP32, add=True),
    "native": Tile(128, 256, share=B, scales=TENSOR, promote=0),
    "grouped": Tile(128, 128, share=A, grouped=True),
    "odd-width": Tile(256, 136, share=A),
    "int8": Tile(128, 128, share=A, depth=2, element=Element.INT8),
    "fp4": Tile(64, 64, depth=2, element=Element.E2M1),
    "fp4-two-warpgroups": Tile(128, 64, depth=2, element=Element.E2M1),
}


def highest_register(code, opcode, columns):
    """Return the highest register used from an instruction on; an accumulator has `columns` / 2 registers."""
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
        for j, (address, register) in enumerate(re.findall(r"(\[?)(?<!U)\bR(\d+)", rest)):
            width = columns // 2 if "GMMA" in name and j == 0 else 4 if ".128" in name else 2 if ".64" in name else 1
            width = 1 if address else width  # shared memory has addresses of 32 bits
            highest = max(highest, int(register) + width - 1)
        target = re.search(r"0x([0-9a-f]+)$", rest)
        if name.split(".")[0] in ("BRA", "BSSY", "CALL", "WARPSYNC") and target:
            ahead.append(at[int(target[1], 16)])
        if guard or (name.split(".")[0] not in ("EXIT", "RET") and name != "BRA"):
            ahead.append(i + 1)
    return highest


COMMON = ({"promote": 4}, {"scales": GROUP, "promote": 4})
"""Problems whose candidates are always compiled."""


@pytest.mark.parametrize(
    "kind", [k if k in COMMON else pytest.param(k, marks=pytest.mark.sweep) for k in KINDS], ids=kind_name
)
def test_no_candidate_spills(kind):
    """No kernel that can be chosen uses the stack, for any kind of problem; most kinds are in the sweep.

    NVRTC 13.0 keeps up to 16 bytes of the walk over tiles there in kernels that unpack E2M1.
    """
    pytest.importorskip("cuda.core")
    for tile in candidates(GemmProblem(4096, 4096, 4096, **kind)):
        at_most = 16 if tile.element == Element.E2M1 else 0
        machine_code.assert_no_stack(cached_cubin(tile.source), tile.name, at_most)


@pytest.mark.parametrize("name", SAMPLE)
def test_no_kernel_spills(name):
    """Kernels use no stack; producers and math warpgroups stay within their registers."""
    pytest.importorskip("cuda.core")
    tile = SAMPLE[name]
    code = cached_cubin(tile.source)
    (used,) = static.usage(machine_code.dump("-res-usage", code)).values()
    assert used["STACK"] == used["LOCAL"] == 0
    assert used["REG"] * tile.threads <= 65536
    if tile.warpgroups == 2:
        producers, math = (48, 208) if tile.element == Element.E2M1 else (40, 232)
        assert highest_register(code, "USETMAXREG.DEALLOC", tile.bn) < producers
        assert 100 < highest_register(code, "USETMAXREG.TRY_ALLOC", tile.bn) < math


@pytest.mark.parametrize("name", SAMPLE)
def test_nothing_is_loaded_as_constant(name):
    """Nothing is loaded as constant, since ptxas may move such loads before the wait for the previous grid."""
    pytest.importorskip("cuda.core")
    opcodes = [op.opcode for op in machine_code.instructions(cached_cubin(SAMPLE[name].source))]
    assert opcodes.index("PREEXIT") < opcodes.index("ACQBULK")
    assert not [opcode for opcode in opcodes if opcode.startswith("LDG") and "CONSTANT" in opcode]


def test_a_launch_of_another_gpu_is_refused(monkeypatch):
    """A kept launch is refused while another GPU is current."""
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 1, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 7, raising=False)
    assert stream(1) == 7
    with pytest.raises(ValueError, match="the operands are on cuda:0, the current GPU is cuda:1"):
        stream(0)
