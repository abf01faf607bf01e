"""Hypothesis strategies: random instructions of every kind that the language can describe, and stressing operands."""

from math import lcm

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from pydantic import ValidationError

from isa_model.array_codec import code_dtype
from isa_model.formats import FORMATS, Format, named
from isa_model.instruction import Instruction
from isa_model.limits import HIGHEST_POWER, LOWEST_POWER
from isa_model.rounding import Rounding

MODES = [r.value for r in Rounding if r is not Rounding.STOCHASTIC]
FLOAT_OPERANDS = ["e4m3", "e5m2", "e2m1", "e3m2", "fp16", "bf16", "tf32", "e4m3fnuz", "e5m6", "e3m4f", "e6m9"]
REGISTERS = ["fp32", "e8m13", "fp16", "bf16", "e8m17", "e6m11", "e8m26"]
NARROW = ["fp32", "e8m13", "e6m11", "fp16", "bf16"]
SPECIALS = [
    ("ieee", True),
    ("ieee", False),
    ("all-ones", False),
    ("negative-zero", False),
    ("none", False),
    ("none", True),
]


@st.composite
def float_formats(draw, most_exponent=8, most_mantissa=12):
    """A signed format with a zero and any rule for specials: tiny, of subnormals alone, at an end of FP64, or padded."""
    exponent_bits, mantissa_bits = draw(st.integers(1, most_exponent)), draw(st.integers(1, most_mantissa))
    nan, infinity = draw(st.sampled_from(SPECIALS))
    usual, top = (1 << exponent_bits >> 1) - 1, (1 << exponent_bits) - 1 - (nan == "ieee" or infinity)
    least, most = top - HIGHEST_POWER, 1 - mantissa_bits - LOWEST_POWER  # as Format allows
    near = st.sampled_from([usual, usual, usual, usual + 1, usual - 2, usual + 30, usual - 30])
    far = st.sampled_from([least, least + 1, most - 1, most]) | st.integers(least, most)
    rules = ["saturate"] + ["nan"] * (nan != "none") + ["ieee", "infinity"] * infinity
    fields = {
        "name": "x",
        "exponent_bits": exponent_bits,
        "mantissa_bits": mantissa_bits,
        "bias": draw(far if draw(st.integers(0, 9)) == 9 else near),  # engines leave most far ones to golden
        "infinity": infinity,
        "nan": nan,
        "overflow": draw(st.sampled_from(rules)),
        "low_padding": draw(st.sampled_from([0, 0, 0, 3])),
    }
    try:
        return Format(**fields)
    except ValidationError:
        assume(False)


@st.composite
def integer_formats(draw, most=64):
    """An integer of up to `most` bits, often one of a usual width."""
    usual = [bits for bits in (4, 8, 16, 32, 53, 63, 64) if bits <= most]
    bits = draw(st.one_of(st.sampled_from(usual), st.integers(2, most)))
    padding = {"low_padding": draw(st.sampled_from([0, 0, 3])) if bits <= 61 else 0}
    rule = draw(st.sampled_from(["saturate", "wrap"]))
    return Format(name="i", kind="integer", mantissa_bits=bits, signed=draw(st.booleans()), overflow=rule, **padding)


@st.composite
def table_formats(draw):
    """A table with a zero and up to 15 other numbers: small ones and large ones, of few bits and of many, or specials."""
    numbers = st.one_of(
        st.integers(-20, 20).map(float),
        st.builds(lambda x, e: x * 2.0**e, st.integers(-9, 9), st.integers(-40, 40)),
        st.floats(-4, 4, allow_subnormal=False, width=32),
        st.sampled_from(["nan", "infinity", "-infinity"]),
    )
    count = draw(st.sampled_from([2, 4, 8, 16]))
    values = [0.0, 1.0, *draw(st.lists(numbers, min_size=count - 2, max_size=count - 2))]
    try:
        return Format(name="t", kind="table", values=draw(st.permutations(values)))
    except ValidationError:
        assume(False)


@st.composite
def whole_formats(draw, most=64):
    """A format of whole numbers: an integer, or floats or a table of whole numbers alone."""
    kind = draw(st.sampled_from(["integer", "integer", "float", "table"]))
    if kind == "integer":
        return draw(integer_formats(most))
    if kind == "table":
        numbers = st.integers(-20, 20) | st.integers(-(1 << 40), 1 << 40)
        return Format(name="t", kind="table", values=[0, 1, *draw(st.lists(numbers, min_size=14, max_size=14))])
    exponent_bits, mantissa_bits = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    fields = {"exponent_bits": exponent_bits, "mantissa_bits": mantissa_bits, "signed": draw(st.booleans())}
    fields["low_padding"] = draw(st.sampled_from([0, 0, 0, 3]))
    return Format(name="w", bias=1 - mantissa_bits - draw(st.integers(0, 3)), overflow="saturate", **fields)


@st.composite
def operand_formats(draw, kind):
    """A format of A or B, mostly one with a name, and half of them of a kind: `float`, `integer` or `table`."""
    if kind != "float" and draw(st.booleans()):
        several = draw(whole_formats(20)) if kind == "integer" else draw(table_formats())
        names = ["int8", "uint8", "int4", "uint4"] if kind == "integer" else ["nf4", "hif8", "posit8"]
        return draw(st.sampled_from([several, several, *map(named, names)]))
    return named(draw(st.sampled_from(FLOAT_OPERANDS))) if draw(st.integers(0, 3)) else draw(float_formats(6, 10))


@st.composite
def registers(draw, names=REGISTERS, stochastic=False):
    """Draw a register, with a named format or any other; `stochastic`: one that may draw random bits."""
    fmt = named(draw(st.sampled_from(names))) if draw(st.integers(0, 2)) else draw(float_formats(8, 26))
    rules = [None, "saturate"] + ["infinity", "ieee"] * fmt.infinity + ["nan"] * (fmt.nan_code is not None)
    register = {
        "format": fmt,
        "rounding": draw(st.sampled_from(MODES)),
        "overflow": draw(st.sampled_from(rules)),
        "subnormals": draw(st.sampled_from(["keep", "keep", "flush"])),
    }
    if stochastic and draw(st.integers(0, 3)) == 0:
        register |= {"rounding": "stochastic", "random_bits": draw(st.sampled_from([1, 2, 10, 23, 32]))}
    return register


@st.composite
def stages(draw, terms, last, interleave=None, stochastic=False):
    stage = {"terms": terms, "zero": draw(st.sampled_from(["positive", "ieee"]))}
    if interleave:
        stage["interleave"] = interleave
    aligned = draw(st.booleans())
    accumulator = last or draw(st.booleans())
    if aligned:
        stage["fraction_bits"] = draw(st.one_of(st.integers(0, 38), st.sampled_from([48, 90])))
        stage["rounding"] = draw(st.sampled_from(MODES))
        stage["zero_exponent"] = draw(st.sampled_from([None, None, -133, -21, -999, 3, 500]))
        if accumulator and draw(st.booleans()):
            accumulator = {
                "fraction_bits": draw(st.integers(0, 38)),
                "drop_beyond": draw(st.sampled_from([None, 5, 25, 5000])),
                "offset": draw(st.sampled_from([0, 0, -2, 3])),
            }
        if accumulator and stage["zero"] == "positive" and draw(st.integers(0, 3)) == 0:
            stage["opposing"] = "complement"
    stage["accumulator"] = accumulator
    if last:
        count = draw(st.integers(1, 2))
    else:
        chain = draw(st.integers(1, 3)) if accumulator else None
        stage["chain"] = chain
        count = draw(st.integers(1, 2)) if chain else draw(st.integers(0, 1))
    if count:
        stage["result"] = [draw(registers(stochastic=stochastic)) for _ in range(count)]
        if last:
            stage["result"][-1] = draw(registers(NARROW, stochastic))
            if not any(r.get("random_bits") for r in stage["result"]) and draw(st.integers(0, 3)) == 0:
                kept = named(draw(st.sampled_from(NARROW))) if draw(st.booleans()) else draw(float_formats(8, 26))
                joins = draw(st.sampled_from(["sum", "end"] if aligned else ["sum", "block", "end"]))
                stage["remainder"] = {"format": kept, "rounding": draw(st.sampled_from(MODES)), "joins": joins}
    if not count:
        stage["exponent"] = draw(st.sampled_from([None, None, None, 0, -3, 40, -700]))
    return stage


def interleaved(draw, terms):
    """Draw an interleave for blocks of several terms, or none."""
    if terms < 2 or draw(st.booleans()):
        return None
    if draw(st.integers(0, 3)) == 0:
        return {"run": draw(st.sampled_from([1, terms // 2, terms])), "parts": 2, "hand": 2 * terms}
    return {"run": draw(st.sampled_from([1, terms // 2])), "parts": 2}


@st.composite
def scale_formats(draw):
    """A format of scales, of any kind, signed or not, with and without a zero."""
    if draw(st.booleans()):
        return named(draw(st.sampled_from(["fp32", "ue8m0", "ue4m3", "uint4", "e5m3", "e4m3fnuz", "hif8"])))
    return draw(st.one_of(float_formats(5, 8), integer_formats(10), table_formats()))


@st.composite
def scale_operands(draw, group):
    """The scales of an operand in groups, of one level or of several."""
    side = {"group": group, "format": draw(scale_formats()), "coarser": []}
    if draw(st.integers(0, 3)) == 0:
        side["coarser"] = [
            {"group": [g * draw(st.sampled_from([2, 3])) for g in group], "format": draw(scale_formats())}
        ]
        if draw(st.booleans()):
            side["coarser"] += [{"group": None, "format": draw(scale_formats())}]
    return side


@st.composite
def instructions(draw, codebooks=False):
    """A valid instruction with a floating-point D and one to three stages, perhaps interleaved, perhaps scaled.

    In some, operands are whole numbers, and registers of their sums integers; in some, registers draw random bits. With
    `codebooks`, operands of some are looked up in tables.
    """
    kind = draw(st.sampled_from(["float", "float", "integer", "table"]))
    a, b = draw(operand_formats(kind)), draw(operand_formats(kind))
    stochastic = draw(st.integers(0, 3)) == 0
    depth = draw(st.integers(1, 3))
    sizes = [draw(st.sampled_from([1, 2, 4, 8])) for _ in range(depth)]
    body, span, parts = {}, 1, 1
    for i, terms in enumerate(sizes):
        interleave = interleaved(draw, terms) if i == 0 else None
        parts = 2 * interleave.get("hand", terms) // terms if interleave else parts
        stage = draw(stages(terms, last=i == depth - 1, interleave=interleave, stochastic=stochastic))
        chain = stage.get("chain") or 1
        if i == 0 and chain > 1 and not interleave and draw(st.booleans()):
            run = draw(st.sampled_from([1, terms]))
            stage["interleave"], parts = {"run": run, "parts": 2, "to": "chains"}, 2
        body[f"s{i}"] = stage
        span *= terms * chain
    onto = draw(st.sampled_from([None, None, "products", *list(body)[:-1]]))
    if a.is_whole and b.is_whole and onto != "products":
        for name in list(body)[:-1]:  # sums of integers, up to the stage that is scaled or rounded to floating point
            if draw(st.booleans()) or (body[name].get("result") and not draw(st.booleans())):
                break
            if body[name].get("result"):
                count, whole = draw(st.integers(1, 2)), integer_formats(50)
                body[name]["result"] = [{"format": draw(whole), "rounding": "nearest-even"} for _ in range(count)]
            if name == onto:
                break
    register = body[f"s{depth - 1}"]["result"][-1]["format"]
    accumulator = next(f for f in (named("fp32"), register) if f.holds(register))
    if draw(st.integers(0, 3)) == 0:
        accumulator = register
    spec = {"name": "random", "a": a, "b": b, "accumulator": accumulator, "stages": body}
    k = span * parts * draw(st.sampled_from([1, 1, 1, 2]))
    if onto:
        group = k * draw(st.sampled_from([1, 1, 2]))
        scale, sides = {"onto": onto}, draw(st.sampled_from(["a", "b", "ab", "ab", ""]))
        if "a" in sides:
            scale["a"] = draw(scale_operands([draw(st.sampled_from([1, 2])), group]))
        if "b" in sides:
            scale["b"] = draw(scale_operands([group, draw(st.sampled_from([1, 3]))]))
        if sum(1 + len(scale[side]["coarser"]) for side in sides) > 1 and draw(st.booleans()):
            scale["product"] = draw(registers(["fp32", "bf16"]))
        if not sides or draw(st.integers(0, 3)) == 0:
            scale["power"] = draw(st.sampled_from([-3, 7, -40]))
        if draw(st.booleans()):
            scale["result"] = draw(registers(["fp32", "e8m17"]))
        spec["scale"] = scale
    if not a.kind == b.kind == "integer" and draw(st.integers(0, 3)) == 0:
        spec["infinite_from"] = draw(st.sampled_from([4, 128, -3, -2000]))
    if a.kind == b.kind == "float":
        wider = [fmt for fmt in map(named, ("fp64", "fp32", "fp16")) if fmt.holds(a) and fmt.holds(b)]
        spec["widen"] = draw(st.sampled_from([None, None, *wider]))
        assume(spec["widen"] is None or not a == b == spec["widen"])
    spec["flush_inputs"] = draw(st.sampled_from([False] * 6 + [True, "keep-sign", "c"]))
    spec["c"] = draw(st.sampled_from([None, None, None, None, "fp16", "e8m17", "e5m2"]))
    if draw(st.integers(0, 9)) == 0:
        spec["c"] = draw(float_formats(8, 12))
    if accumulator.nan == "ieee" and draw(st.booleans()):  # any NaN, such as NVIDIA's of ones
        spec["nan"] = (
            (1 << accumulator.magnitude_bits) - draw(st.integers(1, (1 << accumulator.mantissa_bits) - 1))
        ) << (accumulator.low_padding)
    spec["shape"] = {"m": 4, "n": 4, "k": k}
    if codebooks and draw(st.integers(0, 7)) == 0:
        groups = st.sampled_from([None, [1, 2], [2, k]])
        books = {
            x: {"bits": draw(st.integers(1, max(f.bits - 1, 1))), "group": draw(groups)}
            for x, f in (("a", a), ("b", b))
        }
        narrow = {"a": a.bits, "b": b.bits}
        books = {x: book for x, book in books.items() if book["bits"] < min(narrow[x], 6) and draw(st.booleans())}
        spec["codebook"] = books or None
    return Instruction.model_validate(spec)


@st.composite
def integer_instructions(draw):
    """A valid integer instruction with one to three stages, perhaps interleaved."""
    depth = draw(st.integers(1, 3))
    body, span, parts = {}, 1, 1
    for i in range(depth):
        terms, last = draw(st.sampled_from([1, 2, 4, 8])), i == depth - 1
        stage = {"terms": terms, "zero": draw(st.sampled_from(["positive", "ieee"]))}
        if i == 0 and (interleave := interleaved(draw, terms)):
            stage["interleave"], parts = interleave, 2 * interleave.get("hand", terms) // terms
        if last or draw(st.booleans()):
            stage["accumulator"] = True
            stage["chain"] = None if last else draw(st.integers(1, 3))
        for _ in range(draw(st.integers("accumulator" in stage, 2))):
            register = {"format": draw(integer_formats()), "rounding": draw(st.sampled_from(MODES))}
            register["overflow"] = draw(st.sampled_from([None, "saturate", "wrap"]))
            stage["result"] = [*stage.get("result", []), register]
        body[f"s{i}"] = stage
        span *= terms * (stage.get("chain") or 1)
    kept = body[f"s{depth - 1}"]["result"][-1]["format"]
    accumulator = draw(st.sampled_from([kept, kept.model_copy(update={"mantissa_bits": 61, "name": "wide"})]))
    assume(accumulator.holds(kept))
    spec = {"name": "random", "a": draw(whole_formats()), "b": draw(whole_formats()), "accumulator": accumulator}
    spec["c"] = draw(st.one_of(st.none(), st.none(), integer_formats()))
    spec["shape"] = {"m": 4, "n": 4, "k": span * parts * draw(st.sampled_from([1, 2]))}
    return Instruction.model_validate(spec | {"stages": body})


@st.composite
def sparse_instructions(draw):
    """A valid instruction of any kind with structured sparsity in A or in B."""
    spec = draw(st.one_of(instructions(), integer_instructions()))
    kept, of, run = draw(st.sampled_from([(1, 2, 1), (2, 4, 1), (2, 4, 2), (1, 4, 1), (3, 5, 1), (1, 2, 4)]))
    fill = lcm(spec.shape.k, kept * run)
    data = spec.model_dump() | {
        "sparsity": {"operand": draw(st.sampled_from("ab")), "kept": kept, "of": of, "run": run}
    }
    data["shape"] = {"m": 4, "n": 4, "k": fill // kept * of}
    assume(data["shape"]["k"] <= 1 << 16)
    for side, axis in (("a", 1), ("b", 0)):
        if data["scale"] and data["scale"][side]:
            along = data["shape"]["k"] * draw(st.sampled_from([1, 2]))
            for i, level in enumerate([data["scale"][side], *data["scale"][side].get("coarser", ())]):
                if level["group"]:
                    group = list(level["group"])
                    group[axis] = along << i
                    level["group"] = group
    return Instruction.model_validate(data)


def codes(fmt, rng, shape, kind):
    """Codes of a format: random bits, numbers of like size, many zeros (of both signs), pairs that cancel, or both ends of
    the range."""
    dtype = code_dtype(fmt)
    bits = rng.integers(0, 1 << fmt.bits, shape, dtype="u8").astype(dtype)
    if fmt.kind == "integer":
        top = 1 << fmt.mantissa_bits
        ends = [x << fmt.low_padding for x in (0, 1, 2, top - 1, top >> 1, (top >> 1) - 1)]
        special = rng.choice(np.array(ends, "u8"), shape).astype(dtype)
        result = np.where(rng.random(shape) < {"bits": 0, "ends": 1, "sparse": 0.5}.get(kind, 0.2), special, bits)
        return np.where(rng.random(shape) < 0.6, dtype.type(0), result) if kind == "zeros" else result
    if kind == "bits" or fmt.kind == "table":
        return np.where(rng.random(shape) < 0.6, fmt.zero_code, bits) if kind == "sparse" and fmt.zero else bits
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
        "zeros": rng.choice([0, 0, 1], shape),
    }[kind].astype("u8")
    result = (sign | (exponent << field).astype(dtype) | mantissa).astype(dtype)
    if kind == "zeros":
        result = np.where(rng.random(shape) < 0.6, sign, result)
    if kind == "sparse":
        result[rng.random(shape) < 0.6] = 0
    if kind == "cancel" and fmt.signed and shape[-1] > 1:
        half = shape[-1] // 2
        result[..., half : 2 * half] = result[..., :half] ^ dtype.type(1 << (fmt.bits - 1 - fmt.high_padding))
    return result


KINDS = ["bits", "like", "sparse", "cancel", "ends", "zeros"]
assert set(FLOAT_OPERANDS) - set(FORMATS) == {"e5m6", "e3m4f", "e6m9"}
