"""Hypothesis strategies: random instructions of every kind the language can say, and operands that hurt."""

from hypothesis import strategies as st

from isa_model.array_codec import code_dtype
from isa_model.formats import FORMATS, named
from isa_model.instruction import Instruction
from isa_model.rounding import Rounding

MODES = [r.value for r in Rounding if r is not Rounding.STOCHASTIC]
FLOAT_OPERANDS = ["e4m3", "e5m2", "e2m1", "e3m2", "fp16", "bf16", "tf32", "e4m3fnuz", "e5m6", "e3m4f", "e6m9"]
REGISTERS = ["fp32", "e8m13", "fp16", "bf16", "e8m17", "e6m11", "e8m26"]


@st.composite
def registers(draw, names=REGISTERS):
    fmt = named(draw(st.sampled_from(names)))
    rules = [None, "saturate", "infinity", "ieee", "nan"]
    return {
        "format": fmt.name,
        "rounding": draw(st.sampled_from(MODES)),
        "overflow": draw(st.sampled_from(rules)),
        "subnormals": draw(st.sampled_from(["keep", "keep", "flush"])),
    }


@st.composite
def stages(draw, terms, last, interleave=None):
    stage = {"terms": terms, "zero": draw(st.sampled_from(["positive", "ieee"]))}
    if interleave:
        stage["interleave"] = interleave
    aligned = draw(st.booleans())
    accumulator = last or draw(st.booleans())
    if aligned:
        stage["fraction_bits"] = draw(st.one_of(st.integers(0, 38), st.just(48)))
        stage["rounding"] = draw(st.sampled_from(MODES))
        stage["zero_exponent"] = draw(st.sampled_from([None, -133, -21, -999, 3]))
        if accumulator and draw(st.booleans()):
            accumulator = {
                "fraction_bits": draw(st.integers(0, 38)),
                "drop_beyond": draw(st.sampled_from([None, 5, 25])),
            }
    stage["accumulator"] = accumulator
    if last:
        count = draw(st.integers(1, 2))
    else:
        chain = draw(st.integers(1, 3)) if accumulator else None
        stage["chain"] = chain
        count = draw(st.integers(1, 2)) if chain else draw(st.integers(0, 1))
    if count:
        stage["result"] = [draw(registers()) for _ in range(count)]
        if last:
            stage["result"][-1] = draw(registers(["fp32", "e8m13", "e6m11", "fp16", "bf16"]))
    if not count:
        stage["exponent"] = draw(st.sampled_from([None, None, 0, -3]))
    return stage


@st.composite
def instructions(draw):
    """A valid floating-point instruction with one to three stages, perhaps interleaved, perhaps scaled."""
    a, b = draw(st.sampled_from(FLOAT_OPERANDS)), draw(st.sampled_from(FLOAT_OPERANDS))
    depth = draw(st.integers(1, 3))
    sizes = [draw(st.sampled_from([1, 2, 4, 8])) for _ in range(depth)]
    body, span, parts = {}, 1, 1
    for i, terms in enumerate(sizes):
        interleave = None
        if i == 0 and terms > 1 and draw(st.booleans()):
            interleave = {"run": draw(st.sampled_from([1, max(terms // 2, 1)])), "parts": 2}
            parts = 2
        stage = draw(stages(terms, last=i == depth - 1, interleave=interleave))
        body[f"s{i}"] = stage
        span *= terms * (stage.get("chain") or 1)
    spec = {"name": "random", "a": a, "b": b, "accumulator": "fp32", "stages": body}
    k = span * parts
    if draw(st.booleans()):
        onto = draw(st.sampled_from(["products", *list(body)[:-1]]))
        group = k
        formats = draw(
            st.sampled_from([("fp32", "fp32"), ("ue8m0", "ue8m0"), ("ue4m3", "ue4m3"), ("fp32", None), (None, "ue8m0")])
        )
        scale = {"onto": onto}
        if formats[0]:
            scale["a"] = {"group": [draw(st.sampled_from([1, 2])), group], "format": formats[0]}
        if formats[1]:
            scale["b"] = {"group": [group, draw(st.sampled_from([1, 3]))], "format": formats[1]}
        if None not in formats and draw(st.booleans()):
            scale["product"] = draw(registers(["fp32", "bf16"]))
        if draw(st.booleans()):
            scale["result"] = draw(registers(["fp32", "e8m17"]))
        spec["scale"] = scale
    if draw(st.integers(0, 3)) == 0:
        spec["infinite_from"] = draw(st.sampled_from([4, 128]))
    spec["widen"] = draw(st.sampled_from([None, None, "fp64"]))
    spec["flush_inputs"] = draw(st.integers(0, 3)) == 0
    spec["c"] = draw(st.sampled_from([None, None, None, "fp16", "e8m17", "e5m2"]))
    spec["shape"] = {"m": 4, "n": 4, "k": k}
    return Instruction.model_validate(spec)


def codes(fmt, rng, shape, kind):
    """Codes of a format: random bits, numbers of like size, many zeros, pairs that cancel, or both ends of the range."""
    dtype = code_dtype(fmt)
    bits = rng.integers(0, 1 << fmt.bits, shape, dtype="u8").astype(dtype)
    if kind == "bits" or fmt.kind == "integer":
        return bits
    exponent_all = (1 << fmt.exponent_bits) - 1
    field = fmt.mantissa_bits + fmt.low_padding
    sign = bits & dtype.type((1 << fmt.bits >> 1) if fmt.signed else 0)
    mantissa = bits & dtype.type((1 << field) - 1)
    middle = exponent_all // 2
    exponent = {
        "like": rng.integers(max(middle - 2, 0), min(middle + 3, exponent_all), shape),
        "sparse": rng.integers(max(middle - 2, 0), min(middle + 3, exponent_all), shape),
        "cancel": rng.integers(middle, middle + 1, shape),
        "ends": rng.choice([0, 1, max(exponent_all - 1, 0)], shape),
    }[kind].astype("u8")
    result = (sign | (exponent << field).astype(dtype) | mantissa).astype(dtype)
    if kind == "sparse":
        result[rng.random(shape) < 0.6] = 0
    if kind == "cancel" and fmt.signed and shape[-1] > 1:
        half = shape[-1] // 2
        result[..., half : 2 * half] = result[..., :half] ^ dtype.type(1 << (fmt.bits - 1 - fmt.high_padding))
    return result


KINDS = ["bits", "like", "sparse", "cancel", "ends"]
assert set(FLOAT_OPERANDS) - set(FORMATS) == {"e5m6", "e3m4f", "e6m9"}
