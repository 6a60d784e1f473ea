"""Prediction by overlapping windows, as ``EncoderDecoder.slide_inference`` of mmsegmentation 0.27."""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from ..errors import SegZooError


def sliding_window_logits(
    predict: Callable[[torch.Tensor], torch.Tensor],
    pixel_values: torch.Tensor,
    window_size: Sequence[int],
    window_stride: Sequence[int],
    num_labels: int,
    align_corners: bool = False,
    windows_per_pass: int = 1,
) -> torch.Tensor:
    """Mean of the logits of all windows that cover a pixel.

    Windows start at multiples of the stride; the last of a row or column is shifted back to end at the border. An
    image that is smaller than the window, in either direction, is taken as it is there, not padded.

    Args:
        predict: (batch, channels, height, width) -> logits (batch, num_labels, any height, any width).
        pixel_values: (batch, channels, height, width).
        window_size, window_stride: height and width in pixels.
        num_labels: classes that ``predict`` returns.
        align_corners: how a window's logits are resized to the window.
        windows_per_pass: how many windows of each image go through ``predict`` at once. More is faster on a GPU;
            results stay equal for a model that treats images of a batch independently.

    Returns:
        Logits (batch, num_labels, height, width), at the size of ``pixel_values``, of the type of ``predict``'s.

    Raises:
        SegZooError: sizes that are not positive, a stride beyond the window (pixels would be left out), or a
            ``predict`` that returns another number of classes.
    """
    window_size, window_stride = _pair(window_size, "window_size"), _pair(window_stride, "window_stride")
    for axis, window, stride in zip(("height", "width"), window_size, window_stride, strict=True):
        if stride > window:
            raise SegZooError(
                f"window_stride {stride} is larger than window_size {window} in {axis}, which leaves pixels without a "
                "prediction; make the stride at most the window."
            )
    batch, _, height, width = pixel_values.shape
    size = (min(window_size[0], height), min(window_size[1], width))
    tops = window_starts(height, window_size[0], window_stride[0])
    lefts = window_starts(width, window_size[1], window_stride[1])
    corners = [(top, left) for top in tops for left in lefts]

    total = None
    for first in range(0, len(corners), max(1, windows_per_pass)):
        chunk = corners[first : first + max(1, windows_per_pass)]
        windows = [pixel_values[:, :, top : top + size[0], left : left + size[1]] for top, left in chunk]
        logits = predict(torch.cat(windows) if len(windows) > 1 else windows[0])
        if logits.ndim != 4 or logits.shape[:2] != (batch * len(chunk), num_labels):
            raise SegZooError(
                f"the model returned {tuple(logits.shape)} for {batch * len(chunk)} windows; expected "
                f"({batch * len(chunk)}, {num_labels}, height, width): num_labels must be the model's."
            )
        if tuple(logits.shape[-2:]) != size:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
        if total is None:
            total = logits.new_zeros((batch, num_labels, height, width))
        for (top, left), part in zip(chunk, logits.split(batch), strict=True):
            total[:, :, top : top + size[0], left : left + size[1]] += part
    counts = torch.outer(_cover_counts(tops, size[0], height), _cover_counts(lefts, size[1], width))
    return total / counts.to(total)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one axis of ``length`` pixels."""
    steps = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(step * stride, length - window), 0) for step in range(steps)]


def _cover_counts(starts: list[int], window: int, length: int) -> torch.Tensor:
    counts = torch.zeros(length)
    for start in starts:
        counts[start : start + window] += 1
    return counts


def _pair(value: Sequence[int], name: str) -> tuple[int, int]:
    """(height, width). A pipeline that batches images hands over one pair for each image: they must be equal."""
    pair = tuple(value)
    if pair and isinstance(pair[0], (tuple, list)) and all(tuple(other) == tuple(pair[0]) for other in pair):
        pair = tuple(pair[0])
    if len(pair) != 2 or any(isinstance(side, (tuple, list)) or int(side) < 1 for side in pair):
        raise SegZooError(f"{name} is {value!r}; give (height, width) in pixels, both at least 1.")
    return int(pair[0]), int(pair[1])
