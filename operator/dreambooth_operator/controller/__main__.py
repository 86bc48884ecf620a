"""`python -m dreambooth_operator.controller --settings FILE`: the operator as a process."""

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

import prometheus_client

from dreambooth_operator.controller.app.logging_setup import set_up_logging
from dreambooth_operator.controller.app.operator import Operator, handle_signals
from dreambooth_operator.controller.app.settings import Settings, read_settings
from dreambooth_operator.errors import UserError


def main() -> None:
    """Run until SIGTERM or SIGINT. Stopping the operator does not affect running jobs.

    Raises:
        SystemExit: The settings or the API server's address are wrong, with the message.
    """
    parser = argparse.ArgumentParser(
        prog="dreambooth-operator",
        description="Runs DreamBoothJobs on a Kubernetes cluster.",
    )
    parser.add_argument("--settings", type=Path, required=True, help="YAML file with the settings")
    arguments = parser.parse_args()
    try:
        settings = read_settings(arguments.settings)
        prometheus_client.disable_created_metrics()  # they would double the number of series
        set_up_logging(settings.log)
        asyncio.run(_run(settings))
    except UserError as error:
        sys.exit(str(error))


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    handle_signals(stop)
    await Operator(settings, _exit_at_once).run(stop)


def _exit_at_once() -> None:
    """Exit without any cleanup: what this process knows, or that it leads, holds no longer."""
    logging.shutdown()
    os._exit(1)


if __name__ == "__main__":
    main()
