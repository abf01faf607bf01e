"""Captures tensors of a training run for workloads: tiles of routed experts' Linears at several steps.

    python -m capture.training_run 10m proxy-10m.safetensors down-start down-middle down-end down-end-random
    python -m capture.training_run 100m-wide proxy-100m.safetensors down-end down-end-random gate-up-end

A tile's name gives the Linear (`down`, whose input is SwiGLU's output, or `gate-up`, whose input is the normalised residual
stream), the time (before the first step, half way, before the last step) and the rule by which it was chosen: where outliers
are, or `-random`. Inputs, weights and output gradients are those of the next step's micro-batch, computed in BF16 without
affecting the run. An expert's tokens are those that were sent to it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capture.tiles import RULES, Cut, Rule, cut, write_tiles
from codesign.commit import commit
from codesign.evidence.training.experiments import empty_record
from codesign.evidence.training.loop import Trainer, TrainingJob
from codesign.evidence.training.model import Transformer
from codesign.evidence.training.size import Size, find_size
from codesign.evidence.training.text import batch, text
from codesign.proposal.recipe import load_recipe
from codesign.torch.arithmetic import Arithmetic
from isa_model.cast import Cast
from isa_model.diagnostics import InputError

CUT = Cut(channels=32)
TIMES = ("start", "middle", "end")
LINEARS = ("down", "gate-up")


@dataclass(frozen=True)
class _Listening(Arithmetic):
    """Arithmetic that keeps output gradients and inputs of chosen weights, by the weight's address."""

    heard: dict[int, list[Tensor]] = field(default_factory=dict)

    def dgrad(self, dy: Tensor, weight: Tensor, taken: Cast | None = None) -> Tensor:
        self.heard.get(weight.data_ptr(), []).append(dy)
        return super().dgrad(dy, weight, taken)

    def wgrad(self, dy: Tensor, x: Tensor, power_of_two: bool = False) -> Tensor:
        for kept in self.heard.values():
            if len(kept) == 1 and kept[0].data_ptr() == dy.data_ptr():
                kept.append(x)
        return super().wgrad(dy, x, power_of_two)


@dataclass(frozen=True)
class _Expert:
    """A routed expert's Linear in one step, with the tensors of the tokens that were sent to it."""

    layer: int
    expert: int
    x: Tensor
    w: Tensor
    g: Tensor

    @property
    def peak(self) -> float:
        """Largest magnitude of the input over its root mean square."""
        x = self.x.float()
        return (x.abs().max() / x.square().mean().sqrt()).item()

    @property
    def arrays(self) -> tuple[Any, Any, Any]:
        """Input, weight and output gradient, rounded to BF16, as float32 arrays."""
        x, w, g = (t.detach().to(torch.bfloat16).float().cpu().numpy() for t in (self.x, self.w, self.g))
        return x, w, g


def capture(job: TrainingJob, size_name: str, path: Path, names: Sequence[str]) -> None:
    """Train, and write the named tiles to a .safetensors file. Raises InputError if a name is not one of a tile."""
    wanted = {name: _parsed(name) for name in names}
    trainer = Trainer(job)
    last = job.size.steps - 1
    tiles: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    began = time.monotonic()
    for when, step in zip(TIMES, (0, last // 2, last), strict=True):
        here = {name: (linear, rule) for name, (linear, at, rule) in wanted.items() if at == when}
        while here and trainer.step < step:
            trainer.advance()
            if trainer.looked and trainer.step % 100 == 0:
                print(f"step {trainer.step}, loss {trainer.smooth:.3f}, {time.monotonic() - began:.0f} s", flush=True)
        if not here:
            continue
        loss, experts = _experts(trainer, CUT.along)
        rng = np.random.default_rng(0)
        for name, (linear, rule) in here.items():
            at = _chosen(experts[linear], rule, rng)
            taken, places = cut(name, rule, *at.arrays, rng, CUT)
            tiles |= taken
            facts = {"layer": at.layer, "expert": at.expert, "its tokens": len(at.x)}
            peak = {"activation max/rms": round(at.peak, 1)}
            chosen[name] = {"step": step, "loss": round(loss, 4)} | facts | peak | {"rule": rule} | places
            print(name, chosen[name], flush=True)
    write_tiles(path, tiles, _about(trainer, size_name, chosen))


def _parsed(name: str) -> tuple[str, str, Rule]:
    """Return the Linear, time and rule of a tile's name."""
    rule: Rule = "random" if name.endswith("-random") else "outliers"
    linear, _, when = name.removesuffix("-random").rpartition("-")
    if linear not in LINEARS or when not in TIMES:
        raise InputError.of(f"no tile is called `{name}`", "down-end, gate-up-start, down-middle-random, ...")
    return linear, when, rule


def _experts(trainer: Trainer, along: int) -> tuple[float, dict[str, list[_Expert]]]:
    """Return the loss of the next micro-batch, and the Linears of its routed experts that have enough tokens.

    Enough are `along` tokens, or those of the fullest expert if it has fewer.
    """
    job = trainer.job
    arithmetic = _Listening(load_recipe("bf16"), job.engine)
    model = Transformer(job.size, arithmetic, job.seed).to(trainer.device)
    model.load_state_dict(trainer.model.state_dict())
    weights = {"down": [r.down for r in model.routers], "gate-up": [r.up for r in model.routers]}
    arithmetic.heard.update({w.data_ptr(): [] for ws in weights.values() for w in ws})
    drawn = batch(text().train, trainer.tokens.shape[0], job.size.length, job.seed, trainer.step, 0)
    loss = model(torch.from_numpy(drawn).to(trainer.device))
    loss.backward()
    found: dict[str, list[_Expert]] = {}
    for linear, ws in weights.items():
        # Slots are filled in order; empty ones are zero.
        heard = [arithmetic.heard[w.data_ptr()] for w in ws]
        counts = [(x != 0).any(-1).sum(-1).tolist() for _, x in heard]
        enough = min(along, max(max(each) for each in counts))
        found[linear] = [
            _Expert(layer, expert, x[expert, :count], ws[layer][expert], g[expert, :count])
            for layer, ((g, x), each) in enumerate(zip(heard, counts, strict=True))
            for expert, count in enumerate(each)
            if count >= enough
        ]
    return loss.item(), found


def _chosen(experts: list[_Expert], rule: Rule, rng: np.random.Generator) -> _Expert:
    """Return the expert with the largest peak, or a random one."""
    return max(experts, key=lambda e: e.peak) if rule == "outliers" else experts[int(rng.integers(len(experts)))]


def _about(trainer: Trainer, size_name: str, chosen: dict[str, Any]) -> dict[str, str]:
    """Return the metadata of the file of tiles."""
    job = trainer.job
    record = empty_record(size_name, job.size, 1)
    where = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    losses = dict.fromkeys(f"{about['loss']} before step {about['step'] + 1}" for about in chosen.values())
    return {
        "model": f"codesign's own mixture of experts, size {size_name}, trained by recipe {job.recipe.recipe}",
        "package": f"codesign, commit {commit('capture') or 'unknown'}",
        "licence": "Apache-2.0 (weights, made here), PSF-2.0 (text)",
        "weights": "FP32 as trained, rounded to BF16",
        "weights_sha256": hashlib.sha256(trainer.optimizer.master.cpu().numpy().tobytes()).hexdigest(),
        "loss": f"mean next-byte cross-entropy over a micro-batch, nats: {', '.join(losses)}",
        "text": f"{record.text_bytes} bytes of the standard library's sources, Python {record.versions['python']}",
        "text_sha256": record.text_sha256,
        "recipe": job.recipe.model_dump_json(exclude_defaults=True),
        "recipe_sha256": job.recipe.sha256,
        "size": job.size.model_dump_json(),
        "seed": str(job.seed),
        "engines": "/".join(dict.fromkeys(trainer.engines)),
        "machine": record.machine,
        "versions": where,
        "arithmetic": "at the run's weights, the micro-batch it trains on next, forward and backward in BF16 with FP32 sums; "
        "tiles rounded to BF16, nearest even",
        "choice": "routed experts with enough tokens; rule outliers: the expert with the largest max/rms of its input, "
        f"{RULES['outliers']}; rule random: an expert and {RULES['random']}",
        "tiles": json.dumps(chosen),
        "script": f"python -m capture.training_run {size_name} FILE.safetensors {' '.join(chosen)} "
        f"--steps {job.size.steps}",
    }


def _steps_within(job: TrainingJob, seconds: float) -> int:
    """Return the steps, a multiple of 10 and at most the size's, that a run can make in a number of seconds."""
    trainer = Trainer(job)
    taken = []
    for _ in range(20):
        begun = time.monotonic()
        trainer.advance()
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.monotonic() - begun)
    step = sorted(taken)[len(taken) // 2]
    print(f"{1000 * step:.1f} ms per step, {'replayed' if trainer.graphs else 'launched'}", flush=True)
    return min(max(int(seconds / step) // 10 * 10, 10), job.size.steps)


def main() -> None:
    """Train a size in BF16 with seed 0, and capture tiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", help="a name of sizes.yaml")
    parser.add_argument("file", type=Path)
    parser.add_argument("tiles", nargs="+")
    parser.add_argument("--steps", type=int, help="instead of the size's own")
    parser.add_argument("--seconds", type=float, help="fewer steps where the size's own would take longer")
    arguments = parser.parse_args()
    size = find_size(arguments.size)
    if arguments.steps is not None:
        size = Size.model_validate({**size.model_dump(), "steps": arguments.steps})
    if arguments.seconds is not None:
        steps = _steps_within(TrainingJob("bf16", load_recipe("bf16"), size, 0), arguments.seconds)
        size = Size.model_validate({**size.model_dump(), "steps": steps})
    try:
        capture(TrainingJob("bf16", load_recipe("bf16"), size, 0), arguments.size, arguments.file, arguments.tiles)
    except InputError as error:
        sys.exit(str(error))
    print(f"{arguments.file}: {arguments.file.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main()
