"""docs/models.md states the memory that preflight estimates for the published models."""

from dataclasses import astuple

import pytest

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_trainer.models.defaults import fill_defaults
from dreambooth_trainer.models.model_config import ModelConfig
from dreambooth_trainer.models.published import GpuMemory
from dreambooth_trainer.preflight.memory.stages import GIB, OVERHEAD, measure_stages
from tests.docs.test_examples import JOB
from tests.trainer.families.published import PUBLISHED, published_config

QLORA = {"denoiser": "nf4", "textEncoders": "int8"}


def measure(
    config: ModelConfig, method: str, *, checkpointing: bool, quantized: bool = False
) -> float:
    """GiB of the largest stage, with the overhead, for one image and one class image."""
    training = {"method": method, "precision": "bf16", "gradientCheckpointing": checkpointing}
    model = {**JOB["spec"]["model"], **({"quantization": QLORA} if quantized else {})}
    spec = {**JOB["spec"], "training": training, "model": model}
    job = DreamBoothJob.model_validate({**JOB, "spec": spec})
    stages = measure_stages(
        fill_defaults(job, config.defaults, config.skeleton.flow_shift),
        config,
        local_batch=2,
        ranks=1,
    )
    return round((max(stages.values()) + OVERHEAD) / GIB, 1)


@pytest.mark.slow
# As on a GPU; it says that a norm in fp32 is not fused.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("source", PUBLISHED)
def test_the_memory_of_published_models(source: str) -> None:
    config = published_config(source)
    stated = PUBLISHED[source].memory
    found = GpuMemory(
        *(
            measure(config, method, checkpointing=checkpointing)
            for checkpointing in (False, True)
            for method in ("lora", "full")
        ),
        *(
            measure(config, "lora", checkpointing=checkpointing, quantized=True)
            for checkpointing in (False, True)
            if stated is None or stated.qlora
        ),
    )
    assert stated, f"memory={found}"
    assert astuple(found) == pytest.approx(astuple(stated), rel=0.01, abs=0.1), f"memory={found}"
