"""Images in a public bucket, results in one of the team: the keys open only the second."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from dreambooth_api.contract import environment
from dreambooth_storage import Storage
from dreambooth_trainer.preflight.__main__ import main
from tests.conftest import PUBLIC_BUCKET, TEAM_BUCKET, TEAM_KEYS


@pytest.mark.parametrize("anonymous", [[PUBLIC_BUCKET], []])
def test_preflight_reads_public_buckets_without_keys(
    anonymous: list[str],
    tmp_path: Path,
    random_model: Path,
    public_bucket: Storage,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for level in range(3):
        Image.new("RGB", (64, 80), (level, 0, 0)).save(tmp_path / f"{level}.png")
        public_bucket.upload(tmp_path / f"{level}.png", f"s3://{PUBLIC_BUCKET}/mug/{level}.png")
    job: dict[str, Any] = {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "test"},
        "spec": {
            "model": {"source": str(random_model)},
            "subjects": [
                {"identifier": "sks", "classNoun": "mug", "images": f"s3://{PUBLIC_BUCKET}/mug"}
            ],
            "output": f"s3://{TEAM_BUCKET}/out",
            "training": {"resolution": 64, "steps": 1000},
            "storage": {
                "endpointURL": public_bucket.settings.endpoint_url,
                "addressingStyle": "path",
                "anonymousBuckets": anonymous,
            },
        },
    }
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", TEAM_KEYS.id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", TEAM_KEYS.secret)
    monkeypatch.setenv(environment.TERMINATION_LOG, str(tmp_path / "termination"))
    monkeypatch.setattr(sys, "argv", ["preflight", "--config", str(file)])
    assert main() == (0 if anonymous else 67), capsys.readouterr().out
