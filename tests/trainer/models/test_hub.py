"""hf:// sources from a hub on loopback: what is listed, judged, downloaded and loaded."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models import load_family
from dreambooth_trainer.models.model_config import read_model_config
from dreambooth_trainer.models.single_file import shipped
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.process.topology import Topology
from tests.corpus import models
from tests.trainer.models.hub_server import HubServer, serve

REPOSITORY = "stable-diffusion-v1-5/stable-diffusion-v1-5"
ALONE = Ranks(Topology())
CPU = torch.device("cpu")


@pytest.fixture
def storage() -> Storage:
    return Storage(StorageSettings())


@pytest.fixture
def hub(random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Stable Diffusion 1.5 as published."""
    folder = models.published(random_model, "SD 1.5", tmp_path / "hub")
    monkeypatch.setenv("DREAMBOOTH_CACHE_DIR", str(tmp_path / "cache"))
    with serve(REPOSITORY, folder) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            server.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield server


def test_a_repository_loads_and_only_what_is_needed_is_downloaded(
    hub: HubServer, storage: Storage, random_model: Path
) -> None:
    source = Model(source=f"hf://{REPOSITORY}", variant="fp16")
    assert read_model_config(source, storage) is not None
    assert not [name for name in hub.downloaded if not name.endswith((".json", ".txt"))]
    family = load_family(source, storage, ALONE, CPU)
    loaded = {name for name in hub.downloaded if not name.endswith((".json", ".txt"))}
    assert loaded == {f"{stem}.fp16.safetensors" for stem in models.TENSORS}
    local = load_family(Model(source=str(random_model)), storage, ALONE, CPU)
    expected = local.denoiser.state_dict()
    for name, value in family.denoiser.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-2)


def test_a_gated_model_names_the_license_and_the_token(hub: HubServer, storage: Storage) -> None:
    hub.is_gated = True
    with pytest.raises(BadModelError, match=r"is gated; accept its license .* set HF_TOKEN"):
        read_model_config(Model(source=f"hf://{REPOSITORY}", variant="fp16"), storage)


def test_one_file_of_a_repository_loads(
    hub: HubServer,
    storage: Storage,
    random_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = models.single_file_pipeline(random_model, "quick_gelu")
    models.write_configs(pipeline, tmp_path / "configs", shipped.CONFIGS)
    monkeypatch.setattr(shipped, "CONFIGS", tmp_path / "configs")
    for name in ("sd.safetensors", "files/[fp32] sd.safetensors"):
        (hub.folder / name).parent.mkdir(exist_ok=True)
        save_file(models.original_weights(pipeline), hub.folder / name)
        hub.downloaded.clear()
        source = Model(source=f"hf://{REPOSITORY}/{name}", layout="single-file")
        assert read_model_config(source, storage) is not None
        family = load_family(source, storage, ALONE, CPU)
        assert hub.downloaded == {name}
        expected = pipeline.unet.state_dict()
        assert all(torch.equal(v, expected[k]) for k, v in family.denoiser.state_dict().items())


def test_a_folder_of_a_repository_loads(hub: HubServer, storage: Storage) -> None:
    shutil.copytree(hub.folder, hub.folder.parent / "deeper" / "checkpoints" / "best")
    hub.folder = hub.folder.parent / "deeper"
    source = Model(source=f"hf://{REPOSITORY}/checkpoints/best")
    assert read_model_config(source, storage) is not None
    load_family(source, storage, ALONE, CPU)
    assert all(name.startswith("checkpoints/best/") for name in hub.downloaded)


@pytest.mark.parametrize(
    ("source", "layout"),
    [("hf://owner/other", "diffusers"), (f"hf://{REPOSITORY}/other.safetensors", "single-file"),
     (f"hf://{REPOSITORY}/other", "diffusers")],
)  # fmt: skip
def test_what_is_not_on_the_hub_is_refused(
    hub: HubServer, storage: Storage, source: str, layout: str
) -> None:
    with pytest.raises(BadModelError, match=f"^spec.model.source: .*{source}"):
        read_model_config(Model.model_validate({"source": source, "layout": layout}), storage)
