"""Estimates the GPU memory of a job from the shapes of its model.

Per rank, in bytes:
- each trained parameter takes 16: weight, gradient and two moments of AdamW in fp32; 4 more for the
  gradient buckets of DDP, and 4 for an average of the weights;
- each frozen one 4, or 2 in a denoiser whose adapters are trained in half precision;
- half precision keeps a copy of 2 per fp32 weight of the denoiser during a step;
- saved activations: 40 values per cell of a UNet level, channel and layer, as counted on Stable
  Diffusion's architecture by what autograd saves (38 to 40 at 256 and 512 px, and at a quarter and
  half of its width); gradient checkpointing keeps a sixth;
- 1 GiB for the CUDA context, libraries and fragmentation.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from dreambooth_api.models.training import Lora, Training
from dreambooth_trainer.models.model_config import ModelConfig

GIB = 1024**3
TRAINED, SAVED, BUCKET, AVERAGE, FULL, HALF = 16, 12, 4, 4, 4, 2
"""Bytes per parameter."""
VALUES_PER_LAYER = 40
CHECKPOINTED = 1 / 6
OVERHEAD = 1 * GIB
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class MemoryEstimate:
    """GPU memory of one rank in bytes."""

    weights: float
    """Weights, gradients and optimizer."""
    activations: float
    """Saved for the backward pass."""

    @property
    def total(self) -> float:
        """The best estimate, in bytes."""
        return self.weights + self.activations + OVERHEAD

    @property
    def certain(self) -> float:
        """Bytes that are needed even if the activations are overestimated by half."""
        return self.weights + self.activations / 1.5


def estimate_memory(
    config: ModelConfig, training: Training, images: int, ranks: int
) -> MemoryEstimate:
    """Bytes per rank to train on `images` images per forward pass, subject and class together."""
    half = training.precision != "fp32"
    unet, text = config.skeleton["unet"], config.skeleton["text_encoder"]
    frozen_unet = 0 if training.method == "full" else count_parameters(unet)
    frozen = count_parameters(config.skeleton["vae"])
    frozen += 0 if training.text_encoder.method == "full" else count_parameters(text)
    per_trained = TRAINED + (BUCKET if ranks > 1 else 0) + (AVERAGE if training.ema.enabled else 0)
    weights = _count_trained(config, training) * (per_trained + (HALF if half else 0))
    weights += frozen * FULL + frozen_unet * (HALF if half else FULL)
    return MemoryEstimate(weights, images * _activations(config, training, half))


def checkpoint_bytes(config: ModelConfig, training: Training) -> int:
    """Bytes of a checkpoint: trained weights, AdamW's moments and, with EMA, the average."""
    per_trained = SAVED + (AVERAGE if training.ema.enabled else 0)
    return _count_trained(config, training) * per_trained


def count_parameters(module: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in module.parameters())


def adapted_modules(module: nn.Module, targets: tuple[str, ...]) -> dict[str, nn.Module]:
    """The modules that get adapters: as in peft, those whose names end in a target."""
    return {
        name: part
        for name, part in module.named_modules()
        if any(name == target or name.endswith(f".{target}") for target in targets)
    }


def _count_trained(config: ModelConfig, training: Training) -> int:
    """Number of weights that train, of denoiser and text encoder."""
    unet, text = config.skeleton["unet"], config.skeleton["text_encoder"]
    lora = training.lora
    return _count_trained_of(unet, training.method, lora, tuple(lora.targets)) + _count_trained_of(
        text, training.text_encoder.method, lora, TEXT_TARGETS
    )


def _count_trained_of(module: nn.Module, method: str, lora: Lora, targets: tuple[str, ...]) -> int:
    if method == "full":
        return count_parameters(module)
    if method == "frozen":
        return 0
    parts = adapted_modules(module, targets).values()
    weights = [part.weight.shape for part in parts if isinstance(part.weight, Tensor)]
    # LoRA's B is [out, rank] and its A [rank, in]; a convolution's `in` includes its kernel.
    return sum(lora.rank * (shape[0] + shape[1:].numel()) for shape in weights)


def _activations(config: ModelConfig, training: Training, half: bool) -> float:
    """Bytes saved for the backward pass of one image."""
    unet = config.unet
    side = training.resolution // config.vae_factor
    layers: int | list[int] = unet["layers_per_block"]
    deepest = max(layers) if isinstance(layers, list) else layers
    widths: list[int] = list(unet["block_out_channels"])
    cells = sum((side >> level) ** 2 * width for level, width in enumerate(widths))
    kept = CHECKPOINTED if training.gradient_checkpointing else 1.0
    return float(cells) * (2 * deepest + 1) * VALUES_PER_LAYER * (HALF if half else FULL) * kept
