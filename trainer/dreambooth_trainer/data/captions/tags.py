"""Orders of the tags of a caption, so that no place in it comes to mean something."""

from dreambooth_trainer.data.captions.captions import has_identifier
from dreambooth_trainer.data.sampler import CAPTION_ORDERS, generator

STREAM = 5
"""Number of the random stream, beside those of the samplers."""
SEPARATOR = ", "


def split_tags(caption: str) -> list[str]:
    """The parts of a caption between commas."""
    return [tag for part in caption.split(",") if (tag := part.strip())]


def shuffle_tags(caption: str, identifier: str, seed: int, image: int) -> list[str]:
    """The caption as it is, and with its tags in other orders; tags with the identifier stay.

    Embeddings of all of them are computed once, so there is a fixed number.

    Args:
        caption: Of one image.
        identifier: Of the subject.
        seed: Of the run.
        image: Number of the image, so that not all have the same orders.

    Returns:
        `CAPTION_ORDERS` captions, of which some may be equal.
    """
    tags = split_tags(caption)
    places = [i for i, tag in enumerate(tags) if not has_identifier(tag, identifier)]
    orders = [caption]
    for order in range(1, CAPTION_ORDERS):
        shuffled = list(tags)
        chosen = generator(seed, STREAM, image, order).permutation(places)
        for place, origin in zip(places, chosen, strict=True):
            shuffled[place] = tags[int(origin)]
        orders.append(SEPARATOR.join(shuffled) if len(places) > 1 else caption)
    return orders
