"""An analytic model of a kernel's time on a Hopper GPU: the slowest of SMs, L2 and HBM decides.

There are two kinds of operation. A `Product` is a GEMM by the kernel of kernels/gemm: a persistent grid computes tiles of D;
bulk copies fill a ring of stages, each of 128 elements of K, while the Tensor Core multiplies and CUDA cores promote.
A `Stream` is limited by reading and writing memory: casts, transposes, packing.

Times are in microseconds, sizes in bytes. The machine's limits come from its record (machine_constants.py). How closely kernels
approach them is described by a few constants, fitted to measured runs (fit.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from codesign.evidence.timing.machine_constants import Machine
from isa_model.stage import Spec
from kernels.gemm.choose import choose, gpu_of
from kernels.gemm.tile import GemmProblem, ScaleLayout, Tile

STEP = 128
"""Elements of K in a stage."""
LARGE = 1024
"""Rows of A from which a GEMM fills the machine. With fewer, memory and start-up decide."""
BAND = 2048
"""Rows of A that the tiles of a wave cover before they take the next columns (`Walk` of kernels/gemm/tile.cuh)."""


class Constants(Spec):
    """Fitted constants: how closely kernels approach the machine's limits."""

    start_us: float
    """Start-up time of a GEMM beyond launch and latency of the first copy, in us: set-up, first stages, last store."""
    cluster_us: float
    """Start-up time of each CTA of a cluster beyond the first, in us."""
    split_us: float
    """Time to sum the results of CTAs that split K, in us."""
    out_of_turn: float
    """Share of time in which warpgroups do not alternate, so that promotion is not hidden. A warpgroup with two parts in flight
    hides it always."""
    copy_clocks: float
    """Clocks that each bulk copy, of operands or of their scales, adds to a stage limited by its copies."""
    l2_again: float
    """Cost to L2 of each further read of a line in a wave, relative to the first."""
    memory_share: float
    """Share of the HBM bandwidth that a GEMM achieves."""
    store_passes: float
    """Part of a tile's store that is not hidden, at full bandwidth of L2, or of HBM if D is added to."""
    overlap: float
    """Part of the shorter of computation and memory traffic that the longer one does not hide."""
    full_clock: float
    """Share of time in which Tensor Cores can be busy at the highest clock under the power limit."""
    promotion_energy: float
    """Energy of a promotion over that of a wgmma."""
    sustained_clock: float
    """Value of `full_clock` without pauses between launches."""
    stream_start_us: float
    """Start-up time of a Stream beyond launch, in us."""
    stream_share: float
    """Share of the copy bandwidth that a Stream achieves."""
    element_rate: float
    """Elements per us that one SM requantises with FP32 scales."""


@dataclass(frozen=True)
class Product:
    """A GEMM of kernels/gemm, with the properties that a proposal may change."""

    problem: GemmProblem
    widths: tuple[float, float] = (1.0, 1.0)
    """Bytes per element of A and of B in memory, with their share of the scales."""
    clocks: float = 1.0
    """Clocks of a wgmma, relative to today's."""
    energy: float = 1.0
    """Energy of a multiplication and its data movement, relative to today's."""
    taken: int = 0
    """SMs occupied by other work."""
    tile: Tile | None = None
    """Tile of the kernel; None: the choice of kernels/gemm."""
    split_k: bool = True
    """False if CTAs may not share out K."""


@dataclass(frozen=True)
class Stream:
    """A kernel that reads and writes a matrix."""

    rows: int
    columns: int
    bits: float
    """Bits read and written per element."""
    kernel: str = ""
    """Name of the kernel of kernels/quantise in bench records; empty for others."""
    fp32_requantised: bool = False
    """True if it requantises with FP32 scales, whose arithmetic takes time, too."""
    inside: bool = False
    """True if it is part of another kernel and needs no launch."""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return self.rows * self.columns


Operation = Product | Stream


@dataclass(frozen=True)
class ModelledTime:
    """Modelled time of an operation."""

    total: float
    """Time in us."""
    promote: float = 0.0
    """Time of promotion that is not hidden, in us; part of the total."""
    clock: float = 1.0
    """SM clock under the power limit, relative to the highest."""


def time(operation: Operation, machine: Machine, constants: Constants) -> ModelledTime:
    """Return the modelled time of an operation that starts with a cold L2."""
    if isinstance(operation, Stream):
        return _stream(operation, machine, constants)
    return _product(operation, machine, constants)


def _stream(s: Stream, machine: Machine, c: Constants) -> ModelledTime:
    memory = s.elements * s.bits / 8 / (machine.copy_rate * c.stream_share)
    arithmetic = s.elements / (machine.sms * c.element_rate) if s.fp32_requantised else 0.0
    launch = 0.0 if s.inside else machine.launch_us + c.stream_start_us
    return ModelledTime(launch + max(memory, arithmetic))


def waves(tiles: int, slots: int) -> int:
    """Return the number of waves of `tiles` tiles on `slots` slots."""
    return ceil(tiles / slots)


def tiles_of(p: GemmProblem, tile: Tile) -> int:
    """Return the CTA tiles of a GEMM in whole teams. Each group of unknown size adds half a team of rows."""
    if not p.groups:
        return tile.tiles(p)
    alone = tile.tiles(replace(p, m=1, groups=0))  # one row of teams
    rows = tile.bm * (tile.sharers if tile.share == 2 else 1)
    return ceil(alone * (p.m / rows + p.groups / 2))


def _readers(p: GemmProblem, tile: Tile, active: int, team_a: int, team_b: int) -> tuple[float, float]:
    """Return how many teams of a wave read the same rows of A, and the same rows of B."""
    down, across = ceil(p.m / max(p.groups, 1) / tile.bm), ceil(p.n / tile.bn)
    high = min(down, max(BAND // tile.bm, 1), active)
    wide = min(across, active / tile.split / high)
    return max(1.0, wide / team_a), max(1.0, high / team_b)


def _product(x: Product, machine: Machine, c: Constants) -> ModelledTime:
    sms = machine.sms - x.taken
    p, tile = x.problem, x.tile or choose(x.problem, gpu_of(machine.gpu, sms), x.split_k)
    slots = sms // tile.cluster * tile.cluster
    ctas = tiles_of(p, tile) * tile.split
    rounds, active = waves(ctas, slots), min(ctas, slots)
    steps = ceil(p.steps / tile.split)

    # Work of a promotion, relative to one FFMA: a scale per column adds a multiplication and a read from shared memory.
    promotion = 3 if p.scales == ScaleLayout.GROUP else 1
    # Clocks of an SM for one stage.
    mma = tile.bm / 64 * (STEP / 32) * machine.wgmma(tile.bn) * x.clocks
    ffma = 0.0
    if p.promote and tile.depth == 1:
        ffma = tile.bm / 64 * (STEP / 32) * machine.promotion(tile.bn, p.promote, 1 - c.out_of_turn) * promotion
    # A team's operands are read from L2 once, and copied into each of its SMs. Copies are those of A, B and their scales.
    a, b = tile.bm * STEP * x.widths[0], tile.bn * STEP * x.widths[1]
    landing = ((a + b) / machine.copied_bytes_per_clock + (2 + p.scales) * c.copy_clocks) / machine.mhz
    team_a, team_b = (tile.sharers if tile.share == side else 1 for side in (1, 2))
    readers_a, readers_b = _readers(p, tile, active, team_a, team_b)

    def read(readers: float) -> float:  # cost to L2 of a line, per team that reads it
        return (1 + c.l2_again * (readers - 1)) / readers

    crossing = active * (a / team_a * read(readers_a) + b / team_b * read(readers_b)) / machine.l2_rate
    feed = max(landing, crossing)

    # A D that is added to is read from and written to HBM; otherwise it is written to L2.
    stored = active * tile.bm * tile.bn * p.out / tile.split
    store = c.store_passes * (2 * stored / machine.copy_rate if p.add else stored / machine.l2_rate)
    moved = p.m * p.k * x.widths[0] + max(p.groups, 1) * p.n * p.k * x.widths[1] + (p.m * p.n * p.out if p.add else 0)
    memory = moved / (machine.read_rate * c.memory_share) + p.m * p.n * p.out / (machine.write_rate * c.memory_share)
    launch = machine.launch_us + machine.latency_us + c.start_us + c.cluster_us * (tile.cluster - 1)
    launch += c.split_us if tile.split > 1 else 0.0

    def total(clock: float) -> float:
        busy = rounds * (steps * max((mma + ffma) / (machine.mhz * clock), feed) + store)
        return launch + max(busy, memory) + c.overlap * min(busy, memory)

    # Time of an SM's Tensor Cores at the highest clock. Slower units need no more energy for the same products.
    work = ctas * steps * mma / x.clocks / machine.mhz / machine.sms
    work *= x.energy + (c.promotion_energy / p.promote * promotion if p.promote else 0.0)
    clock = _clock(lambda clock: clock**2 * work / total(clock) <= c.full_clock)
    return ModelledTime(total(clock), rounds * steps * ffma / machine.mhz, clock)


def copied(x: Product, us: float, machine: Machine) -> float:
    """Return the operand bytes per clock copied into each SM by a GEMM that takes `us`; 0 if it does not occupy all SMs."""
    p, tile = x.problem, x.tile or choose(x.problem, gpu_of(machine.gpu, machine.sms))
    ctas, slots = tiles_of(p, tile) * tile.split, machine.sms // tile.cluster * tile.cluster
    rounds = waves(ctas, slots) if ctas >= slots else 0
    stage = STEP * (tile.bm * x.widths[0] + tile.bn * x.widths[1])
    return rounds * ceil(p.steps / tile.split) * stage / ((us - machine.launch_us - machine.latency_us) * machine.mhz)


def _clock(allowed: Callable[[float], bool]) -> float:
    """Return the highest clock that `allowed` permits, as a share of the machine's."""
    if allowed(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low
