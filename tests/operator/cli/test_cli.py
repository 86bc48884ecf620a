"""The command line from a job file to its results, with a fake trainer.

What is tested is the runner: `launcher.py` below takes the place of `dreambooth_trainer.launcher`,
as it comes first on PYTHONPATH. Each test adds what the pods of an attempt do.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

FAKE_LAUNCHER = """
import json, os, signal, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import yaml

job = yaml.safe_load(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
attempt, pod = int(os.environ["DREAMBOOTH_ATTEMPT"]), int(os.environ["JOB_COMPLETION_INDEX"])
meta = job["metadata"]
output = Path(job["spec"]["output"].removeprefix("file://"))
run = output / meta["namespace"] / meta["name"] / meta["uid"]
run.mkdir(parents=True, exist_ok=True)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"stage": "Training", "step": 7, "totalSteps": 9, "loss": 0.5}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def end(code, message=""):
    if message:
        Path(os.environ["DREAMBOOTH_TERMINATION_LOG"]).write_text(message)
    sys.exit(code)


signal.signal(signal.SIGTERM, lambda *_: end(143))
if pod == 0:
    address = os.environ["POD_IP"], int(os.environ["DREAMBOOTH_METRICS_PORT"])
    Thread(target=HTTPServer(address, Handler).serve_forever, daemon=True).start()
"""


@dataclass
class Bench:
    """A folder with a job, a fake trainer, and the command line on them."""

    folder: Path
    job: dict[str, Any]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "job.yaml"

    @property
    def state(self) -> Path:
        return self.folder / ".dreambooth"

    def trainer(self, program: str) -> None:
        """Let the pods do this, after the fake has started."""
        package = self.folder / "fake" / "dreambooth_trainer"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        (package / "launcher.py").write_text(f"{FAKE_LAUNCHER}\n{program}")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        self.file.write_text(yaml.safe_dump(self.job))
        path = f"{self.folder / 'fake'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from dreambooth_operator.cli.main import main; main()",
                *arguments,
            ],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def dreambooth(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output of one command."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=120)
        assert "Traceback" not in output, output
        return process.returncode, output

    def run_job(self, *arguments: str) -> tuple[int, str]:
        return self.dreambooth("run", "-f", "job.yaml", *arguments)

    def records(self) -> list[dict[str, Any]]:
        """Records of the runs, oldest first."""
        found = [json.loads(path.read_text()) for path in self.state.glob("runs/*/run.json")]
        return sorted(found, key=lambda record: str(record["started"]))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A job that needs no server: everything is in folders."""
    job = {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "mug"},
        "spec": {
            "model": {"source": "/models/tiny"},
            "subjects": [
                {"identifier": "sks", "classNoun": "mug", "images": f"file://{tmp_path}/images"}
            ],
            "output": f"file://{tmp_path}/out",
            "runtime": {
                "nodes": 2,
                "gpusPerNode": 0,
                "restart": {"maxFailures": 2, "backoffSeconds": 1, "maxBackoffSeconds": 1},
            },
        },
    }
    bench = Bench(tmp_path, job)
    yield bench
    for process in bench.processes:
        process.kill()
        process.communicate()


RESULTS = """
if pod == 0:
    for path in ["samples/step-00000000/grid.png", "samples/step-00000009/grid.png",
                 "samples/before-after.png", "export/model.safetensors", "checkpoints/big"]:
        (run / path).parent.mkdir(parents=True, exist_ok=True)
        (run / path).write_text(path)
    similarity = {"before": 0.5, "after": 0.75, "real": 0.875}
    scores = [{"identifier": "sks", "classNoun": "mug", "subjectSimilarity": similarity}]
    (run / "scores.json").write_text(json.dumps({"step": 9, "subjects": scores}))
    time.sleep(1.5)
"""


def test_run_shows_progress_and_ends_with_results_and_scores(bench: Bench) -> None:
    bench.trainer(RESULTS)
    code, output = bench.run_job()
    assert code == 0
    assert "attempt 0: starting" in output
    assert "Training  step 7/9  loss 0.5000" in output
    (record,) = bench.records()
    assert record["state"] == "Succeeded"
    uid = record["job"]["metadata"]["uid"]
    assert f"file://{bench.folder}/out/default/mug/{uid}/" in output
    grid = Path(re.findall(r"samples +(\S+)", output)[0])
    assert grid.read_text() == "samples/step-00000009/grid.png"
    before_after = Path(re.findall(r"before/after +(\S+)", output)[0])
    assert before_after.read_text() == "samples/before-after.png"
    assert re.search(r"subject similarity.* 0\.500 .* 0\.750 .* 0\.875", output)
    assert not list(bench.state.rglob("big"))


def test_results_that_cannot_be_fetched_do_not_fail_the_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    bench.job["spec"]["output"] = "s3://bucket/out"
    bench.job["spec"]["storage"] = {"endpointURL": "http://127.0.0.1:9"}
    bench.trainer("")
    code, output = bench.run_job()
    assert code == 0
    assert "succeeded in" in output
    assert "(cannot be fetched: s3://bucket/out/default/mug/" in output
    assert "check spec.storage.endpointURL" in output


def test_state_folder_that_cannot_be_made_is_one_message(bench: Bench) -> None:
    (bench.folder / "file").touch()
    code, output = bench.run_job("--state", "file/state")
    assert code == 2
    assert re.search(r"^error: .*file/state", output, re.MULTILINE)


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


def test_error_that_no_restart_helps_ends_the_run_with_its_code(bench: Bench) -> None:
    bench.trainer("""
print("reading images")
if pod == 1:
    end(65, "spec.subjects[0].images: no image decodes; upload 3-5 photos")
time.sleep(60)
""")
    code, output = bench.run_job()
    assert code == 65
    assert "FAILED: pod 1 of 2 exited with code 65" in output
    assert "spec.subjects[0].images: no image decodes; upload 3-5 photos" in output
    assert "reading images" in output
    log = Path(re.findall(r"last lines of (\S+):", output)[0])
    assert log.name == "pod-1.log"
    assert log.read_text() == "reading images\n"
    (record,) = bench.records()
    assert (record["state"], record["attempts"]) == ("Failed", 1)


def test_failure_is_retried_as_a_new_attempt(bench: Bench) -> None:
    bench.trainer("""
print("attempt", attempt)
end(1) if attempt == 0 and pod == 1 else None
""")
    code, output = bench.run_job()
    assert code == 0
    assert "pod 1 exited with code 1 (failure 1 of 2 allowed)" in output
    assert "attempt 1: starting" in output
    (log,) = bench.state.rglob("pod-1.log")
    assert log.read_text() == "attempt 0\nattempt 1\n"


def test_restart_budget_is_spent(bench: Bench) -> None:
    bench.trainer("end(3)")
    code, output = bench.run_job()
    assert code == 3
    (record,) = bench.records()
    assert record["attempts"] == 3
    assert "gave up after 3 attempts: spec.runtime.restart.maxFailures is 2" in output
    assert "resume from the last checkpoint with: dreambooth run job.yaml --resume" in output


def test_disruption_costs_no_failure(bench: Bench) -> None:
    bench.job["spec"]["runtime"]["restart"]["maxFailures"] = 0
    bench.trainer("end(143) if attempt == 0 else None")
    code, output = bench.run_job()
    assert code == 0
    assert "(disrupted)" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_saves_and_resume_goes_on_with_the_same_run(
    bench: Bench, number: signal.Signals
) -> None:
    bench.trainer("""
if attempt == 0:
    (run / f"ready-{pod}").touch()
    time.sleep(60)
""")
    process = bench.start("run", "-f", "job.yaml")
    until = time.monotonic() + 60
    while len(list(bench.folder.glob("out/default/mug/*/ready-*"))) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped (exit code 143): the state is saved" in output
    assert "resume with: dreambooth run job.yaml --resume" in output
    (stopped,) = bench.records()
    assert (stopped["state"], stopped["attempts"]) == ("Stopped", 1)

    code, output = bench.run_job("--resume")
    assert code == 0
    assert "attempt 1: starting" in output
    (resumed,) = bench.records()
    assert resumed["job"]["metadata"]["uid"] == stopped["job"]["metadata"]["uid"]
    assert resumed["state"] == "Succeeded"

    code, output = bench.run_job("--resume")
    assert code == 2
    assert "the last run of mug succeeded; run it without --resume" in output


def test_every_run_is_one_of_its_own(bench: Bench) -> None:
    bench.trainer("")
    bench.run_job()
    bench.run_job()
    first, second = bench.records()
    assert first["job"]["metadata"]["uid"] != second["job"]["metadata"]["uid"]
    bench.run_job("--fresh")
    assert len(bench.records()) == 1


def test_resume_without_a_run_is_refused(bench: Bench) -> None:
    code, output = bench.run_job("--resume")
    assert code == 2
    assert "holds no run of mug; run it without --resume" in output


def test_two_runs_in_one_state_folder_are_refused(bench: Bench) -> None:
    bench.trainer("(run / 'ready').touch(); time.sleep(60)")
    first = bench.start("run", "-f", "job.yaml")
    until = time.monotonic() + 60
    while not list(bench.folder.glob("out/default/mug/*/ready")):
        assert time.monotonic() < until
        time.sleep(0.05)
    code, output = bench.run_job()
    assert code == 2
    assert "is in use by another `dreambooth`" in output
    first.terminate()
    assert first.wait(timeout=60) == 143


def test_nodes_can_be_chosen_on_the_command_line(bench: Bench) -> None:
    bench.trainer("print(os.environ['PET_NNODES'], job['spec']['runtime']['nodes'])")
    assert bench.run_job("--nodes", "3")[0] == 0
    assert [log.read_text() for log in bench.state.rglob("pod-*.log")] == ["3 3\n"] * 3


def test_choice_that_breaks_the_job_is_refused(bench: Bench) -> None:
    bench.job["spec"]["training"] = {"globalBatch": 4}
    code, output = bench.run_job("--nodes", "3")
    assert code == 2
    assert "spec.training.globalBatch: must be a multiple of nodes" in output


def test_job_without_an_endpoint_gets_a_server_with_its_uploads(bench: Bench) -> None:
    """The trainer sees the endpoint in its job and the credentials in its environment."""
    bench.job["spec"]["output"] = "s3://results/here"
    bench.job["spec"]["subjects"][0]["images"] = "s3://photos/mug"
    bench.trainer("""
if pod == 0:
    import boto3
    storage = job["spec"]["storage"]
    s3 = boto3.client("s3", endpoint_url=storage["endpointURL"], region_name=storage["region"])
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="photos")["Contents"]]
    prefix = f"here/{meta['namespace']}/{meta['name']}/{meta['uid']}"
    s3.put_object(Bucket="results", Key=f"{prefix}/export/keys", Body=" ".join(keys).encode())
    s3.put_object(Bucket="results", Key=f"{prefix}/checkpoints/big", Body=b"")
    s3.put_object(Bucket="results", Key=f"{prefix}/samples/before-after.png", Body=b"png")
""")
    photos = bench.folder / "photos"
    photos.mkdir()
    (photos / "0.jpg").write_bytes(b"jpg")
    code, output = bench.run_job("--upload", "photos=s3://photos/mug")
    assert code == 0, output
    assert "uploaded 1 files from photos to s3://photos/mug" in output
    model = Path(re.findall(r"model +(\S+)", output)[0])
    assert (model / "keys").read_text() == "mug/0.jpg"
    assert not list(bench.state.glob("runs/**/big"))

    code, output = bench.dreambooth("samples", "mug")
    assert code == 0, output
    assert (bench.folder / "mug-samples" / "samples" / "before-after.png").read_bytes() == b"png"


@pytest.mark.parametrize(
    "upload", ["photos", "=s3://b/c", "photos=", "photos=http://b/c", "nowhere=s3://b/c"]
)
def test_odd_uploads_are_refused_before_anything_runs(bench: Bench, upload: str) -> None:
    code, output = bench.run_job("--upload", upload)
    assert code == 2
    assert re.search("use LOCAL=URI|no such file or folder", output)
    assert bench.records() == []


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
