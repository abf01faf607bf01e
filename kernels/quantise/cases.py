"""The quantisation kernels on the bench: each checked against isa_model bit for bit, its timing twin, and peers.

A cast's twin moves the same bytes and computes nothing: a lower bound for a kernel with a free cast instruction. A proposal
that needs no cast kernel at all, for instance with a cast in the consumer's TMA copy or a transposed operand read, saves the
whole time in this kernel's row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import kernels.quantise as q
from kernels.bench.case import Case, WrongOutput, relative_error
from kernels.bench.shapes import BenchGemm
from kernels.bench.static import Cubin
from kernels.quantise import expected, layout
from kernels.quantise.build import Choice, all_choices, cubin, read

LARGE = (1024, 7168)
"""Fewest rows and columns at which every kernel is measured; smaller matrices have only `rows`."""


class CastOperands(NamedTuple):
    """One set of operands of a cast: the arguments of its function and its output."""

    inputs: tuple[Any, ...]
    out: Any


class TensorRows(NamedTuple):
    """A tensor and its relation to the rows of the matrix."""

    tensor: Any
    axis: int
    """Axis along which the rows of the matrix run."""
    rows: int = 1
    """Rows of the matrix per index of that axis."""

    def codes(self, start: int, stop: int) -> Any:
        """Return the part for rows `start` to `stop` of the matrix, as unsigned integers in numpy."""
        import torch

        first, last = start // self.rows, -(-stop // self.rows)
        tensor = self.tensor.narrow(self.axis, first, last - first).contiguous()
        return tensor.view(torch.uint8).cpu().numpy().view(f"u{tensor.element_size()}")


class CastKernel(NamedTuple):
    """One function of kernels.quantise on the bench."""

    name: str
    """Name without `quantise.`."""
    choice: Choice | None
    """Build of tile.cu; None for unpack.cu."""
    call: Callable[..., Any]
    """Function to measure, called with the inputs and `out`."""
    inputs: Callable[[Any, int, int], tuple[Any, ...]]
    """Function that makes random inputs from a generator, for a matrix (m, k)."""
    out: Callable[[int, int], Any]
    """Function that makes the output for a matrix (m, k)."""
    reads: Callable[..., list[TensorRows]]
    """Function that returns the inputs by rows."""
    writes: Callable[[Any], list[TensorRows]]
    """Function that returns the outputs by rows."""
    expects: Callable[..., list[Any]]
    """Function that returns the codes of the outputs for some rows, from the codes of the inputs for the same rows."""
    bits: int
    """Bits read and written per element, without scales (under 2 %)."""

    @property
    def implementation(self) -> str:
        """Name of the implementation on the bench."""
        return "ours-power-of-2" if self.choice and self.choice.power_of_2 else "ours"


def cases(shapes: Sequence[BenchGemm]) -> Iterator[Case]:
    """Yield casts of matrices as large as the A operands (m, k) of the GEMMs; for small ones only `rows`."""
    for m, k in dict.fromkeys((shape.m, shape.k) for shape in shapes):
        if m < LARGE[0] or k < LARGE[1]:
            yield cast_case(cast_kernels()[0], m, k)
            continue
        for kernel in cast_kernels():
            yield cast_case(kernel, m, k)
            if kernel.choice and replace(kernel.choice, twin=True) in all_choices():
                yield _twin(kernel, m, k)
        yield from _peers(m, k)


def cubins() -> Iterator[Cubin]:
    """Yield the machine code of every build."""
    for choice in all_choices():
        yield Cubin(f"quantise.{choice.name}", cubin(choice.text))
    yield Cubin("quantise.unpack-e5m6", cubin(read("unpack.cu")))


# -- our kernels and their twins -------------------------------------------------------------------------------------


def cast_case(kernel: CastKernel, m: int, k: int) -> Case:
    """Return the case of a function on an (m, k) matrix."""

    def check(x: CastOperands) -> float:
        for start in sorted({0, (m - 1) // 128 * 128}):
            stop = min(start + 128, m)
            wanted = kernel.expects(*(part.codes(start, stop) for part in kernel.reads(*x.inputs)))
            for part, want in zip(kernel.writes(x.out), wanted, strict=True):
                if different := int((part.codes(start, stop) != want).sum()):
                    raise WrongOutput(f"{different} of {want.size} differ from isa_model in rows {start} to {stop}")
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


def _twin(kernel: CastKernel, m: int, k: int) -> Case:
    assert kernel.choice
    choice = replace(kernel.choice, twin=True)
    return replace(
        cast_case(kernel, m, k),
        implementation="move",
        variant="twin",
        launch=lambda x: q.launch_twin(choice, *x.inputs, out=x.out),
        check=None,
        notes="the same loads and stores, nothing computed",
        static=f"quantise.{choice.name}",
    )


def _prepare(kernel: CastKernel, m: int, k: int, generator: Any) -> CastOperands:
    import torch

    out = kernel.out(m, k)
    for part in kernel.writes(out):
        part.tensor.view(torch.uint8).fill_(0xFF)  # all ones are NaN in every format here
    return CastOperands(kernel.inputs(generator, m, k), out)


# -- the kernels -----------------------------------------------------------------------------------------------------


@cache
def cast_kernels() -> tuple[CastKernel, ...]:
    """Return every function of kernels.quantise, with FP32 scales and with powers of two."""
    return (
        *(kernel for power_of_2 in (False, True) for kernel in _with_scales(power_of_2)),
        CastKernel(
            name="pack-e5m6",
            choice=Choice(target="E5M6", rows=True, power_of_2=True),
            call=q.pack_e5m6,
            inputs=_normal,
            out=q.empty_e5m6,
            reads=lambda x: [TensorRows(x, 0)],
            writes=_as_rows,
            expects=expected.packed,
            bits=28,
        ),
        CastKernel(
            name="unpack-e5m6",
            choice=None,
            call=q.unpack_e5m6,
            inputs=lambda g, m, k: tuple(q.pack_e5m6(*_normal(g, m, k))),
            out=_empty_bf16,
            reads=lambda packed, scales: _as_rows(q.QuantisedTensor(packed, scales)),
            writes=lambda out: [TensorRows(out, 0)],
            expects=expected.unpacked,
            bits=28,
        ),
        CastKernel(
            name="dispatch",
            choice=Choice(rows=True, power_of_2=True, send=True),
            call=q.dispatch,
            inputs=lambda g, m, k: _normal(g, m, k) + _any_order(g, m),
            out=q.empty_dispatch,
            reads=lambda x, tokens: [TensorRows(x[tokens.long()], 0)],
            writes=lambda out: [TensorRows(out, 0)],
            expects=expected.sent,
            bits=24,
        ),
    )


def _with_scales(power_of_2: bool) -> Iterator[CastKernel]:
    """Yield the functions that write FP32 scales, here powers of two or not."""
    one, both = (1, 128), ((1, 128), (128, 1))
    square = (128, 128)
    # Name, function, output, its rows, groups of the codes as they are and transposed.
    layouts: tuple[tuple[str, Any, Any, Any, tuple[Any, Any]], ...] = (
        ("rows", q.rows, q.empty_rows, _as_rows, (one, None)),
        ("columns", q.columns, _empty_columns, _as_columns, (None, (128, 1))),
        ("both", q.both, _pair(q.empty_rows, _empty_columns), _two(_as_rows, _as_columns), both),
        ("blocks", q.blocks, q.empty_blocks, _as_blocks, (square, None)),
        (
            "blocks-both",
            q.blocks_both,
            _pair(q.empty_blocks, lambda m, k: q.empty_blocks(k, m)),
            _two(_as_blocks, _as_blocks_turned),
            (square, square),
        ),
    )
    for name, function, out, writes, groups in layouts:
        by_rows, by_columns = map(bool, groups)
        yield CastKernel(
            name=name,
            choice=Choice(rows=by_rows, columns=by_columns, blocks="blocks" in name, power_of_2=power_of_2),
            call=partial(function, power_of_2=power_of_2),
            inputs=_normal,
            out=out,
            reads=lambda x: [TensorRows(x, 0)],
            writes=writes,
            expects=partial(expected.cast, power_of_2, groups),
            bits=16 + 8 * (by_rows + by_columns),
        )
    yield CastKernel(
        name="swiglu",
        choice=Choice("SWIGLU", rows=True, power_of_2=power_of_2),
        call=partial(q.swiglu, power_of_2=power_of_2),
        inputs=lambda g, m, k: _normal(g, m, k) + _normal(g, m, k),
        out=q.empty_rows,
        reads=lambda gate, up: [TensorRows(gate, 0), TensorRows(up, 0)],
        writes=_as_rows,
        expects=partial(expected.swiglu, power_of_2),
        bits=40,
    )
    yield CastKernel(
        name="requantise",
        choice=Choice("E4M3", columns=True, power_of_2=power_of_2),
        call=partial(q.requantise, power_of_2=power_of_2),
        inputs=lambda g, m, k: tuple(q.rows(_normal(g, m, k)[0], power_of_2)),
        out=_empty_columns,
        reads=lambda codes, scales: _as_rows(q.QuantisedTensor(codes, scales)),
        writes=_as_columns,
        expects=partial(expected.requantised, power_of_2),
        bits=16,
    )


def _normal(generator: Any, m: int, k: int) -> tuple[Any, ...]:
    import torch

    return (torch.randn(m, k, generator=generator, device=generator.device, dtype=torch.bfloat16),)


def _any_order(generator: Any, m: int) -> tuple[Any, ...]:
    import torch

    return (torch.randperm(m, generator=generator, device=generator.device).to(torch.int32),)


def _empty_columns(m: int, k: int) -> Any:
    return q.empty_rows(k, m)


def _empty_bf16(m: int, k: int) -> Any:
    import torch

    return torch.empty(m, k, device=layout.DEVICE, dtype=torch.bfloat16)


def _pair(*functions: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
    return lambda m, k: tuple(function(m, k) for function in functions)


def _two(
    first: Callable[[Any], list[TensorRows]], second: Callable[[Any], list[TensorRows]]
) -> Callable[[Any], list[TensorRows]]:
    return lambda out: first(out[0]) + second(out[1])


def _as_rows(out: Any) -> list[TensorRows]:
    return [TensorRows(out.codes, 0), TensorRows(out.scales, 1)]


def _as_columns(out: Any) -> list[TensorRows]:
    return [TensorRows(out.codes, 1), TensorRows(out.scales, 0, 128)]


def _as_blocks(out: Any) -> list[TensorRows]:
    return [TensorRows(out.codes, 0), TensorRows(out.scales, 0, 128)]


def _as_blocks_turned(out: Any) -> list[TensorRows]:
    return [TensorRows(out.codes, 1), TensorRows(out.scales, 1, 128)]


# -- peers -----------------------------------------------------------------------------------------------------------


def _peers(m: int, k: int) -> Iterator[Case]:
    """Yield the plain formulation under torch.compile."""
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

    def launch(x: CastOperands) -> None:
        out[id(x)] = _compile(function)(*x.inputs)

    def check(x: CastOperands) -> float:
        codes, scales = out[id(x)][:2]
        wide = scales.T.repeat_interleave(128, dim=1)
        reference = x.inputs[0].double()
        if len(x.inputs) == 2:
            reference = reference.sigmoid() * reference * x.inputs[1].double()
        return relative_error(codes.double() * wide, reference, 0.05)

    return Case(
        kernel=f"quantise.{name}",
        implementation="torch.compile",
        variant="peer",
        shape={"m": m, "k": k},
        flops=0,
        least_bytes=m * k * bits // 8,
        prepare=lambda generator: CastOperands(inputs(generator), None),
        launch=launch,
        check=check,
        notes="the plain formulation under torch.compile; allocates its output",
    )
