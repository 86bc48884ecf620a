"""What is published about a family of models: what tests of any family compare with."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class FamilyFacts:
    """Facts of one published repository of a family.

    Sizes are in bytes, None where the published size is not known; those of Sana and of Z-Image's
    transformer are what the same libraries save, and fit the rounded sizes that are published.
    `files` lists what
    `DiffusionPipeline.from_pretrained` loads weights from, without the variants; `others` lists
    what lies beside them. Names of LoRA files: `lora_prefixes` are diffusers' own, by component;
    `kohya_prefixes` and `comfyui_prefix` are those of the two other formats, None or empty where
    the family has none.
    """

    repository: str
    license: str
    pipeline: str
    resolution: int  # pixels along one side
    steps: int
    guidance: float
    parameters: dict[str, int]  # by component
    files: dict[str, int | None]
    lora_targets: tuple[str, ...]  # of diffusers' training script
    lora_prefixes: tuple[str, ...] = ("transformer",)
    kohya_prefixes: tuple[str, ...] = ()
    comfyui_prefix: str | None = None
    others: dict[str, int | None] = field(default_factory=dict)
    same_layout: tuple[str, ...] = ()  # other repositories that differ in numbers alone
    call: dict[str, Any] = field(default_factory=dict)  # arguments for images of any small size
    channels: int = 3  # of images: 4 with opacity
    batch_matters: bool = False  # images depend on the longest prompt of their batch
    true_cfg: bool = False  # guided by true_cfg_scale and a negative prompt for each prompt
    notes: str = ""
