"""Tiny random encoders of scores in the layouts of the published ones: files, names, settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

from tests.corpus.families.parts import write_json
from tests.corpus.families.tokenizers import write_clip, write_gemma

SIDE = 32
"""Pixels of what the models get: 224 with the published ones."""
TOWER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2
}  # fmt: skip
VISION = TOWER | {"image_size": SIDE, "patch_size": 8}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
OPENAI = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def write_encoder(name: str, folder: Path) -> Path:
    """Write the encoder of a name in `ENCODERS`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ENCODERS[name](folder)
    return folder


def dino(folder: Path) -> None:
    """facebook/dino-vits16: a plain number as size, weights as a pickle, no pooling layer."""
    model = ViTModel(ViTConfig(**VISION), add_pooling_layer=False)
    model.save_pretrained(folder)
    _pickle(model, folder)
    write_json(
        folder / "preprocessor_config.json",
        {
            "do_normalize": True, "do_resize": True, "resample": 2, "size": SIDE, **IMAGENET,
            "feature_extractor_type": "ViTFeatureExtractor",
        },
    )  # fmt: skip


def dinov2(folder: Path) -> None:
    """facebook/dinov2-base: resized beyond the crop, trained at a larger size."""
    Dinov2Model(Dinov2Config(**TOWER, image_size=56, patch_size=8)).save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", _bit())


def dinov2_with_registers(folder: Path) -> None:
    """facebook/dinov2-with-registers-base."""
    config = Dinov2WithRegistersConfig(**TOWER, image_size=56, patch_size=8)
    Dinov2WithRegistersModel(config).save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", _bit())


def dinov3(folder: Path) -> None:
    """facebook/dinov3-vitb16-pretrain-lvd1689m: a processor that exists for torchvision alone."""
    DINOv3ViTModel(DINOv3ViTConfig(**VISION, num_register_tokens=4)).save_pretrained(folder)
    write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": None, "do_center_crop": None, "do_normalize": True, "do_rescale": True,
            "do_resize": True, "image_processor_type": "DINOv3ViTImageProcessorFast",
            "resample": 2, "rescale_factor": 1 / 255, **IMAGENET, "size": _square(),
        },
    )  # fmt: skip


def clip(folder: Path) -> None:
    """openai/clip-vit-base-patch32: weights as a pickle, plain numbers as sizes."""
    words = write_clip(folder)
    text = TOWER | {"vocab_size": words, "bos_token_id": words - 2, "eos_token_id": words - 1}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24))
    model.save_pretrained(folder)
    _pickle(model, folder)
    write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": SIDE, "do_center_crop": True, "do_normalize": True, "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor", **OPENAI, "resample": 3,
            "size": SIDE,
        },
    )  # fmt: skip


def siglip2(folder: Path) -> None:
    """google/siglip2-base-patch16-224: of type siglip, with Gemma's tokenizer."""
    words = write_gemma(folder)
    text = TOWER | {"vocab_size": words, "max_position_embeddings": 64, "projection_size": 32}
    SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)).save_pretrained(folder)
    write_json(
        folder / "preprocessor_config.json",
        {
            "do_convert_rgb": None, "do_normalize": True, "do_rescale": True, "do_resize": True,
            "image_processor_type": "SiglipImageProcessor", **HALF, "resample": 2,
            "rescale_factor": 1 / 255, "size": _square(),
        },
    )  # fmt: skip


ENCODERS: dict[str, Callable[[Path], None]] = {
    "DINO": dino,
    "DINOv2": dinov2,
    "DINOv2 with registers": dinov2_with_registers,
    "DINOv3": dinov3,
    "CLIP": clip,
    "SigLIP": siglip2,
}
READ_TEXT = ("CLIP", "SigLIP")
"""Names of those that encode prompts too."""


def _square() -> dict[str, int]:
    return {"height": SIDE, "width": SIDE}


def _bit() -> dict[str, Any]:
    return {
        "crop_size": _square(), "do_center_crop": True, "do_convert_rgb": True,
        "do_normalize": True, "do_rescale": True, "do_resize": True, **IMAGENET,
        "image_processor_type": "BitImageProcessor", "resample": 3, "rescale_factor": 1 / 255,
        "size": {"shortest_edge": SIDE * 8 // 7},
    }  # fmt: skip


def _pickle(model: torch.nn.Module, folder: Path) -> None:
    """The weights as repositories had them before safetensors."""
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def drop_weight(folder: Path) -> None:
    """Leave one tensor out of an encoder's safetensors."""
    weights = load_file(folder / "model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
