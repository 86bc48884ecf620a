"""httpGet readiness probes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

from tests.cluster.client import TRANSIENT, Object


async def watch_readiness(
    container: Object, address: str, report: Callable[[bool, str], None]
) -> None:
    """Probe for ever; `report(ready, why not)` is called on each change."""
    probe = container["readinessProbe"]
    wanted = {True: probe.get("successThreshold", 1), False: probe.get("failureThreshold", 3)}
    timeout = aiohttp.ClientTimeout(total=probe.get("timeoutSeconds", 1))
    ready, in_a_row, last = False, 0, False
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            problem = await _problem(session, _url(container, address))
            well = not problem
            in_a_row = in_a_row + 1 if well == last else 1
            last = well
            if well != ready and in_a_row >= wanted[well]:
                ready = well
                report(ready, problem)
            await asyncio.sleep(probe.get("periodSeconds", 10))


async def _problem(session: aiohttp.ClientSession, url: str) -> str:
    """Why the probe failed; empty when it succeeded."""
    try:
        async with session.get(url, allow_redirects=False) as answer:
            if 200 <= answer.status < 400:
                return ""
            return f"Readiness probe failed: HTTP probe failed with statuscode: {answer.status}"
    except TRANSIENT as error:
        return f'Readiness probe failed: Get "{url}": {error}'


def _url(container: Object, address: str) -> str:
    get = container["readinessProbe"]["httpGet"]
    named = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
    port = named.get(get["port"], get["port"])
    scheme = get.get("scheme", "HTTP").lower()
    return f"{scheme}://{get.get('host', address)}:{port}/{get.get('path', '/').lstrip('/')}"
