"""Polls rank 0 of each running job for its progress."""

import asyncio
import logging
from collections.abc import Callable

import aiohttp

from dreambooth_api.contract.progress import MAX_BYTES, Progress, UnreadableProgressError
from dreambooth_operator.controller.decide.state.observed import Reading
from dreambooth_operator.controller.kube.clock import Now
from dreambooth_operator.controller.kube.objects import Key
from dreambooth_operator.controller.watch.queue import Queue

logger = logging.getLogger(__name__)

CONCURRENCY = 64
"""Requests under way at the same time: a pod that does not answer takes up one for the time-out."""
TIMEOUT_SECONDS = 2.0
"""For the whole request: connection, headers and body, however slowly they come."""

MAX_SLOWDOWN = 4
"""How many times as long a pod that does not answer waits for the next request."""

OnReading = Callable[[Key, Reading], None]


class ProgressUnavailableError(Exception):
    """No answer, with the reason; raised by `request_progress`.

    Usual while a job starts and while it ends.
    """


class Poller:
    """Keeps the latest reading of each job that has an address: host and port of its rank 0.

    A pod's answer is not trusted: its size, time and content are bounded.
    """

    def __init__(
        self,
        every_seconds: float,
        now: Now,
        on_reading: OnReading,
    ) -> None:
        self._every = every_seconds
        self._now = now
        self._on_reading = on_reading
        self._addresses: dict[Key, str] = {}
        self._readings: dict[Key, Reading] = {}
        self._slowdown: dict[Key, int] = {}
        """Of jobs whose last request had no usable answer; each doubles it to `MAX_SLOWDOWN`."""
        self._due: Queue[Key] = Queue()

    async def run(self) -> None:
        """Poll each address every `every_seconds` seconds until cancelled."""
        async with (
            aiohttp.ClientSession(
                # Polls are too far apart for connections to be worth keeping.
                connector=aiohttp.TCPConnector(limit=CONCURRENCY, force_close=True),
                # A pod's cookie would be sent to other pods.
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
                auto_decompress=False,  # a small answer must not become a large one
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            for number in range(CONCURRENCY):
                group.create_task(self._poll_forever(session), name=f"progress {number}")

    def set_address(self, key: Key, address: str | None) -> None:
        """Poll the pod at this host and port, now and then regularly; None: stop."""
        if self._addresses.get(key) == address:
            return
        # A reading of another pod would be reported as this one's.
        self._readings.pop(key, None)
        self._slowdown.pop(key, None)
        if address is None:
            del self._addresses[key]
        else:
            self._addresses[key] = address
            self._due.add(key)

    def reading(self, key: Key) -> Reading | None:
        """The latest answer from the job's present address; None before the first."""
        return self._readings.get(key)

    async def _poll_forever(self, session: aiohttp.ClientSession) -> None:
        while True:
            key = await self._due.get()
            address = self._addresses.get(key)
            if address is not None:
                reading = await self._read(session, address)
                if self._addresses.get(key) == address:  # it may have changed meanwhile
                    self._readings[key] = reading
                    self._slow_down(key, reading)
                    self._on_reading(key, reading)
            self._due.done(key)
            if key in self._addresses:
                self._due.add(key, after=self._every * self._slowdown.get(key, 1))

    def _slow_down(self, key: Key, reading: Reading) -> None:
        """Ask pods that do not answer less often: hundreds of them would hold up all others."""
        if reading.progress is not None:
            self._slowdown.pop(key, None)
        else:
            self._slowdown[key] = min(2 * self._slowdown.get(key, 1), MAX_SLOWDOWN)

    async def _read(self, session: aiohttp.ClientSession, address: str) -> Reading:
        try:
            progress = await request_progress(session, address)
        except Exception as error:  # whatever a pod answers must not end the other polls
            if not isinstance(error, (ProgressUnavailableError, UnreadableProgressError)):
                logger.exception("%s: reading the progress failed", address)
            return Reading(
                self._now(),
                address,
                problem=f"{address}: {error}",
                unreadable=isinstance(error, UnreadableProgressError),
            )
        return Reading(self._now(), address, progress)


async def request_progress(session: aiohttp.ClientSession, address: str) -> Progress:
    """GET /progress from a pod at `address`, host and port.

    Raises:
        ProgressUnavailableError: No answer in time.
        UnreadableProgressError: The answer is not a `Progress` of a version of the contract that
            this operator reads.
    """
    try:
        # A redirect would let a pod choose what the operator asks for.
        async with session.get(f"http://{address}/progress", allow_redirects=False) as response:
            if response.status != 200:
                raise ProgressUnavailableError(f"HTTP status {response.status}")
            return Progress.decode(await _read_bounded(response))
    except UnreadableProgressError:
        raise
    except TimeoutError as error:
        raise ProgressUnavailableError(f"no answer within {TIMEOUT_SECONDS:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ProgressUnavailableError(str(error) or type(error).__name__) from error


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BYTES:
            raise UnreadableProgressError(f"the answer is longer than {MAX_BYTES} bytes")
    return body
