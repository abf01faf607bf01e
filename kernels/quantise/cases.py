"""The quantisation kernels in the bench: every one checked against isa_model bit for bit, its timing twin, and peers.

Twins. A cast's twin moves the same bytes and computes nothing: the bound for a cast that costs no instructions. A cast fused
into the consumer's TMA copy, or an operand that the tensor core reads transposed, leaves no kernel at all: its twin is the
GEMM without this kernel before it, and what it saves is the whole time in this kernel's row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import kernels.quantise as q
from kernels.bench.case import Case, Wrong, relative_error
from kernels.bench.shapes import Gemm
from kernels.quantise import expected
from kernels.quantise.build import Choice, all_choices, cubin, read

if TYPE_CHECKING:
    from kernels.bench.static import Cubin

LARGE = (1024, 7168)
"""Rows and columns from which every kernel is measured; below, the cast of activations alone."""


class Operands(NamedTuple):
    """One set: arguments of the kernel, and what it writes."""

    inputs: tuple[Any, ...]
    out: Any


class Part(NamedTuple):
    """A tensor that has the rows of the matrix along `axis`, `rows` of them to one index."""

    tensor: Any
    axis: int
    rows: int = 1

    def codes(self, start: int, stop: int) -> Any:
        """What it has of some rows, as unsigned integers in numpy."""
        import torch

        first, last = start // self.rows, -(-stop // self.rows)
        tensor = self.tensor.narrow(self.axis, first, last - first).contiguous()
        signed = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]
        return tensor.view(signed).cpu().numpy().view(f"u{tensor.element_size()}")


class Kernel(NamedTuple):
    """One function of kernels.quantise as the bench sees it."""

    name: str
    choice: Choice | None
    """None: unpack.cu."""
    call: Callable[..., Any]
    inputs: Callable[[Any, int, int], tuple[Any, ...]]
    out: Callable[[int, int], Any]
    reads: Callable[..., list[Part]]
    """Parts of the inputs from which `expects` follows."""
    writes: Callable[[Any], list[Part]]
    expects: Callable[..., list[Any]]
    """Codes of what is written for some rows, from codes of what is read of them."""
    bits: int
    """Read and written for an element, scales left out (under 2 %)."""

    @property
    def implementation(self) -> str:
        return "ours-power-of-2" if self.choice and self.choice.power_of_2 else "ours"


def cases(shapes: Sequence[Gemm]) -> Iterator[Case]:
    """Casts of matrices with the sizes of the GEMMs' A operands (m, k): of small ones, `rows` alone."""
    for m, k in dict.fromkeys((shape.m, shape.k) for shape in shapes):
        if m < LARGE[0] or k < LARGE[1]:
            yield _ours(_kernels()[0], m, k)
            continue
        for kernel in _kernels():
            yield _ours(kernel, m, k)
            if kernel.choice and replace(kernel.choice, twin=True) in all_choices():
                yield _twin(kernel, m, k)
        yield from _peers(m, k)


def cubins() -> Iterator[Cubin]:
    """Machine code of all of them."""
    from kernels.bench.static import Cubin

    for choice in all_choices():
        yield Cubin(f"quantise.{choice.name}", bytes(cubin(choice.text).code))
    yield Cubin("quantise.unpack-e5m6", bytes(cubin(read("unpack.cu")).code))


# -- ours and twins --------------------------------------------------------------------------------------------------


def _ours(kernel: Kernel, m: int, k: int) -> Case:
    def check(x: Operands) -> float:
        for start in sorted({0, (m - 1) // 128 * 128}):
            stop = min(start + 128, m)
            wanted = kernel.expects(*(part.codes(start, stop) for part in kernel.reads(*x.inputs)))
            for part, want in zip(kernel.writes(x.out), wanted, strict=True):
                if different := int((part.codes(start, stop) != want).sum()):
                    raise Wrong(f"{different} of {want.size} differ from isa_model in rows {start} to {stop}")
        return 0.0

    return Case(
        kernel=f"quantise.{kernel.name}",
        implementation=kernel.implementation,
        variant="ours",
        shape={"m": m, "k": k},
        flops=0,
        least_bytes=m * k * kernel.bits // 8,
        prepare=partial(_prepare, kernel, m, k),
        launch=lambda x: kernel.call(*x.inputs, out=x.out),
        check=check,
        notes="the first and the last 128 rows equal isa_model bit for bit",
        static=f"quantise.{kernel.choice.name if kernel.choice else 'unpack-e5m6'}",
    )


def _twin(kernel: Kernel, m: int, k: int) -> Case:
    assert kernel.choice
    choice = replace(kernel.choice, twin=True)
    return Case(
        kernel=f"quantise.{kernel.name}",
        implementation="move",
        variant="twin",
        shape={"m": m, "k": k},
        flops=0,
        least_bytes=m * k * kernel.bits // 8,
        prepare=partial(_prepare, kernel, m, k),
        launch=lambda x: q.twin(choice, *x.inputs, out=x.out),
        notes="the same loads and stores, nothing computed",
        static=f"quantise.{choice.name}",
    )


def _prepare(kernel: Kernel, m: int, k: int, generator: Any) -> Operands:
    out = kernel.out(m, k)
    for part in kernel.writes(out):
        _poison(part.tensor)
    return Operands(kernel.inputs(generator, m, k), out)


def _poison(tensor: Any) -> None:
    """All ones, which is a NaN in every format here."""
    import torch

    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]
    tensor.view(integers).fill_(-1 if tensor.element_size() > 1 else 0xFF)


# -- the kernels -----------------------------------------------------------------------------------------------------


@cache
def _kernels() -> tuple[Kernel, ...]:
    layouts: dict[str, tuple[Any, Any, Any, tuple[Any, Any], int]] = {
        # name: function, output, where it lies, groups, bits, of E4M3
        "rows": (q.rows, q.empty_rows, _as_rows, ((1, 128), None), 24),
        "columns": (q.columns, _empty_columns, _as_columns, (None, (128, 1)), 24),
        "both": (q.both, _pair(q.empty_rows, _empty_columns), _two(_as_rows, _as_columns), ((1, 128), (128, 1)), 32),
        "blocks": (q.blocks, q.empty_blocks, _as_blocks, ((128, 128), None), 24),
        "blocks-both": (
            q.blocks_both,
            _pair(q.empty_blocks, lambda m, k: q.empty_blocks(k, m)),
            _two(_as_blocks, _as_blocks_turned),
            ((128, 128), (128, 128)),
            32,
        ),
    }
    kernels = []
    for power in (False, True):
        for name, (function, out, writes, groups, bits) in layouts.items():
            kernels.append(
                Kernel(
                    name,
                    Choice(rows=bool(groups[0]), columns=bool(groups[1]), blocks="blocks" in name, power_of_2=power),
                    partial(function, power_of_2=power),
                    _normal,
                    out,
                    lambda x: [Part(x, 0)],
                    writes,
                    partial(expected.cast, power, groups),
                    bits,
                )
            )
        kernels += [
            Kernel(
                "swiglu",
                Choice("SWIGLU", rows=True, power_of_2=power),
                partial(q.swiglu, power_of_2=power),
                lambda g, m, k: _normal(g, m, k) + _normal(g, m, k),
                q.empty_rows,
                lambda gate, up: [Part(gate, 0), Part(up, 0)],
                _as_rows,
                partial(expected.swiglu, power),
                40,
            ),
            Kernel(
                "requantise",
                Choice("E4M3", columns=True, power_of_2=power),
                partial(q.requantise, power_of_2=power),
                partial(_quantised, power),
                _empty_columns,
                lambda codes, scales: _as_rows(q.Quantised(codes, scales)),
                _as_columns,
                partial(expected.requantised, power),
                16,
            ),
        ]
    return (
        *kernels,
        Kernel(
            "pack-e5m6",
            Choice(target="E5M6", rows=True, power_of_2=True),
            q.pack_e5m6,
            _normal,
            q.empty_e5m6,
            lambda x: [Part(x, 0)],
            _as_rows,
            expected.packed,
            28,
        ),
        Kernel(
            "unpack-e5m6",
            None,
            q.unpack_e5m6,
            lambda g, m, k: tuple(q.pack_e5m6(*_normal(g, m, k))),
            _empty_bf16,
            lambda packed, scales: _as_rows(q.Quantised(packed, scales)),
            lambda out: [Part(out, 0)],
            expected.unpacked,
            28,
        ),
        Kernel(
            "dispatch",
            Choice(rows=True, power_of_2=True, send=True),
            q.dispatch,
            lambda g, m, k: _normal(g, m, k) + _any_order(g, m),
            q.empty_dispatch,
            lambda x, tokens: [Part(x[tokens.long()], 0)],
            lambda out: [Part(out, 0)],
            expected.sent,
            24,
        ),
    )


def _normal(generator: Any, m: int, k: int) -> tuple[Any, ...]:
    import torch

    return (torch.randn(m, k, generator=generator, device=generator.device, dtype=torch.bfloat16),)


def _quantised(power_of_2: bool, generator: Any, m: int, k: int) -> tuple[Any, ...]:
    (x,) = _normal(generator, m, k)
    return tuple(q.rows(x, power_of_2))


def _any_order(generator: Any, m: int) -> tuple[Any, ...]:
    import torch

    return (torch.randperm(m, generator=generator, device=generator.device).to(torch.int32),)


def _empty_columns(m: int, k: int) -> Any:
    return q.empty_rows(k, m)


def _empty_bf16(m: int, k: int) -> Any:
    import torch

    return torch.empty(m, k, device=q.DEVICE, dtype=torch.bfloat16)


def _pair(*functions: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
    return lambda m, k: tuple(function(m, k) for function in functions)


def _two(first: Callable[[Any], list[Part]], second: Callable[[Any], list[Part]]) -> Callable[[Any], list[Part]]:
    return lambda out: first(out[0]) + second(out[1])


def _as_rows(out: Any) -> list[Part]:
    return [Part(out.codes, 0), Part(out.scales, 1)]


def _as_columns(out: Any) -> list[Part]:
    return [Part(out.codes, 1), Part(out.scales, 0, 128)]


def _as_blocks(out: Any) -> list[Part]:
    return [Part(out.codes, 0), Part(out.scales, 0, 128)]


def _as_blocks_turned(out: Any) -> list[Part]:
    return [Part(out.codes, 1), Part(out.scales, 1, 128)]


# -- peers -----------------------------------------------------------------------------------------------------------


def _peers(m: int, k: int) -> Iterator[Case]:
    """The plain formulation, under torch.compile."""
    if k % 128:
        return
    yield _compiled("rows", m, k, 24, lambda g: _normal(g, m, k), _plain_rows)
    yield _compiled("both", m, k, 32, lambda g: _normal(g, m, k), _plain_both)
    yield _compiled("swiglu", m, k, 40, lambda g: _normal(g, m, k) + _normal(g, m, k), _plain_swiglu)


def _plain_rows(x: Any) -> Any:
    import torch

    groups = x.float().unflatten(1, (-1, 128))
    scales = groups.abs().amax(dim=2, keepdim=True).clamp(min=1e-30) / 448.0
    return (groups / scales).to(torch.float8_e4m3fn).flatten(1), scales.squeeze(2).T.contiguous()


def _plain_both(x: Any) -> Any:
    turned, scales = _plain_rows(x.T)
    return *_plain_rows(x), turned, scales


def _plain_swiglu(gate: Any, up: Any) -> Any:
    import torch

    return _plain_rows(torch.nn.functional.silu(gate.float()) * up.float())


@cache
def _compile(function: Any) -> Any:
    import torch

    return torch.compile(function, dynamic=False)


def _compiled(name: str, m: int, k: int, bits: int, inputs: Any, function: Any) -> Case:
    out: dict[int, Any] = {}

    def launch(x: Operands) -> None:
        out[id(x)] = _compile(function)(*x.inputs)

    def check(x: Operands) -> float:
        codes, scales = out[id(x)][:2]
        wide = scales.T.repeat_interleave(128, dim=1)
        reference = x.inputs[0].double()
        if len(x.inputs) == 2:
            reference = torch_silu(reference) * x.inputs[1].double()
        return relative_error(codes.double() * wide, reference, 0.05)

    def torch_silu(x: Any) -> Any:
        import torch

        return torch.nn.functional.silu(x)

    return Case(
        kernel=f"quantise.{name}",
        implementation="torch.compile",
        variant="peer",
        shape={"m": m, "k": k},
        flops=0,
        least_bytes=m * k * bits // 8,
        prepare=lambda generator: Operands(inputs(generator), None),
        launch=launch,
        check=check,
        notes="the plain formulation under torch.compile; allocates its output",
    )
