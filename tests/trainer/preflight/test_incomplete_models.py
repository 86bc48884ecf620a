"""Models that cannot be loaded are refused by file name, with what to do, before a GPU is taken."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models.model_config import read_model_config
from dreambooth_trainer.process.errors import BadModelError
from tests.corpus import models

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:c83908253f9a64d08c25fc90874c9c8aef9a329ce1ca5fb909d73b0c83d1ea21\n"
    b"size 3438354725\n"
)
UNET = f"{models.UNET}.safetensors"


def scheduler(name: str, **config: object) -> Callable[[Path], None]:
    """A change of a model's scheduler."""

    def change(model: Path) -> None:
        models.edit(model / "model_index.json", scheduler=["diffusers", name])
        models.edit(model / "scheduler" / "scheduler_config.json", _class_name=name, **config)

    return change


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def lose_shard(model: Path) -> None:
    models.sharded(model)
    (model / "unet" / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()


def lose_index(model: Path) -> None:
    models.sharded(model)
    (model / "unet" / "diffusion_pytorch_model.safetensors.index.json").unlink()


def quantize(model: Path) -> None:
    weights = models.load_file(model / UNET)
    rounded = {name: value.to(torch.float8_e4m3fn) for name, value in weights.items()}
    save_file(rounded, model / UNET, {"format": "pt"})


def damage_shard(model: Path) -> None:
    models.sharded(model)
    truncate(model / "unet" / "diffusion_pytorch_model-00003-of-00003.safetensors")


def replace_bin(content: bytes) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        models.write_bin(model, keep_safetensors=False)
        (model / f"{models.UNET}.bin").write_bytes(content)

    return change


PROBLEMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "only a variant": (
        models.only_fp16,
        "there are only weights of the variant fp16 in unet/; set spec.model.variant to fp16",
    ),
    "a git-lfs pointer": (
        lambda m: (m / UNET).write_bytes(POINTER),
        f"{UNET} is a git-lfs pointer, not the file; run `git lfs pull` in the clone",
    ),
    "a git-lfs pointer for a .bin": (
        replace_bin(POINTER),
        f"{models.UNET}.bin is a git-lfs pointer",
    ),
    "a git-lfs pointer for a configuration": (
        lambda m: (m / "unet" / "config.json").write_bytes(POINTER),
        "is a git-lfs pointer",
    ),
    "a web page for a .bin": (
        replace_bin(b"<html>"),
        f"{models.UNET}.bin holds no weights; copy it again",
    ),
    "a missing shard": (
        lose_shard,
        "unet/diffusion_pytorch_model-00002-of-00003.safetensors is missing, which"
        " unet/diffusion_pytorch_model.safetensors.index.json names; copy it too",
    ),
    "shards without their index": (
        lose_index,
        "unet/diffusion_pytorch_model.safetensors.index.json is missing, which tells what each"
        " shard holds; copy it too",
    ),
    "weights in fp8": (
        quantize,
        f"{UNET} holds weights of the type F8_E4M3, which are quantized for inference and cannot be"
        " trained; name the model with its original weights",
    ),
    "a truncated shard": (
        damage_shard,
        "unet/diffusion_pytorch_model-00003-of-00003.safetensors is damaged: it has",
    ),
    "a truncated file": (lambda m: truncate(m / UNET), f"{UNET} is damaged: it has "),
    "an empty file": (
        lambda m: (m / UNET).write_bytes(b""),
        f"{UNET} is damaged, or no safetensors file; copy it again",
    ),
    "no scheduler": (
        lambda m: shutil.rmtree(m / "scheduler"),
        "scheduler/scheduler_config.json is missing; copy the whole model",
    ),
    "a scheduler that needs scipy": (
        scheduler("LMSDiscreteScheduler"),
        "the scheduler LMSDiscreteScheduler of ",
    ),
    "a scheduler whose settings need scipy": (
        scheduler("EulerDiscreteScheduler", use_beta_sigmas=True),
        "needs a library that is not installed, such as scipy; name DDIMScheduler",
    ),
    "a scheduler of another kind": (
        scheduler("FlowMatchEulerDiscreteScheduler"),
        "has no schedule of noise levels over timesteps",
    ),
    "a scheduler that nobody knows": (
        scheduler("EvilScheduler"),
        "the scheduler EvilScheduler of ",
    ),
    "another class for a part": (
        lambda m: models.edit(m / "model_index.json", vae=["diffusers", "AutoencoderTiny"]),
        "only AutoencoderKL of diffusers can be trained",
    ),
}


@pytest.fixture
def storage() -> Storage:
    return Storage(StorageSettings())


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_model_that_cannot_be_loaded_is_refused(
    case: str, random_model: Path, tmp_path: Path, storage: Storage
) -> None:
    model = Path(shutil.copytree(random_model, tmp_path / "model"))
    spoil, expected = PROBLEMS[case]
    spoil(model)
    with pytest.raises(BadModelError) as raised:
        read_model_config(Model(source=str(model)), storage)
    assert str(raised.value).startswith("spec.model.source: ")
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    ("asked", "advice"),
    [("fp8", "set spec.model.variant to fp16 or non_ema, or remove it"), ("non_ema", "")],
)
def test_a_variant_that_no_part_has_is_refused(
    asked: str, advice: str, random_model: Path, tmp_path: Path, storage: Storage
) -> None:
    folder = models.published(random_model, "SD 1.5", tmp_path / "model")
    source = Model(source=str(folder), variant=asked)
    if not advice:
        read_model_config(source, storage)
        return
    with pytest.raises(BadModelError, match=advice):
        read_model_config(source, storage)


def test_only_the_start_of_weights_in_storage_is_read(
    random_model: Path, s3_endpoint: str, bucket: str, tmp_path: Path
) -> None:
    storage = Storage(StorageSettings(s3_endpoint, None, "path"))
    folder = Path(shutil.copytree(random_model, tmp_path / "model"))
    truncate(folder / UNET)
    storage.upload_tree(folder, f"s3://{bucket}/model")
    with pytest.raises(BadModelError, match=f"{UNET} is damaged: it has"):
        read_model_config(Model(source=f"s3://{bucket}/model"), storage)
    uri = f"s3://{bucket}/model/{UNET}"
    content = (folder / UNET).read_bytes()
    assert storage.read_start(uri, 10) == content[:10]
    assert storage.read_start(uri, 2 * len(content)) == content
    storage.write(f"s3://{bucket}/empty", b"")
    assert storage.read_start(f"s3://{bucket}/empty", 10) == b""


UNET_LAYER = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)}
VAE_LAYER = {"first_stage_model.encoder.conv_in.weight": torch.zeros(4, 3, 3, 3)}
TEXT_LAYER = {
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": torch.zeros(4),
}
SDXL_TEXT = {
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": torch.zeros(4),
    "conditioner.embedders.1.model.ln_final.weight": torch.zeros(4),
}
SINGLE_FILES = {
    "a LoRA": ({"lora_unet_mid_block.lora_up.weight": torch.zeros(4, 4)}, "is a LoRA, not a model"),
    "FLUX": (
        {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": torch.zeros(4, 4)},
        "holds a transformer, such as FLUX's, and single files can be trained of Stable Diffusion",
    ),
    "SDXL in fp8": (
        {
            name: tensor.to(torch.float8_e4m3fn)
            for name, tensor in {**UNET_LAYER, **VAE_LAYER, **SDXL_TEXT}.items()
        },
        "holds weights of the type F8_E4M3, which are quantized for inference",
    ),
    "a UNet": (UNET_LAYER, "holds no VAE and no text encoder of Stable Diffusion"),
    "inpainting": (
        {
            **VAE_LAYER,
            **TEXT_LAYER,
            "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 9, 3, 3),
        },
        "has a UNet that reads 9 channels; inpainting and depth models cannot be trained",
    ),
    "an SDXL without its second text encoder": (
        {**UNET_LAYER, **VAE_LAYER, "conditioner.embedders.0.transformer.x": torch.zeros(4)},
        "holds no text encoder of Stable Diffusion",
    ),
    "SDXL's refiner": (
        {**UNET_LAYER, **VAE_LAYER, "conditioner.embedders.0.model.ln_final": torch.zeros(4)},
        "is the refiner of Stable Diffusion XL, which cannot be trained; use its base model",
    ),
    "SDXL inpainting": (
        {
            **VAE_LAYER,
            **SDXL_TEXT,
            "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 9, 3, 3),
        },
        "has a UNet that reads 9 channels; inpainting and depth models cannot be trained",
    ),
    "Playground v2.5": (
        {**UNET_LAYER, **VAE_LAYER, **SDXL_TEXT, "edm_mean": torch.zeros(4)},
        "was trained on the noise levels of EDM",
    ),
}


@pytest.mark.parametrize("case", SINGLE_FILES)
def test_a_single_file_that_cannot_be_trained_is_refused_by_its_header(
    case: str, tmp_path: Path, storage: Storage
) -> None:
    tensors, expected = SINGLE_FILES[case]
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    with pytest.raises(BadModelError, match=expected):
        read_model_config(Model(source=str(path), layout="single-file"), storage)


def test_a_single_file_of_stable_diffusion_1_is_judged_as_such(
    tmp_path: Path, storage: Storage
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({**UNET_LAYER, **VAE_LAYER, **TEXT_LAYER}, path)
    config = read_model_config(Model(source=str(path), layout="single-file"), storage)
    assert config is not None
    assert config.skeleton.native_resolution == 512
    assert config.skeleton.count_tokens("a photo of a sks dog") == 8
    truncate(path)
    with pytest.raises(BadModelError, match=r"model\.safetensors is damaged: it has"):
        read_model_config(Model(source=str(path), layout="single-file"), storage)


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_a_pointer_in_place_of_a_single_file_is_refused(
    ending: str, tmp_path: Path, storage: Storage
) -> None:
    path = tmp_path / f"model.{ending}"
    path.write_bytes(POINTER)
    with pytest.raises(BadModelError, match="is a git-lfs pointer"):
        read_model_config(Model(source=str(path), layout="single-file"), storage)
