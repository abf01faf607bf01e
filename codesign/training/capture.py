"""Tensors of a training run for the workloads: tiles of one kind of Linear at its start, middle and end.

The Linear is the shared expert's down-projection, whose input SwiGLU makes: of the layers the one whose input stands out
most. Its input, weight and output gradient are those of the micro-batch that the run's next step trains on, forward and
backward in BF16 beside the run, which they do not touch. The tiles are chosen, named and written as those of
codesign.workloads.capture.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codesign.training.data import batch, text
from codesign.training.experiments import empty_record
from codesign.training.linear import Arithmetic
from codesign.training.loop import Job, Trainer
from codesign.training.model import Transformer
from codesign.training.recipe import load_recipe
from codesign.workloads.capture import tiles_of, write_tiles
from isa_model.cast import Cast

TOKENS, CHANNELS, ALONG = 64, 16, 2048
"""Tokens of the tiles of Fprop and Dgrad; channels of Wgrad's, and the stretch of tokens that they are summed over."""


@dataclass(frozen=True)
class _Listening(Arithmetic):
    """Keeps the operands of the weights that it is told of, by address: output gradient and input."""

    heard: dict[int, list[Tensor]] = field(default_factory=dict)

    def dgrad(self, dy: Tensor, weight: Tensor, taken: Cast | None = None) -> Tensor:
        self.heard.get(weight.data_ptr(), []).append(dy)
        return super().dgrad(dy, weight, taken)

    def wgrad(self, dy: Tensor, x: Tensor, power_of_two: bool = False) -> Tensor:
        for kept in self.heard.values():
            if len(kept) == 1 and kept[0] is dy:
                kept.append(x)
        return super().wgrad(dy, x, power_of_two)


def capture(job: Job, size_name: str, path: Path) -> None:
    """Make a run, and write tiles of it to a .safetensors file; their Linears are called down-start, down-middle, down-end."""
    trainer = Trainer(job)
    last = job.size.steps - 1
    tiles: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    for name, step in {"down-start": 0, "down-middle": last // 2, "down-end": last}.items():
        while trainer.step < step:
            trainer.advance()
        layer, peak, loss, tensors = _outlying(trainer)
        taken, places = tiles_of(name, *tensors, tokens=TOKENS, channels=CHANNELS, along=ALONG)
        tiles |= taken
        chosen[name] = {
            "step": step,
            "loss": round(loss, 4),
            "layer": layer,
            "activation max/rms": round(peak, 1),
        } | places
    write_tiles(path, tiles, _about(trainer, size_name, chosen))


def _outlying(trainer: Trainer) -> tuple[int, float, float, tuple[Any, Any, Any]]:
    """Of the micro-batch to come: the layer, its input's largest element over its root mean square, the loss, and the
    layer's input, weight and output gradient as float32 arrays."""
    job = trainer.job
    arithmetic = _Listening(load_recipe("bf16"), job.engine)
    model = Transformer(job.size, arithmetic, job.seed).to(trainer.device)
    model.load_state_dict(trainer.model.state_dict())
    weights = [router.shared_down for router in model.routers]
    arithmetic.heard.update({w.data_ptr(): [] for w in weights})
    drawn = batch(text().train, trainer.tokens.shape[0], job.size.length, job.seed, trainer.step, 0)
    loss = model(torch.from_numpy(drawn).to(trainer.device))
    loss.backward()

    def peak(layer: int) -> float:
        x = arithmetic.heard[weights[layer].data_ptr()][1].float()
        return (x.abs().max() / x.square().mean().sqrt()).item()

    layer = max(range(len(weights)), key=peak)
    dy, x = arithmetic.heard[weights[layer].data_ptr()]
    tensors = (x, weights[layer].detach(), dy)
    as_bf16 = tuple(t.to(torch.bfloat16).float().cpu().numpy() for t in tensors)
    return layer, peak(layer), loss.item(), (as_bf16[0], as_bf16[1], as_bf16[2])


def _about(trainer: Trainer, size_name: str, chosen: dict[str, Any]) -> dict[str, str]:
    job = trainer.job
    record = empty_record(size_name, job.size, 1)
    where = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    losses = ", ".join(f"{about['loss']} before step {about['step'] + 1}" for about in chosen.values())
    return {
        "model": f"codesign's own mixture of experts, size {size_name}, trained by recipe {job.recipe.recipe}",
        "package": f"codesign, commit {record.commit or 'unknown'}",
        "licence": "Apache-2.0 (weights, made here), PSF-2.0 (text)",
        "weights_sha256": hashlib.sha256(trainer.optimizer.master.cpu().numpy().tobytes()).hexdigest(),
        "loss": f"mean next-byte cross-entropy over a micro-batch, nats: {losses}",
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
        "choice": "the shared expert's down-projection; of the layers the one with the largest max/rms of its input; of its "
        f"tensors whole blocks with the largest elements, of Wgrad's tokens a stretch of {ALONG}: "
        + json.dumps(chosen),
        "script": "python benchmarks/training.py RECORD.json --capture FILE.safetensors",
    }
