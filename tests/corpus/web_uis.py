"""Names of weights that ComfyUI, AUTOMATIC1111's web UI and kohya's sd-scripts know.

Facts of their loaders. Stable Diffusion 1.x: 4 levels of 2 layers (3 on the way up), attention in
all but the deepest level, a text encoder of 12 layers. SDXL: 3 levels, attention in all but the
first, text encoders of 12 and 32 layers.
"""

import re
from collections.abc import Iterator, Sequence

SD1, SDXL = (1, 1, 1, 0), (0, 2, 10)
"""Transformer blocks of each attention, by level; the middle has as many as the last that has any.
"""
LEVELS, LAYERS, TEXT_LAYERS = 4, 2, 12
ATTENTION = [
    *("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2"),
    *(f"attn{n}.to_{end}" for n in (1, 2) for end in ("q", "k", "v", "out.0")),
]
RESNET = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
TEXT = [*(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")), "mlp.fc1", "mlp.fc2"]
A1111_RESNET = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "norm1": "in_layers_0",
    "norm2": "out_layers_0",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}


def transformer(prefix: str, depth: int = 1) -> Iterator[str]:
    """Modules with weights of one spatial transformer."""
    yield from (f"{prefix}.{name}" for name in ("norm", "proj_in", "proj_out"))
    blocks = [f"{prefix}.transformer_blocks.{number}" for number in range(depth)]
    yield from (f"{block}.{name}" for block in blocks for name in ATTENTION)


def resnet(prefix: str, *, skip: bool) -> Iterator[str]:
    """Modules of one residual block of the original UNet."""
    yield from (f"{prefix}.{name}" for name in RESNET)
    if skip:
        yield f"{prefix}.skip_connection"


def original_unet_modules(depths: Sequence[int] = SD1, layers: int = LAYERS) -> set[str]:
    """Modules of the original UNet, numbered in the order in which it builds its blocks.

    Its second and third levels are wider than those before. SDXL's has pooled text as an input.
    """
    levels, deepest = len(depths), [depth for depth in depths if depth][-1]
    found = [] if depths == SD1 else ["label_emb.0.0", "label_emb.0.2"]
    found += ["time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2"]
    block = 1
    for level in range(levels):
        for layer in range(layers):
            widens = layer == 0 and level in (1, 2)
            found += resnet(f"input_blocks.{block}.0", skip=widens)
            if depths[level]:
                found += transformer(f"input_blocks.{block}.1", depths[level])
            block += 1
        if level < levels - 1:
            found.append(f"input_blocks.{block}.0.op")
            block += 1
    found += resnet("middle_block.0", skip=False)
    found += transformer("middle_block.1", deepest)
    found += resnet("middle_block.2", skip=False)
    block = 0
    for level in reversed(range(levels)):
        for layer in range(layers + 1):
            found += resnet(f"output_blocks.{block}.0", skip=True)
            position = 1
            if depths[level]:
                found += transformer(f"output_blocks.{block}.1", depths[level])
                position = 2
            if level and layer == layers:
                found.append(f"output_blocks.{block}.{position}.conv")
            block += 1
    return set(found)


def original_vae_modules(levels: int = LEVELS, layers: int = LAYERS) -> set[str]:
    """Modules of the original autoencoder of Stable Diffusion; its levels 1 and 2 widen."""
    found = ["quant_conv", "post_quant_conv"]
    for side, direction, sampler, count in (
        ("encoder", "down", "downsample", layers),
        ("decoder", "up", "upsample", layers + 1),
    ):
        found += [f"{side}.{name}" for name in ("conv_in", "conv_out", "norm_out")]
        found += [f"{side}.mid.attn_1.{name}" for name in ("norm", "q", "k", "v", "proj_out")]
        blocks = [f"{side}.mid.block_{n}" for n in (1, 2)]
        for level in range(levels):
            blocks += [f"{side}.{direction}.{level}.block.{n}" for n in range(count)]
        found += [f"{b}.{n}" for b in blocks for n in ("norm1", "conv1", "norm2", "conv2")]
        widening = (1, 2) if direction == "down" else (0, 1)
        found += [f"{side}.{direction}.{n}.block.0.nin_shortcut" for n in widening]
        sampled = range(levels - 1) if direction == "down" else range(1, levels)
        found += [f"{side}.{direction}.{n}.{sampler}.conv" for n in sampled]
    return set(found)


def sd_scripts_modules() -> set[str]:
    """Names of all 192 + 72 modules that sd-scripts trains in Stable Diffusion 1.x by default."""
    layers = {"down": LAYERS, "up": LAYERS + 1}
    blocks = [f"{side}_blocks.{n}.attentions.{i}"
              for side, levels in (("down", (0, 1, 2)), ("up", (1, 2, 3)))
              for n in levels for i in range(layers[side])]  # fmt: skip
    unet = [
        name
        for block in [*blocks, "mid_block.attentions.0"]
        for name in transformer(block)
        if "norm" not in name
    ]
    text = [f"text_model.encoder.layers.{n}.{name}" for n in range(TEXT_LAYERS) for name in TEXT]
    names = [*(f"lora_unet.{name}" for name in unet), *(f"lora_te.{name}" for name in text)]
    return {name.replace(".", "_") for name in names}


def sd_scripts_sdxl_modules() -> set[str]:
    """Names of all 722 + 72 + 192 modules that sd-scripts trains in SDXL by default."""
    attention = re.compile(r"(transformer_blocks\.\d+\.(attn|ff)|\.proj_(in|out)$)")
    names = [f"lora_unet.{name}" for name in original_unet_modules(SDXL) if attention.search(name)]
    names += [
        f"{encoder}.text_model.encoder.layers.{number}.{name}"
        for encoder, layers in (("lora_te1", 12), ("lora_te2", 32))
        for number in range(layers)
        for name in TEXT
    ]
    return {name.replace(".", "_") for name in names}


def comfyui_sdxl_modules() -> set[str]:
    """Names of all modules that ComfyUI's map has for a LoRA of SDXL: every one of the UNet."""
    unet = {f"lora_unet_{name.replace('.', '_')}" for name in original_unet_modules(SDXL)}
    return unet | {each for each in sd_scripts_sdxl_modules() if each.startswith("lora_te")}


def comfyui_modules() -> set[str]:
    """Names of all modules that ComfyUI's map has for a LoRA of Stable Diffusion 1.x."""
    ends = ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut")
    found = ["conv_in", "conv_norm_out", "conv_out"]
    found += [f"time_embedding.linear_{n}" for n in (1, 2)]
    places = [("mid_block", 1, True, 2)]
    places += [(f"down_blocks.{n}", LAYERS, n < LEVELS - 1, LAYERS) for n in range(LEVELS)]
    places += [(f"up_blocks.{n}", LAYERS + 1, n > 0, LAYERS + 1) for n in range(LEVELS)]
    for block, attentions, attended, resnets in places:
        found += [f"{block}.resnets.{n}.{end}" for n in range(resnets) for end in ends]
        for n in range(attentions if attended else 0):
            found += transformer(f"{block}.attentions.{n}")
        found += [f"{block}.{side}samplers.0.conv" for side in ("down", "up") if side in block]
    names = {f"lora_unet_{name.replace('.', '_')}" for name in found}
    return names | {name for name in sd_scripts_modules() if name.startswith("lora_te_")}


def a1111_module(name: str) -> str:
    """The module of the original model that A1111 changes for a LoRA's module, dots as "_"."""
    if match := re.fullmatch(r"lora_unet_conv_(in|out)", name):
        return {"in": "input_blocks_0_0", "out": "out_2"}[match[1]]
    if match := re.fullmatch(r"lora_unet_time_embedding_linear_(\d)", name):
        return f"time_embed_{int(match[1]) * 2 - 2}"
    if match := re.fullmatch(
        r"lora_unet_(down|up)_blocks_(\d)_(attentions|resnets)_(\d)_(.+)", name
    ):
        side, level, kind, index, rest = match.groups()
        number = 3 * int(level) + int(index) + (side == "down")
        block = f"{'input' if side == 'down' else 'output'}_blocks_{number}"
        return f"{block}_1_{rest}" if kind == "attentions" else f"{block}_0_{A1111_RESNET[rest]}"
    if match := re.fullmatch(r"lora_unet_mid_block_(attentions|resnets)_(\d)_(.+)", name):
        kind, index, rest = match.groups()
        if kind == "attentions":
            return f"middle_block_1_{rest}"
        return f"middle_block_{int(index) * 2}_{A1111_RESNET[rest]}"
    if match := re.fullmatch(r"lora_unet_down_blocks_(\d)_downsamplers_0_conv", name):
        return f"input_blocks_{3 * int(match[1]) + 3}_0_op"
    if match := re.fullmatch(r"lora_unet_up_blocks_(\d)_upsamplers_0_conv", name):
        level = int(match[1])
        return f"output_blocks_{3 * level + 2}_{2 if level else 1}_conv"
    if match := re.fullmatch(r"lora_te_(text_model_encoder_layers_\d+_.+)", name):
        return f"transformer_{match[1]}"
    raise KeyError(name)
