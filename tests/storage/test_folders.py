"""Folders go up to storage and come down again, and nothing is written beside them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dreambooth_storage import (
    AccessDeniedError,
    AccessKey,
    NoSuchBucketError,
    Storage,
    StorageError,
    StorageSettings,
    StoredObject,
)
from dreambooth_storage.folders import path_below


@pytest.fixture
def storage(s3_endpoint: str, s3_env: dict[str, str]) -> Iterator[Storage]:
    with Storage(StorageSettings(s3_endpoint, addressing_style="path")) as opened:
        yield opened


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder of two files, and two more that are hidden."""
    source = tmp_path / "source"
    for name in ("a.png", "deep/er/b.png", ".hidden", ".git/config"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())
    return source


@pytest.fixture(params=["s3", "file"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty prefix, in a bucket and on this machine."""
    if request.param == "file":
        return f"file://{tmp_path}/stored"
    return f"s3://{request.getfixturevalue('bucket')}/stored"


def test_a_folder_comes_back_without_its_hidden_files(
    storage: Storage, prefix: str, tree: Path, tmp_path: Path
) -> None:
    written = storage.upload_tree(tree, prefix)
    assert [each.uri for each in written] == [f"{prefix}/a.png", f"{prefix}/deep/er/b.png"]
    back = tmp_path / "back"
    files = storage.download_tree(f"{prefix}/", back)
    assert [(file, file.read_text()) for file in files] == [
        (back / "a.png", "a.png"),
        (back / "deep/er/b.png", "deep/er/b.png"),
    ]


def test_only_what_is_selected_is_fetched(
    storage: Storage, prefix: str, tree: Path, tmp_path: Path
) -> None:
    storage.upload_tree(tree, prefix)
    back = tmp_path / "back"
    files = storage.download_tree(prefix, back, select=lambda name: name.startswith("deep/"))
    assert [file.name for file in files] == ["b.png"]
    assert not (back / "a.png").exists()
    assert storage.download_tree(prefix, back, select=lambda name: False) == []


def test_a_prefix_is_not_its_neighbour(storage: Storage, prefix: str, tree: Path) -> None:
    storage.upload_tree(tree, f"{prefix}-other")
    assert storage.list(prefix) == []


def test_a_file_in_place_of_a_folder_goes_to_the_uri(
    storage: Storage, prefix: str, tree: Path
) -> None:
    storage.upload_tree(tree / "a.png", f"{prefix}/renamed.png")
    assert [each.relative for each in storage.list(prefix)] == ["renamed.png"]


def test_a_missing_bucket_is_named(storage: Storage, tree: Path) -> None:
    with pytest.raises(NoSuchBucketError, match="is in the bucket absent-bucket, which does not"):
        storage.upload_tree(tree, "s3://absent-bucket/x")


def test_given_credentials_are_used_in_place_of_the_environments(
    s3_endpoint: str, s3_env: dict[str, str], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = StorageSettings(s3_endpoint)
    given = AccessKey.from_environment(s3_env)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with Storage(settings, credentials=given) as storage:
        assert storage.list(f"s3://{bucket}/x") == []
    with Storage(settings) as storage, pytest.raises(AccessDeniedError):
        storage.list(f"s3://{bucket}/x")
    assert s3_env["AWS_SECRET_ACCESS_KEY"] not in repr(given)


@pytest.mark.parametrize(
    "relative",
    ["/tmp/x", "../x", "a/../../x", "a/..", "..", "a\nb", "a\x1b[2J", "n" * 256, "ä" * 128],
)
def test_names_that_leave_the_folder_or_are_no_file_names_are_refused(
    tmp_path: Path, relative: str
) -> None:
    found = StoredObject(f"s3://bucket/tree/{relative}", relative, 1, datetime.now(UTC), "1")
    with pytest.raises(StorageError, match=r"outside of its folder|that no file can have"):
        path_below(tmp_path, found)


@pytest.mark.parametrize("relative", ["a", "a//b", "./a", "a/./b", "...", "a..b/c"])
def test_other_names_stay_below_the_folder(tmp_path: Path, relative: str) -> None:
    found = StoredObject(f"s3://bucket/tree/{relative}", relative, 1, datetime.now(UTC), "1")
    assert path_below(tmp_path, found).resolve().is_relative_to(tmp_path.resolve())
