"""`python -m dreambooth_trainer.serving --settings FILE`: serves images of results."""

import argparse
import logging
import os
import sys
from pathlib import Path

import torch
import uvicorn
from pydantic import ValidationError

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_storage import Storage, StorageError, StorageSettings
from dreambooth_trainer.serving.app import Parts, make_app
from dreambooth_trainer.serving.catalog import Catalog
from dreambooth_trainer.serving.engine import Engine
from dreambooth_trainer.serving.loaded import LoadedModels
from dreambooth_trainer.serving.metrics import ServingMetrics
from dreambooth_trainer.serving.settings import ServingSettings

log = logging.getLogger(__name__)


def main() -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="dreambooth_trainer.serving", description=__doc__)
    parser.add_argument("--settings", type=Path, required=True, help="ServingSettings, as JSON")
    arguments = parser.parse_args()
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        settings = ServingSettings.model_validate_json(arguments.settings.read_bytes())
        parts = make_parts(settings)
        results = parts.catalog.results()
    except ValidationError as error:
        sys.stderr.write("".join(f"{each['msg']}\n" for each in error.errors()))
        return ExitCode.BAD_CONFIG
    except (OSError, StorageError) as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.STORAGE_DENIED
    names = ", ".join(each.id for each in results[:10]) or "none yet"
    log.info("serving results of %s: %s", settings.root, names)
    uvicorn.run(
        make_app(parts),
        host=settings.host,
        port=settings.port,
        timeout_graceful_shutdown=settings.stop_seconds,
        log_level="warning",
        server_header=False,
    )
    return 0


def make_parts(settings: ServingSettings) -> Parts:
    """What the server is made of."""
    storage = Storage(StorageSettings.of(settings.storage))
    catalog = Catalog(storage, settings.root.rstrip("/"), settings.refresh_seconds)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = LoadedModels(storage, catalog, device, settings.adapters, settings.base)
    metrics = ServingMetrics()
    engine = Engine(models, catalog, settings.queued_images, metrics)
    return Parts(settings, storage, catalog, models, engine, metrics)


if __name__ == "__main__":
    sys.exit(main())
