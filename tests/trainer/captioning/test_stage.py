"""The stage Captioning of whole runs: asked once, the same on any number of ranks."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dreambooth_api.contract.exit_codes import ExitCode
from tests.corpus import vision_language
from tests.trainer.captioning.fake_endpoint import FakeEndpoint, fake_endpoint
from tests.trainer.ranks import Ended, SignalAtCall, final_state, history, run_folder, run_ranks

MakeJob = Callable[..., dict[str, Any]]
STEPS = 2


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with fake_endpoint() as server:
        yield server


@pytest.fixture(scope="module")
def local_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vision_language.build(tmp_path_factory.mktemp("vlm"))


def captioned(job: MakeJob, uid: str, captioning: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A short job whose subject is described."""
    made = job(uid, training={"steps": STEPS}, captioning=captioning, **changes)
    made["spec"]["subjects"][0]["captions"] = "auto"
    return made


def by_endpoint(job: MakeJob, uid: str, endpoint: FakeEndpoint, **changes: Any) -> dict[str, Any]:
    asked = {"endpoint": {"url": endpoint.url, "model": "fake"}, "photoCheck": True}
    return captioned(
        job, uid, asked, samples={"autoPrompts": 3}, prior={"autoPrompts": 2, "count": 2}, **changes
    )


def finish(job: dict[str, Any], folder: Path, **how: Any) -> Ended:
    ended = run_ranks(job, folder, **how)
    assert set(ended.codes) == {0}, "\n".join(ended.logs)
    return ended


def refuse(job: dict[str, Any], folder: Path, why: str, attempt: int) -> None:
    ended = run_ranks(job, folder, attempt=attempt)
    assert ended.codes[0] in range(64, 70), "\n".join(ended.logs)
    assert why in "\n".join(ended.logs)


def record(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_folder(job) / "run.json").read_text())
    return found


def stored(job: dict[str, Any]) -> str:
    return (run_folder(job) / "captions.json").read_text()


def test_what_is_written_is_trained_on(
    job: MakeJob, endpoint: FakeEndpoint, subject: Path, tmp_path: Path
) -> None:
    own = tmp_path / "photos"
    own.mkdir()
    for path in subject.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    (own / "1.txt").write_text("sks mug of its owner")
    made = by_endpoint(job, "one", endpoint)
    made["spec"]["subjects"][0]["images"] = f"file://{own}"
    Image.open(own / "2.png").save(own / "2.jpg")
    endpoint.check |= {"subjects": 2, "watermark": True, "blurred": True}
    finish(made, tmp_path / "one")

    captions = record(made)["captions"]["sks"]
    assert captions.keys() == {"0.png", "1.png", "2.jpg", "2.png", "3.png"}
    assert captions["1.png"] == "sks mug of its owner"
    assert captions["0.png"].startswith("a photo of sks mug ")
    kinds = [each["response_format"]["json_schema"]["name"] for each in endpoint.requests]
    assert kinds.count("Caption") == 4
    assert kinds.count("PhotoCheck") == 5
    spec = record(made)["job"]["spec"]
    assert len(spec["samples"]["prompts"]) == 3
    assert all("sks mug" in prompt for prompt in spec["samples"]["prompts"])
    assert len(spec["prior"]["prompts"]) == 2
    assert not any("sks" in prompt for prompt in spec["prior"]["prompts"])
    warnings = "\n".join(record(made)["warnings"])
    for seen in ("2 of the class mug are seen", "a watermark is seen", "the mug is blurred"):
        assert f"spec.subjects[0].images: 0.png: {seen}" in warnings
    assert "spec.subjects[0].images: 2.jpg and 2.png show nearly the same" in warnings
    assert len(list((run_folder(made) / "samples").glob("step-00000000/*-0.png"))) == 3


def test_killed_after_captioning_it_asks_nothing_again(
    job: MakeJob, endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    whole = by_endpoint(job, "whole", endpoint)
    finish(whole, tmp_path / "whole")
    killed = by_endpoint(job, "killed", endpoint)
    step = "dreambooth_trainer.telemetry.telemetry:Telemetry.record_step"
    strike = SignalAtCall(step, signal.SIGKILL)
    ended = run_ranks(killed, tmp_path / "killed", signal_at=strike)
    assert ended.codes == [-signal.SIGKILL], "\n".join(ended.logs)
    before, asked = stored(killed), len(endpoint.requests)
    endpoint.status = 503  # nothing is asked, so nothing depends on it any more
    finish(killed, tmp_path / "again", attempt=1)
    assert stored(killed) == before
    assert len(endpoint.requests) == asked
    assert record(killed)["captions"] == record(whole)["captions"]
    ends = final_state(whole), final_state(killed)
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_ended_while_captioning_it_goes_on_where_it_was(
    job: MakeJob, endpoint: FakeEndpoint, tmp_path: Path, kind: signal.Signals
) -> None:
    made = by_endpoint(job, f"ended-{kind}", endpoint)
    strike = SignalAtCall("dreambooth_trainer.captioning.stage:run_task", kind, call=10)
    ended = run_ranks(made, tmp_path / "ended", signal_at=strike)
    assert ended.codes == [-signal.SIGKILL if kind == signal.SIGKILL else ExitCode.STOPPED]
    asked = len(endpoint.requests)
    kept = json.loads(stored(made))["answers"]
    assert len(kept) >= 8
    finish(made, tmp_path / "again", attempt=1)
    again = [each["response_format"]["json_schema"]["name"] for each in endpoint.requests[asked:]]
    assert set(again) == {"Prompts"}
    answers = json.loads(stored(made))["answers"]
    assert kept.items() <= answers.items()
    assert len(answers) == 11


def test_any_number_of_ranks_writes_the_same(
    job: MakeJob, local_model: Path, tmp_path: Path
) -> None:
    losses = []
    for ranks in (1, 2):
        made = captioned(job, f"{ranks}", {"model": {"source": str(local_model)}})
        finish(made, tmp_path / f"{ranks}", per_node=ranks)
        losses.append(torch.tensor([line["loss"] for line in history(made)]))
    assert stored(made) == stored(job("1"))
    assert len(set(record(made)["captions"]["sks"].values())) == 4
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)


def test_other_captions_are_other_contents(
    job: MakeJob, endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    made = by_endpoint(job, "changed", endpoint)
    finish(made, tmp_path / "first")
    written = stored(made)
    edited = written.replace("a photo of sks mug", "a drawing of sks mug", 1)
    (run_folder(made) / "captions.json").write_text(edited)
    refuse(made, tmp_path / "edited", "sks: captions: has changed", attempt=1)
    (run_folder(made) / "captions.json").write_text(written)
    made["spec"]["captioning"]["seed"] = 7
    refuse(made, tmp_path / "seed", "spec.prior.prompts", attempt=2)
    made["spec"]["captioning"]["seed"] = 0
    endpoint.status = 503
    finish(made, tmp_path / "again", attempt=3)  # the first answers are still there
