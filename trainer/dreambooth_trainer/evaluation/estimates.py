"""Means with bootstrap intervals, of values per image or per pair of images.

Everything is computed in float64 and from a fixed seed: the same vectors give the same intervals.
"""

import torch
from torch import Tensor

from dreambooth_api.contract.scores import CONFIDENCE, Estimate

RESAMPLES = 1000
"""Bootstrap samples behind an interval."""
SPLITS = 200
"""Random halvings behind the noise of the kernel distance."""
SMALLEST_DISTANCE = 1e-5
"""Cosine distance below which images are the same, but for rounding."""


def estimate(values: Tensor) -> Estimate | None:
    """The mean and its percentile interval when images are drawn again, with replacement.

    Args:
        values: One per image, [N]; or one per pair of images, [N, N], of which the diagonal, each
            image with itself, does not count.

    Returns:
        None where one image has no pair.
    """
    if values.dim() == 2 and len(values) < 2:
        return None
    means = _means(values)
    return _interval(float(means[0]), means[1:])


def fidelity(before: Tensor, after: Tensor) -> Estimate | None:
    """How much images are still those of the base model: 1, unchanged; 0, as from other seeds.

    The mean cosine distance of the two images of each seed, over that of the base model's images
    of different seeds, is subtracted from 1. Both means are of the same drawn seeds.

    Args:
        before: Unit vectors of the base model's images, [N, D].
        after: Those of the trained model, from the same seeds.

    Returns:
        None where the base model's images are all alike.
    """
    if len(before) < 2:
        return None
    before, after = before.double(), after.double()
    # Half the squared distance of unit vectors is the cosine distance, and exactly 0 of equal ones.
    moved = _means((before - after).square().sum(dim=1) / 2)
    apart = _means(1 - before @ before.T)
    if apart[0] < SMALLEST_DISTANCE:
        return None
    kept = 1 - moved / apart.clamp(min=SMALLEST_DISTANCE)
    return _interval(float(kept[0]), kept[1:])


def _means(values: Tensor) -> Tensor:
    """The mean and those of the bootstrap samples, [1 + RESAMPLES]; `values` as in `estimate`."""
    values = values.double()
    count = len(values)
    weights = torch.cat([torch.ones(1, count, dtype=torch.float64), _draw(count)])
    if values.dim() == 1:
        return weights @ values / count
    values = values.clone().fill_diagonal_(0)
    # An image that was drawn twice is no pair with itself either.
    pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
    return ((weights @ values) * weights).sum(1) / pairs


def _draw(count: int) -> Tensor:
    """How often each image is drawn in each bootstrap sample, [RESAMPLES, count]."""
    drawn = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(0))
    ones = torch.ones_like(drawn, dtype=torch.float64)
    return torch.zeros(RESAMPLES, count, dtype=torch.float64).scatter_add_(1, drawn, ones)


def _interval(value: float, drawn: Tensor) -> Estimate:
    outside = (1 - CONFIDENCE) / 2
    # Without those for which all draws were the same image, which have no pair.
    drawn = drawn[drawn.isfinite()]
    low, high = torch.quantile(drawn, torch.tensor([outside, 1 - outside], dtype=drawn.dtype))
    return Estimate(value=value, low=float(low), high=float(high))


def kernel_distances(before: Tensor, after: Tensor) -> Tensor:
    """Terms [N, N] whose mean over different images is the squared kernel distance (KID).

    Images of the same seed are paired, and not compared with each other: the distance of a model
    from itself is 0, not noise (Gretton et al. 2012, lemma 6).

    Args:
        before: Unit vectors of the base model's images, [N, D].
        after: Those of the trained model, from the same seeds.
    """
    before, after = before.double(), after.double()
    across = _kernel(before, after)
    return _kernel(before, before) + _kernel(after, after) - across - across.T


def distance_change(terms: Tensor) -> Estimate:
    """The squared kernel distance as a change from none: 0 is inside of what chance gives.

    If training had changed nothing, either image of a seed could be the earlier one. So the noise
    is that of distances when the two images of random seeds are swapped, which turns the signs of
    their terms (a wild bootstrap: Chwialkowski et al. 2014). It is far smaller than that between
    images of different seeds.

    Args:
        terms: Of `kernel_distances`, [N, N], at least two images.
    """
    count = len(terms)
    terms = terms.double().clone().fill_diagonal_(0)
    generator = torch.Generator().manual_seed(0)
    signs = 2.0 * torch.randint(2, (RESAMPLES, count), generator=generator).double() - 1
    swapped = ((signs @ terms) * signs).sum(1) / (count * (count - 1))
    value = float(terms.sum() / (count * (count - 1)))
    noise = _interval(0, swapped)
    return Estimate(value=value, low=value - noise.high, high=value - noise.low)


def half_distances(vectors: Tensor) -> Estimate | None:
    """The squared kernel distance between random halves of the images: about 0, with its noise.

    Args:
        vectors: Unit vectors, [N, D]; None is returned for fewer than four.
    """
    half = len(vectors) // 2
    if half < 2:
        return None
    generator = torch.Generator().manual_seed(0)
    kernel = _kernel(vectors.double(), vectors.double())
    found = []
    for _ in range(SPLITS):
        order = torch.randperm(len(vectors), generator=generator)
        left, right = order[:half], order[half : 2 * half]
        found.append(
            _mean_of_pairs(kernel[left][:, left])
            + _mean_of_pairs(kernel[right][:, right])
            - 2 * kernel[left][:, right].mean()
        )
    distances = torch.stack(found)
    return _interval(float(distances.mean()), distances)


def _kernel(left: Tensor, right: Tensor) -> Tensor:
    """The cubic kernel of Bińkowski et al. 2018, section 3, of unit vectors.

    Its division by the number of dimensions is that of vectors whose components are about 1.
    """
    return (left @ right.T + 1) ** 3


def _mean_of_pairs(values: Tensor) -> Tensor:
    """Mean of [N, N] without the diagonal."""
    count = len(values)
    return (values.sum() - values.diagonal().sum()) / (count * (count - 1))
