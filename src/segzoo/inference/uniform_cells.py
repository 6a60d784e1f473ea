"""Label maps by cells: between positions of one class nothing has to be computed.

Bilinear values are means of the low-resolution values around a pixel with weights that are not negative. So where all
of these positions have the same largest class, by more than the rounding of the sums, that class is the largest at
every pixel between them: such cells are filled. In the label maps of trained models they are nine in ten; the values of
all classes are computed for the pixels of the other cells alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch.nn import functional as F

from segzoo.inference.rows import MapRows, ResizedRows, Size, Stage, bilinear_weights

_MIXED_ROW = 0.9
"""Share of the pixels of one row of cells from which on the others of its band are not looked at."""

_LARGEST = 1e37
"""Larger values, infinities and NaN are left to the sums themselves: products of zero weights can be NaN."""


@dataclass(frozen=True)
class _Axis:
    """One resizing step along one axis: source positions (size,) and weights (size,) of each resized position."""

    lower: torch.Tensor
    upper: torch.Tensor
    lower_weight: torch.Tensor
    upper_weight: torch.Tensor

    @classmethod
    def of(cls, length: int, size: int, used: int, align_corners: bool, like: torch.Tensor) -> "_Axis":
        """The first ``used`` positions of an axis that is resized from ``length`` to ``size``."""
        if length == size:
            same = torch.arange(used, device=like.device)
            ones = torch.ones(used, dtype=like.dtype, device=like.device)
            return cls(same, same, ones, torch.zeros_like(ones))
        parts = bilinear_weights(length, size, align_corners, like.dtype)
        return cls(*(part[:used].to(like.device) for part in parts))

    def __len__(self) -> int:
        return len(self.lower)


class _Groups:
    """Runs of neighbouring pixels along one axis that lie between the same two positions before the last step.

    Args:
        steps: the resizing steps along this axis.
    """

    def __init__(self, steps: Sequence[_Axis]):
        last = steps[-1]
        new = torch.ones_like(last.lower, dtype=torch.bool)
        new[1:] = (last.lower.diff() != 0) | (last.upper.diff() != 0)
        self.starts = new.nonzero()[:, 0]
        """(groups,) first pixel of each group."""
        ends = torch.cat([self.starts[1:], self.starts.new_tensor([len(last)])])
        self.lengths = ends - self.starts
        self.of_pixel = new.cumsum(0) - 1
        """(size,) group of each pixel."""
        self.first, self.last = last.lower[self.starts], last.upper[self.starts]
        """(groups,) the low-resolution positions that the values of a group depend on, both included."""
        for step in reversed(steps[:-1]):
            self.first, self.last = step.lower[self.first], step.upper[self.last]

    @cached_property
    def reach(self) -> int:
        """Most positions that a group depends on, less one."""
        return int((self.last - self.first).max())


class Cells:
    """The cells of a label map: the pixels between the same low-resolution positions, to be labelled band by band.

    Args:
        logits: float32 or float64 (classes, height, width).
        stages: the resizing steps.
        align_corners: as in ``F.interpolate``.
    """

    def __init__(self, logits: torch.Tensor, stages: Sequence[Stage], align_corners: bool):
        self.source, self.classes, self.width = MapRows(logits), logits.shape[0], logits.shape[2]
        self.buffer = self.source.empty(0)
        steps = []
        used = stages[-1][1]
        for part, size in reversed(stages):  # of each step only what the next one reads
            if part == size:
                used = (min(used[0], part[0]), min(used[1], part[1]))
                continue
            steps.append(
                [_Axis.of(part[axis], size[axis], used[axis], align_corners, like=logits) for axis in range(2)]
            )
            used = part
        self.steps = [(vertical, horizontal) for vertical, horizontal in reversed(steps)]
        if self.steps:
            self.rows, self.columns = (_Groups([step[axis] for step in self.steps]) for axis in range(2))

    @property
    def largest(self) -> int:
        """Values of the largest cell, of all classes; 0 if nothing is resized."""
        if not self.steps:
            return 0
        return self.classes * int(self.rows.lengths.max()) * int(self.columns.lengths.max())

    def memory(self, rows: int) -> torch.Tensor:
        """Memory for some rows of the logits, (rows, width, classes), always the same."""
        if len(self.buffer) < rows:
            self.buffer = self.source.empty(rows)
        return self.buffer[:rows]

    def bands(self, values: int) -> Iterator["Band"]:
        """The map from top to bottom in bands that read at most ``values`` logits, or those of one row of cells."""
        most = max(1, values // (self.width * self.classes))
        firsts, lasts = self.rows.first.tolist(), self.rows.last.tolist()
        start = 0
        while start < len(firsts):
            end = start + 1
            while end < len(firsts) and lasts[end] - firsts[start] < most:
                end += 1
            yield Band(self, start, end)
            start = end


def _most_mixed(steps: int, classes: int) -> float:
    """Share of the pixels in mixed cells from which on computing all pixels of a band is faster.

    With several steps single pixels are looked up, which costs the more the fewer classes share it.
    """
    return 0.5 if steps == 1 else 0.15 * min(1.0, classes / 150)


class Band:
    """Whole rows of cells.

    Args:
        cells: the cells of the map.
        start, end: first row of cells, and the one after the last.
    """

    def __init__(self, cells: Cells, start: int, end: int):
        self.cells, self.start, self.end = cells, start, end
        rows = cells.rows
        self.top = int(rows.starts[start])
        self.bottom = int(rows.starts[end - 1] + rows.lengths[end - 1])
        """First row of pixels, and the one after the last."""
        self.first = int(rows.first[start])

    @property
    def part(self) -> torch.Tensor:
        """(classes, rows, width): the low-resolution logits that the band depends on."""
        last = int(self.cells.rows.last[self.end - 1])
        return self.cells.source.maps[:, self.first : last + 1]

    @cached_property
    def table(self) -> torch.Tensor:
        """The same as (positions, classes), until another band is read."""
        _ = self.labels  # which are made in the same memory
        rows = self.cells.memory(self.part.shape[1])
        self.cells.source.fill(self.first, rows)
        return rows.view(-1, self.cells.classes)

    @cached_property
    def largest(self) -> torch.Tensor:
        """(rows, width): the largest logit of each position."""
        return self.part.amax(0)

    @cached_property
    def is_finite(self) -> bool:
        """Whether all logits are ordinary numbers, far from overflowing."""
        return bool(((self._lowest > -_LARGEST) & (self._highest < _LARGEST)).all())

    @cached_property
    def margin(self) -> float:
        """How far two sums of this band may come closer, or change their order, by rounding.

        Either way of adding errs by four roundings a step at most, each of half an eps.
        """
        limits = torch.finfo(self.largest.dtype)
        least = self.largest.amin()
        # Classes that are nowhere the largest one, such as masked ones, do not count.
        counts = self._highest >= least - least.abs() * (64 * limits.eps)
        bound = torch.maximum(-self._lowest, self._highest)[counts].amax().item()
        return 8 * len(self.cells.steps) * limits.eps * bound + limits.tiny * 64

    @cached_property
    def _lowest(self) -> torch.Tensor:
        return self.part.amin((1, 2))

    @cached_property
    def _highest(self) -> torch.Tensor:
        return self.part.amax((1, 2))

    @cached_property
    def labels(self) -> torch.Tensor:
        """The class of each cell, (rows of cells, columns of cells) int64; -1 for mixed cells."""
        if not self.is_finite:
            shape = (self.end - self.start, len(self.cells.columns.starts))
            return torch.full(shape, -1, device=self.largest.device)
        memory = self.cells.memory(self.part.shape[1]).view(self.part.shape)
        limits = torch.finfo(self.largest.dtype)
        margin = self.largest.abs() * (64 * limits.eps) + limits.tiny * 64
        labels = _only_largest(memory.copy_(self.part), margin)
        rows, columns = self.cells.rows, self.cells.columns
        span = slice(self.start, self.end)
        labels = _where_same(labels, 0, rows.first[span] - self.first, rows.last[span] - self.first, rows.reach)
        return _where_same(labels, 1, columns.first, columns.last, columns.reach)

    @cached_property
    def mixed(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and column of each mixed cell in the whole map, from top to bottom."""
        rows, columns = (self.labels < 0).nonzero(as_tuple=True)
        return rows + self.start, columns

    @property
    def share(self) -> float:
        """Share of the pixels that lie in mixed cells."""
        rows, columns = self.mixed
        pixels = (self.cells.rows.lengths[rows] * self.cells.columns.lengths[columns]).sum()
        return pixels.item() / ((self.bottom - self.top) * len(self.cells.columns.of_pixel))

    @property
    def is_mixed(self) -> bool:
        """Whether so many cells are mixed that computing all pixels is faster."""
        middle = (self.start + self.end) // 2
        row = Band(self.cells, middle, middle + 1)
        return row.share > _MIXED_ROW or self.share > _most_mixed(len(self.cells.steps), self.cells.classes)

    def fill(self, out: torch.Tensor) -> None:
        """Write the class of all uniform cells into ``out``, the rows of the band (rows, width) of any integer type."""
        wide = self.labels.to(out.dtype).index_select(1, self.cells.columns.of_pixel)
        groups = self.cells.rows.of_pixel[self.top : self.bottom] - self.start
        torch.index_select(wide, 0, groups, out=out)

    def blocks(self, values: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The mixed cells, at most ``values`` interpolated logits at once.

        Yields:
            Positions of the pixels in the flattened map (cells, height, width), and their values with the classes last.
        """
        grid = self.cells.rows, self.cells.columns
        lengths = [axis.lengths[index] for axis, index in zip(grid, self.mixed, strict=True)]
        starts = [axis.starts[index] for axis, index in zip(grid, self.mixed, strict=True)]
        width = len(self.cells.columns.of_pixel)
        most = int(self.cells.columns.lengths.max()) + 1
        kinds = lengths[0] * most + lengths[1]
        for kind in kinds.unique().tolist():
            down, across = divmod(kind, most)
            members = (kinds == kind).nonzero()[:, 0]
            for chunk in members.split(max(1, values // (down * across * self.cells.classes))):
                top, left = starts[0][chunk], starts[1][chunk]
                pixels = torch.arange(down, device=top.device)[:, None] * width
                pixels = pixels + torch.arange(across, device=top.device)
                yield (top * width + left)[:, None, None] + pixels, self._block(-1, top, left, (down, across))

    def _block(self, step: int, top: torch.Tensor, left: torch.Tensor, size: Size) -> torch.Tensor:
        """Values of rectangles of pixels after a resizing step, each between the same four positions before it.

        The sums are formed in the order of `ResizedRows`.

        Args:
            step: number of the step, counted from the last one, which is -1.
            top, left: (rectangles,) their first pixels.
            size: height and width of all of them.

        Returns:
            (rectangles, height, width, classes).
        """
        vertical, horizontal = self.cells.steps[step]
        above, below = vertical.lower[top], vertical.upper[top]
        before, after = horizontal.lower[left], horizontal.upper[left]
        corners = self._at(
            step - 1, torch.cat([above, above, below, below]), torch.cat([before, after, before, after])
        )
        corners = corners.view(2, 2, len(top), 1, self.cells.classes)
        columns = left[:, None] + torch.arange(size[1], device=left.device)
        wide = corners[:, 1] * horizontal.upper_weight[columns][..., None]
        wide.addcmul_(corners[:, 0], horizontal.lower_weight[columns][..., None])
        rows = top[:, None] + torch.arange(size[0], device=top.device)
        block = wide[1][:, None] * vertical.upper_weight[rows][..., None, None]
        return block.addcmul_(wide[0][:, None], vertical.lower_weight[rows][..., None, None])

    def _at(self, step: int, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Values (pixels, classes) of single pixels after a step, or of the logits where no step is left."""
        if -step > len(self.cells.steps):
            return self.table.index_select(0, (rows - self.first) * self.cells.width + columns)
        width = len(self.cells.steps[step][1])
        pixels, places = (rows * width + columns).unique(return_inverse=True)
        values = self._block(step, pixels // width, pixels % width, (1, 1))
        return values[:, 0, 0].index_select(0, places)


def _where_same(labels: torch.Tensor, axis: int, first: torch.Tensor, last: torch.Tensor, reach: int) -> torch.Tensor:
    """The label of each span from ``first`` to ``last`` along an axis; -1 where its labels differ or one is -1."""
    same = labels.index_select(axis, first)
    for step in range(1, reach + 1):
        other = labels.index_select(axis, torch.minimum(first + step, last))
        same = same.masked_fill_(same != other, -1)
    return same


def _only_largest(values: torch.Tensor, margin: torch.Tensor) -> torch.Tensor:
    """The class whose value is larger than all others by more than a margin; this is faster than ``argmax``.

    Args:
        values: finite (classes, ...); overwritten.
        margin: (...), not negative.

    Returns:
        Classes (...), int64; -1 where several values are in the margin.
    """
    classes = len(values)
    power = 2 ** (classes - 1).bit_length()
    codes = torch.arange(power, power + classes, dtype=values.dtype, device=values.device)
    codes = codes.view(-1, *[1] * (values.ndim - 1))
    total = values.ge_(values.amax(0) - margin).mul_(codes).sum(0)  # two codes are together larger than any one
    return (total - power).masked_fill_(total >= 2 * power, -1).long()


@lru_cache
def adds_like_interpolate(dtype: torch.dtype) -> bool:
    """Whether `Band.blocks` rounds as F.interpolate does on this machine's CPU, found out by a map of noise.

    That is so for maps whose height and width are together more than 128; of smaller ones it takes another way.
    """
    noise = torch.randn((1, 5, 13, 16), dtype=dtype, generator=torch.Generator().manual_seed(0)).exp()
    size = (57, 96)
    rows = ResizedRows(MapRows(noise[0]), (13, 16), size, align_corners=False).read(0, size[0])
    return torch.equal(F.interpolate(noise, size=size, mode="bilinear")[0], rows.permute(2, 0, 1))
