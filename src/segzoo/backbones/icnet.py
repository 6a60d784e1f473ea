"""ICNet's image cascade: a ResNet on the halved image, its later stages on a quarter, a few convolutions on the whole.

"ICNet for Real-Time Semantic Segmentation on High-Resolution Images" (Zhao et al., 2018),
https://arxiv.org/abs/1704.08545. The numbers are those of mmsegmentation's ``ICNet``
(https://github.com/open-mmlab/mmsegmentation). `segzoo.necks.ICNeck` fuses the three maps.
"""

from typing import Any, Self

from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, PreTrainedConfig

from segzoo.auto import register_backbone
from segzoo.backbones import resnet
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.backbones.resnet import ResNetConfig
from segzoo.base import ConvBlockConfig, Ints, nested_dict, strict
from segzoo.compat import SubConfigSpec
from segzoo.errors import SegZooError
from segzoo.layers import FusionConv, PyramidPooling, rescale

# Keyword arguments of ICNetConfig, by name.
VARIANTS: dict[str, dict[str, Any]] = {
    f"icnet_r{depth}": {"resnet_config": resnet.VARIANTS[f"resnet{depth}_v1c_d8"]} for depth in (18, 50, 101)
}


@strict
class ICNetConfig(ConvBlockConfig, BackboneConfig):
    """Options of ``ICNetBackbone``, which returns the maps "full", "half" and "quarter".

    Args:
        resnet_config: config of the ResNet, with four stages, or its dict. None: ResNet-50, V1c, of output stride 8.
        light_channels: width of the first two of the three convolutions that read the whole image.
        pyramid_channels: width of the pyramid pooling after the ResNet, and of the convolution that fuses it.
        pool_scales: sides of the pooled grids, in cells.
        channels: channels of the three maps.
        align_corners: whether halving the image and a map, and resizing the grids, aligns the centres of corner pixels.
        norm, norm_eps, norm_momentum: of all but the ResNet.
        activation: of the pyramid pooling; the convolutions that make the three maps have a ReLU.

    Raises:
        SegZooError: the config is no ResNet's, has other image channels or fewer stages than four, or ``channels`` are
            not three.
    """

    model_type = "segzoo_icnet"
    sub_configs_defaults = {"resnet_config": SubConfigSpec(config_class=AutoConfig, model_type="segzoo_resnet")}

    resnet_config: PreTrainedConfig | dict | None = None
    light_channels: int = 32
    pyramid_channels: int = 512
    pool_scales: Ints = (1, 2, 3, 6)
    channels: Ints = (64, 256, 256)
    align_corners: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.resnet_config is None:
            self.resnet_config = VARIANTS["icnet_r50"]["resnet_config"]
        if isinstance(self.resnet_config, dict):  # which need repeat neither the channels nor the type
            defaults = {"model_type": ResNetConfig.model_type, "num_channels": self.num_channels}
            self.resnet_config = defaults | self.resnet_config
        super().__post_init__(**kwargs)

    @property
    def stage_names(self) -> list[str]:
        return ["full", "half", "quarter"]

    def check(self) -> None:
        """A ResNet of four stages reads the same image channels, and there are channels for three maps."""
        super().check()
        inner = self.resnet_config
        if not isinstance(inner, ResNetConfig) or inner.num_stages != 4:
            raise SegZooError("ICNet: resnet_config must be of a ResNet (segzoo_resnet) with four stages")
        if inner.num_channels != self.num_channels:
            raise SegZooError(
                f"ICNet: num_channels={self.num_channels}, but the ResNet's is {inner.num_channels}; give both the same"
            )
        if len(self.channels) != len(self.stage_names):
            raise SegZooError(f"ICNet: channels={self.channels} must be three, one for each map")

    def to_dict(self) -> dict[str, Any]:
        """The config as a dict ready for JSON, the ResNet's without what equals transformers' defaults."""
        output = super().to_dict()
        if isinstance(self.resnet_config, PreTrainedConfig):
            output["resnet_config"] = nested_dict(self.resnet_config)
        return output

    @classmethod
    def tiny(cls) -> Self:
        inner = ResNetConfig(depth=18, stem="deep", stem_channels=8, base_channels=8, **resnet.OUTPUT_STRIDES[8])
        return cls(resnet_config=inner, light_channels=4, pyramid_channels=8, channels=[8, 16, 16])


class ICNetBackbone(Backbone):
    """Returns the maps of the whole image (stride 8), of the halved one (16) and of a quarter of it (32).

    ``pixel_values`` is (B, num_channels, H, W). The strides are those over a ResNet of output stride 8.
    """

    config: ICNetConfig
    _no_split_modules = ["ResNetBlock"]

    def __init__(self, config: ICNetConfig):
        super().__init__(config)
        config.resnet_config.num_channels = config.num_channels
        self.resnet = AutoBackbone.from_config(config.resnet_config)
        self.resnet.pool.ceil_mode = True  # which keeps the last row and column of odd maps
        light, pyramid, options = config.light_channels, config.pyramid_channels, config.block_options
        options["align_corners"] = config.align_corners
        _, _, middle, _, last = self.resnet.num_features
        self.pyramid = PyramidPooling(last, pyramid, config.pool_scales, **options)
        self.context_conv = FusionConv(last + len(self.pyramid) * pyramid, pyramid, 3, padding=1, **options)
        widths = [config.num_channels, light, light, config.channels[0]]
        self.full_convs = nn.Sequential(
            *(config.block(widths[i], widths[i + 1], 3, stride=2, padding=1, activation="relu") for i in range(3))
        )
        self.half_conv = config.block(middle, config.channels[1], 1, activation="relu")
        self.quarter_conv = config.block(pyramid, config.channels[2], 1, activation="relu")
        self.num_features = list(config.channels)
        self.post_init()

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        stages, align_corners = self.resnet.stages, self.config.align_corners
        x = self.resnet.pool(self.resnet.stem(rescale(pixel_values, 0.5, align_corners=align_corners)))
        middle = stages[1](stages[0](x))
        x = stages[3](stages[2](rescale(middle, 0.5, align_corners=align_corners)))
        x, *grids = self.pyramid(x)
        x = self.context_conv([*grids, x], x.shape[-2:])
        return [self.full_convs(pixel_values), self.half_conv(middle), self.quarter_conv(x)]


register_backbone(ICNetConfig, ICNetBackbone, variants=VARIANTS)
