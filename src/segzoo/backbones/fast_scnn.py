"""Fast-SCNN: a shared start, a deep branch over a small map, and their fusion at an eighth of the image.

"Fast-SCNN: Fast Semantic Segmentation Network" (Poudel et al., 2019), https://arxiv.org/abs/1902.04502. The numbers
are those of mmsegmentation's ``FastSCNN`` (https://github.com/open-mmlab/mmsegmentation).
"""

from typing import Self

from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.backbones.mobilenetv2 import InvertedResidual
from segzoo.base import Activation, ConvBlockConfig, Ints, strict
from segzoo.errors import SegZooError
from segzoo.layers import FusionConv, PyramidPooling, SeparableConv, resize

# The paper's: blocks of a stage, factor by which they are wider inside, and sides of the pooled grids.
BLOCKS, EXPANSION, POOL_SCALES = 3, 6, (1, 2, 3, 6)

# Keyword arguments of FastSCNNConfig; the published model has batch norms of this momentum, in its heads too.
VARIANTS = {"fast_scnn": {"norm_momentum": 0.01}}


@strict
class FastSCNNConfig(ConvBlockConfig, BackboneConfig):
    """Options of ``FastSCNNBackbone``, which returns the maps "fine", "coarse" and "fused".

    Args:
        stem_channels: channels of the first two of three convolutions with stride 2.
        fine_channels: channels after the third, of the map "fine".
        stage_channels: channels of the three stages of the deep branch.
        stage_strides: stride of each stage's first block, 1 or 2.
        coarse_channels: channels of the map "coarse", the end of the deep branch; a multiple of ``fused_channels``.
        fused_channels: channels of the map "fused".
        depthwise_activation: activation between the depthwise and the pointwise part of the second and third
            convolution.
        align_corners: whether resizing aligns the centres of the corner pixels.

    Raises:
        SegZooError: a list has the wrong length, a stride is neither 1 nor 2, or the channels of "coarse" are no
            multiple of those of "fused".
    """

    model_type = "segzoo_fast_scnn"

    stem_channels: Ints = (32, 48)
    fine_channels: int = 64
    stage_channels: Ints = (64, 96, 128)
    stage_strides: Ints = (2, 2, 1)
    coarse_channels: int = 128
    fused_channels: int = 128
    depthwise_activation: Activation | None = None
    align_corners: bool = False

    @property
    def stage_names(self) -> list[str]:
        return ["fine", "coarse", "fused"]

    def check(self) -> None:
        """Lists have their lengths, strides are 1 or 2, and "coarse" fits the groups of the fusion."""
        super().check()
        for name, length in (("stem_channels", 2), ("stage_channels", 3), ("stage_strides", 3)):
            if len(getattr(self, name)) != length:
                raise SegZooError(f"Fast-SCNN: {name}={getattr(self, name)} must be {length} numbers")
        if max(self.stage_strides) > 2:
            raise SegZooError(f"Fast-SCNN: stage_strides={self.stage_strides} must be 1 or 2")
        if self.coarse_channels % self.fused_channels:
            raise SegZooError(
                f"Fast-SCNN: coarse_channels={self.coarse_channels} must be a multiple of "
                f"fused_channels={self.fused_channels}"
            )

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            stem_channels=[4, 8], fine_channels=8, stage_channels=[8, 8, 32], coarse_channels=16, fused_channels=16
        )


class FastSCNNBackbone(Backbone):
    """Returns "fine" (stride 8), "coarse" (32 with the default strides) and "fused" (8).

    ``pixel_values`` is (B, num_channels, H, W).
    """

    config: FastSCNNConfig
    _no_split_modules = ["InvertedResidual"]

    def __init__(self, config: FastSCNNConfig):
        super().__init__(config)
        first, second = config.stem_channels
        separable = config.block_options | {"activation": "relu"}
        separable["depthwise"] = {"stride": 2, "activation": config.depthwise_activation}
        self.stem = nn.Sequential(
            config.block(config.num_channels, first, 3, stride=2, padding=1),
            SeparableConv(first, second, 3, padding=1, **separable),
            SeparableConv(second, config.fine_channels, 3, padding=1, **separable),
        )
        self.stages = nn.ModuleList()
        channels = config.fine_channels
        for width, stride in zip(config.stage_channels, config.stage_strides, strict=True):
            stage = nn.Sequential()
            for block in range(BLOCKS):
                stage.append(
                    InvertedResidual(
                        config,
                        channels,
                        width,
                        expansion=EXPANSION,
                        stride=1 if block else stride,
                        dilation=1,
                    )
                )
                channels = width
            self.stages.append(stage)
        width, options = channels // len(POOL_SCALES), config.block_options
        options["align_corners"] = config.align_corners
        self.pyramid = PyramidPooling(channels, width, POOL_SCALES, **options)
        joined = channels + len(POOL_SCALES) * width
        self.context_conv = FusionConv(joined, config.coarse_channels, 3, padding=1, **options)
        fused = config.fused_channels
        self.coarse_conv = nn.Sequential(
            config.block(config.coarse_channels, fused, 3, padding=1, groups=fused),
            config.block(fused, fused, 1, activation=None),
        )
        self.fine_conv = config.block(config.fine_channels, fused, 1, activation=None)
        self.num_features = [config.fine_channels, config.coarse_channels, fused]
        self.post_init()

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        fine = x = self.stem(pixel_values)
        for stage in self.stages:
            x = stage(x)
        coarse = self.context_conv(self.pyramid(x))
        x = self.coarse_conv(resize(coarse, fine.shape[-2:], align_corners=self.config.align_corners))
        return [fine, coarse, F.relu(x + self.fine_conv(fine), inplace=True)]


register_backbone(FastSCNNConfig, FastSCNNBackbone, variants=VARIANTS)
