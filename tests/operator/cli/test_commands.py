"""The short commands: validate, render, samples, version."""

import os
import subprocess
import sys
import time
from importlib.metadata import version

import pytest
import yaml

from tests.operator.cli.bench import RESULTS, Bench


def test_samples_are_fetched_by_name_and_by_file(bench: Bench) -> None:
    bench.trainer(RESULTS)
    bench.run_job()
    code, output = bench.dreambooth("samples", "mug")
    assert code == 0
    assert output.split() == [
        "mug-samples/samples/before-after.png",
        "mug-samples/samples/step-00000000/grid.png",
        "mug-samples/samples/step-00000009/grid.png",
    ]
    code, output = bench.dreambooth("samples", "job.yaml", "--to", "elsewhere")
    assert code == 0
    assert (bench.folder / "elsewhere" / "samples" / "before-after.png").exists()


def test_samples_of_a_run_elsewhere_are_the_newest_in_storage(bench: Bench) -> None:
    for age, uid in ((100, "old"), (0, "new")):
        grid = bench.folder / "out" / "default" / "mug" / uid / "samples" / "before-after.png"
        grid.parent.mkdir(parents=True)
        grid.write_text(uid)
        os.utime(grid, (time.time() - age, time.time() - age))
    code, output = bench.dreambooth("samples", "job.yaml")
    assert code == 0, output
    assert (bench.folder / "mug-samples" / "samples" / "before-after.png").read_text() == "new"


def test_every_problem_of_an_invalid_job_is_listed(bench: Bench) -> None:
    bench.job["spec"]["training"] = {"steps": 0, "learningrate": 1}
    for command in (("validate", "job.yaml"), ("run", "-f", "job.yaml"), ("render", "job.yaml")):
        code, output = bench.dreambooth(*command)
        assert code == 2
        assert "spec.training.steps: must be at least 1" in output
        assert "spec.training.learningrate: unknown field; did you mean learningRate?" in output


def test_validate_names_each_file(bench: Bench) -> None:
    (bench.folder / "broken.yaml").write_text("kind: [")
    code, output = bench.dreambooth("validate", "job.yaml", "broken.yaml", "absent.yaml")
    assert code == 2
    assert "job.yaml: valid" in output
    assert "broken.yaml is not valid:" in output
    assert "absent.yaml" in output


def test_render_prints_all_objects(bench: Bench) -> None:
    code, output = bench.dreambooth("render", "job.yaml", "--attempt", "4", "--image", "trainer:x")
    assert code == 0
    objects = list(yaml.safe_load_all(output))
    assert [(o["kind"], o["metadata"]["name"]) for o in objects] == [
        ("Service", "mug-ranks"),
        ("ConfigMap", "mug-config"),
        ("Job", "mug-4"),
        ("Job", "mug-preflight"),
    ]
    assert objects[2]["spec"]["template"]["spec"]["containers"][0]["image"] == "trainer:x"


def test_command_line_loads_nothing_heavy(bench: Bench) -> None:
    heavy = ("torch", "boto3", "kubernetes", "kopf", "diffusers", "dreambooth_trainer")
    program = (
        "import sys; sys.argv = ['dreambooth', 'validate', 'job.yaml']\n"
        "from dreambooth_operator.cli.main import main\n"
        "try: main()\n"
        f"finally: print('heavy:', [m for m in {heavy!r} if m in sys.modules])\n"
    )
    bench.file.write_text(yaml.safe_dump(bench.job))
    output = subprocess.run(
        [sys.executable, "-c", program],
        cwd=bench.folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "job.yaml: valid" in output
    assert "heavy: []" in output


def test_version_is_a_command_and_an_option(bench: Bench) -> None:
    expected = (0, f"{version('dreambooth-operator')}\n")
    assert bench.dreambooth("version") == bench.dreambooth("--version") == expected


@pytest.mark.parametrize("arguments", [("-h",), ("run", "-h")])
def test_short_option_for_help(bench: Bench, arguments: tuple[str, ...]) -> None:
    code, output = bench.dreambooth(*arguments)
    assert code == 0
    assert "Usage: " in output
