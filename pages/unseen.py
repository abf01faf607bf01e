"""The timing model on a GPU that it was not fitted to: predictions first, then their errors in docs/timing.md.

    python pages/unseen.py predict "NVIDIA H200" pages/predictions/h200.json
    python pages/unseen.py compare pages/predictions/h200.json kernels/records/bench-h200.json

`predict` combines the constants that microbenchmarks measured on the new GPU (kernels/records/machine-*.json) with constants
fitted to another GPU, and writes the time of every case of the other GPU's bench. Its file is committed before the bench runs
on the new GPU. `compare` reads both and writes the errors into docs/timing.md. Neither needs a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from timing_fit import Sample, errors, samples, speedups
from timing_tables import errors_table

from codesign.evidence.timing import machine_constants, ratio_errors, records
from codesign.evidence.timing.measured import benches
from codesign.evidence.timing.model import time
from isa_model.checkout import commit_of
from isa_model.output_files import put
from isa_model.stage import Spec
from kernels.bench.records import read
from kernels.bench.records import save as save_lines

PAGE = Path(__file__).parent.parent / "docs" / "timing.md"


class Predicted(Spec):
    """Predicted time of one case."""

    kernel: str
    implementation: str
    shape: tuple[int, ...]
    us: float


class Prediction(Spec):
    """Predicted times of the bench on one GPU."""

    gpu: str
    date: str
    commit: str
    machine: str
    """Record of the GPU's measured constants."""
    fitted_to: str
    """GPU and record that the fitted constants come from."""
    rows: tuple[Predicted, ...]


def predict(gpu: str) -> Prediction:
    """Predict the time on `gpu` of every case of another GPU's newest bench. Raises LookupError without constants of `gpu`."""
    about = machine_constants.shipped()[gpu]
    record = next(found for name, found in benches().items() if name != gpu)
    fitted = records.shipped()[record.gpu]
    chip = machine_constants.machine(about)
    return Prediction(
        gpu=gpu,
        date=datetime.now(UTC).date().isoformat(),
        commit=commit_of("codesign/evidence/timing", "kernels"),
        machine=f"{about['name']}, commit {about['commit']}, {about['date']}",
        fitted_to=f"{fitted.gpu}: {fitted.bench}",
        rows=tuple(
            Predicted(
                kernel=s.kernel,
                implementation=s.implementation,
                shape=s.shape,
                us=round(time(s.operation, chip, fitted.constants).total, 3),
            )
            for s in samples(record)
        ),
    )


def compare(prediction: Prediction, path: Path) -> Mapping[Sample, float]:
    """Return predicted over measured time of every case that both have. Raises InputError if the file is not a record."""
    wanted = {(r.kernel, r.implementation, r.shape): r.us for r in prediction.rows}
    seen = samples(read(path))
    return {s: wanted[key] / s.us for s in seen if (key := (s.kernel, s.implementation, s.shape)) in wanted}


def _table(prediction: Prediction, ratios: Mapping[Sample, float]) -> Iterator[str]:
    """Yield the errors of a prediction, a line per kernel."""
    yield (
        f"{prediction.gpu}, predicted {prediction.date} from {prediction.machine}; the other constants were fitted to "
        f"{prediction.fitted_to}. {len(ratios)} of {len(prediction.rows)} cases have a measured time."
    )
    yield f"\n{errors_table(errors(ratios))}"
    known = ratio_errors.shipped().on_others(prediction.gpu)
    found = speedups(ratios, prediction.gpu)
    ends = [(r, known.of_model(r.pair)) for r in found]
    inside = sum(low <= r.measured / r.modelled <= high for r, (low, high) in ends)
    yield f"\nOf ratios of two kernels, {inside} of {len(found)} lie in the intervals found on other chips' rows alone."


def main() -> None:
    """Predict, or compare a prediction with a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("predict")
    first.add_argument("gpu")
    first.add_argument("file", type=Path)
    second = commands.add_parser("compare")
    second.add_argument("file", type=Path)
    second.add_argument("record", type=Path)
    given = parser.parse_args()
    if given.command == "predict":
        given.file.parent.mkdir(exist_ok=True)
        save_lines(predict(given.gpu), given.file)
        return
    prediction = Prediction.model_validate_json(given.file.read_text())
    ratios = compare(prediction, given.record)
    table = "\n".join(_table(prediction, ratios))
    print(table)
    put(PAGE, "unseen", table)


if __name__ == "__main__":
    main()
