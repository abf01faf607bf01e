"""The timing model: small cases by hand, properties that hold for any machine, and the shipped fit repeated."""

import sys
from dataclasses import replace
from math import exp
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.evidence.timing import measured, ratio_errors
from codesign.evidence.timing import records as stored
from codesign.evidence.timing.machine_constants import machine, shipped
from codesign.evidence.timing.measured import product
from codesign.evidence.timing.model import Constants, Product, Stream, tiles_of, time, waves
from codesign.evidence.timing.times import timer
from kernels.gemm.tile import GemmProblem, ScaleLayout, SharedOperand, Tile

sys.path.insert(0, str(Path(__file__).parent.parent / "pages"))

import timing_fit

H200 = machine(shipped()["NVIDIA H200"])
IDEAL = Constants(
    start_us=0,
    cluster_us=0,
    split_us=0,
    out_of_turn=0,
    copy_clocks=0,
    l2_again=0,
    memory_share=float("inf"),
    store_passes=0,
    overlap=0,
    full_clock=float("inf"),
    promotion_energy=0,
    sustained_clock=float("inf"),
    stream_start_us=0,
    stream_share=1,
    element_rate=float("inf"),
)
"""A machine that multiplies, and to which all else is nothing."""
REAL = timing_fit.START
NATIVE = Tile(128, 256, share=SharedOperand.B, promote=0, scales=ScaleLayout.TENSOR)


def launch(m=H200):
    return m.launch_us + m.latency_us


def test_constants_are_the_records():
    """The machine has the constants of its record: 132 SMs, 128.087 clocks of a wgmma of n 256, L2 at 8988.62 GB/s."""
    assert (H200.sms, H200.mhz) == (132, 1980)
    assert H200.wgmma(256) == 128.087
    assert H200.l2_rate == 8988.62e3


def test_a_narrow_wgmma_waits_for_its_operands():
    """At n 32, reading 96 rows of 32 bytes from shared memory takes longer than the products."""
    assert H200.wgmma(32) == pytest.approx(96 * 32 / 128, rel=1e-3)
    assert H200.wgmma(112) == pytest.approx(56, rel=1e-2)


def test_waves_are_whole():
    """132 tiles are one wave of 132 SMs, and 133 are two."""
    assert [waves(n, 132) for n in (1, 132, 133, 264)] == [1, 1, 2, 2]


def test_without_limits_a_gemm_takes_its_wgmmas():
    """With free memory, 4096 x 4096 x 7168 takes 4 waves of 56 stages of 8 wgmmas."""
    x = Product(GemmProblem(4096, 4096, 7168, scales=ScaleLayout.TENSOR, promote=0), tile=NATIVE)
    assert tiles_of(x.problem, NATIVE) == 512
    assert time(x, H200, IDEAL).total == pytest.approx(launch() + 4 * 56 * 8 * 128.087 / 1980)


@pytest.mark.parametrize(("out_of_turn", "clocks"), [(1.0, 82.1895), (0.0, 64.4681), (0.5, (82.1895 + 64.4681) / 2)])
def test_promotion_takes_what_microbenchmarks_found(out_of_turn, clocks):
    """With promotion every 128 of K at n 128, a wgmma takes 82.19 clocks, or 64.47 if warpgroups alternate, not 64.06."""
    tile = Tile(128, 128, scales=ScaleLayout.TENSOR)
    x = Product(GemmProblem(132 * 128, 128, 7168, scales=ScaleLayout.TENSOR), tile=tile)
    parts = time(x, H200, IDEAL.model_copy(update={"out_of_turn": out_of_turn}))
    assert parts.total == pytest.approx(launch() + 56 * 8 * clocks / 1980)
    scaled = replace(x, problem=replace(x.problem, scales=ScaleLayout.GROUP))
    again = time(scaled, H200, IDEAL.model_copy(update={"out_of_turn": out_of_turn}))
    assert again.promote == pytest.approx(3 * parts.promote)  # a multiplication and a read with each


def test_a_stream_is_bytes_over_bandwidth_and_a_launch():
    """4096 x 7168 elements of 24 bits take a launch and their bytes at copy bandwidth; inside a kernel only the bytes."""
    bytes_us = 4096 * 7168 * 3 / H200.copy_rate
    assert time(Stream(4096, 7168, 24), H200, IDEAL).total == pytest.approx(H200.launch_us + bytes_us)
    assert time(Stream(4096, 7168, 24, inside=True), H200, IDEAL).total == pytest.approx(bytes_us)


def test_power_lowers_the_clock_by_the_cube_root():
    """Tensor Cores that are always busy, with a limit of an eighth of the time, run at half the clock."""
    x = Product(
        GemmProblem(132 * 128, 256, 128 * 4096, scales=ScaleLayout.TENSOR, promote=0),
        tile=replace(NATIVE, share=SharedOperand.NONE),
    )
    limited = IDEAL.model_copy(update={"full_clock": 1 / 8})
    assert time(x, H200, limited).clock == pytest.approx(0.5, rel=1e-3)
    assert time(x, H200, limited).total == pytest.approx(2 * time(x, H200, IDEAL).total, rel=1e-3)
    hungry = time(replace(x, energy=8.0), H200, limited)
    assert hungry.clock == pytest.approx(0.25, rel=1e-3)


SIZES = st.integers(1, 40).map(lambda i: 128 * i)
PRODUCTS = st.builds(
    product, SIZES, SIZES, SIZES, st.sampled_from(ScaleLayout), st.sampled_from([0, 4]), st.sampled_from([0, 4])
).filter(lambda x: not (x.problem.groups and x.problem.add))


@given(PRODUCTS, st.sampled_from(["l2_rate", "read_rate", "write_rate", "copy_rate"]), st.floats(1, 10))
def test_a_better_machine_is_not_slower(x, field, factor):
    """More bandwidth never makes a GEMM slower, apart from the clock, which falls if it waits less."""
    x = replace(x, tile=None)
    constants = REAL.model_copy(update={"full_clock": float("inf")})
    faster = replace(H200, **{field: getattr(H200, field) * factor})
    assert time(x, faster, constants).total <= time(x, H200, constants).total * (1 + 1e-9)


@given(PRODUCTS, st.floats(1, 4), st.sampled_from(["clocks", "widths", "energy"]))
def test_a_slower_instruction_is_not_faster(x, factor, field):
    """More clocks per wgmma, wider operands or a less efficient unit never make a GEMM faster."""
    worse = {"clocks": factor, "energy": factor, "widths": tuple(w * factor for w in x.widths)}[field]
    assert time(replace(x, **{field: worse}), H200, REAL).total >= time(x, H200, REAL).total * (1 - 1e-9)


@given(PRODUCTS)
def test_promotion_is_not_free(x):
    """A GEMM with promotion is never faster than its twin on the same tile."""
    tile = Tile(128, 128, share=SharedOperand.A, scales=x.problem.scales, out=x.problem.out)
    promoted = replace(x, problem=replace(x.problem, promote=4), tile=tile)
    twin = replace(x, problem=replace(x.problem, promote=0), tile=replace(tile, promote=0))
    assert time(promoted, H200, REAL).total >= time(twin, H200, REAL).total


def test_the_fit_finds_constants_again():
    """The fit predicts times that the model made with other constants."""
    other = {
        "start_us": 0.7,
        "full_clock": 0.3,
        "store_passes": 1.5,
        "memory_share": 0.7,
        "copy_clocks": 60.0,
        "l2_again": 0.2,
    }
    true = REAL.model_copy(update=other)
    shapes = [(m, n, k) for m in (128, 4096) for n, k in ((2112, 7168), (7168, 2048), (4096, 7168), (32768, 512))]
    seen = [
        timing_fit.Sample("gemm.fprop", "ours", s, s[1:], x, time(x, H200, true).total)
        for s in shapes
        for x in (product(*s, 1, 4), product(*s, 1, 0), product(*s, 0, 0))
    ]
    found = timing_fit.fit(seen, H200)
    off = [abs(time(s.operation, H200, found).total / s.us - 1) for s in seen]
    assert max(off) < 0.1
    assert sum(off) / len(off) < 0.03


def test_halves_follow_the_linears():
    """Every other Linear in order of size is in the same half, whatever the order of rows."""
    linears = [(2048, 7168), (512, 32768), (4096, 7168), (1536, 24576)]
    assert [timing_fit.fold(pair, linears) for pair in sorted(linears)] == [0, 1, 0, 1]


GPUS = list(stored.shipped())


@pytest.mark.parametrize("gpu", GPUS)
def test_the_shipped_fit_is_what_the_records_give(gpu):
    """Constants and held-out errors, fitted again from the records, equal those of the shipped fit and of docs/timing.md."""
    fit = stored.shipped()[gpu]
    again, ratios = timing_fit.make(measured.benches()[gpu], fit.commit, fit.command)
    assert (again.errors, again.reach) == (fit.errors, fit.reach)
    assert ratios == [r for r in ratio_errors.shipped().rows if r.gpu == gpu]
    assert again.constants.model_dump() == pytest.approx(fit.constants.model_dump(), rel=1e-3)
    page = (Path(__file__).parent.parent / "docs/timing.md").read_text()
    for e in fit.errors:
        assert f"| {e.kernel} | {e.rows} | {e.mean:.1%} | {e.bias:+.1%} | {e.worst:+.1%} | {e.worst_at} |" in page


def test_the_model_is_as_good_as_its_page_says():
    """Held-out errors are under 5 % on average for GEMMs and 4 % for casts, and a quarter at worst for a small cast."""
    assert GPUS
    for fit in stored.shipped().values():
        errors = {e.kernel: e for e in fit.errors}
        assert errors["all GEMMs"].mean < 0.05
        assert abs(errors["all GEMMs of 1024 rows and more"].worst) < 0.15
        assert errors["all casts"].mean < 0.04
        assert max(abs(e.worst) for e in fit.errors) < 0.3


def ratio(measured_ratio, modelled=1.0, linear=(512, 512), gpu="NVIDIA H200", shape=(4096, 512, 512), name="a pair"):
    return ratio_errors.Ratio(
        pair=name, gpu=gpu, linear=linear, shape=shape, measured=measured_ratio, modelled=modelled
    )


def test_intervals_of_ratios_hold_95_of_100_held_out_rows():
    """Every measured ratio is compared with the interval that the other Linears' rows give its pair of kernels."""
    rows = ratio_errors.shipped().rows
    inside = []
    for name in {r.pair for r in rows}:
        inside += ratio_errors.held([r for r in rows if r.pair == name])
    assert len(inside) == len(rows) > 100
    assert sum(inside) >= 0.95 * len(inside)
    for fit in stored.shipped().values():
        held, among = fit.reach.held
        assert held >= 0.95 * among


def test_the_interval_of_a_modelled_ratio_is_a_prediction_interval():
    """Two degrees of freedom for three Linears: t = 4.3027, times the deviation, times the root of 4/3; 1 is always inside."""
    rows = [ratio(x, linear=(n, n)) for x, n in ((0.98, 1), (1.0, 2), (1 / 0.98, 3))]
    low, high = ratio_errors.ends_of_model(rows)
    half = 4.30265 * 0.0202027 * (4 / 3) ** 0.5
    assert (low, high) == (pytest.approx(exp(-half), rel=1e-5), pytest.approx(exp(half), rel=1e-5))
    low, high = ratio_errors.ends_of_model([r.model_copy(update={"modelled": 0.5}) for r in rows])
    assert low == 1
    assert high == pytest.approx(2 * exp(half), rel=1e-5)


def test_a_ratio_measured_on_one_chip_varies_as_it_does_between_chips():
    """Differences of 1 % at each of three Linears: t = 3.1824 at three degrees of freedom; one chip alone says nothing."""
    rows = [ratio(x, linear=(n, n), gpu=gpu) for n in (1, 2, 3) for gpu, x in (("a", 1.0), ("b", exp(0.01)))]
    assert ratio_errors.ends_of_chips(rows) == (pytest.approx(exp(-0.031824), rel=1e-5), pytest.approx(exp(0.031824)))
    assert ratio_errors.ends_of_chips(rows[::2]) == (1, 1)


def test_a_pair_of_few_linears_has_the_interval_of_all_pairs_of_its_size():
    """With fewer than three Linears a pair has no interval of its own; small GEMMs are apart from large ones."""
    rows = [ratio(1 + n / 100, linear=(n, n), name="a: without promotion") for n in range(4)]
    rows += [ratio(1 + n / 10, linear=(n, n), name="b, under 1024 rows: without promotion") for n in range(4)]
    about = ratio_errors.RatioErrors(commit="", command="", benches=(), rows=tuple(rows))
    assert about.of_model("c: without promotion") == ratio_errors.ends_of_model(rows[:4])
    assert about.of_model("c, under 1024 rows: without promotion") == ratio_errors.ends_of_model(rows[4:])


def test_pairs_of_kernels_are_told_apart_by_what_is_left_out():
    """Promotion, scales or both, for scales per block, wgrad's and per tensor, with and without experts, large and small."""
    old = product(4096, 512, 512, ScaleLayout.BLOCK, 4)
    without = replace(old, problem=replace(old.problem, promote=0))
    native = replace(old, problem=replace(old.problem, promote=0, scales=ScaleLayout.TENSOR))
    assert ratio_errors.pair(old, without) == "scales per block: without promotion"
    assert ratio_errors.pair(old, native) == "scales per block: without scales and promotion"
    few = product(64, 512, 512, ScaleLayout.BLOCK, 4, groups=8)
    name = "scales per block and groups of experts, under 1024 rows: without promotion"
    assert ratio_errors.pair(few, replace(few, problem=replace(few.problem, promote=0))) == name


def test_the_times_of_a_gpu_are_asked_for_by_name():
    """Each shipped GPU has a timer of its own record; another has none, and the message says which record is missing."""
    for gpu in GPUS:
        assert timer(gpu).bench.gpu == timer(gpu).fit.gpu == gpu
    assert timer().bench.gpu in GPUS
    with pytest.raises(LookupError, match="no record of the bench on NVIDIA B200"):
        timer("NVIDIA B200")
