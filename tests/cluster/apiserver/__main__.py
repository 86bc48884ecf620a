"""python -m tests.cluster.apiserver --port 0 --kubeconfig FILE: the double as a process."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from tests.cluster.apiserver.api import Api
from tests.cluster.apiserver.server import Server, write_kubeconfig
from tests.cluster.apiserver.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.cluster.apiserver", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--kubeconfig", type=Path, help="file to write, for clients")
    defaults = Settings()
    parser.add_argument("--schema-version", default=defaults.schema_version, help="version to be")
    parser.add_argument("--history", type=int, default=defaults.history, help="changes to keep")
    parser.add_argument(
        "--toleration-seconds",
        type=int,
        default=defaults.toleration_seconds,
        help="how long pods tolerate a lost node, where they do not say",
    )
    asyncio.run(serve(parser.parse_args()))


async def serve(options: argparse.Namespace) -> None:
    """Serve until a signal asks to stop; prints the URL when ready."""
    server = Server(
        Api(Settings(options.schema_version, options.history, options.toleration_seconds))
    )
    await server.start(options.port)
    url = f"http://127.0.0.1:{server.port}"
    if options.kubeconfig:
        write_kubeconfig(options.kubeconfig, url)
    print(url, flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await server.stop()


if __name__ == "__main__":
    main()
