"""MobileNetV2 as segmentation uses it: any strides, dilations and width.

"MobileNetV2: Inverted Residuals and Linear Bottlenecks" (Sandler et al., 2018), https://arxiv.org/abs/1801.04381. The
numbers are those of mmsegmentation's ``MobileNetV2`` (https://github.com/open-mmlab/mmsegmentation) and of MIT's
``mobilenetv2dilated`` (https://github.com/CSAILVision/semantic-segmentation-pytorch). transformers' MobileNetV2 pads
as TensorFlow does and is no backbone.
"""

from typing import Self

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.base import Activation, ConvBlockConfig, Ints, strict
from segzoo.errors import SegZooError

# For each stage: factor by which the blocks are wider inside, channels, number of blocks.
STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))

# Keyword arguments of MobileNetV2Config. "_d16" and "_d8" are mmsegmentation's, where only the first block of a stage
# is dilated; in MIT's models the others are, and the first one by half where it had a stride.
VARIANTS = {
    "mobilenetv2": {},
    "mobilenetv2_d16": {"strides": [1, 2, 2, 2, 1, 1, 1], "dilations": [1, 1, 1, 1, 1, 2, 2]},
    "mobilenetv2_d8": {"strides": [1, 2, 2, 1, 1, 1, 1], "dilations": [1, 1, 1, 2, 2, 4, 4]},
    "mobilenetv2_mit_d8": {
        "strides": [1, 2, 2, 1, 1, 1, 1],
        "dilations": [1, 1, 1, 1, 2, 2, 4],
        "later_dilations": [1, 1, 1, 2, 2, 4, 4],
        "maps_after_first_blocks": True,
    },
}


@strict
class MobileNetV2Config(ConvBlockConfig, BackboneConfig):
    """Options of ``MobileNetV2Backbone``, which has a stem and seven stages, besides those of its conv blocks.

    Args:
        widen_factor: factor on all channels, which are then rounded to multiples of 8.
        strides: stride of each stage's first block; the stem's is always 2.
        dilations: dilation of the 3x3 convolution in the first block of each stage.
        later_dilations: dilation of the 3x3 convolutions in its other blocks.
        maps_after_first_blocks: a stage's map is the output of its first block (MIT scene parsing), not of its last.
        activation: activation after the norms, ReLU6 by default.
        out_features: names of the returned maps; by default "stage2", "stage3", "stage5" and "stage7", with the
            default strides the last ones of their resolutions.

    Raises:
        SegZooError: a list does not have seven entries, or ``widen_factor`` is not positive.
    """

    model_type = "segzoo_mobilenetv2"

    widen_factor: float = 1.0
    strides: Ints = (1, 2, 2, 2, 1, 2, 1)
    dilations: Ints = (1, 1, 1, 1, 1, 1, 1)
    later_dilations: Ints = (1, 1, 1, 1, 1, 1, 1)
    maps_after_first_blocks: bool = False
    activation: Activation = "relu6"

    @property
    def num_stages(self) -> int:
        return len(STAGES)

    @property
    def default_out_features(self) -> list[str]:
        return ["stage2", "stage3", "stage5", "stage7"]

    def width(self, channels: int) -> int:
        """Channels after ``widen_factor``: the nearest multiple of 8, at least 8 and not more than a tenth below."""
        wanted = channels * self.widen_factor
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * wanted else rounded + 8

    def check(self) -> None:
        """Lists have an entry for each stage, and ``widen_factor`` is positive."""
        super().check()
        for name in ("strides", "dilations", "later_dilations"):
            if len(getattr(self, name)) != len(STAGES):
                raise SegZooError(
                    f"MobileNetV2: {name}={getattr(self, name)} needs one entry for each of {len(STAGES)} stages"
                )
        if self.widen_factor <= 0:
            raise SegZooError(f"MobileNetV2: widen_factor={self.widen_factor} must be above 0")

    @classmethod
    def tiny(cls) -> Self:
        return cls(widen_factor=0.1)


class InvertedResidual(GradientCheckpointingLayer):
    """A 1x1 convolution that widens, a depthwise 3x3 one, and a 1x1 one that narrows without activation; added to its
    input where the shapes agree.

    Args:
        config: gives the norm and the activation of the convolutions.
        in_channels, out_channels: channels of the input and of the output.
        expansion: factor by which the block is wider inside; 1 leaves the first convolution out.
        stride, dilation: stride and dilation of the depthwise convolution.
    """

    def __init__(
        self,
        config: ConvBlockConfig,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        stride: int,
        dilation: int,
    ):
        super().__init__()
        width = in_channels * expansion
        self.expand = nn.Identity()
        if expansion != 1:
            self.expand = config.block(in_channels, width, 1)
        self.depthwise = config.block(
            width, width, 3, stride=stride, padding=dilation, dilation=dilation, groups=width
        )
        self.project = config.block(width, out_channels, 1, activation=None)
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        output = self.project(self.depthwise(self.expand(x)))
        return x + output if self.adds else output


class MobileNetV2Backbone(Backbone):
    """Returns the maps of the stages that ``config.out_features`` names, from fine to coarse.

    ``pixel_values`` is (B, num_channels, H, W). The stem has stride 2, and stage s 2 times the product of ``strides``
    up to s.
    """

    config: MobileNetV2Config
    _no_split_modules = ["InvertedResidual"]

    def __init__(self, config: MobileNetV2Config):
        super().__init__(config)
        channels = config.width(32)
        self.stem = config.block(config.num_channels, channels, 3, stride=2, padding=1)
        self.num_features = [channels]
        self.stages = nn.ModuleList()
        for stage, (expansion, width, blocks) in enumerate(STAGES):
            layers = nn.Sequential()
            for block in range(blocks):
                first = block == 0
                layers.append(
                    InvertedResidual(
                        config,
                        channels,
                        config.width(width),
                        expansion=expansion,
                        stride=config.strides[stage] if first else 1,
                        dilation=(config.dilations if first else config.later_dilations)[stage],
                    )
                )
                channels = config.width(width)
            self.stages.append(layers)
            self.num_features.append(channels)
        self.post_init()

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        x = self.stem(pixel_values)
        maps = [x]
        for stage in self.stages:
            outputs = []
            for block in stage:
                x = block(x)
                outputs.append(x)
            maps.append(outputs[0 if self.config.maps_after_first_blocks else -1])
        return maps


register_backbone(MobileNetV2Config, MobileNetV2Backbone, variants=VARIANTS)
