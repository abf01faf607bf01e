"""Training: rules of the recipe, casts, GEMMs and optimizer, compared with independent references."""

import importlib.util
import json
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

torch = pytest.importorskip("torch", reason="training needs the extra `kernels`")

from codesign.evidence.training.experiments import arms, experiments  # noqa: E402
from codesign.evidence.training.model import Transformer  # noqa: E402
from codesign.evidence.training.optimizer import AdamW  # noqa: E402
from codesign.evidence.training.size import find_size  # noqa: E402
from codesign.evidence.training.text import batch, text  # noqa: E402
from codesign.proposal.load import load_proposal  # noqa: E402
from codesign.proposal.recipe import Fprop, Recipe, load_recipe, parse_recipe  # noqa: E402
from codesign.torch import engines  # noqa: E402
from codesign.torch.arithmetic import Arithmetic  # noqa: E402
from codesign.torch.linear import Rules, linear  # noqa: E402
from codesign.torch.quantise import quantise  # noqa: E402
from isa_model import InputError, matmul  # noqa: E402
from isa_model.array_codec import encode_array  # noqa: E402
from isa_model.cast import Cast  # noqa: E402
from isa_model.cast import quantise as reference_cast  # noqa: E402
from isa_model.diagnostics import parse_yaml  # noqa: E402
from isa_model.formats import named  # noqa: E402
from isa_model.library import merge  # noqa: E402
from kernels.gemm.tile import OutputType, ScaleLayout  # noqa: E402

ROOT = Path(__file__).parent.parent
SMALL = find_size("tiny").model_copy(update={"tokens": 256, "steps": 6})
V3 = load_recipe("deepseek-v3")


pytestmark = pytest.mark.usefixtures("one_thread")


def changed(**change):
    return parse_recipe(parse_yaml("{}", "x"), merge(V3.model_dump(mode="json"), change))


# -- recipe ----------------------------------------------------------------------------------------------------------


def test_the_shipped_recipe_has_the_rules_of_the_report():
    """The shipped recipe has the rules of DeepSeek-V3 3.3.

    These are E4M3, 1x128 and 128x1 tiles, 128x128 weight blocks, promotion every 128, BF16 moments, E5M6 after attention
    with power-of-two scales, and FP8 dispatch.
    """
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
        ({"fprop": {"promote_every": None}}, "nothing applies a scale per 128 of K"),
        ({"fprop": {"promote_every": 48}}, "not a multiple of promote_every 48"),
        ({"dgrad": {"gradient": {"to": "e5m2"}}}, "the instruction takes e4m3 here, the cast gives e5m2"),
        ({"wgrad": {"instruction": "hopper.wgmma.x"}}, "no instruction is called"),
        ({"fprop": {"instruction": None}}, "FP32 sums need no promotion"),
        ({"moment": {}}, "unknown field `moment`"),
    ],
)
def test_a_recipe_that_cannot_be_computed_is_refused(change, message):
    """Scales that nothing applies, operands that the instruction does not accept, and misspellings are reported."""
    with pytest.raises(InputError) as error:
        changed(**change)
    assert message in str(error.value)


def test_validate_and_schema_know_recipes(capsys):
    """`codesign validate` accepts a recipe and locates its faults, and the schema allows names for instructions."""
    from codesign.__main__ import run

    assert run(["validate", str(ROOT / "codesign" / "proposal" / "recipes" / "deepseek-v3.yaml")]) == 0
    assert run(["schema", "recipe"]) == 0
    fprop = json.loads(capsys.readouterr().out.split("valid\n")[1])["$defs"]["Fprop"]
    assert {"type": "string"} in fprop["properties"]["instruction"]["anyOf"][0]["anyOf"]


def test_every_arm_and_every_shipped_proposal_resolves():
    """Arms of all experiments give valid recipes, which keep their hash through JSON; shipped proposals are among them. A
    sparse or a stochastic one has none, nor has one with several levels of scales or FP32 tensors."""
    resolved = {name: arm.resolved() for name, arm in arms().items()}
    assert {name for e in experiments().values() for name in e.arms} <= set(resolved)
    for recipe in resolved.values():
        assert Recipe.model_validate_json(recipe.model_dump_json()).sha256 == recipe.sha256
    hashes = {recipe.sha256: name for name, recipe in resolved.items()}
    shipped = {path.stem: load_proposal(path) for path in (ROOT / "proposals").glob("*.yaml")}
    untrained = {"sparse-2-4-fp8": "no recipe prunes", "stochastic-accumulator": "round stochastically"}
    untrained |= {"hif4": "several levels of scales", "fp32-from-16bit-integers": "BF16 tensors"}
    for name, reason in untrained.items():
        with pytest.raises((InputError, ValidationError), match=reason):
            shipped.pop(name).training_recipe()
    found = {name: hashes.get(proposal.training_recipe().sha256) for name, proposal in shipped.items()}
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
    """Codes, scales and values of the torch quantiser equal those of isa_model.cast, also for ragged groups and zeros."""
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
    """All finite BF16 numbers are cast to the codes of encode_array, saturating, without scales."""
    bits = np.arange(1 << 16, dtype=np.uint16).astype(np.uint32) << 16
    x = bits.view(np.float32)
    x = x[np.isfinite(x)][None]
    got = quantise(Cast(to=fmt, group=None, scale=None), torch.from_numpy(x)).codes().numpy()
    expected = encode_array(named(fmt), x, overflow="saturate")
    assert np.array_equal(got.view(expected.dtype), expected)


@pytest.mark.parametrize("scale", ["fp32", "ue8m0"])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_group_with_a_nan_or_an_infinity_is_nan_and_no_other(scale, bad):
    """A group with a NaN or an infinity becomes NaN, as in isa_model; its neighbours keep their numbers."""
    x = np.random.default_rng(0).standard_normal((2, 256)).astype(np.float32)
    x[0, 5] = bad
    cast = Cast(scale=scale)
    expected, got = reference_cast(cast, x).values(), quantise(cast, torch.from_numpy(x)).values().numpy()
    assert np.isnan(got[0, :128]).all()
    assert np.array_equal(got, expected.astype(np.float32), equal_nan=True)


def test_power_of_two_tiles_turn_without_loss():
    """An E5M6 tensor with power-of-two scales, re-tiled from 1x128 to 128x1, keeps every number that does not underflow."""
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    cached = quantise(V3.cache.attention_output, x).values()
    turned = quantise(V3.cache.attention_output.model_copy(update={"group": (128, 1)}), cached).values()
    assert torch.equal(turned, cached)
    fp32 = V3.cache.attention_output.model_copy(update={"scale": named("fp32"), "group": (128, 1)})
    assert not torch.equal(quantise(fp32, cached).values(), cached)


# -- GEMMs -----------------------------------------------------------------------------------------------------------


def by_hand(gemm, a, b):
    """Return a pass computed by isa_model alone: numpy casts, its scales and matmul."""
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
    """Y, dX and dW of a Linear equal casts and products of isa_model, bit for bit."""
    recipe = arms()[arm].resolved()
    random = torch.Generator().manual_seed(1)
    x = torch.randn(256, 128, generator=random).bfloat16().requires_grad_()
    w = (0.02 * torch.randn(384, 128, generator=random)).requires_grad_()
    dy = (1e-3 * torch.randn(256, 384, generator=random)).bfloat16()
    y = linear(x, w, None, Rules(Arithmetic(recipe)))
    y.backward(dy)
    xs, ws, dys = x.detach().float().numpy(), w.detach().numpy(), dy.float().numpy()
    cached = reference_cast(recipe.cache.linear_input, xs).values().astype(np.float32)
    assert torch.equal(y, torch.from_numpy(by_hand(recipe.fprop, xs, ws)).bfloat16())
    assert torch.equal(x.grad, torch.from_numpy(by_hand(recipe.dgrad, dys, ws)).bfloat16())
    assert torch.equal(w.grad, torch.from_numpy(by_hand(recipe.wgrad, dys, cached)))


def test_an_accumulator_other_than_fp32_is_read_as_it_is():
    """FP8 wgmma into FP16 gives the numbers of isa_model's codes, with K padded to a whole instruction."""
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
    """Scales of A are stored by group, those of B in blocks or by group, B is (N, K), and the tile does not split K."""
    gemm = arms()[arm].resolved().gemms[number]
    seen = {}

    def issue(x, *, scales, promote, tile):
        seen.update(scales=scales, promote=promote, tile=(tile.split, tile.share, tile.bm))
        a, b = x.a.double(), x.b.double()
        if scales:
            a = a * x.scale_a.double().mT.repeat_interleave(128, 1)
            blocks = x.scale_b.repeat_interleave(128, 0) if scales == 1 else x.scale_b.mT
            b = b * blocks.double().repeat_interleave(128, 1)
        d = a @ b.mT
        return (d if scales else d * (x.scale_a * x.scale_b)).float()

    def tile(split, share=0, bm=128, bn=128):
        return types.SimpleNamespace(split=split, share=share, bm=bm, bn=bn)

    names = ("a", "b", "scale_a", "scale_b", "out")
    fake = types.SimpleNamespace(
        GemmProblem=lambda *sizes, **kind: sizes,
        ScaleLayout=ScaleLayout,
        OutputType=OutputType,
        candidates=lambda problem: [tile(1, bm=256, bn=16), tile(2), tile(1, share=1), tile(1)],
        GemmOperands=lambda *tensors: types.SimpleNamespace(**dict(zip(names, tensors, strict=True))),
        issue=issue,
    )
    monkeypatch.setattr(engines, "import_module", lambda name: fake)
    monkeypatch.setattr(engines, "_tile", engines._tile.__wrapped__)
    random = torch.Generator().manual_seed(3)
    shapes = {"activation": (256, 384), "gradient": (256, 128), "weight": (128, 384)}
    (field_a, axis_a), (field_b, axis_b) = gemm.OPERANDS
    a, b = (quantise(getattr(gemm, f), torch.randn(shapes[f], generator=random)) for f in (field_a, field_b))
    a, b = (a if axis_a == 1 else a.T), (b if axis_b == 0 else b.T)
    factors = [a.scales, b.scales] if a.group is None else []
    d = engines._fused(gemm, a, b, a.elements.contiguous(), b.elements.mT.contiguous(), factors, torch.float32)
    exact = a.values().double() @ b.values().double()
    torch.testing.assert_close(d.double(), exact, rtol=1e-5, atol=1e-6 * exact.abs().max().item())
    assert seen["tile"] == (1, 0, 128)
    assert seen["promote"] == (0 if arm == "tensor-unpromoted" else 4)
    assert seen["scales"] == (0 if arm.startswith("tensor") else 2 if number == 2 else 1)


@pytest.mark.parametrize(
    ("arm", "native"),
    [("framework", True), ("tensor-promoted", True), ("bits-13", False), ("bits-17", False), ("group-128", False)],
)
def test_what_todays_chip_computes_is_told_from_what_it_does_not(arm, native):
    """Hopper's FP8, alone or promoted every 128, is native; another register, accumulator or scales inside are not."""
    assert {g.on_hopper for g in arms()[arm].resolved().gemms} == {native}


@pytest.mark.parametrize("arm", ["framework", "all-blocks", "scales-up", "tensor-promoted", "tensor-unpromoted"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_operands_of_one_expert_are_what_the_hopper_kernels_take(arm, number, monkeypatch):
    """Strides and alignment pass the kernels' own check if an expert's scales are a row, a column or one number."""
    run = importlib.import_module("kernels.gemm.launches")
    gemm = arms()[arm].resolved().gemms[number]
    checked = []

    def issue(x, *, scales, promote, tile):
        run.check(x, scales=scales, promote=promote, add=False)
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
    """Return the loss of the same model in ordinary torch operations, in the dtype of its parameters."""
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
    """Loss and all gradients agree with automatic differentiation in FP64 of an independent implementation."""
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
    """Switching off any rule of the framework changes the gradients of a step."""
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
    """With few slots, the other tokens are dropped and counted, and the loss stays finite."""
    size = SMALL.model_copy(update={"capacity": 0.5, "experts": 2, "chosen": 2})
    model = Transformer(size, Arithmetic(load_recipe("bf16")), 0)
    loss = model(torch.from_numpy(batch(text().train, 2, size.length, 0)))
    loss.backward()
    assert model.dropped.tolist() == [256.0, 512.0]
    assert torch.isfinite(loss)


# -- optimizer -------------------------------------------------------------------------------------------------------


def test_fp32_moments_give_torchs_adamw():
    """With FP32 moments, updates equal those of torch.optim.AdamW on the clipped gradient."""
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
    """Moments are stored in their own format, FP8 with a scale per 128."""
    optimizer = AdamW([torch.nn.Parameter(torch.ones(2, 128))], changed(moments={"first": fmt, "second": fmt}))
    optimizer.gradient += torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    optimizer.prepare(0, 1e-3)
    optimizer.step(1)
    assert [m.elements.dtype for m in optimizer.moments] == [dtype, dtype]
    assert all((m.scales is not None) == (fmt == "e4m3") for m in optimizer.moments)
    assert torch.isfinite(optimizer.master).all()
