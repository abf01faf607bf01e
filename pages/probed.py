"""The figures of docs/probe.md, from records of benchmarks/probe.py, probe_live.py, rivals.py and checks/recordings.py."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from codesign.figures.markdown import table

RECORD = "benchmarks/records/probe.json"
KINDS = {
    "catalogue": "instructions of the catalogue, one of each kind of sums",
    "random": "random specs of the language",
    "outside": "boxes outside the language",
}
OUTCOMES = ("same spec", "same bits", "listed", "open", "refused", "wrong")


def outcome(row: dict[str, Any]) -> str:
    """Return what became of a box: `listed` if outputs differ in fields alone that the certificate lists as not told apart."""
    return "listed" if row["outcome"] == "wrong" and not row["unlisted"] else str(row["outcome"])


def probed_text() -> str:
    """Return a row for each kind of box: how many, what was found, questions and seconds of processor time."""
    record = json.loads((Path(__file__).resolve().parent.parent / RECORD).read_text())
    outcomes = ": | ".join(OUTCOMES)
    head = f"boxes | number: | {outcomes}: | outputs compared: | questions (median): | seconds (median):"
    made = []
    for kind, about in KINDS.items():
        rows: list[dict[str, Any]] = [row for row in record["rows"] if row["kind"] == kind]
        if not rows:
            continue
        counts = [sum(outcome(row) == each for row in rows) for each in OUTCOMES]
        middles = [f"{median(found):,.0f}" if (found := [r[n] for r in rows if n in r]) else "" for n in COUNTED]
        outputs = f"{min(found):,}" if (found := [row["outputs"] for row in rows if "outputs" in row]) else ""
        made.append([about, len(rows), *counts, outputs, *middles])
    lines = [table(head, made), ""]
    for kind in KINDS:
        if run := record["runs"].get(kind):
            boxes = sum(row["kind"] == kind for row in record["rows"])
            lines.append(
                f"- {kind}, {boxes} of {run['boxes']}: {run['date']}, commit {run['commit']}, `{run['command']}`"
            )
    lines += ["", f"[Record](../{RECORD}). "]
    same = [row for row in record["rows"] if row["outcome"] == "same bits"]
    listed = sum(not row.get("unlisted", True) for row in same)
    lines[-1] += f"Of the {len(same)} with the same bits, the certificates of {listed} list every field that differs."
    unlike = [row["unlike"] for row in record["rows"] if outcome(row) == "listed"]
    if unlike:
        lines[-1] += f" Of the outputs of a *listed* box, at most {max(unlike)} differ."
    lines[-1] += _open_text([row for row in record["rows"] if row["kind"] == "random"])
    outside = [
        [row[name] for name in ("name", "outcome", "reason")] for row in record["rows"] if row["kind"] == "outside"
    ]
    if outside:
        lines += ["", table("box outside the language | verdict | reason", outside)]
    return "\n".join(lines)


COUNTED = ("questions", "processor_s")


def _open_text(rows: list[dict[str, Any]]) -> str:
    """Return for how many random specs the time was too short, by their stages and K."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
    from random_specs import random_specs

    specs = random_specs(len(rows))
    left = [specs[int(row["name"])] for row in rows if row["outcome"] == "open"]
    if not left:
        return ""
    by_stages = [[sum(len(spec.stages) == n for spec in some) for some in (left, specs)] for n in (1, 2, 3)]
    (one, of_one), (two, of_two), (three, of_three) = by_stages
    long = sum(spec.shape.k >= 32 for spec in left)
    return (
        f" The time was too short for {one} of the {of_one} random specs with one stage, {two} of the {of_two} with two and "
        f"{three} of the {of_three} with three; {long} of these {len(left)} have a K of 32 or more."
    )


LIVE = "kernels/records/probe_h200.json"


def live_text() -> str:
    """Return what a live probe found: instructions by their operands, and the sums of the library's GEMM."""
    record = json.loads((Path(__file__).resolve().parent.parent / LIVE).read_text())
    instructions = [row for row in record["rows"] if row["name"].startswith("hopper.")]
    made = []
    for operands, names in LIVE_KINDS.items():
        rows = [row for row in instructions if row["name"].replace(".sp.", ".").split(".")[4] in names]
        found = [row for row in rows if row["verdict"] not in ("open", "refused")]
        same = sum(row["same_spec_as_catalogue"] for row in found)
        wrong = sum(row["unlike_catalogue"] > 0 for row in found)
        made.append((operands, len(rows), same, len(found) - same - wrong, len(rows) - len(found), wrong))
    lines = [
        table("operands | instructions: | same spec: | same bits: | refused: | wrong:", made),
        "",
        f"{record['gpu']}, {record['date']}, commit {record['commit']}: [record](../{LIVE}). As a whole GEMM:",
        "",
    ]
    for row in record["rows"]:
        if row not in instructions:
            refused = f"{row['verdict']}; nearest is " if row["verdict"] in ("open", "refused") else ""
            lines.append(f"- `{row['name']}`: {refused}" + ", then ".join(map(_stage, row["spec"]["stages"])) + ".")
    return "\n".join(lines)


RIVALS = "benchmarks/records/rivals.json"


def rivals_text() -> str:
    """Return how many pairs of specs a directed search tells apart, and how many plain questions do."""
    record = json.loads((Path(__file__).resolve().parent.parent / RIVALS).read_text())
    pairs, found, quick = (record[name] for name in ("known_to_differ", "directed", "plain_in_equal_time"))
    missed = pairs - found
    fields = ", ".join(f"`{name}` {count}" for name, count in record["missed_fields"].items())
    both = sum(row["directed"] and row["plain"] for row in record["rows"])
    hidden, passed = missed - record["missed_though_shown"], record["missed_by_last_check_too"]
    return " ".join(
        [
            f"How often a directed search misses a difference was measured on {record['specs']} random specs and their",
            f"neighbours one field away. {pairs} pairs give the same answers to a probe's first 3,000 questions, but can",
            f"differ. The search told {found} of them apart ({100 * found / pairs:.0f} %), among them {both} of the",
            f"{record['plain']} that 100,000 plain questions told apart; in the same time as the search, plain questions told",
            f"{quick} apart.",
            f"Of the {missed} that it missed ({fields}), {hidden} differ in no inner sum, and {passed} would pass a last check",
            "of 20,000 questions, too. Pairs count if one of these searches, or a longer one, told them apart; others may",
            "differ, too.",
            f"({record['date']}, commit {record['commit']}, `{record['command']}`, [record](../{RIVALS}))",
        ]
    )


RECORDED = "checks/recordings_probed.json"


def recorded_text() -> str:
    """Return what specs fitted to recordings by others have in common with the catalogue."""
    record = json.loads((Path(__file__).resolve().parent.parent / RECORDED).read_text())
    rows = record["rows"]
    *gpus, last = dict.fromkeys(row["file"].split("/")[0] for row in rows)
    found = [row for row in rows if row["verdict"] in ("determined", "ambiguous")]
    unlike, unlisted = (sum(row[name] > 0 for row in found) for name in ("unlike", "mismatches"))
    left = Counter(name.split(".")[-1] for row in found for name in row["open_fields"]).most_common(4)
    names = ", ".join(f"`{name}` ({count})" for name, count in left)
    return " ".join(
        [
            f"`{record['command']}` fits specs to outputs that others recorded on {', '.join(gpus)} and {last}, 5,000 a file,",
            f"given only formats and sizes. {len(found)} of {len(rows)} files have a spec that gives every answer. On 20,000",
            f"other questions {unlike} of these specs differ from the catalogue's instruction, {unlisted} of them in a field",
            f"that the certificate does not list as open, alone or with others. Fields most often open, by stage: {names}.",
            f"({record['date']}, commit {record['commit']}, [record](../{RECORDED}))",
        ]
    )


LIVE_KINDS = {
    "E4M3, E5M2": ("e4m3", "e5m2"),
    "FP16": ("f16",),
    "BF16, TF32": ("bf16", "tf32"),
    "FP64": ("f64",),
    "integers": ("s8", "u8", "s4", "u4"),
}


def _stage(stage: dict[str, Any]) -> str:
    """Return a stage of a spec in a few words."""
    bits = f", cut to {stage['fraction_bits']} fraction bits" if "fraction_bits" in stage else ""
    chain = f", {stage['chain']} times without C" if "chain" in stage else ""
    into = ", then ".join(f"{register['format']} {register['rounding']}" for register in stage.get("result", ()))
    term = "term" if stage["terms"] == 1 else "products"
    running = " and what was summed before" if stage.get("accumulator") else ""
    return f"{stage['terms']} {term}{running}{bits}{chain}, {f'into {into}' if into else 'unrounded'}"
