"""What an evaluation is said to have found, on toy evidence."""

from types import SimpleNamespace

import pytest
from toy_results import SUMS, TOTAL, errors, figure, moved

from codesign.evidence.casts.source import ARRIVES
from codesign.evidence.numerics import sections
from codesign.evidence.traffic.source import _finding as moves
from codesign.figures.evidence import Column, Table
from codesign.figures.words import compared, worst
from codesign.proposal.variants import LABELS
from codesign.report.tables import draw
from codesign.verdicts.evaluate import headline


def judged(*judgements):
    return [SimpleNamespace(judgement=j) for j in judgements]


@pytest.mark.parametrize(
    ("judgements", "words"),
    [
        (("supported",) * 2, "2 of 2 claims hold, none are refuted."),
        (("supported", "refuted"), "1 of 2 claims holds, 1 is refuted."),
        (("refuted", "refuted", "undetermined"), "0 of 3 claims hold, 2 are refuted, 1 is undetermined."),
        (("undetermined", "undetermined"), "0 of 2 claims hold, none are refuted, 2 are undetermined."),
    ],
)
def test_the_headline_counts_verdicts(judgements, words):
    """What holds, what is refuted, and what is not known."""
    assert headline(judged(*judgements)) == words


def test_the_headline_says_that_outputs_overflow():
    """Of the proposal and of what it is compared with, and where."""
    lost = [*errors(None, software=None), *errors(0.1, software=None, tensors="uniform")]
    assert list(sections.alarms(lost)) == [
        "Outputs with the proposal overflow on 1 of 2 pairs of GEMM and tensors: infinite or NaN.",
        "Outputs with today's software overflow everywhere: infinite or NaN.",
    ]
    assert list(sections.alarms(errors(0.1))) == []


def finding(figures, path=False, inputs="bf16"):
    return " ".join(sections.finding(SimpleNamespace(multiplies_as_today=path, inputs=inputs), figures))


def test_the_finding_begins_with_d_and_says_what_stays():
    """Total error comes first, with its interval, then the share of sums and rounding in it, then sums before rounding."""
    made = [
        *errors(0.0485, software=0.0485),
        figure("numerics.output_error", 1.6257e-3),
        figure("numerics.output_error", 1.6286e-3, variant="software"),
        figure("numerics.changed_share", 0.001),
        figure("numerics.changed_share", 0.065, variant="software"),
        figure("numerics.output_error", 3e-7, workload="llama.wgrad.o"),
        figure("numerics.output_error", 3.2e-4, variant="software", workload="llama.wgrad.o"),
        figure(SUMS, 5.8e-7),
        figure(SUMS, 3.2e-4, variant="software"),
        figure(SUMS, 4.8e-3, variant="today"),
    ]
    assert finding(made) == (
        "Total error of D (worst GEMM): 0.049 [0.048, 0.05] with the proposal and with today's software. "
        "Error of the sums and of rounding D, without quantisation: 0.0016 with the proposal and with today's software "
        "where D is BF16; 3e-07 with the proposal and 0.00032 with today's software where D is FP32. "
        "BF16 outputs that differ from exact sums: 0.1 % with the proposal and 6.5 % with today's software. "
        "Error of the sums alone, before D is rounded: 5.8e-07 with the proposal, 0.00032 with today's software and "
        "0.0048 with today's instruction alone."
    )
    assert finding([figure(SUMS, 0.1), figure(SUMS, 0.1, variant="software"), figure(SUMS, 0.1, variant="today")]) == (
        "Error of the sums alone, before D is rounded: 0.1 with the proposal, with today's software and with today's "
        "instruction alone."
    )
    wide = [
        *errors(0.1),
        figure("numerics.output_error", 0.2),
        figure("numerics.output_error", 0.3, variant="software"),
    ]
    assert "0.2 with the proposal and 0.3 with today's software where D is FP32." in finding(wide, inputs="fp32")
    assert "not finite with the proposal" in finding(errors(None))
    alike = finding(errors(0.1, software=0.1, half=None))
    assert alike == "Total error of D (worst GEMM): 0.1 (no interval) with the proposal and with today's software."
    two = [figure(SUMS, 0.1), figure(SUMS, 0.2, variant="software")]
    assert finding(two).endswith("0.1 with the proposal and 0.2 with today's software.")
    assert finding([]) == ""


def test_the_finding_of_a_path_begins_with_d_too():
    """The total error of each pass, then the tensor, then what is moved; changes under half a percent are none."""
    arrived = [
        figure("cast.relative_error", v, variant=w)
        for w, v in (("proposal", 0.02), ("software", 0.03), ("exact", 0.02))
    ]
    products = [*errors(0.05, software=0.05), *errors(0.04, software=0.06, workload="llama.wgrad.o")]
    traffic = [*moved("traffic.hbm_bytes", 9.0, 10.0), *moved("traffic.l2_bytes", 12.0, 10.0)]
    traffic += moved("traffic.network_bytes", 5.0, 10.0)
    traffic += [*moved("traffic.hbm_bytes", 1.0, 10.0, "llama"), *moved("traffic.smem_bytes", 1.0, 10.0)]
    assert finding(products, path=True) == (
        "Total error of D (worst GEMM): 0.05 [0.049, 0.051] with the proposal and with today's software in fprop; 0.04 "
        "[0.039, 0.041] with the proposal and 0.06 [0.059, 0.061] with today's software in wgrad."
    )
    assert compared("cast.relative_error", arrived, ARRIVES) == (
        "0.02 along the proposed path and after one cast straight from BF16 and 0.03 with today's software"
    )
    assert list(moves(traffic)) == [
        "A layer's step of deepseek-v3 moves 10% fewer bytes through HBM, 20% more bytes from L2 to the SMs and 50% "
        "fewer bytes over the network."
    ]
    small = [*moved("traffic.hbm_bytes", 10.04, 10.0), *moved("traffic.l2_bytes", 9.94, 10.0)]
    small += moved("traffic.network_bytes", 1.0, 0.0)
    small.insert(1, figure("traffic.network_bytes", 1.0, workload="llama", tensors=""))
    assert list(moves(small)) == ["A layer's step of deepseek-v3 moves 1% fewer bytes from L2 to the SMs."]
    assert finding([], path=True) == ""


def test_the_worst_is_the_largest_error_the_least_db_the_largest_bias():
    """Whichever way is better; swept values are not of the proposal itself; not finite is worst."""
    made = [
        figure(TOTAL, 0.1),
        figure(TOTAL, 0.3, tensors="uniform"),
        figure(TOTAL, 0.9, at=13),
        figure("numerics.sqnr_db", 20.0),
        figure("numerics.sqnr_db", 10.0, tensors="uniform"),
        figure("numerics.bias", -0.2),
        figure("numerics.bias", 0.1, tensors="uniform"),
        figure(SUMS, 0.5, variant="exact"),
        figure(SUMS, None, variant="exact", tensors="uniform"),
    ]
    columns = [Column(heading=name, metric=name) for name in (TOTAL, "numerics.sqnr_db", "numerics.bias", SUMS)]
    table = Table(rows=("variant",), headings=("variant",), columns=tuple(columns), labels=LABELS)
    found = {row.names: row.cells for row in draw(table, made).rows}
    assert found == {
        ("proposal",): ("0.3", "10.0 dB", "-0.2", "—"),
        ("exact accumulator",): ("—", "—", "—", "not finite"),
    }
    assert worst([]) is None
    by_pass = Table(
        rows=("variant",),
        headings=("variant",),
        columns=tuple(Column(heading=s, metric=TOTAL, step=s) for s in ("fprop", "wgrad")),
    )
    (row,) = draw(by_pass, [*made, figure(TOTAL, 0.2, workload="llama.wgrad.o")]).rows
    assert row.cells == ("0.3", "0.2")
