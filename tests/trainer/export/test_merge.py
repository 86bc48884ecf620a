"""LoRAs are merged into a whole model by one command."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from dreambooth_api.models.model import Model, StartAdapter
from dreambooth_operator.cli.main import app
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.export.lora import KOHYA_FILE, export_lora
from dreambooth_trainer.export.merge import merge
from dreambooth_trainer.export.pipeline import SINGLE_FILE, write_pipeline
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.models.tokens.learn import add_words, token_rows
from dreambooth_trainer.models.tokens.names import LearnedWord
from dreambooth_trainer.process.errors import BadConfigError
from tests.trainer.export.test_adapters import adapt, predict, train
from tests.trainer.export.test_export import ABOUT
from tests.trainer.families.conftest import build, load_plain
from tests.trainer.families.conftest import load as load_family

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


@pytest.fixture(params=["sd", "sdxl"])
def base(request: pytest.FixtureRequest) -> Path:
    """A model whose text encoders learn tokens."""
    if request.param == "sdxl":
        return build("sdxl")
    folder: Path = request.getfixturevalue("random_model")
    return folder


def test_all_vectors_of_a_merged_token_are_read(base: Path, tmp_path: Path) -> None:
    """As plain diffusers reads them: `maybe_convert_prompt` replaces the word by all its tokens."""
    family = load_family(base)
    add_words(family, [LearnedWord("sks", "cup", 2), LearnedWord("<one>", "cup")])
    for rows in token_rows(family).values():
        rows.data = torch.randn(rows.shape)
    export_lora(family, tmp_path / "result", ABOUT)
    merge(
        Model(source=str(base)),
        tmp_path / "merged",
        Storage(StorageSettings()),
        [tmp_path / "result"],
    )
    merged = load_family(tmp_path / "merged")
    prompts = ["a photo of a sks mug", "a <one> mug", "a mug"]
    pipe = load_plain(tmp_path / "merged")
    arguments = {"device": "cpu", "num_images_per_prompt": 1}
    states, *others = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, **arguments)
    found = merged.encode_prompts(prompts)
    torch.testing.assert_close(found["hidden_states"], states)
    if "pooled" in found:
        torch.testing.assert_close(found["pooled"], others[1])
    assert merged.count_tokens("sks") == 4  # with start and end

    # Nor does a word that is learned beside it change it, or an export have a file without names.
    add_words(merged, [LearnedWord("new", "cup", 2)])
    assert merged.encode_prompts(prompts)["hidden_states"].equal(found["hidden_states"])
    write_pipeline(load_family(tmp_path / "merged"), tmp_path / "full", {})
    assert not (tmp_path / "full" / SINGLE_FILE).exists()


def test_a_learned_token_becomes_one_of_the_model(random_model: Path, tmp_path: Path) -> None:
    family = StableDiffusion(load(random_model), "")
    add_words(family, [LearnedWord("<my-mug>", "cup", 2)])
    for rows in token_rows(family).values():
        rows.data = torch.randn(rows.shape)
    prompts = ["a <my-mug> mug", "a mug"]
    expected = family.encode_prompts(prompts)["hidden_states"]
    export_lora(family, tmp_path / "result", ABOUT)
    model = Model(source=str(random_model))
    storage, token = Storage(StorageSettings()), [tmp_path / "result"]
    with pytest.raises(BadConfigError, match="one file has no place for the names of"):
        merge(model, tmp_path / "one.safetensors", storage, token)
    merge(model, tmp_path / "merged", storage, token)
    assert "`<my-mug>`" in (tmp_path / "merged" / "README.md").read_text()
    plain = load(tmp_path / "merged").to(torch.float32)
    states, _ = plain.encode_prompt(prompts, "cpu", 1, False)
    torch.testing.assert_close(states, expected, atol=1e-2, rtol=0)  # the files are in fp16
    again = Model(source=str(tmp_path / "merged"))
    with pytest.raises(BadConfigError, match="the model has a token <my-mug> already"):
        merge(again, tmp_path / "again", storage, token)
    rows = {"emb_params": torch.randn(1, 16)}
    save_file(rows, tmp_path / "<my-mug>_2.safetensors")
    with pytest.raises(BadConfigError, match="_2 would be read as one more vector of the token <"):
        merge(again, tmp_path / "again", storage, [tmp_path / "<my-mug>_2.safetensors"])
