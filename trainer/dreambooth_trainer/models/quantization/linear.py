"""Frozen linear layers that hold no weight of their own, and those whose weight is in few bits."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreambooth_api.models.model import WeightFormat
from dreambooth_trainer.models.quantization.formats import dequantize, quantize


class FrozenLinear(nn.Linear):
    """A linear layer without gradients of its own; adapters are added to it as to any other.

    Its weight is made when it is needed, in the forward pass and again in the backward pass.

    Args:
        layer: What it stands for; its bias is kept.
    """

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would create a weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight, [outputs, inputs]."""
        raise NotImplementedError

    def plain(self) -> nn.Linear:
        """A linear layer with a weight of its own."""
        with torch.device("meta"):
            layer = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        layer.weight, layer.bias = nn.Parameter(self.weight.clone()), self.bias
        return layer

    def forward(self, input: Tensor) -> Tensor:
        """As of a linear layer, [..., inputs] -> [..., outputs]."""
        output: Tensor = _Linear.apply(input, self)  # type: ignore[no-untyped-call]
        return output


class QuantizedLinear(FrozenLinear):
    """A layer whose weight is made from stored codes.

    Args:
        layer: What it stands for.
        format: Of the stored weight.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, layer: nn.Linear, format: WeightFormat) -> None:
        super().__init__(layer)
        self.format, self.dtype = format, layer.weight.dtype
        codes, scales = quantize(layer.weight.detach(), format)
        # Buffers, which DDP does not reduce and optimizers do not see.
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """What the codes stand for, [outputs, inputs], in the precision that the weight had."""
        shape = torch.Size((self.out_features, self.in_features))
        return dequantize(self.codes, self.scales, self.format, shape, self.dtype)


class _Linear(torch.autograd.Function):
    """Keeps the layer for the backward pass, and not the weight."""

    @staticmethod
    def forward(context: Any, input: Tensor, layer: FrozenLinear) -> Tensor:
        context.layer = layer
        return functional.linear(input, layer.weight, layer.bias)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        [gradient] = gradients
        return gradient @ context.layer.weight.to(gradient.dtype), None
