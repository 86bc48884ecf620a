"""Images that are answered by URL, kept in memory for a while."""

import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

LIFETIME_SECONDS = 3600.0
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Picture:
    """An image file."""

    data: bytes
    media_type: str
    until: float


class Pictures:
    """The newest images, by names that cannot be guessed. Thread-safe."""

    def __init__(self, max_bytes: int = MAX_BYTES, lifetime: float = LIFETIME_SECONDS) -> None:
        self._max_bytes = max_bytes
        self._lifetime = lifetime
        self._lock = threading.Lock()
        self._pictures: OrderedDict[str, Picture] = OrderedDict()

    def keep(self, data: bytes, media_type: str) -> str:
        """Keep an image; returns its name."""
        name = secrets.token_urlsafe(24)
        with self._lock:
            until = time.monotonic() + self._lifetime
            self._pictures[name] = Picture(data, media_type, until)
            while sum(len(each.data) for each in self._pictures.values()) > self._max_bytes:
                self._pictures.popitem(last=False)
        return name

    def get(self, name: str) -> Picture | None:
        """The image of a name; None: it is gone, or never was."""
        with self._lock:
            picture = self._pictures.get(name)
        return picture if picture and picture.until > time.monotonic() else None
