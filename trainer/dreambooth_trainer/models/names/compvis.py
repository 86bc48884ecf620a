"""Names of weights in the original layouts of Stable Diffusion and SDXL (CompVis, Stability AI).

Pure functions from diffusers' and transformers' names. The numbers of the original UNet's blocks
run on over its levels, so they depend on the layers per level.
"""

import re
from collections.abc import Container, Iterable, Mapping

import torch
from torch import Tensor

from dreambooth_trainer.models.clip import with_text_model

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_PREFIX = "cond_stage_model.transformer."
OPEN_CLIP_PREFIX = "cond_stage_model.model."

UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
"""UNet modules outside of its levels."""

UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}

VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}

OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}

OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}

LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)")
MIDDLE = re.compile(r"mid_block\.(\w+)\.(\d+)\.(.+)")
CLIP_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def unet_weights(weights: Mapping[str, Tensor], layers_per_block: int) -> dict[str, Tensor]:
    """A UNet2DConditionModel's weights in the original layout.

    Raises:
        KeyError: The original UNet has no such module.
    """
    attended = attended_blocks(weights)
    return {
        UNET_PREFIX + unet_name(name, layers_per_block, attended): weight
        for name, weight in weights.items()
    }


def attended_blocks(names: Iterable[str]) -> set[str]:
    """The blocks with attention of a UNet2DConditionModel, by the names of its weights."""
    matches = map(LEVEL.match, names)
    return {
        f"{match[1]}_blocks.{match[2]}" for match in matches if match and match[3] == "attentions"
    }


def unet_name(name: str, layers_per_block: int, attended: Container[str]) -> str:
    """The original name of a UNet2DConditionModel's weight, without prefix.

    Raises:
        KeyError: The original UNet has no such module.
    """
    if match := LEVEL.fullmatch(name):
        side, level, kind, index, rest = match.groups()
        first = int(level) * (layers_per_block + 1)
        if kind == "downsamplers":
            operation = rest.replace("conv.", "op.", 1)
            return f"input_blocks.{first + layers_per_block + 1}.0.{operation}"
        if kind == "upsamplers":
            position = 2 if f"up_blocks.{level}" in attended else 1
            return f"output_blocks.{first + layers_per_block}.{position}.{rest}"
        block = (
            f"input_blocks.{first + int(index) + 1}"
            if side == "down"
            else f"output_blocks.{first + int(index)}"
        )
        return f"{block}.1.{rest}" if kind == "attentions" else f"{block}.0.{_resnet(rest)}"
    if match := MIDDLE.fullmatch(name):
        kind, index, rest = match.groups()
        if kind == "attentions":
            return f"middle_block.1.{rest}"
        return f"middle_block.{2 * int(index)}.{_resnet(rest)}"
    module, parameter = name.rsplit(".", 1)
    return f"{UNET_ENDS[module]}.{parameter}"


def _resnet(rest: str) -> str:
    module, parameter = rest.rsplit(".", 1)
    return f"{UNET_RESNET[module]}.{parameter}"


def vae_weights(weights: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """An AutoencoderKL's weights in the original layout, where attention is 1 x 1 convolution."""
    original = {}
    for name, weight in weights.items():
        converted = _vae_name(name, levels)
        is_projection = ".mid.attn_1." in converted and weight.ndim == 2
        original[VAE_PREFIX + converted] = weight[..., None, None] if is_projection else weight
    return original


def _vae_name(name: str, levels: int) -> str:
    side, _, inner = name.partition(".")
    if match := LEVEL.fullmatch(inner):
        direction, level, kind, index, rest = match.groups()
        # The original numbers the decoder's levels from the finest.
        number = int(level) if direction == "down" else levels - 1 - int(level)
        if kind == "resnets":
            rest = rest.replace("conv_shortcut", "nin_shortcut")
            return f"{side}.{direction}.{number}.block.{index}.{rest}"
        return f"{side}.{direction}.{number}.{kind.removesuffix('rs')}.{rest}"
    if match := MIDDLE.fullmatch(inner):
        kind, index, rest = match.groups()
        if kind == "resnets":
            return f"{side}.mid.block_{int(index) + 1}.{rest}"
        module, parameter = rest.rsplit(".", 1)
        return f"{side}.mid.attn_1.{VAE_ATTENTION[module]}.{parameter}"
    return name.replace("conv_norm_out", "norm_out")


def clip_weights(weights: Mapping[str, Tensor], prefix: str = CLIP_PREFIX) -> dict[str, Tensor]:
    """The text encoder's weights as in Stable Diffusion 1.x: those of transformers."""
    return {prefix + with_text_model(name): weight for name, weight in weights.items()}


def open_clip_weights(
    weights: Mapping[str, Tensor], prefix: str = OPEN_CLIP_PREFIX
) -> dict[str, Tensor]:
    """The text encoder's weights as in Stable Diffusion 2.x: those of OpenCLIP.

    OpenCLIP keeps the projections of queries, keys and values in one tensor, and the projection of
    the pooled embedding transposed.
    """
    plain = {name.removeprefix("text_model."): weight for name, weight in weights.items()}
    original = {}
    for name, weight in plain.items():
        match = CLIP_LAYER.fullmatch(name)
        if name == "text_projection.weight":
            original["text_projection"] = weight.T
        elif match is None:
            original[OPEN_CLIP[name]] = weight
        else:
            original |= _open_clip_layer(plain, *match.groups())
    return {prefix + name: weight for name, weight in original.items()}


def _open_clip_layer(
    weights: Mapping[str, Tensor], layer: str, module: str, parameter: str
) -> dict[str, Tensor]:
    """A weight of one layer; keys and values are part of the tensor that queries give."""
    target, own = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
    if module in OPEN_CLIP_LAYER:
        weight = weights[f"{own}.{module}.{parameter}"]
        return {f"{target}.{OPEN_CLIP_LAYER[module]}.{parameter}": weight}
    if module != "self_attn.q_proj":
        return {}
    parts = [weights[f"{own}.self_attn.{part}_proj.{parameter}"] for part in "qkv"]
    return {f"{target}.attn.in_proj_{parameter}": torch.cat(parts)}
