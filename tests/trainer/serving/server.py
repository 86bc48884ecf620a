"""Results on a random model, and a server of them in a thread of the test's own process."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from diffusers import StableDiffusionPipeline

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_trainer.export.lora import export_lora
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.serving.http.app import make_app
from dreambooth_trainer.serving.parts import Parts, make_parts
from dreambooth_trainer.serving.settings import ServingSettings
from tests.trainer.export.test_export import ABOUT, adapt


def write_run(prefix: Path, model: Path, name: str, uid: str, *, seed: int | None) -> Path:
    """A run's folder: a LoRA of random weights, or without a seed the whole base model."""
    folder = prefix / "default" / name / uid
    job = DreamBoothJob.model_validate(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": name, "uid": uid},
            "spec": {
                "model": {"source": str(model)},
                "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "file:///none"}],
                "output": f"file://{prefix}",
                "training": {
                    "method": "full" if seed is None else "lora",
                    "resolution": 64,
                    "precision": "fp32",
                },
                "samples": {"steps": 4, "guidanceScale": 2.0},
                "runtime": {"gpusPerNode": 0},
            },
        }
    )
    if seed is None:
        shutil.copytree(model, folder / "export")
    else:
        pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
        adapt(pipeline.unet, ["to_q", "to_v"], seed)
        export_lora(StableDiffusion(pipeline, ""), folder / "export", ABOUT)
    record = {"job": job.model_dump(mode="json", by_alias=True, exclude_none=True)}
    (folder / "run.json").write_text(json.dumps({**record, "hashes": {}, "attempts": []}))
    return folder


@dataclass(frozen=True)
class Serving:
    """A server under way."""

    url: str
    parts: Parts


@contextmanager
def serving(root: Path, **settings: Any) -> Iterator[Serving]:
    """Serve the results below a folder on a free port of loopback."""
    parts = make_parts(ServingSettings(root=f"file://{root}", port=0, **settings))
    server = uvicorn.Server(uvicorn.Config(make_app(parts), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Serving(f"http://127.0.0.1:{port}", parts)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
