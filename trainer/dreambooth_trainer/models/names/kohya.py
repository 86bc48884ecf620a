"""LoRA files of kohya's sd-scripts, which ComfyUI and AUTOMATIC1111's web UI load too."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dreambooth_trainer.models.lora import Adapter


def kohya_lora(
    adapters: Sequence[Adapter], name_of: Callable[[Adapter], str], **metadata: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of adapters with an `alpha` for each module, and the file's metadata.

    Args:
        adapters: All of one rank and alpha.
        name_of: Prefix and module of an adapter, where the format has "_" for each dot.
        metadata: What else the header holds.
    """
    weights = with_alpha(adapters, lambda each: name_of(each).replace(".", "_"))
    first = adapters[0]
    return weights, {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(first.rank),
        "ss_network_alpha": str(first.scale * first.rank),
        **metadata,
    }


def with_alpha(adapters: Sequence[Adapter], name_of: Callable[[Adapter], str]) -> dict[str, Tensor]:
    """Tensors of adapters with an `alpha` for each module, which diffusers' own names lack.

    Args:
        adapters: The adapters.
        name_of: The module's name in the file.
    """
    weights = {}
    for each in adapters:
        name = name_of(each)
        weights[f"{name}.lora_down.weight"] = each.down
        weights[f"{name}.lora_up.weight"] = each.up
        weights[f"{name}.alpha"] = torch.tensor(each.scale * each.rank)
    return weights
