"""`python -m tests.cluster.node --kubeconfig FILE --name NODE --folder DIR --image IMAGE`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from tests.cluster.node.agent import run_node
from tests.cluster.node.settings import NodeSettings


def main() -> None:
    """Play a node until SIGTERM or Ctrl-C."""
    arguments = _parser().parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    settings = NodeSettings(
        name=arguments.name,
        folder=arguments.folder.resolve(),
        images=frozenset(arguments.image),
        address=arguments.address,
        cpu=arguments.cpu,
        memory=arguments.memory,
        resources=dict(arguments.resource),
        labels=dict(arguments.label),
        taints=tuple(arguments.taint),
        environment=dict(arguments.env),
        heartbeat_seconds=arguments.heartbeat,
    )
    asyncio.run(_run(arguments.kubeconfig, settings))


async def _run(kubeconfig: Path, settings: NodeSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run_node(kubeconfig, settings, stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.node", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--name", required=True, help="the Node's name")
    parser.add_argument("--folder", type=Path, required=True, help="logs and pods' files")
    parser.add_argument(
        "--image", action="append", required=True, help="image that the node has; may be repeated"
    )
    parser.add_argument("--address", default="127.0.0.1", help="the Node's InternalIP")
    parser.add_argument("--cpu", default="16", help="capacity")
    parser.add_argument("--memory", default="64Gi", help="capacity")
    parser.add_argument("--heartbeat", type=float, default=2.0, help="seconds between heartbeats")
    for name, what in (
        ("resource", "extended resource and how many, NAME=COUNT"),
        ("label", "label of the Node, NAME=VALUE"),
        ("env", "variable that every container sees, NAME=VALUE"),
    ):
        parser.add_argument(f"--{name}", action="append", type=_pair, default=[], help=what)
    parser.add_argument(
        "--taint", action="append", type=_taint, default=[], help="KEY=VALUE:EFFECT"
    )
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _taint(text: str) -> dict[str, str]:
    pair, colon, effect = text.rpartition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE:EFFECT")
    key, value = _pair(pair)
    return {"key": key, "value": value, "effect": effect}


if __name__ == "__main__":
    main()
