"""An image file and a mask file decoded to two arrays of equal size, in whatever way they were saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from functools import cache
from typing import Any, BinaryIO

import numpy as np
import PIL.Image

from segzoo.data.label_encodings import LabelEncoding, label_encoding
from segzoo.data.mapped_labels import split_encoding
from segzoo.errors import SegZooError
from segzoo.images.masks import class_ids
from segzoo.images.plain import PlainFile
from segzoo.images.reading import CorruptImageError, Decoder, Picture, decode_image, open_picture, upright

__all__ = [
    "CorruptImageError",
    "colors_to_ids",
    "decode_example",
    "decode_image",
    "decode_mask",
    "decode_pair",
]


def decode_mask(source: Any, *, name: str | None = None) -> np.ndarray:
    """Reads a mask as class ids: grey values, indices of a palette PNG, 16-bit ids, or floats without fractions.

    EXIF rotation is applied. Of a mask whose channels are all equal the first one is read, with a warning.

    Args:
        source: path, bytes, PIL image, id array, or the `{"path", "bytes"}` of an undecoded `datasets` column.
        name: name of the mask in error messages; by default its path.

    Returns:
        uint8 array (8-bit masks) or int32 array (wider ones) of shape (height, width).

    Raises:
        CorruptImageError: the file is missing or corrupt; the message names it.
        SegZooError: the mask holds colours, or numbers that are not ids; the message names it and the fix.
    """
    return decode_pair(None, source, label_name=name)[1]


def decode_pair(
    image: Any,
    label: Any,
    *,
    image_name: str | None = None,
    label_name: str | None = None,
    encoding: str | None = None,
    num_channels: int = 3,
    on_note: Callable[[str], object] | None = None,
    wanted: Callable[[tuple[int, int]], tuple[int, int]] | None = None,
    decoder: Decoder | None = None,
    label_decoder: Decoder | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Reads a picture and its mask; see `decode_image` and `decode_mask`. Either may be None.

    A photograph's EXIF rotation applies to the mask too: a mask with its own tag follows that tag, a mask without a
    tag that has the size of the unrotated picture is rotated with it, and a mask of the rotated size is left
    unchanged.

    Args:
        image, label: sources as `decode_image` and `decode_mask` take them.
        image_name, label_name: names in error messages.
        encoding: name of the `segzoo.data.label_encodings.LabelEncoding` of the mask, as in the column
            `label_encoding` of tables of `load_segmentation_dataset`. None: the mask holds class ids, as a mask that
            is an array always does.
        num_channels: number of channels of the picture, as the model reads them.
        on_note: called with a note about the mask, see `segzoo.images.masks.class_ids`; None warns.
        wanted: the size of the picture that will do, by its size; see `segzoo.images.reading.open_picture`. The mask is
            never reduced.
        decoder, label_decoder: decode picture and mask in Pillow's place where they can.

    Returns:
        picture (height, width, num_channels) and mask (height, width), each None where its source is.

    Raises:
        CorruptImageError: a file is missing or cannot be read; the message names it.
        SegZooError: the mask does not hold class ids, or the sizes differ; the message names the files.
    """
    picture = mask = opened = None
    encoding, mapped = split_encoding(encoding)
    if image is not None:
        opened = open_picture(image, name=image_name, wanted=wanted, decoder=decoder)
        image_name = opened.name
        picture = opened.grey_levels(num_channels)
        size = opened.stored_size[::-1] if opened.orientation >= 5 else opened.stored_size
    if label is not None:
        if isinstance(label, np.ndarray) and label.ndim == 2 and label.dtype.kind in "iub":
            label_name, encoding = label_name or "<mask array>", None
        described = None if encoding is None else label_encoding(encoding)
        if described is not None and described.colors is not None:
            label_decoder = None  # grey is a colour there
        stored = open_picture(label, name=label_name, what="mask", decoder=label_decoder)
        label_name, orientation = stored.name, stored.orientation
        if orientation == 1 and opened is not None and stored.stored_size != size:
            orientation = opened.orientation if stored.stored_size == opened.stored_size else 1
        ids = _decoded_ids(stored, described, on_note)
        if mapped is not None:
            ids = mapped.apply(ids, label_name)
        mask = upright(ids, orientation)
    if picture is not None and mask is not None and size != mask.shape:
        raise SegZooError(
            f"Image and mask differ in size: {image_name} is {size[1]}x{size[0]} (width x height), "
            f"{label_name} is {mask.shape[1]}x{mask.shape[0]}. Export the mask at that size, unsmoothed."
        )
    return picture, mask


def decode_jpeg(image: PIL.Image.Image | PlainFile, file: BinaryIO) -> np.ndarray | None:
    """The pixels of a JPEG file in colour, by torchvision: the same as Pillow's, in two thirds of the time.

    Args:
        image: what the file is, not yet decoded.
        file: the file.

    Returns:
        uint8 array (height, width, 3) as stored; None for other files and for broken ones, whose fault Pillow names.
    """
    decode = _operator("decode_jpeg")
    if decode is None or image.format != "JPEG" or image.mode != "RGB":
        return None
    decoded = _decoded(decode, _content(file), _RGB)
    return None if decoded is None else decoded.transpose(1, 2, 0)


def decode_grey_png(image: PIL.Image.Image | PlainFile, file: BinaryIO) -> np.ndarray | None:
    """The values of a PNG file in grey of up to 8 bits, as masks are saved, by torchvision: in two thirds of Pillow's time.

    Args:
        image: what the file is, not yet decoded.
        file: the file.

    Returns:
        uint8 array (height, width); None for other files, for those with chunks that say more than the values do, such
        as a rotation or colours, and for broken ones, whose fault Pillow names.
    """
    decode = _operator("decode_png")
    if decode is None or image.format != "PNG" or image.mode != "L":
        return None
    content = _content(file)
    if not _has_chunks_only(content, _PLAIN_CHUNKS):
        return None
    decoded = _decoded(decode, content, _UNCHANGED)
    return None if decoded is None else decoded[0]


_UNCHANGED, _RGB = 0, 3  # of torchvision.io.ImageReadMode
# Of colour profiles, libpng would print warnings.
_PLAIN_CHUNKS = frozenset({b"IHDR", b"pHYs", b"tIME", b"IDAT", b"IEND"})


def _content(file: BinaryIO) -> bytearray:
    file.seek(0)
    return bytearray(file.read())


def _has_chunks_only(content: bytearray, kinds: Set[bytes]) -> bool:
    """Whether a PNG file consists of whole chunks of these kinds."""
    place = 8
    while place < len(content):
        if bytes(content[place + 4 : place + 8]) not in kinds:
            return False
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    return place == len(content)


def _decoded(decode: Callable[..., Any], content: bytearray, mode: int) -> np.ndarray | None:
    """The array (channels, height, width) that an operator decodes; None if it cannot."""
    import torch

    try:
        return decode(torch.frombuffer(content, dtype=torch.uint8), mode, False).numpy()
    except RuntimeError:
        return None


@cache
def _operator(name: str) -> Callable[..., Any] | None:
    """The operator behind a function of `torchvision.io`; None where torchvision lacks it: later versions will."""
    import torch
    import torchvision.io  # noqa: F401, registers it

    return getattr(torch.ops.image, name, None)


def _decoded_ids(mask: Picture, encoding: LabelEncoding | None, on_note: Callable[[str], object] | None) -> np.ndarray:
    if encoding is None:
        return class_ids(mask, on_note)
    if encoding.colors is None:
        return encoding.decode_ids(class_ids(mask, on_note))
    try:
        return colors_to_ids(mask.stored, encoding.colors)
    except SegZooError as error:
        raise SegZooError(f"{mask.name}: {error}") from None


def decode_example(example: Mapping[str, Any], *, num_channels: int = 3) -> tuple[np.ndarray, np.ndarray | None]:
    """Decodes picture and mask of one row of `load_segmentation_dataset`; see `decode_pair`.

    Args:
        example: mapping with `image`, optionally `label`, optionally `label_encoding` (see `decode_pair`), and
            optionally `image_path` and `label_path` for messages.
        num_channels: number of channels of the picture, as the model reads them.

    Returns:
        picture (height, width, num_channels), and array of ids (height, width) or None where the row has no mask.
    """
    image, label = example["image"], example.get("label")
    image_path, label_path = example.get("image_path"), example.get("label_path")
    decoded = isinstance(image, PIL.Image.Image) and isinstance(label, PIL.Image.Image)
    if decoded and image.size != label.size and image_path and label_path:
        # `datasets` turns photographs upright and leaves masks as stored; only the files still hold the EXIF tag.
        image, label = image_path, label_path
    return decode_pair(
        image,
        label,
        image_name=image_path,
        label_name=label_path,
        encoding=example.get("label_encoding"),
        num_channels=num_channels,
    )


def colors_to_ids(
    mask: np.ndarray | PIL.Image.Image,
    palette: Sequence[Sequence[int]] | Mapping[tuple[int, int, int], int],
    *,
    ignore_index: int = 255,
) -> np.ndarray:
    """Turns a mask painted in colours into class ids.

    Args:
        mask: picture of any mode, or uint8 array (height, width, 3).
        palette: one (red, green, blue) per class, in id order; or a mapping of colour to class id, in which several
            colours may stand for one class.
        ignore_index: id of black pixels if the palette has no black.

    Returns:
        array of ids (height, width), uint8 if every id fits, else int32.

    Raises:
        SegZooError: a colour other than black is not in the palette; the message lists such colours and their pixel
            counts.
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
