"""Backbones without the usual four stages: one with a single map, and a U-Net's, from coarse to fine."""

import transformers
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig

from segzoo.auto import Registration
from segzoo.backbones import Backbone, BackboneConfig
from segzoo.backbones.resnet import ResNetBlock
from segzoo.base import ConvBlockConfig
from segzoo.layers import resize


@strict
class OneMapConfig(ConvBlockConfig, BackboneConfig):
    model_type = "odd_one_map"
    width: int = 8

    @property
    def stage_names(self):
        return ["map"]

    @classmethod
    def tiny(cls):
        return cls()


class OneMapBackbone(Backbone):
    config: OneMapConfig

    def __init__(self, config: OneMapConfig):
        super().__init__(config)
        self.blocks = nn.Sequential(
            config.block(config.num_channels, config.width, 3, stride=2, padding=1),
            ResNetBlock(config, config.width, config.width, bottleneck=False),
        )
        self.num_features = [config.width]
        self.post_init()

    def features(self, pixel_values):
        return [self.blocks(pixel_values)]


@strict
class UNetConfig(ConvBlockConfig, BackboneConfig):
    model_type = "odd_unet"
    width: int = 8

    @property
    def stage_names(self):
        return ["stem", "bottom", "up1", "up2"]

    @classmethod
    def tiny(cls):
        return cls()


class UNetBackbone(Backbone):
    config: UNetConfig

    def __init__(self, config: UNetConfig):
        super().__init__(config)
        width = config.width
        self.stem = config.block(config.num_channels, width, 3, padding=1)
        self.down = nn.ModuleList(
            ResNetBlock(config, width * 2**i, width * 2 ** (i + 1), bottleneck=False, stride=2) for i in (0, 1)
        )
        self.up = nn.ModuleList(config.block(width * 2**i, width * 2 ** (i - 1), 1) for i in (2, 1))
        self.num_features = [width, 4 * width, 2 * width, width]
        self.post_init()

    def features(self, pixel_values):
        stem = self.stem(pixel_values)
        middle = self.down[0](stem)
        maps = [stem, self.down[1](middle)]
        for up, skip in zip(self.up, (middle, stem), strict=True):
            maps.append(skip + resize(up(maps[-1]), skip.shape[-2:]))
        return maps


ODD_BACKBONES = {
    "odd_one_map": Registration(OneMapConfig, OneMapBackbone),
    "odd_unet": Registration(UNetConfig, UNetBackbone),
}
# Not with `register_backbone`: other tests that run over every registered backbone are not about these.
for _type, _odd in ODD_BACKBONES.items():
    AutoConfig.register(_type, _odd.config, exist_ok=True)
    transformers.AutoBackbone.register(_odd.config, _odd.model, exist_ok=True)
