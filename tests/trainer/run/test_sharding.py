"""Ranks that have divided the denoiser (FSDP2) train the same model."""

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.ranks import SignalAtCall, final_state, history, run_folder, run_ranks

SHARDED = {"strategy": "fsdp"}
LORA = {
    "method": "lora",
    "lora": {"rank": 2},
    "optimizer": {"name": "prodigy"},
    "learningRate": 1.0,
}


def finish(job, folder, **how):
    ended = run_ranks(job, folder, **how)
    assert set(ended.codes) == {0}, "\n".join(ended.logs)


def losses(job):
    return torch.tensor([line["loss"] for line in history(job)])


def pngs(folder):
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*.png")}


@pytest.mark.parametrize(
    "training",
    [
        pytest.param({"ema": {"enabled": True}, "accumulation": 2}, id="full"),
        pytest.param(LORA, id="lora"),
        pytest.param(
            {"textEncoder": {"method": "full"}}, id="text-encoder", marks=pytest.mark.slow
        ),
    ],
)
def test_a_divided_model_learns_the_same_on_any_number_of_ranks(
    job, prior_cache, tmp_path, training
):
    whole = job("whole", training=training)
    finish(whole, tmp_path / "whole", nodes=2)

    # One batch of class images: the rank without any has to make the same passes.
    classes = {"cache": f"file://{tmp_path}/classes"}
    divided = job("divided", training=training, prior=classes, runtime=SHARDED)
    stopped = run_ranks(divided, tmp_path / "divided", stop_at_step=2)
    assert stopped.codes == [143], stopped.logs
    shutil.rmtree(tmp_path / "classes")
    finish(divided, tmp_path / "divided", nodes=2, attempt=1)
    made = pngs(tmp_path / "classes")
    assert len(made) == 6
    assert made.items() <= pngs(prior_cache).items()
    samples = [pngs(run_folder(each) / "samples" / "step-00000000") for each in (whole, divided)]
    assert samples[0] == samples[1]
    torch.testing.assert_close(losses(divided), losses(whole), rtol=1e-4, atol=1e-5)

    expected, found = final_state(whole), final_state(divided)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-2, atol=1e-3)
    exported, divided_export = (
        load_file(next((run_folder(each) / "export").rglob("*.safetensors")))
        for each in (whole, divided)
    )
    assert exported.keys() == divided_export.keys()
    for name, weight in exported.items():
        torch.testing.assert_close(divided_export[name], weight, rtol=1e-2, atol=1e-3)


def test_a_killed_divided_run_goes_on_undivided(job, tmp_path):
    """Two ranks have divided the denoiser, and are killed; a single one goes on."""
    training = {"ema": {"enabled": True}}
    whole = job("whole", training=training)
    finish(whole, tmp_path / "whole", nodes=2)

    divided = job("divided", training=training, runtime=SHARDED, checkpoints={"every": 2})
    kill = SignalAtCall(
        "dreambooth_trainer.training.module:DreamBooth.training_step", signal.SIGKILL, call=6
    )
    killed = run_ranks(divided, tmp_path / "divided", nodes=2, signal_at=kill)
    assert killed.codes[0] == -signal.SIGKILL, killed.logs
    finish(divided, tmp_path / "divided", attempt=1)
    resumed = json.loads((run_folder(divided) / "run.json").read_text())["attempts"][1]
    assert resumed["resumedFromStep"] in (2, 4)
    torch.testing.assert_close(losses(divided), losses(whole), rtol=1e-4, atol=1e-5)
    for name, tensor in final_state(whole).items():
        torch.testing.assert_close(final_state(divided)[name], tensor, rtol=1e-2, atol=1e-3)
