"""Tensors of real models: the shipped tiles, a user's own layers, and what is said where these are wrong."""

import ml_dtypes
import numpy as np
import pytest

from codesign.proposal import Quantisation, parse_proposal
from codesign.trial import Trial
from codesign.workloads import tensor_file
from codesign.workloads.gemms import gemms, models
from codesign.workloads.tensors import recorded
from isa_model import InputError, load
from isa_model.diagnostics import parse_yaml

FP8 = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
CAPTURED = [g for g in gemms().values() if g.recorded]
OWN = f"""proposal: mine
title: t
source: s
base: {FP8}
layers:
  mine:
    file: mine.npz
    activation: x
    weight: w
    gradient: g
workloads: [mine]
tensors: [captured]
claims:
  - {{metric: numerics.relative_frobenius, at_most: 1.0e-3}}
"""


def tensors(tokens=96, inner=160, out=130):
    rng = np.random.default_rng(0)
    shapes = {"x": (tokens, inner), "w": (out, inner), "g": (tokens, out)}
    return {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}


def proposal(folder, text=OWN):
    return parse_proposal(parse_yaml(text, str(folder / "p.yaml")))


@pytest.mark.parametrize("gemm", CAPTURED, ids=lambda g: g.name)
def test_shipped_tiles_have_the_length_of_their_gemm_and_both_operands_from_one_step(gemm):
    """K of both tiles is the true one, every number is finite BF16, and no tile is all zeros."""
    a, b = recorded(gemm.recorded)
    assert a.shape[0 if gemm.tokens_along_k else 1] == gemm.k
    assert b.shape[1 if gemm.a == "activation" else 0] == gemm.k
    for x in (a, b):
        assert (x.view(np.uint32) & 0xFFFF == 0).all()
        assert np.abs(x).max() > 0


def test_shipped_tiles_hold_the_outliers():
    """The input of SmolLM2's down-projection has one element over 100 times the root mean square of its tile."""
    x, _ = recorded(gemms()["smollm2-135m.fprop.down"].recorded)
    assert np.abs(x).max() > 100 * np.sqrt(np.mean(x**2))


def test_shipped_tiles_say_where_they_come_from():
    """Package, licence, hash of the weights, text and its hash, script, versions and choice stand in each file."""
    for file in {g.recorded.file for g in CAPTURED}:
        about = tensor_file.metadata(file)
        assert {"model", "package", "licence", "loss", "text", "text_sha256", "choice", "script", "versions"} <= set(
            about
        )
        assert len(about["weights_sha256"]) == 64


def test_a_linear_has_the_same_tensors_in_all_passes():
    """Where the tiles of fprop and dgrad overlap, the weight is the same: 128 outputs of one, 128 inputs of the other."""
    import json

    gemm = gemms()["smollm2-135m.fprop.down"]
    chosen = json.loads(tensor_file.metadata(gemm.recorded.file)["choice"].split(": ", 1)[1])["down"]
    (o0, o1), (i0, i1) = chosen["outputs of fprop"], chosen["inputs of dgrad"]
    _, forward = recorded(gemm.recorded)
    _, backward = recorded(gemms()["smollm2-135m.dgrad.down"].recorded)
    assert np.array_equal(forward[:, i0:i1], backward[o0:o1])


def test_a_users_layer_is_a_workload_with_all_three_passes(tmp_path):
    """Three matrices of one file give fprop, dgrad and wgrad of the shapes they have, multiplied as a Linear does."""
    own = tensors()
    np.savez(tmp_path / "mine.npz", **own)
    mine = proposal(tmp_path)
    shapes = {g.name: (g.m, g.n, g.k) for g, _ in mine.trials}
    assert shapes == {"mine.fprop": (96, 130, 160), "mine.dgrad": (96, 160, 130), "mine.wgrad": (130, 160, 96)}
    x, w, g = (own[k].astype(ml_dtypes.bfloat16).astype("f8") for k in "xwg")
    whole = {"mine.fprop": x @ w.T, "mine.dgrad": g @ w, "mine.wgrad": g.T @ x}
    for gemm, _ in mine.trials:
        (d,) = Trial(gemm, "captured", 1, 8, 8, Quantisation()).original
        assert np.allclose(d, whole[gemm.name], rtol=1e-9, atol=1e-12), gemm.name


def test_safetensors_and_npz_read_alike(tmp_path):
    """BF16 from .safetensors and the same numbers as float32 from .npz are the same matrix; headers give the shapes."""
    x = tensors()["x"].astype(ml_dtypes.bfloat16)
    tensor_file.write_safetensors(tmp_path / "t.safetensors", {"x": x}, {"model": "m"})
    np.savez_compressed(tmp_path / "t.npz", x=np.asfortranarray(x.astype(np.float32)))
    assert tensor_file.entries(tmp_path / "t.safetensors")["x"].shape == (96, 160)
    assert tensor_file.entries(tmp_path / "t.npz")["x"] == tensor_file.Entry("F32", (96, 160))
    read = [tensor_file.read(tmp_path / name, "x") for name in ("t.safetensors", "t.npz")]
    assert np.array_equal(*read)
    assert np.array_equal(read[0], x.astype(np.float32))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("file: mine.npz", "file: other.npz", "p.yaml:7:11: {folder}/other.npz cannot be read: no such file"),
        ("file: mine.npz", "file: damaged.npz", "damaged.npz is no .npz file, or a damaged one"),
        ("activation: x", "activation: xx", "p.yaml:8:17: {folder}/mine.npz has no tensor `xx`"),
        (
            "weight: w",
            "weight: turned",
            "p.yaml:9:13: the tensors of {folder}/mine.npz do not belong together: 160 in the weight `turned`",
        ),
        ("weight: w", "weight: cube", "p.yaml:9:13: tensor `cube` of {folder}/mine.npz has shape (2, 2, 2)"),
        ("weight: w", "weight: whole", "has element type <i8"),
        ("file: mine.npz", "file: mine.pt", "p.yaml:7:11:"),
        ("    weight: w\n    gradient: g\n", "", "a GEMM takes two tensors"),
        ("workloads: [mine]", "workloads: [deepseek-v3]", "p.yaml:12:11: no workload has captured tensors"),
        ("workloads: [mine]", "workloads: [mine.fprob]", "unknown workload `mine.fprob`"),
        ("at_most: 1.0e-3", "at_most: 1.0e-3, workload: minee", "`minee` is not among the proposal's workloads"),
    ],
)
def test_wrong_layers_are_told_with_place_and_remedy(tmp_path, old, new, message):
    """A missing file, key or type, shapes that do not belong together, and a source no workload has, each at its place."""
    own = tensors()
    own |= {"turned": own["w"].T.copy(), "cube": np.zeros((2, 2, 2), "f4"), "whole": np.zeros((130, 160), "i8")}
    np.savez(tmp_path / "mine.npz", **own)
    (tmp_path / "damaged.npz").write_bytes(b"not a zip")
    with pytest.raises(InputError) as error:
        proposal(tmp_path, OWN.replace(old, new))
    assert message.format(folder=tmp_path) in str(error.value)


def test_tensors_that_are_not_finite_are_refused(tmp_path):
    """An infinity in a user's tensor is an error of input, told by name."""
    own = tensors()
    own["x"][3, 4] = np.inf
    np.savez(tmp_path / "mine.npz", **own)
    with pytest.raises(InputError, match=r"tensor `x` of .* is not finite everywhere"):
        Trial(proposal(tmp_path).trials[0][0], "captured", 0, 4, 4, Quantisation())


def test_today_on_captured_tensors_is_the_instruction_on_them():
    """D of a captured GEMM is what the instruction makes of its codes, against a float64 product of the same codes."""
    trial = Trial(gemms()["minilm-l6.fprop.up"], "captured", 0, 4, 5, Quantisation())
    outcome = trial.outcome(load(FP8))
    a, b = trial.operands(load(FP8))
    product = (a.values[0] * a.factor[0, :, None]) @ (b.values[0] * b.factor[0, :, None]).T
    assert outcome.d.shape == (1, 128, 128)
    assert np.allclose(outcome.d[0], product, rtol=0.01, atol=np.abs(outcome.d).max() / 500)


def test_models_agree_with_their_heads():
    """Hidden size, and the n and k of neighbouring Linears, fit together in every model; experts divide over their GPUs."""
    for name, model in models().items():
        if name == "proxy-10m":  # one Linear, along its training
            continue
        shapes = {linear.name: linear for linear in model.linears}
        assert shapes["o"].n == model.hidden
        assert shapes["down"].n == model.hidden
        if "gate-up" in shapes:
            assert shapes["gate-up"].n == 2 * shapes["down"].k
        if model.experts:
            assert model.experts.experts % model.experts.parallel == 0


def test_a_run_of_our_own_shows_one_linear_along_its_training():
    """The trained Linear's shape is that of its size; start, middle and end are steps of one run on the record's text."""
    import json

    from codesign.training.records import FOLDER, read
    from codesign.training.size import Size, find_size

    about = tensor_file.metadata(gemms()["proxy-10m.fprop.down-end"].recorded.file)
    size = Size.model_validate_json(about["size"])
    assert {(x.n, x.k) for x in models()["proxy-10m"].linears} == {(size.width, size.hidden)}
    assert (size.width, size.hidden) == (find_size("10m").width, find_size("10m").hidden)
    record = read(FOLDER / "10m.json")
    assert (record.text_sha256, record.model, record.machine) == (about["text_sha256"], size, about["machine"])
    chosen = json.loads(about["choice"].split(": ", 1)[1])
    assert [c["step"] for c in chosen.values()] == [0, (size.steps - 1) // 2, size.steps - 1]
