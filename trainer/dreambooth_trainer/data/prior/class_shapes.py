"""How the class images of a job are divided among the shapes of the subject's images.

A class image goes through the model in one batch with an image of the subject, so it needs the same
shape: each shape has class images of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dreambooth_trainer.data.buckets import divide, nearest_of
from dreambooth_trainer.data.crops import Size
from dreambooth_trainer.data.images import ImageSet
from dreambooth_trainer.data.prior.own_class_images import OwnClassImages


@dataclass(frozen=True)
class ShapeShare:
    """The class images of one shape: the user's, and the number of all with those to generate."""

    shape: Size
    own: OwnClassImages
    count: int


def divide_among_shapes(
    count: int, own: OwnClassImages, weights: Mapping[Size, float]
) -> list[ShapeShare]:
    """The class images of each shape, in the order of the shapes.

    The user's have the shape that crops least of them. The others are generated in such numbers
    that shapes have as many as the subject's images say, and at least one, so that there are more
    than `count` where there are more shapes.

    Args:
        count: `spec.prior.count`.
        own: The user's class images.
        weights: How often each shape is trained on.
    """
    shapes = sorted(weights)
    nearest = [nearest_of(image.size, shapes) for image in own.images]
    have = {shape: nearest.count(shape) for shape in shapes}
    total = sum(weights.values())
    missing = {
        shape: lacking
        for shape in shapes
        if (lacking := count * weights[shape] / total - have[shape]) > 0
    }
    wanted = count - len(own.images)
    if own.images:  # shapes that get none take the user's, cropped
        missing = dict(sorted(missing.items(), key=lambda each: (-each[1], each[0]))[:wanted])
    made = dict(zip(missing, divide(wanted, list(missing.values())), strict=True)) if wanted else {}
    shares: list[ShapeShare] = []
    for shape in shapes:
        chosen = [i for i, each in enumerate(nearest) if each == shape]
        if not chosen and not made.get(shape):
            chosen = list(range(len(own.images)))  # cropped, as there are no others
        share = OwnClassImages(
            ImageSet([own.images[i] for i in chosen], [] if shares else own.loaded.rejected),
            [own.captions[i] for i in chosen],
        )
        shares.append(ShapeShare(shape, share, len(chosen) + made.get(shape, 0)))
    return shares
