"""Proofs of units: the definition as bit vectors equals golden, blocks are proved, planted faults are refuted with operands."""

import sys

import pytest

pytest.importorskip("amaranth")
pytest.importorskip("pyosys")
pytest.importorskip("bitwuzla")

from cost_specs import SPECS, instruction
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import ARITHMETIC, PLANTED, SMALL, SMALL_IN_TWO, TWO_REGISTERS, plant

from codesign.evidence.cost.proof import semantics
from codesign.evidence.cost.proof.proof_record import shipped
from codesign.evidence.cost.proof.semantics import EXPONENT
from codesign.evidence.cost.proof.smt import Script, solve
from codesign.evidence.cost.proof.unit_proof import outputs_of_golden, prove
from isa_model import golden
from isa_model.codec import Number, infinity
from isa_model.formats import named
from isa_model.rounding import Rounding, shift_right
from isa_model.stage import Register


def values(script, terms):
    """Return the values of terms over constants."""
    shown = [script.input(t.width) for t in terms]
    given = [s.eq(t) for s, t in zip(shown, terms, strict=True)]
    model = solve(script.text(given, [script.const(0, 1)]), 30).model
    return [model[s.text] for s in shown]


def constant(script, term, bits=12):
    """Return one of golden's terms as bit vectors."""
    number = term.number

    def flag(value):
        return script.const(int(value), 1)

    return semantics.Term(
        flag(number.special == "nan"),
        flag(number.special == "infinity"),
        flag(number.negative),
        script.const(number.significand, bits),
        script.const(number.exponent, EXPONENT),
        flag(term.exponent is None),
        script.const(term.exponent or 0, EXPONENT),
    )


def agree(script, meant, term):
    """Return claims that bit vectors mean one of golden's terms."""
    claims = semantics.same(constant(script, term, max(12, term.number.significand.bit_length())), meant)
    return claims if not term.number.special else claims[:3]


def all_hold(script, claims):
    assert solve(script.text([], claims), 30).status == "proved"


@pytest.mark.parametrize(
    "name", ["e4m3", "e5m2", "e2m1", "ue8m0", "ue4m3", "e4m3fnuz", "e3m2", "nf4", "e1m2f", "int8", "uint4"]
)
def test_every_code_means_what_golden_says(name):
    """The bit vectors of a format's decoder equal golden's term of every code."""
    fmt, script = named(name), Script()
    claims = []
    for code in range(1 << fmt.bits):
        claims += agree(script, semantics.decode(script, fmt, script.const(code, fmt.bits)), golden.term(fmt, code))
    all_hold(script, claims)


@settings(max_examples=10)
@given(st.data())
def test_rounding_and_products_on_bit_vectors_equal_golden(data):
    """`rounded`, `shift_right`, `times` and `written` give golden's results on random numbers, zeros and infinities."""
    script, claims = Script(), []
    numbers = st.builds(Number, st.booleans(), st.integers(0, 4095), st.integers(-40, 30)) | st.just(infinity(True))
    for rounding in Rounding:
        bits = 3 if rounding is Rounding.STOCHASTIC else None
        name = data.draw(st.sampled_from(["e5m4", "e4m3", "fp16", "e8m13", "e4m3fnuz"]))
        overflow = data.draw(st.sampled_from([None, "saturate"]))
        register = Register(format=name, rounding=rounding, random_bits=bits, overflow=overflow)
        number = data.draw(numbers)
        value = golden.Term(number, None if number.special or number.is_zero else number.exponent)
        draw = data.draw(st.integers(0, 7)) if bits else 0
        random = script.const(draw, 3) if bits else None
        meant = semantics.rounded(constant(script, value), register, False, random)
        claims += agree(script, meant, golden.rounded(value, register, draw << 29))
        places = data.draw(st.integers(-6, 20))
        whole = semantics.shift_right(
            script.const(number.significand, 20),
            script.const(places, EXPONENT),
            rounding,
            script.const(int(number.negative), 1),
            random,
        )
        drawn = (draw, 3) if bits else ()
        claims.append(whole.eq(shift_right(number.significand, places, rounding, number.negative, *drawn)))
        other = golden.term(named("e5m2"), data.draw(st.integers(0, 255)))
        product = golden.times(value, other)
        meant = semantics.times(constant(script, value), constant(script, other))
        claims += agree(script, meant, product)
    all_hold(script, claims)


def test_a_small_unit_is_proved():
    """Every block of a unit is proved, no theorem is open, and golden's own code composes them."""
    before = sys.getrecursionlimit()
    record = prove(SMALL, 60)
    assert sys.getrecursionlimit() == before  # a raised one lets deeply nested JSON overflow the stack
    assert record.status == "proved"
    assert not record.open
    assert {b.block.split()[0] for b in record.blocks} >= {
        "decode",
        "multiply",
        "exponent",
        "shift",
        "sum",
        "round",
        "code",
    }


WIDE = {"format": "e8m2", "rounding": "nearest-even"}
PARTS = [
    "integers, uint4 by int4, saturate",
    "integers with ignored bits",
    "products beyond a power of two",
    "a wider accumulator",
]


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_the_language_have_theorems(part):
    """Integer registers that wrap or clamp, products that become infinite, and a running value that is dropped are proved."""
    assert prove(SPECS[part], 120).words == "proved"


KAHAN = {
    "terms": 1,
    "accumulator": True,
    "result": {"format": "e5m2", "rounding": "nearest-even"},
    "remainder": {"format": "e5m2", "rounding": "nearest-even", "joins": "block"},
}
IN_TWO = {
    "sum": SMALL_IN_TWO,
    "block": instruction({"s": KAHAN}, "e3m2", "e2m1", accumulator="e5m8"),
    "end": SPECS["errors summed to the end"],
}


@pytest.mark.parametrize("joins", IN_TWO)
def test_both_registers_of_a_running_value_are_proved(joins):
    """D and the codes of both registers are golden's, wherever the second register joins."""
    record = prove(IN_TWO[joins], 120)
    assert record.words == "proved"
    assert {"start from C or from both registers", "no second register of a special number"} <= {
        b.block for b in record.blocks
    }


@pytest.mark.parametrize("fault", TWO_REGISTERS)
def test_planted_faults_in_a_second_register_are_refuted(fault, monkeypatch):
    """A fault in what a register keeps is refuted, by operands whose outputs golden confirms to be others."""
    plant(monkeypatch, TWO_REGISTERS[fault])
    record = prove(SMALL_IN_TWO, 60)
    assert record.status == "refuted"
    operands = {name: [int(code, 16) for code in codes] for name, codes in record.counterexample.operands.items()}
    assert int(record.counterexample.golden, 16) == outputs_of_golden(SMALL_IN_TWO, operands)


def test_kahans_sum_of_a_wide_format_is_left_open():
    """The window of two numbers of any exponents, with what rounding it loses, has no theorem, and is named."""
    kahan = KAHAN | {"result": WIDE, "remainder": {**WIDE, "joins": "block"}}
    record = prove(instruction({"s": kahan}, *[WIDE["format"]] * 2, accumulator=WIDE["format"]), 60)
    assert record.open == ("a sum of two numbers of any exponents, and what rounding it loses",)
    assert record.status == "unknown"


QUICK = {
    name: {**ARITHMETIC, **PLANTED}[name]
    for name in ("C's specials are ignored", "the first exponent is the largest", "a row of the tree is dropped")
}


@pytest.mark.parametrize("fault", QUICK)
def test_planted_faults_are_refuted_by_operands_that_golden_confirms(fault, monkeypatch):
    """A fault of the generator is refuted, and its counterexample gives another D than golden. checks/proofs.py has all."""
    plant(monkeypatch, QUICK[fault])
    record = prove(SMALL, 60)
    assert record.status == "refuted"
    found = record.counterexample
    operands = {name: [int(code, 16) for code in codes] for name, codes in found.operands.items()}
    assert int(found.golden, 16) == outputs_of_golden(SMALL, operands) != int(found.unit, 16)


def test_shipped_proofs_are_of_what_the_words_say():
    """A shipped record is of a clean tree, refutes nothing, and names what is open."""
    for record in shipped():
        assert record.status != "refuted"
        assert not record.commit.endswith("+")
        assert (record.words == "proved") == (record.status == "proved")
