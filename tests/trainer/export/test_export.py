import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreambooth_trainer.export.lora import LORA_FILE, export_lora
from dreambooth_trainer.export.model_card import model_card
from dreambooth_trainer.export.pipeline import export_pipeline
from dreambooth_trainer.export.provenance import Provenance
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion

ABOUT = Provenance(
    base_model="s3://models/tiny",
    base_model_sha256="ab" * 32,
    identifiers=("sks",),
    class_nouns=("coffee mug",),
    prompt='a photo of "sks" mug',
    step=120,
    resolution=64,
    sample_steps=2,
    guidance_scale=3.5,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline with random weights, as a folder."""
    torch.manual_seed(0)
    vocab = {token: i for i, token in enumerate(["<|startoftext|>", "<|endoftext|>", "a</w>"])}
    text = CLIPTextConfig(
        vocab_size=3, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=8, projection_dim=16,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    channels, blocks = (16, 16), ("DownBlock2D", "CrossAttnDownBlock2D")
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=16
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(vocab=vocab, merges=[], model_max_length=8),
        unet=UNet2DConditionModel(
            block_out_channels=channels, down_block_types=blocks, layers_per_block=1,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16,
            attention_head_dim=4, norm_num_groups=4, sample_size=16,
        ),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("base")
    pipeline.save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def pipeline(base: Path) -> Any:
    return load(base)


def image(pipeline: Any) -> Tensor:
    seed = torch.Generator().manual_seed(1)
    for part in (pipeline.unet, pipeline.text_encoder):
        part.eval()
    pixels = pipeline(
        "a a", num_inference_steps=2, generator=seed, height=16, width=16, output_type="pt"
    ).images
    found: Tensor = pixels
    return found


def adapt(module: Any, targets: list[str], seed: int, **options: Any) -> None:
    """Add adapters, and pretend that they were trained."""
    module.add_adapter(LoraConfig(r=4, target_modules=targets, **options))
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=draw) * 0.3


@pytest.mark.parametrize("alpha", [1, 4, 8, 2.5])
@pytest.mark.parametrize("targets", [["to_q", "to_v"], ["to_k", "to_out.0", "ff.net.2", "conv1"]])
def test_a_lora_makes_the_same_image_in_plain_diffusers(
    base: Path, pipeline: Any, tmp_path: Path, alpha: float, targets: list[str]
) -> None:
    before = image(pipeline)
    adapt(pipeline.unet, targets, 1, lora_alpha=alpha)
    trained = image(pipeline)
    assert not torch.allclose(trained, before, atol=1e-2)
    export_lora(StableDiffusion(pipeline, ""), tmp_path, ABOUT)
    plain = load(base)
    plain.load_lora_weights(tmp_path)
    assert torch.allclose(image(plain), trained, atol=1e-5)


def test_a_lora_of_both_parts_makes_the_same_image(
    base: Path, pipeline: Any, tmp_path: Path
) -> None:
    adapt(pipeline.unet, ["to_q"], 1, lora_alpha=2)
    only_unet = image(pipeline)
    adapt(pipeline.text_encoder, ["q_proj", "out_proj"], 2, lora_alpha=8)
    trained = image(pipeline)
    assert not torch.allclose(trained, only_unet, atol=1e-3)
    export_lora(StableDiffusion(pipeline, ""), tmp_path, ABOUT)
    plain = load(base)
    plain.load_lora_weights(tmp_path)
    assert torch.allclose(image(plain), trained, atol=1e-5)


def test_text_encoder_names_are_those_that_every_version_loads(
    pipeline: Any, tmp_path: Path
) -> None:
    adapt(pipeline.text_encoder, ["q_proj"], 2)
    export_lora(StableDiffusion(pipeline, ""), tmp_path, ABOUT)
    with safe_open(tmp_path / LORA_FILE, "pt") as file:
        names = set(file.keys())
    name = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    assert name in names


def test_a_text_encoder_and_a_tokenizer_that_transformers_4_loads(
    pipeline: Any, tmp_path: Path
) -> None:
    export_pipeline(StableDiffusion(pipeline, ""), tmp_path, ABOUT)
    weights = load_file(tmp_path / "text_encoder" / "model.safetensors")
    # Without the level "text_model", transformers 4 initializes every weight anew.
    assert {name.split(".")[0] for name in weights} == {"text_model"}
    loaded = CLIPTextModel.from_pretrained(tmp_path / "text_encoder")
    expected = pipeline.text_encoder.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, expected[name].half().float()), name
    # Its CLIPTokenizer reads these two, and no tokenizer.json.
    vocabulary = json.loads((tmp_path / "tokenizer" / "vocab.json").read_text())
    assert vocabulary == pipeline.tokenizer.get_vocab()
    assert (tmp_path / "tokenizer" / "merges.txt").read_text() == "#version: 0.2\n"


def test_merges_of_a_tokenizer_are_pairs_of_pieces(tmp_path: Path) -> None:
    model = Path(__file__).parents[3] / "examples" / "tiny-sd" / "model"
    export_pipeline(StableDiffusion(load(model), ""), tmp_path, ABOUT)
    header, *merges, end = (tmp_path / "tokenizer" / "merges.txt").read_text().split("\n")
    assert (header, end) == ("#version: 0.2", "")
    assert all(len(pair.split(" ")) == 2 for pair in merges)
    vocabulary = json.loads((tmp_path / "tokenizer" / "vocab.json").read_text())
    assert all(pair.replace(" ", "") in vocabulary for pair in merges)
    text = "a photo of sks mug"
    again = CLIPTokenizer(vocab=vocabulary, merges=[tuple(pair.split(" ")) for pair in merges])
    assert again(text).input_ids == load(model).tokenizer(text).input_ids


def test_without_adapters_there_is_no_lora(pipeline: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adapter"):
        export_lora(StableDiffusion(pipeline, ""), tmp_path, ABOUT)


def test_a_pipeline_makes_the_same_image_in_plain_diffusers(
    base: Path, pipeline: Any, tmp_path: Path
) -> None:
    before = image(pipeline)
    with torch.no_grad():
        for parameter in [*pipeline.unet.parameters(), *pipeline.text_encoder.parameters()]:
            # Values that fp16 holds exactly, so that the images may be compared closely.
            parameter.copy_((parameter * 1.1).half().float())
    trained = image(pipeline)
    assert not torch.allclose(trained, before, atol=1e-2)
    export_pipeline(StableDiffusion(pipeline, ""), tmp_path, ABOUT)
    assert torch.allclose(image(load(tmp_path)), trained, atol=1e-3)
    assert pipeline.unet.dtype == torch.float32
    for path in tmp_path.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118


def test_adapters_are_merged_into_an_exported_pipeline(pipeline: Any, tmp_path: Path) -> None:
    adapt(pipeline.text_encoder, ["q_proj", "v_proj"], 3, lora_alpha=8)
    trained = image(pipeline)
    export_pipeline(StableDiffusion(pipeline, ""), tmp_path, ABOUT, dtype=torch.float32)
    assert torch.allclose(image(load(tmp_path)), trained, atol=1e-4)
    assert torch.equal(image(pipeline), trained), "the export changed the pipeline"


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_all_parts_of_an_export_load_in_one_dtype(
    pipeline: Any, tmp_path: Path, dtype: torch.dtype | None
) -> None:
    export_pipeline(StableDiffusion(pipeline, ""), tmp_path, ABOUT)
    asked = {} if dtype is None else {"dtype": dtype}
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None, **asked)
    found = {part.dtype for part in (loaded.unet, loaded.vae, loaded.text_encoder)}
    assert found == {dtype or torch.float32}


@pytest.mark.parametrize("kind", ["lora", "pipeline"])
def test_an_export_says_where_it_comes_from(pipeline: Any, tmp_path: Path, kind: str) -> None:
    adapt(pipeline.unet, ["to_q"], 1)
    export = export_lora if kind == "lora" else export_pipeline
    export(StableDiffusion(pipeline, ""), tmp_path, ABOUT)
    for path in tmp_path.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        assert metadata["dreambooth.base_model"] == "s3://models/tiny"
        assert metadata["dreambooth.base_model_sha256"] == "ab" * 32
        assert json.loads(metadata["dreambooth.identifiers"]) == ["sks"]
        assert json.loads(metadata["dreambooth.class_nouns"]) == ["coffee mug"]
        assert metadata["license"] == "same-as-base-model"
        assert metadata["dreambooth.step"] == "120"
        assert metadata["dreambooth.version"]


def test_the_model_card_can_be_read_by_hubs(pipeline: Any, tmp_path: Path) -> None:
    adapt(pipeline.unet, ["to_q"], 1)
    export_lora(StableDiffusion(pipeline, ""), tmp_path, ABOUT)
    _, header, text = (tmp_path / "README.md").read_text().split("---\n", 2)
    fields = yaml.safe_load(header)
    assert fields["instance_prompt"] == ABOUT.prompt
    assert fields["base_model"] == "s3://models/tiny"
    assert "lora" in fields["tags"]
    assert '"sks coffee mug"' in text
    published = replace(ABOUT, base_model="hf://runs/sd")
    card = model_card(StableDiffusion(pipeline, ""), published, lora=True)
    assert card.count('"runs/sd"') >= 2
    code = text.split("```")[1].removeprefix("python\n")
    compile(code, "README.md", "exec")
