"""The GEMM kernels give isa_model's bits: their CUDA text on a CPU, and the same cases on a Hopper GPU.

On the CPU (hopper_on_cpu.h), warps run in random order and asynchronous operations complete late. test_gemm_faults.py shows
that this finds races, wrong barriers and missing waits as well as wrong arithmetic.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import gemm_on_cpu  # noqa: E402

import isa_model  # noqa: E402
from isa_model.operand_fields import Scaling  # noqa: E402
from kernels.gemm.fp4 import prepare_fp4  # noqa: E402
from kernels.gemm.launches import GemmOperands, issue  # noqa: E402
from kernels.gemm.tile import Element, OutputType, ScaleLayout, SharedOperand, Tile  # noqa: E402

A, B = SharedOperand.A, SharedOperand.B
TENSOR, _, GROUP = ScaleLayout
BF16, FP32 = OutputType
INT8, E2M1 = Element.INT8, Element.E2M1
WGMMA = {
    Element.E4M3: isa_model.load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3"),
    INT8: isa_model.load("hopper.wgmma.m64n256k32.s32.s8.s8"),
}
WGMMA[E2M1] = WGMMA[Element.E4M3]
MAGNITUDES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
"""Numbers of E2M1 without their signs."""
on_a_cpu = pytest.mark.skipif(gemm_on_cpu.COMPILER is None, reason="needs g++")


def hopper():
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


on_hopper = pytest.mark.skipif(not hopper(), reason="no Hopper GPU")

# Every kind of kernel. With few stages, the ring wraps around within a tile.
TILES = [
    Tile(256, 128, share=A),
    Tile(256, 128, share=A, out=FP32, stages=2),
    Tile(256, 128, share=B, out=FP32, promote=2),
    Tile(128, 192, share=B, stages=3),
    Tile(128, 176, share=B, out=FP32),
    Tile(128, 128, share=A, out=FP32, promote=1, stages=2),
    Tile(128, 128, out=BF16),
    Tile(128, 96, split=2, depth=2),
    Tile(128, 64, split=2, depth=2, stages=2),
    Tile(64, 128, split=2, out=FP32),
    Tile(64, 64, depth=2),
    Tile(64, 32, depth=2, stages=2, out=FP32),
    Tile(64, 64, share=A, sharers=4, depth=2),
    Tile(64, 48, share=A, sharers=4, depth=2),
    Tile(128, 128, share=A, scales=GROUP, out=FP32, add=True),
    Tile(128, 112, share=B, scales=GROUP, out=FP32, add=True, stages=2),
    Tile(128, 96, scales=GROUP, out=FP32, add=True),
    Tile(64, 64, share=A, sharers=4, scales=GROUP, out=FP32, add=True),
    Tile(256, 112, share=A, scales=GROUP),
    Tile(128, 256, share=B, scales=TENSOR, promote=0),
    Tile(128, 192, share=B, scales=TENSOR, promote=0, out=FP32, stages=2),
    Tile(64, 64, scales=TENSOR, promote=0),
    Tile(128, 128, share=A, scales=TENSOR, promote=1, out=FP32),
    Tile(128, 128, share=A, scales=TENSOR, promote=8, out=FP32, stages=3),
    Tile(128, 64, scales=TENSOR, promote=16),
    Tile(256, 64, split=2, out=FP32, add=True),
    Tile(256, 128, split=2),
    Tile(128, 64, share=B),
    Tile(256, 136, share=A),
    Tile(128, 136, out=FP32, promote=1, stages=2),
    Tile(256, 136, share=A, scales=TENSOR, promote=0),
    Tile(64, 64, scales=TENSOR, promote=0, depth=2, stages=2),
    Tile(256, 128, share=A, scales=TENSOR),
    Tile(128, 128, share=A, depth=2, element=INT8, stages=2),
    Tile(128, 192, share=B, element=INT8, out=FP32, promote=2),
    Tile(128, 96, split=2, depth=2, element=INT8),
    Tile(64, 64, share=A, sharers=4, depth=2, element=INT8),
    Tile(64, 32, depth=2, element=INT8, out=FP32),
    Tile(64, 64, depth=2, element=E2M1, stages=5, slots=3),
    Tile(64, 128, split=2, element=E2M1, out=FP32),
    Tile(64, 64, share=A, sharers=4, depth=2, element=E2M1, stages=4, slots=4),
    Tile(128, 112, depth=2, element=E2M1, stages=3, slots=2),
    Tile(128, 192, share=B, element=E2M1),
    Tile(256, 128, share=A, element=E2M1, stages=2, slots=2),
]
TWINS = [
    Tile(256, 128, share=A, promote=0),
    Tile(128, 96, split=2, depth=2, stages=2, promote=0),
    Tile(128, 128, share=A, scales=GROUP, out=FP32, add=True, promote=0),
    Tile(64, 64, share=A, sharers=4, scales=GROUP, out=FP32, add=True, promote=0),
    Tile(128, 128, share=A, depth=2, element=INT8, promote=0),
    Tile(128, 96, split=2, depth=2, element=INT8, promote=0),
    Tile(64, 64, depth=2, element=E2M1, promote=0),
]
GROUPED = [
    Tile(128, 128, share=A, grouped=True),
    Tile(128, 192, share=A, grouped=True),
    Tile(128, 176, share=B, grouped=True, out=FP32),
    Tile(128, 112, depth=2, grouped=True, stages=2),
    Tile(64, 64, share=A, sharers=4, depth=2, grouped=True),
    Tile(64, 32, depth=2, grouped=True),
]
QUICK = [
    TILES[i] for i in (0, 3, 8, 10, 12, 14, 19, 22, 23, 25, 26, 27, 28, 30, 31, 32, 33, 34, 35, 36, 38, 39, 40, 41, 43)
]
COUNTS = (37, 0, 130, 64, 200)
"""Rows of the groups: none, a whole tile, and parts that start at any row."""


def label(tile):
    return "-".join(f"{name}{int(value)}" for name, value in vars(tile).items() if isinstance(value, int))


def codes(element, shape, generator):
    """Return E4M3 of many magnitudes: subnormals, zeros, and values near the end of the range; or INT8, often -128 and 127."""
    if element == INT8:
        x = torch.randint(-200, 200, shape, generator=generator)
        x[: shape[0] // 2] = -128  # whole groups of the largest products
        return x.clamp(-128, 127).to(torch.int8)
    x = torch.randn(shape, generator=generator) * 2.0 ** torch.randint(-9, 8, shape, generator=generator)
    x = torch.where(torch.rand(shape, generator=generator) < 0.7, torch.randn(shape, generator=generator) * 4, x)
    return x.clamp(-448, 448).to(torch.float8_e4m3fn)


def factors(shape, generator):
    return torch.rand(shape, generator=generator) + 0.5


def by_group(rows, k, generator):
    """Return scales (ceil(k / 128), rows) whose pitch is a multiple of 4."""
    return factors((-(-k // 128), -(-rows // 4) * 4), generator)[:, :rows]


def packed_weights(n, k, generator):
    """Return E2M1 (N, K / 2), with UE8M0 scales that differ by 2^14 within a block, the most that E4M3 holds."""
    packed = torch.randint(0, 256, (n, k // 2), generator=generator, dtype=torch.uint8)
    scales = torch.randint(113, 128, (n, k // 32), generator=generator, dtype=torch.uint8)
    scales[0, 0], scales[1, 0] = 113, 127
    return packed, scales


def unpacked(x):
    """Return the weights over their blocks' scales as E4M3, which must hold them exactly."""
    steps, columns, _ = x.b.shape
    by_column = x.b.view(torch.int32).transpose(0, 1).reshape(columns, 16 * steps)[: x.shifts.shape[1]]
    words = by_column[:, :, None] >> torch.arange(32, dtype=torch.int32) & 1
    signs = torch.tensor([7, 15, 23, 31, 3, 11, 19, 27])
    codes = (words[..., ::4] + 2 * words[..., 1::4] + 4 * words[..., 2::4] + 8 * words[..., signs]).flatten(1)
    shifts = x.shifts.T.contiguous().view(torch.uint8).double().repeat_interleave(32, 1)[:, : codes.shape[1]]
    exact = MAGNITUDES[codes & 7] * (1 - (codes >> 3) * 2) * torch.exp2(shifts - 8)
    assert torch.equal(exact.to(torch.float8_e4m3fn).double(), exact)
    return exact.to(torch.float8_e4m3fn)


def operands(tile, m, n, k, groups=0):
    """Return random operands for a tile's kernel on the CPU. D is NaN, or random where the kernel adds to it."""
    g = torch.Generator().manual_seed(m * n + k)
    a, b = codes(tile.element, (m, k), g), codes(tile.element, (groups, n, k) if groups else (n, k), g)
    if tile.element != INT8:
        a[m // 2, 3] = float("nan")  # a row of NaN
    if tile.scales == TENSOR:
        scale_a, scale_b = torch.tensor([1.5]), torch.tensor([0.37])
    else:
        scale_a = by_group(m, k, g)
        blocks = (*([groups] if groups else []), -(-n // 128), -(-k // 128))
        scale_b = by_group(n, k, g) if tile.scales == GROUP else factors(blocks, g)
    out = torch.randn((m, n), generator=g) * 100 if tile.add else torch.full((m, n), float("nan"))
    x = GemmOperands(a, b, scale_a, scale_b, out.to(torch.float32 if tile.out == FP32 else torch.bfloat16))
    if tile.element != E2M1:
        return x
    packed, scales = packed_weights(n, k, g)
    weights = prepare_fp4(packed, scales)
    return x._replace(b=weights.codes, scale_b=weights.scales, shifts=weights.shifts)


def expected(tile, x):
    """Return D by isa_model: the promoted wgmma over each part of K, the sum of the parts, then alpha or the old D."""
    k, every = x.a.shape[1], 32 * tile.promote
    b = x.b if x.shifts is None else unpacked(x)[:, :k]
    a, b = (t.view(torch.uint8).numpy() for t in (x.a, b))
    if tile.scales == TENSOR:
        spec = isa_model.promoted(WGMMA[tile.element], every) if every else WGMMA[tile.element]
        total = isa_model.gemm(spec, a, b.T, alpha=(x.scale_a * x.scale_b).reshape(()))
    else:
        a, b = (np.pad(t, ((0, 0), (0, -k % 128))) for t in (a, b))
        columns = 1 if tile.scales == GROUP else 128
        of_b = {"group": (every, columns), "format": "fp32"}
        spec = isa_model.promoted(
            WGMMA[tile.element], every, Scaling(a={"group": (1, every), "format": "fp32"}, b=of_b, onto="fuse")
        )
        scale_a = x.scale_a.T.numpy().repeat(128 // every, 1)
        scale_b = (x.scale_b if tile.scales == GROUP else x.scale_b.T).numpy().repeat(128 // every, 0)
        steps, total = -(-k // 128), None
        bounds = [i * (steps // tile.split) + min(i, steps % tile.split) for i in range(tile.split + 1)]
        for first, end in pairwise(bounds):
            if first == end:
                part = np.zeros(x.out.shape, np.float32)
            else:
                stretch, scaled = (slice(i * first, i * end) for i in (128, 128 // every))
                part = isa_model.matmul(spec, a[:, stretch], b.T[stretch], None, scale_a[:, scaled], scale_b[scaled])
            total = part if total is None else total + part
    total = torch.from_numpy(np.array(total))
    return (x.out + total if tile.add else total).to(x.out.dtype)


def assert_same_bits(got, want):
    """Fail unless `got` has the same codes as `want`, or NaN for NaN."""
    integer = torch.int32 if got.dtype == torch.float32 else torch.int16
    wrong = ~((got.view(integer) == want.view(integer)) | (got.isnan() & want.isnan()))
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} differ, first at {wrong.nonzero()[0].tolist()}"


def surrounded(out):
    """Return a copy in the middle of a larger tensor, and that tensor, of which nothing else may change."""
    whole = torch.full((out.numel() + 2048,), 7.0, dtype=out.dtype, device=out.device)
    inside = whole[1024:-1024].view(out.shape)
    inside.copy_(out)
    return inside, whole


def run_on_cpu(tile, x, seed=0, text=gemm_on_cpu.TEXT, sms=4):
    out, whole = surrounded(x.out)
    how = {"seed": seed, "text": text, "sms": sms}
    gemm_on_cpu.issue(x._replace(out=out), tile, **how)
    assert bool((whole[:1024] == 7).all())
    assert bool((whole[-1024:] == 7).all())
    return out


def assert_same_bits_in_schedules(seeds, tile, x, want, text=gemm_on_cpu.TEXT):
    for seed in seeds:
        assert_same_bits(run_on_cpu(tile, x, seed, text), want)


def run_on_gpu(tile, x):
    def to_gpu(t):
        if t is None or t.is_contiguous():
            return t if t is None else t.cuda()
        return torch.nn.functional.pad(t, (0, -t.shape[1] % 4)).cuda()[:, : t.shape[1]]

    there = GemmOperands(*map(to_gpu, x))
    there = there._replace(out=surrounded(there.out)[0])
    return issue(there, scales=tile.scales, promote=tile.promote, add=tile.add, tile=tile).cpu()


def grouped_operands(tile, n, k, masked, counts=COUNTS):
    """Return operands of groups with `counts` rows, packed, or `masked`: each with room for the largest."""
    room = max(counts) + 3
    starts = [i * room if masked else sum(counts[:i]) for i in range(len(counts))]
    x = operands(tile, room * len(counts) if masked else sum(counts), n, k, len(counts))
    return x._replace(starts=torch.tensor(starts, dtype=torch.int32), counts=torch.tensor(counts, dtype=torch.int32))


def expected_of_groups(tile, x):
    """Return D of all groups; rows outside the groups keep their values."""
    want = x.out.clone()
    for g, (start, count) in enumerate(zip(x.starts.tolist(), x.counts.tolist(), strict=True)):
        if count:
            rows = slice(start, start + count)
            want[rows] = expected(
                replace(tile, grouped=False),
                GemmOperands(x.a[rows], x.b[g], x.scale_a[:, rows], x.scale_b[g], x.out[rows]),
            )
    return want


# -- the bits --------------------------------------------------------------------------------------------------------


def ragged(tile, small):
    """Return M, N and K that are not multiples of the tile; K is long enough for a short ring to wrap around."""
    even = 16 * (tile.element == E2M1)  # whole groups of 32
    return (tile.bm + 72, tile.bn * 2 + 40, 400 + even) if small else (2 * tile.bm + 60, 3 * tile.bn + 88, 1040 + even)


@on_a_cpu
@pytest.mark.parametrize("tile", QUICK, ids=label)
def test_the_text_gives_isa_models_bits(tile):
    """On a CPU, the kernel's text gives isa_model's bits for ragged sizes in every schedule tried."""
    x = operands(tile, *ragged(tile, small=True))
    assert_same_bits_in_schedules(range(2), tile, x, expected(tile, x))


@on_a_cpu
@pytest.mark.parametrize(("tile", "masked"), [(GROUPED[0], False), (GROUPED[2], True), (GROUPED[3], False)])
def test_the_text_gives_the_bits_of_each_group(tile, masked):
    """Groups of no rows, whole tiles and partial tiles get their bits; rows outside the groups are not written."""
    x = grouped_operands(tile, 168, 272, masked)
    assert_same_bits(run_on_cpu(tile, x), expected_of_groups(tile, x))


@on_a_cpu
@pytest.mark.parametrize(
    "tile", [Tile(256, 128, share=A), Tile(128, 64, share=B, stages=2), Tile(64, 32, depth=2)], ids=label
)
def test_more_rows_than_a_band(tile):
    """With more than one band of 2048 rows, and a shorter last one, every tile is computed once."""
    x = operands(tile, 4200, 2 * tile.bn + 40, 144)
    assert_same_bits(run_on_cpu(tile, x, sms=6), expected(tile, x))


@on_a_cpu
def test_more_rows_than_a_band_in_a_group():
    """A band of rows ends at the end of its group."""
    tile = Tile(128, 64, share=A, grouped=True)
    x = grouped_operands(tile, 200, 16, False, (2100, 60, 0, 2304, 4100, 0))
    assert_same_bits(run_on_cpu(tile, x, sms=6), expected_of_groups(tile, x))


@on_a_cpu
def test_more_parts_than_k_has():
    """A CTA whose part of K is empty adds zero."""
    tile = Tile(64, 32, split=2, out=FP32)
    x = operands(tile, 64, 40, 80)
    assert_same_bits(run_on_cpu(tile, x), expected(tile, x))


@pytest.mark.parametrize(("n", "k"), [(300, 416), (8, 32)])
def test_prepared_weights_are_the_given_ones(n, k):
    """Codes times 2^(shift - 8) times a block's scale are the packed codes times each group's own scale, also at the edges."""
    packed, scales = packed_weights(n, k, torch.Generator().manual_seed(n))
    weights = prepare_fp4(packed, scales)
    x = GemmOperands(None, weights.codes, None, None, None, shifts=weights.shifts)
    of_blocks = weights.scales.double().repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]
    codes = torch.stack([packed & 15, packed >> 4], -1).flatten(1).int()
    numbers = MAGNITUDES[codes & 7].double() * (1 - (codes >> 3) * 2)
    assert torch.equal(
        unpacked(x)[:, :k].double() * of_blocks, numbers * torch.exp2(scales.double() - 127).repeat_interleave(32, 1)
    )


def test_packed_weights_may_start_anywhere_in_a_buffer():
    """A view of a file's bytes at an odd offset, and one with strides, are prepared as their copies are."""
    packed, scales = packed_weights(24, 96, torch.Generator().manual_seed(0))
    buffer = torch.cat([packed.new_zeros(1), packed.flatten()])
    for given in (buffer[1:].view(24, 48), packed.T.contiguous().T):
        assert all(map(torch.equal, prepare_fp4(given, scales), prepare_fp4(packed, scales)))


def test_weights_that_e4m3_does_not_hold_are_refused():
    """Scales further apart than 2^14 within a block, NaN, other shapes and other types are refused."""
    packed, scales = torch.zeros(200, 128, dtype=torch.uint8), torch.full((200, 8), 120, dtype=torch.uint8)
    scales[150, 2] = 105
    with pytest.raises(ValueError, match=r"differ by more than 2\^14"):
        prepare_fp4(packed, scales)
    scales[150, 2], scales[3, 3] = 106, 255
    with pytest.raises(ValueError, match="255 is NaN"):
        prepare_fp4(packed, scales)
    with pytest.raises(ValueError, match="scales must be uint8"):
        prepare_fp4(packed, scales.float())
    with pytest.raises(ValueError, match=r"packed must be \(200, 128\), 16 bytes for each scale; it is \(200, 64\)"):
        prepare_fp4(packed[:, :64], scales)


@on_a_cpu
@pytest.mark.parametrize("tile", TWINS, ids=label)
def test_a_twin_runs_and_is_wrong(tile):
    """A timing twin finishes, and its output is not the product."""
    x = operands(tile, *ragged(tile, small=True))
    promoting = replace(tile, promote=4)
    assert not torch.equal(run_on_cpu(tile, x).nan_to_num(), expected(promoting, x).nan_to_num())


@on_a_cpu
@pytest.mark.parametrize("tile", [Tile(128, 64, stages=2), Tile(128, 64, stages=2, share=A)], ids=label)
def test_every_lane_may_arrive_for_itself(tile):
    """The variant of the kernel that racecheck runs (tests/sanitize.py) gives the same bits without a fault."""
    import sanitize

    x = operands(tile, *ragged(tile, small=True))
    assert_same_bits(run_on_cpu(tile, x, text=sanitize.every_lane(gemm_on_cpu.TEXT)), expected(tile, x))


@on_hopper
@pytest.mark.parametrize("tile", TILES, ids=label)
def test_the_gpu_gives_isa_models_bits(tile):
    """On a Hopper GPU, every kind of kernel gives isa_model's bits."""
    for small in (True, False):
        x = operands(tile, *ragged(tile, small))
        assert_same_bits(run_on_gpu(tile, x), expected(tile, x))


@on_hopper
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tile", GROUPED, ids=label)
def test_the_gpu_gives_the_bits_of_each_group(tile, masked):
    """On a Hopper GPU, every group gets isa_model's bits, and rows outside the groups keep their values."""
    x = grouped_operands(tile, 328, 528, masked)
    assert_same_bits(run_on_gpu(tile, x), expected_of_groups(tile, x))


@pytest.mark.sweep
@on_a_cpu
@pytest.mark.parametrize("tile", [*TILES, *GROUPED], ids=label)
def test_every_tile_in_many_schedules(tile):
    """Every kind of kernel gives its bits at small and larger sizes, with few and many SMs, in many schedules."""
    if tile.grouped:
        problems = [grouped_operands(tile, 328, k, masked) for k, masked in ((272, False), (528, True))]
    else:
        problems = [operands(tile, *ragged(tile, small)) for small in (True, False)]
    for x in problems:
        want = expected_of_groups(tile, x) if tile.grouped else expected(tile, x)
        for seed in range(2, 8):
            assert_same_bits(run_on_cpu(tile, x, seed, sms=(4, 12, 132)[seed % 3]), want)
