"""Toy results for tests of comparisons and findings."""

from types import SimpleNamespace

from codesign.figures.figure import Figure

TOTAL, SUMS = "numerics.total_error", "numerics.relative_frobenius"
HOPPER, OTHER = "hopper.wgmma.m64n256k32.f32.e4m3.e4m3", "hopper.wgmma.m64n256k32.f16.e4m3.e4m3"


def figure(metric, value, half=0.0, variant="proposal", workload="llama.fprop.o", tensors="normal", **more):
    ends = {"low": None, "high": None} if value is None or half is None else {"low": value - half, "high": value + half}
    kind = "computed" if metric.startswith(("numerics", "cast")) else "modelled"
    about = {
        "metric": metric,
        "variant": variant,
        "workload": workload,
        "tensors": tensors,
        "value": value,
        "kind": kind,
    }
    return Figure(**{**about, **ends, "source": "toy", **more})


def area(value, half=0.01, **more):
    return figure("cost.area_ratio", value, half, workload="", tensors="", **more)


def moved(metric, new, old, model="deepseek-v3", **more):
    return (
        figure(metric, new, workload=model, tensors="", **more),
        figure(metric, old, variant="software", workload=model, tensors=""),
    )


def result(name, figures=(), costs=(), traffic=(), timing=(), casts=(), base=HOPPER, today=False):
    """What a comparison needs of a result; software and today have the errors given, or twice the proposal's."""
    return SimpleNamespace(
        proposal=SimpleNamespace(proposal=name, title=name.upper(), base=base, multiplies_as_today=today),
        headline=f"about {name}",
        figures=(*figures, *casts, *costs, *traffic, *timing),
    )


def errors(own, software=0.5, today=0.9, half=0.001, **more):
    pairs = (("proposal", own), ("software", software), ("today", today))
    return [figure(TOTAL, value, half, variant=v, **more) for v, value in pairs]


def rows(made):
    return {e.proposal: e for e in made.entries}
