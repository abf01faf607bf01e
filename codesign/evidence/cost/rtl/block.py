# amaranth: UnusedElaboratable=no
"""Building blocks of the generator: hardware modules by name, exponents, and the terms of sums as wires."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce, wraps
from typing import Any, ParamSpec, TypeVar

from amaranth.back import rtlil
from amaranth.hdl import Cat, Const, Instance, Module, Mux, Signal, Value

Wire = Any
"""An Amaranth value."""
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a function of the generator, whose wires a proof observes."""

    name: str
    args: tuple[Any, ...]
    result: Any
    depth: int
    """Number of recorded functions that the call is inside of."""


def recorded(function: Callable[P, T]) -> Callable[P, T]:
    """Note the calls of a function, whose first argument is a block, in the block's design."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> T:
        given = signature.bind(*args, **options)
        design = given.args[0].design
        design.depth += 1
        result = function(*args, **options)
        design.depth -= 1
        given.apply_defaults()
        design.calls.append(Call(function.__name__, given.args[1:], result, design.depth))
        return result

    return call


@dataclass
class UnitDesign:
    """The modules of a unit, each of which is written once and may be used many times."""

    modules: dict[str, tuple[Module, list[Signal]]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    """Calls of the functions that are `recorded`, in the order in which they ended."""
    depth: int = 0
    """Number of recorded functions that are being called."""

    def rtlil(self) -> str:
        """Return all modules in the intermediate language of Yosys."""
        return "\n".join(
            rtlil.convert(module, name=name, ports=ports, emit_src=False)
            for name, (module, ports) in self.modules.items()
        )

    def define(self, name: str, body: Callable[..., dict[str, Wire]], inputs: dict[str, int]) -> None:
        """Build the module `name` from `body(block, **inputs)`, which returns its outputs. `inputs` holds bits by port."""
        block = Block(self)
        ports = {key: Signal(bits, name=key) for key, bits in inputs.items()}
        outputs = {key: Value.cast(value) for key, value in body(block, **ports).items()}
        wires = {key: Signal(len(value), name=f"{key}_out") for key, value in outputs.items()}
        for key, wire in wires.items():
            block.module.d.comb += wire.eq(outputs[key])
        self.modules[name] = (block.module, [*ports.values(), *wires.values()])
        self.shapes[name] = tuple(inputs.values())


class Block:
    """A module under construction."""

    def __init__(self, design: UnitDesign) -> None:
        self.design, self.module = design, Module()

    def let(self, name: str, value: Wire) -> Wire:
        """Return a named unsigned wire with a value, so that later uses share it."""
        value = Value.cast(value)
        if isinstance(value, Const):
            return Const(value.value & ((1 << len(value)) - 1), len(value))
        wire = Signal(len(value), name=name)
        self.module.d.comb += wire.eq(value)
        return wire

    def call(self, name: str, body: Callable[..., dict[str, Wire]], **inputs: Wire) -> dict[str, Wire]:
        """Instantiate the module `name` and return its outputs; `body(block, **inputs)` builds it on first use.

        The name must determine everything `body` depends on, since modules of one name are the same hardware.
        """
        name = re.sub(r"\W", "_", name, flags=re.ASCII)
        inputs = {key: Value.cast(value) for key, value in inputs.items()}
        shape = tuple(len(value) for value in inputs.values())
        if name not in self.design.modules:
            self.design.define(name, body, {key: len(value) for key, value in inputs.items()})
        assert self.design.shapes[name] == shape, f"{name} is used with {shape} and {self.design.shapes[name]}"
        _, ports_of = self.design.modules[name]
        results = {
            port.name.removesuffix("_out"): Signal(len(port), name=f"{name}_{port.name.removesuffix('_out')}")
            for port in ports_of[len(inputs) :]
        }
        self.module.submodules += Instance(
            name,
            **{f"i_{key}": value for key, value in inputs.items()},
            **{f"o_{key}_out": wire for key, wire in results.items()},
        )
        return results


@dataclass(frozen=True, eq=False)
class Exponent:
    """A variable exponent, `field + offset`, plus an exponent `common` to several terms.

    The unsigned field is between `low` and `top`, which determine the widths of wires.
    """

    field: Wire
    offset: int
    low: int
    top: int
    common: Exponent | None = None

    @property
    def least(self) -> int:
        """Smallest possible value."""
        return self.offset + self.low + (self.common.least if self.common else 0)

    @property
    def most(self) -> int:
        """Largest possible value."""
        return self.offset + self.top + (self.common.most if self.common else 0)

    def plus(self, constant: int) -> Exponent:
        """Return the exponent plus a constant."""
        return replace(self, offset=self.offset + constant)

    def alone(self, block: Block) -> Exponent:
        """Return the exponent with the common part added to its field."""
        if self.common is None:
            return self
        return add(block, replace(self, common=None), self.common.alone(block))


def constant(value: int) -> Exponent:
    """Return a constant exponent."""
    return Exponent(Const(0, 1), value, 0, 0)


def add(block: Block, x: Exponent, y: Exponent) -> Exponent:
    """Return the sum of two exponents; their common parts stay separate."""
    common = x.common or y.common
    if x.common and y.common:
        common = add(block, x.common, y.common)
    if x.top == 0 or y.top == 0:
        moving = y if x.top == 0 else x
        return Exponent(moving.field, x.offset + y.offset, moving.low, moving.top, common)
    top = x.top + y.top
    total = block.let("exponent", (x.field + y.field)[: top.bit_length()])
    return Exponent(total, x.offset + y.offset, x.low + y.low, top, common)


@dataclass(frozen=True, eq=False)
class TermWires:
    """A number `(-1)**sign * significand * 2**position` with its alignment exponent, as wires.

    If the number is not zero, `align - position >= depth` and its magnitude is under `2**(align + height)`. Flags are lists
    of wires, of which any set one counts. If `normal`, the significand's top bit is set, unless the number is zero or has
    the smallest position of its format.
    """

    sign: Wire
    significand: Wire
    position: Exponent
    align: Exponent
    depth: int
    height: int
    none: Wire
    """Flag of a zero without an alignment exponent."""
    summed: bool = False
    """True for sums, which may be zero with an alignment exponent; `none` flags every zero of the others."""
    nan: tuple[Wire, ...] = ()
    infinite: tuple[Wire, ...] = ()
    normal: bool = False
    optional: bool = False
    """True for a term that takes no part where it is a zero, as the second register of a running value."""

    @property
    def width(self) -> int:
        """Bits of the significand."""
        return len(self.significand)


def any_of(block: Block, name: str, flags: Iterable[Wire]) -> Wire:
    """Return whether any flag is set; repeated wires are used once."""
    distinct = list({id(flag): flag for flag in flags}.values())
    return block.let(name, Cat(*distinct).any()) if distinct else Const(0, 1)


def flip(value: Wire, when: Wire) -> Wire:
    """Return the value, inverted if `when` is set."""
    return Mux(when, ~value, value)[: len(value)]


def gate(value: Wire, enable: Wire) -> Wire:
    """Return the value if enabled, else zero."""
    return Mux(enable, value, 0)


def pad(value: Wire, width: int, below: int = 0) -> Wire:
    """Return a value with `below` zeros under it and zeros above it, cut to `width` bits."""
    above = width - below - len(value)
    padded = Cat(Const(0, below), value, Const(0, max(above, 0)))
    return padded[:width]


def tree(items: Sequence[Any], join: Callable[[Any, Any], Any]) -> Any:
    """Join items pairwise, level by level."""
    while len(items) > 1:
        pairs = [join(items[i], items[i + 1]) for i in range(0, len(items) - 1, 2)]
        items = [*pairs, *items[len(pairs) * 2 :]]
    return items[0]


def shift_right(block: Block, value: Wire, amount: Wire, sticky: bool) -> tuple[Wire, Wire]:
    """Return `value >> amount`, and whether a set bit was lost (constant 0 unless `sticky`).

    Small steps come first, so that zeros at the bottom of the value keep them narrow.
    """
    width, lost = len(value), []
    stages = min(len(amount), max((width - 1).bit_length(), 1))
    beyond = amount[stages:]
    for i in range(stages):
        step = min(1 << i, width)
        if sticky:
            lost.append(amount[i] & value[:step].any())
        value = block.let("shifted", Mux(amount[i], pad(value[step:], width), value))
    if len(beyond):
        far = block.let("far", beyond.any())
        if sticky:
            lost.append(far & value.any())
        value = block.let("shifted", gate(value, ~far))
    return value, any_of(block, "lost", lost)


def shift_left(block: Block, value: Wire, amount: Wire, width: int) -> Wire:
    """Return `width` bits of `value << amount`."""
    value = pad(value, width)
    for i in range(len(amount)):
        step = min(1 << i, width)
        value = block.let("shifted", Mux(amount[i], pad(value, width, below=step), value))
    return value


def leading_zeros(block: Block, value: Wire) -> Wire:
    """Return the number of zeros above the highest set bit; unspecified for zero."""
    width = len(value)
    size = 1 << max((width - 1).bit_length(), 1)
    padded = Cat(Const(0, size - width), value)

    def join(low: tuple[Wire, list[Wire]], high: tuple[Wire, list[Wire]]) -> tuple[Wire, list[Wire]]:
        (any_low, count_low), (any_high, count_high) = low, high
        mixed = [Mux(any_high, h, x) for x, h in zip(count_low, count_high, strict=True)]
        return block.let("any", any_low | any_high), [block.let("count", x) for x in [*mixed, ~any_high]]

    _, count = tree([(padded[i], []) for i in range(size)], join)
    return Cat(*count)


def all_of(block: Block, name: str, flags: Sequence[Wire]) -> Wire:
    """Return whether all flags are set."""
    return block.let(name, reduce(lambda x, y: x & y, flags))


def either(block: Block, choices: Sequence[tuple[Wire, TermWires]]) -> TermWires:
    """Return the number whose flag is set, with the top bits of all significands in one place; zero if none is."""
    width = max(t.width for _, t in choices)
    offset = min(t.position.offset - (width - t.width) for _, t in choices)
    fields, tops = [], []
    for on, t in choices:
        above = t.position.offset - (width - t.width) - offset
        tops.append(t.position.top + above)
        fields.append(gate((t.position.field + above)[: max(tops[-1].bit_length(), 1)], on))

    def any_on(wires: Sequence[Wire]) -> Wire:
        return block.let("either", reduce(lambda x, y: x | y, wires))

    position = Exponent(any_on(fields), offset, 0, max(tops))
    return TermWires(
        any_on([t.sign & on for on, t in choices]),
        any_on([gate(pad(t.significand, width, below=width - t.width), on) for on, t in choices]),
        position,
        position.plus(width - 1),
        depth=width - 1,
        height=1,
        none=~any_on([~t.none & on for on, t in choices]),  # of an idle lane, too
        nan=tuple(block.let("nan", flag & on) for on, t in choices for flag in t.nan),
        infinite=tuple(block.let("infinite", flag & on) for on, t in choices for flag in t.infinite),
    )
