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
from tests.trainer.families.conftest import build, load
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


def test_fused_layers_of_kohya_for_flux_are_divided(tmp_path: Path) -> None:
    """As sd-scripts names the modules of FLUX.1: query, key and value are one there.

    Not `linear1` of single blocks, for which diffusers expects the sizes of the published model.
    """
    family = load(build("flux"))
    before = {name: each.clone() for name, each in family.denoiser.named_parameters()}
    seeded = torch.Generator().manual_seed(3)
    width = family.denoiser.get_submodule("transformer_blocks.0.attn.to_q").out_features
    hidden = family.denoiser.get_submodule("single_transformer_blocks.0.proj_mlp").out_features
    clip = family.text_encoders["text_encoder"].get_submodule("encoder.layers.0.mlp.fc1")
    assert isinstance(clip, torch.nn.Linear)
    clip_before = clip.weight.detach().clone()
    shapes = {
        "double_blocks_0_img_attn_qkv": (3 * width, width),
        "double_blocks_0_img_attn_proj": (width, width),
        "double_blocks_0_txt_attn_qkv": (3 * width, width),
        "single_blocks_0_linear2": (width, width + hidden),
        "te1_text_model_encoder_layers_0_mlp_fc1": (clip.out_features, clip.in_features),
    }
    tensors, changes = {}, {}
    for name, (outputs, inputs) in shapes.items():
        down = torch.randn(4, inputs, generator=seeded)
        up = torch.randn(outputs, 4, generator=seeded)
        stem = f"lora_{name}" if name.startswith("te1") else f"lora_unet_{name}"
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        tensors[f"{stem}.alpha"] = torch.tensor(2.0)
        changes[name] = up @ down / 2
    save_file(tensors, tmp_path / "civitai.safetensors")
    given = StartAdapter(source=str(tmp_path / "civitai.safetensors"), scale=0.5)
    # The same in preflight, whose first look has no values.
    seen = read_adapter(given, STORAGE, family, "")
    assert {each.rank for each in seen.layers} == {4}
    merge_adapters(family, [given], STORAGE, ALONE)
    double, single = "transformer_blocks.0", "single_transformer_blocks.0"
    parts = {
        "double_blocks_0_img_attn_qkv": [f"{double}.attn.to_{each}" for each in "qkv"],
        "double_blocks_0_img_attn_proj": [f"{double}.attn.to_out.0"],
        "double_blocks_0_txt_attn_qkv": [f"{double}.attn.add_{each}_proj" for each in "qkv"],
        "single_blocks_0_linear2": [f"{single}.proj_out"],
    }
    for name, modules in parts.items():
        after = dict(family.denoiser.named_parameters())
        found = torch.cat([after[f"{each}.weight"] - before[f"{each}.weight"] for each in modules])
        torch.testing.assert_close(found, changes[name] * 0.5, rtol=1e-3, atol=1e-4)
    change = changes["te1_text_model_encoder_layers_0_mlp_fc1"] * 0.5
    torch.testing.assert_close(clip.weight - clip_before, change, rtol=1e-3, atol=1e-4)
