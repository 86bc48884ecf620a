"""Runs that learn words: alone (textual inversion), and beside a LoRA (pivotal tuning)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.conftest import MakeJob
from tests.trainer.families.conftest import build
from tests.trainer.ranks import final_state, history, run_folder, run_ranks
from tests.trainer.run.test_generate import pixels
from tests.trainer.run.test_generate import run as generate_images

ROWS = "text_encoder.tokens.embedding.weight"


def finish(config: dict[str, Any], logs: Path, **how: Any) -> None:
    ended = run_ranks(config, logs, **how)
    assert set(ended.codes) == {0}, "\n".join(ended.logs)


@pytest.fixture
def learning(job: MakeJob, subject: Path) -> MakeJob:
    """Makes jobs of four steps whose identifier is learned."""

    def make(uid: str, method: str, vectors: int = 2, **changes: Any) -> dict[str, Any]:
        word = {"identifier": "sks", "classNoun": "mug", "images": f"file://{subject}"}
        training = {
            "method": method,
            "steps": 4,
            "tokenLearningRate": 1e-2,
            "lora": {"rank": 2},
            # One caption in four is replaced by the empty one, of which no rank learns a word.
            "captionDropout": 0.25,
            **changes.pop("training", {}),
        }
        prior = {} if method == "lora" else {"prior": {"enabled": False}}
        token = {"vectors": vectors, "initializer": "cup"}
        return job(uid, training=training, subjects=[{**word, "token": token}], **prior, **changes)

    return make


@pytest.mark.parametrize(("method", "family"), [("lora", "sdxl"), ("textual-inversion", None)])
def test_ranks_and_interruptions_change_nothing(
    learning: MakeJob, tmp_path: Path, method: str, family: str | None
) -> None:
    model = {"model": {"source": str(build(family))}} if family else {}
    alone, together, stopped = (
        learning(uid, method, **model) for uid in ("alone", "together", "stopped")
    )
    finish(alone, tmp_path / "alone")
    finish(together, tmp_path / "together", per_node=2)
    losses = [torch.tensor([line["loss"] for line in history(each)]) for each in (alone, together)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)
    ended = run_ranks(stopped, tmp_path / "stopped", stop_at_step=1)
    assert ended.codes == [143]
    finish(stopped, tmp_path / "resumed", attempt=1)
    expected, state = final_state(alone), final_state(stopped)
    assert expected.keys() == state.keys()
    assert all(state[name].equal(tensor) for name, tensor in expected.items())
    assert any("lora_A" in name for name in state) == (method == "lora")

    # The export holds the learned rows, and makes the images of the model that was trained.
    export = run_folder(alone) / "export"
    assert (export / "pytorch_lora_weights.safetensors").exists() == (method == "lora")
    rows = load_file(export / "embeddings" / "sks.safetensors")
    assert rows["clip_l" if family else "emb_params"].equal(state[f"weight/{ROWS}"])
    generate_images(alone, tmp_path / "images", prompts=["a photo of sks mug"], count=1, seed=42)
    [image] = (tmp_path / "images").glob("a-photo-of-sks-mug-42.png")
    sample = run_folder(alone) / "samples/step-00000004/0-0.png"
    np.testing.assert_array_equal(pixels(image), pixels(sample))
