"""The S3 server of the scenarios: SeaweedFS of this session, or one that the environment names."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dreambooth_operator.local.seaweed import REGION, SeaweedServer
from dreambooth_storage import AccessKey, EmptyPrefixError, StorageSettings, StoredObject, join
from dreambooth_storage import Storage as Client
from tests.cluster.client import Object

EXAMPLES = Path(__file__).parents[2] / "examples"
BUCKET = "dreambooth"
UPLOADS = {
    "tiny-sd/model": "models/tiny-sd",
    "tiny-sd/clip": "models/tiny-clip",
    "tiny-sd/dino": "models/tiny-dino",
    "subjects": "subjects",
}
"""Folders of the examples, and where examples/quickstart.yaml looks for them."""
SECRET = "storage"
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@dataclass(frozen=True)
class Storage:
    """Object storage with the examples in it, for a job and for a test."""

    endpoint_url: str
    environment: Mapping[str, str]

    @property
    def spec(self) -> Object:
        """`spec.storage` of a job; its namespace has the secret."""
        return {
            "endpointURL": self.endpoint_url,
            "region": self.environment.get("AWS_DEFAULT_REGION", REGION),
            "addressingStyle": "path",
            "credentials": {"secretRef": {"name": SECRET}},
        }

    @property
    def secret(self) -> Object:
        """The Secret that `spec` names."""
        known = {name: self.environment[name] for name in CREDENTIALS if name in self.environment}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET},
            "stringData": known,
        }

    @cached_property
    def client(self) -> Client:
        """A client."""
        region = self.environment.get("AWS_DEFAULT_REGION", REGION)
        settings = StorageSettings(self.endpoint_url, region, "path")
        return Client(settings, credentials=AccessKey.from_environment(self.environment))

    def below(self, uri: str) -> list[StoredObject]:
        """All objects below a folder."""
        return self.client.list(uri)

    def digests(self, folder: str) -> dict[str, str]:
        """sha256 of all objects below a folder, by their relative names."""
        return self._digests(folder, "")

    def weights(self, run: str) -> dict[str, str]:
        """A hash of each file of weights that a run has exported, by its relative name."""
        return self._digests(f"{run}/export", ".safetensors")

    def _digests(self, uri: str, ending: str) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                files = self.client.download_tree(
                    uri, folder, select=lambda name: name.endswith(ending)
                )
            except EmptyPrefixError:
                return {}
            return {
                str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
                for file in files
            }

    def document(self, folder: str, name: str) -> Object:
        """A JSON document in a folder."""
        found: Object = json.loads(self.client.read(join(folder, name)))
        return found

    def commits(self, run: str) -> list[tuple[int, int]]:
        """(step, attempt that wrote it) of the complete checkpoints of a run, the oldest first."""
        folder = f"{run}/checkpoints/log"
        names = sorted(found.relative for found in self.below(folder))
        entries = [self.document(folder, name) for name in names]
        return [(each["step"], each["attempt"]) for each in entries if each["kind"] == "commit"]

    def checkpoints(self, run: str) -> list[int]:
        """Steps of the complete checkpoints of a run, the oldest first."""
        return [step for step, _ in self.commits(run)]

    def upload_examples(self) -> None:
        """Put the model and the subjects where the quickstart looks for them."""
        for folder, key in UPLOADS.items():
            self.client.upload_tree(EXAMPLES / folder, f"s3://{BUCKET}/{key}")


def own_storage(server: SeaweedServer) -> Storage:
    """A server of this session."""
    server.create_bucket(BUCKET)
    return Storage(server.endpoint_url, server.environment)


def named_storage() -> Storage | None:
    """The server of `DREAMBOOTH_E2E_S3_ENDPOINT`, with the AWS_* keys of the environment.

    Its bucket `dreambooth` must exist.
    """
    endpoint = os.environ.get("DREAMBOOTH_E2E_S3_ENDPOINT")
    return Storage(endpoint, dict(os.environ)) if endpoint else None
