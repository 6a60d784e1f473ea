"""Multi-scale deformable attention: every query sums a few weighted samples of maps of several sizes, head by head.

From "Deformable DETR: Deformable Transformers for End-to-End Object Detection" (Zhu et al., 2021),
https://arxiv.org/abs/2010.04159; the numbers are those of the operator in
https://github.com/fundamentalvision/Deformable-DETR, which ViT-Adapter and Mask2Former use.

One public function, :func:`ms_deform_attn`, in the same forms as :func:`segzoo.ops.dcnv3`.
"""

from collections.abc import Iterator, Sequence
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.compat import is_exporting
from segzoo.errors import SegZooError
from segzoo.ops.bilinear_bags import BORDER, Layout, backward, forward, index_dtype, kept_layouts
from segzoo.ops.registration import autocast_sampled, call, compute_dtype, empty, gpu_kernels, register_rules


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum bilinear samples of several maps for each query, weighted by ``attention_weights``.

    A location (x, y) reads its level, of height H and width W, at the pixel position (x * W - 0.5, y * H - 0.5).
    Outside the level all values are 0. A point whose position is NaN or infinite contributes 0.

    Args:
        value: (N, S, heads, D): the maps, row by row and level after level; S is the sum of height * width.
        spatial_shapes: (height, width) of each level, as Python integers.
        sampling_locations: (N, Q, heads, levels, points, 2), (x, y) of each point in 0..1 of its level; 0 and 1 are
            the outer edges of the outermost pixels.
        attention_weights: (N, Q, heads, levels, points), used without a softmax.

    Returns:
        (N, Q, heads * D) in the dtype of ``value``. Positions, weights and sums are at least float32, whatever the
        dtypes of the three tensors, which may differ. Under autocast the value is cast to the autocast dtype; the
        others are not.

    Raises:
        SegZooError: shapes, dtypes or devices do not fit; the message says which. Or derivatives are asked for in forward mode, or
            second ones: there are first ones in reverse mode alone.
    """
    sizes = _check(value, spatial_shapes, sampling_locations, attention_weights)
    value = autocast_sampled(value)
    # torch.jit.trace's sizes are tensors, which an operator takes in no list
    if is_exporting() or torch.jit.is_tracing():
        return _grid_sample_form(value, sizes, sampling_locations, attention_weights)
    return call("ms_deform_attn", value, sizes, sampling_locations, attention_weights, torch.compiler.is_compiling())


class MSDeformAttn(nn.Module):
    """:func:`ms_deform_attn` as a layer without weights, whose forward ``kernels.kernelize`` can replace."""

    kernel_layer_name = "MSDeformAttn"  # what `kernels` looks for; its decorator needs `kernels` to be installed

    def forward(
        self,
        value: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        sampling_locations: Tensor,
        attention_weights: Tensor,
    ) -> Tensor:
        """:func:`ms_deform_attn` of the same arguments."""
        return ms_deform_attn(value, spatial_shapes, sampling_locations, attention_weights)


def _check(value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> list[int]:
    """Check the arguments; returns the levels' heights and widths in one list: height, width, height and so on."""
    named = (
        ("value", value, "(N, S, heads, D)"),
        ("sampling_locations", locations, "(N, Q, heads, levels, points, 2)"),
        ("attention_weights", weights, "(N, Q, heads, levels, points)"),
    )
    for name, tensor, shape in named:
        if tensor.ndim != shape.count(",") + 1:
            raise SegZooError(f"ms_deform_attn: {name} must be {shape}, got {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise SegZooError(f"ms_deform_attn: {name} must be floating-point, got {tensor.dtype}")
        if tensor.device != value.device:
            raise SegZooError(
                f"ms_deform_attn: {name} is on {tensor.device} but value on {value.device}; move them together"
            )
    if isinstance(spatial_shapes, Tensor):
        raise SegZooError(
            "ms_deform_attn: spatial_shapes must be (height, width) pairs of integers, got a tensor; use tolist()"
        )
    sizes = [n for shape in spatial_shapes for n in shape]
    if not sizes or len(sizes) != 2 * len(spatial_shapes) or min(sizes) < 1:
        raise SegZooError(
            f"ms_deform_attn: spatial_shapes must be pairs (height, width) of at least 1, got {list(spatial_shapes)}"
        )
    batch, length, heads, _ = value.shape
    if length != (total := sum(h * w for h, w in spatial_shapes)):
        raise SegZooError(
            f"ms_deform_attn: value has {length} positions but spatial_shapes {list(spatial_shapes)} make {total}"
        )
    queries, points = weights.shape[1], weights.shape[4]
    if 0 in (value.shape[2], value.shape[3], points):
        raise SegZooError(
            f"ms_deform_attn: no heads, channels or points: value is {tuple(value.shape)}, attention_weights {tuple(weights.shape)}"
        )
    expected = (batch, queries, heads, len(spatial_shapes), points)
    if tuple(weights.shape) != expected:
        raise SegZooError(
            f"ms_deform_attn: attention_weights must be {expected} for this value and spatial_shapes, got {tuple(weights.shape)}"
        )
    if tuple(locations.shape) != (*expected, 2):
        raise SegZooError(
            f"ms_deform_attn: sampling_locations must be {(*expected, 2)} for these attention_weights, got {tuple(locations.shape)}"
        )
    return sizes


# The registered operator


def _pairs(sizes: list[int]) -> list[tuple[int, int]]:
    return list(zip(sizes[::2], sizes[1::2], strict=True))


def _bordered(sizes: list[int]) -> tuple[list[int], int, int]:
    """(top of each level, height, width) of a picture that holds all levels in their borders, one below the other."""
    tops, height = [], 0
    for level_height in sizes[::2]:
        tops.append(height)
        height += level_height + 2 * BORDER
    return tops, height, max(sizes[1::2]) + 2 * BORDER


def _table(value: Tensor, sizes: list[int], dtype: torch.dtype) -> Tensor:
    batch, _, heads, depth = value.shape
    tops, height, width = _bordered(sizes)
    table = value.new_zeros(batch, height, width, heads, depth, dtype=dtype)
    for part, level in _levels(table, value, sizes):
        part.copy_(level)
    return table.view(-1, depth)


def _levels(table: Tensor, value: Tensor, sizes: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """(region of the table, region of the value) of each level, both (N, height, width, heads, D)."""
    start = 0
    for (height, width), top in zip(_pairs(sizes), _bordered(sizes)[0], strict=True):
        region = table[:, top + BORDER : top + BORDER + height, BORDER : BORDER + width]
        yield region, value[:, start : start + height * width].unflatten(1, (height, width))
        start += height * width


@kept_layouts
def _layout(
    sizes: tuple[int, ...],
    batch: int,
    queries: int,
    heads: int,
    levels: int,
    points: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Layout:
    tops, height, width = _bordered(sizes)
    below = width * heads
    integer = index_dtype(batch * height * below)

    def spread(of_levels: Sequence, dtype: torch.dtype = dtype) -> Tensor:
        """Numbers for the levels, (..., levels) -> (..., heads * levels * points)."""
        numbers = torch.tensor(of_levels, dtype=dtype, device=device)
        return numbers[..., None, :, None].expand(*numbers.shape[:-1], heads, levels, points).flatten(-3)

    sides = spread([sizes[1::2], sizes[::2]])
    head = torch.arange(heads, dtype=integer, device=device).repeat_interleave(levels * points)
    images = torch.arange(batch, dtype=integer, device=device).repeat_interleave(queries)
    return Layout(
        points=levels * points,
        right=heads,
        below=below,
        start=torch.full_like(sides, BORDER - 0.5),
        scale=sides,
        high=sides + BORDER,
        index=head + spread([top * below for top in tops], integer),
        line_y=torch.zeros(batch * queries, 1, dtype=dtype, device=device),
        line_index=images.view(-1, 1) * (height * below),
    )


def _by_line(tensor: Tensor) -> Tensor:
    """(N, Q, ...) -> (N * Q, numbers)."""
    return tensor.flatten(2).flatten(0, 1)


def _trial(kernels: ModuleType, device: torch.device) -> Tensor:
    shapes = (1, 9, 1, 16), (1, 9, 1, 1, 4, 2), (1, 9, 1, 1, 4)
    value, locations, weights = (torch.zeros(shape, dtype=torch.float32, device=device) for shape in shapes)
    return kernels.ms_deform_attn_forward(value, [(3, 3)], locations, weights)


@torch.library.custom_op("segzoo::ms_deform_attn", mutates_args=())
def _operator(
    value: Tensor, spatial_shapes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor, fused: bool
) -> Tensor:
    sizes = list(spatial_shapes)
    if value.is_cuda and (kernels := gpu_kernels("ms_deform_attn", value.device, _trial)):
        return kernels.ms_deform_attn_forward(value, _pairs(sizes), sampling_locations, attention_weights)
    batch, _, heads, depth = value.shape
    queries = sampling_locations.shape[1]
    dtype = compute_dtype(value, sampling_locations, attention_weights)
    output = value.new_empty(batch * queries, heads * depth)
    forward(
        _table(value, sizes, dtype),
        _layout(tuple(sizes), *sampling_locations.shape[:5], dtype, value.device),
        _by_line(sampling_locations).unflatten(1, (-1, 2)),
        _by_line(attention_weights),
        output,
        fused=fused,
    )
    return output.view(batch, queries, heads * depth)


@torch.library.custom_op("segzoo::ms_deform_attn_backward", mutates_args=())
def _backward_operator(
    gradient: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    fused: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    sizes = list(spatial_shapes)
    if value.is_cuda and (kernels := gpu_kernels("ms_deform_attn", value.device, _trial, backward=True)):
        return kernels.ms_deform_attn_backward(gradient, value, _pairs(sizes), sampling_locations, attention_weights)
    dtype = compute_dtype(value, sampling_locations, attention_weights)
    locations_gradient = empty(sampling_locations)
    weights_gradient = empty(attention_weights)
    table_gradient = backward(
        _table(value, sizes, dtype),
        _layout(tuple(sizes), *sampling_locations.shape[:5], dtype, value.device),
        _by_line(sampling_locations).unflatten(1, (-1, 2)),
        _by_line(attention_weights),
        _by_line(gradient),
        _by_line(locations_gradient).unflatten(1, (-1, 2)),
        _by_line(weights_gradient),
        fused=fused,
    )
    value_gradient = empty(value)
    _, height, width = _bordered(sizes)
    table_gradient = table_gradient.view(len(value), height, width, *value.shape[2:])
    for part, level in _levels(table_gradient, value_gradient, sizes):
        level.copy_(part)
    return value_gradient, locations_gradient, weights_gradient


@_operator.register_fake
def _(
    value: Tensor, spatial_shapes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor, fused: bool
) -> Tensor:
    return value.new_empty(*sampling_locations.shape[:2], value.shape[2] * value.shape[3])


@_backward_operator.register_fake
def _(
    gradient: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    fused: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(empty(t) for t in (value, sampling_locations, attention_weights))


register_rules("ms_deform_attn")


# The form for exports


def _grid_sample_form(value: Tensor, sizes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    """One ``grid_sample`` per level over all heads, each an image of its own; every exporter knows the operator."""
    batch, _, heads, depth = value.shape
    queries = locations.shape[1]
    dtype = compute_dtype(value, locations, weights)
    maps = value.to(dtype).permute(0, 2, 3, 1).reshape(batch * heads, depth, -1)
    # Each (levels, N * heads, Q, points)
    x, y = locations.to(dtype).permute(5, 3, 0, 2, 1, 4).flatten(2, 3)
    weights = weights.to(dtype).permute(3, 0, 2, 1, 4).flatten(1, 2)
    total, start = 0, 0
    for level, (height, width) in enumerate(_pairs(sizes)):
        inside = (x[level] * width > -0.5) & (x[level] * width < width + 0.5)  # false for NaN
        inside &= (y[level] * height > -0.5) & (y[level] * height < height + 0.5)
        # Points outside are moved to one pixel beyond the edge, where grid_sample reads nothing but zeros.
        grid = [torch.where(inside, at[level], -0.5 / size) for at, size in ((x, width), (y, height))]
        map = maps[:, :, start : start + height * width].unflatten(2, (height, width))
        grid = 2 * torch.stack(grid, dim=-1) - 1
        sampled = F.grid_sample(map, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + (sampled * weights[level].unsqueeze(1)).sum(-1)
        start += height * width
    return total.reshape(batch, heads * depth, queries).transpose(1, 2).to(value.dtype)
