"""Hostile space files and folders of results: each fault is one message at its place, and nothing is written."""

import hashlib
import io
import json
import os
import warnings

import pytest
from toy_space import TEXT, points_of, space

from codesign.explore import table
from codesign.explore.conditions import MOST_CHARACTERS, MOST_NESTED
from codesign.explore.picture import embedded
from codesign.explore.run import Round, work
from codesign.explore.store import Store, batch_name
from codesign.figures.rows import as_parquet
from isa_model.diagnostics import InputError

ALTERNATIVE = "wide: {}"
LAST = "tensors: [normal]"


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        (("space: toy", "space: points"), "1:1", "`points` is a folder of results"),
        (("space: toy", f"space: {'a' * 300}"), "1:8", "at most 100 characters"),
        (("configurable-accumulation", "x" * 5000), "3:7", "no proposal is called"),
        (("  bits:", "  status:"), "5:3", "`status` is a column of every table"),
        (("  bits:", "  area_low:"), "12:3", "`area_low` is the name of another column"),
        (("  bits:", "  class:"), "5:3", "`class` is a word of Python"),
        (("  error:", "  bits:"), "11:3", "`bits` is the name of another column"),
        (
            ("bits: {field: change.stages.fuse.fraction_bits", "bits: {field: claims.x"),
            "5:10",
            "no point differs in `claims`",
        ),
        ((ALTERNATIVE, "wide: {tensors: null}"), "7:36", "no point differs in `tensors`"),
        (("[8, 16, 32]", "[8, true]"), "6:56", "`true` is not a number"),
        (("[13, 24]", "[true, 24]"), "5:59", "`true` is not a number"),
        ((LAST, f"{LAST}\nrows: true"), "10:7", "`true` is not a number"),
        ((LAST, f"{LAST}\nbudget: {{points: true}}"), "10:18", "`true` is not a number"),
        (("{metric: cost.area_ratio}", "{metric: cost.area_ratio, at_most: true}"), "12:44", "`true` is not a number"),
        (("[8, 16, 32]", "['8', 8, 16]"), "6:58", "`8` is also there as text"),
        (("relative_frobenius}", "relative_frobenius, workload: no}"), "11:58", "unknown workload `no`"),
        ((LAST, f"{LAST}\nchange: {{base: null}}"), "10:16", "`base` names no instruction"),
        ((LAST, f"{LAST}\nchange: {{base: no}}"), "10:9", "no instruction is called `no`"),
        ((LAST, f"{LAST}\nchange: {{change: [1]}}"), "10:18", "`change` is no mapping"),
        ((LAST, f"{LAST}\nchange: {{claims: [1]}}"), "10:19", "expected a mapping, got 1"),
        (("workloads: [deepseek-v3.wgrad.o]", "change: {workloads: 5}"), "8:21", "expected a list, got 5"),
        ((LAST, f"{LAST}\nbudget: {{seed: 4294967296}}"), "10:16", "must be less than"),
    ],
)
def test_faults_of_hostile_spaces_are_told_at_their_place(change, place, message):
    """Names that collide, fields that no figure depends on, data of the wrong kind: never another error than InputError."""
    text = TEXT.replace(*change)
    assert text != TEXT
    with pytest.raises(InputError) as error:
        space(text)
    told = "\n".join(map(str, error.value.problems))
    assert f"toy.yaml:{place}" in told
    assert message in told


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("'a' * 99999999999 == bits", "arithmetic with `'a'`"),
        ("(1,) * 99999999999 == bits", "arithmetic with `(1,)`"),
        ("register * 99999999999 == bits", "arithmetic with `register`"),
        ("(register or 1) * 99999999999 == bits", "arithmetic with `register or 1`"),
        ("'%999999999d' % bits == 'a'", "arithmetic with"),
        ("b'a' == bits", "neither a number nor text"),
        ("bits.__class__ == 1", "a condition has no attribute"),
        ("9 ** 9 ** 9 > bits", "a condition has no pow"),
        ("bits / 0 > 1", "cannot be computed at bits = 13"),
        ("bits > 'a'", "cannot be computed"),
        ("bits > 99", "no point keeps these conditions"),
        (f"{'-' * (MOST_CHARACTERS - 4)}bits", "is not an expression"),
        (f"{'-' * MOST_NESTED}bits", "is not an expression"),
        ("3(4)", "a condition has no call"),
        (" or ".join(["bits > 13"] * 5000), f"at most {MOST_CHARACTERS}"),
    ],
)
def test_conditions_are_refused_before_they_take_memory_or_time(condition, message):
    """A condition holds comparisons and arithmetic on numbers; each fault is told at the condition, in a few words."""
    with pytest.raises(InputError) as error, warnings.catch_warnings(action="error"):
        space(TEXT.replace(LAST, f'{LAST}\nwhere: ["{condition}"]'))
    (problem,) = error.value.problems
    assert message in problem.message
    assert problem.line == 10
    assert len(problem.message) < 300


@pytest.mark.parametrize(
    "change", ["{base: null}", "{base: [1]}", "{base: no}", "{change: 5}", "{layers: [1]}", "{layers: {x: {file: 1}}}"]
)
def test_an_alternative_that_gives_no_proposal_has_a_key_all_the_same(change):
    """Its task says why there is no proposal; two of them do not share a key."""
    made, base = space(TEXT.replace(ALTERNATIVE, f"wide: {change}"))
    points = [(13, 8, "wide"), (14, 8, "wide")]
    wanted = Round(space=made, base=base, points=points, seeds=16).tasks()
    assert len({t.key for t in wanted}) == (4 if change != "{change: 5}" else len(wanted))


def test_values_beyond_64_bits_are_written_as_text():
    """Parquet has no whole numbers of that size."""
    pyarrow = pytest.importorskip("pyarrow.parquet")
    content = as_parquet([{"point": "a", "bits": 13}, {"point": "b", "bits": 1 << 63}])
    assert pyarrow.read_table(io.BytesIO(content)).column("bits").to_pylist() == ["13", str(1 << 63)]


KEYED = '{"key": "k", "readings": {"cost.area_ratio": [["", "", %s, 1, 1, "computed", "x"]]}}'


@pytest.mark.parametrize(
    "content",
    [
        *(
            "no json",
            "[1, 2]",
            '{"nokey": 1}',
            '{"key": [1]}',
            '{"key": "k", "readings": 5}',
            '{"key": "k", "invalid": 5}',
        ),
        *('{"key": "k", "readings": {"cost.area_ratio": [[1]]}}', KEYED % "NaN", KEYED % "1e400", "[" * 10_000, "\xff"),
    ],
)
def test_a_pack_that_holds_no_results_is_left_aside(tmp_path, content):
    """Under the name of its own content, too, as another version might write it."""
    own, text = Store(tmp_path), content.encode("latin-1") + b"\n"
    name = hashlib.sha256(text).hexdigest()[:40]
    (tmp_path / "points" / name[:1]).mkdir()
    (tmp_path / "points" / name[:1] / f"{name}.jsonl").write_bytes(text)
    own.refresh()
    assert not own.results


def test_what_is_no_file_of_results_is_left_aside(tmp_path):
    """Folders, pipes that never answer, links to nowhere and up, stray files."""
    own, shard = Store(tmp_path), tmp_path / "points" / "a"
    (shard / "folder.jsonl").mkdir(parents=True)
    os.mkfifo(shard / "pipe.jsonl")
    (shard / "link.jsonl").symlink_to("nowhere")
    (shard / "endless.jsonl").symlink_to("/dev/zero")
    (tmp_path / "points" / "up").symlink_to("..")
    (tmp_path / "points" / "nowhere").symlink_to("nowhere")
    (tmp_path / "points" / "stray").write_text("x")
    own.refresh()
    assert not own.results


@pytest.mark.parametrize("process", ["abc", "-1", "9" * 30, "../../etc/passwd"])
def test_a_claim_with_an_odd_process_waits_until_it_is_stale(tmp_path, process):
    """Whatever text a claim holds, it is free once its heartbeat is old."""
    own, name = Store(tmp_path), batch_name(["a"])
    path = tmp_path / "claims" / name[:2] / name
    path.parent.mkdir()
    path.write_bytes(f"{own.owner.split()[0]} {process} 5".encode())
    os.utime(path, (1, 1))
    assert own.claim(name)


@pytest.mark.parametrize("content", ["", "[]", '{"space": 1}', "[" * 100_000, "\xff"])
def test_a_worker_names_the_file_that_is_no_round(tmp_path, content):
    """Instead of a traceback, or of waiting for it."""
    Store(tmp_path)
    (tmp_path / "queue" / "odd.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"odd\.json is no round"):
        work(Store(tmp_path), 0.1)


@pytest.mark.parametrize(
    "points", ["5", '{"p": 5}', '{"p": []}', '{"p": ["no", 8, "wide"]}', '{"p": [[1], 8, "wide"]}']
)
def test_export_names_the_file_that_is_no_space(tmp_path, points):
    """A point that the space does not have is a fault of its space.json."""
    made, base = space()
    text = table.as_json(made, base, []).replace('"points": {\n\n }', f'"points": {points}')
    (tmp_path / "space.json").write_text(text)
    with pytest.raises(InputError, match=r"space\.json is no space"):
        table.exported(tmp_path, "p")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "space.json").write_text(table.as_json(*points_of(tmp_path / "results")))
    point = next(iter(json.loads((tmp_path / "whole" / "space.json").read_text())["points"]))
    assert f"toy-{point}" in table.exported(tmp_path, point)  # another space's points can be had all the same


def test_an_exported_point_with_line_breaks_in_its_settings_is_a_proposal(tmp_path):
    """The comment at its head stays one line."""
    made, base = space(TEXT.replace("wide: {}", '"a\\nb: c": {}'))
    text = table.proposal_text(made, base, {"bits": 13, "terms": 8, "register": "a\nb: c"}, "p", "register = a\nb: c")
    assert [line[:1] for line in text.splitlines()[:2]] == ["#", "p"]


def test_data_in_a_page_end_no_script_and_stay_json():
    """Markup in titles and names of alternatives is text, and a script can parse it."""
    data = {"title": "</script><!--<script>alert(1)</script>", "<b>": [1, None]}
    text = embedded(data)
    assert "<" not in text
    assert json.loads(text) == data
