"""The catalogue: which instructions it has, and that they compute what an independent model does.

tests/fixtures/oracle.npz: operands of every kind and the results of the package mmasim 2.1.1 for each of its instructions
(one for all that differ in M and N alone), written by `python checks/equivalence.py --fixture`. NaNs whose code is
not mmasim's but that of the machine it ran on were written as the catalogue's.
"""

import json
import re
import runpy
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from isa_model import InputError, catalogue, golden, load, matmul
from isa_model.array_codec import code_dtype, decode_array, to_codes
from isa_model.conformance import conform
from isa_model.library import architectures
from isa_model.rounding import Rounding
from isa_model.stimulus import draw

ORACLE = Path(__file__).parent / "fixtures" / "oracle.npz"
SIZES = {
    "ada": 73 + 8 + 3 + 36,
    "ampere": 57 + 8 + 3 + 32,
    "amx": 7,
    "arm": 13 + 48,
    "blackwell": 4748 + 3 + 44 + 1456 + 558 + 3744 + 992 + 558,
    "cdna1": 20,
    "cdna2": 27,
    "cdna3": 32,
    "cdna4": 14,
    "hopper": 32 * 12 + 24 + 18 * 8 + 48 + 4 + 572 + 3 + 18,
    "ime": 24,
    "rdna3": 12,
    "rdna4": 8,
    "rubin": 2 * (32 + 16 + 16),
    "rtx_blackwell": 155 + 3 + 48,
    "turing": 21,
    "volta": 3,
    "xmx": 8,
}


def different(specs):
    """Return one of each set of instructions that differ only in name, M and N."""
    return list({(str(s.stages), s.a.name, s.b.name, s.shape.k): s for s in specs}.values())


SPECS = [load(name) for name in catalogue()]
INTEGERS = different(spec for spec in SPECS if spec.is_integer and not spec.sparsity)
FP64 = different(spec for spec in SPECS if spec.a.name == "fp64")


def test_every_instruction_loads_under_its_name():
    """The catalogue has so many instructions of each architecture, and each names its source and its checks."""
    names = catalogue()
    assert len(set(names)) == len(names) == sum(SIZES.values())
    for name, spec in zip(names, SPECS, strict=True):
        assert spec.name == name
        assert spec.source
        assert spec.checked
        assert spec.known
    for architecture in architectures():
        assert sum(name.startswith(f"{architecture}.") for name in names) == SIZES[architecture], architecture


def test_a_sparse_instruction_stores_as_many_products_as_its_dense_one():
    """Every sparse instruction of the catalogue is the dense one of half the k, once the other operand is gathered."""
    pairs = [(spec, load(dense_name(spec.name))) for spec in SPECS if ".sp." in spec.name]
    assert len(pairs) == 572 + 40 + 44 + 44 + 48 + 64 + 3744 + 992 + 558
    for sparse, dense in pairs:
        assert (sparse.dense.shape, sparse.dense.stages) == (dense.shape, dense.stages), sparse.name
        elsewhere = "documented" if sparse.is_integer else "assumed"
        assert sparse.known == ("silicon" if sparse.name.startswith("hopper.") else elsewhere)


def dense_name(name):
    """Return the name of the dense instruction of half the k."""
    return re.sub(r"\.sp\.((?:cta_group::2\.)?m\d+n\d+)k(\d+)", lambda x: f".{x[1]}k{int(x[2]) // 2}", name)


def flushing(x):
    """Return a float64 array with zeros for the subnormals of FP32, and its elements as fractions."""
    return np.vectorize(Fraction, otypes=[object])(np.where(np.abs(x) < 2.0**-126, 0.0, x))


def to_odd(exact):
    """Return a fraction rounded to FP32 to odd, subnormals flushed."""
    if abs(exact) < Fraction(2) ** -126:
        return Fraction(0)
    unit = Fraction(2) ** (abs(exact).numerator.bit_length() - abs(exact).denominator.bit_length() - 24)
    unit *= 2 if abs(exact) >= unit * 2**24 else 1
    steps = abs(exact) // unit
    return (steps | (steps * unit != abs(exact))) * unit * (1 if exact > 0 else -1)


def to_nearest(exact):
    """Return a fraction rounded to FP32 to nearest even, subnormals flushed."""
    rounded = to_fp32(exact)
    return Fraction(0) if abs(rounded) < Fraction(2) ** -126 else rounded


def unfused(c, products):
    """Arm's BFMatMulAdd with FPCR.EBF = 0."""
    for first in range(0, len(products), 2):
        c = to_odd(c + to_odd(to_odd(products[first]) + to_odd(products[first + 1])))
    return c


def even_and_odd(c, products):
    """Intel's TDPBF16PS and TDPFP16PS."""
    sums = [Fraction(0), Fraction(0)]
    for k, product in enumerate(products):
        sums[k % 2] = to_nearest(sums[k % 2] + product)
    return to_nearest(c + to_nearest(sum(sums)))


def one_chain(c, products):
    """Intel's TMMULTF32PS."""
    for product in products:
        c = to_nearest(c + product)
    return c


@pytest.mark.parametrize(
    ("name", "sums"),
    [
        ("arm.bfmmla.ebf0.f32.bf16.bf16", unfused),
        ("arm.bfmopa.ebf0.f32.bf16.bf16", unfused),
        ("amx.tdpbf16ps", even_and_odd),
        ("amx.tdpfp16ps", even_and_odd),
        ("amx.tmmultf32ps", one_chain),
    ],
)
def test_sums_that_flush_follow_their_manuals(name, sums):
    """Every product and sum is rounded where the vendor's pseudocode says, with zeros for subnormals of A, B, C and sums."""
    spec, rng = load(name), np.random.default_rng(8)
    flushed = 0
    for kind in ("normal", "cancellation", "subnormal"):
        x = draw(spec, kind, rng, 3, 4, spec.shape.k)
        d = decode_array(spec.accumulator, matmul(spec, x.a, x.b, x.c))
        whole = [decode_array(f, y) for f, y in ((spec.a, x.a), (spec.b, x.b), (spec.accumulator, x.c))]
        a, b, c = map(flushing, whole)  # of FP16, whose subnormals are normal in FP32, nothing is flushed
        for i, j in np.ndindex(d.shape):
            assert Fraction(d[i, j]) == sums(c[i, j], [a[i, k] * b[k, j] for k in range(spec.shape.k)]), (kind, i, j)
            flushed += int(d[i, j] == 0)
    assert flushed > 0


def to_fp32(exact):
    """Return a fraction rounded to the nearest FP32 number, ties to even."""
    if exact == 0:
        return exact
    exponent = max(-126, (abs(exact).numerator.bit_length() - exact.denominator.bit_length()) - 1)
    exponent += abs(exact) >= Fraction(2) ** (exponent + 1)
    unit = Fraction(2) ** (exponent - 23)
    return round(exact / unit) * unit


@pytest.mark.parametrize("name", ["arm.bfmmla.ebf1.f32.bf16.bf16", "arm.fmopa.f32.f16.f16"])
def test_arm_dot_products_round_each_pair_and_each_sum(name):
    """Two products and their sum are rounded once, to nearest even, and added to the accumulator, which rounds again."""
    spec, rng = load(name), np.random.default_rng(7)
    for kind in ("wide", "cancellation", "subnormal"):
        x = draw(spec, kind, rng, 4, 8, spec.shape.k)
        d = decode_array(spec.accumulator, matmul(spec, x.a, x.b, x.c))
        a, b, c = (decode_array(f, y) for f, y in ((spec.a, x.a), (spec.b, x.b), (spec.accumulator, x.c)))
        for i, j in np.ndindex(d.shape):
            total = Fraction(c[i, j])
            for k in range(0, spec.shape.k, 2):
                products = [Fraction(a[i, k + p]) * Fraction(b[k + p, j]) for p in (0, 1)]
                total = to_fp32(total + to_fp32(sum(products)))
            assert Fraction(d[i, j]) == total, (kind, i, j)


def test_every_instruction_of_arm_is_as_qemu_computes_it():
    """The engine returns QEMU's codes for operands of every kind, NaNs included (`python checks/arm.py --fixture`)."""
    results = list(conform("arm", Path(__file__).parent / "fixtures" / "arm.npz"))
    assert [result.instruction for result in results] == [name for name in catalogue() if name.startswith("arm.")]
    for result in results:
        assert (result.outputs, result.mismatches) == (128, 0), f"{result.instruction}: {result.first}"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("hopper.wgmma.m64n256k32.f32.e4m3.e4m4", "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"),
        ("hoper.wgmma.m64n256k32.f32.e4m3.e4m3", "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"),
        ("cdna3.mfma.f32_32x32x8f16", "cdna3.mfma.f32_32x32x8_f16"),
    ],
)
def test_unknown_names_get_a_suggestion(wrong, right):
    """A misspelt instruction is refused with the nearest name."""
    with pytest.raises(InputError, match=f"did you mean `{right}`"):
        load(wrong)


@pytest.mark.parametrize("architecture", sorted({key.split(".")[0] for key in np.load(ORACLE).files}))
def test_every_instruction_of_mmasim_is_reproduced(architecture):
    """The engine returns mmasim's codes for operands of every kind, for every instruction that mmasim has."""
    for result in conform(architecture, ORACLE):
        assert result.outputs >= 96
        assert result.mismatches == 0, f"{result.instruction}: {result.first}"


@pytest.fixture(scope="module")
def oracle():
    """The fixture's arrays."""
    with np.load(ORACLE) as file:
        yield file


def products(file, spec):
    """The fixture's products of an instruction: A, B, C and the scales if any as `matmul` takes them, and D."""
    a, b, c, d = (file[f"{spec.name}/all/1/{x}"] for x in "ABCD")
    for i in range(len(c)):
        scales = [file[f"{spec.name}/all/1/SA"][i], file[f"{spec.name}/all/1/SB"][i].T] if spec.scale else []
        yield (a[i].view(code_dtype(spec.a)), b[i].view(code_dtype(spec.b)).T, c[i], *scales), d[i]


def test_golden_reproduces_a_sample_of_mmasim(oracle):
    """The golden model returns mmasim's codes too, on one element of every product."""
    for name in sorted({key.split("/")[0] for key in oracle.files}):
        spec = load(name)
        for number, ((a, b, c, *scales), d) in enumerate(products(oracle, spec)):
            i, j = number % 4, number // 2 % 4
            along_k = [side.tolist() for side in (scales[0][i], scales[1][:, j])] if scales else []
            assert golden.dot(spec, a[i].tolist(), b[:, j].tolist(), int(c[i, j]), *along_k) == d[i, j], name


@pytest.mark.parametrize(
    ("name", "stage", "change"),
    [
        ("ampere.mma.m16n8k16.f32.bf16.bf16.f32", "fuse", {"fraction_bits": 25}),
        ("ada.mma.m16n8k32.f32.e4m3.e5m2.f32", "fuse", {"fraction_bits": 12}),
        ("ada.mma.m16n8k32.f32.e4m3.e5m2.f32", "fuse", {"rounding": Rounding.DOWN}),
        ("rtx_blackwell.mma.m16n8k64.kind::mxf4.block32.f32.e2m1.e2m1.f32.ue8m0", "fuse", {"fraction_bits": 33}),
        ("cdna3.mfma.f32_32x32x8_f16", "fuse", {"fraction_bits": 25}),
        ("cdna3.mfma.f32_16x16x32_fp8_bf8", "join", {"rounding": Rounding.TOWARD_ZERO}),
    ],
)
def test_a_rule_that_is_a_little_off_is_caught(oracle, name, stage, change):
    """The fixture's operands distinguish each rule from similar ones."""
    spec = load(name)
    wrong = spec.model_copy(update={"stages": {**spec.stages, stage: spec.stages[stage].model_copy(update=change)}})
    differs = 0
    for x, d in products(oracle, spec):
        right, off = (to_codes(s.accumulator, matmul(s, *x)) for s in (spec, wrong))
        assert np.array_equal(right, d)
        differs += int((off != d).sum())
    assert differs > 0


@pytest.mark.parametrize("spec", INTEGERS, ids=lambda spec: spec.name)
def test_integers_are_exact_and_overflow_once(spec):
    """Integer sums are those of whole numbers; each instruction wraps around or clamps after its whole sum."""
    k, low, size = spec.shape.k, -(1 << 31), 1 << 32
    *_, last = spec.stages.values()
    saturates = last.result[0].overflow == "saturate"
    rng = np.random.default_rng(4)
    clamped = 0
    for kind in ("bits", "normal", "overflow", "special"):
        x = draw(spec, kind, rng, 5, 6, 3 * k)
        a, b, c = (decode_array(f, v).astype(int) for f, v in ((spec.a, x.a), (spec.b, x.b), (spec.accumulator, x.c)))
        d = c.astype(object)
        for first, end in pairwise(range(0, 3 * k + 1, k)):
            d = d + a[:, first:end] @ b[first:end]
            clamped += int(((d < low) | (d >= low + size)).sum())
            d = np.clip(d, low, low + size - 1) if saturates else (d - low) % size + low
        d = d.astype(np.int64)
        assert np.array_equal(matmul(spec, x.a, x.b, x.c), d), kind
        assert np.array_equal(matmul(spec, x.a[:1], x.b[:, :2], x.c[:1, :2], engine="golden"), d[:1, :2]), kind
    assert clamped > 0


def rounded(x):
    """Return a Fraction rounded to float64, nearest even; beyond the range it is an infinity."""
    try:
        return float(x)
    except OverflowError:
        return float("inf") if x > 0 else float("-inf")


@pytest.mark.parametrize("spec", FP64, ids=lambda spec: spec.name)
@pytest.mark.parametrize("kind", ["finite", "normal", "wide", "cancellation", "subnormal", "overflow"])
def test_fp64_is_a_chain_of_fused_multiply_adds(spec, kind):
    """Each product and the running value are added exactly and rounded once; zeros have IEEE's signs."""
    x = draw(spec, kind, np.random.default_rng(6), 4, 5, spec.shape.k)
    a, b, c = (codes.view(np.float64) for codes in (x.a, x.b, x.c))
    d = to_codes(spec.accumulator, matmul(spec, x.a, x.b, x.c)).view(np.float64)
    for i, j in np.ndindex(d.shape):
        running = float(c[i, j])
        for y, z in zip(a[i].tolist(), b[:, j].tolist(), strict=True):
            if np.isfinite(running):
                exact = Fraction(y) * Fraction(z) + Fraction(running)
                negative = np.signbit(running) and np.copysign(1, y) != np.copysign(1, z)
                zero = -0.0 if negative else 0.0
                running = (rounded(exact) or np.copysign(0.0, exact)) if exact else zero
        assert d[i, j].tobytes() == np.float64(running).tobytes()


def test_cdna3_cuts_the_normalised_total_to_31_bits():
    """If two published models of the last step differ, the rule is mmasim's, and the docs say that the question is open."""
    spec = load("cdna3.mfma.f32_16x16x16_f16")
    a, b = np.zeros((1, 16), np.float16), np.zeros((16, 1), np.float16)
    a[0, :2], b[:2, 0] = [2.0**-11, 2.0**-15], [2.0**-11, 2.0**-16]
    c = np.array([[2 - 2.0**-23]], np.float32)
    for engine in ("golden", "cpu"):
        assert matmul(spec, a, b, c, engine=engine) == 2.0  # 2 + 2**-22 by the other
    for name in ("f32_16x16x16_f16", "f32_16x16x8_xf32", "f32_16x16x32_fp8_bf8"):
        assert "The last step is open" in load(f"cdna3.mfma.{name}").checked
    assert "open" not in load("cdna3.mfma.f64_16x16x4_f64").checked


RECORDINGS = Path(__file__).parent.parent / "checks" / "recordings.py"


def test_pages_say_what_recordings_of_others_show():
    """In the shipped record no output differs, including those of B200's FP8 `mma.sync`."""
    record = json.loads((RECORDINGS.parent.parent / "isa_model/catalogue/records/recordings.json").read_text())
    rows = record["rows"]
    assert (record["outputs"], record["mismatches"]) == (240_000, 0) == (sum(r["outputs"] for r in rows), 0)

    def outputs(*words):
        return sum(row["outputs"] for row in rows if all(word in row["instruction"] for word in words))

    fp8 = load("blackwell.mma.m16n8k32.f32.e4m3.e4m3.f32").checked
    assert f"{outputs('blackwell', '.e'):,} outputs" in fp8
    for name, count in (
        ("volta.mma.m8n8k4.f32.f16.f16.f32", outputs("volta")),
        ("ampere.mma.m16n8k8.f32.bf16.bf16.f32", outputs("ampere")),
        ("ada.mma.m16n8k32.f32.e4m3.e4m3.f32", outputs("ada")),
        ("hopper.mma.m16n8k16.f32.f16.f16.f32", outputs("hopper")),
        ("blackwell.mma.m16n8k16.f32.f16.f16.f32", outputs("blackwell") - outputs("blackwell", ".e")),
    ):
        assert f"{count:,} outputs recorded by others" in load(name).checked


def test_pages_say_what_the_chip_was_compared_with_live():
    """In the shipped record every Hopper instruction agrees, sparse ones of both kinds in 10 million outputs at least."""
    record = json.loads((RECORDINGS.parent.parent / "kernels/records/conformance_h200.json").read_text())
    rows = {row["instruction"]: row["outputs"] for row in record["instructions"]}
    assert record["mismatches"] == 0
    assert list(rows) == [name for name in catalogue() if name.startswith("hopper.")]
    kinds = {kind: sum(n for name, n in rows.items() if f".{kind}." in name) for kind in ("wgmma.sp", "mma.sp")}
    assert min(kinds.values()) > 10_000_000
    assert f"{sum(rows.values()):,} outputs of all {len(rows):,} instructions" in load(next(iter(rows))).checked
    sparse = load("hopper.mma.sp.m16n8k16.f32.f16.f16.f32").checked
    assert f"{sum(kinds.values()):,} outputs of all" in sparse
    assert f"{kinds['mma.sp']:,} of them of mma.sp" in sparse


def test_recordings_are_compared_output_by_output(tmp_path, monkeypatch, capsys):
    """A folder of published recordings is read: correct outputs agree, and one wrong bit is counted."""
    spec, folder = load("ampere.mma.m16n8k8.f32.f16.f16.f32"), tmp_path / "A100" / "fp16"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((60, 8)).astype(np.float16) for _ in "ab")
    c = rng.standard_normal((60, 60)).astype(np.float32)
    d = matmul(spec, a, b.T, c).diagonal().view(np.uint32).copy()

    def run():
        for name, values in (("a", a), ("b", b)):
            lines = [" ".join(f"{x:08x}" for x in row) for row in values.astype(np.float32).view(np.uint32)]
            (folder / f"{name}_A100_fp16.txt").write_text("\n".join(lines))
        for name, codes in (("c", c.diagonal().view(np.uint32)), ("d", d)):
            (folder / f"{name}_A100_fp32.txt").write_text("\n".join(f"{x:032b}" for x in codes))
        return printed()

    def printed():
        monkeypatch.setattr(sys, "argv", ["recordings.py", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(RECORDINGS), run_name="__main__")
        text = capsys.readouterr()
        return ended.value.code, (text.out + text.err).splitlines()[-1]

    assert run() == (0, "0 of 60 outputs differ")
    d[7] += 1
    assert run() == (1, "1 of 60 outputs differ")
    (folder / "d_A100_fp32.txt").unlink()
    code, message = printed()
    assert (code, "holds no recordings" in message) == (2, True)
