"""The formats of quantized weights: what is stored of a weight, and what it stands for."""

import torch
from torch import Tensor

from dreambooth_api.models.model import WeightFormat

NF4_BLOCK = 64
"""Weights that share a scale in NF4 (Dettmers et al. 2023, section 3)."""
INT8_MAX = 127
FP8_MAX = 448
"""The largest number of e4m3."""


def quantize(weight: Tensor, format: WeightFormat) -> tuple[Tensor, Tensor]:
    """Round a weight [outputs, inputs] to few bits.

    Returns:
        Codes, integers: [outputs, inputs] with 8 bits; with NF4 two in a byte. And scales, fp32:
        [outputs, 1] with 8 bits; with NF4 one for each block.
    """
    if format == "nf4":
        from bitsandbytes.functional import quantize_4bit

        codes, state = quantize_4bit(
            weight.contiguous(), blocksize=NF4_BLOCK, quant_type="nf4", compress_statistics=False
        )
        return codes, state.absmax
    weight = weight.float()
    largest = weight.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    if format == "int8":
        scales = largest / INT8_MAX
        return (weight / scales).round().to(torch.int8), scales
    scales = largest / FP8_MAX
    # Kept as integers: a module's `to(dtype)` converts all that are floating-point numbers.
    return (weight / scales).to(torch.float8_e4m3fn).view(torch.uint8), scales


def dequantize(
    codes: Tensor, scales: Tensor, format: WeightFormat, shape: torch.Size, dtype: torch.dtype
) -> Tensor:
    """The weight of a shape that codes and scales of `quantize` stand for, in `dtype`."""
    if format == "nf4":
        import bitsandbytes  # noqa: F401 # defines the operator

        weight: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
            codes, scales, NF4_BLOCK, "nf4", shape, dtype
        )
        return weight
    if format == "fp8":
        codes = codes.view(torch.float8_e4m3fn)
    return codes.to(dtype).mul_(scales)
