"""A vision-language model behind OpenAI's API: vLLM, `transformers serve`, OpenRouter."""

import base64
import io
import time
from collections.abc import Iterator, Sequence
from typing import Any

import openai
from openai.types.chat import ChatCompletionChunk
from PIL import Image

from dreambooth_api.models.captioning import CaptioningEndpoint
from dreambooth_storage import printable
from dreambooth_trainer.captioning.answers import Answer
from dreambooth_trainer.captioning.models.interface import Request
from dreambooth_trainer.captioning.models.messages import chat
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.errors import BadConfigError, TrainerError

FIELD = "spec.captioning.endpoint"
MAX_SIDE = 1024
"""Pixels of an image that is sent: captions need no more, and every token of it is paid for."""
IMAGE_TOKENS = 1000
"""About what an image of that size costs where a server does not say so."""
TRIES = 4
"""Of one answer, where the server is busy or the connection breaks."""
PART_SECONDS = 10.0
"""Of a wait for the next request, after which a sign of life is sent."""
LONGEST_ANSWER = 10
"""An answer may take so many times `timeoutSeconds` in all, however slowly it comes."""


class EndpointModel:
    """Answers by a server; the answers are validated by who asks.

    Args:
        endpoint: The server, as the job names it.
        key: Of its API; None: it takes none.
        ranks: Ranks that ask it at the same time, and share its limits.
    """

    def __init__(self, endpoint: CaptioningEndpoint, key: str | None, ranks: int = 1) -> None:
        self.name = endpoint.model
        self._endpoint = endpoint
        self._interval = (
            60 * ranks / endpoint.requests_per_minute if endpoint.requests_per_minute else 0.0
        )
        self._next = 0.0
        self._sleep = time.sleep
        budget = endpoint.token_budget
        self._budget = None if budget is None else max(budget // ranks, 1)
        self._used = 0
        self._client = openai.OpenAI(
            base_url=endpoint.url,
            # The client insists on a key; servers that take none ignore it.
            api_key=key or "none",
            timeout=endpoint.timeout_seconds,
            max_retries=TRIES - 1,  # waits as Retry-After says
            http_client=openai.DefaultHttpxClient(
                # Of every request, those that the client tries again by itself too.
                event_hooks={"request": [self._before_request]},
                # Images go to the server that the job names, and to no other.
                follow_redirects=False,
            ),
        )

    def answer(self, requests: Sequence[Request], kind: type[Answer]) -> list[str]:
        """The answers' text, one for each request.

        Raises:
            BadConfigError: The server refuses the key, the model or the request, or the job's
                budget is used up.
            TrainerError: It cannot be reached, or is too busy.
        """
        return [self._answer(request, kind) for request in requests]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _answer(self, request: Request, kind: type[Answer]) -> str:
        for attempt in range(TRIES):
            self._check_budget()
            stream = self._ask(request, kind)
            try:
                return self._read(stream, request, kind)
            except (openai.APIError, OSError, ValueError) as error:
                # The stream broke off, or is none: the client does not ask for it again.
                if attempt == TRIES - 1:
                    reason = printable(f"{type(error).__name__}: {error}")[:300]
                    raise TrainerError(
                        f"{FIELD}: no whole answer came from {self._endpoint.url} in {TRIES} tries"
                        f" ({reason})"
                    ) from error
                time.sleep(2**attempt / 4)
        raise AssertionError

    def _ask(self, request: Request, kind: type[Answer]) -> openai.Stream[ChatCompletionChunk]:
        try:
            stream: openai.Stream[ChatCompletionChunk] = self._client.chat.completions.create(
                **self._arguments(request, kind)
            )
            return stream
        except openai.APIStatusError as error:
            raise self._refused(error) from error
        except openai.APIConnectionError as error:
            reason = printable(str(error.__cause__ or error))[:300]
            raise TrainerError(
                f"{FIELD}.url: {self._endpoint.url} cannot be reached ({reason})"
            ) from error

    def _read(
        self, stream: openai.Stream[ChatCompletionChunk], request: Request, kind: type[Answer]
    ) -> str:
        text, usage, finished = "", None, False
        # Below the client, which shows no comments: a stream of them alone would never end.
        parts = self._in_time(stream.response.iter_bytes())
        stream.response.iter_bytes = lambda *_: parts  # type: ignore[method-assign]
        try:
            with stream:
                for chunk in stream:
                    usage = chunk.usage or usage
                    for choice in chunk.choices:
                        text += choice.delta.content or ""
                        finished = finished or choice.finish_reason is not None
                    if len(text) > 2 * kind.max_characters:
                        return text  # more than any valid answer
        finally:
            # A stream that breaks off is paid for as well.
            self._used += usage.total_tokens if usage else _estimate_tokens(request, text)
        if not finished:
            raise ValueError("the stream ended before the answer did")
        return text

    def _before_request(self, _: Any) -> None:
        heartbeat.send()
        self._wait()

    def _in_time(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        """The parts of a body, which must end in time, whatever keeps the connection alive."""
        end = time.monotonic() + LONGEST_ANSWER * self._endpoint.timeout_seconds
        for part in parts:
            if time.monotonic() > end:
                raise TimeoutError("the answer takes too long")
            heartbeat.send()
            yield part

    def _arguments(self, request: Request, kind: type[Answer]) -> dict[str, Any]:
        image = None
        if request.image is not None:
            image = {"type": "image_url", "image_url": {"url": _data_url(request.image)}}
        sampling = request.sampling
        schema = {"name": kind.__name__, "schema": kind.model_json_schema(), "strict": True}
        return {
            "model": self._endpoint.model,
            "messages": chat(request, kind, image),
            "response_format": {"type": "json_schema", "json_schema": schema},
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": request.seed,
            "max_tokens": request.max_tokens or kind.max_characters,
            "stream": True,
            "stream_options": {"include_usage": True},
            # Not in OpenAI's API, but in that of most servers.
            "extra_body": {} if sampling.top_k is None else {"top_k": sampling.top_k},
        }

    def _check_budget(self) -> None:
        if self._budget is not None and self._used >= self._budget:
            raise BadConfigError(
                f"{FIELD}.tokenBudget: {self._used} tokens are used up of this rank's"
                f" {self._budget}, and there is more to ask; raise it"
            )

    def _wait(self) -> None:
        now = time.monotonic()
        left = self._next - now
        while left > 0:
            self._sleep(min(left, PART_SECONDS))
            left -= PART_SECONDS
            heartbeat.send()  # a job that may ask once a minute has not stalled
        self._next = max(now, self._next) + self._interval

    def _refused(self, error: openai.APIStatusError) -> TrainerError:
        code, url = error.status_code, self._endpoint.url
        if code in (401, 403):
            # Its text may repeat the key.
            return BadConfigError(
                f"{FIELD}.apiKeySecretRef: {url} refuses the key (HTTP {code}); correct it"
            )
        if 300 <= code < 400:
            return BadConfigError(
                f"{FIELD}.url: {url} redirects to another place (HTTP {code}), and images are sent"
                " to no server that the job does not name; correct the URL"
            )
        reason = _reason(error)
        if code == 404:
            return BadConfigError(
                f"{FIELD}: {url} knows no model {printable(self.name)}, or is no OpenAI-compatible"
                f" API (HTTP 404: {reason}); correct url or model"
            )
        if code < 500 and code not in (408, 409, 429):
            return BadConfigError(
                f"{FIELD}: {url} refuses the request (HTTP {code}: {reason}); name a model that"
                " reads images and answers by a JSON schema"
            )
        return TrainerError(f"{FIELD}: {url} is not able to answer now (HTTP {code}: {reason})")


def _reason(error: openai.APIStatusError) -> str:
    """What the server says, which the client's own message leaves out unless OpenAI says it so."""
    body = error.body
    said = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
    return printable(str(said or error.message))[:300]


def _estimate_tokens(request: Request, text: str) -> int:
    """For servers that report no usage: about four characters a token."""
    read = len(request.system) + len(request.text) + len(text)
    return read // 4 + (IMAGE_TOKENS if request.image else 0)


def _data_url(image: Image.Image) -> str:
    """A JPEG without metadata: where and by whom a photo was taken is not sent."""
    reduced = image.convert("RGB")
    reduced.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    reduced.save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
