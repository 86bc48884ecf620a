"""Which layers of a model are quantized, and how they take the place of its own."""

import re
from collections.abc import Iterator

import torch
from torch import nn

from dreambooth_api.models.model import Quantization, WeightFormat
from dreambooth_trainer.models.adapters.targets import layers_of_blocks
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.quantization.linear import QuantizedLinear

MODULATION = re.compile(r"(^|\.)(norm\w*|\w+_mod|adaLN_modulation|time_emb_proj)(\.|$)")
"""Layers of blocks that make scales and shifts of the noise level: an error in one number of theirs
is in all positions of the image. A third of the weights of Qwen-Image and Stable Diffusion 3."""


def quantize_part(
    family: type[Family],
    part: str,
    module: nn.Module,
    quantization: Quantization | None,
    device: torch.device,
    last: torch.device | None = None,
) -> None:
    """Replace the layers of a part that `spec.model.quantization` names, and move it to a device.

    Each weight is rounded on the device, and its full precision is freed before the next one comes.

    Args:
        family: Of the model.
        part: The folder of the part.
        module: The part, which is changed, in host memory or on the device.
        quantization: None: the part is moved only.
        device: Where weights are rounded.
        last: Where the part is moved; None: there too.
    """
    last = last or device
    for name, format in quantized_layers(family, part, module, quantization):
        layer = module.get_submodule(name).to(device)
        assert isinstance(layer, nn.Linear)
        module.set_submodule(name, QuantizedLinear(layer, format).to(last))
    module.to(last)


def quantized_layers(
    family: type[Family], part: str, module: nn.Module, quantization: Quantization | None
) -> Iterator[tuple[str, WeightFormat]]:
    """Names and formats of the linear layers that are quantized: those of the numbered blocks.

    What embeds the input, makes the output or normalizes keeps its precision. Modulation has 8 bits
    at least.
    """
    formats: dict[str, WeightFormat | None] = {}
    if quantization is not None:
        formats = dict.fromkeys(family.text_parts(), quantization.text_encoders)
        formats[family.denoiser_part] = quantization.denoiser
    if (format := formats.get(part)) is None:
        return
    # Names alone: the layers themselves would stay on the device while they are replaced.
    for name in list(layers_of_blocks(module, (nn.Linear,), family.not_adapted)):
        is_modulation = format == "nf4" and MODULATION.search(name)
        yield name, "int8" if is_modulation else format
