"""Models on the Hugging Face Hub: what a repository holds, and how its files come here."""

import glob
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, hf_hub_url, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import get_session, hf_raise_for_status
from huggingface_hub.utils.tqdm import tqdm

from dreambooth_api.models.model import Model
from dreambooth_trainer.models.source.model_files import ModelFiles
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.errors import BadModelError, TrainerError

T = TypeVar("T")
_ERRORS = (HfHubHTTPError, HFValidationError, httpx2.HTTPError, OSError)
"""What the hub's client raises; its offline errors and `LocalEntryNotFoundError` are OSErrors."""


def open_on_hub(model: Model, folder: str, field: str) -> ModelFiles:
    """The files of `hf://owner/name`, or of a folder in it, at the model's revision.

    Raises:
        BadModelError: The hub refuses: a wrong name or revision, or no access.
        TrainerError: The hub does not answer.
    """
    repository, prefix = _split(folder)

    def read(name: str, headers: dict[str, str] | None = None) -> bytes:
        url = hf_hub_url(repository, f"{prefix}{name}", revision=model.revision)
        response = get_session().get(
            url, headers={**build_hf_headers(), **(headers or {})}, follow_redirects=True
        )
        hf_raise_for_status(response)
        return response.content

    def read_start(name: str, length: int) -> bytes:
        return read(name, {"Range": f"bytes=0-{length - 1}"})[:length]

    def list_sizes() -> dict[str, int]:
        listed = HfApi().model_info(repository, revision=model.revision, files_metadata=True)
        return {
            each.rfilename.removeprefix(prefix): each.size or 0
            for each in listed.siblings or []
            if each.rfilename.startswith(prefix)
        }

    sizes = _translated(list_sizes, model, field)
    return ModelFiles(
        model.source,
        field,
        sizes,
        lambda name: _translated(lambda: read(name), model, field),
        lambda name, length: _translated(lambda: read_start(name, length), model, field),
    )


def download_from_hub(
    model: Model, folder: str, names: Iterable[str], target: Path, field: str
) -> Path:
    """Download files of `folder` by their names; only what is missing is transferred.

    Returns the folder on this machine that `names` are relative to.

    Raises:
        BadModelError: The hub refuses.
        TrainerError: The hub does not answer.
    """
    repository, prefix = _split(folder)
    patterns = [glob.escape(f"{prefix}{name}") for name in names]

    def download() -> Path:
        snapshot_download(
            repository,
            revision=model.revision,
            local_dir=target,
            allow_patterns=patterns,
            tqdm_class=_HeartbeatBar,
        )
        return target / prefix

    return _translated(download, model, field)


def _split(folder: str) -> tuple[str, str]:
    """Repository of `hf://owner/name/folder`, and `folder/`; "" for the whole repository."""
    owner, name, *parts = folder.removeprefix("hf://").rstrip("/").split("/")
    return f"{owner}/{name}", "".join(f"{part}/" for part in parts)


def _translated(action: Callable[[], T], model: Model, field: str) -> T:
    """The action's result; an error of the hub's client gets a message for the user."""
    try:
        return action()
    except GatedRepoError as error:
        raise BadModelError(
            f"{field}: {model.source} is gated; accept its license on its page of the hub, and set"
            " HF_TOKEN to a token of that user with spec.runtime.podOverrides, or copy the model to"
            " s3:// once"
        ) from error
    except _ERRORS as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        refused = isinstance(error, HFValidationError) or status in (400, 401, 403, 404)
        kind = BadModelError if refused else TrainerError  # no retry changes a refusal
        raise kind(
            f"{field}: {model.source} could not be fetched from the hub ({type(error).__name__});"
            " check its name, revision and access, or copy it to s3:// once"
        ) from error


class _HeartbeatBar(tqdm):
    """A progress bar that sends a heartbeat whenever bytes arrive from the hub.

    The client has no other hook for it.
    """

    def update(self, n: float | None = 1) -> Any:
        """Hook of the hub's client."""
        heartbeat.send()
        return super().update(n)
