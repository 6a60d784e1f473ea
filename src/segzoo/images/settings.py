"""The settings of the image processor: their names and types, and which values make sense.

What each of them means stands at `segzoo.SegZooImageProcessor`.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub.dataclasses import validate_typed_dict
from huggingface_hub.errors import StrictDataclassError
from transformers.processing_utils import ImagesKwargs

from segzoo.errors import SegZooError
from segzoo.images.resizing import MULTIPLE_MODES, ROUNDINGS

# One number for all channels, or one for each.
_Numbers = float | int | list[float | int] | tuple[float | int, ...]


class SegZooImageProcessorKwargs(ImagesKwargs, total=False):
    """The settings that `SegZooImageProcessor` adds to or redefines from every image processor's; see there."""

    num_channels: int
    channel_order: str
    rounding: str
    size_multiple: int | None
    size_multiple_mode: str
    antialias: bool
    image_mean: _Numbers | None
    image_std: _Numbers | None
    pad_value: _Numbers
    do_reduce_labels: bool
    ignore_index: int
    align_corners: bool
    resize_logits_to_input: bool
    window_size: list[int] | tuple[int, ...] | None
    window_stride: list[int] | tuple[int, ...] | None


def pair_of_sides(value: Any, name: str) -> tuple[int, int]:
    """(height, width) from a pair of positive integers or one integer.

    Raises:
        SegZooError: it is neither; the message has the setting's name.
    """
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(not isinstance(side, int) or side < 1 for side in pair):
        raise SegZooError(f"{name} is {value!r}; give [height, width] in pixels, both at least 1.")
    return pair


def check_names_and_types(settings: dict[str, Any]) -> None:
    """Refuse a setting that does not exist, or whose value has another type than the setting.

    Raises:
        SegZooError: there is such a one; the message names it.
    """
    known = SegZooImageProcessorKwargs.__annotations__
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise SegZooError(
            f"SegZooImageProcessor has no setting {', '.join(unknown)}; remove it, or correct the name "
            f"(settings: {', '.join(sorted(known))})."
        )
    try:
        validate_typed_dict(SegZooImageProcessorKwargs, settings)
    except StrictDataclassError as error:
        raise SegZooError(f"a setting of SegZooImageProcessor has the wrong type: {error}") from error


def check_spelling(names: Iterable[str]) -> None:
    """Refuse a name that is nearly a setting's, among others that need not be settings.

    Raises:
        SegZooError: there is such a one; the message names it.
    """
    known = SegZooImageProcessorKwargs.__annotations__
    for name in names:
        # from 0.85 on "reduce_labels" is meant, and below are "tp_size" and "device_map", which are of models
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if near and name not in known:
            raise SegZooError(f"SegZooImageProcessor has no setting {name!r}; did you mean {near[0]!r}?")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse values that make no sense, alone or together.

    Args:
        settings: all settings, in transformers' standard form.

    Raises:
        SegZooError: the first such value.
    """
    size, pad_size = settings["size"], settings["pad_size"]
    if settings.get("do_center_crop"):
        raise SegZooError("do_center_crop is not supported: a crop would lose pixels of the label map; leave it off.")
    if size is not None and not ((size.height and size.width) or size.shortest_edge or size.longest_edge):
        raise SegZooError(
            f"size is {dict(size)}; give height and width, or shortest_edge with or without longest_edge."
        )
    if pad_size is not None and not (pad_size.height and pad_size.width):
        raise SegZooError(f"pad_size is {dict(pad_size)}; give height and width.")
    for name, choices in (
        ("rounding", ROUNDINGS),
        ("size_multiple_mode", MULTIPLE_MODES),
        ("channel_order", ("rgb", "bgr")),
    ):
        if settings[name] not in choices:
            raise SegZooError(f"{name} is {settings[name]!r}; use one of {', '.join(choices)}.")
    if settings["size_multiple"] is not None and settings["size_multiple"] < 1:
        raise SegZooError(f"size_multiple is {settings['size_multiple']}; give a positive number of pixels, or None.")
    if settings["num_channels"] < 1:
        raise SegZooError(f"num_channels is {settings['num_channels']}; it must be at least 1.")
    if settings["channel_order"] == "bgr" and settings["num_channels"] not in (3, 4):
        raise SegZooError(f"channel_order 'bgr' needs num_channels 3 or 4, not {settings['num_channels']}; use 'rgb'.")
    if (settings["window_size"] is None) != (settings["window_stride"] is None):
        raise SegZooError("window_size and window_stride belong together; set both, or neither.")
