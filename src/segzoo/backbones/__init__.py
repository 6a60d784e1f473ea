"""Backbones: image in, feature maps out. One file a family; importing this package registers all of them."""

from segzoo.backbones.resnet import SegZooResNetBackbone, SegZooResNetConfig

__all__ = ["SegZooResNetBackbone", "SegZooResNetConfig"]
