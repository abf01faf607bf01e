"""Pseudo-code of an instruction in the style of Sail: the loops of one element of D, and the functions that they call."""

from __future__ import annotations

from codesign.figures.escape import literal
from codesign.proposal.manual import describe
from isa_model import golden
from isa_model.c_golden.source import blocks, levels
from isa_model.instruction import Instruction
from isa_model.stage import Register, Remainder, Stage

_FUNCTIONS = """\
struct term = { negative : bool, significand : nat, exponent : int, align : option(int), special : {Finite, Infinite, NaN} }
/* value: (-1)^negative * significand * 2^exponent; align: exponent that it aligns with, None() for a zero and a special */

function product(x : term, y : term) -> term =   /* exact, not normalised */
  if x.special == NaN | y.special == NaN then nan
  else if x.special == Infinite | y.special == Infinite then
    if is_zero(x) | is_zero(y) then nan else infinity(x.negative != y.negative)
  else { negative = x.negative != y.negative, significand = x.significand * y.significand,
         exponent = x.exponent + y.exponent,
         align = if is_zero(x) | is_zero(y) then None() else Some(x.align + y.align), special = Finite }

function largest(x : list(term), zero : option(int)) -> option(int) =   /* a term without an exponent counts as `zero` */
  maximum of (t.align if it has one, else zero) over t in x, as far as there is one

function cut(t : term, unit : int, rounding : mode) -> term =   /* sign and magnitude */
  { t with significand = shift_right(t.significand, unit - t.exponent, rounding, t.negative), exponent = unit }

function sum(x : list(term)) -> term =   /* exact; NaN with a NaN or infinities of both signs; else any infinity */
function round(t : term, to : format, rounding : mode, overflow : rule) -> term =   /* as if the format had no upper end */
"""


def pseudocode(spec: Instruction) -> str:
    """Return a Markdown page with the pseudo-code of an instruction; of a sparse one, of the elements stored."""
    dense, names = spec.dense, list(spec.stages)
    k = dense.shape.k
    scales = [
        f"scale{i} : vector({-(-k // group)}, bits({x.format.bits}))" for i, (x, group) in enumerate(levels(dense))
    ]
    head = ", ".join(
        [
            f"a : vector({k}, bits({dense.a.bits}))",
            f"b : vector({k}, bits({dense.b.bits}))",
            f"c : bits({dense.c_format.bits})",
            *scales,
        ]
    )
    body = [f"var x : list(term) = [product({_read(dense, 'a')}, {_read(dense, 'b')}) foreach k in 0 .. {k - 1}];"]
    if dense.infinite_from is not None:
        body.append(f"x = [infinity(t.negative) if |t| >= 2^{dense.infinite_from} else t foreach t in x];")
    if dense.scaled_stage == -1:
        body += _scaled(dense, 1)
    count = k
    for i, stage in enumerate(dense.stages.values()):
        body += _stage(dense, i, names[i], stage, count)
        count = blocks(dense)[i] // (stage.chain or 1)
        if dense.scaled_stage == i:
            body += _scaled(dense, k // count)
    body.append(f"write_{dense.accumulator.name}(x[0]{_nan(dense)})")
    lines = "\n".join(f"  {line}" for line in body)
    sparse = (
        "Operands are the elements stored, and those of the other side that their positions pick.\n\n"
        if spec.sparsity
        else ""
    )
    sparse += "Operands are the entries that indices pick from their tables.\n\n" if spec.codebook else ""
    text = f"{_FUNCTIONS}\nfunction element({head}) -> bits({dense.accumulator.bits}) = {{\n{lines}\n}}\n"
    about = (
        "One element of D of one instruction, in the style of Sail; no Sail compiler has read it. golden.c is the same."
    )
    formats = [spec.a, spec.b, spec.c_format, spec.accumulator, *(x.format for x, _ in levels(dense))]
    formats += [r.format for stage in spec.stages.values() for r in stage.result]
    listed = "".join(f"- {literal(line)}\n" for line in dict.fromkeys(map(describe, formats)))
    return (
        f"# {literal(spec.name or 'An instruction')}\n\n{about}\n\n{sparse}```sail\n{text}```\n\nFormats:\n\n{listed}"
    )


def _read(spec: Instruction, side: str) -> str:
    fmt = getattr(spec, side)
    widen = f", aligned as in {spec.widen.name}" if spec.widen else ""
    return f"read_{fmt.name}({side}[k]{_FLUSHED[spec.flush_operands]}{widen})"


def _stage(spec: Instruction, index: int, name: str, stage: Stage, count: int) -> list[str]:
    last, total, chain = index == len(spec.stages) - 1, blocks(spec)[index], stage.chain or 1
    order = golden.deal(stage, range(count))  # type: ignore[arg-type]
    plain = [int(i) for block in order for i in block] == list(range(count))  # type: ignore[call-overload]
    taken = (
        f"[x[{stage.terms} * n + j] foreach j in 0 .. {stage.terms - 1}]" if plain else "[x[i] foreach i in deal[n]]"
    )
    lines = [f"/* stage {index}, {name} */"]
    if not plain:
        lines.append(f"let deal = {[list(block) for block in order]};")
    start = f"read_{spec.c_format.name}(c{_FLUSHED[spec.flush_c]})" if last else "zero"
    lines += [] if last and stage.accumulator else ["var results : list(term) = [];"]
    lines += [f"var running : term = {start};"] if stage.accumulator else []
    if stage.remainder:
        lines.append("var kept : list(term) = [];  /* the second register; empty if it is a zero, which is no term */")
    lines.append(f"foreach (n from 0 to {total - 1}) {{")
    if stage.accumulator and not last:
        lines.append(f"  if n % {chain} == 0 then running = zero;")
    if stage.remainder and stage.remainder.joins == "block":
        taken = f"[round(sum({taken} @ kept), {_register(stage.remainder.register)})]"
    beside = " @ kept" if stage.remainder and stage.remainder.joins == "sum" else ""
    lines.append(f"  var t : list(term) = {taken}{beside}{' @ [running]' if stage.accumulator else ''};")
    if stage.aligned:
        zero = "None()" if stage.zero_exponent is None else f"Some({stage.zero_exponent})"
        offset = f" plus {stage.offset}, for running" if stage.offset else ""
        lines.append(f"  let e = largest(t, {zero});" + (f"  /* of align{offset} */" if offset else ""))
        if stage.drop_beyond is not None:
            lines.append(f"  if running.align < e - {stage.drop_beyond} then t = t without running;")
        lines.append(
            f"  t = [cut(y, e - {stage.fraction_bits}, {stage.rounding}) foreach y in t];  /* nothing to cut without e */"
        )
        if stage.accumulator and stage.accumulator_fraction_bits != stage.fraction_bits:
            lines.append(
                f"  /* the running value: cut(running, e - {stage.accumulator_fraction_bits}, {stage.rounding}) */"
            )
    lines += _opposing(stage)
    lines.append(f"  var s : term = sum(t);  /* {_zero(stage)} */")
    if stage.result:
        lines += ["  let whole = s;"] if stage.remainder else []
        lines += [f"  s = round(s, {_register(r)});" for r in stage.result]
        lines += _kept_after(stage.remainder) if stage.remainder else []
    else:
        up = "largest(t, None())" if stage.exponent is None else f"{stage.exponent} unless every term is a zero"
        lines.append(f"  s.align = {'e' if stage.aligned and stage.exponent is None else up};")
    lines.append("  running = s;" if stage.accumulator else "  results = results @ [s];")
    if stage.accumulator and not last:
        lines.append(f"  if n % {chain} == {chain - 1} then results = results @ [running];")
    lines.append("};")
    if stage.remainder:
        lines.append("/* a later instruction along K starts from running and kept; D is both, rounded once */")
        lines.append(f"if kept != [] then running = round(sum([running] @ kept), {_register(spec.joining)});")
    return [*lines, "x = [running];" if last and stage.accumulator else "x = results;"]


_FLUSHED = {False: "", True: ", subnormals read as +0", "keep-sign": ", subnormals read as zeros"}


def _kept_after(remainder: Remainder) -> list[str]:
    """Return the lines that keep what rounding lost, as `run_in_two` of golden.py does."""
    lost = "[whole, minus(s)]" + (" @ kept" if remainder.joins == "end" else "")
    return [
        f"  kept = if whole and s are finite then [round(sum({lost}), {_register(remainder.register)})] else [];",
        "  if kept is a zero then kept = [];",
    ]


def _opposing(stage: Stage) -> list[str]:
    if stage.opposing == "negate":
        return []
    return [
        "  /* terms of the sign opposite to running's are inverted, not negated: unless every term is a zero, the sum",
        f"     also has, of that sign, as many times 2^(e - {stage.fraction_bits}) as there are such terms */",
    ]


def _zero(stage: Stage) -> str:
    return "a zero sum is +0" if stage.zero == "positive" else "a zero sum is -0 only if every term is"


def _register(r: Register) -> str:
    bits = f", {r.random_bits} random bits" if r.random_bits else ""
    flush = ", subnormals flushed" if r.subnormals == "flush" else ""
    return f"{r.format.name}, {r.rounding}{bits}, overflow = {r.overflow or r.format.overflow}{flush}"


def _scaled(spec: Instruction, span: int) -> list[str]:
    scale = spec.scale
    assert scale is not None
    factors = [
        f"read_{level.format.name}(scale{i}[i * {span} / {group}])" for i, (level, group) in enumerate(levels(spec))
    ]
    if scale.product:
        factors = [f"round(product({', '.join(factors)}), {_register(scale.product)})"]
    value = "x[i]"
    for factor in [*factors, *([f"2^{scale.power}"] if scale.power else [])]:
        value = f"product({value}, {factor})"
    if scale.result:
        value = f"round({value}, {_register(scale.result)})"
    return ["/* group scales */", f"x = [{value} foreach i in 0 .. length(x) - 1];"]


def _nan(spec: Instruction) -> str:
    return "" if spec.nan_code is None else f", NaN = {spec.nan_code:#x}"
