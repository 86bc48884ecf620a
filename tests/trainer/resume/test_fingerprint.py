"""Which changes of a job let it go on from an earlier state, and what is said of the others."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dreambooth_api.models.job import output_layout, resolved
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.checkpoint import Manifest, Shard
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.resume.fingerprint import differences, fingerprint, relevant
from dreambooth_trainer.resume.own_run import check_config, check_contents
from dreambooth_trainer.resume.run_record import write_run_record
from tests.trainer.resolved import resolve

STEP = 500
HASHES = {"model": "aa", "sks/0.jpg": "00", "sks/1.jpg": "11", "class mug/0.png": "cc"}
SUBJECT = {"identifier": "sks", "classNoun": "mug", "images": "s3://data/mug"}


def job(**changes: Any) -> ResolvedJob:
    spec: dict[str, Any] = {
        "model": {"source": "s3://models/sd"},
        "subjects": [SUBJECT],
        "output": "file:///somewhere",
        "training": {"globalBatch": 8, "seed": 1},
    }
    for section, change in changes.items():
        spec[section] = {**spec.get(section, {}), **change} if isinstance(change, dict) else change
    return resolve(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "mug"},
            "spec": spec,
        }
    )


def changed(**changes: Any) -> list[str]:
    return differences(relevant(resolved(job())), relevant(resolved(job(**changes))))


OTHER_SUBJECTS = [
    {"identifier": "zwx", "classNoun": "mug", "images": "s3://data/mug"},
    {"identifier": "qqq", "classNoun": "cup", "images": "s3://data/cup"},
]


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"model": {"source": "s3://models/other"}}, ["spec.model.source"]),
        ({"training": {"seed": 2, "precision": "fp32"}},
         ["spec.training.precision", "spec.training.seed"]),
        ({"training": {"optimizer": {"beta1": 0.8}}}, ["spec.training.optimizer.beta1"]),
        ({"training": {"minSnrGamma": 5}}, ["spec.training.minSnrGamma"]),
        ({"training": {"timestepSampling": {"shift": 3}}},
         [f"spec.training.timestepSampling.{key}" for key in ("density", "mean", "shift", "std")]),
        ({"training": {"lossWeighting": "cosmap"}}, ["spec.training.lossWeighting"]),
        ({"training": {"lora": {"targets": ["to_q"]}}}, ["spec.training.lora.targets"]),
        ({"training": {"globalBatch": 4}}, ["spec.training.globalBatch"]),
        ({"training": {"steps": 2000, "schedule": {"name": "cosine"}}},
         ["spec.training.schedule.decayFraction", "spec.training.schedule.name",
          "spec.training.steps"]),
        ({"training": {"steps": 2000, "textEncoder": {"method": "lora", "stopFraction": 0.5}}},
         ["spec.training.steps", "spec.training.textEncoder.method",
          "spec.training.textEncoder.stopFraction"]),
        ({"prior": {"weight": 0.5, "count": 3}}, ["spec.prior.count", "spec.prior.weight"]),
        ({"subjects": OTHER_SUBJECTS},
         ["spec.subjects[0].identifier", "spec.subjects[1].classNoun",
          "spec.subjects[1].identifier", "spec.subjects[1].images"]),
    ],
)  # fmt: skip
def test_what_a_state_depends_on_is_named_field_by_field(
    changes: dict[str, Any], fields: list[str]
) -> None:
    assert [line.partition(": ")[0] for line in changed(**changes)] == fields
    assert fingerprint(job(**changes)) != fingerprint(job())


def test_a_difference_tells_both_values() -> None:
    assert changed(training={"seed": 2}) == ["spec.training.seed: 1 then, 2 now"]
    assert changed(training={"minSnrGamma": 5}) == [
        "spec.training.minSnrGamma: absent then, 5.0 now"
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"steps": 2000}},
        {"training": {"schedule": {"name": "warmup-stable-decay"}}},
        {"training": {"gradientCheckpointing": True}},
        {"training": {"accumulation": 4}},
        {"samples": {"count": 2, "prompts": ["a photo of sks mug on the moon"]}},
        {"runtime": {"nodes": 4}},
        {"checkpoints": {"every": 10}},
        {"prior": {"cache": "s3://elsewhere/cache"}},
        {"evaluation": {"preset": "modern"}},
        {"subjects": [SUBJECT | {"evaluationImages": "s3://data/held-out"}]},
    ],
)
def test_harmless_changes_are_none(changes: dict[str, Any]) -> None:
    assert changed(**changes) == []
    assert fingerprint(job(**changes)) == fingerprint(job())


def test_steps_are_free_while_the_text_encoder_trains_to_the_end() -> None:
    text = {"textEncoder": {"method": "full", "stopFraction": 1}}
    assert fingerprint(job(training=text)) == fingerprint(job(training={**text, "steps": 5000}))


def test_accumulation_matters_where_it_sets_the_batch() -> None:
    def per_device(accumulation: int) -> dict[str, Any]:
        training = {"globalBatch": None, "perDeviceBatch": 2, "accumulation": accumulation}
        return relevant(resolved(job(training=training)))

    assert differences(per_device(1), per_device(2)) == [
        "spec.training.accumulation: 1 then, 2 now"
    ]


@dataclass
class Run:
    """A run in storage that has a checkpoint of step 500, made for `job()`."""

    storage: Storage
    folder: Path

    def attempt(self, **changes: Any) -> Attempt:
        """The next attempt, of a job that was changed."""
        changed = job(output=f"file://{self.folder}", **changes)
        alone: Any = None
        device: Any = None
        return Attempt(changed, Ranks(Topology()), self.storage, alone, alone, device)

    @property
    def record(self) -> Path:
        return Path(output_layout(self.attempt().job).root.removeprefix("file://")) / "run.json"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(Storage(StorageSettings(None, None, "auto")), tmp_path)
    first = run.attempt()
    write_run_record(
        run.storage,
        first.layout,
        first.job,
        attempt=0,
        world_size=1,
        global_batch=8,
        hashes=HASHES,
        seeds={},
    )
    return run


def manifest(step: int = STEP, of: str | None = None) -> Manifest:
    shard = Shard(name="shard-00000-of-00001.safetensors", size=1, sha256="0" * 64, tensors=1)
    return Manifest(
        step=step, attempt=0, claim=0, world_size=1, time="", tensors=1, payload_bytes=1,
        total_bytes=1, shards=[shard], fingerprint=fingerprint(job()) if of is None else of,
    )  # fmt: skip


def refusal(action: Any, *arguments: Any) -> str:
    with pytest.raises(BadConfigError) as caught:
        action(*arguments)
    return str(caught.value)


def test_a_changed_job_is_refused_with_all_that_differs(run: Run) -> None:
    other = run.attempt(training={"seed": 2, "learningRate": 1e-5}, samples={"count": 1})
    message = refusal(check_config, other, manifest())
    assert message.splitlines() == [
        "the checkpoint of step 500 was made from other settings or images; undo the changes,"
        " or give the job another name:",
        "  spec.training.learningRate: 0.0001 then, 1e-05 now",
        "  spec.training.seed: 1 then, 2 now",
    ]


@pytest.mark.parametrize(
    "training",
    [
        {"schedule": {"name": "cosine"}},
        {"schedule": {"name": "linear"}},
        {"schedule": {"name": "polynomial"}},
        {"textEncoder": {"method": "full", "stopFraction": 0.5}},
    ],
)
def test_steps_are_fixed_where_the_states_follow_from_their_number(
    training: dict[str, Any], run: Run
) -> None:
    first = run.attempt(training=training)
    write_run_record(
        run.storage, first.layout, first.job,
        attempt=0, world_size=1, global_batch=8, hashes=HASHES, seeds={},
    )  # fmt: skip
    other = run.attempt(training={**training, "steps": 5000})
    message = refusal(check_config, other, manifest(of=fingerprint(first.job)))
    assert message.splitlines()[1:] == ["  spec.training.steps: 800 then, 5000 now"]


def test_a_harmless_change_goes_on(run: Run) -> None:
    check_config(run.attempt(training={"steps": 5000}, samples={"count": 1}), manifest())


def test_a_field_that_is_newer_than_the_checkpoint_has_its_default(run: Run) -> None:
    record = json.loads(run.record.read_text())
    del record["job"]["spec"]["training"]["noiseOffset"]
    run.record.write_text(json.dumps(record))
    check_config(run.attempt(), manifest(of="what an older version made of the same job"))


def test_a_run_of_a_version_with_other_fields_goes_on(run: Run) -> None:
    record = json.loads(run.record.read_text())
    record["job"]["spec"]["evaluation"] = {"model": "s3://models/clip"}
    run.record.write_text(json.dumps(record))
    # Jobs did not name what the model's own values are.
    own = {"density": "logit-normal", "mean": 0.0, "std": 1.0, "shift": 3.0}
    check_config(run.attempt(training={"timestepSampling": own}), manifest(of="older"))
    other = run.attempt(training={"timestepSampling": own, "seed": 2})
    assert refusal(check_config, other, manifest(of="older")).splitlines()[1:] == [
        "  spec.training.seed: 1 then, 2 now"
    ]


def test_a_run_from_before_other_targets_trained_towards_noise(run: Run) -> None:
    first = run.attempt(prior={"target": "noise"})
    write_run_record(
        run.storage, first.layout, first.job,
        attempt=0, world_size=1, global_batch=8, hashes=HASHES, seeds={},
    )  # fmt: skip
    record = json.loads(run.record.read_text())
    del record["job"]["spec"]["prior"]["target"]
    del record["job"]["spec"]["prior"]["emptyPromptFraction"]
    run.record.write_text(json.dumps(record))
    check_config(run.attempt(prior={"target": "noise"}), manifest(of="older"))
    message = refusal(check_config, run.attempt(), manifest(of="older"))
    assert message.splitlines()[1:] == [
        "  spec.prior.emptyPromptFraction: 0.0 then, 0.5 now",
        '  spec.prior.target: "noise" then, "prediction" now',
        "  spec.prior.weight: 1.0 then, 4.0 now",
    ]


def test_without_the_record_a_changed_job_is_refused_all_the_same(run: Run) -> None:
    run.record.unlink()
    assert "run.json" in refusal(check_config, run.attempt(training={"seed": 2}), manifest())
    check_config(run.attempt(), manifest())


def test_fewer_steps_than_were_done_are_refused(run: Run) -> None:
    message = refusal(check_config, run.attempt(training={"steps": 499}), manifest())
    assert message.startswith("spec.training.steps: 499, but the newest checkpoint is of step 500")
    check_config(run.attempt(training={"steps": 500}), manifest())


def test_other_files_are_named(run: Run) -> None:
    now = {"model": "bb", "sks/0.jpg": "00", "sks/2.jpg": "22", "class mug/0.png": "cc"}
    message = refusal(check_contents, run.attempt(), STEP, now)
    assert message.splitlines()[1:] == [
        "  sks/1.jpg: was removed",
        "  sks/2.jpg: is new",
        "  model: has changed",
    ]


def test_class_images_that_were_made_again_are_worth_a_warning(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    check_contents(run.attempt(), STEP, HASHES)
    assert not caplog.records
    check_contents(run.attempt(), STEP, {**HASHES, "class mug/0.png": "dd"})
    assert "class mug/0.png: has changed" in caplog.text
