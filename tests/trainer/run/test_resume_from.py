"""A job goes on from another run: `spec.resumeFrom`."""

import json
import shutil

import torch

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.preflight.check import check_job
from tests.trainer.ranks import final_state, history, run_folder, run_ranks

LORA = {"method": "lora"}


def finish(job, folder, **how):
    ended = run_ranks(job, folder, **how)
    assert set(ended.codes) == {0}, "\n".join(ended.logs)
    return ended


def record(job):
    return json.loads((run_folder(job) / "run.json").read_text())


def examine(job):
    with Storage(StorageSettings()) as storage:
        return check_job(DreamBoothJob.model_validate(job), storage)


def test_a_finished_job_goes_on_with_more_steps_as_if_it_had_never_ended(job, tmp_path):
    constant = LORA | {"schedule": {"name": "constant"}}  # a decay would have begun in the first
    finish(job("first", training=constant), tmp_path / "first")
    more = constant | {"steps": 12}
    # Deleted and applied again: another uid under the same name.
    again = job("again", training=more, resumeFrom={"job": "test"})
    report = examine(again)
    assert report.errors == []
    assert any("goes on from step 8 of 12" in note for note in report.notes)
    stopped = run_ranks(again, tmp_path / "again", stop_at_step=1)
    assert stopped.codes == [143], stopped.logs
    # From then on its own checkpoints count: the other run may be deleted.
    shutil.rmtree(run_folder(job("first", training=constant)))
    finish(again, tmp_path / "again", attempt=1)

    steady = job("steady", training=more)
    finish(steady, tmp_path / "steady")
    expected, found = final_state(steady), final_state(again)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [line["step"] for line in history(again)] == list(range(1, 13))
    attempts = record(again)["attempts"]
    assert attempts[0]["resumedFromStep"] == 8
    assert attempts[1]["resumedFromStep"] >= 10
    assert attempts[0]["resumedFrom"]["differences"] == []
    assert "resumedFrom" not in attempts[1]


def test_what_differs_is_listed_and_what_the_state_cannot_hold_is_refused(job, subject, tmp_path):
    first = job("first", training=LORA | {"lora": {"rank": 4}})
    finish(first, tmp_path / "first")
    uri = f"file://{run_folder(first)}"
    images = tmp_path / "images"
    shutil.copytree(subject, images)
    (images / "3.png").unlink()
    other = job(
        "other",
        training=LORA | {"lora": {"rank": 4}, "learningRate": 5e-4, "steps": 9},
        subjects=[{"identifier": "sks", "classNoun": "mug", "images": f"file://{images}"}],
        resumeFrom={"uri": uri},
    )
    line = "spec.training.learningRate: 0.001 then, 0.0005 now"
    assert f"spec.resumeFrom: {line}" in examine(other).warnings
    ended = finish(other, tmp_path / "other")
    assert line in ended.logs[0]
    listed = record(other)["attempts"][0]["resumedFrom"]
    assert listed["checkpoint"].startswith(f"{uri}/checkpoints/step-00000008-claim-")
    assert line in listed["differences"]
    assert "sks/3.png: was removed" in listed["differences"]

    def refusal(**changes):
        report = examine(job("refused", **changes))
        return "\n".join(str(error) for error in report.errors)

    source = {"resumeFrom": {"uri": uri}}
    rank = refusal(training=LORA | {"lora": {"rank": 8}}, **source)
    assert "spec.training.lora.rank: 4 then, 8 now" in rank
    fewer = refusal(training=LORA | {"lora": {"rank": 4}, "steps": 5}, **source)
    assert "spec.training.steps: 5, but spec.resumeFrom goes on from step 8" in fewer
    missing = refusal(resumeFrom={"job": "nobody"})
    assert "spec.resumeFrom.job: nobody" in missing
    assert "holds no complete checkpoint" in missing


def test_a_run_may_be_named_by_any_of_its_folders(job, tmp_path):
    first = job("first", training=LORA | {"steps": 4}, checkpoints={"every": 2})
    finish(first, tmp_path / "first")
    folders = sorted(path.name for path in (run_folder(first) / "checkpoints").glob("step-*"))
    for suffix, step in (("/", 4), ("/checkpoints", 4), (f"/checkpoints/{folders[0]}", 2)):
        uri = f"file://{run_folder(first)}{suffix}"
        report = examine(job("again", training=LORA, resumeFrom={"uri": uri}))
        assert report.errors == []
        assert any(f"goes on from step {step} of 8" in note for note in report.notes), suffix
