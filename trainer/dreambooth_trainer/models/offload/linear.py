"""A frozen linear layer whose weight waits in host memory."""

import torch
from torch import Tensor, nn

from dreambooth_api.models.model import WeightFormat
from dreambooth_trainer.models.offload.window import OffloadedBlock
from dreambooth_trainer.models.quantization.formats import dequantize
from dreambooth_trainer.models.quantization.linear import FrozenLinear, QuantizedLinear


class OffloadedLinear(FrozenLinear):
    """A layer whose weight, or the codes that it is made from, come with those of its block.

    Args:
        layer: What it stands for.
        block: Holds `stored(layer)`.
        first: Position of the first of these among the block's tensors.
    """

    def __init__(self, layer: nn.Linear, block: OffloadedBlock, first: int) -> None:
        super().__init__(layer)
        self._format: WeightFormat | None = None
        if isinstance(layer, QuantizedLinear):
            self._format, self._dtype = layer.format, layer.dtype
        else:
            self._dtype = layer.weight.dtype
        self._block = block
        self._first = first

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight on the device, [outputs, inputs]: not to be kept, see `OffloadedBlock`."""
        tensors = self._block.on_device()
        if self._format is None:
            return tensors[self._first]
        codes, scales = tensors[self._first : self._first + 2]
        shape = torch.Size((self.out_features, self.in_features))
        return dequantize(codes, scales, self._format, shape, self._dtype)


def stored(layer: nn.Linear) -> list[Tensor]:
    """What is kept of a layer's weight: itself, or codes and scales."""
    if isinstance(layer, QuantizedLinear):
        return [layer.codes, layer.scales]
    return [layer.weight.detach()]
