"""How pixel values become grey levels 0..255: one rule per type, the same for every picture of that type."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segzoo.errors import SegZooError


@dataclass(frozen=True)
class ValueRule:
    """How pixel values of one type become grey levels.

    Attributes:
        name: the type, in a word or two.
        words: the rule in words, to be read after "values: ".
    """

    name: str
    words: str


EIGHT_BITS = ValueRule("8 bits", "8 bits a channel, taken as they are")
SIXTEEN_BITS = ValueRule("16 bits", "16 bits a channel, of which the upper 8 are taken: 65535 becomes 255")
OTHER_INTEGERS = ValueRule("other integers", "integers that are not of 8 or 16 bits, taken as they are: 0 to 255")
FLOATS = ValueRule("floats", "floats from 0 to 1, multiplied by 255 and rounded")


def value_rule(dtype: np.dtype | type) -> ValueRule:
    """The rule for a type of pixel values.

    Sixteen bits are truncated, not rounded: Pillow does so with 16-bit colours, and OpenCV, with which the original
    trainings read their pictures, with all 16-bit pictures.

    Raises:
        SegZooError: values of this type, such as complex numbers, cannot be pixels.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "b" or dtype == np.uint8:
        return EIGHT_BITS
    if dtype.kind == "u" and dtype.itemsize == 2:
        return SIXTEEN_BITS
    if dtype.kind in "iu":
        return OTHER_INTEGERS
    if dtype.kind == "f":
        return FLOATS
    raise SegZooError(f"pixel values of type {dtype} are not read; use uint8, uint16, or floats from 0 to 1.")


def grey_levels(values: np.ndarray, name: str) -> np.ndarray:
    """Pixel values as uint8 of the same shape, by the `value_rule` of their type; True becomes 255.

    Args:
        values: array of any shape.
        name: the picture's name in messages.

    Raises:
        SegZooError: values outside the range of the rule; the message names the picture, its values and the fix.
    """
    rule = value_rule(values.dtype)
    if rule is EIGHT_BITS:
        return values if values.dtype == np.uint8 else values.astype(np.uint8) * 255
    if rule is SIXTEEN_BITS:
        return (values >> 8).astype(np.uint8)
    if not values.size:
        return values.astype(np.uint8)
    low, high = values.min(), values.max()
    if rule is OTHER_INTEGERS:
        if low < 0 or high > 255:
            raise SegZooError(
                f"{name}: {values.dtype} values from {low} to {high}, and integers of this type are grey levels from 0 "
                "to 255; save them as 8 bits, or as 16 bits a channel where 65535 is white (uint8, uint16)."
            )
        return values.astype(np.uint8)
    if not (np.isfinite(low) and np.isfinite(high)):
        count = values.size - np.count_nonzero(np.isfinite(values))
        raise SegZooError(
            f"{name}: {count} of its float values are NaN or infinite; fill them first, for example with "
            "np.nan_to_num(values, nan=0, posinf=1, neginf=0)."
        )
    if low < 0 or high > 1:
        raise SegZooError(
            f"{name}: float values from {low:g} to {high:g}, and floats are read as 0 (black) to 1 (white); divide them "
            "by the value that is to be white, for all pictures the same one, and clip them to 0..1."
        )
    return np.rint(values * np.float32(255)).astype(np.uint8)
