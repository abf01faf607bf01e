"""A GPU as the timing model sees it: constants that microbenchmarks measured, read from their record, never typed in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kernels.bench.records import FOLDER


@dataclass(frozen=True)
class Machine:
    """Constants of one GPU: times in microseconds, rates in bytes per microsecond (MB/s), clocks of an SM at `mhz`."""

    gpu: str
    sms: int
    mhz: float
    """The highest SM clock: clocks per microsecond."""
    wgmma_clocks: Mapping[int, float]
    """Clocks between two FP8 wgmma of m64 and k32, by their n, with operands in shared memory."""
    shared_bytes_per_clock: float
    """Bytes per clock that an SM reads from its shared memory."""
    promoted_clocks: Mapping[tuple[int, int], tuple[float, float]]
    """By n and wgmmas between promotions: what promoting adds to the clocks of each wgmma, as two warpgroups come to it, and
    where they take turns."""
    l2_rate: float
    """From L2 into all SMs' shared memories."""
    read_rate: float
    """From HBM."""
    write_rate: float
    copy_rate: float
    """Bytes read and bytes written, together."""
    launch_us: float
    """From the end of one kernel to the begin of the next in a CUDA graph."""
    latency_us: float
    """Latency of one 32 KiB bulk copy from HBM on an idle GPU."""
    mac_picojoules: float
    """Energy of the whole chip per FP8 multiply-accumulate while it does nothing else, at its power limit."""

    def wgmma(self, n: int) -> float:
        """Clocks of a wgmma m64, n, k32: by the nearest n that was measured, in proportion; never less than it takes to
        read both operands from shared memory, 32 bytes a row."""
        nearest = min(self.wgmma_clocks, key=lambda known: abs(known - n))
        return max(self.wgmma_clocks[nearest] * n / nearest, (64 + n) * 32 / self.shared_bytes_per_clock)

    def promotion(self, n: int, every: int, in_turns: float) -> float:
        """Clocks that promoting every so many wgmmas adds to each, where warpgroups take turns in that share of the time."""
        nearest = min(self.promoted_clocks, key=lambda known: (abs(known[0] - n), abs(known[1] - every)))
        free, turns = (max(0.0, clocks) * n / nearest[0] for clocks in self.promoted_clocks[nearest])
        return (1 - in_turns) * free + in_turns * turns


def machine(record: Mapping[str, Any]) -> Machine:
    """The machine that a record of `python -m kernels.bench.machine` describes. Raises KeyError if a constant is missing."""
    value = {c["name"]: float(c["value"]) for c in record["constants"]}
    mhz = float(record["max_sm_mhz"])
    widths = [int(n.split(".")[2][1:]) for n in value if n.startswith("wgmma.e4m3.n")]
    found = [re.fullmatch(r"promoted\.e4m3\.n(\d+)\.every(\d+)\.clocks", name) for name in value]
    promoted = [(int(m[1]), int(m[2])) for m in found if m]
    return Machine(
        gpu=record["gpu"],
        sms=record["sms"],
        mhz=mhz,
        wgmma_clocks={n: value[f"wgmma.e4m3.n{n}.clocks"] for n in widths},
        shared_bytes_per_clock=value["shared-read.bytes_per_clock"],
        promoted_clocks={
            (n, every): (
                value[f"promoted.e4m3.n{n}.every{every}.clocks"] - value[f"wgmma.e4m3.n{n}.clocks"],
                value[f"promoted-in-turns.e4m3.n{n}.every{every}.clocks"] - value[f"wgmma.e4m3.n{n}.clocks"],
            )
            for n, every in promoted
        },
        l2_rate=value["tma-l2-read.gbps"] * 1e3,
        read_rate=value["tma-memory-read.gbps"] * 1e3,
        write_rate=value["memory-write.gbps"] * 1e3,
        copy_rate=value["memory-copy.gbps"] * 1e3,
        launch_us=value["launch.graph_us"],
        latency_us=value["tma-latency.memory.32768B.clocks"] / mhz,
        mac_picojoules=value["sustained.e4m3.watts"] / value["sustained.e4m3.tflops"] * 2,
    )


@cache
def shipped(folder: Path = FOLDER) -> Mapping[str, Mapping[str, Any]]:
    """Every record of a machine's constants by the GPU's name; of one GPU's the newest."""
    records = [json.loads(path.read_text()) for path in folder.glob("machine-*.json")]
    return {r["gpu"]: r for r in sorted(records, key=lambda r: str(r["date"]))}
