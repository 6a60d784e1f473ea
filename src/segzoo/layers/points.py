"""Points of maps: values at them, and where a prediction is least certain.

From "PointRend: Image Segmentation as Rendering" (Kirillov et al., 2019), https://arxiv.org/abs/1912.08193.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Draw = Callable[[tuple[int, ...]], Tensor]
"""Makes a tensor of the given shape with uniform random numbers in 0..1."""

MAX_POINTS = 2**20  # as many as a map of 1024x1024 has pixels


def random_numbers(device: torch.device) -> Draw:
    """PyTorch's random numbers on a device, which ``torch.manual_seed`` makes repeatable."""
    return lambda shape: torch.rand(shape, device=device)


def sample_maps(
    maps: Tensor,
    points: Tensor,
    *,
    align_corners: bool = False,
    mode: Literal["bilinear", "nearest"] = "bilinear",
    padding: Literal["zeros", "border"] = "zeros",
) -> Tensor:
    """Values of maps at points.

    Args:
        maps: (N, C, H, W), of the points' dtype.
        points: (N, P, 2), (x, y) in 0..1 from edge to edge, or with ``align_corners`` from the centre of the first
            pixel to that of the last.
        align_corners: as above.
        mode: "bilinear" interpolates, "nearest" takes the nearest pixel's value.
        padding: what lies beyond the edges: zeros, or the nearest pixel of the map.

    Returns:
        values (N, C, P).
    """
    grid = (2 * points - 1)[:, None]
    return F.grid_sample(maps, grid, mode=mode, padding_mode=padding, align_corners=align_corners)[:, :, 0]


def uncertain_points(
    maps: Tensor,
    num_points: int,
    *,
    certainty: Callable[[Tensor], Tensor],
    oversample_ratio: float,
    importance_ratio: float,
    draw: Draw,
) -> Tensor:
    """Points of which some lie where a prediction is least certain, and the others anywhere.

    Args:
        maps: logits (N, C, H, W).
        num_points: number of points per prediction, P.
        certainty: from logits at points, (N, C, ...), how certain each is, (N, ...).
        oversample_ratio: number of random points from which uncertain ones are chosen, relative to ``num_points``.
        importance_ratio: share of the points that are chosen so, 0..1.
        draw: source of random numbers; called with (N, P * oversample_ratio, 2) and, if there are any, for the other
            points.

    Returns:
        (N, P, 2), (x, y) in 0..1.
    """
    count = maps.shape[0]
    points = draw((count, int(num_points * oversample_ratio), 2)).to(maps.dtype)
    uncertain = int(importance_ratio * num_points)
    least = certainty(sample_maps(maps, points)).topk(uncertain, dim=1, largest=False).indices
    points = points.gather(1, least[:, :, None].expand(-1, -1, 2))
    if uncertain < num_points:
        points = torch.cat([points, draw((count, num_points - uncertain, 2)).to(maps.dtype)], dim=1)
    return points
