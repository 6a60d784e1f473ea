"""Values that load without an error and make every prediction nonsense: in weights, image processors, class names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segzoo.base import MAX_SIZE
from segzoo.errors import SegZooError

if TYPE_CHECKING:
    from torch import nn


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


def check_preparation(settings: Mapping[str, Any], source: str) -> None:
    """Refuse settings of an image processor with which no picture keeps its content.

    Args:
        settings: the image processor's, as its ``to_dict`` gives them.
        source: where they come from, for the message.

    Raises:
        SegZooError: a mean, deviation or factor that is not finite, a deviation or factor of 0 or below, or a size of
            more than `segzoo.base.MAX_SIZE` pixels; the message names the setting.
    """
    for name, above_zero in (("image_mean", False), ("image_std", True), ("rescale_factor", True)):
        value = settings.get(name)
        values = value if isinstance(value, list | tuple) else [] if value is None else [value]
        if not all(_is_number(number) and (number > 0 or not above_zero) for number in values):
            rule = "finite numbers above 0" if above_zero else "finite numbers"
            raise SegZooError(f"{source}: {name}={value!r:.80} must be {rule}; correct it")
    for name in ("size", "pad_size", "crop_size", "size_multiple", "size_divisor", "window_size", "window_stride"):
        value = settings.get(name)
        sides = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
        if any(isinstance(side, int | float) and not abs(side) <= MAX_SIZE for side in sides):
            raise SegZooError(f"{source}: {name}={value!r:.80} is more than {MAX_SIZE} pixels; correct it")
        if name == "size" and any(isinstance(side, int | float) and side < 1 for side in sides):
            raise SegZooError(f"{source}: size={value!r:.80} must be 1 pixel at least; correct it")


def check_class_names(names: Any, source: str) -> None:
    """Refuse class names that are no text.

    Args:
        names: the config's ``id2label``.
        source: where it comes from, for the message.

    Raises:
        SegZooError: a name is no text; the message gives its id.
    """
    for index, name in dict(names or {}).items():
        if not isinstance(name, str):
            raise SegZooError(
                f"{source}: the name of class {index} is no text ({name!r:.40}); correct id2label in config.json"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and -math.inf < value < math.inf
