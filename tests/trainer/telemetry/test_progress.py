import json
import logging
import math
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from http.client import HTTPConnection
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from dreambooth_trainer.telemetry.metrics import Metrics
from dreambooth_trainer.telemetry.progress import Average, Progress, Server, serve


@pytest.fixture
def progress() -> Progress:
    return Progress(total_steps=100, attempt=2, world_size=4)


@pytest.fixture
def server(progress: Progress) -> Iterator[Server]:
    found = serve(Metrics({"job": "mug"}), progress, "127.0.0.1", 0)
    assert found is not None
    yield found
    found.close()


def get(server: Server, path: str) -> tuple[str, bytes]:
    with urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read()


def test_before_the_first_step_nothing_is_made_up(progress: Progress) -> None:
    found = progress.snapshot()
    assert isinstance(found.pop("updatedAt"), str)
    assert found == {
        "stage": "Preparing", "step": 0, "totalSteps": 100, "loss": None, "subjectLoss": None,
        "priorLoss": None, "learningRate": None, "imagesPerSecond": None, "etaSeconds": None,
        "attempt": 2, "worldSize": 4, "lastCheckpoint": None, "failedSaves": 0, "saveProblem": None,
        "prior": None, "samples": [], "output": None, "export": None,
    }  # fmt: skip


def test_what_happened_is_told(progress: Progress) -> None:
    progress.stage("Training")
    progress.prior(20, 200)
    progress.step_done(1, images=16, seconds=0.5)
    progress.losses(0.9, 0.5, 0.4, 1e-4)
    progress.checkpoint(1, "s3://out/checkpoints/step-00000001")
    progress.sample("s3://out/samples/step-00000000/grid.png")
    progress.exported("s3://out/export")
    found = progress.snapshot()
    assert (found["stage"], found["step"]) == ("Training", 1)
    assert found["prior"] == {"done": 20, "total": 200}
    assert (found["loss"], found["subjectLoss"], found["priorLoss"]) == (0.9, 0.5, 0.4)
    assert found["imagesPerSecond"] == pytest.approx(32)
    assert found["etaSeconds"] == pytest.approx(99 * 0.5)
    checkpoint = found["lastCheckpoint"]
    assert isinstance(checkpoint, dict)
    assert (checkpoint["step"], checkpoint["uri"]) == (1, "s3://out/checkpoints/step-00000001")
    assert datetime.fromisoformat(str(checkpoint["time"])).tzinfo is not None
    assert found["samples"] == ["s3://out/samples/step-00000000/grid.png"]
    assert found["export"] == "s3://out/export"


def test_the_eta_follows_a_change_of_pace_without_jumping(progress: Progress) -> None:
    for step in range(1, 21):
        progress.step_done(step, images=1, seconds=1.0)
    progress.step_done(21, images=1, seconds=11.0)
    eta = progress.snapshot()["etaSeconds"]
    assert isinstance(eta, float)
    assert 79 < eta < 79 * 2
    for step in range(22, 92):
        progress.step_done(step, images=1, seconds=2.0)
    assert progress.snapshot()["etaSeconds"] == pytest.approx(9 * 2.0, rel=0.1)


def test_an_average_counts_its_first_value_fully() -> None:
    average = Average(0.95)
    assert average.value is None
    average.add(3.0)
    assert average.value == pytest.approx(3.0)


def test_only_the_newest_samples_are_told(progress: Progress) -> None:
    for i in range(50):
        progress.sample(f"s3://out/{i}.png")
    assert progress.snapshot()["samples"] == [f"s3://out/{i}.png" for i in range(30, 50)]


def test_a_loss_that_is_not_a_number_keeps_the_json_valid(progress: Progress) -> None:
    progress.losses(math.nan, math.inf, None, 1e-4)
    text = json.dumps(progress.snapshot(), allow_nan=False)
    assert json.loads(text)["loss"] is None


def test_it_is_served_over_http(server: Server, progress: Progress) -> None:
    progress.stage("Training")
    content_type, body = get(server, "/progress")
    assert content_type == "application/json"
    assert json.loads(body)["stage"] == "Training"
    content_type, body = get(server, "/metrics")
    assert content_type.startswith("text/plain")
    assert b"dreambooth_trainer_" in body
    assert get(server, "/healthz")[1] == b"ok\n"


def test_an_ipv6_pod_is_served_too(progress: Progress) -> None:
    server = serve(Metrics({"job": "mug"}), progress, "::1", 0)
    if server is None:
        pytest.skip("this machine has no IPv6 loopback")
    connection = HTTPConnection("::1", server.port, timeout=10)
    connection.request("GET", "/healthz")
    assert connection.getresponse().read() == b"ok\n"
    connection.close()
    server.close()


def test_other_paths_are_not_found(server: Server) -> None:
    with pytest.raises(HTTPError, match="404") as caught:
        get(server, "/etc/passwd")
    caught.value.close()


def test_only_rank_zero_has_progress() -> None:
    server = serve(Metrics({"job": "mug"}), None, "127.0.0.1", 0)
    assert server is not None
    with pytest.raises(HTTPError, match="404") as caught:
        get(server, "/progress")
    caught.value.close()
    server.close()


def test_a_client_that_says_nothing_blocks_nobody(server: Server, progress: Progress) -> None:
    with socket.create_connection(("127.0.0.1", server.port)):
        began = time.monotonic()
        get(server, "/progress")
        progress.step_done(1, images=1, seconds=1.0)
        assert time.monotonic() - began < 2


def test_it_can_be_read_while_it_is_written(server: Server, progress: Progress) -> None:
    stop = threading.Event()

    def train() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            progress.step_done(step, images=1, seconds=0.001)
            progress.sample(f"s3://out/{step}.png")

    worker = threading.Thread(target=train)
    worker.start()
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    for _ in range(20):
        connection.request("GET", "/progress")
        assert json.loads(connection.getresponse().read())["totalSteps"] == 100
    connection.close()
    stop.set()
    worker.join()


def test_a_busy_port_costs_the_metrics_and_not_the_training(
    server: Server, progress: Progress, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert serve(Metrics({"job": "mug"}), progress, "127.0.0.1", server.port) is None
    assert f"cannot listen on 127.0.0.1:{server.port}" in caplog.text
    assert "DREAMBOOTH_METRICS_PORT" in caplog.text


def test_a_closed_server_frees_its_port(progress: Progress) -> None:
    first = serve(Metrics({"job": "mug"}), progress, "127.0.0.1", 0)
    assert first is not None
    first.close()
    second = serve(Metrics({"job": "mug"}), progress, "127.0.0.1", first.port)
    assert second is not None
    second.close()
