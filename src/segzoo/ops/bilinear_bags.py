"""Weighted sums of bilinear samples, and their gradients: the arithmetic that the deformable operators share.

The maps lie in a *table*: its rows are the vectors that are sampled whole (the channels of one group or head at one
pixel), and each map has a border of zeros. A bilinear sample is then made of four rows of the table, and a weighted
sum of samples is a bag of rows, as ``embedding_bag`` sums them: nothing of the size points x channels is ever stored.

The same arithmetic has two forms. The plain one is made of PyTorch's operators. The fused one, for CPUs, has its three
steps compiled: placing the points, summing their samples, and the dot products of the backward.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segzoo.ops.fusing import Fused

# Zeros around each map. A sample outside the map is moved to where all its corners are zeros, so that its value and
# its gradients vanish without a mask.
BORDER = 2
# Number of sampling points that are worked on at a time; on a CPU per thread, so that what is computed for them stays
# in its cache.
_CPU_POINTS = 1 << 16
_DEVICE_POINTS = 1 << 22
# Numbers that are gathered at a time for the dot products of the plain backward, and summed for the table's gradient.
_CPU_GATHERED = 1 << 19
_DEVICE_GATHERED = 1 << 25


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the points of an operator lie in its table. They come in R lines of L points; P in a row make a sum.

    Point j of line i lies at x = start[0, j] + scale[0, j] * position_x[i, j] and y = start[1, j] + line_y[i] +
    scale[1, j] * position_y[i, j] of its map, in pixels that count the border.
    """

    points: int  # P
    right: int  # rows of the table from a pixel to the next one in x
    below: int  # rows of the table from a pixel to the next one in y
    start: Tensor  # (2, L), for x and for y
    scale: Tensor  # (2, L)
    high: Tensor  # (2, L) the first place beyond the map where all corners are zeros
    index: Tensor  # (L,) row of the table of the map's first pixel, border included
    line_y: Tensor  # (R, 1)
    line_index: Tensor  # (R, 1)

    @functools.cached_property
    def pairs(self) -> tuple[Tensor, ...]:
        """Start, scale, high, axis (0: x, 1: y), step and index, each (2 L,): x and y of one point after the other."""
        vertical = torch.tensor([[0], [1]], dtype=self.high.dtype).expand(self.high.shape)
        step = self.index.new_tensor([[self.right], [self.below]]).expand(self.high.shape)
        index = torch.stack([self.index, torch.zeros_like(self.index)])
        by_point = self.start, self.scale, self.high, vertical, step, index
        return tuple(numbers.t().reshape(-1) for numbers in by_point)


def kept_layouts(build: Callable[..., Layout]) -> Callable[..., Layout]:
    """Decorate ``build`` so that it keeps the last 32 layouts on a CPU, where making one costs as much as using it.

    All arguments are hashable, and the device is the last one. On other devices nothing is kept, because a graph may
    be under capture, whose memory must not be.
    """

    @functools.lru_cache(maxsize=32)
    def kept(*arguments: Any) -> Layout:
        with torch.inference_mode(False):  # the next call may be a training's, and compiled steps tell the two apart
            layout = build(*arguments)
            _ = layout.pairs
            return layout

    return lambda *arguments: (kept if arguments[-1].type == "cpu" else build)(*arguments)


class _Strip(NamedTuple):
    """The points of some consecutive lines, P for each of B sums."""

    lines: slice
    index: Tensor  # (B, P, parts) row of the table at the upper left corner: the sum of one or two parts
    across: Tensor  # (B, P) share of the right corners, 0 to 1
    down: Tensor  # (B, P) share of the lower corners
    weight: Tensor  # (B, P)


def index_dtype(rows: int) -> torch.dtype:
    """The smallest integer dtype that can count ``rows`` rows of a table, int32 or int64."""
    return torch.int32 if rows < 2**31 else torch.int64


def forward(
    table: Tensor,
    layout: Layout,
    positions: Tensor,
    weights: Tensor,
    output: Tensor,
    *,
    softmax: bool = False,
    fused: bool = False,
) -> None:
    """Write the weighted sums of all samples to ``output``.

    Args:
        table: (rows, D), in the dtype that everything is computed in.
        layout: where the points lie in the table.
        positions: (R, L, 2), (x, y) of each point in the units that the layout scales.
        weights: (R, L).
        output: (R, L / P * D), contiguous, of any dtype.
        softmax: ``weights`` holds logits; their softmax over the points of each sum are the weights.
        fused: use the compiled steps, on a CPU where a compiler is found.
    """
    steps = _FUSED if fused and table.device.type == "cpu" else _PLAIN
    for strip in _strips(steps.placing(layout, table.dtype, softmax), layout, positions, weights):
        sums = output[strip.lines].view(-1, table.shape[1])
        steps.sum_samples(table, *strip[1:], layout.right, layout.below, sums)


def backward(
    table: Tensor,
    layout: Layout,
    positions: Tensor,
    weights: Tensor,
    gradient: Tensor,
    positions_gradient: Tensor,
    weights_gradient: Tensor,
    *,
    softmax: bool = False,
    fused: bool = False,
) -> Tensor:
    """Write the gradients of positions and weights, and return that of the table.

    Args:
        table, layout, positions, weights, softmax, fused: as in `forward`.
        gradient: gradient of the output, (R, L / P * D).
        positions_gradient: filled, (R, L, 2).
        weights_gradient: filled, (R, L); with ``softmax`` the gradient of the logits.
    """
    steps = _FUSED if fused and table.device.type == "cpu" else _PLAIN
    table_gradient = torch.zeros_like(table)
    width = positions.shape[1]
    for strip in _strips(_with_whole_index(steps.placing(layout, table.dtype, softmax)), layout, positions, weights):
        sums = gradient[strip.lines].to(table.dtype).reshape(-1, table.shape[1]).contiguous()
        found = steps.point_gradients(table, sums, *strip[1:], layout.right, layout.below, softmax)
        weight, step_x, step_y = (part.view(-1, width) for part in found)
        weights_gradient[strip.lines] = weight
        positions_gradient[strip.lines, :, 0] = step_x.mul_(layout.scale[0])
        positions_gradient[strip.lines, :, 1] = step_y.mul_(layout.scale[1])
        _add_table_gradient(table_gradient, strip, sums, layout)
    return table_gradient


def _strips(
    place: Callable[..., tuple[Tensor, ...]], layout: Layout, positions: Tensor, weights: Tensor
) -> Iterator[_Strip]:
    lines, width, _ = positions.shape
    positions, weights = positions.contiguous(), weights.contiguous().unflatten(1, (-1, layout.points))
    at_a_time = _CPU_POINTS * torch.get_num_threads() if positions.device.type == "cpu" else _DEVICE_POINTS
    count = min(lines, max(1, round(lines * width / at_a_time)))
    # Strips of nearly equal sizes, because a strip of a single line would need a compilation of its own.
    ends = [lines * number // count for number in range(count + 1)] if count else []
    for start, end in zip(ends, ends[1:], strict=False):
        chosen = slice(start, end)
        index, *placed = place(positions[chosen], weights[chosen], layout.line_y[chosen], layout.line_index[chosen])
        index = index.view(-1, layout.points, index.shape[-1])
        yield _Strip(chosen, index, *(tensor.view(-1, layout.points) for tensor in placed))


def _placing(layout: Layout, dtype: torch.dtype, softmax: bool) -> Callable[..., tuple[Tensor, ...]]:
    """A function from positions (lines, L, 2), weights (lines, L / P, P), y and index of lines to a strip's fields."""
    (start_x, start_y), (scale_x, scale_y), (high_x, high_y) = layout.start, layout.scale, layout.high
    low = torch.zeros_like(high_x)

    def place(positions: Tensor, weights: Tensor, line_y: Tensor, line_index: Tensor) -> tuple[Tensor, ...]:
        positions = positions.to(dtype)
        x = torch.addcmul(start_x, positions[..., 0], scale_x)
        y = torch.addcmul(start_y, positions[..., 1], scale_y).add_(line_y)
        # Points outside, infinite or NaN are moved to a place whose corners are zeros.
        x.nan_to_num_(nan=0.0).clamp_(low, high_x)
        y.nan_to_num_(nan=0.0).clamp_(low, high_y)
        index = torch.add(layout.index, x.to(layout.index.dtype), alpha=layout.right)
        index.add_(y.to(index.dtype), alpha=layout.below).add_(line_index)
        weight = weights.to(dtype)
        if softmax:  # PyTorch's own is ten times slower over so short a dimension
            weight = (weight - weight.amax(-1, keepdim=True)).exp_()
            weight /= weight.sum(-1, keepdim=True)
        return index.unsqueeze(-1), x.frac_(), y.frac_(), weight

    return place


def _placing_fused(layout: Layout, dtype: torch.dtype, softmax: bool) -> Callable[..., tuple[Tensor, ...]]:
    """`_placing` over (x, y) pairs as they lie in memory, which vectorises; separate x and y would not."""

    def place(positions: Tensor, weights: Tensor, line_y: Tensor, line_index: Tensor) -> tuple[Tensor, ...]:
        cells, shares, weight = _place_pairs(positions.flatten(1), weights, line_y, line_index, *layout.pairs, softmax)
        cells, shares = cells.view(positions.shape), shares.view(positions.shape)
        return cells, shares[..., 0], shares[..., 1], weight

    return place


def _place_pairs_traced(
    positions: Tensor,
    weights: Tensor,
    line_y: Tensor,
    line_index: Tensor,
    start: Tensor,
    scale: Tensor,
    high: Tensor,
    vertical: Tensor,
    step: Tensor,
    base: Tensor,
    softmax: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Each coordinate's part of the index and its share of the far corners, (lines, 2 L), and the weights."""
    at = start + vertical * line_y + scale * positions.to(scale.dtype)
    at = torch.where(at > 0, at, 0).minimum(high)  # as in `_placing`; no comparison holds for NaN
    first = at.floor()
    cell = first.to(step.dtype) * step + base + vertical.to(step.dtype) * line_index
    weight = weights.to(scale.dtype)
    if softmax:
        points = weight.unbind(-1)
        weight = (weight - functools.reduce(torch.maximum, points).unsqueeze(-1)).exp()
        weight = weight / functools.reduce(torch.add, weight.unbind(-1)).unsqueeze(-1)
    return cell, at - first, weight


def _sum_samples(
    table: Tensor,
    index: Tensor,
    across: Tensor,
    down: Tensor,
    weight: Tensor,
    right: int,
    below: int,
    sums: Tensor,
) -> None:
    """Write the weighted sums of the samples to ``sums``, (B, D) of any dtype."""
    index, total = _whole(index).reshape(-1), None
    starts = torch.arange(0, index.numel(), weight.shape[1], dtype=index.dtype, device=index.device)
    for distance, share in _corners(across, down, weight, right, below):
        part = _bags(table[distance:], index, starts, share.view(-1))
        total = part if total is None else total.add_(part)
    sums.copy_(total)


def _sum_samples_traced(
    table: Tensor,
    index: Tensor,
    across: Tensor,
    down: Tensor,
    weight: Tensor,
    right: int,
    below: int,
    sums: Tensor,
) -> None:
    """`_sum_samples`, unrolled point by point: over a dimension of points inductor would not vectorise the rows."""
    total = None
    for point in range(weight.shape[1]):
        corners = _gather(table, _whole(index[:, point]), right, below)
        top, bottom = (left + (right_corner - left) * across[:, point, None] for left, right_corner in corners)
        part = (top + (bottom - top) * down[:, point, None]) * weight[:, point, None]
        total = part if total is None else total + part
    sums.copy_(total)


def _point_gradients(
    table: Tensor,
    sums: Tensor,
    index: Tensor,
    across: Tensor,
    down: Tensor,
    weight: Tensor,
    right: int,
    below: int,
    softmax: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients (B, P) of the weights (or logits), of x and of y, given those of the sums, ``sums`` (B, D)."""
    index = _whole(index)
    top_left, top_right = _dots(table, index, sums), _dots(table[right:], index, sums)
    bottom_left, bottom_right = _dots(table[below:], index, sums), _dots(table[below + right :], index, sums)
    return _from_dots(top_left, top_right, bottom_left, bottom_right, across, down, weight, softmax)


def _point_gradients_traced(
    table: Tensor,
    sums: Tensor,
    index: Tensor,
    across: Tensor,
    down: Tensor,
    weight: Tensor,
    right: int,
    below: int,
    softmax: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    pairs = _gather(table, _whole(index), right, below)
    dots = [(corner * sums.unsqueeze(1)).sum(-1) for pair in pairs for corner in pair]
    return _from_dots(*dots, across, down, weight, softmax)


def _from_dots(
    top: Tensor,
    top_right: Tensor,
    bottom: Tensor,
    bottom_right: Tensor,
    across: Tensor,
    down: Tensor,
    weight: Tensor,
    softmax: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`_point_gradients` from the dot products (B, P) of the four corners with the gradient of their sum."""
    top_step, bottom_step = top_right - top, bottom_right - bottom
    top = torch.addcmul(top, top_step, across)
    rise = torch.addcmul(bottom, bottom_step, across) - top
    sampled = torch.addcmul(top, rise, down)
    step_x = torch.addcmul(top_step, bottom_step - top_step, down) * weight
    step_y = rise * weight
    if softmax:
        sampled = weight * (sampled - (weight * sampled).sum(-1, keepdim=True))
    return sampled, step_x, step_y


class _Steps(NamedTuple):
    placing: Callable
    sum_samples: Callable
    point_gradients: Callable


_place_pairs = Fused(_place_pairs_traced, _place_pairs_traced)
_PLAIN = _Steps(_placing, _sum_samples, _point_gradients)
_FUSED = _Steps(
    _placing_fused,
    Fused(_sum_samples_traced, _sum_samples),
    Fused(_point_gradients_traced, _point_gradients),
)


def _whole(index: Tensor) -> Tensor:
    """The sum over the parts of an index, which are the last dimension."""
    return functools.reduce(torch.add, index.unbind(-1))


def _with_whole_index(place: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """``place`` with an index of one part, for what reads it several times."""

    def placed(*arguments: Tensor) -> tuple[Tensor, ...]:
        index, *others = place(*arguments)
        return _whole(index).unsqueeze(-1), *others

    return placed


def _gather(table: Tensor, index: Tensor, right: int, below: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """The corners: (upper left, upper right), (lower left, lower right), each (*index.shape, D)."""
    return (
        (table[index], table[index + right]),
        (table[index + below], table[index + (below + right)]),
    )


def _corners(across: Tensor, down: Tensor, weight: Tensor, right: int, below: int) -> Iterator[tuple[int, Tensor]]:
    """(distance in the table from the upper left corner, weight of the corner) for each of the four corners."""
    lower = weight * down
    upper = weight - lower
    for distance, left_share in ((0, upper), (below, lower)):
        right_share = left_share * across
        yield distance, left_share.sub_(right_share)
        yield distance + right, right_share


def _bags(table: Tensor, index: Tensor, starts: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of the table's rows at ``index``, one sum from each start to the next."""
    return torch.embedding_bag(table, index, starts, False, 0, False, weight)[0]


def _dots(table: Tensor, index: Tensor, sums: Tensor) -> Tensor:
    """(B, P): for each point the dot product of its row of the table with its row of ``sums``."""
    dots = sums.new_empty(index.shape)
    points, depth = index.shape[1], sums.shape[1]
    gathered = _CPU_GATHERED if sums.device.type == "cpu" else _DEVICE_GATHERED
    count = max(1, gathered // (points * depth))
    for start in range(0, len(sums), count):
        chosen = slice(start, start + count)
        rows = table.index_select(0, index[chosen].view(-1)).view(-1, points, depth)
        dots[chosen] = torch.bmm(sums[chosen].unsqueeze(1), rows.transpose(1, 2)).squeeze(1)
    return dots


def _add_table_gradient(table_gradient: Tensor, strip: _Strip, sums: Tensor, layout: Layout) -> None:
    """Add to each row of the table the ``sums`` that drew from it, as one bag: sorted, without atomic additions."""
    index = strip.index.view(-1)
    order, permutation = torch.sort(index, stable=True)
    if order.device.type == "cpu":
        first, last = int(order[0]), int(order[-1]) + 1
        counts = torch.bincount(index - first, minlength=last - first)
        starts = counts.cumsum(0).sub_(counts).to(order.dtype)
        at_a_time = max(1, _CPU_GATHERED // sums.shape[1])  # so that what is added to the table comes from the cache
    else:  # the whole table, because reading the ends would wait for the device
        first, last = 0, len(table_gradient) - layout.below - layout.right
        starts = torch.searchsorted(order, torch.arange(last, dtype=order.dtype, device=order.device))
        starts = starts.to(order.dtype)
        at_a_time = last
    rows = [*range(0, last - first, at_a_time), last - first]
    drawn = [0, *(int(starts[row]) for row in rows[1:-1]), index.numel()]  # number of draws from the rows before each
    owners = torch.arange(len(sums), dtype=order.dtype, device=order.device)
    owners = owners.view(-1, 1).expand(strip.weight.shape).reshape(-1).index_select(0, permutation)
    for distance, share in _corners(strip.across, strip.down, strip.weight, layout.right, layout.below):
        share = share.view(-1).index_select(0, permutation)
        gradient = table_gradient[first + distance : last + distance]
        for (row, end), (start, stop) in zip(pairwise(rows), pairwise(drawn), strict=True):
            gradient[row:end] += _bags(sums, owners[start:stop], starts[row:end] - start, share[start:stop])
