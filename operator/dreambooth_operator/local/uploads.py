"""`--upload`: puts files into storage, and removes those that it put there earlier."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from dreambooth_operator.errors import UserError
from dreambooth_operator.local.state import State
from dreambooth_operator.local.storage import LocalStorage

Record = dict[str, dict[str, list[str]]]
"""By server and URI, the URIs of the files that were uploaded last."""


@dataclass(frozen=True)
class Upload:
    """A local file or folder, and the URI that it is uploaded to."""

    source: Path
    uri: str


@dataclass(frozen=True)
class Uploaded:
    """Numbers of files that were written and removed."""

    written: int
    removed: int


def upload(storage: LocalStorage, state: State, uploads: Sequence[Upload]) -> list[Uploaded]:
    """Upload in the order given; one result each.

    Files of an earlier upload to the same URI that the source no longer holds are removed. Others
    below the URI are left alone: they were put there by somebody else.

    Raises:
        UserError: A source holds no files; nothing is removed.
        StorageError: An upload or a removal fails.
    """
    # Servers may have buckets of the same name; the embedded one has another port in each run.
    server = "embedded" if storage.embedded else storage.job.spec.storage.endpoint_url or "AWS"
    record = _read(state.uploads)
    before = record.get(server, {})
    written = [
        [item.uri for item in storage.client.upload_tree(each.source, each.uri, field="--upload")]
        for each in uploads
    ]
    for each, uris in zip(uploads, written, strict=True):
        # A disk that is not mounted looks like this: all earlier files would be removed.
        if not uris:
            raise UserError(f"--upload {each.source}: holds no files; nothing was removed")
    current = {uri for uris in written for uri in uris}
    removed = [sorted(set(before.get(each.uri, ())) - current) for each in uploads]
    storage.client.delete([uri for uris in removed for uri in uris], field="--upload")
    # Several sources may go to one URI.
    uploaded: dict[str, list[str]] = {}
    for each, uris in zip(uploads, written, strict=True):
        uploaded.setdefault(each.uri, []).extend(uris)
    record[server] = before | uploaded
    state.uploads.write_text(json.dumps(record))
    return [Uploaded(len(new), len(old)) for new, old in zip(written, removed, strict=True)]


def _read(path: Path) -> Record:
    try:
        return TypeAdapter(Record).validate_json(path.read_bytes())
    except (OSError, ValueError):  # the first upload, or a damaged file: nothing is removed
        return {}
