"""The training loop of one run, on one process or many. A killed run resumes, on a CPU with the same bits.

Several processes (`torchrun --nproc-per-node N -m codesign train ...`) share a step's micro-batches and average their
gradients with torch's DistributedDataParallel: NCCL between GPUs, gloo between CPUs.
"""

from __future__ import annotations

import math
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from codesign.evidence.training.gaps import summarise
from codesign.evidence.training.model import Transformer
from codesign.evidence.training.optimizer import AdamW, upload
from codesign.evidence.training.records import Drift, TrainingRun
from codesign.evidence.training.size import Size
from codesign.evidence.training.text import batch, text
from codesign.proposal.recipe import Recipe, load_recipe
from codesign.torch.arithmetic import Arithmetic
from codesign.torch.engines import Engine, engine_of
from isa_model.diagnostics import InputError
from isa_model.input_files import open_file
from isa_model.output_files import fresh_file

Progress = Callable[[int, float], None]
"""Callback for the steps done and the smoothed loss."""

NUDGE = 2.0**-12
"""Relative change of the initial weights in the control run: an eighth of a last place in BF16."""
LOOK = 10
"""Steps between reads of the loss from a GPU, which stall it."""
VALIDATION = 8
"""Micro-batches of validation text."""


@dataclass(frozen=True)
class TrainingJob:
    """Specification of a run."""

    arm: str
    recipe: Recipe
    size: Size
    seed: int
    nudge: bool = False
    """True if initial weights are changed by `NUDGE`, which shows how far equally good runs differ."""
    engine: Engine = "auto"
    graphs: bool = True
    """True if steps are replayed as CUDA graphs where possible."""

    @property
    def key(self) -> dict[str, Any]:
        """Values that a checkpoint must share with the run."""
        return {
            "recipe": self.recipe.sha256,
            "size": self.size.model_dump_json(),
            "seed": self.seed,
            "nudge": self.nudge,
            "exact": self.engine != "fp32",
            "text": text().sha256,
        }


@contextmanager
def processes() -> Iterator[tuple[int, int]]:
    """Join the process group if torchrun started several processes; yield this process's rank and their number."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, 1
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def agreed(decision: bool) -> bool:
    """Return the first process's decision in every process, since their clocks differ."""
    if not dist.is_initialized():
        return decision
    said = torch.tensor(int(decision), device="cuda" if torch.cuda.is_available() else "cpu")
    dist.broadcast(said, 0)
    return bool(said.item())


def train(
    job: TrainingJob,
    checkpoint: Path | None = None,
    progress: Progress = lambda step, loss: None,
    every: float = 60.0,
    stop_after: int | None = None,
) -> TrainingRun | None:
    """Train on this machine's GPU, or on the CPU if there is none, and return the run.

    The file `checkpoint` is written every `every` seconds, resumed from if it exists, and removed at the end. `stop_after`
    stops after a number of steps with a checkpoint, as if killed, and returns None. Raises InputError if the checkpoint is of
    another run, or if the processes do not divide the micro-batches.
    """
    trainer = Trainer(job)
    if checkpoint is not None and checkpoint.exists():
        trainer.load(checkpoint)
    saved = time.monotonic()
    while trainer.step < job.size.steps and trainer.diverged_at is None:
        trainer.advance()
        if trainer.rank == 0 and trainer.looked:
            progress(trainer.step, trainer.smooth)
        stopping = stop_after is not None and trainer.step >= stop_after
        if checkpoint is not None and (stopping or time.monotonic() - saved > every):
            trainer.save(checkpoint)
            saved = time.monotonic()
        if stopping:
            return None
    run = trainer.finish()
    if checkpoint is not None and trainer.rank == 0:
        checkpoint.unlink(missing_ok=True)
    return run


class Trainer:
    """The state of a run."""

    def __init__(self, job: TrainingJob) -> None:
        self.job = job
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if job.size.micro_batches % self.world:
            raise InputError.of(
                f"{self.world} processes do not divide {job.size.micro_batches} micro-batches",
                f"--micro-batches {-(-job.size.micro_batches // self.world) * self.world}",
            )
        self.micro_batches = job.size.micro_batches // self.world
        self.device = (
            torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        )
        model = Transformer(job.size, Arithmetic(job.recipe, job.engine), job.seed)
        if job.nudge:
            random = torch.Generator().manual_seed(job.seed)
            for p in model.parameters():
                p.data *= 1 + NUDGE * torch.randn(p.shape, generator=random)
        self.model = model.to(self.device)
        self.optimizer = AdamW(self.model.parameters(), job.recipe)
        self.replica: nn.Module = self.model
        if self.world > 1:
            self.replica = nn.parallel.DistributedDataParallel(self.model, broadcast_buffers=False)
        self.engines = tuple(engine_of(g, job.engine, self.device) for g in job.recipe.gemms)
        self.step = 0
        self.losses = torch.zeros(job.size.steps, device=self.device)
        self.seen: list[float] = []
        self.diverged_at: int | None = None
        self.started = time.monotonic()
        self.seconds = 0.0
        self.clock: tuple[int, float] | None = None
        shape = (job.size.tokens // job.size.micro_batches // job.size.length, job.size.length + 1)
        self.tokens = torch.zeros(shape, dtype=torch.int64, device=self.device)
        self.loss = torch.zeros((), device=self.device)
        self.graphs: tuple[Any, Any] | None = None
        # The hooks of DistributedDataParallel cannot be captured.
        if job.graphs and self.device.type == "cuda" and self.world == 1:
            self.graphs = self._captured()

    # -- a step --------------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Train one step."""
        size, step = self.job.size, self.step
        self.optimizer.prepare(step, _rate(size, step))
        self.loss.zero_()
        for part in range(self.micro_batches):
            # The micro-batches of a step do not depend on the process that computes them.
            number = self.rank * self.micro_batches + part
            drawn = batch(text().train, self.tokens.shape[0], size.length, self.job.seed, step, number)
            upload(torch.from_numpy(drawn), self.tokens)
            if self.graphs:
                self.graphs[0].replay()
            else:
                self._forward_backward(last=part == self.micro_batches - 1)
        if self.world > 1:
            for load in self.model.loads:
                dist.all_reduce(load)
            dist.all_reduce(self.loss)
        self.losses[step] = self.loss / size.micro_batches
        if self.graphs:
            self.graphs[1].replay()
        else:
            self._update()
        self.step += 1
        if self.looked:
            self._look()

    @property
    def looked(self) -> bool:
        """True if the loss is read after this step."""
        return self.device.type == "cpu" or self.step % LOOK == 0 or self.step == self.job.size.steps

    def _forward_backward(self, last: bool = True) -> None:
        quiet = nullcontext() if last or self.world == 1 else cast(Any, self.replica).no_sync()
        with quiet:
            loss = self.replica(self.tokens)
            loss.backward()
        self.optimizer.round_gradient()
        self.loss += loss.detach()

    def _update(self) -> None:
        self.optimizer.step(self.micro_batches)
        with torch.no_grad():
            self.model.balance()

    def _captured(self) -> tuple[Any, Any] | None:
        """Return a micro-batch and an update as CUDA graphs, since small models spend more time on launches than in kernels.

        None, with a message on stderr, if they cannot be captured: the model engine may choose code by looking at operands.
        """
        state = [*self.model.buffers(), *_tensors(self.optimizer)]
        before = [x.clone() for x in state]
        self.optimizer.prepare(0, 0.0)
        pair: list[Any] = []
        try:
            with torch.cuda.stream(torch.cuda.current_stream()):  # restored here, which a failed capture does not do
                stream = torch.cuda.Stream()
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):  # compiles kernels and fills caches
                    for _ in range(2):
                        self._forward_backward()
                        self._update()
                torch.cuda.current_stream().wait_stream(stream)
                for work in (self._forward_backward, self._update):
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph):
                        work()
                    pair.append(graph)
        except Exception as error:  # any other fault is raised again by the first step
            print(f"{self.job.arm}: steps are launched, not replayed: {error}", file=sys.stderr, flush=True)
            pair = []
        for x, was in zip(state, before, strict=True):
            x.copy_(was)
        return (pair[0], pair[1]) if pair else None

    def _look(self) -> None:
        """Read the losses since the last call. The first that is NaN or infinite ends the run."""
        for loss in self.losses[len(self.seen) : self.step].tolist():
            if not math.isfinite(loss):
                self.diverged_at = len(self.seen) + 1
                return
            self.seen.append(loss)
        if self.clock is None and self.step > self.job.size.steps // 10:
            self.clock = self.step, time.monotonic()

    @property
    def smooth(self) -> float:
        """Mean loss of the last 20 steps read."""
        recent = self.seen[-20:]
        return math.fsum(recent) / max(len(recent), 1)

    # -- the end -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self) -> float:
        """Return the mean loss on validation text, which is the same for every run of a size."""
        self.model.eval()
        total = 0.0
        for number in range(VALIDATION):
            drawn = batch(text().validation, self.tokens.shape[0], self.job.size.length, number)
            total += self.model(torch.from_numpy(drawn).to(self.device)).item()
        self.model.train()
        return total / VALIDATION

    def drift(self, weights: dict[str, Tensor] | None = None) -> Drift | None:
        """Return the difference of the gradient of a validation micro-batch from BF16's, at the present or given weights.

        Both use the experts that BF16 chooses, because a token sent to another expert would outweigh all rounding. The drift
        shows effects that noise hides in the loss of a short run. None if a gradient is NaN or infinite.
        """
        tokens = torch.from_numpy(batch(text().validation, self.tokens.shape[0], self.job.size.length, 0)).to(
            self.device
        )
        gradients: list[Tensor] = []
        chosen: list[Tensor | None] = [None] * self.job.size.layers
        for recipe in (load_recipe("bf16"), self.job.recipe):
            model = Transformer(self.job.size, Arithmetic(recipe, self.job.engine), self.job.seed).to(self.device)
            model.load_state_dict(self.model.state_dict() if weights is None else weights)
            for router, picks in zip(model.routers, chosen, strict=True):
                router.replay = picks
            model(tokens).backward()
            chosen = [router.picks for router in model.routers]
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double())
        reference, ours = gradients
        difference, norm = ours - reference, reference.norm()
        error, along = (difference.norm() / norm).item(), (difference @ reference / norm**2).item()
        return Drift(error=round(error, 6), along=round(along, 6)) if math.isfinite(error) else None

    def finish(self) -> TrainingRun:
        """Validate, measure drifts, and return the run."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.monotonic()
        self.seconds += now - self.started
        steps, curve, tail = summarise(self.seen)
        diverged = self.diverged_at is not None
        validation = float("nan") if diverged else self.validate()
        first = Transformer(self.job.size, Arithmetic(self.job.recipe), self.job.seed)
        lost, all_choices = self.model.dropped.tolist()
        return TrainingRun(
            arm=self.job.arm,
            recipe=self.job.recipe,
            recipe_sha256=self.job.recipe.sha256,
            seed=self.job.seed,
            engines=cast(tuple[str, str, str], self.engines),
            steps=steps,
            curve=curve,
            tail=None if diverged else tail,
            validation=validation if math.isfinite(validation) else None,
            drift_at_start=self.drift(first.state_dict()),
            drift=None if diverged else self.drift(),
            diverged_at=self.diverged_at,
            replayed=self.graphs is not None,
            dropped=round(lost / max(all_choices, 1), 6),
            seconds=round(self.seconds, 1),
            tokens_per_second=self.tokens_per_second(now),
        )

    def tokens_per_second(self, now: float) -> int:
        """Return the tokens per second up to a time: since the first look, or since the start if no step came after it."""
        since, when = self.clock if self.clock and self.clock[0] < self.step else (0, self.started)
        return round((self.step - since) * self.job.size.tokens / max(now - when, 1e-9))

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all. Only rank 0 writes, since replicas differ only in dropped tokens."""
        if self.rank:
            return
        if self.device.type == "cuda":
            self._look()
        now = time.monotonic()
        self.seconds, self.started = self.seconds + now - self.started, now
        state = {
            "key": self.job.key,
            "step": self.step,
            "seen": self.seen,
            "seconds": self.seconds,
            "optimizer": self.optimizer.state(),
            "buffers": dict(self.model.named_buffers()),
        }
        with fresh_file(path, "data.pkl", "a checkpoint") as fresh:
            torch.save(state, fresh)

    def load(self, path: Path) -> None:
        """Resume from a checkpoint. Raises InputError if the file is not a checkpoint of this run."""
        try:
            with open_file(path) as file:
                state = torch.load(file, map_location=self.device, weights_only=True)
            other = state["key"] != self.job.key
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError, pickle.UnpicklingError):
            raise InputError.of(f"{path} is not a checkpoint", "remove it, or give another --work folder") from None
        if other:
            raise InputError.of(f"{path} is a checkpoint of another run", "remove it, or give another --work folder")
        self.step, self.seen, self.seconds = state["step"], state["seen"], state["seconds"]
        self.losses[: len(self.seen)] = torch.tensor(self.seen)
        self.optimizer.load(state["optimizer"])
        for name, buffer in self.model.named_buffers():
            buffer.copy_(state["buffers"][name])


def _tensors(optimizer: AdamW) -> list[Tensor]:
    """Return the tensors that a step changes."""
    parts = [optimizer.master, optimizer.gradient]
    for moment in optimizer.moments:
        parts += [moment.elements, *(() if moment.scales is None else (moment.scales,))]
    return parts


def _rate(size: Size, step: int) -> float:
    """Return the learning rate: a linear rise over a tenth of the steps, then a cosine down to a tenth of the peak."""
    warm = max(size.steps // 10, 1)
    if step < warm:
        return size.rate * (step + 1) / warm
    along = (step - warm) / max(size.steps - warm, 1)
    return size.rate * (0.55 + 0.45 * math.cos(math.pi * along))
