"""ISA-manual pages: operands, semantics step by step and special values, written from an instruction's spec."""

from __future__ import annotations

from codesign.proposal.proposal import Proposal
from codesign.proposal.quantisation import Quantisation, Slices
from isa_model.formats import Format, is_name
from isa_model.instruction import Instruction
from isa_model.operand_fields import ScaleOperand, Sparsity
from isa_model.path import PLACES, Step
from isa_model.stage import Interleave, Register, Remainder, Spec, Stage

_ROUNDING = {
    "nearest-even": "to nearest, ties to even",
    "nearest-away": "to nearest, ties away from zero",
    "toward-zero": "towards zero",
    "up": "up",
    "down": "down",
    "to-odd": "to odd (a sticky last bit)",
    "stochastic": "stochastically",
}


KNOWN = {
    "silicon": "equal to silicon, bit for bit",
    "model": "equal to another model; no output of the chip was compared by us",
    "documented": "documented by the vendor; no output of the chip was compared",
    "assumed": "assumed: no source gives the rule of this instruction, and it may compute otherwise",
}
"""How well the rules of a real instruction are known, in words."""


class ManualSection(Spec):
    """One section of a manual page."""

    title: str
    lines: tuple[str, ...]
    steps: bool = False
    """True if the lines are numbered steps."""


def page(instruction: Instruction) -> tuple[ManualSection, ...]:
    """Return the manual page of an instruction."""
    return (
        ManualSection(title="Operation", lines=_synopsis(instruction)),
        ManualSection(title="Operands", lines=_operands(instruction)),
        ManualSection(title="Semantics", lines=tuple(_steps(instruction)), steps=True),
        ManualSection(title="Special values", lines=_specials(instruction)),
        ManualSection(title="Origin", lines=_origin(instruction)),
    )


def proposal_page(proposal: Proposal) -> tuple[ManualSection, ...]:
    """Return the manual page of a proposal: its operand path, then the instruction, which may be today's."""
    on_the_way = (path_page(proposal.path.steps, proposal.path.operands),) if proposal.path else ()
    slices = proposal.rule.slices
    around = (slices_page(slices, proposal.rule, proposal.inputs),) if slices else ()
    return (*on_the_way, *around, *page(proposal.proposed()))


def _synopsis(spec: Instruction) -> tuple[str, ...]:
    shape = spec.shape
    line = (
        f"D ({shape.m} x {shape.n}) = A ({shape.m} x {shape.k}) B ({shape.k} x {shape.n}) + C ({shape.m} x {shape.n})"
    )
    seed = (
        [
            "Random bits are the upper bits of Philox4x32-10 (row, column, block, register) under the seed, a 64-bit operand."
        ]
        if spec.is_stochastic
        else []
    )
    return (line, *([spec.description] if spec.description else []), *seed)


def _picked(sparsity: Sparsity) -> str:
    stored, picked = ("A", "B") if sparsity.operand == "a" else ("B", "A")
    return f"For each stored element of {stored}, pick the element of {picked} at its position along K."


def _sparse(sparsity: Sparsity) -> str:
    what = f"runs of {sparsity.run}" if sparsity.run > 1 else "elements"
    return (
        f"{sparsity.operand.upper()} is sparse: {sparsity.kept} of {sparsity.of} {what} along K are stored, in order, each "
        "with its position in the group"
    )


def _operands(spec: Instruction) -> tuple[str, ...]:
    lines = [f"A: {describe(spec.a)}", f"B: {describe(spec.b)}"]
    lines += [_sparse(spec.sparsity)] if spec.sparsity else []
    for name, book in (("A", spec.codebook.a), ("B", spec.codebook.b)) if spec.codebook else ():
        if book:
            each = (
                f"per {book.group[0]} x {book.group[1]} of its rows and columns"
                if book.group
                else "for the whole operand"
            )
            lines.append(
                f"{name} is given as indices of {book.bits} bits into tables of these numbers, one table {each}"
            )
    both = spec.c_format == spec.accumulator
    lines += [] if both else [f"C: {describe(spec.c_format)}"]
    lines.append(f"{'C, D' if both else 'D'}: {describe(spec.accumulator)}")
    own = {x.format for stage in spec.stages.values() for x in stage.result} - {
        spec.a,
        spec.b,
        spec.c_format,
        spec.accumulator,
    }
    lines += sorted(f"registers: {describe(fmt)}" for fmt in own if not is_name(fmt.name))
    if spec.scale:
        for name, side, axes in (
            ("A", spec.scale.a, ("row", "of K")),
            ("B", spec.scale.b, ("of K", "column")),
        ):
            if side:
                lines.append(f"scales of {name}: {describe(side.format)}; one per {_sizes(side.group, axes)}")
                lines += [
                    f"  times {describe(level.format)}; one "
                    + (f"per {_sizes(level.group, axes)}" if level.group else f"for all of {name}")
                    for level in side.coarser
                ]
    return tuple(lines)


def _sizes(group: tuple[int, int], axes: tuple[str, str]) -> str:
    """Return the size of a group in words, such as `1 row x 128 of K`."""
    named = (f"{size} {axis}{'s' * (size > 1 and axis != 'of K')}" for size, axis in zip(group, axes, strict=True))
    return " x ".join(named)


def describe(fmt: Format) -> str:
    """Return a one-line description of a format."""
    if fmt.kind == "integer":
        return f"{fmt.name}, {fmt.bits}-bit {'signed' if fmt.signed else 'unsigned'} integer"
    if fmt.kind == "table":
        shown = ", ".join(str(x) for x in fmt.values) if len(fmt.values) <= 16 else f"{len(fmt.values)} of them"
        return f"{fmt.name}, {fmt.bits}-bit code of a number in a table: {shown}"
    parts = [
        f"{int(fmt.signed)}-{fmt.exponent_bits}-{fmt.mantissa_bits} bits (sign, exponent, mantissa)",
        f"bias {fmt.bias}",
    ]
    specials = ["infinities"] if fmt.infinity else []
    specials += {
        "ieee": ["NaNs"],
        "all-ones": ["one NaN, all ones"],
        "negative-zero": ["NaN in place of -0"],
        "none": [],
    }[fmt.nan]
    parts.append(" and ".join(specials) if specials else "all codes finite")
    if not fmt.zero:
        parts.append("no zero, no subnormals")
    if fmt.low_padding:
        parts.append(f"the low {fmt.low_padding} bits of {fmt.storage_bits} ignored")
    if fmt.high_padding:
        parts.append(f"the top {fmt.high_padding} of {fmt.storage_bits} bits ignored")
    return f"{fmt.name}, " + ", ".join(parts)


def _steps(spec: Instruction) -> list[str]:
    steps = ["Form the exact products A[m, k] * B[k, n]."]
    if spec.sparsity:
        steps[0] = f"{_picked(spec.sparsity)} Form the exact products of these and the stored elements."
    if spec.a.kind == "float":
        steps[0] += (
            " A product's exponent is the sum of its operands' exponents (a subnormal has that of the smallest normal "
            "number); its significand is not normalised."
        )
    if spec.infinite_from is not None:
        steps.append(f"A product of magnitude 2^{spec.infinite_from} or more becomes an infinity of its sign.")
    if spec.scaled_stage == -1:
        steps.append(_scaling(spec, "each product"))
    below = "products"
    names = list(spec.stages)
    for index, (name, stage) in enumerate(spec.stages.items()):
        steps += _stage(name, stage, below, last=index == len(names) - 1)
        if spec.scaled_stage == index:
            steps.append(_scaling(spec, f"each result of {name}"))
        below = f"results of {name}"
    steps.append(
        f"Repeat along K in ascending order. At the end the running value is D, stored as {spec.accumulator.name}."
    )
    return steps


def _stage(name: str, stage: Stage, below: str, last: bool) -> list[str]:
    one = stage.terms == 1
    taken = (f"one of the {below}" if one else f"{stage.terms} {below} at a time") + _dealt(stage.interleave)
    running = "C, or the running value of the block before," if last else "the running value, initially zero,"
    joined = f", and {running}" if stage.accumulator else ""
    if not stage.aligned:
        steps = [f"{name}: add {taken}{joined} exactly."]
    else:
        steps = [
            f"{name}: take {taken}{joined} and find the largest exponent among these terms"
            + (
                f"; a zero counts with exponent {stage.zero_exponent}."
                if stage.zero_exponent is not None
                else "; zeros are ignored."
            )
        ]
        cut = _ROUNDING[str(stage.rounding)]
        steps.append(
            f"{name}: shift every term to that exponent and keep {stage.fraction_bits} fraction bits, rounding {cut}"
            f" (sign and magnitude)" + _own_bits(stage) + ". Add the results exactly."
        )
    if stage.opposing == "complement":
        steps.append(
            f"{name}: a term whose sign is not the running value's enters with inverted bits, one unit of the last place "
            "kept below its negative; a zero does, too, unless every term is one."
        )
    if stage.result:
        registers = ", then to ".join(_register(r) for r in stage.result)
        if stage.result[-1].format.kind == "integer":
            steps.append(f"{name}: write the sum to {registers}.")
        else:
            zero = " A zero result is +0." if stage.zero == "positive" else ""
            steps.append(f"{name}: round the sum to {registers}.{zero}")
    else:
        exponent = "its alignment exponent" if stage.exponent is None else f"the fixed exponent {stage.exponent}"
        steps.append(f"{name}: pass the sum to the next stage unrounded, with {exponent}.")
    if stage.remainder:
        steps += _remainder(name, stage.remainder)
    if stage.chain and stage.chain > 1:
        steps.append(f"{name}: repeat for {stage.chain} blocks, then pass the running value to the next stage.")
    return steps


def _remainder(name: str, remainder: Remainder) -> list[str]:
    """Return the steps of a second register of a running value."""
    register = f"{remainder.format.name} {_ROUNDING[str(remainder.rounding)]}"
    where = {
        "sum": "add it as one more term of the next sum",
        "block": f"add it to the next block, and round that sum to {register} before it joins the running value",
        "end": "add what later sums lose to it",
    }[remainder.joins]
    return [
        f"{name}: round what these roundings lost to {register} and keep it beside the running value; {where}. A zero is no "
        "term. Both registers go from one instruction along K to the next.",
        f"{name}: after the last block, round the running value and the remainder together to D's format.",
    ]


def _own_bits(stage: Stage) -> str:
    words = ""
    if stage.accumulator_fraction_bits != stage.fraction_bits:
        words += f"; the running value keeps {stage.accumulator_fraction_bits}"
    if stage.offset:
        words += (
            f"; the running value's exponent counts {abs(stage.offset)} {'lower' if stage.offset < 0 else 'higher'}"
        )
    if stage.drop_beyond is not None:
        words += f"; it is dropped where its exponent is more than {stage.drop_beyond} below the largest"
    return words


def _dealt(interleave: Interleave | None) -> str:
    if interleave is None:
        return ""
    period = interleave.run * interleave.parts
    groups = [str({i * interleave.run + j for j in range(interleave.run)}) for i in range(interleave.parts)]
    chains = ", a chain each" if interleave.to == "chains" else ""
    if interleave.hand:
        chains += f", {interleave.hand} of a set before those of the next"
    return f" (by k mod {period} in {', then '.join(groups)}{chains})"


def _register(register: Register) -> str:
    overflow = register.overflow or register.format.overflow
    if register.format.kind == "integer":
        return f"{register.format.name} ({'wrapping around' if overflow == 'wrap' else 'clamped'})"
    words = f"{register.format.name} {_ROUNDING[str(register.rounding)]}"
    words += f" with {register.random_bits} random bits" if register.random_bits else ""
    words += ", subnormals flushed to a zero of their sign" if register.subnormals == "flush" else ""
    return (
        words
        + {
            "ieee": "",
            "infinity": " (beyond its range: infinity)",
            "saturate": " (beyond its range: the largest number)",
            "nan": " (beyond its range: NaN)",
        }[overflow]
    )


def _scaling(spec: Instruction, what: str) -> str:
    scale = spec.scale
    assert scale is not None
    sides = [name for name, side in (("scale_a", scale.a), ("scale_b", scale.b)) if side]
    if scale.power:
        sides.append(f"2^{scale.power}")
    factor = " * ".join(sides)
    product = f", rounded to {_register(scale.product)}," if scale.product else ""
    if scale.a is None and scale.b is None:
        words = f"Multiply {what} by {factor} and add {scale.power} to its exponent"
    elif all(_power_of_two(s) for s in (scale.a, scale.b) if s):
        words = f"Add the exponents of {' and '.join(sides)} of its group to the exponent of {what}"
    else:
        words = f"Multiply {what} by {factor} of its group{product} and add the scales' exponents to its exponent"
    return words + (f"; round to {_register(scale.result)}." if scale.result else "; nothing is rounded.")


def _power_of_two(side: ScaleOperand) -> bool:
    return all(level.format.mantissa_bits == 0 and level.format.kind != "table" for level in side.levels)


def _specials(spec: Instruction) -> tuple[str, ...]:
    if spec.is_integer:
        return ("None: every code is an integer.",)
    rules = {x.overflow or x.format.overflow for stage in spec.stages.values() for x in stage.result}
    changed = [words for rule, words in (("saturate", "the largest number"), ("nan", "NaN")) if rule in rules]
    lines = [
        "D is NaN if a product is NaN (also 0 times an infinity), if C or a scale is NaN, or if there are infinities of both "
        "signs; otherwise an infinite term makes D that infinity"
        + "".join(f", or {words} in a register that gives it beyond its range" for words in changed)
        + ".",
    ]
    if spec.nan_code is not None:
        lines.append(f"A NaN is written as {spec.nan_code:#0{2 + spec.accumulator.storage_bits // 4}x}.")
    flushed = {
        False: "Subnormals of A, B and C are honoured.",
        True: "Subnormals and negative zeros of A, B and C are read as +0.",
        "keep-sign": "Subnormals of A, B and C are read as zeros of their sign.",
        "c": "Subnormals of A and B are honoured; those of C are read as zeros of its sign.",
    }
    lines.append(flushed[spec.flush_inputs])
    if spec.widen is not None:
        lines.append(
            f"A and B are widened to {spec.widen.name} first: a subnormal that is a normal number there aligns with its "
            "own exponent."
        )
    return tuple(lines)


def path_page(steps: tuple[Step, ...], operands: tuple[str, ...]) -> ManualSection:
    """Return the section on an operand path, one numbered line per cast; tensors are (tokens, features)."""
    words = " and ".join(operands)
    lines = [
        f"Start from the {words} in BF16. A NaN or an infinity makes its group NaN, if elements or scales have one."
    ]
    for step in steps:
        source = "the BF16 original again" if step.reads == "original" else "the result of the step before"
        lines.append(f"{step.at}: {PLACES[step.at]}, take {source}. {_grouped(step)} {_cast(step)}")
        if step.at == "copy-engine" and step.group:
            size = step.group[0] * step.group[1] * 2
            lines[-1] += (
                f" The largest must be known before the first element is cast, so {size} B of BF16 are buffered per group."
            )
        if not step.on_sms:
            lines[-1] += " An engine outside the SMs does it."
    return ManualSection(title="On the way", lines=tuple(lines), steps=True)


def slices_page(slices: Slices, rule: Quantisation, inputs: str) -> ManualSection:
    """Return the section on slices, which software cuts and whose products it issues, as numbered steps."""
    scaled = rule.scales == "row" and rule.powers_of_two
    last = _ROUNDING[str(rule.rounding)]
    first = _ROUNDING[str(slices.rounding)] if slices.count > 1 else last
    cut = (
        "Divide each row of A and each column of B by a power of two, the least under which nothing is cut off; round"
        if scaled
        else "Round each element"
    )
    lines = [f"Start from A and B in {inputs.upper()}. {cut} to the operand's format, {first}: slice 0."]
    if slices.count > 1:
        others = "slice 1" if slices.count == 2 else f"slices 1 to {slices.count - 1}"
        lines.append(f"Do the same with what is left of each element, for {others}; the last is rounded {last}.")
    pairs = ", ".join(f"A{i} B{j}" for i, j in slices.products)
    each = "one accumulator for each" if scaled else "all into one accumulator"
    lines.append(f"Multiply these slices at every step along K, an instruction each, in this order, {each}: {pairs}.")
    if slices.promote_every:
        by = "multiply by the powers of two of both slices and " if scaled else ""
        lines.append(
            f"After every {slices.promote_every} of K, take the sums, in the same order, {by}add in FP32, to nearest, ties to "
            "even."
        )
    return ManualSection(title="In software, around the instruction", lines=tuple(lines), steps=True)


def _grouped(step: Step) -> str:
    if step.group is None:
        return "The whole tensor is one group." if step.scale or step.logfmt else "Elements have no scale."
    tokens, features = step.group
    return f"Each group is {tokens} token{'s' * (tokens > 1)} by {features} feature{'s' * (features > 1)}."


_FLUSH = "Read elements below 2^-126 as zeros of their sign. "


def _cast(step: Step) -> str:
    if step.logfmt is not None:
        top = (1 << (step.logfmt - 1)) - 2
        return (
            f"LogFMT-{step.logfmt}: a sign and an index of {step.logfmt - 1} bits; 0 is zero, i is exp(min + step * (i - 1)), "
            f"with min the least ln|x| of the group but at least max - 32 ln 2, and step = (max - min) / {top}; an element "
            "goes to the nearer of two neighbours in linear space, one below half of exp(min) to zero."
        )
    if step.scale is None:
        return (
            f"{_FLUSH * step.flush_inputs}Round each element to {step.to.name} {_ROUNDING[str(step.rounding)]}, beyond its "
            "range the largest number."
        )
    if step.scale_from == "scales":
        rule = f"The group's scale is the largest of the {step.scale.name} scales that its elements had before."
    else:
        exact = step.scale.name == "fp32"
        how = "nearest even" if exact else _ROUNDING[str(step.scale_rounding)]
        rule = (
            f"The scale is the largest magnitude (at least {step.floor:g}) over the largest {step.to.name}, divided in FP32"
            f" and rounded {'to ' if exact else f'to {step.scale.name} '}{how}."
        )
    rounding = _ROUNDING[str(step.rounding)]
    return (
        f"{rule} {_FLUSH * step.flush_inputs}Divide each element by it in FP32, round to {step.to.name} {rounding}, beyond its "
        f"range the largest number. {step.bits_per_element:g} bits per element, scale included."
    )


def _origin(spec: Instruction) -> tuple[str, ...]:
    known = KNOWN[spec.known] if spec.known else ""
    said = (("Source", spec.source), ("Checked", spec.checked), ("Known", known))
    return tuple(f"{key}: {text}" for key, text in said if text)
