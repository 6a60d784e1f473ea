"""Label maps by blocks: of each block only the classes that can be the largest somewhere in it are computed.

Bilinear values are means of the low-resolution values around a pixel with weights that are not negative. So within a
block of pixels a class is never above the highest of the values that the block depends on, and never below their
lowest. Where the highest value of one class is below the lowest of another, by more than the rounding of the sums, the
first one is the largest nowhere in the block. In the label maps of trained models one class is left in most blocks,
which are filled, and two or three of 150 in the others.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby
from typing import NamedTuple

import torch
from torch.nn import functional as F

from segzoo.inference.rows import MapRows, ResizedRows, Stage, bilinear_weights

_ROWS = 4
"""Low-resolution rows of a block; it is one column wide, because neighbouring columns are compared side by side."""

_MOST_RIVALS = 0.4
"""Share of the classes, on average over a row of blocks, from which on computing all of them is faster."""

_MANY = 6
"""Number of classes of a block from which on it is looked at closely."""

_SAMPLED = 8
"""One in so many blocks of a row with many classes is looked at closely first."""

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
    def of(
        cls, length: int, size: int, used: int, align_corners: bool, dtype: torch.dtype, device: torch.device
    ) -> "_Axis":
        """The first ``used`` positions of an axis that is resized from ``length`` to ``size``."""
        if length == size:
            same = torch.arange(used, device=device)
            ones = torch.ones(used, dtype=dtype, device=device)
            return cls(same, same, ones, torch.zeros_like(ones))
        parts = bilinear_weights(length, size, align_corners, dtype)
        return cls(*(part[:used].to(device) for part in parts))


class _Runs:
    """The runs of pixels along one axis that blocks are made of.

    Run number k holds the pixels whose first low-resolution position is one of k * step, ..., k * step + step - 1. There
    are runs without pixels where a map is made smaller.

    Args:
        axes: the resizing steps along this axis.
        length: number of low-resolution positions.
        step: see above.
    """

    def __init__(self, axes: Sequence[_Axis], length: int, step: int):
        first, last = axes[-1].lower, axes[-1].upper
        for axis in reversed(axes[:-1]):
            first, last = axis.lower[first], axis.upper[last]
        self.step, self.last = step, length - 1
        self.reach = int((last - first).max())
        """Most positions that a pixel depends on, less one."""
        self.of_pixel = first // step
        """(size,) run of each pixel."""
        self.lengths = torch.bincount(self.of_pixel, minlength=-(-length // step))
        self.starts = self.lengths.cumsum(0) - self.lengths
        """(runs,) number of pixels of each run, and the first one."""

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def usual_length(self) -> int:
        """Most pixels of a run; those at the ends, which may be longer, do not count where there are others."""
        inner = self.lengths[1:-1] if len(self) > 2 else self.lengths
        return max(1, int(inner.max()))

    def pixels(self, runs: torch.Tensor, length: int) -> torch.Tensor:
        """(length, len(runs)): the pixels of some runs; the last one is repeated if there are fewer than ``length``."""
        offsets = torch.arange(length, device=runs.device)[:, None]
        return self.starts[runs] + torch.minimum(offsets, self.lengths[runs] - 1)

    def positions(self, runs: torch.Tensor) -> torch.Tensor:
        """(positions, len(runs)): the low-resolution positions that some runs depend on."""
        offsets = torch.arange(self.step + self.reach, device=runs.device)[:, None]
        return (runs * self.step + offsets).clamp_(max=self.last)

    def pooled(self, values: torch.Tensor, axis: int, count: int, larger: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Maxima or minima over the positions that the pixels of each run depend on.

        Args:
            values: of which an axis begins with the first position of a run.
            axis: its number.
            count: number of runs.
            larger: ``torch.maximum`` or ``torch.minimum``.
        """
        length = values.shape[axis]
        pooled = None
        for offset in range(min(length, self.step + self.reach)):
            runs = min(count, -(-(length - offset) // self.step))  # the last ones have fewer positions
            part = values[(slice(None),) * axis + (slice(offset, offset + (runs - 1) * self.step + 1, self.step),)]
            if pooled is None:
                pooled = part.clone()
            else:
                known = pooled.narrow(axis, 0, runs)
                larger(known, part, out=known)
        return pooled


class Rivals(NamedTuple):
    """What `Blocks.search` finds."""

    labels: torch.Tensor
    """(rows of blocks, columns of blocks) int64, the class of each block with one; any class in other blocks."""
    whole: list[bool]
    """For each row of blocks whether all classes have to be computed there."""
    blocks: torch.Tensor
    """(mixed blocks,) number of each block with several classes, row by row; none of rows that are ``whole``."""
    counts: torch.Tensor
    """(mixed blocks,) how many classes they have."""
    classes: torch.Tensor
    """(sum of the counts,) the classes of the mixed blocks, in ascending order in each."""

    def starts(self) -> torch.Tensor:
        """(mixed blocks,) place in ``classes`` of the first class of each block."""
        return self.counts.cumsum(0) - self.counts

    def candidates(self, mixed: torch.Tensor, classes: int) -> torch.Tensor:
        """Booleans (classes, n): which classes the mixed blocks ``mixed`` (n,) have, of ``classes`` in all."""
        counts, starts = self.counts[mixed], self.starts()[mixed]
        column = torch.arange(len(mixed), device=mixed.device).repeat_interleave(counts)
        rank = torch.arange(len(column), device=mixed.device) - (counts.cumsum(0) - counts)[column]
        found = torch.zeros((classes, len(mixed)), dtype=torch.bool, device=mixed.device)
        found[self.classes[starts[column] + rank], column] = True
        return found


class Contest(NamedTuple):
    """The pixels of some mixed blocks, (height, width, blocks). Pixels may occur more than once in a block."""

    places: torch.Tensor
    """Positions in the flattened map."""
    labels: torch.Tensor
    """The class with the largest value, int64."""
    doubtful: torch.Tensor | None
    """Where other ways of rounding could give another class, if asked for."""
    mixed: torch.Tensor
    """(blocks,) place of each block in the lists of `Rivals`."""


class Blocks:
    """The blocks of a label map.

    Args:
        logits: (classes, height, width), floats.
        stages: the resizing steps.
        align_corners: as in ``F.interpolate``.
        dtype: of the sums.
    """

    def __init__(self, logits: torch.Tensor, stages: Sequence[Stage], align_corners: bool, dtype: torch.dtype):
        by_position = logits.permute(1, 2, 0)
        self.logits = logits if by_position.is_contiguous() else logits.contiguous()
        self.flat = (by_position if by_position.is_contiguous() else self.logits).flatten()  # shares its memory
        self.dtype = dtype
        self.steps: list[tuple[_Axis, _Axis]] = []
        used = self.size = stages[-1][1]
        for part, size in reversed(stages):  # of each step only what the next one reads
            if part == size:
                used = (min(used[0], part[0]), min(used[1], part[1]))
                continue
            vertical, horizontal = (
                _Axis.of(part[axis], size[axis], used[axis], align_corners, dtype, logits.device) for axis in range(2)
            )
            self.steps.insert(0, (vertical, horizontal))
            used = part
        if self.steps:
            height, width = logits.shape[1:]
            self.rows = _Runs([vertical for vertical, _ in self.steps], height, _ROWS)
            self.columns = _Runs([horizontal for _, horizontal in self.steps], width, 1)
            self.occupied = (self.rows.lengths > 0)[:, None] & (self.columns.lengths > 0)

    @property
    def largest(self) -> int:
        """Values of the largest block, of all classes; 0 if nothing is resized."""
        if not self.steps:
            return 0
        return len(self.logits) * int(self.rows.lengths.max()) * int(self.columns.lengths.max())

    def search(self, values: int) -> Rivals:
        """Find the classes of all blocks; about ``values`` logits are read at once."""
        count = max(1, values // (self.logits[:, 0].numel() * _ROWS))
        found: list[Rivals] = []
        for start in range(0, len(self.rows), count):
            end = min(start + count, len(self.rows))
            middle = (start + end) // 2
            # Where everything was mixed just before, as in noise, one row tells enough.
            if found and all(found[-1].whole) and self._search(middle, middle + 1).whole[0]:
                found.append(self._all_whole(end - start))
            else:
                found.append(self._search(start, end))
        labels, whole, *mixed = zip(*found, strict=True)
        return Rivals(torch.cat(labels), list(chain.from_iterable(whole)), *(torch.cat(parts) for parts in mixed))

    def _all_whole(self, rows: int) -> Rivals:
        """What is found where nothing is looked at."""
        labels = torch.zeros((rows, len(self.columns)), dtype=torch.int64, device=self.logits.device)
        return Rivals(labels, [True] * rows, labels[0, :0], labels[0, :0], labels[0, :0])

    def _search(self, start: int, end: int) -> Rivals:
        """`search` in rows ``start`` to ``end - 1`` of blocks."""
        part = self.logits[:, start * _ROWS : end * _ROWS + self.rows.reach]
        highest, lowest = (
            self.columns.pooled(self.rows.pooled(part, 1, end - start, larger), 2, len(self.columns), larger)
            for larger in (torch.maximum, torch.minimum)
        )
        highest, lowest = highest.to(self.dtype), lowest.to(self.dtype)
        finite = (highest.amax((0, 2)) < _LARGEST) & (lowest.amin((0, 2)) > -_LARGEST)  # false for NaN
        bound = lowest.amax(0)
        bound -= _slack(bound.abs())
        possible = torch.ge(highest, bound, out=lowest)  # 0 and 1: many times as fast as booleans
        counts = possible.sum(0)
        numbers = torch.arange(len(possible), dtype=self.dtype, device=part.device)
        labels = possible.mul_(numbers[:, None, None]).sum(0).clamp_(max=len(possible) - 1).long()
        used = self.occupied[start:end]
        whole, mixed = used.any(1) & ~finite, (counts > 1) & used
        many = mixed.any(1) & (counts.mean(1) > _MOST_RIVALS * len(possible)) & ~whole
        if many.any():
            sample = mixed & many[:, None]
            sample[:, torch.arange(sample.shape[1], device=sample.device) % _SAMPLED > 0] = False
            shares = torch.zeros_like(bound)
            shares[sample] = self._possible(highest, bound, sample, start).mean(1)
            whole |= many & (shares.sum(1) > _MOST_RIVALS * sample.sum(1))
        mixed &= ~whole[:, None]
        possible = self._possible(highest, bound, mixed, start)
        blocks = mixed.flatten().nonzero()[:, 0] + start * len(self.columns)
        return Rivals(labels, whole.tolist(), blocks, possible.sum(1).long(), possible.nonzero()[:, 1])

    def _possible(self, highest: torch.Tensor, bound: torch.Tensor, chosen: torch.Tensor, start: int) -> torch.Tensor:
        """The classes that can be the largest somewhere in a block, (blocks, classes): 1, or 0 for others.

        Where one class gives way to another within a position or two, the given bound leaves many. But the largest
        class of a pixel is nowhere below the mean of some classes either, here of the two or three highest ones.

        Args:
            highest: (classes, rows, columns) of each block.
            bound: (rows, columns), which the largest class of a pixel is nowhere below.
            chosen: (rows, columns) booleans: the blocks.
            start: number of their first row.
        """
        index = chosen.flatten().nonzero()[:, 0]
        of_blocks = highest.flatten(1).t()
        if of_blocks.is_contiguous():  # as of channels-last logits, which `index_select` would copy whole
            highest = of_blocks.index_select(0, index)
        else:
            highest = of_blocks.t().index_select(1, index).t().contiguous()
        bound = bound.flatten()[index]
        possible = torch.ge(highest, bound[:, None], out=torch.empty_like(highest))
        many = (possible.sum(1) > _MANY).nonzero()[:, 0]
        if not len(many):
            return possible
        highest = highest[many]
        rest, leaders = highest.clone(), []
        for _ in range(min(3, rest.shape[1])):
            leaders.append(rest.argmax(1, keepdim=True))
            rest.scatter_(1, leaders[-1], -torch.inf)
        rows, columns = index[many] // len(self.columns) + start, index[many] % len(self.columns)
        down, across = self.rows.positions(rows), self.columns.positions(columns)
        values = self.logits[torch.cat(leaders, 1).t()[:, None, None], down[:, None], across].to(self.dtype)
        slack = _slack(values.abs().amax((0, 1, 2)))
        means = [values[:count].mean(0).amin((0, 1)) - slack for count in range(2, len(leaders) + 1)]
        bound = torch.stack([bound[many], *means]).amax(0)
        possible[many] = torch.ge(highest, bound[:, None], out=rest)
        return possible

    def fill(self, labels: torch.Tensor, out: torch.Tensor) -> None:
        """Write the class of each block, (rows, columns) of blocks, into ``out`` (height, width) of any integer type."""
        wide = labels.to(out.dtype).index_select(1, self.columns.of_pixel)
        torch.index_select(wide, 0, self.rows.of_pixel, out=out)

    def spans(self, whole: Sequence[bool]) -> Iterator[tuple[int, int]]:
        """The first row of pixels, and the one after the last, of each sequence of rows of blocks that are ``whole``."""
        ends = (self.rows.starts + self.rows.lengths).tolist()
        row = 0
        for is_whole, group in groupby(whole):
            start, row = row, row + len(list(group))
            if is_whole:
                yield (ends[start - 1] if start else 0), ends[row - 1]

    def contests(self, rivals: Rivals, values: int, doubts: bool) -> Iterator[Contest]:
        """The mixed blocks, about ``values`` interpolated logits at once.

        Args:
            rivals: what `search` found.
            values: see above.
            doubts: look for doubtful pixels too.
        """
        grid = self.rows, self.columns
        places = rivals.blocks // len(self.columns), rivals.blocks % len(self.columns)
        usual = [axis.usual_length for axis in grid]
        fits = torch.stack([axis.lengths[at] <= most for axis, at, most in zip(grid, places, usual, strict=True)]).all(
            0
        )
        for chosen in (fits, ~fits):
            members = chosen.nonzero()[:, 0]
            if not len(members):
                continue
            lengths = [int(axis.lengths[at[members]].max()) for axis, at in zip(grid, places, strict=True)]
            members = members[rivals.counts[members].argsort(descending=True)]
            spent = rivals.counts[members].cumsum(0) * (lengths[0] * lengths[1])
            for part in members.split(torch.bincount(spent // values).tolist()):
                if len(part):
                    rows, columns = (
                        axis.pixels(at[part], length) for axis, at, length in zip(grid, places, lengths, strict=True)
                    )
                    yield self._contest(rivals, part, rows, columns, doubts)

    def _contest(
        self, rivals: Rivals, mixed: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, doubts: bool
    ) -> Contest:
        """The pixels of some blocks.

        Args:
            rivals: what `search` found.
            mixed: (blocks,) places in its lists, those of blocks with the most classes first.
            rows, columns: (height, blocks) and (width, blocks) pixels.
            doubts: look for doubtful pixels too.
        """
        counts, starts = rivals.counts[mixed], rivals.starts()[mixed]
        rank = torch.arange(int(counts[0]), device=counts.device)[:, None]
        alive = rank < counts
        ranks, block = alive.nonzero(as_tuple=True)  # all first classes, then all second ones, and so on
        classes = rivals.classes[starts[block] + ranks]
        steps = _Steps(self, rows, columns)
        source = steps.source(classes, block)
        sizes = alive.sum(1).tolist()
        first, *others = zip(steps.resized(source, block).split(sizes, -1), classes.split(sizes), strict=True)
        best, labels = first[0], first[1].expand(first[0].shape).clone()
        second = torch.full_like(best, -torch.inf) if doubts else None
        for part, label in others:
            largest, held = best[..., : len(label)], labels[..., : len(label)]
            if second is not None:
                rest = second[..., : len(label)]
                torch.maximum(rest, torch.minimum(largest, part), out=rest)
            torch.where(part > largest, label, held, out=held)
            torch.maximum(largest, part, out=largest)
        doubtful = None
        if second is not None:
            slack = torch.zeros(counts.shape, dtype=best.dtype, device=best.device)
            slack.scatter_reduce_(0, block, _slack(source.abs().amax((0, 1))), "amax")
            doubtful = best - second <= slack
        return Contest(rows[:, None] * self.size[1] + columns, labels, doubtful, mixed)


class _Window:
    """What the pixels of some rectangles depend on along one axis before a resizing step.

    Args:
        axis: the step.
        pixels: (pixels, rectangles), in ascending order.
    """

    def __init__(self, axis: _Axis, pixels: torch.Tensor):
        lower, upper = axis.lower[pixels], axis.upper[pixels]
        first, last = lower[0], upper[-1]
        offsets = torch.arange(int((last - first).max()) + 1, device=pixels.device)[:, None]
        self.positions = torch.minimum(first + offsets, last)
        """(positions, rectangles)."""
        self.lower, self.upper = _shared(lower - first), _shared(upper - first)
        """(pixels, rectangles or 1) which of the positions each pixel lies between."""
        self.lower_weight, self.upper_weight = _shared(axis.lower_weight[pixels]), _shared(axis.upper_weight[pixels])
        """(pixels, rectangles or 1)."""

    def interpolated(self, values: torch.Tensor, axis: int, chosen: torch.Tensor) -> torch.Tensor:
        """The sums, which are formed in the order of `ResizedRows`.

        Args:
            values: (height, width, n) at the positions.
            axis: number of the axis, 0 or 1.
            chosen: (n,) the rectangle of each.
        """
        return (
            self._at(self.upper, values, axis, chosen)
            .mul_(self._weights(self.upper_weight, axis, chosen))
            .addcmul_(self._at(self.lower, values, axis, chosen), self._weights(self.lower_weight, axis, chosen))
        )

    def _weights(self, weights: torch.Tensor, axis: int, chosen: torch.Tensor) -> torch.Tensor:
        return _of(weights, chosen).unsqueeze(1 - axis)

    def _at(self, index: torch.Tensor, values: torch.Tensor, axis: int, chosen: torch.Tensor) -> torch.Tensor:
        if index.shape[1] == 1:
            return values.index_select(axis, index[:, 0])
        shape = list(values.shape)
        shape[axis] = len(index)
        return values.gather(axis, _of(index, chosen).unsqueeze(1 - axis).expand(shape))


class _Steps:
    """The resizing steps for some rectangles of pixels.

    Args:
        blocks: of the map.
        rows, columns: (height, rectangles) and (width, rectangles) pixels.
    """

    def __init__(self, blocks: Blocks, rows: torch.Tensor, columns: torch.Tensor):
        self.logits, self.flat, self.dtype = blocks.logits, blocks.flat, blocks.dtype
        self.windows: list[tuple[_Window, _Window]] = []
        for vertical, horizontal in reversed(blocks.steps):
            windows = _Window(vertical, rows), _Window(horizontal, columns)
            self.windows.insert(0, windows)
            rows, columns = (window.positions for window in windows)
        self.rows, self.columns = rows, columns

    def source(self, classes: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Logits of ``classes`` (n,) that the pixels of the rectangles ``chosen`` (n,) depend on, (rows, columns, n)."""
        rows, columns = _of(self.rows, chosen)[:, None], _of(self.columns, chosen)
        strides = self.logits.stride()
        # One index into flat memory: several times as fast as three.
        places = classes * strides[0] + rows * strides[1] + columns * strides[2]
        return self.flat.index_select(0, places.flatten()).view(places.shape).to(self.dtype)

    def resized(self, values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """`source` after the last step, (height, width, n)."""
        for vertical, horizontal in self.windows:
            values = horizontal.interpolated(values, 1, chosen)
            values = vertical.interpolated(values, 0, chosen)
        return values


def _shared(numbers: torch.Tensor) -> torch.Tensor:
    """(n, 1) of (n, rectangles) if the numbers of all rectangles are equal, else all of them."""
    return numbers[:, :1] if bool((numbers == numbers[:, :1]).all()) else numbers


def _of(numbers: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """(n, chosen) of (n, rectangles), and (n, 1) of (n, 1)."""
    return numbers if numbers.shape[1] == 1 else numbers.index_select(1, chosen)


def _slack(sizes: torch.Tensor) -> torch.Tensor:
    """More than sums of values of these sizes are wrong by rounding: that is a few eps of them in each step.

    A value that is far below a bound is so by more than its own error.
    """
    limits = torch.finfo(sizes.dtype)
    return sizes * (64 * limits.eps) + 64 * limits.tiny


@lru_cache
def adds_like_interpolate(dtype: torch.dtype, classes: int, threads: int) -> bool:
    """Whether `Blocks.contests` round as F.interpolate does on this machine's CPU, found out by maps of noise.

    That is so for maps whose height and width are together more than 128; of smaller ones it takes another way, and so it
    does for three classes with one thread.

    Args:
        dtype: type of the logits.
        classes: their number; of more than 64 so many are tried.
        threads: that F.interpolate uses at present.
    """
    noise = torch.randn((1, min(classes, 64), 13, 16), dtype=dtype, generator=torch.Generator().manual_seed(0)).exp()
    size = (57, 96)
    rows = ResizedRows(MapRows(noise[0]), (13, 16), size, align_corners=False).read(0, size[0])
    return torch.equal(F.interpolate(noise, size=size, mode="bilinear")[0], rows.permute(2, 0, 1))
