"""Times on the GPU: graph replays over rotating operand sets, medians with their spread, clocks and power meanwhile.

Method. Every case has as many operand sets as make three times the L2 cache, so that each launch finds its operands in
memory only. A CUDA graph launches the sets in turn until a millisecond or two are full; a sample is one replay between
two events, over its launches. Replays come in bursts with pauses: a GPU that multiplies without pause soon lowers its
clock to keep its power limit, and then a case's time depends on what ran before it. Cases of one shape take turns, so
that drift meets all of them alike. A case whose samples spread too far is measured again, and in the end refused. What is
left when the power limit rules is measured after that, by itself, and recorded beside (`sustained`).
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

from kernels.bench.case import Case, Wrong
from kernels.bench.records import Row, Sampled, Sustained, Timing

L2_MULTIPLE = 3
"""Operand sets together, in L2 caches."""
MOST_SETS = 512
GRAPH_MS = 1.2
"""Least duration of a graph: events then cost under a part in a thousand."""
ROUNDS = 3
BURSTS = 3
"""In a round, of one case."""
BURST_REPLAYS = 3
"""Graph replays without pause; the first warms up and is not counted."""
PAUSE = 2.0
"""After a burst, in durations of the burst."""
SUSTAINED_MS = 80.0
"""Replays without pause, once for the clock to settle and once more that counts."""
ATTEMPTS = 3
"""Times that all rounds of an unstable case are done before it is refused."""
SPREAD_LIMIT = 0.05
"""(90th - 10th percentile) / median of the samples, at most."""
HOST_CALLS = 100


@dataclass
class _Prepared:
    """A case on the GPU."""

    case: Case
    sets: list[Any]
    error: float | None
    graph: Any = None
    launches: int = 0
    estimate_ms: float = 0.0
    host_us: float = 0.0
    windows: list[tuple[float, float]] = field(default_factory=list)


def measure(cases: Sequence[Case], seed: int, sampler: Sampler) -> list[Row]:
    """Check and time cases, which should be of one shape so that they are comparable; one row each, in order.

    A row without a timing says why: wrong, refused by a library, or unstable.
    """
    rows: dict[int, Row] = {}
    prepared: dict[int, _Prepared] = {}
    for number, case in enumerate(cases):
        try:
            prepared[number] = _prepare(case, seed)
        except Wrong as wrong:
            rows[number] = _row(case, why=f"wrong: {wrong}", wrong=True)
        except Exception as error:  # of a library or of ours: the other cases still count
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
            try:  # once more: what the replays wrote, in the last set
                p.case.check(p.sets[-1])
            except Wrong as wrong:
                rows[number] = _row(p.case, why=f"wrong after timing: {wrong}", wrong=True)
    return [rows[number] for number in range(len(cases))]


def summary(values: Sequence[float], launches: int, sets: int, host_us: float, sm_mhz: int | None) -> Timing:
    """Median and 10th and 90th percentiles of samples in microseconds."""
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    median, low, high = (round(x, 3) for x in (statistics.median(values), deciles[0], deciles[8]))
    return Timing(
        us=median, p10=low, p90=high, samples=len(values), launches=launches, sets=sets, host_us=host_us, sm_mhz=sm_mhz
    )


def _row(
    case: Case,
    *,
    error: float | None = None,
    timing: Timing | None = None,
    sustained: Sustained | None = None,
    why: str = "",
    wrong: bool = False,
) -> Row:
    return Row(
        kernel=case.kernel,
        implementation=case.implementation,
        variant=case.variant,
        shape=dict(case.shape),
        flops=case.flops,
        least_bytes=case.least_bytes,
        notes=case.notes,
        static=case.static,
        error=None if error is None else float(f"{error:.4g}"),
        timing=timing,
        sustained=sustained,
        why=why,
        wrong=wrong,
    )


def _prepare(case: Case, seed: int) -> _Prepared:
    """Operands, the check, a first estimate of the time, the host's overhead and the graph."""
    import torch

    device = torch.device("cuda", torch.cuda.current_device())
    generator = torch.Generator(device).manual_seed(seed)
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    count = min(max(2, ceil(L2_MULTIPLE * cache / case.least_bytes) + 1), MOST_SETS)
    sets = [case.prepare(generator)]
    case.launch(sets[0])
    torch.cuda.synchronize()
    error = case.check(sets[0]) if case.check else None
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
    """Median time of a call without waiting for the GPU, in microseconds."""
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
    """Microseconds a launch: samples of each case, all cases taking turns."""
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
    """Mean time of a launch once the power limit has set the clock."""
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
INSTANT_POWER = 186
"""NVML's field for the power of this instant; the plain query averages over a second."""


class Sampler:
    """Samples clocks, power and temperature through NVML in a thread, from `with` to its end."""

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
        """Time, SM and memory clock in MHz, watts, degrees Celsius."""

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
        """Median SM clock in MHz within some spans of time; None if none was sampled there."""
        return self._median(1, windows)

    def watts(self, windows: Sequence[tuple[float, float]]) -> int | None:
        """Median power likewise."""
        return self._median(3, windows)

    def _median(self, position: int, windows: Sequence[tuple[float, float]]) -> int | None:
        seen = [s[position] for s in self.samples if any(a <= s[0] <= b for a, b in windows)]
        return round(statistics.median(seen)) if seen else None

    def summary(self) -> Sampled:
        """Least, median and largest of everything sampled so far."""

        def of(position: int) -> tuple[float, float, float]:
            values = [s[position] for s in self.samples] or [0]
            return min(values), statistics.median(values), max(values)

        return Sampled(samples=len(self.samples), sm_mhz=of(1), memory_mhz=of(2), watts=of(3), celsius=of(4))
