"""`dreambooth serve`: results behind OpenAI's images API, on this machine."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dreambooth_api.contract import environment
from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_operator.cli.base_model import model_source
from dreambooth_operator.cli.find import find_recorded, find_result
from dreambooth_operator.cli.results import newest_run_uid
from dreambooth_operator.errors import UserError, install_command
from dreambooth_operator.local.parent_death_signal import with_parent_death_signal
from dreambooth_operator.local.runner import stop_on_signals
from dreambooth_operator.local.state import State
from dreambooth_operator.local.storage import storage_to_read

EXTRA = "dreambooth-trainer[serve]"
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class ServeOptions:
    """The options of `dreambooth serve`, as they were given."""

    result: str
    base: str | None
    host: str
    port: int
    tokens: Path | None
    insecure: bool
    state: Path


def serve(options: ServeOptions) -> int:
    """Serve until the user stops it; returns the server's exit code.

    Raises:
        UserError: There is no such result, or the server is not installed.
        StorageError: It cannot be read.
    """
    if find_spec("fastapi") is None or find_spec("sse_starlette") is None:
        raise UserError(f"the server is not installed; run: {install_command(EXTRA)}")
    settings: dict[str, Any] = {
        "host": options.host,
        "port": options.port,
        "insecure": options.insecure,
    }
    if options.base is not None:
        settings["base"] = model_source(options.base, "--base")
    if options.tokens is not None:
        if not options.tokens.is_file():
            raise UserError(f"--tokens {options.tokens}: no such file")
        settings["tokensFile"] = str(options.tokens.absolute())
    with _opened(options) as (found, variables), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.json"
        file.write_text(json.dumps(settings | found))
        return _run(file, variables)


@contextmanager
def _opened(options: ServeOptions) -> Iterator[tuple[dict[str, Any], Mapping[str, str]]]:
    """Where the results are, for the server's settings, and its environment."""
    state = State(options.state)
    # As for other commands: models that were downloaded are there.
    own = {environment.CACHE_DIR: str((state.folder / "cache").absolute())}
    found = find_result(options.result, state)
    root = found if isinstance(found, str) else None
    known = _run_of(found, state) if isinstance(found, str) else found
    if known is None:
        yield {"root": root}, os.environ | own
        return
    job, embedded = known
    with storage_to_read(job, state, embedded) as storage:
        served = storage.job
        if root is None:
            served.metadata.uid = served.metadata.uid or newest_run_uid(storage.client, served)
            root = output_layout(served).root
        fields = served.spec.storage.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude={"credentials"}
        )
        yield {"root": root, "storage": fields}, storage.environment | own


def _run_of(root: str, state: State) -> tuple[DreamBoothJob, bool] | None:
    """A run of which a folder holds the result, as `find_job`: its storage has the base model."""
    folder = Path(root.removeprefix("file://"))
    if root.startswith("file://") and (folder / OutputLayout.RUN_RECORD).is_file():
        return find_recorded(root, state)
    below = (run for run in state.runs() if run.folder.is_relative_to(folder))
    return next(((run.job, run.record.embedded) for run in below), None)


def _run(settings: Path, variables: Mapping[str, str]) -> int:
    command = [sys.executable, "-m", "dreambooth_trainer.serving", "--settings", str(settings)]
    with stop_on_signals() as stop:
        # In a session of its own: Ctrl-C reaches it once, from here.
        process = subprocess.Popen(
            with_parent_death_signal(command), env=variables, start_new_session=True
        )
        try:
            asked = False
            while process.poll() is None:
                if stop.requested and not asked:
                    process.terminate()
                    asked = True
                if stop.immediate:
                    process.kill()
                time.sleep(POLL_SECONDS)
        finally:
            process.kill()
    return 0 if stop.requested else process.returncode
