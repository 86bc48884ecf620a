"""CLIP as the encoder of scores."""

from pathlib import Path

import torch
from PIL import Image

from dreambooth_trainer.evaluation.clip_encoder import ClipEncoder

CLIP = Path(__file__).resolve().parents[3] / "examples" / "tiny-sd" / "clip"


def test_embeddings_are_unit_vectors_and_do_not_depend_on_their_company() -> None:
    clip = ClipEncoder(CLIP, torch.device("cpu"))
    images = [Image.new("RGB", (40, 30), (i * 6, 80, 200)) for i in range(40)]  # two chunks
    vectors = clip.images(images)
    assert torch.allclose(vectors.float().norm(dim=1), torch.ones(40), atol=2e-3)  # half precision
    assert torch.allclose(vectors[-1:], clip.images(images[-1:]), atol=2e-3)
    assert clip.texts(["a photo of a mug"]).shape == (1, vectors.shape[1])


def test_the_model_is_on_the_device_that_it_is_given() -> None:
    """As on a GPU: the meta device mixes with no other."""
    clip = ClipEncoder(CLIP, torch.device("meta"))
    assert clip.images([Image.new("RGB", (64, 64))]).is_meta
