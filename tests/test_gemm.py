"""The FP8 GEMM kernels give isa_model's bits: their CUDA text run on a CPU, and the same cases on a Hopper GPU.

On the CPU (hopper_on_cpu.h) warps run in random order and what is asynchronous happens late; the planted faults at the end
show that this finds races, wrong barriers and missing waits, not only wrong arithmetic.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import gemm_on_cpu  # noqa: E402

import isa_model  # noqa: E402
from isa_model.instruction import Scaling  # noqa: E402
from kernels.gemm.run import Operands, issue  # noqa: E402
from kernels.gemm.tile import Tile  # noqa: E402

WGMMA = isa_model.load("hopper.wgmma.m64n256k32.f32.e4m3.e4m3")
on_a_cpu = pytest.mark.skipif(gemm_on_cpu.COMPILER is None, reason="needs g++")


def hopper():
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


on_hopper = pytest.mark.skipif(not hopper(), reason="no Hopper GPU")

# Every kind of kernel; with few stages the ring goes round within a tile.
TILES = [
    Tile(256, 128, share=1),
    Tile(256, 128, share=1, out=4, stages=2),
    Tile(256, 128, share=2, out=4, promote=2),
    Tile(128, 192, share=2, stages=3),
    Tile(128, 176, share=2, out=4),
    Tile(128, 128, share=1, out=4, promote=1, stages=2),
    Tile(128, 128, out=2),
    Tile(128, 96, split=2, depth=2),
    Tile(128, 64, split=2, depth=2, stages=2),
    Tile(64, 128, split=2, out=4),
    Tile(64, 64, depth=2),
    Tile(64, 32, depth=2, stages=2, out=4),
    Tile(64, 64, share=1, sharers=4, depth=2),
    Tile(64, 48, share=1, sharers=4, depth=2),
    Tile(256, 128, share=1, scales=2, out=4, add=1),
    Tile(128, 192, share=2, scales=2, out=4, add=1, stages=2),
    Tile(128, 96, depth=2, scales=2, out=4, add=1),
    Tile(64, 64, share=1, sharers=4, depth=2, scales=2, out=4, add=1),
    Tile(256, 112, share=1, scales=2),
    Tile(128, 256, share=2, scales=0, promote=0),
    Tile(128, 192, share=2, scales=0, promote=0, out=4, stages=2),
    Tile(64, 64, scales=0, promote=0),
    Tile(128, 128, share=1, scales=0, promote=1, out=4),
    Tile(128, 128, share=1, scales=0, promote=8, out=4, stages=3),
    Tile(128, 64, scales=0, promote=16),
    Tile(256, 64, split=2, out=4, add=1),
    Tile(128, 64, share=2),
    Tile(256, 136, share=1),
    Tile(128, 136, out=4, promote=1, stages=2),
    Tile(256, 136, share=1, scales=0, promote=0),
    Tile(64, 64, scales=0, promote=0, depth=2, stages=2),
    Tile(256, 128, share=1, scales=0),
]
TWINS = [
    Tile(256, 128, share=1, promote=0),
    Tile(128, 96, split=2, depth=2, stages=2, promote=0),
    Tile(256, 128, share=1, scales=2, out=4, add=1, promote=0),
    Tile(64, 64, share=1, sharers=4, depth=2, scales=2, out=4, add=1, promote=0),
]
GROUPED = [
    Tile(128, 128, share=1, grouped=1),
    Tile(128, 176, share=2, grouped=1, out=4),
    Tile(128, 112, depth=2, grouped=1, stages=2),
    Tile(64, 64, share=1, sharers=4, depth=2, grouped=1),
    Tile(64, 32, depth=2, grouped=1),
]
QUICK = [TILES[i] for i in (0, 3, 8, 10, 12, 14, 19, 22, 23, 25, 26, 27, 29, 30, 31)]
COUNTS = (37, 0, 130, 64, 200)
"""Rows of the groups: none, a whole tile, and parts that start anywhere."""


def label(tile):
    return "-".join(f"{name}{value}" for name, value in vars(tile).items() if isinstance(value, int))


def codes(shape, generator):
    """E4M3 of many magnitudes: subnormals, zeros, numbers near the end of the range."""
    x = torch.randn(shape, generator=generator) * 2.0 ** torch.randint(-9, 8, shape, generator=generator)
    x = torch.where(torch.rand(shape, generator=generator) < 0.7, torch.randn(shape, generator=generator) * 4, x)
    return x.clamp(-448, 448).to(torch.float8_e4m3fn)


def factors(shape, generator):
    return torch.rand(shape, generator=generator) + 0.5


def by_group(rows, k, generator):
    """Scales (ceil(k / 128), rows), pitch a multiple of 4."""
    return factors((-(-k // 128), -(-rows // 4) * 4), generator)[:, :rows]


def operands(tile, m, n, k, groups=0):
    """Random operands for a tile's kernel on the CPU; D is NaN, or random where the kernel adds to it."""
    g = torch.Generator().manual_seed(m * n + k)
    a, b = codes((m, k), g), codes((groups, n, k) if groups else (n, k), g)
    a[m // 2, 3] = float("nan")  # a row of NaN
    if tile.scales == 0:
        scale_a, scale_b = torch.tensor([1.5]), torch.tensor([0.37])
    else:
        scale_a = by_group(m, k, g)
        blocks = (*([groups] if groups else []), -(-n // 128), -(-k // 128))
        scale_b = by_group(n, k, g) if tile.scales == 2 else factors(blocks, g)
    out = torch.randn((m, n), generator=g) * 100 if tile.add else torch.full((m, n), float("nan"))
    return Operands(a, b, scale_a, scale_b, out.to(torch.float32 if tile.out == 4 else torch.bfloat16))


def expected(tile, x):
    """D by isa_model: the promoted wgmma over each stretch of K, stretches added, alpha or the old D last, one rounding."""
    k, every = x.a.shape[1], 32 * tile.promote
    a, b = (t.view(torch.uint8).numpy() for t in (x.a, x.b))
    if tile.scales == 0:
        spec = isa_model.promoted(WGMMA, every) if every else WGMMA
        total = isa_model.gemm(spec, a, b.T, alpha=(x.scale_a * x.scale_b).reshape(()))
    else:
        a, b = (np.pad(t, ((0, 0), (0, -k % 128))) for t in (a, b))
        columns = 1 if tile.scales == 2 else 128
        of_b = {"group": (every, columns), "format": "fp32"}
        spec = isa_model.promoted(WGMMA, every, Scaling(a={"group": (1, every), "format": "fp32"}, b=of_b, onto="fuse"))
        scale_a = x.scale_a.T.numpy().repeat(128 // every, 1)
        scale_b = (x.scale_b if tile.scales == 2 else x.scale_b.T).numpy().repeat(128 // every, 0)
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
    """NaN where it is to be NaN, elsewhere the same codes."""
    integer = torch.int32 if got.dtype == torch.float32 else torch.int16
    wrong = ~((got.view(integer) == want.view(integer)) | (got.isnan() & want.isnan()))
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} differ, first at {wrong.nonzero()[0].tolist()}"


def surrounded(out):
    """The same in the middle of a larger tensor, and that tensor: nothing else of it may change."""
    whole = torch.full((out.numel() + 2048,), 7.0, dtype=out.dtype, device=out.device)
    inside = whole[1024:-1024].view(out.shape)
    inside.copy_(out)
    return inside, whole


def run_on_cpu(tile, x, seed=0, text=gemm_on_cpu.TEXT, multiprocessors=4):
    out, whole = surrounded(x.out)
    how = {"seed": seed, "text": text, "multiprocessors": multiprocessors}
    gemm_on_cpu.issue(x._replace(out=out), tile.scales, tile.promote, bool(tile.add), tile, **how)
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

    there = Operands(*map(to_gpu, x))
    there = there._replace(out=surrounded(there.out)[0])
    return issue(there, scales=tile.scales, promote=tile.promote, add=bool(tile.add), tile=tile).cpu()


def grouped_operands(tile, n, k, masked, counts=COUNTS):
    """Groups of `counts` rows, one after the other, or each with room for the largest."""
    room = max(counts) + 3
    starts = [i * room if masked else sum(counts[:i]) for i in range(len(counts))]
    x = operands(tile, room * len(counts) if masked else sum(counts), n, k, len(counts))
    return x._replace(starts=torch.tensor(starts, dtype=torch.int32), counts=torch.tensor(counts, dtype=torch.int32))


def expected_of_groups(tile, x):
    """Each group's own product; rows of no group stay as they were."""
    want = x.out.clone()
    for g, (start, count) in enumerate(zip(x.starts.tolist(), x.counts.tolist(), strict=True)):
        if count:
            rows = slice(start, start + count)
            want[rows] = expected(
                replace(tile, grouped=0), Operands(x.a[rows], x.b[g], x.scale_a[:, rows], x.scale_b[g], x.out[rows])
            )
    return want


# -- the bits --------------------------------------------------------------------------------------------------------


def ragged(tile, small):
    """No dimension a multiple of the tile; K a multiple of 16, and long enough to go round the ring where that is short."""
    return (tile.bm + 72, tile.bn * 2 + 40, 400) if small else (2 * tile.bm + 60, 3 * tile.bn + 88, 1040)


@on_a_cpu
@pytest.mark.parametrize("tile", QUICK, ids=label)
def test_the_text_gives_isa_models_bits(tile):
    """The kernel's text on a CPU gives isa_model's bits for ragged sizes, in every schedule tried."""
    x = operands(tile, *ragged(tile, small=True))
    assert_same_bits_in_schedules(range(2), tile, x, expected(tile, x))


@on_a_cpu
@pytest.mark.parametrize(("tile", "masked"), [(GROUPED[0], False), (GROUPED[2], True), (GROUPED[3], False)])
def test_the_text_gives_the_bits_of_each_group(tile, masked):
    """Grouped: groups of no row, of whole tiles and of parts of them; rows of no group are not written."""
    x = grouped_operands(tile, 168, 272, masked)
    assert_same_bits(run_on_cpu(tile, x), expected_of_groups(tile, x))


@on_a_cpu
@pytest.mark.parametrize(
    "tile", [Tile(256, 128, share=1), Tile(128, 64, share=2, stages=2), Tile(64, 32, depth=2)], ids=label
)
def test_more_rows_than_a_band(tile):
    """Tiles are walked in bands of 2048 rows; the last band is lower, and every tile comes once."""
    x = operands(tile, 4200, 2 * tile.bn + 40, 144)
    assert_same_bits(run_on_cpu(tile, x, multiprocessors=6), expected(tile, x))


@on_a_cpu
def test_more_rows_than_a_band_in_a_group():
    """A band ends with its group."""
    tile = Tile(128, 64, share=1, grouped=1)
    x = grouped_operands(tile, 200, 16, False, (2100, 60, 0, 2304, 4100, 0))
    assert_same_bits(run_on_cpu(tile, x, multiprocessors=6), expected_of_groups(tile, x))


@on_a_cpu
def test_more_parts_than_k_has():
    """A CTA whose stretch of K is empty adds zero."""
    tile = Tile(64, 32, split=2, out=4)
    x = operands(tile, 64, 40, 80)
    assert_same_bits(run_on_cpu(tile, x), expected(tile, x))


@on_a_cpu
@pytest.mark.parametrize("tile", TWINS, ids=label)
def test_a_twin_runs_and_is_wrong(tile):
    """A timing twin moves the same data and finishes; its output is not the product."""
    x = operands(tile, *ragged(tile, small=True))
    promoting = replace(tile, promote=4)
    assert not torch.equal(run_on_cpu(tile, x).nan_to_num(), expected(promoting, x).nan_to_num())


@on_a_cpu
@pytest.mark.parametrize("tile", [Tile(128, 64, stages=2), Tile(128, 64, stages=2, share=1)], ids=label)
def test_every_lane_may_arrive_for_itself(tile):
    """What racecheck is shown (tests/sanitize.py) is the same kernel: same bits, no fault."""
    import sanitize

    x = operands(tile, *ragged(tile, small=True))
    assert_same_bits(run_on_cpu(tile, x, text=sanitize.every_lane(gemm_on_cpu.TEXT)), expected(tile, x))


@on_hopper
@pytest.mark.parametrize("tile", TILES, ids=label)
def test_the_gpu_gives_isa_models_bits(tile):
    """On a Hopper GPU every kind of kernel gives isa_model's bits."""
    for small in (True, False):
        x = operands(tile, *ragged(tile, small))
        assert_same_bits(run_on_gpu(tile, x), expected(tile, x))


@on_hopper
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tile", GROUPED, ids=label)
def test_the_gpu_gives_the_bits_of_each_group(tile, masked):
    """And each group's, leaving the rows of no group alone."""
    x = grouped_operands(tile, 328, 528, masked)
    assert_same_bits(run_on_gpu(tile, x), expected_of_groups(tile, x))


@pytest.mark.sweep
@on_a_cpu
@pytest.mark.parametrize("tile", [*TILES, *GROUPED], ids=label)
def test_every_tile_in_many_schedules(tile):
    """Every kind of kernel, small and larger sizes, on chips of few and of many multiprocessors, in many schedules."""
    if tile.grouped:
        problems = [grouped_operands(tile, 328, k, masked) for k, masked in ((272, False), (528, True))]
    else:
        problems = [operands(tile, *ragged(tile, small)) for small in (True, False)]
    for x in problems:
        want = expected_of_groups(tile, x) if tile.grouped else expected(tile, x)
        for seed in range(2, 8):
            assert_same_bits(run_on_cpu(tile, x, seed, multiprocessors=(4, 12, 132)[seed % 3]), want)


# -- the emulated chip notices -----------------------------------------------------------------------------------------

PROMOTED = Tile(128, 64, stages=2)
PLANTED = {
    "the scale of another row": (PROMOTED, "f[block][j / 2]", "f[block][j % 2]", "differ"),
    "a tile left out": (PROMOTED, "i += stride;", "i += stride + 1;", "differ"),
    "a release before the wait": (
        PROMOTED,
        "                  wgmma_wait<0>();\n",
        "                  if (closing) release(stage);\n                  wgmma_wait<0>();\n",
        "more arrivals|operands of a wgmma changed",
    ),
    "scales read before the inputs are there": (
        Tile(128, 64, stages=2, scales=0, promote=0),
        "    wait_for_inputs();\n    const float alpha",
        "    const float alpha",
        "before the grid before has ended",
    ),
    "copies before the inputs are there": (
        PROMOTED,
        "      wait_for_inputs();\n      for (; more; more = walk.next(tile)) {\n        const int b_row",
        "      for (; more; more = walk.next(tile)) {\n        const int b_row",
        "before the grid before has ended",
    ),
    "no release": (PROMOTED, "if (closing && !(SCALES == 2 && PROMOTE)) release(stage);", "", "deadlock"),
    "a released stage still multiplied": (
        Tile(128, 64, stages=2, scales=0, promote=0, depth=2),
        "wgmma_wait<1>();\n                  if (before",
        "if (before",
        "operands of a wgmma changed",
    ),
    "no wait for the wgmmas": (PROMOTED, "                  wgmma_wait<0>();\n", "", "differ|ends while its wgmmas"),
    "a wait that covers too little": (
        Tile(128, 64, stages=2, depth=2),
        "if (last) wgmma_wait<0>();",
        "if (last) wgmma_wait<1>();",
        "differ|changed|ends while its wgmmas",
    ),
    "no fence before the wgmmas": (PROMOTED, "                wgmma_fence();\n", "", "without a fence"),
    "a wrong parity of the full barrier": (
        PROMOTED,
        "if (!ready) barrier_wait(full + 8 * stage, ring.parity);",
        "barrier_wait(full + 8 * stage, ring.parity ^ 1);",
        "differ|deadlock|changed",
    ),
    "no wait for a full stage": (
        PROMOTED,
        "if (!ready) barrier_wait(full + 8 * stage, ring.parity);",
        "",
        "differ|changed|deadlock",
    ),
    "no wait for an empty stage": (
        PROMOTED,
        "barrier_wait(empty + 8 * ring.stage, ring.parity ^ 1);",
        "",
        "differ|changed|more arrivals",
    ),
    "a release of the own ring only": (
        Tile(128, 64, stages=2, share=1),
        "barrier_arrive(empty + 8 * stage, lane)",
        "barrier_arrive(empty + 8 * stage, cluster_rank())",
        "more arrivals|changed|differ|deadlock",
    ),
    "copies that reach one CTA": (
        Tile(128, 64, stages=2, share=1),
        "EVERYONE = (1 << SHARERS) - 1",
        "EVERYONE = 1",
        "deadlock",
    ),
    "too few arrivals expected": (
        Tile(128, 64, stages=2, share=1),
        "WGS * 4 * (SHARE ? SHARERS : 1)",
        "WGS * 4",
        "more arrivals|changed|differ|deadlock",
    ),
    "too many bytes expected": (
        PROMOTED,
        "barrier_expect(bar, EXPECTED);",
        "barrier_expect(bar, EXPECTED + 16);",
        "deadlock",
    ),
    "no fence before the stores": (PROMOTED, "        fence_async();\n", "", "without a fence"),
    "staging overwritten before it is read": (
        Tile(256, 64, stages=2, out=4),
        "if (first) tma_wait_read();",
        "",
        "differ|ends while",
    ),
    "stores without the others": (
        PROMOTED,
        "        fence_async();\n        named_sync(2 + wg, 128);\n",
        "        fence_async();\n",
        "differ|without a fence",
    ),
    "a CTA that leaves while others signal it": (
        Tile(64, 64, stages=2, share=1, sharers=4),
        "if (SHARE) cluster_sync();  //",
        "//",
        "has ended|its CTA ends",
    ),
    "the other half's sums read too early": (
        Tile(128, 64, stages=2, split=2),
        "barrier_wait(received, 0);",
        "",
        "differ|its CTA ends while copies|a copy lands",
    ),
    "sums handed to oneself": (
        Tile(128, 64, stages=2, split=2),
        "rank ^ 1, make_float4",
        "rank, make_float4",
        "differ",
    ),
    "no sums expected": (
        Tile(128, 64, stages=2, split=2),
        "barrier_expect(received, RECEIVED)",
        "barrier_arrive(received)",
        "differ|its CTA ends while copies|still expects",
    ),
}


@on_a_cpu
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault):
    """The right text gives the right bits; with one fault planted some schedule shows it."""
    tile, right, wrong, finding = PLANTED[fault]
    assert gemm_on_cpu.TEXT.count(right) >= 1, "the text moved on: plant the fault anew"
    x = operands(tile, 200, 136, 656)
    want = expected(tile, x)
    assert_same_bits(run_on_cpu(tile, x), want)
    with pytest.raises((gemm_on_cpu.Fault, AssertionError), match=finding):
        assert_same_bits_in_schedules(range(600), tile, x, want, gemm_on_cpu.TEXT.replace(right, wrong))
