"""Captions and prompts by a vision-language model."""

from typing import Annotated

from pydantic import Field, StringConstraints

from dreambooth_api.schema.base import (
    ApiModel,
    EndpointUrl,
    Instructions,
    ModelSource,
    ObjectName,
    Prompt,
    Revision,
    SecretKey,
    Seed,
)
from dreambooth_api.schema.rules import rule
from dreambooth_api.schema.shared_rules import revision_is_for_the_hub

DEFAULT_MODEL = "hf://mistralai/Ministral-3-8B-Instruct-2512"
"""The vision-language model of a job that names neither a model nor an endpoint."""


class CaptioningModel(ApiModel):
    """A vision-language model that runs in the job's own pods."""

    source: ModelSource = DEFAULT_MODEL
    """Where it is, in the layout of transformers: `hf://owner/name`, `s3://bucket/prefix`, or an
    absolute path inside the pod. Any model of transformers' `image-text-to-text`."""

    revision: Revision | None = None
    """Branch, tag or commit of an `hf://` source."""

    _revision_is_for_the_hub = revision_is_for_the_hub


class ApiKeySecret(ApiModel):
    """A Secret that holds the key of an API."""

    name: ObjectName
    """Name of the Secret, in the job's namespace."""

    key: SecretKey = "OPENAI_API_KEY"
    """Key of the Secret."""


class CaptioningEndpoint(ApiModel):
    """A server with OpenAI's API. The subject's images are sent to it."""

    url: EndpointUrl
    """URL of the API, up to and including its version: `https://openrouter.ai/api/v1`, or
    `http://dreambooth-operator-assistant.<namespace>/v1` for that of the chart, where its
    release has that name."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    """Name of the model there. It must read images, unless prompts alone are asked for."""

    api_key_secret_ref: ApiKeySecret | None = None
    """The key of the API. Unset: none is sent. On your own machine the environment's
    `OPENAI_API_KEY` is sent instead, to whatever `url` names."""

    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """How long an answer may stay silent before it is asked for again."""

    requests_per_minute: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Most requests per minute, over all ranks. Default: no limit of the job's."""

    token_budget: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """Most tokens, read and written, that an attempt may use up; it fails at more. Default: no
    limit."""

    @rule(
        "url",
        "!self.url.contains('@')",
        "must not hold a user or password; put the key into a Secret and name it in"
        " apiKeySecretRef",
    )
    def _url_holds_no_password(self) -> bool:
        return "@" not in self.url


class Captioning(ApiModel):
    """A vision-language model that describes images and writes prompts.

    What it wrote is kept in captions.json of the run: later attempts read it and do not ask again.
    """

    model: CaptioningModel | None = None
    """The model, if it runs in the job's pods. Default, unless `endpoint` is set: the base model's
    own text encoder where it sees images, as that of FLUX.2 dev (not where it is quantized), or
    Ministral 3 8B. With the source of the base model, its text encoder."""

    endpoint: CaptioningEndpoint | None = None
    """A server to ask instead. No image leaves the pods unless one is named."""

    photo_check: bool = False
    """Look at the subject's images for a wrong or second subject, text, watermarks and blur, and
    warn of them."""

    system_prompt: Instructions | None = None
    """How captions are to be written, in place of the built-in instructions. `{class}` is replaced
    by the subject's class noun."""

    examples: Annotated[list[Prompt], Field(max_length=16)] = []
    """Captions as they should be, in place of the built-in examples; used as they are."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """How freely words are drawn; 0 takes the most likely one. Default: that of the task."""

    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Words are drawn from the most likely ones with this probability together. Default: that of
    the task."""

    top_k: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Words are drawn from this many of the most likely ones. Default: that of the task."""

    seed: Seed = 0
    """Answer i is drawn with seed + i, so it does not depend on the number of ranks."""

    max_tokens: Annotated[int, Field(ge=16, le=8192)] | None = None
    """Most tokens of an answer. Default: that of the task."""

    @rule(
        "endpoint",
        "!has(self.model) || !has(self.endpoint)",
        "is asked instead of model; remove one of the two",
    )
    def _one_model(self) -> bool:
        return self.model is None or self.endpoint is None

    @property
    def local_model(self) -> CaptioningModel | None:
        """The model that runs in the job's pods; None: an endpoint is asked."""
        return None if self.endpoint else self.model or CaptioningModel()
