"""Contact sheets of sample images."""

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from dreambooth_trainer.evaluation.fonts import choose_font, missing_letters

Row = Sequence[Image.Image]

INK, FAINT, PAPER = (28, 32, 38), (110, 116, 124), (255, 255, 255)
SMALLEST_TILE, LARGEST_TILE = 128, 384
MOST_COLUMNS, MOST_LINES = 8, 3
GAP, MARGIN = 6, 18


@dataclass(frozen=True)
class _Strip:
    """Images next to each other, with a name to their left."""

    images: Row
    name: str = ""


@dataclass(frozen=True)
class _Section:
    """A label with strips of images below it."""

    label: str
    strips: Sequence[_Strip]


def grid(rows: Sequence[Row], labels: Sequence[str]) -> Image.Image:
    """A sheet with every row of images below its label.

    Images under 128 px are enlarged, those over 384 px reduced, all to the same square tile; rows
    of more than 8 images are broken.
    """
    return _draw([_Section(label, _broken(row)) for row, label in zip(rows, labels, strict=True)])


def reduce(image: Image.Image) -> Image.Image:
    """The image as `grid` shows it, so that large ones need not be kept."""
    if max(image.size) <= LARGEST_TILE:
        return image
    return _fit(image, LARGEST_TILE)


def before_after(before: Sequence[Row], after: Sequence[Row], labels: Sequence[str]) -> Image.Image:
    """A sheet with two rows below every label: images from before training, and from after.

    Raises:
        ValueError: There are not as many rows as labels.
    """
    sections = [
        _Section(label, [*_broken(old, "before"), *_broken(new, "after")])
        for old, new, label in zip(before, after, labels, strict=True)
    ]
    return _draw(sections)


def _broken(row: Row, name: str = "") -> list[_Strip]:
    starts = range(0, len(row), MOST_COLUMNS)
    return [_Strip(row[i : i + MOST_COLUMNS], name if i == 0 else "") for i in starts]


class _Layout:
    """Sizes in pixels that all sections share."""

    def __init__(self, strips: Sequence[_Strip], labels: Sequence[str]) -> None:
        sides = [max(image.size) for strip in strips for image in strip.images] or [SMALLEST_TILE]
        columns = max((len(strip.images) for strip in strips), default=1)
        self.tile = _tile_side(max(sides))
        size = max(14, self.tile // 10)
        text = "".join(labels)
        self.font = choose_font(text, size)
        self._missing = missing_letters(frozenset(text), self.font)
        self.line = size * 4 // 3
        names = [self.font.getlength(strip.name) for strip in strips if strip.name]
        self.gutter = round(max(names)) + 2 * GAP if names else 0
        self.text_width = max(self.gutter + columns * (self.tile + GAP) - GAP, 2 * SMALLEST_TILE)

    def lines(self, label: str) -> list[str]:
        """The label in lines that fit, three at most."""
        text = self._drawable(label)
        # An estimate from the average width, then one character less at a time: textwrap counts
        # characters, and the font is proportional.
        per_line = int(self.text_width * len(text) / max(1, self.font.getlength(text))) + 1
        lines = [text]
        while max(map(self.font.getlength, lines), default=0) > self.text_width and per_line > 4:
            per_line -= 1
            lines = textwrap.wrap(text, per_line, max_lines=MOST_LINES, placeholder=" ...")
        return lines

    def _drawable(self, label: str) -> str:
        """The label; letters that the font lacks lose their accents, or become code points."""
        return "".join(_spell(each) if each in self._missing else each for each in label)

    def height(self, section: _Section) -> int:
        """Height of a section with the space below it, in pixels."""
        text = len(self.lines(section.label)) * self.line
        return text + GAP + len(section.strips) * (self.tile + GAP) + MARGIN


def _spell(letter: str) -> str:
    base = unicodedata.normalize("NFKD", letter)[0]
    return base if base.isascii() else f"<{ord(letter):04X}>"


def _tile_side(side: int) -> int:
    """Pixels of a tile's side: small images grow by a whole factor, which keeps pixels square."""
    if side >= SMALLEST_TILE:
        return min(side, LARGEST_TILE)
    return side * -(-SMALLEST_TILE // side)


def _draw(sections: Sequence[_Section]) -> Image.Image:
    strips = [strip for section in sections for strip in section.strips]
    layout = _Layout(strips, [section.label for section in sections])
    height = MARGIN + sum(layout.height(section) for section in sections)
    sheet = Image.new("RGB", (layout.text_width + 2 * MARGIN, height), PAPER)
    top = MARGIN
    for section in sections:
        _draw_section(sheet, layout, section, top)
        top += layout.height(section)
    return sheet


def _draw_section(sheet: Image.Image, layout: _Layout, section: _Section, top: int) -> None:
    pen = ImageDraw.Draw(sheet)
    for line in layout.lines(section.label):
        pen.text((MARGIN, top), line, INK, layout.font)
        top += layout.line
    top += GAP
    for strip in section.strips:
        middle = top + layout.tile // 2
        pen.text((MARGIN, middle), strip.name, FAINT, layout.font, anchor="lm")
        left = MARGIN + layout.gutter
        for image in strip.images:
            sheet.paste(_tile(image, layout.tile), (left, top))
            left += layout.tile + GAP
        top += layout.tile + GAP


def _tile(image: Image.Image, side: int) -> Image.Image:
    """The image in a square of `side` pixels, its proportions kept."""
    fitted = _fit(image, side)
    square = Image.new("RGB", (side, side), PAPER)
    square.paste(fitted, ((side - fitted.width) // 2, (side - fitted.height) // 2))
    return square


def _fit(image: Image.Image, side: int) -> Image.Image:
    """The image, its longer side `side` pixels."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
