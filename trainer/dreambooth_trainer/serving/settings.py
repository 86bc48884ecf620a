"""How the server runs: a JSON file, which the command line or the chart writes."""

import ipaddress
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from dreambooth_api.models.storage import Storage
from dreambooth_api.schema.base import ApiModel

TOKENS_VARIABLE = "DREAMBOOTH_SERVING_TOKENS"
"""Tokens, separated by white space, beside those of `tokensFile`."""
TOKEN = re.compile(r"(?P<token>.+?)(:(?P<images>[0-9]{1,9}))?")


SHORTEST_TOKEN = 8
"""Characters before `:500`; with fewer, the whole was meant as the token."""


class ServingSettings(ApiModel):
    """What is served, where, and how much at a time."""

    root: str
    """Folder of a run, or a folder above those of several: `s3://` or `file://`."""

    base: str | None = None
    """Base model of all results, if it is not where their jobs have it."""

    storage: Storage = Field(default_factory=Storage)
    """How object storage is reached."""

    host: str = "127.0.0.1"
    """Address to listen on."""

    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """TCP port; 0: any free one."""

    tokens_file: str | None = None
    """File with bearer tokens, one a line. `TOKEN:500` has an `imagesPerHour` of its own."""

    images_per_hour: Annotated[int | None, Field(ge=1, le=1_000_000)] = None
    """Images that each token may ask for in an hour. More are refused with 429."""

    insecure: bool = False
    """Serve other addresses than loopback without tokens."""

    queued_images: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Images that may wait. More are refused with 429."""

    images_per_request: Annotated[int, Field(ge=1, le=1000)] = 10
    """Most images of one request."""

    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 600
    """How long a request may take, with the time that it waits."""

    stop_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """How long requests that are under way may take when the server is stopped."""

    adapters: Annotated[int, Field(ge=1, le=1000)] = 16
    """Results of one base model that stay loaded; the least recently used goes first."""

    refresh_seconds: Annotated[float, Field(ge=0, le=86_400)] = 15
    """How old the list of results may be."""

    @model_validator(mode="after")
    def _check_access(self) -> Self:
        tokens = self.tokens()
        if self.tokens_file is not None and not tokens:
            raise ValueError(f"{self.tokens_file}: holds no token; write one a line")
        if self.images_per_hour is not None and not tokens:
            raise ValueError("imagesPerHour: is counted by token; name a file of tokens (--tokens)")
        if not self.insecure and not is_loopback(self.host) and not tokens:
            raise ValueError(
                f"{self.host} can be reached from other machines: name a file of tokens"
                " (--tokens), or serve without any on purpose (--insecure)"
            )
        return self

    def tokens(self) -> dict[str, int | None]:
        """The tokens of the file and of the environment, and the images an hour that each has.

        Empty: everybody is served. None: `images_per_hour`.

        Raises:
            OSError: The file cannot be read.
            ValueError: A token with a number of images is too short.
        """
        text = os.environ.get(TOKENS_VARIABLE, "")
        if self.tokens_file is not None:
            text += "\n" + Path(self.tokens_file).read_text()
        matches = [TOKEN.fullmatch(each) for each in text.split()]
        found = [(each["token"], each["images"]) for each in matches if each]
        for token, images in found:
            if images and len(token) < SHORTEST_TOKEN:
                # Neither part is shown: it may be the secret.
                raise ValueError(
                    "a token ends with a colon and digits, which are read as its images an hour,"
                    f" and the {len(token)} characters before them are too few to be a secret; make"
                    f" that part at least {SHORTEST_TOKEN} long"
                )
        return {token: int(images) if images else None for token, images in found}


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_loopback(header: str) -> bool:
    """Whether a header `Host` names this machine, by `localhost` or a loopback address."""
    with suppress(ValueError):
        return is_loopback(urlsplit(f"//{header}").hostname or "")
    return False
