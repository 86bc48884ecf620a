"""Answers in the form of OpenAI's images API. Pure."""

import base64
import io
import time
from collections.abc import Mapping
from typing import Any

from PIL import Image

from dreambooth_trainer.data.png import encode_png
from dreambooth_trainer.serving.http.requests import ImagesRequest

TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error",
         429: "rate_limit_error"}  # fmt: skip
NO_USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}
"""Clients expect it of a stream; nothing is billed by tokens here."""


def encode_image(image: Image.Image, wanted: ImagesRequest, made: Mapping[str, str]) -> bytes:
    """The image as a file; a PNG holds what made it."""
    if wanted.output_format == "png":
        return encode_png(image, made)
    buffer = io.BytesIO()
    image.save(buffer, wanted.output_format, quality=wanted.output_compression)
    return buffer.getvalue()


def base64_text(data: bytes) -> str:
    """Base64 (RFC 4648, section 4)."""
    return base64.b64encode(data).decode()


def images_answer(
    wanted: ImagesRequest, size: str, data: list[dict[str, Any]], warnings: list[str]
) -> dict[str, Any]:
    """The answer to a request that is not streamed."""
    return {
        "created": int(time.time()),
        "data": data,
        "background": "opaque",
        "output_format": wanted.output_format,
        "size": size,
        "warnings": warnings,
    }


def stream_event(kind: str, wanted: ImagesRequest, size: str, **fields: Any) -> dict[str, Any]:
    """The data of one event of a stream: `partial_image` or `completed`."""
    return {
        "type": f"image_generation.{kind}",
        "created_at": int(time.time()),
        "background": "opaque",
        "output_format": wanted.output_format,
        "quality": "auto",
        "size": size,
        **fields,
        **({"usage": NO_USAGE} if kind == "completed" else {}),
    }


def error_body(message: str, status: int, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": str(status)}}
