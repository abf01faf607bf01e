"""The tables that docs show of the shipped records."""

import importlib.util
from pathlib import Path

import pytest

from isa_model.files import put

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("benchmark_tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
