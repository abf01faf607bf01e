"""Constants of the GPU for the timing model, each measured by a microbenchmark.

    python -m kernels.bench.machine --out kernels/records/machine-h200.json

Clocks are counted by the SM (`clock64`) and do not depend on its frequency; bandwidths and microseconds do.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from isa_model.diagnostics import Unavailable
from isa_model.processes import pool
from kernels.bench import microbenchmarks as source
from kernels.bench.measure import Sampler, host_us
from kernels.bench.records import Constant, MachineRecord
from kernels.bench.static import Cubin
from kernels.nvrtc import cubin

WIDTHS = (64, 96, 128, 160, 192, 224, 256)
"""N of the wgmmas that are timed."""
PROMOTED_WIDTHS = (64, 128, 192)
"""N of the wgmmas that are timed with promotion."""
INTERVALS = (1, 2, 4, 8, 16)
"""Wgmmas between promotions; each has 32 of K."""
TMA_SIZES = (128, 4096, 32768)
"""Sizes of the bulk copies whose latency is measured, bytes."""
RUNS = 7
"""Timed runs per constant."""


def constant(name: str, values: Iterable[float], unit: str, how: str) -> Constant:
    """Summarise samples by their median and their 10th and 90th percentiles."""
    samples = [float(v) for v in values]
    deciles = statistics.quantiles(samples, n=10, method="inclusive") if len(samples) > 1 else samples * 9
    value, low, high = (float(f"{v:.6g}") for v in (statistics.median(samples), deciles[0], deciles[8]))
    return Constant(name=name, value=value, unit=unit, p10=low, p90=high, samples=len(samples), how=how)


# -- launching -------------------------------------------------------------------------------------------------------


class Gpu:
    """The current GPU: compiles sources in advance, launches them on torch's current stream and times launches."""

    def __init__(self, sources: Sequence[str]) -> None:
        import torch
        from cuda.core import Device, ObjectCode

        self.torch: Any = torch
        self.device = torch.cuda.current_device()
        Device(self.device).set_current()
        self.sms = torch.cuda.get_device_properties(self.device).multi_processor_count
        with pool() as workers:
            codes = workers.map(cubin, sources)
            self.kernels = {s: ObjectCode.from_cubin(c).get_kernel("run") for s, c in zip(sources, codes, strict=True)}

    def allow_shared(self, text: str, size: int) -> None:
        """Allow a kernel `size` bytes of dynamic shared memory, which may be over 48 KB. Raises RuntimeError."""
        from cuda.bindings import driver

        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        kernel, device = driver.CUkernel(int(self.kernels[text].handle)), driver.CUdevice(self.device)
        (error,) = driver.cuKernelSetAttribute(attribute, size, kernel, device)
        if error != driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"{size} bytes of shared memory: {error}")

    def launch(self, text: str, blocks: int, threads: int, *arguments: Any, shared: int = 0) -> None:
        """Enqueue the kernel of a source; tensors are passed as pointers."""
        from cuda.core import LaunchConfig, Stream, launch

        stream = Stream.from_handle(self.torch.cuda.current_stream().cuda_stream)
        config = LaunchConfig(grid=blocks, block=threads, shmem_size=shared)
        values = [a.data_ptr() if hasattr(a, "data_ptr") else a for a in arguments]
        launch(stream, config, self.kernels[text], *values)

    def microseconds(self, enqueue: Callable[[], None], runs: int = RUNS) -> list[float]:
        """Return the time of each of `runs` runs after a warm-up, microseconds."""
        events = [self.torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
        enqueue()
        for event in events[:-1]:
            event.record()
            enqueue()
        events[-1].record()
        events[-1].synchronize()
        return [1000 * a.elapsed_time(b) for a, b in pairwise(events)]

    def graph(self, enqueue: Callable[[], None], count: int) -> list[float]:
        """Time a graph of `count` launches; return microseconds per launch for each replay."""
        graph = self.torch.cuda.CUDAGraph()
        enqueue()
        with self.torch.cuda.graph(graph):
            for _ in range(count):
                enqueue()
        return [us / count for us in self.microseconds(graph.replay, 20)]

    def empty(self, size: int, dtype: str = "int64") -> Any:
        """Return a vector of zeros on the GPU."""
        return self.torch.zeros(size, dtype=getattr(self.torch, dtype), device="cuda")

    def random_bytes(self, size: int) -> Any:
        """Return a vector of random bytes on the GPU."""
        return self.torch.randint(0, 256, (size,), dtype=self.torch.uint8, device="cuda")


# -- the SM ----------------------------------------------------------------------------------------------------------

CHAINED = 4
"""Wgmmas per group in a chain without promotion."""
ITERATIONS = 1000
"""Iterations of a kernel between two readings of the clock."""


def _wgmma_sources() -> dict[str, tuple[str, int, int, int]]:
    """Return source, N, math warpgroups and wgmmas per warpgroup and iteration, by the constant's name."""
    made = {}
    for kind in source.WGMMA_K:
        for n in WIDTHS:
            made[f"wgmma.{kind}.n{n}"] = (source.wgmma(kind, n, 2), n, 2, CHAINED)
    for n in (64, 128, 256):
        made[f"wgmma-latency.e4m3.n{n}"] = (source.wgmma("e4m3", n, 1, wait_each=True), n, 1, 1)
    for n in PROMOTED_WIDTHS:
        for every in INTERVALS:
            for name, ordered in (("promoted", False), ("promoted-in-turns", True)):
                text = source.wgmma("e4m3", n, 2, every=every, ordered=ordered)
                made[f"{name}.e4m3.n{n}.every{every}"] = (text, n, 2, every)
    made["wgmma-alone.e4m3.n256"] = (source.wgmma("e4m3", 256, 1), 256, 1, CHAINED)
    made["wgmma-beside-ffma.e4m3.n256"] = (source.wgmma("e4m3", 256, 1, ffma_beside=True), 256, 1, CHAINED)
    return made


HOW = {
    "wgmma": "two warpgroups, chains of 4 from shared memory, one group in flight; clocks of an SM per wgmma",
    "wgmma-latency": "one warpgroup that waits for every wgmma",
    "promoted": "two warpgroups; FFMAs into FP32 accumulators after each interval; clocks of an SM per wgmma",
    "promoted-in-turns": "the same, alternating: one promotes while the other's wgmmas run",
    "wgmma-alone": "one warpgroup, chains of 4",
    "wgmma-beside-ffma": "the same while another warpgroup issues only FFMAs",
}


def sm_constants(gpu: Gpu) -> Iterator[Constant]:
    """Measure rates inside an SM, by the clock of every SM at once."""
    sink = gpu.empty(gpu.sms * 512, "float32")
    for name, (text, n, groups, each) in _wgmma_sources().items():
        beside = "beside" in name
        width = groups + beside
        clocks = gpu.empty(gpu.sms * width)
        shared = source.wgmma_shared_bytes(n, groups)
        gpu.allow_shared(text, shared)
        samples, ffmas = [], []
        for run in range(RUNS):
            gpu.launch(text, gpu.sms, 128 * width, clocks, sink, np.int32(ITERATIONS), np.float32(0.999), shared=shared)
            seen = clocks.view(gpu.sms, width).cpu().tolist()
            if run:
                total = [max(row[:groups]) for row in seen]
                samples += [t / (ITERATIONS * each * groups) for t in total]
                ffmas += [row[-1] * 128 / t for row, t in zip(seen, total, strict=True)] if beside else []
        yield constant(f"{name}.clocks", samples, "clocks per wgmma", HOW[name.split(".")[0]])
        if beside:
            how = "FFMAs of that warpgroup per SM and clock"
            yield constant("ffma-beside-wgmma.per_clock", ffmas, "FFMA per clock and SM", how)
    for name, text, amount, unit, how in (
        ("ffma.per_clock", source.FFMA, 512 * source.FFMA_BATCH, "FFMA per clock and SM", "16 warps, 16 chains each"),
        (
            "shared-read.bytes_per_clock",
            source.SHARED_READ,
            512 * 16 * source.SHARED_READS,
            "bytes per clock and SM",
            "16 warps, 16-byte reads without bank conflicts",
        ),
    ):
        clocks, samples = gpu.empty(gpu.sms), []
        for run in range(RUNS):
            gpu.launch(text, gpu.sms, 512, clocks, sink, np.int32(ITERATIONS), np.float32(0.999))
            seen = clocks.cpu().tolist()
            samples += [amount * ITERATIONS / t for t in seen] if run else []
        yield constant(name, samples, unit, how)


# -- memory ----------------------------------------------------------------------------------------------------------

LARGE = 4 << 30
"""Buffer that no cache holds, bytes."""
SMALL = 20 << 20
"""Buffer that stays in L2, bytes."""
SMALL_READS = 100
"""Passes over that buffer in one launch."""
LATENCY_ROUNDS = 64


def memory_constants(gpu: Gpu) -> Iterator[Constant]:
    """Measure the bandwidth of HBM and L2, by ordinary loads and by bulk copies, and the latency of a bulk copy."""
    large, small, sink = gpu.random_bytes(LARGE), gpu.random_bytes(SMALL), gpu.empty(16, "int32")
    threads, blocks, half = 1024, 2 * gpu.sms, LARGE // 2
    step = 8 * threads * blocks  # 16-byte words that all threads read in one round

    def gbps(name: str, size: int, how: str, enqueue: Callable[[], None]) -> Constant:
        return constant(f"{name}.gbps", [size / us / 1e3 for us in gpu.microseconds(enqueue)], "GB/s", how)

    how = "16-byte loads, eight in flight per thread, 2 CTAs of 1024 threads per SM"
    for name, buffer, reads in (("memory", large, 1), ("l2", small, SMALL_READS)):
        wrap = buffer.numel() // 16
        words = reads * wrap // step * step
        read = partial(gpu.launch, source.MEMORY_READ, blocks, threads, buffer, sink, np.int64(words), np.int64(wrap))
        yield gbps(f"{name}-read", words * 16, f"{buffer.numel() >> 20} MiB, {reads} times; {how}", read)
    write = partial(gpu.launch, source.MEMORY_WRITE, blocks, threads, large, np.int32(7), np.int64(LARGE // 16))
    yield gbps("memory-write", LARGE, "4 GiB; 16-byte stores, 2 CTAs of 1024 threads per SM", write)
    copy = partial(large[:half].copy_, large[half:])
    yield gbps("memory-copy", LARGE, "2 GiB by torch; bytes read plus bytes written", copy)

    shared = source.TMA_STAGES * source.TMA_BYTES
    gpu.allow_shared(source.TMA_READ, shared)
    how = f"bulk copies of {source.TMA_BYTES} bytes into shared memory, {source.TMA_STAGES} in flight per SM"
    for name, buffer, reads in (("memory", large, 1), ("l2", small, SMALL_READS)):
        held = buffer.numel() // source.TMA_BYTES
        count = np.int64(reads * held)
        bulk = partial(gpu.launch, source.TMA_READ, gpu.sms, 32, buffer, count, np.int64(held), shared=shared)
        yield gbps(f"tma-{name}-read", reads * buffer.numel(), how, bulk)
    bulk = partial(gpu.launch, source.TMA_READ, 1, 32, small, np.int64(held), np.int64(held), shared=shared)
    yield gbps("tma-l2-read-alone", SMALL, f"{how}, in one SM alone", bulk)
    for size in TMA_SIZES:
        for place in ("memory", "l2"):
            yield _tma_latency(gpu, large, size, place)


def _tma_latency(gpu: Gpu, large: Any, size: int, place: str) -> Constant:
    clocks, stride = gpu.empty(LATENCY_ROUNDS), max(size, 1 << 16) + 4096
    samples: list[float] = []
    for run in range(3):
        data = large[run * LATENCY_ROUNDS * stride :][: LATENCY_ROUNDS * stride]
        data.max()
        if place == "memory":  # evict it from L2
            large[LARGE // 2 :].max()
        counts = np.int32(size), np.int32(LATENCY_ROUNDS), np.int64(stride)
        gpu.launch(source.TMA_LATENCY, 1, 32, data, clocks, *counts, shared=size)
        samples += clocks.cpu().tolist()[1:]
    how = "one thread: from issuing a bulk copy to seeing its barrier complete, on an idle GPU"
    return constant(f"tma-latency.{place}.{size}B.clocks", samples, "clocks", how)


# -- launches, waves, clock ------------------------------------------------------------------------------------------

SPIN = 20_000
"""Clocks that the CTAs of a wave wait."""
WAVES = (1, 2, 3, 4, 6, 8)
WHOLE_SM = 160 << 10
"""Shared memory with which one CTA fills an SM, bytes."""
SUSTAINED_S = 0.8
"""Duration of the sustained load, seconds."""


def launch_constants(gpu: Gpu) -> Iterator[Constant]:
    """Measure the cost of a launch and of a wave of CTAs, and the clock of an idle GPU."""
    gpu.allow_shared(source.SPIN, WHOLE_SM)

    def spin(clocks: int, waves: int = 1) -> Callable[[], None]:
        return partial(gpu.launch, source.SPIN, waves * gpu.sms, 128, np.int64(clocks), shared=WHOLE_SM)

    how = "an empty kernel, one CTA per SM, each launch waiting for the previous one"
    yield constant("launch.graph_us", gpu.graph(spin(0), 200), "us", f"{how}, in a graph")
    yield from _host_constants(gpu)
    long = 1_000_000
    once, twice = gpu.microseconds(spin(long)), gpu.microseconds(spin(2 * long))
    mhz = [long / (b - a) for a, b in zip(once, twice, strict=True)]
    yield constant("clock.light_mhz", mhz, "MHz", "a million more clocks of waiting, over the time they take")
    times = [statistics.median(gpu.graph(spin(SPIN, waves), 20)) for waves in WAVES]
    slopes = [(us - times[0]) / (waves - WAVES[0]) for waves, us in zip(WAVES[1:], times[1:], strict=True)]
    over = [us - SPIN / statistics.median(mhz) for us in slopes]
    yield constant("wave.us", over, "us", "another wave of one CTA per SM, without the clocks that its CTAs wait")


def _host_constants(gpu: Gpu) -> Iterator[Constant]:
    """Measure the host time of a launch with one argument, its stream and configuration made in advance."""
    import ctypes

    from cuda.bindings import driver
    from cuda.core import LaunchConfig, Stream, launch

    kernel, zero = gpu.kernels[source.SPIN], np.int64(0)
    stream, config = Stream.from_handle(gpu.torch.cuda.current_stream().cuda_stream), LaunchConfig(grid=1, block=128)
    by_core = host_us(lambda _: launch(stream, config, kernel, zero))
    yield constant("launch.host_us", [by_core], "us", "host time of cuda.core.launch, one argument")
    function, handle = driver.CUfunction(int(kernel.handle)), driver.CUstream(int(stream.handle))
    arguments = ((0,), (ctypes.c_int64,))
    by_driver = host_us(lambda _: driver.cuLaunchKernel(function, 1, 1, 1, 128, 1, 1, 0, handle, arguments, 0))
    yield constant("launch.host_driver_us", [by_driver], "us", "the same by cuda.bindings.driver.cuLaunchKernel")


def sustained_constants(gpu: Gpu, sampler: Sampler) -> Iterator[Constant]:
    """Measure clock, power and rate under a sustained load of matrix instructions."""
    sink, clocks = gpu.empty(gpu.sms * 256, "float32"), gpu.empty(gpu.sms * 2)
    for kind, k in source.WGMMA_K.items():
        text, iterations = source.wgmma(kind, 256, 2), 8 * ITERATIONS
        shared = source.wgmma_shared_bytes(256, 2)
        counts = np.int32(iterations), np.float32(0.999)
        multiply = partial(gpu.launch, text, gpu.sms, 256, clocks, sink, *counts, shared=shared)
        began, mhz, tflops = time.monotonic(), [], []
        while time.monotonic() - began < SUSTAINED_S:
            us = statistics.median(gpu.microseconds(multiply, 3))
            mhz.append(statistics.median(clocks.cpu().tolist()) / us)
            tflops.append(2 * 64 * 256 * k * CHAINED * iterations * 2 * gpu.sms / us / 1e6)
        late = len(mhz) // 2
        half = began + SUSTAINED_S / 2
        watts = [s[3] for s in sampler.samples if half <= s[0] <= began + SUSTAINED_S]
        how = f"m64n256 wgmma of random operands in shared memory on every SM, second half of {SUSTAINED_S} s"
        yield constant(f"sustained.{kind}.mhz", mhz[late:], "MHz", how)
        yield constant(f"sustained.{kind}.tflops", tflops[late:], "TFLOP/s", how)
        yield constant(f"sustained.{kind}.watts", watts or [0.0], "W", how)


def cubins() -> Iterator[Cubin]:
    """Yield the machine code of the microbenchmarks that show the cost of promotion: none, and every 128 of K."""
    for name in ("wgmma.e4m3.n128", "promoted.e4m3.n128.every4"):
        text, n, groups, _ = _wgmma_sources()[name]
        yield Cubin(f"microbenchmark.{name}", cubin(text), source.wgmma_shared_bytes(n, groups))


def sources() -> list[str]:
    """Return every source that `measure` launches."""
    fixed = ("FFMA", "SHARED_READ", "MEMORY_READ", "MEMORY_WRITE", "TMA_READ", "TMA_LATENCY", "SPIN")
    return [*(made[0] for made in _wgmma_sources().values()), *(getattr(source, name) for name in fixed)]


def measure(name: str, command: str) -> MachineRecord:
    """Measure every constant of the current GPU. Raises Unavailable without a Hopper GPU."""
    from kernels.bench.bench import header, need_gpu

    need_gpu()
    gpu = Gpu(sources())
    with Sampler() as sampler:
        found: list[Constant] = []
        for constants in (
            sm_constants(gpu),
            memory_constants(gpu),
            launch_constants(gpu),
            sustained_constants(gpu, sampler),
        ):
            for c in constants:
                print(f"{c.name:42} {c.value:>10.5g}  {c.p10:.5g}..{c.p90:.5g}  {c.unit}", flush=True)
                found.append(c)
        return MachineRecord(constants=tuple(found), **header(name, command, 0, sampler))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the constants of the current GPU and write their record."""
    parser = argparse.ArgumentParser(prog="python -m kernels.bench.machine", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the record (JSON)")
    out = parser.parse_args(arguments).out
    measure(out.stem, "python -m kernels.bench.machine").save(out)


if __name__ == "__main__":
    try:
        main()
    except Unavailable as error:
        print(error, file=sys.stderr)
        sys.exit(3)
