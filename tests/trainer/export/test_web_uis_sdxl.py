"""Exports of SDXL under the names that ComfyUI, A1111 and sd-scripts know."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dreambooth_trainer.export.lora import KOHYA_FILE, export_lora
from dreambooth_trainer.export.pipeline import SINGLE_FILE, export_pipeline
from dreambooth_trainer.models.families.sdxl import DEFAULTS, StableDiffusionXL
from dreambooth_trainer.models.names.compvis import open_clip_weights, unet_weights
from dreambooth_trainer.models.single_file.architectures import find_architecture
from tests.corpus import web_uis
from tests.corpus.families import sdxl
from tests.trainer.export.test_export import ABOUT, adapt
from tests.trainer.export.test_web_uis import EVERY_MODULE, lora_modules, modules


def text_config(layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=3, hidden_size=8, intermediate_size=8, num_attention_heads=2,
        num_hidden_layers=layers, projection_dim=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip


@pytest.fixture
def slim() -> Any:
    """The parts of SDXL with their levels and layers, but few channels."""
    torch.manual_seed(0)
    return SimpleNamespace(
        unet=UNet2DConditionModel(
            block_out_channels=(4, 8, 12), cross_attention_dim=16, attention_head_dim=2,
            norm_num_groups=2, layers_per_block=2, transformer_layers_per_block=[1, 2, 10],
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=32,
        ),
        vae=AutoencoderKL(),
        text_encoder=CLIPTextModel(text_config(12)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(32)),
        scheduler=EulerDiscreteScheduler(),
    )  # fmt: skip


def test_the_original_layout_has_its_names(slim: Any) -> None:
    unet = unet_weights(slim.unet.state_dict(), 2)
    names = web_uis.original_unet_modules(web_uis.SDXL)
    assert modules(unet) == {f"model.diffusion_model.{name}" for name in names}
    assert len(unet) == 1680  # as published
    text = open_clip_weights(slim.text_encoder_2.state_dict(), "conditioner.embedders.1.model.")
    assert len(text) == 32 * 12 + 5
    projection = slim.text_encoder_2.text_projection.weight
    assert torch.equal(text["conditioner.embedders.1.model.text_projection"], projection.T)


def test_every_module_that_can_be_adapted_is_known_to_the_web_uis(
    slim: Any, tmp_path: Path
) -> None:
    adapt(slim.unet, EVERY_MODULE, 1)
    for encoder in (slim.text_encoder, slim.text_encoder_2):
        adapt(encoder, ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"], 1)
    export_lora(StableDiffusionXL(slim, ""), tmp_path, ABOUT)
    found = lora_modules(tmp_path / KOHYA_FILE)
    assert all(
        tensors == {"lora_down.weight", "lora_up.weight", "alpha"} for tensors in found.values()
    )
    assert len(web_uis.sd_scripts_sdxl_modules()) == 722 + 72 + 192  # as sd-scripts logs
    assert web_uis.sd_scripts_sdxl_modules() <= found.keys()
    assert found.keys() <= web_uis.comfyui_sdxl_modules()


def test_the_default_adapters_are_among_those_of_sd_scripts(slim: Any, tmp_path: Path) -> None:
    adapt(slim.unet, list(DEFAULTS.lora_targets), 1, lora_alpha=2)
    for encoder in (slim.text_encoder, slim.text_encoder_2):
        adapt(encoder, StableDiffusionXL.lora_text_targets, 1, lora_alpha=2)
    export_lora(StableDiffusionXL(slim, ""), tmp_path, ABOUT)
    found = lora_modules(tmp_path / KOHYA_FILE)
    assert len(found) == 70 * 8 + 12 * 4 + 32 * 4
    assert found.keys() <= web_uis.sd_scripts_sdxl_modules()
    with safe_open(tmp_path / KOHYA_FILE, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert metadata["ss_v2"] == "False"
    assert (metadata["ss_network_dim"], float(metadata["ss_network_alpha"])) == ("4", 2)


@pytest.mark.parametrize(
    ("settings", "architecture"),
    [
        ({}, "sdxl"),
        ({"prediction_type": "v_prediction"}, "sdxl-v"),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, "sdxl-v-zsnr"),
    ],
)
def test_a_pipeline_loads_from_its_single_file(
    settings: dict[str, Any], architecture: str, tmp_path: Path
) -> None:
    sdxl.build(tmp_path / "model")
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "model")
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, **settings)
    export = tmp_path / "export"
    export_pipeline(StableDiffusionXL(pipeline, ""), export, ABOUT, dtype=torch.float32)
    shapes = {name: tuple(w.shape) for name, w in load_file(export / SINGLE_FILE).items()}
    assert find_architecture(shapes, {}) == architecture
    loaded = StableDiffusionXLPipeline.from_single_file(
        str(export / SINGLE_FILE), config=str(export), local_files_only=True
    )
    for part in StableDiffusionXL.modules:
        expected = getattr(pipeline, part).state_dict()
        found = getattr(loaded, part).state_dict()
        assert found.keys() == expected.keys()
        assert [name for name in found if not torch.equal(found[name], expected[name])] == []
