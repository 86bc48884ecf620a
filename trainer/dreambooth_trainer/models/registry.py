"""The model families that can be trained. A new one is a file in `families/`, and a line here."""

from collections.abc import Iterator, Mapping
from importlib import import_module

from dreambooth_trainer.models.family import Family

_CLASSES = {
    "ChromaPipeline": "chroma.Chroma",
    "Flux2KleinPipeline": "flux2_klein.Flux2Klein",
    "Flux2Pipeline": "flux2_dev.Flux2Dev",
    "FluxPipeline": "flux.Flux",
    "Krea2Pipeline": "krea2.Krea2",
    "StableDiffusionPipeline": "stable_diffusion.StableDiffusion",
    "SanaPipeline": "sana.Sana",
    "QwenImagePipeline": "qwen_image.QwenImage",
    "StableDiffusion3Pipeline": "sd3.StableDiffusion3",
    "StableDiffusionXLPipeline": "sdxl.StableDiffusionXL",
    "ZImagePipeline": "z_image.ZImage",
}


class _Families(Mapping[str, type[Family]]):
    """Imports a family when it is asked for: a job trains one, and each loads libraries."""

    def __getitem__(self, pipeline: str) -> type[Family]:
        module, _, name = _CLASSES[pipeline].partition(".")
        family: type[Family] = getattr(
            import_module(f"dreambooth_trainer.models.families.{module}"), name
        )
        return family

    def __contains__(self, pipeline: object) -> bool:
        return pipeline in _CLASSES

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


FAMILIES: Mapping[str, type[Family]] = _Families()
"""By the pipeline class that model_index.json names."""
