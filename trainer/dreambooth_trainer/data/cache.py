"""Outputs of the frozen modules, computed once: latents of all image variants, and embeddings.

The VAE's encoder takes more arithmetic than the forward pass of the denoiser.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dreambooth_trainer.data.crops import Size, crop_box
from dreambooth_trainer.data.latents import ImageGroup, LatentStore, join_shapes, load_latents
from dreambooth_trainer.data.masks import has_masks, loss_weights
from dreambooth_trainer.data.sampler import CAPTION_ORDERS, ImagePool
from dreambooth_trainer.models import Conditioning, Family, Tokens
from dreambooth_trainer.models.prompts import Shapes, count_bytes, join_rows, largest_shapes
from dreambooth_trainer.process.chunks import CHUNK_SIZE
from dreambooth_trainer.process.distributed import Ranks

NO_CAPTION = 0
"""Index of the empty caption, which replaces others under caption dropout."""

DEVICE_BYTES = 1024**3
"""Conditioning that is larger stays in host memory; the steps copy what they need of it."""


@dataclass(frozen=True)
class HostConditioning:
    """Conditioning of all captions, in host memory.

    Args:
        rows: Of each caption, then of the empty prompt if there is one.
        caption_of_row: As in `TrainingCache`, index into `rows`; in host memory too.
        device: Of the denoiser.
    """

    rows: Sequence[Conditioning]
    caption_of_row: Tensor
    device: torch.device

    def look_up(self, captions: Tensor) -> Conditioning:
        """Of captions [N], in host memory; on the device, without a wait for it.

        All batches have the same shapes, those of the longest caption of the job.
        """
        rows = [self.rows[each] for each in captions.tolist()]
        return join_rows(rows, self.device, self._shapes)

    @cached_property
    def _shapes(self) -> Shapes:
        return largest_shapes(self.rows)


@dataclass(frozen=True)
class TrainingCache:
    """Tensors that the training step looks up instead of computing them.

    Args:
        moments: [rows, 2C, h, w], mean and log variance of the latent of each image's variants; or
            what the family keeps instead. [rows, 2C, cells] for images of several shapes, those
            with fewer cells padded: `moments_of` has them in their shape.
        crops: [rows, 4], where each variant was cropped, see `Family.predict`.
        caption_of_row: [rows], index into `captions`; [rows, orders] where tags are shuffled.
        captions: All captions, the empty one first.
        tokens: Of every caption.
        conditioning: Of every caption; None where the text encoder is trained, or `host` has it.
        base_conditioning: Of every caption, by the text encoders before training; None where it is
            `conditioning`, or nothing needs it.
        empty_prompt: Row of tokens and conditioning after those of the captions: the empty prompt
            as guidance uses it. None where no sample has it.
        host: Holds the conditioning if the device is not to hold all of it.
        loss_weights: [rows, 1, h, w] or [rows, 1, cells], as `moments`: the loss's weight at each
            cell, with a mean of 1. None where all are 1, as no image has a mask.
    """

    moments: Tensor
    crops: Tensor
    caption_of_row: Tensor
    captions: Sequence[str]
    tokens: Tokens
    conditioning: Conditioning | None
    base_conditioning: Conditioning | None = None
    empty_prompt: int | None = None
    host: HostConditioning | None = None
    loss_weights: Tensor | None = None

    def moments_of(self, rows: Tensor, height: int, width: int) -> Tensor:
        """Moments [N, 2C, h, w] of rows [N], all of which have this shape, in cells."""
        return _in_shape(self.moments[rows], height, width)

    def loss_weights_of(self, rows: Tensor, height: int, width: int) -> Tensor | None:
        """The loss's weight at each cell, [N, 1, h, w], of rows [N] as for `moments_of`."""
        if self.loss_weights is None:
            return None
        return _in_shape(self.loss_weights[rows], height, width)

    def conditioning_of(self, family: Family, captions: Tensor) -> Conditioning:
        """Conditioning of captions [N], given by their indices."""
        if self.host is not None:
            return self.host.look_up(captions)
        if self.conditioning is None:
            return family.encode_tokens(
                {name: part[captions] for name, part in self.tokens.items()}
            )
        return {key: table[captions] for key, table in self.conditioning.items()}


def image_pools(groups: Sequence[ImageGroup], resolution: int) -> list[dict[Size, ImagePool]]:
    """The rows of each group's shapes in the cache, in the order of the groups.

    Returns:
        Pools whose rows follow each other without gaps from row 0.
    """
    pools, first = [], 0
    for group in groups:
        of_group = {}
        sizes = Counter(shape for _, shape in group.with_shapes(resolution))
        for shape, size in sizes.items():
            of_group[shape] = ImagePool(first, size, len(group.variants))
            first += size * len(group.variants)
        pools.append(of_group)
    return pools


def build_cache(
    family: Family,
    groups: Sequence[ImageGroup],
    resolution: int,
    *,
    text_is_trained: bool,
    keeps_base: bool = False,
    has_empty_prompt: bool = False,
    store: LatentStore,
    ranks: Ranks,
    device: torch.device,
) -> TrainingCache:
    """Encode every variant of every image once, unless that was done before. Collective.

    Args:
        family: The base model.
        groups: Images of all subjects and classes.
        resolution: Of crops that are squares, in pixels along one side.
        text_is_trained: Whether the conditioning changes, and so cannot be cached.
        keeps_base: Whether the base model's own predictions are needed.
        has_empty_prompt: Whether samples have the empty prompt of guidance.
        store: Reads the images, and keeps the latents for later attempts.
        ranks: All ranks.
        device: Holds the cache: a lookup then waits for no copy.
    """
    texts = (text for group in groups for orders in group.texts for text in orders)
    captions = ["", *dict.fromkeys(texts)]
    parts = [family.tokenize(captions)]
    if has_empty_prompt:
        parts.append(family.tokenize_negative([""]))
    tokens = {name: part.to(device) for name, part in _join(parts).items()}
    conditioning, base_conditioning = None, None
    caption_of_row = torch.tensor(list(_captions_of_rows(groups, captions)))
    host = None
    if text_is_trained:
        base_conditioning = encode_captions(family, tokens) if keeps_base else None
    else:
        rows = family.encode_rows(captions)
        if has_empty_prompt:
            rows += family.encode_rows([""], is_negative=True)
        if count_bytes(rows) > DEVICE_BYTES:
            host = HostConditioning(rows, caption_of_row, device)
        else:
            conditioning = join_rows(rows, device)
    weights = _load_weights(family, groups, resolution, store, ranks)
    return TrainingCache(
        moments=load_latents(family, groups, resolution, store, ranks, device).to(device),
        crops=torch.tensor(list(_crops_of_rows(groups, resolution)), device=device),
        caption_of_row=caption_of_row.to(device),
        captions=captions,
        tokens=tokens,
        conditioning=conditioning,
        base_conditioning=base_conditioning,
        empty_prompt=len(captions) if has_empty_prompt else None,
        host=host,
        loss_weights=None if weights is None else weights.to(device),
    )


def _in_shape(rows: Tensor, height: int, width: int) -> Tensor:
    found = rows.flatten(2)[..., : height * width]
    return found.reshape(*found.shape[:2], height, width)


def _load_weights(
    family: Family, groups: Sequence[ImageGroup], resolution: int, store: LatentStore, ranks: Ranks
) -> Tensor | None:
    """The loss's weights of all rows, if there are masks. Collective."""
    if not has_masks(groups):
        return None
    shapes = {shape for group in groups for _, shape in group.with_shapes(resolution)}
    cells = {shape: family.latent_shape(*shape)[:0:-1] for shape in shapes}
    return join_shapes(
        ranks.run_on_first(lambda: loss_weights(store.storage, groups, resolution, cells))
    )


def _join(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of several tables, one after the other."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _crops_of_rows(groups: Sequence[ImageGroup], resolution: int) -> Iterator[list[int]]:
    for group in groups:
        for image, shape in group.with_shapes(resolution):
            width, height = image.size
            scale = max(shape[0] / width, shape[1] / height)
            for variant in group.variants:
                left, top, right, _ = crop_box(image.size, shape, variant)
                if variant.mirror:  # the model sees a crop of the mirrored image
                    left = width - right
                yield [height, width, round(top * scale), round(left * scale)]


def _captions_of_rows(
    groups: Sequence[ImageGroup], captions: Sequence[str]
) -> Iterator[int | list[int]]:
    # From the end, so that an empty caption of the user's is not taken for dropout's.
    index = {caption: place for place, caption in enumerate(captions)}
    are_shuffled = any(group.orders for group in groups)
    for group in groups:
        for orders in group.texts:
            found = [index[text] for text in orders]
            if are_shuffled and len(found) == 1:  # as those of a class
                found *= CAPTION_ORDERS
            yield from [found if are_shuffled else found[0]] * len(group.variants)


def encode_captions(family: Family, tokens: Tokens) -> Conditioning:
    """Conditioning of every caption's tokens, a few captions at a time, without gradients."""
    # On every rank: captions are few, and a gather would take longer.
    with torch.no_grad():
        chunks = zip(*(torch.split(each, CHUNK_SIZE) for each in tokens.values()), strict=True)
        return _join(
            [family.encode_tokens(dict(zip(tokens, chunk, strict=True))) for chunk in chunks]
        )
