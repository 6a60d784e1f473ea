"""Building blocks that several backbones, necks and heads use."""

from segzoo.layers.atrous_pyramid import AtrousPyramid
from segzoo.layers.context_pooling import ContextPooling
from segzoo.layers.conv import ConvNormAct, NormActConv, SeparableConv
from segzoo.layers.drop_path import DropPath
from segzoo.layers.fusion_conv import FusionConv
from segzoo.layers.norm import BatchNorm2d, ChannelNorm, GroupNorm, RMSNorm, set_norm_momentum
from segzoo.layers.pointwise import PointwiseLinear
from segzoo.layers.precision import Float32LayerNorm, Float32Linear, in_float32, without_autocast
from segzoo.layers.pyramid_pooling import PyramidPooling, pool_to_grid
from segzoo.layers.residual import ResidualBlock, residual_blocks, residual_stem
from segzoo.layers.resize import concatenate, enlarge, rescale, resize
from segzoo.layers.self_attention import SelfAttention, attend
from segzoo.layers.spatial_reduction import SpatialReductionAttention
from segzoo.layers.tokens import over_pixels, to_map, to_tokens
from segzoo.layers.transposed_conv import TransposedConvNormAct

__all__ = [
    "AtrousPyramid",
    "BatchNorm2d",
    "ChannelNorm",
    "ContextPooling",
    "ConvNormAct",
    "DropPath",
    "Float32LayerNorm",
    "Float32Linear",
    "FusionConv",
    "GroupNorm",
    "NormActConv",
    "PointwiseLinear",
    "PyramidPooling",
    "RMSNorm",
    "ResidualBlock",
    "SelfAttention",
    "SeparableConv",
    "SpatialReductionAttention",
    "attend",
    "TransposedConvNormAct",
    "concatenate",
    "enlarge",
    "in_float32",
    "over_pixels",
    "pool_to_grid",
    "rescale",
    "residual_blocks",
    "residual_stem",
    "resize",
    "set_norm_momentum",
    "to_map",
    "to_tokens",
    "without_autocast",
]
