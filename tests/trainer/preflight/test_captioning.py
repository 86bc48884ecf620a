"""The checks of `spec.captioning`, by real folders and real HTTP on loopback."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dreambooth_api.models.captioning import CaptioningEndpoint, CaptioningModel
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.preflight.captioning import check_endpoint, check_files
from dreambooth_trainer.preflight.check import check_job
from dreambooth_trainer.process.errors import BadConfigError, BadModelError, TrainerError
from tests.corpus import vision_language
from tests.ports import free_ports
from tests.trainer.captioning.fake_endpoint import FakeEndpoint, fake_endpoint


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with fake_endpoint() as server:
        yield server


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vision_language.build(tmp_path_factory.mktemp("vlm"))


def asked(url: str) -> CaptioningEndpoint:
    return CaptioningEndpoint(url=url, model="fake")


def test_an_endpoint_has_to_answer_and_to_take_the_key(
    endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_endpoint(asked(endpoint.url))
    endpoint.status = 404  # a server without a list of models
    check_endpoint(asked(endpoint.url))
    endpoint.status = 401
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    with pytest.raises(BadConfigError, match="refuses the key") as caught:
        check_endpoint(asked(endpoint.url))
    assert "secret-key" not in str(caught.value)
    [port] = free_ports(1)
    with pytest.raises(TrainerError, match="does not answer"):
        check_endpoint(asked(f"http://127.0.0.1:{port}/v1"))


def test_a_model_is_whole_and_has_a_size(model: Path, tmp_path: Path) -> None:
    storage = Storage(StorageSettings())
    size = check_files(CaptioningModel(source=str(model)), storage)
    stored = (model / "model.safetensors").stat().st_size  # in bf16
    assert size == pytest.approx(stored, rel=0.05)
    for path in model.iterdir():
        if path.name != "model.safetensors":
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(BadModelError, match=r"spec\.captioning\.model\.source"):
        check_files(CaptioningModel(source=str(tmp_path)), storage)


def test_preflight_says_where_images_go(
    job: Callable[..., dict[str, Any]], endpoint: FakeEndpoint
) -> None:
    made = job(captioning={"endpoint": {"url": endpoint.url, "model": "fake"}, "photoCheck": True})
    report = check_job(DreamBoothJob.model_validate(made), Storage(StorageSettings()))
    assert report.errors == []
    sent = [line for line in report.warnings if line.startswith("spec.captioning.endpoint.url")]
    assert len(sent) == 1
    assert f"images are sent to {endpoint.url}" in sent[0]
    assert endpoint.requests == []  # nothing is asked yet
