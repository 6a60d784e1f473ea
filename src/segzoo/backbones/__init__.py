"""Backbones: image in, feature maps out. Each family has a file; importing this package registers all of them."""

from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.backbones.beit import BeitBackbone, BeitConfig
from segzoo.backbones.convnext import ConvNeXtBackbone, ConvNeXtConfig
from segzoo.backbones.fast_scnn import FastSCNNBackbone, FastSCNNConfig
from segzoo.backbones.hrnet import HRNetBackbone, HRNetConfig
from segzoo.backbones.icnet import ICNetBackbone, ICNetConfig
from segzoo.backbones.internimage import InternImageBackbone, InternImageConfig
from segzoo.backbones.internvit import InternViTBackbone, InternViTConfig
from segzoo.backbones.mit import MiTBackbone, MiTConfig
from segzoo.backbones.mobilenetv2 import MobileNetV2Backbone, MobileNetV2Config
from segzoo.backbones.resnet import ResNetBackbone, ResNetConfig
from segzoo.backbones.stage_encoder import StageEncoderBackbone, StageEncoderConfig
from segzoo.backbones.swin import SwinBackbone, SwinConfig
from segzoo.backbones.twins import TwinsBackbone, TwinsConfig
from segzoo.backbones.uniperceiver import UniPerceiverBackbone, UniPerceiverConfig
from segzoo.backbones.vit import ViTBackbone, ViTConfig
from segzoo.backbones.vit_adapter import ViTAdapterBackbone, ViTAdapterConfig

__all__ = [
    "Backbone",
    "BackboneConfig",
    "BeitBackbone",
    "BeitConfig",
    "ConvNeXtBackbone",
    "ConvNeXtConfig",
    "FastSCNNBackbone",
    "FastSCNNConfig",
    "HRNetBackbone",
    "HRNetConfig",
    "ICNetBackbone",
    "ICNetConfig",
    "InternImageBackbone",
    "InternImageConfig",
    "InternViTBackbone",
    "InternViTConfig",
    "MiTBackbone",
    "MiTConfig",
    "MobileNetV2Backbone",
    "MobileNetV2Config",
    "ResNetBackbone",
    "ResNetConfig",
    "StageEncoderBackbone",
    "StageEncoderConfig",
    "SwinBackbone",
    "SwinConfig",
    "TwinsBackbone",
    "TwinsConfig",
    "UniPerceiverBackbone",
    "UniPerceiverConfig",
    "ViTAdapterBackbone",
    "ViTAdapterConfig",
    "ViTBackbone",
    "ViTConfig",
]
