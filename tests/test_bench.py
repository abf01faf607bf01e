"""The bench: cases, shapes and operands, the measuring of times, records, and the selection of kernels."""

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from io import StringIO
from itertools import count
from types import SimpleNamespace

import pytest

from codesign.workloads.gemms import select as gemms_of
from isa_model.diagnostics import InputError, Unavailable
from kernels.bench import bench, measure, records, shapes
from kernels.bench.case import Case, WrongOutput
from kernels.bench.records import BenchRecord, BenchRow, BenchTiming, Sampled
from kernels.bench.table import table

# -- cases and shapes ------------------------------------------------------------------------------------------------


def case(**changes):
    given = {
        "kernel": "gemm.fprop",
        "implementation": "ours",
        "variant": "ours",
        "shape": {"m": 64, "n": 64, "k": 128},
        "flops": 2 * 64 * 64 * 128,
        "least_bytes": 64 * 128 * 2 + 64 * 64 * 2,
        "prepare": lambda generator: object(),
        "launch": lambda x: None,
        "check": lambda x: 1e-3,
    }
    return Case(**{**given, **changes})


def test_only_a_twin_goes_unchecked():
    """A twin must have no check, and every other case must have one."""
    with pytest.raises(ValueError, match="every other variant needs one"):
        case(check=None)
    with pytest.raises(ValueError, match="wrong by design"):
        case(variant="twin")
    assert case(variant="twin", check=None).check is None


def test_shapes_are_those_of_the_workloads():
    """The bench measures the GEMMs that proposals are judged on, in forward, dgrad and wgrad."""
    for step in ("fprop", "dgrad", "wgrad"):
        # The sums of an expert's wgrad run over its own tokens; the bench uses all tokens for every linear layer.
        wanted = {(g.m, g.n, 4096 if step == "wgrad" else g.k) for g in gemms_of(f"deepseek-v3.{step}")}
        forward = shapes.deepseek_v3(tokens=[4096])
        assert {tuple(g if step == "fprop" else getattr(g, step)) for g in forward} == wanted


def test_shapes_as_text():
    """Names and sizes can be mixed; anything else is refused with an example."""
    assert shapes.parse("8x16x128,deepseek-v3")[0] == shapes.BenchGemm(8, 16, 128)
    assert len(shapes.parse("deepseek-v3,deepseek-v3")) == 18
    for text in ("8x16", "0x16x128", "deepseek", ""):
        with pytest.raises(InputError, match="is not a shape"):
            shapes.parse(text)


# -- measuring, on a simulated GPU ------------------------------------------------------------------------------------


class Straw:
    """Stands in for torch: launches advance a clock and events read it. `cost` gives the time of each launch, ms."""

    def __init__(self, cost):
        self.now, self.cost, self.recording = 0.0, cost, None
        self.launches = count()
        properties = SimpleNamespace(L2_cache_size=100_000)
        self.cuda = SimpleNamespace(
            current_device=lambda: 0,
            get_device_properties=lambda device: properties,
            synchronize=lambda: None,
            Event=lambda enable_timing: Event(self),
            CUDAGraph=lambda: Graph(self),
            graph=lambda graph: graph,
        )
        self.device = lambda *names: names
        self.Generator = lambda device: SimpleNamespace(manual_seed=lambda seed: seed)

    def launch(self, x):
        if self.recording is None:
            self.now += self.cost(next(self.launches))
        else:
            self.recording.nodes.append(x)


class Event:
    def __init__(self, gpu):
        self.gpu = gpu

    def record(self):
        self.at = self.gpu.now

    def synchronize(self):
        pass

    def elapsed_time(self, later):
        return later.at - self.at


class Graph:
    def __init__(self, gpu):
        self.gpu, self.nodes = gpu, []

    def __enter__(self):
        self.gpu.recording = self

    def __exit__(self, *_):
        self.gpu.recording = None

    def replay(self):
        for x in self.nodes:
            self.gpu.launch(x)


@pytest.fixture
def gpu(monkeypatch):
    straw = Straw(lambda number: 0.02)
    monkeypatch.setitem(sys.modules, "torch", straw)
    return straw


def measured(gpu, *cases):
    sampler = SimpleNamespace(clock=lambda windows: 1980, watts=lambda windows: 650)
    return measure.measure([replace(c, launch=gpu.launch) for c in cases], 0, sampler)


def test_a_time_is_one_launch_over_rotating_sets(gpu):
    """A launch of 20 us is measured as 20 us, over operand sets that together exceed the L2 cache three times."""
    made = []
    (row,) = measured(gpu, case(prepare=lambda generator: made.append(1) or len(made)))
    assert row.timing.us == pytest.approx(20)
    assert row.error == 1e-3
    assert row.timing.sets == len(made)
    assert len(made) * row.least_bytes > 3 * 100_000
    assert row.timing.launches % row.timing.sets == 0
    assert row.timing.launches * 0.02 >= measure.GRAPH_MS
    assert row.timing.sm_mhz == 1980
    assert row.sustained.us == pytest.approx(20)
    assert row.sustained.watts == 650


def test_a_wrong_case_is_not_timed(gpu):
    """A failed check gives a row with the reason and without a time; the other cases are timed."""

    def check(x):
        raise WrongOutput("off by one")

    wrong, right = measured(gpu, case(check=check), case())
    assert wrong.wrong
    assert wrong.timing is None
    assert "off by one" in wrong.why
    assert right.timing
    assert not right.wrong


def test_outputs_are_checked_again_after_the_replays(gpu):
    """A kernel whose output is wrong after repeated launches is wrong, and its time is dropped."""
    calls = []

    def check(x):
        calls.append(x)
        if len(calls) > 1:
            raise WrongOutput("now it differs")
        return 0.0

    (row,) = measured(gpu, case(check=check))
    assert row.wrong
    assert row.timing is None
    assert "after timing" in row.why


def test_unstable_times_are_refused(gpu):
    """Unstable samples give no time; a case that is stable at the next attempt gets one."""
    gpu.cost = lambda number: 0.02 * (1 + number // 997 % 4)
    (row,) = measured(gpu, case())
    assert row.timing is None
    assert row.why.startswith("unstable")
    assert not row.wrong
    settled = next(gpu.launches) // 2
    gpu.cost = lambda number: 0.02 if number > settled else 0.02 * (1 + number // 997 % 4)
    gpu.launches = count()
    (row,) = measured(gpu, case())
    assert row.timing.us == pytest.approx(20)


def test_a_peer_may_refuse_and_ours_may_not(gpu):
    """An exception of a peer is noted as a refusal; an exception of our own kernel counts as wrong."""

    def crash(generator):
        raise RuntimeError("bad stride\nmore")

    rows = measured(gpu, case(variant="peer", prepare=crash), case(prepare=crash), case())
    assert [row.why for row in rows] == ["refused: RuntimeError: bad stride", "failed: RuntimeError: bad stride", ""]
    assert [row.wrong for row in rows] == [False, True, False]
    assert rows[2].timing


# -- records ---------------------------------------------------------------------------------------------------------


def row(implementation, us, kernel="gemm.fprop", variant="peer", **changes):
    timing = us and BenchTiming(us=us, p10=us, p90=us, samples=9, launches=9, sets=3, host_us=5, sm_mhz=1980)
    given = {"shape": {"m": 64, "n": 64, "k": 128}, "flops": 1000, "least_bytes": 4000}
    return BenchRow(
        kernel=kernel, implementation=implementation, variant=variant, timing=timing, **{**given, **changes}
    )


def record(*rows, date="2026-01-01"):
    sampled = Sampled(samples=1, sm_mhz=(1, 2, 3), memory_mhz=(1, 2, 3), watts=(1, 2, 3), celsius=(1, 2, 3))
    return BenchRecord(
        **{
            "name": "bench-x",
            "date": date,
            "commit": "abc",
            "command": "codesign bench",
            "seed": 0,
            "gpu": "NVIDIA H200",
        },
        **{"driver": "1", "sms": 132, "l2_bytes": 60 << 20, "max_sm_mhz": 1980, "power_limit_watts": 700},
        **{"versions": {}, "sampled": sampled, "cases": rows},
    )


ROWS = (
    row("torch", 10.0, "ceiling.copy", shape={"bytes": 1}, flops=0, least_bytes=40_000),
    row("torch-tensor-wise", 4.0, "gemm.native"),
    row("deep_gemm", 6.0),
    row("torch-block-wise", None, why="refused: no"),
    row("ours", 5.0, variant="ours"),
    row("no-promotion", 4.5, variant="twin"),
)


def test_a_record_is_read_back_and_found_by_kernel_variant_and_shape(tmp_path):
    """A saved record loads unchanged, has one line per case, and other JSON files are ignored."""
    made = record(*ROWS)
    made.save(tmp_path / "bench-x.json")
    record(date="2025-01-01").save(tmp_path / "bench-old.json")
    (tmp_path / "conformance.json").write_text("{}")
    newest, _ = records.load(tmp_path)
    assert newest == made
    lines = (tmp_path / "bench-x.json").read_text().splitlines()
    assert sum('"implementation"' in line for line in lines) == len(ROWS)
    assert [r.implementation for r in made.find("gemm.fprop", "ours", shape={"m": 64, "n": 64, "k": 128})] == ["ours"]
    assert made.find("gemm.fprop", "ours", shape={"m": 65, "n": 64, "k": 128}) == ()
    assert len(made.find("gemm.fprop")) == 4


def test_bounds_come_from_the_same_run():
    """The bounds of a row are the copy's speed and the native GEMM of its shape, from its own run."""
    made = record(*ROWS)
    (ours,) = made.find(variant="ours")
    assert made.bounds(ours) == {"copy": 1.0, "native FP8": 4.0}
    assert record(ours).bounds(ours) == {}


def test_a_run_of_some_kernels_is_completed_by_an_earlier_record(tmp_path):
    """All rows of a shape come from one run: the new one if it measured every kernel of the old one."""
    backward = {"m": 64, "n": 128, "k": 64}
    old = record(
        *ROWS,
        row("torch-tensor-wise", 3.0, "gemm.native", shape=backward),
        row("ours", 9.0, "gemm.dgrad", "ours", shape=backward),
        date="2025-01-01",
    )
    faster = [row("torch", 8.0, "ceiling.copy", shape={"bytes": 1}, flops=0, least_bytes=40_000)]
    faster += [row("ours", 4.0, variant="ours"), row("torch-tensor-wise", 3.5, "gemm.native")]
    made = records.together(record(*faster, row("torch-tensor-wise", 2.0, "gemm.native", shape=backward)), old)
    assert [r.timing.us for r in made.find("gemm.fprop", "ours")] == [4.0]
    assert [(r.timing.us, r.run) for r in made.find("gemm.native", shape=backward)] == [(3.0, "2025-01-01, commit abc")]
    (forward,), (dgrad,) = made.find("gemm.fprop", "ours"), made.find("gemm.dgrad")
    assert made.bounds(forward) == {"copy": 0.8, "native FP8": 3.5}
    assert made.bounds(dgrad) == {"copy": 1.0, "native FP8": 3.0}
    made.save(tmp_path / "bench-x.json")
    assert records.read(tmp_path / "bench-x.json") == made
    with pytest.raises(InputError, match="cannot complete one of"):
        records.together(made, made.model_copy(update={"gpu": "NVIDIA H100 80GB HBM3"}))


def test_shipped_records_are_records():
    """Every shipped record of the bench is valid, names its command, and has no failed check."""
    for shipped in records.load():
        assert shipped.command.startswith("codesign bench")
        assert shipped.cases
        assert not [r for r in shipped.cases if r.wrong]
        assert shipped.find("ceiling.copy")[0].gbps > 100
    for path in records.FOLDER.glob("machine-*.json"):
        constants = {c.name: c.value for c in records.MachineRecord.model_validate_json(path.read_text()).constants}
        assert constants["wgmma.e4m3.n256.clocks"] > 0


def test_records_are_read_without_torch():
    """Reading records imports neither torch nor triton nor CUDA."""
    code = "import sys; from kernels.bench import records; records.load(); print({*sys.modules} & {'torch','triton','cuda'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_table_shows_ours_against_peers_and_bounds():
    """The table shows the ratios to the fastest peer, to the native GEMM and to the copy."""
    from rich.console import Console

    console = Console(width=200, record=True, file=StringIO())
    console.print(table(record(*ROWS)))
    text = console.export_text()
    (line,) = (line for line in text.splitlines() if " ours " in line)
    assert {"1.20", "0.80", "0.20"} <= {*line.split()}
    assert "no-promotion (timing only)" in text
    assert "refused: no" in text


def test_without_a_gpu_the_bench_names_the_records(monkeypatch):
    """Without torch or a GPU, the bench is unavailable and names the shipped records."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(Unavailable, match="needs a Hopper GPU"):
        bench.need_gpu()


def test_the_command_says_what_is_wrong(monkeypatch, capsys, tmp_path):
    """The exit code is 3 without a GPU, 2 for invalid shapes, 1 if a kernel was wrong; then the record is still written."""
    from codesign.__main__ import run as command

    monkeypatch.setitem(sys.modules, "torch", None)
    assert command(["bench"]) == 3
    assert "bench-h200.json" in capsys.readouterr().err
    assert command(["bench", "--shapes", "8x8"]) == 2
    assert command(["bench", "--keep", str(tmp_path / "none.json")]) == 2
    wrong = row("ours", None, variant="ours", wrong=True, why="wrong: off by one")
    monkeypatch.setattr(bench, "bench", lambda *given, **named: record(*ROWS, wrong))
    assert command(["bench", "--out", str(tmp_path / "x.json")]) == 1
    assert "ours: wrong: off by one" in capsys.readouterr().out
    assert BenchRecord.model_validate_json((tmp_path / "x.json").read_text()).cases[-1] == wrong


def test_a_run_that_is_stopped_keeps_the_shapes_that_it_has_timed(monkeypatch, tmp_path):
    """Interrupted at the second shape, the command leaves the first in a file that `--keep` takes, and no record."""
    from codesign.__main__ import run as command

    groups = iter([[], [row("ours", 5.0, variant="ours")]])

    def measured(cases, seed, sampler):
        for found in groups:
            return found
        raise KeyboardInterrupt

    about = record().model_dump(exclude={"cases", "schema_version"})
    monkeypatch.setattr(bench, "need_gpu", lambda: None)
    monkeypatch.setattr(bench, "select", lambda shapes, kernels: [[case()], [case()]])
    monkeypatch.setattr(bench.peers, "ceilings", lambda: ())
    monkeypatch.setattr(bench, "header", lambda *given: about)
    monkeypatch.setattr(measure, "measure", measured)
    monkeypatch.setattr(measure, "Sampler", nullcontext)
    with pytest.raises(KeyboardInterrupt):  # of which `main` makes exit code 130
        command(["bench", "--out", str(tmp_path / "x.json")])
    assert [path.name for path in tmp_path.iterdir()] == ["x.partial.json"]
    assert [r.implementation for r in records.read(tmp_path / "x.partial.json").cases] == ["ours"]


def test_selection_brings_what_to_compare_with(monkeypatch):
    """Selecting a kernel keeps its cases and the native and BF16 GEMMs of its shapes; an unknown one lists the kernels."""
    peers = bench.select([shapes.BenchGemm(64, 128, 256), shapes.BenchGemm(128, 128, 256)], ["gemm.fprop"])
    assert len(peers) == 2
    assert {c.kernel for group in peers for c in group} == {"gemm.fprop", "gemm.native", "gemm.bf16"}
    assert all(len({tuple(c.shape.items()) for c in group}) == 1 for group in peers)
    with pytest.raises(InputError, match=r"no kernel matches `gemm\.fwd`(.|\n)*gemm\.fprop"):
        bench.select([shapes.BenchGemm(64, 128, 256)], ["gemm.fwd"])


# -- operands --------------------------------------------------------------------------------------------------------


def test_operands_represent_what_was_drawn():
    """Quantised tiles decode to within an E4M3 step of the values, also at ragged edges; cuBLASLt can read the scales."""
    torch = pytest.importorskip("torch")
    from kernels.bench import gemm_cases, peers

    x = gemm_cases.normal(torch.Generator().manual_seed(0), 200, 320)
    for tile in ((1, 128), (128, 128), (1, 320), (200, 320)):
        q = gemm_cases.quantise(x, tile)
        assert q.scales.shape == (-(-200 // tile[0]), -(-320 // tile[1]))
        error = (q.values() - x.double()).abs()
        assert bool((error <= x.double().abs() / 16 + 1e-2).all())
        assert float(error.max()) > 0
    a, b = (gemm_cases.quantise(x, tile) for tile in ((1, 128), (128, 128)))
    scale_a, scale_b = peers.blockwise_scales(a, b)
    assert (scale_a.shape, scale_a.stride()) == ((200, 3), (1, 200))
    assert (scale_b.shape, scale_b.stride()) == ((4, 2), (1, 4))
    assert bool((scale_b[:3] == b.scales.T).all())
