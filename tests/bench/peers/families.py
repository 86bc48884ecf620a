"""Which of diffusers' DreamBooth scripts trains which family, and what it wants to be told."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from tests.corpus.families import flux, flux2_klein, qwen_image, sana, sd3, sdxl, z_image
from tests.corpus.families.registry import FamilyModule

TINY_SD = Path(__file__).parents[3] / "examples" / "tiny-sd" / "model"


@dataclass(frozen=True)
class Peer:
    """A script, and the job of ours that does the same.

    Args:
        script: File of diffusers' examples/dreambooth.
        family: Writes the tiny model; None for tiny-sd.
        method: Of training.
        arguments: Beyond those that all scripts take.
        training: Settings of `spec.training` beyond those of all families.
        class_images: Made by each side, drawn beforehand for both, or none. Scripts of models of
            1024 pixels always make images of that size, in many minutes on a CPU.
        width: Factor on the channels of tiny-sd's UNet, which then has random weights. With tiny
            ones, start and overhead of the programs decide; with wide ones, the arithmetic does.
    """

    script: str
    family: FamilyModule | None = None
    method: str = "lora"
    arguments: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    class_images: Literal["made", "drawn", "none"] = "made"
    width: int = 1

    def build(self, folder: Path) -> Path:
        """The folder of the model that both train."""
        if self.family is None:
            return TINY_SD if self.width == 1 else _widen(folder, self.width)
        build: Callable[[Path], None] = self.family.build
        build(folder)
        return folder


def _widen(folder: Path, width: int) -> Path:
    shutil.copytree(TINY_SD, folder)
    config = UNet2DConditionModel.load_config(TINY_SD, subfolder="unet")
    config["block_out_channels"] = [width * each for each in config["block_out_channels"]]
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    return folder


FLUX_LAYERS = (
    "attn.to_q,attn.to_k,attn.to_v,attn.to_out.0,"
    "attn.add_q_proj,attn.add_k_proj,attn.add_v_proj,attn.to_add_out"
)
"""Those that the trainer adapts: the script's default has the MLPs of double-stream blocks too."""

PEERS = {
    "sd-full": Peer("train_dreambooth.py", method="full"),
    "sd-lora": Peer("train_dreambooth_lora.py"),
    "sd-full-wide": Peer(
        "train_dreambooth.py", method="full", width=4, class_images="drawn"
    ),
    "sd-lora-wide": Peer("train_dreambooth_lora.py", width=4, class_images="drawn"),
    "sdxl": Peer("train_dreambooth_lora_sdxl.py", sdxl),
    # As many tokens of T5 as the pipeline reads, and the trainer: the scripts' defaults are lower.
    "flux": Peer(
        "train_dreambooth_lora_flux.py", flux,
        arguments=("--max_sequence_length=512", f"--lora_layers={FLUX_LAYERS}"),
        class_images="drawn",
    ),
    # The layers that the pipeline reads: the script's default is others.
    "flux2_klein": Peer(
        "train_dreambooth_lora_flux2_klein.py", flux2_klein,
        arguments=("--text_encoder_out_layers", "9", "18", "27"), class_images="drawn",
    ),
    # With class images, the script concatenates lists as if they were tensors, and ends.
    "z_image": Peer("train_dreambooth_lora_z_image.py", z_image, class_images="none"),
    "qwen_image": Peer("train_dreambooth_lora_qwen_image.py", qwen_image, class_images="drawn"),
    "sd3": Peer(
        "train_dreambooth_lora_sd3.py", sd3,
        arguments=("--max_sequence_length=256",), class_images="drawn",
    ),
    "sana": Peer("train_dreambooth_lora_sana.py", sana, class_images="drawn"),
}  # fmt: skip
