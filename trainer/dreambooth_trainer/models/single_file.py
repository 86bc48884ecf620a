"""Stable Diffusion in one file, as web UIs keep models; its configuration comes with the project.

The file holds weights alone, under the names of the original code (CompVis latent-diffusion).
"""

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPTokenizer

from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.model_files import FIELD, ModelFiles
from dreambooth_trainer.models.scheduler import load_scheduler
from dreambooth_trainer.models.weights import read_header
from dreambooth_trainer.process.errors import BadModelError

CONFIGS = Path(__file__).with_name("configs")
"""A folder for each architecture, in the diffusers layout without weights."""
MERGES = "clip-merges.txt.gz"
"""Merges of CLIP's byte-pair encoding, one a line (Radford et al. 2021; MIT licence)."""

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT_ENCODERS = {
    "sd1": "cond_stage_model.transformer.",
    "sd2": "cond_stage_model.model.transformer.",
}
INPUT_LAYER = "model.diffusion_model.input_blocks.0.0.weight"
INPUT_CHANNELS = 4
SD2_BASE_STEPS = 875_000
"""`global_step` in the .ckpt of Stable Diffusion 2 base, which predicts noise."""

Shapes = Mapping[str, tuple[int, ...]]


def architecture(shapes: Shapes, metadata: Mapping[str, str]) -> str:
    """`sd1`, `sd2` or `sd2-v`: the folder of `CONFIGS` for a file with these tensors.

    Nothing in the weights tells whether a Stable Diffusion 2 model predicts noise or v. It is v,
    as of 2.0 and 2.1 at 768 px, unless the metadata says otherwise (ModelSpec 1.0.0).

    Raises:
        BadModelError: The file holds no Stable Diffusion 1.x or 2.x, or not all of one.
    """
    if any(name.startswith("conditioner.") for name in shapes):
        raise BadModelError("is Stable Diffusion XL; only 1.x and 2.x can be trained")
    found = [
        name
        for name, prefix in TEXT_ENCODERS.items()
        if any(key.startswith(prefix) for key in shapes)
    ]
    missing = [
        part
        for part, prefix in {"UNet": UNET, "VAE": VAE}.items()
        if not any(key.startswith(prefix) for key in shapes)
    ]
    if missing or not found:
        parts = [*missing, *([] if found else ["text encoder"])]
        raise BadModelError(
            f"holds no {' and no '.join(parts)} of Stable Diffusion; name a file with the whole"
            " model, not a LoRA, a VAE or a part"
        )
    channels = shapes.get(INPUT_LAYER, (0, 0))[1]
    if channels != INPUT_CHANNELS:
        raise BadModelError(
            f"has a UNet that reads {channels} channels; inpainting and depth models cannot be"
            " trained"
        )
    if found == ["sd2"] and "epsilon" not in metadata.get("modelspec.prediction_type", "v"):
        return "sd2-v"
    return found[0]


def read_architecture(files: ModelFiles) -> str | None:
    """The architecture of a single file, by its header; None for a .ckpt, which has none.

    Raises:
        BadModelError: See `architecture`.
    """
    [name] = files.names
    if not name.endswith(".safetensors"):
        return None
    try:
        _, header = read_header(files, name)
        metadata = header.pop("__metadata__", {})
        shapes = {key: tuple(tensor["shape"]) for key, tensor in header.items()}
        return architecture(shapes, metadata if isinstance(metadata, dict) else {})
    except BadModelError as error:
        raise BadModelError(f"{files.field}: {name} {error}") from error


def load_single_file(path: Path) -> tuple[type[Family], Any]:
    """Family and pipeline, fp32, of a .safetensors or .ckpt file; only tensors are unpickled.

    Raises:
        BadModelError: See `architecture`.
        Exception: Whatever the libraries raise for a damaged file.
    """
    # Published .ckpt files name the callback that wrote them, beside the weights.
    with torch.serialization.safe_globals([ModelCheckpoint]):
        shapes, metadata = _describe(path)
        try:
            name = architecture(shapes, metadata)
        except BadModelError as error:
            raise BadModelError(f"{FIELD}: {path.name} {error}") from error
        pipeline = StableDiffusionPipeline.from_single_file(
            path,
            config=str(CONFIGS / name),
            dtype=torch.float32,
            local_files_only=True,
            tokenizer=load_tokenizer(name),
            scheduler=load_scheduler(config_files(name), "ddpm"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return StableDiffusion, pipeline


def _describe(path: Path) -> tuple[Shapes, Mapping[str, str]]:
    """Shapes of the tensors in a file, and its metadata."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return shapes, file.metadata() or {}
    content = torch.load(path, map_location="meta", weights_only=True)
    tensors = content.get("state_dict", content)
    metadata = {}
    if content.get("global_step") == SD2_BASE_STEPS:
        metadata["modelspec.prediction_type"] = "epsilon"
    return {
        name: tuple(value.shape) for name, value in tensors.items() if isinstance(value, Tensor)
    }, metadata


def config_files(name: str) -> ModelFiles:
    """The files of an architecture's configuration, without tokenizer."""
    folder = CONFIGS / name
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*.json")}
    return ModelFiles(
        name,
        FIELD,
        {name: path.stat().st_size for name, path in paths.items()},
        lambda name: paths[name].read_bytes(),
        lambda name, length: paths[name].read_bytes()[:length],
    )


def load_tokenizer(name: str) -> CLIPTokenizer:
    """CLIP's tokenizer, with the settings of an architecture's configuration."""
    settings = config_files(name).json("tokenizer/tokenizer_config.json")
    lines = gzip.decompress((CONFIGS / MERGES).read_bytes()).decode().splitlines()
    merges = [tuple(line.split()) for line in lines]
    units = _byte_units()
    words = [
        *units, *(f"{unit}</w>" for unit in units), *map("".join, merges),
        settings["bos_token"], settings["eos_token"],
    ]  # fmt: skip
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, **settings)


def _byte_units() -> list[str]:
    """The character that stands for each byte in GPT-2's byte-pair encoding, in CLIP's order.

    Printable Latin-1 characters stand for themselves and come first; the other bytes get the code
    points from 256 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(code) for code in printable] + [chr(256 + n) for n in range(256 - len(printable))]
