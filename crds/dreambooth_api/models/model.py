"""The base model, and the adapters that training begins with."""

from typing import Annotated, Literal

from pydantic import Field

from dreambooth_api.schema.base import ApiModel, ModelSource, Revision, Variant
from dreambooth_api.schema.map_list import MapList
from dreambooth_api.schema.names import has_ending, has_ending_cel
from dreambooth_api.schema.rules import rule
from dreambooth_api.schema.shared_rules import is_not_of_inference, revision_is_for_the_hub

FILE_ENDINGS = (".safetensors", ".ckpt")
PICKLED_ENDINGS = (".ckpt", ".pt", ".pth", ".bin")
WeightFormat = Literal["nf4", "int8", "fp8"]


class StartAdapter(ApiModel):
    """A LoRA that someone has trained for the base model."""

    source: ModelSource
    """Where it is: a .safetensors file or its folder, as `s3://bucket/path`, `hf://owner/name`
    (with or without a file), or an absolute path inside the pod. It may have the names of
    diffusers, peft, kohya's sd-scripts or ComfyUI."""

    revision: Revision | None = None
    """Branch, tag or commit of an `hf://` source."""

    scale: Annotated[float, Field(ge=-4, le=4)] | None = None
    """Its strength: a factor on what it changes. Default: 1."""

    @rule(
        "source",
        f"!({has_ending_cel('self.source', *PICKLED_ENDINGS)})",
        "must be a .safetensors file, as files of this kind can run code when they are loaded;"
        " convert it",
    )
    def _is_not_pickled(self) -> bool:
        return not has_ending(self.source, *PICKLED_ENDINGS)

    _is_not_of_inference = is_not_of_inference
    _revision_is_for_the_hub = revision_is_for_the_hub

    @rule(
        "scale",
        "!has(self.scale) || self.scale != 0.0",
        "must not be 0, which has no effect; change it",
    )
    def _has_an_effect(self) -> bool:
        return self.scale != 0

    @property
    def strength(self) -> float:
        """`scale` with its default."""
        return 1.0 if self.scale is None else self.scale


class Quantization(ApiModel):
    """Frozen weights in few bits while adapters are trained (QLoRA: Dettmers et al. 2023).

    Those of linear layers in the model's blocks, which are most. The result fits the model as it
    is published.
    """

    denoiser: WeightFormat = "nf4"
    """Of the part that gets adapters. `nf4`: 4.5 bits per weight; layers that modulate by the noise
    level keep 8. `int8` and `fp8`: 8 bits with a scale for each row; `int8` rounds less."""

    text_encoders: WeightFormat | None = None
    """Of the text encoders, for those that do not fit beside it otherwise. Prompts are then trained
    with embeddings that differ a little. Default: their own precision."""


class Model(ApiModel):
    """The diffusion model to fine-tune; docs/models.md lists those that can be."""

    source: ModelSource
    """Where the weights are: `s3://bucket/prefix`, `hf://owner/name`, or an absolute path inside
    the pod."""

    layout: Literal["diffusers", "single-file"] = "diffusers"
    """`diffusers`: a folder with model_index.json. `single-file`: one .safetensors or .ckpt
    file."""

    revision: Revision | None = None
    """Branch, tag or commit of an `hf://` source. Pin a commit to make a run repeatable."""

    variant: Variant | None = None
    """Variant of the weight files, for example `fp16` for `model.fp16.safetensors`."""

    clip_skip: Annotated[int, Field(ge=2, le=12)] | None = None
    """Which layer of CLIP is read, counted back from the one that the model reads by default, which
    is 1: for Stable Diffusion 1.x as web UIs and sd-scripts count. Training, class images and
    samples use it. For Stable Diffusion 1.x, 2.x and SDXL. Default: 1."""

    adapter: StartAdapter | None = None
    """A LoRA to go on training, with method `lora`. Its ranks, alphas and modules are those of the
    new one, which replaces it."""

    merged_adapters: Annotated[list[StartAdapter], Field(max_length=8), MapList("source")] = []
    """LoRAs, LoHas and LoKrs that are merged into the base model before anything else. A LoRA that
    is trained on top needs them too, at these scales; with method `full`, the result holds
    them."""

    quantization: Quantization | None = None
    """Keep the frozen weights in few bits, for method `lora`. Unset: in `training.precision`."""

    _is_not_of_inference = is_not_of_inference

    @rule(
        "source",
        f"self.layout != 'single-file' || {has_ending_cel('self.source', '.gguf')}"
        " || self.source.endsWith('.safetensors') || self.source.endsWith('.ckpt')",
        "must be one .safetensors or .ckpt file when layout is single-file;"
        " name the file, or set layout to diffusers for a folder",
    )
    def _single_file_is_a_file(self) -> bool:
        is_file = self.source.endswith(FILE_ENDINGS)
        return self.layout != "single-file" or is_file or has_ending(self.source, ".gguf")

    @rule(
        "layout",
        "self.layout != 'diffusers'"
        " || !(self.source.endsWith('.safetensors') || self.source.endsWith('.ckpt'))",
        "must be single-file when source is one .safetensors or .ckpt file; set it to single-file",
    )
    def _diffusers_is_a_folder(self) -> bool:
        return self.layout != "diffusers" or not self.source.endswith(FILE_ENDINGS)

    @rule(
        "mergedAdapters",
        "!has(self.quantization) || size(self.mergedAdapters) == 0",
        "cannot be merged into quantized weights; remove them, or model.quantization",
    )
    def _quantized_weights_stay(self) -> bool:
        return self.quantization is None or not self.merged_adapters

    @rule(
        "adapter",
        "!has(self.adapter)"
        " || !self.mergedAdapters.exists(each, each.source == self.adapter.source)",
        "is also in mergedAdapters, so it would count twice; remove one of the two",
    )
    def _adapter_counts_once(self) -> bool:
        merged = {each.source for each in self.merged_adapters}
        return self.adapter is None or self.adapter.source not in merged

    @rule(
        "variant",
        "!has(self.variant) || self.layout == 'diffusers'",
        "has no effect on a single file; remove it",
    )
    def _single_file_has_no_variant(self) -> bool:
        return self.variant is None or self.layout == "diffusers"

    _revision_is_for_the_hub = revision_is_for_the_hub
