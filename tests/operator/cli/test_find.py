"""What names a run: a job, its file, or a folder, also of a run in the embedded storage."""

import json
from pathlib import Path

import pytest

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_operator.cli.find import find_recorded, find_result
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.state import Run, State


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """The state folder of the working directory."""
    monkeypatch.chdir(tmp_path)
    return State(Path(".dreambooth"))


@pytest.fixture
def run(state: State) -> Run:
    """A run in the embedded storage."""
    job = DreamBoothJob.model_validate(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "mug"},
            "spec": {
                "model": {"source": "s3://models/sd"},
                "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "s3://b/mug"}],
                "output": "s3://b/out/",
            },
        }
    )
    run = state.new_run(job, embedded=True)
    run.record.attempts = 1
    run.save()
    return run


def test_a_run_that_is_known_here_is_found_by_its_folders(state: State, run: Run) -> None:
    uid = run.job.metadata.uid
    (run.folder / "results").mkdir()
    folder = f".dreambooth/runs/mug-{str(uid)[:8]}"
    for result in ("mug", f"s3://b/out/default/mug/{uid}/", folder, f"./{folder}/results/"):
        assert find_result(result, state) == (run.job, True), result


def test_a_run_that_began_before_a_rule_is_found(state: State, run: Run) -> None:
    run.job.spec.prior.prompts = ["a {classNoun}"]
    run.save()
    assert find_result("mug", state) == (run.job, True)
    copy = state.folder.parent / "copy"
    run.folder.rename(copy)
    assert find_recorded(f"file://{copy}", state)[0] == run.job


def test_other_folders_are_those_of_runs_from_elsewhere(state: State, run: Run) -> None:
    assert find_result("s3://b/out/default/mug/other/", state) == "s3://b/out/default/mug/other"
    folder = state.folder.parent / "a b"
    folder.mkdir()
    assert find_result("a b", state) == f"file://{folder}"


def test_a_name_comes_before_a_folder_that_holds_no_run(state: State, run: Run) -> None:
    folder = state.folder.parent / "mug"  # such as the photos
    folder.mkdir()
    assert find_result("mug", state) == (run.job, True)
    (folder / "run.json").write_text("{}")
    assert find_result("mug", state) == f"file://{folder}"


def test_what_is_neither_is_refused_with_what_is_there(state: State, run: Run) -> None:
    with pytest.raises(UserError, match=r"no run of that name in .*, but of mug;"):
        find_result("mgu", state)
    other = State(Path(".dreambooth-other"))
    with pytest.raises(UserError, match=f"one in {state.folder}: name it with --state"):
        find_result("mug", other)
    with pytest.raises(UserError, match=f"is in the storage of {state.folder}: name it with"):
        find_result(f"s3://b/out/default/mug/{run.job.metadata.uid}", other)
    with pytest.raises(UserError, match="which holds none; name the job's file"):
        find_result("cup", other)


def test_a_copy_of_a_run_of_this_machine_uses_its_storage(state: State, run: Run) -> None:
    copy = state.folder.parent / "my copy"
    copy.mkdir()
    job = run.job.model_dump(mode="json", by_alias=True, exclude_none=True)
    (copy / "run.json").write_text(json.dumps({"job": job}))
    assert find_recorded(f"file://{copy}", state) == (run.job, True)
    assert find_recorded(f"file://{copy}", State(Path("other")))[1] is False
