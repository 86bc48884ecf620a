"""Models as they are published: preflight passes them, and training loads just what it needs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models import Family, load_family
from dreambooth_trainer.models.model_config import read_model_config, read_shipped_config
from dreambooth_trainer.models.single_file import shipped
from dreambooth_trainer.models.single_file.architectures import ARCHITECTURES
from dreambooth_trainer.models.source.fetch import fetch
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.process.topology import Topology
from tests.corpus import models

ALONE = Ranks(Topology())
CPU = torch.device("cpu")
REQUIRED = {
    "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
    "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "unet/config.json",
    "vae/config.json",
}  # fmt: skip
FETCHED = {
    "SD 1.5": {f"{stem}.safetensors" for stem in models.TENSORS},
    "SD 1.5 fp16": {f"{stem}.fp16.safetensors" for stem in models.TENSORS},
    "SD 1.5 without EMA": {
        f"{models.UNET}.non_ema.safetensors",
        f"{models.VAE}.safetensors",
        f"{models.TEXT}.safetensors",
    },
    "only .bin": {f"{stem}.bin" for stem in models.TENSORS.values()},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMBOOTH_CACHE_DIR", str(tmp_path / "cache"))


def weights(family: Family) -> dict[str, Tensor]:
    pipeline = family.pipeline()
    parts = {"unet": pipeline.unet, "vae": pipeline.vae, "text_encoder": pipeline.text_encoder}
    return {
        f"{part}.{name}": value
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", models.FOLDERS)
def test_a_published_folder_passes_preflight_and_loads(
    name: str, random_model: Path, tmp_path: Path, s3_endpoint: str, bucket: str
) -> None:
    folder = models.published(random_model, name, tmp_path / "model")
    storage = Storage(StorageSettings(s3_endpoint, None, "path"))
    storage.upload_tree(folder, f"s3://{bucket}/model")
    source = Model(source=f"s3://{bucket}/model", variant=models.FOLDERS[name][1])
    config = read_model_config(source, storage)
    assert config is not None
    assert config.skeleton.native_resolution == 64
    here = fetch(source, storage, ALONE)
    files = {path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()}
    if name in FETCHED:
        assert files == REQUIRED | FETCHED[name]
    assert not [path for path in files if path.startswith(("safety", "feature", ".git", "v1"))]
    family = load_family(source, storage, ALONE, CPU)
    local = load_family(source.model_copy(update={"source": str(folder)}), storage, ALONE, CPU)
    assert local.model_hash == family.model_hash
    expected = weights(load_family(Model(source=str(random_model)), storage, ALONE, CPU))
    if name == "SD 1.5 without EMA":
        expected |= {key: v + 1 for key, v in expected.items() if key.startswith("unet.")}
    assert_same(weights(family), expected, 1e-2 if source.variant == "fp16" else 0)
    assert family.prediction_type == ("v_prediction" if name == "SD 2.1" else "epsilon")
    family.pipeline().save_pretrained(tmp_path / "export")
    StableDiffusionPipeline.from_pretrained(tmp_path / "export")


def test_weights_that_are_missing_are_not_made_up(random_model: Path, tmp_path: Path) -> None:
    folder = models.published(random_model, "SD 2.1 base", tmp_path / "model")
    for stem in models.TENSORS:
        path = folder / f"{stem}.safetensors"
        whole = models.load_file(path)
        left = dict(list(whole.items())[1:])
        save_file(left, path, {"format": "pt"})
        with pytest.raises(BadModelError, match=f"1 weights are missing in {path.parent.name}/"):
            load_family(Model(source=str(folder)), Storage(StorageSettings()), ALONE, CPU)
        save_file(whole, path, {"format": "pt"})


@pytest.fixture(params=["quick_gelu", "gelu"], ids=["SD 1.x", "SD 2.x"])
def original(
    request: pytest.FixtureRequest,
    random_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """A small pipeline to be written as a single file; its configuration is the shipped one."""
    pipeline = models.single_file_pipeline(random_model, request.param)
    models.write_configs(pipeline, tmp_path / "configs", shipped.CONFIGS)
    monkeypatch.setattr(shipped, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return pipeline


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_a_single_file_loads_without_network(original: Any, ending: str, tmp_path: Path) -> None:
    path, storage = tmp_path / f"model.{ending}", Storage(StorageSettings())
    tensors = models.original_weights(original)
    if ending == "ckpt":
        models.write_ckpt(tensors, path)
    else:
        save_file(tensors, path)
    model = Model(source=str(path), layout="single-file")
    config = read_model_config(model, storage)
    assert (config is None) == (ending == "ckpt")
    family = load_family(model, storage, ALONE, CPU)
    expected = {
        f"{part}.{name}": value
        for part in ("unet", "vae", "text_encoder")
        for name, value in getattr(original, part).state_dict().items()
    }
    assert_same(weights(family), expected, 0)
    is_first = original.text_encoder.config.hidden_act == "quick_gelu"
    assert family.prediction_type == ("epsilon" if is_first else "v_prediction")
    dog = family.tokenize(["a photo of a sks dog"])["ids"][0].tolist()
    assert dog[:8] == [49406, 320, 1125, 539, 320, 48136, 1929, 49407]
    assert set(dog[8:]) == {49407 if is_first else 0}
    conditioning = family.encode_tokens(family.tokenize(["a photo of a sks dog"]))
    assert conditioning["hidden_states"].shape == (1, 77, 16)


def test_metadata_of_a_single_file_tells_that_it_predicts_noise(
    original: Any, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    metadata = {"modelspec.prediction_type": "epsilon"}
    save_file(models.original_weights(original), path, metadata)
    model = Model(source=str(path), layout="single-file")
    family = load_family(model, Storage(StorageSettings()), ALONE, CPU)
    assert family.prediction_type == "epsilon"


PARAMETERS = {
    "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sd2-v": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
}
"""Of the published models."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_shipped_configurations_are_those_of_the_published_models(name: str) -> None:
    config = read_shipped_config(ARCHITECTURES[name])
    found = {
        part: sum(parameter.numel() for parameter in module.parameters())
        for part, module in config.skeleton.parts.items()
    }
    assert found == PARAMETERS[name]
    assert config.skeleton.native_resolution == (768 if name == "sd2-v" else 512)
