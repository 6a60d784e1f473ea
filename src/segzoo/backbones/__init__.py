"""Backbones: image in, feature maps out. One file a family; importing this package registers all of them."""

from segzoo.backbones.beit import SegZooBeitBackbone, SegZooBeitConfig
from segzoo.backbones.hrnet import HRNetBackbone, HRNetConfig
from segzoo.backbones.internimage import InternImageBackbone, InternImageConfig
from segzoo.backbones.mobilenetv2 import MobileNetV2Backbone, MobileNetV2Config
from segzoo.backbones.resnet import SegZooResNetBackbone, SegZooResNetConfig
from segzoo.backbones.vit import SegZooViTBackbone, SegZooViTConfig
from segzoo.backbones.vit_adapter import ViTAdapterBackbone, ViTAdapterConfig

__all__ = [
    "HRNetBackbone",
    "HRNetConfig",
    "InternImageBackbone",
    "InternImageConfig",
    "MobileNetV2Backbone",
    "MobileNetV2Config",
    "SegZooBeitBackbone",
    "SegZooBeitConfig",
    "SegZooResNetBackbone",
    "SegZooResNetConfig",
    "SegZooViTBackbone",
    "SegZooViTConfig",
    "ViTAdapterBackbone",
    "ViTAdapterConfig",
]
