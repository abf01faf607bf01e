"""Boxes for tests of the probe: instructions of the catalogue with their sums hidden, and questions."""

import numpy as np

from codesign.probe.box import Lines, Signature
from codesign.probe.boxes import SpecBox
from codesign.probe.questions import adversarial, mutated
from isa_model.library import load

VOLTA = "volta.mma.m8n8k4.f32.f16.f16.f32"
INTEGERS = "turing.mma.m8n8k16.s32.s8.u8.s32.satfinite"
MX = "blackwell.tcgen05.m128n8k32.kind::mxf8f6f4.block32.f32.e5m2.e5m2.ue8m0"
REGISTER = {"format": "fp32", "rounding": "toward-zero"}
INTEGER_SPARSE = "hopper.mma.sp.m16n8k64.s32.s4.s4.s32"
SIGNATURE = Signature(load(VOLTA))


def hidden(name):
    spec = load(name)
    return SpecBox(Signature(spec), spec)


def unseen(signature, count=6000):
    rng = np.random.default_rng(5)
    fresh = adversarial(signature, rng, 1500)
    return Lines.join([fresh, mutated(signature, rng, fresh, count)])


def questions(count=50):
    return adversarial(SIGNATURE, np.random.default_rng(0), count).pick(slice(0, count))
