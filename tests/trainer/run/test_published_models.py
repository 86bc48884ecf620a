"""Training and export on models as they are published, from fetching to a pipeline."""

import pytest
from diffusers import StableDiffusionPipeline

from tests.corpus import models
from tests.trainer.ranks import run_folder, run_ranks


@pytest.mark.parametrize("name", ["SD 1.4", "SD 1.5 without EMA"])
def test_a_published_model_trains_and_is_exported(name, job, random_model, tmp_path):
    folder = models.published(random_model, name, tmp_path / "model")
    model = {"source": str(folder), "variant": models.FOLDERS[name][1]}
    run = job("published", model=model, training={"steps": 2}, prior={"enabled": False})
    ended = run_ranks(run, tmp_path / "run")
    assert ended.codes == [0], "\n".join(ended.logs)
    pipeline = StableDiffusionPipeline.from_pretrained(run_folder(run) / "export")
    assert pipeline.safety_checker is None
