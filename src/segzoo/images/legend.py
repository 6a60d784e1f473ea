"""The legend of a picture: names beside the colours of classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segzoo.text import line_text

Entry = tuple[str, Sequence[int] | None, str]
"""Name, RGB colour or None for "no class", note."""

PAPER = (255, 255, 255)
INK = (33, 37, 41)
FAINT = (120, 126, 132)


@dataclass(frozen=True)
class Legend:
    """A key to colours: how large it is in so many columns, and its picture.

    Args:
        entries: (name, RGB colour or None for "no class", note), with a note such as "12.3 %"; they run down the
            columns.
        size: height of the text in pixels.
        title: text above the entries.
    """

    entries: Sequence[Entry]
    size: int = 16
    title: str | None = None

    @cached_property
    def pad(self) -> int:
        return round(self.size * 0.7)

    @cached_property
    def swatch(self) -> int:
        return round(self.size * 1.15)

    @cached_property
    def line(self) -> int:
        return round(self.size * 1.65)

    @cached_property
    def gap(self) -> int:
        return round(self.size * 0.55)

    @cached_property
    def title_height(self) -> int:
        return round(self.size * 2.1) if self.title else 0

    @cached_property
    def names(self) -> list[str]:
        return [fit(str(name), 28) for name, _, _ in self.entries]

    @cached_property
    def notes(self) -> list[str]:
        return [str(note) for _, _, note in self.entries]

    @cached_property
    def column_width(self) -> int:
        name_width = max((text_width(name, self.size) for name in self.names), default=0)
        note_width = max((text_width(note, self.size) for note in self.notes), default=0)
        return self.swatch + self.gap + name_width + (2 * self.gap + note_width if note_width else 0)

    def rows(self, columns: int) -> int:
        """Number of entries in the first column."""
        return -(-len(self.entries) // columns) if self.entries else 0

    def extent(self, columns: int) -> tuple[int, int]:
        """Width and height in pixels of the legend in so many columns."""
        title_width = text_width(self.title, round(self.size * 1.15)) if self.title else 0
        width = max(columns * self.column_width + (columns - 1) * 3 * self.gap, title_width) + 2 * self.pad
        return width, self.rows(columns) * self.line + self.title_height + 2 * self.pad

    def draw(self, columns: int = 1) -> Image.Image:
        """The legend as an RGB picture just large enough for it."""
        columns = max(1, min(columns, len(self.entries)))
        canvas = Image.new("RGB", self.extent(columns), PAPER)
        draw = ImageDraw.Draw(canvas)
        if self.title:
            font = font_of(round(self.size * 1.15), self.title)
            draw.text((self.pad, self.pad + self.title_height * 0.38), self.title, INK, font, "lm")
        for index, ((_, colour, _), name, note) in enumerate(zip(self.entries, self.names, self.notes, strict=True)):
            column, row = divmod(index, self.rows(columns))
            x = self.pad + column * (self.column_width + 3 * self.gap)
            middle = self.pad + self.title_height + row * self.line + self.line / 2
            box = [x, middle - self.swatch / 2, x + self.swatch, middle + self.swatch / 2]
            fill = tuple(colour) if colour is not None else PAPER
            draw.rounded_rectangle(box, self.swatch / 5, fill, FAINT)
            if colour is None:
                draw.line([box[0] + 3, box[3] - 3, box[2] - 3, box[1] + 3], FAINT)
            draw.text((x + self.swatch + self.gap, middle), name, INK, font_of(self.size, name), "lm")
            if note:
                draw.text((x + self.column_width, middle), note, FAINT, font_of(self.size, note), "rm")
        return canvas


def fit(text: str, limit: int) -> str:
    """One line of at most ``limit`` characters."""
    text = line_text(text)
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


@lru_cache(maxsize=64)
def _default_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def font_of(size: int, text: str = "") -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, or a system font with more characters if `text` needs one and it is installed."""
    if any(ord(character) > 0x17F for character in text.replace("…", "")):
        for name in ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf", "arial.ttf"):
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return _default_font(size)


def text_width(text: str, size: int) -> int:
    """Width of a text in pixels."""
    return int(np.ceil(font_of(size, text).getlength(text)))
