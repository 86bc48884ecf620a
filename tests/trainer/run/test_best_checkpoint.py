"""The best checkpoint: the same whatever is killed, with any number of ranks."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.ranks import SignalAtCall, history, run_folder, run_ranks

Job = Callable[..., dict[str, Any]]
CLIP = Path(__file__).parents[3] / "examples/tiny-sd/clip"
STEPS = 8


def scored(job: Job, uid: str, **evaluation: Any) -> dict[str, Any]:
    """A LoRA that learns too fast, so that its last checkpoint is hardly the best."""
    return job(
        uid,
        training={
            "method": "lora", "steps": STEPS, "globalBatch": 2, "lora": {"rank": 2},
            "learningRate": 2e-2, "ema": {"enabled": True},
        },
        prior={"enabled": False},
        checkpoints={"every": 3, "keep": 1},
        evaluation={"encoders": {"image": str(CLIP), "text": str(CLIP)}, "count": 2, "every": 2,
                    "maxTimeFraction": 1,
                    "holdOut": 1, "select": {"scores": [{"name": "promptSimilarity", "weight": 1}]},
                    **evaluation},
    )  # fmt: skip


def finish(job: dict[str, Any], folder: Path, **how: Any) -> Any:
    ended = run_ranks(job, folder, **how)
    assert set(ended.codes) == {0}, "\n".join(ended.logs)
    return ended


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    """What `whole` has made, for the module's other tests."""
    return {}


@pytest.fixture
def whole(kept: dict[str, Any], job: Job, tmp_path: Path) -> dict[str, Any]:
    """A job that one rank has finished without interruptions."""
    if not kept:
        made = scored(job, "whole")
        finish(made, tmp_path / "whole")
        kept["job"] = made
    found: dict[str, Any] = kept["job"]
    return found


def evaluations(job: dict[str, Any]) -> dict[int, dict[str, float]]:
    """Scores by step."""
    files = sorted((run_folder(job) / "selection").glob("step-*.json"))
    records = [json.loads(file.read_text()) for file in files]
    return {record["step"]: record["scores"] for record in records}


def exported(job: dict[str, Any], folder: str = "export") -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(
        run_folder(job) / folder / "pytorch_lora_weights.safetensors"
    )
    return weights


def result(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_folder(job) / "run.json").read_text())["result"]
    return found


def best_step(job: dict[str, Any], name: str = "promptSimilarity") -> int:
    found = evaluations(job)
    return max(found, key=lambda step: (found[step][name], -step))


def same_weights(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def test_the_best_checkpoint_is_exported_and_the_last_stays_beside_it(
    job: Job, whole: dict[str, Any], tmp_path: Path
) -> None:
    assert list(evaluations(whole)) == [2, 4, 6, 8]
    assert all("validationLoss" in scores for scores in evaluations(whole).values())
    best = best_step(whole)
    assert best < STEPS, "choose other settings: the last is the best"
    assert result(whole)["exportedStep"] == best
    assert result(whole)["lastStep"] == STEPS
    scores = json.loads((run_folder(whole) / "scores.json").read_text())
    assert (scores["step"], scores["exportedStep"], scores["lastStep"]) == (best, best, STEPS)
    assert scores["validationLoss"] == evaluations(whole)[best]["validationLoss"]
    # What is exported is what was trained up to that step, and no further.
    short = scored(job, "short")
    short["spec"]["training"]["steps"] = best
    # As after a run of fewer steps whose last model was not its best one.
    stale = run_folder(short) / "export-last" / "README.md"
    stale.parent.mkdir(parents=True)
    stale.write_text("the last model of fewer steps")
    ended = finish(short, tmp_path / "short")
    assert ended.termination.best is not None
    assert ended.termination.best.step == best
    assert not stale.parent.exists()
    assert same_weights(exported(whole), exported(short))
    assert not same_weights(exported(whole), exported(whole, "export-last"))
    assert (run_folder(whole) / "samples" / f"step-{best:08d}" / "grid.png").exists()
    card = (run_folder(whole) / "export" / "README.md").read_text()
    assert f"best checkpoint, of step {best}; training ended with step {STEPS}." in card
    assert "best checkpoint" not in (run_folder(whole) / "export-last" / "README.md").read_text()


MOMENTS = {
    "while an evaluation generates images": (
        "dreambooth_trainer.evaluation.evaluator:Evaluator.score", 3
    ),
    "between scoring and recording": (
        "dreambooth_trainer.selection.record:RecordStore.write", 2
    ),
    "between recording and saving": (
        "dreambooth_trainer.telemetry.telemetry:Telemetry.record_evaluation", 2
    ),
    "while old checkpoints are deleted": ("dreambooth_storage:Storage.delete", 3),
    "while the best is loaded": (
        "dreambooth_trainer.checkpoint.store:CheckpointStore.load_best", 1
    ),
    "before the export of the best": ("dreambooth_trainer.run.finish:write_result", 1),
}  # fmt: skip


@pytest.mark.parametrize(
    "kind", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_whenever_it_is_killed_the_same_checkpoint_is_the_best(
    job: Job, whole: dict[str, Any], tmp_path: Path, kind: signal.Signals
) -> None:
    broken = scored(job, "broken")
    for attempt, (function, call) in enumerate(MOMENTS.values()):
        strike = SignalAtCall(function, kind, call=call)
        ended = run_ranks(broken, tmp_path / "broken", attempt=attempt, signal_at=strike)
        assert ended.codes[0] in (-signal.SIGKILL, 143, 0), ended.logs
    finish(broken, tmp_path / "broken", attempt=len(MOMENTS))
    assert evaluations(broken) == evaluations(whole)
    assert result(broken) == result(whole)
    assert same_weights(exported(broken), exported(whole))
    assert same_weights(exported(broken, "export-last"), exported(whole, "export-last"))


def test_two_ranks_choose_the_checkpoint_that_one_does(
    job: Job, whole: dict[str, Any], tmp_path: Path
) -> None:
    two = scored(job, "two")
    finish(two, tmp_path / "two", nodes=2)
    assert result(two)["exportedStep"] == result(whole)["exportedStep"]
    # Of the base model, which both have bit for bit.
    base = [(run_folder(each) / "scores/step-00000000.json").read_bytes() for each in (whole, two)]
    assert base[0] == base[1]
    for step, scores in evaluations(whole).items():
        assert evaluations(two)[step] == pytest.approx(scores, rel=1e-3, abs=1e-4)


def test_training_ends_early_once_and_for_all(job: Job, tmp_path: Path) -> None:
    # No checkpoint is better by more than 1 than another.
    early = {"patience": 2, "minDelta": 1}
    made = scored(job, "early", earlyStopping=early)
    strike = SignalAtCall("dreambooth_trainer.run.finish:write_result", signal.SIGKILL)
    killed = run_ranks(made, tmp_path, signal_at=strike)
    assert killed.codes == [-signal.SIGKILL], killed.logs
    ended = finish(made, tmp_path, attempt=1)
    assert list(evaluations(made)) == [2, 4, 6]
    assert result(made)["lastStep"] == 6
    assert "stopped early at step 6 of 8" in result(made)["stoppedEarly"]
    assert "stopped early at step 6 of 8" in (ended.termination.stopped_early or "")
    assert [line["step"] for line in history(made)] == [1, 2, 3, 4, 5, 6]
