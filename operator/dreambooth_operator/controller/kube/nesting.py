"""Bounds how deep a response of the API server may be nested, before any parser reads it.

Kubernetes lets a user nest the fields that a CRD does not describe by thousands of levels, and
Python's parser raises RecursionError from about a thousand, for the whole list or watch that the
object is in.
"""

import re
from collections.abc import AsyncIterator
from itertools import accumulate
from typing import Any

import aiohttp

MAX_DEPTH = 128
"""Levels of a response that are read. A pod has about 15, a list of pods two more."""

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_BRACKET_OR_STRING = re.compile(rb"[\[\]{}]|" + _STRING, re.DOTALL)
_STRINGS = re.compile(_STRING, re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def limit_depth(data: bytes, limit: int = MAX_DEPTH) -> bytes:
    """JSON text in which every value below `limit` levels is null; usually `data` itself."""
    if data.count(b"{") + data.count(b"[") <= limit:
        return data
    brackets = _STRINGS.sub(b"", data).translate(None, _NOT_BRACKETS)
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) <= limit:
        return data
    return b"".join(_cut(data, limit))


def _cut(data: bytes, limit: int) -> list[bytes]:
    kept, depth, start = [], 0, 0
    for token in _BRACKET_OR_STRING.finditer(data):
        if token[0] in (b"{", b"["):
            depth += 1
            if depth == limit + 1:
                kept += [data[start : token.start()], b"null"]
        elif token[0] in (b"}", b"]"):
            if depth == limit + 1:
                start = token.end()
            depth -= 1
    return [*kept, data[start:]]


class BoundedResponse(aiohttp.ClientResponse):
    """A response whose JSON is never nested deeper than `MAX_DEPTH`."""

    async def start(self, connection: Any) -> "BoundedResponse":
        """Begin to read the response."""
        await super().start(connection)
        self.content: Any = _BoundedContent(self.content)
        return self


class _BoundedContent:
    """The two ways in which bodies are read: as a whole, and a watch line by line."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def read(self) -> bytes:
        """Read the whole body."""
        return limit_depth(await self._content.read())

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Yield the lines of a watch: each is an event."""
        rest: list[bytes] = []
        async for chunk in self._content.iter_chunked(size):
            *lines, last = chunk.split(b"\n")
            for line in lines:
                yield limit_depth(b"".join([*rest, line])) + b"\n"
                rest = []
            rest.append(last)
        if any(rest):
            yield limit_depth(b"".join(rest))
