"""`python -m dreambooth_trainer.serving --settings FILE`: serves images of results."""

import argparse
import errno
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

import uvicorn
from pydantic import ValidationError

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_storage import StorageError
from dreambooth_trainer.process.library_logs import quiet_libraries
from dreambooth_trainer.serving.settings import ServingSettings

log = logging.getLogger(__name__)

BACKLOG = 2048
"""Connections that may wait, as uvicorn's own sockets have it."""


def main() -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code (`ExitCode`)."""
    parser = argparse.ArgumentParser(prog="dreambooth_trainer.serving", description=__doc__)
    parser.add_argument("--settings", type=Path, required=True, help="ServingSettings, as JSON")
    arguments = parser.parse_args()
    quiet_libraries()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        settings = ServingSettings.model_validate_json(arguments.settings.read_bytes())
        return _serve(settings)
    except ValidationError as error:
        for each in error.errors():
            field = "".join(f"{part}: " for part in each["loc"])
            sys.stderr.write(f"{field}{each['msg'].removeprefix('Value error, ')}\n")
        return ExitCode.BAD_CONFIG
    except (OSError, StorageError) as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.ERROR


def _serve(settings: ServingSettings) -> int:
    # Uvicorn finishes what is under way, and then raises the signal again.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _end())
    with _listen(settings.host, settings.port) as listener:
        # Torch takes seconds: settings that are not valid, and a port that is taken, are refused
        # without it.
        from dreambooth_trainer.serving.http.app import make_app
        from dreambooth_trainer.serving.parts import make_parts

        parts = make_parts(settings)
        names = ", ".join(each.id for each in parts.catalog.results()[:10]) or "none yet"
        log.info("results of %s: %s", settings.root, names)
        config = uvicorn.Config(
            make_app(parts),
            timeout_graceful_shutdown=settings.stop_seconds,
            log_level="warning",
            server_header=False,
            # A proxy says that clients came by https, for URLs of images; nothing else reads it.
            forwarded_allow_ips="*",
        )
        log.info("serving on http://%s:%d", settings.host, listener.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _end() -> NoReturn:
    """End at once: the teardown of torch takes seconds, and there is nothing to save."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(0)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that the address is known to be free.

    Raises:
        OSError: It is not, or the host is not one of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason = "another program listens there; choose another --port"
        raise OSError(f"{host}:{port}: {reason}") from error


if __name__ == "__main__":
    sys.exit(main())
