"""Tells what model a single file holds, by the names and shapes of its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.registry import FAMILIES
from dreambooth_trainer.models.source.refusals import USE_OF_LORA, is_lora
from dreambooth_trainer.process.errors import BadModelError

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT_ENCODERS = {
    "sd1": ("cond_stage_model.transformer.",),
    "sd2": ("cond_stage_model.model.transformer.",),
    "sdxl": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
}
"""What the names of each text encoder's weights start with."""
REFINER = "conditioner.embedders.0.model."
EDM_MARKS = {"edm_mean", "edm_vpred.sigma_max"}
"""Tensors of Playground v2.5 and of CosXL."""
INPUT_LAYER = "model.diffusion_model.input_blocks.0.0.weight"
INPUT_CHANNELS = 4

TRANSFORMER_MARKS = ("double_blocks.", "joint_blocks.", "transformer_blocks.", "noise_refiner.")
"""Parts of names that transformers have, as those of FLUX, Stable Diffusion 3, Qwen-Image and
Z-Image."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """What the files of one kind hold.

    Args:
        pipeline: Class of diffusers' pipeline; it names the model's family.
        folder: Of `CONFIGS`: the configuration in the diffusers layout.
        scheduler: Settings of the scheduler that differ from the folder's.
    """

    pipeline: str
    folder: str
    scheduler: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> type[Family]:
        """The model's family."""
        return FAMILIES[self.pipeline]


SD, SDXL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
PREDICTS_V = {"prediction_type": "v_prediction"}
ARCHITECTURES = {
    "sd1": Architecture(SD, "sd1"),
    "sd2": Architecture(SD, "sd2"),
    "sd2-v": Architecture(SD, "sd2-v"),
    "sdxl": Architecture(SDXL, "sdxl"),
    "sdxl-v": Architecture(SDXL, "sdxl", PREDICTS_V),
    # Sampling starts at the last timestep, which is noise alone (Lin et al. 2023, section 3.3).
    "sdxl-v-zsnr": Architecture(
        SDXL,
        "sdxl",
        {**PREDICTS_V, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
}


def find_architecture(shapes: Shapes, metadata: Mapping[str, str]) -> str:
    """The key of `ARCHITECTURES` for a file with these tensors.

    What a model predicts cannot be seen in its weights. Stable Diffusion 2 predicts v, as 2.0 and
    2.1 at 768 px do, unless the metadata says otherwise (ModelSpec 1.0.0). SDXL predicts noise,
    unless the metadata or the empty tensors that ComfyUI looks for say v.

    Raises:
        BadModelError: The file holds no model that can be trained, or not all of one.
    """
    if any(name.startswith(REFINER) for name in shapes):
        raise BadModelError(
            "is the refiner of Stable Diffusion XL, which cannot be trained; use its base model"
        )
    found = [
        name
        for name, prefixes in TEXT_ENCODERS.items()
        if all(any(key.startswith(prefix) for key in shapes) for prefix in prefixes)
    ]
    missing = [
        part
        for part, prefix in {"UNet": UNET, "VAE": VAE}.items()
        if not any(key.startswith(prefix) for key in shapes)
    ]
    if is_lora(shapes):
        raise BadModelError(f"is a LoRA, not a model; {USE_OF_LORA}")
    if INPUT_LAYER not in shapes and any(m in name for name in shapes for m in TRANSFORMER_MARKS):
        raise BadModelError(
            "holds a transformer, such as FLUX's, and single files can be trained of Stable"
            " Diffusion 1.x, 2.x and XL alone; name a folder in the diffusers layout, such as one"
            " that docs/models.md lists"
        )
    if missing or not found:
        parts = [*missing, *([] if found else ["text encoder"])]
        raise BadModelError(
            f"holds no {' and no '.join(parts)} of Stable Diffusion; name a file with the whole"
            " model, not a VAE or a part. Models of other families are loaded as folders in the"
            " diffusers layout alone"
        )
    channels = shapes.get(INPUT_LAYER, (0, 0))[1]
    if channels != INPUT_CHANNELS:
        raise BadModelError(
            f"has a UNet that reads {channels} channels; inpainting and depth models cannot be"
            " trained"
        )
    if EDM_MARKS & shapes.keys():
        raise BadModelError(
            "was trained on the noise levels of EDM, as Playground v2.5 and CosXL were; only"
            " models with the noise schedule of Stable Diffusion can be trained"
        )
    prediction = metadata.get("modelspec.prediction_type", "")
    if found[0] == "sd2":
        return "sd2" if "epsilon" in prediction else "sd2-v"
    if found[0] == "sdxl" and ("v_pred" in shapes or prediction.startswith("v")):
        return "sdxl-v-zsnr" if "ztsnr" in shapes else "sdxl-v"
    return found[0]
