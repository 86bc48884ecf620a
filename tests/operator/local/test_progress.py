"""A local run reads the progress of its trainer."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from dreambooth_api.contract.progress import MAX_BYTES
from dreambooth_operator.local import progress as local_progress
from dreambooth_operator.local.progress import ProgressReader
from dreambooth_trainer.telemetry.metrics import Metrics
from dreambooth_trainer.telemetry.progress import ProgressState
from dreambooth_trainer.telemetry.server import Server

HEAD = b"HTTP/1.0 200 OK\r\n\r\n"


def eventually(condition: Callable[[], object], seconds: float = 30) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(condition())


@contextmanager
def served(trainer: ProgressState | None) -> Iterator[Server]:
    server = Server(Metrics({"job": "mug"}), trainer, "127.0.0.1", 0)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that answers each connection with `answer`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            try:
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(1024)
                        answer(connection)
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def reader(port: int) -> ProgressReader:
    return ProgressReader("127.0.0.1", port, interval_seconds=0.02)


@pytest.fixture
def trainer() -> ProgressState:
    return ProgressState(total_steps=100, attempt=2, world_size=4)


def test_trainers_own_progress_is_understood(trainer: ProgressState) -> None:
    trainer.enter_stage("Training")
    trainer.record_step(40, images=8, seconds=0.5)
    trainer.record_losses(0.25, 0.125, float("nan"), 1e-4)
    trainer.record_class_images(3, 12)
    trainer.record_checkpoint(30, "s3://bucket/run/checkpoints/step-00000030")
    trainer.record_failed_save("s3://bucket: access denied")
    with served(trainer) as server, reader(server.port) as watched:
        assert eventually(lambda: watched.latest)
    read = watched.latest
    assert read is not None
    assert (read.stage, read.step, read.total_steps) == ("Training", 40, 100)
    assert (read.loss, read.subject_loss, read.prior_loss) == (0.25, 0.125, None)
    assert read.images_per_second == pytest.approx(16)
    assert read.eta_seconds == pytest.approx(30)
    assert (read.attempt, read.world_size) == (2, 4)
    assert read.prior is not None
    assert (read.prior.done, read.prior.total) == (3, 12)
    assert read.last_checkpoint is not None
    assert read.last_checkpoint.step == 30
    assert (read.failed_saves, read.save_problem) == (1, "s3://bucket: access denied")


def test_last_answer_is_kept_when_the_trainer_ends(trainer: ProgressState) -> None:
    trainer.enter_stage("Exporting")
    with served(trainer) as server, reader(server.port) as watched:
        assert eventually(lambda: watched.latest)
        server.close()
        time.sleep(0.1)
    assert watched.latest is not None
    assert watched.latest.stage == "Exporting"


def test_rank_without_progress_is_no_problem() -> None:
    with served(None) as server, reader(server.port) as watched:
        time.sleep(0.2)
    assert watched.latest is None
    assert watched.problem is None


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"not JSON", "Invalid JSON"),
        (b'{"stage": "Training", "step": -1, "totalSteps": 9}', "step: "),
        (b'{"version": 999, "stage": "Training", "step": 1, "totalSteps": 9}', "version 999"),
        (b" " * (MAX_BYTES + 1), "longer than"),
    ],
)
def test_unreadable_answer_is_a_problem(body: bytes, problem: str) -> None:
    with answering(lambda connection: connection.sendall(HEAD + body)) as port:
        with reader(port) as watched:
            assert eventually(lambda: watched.problem)
        assert watched.latest is None
        assert watched.problem is not None
        assert problem in watched.problem


@pytest.mark.parametrize("dripped", [HEAD + b"{" * 1000, b"HTTP/1.0 200 OK" * 1000, b""])
def test_server_that_never_finishes_blocks_nobody(
    dripped: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_progress, "TIMEOUT_SECONDS", 0.3)
    connections = []
    done = threading.Event()

    def drip(connection: socket.socket) -> None:
        connections.append(connection)
        for byte in dripped:
            if done.wait(0.02):
                return
            connection.sendall(bytes([byte]))
        done.wait(60)

    with answering(drip) as port:
        with reader(port) as watched:
            assert eventually(lambda: connections)
            started = time.monotonic()
        assert time.monotonic() - started < 20
        done.set()
    assert watched.latest is None
