"""Records of language models run on instructions. Reading them needs no torch."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from codesign.proposal.recipe import Fprop, Recipe, computed_fields
from isa_model.diagnostics import InputError
from isa_model.input_files import MIB, read_text, reason
from isa_model.output_files import json_lines, write_file
from isa_model.stage import Spec

FOLDER = Path(__file__).parent / "records"
FILE = ('"model_sha256": ', "a record of a language model")
"""Text that identifies a record's file, and its kind."""
LARGEST = 64 * MIB
"""Size limit of a record, in bytes."""
REFERENCE = "bf16"
"""Run that all others are compared with."""


class ModelRun(Spec):
    """A language model on one numerics: a value per sequence of text, in the record's order."""

    name: str
    """Name of the numerics."""
    numerics: str
    """SHA-256 of everything that affects a forward pass (`numerics_of`)."""
    sums: str
    """Instruction that sums the products, in a word."""
    engine: str
    """Engine of the products: torch, model, native, or fp32."""
    only: str = "*"
    """Pattern of the modules that were emulated."""
    loss: tuple[float | None, ...]
    """Mean loss per token, in nats; None: not finite."""
    kl: tuple[float | None, ...]
    """Mean divergence of the next-token distribution from the reference's, in nats per token; None: not finite."""
    flips: tuple[float, ...]
    """Share of tokens whose likeliest next token is not the reference's."""
    layers: dict[str, float | None] = Field(default_factory=dict)
    """Relative Frobenius error of each Linear's outputs on its own inputs, by module name; empty: not measured."""
    seconds: float = 0.0
    """Time of the forward passes, s."""


class ModelRecord(Spec):
    """Runs of one model on one text and one machine."""

    schema_version: Literal[1]
    model: str
    """Name of the model."""
    about: str
    """Source and form of its weights."""
    model_sha256: str
    text: str
    """Name of the text."""
    text_sha256: str
    sequences: int
    length: int
    """Tokens per sequence; the first is only read."""
    dtype: str
    """dtype of everything that is not emulated."""
    commit: str
    machine: str
    versions: dict[str, str]
    runs: tuple[ModelRun, ...] = ()

    def with_run(self, run: ModelRun) -> ModelRecord:
        """Return the record with one more run, which replaces an older one of the same numerics and modules."""
        key = run.numerics, run.only
        return self.model_copy(update={"runs": (*(r for r in self.runs if (r.numerics, r.only) != key), run)})

    def same_conditions(self, other: ModelRecord) -> bool:
        """Return whether runs of both records can be in one record."""
        return self.model_copy(update={"runs": ()}) == other.model_copy(update={"runs": ()})

    def find(self, numerics: str, only: str = "*") -> ModelRun | None:
        """Return the run of some numerics; None if the record has none."""
        return next((r for r in self.runs if (r.numerics, r.only) == (numerics, only)), None)

    @property
    def reference(self) -> ModelRun:
        """Run on BF16."""
        return next(r for r in self.runs if r.name == REFERENCE)


def numerics_of(recipe: Recipe, attention: bool = False) -> str:
    """Return the SHA-256 of everything in a recipe that affects a forward pass."""
    rule = recipe.fprop
    data = {
        "spec": None if rule.spec is None else computed_fields(rule.spec),
        "casts": [None if c is None else c.model_dump(mode="json") for c in rule.casts],
        "tensor_scale": rule.tensor_scale,
        "kept": sorted({"head", "gating"} & set(recipe.high_precision)),
        "attention": attention,
    }
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


LEFT_OUT = ("sums", "activations", "weights")
"""Parts of the numerics that can be left out: exact sums, and with them activations or weights in BF16."""


def without(recipe: Recipe, part: str) -> Recipe:
    """Return a recipe with FP32 sums in Fprop and, for `activations` or `weights`, that operand in BF16."""
    rule = recipe.fprop
    left = {"activations": "activation", "weights": "weight"}.get(part)
    fields = {"activation": rule.activation, "weight": rule.weight, "tensor_scale": rule.tensor_scale}
    if left:
        fields[left] = None
    return recipe.model_copy(update={"fprop": Fprop(**fields)})


def read(path: Path) -> ModelRecord:
    """Read a record. Raises InputError if the file is not a record."""
    try:
        return ModelRecord.model_validate_json(read_text(path, LARGEST))
    except (OSError, ValueError, ValidationError) as error:
        said = reason(error) if isinstance(error, OSError) else "not a record of this version"
        raise InputError.of(f"{path}: {said}") from None


def write(record: ModelRecord, path: Path) -> None:
    """Write a record, with one line per run."""
    write_file(path, json_lines(record.model_dump(mode="json", exclude_defaults=True)), *FILE)


@cache
def shipped() -> tuple[tuple[str, ModelRecord], ...]:
    """Return the shipped records with their file names."""
    return tuple((path.name, read(path)) for path in sorted(FOLDER.glob("*.json")))
