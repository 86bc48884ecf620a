"""Random models of the published sizes, built on the GPU in the dtypes of training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from dreambooth_api.models.model import Model, Quantization
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models.adapters.trainable import weight_dtypes
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.model_config import (
    ModelConfig,
    read_model_config,
    read_shipped_config,
)
from dreambooth_trainer.models.quantization.apply import quantize_part
from dreambooth_trainer.models.registry import FAMILIES
from dreambooth_trainer.models.single_file.architectures import ARCHITECTURES
from dreambooth_trainer.models.source.selection import library_of
from dreambooth_trainer.resolved_job import ResolvedTraining
from tests.bench.gpu.runner import NotLandedError
from tests.corpus.families import flux2_klein, sdxl
from tests.corpus.families.registry import FamilyModule

TINY_SD = Path(__file__).parents[3] / "examples" / "tiny-sd" / "model"
CORPUS: Mapping[str, FamilyModule] = {"sdxl": sdxl, "flux2_klein": flux2_klein}


def read_config(name: str, folder: Path, tiny: bool) -> ModelConfig:
    """The configuration of a model: `sd15` or a key of `CORPUS`.

    Raises:
        NotLandedError: The trainer has no such family.
    """
    if name == "sd15":
        return _read(TINY_SD) if tiny else read_shipped_config(ARCHITECTURES["sd1"])
    module = CORPUS[name]
    if module.FACTS.pipeline not in FAMILIES:
        raise NotLandedError(f"the trainer has no family for {module.FACTS.pipeline}")
    # The tokenizers have few words; the published vocabulary is larger, and so fits.
    module.build(folder / name)
    config = _read(folder / name)
    published = {part: module.PARTS[part].config for part in config.configs}
    return config if tiny else replace(config, configs=published)


def _read(folder: Path) -> ModelConfig:
    with Storage(StorageSettings(None, None, "auto")) as storage:
        config = read_model_config(Model(source=str(folder)), storage)
    assert config is not None
    return config


def build_family(
    config: ModelConfig,
    device: torch.device,
    training: ResolvedTraining,
    quantization: Quantization | None = None,
) -> Family:
    """The family with the libraries' initial weights, drawn on `device` in their own dtypes.

    They are quantized after that, where a job loads them one after the other.
    """
    torch.manual_seed(0)
    dtypes = weight_dtypes(config.family, training)
    parts = {}
    for part, module in config.family.modules.items():
        settings = dict(config.configs[part])
        with torch.device(device), _default_dtype(dtypes[part]):
            parts[part] = (
                module.from_config(settings)
                if library_of(module) == "diffusers"
                else module(module.config_class(**settings))
            )
        for parameter in parts[part].parameters():  # transformers makes some in fp32 whatever
            parameter.data = parameter.data.to(dtypes[part])
        quantize_part(config.family, part, parts[part], quantization, device)
    parts |= {**config.tokenizers, "scheduler": config.scheduler, **config.settings}
    return config.family(config.family.assemble(parts), "random")


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
