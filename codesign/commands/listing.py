"""Names that a proposal can use, each with a one-line description."""

from __future__ import annotations


def listings() -> dict[str, list[tuple[str, str]]]:
    """Return pairs of a name and its description, by kind."""
    from codesign.evidence.training.experiments import experiments
    from codesign.figures.metric import metrics
    from codesign.proposal.manual import describe
    from codesign.proposal.recipe import load_recipe, recipes
    from codesign.proposal.shipped import names
    from codesign.workloads.gemms import gemms, models, workloads
    from codesign.workloads.tensors import SOURCES
    from isa_model.diagnostics import read_yaml
    from isa_model.formats import FORMATS
    from isa_model.library import catalogue, families

    shapes = {
        name: f"m={g.m} n={g.n} k={g.k}: {g.description}" + (" (captured tensors)" if g.recorded else "")
        for name, g in gemms().items()
    }
    shapes |= {name: f"{model.layers} layers; {model.source}" for name, model in models().items()}
    shapes |= {name: f"all GEMMs of {name}" for name in workloads() if name not in shapes}
    return {
        "proposals": [(name, read_yaml(path).data["title"]) for name, path in names().items()],
        "families": families(),
        "instructions": [(name, "") for name in catalogue()],
        "formats": [(name, describe(f).split(", ", 1)[1]) for name, f in FORMATS.items()]
        + [
            (
                "[u]eXmY[fn|fnuz|f]",
                "inline: X exponent bits, Y mantissa bits, IEEE-like specials unless the suffix differs",
            )
        ],
        "workloads": [(name, shapes.get(name, "")) for name in workloads()],
        "tensors": [(name, source.description) for name, source in SOURCES.items()],
        "metrics": [(m.name, m.description) for m in metrics().values()],
        "recipes": [(name, load_recipe(name).title) for name in recipes()],
        "experiments": [(name, e.question) for name, e in experiments().items()],
    }
