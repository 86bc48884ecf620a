"""The LoRA adapters of a model, as they are exported."""

from dataclasses import dataclass

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from dreambooth_trainer.models.clip import exported_name


@dataclass(frozen=True)
class Adapter:
    """One module's adapter: its weight changes by alpha / rank x up @ down (Hu et al. 2021)."""

    part: str
    """Folder of the pipeline's part, such as `unet` or `text_encoder`."""
    module: str
    """Name of the module within the part."""
    down: Tensor
    """[rank, inputs, ...]"""
    up: Tensor
    """[outputs, rank, ...]"""
    scale: float
    """alpha / rank"""

    @property
    def rank(self) -> int:
        """Rank of the change."""
        return len(self.down)


def find_adapters(part: str, root: nn.Module, adapter: str) -> list[Adapter]:
    """The adapters of this name in a part of the pipeline."""
    return [
        Adapter(
            part,
            exported_name(root, name),
            layer.lora_A[adapter].weight,
            layer.lora_B[adapter].weight,
            layer.scaling[adapter],
        )
        for name, layer in root.named_modules()
        if isinstance(layer, LoraLayer) and adapter in layer.scaling
    ]
