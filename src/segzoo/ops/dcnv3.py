"""Deformable convolution v3: every output position samples its own points of the input, group by group.

From "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions" (Wang et al., 2023),
https://arxiv.org/abs/2211.05778; the numbers are those of the operator in https://github.com/OpenGVLab/InternImage.

One function, :func:`dcnv3`, and two forms of it that give the same numbers:

- the registered operator ``segzoo::dcnv3``, with a backward written by hand, everywhere but in exports. Samples are rows of a
  table of group vectors and their sums are embedding bags, so that nothing of the size points x channels is stored. Inductor
  takes it as it is: a form that it could see into was not faster, and took it 20 seconds a layer to compile;
- a ``grid_sample`` form, inlined under ``torch.export`` and ONNX, where no operator of our own could be lowered.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.errors import SegZooError

# The table has this many zeros around each map. A sample outside the map is moved to where all its corners are zeros, so
# that its value and its gradients vanish without a mask.
_BORDER = 2
# Sampling points that are worked on at a time: on a CPU for each thread, so that what is computed for them stays in its cache.
_CPU_POINTS = 1 << 16
_DEVICE_POINTS = 1 << 22
# Numbers that are gathered at a time for the dot products of the backward.
_CPU_GATHERED = 1 << 19
_DEVICE_GATHERED = 1 << 25


def dcnv3(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    *,
    groups: int,
    kernel_size: int = 3,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    softmax: bool = False,
) -> Tensor:
    """Sum bilinear samples of the input around each position, weighted by ``mask``.

    With reach = dilation * (kernel_size - 1) // 2, point p = kx * kernel_size + ky of a group reads, for the output
    position (row, column), the input at

        x = column * stride - padding + reach + offset_scale * (kx * dilation - reach + offset[..., 0])
        y = row    * stride - padding + reach + offset_scale * (ky * dilation - reach + offset[..., 1])

    in pixels. Outside the input all values are 0. A point whose position is NaN or infinite contributes 0.

    Args:
        input: (N, H, W, C), channels last; C is a multiple of ``groups``.
        offset: (N, Ho, Wo, groups * points * 2), (x, y) of each point in pixels; points = kernel_size**2, less one with
            ``remove_center``; Ho and Wo are those of an ordinary convolution.
        mask: (N, Ho, Wo, groups * points), the weights of the points.
        groups: each group of C / groups channels has its own points.
        kernel_size: odd where ``remove_center`` is set.
        offset_scale: factor on the kernel's grid and on the offsets.
        remove_center: leave out the kernel's central point.
        softmax: ``mask`` holds logits; their softmax over the points of a group are the weights.

    Returns:
        (N, Ho, Wo, C) in the input's dtype. Positions, weights and sums are at least float32, whatever the dtypes of the
        three tensors, which may differ. Under autocast the input is cast to the autocast dtype; offset and mask are not.

    Raises:
        SegZooError: shapes, dtypes or options that do not fit; the message says which.
    """
    options = (groups, kernel_size, stride, padding, dilation, float(offset_scale), bool(remove_center), bool(softmax))
    _check(input, offset, mask, options)
    if torch.compiler.is_exporting():
        return _grid_sample_form(_autocast_input(input), offset, mask, options)
    return torch.ops.segzoo.dcnv3(input, offset, mask, *options)


def _check(input: Tensor, offset: Tensor, mask: Tensor, options: tuple) -> None:
    groups, kernel_size, stride, padding, dilation, _, remove_center, _ = options
    for name, tensor in (("input", input), ("offset", offset), ("mask", mask)):
        if tensor.ndim != 4:
            raise SegZooError(f"dcnv3: {name} must have 4 dimensions (N, H, W, channels), got {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise SegZooError(f"dcnv3: {name} must be floating-point, got {tensor.dtype}")
        if tensor.device != input.device:
            raise SegZooError(f"dcnv3: {name} is on {tensor.device} but input on {input.device}; move them together")
    if min(groups, kernel_size, stride, dilation) < 1 or padding < 0:
        raise SegZooError(
            f"dcnv3: groups={groups}, kernel_size={kernel_size}, stride={stride}, dilation={dilation} must be at least 1 "
            f"and padding={padding} at least 0"
        )
    batch, height, width, channels = input.shape
    if channels < groups or channels % groups:
        raise SegZooError(f"dcnv3: input has {channels} channels, which do not divide into groups={groups}")
    if remove_center and (kernel_size % 2 == 0 or kernel_size == 1):
        raise SegZooError(f"dcnv3: remove_center needs an odd kernel_size of 3 or more, got {kernel_size}")
    span = dilation * (kernel_size - 1) + 1
    if min(height, width) + 2 * padding < span:
        raise SegZooError(
            f"dcnv3: the padded input of {height + 2 * padding}x{width + 2 * padding} is smaller than the kernel ({span})"
        )
    points = kernel_size**2 - remove_center
    rows, columns = _output_size(height, options), _output_size(width, options)
    for name, tensor, last in (("offset", offset, 2 * groups * points), ("mask", mask, groups * points)):
        expected = (batch, rows, columns, last)
        if tuple(tensor.shape) != expected:
            raise SegZooError(f"dcnv3: {name} must be {expected} for this input, got {tuple(tensor.shape)}")


def _output_size(size: int, options: tuple) -> int:
    _, kernel_size, stride, padding, dilation, *_ = options
    return (size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _kernel_grid(options: tuple, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each point lies for output position 0 and offset 0: x and y in pixels of the input, each (points,)."""
    _, kernel_size, _, padding, dilation, scale, remove_center, _ = options
    reach = dilation * (kernel_size - 1) // 2
    steps = torch.arange(kernel_size, dtype=dtype, device=device) * dilation - reach
    steps = steps * scale + (reach - padding)
    grid = torch.stack([steps.repeat_interleave(kernel_size), steps.repeat(kernel_size)])
    if remove_center:
        center = kernel_size**2 // 2
        grid = torch.cat([grid[:, :center], grid[:, center + 1 :]], dim=1)
    return grid[0], grid[1]


# The registered operator


class _Strip(NamedTuple):
    """Sampling points of some output rows. P points for each of B = rows * Wo * groups sums, so M = B * P points."""

    rows: slice  # of the N * Ho output rows
    index: Tensor  # (M,) row of the table at the upper left corner
    across: Tensor  # (M,) share of the right corners, 0 to 1
    down: Tensor  # (M,) share of the lower corners
    weight: Tensor  # (M,)


def _table(input: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """The map within a border of zeros as rows of C / groups numbers, ordered by image, y, x, group."""
    return F.pad(input.to(dtype), (0, 0, *(_BORDER,) * 4)).reshape(-1, input.shape[-1] // groups)


def _weights(mask: Tensor, dtype: torch.dtype, points: int, softmax: bool) -> Tensor:
    """(B, points). PyTorch's own softmax is ten times slower over so short a dimension."""
    weight = mask.to(dtype).reshape(-1, points)
    if softmax:
        weight = (weight - weight.amax(-1, keepdim=True)).exp_()
        weight /= weight.sum(-1, keepdim=True)
    return weight


def _strips(input: Tensor, offset: Tensor, mask: Tensor, dtype: torch.dtype, options: tuple) -> Iterator[_Strip]:
    groups, _, stride, _, _, scale, _, softmax = options
    batch, height, width, _ = input.shape
    rows, columns, device = offset.shape[1], offset.shape[2], input.device
    grid_x, grid_y = (axis + _BORDER for axis in _kernel_grid(options, dtype, device))
    points, per_row = len(grid_x), columns * groups * len(grid_x)
    line, image = (width + 2 * _BORDER) * groups, (height + 2 * _BORDER) * (width + 2 * _BORDER) * groups
    integer = torch.int32 if batch * image < 2**31 else torch.int64

    # What all rows share, laid out as one row of points, so that every step below runs over long rows of memory.
    column = torch.arange(columns, dtype=dtype, device=device) * stride
    base_x = (column.view(-1, 1, 1) + grid_x).expand(columns, groups, points).reshape(per_row)
    base_y = grid_y.expand(columns, groups, points).reshape(per_row)
    base_index = torch.arange(groups, dtype=integer, device=device).view(-1, 1)
    base_index = base_index.expand(columns, groups, points).reshape(per_row)
    position = torch.arange(batch * rows, device=device).view(-1, 1)
    row_y = (position % rows * stride).to(dtype)
    row_index = (position // rows * image).to(integer)

    offset, mask = offset.reshape(batch * rows, per_row, 2), mask.reshape(batch * rows, per_row)
    at_a_time = _CPU_POINTS * torch.get_num_threads() if device.type == "cpu" else _DEVICE_POINTS
    step = max(1, at_a_time // per_row)
    for start in range(0, batch * rows, step):
        strip = slice(start, start + step)
        part = offset[strip].to(dtype)
        x = torch.add(base_x, part[..., 0], alpha=scale)
        y = torch.add(base_y, part[..., 1], alpha=scale).add_(row_y[strip])
        # Outside, infinite or NaN: to a place that has zeros for corners.
        x.nan_to_num_(nan=0.0).clamp_(0, width + _BORDER)
        y.nan_to_num_(nan=0.0).clamp_(0, height + _BORDER)
        index = torch.add(base_index, x.to(integer), alpha=groups)
        index.add_(y.to(integer), alpha=line).add_(row_index[strip])
        weight = _weights(mask[strip], dtype, points, softmax)
        yield _Strip(strip, index.view(-1), x.frac_().view(-1), y.frac_().view(-1), weight.view(-1))


def _corners(strip: _Strip, line: int, groups: int) -> Iterator[tuple[int, Tensor]]:
    """(distance in the table from the upper left corner, weights (M,)) of each of the four corners."""
    lower = strip.weight * strip.down
    upper = strip.weight - lower
    for distance, weight in ((0, upper), (line, lower)):
        right = weight * strip.across
        yield distance, weight.sub_(right)
        yield distance + groups, right


def _bags(table: Tensor, index: Tensor, starts: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows of the table, one from each start to the next."""
    return torch.embedding_bag(table, index, starts, False, 0, False, weight)[0]


@torch.library.custom_op("segzoo::dcnv3", mutates_args=())
def _operator(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    groups: int,
    kernel_size: int,
    stride: int,
    padding: int,
    dilation: int,
    offset_scale: float,
    remove_center: bool,
    softmax: bool,
) -> Tensor:
    options = (groups, kernel_size, stride, padding, dilation, offset_scale, remove_center, softmax)
    batch, rows, columns, _ = offset.shape
    channels = input.shape[-1]
    dtype = _compute_dtype(input, offset, mask)
    points = mask.shape[-1] // groups
    line = (input.shape[2] + 2 * _BORDER) * groups
    table = _table(input, groups, dtype)
    output = input.new_empty(batch, rows, columns, channels)
    by_row = output.view(batch * rows, columns * channels)
    for strip in _strips(input, offset, mask, dtype, options):
        starts = torch.arange(0, len(strip.index), points, dtype=strip.index.dtype, device=input.device)
        total = None
        for distance, weight in _corners(strip, line, groups):
            part = _bags(table[distance:], strip.index, starts, weight)
            total = part if total is None else total.add_(part)
        by_row[strip.rows] = total.view(-1, columns * channels)
    return output


@torch.library.custom_op("segzoo::dcnv3_backward", mutates_args=())
def _backward_operator(
    gradient: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    groups: int,
    kernel_size: int,
    stride: int,
    padding: int,
    dilation: int,
    offset_scale: float,
    remove_center: bool,
    softmax: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    options = (groups, kernel_size, stride, padding, dilation, offset_scale, remove_center, softmax)
    batch, height, width, channels = input.shape
    rows, columns = offset.shape[1:3]
    dtype = _compute_dtype(input, offset, mask)
    points = mask.shape[-1] // groups
    line = (width + 2 * _BORDER) * groups
    table = _table(input, groups, dtype)
    table_gradient = torch.zeros_like(table)
    offset_gradient = torch.empty(offset.shape, dtype=offset.dtype, device=offset.device)
    mask_gradient = torch.empty(mask.shape, dtype=mask.dtype, device=mask.device)
    per_row = columns * groups * points
    offset_by_row = offset_gradient.view(batch * rows, per_row, 2)
    mask_by_row = mask_gradient.view(batch * rows, per_row)
    gradient = gradient.reshape(batch * rows, columns * channels)
    for strip in _strips(input, offset, mask, dtype, options):
        sums = gradient[strip.rows].to(dtype).reshape(-1, channels // groups)

        # A weight's or a position's gradient needs the dot product of each corner with the gradient of the sum.
        top, top_step = _dots_of_pair(table, strip.index, groups, sums, points)
        bottom, bottom_step = _dots_of_pair(table[line:], strip.index, groups, sums, points)
        top.addcmul_(top_step, strip.across)
        bottom.addcmul_(bottom_step, strip.across)
        sampled = torch.lerp(top, bottom, strip.down).view(-1, points)
        weight = strip.weight.view(-1, points)
        if softmax:
            sampled = weight * (sampled - (weight * sampled).sum(-1, keepdim=True))
        mask_by_row[strip.rows] = sampled.view(-1, per_row)
        scaled = strip.weight * offset_scale
        offset_by_row[strip.rows, :, 0] = torch.lerp(top_step, bottom_step, strip.down).mul_(scaled).view(-1, per_row)
        offset_by_row[strip.rows, :, 1] = bottom.sub_(top).mul_(scaled).view(-1, per_row)

        _add_table_gradient(table_gradient, strip, sums, points, line, groups)
    padded = table_gradient.view(batch, height + 2 * _BORDER, width + 2 * _BORDER, channels)
    input_gradient = padded[:, _BORDER:-_BORDER, _BORDER:-_BORDER].to(input.dtype)
    return input_gradient.clone(memory_format=torch.contiguous_format), offset_gradient, mask_gradient


def _dots_of_pair(table: Tensor, index: Tensor, right: int, sums: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """For each point the dot product of the left corner with its sum's row, and by how much the right corner's is larger."""
    left, step = sums.new_empty(len(index)), sums.new_empty(len(index))
    gathered = _CPU_GATHERED if sums.device.type == "cpu" else _DEVICE_GATHERED
    count = max(1, gathered // (points * sums.shape[1]))
    for start in range(0, len(sums), count):
        vectors = sums[start : start + count].unsqueeze(1)
        chosen = slice(start * points, (start + count) * points)
        for dots, corner in ((left, table), (step, table[right:])):
            values = corner.index_select(0, index[chosen]).view(-1, points, sums.shape[1])
            dots[chosen] = torch.bmm(vectors, values.transpose(1, 2)).view(-1)
    return left, step.sub_(left)


def _add_table_gradient(
    table_gradient: Tensor, strip: _Strip, sums: Tensor, points: int, line: int, groups: int
) -> None:
    """Each row of the table gets the rows of ``sums`` that drew from it, as one bag: sorted, without atomic additions."""
    order, permutation = torch.sort(strip.index, stable=True)
    if order.device.type == "cpu":
        first, last = int(order[0]), int(order[-1]) + 1
        counts = torch.bincount(strip.index - first, minlength=last - first)
        starts = counts.cumsum(0).sub_(counts).to(order.dtype)
    else:  # the whole table, rather than wait for the device
        first, last = 0, len(table_gradient) - line - groups
        starts = torch.searchsorted(order, torch.arange(last, dtype=order.dtype, device=order.device))
        starts = starts.to(order.dtype)
    owners = torch.arange(len(sums), dtype=order.dtype, device=order.device)
    owners = owners.view(-1, 1).expand(-1, points).reshape(-1).index_select(0, permutation)
    for distance, weight in _corners(strip, line, groups):
        part = _bags(sums, owners, starts, weight.index_select(0, permutation))
        table_gradient[first + distance : last + distance] += part


@_operator.register_fake
def _(input, offset, mask, *options):
    batch, rows, columns, _ = offset.shape
    return input.new_empty(batch, rows, columns, input.shape[-1])


@_backward_operator.register_fake
def _(gradient, input, offset, mask, *options):
    return tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (input, offset, mask))


def _save_for_backward(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _backward(ctx, gradient):
    gradients = torch.ops.segzoo.dcnv3_backward(gradient, *ctx.saved_tensors, *ctx.options)
    return *gradients, *(None for _ in ctx.options)


_operator.register_autograd(_backward, setup_context=_save_for_backward)


def _autocast_input(input: Tensor) -> Tensor:
    device = input.device.type
    if torch.is_autocast_enabled(device) and input.dtype != torch.float64:
        return input.to(torch.get_autocast_dtype(device))
    return input


def _autocast_rule(input, offset, mask, *options):
    # register_autocast would also round the positions to half precision.
    input = _autocast_input(input)
    with torch.autocast(input.device.type, enabled=False):
        return torch.ops.segzoo.dcnv3(input, offset, mask, *options)


_library = torch.library.Library("segzoo", "FRAGMENT")
for _key in ("AutocastCPU", "AutocastCUDA"):
    _library.impl("dcnv3", _autocast_rule, _key)


# The form for exports


def _grid_sample_form(input: Tensor, offset: Tensor, mask: Tensor, options: tuple) -> Tensor:
    """One ``grid_sample`` over all groups, each an image of its own; every exporter knows the operator."""
    groups, _, stride, *_, scale, _, softmax = options
    batch, height, width, channels = input.shape
    rows, columns, device = offset.shape[1], offset.shape[2], input.device
    dtype = _compute_dtype(input, offset, mask)
    grid_x, grid_y = _kernel_grid(options, dtype, device)
    # (N, groups, Ho, Wo, points)
    offset = offset.to(dtype).reshape(batch, rows, columns, groups, -1, 2).permute(5, 0, 3, 1, 2, 4)
    x = torch.arange(columns, dtype=dtype, device=device).view(-1, 1) * stride + grid_x + scale * offset[0]
    y = torch.arange(rows, dtype=dtype, device=device).view(-1, 1, 1) * stride + grid_y + scale * offset[1]
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)  # false for NaN
    # -1 is where grid_sample, whose pixels are 2 / size wide, reads nothing but zeros.
    x = (2 * torch.where(inside, x, -1.0) + 1) / width - 1
    y = (2 * torch.where(inside, y, -1.0) + 1) / height - 1
    grid = torch.stack([x, y], dim=-1).reshape(batch * groups, rows * columns, -1, 2)
    maps = input.to(dtype).reshape(batch, height, width, groups, -1).permute(0, 3, 4, 1, 2)
    maps = maps.reshape(batch * groups, channels // groups, height, width)
    sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weight = mask.to(dtype).reshape(batch, rows, columns, groups, -1)
    weight = weight.softmax(-1) if softmax else weight
    weight = weight.permute(0, 3, 1, 2, 4).reshape(batch * groups, 1, rows * columns, -1)
    total = (sampled * weight).sum(-1).reshape(batch, channels, rows, columns)
    return total.permute(0, 2, 3, 1).to(input.dtype)
