"""Label maps at full resolution without holding every class there.

150 classes of a 512 x 2048 picture take 600 MiB as float32; argmax before upsampling gives other labels. So the logits
are upsampled and reduced strip by strip on a CPU, and a few classes at a time elsewhere. Labels equal those of
``F.interpolate(logits, mode="bilinear").argmax(1)``.
"""

import torch
from torch.nn import functional as F

from ..errors import SegZooError

# Upsampled values held at once: a strip of rows that stays in the cache of a CPU; a few classes of a map on a GPU.
# Maps of at most _SMALL_VALUES (16 MiB) are upsampled whole.
_STRIP_VALUES = 2**20
_CHUNK_VALUES = 2**26
_SMALL_VALUES = 2**22


def label_map_from_logits(
    logits: torch.Tensor,
    size: tuple[int, int],
    align_corners: bool = False,
    crop: tuple[int, int] | None = None,
    input_size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """The class with the largest bilinearly upsampled logit at every pixel, in bounded memory.

    Args:
        logits: (num_labels, height, width), any device; half precision is computed in float32.
        size: height and width of the result in pixels.
        align_corners: as in ``F.interpolate``.
        crop: height and width of the picture inside a padded input: the logits are first resized to ``input_size``,
            all beyond ``crop`` is cut at the right and the bottom, and the rest is resized to ``size``.
        input_size: height and width of the padded input. Given without ``crop`` it is an intermediate size.

    Returns:
        int64 (height, width) on the device of the logits. Of equal classes the first wins.

    Raises:
        SegZooError: logits of another shape, or a crop that is larger than the input.
    """
    stages = _stages(logits, size, crop, input_size)
    logits = logits.detach()
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    pixels = max(height * width for _, (height, width) in stages)
    if logits.device.type == "cpu" and pixels * logits.shape[0] > _SMALL_VALUES:
        return _by_strips(logits, stages, align_corners)
    return _by_classes(logits, stages, align_corners)


def probabilities_from_logits(
    logits: torch.Tensor,
    size: tuple[int, int],
    align_corners: bool = False,
    crop: tuple[int, int] | None = None,
    input_size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Softmax of the upsampled logits, (num_labels, height, width) floats; arguments as label_map_from_logits."""
    stages = _stages(logits, size, crop, input_size)
    logits = logits.detach()
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    upsampled = _resize(logits, stages, align_corners)
    if upsampled.data_ptr() == logits.data_ptr():
        upsampled = upsampled.clone()
    # In place: at full resolution a second copy may be too much.
    upsampled.sub_(upsampled.amax(0, keepdim=True)).exp_()
    return upsampled.div_(upsampled.sum(0, keepdim=True))


def _stages(logits, size, crop, input_size) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(part of the map that is used, size that it is resized to) of each step, identities left out."""
    if logits.ndim != 3:
        raise SegZooError(f"logits have the shape {tuple(logits.shape)}, expected (num_labels, height, width).")
    if crop is not None and input_size is None:
        raise SegZooError("crop needs input_size, the size of the padded input that the crop is a part of.")
    current = (int(logits.shape[1]), int(logits.shape[2]))
    stages = []
    if input_size is not None:
        input_size = (int(input_size[0]), int(input_size[1]))
        crop = input_size if crop is None else (int(crop[0]), int(crop[1]))
        if crop[0] > input_size[0] or crop[1] > input_size[1]:
            raise SegZooError(
                f"the crop {crop} is larger than the input {input_size}; the crop lies inside the input."
            )
        stages.append((current, input_size))
        current = crop
    stages.append((current, (int(size[0]), int(size[1]))))
    return stages


def _resize(maps: torch.Tensor, stages, align_corners: bool) -> torch.Tensor:
    """All stages at once, (channels, height, width), contiguous."""
    for (height, width), size in stages:
        maps = maps[:, :height, :width]
        if (height, width) != size:
            maps = F.interpolate(maps[None].contiguous(), size=size, mode="bilinear", align_corners=align_corners)[0]
    return maps.contiguous()


def _by_classes(logits: torch.Tensor, stages, align_corners: bool) -> torch.Tensor:
    """A few classes at a time; exactly F.interpolate's values on any device."""
    largest = max(height * width for _, (height, width) in stages)
    step = max(1, _CHUNK_VALUES // largest)
    best = labels = None
    for first in range(0, logits.shape[0], step):
        values, indices = _resize(logits[first : first + step], stages, align_corners).max(0)
        if best is None:
            best, labels = values, indices
        else:
            better = values > best
            labels = torch.where(better, indices + first, labels)
            best = torch.where(better, values, best)
    return labels


def _by_strips(logits: torch.Tensor, stages, align_corners: bool) -> torch.Tensor:
    """Some rows at a time, classes innermost, so that argmax reads memory in order."""
    rows = _Rows(logits)
    for part, size in stages:
        rows = _ResizedRows(rows, part, size, align_corners)
    height, width = stages[-1][1]
    labels = torch.empty((height, width), dtype=torch.int64)
    strip = logits.new_empty((max(1, _STRIP_VALUES // (width * logits.shape[0])), width, logits.shape[0]))
    for first in range(0, height, len(strip)):
        count = min(len(strip), height - first)
        rows.fill(first, strip[:count])
        torch.argmax(strip[:count], dim=-1, out=labels[first : first + count])
    return labels


class _Rows:
    """The rows of a map (classes, height, width), classes innermost."""

    def __init__(self, maps: torch.Tensor):
        self.maps = maps
        self.classes = maps.shape[0]
        self.dtype = maps.dtype

    def read(self, first: int, last: int) -> torch.Tensor:
        return self.maps[:, first:last].permute(1, 2, 0).contiguous()


class _ResizedRows:
    """The rows of a bilinearly resized part of a map, computed when asked for, from top to bottom.

    Rows of the source are widened once and kept while they are needed. The order of the sums is that of F.interpolate's
    CPU kernel for contiguous maps: the values are equal to the last bit where compilers fuse multiplications alike.
    """

    def __init__(self, source, part: tuple[int, int], size: tuple[int, int], align_corners: bool):
        self.source = source
        self.part = part
        self.size = size
        self.classes = source.classes
        self.dtype = source.dtype
        lower, upper, lower_weight, upper_weight = _bilinear_weights(part[0], size[0], align_corners, self.dtype)
        self.pairs = list(zip(lower.tolist(), upper.tolist(), strict=True))
        self.vertical_weights = (lower_weight[:, None, None], upper_weight[:, None, None])
        lower, upper, lower_weight, upper_weight = _bilinear_weights(part[1], size[1], align_corners, self.dtype)
        self.horizontal = (lower, upper, lower_weight[:, None], upper_weight[:, None])
        self.wide = torch.empty((0, size[1], self.classes), dtype=self.dtype)
        self.wide_start = 0

    def read(self, first: int, last: int) -> torch.Tensor:
        """Rows ``first`` to ``last - 1``, (rows, width, classes)."""
        out = torch.empty((last - first, self.size[1], self.classes), dtype=self.dtype)
        self.fill(first, out)
        return out

    def fill(self, first: int, out: torch.Tensor) -> None:
        """Rows ``first``, ``first + 1`` ... into ``out`` (rows, width, classes)."""
        start, end = first, first + len(out)
        self._widen(self.pairs[start][0], self.pairs[end - 1][1] + 1)
        while start < end:
            pair = self.pairs[start]
            stop = start + 1
            while stop < end and self.pairs[stop] == pair:
                stop += 1
            target = out[start - first : stop - first]
            above, below = (self.wide[index - self.wide_start] for index in pair)
            if self.part[0] == self.size[0]:
                target.copy_(above)
            else:
                lower_weight, upper_weight = (weights[start:stop] for weights in self.vertical_weights)
                torch.mul(below, upper_weight, out=target).addcmul_(above, lower_weight)
            start = stop

    def _widen(self, first: int, last: int) -> None:
        """Have rows ``first`` to ``last - 1`` of the source at the result's width; earlier ones are forgotten."""
        kept = self.wide[first - self.wide_start :]
        new = first + len(kept)
        if new < last:
            rows = self.source.read(new, last)[:, : self.part[1]]
            if self.part[1] != self.size[1]:
                lower, upper, lower_weight, upper_weight = self.horizontal
                left = rows.index_select(1, lower)
                rows = rows.index_select(1, upper).mul_(upper_weight).addcmul_(left, lower_weight)
            kept = torch.cat([kept, rows]) if len(kept) else rows
        self.wide, self.wide_start = kept, first


def _bilinear_weights(length: int, size: int, align_corners: bool, dtype: torch.dtype):
    """Of each of ``size`` resized positions: the two source positions and their weights, as F.interpolate has them.

    The weights are read off F.interpolate itself, from four maps that mark every fourth position.
    """
    positions = torch.arange(length)
    marks = torch.stack([(positions % 4 == k).to(dtype) for k in range(4)])[None, :, :, None]
    weights = F.interpolate(marks, size=(size, 1), mode="bilinear", align_corners=align_corners)[0, :, :, 0]
    targets = torch.arange(size, dtype=dtype)
    if align_corners:
        sources = targets * ((length - 1) / max(size - 1, 1))
    else:
        sources = ((targets + 0.5) * (length / size) - 0.5).clamp(min=0)
    lower = sources.long().clamp(max=length - 1)
    upper = (lower + 1).clamp(max=length - 1)
    lower_weight = weights.gather(0, (lower % 4)[None])[0]
    upper_weight = torch.where(upper > lower, weights.gather(0, (upper % 4)[None])[0], 0.0)
    return lower, upper, lower_weight, upper_weight
