"""The model card as blocks to show: the few parts of Markdown that cards are written in."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_FRONT_MATTER = re.compile(r"\A---\n.*?^---\n", re.DOTALL | re.MULTILINE)
_SCORES = re.compile(r"^## Scores$.*", re.DOTALL | re.MULTILINE)
_FENCE = re.compile(r"^```.*$\n?", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A heading, a paragraph, code or a list; its texts are plain."""

    kind: Literal["heading", "text", "code", "list"]
    text: str = ""
    items: tuple[str, ...] = ()


def blocks(card: str) -> list[Block]:
    """The blocks of a model card, without its front matter, its title and its scores."""
    card = _SCORES.sub("", _FRONT_MATTER.sub("", card))  # the page has charts of them
    # Every other part is between fences.
    parts = _FENCE.split(card)
    found: list[Block] = []
    for number, part in enumerate(parts):
        found += [Block("code", part.strip("\n"))] if number % 2 else _prose(part)
    return found


def _prose(text: str) -> Iterator[Block]:
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph.startswith("##"):
            yield Block("heading", _plain(paragraph.lstrip("#")))
        elif paragraph.startswith("- "):
            items = re.split(r"^- ", paragraph, flags=re.MULTILINE)[1:]
            yield Block("list", items=tuple(map(_plain, items)))
        elif paragraph and not paragraph.startswith("# "):
            yield Block("text", _plain(paragraph))


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[`*]", "", text).split())
