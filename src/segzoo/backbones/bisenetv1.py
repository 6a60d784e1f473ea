"""BiSeNet V1: a path of few wide layers for details beside an encoder for context, and their fusion.

"BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation" (Yu et al., 2018),
https://arxiv.org/abs/1808.00897; the numbers are those of mmsegmentation's ``BiSeNetV1``
(https://github.com/open-mmlab/mmsegmentation).
"""

from typing import Any, Self

import transformers
from torch import Tensor, nn
from transformers import AutoConfig

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone
from segzoo.backbones.resnet import ResNetConfig
from segzoo.backbones.wrapper import ContextPathConfig
from segzoo.base import Ints, strict
from segzoo.compat import SubConfigSpec
from segzoo.errors import SegZooError
from segzoo.layers import ConvNormAct
from segzoo.layers.context_path import ContextPath, FeatureFusion

_WIDE = {"spatial_channels": [256, 256, 256, 512], "context_channels": 512, "fused_channels": 1024}
# Keyword arguments of BiSeNetV1Config.
VARIANTS = {
    f"bisenetv1_r{depth}": {"encoder_config": {"model_type": "segzoo_resnet", "depth": depth}} | options
    for depth, options in ((18, {}), (50, _WIDE), (101, _WIDE))
}


@strict
class BiSeNetV1Config(ContextPathConfig):
    """Options of ``BiSeNetV1Backbone``, besides those of ``ContextPathConfig``; the defaults are those over a ResNet-18.

    Args:
        spatial_channels: width of the four layers of the path for details.

    Raises:
        SegZooError: ``spatial_channels`` has not four entries.
    """

    model_type = "segzoo_bisenetv1"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="segzoo_resnet")}

    spatial_channels: Ints = (64, 64, 64, 128)

    def __post_init__(self, **kwargs: Any) -> None:
        if self.encoder_config is None:
            self.encoder_config = {"depth": 18}
        super().__post_init__(**kwargs)

    @property
    def stage_names(self) -> list[str]:
        """The fused map, and the context path's at strides 8 and 16, which its auxiliary heads read."""
        return ["fused", "context8", "context16"]

    @property
    def default_out_features(self) -> list[str]:
        """The fused map alone, so that whatever head reads the result of the whole network."""
        return ["fused"]

    def check(self) -> None:
        """There is a width for each layer of the path for details."""
        super().check()
        if len(self.spatial_channels) != 4:
            raise SegZooError(
                f"BiSeNetV1: spatial_channels={self.spatial_channels} needs an entry for each of 4 layers"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            encoder_config=ResNetConfig(depth=18, stem_channels=8, base_channels=8),
            spatial_channels=[8, 8, 8, 16],
            context_channels=8,
            fused_channels=16,
        )


class BiSeNetV1Backbone(Backbone):
    """Returns the fused map, at stride 8, and on request the context path's maps at strides 8 and 16.

    ``pixel_values`` is (B, num_channels, H, W). Of the encoder's maps the last three are read, at strides 8, 16 and 32.
    """

    config: BiSeNetV1Config

    def __init__(self, config: BiSeNetV1Config):
        super().__init__(config)
        config.encoder_config.num_channels = config.num_channels
        self.encoder = transformers.AutoBackbone.from_config(config.encoder_config)
        width, fused = config.context_channels, config.fused_channels
        self.context_path = ContextPath(*self.encoder.channels[-2:], width)
        first, second, third, last = config.spatial_channels
        self.spatial_path = nn.Sequential(
            ConvNormAct(config.num_channels, first, 7, stride=2, padding=3),
            ConvNormAct(first, second, 3, stride=2, padding=1),
            ConvNormAct(second, third, 3, stride=2, padding=1),
            ConvNormAct(third, last, 1),
        )
        self.fusion = FeatureFusion(last + width, fused, ConvNormAct(fused, fused, 1))
        self.num_features = [fused, width, width]
        self.post_init()

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        context8, context16 = self.context_path(*self.encoder(pixel_values).feature_maps[-3:])
        return [self.fusion(self.spatial_path(pixel_values), context8), context8, context16]


register_backbone(BiSeNetV1Config, BiSeNetV1Backbone, variants=VARIANTS)
