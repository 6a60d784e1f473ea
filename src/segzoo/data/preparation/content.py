"""Masks of released data sets as class ids."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from segzoo.data.label_encodings import Color
from segzoo.errors import SegZooError
from segzoo.images.archives import read_address, readable
from segzoo.images.masks import class_ids
from segzoo.images.reading import Picture, open_picture

Decoder = Callable[[bytes, str], np.ndarray]
"""Makes class ids, uint8 (height, width), of the content of a file and its name for messages."""


@dataclass(frozen=True)
class Content:
    """A file and what its content means.

    Attributes:
        address: the file.
        decode: makes class ids of it.
    """

    address: str
    decode: Decoder

    def ids(self) -> np.ndarray:
        """The class ids, uint8 (height, width).

        Raises:
            SegZooError: the file cannot be read, or holds something else than it should.
        """
        return self.decode(content_of(self.address), readable(self.address))

    @property
    def num_bytes(self) -> int:
        """Size of the file, in an archive of the unpacked file."""
        return size_of(self.address)


@dataclass(frozen=True)
class Regions:
    """Regions of one picture in a file of many pictures' annotations; what no region covers is 0.

    Attributes:
        address: the file, for messages.
        size: (height, width) of the picture.
        regions: class id and COCO's compressed run lengths of each region; later ones lie over earlier ones.
    """

    address: str
    size: tuple[int, int]
    regions: tuple[tuple[int, str], ...]

    def ids(self) -> np.ndarray:
        """The class ids, uint8 (height, width).

        Raises:
            SegZooError: the run lengths of a region are broken.
        """
        height, width = self.size
        ids = np.zeros(width * height, np.uint8)  # column by column
        for label, text in self.regions:
            lengths = run_lengths(text)
            if sum(lengths) != len(ids) or min(lengths, default=0) < 0:
                raise SegZooError(
                    f"{readable(self.address)}: the run lengths of a region do not fill a picture of {width}x{height} "
                    "(width x height); download it again"
                )
            inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
            ids[inside] = label
        return np.ascontiguousarray(ids.reshape(width, height).T)

    @property
    def num_bytes(self) -> int:
        """Size of the run lengths."""
        return sum(len(text) for _, text in self.regions)


def run_lengths(text: str) -> list[int]:
    """Numbers of pixels outside, inside, outside ... of a region, column by column, from COCO's compressed form.

    Each number is written in groups of five bits, the lowest first, as characters from "0" on; a sixth bit says that more
    follow. From the fourth number on it is the difference from the number before the previous one.
    """
    lengths: list[int] = []
    number = shift = 0
    for character in text:
        group = ord(character) - 48
        number |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:  # the sign
            number -= 1 << shift
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
        number = shift = 0
    return lengths


def content_of(address: str) -> bytes:
    """The content of a file, unpacked where its name ends in ``.gz``.

    Raises:
        SegZooError: the file cannot be read.
    """
    try:
        content = read_address(address)
        return gzip.decompress(content) if address.split("::")[0].casefold().endswith(".gz") else content
    except (OSError, EOFError) as error:
        raise SegZooError(f"{readable(address)}: the file cannot be read ({error}); download it again") from None


def size_of(address: str) -> int:
    """Bytes of a file, of one in an archive when it is unpacked."""
    if not address.startswith("zip://"):
        return os.stat(address).st_size
    member, _, archive = address.removeprefix("zip://").partition("::")
    return _sizes_in(archive)[member]


@cache
def _sizes_in(archive: str) -> dict[str, int]:
    with zipfile.ZipFile(archive) as file:
        return {info.filename: info.file_size for info in file.infolist()}


@dataclass(frozen=True)
class StoredIds:
    """A picture that holds ids.

    Attributes:
        table: class id by stored id; None keeps the stored ids.
        other: class id of stored ids that are not in ``table``; None makes them an error.
    """

    table: Mapping[int, int] | None = None
    other: int | None = None

    def __call__(self, content: bytes, name: str) -> np.ndarray:
        ids = class_ids(_picture(content, name), on_note=lambda text: None)
        return translated(ids, self.table, self.other, name)


@dataclass(frozen=True)
class MatlabIds:
    """A MATLAB file that holds ids.

    Attributes:
        path: names of the variable and of fields below it.
        table, other: as in `StoredIds`.
    """

    path: tuple[str, ...]
    table: Mapping[int, int] | None = None
    other: int | None = None

    def __call__(self, content: bytes, name: str) -> np.ndarray:
        import scipy.io

        try:
            found = scipy.io.loadmat(io.BytesIO(content), variable_names=self.path[:1])
            value = found[self.path[0]]
            for field in self.path[1:]:
                value = value[field][0, 0]
        except NotImplementedError:
            raise SegZooError(
                f"{name}: a MATLAB file of version 7.3; save it with -v7, as the release has it"
            ) from None
        except (KeyError, ValueError, IndexError, TypeError, OSError) as error:
            raise SegZooError(f"{name}: no MATLAB file with {'.'.join(self.path)} ({error})") from None
        if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "iu":
            raise SegZooError(f"{name}: {'.'.join(self.path)} is no table of whole numbers")
        return translated(value.astype(np.int32), self.table, self.other, name)


@dataclass(frozen=True)
class Colours:
    """A picture in colours.

    Attributes:
        table: class id by colour (red, green, blue).
        other: class id of every other colour; None makes one an error.
    """

    table: Mapping[Color, int]
    other: int | None = None

    def __call__(self, content: bytes, name: str) -> np.ndarray:
        rgb = _picture(content, name).grey_levels(3).astype(np.int32)
        packed = (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
        ids = np.full(packed.shape, 255, np.uint8)
        known = np.zeros(packed.shape, bool)
        for (red, green, blue), label in self.table.items():
            here = packed == (red << 16 | green << 8 | blue)
            ids[here] = label
            known |= here
        if not known.all():
            if self.other is None:
                colour = tuple(int(value) for value in rgb[~known][0])
                raise SegZooError(
                    f"{name}: {np.count_nonzero(~known):,} pixels have no class's colour, such as {colour}"
                )
            ids[~known] = self.other
        return ids


def vessels(content: bytes, name: str) -> np.ndarray:
    """Vessels (1) are at least half as bright as white, all else is background (0)."""
    return _picture(content, name).grey_levels(1)[..., 0] // 128


def translated(ids: np.ndarray, table: Mapping[int, int] | None, other: int | None, name: str) -> np.ndarray:
    """Class ids of stored ids, as uint8; arguments as in `StoredIds`.

    Raises:
        SegZooError: an id is not in the table and there is no ``other``, or does not fit into 8 bits.
    """
    if table is not None:
        found, inverse = np.unique(ids, return_inverse=True)
        unknown = [int(stored) for stored in found if int(stored) not in table]
        if unknown and other is None:
            raise SegZooError(f"{name}: id {unknown[0]} is none of the data set's")
        ids = np.array([table.get(int(stored), other) for stored in found])[inverse].reshape(ids.shape)
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= 255:
        raise SegZooError(f"{name}: ids from {ids.min()} to {ids.max()} do not fit into 8 bits")
    return ids.astype(np.uint8)


def _picture(content: bytes, name: str) -> Picture:
    return open_picture(content, name=name, what="mask")
