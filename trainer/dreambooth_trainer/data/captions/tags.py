"""Variants of a caption in tags, so that no place and no tag comes to mean too much."""

from dreambooth_api.models.training import Training
from dreambooth_api.schema.names import has_identifier
from dreambooth_trainer.data.sampler import CAPTION_ORDERS, generator

STREAM = 5
"""Number of the random stream, beside those of the samplers."""
SEPARATOR = ", "


def split_tags(caption: str) -> list[str]:
    """The parts of a caption between commas."""
    return [tag for part in caption.split(",") if (tag := part.strip())]


def vary_tags(
    caption: str, identifier: str, seed: int, image: int, training: Training
) -> list[str]:
    """The caption with its tags in other orders, or some of them left out, as the job says.

    Embeddings of all of them are computed once, so there is a fixed number. Tags with the
    identifier stay where they are.

    Args:
        caption: Of one image.
        identifier: Of the subject.
        seed: Of the run.
        image: Number of the image, so that not all have the same orders.
        training: `spec.training`.

    Returns:
        `CAPTION_ORDERS` captions, of which some may be equal. Where no tag is left out, the first
        is the caption as it is.
    """
    tags = split_tags(caption)
    places = [i for i, tag in enumerate(tags) if not has_identifier(tag, identifier)]
    texts = []
    for order in range(CAPTION_ORDERS):
        stream = generator(seed, STREAM, image, order)
        chosen = stream.permutation(places)
        varied = list(tags)
        if training.shuffle_tags and order > 0:
            for place, origin in zip(places, chosen, strict=True):
                varied[place] = tags[int(origin)]
        dropped = stream.random(len(places)) < (training.tag_dropout or 0.0)
        left_out = {place for place, is_dropped in zip(places, dropped, strict=True) if is_dropped}
        varied = [tag for place, tag in enumerate(varied) if place not in left_out]
        # An empty caption is dropout's: see `training.captionDropout`.
        texts.append(SEPARATOR.join(varied) if varied and varied != tags else caption)
    return texts
