"""Tiny random models of every family that can be trained, in their published layouts."""

import warnings
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models import Family, load_family
from dreambooth_trainer.models.registry import FAMILIES
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.topology import Topology
from tests.corpus.families import registry

SUPPORTED = [
    name for name, module in registry.FAMILIES.items() if module.FACTS.pipeline in FAMILIES
]
SIDE = 64
"""Of the images, in pixels."""


@lru_cache
def build(name: str) -> Path:
    """The folder of a tiny model, which no test changes."""
    folder = Path(mkdtemp(prefix=f"{name}-"))
    registry.FAMILIES[name].build(folder)
    return folder


def load(folder: Path) -> Family:
    """The model as training loads it, on the CPU."""
    storage = Storage(StorageSettings())
    return load_family(Model(source=str(folder)), storage, Ranks(Topology()), torch.device("cpu"))


def load_plain(folder: Path) -> Any:
    """The model as plain diffusers loads it."""
    pipeline = registry.load_pipeline(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def call_plain(pipeline: Any, prompts: list[str], **arguments: Any) -> list[Any]:
    """Images, or their latents, by plain diffusers: of 64 x 64 pixels by default."""
    name = type(pipeline).__name__
    [facts, *_] = [m.FACTS for m in registry.FAMILIES.values() if m.FACTS.pipeline == name]
    if facts.true_cfg:
        guidance = arguments.pop("guidance_scale")
        arguments["true_cfg_scale"] = guidance
        if guidance > 1:
            arguments["negative_prompt"] = [""] * len(prompts)
    with warnings.catch_warnings():  # of DPMSolverMultistepScheduler, with NumPy 2
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        return pipeline(
            prompt=list(prompts), **{"height": SIDE, "width": SIDE, **facts.call, **arguments}
        ).images


@pytest.fixture(params=SUPPORTED, scope="session")
def folder(request: pytest.FixtureRequest) -> Path:
    """A tiny model of each family in turn."""
    return build(request.param)


@pytest.fixture
def family(folder: Path) -> Family:
    return load(folder)
