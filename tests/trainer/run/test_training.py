"""Whole runs of the trainer, in real processes: the training contract."""

import hashlib
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.checkpoint import CheckpointStore
from tests.trainer.checkpoint_saves import load
from tests.trainer.ranks import final_state, history, run_folder, run_ranks


def finish(job, folder, **how):
    ended = run_ranks(job, folder, **how)
    assert set(ended.codes) == {0}, "\n".join(ended.logs)
    return ended


@pytest.fixture(scope="module")
def kept():
    """The losses of the module's plain job on one rank, left by the first test that needs them."""
    return {}


@pytest.fixture
def steady_losses(kept, job, tmp_path):
    """Total, subject and prior loss of each step of `job()` without interruptions."""
    if not kept:
        plain = job("steady")
        finish(plain, tmp_path / "steady")
        kept["losses"] = losses(plain)
    return kept["losses"]


def losses(job):
    return torch.tensor(
        [[line["loss"], line["subject_loss"], line["prior_loss"]] for line in history(job)]
    )


def test_any_number_of_ranks_gives_the_same_loss_curve(job, steady_losses, tmp_path):
    weights = {}
    assert steady_losses.shape == (8, 3)
    assert steady_losses[:, 0].std() > 1e-3
    for nodes, per_node in ((4, 1), (2, 2), (1, 4)):
        split = job(f"{nodes}x{per_node}")
        finish(split, tmp_path / f"{nodes}x{per_node}", nodes=nodes, per_node=per_node)
        torch.testing.assert_close(losses(split), steady_losses, rtol=1e-4, atol=1e-5)
        weights[nodes, per_node] = final_state(split)
    assert torch.equal(
        weights[4, 1]["weight/denoiser.conv_in.weight"],
        weights[1, 4]["weight/denoiser.conv_in.weight"],
    )


def test_accumulation_changes_nothing_but_memory(job, steady_losses, tmp_path):
    parts = job("parts", training={"accumulation": 2})
    finish(parts, tmp_path / "parts")
    torch.testing.assert_close(losses(parts), steady_losses, rtol=1e-4, atol=1e-5)


VARIANTS = {
    "lora-schedule-free": {
        "method": "lora",
        "lora": {"rank": 4, "dropout": 0.2},
        "precision": "bf16",
        "optimizer": {"name": "schedule-free-adamw"},
    },
    "lora-ema-accumulation-prodigy": {
        "method": "lora",
        "lora": {"rank": 2},
        "ema": {"enabled": True},
        "accumulation": 2,
        "minSnrGamma": 5.0,
        "optimizer": {"name": "prodigy"},
        "learningRate": 1.0,
    },
    "full": {"accumulation": 4},
    "full-ema": {"ema": {"enabled": True}, "minSnrGamma": 5.0, "noiseOffset": 0.1},
    "text-encoder-muon": {
        "textEncoder": {"method": "full", "stopFraction": 0.75},
        "optimizer": {"name": "muon"},
        "schedule": {"name": "cosine", "warmupSteps": 2},
        "captionDropout": 0.3,
        "accumulation": 2,
        "crop": "random",
    },
    "pissa-convolutions": {
        "method": "lora",
        "lora": {"rank": 2, "alpha": 1, "init": "pissa", "targetPreset": "convolutions"},
        "textEncoder": {"method": "lora"},
    },
    "dora": {"method": "lora", "lora": {"type": "dora", "dropout": 0.2}, "precision": "bf16"},
    "lokr-ema": {
        "method": "lora",
        "lora": {"type": "lokr", "rankPattern": {"to_q": 2}},
        "ema": {"enabled": True},
        "gradientCheckpointing": True,
    },
    "lora-text-lora-adafactor": {
        "method": "lora",
        "textEncoder": {"method": "lora", "learningRate": 5e-4},
        "optimizer": {"name": "adafactor"},
    },
}


PRIORS = {
    "full": {"target": "noise", "emptyPromptFraction": 0.0},
    "lora-ema-accumulation-prodigy": {"count": 0},
}
"""Of variants whose class half is not that of the other jobs here."""


SLOW = {"full-ema", "pissa-convolutions", "dora", "lokr-ema"}
"""Variants whose parts the others have too."""


@pytest.mark.parametrize(
    "variant",
    [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in VARIANTS],
)
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(job, tmp_path, variant):
    changes = {"training": VARIANTS[variant], "prior": PRIORS.get(variant, {})}
    steady = job("steady", **changes)
    finish(steady, tmp_path / "steady")

    broken = job("broken", **changes)
    stopped = run_ranks(broken, tmp_path / "broken", stop_at_step=3)
    assert stopped.codes == [143], stopped.logs
    checkpoint = stopped.termination.checkpoint
    assert checkpoint is not None
    assert checkpoint.uri.startswith(f"file://{run_folder(broken)}/checkpoints/step-")
    finish(broken, tmp_path / "broken", attempt=1)

    expected, found = final_state(steady), final_state(broken)
    assert expected.keys() == found.keys()
    different = [name for name in expected if not torch.equal(expected[name], found[name])]
    assert different == []
    assert [line["step"] for line in history(broken)] == list(range(1, 9))
    assert [line["loss"] for line in history(broken)] == [line["loss"] for line in history(steady)]


def test_all_ranks_stop_at_one_step_and_another_number_of_ranks_goes_on(
    job, steady_losses, tmp_path
):
    broken = job("broken")
    stopped = run_ranks(broken, tmp_path / "broken", nodes=2, stop_at_step=2)
    assert stopped.codes == [143, 143], stopped.logs
    finish(broken, tmp_path / "broken", attempt=1)
    torch.testing.assert_close(losses(broken), steady_losses, rtol=0, atol=1e-5)


def test_an_attempt_that_was_suspended_goes_on_under_its_number_with_fewer_nodes(
    job, steady_losses, tmp_path
):
    on_two, on_one = (job("moved", runtime={"nodes": nodes}) for nodes in (2, 1))
    stopped = run_ranks(on_two, tmp_path / "moved", nodes=2, attempt=3, stop_at_step=2)
    assert stopped.codes == [143, 143], stopped.logs
    finish(on_one, tmp_path / "moved", attempt=3)
    assert [line["step"] for line in history(on_one)] == list(range(1, 9))
    torch.testing.assert_close(losses(on_one), steady_losses, rtol=0, atol=1e-5)


def test_without_a_global_batch_a_run_keeps_the_batch_that_it_began_with(job, tmp_path):
    training = {
        "method": "lora", "steps": 4, "resolution": 64, "precision": "fp32", "perDeviceBatch": 2
    }  # fmt: skip
    changes = {"prior": {"enabled": False}}

    def on(nodes, uid):
        made = job(uid, runtime={"nodes": nodes}, **changes)
        made["spec"]["training"] = training
        return made

    finish(on(2, "steady"), tmp_path / "steady", nodes=2)
    stopped = run_ranks(on(2, "moved"), tmp_path / "moved", nodes=2, stop_at_step=1)
    assert stopped.codes == [143, 143], stopped.logs
    finish(on(1, "moved"), tmp_path / "moved", attempt=1)
    moved, steady = (history(on(1, uid)) for uid in ("moved", "steady"))
    assert json.loads((run_folder(on(1, "moved")) / "run.json").read_text())["globalBatch"] == 4
    torch.testing.assert_close(
        torch.tensor([line["loss"] for line in moved]),
        torch.tensor([line["loss"] for line in steady]),
        rtol=0,
        atol=1e-5,
    )


def test_the_next_job_of_the_class_generates_no_class_images(job, tmp_path):
    prior = {"cache": f"file://{tmp_path}/cache"}
    first, second = (
        job(uid, prior=prior, training={"method": "lora", "steps": 1})
        for uid in ("first", "second")
    )
    assert "0 reused, 6 generated" in finish(first, tmp_path / "first").logs[0]
    assert "6 reused, 0 generated" in finish(second, tmp_path / "second").logs[0]


def test_a_finished_run_leaves_everything_a_user_needs(job, tmp_path):
    run = job(
        "run", training={"steps": 2}, samples={"steps": 2, "count": 2, "every": 1},
        tracking={"tensorboard": True},
    )  # fmt: skip
    finish(run, tmp_path / "run")
    folder = run_folder(run)
    for name in (
        "run.json",
        "history.jsonl",
        "samples/step-00000000/grid.png",
        "samples/step-00000001/0-1.png",
        "samples/step-00000002/grid.png",
        "samples/before-after.png",
        "export/model_index.json",
        "export/README.md",
    ):
        assert (folder / name).is_file(), name
    assert list((folder / "tensorboard").iterdir())


def test_a_run_records_what_its_model_filled_in(job, tmp_path):
    run = job("run", training={"method": "lora", "steps": 1, "resolution": None})
    finish(run, tmp_path / "run", nodes=2)
    spec = json.loads((run_folder(run) / "run.json").read_text())["job"]["spec"]
    assert spec["training"]["resolution"] == 64
    assert spec["training"]["lora"]["targets"] == ["to_q", "to_k", "to_v", "to_out.0"]
    assert (spec["samples"]["sampler"], spec["prior"]["guidanceScale"]) == ("dpm-solver++", 7.5)


def test_class_images_are_trained_on_with_their_own_captions(job, tmp_path):
    (tmp_path / "own").mkdir()
    for number in range(2):
        Image.new("RGB", (64, 64), (200, 9, 40 * number)).save(tmp_path / f"own/{number}.png")
    (tmp_path / "own/1.txt").write_text("a red mug")
    prior = {
        "images": f"file://{tmp_path}/own", "count": 5, "prompt": "the {class}",
        "prompts": ["a photo of a {class}", "a {class} on grass"],
    }  # fmt: skip
    run = job("run", prior=prior, training={"method": "lora", "steps": 2})
    finish(run, tmp_path / "run", nodes=2)
    captions = ["the mug", "a red mug", "a photo of a mug", "a mug on grass", "a photo of a mug"]
    record = json.loads((run_folder(run) / "run.json").read_text())
    expected = hashlib.sha256("\n".join(captions).encode()).hexdigest()
    assert record["hashes"]["class mug: captions"] == expected


def test_without_class_images_the_class_prompt_of_the_subject_s_images_is_kept(job, tmp_path):
    prior = {"count": 0, "cache": f"file://{tmp_path}/cache"}
    few = job("few", prior=prior, training={"method": "lora", "lora": {"rank": 4}, "steps": 3})
    finish(few, tmp_path / "few")
    assert not (tmp_path / "cache").exists()
    losses = [line["prior_loss"] for line in history(few)]
    assert losses[0] < 1e-8  # adapters begin as the base model
    assert losses[-1] > 1e-8
    record = json.loads((run_folder(few) / "run.json").read_text())
    assert record["hashes"]["class mug/0.png"] == record["hashes"]["sks/0.png"]


def test_without_prior_no_class_image_is_made(job, tmp_path):
    prior = {"enabled": False, "cache": f"file://{tmp_path}/cache"}
    alone = job("alone", prior=prior, training={"steps": 2})
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
    assert words in ended.termination.message
    assert words in ended.logs[0]


def test_rules_that_came_later_do_not_end_a_job_that_has_begun(job, tmp_path):
    # With the next fault, too, so that it ends at once.
    changes = {"training": {"captionDropout": 1}, "model": {"source": "/nowhere/at/all"}}
    begins = run_ranks(job("begins", **changes), tmp_path / "begins")
    assert "spec.training.captionDropout" in begins.termination.message
    goes_on = run_ranks(job("begins", **changes), tmp_path / "goes-on", attempt=1)
    assert goes_on.codes == [66], goes_on.logs[0]
    assert "captionDropout" not in goes_on.termination.message


def test_a_resumed_job_may_ask_for_other_samples_and_more_steps(job, tmp_path):
    first = job("run", training={"method": "lora", "steps": 4})
    stopped = run_ranks(first, tmp_path / "run", stop_at_step=1)
    assert stopped.codes == [143], stopped.logs
    prompts = ["a photo of sks mug", "sks mug on the moon"]
    again = job(
        "run", training={"method": "lora", "steps": 5}, samples={"prompts": prompts, "count": 2}
    )
    finish(again, tmp_path / "run", attempt=1)
    for step in (0, 5):
        images = (run_folder(again) / "samples" / f"step-{step:08d}").glob("?-?.png")
        assert sorted(p.name for p in images) == ["0-0.png", "0-1.png", "1-0.png", "1-1.png"]
    before = run_folder(again) / "samples" / "step-00000000" / "0-0.png"
    plain = job("plain", training={"method": "lora", "steps": 1}, samples={"prompts": prompts})
    finish(plain, tmp_path / "plain")
    untrained = run_folder(plain) / "samples" / "step-00000000" / "0-0.png"
    assert before.read_bytes() == untrained.read_bytes()
    assert [line["step"] for line in history(again)] == list(range(1, 6))


def test_a_job_that_was_changed_in_earnest_does_not_go_on(job, tmp_path):
    first = job("run", training={"steps": 4})
    assert run_ranks(first, tmp_path / "run", nodes=2, stop_at_step=1).codes == [143, 143]
    before = sorted((run_folder(first) / "checkpoints").rglob("manifest.json"))
    other = job("run", training={"steps": 4, "seed": 9, "learningRate": 2e-3})
    refused = run_ranks(other, tmp_path / "run", nodes=2, attempt=1)
    assert refused.codes == [64, 64], refused.logs
    assert "spec.training.seed: 0 then, 9 now" in refused.termination.message
    assert "spec.training.learningRate: 0.001 then, 0.002 now" in refused.termination.message
    assert sorted((run_folder(first) / "checkpoints").rglob("manifest.json")) == before
    finish(first, tmp_path / "run", attempt=2)


def test_with_other_images_a_job_does_not_go_on(job, subject, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(subject, images)
    subjects = [{"identifier": "sks", "classNoun": "mug", "images": f"file://{images}"}]
    run = job("run", subjects=subjects, training={"steps": 4})
    assert run_ranks(run, tmp_path / "run", stop_at_step=1).codes == [143]
    (images / "3.png").unlink()
    (images / "1.png").write_bytes((subject / "3.png").read_bytes())
    refused = run_ranks(run, tmp_path / "run", attempt=1)
    assert refused.codes == [64], refused.logs
    assert "sks/1.png: has changed" in refused.termination.message
    assert "sks/3.png: was removed" in refused.termination.message


def test_an_attempt_that_was_overtaken_does_nothing(job, tmp_path):
    run = job("run", training={"steps": 1})
    finish(run, tmp_path / "run", attempt=1)
    before = sorted(p.name for p in run_folder(run).rglob("*"))
    late = run_ranks(run, tmp_path / "run", attempt=0)
    assert late.codes == [69]
    assert "attempt 1 already owns" in late.termination.message
    assert sorted(p.name for p in run_folder(run).rglob("*")) == before


def test_a_text_encoder_stops_on_all_ranks_and_each_step_reports_its_own_rate(job, tmp_path):
    training = {
        "textEncoder": {"method": "full", "stopFraction": 0.5},
        "schedule": {"name": "linear", "warmupSteps": 2},
    }
    run = job("text", training=training, checkpoints={"every": 4, "keep": 2})
    finish(run, tmp_path / "run", nodes=2)
    rates = [line["learning_rate"] / 1e-3 for line in history(run)]
    assert rates == pytest.approx([1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    store = CheckpointStore(
        Storage(StorageSettings(None, None, "auto")), f"file://{run_folder(run)}/checkpoints"
    )
    half, end = (load(store, reference) for reference in store.checkpoints())
    moved = {name for name in half if not torch.equal(half[name], end[name])}
    assert any(name.startswith("weight/denoiser") for name in moved)
    assert [name for name in moved if "/text_encoder." in name] == []


def test_a_lora_with_a_trained_text_encoder_is_merged_into_the_base_as_it_was(
    job, random_model, tmp_path
):
    training = {
        "method": "lora",
        "precision": "bf16",
        "steps": 2,
        "textEncoder": {"method": "full"},
    }
    run = job("merged", training=training)
    finish(run, tmp_path / "run")
    file = "unet/diffusion_pytorch_model.safetensors"
    base, exported = load_file(random_model / file), load_file(run_folder(run) / "export" / file)
    changed = {n for n, value in base.items() if not torch.equal(value.half(), exported[n])}
    assert changed
    assert all(
        any(f".{t}." in name for t in ("to_q", "to_k", "to_v", "to_out.0")) for name in changed
    )
