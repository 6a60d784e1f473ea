"""From an image file and a mask file to two arrays of equal size, whatever way people saved them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from segzoo.data.archives import is_address, read_address, readable
from segzoo.data.label_encodings import LabelEncoding, label_encoding
from segzoo.errors import SegZooError

_ORIENTATION_TAG = 0x0112
_ID_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}


class CorruptImageError(SegZooError):
    """A picture or mask that is missing or cannot be read; the message names the file."""


def read_bytes(source: Any) -> bytes:
    """The undecoded file behind a value of a table.

    Args:
        source: Path, address inside a zip archive (zip://picture.jpg::archive.zip) or on the Hub, bytes, or the
            `{"path", "bytes"}` of an undecoded `datasets` column.

    Raises:
        CorruptImageError: There is no such file, or it cannot be read.
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
        raise CorruptImageError(f"{readable(path)}: the file cannot be read ({_reason(error)}).") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):  # its own text names a buffer or the file once more
        return "cannot identify image file"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _open(source: Any, name: str | None, what: str) -> tuple[PIL.Image.Image, str]:
    """Opens a path, bytes, an undecoded `datasets` value or a PIL image, fully read, and the name to call it by."""
    if isinstance(source, Mapping):
        path, data = source.get("path"), source.get("bytes")
        name = name or path
        source = path if data is None else data
    elif isinstance(source, str | os.PathLike):
        name = name or os.fspath(source)
    name = readable(str(name or getattr(source, "filename", None) or f"<{what} without a file name>"))
    if source is None:
        raise CorruptImageError(f"{name}: there is no {what} here. Give a path, bytes or a PIL image.")
    if isinstance(source, np.ndarray):
        return PIL.Image.fromarray(source), name
    try:
        if isinstance(source, str) and is_address(source):
            source = read_address(source)
        if isinstance(source, bytes):
            source = io.BytesIO(source)
        image = source if isinstance(source, PIL.Image.Image) else PIL.Image.open(source)
        image.load()
    except FileNotFoundError:
        raise CorruptImageError(f"{name}: the {what} file does not exist.") from None
    except (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError) as error:
        reason = _reason(error)
        raise CorruptImageError(
            f"{name}: the {what} cannot be read ({reason}). Fetch or export the file again, or take it out."
        ) from error
    return image, str(name)


def _orientation(image: PIL.Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except (SyntaxError, ValueError, TypeError, OSError):  # a broken EXIF block says nothing about the picture
        return 1


_TRANSPOSE = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


def _upright(image: PIL.Image.Image, orientation: int) -> PIL.Image.Image:
    method = _TRANSPOSE.get(orientation)
    return image if method is None else image.transpose(method)


def _to_rgb(image: PIL.Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip to 255 instead of scaling
        wide = np.asarray(image).astype(np.int64)
        grey = (wide.clip(0, 65535) >> 8 if wide.max(initial=0) > 255 else wide.clip(0)).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        grey = np.asarray(image).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def decode_image(source: Any, *, name: str | None = None) -> np.ndarray:
    """Reads a picture as upright RGB.

    Grey, palette, RGBA (alpha dropped), CMYK and 16-bit grey (scaled to 8 bits) are converted; EXIF rotation is
    applied.

    Args:
        source: Path, bytes, PIL image, or the `{"path", "bytes"}` of an undecoded `datasets` column.
        name: What to call it in errors; by default its path.

    Returns:
        uint8 array of shape (height, width, 3).

    Raises:
        CorruptImageError: The file is missing, corrupt or no image; the message names it.
    """
    image, _ = _open(source, name, "image")
    return _to_rgb(_upright(image, _orientation(image)))


def _ids(image: PIL.Image.Image, name: str, encoding: LabelEncoding | None) -> np.ndarray:
    if encoding is not None and encoding.colors is not None:
        try:
            return colors_to_ids(image, encoding.colors)
        except SegZooError as error:
            raise SegZooError(f"{name}: {error}") from None
    if image.mode not in _ID_MODES:
        bands = len(image.getbands())
        if image.mode in ("RGB", "RGBA", "LA"):
            array = np.asarray(image)
            if bands == 2 or (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all():
                fix = "all its colours are grey, so save its first channel alone: Image.open(f).getchannel(0).save(f)"
            else:
                fix = "turn colours into ids once with segzoo.data.colors_to_ids(mask, palette) and save the result"
        else:
            fix = "save it as 8-bit or 16-bit grey, or as a palette PNG"
        raise SegZooError(
            f"{name}: a mask holds one class id per pixel, this one is {image.mode} with {bands} channel(s); {fix}."
        )
    array = np.asarray(image)
    array = array.astype(np.uint8 if array.dtype in (bool, np.uint8) else np.int32)
    return array if encoding is None else encoding.decode_ids(array)


def decode_mask(source: Any, *, name: str | None = None) -> np.ndarray:
    """Reads a mask as class ids: grey values, the indices of a palette PNG, or 16-bit ids. EXIF rotation is applied.

    Args:
        source: Path, bytes, PIL image, id array, or the `{"path", "bytes"}` of an undecoded `datasets` column.
        name: What to call it in errors; by default its path.

    Returns:
        uint8 array (8-bit masks) or int32 array (wider ones) of shape (height, width).

    Raises:
        CorruptImageError: The file is missing or corrupt; the message names it.
        SegZooError: It holds colours; the message names it and the fix.
    """
    return decode_pair(None, source, label_name=name)[1]


def decode_pair(
    image: Any,
    label: Any,
    *,
    image_name: str | None = None,
    label_name: str | None = None,
    encoding: str | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Reads a picture and its mask; see `decode_image` and `decode_mask`. Either may be None.

    A photograph's EXIF rotation reaches the mask too: a mask with its own tag follows that one, a mask without a tag
    whose size is that of the unrotated picture is rotated with it, and one of the rotated size is left alone.

    Args:
        image, label: Each as those functions take it.
        image_name, label_name: What to call them in errors.
        encoding: How the mask is written where it does not hold class ids as they are: what stands in the column
            `label_encoding` of the table that `load_segmentation_dataset` made. A mask that is an array is taken as it is.

    Raises:
        CorruptImageError: A file is missing or cannot be read; the message names it.
        SegZooError: As the two functions, or the sizes differ; the message then names both files and both sizes.
    """
    picture = mask = None
    orientation, stored_size = 1, None
    if image is not None:
        opened, image_name = _open(image, image_name, "image")
        orientation, stored_size = _orientation(opened), opened.size
        picture = _to_rgb(_upright(opened, orientation))
    if label is not None:
        if isinstance(label, np.ndarray) and label.ndim == 2 and label.dtype.kind in "iub":
            mask = label.astype(np.uint8 if label.dtype in (bool, np.uint8) else np.int32)
            label_name = label_name or "<mask array>"
        else:
            opened, label_name = _open(label, label_name, "mask")
            own = _orientation(opened)
            if own == 1 and picture is not None and opened.size != picture.shape[1::-1] and opened.size == stored_size:
                own = orientation
            written = None if encoding is None else label_encoding(encoding)
            mask = _ids(_upright(opened, own), label_name, written)
    if picture is not None and mask is not None and picture.shape[:2] != mask.shape:
        raise SegZooError(
            f"Image and mask differ in size: {image_name} is {picture.shape[1]}x{picture.shape[0]} (width x height), "
            f"{label_name} is {mask.shape[1]}x{mask.shape[0]}. Export the mask at that size, unsmoothed."
        )
    return picture, mask


def decode_example(example: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Image and mask of one row of `load_segmentation_dataset`, decoded or not; see `decode_pair`.

    Args:
        example: Mapping with `image`, optionally `label`, optionally `label_encoding` (see `decode_pair`), and optionally
            `image_path` and `label_path` for messages.

    Returns:
        RGB uint8 array (height, width, 3) and id array (height, width), or None for the latter when there is no mask.
    """
    image, label = example["image"], example.get("label")
    image_path, label_path = example.get("image_path"), example.get("label_path")
    decoded = isinstance(image, PIL.Image.Image) and isinstance(label, PIL.Image.Image)
    if decoded and image.size != label.size and image_path and label_path:
        # `datasets` turns photographs upright and leaves masks as stored; only the files still tell which it was.
        image, label = image_path, label_path
    encoding = example.get("label_encoding")
    return decode_pair(image, label, image_name=image_path, label_name=label_path, encoding=encoding)


def colors_to_ids(
    mask: np.ndarray | PIL.Image.Image,
    palette: Sequence[Sequence[int]] | Mapping[tuple[int, int, int], int],
    *,
    ignore_index: int = 255,
) -> np.ndarray:
    """Turns a mask painted in colours into class ids.

    Args:
        mask: Picture of any mode, or uint8 array (height, width, 3).
        palette: One (red, green, blue) per class, in id order; or colour -> class id, where several colours stand for one
            class.
        ignore_index: Id for black where the palette has no black.

    Returns:
        Id array (height, width), uint8 when every id of the palette fits, else int32.

    Raises:
        SegZooError: A colour is in neither; the message lists such colours and their pixel counts.
    """
    array = np.asarray(mask.convert("RGB") if isinstance(mask, PIL.Image.Image) else mask).astype(np.int32)
    packed = array[..., 0] << 16 | array[..., 1] << 8 | array[..., 2]
    classes = palette if isinstance(palette, Mapping) else {tuple(c): index for index, c in enumerate(palette)}
    table = {0: ignore_index} | {r << 16 | g << 8 | b: index for (r, g, b), index in classes.items()}
    colors = np.array(sorted(table), dtype=np.int32)
    position = np.searchsorted(colors, packed).clip(max=len(colors) - 1)
    strange = colors[position] != packed
    if strange.any():
        found, counts = np.unique(packed[strange], return_counts=True)
        words = ", ".join(
            f"({c >> 16}, {c >> 8 & 255}, {c & 255}) x {n}" for c, n in zip(found[:8], counts[:8], strict=True)
        )
        raise SegZooError(
            f"{len(found)} colour(s) of the mask are not in the palette: {words}. Add them, or map them to a class."
        )
    ids = np.array([table[int(color)] for color in colors])
    return ids.astype(np.uint8 if ids.min() >= 0 and ids.max() < 256 else np.int32)[position]
