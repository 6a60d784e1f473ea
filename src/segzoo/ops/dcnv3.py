"""Deformable convolution v3: every output position samples its own points of the input, group by group.

From "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions" (Wang et al., 2023),
https://arxiv.org/abs/2211.05778; the numbers are those of the operator in https://github.com/OpenGVLab/InternImage.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.errors import SegZooError


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
) -> Tensor:
    """Sum bilinear samples of the input around each position, weighted by ``mask``.

    Point p = kx * kernel_size + ky of group g reads, for output position (y, x), the input at
    ``centre + offset_scale * (dilation * (k - (kernel_size - 1) / 2) + offset)``, where the centre is that of an ordinary convolution.
    Outside the input all values are 0. Offsets that are NaN or infinite contribute 0.

    Args:
        input: (N, H, W, C), channels last; C is a multiple of ``groups``.
        offset: (N, Ho, Wo, groups * points * 2), (x, y) of each point in pixels; points = kernel_size**2, less one with ``remove_center``.
        mask: (N, Ho, Wo, groups * points), the weights of the points (usually a softmax over the points).
        kernel_size: odd.
        remove_center: leave out the kernel's central point.

    Returns:
        (N, Ho, Wo, C) in the input's dtype; half precision is summed in float32.

    Raises:
        SegZooError: shapes that do not fit; the message names the expected ones.
    """
    points = kernel_size**2 - remove_center
    _check(input, offset, mask, groups, kernel_size, stride, padding, dilation, points)
    batch, height, width, channels = input.shape
    rows, columns = offset.shape[1:3]
    dtype = torch.promote_types(input.dtype, torch.float32)

    x, y = _sampling_locations(
        offset.to(dtype), points, kernel_size, stride, padding, dilation, offset_scale, groups, remove_center
    )
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)  # false for NaN
    zero = x.new_zeros(())
    x, y = torch.where(inside, x, zero), torch.where(inside, y, zero)
    left, top = x.detach().floor(), y.detach().floor()
    right_share, bottom_share = x - left, y - top
    weight = mask.to(dtype).view(batch, rows, columns, groups, points)
    weight = torch.where(inside, weight, zero)
    upper, lower = weight * (1 - bottom_share), weight * bottom_share
    weights = torch.stack(
        [upper * (1 - right_share), upper * right_share, lower * (1 - right_share), lower * right_share], dim=-1
    )

    # A border of zeros around the map makes every corner of a sample an entry of one table of group vectors.
    table = F.pad(input.to(dtype), (0, 0, 1, 1, 1, 1))
    padded_width = width + 2
    image = torch.arange(batch, device=input.device).view(-1, 1, 1, 1, 1) * (height + 2)
    group = torch.arange(groups, device=input.device).view(-1, 1)
    corner = ((image + top.long() + 1) * padded_width + left.long() + 1) * groups + group
    step = torch.tensor([0, groups, padded_width * groups, (padded_width + 1) * groups], device=input.device)
    indices = corner.unsqueeze(-1) + step

    sampled = F.embedding_bag(
        indices.view(-1, points * 4),
        table.reshape(-1, channels // groups),
        per_sample_weights=weights.view(-1, points * 4),
        mode="sum",
    )
    return sampled.view(batch, rows, columns, channels).to(input.dtype)


def _sampling_locations(offset, points, kernel_size, stride, padding, dilation, offset_scale, groups, remove_center):
    """Columns and rows in the input, each (N, Ho, Wo, groups, points)."""
    batch, rows, columns, _ = offset.shape
    options = {"dtype": offset.dtype, "device": offset.device}
    reach = (kernel_size - 1) / 2
    steps = dilation * (torch.arange(kernel_size, **options) - reach)
    grid_x, grid_y = steps.repeat_interleave(kernel_size), steps.repeat(kernel_size)
    if remove_center:
        kept = [p for p in range(kernel_size**2) if p != kernel_size**2 // 2]
        grid_x, grid_y = grid_x[kept], grid_y[kept]
    centre_x = (torch.arange(columns, **options) * stride - padding + dilation * reach).view(-1, 1, 1)
    centre_y = (torch.arange(rows, **options) * stride - padding + dilation * reach).view(-1, 1, 1, 1)
    offset = offset.view(batch, rows, columns, groups, points, 2)
    return (
        centre_x + offset_scale * (grid_x + offset[..., 0]),
        centre_y + offset_scale * (grid_y + offset[..., 1]),
    )


def _check(input, offset, mask, groups, kernel_size, stride, padding, dilation, points):
    if input.ndim != 4:
        raise SegZooError(f"dcnv3: input must be (N, H, W, C), got {tuple(input.shape)}")
    if input.shape[-1] % groups:
        raise SegZooError(f"dcnv3: {input.shape[-1]} channels do not divide into {groups} groups")
    if kernel_size % 2 == 0:
        raise SegZooError(f"dcnv3: kernel_size={kernel_size} must be odd")
    rows, columns = (
        (size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1 for size in input.shape[1:3]
    )
    for name, tensor, width in (("offset", offset, 2 * groups * points), ("mask", mask, groups * points)):
        expected = (input.shape[0], rows, columns, width)
        if tuple(tensor.shape) != expected:
            raise SegZooError(f"dcnv3: {name} must be {expected} for this input, got {tuple(tensor.shape)}")
