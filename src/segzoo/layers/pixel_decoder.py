"""Mask2Former's pixel decoder: deformable attention over the coarse maps, then a feature pyramid down to the finest.

From "Masked-attention Mask Transformer for Universal Image Segmentation" (Cheng et al., 2021),
https://arxiv.org/abs/2112.01527, with the weights of mmdetection's ``MSDeformAttnPixelDecoder``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.layers.deformable_attention import DeformableAttention, cell_centres
from segzoo.layers.initial import reset_as_torch
from segzoo.layers.resize import resize
from segzoo.layers.tokens import to_map, to_tokens


def sine_positions(
    height: int, width: int, channels: int, *, dtype: torch.dtype, device: torch.device, temperature: float = 10000.0
) -> Tensor:
    """Sines and cosines of the places in a map, (1, channels, height, width), those of rows before those of columns.

    From "End-to-End Object Detection with Transformers" (Carion et al., 2020), normalised to 2 pi.

    Args:
        height, width: size of the map.
        channels: number of sines and cosines, a multiple of 4.
        dtype, device: what the result has; it is computed in float32 at least.
        temperature: about the ratio of the longest wave length to the shortest.
    """
    precise = torch.promote_types(dtype, torch.float32)
    half = channels // 2
    waves = torch.arange(half // 2, dtype=precise, device=device) * 2 / half
    waves = temperature**waves

    def along(side: int) -> Tensor:
        places = torch.arange(1, side + 1, dtype=precise, device=device) * (2 * math.pi / (side + 1e-6))
        phases = places[:, None] / waves
        return torch.stack([phases.sin(), phases.cos()], dim=-1).flatten(1).T  # (half, side), sine and cosine in turns

    rows = along(height)[:, :, None].expand(half, height, width)
    columns = along(width)[:, None, :].expand(half, height, width)
    return torch.cat([rows, columns])[None].to(dtype)


def table_rows(embedding: nn.Module, count: int, device: torch.device) -> Tensor:
    """All rows of an embedding, (count, C), looked up rather than read from its weight.

    So they are right too where the weight is elsewhere until the embedding is called (off-loading), or is only a part
    of what it computes (adapters).

    Args:
        embedding: an ``nn.Embedding``, or what wraps one.
        count: number of its rows.
        device: where it computes.
    """
    return embedding(torch.arange(count, device=device))


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them, each followed by dropout, added to their input."""

    def __init__(self, channels: int, hidden_channels: int, dropout: float):
        super().__init__()
        self.linear1 = nn.Linear(channels, hidden_channels)
        self.linear2 = nn.Linear(hidden_channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))

    def reset(self) -> None:
        """Initialise the weights as the original does."""
        for linear in (self.linear1, self.linear2):
            reset_as_torch(linear)
            init.xavier_normal_(linear.weight)


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """The deformable attention of a `PixelDecoder`.

    Args:
        num_layers: number of layers.
        num_heads, num_points: heads of each layer, and points that each head reads from each level.
        hidden_channels: width inside the feed-forward nets.
        dropout: probability of dropping a value of the residual branches, while training.
    """

    num_layers: int
    num_heads: int
    num_points: int
    hidden_channels: int
    dropout: float


class DeformableEncoderLayer(GradientCheckpointingLayer):
    """Deformable self-attention over all levels and a feed-forward net, each followed by its norm."""

    def __init__(self, channels: int, options: EncoderOptions, *, num_levels: int, norm_eps: float):
        super().__init__()
        self.attention = DeformableAttention(
            channels, num_heads=options.num_heads, num_levels=num_levels, num_points=options.num_points
        )
        self.dropout = nn.Dropout(options.dropout)
        self.norm1 = nn.LayerNorm(channels, eps=norm_eps)
        self.feed_forward = FeedForward(channels, options.hidden_channels, options.dropout)
        self.norm2 = nn.LayerNorm(channels, eps=norm_eps)

    def forward(
        self, x: Tensor, positions: Tensor, points: Tensor, spatial_shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        x = self.norm1(x + self.dropout(self.attention(x + positions, points, x, spatial_shapes)))
        return self.norm2(self.feed_forward(x))


class ConvGroupNorm(nn.Module):
    """A convolution that keeps the map's size (odd kernels), a group norm, and a ReLU where ``relu`` is set."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        norm_groups: int,
        norm_eps: float,
        bias: bool = False,
        relu: bool = False,
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        self.norm = nn.GroupNorm(norm_groups, out_channels, eps=norm_eps)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.relu(x) if self.relu else x


class PixelDecoder(nn.Module):
    """Refines feature maps of several resolutions with each other, and makes mask features of the finest.

    Args:
        in_channels: channels of the maps, finest first.
        channels: width of the decoder and of the maps that it returns; a multiple of 4.
        mask_channels: channels of the mask features.
        encoder: the attention over the coarse maps.
        num_levels: number of coarsest maps that attend to each other and are returned; the finer ones join in a
            feature pyramid.
        norm_groups: number of groups of the group norms.
        norm_eps: epsilon of all norms.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        mask_channels: int,
        encoder: EncoderOptions,
        *,
        num_levels: int,
        norm_groups: int,
        norm_eps: float,
    ):
        super().__init__()
        fine, coarse = in_channels[:-num_levels], in_channels[-num_levels:]
        norms = {"norm_groups": norm_groups, "norm_eps": norm_eps}
        self.num_levels = num_levels
        # Levels are counted from the coarsest map to the finest.
        self.input_convs = nn.ModuleList(ConvGroupNorm(c, channels, 1, bias=True, **norms) for c in reversed(coarse))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(channels, encoder, num_levels=num_levels, norm_eps=norm_eps)
            for _ in range(encoder.num_layers)
        )
        self.level_embed = nn.Embedding(num_levels, channels)
        self.lateral_convs = nn.ModuleList(ConvGroupNorm(c, channels, 1, **norms) for c in fine)
        self.output_convs = nn.ModuleList(ConvGroupNorm(channels, channels, 3, relu=True, **norms) for _ in fine)
        self.mask_features = nn.Conv2d(channels, mask_channels, 1)

    def forward(self, feature_maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Refine the maps.

        Args:
            feature_maps: each (B, C, H, W), finest first.

        Returns:
            Mask features (B, mask_channels, H, W) at the size of the finest map, and the ``num_levels`` coarsest maps,
            refined, (B, channels, H, W), coarsest first.
        """
        fine, coarse = feature_maps[: -self.num_levels], feature_maps[-self.num_levels :]
        levels = [conv(x) for conv, x in zip(self.input_convs, reversed(coarse), strict=True)]
        shapes = [tuple(x.shape[-2:]) for x in levels]
        x = torch.cat([to_tokens(level) for level in levels], dim=1)
        precise = torch.promote_types(x.dtype, torch.float32)
        positions = [
            to_tokens(sine_positions(*shape, x.shape[2], dtype=precise, device=x.device)) + embedding
            for shape, embedding in zip(shapes, table_rows(self.level_embed, self.num_levels, x.device), strict=True)
        ]
        positions = torch.cat(positions, dim=1).to(x.dtype)
        points = cell_centres(shapes, x)[None, :, None]
        for layer in self.layers:
            x = layer(x, positions, points, shapes)
        parts = x.split([height * width for height, width in shapes], dim=1)
        outputs = [to_map(part, shape) for part, shape in zip(parts, shapes, strict=True)]
        steps = zip(reversed(fine), reversed(self.lateral_convs), reversed(self.output_convs), strict=True)
        for finer, lateral, output in steps:
            finer = lateral(finer)
            outputs.append(output(finer + resize(outputs[-1], finer.shape[-2:])))
        return self.mask_features(outputs[-1]), outputs[: self.num_levels]

    def reset(self) -> None:
        """Initialise the weights as the original does."""
        for block in self.input_convs:
            init.xavier_uniform_(block.conv.weight)
            init.zeros_(block.conv.bias)
        for conv in (*(block.conv for block in (*self.lateral_convs, *self.output_convs)), self.mask_features):
            init.kaiming_uniform_(conv.weight, a=1)  # what Caffe2 calls Xavier
            if conv.bias is not None:
                init.zeros_(conv.bias)
        init.normal_(self.level_embed.weight)
        for layer in self.layers:
            layer.attention.reset()
            layer.feed_forward.reset()
