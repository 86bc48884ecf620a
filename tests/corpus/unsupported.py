"""Models that people name by mistake, as far as their files show what they are."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Files = Mapping[str, Any]


def index(pipeline: str | list[str]) -> Files:
    """A model in the diffusers layout."""
    return {"model_index.json": {"_class_name": pipeline, "_diffusers_version": "0.39.0"}}


FOLDERS: Mapping[str, Files] = {
    "Qwen/Qwen-Image-Edit": index("QwenImageEditPipeline"),
    "Qwen/Qwen-Image-Edit-2511": index("QwenImageEditPlusPipeline"),
    "black-forest-labs/FLUX.1-Kontext-dev": index("FluxKontextPipeline"),
    "black-forest-labs/FLUX.1-Fill-dev": index("FluxFillPipeline"),
    "stable-diffusion-v1-5/stable-diffusion-inpainting": index("StableDiffusionInpaintPipeline"),
    "stabilityai/stable-diffusion-xl-refiner-1.0": index("StableDiffusionXLImg2ImgPipeline"),
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": index("WanPipeline"),
    "Lightricks/LTX-Video": index("LTXPipeline"),
    "hunyuanvideo-community/HunyuanVideo": index("HunyuanVideoPipeline"),
    "HiDream-ai/HiDream-I1-Full": index("HiDreamImagePipeline"),
    "diffusers/controlnet-canny-sdxl-1.0": {
        "config.json": {"_class_name": "ControlNetModel", "_diffusers_version": "0.20.0"},
        "diffusion_pytorch_model.safetensors": {},
    },
    "a LoRA of diffusers": {"pytorch_lora_weights.safetensors": {}, "README.md": {}},
    "a LoRA of peft": {"adapter_config.json": {"peft_type": "LORA"}, "adapter_model.bin": {}},
    "ComfyUI's models": {"checkpoints/a.safetensors": {}, "vae/b.safetensors": {}},
    "Qwen/Qwen-Image-2.1": index("QwenImage21Pipeline"),
    "black-forest-labs/FLUX.3-dev": index("Flux3Pipeline"),
    "a pipeline with code of its own": index(["my_pipeline", "MyPipeline"]),
    "an index without a pipeline": {"model_index.json": {"unet": ["diffusers", "UNet2DModel"]}},
    "city96/FLUX.1-dev-gguf": {"flux1-dev-Q8_0.gguf": {}, "README.md": {}},
}
"""Files by repository, or by kind."""

LORA_TENSORS = {
    "LyCORIS": "lycoris_unet_down_blocks_0_attentions_0_proj_in.lokr_w1",
    "old diffusers": "unet.mid_block.attentions.0.processor.to_q_lora.down.weight",
    "kohya": "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
    "diffusers": "transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight",
}
BITS_AND_BYTES = {"quant_method": "bitsandbytes", "load_in_4bit": True}
"""Of a quantized part's config.json."""


def write(files: Files, folder: Path) -> None:
    """Write the files of a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))


def write_lora(path: Path, tensor: str) -> None:
    """Write a safetensors file with one tensor."""
    shape = {tensor: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header = json.dumps(shape).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
