"""Presets and types of adapters on every family."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dreambooth_trainer.export.lora import KOHYA_FILE, export_lora, load_adapters
from dreambooth_trainer.models import Family
from dreambooth_trainer.models.adapters.targets import adapted_modules
from dreambooth_trainer.models.adapters.trainable import make_trainable
from tests.trainer.conftest import MakeJob
from tests.trainer.export.test_export import ABOUT
from tests.trainer.families.conftest import load_plain
from tests.trainer.families.test_lora import draw, training

EMBEDDERS = ("embed", "in_proj", "conv_in", "conv_out", "img_in", "txt_in", "distilled_guidance")


def test_presets_name_layers_of_the_blocks(job: MakeJob, family: Family) -> None:
    modules = {}
    for preset in ("attention", "linear", "convolutions"):
        lora = training(job, family, lora={"targetPreset": preset}).lora
        modules[preset] = adapted_modules(family, family.denoiser_part, lora)
    assert len(modules["linear"]) >= len(modules["attention"]) / 2
    assert all(isinstance(each, nn.Linear) for each in modules["linear"].values())
    assert not [name for name in modules["linear"] if name.startswith(EMBEDDERS)]
    added = modules["convolutions"].keys() - modules["linear"].keys()
    assert bool(added) == any(
        isinstance(each, nn.Conv2d) and name.count(".") > 1
        for name, each in family.denoiser.named_modules()
    )


@pytest.mark.parametrize("kind", ["dora", "lokr"])
def test_adapters_of_all_linear_layers_draw_the_same_once_exported(
    job: MakeJob, folder: Path, family: Family, tmp_path: Path, kind: str
) -> None:
    lora = {"type": kind, "rank": 4, "alpha": 2, "targetPreset": "linear"}
    trained = make_trainable(family, training(job, family, lora=lora))
    seeded = torch.Generator().manual_seed(5)
    for parameter in trained.all.values():
        parameter.data += torch.randn(parameter.shape, generator=seeded) * 0.2
    expected = draw(family)
    export_lora(family, tmp_path, ABOUT)
    assert (tmp_path / KOHYA_FILE).exists()
    plain = load_plain(folder)
    before = draw(type(family)(plain, ""))
    load_adapters(plain, tmp_path)
    assert np.abs(expected - before).mean() > 1
    assert np.abs(draw(type(family)(plain, "")) - expected).max() <= 1
