"""The export is pushed to a hub; what goes wrong there never costs a result."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import httpx
import pytest

from dreambooth_api.models.results.export import HubSecret, PushToHub
from dreambooth_trainer.export import hub as hub_module
from dreambooth_trainer.export.hub import find_token_problem, push_to_hub
from dreambooth_trainer.process.distributed import COLLECTIVE_TIMEOUT
from dreambooth_trainer.process.signals import StoppedError, StopSignal
from tests.ports import free_ports
from tests.trainer.conftest import MakeJob
from tests.trainer.export.hub_uploads import Hub, serve
from tests.trainer.ranks import run_folder, run_ranks

# The hub's client uploads by an argument that its HTTP library calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TO = PushToHub(repository="me/my-dog", secret_ref=HubSecret(name="hf"))
EXPORTED = "s3://results/export"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("DREAMBOOTH_HUB_TOKEN", "hf_right")
    # Its other protocol, Xet, needs servers of its own.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub_module, "WAITS_SECONDS", (0.01, 0.01))
    with serve() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "unet").mkdir()
    (tmp_path / "README.md").write_text("# sks\n")
    (tmp_path / "unet" / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    return tmp_path


def test_all_files_are_in_one_commit_of_a_private_repository(hub: Hub, folder: Path) -> None:
    pushed = push_to_hub(folder, TO, EXPORTED, "Step 8 of dog", StopSignal())
    assert (pushed.repository, pushed.problem) == ("me/my-dog", None)
    assert hub.repositories == {"me/my-dog": True}
    assert hub.messages == ["Step 8 of dog"]
    assert hub.files == {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    # A later attempt of the job exports again.
    assert push_to_hub(folder, TO, EXPORTED, "again", StopSignal()).problem is None


def test_a_hub_that_fails_is_tried_again(
    hub: Hub, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.failures = 1
    with caplog.at_level(logging.WARNING):
        assert push_to_hub(folder, TO, EXPORTED, "Step 8", StopSignal()).problem is None
    assert "README.md" in hub.files
    assert "it is tried again" in caplog.text


def test_a_token_that_is_refused_is_not_tried_again(
    hub: Hub, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_token_problem(TO) is None
    hub.token = "hf_another"
    assert find_token_problem(TO) == (
        "spec.export.pushToHub: me/my-dog: the hub does not accept the token; renew it in the"
        " Secret of secretRef; the job is trained all the same, and its result stays in spec.output"
    )
    pushed = push_to_hub(folder, TO, EXPORTED, "Step 8", StopSignal())
    assert pushed.problem == (
        "the hub does not accept the token; renew it in the Secret of secretRef; the result is in"
        " s3://results/export, from where it can be uploaded"
    )
    assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == [
        "dreambooth_trainer.export.hub"
    ]
    assert "hf_right" not in caplog.text
    assert hub.files == {}


def test_a_hub_that_cannot_be_reached_is_given_up(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [port] = free_ports(1)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    pushed = push_to_hub(folder, TO, EXPORTED, "Step 8", StopSignal())
    assert pushed.problem is not None
    assert pushed.problem.startswith("the hub cannot be reached (")


def test_a_hub_that_hangs_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "LIMIT_SECONDS", 0)
    over = Event()
    monkeypatch.setattr(hub_module, "_push", lambda *_: over.wait())
    pushed = push_to_hub(folder, TO, EXPORTED, "Step 8", StopSignal())
    over.set()
    assert pushed.problem is not None
    assert pushed.problem.startswith("the hub took longer than 0 s")


def test_a_push_ends_when_the_rank_is_asked_to_stop(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "POLL_SECONDS", 0.01)
    stop, over = StopSignal(), Event()

    def hang(*_: object) -> str:
        stop.requested = True
        over.wait()
        return "never"

    monkeypatch.setattr(hub_module, "_push", hang)
    with pytest.raises(StoppedError, match="the result is in s3://results/export"):
        push_to_hub(folder, TO, EXPORTED, "Step 8", stop)
    over.set()


def test_the_other_ranks_wait_longer_than_a_push_may_take() -> None:
    assert COLLECTIVE_TIMEOUT.total_seconds() / 2 >= hub_module.LIMIT_SECONDS


def test_a_run_that_cannot_push_succeeds_and_says_so(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DREAMBOOTH_HUB_TOKEN", raising=False)
    push = {"repository": "me/my-dog", "secretRef": {"name": "hf"}}
    one = job(
        training={"method": "lora", "steps": 1, "globalBatch": 2},
        prior={"enabled": False},
        export={"pushToHub": push},
    )
    ended = run_ranks(one, tmp_path)
    assert ended.codes == [0], ended.logs
    assert ended.termination.push is not None
    assert ended.termination.push.problem is not None
    assert ended.termination.push.problem.startswith("DREAMBOOTH_HUB_TOKEN is not set; name a")
    assert (run_folder(one) / "export" / "README.md").exists()
    warnings = json.loads((run_folder(one) / "run.json").read_text())["warnings"]
    [warning] = [each for each in warnings if "pushToHub" in each]
    assert warning.startswith("spec.export.pushToHub: me/my-dog: DREAMBOOTH_HUB_TOKEN is not set")


def test_signatures_of_uploads_are_not_shown() -> None:
    sent = httpx.Request("PUT", "https://storage.example/part?X-Amz-Signature=secret")
    with pytest.raises(httpx.HTTPStatusError) as caught:
        httpx.Response(500, request=sent).raise_for_status()
    problem, _ = hub_module._explain(caught.value)
    assert "https://storage.example/part" in problem
    assert "secret" not in problem
