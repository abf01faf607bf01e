"""Progress of a long evaluation, reported in phases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

Phase = Callable[[str, int, int], None]
"""Callback that takes a phase's name, the number of parts done, and the number of parts (0: unknown)."""


class CountingExecutor(Executor):
    """An executor that reports how many of its submitted calls are done."""

    def __init__(self, executor: Executor, tell: Callable[[int, int], None]) -> None:
        self._executor, self._tell, self._lock = executor, tell, threading.Lock()
        self._done = self._all = 0

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        with self._lock:
            self._all += 1
        future = self._executor.submit(function, *args, **options)
        future.add_done_callback(self._count)
        return future

    def _count(self, _: Future[Any]) -> None:
        with self._lock:
            self._done += 1
            self._tell(self._done, self._all)
