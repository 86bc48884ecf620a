"""Outputs of the frozen modules, computed once: latents of all image variants, and embeddings.

The VAE's encoder takes more arithmetic than the forward pass of the denoiser.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreambooth_trainer.data.crops import Variant, crop_box, crop_to_square
from dreambooth_trainer.data.images import SourceImage
from dreambooth_trainer.data.sampler import ImagePool
from dreambooth_trainer.models import Conditioning, Family
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.chunks import CHUNK_SIZE, gather_chunks, own_chunks
from dreambooth_trainer.process.distributed import Ranks

NO_CAPTION = 0
"""Index of the empty caption, which replaces others under caption dropout."""


@dataclass(frozen=True)
class ImageGroup:
    """Images of one subject or class, with a caption for each; all have the same variants."""

    images: Sequence[SourceImage]
    captions: Sequence[str]
    variants: Sequence[Variant]


@dataclass(frozen=True)
class TrainingCache:
    """Tensors that the training step looks up instead of computing them.

    Args:
        moments: [rows, 2C, h, w], mean and log variance of the latent of each image's variants.
        caption_of_row: [rows], index into `captions`.
        captions: All captions, the empty one first.
        tokens: [captions, ...], token ids.
        conditioning: Of every caption; None where the text encoder is trained.
    """

    moments: Tensor
    caption_of_row: Tensor
    captions: Sequence[str]
    tokens: Tensor
    conditioning: Conditioning | None


def image_pools(groups: Sequence[ImageGroup]) -> list[ImagePool]:
    """The rows of each group in the cache, in the order of the groups.

    Returns:
        Pools whose rows follow each other without gaps from row 0.
    """
    pools, first = [], 0
    for group in groups:
        pools.append(ImagePool(first, len(group.images), len(group.variants)))
        first += len(group.images) * len(group.variants)
    return pools


def build_cache(
    family: Family,
    groups: Sequence[ImageGroup],
    resolution: int,
    *,
    text_is_trained: bool,
    ranks: Ranks,
    device: torch.device,
) -> TrainingCache:
    """Encode every variant of every image once, divided among the ranks. Collective.

    Args:
        family: The base model.
        groups: Images of all subjects and classes.
        resolution: Of the crops, in pixels along one side.
        text_is_trained: Whether the conditioning changes, and so cannot be cached.
        ranks: All ranks.
        device: Holds the cache: a lookup then waits for no copy.
    """
    captions = ["", *dict.fromkeys(caption for group in groups for caption in group.captions)]
    tokens = family.tokenize(captions).to(device)
    return TrainingCache(
        moments=_encode_all(family, groups, resolution, ranks, device),
        caption_of_row=torch.tensor(list(_captions_of_rows(groups, captions)), device=device),
        captions=captions,
        tokens=tokens,
        conditioning=None if text_is_trained else encode_captions(family, tokens),
    )


def _captions_of_rows(groups: Sequence[ImageGroup], captions: Sequence[str]) -> Iterator[int]:
    for group in groups:
        for caption in group.captions:
            # From index 1, so that an empty caption of the user's is not taken for dropout's.
            yield from [captions.index(caption, 1)] * len(group.variants)


def encode_captions(family: Family, tokens: Tensor) -> Conditioning:
    """Conditioning of token ids [captions, ...], a few captions at a time, without gradients."""
    # On every rank: captions are few, and a gather would take longer.
    with torch.no_grad():
        parts = [family.encode_tokens(chunk) for chunk in torch.split(tokens, CHUNK_SIZE)]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _encode_all(
    family: Family,
    groups: Sequence[ImageGroup],
    resolution: int,
    ranks: Ranks,
    device: torch.device,
) -> Tensor:
    """Moments of every row; rows that show the same pixels are encoded once."""
    work: dict[object, tuple[SourceImage, Variant]] = {}
    rows = []
    for group in groups:
        for image in group.images:
            for variant in group.variants:
                crop = id(image), crop_box(image.pixels.size, variant), variant.mirror
                work.setdefault(crop, (image, variant))
                rows.append(crop)
    # On the host, as `gather` pickles: a tensor on a GPU would be unpickled on the sender's device.
    own = {
        number: _encode(family, chunk, resolution, device).cpu()
        for number, chunk in own_chunks(list(work.values()), ranks.topology).items()
    }
    encoded = torch.cat(gather_chunks(ranks, own))
    number_of = {crop: number for number, crop in enumerate(work)}
    return encoded[[number_of[crop] for crop in rows]].to(device)


def _encode(
    family: Family,
    chunk: Sequence[tuple[SourceImage, Variant]],
    resolution: int,
    device: torch.device,
) -> Tensor:
    """Moments [N, 2C, h, w] of N variants of images."""
    pixels = [crop_to_square(image.pixels, resolution, variant) for image, variant in chunk]
    heartbeat.send()
    return family.encode_images(torch.stack(pixels).to(device))
