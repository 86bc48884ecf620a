"""`dreambooth serve`: what the server is started with, and how it is stopped."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from dreambooth_operator.cli.use.serve import ServeOptions, serve
from dreambooth_operator.errors import UserError
from tests.operator.cli.bench import Bench

SERVER = """
import json, os, signal, sys
from pathlib import Path

settings = json.loads(Path(sys.argv[sys.argv.index("--settings") + 1]).read_text())

def stop(*_):
    Path("stopped").touch()
    if settings["port"] != 2:
        sys.exit(0)


signal.signal(signal.SIGTERM, stop)
signal.alarm(120)  # it must not outlive a test that fails
cache = {"cache": os.environ["DREAMBOOTH_CACHE_DIR"]}
Path("served.part").write_text(json.dumps(settings | cache))
Path("served.part").rename("served.json")
if settings["port"] == 1:
    sys.exit(64)
while True:
    signal.pause()
"""


@pytest.fixture
def done(bench: Bench) -> Bench:
    """A job that has run here, and a fake server."""
    bench.trainer("")
    (bench.folder / "fake" / "dreambooth_trainer" / "serving.py").write_text(SERVER)
    assert bench.run_job()[0] == 0
    return bench


def served(bench: Bench, *arguments: str) -> dict[str, Any]:
    """The settings of a server that is started, and then stopped by Ctrl-C."""
    file = bench.folder / "served.json"
    file.unlink(missing_ok=True)
    process = bench.start("serve", *arguments)
    until = time.monotonic() + 60
    while not file.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert (bench.folder / "stopped").exists()
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_a_job_and_a_folder_of_results_are_served_until_ctrl_c(done: Bench) -> None:
    (record,) = done.records()
    uid = record["job"]["metadata"]["uid"]
    settings = served(done, "mug")
    assert settings["root"] == f"file://{done.folder}/out/default/mug/{uid}"
    cache = settings["cache"]
    assert Path(cache).is_relative_to(done.folder)
    assert (settings["host"], settings["port"]) == ("127.0.0.1", 8080)
    (done.folder / "tokens").write_text("secret")
    options = ("--port", "0", "--host", "0.0.0.0", "--tokens", "tokens", "--base", "hf://a/b")
    settings = served(done, "out", *options)
    assert settings == {
        "cache": cache,
        "root": f"file://{done.folder}/out",
        "base": "hf://a/b",
        "host": "0.0.0.0",
        "port": 0,
        "insecure": False,
        "tokensFile": f"{done.folder}/tokens",
    }


def test_a_copy_is_served_from_the_storage_of_its_run(done: Bench) -> None:
    (record,) = done.records()
    copy = done.folder / "a copy"
    copy.mkdir()
    record["job"]["spec"]["storage"] = {"endpointURL": "http://127.0.0.1:1"}
    (copy / "run.json").write_text(json.dumps({"job": record["job"]}))
    settings = served(done, "a copy", "--state", "other")
    assert settings["root"] == f"file://{copy}"
    assert settings["storage"]["endpointURL"] == "http://127.0.0.1:1"
    settings = served(done, ".dreambooth/runs")
    assert settings["root"] == f"file://{done.state}/runs"
    assert "storage" in settings


def test_a_server_that_is_not_installed_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreambooth_operator.cli.use.serve.find_spec", lambda _: None)
    options = ServeOptions("mug", None, "127.0.0.1", 0, None, False, tmp_path)
    with pytest.raises(UserError, match=r"-m pip install 'dreambooth-trainer\[serve\]'"):
        serve(options)


def test_a_result_that_is_not_there_and_a_server_that_refuses_are_errors(done: Bench) -> None:
    code, output = done.dreambooth("serve", "cup")
    assert code == 2
    assert "cup: no such file, and no run of that name" in output
    code, output = done.dreambooth("serve", "mug", "--tokens", "none.txt")
    assert code == 2
    assert "--tokens none.txt: no such file" in output
    code, output = done.dreambooth("serve", "mug", "--port", "1")
    assert code == 64
    assert not (Path(done.folder) / "stopped").exists()


def test_a_second_ctrl_c_does_not_wait_for_what_is_under_way(done: Bench) -> None:
    process = done.start("serve", "mug", "--port", "2")
    for mark in ("served.json", "stopped"):
        until = time.monotonic() + 60
        while not (done.folder / mark).exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
    try:
        assert process.wait(20) == 0
    finally:
        process.kill()
