"""A LoRA of every family is merged, or trained further, under the names that tools give it."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from dreambooth_api.models.model import StartAdapter
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.export.lora import KOHYA_FILE, LORA_FILE, export_lora
from dreambooth_trainer.models import Family
from dreambooth_trainer.models.adapters.start import (
    load_adapter,
    merge_adapters,
    read_adapter,
)
from dreambooth_trainer.models.adapters.trainable import make_trainable
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.topology import Topology
from tests.trainer.conftest import MakeJob
from tests.trainer.export.test_export import ABOUT
from tests.trainer.families.conftest import load
from tests.trainer.families.test_lora import adapted, draw, training

STORAGE, ALONE = Storage(StorageSettings()), Ranks(Topology())


def test_it_has_the_same_effect_as_where_it_was_trained(
    job: MakeJob, folder: Path, family: Family, tmp_path: Path
) -> None:
    adapted(job, family)
    trained = draw(family)
    export_lora(family, tmp_path, ABOUT)
    for file in (LORA_FILE, KOHYA_FILE):
        if not (tmp_path / file).exists():
            continue
        given = StartAdapter(source=str(tmp_path / file))
        merged = load(folder)
        before = merged.model_hash
        merge_adapters(merged, [given], STORAGE, ALONE)
        assert merged.model_hash != before
        assert np.abs(draw(merged) - trained).max() <= 2, file

        further = load(folder)
        further.start = load_adapter(given, STORAGE, ALONE, further, "")
        settings = {"textEncoder": {"method": "lora"}} if family.trains_text else {}
        parameters = make_trainable(further, training(job, further, **settings))
        assert {each.shape[0] for n, each in parameters.all.items() if "lora_A" in n} == {4}
        assert np.abs(draw(further) - trained).max() <= 1, file
        # Preflight sees the same layers without their values.
        seen = read_adapter(given, STORAGE, further, "")
        shapes = [(each.part, each.module, each.down.shape) for each in seen.layers]
        loaded = [(e.part, e.module, e.down.shape) for e in further.start.layers]
        assert shapes == loaded
        assert seen.layers[0].down.is_meta


def test_the_names_of_comfyui_are_read(
    job: MakeJob, folder: Path, family: Family, tmp_path: Path
) -> None:
    """`diffusion_model.` before the module, as ai-toolkit and others write for ComfyUI."""
    if family.denoiser_part == "unet":
        return
    adapted(job, family)
    trained = draw(family)
    export_lora(family, tmp_path, ABOUT)
    tensors = {
        name.replace("transformer.", "diffusion_model.", 1): tensor
        for name, tensor in load_file(tmp_path / LORA_FILE).items()
    }
    file = tmp_path / "comfy.safetensors"
    save_file(tensors, file)
    merged = load(folder)
    merge_adapters(merged, [StartAdapter(source=str(file))], STORAGE, ALONE)
    assert np.abs(draw(merged) - trained).max() <= 2


def test_a_scale_is_that_of_diffusers(
    job: MakeJob, folder: Path, family: Family, tmp_path: Path
) -> None:
    adapted(job, family)
    export_lora(family, tmp_path, ABOUT)
    given = StartAdapter(source=str(tmp_path), scale=-0.5)
    base = load(folder)
    weights = {name: each.clone() for name, each in base.denoiser.named_parameters()}
    merge_adapters(base, [given], STORAGE, ALONE)
    halves = dict(base.denoiser.named_parameters())
    whole = load(folder)
    merge_adapters(whole, [given.model_copy(update={"scale": 1.0})], STORAGE, ALONE)
    for name, each in whole.denoiser.named_parameters():
        expected = weights[name] - 0.5 * (each - weights[name])
        torch.testing.assert_close(halves[name], expected, rtol=1e-4, atol=1e-4)
