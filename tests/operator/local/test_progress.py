"""The operator reads what the trainer says."""

import socket
import time

import pytest

from dreambooth_operator.local.progress import (
    ProgressUnavailableError,
    ProgressWatch,
    read_progress,
)
from dreambooth_trainer.telemetry.metrics import Metrics
from dreambooth_trainer.telemetry.progress import Progress, Server


@pytest.fixture
def trainer() -> Progress:
    return Progress(total_steps=100, attempt=2, world_size=4)


@pytest.fixture
def port(trainer: Progress) -> object:
    server = Server(Metrics({"job": "mug"}), trainer, "127.0.0.1", 0)
    yield server.port
    server.close()


def test_trainers_own_progress_is_understood(trainer: Progress, port: int) -> None:
    trainer.stage("Training")
    trainer.step_done(40, images=8, seconds=0.5)
    trainer.losses(0.25, 0.125, float("nan"), 1e-4)
    trainer.prior(3, 12)
    trainer.checkpoint(30, "s3://bucket/run/checkpoints/step-00000030")
    read = read_progress("127.0.0.1", port)
    assert (read.stage, read.step, read.total_steps) == ("Training", 40, 100)
    assert (read.loss, read.subject_loss, read.prior_loss) == (0.25, 0.125, None)
    assert read.images_per_second == pytest.approx(16)
    assert read.eta_seconds == pytest.approx(30)
    assert (read.attempt, read.world_size) == (2, 4)
    assert read.prior is not None
    assert (read.prior.done, read.prior.total) == (3, 12)
    assert read.last_checkpoint is not None
    assert read.last_checkpoint.step == 30


def test_nobody_there_is_unavailable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ProgressUnavailableError):
            read_progress("127.0.0.1", unused.getsockname()[1])


def test_rank_without_progress_is_unavailable() -> None:
    server = Server(Metrics({"job": "mug"}), None, "127.0.0.1", 0)
    try:
        with pytest.raises(ProgressUnavailableError, match="404"):
            read_progress("127.0.0.1", server.port)
    finally:
        server.close()


def test_server_that_never_answers_is_unavailable_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(ProgressUnavailableError):
            read_progress("127.0.0.1", silent.getsockname()[1], timeout=0.2)
        assert time.monotonic() - started < 5


def test_watch_keeps_the_last_answer_when_the_trainer_ends(trainer: Progress) -> None:
    server = Server(Metrics({"job": "mug"}), trainer, "127.0.0.1", 0)
    trainer.stage("Exporting")
    with ProgressWatch("127.0.0.1", server.port, every_seconds=0.02) as watch:
        until = time.monotonic() + 10
        while watch.latest is None and time.monotonic() < until:
            time.sleep(0.01)
        server.close()
        time.sleep(0.1)
    assert watch.latest is not None
    assert watch.latest.stage == "Exporting"
