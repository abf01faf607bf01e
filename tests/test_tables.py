"""The tables that docs show of the shipped records, and that of all tiles."""

import importlib.util
from pathlib import Path

import pytest

from isa_model.files import put
from kernels.bench.shapes import Gemm
from kernels.gemm.choose import candidates, choose

ROOT = Path(__file__).parent.parent


def script(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tables():
    return script("tables")


def test_the_docs_show_the_newest_record_of_our_own_kernels(tables):
    """Every table of docs/gemm.md and docs/quantise.md is what the record gives today, and none is empty."""
    for (page, name), table in tables.tables(tables.newest()).items():
        text = (ROOT / "docs" / f"{page}.md").read_text()
        assert f"<!-- {name}: begin -->\n{table}\n<!-- {name}: end -->" in text
        assert table.count("\n") >= 2


def test_a_ratio_is_the_peers_time_over_ours(tables):
    """Above one we are faster; and the mean over shapes is the geometric one."""
    record = tables.newest()
    shape = {"m": 4096, "n": 32768, "k": 512}
    peer, ours = (tables.us(record, "gemm.fprop", who, shape) for who in ("deep_gemm", "ours"))
    (line,) = [row for row in tables.fprop(record) if row.startswith("| 4096, 32768, 512 ")]
    assert f"| {peer / ours:.2f} |" in line
    assert tables.geomean([2.0, 0.5, None]) == pytest.approx(1.0)


def test_text_is_put_between_its_marks_alone(tmp_path):
    """What stands before, after and between other marks stays; a file without the marks is refused."""
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n<!-- y: begin -->\nkept\n<!-- y: end -->\n")
    put(page, "x", "new")
    assert (
        page.read_text() == "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n<!-- y: begin -->\nkept\n<!-- y: end -->\n"
    )
    with pytest.raises(ValueError, match="unpack"):
        put(page, "z", "new")


def test_all_tiles_of_a_gemm_are_measured_and_the_choice_is_held_against_the_fastest(tables):
    """A case for each tile, by its name; a choice that takes a quarter longer than the fastest is said to."""
    tiles = script("tiles")
    shape = Gemm(128, 4096, 7168)
    ((*cases,),) = tiles.cases([shape])
    names = [case.implementation for case in cases]
    assert len(set(names)) == len(names) == len(list(candidates(tiles.problem(shape))))
    chosen = choose(tiles.problem(shape), 132).name
    (like,) = tables.newest().find("gemm.fprop", "ours", "ours", shape._asdict())
    us = {name: 10.0 if name == "gemm-promoted-64x64" else 12.5 if name == chosen else 20.0 for name in names}
    rows = tuple(
        like.model_copy(update={"implementation": name, "timing": like.timing.model_copy(update={"us": t})})
        for name, t in us.items()
    )
    first, last = tiles.lines(tables.newest().model_copy(update={"cases": rows}))
    assert first.startswith("128x4096x7168: gemm-promoted-64x64 10.0 us (")
    assert first.endswith(", 25% slower")
    assert chosen in first
    assert last == "the choice is 25.0% slower than the fastest tiles"
