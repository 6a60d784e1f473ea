"""Sizes that the original test pipelines compute, OpenCV's bilinear and bicubic filters, and padding.

Origins: ``mmcv.rescale_size`` (mmcv 1.6), ``ResizeShortestEdge`` (mmsegmentation 1.2), ``ResizeToMultiple`` and ``SETR_Resize`` (InternImage, ViT-Adapter,
InternVL), ``round2nearest_multiple`` (MIT's semantic-segmentation-pytorch) and ``cv2.resize`` (OpenCV 4). Sizes are
``(height, width)`` in pixels.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvF

from segzoo.errors import SegZooError

ROUNDINGS = ("nearest", "down", "nearest_twice")
MULTIPLE_MODES = ("stretch", "round_up", "pad", "pad_pass")
_PADDING_MODES = ("pad", "pad_pass")


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is not below ``value``."""
    return -(-value // multiple) * multiple


def keep_ratio_size(
    image_size: tuple[int, int],
    shortest_edge: int | None,
    longest_edge: int | None = None,
    rounding: str = "nearest",
    ratio: float = 1.0,
) -> tuple[int, int]:
    """Size of an image scaled by one factor so that neither edge exceeds its bound, as mmcv computes it.

    Args:
        image_size: height and width of the image.
        shortest_edge: bound of the shorter side in pixels; None is no bound.
        longest_edge: bound of the longer side in pixels; None is no bound.
        rounding: ``"nearest"`` is mmcv's ``int(x * factor + 0.5)``, ``"down"`` is MIT's ``int(x * factor)``,
            ``"nearest_twice"`` takes the size that ``"nearest"`` gives for bounds, as mmsegmentation's
            ``ResizeShortestEdge`` does, which makes a side a pixel or two shorter at times.
        ratio: factor by which both bounds are multiplied, and then cut to whole pixels; without bounds, on the image
            itself.

    Returns:
        Height and width, each at least 1.
    """
    short, long = min(image_size), max(image_size)
    if rounding == "nearest_twice" and shortest_edge is not None and longest_edge is not None:
        # In the original's order of operations, on which halves depend.
        edges = [float(shortest_edge), shortest_edge / short * long]
        if edges[1] > longest_edge:
            edges = [edge * (longest_edge / edges[1]) for edge in edges]
        shortest_edge, longest_edge = (int(edge + 0.5) for edge in edges)
    factors = []
    if longest_edge is not None:
        factors.append(int(longest_edge * ratio) / long)
    if shortest_edge is not None:
        bound = int(shortest_edge * ratio)
        factors.append(bound / short)
        if longest_edge is None:
            # SETR_Resize gives mmcv a bound of the longer side too; its rounding matters if sides are rounded down.
            factors.append(bound * long / short / long)
    factor = min(factors, default=ratio)
    shift = 0.0 if rounding == "down" else 0.5
    height, width = (max(1, int(side * factor + shift)) for side in image_size)
    return height, width


def resize_steps(
    image_size: tuple[int, int],
    *,
    size: Mapping[str, int] | None,
    rounding: str = "nearest",
    size_multiple: int | None = None,
    size_multiple_mode: str = "stretch",
) -> list[tuple[int, int]]:
    """The sizes to which an image is resized one after the other: one, or two if it is then stretched to a multiple.

    Args:
        image_size: height and width of the image.
        size: ``{"height", "width"}``, ``{"shortest_edge"}``, ``{"longest_edge"}`` or the last two together; None is
            the image's own.
        rounding: as in `keep_ratio_size`.
        size_multiple, size_multiple_mode: as in `SegZooImageProcessor`.
    """
    if size is None:
        first = image_size
    elif size.get("height") is not None:
        first = (size["height"], size["width"])
    else:
        edges = size.get("shortest_edge"), size.get("longest_edge")
        if None not in edges:
            # As in mmcv, the larger number of the scale bounds the longer side, in whichever order they are given.
            edges = min(edges), max(edges)
        first = keep_ratio_size(image_size, *edges, rounding)
    if size_multiple is None or pads_to_multiple(size_multiple_mode):
        return [first]
    multiple = (round_up(first[0], size_multiple), round_up(first[1], size_multiple))
    if size_multiple_mode == "round_up" or multiple == first:
        return [multiple]
    return [first, multiple]


def padded_size(
    image_size: tuple[int, int],
    *,
    size_multiple: int | None = None,
    size_multiple_mode: str = "stretch",
    pad_size: Mapping[str, int] | None = None,
    window_size: Sequence[int] | None = None,
) -> tuple[int, int]:
    """Size of a single resized image after padding at the right and the bottom; arguments as in
    `SegZooImageProcessor`.

    Args:
        image_size: height and width of the resized image.
        size_multiple, size_multiple_mode, pad_size: as in `SegZooImageProcessor`.
        window_size: (height, width) of the windows through which the model sees the image; None for all at once.
    """
    height, width = image_size
    if pad_size is not None:
        height, width = max(height, pad_size["height"]), max(width, pad_size["width"])
    if size_multiple is None or not pads_to_multiple(size_multiple_mode):
        return height, width
    height_limit, width_limit = (math.inf, math.inf)
    if window_size is not None and size_multiple_mode == "pad_pass":  # a longer side is cut into whole windows
        height_limit, width_limit = window_size
    if height < height_limit:
        height = round_up(height, size_multiple)
    if width < width_limit:
        width = round_up(width, size_multiple)
    return height, width


def pads_to_multiple(size_multiple_mode: str) -> bool:
    """Whether this mode reaches a multiple by padding, and not by resizing."""
    return size_multiple_mode in _PADDING_MODES


def multiple_settings(multiple: int, size_multiple: int | None) -> dict[str, Any]:
    """Settings of a `SegZooImageProcessor` with which pictures have sides that a model needs.

    Args:
        multiple: what the sides of the model's input must be multiples of.
        size_multiple: the processor's setting so far.

    Returns:
        the settings that have to change; empty if the processor makes such multiples already.
    """
    if (size_multiple or 1) % multiple == 0:
        return {}
    if size_multiple is None:
        return {"size_multiple": multiple, "size_multiple_mode": "pad_pass"}
    return {"size_multiple": math.lcm(multiple, size_multiple)}


def pad_image(image: torch.Tensor, size: tuple[int, int], value: float | Sequence[float]) -> torch.Tensor:
    """Pad (channels, height, width) at the right and the bottom to a size, with one value or one for each channel."""
    channels, height, width = image.shape
    if (height, width) == size:
        return image
    values = torch.tensor(per_channel(value, channels, "pad_value"), dtype=image.dtype, device=image.device)
    padded = values[:, None, None].repeat(1, *size)
    padded[:, :height, :width] = image
    return padded


def per_channel(value: float | Sequence[float], channels: int, name: str) -> tuple[float, ...]:
    """One number for each channel, repeated if ``value`` is a single one; ``name`` is its name in errors.

    Raises:
        SegZooError: ``value`` has neither one number nor as many as there are channels.
    """
    if not isinstance(value, Sequence):
        return (value,) * channels
    if len(value) not in (1, channels):
        raise SegZooError(
            f"{name} has {len(value)} numbers, the image has {channels} channels; give one number, or one per channel."
        )
    return tuple(value) * (channels // len(value))


def resize_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize a mask (height, width) by nearest pixel centre: it stays aligned with a bilinearly resized picture."""
    if tuple(mask.shape) == size:
        return mask
    return tvF.resize(mask[None], list(size), interpolation=InterpolationMode.NEAREST_EXACT)[0]


def resize_bilinear(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear resizing without antialiasing, like ``cv2.resize(..., INTER_LINEAR)``.

    uint8 pictures are computed with OpenCV's fixed-point arithmetic and get exactly its values; other types are
    computed in float32, and integers are rounded.

    Args:
        image: (channels, height, width).
        size: height and width of the result.
    """
    if image.dtype == torch.uint8:
        return _resize_uint8(image, size)
    return _interpolated(image, size, "bilinear")


def resize_bicubic(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bicubic resizing without antialiasing, like ``cv2.resize(..., INTER_CUBIC)``.

    It is computed in float32, and integers are rounded, and cut to the range of their type. So does OpenCV where it has
    Intel's IPP, from which one value in 1000 differs by a grey level; without IPP, OpenCV differs from itself in one
    value in 20.

    Args:
        image: (channels, height, width).
        size: height and width of the result.
    """
    return _interpolated(image, size, "bicubic")


def _interpolated(image: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    values = F.interpolate(image[None].to(torch.float32), size=size, mode=mode, align_corners=False)[0]
    if not image.is_floating_point():
        limits = torch.iinfo(image.dtype)
        values.round_().clamp_(limits.min, limits.max)
    return values.to(image.dtype)


def _resize_uint8(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Weights of 11 bits; widths first, keeping 7 fractional bits; then heights, keeping 2; then rounding."""
    channels, height, width = image.shape
    if (height, width) == (2 * size[0], 2 * size[1]):
        # If both sides are halved, OpenCV uses its area filter.
        blocks = image.to(torch.int32).view(channels, size[0], 2, size[1], 2)
        return ((blocks.sum((2, 4), dtype=torch.int32) + 2) >> 2).to(torch.uint8)
    columns = _fixed_point_taps(width, size[1], image.device, border_weights=False)
    rows = _fixed_point_taps(height, size[0], image.device, border_weights=True)
    # One channel at a time stays in the cache.
    return torch.stack([_resize_plane(plane, rows, columns) for plane in image])


def _resize_plane(
    plane: torch.Tensor, rows: tuple[torch.Tensor, ...], columns: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    left, right, left_weight, right_weight = columns
    above, below, above_weight, below_weight = rows

    def widened(part: torch.Tensor) -> torch.Tensor:
        part = part.to(torch.int32)
        wide = part.index_select(1, left).mul_(left_weight)
        return wide.add_(part.index_select(1, right).mul_(right_weight)).bitwise_right_shift_(4)

    if 2 * len(above) < len(plane):
        first, second = widened(plane.index_select(0, above)), widened(plane.index_select(0, below))
    else:
        wide = widened(plane)
        first, second = wide.index_select(0, above), wide.index_select(0, below)
    first.mul_(above_weight[:, None]).bitwise_right_shift_(16)
    second.mul_(below_weight[:, None]).bitwise_right_shift_(16)
    return first.add_(second).add_(2).bitwise_right_shift_(2).to(torch.uint8)


def _fixed_point_taps(length: int, size: int, device: torch.device, border_weights: bool) -> tuple[torch.Tensor, ...]:
    """Lower and upper source position of each resized position, and their weights times 2048; (size,) each.

    Outside the border both positions are the border's. For heights (``border_weights``) OpenCV still splits the weight
    between the two, for widths it does not; the results round differently.
    """
    centres = ((torch.arange(size, dtype=torch.float64) + 0.5) * (1.0 / (size / length)) - 0.5).to(torch.float32)
    lower = centres.floor()
    share = centres - lower
    lower = lower.long()
    if not border_weights:
        share = torch.where((lower < 0) | (lower >= length - 1), 0.0, share)
        lower = lower.clamp(0, length - 1)
    lower_weight, upper_weight = ((value * 2048).round().to(torch.int32) for value in (1 - share, share))
    lower, upper = lower.clamp(0, length - 1), (lower + 1).clamp(0, length - 1)
    return tuple(values.to(device) for values in (lower, upper, lower_weight, upper_weight))
