"""Runs that begin with LoRAs: merged into the base model, and trained further."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.export.lora import LORA_FILE, export_lora
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.preflight.check import check_job
from tests.trainer.conftest import MakeJob
from tests.trainer.export.test_adapters import adapt, predict, train
from tests.trainer.export.test_export import ABOUT
from tests.trainer.ranks import run_folder, run_ranks

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

LORA: dict[str, Any] = {"method": "lora", "steps": 2, "learningRate": 1e-6, "globalBatch": 2}
PRIOR = {"enabled": False}
SETTINGS = {"targetPreset": "attention", "rankPattern": {}, "alphaPattern": {}}


@pytest.fixture
def style(random_model: Path, tmp_path: Path) -> Path:
    """A LoRA of the UNet and the text encoder, with the names of kohya."""
    pipeline = plain(random_model)
    train(adapt(pipeline, "lora", **SETTINGS))
    export_lora(StableDiffusion(pipeline, ""), tmp_path / "style", ABOUT)
    return tmp_path / "style" / "kohya_lora.safetensors"


def plain(model: Path) -> Any:
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.requires_grad_(False)
    return pipeline


def finish(job: dict[str, Any], folder: Path, **how: Any) -> Path:
    """The folder of a run that ends well."""
    ended = run_ranks(job, folder, **how)
    assert set(ended.codes) == {0}, "\n".join(ended.logs)
    return Path(run_folder(job))


def test_a_lora_is_trained_further_on_any_number_of_ranks(
    job: MakeJob, random_model: Path, style: Path, tmp_path: Path
) -> None:
    model = {"adapter": {"source": str(style)}}
    training = {**LORA, "textEncoder": {"method": "lora"}}
    results = []
    for ranks in (1, 2):
        one = job(f"ranks-{ranks}", model=model, training=training, prior=PRIOR)
        folder = finish(one, tmp_path / str(ranks), per_node=ranks)
        record = json.loads((folder / "run.json").read_text())
        assert len(record["hashes"]["adapter"]) == 64
        assert record["job"]["spec"]["training"]["lora"]["rank"] == 4
        results.append(load_file(folder / "export" / LORA_FILE))
    # At this learning rate, two steps change next to nothing: it is the LoRA that it began with.
    expected = load_file(style.parent / LORA_FILE)
    assert results[0].keys() == expected.keys()
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-4)
        torch.testing.assert_close(tensor, results[1][name], rtol=0, atol=1e-5)
    assert any(not tensor.equal(expected[name]) for name, tensor in results[0].items())


def test_a_lora_on_top_of_merged_ones_draws_the_same_by_the_code_of_its_card(
    job: MakeJob, random_model: Path, style: Path, tmp_path: Path
) -> None:
    merged = [{"source": str(style), "scale": 0.5}]
    one = job(
        "top",
        model={"mergedAdapters": merged},
        training={**LORA, "learningRate": 1e-2, "lora": {"rank": 4}},
        prior=PRIOR,
    )
    folder = finish(one, tmp_path / "top")
    card = (folder / "export" / "README.md").read_text()
    code = f'pipe.load_lora_weights("{style}")\npipe.fuse_lora(lora_scale=0.5)\n'
    assert code in card
    assert f'- Merged into it before training: "{style}", scale 0.5' in card
    assert f'at their strengths: "{style}" (0.5)' in card
    [note] = [n for n in json.loads((folder / "run.json").read_text())["notes"] if "merged" in n]
    assert note.startswith("spec.model.mergedAdapters: the LoRA that is trained needs them too")

    whole = job(
        "whole", model={"mergedAdapters": merged}, training={**LORA, "method": "full"}, prior=PRIOR
    )
    exported = plain(finish(whole, tmp_path / "whole") / "export")
    fused = plain(random_model)
    before = predict(fused)
    fused.load_lora_weights(style)
    fused.fuse_lora(lora_scale=0.5)
    fused.unload_lora_weights()
    assert not torch.allclose(before, predict(fused), atol=1e-1)
    # The export is in fp16, and was trained for two small steps.
    torch.testing.assert_close(
        predict(exported.to(torch.float32)), predict(fused), atol=5e-2, rtol=0
    )


def errors(job: dict[str, Any]) -> list[str]:
    report = check_job(DreamBoothJob.model_validate(job), Storage(StorageSettings()))
    return [str(each) for each in report.errors]


def test_preflight_refuses_what_does_not_fit(job: MakeJob, style: Path) -> None:
    model = {"adapter": {"source": str(style)}}
    assert errors(job(model=model, training=LORA)) == [
        "spec.training.textEncoder.method: frozen, but spec.model.adapter has layers of the text"
        " encoder; set it to lora to train them further"
    ]
    text = {"textEncoder": {"method": "lora"}}
    assert errors(job(model=model, training={**LORA, **text})) == []
    assert errors(job(model=model, training={**LORA, **text, "lora": {"rank": 8}})) == [
        "spec.training.lora.rank: 8, but spec.model.adapter has the rank 4, which it keeps; remove"
        " rank"
    ]
    missing = {"mergedAdapters": [{"source": str(style)}, {"source": "/no/such.safetensors"}]}
    assert errors(job(model=missing, training=LORA)) == [
        "spec.model.mergedAdapters[1].source: there is no file /no/such.safetensors; correct it, or"
        " copy the model"
    ]
