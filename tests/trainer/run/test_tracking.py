"""What the trackers of a whole run get."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.trainer.conftest import MakeJob
from tests.trainer.ranks import run_folder, run_ranks
from tests.trainer.telemetry.mlflow_server import serve

VALUES = {
    "loss/total",
    "loss/subject",
    "loss/prior",
    "learning_rate",
    "learning_rate/text_encoder",
    "gradient_norm",
    "time/step_seconds",
    "time/data_wait_seconds",
    "time/images_per_second",
}


def test_all_values_and_samples_reach_every_tracker(job: MakeJob, tmp_path: Path) -> None:
    text = {"method": "full", "learningRate": 5e-4}
    with serve() as server:
        one = job(
            training={"textEncoder": text, "steps": 3},
            samples={"every": 2},
            tracking={"tensorboard": True, "mlflow": {"trackingURI": server.url}},
        )
        ended = run_ranks(one, tmp_path)
        assert ended.codes == [0], ended.logs
        events = EventAccumulator(str(run_folder(one) / "tensorboard"))
        events.Reload()
        assert VALUES == set(events.Tags()["scalars"]) == set(server.metrics)
        rates = server.metrics["learning_rate/text_encoder"]
        assert rates == [(1, 5e-4), (2, 5e-4), (3, 5e-4)]
        assert all(norm > 0 for _, norm in server.metrics["gradient_norm"])
        samples = {path.rpartition("/")[2] for path in server.artifacts}
        assert samples == {f"step-{step:08}.png" for step in (0, 2, 3)}
        assert server.params["spec.training.textEncoder.method"] == "full"
        assert server.runs["run-0"]["status"] == "FINISHED"
