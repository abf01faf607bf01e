"""Write every generated part of the committed pages again: `python pages`. Needs no GPU; takes some minutes.

timing_tables.py and cost_curves.py are run by themselves: they make records again, which name the commit that made them.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
COMMANDS = (
    ("reference.py",),
    ("kernel_tables.py",),
    ("communication.py",),
    ("reproduction.py", "--write"),
    ("tensor_tables.py",),
    ("console.py",),
    ("notebook.py",),
)
"""Scripts of this folder, with their arguments, in order."""

for name, *rest in COMMANDS:
    command = [sys.executable, str(FOLDER / name), *rest]
    print(" ".join(command[1:]), flush=True)
    if code := subprocess.run(command, cwd=FOLDER.parent, stdout=subprocess.DEVNULL, check=False).returncode:
        sys.exit(code)
