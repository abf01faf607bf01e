"""YAML with positions, and messages that give the place, the fault and the remedy."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from isa_model.diagnostics import InputError, parse_yaml, read_yaml, suggest
from isa_model.explain import explain


def problems(text):
    with pytest.raises(InputError) as error:
        parse_yaml(text, "x.yaml")
    return error.value.problems


def test_a_problem_shows_file_line_column_source_caret_and_hint():
    """A message shows place and fault, the source line with carets under it, and the remedy."""
    document = parse_yaml("title: x\nclaims:\n  - {metrc: 3}\n", "p.yaml")
    problem = document.problem(("claims", 0, "metrc"), "unknown field `metrc`", "did you mean `metric`?", key=True)
    assert str(problem) == (
        "p.yaml:3:6: unknown field `metrc`\n   3 |   - {metrc: 3}\n     |      ^^^^^\n     = did you mean `metric`?"
    )


@pytest.mark.parametrize("before", [0, 5000])
def test_of_a_very_long_line_only_the_part_around_the_fault_is_shown(before):
    """In a very long line the caret points at the fault, and the message stays short."""
    with pytest.raises(InputError) as error:
        parse_yaml("a: [" + "x, " * before + "!tag y" + ", z" * 5000 + "]\n", "long.yaml")
    message, line, caret, *_ = str(error.value).splitlines()
    assert message.startswith(f"long.yaml:1:{5 + 3 * before}: ")
    assert len(line) < 300
    assert line[caret.index("^") :].startswith("!tag")


def test_all_problems_come_at_once_and_are_counted():
    """Duplicate keys, tags and infinite numbers of one file are reported together."""
    with pytest.raises(InputError) as error:
        parse_yaml("a: 1\na: 2\nb: .inf\nc: !!python/object:os.system {}\n", "x.yaml")
    text = str(error.value)
    assert "x.yaml:2:1: `a` is given twice" in text
    assert "it is already on line 1" in text
    assert "x.yaml:3:4: .inf is not a finite number" in text
    assert "x.yaml:4:4: YAML tags are not allowed here" in text
    assert text.endswith("3 errors in x.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("- 1\n", "the top level is not a mapping"),
        ("a: [1, 2\n", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "a second document"),
        ("<<: {a: 1}\n", "merge keys"),
        ("1: a\n", "a key must be text"),
        ("[1]: a\n", "a key must be text"),
        ("a: 1e999\n", "beyond the range"),
        ("a: .nan\n", "not a finite number"),
        ("a: !include /etc/passwd\n", "tags are not allowed"),
        ("a: " + "9" * 5000 + "\n", "over 4000 digits"),
        ("a: " + "[" * 60 + "]" * 60 + "\n", "50 levels"),
        ("a: \x00\n", "not valid YAML"),
        ("a: &x [*x]\n", "50 levels"),
    ],
)
def test_what_a_spec_has_no_use_for_is_refused(text, message):
    """YAML that a spec does not need is refused at its place, without a traceback."""
    assert any(message in str(p) for p in problems(text))


def test_a_billion_laughs_are_refused_at_once():
    """Aliases that would expand to a billion nodes are counted, not expanded."""
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
    )
    started = time.process_time()
    assert any("10000 values" in p.message for p in problems(text))
    assert time.process_time() - started < 2  # a guard against expansion, which would take hours


def test_huge_missing_and_binary_files_are_refused(tmp_path):
    """A file over 1 MiB, a missing file, a folder and bytes that are not text are refused."""
    (tmp_path / "big.yaml").write_text("a: " + "x" * (1 << 20))
    (tmp_path / "bytes.yaml").write_bytes(b"a: \xff\xfe")
    for name, message in (
        ("big.yaml", "larger than 1 MiB"),
        ("none.yaml", "cannot be read: no such file"),
        (".", "cannot be read"),
        ("bytes.yaml", "not UTF-8"),
    ):
        with pytest.raises(InputError, match=message):
            read_yaml(tmp_path / name)


def test_scalars_follow_yaml_1_2():
    """2e-4 is a number, yes and on are text, 0o17 and 0x1F whole numbers, 1_000 and 12:30 text."""
    data = parse_yaml(
        "a: 2e-4\nb: yes\nc: 0o17\nd: 0x1F\ne: 1_000\nf: 12:30\ng: ~\nh: True\ni: '3'\nj: 2026-11-23\nk: -.5\n",
        "x",
    ).data
    assert data == {
        "a": 2e-4,
        "b": "yes",
        "c": 15,
        "d": 31,
        "e": "1_000",
        "f": "12:30",
        "g": None,
        "h": True,
        "i": "3",
        "j": "2026-11-23",
        "k": -0.5,
    }


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    """Whatever the file holds, the answer is a document or an InputError."""
    with suppress(InputError):
        parse_yaml(text, "x.yaml")


PLAIN = st.recursive(
    st.one_of(
        st.integers(-1000, 1000),
        st.booleans(),
        st.none(),
        st.text("abcxyz ", min_size=1, max_size=8).map(lambda s: f"t{s}t"),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text("pqr", min_size=1, max_size=3), inner, max_size=3),
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text("klm", min_size=1, max_size=3), PLAIN, min_size=1, max_size=4))
def test_plain_data_survives_and_every_value_has_a_place(data):
    """Data dumped by PyYAML reads back the same, and each scalar's place holds its text."""
    document = parse_yaml(yaml.safe_dump(data), "x.yaml")
    assert document.data == data

    def walk(node, loc):
        place = document.place(loc)
        assert 1 <= place.line <= len(document.lines)
        if isinstance(node, int) and not isinstance(node, bool):
            assert document.lines[place.line - 1][place.column - 1 :].startswith(str(node))
        for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            walk(value, (*loc, key))

    walk(data, ())


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = Field(ge=1)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    title: str
    """What it is."""
    inner: bool | Inner = False
    several: tuple[Inner, ...] = ()
    tags: tuple[str, ...] = Field(default=("a",), min_length=1)
    span: Literal["largest", "binade"] | Annotated[float, Field(ge=0.5)] = "largest"


def explained(text):
    document = parse_yaml(text, "o.yaml")
    try:
        Outer.model_validate(document.data)
    except ValueError as error:
        return [(p.line, p.column, p.message, p.hint) for p in explain(document, error, Outer, document.data)]
    return []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "titel: x\n",
            [(1, 1, "unknown field `titel`", "did you mean `title`?")],
        ),
        (
            "inner: true\n",
            [(1, 1, "missing field `title`", "What it is.")],
        ),
        (
            "title: x\ntitel: y\n",
            [(2, 1, "unknown field `titel`", "leave `titel` out: `title` is already given")],
        ),
        ("title: 3\n", [(1, 8, "expected text, got 3", "")]),
        (
            "title: x\ninner: maybe\n",
            [(2, 8, "expected true or false or a mapping, got the text 'maybe'", "")],
        ),
        ("title: x\ninner: {size: 0}\n", [(2, 15, "must be at least 1, got 0", "")]),
        (
            "title: x\ninner: {siz: 2}\n",
            [(2, 9, "unknown field `siz`", "did you mean `size`?")],
        ),
        (
            "title: x\ntags: [a, 3]\n",
            [(2, 11, "expected text, got 3", "")],
        ),
        (
            "title: x\ntags: []\n",
            [(2, 7, "needs at least 1 entry, got 0", "")],
        ),
        (
            "title: x\nseveral:\n  - {size: 1}\n  - {size: big}\n",
            [(4, 12, "expected a whole number, got the text 'big'", "")],
        ),
        ("title: x\nspan: 0\n", [(2, 7, "must be at least 0.5, got 0", "")]),
        (
            "title: x\nspan: other\n",
            [(2, 7, "`other` is not allowed here", "one of: largest, binade, a number")],
        ),
        ("title: x\nseveral: 3\n", [(2, 10, "expected a list, got 3", "")]),
    ],
)
def test_pydantic_s_findings_in_plain_words_at_their_place(text, expected):
    """Unknown and missing fields, wrong types, bounds and unions each give one message at their place."""
    assert explained(text) == expected


def test_suggestions_are_for_near_misses_only():
    """A close name is suggested whatever its case; a far one is not."""
    assert suggest("Fraction_Bit", ["fraction_bits", "rounding"]) == "did you mean `fraction_bits`?"
    assert suggest("qqq", ["fraction_bits", "rounding"]) == ""


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent.parent / "proposals").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_proposal_is_no_instruction_and_is_told_what_reads_it(path):
    """`isa_model.load` of a proposal is one error at its first line, and `codesign.load`, which it names, reads it."""
    import codesign
    from isa_model import load

    with pytest.raises(InputError, match=r"^\S+:\d+:1: this is a proposal, not an instruction") as error:
        load(path)
    assert len(error.value.problems) == 1
    assert error.value.problems[0].hint == "codesign.load reads it"
    assert codesign.load(path).proposal == path.stem
