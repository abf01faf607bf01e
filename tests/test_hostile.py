"""Hostile input: tensor files, results, names and texts that could harm their readers."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from codesign.__main__ import run
from codesign.evidence.cost.cell_library import Library, neutral
from codesign.evidence.cost.export import header
from codesign.evidence.sampling import Sampling
from codesign.figures.drawing import svg
from codesign.figures.escape import Markdown, fenced, literal, sentence
from codesign.figures.figure import Plot, Series
from codesign.proposal.load import parse_proposal
from codesign.report import write as report
from codesign.verdicts.evaluate import evaluate
from codesign.verdicts.read_result import read_result
from codesign.workloads import tensor_file
from isa_model import InputError, load
from isa_model.diagnostics import parse_yaml
from isa_model.printable import unprintable, visible

ESCAPES = ["\x1b[31m", "\u202e", "\x00", "\x7f", "\x9b", "\u2028", "\ud800"]
PROPOSAL = """\
proposal: small
title: 'Accumulate <script>alert(1)</script> [red]x[/] :smile: $\\frac{$ `a` | b ![i](http://x)'
source: "[a](javascript:alert(1)) */ `endmodule"
base: hopper.wgmma.m64n256k32.f32.e4m3.e4m3
change: {stages: {fuse: {fraction_bits: 25}}}
workloads: [mpnet-base.fprop.down]
tensors: [normal]
claims: [{metric: numerics.total_error, at_most: 0.1}]
"""


@pytest.fixture(scope="module")
def result():
    """Return a small result of a proposal whose texts contain markup of every kind."""
    return evaluate(parse_proposal(parse_yaml(PROPOSAL, "p.yaml")), Sampling(rows=2, columns=2, seeds=(0,)))


# -- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ESCAPES[:-1])
def test_text_that_a_terminal_obeys_is_refused_in_yaml_with_its_place(text):
    """Escape sequences, direction overrides and other control characters are refused in values and keys of YAML."""
    quoted = json.dumps(f"a{text}b")
    for document in (f"title: x\nsource: {quoted}\n", f"title: x\n{quoted}: 3\n"):
        with pytest.raises(InputError) as error:
            parse_yaml(document, "p.yaml")
        assert (error.value.problems[0].line, "U+" in str(error.value)) == (2, True)
        assert not unprintable(str(error.value))


@pytest.mark.parametrize("text", ESCAPES)
def test_messages_show_such_characters_instead_of_sending_them(text):
    """Messages show control characters of names and files as plain text of the same length."""
    assert not unprintable(str(InputError.of(f"no `{text}`", f"not {text}")))
    assert len(visible(text)) == len(text)
    assert visible("plain ünïcödé, 漢字 and 🙂") == "plain ünïcödé, 漢字 and 🙂"


@pytest.mark.parametrize("text", ESCAPES)
def test_names_of_files_that_a_terminal_obeys_are_refused(capsys, text):
    """`codesign validate *` in a hostile folder prints no escape sequence."""
    assert run(["validate", f"a{text}.yaml"]) == 2
    assert not unprintable(capsys.readouterr().err)


def test_reports_keep_what_authors_write_as_text(result, capsys):
    """An author's text starts no element, link, image, column or fence in HTML, Markdown or the terminal."""
    files = report.contents(result)
    (ours,) = re.findall("<script[^\n]*", files["report.html"])
    assert ours.startswith("<script>// Conveniences only")
    page = files["report.md"]
    assert "<script" not in page
    assert not re.search(r"(?<!\\)\]\((javascript|http)", page)
    for text in files.values():
        assert not unprintable(text)
    from codesign.commands.result_text import show
    from codesign.commands.terminal import console

    show(result, console())
    assert "[red]x[/] :smile: $\\frac{$" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("[a](b) ![c](d)", r"\[a\](b) !\[c\](d)"),
        ("a|b `c` *d* _e_ f_g ~h", r"a\|b \`c\` \*d\* \_e\_ f_g \~h"),
        ("one\n# two\n\n- three", r"one \# two - three"),
        ("- a", r"\- a"),
        ("12. a", r"12\. a"),
        ("a\x1bb", "a␛b"),
    ],
)
def test_text_in_markdown_is_literal(text, shown):
    """Every mark of CommonMark and of GitHub's tables is escaped, and text becomes one line."""
    assert literal(text) == shown


def test_sentences_of_ours_keep_their_code_and_lose_what_does_harm():
    """Our own sentences keep their code spans, and are escaped otherwise."""
    assert sentence("`a` [0, 1] *b*") == "`a` [0, 1] *b*"
    assert sentence("<img> [a](b) [a][b] | c\nd") == "&lt;img> [a]\\(b) [a]\\[b] \\| c d"
    assert sentence("[a]: http://x") == r"\[a]: http://x"
    assert sentence("```\na") == r"\``` a"
    assert sentence(r"a\| b \\|") == r"a\\\| b \\\\\|"
    assert sentence(Markdown("<")) == "<"
    assert sentence(3) == 3


def test_a_block_of_code_ends_where_we_end_it():
    """The fence around a code block is longer than any fence in its text."""
    assert fenced("a\n````\nb\n", "yaml") == "`````yaml\na\n````\nb\n`````"


def test_text_in_plots_is_drawn_as_it_is():
    """Formulas, elements and other scripts in the texts of plots are drawn as text."""
    series = Series(label="$\\frac{$ <script>", variant="proposal", x=(0.0, 1.0), y=(1.0, 2.0), labels=("$", "漢 $x$"))
    text = svg(Plot(name="p", title="t", caption="c", x_label="$\\x", y_label="</svg>", series=(series,)))
    assert "$\\frac{$ &lt;script&gt;" in text
    assert "<script" not in text
    assert text.count("</svg>") == 1


def test_a_comment_in_verilog_ends_with_its_line():
    """A line break in a name or description starts no Verilog."""
    name = "hopper.wgmma.m64n8k16.f32.f16.f16"
    spec = load(name).model_copy(update={"name": "x\nendmodule", "description": "a\r\nmodule evil; */\u2028initial"})
    lines = header(spec, "").rstrip("\n").split("\n")
    assert all((line.startswith(("// ", "/* verilator")) or not line) and len(line.splitlines()) == 1 for line in lines)


# -- results ---------------------------------------------------------------------------------------------------------


SECTION = ("evidence", 0, "sections", 1)
"""Place of a section with plots."""


def change(data, path, value):
    """Set a value in JSON data."""
    for step in path[:-1]:
        data = data[step]
    data[path[-1]] = value(data[path[-1]]) if callable(value) else value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((*SECTION, "plots", 0, "name"), "../../../x", "no name for a file"),
        ((*SECTION, "plots", 0, "name"), "/tmp/x", "no name for a file"),
        ((*SECTION, "plots", 0, "name"), "report\nx", "no name for a file"),
        ((*SECTION, "plots", 0, "series", 0, "y"), [1.0], "more values on one axis"),
        ((*SECTION, "plots", 0, "series", 0, "variant"), "nobody", "contradicts itself"),
        (("evidence", 0, "figures", 0, "metric"), "numerics.none", "no metric"),
        (("evidence", 0, "sections", 0, "tables", 0, "columns", 0, "metric"), "numerics.none", "no metric"),
        (("evidence", 0, "sections", 0, "tables", 0, "headings"), [], "more headings than names in a row, or fewer"),
        (("proposal", "title"), "another", "instructions"),
        (("proposal", "motivation"), "another", "hash"),
        (("proposal", "change"), {"stages": None}, "no instruction"),
        (("proposed", "shape", "m"), 128, "instructions"),
        (("verdicts",), [], "claims"),
        (("verdicts", 0), lambda v: v | {"judgement": "refuted", "deciding": None}, "figure that decided"),
        (("sampling", "seeds"), [], "no seed"),
        (("headline",), "\x1b[2J", "U+001B"),
        (("evidence", 0, "finding", 0), "\u202e", "U+202E"),
        (("evidence", 0, "figures", 0, "value"), "x", "damaged at evidence.0.figures.0.value"),
        (("schema_version",), 99, "version 99"),
        (("schema_version",), [1], "version"),
    ],
)
def test_a_result_that_contradicts_itself_is_refused(result, tmp_path, capsys, path, value, message):
    """A result that contradicts itself gives one message and exit code 2, and nothing is written."""
    data = json.loads(report.contents(result)["result.json"])
    change(data, path, value)
    (tmp_path / "result.json").write_text(json.dumps(data))
    code = run(["report", "--replay", str(tmp_path), "--out", str(tmp_path / "out" / "r")])
    said = capsys.readouterr().err
    assert (code, message in said, "Traceback" in said) == (2, True, False), said
    assert [p.name for p in tmp_path.rglob("*")] == ["result.json"]


def test_a_copied_result_alone_becomes_a_report_and_beside_anything_else_stays_alone(result, tmp_path):
    """`report --replay` without --out writes next to a result only if nothing else is there."""
    text = report.contents(result)["result.json"]
    (tmp_path / "alone").mkdir()
    (tmp_path / "mine" / ".git").mkdir(parents=True)
    for folder in ("alone", "mine"):
        (tmp_path / folder / "result.json").write_text(text)
    assert run(["report", "--replay", str(tmp_path / "alone" / "result.json")]) == 0
    assert (tmp_path / "alone" / "report.html").exists()
    assert run(["report", "--replay", str(tmp_path / "alone")]) == 0
    assert run(["report", "--replay", str(tmp_path / "mine")]) == 2
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == [".git", "result.json"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema_version": ' * 100_000, "[]", "3", "", "\udcff", "NaN"])
def test_what_is_no_result_is_refused(tmp_path, text):
    """Deeply nested JSON, other JSON, an empty file and binary data are refused as results."""
    (tmp_path / "result.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"is no result\.json"):
        read_result(tmp_path / "result.json")


# -- tensor files ----------------------------------------------------------------------------------------------------

ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def safetensors(header, data=bytes(24), length=None):
    """Write a .safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (safetensors([1]), "not a JSON object"),
        (safetensors(3), "not a JSON object"),
        (safetensors(None), "not a JSON object"),
        (safetensors(b"[" * 100_000), "nested deeper"),
        (safetensors(b'{"x": NaN}'), "NaN"),
        (safetensors(b'{"x": 1, "x": 2}'), "given twice"),
        (safetensors({"x": 3}), "does not have dtype"),
        (safetensors({"x": {**ENTRY, "more": 1}}), "does not have dtype"),
        (safetensors({"x": {**ENTRY, "dtype": [1]}}), "`dtype` of `x`"),
        *(
            (safetensors({"x": {**ENTRY, "shape": shape}}), "`shape` of `x`")
            for shape in ("23", [2.0, 3], [-2, -3], [True, 6], [1 << 70, 1], [1] * 40)
        ),
        *(
            (safetensors({"x": {**ENTRY, "data_offsets": offsets}}), "`data_offsets` of `x`")
            for offsets in ([-100, 24], [24, 0], [0.0, 24.0], [0, 1 << 70], [False, 24], [0], "ab", [8, 32], {"0": 24})
        ),
        (safetensors({"x": {**ENTRY, "shape": [2, 2]}}), "takes 24 bytes"),
        (safetensors({"x": ENTRY, "y": {**ENTRY, "shape": [1, 3], "data_offsets": [12, 24]}}), "ends at 24"),
        (safetensors({"x": ENTRY}, bytes(30)), "30 follow"),
        (safetensors({"x": ENTRY}, bytes(10)), "10 follow"),
        (safetensors({"x": ENTRY}, length=1 << 63), "header would take"),
        (safetensors({"x": ENTRY}, length=1 << 30), "header would take"),
        (safetensors({"__metadata__": {"a": 1}, "x": ENTRY}), "__metadata__"),
        (b"", "header would take"),
        (b"abc", "header would take"),
        (safetensors({"x": {**ENTRY, "dtype": "\x1b[31m"}}), "element type ␛"),
    ],
)
def test_safetensors_that_claim_what_is_not_so_are_refused(tmp_path, content, message):
    """A false header is refused with the file and the field, before any tensor is read."""
    path = tmp_path / "t.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        tensor_file.read(path, "x")
    assert message in str(error.value)
    assert str(path) in str(error.value)


def npz(values=None, member=b"", **how):
    """Write a .npz of one array, or of one member with these bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **how) as archive:
        if values is not None:
            plain = io.BytesIO()
            np.save(plain, values)
            member = plain.getvalue()
        archive.writestr(
            zipfile.ZipInfo("x.npy"), member, archive.compression
        )  # of 1980, so that the bytes are the same
    return buffer.getvalue()


def npy(header):
    """Return a .npy file of 24 bytes of elements with this header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(24)


GOOD = npz(np.ones((20, 30), "f4"))
DIRECTORY = GOOD.index(b"PK\x01\x02")


def patched(at, content):
    """Return GOOD with other bytes in one place."""
    return GOOD[:at] + content + GOOD[at + len(content) :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (patched(GOOD.index(b"NUMPY") + 300, b"x"), "CRC"),
        (GOOD[:-40], "not a zip file"),
        (patched(DIRECTORY + 8, b"\x01"), "encrypted"),
        (patched(DIRECTORY + 10, b"\x61"), "method 97"),
        (patched(DIRECTORY + 24, b"\xf0\xff\xff\xff"), "its size is not the one it claims"),
        (patched(DIRECTORY + 42, b"\xf0\xff\xff\x7f"), "outside the file"),
        (npz(np.zeros((8192, 4096), "f4"), compression=zipfile.ZIP_DEFLATED), "stored uncompressed"),
        (npz(member=b"text"), "not an .npy file"),
        (npz(member=npy("(" * 5000)), "not what numpy writes"),
        (npz(member=npy("-" * 9000 + "1")), "not what numpy writes"),
        (npz(member=npy("[1]")), "not what numpy writes"),
        (npz(member=npy("{'descr': '<f4', 'fortran_order': False, 'shape': 6}")), "not what numpy writes"),
        (npz(member=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, -3)}")), "negative sizes"),
        (npz(member=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1 << 70, 3)}")), "not what numpy writes"),
        (npz(member=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999, 99999)}")), "elements"),
        (npz(member=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)}")), "24 bytes of elements"),
        (npz(member=npy("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3)}")), "element type |O"),
        (npz(member=npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3)}")), "a structure"),
        (b"", "not a zip file"),
    ],
)
def test_npz_that_claim_what_is_not_so_are_refused_when_a_proposal_is_validated(tmp_path, capsys, content, message):
    """Checksums, encryption, methods, sizes, places and headers are checked before an element is kept in memory."""
    (tmp_path / "t.npz").write_bytes(content)
    text = PROPOSAL.replace("mpnet-base.fprop.down", "mine").replace("[normal]", "[captured]")
    text += "layers: {mine: {file: t.npz, activation: x, weight: x}}\n"
    (tmp_path / "p.yaml").write_text(text)
    assert run(["validate", str(tmp_path / "p.yaml")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "p.yaml:" in said


def test_an_archive_of_a_great_many_members_is_refused(tmp_path):
    """An archive with a huge directory is refused before it takes time and memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(11_000):
            archive.writestr(f"{i}.npy", "")
    (tmp_path / "t.npz").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="11000 arrays"):
        tensor_file.entries(tmp_path / "t.npz")


def test_what_numpy_writes_is_read(tmp_path):
    """Files of numpy are read: stored and compressed, in both memory orders, of every readable type."""
    x = np.arange(12.0).reshape(3, 4)
    for kind in ("f2", "f4", "f8"):
        arrays = {"x": x.astype(kind), "y": np.asfortranarray(x.astype(kind))}
        for save in (np.savez, np.savez_compressed):
            save(tmp_path / "t.npz", **arrays)
            for name in arrays:
                assert (tensor_file.read(tmp_path / "t.npz", name) == x).all()


# -- cell libraries --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["exit()", "__import__", "9**9**9", "A*B)", "(((A", "A()", "", "'", "A B ' '"])
def test_functions_of_cells_are_expressions_of_their_pins(tmp_path: Path, function):
    """A Liberty function that is not an expression of its pins is refused, since functions are evaluated."""
    path = tmp_path / "cells.lib"
    path.write_text(neutral().replace('function : "!(A*B)"', f'function : "{function}"'))
    with pytest.raises(InputError):
        Library.read(path)
