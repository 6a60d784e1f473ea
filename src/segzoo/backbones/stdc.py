"""STDC: an encoder of short-term dense concatenation, and BiSeNet's context path over it.

"Rethinking BiSeNet For Real-time Semantic Segmentation" (Fan et al., 2021), https://arxiv.org/abs/2104.13188; the
numbers are those of mmsegmentation's ``STDCNet`` and ``STDCContextPathNet``
(https://github.com/open-mmlab/mmsegmentation).
"""

from typing import Literal, Self

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.backbones.wrapper import ContextPathConfig
from segzoo.base import BatchNormConfig, ConvBlockConfig, Ints, strict
from segzoo.compat import SubConfigSpec
from segzoo.errors import SegZooError
from segzoo.layers import ConvNormAct, set_norm_momentum
from segzoo.layers.context_path import ContextPath, FeatureFusion

# Blocks of the last three stages.
DEPTHS = {"1": [2, 2, 2], "2": [4, 5, 3]}

# Keyword arguments of STDCNetConfig and of STDCConfig.
ENCODER_VARIANTS = {f"stdcnet{size}": {"depths": depths} for size, depths in DEPTHS.items()}
VARIANTS = {
    f"stdc{size}": {"encoder_config": {"model_type": "segzoo_stdcnet", "depths": depths}}
    for size, depths in DEPTHS.items()
}


@strict
class STDCNetConfig(ConvBlockConfig, BackboneConfig):
    """Options of ``STDCNetBackbone``, besides those of its conv blocks.

    Args:
        channels: width of the stem, of the convolution after it, and of the three stages of blocks.
        depths: blocks of each of these three stages.
        num_convs: convolutions of each block, whose pieces are a half, a quarter ... of its output.
        fusion: "cat": a block's output is its concatenated pieces; "add": the input is added to them.
        last_conv: a 1x1 convolution, at least 1024 wide, after the last stage.

    Raises:
        SegZooError: a list has the wrong length, there is no second convolution, or a width does not divide into the
            pieces.
    """

    model_type = "segzoo_stdcnet"

    channels: Ints = (32, 64, 256, 512, 1024)
    depths: Ints = (2, 2, 2)
    num_convs: int = 4
    fusion: Literal["cat", "add"] = "cat"
    last_conv: bool = False

    @property
    def default_out_features(self) -> list[str]:
        """The maps of the three stages of blocks."""
        return self.stage_names[-3:]

    def check(self) -> None:
        """There are widths and depths for all stages, and blocks divide into their pieces."""
        super().check()
        if len(self.channels) != 5 or len(self.depths) != 3 or min(self.depths) < 1:
            raise SegZooError(
                f"STDCNet: channels={self.channels} needs 5 widths, depths={self.depths} 3 numbers of at least 1 block"
            )
        pieces = 2 ** (self.num_convs - 1)
        if self.num_convs < 2 or any(width % pieces for width in self.channels[2:]):
            raise SegZooError(
                f"STDCNet: num_convs={self.num_convs} must be 2 at least, and the stages' widths {list(self.channels[2:])} "
                f"multiples of {pieces}"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(channels=[8, 8, 16, 24, 32], depths=[1, 2, 1], num_convs=3)


class STDCBlock(GradientCheckpointingLayer):
    """A chain of convolutions, each half as wide as the one before it, whose results are concatenated.

    With stride 2 the first convolution's result is halved by a depthwise convolution. In the concatenation it is halved by
    an average instead where the fusion is "cat"; where it is "add", convolutions halve the input that is added.

    Args:
        config: gives the number of convolutions, the fusion, norm and activation.
        in_channels, out_channels: channels of the input and output; equal where an input is added at stride 1.
        stride: 1 or 2.
    """

    def __init__(self, config: STDCNetConfig, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        block, half = config.block, out_channels // 2
        self.adds = config.fusion == "add"
        self.convs = nn.ModuleList([block(in_channels, half, 1)])
        for i in range(1, config.num_convs):
            narrow = out_channels // 2 ** min(i + 1, config.num_convs - 1)
            self.convs.append(block(out_channels // 2**i, narrow, 3, padding=1))
        self.downsample, self.skip = nn.Identity(), nn.Identity()
        if stride == 2:
            spread = {"stride": 2, "padding": 1, "activation": None}
            self.downsample = block(half, half, 3, groups=half, **spread)
            self.skip = nn.AvgPool2d(kernel_size=3, stride=2, padding=1)
            if self.adds:
                self.skip = nn.Sequential(
                    block(in_channels, in_channels, 3, groups=in_channels, **spread),
                    block(in_channels, out_channels, 1, activation=None),
                )

    def forward(self, x: Tensor) -> Tensor:
        first = self.convs[0](x)
        halved = self.downsample(first)
        pieces = [halved]
        for conv in self.convs[1:]:
            pieces.append(conv(pieces[-1]))
        if self.adds:
            return torch.cat(pieces, dim=1) + self.skip(x)
        return torch.cat([self.skip(first), *pieces[1:]], dim=1)


class STDCNetBackbone(Backbone):
    """Returns the maps of the stages that ``config.out_features`` names, by default at strides 8, 16 and 32.

    ``pixel_values`` is (B, num_channels, H, W). The stem has stride 2, and each stage twice that of the one before it.
    """

    config: STDCNetConfig
    _no_split_modules = ["STDCBlock"]

    def __init__(self, config: STDCNetConfig):
        super().__init__(config)
        widths = list(config.channels)
        self.stem = config.block(config.num_channels, widths[0], 3, stride=2, padding=1)
        self.stages = nn.ModuleList([config.block(widths[0], widths[1], 3, stride=2, padding=1)])
        for before, width, depth in zip(widths[1:], widths[2:], config.depths, strict=False):
            blocks = [STDCBlock(config, width if i else before, width, 1 if i else 2) for i in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
        self.last_conv = nn.Identity()
        if config.last_conv:
            widths[-1] = max(1024, config.channels[-1])
            self.last_conv = config.block(config.channels[-1], widths[-1], 1)
        self.num_features = widths
        self.post_init()

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        maps = [self.stem(pixel_values)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return [*maps[:-1], self.last_conv(maps[-1])]


@strict
class STDCConfig(BatchNormConfig, ContextPathConfig):
    """Options of ``STDCBackbone``, besides those of ``ContextPathConfig``.

    Args:
        norm_momentum: share of the new batch in the running statistics of the context path's norms, but for those of its
            refinements.
        squeeze: how many times narrower the attention of this fusion is.
        upsampling: how maps grow in the context path: "nearest", "bilinear" or "bicubic".
        align_corners: whether bilinear and bicubic upsampling align the centres of the corner pixels.

    Raises:
        SegZooError: ``squeeze`` is larger than ``fused_channels``.
    """

    model_type = "segzoo_stdc"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="segzoo_stdcnet")}

    squeeze: int = 4
    upsampling: Literal["nearest", "bilinear", "bicubic"] = "nearest"
    align_corners: bool = False

    @property
    def stage_names(self) -> list[str]:
        """The encoder's map at stride 8, the context path's at strides 16 and 8, and the fused map."""
        return ["details", "context16", "context8", "fused"]

    def check(self) -> None:
        """The fusion's attention has a channel at least."""
        super().check()
        if self.squeeze > self.fused_channels:
            raise SegZooError(
                f"STDC: squeeze={self.squeeze} leaves no channel of fused_channels={self.fused_channels}"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(encoder_config=STDCNetConfig.tiny(), context_channels=8, fused_channels=16)


class STDCBackbone(Backbone):
    """Returns the encoder's map at stride 8, the context path's at strides 16 and 8, and the fused map at stride 8.

    ``pixel_values`` is (B, num_channels, H, W). Of the encoder's maps the last three are read, at strides 8, 16 and 32.
    """

    config: STDCConfig

    def __init__(self, config: STDCConfig):
        super().__init__(config)
        config.encoder_config.num_channels = config.num_channels
        self.encoder = transformers.AutoBackbone.from_config(config.encoder_config)
        details, middle, coarse = self.encoder.channels[-3:]
        width, fused = config.context_channels, config.fused_channels
        growing = {"upsampling": config.upsampling, "align_corners": config.align_corners}
        self.context_path = ContextPath(middle, coarse, width, **growing)
        # The original makes the refinements without its options of norms.
        set_norm_momentum((self.context_path.pooled, self.context_path.convs), config.norm_momentum)
        narrow = fused // config.squeeze
        attention = nn.Sequential(
            ConvNormAct(fused, narrow, 1, norm=None, bias=False),
            ConvNormAct(narrow, fused, 1, norm=None, bias=False, activation=None),
        )
        self.fusion = FeatureFusion(details + width, fused, attention)
        self.num_features = [details, width, width, fused]
        self.post_init()

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        details, middle, coarse = self.encoder(pixel_values).feature_maps[-3:]
        context8, context16 = self.context_path(details, middle, coarse)
        return [details, context16, context8, self.fusion(details, context8)]


register_backbone(STDCNetConfig, STDCNetBackbone, variants=ENCODER_VARIANTS)
register_backbone(STDCConfig, STDCBackbone, variants=VARIANTS)
