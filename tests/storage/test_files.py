"""What is particular to a file system: links, flushing, folders, and files that come and go."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from dreambooth_storage import AlreadyExistsError, Storage, StorageError, StorageSettings


@pytest.fixture
def storage() -> Iterator[Storage]:
    with Storage(StorageSettings()) as opened:
        yield opened


@pytest.mark.parametrize("how", ["write", "only if absent", "upload"])
def test_name_of_a_written_file_is_flushed_to_disk(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """After fsync(2) of the file alone, a crash of the host may lose its entry in the folder."""
    flushed: list[tuple[int, list[str]]] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            flushed.append((os.fstat(descriptor).st_ino, os.listdir(descriptor)))
        fsync(descriptor)

    (tmp_path / "source").write_bytes(b"state")
    monkeypatch.setattr(os, "fsync", record)
    folder = tmp_path / "new" / "folder"
    if how == "upload":
        storage.upload(tmp_path / "source", f"file://{folder}/x")
    else:
        storage.write(f"file://{folder}/x", b"state", only_if_absent=how == "only if absent")
    durable = dict(flushed)
    assert "x" in durable[folder.stat().st_ino]
    assert "folder" in durable[folder.parent.stat().st_ino]
    assert "new" in durable[tmp_path.stat().st_ino]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_file_systems_that_cannot_flush_folders_are_written_to(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    storage.write(f"file://{tmp_path}/folder/x", b"state")
    assert storage.read(f"file://{tmp_path}/folder/x") == b"state"


def test_dangling_link_is_no_object(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    (tmp_path / "b.jpg").symlink_to("absent.jpg")
    (tmp_path / "c.jpg").symlink_to("c.jpg")
    (tmp_path / "d.jpg").symlink_to("a.jpg")
    assert [item.relative for item in storage.list(f"file://{tmp_path}")] == ["a.jpg", "d.jpg"]
    assert storage.broken_links(f"file://{tmp_path}") == ["b.jpg", "c.jpg"]


def test_files_that_are_deleted_during_a_listing_are_left_out(
    storage: Storage, tmp_path: Path
) -> None:
    (tmp_path / "kept").touch()
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for number in range(50):
                (tmp_path / str(number)).touch()
            for number in range(50):
                (tmp_path / str(number)).unlink()

    with ThreadPoolExecutor(1) as other:
        churning = other.submit(churn)
        try:
            for _ in range(200):
                assert "kept" in {item.relative for item in storage.list(f"file://{tmp_path}")}
        finally:
            stop.set()
        churning.result()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_conditional_write_works_without_hard_links(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def link(source: object, target: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    uri = f"file://{tmp_path}/folder/commit"
    storage.write(uri, b"first", only_if_absent=True)
    with pytest.raises(AlreadyExistsError):
        storage.write(uri, b"second", only_if_absent=True)
    assert storage.read(uri) == b"first"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["commit"]


def test_failed_conditional_write_without_hard_links_leaves_no_part(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: object, target: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def copy(source: BinaryIO, target: BinaryIO) -> None:
        target.write(source.read(2))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", link)
    uri = f"file://{tmp_path}/commit"
    with monkeypatch.context() as full_disk:
        full_disk.setattr(shutil, "copyfileobj", copy)
        with pytest.raises(StorageError):
            storage.write(uri, b"first", only_if_absent=True)
    storage.write(uri, b"second", only_if_absent=True)
    assert storage.read(uri) == b"second"


def test_emptied_folders_are_removed_when_asked(storage: Storage, tmp_path: Path) -> None:
    uris = [f"file://{tmp_path}/{name}" for name in ("step-1/a", "step-1/b", "step-2/a")]
    for uri in (*uris, f"file://{tmp_path}/step-2/kept"):
        storage.write(uri, b"state")
    storage.delete(uris, folders=True)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "step-2",
        "step-2/kept",
    ]
