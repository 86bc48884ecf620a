"""The state of another run, which may still be training (spec.resumeFrom)."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.checkpoint import CheckpointRef, CheckpointStore
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.resume import restore as module
from dreambooth_trainer.resume.restore import Restored, restore
from tests.trainer.checkpoint_saves import rank_of, save
from tests.trainer.resolved import resolve

STEPS = 40


class OtherRun:
    """A run that saves while another job goes on from it."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(StorageSettings(None, None, "auto"))
        self.output = f"file://{folder}"
        layout = OutputLayout.of(self.output, "art", "mug", "other")
        self.store = CheckpointStore(self.storage, layout.checkpoints, rank_of(0))
        self.store.claim()

    def save(self, step: int, keep: int = 99) -> CheckpointRef:
        """Save a state that names its step."""
        state = {"step": torch.tensor(step)}
        return save(self.storage, self.store, step, state, keep=keep)

    def resume(self, **source: str) -> Restored | None:
        """What the first attempt of a job of the same name goes on from."""
        job = resolve(
            {
                "apiVersion": "dreambooth.dev/v1alpha1",
                "kind": "DreamBoothJob",
                "metadata": {"name": "mug", "namespace": "art", "uid": "own"},
                "spec": {
                    "model": {"source": "s3://models/sd"},
                    "subjects": [
                        {"identifier": "sks", "classNoun": "mug", "images": "s3://data/mug"}
                    ],
                    "output": self.output,
                    "training": {"steps": STEPS},
                    "resumeFrom": source or {"job": "mug"},
                },
            }
        )
        attempt: Any = SimpleNamespace(job=job, storage=self.storage, ranks=rank_of(0))
        layout = OutputLayout.of(self.output, "art", "mug", "own")
        own = CheckpointStore(self.storage, layout.checkpoints, rank_of(0))
        own.claim()
        return restore(attempt, own)


@pytest.fixture
def other(tmp_path: Path) -> OtherRun:
    return OtherRun(tmp_path)


@pytest.fixture
def after_check(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something once between the check of a checkpoint and the loading of it."""

    def arrange(action: Callable[[], object]) -> None:
        pending = [action]
        check = module.config_differences

        def check_and_act(*of: Any) -> list[str]:
            found = check(*of)
            if pending:
                pending.pop()()
            return found

        monkeypatch.setattr(module, "config_differences", check_and_act)

    return arrange


def test_no_newer_checkpoint_is_loaded_than_was_checked(
    other: OtherRun, after_check: Callable[[Callable[[], object]], None]
) -> None:
    checked = other.save(10)
    after_check(lambda: other.save(STEPS + 10))  # more steps than the job has
    restored = other.resume()
    assert restored is not None
    assert restored.state.step == restored.state.tensors["step"] == 10
    assert restored.source_record() == {
        "checkpoint": checked.uri,
        "differences": ["spec: unknown, as run.json is missing"],
    }


def test_a_checkpoint_that_was_replaced_while_it_was_loaded_is_left_for_the_newer_one(
    other: OtherRun, after_check: Callable[[Callable[[], object]], None]
) -> None:
    def replace() -> None:
        other.save(20)
        other.store.prune(1)

    other.save(10)
    after_check(replace)
    restored = other.resume()
    assert restored is not None
    assert restored.state.step == 20


def test_what_replaces_a_checkpoint_is_checked_too(
    other: OtherRun, after_check: Callable[[Callable[[], object]], None]
) -> None:
    def replace() -> None:
        other.save(STEPS + 10)
        other.store.prune(1)

    other.save(10)
    after_check(replace)
    with pytest.raises(BadConfigError, match=f"goes on from step {STEPS + 10}"):
        other.resume()


def test_the_checkpoint_that_was_loaded_is_recorded(other: OtherRun) -> None:
    older, damaged = other.save(10), other.save(20)
    for shard in Path(damaged.uri.removeprefix("file://")).glob("*.safetensors"):
        shard.write_bytes(bytes(shard.stat().st_size))  # of the right length
    restored = other.resume()
    assert restored is not None
    assert restored.state.step == 10
    assert restored.source is not None
    assert restored.source.checkpoint.uri == older.uri
    with pytest.raises(BadConfigError, match=r"step-00000020.* is damaged"):
        other.resume(uri=damaged.uri)
