"""Backbones: image in, feature maps out. One file a family; importing this package registers all of them."""

from segzoo.backbones.beit import BeitBackbone, BeitConfig
from segzoo.backbones.hrnet import HRNetBackbone, HRNetConfig
from segzoo.backbones.internimage import InternImageBackbone, InternImageConfig
from segzoo.backbones.mobilenetv2 import MobileNetV2Backbone, MobileNetV2Config
from segzoo.backbones.resnet import ResNetBackbone, ResNetConfig
from segzoo.backbones.vit import ViTBackbone, ViTConfig
from segzoo.backbones.vit_adapter import ViTAdapterBackbone, ViTAdapterConfig

__all__ = [
    "HRNetBackbone",
    "HRNetConfig",
    "InternImageBackbone",
    "InternImageConfig",
    "MobileNetV2Backbone",
    "MobileNetV2Config",
    "BeitBackbone",
    "BeitConfig",
    "ResNetBackbone",
    "ResNetConfig",
    "ViTBackbone",
    "ViTConfig",
    "ViTAdapterBackbone",
    "ViTAdapterConfig",
]
