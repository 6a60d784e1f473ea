"""Backbones: image in, feature maps out. One file a family; importing this package registers all of them."""

from segzoo.backbones.internimage import InternImageBackbone, InternImageConfig
from segzoo.backbones.resnet import SegZooResNetBackbone, SegZooResNetConfig

__all__ = ["InternImageBackbone", "InternImageConfig", "SegZooResNetBackbone", "SegZooResNetConfig"]
