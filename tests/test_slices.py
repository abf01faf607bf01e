"""FP32 GEMMs from slices: 3xTF32, BF16x9, and integers of a sign and 11 bits, each against an emulation of its own."""

import re
from dataclasses import replace
from fractions import Fraction
from functools import cache
from math import floor
from pathlib import Path

import numpy as np
import pytest

from codesign.evidence.cost import source as cost
from codesign.evidence.numerics.errors import errors_of, estimates
from codesign.evidence.numerics.trial import Trial
from codesign.evidence.source import Subject
from codesign.evidence.traffic.slices import of_slices
from codesign.figures.metric import metric_named
from codesign.proposal.baselines import baselines, fitting
from codesign.proposal.load import load_proposal, parse_proposal
from codesign.proposal.manual import proposal_page
from codesign.proposal.quantisation import Slices
from codesign.proposal.variants import labels, variants
from codesign.workloads.gemms import Gemm
from codesign.workloads.tensors import to_bf16
from isa_model import InputError
from isa_model.diagnostics import parse_yaml

FILE = Path(__file__).parent.parent / "proposals/fp32-from-16bit-integers.yaml"
PROPOSAL = load_proposal(FILE)
BY_NAME = {c.variant: c for c in variants(PROPOSAL)}


def gemm(k, inputs="fp32"):
    """Return a GEMM of length k on tensors of a format."""
    return Gemm(f"slices-{k}", 4096, 4096, k, "activation", "weight", False, "", inputs=inputs)


def trial(k, tensors="normal", seeds=2, lines=2, inputs="fp32"):
    """Return a trial of a GEMM of length k."""
    return Trial(gemm(k, inputs), tensors, range(seeds), lines, lines, PROPOSAL.rule)


@cache
def error(variant, k, metric="total_error", tensors="normal"):
    """Return an error of a variant on 8 x 8 outputs of 8 seeds."""
    outcome = trial(k, tensors, seeds=8, lines=8).result(BY_NAME[variant])
    return estimates(errors_of(outcome))[f"numerics.{metric}"].value


def exponent(x):
    """Return the exponent of a number's leading bit."""
    return int(np.frexp(float(x))[1]) - 1


def cut(x, exponent_of_last_bit):
    """Return a number cut off towards zero after a bit."""
    unit = Fraction(2) ** exponent_of_last_bit
    return (1 if x > 0 else -1) * floor(abs(x) / unit) * unit


def tf32_step(c, pairs):
    """Return what Hopper adds to c: 8 products and c cut off 25 bits below the largest exponent, the sum cut to FP32."""
    pairs = [(a, b) for a, b in pairs if a and b]
    terms = [Fraction(float(a)) * Fraction(float(b)) for a, b in pairs]
    largest = [exponent(a) + exponent(b) for a, b in pairs] + ([exponent(c)] if c else [])
    if not largest:
        return Fraction(0)
    total = sum(cut(t, max(largest) - 25) for t in [*terms, c])
    return cut(total, exponent(total) - 23) if total else total


def big_and_small(x):
    """Return the TF32 parts of FP32 numbers by their bits: 13 bits off, and what is left with half a unit added first."""
    big = (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    small = ((x - big).view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return big, small.view(np.float32)


def test_3xtf32_equals_an_emulation_of_cutlass_on_hopper():
    """Small times big, big times small and big times big follow each other every 8 of K, in one accumulator, bit for bit."""
    made = trial(64)
    d = made.result(BY_NAME["software"]).d
    for s, i, j in np.ndindex(d.shape):
        (a, a_small), (b, b_small) = big_and_small(made.a.x[s, i].copy()), big_and_small(made.b.x[s, j].copy())
        c = Fraction(0)
        for k in range(0, 64, 8):
            at = slice(k, k + 8)
            for left, right in ((a_small, b), (a, b_small), (a, b)):
                c = tf32_step(c, list(zip(left[at], right[at], strict=True)))
        assert Fraction(float(d[s, i, j])) == c


def test_integer_slices_equal_exact_integers_and_fp32_additions():
    """Sums of 512 products are exact integers; each is scaled and added in FP32, the products with small slices first."""
    k = 1536
    made = trial(k)
    d = made.result(BY_NAME["proposal"]).d

    def sliced(x):
        parts, rest = [], x.astype(np.float64)
        for _ in range(2):
            scale = 2.0 ** np.ceil(np.log2(np.abs(rest).max(axis=-1, keepdims=True) / 2047))
            whole = np.rint(rest / scale)
            assert np.abs(whole).max() <= 2047
            parts.append((whole.astype(np.int64), scale))
            rest = rest - whole * scale
        return parts

    a, b = sliced(made.a.x), sliced(made.b.x)
    expected = np.zeros(d.shape, np.float32)
    for start in range(0, k, 512):
        at = slice(start, start + 512)
        for i, j in ((1, 0), (0, 1), (0, 0)):
            sums = np.einsum("sik,sjk->sij", a[i][0][..., at], b[j][0][..., at])
            assert np.abs(sums).max() < 1 << 31
            scaled = sums.astype(np.float32) * (a[i][1] * b[j][1].swapaxes(1, 2)).astype(np.float32)
            expected = expected + scaled
    assert np.array_equal(d, expected)


def test_bf16x9_holds_fp32_operands_exactly_and_adds_in_fp32_every_16_of_k():
    """Three BF16 slices are the whole element, so that only sums err; over 16 of K, that is one FP32 rounding."""
    made = trial(16)
    outcome = made.result(BY_NAME["bf16x9"])
    assert np.array_equal(outcome.exact, outcome.original)
    a, b = (np.asarray(x, np.float64) for x in (made.a.x, made.b.x))
    whole = np.einsum("sik,sjk->sij", a, b)
    size = np.einsum("sik,sjk->sij", abs(a), abs(b))
    assert (abs(outcome.d - whole) <= size * 2.0**-21).all()
    assert error("bf16x9", 4096, "quantisation_error") == 0


def test_cuda_cores_are_a_chain_of_fused_multiply_adds():
    """The baseline `sgemm` rounds once for each product, to nearest even."""
    made = trial(40)
    d = made.result(BY_NAME["sgemm"]).d
    expected = np.zeros(d.shape, np.float32)
    for k in range(40):  # products of 48 bits and their sums with FP32 numbers this near are exact in long double
        product = made.a.x[:, :, None, k].astype(np.longdouble) * made.b.x[:, None, :, k].astype(np.longdouble)
        expected = (expected.astype(np.longdouble) + product).astype(np.float32)
    assert np.array_equal(d, expected)


def test_truncated_sums_are_what_3xtf32_loses_to_cuda_cores():
    """Ootomo and Yokota (arXiv 2203.03341): the slices are as good as FP32, sums rounded towards zero inside the unit are not.

    The bias grows with K. Sums added outside the unit to nearest recover the accuracy of FP32 on CUDA cores.
    """
    assert error("today", 4096) == pytest.approx(3e-4, rel=0.1)  # one TF32 product: 2^-11 of an element
    assert error("software", 4096, "quantisation_error") < 2.0**-22
    assert error("software", 4096) > 10 * error("sgemm", 4096)
    assert error("software", 4096) / error("software", 1024) == pytest.approx(4, rel=0.3)
    software = BY_NAME["software"]
    outside = software.rule.slices.model_copy(update={"promote_every": 8})
    promoted = software._replace(rule=software.rule.model_copy(update={"slices": outside}))
    found = errors_of(trial(4096, seeds=8, lines=8).result(promoted))
    assert estimates(found)["numerics.total_error"].value < error("sgemm", 4096)


def test_what_is_left_out_of_integer_slices_is_the_last_product_and_half_a_unit():
    """With the product of both small slices and a third slice, the quantisation error of the proposal falls in turn."""
    own = BY_NAME["proposal"]

    def quantised(products):
        slices = own.rule.slices.model_copy(update={"products": products})
        found = errors_of(
            trial(1024, seeds=8, lines=8).result(own._replace(rule=own.rule.model_copy(update={"slices": slices})))
        )
        return estimates(found)["numerics.quantisation_error"].value

    three, four = quantised(((1, 0), (0, 1), (0, 0))), quantised(((1, 1), (1, 0), (0, 1), (0, 0)))
    six = quantised(((2, 0), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0)))
    assert three > 1.3 * four > 1.3 * 100 * six
    assert three < 2.0**-20


def test_operands_of_which_one_has_scales_are_multiplied_in_the_same_order():
    """Slices of E4M3 have scales, those of BF16 none; their products still meet, and give D within their own error."""
    text = f"""
proposal: it
title: it
source: it
inputs: fp32
base: {PROPOSAL.base}
change: {{a: e4m3, b: bf16}}
quantisation:
  scales: row
  powers_of_two: true
  slices: {{products: [[1, 1], [1, 0], [0, 1], [0, 0]], promote_every: 32}}
software: plain
claims: [{{metric: numerics.total_error, at_most: 1}}]
"""
    made = variants(parse_proposal(parse_yaml(text, "p.yaml")))
    own = next(c for c in made if c.variant == "proposal")
    outcome = trial(512, seeds=8, lines=8).result(own)
    assert estimates(errors_of(outcome))["numerics.total_error"].value < 0.01
    assert np.abs(outcome.d - outcome.exact).max() < 1e-5 * np.abs(outcome.exact).max()


def test_tensors_are_drawn_once_and_bf16_is_fp32_rounded():
    """A BF16 trial has the numbers of an FP32 trial, rounded; variants of one trial take the same numbers."""
    wide, narrow = trial(256), trial(256, inputs="bf16")
    assert np.array_equal(to_bf16(wide.a.x), narrow.a.x)
    assert (wide.a.x.view(np.uint32) & 0xFFFF).any()
    assert len({id(wide.result(c).original) for c in BY_NAME.values()}) == 1


def test_k_is_filled_up_and_wgrad_turned():
    """K that is no multiple of a promoted stretch is filled up with zeros, in every pass."""
    odd = replace(gemm(700), tokens_along_k=True, a="gradient", b="activation")
    outcome = Trial(odd, "normal", (0,), 4, 4, PROPOSAL.rule).result(BY_NAME["proposal"])
    assert np.abs(outcome.d - outcome.original).max() < 1e-5 * np.abs(outcome.original).max()


def test_baselines_in_slices_are_for_fp32_tensors():
    """A TF32 base has them with `inputs: fp32` alone; 3xTF32 is then the default. Today's instruction has one slice."""
    base = PROPOSAL.today
    assert [b.name for b in fitting(base)] == ["plain", "plain-promoted"]
    assert fitting(base, "fp32")[0].name == PROPOSAL.practice.name == "3xtf32"
    assert BY_NAME["today"].rule.slices is None
    assert len({*labels(PROPOSAL)}) == 4
    assert len(baselines()["ozaki-int8"].quantisation.slices.products) == 10


def test_passes_and_bytes_are_counted():
    """Passes are products of slices, bytes those of all slices of an element in their storage."""
    found = {(f.metric, f.variant): f.value for f in of_slices(PROPOSAL).figures}
    for variant, passes, size in (
        ("today", 1, 4),
        ("software", 3, 8),
        ("proposal", 3, 4),
        ("bf16x9", 9, 6),
        ("ozaki-int8", 10, 4),
        ("sgemm", 1, 4),
    ):
        assert (found["traffic.passes", variant], found["traffic.slice_bytes", variant]) == (passes, size)
    assert metric_named("traffic.passes").baselines


def test_bits_of_an_element_are_not_those_of_one_slice():
    """Costs of a proposal in slices have the unit's area, but no bits of an element: bytes of slices say them."""
    found = {f.metric for f in cost.SOURCE.gather(Subject(PROPOSAL)).figures}
    assert "cost.area_ratio" in found
    assert "cost.operand_bits" not in found


def test_the_manual_page_says_what_software_does():
    """`codesign show` gives the order of products and the stretch, before the instruction."""
    first = proposal_page(PROPOSAL)[0]
    text = " ".join(first.lines)
    assert first.title.startswith("In software")
    assert "A1 B0, A0 B1, A0 B0" in text
    assert "every 512 of K" in text


def test_slices_train_no_model():
    """Recipes have whole operands, so that no training run stands for the proposal."""
    assert not PROPOSAL.is_trained
    with pytest.raises(InputError, match="one slice"):
        PROPOSAL.training_recipe()


STRETCH, PATH = "promote_every: 512 ", "path: {operands: [activation], steps: [{at: kernel}]}"


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        (STRETCH, "promote_every: 500 ", "promote_every", "takes 16 of K at a time; 500 is not a multiple"),
        (STRETCH, "promote_every: 528 ", "promote_every", "528 products of up to 4190209 can overflow int32"),
        (STRETCH, "rounding: down ", "slices", "must be added in FP32"),
        ("  scales: row ", "  scales: none ", "slices", "need a power of two for each row"),
        ("  scales: row ", "  random: elements\n  scales: row ", "random", "operands in slices have no `random`"),
        ("[0, 1], [0, 0]", "[1, 0]", "products", "slices [1, 0] are multiplied twice"),
        ("a: int12", "a: uint12", "slices", "uint12 is no signed number"),
        ("inputs: fp32", PATH, "slices", "arrive in one slice"),
        ("inputs: fp32", f"inputs: fp32\n{PATH}", "path", "casts on a path start from BF16"),
        ("uniform, outliers]", "captured]", "tensors", "captured tensors are BF16"),
        ("total_error\n    at_most: 1.0e-6", "changed_share\n    at_most: 1.0", "metric", "the last bit of every sum"),
        ("workloads:", "training: {recipe: deepseek-v3}\nworkloads:", "training", "no training run has FP32 tensors"),
        ("workloads:", "software: {promote_every: 8}\nworkloads:", "software", "have a promotion of their own"),
        ("workloads:", "software: {baseline: w8a8}\nworkloads:", "baseline", "does not fit"),
    ],
)
def test_slices_that_make_no_sense_are_refused_at_their_line(old, new, place, message):
    """Each fault is reported once, at the line of the field that is wrong, with a remedy."""
    text = FILE.read_text()
    assert text.count(old) == 1 or old == "workloads:", old
    text = text.replace(old, new)
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        parse_proposal(parse_yaml(text, "p.yaml"))
    (problem,) = (p for p in refused.value.problems if message in p.message)
    assert place in text.splitlines()[problem.line - 1]
    assert problem.hint or "fit" in message


def test_a_second_slice_of_a_format_that_holds_the_tensors_is_refused():
    """TF32 holds every BF16 number, so that the small slice would be zero; FP32 tensors give it a meaning."""
    text = """
proposal: it
title: it
source: it
base: hopper.wgmma.m64n256k8.f32.tf32.tf32
quantisation:
  slices: {products: [[1, 0], [0, 1], [0, 0]]}
claims: [{metric: numerics.total_error, at_most: 1}]
"""
    with pytest.raises(InputError, match="slices after the first are zero"):
        parse_proposal(parse_yaml(text, "p.yaml"))
    assert parse_proposal(parse_yaml(f"{text}inputs: fp32\n", "p.yaml")).in_slices


def test_slices_are_as_many_as_their_products_name():
    """The number of slices of an operand follows from the products."""
    assert Slices(products=((2, 0), (0, 0))).count == 3
