"""Times on the GPU: graph replays over rotating operand sets, with their spread and the clocks and power meanwhile.

Cold L2: the operand sets of a case together fill the L2 cache three times, so every launch reads its operands from memory.
A CUDA graph launches the sets in turn for at least GRAPH_MS; a sample is the time of one replay over its launches.

Bursts: a GPU that multiplies without pause soon lowers its clock further and further to keep its power limit, and a case's time
would depend on what ran before it. Replays therefore come in bursts with pauses. Even there large GEMMs do not run at the
highest clock (benchmarks/clocks.py). The time without pauses is measured separately (`sustained`).

Order: cases of one shape take turns, so that drift affects all of them alike. A case whose samples spread too much is
measured again, and refused if it stays unstable.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from typing import Any

from kernels.bench.case import Case, WrongOutput
from kernels.bench.records import BenchRow, BenchTiming, Sampled, Sustained

L2_MULTIPLE = 3
"""Size of all operand sets of a case, in L2 caches."""
MOST_SETS = 512
"""Most operand sets of a case."""
GRAPH_MS = 1.2
"""Shortest duration of a graph, ms; events then add less than a thousandth."""
ROUNDS = 3
"""Rounds in which every case gets its bursts."""
BURSTS = 3
"""Bursts per case and round."""
BURST_REPLAYS = 3
"""Graph replays per burst; the first is a warm-up and not counted."""
PAUSE = 2.0
"""Pause after a burst, in durations of the burst."""
SUSTAINED_MS = 80.0
"""Duration of the sustained load, ms: once until the clock has settled, then once timed."""
ATTEMPTS = 3
"""Attempts at an unstable case before it is refused."""
SPREAD_LIMIT = 0.05
"""Largest accepted spread: difference of the 90th and 10th percentiles over the median."""
HOST_CALLS = 100
"""Calls whose host time is measured."""


@dataclass
class _Prepared:
    """A case whose operands and graph are on the GPU."""

    case: Case
    sets: list[Any]
    error: float | None
    graph: Any = None
    launches: int = 0
    estimate_ms: float = 0.0
    host_us: float = 0.0
    windows: list[tuple[float, float]] = field(default_factory=list)


def measure(cases: Sequence[Case], seed: int, sampler: Sampler) -> list[BenchRow]:
    """Check and time cases of one shape; return a row for each, in order.

    A row without a timing gives the reason: a wrong output, a refusal by a library, or unstable samples.
    """
    rows: dict[int, BenchRow] = {}
    prepared: dict[int, _Prepared] = {}
    for number, case in enumerate(cases):
        try:
            prepared[number] = _prepare(case, seed)
        except WrongOutput as wrong:
            rows[number] = _row(case, why=f"wrong: {wrong}", wrong=True)
        except Exception as error:  # raised by a library or by us; the other cases are still measured
            told = f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
            peer = case.variant == "peer"
            rows[number] = _row(case, why=f"{'refused' if peer else 'failed'}: {told}", wrong=not peer)
    waiting = dict(prepared)
    for attempt in range(ATTEMPTS):
        samples = _rounds(list(waiting.values()))
        for (number, p), values in zip(list(waiting.items()), samples, strict=True):
            timing = summary(values, p.launches, len(p.sets), p.host_us, sampler.clock(p.windows))
            if timing.spread <= SPREAD_LIMIT:
                rows[number] = _row(p.case, error=p.error, timing=timing, sustained=_sustained(p, sampler))
                del waiting[number]
            elif attempt == ATTEMPTS - 1:
                why = f"unstable: samples spread over {timing.spread:.1%} of their median"
                rows[number] = _row(p.case, error=p.error, why=why)
        if not waiting:
            break
    for number, p in prepared.items():
        if p.case.check:
            try:  # check what the replays wrote to the last set
                p.case.check(p.sets[-1])
            except WrongOutput as wrong:
                rows[number] = _row(p.case, why=f"wrong after timing: {wrong}", wrong=True)
    return [rows[number] for number in range(len(cases))]


def summary(values: Sequence[float], launches: int, sets: int, host_us: float, sm_mhz: int | None) -> BenchTiming:
    """Summarise samples in microseconds by their median and their 10th and 90th percentiles."""
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    median, low, high = (round(x, 3) for x in (statistics.median(values), deciles[0], deciles[8]))
    return BenchTiming(
        us=median, p10=low, p90=high, samples=len(values), launches=launches, sets=sets, host_us=host_us, sm_mhz=sm_mhz
    )


def _row(case: Case, **result: Any) -> BenchRow:
    about = ("kernel", "implementation", "variant", "flops", "least_bytes", "notes", "static")
    return BenchRow(shape=dict(case.shape), **{name: getattr(case, name) for name in about}, **result)


def _prepare(case: Case, seed: int) -> _Prepared:
    """Make the operands, check one launch, estimate the time, measure the host time and capture the graph."""
    import torch

    device = torch.device("cuda", torch.cuda.current_device())
    generator = torch.Generator(device).manual_seed(seed)
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    count = min(max(2, ceil(L2_MULTIPLE * cache / case.least_bytes) + 1), MOST_SETS)
    sets = [case.prepare(generator)]
    case.launch(sets[0])
    torch.cuda.synchronize()
    error = float(f"{case.check(sets[0]):.4g}") if case.check else None
    sets += [case.prepare(generator) for _ in range(count - 1)]
    result = _Prepared(case, sets, error)
    for x in sets:
        case.launch(x)
    start, end = _event(), _event()
    torch.cuda.synchronize()
    start.record()
    for x in sets:
        case.launch(x)
    end.record()
    end.synchronize()
    turns = max(1, ceil(GRAPH_MS / start.elapsed_time(end)))
    result.host_us = host_us(lambda number: case.launch(sets[number % count]))
    result.launches = turns * count
    result.graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(result.graph):
        for _ in range(turns):
            for x in sets:
                case.launch(x)
    result.graph.replay()
    start.record()
    result.graph.replay()
    end.record()
    end.synchronize()
    result.estimate_ms = start.elapsed_time(end)
    return result


def _event() -> Any:
    import torch

    cuda: Any = torch.cuda
    return cuda.Event(enable_timing=True)


def host_us(call: Callable[[int], None]) -> float:
    """Return the median host time of a call that does not wait for the GPU, microseconds."""
    import torch

    times = []
    for number in range(HOST_CALLS):
        if number % 20 == 0:
            torch.cuda.synchronize()
        before = time.perf_counter_ns()
        call(number)
        times.append(time.perf_counter_ns() - before)
    torch.cuda.synchronize()
    return round(statistics.median(times) / 1000, 2)


def _rounds(cases: Sequence[_Prepared]) -> list[list[float]]:
    """Return the samples of each case in microseconds per launch; cases take turns."""
    samples: list[list[float]] = [[] for _ in cases]
    for p in cases:
        p.windows.clear()
    for _ in range(ROUNDS):
        for p, values in zip(cases, samples, strict=True):
            for _ in range(BURSTS):
                events = [_event() for _ in range(BURST_REPLAYS)]
                began = time.monotonic()
                p.graph.replay()
                events[0].record()
                for event in events[1:]:
                    p.graph.replay()
                    event.record()
                events[-1].synchronize()
                ended = time.monotonic()
                p.windows.append((began, ended))
                values += [1000 * a.elapsed_time(b) / p.launches for a, b in pairwise(events)]
                time.sleep(PAUSE * (ended - began))
    return samples


def _sustained(p: _Prepared, sampler: Sampler) -> Sustained:
    """Measure the mean time per launch once the power limit has set the clock."""
    start, end = _event(), _event()
    replays = ceil(SUSTAINED_MS / p.estimate_ms)
    for _ in range(replays):
        p.graph.replay()
    start.record()
    for _ in range(replays):
        p.graph.replay()
    end.record()
    start.synchronize()
    began = time.monotonic()
    end.synchronize()
    window = [(began, time.monotonic())]
    us = 1000 * start.elapsed_time(end) / replays / p.launches
    return Sustained(us=round(us, 3), sm_mhz=sampler.clock(window), watts=sampler.watts(window))


# -- clocks, power, temperature --------------------------------------------------------------------------------------

PERIOD_S = 0.004
"""Time between samples, seconds."""
INSTANT_POWER = 186
"""NVML's field of the instantaneous power; the plain query averages over a second."""


class Sampler:
    """A context in which a thread samples clocks, power and temperature through NVML."""

    def __init__(self) -> None:
        import pynvml
        import torch

        self._nvml = pynvml
        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        self.handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[tuple[float, int, int, float, int]] = []
        """Samples: time, SM clock and memory clock in MHz, power in W, temperature in degrees Celsius."""

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._nvml.nvmlShutdown()

    def _now_watts(self) -> float:
        with suppress(self._nvml.NVMLError):
            value = self._nvml.nvmlDeviceGetFieldValues(self.handle, [INSTANT_POWER])[0]
            if value.nvmlReturn == 0 and value.value.uiVal:
                return float(value.value.uiVal) / 1000
        return float(self._nvml.nvmlDeviceGetPowerUsage(self.handle)) / 1000

    def _run(self) -> None:
        nvml, handle = self._nvml, self.handle
        while not self._stop.wait(PERIOD_S):
            with suppress(nvml.NVMLError):
                self.samples.append(
                    (
                        time.monotonic(),
                        nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
                        nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
                        self._now_watts(),
                        nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
                    )
                )

    def clock(self, windows: Sequence[tuple[float, float]]) -> int | None:
        """Return the median SM clock within time windows, MHz; None without a sample there."""
        return self._median(1, windows)

    def watts(self, windows: Sequence[tuple[float, float]]) -> int | None:
        """Return the median power within time windows, W; None without a sample there."""
        return self._median(3, windows)

    def _median(self, position: int, windows: Sequence[tuple[float, float]]) -> int | None:
        seen = [s[position] for s in self.samples if any(a <= s[0] <= b for a, b in windows)]
        return round(statistics.median(seen)) if seen else None

    def summary(self) -> Sampled:
        """Return minimum, median and maximum of all samples so far."""

        def of(position: int) -> tuple[float, float, float]:
            values = [s[position] for s in self.samples] or [0]
            return min(values), statistics.median(values), max(values)

        return Sampled(samples=len(self.samples), sm_mhz=of(1), memory_mhz=of(2), watts=of(3), celsius=of(4))
