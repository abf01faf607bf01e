"""Toy evidence for tests of verdicts: figures by place, and what measures them again."""

from codesign.figures.figure import Alternative, Figure
from codesign.proposal.load import parse_proposal
from codesign.proposal.proposal import Claim
from codesign.verdicts.claims import judge
from isa_model.diagnostics import parse_yaml

ERROR = "numerics.total_error"
TEXT = """proposal: toy
title: Toy
source: the tests
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change:
  stages:
    fuse: {fraction_bits: 20, result: {format: fp32, rounding: toward-zero}}
workloads: [deepseek-v3, smollm2-135m]
tensors: [normal, uniform, outliers]
claims:
  - {metric: numerics.total_error, at_most: 1}
"""
TOY = parse_proposal(parse_yaml(TEXT, "toy.yaml"))
PLACES = [(g.name, t) for g, t in TOY.trials]


def toy(**claim):
    """The toy proposal with one claim."""
    return TOY.model_copy(update={"claims": (Claim(**{"metric": ERROR, "at_most": 1.0} | claim),)})


def figure(value, low=..., high=..., place=0, **more):
    """A figure; without ends its interval is a point."""
    workload, tensors = PLACES[place]
    about = {"metric": ERROR, "variant": "proposal", "workload": workload, "tensors": tensors, "kind": "computed"}
    ends = {"low": value if low is ... else low, "high": value if high is ... else high}
    return Figure(**{**about, "source": "toy", "value": value, **ends, **more})


def verdict(*figures, ask=None, **claim):
    (found,) = judge(toy(**claim), figures, ask)
    return found


class Lab:
    """What answers questions: figures by place, at 95 % and at the level asked; it counts what it was asked."""

    def __init__(self, **by_place):
        self.by_place, self.asked = by_place, []

    def __call__(self, questions):
        self.asked += questions
        return [[self.figures(q, level) for level in q.levels] for q in questions]

    def figures(self, question, level):
        place = PLACES.index((question.gemm.name, question.tensors))
        value, half = self.by_place[f"p{place}"]
        half *= {True: 1.0, False: 1.5}[level == 0.95]
        return [figure(value, value - half, value + half, place)]


BIAS = {"metric": "numerics.bias"}


DB = {"metric": "numerics.sqnr_db"}


BYTES = {"metric": "traffic.hbm_bytes", "tensors": "", "kind": "modelled", "workload": "deepseek-v3"}


def against(own, other, **claim):
    return verdict(own, other, relative_to="software", **claim)


def software(*numbers, **more):
    return figure(*numbers, variant="software", **more)


def alternative(assumption, other, value, half=0.0):
    ends = {} if value is None else {"low": value - half, "high": value + half}
    return Alternative(assumption=assumption, other=other, value=value, **ends)
