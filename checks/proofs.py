"""Faults planted in the hardware generator: each is refuted by a proof, with operands whose D golden confirms to be another.

    python checks/proofs.py

Takes minutes. Writes proofs.json here: by fault and unit the blocks refuted and the operands. Where a unit has no such block,
or no operands reach the fault, it is proved, or refuted without operands; every fault must be confirmed in one unit.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import pytest
from planted import ARITHMETIC, PLANTED, SMALL, SMALL_IN_TWO, SMALL_SCALED, TWO_REGISTERS, plant

from codesign.commit import commit
from codesign.evidence.cost.proof.unit_proof import prove
from isa_model.output_files import write_file

ROOT = Path(__file__).resolve().parents[1]
UNITS = {"small": SMALL, "small, scaled": SMALL_SCALED, "small, two registers": SMALL_IN_TWO}


def main() -> int:
    """Prove all units without a fault and with each, and return whether a fault stayed unconfirmed."""
    record: dict[str, dict[str, object]] = {}
    faults = {"none": None, **PLANTED, **ARITHMETIC, **TWO_REGISTERS}
    missed = []
    for name, fault in faults.items():
        for unit, spec in UNITS.items():
            with pytest.MonkeyPatch.context() as patch:
                if fault:
                    plant(patch, fault)
                start = time.perf_counter()
                found = prove(spec, 120)
            shown = found.counterexample.model_dump() if found.counterexample else None
            seconds = round(time.perf_counter() - start, 1)
            record.setdefault(name, {})[unit] = {"proof": found.words, "operands": shown, "seconds": seconds}
            print(f"{name}; {unit}: {found.words}{', confirmed' if shown else ''}, {seconds} s", flush=True)
        if fault and not any(r["operands"] for r in record[name].values()):  # type: ignore[index]
            missed.append(name)
        if not fault and any(r["proof"] != "proved" for r in record[name].values()):  # type: ignore[index]
            missed.append(name)
    write_file(ROOT / "checks/proofs.json", json.dumps({"commit": commit(), "faults": record}, indent=1) + "\n")
    print("unconfirmed: " + (", ".join(missed) or "none"))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
