"""The model families that can be trained. A new one is a file in `families/`, and a line here."""

from collections.abc import Mapping

from dreambooth_trainer.models.families.chroma import Chroma
from dreambooth_trainer.models.families.flux import Flux
from dreambooth_trainer.models.families.flux2_dev import Flux2Dev
from dreambooth_trainer.models.families.flux2_klein import Flux2Klein
from dreambooth_trainer.models.families.krea2 import Krea2
from dreambooth_trainer.models.families.qwen_image import QwenImage
from dreambooth_trainer.models.families.sana import Sana
from dreambooth_trainer.models.families.sd3 import StableDiffusion3
from dreambooth_trainer.models.families.sdxl import StableDiffusionXL
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.models.families.z_image import ZImage
from dreambooth_trainer.models.family import Family

FAMILIES: Mapping[str, type[Family]] = {
    "ChromaPipeline": Chroma,
    "Flux2KleinPipeline": Flux2Klein,
    "Flux2Pipeline": Flux2Dev,
    "FluxPipeline": Flux,
    "Krea2Pipeline": Krea2,
    "StableDiffusionPipeline": StableDiffusion,
    "SanaPipeline": Sana,
    "QwenImagePipeline": QwenImage,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "ZImagePipeline": ZImage,
}
"""By the pipeline class that model_index.json names."""
