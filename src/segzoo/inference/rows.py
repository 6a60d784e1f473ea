"""Maps that are read row by row, from top to bottom, so that a large map never exists as a whole.

Each kind has ``size`` (height, width), ``classes``, ``dtype`` and ``device``. Rows are tensors (rows, width, classes),
the classes innermost: ``fill(first, out)`` writes them into existing memory, ``read(first, last)`` returns new ones.
Rows may be read again as long as no rows below them have been read.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

Size = tuple[int, int]
"""(height, width)."""

Stage = tuple[Size, Size]
"""One resizing step: the upper left part of the map that is used, and the size that it is resized to."""

_COPIED_VALUES = 2**16


class Rows:
    """Base of all maps that are read row by row.

    Args:
        size: height and width of the map.
        classes: number of values per pixel.
        dtype: type of the values.
        device: device of the values.
    """

    def __init__(self, size: Size, classes: int, dtype: torch.dtype, device: torch.device):
        self.size = (int(size[0]), int(size[1]))
        self.classes = classes
        self.dtype = dtype
        self.device = device

    def fill(self, first: int, out: torch.Tensor) -> None:
        """Write ``len(out)`` rows, beginning with row ``first``, into ``out`` (rows, width, classes)."""
        raise NotImplementedError

    def empty(self, count: int) -> torch.Tensor:
        """An uninitialised tensor for ``count`` rows, (count, width, classes)."""
        return torch.empty((count, self.size[1], self.classes), dtype=self.dtype, device=self.device)

    def read(self, first: int, last: int) -> torch.Tensor:
        """Rows ``first`` to ``last - 1``, (rows, width, classes)."""
        out = self.empty(last - first)
        self.fill(first, out)
        return out


class MapRows(Rows):
    """The rows of a map that is in memory as a tensor (classes, height, width)."""

    def __init__(self, maps: torch.Tensor):
        super().__init__(maps.shape[1:], maps.shape[0], maps.dtype, maps.device)
        self.maps = maps

    def fill(self, first: int, out: torch.Tensor) -> None:
        rows, width = len(out), self.size[1]
        if self.maps.stride(0) == 1 or self.device.type != "cpu":
            out.copy_(self.maps[:, first : first + rows].permute(1, 2, 0))
            return
        # By way of small copies of whole lines: in place, values of one pixel are far apart and evict each other.
        step = max(1, _COPIED_VALUES // (width * self.classes))
        for start in range(0, rows, step):
            part = self.maps[:, first + start : first + min(start + step, rows)].contiguous()
            out[start : start + step].view(-1, self.classes).copy_(part.flatten(1).t())


class ResizedRows(Rows):
    """The rows of a bilinearly resized part of a map, computed when they are read.

    Each row of the source is resized to the result's width once, and kept while it is needed. Sums are formed in the
    order of F.interpolate's CPU kernel for contiguous maps: the values are equal to the last bit if the compilers fuse
    multiplications and additions in the same way.

    Args:
        source: the map.
        part: height and width of its upper left part that is used.
        size: height and width of the result.
        align_corners: as in ``F.interpolate``.
    """

    def __init__(self, source: Rows, part: Size, size: Size, align_corners: bool):
        super().__init__(size, source.classes, source.dtype, source.device)
        self.source = source
        self.part = part
        lower, upper, *weights = bilinear_weights(part[0], size[0], align_corners, self.dtype)
        self.pairs = list(zip(lower.tolist(), upper.tolist(), strict=True))
        self.vertical_weights = tuple(weight[:, None, None].to(self.device) for weight in weights)
        lower, upper, *weights = bilinear_weights(part[1], size[1], align_corners, self.dtype)
        self.horizontal = tuple(v.to(self.device) for v in (lower, upper, *(w[:, None] for w in weights)))
        self.wide = self.empty(0)
        self.wide_start = 0

    def fill(self, first: int, out: torch.Tensor) -> None:
        start, end = first, first + len(out)
        self._widen(self.pairs[start][0], self.pairs[end - 1][1] + 1)
        if self.part[0] == self.size[0]:
            out.copy_(self.wide[first - self.wide_start : end - self.wide_start])
            return
        while start < end:
            pair = self.pairs[start]
            stop = start + 1
            while stop < end and self.pairs[stop] == pair:
                stop += 1
            above, below = (self.wide[index - self.wide_start] for index in pair)
            lower_weight, upper_weight = (weights[start:stop] for weights in self.vertical_weights)
            torch.mul(below, upper_weight, out=out[start - first : stop - first]).addcmul_(above, lower_weight)
            start = stop

    def _widen(self, first: int, last: int) -> None:
        """Keep exactly rows ``first`` to ``last - 1`` of the source at the result's width, and drop earlier ones."""
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


class AveragedRows(Rows):
    """The mean over several maps of one size, such as those of the views of one picture.

    Args:
        sources: maps of the same size and number of classes.
        mirrored: for each map, whether it belongs to a mirrored picture and has to be mirrored back.
        probabilities: take the softmax over the classes before the mean, so that the rows are probabilities.
    """

    def __init__(self, sources: Sequence[Rows], mirrored: Sequence[bool], probabilities: bool):
        first = sources[0]
        super().__init__(first.size, first.classes, first.dtype, first.device)
        self.sources, self.mirrored, self.probabilities = list(sources), list(mirrored), probabilities

    def fill(self, first: int, out: torch.Tensor) -> None:
        out.zero_()
        for source, mirrored in zip(self.sources, self.mirrored, strict=True):
            rows = source.read(first, first + len(out))
            if self.probabilities:
                rows = rows.softmax(-1)
            out.add_(rows.flip(1) if mirrored else rows)
        out.div_(len(self.sources))


def resized(rows: Rows, stages: Sequence[Stage], align_corners: bool) -> Rows:
    """A map after one or several resizing steps; steps that change nothing are skipped.

    Args:
        rows: the map.
        stages: the steps, in their order.
        align_corners: as in ``F.interpolate``.
    """
    for part, size in stages:
        if not rows.size == part == size:
            rows = ResizedRows(rows, part, size, align_corners)
    return rows


def bilinear_weights(
    length: int, size: int, align_corners: bool, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """How F.interpolate resizes one axis from ``length`` to ``size`` positions.

    The weights are the results of F.interpolate itself for four maps, each of which marks every fourth position.

    Returns:
        Lower and upper source position of each resized position, and their weights; (size,) each.
    """
    positions = torch.arange(length)
    marks = torch.stack([(positions % 4 == k).to(dtype) for k in range(4)])[None, :, :, None]
    # Maps whose height and width are together at most 128 have a kernel of their own, with other roundings.
    shape = (size, max(1, 129 - size))
    weights = F.interpolate(marks, size=shape, mode="bilinear", align_corners=align_corners)[0, :, :, 0]
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
