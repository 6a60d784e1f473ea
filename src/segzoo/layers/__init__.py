"""Building blocks that several backbones, necks and heads use."""

from segzoo.layers.conv import ConvNormAct
from segzoo.layers.drop_path import DropPath
from segzoo.layers.norm import BatchNorm2d, LayerNorm2d
from segzoo.layers.pyramid_pooling import PyramidPooling
from segzoo.layers.resize import resize

__all__ = ["BatchNorm2d", "ConvNormAct", "DropPath", "LayerNorm2d", "PyramidPooling", "resize"]
