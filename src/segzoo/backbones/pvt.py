"""PVT: a pyramid of transformer stages with learned positions, whose patches attend to a coarser grid.

"Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions" (Wang et al., 2021),
https://arxiv.org/abs/2102.12122; the numbers are those of its authors' segmentation code
(https://github.com/whai362/PVT). PVT v2 has no positions: it is a `MiTBackbone`.
"""

from typing import Self

import torch
from torch import Tensor, nn
from transformers import initialization as init

from segzoo.auto import register_backbone
from segzoo.backbones.base import PatchPyramidBackbone, PatchPyramidConfig
from segzoo.base import Ints, strict
from segzoo.compat import is_exporting
from segzoo.errors import SegZooError
from segzoo.layers import SpatialReductionAttention, resize, to_map, to_tokens
from segzoo.layers.vit import ViTBlock, drop_path_rates

# Keyword arguments of PVTConfig.
VARIANTS = {
    "pvt_tiny": {"drop_path_rate": 0.1},
    "pvt_small": {"depths": [3, 4, 6, 3], "drop_path_rate": 0.1},
    "pvt_medium": {"depths": [3, 4, 18, 3], "drop_path_rate": 0.1},
    "pvt_large": {"depths": [3, 8, 27, 3], "drop_path_rate": 0.1},
}


@strict
class PVTConfig(PatchPyramidConfig):
    """Options of ``PVTBackbone``; the defaults are PVT-Tiny's. Lists have an entry for each stage.

    Args:
        channels: widths of the stages.
        depths: numbers of blocks.
        num_heads: numbers of attention heads, divisors of the widths.
        patch_sizes: sides, in pixels of the stage's input, of the patches that become its tokens.
        reductions: how much coarser the grid is that patches attend to.
        mlp_ratios: hidden widths of the feed-forward parts, relative to ``channels``.
        image_size: side of the images that the positions were learned for, in pixels; those of others are resized.
        qkv_bias: queries, keys and values have a bias.
        norm_eps: epsilon of the norms in front of the branches.
        patch_norm_eps: epsilon of the norms of patches and of the coarser grids.
        dropout: probability of dropping a value of positions, after attention and in the feed-forward parts.
        attention_dropout: probability of dropping an attention weight.
        drop_path_rate: probability of dropping a residual branch in the last block; it grows linearly from 0 in the
            first.

    Raises:
        SegZooError: the lists differ in length, a width does not divide into its heads, or the image size not into the
            patches.
    """

    model_type = "segzoo_pvt"
    family = "PVT"
    per_stage = ("depths", "num_heads", "patch_sizes", "reductions", "mlp_ratios")

    channels: Ints = (64, 128, 320, 512)
    depths: Ints = (2, 2, 2, 2)
    num_heads: Ints = (1, 2, 5, 8)
    patch_sizes: Ints = (4, 2, 2, 2)
    reductions: Ints = (8, 4, 2, 1)
    mlp_ratios: list[float | int] | tuple[float | int, ...] = (8, 8, 4, 4)
    image_size: int = 224
    qkv_bias: bool = True
    norm_eps: float = 1e-6
    patch_norm_eps: float = 1e-5
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path_rate: float = 0.0

    def check(self) -> None:
        """Every list has an entry for each stage, and what is divided divides."""
        super().check()
        self.check_heads(self.num_heads)
        side = self.image_size
        for patch in self.patch_sizes:
            if side % patch:
                raise SegZooError(
                    f"PVT: image_size={self.image_size} does not divide into patches of {self.patch_sizes}"
                )
            side //= patch

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            channels=[8, 8, 16, 16],
            depths=[1, 1, 2, 1],
            num_heads=[1, 1, 2, 2],
            mlp_ratios=[2, 2, 2, 2],
            image_size=64,
            drop_path_rate=0.1,
        )


class PVTStage(nn.Module):
    """Patches of a map with their positions, and the blocks over them.

    Args:
        config: the backbone's config.
        stage: the stage, counted from 0.
        side: side of the grid of patches that the positions are of.
        drop_paths: probability of dropping a branch, for each block.
    """

    def __init__(self, config: PVTConfig, stage: int, side: int, drop_paths: list[float]):
        super().__init__()
        width, patch = config.channels[stage], config.patch_sizes[stage]
        before = config.channels[stage - 1] if stage else config.num_channels
        self.reduction, self.side, self.is_first = config.reductions[stage], side, stage == 0
        # The last stage's begin with that of a classifier's token, which no patch has.
        self.has_token = stage == config.num_stages - 1
        self.patch_embedding = nn.Conv2d(before, width, patch, stride=patch)
        self.patch_norm = nn.LayerNorm(width, eps=config.patch_norm_eps)
        self.position_embedding = nn.Parameter(torch.zeros(1, side * side + self.has_token, width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList()
        for rate in drop_paths:
            attention = SpatialReductionAttention(
                config,
                width,
                config.num_heads[stage],
                reduction=self.reduction,
                norm_eps=config.patch_norm_eps,
                qkv_bias=config.qkv_bias,
                dropout=config.attention_dropout,
            )
            self.blocks.append(
                ViTBlock(
                    attention,
                    width,
                    int(width * config.mlp_ratios[stage]),
                    norm_eps=config.norm_eps,
                    dropout=config.dropout,
                    drop_path=rate,
                )
            )

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Those of a grid (height, width) of patches, (1, height * width, C).

        As in the original, a first grid with as many patches as the learned one takes them in their order, whatever
        its shape. Exported models resize them then.
        """
        positions = self.position_embedding[:, 1:] if self.has_token else self.position_embedding
        if not is_exporting() and self.is_first and grid[0] * grid[1] == self.side**2:
            return positions
        return to_tokens(resize(to_map(positions, (self.side, self.side)), grid))

    def forward(self, x: Tensor) -> Tensor:
        """A map (B, C, H, W) -> a map of the stage's width, at a resolution lower by the size of a patch."""
        x = self.patch_embedding(x)
        grid = (x.shape[2], x.shape[3])
        if not is_exporting() and min(grid) < self.reduction:
            raise SegZooError(
                f"PVT: the image is too small: a stage has a grid of {grid[0]}x{grid[1]} patches, and attends to one "
                f"{self.reduction} times as coarse; give larger images"
            )
        x = self.dropout(self.patch_norm(to_tokens(x)) + self.positions(grid))
        for block in self.blocks:
            x = block(x, grid)
        return to_map(x, grid)


class PVTBackbone(PatchPyramidBackbone):
    """Returns the maps of the stages that ``config.out_features`` names, from fine to coarse.

    ``pixel_values`` is (B, num_channels, H, W); the maps have strides 4, 8, 16 and 32. Pixels beyond the last whole
    patch are not seen.

    Raises:
        SegZooError: in ``forward``, an image whose coarser grid would have no patch: a side below 32 pixels, usually.
    """

    config: PVTConfig
    _no_split_modules = ["ViTBlock"]

    def __init__(self, config: PVTConfig):
        super().__init__(config)
        rates, self.stages = iter(drop_path_rates(config.drop_path_rate, sum(config.depths))), nn.ModuleList()
        side = config.image_size
        for stage, (depth, patch) in enumerate(zip(config.depths, config.patch_sizes, strict=True)):
            side //= patch
            self.stages.append(PVTStage(config, stage, side, [next(rates) for _ in range(depth)]))
        self.num_features = list(config.channels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PVTStage):
            init.trunc_normal_(module.position_embedding, std=0.02)


register_backbone(PVTConfig, PVTBackbone, variants=VARIANTS)
