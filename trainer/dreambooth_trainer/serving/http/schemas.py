"""The answers of the API, for /openapi.json: OpenAI's fields, and those that go beyond them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Model(_Answer):
    """A result."""

    id: str
    """Its name in requests."""
    object: Literal["model"] = "model"
    created: int
    """When its export was written, in seconds since 1970."""
    owned_by: str
    """The job's namespace."""
    prompt: str
    """The instance prompt of the first subject."""
    class_prompt: str
    base_model: str
    method: str
    """spec.training.method of its job."""
    has_adapters: bool
    """Whether they can be weighed."""
    resolution: int
    steps: int
    """Denoising steps that a request has by default."""
    guidance_scale: float
    root: str
    """URI of the run's folder."""


class Models(_Answer):
    """All results, the newest first."""

    object: Literal["list"] = "list"
    data: list[Model]


class Image(_Answer):
    """One image; `b64_json` or `url`, as was asked for."""

    seed: int
    b64_json: str | None = None
    url: str | None = None


class Images(_Answer):
    """The images of a request that is not streamed."""

    created: int
    data: list[Image]
    background: Literal["opaque"]
    output_format: str
    size: str
    warnings: list[str]
    """Sentences about the request."""


class ImageEvent(_Answer):
    """The data of one event of a stream: a partial image, or a finished one."""

    type: Literal["image_generation.partial_image", "image_generation.completed"]
    created_at: int
    background: Literal["opaque"]
    output_format: str
    quality: Literal["auto"]
    size: str
    b64_json: str
    seed: int
    index: int
    """Of the image in the request."""
    partial_image_index: int | None = None
    """Of a partial image."""
    warnings: list[str] | None = None
    """Of a finished one."""
    usage: dict[str, Any] | None = None
    """Of a finished one; nothing is billed."""


class Problem(_Answer):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    """The field of the request."""
    code: str
    """The HTTP status."""


class Error(_Answer):
    """Any answer but 200; in a stream, the data of an event `error`."""

    error: Problem


ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": Error}, "5XX": {"model": Error}}
IMAGES: dict[int | str, dict[str, Any]] = {
    **ERRORS,
    200: {
        "model": Images,
        "description": "The images; with `stream: true`, server-sent events.",
        "content": {"text/event-stream": {"schema": ImageEvent.model_json_schema()}},
    },
}
