"""Exports under the names that ComfyUI, A1111 and sd-scripts know, on Stable Diffusion's shape."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from dreambooth_trainer.export.lora import KOHYA_FILE, LORA_FILE, export_lora
from dreambooth_trainer.export.pipeline import SINGLE_FILE, export_pipeline
from dreambooth_trainer.models.families.stable_diffusion import DEFAULTS, StableDiffusion
from dreambooth_trainer.models.names.compvis import (
    clip_weights,
    open_clip_weights,
    unet_weights,
    vae_weights,
)
from tests.corpus import web_uis
from tests.trainer.export.test_export import ABOUT, adapt

EVERY_MODULE = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj",
                "ff.net.2", "conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv_in",
                "conv_out", "conv", "linear_1", "linear_2"]  # fmt: skip


@pytest.fixture(scope="module")
def slim_sd1() -> Any:
    """The parts of Stable Diffusion 1.x with its levels and layers, but few channels."""
    text = CLIPTextConfig(
        vocab_size=3, hidden_size=8, intermediate_size=8, num_attention_heads=2,
        num_hidden_layers=12, projection_dim=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    return SimpleNamespace(
        unet=UNet2DConditionModel(
            block_out_channels=(4, 8, 12, 12), cross_attention_dim=8, attention_head_dim=2,
            norm_num_groups=2, layers_per_block=2,
        ),
        text_encoder=CLIPTextModel(text),
        vae=AutoencoderKL(
            block_out_channels=(4, 8, 12, 12), norm_num_groups=2, layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
    )  # fmt: skip


def modules(weights: dict[str, Tensor]) -> set[str]:
    return {name.rsplit(".", 1)[0] for name in weights}


def lora_modules(path: Path) -> dict[str, set[str]]:
    """What a LoRA file holds of each module."""
    found: dict[str, set[str]] = {}
    for name in load_file(path):
        module, _, tensor = name.partition(".")
        found.setdefault(module, set()).add(tensor)
    return found


def test_the_original_layout_has_its_names(slim_sd1: Any) -> None:
    unet = unet_weights(slim_sd1.unet.state_dict(), 2)
    names = {f"model.diffusion_model.{name}" for name in web_uis.original_unet_modules()}
    assert modules(unet) == names
    assert len(unet) == 686  # as published
    vae = vae_weights(slim_sd1.vae.state_dict(), 4)
    assert modules(vae) == {f"first_stage_model.{name}" for name in web_uis.original_vae_modules()}
    assert len(vae) == 248
    assert vae["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (12, 12, 1, 1)
    text = clip_weights(slim_sd1.text_encoder.state_dict())
    assert len(text) == 196
    prefix = "cond_stage_model.transformer.text_model."
    assert all(name.startswith(prefix) for name in text)


def family_of(slim_sd1: Any, unet: Any, text: Any) -> StableDiffusion:
    parts = {"vae": slim_sd1.vae, "scheduler": DDPMScheduler()}
    return StableDiffusion(SimpleNamespace(unet=unet, text_encoder=text, **parts), "")


def test_every_module_that_can_be_adapted_is_known_to_the_web_uis(
    slim_sd1: Any, tmp_path: Path
) -> None:
    unet = UNet2DConditionModel.from_config(slim_sd1.unet.config)
    text = CLIPTextModel(slim_sd1.text_encoder.config)
    adapt(unet, EVERY_MODULE, 1)
    adapt(text, ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"], 1)
    export_lora(family_of(slim_sd1, unet, text), tmp_path, ABOUT)
    found = lora_modules(tmp_path / KOHYA_FILE)
    assert all(
        tensors == {"lora_down.weight", "lora_up.weight", "alpha"} for tensors in found.values()
    )
    assert web_uis.sd_scripts_modules() <= found.keys()
    assert found.keys() <= web_uis.comfyui_modules()
    original = {name.replace(".", "_") for name in web_uis.original_unet_modules()}
    original |= {name[8:] for name in web_uis.sd_scripts_modules() if "lora_te_" in name}
    targets = {web_uis.a1111_module(name).removeprefix("transformer_") for name in found}
    assert len(targets) == len(found)
    assert targets <= original


def test_the_default_adapters_are_among_those_of_sd_scripts(slim_sd1: Any, tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_config(slim_sd1.unet.config)
    text = CLIPTextModel(slim_sd1.text_encoder.config)
    adapt(unet, list(DEFAULTS.lora_targets), 1)
    adapt(text, StableDiffusion.lora_text_targets, 1)
    export_lora(family_of(slim_sd1, unet, text), tmp_path, ABOUT)
    found = lora_modules(tmp_path / KOHYA_FILE)
    assert len(found) == 16 * 8 + 12 * 4
    assert found.keys() <= web_uis.sd_scripts_modules()


@pytest.mark.parametrize("file", [LORA_FILE, KOHYA_FILE])
def test_alpha_is_kept_without_metadata(random_pipeline: Any, tmp_path: Path, file: str) -> None:
    unet = random_pipeline.unet
    unet.add_adapter(LoraConfig(r=64, lora_alpha=1, target_modules=["to_q", "to_v", "conv1"]))
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            parameter.data.normal_()
    export_lora(StableDiffusion(random_pipeline, ""), tmp_path, ABOUT)
    layer = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = up @ down / 64

    plain = StableDiffusionPipeline.from_pretrained(random_pipeline.config._name_or_path)
    plain.load_lora_weights(load_file(tmp_path / file))
    loaded = plain.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    torch.testing.assert_close(loaded.get_delta_weight("default_0"), expected)


def test_a_lora_file_says_its_rank_to_sd_scripts(random_pipeline: Any, tmp_path: Path) -> None:
    adapt(random_pipeline.unet, ["to_q"], 1, lora_alpha=2)
    export_lora(StableDiffusion(random_pipeline, ""), tmp_path, ABOUT)
    with safe_open(tmp_path / KOHYA_FILE, "pt") as file:
        metadata = file.metadata()
        alphas = {float(file.get_tensor(n)) for n in file.keys() if n.endswith("alpha")}  # noqa: SIM118
    assert metadata["ss_network_dim"] == "4"
    assert float(metadata["ss_network_alpha"]) == 2
    assert metadata["ss_v2"] == "False"
    assert alphas == {2.0}


def test_a_pipeline_loads_from_its_single_file(random_pipeline: Any, tmp_path: Path) -> None:
    export_pipeline(StableDiffusion(random_pipeline, ""), tmp_path, ABOUT, dtype=torch.float32)
    loaded = StableDiffusionPipeline.from_single_file(
        str(tmp_path / SINGLE_FILE), config=str(tmp_path), local_files_only=True
    )
    for part in ("unet", "vae", "text_encoder"):
        expected = getattr(random_pipeline, part).state_dict()
        found = getattr(loaded, part).state_dict()
        assert found.keys() == expected.keys()
        assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def test_the_text_encoder_of_version_2_is_named_as_open_clip_names_it(slim_sd1: Any) -> None:
    weights = slim_sd1.text_encoder.state_dict()
    found = open_clip_weights(weights)
    prefix = "cond_stage_model.model."
    layer = f"{prefix}transformer.resblocks.11"
    assert len(found) == 12 * 12 + 4
    assert found[f"{layer}.attn.in_proj_weight"].shape == (24, 8)
    key = next(v for n, v in weights.items() if n.endswith("layers.11.self_attn.k_proj.bias"))
    assert torch.equal(found[f"{layer}.attn.in_proj_bias"][8:16], key)
    assert f"{layer}.mlp.c_fc.weight" in found
    assert f"{layer}.ln_2.bias" in found
    ends = ("ln_final.weight", "ln_final.bias", "positional_embedding", "token_embedding.weight")
    assert {prefix + end for end in ends} <= found.keys()


def test_a_model_without_an_original_layout_is_exported_without_the_single_file(
    random_pipeline: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random_pipeline.unet.extra = torch.nn.Linear(2, 2)
    export_pipeline(StableDiffusion(random_pipeline, ""), tmp_path, ABOUT)
    assert not (tmp_path / SINGLE_FILE).exists()
    assert "extra" in caplog.text
    assert (tmp_path / "model_index.json").is_file()
