"""Write the tables of docs/communication.md and of docs/timing.md that come from records of several GPUs."""

import subprocess
import sys
from pathlib import Path

from isa_model.output_files import put

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"exchange": "communication", "scaling": "communication", "expert-step": "timing"}
SCRIPTS = {
    f"{name}-x{gpus}": (f"benchmarks/{script}.py", f"kernels/records/{name}-h200-x{gpus}.json")
    for name, script in (("exchange", "exchange"), ("expert-step", "expert_step"), ("scaling", "scaling"))
    for gpus in (4, 2)
}


def tables(script: str, record: str) -> str:
    """Return the tables that a script shows of a record."""
    command = [sys.executable, script, "--show", record]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Write the tables of both pages."""
    for name, script in SCRIPTS.items():
        put(ROOT / "docs" / f"{PAGES[name.rpartition('-')[0]]}.md", name, tables(*script))


if __name__ == "__main__":
    main()
