"""SDXL as it is published: in folders with variants and shards, and in single files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models import Family, load_family
from dreambooth_trainer.models.families.sdxl import StableDiffusionXL
from dreambooth_trainer.models.model_config import read_model_config, read_shipped_config
from dreambooth_trainer.models.single_file import shipped
from dreambooth_trainer.models.single_file.architectures import ARCHITECTURES
from dreambooth_trainer.models.source.fetch import fetch
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.process.topology import Topology
from tests.corpus import models
from tests.corpus.families import sdxl
from tests.corpus.families.parts import split_weights

ALONE = Ranks(Topology())
CPU = torch.device("cpu")
STORAGE = Storage(StorageSettings())
UNET = "unet/diffusion_pytorch_model"
STEMS = [name.removesuffix(".safetensors") for name in sdxl.FACTS.files]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMBOOTH_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SDXL with all that lies beside it as published."""
    folder = tmp_path_factory.mktemp("sdxl")
    sdxl.build(folder)
    for name in sdxl.FACTS.others:
        if not name.endswith("fp16.safetensors"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"not read")
    return folder


def weights(parts: Any) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": value
        for part in StableDiffusionXL.modules
        for name, value in getattr(parts, part).state_dict().items()
    }


def assert_same(family: Family, expected: dict[str, Tensor], tolerance: float) -> None:
    found = weights(family.pipeline())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance)


def add_fp16(model: Path) -> None:
    for stem in STEMS:
        models.write_variant(model, stem, "fp16", models.half)


def only_fp16(model: Path) -> None:
    add_fp16(model)
    for stem in STEMS:
        (model / f"{stem}.safetensors").unlink()


def sharded(model: Path) -> None:
    split_weights(model / f"{UNET}.safetensors", 3)


LAYOUTS: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "as published": (add_fp16, None),
    "fp16": (add_fp16, "fp16"),
    "only fp16": (only_fp16, "fp16"),
    "sharded": (sharded, None),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_folder_passes_preflight_and_loads(
    name: str, tiny: Path, tmp_path: Path
) -> None:
    change, variant = LAYOUTS[name]
    folder = shutil.copytree(tiny, tmp_path / "model")
    change(folder)
    source = Model(source=str(folder), variant=variant)
    config = read_model_config(source, STORAGE)
    assert config is not None
    assert config.family is StableDiffusionXL
    assert config.skeleton.native_resolution == 64
    family = load_family(source, STORAGE, ALONE, CPU)
    expected = weights(StableDiffusionXLPipeline.from_pretrained(tiny))
    assert_same(family, expected, 1e-2 if variant else 0)


def test_only_what_is_loaded_is_fetched(tiny: Path, s3_endpoint: str, bucket: str) -> None:
    storage = Storage(StorageSettings(s3_endpoint, None, "path"))
    storage.upload_tree(tiny, f"s3://{bucket}/sdxl")
    here = fetch(Model(source=f"s3://{bucket}/sdxl"), storage, ALONE)
    found = {path.relative_to(here).as_posix() for path in here.rglob("*.safetensors")}
    assert found == set(sdxl.FACTS.files)
    assert not list(here.rglob("*onnx*"))


@pytest.fixture
def original(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny pipeline with CLIP's own vocabulary; its configuration is the shipped one."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny)
    torch.manual_seed(1)
    for part, cls in (
        ("text_encoder", CLIPTextModel),
        ("text_encoder_2", CLIPTextModelWithProjection),
    ):
        config = getattr(pipeline, part).config
        config.vocab_size = models.CLIP_VOCABULARY
        setattr(pipeline, part, cls(config))
    configs, folder = tmp_path / "configs", tmp_path / "configs" / "sdxl"
    shutil.copytree(shipped.CONFIGS, configs)
    for part in StableDiffusionXL.modules:
        config = json.loads((tiny / part / "config.json").read_text())
        if "vocab_size" in config:
            config["vocab_size"] = models.CLIP_VOCABULARY
        (folder / part / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(shipped, "CONFIGS", configs)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return pipeline


def original_weights(pipeline: Any) -> dict[str, Tensor]:
    """The weights under the original names, with what only published files have."""
    family = StableDiffusionXL(pipeline, "")
    tensors = family.single_file(lambda part: getattr(pipeline, part).state_dict())
    tensors["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
    positions = "conditioner.embedders.0.transformer.text_model.embeddings.position_ids"
    tensors[positions] = torch.arange(77)[None]
    return {name: value.contiguous() for name, value in tensors.items()}


def single_file(tensors: dict[str, Tensor], folder: Path, metadata: Any = None) -> Model:
    save_file(tensors, folder / "model.safetensors", metadata)
    return Model(source=str(folder / "model.safetensors"), layout="single-file")


def test_a_single_file_loads_without_network(original: Any, tmp_path: Path) -> None:
    model = single_file(original_weights(original), tmp_path)
    assert read_model_config(model, STORAGE) is not None
    family = load_family(model, STORAGE, ALONE, CPU)
    assert_same(family, weights(original), 0)
    assert family.prediction_type == "epsilon"
    tokens = family.tokenize(["a photo of a sks dog"])
    for part, pad in (("text_encoder", 49407), ("text_encoder_2", 0)):
        ids = tokens[part][0].tolist()
        assert ids[:8] == [49406, 320, 1125, 539, 320, 48136, 1929, 49407]
        assert set(ids[8:]) == {pad}


V_MARK, NO_SIGNAL_MARK = {"v_pred": torch.zeros(0)}, {"ztsnr": torch.zeros(0)}


@pytest.mark.parametrize(
    ("marks", "metadata", "final_signal"),
    [
        (V_MARK, None, True),
        ({**V_MARK, **NO_SIGNAL_MARK}, None, False),
        ({}, {"modelspec.prediction_type": "v"}, True),
    ],
)
def test_a_single_file_tells_that_it_predicts_v(
    original: Any, tmp_path: Path, marks: Any, metadata: Any, final_signal: bool
) -> None:
    model = single_file({**original_weights(original), **marks}, tmp_path, metadata)
    config = read_model_config(model, STORAGE)
    assert config is not None
    for family in (config.skeleton, load_family(model, STORAGE, ALONE, CPU)):
        assert family.prediction_type == "v_prediction"
        assert (family.alphas_cumprod[-1] > 0) == final_signal
        assert ("pndm" in family.defaults.samplers) == final_signal
        assert not family.training_notes


def test_a_single_file_with_fewer_layers_is_refused(original: Any, tmp_path: Path) -> None:
    tensors = original_weights(original)
    left = {name: w for name, w in tensors.items() if "transformer_blocks.1" not in name}
    with pytest.raises(BadModelError, match="too few weights for a Stable Diffusion XL model"):
        load_family(single_file(left, tmp_path), STORAGE, ALONE, CPU)


def assert_agree(found: Any, published: dict[str, Any]) -> None:
    """Both say the same wherever both say something."""
    names = {name for name in published if name in found and not name.startswith("_")}
    assert names
    assert {name: found[name] for name in names} == {name: published[name] for name in names}


def test_the_shipped_configuration_is_that_of_the_published_model() -> None:
    config = read_shipped_config(ARCHITECTURES["sdxl"])
    for part, published in sdxl.PARTS.items():
        assert_agree(config.configs[part], published.config)
    assert_agree(config.scheduler.config, sdxl.SCHEDULER)
    sizes = {
        part: sum(parameter.numel() for parameter in module.parameters())
        for part, module in config.skeleton.parts.items()
    }
    assert sizes == sdxl.FACTS.parameters
    assert config.settings == {"force_zeros_for_empty_prompt": True}
    assert config.defaults.resolution == sdxl.FACTS.resolution
    assert config.defaults.guidance_scale == sdxl.FACTS.guidance
