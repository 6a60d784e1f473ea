"""Class ids from masks that are stored as pictures."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import PIL.Image

from segzoo.errors import SegZooError
from segzoo.images.reading import Picture

_ID_MODES = {"1", "L", "P", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_ALPHA_MODES = {"RGBA", "LA"}
_CHANNEL_MODES = {None, "RGB", *_ALPHA_MODES}


class MaskOfColoursError(SegZooError):
    """A mask whose channels differ, so that it holds colours, not ids."""


def class_ids(mask: Picture, on_note: Callable[[str], object] | None = None) -> np.ndarray:
    """The class ids of a mask as stored, before its rotation: grey values, palette indices, or floats that are whole
    numbers. Of a mask whose channels are all equal, beside an opaque alpha channel, the first one is read.

    Args:
        mask: the mask.
        on_note: called with a note, such as that the first of several equal channels was read; None warns.

    Returns:
        Array (height, width), uint8 for 8-bit masks and int32 for others.

    Raises:
        MaskOfColoursError: the mask holds colours; the message names it and the fix.
        SegZooError: the mask holds numbers that cannot be ids; the message names it and the fix.
    """
    stored = mask.stored
    if isinstance(stored, PIL.Image.Image):
        array = np.asarray(stored)
        if stored.mode not in _ID_MODES:
            array = _first_channel(array, mask, stored.mode, on_note)
    else:
        array = stored[..., 0] if stored.ndim == 3 and stored.shape[-1] == 1 else stored
        if array.ndim == 3:
            array = _first_channel(array, mask, f"an array of {array.shape[-1]} channels", on_note)
    return _whole_numbers(array, mask.name)


def _first_channel(array: np.ndarray, mask: Picture, kind: str, on_note: Callable[[str], object] | None) -> np.ndarray:
    """The first channel of a mask (height, width, channels) whose channels are all equal."""
    mode = mask.stored.mode if isinstance(mask.stored, PIL.Image.Image) else None
    colours, alpha = array, None
    if mode in _ALPHA_MODES or mode is None and array.shape[-1] in (2, 4) and not _equal(array):
        colours, alpha = array[..., :-1], array[..., -1]
    if mode not in _CHANNEL_MODES or not _equal(colours):
        raise MaskOfColoursError(
            f"{mask.name}: a mask holds one class id per pixel, this one is a picture of colours ({kind}); turn colours into "
            "ids once with segzoo.data.colors_to_ids(mask, palette) and save the result as 8-bit or 16-bit grey, or as a "
            "palette PNG."
        )
    if alpha is not None and alpha.size and (alpha != alpha.flat[0]).any():
        raise SegZooError(
            f"{mask.name}: this mask ({kind}) is grey with an alpha channel that varies, and what is transparent has no "
            "class id; store the ids alone, with the ignore index where nothing is labelled."
        )
    if mask.lossy:
        raise SegZooError(
            f"{mask.name}: this mask was compressed with losses, which change ids beyond repair; export it as PNG from where it "
            "was drawn."
        )
    text = f"{mask.name}: a mask whose channels are all equal ({kind}); the first one is read as class ids"
    if on_note is None:
        warnings.warn(text, stacklevel=4)
    else:
        on_note(text)
    return colours[..., 0]


def _equal(channels: np.ndarray) -> bool:
    return bool((channels == channels[..., :1]).all())


def _whole_numbers(array: np.ndarray, name: str) -> np.ndarray:
    """Ids as uint8 or int32."""
    if array.dtype in (bool, np.uint8):
        return array.astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise SegZooError(f"{name}: class ids are whole numbers, not {array.dtype}; save them as uint8 or uint16.")
    limits = np.iinfo(np.int32)
    if array.dtype.kind == "f":
        wrong = ~np.isfinite(array) | (array != np.rint(array))
        if wrong.any():
            raise SegZooError(
                f"{name}: class ids are whole numbers, and {np.count_nonzero(wrong)} of these floats are not (the first "
                f"is {array[wrong][0]:g}); write the ignore index where nothing is labelled, and export unsmoothed."
            )
    if array.size and not (limits.min <= float(array.min()) and float(array.max()) <= limits.max):
        raise SegZooError(
            f"{name}: ids from {array.min():g} to {array.max():g} do not fit into 32 bits; number the classes from 0."
        )
    return array.astype(np.int32)
