"""Copies an export to a repository of the Hugging Face Hub (spec.export.pushToHub)."""

import logging
import os
import re
import time
from pathlib import Path
from threading import Thread

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils.tqdm import disable_progress_bars

from dreambooth_api.contract import environment
from dreambooth_api.contract.message import HubPush
from dreambooth_api.models.results.export import PushToHub
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.signals import StoppedError, StopSignal

log = logging.getLogger(__name__)

FIELD = "spec.export.pushToHub"
WAITS_SECONDS = (5.0, 30.0, 120.0)
"""Before each try but the first."""
LIMIT_SECONDS = 60 * 60
"""Of all tries. The other ranks wait for it, and for the export before it, in a collective: see
`COLLECTIVE_TIMEOUT`."""
POLL_SECONDS = 1.0
"""Between two heartbeats, and two looks at whether the rank was asked to stop."""
NO_TOKEN = f"{environment.HUB_TOKEN} is not set; name a Secret with a token in secretRef"


def push_to_hub(
    folder: Path, given: PushToHub, exported: str, message: str, stop: StopSignal
) -> HubPush:
    """Copy a folder to the hub, with retries. No failure is raised: the result is in storage.

    Args:
        folder: What was exported.
        given: The repository.
        exported: URI of the export in storage, for messages.
        message: Of the commit.
        stop: Whether this rank was asked to stop.

    Returns:
        What became of it.

    Raises:
        StoppedError: The rank was asked to stop before the push was done.
    """
    problems = [f"the hub took longer than {LIMIT_SECONDS} s"]
    # A daemon, so that an upload that hangs does not keep the process from its end.
    upload = Thread(
        target=lambda: problems.append(_push(folder, given, message)), name="hub", daemon=True
    )
    upload.start()
    until = time.monotonic() + LIMIT_SECONDS
    while upload.is_alive() and time.monotonic() < until:
        if stop.requested:
            raise StoppedError(
                f"asked to stop while pushing to the hub; the result is in {exported}, and the next"
                " attempt pushes it"
            )
        upload.join(POLL_SECONDS)
        heartbeat.send()
    problem = problems[-1]
    if not problem:
        log.info("pushed to the hub: %s", given.repository)
        return HubPush(repository=given.repository)
    problem = f"{problem}; the result is in {exported}, from where it can be uploaded"
    log.warning("%s: %s: %s", FIELD, given.repository, problem)
    return HubPush(repository=given.repository, problem=problem)


def find_token_problem(given: PushToHub) -> str | None:
    """Why the push at the end of the job would fail, as far as the token shows it before."""
    try:
        token = os.environ.get(environment.HUB_TOKEN)
        problem = "" if token else NO_TOKEN
        if token:
            HfApi(token=token).whoami()
    except Exception as error:
        problem, _ = _explain(error)
    if not problem:
        return None
    return (
        f"{FIELD}: {given.repository}: {problem}; the job is trained all the same, and its result"
        " stays in spec.output"
    )


def _push(folder: Path, given: PushToHub, message: str) -> str:
    """Why the folder could not be pushed; empty: it was."""
    token = os.environ.get(environment.HUB_TOKEN)
    if not token:
        return NO_TOKEN
    disable_progress_bars()
    for seconds in (*WAITS_SECONDS, None):
        try:
            api = HfApi(token=token)
            api.create_repo(given.repository, private=given.private, exist_ok=True)
            api.upload_folder(repo_id=given.repository, folder_path=folder, commit_message=message)
        except Exception as error:
            problem, may_help = _explain(error)
            if seconds is None or not may_help:
                return problem
            log.warning("%s: %s; it is tried again in %.0f s", FIELD, problem, seconds)
            time.sleep(seconds)
        else:
            return ""
    raise AssertionError


def _explain(error: Exception) -> tuple[str, bool]:
    """The error for people, and whether another try may help."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the hub does not accept the token; renew it in the Secret of secretRef", False
    if status == 403:
        return "the token may not write to the repository; use one that may", False
    if isinstance(error, HFValidationError) or status in (400, 404):
        return f"the hub refuses the repository ({_line(error)}); correct its name", False
    kind = "the hub failed" if isinstance(error, HfHubHTTPError) else "the hub cannot be reached"
    return f"{kind} ({_line(error)})", True


def _line(error: Exception) -> str:
    """The first line of an error. URLs are without their queries: those of uploads are signed."""
    lines = re.sub(r"\?[^\s'\")]+", "", str(error)).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
