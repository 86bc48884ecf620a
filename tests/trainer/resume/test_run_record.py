import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.models.job import DreamBoothJob, accepted
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models.defaults import fill_defaults
from dreambooth_trainer.models.families.stable_diffusion import DEFAULTS
from dreambooth_trainer.models.published import INHERITED, License
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.resume.fingerprint import changes_since
from dreambooth_trainer.resume.run_record import (
    public_config,
    read_run_record,
    versions,
    write_run_record,
)
from tests.trainer.resolved import resolve


@pytest.fixture
def storage() -> Storage:
    return Storage(StorageSettings(endpoint_url=None, region=None, addressing_style="auto"))


def job(**spec: Any) -> ResolvedJob:
    return resolve(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "mug", "namespace": "art", "uid": "u-1"},
            "spec": {
                "model": {"source": "s3://models/sd"},
                "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "s3://data/mug"}],
                "output": "s3://out/runs",
                **spec,
            },
        }
    )


LICENSE = License("some-license", "https://example.com/license")


def write(
    storage: Storage,
    run: str,
    attempt: int = 0,
    model_license: License = LICENSE,
    **spec: Any,
) -> None:
    write_run_record(
        storage, OutputLayout(run), job(**spec), attempt=attempt, world_size=2, global_batch=8,
        hashes={"model": "ab", "images": {"mug": "cd"}}, seeds={"training": 7},
        model_license=model_license,
        resumed_from=None if attempt == 0 else 500,
    )  # fmt: skip


def test_a_run_that_began_before_a_rule_is_read(storage: Storage, tmp_path: Path) -> None:
    run = f"file://{tmp_path}"
    write(storage, run)
    document = json.loads((tmp_path / "run.json").read_text())
    subject = document["job"]["spec"]["subjects"][0]
    subject["evaluationImages"] = subject["images"]
    (tmp_path / "run.json").write_text(json.dumps(document))
    record = read_run_record(storage, OutputLayout(run))
    assert record is not None
    assert fill_defaults(accepted(record["job"]), DEFAULTS).spec.subjects[0].evaluation_images
    assert changes_since(record["job"], job()) == []


def test_it_holds_what_is_needed_to_make_the_result_again(storage: Storage, tmp_path: Path) -> None:
    write(storage, f"file://{tmp_path}")
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["job"]["metadata"] == {"name": "mug", "namespace": "art", "uid": "u-1"}
    assert found["job"]["spec"]["training"]["learningRate"] == 1e-4
    assert found["hashes"] == {"model": "ab", "images": {"mug": "cd"}}
    assert found["seeds"] == {"training": 7}
    assert found["modelLicense"] == {"name": "some-license", "link": "https://example.com/license"}
    assert found["attempts"][0]["versions"]["torch"] == torch.__version__
    DreamBoothJob.model_validate(found["job"])


def test_a_license_that_is_not_known_has_no_name(storage: Storage, tmp_path: Path) -> None:
    write(storage, f"file://{tmp_path}", model_license=INHERITED)
    assert json.loads((tmp_path / "run.json").read_text())["modelLicense"] is None


def test_each_attempt_adds_itself(storage: Storage, tmp_path: Path) -> None:
    run = f"file://{tmp_path}"
    for attempt in range(3):
        write(storage, run, attempt)
    attempts = json.loads((tmp_path / "run.json").read_text())["attempts"]
    assert [(a["attempt"], a["resumedFromStep"]) for a in attempts] == [
        (0, None),
        (1, 500),
        (2, 500),
    ]
    assert all(a["worldSize"] == 2 and a["startedAt"].endswith("Z") for a in attempts)


@pytest.mark.parametrize("content", ["", "[]", '{"attempts": 3}', "\x00"])
def test_a_broken_record_does_not_stop_an_attempt(
    storage: Storage, tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        write(storage, f"file://{tmp_path}", 1)
    assert "run.json" in caplog.text
    assert len(json.loads((tmp_path / "run.json").read_text())["attempts"]) == 1


def test_it_holds_no_secret() -> None:
    secretive = job(
        storage={
            "endpointURL": "https://admin:hunter2@minio:9000",
            "credentials": {"secretRef": {"name": "minio"}},
        },
        runtime={
            "podOverrides": {
                "spec": {
                    "containers": [{"name": "trainer", "env": [{"name": "K", "value": "hunter2"}]}]
                }
            }
        },
    )
    secretive.metadata.annotations = {"kubectl.kubernetes.io/last-applied-configuration": "hunter2"}
    config = public_config(secretive)
    assert "hunter2" not in json.dumps(config)
    assert config["spec"]["storage"]["endpointURL"] == "https://minio:9000"  # type: ignore[index,call-overload]
    assert config["spec"]["storage"]["credentials"]["secretRef"]["name"] == "minio"  # type: ignore[index,call-overload]
    assert secretive.spec.runtime.pod_overrides, "the job itself was changed"


def test_versions_name_the_packages_that_make_the_result() -> None:
    assert {"python", "torch", "diffusers", "transformers", "peft"} <= versions().keys()
