"""Constants of a GPU for the timing model, read from the records of microbenchmarks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from kernels.bench.records import FOLDER


@dataclass(frozen=True)
class Machine:
    """Constants of one GPU. Times are in us, rates in bytes per us (MB/s), clocks are those of an SM at `mhz`."""

    gpu: str
    sms: int
    mhz: float
    """Highest SM clock, in MHz."""
    wgmma_clocks: Mapping[int, float]
    """Clocks of an FP8 wgmma of m64 and k32 with operands in shared memory, by n."""
    shared_bytes_per_clock: float
    """Bandwidth of an SM's shared memory, in bytes per clock."""
    promoted_clocks: Mapping[tuple[int, int], tuple[float, float]]
    """Clocks that promotion adds to each wgmma, by n and wgmmas between promotions: with two warpgroups in any order, and with
    two that alternate."""
    copied_bytes_per_clock: float
    """Bytes per clock that bulk copies from L2 bring into one SM, with the others idle."""
    l2_rate: float
    """Bandwidth from L2 to the shared memories of all SMs."""
    read_rate: float
    """Bandwidth of reads from HBM."""
    write_rate: float
    """Bandwidth of writes to HBM."""
    copy_rate: float
    """Bandwidth of copies in HBM, reads and writes together."""
    launch_us: float
    """Time between two kernels in a CUDA graph."""
    latency_us: float
    """Latency of one 32 KiB bulk copy from HBM on an idle GPU."""
    mac_picojoules: float
    """Energy of the whole chip per FP8 multiply-accumulate at the power limit, in pJ."""

    def wgmma(self, n: int) -> float:
        """Return the clocks of a wgmma of m64 and k32, in proportion to the nearest n that was measured.

        Reading both operands from shared memory, 32 bytes per row, is a lower limit.
        """
        nearest = min(self.wgmma_clocks, key=lambda known: abs(known - n))
        return max(self.wgmma_clocks[nearest] * n / nearest, (64 + n) * 32 / self.shared_bytes_per_clock)

    def promotion(self, n: int, every: int, in_turns: float) -> float:
        """Return the clocks that a promotion after `every` wgmmas adds to each.

        Warpgroups alternate in the share `in_turns` of the time.
        """
        nearest = min(self.promoted_clocks, key=lambda known: (abs(known[0] - n), abs(known[1] - every)))
        free, turns = (max(0.0, clocks) * n / nearest[0] for clocks in self.promoted_clocks[nearest])
        return (1 - in_turns) * free + in_turns * turns


def machine(record: Mapping[str, Any]) -> Machine:
    """Return the machine of a record of `python -m kernels.bench.machine`. Raises KeyError if a constant is missing."""
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
        copied_bytes_per_clock=_copied(record)
        or _copied(shipped()["NVIDIA H200"]),  # the H100 has the same SM, but no figure
        l2_rate=value["tma-l2-read.gbps"] * 1e3,
        read_rate=value["tma-memory-read.gbps"] * 1e3,
        write_rate=value["memory-write.gbps"] * 1e3,
        copy_rate=value["memory-copy.gbps"] * 1e3,
        launch_us=value["launch.graph_us"],
        latency_us=value["tma-latency.memory.32768B.clocks"] / mhz,
        mac_picojoules=value["sustained.e4m3.watts"] / value["sustained.e4m3.tflops"] * 2,
    )


def _copied(record: Mapping[str, Any]) -> float:
    """Return the bytes per clock that bulk copies bring into one SM alone; 0 if a record lacks them."""
    value = {c["name"]: float(c["value"]) for c in record["constants"]}
    return value.get("tma-l2-read-alone.gbps", 0.0) * 1e3 / value["clock.light_mhz"]


@cache
def shipped() -> Mapping[str, Mapping[str, Any]]:
    """Return the newest record of each GPU's constants, by the GPU's name."""
    records = [json.loads(path.read_text()) for path in FOLDER.glob("machine-*.json")]
    return {r["gpu"]: r for r in sorted(records, key=lambda r: str(r["date"]))}
