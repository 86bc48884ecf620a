"""Models that cannot be trained are refused by what they are, with what can be trained instead."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models.model_config import read_model_config
from dreambooth_trainer.models.registry import FAMILIES
from dreambooth_trainer.models.source.refusals import unsupported_pipeline
from dreambooth_trainer.process.errors import BadModelError
from tests.corpus import unsupported
from tests.trainer.families.conftest import build

VIDEO = (
    "for video, which cannot be trained; use a text-to-image model of Chroma, FLUX.1, FLUX.2 dev"
)
SENTENCES = {
    "Qwen/Qwen-Image-Edit": (
        "is a QwenImageEditPipeline, for editing images, which cannot be trained; use a"
        " text-to-image model of Qwen-Image, such as hf://Qwen/Qwen-Image-2512"
    ),
    "Qwen/Qwen-Image-Edit-2511": "is a QwenImageEditPlusPipeline, for editing images, which cannot",
    "black-forest-labs/FLUX.1-Kontext-dev": (
        "is a FluxKontextPipeline, for editing images, which cannot be trained; use a text-to-image"
        " model of FLUX.1, such as hf://black-forest-labs/FLUX.1-dev"
    ),
    "black-forest-labs/FLUX.1-Fill-dev": "is a FluxFillPipeline, for inpainting, which cannot be",
    "stable-diffusion-v1-5/stable-diffusion-inpainting": (
        "is a StableDiffusionInpaintPipeline, for inpainting, which cannot be trained"
    ),
    "stabilityai/stable-diffusion-xl-refiner-1.0": (
        "is a StableDiffusionXLImg2ImgPipeline, for refining images, which cannot be trained; use a"
        " text-to-image model of Stable Diffusion XL, such as"
        " hf://stabilityai/stable-diffusion-xl-base-1.0"
    ),
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": f"is a WanPipeline, {VIDEO}",
    "Lightricks/LTX-Video": f"is a LTXPipeline, {VIDEO}",
    "hunyuanvideo-community/HunyuanVideo": f"is a HunyuanVideoPipeline, {VIDEO}",
    "HiDream-ai/HiDream-I1-Full": (
        "is a HiDreamImagePipeline, which cannot be trained; use a text-to-image model of Chroma,"
    ),
    "diffusers/controlnet-canny-sdxl-1.0": (
        "is a ControlNetModel, a part of a model; name a folder with model_index.json"
    ),
    "a LoRA of diffusers": "is a LoRA, not a model; name the model that it was trained on",
    "a LoRA of peft": "is a LoRA, not a model; name the model that it was trained on",
    "ComfyUI's models": (
        "has no model_index.json; name the folder that holds it, or a file"
        " (checkpoints/a.safetensors) with spec.model.layout set to single-file"
    ),
    "Qwen/Qwen-Image-2.1": (
        "is a QwenImage21Pipeline, a version that cannot be trained; use Qwen-Image, such as"
        " hf://Qwen/Qwen-Image-2512"
    ),
    "black-forest-labs/FLUX.3-dev": (
        "is a Flux3Pipeline, a version that cannot be trained; use FLUX.1 or FLUX.2 dev, such as"
        " hf://black-forest-labs/FLUX."
    ),
    "a pipeline with code of its own": (
        "has a pipeline of its own (my_pipeline: MyPipeline), and code that comes with a model is"
        " not run; use a text-to-image model of Chroma,"
    ),
    "an index without a pipeline": (
        "names no pipeline in model_index.json; use a text-to-image model of Chroma,"
    ),
    "city96/FLUX.1-dev-gguf": (
        "holds GGUF files, quantized for inference, which cannot be trained; name the model with"
        " its original weights"
    ),
}


def refusal(source: Path, **model: Any) -> str:
    with pytest.raises(BadModelError) as caught:
        read_model_config(Model(source=str(source), **model), Storage(StorageSettings()))
    return str(caught.value)


@pytest.mark.parametrize("name", unsupported.FOLDERS)
def test_a_folder_is_refused_by_what_it_is(name: str, tmp_path: Path) -> None:
    unsupported.write(unsupported.FOLDERS[name], tmp_path)
    assert refusal(tmp_path).startswith(f"spec.model.source: {tmp_path} {SENTENCES[name]}")


@pytest.mark.parametrize("tensor", unsupported.LORA_TENSORS.values())
def test_a_file_with_a_lora_is_refused(tensor: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    unsupported.write_lora(file, tensor)
    assert refusal(file, layout="single-file") == (
        "spec.model.source: mine.safetensors is a LoRA, not a model; name the model that it was"
        " trained on, and the LoRA as spec.model.adapter to train it further"
    )


@pytest.mark.parametrize("tensor", unsupported.LORA_TENSORS.values())
def test_a_folder_with_a_lora_of_any_name_is_refused(tensor: str, tmp_path: Path) -> None:
    unsupported.write_lora(tmp_path / "my_dog_v2-000010.safetensors", tensor)
    assert refusal(tmp_path) == (
        f"spec.model.source: {tmp_path} holds a LoRA (my_dog_v2-000010.safetensors), not a model;"
        " name the model that it was trained on, and the LoRA as spec.model.adapter to train it"
        " further"
    )


def test_a_part_of_another_version_is_refused_with_a_model_that_can_be_trained(
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(build("qwen_image"), tmp_path / "model"))
    file = folder / "model_index.json"
    part = {"transformer": ["diffusers", "QwenImage21Transformer2DModel"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | part))
    assert refusal(folder).endswith(
        "only QwenImageTransformer2DModel of diffusers can be trained, and code that comes with a"
        " model is not run; use Qwen-Image, such as hf://Qwen/Qwen-Image-2512"
    )


def test_quantized_weights_are_refused_by_their_part(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(build("chroma"), tmp_path / "model"))
    file = folder / "transformer" / "config.json"
    config = {**json.loads(file.read_text()), "quantization_config": unsupported.BITS_AND_BYTES}
    file.write_text(json.dumps(config))
    assert (
        "the weights in transformer/ are quantized (bitsandbytes), and such weights cannot be"
        " trained; name the model with its original weights"
    ) in refusal(folder)


def test_every_family_is_named_where_none_is_near() -> None:
    sentence = unsupported_pipeline("KolorsPipeline", FAMILIES)
    assert all(family.name in sentence for family in FAMILIES.values())
    assert sentence.endswith("docs/models.md lists them")


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in dir(diffusers)
        if name.endswith("Pipeline") and any(word in name for word in ("Video", "Inpaint", "Edit"))
    ],
)
def test_the_use_of_other_pipelines_is_named(name: str) -> None:
    assert ", for " in unsupported_pipeline(name, FAMILIES)


def test_a_part_that_the_model_lacks_is_named(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(build("chroma"), tmp_path / "model"))
    file = folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "text_encoder": [None, None]}))
    assert refusal(folder).endswith(
        "has no text_encoder in model_index.json, and training needs one of the class"
        " T5EncoderModel; copy the whole model"
    )


def test_a_missing_vocabulary_is_named_by_all_files_that_may_hold_it(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(build("sana"), tmp_path / "model"))
    shutil.rmtree(folder / "tokenizer")
    assert (
        "tokenizer/ holds no vocabulary (vocab.json, tokenizer.json, spiece.model,"
        " tokenizer.model); copy the whole model"
    ) in refusal(folder)
