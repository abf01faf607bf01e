"""An emulated model in lm-evaluation-harness, on a task made of local data; an example to start from.

    python benchmarks/harness.py DIR PROPOSAL|INSTRUCTION|RECIPE

DIR is a Hugging Face folder of a causal language model. The task is the perplexity, in bits per byte, of topics of Python's
language reference. Needs the extra `harness`; nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")

TASK = """
task: python_topics
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""
TOPICS = ("assert", "break", "del", "pass")


def main() -> None:
    """Print the task's result on BF16 and on the numerics named."""
    from pydoc_data.topics import topics

    import lm_eval
    from lm_eval.tasks import TaskManager

    from codesign.torch.harness import EmulatedLM

    folder, on = sys.argv[1:]
    with tempfile.TemporaryDirectory() as home:
        data = Path(home, "data.jsonl")
        data.write_text("".join(json.dumps({"text": topics[name]}) + "\n" for name in TOPICS))
        Path(home, "task.yaml").write_text(TASK.replace("FILE", str(data)))
        os.environ["HF_DATASETS_CACHE"] = str(Path(home, "cache"))
        manager = TaskManager(include_path=home, include_defaults=False)
        for numerics in ("bf16", on):
            model = EmulatedLM(pretrained=folder, on=numerics, device="cpu", dtype="float32", batch_size=1)
            found = lm_eval.simple_evaluate(model, tasks=["python_topics"], task_manager=manager, bootstrap_iters=0)
            print(numerics, found["results"]["python_topics"])


if __name__ == "__main__":
    main()
