"""LoRA files of kohya's sd-scripts, which ComfyUI and AUTOMATIC1111's web UI load too."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dreambooth_trainer.models.adapters.exported import Adapter


def kohya_lora(
    adapters: Sequence[Adapter], name_of: Callable[[str, str], str], **metadata: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of adapters with an `alpha` for each module, and the file's metadata.

    Args:
        adapters: The adapters. The metadata has rank and alpha of the first; the tensors count.
        name_of: The name in the file, by part and module.
        metadata: What else the header holds.
    """
    first = adapters[0]
    return with_alpha(adapters, name_of), {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(first.rank),
        "ss_network_alpha": str(first.scale * first.rank),
        **metadata,
    }


def with_alpha(
    adapters: Sequence[Adapter], name_of: Callable[[str, str], str]
) -> dict[str, Tensor]:
    """Tensors of adapters with an `alpha` for each module, which diffusers' own names lack.

    Args:
        adapters: The adapters.
        name_of: The name in the file, by part and module.
    """
    weights = {}
    for each in adapters:
        name = name_of(each.part, each.module)
        weights[f"{name}.lora_down.weight"] = each.down
        weights[f"{name}.lora_up.weight"] = each.up
        weights[f"{name}.alpha"] = torch.tensor(each.scale * each.rank)
    return weights
