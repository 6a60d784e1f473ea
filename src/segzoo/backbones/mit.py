"""MiT, SegFormer's backbone: overlapping patches in four stages, attention to a coarser grid, and no positions.

"SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers" (Xie et al., 2021),
https://arxiv.org/abs/2105.15203. The numbers are those of its authors' ``mit_b0`` to ``mit_b5``
(https://github.com/NVlabs/SegFormer) and of mmsegmentation's ``MixVisionTransformer``
(https://github.com/open-mmlab/mmsegmentation), which differ in the epsilon of some norms.
"""

from typing import Self

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from segzoo.auto import register_backbone
from segzoo.backbones.base import PatchPyramidBackbone, PatchPyramidConfig
from segzoo.base import Ints, strict
from segzoo.errors import SegZooError
from segzoo.layers import DropPath, PointwiseLinear, SpatialReductionAttention, to_map, to_tokens
from segzoo.layers.vit import drop_path_rates

_WIDE = {"channels": [64, 128, 320, 512], "drop_path_rate": 0.1}

# Keyword arguments of MiTConfig.
VARIANTS = {
    "mit_b0": {"drop_path_rate": 0.1},
    "mit_b1": _WIDE,
    "mit_b2": {**_WIDE, "depths": [3, 4, 6, 3]},
    "mit_b3": {**_WIDE, "depths": [3, 4, 18, 3]},
    "mit_b4": {**_WIDE, "depths": [3, 8, 27, 3]},
    "mit_b5": {**_WIDE, "depths": [3, 6, 40, 3]},
}


@strict
class MiTConfig(PatchPyramidConfig):
    """Options of ``MiTBackbone``; the defaults are MiT-B0's. Lists have an entry for each stage.

    Args:
        channels: widths of the stages.
        depths: numbers of blocks.
        num_heads: numbers of attention heads, divisors of the widths.
        patch_sizes: sides, in pixels of the stage's input, of the patches that become its tokens.
        strides: steps between these patches.
        reductions: how much coarser the grid is that patches attend to.
        pooled_grid: side of the grid of averages that patches attend to instead, with a ReLU in front of the depthwise
            convolutions; None for no such grid. It is 7 in the linear attention of PVT v2.
        mlp_ratios: hidden widths of the feed-forward parts, relative to ``channels``.
        qkv_bias: queries, keys and values have a bias.
        projection_bias: the projection after attention to the coarser grid has a bias; mmsegmentation's has one only with
            ``qkv_bias``.
        norm_eps: epsilon of the norms in front of the branches and after the stages.
        patch_norm_eps: epsilon of the norms of patches and of the coarser grids.
        dropout: probability of dropping a value after attention and in the feed-forward parts.
        attention_dropout: probability of dropping an attention weight.
        drop_path_rate: probability of dropping a residual branch in the last block; it grows linearly from 0 in the
            first.

    Raises:
        SegZooError: the lists differ in length, or a width does not divide into its heads.
    """

    model_type = "segzoo_mit"
    family = "MiT"
    per_stage = ("depths", "num_heads", "patch_sizes", "strides", "reductions", "mlp_ratios")

    channels: Ints = (32, 64, 160, 256)
    depths: Ints = (2, 2, 2, 2)
    num_heads: Ints = (1, 2, 5, 8)
    patch_sizes: Ints = (7, 3, 3, 3)
    strides: Ints = (4, 2, 2, 2)
    reductions: Ints = (8, 4, 2, 1)
    pooled_grid: int | None = None
    mlp_ratios: list[float | int] | tuple[float | int, ...] = (4, 4, 4, 4)
    qkv_bias: bool = True
    projection_bias: bool = True
    norm_eps: float = 1e-6
    patch_norm_eps: float = 1e-5
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path_rate: float = 0.0

    def check(self) -> None:
        """Every list has an entry for each stage, and widths are multiples of their heads."""
        super().check()
        self.check_heads(self.num_heads)

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            channels=[8, 8, 16, 16],
            depths=[1, 1, 2, 1],
            num_heads=[1, 1, 2, 2],
            mlp_ratios=[2, 2, 2, 2],
            drop_path_rate=0.1,
        )


class MixFeedForward(nn.Module):
    """Two linear layers over tokens, with a depthwise 3x3 convolution between them, from which positions are learned.

    Args:
        channels: width of the tokens.
        hidden: width between the layers.
        dropout: probability of dropping a value after the convolution and after the second layer, while training.
        relu_first: a ReLU in front of the convolution.
    """

    def __init__(self, channels: int, hidden: int, dropout: float, *, relu_first: bool = False):
        super().__init__()
        self.relu_first = relu_first
        self.fc1 = PointwiseLinear(channels, hidden)
        self.depthwise_conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.activation = nn.GELU()
        self.fc2 = PointwiseLinear(hidden, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, height * width, C) of a grid (height, width) -> tokens of the same shape."""
        x = self.fc1(x)
        x = to_tokens(self.depthwise_conv(to_map(x.relu() if self.relu_first else x, grid)))
        return self.dropout(self.fc2(self.dropout(self.activation(x))))


class MiTBlock(GradientCheckpointingLayer):
    """Attention and feed-forward, each after a norm and in a residual branch.

    Args:
        config: the backbone's config.
        stage: the stage, counted from 0.
        drop_path: probability of dropping a branch, while training.
    """

    def __init__(self, config: MiTConfig, stage: int, drop_path: float):
        super().__init__()
        channels = config.channels[stage]
        self.norm1 = nn.LayerNorm(channels, eps=config.norm_eps)
        self.attention = SpatialReductionAttention(
            config,
            channels,
            config.num_heads[stage],
            reduction=config.reductions[stage],
            norm_eps=config.patch_norm_eps,
            pooled=config.pooled_grid,
            qkv_bias=config.qkv_bias,
            projection_bias=config.projection_bias,
            dropout=config.attention_dropout,
        )
        self.norm2 = nn.LayerNorm(channels, eps=config.norm_eps)
        hidden = int(channels * config.mlp_ratios[stage])
        self.mlp = MixFeedForward(channels, hidden, config.dropout, relu_first=config.pooled_grid is not None)
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, height * width, C) of a grid (height, width) -> tokens of the same shape."""
        x = x + self.drop_path(self.dropout(self.attention(self.norm1(x), grid)))
        return x + self.drop_path(self.mlp(self.norm2(x), grid))


class MiTStage(nn.Module):
    """Overlapping patches of a map, and the blocks over them.

    Args:
        config: the backbone's config.
        stage: the stage, counted from 0.
        drop_paths: probability of dropping a branch, for each block.
    """

    def __init__(self, config: MiTConfig, stage: int, drop_paths: list[float]):
        super().__init__()
        channels, patch = config.channels[stage], config.patch_sizes[stage]
        self.reduction = 1 if config.pooled_grid else config.reductions[stage]
        self.patch_embedding = nn.Conv2d(
            config.channels[stage - 1] if stage else config.num_channels,
            channels,
            patch,
            stride=config.strides[stage],
            padding=patch // 2,
        )
        self.patch_norm = nn.LayerNorm(channels, eps=config.patch_norm_eps)
        self.blocks = nn.ModuleList(MiTBlock(config, stage, rate) for rate in drop_paths)
        self.norm = nn.LayerNorm(channels, eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """A map (B, C, H, W) -> a map of the stage's width, at a resolution lower by the stage's stride."""
        x = self.patch_embedding(x)
        grid = (x.shape[2], x.shape[3])
        if min(grid) < self.reduction:
            raise SegZooError(
                f"MiT: the image is too small: a stage has a grid of {grid[0]}x{grid[1]} patches, and attends to one "
                f"{self.reduction} times as coarse; give larger images"
            )
        x = self.patch_norm(to_tokens(x))
        for block in self.blocks:
            x = block(x, grid)
        return to_map(self.norm(x), grid)


class MiTBackbone(PatchPyramidBackbone):
    """Returns the maps of the stages that ``config.out_features`` names, from fine to coarse.

    ``pixel_values`` is (B, num_channels, H, W); the maps have strides 4, 8, 16 and 32. Unlike in Swin, the norm of a
    stage's map stands in the way to the next stage.

    Raises:
        SegZooError: in ``forward``, an image whose coarser grid would have no patch: a side below 32 pixels, usually.
    """

    config: MiTConfig
    _no_split_modules = ["MiTBlock"]

    def __init__(self, config: MiTConfig):
        super().__init__(config)
        rates, self.stages = iter(drop_path_rates(config.drop_path_rate, sum(config.depths))), nn.ModuleList()
        for stage, depth in enumerate(config.depths):
            self.stages.append(MiTStage(config, stage, [next(rates) for _ in range(depth)]))
        self.num_features = list(config.channels)
        self.post_init()


register_backbone(MiTConfig, MiTBackbone, variants=VARIANTS)
