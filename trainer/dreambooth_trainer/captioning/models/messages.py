"""Pure: a request as the messages of a chat, in the shape that chat templates and APIs share."""

from typing import Any

from dreambooth_trainer.captioning.answers import Answer
from dreambooth_trainer.captioning.models.interface import Request

Message = dict[str, Any]


def chat(request: Request, kind: type[Answer], image: Message | None = None) -> list[Message]:
    """The messages of a request.

    Args:
        request: The request.
        kind: What is to be answered.
        image: How the image is written in its place: `{"type": "image"}` for chat templates, or
            an `image_url` for endpoints. None where the request has no image.
    """
    system = f"{request.system}\nAnswer with JSON alone, such as {kind.example}"
    content = request.text if image is None else [image, {"type": "text", "text": request.text}]
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]
