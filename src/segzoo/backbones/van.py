"""VAN: convolutions of large reach, taken apart into cheap ones, say how much each pixel of a map counts.

"Visual Attention Network" (Guo et al., 2022), https://arxiv.org/abs/2202.09741; the numbers are those of its authors'
segmentation code (https://github.com/Visual-Attention-Network/VAN-Segmentation).
"""

from typing import Self

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.auto import register_backbone
from segzoo.backbones.base import PatchPyramidBackbone, PatchPyramidConfig
from segzoo.base import BatchNormConfig, Ints, strict
from segzoo.layers import BatchNorm2d, ChannelNorm, DropPath
from segzoo.layers.conv import Conv2d
from segzoo.layers.vit import drop_path_rates

_WIDE = {"channels": [64, 128, 320, 512], "drop_path_rate": 0.1}

# Keyword arguments of VANConfig.
VARIANTS = {
    "van_b0": {"drop_path_rate": 0.1},
    "van_b1": {**_WIDE, "depths": [2, 2, 4, 2]},
    "van_b2": {**_WIDE, "depths": [3, 3, 12, 3]},
    "van_b3": {**_WIDE, "depths": [3, 5, 27, 3]},
}


@strict
class VANConfig(BatchNormConfig, PatchPyramidConfig):
    """Options of ``VANBackbone``; the defaults are VAN-B0's. Lists have an entry for each stage.

    Args:
        channels: widths of the stages.
        depths: numbers of blocks.
        mlp_ratios: hidden widths of the feed-forward parts, relative to ``channels``.
        norm_eps: epsilon of the batch norms, in front of the branches and after the patches.
        norm_momentum: share of the new batch in their running statistics.
        map_norm_eps: epsilon of the layer norms after the stages.
        layer_scale: initial value of the learned scales of the residual branches.
        dropout: probability of dropping a value in the feed-forward parts.
        drop_path_rate: probability of dropping a residual branch in the last block; it grows linearly from 0 in the
            first.

    Raises:
        SegZooError: the lists differ in length.
    """

    model_type = "segzoo_van"
    family = "VAN"

    channels: Ints = (32, 64, 160, 256)
    depths: Ints = (3, 3, 5, 2)
    mlp_ratios: list[float | int] | tuple[float | int, ...] = (8, 8, 4, 4)
    norm_eps: float = 1e-5
    map_norm_eps: float = 1e-5
    layer_scale: float = 1e-2
    dropout: float = 0.0
    drop_path_rate: float = 0.0

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            channels=[8, 8, 16, 16], depths=[1, 1, 2, 1], mlp_ratios=[2, 2, 2, 2], layer_scale=0.5, drop_path_rate=0.1
        )


class LargeKernelAttention(nn.Module):
    """A map times what a depthwise 5x5, a dilated depthwise 7x7 and a 1x1 convolution make of it; both after a GELU."""

    def __init__(self, channels: int):
        super().__init__()
        self.proj1 = Conv2d(channels, channels, 1)
        self.activation = nn.GELU()
        self.near = Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.far = Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.mix = Conv2d(channels, channels, 1)
        self.proj2 = Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), with a shortcut of its own."""
        values = self.activation(self.proj1(x))
        return self.proj2(values * self.mix(self.far(self.near(values)))) + x


class ConvFeedForward(nn.Module):
    """Two 1x1 convolutions with a depthwise 3x3 one and a GELU between them."""

    def __init__(self, channels: int, hidden: int, dropout: float):
        super().__init__()
        self.fc1 = Conv2d(channels, hidden, 1)
        self.depthwise_conv = Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.activation = nn.GELU()
        self.fc2 = Conv2d(hidden, channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.dropout(self.activation(self.depthwise_conv(self.fc1(x))))))


class VANBlock(GradientCheckpointingLayer):
    """Large-kernel attention and a feed-forward part, each after a batch norm and in a scaled residual branch.

    Args:
        config: the backbone's config.
        stage: the stage, counted from 0.
        drop_path: probability of dropping a branch, while training.
    """

    def __init__(self, config: VANConfig, stage: int, drop_path: float):
        super().__init__()
        channels = config.channels[stage]
        self.layer_scale = config.layer_scale
        norm = {"eps": config.norm_eps, "momentum": config.norm_momentum}
        self.norm1 = BatchNorm2d(channels, **norm)
        self.attention = LargeKernelAttention(channels)
        self.norm2 = BatchNorm2d(channels, **norm)
        self.mlp = ConvFeedForward(channels, int(channels * config.mlp_ratios[stage]), config.dropout)
        self.drop_path = DropPath(drop_path)
        self.scale1 = nn.Parameter(torch.full((channels,), config.layer_scale))
        self.scale2 = nn.Parameter(torch.full((channels,), config.layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = x + self.drop_path(self.attention(self.norm1(x)) * self.scale1[:, None, None])
        return x + self.drop_path(self.mlp(self.norm2(x)) * self.scale2[:, None, None])


class VANStage(nn.Module):
    """Overlapping patches of a map, and the blocks over them.

    Args:
        config: the backbone's config.
        stage: the stage, counted from 0.
        drop_paths: probability of dropping a branch, for each block.
    """

    def __init__(self, config: VANConfig, stage: int, drop_paths: list[float]):
        super().__init__()
        width, patch, stride = config.channels[stage], 3 if stage else 7, 2 if stage else 4
        before = config.channels[stage - 1] if stage else config.num_channels
        self.patch_embedding = Conv2d(before, width, patch, stride=stride, padding=patch // 2)
        self.patch_norm = BatchNorm2d(width, eps=config.norm_eps, momentum=config.norm_momentum)
        self.blocks = nn.Sequential(*(VANBlock(config, stage, rate) for rate in drop_paths))
        self.norm = ChannelNorm(width, eps=config.map_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """A map (B, C, H, W) -> a map of the stage's width, at a resolution lower by the stage's stride."""
        return self.norm(self.blocks(self.patch_norm(self.patch_embedding(x))))


class VANBackbone(PatchPyramidBackbone):
    """Returns the maps of the stages that ``config.out_features`` names, from fine to coarse.

    ``pixel_values`` is (B, num_channels, H, W); the maps have strides 4, 8, 16 and 32. As in MiT, the norm of a stage's
    map stands in the way to the next stage.
    """

    config: VANConfig
    _no_split_modules = ["VANBlock"]

    def __init__(self, config: VANConfig):
        super().__init__(config)
        rates, self.stages = iter(drop_path_rates(config.drop_path_rate, sum(config.depths))), nn.ModuleList()
        for stage, depth in enumerate(config.depths):
            self.stages.append(VANStage(config, stage, [next(rates) for _ in range(depth)]))
        self.num_features = list(config.channels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VANBlock):
            init.constant_(module.scale1, module.layer_scale)
            init.constant_(module.scale2, module.layer_scale)


register_backbone(VANConfig, VANBackbone, variants=VARIANTS)
