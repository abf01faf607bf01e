"""The tables of docs/gemm.md and docs/quantise.md are those of the shipped records; the ablations still compile."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import machine_code
import pytest

from codesign.figures.escape import Markdown
from codesign.figures.markdown import table
from isa_model.output_files import put
from kernels.bench.records import read
from kernels.bench.shapes import BenchGemm
from kernels.gemm.cases import problem_of
from kernels.gemm.choose import Gpu, candidates, choose, gpu_of
from kernels.nvrtc import cached_cubin
from kernels.quantise import cases as quantise
from kernels.quantise.build import cubin

ROOT = Path(__file__).parent.parent


def script(name, folder="benchmarks"):
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tables():
    return script("kernel_tables", "pages")


def test_the_docs_show_the_newest_record_of_our_own_kernels(tables):
    """Every table of docs/gemm.md and docs/quantise.md is what the shipped records give; none is empty."""
    for (page, name), made in (tables.tables(tables.newest()) | tables.step_tables() | tables.clock_tables()).items():
        text = (ROOT / "docs" / f"{page}.md").read_text()
        assert f"<!-- {name}: begin -->\n{made}\n<!-- {name}: end -->" in text
        assert made.count("\n") >= 2 or made == "No shipped record has these kernels yet."


def test_a_ratio_is_the_peers_time_over_ours(tables):
    """A ratio above one means that we are faster, and means over shapes are geometric."""
    record = tables.newest()
    shape = {"m": 4096, "n": 32768, "k": 512}
    peer, ours = (tables.us(record, "gemm.fprop", who, shape) for who in ("deep_gemm", "ours"))
    lines = "\n".join(tables.fprop(record)).splitlines()
    (line,) = [row for row in lines if row.startswith("| 4096, 32768, 512 ")]
    assert f"| {peer / ours:.2f} |" in line
    assert tables.geomean([2.0, 0.5, None]) == pytest.approx(1.0)


def test_a_cell_of_a_markdown_table_begins_no_column_and_no_html():
    """Pipes and HTML of a cell are shown as they are, None is empty, and columns of numbers end on the right."""
    made = table("what | value:", [("a | b", None), ("<b> x \\| y", 1), (Markdown("one<br>two"), 2)])
    assert made.splitlines() == [
        "| what | value |",
        "|---|---:|",
        r"| a \| b |  |",
        r"| &lt;b> x \| y | 1 |",
        "| one<br>two | 2 |",
    ]


def test_text_is_put_between_its_marks_alone(tmp_path):
    """Text outside the markers does not change, and a file without the markers is refused."""
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n<!-- y: begin -->\nkept\n<!-- y: end -->\n")
    put(page, "x", "new")
    assert (
        page.read_text() == "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n<!-- y: begin -->\nkept\n<!-- y: end -->\n"
    )
    with pytest.raises(ValueError, match="unpack"):
        put(page, "z", "new")


@pytest.mark.parametrize(
    ("name", "shapes", "worst", "mean"),
    [
        ("tiles-h100", 18, 10, 1.0),
        ("tiles-h200", 18, 4, 0.3),
        ("tiles-h200-held-out", 30, 23, 1.0),
        ("tiles-fp4-h200", 12, 8, 0.7),
    ],
)
def test_the_choice_is_near_the_fastest_of_all_tiles(tables, name, shapes, worst, mean):
    """In the shipped records of every tile at every shape, the choice is one percent slower on average."""
    *each, last = script("tiles").lines(read(ROOT / "kernels" / "records" / f"{name}.json"))
    losses = [int(line.split("%")[0].split()[-1]) for line in each if line.endswith("slower")]
    assert len(each) == shapes
    assert max(losses, default=0) < worst
    assert float(last.removeprefix("the choice is ").split("%")[0]) < mean


def test_a_gpus_constants_follow_its_own_microbenchmarks():
    """An H200's bandwidths stand to an H100's as measured; an unknown GPU has an H100's and its own SMs."""
    h100, h200 = gpu_of("NVIDIA H100 80GB HBM3"), gpu_of("NVIDIA H200")
    assert h100 == Gpu()
    assert h200.memory_bytes / h100.memory_bytes == pytest.approx(4697.69 / 3189.51)
    assert h200.l2_bytes / h100.l2_bytes == pytest.approx(8988.62 / 7684.8)
    assert gpu_of("NVIDIA H20", 78) == Gpu(78)


def test_all_tiles_of_a_gemm_are_measured_and_the_choice_is_held_against_the_fastest(tables):
    """Every tile has a case of its name, and a choice that is 25 % slower than the fastest is reported so."""
    tiles = script("tiles")
    shape = BenchGemm(128, 4096, 7168)
    for kind in ("fp4", "fprop"):
        ((*cases,),) = tiles.cases(kind, [shape])
        names = [case.implementation for case in cases]
        assert len(set(names)) == len(names) == len(list(candidates(problem_of(kind, shape))))
    chosen = choose(problem_of("fprop", shape), gpu_of(tables.newest().gpu, 132)).name
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


STEPS = script("steps")
CLOCKS = script("clocks")
H200 = gpu_of("NVIDIA H200")
OVERLAP = next(step for step in STEPS.STEPS if step.name == "overlap")
AT = [(step, shape) for step in STEPS.STEPS for shape in step.at]


@pytest.mark.parametrize(
    ("step", "shape"), AT, ids=lambda x: "x".join(map(str, x)) if isinstance(x, BenchGemm) else x.name
)
def test_a_gemm_without_an_optimisation_compiles(step, shape):
    """Every optimisation is in the kernel's text or tile, and the kernel without it does not spill."""
    pytest.importorskip("cuda.core")
    tile, text = STEPS.without(step, shape, H200)
    machine_code.assert_no_stack(cached_cubin(tile.with_text(text)))


@pytest.mark.parametrize("step", STEPS.CASTS, ids=lambda step: step.name)
def test_a_cast_without_an_optimisation_compiles(step):
    """Every optimisation of a cast is in its text or launch, and the kernel without it does not spill."""
    pytest.importorskip("cuda.core")
    kernel = next(kernel for kernel in quantise.cast_kernels() if kernel.name == step.kernel)
    assert (STEPS.changed(step, kernel.choice.text) == kernel.choice.text) == step.alone
    machine_code.assert_no_stack(cubin(STEPS.changed(step, kernel.choice.text)))


def test_an_optimisation_that_is_gone_is_refused():
    """An ablation whose text is gone from the kernel, or that changes nothing, is refused by name."""
    step = replace(OVERLAP, text=(("no such text", ""),))
    with pytest.raises(ValueError, match="step overlap: the kernel's text has no 'no such text'"):
        STEPS.without(step, step.at[0], H200)
    step = replace(OVERLAP, alone=False)
    with pytest.raises(ValueError, match="is without it anyway"):
        STEPS.without(step, step.at[0], H200)


@pytest.mark.parametrize("shape", CLOCKS.SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("variant", CLOCKS.VARIANTS, ids=lambda variant: variant.name)
def test_a_gemm_that_counts_its_clocks_compiles(variant, shape):
    """Every GEMM of benchmarks/clocks.py has an idle thread that counts clocks, and no spills."""
    pytest.importorskip("cuda.core")
    tile = CLOCKS.tile_of(variant, shape)
    assert tile.warpgroups == 2, "the last thread belongs to the producers, which end early"
    machine_code.assert_no_stack(cached_cubin(tile.with_text(CLOCKS.text_of(variant))))


def test_every_ablation_has_a_line(tables):
    """The tables of the shipped ablations have a line for every GEMM and cast."""
    lines = {page: table.count("\n") - 3 for (page, _), table in tables.step_tables().items()}
    assert lines == {"gemm": len(AT), "quantise": len(STEPS.CASTS)}
