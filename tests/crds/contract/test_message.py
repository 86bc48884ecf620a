"""Messages between trainer and operator are bounded when they are read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from dreambooth_api.contract.message import Checkpoint
from dreambooth_api.contract.progress import Progress, UnreadableProgressError
from dreambooth_api.contract.termination import MAX_BYTES, Termination
from dreambooth_api.contract.version import VERSION

SAVED = {"step": 7, "uri": "s3://my results/step-7", "time": "2026-11-01T14:00:00.999+02:00"}


def test_time_is_read_as_utc_to_the_second() -> None:
    time = Checkpoint.model_validate(SAVED).time
    assert time == datetime(2026, 11, 1, 12, tzinfo=UTC)
    assert time.tzinfo is UTC


@pytest.mark.parametrize(
    "wrong",
    [
        {"time": "2026-11-01T14:00:00"},  # of which time zone?
        {"time": "0001-01-01T00:00:00Z"},
        {"time": "9999-12-31T23:59:59-12:00"},
        {"step": -1},
        {"step": 10**9},
        {"uri": ""},
        {"uri": "s3://a\x1b[2Jb"},
        {"uri": "s3://" + "a" * 3000},
    ],
)
def test_checkpoint_out_of_bounds_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Checkpoint.model_validate(SAVED | wrong)


def test_termination_message_is_read_as_it_was_written() -> None:
    written = Termination(message="no space\nleft", rank=3, checkpoint=SAVED)
    assert Termination.decode(written.encode().decode()) == written


@pytest.mark.parametrize("text", ["x" * 10_000, "\u00e9" * 5_000, "\x00" * 5_000, '"' * 9_000])
def test_long_termination_message_is_cut_and_keeps_rank_and_checkpoint(text: str) -> None:
    data = Termination(message=text, rank=3, checkpoint=SAVED).encode()
    assert len(data) <= MAX_BYTES
    read = Termination.decode(data.decode())
    assert read.rank == 3
    assert read.checkpoint == Checkpoint.model_validate(SAVED)


def test_checkpoint_that_fits_into_no_termination_message_is_left_out() -> None:
    checkpoint = Checkpoint.model_validate(SAVED | {"uri": "file:///" + "\U0001f600" * 1200})
    data = Termination(message="why", rank=3, checkpoint=checkpoint).encode()
    assert Termination.decode(data.decode()) == Termination(message="why", rank=3)


def test_of_another_version_only_the_message_is_taken() -> None:
    written = Termination(version=VERSION + 1, message="no space", rank=3, checkpoint=SAVED)
    assert Termination.decode(written.encode().decode()) == Termination(message="no space")


@pytest.mark.parametrize("text", ["{}", '{"level": "fatal", "msg": "x"}', '{"message": "x"}'])
def test_json_of_another_origin_is_the_message(text: str) -> None:
    assert Termination.decode(text) == Termination(message=text)


@pytest.mark.parametrize("text", ["", "Traceback ...", "{}x", '{"rank": -1}', "[1]", "{" * 100_000])
def test_text_of_another_origin_is_the_message(text: str) -> None:
    read = Termination.decode(text)
    assert (read.rank, read.checkpoint) == (None, None)
    assert read.message == text[-MAX_BYTES:]


@pytest.mark.parametrize("fields", ["", ', "step": "many"', ', "stage": "Dreaming", "step": 1'])
def test_progress_of_another_version_is_refused_by_its_version(fields: str) -> None:
    with pytest.raises(UnreadableProgressError, match="the trainer speaks version 2"):
        Progress.decode(f'{{"version": 2{fields}}}'.encode())
