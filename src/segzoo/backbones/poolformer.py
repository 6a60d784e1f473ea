"""PoolFormer: a transformer's blocks in which neighbourhoods are averaged where others attend.

"MetaFormer Is Actually What You Need for Vision" (Yu et al., 2022), https://arxiv.org/abs/2111.11418; the numbers are
those of its authors' code (https://github.com/sail-sg/poolformer) and of mmpretrain's ``PoolFormer``.
"""

from typing import Self

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.auto import register_backbone
from segzoo.backbones.base import Backbone, PatchPyramidConfig
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.layers import DropPath, GroupNorm
from segzoo.layers.conv import Conv2d
from segzoo.layers.vit import drop_path_rates

_MEDIUM = {"channels": [96, 192, 384, 768], "layer_scale": 1e-6}

# Keyword arguments of PoolFormerConfig.
VARIANTS = {
    "poolformer_s12": {},
    "poolformer_s24": {"depths": [4, 4, 12, 4]},
    "poolformer_s36": {"depths": [6, 6, 18, 6], "layer_scale": 1e-6},
    "poolformer_m36": {"depths": [6, 6, 18, 6], **_MEDIUM},
    "poolformer_m48": {"depths": [8, 8, 24, 8], **_MEDIUM},
}


@strict
class PoolFormerConfig(PatchPyramidConfig):
    """Options of ``PoolFormerBackbone``; the defaults are PoolFormer-S12's. Lists have an entry for each stage.

    Args:
        channels: widths of the stages.
        depths: numbers of blocks.
        mlp_ratios: hidden widths of the feed-forward parts, relative to ``channels``.
        pool_size: side of the neighbourhoods that are averaged, in tokens; an odd number.
        patch_sizes: sides, in pixels of the stage's input, of the patches that become its tokens.
        strides: steps between these patches.
        paddings: zeros around the stage's input, in its pixels.
        layer_scale: initial value of the learned scales of the residual branches; None for no scales.
        norm_eps: epsilon of the norms.
        dropout: probability of dropping a value in the feed-forward parts.
        drop_path_rate: probability of dropping a residual branch in the last block; it grows linearly from 0 in the
            first.

    Raises:
        SegZooError: the lists differ in length, or ``pool_size`` is even.
    """

    model_type = "segzoo_poolformer"
    family = "PoolFormer"
    per_stage = ("depths", "mlp_ratios", "patch_sizes", "strides", "paddings")

    channels: Ints = (64, 128, 320, 512)
    depths: Ints = (2, 2, 6, 2)
    mlp_ratios: list[float | int] | tuple[float | int, ...] = (4, 4, 4, 4)
    pool_size: int = 3
    patch_sizes: Ints = (7, 3, 3, 3)
    strides: Ints = (4, 2, 2, 2)
    paddings: list[int] | tuple[int, ...] = (2, 1, 1, 1)
    layer_scale: float | None = 1e-5
    norm_eps: float = 1e-5
    dropout: float = 0.0
    drop_path_rate: float = 0.0

    def check(self) -> None:
        """Every list has an entry for each stage, and neighbourhoods have a middle."""
        super().check()
        if self.pool_size % 2 == 0:
            raise SegZooError(f"PoolFormer: pool_size={self.pool_size} must be odd")

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            channels=[8, 8, 16, 16], depths=[1, 1, 2, 1], mlp_ratios=[2, 2, 2, 2], layer_scale=0.5, drop_path_rate=0.05
        )


class PoolFormerBlock(GradientCheckpointingLayer):
    """The difference of a map's neighbourhoods from itself, and a feed-forward part, each after a norm.

    Args:
        config: the backbone's config.
        stage: the stage, counted from 0.
        drop_path: probability of dropping a branch, while training.
    """

    def __init__(self, config: PoolFormerConfig, stage: int, drop_path: float):
        super().__init__()
        channels, size = config.channels[stage], config.pool_size
        hidden = int(channels * config.mlp_ratios[stage])
        self.layer_scale = config.layer_scale
        self.norm1 = GroupNorm(channels, eps=config.norm_eps, groups=1)
        self.pool = nn.AvgPool2d(size, stride=1, padding=size // 2, count_include_pad=False)
        self.norm2 = GroupNorm(channels, eps=config.norm_eps, groups=1)
        self.fc1 = Conv2d(channels, hidden, 1)
        self.activation = nn.GELU()
        self.fc2 = Conv2d(hidden, channels, 1)
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)
        self.scale1 = self.scale2 = None
        if config.layer_scale is not None:
            self.scale1 = nn.Parameter(torch.full((channels,), config.layer_scale))
            self.scale2 = nn.Parameter(torch.full((channels,), config.layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        branch = self.norm1(x)
        branch = self.pool(branch) - branch
        x = x + self.drop_path(branch if self.scale1 is None else branch * self.scale1[:, None, None])
        branch = self.dropout(self.fc2(self.dropout(self.activation(self.fc1(self.norm2(x))))))
        return x + self.drop_path(branch if self.scale2 is None else branch * self.scale2[:, None, None])


class PoolFormerBackbone(Backbone):
    """Returns the maps of the stages that ``config.out_features`` names, from fine to coarse, each normalised.

    ``pixel_values`` is (B, num_channels, H, W); the maps have strides 4, 8, 16 and 32.
    """

    config: PoolFormerConfig
    _no_split_modules = ["PoolFormerBlock"]

    def __init__(self, config: PoolFormerConfig):
        super().__init__(config)
        rates = iter(drop_path_rates(config.drop_path_rate, sum(config.depths)))
        widths = [config.num_channels, *config.channels]
        self.patch_embeddings, self.stages = nn.ModuleList(), nn.ModuleList()
        for stage, depth in enumerate(config.depths):
            self.patch_embeddings.append(
                Conv2d(
                    widths[stage],
                    widths[stage + 1],
                    config.patch_sizes[stage],
                    stride=config.strides[stage],
                    padding=config.paddings[stage],
                )
            )
            self.stages.append(nn.Sequential(*(PoolFormerBlock(config, stage, next(rates)) for _ in range(depth))))
        channels = dict(zip(config.stage_names, config.channels, strict=True))
        self.norms = nn.ModuleDict(
            {name: GroupNorm(channels[name], eps=config.norm_eps, groups=1) for name in config.out_features}
        )
        self.num_features = list(config.channels)
        self.post_init()

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        x, maps = pixel_values, []
        for embed, stage in zip(self.patch_embeddings, self.stages, strict=True):
            x = stage(embed(x))
            maps.append(x)
        return maps

    def finish(self, feature_map: Tensor, name: str) -> Tensor:
        return self.norms[name](feature_map) if name in self.norms else feature_map

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PoolFormerBlock):
            for layer in (module.fc1, module.fc2):
                init.trunc_normal_(layer.weight, std=0.02)
            if module.scale1 is not None:
                init.constant_(module.scale1, module.layer_scale)
                init.constant_(module.scale2, module.layer_scale)


register_backbone(PoolFormerConfig, PoolFormerBackbone, variants=VARIANTS)
