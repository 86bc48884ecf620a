"""MLflow gets all values of a run, and cannot hold a training up."""

import time

import pytest
from PIL import Image

from dreambooth_api.models.results.tracking import MLflow as Settings
from dreambooth_trainer.telemetry import mlflow
from dreambooth_trainer.telemetry.mlflow import MLflow
from tests.ports import free_ports
from tests.trainer.telemetry.mlflow_server import serve

CONFIG = {"spec": {"training": {"steps": 3}, "subjects": [{"identifier": "<sks>"}]}}
GRID = Image.new("RGB", (32, 16), "red")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "SEND_SECONDS", 0.02)
    monkeypatch.setattr(mlflow, "RETRY_SECONDS", 0.02)


def start(url: str, run_id: str = "abc123") -> MLflow:
    return MLflow(Settings(tracking_uri=url, experiment="dogs"), run_id, "mug", CONFIG)


def test_attempts_continue_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token")
    with serve() as server:
        first = start(server.url)
        first.log(1, {"loss/total": 0.5, "scores/<sks>/dino": 0.25, "broken": float("nan")})
        first.images(1, GRID)
        first.close(succeeded=False)
        assert server.runs["run-0"]["status"] == "FAILED"
        second = start(server.url)
        second.log(2, {"loss/total": 0.25})
        second.close(succeeded=True)
        assert list(server.runs) == ["run-0"]
        assert server.runs["run-0"]["status"] == "FINISHED"
        assert server.runs["run-0"]["tags"]["mlflow.runName"] == "mug"
        assert server.metrics == {
            "loss/total": [(1, 0.5), (2, 0.25)],
            "scores/_sks_/dino": [(1, 0.25)],
        }
        assert server.params["spec.training.steps"] == "3"
        assert server.params["spec.subjects.0.identifier"] == "<sks>"
        [path] = server.artifacts
        assert path.endswith(
            "/mlflow-artifacts/artifacts/7/run-0/artifacts/samples/step-00000001.png"
        )
        assert server.artifacts[path].startswith(b"\x89PNG")
        assert server.authorizations == {"Bearer a-token"}


def test_a_server_that_comes_back_gets_what_it_has_missed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    [port] = free_ports(1)
    tracker = start(f"http://127.0.0.1:{port}/team")
    before = time.monotonic()
    for step in range(2500):
        tracker.log(step, {"loss/total": 1.0})
    tracker.images(3, GRID)
    assert time.monotonic() - before < 2
    while not caplog.records:
        time.sleep(0.01)
    [record] = caplog.records  # one warning, however often it is tried
    assert "the training goes on, and it is tried again" in record.getMessage()
    with serve(port) as server:
        tracker.close(succeeded=True)
        assert [step for step, _ in server.metrics["loss/total"]] == list(range(2500))
        assert len(server.artifacts) == 1


@pytest.mark.parametrize(
    ("refused", "kind", "values"),
    [("metrics", "metrics", 1500), ("params", "parameters", 2), ("artifacts", "samples", 2)],
)
def test_what_the_server_refuses_is_dropped_with_one_warning(
    refused: str, kind: str, values: int, caplog: pytest.LogCaptureFixture
) -> None:
    with serve() as server:
        server.refused = {refused}
        tracker = start(server.url)
        for step in range(1500):  # two batches
            tracker.log(step, {"loss/total": 1.0})
        tracker.images(1, GRID)
        tracker.images(2, GRID)
        tracker.close(succeeded=True)
        assert sum(server.refusals) == values  # none is sent again
        assert server.runs["run-0"]["status"] == "FINISHED"
        assert (len(server.artifacts) == 2) == (refused != "artifacts")
        assert (len(server.metrics["loss/total"]) == 1500) == (refused != "metrics")
    [record] = caplog.records
    assert record.getMessage() == (
        f"MLflow: {server.url} refuses {kind} of run 'mug', experiment 'dogs' (HTTP 400:"
        ' {"error_code": "INVALID_PARAMETER_VALUE", "message": "too long"}); what it refuses is not'
        " logged, and the training goes on"
    )


@pytest.mark.parametrize("status", [401, 403, 429, 500])
def test_what_another_try_may_help_is_kept(status: int) -> None:
    assert not mlflow.is_refusal(status)


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    [port] = free_ports(1)
    monkeypatch.setattr(mlflow, "MOST_KEPT", 10)
    tracker = start(f"http://127.0.0.1:{port}")
    for step in range(100):
        tracker.log(step, {"loss/total": 1.0})
    with pytest.raises(ConnectionError, match="10 values were not sent"):
        tracker.close(succeeded=True)


def test_samples_need_a_server_that_stores_artifacts(caplog: pytest.LogCaptureFixture) -> None:
    with serve() as server:
        server.has_proxy = False
        tracker = start(server.url)
        tracker.images(1, GRID)
        tracker.images(2, GRID)
        tracker.log(2, {"loss/total": 1.0})
        tracker.close(succeeded=True)
        assert server.metrics["loss/total"] == [(2, 1.0)]
    assert [r.getMessage().count("--serve-artifacts") for r in caplog.records] == [1]
