"""The kernels that cast tensors on a GPU, against isa_model.cast."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from codesign.torch import gpu_cast  # noqa: E402
from codesign.torch.quantise import quantise  # noqa: E402
from isa_model import cast as model  # noqa: E402
from isa_model.array_codec import decode_array  # noqa: E402
from isa_model.cast import Cast  # noqa: E402
from isa_model.engines.launch import compiled  # noqa: E402
from isa_model.formats import FORMATS  # noqa: E402
from isa_model.rounding import Rounding  # noqa: E402

UE8M0 = FORMATS["ue8m0"]
CASTS = {
    "1x128": Cast(),
    "128x128": Cast(group=(128, 128)),
    "whole": Cast(group=None),
    "rows": Cast(group=(1, 4096)),
    "E5M2, 1x32, powers of two": Cast(to=FORMATS["e5m2"], group=(1, 32), scale=UE8M0, scale_rounding=Rounding.UP),
    "powers of two, down": Cast(scale=UE8M0, scale_rounding=Rounding.DOWN),
}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def numbers(shape, dtype):
    """Numbers of all sizes, zeros, and groups with an infinity or a NaN."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(shape, generator=generator) * torch.exp2(torch.randint(-30, 30, shape, generator=generator))
    x[3, :256] = 0
    x[5, 17], x[9, 200] = float("inf"), float("nan")
    return x.to(dtype)


@needs_gpu
@pytest.mark.parametrize("name", CASTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(300, 520), (17, 1024), (128, 128)])
def test_kernels_give_the_bits_of_the_model(name, dtype, shape):
    """Elements and scales of the kernels equal those of isa_model.cast, in matrices of odd sizes too."""
    cast = CASTS[name]
    x = numbers((max(shape[0], 12), max(shape[1], 300) // 8 * 8), dtype)
    assert gpu_cast.applies(cast, x.cuda())
    got = quantise(cast, x.cuda())
    expected = model.quantise(cast, x.float().numpy())
    scales = got.scales.cpu().numpy()
    known = expected.scale_values().astype(np.float32)
    assert np.array_equal(scales, known, equal_nan=True)
    numbers_of = [decode_array(cast.to, codes) for codes in (got.codes().cpu().numpy(), expected.codes)]
    assert np.array_equal(*numbers_of, equal_nan=True)  # a NaN may have another code


@needs_gpu
def test_other_casts_take_the_other_way():
    """Rows that do not begin at 16 bytes, stochastic or odd formats and vectors are not for the kernels."""
    x = numbers((16, 520), torch.bfloat16).cuda()
    assert not gpu_cast.applies(Cast(), x[:, 1:])
    assert not gpu_cast.applies(Cast(), x.T)
    assert not gpu_cast.applies(Cast(group=(128, 1)), x)
    assert not gpu_cast.applies(Cast(to=FORMATS["e2m1"]), x)


@pytest.mark.parametrize("to", gpu_cast.FORMATS)
@pytest.mark.parametrize("added", [None, 0x7FFFFF])
@pytest.mark.parametrize("source", gpu_cast.SOURCES.values())
@pytest.mark.parametrize("whole", [True, False])
def test_text_compiles_without_a_gpu(to, added, source, whole):
    """NVRTC takes the text of every kind of cast."""
    pytest.importorskip("cuda.core", reason="the extra `kernels` is not installed")
    assert len(compiled(gpu_cast._text(to, 1e-30, 448.0, added, source, whole)).code) > 1000
