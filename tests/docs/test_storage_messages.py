"""The messages about storage that the page explains are those that users see."""

from __future__ import annotations

import re
from pathlib import Path

import botocore.exceptions as boto
import pytest

from dreambooth_api.parsing.load import load
from dreambooth_storage import Storage, StorageSettings, Written
from dreambooth_storage.s3.errors import NotAnS3ServerError, translate
from dreambooth_storage.uri import parse
from dreambooth_trainer.preflight.check import check_job
from tests.docs.pages import ROOT, page

URL = "http://s3.example.com:9000"


def answer(status: int, code: str, message: str = "no") -> boto.ClientError:
    """An S3 server's answer."""
    error = {"Code": code, "Message": message}
    metadata = {"HTTPStatusCode": status}
    return boto.ClientError({"Error": error, "ResponseMetadata": metadata}, "PutObject")


FAILURES: dict[str, Exception] = {
    "connection refused": boto.EndpointConnectionError(endpoint_url=URL),
    "a web page": NotAnS3ServerError(),
    "no such bucket": answer(404, "NoSuchBucket"),
    "no keys": boto.NoCredentialsError(),
    "not allowed": answer(403, "AccessDenied"),
    "a wrong key": answer(403, "SignatureDoesNotMatch"),
    "another region": answer(301, "PermanentRedirect"),
    "a wrong clock": answer(403, "RequestTimeTooSkewed"),
    "an unknown authority": boto.SSLError(
        endpoint_url=URL, error="[SSL: CERTIFICATE_VERIFY_FAILED]"
    ),
    "a full bucket": answer(507, "InsufficientStorage"),
    "a full quota": answer(403, "QuotaExceeded"),
    "no conditional writes": answer(501, "NotImplemented"),
}


def explained() -> list[str]:
    """Messages on the page as regular expressions: `...` stands for anything."""
    section = page("docs/troubleshooting.md").text.partition("## Storage\n")[2]
    quoted = re.findall(r"^\| `([^`]+)` \|", section.partition("\n## ")[0], re.MULTILINE)
    return [".*".join(map(re.escape, message.split("..."))) for message in quoted]


def heedless(tmp_path: Path) -> str:
    """What preflight says of storage that replaces what was to stay."""

    class Heedless(Storage):
        def write(
            self, uri: str, data: bytes, *, only_if_absent: bool = False, field: str = ""
        ) -> Written:
            return super().write(uri, data, field=field)

    job = load(ROOT / "tests" / "crds" / "jobs" / "valid" / "local-files.yaml")
    spec = job.spec.model_copy(update={"output": f"file://{tmp_path}"})
    report = check_job(job.model_copy(update={"spec": spec}), Heedless(StorageSettings()))
    return str(report.errors[0])


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_failure_is_explained(failure: Exception) -> None:
    message = str(translate(failure, parse("s3://my-bucket/mug"), URL).error)
    assert [pattern for pattern in explained() if re.search(pattern, message)], message


def test_every_explained_message_is_one_that_users_see(tmp_path: Path) -> None:
    failures = FAILURES.values()
    messages = [str(translate(f, parse("s3://b/mug"), URL).error) for f in failures]
    messages.append(heedless(tmp_path))
    assert [p for p in explained() if not any(re.search(p, each) for each in messages)] == []
