"""Stable Diffusion models in the layouts that people have them in, made from a small random one.

File lists, indexes, variants and names of weights are those of the published repositories.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from dreambooth_trainer.models.names.compvis import (
    clip_weights,
    open_clip_weights,
    unet_weights,
    vae_weights,
)

UNET, VAE = "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"
TEXT, SAFETY = "text_encoder/model", "safety_checker/model"
TENSORS = {UNET: UNET, VAE: VAE, TEXT: "text_encoder/pytorch_model"}
"""Weights without their ending, as safetensors and as .bin."""
CLIP_VOCABULARY = 49408
Weights = dict[str, torch.Tensor]


def edit(path: Path, **values: Any) -> None:
    """Change top-level values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def add_safety_checker(model: Path, extractor: str = "CLIPImageProcessor") -> None:
    """What the index of Stable Diffusion 1.4 and 1.5 names, and training never loads."""
    edit(
        model / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", extractor],
        requires_safety_checker=True,
    )
    for name in ("safety_checker/config.json", "feature_extractor/preprocessor_config.json"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("{}")
    for name in (f"{SAFETY}.safetensors", "safety_checker/pytorch_model.bin"):
        (model / name).write_bytes(b"1.2 GB")


def add_other_formats(model: Path) -> None:
    """The files of a published repository that diffusers never reads."""
    for name in ("README.md", ".gitattributes", ".git/HEAD", "v1-5-pruned.ckpt",
                 "v1-5-pruned-emaonly.safetensors", "v1-inference.yaml",
                 f"{UNET.rsplit('/', 1)[0]}/diffusion_flax_model.msgpack"):  # fmt: skip
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"not read")


def write_variant(
    model: Path, stem: str, variant: str, change: Callable[[Weights], Weights]
) -> None:
    """Write changed weights beside the plain ones."""
    weights = load_file(model / f"{stem}.safetensors")
    save_file(change(weights), model / f"{stem}.{variant}.safetensors")


def half(weights: Weights) -> Weights:
    """In half precision."""
    return {name: value.half() for name, value in weights.items()}


def write_bin(model: Path, *, keep_safetensors: bool) -> None:
    """Write the weights as pickles, as all models had them before safetensors."""
    for stem, target in TENSORS.items():
        torch.save(load_file(model / f"{stem}.safetensors"), model / f"{target}.bin")
        if not keep_safetensors:
            (model / f"{stem}.safetensors").unlink()


def sd_1_4(model: Path) -> None:
    """Attention of the VAE under its first names, configurations without the later settings."""
    add_safety_checker(model)
    add_other_formats(model)
    write_bin(model, keep_safetensors=True)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    path = model / f"{VAE}.safetensors"
    weights = {
        re.sub(r"to_q|to_k|to_v|to_out\.0", lambda match: old[match[0]], name): value
        for name, value in load_file(path).items()
    }
    save_file(weights, path)
    config = json.loads((model / "vae" / "config.json").read_text())
    for name in ("scaling_factor", "force_upcast", "shift_factor", "latents_mean", "latents_std"):
        config.pop(name)
    (model / "vae" / "config.json").write_text(json.dumps(config))


def sd_1_5(model: Path) -> None:
    """All variants in all formats beside each other."""
    add_safety_checker(model)
    add_other_formats(model)
    write_bin(model, keep_safetensors=True)
    for stem in TENSORS:
        write_variant(model, stem, "fp16", half)
    write_variant(model, UNET, "non_ema", lambda each: {k: v + 1 for k, v in each.items()})


def sd_2_1(model: Path) -> None:
    """Predicts v; sampled by DDIM."""
    edit(model / "model_index.json", scheduler=["diffusers", "DDIMScheduler"],
         feature_extractor=["transformers", "CLIPImageProcessor"])  # fmt: skip
    edit(model / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler",
         prediction_type="v_prediction", clip_sample=False)  # fmt: skip
    for stem in TENSORS:
        write_variant(model, stem, "fp16", half)


def only_fp16(model: Path) -> None:
    """Plain weights left out, as in many uploads."""
    for stem in TENSORS:
        write_variant(model, stem, "fp16", half)
        (model / f"{stem}.safetensors").unlink()


def old_fine_tune(model: Path) -> None:
    """Names of transformers 4 in the text encoder, and a class that transformers 5 removed."""
    add_safety_checker(model, "CLIPFeatureExtractor")
    path = model / f"{TEXT}.safetensors"
    weights = {
        f"text_model.{name.removeprefix('text_model.')}": value
        for name, value in load_file(path).items()
    }
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, path, {"format": "pt"})


def sharded(model: Path) -> None:
    """The UNet in three files."""
    weights = load_file(model / f"{UNET}.safetensors")
    (model / f"{UNET}.safetensors").unlink()
    names, places = sorted(weights), {}
    for number in range(3):
        shard = f"diffusion_pytorch_model-{number + 1:05}-of-00003.safetensors"
        part = {name: weights[name] for name in names[number::3]}
        save_file(part, model / "unet" / shard, {"format": "pt"})
        places |= dict.fromkeys(part, shard)
    size = sum(value.nbytes for value in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (model / f"{UNET}.safetensors.index.json").write_text(json.dumps(index))


FOLDERS: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "SD 1.4": (sd_1_4, None),
    "SD 1.5": (sd_1_5, None),
    "SD 1.5 fp16": (sd_1_5, "fp16"),
    "SD 1.5 without EMA": (sd_1_5, "non_ema"),
    "SD 2.1": (sd_2_1, None),
    "SD 2.1 base": (add_other_formats, None),
    "only .bin": (lambda model: write_bin(model, keep_safetensors=False), None),
    "only fp16": (only_fp16, "fp16"),
    "old fine-tune": (old_fine_tune, None),
    "sharded": (sharded, None),
}
"""Layouts by name: how the random model is changed, and the variant that a job asks for."""


def published(random_model: Path, name: str, target: Path) -> Path:
    """The random model at `target`, in a layout of `FOLDERS`."""
    shutil.copytree(random_model, target)
    FOLDERS[name][0](target)
    return target


def single_file_pipeline(random_model: Path, hidden_act: str) -> Any:
    """The random model with CLIP's own vocabulary: `quick_gelu` for SD 1.x, `gelu` for 2.x."""
    pipeline = StableDiffusionPipeline.from_pretrained(random_model, safety_checker=None)
    torch.manual_seed(1)
    config = pipeline.text_encoder.config.to_dict() | {
        "vocab_size": CLIP_VOCABULARY, "hidden_act": hidden_act, "bos_token_id": 0,
        "eos_token_id": 2, "pad_token_id": 1,
    }  # fmt: skip
    pipeline.text_encoder = CLIPTextModel(CLIPTextConfig(**config))
    return pipeline


def original_weights(pipeline: Any) -> Weights:
    """A pipeline's weights under the original names."""
    text = open_clip_weights if pipeline.text_encoder.config.hidden_act == "gelu" else clip_weights
    unet, vae = pipeline.unet, pipeline.vae
    return {
        **unet_weights(unet.state_dict(), unet.config.layers_per_block),
        **vae_weights(vae.state_dict(), len(vae.config.block_out_channels)),
        **text(pipeline.text_encoder.state_dict()),
    }


def write_ckpt(weights: Weights, path: Path) -> None:
    """A checkpoint as the original training wrote it: EMA, optimizer and callbacks beside."""
    ema = {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}": value + 1
        for name, value in weights.items()
        if name.startswith("model.diffusion_model.")
    }
    torch.save(
        {
            "epoch": 1, "global_step": 470_000, "pytorch-lightning_version": "1.4.2",
            "state_dict": {**weights, **ema}, "optimizer_states": [{"state": {}}],
            "callbacks": {ModelCheckpoint: {"best_model_score": torch.tensor(1.0)}},
        },
        path,
    )  # fmt: skip


def write_configs(pipeline: Any, folder: Path, shipped: Path) -> None:
    """Configurations for single files of the random model, in place of the shipped ones."""
    for name in ("sd1", "sd2", "sd2-v"):
        pipeline.save_pretrained(folder / name)
        for path in (folder / name).rglob("*.safetensors"):
            path.unlink()
        shutil.rmtree(folder / name / "tokenizer")
        for part in ("tokenizer", "scheduler"):
            shutil.copytree(shipped / name / part, folder / name / part, dirs_exist_ok=True)
        index = json.loads((shipped / name / "model_index.json").read_text())
        edit(folder / name / "model_index.json", scheduler=index["scheduler"])
    shutil.copy(shipped / "clip-merges.txt.gz", folder)
