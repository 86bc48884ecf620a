"""The command line on a job file, with a fake trainer.

`launcher.py` below takes the place of `dreambooth_trainer.launcher`, as it comes first on
PYTHONPATH. Each test adds what the pods of an attempt do.
"""

import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.crds.contract.example_scores import example_scores

SCRIPTS = sysconfig.get_path("scripts")
FAKE_LAUNCHER = """
import json, os, signal, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import yaml

from dreambooth_api.contract.message import Checkpoint
from dreambooth_api.contract.termination import Termination

job = yaml.safe_load(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
attempt, pod = int(os.environ["DREAMBOOTH_ATTEMPT"]), int(os.environ["JOB_COMPLETION_INDEX"])
meta = job["metadata"]
output = Path(job["spec"]["output"].removeprefix("file://"))
run = output / meta["namespace"] / meta["name"] / meta["uid"]
run.mkdir(parents=True, exist_ok=True)


progress = {"stage": "Training", "step": 7, "totalSteps": 9, "loss": 0.5}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(progress).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


saved = None  # step of the newest checkpoint


def end(code, message=""):
    if saved is not None:
        checkpoint = Checkpoint(step=saved, uri="s3://out", time="2026-01-01T00:00:00Z")
        message = Termination(message=message, checkpoint=checkpoint).encode().decode()
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
    path: str = f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', '')}"
    """PATH of the commands: the shell finds `dreambooth`."""

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

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        self.file.write_text(yaml.safe_dump(self.job))
        path = f"{self.folder / 'fake'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", "PATH": self.path}
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from dreambooth_operator.cli.main import main; main()",
                *arguments,
            ],
            cwd=self.folder,
            stdin=stdin,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def dreambooth(self, *arguments: str, stdin: str = "") -> tuple[int, str]:
        """Exit code and output of one command."""
        process = self.start(*arguments, stdin=subprocess.PIPE)
        output, _ = process.communicate(stdin, timeout=120)
        assert "Traceback" not in output, output
        return process.returncode, output

    def run_job(self, *arguments: str) -> tuple[int, str]:
        return self.dreambooth("run", "job.yaml", *arguments)

    def records(self) -> list[dict[str, Any]]:
        """Records of the runs, oldest first."""
        found = [json.loads(path.read_text()) for path in self.state.glob("runs/*/run.json")]
        return sorted(found, key=lambda record: str(record["started"]))


RESULTS = f"""
if pod == 0:
    for path in ["samples/step-00000000/grid.png", "samples/step-00000009/grid.png",
                 "samples/before-after.png", "export/model.safetensors", "checkpoints/big"]:
        (run / path).parent.mkdir(parents=True, exist_ok=True)
        (run / path).write_text(path)
    (run / "scores.json").write_bytes({example_scores().encode()!r})
    time.sleep(1.5)
"""
