"""Class ids from masks that are stored as pictures."""

from __future__ import annotations

import numpy as np
import PIL.Image

from segzoo.errors import SegZooError
from segzoo.images.reading import Picture

_ID_MODES = {"1", "L", "P", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


def class_ids(mask: Picture) -> np.ndarray:
    """The class ids of a mask as stored, before its rotation: grey values, palette indices, or floats that are whole
    numbers.

    Returns:
        Array (height, width), uint8 for 8-bit masks and int32 for others.

    Raises:
        SegZooError: the mask holds colours, or numbers that cannot be ids; the message names the mask and the fix.
    """
    stored = mask.stored
    if isinstance(stored, PIL.Image.Image):
        if stored.mode not in _ID_MODES:
            raise _not_ids(stored, mask.name)
        array = np.asarray(stored)
    else:
        array = stored[..., 0] if stored.ndim == 3 and stored.shape[-1] == 1 else stored
        if array.ndim != 2:
            raise SegZooError(
                f"{mask.name}: a mask holds one class id per pixel, this one has {array.shape[-1]} channels; save the one "
                "that holds the ids."
            )
    if array.dtype in (bool, np.uint8):
        return array.astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise SegZooError(
            f"{mask.name}: class ids are whole numbers, not {array.dtype}; save them as uint8 or uint16."
        )
    limits = np.iinfo(np.int32)
    if array.dtype.kind == "f":
        wrong = ~np.isfinite(array) | (array != np.rint(array))
        if wrong.any():
            raise SegZooError(
                f"{mask.name}: class ids are whole numbers, and {np.count_nonzero(wrong)} of these floats are not (the first "
                f"is {array[wrong][0]:g}); write the ignore index where nothing is labelled, and export unsmoothed."
            )
    if array.size and not (limits.min <= array.min() and array.max() <= limits.max):
        raise SegZooError(
            f"{mask.name}: ids from {array.min():g} to {array.max():g} do not fit into 32 bits; number the classes from 0."
        )
    return array.astype(np.int32)


def _not_ids(image: PIL.Image.Image, name: str) -> SegZooError:
    bands = len(image.getbands())
    fix = "save it as 8-bit or 16-bit grey, or as a palette PNG"
    if image.mode in ("RGB", "RGBA", "LA"):
        array = np.asarray(image)
        if bands == 2 or (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all():
            fix = "all its colours are grey, so save its first channel alone: Image.open(f).getchannel(0).save(f)"
        else:
            fix = "turn colours into ids once with segzoo.data.colors_to_ids(mask, palette) and save the result"
    return SegZooError(
        f"{name}: a mask holds one class id per pixel, this one is a picture in mode {image.mode} with {bands} channel(s); "
        f"{fix}."
    )
