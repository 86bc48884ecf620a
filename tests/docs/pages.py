"""The project's pages for people, taken apart: code blocks, links, headings, words in code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Page:
    """A Markdown file."""

    path: Path

    def __str__(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """Everything but the blocks of code."""
        return FENCE.sub("", self.text)

    @property
    def blocks(self) -> Iterator[Block]:
        for match in FENCE.finditer(self.text):
            line = self.text.count("\n", 0, match.start()) + 2
            yield Block(str(self), line, match[1], match[2])

    @property
    def links(self) -> list[str]:
        return LINK.findall(CODE.sub("", self.prose))

    @property
    def codes(self) -> list[str]:
        return CODE.findall(self.prose)

    @cached_property
    def anchors(self) -> set[str]:
        """What can stand behind `#` in a link to this page, as GitHub makes it of headings."""
        anchors: set[str] = set()
        for heading in HEADING.findall(self.prose):
            base = slug = _slug(heading)
            number = 0
            while slug in anchors:
                number += 1
                slug = f"{base}-{number}"
            anchors.add(slug)
        return anchors


def _slug(heading: str) -> str:
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


PAGES = [
    Page(path)
    for path in (
        ROOT / "README.md",
        *sorted(path for path in ROOT.glob("*.md") if path.name != "README.md"),
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "docs" / "adr").glob("*.md")),
        ROOT / "charts" / "dreambooth-operator" / "README.md",
        ROOT / "tests" / "README.md",
        ROOT / "tests" / "cluster" / "README.md",
        ROOT / "examples" / "tiny-flow" / "README.md",
        ROOT / "examples" / "tiny-sd" / "README.md",
    )
]
BLOCKS = [block for page in PAGES for block in page.blocks]


def page(name: str) -> Page:
    """A page by its path in the repository."""
    (match,) = (page for page in PAGES if str(page) == name)
    return match
