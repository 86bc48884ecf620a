"""Which settings suit a model and a size of GPU, by the memory that preflight estimates. Pure."""

from dataclasses import dataclass

from dreambooth_trainer.models.published import PublishedModel

GRADIENT = 4 / 1.024**3
"""GiB for a billion trained weights: several GPUs keep the gradients allocated."""


@dataclass(frozen=True)
class Recipe:
    """Settings of a job.

    Args:
        name: Heading of the page.
        memory: The field of `GpuMemory` that says what they need.
        use: What they are for, and what they cost.
        settings: Parts of `spec`, as YAML; `{source}` stands for the model.
        gpus: The fewest that they are for.
    """

    name: str
    memory: str
    use: str
    settings: str
    gpus: int = 1

    @property
    def is_full(self) -> bool:
        """Whether all weights of the denoiser are trained."""
        return "method: full" in self.settings

    def needed(self, model: PublishedModel, gpus: int) -> float | None:
        """GiB on each of so many GPUs, with one image and one class image per step.

        Of full fine-tuning on several GPUs that are not sharded, it is an upper bound.

        Returns:
            None: Not measured, as a better recipe fits the smallest GPU.
        """
        needed: float | None = getattr(model.memory, self.memory) if model.memory else None
        if needed is not None and self.is_full and gpus > 1 and self.gpus == 1:
            needed += model.parameters * GRADIENT
        return needed


FULL = """\
model:
  source: {source}
training:
  method: full
  learningRate: 5.0e-6
  steps: 800
"""
LORA = """\
model:
  source: {source}
training:
  method: lora
  steps: 800
"""
CHECKPOINTING = "  gradientCheckpointing: true\n"
OFFLOADED = "runtime:\n  offload: {{}}\n"
SHARDED = "runtime:\n  gpusPerNode: 8\n  strategy: fsdp\n"


def _quantized(denoiser: str, text_encoders: str = "") -> str:
    """A LoRA with checkpointing on quantized weights."""
    source = "  source: {source}\n"
    lines = f"  quantization:\n    denoiser: {denoiser}\n"
    if text_encoders:
        lines += f"    textEncoders: {text_encoders}\n"
    return LORA.replace(source, source + lines) + CHECKPOINTING


RECIPES = (
    Recipe("full", "full", "All weights of the denoiser are trained.", FULL),
    Recipe(
        "full-checkpointed",
        "full_checkpointed",
        "As `full`; each step takes longer.",
        FULL + CHECKPOINTING,
    ),
    Recipe(
        "full-fsdp",
        "full_sharded",
        "As `full-checkpointed`, with the denoiser divided among 8 GPUs, which need fast links. See"
        " [Training options](training.md#a-model-that-does-not-fit-on-one-gpu).",
        FULL + CHECKPOINTING + SHARDED,
        gpus=8,
    ),
    Recipe("lora", "lora", "A LoRA, on weights in bf16.", LORA),
    Recipe(
        "lora-checkpointed",
        "lora_checkpointed",
        "As `lora`; each step takes longer.",
        LORA + CHECKPOINTING,
    ),
    Recipe(
        "lora-int8",
        "lora_int8",
        "As `lora-checkpointed`, with the frozen weights in 8 bits. `fp8` takes as much memory, and"
        " rounds more.",
        _quantized("int8"),
    ),
    Recipe(
        "lora-nf4",
        "lora_nf4",
        "QLoRA: the frozen weights in 4.5 bits.",
        _quantized("nf4"),
    ),
    Recipe(
        "lora-nf4-text-int8",
        "qlora_checkpointed",
        "The text encoders in 8 bits too: their embeddings of prompts differ a little.",
        _quantized("nf4", "int8"),
    ),
    Recipe(
        "lora-nf4-text",
        "lora_nf4_text",
        "The text encoders in 4.5 bits too: their embeddings differ more.",
        _quantized("nf4", "nf4"),
    ),
    Recipe(
        "lora-nf4-768",
        "lora_nf4_small",
        "As `lora-nf4-text`, at 768 pixels: fine detail suffers.",
        _quantized("nf4", "nf4") + "  resolution: 768\n",
    ),
    Recipe(
        "lora-nf4-offload",
        "lora_nf4_offload",
        "As `lora-nf4-text`, with the frozen weights in the host's memory, which has to be large"
        " enough. Steps take longer on slow links. See [Training"
        " options](training.md#frozen-weights-on-the-host).",
        _quantized("nf4", "nf4") + OFFLOADED,
    ),
)
"""From the best result to the least memory; what needs a fast link to the host comes last."""


def choose_recipe(model: PublishedModel, size: float, gpus: int = 1) -> Recipe | None:
    """The first of `RECIPES` that fits GPUs of `size` GiB; None: none does."""
    for recipe in RECIPES:
        needed = recipe.needed(model, gpus)
        if recipe.gpus <= gpus and needed is not None and needed <= size:
            return recipe
    return None
