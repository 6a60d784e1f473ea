"""Writing the prepared files of one picture of a release."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import PIL.Image

from segzoo.data.preparation.content import content_of
from segzoo.data.preparation.release import PARTS, Item
from segzoo.errors import SegZooError
from segzoo.files import sha256_of, write_whole
from segzoo.images.archives import readable
from segzoo.images.reading import decode_image, read_header

_KEPT = {".jpg", ".jpeg", ".png"}
"""Formats of pictures that are copied byte for byte, unless they are cut."""


def write_item(item: Item, target: Path) -> dict[str, str]:
    """Write what one item becomes, or read what an earlier run wrote of it.

    Args:
        item: the picture and its mask.
        target: the prepared tree.

    Returns:
        SHA-256 of the files by their path in the tree.

    Raises:
        SegZooError: a file cannot be read, or picture and mask differ in size; the message names it.
        OSError: a file cannot be written.
    """
    names = dict(_names(item))
    paths = [path for pair in names.values() for path in pair if path is not None]
    if all((target / path).is_file() for path in paths):
        return {path: sha256_of(target / path) for path in paths}
    return dict(_written(item, names, target))


def _written(item: Item, names: dict, target: Path) -> Iterator[tuple[str, str]]:
    """Path and SHA-256 of the files, in the order in which they are written."""
    ids = None if item.mask is None else item.mask.ids()
    content = content_of(item.picture)
    name = readable(item.picture)
    if ids is not None:
        width, height = read_header(content, name=name).size
        if ids.shape != (height, width):
            raise SegZooError(
                f"{name}: the picture is {width}x{height} and its mask {readable(item.mask.address)} "
                f"{ids.shape[1]}x{ids.shape[0]} (width x height); one of them is not the released file"
            )
    if item.tiling is None:
        kept = _suffix(item) != ".png" or PurePosixPath(item.picture.split("::")[0]).suffix.casefold() == ".png"
        picture = content if kept else _png(decode_image(content, name=name))
        yield from _files(names[None], target, picture, None if ids is None else _png(ids))
        return
    pixels = decode_image(content, name=name)
    for box, paths in names.items():
        mask = None if ids is None else _png(item.tiling.cut(ids, box, fill=255))
        yield from _files(paths, target, _png(item.tiling.cut(pixels, box, fill=0)), mask)


def _files(
    paths: tuple[str, str | None], target: Path, picture: bytes, mask: bytes | None
) -> Iterator[tuple[str, str]]:
    for path, content in zip(paths, (picture, mask), strict=True):
        if path is not None and content is not None:
            write_whole(target / path, content)
            yield path, hashlib.sha256(content).hexdigest()


def _names(item: Item) -> Iterator[tuple[tuple[int, int, int, int] | None, tuple[str, str | None]]]:
    """Boxes of the tiles, or None for a whole picture, and the paths of picture and mask in the tree."""
    if item.tiling is None:
        yield None, _paths(item, "", _suffix(item))
        return
    width, height = read_header(content_of(item.picture), name=readable(item.picture)).size
    for box in item.tiling.boxes(height, width):
        yield box, _paths(item, f"_{item.tiling.name(box)}", ".png")


def _paths(item: Item, end: str, suffix: str) -> tuple[str, str | None]:
    part = PARTS[item.part]
    mask = None if item.mask is None else f"annotations/{part}/{item.stem}{end}.png"
    return f"images/{part}/{item.stem}{end}{suffix}", mask


def _suffix(item: Item) -> str:
    """The extension of a whole picture: its own, or that of PNG for formats that are seldom read."""
    suffix = PurePosixPath(item.picture.split("::")[0]).suffix.casefold()
    return suffix if suffix in _KEPT else ".png"


def _png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, format="PNG", compress_level=4)
    return file.getvalue()
