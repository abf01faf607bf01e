"""Training experiments (a) to (g) on one Hopper GPU, 480 seconds per call: `python benchmarks/training.py RECORD.json`.

First the bits are checked: the chip against the model in a training step, CUDA graphs against launches. Without `--steps`, a
few steps of each arm of (a) to (e) are then timed, and as many steps are chosen as let all arms fit the budget with two seeds.
Arms that the chip computes run first, then those that the model computes, quickest first, with both seeds of an arm together,
since one seed is no evidence. The remaining time goes to further seeds, and then to the other experiments. Every run is
recorded when it ends, and another call makes the missing runs. An arm that fails is left out with its reason.

`--part 1/4` makes a quarter of the runs; one process a GPU, each with its part, fill one record at the same time:

    for i in 0 1 2 3; do CUDA_VISIBLE_DEVICES=$i python benchmarks/training.py RECORD.json --steps 300 --part $i/4 & done

`--size tiny --tokens 512 --budget 60` tries the script without a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from codesign.evidence.training.experiments import HEAD, REFERENCE, arms, experiments, find, run, summary
from codesign.evidence.training.records import TrainingRecord, read
from codesign.evidence.training.size import Size, find_size

CORE = ("framework", "accumulation", "blocks", "scales", "bits")
"""Experiments (a), (b), (c), (e) and (d)."""
FEWEST_STEPS = 100
"""Fewest steps of a run."""
TIMED = 4
"""Timed steps of a probe, after two untimed ones."""


def main() -> None:
    """Run the experiments within the budget and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--size", default="10m")
    parser.add_argument("--steps", type=int, help="number of steps; default: as many as fit")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--seeds", default="0,1,2", help="at least two; further ones run last")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for all runs")
    parser.add_argument("--experiments", default=",".join(CORE), help="experiments that are made first")
    parser.add_argument("--part", type=part_of, default="0/1", help="I/N: every N-th run from the I-th on")
    parser.add_argument(
        "--without", default="", help="arms to leave out, or `check` to skip the bits; separated by commas"
    )
    arguments = parser.parse_args()
    changes = {k: v for k in ("steps", "tokens") if (v := getattr(arguments, k)) is not None}
    size = Size.model_validate({**find_size(arguments.size).model_dump(), **changes})
    bench = BudgetedRuns(arguments.record, arguments.size, size, arguments.budget, arguments.without.split(","))
    core = arms_of(arguments.experiments.split(","))
    part, parts = arguments.part
    if arguments.record.exists():
        bench.size = read(arguments.record).model
    bench.check()
    chosen = [int(s) for s in arguments.seeds.split(",")]
    first, further = chosen[:2], chosen[2:]
    if not arguments.record.exists() and arguments.steps is None:
        bench.probe(core)
        bench.choose_steps(core, len(first))
    native, emulated = bench.by_engine(core)
    plan = [(arm, seed) for seed in first for arm in native]
    plan += [(arm, seed) for arm in emulated for seed in first]
    plan += [(arm, seed) for seed in further for arm in core]
    plan += [(arm, seed) for arm in arms_of(experiments()) for seed in chosen]
    mine = sorted(set(plan))[part::parts]
    for arm, seed in dict.fromkeys(plan):
        if (arm, seed) in mine:
            bench.run(arm, seed)
    bench.report()


def part_of(text: str) -> tuple[int, int]:
    """Return I and N of `I/N`. Raises ArgumentTypeError unless I is from 0 up and below N."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise argparse.ArgumentTypeError(f"`{text}` is not I/N with I from 0 to N - 1, such as 0/4")
    return int(part), int(parts)


def arms_of(names: Sequence[str]) -> list[str]:
    """Return the arms of experiments in order, without repetition."""
    return list(dict.fromkeys(arm for name in names for arm in find(name).arms))


class BudgetedRuns:
    """Runs of one record within a budget of seconds."""

    def __init__(self, path: Path, size_name: str, size: Size, budget: float, without: list[str]) -> None:
        self.path, self.size_name, self.size, self.budget = path, size_name, size, budget
        self.without = [name for name in without if name]
        self.begun = time.monotonic()
        self.graphs = True
        self.overhead: dict[str, float] = {}
        """Seconds of an arm's run outside its steps, by arm."""
        self.seconds: dict[str, float] = {}
        """Seconds per step, by arm."""
        self.engine: dict[str, str] = {}
        """Engine of the GEMMs, by arm."""

    @property
    def left(self) -> float:
        """Remaining seconds."""
        return self.budget - (time.monotonic() - self.begun)

    # -- steps that can fail----------------------------------------------------------------------------------------------

    def failed(self, what: str) -> None:
        """Print the reason and leave `what` out. After a GPU fault, replace this process by one that continues the record."""
        print(f"FAILED {what}", flush=True)
        traceback.print_exc()
        self.without.append(what)
        if lost_gpu():
            options = ["--without", ",".join(self.without), "--budget", str(max(self.left, 1.0))]
            print(f"this process has lost the GPU; a new one continues: {options}", flush=True)
            sys.stderr.flush()
            os.execv(sys.executable, [sys.executable, *sys.argv, *options])

    def check(self) -> None:
        """Compare the bits of engines and of graphs on a GPU."""
        import torch

        if not torch.cuda.is_available() or "check" in self.without:
            return
        try:
            compare_engines(self.size.model_copy(update={"steps": 4}))
            self.graphs = compare_graphs()
        except Exception:
            self.failed("check")

    def probe(self, names: Sequence[str]) -> None:
        """Time a few steps of each arm."""
        for arm in names:
            if arm not in self.without and arm not in self.seconds:
                try:
                    self.engine[arm], self.overhead[arm], self.seconds[arm] = timed(arm, self.size, self.graphs)
                except Exception:
                    self.failed(arm)
                    continue
                rate = self.seconds.get(REFERENCE, 0.0) / self.seconds[arm]
                print(
                    f"probe {arm}: {1000 * self.seconds[arm]:.1f} ms per step, {rate:.2f} of BF16's speed, engine "
                    f"{self.engine[arm]}, {self.overhead[arm]:.1f} s outside steps; {self.left:.0f} s left",
                    flush=True,
                )

    def choose_steps(self, names: Sequence[str], seeds: int) -> None:
        """Choose the most steps with which every arm and seed fits the budget."""
        known = [arm for arm in names if arm in self.seconds]
        free = 0.95 * self.left - seeds * sum(self.overhead[arm] for arm in known)
        fit = int(free / (seeds * sum(self.seconds[arm] for arm in known))) // 10 * 10
        steps = min(max(fit, FEWEST_STEPS), self.size.steps)
        self.size = self.size.model_copy(update={"steps": steps})
        tokens = steps * self.size.tokens
        print(
            f"{fit} steps fit with {seeds} seeds of {len(known)} arms: {steps} steps, {tokens:.3g} tokens", flush=True
        )

    def by_engine(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the arms that the model was found to compute, quickest first, behind all others, in order."""
        emulated = sorted((a for a in names if self.engine.get(a) == "model"), key=lambda a: self.seconds[a])
        return [arm for arm in names if arm not in emulated], emulated

    def run(self, arm: str, seed: int) -> None:
        """Make a run unless the record has it or it would exceed the budget."""
        done = read(self.path).find(arm) if self.path.exists() else []
        if arm in self.without or any(r.seed == seed for r in done) or self.left < 10:
            return
        self.probe([arm])
        if arm not in self.seconds:
            return
        needed = self.overhead[arm] + self.size.steps * self.seconds[arm]
        if needed > self.left:
            print(f"not started: {arm} seed {seed} needs {needed:.0f} s, {self.left:.0f} s are left", flush=True)
            return
        begun = time.monotonic()
        try:
            record = run([arm], self.size_name, self.size, [seed], self.path, graphs=self.graphs)
        except Exception:
            self.failed(arm)
            return
        took = time.monotonic() - begun
        made = next(r for r in record.runs if (r.arm, r.seed) == (arm, seed))
        self.overhead[arm] = took - self.size.steps * self.size.tokens / made.tokens_per_second
        loss = "diverged" if made.tail is None else f"loss {made.tail:.4f}"
        speed = f"{made.tokens_per_second:.3g} tokens/s, {'replayed' if made.replayed else 'launched'}"
        print(f"{arm} seed {seed}: {loss}, {speed}; {took:.0f} s, {self.left:.0f} s left", flush=True)

    def report(self) -> None:
        """Print the tables of all experiments."""
        if not self.path.exists():
            print("no run was made")
            return
        record: TrainingRecord = read(self.path)
        for name, e in experiments().items():
            print(f"\n{name}: {e.question}\n{HEAD}")
            for row in summary(record, e.arms):
                print(" | ".join(row))
        without = f", without {', '.join(self.without)}" if self.without else ""
        print(f"\n{len(record.runs)} runs, {time.monotonic() - self.begun:.0f} s{without}")


def lost_gpu() -> bool:
    """Return whether CUDA refuses all further work of this process."""
    import torch

    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except Exception:
        return True
    return False


def timed(arm: str, size: Size, graphs: bool) -> tuple[str, float, float]:
    """Return the engine of an arm's GEMMs, the estimated seconds of a run outside its steps, and the seconds per step."""
    import torch

    from codesign.evidence.training.loop import Trainer, TrainingJob

    wait = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    gc.collect()
    begun = time.monotonic()
    size = size.model_copy(update={"steps": 2 + TIMED})
    trainer = Trainer(TrainingJob(arm, arms()[arm].resolved(), size, 0, arms()[arm].nudge, graphs=graphs))
    for _ in range(2):
        trainer.advance()
    wait()
    ready = time.monotonic()
    for _ in range(TIMED):
        trainer.advance()
    wait()
    # Validation and drift take about eight steps of single launches; there are four before the first step.
    return trainer.engines[0], 2.5 * (ready - begun), (time.monotonic() - ready) / TIMED


def compare_engines(size: Size) -> None:
    """Compare the chip with the model on every GEMM of a step and print the counts."""
    import torch

    from codesign.evidence.training.loop import Trainer, TrainingJob
    from codesign.torch import arithmetic, engines

    counts = {}

    def both(gemm, a, b, engine):  # type: ignore[no-untyped-def]
        d = engines.multiply(gemm, a, b, engine)
        if engine == "native":
            same = torch.equal(d.view(torch.int32), engines.multiply(gemm, a, b, "model").view(torch.int32))
            counts[arm][not same] += 1
        return d

    arithmetic.multiply = both
    try:
        for arm in ("tensor-unpromoted", "tensor-promoted", "framework"):
            counts[arm] = [0, 0]
            Trainer(TrainingJob(arm, arms()[arm].resolved(), size, 0, graphs=False)).advance()
            print(
                f"{arm}: GEMMs of a step that equal the model bit for bit, and that differ: {counts[arm]}", flush=True
            )
    finally:
        arithmetic.multiply = engines.multiply


def compare_graphs() -> bool:
    """Return whether steps replayed as graphs give the losses of launched steps."""
    from codesign.evidence.training.loop import TrainingJob, train

    size = find_size("tiny").model_copy(update={"steps": 4})
    same = True
    for arm in ("framework", "bits-13"):
        job = TrainingJob(arm, arms()[arm].resolved(), size, 0)
        replayed, launched = train(job), train(dataclasses.replace(job, graphs=False))
        assert replayed is not None
        assert launched is not None
        equal = replayed.curve == launched.curve
        print(f"{arm}: steps replayed {replayed.replayed}, losses equal those of launched steps: {equal}", flush=True)
        same = same and equal
    return same


if __name__ == "__main__":
    main()
