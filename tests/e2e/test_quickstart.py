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
    "tiny-sd/dino": "s3://dreambooth/models/tiny-dino",
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
    uploads = [f"{ROOT / 'examples' / local}={uri}" for local, uri in UPLOADS.items()]
    return folder, dreambooth(folder, "run", *(each for u in uploads for each in ("--upload", u)))


def dreambooth(folder, name, *arguments):
    """What the command line prints about the job, once it has ended well."""
    command = [sys.executable, "-c", "from dreambooth_operator.cli.main import main; main()"]
    command += [name, "-f", "job.yaml", "--state", "state", *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_it_ends_by_saying_where_the_result_is(finished):
    _, output = finished
    assert "s3://dreambooth/results/default/quickstart/" in output
    assert "before-after.png" in output


def test_it_shows_the_scores(finished):
    _, output = finished
    for words in ("subject similarity", "prompt following", "class fidelity", "class drift"):
        assert words in output.lower()


def test_the_grid_is_there_to_look_at(finished):
    folder, _ = finished
    grids = list((folder / "state").rglob("before-after.png"))
    assert grids
    with Image.open(grids[0]) as grid:
        assert min(grid.size) > 200


def test_the_report_shows_photos_samples_and_scores(finished):
    folder, output = finished
    (path,) = (folder / "state").rglob("report.html")
    assert str(path) in output
    page = path.read_text()
    for alt in ("Photo 5 of sks mug", "Sample 1 of sks mug", "Class image 8 of mug"):
        assert f'alt="{alt}' in page
    for shown in (
        "Subject similarity",
        "Succeeded.",
        "from the beginning",
        "2 ranks",
        "models/checkpoints",
    ):
        assert shown in page
    assert "not available</div>" not in page


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


def test_a_sweep_shares_the_class_images_and_ends_with_a_table_and_a_page(finished):
    folder, _ = finished
    output = dreambooth(folder, "sweep", "--nodes", "1", "--set", "training.steps=2,3")
    assert output.rpartition("┏")[2].count("Succeeded") == 2
    for steps in (2, 3):
        [log] = (folder / "state" / "runs").glob(f"quickstart-{steps}-*/pod-0.log")
        assert "8 reused, 0 generated" in log.read_text()
    page = (folder / "state" / "quickstart-sweep.html").read_text()
    assert page.count("data:image/webp;base64,") == 2
    assert "subject similarity" in page
