"""Tiles of large pictures, at the positions at which mmsegmentation's converters cut them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are outside."""


@dataclass(frozen=True)
class Tiling:
    """Square tiles at multiples of a step; the last ones are moved back to end at the border.

    Attributes:
        size: side of a tile in pixels.
        step: distance between tiles in pixels.
        name: end of a tile's file name, by its box.
        pad: whether pictures smaller than a tile are enlarged to it, on the right and below, with black and the label
            255; otherwise their tiles are as small as they are.
    """

    size: int
    step: int
    name: Callable[[Box], str]
    pad: bool = False

    @property
    def cover(self) -> float:
        """How many tiles hold a pixel of a large picture."""
        return (self.size / self.step) ** 2

    def starts(self, length: int) -> list[int]:
        """Positions of the tiles along a side of ``length`` pixels."""
        last = max(0, length - self.size)
        # A tile that begins inside the picture but ends outside is moved back to the border.
        return sorted({min(start, last) for start in range(0, max(1, length), self.step)})

    def boxes(self, height: int, width: int) -> Iterator[Box]:
        """The tiles of a picture, from left to right and from top to bottom."""
        if self.pad:
            height, width = max(height, self.size), max(width, self.size)
        for top in self.starts(height):
            for left in self.starts(width):
                yield left, top, min(left + self.size, width), min(top + self.size, height)

    def cut(self, array: np.ndarray, box: Box, fill: int) -> np.ndarray:
        """The part of a picture or mask in a box; outside of it is ``fill``."""
        left, top, right, bottom = box
        part = array[top:bottom, left:right]
        missing = (bottom - top - part.shape[0], right - left - part.shape[1])
        if any(missing):
            margins = [(0, missing[0]), (0, missing[1]), *[(0, 0)] * (array.ndim - 2)]
            part = np.pad(part, margins, constant_values=fill)
        return part


def left_top_right_bottom(box: Box) -> str:
    """As the tiles of Potsdam and Vaihingen are named."""
    return "_".join(map(str, box))


def top_bottom_left_right(box: Box) -> str:
    """As the tiles of iSAID are named."""
    left, top, right, bottom = box
    return f"{top}_{bottom}_{left}_{right}"
