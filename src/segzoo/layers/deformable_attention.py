"""Multi-scale deformable attention with its projections.

"Deformable DETR" (Zhu et al., 2021), https://arxiv.org/abs/2010.04159; the numbers are those of mmcv's
``MultiScaleDeformableAttention`` and of ViT-Adapter's ``MSDeformAttn``, without their residual connection and dropout.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import initialization as init

from segzoo.errors import SegZooError
from segzoo.layers.pointwise import PointwiseLinear
from segzoo.ops import MSDeformAttn


class DeformableAttention(nn.Module):
    """Each query predicts points around its reference point and weights for them, and reads the maps there.

    Args:
        channels: width of the queries and of the maps.
        num_heads: number of heads, each with its own points.
        num_levels: number of maps that are read.
        num_points: number of points that each head reads from each map.
        ratio: width of the projected maps, relative to ``channels``.

    Raises:
        SegZooError: the width of the projected maps does not divide into heads.
    """

    def __init__(self, channels: int, num_heads: int, num_levels: int, num_points: int = 4, *, ratio: float = 1.0):
        super().__init__()
        width = int(channels * ratio)
        if width % num_heads:
            raise SegZooError(
                f"deformable attention: {width} channels ({channels} x {ratio:g}) do not divide into {num_heads} heads"
            )
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        points = num_heads * num_levels * num_points
        self.sample = MSDeformAttn()
        self.sampling_offsets = PointwiseLinear(channels, points * 2)
        self.attention_weights = PointwiseLinear(channels, points)
        self.value_proj = PointwiseLinear(channels, width)
        self.output_proj = PointwiseLinear(width, channels)

    def reset(self) -> None:
        """Initialise: each head looks in its own direction, its points one cell apart, with equal weights."""
        init.zeros_(self.sampling_offsets.weight)
        init.copy_(self.sampling_offsets.bias, self._star())
        init.zeros_(self.attention_weights.weight)
        init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            init.xavier_uniform_(layer.weight)
            init.zeros_(layer.bias)

    def _star(self) -> Tensor:
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        rays = torch.stack([angles.cos(), angles.sin()], dim=-1)
        rays = rays / rays.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        star = rays[:, None, None] * steps[:, None]  # heads, 1, points, (x, y)
        return star.expand(-1, self.num_levels, -1, -1).reshape(-1)

    def forward(
        self, query: Tensor, reference_points: Tensor, value: Tensor, spatial_shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Read the maps around each query's reference point.

        Args:
            query: (B, Q, channels).
            reference_points: (1 or B, Q, 1 or levels, 2) as (x, y) in 0..1.
            value: the maps, row by row and level after level: (B, sum of height * width, channels).
            spatial_shapes: (height, width) of each level.

        Returns:
            what each query has read, (B, Q, channels).
        """
        points = (self.num_heads, self.num_levels, self.num_points)
        # bfloat16 would round the places of large maps to whole pixels and more.
        precise = reference_points.dtype
        offsets = self.sampling_offsets(query).unflatten(-1, (*points, 2)).to(precise)
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1)
        sizes = torch.tensor([(width, height) for height, width in spatial_shapes], dtype=precise, device=query.device)
        locations = reference_points[:, :, None, :, None] + offsets / sizes[:, None]
        value = self.value_proj(value).unflatten(-1, (self.num_heads, -1))
        sampled = self.sample(value, spatial_shapes, locations, weights.unflatten(-1, points[1:]))
        return self.output_proj(sampled)


def cell_centres(sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Centres of the cells of grids, row by row and grid after grid: (cells, 2) as (x, y) in 0..1.

    Args:
        sizes: (height, width) of each grid.
        like: a tensor on the device of the result; its dtype is promoted to float32 at least.
    """
    place = {"dtype": torch.promote_types(like.dtype, torch.float32), "device": like.device}
    grids = []
    for height, width in sizes:
        y = (torch.arange(height, **place) + 0.5) / height
        x = (torch.arange(width, **place) + 0.5) / width
        grids.append(torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).flatten(0, 1))
    return torch.cat(grids)
