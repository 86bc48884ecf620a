"""HTTP sessions with the API server: its address, TLS, and credentials that may rotate."""

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
from aiohttp import hdrs
from kubernetes.aio import config
from kubernetes.aio.client.configuration import Configuration

from dreambooth_operator.controller.kube.clock import ServerClock
from dreambooth_operator.controller.kube.nesting import BoundedResponse
from dreambooth_operator.errors import UserError

logger = logging.getLogger(__name__)

USER_AGENT = "dreambooth-operator"
RELOAD_SECONDS = 5.0
"""Rejected credentials are read again at most this often."""

OnResponse = Callable[[str, str, int], None]
"""Called for each response with its verb, the plural of the resource, and the HTTP status."""


class Session:
    """Opens HTTP sessions with the API server; `load` it first, which may raise `UserError`.

    Address and credentials come from KUBECONFIG, or in a pod without it from the service account.
    As tokens rotate, rejected credentials are read again and the request is sent a second time.
    """

    def __init__(self, clock: ServerClock, on_response: OnResponse) -> None:
        self._clock = clock
        self._on_response = on_response
        self._configuration = Configuration()
        self._loaded = 0.0
        self._loading = asyncio.Lock()
        self.last_answer: float | None = None
        """Time of the API server's last response, by time.monotonic()."""

    @property
    def server(self) -> str:
        """URL of the API server, without a slash at the end."""
        return str(self._configuration.host).rstrip("/")

    async def load(self) -> None:
        """Read address and credentials; raises `UserError` if there are none."""
        configuration = Configuration()
        try:
            await _load_into(configuration)
        except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"KUBECONFIG: the API server's address cannot be read: {error};"
                " set KUBECONFIG to a readable file, or run in a pod with a service account"
            ) from error
        self._configuration = configuration
        self._loaded = time.monotonic()

    def connect(self) -> aiohttp.ClientSession:
        """Open a session, which the caller closes, with the credentials that `load` has read."""
        configuration = self._configuration
        return aiohttp.ClientSession(
            # No limit: a watch holds its connection for as long as it lasts.
            connector=aiohttp.TCPConnector(limit=0, ssl=_trust(configuration)),
            headers={hdrs.USER_AGENT: USER_AGENT},
            middlewares=(self._exchange,),
            response_class=BoundedResponse,
            proxy=configuration.proxy,
        )

    async def _exchange(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Send a request, as middleware of every session."""
        await self._authorize(request)
        response = await handler(request)
        if response.status == 401 and await self._reloaded():
            response.release()
            await self._authorize(request)
            response = await handler(request)
        self.last_answer = time.monotonic()
        self._clock.synchronize(response.headers.get(hdrs.DATE))
        self._on_response(*_verb_and_resource(request), response.status)
        return response

    async def _authorize(self, request: aiohttp.ClientRequest) -> None:
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        if token:
            request.headers[hdrs.AUTHORIZATION] = token
        # For an API server that is reached by another name than those in its certificate.
        if self._configuration.tls_server_name:
            request.server_hostname = self._configuration.tls_server_name

    async def _reloaded(self) -> bool:
        """Read the credentials again; returns whether they may be newer than the rejected ones."""
        async with self._loading:
            # Of many requests that are rejected together, the first reads the credentials for all.
            if time.monotonic() - self._loaded <= RELOAD_SECONDS:
                return False
            self._loaded = time.monotonic()
            try:
                await self.load()
            except UserError as error:
                logger.error("the API server rejects the credentials: %s", error)
                return False
            return True


async def _load_into(configuration: Configuration) -> None:
    named = os.environ.get("KUBECONFIG")
    default = Path.home() / ".kube" / "config"
    # Every pod has this variable; a KUBECONFIG that was set on purpose comes first.
    if named is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        config.load_incluster_config(client_configuration=configuration)
        return
    await config.load_kube_config(
        # persist_config: refreshed tokens are not written to the user's file.
        named or str(default),
        client_configuration=configuration,
        persist_config=False,
    )


def _trust(configuration: Configuration) -> ssl.SSLContext | bool:
    if not configuration.host.startswith("https"):
        return True
    trust = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    # Many clusters' own CAs leave out key identifiers, which newer Pythons insist on.
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if configuration.cert_file:
        trust.load_cert_chain(configuration.cert_file, configuration.key_file)
    if not configuration.verify_ssl:
        trust.check_hostname = False
        trust.verify_mode = ssl.CERT_NONE
    return trust


def _verb_and_resource(request: aiohttp.ClientRequest) -> tuple[str, str]:
    """Verb and resource of a request: of /api/v1/namespaces/a/pods/b/status, "pods"."""
    verb = "watch" if request.url.query.get("watch") == "true" else request.method.lower()
    parts = request.url.path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if parts[:1] == ["namespaces"]:
        parts = parts[2:]
    return verb, parts[0] if parts else "discovery"
