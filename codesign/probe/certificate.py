"""The certificate: the spec fitted to a box, what decided each field, what no question could show, and a log to replay."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from typing import Any

import numpy as np
import yaml

from codesign.probe.box import Box, Ended, Lines, Recorded, Refusal, Session
from codesign.probe.exchange import question_text
from codesign.probe.fit import Fit
from codesign.probe.hypotheses import Data, Path, at, key_of
from codesign.probe.questions import DIRECTED
from codesign.probe.scoring import Scored
from isa_model.engines.plan import Plan, Unsupported, aligned_to
from isa_model.instruction import Instruction
from isa_model.stimulus import KINDS

EXPERIMENTS = {
    **{name: (build.__doc__ or "").strip() for name, build in DIRECTED.items()},
    "alone": "C alone over all its codes, with products that are zeros of either sign.",
    "zeros": "Zeros of either sign with the smallest numbers and a few others.",
    **{name: f"At random: {text}." for name, text in KINDS.items()},
    "orders": "Products near each other, of which an exchange changes D.",
    "sums": "Products near each other, of which an exchange does not change D.",
    "variations": "Variations of questions that the best spec so far did not explain.",
    "disagreement": "Questions on which hypotheses that explained all answers so far give different ones.",
    "directed": "Questions found by a directed search on which the spec and one of its rivals differ.",
    "last check": "Questions of every kind, answered otherwise than the spec or one of its rivals says.",
    "recorded": "Recorded vectors.",
}
"""What each experiment asks, by its name."""


@dataclass(frozen=True)
class Decided:
    """One field of the spec, and what other values would have given."""

    field: str
    """Path of the field."""
    value: Any
    """Value in the spec; None for the default."""
    excluded: tuple[dict[str, Any], ...]
    """Other values, each with a question, the box's answer and the answer that the value would have given."""
    alike: tuple[dict[str, Any], ...]
    """Other values that no question told from this one, each with the reason."""


@dataclass(frozen=True)
class Certificate:
    """What a probe found out about a box."""

    verdict: str
    """`determined`: every other value tried is excluded. `ambiguous`: no question tells some apart, which are listed. `open`:
    the time ended first. `refused`: no spec that the search reaches gives the answers, or they vary."""
    spec: Instruction | None
    """The simplest spec that gives every answer; without one, the nearest."""
    hypothesis: Data
    fields: tuple[Decided, ...]
    reason: str
    """Why the probe refused, or what its time left open; otherwise empty."""
    witness: dict[str, Any] | None
    """The smallest operands that the nearest spec does not explain, with both answers; or two answers to one question."""
    counts: dict[str, Any]
    """Questions asked, rounds, answers kept, outputs of the last check, hypotheses run, seconds of processor time."""
    log: dict[str, Any]
    """Every question kept, with its experiment and answer."""
    sparse: Data
    """Fields that a sparse instruction has beside those of its dense part, `spec`; none for a dense one."""
    nans: tuple[int, ...]
    """Codes of the box's NaNs, at most two."""

    @property
    def text(self) -> str:
        """The spec as YAML, ready for a file that `codesign` reads."""
        if self.spec is None:
            return ""
        data = self.spec.model_dump(mode="json", exclude_defaults=True) | self.sparse
        kept, last = self.counts["kept"], self.counts["checked"]
        checked = f"{kept} answers, all given by this spec; {last} outputs of a last check."
        if self.verdict in ("open", "refused"):
            nearest = "This is the nearest spec, not the box's." if self.witness else "It is not certified."
            checked = f"{self.verdict.upper()}: {self.reason}. {nearest}"
        if self.several_nans:
            checked += f" {self.several_nans}."
        about = {"source": "Fitted to a black box by `codesign probe`.", "checked": checked}
        return yaml.safe_dump(data | about, sort_keys=False, width=100, default_flow_style=None)

    @property
    def several_nans(self) -> str:
        """Sentence on NaNs of several codes, which count as one; empty if there are none."""
        if len(self.nans) < 2:
            return ""
        codes = " and ".join(map(hex, self.nans))
        return f"NaNs have several codes, as {codes}, which the language cannot say: they count as one"

    @property
    def partial_sums(self) -> str:
        """What a spec does with partial sums along K, in words, as software around an instruction does: promotion, split K."""
        stages = list(self.spec.stages.values()) if self.spec else []
        first = next((i for i, stage in enumerate(stages[:-1]) if (stage.chain or 1) > 1), None)
        if self.spec is None or first is None:
            return ""
        span = self.spec.products_per_result(first)
        said, left = [f"partial sums of {span} products start from zero"], self.spec.stored_k // span
        for stage in stages[first + 1 :]:
            last = stage is stages[-1]
            if stage.terms == 1 and not stage.accumulator:
                continue  # a register alone
            blocks, chain = left // stage.terms, left // stage.terms if last else stage.chain or 1
            how = f"{stage.terms} at once" if stage.terms > 1 else ""
            if chain > 1:
                how = f"{how}, one after the other" if how else "one after the other"
            what = "C is added" if last and left == 1 else f"they are added{' to C' if last else ''}"
            into = f" in {stage.result[-1].format.name} {stage.result[-1].rounding}" if stage.result else ""
            said.append(f"{what} {how}{into}".replace("  ", " "))
            left = blocks // chain
        return "; ".join(said)

    def json(self) -> str:
        """Return the certificate as JSON, without the log."""
        data = {
            "verdict": self.verdict,
            "reason": self.reason,
            "witness": self.witness,
            "counts": self.counts,
            "partial_sums": self.partial_sums,
            "several_nans": self.several_nans,
            "fields": [vars(x) for x in self.fields],
            "experiments": EXPERIMENTS,
            "spec": self.spec.model_dump(mode="json", exclude_defaults=True) | self.sparse if self.spec else None,
        }
        return json.dumps(data, indent=1) + "\n"


def probe(box: Box, seconds: float = 60.0, outputs: int = 20_000, seed: int = 0) -> Certificate:
    """Fit a spec to a box, and say what decided it.

    `seconds` of processor time bound the search, `outputs` the questions of the last check; a seed repeats the questions.
    """
    began = process_time()
    session = Session(box)
    fit = Fit(session, seconds, seed)
    found: Scored | None = None
    reason, checked, ended = "", 0, False
    try:
        if isinstance(box, Recorded):
            session.nans = list(box.nans)
            session.keep(["recorded"] * len(box.d), box.recorded, box.d)
            found = fit.settle()
        else:
            fit.ask_all()
            found, checked = fit.solve(outputs)
            reason, ended = fit.ended, bool(fit.ended)
    except Refusal as refusal:
        reason, ended, found = str(refusal), isinstance(refusal, Ended), None
    nearest = found or fit.best
    if nearest and not found and session.conflict is None:
        try:
            fit.verify(np.flatnonzero(nearest.wrong)[:256])
        except Refusal as refusal:
            reason, ended = str(refusal), False
    fields = decided(fit, found) if found else ()
    witness = None if found else (_conflict(fit) or _witness(fit, nearest))
    counts = {
        "questions": session.asked,
        "rounds": session.rounds,
        "kept": len(session.experiments),
        "checked": checked,
        "hypotheses": fit.tried,
        "processor_s": round(process_time() - began, 1),
        "seed": seed,
    }
    verdict = "ambiguous" if any(x.alike for x in fields) else "determined"
    if ended or not found:
        verdict = "open" if ended else "refused"
    spec, hypothesis = (nearest.spec, nearest.hypothesis) if nearest else (None, {})
    log, sparse, nans = _log(session), _sparse(box, spec), tuple(session.nans)
    return Certificate(verdict, spec, hypothesis, fields, reason, witness, counts, log, sparse, nans)


def _sparse(box: Box, spec: Instruction | None) -> Data:
    """Return the shape, sparsity and scales of the sparse instruction of a box, of which a spec is the dense part."""
    sparse = box.signature.sparse
    if sparse is None or spec is None:
        return {}
    data = sparse.model_dump(mode="json", exclude_defaults=True, include={"shape", "sparsity", "scale"})
    if spec.scale and "scale" in data:
        own = spec.scale.model_dump(mode="json", exclude_defaults=True)
        data["scale"] = own | {side: data["scale"][side] for side in "ab" if side in own}
    return data


# -- fields ----------------------------------------------------------------------------------------------------------


def decided(fit: Fit, found: Scored) -> tuple[Decided, ...]:
    """Return every field of a spec with the values that answers exclude, and those that they do not."""
    pool, d = fit.session.pool, fit.session.d
    order = np.argsort(_nonzero_codes(fit, pool), kind="stable")
    rows: dict[str, tuple[Any, list[Any], list[Any]]] = {}
    others = {key_of(h): ((p,), h) for p, h in fit.space.neighbours(found.hypothesis, 0)}
    for key, (paths, hypothesis) in (others | fit.alike).items():
        spec = fit.space.spec(hypothesis)
        if spec is None or spec == found.spec:
            continue
        got = d if key in fit.alike else fit.run(spec, pool)
        wrong = order[got[order] != d[order]]
        values = {".".join(map(str, path)) or "stages, flush_inputs": at(hypothesis, path) for path in paths}
        for path, (name, value) in zip(paths, values.items(), strict=True):
            _, excluded, alike = rows.setdefault(name, (at(found.hypothesis, path), [], []))
            beside = {n: x for n, x in values.items() if n != name}
            row: Data = {"value": value} | ({"with": beside} if beside else {})
            if wrong.size:
                number = int(wrong[0])
                row |= {"question": number, "experiment": fit.session.experiments[number]}
                excluded.append(row | {"box": f"{int(d[number]):#x}", "would_give": f"{int(got[number]):#x}"})
            else:
                reason = because(found.spec, spec, path if len(paths) == 1 else (), fit.searched)
                alike.append(row | {"reason": reason})
    if found.spec.accumulator.nan_code is not None and not fit.space.nans:
        rows["nan"] = (None, [], [{"value": "any", "reason": "no answer is a NaN"}])
    return tuple(Decided(name, now, tuple(out), tuple(same)) for name, (now, out, same) in sorted(rows.items()))


def _nonzero_codes(fit: Fit, lines: Lines) -> Any:
    """Return the number of nonzero codes of each question."""
    spec = fit.signature.spec
    return (lines.a != spec.a.zero_code).sum(axis=1) + (lines.b != spec.b.zero_code).sum(axis=1) + (lines.c != 0)


def because(spec: Instruction, other: Instruction, path: Path, searched: int) -> str:
    """Return why no question can tell two specs apart, as far as it is proved; otherwise how many were searched."""
    nothing = f"no difference in {searched} questions searched"
    match path:
        case (*_, "rounding" | "zero") if spec.is_integer:
            return "proved: sums of whole numbers are whole, and have one zero"
        case ("stages", int(i), "zero_exponent" | "fraction_bits" as name):
            pass
        case _:
            return nothing
    try:
        plans = [Plan(x.per_line()) for x in (spec, other)]
    except Unsupported:
        return nothing
    for plan in plans:
        stage, terms = plan.stages[i], plan.addends[i]
        if stage.fraction_bits is None:
            continue
        if name == "zero_exponent" and (not stage.result or stage.drop_beyond is not None):
            return nothing  # the exponent that the sum is aligned to counts by itself, too
        lowest, kept = min(t.lsb for t in terms), min(stage.fraction_bits, stage.accumulator_fraction_bits or 0)
        unit = aligned_to(stage, terms) if name == "fraction_bits" else stage.zero_exponent
        if unit is not None and unit - kept > lowest:
            return nothing
    if name == "zero_exponent":
        return "proved: zeros of this exponent cut no bit that a term can have"
    return "proved: every bit that a term can have is kept"


# -- what is not explained -------------------------------------------------------------------------------------------


def _conflict(fit: Fit) -> dict[str, Any] | None:
    """Return two questions that every spec answers alike, with fewest terms, and the box's answers."""
    if fit.session.conflict is None:
        return None
    one, two, told = fit.session.conflict
    if question_text(one) == question_text(two):
        return {"question": question_text(one).strip(), "answers": [f"{x:#x}" for x in told]}
    one, two = _smallest(fit, [one, two], lambda x: fit.session.ask(x[0]) != fit.session.ask(x[1]))
    told = [int(fit.session.ask(x)[0]) for x in (one, two)]
    return {
        "question": question_text(one).strip(),
        "other question": question_text(two).strip(),
        "terms": _terms(one),
        "other terms": _terms(two),
        "c": f"{int(one.c[0]):#x}",
        "answers": [f"{x:#x}" for x in told],
    }


def _smallest(fit: Fit, questions: list[Lines], holds: Callable[[list[Lines]], Any]) -> list[Lines]:
    """Return questions of a line each with as many terms taken away as something still holds of them."""
    spec = fit.signature.spec
    while not isinstance(fit.session.box, Recorded):
        places = np.flatnonzero((questions[0].a[0] != spec.a.zero_code) | (questions[0].b[0] != spec.b.zero_code))
        fewer = [x.pick(np.zeros(len(places) + 1, int)) for x in questions]
        for x in fewer:
            x.a[np.arange(len(places)), places] = spec.a.zero_code
            x.b[np.arange(len(places)), places] = spec.b.zero_code
            x.c[-1] = 0
        still = np.flatnonzero(holds(fewer) & (_nonzero_codes(fit, fewer[0]) < _nonzero_codes(fit, questions[0])))
        if not still.size:
            break
        questions = [x.pick(slice(still[0], still[0] + 1)) for x in fewer]
    return questions


def _terms(line: Lines) -> dict[int, str]:
    return {int(k): f"{int(line.a[0, k]):#x} * {int(line.b[0, k]):#x}" for k in np.flatnonzero(line.a[0] | line.b[0])}


def _witness(fit: Fit, nearest: Scored | None) -> dict[str, Any] | None:
    """Return the smallest question that the nearest spec does not explain: terms are taken away while it stays so."""
    pool, d = fit.session.pool, fit.session.d
    wrong = np.flatnonzero(fit.run(nearest.spec, pool) != d if nearest else [])
    if nearest is None or not wrong.size:
        return None
    number = int(wrong[np.argmin(_nonzero_codes(fit, pool)[wrong])])
    first = pool.pick(slice(number, number + 1))
    (best,) = _smallest(fit, [first], lambda x: fit.session.ask(x[0]) != fit.run(nearest.spec, x[0]))
    answer = int(d[number]) if best is first else int(fit.session.ask(best)[0])
    return {
        "question": question_text(best).strip(),
        "terms": _terms(best),
        "c": f"{int(best.c[0]):#x}",
        "box": f"{answer:#x}",
        "nearest_spec": f"{int(fit.run(nearest.spec, best)[0]):#x}",
        "unexplained": int(wrong.size),
    }


def _log(session: Session) -> dict[str, Any]:
    return {
        "signature": session.box.signature.fields,
        "experiments": session.experiments,
        "questions": question_text(session.pool).splitlines(),
        "answers": [f"{int(x):x}" for x in session.d],
        "nans": [f"{x:x}" for x in session.nans],
    }
