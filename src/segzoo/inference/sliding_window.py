"""Prediction by overlapping windows, like ``EncoderDecoder.slide_inference`` of mmsegmentation 0.27."""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from segzoo.errors import SegZooError
from segzoo.inference.rows import MapRows, Rows, resized


def sliding_window_logits(
    predict: Callable[[torch.Tensor], torch.Tensor],
    pixel_values: torch.Tensor,
    window_size: Sequence[int],
    window_stride: Sequence[int],
    num_labels: int,
    align_corners: bool = False,
    windows_per_pass: int = 1,
) -> torch.Tensor:
    """The mean of the logits of all windows that cover a pixel, as one tensor with num_labels floats per pixel.

    `WindowRows` gives the same map row by row, for pictures for which that is too much memory.

    Windows start at multiples of the stride; the last one of a row or column is shifted back to end at the border. If
    the image is smaller than the window in a direction, the window is cut to the image in that direction; nothing is
    padded.

    Args:
        predict: (batch, channels, height, width) -> logits (batch, num_labels, any height, any width).
        pixel_values: (batch, channels, height, width).
        window_size, window_stride: height and width in pixels.
        num_labels: number of classes that ``predict`` returns.
        align_corners: how a window's logits are resized to the window, as in ``F.interpolate``.
        windows_per_pass: how many windows of each image go through ``predict`` at once. More are faster on a GPU; the
            results are the same for a model that treats the images of a batch independently.

    Returns:
        Logits (batch, num_labels, height, width), at the size of ``pixel_values``, float32 or float64.

    Raises:
        SegZooError: sizes that are not positive, a stride larger than the window (pixels would be left out), or a
            ``predict`` that returns another number of classes.
    """
    batch, _, height, width = pixel_values.shape
    size, tops, lefts = _grid((height, width), window_size, window_stride)
    corners = [(top, left) for top in tops for left in lefts]

    total = None
    for first in range(0, len(corners), max(1, windows_per_pass)):
        chunk = corners[first : first + max(1, windows_per_pass)]
        windows = [pixel_values[:, :, top : top + size[0], left : left + size[1]] for top, left in chunk]
        logits = predict(torch.cat(windows) if len(windows) > 1 else windows[0])
        logits = _checked(logits, batch * len(chunk), num_labels)
        if tuple(logits.shape[-2:]) != size:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
        if total is None:
            total = logits.new_zeros((batch, num_labels, height, width))
        for (top, left), part in zip(chunk, logits.split(batch), strict=True):
            total[:, :, top : top + size[0], left : left + size[1]] += part
    counts = torch.outer(_cover_counts(tops, size[0], height), _cover_counts(lefts, size[1], width))
    return total / counts.to(total)


class WindowRows(Rows):
    """The map of `sliding_window_logits`, read row by row.

    A window is predicted when its first row is read, and dropped after its last. Its logits are kept at the resolution
    of ``predict`` and resized as they are read. So the memory is that of two or three rows of windows, whatever the
    height of the picture. Windows are predicted and summed in the order of `sliding_window_logits`.

    Args:
        predict: (n, channels, height, width) -> logits (n, num_labels, any height, any width).
        read_window: (top, left, height, width) -> that part of the picture, (channels, height, width), for
            ``predict``.
        size: (height, width) of the picture.
        window_size, window_stride, num_labels, align_corners, windows_per_pass: as in `sliding_window_logits`.

    Raises:
        SegZooError: see `sliding_window_logits`.
    """

    def __init__(
        self,
        predict: Callable[[torch.Tensor], torch.Tensor],
        read_window: Callable[[int, int, int, int], torch.Tensor],
        size: tuple[int, int],
        *,
        window_size: Sequence[int],
        window_stride: Sequence[int],
        num_labels: int,
        align_corners: bool = False,
        windows_per_pass: int = 1,
    ):
        self.predict, self.read_window, self.align_corners = predict, read_window, align_corners
        self.windows_per_pass = max(1, windows_per_pass)
        self.window, tops, lefts = _grid(size, window_size, window_stride)
        self.corners = [(top, left) for top in tops for left in lefts]
        self.next = 0
        self.ready: list[tuple[int, int, Rows]] = []  # top, left, logits at the window's size
        logits = self._predict_next(num_labels)  # the first pass shows dtype and device
        super().__init__(size, num_labels, logits.dtype, logits.device)
        counts = _cover_counts(tops, self.window[0], size[0]), _cover_counts(lefts, self.window[1], size[1])
        self.row_counts, self.column_counts = (count.to(self.device, self.dtype) for count in counts)

    def fill(self, first: int, out: torch.Tensor) -> None:
        height, width = self.window
        last = first + len(out)
        self.ready = [window for window in self.ready if window[0] + height > first]
        while self.next < len(self.corners) and self.corners[self.next][0] < last:
            self._predict_next(self.classes)
        out.zero_()
        for top, left, rows in self.ready:
            start, end = max(first, top), min(last, top + height)
            if start < end:
                out[start - first : end - first, left : left + width] += rows.read(start - top, end - top)
        out.div_(torch.outer(self.row_counts[first:last], self.column_counts)[..., None])

    def _predict_next(self, num_labels: int) -> torch.Tensor:
        chunk = self.corners[self.next : self.next + self.windows_per_pass]
        self.next += len(chunk)
        logits = self.predict(torch.stack([self.read_window(top, left, *self.window) for top, left in chunk]))
        logits = _checked(logits, len(chunk), num_labels)
        stages = [(tuple(logits.shape[-2:]), self.window)]
        for (top, left), own in zip(chunk, logits, strict=True):
            self.ready.append((top, left, resized(MapRows(own), stages, self.align_corners)))
        return logits


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixel of each window along one axis of ``length`` pixels; 0 alone if the window is as long or longer."""
    steps = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(step * stride, length - window), 0) for step in range(steps)]


def _grid(
    size: tuple[int, int], window_size: Sequence[int], window_stride: Sequence[int]
) -> tuple[tuple[int, int], list[int], list[int]]:
    """Size of the windows, cut to the image if that is smaller; their first rows and their first columns."""
    window_size, window_stride = _pair(window_size, "window_size"), _pair(window_stride, "window_stride")
    for axis, window, stride in zip(("height", "width"), window_size, window_stride, strict=True):
        if stride > window:
            raise SegZooError(
                f"window_stride {stride} is larger than window_size {window} in {axis}, which leaves pixels without a "
                "prediction; make the stride at most the window."
            )
    (tops, height), (lefts, width) = (
        (window_starts(length, window, stride), min(window, length))
        for length, window, stride in zip(size, window_size, window_stride, strict=True)
    )
    return (height, width), tops, lefts


def _checked(logits: torch.Tensor, windows: int, num_labels: int) -> torch.Tensor:
    """The logits after a check of their shape, in float32 at least: sums in half precision lose too much."""
    if logits.ndim != 4 or logits.shape[:2] != (windows, num_labels):
        raise SegZooError(
            f"the model returned {tuple(logits.shape)} for {windows} windows; expected ({windows}, {num_labels}, height, "
            "width): num_labels must be the model's."
        )
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def _cover_counts(starts: list[int], window: int, length: int) -> torch.Tensor:
    counts = torch.zeros(length)
    for start in starts:
        counts[start : start + window] += 1
    return counts


def _pair(value: Sequence[int], name: str) -> tuple[int, int]:
    """(height, width). A pipeline that batches images passes one pair for each image; they must be equal."""
    pair = tuple(value)
    if pair and isinstance(pair[0], (tuple, list)) and all(tuple(other) == tuple(pair[0]) for other in pair):
        pair = tuple(pair[0])
    if len(pair) != 2 or any(isinstance(side, (tuple, list)) or int(side) < 1 for side in pair):
        raise SegZooError(f"{name} is {value!r}; give (height, width) in pixels, both at least 1.")
    return int(pair[0]), int(pair[1])
