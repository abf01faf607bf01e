"""Faults planted in the GEMM kernel's CUDA text are found by running it on a CPU (hopper_on_cpu.h)."""

import pytest

pytest.importorskip("torch")

import gemm_on_cpu
from test_gemm import (
    E2M1,
    FP32,
    TENSOR,
    A,
    assert_same_bits,
    assert_same_bits_in_schedules,
    expected,
    on_a_cpu,
    operands,
    run_on_cpu,
)

from kernels.gemm.tile import Tile

PROMOTED = Tile(128, 64, stages=2)
UNPACKED = Tile(64, 64, stages=4, slots=3, depth=2, element=E2M1)
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
        Tile(128, 64, stages=2, scales=TENSOR, promote=0),
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
    "no release": (PROMOTED, "if (closing) release(stage);", "", "deadlock"),
    "a released stage still multiplied": (
        Tile(128, 64, stages=2, scales=TENSOR, promote=0, depth=2),
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
        "if (!ready) barrier_wait(last + 8 * stage, ring.parity);",
        "barrier_wait(last + 8 * stage, ring.parity ^ 1);",
        "differ|deadlock|changed",
    ),
    "no wait for a full stage": (
        PROMOTED,
        "if (!ready) barrier_wait(last + 8 * stage, ring.parity);",
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
        Tile(128, 64, stages=2, share=A),
        "barrier_arrive(empty + 8 * stage, lane)",
        "barrier_arrive(empty + 8 * stage, cluster_rank())",
        "more arrivals|changed|differ|deadlock",
    ),
    "copies that reach one CTA": (
        Tile(128, 64, stages=2, share=A),
        "EVERYONE = (1 << SHARERS) - 1",
        "EVERYONE = 1",
        "deadlock",
    ),
    "too few arrivals expected": (
        Tile(128, 64, stages=2, share=A),
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
        Tile(256, 64, stages=2, out=FP32),
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
        Tile(64, 64, stages=2, share=A, sharers=4),
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
    "no fence after unpacking": (UNPACKED, "          fence_async();\n", "", "wgmma reads what thread"),
    "unpacking before the copies have landed": (
        UNPACKED,
        "          barrier_wait(full + 8 * ring.stage, ring.parity);\n          unpack",
        "          unpack",
        "differ|changed|more arrivals|is outside",
    ),
    "multiplying before the weights are unpacked": (
        UNPACKED,
        "          barrier_wait(last + 8 * ring.stage, ring.parity);\n",
        "",
        "differ|changed|more arrivals|without a fence|reads what thread",
    ),
    "unpacking into a slot that is still multiplied": (
        UNPACKED,
        "barrier_wait(empty + 8 * (before < 0 ? before + STAGES : before), before < 0 ? ring.parity ^ 1 : ring.parity);",
        "",
        "differ|changed|more arrivals|reads what thread",
    ),
    "the factor of another group": (UNPACKED, "i + j * 32 + lane);", "i + j * 32 + (lane ^ 1));", "differ"),
    "the sign of another weight": (UNPACKED, "codes << 4 & 0x80808080", "codes << 3 & 0x80808080", "differ"),
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
    """The kernel's text gives the right bits; with a planted fault, some schedule fails."""
    tile, right, wrong, finding = PLANTED[fault]
    assert gemm_on_cpu.TEXT.count(right) >= 1, "the kernel changed: update the planted fault"
    # CTAs of a cluster that have little to multiply end apart in the first schedules already.
    x = operands(tile, *((200, 72, 144) if tile.sharers == 4 else (200, 136, 672 if tile.element == E2M1 else 656)))
    want = expected(tile, x)
    assert_same_bits(run_on_cpu(tile, x), want)
    with pytest.raises((gemm_on_cpu.Fault, AssertionError), match=finding):
        assert_same_bits_in_schedules(range(600), tile, x, want, gemm_on_cpu.TEXT.replace(right, wrong))
