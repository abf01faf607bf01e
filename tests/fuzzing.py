"""Damaged files through the commands that read them: `python tests/fuzzing.py [KIND...] [--mutants 100000] [--seed 0]`.

Each mutant goes through the command line in this process. It has to end with exit code 0, 1 or 2, without a traceback, within
two seconds; all of a kind together within 500 MB more than the imports take. A mutant that does not is printed with its seed,
and kept where --keep says.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT), str(ROOT / "tests")]

import mutators  # noqa: E402

SECONDS = 2.0
MEGABYTES = 500


@dataclass(frozen=True)
class Kind:
    """One kind of file: valid examples, a way to damage them, and the command that reads them, with `{}` for the file."""

    make: Callable[[], tuple[tuple[str, bytes], ...]]
    """Names and contents of valid examples; the name's ending matters."""
    damaged: Callable[[random.Random, bytes], bytes]
    command: str


def _texts(folder: str) -> tuple[tuple[str, bytes], ...]:
    return tuple((path.name, path.read_bytes()) for path in sorted((ROOT / folder).glob("*.yaml")))


def _yaml(rng: random.Random, source: bytes) -> bytes:
    return mutators.text(rng, source.decode())


def _json(rng: random.Random, source: bytes) -> bytes:
    return mutators.of_json(rng, source.decode())


def kinds() -> dict[str, Kind]:
    """Every kind of file that comes from outside."""
    return {
        "proposals": Kind(lambda: _texts("proposals"), _yaml, "validate {}"),
        "instructions": Kind(_instructions, _yaml, "show {}"),
        "recipes": Kind(lambda: _texts("codesign/proposal/recipes"), _yaml, "validate {}"),
        "tensors": Kind(_tensors, mutators.binary, "validate {}.yaml"),
        "recordings": Kind(_recordings, mutators.binary, "conform hopper --vectors {}"),
        "vectors": Kind(_vectors, _lines, "conform --vectors {}"),
        "results": Kind(_results, _json, "compare {} {}"),
    }


def _instructions() -> tuple[tuple[str, bytes], ...]:
    import yaml

    from isa_model.library import raw

    names = (
        "hopper.wgmma.m64n8k32.f32.e4m3.e4m3",
        "cdna3.mfma.16x16x16.f32.f16.f16",
        "ampere.mma.m16n8k16.f32.f16.f16.f32",
    )
    found = []
    for name in names:
        with contextlib.suppress(Exception):
            found.append((f"{name.split('.')[0]}.yaml", yaml.safe_dump(raw(name), sort_keys=False).encode()))
    return tuple(found)


def _tensors() -> tuple[tuple[str, bytes], ...]:
    import ml_dtypes
    import numpy as np

    from capture.tiles import write_safetensors

    rng = np.random.default_rng(0)
    arrays = {"x": rng.standard_normal((16, 24)).astype("f4"), "w": rng.standard_normal((8, 24)).astype("f4")}
    stored, packed = io.BytesIO(), io.BytesIO()
    np.savez(stored, **arrays)
    np.savez_compressed(packed, **arrays)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.safetensors")
        write_safetensors(path, {k: v.astype(ml_dtypes.bfloat16) for k, v in arrays.items()}, {"model": "m"})
        return (("t.safetensors", path.read_bytes()), ("s.npz", stored.getvalue()), ("p.npz", packed.getvalue()))


def _proposal(name: str) -> bytes:
    """Return a proposal on a layer with tensors from a file."""
    return (
        "proposal: p\ntitle: t\nsource: s\nbase: hopper.wgmma.m64n256k32.f32.e4m3.e4m3\n"
        f"layers: {{mine: {{file: {name}, activation: x, weight: w}}}}\nworkloads: [mine]\ntensors: [captured]\n"
        "claims: [{metric: numerics.total_error, at_most: 1}]\n"
    ).encode()


def _recordings() -> tuple[tuple[str, bytes], ...]:
    import numpy as np

    blocks = {"A": np.zeros((1, 2, 32), "u1"), "B": np.zeros((1, 2, 32), "u1")}
    blocks |= {"C": np.zeros((1, 2, 2), "f4"), "D": np.zeros((1, 2, 2), "f4")}
    arrays = {f"wgmma_e4m3_f32/zeros/1/{key}": value for key, value in blocks.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return (("r.npz", buffer.getvalue()),)


def _vectors() -> tuple[tuple[str, bytes], ...]:
    from isa_model.library import load
    from isa_model.vectors import vector_files as files
    from isa_model.vectors.make import make

    made = make(load("volta.mma.m8n8k4.f32.f16.f16.f32"), 700, 0)
    lines = list(files._lines(made, {**files._header(made), "vectors": 4}))[:5]
    return (("vectors.jsonl", ("\n".join(lines) + "\n").encode()),)


def _lines(rng: random.Random, source: bytes) -> bytes:
    """Vectors with a line damaged as JSON, or the lines as text."""
    if rng.random() < 0.3:
        return mutators.text(rng, source.decode())
    lines = source.decode().splitlines()
    at = rng.randrange(len(lines))
    lines[at] = mutators.of_json(rng, lines[at]).decode("utf-8", "replace")
    return "\n".join(lines).encode()


def _results() -> tuple[tuple[str, bytes], ...]:
    from codesign.evidence.sampling import Sampling
    from codesign.proposal.load import load_proposal
    from codesign.verdicts.evaluate import evaluate

    text = _proposal("t.npz").decode().replace("layers: {mine: {file: t.npz, activation: x, weight: w}}\n", "")
    text = text.replace("[mine]", "[mpnet-base.fprop.down]").replace("[captured]", "[normal]")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "p.yaml")
        path.write_text(text)
        result = evaluate(load_proposal(path), Sampling(rows=2, columns=2, seeds=(0,)))
    return (("result.json", result.model_dump_json().encode()),)


@cache
def healthy(kind: str) -> tuple[tuple[str, bytes], ...]:
    """Return the valid files of a kind."""
    return kinds()[kind].make()


def mutants(kind: str, count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Seed, file name and content of each mutant; the same for the same seed."""
    about = kinds()[kind]
    for i in range(count):
        key = f"{kind}/{seed}/{i}"
        rng = random.Random(key)
        name, content = rng.choice(healthy(kind))
        yield key, name, about.damaged(rng, content)


def peak() -> float:
    """Most memory that this process has had, in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fuzz(kind: str, count: int, seed: int = 0, keep: Path | None = None) -> tuple[Counter[int], list[str], float]:
    """Run mutants; return how often each exit code came, every fault in a sentence, and the longest time in seconds."""
    from codesign.__main__ import run

    codes: Counter[int] = Counter()
    faults: list[str] = []
    longest = 0.0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, content in healthy(kind):  # imports, caches, compiled engines
            Path(name).write_bytes(content)
            Path(f"{name}.yaml").write_bytes(_proposal(name))
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                run(kinds()[kind].command.replace("{}", name).split())
        before = peak()
        for key, name, content in mutants(kind, count, seed):
            Path(name).write_bytes(content)
            out, err = io.StringIO(), io.StringIO()
            begun = time.process_time()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run(kinds()[kind].command.replace("{}", name).split())
            took = time.process_time() - begun
            codes[code] += 1
            longest = max(longest, took)
            said = err.getvalue()
            wrong = [f"exit code {code}"] * (code not in (0, 1, 2)) + [f"{took:.1f} s"] * (took > SECONDS)
            wrong += ["a message of over 100 kB"] * (len(said) > 100_000)
            wrong += ["exit code 2 without a message"] * (code == 2 and not said)
            if wrong:
                faults.append(f"{key} ({name}): {', '.join(wrong)}: {said.strip().splitlines()[-1:]}")
                if keep:
                    (keep / key.replace("/", "-")).write_bytes(content)
        if (grown := peak() - before) > MEGABYTES:
            faults.append(f"{kind}: {grown:.0f} MB more than before")
    return codes, faults, longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(kinds())}; default: all")
    parser.add_argument("--mutants", type=int, default=100_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the mutants that found a fault")
    arguments = parser.parse_args()
    bad = 0
    for kind in arguments.kinds or kinds():
        codes, faults, longest = fuzz(kind, arguments.mutants, arguments.seed, arguments.keep)
        print("\n".join(faults[:50]), end="\n" * bool(faults))
        print(
            json.dumps({"kind": kind, "codes": dict(sorted(codes.items())), "faults": len(faults), "longest": longest})
        )
        bad += len(faults)
    sys.exit(int(bad > 0))


if __name__ == "__main__":
    main()
