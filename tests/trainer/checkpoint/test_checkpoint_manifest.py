"""Whatever stands where a manifest or a log entry should be: it is read, or said to be damaged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_trainer.checkpoint.manifest import (
    DamagedCheckpointError,
    Entry,
    Manifest,
    Shard,
    UnknownFormatError,
    read_entry,
    read_manifest,
)

NAME = "shard-00000-of-00001.safetensors"
SHARD = Shard(name=NAME, size=8, sha256="0" * 64, tensors=1)
MANIFEST = Manifest(
    step=5, attempt=0, claim=0, world_size=1, time="2026-01-01T00:00:00Z", tensors=1,
    payload_bytes=4, total_bytes=8, shards=[SHARD], loss=0.5,
)  # fmt: skip
ENTRY = Entry(
    kind="commit", attempt=0, claim=0, token="a", time="2026-01-01T00:00:00Z", step=5,
    folder="step-00000005-claim-0000", manifest_sha256="0" * 64,
)  # fmt: skip
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([[], {}, "..", "/", "../x", 10**30, "0" * 64, NAME + "\n", [None], "\0"]),
)


def read(data: bytes) -> None:
    for reader in (read_manifest, read_entry):
        try:
            reader(data, "s3://bucket/file")
        except (DamagedCheckpointError, UnknownFormatError) as error:
            assert "s3://bucket/file" in str(error)  # noqa: PT017


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """A good file with some values replaced, removed or added."""
    document = json.loads(draw(st.sampled_from([MANIFEST, ENTRY])).encode())
    for _ in range(draw(st.integers(1, 4))):
        holder = draw(st.sampled_from([document, *document.get("shards", [])]))
        key = draw(st.sampled_from([*sorted(holder), "pieces", "info", "format", "unknown"]))
        if draw(st.booleans()):
            holder[key] = draw(JUNK)
        elif key != "shards":
            holder.pop(key, None)
        if not isinstance(document.get("shards", []), list):
            break
    return json.dumps(document).encode()


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(data=edited())
def test_an_edited_file(data: bytes) -> None:
    read(data)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(
    place=st.integers(0, len(MANIFEST.encode())),
    cut=st.integers(0, 30),
    put=st.binary(max_size=10),
)
def test_a_damaged_file(place: int, cut: int, put: bytes) -> None:
    data = MANIFEST.encode()
    read(data[:place] + put + data[place + cut :])


DEEP = b'{"format": 1, "info": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", b"[]", b"null", b"{" * 10_000, DEEP, b"9" * 100_000, b'"format"']
)
def test_what_is_no_manifest_at_all(data: bytes) -> None:
    with pytest.raises(DamagedCheckpointError, match="s3://bucket/file is not"):
        read_manifest(data, "s3://bucket/file")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("loss", float("nan")),
        ("loss", float("inf")),
        ("step", -1),
        ("worldSize", 0),
        ("shards", []),
        ("shards", [{**SHARD.model_dump(), "name": "../shard-00000-of-00001.safetensors"}]),
        ("shards", [{**SHARD.model_dump(), "name": f"{NAME}\n"}]),
        ("shards", [{**SHARD.model_dump(), "size": -1}]),
        ("shards", [{**SHARD.model_dump(), "sha256": "no"}]),
        ("shards", [{**SHARD.model_dump(), "pieces": {"x": {"start": -1, "shape": [1]}}}]),
    ],
)
def test_a_value_that_no_trainer_writes(field: str, value: Any) -> None:
    document = {**json.loads(MANIFEST.encode()), field: value}
    with pytest.raises(DamagedCheckpointError, match=f"is not a valid manifest: {field}"):
        read_manifest(json.dumps(document).encode(), "s3://bucket/file")


@pytest.mark.parametrize("folder", ["..", "/etc", "step-00000005-claim-0000/..", "log"])
def test_a_commit_cannot_point_outside_its_prefix(folder: str) -> None:
    document = {**json.loads(ENTRY.encode()), "folder": folder}
    with pytest.raises(DamagedCheckpointError, match="is not a valid log entry: folder"):
        read_entry(json.dumps(document).encode(), "s3://bucket/file")


@pytest.mark.parametrize("version", [0, 2, 10**30])
def test_another_version_is_not_called_damaged(version: int) -> None:
    document = {**json.loads(MANIFEST.encode()), "format": version}
    with pytest.raises(UnknownFormatError, match="use the trainer that wrote it, or a newer one"):
        read_manifest(json.dumps(document).encode(), "s3://bucket/file")
