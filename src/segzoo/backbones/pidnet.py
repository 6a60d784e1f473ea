"""PIDNet: branches for details, context and boundaries; the boundaries say where details count.

"PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers" (Xu et al., 2022),
https://arxiv.org/abs/2206.02066; the numbers are those of mmsegmentation's ``PIDNet``
(https://github.com/open-mmlab/mmsegmentation), which takes sides that are multiples of 8 only; here any will do.
"""

from typing import Self

from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.base import BatchNormConfig, strict
from segzoo.errors import SegZooError
from segzoo.layers import (
    ContextPooling,
    ConvNormAct,
    NormActConv,
    ResidualBlock,
    residual_blocks,
    residual_stem,
    resize,
    set_norm_momentum,
)

# Keyword arguments of PIDNetConfig.
VARIANTS = {
    "pidnet_s": {},
    "pidnet_m": {"channels": 64},
    "pidnet_l": {"channels": 64, "pooling_channels": 112, "stem_blocks": 3, "branch_blocks": 4, "light": False},
}


@strict
class PIDNetConfig(BatchNormConfig, BackboneConfig):
    """Options of ``PIDNetBackbone``; the defaults are PIDNet-S's. All norms are batch norms.

    Args:
        channels: width of the stem, which all other widths are multiples of.
        norm_momentum: share of the new batch in the running statistics of the norms, but for those of the pyramid pooling,
            of the attention and of the branches of residual blocks.
        pooling_channels: width of each projection in the pyramid pooling of the context.
        stem_blocks: residual blocks of a stage of the stem and of the details.
        branch_blocks: residual blocks of the first two stages of the context.
        light: the branch of boundaries is narrow, the pooling parallel and the last fusion made of 1x1 convolutions,
            as in the small and the medium network.
        align_corners: whether resizing the context to the other branches aligns the centres of the corner pixels.

    Raises:
        SegZooError: a stage has no block.
    """

    model_type = "segzoo_pidnet"

    channels: int = 32
    pooling_channels: int = 96
    stem_blocks: int = 2
    branch_blocks: int = 3
    light: bool = True
    align_corners: bool = False

    def check(self) -> None:
        """Every stage has a block."""
        super().check()
        if min(self.stem_blocks, self.branch_blocks) < 1:
            raise SegZooError(
                f"PIDNet: stem_blocks={self.stem_blocks} and branch_blocks={self.branch_blocks} must be 1 at least"
            )

    @property
    def stage_names(self) -> list[str]:
        """The details after their first fusion and the boundaries, which the training looks at, and the fused map."""
        return ["details", "boundaries", "fused"]

    @classmethod
    def tiny(cls) -> Self:
        return cls(channels=8, pooling_channels=8, stem_blocks=1, branch_blocks=1)


class PixelAttention(nn.Module):
    """Replaces details by context where both agree, as a sigmoid of their projections' product says."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.context = ConvNormAct(in_channels, channels, 1, activation=None)
        self.details = ConvNormAct(in_channels, channels, 1, activation=None)

    def forward(self, details: Tensor, context: Tensor) -> Tensor:
        """Maps (B, C, H, W) and, coarser, (B, C, h, w) -> (B, C, H, W)."""
        size = details.shape[-2:]
        agreement = (self.details(details) * resize(self.context(context), size)).sum(1, keepdim=True).sigmoid()
        return agreement * resize(context, size) + (1 - agreement) * details


class BoundaryFusion(nn.Module):
    """Details at boundaries and context elsewhere, convolved."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = NormActConv(channels, channels, 3, padding=1)

    def forward(self, details: Tensor, context: Tensor, boundaries: Tensor) -> Tensor:
        gate = boundaries.sigmoid()
        return self.conv(gate * details + (1 - gate) * context)


class LightBoundaryFusion(nn.Module):
    """Details plus context away from boundaries, context plus details at boundaries; both projected and added."""

    def __init__(self, channels: int):
        super().__init__()
        self.details = ConvNormAct(channels, channels, 1, activation=None)
        self.context = ConvNormAct(channels, channels, 1, activation=None)

    def forward(self, details: Tensor, context: Tensor, boundaries: Tensor) -> Tensor:
        gate = boundaries.sigmoid()
        return self.details((1 - gate) * context + details) + self.context(context + gate * details)


class PIDNetBackbone(Backbone):
    """Returns the details, the boundaries and the fused map, all at stride 8.

    ``pixel_values`` is (B, num_channels, H, W).
    """

    config: PIDNetConfig
    _no_split_modules = ["ResidualBlock"]

    def __init__(self, config: PIDNetConfig):
        super().__init__(config)
        width, twice = config.channels, 2 * config.channels
        self.stem = residual_stem(config.num_channels, width, config.stem_blocks)
        self.context = nn.ModuleList(
            [
                residual_blocks(twice, 4 * width, config.branch_blocks, stride=2),
                residual_blocks(4 * width, 8 * width, config.branch_blocks, stride=2),
                residual_blocks(8 * width, 8 * width, 2, stride=2, bottleneck=True),
            ]
        )
        self.details = nn.ModuleList(
            [
                residual_blocks(twice, twice, config.stem_blocks),
                residual_blocks(twice, twice, config.stem_blocks),
                residual_blocks(twice, twice, 1, bottleneck=True),
            ]
        )
        self.up = nn.ModuleList(ConvNormAct(n * width, twice, 1, activation=None) for n in (4, 8))
        self.attention = nn.ModuleList(PixelAttention(twice, width) for _ in range(2))
        narrow = width if config.light else twice
        self.boundaries = nn.ModuleList(
            [
                ResidualBlock(twice, narrow, bottleneck=False, stride=1, activate=False),
                ResidualBlock(
                    narrow, width if config.light else twice, bottleneck=config.light, stride=1, activate=False
                ),
                ResidualBlock(twice, twice, bottleneck=True, stride=1, activate=False),
            ]
        )
        self.differences = nn.ModuleList(
            ConvNormAct(n * width, out, 3, padding=1, activation=None) for n, out in ((4, narrow), (8, twice))
        )
        self.pooling = ContextPooling(16 * width, config.pooling_channels, 4 * width, parallel=config.light)
        self.fusion = (LightBoundaryFusion if config.light else BoundaryFusion)(4 * width)
        # The original makes all other layers without its options of norms.
        shortcuts = [block.shortcut for block in self.modules() if isinstance(block, ResidualBlock)]
        set_norm_momentum((*self.stem[:2], *shortcuts, self.up, self.differences, self.fusion), config.norm_momentum)
        self.num_features = [twice, twice, 4 * width]
        self.post_init()

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        context = details = boundaries = self.stem(pixel_values)
        all_details, all_boundaries = [], []
        for i in range(2):
            context = F.relu(self.context[i](context))
            details, boundaries = self.details[i](details), self.boundaries[i](boundaries)
            details = self.attention[i](details, self.up[i](context))
            boundaries = boundaries + self._grow(self.differences[i](context), boundaries)
            all_details.append(details)
            all_boundaries.append(boundaries)
            details, boundaries = F.relu(details), F.relu(boundaries)
        context = self._grow(self.pooling(self.context[2](context)), details)
        fused = self.fusion(self.details[2](details), context, self.boundaries[2](boundaries))
        return [all_details[0], all_boundaries[1], fused]

    def _grow(self, context: Tensor, finer: Tensor) -> Tensor:
        return resize(context, finer.shape[-2:], align_corners=self.config.align_corners)


register_backbone(PIDNetConfig, PIDNetBackbone, variants=VARIANTS)
