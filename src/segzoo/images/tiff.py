"""Reading TIFF files that Pillow cannot, with tifffile: many bands, floats or 16 bits with several bands."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import PIL.Image
from PIL.TiffImagePlugin import SAMPLESPERPIXEL, ImageFileDirectory_v2

from segzoo.errors import SegZooError

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION = 274
"""Number of the tag."""


class TooLargeError(OSError):
    """A TIFF file with more pixels than Pillow's limit."""


@dataclass(frozen=True)
class Bands:
    """The first picture of a TIFF file.

    Attributes:
        size: (height, width) as stored.
        channels: number of bands.
        dtype: type of the values.
        orientation: EXIF orientation, 1 to 8.
        values: array (height, width, channels); None if only the header was read.
    """

    size: tuple[int, int]
    channels: int
    dtype: np.dtype
    orientation: int
    values: np.ndarray | None = None


def is_tiff(file: BinaryIO) -> bool:
    """Whether a file begins as TIFF files do; its position is 0 afterwards."""
    file.seek(0)
    magic = file.read(4)
    file.seek(0)
    return magic in _MAGIC


def samples_per_pixel(file: BinaryIO) -> int:
    """Number of bands in a TIFF file's first directory, 1 if not stated; the position is 0 before and after."""
    return first_number(file, SAMPLESPERPIXEL, 1)


def first_number(file: BinaryIO, tag: int, default: int) -> int:
    """The first number of a tag in a TIFF file's first directory, which is given where it is not stated.

    The file's position is 0 before and after. Reading a broken file will report what is wrong with it.
    """
    try:
        header = file.read(8)
        if header[2] == 43 or header[3] == 43:  # BigTIFF: offsets of 64 bits
            header += file.read(8)
        directory = ImageFileDirectory_v2(header)
        file.seek(directory.next)
        directory.load(file)
        found = directory.get(tag, default)
        return int(found[0] if isinstance(found, tuple) else found)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error):
        return default
    finally:
        file.seek(0)


def read_bands(file: BinaryIO, name: str, *, header_only: bool = False) -> Bands:
    """The first picture of a TIFF file with all its bands.

    Args:
        file: the file, opened in binary mode.
        name: name in messages.
        header_only: do not read the pixels.

    Raises:
        SegZooError: a library is missing; the message has the command that installs it.
        OSError: the file is broken, is not a two-dimensional picture, or has more pixels than Pillow's limit (TooLargeError).
    """
    try:
        import tifffile
    except ImportError:
        raise SegZooError(
            f"{name}: Pillow cannot read all of this TIFF file (several bands, or bands of more than 8 bits); install "
            "the library that does: pip install tifffile (or segzoo[tiff])."
        ) from None
    file.seek(0)
    try:
        with tifffile.TiffFile(file) as opened:
            page = opened.pages[0]
            axes, dtype = page.axes, page.dtype
            size, limit = (page.imagelength, page.imagewidth), PIL.Image.MAX_IMAGE_PIXELS
            if sorted(axes.replace("S", "")) != ["X", "Y"] or dtype is None:
                raise OSError(f"a TIFF file of axes {axes} and type {dtype} is no picture")
            if limit is not None and size[0] * size[1] > 2 * limit:
                raise TooLargeError(f"{size[0] * size[1]} pixels, above Pillow's limit of {2 * limit}")
            tag = page.tags.get(ORIENTATION)
            orientation = int(tag.value) if tag is not None and 1 <= int(tag.value) <= 8 else 1
            values = None
            if not header_only:
                values = page.asarray()
                values = np.moveaxis(values, axes.index("S"), -1) if "S" in axes else values[..., None]
            return Bands(size, page.samplesperpixel, np.dtype(dtype), orientation, values)
    except OSError:
        raise
    except Exception as error:  # tifffile and its codecs raise errors of many types
        if "imagecodecs" in str(error):
            raise SegZooError(
                f"{name}: its compression takes one more library; pip install imagecodecs, or save it uncompressed."
            ) from None
        raise OSError(str(error) or type(error).__name__) from error
