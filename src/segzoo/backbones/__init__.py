"""Backbones: image in, feature maps out. Each family has a file; importing this package registers all of them."""

from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.backbones.beit import BeitBackbone, BeitConfig
from segzoo.backbones.bisenetv1 import BiSeNetV1Backbone, BiSeNetV1Config
from segzoo.backbones.bisenetv2 import BiSeNetV2Backbone, BiSeNetV2Config
from segzoo.backbones.cgnet import CGNetBackbone, CGNetConfig
from segzoo.backbones.convnext import ConvNeXtBackbone, ConvNeXtConfig
from segzoo.backbones.ddrnet import DDRNetBackbone, DDRNetConfig
from segzoo.backbones.erfnet import ERFNetBackbone, ERFNetConfig
from segzoo.backbones.fast_scnn import FastSCNNBackbone, FastSCNNConfig
from segzoo.backbones.hrnet import HRNetBackbone, HRNetConfig
from segzoo.backbones.icnet import ICNetBackbone, ICNetConfig
from segzoo.backbones.internimage import InternImageBackbone, InternImageConfig
from segzoo.backbones.internvit import InternViTBackbone, InternViTConfig
from segzoo.backbones.mit import MiTBackbone, MiTConfig
from segzoo.backbones.mobilenetv2 import MobileNetV2Backbone, MobileNetV2Config
from segzoo.backbones.mobilenetv3 import MobileNetV3Backbone, MobileNetV3Config
from segzoo.backbones.mscan import MSCANBackbone, MSCANConfig
from segzoo.backbones.pidnet import PIDNetBackbone, PIDNetConfig
from segzoo.backbones.poolformer import PoolFormerBackbone, PoolFormerConfig
from segzoo.backbones.pvt import PVTBackbone, PVTConfig
from segzoo.backbones.resnest import ResNeStBackbone, ResNeStConfig
from segzoo.backbones.resnet import ResNetBackbone, ResNetConfig
from segzoo.backbones.stage_encoder import StageEncoderBackbone, StageEncoderConfig
from segzoo.backbones.stdc import STDCBackbone, STDCConfig, STDCNetBackbone, STDCNetConfig
from segzoo.backbones.swin import SwinBackbone, SwinConfig
from segzoo.backbones.twins import TwinsBackbone, TwinsConfig
from segzoo.backbones.unet import UNetBackbone, UNetConfig
from segzoo.backbones.uniperceiver import UniPerceiverBackbone, UniPerceiverConfig
from segzoo.backbones.van import VANBackbone, VANConfig
from segzoo.backbones.vit import ViTBackbone, ViTConfig
from segzoo.backbones.vit_adapter import ViTAdapterBackbone, ViTAdapterConfig

__all__ = [
    "Backbone",
    "BackboneConfig",
    "BeitBackbone",
    "BeitConfig",
    "CGNetBackbone",
    "CGNetConfig",
    "BiSeNetV1Backbone",
    "BiSeNetV1Config",
    "BiSeNetV2Backbone",
    "BiSeNetV2Config",
    "ConvNeXtBackbone",
    "ConvNeXtConfig",
    "DDRNetBackbone",
    "DDRNetConfig",
    "ERFNetBackbone",
    "ERFNetConfig",
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
    "MSCANBackbone",
    "MSCANConfig",
    "MiTBackbone",
    "MiTConfig",
    "MobileNetV2Backbone",
    "MobileNetV2Config",
    "MobileNetV3Backbone",
    "MobileNetV3Config",
    "PIDNetBackbone",
    "PIDNetConfig",
    "PVTBackbone",
    "PVTConfig",
    "PoolFormerBackbone",
    "PoolFormerConfig",
    "ResNeStBackbone",
    "ResNeStConfig",
    "ResNetBackbone",
    "ResNetConfig",
    "STDCBackbone",
    "STDCConfig",
    "STDCNetBackbone",
    "STDCNetConfig",
    "StageEncoderBackbone",
    "StageEncoderConfig",
    "SwinBackbone",
    "SwinConfig",
    "TwinsBackbone",
    "TwinsConfig",
    "UNetBackbone",
    "UNetConfig",
    "UniPerceiverBackbone",
    "UniPerceiverConfig",
    "VANBackbone",
    "VANConfig",
    "ViTAdapterBackbone",
    "ViTAdapterConfig",
    "ViTBackbone",
    "ViTConfig",
]
