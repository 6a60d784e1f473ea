"""DDRNet: a branch of one resolution for details and one for context, which exchange sums.

"Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes" (Hong et al., 2021),
https://arxiv.org/abs/2101.06085; the numbers are those of mmsegmentation's ``DDRNet``
(https://github.com/open-mmlab/mmsegmentation), which takes sides that are multiples of 8 only; here any will do.
"""

from typing import Self

from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, BackboneConfig
from segzoo.base import BatchNormConfig, strict
from segzoo.layers import ContextPooling, ConvNormAct, residual_blocks, residual_stem, resize, set_norm_momentum

# Keyword arguments of DDRNetConfig.
VARIANTS = {"ddrnet_23_slim": {}, "ddrnet_23": {"channels": 64}}


@strict
class DDRNetConfig(BatchNormConfig, BackboneConfig):
    """Options of ``DDRNetBackbone``; the defaults are DDRNet-23-slim's. All norms are batch norms.

    Args:
        channels: width of the stem, which all other widths are multiples of.
        norm_momentum: share of the new batch in the running statistics of the norms, but for those of the pyramid pooling
            and of the branches of first residual blocks.
        pooling_channels: width of each projection in the pyramid pooling of the context.
        align_corners: whether resizing the context to the details aligns the centres of the corner pixels.
    """

    model_type = "segzoo_ddrnet"

    channels: int = 32
    pooling_channels: int = 128
    align_corners: bool = False

    @property
    def stage_names(self) -> list[str]:
        """The details after their first exchange, which the training looks at, and the sum of both branches."""
        return ["details", "fused"]

    @classmethod
    def tiny(cls) -> Self:
        return cls(channels=8, pooling_channels=8)


class DDRNetBackbone(Backbone):
    """Returns the details and the sum of both branches, both at stride 8.

    ``pixel_values`` is (B, num_channels, H, W).
    """

    config: DDRNetConfig
    _no_split_modules = ["ResidualBlock"]

    def __init__(self, config: DDRNetConfig):
        super().__init__(config)
        width = config.channels
        self.stem = residual_stem(config.num_channels, width, 2)
        self.context = nn.ModuleList(
            [
                residual_blocks(2 * width, 4 * width, 2, stride=2),
                residual_blocks(4 * width, 8 * width, 2, stride=2),
                residual_blocks(8 * width, 8 * width, 1, stride=2, bottleneck=True),
            ]
        )
        self.details = nn.ModuleList(
            [
                residual_blocks(2 * width, 2 * width, 2),
                residual_blocks(2 * width, 2 * width, 2),
                residual_blocks(2 * width, 2 * width, 1, bottleneck=True),
            ]
        )
        self.up = nn.ModuleList(ConvNormAct(n * width, 2 * width, 1, activation=None) for n in (4, 8))
        self.down = nn.ModuleList(
            [
                nn.Sequential(self._halve(2 * width, activation=None)),
                nn.Sequential(self._halve(2 * width, activation="relu"), self._halve(4 * width, activation=None)),
            ]
        )
        self.pooling = ContextPooling(16 * width, config.pooling_channels, 4 * width, parallel=False)
        # The original makes all other layers without its options of norms.
        chains = (self.stem[2], self.stem[4], *self.context, *self.details)
        blocks = [layer for chain in chains for layer in (chain[0].shortcut, *chain[1:])]
        set_norm_momentum((*self.stem[:2], *blocks, self.up, self.down), config.norm_momentum)
        self.num_features = [2 * width, 4 * width]
        self.post_init()

    @staticmethod
    def _halve(channels: int, *, activation: str | None) -> ConvNormAct:
        return ConvNormAct(channels, 2 * channels, 3, stride=2, padding=1, activation=activation)

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        context = details = self.stem(pixel_values)
        exchanged = []
        for i in range(2):
            context, details = self.context[i](context), self.details[i](details)
            active = F.relu(context)
            context = context + self.down[i](F.relu(details))
            details = details + self._grow(self.up[i](active), details)
            exchanged.append(details)
            context, details = F.relu(context), F.relu(details)
        details = self.details[2](details)
        context = self.pooling(self.context[2](context))
        return [exchanged[0], details + self._grow(context, details)]

    def _grow(self, context: Tensor, details: Tensor) -> Tensor:
        return resize(context, details.shape[-2:], align_corners=self.config.align_corners)


register_backbone(DDRNetConfig, DDRNetBackbone, variants=VARIANTS)
