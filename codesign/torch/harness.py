"""Emulated models in EleutherAI's lm-evaluation-harness, as the model `codesign`. Needs the extra `harness`.

    python -m codesign.torch.harness --model codesign --model_args pretrained=DIR,on=group-scaled-mma --tasks ...

takes every option of `lm_eval`. From Python, `EmulatedLM(pretrained=..., on=...)` is a model for `lm_eval.simple_evaluate`.
"""

from __future__ import annotations

from typing import Any

from codesign.torch.emulation import emulate
from isa_model.diagnostics import Unavailable

try:
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ModuleNotFoundError as error:
    raise Unavailable(f"the harness needs the package `{error.name}`: pip install 'codesign[harness]'") from None


@register_model("codesign")
class EmulatedLM(HFLM):  # type: ignore[misc]
    """The harness's Hugging Face model, emulated on a proposal, an instruction or a recipe."""

    def __init__(self, pretrained: Any, on: Any, engine: Any = "auto", attention: bool = False, **options: Any) -> None:
        """Load a model as the harness does, and emulate it as `codesign.torch.emulate` does, with frozen weights.

        `options` are those of the harness. Raises InputError as `emulate` does.
        """
        super().__init__(pretrained=pretrained, **options)
        self.emulation = emulate(self.model, on=on, engine=engine, attention=attention, frozen=True)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
