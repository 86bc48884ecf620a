"""Frozen weights in few bits: what is stored, where, and what it stands for."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dreambooth_api.models.model import WeightFormat
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models.quantization.formats import dequantize, quantize
from dreambooth_trainer.models.quantization.linear import QuantizedLinear

CPU = torch.device("cpu")
STORAGE = Storage(StorageSettings())
ERRORS: dict[WeightFormat, float] = {"nf4": 0.1, "fp8": 0.03, "int8": 0.01}
"""Of normally distributed weights, relative to their deviation."""
BITS: dict[WeightFormat, float] = {"nf4": 4.5, "fp8": 8.25, "int8": 8.25}


def round_trip(weight: Tensor, format: WeightFormat) -> Tensor:
    return dequantize(*quantize(weight, format), format, weight.shape, weight.dtype)


@pytest.mark.parametrize("format", ERRORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_is_rounded_a_little(format: WeightFormat, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = (torch.randn(96, 128) * torch.logspace(-3, 1, 96)[:, None]).to(dtype)
    codes, scales = quantize(weight, format)
    bits = 8 * (codes.nbytes + scales.nbytes) / weight.numel()
    assert bits == BITS[format]
    found = dequantize(codes, scales, format, weight.shape, dtype)
    assert found.dtype == dtype
    errors = (found - weight).float().norm(dim=1) / weight.float().norm(dim=1)
    assert errors.max() < 1.2 * ERRORS[format]


@pytest.mark.parametrize("format", ERRORS)
def test_odd_and_empty_weights_are_kept(format: WeightFormat) -> None:
    weight = torch.zeros(3, 5)
    assert round_trip(weight, format).equal(weight)
    weight[1, 2] = -3.5
    torch.testing.assert_close(round_trip(weight, format), weight)


@pytest.mark.parametrize("format", ERRORS)
@pytest.mark.parametrize("autocast", [False, True])
def test_a_layer_computes_and_differentiates_as_its_weight_does(
    format: WeightFormat, autocast: bool
) -> None:
    torch.manual_seed(0)
    source = nn.Linear(48, 32)
    layer = QuantizedLinear(source, format)
    plain = nn.Linear(48, 32)
    plain.load_state_dict({"weight": layer.weight, "bias": source.bias})
    results = []
    for each in (layer, plain.requires_grad_(False)):
        torch.manual_seed(1)
        values = torch.randn(2, 5, 48, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = each(values)
        output.float().square().sum().backward()
        results += [(output, values.grad)]
    assert results[0][0].equal(results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_the_weight_is_not_kept_for_the_backward_pass() -> None:
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    layer = QuantizedLinear(nn.Linear(48, 32), "int8")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        functional.relu(layer(torch.randn(2, 48, requires_grad=True)))
    assert [each.shape for each in saved] == [(2, 32)]
