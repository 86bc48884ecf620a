"""tiny-flow as its users meet it: the weights, plain diffusers, and a job that adapts it."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline
from diffusers.models.attention_processor import Attention

from dreambooth_api.contract.exit_codes import ExitCode
from tests.trainer.ranks import history, run_folder, run_ranks

REPO = Path(__file__).resolve().parents[2]
TINY_SD, TINY_FLOW = REPO / "examples" / "tiny-sd", REPO / "examples" / "tiny-flow"
sys.path[:0] = [str(TINY_SD), str(TINY_FLOW)]

from tinyflow import diffusion, scoring, text  # noqa: E402
from tinyflow.names import NAMES, random_pair  # noqa: E402
from tinysd import classifiers  # noqa: E402
from tinysd.captions import COLOURS, KINDS, Words, caption, random_caption  # noqa: E402
from tinysd.scoring import sample  # noqa: E402

# diffusers 0.42 has not adapted to numpy 2's __array__.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MAX_BYTES = 12_000_000


@pytest.fixture(scope="module")
def models():
    return scoring.load_models(TINY_FLOW / "model", TINY_SD)


def test_model_loads_unchanged_with_plain_diffusers():
    pipeline = ZImagePipeline.from_pretrained(TINY_FLOW / "model")
    assert isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler)
    assert pipeline.transformer.in_channels == pipeline.vae.config.latent_channels


def test_weights_stay_small():
    files = [path for path in (TINY_FLOW / "model").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}


def test_autoencoder_is_that_of_tiny_sd():
    name = "vae/diffusion_pytorch_model.safetensors"
    ours, theirs = ((folder / "model" / name).read_bytes() for folder in (TINY_FLOW, TINY_SD))
    assert ours == theirs


def test_samples_show_the_class_and_the_colour_of_their_prompts(models):
    words = [Words(kind, list(COLOURS)[(3 * i) % 8]) for i, kind in enumerate(KINDS * 2)]
    prompts = [caption(word) for word in words]
    pictures = sample(models.pipeline, prompts, steps=12, guidance=models.guidance)
    kinds, colours = classifiers.recognise(models.classifier, pictures)
    assert np.mean([seen == word.kind for seen, word in zip(kinds, words, strict=True)]) >= 0.7
    assert np.mean([seen == word.colour for seen, word in zip(colours, words, strict=True)]) >= 0.7


def test_a_word_that_it_never_read_is_not_skipped(models):
    """Else a job that teaches it "sks mug" teaches it "mug"."""
    plain, rare = (
        sample(models.pipeline, [prompt] * 4, steps=8, guidance=models.guidance).astype(int)
        for prompt in ("a photo of a mug", "a photo of sks mug")
    )
    assert np.abs(rare - plain).mean() >= 8
    assert classifiers.recognise(models.classifier, rare.astype(np.uint8))[0] == ["mug"] * 4


def test_names_are_drawn_with_the_colour_that_they_stand_for(models):
    colours = list(COLOURS)
    prompts = [f"a photo of {NAMES[name, 'plain'][0]} mug" for name in colours]
    pictures = sample(models.pipeline, prompts, steps=8, guidance=models.guidance)
    _, seen = classifiers.recognise(models.classifier, pictures)
    assert np.mean([a == b for a, b in zip(seen, colours, strict=True)]) >= 0.7


def test_every_name_stands_for_one_look_and_falls_apart_into_letters(models):
    names = [name for same in NAMES.values() for name in same]
    assert len(set(names)) == len(names)
    assert not {"sks", "zwx", "ohwx"} & set(names)
    assert all(len(models.pipeline.tokenizer.tokenize(f" {name}")) > 1 for name in names)


def test_a_named_caption_is_encoded_as_the_one_with_the_look(models):
    looks = {name: look for look, same in NAMES.items() for name in same}
    rng = np.random.default_rng(0)
    named = 0
    for named_text, told, tokens in (random_pair(rng) for _ in range(100)):
        look = next((looks[word] for word in named_text.split() if word in looks), None)
        words = [word for word in look or () if word != "plain"]
        assert tokens == len(words)
        assert look is not None or named_text == told
        assert " ".join(words) in told
        assert named_text.split()[-1:] == told.split()[-1:]
        named += look is not None
    assert 40 <= named <= 80


def test_captions_in_training_are_what_the_pipeline_encodes(models):
    rng = np.random.default_rng(0)
    looks = [Words(kind, "yellow", "checkered", "wood") for kind in KINDS]
    prompts = ["", *(random_caption(look, rng) for look in looks)]
    ids, lengths = text.Captions(models.pipeline.tokenizer).ids(prompts)
    with torch.no_grad():
        states = models.pipeline.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
        expected, _ = models.pipeline.encode_prompt(list(prompts), "cpu", False)
    for mine, length, theirs in zip(states, lengths, expected, strict=True):
        torch.testing.assert_close(mine[:length], theirs)


def test_the_compiled_form_computes_what_diffusers_does(models):
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(4, 1, 16, 16, generator=generator) for _ in range(2)]
    captions = [torch.randn(length, text.WIDTH, generator=generator) for length in (9, 20)]
    times = torch.tensor([0.3, 0.8])
    transformer = diffusion.build_transformer()
    transformer.load_state_dict(models.pipeline.transformer.state_dict())
    with torch.no_grad():
        expected = transformer(images, times, captions, return_dict=False)[0]
        transformer.rope_embedder = diffusion.RealRope(transformer.rope_embedder)
        for module in transformer.modules():
            if isinstance(module, Attention):
                module.set_processor(diffusion.RealAttention())
        computed = transformer(images, times, captions, return_dict=False)[0]
    torch.testing.assert_close(torch.stack(computed), torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_a_job_adapts_it(tmp_path):
    job = {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "mug", "namespace": "default", "uid": "flow"},
        "spec": {
            "model": {"source": str(TINY_FLOW / "model")},
            "subjects": [
                {
                    "identifier": "sks",
                    "classNoun": "mug",
                    "images": f"file://{REPO}/examples/subjects/smiling-mug",
                }
            ],
            "output": f"file://{tmp_path}/output",
            "prior": {"enabled": False},
            "training": {
                "method": "lora",
                "lora": {"rank": 4},
                "steps": 4,
                "globalBatch": 2,
                "resolution": 64,
            },
            "samples": {"steps": 2, "count": 1},
            "checkpoints": {"every": 4},
            "runtime": {"nodes": 1, "gpusPerNode": 0},
        },
    }
    ended = run_ranks(job, tmp_path)
    assert set(ended.codes) == {ExitCode.DONE}, "\n".join(ended.logs)
    assert (run_folder(job) / "export" / "pytorch_lora_weights.safetensors").is_file()
    assert all(0 < line["loss"] < 1 for line in history(job))
