"""`python -m dreambooth_trainer.serving --settings FILE`: serves images of results."""

import argparse
import logging
import signal
import sys
from pathlib import Path

import uvicorn
from pydantic import ValidationError

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_storage import StorageError
from dreambooth_trainer.process.library_logs import quiet_libraries
from dreambooth_trainer.serving.settings import ServingSettings

log = logging.getLogger(__name__)


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
    # Torch takes seconds: settings that are not valid are refused without it.
    from dreambooth_trainer.serving.app import make_app
    from dreambooth_trainer.serving.parts import make_parts

    parts = make_parts(settings)
    names = ", ".join(each.id for each in parts.catalog.results()[:10]) or "none yet"
    log.info("results of %s: %s", settings.root, names)
    log.info("serving on http://%s:%d", settings.host, settings.port)
    # Uvicorn finishes what is under way, and then raises the signal again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        make_app(parts),
        host=settings.host,
        port=settings.port,
        timeout_graceful_shutdown=settings.stop_seconds,
        log_level="warning",
        server_header=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
