"""Preflight measures the GPU memory of every family, on shapes alone."""

from pathlib import Path

import pytest

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models.defaults import fill_defaults
from dreambooth_trainer.models.model_config import read_model_config
from dreambooth_trainer.preflight.memory import measure_stages
from tests.trainer.conftest import MakeJob


@pytest.mark.parametrize("method", ["lora", "full"])
def test_every_stage_is_measured_without_weights(job: MakeJob, folder: Path, method: str) -> None:
    config = read_model_config(Model(source=str(folder)), Storage(StorageSettings()))
    assert config is not None
    spec = DreamBoothJob.model_validate(job(training={"method": method}))
    stages = measure_stages(
        fill_defaults(spec, config.defaults, config.skeleton.flow_shift),
        config,
        local_batch=2,
        ranks=1,
    )
    assert all(size > 0 for size in stages.values())
    weights = sum(
        weight.numel() * 4
        for part in config.skeleton.parts.values()
        for weight in part.parameters()
    )
    assert max(stages.values()) > (2 * weights if method == "full" else 0)
