"""Deformable convolution v3: every output position samples its own points of the input, group by group.

From "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions" (Wang et al., 2023),
https://arxiv.org/abs/2211.05778; the numbers are those of the operator in https://github.com/OpenGVLab/InternImage.

There is one public function, :func:`dcnv3`, in two forms that give the same numbers:

- the registered operator ``segzoo::dcnv3``, with a backward written by hand, everywhere but in exports. On a GPU it
  launches Triton kernels, elsewhere it runs the arithmetic of :mod:`segzoo.ops.bilinear_bags`. ``torch.compile`` does
  not look into it, and sets ``fused``, so that all layers share a few compiled steps: inlined, each layer took
  inductor 20 seconds;
- a ``grid_sample`` form, inlined under ``torch.export`` and ONNX, where no operator of our own could be lowered.
"""

from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.compat import is_exporting
from segzoo.errors import SegZooError
from segzoo.ops.bilinear_bags import BORDER, Layout, backward, forward, index_dtype, kept_layouts
from segzoo.ops.registration import autocast_sampled, call, compute_dtype, empty, gpu_kernels, register_rules


class _Options(NamedTuple):
    groups: int
    kernel_size: int
    stride: int
    padding: int
    dilation: int
    offset_scale: float
    remove_center: bool
    softmax: bool


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
        offset: (N, Ho, Wo, groups * points * 2), (x, y) of each point in pixels; points = kernel_size**2, less one
            with ``remove_center``; Ho and Wo are those of an ordinary convolution.
        mask: (N, Ho, Wo, groups * points), the weights of the points.
        groups: each group of C / groups channels has its own points.
        kernel_size: side of the kernel; odd and at least 3 where ``remove_center`` is set.
        stride, padding, dilation: as in an ordinary convolution, in pixels.
        offset_scale: factor on the kernel's grid and on the offsets.
        remove_center: leave out the kernel's central point.
        softmax: ``mask`` holds logits; their softmax over the points of a group are the weights.

    Returns:
        (N, Ho, Wo, C) in the input's dtype. Positions, weights and sums are at least float32, whatever the dtypes of
        the three tensors, which may differ. Under autocast the input is cast to the autocast dtype; offset and mask
        are not.

    Raises:
        SegZooError: shapes, dtypes, devices or options do not fit; the message says which. Or derivatives are asked for in forward mode, or
            second ones: there are first ones in reverse mode alone.
    """
    options = _Options(
        groups, kernel_size, stride, padding, dilation, float(offset_scale), bool(remove_center), bool(softmax)
    )
    _check(input, offset, mask, options)
    input = autocast_sampled(input)
    if is_exporting():
        return _grid_sample_form(input, offset, mask, options)
    return call("dcnv3", input, offset, mask, *options, torch.compiler.is_compiling())


class DCNv3(nn.Module):
    """:func:`dcnv3` as a layer without weights, whose forward ``kernels.kernelize`` can replace."""

    kernel_layer_name = "DCNv3"  # what `kernels` looks for; its decorator needs `kernels` to be installed

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor, **options: Any) -> Tensor:
        """:func:`dcnv3` of the same arguments."""
        return dcnv3(input, offset, mask, **options)


def _check(input: Tensor, offset: Tensor, mask: Tensor, options: _Options) -> None:
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


def _output_size(size: int, options: _Options) -> int:
    return (size + 2 * options.padding - options.dilation * (options.kernel_size - 1) - 1) // options.stride + 1


def _kernel_grid(options: _Options, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each point lies for output position 0 and offset 0: x and y in pixels of the input, each (points,)."""
    kernel_size, dilation = options.kernel_size, options.dilation
    reach = dilation * (kernel_size - 1) // 2
    steps = torch.arange(kernel_size, dtype=dtype, device=device) * dilation - reach
    steps = steps * options.offset_scale + (reach - options.padding)
    grid = torch.stack([steps.repeat_interleave(kernel_size), steps.repeat(kernel_size)])
    if options.remove_center:
        center = kernel_size**2 // 2
        grid = torch.cat([grid[:, :center], grid[:, center + 1 :]], dim=1)
    return grid[0], grid[1]


# The registered operator


def _table(input: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """The bordered map as rows of C / groups numbers, ordered by image, y, x, group."""
    return F.pad(input.to(dtype), (0, 0, *(BORDER,) * 4)).reshape(-1, input.shape[-1] // groups)


@kept_layouts
def _layout(
    batch: int,
    height: int,
    width: int,
    rows: int,
    columns: int,
    options: _Options,
    dtype: torch.dtype,
    device: torch.device,
) -> Layout:
    """The layout of the points, in which each of the N * Ho output rows is a line."""
    groups = options.groups
    grid_x, grid_y = (axis + BORDER for axis in _kernel_grid(options, dtype, device))
    points, below = len(grid_x), (width + 2 * BORDER) * groups
    image = (height + 2 * BORDER) * below
    integer = index_dtype(batch * image)

    def spread(numbers: Tensor) -> Tensor:
        """(..., columns or 1, groups or 1, points or 1) -> (..., columns * groups * points)."""
        return numbers.expand(*numbers.shape[:-3], columns, groups, points).flatten(-3)

    column = torch.arange(columns, dtype=dtype, device=device).view(-1, 1, 1) * options.stride
    line = torch.arange(batch * rows, device=device).view(-1, 1)
    high = torch.tensor([width + BORDER, height + BORDER], dtype=dtype, device=device)
    return Layout(
        points=points,
        right=groups,
        below=below,
        start=torch.stack([spread(column + grid_x), spread(grid_y.view(1, 1, -1))]),
        scale=torch.full((2, columns * groups * points), options.offset_scale, dtype=dtype, device=device),
        high=spread(high.view(2, 1, 1, 1)),
        index=spread(torch.arange(groups, dtype=integer, device=device).view(1, -1, 1)),
        line_y=(line % rows * options.stride).to(dtype),
        line_index=(line // rows * image).to(integer),
    )


def _by_line(tensor: Tensor) -> Tensor:
    """(N, Ho, Wo, numbers) -> (N * Ho, Wo * numbers)."""
    return tensor.flatten(2).flatten(0, 1)


def _trial(kernels: ModuleType, device: torch.device) -> Tensor:
    input, offset, mask = (torch.zeros(1, 3, 3, n, dtype=torch.float32, device=device) for n in (16, 18, 9))
    return kernels.dcnv3_forward(input, offset, mask, groups=1)


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
    fused: bool,
) -> Tensor:
    options = _Options(groups, kernel_size, stride, padding, dilation, offset_scale, remove_center, softmax)
    if input.is_cuda and (kernels := gpu_kernels("dcnv3", input.device, _trial)):
        return kernels.dcnv3_forward(input, offset, mask, **options._asdict())
    batch, rows, columns, _ = offset.shape
    dtype = compute_dtype(input, offset, mask)
    output = input.new_empty(batch * rows, columns * input.shape[-1])
    forward(
        _table(input, groups, dtype),
        _layout(*input.shape[:3], *offset.shape[1:3], options, dtype, input.device),
        _by_line(offset).unflatten(1, (-1, 2)),
        _by_line(mask),
        output,
        softmax=softmax,
        fused=fused,
    )
    return output.view(batch, rows, columns, input.shape[-1])


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
    fused: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    options = _Options(groups, kernel_size, stride, padding, dilation, offset_scale, remove_center, softmax)
    if input.is_cuda and (kernels := gpu_kernels("dcnv3", input.device, _trial, backward=True)):
        return kernels.dcnv3_backward(gradient, input, offset, mask, **options._asdict())
    dtype = compute_dtype(input, offset, mask)
    offset_gradient, mask_gradient = empty(offset), empty(mask)
    table_gradient = backward(
        _table(input, groups, dtype),
        _layout(*input.shape[:3], *offset.shape[1:3], options, dtype, input.device),
        _by_line(offset).unflatten(1, (-1, 2)),
        _by_line(mask),
        _by_line(gradient),
        _by_line(offset_gradient).unflatten(1, (-1, 2)),
        _by_line(mask_gradient),
        softmax=softmax,
        fused=fused,
    )
    batch, height, width, channels = input.shape
    padded = table_gradient.view(batch, height + 2 * BORDER, width + 2 * BORDER, channels)
    input_gradient = empty(input).copy_(padded[:, BORDER:-BORDER, BORDER:-BORDER])
    return input_gradient, offset_gradient, mask_gradient


@_operator.register_fake
def _(input: Tensor, offset: Tensor, mask: Tensor, *options: Any) -> Tensor:
    batch, rows, columns, _ = offset.shape
    return input.new_empty(batch, rows, columns, input.shape[-1])


@_backward_operator.register_fake
def _(gradient: Tensor, input: Tensor, offset: Tensor, mask: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(empty(t) for t in (input, offset, mask))


register_rules("dcnv3")


# The form for exports


def _grid_sample_form(input: Tensor, offset: Tensor, mask: Tensor, options: _Options) -> Tensor:
    """One ``grid_sample`` over all groups, each an image of its own; every exporter knows the operator."""
    groups, stride, scale = options.groups, options.stride, options.offset_scale
    batch, height, width, channels = input.shape
    rows, columns, device = offset.shape[1], offset.shape[2], input.device
    dtype = compute_dtype(input, offset, mask)
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
    weight = weight.softmax(-1) if options.softmax else weight
    weight = weight.permute(0, 3, 1, 2, 4).reshape(batch * groups, 1, rows * columns, -1)
    total = (sampled * weight).sum(-1).reshape(batch, channels, rows, columns)
    return total.permute(0, 2, 3, 1).to(input.dtype)
