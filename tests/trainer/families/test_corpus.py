"""The corpus of families: plain diffusers loads the tiny models, and all their inputs matter."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from tests.corpus.families.parts import build_model
from tests.corpus.families.registry import FAMILIES, FamilyModule, load_pipeline

pytestmark = pytest.mark.filterwarnings(
    # EulerDiscreteScheduler, with NumPy 2
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    # ChromaTransformer2DModel
    "ignore:`FluxPosEmbed` is deprecated:FutureWarning",
)

PROMPTS = ["a photo of sks dog", "a red mug on the beach", "zebra"]
MAX_BYTES = 3_000_000
DENOISERS = ("unet", "transformer")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> FamilyModule:
    """Each family in turn."""
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def folder(family: FamilyModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of the family."""
    path = tmp_path_factory.mktemp("family")
    family.build(path)
    return path


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    """The tiny model, loaded by plain diffusers."""
    pipeline = load_pipeline(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(family: FamilyModule, pipeline: Any, prompts: list[str], seeds: list[int]) -> Tensor:
    """Images [prompts, channels, 64, 64] in 0..1, with guidance; each from a seed of its own."""
    if family.FACTS.true_cfg:
        guidance = {"true_cfg_scale": 4.0, "negative_prompt": [" "] * len(prompts)}
    else:
        guidance = {"guidance_scale": 4.0}
    images: Tensor = pipeline(
        prompt=list(prompts),  # Z-Image overwrites the list it is given
        height=64,
        width=64,
        num_inference_steps=2,
        **guidance,
        **family.FACTS.call,
        output_type="pt",
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).images
    return images


def test_the_layout_is_the_published_one(family: FamilyModule, folder: Path, pipeline: Any) -> None:
    weights = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix == ".safetensors"
    }
    assert weights == set(family.FACTS.files)
    assert type(pipeline).__name__ == family.FACTS.pipeline
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size < MAX_BYTES


def test_published_configurations_have_the_published_size(family: FamilyModule) -> None:
    with torch.device("meta"):
        models = {name: build_model(part, part.config) for name, part in family.PARTS.items()}
    for name, model in models.items():
        count = sum(weight.numel() for weight in model.parameters())
        assert count == family.FACTS.parameters[name]
        sizes = [size for file, size in family.FACTS.files.items() if file.startswith(f"{name}/")]
        saved = model.state_dict()
        count += sum(value.numel() for key, value in model.named_buffers() if key in saved)
        if None not in sizes:
            width = sum(sizes) / count  # bytes a weight
            assert min(abs(width - 2), abs(width - 4)) < 0.01, name


def test_weights_are_random_and_depend_on_the_seed(
    family: FamilyModule, pipeline: Any, tmp_path: Path
) -> None:
    family.build(tmp_path, seed=1)
    other = load_pipeline(tmp_path)
    for part in family.PARTS:
        others = dict(getattr(other, part).named_parameters())
        for name, weight in getattr(pipeline, part).named_parameters():
            assert weight.unique().numel() > weight.numel() / 2, (part, name)
            assert not torch.equal(weight, others[name]), (part, name)


def test_images_depend_on_seed_and_prompt_alone(family: FamilyModule, pipeline: Any) -> None:
    images = generate(family, pipeline, PROMPTS, [1, 1, 3])
    assert images.shape == (3, family.FACTS.channels, 64, 64)
    assert images.std(dim=(1, 2, 3)).min() > 0.05  # neither black nor white
    assert torch.equal(images, generate(family, pipeline, PROMPTS, [1, 1, 3]))
    if not family.FACTS.batch_matters:
        [alone] = generate(family, pipeline, PROMPTS[2:], [3])  # the shortest: padded in a batch
        assert torch.allclose(images[2], alone, atol=5e-5)
    first, prompt, other = images
    assert (first - prompt).abs().mean() > 5e-4
    assert (first - other).abs().mean() > 5e-4


def test_lora_targets_name_modules(family: FamilyModule, pipeline: Any) -> None:
    denoiser = getattr(pipeline, next(name for name in family.PARTS if name in DENOISERS))
    names = [name for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)]
    for target in family.FACTS.lora_targets:
        assert any(fnmatch(f".{name}", f"*.{target}") for name in names), target


def test_every_input_of_the_denoiser_matters(family: FamilyModule, pipeline: Any) -> None:
    denoiser = getattr(pipeline, next(name for name in family.PARTS if name in DENOISERS))
    calls: list[tuple[Any, Any]] = []
    handle = denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    generate(family, pipeline, PROMPTS[:1], [1])
    handle.remove()
    given = calls[0]
    leaves, structure = tree_flatten(given)
    with torch.no_grad():
        outputs = [predict(denoiser, tree_unflatten(leaves, structure))]
        for number, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and leaf.dtype.is_floating_point:
                changed = [*leaves]
                changed[number] = leaf + torch.rand(leaf.shape) * leaf.abs().amax().clamp(min=1)
                outputs.append(predict(denoiser, tree_unflatten(changed, structure)))
    assert len(outputs) > 3
    for output in outputs[1:]:
        assert (output - outputs[0]).abs().max() > 1e-3


def predict(denoiser: Any, call: tuple[Any, Any]) -> Tensor:
    """The denoiser's output; Z-Image's is a list."""
    args, kwargs = call
    [output] = denoiser(*args, **{**kwargs, "return_dict": False})
    return torch.stack(output) if isinstance(output, list) else output
