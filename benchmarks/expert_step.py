"""The forward step of a layer's routed experts on the GPUs of a node, measured beside the model of `codesign step`:

    torchrun --nproc-per-node 4 benchmarks/expert_step.py --out expert-step.json
    python benchmarks/expert_step.py --show expert-step.json      # its table, without a GPU

Tokens go to the GPUs of their experts in FP8 and come back in BF16 (`kernels.exchange`); the experts have DeepSeek-V3's sizes
and run in `kernels.gemm` and `kernels.quantise`. Each operation is timed by itself, then all in a row, then the computation of
one batch beside the communication of another, as DualPipe has it, but with GEMMs that leave NCCL no SM. A time is the
median of the slowest GPU's, L2 cleared and the GPUs brought together before each repetition.

`modelled` is the same operation in `codesign step`: GEMMs and SwiGLU by the timing model, dispatch and combine by
the newest exchange record of as many GPUs, at the bytes that are sent here. What `codesign step` leaves out has no
time there: the arrangement of rows by expert, and the sums over a GPU's own experts and over GPUs.

The result of a sample of tokens is compared with a float64 reference without FP8; an error over `WRONG` makes the exit code 1.
Ids and weights of choices are not sent: every rank makes the others' from their seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from exchange import events, header, slowest, timed, together
from exchange_check import Setting, choices, going, inputs, sample

from codesign.evidence.timing.amdahl import today
from codesign.evidence.timing.layer_step import LayerStep, Transfer
from codesign.evidence.timing.network import Link, measured
from codesign.evidence.timing.times import timer
from codesign.figures import markdown
from codesign.workloads.gemms import models
from isa_model.output_files import json_lines, write_file
from kernels import exchange as ep
from kernels.exchange import BF16, FP8

INNER = 2048
"""Features inside a routed expert of DeepSeek-V3 (technical report, 4.2)."""
WRONG = 0.1
"""Relative Frobenius error against the reference. FP8's casts of operands give 0.064."""
PAIRS = 8
"""Repetitions of computation and communication side by side in one timing."""
NETWORK = ("dispatch", "combine")
SLEEP = 20_000_000
"""Clock cycles that the GPU waits while the host enqueues them: 10 ms."""

Work = Callable[[], Any]


@dataclass(frozen=True)
class Arrangement:
    """How the rows that a rank receives are arranged for its experts' GEMMs. Tensors are on the CPU."""

    order: Any
    """Received row of each row of the GEMMs, by expert; padded to a multiple of 4."""
    weights: Any
    """Weight of each row of the GEMMs, FP32, padded alike."""
    counts: Any
    """Rows of each expert."""
    back: Any
    """Rows of the GEMMs that belong to each received row, int32 (received, top); -1 where there are fewer."""


def weights_of(s: Setting, rank: int) -> Any:
    """Return the weights of each token's choices on a rank, which sum to 1, FP32 (tokens, top)."""
    generator = torch.Generator().manual_seed(s.seed * 1000 + rank + 500)
    return torch.rand((s.tokens, s.top), generator=generator).softmax(1)


def expert_weights(s: Setting, expert: int) -> tuple[Any, Any]:
    """Return the BF16 weights of an expert: gate and up (4096, hidden), down (hidden, 2048)."""
    generator = torch.Generator(s.device).manual_seed(s.seed * 1000 + expert + 700)

    def normal(n: int, k: int) -> Any:
        return (torch.randn((n, k), generator=generator, device=s.device) / k**0.5).to(torch.bfloat16)

    return normal(2 * INNER, s.hidden), normal(s.hidden, INNER)


def arranged(s: Setting) -> Arrangement:
    """Return the arrangement of what this rank receives, by rank and then by token."""
    here = s.experts // s.ranks
    comes = [going(s, rank)[:, s.rank].cpu() for rank in range(s.ranks)]
    local = torch.cat([choices(s, rank)[comes[rank]] for rank in range(s.ranks)]) - s.rank * here
    weight = torch.cat([weights_of(s, rank)[comes[rank]] for rank in range(s.ranks)])
    mine = (local >= 0) & (local < here)
    received, place = mine.nonzero(as_tuple=True)
    by_expert = torch.sort(local[mine], stable=True).indices
    back = torch.full(local.shape, -1, dtype=torch.int32)
    back[received[by_expert], place[by_expert]] = torch.arange(len(by_expert), dtype=torch.int32)
    order, weights = (torch.nn.functional.pad(x[by_expert], (0, -len(by_expert) % 4)) for x in (received, weight[mine]))
    return Arrangement(order, weights, torch.bincount(local[mine], minlength=here), back)


# -- the operations --------------------------------------------------------------------------------------------------


def operations(s: Setting) -> tuple[dict[str, Work], Any]:
    """Return the operations by name, each on the results of those before it, and the layer's output."""
    from kernels.gemm import grouped
    from kernels.quantise import blocks, swiglu

    here, at = s.experts // s.ranks, arranged(s)
    order, weights, back = (x.to(s.device) for x in (at.order, at.weights, at.back))
    starts, counts = (x.to(s.device, torch.int32) for x in (at.counts.cumsum(0) - at.counts, at.counts))
    pairs = [expert_weights(s, s.rank * here + expert) for expert in range(here)]
    up, down = ([torch.stack(same) for same in zip(*(blocks(pair[i]) for pair in pairs), strict=True)] for i in (0, 1))
    x, route = inputs(s, s.rank), ep.route_tokens(choices(s, s.rank).to(s.device), s.experts)
    h, y = (torch.empty((len(order), n), dtype=torch.bfloat16, device=s.device) for n in (2 * INNER, s.hidden))
    held: dict[str, Any] = {}

    def keep(name: str, value: Any) -> Any:
        held[name] = value
        return value

    def arrange() -> Any:
        codes, scales = ep.gemm_operands(held["rows"], s.hidden)
        picked = codes.view(torch.uint8).index_select(0, order).view(torch.float8_e4m3fn)
        return keep("a", (picked, scales.index_select(1, order)))

    def multiply(a: str, b: Any, out: Any) -> Any:
        return grouped(held[a][0], b[0], held[a][1], b[1], starts, counts, out)

    def activate() -> Any:
        codes, scales = swiglu(h[:, :INNER], h[:, INNER:])
        return keep("z", (codes, scales.mul_(weights)))  # down is linear: its rows come out weighted

    works: dict[str, Work] = {
        "pack": lambda: keep("packed", ep.pack(FP8, x, route.tokens)),
        "dispatch": lambda: keep("rows", ep.exchange(held["packed"], route.sends, route.receives)),
        "arrange": arrange,
        "GEMM, gate-up": lambda: multiply("a", up, h),
        "SwiGLU": activate,
        "GEMM, down": lambda: multiply("z", down, y),
        "add experts": lambda: keep("sums", ep.add_up(BF16, y.view(torch.uint8), back, s.hidden)),
        "combine": lambda: keep("back", ep.exchange(ep.pack(BF16, held["sums"]), route.receives, route.sends)),
        "add GPUs": lambda: ep.add_up(BF16, held["back"], route.places, s.hidden),
    }
    for work in works.values():
        result = work()
    return works, result


def error(s: Setting, result: Any) -> float:
    """Return the relative Frobenius error of a sample of tokens against float64 without FP8."""
    chosen = sample(s.tokens).to(s.device)
    x = inputs(s, s.rank)[chosen].double()
    ids, weights = choices(s, s.rank).to(s.device)[chosen], weights_of(s, s.rank).to(s.device)[chosen].double()
    wanted = torch.zeros_like(x)
    for expert in range(s.experts):
        up, down = (w.double() for w in expert_weights(s, expert))
        gate, linear = (x @ up.T).chunk(2, dim=1)
        y = (torch.nn.functional.silu(gate) * linear) @ down.T
        wanted += y * (weights * (ids == expert)).sum(1, keepdim=True)
    return float((result[chosen].double() - wanted).norm() / wanted.norm())


def side_by_side(s: Setting, computation: list[Work], network: list[Work], repeats: int) -> float:
    """Microseconds of one computation beside one communication, both repeated on streams of their own."""
    side = torch.cuda.Stream(priority=-1)

    def run() -> float:
        together(s.device, SLEEP)
        start, end, sent = events(3)
        start.record()
        side.wait_event(start)
        for _ in range(PAIRS):
            with torch.cuda.stream(side):
                for work in network:
                    work()
            for work in computation:
                work()
        with torch.cuda.stream(side):
            sent.record()
        torch.cuda.current_stream().wait_event(sent)
        end.record()
        end.synchronize()
        return 1000 * start.elapsed_time(end) / PAIRS

    return float(np.median(slowest(s, [run() for _ in range(2 + repeats)])[2:]))


# -- the model -------------------------------------------------------------------------------------------------------


def modelled(record: dict[str, Any], link: Link) -> tuple[dict[str, float], LayerStep]:
    """Return the microseconds of each operation of `codesign step` on this step's sizes, and the step of them."""
    model = models()["deepseek-v3"]
    assert model.experts
    counts = replace(
        model.experts, experts=record["experts"], active=record["top"], parallel=record["ranks"], nodes=1, shared=0
    )
    whole = today(timer(record["gpus"][0]), replace(model, tokens=record["tokens"], experts=counts))
    found = dict.fromkeys(("GEMM, gate-up", "SwiGLU", "GEMM, down"), 0.0)
    works = []
    for work in whole.work:
        gemm = work.kind == "GEMMs, fprop" and work.of.removeprefix("fprop.")
        name = f"GEMM, {gemm}" if gemm in ("gate-up", "down") else ""
        if (work.name, work.of) == ("SwiGLU", "fprop") or (work.of == "fprop.down" and not gemm):
            name = "SwiGLU"
        if name:
            found[name] += work.us
            works.append(work)
    sent = {name: link.us(record["bytes"][name]) for name in NETWORK}
    step = LayerStep(tuple(works), tuple(Transfer(name, "fprop", us, True) for name, us in sent.items()), hidden=True)
    return {**found, **sent}, step


def table(record: dict[str, Any]) -> Iterator[str]:
    """Lines of the record's table, in Markdown."""
    link = measured(record["ranks"])
    found, step = modelled(record, link)
    yield f"{record['ranks']} x {record['gpus'][0]}, {record['date']}, commit {record['commit']}. {record['tokens']} tokens"
    yield f"per GPU, {record['experts']} experts, {record['top']} per token; error against float64 {record['error']:.3f}."
    yield f"Network as measured on {link.source}. Microseconds."
    yield ""
    us = {name: timing["us"] for name, timing in record["operations"].items()}
    both, computation = record["side_by_side_us"], record["computation"]["us"]
    rows: list[tuple[str, float, float | None]] = [
        *((name, time, found.get(name)) for name, time in us.items()),
        ("sum of the modelled operations", fsum(us[name] for name in found), fsum(found.values())),
        ("all, in sequence", record["in_a_row"]["us"], None),
        ("all but the network, in sequence", computation, None),
        ("computation of one batch during the network of another", both, None),
        ("added by the network", both - computation, step.total() - fsum(work.us for work in step.work)),
    ]
    yield markdown.table(
        "operation | measured: | modelled: | modelled over measured:",
        (
            (name, f"{us:.0f}", *(("", "") if model is None else (f"{model:.0f}", f"{model / us:.2f}")))
            for name, us, model in rows
        ),
    )


# -- the record ------------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> int:
    """Measure as one of torchrun's processes; the first writes the record."""
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", timeout=timedelta(minutes=2), device_id=device)
    try:
        ranks = dist.get_world_size()
        experts = arguments.experts or 4 * ranks
        s = Setting(dist.get_rank(), ranks, str(device), arguments.tokens, experts=experts, top=8)
        works, result = operations(s)
        wrong = float(slowest(s, [error(s, result)])[0])
        computation = [work for name, work in works.items() if name not in NETWORK]
        route = ep.route_tokens(choices(s, s.rank).to(device), experts)
        ways = dict(zip(NETWORK, ((FP8, route.sends), (BF16, route.receives)), strict=True))
        sent = {n: (sum(rows) - rows[s.rank]) * wire.row_bytes(s.hidden) for n, (wire, rows) in ways.items()}
        total = torch.tensor(list(sent.values()), dtype=torch.float64, device=device)
        dist.all_reduce(total)

        def all_of(some: list[Work]) -> Work:
            return lambda: [work() for work in some]

        record = {
            **header(s, "torchrun benchmarks/expert_step.py"),
            "tokens": s.tokens,
            "error": round(wrong, 5),
            "bytes": dict(zip(NETWORK, (total / ranks).tolist(), strict=True)),
            "operations": {name: timed(s, work, arguments.repeats) for name, work in works.items()},
            "in_a_row": timed(s, all_of(list(works.values())), arguments.repeats),
            "computation": timed(s, all_of(computation), arguments.repeats),
            "side_by_side_us": round(side_by_side(s, computation, [works[name] for name in NETWORK], 5), 2),
        }
        if s.rank == 0:
            write_file(arguments.out, json_lines(record))
            print("\n".join(table(record)))
        return int(not wrong <= WRONG)
    finally:
        dist.destroy_process_group()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("expert-step.json"))
    parser.add_argument("--show", type=Path, help="print the table of a record instead")
    parser.add_argument("--tokens", type=int, default=4096, help="on each GPU")
    parser.add_argument("--experts", type=int, help="of all GPUs; default: four a GPU, as DeepSeek-V3 has on 64")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.show:
        print("\n".join(table(json.loads(arguments.show.read_text()))))
        return 0
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
