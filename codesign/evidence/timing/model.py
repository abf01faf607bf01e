"""An analytic model of a kernel's time on a Hopper GPU: what its SMs, L2 and HBM must do, and which of them is the last.

Two kinds of operation. A `Product` is a GEMM by the kernel of kernels/gemm: a persistent grid walks tiles of D; a ring of
stages, 128 of K each, is filled by bulk copies while the Tensor Core multiplies and CUDA cores promote. A `Stream` reads and
writes memory, and that is all that takes time: casts, transposes, packing.

Times are in microseconds, sizes in bytes. What the machine can do comes from its record (machine.py); what a kernel makes of
it is a handful of constants, fitted to measured runs (fit.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from codesign.evidence.timing.machine import Machine
from isa_model.stage import Spec
from kernels.gemm.choose import choose
from kernels.gemm.tile import GemmProblem, ScaleLayout, Tile

STEP = 128
"""Elements of K in a stage."""


LARGE = 1024
"""Rows of A from which a GEMM fills the machine; with fewer, memory and starting decide."""
SHOWN = ("into_sm", "l2_share")
"""Constants that are not fitted: the most that a measured kernel shows."""


class Constants(Spec):
    """What is fitted: how near the kernels come to what the machine can do."""

    start_us: float
    """Start of a GEMM beyond launch and the first copy's latency, in us: set-up, filling the ring, the last store."""
    cluster_us: float
    """For each CTA of a cluster beyond the first."""
    split_us: float
    """Summing what the CTAs of a cluster hold, where they split K."""
    out_of_turn: float
    """Share of the time in which warpgroups do not take turns, so that nothing hides their promotions; where a warpgroup has
    two parts in flight they are hidden."""
    into_sm: float
    """Bytes a clock that land in one SM's shared memory: the most that a row shows."""
    scale_clocks: float
    """Clocks that the bulk copy of an operand's scales adds to a stage that waits for its feed."""
    l2_share: float
    """L2 bandwidth over that of the microbenchmark: over 1 where SMs ask for the same lines; the most that a row shows."""
    memory_share: float
    """Share of the HBM bandwidth that a GEMM gets."""
    store_passes: float
    """How often a tile's bytes cross to L2 (where D is added to: from HBM and back) while nothing is multiplied: 1 if all of
    it, at full bandwidth."""
    overlap: float
    """Part of the shorter of computing and memory traffic that the longer does not hide."""
    full_clock: float
    """Share of the time that Tensor Cores can be busy at the highest clock under the power limit."""
    promotion_energy: float
    """Energy of a promotion after every wgmma, over that of the wgmma."""
    sustained_clock: float
    """The same where nothing pauses between launches."""
    stream_start_us: float
    """Start of a Stream beyond the launch, in us."""
    stream_share: float
    """Share of the copy bandwidth that a Stream gets."""
    element_rate: float
    """Elements a microsecond of one SM that a requantisation with FP32 scales computes."""


@dataclass(frozen=True)
class Product:
    """A GEMM of kernels/gemm with what a proposal may change of it."""

    problem: GemmProblem
    widths: tuple[float, float] = (1.0, 1.0)
    """Bytes of an element of A and of B, its share of the scales included, in memory and on the way into an SM."""
    clocks: float = 1.0
    """Clocks of the proposed wgmma over today's."""
    energy: float = 1.0
    """Energy of a multiplication, with all that it draws power for, over today's."""
    taken: int = 0
    """SMs that other work holds meanwhile."""
    tile: Tile | None = None
    """None: as kernels/gemm chooses."""


@dataclass(frozen=True)
class Stream:
    """A kernel that reads and writes a matrix."""

    rows: int
    columns: int
    bits: float
    """Read and written for an element."""
    kernel: str = ""
    """Which of kernels/quantise it is, by its name on the bench."""
    fp32_requantised: bool = False
    """Whether it divides by FP32 scales what it has multiplied by others: then its arithmetic counts, too."""
    inside: bool = False
    """Whether another kernel does it in passing, so that nothing is launched."""

    @property
    def elements(self) -> int:
        return self.rows * self.columns


Operation = Product | Stream


@dataclass(frozen=True)
class Parts:
    """Where an operation's time goes, in microseconds, each as if nothing else took any; `total` is what remains of them
    when they overlap."""

    total: float
    launch: float = 0.0
    """Launch, first copy, set-up."""
    multiply: float = 0.0
    """Tensor Cores at full clock."""
    promote: float = 0.0
    """Promotion that is not hidden."""
    feed: float = 0.0
    """L2 into shared memory."""
    memory: float = 0.0
    store: float = 0.0
    clock: float = 1.0
    """SM clock over the highest, under the power limit."""


def time(operation: Operation, machine: Machine, constants: Constants) -> Parts:
    """The modelled time of an operation that starts with a cold L2."""
    if isinstance(operation, Stream):
        return _stream(operation, machine, constants)
    return _product(operation, machine, constants)


def _stream(s: Stream, machine: Machine, c: Constants) -> Parts:
    memory = s.elements * s.bits / 8 / (machine.copy_rate * c.stream_share)
    arithmetic = s.elements / (machine.sms * c.element_rate) if s.fp32_requantised else 0.0
    launch = 0.0 if s.inside else machine.launch_us + c.stream_start_us
    return Parts(total=launch + max(memory, arithmetic), launch=launch, memory=memory)


def waves(tiles: int, slots: int) -> int:
    """Rounds that a machine with so many slots takes for so many tiles."""
    return ceil(tiles / slots)


def tiles_of(p: GemmProblem, tile: Tile) -> int:
    """CTA tiles of a GEMM, teams counted whole; of groups of unknown sizes, half a team's rows more for each."""
    if not p.groups:
        return tile.tiles(p)
    alone = tile.tiles(replace(p, m=1, groups=0))  # one row of teams
    rows = tile.bm * (tile.sharers if tile.share == 2 else 1)
    return ceil(alone * (p.m / rows + p.groups / 2))


def _product(x: Product, machine: Machine, c: Constants) -> Parts:
    sms = machine.sms - x.taken
    p, tile = x.problem, x.tile or choose(x.problem, sms)
    slots = sms // tile.cluster * tile.cluster
    ctas = tiles_of(p, tile) * tile.split
    rounds, active = waves(ctas, slots), min(ctas, slots)
    steps = ceil(p.steps / tile.split)

    # Clocks of an SM for one stage.
    mma = tile.bm / 64 * (STEP / 32) * machine.wgmma(tile.bn) * x.clocks
    ffma = 0.0
    if p.promote and tile.depth == 1:
        # One FFMA an element; with a scale for every column a multiplication and a read from shared memory before it, each
        # as long.
        each = machine.promotion(tile.bn, p.promote, 1 - c.out_of_turn) * (3 if p.scales == ScaleLayout.GROUP else 1)
        ffma = tile.bm / 64 * (STEP / 32) * each
    # Bytes: a team's operands cross from L2 once, and land in each of its SMs.
    a, b = tile.bm * STEP * x.widths[0], tile.bn * STEP * x.widths[1]
    landing = ((a + b) / c.into_sm + p.scales * c.scale_clocks) / machine.mhz
    team_a, team_b = (tile.sharers if tile.share == side else 1 for side in (1, 2))
    crossing = active * (a / team_a + b / team_b) / (machine.l2_rate * c.l2_share)
    feed = max(landing, crossing)

    # What is added to is read from HBM and written there while nothing is multiplied; else L2 takes it.
    stored = active * tile.bm * tile.bn * p.out / tile.split
    store = c.store_passes * (2 * stored / machine.copy_rate if p.add else stored / machine.l2_rate)
    read = p.m * p.k * x.widths[0] + max(p.groups, 1) * p.n * p.k * x.widths[1] + (p.m * p.n * p.out if p.add else 0)
    memory = read / (machine.read_rate * c.memory_share) + p.m * p.n * p.out / (machine.write_rate * c.memory_share)
    launch = machine.launch_us + machine.latency_us + c.start_us + c.cluster_us * (tile.cluster - 1)
    launch += c.split_us if tile.split > 1 else 0.0

    def total(clock: float) -> float:
        busy = rounds * (steps * max((mma + ffma) / (machine.mhz * clock), feed) + store)
        return launch + max(busy, memory) + c.overlap * min(busy, memory)

    # Microseconds that an SM's Tensor Cores would take at full clock; slower ones burn no more for the same products.
    work = ctas * steps * mma / x.clocks / machine.mhz / machine.sms
    work *= x.energy + (
        c.promotion_energy / p.promote * (2 if p.scales == ScaleLayout.GROUP else 1) if p.promote else 0.0
    )
    clock = _clock(lambda clock: clock**2 * work / total(clock) <= c.full_clock)
    return Parts(
        total=total(clock),
        launch=launch,
        multiply=rounds * steps * mma / machine.mhz,
        promote=rounds * steps * ffma / machine.mhz,
        feed=rounds * steps * feed,
        memory=memory,
        store=rounds * store,
        clock=clock,
    )


def shown(x: Product, us: float, machine: Machine) -> tuple[float, float]:
    """Return the bytes per clock that fed an SM in a GEMM of this time, and those of all SMs over the L2 bandwidth."""
    p, tile = x.problem, x.tile or choose(x.problem, machine.sms)
    ctas = tiles_of(p, tile) * tile.split
    rounds = waves(ctas, machine.sms // tile.cluster * tile.cluster)
    a, b = (rows * STEP * width for rows, width in zip((tile.bm, tile.bn), x.widths, strict=True))
    steps = ceil(p.steps / tile.split)
    team_a, team_b = (tile.sharers if tile.share == side else 1 for side in (1, 2))
    busy = us - machine.launch_us - machine.latency_us
    into = rounds * steps * (a + b) / (busy * machine.mhz)
    return into, ctas * steps * (a / team_a + b / team_b) / busy / machine.l2_rate


def _clock(allowed: Callable[[float], bool]) -> float:
    """The highest clock under the power limit, as a share of the machine's: energy goes with the voltage squared, and the
    voltage with the clock."""
    if allowed(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low
