"""Windows of large TIFF files, read without the rest of the file, each under an address of its own.

The address window://PATH::row,column,height,width stands for a file of `numpy.save` with the values of that window, so
that whatever reads files by their address reads windows too. They are read by rasterio, in blocks as the file is laid
out; GDAL's cache of blocks is kept small.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from segzoo.errors import SegZooError
from segzoo.regular_files import open_regular

if TYPE_CHECKING:
    import rasterio

Window = tuple[int, int, int, int]
"""(row, column, height, width) in pixels."""

_START = "window://"
_CACHE = 64 * 2**20  # bytes of decoded blocks that GDAL keeps in each process


def is_window(address: str) -> bool:
    """Whether an address names a window of a file."""
    return address.startswith(_START)


def window_address(path: str, row: int, column: int, height: int, width: int) -> str:
    """The address of a window of a file, in pixels; it contains no other address."""
    return f"{_START}{path}::{row},{column},{height},{width}"


def split_window(address: str) -> tuple[str, Window]:
    """The path in the address of a window, and the window."""
    path, _, numbers = address.removeprefix(_START).rpartition("::")
    row, column, height, width = (int(number) for number in numbers.split(","))
    return path, (row, column, height, width)


def window_words(window: Window) -> str:
    """A window as it is shown to people: its rows and columns, counted from 0."""
    row, column, height, width = window
    return f"rows {row}-{row + height - 1}, columns {column}-{column + width - 1}"


def read_window(path: str, window: Window) -> bytes:
    """The values of a window as a file of `numpy.save`: an array (height, width, bands), or (height, width) of one band.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        SegZooError: rasterio is missing.
    """
    row, column, height, width = window
    with _opened(path) as file:
        bands = file.read(window=((row, row + height), (column, column + width)))
    if bands.shape[1:] != (height, width):
        raise OSError(f"the file ends before {window_words(window)}")
    values = bands[0] if len(bands) == 1 else np.moveaxis(bands, 0, -1)
    result = io.BytesIO()
    np.save(result, np.ascontiguousarray(values))
    return result.getvalue()


def file_size(path: str) -> tuple[int, int]:
    """(height, width) of a TIFF file in pixels, from its header.

    Raises:
        SegZooError: the file cannot be opened, or rasterio is missing.
    """
    try:
        with _opened(path) as file:
            return file.height, file.width
    except OSError as error:
        raise SegZooError(
            f"{path}: cannot be opened to be read by windows ({error}); fetch or export it again"
        ) from None


def windows_of(height: int, width: int, tile: int, stride: int) -> Iterator[Window]:
    """(row, column, height, width) of the windows that cover a picture; those at the right and lower edge are smaller.

    With a stride as large as the tile every pixel is in one window.
    """
    for row in _starts(height, tile, stride):
        for column in _starts(width, tile, stride):
            yield row, column, min(tile, height - row), min(tile, width - column)


def _starts(size: int, tile: int, stride: int) -> range:
    return range(0, max(1, size - (tile - stride)), stride)


@contextmanager
def _opened(path: str) -> Iterator[rasterio.DatasetReader]:
    """The open file, quiet about files without coordinates."""
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError:
        raise SegZooError(
            f'{path}: windows of files are read by rasterio, which is missing; pip install "segzoo[geo]"'
        ) from None
    with open_regular(path):  # GDAL has no error of its own for a file that is missing
        pass
    with rasterio.Env(GDAL_CACHEMAX=_CACHE), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            yield file
