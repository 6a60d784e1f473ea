"""Reading pictures from files, bytes, tables and arrays: as they are stored, and as the grey levels that a model
takes.

Training, evaluation, the image processor and all commands read pictures with this module. It needs NumPy and Pillow
only.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import PIL.Image
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, SAMPLESPERPIXEL

from segzoo.errors import SegZooError, first_line
from segzoo.images.archives import is_address, read_address, readable
from segzoo.images.kinds import seems_to_be
from segzoo.images.plain import START, PlainFile, may_be_plain, plain_file
from segzoo.images.tiff import ORIENTATION, TooLargeError, is_tiff, read_bands, samples_per_pixel
from segzoo.images.values import EIGHT_BITS, ValueRule, grey_levels, value_rule
from segzoo.regular_files import open_regular
from segzoo.shortages import is_shortage

_LOSSY_FORMATS = frozenset({"JPEG", "MPO"})
# How an upright picture is turned to what an orientation says is stored.
_AS_STORED = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_90,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_270,
}
# Modes whose values Pillow would clip when it converts them; all are grey.
_DEEP_MODES = {"I": np.int32, "F": np.float32} | dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), np.uint16)

Decoder: TypeAlias = Callable[[PIL.Image.Image | PlainFile, BinaryIO], np.ndarray | None]
"""Decodes a file of which format and mode are known to uint8 (height, width, 3) or, grey, (height, width), neither turned
nor reduced; None: it cannot. It decodes no PNG file that may say how the picture is to be turned."""


class CorruptImageError(SegZooError):
    """A picture or mask that is missing or cannot be read; the message names the file."""


@dataclass(frozen=True)
class Picture:
    """A picture or mask as it is stored: decoded, but neither turned nor converted.

    Attributes:
        stored: Pillow's image, or an array (height, width, channels) or (height, width).
        name: name in messages.
        orientation: EXIF orientation, 1 to 8.
        lossy: whether the file was compressed with losses, as far as is known.
        full_size: (height, width) in the file, if the picture was decoded at a reduced size.
    """

    stored: PIL.Image.Image | np.ndarray
    name: str
    orientation: int = 1
    lossy: bool = False
    full_size: tuple[int, int] | None = None

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) as stored, before the picture is turned upright, and before it was reduced."""
        if self.full_size is not None:
            return self.full_size
        if isinstance(self.stored, np.ndarray):
            return self.stored.shape[:2]
        return self.stored.height, self.stored.width

    @property
    def rule(self) -> ValueRule:
        """The rule by which the values become grey levels."""
        if isinstance(self.stored, np.ndarray):
            return value_rule(self.stored.dtype)
        return value_rule(_stored_type(self.stored))

    def grey_levels(self, num_channels: int = 3, *, convert: bool = True) -> np.ndarray:
        """The upright picture with the channels that a model takes.

        For three channels grey is repeated, palettes and CMYK become RGB, and a fourth channel (alpha) is dropped; for
        one channel colours become grey. For any other number the picture must have exactly that many.

        Args:
            num_channels: channels that the model takes.
            convert: whether to convert; False makes another number of channels an error.

        Returns:
            uint8 array (height, width, num_channels).

        Raises:
            SegZooError: another number of channels, or values that do not fit into 0..255 (see
                `segzoo.images.values.grey_levels`).
        """
        stored = self.stored
        if isinstance(stored, PIL.Image.Image):
            mode = {1: "L", 3: "RGB"}.get(num_channels, stored.mode) if convert else stored.mode
            if stored.mode not in (mode, *_DEEP_MODES):  # Pillow would copy a picture of the same mode
                stored = stored.convert(mode)
            stored = np.array(stored, dtype=_stored_type(stored))
        if stored.ndim == 2:
            stored = stored[..., None]
        bands = np.moveaxis(grey_levels(stored, self.name), -1, 0)
        bands = fit_channels(bands, num_channels, self.name, convert=convert)
        return upright(np.moveaxis(bands, 0, -1), self.orientation)


@dataclass(frozen=True)
class Header:
    """What is known about a file without decoding its pixels.

    Attributes:
        format: Pillow's name of the file format, such as "PNG"; None for a picture in memory.
        mode: Pillow's mode; for TIFF files that Pillow cannot read, the number and type of the bands.
        size: (width, height) as stored.
        orientation: EXIF orientation, 1 to 8.
        rule: the rule by which the values become grey levels.
        channels: number of bands of an array, or of a TIFF file that Pillow cannot read, else None.
        lossy: whether the file was compressed with losses, as far as is known.
    """

    format: str | None
    mode: str
    size: tuple[int, int]
    orientation: int
    rule: ValueRule
    channels: int | None = None
    lossy: bool = False

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) of the upright picture."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def open_picture(
    source: Any,
    *,
    name: str | None = None,
    what: str = "image",
    wanted: Callable[[tuple[int, int]], tuple[int, int]] | None = None,
    decoder: Decoder | None = None,
) -> Picture:
    """Read and decode a picture or mask.

    Args:
        source: path (a picture, or an array of `numpy.save`), address (zip://, hf://, https://), the bytes of a file,
            PIL image, array (height, width) or
            (height, width, channels), or the `{"path", "bytes"}` of an undecoded `datasets` column.
        name: name in messages; by default the path.
        what: kind of the source in messages, such as "image" or "mask".
        wanted: function of the upright size that returns the smallest (height, width) that will do: a JPEG file is then
            decoded at 1/2, 1/4 or 1/8 of its size, if that is no smaller. None: whole.
        decoder: decodes files in Pillow's place where it can.

    Raises:
        CorruptImageError: the file is missing, corrupt or not an image; the message names it.
        SegZooError: a TIFF file needs a library that is missing, or the source is of another type.
    """
    source, name = _named(source, name, what)
    if isinstance(source, np.ndarray):
        return Picture(_one_picture(source, name, what).copy(), name)
    with _faults_of(name, what):
        if isinstance(source, PIL.Image.Image):
            stored, orientation = _loaded(source)
            return Picture(stored, name, orientation, source.format in _LOSSY_FORMATS)
        with _opened(source) as file:
            if decoder is not None and wanted is None:
                plain = _plainly_decoded(file, name, decoder)
                if isinstance(plain, Picture):
                    return plain
                if plain is not None:
                    decoder = None  # it need not try again
            array = _array(file, name, what)
            if array is not None:
                return Picture(array, name)
            image = _identified(file, name, what)
            if image is None:
                bands = read_bands(file, name)
                return Picture(bands.values, name, bands.orientation)
            lossy = is_lossy(file, image.format)
            full_size = None if wanted is None else _reduce(image, wanted)
            decoded = None if decoder is None or full_size is not None else decoder(image, file)
            if decoded is not None:
                # Of a PNG file Pillow would decode the pixels first, for the orientation may come after them.
                return Picture(decoded, name, 1 if image.format == "PNG" else _orientation(image), lossy)
            image, orientation = _loaded(image)
            return Picture(image, name, orientation, lossy, full_size)


def read_header(source: Any, *, name: str | None = None) -> Header:
    """The header of a file or PIL image; arguments and errors as in `open_picture`, but arrays are not accepted."""
    source, name = _named(source, name, "image")
    with _faults_of(name, "image"):
        if isinstance(source, PIL.Image.Image):
            return _header(source)
        with _opened(source) as file:
            array = _array(file, name, "image")
            if array is not None:
                channels = array.shape[2] if array.ndim == 3 else 1
                size = array.shape[1::-1]
                return Header("NPY", f"{channels} x {array.dtype}", size, 1, value_rule(array.dtype), channels)
            image = _identified(file, name, "image")
            if image is not None:
                return replace(_header(image), lossy=is_lossy(file, image.format))
            bands = read_bands(file, name, header_only=True)
            mode = f"{bands.channels} x {bands.dtype}"
            size = bands.size[::-1]
            return Header("TIFF", mode, size, bands.orientation, value_rule(bands.dtype), bands.channels)


def decode_image(source: Any, *, name: str | None = None, num_channels: int = 3) -> np.ndarray:
    """Read a picture as upright grey levels, by default RGB.

    Grey, palette, RGBA (alpha dropped) and CMYK are converted, EXIF rotation is applied, and values of more than 8
    bits become 0..255 by the rule of their type (`segzoo.images.values.value_rule`).

    Args:
        source: any source of `open_picture`.
        name: name in messages; by default the path.
        num_channels: channels that the model takes; see `Picture.grey_levels`.

    Returns:
        uint8 array (height, width, num_channels).

    Raises:
        CorruptImageError: the file is missing, corrupt or not an image; the message names it.
        SegZooError: another number of channels, or values that do not fit into 0..255.
    """
    return open_picture(source, name=name).grey_levels(num_channels)


def read_bytes(source: Any) -> bytes:
    """The undecoded bytes of a file that a value of a table names or holds.

    Args:
        source: path, address inside a zip archive (zip://picture.jpg::archive.zip) or on the Hub, bytes, or the
            `{"path", "bytes"}` of an undecoded `datasets` column.

    Raises:
        CorruptImageError: there is no such file, or it cannot be read.
    """
    if isinstance(source, Mapping):
        data = source.get("bytes")
        source = source.get("path") if data is None else data
    if isinstance(source, bytes):
        return source
    if source is None:
        raise CorruptImageError("There is no file here: neither a path nor bytes.")
    path = os.fspath(source)
    try:
        return read_address(path)
    except FileNotFoundError:
        raise CorruptImageError(f"{readable(path)}: the file does not exist.") from None
    except OSError as error:
        if is_shortage(error):
            raise
        raise CorruptImageError(f"{readable(path)}: the file cannot be read ({first_line(error)}).") from error


def fit_channels(bands: Any, num_channels: int, name: str, *, convert: bool = True) -> Any:
    """Convert bands (channels, height, width) to another number of channels, by the rules of `Picture.grey_levels`.

    Args:
        bands: array or tensor; colours become grey in uint8 only.
        num_channels: channels of the result.
        name: name in messages.
        convert: whether to convert; False makes another number of channels an error.

    Returns:
        An array or tensor (num_channels, height, width), of the same type.

    Raises:
        SegZooError: the bands cannot be converted.
    """
    found = bands.shape[0]
    if found == num_channels:
        return bands
    if convert and num_channels == 3 and found in (1, 4):
        return bands[[0, 0, 0]] if found == 1 else bands[:3]
    if convert and num_channels == 1 and found in (3, 4) and str(bands.dtype).endswith("uint8"):
        # Pillow's whole-number weights; the sum stays below 2**24, so floats are exact.
        grey = (19595.0 * bands[:1] + 38470.0 * bands[1:2] + 7471.0 * bands[2:3] + 32768.0) // 65536
        return grey.astype(np.uint8) if isinstance(grey, np.ndarray) else grey.byte()
    raise channel_mismatch(found, num_channels, name)


def channel_mismatch(found: int, expected: int, name: str, where: str = "") -> SegZooError:
    """The error for a picture with the wrong number of channels; `where` is added after the number in the message."""
    return SegZooError(
        f"{name} has {found} channels{where}, the model and its image processor expect {expected}; give pictures of "
        f"{expected} channels, or take a model with num_channels={found} (a new one: segzoo train --backbone NAME "
        f"--num_channels {found})."
    )


def in_colour(levels: np.ndarray) -> np.ndarray:
    """Grey levels (height, width, channels) as RGB for people: the first three channels, or the first one in grey."""
    return levels[..., :3] if levels.shape[-1] >= 3 else np.repeat(levels[..., :1], 3, axis=-1)


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """An array (height, width, ...) rotated and mirrored from an EXIF orientation (1 to 8) to upright, contiguous."""
    if orientation in (5, 7):
        array = array.swapaxes(0, 1)
    if orientation in (6, 8):
        array = np.rot90(array, -1 if orientation == 6 else 1)
    if orientation in (3, 4, 7):
        array = array[::-1]
    if orientation in (2, 3, 7):
        array = array[:, ::-1]
    # Along sides of one pixel, NumPy takes negative strides for contiguous, and torch takes none of them.
    return np.ascontiguousarray(array) if min(array.strides) >= 0 else array.copy()


def _named(source: Any, name: str | None, what: str) -> tuple[Any, str]:
    """A source without its mapping (a path, bytes, image or array), and its name in messages."""
    if isinstance(source, Mapping):
        path, data = source.get("path"), source.get("bytes")
        name = name or path
        source = path if data is None else data
    elif isinstance(source, str | os.PathLike):
        name = name or os.fspath(source)
    name = readable(str(name or getattr(source, "filename", None) or f"<{what} without a file name>"))
    if source is None:
        raise CorruptImageError(f"{name}: there is no {what} here. Give a path, bytes or a PIL image.")
    if not isinstance(source, str | os.PathLike | bytes | np.ndarray | PIL.Image.Image):
        raise SegZooError(
            f"{name}: the {what} is of type {type(source).__name__}; give a path, bytes, a PIL image or a NumPy array"
        )
    return source, name


@contextmanager
def _faults_of(name: str, what: str) -> Iterator[None]:
    """A context that turns errors of reading a file into a `CorruptImageError` with its name."""
    try:
        yield
    except SegZooError:
        raise
    except FileNotFoundError:
        raise CorruptImageError(f"{name}: the {what} file does not exist.") from None
    except (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError) as error:
        if is_shortage(error):
            raise
        fix = "Fetch or export the file again, or take it out."
        if isinstance(error, TooLargeError | PIL.Image.DecompressionBombError):
            fix = "Read a folder of TIFF files by windows (--tile 1024), or cut it."
        raise CorruptImageError(f"{name}: the {what} cannot be read ({first_line(error)}). {fix}") from error


def _opened(source: Any) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    path = os.fspath(source)
    return io.BytesIO(read_address(path)) if is_address(path) else open_regular(path)


def _plainly_decoded(file: BinaryIO, name: str, decoder: Decoder) -> Picture | PlainFile | None:
    """The picture in a plain file; the plain file if it cannot be decoded; None: it is another file, to be read from its start."""
    start = file.read(START)
    content = start + file.read() if may_be_plain(start) else b""
    file.seek(0)
    plain = plain_file(content)
    limit = PIL.Image.MAX_IMAGE_PIXELS  # beyond which Pillow warns or refuses
    if plain is None or (limit is not None and plain.size[0] * plain.size[1] > limit):
        return None
    decoded = decoder(plain, io.BytesIO(content))
    return plain if decoded is None else Picture(decoded, name, lossy=plain.format in _LOSSY_FORMATS)


def is_lossy(file: BinaryIO, form: str | None) -> bool:
    """Whether a picture file was compressed with losses: JPEG, and WebP unless it is lossless.

    Args:
        file: the file; its position is kept.
        form: Pillow's name of its format.
    """
    if form != "WEBP":
        return form in _LOSSY_FORMATS
    place = file.tell()
    file.seek(0)
    start = file.read(1 << 16)
    file.seek(place)
    position = 12  # chunks of a name, a size and so many bytes, filled up to an even number
    while position + 8 <= len(start):
        chunk = start[position : position + 4]
        if chunk in (b"VP8 ", b"VP8L"):
            return chunk == b"VP8 "
        size = int.from_bytes(start[position + 4 : position + 8], "little")
        position += 8 + size + size % 2
    return False


def _array(file: BinaryIO, name: str, what: str) -> np.ndarray | None:
    """The array (height, width) or (height, width, channels) in a file of `numpy.save`; None for other files."""
    is_array = file.read(6) == b"\x93NUMPY"
    file.seek(0)
    if not is_array:
        return None
    return _one_picture(np.load(file, allow_pickle=False), name, what)


def _one_picture(array: np.ndarray, name: str, what: str) -> np.ndarray:
    if array.ndim not in (2, 3) or not array.size:
        raise CorruptImageError(
            f"{name}: the {what} cannot be read (an array of shape {array.shape} is no picture). Give (height, width) or (height, "
            "width, channels), several as a list of arrays."
        )
    return array


def _identified(file: BinaryIO, name: str, what: str) -> PIL.Image.Image | None:
    """`_image`, whose error says what the file seems to be."""
    try:
        return _image(file)
    except PIL.UnidentifiedImageError:
        file.seek(0)
        raise CorruptImageError(
            f"{name}: the {what} cannot be read (it is no picture, but seems to be {seems_to_be(file.read(512))}). "
            "Fetch or export the file again, or take it out."
        ) from None


def _image(file: BinaryIO) -> PIL.Image.Image | None:
    """Pillow's image, not yet decoded; None for a TIFF file of which Pillow would not read all bands."""
    tiff = is_tiff(file)
    if tiff and samples_per_pixel(file) > 4:
        return None
    try:
        image = PIL.Image.open(file)
    except PIL.UnidentifiedImageError:
        if tiff:
            return None
        raise
    whole = not tiff or image.mode == "P" or image.tag_v2.get(SAMPLESPERPIXEL, 1) == len(image.getbands())
    return image if whole else None


def _stored_type(image: PIL.Image.Image) -> type[np.generic]:
    """The type of the values that Pillow returns for an image."""
    if image.mode == "I" and image.format == "PPM":  # 16 bits, which Pillow scales to 65535 and widens
        return np.uint16
    return _DEEP_MODES.get(image.mode, np.uint8)


def _reduce(image: PIL.Image.Image, wanted: Callable[[tuple[int, int]], tuple[int, int]]) -> tuple[int, int] | None:
    """Let a JPEG file be decoded at a smaller size that will do; returns the (height, width) in it, None if it will not."""
    whole = image.size
    if image.format not in _LOSSY_FORMATS:
        return None
    turned = _orientation(image) >= 5
    height, width = wanted(whole if turned else whole[::-1])
    image.draft(None, (height, width) if turned else (width, height))
    return None if image.size == whole else whole[::-1]


def _orientation(image: PIL.Image.Image) -> int:
    try:
        found = int(image.getexif().get(ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, OSError):  # a broken EXIF block says nothing about the picture
        return 1
    return found if 1 <= found <= 8 else 1


def _loaded(image: PIL.Image.Image) -> tuple[PIL.Image.Image, int]:
    """The decoded picture as it is stored, and its orientation.

    Pillow turns a TIFF file upright when it decodes it, and takes the tag away: that is undone, because a mask without a
    tag may have to be turned with its picture.
    """
    orientation = _orientation(image)
    image.load()
    if orientation != 1 and _orientation(image) == 1:
        image = image.transpose(_AS_STORED[orientation])
    return image, orientation


def _header(image: PIL.Image.Image) -> Header:
    rule = value_rule(_stored_type(image))
    tiles = getattr(image, "tile", None)
    if rule is EIGHT_BITS and tiles and ";16" in str(tiles[0][3]):  # of 16-bit colours Pillow keeps the upper 8 bits
        rule = value_rule(np.uint16)
    orientation, size = _orientation(image), image.size
    if image.format == "TIFF" and orientation >= 5:  # Pillow gives the size of the upright picture
        size = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
    return Header(image.format, image.mode, size, orientation, rule, lossy=image.format in _LOSSY_FORMATS)
