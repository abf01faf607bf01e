"""The tables of docs/gemm.md and docs/quantise.md, from the newest records of our kernels: `python pages/kernel_tables.py`.

`codesign bench --out kernels/records/bench-GPU.json`, `python benchmarks/steps.py` and `python benchmarks/clocks.py` make such
records on a Hopper GPU; this script needs none. `python pages/kernel_tables.py kernels/records/steps-h100.json` prints the
ablations of another record.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Any

from codesign.figures.markdown import table
from isa_model.output_files import put
from kernels.bench.records import BenchRecord, BenchRow, load, read

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from steps import CASTS, STEPS, Ablation, CastAblation

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
CLOCKS_RECORD = ROOT / "kernels" / "records" / "clocks-h200.json"
STEPS_RECORD = ROOT / "kernels" / "records" / "steps-h200.json"
TENSOR_WISE, BLOCK_WISE, DEEP_GEMM = "torch-tensor-wise", "torch-block-wise", "deep_gemm"
INTERVALS = ("", "-promoted-512", "-promoted-256", "-promoted-128", "-promoted-64", "-promoted-32")
"""Suffixes of the implementations of `gemm.native`, the fewest promotions first."""


def newest() -> BenchRecord:
    """Return the newest record of our kernels. Raises LookupError without one."""
    found = next((record for record in load() if record.find("gemm.fprop", "ours")), None)
    if found is None:
        raise LookupError("no shipped record has our kernels")
    return found


def tables(record: BenchRecord) -> dict[tuple[str, str], str]:
    """Return every table of a record of the bench, by its page and the name of its markers."""
    return {
        ("gemm", "fprop"): "\n".join(fprop(record)),
        ("gemm", "backward"): "\n".join(backward(record)),
        ("gemm", "narrow"): "\n".join(narrow(record)),
        ("gemm", "experts"): "\n".join(experts(record)),
        ("gemm", "intervals"): "\n".join(intervals(record)),
        ("quantise", "casts"): "\n".join(casts(record)),
    }


def heading(record: BenchRecord, kernel: str) -> str:
    """Return where and when a kernel was measured."""
    run = record.find(kernel)[0].run or f"{record.date}, commit {record.commit}"
    return f"{record.gpu}, {run} ([record](../kernels/records/{record.name}.json))."


def us(record: BenchRecord, kernel: str, who: str, shape: dict[str, int]) -> float | None:
    """Return the median time of an implementation of a kernel at a shape, microseconds; `who` may be `twin`."""
    twin = who == "twin"
    found = record.find(kernel, who if twin else None, None if twin else who, shape)
    return next((row.timing.us for row in found if row.timing), None)


def cell(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value > 2 else f"{value:.2f}"


def named(shape: dict[str, int]) -> str:
    return ", ".join(map(str, shape.values()))


def ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a and b else None


def geomean(values: list[float | None]) -> float | None:
    known = [v for v in values if v]
    return exp(sum(map(log, known)) / len(known)) if known else None


def shapes(record: BenchRecord, kernel: str) -> list[dict[str, int]]:
    return [row.shape for row in record.find(kernel, "ours", "ours")]


def fprop(record: BenchRecord) -> Iterator[str]:
    """Yield the forward GEMMs beside peers and ceiling, microseconds, with geometric means per number of tokens."""
    yield heading(record, "gemm.fprop")
    yield ""
    rows = []
    for m in sorted({shape["m"] for shape in shapes(record, "gemm.fprop")}):
        of_peer, of_native = [], []
        for shape in [s for s in shapes(record, "gemm.fprop") if s["m"] == m]:
            bf16 = us(record, "gemm.bf16", "torch", shape)
            native = us(record, "gemm.native", TENSOR_WISE, shape)
            others = [us(record, "gemm.fprop", who, shape) for who in (BLOCK_WISE, DEEP_GEMM, "ours", "twin")]
            of_peer.append(ratio(others[1], others[2]))
            of_native.append(ratio(native, others[2]))
            rows.append([named(shape), *map(cell, (bf16, native, *others, of_peer[-1], of_native[-1]))])
        rows.append([f"**{m}, geometric mean**", *[""] * 6, cell(geomean(of_peer)), cell(geomean(of_native))])
    peers = "bf16: | native: | cuBLASLt: | DeepGEMM: | ours: | twin: | DeepGEMM / ours: | native / ours:"
    yield table(f"m, n, k | {peers}", rows)
    yield ""
    yield from beside(record)


def beside(record: BenchRecord) -> Iterator[str]:
    """Yield ratios under the power limit, ratios to the fastest native GEMM, and host times."""
    ours = [row for row in record.find("gemm.fprop", "ours") if row.timing and row.sustained]
    ratios: dict[int, list[float | None]] = {}
    for row in ours:
        for peer in record.find("gemm.fprop", None, DEEP_GEMM, row.shape):
            if peer.sustained and row.sustained:
                ratios.setdefault(row.shape["m"], []).append(peer.sustained.us / row.sustained.us)
    said = ", ".join(f"{cell(geomean(values))} at {m} tokens" for m, values in sorted(ratios.items()))
    host = sorted(row.timing.host_us for row in ours if row.timing)
    over = sum(time > 15 for time in host)
    yield f"DeepGEMM / ours, sustained under the power limit, geometric means: {said}."
    fastest = {
        m: geomean([_fastest_native(record, row) for row in ours if row.shape["m"] == m]) for m in sorted(ratios)
    }
    said = ", ".join(f"{cell(value)} at {m} tokens" for m, value in fastest.items())
    yield f"Fastest native GEMM (torch with a scale per tensor or per row, or ours) / ours: {said}."
    yield f"Host time of a call of ours with tensors that it has seen before: {host[0]:.0f} to {host[-1]:.0f} us, median"
    yield f"{median(host):.0f} us; over 15 us at {over} of {len(host)} shapes."


def _fastest_native(record: BenchRecord, row: BenchRow) -> float | None:
    who = (TENSOR_WISE, "torch-row-wise", "ours")
    times = [t for w in who if (t := us(record, "gemm.native", w, row.shape))]
    return ratio(min(times), row.timing.us) if times and row.timing else None


def backward(record: BenchRecord) -> Iterator[str]:
    """Yield dgrad and wgrad beside cuBLASLt."""
    yield heading(record, "gemm.dgrad")
    yield ""
    rows = []
    for kernel in ("gemm.dgrad", "gemm.wgrad"):
        for shape in shapes(record, kernel):
            native = us(record, "gemm.native", TENSOR_WISE, shape)
            peer, ours, anew, twin = (us(record, kernel, w, shape) for w in (BLOCK_WISE, "ours", "ours-anew", "twin"))
            times = (native, peer, ours, anew, twin, ratio(peer, anew or ours))
            rows.append([kernel[5:], named(shape), *map(cell, times)])
    yield table(" | m, n, k | native: | cuBLASLt: | ours: | overwriting: | twin: | cuBLASLt / ours:", rows)


def experts(record: BenchRecord) -> Iterator[str]:
    """Yield the grouped GEMMs in both layouts, beside DeepGEMM's where the record has them."""
    peers = bool(record.find("gemm.grouped-masked", None, DEEP_GEMM))
    yield heading(record, "gemm.grouped-masked")
    yield ""
    columns = [f"{layout}: | TFLOP/s: | twin:{' | DeepGEMM:' * peers}" for layout in ("contiguous", "masked")]
    rows = []
    for row in record.find("gemm.grouped-contiguous", "ours", "ours"):
        (masked,) = record.find("gemm.grouped-masked", "ours", shape=row.shape)
        said = []
        for r in (row, masked):
            rate = f"{r.tflops:.0f}" if r.tflops else ""
            said += [cell(us(record, r.kernel, "ours", r.shape)), rate, cell(us(record, r.kernel, "twin", r.shape))]
            said += [cell(us(record, r.kernel, DEEP_GEMM, r.shape))] * peers
        rows.append([named(row.shape), *said])
    yield table(f"groups, m, n, k | {' | '.join(columns)}", rows)


def narrow(record: BenchRecord) -> Iterator[str]:
    """Yield INT8 with group scales, and FP8 by FP4, beside ours in FP8."""
    if not record.find("gemm.int8", "ours"):
        yield "No shipped record has these kernels yet."
        return
    yield heading(record, "gemm.int8")
    yield ""
    rows = []
    for shape in shapes(record, "gemm.int8"):
        fp8 = us(record, "gemm.fprop", "ours", shape)
        int8, twin, torch = (us(record, "gemm.int8", who, shape) for who in ("ours", "twin", "torch"))
        packed = us(record, "gemm.fp4", "ours", shape)
        shown = (fp8, int8, twin, torch, packed, ratio(fp8, int8), ratio(fp8, packed))
        rows.append([named(shape), *map(cell, shown)])
    columns = "FP8: | INT8: | twin: | torch's INT8, unscaled: | FP8 x FP4: | FP8 / INT8: | FP8 / FP8 x FP4:"
    yield table(f"m, n, k | {columns}", rows)


def intervals(record: BenchRecord) -> Iterator[str]:
    """Yield the native GEMMs by promotion interval."""
    rows = [row for row in record.find("gemm.native", "ours") if row.implementation == "ours-promoted-32"]
    found = []
    for shape in [row.shape for row in rows]:
        times = [_native(record, f"ours{suffix}", shape) for suffix in INTERVALS]
        found.append([named(shape), *(f"{t:.1f} ({times[0] / t:.2f})" if t and times[0] else "" for t in times)])
    yield table("m, n, k | never: | every 512: | 256: | 128: | 64: | 32:", found)


def _native(record: BenchRecord, implementation: str, shape: dict[str, int]) -> float | None:
    return next((r.timing.us for r in record.find("gemm.native", "ours", implementation, shape) if r.timing), None)


def casts(record: BenchRecord) -> Iterator[str]:
    """Yield the casts of the two large matrices, beside the copy of the same run and their twins."""
    large = sorted({row.shape["k"] for row in record.find("quantise.both", "ours")})
    yield heading(record, "quantise.both")
    yield ""
    titles = "".join(f" | 4096 x {k}, us: | GB/s: | of copy: | twin:" for k in large)
    lines = []
    rows = [row for row in record.cases if row.kernel.startswith("quantise.") and row.variant == "ours"]
    for kernel, implementation in dict.fromkeys((r.kernel, r.implementation) for r in rows):
        said = []
        for k in large:
            found = [r for r in record.find(kernel, "ours", implementation) if r.shape == {"m": 4096, "k": k}]
            said += _cast(record, found[0]) if found else [""] * 4
        scales = ", powers of two" if implementation.endswith("power-of-2") else ""
        lines.append([f"{kernel.removeprefix('quantise.')}{scales}", *said])
    yield table(titles, lines)


def _cast(record: BenchRecord, row: BenchRow) -> list[str]:
    assert row.timing
    copy = record.bounds(row)["copy"] / row.timing.us
    share = f"{copy:.2f}" if copy >= 0.85 else f"**{copy:.2f}**"
    return [f"{row.timing.us:.1f}", f"{row.gbps:.0f}", share, cell(us(record, row.kernel, "twin", row.shape))]


def steps(record: BenchRecord, ablations: Sequence[Ablation | CastAblation]) -> str:
    """Return a table with a line per ablation and shape: time without and with the optimisation, and the gain."""
    lines = []
    for step in ablations:
        cast = isinstance(step, CastAblation)
        for row in record.find(implementation=step.name):
            if row.kernel.startswith("quantise.") != cast:
                continue
            (ours,) = record.find(row.kernel, implementation="ours", shape=row.shape)
            if row.timing and ours.timing:
                at = f"{row.kernel.split('.')[1]} " * cast + " x ".join(map(str, row.shape.values()))
                before, after = row.timing.us, ours.timing.us
                figures = (f"{before:.1f}", f"{after:.1f}", f"{before / after - 1:+.1%}")
                lines.append((step.description, at, *figures))
    return (
        f"{record.gpu}, {record.date}, commit {record.commit} ([record](../kernels/records/{record.name}.json)).\n\n"
        + table("optimisation | at | without: | with: | gain:", lines)
    )


def step_tables(path: Path = STEPS_RECORD) -> dict[tuple[str, str], str]:
    """Return the tables of a record of ablations, by page and the name of their markers."""
    record = read(path)
    return {("gemm", "steps"): steps(record, STEPS), ("quantise", "steps"): steps(record, CASTS)}


def clocks(record: dict[str, Any]) -> str:
    """Return a table with a line per shape and GEMM: time, clocks and rate of the clock, for random operands and for zeros."""
    found = {(tuple(row["shape"]), row["gemm"], row["operands"]): row for row in record["rows"]}
    lines = []
    for shape, gemm in dict.fromkeys((shape, gemm) for shape, gemm, _ in found):
        said = []
        for operands in ("random", "zeros"):
            row, native = found[shape, gemm, operands], found[shape, "native", operands]
            said += [
                f"{row['us']:.1f}",
                f"{row['clocks'] / 1000:.1f}",
                f"{row['mhz']:.0f}",
                f"{native['us'] / row['us']:.3f}",
            ]
        lines.append((", ".join(map(str, shape)), gemm, *said))
    titles = (
        "m, n, k | GEMM | us: | 1000 clocks: | MHz: | native / it: | zeros, us: | 1000 clocks: | MHz: | native / it:"
    )
    where = f"{record['gpu']}, {record['date']}, commit {record['commit']}"
    return f"{where} ([record](../kernels/records/{record['name']}.json)).\n\n" + table(titles, lines)


def clock_tables(path: Path = CLOCKS_RECORD) -> dict[tuple[str, str], str]:
    """Return the table of a record of clocks, by page and the name of its markers."""
    return {("gemm", "clocks"): clocks(json.loads(path.read_text()))}


def main() -> None:
    """Write the tables into the pages, or print those of another record of ablations."""
    if sys.argv[1:]:
        print("\n\n".join(step_tables(Path(sys.argv[1])).values()))
        return
    for (page, name), text in (tables(newest()) | step_tables() | clock_tables()).items():
        put(DOCS / f"{page}.md", name, text)
        print(text, end="\n\n")


if __name__ == "__main__":
    main()
