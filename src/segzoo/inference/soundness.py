"""Values that load without an error and make every prediction nonsense: in weights, image processors, class names."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segzoo.base import MAX_LAYERS, MAX_SIZE
from segzoo.errors import SegZooError

if TYPE_CHECKING:
    from torch import nn
    from transformers import BaseImageProcessor

_OF_LAYERS = ("depth", "depths", "layers", "blocks", "stages")  # how the keys of numbers of layers end
_MOST = 2**20  # of any other integer in a config: above all widths, sizes, vocabularies and numbers of points
_TRIED = 2048  # pixels: the longest side that is prepared as an attempt


def check_weights(model: nn.Module, source: str) -> None:
    """Refuse weights that are not finite, and variances of batch norms below 0.

    Args:
        model: the model, on any device but ``meta``.
        source: where it comes from, for the message.

    Raises:
        SegZooError: there are such weights; the message names the first one.
    """
    import torch

    for name, weight in model.state_dict().items():
        # Quantised weights have their own types, whose values are all finite.
        if not isinstance(weight, torch.Tensor) or not weight.is_floating_point() or weight.itemsize < 2:
            continue
        if not weight.numel():
            continue
        lowest, highest = (value.item() for value in torch.aminmax(weight))  # NaN if one of them is
        cause = None
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            cause = "holds NaN or infinite numbers: the training that made it diverged, or the file is damaged"
        elif lowest < 0 and name.endswith("running_var"):
            cause = "holds a variance below 0: the file is damaged"
        if cause is not None:
            raise SegZooError(f"{source}: the weight {name} {cause}; take an earlier checkpoint, or fetch it again")


def check_config_numbers(values: Mapping[str, Any], source: str) -> None:
    """Refuse numbers in a config with which no model can be built or run: NaN, thousands of layers, sizes of millions.

    The configs of segzoo have narrower bounds of their own; those of transformers have none, and a model of 10**9
    layers is built until the process is killed.

    Args:
        values: the config's, as JSON gives them; dicts and lists in them are looked into.
        source: where they come from, for the message.

    Raises:
        SegZooError: there is such a number; the message names its key.
    """
    left: deque[tuple[str, Any]] = deque([("", values)])
    while left:
        key, value = left.popleft()
        if isinstance(value, Mapping):
            left += [(str(name), entry) for name, entry in value.items()]
        elif isinstance(value, list):
            left += [(key, entry) for entry in value]
        elif isinstance(value, float) and not math.isfinite(value):
            raise SegZooError(f"{source}: {key:.60}={value} is out of range; correct it")
        elif type(value) is int:
            most = MAX_LAYERS if key.endswith(_OF_LAYERS) else _MOST
            if abs(value) > most:
                raise SegZooError(f"{source}: {key:.60}={value!r:.40} is out of range (at most {most}); correct it")


def check_preparation(settings: Mapping[str, Any], source: str) -> None:
    """Refuse settings of an image processor with which no picture keeps its content.

    Args:
        settings: the image processor's, as its ``to_dict`` gives them; those that are missing have their defaults.
        source: where they come from, for the message.

    Raises:
        SegZooError: a switch that is neither true nor false; a mean, deviation or factor that is missing where it is
            used, is not finite or out of range; a deviation or factor of 0 or below; or a size of more than
            `segzoo.base.MAX_SIZE` pixels. The message names the setting.
    """
    for name, value in settings.items():
        if str(name).startswith("do_") and not isinstance(value, bool | int | None):
            raise SegZooError(f"{source}: {name}={value!r:.80} must be true or false; correct it")
    for name, used_by, above_zero in (
        ("image_mean", "do_normalize", False),
        ("image_std", "do_normalize", True),
        ("rescale_factor", "do_rescale", True),
    ):
        value = settings.get(name)
        values = list(value) if isinstance(value, list | tuple) else [value]
        if name not in settings or (value is None and not settings.get(used_by)):
            continue
        if not values or not all(_is_number(number) and (number > 0 or not above_zero) for number in values):
            rule = "finite numbers above 0" if above_zero else "finite numbers"
            raise SegZooError(f"{source}: {name}={value!r:.80} must be {rule}; correct it")
        if any(abs(number) > MAX_SIZE for number in values):  # the values of pictures have 16 bits at most
            raise SegZooError(f"{source}: {name}={value!r:.80} is out of range (at most {MAX_SIZE}); correct it")
    for name in ("size", "pad_size", "crop_size", "size_multiple", "size_divisor", "window_size", "window_stride"):
        value = settings.get(name)
        sides = _sides(value)
        if any(isinstance(side, bool) for side in sides):
            raise SegZooError(f"{source}: {name}={value!r:.80} must be numbers of pixels; correct it")
        if any(isinstance(side, int | float) and not abs(side) <= MAX_SIZE for side in sides):
            raise SegZooError(f"{source}: {name}={value!r:.80} is more than {MAX_SIZE} pixels; correct it")
        if name == "size" and any(isinstance(side, int | float) and side < 1 for side in sides):
            raise SegZooError(f"{source}: size={value!r:.80} must be 1 pixel at least; correct it")


def try_preparation(processor: BaseImageProcessor, num_channels: int) -> None:
    """Prepare a small grey picture, so that settings that fit no picture are found where their file is named.

    Args:
        processor: any image processor.
        num_channels: of the model.

    Raises:
        SegZooError: the picture does not come out as finite numbers.
        Exception: whatever the processor raises.
    """
    import numpy as np
    import torch

    settings = processor.to_dict()
    sizes = (settings.get(name) for name in ("size", "pad_size", "size_multiple", "size_divisor"))
    if any(side > _TRIED for value in sizes for side in _sides(value) if isinstance(side, int | float)):
        return
    channels = getattr(processor, "num_channels", num_channels)
    picture = np.full((24, 32, channels), 128, dtype=np.uint8)
    prepared = processor(images=picture, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
    if not all(bool(torch.isfinite(entry.float()).all()) for entry in prepared):
        raise SegZooError("the image processor makes NaN or infinite numbers of a grey picture; correct its settings")


def _sides(value: Any) -> list[Any]:
    """The numbers of a size, which is one, a list, or a dict of them."""
    return list(
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -math.inf < value < math.inf
