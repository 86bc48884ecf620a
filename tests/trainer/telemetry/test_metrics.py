import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from dreambooth_api.contract.stages import STAGES
from dreambooth_trainer.telemetry.metrics import Metrics

LABELS = {"namespace": "art", "job": "mug", "attempt": "2", "rank": "1"}


def families(metrics: Metrics) -> dict[str, Metric]:
    return {f.name: f for f in text_string_to_metric_families(metrics.render().decode())}


def value(metrics: Metrics, sample: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"dreambooth_trainer_{sample}", {**LABELS, **labels})


def test_a_step_shows_in_every_series_about_steps() -> None:
    metrics = Metrics(LABELS)
    metrics.start_training(10, 800)
    metrics.record_step(11, images=8, seconds=0.2, data_wait_seconds=0.002)
    metrics.record_step(12, images=8, seconds=0.4, data_wait_seconds=0.002)
    metrics.record_losses(0.9, 0.5, 0.4, 1e-4)
    metrics.record_throughput(53.3)
    assert value(metrics, "step") == 12
    assert value(metrics, "target_steps") == 800
    assert value(metrics, "images_total") == 16
    assert value(metrics, "images_per_second") == 53.3
    assert value(metrics, "step_seconds_sum") == pytest.approx(0.6)
    assert value(metrics, "step_seconds_bucket", le="0.25") == 1
    assert value(metrics, "data_wait_seconds_count") == 2
    assert value(metrics, "loss") == 0.9
    assert value(metrics, "subject_loss") == 0.5
    assert value(metrics, "prior_loss") == 0.4
    assert value(metrics, "learning_rate") == 1e-4


def test_exactly_one_stage_is_current() -> None:
    metrics = Metrics(LABELS)
    metrics.enter_stage("Preparing")
    metrics.enter_stage("Training")
    assert {s: value(metrics, "stage", stage=s) for s in STAGES} == {
        s: float(s == "Training") for s in STAGES
    }


def test_checkpoints_are_counted() -> None:
    metrics = Metrics(LABELS)
    metrics.record_checkpoint(500, size=1000, seconds=2.0)
    metrics.record_checkpoint(600, size=1000, seconds=3.0)
    metrics.record_checkpoint_wait(0.5)
    metrics.record_failed_save()
    assert value(metrics, "checkpoint_bytes_total") == 2000
    assert value(metrics, "checkpoint_wait_seconds_sum") == 0.5
    assert value(metrics, "checkpoint_seconds_sum") == 5.0
    assert value(metrics, "checkpoint_failures_total") == 1
    assert value(metrics, "checkpoint_last_step") == 600


def test_work_is_unsaved_since_training_began_or_the_last_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = Metrics(LABELS)
    assert value(metrics, "unsaved_since_timestamp_seconds") is None
    monkeypatch.setattr("time.time", lambda: 100.0)
    metrics.start_training(500, 800)
    assert value(metrics, "unsaved_since_timestamp_seconds") == 100
    assert value(metrics, "checkpoint_last_timestamp_seconds") is None
    monkeypatch.setattr("time.time", lambda: 160.0)
    metrics.record_checkpoint(600, size=1000, seconds=3.0)
    assert value(metrics, "unsaved_since_timestamp_seconds") == 160
    assert value(metrics, "checkpoint_last_timestamp_seconds") == 160


def test_gpu_memory_is_read_at_each_scrape() -> None:
    metrics, read = Metrics(LABELS), [5, 7]
    assert value(metrics, "gpu_memory_peak_bytes") is None
    metrics.watch_gpu_memory(used=lambda: read[0], peak=lambda: read[1])
    assert value(metrics, "gpu_memory_allocated_bytes") == 5
    read[1] = 9
    assert value(metrics, "gpu_memory_peak_bytes") == 9


def test_every_metric_is_defined_as_it_is_exposed() -> None:
    metrics = Metrics(LABELS)
    kinds = {each.name: each.kind for each in metrics.definitions}
    exposed = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in metrics.registry.collect()
        if family.name.startswith("dreambooth_")
    }
    assert kinds == exposed
    assert all(each.labels[:4] == tuple(LABELS) for each in metrics.definitions)


def test_what_is_counted_begins_at_zero() -> None:
    metrics = Metrics(LABELS)
    for sample in ("images_total", "checkpoint_failures_total", "checkpoint_seconds_count"):
        assert value(metrics, sample) == 0


def test_transfers_are_counted_by_operation_and_errors_by_code() -> None:
    metrics = Metrics(LABELS)
    metrics.transferred("read", 100, 0.1)
    metrics.transferred("read", 50, 0.1)
    metrics.transferred("write", 7, 0.1)
    metrics.failed("read", "SlowDown")
    assert value(metrics, "s3_bytes_total", operation="read") == 150
    assert value(metrics, "s3_bytes_total", operation="write") == 7
    assert value(metrics, "s3_request_seconds_count", operation="read") == 2
    assert value(metrics, "s3_errors_total", operation="read", code="SlowDown") == 1


def test_a_server_cannot_make_up_any_number_of_series() -> None:
    metrics = Metrics(LABELS)
    for i in range(500):
        metrics.failed("read", f"Code{i}")
    metrics.failed("read", "<html>\n" * 50)
    codes = {s.labels["code"] for s in families(metrics)["dreambooth_trainer_s3_errors"].samples}
    assert len(codes) <= 33
    assert value(metrics, "s3_errors_total", operation="read", code="other") == 469


def test_every_series_of_the_trainer_says_whose_it_is() -> None:
    metrics = Metrics(LABELS)
    metrics.enter_stage("Training")
    metrics.transferred("read", 1, 1.0)
    metrics.failed("read", "x")
    metrics.start_training(0, 1)
    own = [f for name, f in families(metrics).items() if name.startswith("dreambooth_trainer_")]
    samples = [s for family in own for s in family.samples]
    assert samples
    assert all(LABELS.items() <= s.labels.items() for s in samples)


def test_names_and_units_follow_the_conventions() -> None:
    for name, family in families(Metrics(LABELS)).items():
        assert family.documentation, name
        if name.startswith("dreambooth_trainer_"):
            assert not name.endswith(("_total", "_ms", "_milliseconds", "_mb", "_count")), name
            assert family.type != "counter" or all(
                s.name.endswith(("_total", "_created")) for s in family.samples
            )


def test_two_metrics_objects_do_not_share_a_registry() -> None:
    first, second = Metrics(LABELS), Metrics(LABELS)
    first.record_failed_save()
    assert value(first, "checkpoint_failures_total") == 1
    assert value(second, "checkpoint_failures_total") == 0
