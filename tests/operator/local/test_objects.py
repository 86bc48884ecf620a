"""Folders go up to object storage and come down again."""

from pathlib import Path

import pytest

from dreambooth_api.models.storage import Storage
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.objects import ObjectStorage, StorageProblemError


def storage(endpoint: str, env: dict[str, str]) -> ObjectStorage:
    return ObjectStorage(Storage(endpoint_url=endpoint, addressing_style="path"), env)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder of three files, one of them hidden."""
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "a.png").write_bytes(b"a")
    (source / "deep" / "er" / "b.png").write_bytes(b"bb")
    (source / ".hidden").write_bytes(b"secret")
    return source


@pytest.fixture(params=["s3", "file"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder's URI, in a bucket and on this machine."""
    if request.param == "file":
        return f"file://{tmp_path}/stored"
    return f"s3://{request.getfixturevalue('bucket')}/stored"


def test_folder_comes_back_as_it_went(
    folder: str, tree: Path, tmp_path: Path, s3_endpoint: str, s3_env: dict[str, str]
) -> None:
    objects = storage(s3_endpoint, s3_env)
    assert objects.upload(tree, folder) == 2
    fetched = objects.download(f"{folder}/", tmp_path / "back", lambda relative: True)
    assert [path.read_bytes() for path in fetched] == [b"a", b"bb"]
    assert fetched[1] == tmp_path / "back" / "deep" / "er" / "b.png"


def test_only_what_is_wanted_is_fetched(
    folder: str, tree: Path, tmp_path: Path, s3_endpoint: str, s3_env: dict[str, str]
) -> None:
    objects = storage(s3_endpoint, s3_env)
    objects.upload(tree, folder)
    fetched = objects.download(folder, tmp_path / "back", lambda name: name.startswith("deep/"))
    assert [path.name for path in fetched] == ["b.png"]
    assert not (tmp_path / "back" / "a.png").exists()


def test_folder_is_not_its_neighbour(
    folder: str, tree: Path, s3_endpoint: str, s3_env: dict[str, str]
) -> None:
    objects = storage(s3_endpoint, s3_env)
    objects.upload(tree, f"{folder}-other")
    assert objects.listing(folder) == []


def test_one_file_goes_to_its_uri(
    folder: str, tree: Path, s3_endpoint: str, s3_env: dict[str, str]
) -> None:
    objects = storage(s3_endpoint, s3_env)
    assert objects.upload(tree / "a.png", f"{folder}/renamed.png") == 1
    assert [found.relative for found in objects.listing(folder)] == ["renamed.png"]


def test_missing_bucket_is_named(s3_endpoint: str, s3_env: dict[str, str], tree: Path) -> None:
    objects = storage(s3_endpoint, s3_env)
    with pytest.raises(
        StorageProblemError, match=r"s3://absent-bucket/x/a\.png: there is no such bucket"
    ):
        objects.upload(tree, "s3://absent-bucket/x")
    with pytest.raises(StorageProblemError, match=r"s3://absent-bucket/x: there is no such bucket"):
        objects.listing("s3://absent-bucket/x")


def test_wrong_key_is_access_denied(s3_endpoint: str, bucket: str) -> None:
    wrong = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    with pytest.raises(StorageProblemError, match=r"access denied .* set AWS_ACCESS_KEY_ID"):
        storage(s3_endpoint, wrong).listing(f"s3://{bucket}/x")


def test_silent_endpoint_is_named(s3_env: dict[str, str]) -> None:
    with pytest.raises(
        StorageProblemError, match=r"does not answer; check spec\.storage\.endpointURL"
    ):
        storage("http://127.0.0.1:9", s3_env).listing("s3://bucket/x")


def test_missing_source_and_odd_uri_are_refused(tmp_path: Path) -> None:
    objects = ObjectStorage(Storage(), {})
    with pytest.raises(UserError, match="no such file or folder"):
        objects.upload(tmp_path / "absent", "s3://bucket/x")
    with pytest.raises(UserError, match="use s3://bucket/folder or file:///folder"):
        objects.listing("http://host/x")
