"""Units sized for a common clock: what abc makes of a pipeline, in a library with several sizes of each gate."""

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("amaranth")
pytest.importorskip("pyosys")

from codesign.evidence.cost import sized
from codesign.evidence.cost.cell_library import Library, neutral
from codesign.evidence.cost.pipeline import pipeline
from codesign.evidence.cost.rtl.unit import unit
from codesign.evidence.cost.synth import synthesise
from codesign.evidence.cost.unit_vectors import widths

sys.path[:0] = [str(Path(__file__).parent.parent / "pages")]

import cost_curves  # noqa: E402


def with_sizes():
    """The neutral library with every gate in a second size: four times the drive and input capacitance, twice the area."""

    def larger(match):
        text = match[0].replace(f"({match[1]})", f"({match[1]}X4)", 1)
        text = re.sub(r"area : ([\d.]+)", lambda m: f"area : {2 * float(m[1])}", text)
        text = re.sub(r"capacitance : ([\d.]+); }", lambda m: f"capacitance : {4 * float(m[1])}; }}", text)
        return re.sub(r'"([\d.]+), ([\d.]+)"', _quarter, text)

    text = neutral()
    cells = re.findall(r"  cell \(\w+\) \{ area.*?\n    \} \}\n", text, flags=re.S)
    more = "".join(re.sub(r"^  cell \((\w+)\).*", larger, cell, flags=re.S) for cell in cells)
    return Library("sizes", text.replace("  cell (DFF)", more + "  cell (DFF)", 1))


def _quarter(match):
    """Return a row of delays at loads 1 and 64 with a quarter of its slope."""
    low, high = float(match[1]), float(match[2])
    if low == 1:  # an axis, not delays
        return match[0]
    slope = (high - low) / 63
    return f'"{low - 0.75 * slope:.4f}, {low - slope + 16 * slope:.4f}"'


@pytest.fixture(scope="module")
def small():
    """A unit of four products, mapped to a library with two sizes of each gate."""
    spec = cost_curves.unit(cost_curves.window(8, 4), operand="e2m1")
    return synthesise(unit(spec), with_sizes()).netlist, widths(spec)


def test_a_library_has_sizes_if_it_has_several_inverters():
    """The neutral library has one size of each gate, and is not sized."""
    assert not sized.has_sizes(Library.own())
    assert sized.has_sizes(with_sizes())


def test_a_unit_meets_the_clock_with_the_fewest_stages(small):
    """The period is within the clock; one depth deeper is not; gates, buffers and registers are in the area."""
    netlist, elements = small
    found = sized.sized(netlist, elements)
    assert found.period_fo4 <= found.clock_fo4
    nand2, flop = netlist.library.nand2.area, netlist.library.flip_flop.area
    assert found.area > found.register_bits * flop / nand2
    assert found.cycles == pipeline(netlist, found.levels, elements).latency
    deeper = sized.DEPTHS[max(sized.DEPTHS.index(found.levels) - 1, 0)]
    assert deeper > found.levels, "this unit needs registers"
    most = sized.budget(netlist.library)
    assert sized.buffered(pipeline(netlist, deeper, elements), most)[1] > most


def test_a_shorter_clock_asks_for_larger_gates(small):
    """Sizing for a shorter budget never gives a smaller area, and is faster than the unsized gates."""
    netlist, elements = small
    cut = pipeline(netlist, 24, elements)
    (fast, quick), (slow, _) = (sized.buffered(cut, budget * netlist.library.fo4) for budget in (1, 100))
    assert fast >= slow
    assert quick < cut.period


def test_gates_that_compute_something_else_are_refused(small, monkeypatch):
    """A script that changes the function raises an error."""
    netlist, elements = small
    monkeypatch.setattr(sized, "SCRIPT", "strash; cone -O 0; map; topo; stime -p")
    with pytest.raises(RuntimeError, match="abc failed"):
        sized.buffered(pipeline(netlist, 24, elements), 100.0)


def test_each_stage_is_a_network_of_its_own(small):
    """In BLIF, what a stage reads from an earlier one is an input, so that no path crosses a register."""
    netlist, elements = small
    text = sized.blif(pipeline(netlist, 6, elements))
    inputs = set(text.splitlines()[1].split()[1:])
    driven = set(re.findall(r" Y=(\w+)", text))
    assert not inputs & driven
    assert len(driven) == len(netlist.gates)
