"""Families of proposals and what they are judged on: sweeps of changes, two sweeps, rates, GEMMs by their shape."""

import pytest

from codesign.evidence.timing.operations import density, of_gemm, proposed, schemes_of
from codesign.proposal.load import load_proposal
from isa_model.diagnostics import InputError

TEXT = """\
proposal: mine
title: A test
source: this test
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change: {stages: {fuse: {fraction_bits: 20}}}
workloads: [deepseek-v3.fprop.o]
claims:
  - {metric: numerics.relative_frobenius, at_most: 1}
"""


def proposal(tmp_path, *changes):
    """The test's proposal with texts replaced."""
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "p.yaml"
    path.write_text(text)
    return load_proposal(path)


def fault(tmp_path, *changes):
    """The only fault of a changed proposal, as (line, column, message)."""
    with pytest.raises(InputError) as refused:
        proposal(tmp_path, *changes)
    (problem,) = refused.value.problems
    return problem.line, problem.column, problem.message


def product(mine):
    """The product of the first GEMM with the proposal."""
    steps = of_gemm(mine.trials[0][0], schemes_of(mine)[1], proposed(mine))
    return next(step for step in steps if step.what == "product")


def test_named_changes_move_several_fields_together(tmp_path):
    """A sweep of changes has a variant for each name, with all of its fields, lists among them; a claim picks one by name."""
    changes = "sweep: {changes: {wide: {a: e5m2, b: e5m2}, coarse: {stages: {fuse: {terms: 16, fraction_bits: 13}}}}}\nclaims:"
    mine = proposal(tmp_path, ("claims:", changes), ("at_most: 1}", "at_most: 1, at: coarse}"))
    assert mine.swept == ("wide", "coarse")
    assert mine.proposed("wide").a.name == mine.proposed("wide").b.name == "e5m2"
    assert mine.proposed("wide").stages["fuse"].fraction_bits == 20
    assert mine.proposed("coarse").stages["fuse"].terms == 16


def test_two_sweeps_combine_every_variant(tmp_path):
    """A second sweep is combined with the first under both names."""
    sweep = "sweep: {field: stages.fuse.fraction_bits, values: [13, 25], across: {changes: {no: {}, e5m2: {a: e5m2}}}}\nclaims:"
    mine = proposal(tmp_path, ("claims:", sweep), ("at_most: 1}", "at_most: 1, at: '25, e5m2'}"))
    assert mine.swept == ("13, no", "13, e5m2", "25, no", "25, e5m2")
    made = mine.proposed("25, e5m2")
    assert (made.a.name, made.stages["fuse"].fraction_bits) == ("e5m2", 25)


@pytest.mark.parametrize(
    ("sweep", "where", "message"),
    [
        ("{changes: {x: {a: e5m2}}}", "changes", "two variants at least"),
        ("{values: [1, 2]}", "values", "of which field"),
        ("{field: a, values: [e4m3, e5m2], changes: {x: {}}}", "changes", "a `field` with `values`, or `changes`"),
        ("{changes: {x: {}, y: {q: 1}}}", "{q: 1}", "unknown field `q`"),
        (
            "{field: a, values: [e4m3, e5m2], across: {field: stages.fus.terms, values: [1, 2]}}",
            "stages.fus",
            "no field `fus` in stages",
        ),
        (
            "{field: a, values: [e4m3, e5m2], across: {field: b, values: [e4m3, e5m2], across: {field: c, values: [a, b]}}}",
            "across",
            "two sweeps can be combined",
        ),
        ("{changes: {'x, y': {a: e5m2}, z: {}}}", "'x, y'", "cannot name a variant"),
        ("{changes: {x: {a: e5m2}, '': {}}}", "''", "cannot name a variant"),
        (
            "{field: a, values: [e4m3, e5m2], across: {field: a, values: [fp16, bf16]}}",
            "field: a, values: [fp16",
            "swept twice",
        ),
    ],
)
def test_wrong_sweeps_are_told_where_they_are(tmp_path, sweep, where, message):
    """A sweep of one variant, without a field, of both kinds, of unknown fields, of one field twice, of three sweeps or with
    odd names is refused at its place."""
    line, column, text = fault(tmp_path, ("workloads:", f"sweep: {sweep}\nworkloads:"))
    assert (line, column) == (6, len("sweep: ") + sweep.index(where) + 1)
    assert message in text


def test_a_stated_rate_sets_the_clocks_of_the_product(tmp_path):
    """Half the rate takes twice the clocks, whatever the operands; wide operands alone take their bytes' time, once."""
    assert product(proposal(tmp_path, ("claims:", "rate: 0.5\nclaims:"))).operation.clocks == 2
    wide = ("change: {stages", "change: {a: bf16, b: bf16, stages")
    assert product(proposal(tmp_path, wide)).operation.clocks == 2
    assert product(proposal(tmp_path, wide, ("claims:", "rate: 4\nclaims:"))).operation.clocks == 0.25


def test_sparsity_is_credited_by_its_density(tmp_path):
    """With 2 of 4 weights stored, a GEMM takes half the clocks, half the energy and 5 bits a weight, positions included."""
    mine = proposal(
        tmp_path, ("change: {stages", "change: {shape: {k: 64}, sparsity: {operand: b, kept: 2, of: 4}, stages")
    )
    x = product(mine).operation
    assert density(mine.proposed()) == 0.5
    assert (x.clocks, x.energy, x.widths) == (0.5, 0.5, (1, 5 / 8))


def test_a_rate_needs_an_instruction_that_changes(tmp_path):
    """Where only the operands' path changes, the instruction has today's rate, and another is refused."""
    path = "path: {operands: [activation], steps: [{at: register}]}\nrate: 2"
    line, _, message = fault(tmp_path, ("change: {stages: {fuse: {fraction_bits: 20}}}", path))
    assert (line, "today's rate" in message) == (6, True)


def test_single_bits_are_no_base(tmp_path):
    """An instruction on single bits is refused as a base where it is named: no tensor is quantised to one bit."""
    bits = "ampere.mma.m16n8k256.s32.b1.b1.s32.and.popc"
    line, _, message = fault(
        tmp_path,
        ("hopper.wgmma.m64n256k32.f32.e4m3.e4m3", bits),
        ("change: {stages: {fuse: {fraction_bits: 20}}}", "change: {}"),
    )
    assert (line, "single bits" in message) == (4, True)


def test_gemms_by_their_shape(tmp_path):
    """A GEMM may be given by its shape, batched and of any pass; a claim names it the same way."""
    shape = "{m: 512, n: 1024, k: 2048, batch: 4}"
    mine = proposal(
        tmp_path,
        ("[deepseek-v3.fprop.o]", f"[{shape}, {{m: 64, n: 128, k: 100, pass: wgrad}}, gemm.dgrad.16x32x64]"),
        ("at_most: 1}", f"at_most: 1, workload: {shape}}}"),
    )
    assert mine.workloads == ("gemm.fprop.4x512x1024x2048", "gemm.wgrad.64x128x100", "gemm.dgrad.16x32x64")
    assert mine.claims[0].workload == mine.workloads[0]
    first, second, third = dict.fromkeys(gemm for gemm, _ in mine.trials)
    assert (first.m, first.n, first.k, first.batch) == (512, 1024, 2048, 4)
    assert (second.a, second.b, second.tokens_along_k) == ("gradient", "activation", True)
    assert (third.m, third.n, third.k) == (16, 32, 64)
    problem = product(mine).operation.problem
    assert (problem.m, problem.groups) == (2048, 4)


@pytest.mark.parametrize(
    ("shape", "where", "message"),
    [
        ("{m: 0, n: 1, k: 1}", "m:", "needs `m`, a whole number"),
        ("{m: 1, n: 1}", "{", "needs `k`"),
        ("{m: 1, n: 1, k: 1, batsh: 2}", "batsh", "no `batsh`"),
        ("{m: 1, n: 1, k: 1, pass: up}", "pass", "unknown pass `up`"),
    ],
)
def test_wrong_shapes_are_told_where_they_are(tmp_path, shape, where, message):
    """A shape without a size, with a misspelt field or an unknown pass is refused at the field."""
    line, column, text = fault(tmp_path, ("[deepseek-v3.fprop.o]", f"[{shape}]"))
    assert (line, column) == (6, len("workloads: [") + shape.index(where) + 1)
    assert message in text
