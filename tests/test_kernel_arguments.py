"""Operands of the kernels and of the GPU engines are checked before a GPU reads them; the refusals need no GPU."""

import numpy as np
import pytest
from handed_over import no_arrays
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
import kernels.gemm as g  # noqa: E402
import kernels.quantise as q  # noqa: E402
from isa_model import load  # noqa: E402
from isa_model.engines import gpu  # noqa: E402
from kernels import native  # noqa: E402
from kernels.gemm.launches import GemmOperands, check  # noqa: E402
from kernels.gemm.tile import ScaleLayout  # noqa: E402
from kernels.quantise.build import Choice  # noqa: E402

SCALED = load("rtx_blackwell.mma.m16n8k32.kind::mxf8f6f4.block32.f32.e4m3.e5m2.f32.ue8m0")


def bf16(*shape):
    return torch.zeros(shape, dtype=torch.bfloat16)


def fp8(*shape):
    return torch.zeros(shape, dtype=torch.float8_e4m3fn)


def no_tensors():
    """Draw objects that are not a dense matrix on a GPU."""
    tensors = [torch.zeros(()), torch.zeros(3), torch.zeros(4, 128), fp8(4, 128), bf16(4, 128), bf16(2, 4, 128)]
    return st.one_of(no_arrays(), st.sampled_from([np.zeros((4, 128), np.float32), [1, 2], 3.0, *tensors]))


@settings(max_examples=150)
@given(no_tensors(), st.sampled_from(["rows", "columns", "both", "blocks", "blocks_both", "pack_e5m6"]), st.booleans())
def test_quantisation_kernels_refuse_what_is_no_matrix_on_the_gpu(x, name, give_out):
    """The error names the argument, with and without `out`."""
    out = {"out": (x, x) if name not in ("both", "blocks_both") else ((x, x), (x, x))} if give_out else {}
    with pytest.raises(ValueError, match=r"^x must"):
        getattr(q, name)(x, **out)


@settings(max_examples=60)
@given(no_tensors())
def test_the_other_quantisation_kernels_refuse_it_as_well(x):
    """The error names the argument that is not a matrix on the GPU."""
    for call, says in (
        (lambda: q.swiglu(x, x), "gate must"),
        (lambda: q.requantise(x, x), "codes must"),
        (lambda: q.unpack_e5m6(x, x), "packed must"),
        (lambda: q.dispatch(x, x), "x must"),
        (lambda: q.sent(x, 128), "buffer must"),
    ):
        with pytest.raises(ValueError, match=f"^{says}"):
            call()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: q.rows(bf16(4, 128), out=3), "out must be a pair of codes and scales; got int"),
        (lambda: q.rows(bf16(4, 128), out=(1, 2, 3)), "out must be a pair"),
        (lambda: q.both(bf16(4, 128), out=((1, 2), 3)), r"out\[1\] must be a pair"),
        (lambda: q.both(bf16(4, 128), out=q.QuantisedTensor(1, 2)), r"out\[0\] must be a pair"),
        (lambda: Choice(rows=True, power_of_2="yes"), "power_of_2 must be True or False; it is 'yes'"),
        (lambda: q.sent(torch.zeros((4, 128), dtype=torch.uint8), 128), "buffer must be what dispatch returns"),
    ],
)
def test_outputs_and_flags_of_another_kind_are_refused(call, says):
    """The message says what the argument must be."""
    with pytest.raises(ValueError, match=says):
        call()


@settings(max_examples=100)
@given(no_tensors(), st.sampled_from(["a", "b", "scale_a", "scale_b"]), st.sampled_from([g.gemm, g.native, g.wgrad]))
def test_gemms_refuse_what_is_no_tensor_on_the_gpu(x, name, function):
    """The error names an operand that is not a tensor; CPU tensors are refused by device."""
    arguments = {"a": fp8(8, 128), "b": fp8(8, 128), "scale_a": torch.ones(1, 8), "scale_b": torch.ones(1, 1), name: x}
    more = {"accumulate": False} if function is g.wgrad else {}
    with pytest.raises(ValueError, match=rf"^{name} must be a dense torch tensor|^\w+ is on (cpu|meta)"):
        function(**arguments, **more)


@pytest.mark.parametrize("promote", [True, 64.0, "64", 0, 33, -32])
def test_promotion_is_a_whole_number_of_wgmmas(promote):
    """Other values are refused before a tensor is read."""
    with pytest.raises(ValueError, match="promote"):
        g.gemm(None, None, None, None, promote=promote)


def test_groups_need_starts_and_counts():
    """A grouped GEMM without starts and counts is refused."""
    with pytest.raises(ValueError, match="starts and counts"):
        g.grouped(fp8(8, 128), fp8(2, 8, 128), torch.ones(1, 8), torch.ones(2, 1, 1), None, None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"b": fp8(8, 256)}, "a and b must have one K; a has 128, b 256"),
        ({"b": fp8(128)}, "b must be .* it has 1 dimensions"),
        ({"a": fp8(128)}, "a must be .* it has 1 dimensions"),
        ({"a": torch.zeros(8, 128)}, "a must be E4M3 .* it is torch.float32"),
        ({"a": fp8(128, 8).T}, "a must be contiguous along K"),
        ({"a": fp8(8, 120), "b": fp8(8, 120)}, "K must be a multiple of 16.* it is 120"),
        ({"a": fp8(0, 128)}, "M, N and K must be positive"),
        ({"b": fp8(9, 128)}, "N must be a multiple of 8; it is 9"),
        ({"out": torch.zeros(8, 8, dtype=torch.float16)}, "out must be BF16 or FP32; it is torch.float16"),
        ({"out": torch.zeros(8, 16)}, r"out must be \(8, 8\); it is \(8, 16\)"),
        ({"scale_a": torch.ones(2, 8)}, r"scale_a must be \(1, 8\); it is \(2, 8\)"),
        ({"scale_a": torch.ones(8)}, r"scale_a must be \(1, 8\); it is \(8,\)"),
        ({"scale_b": torch.ones(1, 2)}, r"scale_b must be \(1, 1\); it is \(1, 2\)"),
        ({"scale_b": torch.ones(1, 1, dtype=torch.float64)}, "scale_b must be FP32; it is torch.float64"),
    ],
)
def test_gemm_operands_are_checked_by_name_and_shape(change, says):
    """Shapes, dtypes and strides that the kernel would misread are refused without a GPU."""
    right = {"a": fp8(8, 128), "b": fp8(8, 128), "scale_a": torch.ones(1, 8), "scale_b": torch.ones(1, 1)}
    operands = GemmOperands(**{**right, "out": bf16(8, 8)})
    kind = {"scales": ScaleLayout.BLOCK, "promote": 4, "add": False}
    check(operands, **kind)
    with pytest.raises(ValueError, match=says):
        check(operands._replace(**change), **kind)


RIGHT = {
    "a": torch.zeros((4, 64), dtype=torch.uint8),
    "b": torch.zeros((64, 8), dtype=torch.uint8),
    "c": torch.zeros((4, 8), dtype=torch.int32),
    "scale_a": torch.zeros((4, 2), dtype=torch.uint8),
    "scale_b": torch.zeros((2, 8), dtype=torch.uint8),
}


@settings(max_examples=100)
@given(no_tensors(), st.sampled_from(list(RIGHT)))
def test_the_gpu_engine_refuses_what_are_no_codes(x, name):
    """Values, numpy arrays, other widths and shapes are refused by name before a kernel reads them."""
    gpu.check_tensors(SCALED, **RIGHT)
    if name == "c" and x is None:
        return
    with pytest.raises(ValueError, match=f"^{name} is "):
        gpu.check_tensors(SCALED, **{**RIGHT, name: x})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"b": RIGHT["b"][:32]}, r"a is \(4, 64\) and b is \(32, 8\)"),
        ({"a": RIGHT["a"][:, :33], "b": RIGHT["b"][:33]}, "a multiple of 32"),
        ({"a": RIGHT["a"][:, :0], "b": RIGHT["b"][:0]}, "a multiple of 32"),
        ({"c": RIGHT["c"][:, :4]}, r"c is \(4, 4\)"),
        ({"c": RIGHT["c"].to(torch.int64)}, "c is torch.int64.*32 bits"),
        ({"scale_a": RIGHT["scale_a"][:, :1]}, r"scale_a is \(4, 1\)"),
        ({"scale_b": None}, "scale_b is of type NoneType"),
    ],
)
def test_the_gpu_engine_checks_shapes(change, says):
    """The GPU engine refuses the shapes that numpy arrays are refused for."""
    with pytest.raises(ValueError, match=says):
        gpu.check_tensors(SCALED, **{**RIGHT, **change})
    with pytest.raises(ValueError, match="scale_a is given"):
        gpu.check_tensors(load("hopper.wgmma.m64n8k32.f32.e4m3.e4m3"), **RIGHT)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"b": np.zeros((32, 8), np.uint8)}, r"b \(32, 8\)"),
        ({"c": np.zeros((16, 16), np.uint32)}, r"c \(16, 16\)"),
        ({"a": np.zeros((16, 64), np.float32)}, "a is float32"),
        ({"a": np.zeros((8, 64), np.uint8), "c": np.zeros((8, 8), np.uint32)}, "not a whole number of tiles"),
        ({"a": np.zeros((0, 64), np.uint8), "c": np.zeros((0, 8), np.uint32)}, "not a whole number of tiles"),
        ({"a": [[1]]}, "a is of type list"),
    ],
)
def test_the_native_engine_checks_shapes(change, says):
    """Sizes that are not whole tiles, and other dtypes or shapes, are refused."""
    name = "hopper.mma.m16n8k32.f32.e4m3.e4m3.f32"
    right = {"a": np.zeros((16, 64), np.uint8), "b": np.zeros((64, 8), np.uint8), "c": np.zeros((16, 8), np.uint32)}
    native.check(name, **right)
    with pytest.raises(ValueError, match=says):
        native.check(name, **{**right, **change})
