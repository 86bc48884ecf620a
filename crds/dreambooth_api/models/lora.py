"""The adapters that are trained instead of the weights."""

from typing import Annotated, Literal

from pydantic import Field

from dreambooth_api.schema.base import ApiModel, ModuleName, NullIsAbsent
from dreambooth_api.schema.rules import rule

AdapterType = Literal["lora", "dora", "lokr", "loha"]
Alpha = Annotated[float, Field(gt=0, le=4096)]
LoraTargets = Annotated[list[ModuleName], Field(min_length=1, max_length=32)]
Rank = Annotated[int, Field(ge=1, le=1024)]
TargetPreset = Literal["attention", "linear", "convolutions"]
EMPTY_PATTERN = "an empty pattern fits no module; name the end of a module's name, or use *"


class Lora(ApiModel):
    """Low-rank adapters (method `lora`)."""

    type: AdapterType = "lora"
    """What is added to each weight. `lora`: the product of two matrices (Hu et al. 2021). `dora`:
    the same, with the length of each row trained by itself (Liu et al. 2024). `lokr`: a Kronecker
    product, which has the fewest weights. `loha`: the elementwise product of two LoRAs. The last
    two are those of LyCORIS (Yeh et al. 2023)."""

    rank: Rank = 16
    """Rank of the adapters."""

    alpha: Alpha | None = None
    """Scale of the adapters is alpha / rank. Default: the rank."""

    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (Kalajdzievski 2023), so that `alpha` suits every rank.
    Exports hold the alpha that has the same effect with alpha / rank."""

    init: Literal["default", "pissa"] = "default"
    """How adapters start. `default`: without effect. `pissa`: at the largest singular values of the
    weights, which are trained instead of noise (Meng et al. 2024). The export has twice the rank,
    and fits the original model."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' input, for `lora` and `dora`."""

    target_preset: TargetPreset | None = None
    """Which modules get an adapter. `attention`: those that the model names, its attention's
    projections. `linear`: every linear layer of its blocks. `convolutions`: these, and every
    convolution of its blocks. Default: `attention`."""

    targets: LoraTargets | None = None
    """Modules of the denoiser that get an adapter, by the end of their names, instead of a
    preset."""

    rank_pattern: Annotated[dict[str, Rank], Field(max_length=64), NullIsAbsent] = {}
    """Other ranks, by pattern: the end of a module's name, where `*` stands for any text. The
    longest pattern that fits a module counts."""

    alpha_pattern: Annotated[dict[str, Alpha], Field(max_length=64), NullIsAbsent] = {}
    """Other alphas, by pattern. A module of another rank, and no pattern here, keeps `alpha`, if it
    is set."""

    decompose_factor: Annotated[int, Field(ge=2, le=1024)] | None = None
    """Rows and columns of the smaller matrix of `lokr`: for a size that it does not divide, the
    nearest smaller divisor. Default: near the square root of each size."""

    @rule(
        "rslora",
        "!self.rslora || self.type in ['lora', 'dora']",
        "is for the types lora and dora; set one of them, or remove it",
    )
    def _lycoris_has_one_scale(self) -> bool:
        return not self.rslora or self.type in ("lora", "dora")

    @rule(
        "alpha",
        "!self.rslora || has(self.alpha)",
        "is required with rslora, which has no effect on the default scale of 1; set it, or remove"
        " rslora",
    )
    def _rslora_scales_an_alpha(self) -> bool:
        return not self.rslora or self.alpha is not None

    @rule(
        "init",
        "self.init == 'default' || self.type == 'lora'",
        "pissa is for type lora; set type to lora, or remove init",
    )
    def _pissa_starts_a_lora(self) -> bool:
        return self.init == "default" or self.type == "lora"

    @rule(
        "dropout",
        "self.dropout == 0.0 || self.init == 'default'",
        "must be 0 with pissa, which would not start at the base model; remove it, or remove init",
    )
    def _pissa_starts_at_the_base_model(self) -> bool:
        return self.dropout == 0 or self.init == "default"

    @rule(
        "dropout",
        "self.dropout == 0.0 || self.type in ['lora', 'dora']",
        "is for the types lora and dora; set one of them, or remove it",
    )
    def _lycoris_has_no_dropout(self) -> bool:
        return self.dropout == 0 or self.type in ("lora", "dora")

    @rule(
        "decomposeFactor",
        "!has(self.decomposeFactor) || self.type == 'lokr'",
        "is for type lokr; set type to lokr, or remove it",
    )
    def _only_lokr_has_a_factor(self) -> bool:
        return self.decompose_factor is None or self.type == "lokr"

    @rule("rankPattern", "!('' in self.rankPattern)", EMPTY_PATTERN)
    def _rank_patterns_name_modules(self) -> bool:
        return "" not in self.rank_pattern

    @rule("alphaPattern", "!('' in self.alphaPattern)", EMPTY_PATTERN)
    def _alpha_patterns_name_modules(self) -> bool:
        return "" not in self.alpha_pattern

    @rule(
        "targetPreset",
        "!has(self.targetPreset) || !has(self.targets)",
        "set targetPreset or targets, not both; remove one of them",
    )
    def _one_choice_of_targets(self) -> bool:
        return self.target_preset is None or self.targets is None
