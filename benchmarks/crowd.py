"""Many plain workers on one folder: light processes that claim, wait, write and release, as those of a cluster do."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codesign.explore.run import ALONE, fulfil
from codesign.explore.store import Store

ROWS = [["deepseek-v3.wgrad.o", "normal", 0.123456, 0.1, 0.2, "computed", "as long as the source of a figure is " * 4]]
"""Readings as long as those of a task."""
EACH = 3
"""Batches for each worker."""
BATCH = 32


def crowd(workers: int, seconds: float) -> dict[str, Any]:
    """Let workers compute batches that take `seconds`; return how long they took, and what each batch cost beside its work."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from toy_space import Empty

    tasks = [Empty(f"{i:064x}") for i in range(workers * EACH * BATCH)]
    with tempfile.TemporaryDirectory() as root:
        begin = time.time() + 2 + workers / 100
        children = [_forked(lambda i=i: _worker(Path(root), i, tasks, seconds, begin)) for i in range(workers)]  # type: ignore[misc]
        for child in children:
            os.waitpid(child, 0)
        found = [json.loads(path.read_text()) for path in Path(root).glob("*.worker")]
        held = [Path(root, "points", f"{i}.claim") for i in range(10_000)]
        for path in held:
            path.touch()
        beats = time.perf_counter()
        for path in held:
            os.utime(path)
        beats = time.perf_counter() - beats
    batches, computed = workers * EACH, sum(f["computed"] for f in found)
    return {
        "part": "crowd",
        "workers": workers,
        "batches": batches,
        "computed_twice": computed - batches,
        "seconds": round(max(f["end"] for f in found) - begin, 1),
        "of_work": EACH * seconds,
        "claims_tried_per_batch": round(sum(f["claims"] for f in found) / computed, 1),
        "milliseconds_per_batch": round(1000 * sum(f["processor"] for f in found) / computed, 1),
        "seconds_for_10,000_heartbeats": round(beats, 2),
        "load": round(os.getloadavg()[0], 1),
    }


def _forked(what: Any) -> int:
    """Run something in a copy of this process, which costs less than one that starts anew; return its id."""
    child = os.fork()
    if child:
        return child
    try:
        what()
    finally:
        os._exit(0)


def _worker(folder: Path, number: int, tasks: Sequence[Any], seconds: float, begin: float) -> None:
    """Compute batches as a plain worker from a time on, and write what that took."""
    own, count = Store(folder, keys_only=True), {"computed": 0, "claims": 0}
    claim = own.claim

    def counted(batch: str) -> bool:
        count["claims"] += 1
        return claim(batch)

    def waiting(batch: Sequence[Any]) -> list[dict[str, Any]]:
        count["computed"] += 1
        time.sleep(seconds)
        return [{"key": task.key, "readings": {"numerics.relative_frobenius": ROWS}} for task in batch]

    own.claim = counted  # type: ignore[method-assign]
    time.sleep(max(begin - time.time(), 0.0))
    before = time.process_time()
    fulfil(own, tasks, ALONE, by=waiting, size=BATCH)
    spent = {"processor": time.process_time() - before, "end": time.time()}
    (folder / f"{number}.worker").write_text(json.dumps({**count, **spent}))
