"""Training recipes: every rule of a mixed-precision training framework, as data.

The rules are those of DeepSeek-V3's FP8 framework (technical report, arXiv 2412.19437, 3.3); each can be changed. A recipe
defines the results bit for bit; torch/engines.py chooses what computes them.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PositiveInt, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from codesign.proposal.quantisation import WHOLE, Quantisation, cast_of
from codesign.workloads.gemms import Role
from isa_model.cast import Cast
from isa_model.diagnostics import SLUG, Document, InputError, at, read_yaml, suggest
from isa_model.explain import explain
from isa_model.formats import FORMATS
from isa_model.instruction import Instruction
from isa_model.library import changed, is_known, is_path, merge, raw
from isa_model.operand_fields import ScaleOperand, Scaling
from isa_model.promotion import promoted
from isa_model.stage import FormatRef, Spec

FOLDER = Path(__file__).parent / "recipes"
BLOCK = 128
"""Side of DeepSeek-V3's weight blocks and length of its tiles, in elements."""
DEFAULT_RULE = Quantisation(weight_columns=BLOCK)
"""Quantisation of operands on an instruction: weights in blocks if the groups of its scales divide them."""
HOPPER = "hopper.wgmma.m64n256k32.f32.{a}.{b}"
"""Name of today's instruction; to be completed by its operand formats."""


def _instruction(value: Any) -> Any:
    """Return the instruction of a name, or of `base` and `change` as in a proposal; pass other values on."""
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
    """Return an instruction's name if the catalogue has it, else its fields."""
    known = is_known(instruction.name) and Instruction.model_validate(raw(instruction.name)) == instruction
    return instruction.name if known else instruction.model_dump(mode="json", exclude_defaults=True)


InstructionRef = Annotated[Instruction, BeforeValidator(_instruction), PlainSerializer(_instruction_name)]
"""An instruction as its catalogue name, as `base` with a `change`, or in full."""


class GemmRecipe(Spec):
    """Casts and sums of one of the three GEMMs of a Linear.

    Groups refer to the stored tensors: activations and gradients are (tokens, features), weights (outputs, inputs).
    """

    OPERANDS: ClassVar[tuple[tuple[str, int], tuple[str, int]]]
    """Field of the cast, and axis of the stored tensor that is K; for A and for B."""

    instruction: InstructionRef | None = None
    """Instruction that sums the products; null: FP32 sums in the library's order, which are not bit-exact."""
    promote_every: PositiveInt | None = None
    """Products along K that the instruction sums before promotion to FP32 on CUDA cores; null: all of K."""
    tensor_scale: bool = False
    """True if an operand with scales of a narrow range is first scaled in FP32 so that its largest group has the largest scale,
    as for NVFP4."""

    @property
    def casts(self) -> tuple[Cast | None, Cast | None]:
        """Casts of A and B; None: BF16."""
        (a, _), (b, _) = self.OPERANDS
        return getattr(self, a), getattr(self, b)

    @cached_property
    def spec(self) -> Instruction | None:
        """Instruction that computes the sums, promotion included; None for FP32 sums.

        Promotion or the instruction applies scales of groups along K; the scale of a whole tensor multiplies D.
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
        """True if Hopper computes this GEMM: FP8 wgmma, alone or promoted every 128, with scales per tensor or 128 of K."""
        if self.instruction is None or self.spec is None or self.promote_every not in (None, 128):
            return False
        pair = self.instruction.a.name, self.instruction.b.name
        if not set(pair) <= {"e4m3", "e5m2"}:
            return False
        chip = Instruction.model_validate(raw(HOPPER.format(a=pair[0], b=pair[1])))
        if computed_fields(self.instruction) != computed_fields(chip):
            return False
        scale = self.spec.scale
        if scale is None:
            return True
        both = scale.a is not None and scale.b is not None and (scale.a.group[1], scale.b.group[0]) == (128, 128)
        return both and pair == ("e4m3", "e4m3")

    def _scaled_lengths(self) -> tuple[int | None, int | None]:
        """Return the elements along K that share a scale, of A and of B; None: no scale, or none that changes along K."""
        lengths = [
            cast.group[k_axis] if cast and cast.group and cast.scale and cast.group[k_axis] < WHOLE else None
            for cast, (_, k_axis) in zip(self.casts, self.OPERANDS, strict=True)
        ]
        return lengths[0], lengths[1]

    @model_validator(mode="after")
    def _possible(self) -> GemmRecipe:
        if self.instruction is not None and self.instruction.is_stochastic:
            message = "training does not support instructions that round stochastically: no seed is passed to them"
            raise at("instruction", message=message, hint="another rounding of its registers")
        if self.instruction is not None and not -127 <= self.instruction.scale_power <= 126:
            message = f"no FP32 number takes a constant scale of 2**{self.instruction.scale_power} back"
            raise at("instruction", message=message, hint="a `scale.power` of -127 to 126")
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
                        message=f"a scale covers {length} of K, which is not a multiple of promote_every {self.promote_every}",
                    )
            elif length and inside is None:
                raise at(
                    field,
                    message=f"nothing applies a scale per {length} of K: the instruction applies no scales",
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
        """Refuse a cast whose scales are not those that the instruction applies."""
        reach = inside.group[1 if side == "a" else 0]
        if cast is None or length is None or length % reach:
            raise at(field, message=f"the instruction takes a scale per {reach} of K; the cast has another group")
        if cast.scale is None or not inside.format.holds(cast.scale):
            scale = cast.scale.name if cast.scale else "none"
            raise at(field, message=f"the instruction takes scales in {inside.format.name}, the cast gives {scale}")


class Fprop(GemmRecipe):
    """Forward GEMM, Y = X W^T. K is the input features."""

    OPERANDS = (("activation", 1), ("weight", 1))
    activation: Cast | None = None
    """Cast of the input X; null: BF16."""
    weight: Cast | None = None
    """Cast of the weight W; null: BF16."""


class Dgrad(GemmRecipe):
    """Gradient of the input, dX = dY W. K is the output features."""

    OPERANDS = (("gradient", 1), ("weight", 0))
    gradient: Cast | None = None
    """Cast of the gradient dY; null: BF16."""
    weight: Cast | None = None
    """Cast of the weight W; null: BF16."""


class Wgrad(GemmRecipe):
    """Gradient of the weight, dW = dY^T X. K is the tokens."""

    OPERANDS = (("gradient", 0), ("activation", 0))
    gradient: Cast | None = None
    """Cast of the gradient dY; null: BF16."""
    activation: Cast | None = None
    """Cast of the input X; null: BF16."""


class Cache(Spec):
    """Casts of tensors kept from the forward to the backward pass; null: BF16."""

    linear_input: Cast | None = None
    """Cast of Linears' inputs, which Wgrad casts again along the tokens."""
    attention_output: Cast | None = None
    """Cast of the input of the Linear after attention, which the backward pass of attention reads, too."""
    attention_power_of_two: bool = False
    """True if Wgrad casts the attention output again with power-of-two scales, whatever scales other inputs have."""
    swiglu_input: Cast | None = None
    """Cast of SwiGLU's inputs, from which its output is recomputed."""


class Dispatch(Spec):
    """Casts of tensors sent to experts; null: BF16. The combine is always BF16."""

    activation: Cast | None = None
    """Cast of activations before the experts' up-projection, whose Fprop multiplies the codes received."""
    gradient: Cast | None = None
    """Cast of gradients before the experts' down-projection, whose Dgrad multiplies the codes received."""


class Moments(Spec):
    """Formats of AdamW's moments. Formats under 16 bits have an FP32 scale per 128 elements."""

    first: FormatRef = FORMATS["bf16"]
    """Format of the first moment."""
    second: FormatRef = FORMATS["bf16"]
    """Format of the second moment."""


Component = Literal["embedding", "head", "gating", "normalisation", "attention"]
COMPONENTS: tuple[Component, ...] = ("embedding", "head", "gating", "normalisation", "attention")


class Recipe(Spec):
    """Rules of mixed-precision training. Every rule's default is that of BF16 training."""

    recipe: str = Field(pattern=SLUG)
    """Short name in lower case."""
    title: str = ""
    """One line on the recipe."""
    source: str = ""
    """Public source of the rules."""
    fprop: Fprop = Fprop()
    """Forward GEMM of Linears."""
    dgrad: Dgrad = Dgrad()
    """GEMM of input gradients."""
    wgrad: Wgrad = Wgrad()
    """GEMM of weight gradients."""
    high_precision: tuple[Component, ...] = COMPONENTS
    """Components computed in BF16 and FP32. Without its entry, embedding vectors or the attention operator's operands are cast
    as Fprop casts activations, head or gating use the three GEMMs, and normalisation computes in BF16."""
    cache: Cache = Cache()
    """Tensors kept for the backward pass."""
    dispatch: Dispatch = Dispatch()
    """Tensors sent to experts."""
    moments: Moments = Moments()
    """Moments of AdamW."""
    master_weights: FormatRef = FORMATS["fp32"]
    """Format of the weights that AdamW updates."""
    gradients: FormatRef = FORMATS["fp32"]
    """Format of weight gradients summed over micro-batches."""

    @property
    def gemms(self) -> tuple[Fprop, Dgrad, Wgrad]:
        """The three GEMMs of a Linear."""
        return self.fprop, self.dgrad, self.wgrad

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of everything that affects results, which names and prose do not."""
        data = self.model_dump(mode="json", exclude={"recipe", "title", "source"})
        for name, gemm in zip(("fprop", "dgrad", "wgrad"), self.gemms, strict=True):
            data[name]["instruction"] = None if gemm.instruction is None else computed_fields(gemm.instruction)
            if not gemm.tensor_scale:
                del data[name]["tensor_scale"]  # records are older than the field
        data["high_precision"] = sorted(data["high_precision"])
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def on(
        self, instruction: Instruction, promote_every: int | None = None, rule: Quantisation = DEFAULT_RULE
    ) -> Recipe:
        """Return the recipe with all three GEMMs on one instruction, alone or promoted, and operands quantised by `rule`.

        Operands are cast in the groups of the instruction's scales, or with one FP32 scale per tensor if it applies none.
        """
        if instruction.sparsity:
            raise InputError.of(
                f"{instruction.name or 'the instruction'} is sparse, and no recipe prunes",
                "`sparsity: null` for the same sums of dense tensors",
            )
        if instruction.codebook:
            raise InputError.of(
                f"{instruction.name or 'the instruction'} looks elements up in tables, which no recipe makes",
                "`codebook: null` for the same sums, or a table of fixed numbers as a format",
            )
        if any(side.coarser for side in instruction.scales):
            raise InputError.of(
                f"{instruction.name or 'the instruction'} takes several levels of scales; a recipe's casts have one",
                "no `coarser`: the finest level alone",
            )
        changed = _fields(self)
        for name, gemm in zip(("fprop", "dgrad", "wgrad"), self.gemms, strict=True):
            casts: dict[str, Cast | None] = {}
            for side, (field, k_axis) in zip("ab", gemm.OPERANDS, strict=True):
                fmt = getattr(instruction, side)
                scale: ScaleOperand | None = getattr(instruction.scale, side) if instruction.scale else None
                if scale is not None:  # of the stored tensor
                    along, across = scale.group if side == "b" else scale.group[::-1]
                    scale = ScaleOperand(group=(across, along) if k_axis == 1 else (along, across), format=scale.format)
                role: Role = "weight" if field == "weight" else "gradient" if field == "gradient" else "activation"
                cast = cast_of(rule, fmt, role, scale, k_axis)
                casts[field] = None if fmt == FORMATS["bf16"] and cast.scale is None else cast
            given = {"promote_every": promote_every, "tensor_scale": bool(rule.tensor_scale)}
            changed[name] = type(gemm)(instruction=instruction, **given, **casts)
        return Recipe(**changed)

    def of_two_activations(self) -> Recipe:
        """Return the recipe for products such as attention's, whose B is an activation, too: Fprop's weight has no blocks."""
        weight = self.fprop.weight
        if weight is None or weight.group is None:
            return self
        weight = weight.model_copy(update={"group": (1, weight.group[1])})
        return Recipe(**{**_fields(self), "fprop": Fprop(**{**_fields(self.fprop), "weight": weight})})

    def summed_exactly(self) -> Recipe:
        """Return the recipe with the same casts and FP32 sums instead of the instructions'."""
        changed = _fields(self)
        for name, gemm in zip(("fprop", "dgrad", "wgrad"), self.gemms, strict=True):
            changed[name] = type(gemm)(**{**_fields(gemm), "instruction": None, "promote_every": None})
        return Recipe(**changed)


def _fields(model: Spec) -> dict[str, Any]:
    """Return the fields of a model without cached properties."""
    return {name: getattr(model, name) for name in type(model).model_fields}


def computed_fields(instruction: Instruction) -> dict[str, Any]:
    """Return the fields of an instruction that affect a result: no names, no prose, no m and n."""
    data = instruction.canonical({"name", "description", "source", "checked", "shape"})
    data["k"] = instruction.shape.k
    if instruction.scale:
        data["scale"]["onto"] = instruction.scaled_stage
    data["stages"] = list(data["stages"].values())
    return data


def recipes() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name_or_path: str | Path, change: dict[str, Any] | None = None) -> Recipe:
    """Return a recipe by name or file, with `change` merged in.

    Raises InputError for an unknown name, or with every fault of the file.
    """
    name = str(name_or_path)
    if not is_path(name) and name not in recipes():
        hint = suggest(name, recipes()) or f"one of: {', '.join(recipes())}; or a file"
        raise InputError.of(f"no recipe is called `{name}`", hint)
    return parse_recipe(read_yaml(name if is_path(name) else FOLDER / f"{name}.yaml"), change)


def parse_recipe(document: Document, change: dict[str, Any] | None = None) -> Recipe:
    """Return the recipe in a document, with `change` merged in. Raises InputError with every fault."""
    data = merge(document.data, change or {})
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise InputError(explain(document, error, Recipe, data)) from None
