"""Hints of messages: following each, as a reader would, removes the fault."""

import json
import re
import time

import pytest
import yaml

from codesign.commands.schemas import json_schema
from codesign.proposal.load import parse_proposal
from isa_model import FORMATS, InputError
from isa_model.aliases import NAMES, REMARKS
from isa_model.diagnostics import parse_yaml
from isa_model.formats import Format, named
from isa_model.library import validated

FP8 = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3"
FP8_TO_FP16 = "hopper.wgmma.m64n256k32.f16.e4m3.e4m3"
NVF4 = "blackwell.tcgen05.m128n128k64.kind::mxf4nvf4.block16.f32.e2m1.e2m1.ue4m3"


def proposal(**fields):
    """A valid proposal as plain data, with other `fields`."""
    return {
        "proposal": "mine",
        "title": "More bits",
        "source": "me",
        "base": FP8,
        "claims": [{"metric": "numerics.total_error", "at_most": 0.1}],
        **fields,
    }


def faults(data):
    """Return the problems of a proposal or an instruction given as plain data."""
    document = parse_yaml(yaml.safe_dump(data, sort_keys=False), "p.yaml")
    try:
        validated(document) if "stages" in data else parse_proposal(document)
    except InputError as error:
        return list(error.problems)
    return []


def _at(node, path):
    for step in path:
        node = node[step] if isinstance(node, list) else (node or {}).get(step)
    return node


def _with(node, path, value):
    """Return plain data with another value at a path; DROP removes it."""
    if not path:
        return value
    step, *rest = path
    if isinstance(node, list):
        return [_with(v, rest, value) if i == step else v for i, v in enumerate(node)]
    node = dict(node or {})
    if value is DROP and not rest:
        node.pop(step, None)
        return node
    return {**node, step: _with(node.get(step), rest, value)}


DROP = object()


def follow(data, problem):
    """Do what a hint says: replace the value or key, set a field, or leave one out. AssertionError where it says none of it."""
    hint, path = problem.hint, problem.path
    if problem.message.startswith(("unknown field", "the base has no stage")) and "did you mean" in hint:
        meant = re.search("did you mean `([^`]+)`", hint)[1]
        parent = _at(data, path[:-1])
        return _with(data, path[:-1], {meant if k == path[-1] else k: v for k, v in parent.items()})
    if left := re.search("(?:leave|drop) `([^`]+)`", hint):
        inside = path if isinstance(_at(data, path), dict) and path[-1] != left[1] else path[:-1]
        return _with(data, (*inside, left[1]), DROP)
    if given := re.search(r"did you mean `([^`]+)`|write `([^`]+)`|^one of: ([^,]+)", hint):
        return _with(data, path, yaml.safe_load(next(filter(None, given.groups()))))
    snippet = re.search("`([a-z_]+: [^`]+)`", hint) or re.fullmatch("([a-z_]+: .+)", hint)
    assert snippet, f"no remedy in {hint!r} of {problem.message!r}"
    fields = yaml.safe_load(snippet[1])
    inside = path if path[-1] not in fields and isinstance(_at(data, path), dict) else path[:-1]
    if (name := next(iter(fields))) in path:  # the remedy is written from a field around the fault
        inside = path[: path.index(name)]
        around = _at(data, (*inside, name))
        fields = (
            {name: around | fields[name]} if isinstance(around, dict) and isinstance(fields[name], dict) else fields
        )
    return _with(data, inside, {**(_at(data, inside) or {}), **fields})


def cause(problem):
    """Return a message without its numbers and names."""
    return re.sub(r"`[^`]*`|0x[0-9a-f]+|\d+", "", problem.message)


def cured(data):
    """Follow hints, the first fault's first, until nothing is wrong; a remedy must end its own fault and bring no like one."""
    for _ in range(8):
        found = faults(data)
        if not found:
            return data
        first = found[0]
        data = follow(data, first)
        again = [p for p in faults(data) if (p.path, cause(p)) == (first.path, cause(first))]
        assert not again, f"{first}\nis not cured by its remedy:\n{again[0]}"
        known = {cause(p) for p in found[1:]}
        assert not any(cause(p) == cause(first) for p in faults(data) if cause(p) not in known)
    raise AssertionError(f"never cured: {faults(data)[0]}")


FUSE = {"fraction_bits": 20}
CLAIM = {"metric": "numerics.total_error", "at_most": 0.1}
BROKEN = {
    "a misspelt field": {"titel" if k == "title" else k: v for k, v in proposal().items()},
    "a field twice, once misspelt": proposal(motivatoin="x", motivation="y"),
    "a misspelt field of a claim": proposal(claims=[{"metric": "numerics.total_error", "at_mst": 0.1}]),
    "a misspelt metric": proposal(claims=[{**CLAIM, "metric": "numerics.totl_error"}]),
    "a misspelt base": proposal(base=FP8 + "x"),
    "a misspelt workload": proposal(workloads=["deepseek-v4"]),
    "a misspelt tensor source": proposal(tensors=["norml"]),
    "a name with capitals and blanks": proposal(proposal="My Proposal"),
    "a misspelt stage": proposal(change={"stages": {"fues": FUSE}}),
    "a misspelt field of a stage": proposal(change={"stages": {"fuse": {"fraction_bit": 20}}}),
    "a misspelt field of the instruction": proposal(change={"acumulator": "fp32"}),
    "a rounding that does not exist": proposal(change={"stages": {"fuse": {"rounding": "toward-zer"}}}),
    "a rounding that draws random numbers": proposal(change={"stages": {"fuse": {"rounding": "stochastic"}}}),
    "a quantisation that draws random numbers": proposal(quantisation={"rounding": "stochastic"}),
    "a cast that draws random numbers": proposal(
        path={
            "operands": ["activation"],
            "steps": [{"at": "register", "scale": "ue8m0", "scale_rounding": "stochastic"}],
        }
    ),
    "a rounding of nobody's": proposal(change={"stages": {"fuse": {"rounding": "hrrmpf"}}}),
    "a NaN of another format": proposal(change={"accumulator": "bf16", "nan": 0x7FFFFFFF}),
    "a NaN of another format, in FP16": proposal(base=FP8_TO_FP16, change={"accumulator": "fp32", "nan": 0x7FFF}),
    "a register wider than the accumulator": proposal(change={"accumulator": "fp16"}),
    "a group that promotion does not divide": proposal(software={"promote_every": 96}),
    "a promotion that the instruction does not divide": proposal(software={"promote_every": 48, "group": 48}),
    "a software step on a base with scales": proposal(base=NVF4, software={"promote_every": 128}),
    "a claim without a bound": proposal(claims=[{"metric": "numerics.total_error"}]),
    "a claim on a workload that is not there": proposal(claims=[{**CLAIM, "workload": "smollm2-135m"}]),
    "a claim on tensors that are not there": proposal(claims=[{**CLAIM, "tensors": "captured"}]),
    "a claim at a value without a sweep": proposal(claims=[{**CLAIM, "at": 17}]),
    "a claim at a value that is not swept": proposal(
        sweep={"field": "stages.fuse.fraction_bits", "values": [13, 17]}, claims=[{**CLAIM, "at": 15}]
    ),
    "a misspelt swept field": proposal(sweep={"field": "stages.fuse.fraction_bit", "values": [13, 17]}),
    "four faulty claims": proposal(
        claims=[
            {**CLAIM, "at": 3, "at_most": 0.2},
            {**CLAIM, "tensors": "captured", "at_most": 0.3},
            {**CLAIM, "workload": "mixtral", "at_most": 0.4},
            {**CLAIM, "of": "prposal"},
        ]
    ),
    "fraction bits without a rounding": proposal(change={"stages": {"fuse": {"rounding": None}}}),
    "a rounding without fraction bits": proposal(change={"stages": {"fuse": {"fraction_bits": None}}}),
    "a last stage without C": proposal(change={"stages": {"fuse": {"accumulator": False}}}),
    "a last stage with an end": proposal(change={"stages": {"fuse": {"chain": 4}}}),
    "a depth that the stages do not divide": proposal(change={"shape": {"k": 40}}),
    "a scale onto the last stage's sum": proposal(
        change={"scale": {"a": {"group": [1, 32], "format": "ue8m0"}, "onto": "fuses"}}
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_following_the_hints_mends_a_proposal(name):
    """Each broken proposal becomes valid by doing what its messages say, and nothing else."""
    assert faults(BROKEN[name])
    cured(BROKEN[name])


def test_claims_of_a_kind_are_told_all_at_once():
    """Faults of four claims and of another field are reported in one run."""
    found = faults(BROKEN["four faulty claims"] | {"title": 3})
    assert {p.path for p in found} == {
        ("claims", 0, "at"),
        ("claims", 1, "tensors"),
        ("claims", 2, "workload"),
        ("claims", 3, "of"),
        ("title",),
    }


def test_what_follows_from_a_faulty_field_is_not_told():
    """A claim on a workload that is misspelt among `workloads`, or at a value of a broken sweep, has no fault of its own."""
    claims = [{**CLAIM, "workload": "deepseek-v3.fprop"}, {**CLAIM, "tensors": "normal"}]
    assert [p.path for p in faults(proposal(workloads=["deepseek-v3.fprp"], claims=claims))] == [("workloads", 0)]
    assert [p.path for p in faults(proposal(tensors=["norml"], claims=claims))] == [("tensors", 0)]
    swept = proposal(sweep={"field": "stages.fuse.fraction_bits", "values": [13, [17]]}, claims=[{**CLAIM, "at": 17}])
    assert [p.path for p in faults(swept)] == [("sweep", "values", 1)]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("e8m0", "ue8m0"),
        ("float8_e8m0fnu", "ue8m0"),
        ("float8_e4m3fn", "e4m3"),
        ("torch.float8_e4m3fn", "e4m3"),
        ("f8_e4m3", "e4m3"),
        ("F8E5M2", "e5m2"),
        ("fp8_e4m3fnuz", "e4m3fnuz"),
        ("fp8", "e4m3"),
        ("mxfp8", "e4m3"),
        ("bf8", "e5m2"),
        ("nvfp4", "e2m1"),
        ("mxfp4", "e2m1"),
        ("float4_e2m1fn_x2", "e2m1"),
        ("half", "fp16"),
        ("float16", "fp16"),
        ("float", "fp32"),
        ("bfloat16", "bf16"),
        ("double", "fp64"),
        ("s8", "int8"),
        ("u8", "uint8"),
        ("s32", "int32"),
        ("E4M3", "e4m3"),
        ("E5M6", "e5m6"),
    ],
)
def test_names_that_others_use_lead_to_our_format(name, meant):
    """For a format's name in PyTorch, PTX, JAX, safetensors or a vendor's manual, the hint gives ours."""
    with pytest.raises(InputError) as error:
        named(name)
    assert error.value.problems[0].hint.startswith(f"did you mean `{meant}`?")
    assert named(meant).name == meant


def test_the_table_of_other_names_is_of_our_formats():
    """The table has every format, none of our names among the other names, and no name twice."""
    others = [other for line in NAMES.values() for other in line.split()]
    assert set(NAMES) <= set(FORMATS)
    assert not set(others) & set(FORMATS)
    assert len(set(others)) == len(others)
    assert set(REMARKS) <= set(others)


@pytest.mark.parametrize(
    "base", [FP8, FP8_TO_FP16, "cdna3.mfma.f32_16x16x32_fp8_fp8", "volta.mma.m8n8k4.f32.f16.f16.f16"]
)
@pytest.mark.parametrize("accumulator", [n for n, f in FORMATS.items() if f.kind == "float"])
def test_an_accumulator_of_any_format_works_or_is_led_to_one_that_does(base, accumulator):
    """Naming another accumulator needs no word on NaN; a register that does not fit is mended by its remedy."""
    data = proposal(base=base, change={"accumulator": accumulator})
    assert not [p for p in faults(data) if "NaN" in p.message]
    if FORMATS[accumulator].signed:
        cured(data)


def test_a_nan_follows_its_format_unless_the_author_gives_one():
    """The base's NaN goes with the base's accumulator; the author's stays, or is refused where it stands."""
    mended = parse_proposal(parse_yaml(yaml.safe_dump(proposal(base=FP8_TO_FP16, change={"accumulator": "fp32"})), "p"))
    assert mended.today.nan_code == 0x7FFF
    assert mended.proposed().nan_code == 0x7FC00000
    assert faults(proposal(base=FP8_TO_FP16, change={"accumulator": "fp32", "nan": 0x7FFFFFFF})) == []
    (told,) = faults(proposal(base=FP8_TO_FP16, change={"accumulator": "fp32", "nan": 0x7FFF}))
    assert (told.path, told.source.strip()) == (("change", "nan"), "nan: 32767")


@pytest.mark.parametrize("suffix", ["gguf", "npy", "pt", "bin", ""])
def test_a_layer_in_another_kind_of_file_is_one_error_with_a_remedy(suffix):
    """The file is refused; that its name is no workload, or that no workload is left, does not follow from it."""
    layer = {"file": f"layer7.{suffix}".strip("."), "activation": "x", "weight": "w"}
    (told,) = faults(proposal(layers={"mine": layer}, workloads=["mine"], tensors=["captured"]))
    assert told.path == ("layers", "mine", "file")
    (missing,) = faults(follow(proposal(layers={"mine": layer}, workloads=["mine"], tensors=["captured"]), told))
    assert "no such file" in missing.message


def test_a_list_is_not_short_because_its_entries_are_wrong():
    """An unknown entry is one error, and so is an empty list."""
    assert len(faults(proposal(workloads=["a-typo"]))) == 1
    assert len(faults(proposal(claims=[{"metric": "numerics.nothing", "at_most": 1}]))) == 1
    (empty,) = faults(proposal(workloads=[]))
    assert empty.message == "needs at least 1 entry, got 0"


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("keys", {f"key{i}": i for i in range(9000)}, 9000),
        ("workloads", [f"deepseek-v{i}" for i in range(4, 9000)], 1),
        ("claims", [{"metric": f"numerics.total_eror{i}", "at_most": 1} for i in range(3000)], 1),
        ("change", {"stages": {f"nope{i}": 3 for i in range(9000)}}, 9000),
    ],
    ids=["keys", "workloads", "claims", "stages"],
)
def test_thousands_of_faults_are_told_in_short_and_at_once(field, value, shown):
    """At most 50 faults are written out, the rest counted, in under a second of work."""
    data = proposal() | (value if field == "keys" else {field: value})
    document = parse_yaml(yaml.safe_dump(data), "p.yaml")
    started = time.process_time()
    with pytest.raises(InputError) as error:
        parse_proposal(document)
    text = str(error.value)
    assert time.process_time() - started < 1
    assert text.count("p.yaml:") == min(shown, 50)
    assert len(text) < 50_000
    if shown > 50:
        assert f"... and {shown - 50} more\n{shown} errors in p.yaml" in text


@pytest.mark.parametrize("kind", ["proposal", "instruction", "recipe"])
def test_the_schema_lists_no_rounding_that_is_refused(kind):
    """An editor offers `stochastic` for the result of a stage alone."""
    listed = [d for d in _walk(json_schema(kind)) if "stochastic" in json.dumps(d.get("enum"))]
    assert [d.get("title") for d in listed] == ["Rounding"] * (kind != "proposal")


def _walk(node):
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _walk(inner)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quantisation", {"floor": True}),
        ("quantisation", {"weight_columns": True}),
        ("software", {"promote_every": True}),
        ("software", {"quantisation": {"weight_columns": True}}),
        ("path", {"operands": ["activation"], "steps": [{"at": "kernel", "to": "e4m3", "group": [True, 128]}]}),
        ("path", {"operands": ["activation"], "steps": [{"at": "kernel", "to": "e4m3", "logfmt": True}]}),
        ("claims", [{"metric": "numerics.bias", "at_most": True}]),
        ("sweep", {"field": "change.stages.fuse.fraction_bits", "values": [13, True]}),
        ("change", {"shape": {"k": True}}),
        ("change", {"stages": {"fuse": {"zero_exponent": False}}}),
        ("change", {"nan": True}),
        ("change", {"a": {"name": "mine", "exponent_bits": True, "mantissa_bits": 3}}),
        ("change", {"a": {"name": "mine", "kind": "table", "values": [False, True]}}),
    ],
)
def test_a_boolean_is_no_number(field, value):
    """Python counts true as 1; wherever a proposal or a spec wants a number, one line names the boolean and its place."""
    told = [p for p in faults(proposal(**{field: value})) if "is not a number" in p.message]
    assert {p.message for p in told} <= {"`true` is not a number", "`false` is not a number"}
    assert told
    assert all(p.line and re.search("true|false", p.source) for p in told)


def test_fields_of_both_kinds_take_booleans():
    """Where a boolean is meant, or either, it stays."""
    assert not faults(proposal(quantisation={"powers_of_two": True}))
    assert (
        Format(name="e4m3x", exponent_bits=4, mantissa_bits=3, bias=7, signed=False, overflow="saturate").signed
        is False
    )


@pytest.mark.parametrize(
    ("text", "kind"), [("name: x\nstages: {}\na: e4m3\n", "an instruction"), ("recipe: x\ntitle: y\n", "a recipe")]
)
def test_a_file_of_another_kind_is_one_fault(text, kind):
    """An instruction or a recipe in place of a proposal is named as what it is, not field by field."""
    with pytest.raises(InputError) as error:
        parse_proposal(parse_yaml(text, "x.yaml"))
    (fault,) = error.value.problems
    assert (fault.line, fault.message) == (1, f"this is {kind}, not a proposal")
