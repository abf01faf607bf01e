"""Questions and their answers: on fresh seeds, together, and side by side."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import current_thread

from toy_sweep import ERROR, PLAIN, figure, toy

from codesign.evidence.numerics.metrics import METRICS
from codesign.evidence.numerics.source import Multiplied
from codesign.evidence.numerics.trial import Trial
from codesign.evidence.sampling import Sampling
from codesign.evidence.source import Question
from codesign.proposal.variants import variants
from codesign.verdicts.questions import answer, asker, pursue


def test_enquiries_move_side_by_side():
    """The questions of all are asked at once; each gets its own answers, and those that end early wait for none."""

    def enquiry(*steps):
        got = []
        for count in steps:
            answers = yield [f"{len(steps)}/{i}" for i in range(count)]
            got += answers
        return got

    asked = []

    def ask(questions):
        asked.append(list(questions))
        return [q.upper() + "!" for q in questions]

    assert pursue([enquiry(1, 2), enquiry(), enquiry(2)], ask) == [["2/0!", "2/0!", "2/1!"], [], ["1/0!", "1/1!"]]
    assert asked == [["2/0", "1/0", "1/1"], ["2/0", "2/1"]]
    assert pursue([enquiry(1)], None) == [[]]
    assert pursue([], ask) == []


def test_questions_are_answered_by_the_model():
    """Answers have the figures of the variants asked for at each level, on the sampling's seeds or twice as many fresh ones."""
    about = toy(PLAIN)
    gemm, _ = about.trials[0]
    compared = tuple(c for c in variants(about) if c.variant in ("proposal", "software"))
    sampling = Sampling(rows=4, columns=8, seeds=tuple(range(8)))
    question = Multiplied(about, gemm, "normal", "software", compared=compared, levels=(0.95, 0.5))
    ((wide, narrow),) = answer(sampling, question)
    key = [(f.metric, f.variant) for f in wide]
    assert key == [(f.metric, f.variant) for f in narrow]
    assert {v for _, v in key} == {"proposal", "software"}
    for a, b in zip(wide, narrow, strict=True):
        assert a.value == b.value
        if a.metric == ERROR and a.variant == "proposal":
            assert a.low < b.low < a.value < b.high < a.high
            assert set(a.ratios) == {"software"}
    ((fresh,),) = answer(sampling, Multiplied(about, gemm, "normal", "software", compared=compared, fresh=True))
    ((direct,),) = answer(
        sampling.model_copy(update={"seeds": tuple(range(8, 24))}),
        Multiplied(about, gemm, "normal", "software", compared=compared),
    )
    assert fresh == direct != wide
    ((plain,),) = answer(sampling, Multiplied(about, gemm, "normal", compared=compared))
    assert all(f.ratios == {} for f in plain)


def test_metrics_of_quantised_operands_need_no_sums(monkeypatch):
    """Asked for alone, such a metric has the figures that it has among all metrics, and no instruction multiplies."""
    about = toy(PLAIN)
    gemm, _ = about.trials[0]
    compared = tuple(c for c in variants(about) if c.variant in ("proposal", "software"))
    question = Multiplied(about, gemm, "outliers", "software", compared=compared)
    sampling = Sampling(rows=4, columns=8, seeds=tuple(range(8)))
    ((every,),) = answer(sampling, question)
    names = [m.name for m in METRICS if m.of_operands]
    assert len(names) == 3
    monkeypatch.delattr(Trial, "outcome")
    for name in names:
        ((found,),) = answer(sampling, replace(question, metric=name))
        assert found == [f for f in every if f.metric == name]


def test_questions_on_the_same_data_are_answered_together():
    """Tensors are drawn once for all questions on them, the longest first, and answers come in the order asked."""

    together = []

    class Counted(Question):
        @classmethod
        def answers(cls, questions, sampling):
            together.append(([q.gemm.k for q in questions], sampling.rows))
            return [[[figure(q.gemm.k)]] for q in questions]

    about = toy(PLAIN)
    long, short = sorted({g for g, _ in about.trials}, key=lambda g: -g.k)[:2]
    with ThreadPoolExecutor(1) as executor:
        ask = asker(Sampling(rows=5), executor, executor)
        found = ask([Counted(about, g, t) for g, t in ((short, "normal"), (long, "normal"), (short, "normal"))])
        assert together == [([long.k], 5), ([short.k] * 2, 5)]
        assert [f[0][0].value for f in found] == [short.k, long.k, short.k]
        together.clear()
        ask([Counted(about, short, t) for t in ("normal", "uniform")])
        assert together == [([short.k], 5)] * 2


def test_questions_that_leave_something_in_memory_are_answered_in_this_process():
    """They go to this process's threads, together with others on the same data; the rest goes to the pool."""

    class Named(Question):
        @property
        def in_process(self):
            return self.base is not None

        @classmethod
        def answers(cls, questions, sampling):
            return [current_thread().name[:4]] * len(questions)

    about = toy(PLAIN)
    (gemm, tensors), *_ = about.trials
    with ThreadPoolExecutor(1, "pool") as pool, ThreadPoolExecutor(1, "here") as here:
        ask = asker(Sampling(), pool, here)
        asked = [Named(about, gemm, tensors), Named(about, gemm, tensors, "software"), Named(about, gemm, "other")]
        assert ask(asked) == ["here", "here", "pool"]
        assert ask(asked[:1]) == ["pool"]
