"""A whole layer's step: its sum, a proposal's speedup, and Amdahl's ceiling."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.__main__ import run
from codesign.commands import step as table
from codesign.evidence.sampling import Sampling
from codesign.evidence.source import Subject
from codesign.evidence.timing import amdahl, layer_step, network, times
from codesign.evidence.timing import source as evidence
from codesign.evidence.timing.layer_step import KINDS, Assumptions, LayerStep, Transfer, Work, bf16_ceiling, limit
from codesign.evidence.timing.model import Stream
from codesign.evidence.timing.operations import meant
from codesign.proposal.load import load_proposal
from codesign.proposal.proposal import Claim
from codesign.report.write import contents
from codesign.verdicts.claims import judge
from codesign.verdicts.evaluate import evaluate
from codesign.workloads.gemms import layer_of, models
from isa_model.diagnostics import InputError

PROPOSALS = Path(__file__).parent.parent / "proposals"
LARGE = [name for name, model in models().items() if not model.small]


def proposal(name, **changes):
    return load_proposal(PROPOSALS / f"{name}.yaml").model_copy(update=changes)


def gain(name, model="deepseek-v3"):
    return amdahl.gain(proposal(name), layer_of(model), times.timer())


@pytest.mark.parametrize("name", LARGE)
def test_the_step_is_the_sum_of_its_parts(name):
    """Kinds of operations, and rows of the table, add up to the step of every model."""
    layer = amdahl.today(times.timer(), layer_of(name))
    assert sum(layer.by_kind().values()) == pytest.approx(layer.total())
    assert sum(us for _, us, _, _ in table.rows(layer)) == pytest.approx(layer.total())
    assert all(us > 0 for kind, us in layer.by_kind().items() if kind != "network" or layer_of(name).experts)


def test_every_operation_says_how_certain_it_is():
    """Operations of Linears are measured or modelled, all others assumed; the attention output's GEMM is measured."""
    layer = amdahl.today(times.timer(), layer_of("deepseek-v3"))
    assert {w.certain for w in layer.work if w.linear} == {"measured", "modelled"}
    assert {w.certain for w in layer.work if not w.linear} == {"assumed"}
    (o,) = [w for w in layer.work if (w.kind, w.of) == ("GEMMs, fprop", "fprop.o")]
    assert o.certain == "measured"


@pytest.mark.parametrize("name", LARGE)
def test_more_tokens_never_take_less_time(name):
    """Twice the tokens make the step longer, and no kind of operation shorter but the optimizer's."""
    clock, before = times.timer(), None
    for tokens in (512, 1024, 2048, 4096, 8192, 16384):
        layer = amdahl.today(clock, layer_of(name, tokens))
        kinds = layer.by_kind()
        kinds.pop("network")  # where computation is short it shows more
        if before:
            assert layer.total() > before[1].total()
            assert all(us >= before[0][kind] for kind, us in kinds.items())
        before = kinds, layer


def work(us, held, name="a"):
    return Work("casts", name, "fprop", us, held, "assumed")


def test_communication_runs_under_computation():
    """100 us of computation that take 125 us next to communication take 110 us with 50 us of it, and wait for 200 us.

    Communication beside the SMs costs nothing, and exposed communication adds up.
    """
    computing = (work(100.0, 125.0),)

    def total(us, on_sms=True, hidden=True):
        return LayerStep(computing, (Transfer("dispatch", "fprop", us, on_sms),), hidden).total()

    assert total(50.0) == pytest.approx(110)
    assert total(125.0) == pytest.approx(125)
    assert total(200.0) == pytest.approx(200)
    assert total(50.0, on_sms=False) == pytest.approx(100)
    assert total(50.0, hidden=False) == pytest.approx(150)


SIDES = st.lists(
    st.tuples(
        st.floats(0.1, 1e4),
        st.floats(1.0, 1.5),
        st.floats(0.0, 2.0),
        st.floats(1.0, 1.5),
        st.sampled_from(["work", "net"]),
    ),
    min_size=1,
    max_size=8,
)


@given(SIDES, st.booleans(), st.booleans(), st.booleans())
def test_no_speedup_exceeds_its_ceiling(operations, hidden, before, after):
    """The step is never shorter than with all accelerated operations in no time."""

    def side(new):
        rows = [(i, us * (change if new else 1.0), b if new else a, kind) for i, (us, a, change, b, kind) in operations]
        return LayerStep(
            tuple(work(us, us * slower, f"{i}") for i, us, slower, kind in rows if kind == "work"),
            tuple(Transfer(f"{i}", "fprop", us, after if new else before) for i, us, _, kind in rows if kind == "net"),
            hidden,
        )

    operations = list(enumerate(operations))
    old, new = side(False), side(True)
    assert limit(old, new).total() <= new.total() * (1 + 1e-9)


@pytest.mark.parametrize("name", ["deepseek-v3", "llama-3-70b"])
def test_shipped_proposals_keep_below_their_ceilings(name):
    """Speedups of shipped proposals are below their ceilings under every assumption, and within their intervals."""
    for found in (amdahl.gain(p, layer_of(name), times.timer()) for p in table.shipped()):
        value, low, high = found.speedup
        assert low <= value <= high
        for old, new in [found.layers, *(there for _, _, there in found.cases)]:
            assert limit(old, new).total() <= new.total() * (1 + 1e-9)
        assert value <= found.ceiling[0] * (1 + 1e-9)
        assert sum(found.removed.values()) == pytest.approx(found.layers[0].total() - found.layers[1].total(), abs=1e-6)


def test_amdahl_in_a_dense_model():
    """Without a network the ceiling is 1 / (1 - p), where p is the share that the proposal accelerates."""
    found = gain("group-scaled-mma", "llama-3-70b")
    p = sum(found.touched.values()) / found.layers[0].total()
    assert set(found.touched) == {"GEMMs, fprop", "GEMMs, dgrad", "GEMMs, wgrad"}
    assert found.ceiling[0] == pytest.approx(1 / (1 - p), rel=1e-6)
    assert 1 < found.speedup[0] < found.ceiling[0]


def test_the_network_limits_what_faster_gemms_give():
    """With all GEMMs of DeepSeek-V3 in no time, communication limits the step, so the ceiling is below Amdahl's law."""
    found = gain("group-scaled-mma")
    p, shortest = sum(found.touched.values()) / found.layers[0].total(), limit(*found.layers)
    assert shortest.waits
    assert shortest.total() == pytest.approx(sum(transfer.us for transfer in shortest.network))
    assert found.ceiling[0] < 1 / (1 - p)


def test_attention_and_network_are_what_deepseek_says():
    """Attention takes 687 GFLOP forward and 1,786 backward at 4096 tokens, communication about as long as computation."""
    clock, model = times.timer(), layer_of("deepseek-v3")
    layer = amdahl.today(clock, model)
    us = {w.name: w.us for w in layer.work if w.kind == "attention"}
    rate, assumed = bf16_ceiling(clock), Assumptions()
    assert us["attention, forward"] * rate * assumed.attention_forward == pytest.approx(687.2e9, rel=1e-3)
    assert us["attention, backward"] * rate * assumed.attention_backward == pytest.approx(1786.7e9, rel=1e-3)
    assert 0.7 < sum(t.us for t in layer.network) / sum(w.us for w in layer.work) < 1.1
    # 4 copies of 7168 bytes and their scales, powers of two in a byte each, a token, at 40 GB/s
    assert layer.network[0].us == pytest.approx(4096 * 4 * 7168 * (1 + 1 / 128) / 40e3)


def test_offload_gives_back_what_the_network_holds():
    """Offloaded communication accelerates the network only, completely if it is hidden, and gains nothing otherwise."""
    found = gain("communication-offload")
    assert set(found.touched) == {"network"}
    assert found.layers[1].network_adds == pytest.approx(0, abs=1e-6)
    assert found.speedup[0] == pytest.approx(found.ceiling[0])
    assert found.speedup[1] == pytest.approx(1)


def test_a_cast_that_is_gone_is_taken_off():
    """Near-memory casting leaves only the casts of sent tensors, and adds transposes of gradients."""
    found = gain("near-memory-cast")
    old, new = (side.by_kind() for side in found.layers)
    sent = times.timer().time(Stream(4096, 7168, 24 + 8 * 4 / 128, "rows")).us
    assert new["casts"] == pytest.approx(2 * sent, rel=0.01)  # activations to the experts, and gradients
    assert found.removed["casts"] == pytest.approx(old["casts"] - new["casts"])
    assert found.removed["transposes"] < 0
    assert set(found.touched) == {"casts"}


def test_other_models_are_timed_on_the_linears_of_the_same_name():
    """A proposal about DeepSeek-V3's attention output affects Llama's; one about a pass affects all its Linears."""
    llama = layer_of("llama-3-8b")
    assert meant(proposal("weight-blocks-2d"), llama) == {
        f"{p}.{linear}" for p in ("fprop", "dgrad") for linear in ("qkv", "o", "gate-up", "down")
    }
    assert meant(proposal("e5m6-storage", workloads=("deepseek-v3.fprop.o",)), llama) == {
        "fprop.o",
        "dgrad.o",
        "wgrad.o",
    }


def test_claims_on_a_whole_layer_are_judged():
    """A modest speedup is supported, one above the ceiling refuted, and the tornado has assumptions on the network."""
    claims = tuple(Claim(metric="timing.layer_speedup", at_least=bound) for bound in (1.0, 1.5))
    about = proposal("warp-level-cast", claims=(*claims, Claim(metric="timing.layer_ceiling", at_most=1.5)))
    modest, bold, most = judge(about, evidence.SOURCE.gather(Subject(about)).figures)
    assert (modest.judgement, bold.judgement, most.judgement) == ("supported", "refuted", "supported")
    assert modest.deciding.workload == "deepseek-v3"
    assert modest.deciding.kind == "assumed"
    assert "communication behind computation" in {bar.assumption for bar in modest.bars}


def test_without_a_bf16_ceiling_no_layer_is_timed(monkeypatch, capsys):
    """Without a BF16 ceiling only GEMMs are timed; the method says why, and the command exits 3."""

    def none(_):
        raise LookupError("no BF16 ceiling here")

    monkeypatch.setattr(layer_step, "bf16_ceiling", none)
    found = evidence.SOURCE.gather(Subject(proposal("group-scaled-mma")))
    metrics = {f.metric for f in found.figures}
    assert "timing.step_speedup" in metrics
    assert not metrics & {"timing.layer_speedup", "timing.layer_ceiling"}
    assert found.method[-1] == "No whole layer: no BF16 ceiling here."
    assert run(["step", "deepseek-v3"]) == 3
    assert "no BF16 ceiling here" in capsys.readouterr().err


def test_the_report_stacks_the_layer():
    """Both pages have the chart of today and the proposal, the ceiling, and a sentence on it."""
    about = proposal(
        "near-memory-cast",
        workloads=("deepseek-v3.fprop.o",),
        tensors=("normal",),
        claims=(Claim(metric="timing.layer_speedup", at_least=1.0),),
    )
    result = evaluate(about, Sampling(rows=2, columns=2, seeds=(1, 2)))
    files = contents(result)
    chart = files["layer-deepseek-v3.svg"]
    assert all(kind in chart for kind in KINDS)
    assert "today&#x27;s software" in chart
    for page in (files["report.md"], files["report.html"]):
        text = page.replace("&#39;", "'")
        assert "A whole layer's step" in text
        assert "% of the step faster (casts): the whole step is " in text
    assert contents(type(result).model_validate_json(files["result.json"])) == files


def test_the_command_prints_the_layer_and_each_proposal(capsys):
    """The command prints each operation with share and kind, and each shipped proposal that can be timed, as in the docs."""
    assert run(["step", "deepseek-v3"]) == 0
    out = capsys.readouterr().out
    page = (PROPOSALS.parent / "docs/timing.md").read_text()
    assert "\n".join(line.rstrip() for line in out.splitlines()) in page, "python pages/timing_tables.py puts it there"
    assert "of 4096 tokens" in out
    assert all(
        name in out for name in ("GEMMs, wgrad", "attention, backward", "combine, both passes", "100%", "% measured")
    )
    assert all(p.proposal in out for p in table.shipped())
    assert "blackwell" not in out
    assert run(["step", "llama-3-8b", str(PROPOSALS / "warp-level-cast.yaml"), "--tokens", "2048"]) == 0
    out = capsys.readouterr().out
    assert "of 2048 tokens" in out
    assert "warp-level-cast" in out
    assert not any(word in out for word in ("near-memory-cast", "dispatch", "router"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["deepseek-v2"], "did you mean `deepseek-v3`?"),
        (["smollm2-135m"], "too small to time"),
        (["deepseek-v3", str(PROPOSALS / "blackwell-nvf4.yaml")], "`blackwell-nvf4` cannot be timed"),
        (["deepseek-v3", "no-such.yaml"], "cannot be read"),
        (["deepseek-v3", "--tokens", "0"], "--tokens"),
    ],
)
def test_what_cannot_be_timed_is_refused(arguments, words, capsys):
    """Models and proposals that cannot be timed give one message and exit code 2."""
    assert run(["step", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_proposal_about_no_linear_of_the_model_is_refused():
    """A proposal that affects no Linear of the model is refused, with the names of its Linears."""
    about = proposal("e5m6-storage", workloads=("deepseek-v3.fprop.q-b",))
    with pytest.raises(InputError, match="about no Linear of llama-3-8b"):
        amdahl.gain(about, layer_of("llama-3-8b"), times.timer())


def test_fewer_held_sms_cost_less():
    """Occupying fewer SMs for communication never makes the step longer."""
    found = gain("group-scaled-mma")
    wholes = [found.sides(Assumptions(held=held))[0].total() for held in (0, 6, 20)]
    assert wholes == sorted(wholes)


def test_the_step_of_another_gpu_is_asked_for_by_name(capsys):
    """`--gpu` takes the times of that GPU's records; an unknown one is refused with the names that there are."""

    proposal = str(PROPOSALS / "group-scaled-mma.yaml")
    assert run(["step", "deepseek-v3", proposal, "--gpu", "NVIDIA H100 80GB HBM3"]) == 0
    assert "NVIDIA H100" in capsys.readouterr().out
    assert run(["step", "deepseek-v3", "--gpu", "B200"]) == 2
    refused = capsys.readouterr().err
    assert "B200" in refused
    assert "NVIDIA H200" in refused


def test_the_network_within_a_node_is_as_measured():
    """The line through the exchanges of a record is within 5 % of each; nothing takes no time; most GPUs are the default."""
    for gpus in (2, 4):
        link = network.measured(gpus)
        record = json.loads((network.FOLDER / f"exchange-h200-x{gpus}.json").read_text())
        for row in record["rows"]:
            assert link.us(row["bytes"]) == pytest.approx(row["exchange"]["us"], rel=link.worst + 1e-9)
        assert link.worst < 0.05
        assert link.us(0) == 0
        assert link.sms == 32
    assert Assumptions().nvlink == link
    with pytest.raises(LookupError, match="exchange"):
        network.measured(3)
