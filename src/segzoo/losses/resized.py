"""Cross-entropy of logits that are resized to their labels, without the resized logits in memory."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.compat import is_followed
from segzoo.layers.resize import in_format_of, resize

# Resized numbers that are worked on at a time, for each thread: they stay in its cache.
_STRIP = 2**18

# With fewer classes the resized logits are as small as what is kept of them here.
_FEWEST_CLASSES = 8


def resized_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int, *, align_corners: bool) -> Tensor:
    """The cross-entropy of every pixel between labels and logits that are resized (bilinear) to their size.

    Where every pixel of the logits becomes a whole number of pixels, which is so in nearly all trainings, the logits
    are resized, compared and, in the backward pass, resized back a few rows at a time on a CPU: their softmax is as
    large as the labels times the number of classes, and filling memory with it takes longer than the arithmetic.

    Args:
        logits: scores (B, C, h, w) in float32 or float64.
        labels: class ids (B, H, W), int64, each in 0..C-1 or ``ignore_index``.
        ignore_index: label of the pixels whose loss is 0.
        align_corners: whether resizing aligns the centres of the corner pixels.

    Returns:
        (B, H, W), in the type of the logits.
    """
    usual = is_followed() or type(logits) is not Tensor
    if usual or logits.device.type != "cpu" or logits.shape[1] < _FEWEST_CLASSES:
        return _usual(logits, labels, ignore_index, align_corners)
    sides = zip(logits.shape[-2:], labels.shape[-2:], strict=True)
    axes = [_axis(small, large, align_corners) for small, large in sides]
    if None in axes:
        return _usual(logits, labels, ignore_index, align_corners)
    return _InCells.apply(logits, labels, ignore_index, align_corners, *axes)[0]


class _Axis(NamedTuple):
    """One side of a grid of cells, each between two neighbouring pixels of the logits, with one more beyond the borders.

    Args:
        length: pixels of the labels.
        cells: number of cells.
        step: number of positions in a cell.
        before: number of the first cell's positions that lie outside of the labels.
        padding: pixels that the logits need in front; behind it is always one.
        start: place of a cell's first position, in 1/step of the way from one pixel to the next.
    """

    length: int
    cells: int
    step: int
    before: int
    padding: int
    start: float

    @property
    def behind(self) -> int:
        """Number of the last cell's positions that lie outside of the labels."""
        return self.cells * self.step - self.before - self.length

    def shares(self, like: Tensor) -> Tensor:
        """What the pixels in front and behind count at each position, (step, 2)."""
        behind = (torch.arange(self.step, dtype=torch.float64) + self.start) / self.step
        return torch.stack((1 - behind, behind), dim=1).to(like)


def _axis(small: int, large: int, align_corners: bool) -> _Axis | None:
    """The cells of a side; None where they differ from each other."""
    if align_corners:
        if small < 2 or (large - 1) % (small - 1):
            return None
        return _Axis(large, cells=small, step=(large - 1) // (small - 1), before=0, padding=0, start=0.0)
    if small < 1 or large % small:
        return None
    step = large // small
    start = 0.0 if step % 2 else 0.5
    return _Axis(large, cells=small + 1, step=step, before=(step + 1) // 2, padding=1, start=start)


def _usual(logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool) -> Tensor:
    logits = resize(logits, labels.shape[-2:], align_corners=align_corners)
    return F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")


class _InCells(torch.autograd.Function):
    """`resized_cross_entropy` in strips of cells, and the logarithms of the sums of exponentials, (B, rows of cells, step,
    cells, step), with which the backward pass computes them once more.
    """

    @staticmethod
    def forward(
        logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool, y: _Axis, x: _Axis
    ) -> tuple[Tensor, Tensor]:
        cells = _Cells(logits, y, x)
        counted = labels != ignore_index
        targets = cells.split(torch.where(counted, labels, 0))
        losses, sums = logits.new_empty(2, *targets.shape)
        for image, first, last, values in cells.values():
            target = cells.flat(targets[image, first:last])
            loss = -F.log_softmax(values, dim=1).gather(1, target)
            losses[image, first:last] = cells.unflat(loss)
            sums[image, first:last] = cells.unflat(values.gather(1, target).add_(loss))
        return torch.where(counted, cells.join(losses), 0), sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        logits, labels, *ctx.options = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(logits, labels, output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        logits, labels, sums = ctx.saved_tensors
        ignore_index, align_corners, y, x = ctx.options
        nothing = (None,) * 5
        if torch.is_grad_enabled():  # for a gradient of gradients
            losses = _usual(logits, labels, ignore_index, align_corners)
            return *torch.autograd.grad(losses, logits, gradient, create_graph=True), *nothing
        cells = _Cells(logits, y, x)
        counted = labels != ignore_index
        targets = cells.split(torch.where(counted, labels, 0))
        factors = cells.split(torch.where(counted, gradient, 0))
        total = torch.zeros_like(cells.padded)
        for image, first, last, values in cells.values():
            target, factor, logarithm = (cells.flat(x[image, first:last]) for x in (targets, factors, sums))
            values.sub_(logarithm).exp_().mul_(factor).scatter_add_(1, target, -factor)
            cells.add_to_corners(total[image], first, last, values)
        return in_format_of(logits, cells.unpad(total)), *nothing


class _Cells:
    """The grid of cells of logits (B, C, h, w), and what is resized in it.

    Args:
        logits: the logits.
        y, x: the sides.
    """

    def __init__(self, logits: Tensor, y: _Axis, x: _Axis):
        self.y, self.x = y, x
        self.padded = F.pad(logits.contiguous(), (x.padding, 1, y.padding, 1), mode="replicate")
        # (positions of a cell, its corners)
        self.mixing = (y.shares(logits)[:, None, :, None] * x.shares(logits)[:, None]).view(-1, 4)

    def values(self) -> Iterator[tuple[int, int, int, Tensor]]:
        """An image, its first and last row of cells, exclusive, and the resized logits in them, (positions, C, cells)."""
        channels = self.padded.shape[1]
        rows = max(1, _STRIP * torch.get_num_threads() // (channels * self.x.cells * len(self.mixing)))
        for image, logits in enumerate(self.padded):
            for first in range(0, self.y.cells, rows):
                last = min(first + rows, self.y.cells)
                corners = torch.stack(list(_corners(logits, first, last)))
                with torch.autocast("cpu", enabled=False):
                    values = self.mixing @ corners.view(4, -1)
                yield image, first, last, values.view(len(self.mixing), channels, -1)

    def add_to_corners(self, total: Tensor, first: int, last: int, values: Tensor) -> None:
        """Add gradients (positions, C, cells) of rows of cells to those of the padded logits, (C, h, w)."""
        with torch.autocast("cpu", enabled=False):
            mixed = self.mixing.mT @ values.view(len(self.mixing), -1)
        corners = mixed.view(4, len(total), last - first, self.x.cells)
        for corner, gradient in zip(_corners(total, first, last), corners, strict=True):
            corner.add_(gradient)

    def unpad(self, total: Tensor) -> Tensor:
        """Gradients of the padded logits to those of the logits."""
        for dim, side in ((2, self.y), (3, self.x)):
            total.select(dim, -2).add_(total.select(dim, -1))
            if side.padding:
                total.select(dim, 1).add_(total.select(dim, 0))
            total = total.narrow(dim, side.padding, total.shape[dim] - 1 - side.padding)
        return total

    def split(self, pixels: Tensor) -> Tensor:
        """Pixels (B, H, W) to (B, rows of cells, step, cells of a row, step), with zeros outside."""
        borders = (self.x.before, self.x.behind, self.y.before, self.y.behind)
        return F.pad(pixels, borders).view(len(pixels), self.y.cells, self.y.step, self.x.cells, self.x.step)

    def join(self, pixels: Tensor) -> Tensor:
        """What `split` makes, back to (B, H, W)."""
        pixels = pixels.view(len(pixels), self.y.cells * self.y.step, self.x.cells * self.x.step)
        return pixels.narrow(1, self.y.before, self.y.length).narrow(2, self.x.before, self.x.length)

    def flat(self, pixels: Tensor) -> Tensor:
        """Pixels (rows, step, cells, step) in the order of `values`, (positions, 1, cells)."""
        return pixels.permute(1, 3, 0, 2).reshape(len(self.mixing), 1, -1)

    def unflat(self, pixels: Tensor) -> Tensor:
        """What `flat` makes, back to (rows, step, cells, step)."""
        return pixels.view(self.y.step, self.x.step, -1, self.x.cells).permute(2, 0, 3, 1)


def _corners(x: Tensor, first: int, last: int) -> Iterator[Tensor]:
    """The pixels (C, rows, cells) around rows of cells in a padded map (C, h, w): above and below, each left and right."""
    for down in (0, 1):
        rows = x[:, first + down : last + down]
        yield from (rows[..., :-1], rows[..., 1:])
