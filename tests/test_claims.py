"""Claims in words, and claims that say nothing."""

import pytest
from toy_evidence import ERROR, TEXT

from codesign.proposal.load import parse_proposal
from codesign.proposal.parts import Sweep
from codesign.proposal.proposal import Claim
from codesign.verdicts.claims import statement
from isa_model import InputError
from isa_model.diagnostics import parse_yaml


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({"at_most": 0.01}, "numerics.total_error at most 0.01"),
        ({"at_least": 0.01, "at_most": 1}, "numerics.total_error at least 0.01 and at most 1"),
        ({"at_most": 1, "relative_to": "software", "at": 13}, "numerics.total_error, relative to software, at most 1 at 13"),
        ({"metric": "numerics.bias", "at_most": 0.1}, "magnitude of numerics.bias at most 0.1"),
        ({"at_most": 1, "workload": "deepseek-v3.fprop"}, "numerics.total_error at most 1 on deepseek-v3.fprop"),
        ({"at_most": 1, "tensors": "normal"}, "numerics.total_error at most 1 with normal tensors"),
        ({"metric": "numerics.sqnr_db", "at_least": -3}, "numerics.sqnr_db at least -3 dB"),
        ({"metric": "numerics.bias", "at_most": 0}, "magnitude of numerics.bias at most 0"),
        ({"metric": "numerics.bias", "at_most": 0.1, "at_least": -0.1}, "magnitude of numerics.bias at most 0.1"),
        (
            {"metric": "numerics.sqnr_db", "at_least": 1, "relative_to": "software"},
            "numerics.sqnr_db, less that of software, at least 1 dB",
        ),
        ({"metric": "timing.microseconds", "at_most": 1, "relative_to": "software"},
         "timing.microseconds, relative to software, at most 1"),
        ({"metric": "timing.microseconds", "at_most": 5, "of": "software"}, "timing.microseconds of software at most 5 us"),
        ({"at_most": 1, "workload": "deepseek-v3.fprop", "tensors": "normal"},
         "numerics.total_error at most 1 on deepseek-v3.fprop with normal tensors"),
    ],
)  # fmt: skip
def test_a_claim_in_words(claim, words):
    """The statement says magnitude, ratio or difference, whichever is judged."""
    assert statement(Claim(**{"metric": ERROR} | claim)) == words


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"field": "stages.fuse.fraction_bits", "values": (13, 17)}, "at fraction_bits 13"),
        ({"changes": {13: {"shape": {"k": 64}}, 17: {"shape": {"k": 128}}}}, "at 13"),
    ],
)
def test_a_claim_at_a_value_names_the_field_that_has_it(sweep, words):
    """`at most 1 at 13` would need the proposal beside it; a named change has no field."""
    found = statement(Claim(metric=ERROR, at_most=1, at=13), Sweep(**sweep))
    assert found == f"numerics.total_error at most 1 {words}"


def refused(claims, **more):
    other = "  - {metric: numerics.overflow_share, at_most: 1}\n"
    text = TEXT.replace("  - {metric: numerics.total_error, at_most: 1}\n", f"  - {claims}\n{other}")
    for field, value in more.items():
        text = (
            "".join(line + "\n" for line in text.splitlines() if not line.startswith(f"{field}:"))
            + f"{field}: {value}\n"
        )
    with pytest.raises(InputError) as error:
        parse_proposal(parse_yaml(text, "toy.yaml"))
    return str(error.value)


def test_a_ratio_of_shares_may_be_above_one():
    """Twice as many outputs may change as with software; half of all is a share, too."""
    assert Claim(metric="numerics.changed_share", at_most=2.0, relative_to="software").at_most == 2
    assert Claim(metric="numerics.changed_share", at_most=1.0).at_most == 1


def test_decibels_and_loss_gaps_may_be_below_zero():
    """A level of -3 dB, a difference of -1 dB and a loss gap of -0.1 % are bounds like others."""
    for about in ("numerics.sqnr_db", "training.loss_gap"):
        assert Claim(metric=about, at_least=-3.0).at_least == -3
    assert Claim(metric="numerics.sqnr_db", at_least=-1.0, relative_to="software").at_least == -1


@pytest.mark.parametrize(
    ("claim", "words", "remedy"),
    [
        ("{metric: numerics.bias, at_most: true}", "`true` is not a number", "a number"),
        ("{metric: numerics.bias, at_least: false}", "`false` is not a number", "a number"),
        ("{metric: cost.area_ratio, relative_to: software, at_most: 1.2}", "is already relative to today", "leave"),
        (
            "{metric: timing.step_speedup, relative_to: software, at_least: 1}",
            "is already relative to today",
            "leave",
        ),
        ("{metric: cost.area_ratio, of: today, at_most: 1.2}", "has no figure of `today`", "proposal"),
        ("{metric: traffic.hbm_bytes, relative_to: exact, at_most: 1}", "has no figure of `exact`", "software"),
        ("{metric: cast.sqnr_db, of: today, at_least: 1}", "has no figure of `today`", "software"),
        ("{metric: cost.area_ratio, tensors: normal, at_most: 1}", "does not depend on tensors", "leave"),
        ("{metric: training.loss_gap, workload: deepseek-v3, at_most: 1}", "does not depend on the workload", "leave"),
        ("{metric: traffic.hbm_bytes, at: 13, at_most: 1}", "no figure for each swept value", "leave"),
        ("{metric: numerics.total_error, of: today, at: 13, at_most: 1}", "`today` has no figure", "leave"),
        ("{metric: timing.step_speedup, at: 13, at_least: 1}", "no figure for each swept value", "leave"),
        ("{metric: numerics.bias, at_least: -0.1}", "judged by its magnitude", "at_most: 0.1"),
        ("{metric: numerics.bias, at_least: -0.1, at_most: 0.2}", "judged by its magnitude", "at_most: 0.1"),
        ("{metric: numerics.bias, at_most: -0.1}", "judged by its magnitude", "at_most: 0.1"),
        ("{metric: numerics.total_error, relative_to: today, at_most: -1}", "a ratio of magnitudes", "at_most: 1"),
        ("{metric: numerics.total_error, at_most: -1}", "is never below zero", "a bound above zero, such as 1"),
        ("{metric: numerics.changed_share, at_most: 5}", "is a share, which is never above 1", "at_most: 0.05 is 5 %"),
        ("{metric: numerics.underflow_share, at_least: 200}", "is a share, which is never", "a bound from 0 to 1"),
        ("{metric: cost.area_ratio, at_least: -1}", "is never below zero", "a bound above zero"),
        ("{metric: timing.speedup_over_software, at_least: -0.5}", "is never below zero", "a bound above zero"),
        ("{metric: numerics.total_error, relative_to: proposal, at_most: 1}", "relative to itself", ""),
        ("{metric: numerics.total_error}", "a claim needs a bound", "`at_most: 0.1` or `at_least: 0.1`"),
        ("{metric: numerics.total_error, at_least: 2, at_most: 1}", "at_least 2 is above at_most 1", ""),
    ],
)
def test_claims_that_say_nothing_are_refused_where_they_stand(claim, words, remedy):
    """Each at its line and column, with the remedy."""
    told = refused(claim)
    place, line, _, *hint = told.splitlines()
    assert words in place
    assert remedy in "".join(hint)
    row, column = map(int, place.split(":")[1:3])
    assert TEXT.splitlines()[row - 1].startswith("  - {metric")
    mark = told.splitlines()[2].index("^") - len("     | ")
    assert column == mark + 1
    field = line[mark + len("     | ") :]
    assert field.startswith(("at", "relative_to", "of", "tensors", "workload", "{", "true", "false"))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("tensors", "[normal, uniform, normal]", "`normal` appears twice"),
        ("workloads", "[deepseek-v3, deepseek-v3]", "`deepseek-v3` appears twice"),
        ("sweep", "{field: stages.fuse.fraction_bits, values: [13, 15, 13]}", "`13` appears twice"),
        (
            "path",
            "{operands: [activation, activation], steps: [{at: dispatch, to: e4m3}]}",
            "`activation` appears twice",
        ),
    ],
)
def test_what_is_there_twice_is_refused(field, value, words):
    """At the second one."""
    told = refused("{metric: numerics.total_error, at_most: 1}", **{field: value})
    assert words in told
    assert "= remove one of them" in told


def test_the_same_claim_twice_is_refused():
    """Two that differ only in who says so count as one; two that differ otherwise do not."""
    twice = "{metric: numerics.total_error, at_most: 1}\n  - {metric: numerics.total_error, at_most: 1, source: me}"
    assert "the same as claim 1" in refused(twice)
    both = TEXT + "  - {metric: numerics.total_error, at_most: 2}\n"
    assert len(parse_proposal(parse_yaml(both, "toy.yaml")).claims) == 2
