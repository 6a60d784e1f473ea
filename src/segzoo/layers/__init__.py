"""Building blocks that several backbones, necks and heads use."""

from segzoo.layers.atrous_pyramid import AtrousPyramid
from segzoo.layers.conv import ConvNormAct, SeparableConv
from segzoo.layers.drop_path import DropPath
from segzoo.layers.fusion_conv import FusionConv
from segzoo.layers.norm import BatchNorm2d, ChannelNorm, GroupNorm, RMSNorm
from segzoo.layers.pointwise import PointwiseLinear
from segzoo.layers.pyramid_pooling import PyramidPooling, pool_to_grid
from segzoo.layers.resize import concatenate, rescale, resize
from segzoo.layers.spatial_reduction import SpatialReductionAttention
from segzoo.layers.tokens import to_map, to_tokens

__all__ = [
    "AtrousPyramid",
    "BatchNorm2d",
    "ChannelNorm",
    "ConvNormAct",
    "DropPath",
    "FusionConv",
    "GroupNorm",
    "PointwiseLinear",
    "PyramidPooling",
    "RMSNorm",
    "SeparableConv",
    "SpatialReductionAttention",
    "concatenate",
    "pool_to_grid",
    "rescale",
    "resize",
    "to_map",
    "to_tokens",
]
