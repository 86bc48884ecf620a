"""`python -m dreambooth_operator.controller --settings FILE`: the operator as a process."""

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

import prometheus_client

from dreambooth_operator.controller.app import logs
from dreambooth_operator.controller.app.operator import Operator, handle_signals
from dreambooth_operator.controller.app.settings import Settings, read_settings
from dreambooth_operator.errors import UserError


def main() -> None:
    """Run until SIGTERM or SIGINT; running jobs are not touched by that."""
    parser = argparse.ArgumentParser(
        prog="dreambooth-operator",
        description="Carries DreamBoothJobs out on a Kubernetes cluster.",
    )
    parser.add_argument("--settings", type=Path, required=True, help="YAML file with the settings")
    arguments = parser.parse_args()
    try:
        settings = read_settings(arguments.settings)
        prometheus_client.disable_created_metrics()  # they double the series, and nobody reads them
        logs.configure(settings.log)
        asyncio.run(_run(settings))
    except UserError as error:
        sys.exit(str(error))


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    handle_signals(stop)
    await Operator(settings, _lost_lease).run(stop)


def _lost_lease() -> None:
    """End at once: another process leads by now, and two must not act."""
    logging.shutdown()
    os._exit(1)


if __name__ == "__main__":
    main()
