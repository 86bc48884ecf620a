"""Signs of life of this rank, for the watchdog of its pod (see `launch`).

A rank beats at whatever a user would call progress: a stage, a step, an image made or encoded, a
request that storage has answered. There is one heartbeat per process, as there is one log, so that
whoever makes progress can tell.
"""

import faulthandler
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

BEATS = "DREAMBOOTH_HEARTBEAT_FILE"
"""Variable with the file that this rank's newest beat is written to."""
STACKS = "DREAMBOOTH_STACKS_FILE"
"""Variable with the file that the stacks are dumped to; without it, they go to stderr."""
DUMP_SIGNAL = signal.SIGUSR1
_SIZE = 128


@dataclass(frozen=True)
class Beat:
    """What a rank was at when it last made progress."""

    number: int = 0
    stage: str = "Preparing"
    step: int | None = None
    waiting: bool = False
    """It has done its part and waits for the other ranks."""

    def encode(self) -> bytes:
        """Text of a fixed size, so that it is overwritten at once and as a whole."""
        return json.dumps(asdict(self)).ljust(_SIZE).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Beat":
        """The beat of `encode`'s text."""
        return cls(**json.loads(data))


class Heartbeat:
    """Keeps the newest beat in a file, once it has one. Thread-safe, and cheap enough for every
    step.
    """

    def __init__(self) -> None:
        self._newest = Beat()
        self._file: int | None = None
        self._listener: Callable[[], None] | None = None
        self._lock = Lock()

    def write_to(self, path: Path) -> None:
        """Write the newest beat, and all to come, to `path`."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        self.beat()

    def tell(self, listener: Callable[[], None]) -> None:
        """Call `listener` at every beat to come."""
        self._listener = listener

    def beat(self, **changes: Any) -> None:
        """Tell of progress; `changes` are fields of `Beat`."""
        if self._listener is not None:
            self._listener()
        with self._lock:
            newest = replace(self._newest, number=self._newest.number + 1, **changes)
            self._newest = newest
            if self._file is not None:
                os.pwrite(self._file, newest.encode(), 0)


_own = Heartbeat()


def start() -> None:
    """Let the launcher hear this rank, and dump the stacks of all threads on `DUMP_SIGNAL`.

    The dump is written in C and needs no GIL, so a rank that is stuck in a library answers too.
    """
    stacks = os.environ.get(STACKS)
    file = Path(stacks).open("wb") if stacks else sys.stderr  # noqa: SIM115 (faulthandler keeps it)
    faulthandler.register(DUMP_SIGNAL, file=file, all_threads=True)
    if path := os.environ.get(BEATS):
        _own.write_to(Path(path))


def relay(listener: Callable[[], None]) -> None:
    """Tell `listener` of every beat: in a process that works for a rank, which alone is watched."""
    _own.tell(listener)


def beat() -> None:
    """This rank has made some progress."""
    _own.beat()


def entered(stage: str) -> None:
    """This rank has entered a stage."""
    _own.beat(stage=stage)


def stepped(step: int) -> None:
    """This rank works on, with `step` optimizer steps done."""
    _own.beat(step=step)


@contextmanager
def waiting() -> Iterator[None]:
    """Within, this rank waits for the others: what hangs is not here."""
    _own.beat(waiting=True)
    try:
        yield
    finally:
        _own.beat(waiting=False)
