"""MSCAN, SegNeXt's backbone: maps are weighted with what depthwise strips of several lengths find around each pixel.

"SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation" (Guo et al., 2022),
https://arxiv.org/abs/2209.08575. The numbers are those of ``MSCAN`` of its authors
(https://github.com/Visual-Attention-Network/SegNeXt) and of mmsegmentation 1.x, which compute the same.
"""

from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.auto import register_backbone
from segzoo.backbones.base import PatchPyramidBackbone, PatchPyramidConfig
from segzoo.base import Activation, ConvBlockConfig, Ints, strict
from segzoo.errors import SegZooError
from segzoo.layers import ChannelNorm, DropPath
from segzoo.layers.conv import Conv2d, build_norm
from segzoo.layers.vit import drop_path_rates

_WIDE = {"channels": [64, 128, 320, 512]}

# Keyword arguments of MSCANConfig.
VARIANTS = {
    "mscan_t": {"drop_path_rate": 0.1},
    "mscan_s": {**_WIDE, "depths": [2, 2, 4, 2], "drop_path_rate": 0.1},
    "mscan_b": {**_WIDE, "depths": [3, 3, 12, 3], "drop_path_rate": 0.1},
    "mscan_l": {**_WIDE, "depths": [3, 5, 27, 3], "drop_path_rate": 0.3},
}


@strict
class MSCANConfig(ConvBlockConfig, PatchPyramidConfig):
    """Options of ``MSCANBackbone``, besides those of ``ConvBlockConfig``; the defaults are MSCAN-T's.

    Args:
        channels: width of each stage; the first one's is even.
        depths: number of blocks of each stage.
        mlp_ratios: hidden widths of the feed-forward parts, relative to ``channels``.
        kernel_sizes: odd sides, in pixels, of the square kernel, and lengths of the strips that read its result.
        dropout: probability of dropping a value in the feed-forward parts.
        drop_path_rate: probability of dropping a residual branch in the last block; it grows linearly from 0 in the
            first.

    Raises:
        SegZooError: there is no stage, the lists of the stages differ in length, or a kernel has no middle.
    """

    model_type = "segzoo_mscan"
    family = "MSCAN"

    activation: Activation | None = "gelu"
    channels: Ints = (32, 64, 160, 256)
    depths: Ints = (3, 3, 5, 2)
    mlp_ratios: list[float | int] | tuple[float | int, ...] = (8, 8, 4, 4)
    kernel_sizes: Ints = (5, 7, 11, 21)
    dropout: float = 0.0
    drop_path_rate: float = 0.0

    def check(self) -> None:
        """Each stage has its width, depth and ratio, and kernels have a middle."""
        super().check()
        if not 1 <= len(self.channels) <= 8:
            raise SegZooError(f"MSCAN: channels={self.channels} need one entry for each of 1 to 8 stages")
        if self.channels[0] % 2:
            raise SegZooError(f"MSCAN: channels={self.channels} begin with an odd width, of which the stem has half")
        if not self.kernel_sizes or any(size % 2 == 0 or not 1 <= size <= 255 for size in self.kernel_sizes):
            raise SegZooError(f"MSCAN: kernel_sizes={self.kernel_sizes} must be odd numbers, 255 at most")

    @classmethod
    def tiny(cls) -> Self:
        return cls(channels=[8, 12, 16, 24], depths=[1, 1, 1, 1], mlp_ratios=[2, 2, 2, 2], drop_path_rate=0.1)


class MultiScaleGate(nn.Module):
    """Multiplies a map with what a square kernel, and pairs of strips behind it, find around each pixel.

    Args:
        channels: of the map.
        kernel_sizes: the square's side and the strips' lengths.
    """

    def __init__(self, channels: int, kernel_sizes: Ints):
        super().__init__()
        side, *lengths = kernel_sizes
        self.square = nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels)
        self.strips = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, (1, length), padding=(0, length // 2), groups=channels),
                nn.Conv2d(channels, channels, (length, 1), padding=(length // 2, 0), groups=channels),
            )
            for length in lengths
        )
        self.mix = Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = self.square(x)
        total = found
        for strip in self.strips:
            total = total + strip(found)
        return self.mix(total) * x


class ConvAttention(nn.Module):
    """A gate of several scales between two pointwise convolutions, in a residual branch of its own."""

    def __init__(self, config: MSCANConfig, channels: int):
        super().__init__()
        self.proj1 = Conv2d(channels, channels, 1)
        self.activation = config.make_activation()
        self.gate = MultiScaleGate(channels, config.kernel_sizes)
        self.proj2 = Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj2(self.gate(self.activation(self.proj1(x)))) + x


class ConvFeedForward(nn.Module):
    """Two pointwise convolutions of a map, with a depthwise 3x3 one between them."""

    def __init__(self, config: MSCANConfig, channels: int, hidden: int):
        super().__init__()
        self.fc1 = Conv2d(channels, hidden, 1)
        self.depthwise_conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.activation = config.make_activation()
        self.fc2 = Conv2d(hidden, channels, 1)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.activation(self.depthwise_conv(self.fc1(x))))
        return self.dropout(self.fc2(x))


class MSCANBlock(GradientCheckpointingLayer):
    """Convolutional attention and a feed-forward part, each after a norm and in a scaled residual branch.

    Args:
        config: the backbone's config.
        stage: the stage, counted from 0.
        drop_path: probability of dropping a branch, while training.
    """

    initial_scale: ClassVar[float] = 1e-2

    def __init__(self, config: MSCANConfig, stage: int, drop_path: float):
        super().__init__()
        channels = config.channels[stage]
        norm = {"eps": config.norm_eps, "momentum": config.norm_momentum}
        self.norm1 = build_norm(config.norm, channels, **norm)
        self.attention = ConvAttention(config, channels)
        self.norm2 = build_norm(config.norm, channels, **norm)
        self.mlp = ConvFeedForward(config, channels, int(channels * config.mlp_ratios[stage]))
        self.scale1 = nn.Parameter(torch.full((channels,), self.initial_scale))
        self.scale2 = nn.Parameter(torch.full((channels,), self.initial_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.scale1[:, None, None] * self.attention(self.norm1(x)))
        return x + self.drop_path(self.scale2[:, None, None] * self.mlp(self.norm2(x)))


class MSCANStage(nn.Module):
    """The step down to a resolution, of 4 at first and then of 2, and the blocks there.

    Args:
        config: the backbone's config.
        stage: the stage, counted from 0.
        drop_paths: probability of dropping a branch, for each block.
    """

    def __init__(self, config: MSCANConfig, stage: int, drop_paths: list[float]):
        super().__init__()
        width = config.channels[stage]
        step = {"stride": 2, "padding": 1, "bias": True}
        if stage:
            self.embedding = nn.Sequential(config.block(config.channels[stage - 1], width, 3, activation=None, **step))
        else:
            self.embedding = nn.Sequential(
                config.block(config.num_channels, width // 2, 3, **step),
                config.block(width // 2, width, 3, activation=None, **step),
            )
        self.blocks = nn.ModuleList(MSCANBlock(config, stage, rate) for rate in drop_paths)
        self.norm = ChannelNorm(width, eps=1e-5)  # whatever the other norms are

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class MSCANBackbone(PatchPyramidBackbone):
    """Returns the maps of the stages that ``config.out_features`` names, from fine to coarse.

    ``pixel_values`` is (B, num_channels, H, W); the maps have strides 4, 8, 16 and 32. A stage's map is normalised on
    its way to the next stage too.
    """

    config: MSCANConfig
    _no_split_modules = ["MSCANBlock"]

    def __init__(self, config: MSCANConfig):
        super().__init__(config)
        rates = iter(drop_path_rates(config.drop_path_rate, sum(config.depths)))
        self.stages = nn.ModuleList(
            MSCANStage(config, stage, [next(rates) for _ in range(depth)]) for stage, depth in enumerate(config.depths)
        )
        self.num_features = list(config.channels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MSCANBlock):
            init.constant_(module.scale1, module.initial_scale)
            init.constant_(module.scale2, module.initial_scale)


register_backbone(MSCANConfig, MSCANBackbone, variants=VARIANTS)
