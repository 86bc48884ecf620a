"""LoRAs are merged into a whole model by one command."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from typer.testing import CliRunner

from dreambooth_api.models.model import Model, StartAdapter
from dreambooth_operator.cli.main import app
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.export.lora import KOHYA_FILE, export_lora
from dreambooth_trainer.export.merge import merge
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from tests.trainer.export.test_adapters import adapt, predict, train
from tests.trainer.export.test_export import ABOUT

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture
def lora(random_pipeline: Any, tmp_path: Path) -> Path:
    """A LoRA of UNet and text encoder; the pipeline has it."""
    train(adapt(random_pipeline, "lora"))
    export_lora(StableDiffusion(random_pipeline, ""), tmp_path / "lora", ABOUT)
    return tmp_path / "lora"


def load(folder: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)


def test_results_are_merged_with_weights(
    random_model: Path, random_pipeline: Any, lora: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged"
    arguments = ["merge", str(random_model), f"{lora}=0.5", f"{lora / KOHYA_FILE}=0.5"]
    state = ["--state", str(tmp_path / "state")]
    ended = CliRunner().invoke(app, [*arguments, "--out", str(out), *state])
    assert ended.exit_code == 0, ended.output
    # Two halves of the same LoRA are the whole one; the files are in fp16.
    merged = load(out).to(torch.float32)
    assert not torch.allclose(predict(load(random_model)), predict(merged), atol=0.1)
    torch.testing.assert_close(predict(merged), predict(random_pipeline), atol=5e-2, rtol=0)
    assert f"- {lora}, scale 0.5" in (out / "README.md").read_text()
    ended = CliRunner().invoke(app, [*arguments, "--out", str(out), *state])
    assert "there is something already; name another one" in str(ended.exception or ended.output)


def test_one_file_is_written_for_web_uis(random_model: Path, lora: Path, tmp_path: Path) -> None:
    model = Model(source=str(random_model), merged_adapters=[StartAdapter(source=str(lora))])
    merge(model, tmp_path / "one.safetensors", Storage(StorageSettings()))
    with safe_open(tmp_path / "one.safetensors", framework="pt") as file:
        assert "model.diffusion_model.input_blocks.0.0.weight" in file.keys()  # noqa: SIM118
        assert str(lora) in file.metadata()["dreambooth.merged_adapters"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora", "one.safetensors"]


def test_what_is_wrong_is_one_line(random_model: Path, tmp_path: Path) -> None:
    model = Model(
        source=str(random_model), merged_adapters=[StartAdapter(source="/no/no.safetensors")]
    )
    command = [sys.executable, "-m", "dreambooth_trainer.export.merge", model.model_dump_json()]
    ended = subprocess.run([*command, str(tmp_path / "out")], capture_output=True, text=True)
    assert ended.returncode == 66
    assert ended.stderr.splitlines()[-1] == (
        "spec.model.mergedAdapters[0].source: there is no file /no/no.safetensors; correct it, or"
        " copy the model"
    )
    assert not (tmp_path / "out").exists()
    ended = CliRunner().invoke(
        app, ["merge", str(random_model), "/no", "--out", str(tmp_path / "a")]
    )
    assert "/no: no such file or folder; name a LoRA on this machine" in str(ended.exception)
