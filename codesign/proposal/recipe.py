"""A recipe: every rule of a mixed-precision training framework, as data.

The rules are those of DeepSeek-V3's FP8 framework (technical report, arXiv 2412.19437, 3.3); each can be switched. A recipe
says what is computed, to the bit; engines.py says with what.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PositiveInt, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from isa_model.cast import Cast
from isa_model.diagnostics import SLUG, Document, InputError, at, read_yaml, suggest
from isa_model.explain import explain
from isa_model.formats import FORMATS
from isa_model.instruction import Instruction, ScaleOperand, Scaling
from isa_model.library import changed, is_known, is_path, merge, raw
from isa_model.promotion import promoted
from isa_model.rounding import Rounding
from isa_model.stage import FormatRef, Spec

FOLDER = Path(__file__).parent / "recipes"
BLOCK = 128
"""Side of DeepSeek-V3's weight blocks, and length of its tiles."""
HOPPER = "hopper.wgmma.m64n256k32.f32.{a}.{b}"
"""Today's instruction by its operand types."""


def _instruction(value: Any) -> Any:
    """An instruction by name, or as `base` and `change` as in a proposal."""
    try:
        if isinstance(value, str):
            return Instruction.model_validate(raw(value))
        if isinstance(value, dict) and "base" in value:
            return Instruction.model_validate(changed(raw(str(value["base"])), value.get("change", {})))
    except InputError as error:
        problem = error.problems[0]
        raise PydanticCustomError("instruction", "{text}", {"text": problem.message, "hint": problem.hint}) from None
    return value


def _instruction_name(instruction: Instruction) -> Any:
    known = is_known(instruction.name) and Instruction.model_validate(raw(instruction.name)) == instruction
    return instruction.name if known else instruction.model_dump(mode="json", exclude_defaults=True)


InstructionRef = Annotated[Instruction, BeforeValidator(_instruction), PlainSerializer(_instruction_name)]
"""An instruction by its name in the catalogue, as `base` with a `change`, or in full."""


class Gemm(Spec):
    """One of the three GEMMs of a Linear: how its operands are cast, and what sums the products.

    Groups are given as the tensors lie: activations and gradients as (tokens, features), weights as (outputs, inputs).
    """

    OPERANDS: ClassVar[tuple[tuple[str, int], tuple[str, int]]]
    """A and B: the field of the cast, and the axis of that tensor along which the sums run."""

    instruction: InstructionRef | None = None
    """What sums; null: FP32 sums of the cast operands, by whatever the library does (no bit-exact claim)."""
    promote_every: PositiveInt | None = None
    """Software promotion: products that the instruction sums before they are added to FP32 on CUDA cores."""

    @property
    def casts(self) -> tuple[Cast | None, Cast | None]:
        """The casts of A and B; None: BF16 as it is."""
        (a, _), (b, _) = self.OPERANDS
        return getattr(self, a), getattr(self, b)

    @cached_property
    def spec(self) -> Instruction | None:
        """What computes the sums, promotion and its scales included; None for FP32 sums.

        Group scales along K are multiplied in by the promotion or by the instruction itself; a scale of a whole tensor
        stands outside and multiplies D.
        """
        if self.instruction is None or self.promote_every is None:
            return self.instruction
        sides = {}
        for side, length in zip("ab", self._scaled_lengths(), strict=True):
            if length:
                sides[side] = ScaleOperand(group=(1, length) if side == "a" else (length, 1), format=FORMATS["fp32"])
        return promoted(self.instruction, self.promote_every, Scaling(**sides) if sides else None)

    @cached_property
    def on_hopper(self) -> bool:
        """Whether today's chip computes this: FP8 wgmma alone, or promoted every 128, scaled in groups of 128 or by tensor."""
        if self.instruction is None or self.spec is None or self.promote_every not in (None, 128):
            return False
        pair = self.instruction.a.name, self.instruction.b.name
        if not set(pair) <= {"e4m3", "e5m2"}:
            return False
        chip = Instruction.model_validate(raw(HOPPER.format(a=pair[0], b=pair[1])))
        if numerics(self.instruction) != numerics(chip):
            return False
        scale = self.spec.scale
        if scale is None:
            return True
        both = scale.a is not None and scale.b is not None and (scale.a.group[1], scale.b.group[0]) == (128, 128)
        return both and pair == ("e4m3", "e4m3")

    def _scaled_lengths(self) -> tuple[int | None, int | None]:
        """Elements of K that share a scale of A and of B; None: no scale, or one for the whole tensor."""
        lengths = [
            cast.group[k_axis] if cast and cast.group and cast.scale else None
            for cast, (_, k_axis) in zip(self.casts, self.OPERANDS, strict=True)
        ]
        return lengths[0], lengths[1]

    @model_validator(mode="after")
    def _possible(self) -> Gemm:
        if self.instruction is None:
            if self.promote_every:
                raise at("promote_every", message="FP32 sums need no promotion", hint="an instruction, or leave it out")
            return self
        own = self.instruction.scale
        for side, (field, _), cast, length in zip("ab", self.OPERANDS, self.casts, self._scaled_lengths(), strict=True):
            wanted = getattr(self.instruction, side)
            given = cast.to if cast else FORMATS["bf16"]
            if given != wanted:
                raise at(field, message=f"the instruction takes {wanted.name} here, the cast gives {given.name}")
            inside: ScaleOperand | None = getattr(own, side) if own else None
            if length and self.promote_every:
                if length % self.promote_every:
                    raise at(
                        field,
                        message=f"a scale covers {length} of K, which is no multiple of promote_every {self.promote_every}",
                    )
            elif length and inside is None:
                raise at(
                    field,
                    message=f"nothing multiplies a scale per {length} of K: the instruction takes none",
                    hint="promote_every, an instruction with scales, or group: null",
                )
            elif inside is not None:
                self._check_inside(field, side, inside, cast, length)
        try:
            _ = self.spec
        except InputError as error:
            raise at("promote_every", message=error.problems[0].message, hint=error.problems[0].hint) from None
        return self

    @staticmethod
    def _check_inside(field: str, side: str, inside: ScaleOperand, cast: Cast | None, length: int | None) -> None:
        reach = inside.group[1 if side == "a" else 0]
        if cast is None or length is None or length % reach:
            raise at(field, message=f"the instruction takes a scale per {reach} of K; the cast has another group")
        if cast.scale != inside.format:
            scale = cast.scale.name if cast.scale else "none"
            raise at(field, message=f"the instruction takes scales in {inside.format.name}, the cast gives {scale}")


class Fprop(Gemm):
    """Y = X W^T, sums along the input features."""

    OPERANDS = (("activation", 1), ("weight", 1))
    activation: Cast | None = None
    weight: Cast | None = None


class Dgrad(Gemm):
    """dX = dY W, sums along the output features."""

    OPERANDS = (("gradient", 1), ("weight", 0))
    gradient: Cast | None = None
    weight: Cast | None = None


class Wgrad(Gemm):
    """dW = dY^T X, sums along the tokens."""

    OPERANDS = (("gradient", 0), ("activation", 0))
    gradient: Cast | None = None
    activation: Cast | None = None


class Cache(Spec):
    """What is kept from forward to backward, in which form; null: BF16, as it was."""

    linear_input: Cast | None = None
    """Inputs of Linears, for Wgrad, which casts them again along the tokens."""
    attention_output: Cast | None = None
    """Input of the Linear after attention; the backward pass of attention reads it too."""
    attention_power_of_two: bool = False
    """Whether Wgrad casts that input again with power-of-two scales, whatever the scales of other inputs are."""
    swiglu_input: Cast | None = None
    """Inputs of SwiGLU, whose output is computed again from them."""


class Dispatch(Spec):
    """What crosses the network on the MoE path, in which form; null: BF16. The combine is BF16 either way."""

    activation: Cast | None = None
    """Activations before the experts' up-projection, whose Fprop takes them as they are."""
    gradient: Cast | None = None
    """Gradients before the backward pass of the experts' down-projection, whose Dgrad takes them as they are."""


class Moments(Spec):
    """Formats in which AdamW keeps its moments; under 16 bits with an FP32 scale per 128 elements."""

    first: FormatRef = FORMATS["bf16"]
    second: FormatRef = FORMATS["bf16"]


Component = Literal["embedding", "head", "gating", "normalisation", "attention"]
COMPONENTS: tuple[Component, ...] = ("embedding", "head", "gating", "normalisation", "attention")


class Recipe(Spec):
    """One recipe. The default of every rule is BF16 training."""

    recipe: str = Field(pattern=SLUG)
    """Short name."""
    title: str = ""
    source: str = ""
    """Who trains like this, and where it is written."""
    fprop: Fprop = Fprop()
    dgrad: Dgrad = Dgrad()
    wgrad: Wgrad = Wgrad()
    high_precision: tuple[Component, ...] = COMPONENTS
    """What stays in BF16 and FP32. Taken off the list: embedding vectors and the attention operator's operands are cast
    as Fprop casts activations, head and gating run through the three GEMMs, normalisation computes in BF16."""
    cache: Cache = Cache()
    dispatch: Dispatch = Dispatch()
    moments: Moments = Moments()
    master_weights: FormatRef = FORMATS["fp32"]
    """Format of the weights that the optimizer updates."""
    gradients: FormatRef = FORMATS["fp32"]
    """Format in which weight gradients are summed over micro-batches."""

    @property
    def gemms(self) -> tuple[Fprop, Dgrad, Wgrad]:
        return self.fprop, self.dgrad, self.wgrad

    @cached_property
    def sha256(self) -> str:
        """Hash of what is computed: names and prose do not count."""
        data = self.model_dump(mode="json", exclude={"recipe", "title", "source"})
        for name, gemm in zip(("fprop", "dgrad", "wgrad"), self.gemms, strict=True):
            data[name]["instruction"] = None if gemm.instruction is None else numerics(gemm.instruction)
        data["high_precision"] = sorted(data["high_precision"])
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def on(
        self,
        instruction: Instruction,
        promote_every: int | None = None,
        scale_rounding: Rounding = Rounding.UP,
        weight_columns: int | None = BLOCK,
    ) -> Recipe:
        """The same rules with all three GEMMs on one instruction, alone or promoted.

        Operands are cast as the instruction takes them: in groups along K of its own scales where it has them (of weights,
        `weight_columns` outputs share a scale, if its groups allow; None: those of its groups), else with one FP32 scale per
        tensor.
        """
        changed = _fields(self)
        for name, gemm in zip(("fprop", "dgrad", "wgrad"), self.gemms, strict=True):
            casts: dict[str, Cast | None] = {}
            for side, (field, k_axis), old in zip("ab", gemm.OPERANDS, gemm.casts, strict=True):
                fmt = getattr(instruction, side)
                scale: ScaleOperand | None = getattr(instruction.scale, side) if instruction.scale else None
                casts[field] = None
                if fmt == FORMATS["bf16"] and scale is None:
                    continue
                group = None
                if scale is not None:
                    along, across = scale.group if side == "b" else scale.group[::-1]
                    if field == "weight" and weight_columns and weight_columns % across == 0:
                        across = weight_columns
                    group = (across, along) if k_axis == 1 else (along, across)
                kept = {} if old is None else {"rounding": old.rounding, "floor": old.floor}
                form = scale.format if scale else FORMATS["fp32"]
                casts[field] = Cast(to=fmt, group=group, scale=form, scale_rounding=scale_rounding, **kept)
            changed[name] = type(gemm)(instruction=instruction, promote_every=promote_every, **casts)
        return Recipe(**changed)

    def summed_exactly(self) -> Recipe:
        """The same casts with FP32 sums in place of every instruction's."""
        changed = _fields(self)
        for name, gemm in zip(("fprop", "dgrad", "wgrad"), self.gemms, strict=True):
            changed[name] = type(gemm)(**{**_fields(gemm), "instruction": None, "promote_every": None})
        return Recipe(**changed)


def _fields(model: Spec) -> dict[str, Any]:
    """The fields of a model, without what it has cached."""
    return {name: getattr(model, name) for name in type(model).model_fields}


def numerics(instruction: Instruction) -> dict[str, Any]:
    """What an instruction computes, without its names and prose, and without m and n."""
    data = instruction.model_dump(mode="json", exclude={"name", "description", "source", "checked", "shape"})
    data["k"] = instruction.shape.k
    if instruction.scale:
        data["scale"]["onto"] = instruction.scaled_stage
    data["stages"] = list(data["stages"].values())
    return data


def recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name_or_path: str | Path, change: dict[str, Any] | None = None) -> Recipe:
    """A recipe by name, or of a file, with `change` merged in.

    Raises InputError for an unknown name and for every place where the file is wrong.
    """
    name = str(name_or_path)
    if not is_path(name) and name not in recipes():
        hint = suggest(name, recipes()) or f"one of: {', '.join(recipes())}; or a file"
        raise InputError.of(f"no recipe is called `{name}`", hint)
    return parse_recipe(read_yaml(name if is_path(name) else FOLDER / f"{name}.yaml"), change)


def parse_recipe(document: Document, change: dict[str, Any] | None = None) -> Recipe:
    """The recipe a document describes, with `change` merged in. Raises InputError."""
    data = merge(document.data, change or {})
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise InputError(explain(document, error, Recipe, data)) from None
