"""Space files: faults told at their place, conditions, and points as changes of a proposal."""

import pytest
from toy_space import TEXT, space

from codesign.explore.space import patched, written
from isa_model.diagnostics import InputError


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        (("fraction_bits", "fraction_bit"), "toy.yaml:5:17", "no field `fraction_bit` in stages.fuse"),
        (("range: [13, 24]", "range: [24, 13]"), "toy.yaml:5", "a range has a first value"),
        (("range: [13, 24]", "range: [13]"), "toy.yaml:5", "needs at least 2 entries, got 1"),
        (("range: [13, 24]", "range: [13, 99999]"), "toy.yaml:5", "a range of 99987 values; at most 65536"),
        (("fuse.terms", "fuse.fraction_bits"), "toy.yaml:6:11", "the axis `bits` varies it, too"),
        (("fuse.terms, values: [8, 16, 32]", "fuse, values: [8]"), "toy.yaml:6:11", "the axis `bits` varies it, too"),
        (("range: [13, 24]", "values: []"), "toy.yaml:5", "one of `values`, `range` and `alternatives`, got nothing"),
        (("relative_frobenius", "relative_frobenus"), "toy.yaml:11:19", "unknown metric"),
        (("base: configurable-accumulation", "base: nothing"), "toy.yaml:3:7", "no proposal is called `nothing`"),
        (("wide: {}", "wide: {chnge: {}}"), "", ""),
        (("tensors: [normal]", "tensors: [normal]\nwhere: [bit > 3]"), "toy.yaml:10", "no axis is called `bit`"),
        (("tensors: [normal]", "tensors: [normal]\nwhere: ['open(1)']"), "toy.yaml:10", "a condition has no call"),
        (("tensors: [normal]", "tensors: [normal]\nwhere: ['bits >']"), "toy.yaml:10", "is not an expression"),
        (("wgrad.o]", "wgrad.oo]"), "toy.yaml:8:13", "unknown workload `deepseek-v3.wgrad.oo`"),
        (("[8, 16, 32]", "[-1, -2]"), "toy.yaml:6", "no value gives a proposal"),
        (("fraction_bits, range: [13, 24]", "zero, values: [positive, ieee]"), "", ""),
        (("tion\n", "tion\nchange: {shape: {k: 64}}\n"), "toy.yaml:4", "a proposal has no field `shape`"),
        (("wgrad.o]\ntensors: [normal]", "wgrad.o]"), "toy.yaml:8", "no workload has captured tensors"),
        (("relative_frobenius}", "relative_frobenius, at: 3}"), "toy.yaml:11", "a point has no swept values"),
    ],
)
def test_faults_of_a_space_are_told_at_their_place(change, place, message):
    """Each names the line, and what is wrong. An alternative may be wrong as long as another one gives a proposal."""
    text = TEXT.replace(*change)
    assert text != TEXT
    if not message:
        space(text)
        return
    with pytest.raises(InputError) as error:
        space(text)
    told = "\n".join(map(str, error.value.problems))
    assert place in told
    assert message in told


def test_only_the_axis_at_fault_is_told():
    """An axis that gives no proposal at any value leaves none to the other axes either, which are not to blame."""
    with pytest.raises(InputError) as error:
        space(TEXT.replace("[8, 16, 32]", "[7, 9]"))
    assert [(p.path, p.line) for p in error.value.problems] == [(("axes", "terms"), 6)]


def test_conditions_compare_axes_and_leave_points_out():
    """`where` keeps the points for which every condition holds; text compared with a number is a fault."""
    made, _ = space(
        TEXT.replace(
            "tensors: [normal]", "tensors: [normal]\nwhere: [\"bits > 20 or register == 'narrow'\", 'terms in (8, 16)']"
        )
    )
    points = list(made.points())
    assert points == [p for p in points if (p["bits"] > 20 or p["register"] == "narrow") and p["terms"] < 32]
    assert len(points) == 4 * 2 * 2 + 8 * 2
    made, _ = space(TEXT.replace("tensors: [normal]", "tensors: [normal]\nwhere: [bits > 3 or register < 3]"))
    assert len(list(made.points())) == made.size
    with pytest.raises(InputError, match="cannot be computed"):
        made.model_copy(update={"where": ("register < 3",)}).allows({"register": "wide"})


def test_patches_are_written_into_the_proposal():
    """Mappings merge, other values replace, and null stays null: in a proposal it removes a field of the base."""
    assert written({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": None}, "d": [2]}) == {
        "a": {"b": None, "c": 2},
        "d": [2],
    }
    made, base = space()
    data = patched(made, base, {"bits": 15, "terms": 8, "register": "narrow"})
    assert data["change"]["stages"]["fuse"]["fraction_bits"] == 15
    assert data["change"]["stages"]["fuse"]["result"]["format"] == "e8m13"
    assert "sweep" not in data
