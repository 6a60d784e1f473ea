"""ResNet as segmentation uses it: deep stems, dilation, multi-grid, grouped convolutions, any image channels.

"Deep Residual Learning for Image Recognition" (He et al., 2016), https://arxiv.org/abs/1512.03385; the V1c and V1d
stems and shortcuts are from "Bag of Tricks" (He et al., 2019), https://arxiv.org/abs/1812.01187; ResNeXt from
https://arxiv.org/abs/1611.05431; multi-grid from DeepLabV3, https://arxiv.org/abs/1706.05587. The numbers are those of
mmsegmentation's ``ResNet``, ``ResNetV1c``, ``ResNetV1d`` and ``ResNeXt``
(https://github.com/open-mmlab/mmsegmentation), and of MIT's encoders
(https://github.com/CSAILVision/semantic-segmentation-pytorch). transformers' ResNet has neither dilation nor these
stems.
"""

from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.base import ConvBlockConfig, Ints, strict
from segzoo.errors import SegZooError

# Blocks per stage, and whether they are bottlenecks.
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}

OUTPUT_STRIDES = {
    32: {},
    16: {"strides": [1, 2, 2, 1], "dilations": [1, 1, 1, 2], "contract_dilation": True},
    8: {"strides": [1, 2, 1, 1], "dilations": [1, 1, 2, 4], "contract_dilation": True},
}
_STEMS = {
    "": {"stem": "plain"},
    "_v1c": {"stem": "deep"},
    "_v1d": {"stem": "deep", "average_downsample": True},
}

# "resnet50", "resnet50_v1c", "resnet50_v1c_d8" ...: keyword arguments of ResNetConfig. Those of MIT's scene-parsing
# models, "resnet50_mit" and "resnet50_mit_d8", have a wider stem.
VARIANTS = {
    f"resnet{depth}{stem}{'' if stride == 32 else f'_d{stride}'}": {"depth": depth}
    | _STEMS[stem]
    | OUTPUT_STRIDES[stride]
    for depth in DEPTHS
    for stem in _STEMS
    for stride in OUTPUT_STRIDES
}
VARIANTS |= {
    f"resnet{depth}_mit{suffix}": {"depth": depth, "stem": "deep", "stem_channels": 128, "dilate_basic_blocks": True}
    | OUTPUT_STRIDES[stride]
    for depth in (18, 50, 101)
    for suffix, stride in (("", 32), ("_d8", 8))
}


@strict
class ResNetConfig(ConvBlockConfig, BackboneConfig):
    """Options of ``ResNetBackbone``, besides those of its conv blocks.

    Args:
        depth: number of layers with weights: 18, 34, 50, 101 or 152.
        num_stages: 1 to 4; later stages are left out.
        stem: "plain" (one 7x7 convolution) or "deep" (three 3x3 convolutions, V1c and V1d).
        stem_channels: width after the stem; a deep stem has half of it in its first two convolutions.
        base_channels: width of the first stage before expansion; it doubles with every stage.
        groups, base_width: number and width of the groups of ResNeXt's 3x3 convolutions ("32x4d" is groups=32,
            base_width=4).
        strides: stride of each stage's first block. Output stride 8 is [1, 2, 1, 1] with dilations [1, 1, 2, 4].
        dilations: dilation of each stage's 3x3 convolutions.
        contract_dilation: give the first block of a dilated stage half of the dilation, against gridding.
        multi_grid: dilation per block of the last stage, instead of ``dilations``.
        dilate_basic_blocks: a basic block's second convolution has the stage's dilation too (MIT scene parsing);
            without it only the first one has (mmsegmentation). Bottlenecks have one 3x3 convolution.
        average_downsample: shortcuts pool before their 1x1 convolution (V1d).
        downsample_in_bottleneck: the stride is on a bottleneck's first 1x1 convolution ("caffe" style), not on its
            3x3.

    Raises:
        SegZooError: the depth does not exist, a list has the wrong length, or basic blocks have groups.
    """

    model_type = "segzoo_resnet"
    known_depths: ClassVar[dict[int, tuple[tuple[int, ...], bool]]] = DEPTHS

    depth: int = 50
    num_stages: int = 4
    stem: Literal["plain", "deep"] = "plain"
    stem_channels: int = 64
    base_channels: int = 64
    groups: int = 1
    base_width: int = 64
    strides: Ints = (1, 2, 2, 2)
    dilations: Ints = (1, 1, 1, 1)
    contract_dilation: bool = False
    multi_grid: Ints | None = None
    dilate_basic_blocks: bool = False
    average_downsample: bool = False
    downsample_in_bottleneck: bool = False

    @property
    def bottleneck(self) -> bool:
        """Whether the blocks are bottlenecks (depth 50 and more)."""
        return self.known_depths[self.depth][1]

    @property
    def blocks(self) -> list[int]:
        """Number of blocks of each stage."""
        return list(self.known_depths[self.depth][0][: self.num_stages])

    def inner_width(self, stage: int) -> int:
        """Channels inside the blocks of a stage; stages are counted from 0."""
        planes = self.base_channels * 2**stage
        return planes if self.groups == 1 else planes * self.base_width // self.base_channels * self.groups

    def check(self) -> None:
        """The depth exists, lists have an entry per stage or block, and only bottlenecks have groups."""
        super().check()
        name = type(self).__name__.removesuffix("Config")
        if self.depth not in self.known_depths:
            known = ", ".join(map(str, self.known_depths))
            raise SegZooError(f"{name} has no depth {self.depth}; choose one of {known}")
        if not 1 <= self.num_stages <= 4:
            raise SegZooError(f"{name}: num_stages={self.num_stages} is not between 1 and 4")
        for field in ("strides", "dilations"):
            if len(getattr(self, field)) != self.num_stages:
                raise SegZooError(
                    f"{name}: {field}={getattr(self, field)} needs one entry for each of {self.num_stages} stages"
                )
        if self.multi_grid is not None and len(self.multi_grid) != self.blocks[-1]:
            raise SegZooError(
                f"{name}: multi_grid={self.multi_grid} needs one entry for each of the last stage's {self.blocks[-1]} blocks"
            )
        if self.groups != 1 and not self.bottleneck:
            raise SegZooError(f"{name}: groups={self.groups} needs bottleneck blocks; use depth 50, 101 or 152")

    @classmethod
    def tiny(cls) -> Self:
        return cls(depth=18, stem="deep", stem_channels=8, base_channels=8)


class ResNetBlock(GradientCheckpointingLayer):
    """Residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 for a bottleneck.

    Args:
        config: gives the norm and the activation of the convolutions.
        in_channels: channels of the input.
        planes: width of the convolutions; a bottleneck's output has four times as many channels.
        bottleneck: whether the block is a bottleneck.
        stride: stride of the 3x3 convolution, in a basic block of the first one.
        dilations: dilations of a basic block's two convolutions; a bottleneck's 3x3 convolution has the first.
        width, groups: channels and groups of a bottleneck's 3x3 convolution; a width of None is ``planes``.
        average_downsample: the shortcut pools before its 1x1 convolution.
        downsample_in_bottleneck: a bottleneck's stride is on its first 1x1 convolution.
    """

    def __init__(
        self,
        config: ConvBlockConfig,
        in_channels: int,
        planes: int,
        *,
        bottleneck: bool,
        stride: int = 1,
        dilations: tuple[int, int] = (1, 1),
        width: int | None = None,
        groups: int = 1,
        average_downsample: bool = False,
        downsample_in_bottleneck: bool = False,
    ):
        super().__init__()
        block, (first, second) = config.block, dilations
        if bottleneck:
            out_channels, width = 4 * planes, planes if width is None else width
            strides = (stride, 1) if downsample_in_bottleneck else (1, stride)
            self.conv1 = block(in_channels, width, 1, stride=strides[0])
            self.conv2 = self.wide_conv(config, width, stride=strides[1], dilation=first, groups=groups)
            self.conv3 = block(width, out_channels, 1, activation=None)
        else:
            out_channels = planes
            self.conv1 = block(in_channels, planes, 3, stride=stride, padding=first, dilation=first)
            self.conv2 = block(planes, planes, 3, padding=second, dilation=second, activation=None)
            self.conv3 = nn.Identity()
        self.pool, self.shortcut = nn.Identity(), nn.Identity()
        if stride != 1 or in_channels != out_channels:
            if average_downsample:
                self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
                stride = 1
            self.shortcut = block(in_channels, out_channels, 1, stride=stride, activation=None)
        self.activation = config.make_activation()

    @staticmethod
    def wide_conv(config: Any, width: int, *, stride: int, dilation: int, groups: int) -> nn.Module:
        """A bottleneck's 3x3 convolution, which another kind of block may replace."""
        return config.block(width, width, 3, stride=stride, padding=dilation, dilation=dilation, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv3(self.conv2(self.conv1(x))) + self.shortcut(self.pool(x)))


class ResNetBackbone(Backbone):
    """Returns the maps of the stages that ``config.out_features`` names, from fine to coarse.

    ``pixel_values`` is (B, num_channels, H, W). The stem has stride 2, and stage s 4 times the product of ``strides``
    up to s.

    The last norm of a new block begins with weights of 1. mmsegmentation's begin at 0, with which short trainings from
    random weights end with lower scores: ``examples/quickstart.py`` at 66 instead of 71 % mIoU.
    """

    config: ResNetConfig
    block_class: ClassVar[type[ResNetBlock]] = ResNetBlock
    _no_split_modules = ["ResNetBlock"]

    def __init__(self, config: ResNetConfig):
        super().__init__(config)
        stem = config.stem_channels
        if config.stem == "deep":
            widths = [config.num_channels, stem // 2, stem // 2, stem]
            self.stem = nn.Sequential(
                *(config.block(widths[i], widths[i + 1], 3, stride=2 if i == 0 else 1, padding=1) for i in range(3))
            )
        else:
            self.stem = nn.Sequential(config.block(config.num_channels, stem, 7, stride=2, padding=3))
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        self.num_features = [stem]
        for stage in range(config.num_stages):
            planes = config.base_channels * 2**stage
            layers = nn.Sequential()
            channels = self.num_features[-1]
            for block, dilation in enumerate(self.block_dilations(stage)):
                layers.append(
                    self.block_class(
                        config,
                        channels,
                        planes,
                        bottleneck=config.bottleneck,
                        stride=config.strides[stage] if block == 0 else 1,
                        dilations=(dilation, config.dilations[stage] if config.dilate_basic_blocks else 1),
                        width=config.inner_width(stage),
                        groups=config.groups,
                        average_downsample=config.average_downsample,
                        downsample_in_bottleneck=config.downsample_in_bottleneck,
                    )
                )
                channels = 4 * planes if config.bottleneck else planes
            self.stages.append(layers)
            self.num_features.append(channels)
        self.post_init()

    def block_dilations(self, stage: int) -> list[int]:
        """The dilation of each block of a stage; stages are counted from 0."""
        config = self.config
        if config.multi_grid is not None and stage == config.num_stages - 1:
            return list(config.multi_grid)
        dilation, blocks = config.dilations[stage], config.blocks[stage]
        first = dilation // 2 if config.contract_dilation and dilation > 1 else dilation
        return [first] + [dilation] * (blocks - 1)

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        x = self.stem(pixel_values)
        maps = [x]
        x = self.pool(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


register_backbone(ResNetConfig, ResNetBackbone, variants=VARIANTS)
