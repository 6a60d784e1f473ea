"""BiSeNet V2: a wide, shallow branch for details, a narrow, deep one for meaning, and their mutual gating.

"BiSeNet V2: Bilateral Network with Guided Aggregation for Real-time Semantic Segmentation" (Yu et al., 2020),
https://arxiv.org/abs/2004.02147; the numbers are those of mmsegmentation's ``BiSeNetV2``
(https://github.com/open-mmlab/mmsegmentation).
"""

from typing import Self

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.layers import BatchNorm2d, ConvNormAct, resize
from segzoo.layers.context_path import mean_of_map

# Keyword arguments of BiSeNetV2Config.
VARIANTS = {"bisenetv2": {}}


@strict
class BiSeNetV2Config(BackboneConfig):
    """Options of ``BiSeNetV2Backbone``. All norms are batch norms.

    Args:
        detail_channels: width of each stage of the detail branch; each halves the resolution.
        semantic_channels: width of the semantic branch's stem, which divides the resolution by 4, and of each of its
            stages, which halve it.
        expansion: how many times wider the depthwise convolutions of the semantic branch are.
        align_corners: whether resizing the branches to each other aligns the centres of the corner pixels.

    Raises:
        SegZooError: the branches do not end with the same width, or the semantic one does not end at four times the
            detail branch's stride.
    """

    model_type = "segzoo_bisenetv2"

    detail_channels: Ints = (64, 64, 128)
    semantic_channels: Ints = (16, 32, 64, 128)
    expansion: int = 6
    align_corners: bool = False

    @property
    def stage_names(self) -> list[str]:
        """The fused map, then the semantic branch's, which its auxiliary heads read."""
        return ["fused", *(f"stage{i + 1}" for i in range(len(self.semantic_channels)))]

    @property
    def default_out_features(self) -> list[str]:
        """The fused map alone, so that whatever head reads the result of the whole network."""
        return ["fused"]

    def check(self) -> None:
        """The branches end with one width, and their strides differ by the factor that the aggregation needs."""
        super().check()
        details, semantics = self.detail_channels, self.semantic_channels
        if not details or len(semantics) != len(details) + 1 or details[-1] != semantics[-1]:
            raise SegZooError(
                f"BiSeNetV2: semantic_channels={semantics} must have one entry more than detail_channels={details}, and end "
                "with the same width"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(detail_channels=[8, 8, 16], semantic_channels=[8, 8, 8, 16], expansion=2)


class SemanticStem(nn.Module):
    """Divides the resolution by 4, the second time by a convolution and by a maximum, which are joined."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.first = ConvNormAct(in_channels, channels, 3, stride=2, padding=1)
        self.convs = nn.Sequential(
            ConvNormAct(channels, channels // 2, 1), ConvNormAct(channels // 2, channels, 3, stride=2, padding=1)
        )
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.fuse = ConvNormAct(2 * channels, channels, 3, padding=1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.first(pixel_values)
        return self.fuse(torch.cat([self.convs(x), self.pool(x)], dim=1))


class GatherExpansion(GradientCheckpointingLayer):
    """Residual block: a 3x3 convolution, a wide depthwise one, and a 1x1 convolution back.

    With stride 2 there are two depthwise convolutions, and the shortcut is a depthwise and a 1x1 convolution.

    Args:
        in_channels, out_channels: channels of the input and output; equal with stride 1.
        expansion: how many times wider than the input the depthwise convolutions are.
        stride: 1 or 2.
    """

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, stride: int):
        super().__init__()
        wide = in_channels * expansion
        self.conv = ConvNormAct(in_channels, in_channels, 3, padding=1)
        if stride == 1:
            self.depthwise = nn.Sequential(ConvNormAct(in_channels, wide, 3, padding=1, groups=in_channels))
            self.shortcut = nn.Identity()
        else:
            spread = {"stride": stride, "padding": 1, "groups": in_channels, "activation": None}
            self.depthwise = nn.Sequential(
                ConvNormAct(in_channels, wide, 3, **spread), ConvNormAct(wide, wide, 3, padding=1, groups=wide)
            )
            self.shortcut = nn.Sequential(
                ConvNormAct(in_channels, in_channels, 3, **spread),
                ConvNormAct(in_channels, out_channels, 1, activation=None),
            )
        self.project = ConvNormAct(wide, out_channels, 1, activation=None)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.project(self.depthwise(self.conv(x))) + self.shortcut(x))


class ContextEmbedding(nn.Module):
    """Adds the mean of a map, normalised and projected, to every pixel."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = BatchNorm2d(channels)
        self.project = ConvNormAct(channels, channels, 1)
        self.conv = ConvNormAct(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x + self.project(self.norm(mean_of_map(x))))


class GuidedAggregation(nn.Module):
    """Gates each branch by a sigmoid of the other, at the resolution of both, and adds the two.

    Args:
        channels: width of both branches.
        align_corners: whether resizing aligns the centres of the corner pixels.
    """

    def __init__(self, channels: int, align_corners: bool):
        super().__init__()
        self.align_corners = align_corners
        self.detail_keep, self.semantic_keep = self._separable(channels), self._separable(channels)
        self.detail_down = nn.Sequential(
            ConvNormAct(channels, channels, 3, stride=2, padding=1, activation=None),
            nn.AvgPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.semantic_up = ConvNormAct(channels, channels, 3, padding=1, activation=None)
        self.conv = ConvNormAct(channels, channels, 3, padding=1)

    @staticmethod
    def _separable(channels: int) -> nn.Sequential:
        """A depthwise convolution with a norm, and a 1x1 convolution with neither norm nor activation."""
        return nn.Sequential(
            ConvNormAct(channels, channels, 3, padding=1, groups=channels, activation=None),
            ConvNormAct(channels, channels, 1, norm=None, activation=None),
        )

    def forward(self, details: Tensor, semantics: Tensor) -> Tensor:
        """Maps (B, C, H, W) and (B, C, H / 4, W / 4) -> (B, C, H, W)."""
        size = details.shape[-2:]
        gate = resize(self.semantic_up(semantics), size, align_corners=self.align_corners).sigmoid()
        coarse = self.detail_down(details) * self.semantic_keep(semantics).sigmoid()
        coarse = resize(coarse, size, align_corners=self.align_corners)
        return self.conv(self.detail_keep(details) * gate + coarse)


class BiSeNetV2Backbone(Backbone):
    """Returns the fused map, at stride 8, and on request the semantic branch's maps, at strides 4, 8, 16 and 32.

    ``pixel_values`` is (B, num_channels, H, W).
    """

    config: BiSeNetV2Config
    _no_split_modules = ["GatherExpansion"]

    def __init__(self, config: BiSeNetV2Config):
        super().__init__(config)
        self.details = nn.Sequential()
        before = config.num_channels
        for i, width in enumerate(config.detail_channels):
            layers = [ConvNormAct(before, width, 3, stride=2, padding=1)]
            layers += [ConvNormAct(width, width, 3, padding=1) for _ in range(2 if i else 1)]
            self.details.append(nn.Sequential(*layers))
            before = width
        widths = config.semantic_channels
        self.stem = SemanticStem(config.num_channels, widths[0])
        self.stages = nn.ModuleList()
        for i in range(1, len(widths)):
            stage = nn.Sequential(GatherExpansion(widths[i - 1], widths[i], expansion=config.expansion, stride=2))
            for _ in range(3 if i == len(widths) - 1 else 1):
                stage.append(GatherExpansion(widths[i], widths[i], expansion=config.expansion, stride=1))
            self.stages.append(stage)
        self.context = ContextEmbedding(widths[-1])
        self.aggregation = GuidedAggregation(widths[-1], config.align_corners)
        self.num_features = [widths[-1], *widths]
        self.post_init()

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        semantics = [self.stem(pixel_values)]
        for stage in self.stages:
            semantics.append(stage(semantics[-1]))
        fused = self.aggregation(self.details(pixel_values), self.context(semantics[-1]))
        return [fused, *semantics]


register_backbone(BiSeNetV2Config, BiSeNetV2Backbone, variants=VARIANTS)
