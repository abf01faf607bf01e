"""The Python API: the notebook of docs/ runs as it stands, results show and save themselves, arrays keep their kind."""

import json
import os
import subprocess
import sys
from html import escape
from importlib.util import find_spec
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codesign
from codesign.__main__ import run
from codesign.evidence.sampling import ROWS
from codesign.verdicts.diff import diff
from isa_model import FORMATS, Cast, load, named, quantise
from isa_model.array_codec import code_dtype, decode_array, encode_array

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "pages"))

import notebook as pages_notebook  # noqa: E402

WGMMA = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
needs_pandas = pytest.mark.skipif(not find_spec("pandas"), reason="needs the extra `data`")


# -- the notebook ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran():
    """Run the notebook once; return it, the outputs of its cells, and the names that it defines."""
    page, names = json.loads(pages_notebook.PAGE.read_text()), {}
    return page, list(pages_notebook.outputs(page, names)), names


@pytest.fixture(scope="module")
def result(ran):
    """Return the evaluation of the notebook."""
    return ran[2]["result"]


@needs_pandas
def test_the_notebook_gives_the_outputs_that_it_shows(ran):
    """Every cell runs, prints what the page shows, and gives values that are written alike (`python pages/notebook.py`)."""
    page, found, _ = ran
    shown = [cell["outputs"] for cell in pages_notebook.cells(page, "code")]

    def comparable(
        output,
    ):  # how pandas writes HTML depends on its version, the last digits of a drawing on the machine
        data = output.get("data", {})
        own = [said for kind, said in data.items() if kind.startswith("text/") and "dataframe" not in "".join(said)]
        return output.get("text"), own, sorted(data)

    assert [[comparable(o) for o in cell] for cell in found] == [[comparable(o) for o in cell] for cell in shown]
    assert [number for number, cell in enumerate(shown) if not cell] == []


@needs_pandas
def test_the_notebook_is_valid_and_becomes_a_page(ran):
    """The file is version 4.5 of the format, its ids are distinct, and the site's page has its code, tables and plots."""
    page = ran[0]
    assert (page["nbformat"], page["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in page["cells"]}) == len(page["cells"])
    text = pages_notebook.as_markdown(page)
    assert text.startswith("# A proposal in a notebook")
    assert text.count("```python") == len(pages_notebook.cells(page, "code"))
    assert text.count("<svg") == 1
    if find_spec("nbformat"):
        import nbformat

        nbformat.validate(page)


def kept(result, folder):
    """Write the result.json of a result, without the report around it."""
    folder.mkdir()
    (folder / "result.json").write_text(result.model_dump_json())


# -- results -----------------------------------------------------------------------------------------------------------


@needs_pandas
def test_a_frame_has_every_figure_and_every_claim(result):
    """Rows are the figures of the result, in their order and exact; claims have a row each."""
    frame = result.to_frame()
    assert frame["metric"].tolist() == [f.metric for f in result.figures]
    assert frame["value"].tolist() == pytest.approx([f.value for f in result.figures], rel=0, nan_ok=True)
    assert set(frame["unit"][frame["metric"] == "numerics.sqnr_db"]) == {"dB"}
    assert result.to_frame("claims")["judgement"].tolist() == [v.judgement for v in result.verdicts]
    with pytest.raises(codesign.InputError, match="no rows of `verdicts`"):
        result.to_frame("verdicts")


def test_without_pandas_a_frame_names_the_extra(result, monkeypatch):
    """to_frame says what to install."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(codesign.Unavailable, match=r"codesign\[data\]"):
        result.to_frame()


def test_a_result_shows_itself_in_a_line_and_as_html(result):
    """repr is one line; HTML has the verdicts, and an author's text as text."""
    assert repr(result) == f"<Evaluation of my-variant: {result.headline}>" == str(result)
    hostile = result.model_copy(update={"proposal": result.proposal.model_copy(update={"title": "<script>a</script>"})})
    page = hostile._repr_html_()
    assert "✓ supported" in page
    assert "<script" not in page


def test_plots_are_found_by_name_and_saved(result, tmp_path):
    """A plot is SVG; a misspelt name leads to the right one; a file of somebody else is not replaced."""
    drawing = result.plot("fraction-bits")
    assert drawing._repr_svg_().startswith("<svg")
    for _ in range(2):
        assert drawing.save(tmp_path / "plot.svg").read_text().startswith("<svg")
    (tmp_path / "mine.svg").write_text("<svg/>")
    with pytest.raises(codesign.InputError, match="is not a plot of codesign"):
        drawing.save(tmp_path / "mine.svg")
    with pytest.raises(codesign.InputError, match="did you mean `fraction-bits`"):
        result.plot("fraction-bit")


def test_saved_results_are_read_again_by_folder(result, tmp_path, monkeypatch):
    """save writes a report under codesign-reports, in which git tracks nothing, and read gives an equal result."""
    monkeypatch.chdir(tmp_path)
    assert result.save() == Path("codesign-reports/my-variant/report.html")
    assert (tmp_path / "codesign-reports/.gitignore").read_text().splitlines()[-1] == "*"
    assert codesign.read("my-variant") == codesign.read(tmp_path / "codesign-reports/my-variant") == result
    assert isinstance(codesign.read("my-variant"), codesign.Evaluation)


def test_a_comparison_shows_itself_and_is_saved(result, tmp_path):
    """compare takes results and folders; its HTML and its rows have every proposal; duplicates are refused."""
    other = result.model_copy(update={"proposal": result.proposal.model_copy(update={"proposal": "other"})})
    kept(result, tmp_path / "one")
    found = codesign.compare([tmp_path / "one", other])
    assert repr(found) == "<SideBySide of my-variant, other>"
    assert all(name in found._repr_html_() for name in ("my-variant", "other"))
    if find_spec("pandas"):
        assert {"my-variant", "other"} <= set(found.to_frame()["proposal"])
    assert found.save(tmp_path / "both").name == "comparison.html"
    assert codesign.compare([result, other], "cost.area_ratio").objectives == ("cost.area_ratio",)
    for wrong, said in (([result, result], "twice"), ([result], "two proposals"), (result, "two proposals")):
        with pytest.raises(codesign.InputError, match=said):
            codesign.compare(wrong)


# -- differences -------------------------------------------------------------------------------------------------------


def shifted(result, factor, metric="numerics.total_error"):
    """Return a result whose figures of a metric are larger by a factor, intervals included."""
    times = lambda value: None if value is None else value * factor  # noqa: E731

    def changed(figure):
        if figure.metric != metric:
            return figure
        return figure.model_copy(update={name: times(getattr(figure, name)) for name in ("value", "low", "high")})

    evidence = tuple(e.model_copy(update={"figures": tuple(changed(f) for f in e.figures)}) for e in result.evidence)
    return result.model_copy(update={"evidence": evidence})


def test_equal_results_do_not_differ(result):
    """Nothing is reported of a result and itself, nor of rounding errors in the last bits."""
    for other in (result, shifted(result, 1 + 1e-12)):
        found = diff(result, other)
        assert not found.changed
        assert (found.compared, found.moved, found.spec, found.made) == (len(result.figures), 0, (), ())


def test_figures_outside_each_others_intervals_are_changes(result):
    """A shift within the intervals is counted; one beyond them is a change, with its direction by the metric."""
    assert diff(result, shifted(result, 1.001)).moved > 0
    assert not diff(result, shifted(result, 1.001)).changed
    doubled = diff(result, shifted(result, 2))
    assert {c.new.metric for c in doubled.figures} == {"numerics.total_error"}
    assert {c.change for c in doubled.figures} == {"worse"}
    assert doubled.figures[0].factor == pytest.approx(2)
    better = diff(result, shifted(result, 2, "numerics.sqnr_db"))
    assert {c.change for c in better.figures} == {"better"}


def test_spec_fields_verdicts_and_missing_figures_are_changes(result):
    """Changed fields are named by their path; a turned verdict and figures of one result alone are told."""
    proposal = result.proposal.model_copy(update={"title": "another"})
    verdicts = (result.verdicts[0].model_copy(update={"judgement": "refuted"}), *result.verdicts[1:])
    cut = tuple(e.model_copy(update={"figures": ()}) if e.source == "timing" else e for e in result.evidence)
    found = diff(result, result.model_copy(update={"proposal": proposal, "verdicts": verdicts, "evidence": cut}))
    assert [(c.field, c.new) for c in found.spec] == [("title", "another")]
    assert [(v.old, v.new, v.change) for v in found.verdicts] == [("supported", "refuted", "worse")]
    assert found.removed > 0
    assert found.added == 0


def test_changes_are_printed_as_text_and_shown_as_tables(result):
    """One line per change, and a sentence; a notebook has the same as tables."""
    verdicts = (result.verdicts[0].model_copy(update={"judgement": "refuted"}), *result.verdicts[1:])
    new = shifted(result, 2).model_copy(update={"verdicts": verdicts})
    found = codesign.diff(result, new)
    claim = result.verdicts[0].statement
    lines = str(found).splitlines()
    assert lines[:3] == ["claim", f"  {claim}: supported → refuted", "figure"]
    assert all(line.endswith(", worse") and " → " in line for line in lines[3:-1])
    assert lines[-1].startswith("1 verdict turned; ")
    assert repr(found) == f"<Changes: {lines[-1]}>"
    shown = found._repr_html_()
    assert shown.count("<table>") == 2
    assert f"<p>{escape(lines[-1])}</p>" in shown
    assert f">{claim}</td>" in shown
    many = found.model_copy(update={"figures": found.figures * 7})
    assert str(many).splitlines()[-2] == f"  ... and {len(many.figures) - 40} more figures; to_frame() has all."
    assert many._repr_html_().count("</tr>") == 2 + 1 + 40


@needs_pandas
def test_changes_are_a_data_frame(result):
    """A row per change."""
    found = codesign.diff(result, shifted(result, 2))
    assert set(found.to_frame()["what"]) == {"figure"}
    assert len(found.to_frame()) == len(found.figures)


def test_the_command_shows_what_changed_and_exits_1(result, tmp_path, capsys):
    """`codesign diff` prints tables, or all changes as data; equal results exit 0."""
    kept(result, tmp_path / "old")
    kept(shifted(result, 2), tmp_path / "new")
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    assert run(["diff", old, old]) == 0
    assert capsys.readouterr().out.startswith("No verdicts turned; none of ")
    assert run(["diff", old, new]) == 1
    assert "numerics.total_error, proposal, deepseek-v3.fprop.kv-b, normal" in capsys.readouterr().out
    assert run(["diff", old, new, "--csv"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "what,name,old,new,change"
    assert all(line.startswith("figure,") and line.endswith(",worse") for line in lines[1:])
    assert run(["diff", old, new, "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["figures"]) == len(lines) - 1
    assert run(["diff", old, str(tmp_path / "none")]) == 2


# -- proposals ---------------------------------------------------------------------------------------------------------


def test_fields_given_besides_replace_those_of_the_file():
    """Mappings merge, other values replace, and None removes; a mapping is a proposal by itself."""
    plain = codesign.load("group-scaled-mma")
    change = {"stages": {"fuse": {"fraction_bits": 20}}}
    claims = [{"metric": "numerics.total_error", "at_most": 0.5}]
    changed = codesign.load("group-scaled-mma", tensors=["normal"], change=change, claims=claims)
    assert changed.tensors == ("normal",)
    assert changed.change["stages"]["fuse"]["fraction_bits"] == 20
    assert changed.change["scale"] == plain.change["scale"]
    fields = {"proposal": "p", "title": "1e3", "source": "s", "base": WGMMA, "claims": claims, "tensors": ["normal"]}
    assert codesign.load(fields, workloads=("deepseek-v3.fprop",)).title == "1e3"


def test_faults_of_given_fields_have_a_place_and_a_remedy():
    """validate returns every fault; what is no plain data, no file and no name is one."""
    assert codesign.validate("group-scaled-mma") == ()
    (fault,) = codesign.validate("group-scaled-mma", tensors=["norml"])
    assert (fault.message, fault.hint) == ("unknown tensor source `norml`", "did you mean `normal`?")
    assert fault.source.strip() == '"norml"'
    loop = {}
    loop["change"] = loop
    for source, changes, said in (
        ("group-scaled-mmma", {}, "no proposal is called"),
        ("none.yaml", {}, "cannot be read"),
        (3, {}, "not a value of type int"),
        (loop, {}, "not plain data"),
        ("group-scaled-mma", {"tensors": np.ones(3)}, "not plain data"),
        ("group-scaled-mma", {"nonsense": 1}, "unknown field `nonsense`"),
        ({}, {}, "missing field `proposal`"),
        ({"title": "a\x1bb"}, {}, "U+001B"),
    ):
        problems = codesign.validate(source, **changes)
        assert any(said in f"{problem}" for problem in problems), (source, problems)


def test_a_misspelt_keyword_is_told_the_field_that_was_meant():
    """Not to leave it out because the file has the right one already; a loaded proposal is told where changes belong."""
    for source in ("group-scaled-mma", {"proposal": "p", "tensors": ["normal"]}):
        with pytest.raises(codesign.InputError) as caught:
            codesign.load(source, tensor=["normal"])
        assert [(p.message, p.hint) for p in caught.value.problems] == [
            ("unknown field `tensor`", "did you mean `tensors`?")
        ]
    recipe = ROOT / "codesign/proposal/recipes/bf16.yaml"
    (fault,) = codesign.validate(recipe, moment={"first": "bf16"})
    assert fault.hint == "did you mean `moments`?"
    with pytest.raises(codesign.InputError, match="the `load` that made it"):
        codesign.load(codesign.load("group-scaled-mma"), tensors=["normal"])


@pytest.mark.parametrize(
    "sampling",
    [
        {"rows": 1},
        {"rows": ROWS[1] + 1},
        {"columns": 0},
        {"rows": 2.5},
        {"rows": True},
        {"columns": "8"},
        {"seeds": []},
        {"seeds": [1, 1]},
        {"seeds": [-1]},
        {"seeds": 3},
        {"seeds": [10**18]},
        {"seeds": range(10**9)},
        {"seeds": ["a"]},
    ],
)
def test_samplings_that_no_evaluation_takes_are_refused_at_once(sampling):
    """One InputError, before any work."""
    with pytest.raises(codesign.InputError, match="for instance rows=16"):
        codesign.evaluate("group-scaled-mma", **sampling)


def test_a_number_of_seeds_is_told_to_be_a_sequence():
    """`seeds=4` is a natural guess; the message says what is expected."""
    with pytest.raises(codesign.InputError, match="seeds is 4; expected a sequence"):
        codesign.evaluate("group-scaled-mma", seeds=4)


def test_a_worker_without_children_evaluates(tmp_path):
    """A daemonic process, as in a multiprocessing.Pool, may have no children: `evaluate` then uses threads."""
    (tmp_path / "in_pool.py").write_text(
        "from multiprocessing import Pool\n"
        "import codesign\n"
        "def verdicts(name):\n"
        "    return len(codesign.evaluate(name, rows=2, columns=2, seeds=[0]).verdicts)\n"
        "if __name__ == '__main__':\n"
        "    with Pool(1) as pool:\n"
        "        print(pool.map(verdicts, ['batch-invariant-split-k']))\n"
    )
    command, paths = [sys.executable, "in_pool.py"], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=paths, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[")


def test_a_script_needs_no_main_guard(tmp_path):
    """Workers do not import the caller's script, so that it runs once; with `main` they can call its functions."""
    (tmp_path / "bare.py").write_text(
        "print('once', flush=True)\n"
        "from isa_model.processes import pool\n"
        "with pool(2) as workers:\n"
        "    print(list(workers.map(abs, [-1, -2])))\n"
    )
    (tmp_path / "guarded.py").write_text(
        "from isa_model.processes import pool\n"
        "def negative(x):\n"
        "    return -x\n"
        "if __name__ == '__main__':\n"
        "    with pool(1, main=True) as workers:\n"
        "        print(list(workers.map(negative, [1, 2])))\n"
    )
    for script, printed in (("bare.py", "once\n[1, 2]\n"), ("guarded.py", "[-1, -2]\n")):
        command = [sys.executable, str(tmp_path / script)]
        done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120)
        assert (done.stdout, done.stderr) == (printed, "")


def test_importing_the_package_imports_nothing_heavy():
    """`import codesign` imports no third-party package; names come on first use, and an unknown one is an AttributeError."""
    code = (
        "import sys, codesign; heavy = {'numpy', 'pydantic', 'yaml', 'typer', 'rich'} & set(sys.modules); assert not heavy; "
        "assert sorted(dir(codesign)) == sorted(codesign.__all__); assert callable(codesign.load)\n"
        "try: codesign.lode\n"
        "except AttributeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("module `codesign` has no attribute `lode`\n", "")


# -- arrays ------------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.sampled_from([*FORMATS, "e5m6"]), st.integers(0, 99))
def test_codes_and_values_are_those_of_the_model(name, seed):
    """By name, encode and decode give what isa_model gives for the format; lists and arrays are alike."""
    fmt = named(name)
    x = np.random.default_rng(seed).normal(size=(3, 4)) * 4
    codes = codesign.encode(name, x)
    assert np.array_equal(codes, encode_array(fmt, x))
    assert codes.dtype == code_dtype(fmt)
    assert np.array_equal(codesign.decode(name, codes), decode_array(fmt, codes), equal_nan=True)
    assert np.array_equal(codesign.encode(fmt, x.tolist()), codes)


@pytest.mark.parametrize("group", [(1, 128), (128, 128), None])
def test_dequantised_tensors_are_those_of_the_cast(group):
    """quantise takes the fields of a cast; dequantise gives its values, from the result or from codes and scales."""
    x = np.random.default_rng(0).normal(size=(130, 200)).astype(ml_dtypes.bfloat16)
    found = codesign.quantise("e4m3", x, group=group, scale="ue8m0")
    right = quantise(Cast(to="e4m3", group=group, scale="ue8m0"), x)
    assert np.array_equal(found.codes, right.codes)
    assert np.array_equal(codesign.dequantise(found), right.values())
    codes = found.codes.view(ml_dtypes.float8_e4m3fn)
    again = codesign.dequantise("e4m3", codes, found.scales, group=group, scale="ue8m0")
    assert np.array_equal(again, right.values())
    assert np.array_equal(codesign.dequantise("bf16", x, scale=None), x.astype(float))


def test_tensors_give_tensors_of_the_same_bits():
    """Given torch tensors, every function returns torch tensors; values keep a dtype that torch has."""
    torch = pytest.importorskip("torch")
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(0), requires_grad=True)
    plain = x.detach().numpy()
    codes = codesign.encode("e4m3", x)
    assert (codes.dtype, codes.device) == (torch.uint8, x.device)
    assert np.array_equal(codes.numpy(), codesign.encode("e4m3", plain))
    assert codesign.decode("bf16", x.to(torch.bfloat16)).dtype == torch.float64
    found = codesign.quantise("e4m3", x)
    assert isinstance(found.codes, torch.Tensor)
    assert isinstance(found.scales, torch.Tensor)
    assert np.array_equal(codesign.dequantise(found).numpy(), codesign.dequantise(codesign.quantise("e4m3", plain)))
    a, b = codes.view(torch.float8_e4m3fn), codes.T.contiguous().view(torch.float8_e4m3fn)
    d = codesign.matmul(WGMMA, a, b)
    assert d.dtype == torch.float32
    assert np.array_equal(d.numpy(), codesign.matmul(load(WGMMA), codes.numpy(), codes.T.numpy()))
    half = codesign.matmul("hopper.mma.m16n8k16.f16.f16.f16.f16", x.half(), x.T.half())
    assert half.dtype == torch.float16


def test_a_proposal_multiplies_by_name_and_as_an_object():
    """matmul takes the changed instruction of a proposal."""
    a, b = np.full((2, 128), 0x38, np.uint8), np.full((128, 2), 0x38, np.uint8)
    one = np.ones((2, 1), np.float32), np.ones((1, 2), np.float32)
    by_name = codesign.matmul("group-scaled-mma", a, b, scale_a=one[0], scale_b=one[1])
    assert np.array_equal(by_name, np.full((2, 2), 128, np.float32))
    made = codesign.load("group-scaled-mma")
    assert np.array_equal(codesign.matmul(made, a, b, scale_a=one[0], scale_b=one[1]), by_name)


X = np.ones((2, 128), np.float32)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: codesign.encode("e4m3x", X), "unknown number format"),
        (lambda: codesign.encode(3, X), "the format is of type int; it comes first"),
        (lambda: codesign.encode("e4m3", X, "upwards"), "rounding is 'upwards'; one of: nearest-even"),
        (lambda: codesign.encode("e4m3", X, overflow="explode"), "overflow is 'explode'"),
        (lambda: codesign.encode("e4m3", ["a"]), "expected real numbers"),
        (lambda: codesign.encode("e4m3", object()), "expected real numbers"),
        (lambda: codesign.encode("e4m3", [[1], [1, 2]]), "x is not an array"),
        (lambda: codesign.decode("e4m3", X), "got float32"),
        (lambda: codesign.quantise("e4m3", X, grup=(1, 128)), "did you mean `group`"),
        (lambda: codesign.quantise("e4m3", X, group=(0, 1)), "group: must be more than 0"),
        (lambda: codesign.quantise("e4m3", X, group=5), "group"),
        (lambda: codesign.quantise("e4m3", X, rounding="stochastic"), "rounding"),
        (lambda: codesign.quantise("ue8m0", X), "elements need a zero"),
        (lambda: codesign.quantise("e4m3", X[0]), "expected a matrix"),
        (lambda: codesign.dequantise("e4m3"), "codes are missing"),
        (lambda: codesign.dequantise("e4m3", X.astype(np.uint8)), "scales are missing"),
        (lambda: codesign.dequantise("e4m3", X.astype(np.uint8), X[:, :3]), "groups of (1, 128) make it (2, 1)"),
        (lambda: codesign.dequantise(codesign.quantise("e4m3", X), scale=None), "has its codes, scales and cast"),
        (lambda: codesign.matmul("hopper.wgma", X, X), "no instruction"),
        (lambda: codesign.matmul("group-scaled-mm", X, X), "did you mean `group-scaled-mma`"),
        (lambda: codesign.matmul(X, X, WGMMA), "the instruction is of type ndarray; it comes first"),
        (lambda: codesign.matmul(WGMMA, X, codesign.quantise("e4m3", X)), "pass its `codes` as b"),
        (lambda: codesign.matmul(WGMMA, X, X.T), "got float32 (2, 128); encode it first"),
    ],
)
def test_what_cannot_be_computed_is_told_in_a_sentence(call, said):
    """Wrong names are InputErrors, wrong arrays ValueErrors; both name what was wrong."""
    with pytest.raises((ValueError, codesign.InputError)) as error:
        call()
    assert said in str(error.value)
    assert "pydantic" not in str(error.value)
