"""Runs of a language model on numerics, compared with BF16 token by token."""

from __future__ import annotations

import hashlib
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as plain_linear

from codesign.commit import commit
from codesign.evidence.model.language_model import LanguageModel, load_text, windows
from codesign.evidence.model.records import REFERENCE, ModelRecord, ModelRun, numerics_of
from codesign.proposal.recipe import Recipe, load_recipe
from codesign.torch.emulation import emulate
from codesign.torch.engines import Engine, engine_of
from isa_model.diagnostics import InputError

Watch = Callable[[str, int, int], None]
"""Callback for the name of a run, the runs done and all runs."""
ROUND = 7
"""Significant digits of recorded values."""


@dataclass(frozen=True)
class Arm:
    """Numerics to run a model on."""

    name: str
    recipe: Recipe
    attention: bool = False
    """True for attention's products on the instruction, too."""
    only: str = "*"
    """Pattern of the modules to emulate."""
    layers: bool = False
    """True to measure the error of each Linear."""

    @property
    def key(self) -> tuple[str, str]:
        """Numerics and modules, which identify a run."""
        return numerics_of(self.recipe, self.attention), self.only


def measure(
    found: LanguageModel,
    arms: Sequence[Arm],
    text: Path | None = None,
    sequences: int = 8,
    length: int = 64,
    engine: Engine = "auto",
    batch: int = 1,
    watch: Watch = lambda name, done, total: None,
    old: ModelRecord | None = None,
    save: Callable[[ModelRecord], None] = lambda record: None,
    budget: float = math.inf,
) -> ModelRecord:
    """Return a record of a model on BF16 and on each arm, computed where the model is.

    `text` is a file of your own. `batch` sequences are computed at a time. Runs that `old` has are not repeated; no run starts
    after `budget` seconds, and `save` gets the record after each. Raises InputError if the text is too short, or if `old` was
    made under other conditions.
    """
    begun = time.monotonic()
    name, content = load_text(text)
    tokens = windows(found.tokenizer, content, sequences, length).to(next(found.model.parameters()).device)
    record = _empty(found, name, content, sequences, length)
    if old is not None:
        if not old.same_conditions(record):
            raise InputError.of("the record was made under other conditions", "another --out")
        record = old
    reference = _Reference(found.model, tokens, batch)
    arms = [Arm(REFERENCE, load_recipe("bf16")), *arms]
    for done, arm in enumerate(arms):
        watch(arm.name, done, len(arms))
        if record.find(*arm.key) is None and time.monotonic() - begun < budget:
            record = record.with_run(reference.run(arm, engine))
            save(record)
    watch("", len(arms), len(arms))
    return record


class _Reference:
    """A model with its next-token distributions on BF16."""

    def __init__(self, model: nn.Module, tokens: Tensor, batch: int) -> None:
        self.model, self.tokens, self.batch = model, tokens, batch
        with emulate(model, on="bf16", frozen=True):
            self.logits = [logits.float().log_softmax(-1) for logits in self._logits()]

    @torch.no_grad()
    def _logits(self) -> Iterator[Tensor]:
        """Yield the logits of each batch, without those of the last token."""
        for part in torch.split(self.tokens, self.batch):
            yield self.model(input_ids=part, use_cache=False).logits[:, :-1]

    def run(self, arm: Arm, engine: Engine) -> ModelRun:
        """Return the run of an arm."""
        losses: list[Any] = []
        kls: list[Any] = []
        flips: list[float] = []
        began = time.monotonic()
        with emulate(
            self.model, on=arm.recipe, engine=engine, only=arm.only, attention=arm.attention, frozen=True
        ) as emulation:
            names = [row.name for row in emulation.replaced] if arm.layers else []
            with _listening(self.model, names) as sums:
                for part, base, logits in zip(
                    torch.split(self.tokens, self.batch), self.logits, self._logits(), strict=True
                ):
                    p = logits.float().log_softmax(-1)
                    losses += (-p.gather(-1, part[:, 1:, None])).squeeze(-1).mean(1).tolist()
                    kls += (base.exp() * (base - p)).sum(-1).mean(1).tolist()
                    flips += (p.argmax(-1) != base.argmax(-1)).float().mean(1).tolist()
        gemm = arm.recipe.fprop
        return ModelRun(
            name=arm.name,
            numerics=arm.key[0],
            sums=gemm.spec.name if gemm.spec else "FP32 sums",
            engine=engine_of(gemm, engine, self.tokens.device),
            only=arm.only,
            loss=tuple(map(_rounded, losses)),
            kl=tuple(map(_rounded, kls)),
            flips=tuple(float(f"{x:.6g}") for x in flips),
            layers={name: _rounded(math.sqrt(e / s)) if s else None for name, (e, s) in _read(sums).items()},
            seconds=round(time.monotonic() - began, 2),
        )


@contextmanager
def _listening(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Sum the squares of each Linear's error and of its output on BF16 operands with FP32 sums, while the block runs."""
    sums: dict[str, Tensor] = {}
    hooks = []
    for name in names:
        module = model.get_submodule(name)
        if not isinstance(module, nn.Linear):
            continue

        def look(module: Any, given: Any, y: Tensor, name: str = name) -> None:
            x, weight = given[0].bfloat16(), module.weight.bfloat16()
            if x.device.type == "cpu":  # where BF16 is slow; products and sums are FP32 on a GPU, too
                x, weight = x.float(), weight.float()
            bias = None if module.bias is None else module.bias.to(x.dtype)
            exact = plain_linear(x, weight, bias).float()
            now = torch.stack(((y.float() - exact).square().sum(), exact.square().sum())).double()
            sums[name] = sums[name] + now if name in sums else now

        hooks.append(module.register_forward_hook(look))
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()


def _read(sums: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    return {name: (float(both[0]), float(both[1])) for name, both in sums.items()}


def _rounded(x: float) -> float | None:
    return float(f"{x:.{ROUND}g}") if math.isfinite(x) else None


def _empty(found: LanguageModel, text: str, content: str, sequences: int, length: int) -> ModelRecord:
    """Return a record of this machine without runs."""
    from importlib.metadata import version

    gpu = torch.cuda.is_available()
    return ModelRecord(
        schema_version=1,
        model=found.name,
        about=found.about,
        model_sha256=found.sha256,
        text=text,
        text_sha256=hashlib.sha256(content.encode()).hexdigest(),
        sequences=sequences,
        length=length,
        dtype=str(next(found.model.parameters()).dtype).removeprefix("torch."),
        commit=commit(),
        machine=f"{torch.cuda.get_device_name() if gpu else 'CPU'}, {platform.machine()}",
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": version("transformers"),
            **({"cuda": str(torch.version.cuda)} if gpu else {}),
        },
    )
