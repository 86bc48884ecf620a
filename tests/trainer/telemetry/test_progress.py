import json
import logging
import math
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from dreambooth_api.contract.message import MAX_SECONDS
from dreambooth_api.contract.progress import Images, Progress
from dreambooth_api.contract.request_handler import RequestHandler
from dreambooth_trainer.telemetry.metrics import Metrics
from dreambooth_trainer.telemetry.progress import Average, ProgressState
from dreambooth_trainer.telemetry.progress_log import logging_progress
from dreambooth_trainer.telemetry.server import Server, serve
from tests.slow_client import seconds_until_closed


@pytest.fixture
def progress() -> ProgressState:
    return ProgressState(total_steps=100, attempt=2, world_size=4)


@pytest.fixture
def server(progress: ProgressState) -> Iterator[Server]:
    found = serve(Metrics({"job": "mug"}), progress, "127.0.0.1", 0)
    assert found is not None
    yield found
    found.close()


def get(server: Server, path: str) -> tuple[str, bytes]:
    with urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read()


def answer(server: Server) -> Progress:
    """What the operator reads from the server."""
    return Progress.decode(get(server, "/progress")[1])


def test_long_waits_for_saves_are_a_warning_until_they_are_rare(progress: ProgressState) -> None:
    progress.record_step(1, images=16, seconds=100)
    progress.record_save_wait(25, every=7)
    assert progress.snapshot().save_warning is None  # not long enough to matter
    progress.record_save_wait(25, every=7)
    warning = progress.snapshot().save_warning
    assert warning is not None
    assert warning.startswith("spec.checkpoints.every: saves take longer than 7 steps")
    progress.record_step(2, images=16, seconds=1000)
    progress.record_save_wait(1, every=7)
    assert progress.snapshot().save_warning is None


def test_before_the_first_step_no_figure_is_invented(server: Server) -> None:
    expected = Progress(stage="Preparing", step=0, total_steps=100, attempt=2, world_size=4)
    assert answer(server).model_copy(update={"updated_at": None}) == expected


def test_the_operator_reads_what_the_trainer_recorded(
    server: Server, progress: ProgressState
) -> None:
    progress.enter_stage("Training")
    progress.record_class_images(20, 200)
    progress.record_step(1, images=16, seconds=0.5)
    progress.record_losses(0.9, 0.5, 0.4, 1e-4)
    progress.record_checkpoint(1, "s3://out/a space/checkpoints/step-00000001")
    progress.record_samples("s3://out/samples/step-00000000/grid.png")
    progress.record_export("s3://out/export")
    found = answer(server)
    assert (found.stage, found.step) == ("Training", 1)
    assert found.prior == Images(done=20, total=200)
    assert (found.loss, found.subject_loss, found.prior_loss) == (0.9, 0.5, 0.4)
    assert found.images_per_second == pytest.approx(32)
    assert found.eta_seconds == pytest.approx(99 * 0.5)
    checkpoint = found.last_checkpoint
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.uri) == (1, "s3://out/a space/checkpoints/step-00000001")
    assert checkpoint.time.tzinfo is not None
    assert found.samples == ["s3://out/samples/step-00000000/grid.png"]
    assert found.export == "s3://out/export"


def test_the_warnings_of_the_checks_are_cut_to_what_an_answer_may_hold(
    server: Server, progress: ProgressState
) -> None:
    progress.record_checks(
        [f"{n}.jpg: not an image\x1b" + "x" * 5000 for n in range(30)], ["goes on"]
    )
    assert answer(server).notes == ["goes on"]
    found = answer(server).warnings
    assert len(found) == 10
    assert all(len(warning) == 512 and "\x1b" not in warning for warning in found)
    assert found[9].startswith("9.jpg: not an image")


def test_failed_saves_are_counted_and_their_problem_stands_until_one_succeeds(
    server: Server, progress: ProgressState
) -> None:
    progress.record_failed_save("s3://out: no such bucket")
    progress.record_failed_save("x" * 5000)
    found = answer(server)
    assert found.failed_saves == 2
    assert found.save_problem is not None
    assert len(found.save_problem) == 1024
    progress.record_checkpoint(500, "s3://out/checkpoints/step-00000500")
    found = answer(server)
    assert (found.failed_saves, found.save_problem) == (2, None)


def test_the_eta_follows_a_change_of_pace_without_jumping(progress: ProgressState) -> None:
    for step in range(1, 21):
        progress.record_step(step, images=1, seconds=1.0)
    progress.record_step(21, images=1, seconds=11.0)
    eta = progress.snapshot().eta_seconds
    assert eta is not None
    assert 79 < eta < 79 * 2
    for step in range(22, 92):
        progress.record_step(step, images=1, seconds=2.0)
    assert progress.snapshot().eta_seconds == pytest.approx(9 * 2.0, rel=0.1)


def test_an_average_counts_its_first_value_fully() -> None:
    average = Average(0.95)
    assert average.value is None
    average.add(3.0)
    assert average.value == pytest.approx(3.0)


def test_only_the_newest_samples_are_listed(progress: ProgressState) -> None:
    for i in range(50):
        progress.record_samples(f"s3://out/{i}.png")
    assert progress.snapshot().samples == [f"s3://out/{i}.png" for i in range(30, 50)]


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e30])
def test_a_loss_that_the_contract_cannot_hold_is_left_out(
    server: Server, progress: ProgressState, loss: float
) -> None:
    progress.record_losses(loss, 0.5, None, 1e-4)
    found = answer(server)
    assert (found.loss, found.subject_loss, found.prior_loss) == (None, 0.5, None)


def test_an_eta_of_centuries_is_cut(server: Server, progress: ProgressState) -> None:
    progress.record_step(1, images=1, seconds=1e9)
    assert answer(server).eta_seconds == MAX_SECONDS


def test_it_is_served_over_http(server: Server, progress: ProgressState) -> None:
    progress.enter_stage("Training")
    content_type, body = get(server, "/progress")
    assert content_type == "application/json"
    assert json.loads(body)["stage"] == "Training"
    content_type, body = get(server, "/metrics")
    assert content_type.startswith("text/plain")
    assert b"dreambooth_trainer_" in body
    assert get(server, "/healthz")[1] == b"ok\n"


def test_an_ipv6_pod_is_served_too(progress: ProgressState) -> None:
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


def test_a_client_that_says_nothing_blocks_nobody(server: Server, progress: ProgressState) -> None:
    with socket.create_connection(("127.0.0.1", server.port)):
        began = time.monotonic()
        get(server, "/progress")
        progress.record_step(1, images=1, seconds=1.0)
        assert time.monotonic() - began < 2


def test_a_request_that_never_ends_is_closed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RequestHandler, "timeout", 0.5)
    assert seconds_until_closed("127.0.0.1", server.port, limit=10) < 5


def test_it_can_be_read_while_it_is_written(server: Server, progress: ProgressState) -> None:
    stop = threading.Event()

    def train() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            progress.record_step(step, images=1, seconds=0.001)
            progress.record_samples(f"s3://out/{step}.png")

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
    server: Server, progress: ProgressState, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert serve(Metrics({"job": "mug"}), progress, "127.0.0.1", server.port) is None
    assert f"cannot listen on 127.0.0.1:{server.port}" in caplog.text
    assert "DREAMBOOTH_METRICS_PORT" in caplog.text


def test_a_closed_server_frees_its_port(progress: ProgressState) -> None:
    first = serve(Metrics({"job": "mug"}), progress, "127.0.0.1", 0)
    assert first is not None
    first.close()
    second = serve(Metrics({"job": "mug"}), progress, "127.0.0.1", first.port)
    assert second is not None
    second.close()


def test_log_has_a_line_at_least_every_interval(
    progress: ProgressState, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    progress.resume(40)
    progress.enter_stage("Training")
    progress.record_losses(0.5, 0.5, None, 1e-4)
    with logging_progress(progress, interval=0.05):
        until = time.monotonic() + 10
        while len(caplog.messages) < 3:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert set(caplog.messages) == {"Training  step 40/100  loss 0.5000"}


def test_resumed_attempt_never_shows_step_0(progress: ProgressState) -> None:
    progress.resume(40)
    progress.enter_stage("GeneratingPrior")
    found = progress.snapshot()
    assert (found.step, found.resumed_from) == (40, 40)
