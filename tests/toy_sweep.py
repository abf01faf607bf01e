"""Toy evidence for tests of break-evens and other cases: a proposal with a sweep."""

from codesign.figures.figure import Figure
from codesign.proposal.load import parse_proposal
from codesign.proposal.proposal import Claim
from isa_model.diagnostics import parse_yaml

ERROR = "numerics.relative_frobenius"
TEXT = """proposal: toy
title: Toy
source: the tests
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change:
  stages:
    fuse: {fraction_bits: 20, result: {format: fp32, rounding: toward-zero}}
sweep: {field: stages.fuse.fraction_bits, values: [19, 13, 15, 17]}
workloads: [deepseek-v3.fprop.o, deepseek-v3.fprop.q-b, smollm2-135m.fprop.down]
tensors: [normal, uniform, captured]
claims:
  - {metric: numerics.relative_frobenius, at_most: 1}
"""
PLAIN = "\n".join(line for line in TEXT.splitlines() if not line.startswith("sweep")) + "\n"


def toy(text=TEXT, **claim):
    made = parse_proposal(parse_yaml(text, "toy.yaml"))
    return made.model_copy(update={"claims": (Claim(**{"metric": ERROR, "at_most": 1.0} | claim),)})


def figure(value, at=None, tensors="normal", half=0.0, **more):
    about = {"metric": ERROR, "variant": "proposal", "workload": "deepseek-v3.fprop.o", "kind": "computed"}
    ends = {"low": value - half, "high": value + half}
    return Figure(**{**about, "source": "toy", "value": value, "at": at, "tensors": tensors, **ends, **more})


def swept(values, **more):
    """Return a figure at each swept value, and the proposal's own."""
    return [figure(0.1, **more), *(figure(v, at=at, **more) for at, v in values.items())]
