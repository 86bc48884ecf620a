"""The network between the operator and the API server, which can fail."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CHUNK = 65536
WRITE = re.compile(rb"(?:POST|PUT|PATCH|DELETE) [^\r\n]*")


class Gateway:
    """Passes TCP connections on to a server, from a port of its own, until a fault is injected.

    A context manager; it runs in a thread of its own.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        assert parts.hostname
        assert parts.port
        self._target = (parts.hostname, parts.port)
        self._scheme = parts.scheme
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway")
        self._server: asyncio.Server | None = None
        self._port = 0
        self._links: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self.writes: list[str] = []
        """Requests that passed and may change something; empty where they are encrypted."""

    @property
    def url(self) -> str:
        """The server's address as the operator knows it."""
        return f"{self._scheme}://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def refuse(self) -> None:
        """Cut all connections and refuse new ones."""
        self._run(self._close())

    def hang(self) -> None:
        """Take everything and pass nothing on; connections seem to live."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def heal(self) -> None:
        """Pass everything on again; what hung goes on."""
        self._run(self._open())

    def _run(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)  # type: ignore[arg-type]

    async def _open(self) -> None:
        self._passing.set()
        if self._server is None:
            self._server = await asyncio.start_server(
                self._link, "127.0.0.1", self._port, reuse_address=True
            )
            self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            with suppress(OSError):
                back, far = await asyncio.open_connection(*self._target)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, far, self._note))
                    group.create_task(self._pump(back, writer))
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._links.discard(task)
            for end in (writer, far):
                if end is not None:
                    end.close()

    def _note(self, data: bytes) -> None:
        if found := WRITE.match(data):
            self.writes.append(found[0].decode())

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        note: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK):
                await self._passing.wait()
                note(data)
                sink.write(data)
                await sink.drain()
        sink.close()
