"""The heartbeat of this rank, for the watchdog of its pod (see `launcher.watchdog`).

A rank sends one whenever it makes progress: at a stage, a step, an image generated or encoded, a
response of storage. There is one writer per process, as with logging, so that any module can use
it.
"""

import faulthandler
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

HEARTBEAT_FILE = "DREAMBOOTH_HEARTBEAT_FILE"
"""Variable with the file that this rank's newest heartbeat is written to."""
STACKS_FILE = "DREAMBOOTH_STACKS_FILE"
"""Variable with the file that the stacks are dumped to; without it, they go to stderr."""
DUMP_SIGNAL = signal.SIGUSR1
_SIZE = 128
"""Bytes of a heartbeat: the longest one has about 90."""


@dataclass(frozen=True)
class Heartbeat:
    """What a rank was doing when it last made progress."""

    number: int = 0
    stage: str = "Preparing"
    step: int | None = None
    """Optimizer steps done."""
    waiting: bool = False
    """It has done its part and waits for the other ranks."""

    def encode(self) -> bytes:
        """JSON, padded to 128 bytes, so that one write replaces the previous heartbeat."""
        return json.dumps(asdict(self)).ljust(_SIZE).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Heartbeat":
        """Parse what `encode` wrote; raises `ValueError` when it is truncated or torn."""
        return cls(**json.loads(data))


class HeartbeatWriter:
    """Keeps the newest heartbeat in a file, once it has one.

    Thread-safe, and cheap enough for every step: one write of 128 bytes.
    """

    def __init__(self) -> None:
        self._newest = Heartbeat()
        self._file: int | None = None
        self._lock = Lock()

    def open(self, path: Path) -> None:
        """Write the newest heartbeat, and all later ones, to `path`.

        Raises:
            OSError: The file cannot be created.
        """
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        self.send()

    def send(self, **changes: Any) -> None:
        """Send a heartbeat; `changes` are fields of `Heartbeat`."""
        with self._lock:
            newest = replace(self._newest, number=self._newest.number + 1, **changes)
            self._newest = newest
            if self._file is not None:
                # One system call at offset 0, without a rename or fsync: the reader retries.
                os.pwrite(self._file, newest.encode(), 0)


_writer = HeartbeatWriter()


def start() -> None:
    """Write heartbeats for the launcher, and dump the stacks of all threads on `DUMP_SIGNAL`."""
    # faulthandler's handler is written in C and needs no GIL, so it also works in a rank that is
    # stuck in a library.
    stacks = os.environ.get(STACKS_FILE)
    file = Path(stacks).open("wb") if stacks else sys.stderr  # noqa: SIM115 (faulthandler keeps it)
    faulthandler.register(DUMP_SIGNAL, file=file, all_threads=True)
    if path := os.environ.get(HEARTBEAT_FILE):
        _writer.open(Path(path))


def send() -> None:
    """Report that this rank has made progress."""
    _writer.send()


def enter_stage(stage: str) -> None:
    """Report that this rank has entered a stage."""
    _writer.send(stage=stage)


def finish_step(step: int) -> None:
    """Report progress, with `step` optimizer steps done."""
    _writer.send(step=step)


@contextmanager
def waiting_for_peers() -> Iterator[None]:
    """Mark this rank as waiting for the others: it is not the one that is stuck."""
    _writer.send(waiting=True)
    try:
        yield
    finally:
        _writer.send(waiting=False)
