"""Preflight measures the GPU memory of every family, on shapes alone."""

from pathlib import Path

import pytest

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.data.cache import DEVICE_BYTES
from dreambooth_trainer.models.defaults import fill_defaults
from dreambooth_trainer.models.model_config import read_model_config
from dreambooth_trainer.preflight.memory.stages import measure_stages
from tests.trainer.conftest import MakeJob
from tests.trainer.families.conftest import build


@pytest.mark.parametrize("bound", [DEVICE_BYTES, 0])
def test_the_conditioning_of_all_captions_is_counted_up_to_its_bound(
    job: MakeJob, monkeypatch: pytest.MonkeyPatch, bound: int
) -> None:
    monkeypatch.setattr("dreambooth_trainer.preflight.memory.stages.DEVICE_BYTES", bound)
    config = read_model_config(Model(source=str(build("flux"))), Storage(StorageSettings()))
    assert config is not None
    spec = DreamBoothJob.model_validate(job(training={"method": "lora"}))
    resolved = fill_defaults(spec, config.defaults, config.skeleton.flow_shift)
    one, many = (
        measure_stages(resolved, config, local_batch=2, ranks=1, captions=texts)["a training step"]
        for texts in ([""], [str(number) for number in range(1001)])
    )
    # T5's states and CLIP's, in fp32.
    width = config.skeleton.denoiser.config
    size = 4 * (512 * width.joint_attention_dim + width.pooled_projection_dim)
    assert many - one == (1000 * size if bound else 0)


@pytest.mark.parametrize("name", ["qwen_image", "sana", "z_image", "krea2"])
def test_padding_that_the_model_ignores_takes_no_memory(job: MakeJob, name: str) -> None:
    config = read_model_config(Model(source=str(build(name))), Storage(StorageSettings()))
    assert config is not None
    spec = DreamBoothJob.model_validate(job(training={"method": "lora"}))
    resolved = fill_defaults(spec, config.defaults, config.skeleton.flow_shift)
    short, long, longest = (
        measure_stages(resolved, config, local_batch=2, ranks=1, captions=texts)["a training step"]
        for texts in (["a mug"], ["", "a mug " * 50], None)
    )
    assert short < long < longest


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
