"""The images that a node has. There is no registry: any other image cannot be pulled."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-.]*[a-zA-Z0-9])?(?::[0-9]+)?/)?"
_TAG = r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
REFERENCE = re.compile(rf"{_DOMAIN}{_NAME}(?:/{_NAME})*{_TAG}(?:@sha256:[0-9a-f]{{64}})?")


@dataclass(frozen=True)
class ImageProblem:
    """Why a container's image cannot be had, in the kubelet's words."""

    reason: str
    message: str
    retried: bool = False
    """The kubelet goes on to try, less and less often (ImagePullBackOff)."""


def image_problem(image: str, policy: str, present: Collection[str]) -> ImageProblem | None:
    """What the kubelet would report, or None for an image that the node has."""
    if image in present:
        return None
    if not REFERENCE.fullmatch(image):
        return ImageProblem(
            "InvalidImageName",
            f'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}":'
            " invalid reference format",
        )
    if policy == "Never":
        return ImageProblem(
            "ErrImageNeverPull",
            f'Container image "{image}" is not present with pull policy of Never',
        )
    return ImageProblem(
        "ErrImagePull",
        f'failed to pull and unpack image "{image}": failed to resolve reference "{image}":'
        f" {image}: not found",
        retried=True,
    )
