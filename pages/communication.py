"""Write the tables of docs/communication.md from the records of benchmarks/exchange.py and benchmarks/scaling.py."""

import subprocess
import sys
from pathlib import Path

from isa_model.output_files import put

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "communication.md"
SCRIPTS = {
    "exchange": ("benchmarks/exchange.py", "kernels/records/exchange-h200-x2.json"),
    "scaling": ("benchmarks/scaling.py", "kernels/records/scaling-h200-x2.json"),
}


def tables(script: str, record: str) -> str:
    """Return the tables that a script shows of a record."""
    command = [sys.executable, script, "--show", record]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Write both parts of the page."""
    for name, script in SCRIPTS.items():
        put(PAGE, name, tables(*script))


if __name__ == "__main__":
    main()
