"""Processes that end with the process that started them, even if that one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from isa_model.diagnostics import Unavailable

_WORKER_ENVIRONMENT = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1"),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 27),
}
"""Environment of workers. BLAS has one thread, so that threads do not compete. glibc keeps up to 128 MiB of freed memory for
the next arrays: page faults of fresh memory would take 5 % of an evaluation's time."""

_KEEPER = """
import os, signal, subprocess, sys, threading
if hasattr(os, "setpgid"):
    os.setpgid(0, 0)
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def watch():
    os.read(0, 1)  # returns when the pipe's other end is closed
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    child.kill()
threading.Thread(target=watch, daemon=True).start()
code = child.wait()
sys.exit(code if code >= 0 else 128 - code)
"""
"""Program that runs a command in a process group of its own, and kills the group when its starter is gone. A thread within
the command would not do: Yosys holds the interpreter's lock for minutes, and starts abc."""


_starting = threading.RLock()


class _Worker(SpawnProcess):
    """A process with the environment of workers."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _starting, _of_workers():
            return SpawnProcess._Popen(process_obj)


class _Stranger(_Worker):
    """A worker that does not import the program of its starter."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        # `spawn` tells a new process to import what is `__main__` here, which would run a script without a main guard again.
        with _starting:
            program = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            try:
                return _Worker._Popen(process_obj)
            finally:
                sys.modules["__main__"] = program


class _WorkerContext(SpawnContext):
    Process = _Worker


class _StrangerContext(SpawnContext):
    Process = _Stranger


@contextmanager
def _of_workers() -> Iterator[None]:
    """Give processes that start the environment of workers."""
    before = {name: os.environ.get(name) for name in _WORKER_ENVIRONMENT}
    os.environ.update(_WORKER_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Pool(ProcessPoolExecutor):
    """A pool whose workers start with Ctrl-C blocked: before `_set_up` ignores it, they would print a traceback."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            return super().submit(function, *args, **options)
        resource_tracker.ensure_running()  # its start would end the blocking
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(function, *args, **options)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of one thread per core, for work that compiled code does. After an error no further call starts."""
    executor = ThreadPoolExecutor(cores())
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


@contextmanager
def pool(workers: int | None = None, main: bool = False) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes (default: one per core).

    Processes do not import the program that runs, so that a notebook or a script without a main guard may call this.
    With `main` they do: they can then call functions of the program, which needs a guard.
    Raises Unavailable if one of the processes is killed.
    """
    context = _WorkerContext() if main else _StrangerContext()
    executor = _Pool(workers or cores(), context, initializer=_set_up)
    try:
        yield executor
    except KeyboardInterrupt:
        with _no_interrupts():  # another Ctrl-C would leave workers alive
            running = list(executor._processes.values())
            executor.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.kill()  # nobody waits for what it computes
        raise
    except BrokenProcessPool:
        raise Unavailable(
            "a worker process was killed, probably for lack of memory; close other programs, or ask for less"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C in the block, in the main thread, where alone it arrives."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _set_up() -> None:
    """Set up a worker: ignore Ctrl-C, end with the parent, and collect garbage seldom, which would take 2 % of the time."""
    import gc
    import multiprocessing

    gc.set_threshold(50_000, 50, 50)

    # Ctrl-C reaches every process of a terminal, but only the parent reports it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run(command: Sequence[str], folder: Path, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder and return what it printed; it and the processes it starts end with this process.

    Their temporary files go into `folder` too, since a killed process removes none. Raises subprocess.TimeoutExpired after
    `seconds`, when all of them have ended.
    """
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _KEEPER, *command],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(reading)
    try:
        out, errors = process.communicate(timeout=seconds)
    finally:
        os.close(writing)
        process.wait()
    return subprocess.CompletedProcess(list(command), process.returncode, out, errors)
