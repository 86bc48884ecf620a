"""`dreambooth sweep` on this machine: every combination, failures, stopping and going on."""

import base64
import io
import json
import re
import shlex
import signal
import time
from typing import Any

import pytest
import yaml
from PIL import Image

from dreambooth_api.parsing.load import load
from dreambooth_operator.cli.sweep.members import SWEEP_LABEL
from tests.operator.cli.bench import Bench

SCORES = """
from dreambooth_api.contract.scores import (
    Counts, Encoder, Encoders, Estimate, Scores, ScoreValues, Selection, SubjectScores
)

steps = job["spec"]["training"]["steps"]
encoder = Encoder(name="CLIP", source="/models/clip", sha256="0" * 64)


def trained(value):
    return ScoreValues(trained=Estimate(value=value, low=value - 0.05, high=value + 0.05))


scores = Scores(
    step=steps,
    exported_step=steps - 1,
    selection=Selection(score=steps / 4000),
    encoders=Encoders(image=encoder, text=encoder),
    subjects=[SubjectScores(
        identifier="sks", class_noun="mug",
        counts=Counts(subject=2, class_images=2, per_prompt=2, references=2, training=2),
        scores={"subjectSimilarity": trained(steps / 1000), "promptSimilarity": trained(0.25)},
    )],
)
(run / "scores.json").write_bytes(scores.encode())
from PIL import Image
for step, color in ((steps - 1, (40, 90, 200)), (steps, (250, 0, 0))):
    grid = run / "samples" / f"step-{step:08d}" / "grid.png"
    grid.parent.mkdir(parents=True)
    Image.new("RGB", (64, 64), color).save(grid)
"""
SWEEP = ("sweep", "-f", "job.yaml")


@pytest.fixture
def bench(bench: Bench) -> Bench:
    bench.job["spec"]["runtime"] |= {"nodes": 1}
    return bench


def states(bench: Bench) -> list[tuple[int, str, int]]:
    """Steps, state and attempts of each run, oldest first."""
    return [
        (each["job"]["spec"]["training"]["steps"], each["state"], each["attempts"])
        for each in bench.records()
    ]


def rows(output: str) -> list[list[str]]:
    """Cells of the last table's rows."""
    table = re.split(r"\n *─+ *\n", output)[-1].partition("\npage ")[0]
    lines = [line for line in table.splitlines() if line.strip() and " failed: " not in line]
    return [re.split(r" {2,}", line.strip()) for line in lines]


def test_every_combination_runs_and_the_best_comes_first(bench: Bench) -> None:
    bench.trainer(SCORES)
    code, output = bench.dreambooth(
        *SWEEP, "--set", "training.steps=200,400", "--set", "training.seed=1"
    )
    assert code == 0
    assert states(bench) == [(200, "Succeeded", 1), (400, "Succeeded", 1)]
    assert "job 1 of 2: mug-1-200-" in output
    assert "job 2 of 2: mug-1-400-" in output
    best, other = rows(output)
    assert best[:5] == ["400", "1", "399", "0.400 ±0.050", "0.250 ±0.050"]
    assert other[:3] == ["200", "1", "199"]
    assert {best[-1], other[-1]} == {"Succeeded"}
    page = (bench.state / "mug-sweep.html").read_text()
    assert page.index("0.400 ±0.050") < page.index("0.200 ±0.050")
    pictures = re.findall(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", page)
    # Of the models that are exported, and not of the last ones, whose samples are red.
    assert [
        Image.open(io.BytesIO(base64.b64decode(each))).getpixel((0, 0)) for each in pictures
    ] == [(40, 90, 200)] * 2
    roots = {record["job"]["metadata"]["name"] for record in bench.records()}
    assert {path.name for path in (bench.folder / "out" / "default").iterdir()} == roots


def test_a_job_that_fails_leaves_the_others_alone_and_says_why(bench: Bench) -> None:
    bench.trainer("""
if job["spec"]["training"]["steps"] == 200:
    end(65, "spec.subjects[0].images: no image decodes\\nwarning: there is more to say")
""")
    code, output = bench.dreambooth(*SWEEP, "--set", "training.steps=200,400")
    assert code == 1
    assert states(bench) == [(200, "Failed", 1), (400, "Succeeded", 1)]
    assert {row[-1] for row in rows(output)} == {"Failed", "Succeeded"}
    (failure,) = re.findall(r"mug-200-.* failed: (.*)", output)
    assert failure == "spec.subjects[0].images: no image decodes"
    assert "there is more to say" in (bench.state / "mug-sweep.html").read_text()

    # Once the reason is gone, only that job runs again.
    bench.trainer("")
    code, output = bench.dreambooth(*SWEEP, "--set", "training.steps=200,400,600")
    assert code == 0
    assert output.count("succeeded before") == 1
    assert sorted(states(bench)) == [
        (200, "Failed", 1), (200, "Succeeded", 1), (400, "Succeeded", 1), (600, "Succeeded", 1),
    ]  # fmt: skip
    assert [row[-1] for row in rows(output)] == ["Succeeded"] * 3


def test_a_sweep_that_was_stopped_goes_on_where_it_was(bench: Bench) -> None:
    bench.trainer("""
if attempt == 0 and job["spec"]["training"]["steps"] == 400:
    saved = 7
    (run / "started").touch()
    time.sleep(60)
""")
    process = bench.start(*SWEEP, "--set", "training.steps=200,400,600")
    deadline = time.monotonic() + 110
    while not list(bench.folder.glob("out/default/*/*/started")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert states(bench) == [(200, "Succeeded", 1), (400, "Stopped", 1)]
    assert [row[-1] for row in rows(output)] == ["Succeeded", "Stopped", "not run"]
    command = re.findall(r"go on with: (.*)", output)[0]
    assert shlex.split(command)[1:] == [*SWEEP, "--set", "training.steps=200,400,600"]

    code, output = bench.dreambooth(*shlex.split(command)[1:])
    assert code == 0
    assert states(bench) == [(200, "Succeeded", 1), (400, "Succeeded", 2), (600, "Succeeded", 1)]
    assert "from the checkpoint of step 7" in output


def test_results_of_the_job_as_it_was_do_not_count(bench: Bench) -> None:
    bench.trainer("")
    sweep = (*SWEEP, "--set", "training.steps=200")
    assert bench.dreambooth(*sweep)[0] == 0
    bench.job["spec"]["training"] = {"seed": 9}
    code, output = bench.dreambooth(*sweep)
    assert code == 0
    assert "succeeded before" not in output
    assert len(bench.records()) == 2


def test_nothing_runs_when_one_combination_is_not_valid(bench: Bench) -> None:
    code, output = bench.dreambooth(*SWEEP, "--set", "training.steps=200,-1")
    assert code == 2
    assert "spec.training.steps: must be at least 1 (got -1)" in output
    assert bench.records() == []


def test_the_jobs_are_rendered_for_kubectl(bench: Bench) -> None:
    values = ("--set", "training.learningRate=1e-4,5e-5", "--render")
    code, output = bench.dreambooth("sweep", "job.yaml", *values)
    assert code == 0
    manifests = output[output.index("apiVersion") :]
    jobs: list[dict[str, Any]] = list(yaml.safe_load_all(manifests))
    assert len(jobs) == 2
    for document in jobs:
        job = load(json.dumps(document, indent=1))
        assert job.metadata.labels == {SWEEP_LABEL: "mug"}
        assert "namespace" not in document["metadata"], "kubectl's own counts"
    assert {each["spec"]["training"]["learningRate"] for each in jobs} == {1e-4, 5e-5}
    assert bench.records() == []
