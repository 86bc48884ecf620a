"""Adds adapters of every type to a part of the pipeline, by peft."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.lycoris_utils import LycorisLayer
from torch import Tensor, nn
from torch.nn import functional

from dreambooth_api.models.lora import Lora
from dreambooth_trainer.models.adapters.exported import START, Adapter, row_lengths
from dreambooth_trainer.models.adapters.targets import alpha_of, rank_of
from dreambooth_trainer.process import heartbeat

ADAPTER = "default"
"""The name of the adapter that is trained."""
OVERSAMPLING, ITERATIONS = 8, 8
"""Columns beyond the rank, and power iterations, of a randomised SVD."""


def add_adapters(part: nn.Module, lora: Lora, modules: Sequence[str]) -> None:
    """Add adapters that start without effect. The parameters of the adapters alone are unfrozen.

    Random values come from torch's generator.

    Args:
        part: A model of diffusers or transformers.
        lora: `spec.training.lora`.
        modules: The names of the modules to adapt.
    """
    ranks = {name: rank_of(lora, name) for name in modules}
    alphas = {name: alpha_of(lora, name) for name in modules}
    config = _config(lora, ranks, alphas)
    part.add_adapter(config, ADAPTER)  # type: ignore[operator]
    layers = [each for each in part.modules() if isinstance(each, (LoraLayer, LycorisLayer))]
    for layer in layers:
        if isinstance(layer, LycorisLayer):
            _skip_module_dropout(layer)
        elif lora.type == "dora":
            _measure_rows(layer)
    if lora.init == "pissa":
        for layer in layers:
            heartbeat.send()  # a decomposition takes seconds, and models have hundreds of layers
            _start_at_principal_components(layer, config)


def add_loaded_adapters(part: nn.Module, lora: Lora, layers: Mapping[str, Adapter]) -> None:
    """Add adapters that start as these layers, by module; they alone are unfrozen."""
    ranks = {name: each.rank for name, each in layers.items()}
    alphas = {name: each.scale * each.rank for name, each in layers.items()}
    part.add_adapter(_config(lora, ranks, alphas), ADAPTER)  # type: ignore[operator]
    for name, each in layers.items():
        layer = part.get_submodule(name)
        for matrix, values in ((layer.lora_A, each.down), (layer.lora_B, each.up)):
            parameter = matrix[ADAPTER].weight  # type: ignore[index, union-attr]
            start = torch.empty(parameter.shape, device=parameter.device)
            parameter.data = start.copy_(values.reshape(start.shape))


def _config(lora: Lora, ranks: Mapping[str, int], alphas: Mapping[str, float]) -> PeftConfig:
    """Of an adapter with these ranks and alphas, by module."""
    alpha = lora.alpha or lora.rank
    shared: dict[str, Any] = {
        "r": lora.rank,
        "target_modules": list(ranks),
        "rank_pattern": _as_patterns(ranks, lora.rank),
        "alpha_pattern": _as_patterns(alphas, alpha),
    }
    if lora.type == "lokr":
        # As LyCORIS starts it: the larger factor is zero.
        factor = lora.decompose_factor or -1
        return LoKrConfig(**shared, alpha=alpha, decompose_factor=factor, init_weights="lycoris")
    if lora.type == "loha":
        return LoHaConfig(**shared, alpha=alpha)
    return LoraConfig(
        **shared,
        lora_alpha=alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.type == "dora",
        # A normal A and a zero B, as in diffusers' scripts: training starts at the base model.
        init_lora_weights="gaussian",
    )


def _as_patterns(values: Mapping[str, float], default: float) -> dict[str, float]:
    """The values that are not the default, by peft's patterns: one regular expression for each."""
    names = defaultdict(list)
    for name, value in values.items():
        if value != default:
            names[value].append(re.escape(name))
    return {f"^({'|'.join(each)})": value for value, each in names.items()}


def _skip_module_dropout(layer: LycorisLayer) -> None:
    """Keep a layer in evaluation mode, where it differs from training by its dropout alone.

    Without any, it would still draw a number in each step, and skip its module once in 2**24 times.
    """
    layer.training = False
    stay: Callable[..., LycorisLayer] = lambda mode=True: layer  # noqa: ARG005, E731
    layer.train = stay


def _measure_rows(layer: LoraLayer) -> None:
    """Set DoRA's magnitudes to the rows' lengths in fp32; peft rounds them as the base is rounded.

    Source: Liu et al. 2024, equation 5, where the rows of a weight [outputs, inputs] are columns.
    """
    weight = layer.get_base_layer().weight
    magnitude = layer.lora_magnitude_vector[ADAPTER].weight
    magnitude.data = row_lengths(weight).view_as(magnitude)


def _start_at_principal_components(layer: LoraLayer, config: PeftConfig) -> None:
    """Start at the largest singular values of the weight (Meng et al. 2024, section 3).

    The paper subtracts the start from the frozen weight. Here, a second adapter does, which is
    frozen: the base model stays what it is, for targets of its own and for exports.
    """
    rank, scale = layer.r[ADAPTER], layer.scaling[ADAPTER]
    weight = layer.get_base_layer().weight.detach().flatten(1)
    # In fp64, and rounded: the same on other devices but for few last bits.
    up, down = principal_components(weight.double() / scale, rank)
    layer.update_layer(START, rank, layer.lora_alpha[ADAPTER], config=config)
    for name, sign in ((ADAPTER, 1), (START, -1)):
        for matrix, values in ((layer.lora_A[name], down), (layer.lora_B[name], sign * up)):
            # Contiguous, as restored moments are: a fused optimizer takes both in the same order.
            start = torch.empty(matrix.weight.shape, device=values.device)
            matrix.weight.data = start.copy_(values.reshape(start.shape))
    layer.set_adapter([ADAPTER, START])
    layer.lora_A[START].requires_grad_(False)
    layer.lora_B[START].requires_grad_(False)


def principal_components(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors U S^(1/2) [rows, rank] and S^(1/2) V [rank, columns] of the largest singular values.

    By power iterations from a fixed start (Halko et al. 2011, algorithms 4.4 and 5.1): the same on
    any device but for rounding, which checkpoints keep. Zeros follow where a matrix has fewer.
    """
    fixed = torch.Generator().manual_seed(0)
    columns = min(rank + OVERSAMPLING, *matrix.shape)
    drawn = torch.randn(matrix.shape[1], columns, generator=fixed, device="cpu")
    basis = torch.linalg.qr(matrix @ drawn.to(matrix)).Q
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    roots = values[:rank].sqrt()
    up, down = (basis @ left[:, :rank]) * roots, roots[:, None] * right[:rank]
    missing = rank - len(roots)
    return functional.pad(up, (0, missing)), functional.pad(down, (0, 0, 0, missing))
