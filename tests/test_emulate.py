"""Whole models on an instruction: what is replaced, which bits come out, and that torch's own machinery works around it."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="emulation needs the extra `kernels`")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import codesign.torch as emulator  # noqa: E402
from codesign.proposal.load import load_proposal  # noqa: E402
from codesign.proposal.recipe import load_recipe  # noqa: E402
from codesign.proposal.shipped import names  # noqa: E402
from codesign.torch.arithmetic import Arithmetic  # noqa: E402
from codesign.torch.attention import EmulatedAttention  # noqa: E402
from codesign.torch.linear import Rules, linear  # noqa: E402
from codesign.torch.quantise import quantise as torch_quantise  # noqa: E402
from codesign.torch.rules import recipe_on  # noqa: E402
from codesign.torch.shared_input import SharedInput  # noqa: E402
from isa_model import InputError, Instruction, gemm, load  # noqa: E402
from isa_model.cast import Cast, quantise  # noqa: E402
from isa_model.library import changed, raw  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

HOPPER = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
NOTHING_LOST = {"terms": 96, "fraction_bits": None, "rounding": None, "zero_exponent": None}
NOTHING_LOST["result"] = {"format": "fp32", "rounding": "nearest-even"}
EXACT = {"base": HOPPER, "change": {"shape": {"k": 96}, "stages": {"fuse": NOTHING_LOST}}}


class ViT(nn.Module):
    """A plain vision Transformer as one writes it with torch's own modules."""

    def __init__(self, width=64, heads=4, layers=2, **kwargs):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        block = nn.TransformerEncoderLayer(width, heads, 2 * width, batch_first=True, dropout=0.0, **kwargs)
        self.encoder = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, image):
        return self.head(self.encoder(self.patch(image).flatten(2).mT + self.position).mean(1))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.gate = nn.Linear(96, 128), nn.Linear(128, 96, bias=False), nn.Linear(96, 4)

    def forward(self, x):
        return self.down(functional.silu(self.up(x))) * self.gate(x).mean(-1, keepdim=True)


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


def by_hand(x, weight, bias, instruction=HOPPER):
    """Return a Linear with one FP8 scale per tensor, computed by isa_model alone."""
    recipe = recipe_on(instruction)
    a, b = (quantise(c, t.detach().numpy()) for c, t in zip(recipe.fprop.casts, (x, weight), strict=True))
    scale = np.float32(a.scale_values().item()) * np.float32(b.scale_values().item())
    return gemm(
        recipe.fprop.spec, a.codes, b.codes.T, alpha=scale, bias=None if bias is None else bias.detach().numpy()
    )


LEVELS = {"group": [1, 32], "format": "ue8m0", "coarser": [{"group": [1, 64], "format": "fp32"}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codebook": {"b": {"bits": 3}}}, "which no recipe makes"),
        ({"scale": {"a": LEVELS, "onto": "products"}}, "several levels of scales"),
        ({"a": "nf4"}, "signed formats without tables, and nf4 is none"),
        ({"sparsity": {"kept": 2, "of": 4}, "shape": {"k": 64}}, "no recipe prunes"),
    ],
)
def test_an_instruction_that_no_model_can_be_cast_to_is_refused(change, message):
    """Operands in tables, with several levels of scales or pruned are refused with a remedy, before anything is replaced."""
    spec = Instruction.model_validate(changed(raw(HOPPER), change))
    with pytest.raises(InputError, match=message) as refused:
        emulator.emulate(Mlp(), on=spec)
    assert refused.value.problems[0].hint


@pytest.mark.parametrize("cast", [{"flush_inputs": True}, {"random": "elements"}, {"floor": 1e-31}])
def test_casts_that_torch_does_not_make_are_refused(cast):
    """A cast whose bits torch would not have is refused by name."""
    with pytest.raises(
        ValueError, match=r"drop `flush_inputs`|without randomness, with one level of scales and a floor"
    ):
        torch_quantise(Cast.model_validate(cast), torch.randn(4, 128))


def test_a_constant_scale_is_taken_back():
    """A model on FP32 sums times 2^-4 has the outputs of one on the sums, to the bit; a power that FP32 lacks is refused."""
    arm, model, x = "arm.fmmla.f32.e4m3.e4m3.lscale0.osm0", Mlp(), torch.randn(8, 96)

    def on(power):
        spec = Instruction.model_validate(changed(raw(arm), {"scale": {"power": power, "onto": "dot"}}))
        with emulator.emulate(model, on=spec):
            return model(x)

    with emulator.emulate(model, on=load(arm)):
        plain = model(x)
    assert torch.equal(on(-4), plain)
    assert torch.equal(on(9), plain)
    with pytest.raises(InputError, match=r"takes a constant scale of 2\*\*-128 back"):
        on(-128)


def test_every_linear_of_a_model_has_the_bits_of_isa_model():
    """Outputs of up and down equal quantised operands multiplied by isa_model, scaled and biased in FP32; the gate is left."""
    model, x, seen = Mlp(), torch.randn(40, 96), {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: seen.update({name: (i[0], o)}))
    plain = model.gate(x)
    with emulator.emulate(model, on=HOPPER) as emulation:
        model(x)
    assert [row.name for row in emulation.replaced] == ["up", "down"]
    assert torch.equal(seen["gate"][1], plain)
    for name in ("up", "down"):
        module, (given, got) = getattr(model, name), seen[name]
        assert np.array_equal(got.detach().numpy(), by_hand(given, module.weight, module.bias))


def test_a_with_block_ends_and_leaves_the_model_as_it_was():
    """After the block, classes, outputs and the state dict are the model's own."""
    model, x = Mlp(), torch.randn(8, 96)
    before, state = model(x), dict(model.state_dict())
    with emulator.emulate(model, on=HOPPER):
        assert not torch.equal(model(x), before)
        assert list(model.state_dict()) == list(state)
    assert torch.equal(model(x), before)
    assert type(model.up) is nn.Linear


def test_the_report_names_what_was_left_and_why():
    """A head, a gate, a convolution and a module outside the patterns are left, each with its reason."""
    report = str(emulator.emulate(ViT(), on="group-scaled-mma", only=["encoder.layers.0.*", "head"]))
    assert "replaced: 3 modules" in report
    assert "head (Linear): head, kept in high precision" in report
    assert "patch (Conv2d): not a Linear" in report
    assert "encoder.layers.*.linear1 (Linear): matches none of encoder.layers.0.*, head" in report


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_plain_vit_is_emulated_without_a_change_to_it(norm_first):
    """Every projection of nn.MultiheadAttention and both Linears of each layer are emulated, with and without gradients.

    torch's fused encoder layer, which reads parameters past any module, is kept from skipping them. With BF16 operands the
    logits are those of the model up to BF16's rounding.
    """
    model, image = ViT(norm_first=norm_first).eval(), torch.randn(2, 3, 32, 32)
    reference = model(image)
    with emulator.emulate(model, on="bf16") as emulation:
        assert {row.name.rsplit(".", 1)[-1] for row in emulation.replaced} == {"self_attn", "linear1", "linear2"}
        assert torch.allclose(model(image), reference, atol=0.03)
    with emulator.emulate(model, on=HOPPER):
        slow = model(image)
        with torch.no_grad():
            assert torch.equal(model(image), slow)
    assert not torch.allclose(slow, reference, atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(model(image), reference, atol=1e-5)


def test_masks_of_multihead_attention_mean_what_torch_means():
    """Padding, a mask of numbers, a causal mask and returned weights give torch's own results, up to BF16's rounding."""
    module = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x, other = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    padding = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    cases = [
        ((x, x, x), {"need_weights": False}),
        ((x, x, x), {"attn_mask": causal, "is_causal": True, "need_weights": False}),
        ((x, other, other), {"key_padding_mask": padding}),
        ((x[0], x[0], x[0]), {"average_attn_weights": False}),
    ]
    expected = [module(*given, **kwargs) for given, kwargs in cases]
    with emulator.emulate(module, on="bf16"):
        for (given, kwargs), (y, weights) in zip(cases, expected, strict=True):
            got, seen = module(*given, **kwargs)
            assert got.shape == y.shape
            assert torch.allclose(got, y, atol=0.02)
            assert (seen is None) == (weights is None)
            assert weights is None or torch.allclose(seen, weights, atol=0.02)


def test_attentions_products_are_emulated_when_asked():
    """Both products run on the instruction; causal and masked attention stay close to torch's, but not equal."""
    model, image = ViT().eval(), torch.randn(2, 3, 32, 32)
    with emulator.emulate(model, on="bf16", attention=True) as emulation:
        model(image)
        assert emulation.attention.calls == 2
    q, k, v = (torch.randn(2, 3, 12, 16) for _ in range(3))
    mask = torch.rand(2, 1, 12, 12) > 0.3
    for kwargs in ({}, {"is_causal": True}, {"attn_mask": mask}, {"attn_mask": mask.float(), "scale": 0.1}):
        expected = functional.scaled_dot_product_attention(q, k, v, **kwargs)
        with EmulatedAttention(Arithmetic(load_recipe("deepseek-v3"))):
            got = functional.scaled_dot_product_attention(q, k, v, **kwargs)
        assert not torch.equal(got, expected)
        assert torch.allclose(got, expected, atol=0.2, rtol=0.1), kwargs


def test_modules_can_have_instructions_of_their_own():
    """`on` maps patterns to instructions; the first that matches counts, and None leaves a module."""
    model = Mlp()
    emulation = emulator.emulate(model, on={"up": "group-scaled-mma", "down": None, "*": HOPPER}, keep=())
    assert [(row.name, row.what.split(",")[0]) for row in emulation.replaced] == [
        ("up", "group-scaled-mma"),
        ("gate", HOPPER),
    ]


def test_names_engines_and_patterns_that_fit_nothing_are_refused():
    """Each is one message with a remedy, and the model stays as it was."""
    model = Mlp()
    for on, options, said in (
        ("hoper", {}, "called `hoper`"),
        (HOPPER, {"engine": "gpus"}, "no engine is called `gpus`"),
        (HOPPER, {"engine": "gpu"}, "engine gpu cannot compute on cpu"),
        (HOPPER, {"engine": "native"}, "engine native cannot compute"),
        (HOPPER, {"only": "*.mlp.*"}, "nothing of the model would be emulated"),
        ("volta.mma.m8n8k4.f64", {}, "volta"),
    ):
        with pytest.raises(InputError, match=said.replace("*", r"\*")):
            emulator.emulate(model, on=on, **options)
        assert type(model.up) is nn.Linear


def test_what_loses_nothing_equals_the_exact_sum():
    """On an instruction that sums exactly, a Linear is the exact sum of its FP8 operands, rounded once."""
    model, x = nn.Linear(96, 64, bias=False), torch.randn(32, 96)
    with emulator.emulate(model, on=EXACT, keep=()):
        got = model(x).detach().double()
    recipe = recipe_on(EXACT)
    a, b = (quantise(c, t.detach().numpy()) for c, t in zip(recipe.fprop.casts, (x, model.weight), strict=True))
    exact = (a.elements() @ b.elements().T).astype(np.float32)
    scale = np.float32(a.scale_values().item()) * np.float32(b.scale_values().item())
    assert np.array_equal(got.numpy(), (exact * scale).astype(np.float64))


def test_gradients_follow_the_recipe():
    """The backward pass uses dgrad and wgrad of the recipe: weight gradients differ from FP32's, by FP8's rounding."""
    model, x = Mlp(), torch.randn(64, 96, requires_grad=True)
    reference = copy.deepcopy(model)
    with emulator.emulate(model, on="deepseek-v3"):
        model(x).square().sum().backward()
    reference(x).square().sum().backward()
    for name, p in model.named_parameters():
        other = reference.get_parameter(name).grad
        assert p.grad.dtype == p.dtype
        assert 0 < (p.grad - other).norm() / other.norm() < 0.2


def test_the_operators_pass_torchs_own_checks():
    """Schema, fake tensors and autograd registration of codesign::linear hold under torch.library.opcheck."""
    rules = Rules(Arithmetic(recipe_on(HOPPER))).key
    x, w, b = torch.randn(6, 32, requires_grad=True), torch.randn(8, 32, requires_grad=True), torch.randn(8)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.codesign.linear, (x, w, b, rules, torch.float32), test_utils=tests)
    assert linear(torch.empty(0, 32), w, b, rules).shape == (0, 8)


def test_mixed_precision_decides_the_dtype_of_outputs():
    """Under autocast an emulated Linear returns BF16, as a Linear does; without it the dtype of its input."""
    model, x = nn.Linear(32, 8), torch.randn(4, 32)
    with emulator.emulate(model, on=HOPPER, keep=()):
        assert model(x).dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            assert model(x).dtype == torch.bfloat16


def test_frozen_weights_are_quantised_once_with_the_same_bits():
    """`frozen` changes no output, and weights changed afterwards are not seen."""
    model, x = Mlp(), torch.randn(8, 96)
    with torch.no_grad():
        with emulator.emulate(model, on="group-scaled-mma-ue8m0"):
            expected = model(x)
        with emulator.emulate(model, on="group-scaled-mma-ue8m0", frozen=True):
            assert torch.equal(model(x), expected)
            model.up.weight.zero_()
            assert torch.equal(model(x), expected)


def test_a_frozen_weight_that_is_replaced_is_quantised_again():
    """A weight put in the place of a frozen one is never taken for it, though the old one's memory would be free."""
    model, x = nn.Linear(32, 8, bias=False), torch.randn(4, 32)
    with torch.no_grad(), emulator.emulate(model, on=HOPPER, keep=(), frozen=True):
        for _ in range(20):
            model.weight = nn.Parameter(torch.randn(8, 32))
            expected = linear(x, model.weight, None, model._key)
            assert torch.equal(model(x), expected)


def test_an_input_that_another_thread_shares_meanwhile_is_not_taken_for_ones_own():
    """What a thread has cast is what it gets, whatever others write in the meantime."""

    class Raced(SharedInput):
        def __setattr__(self, name, value):
            super().__setattr__(name, value if name != "_last" or value is None else (value[0], value[1], "another's"))

    shared, arithmetic = Raced(), SimpleNamespace(activation=lambda x: SimpleNamespace(reusable=lambda: "one's own"))
    shared._begin(True)
    assert shared.cast(arithmetic, torch.ones(2)) == "one's own"


@pytest.mark.parametrize(
    "name", ["blackwell-nvf4", "blackwell-mxf8f6f4", "group-scaled-mma-ue4m3", "configurable-accumulation"]
)
def test_shipped_proposals_emulate_a_model_in_all_variants(name):
    """Outputs are finite and near the model's own; the proposal's differ from those with exact sums or are equal to them."""
    proposal, model, x = load_proposal(names()[name]), nn.Linear(256, 64), torch.randn(16, 256)
    expected = model(x)
    for variant in ("today", "software", "proposal", "exact"):
        with emulator.emulate(model, on=proposal, variant=variant, keep=()), torch.no_grad():
            assert (model(x) - expected).norm() / expected.norm() < 0.25


def test_int8_with_a_scale_per_token_is_exact_between_its_casts():
    """INT8 sums are exact: a Linear is the product of the rounded operands times the scales of its rows and columns."""
    from codesign.proposal.quantisation import Quantisation

    recipe = load_recipe("bf16").on(load("hopper.wgmma.m64n8k32.s32.s8.s8"), None, Quantisation(scales="row"))
    model, x = nn.Linear(96, 16, bias=False), torch.randn(8, 96)
    with emulator.emulate(model, on=recipe, keep=()), torch.no_grad():
        got = model(x)
    a, b = (t / (t.abs().amax(1, keepdim=True) / 127) for t in (x, model.weight.detach()))
    scale = (x.abs().amax(1, keepdim=True) / 127) * (model.weight.detach().abs().amax(1, keepdim=True) / 127).T
    assert torch.equal(got, (a.round() @ b.round().T) * scale)


@pytest.fixture
def process_group(tmp_path):
    """A process group of this process alone."""
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("wrapper", ["DistributedDataParallel", "FSDP2", "torch.compile"])
def test_loss_and_gradients_are_the_same_under_a_wrapper(wrapper, process_group):
    """A wrapped model has the loss and the gradients of the same model alone, bit for bit."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    wrappers = {
        "DistributedDataParallel": nn.parallel.DistributedDataParallel,
        "FSDP2": lambda model: fully_shard(model, mesh=init_device_mesh("cpu", (1,))),
        "torch.compile": lambda model: torch.compile(model, backend="aot_eager", fullgraph=True),
    }
    alone, x = Mlp(), torch.randn(16, 96)
    model = copy.deepcopy(alone)
    wrapped = wrappers[wrapper](model)
    losses = []
    for each, called in ((alone, alone), (model, wrapped)):
        with emulator.emulate(each, on="group-scaled-mma"):
            losses.append(called(x).float().pow(2).mean())
            losses[-1].backward()
    assert torch.equal(*losses)
    for expected, got in zip(alone.parameters(), model.parameters(), strict=True):
        grad = got.grad.full_tensor() if hasattr(got.grad, "full_tensor") else got.grad
        assert torch.equal(expected.grad, grad)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variant": "transformer-engine"}, "models run on no variant `transformer-engine`"),
        ({"at": 16}, "the sweep has no value 16"),
        ({"on": "configurable-accumulation", "at": 99}, "the sweep has no value 99"),
        ({"on": HOPPER, "variant": "today"}, "`variant` and `at` are of a proposal"),
        ({"keep": ["heads"]}, "no component is called `heads`"),
        ({"model": 3}, "the model is of type int"),
        ({"model": nn.Linear(8, 4).double()}, "its weight is torch.float64"),
    ],
)
def test_options_that_a_proposal_does_not_have_are_refused(options, said):
    """What would have meant the proposal itself, or nothing, is an error."""
    with pytest.raises(InputError, match=said):
        emulator.emulate(**{"model": nn.Linear(8, 4), "on": "group-scaled-mma", **options})


@pytest.mark.parametrize("frozen", [False, True])
def test_inputs_that_do_not_fit_a_linear_are_refused(frozen):
    """An input of another width or dtype is an error, as in torch, not numbers from beyond the weight."""
    model = nn.Sequential(nn.Linear(8, 4))
    with emulator.emulate(model, "group-scaled-mma", frozen=frozen), torch.set_grad_enabled(not frozen):
        with pytest.raises(ValueError, match=r"the input is \(2, 9\); a Linear of 8 inputs takes \(..., 8\)"):
            model(torch.ones(2, 9))
        with pytest.raises(ValueError, match=r"the input has dtype torch\.int64"):
            model(torch.ones(2, 8, dtype=torch.int64))
        assert model(torch.ones(0, 8)).shape == (0, 4)


def test_a_linear_without_inputs_gives_its_bias():
    """A sum of no products is zero, to which the bias is added."""
    made = recipe_on("group-scaled-mma")
    bias = torch.tensor([1.0, -2.0])
    y = linear(torch.ones(3, 0), torch.ones(2, 0), bias, Rules(Arithmetic(made)))
    assert torch.equal(y, bias.expand(3, 2))
