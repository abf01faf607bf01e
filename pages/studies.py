"""The pages and tables of the shipped studies: `python pages/studies.py [NAME...]`.

Explores the spaces of studies/ into codesign-explore/, which git ignores; its results are used again. A study takes minutes
on two cores. The pages are static, so that they stay small; the findings at their top are those of the space files.
"""

import shutil
import sys
from pathlib import Path

from codesign.__main__ import run

STUDIES = Path(__file__).resolve().parent.parent / "studies"


def main(names: list[str]) -> int:
    """Explore the studies named, or all."""
    sys.modules["vl_convert"] = None  # type: ignore[assignment]  # a page without Vega is static
    for file in sorted(STUDIES.glob("*.yaml")):
        if not names or file.stem in names:
            if code := run(["explore", str(file)]):
                return code
            for made in ("index.html", "table.parquet"):
                shutil.copy(Path("codesign-explore") / file.stem / made, STUDIES / file.stem / made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
