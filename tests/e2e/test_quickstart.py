"""What a new user runs: `dreambooth run` on the quickstart, shortened, with everything real."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
UPLOADS = {
    "tiny-sd/model": "s3://dreambooth/models/tiny-sd",
    "tiny-sd/clip": "s3://dreambooth/models/tiny-clip",
    "subjects": "s3://dreambooth/subjects",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The quickstart with few steps and images, run to its end by the command line."""
    folder = tmp_path_factory.mktemp("quickstart")
    job = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text())
    spec = job["spec"]
    spec["prior"]["count"], spec["prior"]["steps"] = 8, 4
    spec["training"]["steps"] = 6
    spec["samples"] |= {"count": 1, "steps": 4}
    spec["evaluation"]["count"] = 2
    spec["checkpoints"] = {"every": 3}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    command = [sys.executable, "-c", "from dreambooth_operator.cli.main import main; main()"]
    command += ["run", "-f", "job.yaml", "--state", "state"]
    for local, uri in UPLOADS.items():
        command += ["--upload", f"{ROOT / 'examples' / local}={uri}"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder, ended.stdout


def test_it_ends_by_saying_where_the_result_is(finished):
    _, output = finished
    assert "s3://dreambooth/results/default/quickstart/" in output
    assert "before-after.png" in output


def test_it_shows_the_scores(finished):
    _, output = finished
    for words in ("subject similarity", "prompt following", "class drift"):
        assert words in output.lower()


def test_the_grid_is_there_to_look_at(finished):
    folder, _ = finished
    grids = list((folder / "state").rglob("before-after.png"))
    assert grids
    with Image.open(grids[0]) as grid:
        assert min(grid.size) > 200


def test_the_export_loads_in_plain_diffusers(finished):
    from diffusers import StableDiffusionPipeline

    folder, _ = finished
    exports = [p.parent for p in (folder / "state").rglob("export/model_index.json")]
    assert exports
    pipeline = StableDiffusionPipeline.from_pretrained(
        exports[0], safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a photo of sks mug", num_inference_steps=2, height=64, width=64).images[0]
    assert image.size == (64, 64)
