"""Every type of adapter draws the same after its export: in diffusers, in peft and in web UIs."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dreambooth_trainer.export.lora import KOHYA_FILE, LORA_FILE, export_lora, load_adapters
from dreambooth_trainer.export.pipeline import export_pipeline
from dreambooth_trainer.models.adapters.trainable import TrainableParameters, make_trainable
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.process.errors import BadModelError
from tests.trainer.export.test_export import ABOUT
from tests.trainer.resolved import resolve_training

# peft asks transformers about it by its former name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TYPES: dict[str, dict[str, Any]] = {
    "lora": {"type": "lora"},
    "rslora": {"type": "lora", "rslora": True},
    "dora": {"type": "dora"},
    "pissa": {"type": "lora", "init": "pissa"},
    "lokr": {"type": "lokr", "decomposeFactor": 4},
    "loha": {"type": "loha"},
}
DIFFUSERS = ("lora", "rslora", "dora", "pissa")
PATTERNS = {"rankPattern": {"to_k": 3, "down_blocks.*.to_k": 2}, "alphaPattern": {"to_q": 5}}


def adapt(pipeline: Any, name: str, **settings: Any) -> TrainableParameters:
    """Add adapters whose alpha is not their rank, to linear layers and convolutions."""
    lora = {"rank": 4, "alpha": 2, "targetPreset": "convolutions", **PATTERNS, **TYPES[name]}
    training = {
        "method": "lora",
        "textEncoder": {"method": "lora"},
        "precision": "fp32",
        "lora": {**lora, **settings},
    }
    return make_trainable(StableDiffusion(pipeline, "hash"), resolve_training(training))


def train(trained: TrainableParameters) -> None:
    """Change the adapters, as training would."""
    draw = torch.Generator().manual_seed(5)
    for parameter in trained.all.values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=draw)


def predict(pipeline: Any) -> Tensor:
    """What the UNet predicts for a caption, [1, 4, 16, 16]."""
    seeded = torch.Generator().manual_seed(1)
    noisy = torch.randn(1, 4, 16, 16, generator=seeded)
    ids = torch.tensor([[0, 5, 7, 1]])
    pipeline.text_encoder.eval()
    with torch.no_grad():
        states = pipeline.text_encoder(ids).last_hidden_state
        found: Tensor = pipeline.unet.eval()(noisy, torch.tensor([300]), states).sample
    return found


def weights(pipeline: Any) -> dict[str, Tensor]:
    """Weights of linear layers and convolutions, by the names that kohya gives the modules."""
    return {
        f"{prefix}_{name.removeprefix('text_model.')}".replace(".", "_"): module.weight.detach()
        for prefix, part in (
            ("lora_unet", pipeline.unet),
            ("lora_te_text_model", pipeline.text_encoder),
        )
        for name, module in part.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }


@pytest.mark.parametrize("name", TYPES)
def test_adapters_start_at_the_base_model(random_pipeline: Any, name: str) -> None:
    before = predict(random_pipeline)
    adapt(random_pipeline, name)
    torch.testing.assert_close(predict(random_pipeline), before, rtol=1e-4, atol=1e-5)


def test_magnitudes_of_dora_are_not_rounded_as_the_base_is(random_pipeline: Any) -> None:
    random_pipeline.unet.to(torch.bfloat16)
    trained = adapt(random_pipeline, "dora").denoiser
    name = "down_blocks.0.resnets.0.conv1"
    base = random_pipeline.unet.get_submodule(name).base_layer.weight
    magnitude = trained[f"denoiser.{name}.lora_magnitude_vector.default.weight"]
    torch.testing.assert_close(magnitude.flatten(), base.float().flatten(1).norm(dim=1))


@pytest.mark.parametrize("name", TYPES)
def test_exported_adapters_predict_the_same_with_the_original_base(
    random_pipeline: Any, tmp_path: Path, name: str
) -> None:
    plain = copy.deepcopy(random_pipeline)
    train(adapt(random_pipeline, name))
    trained = predict(random_pipeline)
    assert (trained - predict(plain)).abs().mean() > 1e-2
    export_lora(StableDiffusion(random_pipeline, ""), tmp_path, ABOUT)
    assert (tmp_path / LORA_FILE).exists() == (name in DIFFUSERS)
    if name in DIFFUSERS:
        plain.load_lora_weights(tmp_path)
    else:
        PeftModel.from_pretrained(plain.unet, tmp_path / "peft/unet")
        PeftModel.from_pretrained(plain.text_encoder, tmp_path / "peft/text_encoder")
    torch.testing.assert_close(predict(plain), trained, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TYPES)
def test_a_pipeline_has_the_adapters_in_its_weights(
    random_pipeline: Any, tmp_path: Path, name: str
) -> None:
    plain = copy.deepcopy(random_pipeline)
    train(adapt(random_pipeline, name))
    trained = predict(random_pipeline)
    export_pipeline(StableDiffusion(random_pipeline, ""), tmp_path, ABOUT, dtype=torch.float32)
    merged = type(plain).from_pretrained(tmp_path, safety_checker=None)
    torch.testing.assert_close(predict(merged), trained, rtol=1e-4, atol=1e-4)
    assert torch.equal(predict(random_pipeline), trained)


def changed(file: dict[str, Tensor], module: str, base: Tensor) -> Tensor:
    """A weight with a module's adapter, as ComfyUI's weight adapters define them."""

    def get(name: str) -> Tensor:
        return file[f"{module}.{name}"]

    alpha = float(get("alpha"))
    if f"{module}.hada_w1_a" in file:
        scale = alpha / get("hada_w1_b").shape[0]
        first = get("hada_w1_a") @ get("hada_w1_b")
        second = get("hada_w2_a") @ get("hada_w2_b")
        return base + scale * (first * second).reshape(base.shape)
    if f"{module}.lokr_w1" in file:
        small, scale = get("lokr_w1"), 1.0
        if f"{module}.lokr_w2" in file:
            large = get("lokr_w2").flatten(1)
        else:
            large = get("lokr_w2_a") @ get("lokr_w2_b")
            scale = alpha / get("lokr_w2_b").shape[0]
        # Block [i, j] of a Kronecker product is small[i, j] times large.
        blocks = small[:, None, :, None] * large[None, :, None, :]
        return base + scale * blocks.reshape(base.shape)
    up, down = get("lora_up.weight"), get("lora_down.weight")
    weight = base + alpha / len(down) * (up.flatten(1) @ down.flatten(1)).reshape(base.shape)
    if f"{module}.dora_scale" in file:
        scales = get("dora_scale")
        assert scales.shape == (len(base), *[1] * (base.ndim - 1))
        lengths = base.flatten(1).norm(dim=1).reshape(scales.shape)
        weight = weight * (scales / lengths)
    return weight


@pytest.mark.parametrize("name", TYPES)
def test_web_uis_reconstruct_the_trained_weights(
    random_pipeline: Any, tmp_path: Path, name: str
) -> None:
    plain = copy.deepcopy(random_pipeline)
    train(adapt(random_pipeline, name))
    trained = predict(random_pipeline)
    export_lora(StableDiffusion(random_pipeline, ""), tmp_path, ABOUT)
    file = load_file(tmp_path / KOHYA_FILE)
    bases = weights(plain)
    modules = {key.split(".")[0] for key in file}
    assert modules <= bases.keys()
    assert any(module.endswith("_conv1") for module in modules)
    assert any(module.startswith("lora_te_") for module in modules)
    for module in modules:
        bases[module].copy_(changed(file, module, bases[module]))
    torch.testing.assert_close(predict(plain), trained, rtol=1e-4, atol=1e-4)


def test_the_alpha_of_rslora_is_one_for_tools_that_divide_by_the_rank(
    random_pipeline: Any, tmp_path: Path
) -> None:
    adapt(random_pipeline, "rslora")
    export_lora(StableDiffusion(random_pipeline, ""), tmp_path, ABOUT)
    file = load_file(tmp_path / KOHYA_FILE)
    key = "lora_unet_down_blocks_0_resnets_0_conv1"
    assert len(file[f"{key}.lora_down.weight"]) == 4
    assert float(file[f"{key}.alpha"]) == pytest.approx(4 * 2 / math.sqrt(4))


@pytest.mark.parametrize("name", ["dora", "lokr", "loha"])
def test_a_file_for_web_uis_names_its_algorithm(
    random_pipeline: Any, tmp_path: Path, name: str
) -> None:
    adapt(random_pipeline, name)
    export_lora(StableDiffusion(random_pipeline, ""), tmp_path, ABOUT)
    with safe_open(tmp_path / KOHYA_FILE, "pt") as file:
        metadata = file.metadata()
    arguments = {"dora": {"algo": "lora", "dora_wd": True}}.get(name, {"algo": name})
    assert json.loads(metadata["ss_network_args"]) == arguments
    assert metadata["ss_network_module"] == "lycoris.kohya"
    assert metadata["dreambooth.step"] == "120"


def test_the_card_of_a_lokr_loads_it_by_peft(
    random_pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = copy.deepcopy(random_pipeline)
    train(adapt(random_pipeline, "lokr"))
    trained = predict(random_pipeline)
    export_lora(StableDiffusion(random_pipeline, ""), tmp_path, ABOUT)
    card = (tmp_path / "README.md").read_text()
    assert "from peft import PeftModel" in card
    assert "load_lora_weights" not in card
    monkeypatch.chdir(tmp_path)
    names = {"pipe": plain, "PeftModel": PeftModel}
    for line in card.splitlines():
        if line.startswith("PeftModel."):
            exec(line, names)
    torch.testing.assert_close(predict(plain), trained, rtol=1e-4, atol=1e-4)


def test_exports_of_both_formats_can_be_loaded_again(random_pipeline: Any, tmp_path: Path) -> None:
    for name in ("dora", "loha"):
        ours, plain = copy.deepcopy(random_pipeline), copy.deepcopy(random_pipeline)
        train(adapt(ours, name))
        export_lora(StableDiffusion(ours, ""), tmp_path / name, ABOUT)
        load_adapters(plain, tmp_path / name)
        torch.testing.assert_close(predict(plain), predict(ours), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["dora", "loha"])
def test_adapters_of_another_model_are_refused_and_not_left_out(
    random_pipeline: Any, tmp_path: Path, name: str
) -> None:
    plain = copy.deepcopy(random_pipeline)
    adapt(random_pipeline, name)
    export_lora(StableDiffusion(random_pipeline, ""), tmp_path, ABOUT)
    if name == "loha":
        (tmp_path / "peft/unet").rename(tmp_path / "peft/transformer")
    else:
        weights = load_file(tmp_path / LORA_FILE)
        others = {key.replace("unet.", "transformer."): each for key, each in weights.items()}
        save_file(others, tmp_path / LORA_FILE)
    with pytest.raises(BadModelError, match="adapters of the result do not fit this model, a Stab"):
        load_adapters(plain, tmp_path)


def test_adapters_of_a_model_of_another_width_are_refused(
    random_pipeline: Any, tmp_path: Path
) -> None:
    plain = copy.deepcopy(random_pipeline)
    adapt(random_pipeline, "dora")
    export_lora(StableDiffusion(random_pipeline, ""), tmp_path, ABOUT)
    weights = load_file(tmp_path / LORA_FILE)
    first = next(key for key in weights if key.endswith("lora_A.weight"))
    weights[first] = weights[first].repeat(1, 2)
    save_file(weights, tmp_path / LORA_FILE)
    with pytest.raises(BadModelError, match="do not fit this model"):
        load_adapters(plain, tmp_path)
