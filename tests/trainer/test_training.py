"""Whole runs of the trainer, in real processes: the training contract."""

import re

import pytest
import torch
from PIL import Image, ImageDraw

from tests.trainer.ranks import final_state, history, run_folder, run_ranks


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    for number in range(4):
        image = Image.new("RGB", (80, 96), (40 * number, 200, 90))
        ImageDraw.Draw(image).ellipse((10, 10 + number * 5, 60, 70), fill=(220, 40, 50 * number))
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def prior_cache(tmp_path_factory):
    """Shared by all runs of this module, so that class images are generated once."""
    return tmp_path_factory.mktemp("prior-cache")


@pytest.fixture
def job(random_model, subject, prior_cache, tmp_path):
    """A job on a random model, 8 steps; `change` edits it by section."""

    def make(uid="run", **changes):
        spec = {
            "model": {"source": str(random_model)},
            "subjects": [{"identifier": "sks", "classNoun": "mug", "images": f"file://{subject}"}],
            "output": f"file://{tmp_path}/output",
            "prior": {"count": 6, "steps": 2, "cache": f"file://{prior_cache}"},
            "training": {
                "method": "full", "steps": 8, "globalBatch": 4, "resolution": 64,
                "learningRate": 1e-3, "precision": "fp32",
            },
            "checkpoints": {"every": 100},
            "samples": {"steps": 2, "count": 1},
            "runtime": {"gpusPerNode": 0},
        }  # fmt: skip
        for section, change in changes.items():
            spec[section] = (
                {**spec.get(section, {}), **change} if isinstance(change, dict) else change
            )
        return {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "test", "namespace": "default", "uid": uid},
            "spec": spec,
        }

    return make


def finish(job, folder, **how):
    ended = run_ranks(job, folder, **how)
    assert set(ended.codes) == {0}, "\n".join(ended.logs)
    return ended


def test_any_number_of_ranks_gives_the_same_loss_curve(job, tmp_path):
    curves, weights = {}, {}
    for nodes, per_node in ((1, 1), (4, 1), (2, 2), (1, 4)):
        split = job(f"{nodes}x{per_node}")
        finish(split, tmp_path / f"{nodes}x{per_node}", nodes=nodes, per_node=per_node)
        curves[nodes, per_node] = [
            [line["loss"], line["subject_loss"], line["prior_loss"]] for line in history(split)
        ]
        weights[nodes, per_node] = final_state(split)
    alone = torch.tensor(curves.pop((1, 1)))
    assert alone.shape == (8, 3)
    assert alone[:, 0].std() > 1e-3
    for curve in curves.values():
        torch.testing.assert_close(torch.tensor(curve), alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(
        weights[4, 1]["weight/denoiser.conv_in.weight"],
        weights[1, 4]["weight/denoiser.conv_in.weight"],
    )


def test_accumulation_changes_nothing_but_memory(job, tmp_path):
    whole, parts = job("whole"), job("parts", training={"accumulation": 2})
    finish(whole, tmp_path / "whole")
    finish(parts, tmp_path / "parts")
    torch.testing.assert_close(
        torch.tensor([line["loss"] for line in history(parts)]),
        torch.tensor([line["loss"] for line in history(whole)]),
        rtol=1e-4,
        atol=1e-5,
    )


VARIANTS = {
    "lora": {"method": "lora", "lora": {"rank": 4, "dropout": 0.2}, "precision": "bf16"},
    "full-ema": {"ema": {"enabled": True}, "minSnrGamma": 5.0, "noiseOffset": 0.1},
    "text-encoder": {
        "textEncoder": {"method": "full", "stopFraction": 0.75},
        "schedule": {"name": "cosine", "warmupSteps": 2},
        "captionDropout": 0.3,
        "accumulation": 2,
        "crop": "random",
    },
    "lora-text-lora": {"method": "lora", "textEncoder": {"method": "lora", "learningRate": 5e-4}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(job, tmp_path, variant):
    steady = job("steady", training=VARIANTS[variant])
    finish(steady, tmp_path / "steady")

    broken = job("broken", training=VARIANTS[variant])
    stopped = run_ranks(broken, tmp_path / "broken", stop_at_step=3)
    assert stopped.codes == [143], stopped.logs
    assert re.search(r"saved at step \d+ in \S+/checkpoints/step-", stopped.last_words)
    finish(broken, tmp_path / "broken", attempt=1)

    expected, found = final_state(steady), final_state(broken)
    assert expected.keys() == found.keys()
    different = [name for name in expected if not torch.equal(expected[name], found[name])]
    assert different == []
    assert [line["step"] for line in history(broken)] == list(range(1, 9))
    assert [line["loss"] for line in history(broken)] == [line["loss"] for line in history(steady)]


def test_all_ranks_stop_at_one_step_and_another_number_of_ranks_goes_on(job, tmp_path):
    steady, broken = job("steady"), job("broken")
    finish(steady, tmp_path / "steady")
    stopped = run_ranks(broken, tmp_path / "broken", nodes=2, stop_at_step=2)
    assert stopped.codes == [143, 143], stopped.logs
    finish(broken, tmp_path / "broken", attempt=1)
    torch.testing.assert_close(
        torch.tensor([line["loss"] for line in history(broken)]),
        torch.tensor([line["loss"] for line in history(steady)]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_an_attempt_that_was_suspended_goes_on_under_its_number_with_fewer_nodes(job, tmp_path):
    steady = job("steady")
    finish(steady, tmp_path / "steady")
    on_two, on_one = (job("moved", runtime={"nodes": nodes}) for nodes in (2, 1))
    stopped = run_ranks(on_two, tmp_path / "moved", nodes=2, attempt=3, stop_at_step=2)
    assert stopped.codes == [143, 143], stopped.logs
    finish(on_one, tmp_path / "moved", attempt=3)
    assert [line["step"] for line in history(on_one)] == list(range(1, 9))
    torch.testing.assert_close(
        torch.tensor([line["loss"] for line in history(on_one)]),
        torch.tensor([line["loss"] for line in history(steady)]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_next_job_of_the_class_generates_no_class_images(job, tmp_path):
    first = job("first", prior={"cache": f"file://{tmp_path}/cache"})
    second = job("second", prior={"cache": f"file://{tmp_path}/cache"})
    assert "0 reused, 6 generated" in finish(first, tmp_path / "first").logs[0]
    assert "6 reused, 0 generated" in finish(second, tmp_path / "second").logs[0]


def test_a_finished_run_leaves_everything_a_user_needs(job, tmp_path):
    run = job("run", samples={"steps": 2, "count": 2, "every": 4}, tracking={"tensorboard": True})
    finish(run, tmp_path / "run")
    folder = run_folder(run)
    for name in (
        "run.json",
        "history.jsonl",
        "samples/step-00000000/grid.png",
        "samples/step-00000004/0-1.png",
        "samples/step-00000008/grid.png",
        "samples/before-after.png",
        "export/model_index.json",
        "export/README.md",
    ):
        assert (folder / name).is_file(), name
    assert list((folder / "tensorboard").iterdir())


def test_without_prior_no_class_image_is_made(job, tmp_path):
    alone = job("alone", prior={"enabled": False, "cache": f"file://{tmp_path}/cache"})
    finish(alone, tmp_path / "alone")
    assert not (tmp_path / "cache").exists()
    assert all(line["prior_loss"] == 0 for line in history(alone))


NOWHERE = "file:///nowhere/at/all"
EXPLODING = {
    "learningRate": 1.0,
    "maxGradNorm": 0,
    "steps": 60,
    "optimizer": {"beta2": 0.0, "epsilon": 1e-30},
}
BAD = {
    "unknown field": (64, {"training": {"stepz": 3}}, "spec.training.stepz"),
    "odd batch": (64, {"training": {"globalBatch": 3}}, "spec.training.globalBatch"),
    "odd resolution": (64, {"training": {"resolution": 76}}, "spec.training.resolution"),
    "no images": (
        65,
        {"subjects": [{"identifier": "sks", "classNoun": "mug", "images": NOWHERE}]},
        "spec.subjects[0].images",
    ),
    "no such model": (66, {"model": {"source": "/nowhere/at/all"}}, "spec.model.source"),
    "loss explodes": (68, {"training": EXPLODING}, "spec.training.learningRate"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_job_ends_with_its_own_code_and_a_sentence_that_names_the_field(job, tmp_path, case):
    code, changes, words = BAD[case]
    nodes = 2 if case == "odd batch" else 1
    ended = run_ranks(job("bad", **changes), tmp_path / "bad", nodes=nodes)
    assert set(ended.codes) == {code}, "\n".join(ended.logs)
    assert words in ended.last_words
    assert words in ended.logs[0]


def test_an_attempt_that_was_overtaken_does_nothing(job, tmp_path):
    run = job("run")
    finish(run, tmp_path / "run", attempt=1)
    before = sorted(p.name for p in run_folder(run).rglob("*"))
    late = run_ranks(run, tmp_path / "run", attempt=0)
    assert late.codes == [69]
    assert "attempt 1 already owns" in late.last_words
    assert sorted(p.name for p in run_folder(run).rglob("*")) == before
