"""ResNeSt: ResNet in whose bottlenecks attention weighs several branches of the 3x3 convolution, channel by channel.

"ResNeSt: Split-Attention Networks" (Zhang et al., 2020), https://arxiv.org/abs/2004.08955. The numbers are those of
mmsegmentation's ``ResNeSt`` (https://github.com/open-mmlab/mmsegmentation).
"""

from typing import ClassVar, Literal, Self

from torch import Tensor, nn

from segzoo.auto import register_backbone
from segzoo.backbones.resnet import OUTPUT_STRIDES, ResNetBackbone, ResNetBlock, ResNetConfig
from segzoo.base import strict
from segzoo.errors import SegZooError

# Blocks per stage, and that they are bottlenecks.
DEPTHS = {
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
    200: ((3, 24, 36, 3), True),
}

# "resnest50", "resnest101_d8" ...: keyword arguments of ResNeStConfig.
VARIANTS = {
    f"resnest{depth}{'' if stride == 32 else f'_d{stride}'}": {"depth": depth, "stem_channels": stem}
    | OUTPUT_STRIDES[stride]
    for depth, stem in ((50, 64), (101, 128), (200, 128))
    for stride in OUTPUT_STRIDES
}


@strict
class ResNeStConfig(ResNetConfig):
    """Options of ``ResNeStBackbone``, besides those of ``ResNetConfig``, of which some have other defaults.

    Args:
        depth: number of layers with weights: 50, 101, 152 or 200.
        radix: number of branches in each group; one branch is weighed by a sigmoid.
        reduction_factor: by how much the attention is narrower than all branches together; it has 32 channels at least.
        average_stride: average pooling behind the branches has the stride, instead of their convolution.

    Raises:
        SegZooError: as ``ResNetConfig``, or channels do not divide into the groups.
    """

    model_type = "segzoo_resnest"
    known_depths: ClassVar[dict[int, tuple[tuple[int, ...], bool]]] = DEPTHS

    stem: Literal["plain", "deep"] = "deep"
    average_downsample: bool = True
    radix: int = 2
    reduction_factor: int = 4
    average_stride: bool = True

    def attention_width(self, width: int) -> int:
        """Channels of the attention over branches of ``width`` channels each."""
        return max(width * self.radix // self.reduction_factor, 32)

    def check(self) -> None:
        """The options fit as a ResNet's do, and channels divide into the groups."""
        super().check()
        for stage in range(self.num_stages):
            width = self.inner_width(stage)
            if width % (self.groups * self.radix) or self.attention_width(width) % self.groups:
                raise SegZooError(
                    f"ResNeSt: the {width} channels of stage {stage + 1}, or its attention's {self.attention_width(width)}, do "
                    f"not divide into groups={self.groups} of radix={self.radix} branches; choose others"
                )

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            num_stages=2, strides=[1, 2], dilations=[1, 2], stem_channels=8, base_channels=8, groups=2, base_width=8
        )


class SplitAttention(nn.Module):
    """A grouped 3x3 convolution with several branches, which are added with weights that a pooled map decides.

    The branches of the result's channel c are ``radix`` channels of the convolution, and the softmax is over them.

    Args:
        config: gives the radix, the attention's width, where the stride is, norm and activation.
        width: channels of the input and of the result.
        stride, dilation, groups: of the convolution.
    """

    def __init__(self, config: ResNeStConfig, width: int, *, stride: int, dilation: int, groups: int):
        super().__init__()
        self.radix, self.groups = config.radix, groups
        inside, block = config.attention_width(width), config.block
        self.pool: nn.Module = nn.Identity()
        if config.average_stride and stride > 1:
            self.pool = nn.AvgPool2d(3, stride, padding=1)
            stride = 1
        spread = {"stride": stride, "padding": dilation, "dilation": dilation}
        self.branches = block(width, width * config.radix, 3, groups=groups * config.radix, **spread)
        self.squeeze = block(width, inside, 1, groups=groups, bias=True)
        self.scores = nn.Conv2d(inside, width * config.radix, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, width, H', W')."""
        branches = self.branches(x).unflatten(1, (self.radix, -1))
        pooled = branches.mean((3, 4)).sum(1)[:, :, None, None]
        scores = self.scores(self.squeeze(pooled)).unflatten(1, (self.groups, self.radix, -1))
        weights = scores.sigmoid() if self.radix == 1 else scores.softmax(dim=2)
        weights = weights.transpose(1, 2).flatten(2, 3)  # (B, radix, width, 1, 1): groups stand inside a branch
        return self.pool((weights * branches).sum(1))


class ResNeStBlock(ResNetBlock):
    """ResNet's bottleneck with split attention in place of the 3x3 convolution."""

    @staticmethod
    def wide_conv(config: ResNeStConfig, width: int, *, stride: int, dilation: int, groups: int) -> nn.Module:
        """The split attention of a block; the arguments are those of `SplitAttention`."""
        return SplitAttention(config, width, stride=stride, dilation=dilation, groups=groups)


class ResNeStBackbone(ResNetBackbone):
    """As `ResNetBackbone`, of ResNeSt's blocks."""

    config: ResNeStConfig
    block_class: ClassVar[type[ResNetBlock]] = ResNeStBlock
    _no_split_modules = ["ResNeStBlock"]


register_backbone(ResNeStConfig, ResNeStBackbone, variants=VARIANTS)
