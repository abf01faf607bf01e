"""CUDA text to machine code by NVRTC, and its launch on torch's stream; needs the extra `kernels` and an NVIDIA GPU."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np


class NoGpu(ValueError):
    """This machine cannot run the GPU engine."""


@cache
def import_torch() -> Any:
    """Return torch. Raises NoGpu without it, or without an NVIDIA GPU."""
    try:
        import torch
    except ImportError as error:
        raise NoGpu("the GPU engine needs the extra `kernels` (torch, cuda-core)") from error
    if not torch.cuda.is_available():
        raise NoGpu("no NVIDIA GPU is visible here")
    return torch


@cache
def cuda() -> Any:
    """Return the CUDA driver's library. Raises OSError where there is no driver."""
    return ctypes.CDLL("libcuda.so.1")


def check(code: int, what: str) -> None:
    """Raise RuntimeError with `what` was tried and the driver's reason, unless `code` (CUresult) is success."""
    if code:
        text = ctypes.c_char_p()
        cuda().cuGetErrorString(code, ctypes.byref(text))
        raise RuntimeError(f"{what}: {(text.value or b'?').decode()} (CUDA error {code})")


def load(code: bytes, name: str) -> ctypes.c_void_p:
    """Return a function of machine code, usable on every GPU. Raises RuntimeError with the driver's reason."""
    library, function = ctypes.c_void_p(), ctypes.c_void_p()
    check(cuda().cuLibraryLoadData(ctypes.byref(library), code, None, None, 0, None, None, 0), "loading a kernel")
    check(cuda().cuLibraryGetKernel(ctypes.byref(function), library, name.encode()), "loading a kernel")
    return function


@cache
def kernel(text: str, name: str = "run") -> ctypes.c_void_p:
    """Return a kernel of a CUDA file, compiled once."""
    return load(bytes(compiled(text).code), name)


def compiled(text: str) -> Any:
    """Return the machine code (a cubin) of a CUDA file, by NVRTC; needs no GPU."""
    try:
        from cuda.core import Program, ProgramOptions
    except ImportError as error:
        raise NoGpu("the GPU engine needs the extra `kernels` (torch, cuda-core)") from error
    return Program(text, "c++", ProgramOptions(arch="sm_90a", std="c++17", fma=False)).compile("cubin")


def launch(
    kernel: ctypes.c_void_p, grid: tuple[int, int], threads: int, sizes: tuple[Any, ...], arrays: list[Any]
) -> None:
    """Launch a kernel on torch's stream. Sizes have 32 bits unless they are np.int64; a missing array is a null pointer."""
    torch = import_torch()
    values: list[Any] = [(ctypes.c_int64 if isinstance(x, np.int64) else ctypes.c_int32)(int(x)) for x in sizes]
    values += [ctypes.c_void_p(None if x is None else x.data_ptr()) for x in arrays]
    pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    code = cuda().cuLaunchKernel(kernel, *grid, 1, threads, 1, 1, 0, stream, pointers, None)
    check(code, "launching a kernel")
