"""Captured tensors: the shipped tiles, layers of users, and messages about wrong files."""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from codesign.evidence.numerics.source import SOURCE
from codesign.evidence.numerics.trial import Trial
from codesign.evidence.sampling import Sampling
from codesign.evidence.source import Subject
from codesign.evidence.training.size import Size, find_size
from codesign.proposal.load import parse_proposal
from codesign.proposal.proposal import Quantisation
from codesign.workloads import tensor_file
from codesign.workloads.gemms import gemms, models
from codesign.workloads.tensors import recorded
from codesign.workloads.weight_grid import grid_warnings, on_four_bit_grid
from isa_model import InputError, load
from isa_model.diagnostics import parse_yaml

FP8 = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
CAPTURED = [g for g in gemms().values() if g.recorded]
FILES = sorted({g.recorded.file for g in CAPTURED})
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from capture.tiles import cut, write_safetensors  # noqa: E402

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
    """K of both tiles is the GEMM's, every number is finite BF16, and no tile is zero."""
    a, b = recorded(gemm.recorded)
    assert a.shape[0 if gemm.tokens_along_k else 1] == gemm.k
    assert b.shape[1 if gemm.a == "activation" else 0] == gemm.k
    for x in (a, b):
        assert (x.view(np.uint32) & 0xFFFF == 0).all()
        assert np.abs(x).max() > 0


def test_shipped_tiles_hold_the_outliers():
    """SmolLM2's input of the down-projection has one element over 100 times its tile's root mean square."""
    x, _ = recorded(gemms()["smollm2-135m.fprop.down"].recorded)
    assert np.abs(x).max() > 100 * np.sqrt(np.mean(x**2))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_shipped_tiles_say_where_they_come_from(file):
    """Each file states package, licence, hashes of weights and text, script, versions, rule and place."""
    about = tensor_file.metadata(file)
    said = {"model", "package", "licence", "weights", "loss", "text", "choice", "script", "versions", "arithmetic"}
    assert said <= set(about)
    assert all(about[key] for key in said)
    for key in ("weights_sha256", "text_sha256"):
        assert set(about[key]) <= set("0123456789abcdef")
        assert len(about[key]) == 64
    chosen = json.loads(about["tiles"])
    assert set(chosen) == {name.split("/")[0] for name in tensor_file.entries(file)}
    for name, at in chosen.items():
        assert at["rule"] == ("random" if name.endswith("-random") else "outliers")
        found = tensor_file.entries(file)[f"{name}/fprop/weight"].shape
        assert found[0] == at["outputs of fprop"][1] - at["outputs of fprop"][0]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_shipped_tiles_hold_whole_groups(file):
    """Tiles have at least 128 tokens in fprop and dgrad, 2048 in wgrad, and blocks of 128 outputs and inputs of the weight."""
    shapes = {name: entry.shape for name, entry in tensor_file.entries(file).items()}
    for name, (rows, columns) in shapes.items():
        _, step, role = name.split("/")
        if role == "weight":
            assert (rows if step == "fprop" else columns) == 128, name
        else:
            assert rows == (2048 if step == "wgrad" else 128), name
            assert columns >= 32, name


def test_the_largest_element_of_a_tensor_is_in_the_tile_of_its_outliers():
    """The tiles by the rule `outliers` contain the one large element of an activation, a weight and a gradient."""
    rng = np.random.default_rng(1)
    x, w, g = (rng.standard_normal(s) for s in ((700, 256), (384, 256), (700, 384)))
    x[650, 200], w[300, 17], g[123, 250] = 1e3, 1e3, 1e3
    tiles, places = cut("down", "outliers", x, w, g, rng)
    assert places["tokens of fprop"] == [572, 700]  # the last block is whole, and overlaps the one before
    assert places["outputs of fprop"] == [256, 384]
    assert {name for name, tile in tiles.items() if np.abs(tile).max() < 1e3} == {"down/dgrad/weight"}
    assert places["inputs of dgrad"] == [128, 256]  # those of the activation's element: its weights are in the tile


def test_random_tiles_are_the_same_for_the_same_seed_and_not_for_another():
    """Random tiles depend on the generator and not on the tensors."""
    x, w, g = np.zeros((4096, 2048)), np.zeros((2048, 2048)), np.zeros((4096, 2048))
    places = [cut("down", "random", x, w, g, np.random.default_rng(seed))[1] for seed in (0, 0, 1)]
    assert places[0] == places[1] != places[2]


@pytest.mark.parametrize("gemm", [g for g in CAPTURED if g.b == "weight"], ids=lambda g: g.name)
def test_only_smollm2s_weights_lie_on_a_four_bit_grid(gemm):
    """SmolLM2's weights have at most 16 values in 32 inputs, as Q4_1 does; other models have more in nearly every block."""
    weight = recorded(gemm.recorded)[1]
    on_grid = gemm.name.startswith("smollm2-135m.")
    assert on_four_bit_grid(weight) == on_grid
    blocks = weight[:, : weight.shape[1] // 32 * 32].reshape(-1, 32)
    distinct = np.array([len(np.unique(block)) for block in blocks[:500]])
    assert (distinct <= 16).all() if on_grid else (distinct > 16).mean() > 0.99


def test_shipped_proposals_of_narrow_formats_take_no_weights_from_a_four_bit_grid():
    """No shipped proposal of a 4-bit base uses captured weights on a 4-bit grid; others that do are warned."""
    from codesign.proposal.load import load_proposal

    narrow = 0
    for path in sorted((ROOT / "proposals").glob("*.yaml")):
        shipped = load_proposal(path)
        found = [g for g, tensors in shipped.trials if tensors == "captured"]
        if min(shipped.today.a.bits, shipped.today.b.bits) <= 4:
            narrow += 1
            assert found, path.name
            assert not grid_warnings(found), path.name
    assert narrow >= 1


def test_a_report_says_which_weights_lie_on_a_grid(tmp_path):
    """A report names a user's weight of 16 levels; it does not mention one of 17 levels or a layer without weights."""
    own = tensors()
    rng = np.random.default_rng(0)
    for levels, said in ((16, ["Weights of mine lie on a 4-bit grid"]), (64, [])):
        own["w"] = rng.integers(1, levels + 1, own["w"].shape).astype(np.float32)
        np.savez(tmp_path / "mine.npz", **own)
        warned = grid_warnings(g for g, _ in proposal(tmp_path).trials)
        assert [w[: len("Weights of mine lie on a 4-bit grid")] for w in warned] == said
    assert grid_warnings(g for g in gemms().values() if g.recorded is None) == []
    own["w"] = rng.integers(1, 17, own["w"].shape).astype(np.float32)
    np.savez(tmp_path / "mine.npz", **own)
    sampling = Sampling(rows=4, columns=4, seeds=(0,))
    with ThreadPoolExecutor(1) as executor:
        found = SOURCE.gather(Subject(proposal(tmp_path), sampling, executor))
    assert any(line.startswith("Weights of mine lie on a 4-bit grid") for line in found.method)


def test_smollm2s_super_weight_meets_its_massive_activation():
    """The tile has the weight without which the loss rises from 2.7 to 4.4 nats.

    It also has the input of that weight, the largest of its tile and over 40,000 times the median.
    """
    x, w = recorded(gemms()["smollm2-135m.fprop.down"].recorded)
    about = tensor_file.metadata(gemms()["smollm2-135m.fprop.down"].recorded.file)
    at = json.loads(about["tiles"])["down"]
    out, inner, value, layer, loss = re.match(
        r"without weight \[(\d+), (\d+)\] \(([-.\d]+)\) of layer (\d+)'s down-projection the loss is ([.\d]+)$",
        about["super weight"],
    ).groups()
    assert int(layer) == at["layer"]
    assert w[int(out) - at["outputs of fprop"][0], int(inner)] == pytest.approx(float(value), rel=2**-8)
    assert np.abs(x[:, int(inner)]).max() == np.abs(x).max() > 40_000 * np.median(np.abs(x))
    assert float(loss) > 1.5 + float(about["loss"].rpartition(": ")[2])


def test_a_linear_has_the_same_tensors_in_all_passes():
    """The weight is the same where tiles of fprop and dgrad overlap: 128 outputs of one, 128 inputs of the other."""
    gemm = gemms()["smollm2-135m.fprop.down"]
    chosen = json.loads(tensor_file.metadata(gemm.recorded.file)["tiles"])["down"]
    (o0, o1), (i0, i1) = chosen["outputs of fprop"], chosen["inputs of dgrad"]
    _, forward = recorded(gemm.recorded)
    _, backward = recorded(gemms()["smollm2-135m.dgrad.down"].recorded)
    assert np.array_equal(forward[:, i0:i1], backward[o0:o1])


def test_a_users_layer_is_a_workload_with_all_three_passes(tmp_path):
    """Three matrices in one file give fprop, dgrad and wgrad of their shapes, multiplied as a Linear does."""
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
    """BF16 in .safetensors and the same numbers as float32 in .npz give the same matrix and shape."""
    x = tensors()["x"].astype(ml_dtypes.bfloat16)
    write_safetensors(tmp_path / "t.safetensors", {"x": x}, {"model": "m"})
    np.savez_compressed(tmp_path / "t.npz", x=np.asfortranarray(x.astype(np.float32)))
    assert tensor_file.entries(tmp_path / "t.safetensors")["x"].shape == (96, 160)
    assert tensor_file.entries(tmp_path / "t.npz")["x"] == tensor_file.TensorEntry("F32", (96, 160))
    read = [tensor_file.read(tmp_path / name, "x") for name in ("t.safetensors", "t.npz")]
    assert np.array_equal(*read)
    assert np.array_equal(read[0], x.astype(np.float32))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("file: mine.npz", "file: other.npz", "p.yaml:7:11: {folder}/other.npz cannot be read: no such file"),
        ("file: mine.npz", "file: damaged.npz", "damaged.npz is not an .npz file, or is damaged"),
        ("activation: x", "activation: xx", "p.yaml:8:17: {folder}/mine.npz has no tensor `xx`"),
        (
            "weight: w",
            "weight: turned",
            "p.yaml:9:13: the tensors of {folder}/mine.npz do not agree: 160 in the weight `turned`",
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
    """A missing file, key or type, shapes that do not agree, and an unused source are each reported at their place."""
    own = tensors()
    own |= {"turned": own["w"].T.copy(), "cube": np.zeros((2, 2, 2), "f4"), "whole": np.zeros((130, 160), "i8")}
    np.savez(tmp_path / "mine.npz", **own)
    (tmp_path / "damaged.npz").write_bytes(b"not a zip")
    with pytest.raises(InputError) as error:
        proposal(tmp_path, OWN.replace(old, new))
    assert message.format(folder=tmp_path) in str(error.value)


def test_tensors_that_are_not_finite_are_refused(tmp_path):
    """An infinity in a user's tensor is an error of input that names the tensor."""
    own = tensors()
    own["x"][3, 4] = np.inf
    np.savez(tmp_path / "mine.npz", **own)
    with pytest.raises(InputError, match=r"tensor `x` of .* is not finite everywhere: \[3, 4\] is inf"):
        Trial(proposal(tmp_path).trials[0][0], "captured", 0, 4, 4, Quantisation())


def test_numbers_beyond_fp32_are_refused_as_what_they_are(tmp_path):
    """A finite FP64 number that FP32 does not hold is named, without a warning of numpy's."""
    own = tensors()
    own["x"] = own["x"].astype(np.float64)
    own["x"][3, 4] = 1e300
    np.savez(tmp_path / "mine.npz", **own)
    with pytest.raises(InputError, match=r"\[3, 4\] is 1e\+300"):
        Trial(proposal(tmp_path).trials[0][0], "captured", 0, 4, 4, Quantisation())


def test_today_on_captured_tensors_is_the_instruction_on_them():
    """D of a captured GEMM is the instruction's result on its codes, close to their float64 product."""
    trial = Trial(gemms()["mpnet-base.fprop.down-random"], "captured", 0, 4, 5, Quantisation())
    outcome = trial.outcome(load(FP8))
    a, b = trial.operands(load(FP8))
    product = (a.values[0] * a.factor[0, :, None]) @ (b.values[0] * b.factor[0, :, None]).T
    assert outcome.d.shape == (1, 128, 128)
    assert np.allclose(outcome.d[0], product, rtol=0.01, atol=np.abs(outcome.d).max() / 500)


def test_models_agree_with_their_heads():
    """Hidden size and the sizes of neighbouring Linears agree in every model, and GPUs divide experts."""
    for name, model in models().items():
        if name.startswith("proxy-"):  # some Linears, along their training
            continue
        shapes = {linear.name: linear for linear in model.linears}
        assert shapes["o"].n == model.hidden
        assert shapes["down"].n == model.hidden
        if "gate-up" in shapes:
            assert shapes["gate-up"].n == 2 * shapes["down"].k
        if model.experts:
            assert model.experts.experts % model.experts.parallel == 0


@pytest.mark.parametrize(("name", "size_name"), [("proxy-10m", "10m"), ("proxy-100m", "100m-wide")])
def test_runs_of_our_own_show_experts_along_their_training(name, size_name):
    """Tiles of training runs have the shapes of their size.

    They are from the first, middle and last step of one run whose loss falls.
    """
    model = models()[name]
    about = tensor_file.metadata(gemms()[f"{name}.fprop.down-end"].recorded.file)
    size = Size.model_validate_json(about["size"])
    assert size.model_copy(update={"steps": 1}) == find_size(size_name).model_copy(update={"steps": 1})
    shapes = {"down": (size.width, size.hidden), "gate-up": (2 * size.hidden, size.width)}
    chosen = json.loads(about["tiles"])
    assert {linear.name for linear in model.linears} == set(chosen)
    steps = {"start": 0, "middle": (size.steps - 1) // 2, "end": size.steps - 1}
    losses = {}
    for linear in model.linears:
        kind, _, when = linear.name.removesuffix("-random").rpartition("-")
        assert (linear.n, linear.k) == shapes[kind]
        assert chosen[linear.name]["step"] == steps[when]
        assert chosen[linear.name]["its tokens"] >= 2048
        losses[when] = chosen[linear.name]["loss"]
    assert losses["end"] < 1.0  # of the 5.5 nats per byte of even odds
    assert about["script"].endswith(f" --steps {size.steps}")


def test_late_in_training_an_experts_input_has_outliers_that_it_had_not_at_first():
    """The largest max/rms of a down-projection's input grows from 22 to over 80 in 2000 steps at 10M parameters.

    At 100M it is over 400.
    """
    said = {}
    for name in ("proxy-10m", "proxy-100m"):
        about = tensor_file.metadata(gemms()[f"{name}.fprop.down-end"].recorded.file)
        said[name] = {tile: at["activation max/rms"] for tile, at in json.loads(about["tiles"]).items()}
    assert said["proxy-10m"]["down-start"] < 25 < 80 < said["proxy-10m"]["down-end"]
    assert said["proxy-100m"]["down-end"] > 400
