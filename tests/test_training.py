"""Training: the recipe's rules, casts and GEMMs against independent references, and runs that can be trusted."""

import dataclasses
import importlib.util
import json
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="training needs the extra `kernels`")

from codesign.claims import judge  # noqa: E402
from codesign.proposal import load_proposal, parse_proposal  # noqa: E402
from codesign.training import capture, engines, evidence, linear, loop, plot  # noqa: E402
from codesign.training.data import batch, text  # noqa: E402
from codesign.training.experiments import arms, empty_record, experiments  # noqa: E402
from codesign.training.linear import Arithmetic  # noqa: E402
from codesign.training.loop import Job, train  # noqa: E402
from codesign.training.model import Transformer  # noqa: E402
from codesign.training.optimizer import AdamW  # noqa: E402
from codesign.training.plot import svg  # noqa: E402
from codesign.training.quantise import quantise  # noqa: E402
from codesign.training.recipe import Fprop, Recipe, load_recipe, parse_recipe  # noqa: E402
from codesign.training.records import Drift, Run, gap, read, summarise, write  # noqa: E402
from codesign.training.size import find_size, sizes  # noqa: E402
from codesign.workloads import tensor_file  # noqa: E402
from codesign.workloads.gemms import Recorded  # noqa: E402
from codesign.workloads.tensors import recorded  # noqa: E402
from isa_model import InputError, matmul  # noqa: E402
from isa_model.array_codec import encode_array  # noqa: E402
from isa_model.cast import Cast  # noqa: E402
from isa_model.cast import quantise as reference_cast  # noqa: E402
from isa_model.diagnostics import parse_yaml  # noqa: E402
from isa_model.formats import named  # noqa: E402
from isa_model.library import merge  # noqa: E402

ROOT = Path(__file__).parent.parent
SMALL = find_size("tiny").model_copy(update={"tokens": 256, "steps": 6})
V3 = load_recipe("deepseek-v3")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums of torch in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def changed(**change):
    return parse_recipe(parse_yaml("{}", "x"), merge(V3.model_dump(mode="json"), change))


# -- recipe ----------------------------------------------------------------------------------------------------------


def test_the_shipped_recipe_has_the_rules_of_the_report():
    """DeepSeek-V3 3.3: E4M3 everywhere, 1x128 and 128x1 tiles, 128x128 weight blocks, promotion every 128, BF16 moments,
    E5M6 after attention with power-of-two scales, FP8 dispatch."""
    assert [c.group for g in V3.gemms for c in g.casts] == [
        (1, 128),
        (128, 128),
        (1, 128),
        (128, 128),
        (128, 1),
        (128, 1),
    ]
    assert {c.to.name for g in V3.gemms for c in g.casts} == {"e4m3"}
    assert {g.promote_every for g in V3.gemms} == {128}
    assert (V3.moments.first.name, V3.moments.second.name) == ("bf16", "bf16")
    assert (V3.cache.attention_output.to.name, V3.cache.attention_output.scale.name) == ("e5m6", "ue8m0")
    assert V3.cache.attention_power_of_two
    assert V3.dispatch.activation.scale.name == V3.dispatch.gradient.scale.name == "ue8m0"
    assert V3.fprop.spec.scale.a.group == (1, 128)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fprop": {"promote_every": None}}, "nothing multiplies a scale per 128 of K"),
        ({"fprop": {"promote_every": 48}}, "no multiple of promote_every 48"),
        ({"dgrad": {"gradient": {"to": "e5m2"}}}, "the instruction takes e4m3 here, the cast gives e5m2"),
        ({"wgrad": {"instruction": "hopper.wgmma.x"}}, "no instruction is called"),
        ({"fprop": {"instruction": None}}, "FP32 sums need no promotion"),
        ({"moment": {}}, "unknown field `moment`"),
    ],
)
def test_a_recipe_that_cannot_be_computed_is_refused(change, message):
    """Scales that nothing multiplies, operands the instruction does not take, and misspellings are named."""
    with pytest.raises(InputError) as error:
        changed(**change)
    assert message in str(error.value)


def test_validate_and_schema_know_recipes(capsys):
    """`codesign validate` takes a recipe, shows a fault where it stands, and the schema lets instructions be names."""
    from codesign.__main__ import run

    assert run(["validate", str(ROOT / "codesign" / "training" / "recipes" / "deepseek-v3.yaml")]) == 0
    assert run(["schema", "recipe"]) == 0
    fprop = json.loads(capsys.readouterr().out.split("valid\n")[1])["$defs"]["Fprop"]
    assert {"type": "string"} in fprop["properties"]["instruction"]["anyOf"][0]["anyOf"]


def test_every_arm_and_every_shipped_proposal_resolves():
    """All experiments name arms that make a valid recipe, which survives JSON with its hash; proposals are among them."""
    resolved = {name: arm.resolved() for name, arm in arms().items()}
    assert {name for e in experiments().values() for name in e.arms} <= set(resolved)
    for recipe in resolved.values():
        assert Recipe.model_validate_json(recipe.model_dump_json()).sha256 == recipe.sha256
    hashes = {recipe.sha256: name for name, recipe in resolved.items()}
    found = {
        path.stem: hashes.get(load_proposal(path).training_recipe().sha256)
        for path in (ROOT / "proposals").glob("*.yaml")
    }
    assert found["group-scaled-mma"] == "group-128"
    assert found["group-scaled-mma-ue8m0"] == "group-32"
    assert found["configurable-accumulation"] == "bits-17"


# -- casts -----------------------------------------------------------------------------------------------------------

CASTS = st.builds(
    Cast,
    to=st.sampled_from(["e4m3", "e5m2", "e5m6", "e3m2", "e2m3", "e2m1", "e4m3fnuz"]).map(named),
    group=st.sampled_from([(1, 128), (128, 1), (128, 128), (1, 32), (3, 7), None]),
    scale=st.sampled_from(["fp32", "ue8m0"]).map(named),
    scale_rounding=st.sampled_from(["up", "down", "nearest-even"]),
    range=st.sampled_from(["largest", "binade"]),
    rounding=st.sampled_from(["nearest-even", "toward-zero", "up", "down"]),
)


@settings(max_examples=80)
@given(cast=CASTS, seed=st.integers(0, 1 << 30), spread=st.sampled_from([0.0, 1.0, 8.0]))
def test_casts_are_isa_models_bit_for_bit(cast, seed, spread):
    """Codes, scales and values of the torch quantiser equal isa_model.cast's, ragged groups and zeros included."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((130, 140)) * np.exp(spread * rng.normal(size=(130, 1)))).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = 0
    expected, got = reference_cast(cast, x), quantise(cast, torch.from_numpy(x))
    assert np.array_equal(got.codes().numpy().view(expected.codes.dtype), expected.codes)
    scales = engines.codes_of(cast.scale, got.scales).numpy().view(expected.scales.dtype)
    assert np.array_equal(scales, expected.scales)
    assert np.array_equal(got.values().numpy(), expected.values().astype(np.float32))
    assert np.array_equal(got.T.values().numpy().T, got.values().numpy())


@pytest.mark.parametrize("fmt", ["e4m3", "e5m2", "e5m6", "e3m2", "e2m1"])
def test_every_bf16_number_casts_as_the_codec_says(fmt):
    """All finite BF16 numbers, without scales: the codes of encode_array, saturating."""
    bits = np.arange(1 << 16, dtype=np.uint16).astype(np.uint32) << 16
    x = bits.view(np.float32)
    x = x[np.isfinite(x)][None]
    got = quantise(Cast(to=fmt, group=None, scale=None), torch.from_numpy(x)).codes().numpy()
    expected = encode_array(named(fmt), x, overflow="saturate")
    assert np.array_equal(got.view(expected.dtype), expected)


@pytest.mark.parametrize("scale", ["fp32", "ue8m0"])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_group_with_a_nan_or_an_infinity_is_nan_and_no_other(scale, bad):
    """As in isa_model: such a group has nothing but NaN, which a loss then shows; its neighbours keep their numbers."""
    x = np.random.default_rng(0).standard_normal((2, 256)).astype(np.float32)
    x[0, 5] = bad
    cast = Cast(scale=scale)
    expected, got = reference_cast(cast, x).values(), quantise(cast, torch.from_numpy(x)).values().numpy()
    assert np.isnan(got[0, :128]).all()
    assert np.array_equal(got, expected.astype(np.float32), equal_nan=True)


def test_power_of_two_tiles_turn_without_loss():
    """Re-tiled from 1x128 to 128x1, an E5M6 tensor with power-of-two scales keeps every number that does not underflow."""
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    cached = quantise(V3.cache.attention_output, x).values()
    turned = quantise(V3.cache.attention_output.model_copy(update={"group": (128, 1)}), cached).values()
    assert torch.equal(turned, cached)
    fp32 = V3.cache.attention_output.model_copy(update={"scale": named("fp32"), "group": (128, 1)})
    assert not torch.equal(quantise(fp32, cached).values(), cached)


# -- GEMMs -----------------------------------------------------------------------------------------------------------


def by_hand(gemm, a, b):
    """A pass through isa_model alone: numpy casts, isa_model's scales and matmul."""
    (field_a, axis_a), (field_b, axis_b) = gemm.OPERANDS
    qa, qb = reference_cast(getattr(gemm, field_a), a), reference_cast(getattr(gemm, field_b), b)
    codes_a, scales_a = (qa.codes, qa.scales) if axis_a == 1 else (qa.codes.T, qa.scales.T)
    codes_b, scales_b = (qb.codes, qb.scales) if axis_b == 0 else (qb.codes.T, qb.scales.T)
    m, n = codes_a.shape[0], codes_b.shape[1]
    scales_a = np.repeat(scales_a, -(-m // scales_a.shape[0]), axis=0)[:m]
    scales_b = np.repeat(scales_b, -(-n // scales_b.shape[1]), axis=1)[:, :n]
    return matmul(gemm.spec, codes_a, codes_b, None, scales_a, scales_b)


@pytest.mark.parametrize("arm", ["framework", "dgrad-blocks", "group-128", "group-32"])
def test_a_linear_is_three_gemms_of_isa_model(arm):
    """Y, dX and dW of a Linear equal, bit for bit, casts and matmul of isa_model put together by hand."""
    recipe = arms()[arm].resolved()
    random = torch.Generator().manual_seed(1)
    x = torch.randn(256, 128, generator=random).bfloat16().requires_grad_()
    w = (0.02 * torch.randn(384, 128, generator=random)).requires_grad_()
    dy = (1e-3 * torch.randn(256, 384, generator=random)).bfloat16()
    y = linear.Linear.apply(x, w, Arithmetic(recipe), None, torch.bfloat16)
    y.backward(dy)
    xs, ws, dys = x.detach().float().numpy(), w.detach().numpy(), dy.float().numpy()
    cached = reference_cast(recipe.cache.linear_input, xs).values().astype(np.float32)
    assert torch.equal(y, torch.from_numpy(by_hand(recipe.fprop, xs, ws)).bfloat16())
    assert torch.equal(x.grad, torch.from_numpy(by_hand(recipe.dgrad, dys, ws)).bfloat16())
    assert torch.equal(w.grad, torch.from_numpy(by_hand(recipe.wgrad, dys, cached)))


def test_an_accumulator_other_than_fp32_is_read_as_it_is():
    """FP8 wgmma into FP16: the numbers of isa_model's codes, K filled up to a whole instruction."""
    gemm = Fprop(
        instruction="hopper.wgmma.m64n8k32.f16.e4m3.e4m3",
        activation={"group": None, "scale": None},
        weight={"group": None, "scale": None},
    )
    random = torch.Generator().manual_seed(4)
    a, b = (quantise(gemm.activation, torch.randn(64, 40, generator=random)) for _ in range(2))
    padded = [np.pad(x.codes().numpy(), ((0, 0), (0, 24))) for x in (a, b)]
    expected = matmul(gemm.instruction, padded[0], padded[1].T).astype(np.float32)
    assert np.array_equal(engines.multiply(gemm, a, b.T, "model").numpy(), expected)


@pytest.mark.parametrize("arm", ["framework", "dgrad-blocks", "tensor-promoted", "tensor-unpromoted"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_operands_reach_the_hopper_kernels_as_their_interface_says(arm, number, monkeypatch):
    """Scales lie group by group beside A, in blocks or group by group beside B (N, K), and the tile does not split K."""
    gemm = arms()[arm].resolved().gemms[number]
    seen = {}

    def issue(x, *, scales, promote, tile):
        seen.update(scales=scales, promote=promote, tile=(tile.split, tile.share, tile.bm))
        a, b = x.a.double(), x.b.double()
        if scales:
            a = a * x.scale_a.double().mT.repeat_interleave(128, 1)
            blocks = x.scale_b.repeat_interleave(128, 0) if scales == 1 else x.scale_b.mT
            b = b * blocks.double().repeat_interleave(128, 1)
        return (a @ b.mT).float()

    def tile(split, share=0, bm=128, bn=128):
        return types.SimpleNamespace(split=split, share=share, bm=bm, bn=bn)

    names = ("a", "b", "scale_a", "scale_b", "out")
    fake = types.SimpleNamespace(
        Problem=lambda *fields: fields,
        candidates=lambda problem: [tile(1, bm=256, bn=16), tile(2), tile(1, share=1), tile(1)],
        Operands=lambda *tensors: types.SimpleNamespace(**dict(zip(names, tensors, strict=True))),
        issue=issue,
    )
    monkeypatch.setattr(engines, "import_module", lambda name: fake)
    monkeypatch.setattr(engines, "_tile", engines._tile.__wrapped__)
    random = torch.Generator().manual_seed(3)
    shapes = {"activation": (256, 384), "gradient": (256, 128), "weight": (128, 384)}
    (field_a, axis_a), (field_b, axis_b) = gemm.OPERANDS
    a, b = (quantise(getattr(gemm, f), torch.randn(shapes[f], generator=random)) for f in (field_a, field_b))
    a, b = (a if axis_a == 1 else a.T), (b if axis_b == 0 else b.T)
    d = engines._fused(gemm, a, b, a.elements.contiguous(), b.elements.mT.contiguous())
    exact = a.values().double() @ b.values().double()
    if a.group is None:
        exact = exact / (a.scales * b.scales)
    torch.testing.assert_close(d.double(), exact, rtol=1e-5, atol=1e-6 * exact.abs().max().item())
    assert seen["tile"] == (1, 0, 128)
    assert seen["promote"] == (0 if arm == "tensor-unpromoted" else 4)
    assert seen["scales"] == (0 if arm.startswith("tensor") else 2 if number == 2 else 1)


@pytest.mark.parametrize(
    ("arm", "native"),
    [("framework", True), ("tensor-promoted", True), ("bits-13", False), ("bits-17", False), ("group-128", False)],
)
def test_what_todays_chip_computes_is_told_from_what_it_does_not(arm, native):
    """Hopper's FP8 alone or promoted every 128 is native; another register, accumulator or scales inside are not."""
    assert {g.on_hopper for g in arms()[arm].resolved().gemms} == {native}


@pytest.mark.parametrize("arm", ["framework", "all-blocks", "scales-up", "tensor-promoted", "tensor-unpromoted"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_operands_of_one_expert_are_what_the_hopper_kernels_take(arm, number, monkeypatch):
    """Strides and alignment pass the kernels' own check where an expert's scales are a row, a column or one number."""
    run = importlib.import_module("kernels.gemm.run")
    gemm = arms()[arm].resolved().gemms[number]
    checked = []

    def issue(x, *, scales, promote, tile):
        run.check(x, scales, promote, False)
        checked.append(tile.split)
        return x.out

    monkeypatch.setattr(run, "issue", issue)
    (field_a, axis_a), (field_b, axis_b) = gemm.OPERANDS
    for tokens, inputs, outputs in ((256, 128, 256), (128, 256, 128), (128, 128, 128)):
        shapes = {"activation": (3, tokens, inputs), "gradient": (3, tokens, outputs), "weight": (3, outputs, inputs)}
        a, b = (quantise(getattr(gemm, f), torch.ones(shapes[f])) for f in (field_a, field_b))
        a, b = (a if axis_a == 1 else a.T), (b if axis_b == 0 else b.T)
        engines.multiply(gemm, a, b, "native")
    assert checked == [1] * 9


def plain_loss(parameters, size, tokens):
    """The same model in ordinary torch operations, in the dtype of its parameters."""
    functional = torch.nn.functional
    width = size.width

    def norm(x, weight):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight

    def rope(x):
        d = x.shape[-1]
        angle = torch.arange(x.shape[-2]).double()[:, None] * 10000.0 ** (-torch.arange(0, d, 2).double() / d)
        a, b = x.chunk(2, -1)
        return torch.cat((a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()), -1)

    def expert(x, up, down):
        gate, value = (x @ up.T).chunk(2, -1)
        return (functional.silu(gate) * value) @ down.T

    x = parameters["embedding"][tokens[:, :-1]]
    for i in range(size.layers):
        p = {k.removeprefix(f"layers.{i}."): v for k, v in parameters.items() if k.startswith(f"layers.{i}.")}
        qkv = (norm(x, p["attention_norm"]) @ p["qkv"].T).view(len(tokens), size.length, 3, size.heads, -1)
        q, k, v = (t.transpose(1, 2) for t in qkv.unbind(2))
        o = functional.scaled_dot_product_attention(rope(q), rope(k), v, is_causal=True)
        x = x + o.transpose(1, 2).reshape(len(tokens), size.length, width) @ p["out"].T
        h = norm(x, p["experts_norm"])
        weights, chosen = (h @ p["experts.router"].T).sigmoid().topk(size.chosen, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        y = expert(h, p["experts.shared_up"], p["experts.shared_down"])
        for e in range(size.experts):
            share = (weights * (chosen == e)).sum(-1, keepdim=True)
            y = y + share * expert(h, p["experts.up"][e], p["experts.down"][e])
        x = x + y
    logits = norm(x, parameters["norm"]) @ parameters["head"].T
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize(("recipe", "engine", "bound"), [("bf16", "auto", 0.07), ("deepseek-v3", "fp32", 0.35)])
def test_gradients_are_those_of_the_model(recipe, engine, bound):
    """Loss and all gradients agree with automatic differentiation in FP64 of a model written down independently."""
    size = SMALL.model_copy(update={"layers": 2})
    model = Transformer(size, Arithmetic(load_recipe(recipe), engine), 0)
    for p in model.parameters():
        p.data *= 3.0 if p.dim() > 1 else 1.0
    tokens = torch.randint(97, 123, (2, size.length + 1), generator=torch.Generator().manual_seed(2))
    exact = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
    expected, loss = plain_loss(exact, size, tokens), model(tokens)
    expected.backward()
    loss.backward()
    assert model.dropped[0] == 0
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3)
    for name, p in model.named_parameters():
        error = (p.grad - exact[name].grad).norm() / exact[name].grad.norm()
        # A token near the border of two experts may go to the other one, which the router's gradient shows most.
        assert error < bound * (3 if "router" in name else 1), name


def test_each_rule_can_be_switched_and_shows_in_the_gradients():
    """Every rule of the framework changes the gradients of a step when it is switched off, and none is a dead switch."""
    tokens = torch.from_numpy(batch(text().train, 2, SMALL.length, 0))
    one_rule = {
        "nothing": {},
        "cache of linear inputs": {"cache": {"linear_input": None}},
        "E5M6 after attention": {"cache": {"attention_output": None}},
        "power-of-two re-tiling": {"cache": {"attention_power_of_two": False}},
        "cache of SwiGLU inputs": {"cache": {"swiglu_input": None}},
        "dispatch of activations": {"dispatch": {"activation": None}},
        "dispatch of gradients": {"dispatch": {"gradient": None}},
        "embedding": {"high_precision": ["head", "gating", "normalisation", "attention"]},
        "head": {"high_precision": ["embedding", "gating", "normalisation", "attention"]},
        "gating": {"high_precision": ["embedding", "head", "normalisation", "attention"]},
        "normalisation": {"high_precision": ["embedding", "head", "gating", "attention"]},
        "attention": {"high_precision": ["embedding", "head", "gating", "normalisation"]},
    }
    seen = {}
    for name, change in one_rule.items():
        model = Transformer(SMALL, Arithmetic(changed(**change), "fp32"), 0)
        model(tokens).backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters()])
        seen[name] = flat.numpy().tobytes()
    assert len(set(seen.values())) == len(one_rule)


def test_dropped_choices_are_counted_and_give_nothing():
    """With slots for few tokens the rest is dropped by that expert, counted, and the loss stays finite."""
    size = SMALL.model_copy(update={"capacity": 0.5, "experts": 2, "chosen": 2})
    model = Transformer(size, Arithmetic(load_recipe("bf16")), 0)
    loss = model(torch.from_numpy(batch(text().train, 2, size.length, 0)))
    loss.backward()
    assert model.dropped.tolist() == [256.0, 512.0]
    assert torch.isfinite(loss)


# -- optimizer -------------------------------------------------------------------------------------------------------


def test_fp32_moments_give_torchs_adamw():
    """With FP32 moments the updates are those of torch.optim.AdamW on the clipped gradient."""
    random = torch.Generator().manual_seed(0)
    start = [torch.randn(4, 128, generator=random), torch.randn(128, generator=random)]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in start] for _ in range(2))
    mine = AdamW(ours, load_recipe("bf16"))
    groups = [{"params": theirs[:1], "weight_decay": 0.1}, {"params": theirs[1:], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    for step in range(5):
        gradients = [torch.randn(x.shape, generator=random) for x in start]
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        for group in reference.param_groups:
            group["lr"] = 0.01 * (step + 1)
        for p, q, g in zip(ours, theirs, gradients, strict=True):
            p.grad += 2 * g
            q.grad = g / norm.clamp(min=1.0)
        mine.prepare(step, 0.01 * (step + 1))
        mine.step(2)
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("fmt", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32), ("e4m3", torch.float8_e4m3fn)]
)
def test_moments_are_kept_in_the_recipes_format(fmt, dtype):
    """Moments lie in memory in their own format, FP8 with a scale per 128."""
    optimizer = AdamW([torch.nn.Parameter(torch.ones(2, 128))], changed(moments={"first": fmt, "second": fmt}))
    optimizer.gradient += torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    optimizer.prepare(0, 1e-3)
    optimizer.step(1)
    assert [m.elements.dtype for m in optimizer.moments] == [dtype, dtype]
    assert all((m.scales is not None) == (fmt == "e4m3") for m in optimizer.moments)
    assert torch.isfinite(optimizer.master).all()


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["framework", "bits-17"])
def test_the_loss_falls_under_the_framework_and_a_proposal(arm, monkeypatch):
    """In 16 steps on the bit-exact model the loss falls from 5.5 nats per byte (even odds) to under 4."""
    monkeypatch.setattr(loop, "VALIDATION", 1)
    size = SMALL.model_copy(update={"steps": 16, "rate": 8e-3})
    run = train(Job(arm, arms()[arm].resolved(), size, 0))
    assert run.engines == ("model", "model", "model")
    assert run.curve[0] > 5.3
    assert run.tail < 4.0
    # Casting to FP8 moves a gradient by some percent.
    assert 0.01 < run.drift_at_start.error < 0.3
    assert 0.01 < run.drift.error < 0.3


def test_truncated_sums_shrink_the_gradient_and_exact_ones_do_not():
    """With 8 fraction bits and 512 tokens along K the first gradient is smaller by over 1 %; summed exactly it is not."""
    size = SMALL.model_copy(update={"tokens": 512})
    drifts = [loop.Trainer(Job(a, arms()[a].resolved(), size, 0)).drift() for a in ("bits-8", "tensor-exact", "bf16")]
    assert drifts[0].along < -0.01 < drifts[1].along
    assert drifts[0].error > 1.5 * drifts[1].error > drifts[2].error == 0.0


def test_a_killed_run_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    """Stopped after 3 of 6 steps and taken up from its checkpoint, a run ends with the same losses to the last bit."""
    monkeypatch.setattr(loop.Trainer, "drift", lambda *_: None)
    recipe = changed(moments={"first": "e4m3", "second": "bf16"})
    job = Job("x", recipe, SMALL, 0, engine="fp32")
    whole = train(job)
    checkpoint = tmp_path / "run.pt"
    assert train(job, checkpoint, stop_after=3) is None
    assert checkpoint.exists()
    resumed = train(job, checkpoint)
    assert (resumed.curve, resumed.tail, resumed.validation) == (whole.curve, whole.tail, whole.validation)
    assert not checkpoint.exists()
    train(job, checkpoint, stop_after=1)
    with pytest.raises(InputError, match="another run"):
        train(Job("x", recipe, SMALL, 1, engine="fp32"), checkpoint)


def test_two_processes_train_like_one(tmp_path):
    """Two processes, joined as torchrun joins them, a micro-batch each, give the losses of one with both: by gloo on CPUs,
    by NCCL where there are two GPUs."""
    if torch.cuda.device_count() == 1:
        pytest.skip("one GPU, where two processes need two")
    size = SMALL.model_copy(update={"steps": 4, "micro_batches": 2})
    alone = train(Job("bf16", load_recipe("bf16"), size, 0))
    arguments = [
        "framework",
        "--arms",
        "bf16",
        "--seeds",
        "0",
        "--steps",
        "4",
        "--tokens",
        "256",
        "--micro-batches",
        "2",
    ]
    command = [sys.executable, "-m", "codesign", "train", *arguments, "--out", str(tmp_path / "record.json")]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [*command, "--work", str(tmp_path)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=180)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    record = read(tmp_path / "record.json")
    assert "2 processes" in record.machine
    (run,) = record.runs
    assert (run.curve, run.tail, run.validation) == (alone.curve, alone.tail, alone.validation)


def test_text_and_batches_are_the_same_for_everyone():
    """The same key draws the same windows, validation files are none of training's, and both are bytes of real text."""
    a, b = batch(text().train, 3, 16, 5, 7), batch(text().train, 3, 16, 5, 7)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, batch(text().train, 3, 16, 5, 8))
    assert len(text().train) > 10 * len(text().validation) > 10 * 100_000
    assert b"import" in text().validation.tobytes()


@pytest.mark.parametrize("name", list(sizes()))
def test_a_size_is_about_as_large_as_its_name(name):
    """Parameters are within a third of what the name says, and widths are multiples of 128."""
    size = find_size(name)
    layer = 4 * size.width**2 + (1 + size.experts) * 3 * size.width * size.hidden
    total = size.layers * layer + 512 * size.width
    if name != "tiny":
        assert total == pytest.approx(float(name.removesuffix("m")) * 1e6, rel=0.34)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("arm", ["framework", "tensor-unpromoted", "tensor-promoted"])
def test_the_chip_and_the_model_give_the_same_bits_in_a_training_step(arm, monkeypatch):
    """Every GEMM of one training step on a Hopper GPU equals the model's on the same operands, bit for bit."""
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("no Hopper GPU")
    compared = []

    def both(gemm, a, b, engine):
        chip = engines.multiply(gemm, a, b, engine)
        if engine == "native":
            compared.append(
                torch.equal(chip.view(torch.int32), engines.multiply(gemm, a, b, "model").view(torch.int32))
            )
        return chip

    monkeypatch.setattr(linear, "multiply", both)
    monkeypatch.setattr(loop.Trainer, "_captured", lambda self: None)
    trainer = loop.Trainer(Job(arm, arms()[arm].resolved(), SMALL, 0, engine="native"))
    trainer.advance()
    assert len(compared) == 3 * 6 * SMALL.layers  # qkv, out, two of the shared and two of the routed experts
    assert all(compared)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("arm", ["bf16", "framework", "tensor-promoted", "bits-13", "group-32"])
def test_a_replayed_step_is_the_step(arm):
    """Losses of a run whose steps are CUDA graphs are those of one that launches every kernel, and weights start the same."""
    job = Job(arm, arms()[arm].resolved(), SMALL, 0)
    replayed, launched = train(job), train(dataclasses.replace(job, graphs=False))
    assert replayed.replayed > launched.replayed
    assert (replayed.curve, replayed.tail, replayed.validation) == (launched.curve, launched.tail, launched.validation)


@pytest.fixture
def bench(tmp_path):
    """benchmarks/training.py, with a record of two steps to make."""
    spec = importlib.util.spec_from_file_location("training_benchmark", ROOT / "benchmarks" / "training.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    size = SMALL.model_copy(update={"tokens": 128, "steps": 2})
    return module.Bench(tmp_path / "record.json", "tiny", size, 100.0, [])


def test_an_arm_that_fails_leaves_the_others_their_runs(bench, monkeypatch, capsys):
    """Its fault is printed, it is not tried again, and the record has the other arms' runs with the speed of each."""
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
    """Two arms of 10 and 30 ms with 1 s beside each, two seeds, in 95 of 100 s: 1130 steps, or what the size has at most."""
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
    """Tiles of start, middle and end are read as captured ones, are of one step, and losses are those without capturing."""
    job = Job("bf16", load_recipe("bf16"), SMALL, 0)
    seen = []

    class Seen(loop.Trainer):
        def __init__(self, job):
            super().__init__(job)
            seen.append(self)

    file = tmp_path / "run.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "Trainer", Seen)
        capture.capture(job, "tiny", file)
    alone = loop.Trainer(job)
    for _ in range(SMALL.steps - 1):
        alone.advance()
    assert seen[0].seen == alone.seen
    about = tensor_file.metadata(file)
    chosen = json.loads(about["choice"].split(": ", 1)[1])
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
        assert (x.shape, w.shape, dy.shape, dy_long.shape) == ((64, 128), (128, 128), (64, 128), (256, 16))
        outputs, inputs = at["outputs of fprop"], at["inputs of dgrad"]
        assert np.array_equal(w[:, slice(*inputs)], w_in[slice(*outputs)])
        rows, columns = at["tokens of fprop"], at["inputs of wgrad"]
        assert np.array_equal(x[:, slice(*columns)], x_long[slice(*rows)])
        assert np.abs(dy).max() == np.abs(dy_long).max() > 0
        starts.append(w)
    first = Transformer(SMALL, Arithmetic(job.recipe), 0)
    outputs = chosen["down-start"]["outputs of fprop"]
    weight = first.routers[chosen["down-start"]["layer"]].shared_down.detach()[slice(*outputs)]
    assert np.array_equal(starts[0], weight.to(torch.bfloat16).float().numpy())
    assert not np.array_equal(starts[0], starts[2])
    # The gradient is the run's own: X^T dY over all tokens is what the step's Wgrad adds up.
    alone_first = loop.Trainer(job)
    drawn = torch.from_numpy(batch(text().train, 2, SMALL.length, 0, 0, 0))
    alone_first.model(drawn).backward()
    whole = alone_first.model.routers[0].shared_down.grad.numpy()
    _, (dy_long, x_long) = (
        recorded(Recorded(file, f"down-start/{s}/gradient", f"down-start/{s}/{o}"))
        for s, o in (("dgrad", "weight"), ("wgrad", "activation"))
    )
    block = whole[slice(*chosen["down-start"]["outputs of wgrad"]), slice(*chosen["down-start"]["inputs of wgrad"])]
    np.testing.assert_allclose(dy_long.T @ x_long, block, rtol=1e-4, atol=1e-6 * np.abs(block).max())


# -- records and claims ----------------------------------------------------------------------------------------------


def record_of(**tails):
    """A record with a run per arm and seed, whose losses are flat."""
    record = empty_record("tiny", SMALL, 1)
    for arm, values in tails.items():
        name = arm.replace("_", "-")
        recipe = arms()[name].resolved()
        for seed, value in enumerate(values):
            steps, curve, tail = summarise([value] * SMALL.steps)
            run = Run(
                arm=name,
                recipe=recipe,
                recipe_sha256=recipe.sha256,
                seed=seed,
                engines=("torch",) * 3 if name == "bf16" else ("model",) * 3,
                steps=steps,
                curve=curve,
                tail=tail,
                validation=value,
                dropped=0.0,
                seconds=1.0,
                tokens_per_second=1.0,
            )
            record = record.with_run(run)
    return record


def test_a_gap_is_the_mean_over_seeds_with_students_interval():
    """Gaps of 1 % and 3 %: mean 2 %, interval 12.706 * 1 % around it; the largest gap of the curves is 3 %."""
    g = gap(record_of(bf16=[2.0, 2.0], framework=[2.02, 2.06]), "framework")
    assert g.mean == pytest.approx(0.02)
    assert g.high - g.mean == pytest.approx(12.706 * 0.01, rel=1e-3)
    assert g.largest == pytest.approx(0.03, rel=1e-3)


def test_a_record_is_read_as_it_was_written(tmp_path):
    """Runs survive the file, and so does a record that has none yet."""
    for record in (record_of(bf16=[2.0], framework=[2.1]), record_of()):
        write(record, tmp_path / "record.json")
        assert read(tmp_path / "record.json") == record


def test_an_interval_is_never_narrower_than_the_noise_of_equal_runs():
    """Seeds that agree by chance are given the interval of BF16 runs that started a hair off."""
    tails = {"bf16": [2.0, 2.0], "framework": [2.02, 2.02]}
    assert gap(record_of(**tails), "framework").high == pytest.approx(0.01)
    noisy = gap(record_of(**tails, bf16_nudged=[1.98, 2.02]), "framework")
    assert noisy.high - noisy.mean == pytest.approx(12.706 * 0.01, rel=1e-3)


def test_gaps_along_training_are_drawn_for_every_arm_but_the_reference():
    """A panel to an experiment that has runs names each of its arms, and not BF16; BF16's own noise lies under them."""
    record = record_of(bf16=[2.0, 2.0], bf16_nudged=[2.01, 1.96], framework=[2.1, 2.2], bits_8=[2.2])
    drawn = svg(record, ["framework", "bits", "moments", "groups"])
    assert drawn.count("framework (2 seeds)") == 3
    assert drawn.count("bits-8 (1 seed)") == 1
    assert drawn.count("BF16, nudged") == 4
    assert ">bf16<" not in drawn
    assert "bits-10" not in drawn
    steps = SMALL.tokens / 1e6
    assert plot._noise(record)[-1] == pytest.approx((SMALL.steps * steps, 2.0))


def test_smoothing_is_an_unbiased_moving_average():
    """A constant loss stays itself from the first step, and the tail is the mean of the last quarter."""
    steps, curve, tail = summarise([1.0] * 12 + [2.0] * 4)
    assert steps[-1] == 16
    assert curve[0] == curve[11] == 1.0
    assert tail == 2.0
    assert summarise([1.0, float("nan")])[2] is None


PROPOSAL = """proposal: mine
title: x
source: x
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change:
  stages:
    fuse: {fraction_bits: 17, result: {format: fp32, rounding: toward-zero, overflow: infinity}}
software: {group: null}
claims:
  - {metric: training.loss_gap, at_most: 0.0025}
  - {metric: training.loss_gap, of: software, at_most: 0.0025}
  - {metric: training.loss_gap, of: today, at_most: 0.0025}
"""


def test_claims_on_the_loss_gap_are_judged_from_records(monkeypatch):
    """A small gap supports the claim, a large one refutes it, a lone seed or FP32 sums in its stead decide nothing."""
    mine = parse_proposal(parse_yaml(PROPOSAL, "mine.yaml"))

    def judgements(record):
        monkeypatch.setattr(evidence, "shipped", lambda: (("record.json", record),))
        return [v.judgement for v in judge(mine, evidence.gather(mine).figures)]

    record = record_of(bf16=[2.0, 2.0], bits_17=[2.002, 2.0021], tensor_promoted=[2.4, 2.41], tensor_unpromoted=[2.0])
    assert judgements(record) == ["supported", "refuted", "undetermined"]
    stand_in = [r.model_copy(update={"engines": ("fp32",) * 3}) for r in record.runs if r.arm != "bf16"]
    for run in stand_in:
        record = record.with_run(run)
    assert judgements(record) == ["undetermined"] * 3


def test_claims_on_the_first_gradient_are_judged_from_records(monkeypatch):
    """Drift and bias are the means over seeds with Student's interval; one seed, or none with a drift, has no figure."""
    record = record_of(bf16=[2.0, 2.0], bits_17=[2.0, 2.0], tensor_promoted=[2.0, 2.0])
    for run, error in zip(record.find("bits-17") + record.find("tensor-promoted"), (0.10, 0.12, 0.2, 0.2), strict=True):
        record = record.with_run(run.model_copy(update={"drift_at_start": Drift(error=error, along=-error / 2)}))
    monkeypatch.setattr(evidence, "shipped", lambda: (("record.json", record),))
    text = PROPOSAL.replace("loss_gap, at_most: 0.0025", "gradient_drift, at_most: 0.25")
    text = text.replace("loss_gap, of: software, at_most", "gradient_bias, of: software, at_least").replace(
        "0.0025", "-0.05"
    )
    mine = parse_proposal(parse_yaml(text, "mine.yaml"))
    figures = {(f.metric, f.variant): f for f in evidence.gather(mine).figures}
    own = figures["training.gradient_drift", "proposal"]
    assert (own.value, own.low, own.high) == pytest.approx((0.11, 0.11 - 0.12706, 0.11 + 0.12706), rel=1e-3)
    assert ("training.gradient_drift", "today") not in figures
    assert [v.judgement for v in judge(mine, tuple(figures.values()))] == ["supported", "refuted", "undetermined"]
    assert own.ratios["software"] == pytest.approx((0.55 - 12.706 * 0.05, 0.55 + 12.706 * 0.05), rel=1e-3)
    assert {m for m, _ in figures} == {"training.loss_gap", "training.gradient_drift", "training.gradient_bias"}


def test_a_diverged_run_refutes(monkeypatch):
    """A loss that became no number breaks every bound."""
    record = record_of(bf16=[2.0, 2.0], bits_17=[2.0, 2.0])
    record = record.with_run(record.find("bits-17")[1].model_copy(update={"tail": None, "diverged_at": 3}))
    monkeypatch.setattr(evidence, "shipped", lambda: (("record.json", record),))
    mine = parse_proposal(parse_yaml(PROPOSAL, "mine.yaml"))
    assert judge(mine, evidence.gather(mine).figures)[0].judgement == "refuted"


def test_no_run_stands_for_what_it_did_not_train():
    """A path's casts are in no recipe, so it has no gap; software on a base that scales itself is the base, not promotion."""
    fused, shipped = (load_proposal(ROOT / f"proposals/{n}.yaml") for n in ("fused-tma-cast", "blackwell-mxf8f6f4"))
    assert not evidence.gather(fused).figures
    assert shipped.training_recipe("software") == shipped.training_recipe("today")
    assert evidence.gather(load_proposal(ROOT / "proposals/group-scaled-mma.yaml")).figures


def test_a_proposal_may_name_a_recipe_and_a_wrong_one_is_shown_where_it_stands():
    """`training` changes the rules of the runs; a recipe that does not exist is an error of the file."""
    other = PROPOSAL + "training: {change: {moments: {first: fp32}}}\n"
    mine = parse_proposal(parse_yaml(other, "mine.yaml")).training_recipe()
    assert mine.moments.first.name == "fp32"
    with pytest.raises(InputError, match="no recipe is called `deepsek-v3`"):
        parse_proposal(parse_yaml(PROPOSAL + "training: {recipe: deepsek-v3}\n", "mine.yaml"))


def test_evaluate_trains_a_small_model_when_asked(monkeypatch):
    """`train=True` adds the gaps of a run made now: of the proposal and of today's software, two seeds each, and a plot."""
    monkeypatch.setattr(evidence, "PROXY_STEPS", 4)
    monkeypatch.setattr("codesign.training.size.find_size", lambda name: SMALL)
    monkeypatch.setattr(loop.Trainer, "drift", lambda *_: None)
    monkeypatch.setattr(loop, "VALIDATION", 1)
    monkeypatch.setattr(evidence, "shipped", lambda: ())
    found = evidence.gather(parse_proposal(parse_yaml(PROPOSAL, "mine.yaml")), train=True)
    assert [f.variant for f in found.figures] == ["software", "proposal"]
    assert all(f.low < f.value < f.high and "a run made now" in f.source for f in found.figures)
    assert [s.variant for s in found.plots[0].series] == ["software", "proposal"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["framwork"], "did you mean `framework`?"),
        (["framework", "--arms", "framewrk"], "did you mean `framework`?"),
        (["framework", "--size", "2m"], "no size is called `2m`"),
        (["framework", "--tokens", "200"], "tokens"),
        (["framework", "--micro-batches", "3"], "whole sequences"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_message(arguments, message, capsys):
    """Unknown experiments, arms and sizes, and tokens that do not fit, end with exit code 2 and a hint."""
    from codesign.__main__ import run

    assert run(["train", *arguments]) == 2
    assert message in capsys.readouterr().err
