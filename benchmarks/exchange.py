"""Expert-parallel dispatch and combine between the GPUs of a node, measured and checked:

    torchrun --nproc-per-node 2 benchmarks/exchange.py --out exchange.json
    python benchmarks/exchange.py --show exchange.json      # its tables, without a GPU

Every GPU has its own tokens; each token goes to its experts' GPUs (`kernels.exchange`) in BF16 or FP8 and comes back in BF16,
FP8, LogFMT-8 or LogFMT-10. Packing, the exchange by NCCL, unpacking (in combine with the sum) and all three in a row are
timed, the L2 cache cleared and all GPUs brought together before each of `--repeats` repetitions. A time is the median of the
slowest GPU's. Beside it: what an FP8 GEMM and the exchange cost each other when they run at once, NCCL's thread blocks, and
the bytes that `codesign.evidence.traffic` counts.

Every rank makes the others' numbers again from their seeds: all rows that arrive are compared with what was to be sent, and a
sample of them and of the sums with isa_model. A wrong result is recorded as such and makes the exit code 1.

Bytes are those that leave a GPU. Its rows for its own experts pass through NCCL, too, and are in the times alone. In neither:
which experts a row is for and their weights (12 bytes a choice), and the counts of rows, which are exchanged before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from exchange_check import Setting, WrongExchange, check_combine, check_dispatch, choices, inputs, largest, outputs

from codesign.figures import markdown
from isa_model.checkout import commit_of
from isa_model.output_files import json_lines, write_file
from kernels import exchange as ep
from kernels.exchange import BF16, FP8, LOGFMT8, LOGFMT10, Wire

WIRES = {"dispatch": (BF16, FP8), "combine": (BF16, FP8, LOGFMT8, LOGFMT10)}
WARM_UP = 5
SLEEP, LONG_SLEEP = 3_000_000, 20_000_000
"""Clock cycles that the GPU waits while the host enqueues what is timed: 1.5 and 10 ms."""
L2_BYTES = 256 << 20
"""Written to clear the L2 cache."""
GEMM = (4096, 4096, 7168)
OVERLAP_US, MOST_CALLS = 2000.0, 10
"""Length of a sequence of GEMMs or exchanges, and calls in it at most: the host must be ahead."""


# -- times -----------------------------------------------------------------------------------------------------------


@cache
def scratch(device: str) -> tuple[Any, Any]:
    """Memory to clear the L2 cache with, and a flag to bring GPUs together."""
    return torch.empty(L2_BYTES, dtype=torch.uint8, device=device), torch.zeros(1, device=device)


def events(count: int) -> list[Any]:
    return [torch.cuda.Event(enable_timing=True) for _ in range(count)]


def together(device: str, cycles: int) -> None:
    """Bring all ranks together, caches cleared; a GPU then waits long enough for the host to enqueue what is timed."""
    dist.barrier()
    if device != "cpu":
        memory, flag = scratch(device)
        memory.zero_()
        torch.cuda._sleep(cycles)
        dist.all_reduce(flag)


def once(s: Setting, work: Callable[[], Any]) -> float:
    """Microseconds of one call."""
    together(s.device, SLEEP)
    if s.device == "cpu":
        started = time.perf_counter()
        work()
        return 1e6 * (time.perf_counter() - started)
    start, end = events(2)
    start.record()
    work()
    end.record()
    end.synchronize()
    return 1000 * start.elapsed_time(end)


def slowest(s: Setting, values: Any) -> Any:
    """Largest of each value over the ranks."""
    found = torch.tensor(values, dtype=torch.float64, device=s.device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found.cpu().numpy()


def timed(s: Setting, work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median and 10th and 90th percentiles of a call's microseconds on the slowest rank."""
    values = slowest(s, [once(s, work) for _ in range(WARM_UP + repeats)])[WARM_UP:]
    low, high = np.quantile(values, [0.1, 0.9])
    return {"us": round(float(np.median(values)), 2), "p10": round(float(low), 2), "p90": round(float(high), 2)}


def nccl_blocks(work: Callable[[], Any]) -> int | str:
    """Thread blocks of NCCL's largest kernel in a call, each on an SM of its own; or why that is not known."""
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            work()
            torch.cuda.synchronize()
        with tempfile.TemporaryDirectory() as folder:
            profile.export_chrome_trace(f"{folder}/trace.json")
            trace = json.loads(Path(folder, "trace.json").read_text())
        grids = [
            int(np.prod(event["args"]["grid"]))
            for event in trace["traceEvents"]
            if event.get("cat") == "kernel" and "nccl" in event["name"].lower()
        ]
        return max(grids) if grids else "the trace has no kernel of NCCL"
    except Exception as error:  # the profiler is no part of what is measured
        return f"{type(error).__name__}: {error}"


def overlap(s: Setting, work: Callable[[], Any], work_us: float, repeats: int) -> dict[str, float]:
    """Microseconds of an FP8 GEMM and of `work`, alone and while the other runs all the time on another stream."""
    m, n, k = GEMM
    a, b = (torch.randn((size, k), device=s.device).to(torch.float8_e4m3fn) for size in (m, n))
    one, side = torch.ones((), device=s.device), torch.cuda.Stream(priority=-1)

    def gemm() -> None:
        torch._scaled_mm(a, b.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)

    def run(gemms: int, works: int) -> tuple[float, float]:
        together(s.device, LONG_SLEEP)
        ready, *pairs = events(5)
        ready.record()
        side.wait_event(ready)
        with torch.cuda.stream(side):
            pairs[0].record()
            for _ in range(works):
                work()
            pairs[1].record()
        pairs[2].record()
        for _ in range(gemms):
            gemm()
        pairs[3].record()
        torch.cuda.synchronize()
        return 1000 * pairs[2].elapsed_time(pairs[3]), 1000 * pairs[0].elapsed_time(pairs[1])

    def median(gemms: int, works: int) -> tuple[float, float]:
        values = slowest(s, [run(gemms, works) for _ in range(2 + repeats)])[2:]
        gemm_us, each_us = np.median(values, axis=0)
        return float(gemm_us) / max(gemms, 1), float(each_us) / max(works, 1)

    gemms, works = (max(1, min(MOST_CALLS, round(OVERLAP_US / us))) for us in (median(4, 0)[0], work_us))
    # The other sequence is twice as long, so that it does not end first.
    found = {
        "gemm_alone_us": median(gemms, 0)[0],
        "work_alone_us": median(0, works)[1],
        "gemm_beside_us": median(gemms, 2 * works)[0],
        "work_beside_us": median(2 * gemms, works)[1],
    }
    return {name: round(us, 2) for name, us in found.items()} | {"gemms": gemms, "works": works}


# -- one exchange ----------------------------------------------------------------------------------------------------


def counted(wire: Wire, hidden: int) -> tuple[float, int]:
    """Bits of a number on the wire, and copies of a token over NVLink, as codesign.evidence.traffic has them."""
    from codesign.workloads.gemms import models
    from isa_model.formats import FORMATS, named
    from isa_model.path import Step

    if wire.logarithmic:
        step = Step(at="combine", logfmt=wire.bits)
    elif wire.bits == 16:
        step = Step(at="combine", to=FORMATS["bf16"], group=None, scale=None)
    else:
        step = Step(at="combine", scale=named("ue8m0"))
    model = models()["deepseek-v3"]
    assert model.experts
    return step.bits_per_element, model.experts.active  # traffic: one copy per expert over NVLink


def measure(s: Setting, way: str, wire: Wire, repeats: int, beside: bool) -> tuple[dict[str, Any], Callable[[], Any]]:
    """Check and time one exchange: a row of the record, and the call. `beside`: also beside a GEMM, on a GPU."""
    route = ep.route_tokens(choices(s, s.rank).to(s.device), s.experts)
    if way == "dispatch":
        x, sends, receives = inputs(s, s.rank), route.sends, route.receives

        def pack() -> Any:
            return ep.pack(wire, x, route.tokens)

        def unpack(rows: Any) -> Any:
            return ep.gemm_operands(rows, s.hidden) if wire == FP8 else None

        def check() -> dict[str, float]:
            return check_dispatch(s, wire, rows)
    else:
        x, sends, receives = outputs(s, s.rank), route.receives, route.sends

        def pack() -> Any:
            return ep.pack(wire, x)

        def unpack(rows: Any) -> Any:
            return ep.add_up(wire, rows, route.places, s.hidden)

        def check() -> dict[str, float]:
            return check_combine(s, wire, route, rows, unpack(rows))

    def everything() -> Any:
        return unpack(ep.exchange(pack(), sends, receives))

    packed = pack()
    rows = ep.exchange(packed, sends, receives)
    errors, problem = {}, ""
    try:
        errors = check()
    except WrongExchange as wrong:
        problem = f"rank {s.rank}: {wrong}"
    everywhere: list[Any] = [None] * s.ranks
    dist.all_gather_object(everywhere, (errors, problem))

    def exchange() -> Any:
        return ep.exchange(packed, sends, receives)

    copied = wire != BF16 or way == "dispatch"
    parts = {
        "pack": timed(s, pack, repeats) if copied else None,
        "exchange": timed(s, exchange, repeats),
        "unpack": timed(s, lambda: unpack(rows), repeats) if wire == FP8 or way == "combine" else None,
        "all": timed(s, everything, repeats),
    }
    others = torch.tensor(float(sum(sends) - sends[s.rank]), device=s.device)
    dist.all_reduce(others)
    rows_sent, (bits, copies) = others.item() / s.ranks, counted(wire, s.hidden)
    size, modelled = rows_sent * wire.row_bytes(s.hidden), copies * s.hidden * bits / 8
    row = {
        "way": way,
        "wire": wire.name,
        "tokens": s.tokens,
        "row_bytes": wire.row_bytes(s.hidden),
        "copies": rows_sent / s.tokens,
        "bytes": size,
        "gb_per_s": round(size / parts["exchange"]["us"] / 1e3, 2),  # type: ignore[index]
        "modelled_row_bytes": s.hidden * bits / 8,
        "modelled_copies": copies,
        "bytes_over_modelled": round(size / s.tokens / modelled, 4),
        **parts,
        "wrong": "; ".join(filter(None, (text for _, text in everywhere))),
        **largest([found for found, _ in everywhere]),
    }
    if beside and s.device != "cpu":
        works = {"exchange": exchange, "all": everything}
        row["overlap"] = {name: overlap(s, work, parts[name]["us"], 10) for name, work in works.items()}  # type: ignore[index]
    return row, exchange


def link(s: Setting, repeats: int) -> dict[str, Any]:
    """Time of 256 MiB from every GPU to every other: NCCL's rate where latency does not count."""
    sends = [0 if rank == s.rank else 32768 for rank in range(s.ranks)]
    rows = torch.randint(256, (sum(sends), 8192), dtype=torch.uint8, device=s.device)

    def exchange() -> Any:
        return ep.exchange(rows, sends, sends)

    time_ = timed(s, exchange, repeats)
    return {"bytes": rows.numel(), "exchange": time_, "gb_per_s": round(rows.numel() / time_["us"] / 1e3, 2)}


# -- the record ------------------------------------------------------------------------------------------------------


def output_of(*command: str) -> str:
    """What a program prints, or why it does not run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"


def header(s: Setting, command: str) -> dict[str, Any]:
    """Where and with what a record was made."""
    gpu = s.device != "cpu"
    return {
        "schema_version": 1,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit_of("isa_model", "kernels", "benchmarks/exchange.py"),
        "command": command,
        "ranks": s.ranks,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if gpu else [],
        "driver": output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0] * gpu,
        "versions": {
            **{package: version(package) for package in ("torch", "triton", "numpy")},
            "cuda": str(torch.version.cuda),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())) if gpu else "",
        },
        "nccl_settings": {name: value for name, value in os.environ.items() if name.startswith("NCCL_")},
        "topology": output_of("nvidia-smi", "topo", "-m") * gpu,
        "nvlink": output_of("nvidia-smi", "nvlink", "--status", "-i", "0") * gpu,
        "hidden": s.hidden,
        "experts": s.experts,
        "top": s.top,
        "seed": s.seed,
        "gemm": list(GEMM),
    }


def tables(record: dict[str, Any]) -> Iterator[str]:
    """Lines of the record's tables, in Markdown."""
    gpus = f"{record['ranks']} x {(record['gpus'] or ['CPU'])[0]}"
    yield f"{gpus}, {record['date']}, commit {record['commit']}, NCCL {record['versions']['nccl']}. Hidden {record['hidden']}, "
    yield f"top {record['top']} of {record['experts']} experts. Tokens, MB and GB/s per GPU and direction; microseconds."
    if "link" in record:
        yield f"256 MiB to each other GPU: {record['link']['gb_per_s']:.0f} GB/s."
    yield ""
    rows = []
    for row in record["rows"]:
        share, times = row.get("differing_codes"), [row[part] for part in ("pack", "exchange", "unpack", "all")]
        cells = [
            *(row[name] for name in ("way", "wire", "tokens")),
            f"{row['copies']:.2f} of {row['modelled_copies']}",
            f"{row['row_bytes'] / row['modelled_row_bytes']:.3f}",
            f"{row['bytes'] / 1e6:.2f}",
            *(f"{time_['us']:.1f}" if time_ else "" for time_ in times),
            f"{row['gb_per_s']:.0f}",
            row.get("nccl_blocks", ""),
            "" if share is None else f"{share:.1e}",
            row["wrong"] or "equal",
        ]
        rows.append(cells)
    sizes, times_of = "tokens: | copies: | row: | MB:", "pack: | exchange: | unpack: | all:"
    yield markdown.table(f" | wire | {sizes} | {times_of} | GB/s: | NCCL blocks: | codes differing: | ", rows)
    yield ""
    yield f"Concurrent with an FP8 GEMM {' x '.join(map(str, record['gemm']))} on another stream:"
    yield ""
    beside = []
    for row in record["rows"]:
        for what, o in row.get("overlap", {}).items():
            line = [f"{row['way']}, {row['wire']}, {row['tokens']} tokens", what]
            for one in ("work", "gemm"):
                alone, both = o[f"{one}_alone_us"], o[f"{one}_beside_us"]
                line += [f"{alone:.1f}", f"{both:.1f} ({both / alone - 1:+.0%})"]
            beside.append(line)
    yield markdown.table(" | what | alone: | with the GEMM: | the GEMM alone: | with it:", beside)


def run(arguments: argparse.Namespace) -> int:
    """Measure as one of torchrun's processes; the first writes the record, after every row."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else None
    if device:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(minutes=2), device_id=device)
    try:
        place = dist.get_rank(), dist.get_world_size(), str(device or "cpu")
        sizes = arguments.hidden, arguments.experts, arguments.top
        settings = [Setting(*place, tokens, *sizes, seed=arguments.seed) for tokens in arguments.tokens]
        record: dict[str, Any] = {**header(settings[0], "torchrun benchmarks/exchange.py"), "rows": []}
        if gpu and settings[0].ranks > 1:
            record["link"] = link(settings[0], arguments.repeats)
        calls = []
        for s in settings:
            for way, wire in [(way, wire) for way, wires in WIRES.items() for wire in wires]:
                row, call = measure(s, way, wire, arguments.repeats, beside=s.tokens == max(arguments.tokens))
                record["rows"].append(row)
                calls.append(call)
                if s.rank == 0:
                    write_file(arguments.out, json_lines(record))
                    print(
                        f"{way} {wire.name}, {s.tokens} tokens: {row['wrong'] or 'equal'}", file=sys.stderr, flush=True
                    )
        for row, call in zip(record["rows"], calls, strict=True):
            if gpu:
                row["nccl_blocks"] = nccl_blocks(call)
        if settings[0].rank == 0:
            write_file(arguments.out, json_lines(record))
            print("\n".join(tables(record)))
        return int(any(row["wrong"] for row in record["rows"]))
    finally:
        dist.destroy_process_group()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("exchange.json"))
    parser.add_argument("--show", type=Path, help="print the tables of a record instead")
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 4096], help="on each GPU")
    for name, default in (("hidden", 7168), ("experts", 256), ("top", 8), ("repeats", 30), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    if arguments.show:
        print("\n".join(tables(json.loads(arguments.show.read_text()))))
        return 0
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
