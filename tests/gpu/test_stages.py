"""Whole runs on one GPU, from loading the model to the export.

By default the GPU is the fake one, so that these tests run anywhere. `make gpu` sets
DREAMBOOTH_TEST_GPU=real, and takes the machine's own.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

from tests.gpu import fake_gpu
from tests.trainer.random_model import save_random_model
from tests.trainer.ranks import Ended, history, run_folder, run_ranks

REAL = os.environ.get("DREAMBOOTH_TEST_GPU", "fake") == "real"
EXAMPLES = Path(__file__).parents[2] / "examples"
CLIP = f"file://{EXAMPLES}/tiny-sd/clip"
STEPS = 4

if REAL and not torch.cuda.is_available():
    pytest.skip("this machine has no GPU that torch can use", allow_module_level=True)


def prepare(forbid_waiting: bool = False) -> None:
    """Called in the process of the run before it begins."""
    if not REAL:
        fake_gpu.install()
    if forbid_waiting:
        advance = _TrainingEpochLoop.advance

        def step(*args: Any, **kwargs: Any) -> None:
            torch.cuda.set_sync_debug_mode("error")
            try:
                advance(*args, **kwargs)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        _TrainingEpochLoop.advance = step


def run(job: dict[str, Any], folder: Path, *, waits: bool = True, **how: Any) -> Ended:
    on_gpu = job["spec"]["runtime"]["gpusPerNode"] > 0
    how |= {"prepare": partial(prepare, forbid_waiting=not waits)} if on_gpu else {}
    return run_ranks(job, folder, timeout=280, **how)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small, as the fake GPU takes its time for every operation."""
    folder = tmp_path_factory.mktemp("random-model")
    save_random_model(folder)
    return folder


def make_job(
    model: Path, folder: Path, uid: str, *, gpus: int = 1, **sections: Any
) -> dict[str, Any]:
    """A job with class images, samples and scores; a section given edits its spec."""
    spec: dict[str, Any] = {
        "model": {"source": str(model)},
        "subjects": [
            {
                "identifier": "sks",
                "classNoun": "mug",
                "images": f"file://{EXAMPLES}/subjects/smiling-mug",
            }
        ],
        "output": f"file://{folder}/output",
        "prior": {"count": 2, "steps": 2, "cache": f"file://{folder}/cache-{uid}"},
        "training": {"steps": STEPS, "resolution": 64, "globalBatch": 2, "learningRate": 1e-4},
        "checkpoints": {"every": 2},
        "samples": {"steps": 2, "count": 1},
        "evaluation": {"encoders": {"image": CLIP, "text": CLIP}, "count": 2},
        "runtime": {"gpusPerNode": gpus},
    }
    for section, change in sections.items():
        spec[section] |= change
    return {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "gpu", "namespace": "default", "uid": uid},
        "spec": spec,
    }


def losses(job: dict[str, Any]) -> torch.Tensor:
    return torch.tensor([line["loss"] for line in history(job)])


FULL = {
    "method": "full",
    "precision": "fp32",
    "ema": {"enabled": True},
    "minSnrGamma": 5.0,
}


def test_a_run_that_stops_and_resumes_on_a_gpu_learns_what_it_learns_on_a_cpu(model, tmp_path):
    on_cpu = make_job(model, tmp_path, "cpu", gpus=0, training=FULL)
    del on_cpu["spec"]["evaluation"]  # only its losses are looked at
    assert run(on_cpu, tmp_path / "cpu").codes == [0]
    on_gpu = make_job(model, tmp_path, "gpu", training=FULL, samples={"every": 3})
    stopped = run(on_gpu, tmp_path / "gpu", stop_at_step=1)
    assert stopped.codes == [143], stopped.logs[0]
    assert "saved at step" in stopped.termination.message
    resumed = run(on_gpu, tmp_path / "gpu", attempt=1)
    assert resumed.codes == [0], resumed.logs[0]
    torch.testing.assert_close(
        losses(on_gpu), losses(on_cpu), atol=0, rtol=5e-2 if REAL else 1e-4
    )  # a GPU multiplies in TF32
    for name in ("samples/before-after.png", "scores.json", "export/model_index.json"):
        assert (run_folder(on_gpu) / name).is_file(), name


VARIANTS = {
    "lora, bf16, text encoder that is freed": {
        "method": "lora",
        "precision": "bf16",
        "captionDropout": 0.5,
    },
    "lora, bf16, text encoder that stops": {
        "method": "lora",
        "lora": {"rank": 2, "dropout": 0.1},
        "precision": "bf16",
        "textEncoder": {"method": "lora", "stopFraction": 0.5},
    },
    "lora merged into its base, gradient checkpointing": {
        "method": "lora",
        "precision": "bf16",
        "gradientCheckpointing": True,
        "textEncoder": {"method": "full"},
        "captionDropout": 0.5,
    },
}


@pytest.mark.parametrize(
    "variant",
    [
        # Each takes minutes on the fake GPU; the second one is watched below, too.
        pytest.param(name, marks=[pytest.mark.slow] * (number > 0 and not REAL))
        for number, name in enumerate(VARIANTS)
    ],
)
def test_a_run_ends_with_an_export(model, tmp_path, variant):
    job = make_job(model, tmp_path, "run", training=VARIANTS[variant])
    ended = run(job, tmp_path / "run")
    assert ended.codes == [0], ended.logs[0]
    assert len(losses(job)) == STEPS
    assert (run_folder(job) / "export" / "README.md").is_file()


def test_a_run_in_fp16_ends_with_an_export(model, tmp_path):
    training = {"method": "full", "precision": "fp16", "steps": 2, "globalBatch": 1}
    changes = {"prior": {"enabled": False}, "samples": {"steps": 1}}
    job = make_job(model, tmp_path, "run", training=training, **changes)
    del job["spec"]["evaluation"]  # few images, as CPUs are slow in fp16
    ended = run(job, tmp_path / "run")
    assert ended.codes == [0], ended.logs[0]
    assert (run_folder(job) / "export" / "README.md").is_file()


WATCHED = [FULL, VARIANTS["lora, bf16, text encoder that stops"]]


@pytest.mark.parametrize("training", WATCHED)
def test_no_step_and_no_save_waits_for_the_gpu(model, tmp_path, training):
    job = make_job(model, tmp_path, "run", training=training)
    del job["spec"]["evaluation"]
    ended = run(job, tmp_path / "run", waits=False)
    assert ended.codes == [0], ended.logs[0]
