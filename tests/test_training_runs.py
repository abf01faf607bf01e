"""Runs of training: learning, resuming after a kill, several processes, the chip, and tensors of runs."""

import dataclasses
import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra `kernels`")

from codesign.evidence.training import loop  # noqa: E402
from codesign.evidence.training.experiments import arms  # noqa: E402
from codesign.evidence.training.loop import TrainingJob, train  # noqa: E402
from codesign.evidence.training.model import Transformer  # noqa: E402
from codesign.evidence.training.records import read  # noqa: E402
from codesign.evidence.training.size import find_size, sizes  # noqa: E402
from codesign.evidence.training.text import batch, text  # noqa: E402
from codesign.proposal.recipe import load_recipe, parse_recipe  # noqa: E402
from codesign.torch import arithmetic, engines  # noqa: E402
from codesign.torch.arithmetic import Arithmetic  # noqa: E402
from codesign.workloads import tensor_file  # noqa: E402
from codesign.workloads.gemms import Recorded  # noqa: E402
from codesign.workloads.tensors import recorded  # noqa: E402
from isa_model import InputError  # noqa: E402
from isa_model.diagnostics import parse_yaml  # noqa: E402
from isa_model.library import merge  # noqa: E402

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from capture import training_run  # noqa: E402

SMALL = find_size("tiny").model_copy(update={"tokens": 256, "steps": 6})
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("arm", ["framework", "bits-17"])
def test_the_loss_falls_under_the_framework_and_a_proposal(arm, monkeypatch):
    """The loss on the bit-exact model falls from 5.5 nats per byte, which is chance, to under 4 in 16 steps."""
    monkeypatch.setattr(loop, "VALIDATION", 1)
    size = SMALL.model_copy(update={"steps": 16, "rate": 8e-3})
    run = train(TrainingJob(arm, arms()[arm].resolved(), size, 0))
    on_chip = torch.cuda.is_available() and arm == "framework"
    assert run.engines == ("native" if on_chip else "model",) * 3
    assert run.curve[0] > 5.3
    assert run.tail < 4.0
    # Casting to FP8 moves a gradient by some percent.
    assert 0.01 < run.drift_at_start.error < 0.3
    assert 0.01 < run.drift.error < 0.3


def test_truncated_sums_shrink_the_gradient_and_exact_ones_do_not():
    """8 fraction bits and 512 tokens along K shrink the first gradient by over 1 %; exact sums do not."""
    size = SMALL.model_copy(update={"tokens": 512})
    drifts = [
        loop.Trainer(TrainingJob(a, arms()[a].resolved(), size, 0)).drift() for a in ("bits-8", "tensor-exact", "bf16")
    ]
    assert drifts[0].along < -0.01 < drifts[1].along
    assert drifts[0].error > 1.5 * drifts[1].error > drifts[2].error == 0.0


def test_a_killed_run_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    """A run stopped after 3 of 6 steps and resumed from its checkpoint has the same losses to the last bit."""
    monkeypatch.setattr(loop.Trainer, "drift", lambda *_: None)
    moments = {"moments": {"first": "e4m3", "second": "bf16"}}
    recipe = parse_recipe(parse_yaml("{}", "x"), merge(load_recipe("deepseek-v3").model_dump(mode="json"), moments))
    job = TrainingJob("x", recipe, SMALL, 0, engine="fp32")
    whole = train(job)
    checkpoint = tmp_path / "run.pt"
    assert train(job, checkpoint, stop_after=3) is None
    assert checkpoint.exists()
    resumed = train(job, checkpoint)
    assert (resumed.curve, resumed.tail, resumed.validation) == (whole.curve, whole.tail, whole.validation)
    assert not checkpoint.exists()
    train(job, checkpoint, stop_after=1)
    with pytest.raises(InputError, match="another run"):
        train(TrainingJob("x", recipe, SMALL, 1, engine="fp32"), checkpoint)


@pytest.mark.parametrize("ranks", [2, *(pytest.param(n, marks=pytest.mark.sweep) for n in (4, 8))])
def test_processes_train_like_one(ranks, tmp_path):
    """Processes joined as torchrun joins them, a micro-batch each, give the losses of one with all: by gloo on CPUs, by NCCL
    where there are GPUs; to the last bit with two, where the sum of gradients has one order."""
    if 0 < torch.cuda.device_count() < ranks:
        pytest.skip(f"fewer than {ranks} GPUs")
    size = SMALL.model_copy(update={"steps": 4, "tokens": 128 * ranks, "micro_batches": ranks})
    alone = train(TrainingJob("bf16", load_recipe("bf16"), size, 0))
    arguments = [
        "framework",
        "--arms",
        "bf16",
        "--seeds",
        "0",
        "--steps",
        "4",
        "--tokens",
        str(size.tokens),
        "--micro-batches",
        str(ranks),
    ]
    command = [sys.executable, "-m", "codesign", "train", *arguments, "--out", str(tmp_path / "record.json")]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    logs = [tmp_path / f"rank{rank}.log" for rank in range(ranks)]
    started = []
    for rank, log in enumerate(logs):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": path}
        with log.open("wb") as file:
            job = [*command, "--work", str(tmp_path)]
            started.append(
                subprocess.Popen(job, env={**os.environ, **shared, **own}, stdout=file, stderr=subprocess.STDOUT)
            )
    try:
        codes = [process.wait(timeout=180) for process in started]
    finally:
        for process, log in zip(started, logs, strict=True):
            process.kill()  # a rank waits for ever for one that has ended
            print(f"--- {log.name}, exit code {process.wait()}\n{log.read_text(errors='replace')}")
    assert codes == [0] * ranks
    record = read(tmp_path / "record.json")
    assert f"{ranks} processes" in record.machine
    (run,) = record.runs
    if ranks == 2:
        assert (run.curve, run.tail, run.validation) == (alone.curve, alone.tail, alone.validation)
    assert run.curve == pytest.approx(alone.curve, rel=1e-3)


def test_text_and_batches_are_the_same_for_everyone():
    """A key always draws the same windows; validation and training files differ, and both are real text."""
    a, b = batch(text().train, 3, 16, 5, 7), batch(text().train, 3, 16, 5, 7)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, batch(text().train, 3, 16, 5, 8))
    assert len(text().train) > 10 * len(text().validation) > 10 * 100_000
    assert b"import" in text().validation.tobytes()


@pytest.mark.parametrize("name", list(sizes()))
def test_a_size_is_about_as_large_as_its_name(name):
    """The number of parameters is within a third of the name's, and widths are multiples of 128."""
    size = find_size(name)
    layer = 4 * size.width**2 + (1 + size.experts) * 3 * size.width * size.hidden
    total = size.layers * layer + 512 * size.width
    if name != "tiny":
        assert total == pytest.approx(float(name.removesuffix("-wide").removesuffix("m")) * 1e6, rel=0.34)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("arm", ["framework", "tensor-unpromoted", "tensor-promoted"])
def test_the_chip_and_the_model_give_the_same_bits_in_a_training_step(arm, monkeypatch):
    """Every GEMM of a training step on a Hopper GPU equals the model's result on the same operands, bit for bit."""
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("no Hopper GPU")
    compared = []

    def both(gemm, a, b, engine, out):
        chip = engines.multiply(gemm, a, b, engine, out)
        if engine == "native":
            model = engines.multiply(gemm, a, b, "model", out)
            compared.append(torch.equal(chip.view(torch.uint8), model.view(torch.uint8)))
        return chip

    monkeypatch.setattr(arithmetic, "multiply", both)
    monkeypatch.setattr(loop.Trainer, "_captured", lambda self: None)
    trainer = loop.Trainer(TrainingJob(arm, arms()[arm].resolved(), SMALL, 0, engine="native"))
    trainer.advance()
    assert len(compared) == 3 * 6 * SMALL.layers  # qkv, out, two of the shared and two of the routed experts
    assert all(compared)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("arm", ["bf16", "framework", "tensor-promoted", "bits-13", "group-32"])
def test_a_replayed_step_is_the_step(arm):
    """Steps replayed as CUDA graphs have the losses of launched ones, from the same initial weights."""
    job = TrainingJob(arm, arms()[arm].resolved(), SMALL, 0)
    replayed, launched = train(job), train(dataclasses.replace(job, graphs=False))
    assert replayed.replayed > launched.replayed
    assert (replayed.curve, replayed.tail, replayed.validation) == (launched.curve, launched.tail, launched.validation)


@pytest.fixture
def bench(tmp_path):
    """Return benchmarks/training.py with a record of two steps."""
    spec = importlib.util.spec_from_file_location("training_benchmark", ROOT / "benchmarks" / "training.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    size = SMALL.model_copy(update={"tokens": 128, "steps": 2})
    return module.BudgetedRuns(tmp_path / "record.json", "tiny", size, 100.0, [])


def test_an_arm_that_fails_leaves_the_others_their_runs(bench, monkeypatch, capsys):
    """A failing arm is reported and not repeated, and the record has the runs of the others with their speeds."""
    b = bench

    def fails(job, *rest):
        if job.arm == "bf16-nudged":
            raise RuntimeError("the chip is on fire")
        return train(job, *rest)

    monkeypatch.setattr(loop, "train", fails)
    for arm in ("bf16", "bf16-nudged", "bf16-nudged", "moments-fp32"):
        b.run(arm, 0)
    b.report()
    said = capsys.readouterr()
    assert said.err.count("RuntimeError: the chip is on fire") == 1
    assert "FAILED bf16-nudged" in said.out
    assert "without bf16-nudged" in said.out
    assert [r.arm for r in read(b.path).runs] == ["bf16", "moments-fp32"]
    assert all(r.tokens_per_second > 0 for r in read(b.path).runs)


def test_as_many_steps_are_chosen_as_fit_the_budget(bench):
    """Two arms of 10 and 30 ms with two seeds and 1 s besides fit 1130 steps into 95 of 100 s, or the size's at most."""
    b = bench
    b.seconds, b.overhead = {"bf16": 0.01, "framework": 0.03}, {"bf16": 1.0, "framework": 1.0}
    b.size = b.size.model_copy(update={"steps": 3000})
    b.choose_steps(["bf16", "framework", "failed"], 2)
    assert b.size.steps == 1130
    b.size = b.size.model_copy(update={"steps": 400})
    b.choose_steps(["bf16", "framework"], 2)
    assert b.size.steps == 400


# -- tensors of runs -------------------------------------------------------------------------------------------------


def test_tensors_of_a_run_are_a_workload_and_leave_the_run_alone(tmp_path):
    """Tiles of start, middle and end are read as captured tensors of one step each, and capturing does not change losses."""
    job = TrainingJob("bf16", load_recipe("bf16"), SMALL, 0)
    seen = []

    class Seen(loop.Trainer):
        def __init__(self, job):
            super().__init__(job)
            seen.append(self)

    file = tmp_path / "run.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "Trainer", Seen)
        training_run.capture(job, "tiny", file, ["down-start", "down-middle", "down-end"])
    alone = loop.Trainer(job)
    for _ in range(SMALL.steps - 1):
        alone.advance()
    assert seen[0].seen == alone.seen
    about = tensor_file.metadata(file)
    chosen = json.loads(about["tiles"])
    assert [c["step"] for c in chosen.values()] == [0, 2, 5]
    assert about["text_sha256"] == text().sha256
    assert about["recipe_sha256"] == job.recipe.sha256
    starts = []
    for name, at in chosen.items():
        roles = {
            "fprop": ("activation", "weight"),
            "dgrad": ("gradient", "weight"),
            "wgrad": ("gradient", "activation"),
        }
        tiles = {
            step: recorded(Recorded(file, *(f"{name}/{step}/{role}" for role in pair))) for step, pair in roles.items()
        }
        (x, w), (dy, w_in), (dy_long, x_long) = tiles.values()
        assert (x.shape, w.shape, dy.shape) == ((128, 128), (128, 128), (128, 128))
        assert dy_long.shape == (at["its tokens"], 32)
        assert at["its tokens"] >= 128  # of 256 tokens, each sent to 2 of 4 experts, to the fullest
        outputs, inputs = at["outputs of fprop"], at["inputs of dgrad"]
        assert np.array_equal(w[:, slice(*inputs)], w_in[slice(*outputs)])
        rows, columns = at["tokens of fprop"], at["inputs of wgrad"]
        assert np.array_equal(x[:, slice(*columns)], x_long[slice(*rows)])
        assert np.abs(dy).max() == np.abs(dy_long).max() > 0
        starts.append(w)
    first = Transformer(SMALL, Arithmetic(job.recipe), 0)
    outputs = chosen["down-start"]["outputs of fprop"]
    at = chosen["down-start"]
    weight = first.routers[at["layer"]].down.detach()[at["expert"], slice(*outputs)]
    assert np.array_equal(starts[0], weight.to(torch.bfloat16).float().numpy())
    assert not np.array_equal(starts[0], starts[2])
    # The gradient is the run's own: X^T dY over all tokens of the expert is what the step's Wgrad adds up.
    alone_first = loop.Trainer(job)
    drawn = torch.from_numpy(batch(text().train, 2, SMALL.length, 0, 0, 0))
    alone_first.model(drawn.to(alone_first.device)).backward()
    whole = alone_first.model.routers[at["layer"]].down.grad[at["expert"]].cpu().numpy()
    _, (dy_long, x_long) = (
        recorded(Recorded(file, f"down-start/{s}/gradient", f"down-start/{s}/{o}"))
        for s, o in (("dgrad", "weight"), ("wgrad", "activation"))
    )
    block = whole[slice(*at["outputs of wgrad"]), slice(*at["inputs of wgrad"])]
    np.testing.assert_allclose(dy_long.T @ x_long, block, rtol=1e-4, atol=1e-6 * np.abs(block).max())
