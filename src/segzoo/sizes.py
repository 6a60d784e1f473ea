"""Sizes of pictures on the command line, in every command in the same words: ``512x1024``, ``512 1024`` or ``512``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

Size = tuple[int, int]

MAX_SIZE = 65536
"""The largest width, size or number of classes: the classes of 16-bit label files, above all widths."""


def read_sizes(words: Sequence[str]) -> list[Size]:
    """Sizes (height, width) in pixels.

    Args:
        words: each ``"512x1024"``; or two neighbouring numbers, ``"512", "1024"``; or a number alone, for a square.

    Raises:
        ValueError: a word that is neither, or more than two numbers in a row.
    """
    sizes: list[Size] = []
    numbers: list[int] = []
    for word in (*words, None):
        sides = [] if word is None else [int(side) for side in word.lower().split("x")]
        if len(sides) > 2 or any(side < 1 for side in sides):
            raise ValueError(word)
        if len(sides) == 1:
            numbers += sides
            continue
        if len(numbers) > 2:
            raise ValueError(" ".join(map(str, numbers)))
        if numbers:
            sizes.append((numbers[0], numbers[-1]))
            numbers = []
        if sides:
            sizes.append((sides[0], sides[1]))
    return sizes


class SizesAction(argparse.Action):
    """An option with any number of sizes; its value is a list of (height, width)."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any):
        super().__init__(option_strings, dest, nargs="+", metavar=settings.pop("metavar", "HEIGHTxWIDTH"), **settings)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            setattr(namespace, self.dest, self.chosen(read_sizes(values)))
        except ValueError as error:
            raise argparse.ArgumentError(
                self, f"{str(error)!r} is no HEIGHTxWIDTH in pixels, such as 512x2048; two numbers are one size"
            ) from None

    def chosen(self, sizes: list[Size]) -> Any:
        """The option's value."""
        return sizes


class SizeAction(SizesAction):
    """An option with one size; its value is (height, width)."""

    def chosen(self, sizes: list[Size]) -> Size:
        """The one size."""
        if len(sizes) != 1:
            raise ValueError(" ".join("x".join(map(str, size)) for size in sizes))
        return sizes[0]


def usual_size(processor: Mapping[str, Any]) -> Size:
    """The size (height, width) that a model is used at: its windows, else its image processor's size for a square picture, else 512x512.

    Args:
        processor: the settings of the image processor; may be empty.
    """
    if window := processor.get("window_size"):
        return tuple(window)
    size = processor.get("size") or {}
    if "height" in size:
        return size["height"], size["width"]
    side = size.get("shortest_edge") or 512
    multiple = processor.get("size_multiple") or 1
    side = -(-side // multiple) * multiple
    return side, side
